// value_moments.go owns the reading of dates, times and intervals as the server writes them under DateStyle ISO and IntervalStyle
// postgres: their parts, for those who write them as JSON and those who sort them.
// Invariant: a text that the server does not write so is refused.

package main

import (
	"bytes"
	"math"
)

const (
	second = 1_000_000 // in microseconds
	hour   = 3600 * second
	day    = 24 * hour
)

// moment is the text of a date, timestamp or timestamptz taken apart.
type moment struct {
	side     int    // -1 before the year 0000, +1 after the year 9999; else 0
	year     int    // astronomical, as in RFC 3339: 1 BC is 0
	monthDay []byte // -MM-DD; empty for the infinities, which have a side only
	clock    []byte // HH:MM:SS with up to six more digits, or empty
	zoned    bool
	east     int64 // offset, in seconds
}

// splitMoment reads what EncodeDateOnly and EncodeDateTime (datetime.c) write under DateStyle ISO.
func splitMoment(text []byte) (m moment, ok bool) {
	if side := infiniteSign(text); side != 0 {
		return moment{side: side}, true
	}
	rest := text
	era := bytes.HasSuffix(rest, []byte(" BC"))
	if era {
		rest = rest[:len(rest)-3]
	}
	n := 0
	for n < len(rest) && rest[n]-'0' <= 9 && n < 8 {
		m.year = m.year*10 + int(rest[n]-'0')
		n++
	}
	if n < 4 || n > 7 || m.year == 0 || len(rest) < n+6 || rest[n] != '-' || rest[n+3] != '-' ||
		!twoDigits(rest[n+1:]) || !twoDigits(rest[n+4:]) {
		return moment{}, false
	}
	m.monthDay = rest[n : n+6]
	if rest = rest[n+6:]; len(rest) > 0 {
		if rest[0] != ' ' {
			return moment{}, false
		}
		if m.clock, m.zoned, m.east, ok = splitClock(rest[1:]); !ok {
			return moment{}, false
		}
	}
	if era {
		m.year = 1 - m.year
	}
	if m.year < 0 {
		m.side = -1
	} else if m.year > 9999 {
		m.side = 1
	}
	return m, true
}

// splitClock separates HH:MM:SS.ffffff from the offset behind it, if there is one.
func splitClock(text []byte) (clock []byte, zoned bool, east int64, ok bool) {
	if len(text) < 8 || text[2] != ':' || text[5] != ':' || text[3] > '5' || text[6] > '5' ||
		!twoDigits(text) || !twoDigits(text[3:]) || !twoDigits(text[6:]) {
		return nil, false, 0, false
	}
	n := 8
	if len(text) > 8 && text[8] == '.' {
		n = skipDigits(text, 9)
		if n == 9 || n > 15 {
			return nil, false, 0, false
		}
	}
	if n == len(text) {
		return text, false, 0, true
	}
	east, ok = offsetSeconds(text[n:])
	return text[:n], true, east, ok
}

// offsetSeconds reads a sign and HH, HH:MM or HH:MM:SS, where a zone made up by hand can have hours of three digits:
// EncodeTimezone, datetime.c.
func offsetSeconds(text []byte) (east int64, ok bool) {
	if len(text) < 3 || text[0] != '+' && text[0] != '-' {
		return 0, false
	}
	n := 1
	for n < len(text) && text[n]-'0' <= 9 {
		east = east*10 + int64(text[n]-'0')
		n++
	}
	if n < 3 || n > 4 {
		return 0, false
	}
	east *= 3600
	rest := text[n:]
	for _, unit := range [...]int64{60, 1} {
		if len(rest) == 0 {
			break
		}
		if len(rest) < 3 || rest[0] != ':' || !twoDigits(rest[1:]) {
			return 0, false
		}
		east += unit * pair(rest[1:])
		rest = rest[3:]
	}
	if text[0] == '-' {
		east = -east
	}
	return east, len(rest) == 0
}

// clockMicros returns the microseconds from midnight to HH:MM:SS.ffffff.
func clockMicros(clock []byte) int64 {
	n := (pair(clock)*60+pair(clock[3:]))*60 + pair(clock[6:])
	n *= 1_000_000
	unit := int64(100_000)
	for i := 9; i < len(clock); i++ {
		n += int64(clock[i]-'0') * unit
		unit /= 10
	}
	return n
}

// parseInterval reads what EncodeInterval (datetime.c) writes under IntervalStyle postgres, but for the infinities:
// "-1 years -2 mons +3 days -04:05:06.789". Its fields are of 32 bits, the time of 64 bits of microseconds.
func parseInterval(text []byte) (months, days, micros int64, ok bool) {
	for rest := text; ; {
		negative := len(rest) > 0 && rest[0] == '-'
		if len(rest) > 0 && (rest[0] == '-' || rest[0] == '+') {
			rest = rest[1:]
		}
		end := skipDigits(rest, 0)
		n := decimal(rest[:end])
		if n < 0 || n > -math.MinInt32 && (end == len(rest) || rest[end] != ':') {
			return 0, 0, 0, false
		}
		if end < len(rest) && rest[end] == ':' {
			// From the last two digits of the hours on it has the form of a time of day.
			const maxHours = 1 << 63 / hour
			if end < 2 || n > maxHours {
				return 0, 0, 0, false
			}
			clock, zoned, _, ok := splitClock(rest[end-2:])
			if !ok || zoned {
				return 0, 0, 0, false
			}
			magnitude := uint64(n-n%100)*hour + uint64(clockMicros(clock))
			if negative {
				return months, days, -int64(magnitude), magnitude <= 1<<63
			}
			return months, days, int64(magnitude), magnitude < 1<<63
		}
		if negative {
			n = -n
		}
		var unit []byte
		var more bool
		if rest, ok = bytes.CutPrefix(rest[end:], []byte(" ")); !ok {
			return 0, 0, 0, false
		}
		unit, rest, more = bytes.Cut(rest, []byte(" "))
		switch string(unit) {
		case "year", "years":
			months += 12 * n
		case "mon", "mons":
			months += n
		case "day", "days":
			days += n
		default:
			return 0, 0, 0, false
		}
		if !more {
			return months, days, 0, true
		}
	}
}

// twoDigits reports whether b begins with two decimal digits. REQUIRES: two bytes.
func twoDigits(b []byte) bool { return b[0]-'0' <= 9 && b[1]-'0' <= 9 }

// pair returns the number that b begins with. REQUIRES: twoDigits(b).
func pair(b []byte) int64 { return int64(b[0]-'0')*10 + int64(b[1]-'0') }

// decimal returns the number that up to 18 decimal digits stand for, or -1.
func decimal(b []byte) int64 {
	if len(b) > 18 || !allDigits(b) {
		return -1
	}
	var n int64
	for _, c := range b {
		n = n*10 + int64(c-'0')
	}
	return n
}

// allDigits reports whether b is one or more decimal digits.
func allDigits(b []byte) bool {
	return len(b) > 0 && skipDigits(b, 0) == len(b)
}

// skipDigits returns the index of the first byte from text[i] on that is no decimal digit.
func skipDigits(text []byte, i int) int {
	for i < len(text) && text[i]-'0' <= 9 {
		i++
	}
	return i
}

// infiniteSign is 1 for infinity, -1 for -infinity, 0 for all else.
func infiniteSign(text []byte) int {
	switch string(text) {
	case "infinity":
		return 1
	case "-infinity":
		return -1
	}
	return 0
}
