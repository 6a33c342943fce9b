package main

// preview_linked.go turns requests into the indirect form of newer runtimes (spec/platform-2026.md §2): by field number and JSON
// name, and with nothing of flow_linked.go, which reads them.
//
// Invariant: an indirect request means what the inline one does that it was made of.

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// appendIndirectRequest appends one framed request, whose specs have a table of collections and an index into it per binding.
func appendIndirectRequest(dst []byte, request *pc.Request, c codec) ([]byte, error) {
	if request.Validate == nil && request.Apply == nil && request.Open == nil {
		return appendRequest(dst, request, c)
	}
	if c == codecJSON {
		text, err := new(jsonpb.Marshaler).MarshalToString(request)
		if err != nil {
			return dst, err
		}
		line, err := indirectJSON(text)
		return append(append(dst, line...), '\n'), err
	}
	body, err := indirectProto(request)
	if err != nil {
		return dst, err
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...), nil
}

// indirection is the table that is made of the collections that bindings have inline.
type indirection struct {
	places map[pf.Collection]uint32
	fields []byte // of the table, as protobuf
}

// place has the table, whose field is number, hold the collection, and returns the field of its index.
func (in *indirection) place(table, index protowire.Number, c *pf.CollectionSpec) ([]byte, error) {
	place, ok := in.places[c.Name]
	if !ok {
		body, err := c.Marshal()
		if err != nil {
			return nil, err
		}
		place = uint32(len(in.places))
		in.places[c.Name] = place
		in.fields = protowire.AppendBytes(protowire.AppendTag(in.fields, table, protowire.BytesType), body)
	}
	if place == 0 {
		return nil, nil // as proto3 leaves it out
	}
	return protowire.AppendVarint(protowire.AppendTag(nil, index, protowire.VarintType), uint64(place)), nil
}

// indirectProto encodes a request in the indirect form.
func indirectProto(r *pc.Request) (body []byte, err error) {
	var failed error
	spec := func(inline *pf.CaptureSpec) *pf.CaptureSpec {
		if inline == nil {
			return nil
		}
		s, in := *inline, indirection{places: map[pf.Collection]uint32{}}
		for _, list := range []*[]*pf.CaptureSpec_Binding{&s.Bindings, &s.InactiveBindings} {
			*list = slices.Clone(*list)
			for i, b := range *list {
				indirect := *b
				indirect.Collection = pf.CollectionSpec{}
				if indirect.XXX_unrecognized, err = in.place(12, 6, &b.Collection); err != nil {
					failed = err
				}
				(*list)[i] = &indirect
			}
		}
		s.XXX_unrecognized = in.fields
		return &s
	}
	request := *r
	switch {
	case r.Validate != nil:
		v, in := *r.Validate, indirection{places: map[pf.Collection]uint32{}}
		v.Bindings = slices.Clone(v.Bindings)
		for i, b := range v.Bindings {
			indirect := *b
			indirect.Collection = pf.CollectionSpec{}
			if indirect.XXX_unrecognized, err = in.place(7, 4, &b.Collection); err != nil {
				failed = err
			}
			v.Bindings[i] = &indirect
		}
		v.XXX_unrecognized = in.fields
		v.LastCapture = spec(v.LastCapture)
		request.Validate = &v
	case r.Apply != nil:
		apply := *r.Apply
		apply.Capture, apply.LastCapture = spec(apply.Capture), spec(apply.LastCapture)
		request.Apply = &apply
	case r.Open != nil:
		open := *r.Open
		open.Capture = spec(open.Capture)
		request.Open = &open
	}
	if failed != nil {
		return nil, failed
	}
	return request.Marshal()
}

// indirectJSON turns the JSON of a request into the indirect form.
func indirectJSON(text string) ([]byte, error) {
	var request map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		return nil, err
	}
	if err := indirectMembers(request, "validate", "apply", "open"); err != nil {
		return nil, err
	}
	return json.Marshal(request)
}

// indirectObject does so with an object that has bindings, or members that have.
func indirectObject(spec map[string]json.RawMessage) error {
	var table []json.RawMessage
	places := map[string]int{}
	for _, list := range []string{"bindings", "inactiveBindings"} {
		if spec[list] == nil {
			continue
		}
		var bindings []map[string]json.RawMessage
		if err := json.Unmarshal(spec[list], &bindings); err != nil {
			return fmt.Errorf("%s: %w", list, err)
		}
		for _, b := range bindings {
			var collection struct {
				Name string `json:"name"`
			}
			if err := json.Unmarshal(b["collection"], &collection); err != nil {
				return fmt.Errorf("%s: collection: %w", list, err)
			}
			place, ok := places[collection.Name]
			if !ok {
				place = len(table)
				places[collection.Name], table = place, append(table, b["collection"])
			}
			delete(b, "collection")
			if place > 0 {
				b["collectionIndex"] = fmt.Append(nil, place)
			}
		}
		if err := putJSON(spec, list, bindings); err != nil {
			return err
		}
	}
	if table != nil {
		if err := putJSON(spec, "linkedCollections", table); err != nil {
			return err
		}
	}
	return indirectMembers(spec, "capture", "lastCapture")
}

// indirectMembers does so with those members of an object that it has.
func indirectMembers(object map[string]json.RawMessage, names ...string) error {
	for _, name := range names {
		if object[name] == nil {
			continue
		}
		var spec map[string]json.RawMessage
		err := json.Unmarshal(object[name], &spec)
		if err == nil {
			err = indirectObject(spec)
		}
		if err == nil {
			err = putJSON(object, name, spec)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func putJSON(object map[string]json.RawMessage, name string, value any) error {
	text, err := json.Marshal(value)
	object[name] = text
	return err
}

// appendRequest appends one framed request.
func appendRequest(dst []byte, request *pc.Request, c codec) ([]byte, error) {
	if c == codecJSON {
		text, err := new(jsonpb.Marshaler).MarshalToString(request)
		if err != nil {
			return dst, err
		}
		return append(append(dst, text...), '\n'), nil
	}
	body, err := request.Marshal()
	if err != nil {
		return dst, err
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...), nil
}
