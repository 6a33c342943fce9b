// config_object.go owns the strict reading of a JSON object that a person wrote.
//
// Invariant: a property is read as the type asked for or it is a fault, one nobody asked for is a fault, and all faults
// are found before any is reported. Faults show names and kinds; of values only a choice's.

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// faults collects sentences about what the user wrote.
type faults struct{ sentences []string }

func (f *faults) add(format string, args ...any) {
	f.sentences = append(f.sentences, fmt.Errorf(format, args...).Error())
}

// err returns the faults as one *userError, or nil.
func (f *faults) err(subject string) error {
	switch len(f.sentences) {
	case 0:
		return nil
	case 1:
		return &userError{subject + ": " + f.sentences[0]}
	}
	return &userError{fmt.Sprintf("%s: %d faults\n%s", subject, len(f.sentences), strings.Join(f.sentences, "\n"))}
}

// object is a JSON object being read property by property: each getter takes one, and refuseRest refuses what no
// getter asked for. A property that is null counts as absent.
type object struct {
	path   string // of the object with a dot behind it; "" for the root
	props  map[string]json.RawMessage
	broken bool            // there, but no object: a fault already
	known  []string        // names asked for
	faulty map[string]bool // those of a wrong type: a fault already
	found  *faults
}

func parseObject(raw json.RawMessage, path string, found *faults) *object {
	o := &object{path: path, found: found, faulty: map[string]bool{}}
	if jsonKind(raw) == "null" && path != "" {
		return o
	}
	if err := json.Unmarshal(raw, &o.props); err != nil || o.props == nil {
		o.props, o.broken = nil, true
		name := strings.TrimSuffix(path, ".")
		var syntax *json.SyntaxError
		switch {
		case errors.As(err, &syntax):
			found.add("%s is not valid JSON at byte %d of %d", cmp.Or(name, "the text"), syntax.Offset, len(raw))
		default:
			found.add("%s must be an object, but is %s", cmp.Or(name, "it"), jsonKind(raw))
		}
	}
	return o
}

// take returns a property's text, or nil when it is absent or null.
func (o *object) take(name string) json.RawMessage {
	o.known = append(o.known, name)
	raw := o.props[name]
	if jsonKind(raw) == "null" {
		return nil
	}
	return raw
}

// wrongType adds the fault of a property that is not what it must be. It does not show the value.
func (o *object) wrongType(name, want string, raw json.RawMessage) {
	o.faulty[name] = true
	remedy := ""
	if kind := jsonKind(raw); want == "a string" && (kind == "a number" || kind == "a boolean") {
		remedy = ": put it in quotes"
	}
	o.found.add("%s%s must be %s, but is %s%s", o.path, name, want, jsonKind(raw), remedy)
}

func (o *object) text(name string) (text string) {
	if raw := o.take(name); raw != nil && json.Unmarshal(raw, &text) != nil {
		o.wrongType(name, "a string", raw)
	}
	return text
}

// has reports whether a property is a text that is not empty, without taking it.
func (o *object) has(name string) bool {
	var text string
	return json.Unmarshal(o.props[name], &text) == nil && text != ""
}

// tolerate accepts properties of any type without reading them.
func (o *object) tolerate(names ...string) { o.known = append(o.known, names...) }

// required is a text that must not be empty.
func (o *object) required(name, remedy string) string {
	text := o.text(name)
	if text == "" && !o.faulty[name] {
		o.found.add("%s%s is missing: %s", o.path, name, remedy)
		return ""
	}
	return text
}

func (o *object) flag(name string) (on bool) {
	if raw := o.take(name); raw != nil && json.Unmarshal(raw, &on) != nil {
		o.wrongType(name, "true or false", raw)
	}
	return on
}

// integer accepts 50000, and 5e4 and 50000.0 as JSON Schema does.
func (o *object) integer(name string) int {
	raw := o.take(name)
	if raw == nil {
		return 0
	}
	if n, err := strconv.Atoi(string(raw)); err == nil {
		return n
	}
	const exact = 1 << 53 // beyond, floats skip integers
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f == math.Trunc(f) && math.Abs(f) <= exact {
		return int(f)
	}
	o.wrongType(name, "a whole number", raw)
	return 0
}

func (o *object) list(name string) (list []string) {
	raw := o.take(name)
	if raw == nil {
		return nil
	}
	var items []*string // null is no string
	if json.Unmarshal(raw, &items) != nil || slices.Contains(items, nil) {
		o.wrongType(name, "a list of strings", raw)
		return nil
	}
	for _, item := range items {
		list = append(list, *item)
	}
	return list
}

// choice returns a text that is one of the choices, of which the first is the default.
func (o *object) choice(name string, choices ...string) string {
	text := o.text(name)
	if text == "" {
		return choices[0]
	}
	if !slices.Contains(choices, text) {
		quoted := make([]string, len(choices))
		for i, c := range choices {
			quoted[i] = strconv.Quote(c)
		}
		o.faulty[name] = true
		o.found.add("%s%s is %q, but must be one of %s", o.path, name, text, strings.Join(quoted, ", "))
	}
	return text
}

func (o *object) object(name string) *object {
	raw := o.take(name)
	if raw == nil {
		raw = json.RawMessage("null")
	}
	return parseObject(raw, o.path+name+".", o.found)
}

// refuseRest refuses the properties that were not asked for.
func (o *object) refuseRest() {
	for _, name := range slices.Sorted(maps.Keys(o.props)) {
		if slices.Contains(o.known, name) {
			continue
		}
		remedy := "remove it"
		if i := slices.IndexFunc(o.known, func(k string) bool { return plainName(k) == plainName(name) }); i >= 0 {
			remedy = "did you mean " + o.path + o.known[i] + "?"
		}
		o.found.add("%s%s is not a known property: %s", o.path, name, remedy)
	}
}

// plainName makes slot_name, SlotName and slotName alike.
func plainName(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(name))
}

// jsonKind names the kind of a JSON value by its first byte.
func jsonKind(raw json.RawMessage) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return "nothing"
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}
