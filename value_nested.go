package main

// value_nested.go writes ranges, multiranges and arrays, whose text holds the texts of other values. Invariant: the
// JSON of an inner value is what its own type's encoder writes, or for a range's end the inside of its string.

import (
	"bytes"
	"fmt"
	"strconv"
)

// rangeWriter copies the brackets of a range or multirange and writes its ends through end, without quotes. Texts of
// dates and times hold neither quotes nor backslashes, so that quotes only stand around them: range_deparse,
// rangetypes.c.
func rangeWriter(end valueEncoder) valueEncoder {
	return func(dst, text []byte) ([]byte, error) {
		var err error
		for i := 0; i < len(text); {
			switch c := text[i]; c {
			case '[', '(', ')', ']', '{', '}', ',':
				dst = append(dst, c)
				i++
			case '"':
				n := bytes.IndexByte(text[i+1:], '"')
				if n < 0 {
					return dst, badText("range", text)
				}
				if dst, err = end(dst, text[i+1:i+1+n]); err != nil {
					return dst, fmt.Errorf("range: %w", err)
				}
				i += n + 2
			default:
				n := bytes.IndexAny(text[i:], ",)]")
				if n < 0 {
					n = len(text) - i
				}
				if string(text) == "empty" {
					dst = append(dst, text...)
				} else if dst, err = end(dst, text[i:i+n]); err != nil {
					return dst, fmt.Errorf("range: %w", err)
				}
				i += n
			}
		}
		return dst, nil
	}
}

// arrayShape is what an array of several dimensions becomes.
type arrayShape byte

const (
	arrayFlat   arrayShape = iota // one list of all elements
	arrayNested                   // lists of lists
	arrayLegacy                   // {"elements":[…],"dimensions":[…]}
)

// arrayEncoder writes arrays of one element type. One whose JSON grows beyond limit ends after the element it does so
// with; its dimensions remain those it has.
type arrayEncoder struct {
	element   valueEncoder
	delimiter byte
	shape     arrayShape
	limit     int
	end       *int // as in encodeOptions
	reach     *int // the elements' own: end, and the copy of its text that one is written behind
}

// maxArrayDimensions is MAXDIM of c.h.
const maxArrayDimensions = 6

// encode reads what array_out (arrayfuncs.c) writes: lower bounds where one is not 1, then braces to any depth, all
// elements at the same depth and all lists of one depth of the same length.
func (a *arrayEncoder) encode(dst, text []byte) ([]byte, error) {
	start, body := len(dst), text
	if a.end != nil {
		*a.reach = *a.end
	}
	if len(body) > 0 && body[0] == '[' {
		body = body[bytes.IndexByte(body, '=')+1:]
	}
	if a.shape == arrayLegacy {
		dst = append(dst, `{"elements":`...)
	}
	if string(body) == "{}" {
		dst = append(dst, "[]"...)
		if a.shape == arrayLegacy {
			dst = append(dst, `,"dimensions":[]}`...)
		}
		return dst, nil
	}
	if a.shape != arrayNested {
		dst = append(dst, '[')
	}
	// At each depth, lengths has that of the lists closed so far, and counts how far the open one has come.
	var lengths, counts [maxArrayDimensions + 1]int
	depth, dimensions := 0, 0
	cut, cutDepth := 0, 0 // where the limit was reached: what follows is read, for its dimensions, and not kept
	for i := 0; ; {
		for i < len(body) && body[i] == '{' {
			if depth == maxArrayDimensions {
				return dst, badText(fmt.Sprintf("array of up to %d dimensions", maxArrayDimensions), text)
			}
			depth++
			counts[depth] = 0
			if a.shape == arrayNested {
				dst = append(dst, '[')
			}
			i++
		}
		if dimensions == 0 {
			dimensions = depth
		}
		if depth == 0 || depth != dimensions {
			return dst, badText("array", text)
		}
		var err error
		if dst, i, err = a.appendElement(dst, body, i); err != nil {
			return dst, err
		}
		if i < 0 {
			return dst, badText("array", text)
		}
		switch {
		case cut > 0:
			dst = dst[:cut]
		case len(dst)-start > a.limit, a.end != nil && len(dst) > *a.end:
			cut, cutDepth = len(dst), depth
		}
		counts[depth]++
		for i < len(body) && body[i] == '}' {
			if lengths[depth] == 0 {
				lengths[depth] = counts[depth]
			}
			if lengths[depth] != counts[depth] {
				return dst, badText("array with lists of equal length", text)
			}
			if a.shape == arrayNested {
				dst = append(dst, ']')
			}
			i++
			if depth--; depth == 0 {
				break
			}
			counts[depth]++
		}
		if depth == 0 {
			if i != len(body) {
				return dst, badText("array", text)
			}
			break
		}
		if i >= len(body) || body[i] != a.delimiter {
			return dst, badText("array", text)
		}
		dst = append(dst, ',')
		i++
	}
	if cut > 0 {
		dst = dst[:cut]
		for a.shape == arrayNested && cutDepth > 0 {
			dst = append(dst, ']')
			cutDepth--
		}
	}
	if a.shape != arrayNested {
		dst = append(dst, ']')
	}
	if a.shape == arrayLegacy {
		dst = append(dst, `,"dimensions":[`...)
		for d, n := range lengths[1 : dimensions+1] {
			if d > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(dst, int64(n), 10)
		}
		dst = append(dst, "]}"...)
	}
	return dst, nil
}

// appendElement writes the element that starts at body[i] and returns where its text ends, or -1 if it has no end.
func (a *arrayEncoder) appendElement(dst, body []byte, i int) ([]byte, int, error) {
	if i < len(body) && body[i] == '"' {
		return a.appendQuotedElement(dst, body, i+1)
	}
	end := i
	for end < len(body) && body[end] != a.delimiter && body[end] != '}' {
		if c := body[end]; c == '{' || c == '"' || c == '\\' {
			return dst, -1, nil
		}
		end++
	}
	if end == i {
		return dst, -1, nil
	}
	// An element that is the word itself is quoted.
	if string(body[i:end]) == "NULL" {
		return append(dst, "null"...), end, nil
	}
	dst, err := a.element(dst, body[i:end])
	if err != nil {
		err = fmt.Errorf("array element: %w", err)
	}
	return dst, end, err
}

func (a *arrayEncoder) appendQuotedElement(dst, body []byte, i int) ([]byte, int, error) {
	end := i
	escaped := false
	for end < len(body) && body[end] != '"' {
		if body[end] == '\\' {
			escaped = true
			end++
		}
		end++
	}
	if end >= len(body) {
		return dst, -1, nil
	}
	if escaped {
		dst, err := a.appendEscapedElement(dst, body[i:end])
		return dst, end + 1, err
	}
	dst, err := a.element(dst, body[i:end])
	if err != nil {
		err = fmt.Errorf("array element: %w", err)
	}
	return dst, end + 1, err
}

// appendEscapedElement puts the element without its backslashes at the end of dst, writes the JSON behind it and then
// moves that to its place: the room is dst's own, so nothing is allocated or kept.
func (a *arrayEncoder) appendEscapedElement(dst, escaped []byte) ([]byte, error) {
	start := len(dst)
	for j := 0; j < len(escaped); j++ {
		if escaped[j] == '\\' {
			j++
		}
		dst = append(dst, escaped[j])
	}
	end := len(dst)
	if a.end != nil {
		*a.reach = *a.end + end - start
		defer func() { *a.reach = *a.end }()
	}
	dst, err := a.element(dst, dst[start:end:end])
	if err != nil {
		return dst, fmt.Errorf("array element: %w", err)
	}
	return append(dst[:start], dst[end:]...), nil
}
