package main

// value_text.go writes strings, bytea and json. Invariant: whatever the bytes, what is appended is one valid JSON
// value in valid UTF-8 without a raw control character, so it can never break a line of output in two.

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// valueEncoder appends the JSON of one non-NULL value, given in PostgreSQL's text format, to dst. It keeps nothing of
// text and allocates nothing in steady state. An error names what is wrong with the text, not the column; the returned
// slice is then dst with a part of the value behind it, to be cut off by the caller.
//
// The text is that of a session with DateStyle ISO, IntervalStyle postgres, bytea_output hex, extra_float_digits 1 and
// client_encoding UTF8.
type valueEncoder func(dst, text []byte) ([]byte, error)

// badText is the error of a value that is not what its type's output function writes.
func badText(want string, text []byte) error {
	const shown = 64
	if len(text) > shown {
		return fmt.Errorf("want %s, have %q and %d bytes more", want, text[:shown], len(text)-shown)
	}
	return fmt.Errorf("want %s, have %q", want, text)
}

// textEncoder writes a value as a JSON string, cut to limit bytes on a character boundary. A wide one may be left unfinished
// where dst has become longer than end.
func textEncoder(limit int, end *int) valueEncoder {
	return func(dst, text []byte) ([]byte, error) {
		text = truncate(text, limit)
		if len(text) < wideText || end == nil {
			return appendJSONString(dst, text), nil
		}
		return appendWideString(dst, text, *end), nil
	}
}

// wideText is the size from which a text is written in parts: its JSON may have six times as many bytes, more than a
// document may have.
const wideText = 256 << 10

// appendWideString is appendJSONString of a text that is not empty, which stops when dst is longer than end.
func appendWideString(dst, text []byte, end int) []byte {
	part := truncate(text, wideText)
	dst = appendJSONString(dst, part)
	for text = text[len(part):]; len(text) > 0 && len(dst) <= end; text = text[len(part):] {
		part = truncate(text, wideText)
		// The next string starts at the last byte of this one, in front of its quote, which its own opening quote replaces.
		last := dst[len(dst)-2]
		at := len(dst) - 2
		dst = appendJSONString(dst[:at], part)
		dst[at] = last
	}
	return dst
}

// truncate returns the longest prefix of s of at most limit bytes that ends on a character boundary.
func truncate(s []byte, limit int) []byte {
	if len(s) <= limit {
		return s
	}
	for back := 0; back < utf8.UTFMax && back < limit; back++ {
		if utf8.RuneStart(s[limit-back]) {
			return s[:limit-back]
		}
	}
	return s[:limit]
}

// appendJSONString appends s as a JSON string: valid UTF-8 as is, invalid bytes as U+FFFD, no HTML escaping.
func appendJSONString(dst, s []byte) []byte {
	start := len(dst)
	dst = append(dst, '"')
	run, wide := plainRun(s)
	dst = append(dst, s[:run]...)
	for run < len(s) {
		dst = appendEscape(dst, s[run])
		s = s[run+1:]
		var w bool
		run, w = plainRun(s)
		wide = wide || w
		dst = append(dst, s[:run]...)
	}
	if wide && !utf8.Valid(dst[start:]) {
		// The escapes are ASCII: what is invalid in the result was invalid in s.
		valid := appendValidUTF8(nil, dst[start:])
		dst = append(dst[:start], valid...)
	}
	return append(dst, '"')
}

// appendEscape appends the escape of a quote, backslash or control character.
func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\t':
		return append(dst, '\\', 't')
	case '\r':
		return append(dst, '\\', 'r')
	}
	const digits = "0123456789abcdef"
	return append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}

// appendValidUTF8 appends s with U+FFFD for each invalid byte.
func appendValidUTF8(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return dst
}

// plainRun returns how many bytes from the start of s stand for themselves in a JSON string: all but quotes,
// backslashes and control characters. wide is set if one of the bytes looked at was not ASCII.
func plainRun(s []byte) (n int, wide bool) {
	var high uint64
	for len(s)-n >= 8 {
		x := binary.LittleEndian.Uint64(s[n:])
		high |= x
		quote, backslash := x^('"'*eachByte), x^('\\'*eachByte)
		// In each byte the high bit is set where the byte was zero or below a space, exactly so up to the lowest such.
		special := ((quote-eachByte)&^quote | (backslash-eachByte)&^backslash | (x-' '*eachByte)&^x) & highBits
		if special != 0 {
			return n + bits.TrailingZeros64(special)/8, high&highBits != 0
		}
		n += 8
	}
	for n < len(s) && s[n] >= ' ' && s[n] != '"' && s[n] != '\\' {
		high |= uint64(s[n])
		n++
	}
	return n, high&highBits != 0
}

// hexValue is the value of a hex digit, or 0xff.
var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
		if v, err := strconv.ParseUint(string(rune(i)), 16, 8); err == nil && i < utf8.RuneSelf {
			t[i] = byte(v)
		}
	}
	return t
}()

// byteaEncoder writes the first limit bytes of a bytea, given as \x and hex digits, in standard base64.
// One may be left unfinished where dst has become longer than end.
func byteaEncoder(limit int, end *int) valueEncoder {
	const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return func(dst, text []byte) ([]byte, error) {
		if len(text) < 2 || len(text)%2 != 0 || text[0] != '\\' || text[1] != 'x' {
			return dst, badText(`bytea as \x and pairs of hex digits`, text)
		}
		digits := text[2:]
		if hex.DecodedLen(len(digits)) > limit {
			digits = digits[:hex.EncodedLen(limit)]
		}
		if end != nil { // three digits of hex are two of base64
			digits = digits[:min(len(digits), 6*(max(0, *end-len(dst))/4+1))]
		}
		dst = append(slices.Grow(dst, 2*len(digits)/3+6), '"')
		var bad byte // has a high bit once a digit was none
		for len(digits) >= 6 {
			// Three hex digits are twelve bits are two base64 digits.
			a, b, c := hexValue[digits[0]], hexValue[digits[1]], hexValue[digits[2]]
			d, e, f := hexValue[digits[3]], hexValue[digits[4]], hexValue[digits[5]]
			bad |= a | b | c | d | e | f
			dst = append(dst, base64[(a<<2|b>>2)&63], base64[(b<<4|c)&63], base64[(d<<2|e>>2)&63], base64[(e<<4|f)&63])
			digits = digits[6:]
		}
		switch len(digits) {
		case 2:
			a, b := hexValue[digits[0]], hexValue[digits[1]]
			bad |= a | b
			dst = append(dst, base64[(a<<2|b>>2)&63], base64[(b<<4)&63], '=', '=')
		case 4:
			a, b, c, d := hexValue[digits[0]], hexValue[digits[1]], hexValue[digits[2]], hexValue[digits[3]]
			bad |= a | b | c | d
			dst = append(dst, base64[(a<<2|b>>2)&63], base64[(b<<4|c)&63], base64[(d<<2)&63], '=')
		}
		if bad&0x80 != 0 {
			return dst, badText(`bytea as \x and pairs of hex digits`, text)
		}
		return append(dst, '"'), nil
	}
}

// jsonEncoder writes json and jsonb as they are, without white space; beyond limit bytes, a mark in their place.
func jsonEncoder(limit int) valueEncoder {
	return func(dst, text []byte) ([]byte, error) {
		if len(text) > limit {
			dst = append(dst, `{"flow_truncated":true,"original_size":`...)
			dst = strconv.AppendInt(dst, int64(len(text)), 10)
			return append(dst, '}'), nil
		}
		if !utf8.Valid(text) {
			text = appendValidUTF8(nil, text)
		}
		return appendMinified(dst, text)
	}
}

// What may come next in a JSON text.
type jsonWant byte

const (
	wantValue jsonWant = iota
	wantFirstValue
	wantKey
	wantFirstKey
	wantColon
	wantComma // or the end of the object or array
	wantNothing
)

// appendMinified appends a JSON text without white space between its tokens. Numbers, order and repetition of keys stay
// as they are; escapes of half a surrogate pair, which the server lets through, become that of U+FFFD. A text that is
// not JSON is an error, so that nothing can spoil the document around it.
func appendMinified(dst, text []byte) ([]byte, error) {
	var space [64]byte
	open := space[:0] // braces and brackets we are in
	want := wantValue
	for i := 0; i < len(text); {
		c := text[i]
		switch c {
		case ' ', '\n', '\t', '\r':
			i++
			continue
		case ',':
			if want != wantComma {
				return dst, badJSON(text, i)
			}
			if want = wantValue; open[len(open)-1] == '{' {
				want = wantKey
			}
			i++
		case ':':
			if want != wantColon {
				return dst, badJSON(text, i)
			}
			want = wantValue
			i++
		case '{', '[':
			if want > wantFirstValue {
				return dst, badJSON(text, i)
			}
			open = append(open, c)
			if want = wantFirstValue; c == '{' {
				want = wantFirstKey
			}
			i++
		case '}', ']':
			// '{' and '}', '[' and ']' are two apart in ASCII.
			empty := wantFirstValue
			if c == '}' {
				empty = wantFirstKey
			}
			if len(open) == 0 || open[len(open)-1] != c-2 || want != wantComma && want != empty {
				return dst, badJSON(text, i)
			}
			open = open[:len(open)-1]
			want = afterValue(open)
			i++
		case '"':
			if want > wantFirstKey {
				return dst, badJSON(text, i)
			}
			if want >= wantKey {
				want = wantColon
			} else {
				want = afterValue(open)
			}
			var end int
			if dst, end = appendMinifiedString(dst, text, i); end < 0 {
				return dst, badJSON(text, i)
			}
			i = end
			continue
		default:
			end := scanJSONAtom(text, i)
			if end < 0 || want > wantFirstValue {
				return dst, badJSON(text, i)
			}
			dst = append(dst, text[i:end]...)
			want = afterValue(open)
			i = end
			continue
		}
		dst = append(dst, c)
	}
	if want != wantNothing {
		return dst, badJSON(text, len(text))
	}
	return dst, nil
}

func afterValue(open []byte) jsonWant {
	if len(open) == 0 {
		return wantNothing
	}
	return wantComma
}

func badJSON(text []byte, at int) error {
	return badText(fmt.Sprintf("json, which byte %d is not", at), text)
}

// appendMinifiedString appends the JSON string that starts at text[i] and returns where it ends, or -1 if it does not.
func appendMinifiedString(dst, text []byte, i int) ([]byte, int) {
	dst = append(dst, '"')
	i++
	for {
		run, _ := plainRun(text[i:])
		dst = append(dst, text[i:i+run]...)
		i += run
		if i >= len(text) || text[i] < ' ' {
			return dst, -1
		}
		if text[i] == '"' {
			return append(dst, '"'), i + 1
		}
		if i+1 >= len(text) {
			return dst, -1
		}
		switch c := text[i+1]; c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			dst = append(dst, '\\', c)
			i += 2
		case 'u':
			unit := hexUnit(text, i)
			length := 6
			switch {
			case unit < 0:
				return dst, -1
			case unit >= 0xd800 && unit < 0xdc00:
				if low := hexUnit(text, i+6); low < 0xdc00 || low >= 0xe000 {
					unit = utf8.RuneError
					break
				}
				length = 12
			case unit >= 0xdc00 && unit < 0xe000:
				unit = utf8.RuneError
			}
			if unit == utf8.RuneError {
				dst = append(dst, `\uFFFD`...)
			} else {
				dst = append(dst, text[i:i+length]...)
			}
			i += length
		default:
			return dst, -1
		}
	}
}

// hexUnit returns the UTF-16 code unit of the escape \uXXXX at text[i], or -1 if there is none.
func hexUnit(text []byte, i int) int {
	if len(text)-i < 6 || text[i] != '\\' || text[i+1] != 'u' {
		return -1
	}
	a, b, c, d := hexValue[text[i+2]], hexValue[text[i+3]], hexValue[text[i+4]], hexValue[text[i+5]]
	if (a|b|c|d)&0x80 != 0 {
		return -1
	}
	return int(a)<<12 | int(b)<<8 | int(c)<<4 | int(d)
}

// scanJSONAtom returns where the number, true, false or null that starts at text[i] ends, or -1 if there is none.
func scanJSONAtom(text []byte, i int) int {
	for _, word := range [...]string{"true", "false", "null"} {
		if text[i] == word[0] {
			if len(text)-i >= len(word) && string(text[i:i+len(word)]) == word {
				return i + len(word)
			}
			return -1
		}
	}
	if text[i] == '-' {
		i++
	}
	whole := skipDigits(text, i)
	if whole == i || text[i] == '0' && whole > i+1 {
		return -1
	}
	i = whole
	if i < len(text) && text[i] == '.' {
		end := skipDigits(text, i+1)
		if end == i+1 {
			return -1
		}
		i = end
	}
	if i < len(text) && text[i]|0x20 == 'e' {
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		end := skipDigits(text, i)
		if end == i {
			return -1
		}
		i = end
	}
	return i
}
