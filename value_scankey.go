// value_scankey.go owns the key a table is scanned by: its form for comparing, which value_order.go makes of each value, and its
// form for keeping, which is the incumbent's, so that either image resumes the other's scan.
//
// Invariant: what appendPacked writes, unpack reads back as values that the server takes for the same key; what unpack
// accepts has a comparison form.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// keyColumn is one column of a scan key.
type keyColumn struct {
	name      string
	typeOID   uint32 // domains resolved to their base
	typeKind  byte   // pg_type.typtype of typeOID: b, e, c, r, m
	typeName  string // of typeOID, as in pg_type.typname: citext is recognised by it
	byteOrder bool   // its collation sorts as bytes do (C, POSIX, pg_c_utf8), or it has none
	nullable  bool
}

// scanKey is the key a table is scanned by: how its keys compare and how they persist.
type scanKey struct {
	columns []keyColumn
	kinds   []keyKind // of columns
	charset *charset  // of the bytes that the server compares; nil where they are those of the text
}

// newScanKey makes the key of columns of a database with that encoding. Where we do not know the bytes of its texts, only the
// server knows their order.
func newScanKey(columns []keyColumn, encoding string) *scanKey {
	k := &scanKey{columns: columns, kinds: make([]keyKind, len(columns)), charset: charsetOf(encoding)}
	known := k.charset != nil || encoding == "UTF8" || encoding == "SQL_ASCII"
	for i := range columns {
		k.kinds[i] = kindOf(columns[i].typeOID, columns[i].byteOrder && known)
	}
	return k
}

// ordered reports whether bytes.Compare of appendOrder's results is the server's ORDER BY (ascending, NULLS LAST)
// with equality included, for every column.
func (k *scanKey) ordered() bool { return !slices.Contains(k.kinds, keyOpaque) }

// predictable reports whether the incumbent would scan this key precisely (spec/incumbent.md §3.1), which decides the
// mode word stored in the checkpoint.
func (k *scanKey) predictable() bool {
	return !slices.ContainsFunc(k.columns, func(c keyColumn) bool {
		return c.typeKind == 'e' || factsOf(c.typeOID, c.typeName).collated
	})
}

// What a column's comparison form starts with: NULLS LAST.
const (
	orderValue = 1 + iota
	orderNull
)

// appendOrder appends the comparison form of a key. values are the key columns' in key order, text format. A column
// whose order only the server knows contributes its exact text, so the form of an unordered key tells keys apart.
func (k *scanKey) appendOrder(dst []byte, values []value) ([]byte, error) {
	if err := k.checkValues(values); err != nil {
		return dst, err
	}
	start := len(dst)
	for i := range values {
		v := &values[i]
		if v.kind == valueNull {
			dst = append(dst, orderNull)
			continue
		}
		text := v.data
		switch k.kinds[i] {
		case keyBytes, keyPadded, keyChar:
			text = k.charset.order(text)
		}
		form, ok := k.kinds[i].appendOrder(append(dst, orderValue), text)
		if !ok {
			return form[:start], k.notA(i, v.data)
		}
		dst = form
	}
	return dst, nil
}

// checkValues refuses what is no key. The replication stream can lack the value of a column (unchanged TOAST).
func (k *scanKey) checkValues(values []value) error {
	if len(values) != len(k.columns) {
		return fmt.Errorf("scan key of %d columns: have %d values", len(k.columns), len(values))
	}
	for i := range values {
		switch values[i].kind {
		case valueText, valueNull:
		case valueUnchanged:
			return fmt.Errorf("scan key column %q: the row does not carry its value (unchanged TOAST)", k.columns[i].name)
		default:
			return fmt.Errorf("scan key column %q: value kind %q, want text", k.columns[i].name, byte(values[i].kind))
		}
	}
	return nil
}

func (k *scanKey) notA(i int, text []byte) error {
	return fmt.Errorf("scan key column %q: %.60q is no %s", k.columns[i].name, text, keyNouns[k.kinds[i]])
}

// Type codes of the FoundationDB tuple layer. An integer's code is tupleZero plus or minus its length in bytes.
const (
	tupleNull   = 0x00
	tupleBytes  = 0x01
	tupleText   = 0x02
	tupleNested = 0x05
	tupleZero   = 0x14
	tupleFloat4 = 0x20
	tupleFloat8 = 0x21
	tupleFalse  = 0x26
	tupleTrue   = 0x27
)

// appendPacked appends the persisted form: the incumbent's tuple encoding (spec/incumbent.md §7.4). Values that it has
// no encoding for are kept as PostgreSQL's text.
func (k *scanKey) appendPacked(dst []byte, values []value) ([]byte, error) {
	if err := k.checkValues(values); err != nil {
		return dst, err
	}
	start := len(dst)
	for i := range values {
		if values[i].kind == valueNull {
			dst = append(dst, tupleNull)
			continue
		}
		packed, ok := k.appendPackedValue(dst, i, values[i].data)
		if !ok {
			return packed[:start], k.notA(i, values[i].data)
		}
		dst = packed
	}
	return dst, nil
}

func (k *scanKey) appendPackedValue(dst []byte, i int, text []byte) ([]byte, bool) {
	switch k.kinds[i] {
	case keyBool:
		if string(text) == "t" {
			return append(dst, tupleTrue), true
		}
		return append(dst, tupleFalse), string(text) == "f"
	case keySigned:
		n, ok := parseSigned(text)
		return appendTupleInt(dst, n), ok
	case keyUnsigned:
		if k.columns[i].typeOID == pgtype.OIDOID {
			n, ok := parseUnsigned(text)
			return appendTupleInt(dst, int64(n)), ok && n <= math.MaxUint32
		}
	case keyFloat4:
		f, err := strconv.ParseFloat(string(text), 32)
		bits := math.Float32bits(float32(f))
		return binary.BigEndian.AppendUint32(append(dst, tupleFloat4), uint32(sortableFloat(uint64(bits), 1<<31))), err == nil
	case keyFloat8:
		f, err := strconv.ParseFloat(string(text), 64)
		bits := math.Float64bits(f)
		if math.IsNaN(f) {
			bits = 0x7FF8_0000_0000_0000 // as the server sends it; ParseFloat's is another NaN
		}
		return binary.BigEndian.AppendUint64(append(dst, tupleFloat8), sortableFloat(bits, 1<<63)), err == nil
	case keyNumeric:
		if d, ok := parseDecimal(text); ok {
			return appendTupleNumeric(dst, d), true
		}
	case keyBytea:
		return appendByteaTerminated(append(dst, tupleBytes), text)
	case keyDate, keyTimestamp, keyTimestampTZ:
		if rfc := tupleMoment(k.kinds[i], text); rfc != nil {
			return appendTerminated(append(dst, tupleText), rfc), true
		}
	}
	_, ok := k.kinds[i].appendOrder(nil, text) // so that unpack accepts it
	return appendTerminated(append(dst, tupleText), text), ok
}

func appendTupleInt(dst []byte, n int64) []byte {
	magnitude := uint64(n)
	if n < 0 {
		magnitude = -magnitude
	}
	size := 0
	for size < 8 && magnitude>>(8*size) != 0 {
		size++
	}
	code, low := tupleZero+size, magnitude
	if n < 0 {
		code, low = tupleZero-size, ^magnitude // 256^size - 1 - magnitude, in the low bytes
	}
	dst = append(dst, byte(code))
	for size--; size >= 0; size-- {
		dst = append(dst, byte(low>>(8*size)))
	}
	return dst
}

// The nested tuple of a numeric: a name, a pair that sorts as numbers do, the number itself.
const (
	tupleNumericName = "N"
	exponentBias     = 20000 // beyond numeric's 16383 fraction digits, so the sign of the sum is the number's
	negativeEnd      = ':'   // after '9', so that -1.2 follows -1.23
)

func appendTupleNumeric(dst []byte, d keyDecimal) []byte {
	dst = append(dst, tupleNested)
	dst = appendTerminated(append(dst, tupleText), []byte(tupleNumericName))

	dst = append(dst, tupleNested)
	exponent, digits := d.normal()
	if len(digits[0])+len(digits[1]) == 0 {
		dst = append(appendTupleInt(dst, 0), tupleNull, 0xff)
	} else {
		biased := int64(exponent + exponentBias)
		if d.negative {
			biased = -biased
		}
		dst = append(appendTupleInt(dst, biased), tupleBytes)
		start := len(dst)
		dst = append(append(dst, digits[0]...), digits[1]...)
		if d.negative {
			for i := start; i < len(dst); i++ {
				dst[i] = '0' + '9' - dst[i]
			}
			dst = append(dst, negativeEnd)
		}
		dst = append(dst, 0)
	}
	dst = append(dst, tupleNull) // end of the pair

	dst = appendTerminated(append(dst, tupleBytes), binaryNumeric(d))
	return append(dst, tupleNull)
}

// PostgreSQL's binary numeric (numeric_send): count of base 10000 digits, weight of the first, sign, scale; then the
// digits.
const (
	numericHeader     = 8
	numericSignMinus  = 0x4000
	numericGroup      = 4
	numericGroupLimit = 10000
)

// binaryNumeric writes d as pgx does from a pgtype.Numeric, since the incumbent compares these bytes: with a fraction,
// all of its digits down to the scale are there, zeros too; without one, trailing zeros are left out; zero has no
// digits, weight -1 and no scale.
func binaryNumeric(d keyDecimal) []byte {
	whole, fraction, negative := d.whole, d.fraction, d.negative
	if len(bytes.Trim(fraction, "0")) == 0 && len(whole) == 0 {
		fraction, negative = nil, false
	}
	wholeGroups := (len(whole) + numericGroup - 1) / numericGroup
	if len(fraction) == 0 {
		significant := bytes.TrimRight(whole, "0")
		whole = whole[:len(whole)-(len(whole)-len(significant))/numericGroup*numericGroup]
	}

	b := make([]byte, numericHeader, numericHeader+(len(whole)+len(fraction))/2+4)
	for rest := whole; len(rest) > 0; {
		n := (len(rest)-1)%numericGroup + 1
		b = appendGroup(b, rest[:n], n)
		rest = rest[n:]
	}
	for rest := fraction; len(rest) > 0; {
		n := min(numericGroup, len(rest))
		b = appendGroup(b, rest[:n], numericGroup)
		rest = rest[n:]
	}
	binary.BigEndian.PutUint16(b, uint16((len(b)-numericHeader)/2))
	binary.BigEndian.PutUint16(b[2:], uint16(wholeGroups-1))
	if negative {
		binary.BigEndian.PutUint16(b[4:], numericSignMinus)
	}
	binary.BigEndian.PutUint16(b[6:], uint16(len(fraction)))
	return b
}

// appendGroup appends a base 10000 digit: the decimal digits, followed by zeros up to width.
func appendGroup(dst, digits []byte, width int) []byte {
	n := uint16(0)
	for i := range width {
		n *= 10
		if i < len(digits) {
			n += uint16(digits[i] - '0')
		}
	}
	return binary.BigEndian.AppendUint16(dst, n)
}

// numericText is the text of a binary numeric.
func numericText(b []byte) ([]byte, error) {
	if len(b) < numericHeader {
		return nil, errors.New("numeric without a header")
	}
	groups := b[numericHeader:]
	weight := int(int16(binary.BigEndian.Uint16(b[2:])))
	sign := binary.BigEndian.Uint16(b[4:])
	scale := int(binary.BigEndian.Uint16(b[6:]))
	if len(groups) != 2*int(binary.BigEndian.Uint16(b)) {
		return nil, fmt.Errorf("numeric of %d digits in %d bytes", binary.BigEndian.Uint16(b), len(groups))
	}
	if sign != 0 && sign != numericSignMinus {
		return nil, fmt.Errorf("numeric with sign %#04x", sign)
	}
	group := func(power int) uint16 {
		if i := weight - power; i >= 0 && 2*i < len(groups) {
			return binary.BigEndian.Uint16(groups[2*i:])
		}
		return 0
	}

	var text []byte
	if sign == numericSignMinus {
		text = append(text, '-')
	}
	whole := len(text)
	for power := weight; power >= 0; power-- {
		text = appendPaddedGroup(text, group(power))
	}
	digits := bytes.TrimLeft(text[whole:], "0")
	if text = append(text[:whole], digits...); len(digits) == 0 {
		text = append(text, '0')
	}
	if scale > 0 {
		text = append(text, '.')
		end := len(text) + scale
		for power := -1; len(text) < end; power-- {
			text = appendPaddedGroup(text, group(power))
		}
		text = text[:end]
	}
	for ; len(groups) > 0; groups = groups[2:] {
		if digit := binary.BigEndian.Uint16(groups); digit >= numericGroupLimit {
			return nil, fmt.Errorf("numeric with a digit of %d", digit)
		}
	}
	return text, nil
}

func appendPaddedGroup(dst []byte, n uint16) []byte {
	return append(dst, '0'+byte(n/1000), '0'+byte(n/100%10), '0'+byte(n/10%10), '0'+byte(n%10))
}

// rfc3339Nine is the form of dates and timestamps in a tuple: always nine digits, as their order is that of bytes.
const rfc3339Nine = "2006-01-02T15:04:05.000000000Z07:00"

// tupleMoment is that form of text, or nil where there is none: infinity, BC, years of five digits. An offset with
// seconds, which the form cannot express, gives way to UTC.
func tupleMoment(kind keyKind, text []byte) []byte {
	parts := momentDate
	if kind != keyDate {
		parts |= momentClock
	}
	if kind == keyTimestampTZ {
		parts |= momentZone
	}
	m, ok := parseMoment(text, parts)
	if !ok || m.year < 1 || m.year > 9999 {
		return nil
	}
	micros := m.clock - m.east*second
	t := time.Date(2000, 1, 1+int(m.day), 0, 0, 0, 0, time.UTC).Add(time.Duration(micros) * time.Microsecond)
	if m.east%60 == 0 {
		t = t.In(time.FixedZone("", int(m.east)))
	}
	if t.Year() < 1 || t.Year() > 9999 {
		return nil
	}
	return t.AppendFormat(nil, rfc3339Nine)
}

// momentText undoes tupleMoment; text of any other form or kind is returned as it is.
func momentText(kind keyKind, text []byte) []byte {
	const dateEnd, clockEnd, fractionEnd = len("2006-01-02"), len("2006-01-02T15:04:05"), len("2006-01-02T15:04:05.000000000")
	if len(text) <= fractionEnd || text[dateEnd] != 'T' || text[clockEnd] != '.' {
		return text
	}
	zone := text[fractionEnd:]
	switch kind {
	case keyDate:
		if string(text[dateEnd:]) == "T00:00:00.000000000Z" {
			return text[:dateEnd]
		}
		return text
	case keyTimestamp:
		if string(zone) != "Z" {
			return text
		}
		zone = nil
	case keyTimestampTZ:
		if string(zone) == "Z" {
			zone = []byte("+00")
		}
		zone = bytes.TrimSuffix(zone, []byte(":00"))
	default:
		return text
	}
	clock := bytes.TrimRight(text[dateEnd+1:fractionEnd], "0")
	if len(clock) <= clockEnd-dateEnd { // no digit of the fraction is left
		clock = text[dateEnd+1 : clockEnd]
	}
	return slices.Concat(text[:dateEnd], []byte(" "), clock, zone)
}

// unpack reads a persisted key back as text values that the server parses to equal ones. It takes what the incumbent
// has stored too.
func (k *scanKey) unpack(packed []byte) ([]value, error) {
	values := make([]value, len(k.columns))
	rest := packed
	for i := range values {
		at := len(packed) - len(rest)
		what := "stored scan key: column " + strconv.Quote(k.columns[i].name)
		var e element
		var err error
		if e, rest, err = cutElement(rest, 0); err != nil {
			return nil, &malformedError{what, at, err.Error()}
		}
		if e.code == tupleNull {
			values[i] = value{kind: valueNull}
			continue
		}
		text, err := k.elementText(i, e)
		if err != nil {
			return nil, &malformedError{what, at, err.Error()}
		}
		values[i] = value{data: text, kind: valueText}
	}
	if len(rest) > 0 {
		return nil, trailing("stored scan key", len(packed)-len(rest), len(rest))
	}
	if _, err := k.appendOrder(nil, values); err != nil {
		return nil, fmt.Errorf("stored scan key: %w", err)
	}
	return values, nil
}

// elementText is the text of column i's element. Every kind of column has its own type of element; those with values
// that the incumbent cannot encode take text as well.
func (k *scanKey) elementText(i int, e element) ([]byte, error) {
	kind := k.kinds[i]
	switch {
	case e.code == tupleText && kind != keyBool && kind != keySigned && kind != keyFloat4 && kind != keyFloat8 &&
		kind != keyBytea && k.columns[i].typeOID != pgtype.OIDOID:
		return momentText(kind, e.data), nil
	case e.code == tupleTrue && kind == keyBool:
		return []byte("t"), nil
	case e.code == tupleFalse && kind == keyBool:
		return []byte("f"), nil
	case e.isInt() && (kind == keySigned || kind == keyUnsigned):
		text := strconv.AppendUint(nil, e.bits, 10)
		if e.code < tupleZero {
			text = slices.Insert(text, 0, '-')
		}
		return text, nil
	case e.code == tupleFloat4 && kind == keyFloat4:
		return floatText(float64(math.Float32frombits(uint32(e.bits))), 32), nil
	case e.code == tupleFloat8 && kind == keyFloat8:
		return floatText(math.Float64frombits(e.bits), 64), nil
	case e.code == tupleBytes && kind == keyBytea:
		return fmt.Appendf(nil, `\x%x`, e.data), nil
	case e.code == tupleNested && kind == keyNumeric:
		return tupleNumericText(e.data)
	}
	return nil, fmt.Errorf("type code %#02x, which no %s has", e.code, keyNouns[kind])
}

func floatText(f float64, bitSize int) []byte {
	switch {
	case math.IsInf(f, 1):
		return []byte("Infinity")
	case math.IsInf(f, -1):
		return []byte("-Infinity")
	}
	return strconv.AppendFloat(nil, f, 'g', -1, bitSize)
}

// tupleNumericText reads the elements of a numeric's nested tuple. The pair in the middle only sorts.
func tupleNumericText(nested []byte) ([]byte, error) {
	name, rest, err := cutElement(nested, 1)
	if err != nil {
		return nil, err
	}
	pair, rest, err := cutElement(rest, 1)
	if err != nil {
		return nil, err
	}
	number, rest, err := cutElement(rest, 1)
	if err != nil {
		return nil, err
	}
	if name.code != tupleText || string(name.data) != tupleNumericName || pair.code != tupleNested ||
		number.code != tupleBytes || len(rest) > 0 {
		return nil, errors.New("nested tuple is no numeric")
	}
	return numericText(number.data)
}

// element is one element of a tuple.
type element struct {
	code byte
	data []byte // bytes and text, escapes undone; of a nested tuple, what stands between its code and its end
	bits uint64 // of a float; of an integer, its magnitude
}

func (e *element) isInt() bool { return tupleZero-8 <= e.code && e.code <= tupleZero+8 }

// cutElement reads the element that src starts with. depth counts the tuples around it.
func cutElement(src []byte, depth int) (e element, rest []byte, err error) {
	if len(src) == 0 {
		return e, nil, fmt.Errorf("want %s, have 0", moreBytes(1))
	}
	e.code, rest = src[0], src[1:]
	size := 0
	switch {
	case e.code == tupleNull && depth > 0:
		if len(rest) == 0 || rest[0] != 0xff {
			return e, nil, errors.New("tuple ends early")
		}
		return e, rest[1:], nil
	case e.code == tupleNull, e.code == tupleFalse, e.code == tupleTrue:
		return e, rest, nil
	case e.code == tupleBytes, e.code == tupleText:
		e.data, rest, err = cutTerminated(rest)
		return e, rest, err
	case e.code == tupleNested:
		e.data, rest, err = cutNested(rest, depth)
		return e, rest, err
	case e.isInt():
		size = max(int(e.code)-tupleZero, tupleZero-int(e.code))
	case e.code == tupleFloat4:
		size = 4
	case e.code == tupleFloat8:
		size = 8
	default:
		return e, nil, fmt.Errorf("unknown type code %#02x", e.code)
	}
	if len(rest) < size {
		return e, nil, fmt.Errorf("want %s, have %d", moreBytes(size), len(rest))
	}
	for _, b := range rest[:size] {
		e.bits = e.bits<<8 | uint64(b)
	}
	sign := uint64(1) << 63 >> (64 - 8*size)
	switch {
	case e.code < tupleZero:
		e.bits = sign<<1 - 1 - e.bits
	case e.code >= tupleFloat4 && e.bits&sign != 0:
		e.bits ^= sign
	case e.code >= tupleFloat4:
		e.bits = ^e.bits
	}
	return e, rest[size:], nil
}

// cutTerminated undoes appendTerminated.
func cutTerminated(src []byte) (data, rest []byte, err error) {
	for data = []byte{}; ; { // never nil: an empty key is not NULL
		i := bytes.IndexByte(src, 0)
		if i < 0 {
			return nil, nil, errors.New("text without an end")
		}
		data, src = append(data, src[:i]...), src[i+1:]
		if len(src) == 0 || src[0] != 0xff {
			return data, src, nil
		}
		data, src = append(data, 0), src[1:]
	}
}

// cutNested reads up to the end of a tuple, which is the first null that ff does not follow.
func cutNested(src []byte, depth int) (inner, rest []byte, err error) {
	const maxDepth = 2 // a numeric's
	if depth == maxDepth {
		return nil, nil, errors.New("tuples nested too deeply")
	}
	for rest = src; ; {
		if len(rest) > 0 && rest[0] == tupleNull && (len(rest) == 1 || rest[1] != 0xff) {
			return src[:len(src)-len(rest)], rest[1:], nil
		}
		if _, rest, err = cutElement(rest, depth+1); err != nil {
			return nil, nil, err
		}
	}
}
