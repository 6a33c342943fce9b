// value_document.go owns the way from a tuple and its relation to a JSON document, by a plan made once per relation. The plan
// holds, in output order, each field's quoted name, encoder and place in the tuple; appending a document is one pass
// over the tuple into the output buffer, with no allocation and no decision that the plan could have made.
// Invariant: a chunk's row and a streamed change of one shape go through the same plan.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
)

// provenance is what _meta.source says of one document.
type provenance struct {
	snapshot bool // a backfill row: no commit time, no transaction
	tsMillis int64
	loc      [3]int64
	xid      uint32
}

// document is a row and what happened to it, as one document is made of them. Its tuples have the columns of one plan and alias
// what they were read from.
type document struct {
	op  byte    // 'c', 'u' or 'd'
	key []value // of the row; nil where documents have no key of the table's
	row tuple
	// fill is where unchanged TOAST values of row may be taken from while it is judged; nil for none.
	fill tuple
	// before is the row that stood there, _meta.before; nil for none. Whole, it has row's unchanged TOAST values too.
	before tuple
	// keysOnly and beforeKeysOnly are set of a key tuple: its NULL fields carry no information and are left out.
	keysOnly, beforeKeysOnly bool
}

// planField is one field of the document.
type planField struct {
	name   []byte // `"name":`
	index  int    // in the tuple
	column string
	encode valueEncoder
}

// plan is how one shape of one binding's table becomes documents.
type plan struct {
	columns []relationColumn
	sent    []uint32    // type OID of each column in a query's result, where a domain shows as its base type
	fields  []planField // byte order of their names
	metaAt  int         // fields before this index come ahead of _meta
	source  []byte      // `"schema":"s",` constant part of _meta.source before snapshot
	table   []byte      // `"table":"t","loc":[`
	tag     []byte      // `,"tag":"t"` or nothing
	txid    bool        // the collection has a place for txid
	key     []int       // tuple index of each key column, in key order; nil when one is missing from the shape
	missing string      // the key column missing from the shape, when key is nil and there is a key
	options planOptions // what it was made from
	end     int         // how long the buffer may become with the document being made
}

// planOptions are what a plan depends on beside the shape.
type planOptions struct {
	schema, table string // the names documents carry
	keyColumns    []string
	collectionKey []string // columns whose floats are written as strings
	types         *typeCatalog
	settings      *settings
	txid          bool
	limit         int // bytes of a value beyond which it is cut; 0 is the usual limit

	// standIn is told of each date or timestamp that is written as another; may be nil.
	standIn func(column, kind, standIn string)
}

// metaColumn is the name our own field has in every document.
const metaColumn = "_meta"

func newPlan(columns []relationColumn, o planOptions) *plan {
	p := &plan{columns: columns, txid: o.txid, options: o}
	for i, c := range columns {
		sent, _ := o.types.base(c.typeOID, c.typmod)
		p.sent = append(p.sent, sent)
		if !namesProperty(c.name) {
			continue
		}
		opts := o.settings.encodeOptions()
		opts.limit, opts.end = o.limit, &p.end
		opts.inKey = slices.Contains(o.collectionKey, c.name)
		if o.standIn != nil {
			opts.note = func(kind, standIn string) { o.standIn(c.name, kind, standIn) }
		}
		p.fields = append(p.fields, planField{
			name:   append(appendJSONString(nil, []byte(c.name)), ':'),
			index:  i,
			column: c.name,
			encode: o.types.encoder(c.typeOID, c.typmod, opts),
		})
	}
	slices.SortFunc(p.fields, func(a, b planField) int { return strings.Compare(a.column, b.column) })
	p.metaAt, _ = slices.BinarySearchFunc(p.fields, metaColumn, func(f planField, name string) int {
		return strings.Compare(f.column, name)
	})
	p.source = append(appendJSONString([]byte(`"schema":`), []byte(o.schema)), ',')
	p.table = append(appendJSONString([]byte(`"table":`), []byte(o.table)), `,"loc":[`...)
	if o.settings.sourceTag != "" {
		p.tag = appendJSONString([]byte(`,"tag":`), []byte(o.settings.sourceTag))
	}
	for _, name := range o.keyColumns {
		i := slices.IndexFunc(columns, func(c relationColumn) bool { return c.name == name })
		if i < 0 {
			p.key, p.missing = nil, name
			break
		}
		p.key = append(p.key, i)
	}
	return p
}

// cutTo returns the plan with another limit of a value's size.
func (p *plan) cutTo(limit int) *plan {
	o := p.options
	o.limit = limit
	return newPlan(p.columns, o)
}

// sameShape reports whether tuples of the columns can be read by this plan, and its schema describes them: a longer varchar
// is another shape.
func (p *plan) sameShape(columns []relationColumn) bool {
	return slices.EqualFunc(p.columns, columns, func(a, b relationColumn) bool {
		return a.name == b.name && a.typeOID == b.typeOID && a.typmod == b.typmod
	})
}

// sameKeyTypes reports whether the key columns have the types they have in o.
func (p *plan) sameKeyTypes(o *plan) bool {
	return slices.EqualFunc(p.key, o.key, func(i, j int) bool { return p.columns[i].typeOID == o.columns[j].typeOID })
}

// appendDocument appends one document: the fields of its row and _meta.
// A document of more than budget.document bytes is given up: errDocumentSize, with what has been made of it.
// An unchanged TOAST value of the row is taken from before where that is a whole row, and left out otherwise.
func (p *plan) appendDocument(dst []byte, from *provenance, d *document) ([]byte, error) {
	p.end = len(dst) + budget.document
	fallback := d.before
	if d.beforeKeysOnly {
		fallback = nil
	}
	dst = append(dst, '{')
	dst, err := p.appendFields(dst, p.fields[:p.metaAt], d.row, d.keysOnly, fallback)
	if err != nil {
		return dst, err
	}
	dst, err = p.appendMeta(dst, from, d)
	if err != nil {
		return dst, err
	}
	dst, err = p.appendFields(dst, p.fields[p.metaAt:], d.row, d.keysOnly, fallback)
	if err != nil {
		return dst, err
	}
	dst[len(dst)-1] = '}' // over the last comma: there is always one, behind _meta if nothing else
	if len(dst) > p.end {
		return dst, errDocumentSize
	}
	return dst, nil
}

// errDocumentSize says that a document is larger than it may be.
var errDocumentSize = errors.New("the document is too large")

// appendFitting appends one document, cut as far as it takes.
func (p *plan) appendFitting(dst []byte, from *provenance, d *document) ([]byte, error) {
	at := len(dst)
	dst, err := p.appendDocument(dst, from, d)
	if errors.Is(err, errDocumentSize) {
		dst, err = p.appendCut(dst[:at], from, d)
	}
	return dst, err
}

// appendCut appends a document that is too large with its longest values cut further, until it fits.
func (p *plan) appendCut(dst []byte, from *provenance, d *document) ([]byte, error) {
	for limit := truncateAt / 2; limit > 0; limit /= 2 {
		cut, err := p.cutTo(limit).appendDocument(dst, from, d)
		if errors.Is(err, errDocumentSize) {
			dst = cut[:len(dst)] // the buffer may have grown
			continue
		}
		if err == nil {
			table := tableName{p.options.schema, p.options.table}
			logrus.WithFields(logrus.Fields{"table": table.String(), "key": p.describeKeyOf(d.row), "limit": limit}).
				Warnf("a document over %d MiB had its longest values cut", budget.document>>20)
		}
		return cut, err
	}
	return nil, fmt.Errorf("the document of key %s has more than %d MiB, its values cut as far as they can be", p.describeKeyOf(d.row),
		budget.document>>20)
}

// appendFields appends fields, each followed by a comma.
func (p *plan) appendFields(dst []byte, fields []planField, t tuple, keysOnly bool, fallback tuple) ([]byte, error) {
	var err error
	for i := range fields {
		f := &fields[i]
		v := t.from(fallback, f.index)
		if v.kind == valueUnchanged {
			continue
		}
		if v.kind == valueNull {
			if keysOnly {
				continue
			}
			dst = append(dst, f.name...)
			dst = append(dst, "null,"...)
			continue
		}
		dst = append(dst, f.name...)
		if len(v.data) >= wideText {
			dst = slices.Grow(dst, min(len(v.data), max(0, p.end-len(dst))))
		}
		if dst, err = f.encode(dst, v.data); err != nil {
			return dst, fmt.Errorf("column %q: %w", f.column, err)
		}
		dst = append(dst, ',')
		if len(dst) > p.end {
			return dst, errDocumentSize
		}
	}
	return dst, nil
}

func (p *plan) appendMeta(dst []byte, from *provenance, d *document) ([]byte, error) {
	dst = append(dst, `"_meta":{"op":"`...)
	dst = append(dst, d.op, '"')
	dst = append(dst, `,"source":{`...)
	if !from.snapshot {
		dst = append(dst, `"ts_ms":`...)
		dst = strconv.AppendInt(dst, from.tsMillis, 10)
		dst = append(dst, ',')
	}
	dst = append(dst, p.source...)
	if from.snapshot {
		dst = append(dst, `"snapshot":true,`...)
	}
	dst = append(dst, p.table...)
	dst = strconv.AppendInt(dst, from.loc[0], 10)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, from.loc[1], 10)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, from.loc[2], 10)
	dst = append(dst, ']')
	if p.txid && !from.snapshot {
		dst = append(dst, `,"txid":`...)
		dst = strconv.AppendUint(dst, uint64(from.xid), 10)
	}
	dst = append(dst, p.tag...)
	dst = append(dst, '}')
	if d.before != nil {
		dst = append(dst, `,"before":{`...)
		at := len(dst)
		var err error
		if dst, err = p.appendFields(dst, p.fields, d.before, d.beforeKeysOnly, nil); err != nil {
			return dst, err
		}
		if len(dst) > at {
			dst = dst[:len(dst)-1]
		}
		dst = append(dst, '}')
	}
	return append(dst, "},"...), nil
}

// keyValues appends the key columns of t to dst[:0]; fill stands in for values t does not carry (unchanged TOAST), and
// may be nil. REQUIRES: p.key is not nil.
func (p *plan) keyValues(dst []value, t, fill tuple) []value {
	dst = dst[:0]
	for _, i := range p.key {
		dst = append(dst, *t.from(fill, i))
	}
	return dst
}

// describeKeyOf is a row's key for people.
func (p *plan) describeKeyOf(t tuple) string { return describeKey(p.keyValues(nil, t, nil)) }

// appendIdentity appends bytes that are equal for two keys of one plan exactly if their text is: the identity of a
// document in its collection.
func appendIdentity(dst []byte, key []value) []byte {
	for _, v := range key {
		dst = append(dst, byte(v.kind))
		n := len(v.data)
		dst = append(dst, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
		dst = append(dst, v.data...)
	}
	return dst
}

// sameKey reports whether two keys are the same document.
func sameKey(a, b []value) bool {
	for i := range a {
		if a[i].kind != b[i].kind || !bytes.Equal(a[i].data, b[i].data) {
			return false
		}
	}
	return true
}

// describeKey is a key for people, in logs and errors.
func describeKey(key []value) string {
	var s strings.Builder
	s.WriteByte('[')
	for i, v := range key {
		if i > 0 {
			s.WriteString(", ")
		}
		switch {
		case v.kind == valueNull:
			s.WriteString("null")
		case len(v.data) > 64:
			fmt.Fprintf(&s, "%.64s…", v.data)
		default:
			s.Write(v.data)
		}
	}
	s.WriteByte(']')
	return s.String()
}

// cutClasses is how the values of a shape's columns are cut.
func (p *plan) cutClasses() []cutClass {
	classes := make([]cutClass, len(p.columns))
	for i, c := range p.columns {
		classes[i] = p.options.types.cutClass(c.typeOID, slices.Contains(p.options.collectionKey, c.name))
	}
	for _, i := range p.key {
		classes[i].key = true
	}
	return classes
}

// fitTuple cuts the values of a row that was put together from parts as the whole row would have been, and reports whether
// that was for its own sake.
func fitTuple(t tuple, p *plan, r cutRule) bool {
	size := func() int {
		n := 2
		for i := range t {
			n += 4 + len(t[i].data)
		}
		return n
	}
	if size() <= r.bound {
		return false
	}
	classes := p.cutClasses()
	for level := 1; size() > r.bound && level <= r.levels(); level++ {
		cutTuple(t, classes, r, level)
	}
	return true
}

// namesProperty reports whether documents can have a property of a column's name. That of _meta is taken, and of names that
// are no text in the database's encoding two could give one property.
func namesProperty(column string) bool { return column != metaColumn && utf8.ValidString(column) }

// encodeOptions returns the options that shape values. inKey is the column's matter and left false.
func (s *settings) encodeOptions() encodeOptions {
	return encodeOptions{
		dateAsDate:       s.flags.dateAsDate,
		timeAsTime:       s.flags.timeAsTime,
		flattenArrays:    s.flags.flattenArrays,
		multidimensional: s.flags.multidimensionalArrays,
	}
}
