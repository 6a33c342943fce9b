package main

// datatypes.go owns what a PostgreSQL type means in JSON: which schema a column of it has and which encoder writes its
// values. Invariant: what encoder(t) writes is valid under schema(t), for every type, known or not.
//
// The encoders are in datatypes_values.go (numbers, times, networks, ranges, arrays) and datatypes_text.go (strings,
// bytea, json), the built-in types in datatypes_builtin.go. spec/incumbent.md §5 is the contract, spec/decisions.md
// #10 to #16 its changes.

import (
	"slices"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"
)

// valueEncoder appends the JSON of one non-NULL value, given in PostgreSQL's text format, to dst. It keeps nothing of
// text and allocates nothing in steady state. An error names what is wrong with the text, not the column; the returned
// slice is then dst with a part of the value behind it, to be cut off by the caller.
//
// The text is that of a session with DateStyle ISO, IntervalStyle postgres, bytea_output hex, extra_float_digits 1 and
// client_encoding UTF8.
type valueEncoder func(dst, text []byte) ([]byte, error)

// dataType is one row of pg_type, as far as values and schemas depend on it.
type dataType struct {
	oid       uint32
	schema    string
	name      string // typname
	kind      byte   // typtype: b base, c composite, d domain, e enum, r range, m multirange, p pseudo
	delimiter byte   // typdelim
	element   uint32 // element type of a true array (typoutput is array_out), else 0
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
	multidimensional bool // wins over flattenArrays
	inKey            bool // the column is part of the collection key: booleans, integers and strings only
	limit            int  // bytes of a value beyond which it is truncated; 0 is truncateAt, and for whole arrays budget.document
	end              *int // the length of the buffer beyond which a value may be left unfinished: its document is too large

	note func(kind, standIn string) // told of each date or timestamp that is written as another; may be nil
}

// form is what a base type is in JSON: its schema and its encoder.
type form byte

const (
	formOpaque form = iota // catch-all, written as the text form
	formBool
	formInteger
	formFloat4
	formFloat8
	formNumeric
	formText
	formVarchar
	formBpchar
	formByte // "char": catch-all, the number of its byte
	formBytea
	formJSON
	formJSONB
	formUUID
	formDate
	formTimestamp
	formTimestamptz
	formTime
	formTimetz
	formInterval
	formGeometry
	formInet
	formXID // catch-all, a number
	formTID // catch-all, an object
)

// builtinForms has the forms of the built-in base types that are not opaque.
var builtinForms = map[uint32]form{
	pgtype.BoolOID:        formBool,
	pgtype.Int2OID:        formInteger,
	pgtype.Int4OID:        formInteger,
	pgtype.Int8OID:        formInteger,
	pgtype.OIDOID:         formInteger,
	pgtype.Float4OID:      formFloat4,
	pgtype.Float8OID:      formFloat8,
	pgtype.NumericOID:     formNumeric,
	pgtype.TextOID:        formText,
	pgtype.VarcharOID:     formVarchar,
	pgtype.BPCharOID:      formBpchar,
	pgtype.QCharOID:       formByte,
	pgtype.ByteaOID:       formBytea,
	pgtype.JSONOID:        formJSON,
	pgtype.JSONBOID:       formJSONB,
	pgtype.UUIDOID:        formUUID,
	pgtype.DateOID:        formDate,
	pgtype.TimestampOID:   formTimestamp,
	pgtype.TimestamptzOID: formTimestamptz,
	pgtype.TimeOID:        formTime,
	pgtype.TimetzOID:      formTimetz,
	pgtype.IntervalOID:    formInterval,
	pgtype.PointOID:       formGeometry,
	pgtype.LineOID:        formGeometry,
	pgtype.LsegOID:        formGeometry,
	pgtype.BoxOID:         formGeometry,
	pgtype.PathOID:        formGeometry,
	pgtype.PolygonOID:     formGeometry,
	pgtype.CircleOID:      formGeometry,
	pgtype.InetOID:        formInet,
	pgtype.CIDROID:        formInet,
	pgtype.XIDOID:         formXID,
	pgtype.TIDOID:         formTID,
	pgtype.BitOID:         formText,
	pgtype.VarbitOID:      formText,
	pgtype.XMLOID:         formText,
	pgtype.JSONPathOID:    formText,
	pgtype.MacaddrOID:     formText,
	macaddr8OID:           formText,
	moneyOID:              formText,
	tsvectorOID:           formText,
	tsqueryOID:            formText,
}

// OIDs of pg_type.dat that pgx has no name for.
const (
	macaddr8OID = 774
	moneyOID    = 790
	tsvectorOID = 3614
	tsqueryOID  = 3615
)

// typeCatalog knows types by OID: the built-in ones from the start, others as they are added. It is not safe for
// concurrent use while types are added.
type typeCatalog struct {
	types map[uint32]*dataType
	// encoding is the server's. To SQL_ASCII each byte is a character, so that char(n) may have fewer than n for others; some
	// single ones of EUC_JIS_2004 are two in Unicode (a kana and its mark), so that varchar(n) may have more.
	encoding string
}

func newTypeCatalog() *typeCatalog {
	types := make([]dataType, len(builtinTypes))
	c := &typeCatalog{types: make(map[uint32]*dataType, len(types)), encoding: "UTF8"}
	for i, t := range builtinTypes {
		types[i] = dataType{
			oid: t.oid, schema: "pg_catalog", name: t.name, kind: t.kind,
			delimiter: t.delimiter, element: t.element, baseMod: -1, subtype: t.subtype,
		}
		c.types[t.oid] = &types[i]
	}
	return c
}

// builtin reports whether an OID is one of those fixed in PostgreSQL's source (FirstGenbkiObjectId, access/transam.h).
func builtin(oid uint32) bool { return oid < 10000 }

// add makes a type known, or replaces what was known of it. Built-in types stay as they are.
func (c *typeCatalog) add(t dataType) {
	if builtin(t.oid) && c.types[t.oid] != nil {
		return
	}
	c.types[t.oid] = &t
}

// lookup returns a type, or nil when it is unknown.
func (c *typeCatalog) lookup(oid uint32) *dataType { return c.types[oid] }

// unknown appends to dst the OIDs that encoder(oid) would need and that the catalog does not know, each once. Adding
// those can show others: the caller repeats until nothing is appended.
func (c *typeCatalog) unknown(dst []uint32, oid uint32) []uint32 {
	for oid != 0 {
		t := c.types[oid]
		if t == nil {
			if !slices.Contains(dst, oid) {
				dst = append(dst, oid)
			}
			return dst
		}
		switch {
		case t.kind == 'd':
			oid = t.base
		case t.kind == 'r' || t.kind == 'm':
			oid = t.subtype
		default:
			oid = t.element
		}
	}
	return dst
}

// base resolves domains to the innermost type and the type modifier in force.
func (c *typeCatalog) base(oid uint32, typmod int32) (uint32, int32) {
	for {
		t := c.types[oid]
		if t == nil || t.kind != 'd' {
			return oid, typmod
		}
		oid, typmod = t.base, t.baseMod
	}
}

// formOf returns the form of a type that is neither domain nor array, enum, range or multirange.
func formOf(t *dataType) form {
	switch {
	case t == nil:
		return formOpaque
	case builtin(t.oid):
		return builtinForms[t.oid]
	case t.kind == 'b' && t.name == "citext":
		return formText
	}
	return formOpaque
}

// keyedAsText reports whether a type's values, which elsewhere are lists, objects or of any type, are strings of their text
// in a collection key: the runtime has no other keys than booleans, integers and strings.
func keyedAsText(t *dataType) bool {
	if t.element != 0 || t.kind == 'c' {
		return true
	}
	switch formOf(t) {
	case formOpaque:
		return t.kind == 'b'
	case formJSON, formJSONB, formTID:
		return true
	}
	return false
}

// encoder returns the encoder of a type; of an unknown one, that of its text form as a JSON string.
func (c *typeCatalog) encoder(oid uint32, typmod int32, opts encodeOptions) valueEncoder {
	oid, _ = c.base(oid, typmod)
	t := c.types[oid]
	limit := opts.limit
	if limit <= 0 {
		limit = truncateAt
	}
	moments := &momentWriter{note: opts.note}
	switch {
	case t == nil || opts.inKey && keyedAsText(t):
		return textEncoder(limit, opts.end)
	case t.element != 0:
		return c.arrayEncoder(t, opts)
	case t.kind == 'r':
		return rangeEncoder(oid, limit, opts.end, moments)
	case t.kind == 'm':
		return rangeEncoder(t.subtype, limit, opts.end, moments)
	}
	switch formOf(t) {
	case formBool:
		return encodeBool
	case formInteger, formXID:
		return encodeInteger
	case formFloat4:
		if opts.inKey {
			return encodeFloat4Key
		}
		return encodeFloat4
	case formFloat8:
		if opts.inKey {
			return encodeFloat8Key
		}
		return encodeFloat8
	case formNumeric:
		return encodeNumeric
	case formByte:
		return encodeByte
	case formBytea:
		return byteaEncoder(limit, opts.end)
	case formJSON, formJSONB:
		return jsonEncoder(limit)
	case formDate:
		if opts.dateAsDate {
			return quoted(moments.appendDate)
		}
		return quoted(moments.appendDateAsTimestamp)
	case formTimestamp:
		return quoted(moments.appendTimestamp)
	case formTimestamptz:
		return quoted(moments.appendTimestamptz)
	case formTime:
		if opts.timeAsTime {
			return quoted(appendTime)
		}
		return encodeTimeAsInteger
	case formTimetz:
		return quoted(appendTimetz)
	case formInterval:
		return quoted(appendInterval)
	case formGeometry:
		return quotedUpTo(limit, geometryUpTo(limit, opts.end))
	case formInet:
		return quoted(appendInet)
	case formTID:
		return encodeTID
	}
	return textEncoder(limit, opts.end)
}

func (c *typeCatalog) arrayEncoder(t *dataType, opts encodeOptions) valueEncoder {
	shape := arrayLegacy
	switch {
	case opts.multidimensional:
		shape = arrayNested
	case opts.flattenArrays:
		shape = arrayFlat
	}
	a := &arrayEncoder{delimiter: t.delimiter, shape: shape, limit: opts.limit, end: opts.end}
	if a.limit <= 0 {
		a.limit = budget.document
	}
	if opts.end != nil {
		a.reach = new(int)
		opts.end = a.reach
	}
	a.element = c.encoder(t.element, -1, opts)
	// The delimiter between elements is that of the element type: array_out, arrayfuncs.c.
	if e := c.types[t.element]; e != nil {
		a.delimiter = e.delimiter
	}
	if a.delimiter == 0 {
		a.delimiter = ','
	}
	return a.encode
}

// schema returns the JSON schema keywords of a type without description and without "null": "type" is a []string,
// absent for catch-all. catchAll is set when the type is not translatable (spec/incumbent.md §5.2). The map is the
// caller's own.
//
// Length limits are those of the column's own type modifier: domains and array elements have none, as in the incumbent.
func (c *typeCatalog) schema(oid uint32, typmod int32, opts encodeOptions) (keywords map[string]any, catchAll bool) {
	baseOID, _ := c.base(oid, typmod)
	if baseOID != oid {
		typmod = -1
	}
	t := c.types[baseOID]
	switch {
	case opts.inKey && (t == nil || keyedAsText(t)):
		return map[string]any{"type": []string{"string"}}, false
	case t == nil:
		return map[string]any{}, true
	case t.element != 0:
		return c.arraySchema(t, opts)
	case t.kind == 'c':
		return map[string]any{}, false
	case t.kind == 'e' || t.kind == 'r' || t.kind == 'm':
		return map[string]any{"type": []string{"string"}}, false
	}
	switch formOf(t) {
	case formOpaque, formByte, formXID, formTID:
		if opts.inKey {
			return map[string]any{"type": []string{"integer"}}, false
		}
		return map[string]any{}, true
	case formBool:
		return map[string]any{"type": []string{"boolean"}}, false
	case formInteger:
		return map[string]any{"type": []string{"integer"}}, false
	case formFloat4, formFloat8:
		if opts.inKey {
			return stringSchema("format", "number"), false
		}
		return map[string]any{"type": []string{"number", "string"}, "format": "number"}, false
	case formNumeric:
		return stringSchema("format", "number"), false
	case formBytea:
		return stringSchema("contentEncoding", "base64"), false
	case formJSON:
		return map[string]any{"contentMediaType": "application/json"}, false
	case formJSONB:
		return map[string]any{"contentMediaType": "application/vnd.estuary.postgresql.jsonb+json"}, false
	case formUUID:
		return stringSchema("format", "uuid"), false
	case formDate:
		if opts.dateAsDate {
			return stringSchema("format", "date"), false
		}
		return stringSchema("format", "date-time"), false
	case formTimestamp, formTimestamptz:
		return stringSchema("format", "date-time"), false
	case formTime:
		if opts.timeAsTime {
			return stringSchema("format", "time"), false
		}
		return map[string]any{"type": []string{"integer"}}, false
	case formTimetz:
		return stringSchema("format", "time"), false
	}
	keywords = map[string]any{"type": []string{"string"}}
	// The modifier of varchar(n) and char(n) is n plus VARHDRSZ, which is 4: anychar_typmodin, varchar.c.
	if n := int(typmod) - 4; n > 0 {
		f := formOf(t)
		if (f == formVarchar || f == formBpchar) && c.encoding != "EUC_JIS_2004" {
			keywords["maxLength"] = n
		}
		// Of a longer one truncation could leave fewer characters.
		if f == formBpchar && n <= truncateAt/utf8.UTFMax && c.encoding != "SQL_ASCII" {
			keywords["minLength"] = n
		}
	}
	return keywords, false
}

func stringSchema(keyword, value string) map[string]any {
	return map[string]any{"type": []string{"string"}, keyword: value}
}

// arraySchema returns the schema of an array. Built-in arrays of built-in ranges and of catch-all types keep the
// incumbent's catch-all schema; what the incumbent wrote as one string has an array's (spec/decisions.md #10, #11).
func (c *typeCatalog) arraySchema(t *dataType, opts encodeOptions) (keywords map[string]any, catchAll bool) {
	items, opaque := c.schema(t.element, -1, opts)
	element := c.types[t.element]
	if builtin(t.oid) && (opaque || element.kind == 'r') {
		return map[string]any{}, true
	}
	if types, ok := items["type"].([]string); ok {
		items["type"] = append(types, "null")
	}
	switch {
	case opts.multidimensional:
		return map[string]any{"type": []string{"array"}}, false
	case opts.flattenArrays:
		return map[string]any{"type": []string{"array"}, "items": items}, false
	}
	return map[string]any{
		"type": []string{"object"},
		"properties": map[string]any{
			"dimensions": map[string]any{"type": "array", "items": map[string]any{"type": "integer"}},
			"elements":   map[string]any{"type": "array", "items": items},
		},
		"required":             []string{"dimensions", "elements"},
		"additionalProperties": false,
	}, false
}

// sourceName is the type's name in a column's description: udt_name, or enum, range, multirange, composite. A domain
// has the name of its innermost type.
func (c *typeCatalog) sourceName(oid uint32) string {
	oid, _ = c.base(oid, -1)
	t := c.types[oid]
	if t == nil {
		return "unknown"
	}
	switch t.kind {
	case 'e':
		return "enum"
	case 'r':
		return "range"
	case 'm':
		return "multirange"
	case 'c':
		return "composite"
	}
	return t.name
}
