package main

// value_scalars.go writes numbers, dates and times, intervals, network addresses, geometry, ranges and arrays.
// Invariant: the JSON value is the incumbent's wherever that loses nothing (spec/incumbent.md §5.2).
//
// Functions named append… leave out the quotes of the JSON string, for use inside ranges; their output is ASCII that
// needs no escaping. Functions named encode… are whole encoders.

import (
	"bytes"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// quoted makes a JSON string of what write appends.
func quoted(write valueEncoder) valueEncoder {
	return quotedUpTo(math.MaxInt, write)
}

// quotedUpTo makes a JSON string of the first limit bytes of what write appends.
func quotedUpTo(limit int, write valueEncoder) valueEncoder {
	return func(dst, text []byte) ([]byte, error) {
		dst = append(dst, '"')
		start := len(dst)
		dst, err := write(dst, text)
		if err != nil {
			return dst, err
		}
		if len(dst)-start > limit {
			dst = dst[:start+limit]
		}
		return append(dst, '"'), nil
	}
}

func encodeBool(dst, text []byte) ([]byte, error) {
	switch string(text) {
	case "t":
		return append(dst, "true"...), nil
	case "f":
		return append(dst, "false"...), nil
	}
	return dst, badText("bool as t or f", text)
}

func encodeInteger(dst, text []byte) ([]byte, error) {
	digits := text
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if !allDigits(digits) || digits[0] == '0' && len(digits) > 1 {
		return dst, badText("integer", text)
	}
	return append(dst, text...), nil
}

// encodeByte writes the number of a "char". Byte zero is the empty text, and from PostgreSQL 15 on bytes beyond ASCII
// are an escape of three octal digits: charout, char.c. Before, such a byte was a character of the database's encoding:
// of LATIN1, and nearly all of its kin, where its number is below 256; of others the character is all we know.
func encodeByte(dst, text []byte) ([]byte, error) {
	switch {
	case len(text) == 0:
		return append(dst, '0'), nil
	case len(text) == 1:
		return strconv.AppendUint(dst, uint64(text[0]), 10), nil
	case len(text) == 4 && text[0] == '\\' && text[1]|3 == '3' && text[2]|7 == '7' && text[3]|7 == '7':
		return strconv.AppendUint(dst, uint64(text[1]&3)<<6|uint64(text[2]&7)<<3|uint64(text[3]&7), 10), nil
	}
	if r, n := utf8.DecodeRune(text); n == len(text) && r != utf8.RuneError {
		if r < 256 {
			return strconv.AppendUint(dst, uint64(r), 10), nil
		}
		return appendJSONString(dst, text), nil
	}
	return dst, badText(`"char" as one byte or \ooo`, text)
}

func encodeNumeric(dst, text []byte) ([]byte, error) {
	return appendJSONString(dst, text), nil
}

func encodeFloat4(dst, text []byte) ([]byte, error) { return encodeFloat(dst, text, 32) }
func encodeFloat8(dst, text []byte) ([]byte, error) { return encodeFloat(dst, text, 64) }

// encodeFloat writes a number as JavaScript does: the shortest decimal that reads back as the same float, with an
// exponent below 1e-6 and from 1e21 on; NaN and the infinities are strings.
func encodeFloat(dst, text []byte, size int) ([]byte, error) {
	if shortestAlready(text, size) {
		return append(dst, text...), nil
	}
	f, err := strconv.ParseFloat(string(text), size)
	if err != nil {
		return dst, badText("floating point number", text)
	}
	if word := floatWord(f); word != "" {
		return append(append(append(dst, '"'), word...), '"'), nil
	}
	abs := math.Abs(f)
	if abs == 0 || size == 64 && abs >= 1e-6 && abs < 1e21 ||
		size == 32 && float32(abs) >= 1e-6 && float32(abs) < 1e21 {
		return strconv.AppendFloat(dst, f, 'f', -1, size), nil
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, size)
	if n := len(dst); dst[n-4] == 'e' && dst[n-3] == '-' && dst[n-2] == '0' {
		dst[n-2] = dst[n-1] // e-09 is e-9
		dst = dst[:n-1]
	}
	return dst, nil
}

func floatWord(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return ""
}

func encodeFloat4Key(dst, text []byte) ([]byte, error) { return encodeFloatKey(dst, text, 32) }
func encodeFloat8Key(dst, text []byte) ([]byte, error) { return encodeFloatKey(dst, text, 64) }

// encodeFloatKey writes a float as a string that is a plain decimal or NaN, Infinity, -Infinity.
func encodeFloatKey(dst, text []byte, size int) ([]byte, error) {
	dst = append(dst, '"')
	if shortestAlready(text, size) {
		dst = append(dst, text...)
		return append(dst, '"'), nil
	}
	f, err := strconv.ParseFloat(string(text), size)
	if err != nil {
		return dst, badText("floating point number", text)
	}
	if word := floatWord(f); word != "" {
		dst = append(dst, word...)
	} else {
		dst = strconv.AppendFloat(dst, f, 'f', -1, size)
	}
	return append(dst, '"'), nil
}

// shortestAlready reports whether text is a plain decimal that is the shortest for its float of size bits. Decimals of
// up to 15 digits (6 for float4) are, as no two of them read as one float: DBL_DIG and FLT_DIG of float.h. The server
// writes others with a digit more than needed now and then (d2s.c accepts no bounds), so those are parsed.
func shortestAlready(text []byte, size int) bool {
	limit := 15
	if size == 32 {
		limit = 6
	}
	if len(text) > 0 && text[0] == '-' {
		text = text[1:]
	}
	point := skipDigits(text, 0)
	if point == 0 || point > limit || text[0] == '0' && point > 1 {
		return false
	}
	if point == len(text) {
		return true
	}
	digits := point + skipDigits(text[point+1:], 0)
	if text[point] != '.' || digits+1 != len(text) || digits == point || text[digits] == '0' {
		return false
	}
	// Below 1e-6 there is an exponent, and the server writes one below 1e-4 already.
	return digits <= limit && !bytes.HasPrefix(text, []byte("0.0000"))
}

// The incumbent's stand-ins for what RFC 3339 cannot hold.
const (
	dateBelow, dateAbove     = "0000-01-01", "9999-12-31"
	momentBelow, momentAbove = "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
)

// momentWriter writes the dates and timestamps of one column.
type momentWriter struct {
	note func(kind, standIn string) // told of each stand-in written; nil: nobody cares
}

// appendStandIn writes what stands for a moment of that side, of which kind tells more.
func (w *momentWriter) appendStandIn(dst []byte, side int, kind, below, above string) []byte {
	standIn := below
	if side > 0 {
		standIn = above
	}
	if w.note != nil {
		w.note(kind, standIn)
	}
	return append(dst, standIn...)
}

// standInKind says for people why a moment has a stand-in.
func (m *moment) standInKind() string {
	switch {
	case len(m.monthDay) > 0 && m.side > 0:
		return "a year above 9999"
	case len(m.monthDay) > 0:
		return "a year before 1 BC"
	case m.side > 0:
		return "infinity"
	}
	return "-infinity"
}

func appendDay(dst []byte, m moment) []byte {
	y := m.year
	dst = append(dst, byte('0'+y/1000), byte('0'+y/100%10), byte('0'+y/10%10), byte('0'+y%10))
	return append(dst, m.monthDay...)
}

func (w *momentWriter) appendDate(dst, text []byte) ([]byte, error) {
	m, ok := splitMoment(text)
	switch {
	case !ok || len(m.clock) > 0:
		return dst, badText("date", text)
	case m.side != 0:
		return w.appendStandIn(dst, m.side, m.standInKind(), dateBelow, dateAbove), nil
	}
	return appendDay(dst, m), nil
}

func (w *momentWriter) appendDateAsTimestamp(dst, text []byte) ([]byte, error) {
	m, ok := splitMoment(text)
	switch {
	case !ok || len(m.clock) > 0:
		return dst, badText("date", text)
	case m.side != 0:
		return w.appendStandIn(dst, m.side, m.standInKind(), momentBelow, momentAbove), nil
	}
	return append(appendDay(dst, m), "T00:00:00Z"...), nil
}

func (w *momentWriter) appendTimestamp(dst, text []byte) ([]byte, error) {
	m, ok := splitMoment(text)
	switch {
	case !ok || m.zoned || m.side == 0 && len(m.clock) == 0:
		return dst, badText("timestamp", text)
	case m.side != 0:
		return w.appendStandIn(dst, m.side, m.standInKind(), momentBelow, momentAbove), nil
	}
	dst = append(appendDay(dst, m), 'T')
	return append(append(dst, m.clock...), 'Z'), nil
}

// appendTimestamptz keeps the offset of the session's time zone, except one that RFC 3339 has not.
func (w *momentWriter) appendTimestamptz(dst, text []byte) ([]byte, error) {
	m, ok := splitMoment(text)
	switch {
	case !ok || m.side == 0 && !m.zoned:
		return dst, badText("timestamp with time zone", text)
	case m.side != 0:
		return w.appendStandIn(dst, m.side, m.standInKind(), momentBelow, momentAbove), nil
	case m.east%60 != 0 || m.east <= -86400 || m.east >= 86400:
		return w.appendUTC(dst, m), nil
	}
	dst = append(appendDay(dst, m), 'T')
	return appendOffset(append(dst, m.clock...), m.east), nil
}

func (w *momentWriter) appendUTC(dst []byte, m moment) []byte {
	t := time.Date(m.year, time.Month(pair(m.monthDay[1:])), int(pair(m.monthDay[4:])), 0, 0, 0, 0, time.UTC)
	t = t.Add(time.Duration(clockMicros(m.clock))*time.Microsecond - time.Duration(m.east)*time.Second)
	switch {
	case t.Year() < 0:
		return w.appendStandIn(dst, -1, "a year before 1 BC", momentBelow, momentAbove)
	case t.Year() > 9999:
		return w.appendStandIn(dst, 1, "a year above 9999", momentBelow, momentAbove)
	}
	return t.AppendFormat(dst, time.RFC3339Nano)
}

// appendOffset appends an offset of whole minutes below a day, Z for zero.
func appendOffset(dst []byte, east int64) []byte {
	if east == 0 {
		return append(dst, 'Z')
	}
	sign := byte('+')
	if east < 0 {
		sign, east = '-', -east
	}
	return appendTwoDigits(append(appendTwoDigits(append(dst, sign), east/3600), ':'), east/60%60)
}

// appendTwoDigits appends a number below 100.
func appendTwoDigits(dst []byte, n int64) []byte {
	return append(dst, byte('0'+n/10), byte('0'+n%10))
}

// lastMoment stands for 24:00:00, which PostgreSQL has and RFC 3339 has not.
const lastMoment = "23:59:59.999999"

func appendTime(dst, text []byte) ([]byte, error) {
	clock, zoned, _, ok := splitClock(text)
	if !ok || zoned {
		return dst, badText("time", text)
	}
	if string(clock[:2]) == "24" {
		return append(dst, lastMoment+"Z"...), nil
	}
	return append(append(dst, clock...), 'Z'), nil
}

func encodeTimeAsInteger(dst, text []byte) ([]byte, error) {
	clock, zoned, _, ok := splitClock(text)
	if !ok || zoned {
		return dst, badText("time", text)
	}
	return strconv.AppendInt(dst, clockMicros(clock), 10), nil
}

func appendTimetz(dst, text []byte) ([]byte, error) {
	clock, zoned, east, ok := splitClock(text)
	if !ok || !zoned {
		return dst, badText("time with time zone", text)
	}
	if string(clock[:2]) == "24" {
		clock = []byte(lastMoment)
	}
	if east%60 != 0 {
		return appendTimetzWithSeconds(dst, clock, east), nil
	}
	return appendOffset(append(dst, clock...), east), nil
}

// appendTimetzWithSeconds writes the same instant with an offset of whole minutes: the one nearer to zero, or where
// the clock would leave the day for that, the next one.
func appendTimetzWithSeconds(dst, clock []byte, east int64) []byte {
	const day = 24 * time.Hour
	whole := east / 60 * 60
	t := time.Duration(clockMicros(clock))*time.Microsecond + time.Duration(whole-east)*time.Second
	if t < 0 {
		t, whole = t+time.Minute, whole+60
	} else if t >= day {
		t, whole = t-time.Minute, whole-60
	}
	dst = time.Unix(0, int64(t)).UTC().AppendFormat(dst, "15:04:05.999999")
	return appendOffset(dst, whole)
}

// appendInterval writes months, days and time, each where it is not zero: "14 mon 3 day 04:05:06.789000".
func appendInterval(dst, text []byte) ([]byte, error) {
	if infiniteSign(text) != 0 {
		return append(dst, text...), nil
	}
	months, days, micros, ok := parseInterval(text)
	if !ok {
		return dst, badText("interval", text)
	}
	start := len(dst)
	if months != 0 {
		dst = append(strconv.AppendInt(dst, months, 10), " mon "...)
	}
	if days != 0 {
		dst = append(strconv.AppendInt(dst, days, 10), " day "...)
	}
	if micros == 0 && len(dst) > start {
		return dst[:len(dst)-1], nil
	}
	clock := uint64(micros)
	if micros < 0 {
		dst, clock = append(dst, '-'), -clock
	}
	if hours := clock / hour; hours < 10 {
		dst = append(dst, '0', byte('0'+hours))
	} else {
		dst = strconv.AppendUint(dst, hours, 10)
	}
	dst = appendTwoDigits(append(dst, ':'), int64(clock/(60*second)%60))
	dst = appendTwoDigits(append(dst, ':'), int64(clock/second%60))
	if fraction := int64(clock % second); fraction != 0 {
		dst = append(dst, '.')
		for _, unit := range [...]int64{10_000, 100, 1} {
			dst = appendTwoDigits(dst, fraction/unit%100)
		}
	}
	return dst, nil
}

// appendInet writes inet and cidr, always with the prefix length. IPv6 addresses that end in an IPv4 address are
// written so only below ::ffff:0:0/96, as Go's net/netip does; the server writes all that begin with 96 zero bits so.
func appendInet(dst, text []byte) ([]byte, error) {
	wide, dotted := false, false
	for _, c := range text {
		switch {
		case c == ':':
			wide = true
		case c == '.':
			dotted = true
		case hexValue[c] > 15 && c != '/':
			return dst, badText("network address", text)
		}
	}
	address, prefix, _ := bytes.Cut(text, []byte("/"))
	if wide && dotted && bytes.HasPrefix(address, []byte("::")) && !bytes.HasPrefix(address, []byte("::ffff:")) {
		high, low, ok := splitIPv4(address[2:])
		if !ok {
			return dst, badText("network address", text)
		}
		dst = append(dst, "::"...)
		if high != 0 {
			dst = append(strconv.AppendUint(dst, high, 16), ':')
		}
		dst = strconv.AppendUint(dst, low, 16)
	} else {
		dst = append(dst, address...)
	}
	switch {
	case len(prefix) > 0:
		return append(append(dst, '/'), prefix...), nil
	case wide:
		return append(dst, "/128"...), nil
	}
	return append(dst, "/32"...), nil
}

// splitIPv4 returns the halves of a dotted address.
func splitIPv4(text []byte) (high, low uint64, ok bool) {
	var n uint64
	for i := range 4 {
		part, rest, more := bytes.Cut(text, []byte("."))
		v := decimal(part)
		if v < 0 || v > 255 || more == (i == 3) {
			return 0, 0, false
		}
		n = n<<8 | uint64(v)
		text = rest
	}
	return n >> 16, n & 0xffff, true
}

// encodeTID writes a ctid as the incumbent's driver does, which has no text form of its own for it.
func encodeTID(dst, text []byte) ([]byte, error) {
	block, offset, ok := bytes.Cut(text, []byte(","))
	if !ok || len(block) < 2 || len(offset) < 2 || block[0] != '(' || offset[len(offset)-1] != ')' {
		return dst, badText("tid", text)
	}
	b, o := decimal(block[1:]), decimal(offset[:len(offset)-1])
	if b < 0 || o < 0 {
		return dst, badText("tid", text)
	}
	dst = strconv.AppendInt(append(dst, `{"BlockNumber":`...), b, 10)
	dst = strconv.AppendInt(append(dst, `,"OffsetNumber":`...), o, 10)
	return append(dst, `,"Valid":true}`...), nil
}

// geometryUpTo copies the brackets and commas of a geometric value and writes its numbers as plain decimals, and infinities as
// +Inf and -Inf, as the incumbent's driver does. It ends behind limit bytes: a number of a few may take hundreds.
func geometryUpTo(limit int, end *int) valueEncoder {
	return func(dst, text []byte) ([]byte, error) {
		if end == nil {
			return appendGeometry(dst, text, limit)
		}
		return appendGeometry(dst, text, max(0, min(limit, *end-len(dst))))
	}
}

func appendGeometry(dst, text []byte, limit int) ([]byte, error) {
	start := len(dst)
	for i := 0; i < len(text) && len(dst)-start <= limit; {
		end := i
		for end < len(text) && !geometryMark(text[end]) {
			end++
		}
		switch number := text[i:end]; {
		case end == i:
			dst = append(dst, text[i])
			end++
		case shortestAlready(number, 64):
			dst = append(dst, number...)
		default:
			f, err := strconv.ParseFloat(string(number), 64)
			if err != nil {
				return dst, badText("geometric value", text)
			}
			dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		}
		i = end
	}
	return dst, nil
}

func geometryMark(c byte) bool {
	switch c {
	case '(', ')', '[', ']', '{', '}', '<', '>', ',':
		return true
	}
	return false
}
