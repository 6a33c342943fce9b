// value_order.go turns one key value, in PostgreSQL's text form, into bytes that compare as the server compares the value.
//
// Invariant: for every kind but keyOpaque, bytes.Compare of two forms has the sign of the type's btree comparison, zero
// included; no form is a proper prefix of another of its kind, so forms can be strung together. The text is what a
// session with DateStyle ISO, IntervalStyle postgres, bytea_output hex and client_encoding UTF8 sends.

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"strconv"
	"unsafe"
)

// keyKind is how the values of a key column compare.
type keyKind byte

const (
	keyOpaque keyKind = iota // only the server knows the order; the form is the exact text
	keyBytes                 // text under a collation that sorts as bytes do
	keyPadded                // the same, trailing blanks ignored
	keyChar                  // "char": one byte, unsigned
	keyBits
	keyBool
	keySigned
	keyUnsigned
	keyLSN
	keyFloat4
	keyFloat8
	keyNumeric
	keyDate
	keyTime
	keyTimeTZ
	keyTimestamp
	keyTimestampTZ
	keyInterval
	keyBytea
	keyUUID
	keyMAC
	keyMAC8
	keyAddress
)

// keyNouns names what a value of each kind is, for errors.
var keyNouns = [...]string{
	keyOpaque: "text", keyBytes: "text", keyPadded: "text", keyChar: `"char"`, keyBits: "bit string", keyBool: "boolean",
	keySigned: "integer", keyUnsigned: "unsigned integer", keyLSN: "LSN", keyFloat4: "real", keyFloat8: "double precision",
	keyNumeric: "numeric", keyDate: "ISO date", keyTime: "time", keyTimeTZ: "time with an offset",
	keyTimestamp: "ISO timestamp", keyTimestampTZ: "ISO timestamp with an offset",
	keyInterval: "interval in style postgres", keyBytea: "bytea in hex", keyUUID: "uuid", keyMAC: "macaddr",
	keyMAC8: "macaddr8", keyAddress: "network address",
}

// appendOrder appends the comparison form of text; ok is false if it is no value of the kind, and dst then holds
// garbage behind its old length.
func (kind keyKind) appendOrder(dst, text []byte) (form []byte, ok bool) {
	switch kind {
	case keyOpaque, keyBytes:
		return appendTerminated(dst, text), true
	case keyPadded:
		return appendTerminated(dst, bytes.TrimRight(text, " ")), true
	case keyChar:
		return appendCharOrder(dst, text), true
	case keyBits: // bit_cmp compares bits from the left, then lengths: as the digits' characters do
		return appendTerminated(dst, text), len(bytes.Trim(text, "01")) == 0
	case keyBool: // 'f' < 't'
		return append(dst, text...), len(text) == 1 && (text[0] == 'f' || text[0] == 't')
	case keySigned:
		n, ok := parseSigned(text)
		return appendSigned(dst, n), ok
	case keyUnsigned:
		n, ok := parseUnsigned(text)
		return binary.BigEndian.AppendUint64(dst, n), ok
	case keyLSN:
		return appendLSNOrder(dst, text)
	case keyFloat4:
		return appendFloatOrder(dst, text, 32)
	case keyFloat8:
		return appendFloatOrder(dst, text, 64)
	case keyNumeric:
		return appendNumericOrder(dst, text)
	case keyDate:
		if infinity := infiniteSign(text); infinity != 0 {
			return appendInfinite(dst, infinity), true
		}
		m, ok := parseMoment(text, momentDate)
		return appendSigned(dst, m.day), ok
	case keyTime:
		m, ok := parseMoment(text, momentClock)
		return appendSigned(dst, m.clock), ok
	case keyTimeTZ: // timetz_cmp: the instant, then the zone, counted westwards
		m, ok := parseMoment(text, momentClock|momentZone)
		return appendSigned(appendSigned(dst, m.clock-m.east*second), -m.east), ok
	case keyTimestamp, keyTimestampTZ:
		if infinity := infiniteSign(text); infinity != 0 {
			return appendInfinite(dst, infinity), true
		}
		parts := momentDate | momentClock
		if kind == keyTimestampTZ {
			parts |= momentZone
		}
		m, ok := parseMoment(text, parts)
		return appendSigned(dst, m.day*day+m.clock-m.east*second), ok
	case keyInterval:
		return appendIntervalOrder(dst, text)
	case keyBytea:
		return appendByteaTerminated(dst, text)
	case keyUUID:
		return appendHex(dst, text, '-', 16)
	case keyMAC:
		return appendHex(dst, text, ':', 6)
	case keyMAC8:
		return appendHex(dst, text, ':', 8)
	case keyAddress:
		return appendAddressOrder(dst, text)
	}
	return dst, false
}

// appendTerminated appends text and a zero byte; a zero byte inside becomes 00 ff. What may follow the terminator, in
// either form of a key, is less than ff, so the order of the bytes is kept.
func appendTerminated(dst, text []byte) []byte {
	for {
		i := bytes.IndexByte(text, 0)
		if i < 0 {
			return append(append(dst, text...), 0)
		}
		dst = append(append(dst, text[:i]...), 0, 0xff)
		text = text[i+1:]
	}
}

// appendByteaTerminated is appendTerminated of the bytes that \x… spells.
func appendByteaTerminated(dst, text []byte) ([]byte, bool) {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok {
		return dst, false
	}
	start := len(dst)
	dst, err := hex.AppendDecode(dst, digits)
	if err != nil {
		return dst, false
	}
	from := len(dst)
	for range bytes.Count(dst[start:], []byte{0}) {
		dst = append(dst, 0)
	}
	for to := len(dst); from < to; { // from the back, until no zero is left to widen
		from--
		if dst[from] == 0 {
			to--
			dst[to] = 0xff
		}
		to--
		dst[to] = dst[from]
	}
	return append(dst, 0), true
}

// appendCharOrder takes the forms of charout: nothing for a zero byte, \ooo for a byte beyond ASCII (server 16 and
// newer), else the byte itself.
func appendCharOrder(dst, text []byte) []byte {
	if len(text) == 4 && text[0] == '\\' {
		return append(dst, (text[1]-'0')<<6|(text[2]-'0')<<3|(text[3]-'0'), 0)
	}
	return appendTerminated(dst, text)
}

func appendSigned(dst []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(n)^1<<63)
}

func appendInfinite(dst []byte, sign int) []byte {
	if sign < 0 {
		return appendSigned(dst, math.MinInt64)
	}
	return appendSigned(dst, math.MaxInt64)
}

func parseUnsigned(text []byte) (n uint64, ok bool) {
	if len(text) == 0 {
		return 0, false
	}
	for _, c := range text {
		d := uint64(c - '0')
		if d > 9 || n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func parseSigned(text []byte) (int64, bool) {
	digits, negative := bytes.CutPrefix(text, []byte("-"))
	n, ok := parseUnsigned(digits)
	if negative {
		return -int64(n), ok && n <= 1<<63
	}
	return int64(n), ok && n < 1<<63
}

func appendLSNOrder(dst, text []byte) ([]byte, bool) {
	high, low, ok := bytes.Cut(text, []byte("/"))
	if !ok {
		return dst, false
	}
	for _, half := range [2][]byte{high, low} {
		n, err := strconv.ParseUint(string(half), 16, 32)
		if err != nil {
			return dst, false
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	}
	return dst, true
}

// appendFloatOrder: float8_cmp_internal puts NaN above all and equal to itself, and has one zero.
func appendFloatOrder(dst, text []byte, bitSize int) ([]byte, bool) {
	f, err := strconv.ParseFloat(string(text), bitSize)
	if f == 0 {
		f = 0 // of either sign
	}
	bits := math.Float64bits(f)
	if math.IsNaN(f) {
		bits = 0x7FF8_0000_0000_0000
	}
	return binary.BigEndian.AppendUint64(dst, sortableFloat(bits, 1<<63)), err == nil
}

// sortableFloat maps IEEE bits to integers in the order of the numbers: negative ones inverted, the others with the
// sign bit set. It is the tuple layer's transformation too.
func sortableFloat(bits, sign uint64) uint64 {
	if bits&sign != 0 {
		return ^bits
	}
	return bits | sign
}

// A numeric's first byte ranks it; a finite one other than zero goes on with its exponent and digits.
const (
	numericMinusInfinity = 1 + iota
	numericNegative
	numericZero
	numericPositive
	numericInfinity
	numericNaN // numeric_cmp: above all, equal to itself
)

func appendNumericOrder(dst, text []byte) ([]byte, bool) {
	switch string(text) {
	case "NaN":
		return append(dst, numericNaN), true
	case "Infinity":
		return append(dst, numericInfinity), true
	case "-Infinity":
		return append(dst, numericMinusInfinity), true
	}
	d, ok := parseDecimal(text)
	if !ok {
		return dst, false
	}
	exponent, digits := d.normal()
	if exponent == 0 && len(digits[0])+len(digits[1]) == 0 {
		return append(dst, numericZero), true
	}

	rank := byte(numericPositive)
	if d.negative {
		rank = numericNegative
	}
	dst = append(dst, rank)
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(exponent)^1<<31)
	pair, odd := byte(0), false // two digits a byte, 1 to 100, so that the terminator is less than any
	for _, part := range digits {
		for _, c := range part {
			if odd = !odd; odd {
				pair = (c - '0') * 10
			} else {
				dst = append(dst, pair+(c-'0')+1)
			}
		}
	}
	if odd {
		dst = append(dst, pair+1)
	}
	dst = append(dst, 0)
	if d.negative {
		for i := start; i < len(dst); i++ {
			dst[i] = ^dst[i]
		}
	}
	return dst, true
}

// keyDecimal is a finite numeric as numeric_out writes it: no exponent, as many fraction digits as its scale.
type keyDecimal struct {
	negative bool
	whole    []byte // without leading zeros
	fraction []byte
}

func parseDecimal(text []byte) (d keyDecimal, ok bool) {
	digits, negative := bytes.CutPrefix(text, []byte("-"))
	whole, fraction, point := bytes.Cut(digits, []byte("."))
	for _, part := range [2][]byte{whole, fraction} {
		for _, c := range part {
			if c < '0' || c > '9' {
				return d, false
			}
		}
	}
	return keyDecimal{negative, bytes.TrimLeft(whole, "0"), fraction}, len(whole) > 0 && point == (len(fraction) > 0)
}

// normal returns the digits of 0.ddd…·10^exponent, in two pieces, without zeros at either end. Zero has none.
func (d *keyDecimal) normal() (exponent int, digits [2][]byte) {
	whole, fraction := d.whole, bytes.TrimRight(d.fraction, "0")
	exponent = len(whole)
	if len(whole) == 0 {
		significant := bytes.TrimLeft(fraction, "0")
		exponent = len(significant) - len(fraction)
		fraction = significant
	}
	if len(fraction) == 0 {
		whole = bytes.TrimRight(whole, "0")
	}
	return exponent, [2][]byte{whole, fraction}
}

// keyMoment is what a date, time or timestamp says.
type keyMoment struct {
	year  int   // 0 is 1 BC
	day   int64 // since 2000-01-01
	clock int64 // microseconds since midnight
	east  int64 // the offset, in seconds
}

type momentParts byte

const (
	momentDate  momentParts = 1 << iota // YYYY-MM-DD
	momentClock                         // HH:MM:SS[.f…]
	momentZone                          // ±HH[:MM[:SS]]
)

// parseMoment reads the given parts in ISO style; the infinities are none.
func parseMoment(text []byte, parts momentParts) (m keyMoment, ok bool) {
	var s moment
	if parts&momentDate != 0 {
		s, ok = splitMoment(text)
	} else {
		s.clock, s.zoned, s.east, ok = splitClock(text)
	}
	if !ok || (len(s.monthDay) > 0) != (parts&momentDate != 0) || (len(s.clock) > 0) != (parts&momentClock != 0) ||
		s.zoned != (parts&momentZone != 0) {
		return m, false
	}
	if len(s.monthDay) > 0 {
		month, dayOfMonth := int(pair(s.monthDay[1:])), int(pair(s.monthDay[4:]))
		if month < 1 || month > 12 || dayOfMonth < 1 || dayOfMonth > 31 {
			return m, false
		}
		m.year, m.day = s.year, dayNumber(s.year, month, dayOfMonth)-dayNumber(2000, 1, 1)
	}
	if len(s.clock) > 0 {
		m.clock = clockMicros(s.clock)
	}
	m.east = s.east
	return m, m.clock <= day
}

// dayNumber counts the days of the Gregorian calendar, extended backwards. It takes years to begin in March, where the
// leap day comes last, and adds twenty cycles of 400 years so that no division meets a negative year.
func dayNumber(year, month, dayOfMonth int) int64 {
	y, m := int64(year)+8000, int64(month)-3
	if m < 0 {
		y, m = y-1, m+12
	}
	return y*365 + y/4 - y/100 + y/400 + (m*153+2)/5 + int64(dayOfMonth)
}

// appendIntervalOrder: interval_cmp_value takes a month for 30 days and a day for 24 hours, in 128 bits; days and the
// rest of a day say the same in two integers.
func appendIntervalOrder(dst, text []byte) ([]byte, bool) {
	if infinity := infiniteSign(text); infinity != 0 {
		return appendInfinite(appendInfinite(dst, infinity), infinity), true
	}
	months, days, clock, ok := parseInterval(text)
	if !ok {
		return dst, false
	}
	days += 30 * months
	days += clock / day
	if clock %= day; clock < 0 {
		days, clock = days-1, clock+day
	}
	return appendSigned(appendSigned(dst, days), clock), true
}

// appendHex appends the size bytes that text spells in hexadecimal, separators left out.
func appendHex(dst, text []byte, separator byte, size int) ([]byte, bool) {
	end := len(dst) + size
	for {
		part, rest := text, []byte(nil)
		i := bytes.IndexByte(text, separator)
		if i >= 0 {
			part, rest = text[:i], text[i+1:]
		}
		var err error
		if dst, err = hex.AppendDecode(dst, part); err != nil {
			return dst, false
		}
		if i < 0 {
			return dst, len(dst) == end
		}
		text = rest
	}
}

// appendAddressOrder: network_cmp_internal compares family, then as many network bits as both have, then the numbers of
// network bits, then whole addresses. A network padded with zeros sorts before all longer ones it is a prefix of, or
// equals them up to the number of bits; so family, padded network, number of bits, address compare alike.
func appendAddressOrder(dst, text []byte) ([]byte, bool) {
	text, mask, masked := bytes.Cut(text, []byte("/"))
	address, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(text), len(text))) // its error would keep a string
	if err != nil || address.Zone() != "" {
		return dst, false
	}
	bits := uint64(address.BitLen())
	if masked {
		var ok bool
		if bits, ok = parseUnsigned(mask); !ok || bits > uint64(address.BitLen()) {
			return dst, false
		}
	}
	network, err := address.Prefix(int(bits))
	if err != nil {
		return dst, false
	}
	if address.Is4() {
		n, a := network.Addr().As4(), address.As4()
		return append(append(append(append(dst, 4), n[:]...), byte(bits)), a[:]...), true
	}
	n, a := network.Addr().As16(), address.As16()
	return append(append(append(append(dst, 6), n[:]...), byte(bits)), a[:]...), true
}
