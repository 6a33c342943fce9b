// value_cut.go owns the reading of rows that are too large to be held: their values are cut as they come in, to what documents
// keep of them, and a row that is too large even so has its longest values cut further.
// Invariant: what is kept of a row depends on the row and the rule alone, not on the pieces it came in; and the document of
// a row that was cut at level 0 is, byte for byte, the document of the whole row.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// cutClass is how the values of one column are cut.
type cutClass struct {
	kind      cutKind
	element   cutKind // of an array
	delimiter byte    // of an array
	key       bool    // of the scan key: never cut for the sake of the row's size
}

// cutClass returns how values of a type are cut: what its encoder does beyond its limit decides. inKey is as for that.
func (c *typeCatalog) cutClass(oid uint32, inKey bool) cutClass {
	oid, _ = c.base(oid, -1)
	t := c.types[oid]
	if t != nil && inKey && keyedAsText(t) {
		return cutClass{kind: cutText}
	}
	if t == nil || t.element == 0 {
		return cutClass{kind: cutOf(t)}
	}
	class := cutClass{kind: cutArray, delimiter: t.delimiter}
	elementOID, _ := c.base(t.element, -1)
	element := c.types[elementOID]
	if element == nil || element.element == 0 { // else lists in the texts of an array of a domain over arrays
		class.element = cutOf(element)
	}
	if e := c.types[t.element]; e != nil {
		class.delimiter = e.delimiter
	}
	if class.delimiter == 0 {
		class.delimiter = ','
	}
	return class
}

// cutRule is how large what is kept may be. At level 0 each value, and each element of an array, has value bytes and an
// array bound bytes; at a higher level, which only rows over bound have, an array has 8*value bytes halved once a level, and
// a value or element as much where that is less.
type cutRule struct {
	value int
	bound int
}

// smallestCut is a size that no value is cut below: a mark of JSON has less.
const smallestCut = 128

func (r cutRule) valueAt(level int) int {
	if level == 0 {
		return r.value
	}
	return min(r.value, r.arrayAt(level))
}

func (r cutRule) arrayAt(level int) int {
	if level == 0 {
		return r.bound
	}
	return max(smallestCut, 8*r.value>>level)
}

// levels is the highest level.
func (r cutRule) levels() int { return bits.Len(uint(8 * r.value / smallestCut)) }

// valueCut cuts one value as it comes in. Its methods append to the buffer that holds the row.
type valueCut struct {
	class cutClass
	value int  // bytes kept of a value or element
	array int  // bytes kept of an array
	size  int  // of the whole value
	grows bool // size is only of what has been written: known at the end
	start int  // of the value in the buffer
	over  bool

	// Where whole items of an array reach behind most in the buffer, write stops; 0 is nowhere.
	most int

	// Of an array: where its text stands.
	bounds  bool // in the [l:u]= in front
	begun   bool
	depth   int
	inside  bool // of an element
	quoted  bool
	escaped bool // behind a backslash
	count   int  // bytes of the element, without escapes
	element int  // where it starts in the buffer
	last    [utf8.UTFMax]int
	item    int // the end of the last item of the outermost list
	done    bool
}

func newValueCut(class cutClass, r cutRule, level, size, start int) valueCut {
	if class.key {
		level = 0
	}
	v := valueCut{class: class, value: r.valueAt(level), array: r.arrayAt(level), size: size, start: start, item: start}
	switch class.kind {
	case cutBytea:
		v.value = byteaText(v.value) + size&1
	case cutList:
		if level == 0 {
			v.value *= 2 // the encoder's texts are shorter, and end at its own limit
		}
	case cutArray:
		if class.element == cutBytea {
			v.value = byteaText(v.value)
		}
	}
	return v
}

// byteaText is the length of the text of n bytes.
func byteaText(n int) int { return 2 + 2*n }

// write appends what is kept of the next piece and returns how much of that it has used: all, but where it stops at most.
func (v *valueCut) write(dst, piece []byte) (kept []byte, used int) {
	if v.class.kind == cutArray {
		return v.writeArray(dst, piece)
	}
	return v.writeValue(dst, piece), len(piece)
}

// writeValue is write of what is no array.
func (v *valueCut) writeValue(dst, piece []byte) []byte {
	switch v.class.kind {
	case cutNever:
		return append(dst, piece...)
	case cutDrop:
		return dst
	case cutJSON:
		if v.grows {
			v.size += len(piece)
		}
		if v.size > v.value {
			return dst[:v.start]
		}
		return append(dst, piece...)
	}
	if v.over {
		return dst
	}
	room := v.value - (len(dst) - v.start)
	if len(piece) <= room {
		return append(dst, piece...)
	}
	v.over = true
	next := piece[room] // before it is overwritten: a piece may stand behind dst in the same buffer
	dst = append(dst, piece[:room]...)
	switch v.class.kind {
	case cutText:
		dst = cutCharacter(dst, v.start, next)
	case cutList:
		dst = dst[:v.start+max(0, bytes.LastIndexByte(dst[v.start:], ','))]
	}
	return dst
}

// cutCharacter takes the beginning of a character off dst[start:] that next would have gone on with, as truncate does.
func cutCharacter(dst []byte, start int, next byte) []byte {
	if utf8.RuneStart(next) {
		return dst
	}
	for back := 1; back < utf8.UTFMax && back < len(dst)-start; back++ {
		if utf8.RuneStart(dst[len(dst)-back]) {
			return dst[:len(dst)-back]
		}
	}
	return dst
}

// end appends what stands for the value if it was not kept.
func (v *valueCut) end(dst []byte) []byte {
	if v.class.kind == cutJSON && v.size > v.value {
		return appendJSONMark(dst, v.size)
	}
	return dst
}

// writeArray takes the text of an array apart as arrayEncoder does.
func (v *valueCut) writeArray(dst, piece []byte) (kept []byte, used int) {
	for i, c := range piece {
		if v.done {
			break
		}
		if v.most > 0 && v.item > v.most {
			return dst, i
		}
		switch {
		case !v.begun:
			v.begun, v.bounds = true, c == '['
			if v.bounds {
				dst = append(dst, c)
				continue
			}
		case v.bounds:
			v.bounds = c != '='
			dst = append(dst, c)
			continue
		}
		switch {
		case v.inside && v.escaped:
			v.escaped = false
			dst = v.appendElement(dst, c)
			continue
		case v.inside && v.quoted && c == '\\':
			v.escaped = true
			continue
		case v.inside && v.quoted && c == '"':
			dst = v.endElement(dst)
			continue
		case v.inside && !v.quoted && (c == v.class.delimiter || c == '}'):
			if dst = v.endElement(dst); v.done {
				continue
			}
		case v.inside:
			dst = v.appendElement(dst, c)
			continue
		}
		switch c { // between elements
		case '{':
			v.depth++
			dst = append(dst, c)
			if v.depth == 1 {
				v.item = len(dst)
			}
		case '}':
			v.depth--
			dst = append(dst, c)
			if v.depth == 1 {
				dst = v.endItem(dst)
			}
		case v.class.delimiter:
			dst = append(dst, c)
		default:
			v.inside, v.quoted, v.over, v.count, v.element = true, c == '"', false, 0, len(dst)
			if v.quoted {
				dst = append(dst, c)
			} else {
				dst = v.appendElement(dst, c)
			}
		}
	}
	if !v.done && v.inside && (v.class.element == cutNever || v.class.element == cutList) {
		dst = v.endItem(dst) // it may be long, and is not cut
	}
	return dst, len(piece)
}

// appendElement appends one byte of an element, with its escape where one is due.
func (v *valueCut) appendElement(dst []byte, c byte) []byte {
	v.count++
	if v.over {
		return dst
	}
	if v.class.element != cutNever && v.class.element != cutList && v.count > v.value {
		v.over = true
		if v.class.element == cutText && !utf8.RuneStart(c) {
			for back := 1; back < utf8.UTFMax && back < v.value; back++ {
				at := v.last[(v.value-back)%utf8.UTFMax]
				if utf8.RuneStart(dst[at]) { // or the backslash in front of one
					return dst[:at]
				}
			}
		}
		return dst
	}
	v.last[(v.count-1)%utf8.UTFMax] = len(dst)
	if v.quoted && (c == '"' || c == '\\') {
		dst = append(dst, '\\')
	}
	return append(dst, c)
}

// endElement ends an element.
func (v *valueCut) endElement(dst []byte) []byte {
	v.inside = false
	switch {
	case v.over && v.class.element == cutJSON:
		var mark [smallestCut]byte
		dst = append(dst[:v.element], '"')
		for _, c := range appendJSONMark(mark[:0], v.count) {
			if c == '"' {
				dst = append(dst, '\\')
			}
			dst = append(dst, c)
		}
		dst = append(dst, '"')
	case v.quoted:
		dst = append(dst, '"')
	}
	return v.endItem(dst)
}

// endItem notes the end of an item of the outermost list, or of a part of one, and ends the array if that does not fit it.
func (v *valueCut) endItem(dst []byte) []byte {
	switch {
	case len(dst)+1-v.start > v.array:
		v.done = true
		return append(dst[:v.item], '}')
	case v.depth == 1 && !v.inside:
		v.item = len(dst)
	}
	return dst
}

// appendJSONMark appends what a document has instead of a JSON value that is too long, the incumbent's form.
func appendJSONMark(dst []byte, size int) []byte {
	dst = append(dst, `{"flow_truncated":true,"original_size":`...)
	dst = strconv.AppendInt(dst, int64(size), 10)
	return append(dst, '}')
}

// cutTuple cuts a tuple's values as a row of that level has them cut. The values are new ones.
func cutTuple(t tuple, classes []cutClass, r cutRule, level int) {
	for i := range t {
		if t[i].kind == valueText {
			v := newValueCut(classes[i], r, level, len(t[i].data), 0)
			kept, _ := v.write(nil, t[i].data)
			t[i].data = v.end(kept)
		}
	}
}

// pieces reads the bytes of one message, and none behind it, in pieces of any size.
type pieces struct {
	in   io.Reader
	have []byte // read and not yet taken
	left int    // bytes of the message not yet read
	room []byte // what is read into
}

// take returns the next n bytes, a few, valid until the next call.
func (p *pieces) take(n int) ([]byte, error) {
	if len(p.have)+p.left < n {
		return nil, fmt.Errorf("want %d more bytes of the message, have %d", n, len(p.have)+p.left)
	}
	for len(p.have) < n {
		kept := copy(p.room, p.have)
		k, err := p.in.Read(p.room[kept:min(len(p.room), kept+p.left)])
		p.left -= k
		p.have = p.room[:kept+k]
		if err != nil && k == 0 {
			return nil, err
		}
	}
	head := p.have[:n]
	p.have = p.have[n:]
	return head, nil
}

// next returns one to most of the next bytes. REQUIRES: the message has more, and most is not 0.
func (p *pieces) next(most int) ([]byte, error) {
	for len(p.have) == 0 {
		k, err := p.in.Read(p.room[:min(len(p.room), p.left)])
		p.left -= k
		p.have = p.room[:k]
		if err != nil && k == 0 {
			return nil, err
		}
	}
	piece := p.have[:min(most, len(p.have))]
	p.have = p.have[len(piece):]
	return piece, nil
}

// rowCut reads rows in pieces and keeps them, cut, in dst.
type rowCut struct {
	pieces
	rule    cutRule
	charset *charset // of the texts; nil where they are kept as they are
	kinds   bool     // each value has a kind in front, as in TupleData; else a length of -1 is NULL, as in DataRow
	dst     []byte

	classes []cutClass
	start   int // of the row in dst
	level   int // of the row
	columns int // of the row, complete
	inside  bool
	value   valueCut // the one being read
	text    []byte   // with a charset: the piece being read, converted
}

// row reads one row. Its level says how often its values were cut for its own sake. Columns without a class are not cut.
func (r *rowCut) row(classes []cutClass) (level int, err error) {
	r.classes, r.start, r.level, r.columns = classes, len(r.dst), 0, 0
	head, err := r.take(2)
	if err != nil {
		return 0, err
	}
	count := int(int16(binary.BigEndian.Uint16(head)))
	r.dst = append(r.dst, head...)
	for range max(count, 0) {
		if err := r.column(); err != nil {
			return 0, err
		}
	}
	return r.level, nil
}

// classOf is the class of a column.
func (r *rowCut) classOf(i int) cutClass {
	if i < len(r.classes) {
		return r.classes[i]
	}
	return cutClass{}
}

// column reads one value.
func (r *rowCut) column() error {
	class := r.classOf(r.columns)
	if r.kinds {
		kind, err := r.take(1)
		if err != nil {
			return err
		}
		switch valueKind(kind[0]) {
		case valueText, valueBinary:
		default: // NULL, unchanged; what is none of these is found when the row is decoded
			r.dst = append(r.dst, kind[0])
			r.columns++
			return nil
		}
		if class.kind == cutDrop {
			r.dst = append(r.dst, byte(valueNull))
		} else {
			r.dst = append(r.dst, kind[0])
		}
	}
	length, err := r.take(4)
	if err != nil {
		return err
	}
	size := int(int32(binary.BigEndian.Uint32(length)))
	if size < 0 || size > len(r.have)+r.left {
		if size == -1 && !r.kinds {
			r.dst = append(r.dst, length...)
			r.columns++
			return nil
		}
		return fmt.Errorf("column %d of %d bytes, of which the message has %d", r.columns+1, size, len(r.have)+r.left)
	}
	if class.kind != cutDrop {
		r.dst = append(r.dst, length...)
	}
	r.value = newValueCut(class, r.rule, r.level, size, len(r.dst))
	if r.charset != nil && class.kind == cutJSON {
		r.value.size, r.value.grows = 0, true
	}
	r.inside = true
	for size > 0 {
		piece, err := r.next(size)
		if err != nil {
			return err
		}
		size -= len(piece)
		if r.charset != nil && class.kind != cutDrop {
			r.text = r.charset.decode(r.text[:0], piece)
			piece = r.text
		}
		for len(piece) > 0 {
			var used int
			r.value.most = 0
			if r.level < r.rule.levels() {
				r.value.most = r.start + r.rule.bound
			}
			if r.dst, used = r.value.write(r.dst, piece); used < len(piece) {
				r.raise()
			}
			piece = piece[used:]
		}
	}
	r.inside = false
	r.dst = r.value.end(r.dst)
	r.close(r.value.start)
	r.columns++
	for over := r.value.done; (over && r.level == 0 || len(r.dst)-r.start > r.rule.bound) && r.level < r.rule.levels(); {
		r.raise()
	}
	return nil
}

// close writes the length of the value that starts there.
func (r *rowCut) close(start int) {
	if r.value.class.kind != cutDrop {
		binary.BigEndian.PutUint32(r.dst[start-4:], uint32(len(r.dst)-start))
	}
}

// raise cuts what is kept of the row one level further. No value becomes longer, so each is moved down in place.
func (r *rowCut) raise() {
	r.level++
	kept, at := r.dst, r.start+2
	r.dst = kept[:at]
	for i := range r.columns {
		if r.kinds {
			kind := valueKind(kept[at])
			r.dst = append(r.dst, kept[at])
			at++
			if kind != valueText && kind != valueBinary {
				continue
			}
		}
		size := int(int32(binary.BigEndian.Uint32(kept[at:])))
		r.dst = append(r.dst, kept[at:at+4]...)
		at += 4
		if size < 0 {
			continue
		}
		start := len(r.dst)
		v := newValueCut(r.classOf(i), r.rule, r.level, size, start)
		text, _ := v.write(r.dst, kept[at:at+size])
		r.dst = v.end(text)
		binary.BigEndian.PutUint32(r.dst[start-4:], uint32(len(r.dst)-start))
		at += size
	}
	if r.inside {
		r.dst = append(r.dst, kept[at:r.value.start]...)
		v := newValueCut(r.value.class, r.rule, r.level, r.value.size, len(r.dst))
		r.dst, _ = v.write(r.dst, kept[r.value.start:])
		v.grows = r.value.grows
		v.done = v.done || r.value.done
		r.value = v // it goes on where the other stopped, behind an item
	}
}

// cutChange reads the insert, update or delete whose first five bytes, kind and relation, stand at the end of r.dst.
func (r *rowCut) cutChange(classes []cutClass) (oldCut, newCut bool, err error) {
	for len(r.have)+r.left > 0 {
		head, err := r.take(1)
		if err != nil {
			return false, false, err
		}
		mark := head[0] // before row reads over it
		r.dst = append(r.dst, mark)
		if !slices.Contains([]byte("KON"), mark) {
			return false, false, fmt.Errorf("want tuple mark 'K', 'O' or 'N', have %q", mark)
		}
		level, err := r.row(classes)
		if err != nil {
			return false, false, err
		}
		if mark == 'N' {
			newCut = level > 0
		} else {
			oldCut = level > 0
		}
	}
	return oldCut, newCut, nil
}

// cutRule is how rows are cut that are read in pieces.
func (b *memoryBudget) cutRule() cutRule { return cutRule{value: truncateAt, bound: b.row} }
