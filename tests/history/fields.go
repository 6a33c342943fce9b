package history

// fields.go splits a JSON object into its members without decoding the values, and brings values to one spelling.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// field is one member of an object; its parts alias the document.
type field struct {
	name  string
	value []byte // raw JSON
}

// appendFields appends the members of the object doc to dst. It refuses invalid UTF-8, invalid JSON and a name that comes twice.
func appendFields(dst []field, doc []byte) ([]field, error) {
	if !utf8.Valid(doc) {
		return dst, errors.New("invalid UTF-8")
	}
	if !json.Valid(doc) {
		return dst, errors.New("invalid JSON")
	}
	doc = bytes.TrimSpace(doc)
	if doc[0] != '{' {
		return dst, fmt.Errorf("want an object, have %.60s", doc)
	}
	start := len(dst)
	// The document is valid, so that the walk below needs no checks.
	for i := skipSpace(doc, 1); doc[i] != '}'; {
		if doc[i] == ',' {
			i = skipSpace(doc, i+1)
		}
		end := skipValue(doc, i)
		name, err := unquote(doc[i:end])
		if err != nil {
			return dst, err
		}
		i = skipSpace(doc, skipSpace(doc, end)+1) // past the colon
		end = skipValue(doc, i)
		for _, f := range dst[start:] {
			if f.name == name {
				return dst, fmt.Errorf("the name %q comes twice", name)
			}
		}
		dst = append(dst, field{name, doc[i:end]})
		i = skipSpace(doc, end)
	}
	return dst, nil
}

func skipSpace(doc []byte, i int) int {
	for doc[i] == ' ' || doc[i] == '\n' || doc[i] == '\t' || doc[i] == '\r' {
		i++
	}
	return i
}

// skipValue returns the end of the value that starts at i. REQUIRES: doc is valid JSON.
func skipValue(doc []byte, i int) int {
	depth := 0
	for {
		switch doc[i] {
		case '"':
			for i++; doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			i++
			continue
		default:
			for i < len(doc) && !bytes.ContainsRune([]byte(",:]} \n\t\r"), rune(doc[i])) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

func unquote(raw []byte) (string, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// equal tells whether two raw values are the same JSON value; numbers are compared by spelling.
func equal(a, b []byte) bool {
	return bytes.Equal(a, b) || bytes.Equal(canonical(a), canonical(b))
}

// canonical returns the one spelling of a valid value: no blanks, sorted names, shortest escapes.
func canonical(raw []byte) []byte {
	if len(raw) > 0 && raw[0] != '"' && raw[0] != '{' && raw[0] != '[' {
		return raw
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil {
		return raw
	}
	out, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return out
}
