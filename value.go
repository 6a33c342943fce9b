package main

// value.go owns what is known of a PostgreSQL type, a row of one table each: which JSON schema a column of it has, which
// encoder writes its values, how their texts are cut, how they sort in a key. The table is read when a plan is made, never for a
// value. Invariant: what encoder(t) writes is valid under schema(t), for every type, known or not.
//
// The encoders are in value_scalars.go (numbers, times, networks), value_nested.go (ranges, arrays) and
// value_text.go (strings, bytea, json), the built-in types in value_builtin.go. spec/incumbent.md §5 is the contract,
// spec/decisions.md #10 to #16 its changes.

import (
	"slices"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"
)

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

// cutKind is how the text of a type may be cut.
type cutKind byte

const (
	cutNever cutKind = iota // numbers, times: a part of one is another value; all of them are short
	cutText                 // on a character boundary
	cutBytea                // after a pair of hex digits
	cutJSON                 // becomes a mark with its size
	cutList                 // geometry and ranges of times: behind a part
	cutArray                // each element by its own kind; behind an element of the outermost list
	cutDrop                 // the value is not wanted: NULL
)

// typeFacts is what is known of a type: one row of typeTable. Without a schema a value may be anything, without an encoder it is
// written as its text, and without an order only the server knows that.
type typeFacts struct {
	oid  uint32
	name string // of a type of an extension, which has no OID of its own

	schema    func(use *typeUse) map[string]any
	encode    func(o *encodeOptions) valueEncoder
	keyAsText bool // in a collection key, which is to be a boolean, an integer or a string, it is the string of its text

	cut cutKind

	order    keyKind // of a key; where text has it, only under a collation that sorts as bytes do
	collated bool    // the incumbent leaves the order of its keys to the server (scanKey.predictable)
}

// typeUse is what a column makes of its type, as far as the schema depends on it.
type typeUse struct {
	*encodeOptions
	length   int    // n of varchar(n) or char(n); 0 without one
	encoding string // the server's
}

// typeTable has the types of which something is known. To add a type is to add a row, with its values in the tests' tables.
var typeTable = [...]typeFacts{
	{oid: pgtype.BoolOID, schema: typed("boolean"), encode: always(encodeBool), cut: cutNever, order: keyBool},

	{oid: pgtype.Int2OID, schema: typed("integer"), encode: always(encodeInteger), cut: cutNever, order: keySigned},
	{oid: pgtype.Int4OID, schema: typed("integer"), encode: always(encodeInteger), cut: cutNever, order: keySigned},
	{oid: pgtype.Int8OID, schema: typed("integer"), encode: always(encodeInteger), cut: cutNever, order: keySigned},
	{oid: pgtype.OIDOID, schema: typed("integer"), encode: always(encodeInteger), cut: cutNever, order: keyUnsigned},
	{oid: pgtype.XIDOID, encode: always(encodeInteger), cut: cutNever},
	{oid: xid8OID, keyAsText: true, cut: cutText, order: keyUnsigned},
	{oid: pgLSNOID, keyAsText: true, cut: cutText, order: keyLSN},
	{oid: pgtype.TIDOID, encode: always(encodeTID), keyAsText: true, cut: cutNever},
	{oid: pgtype.Float4OID, schema: floatSchema, encode: inKeyOr(encodeFloat4Key, encodeFloat4), cut: cutNever, order: keyFloat4},
	{oid: pgtype.Float8OID, schema: floatSchema, encode: inKeyOr(encodeFloat8Key, encodeFloat8), cut: cutNever, order: keyFloat8},
	{oid: pgtype.NumericOID, schema: stringWith("format", "number"), encode: always(encodeNumeric), cut: cutNever, order: keyNumeric},

	{oid: pgtype.TextOID, schema: typed("string"), encode: asText, cut: cutText, order: keyBytes, collated: true},
	{oid: pgtype.VarcharOID, schema: varcharSchema, encode: asText, cut: cutText, order: keyBytes, collated: true},
	{oid: pgtype.BPCharOID, schema: bpcharSchema, encode: asText, cut: cutText, order: keyPadded, collated: true},
	{name: "citext", schema: typed("string"), encode: asText, cut: cutText, collated: true},
	{oid: pgtype.NameOID, keyAsText: true, cut: cutText, order: keyBytes},
	{oid: pgtype.QCharOID, encode: always(encodeByte), cut: cutNever, order: keyChar},
	{oid: pgtype.BitOID, schema: typed("string"), encode: asText, cut: cutText, order: keyBits},
	{oid: pgtype.VarbitOID, schema: typed("string"), encode: asText, cut: cutText, order: keyBits},
	{oid: pgtype.XMLOID, schema: typed("string"), encode: asText, cut: cutText},
	{oid: pgtype.JSONPathOID, schema: typed("string"), encode: asText, cut: cutText},
	{oid: moneyOID, schema: typed("string"), encode: asText, cut: cutText}, // its text follows the locale
	{oid: tsvectorOID, schema: typed("string"), encode: asText, cut: cutText},
	{oid: tsqueryOID, schema: typed("string"), encode: asText, cut: cutText},
	{oid: pgtype.ByteaOID, schema: stringWith("contentEncoding", "base64"), encode: asBytea, cut: cutBytea, order: keyBytea},
	{oid: pgtype.UUIDOID, schema: stringWith("format", "uuid"), encode: asText, cut: cutNever, order: keyUUID},
	{oid: pgtype.JSONOID, schema: media("application/json"), encode: asJSON, keyAsText: true, cut: cutJSON},
	{oid: pgtype.JSONBOID, schema: media("application/vnd.estuary.postgresql.jsonb+json"), encode: asJSON, keyAsText: true, cut: cutJSON},

	{oid: pgtype.DateOID, schema: dateSchema, encode: dateEncoder, cut: cutNever, order: keyDate},
	{oid: pgtype.TimestampOID, schema: stringWith("format", "date-time"), encode: timestampEncoder, cut: cutNever, order: keyTimestamp},
	{oid: pgtype.TimestamptzOID, schema: stringWith("format", "date-time"), encode: timestamptzEncoder, cut: cutNever, order: keyTimestampTZ},
	{oid: pgtype.TimeOID, schema: timeSchema, encode: timeEncoder, cut: cutNever, order: keyTime},
	{oid: pgtype.TimetzOID, schema: stringWith("format", "time"), encode: always(quoted(appendTimetz)), cut: cutNever, order: keyTimeTZ},
	{oid: pgtype.IntervalOID, schema: typed("string"), encode: always(quoted(appendInterval)), cut: cutNever, order: keyInterval},

	{oid: pgtype.InetOID, schema: typed("string"), encode: always(quoted(appendInet)), cut: cutNever, order: keyAddress},
	{oid: pgtype.CIDROID, schema: typed("string"), encode: always(quoted(appendInet)), cut: cutNever, order: keyAddress},
	{oid: pgtype.MacaddrOID, schema: typed("string"), encode: asText, cut: cutText, order: keyMAC},
	{oid: pgtype.Macaddr8OID, schema: typed("string"), encode: asText, cut: cutText, order: keyMAC8},

	{oid: pgtype.PointOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.LineOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.LsegOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.BoxOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.PathOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.PolygonOID, schema: typed("string"), encode: asGeometry, cut: cutList},
	{oid: pgtype.CircleOID, schema: typed("string"), encode: asGeometry, cut: cutList},

	// Ranges have a string's schema, like enums, and multiranges are written as their ranges are.
	{oid: pgtype.TsrangeOID, encode: tsrangeEncoder, cut: cutList},
	{oid: pgtype.TstzrangeOID, encode: tstzrangeEncoder, cut: cutList},
	{oid: pgtype.DaterangeOID, encode: daterangeEncoder, cut: cutList},
}

// unlisted are the facts of a type that has no row.
var unlisted = typeFacts{keyAsText: true, cut: cutText}

// rowsByOID and rowsByName are the rows of typeTable: of built-in types, and of those of extensions.
var rowsByOID, rowsByName = func() (map[uint32]*typeFacts, map[string]*typeFacts) {
	byOID, byName := make(map[uint32]*typeFacts), make(map[string]*typeFacts)
	for i := range typeTable {
		row := &typeTable[i]
		if row.name != "" {
			byName[row.name] = row
		} else {
			byOID[row.oid] = row
		}
	}
	return byOID, byName
}()

// factsOf returns the row of a type that is neither domain nor array, by its OID or, where that is of an extension, its name.
func factsOf(oid uint32, name string) *typeFacts {
	if row := rowsByOID[oid]; row != nil {
		return row
	}
	if row := rowsByName[name]; row != nil && !builtin(oid) {
		return row
	}
	return &unlisted
}

// OIDs of pg_type.dat that pgx has no name for.
const (
	moneyOID    = 790
	pgLSNOID    = 3220
	tsvectorOID = 3614
	tsqueryOID  = 3615
	xid8OID     = 5069
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

// kindOf returns how values of a type compare. byteOrder is set where its collation sorts as bytes do.
func kindOf(typeOID uint32, byteOrder bool) keyKind {
	order := factsOf(typeOID, "").order
	if (order == keyBytes || order == keyPadded) && !byteOrder {
		return keyOpaque
	}
	return order
}

// keyedAsText reports whether a type's values, which elsewhere are lists, objects or of any type, are strings of their text
// in a collection key: the runtime has no other keys than booleans, integers and strings.
func keyedAsText(t *dataType) bool {
	return t.element != 0 || t.kind == 'c' || t.kind == 'b' && factsOf(t.oid, t.name).keyAsText
}

// cutOf is how the texts of a type that is no array are cut.
func cutOf(t *dataType) cutKind {
	switch {
	case t == nil:
		return unlisted.cut
	case t.kind == 'm':
		return factsOf(t.subtype, "").cut
	}
	return factsOf(t.oid, t.name).cut
}

// encoder returns the encoder of a type; of an unknown one, that of its text form as a JSON string.
func (c *typeCatalog) encoder(oid uint32, typmod int32, opts encodeOptions) valueEncoder {
	oid, _ = c.base(oid, typmod)
	t := c.types[oid]
	if t != nil && t.element != 0 && !(opts.inKey && keyedAsText(t)) {
		return c.arrayEncoder(t, opts)
	}
	if opts.limit <= 0 {
		opts.limit = truncateAt
	}
	facts := &unlisted
	switch {
	case t == nil || opts.inKey && keyedAsText(t):
	case t.kind == 'm':
		facts = factsOf(t.subtype, "")
	default:
		facts = factsOf(t.oid, t.name)
	}
	if facts.encode == nil {
		return asText(&opts)
	}
	return facts.encode(&opts)
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
	facts := factsOf(baseOID, t.name)
	if facts.schema == nil {
		if opts.inKey {
			return map[string]any{"type": []string{"integer"}}, false
		}
		return map[string]any{}, true
	}
	// The modifier of varchar(n) and char(n) is n plus VARHDRSZ, which is 4: anychar_typmodin, varchar.c.
	return facts.schema(&typeUse{encodeOptions: &opts, length: max(0, int(typmod)-4), encoding: c.encoding}), false
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

// --- schemas of the table; each call makes a new one

func typed(name string) func(*typeUse) map[string]any {
	return func(*typeUse) map[string]any { return map[string]any{"type": []string{name}} }
}

func stringWith(keyword, value string) func(*typeUse) map[string]any {
	return func(*typeUse) map[string]any { return stringSchema(keyword, value) }
}

func stringSchema(keyword, value string) map[string]any {
	return map[string]any{"type": []string{"string"}, keyword: value}
}

func media(name string) func(*typeUse) map[string]any {
	return func(*typeUse) map[string]any { return map[string]any{"contentMediaType": name} }
}

func floatSchema(use *typeUse) map[string]any {
	if use.inKey {
		return stringSchema("format", "number")
	}
	return map[string]any{"type": []string{"number", "string"}, "format": "number"}
}

func varcharSchema(use *typeUse) map[string]any {
	keywords := map[string]any{"type": []string{"string"}}
	if use.length > 0 && use.encoding != "EUC_JIS_2004" {
		keywords["maxLength"] = use.length
	}
	return keywords
}

func bpcharSchema(use *typeUse) map[string]any {
	keywords := varcharSchema(use)
	// Of a longer one truncation could leave fewer characters.
	if n := use.length; n > 0 && n <= truncateAt/utf8.UTFMax && use.encoding != "SQL_ASCII" {
		keywords["minLength"] = n
	}
	return keywords
}

func dateSchema(use *typeUse) map[string]any {
	if use.dateAsDate {
		return stringSchema("format", "date")
	}
	return stringSchema("format", "date-time")
}

func timeSchema(use *typeUse) map[string]any {
	if use.timeAsTime {
		return stringSchema("format", "time")
	}
	return map[string]any{"type": []string{"integer"}}
}

// --- encoders of the table, made when a plan is made

func always(encode valueEncoder) func(*encodeOptions) valueEncoder {
	return func(*encodeOptions) valueEncoder { return encode }
}

func inKeyOr(inKey, elsewhere valueEncoder) func(*encodeOptions) valueEncoder {
	return func(o *encodeOptions) valueEncoder {
		if o.inKey {
			return inKey
		}
		return elsewhere
	}
}

func asText(o *encodeOptions) valueEncoder  { return textEncoder(o.limit, o.end) }
func asBytea(o *encodeOptions) valueEncoder { return byteaEncoder(o.limit, o.end) }
func asJSON(o *encodeOptions) valueEncoder  { return jsonEncoder(o.limit) }
func asGeometry(o *encodeOptions) valueEncoder {
	return quotedUpTo(o.limit, geometryUpTo(o.limit, o.end))
}

// moments writes dates and timestamps, and tells of those that are written as another.
func (o *encodeOptions) moments() *momentWriter { return &momentWriter{note: o.note} }

func dateEncoder(o *encodeOptions) valueEncoder {
	if o.dateAsDate {
		return quoted(o.moments().appendDate)
	}
	return quoted(o.moments().appendDateAsTimestamp)
}

func timestampEncoder(o *encodeOptions) valueEncoder { return quoted(o.moments().appendTimestamp) }

func timestamptzEncoder(o *encodeOptions) valueEncoder { return quoted(o.moments().appendTimestamptz) }

func timeEncoder(o *encodeOptions) valueEncoder {
	if o.timeAsTime {
		return quoted(appendTime)
	}
	return encodeTimeAsInteger
}

func tsrangeEncoder(o *encodeOptions) valueEncoder {
	return quotedUpTo(o.limit, rangeWriter(o.moments().appendTimestamp))
}

func tstzrangeEncoder(o *encodeOptions) valueEncoder {
	return quotedUpTo(o.limit, rangeWriter(o.moments().appendTimestamptz))
}

func daterangeEncoder(o *encodeOptions) valueEncoder {
	return quotedUpTo(o.limit, rangeWriter(o.moments().appendDateAsTimestamp))
}
