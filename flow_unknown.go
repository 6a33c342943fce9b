// flow_unknown.go finds the fields of a request that this version of the protocol library does not know: newer runtimes add some,
// which is no fault of theirs (spec/platform-2026.md §2).
// Invariant: it only looks, and only where debug logs are asked for.

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protowire"
)

// linkedFields are the fields that flow_linked.go reads.
var linkedFields = map[reflect.Type]struct {
	number protowire.Number
	name   string
}{
	reflect.TypeFor[pf.CaptureSpec]():              {fieldSpecTable, "linkedCollections"},
	reflect.TypeFor[pf.CaptureSpec_Binding]():      {fieldSpecIndex, "collectionIndex"},
	reflect.TypeFor[pc.Request_Validate]():         {fieldValidateTable, "linkedCollections"},
	reflect.TypeFor[pc.Request_Validate_Binding](): {fieldValidateIndex, "collectionIndex"},
}

// logUnknownProto logs the fields of a decoded request that are not known, by number. Of templates for shards and journals, which are
// another library's, that does not keep them.
func logUnknownProto(r *pc.Request) {
	if logrus.IsLevelEnabled(logrus.DebugLevel) {
		found := make(unknownFields)
		found.proto(reflect.ValueOf(r).Elem(), "")
		found.log()
	}
}

// logUnknownJSON logs those of a line, by name.
func logUnknownJSON(line []byte) {
	if !logrus.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	var value any
	if json.Unmarshal(line, &value) != nil {
		return // told by who decodes it
	}
	found := make(unknownFields)
	found.json(reflect.TypeFor[pc.Request](), value, "")
	found.log()
}

// unknownFields are paths from the request to a field; those of all elements of a list are one.
type unknownFields map[string]bool

func (u unknownFields) log() {
	if len(u) > 0 {
		logrus.Debugf("fields of a request that this connector does not know: %s", strings.Join(slices.Sorted(maps.Keys(u)), ", "))
	}
}

func (u unknownFields) proto(message reflect.Value, path string) {
	kind := message.Type()
	for i := range kind.NumField() {
		field, value := kind.Field(i), message.Field(i)
		if field.Name == "XXX_unrecognized" {
			u.numbers(kind, value.Bytes(), path)
			continue
		}
		names := namesOfField(field)
		if names == nil || messageType(field.Type) == nil {
			continue
		}
		if value.Kind() != reflect.Slice {
			u.protoField(value, path+names[0]+".")
			continue
		}
		for j := range value.Len() {
			u.protoField(value.Index(j), path+names[0]+".")
		}
	}
}

func (u unknownFields) protoField(value reflect.Value, path string) {
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return
		}
		value = value.Elem()
	}
	u.proto(value, path)
}

// numbers adds the fields of what the library could not place in a message of the kind.
func (u unknownFields) numbers(kind reflect.Type, raw []byte, path string) {
	for len(raw) > 0 {
		number, _, n := protowire.ConsumeField(raw)
		if n < 0 {
			return
		}
		if linkedFields[kind].number != number {
			u[fmt.Sprint(path, number)] = true
		}
		raw = raw[n:]
	}
}

func (u unknownFields) json(kind reflect.Type, value any, path string) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			u.json(kind, element, path)
		}
	case map[string]any:
		fields := map[string]reflect.StructField{}
		for i := range kind.NumField() {
			for _, name := range namesOfField(kind.Field(i)) {
				fields[name] = kind.Field(i)
			}
		}
		for name, member := range value {
			field, ok := fields[name]
			switch {
			case ok:
				if message := messageType(field.Type); message != nil {
					u.json(message, member, path+name+".")
				}
			case linkedFields[kind].name != name:
				u[path+name] = true
			}
		}
	}
}

// namesOfField returns the JSON name of a message's field and its name in the protocol; nil if it is not one of the protocol.
func namesOfField(field reflect.StructField) []string {
	tag := field.Tag.Get("protobuf")
	if tag == "" {
		return nil
	}
	var names []string
	for _, key := range []string{"json=", "name="} {
		for part := range strings.SplitSeq(tag, ",") {
			if name, ok := strings.CutPrefix(part, key); ok {
				names = append(names, name)
			}
		}
	}
	return names
}

// messageType is the message that a field holds, or a list of; nil for other fields, such as JSON and bytes.
func messageType(kind reflect.Type) reflect.Type {
	if kind.Kind() == reflect.Slice {
		kind = kind.Elem()
	}
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if kind.Kind() != reflect.Struct || kind.NumField() == 0 || namesOfField(kind.Field(0)) == nil {
		return nil
	}
	return kind
}
