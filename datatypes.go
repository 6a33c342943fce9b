package main

// valueEncoder appends the JSON of one non-NULL value, given in PostgreSQL's text format, to dst. It keeps nothing of
// text and allocates nothing in steady state. An error names what is wrong with the text, not the column.
type valueEncoder func(dst, text []byte) ([]byte, error)

// dataType is one row of pg_type, as far as values and schemas depend on it.
type dataType struct {
	oid       uint32
	schema    string
	name      string // typname
	kind      byte   // typtype: b base, c composite, d domain, e enum, r range, m multirange, p pseudo
	delimiter byte   // typdelim
	element   uint32 // element type of a true array (typcategory A, typelem), else 0
	base      uint32 // domain: its base type, which may be a domain
	baseMod   int32  // domain: typtypmod
	subtype   uint32 // range: rngsubtype; multirange: its range type
	notNull   bool   // domain NOT NULL
}

// encodeOptions are the feature flags that shape values (spec/incumbent.md §2.1).
type encodeOptions struct {
	dateAsDate       bool
	timeAsTime       bool
	flattenArrays    bool
	multidimensional bool
	floatAsString    bool // the column is part of the collection key
}

// typeCatalog knows types by OID: the built-in ones from the start, others as they are added.
type typeCatalog struct {
	types map[uint32]*dataType
}

func newTypeCatalog() *typeCatalog { panic("stub") }

func (c *typeCatalog) add(t dataType) { panic("stub") }

func (c *typeCatalog) lookup(oid uint32) *dataType { panic("stub") } // nil when unknown

// unknown appends to dst the OIDs that encoder(oid) would need and that the catalog does not know.
func (c *typeCatalog) unknown(dst []uint32, oid uint32) []uint32 { panic("stub") }

// base resolves domains to the innermost type and the type modifier in force.
func (c *typeCatalog) base(oid uint32, typmod int32) (uint32, int32) { panic("stub") }

// encoder returns the encoder of a type; of an unknown one, that of its text form as a JSON string.
func (c *typeCatalog) encoder(oid uint32, typmod int32, opts encodeOptions) valueEncoder {
	panic("stub")
}

// schema returns the JSON schema keywords of a type without description and without "null": "type" is a []string,
// absent for catch-all. catchAll is set when the type is not translatable (spec/incumbent.md §5.2).
func (c *typeCatalog) schema(oid uint32, typmod int32, opts encodeOptions) (keywords map[string]any, catchAll bool) {
	panic("stub")
}

// sourceName is the type's name in a column's description: udt_name, or enum, range, multirange, composite.
func (c *typeCatalog) sourceName(oid uint32) string { panic("stub") }

// appendJSONString appends s as a JSON string: valid UTF-8 as is, invalid bytes as U+FFFD, no HTML escaping.
func appendJSONString(dst, s []byte) []byte { panic("stub") }
