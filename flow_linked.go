// flow_linked.go owns the indirect form of specs: a table of collections, into which each binding has an index instead of a
// collection of its own (spec/platform-2026.md §2). Newer runtimes send it; the protocol library knows it under no name yet, so
// it is read by field number and by JSON name.
// Invariant: behind it every binding of a request has the collection that its spec means, in either form, and nothing else of
// the connector knows that there are two. Entries of the table are shared, not copied.

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of flow.CaptureSpec and its bindings; those of a Validate request are its next free ones, since nobody has
// seen them yet: what stands there may be something else.
const (
	fieldSpecTable     protowire.Number = 12
	fieldSpecIndex     protowire.Number = 6
	fieldValidateTable protowire.Number = 7
	fieldValidateIndex protowire.Number = 4
)

// collectionTable is the table of one spec and the indexes of its bindings, and of its inactive ones. Bindings behind the end
// of a list have index 0.
type collectionTable struct {
	collections       []pf.CollectionSpec
	indexes, inactive []uint32
}

// at returns the collection of a binding, given its index or, without one, 0.
func (t *collectionTable) at(indexes []uint32, binding int) (*pf.CollectionSpec, error) {
	index := uint32(0)
	if binding < len(indexes) {
		index = indexes[binding]
	}
	if int(index) >= len(t.collections) {
		return nil, fmt.Errorf("collectionIndex is %d, and linkedCollections has %d entries", index, len(t.collections))
	}
	return &t.collections[index], nil
}

// resolve gives the bindings of a spec their collections. Without a table they have them already.
func (t *collectionTable) resolve(spec *pf.CaptureSpec) error {
	if spec == nil || len(t.collections) == 0 {
		return nil
	}
	for _, list := range []struct {
		name     string
		bindings []*pf.CaptureSpec_Binding
		indexes  []uint32
	}{{"bindings", spec.Bindings, t.indexes}, {"inactiveBindings", spec.InactiveBindings, t.inactive}} {
		for i, b := range list.bindings {
			if b == nil {
				continue // told by checkCapture
			}
			collection, err := t.at(list.indexes, i)
			if err != nil {
				return fmt.Errorf("%s[%d]: %w", list.name, i, err)
			}
			b.Collection = *collection
		}
	}
	return nil
}

// resolveValidate does the same for a Validate request.
func (t *collectionTable) resolveValidate(v *pc.Request_Validate) error {
	if len(t.collections) == 0 {
		return nil
	}
	for i, b := range v.Bindings {
		if b == nil {
			continue
		}
		collection, err := t.at(t.indexes, i)
		if err != nil {
			return fmt.Errorf("bindings[%d]: %w", i, err)
		}
		b.Collection = *collection
	}
	return nil
}

// linkProto resolves the indirect specs of a request that was decoded from protobuf.
func linkProto(r *pc.Request) error {
	return linkWith(r, func(spec *pf.CaptureSpec, _ ...string) (*collectionTable, error) {
		t := &collectionTable{}
		var err error
		if t.collections, err = linkedCollections(spec.XXX_unrecognized, fieldSpecTable); err != nil || t.collections == nil {
			return t, err
		}
		for _, b := range spec.Bindings {
			t.indexes = append(t.indexes, linkedIndex(b.XXX_unrecognized, fieldSpecIndex))
		}
		for _, b := range spec.InactiveBindings {
			t.inactive = append(t.inactive, linkedIndex(b.XXX_unrecognized, fieldSpecIndex))
		}
		return t, nil
	}, func(v *pc.Request_Validate) (*collectionTable, error) {
		t := &collectionTable{}
		var err error
		if t.collections, err = linkedCollections(v.XXX_unrecognized, fieldValidateTable); err != nil {
			logrus.Debugf("field %d of the validation is no table of collections: %v", fieldValidateTable, err)
			return &collectionTable{}, nil
		}
		for _, b := range v.Bindings {
			t.indexes = append(t.indexes, linkedIndex(b.XXX_unrecognized, fieldValidateIndex))
		}
		return t, nil
	})
}

// linkWith resolves every spec of a request with its table: ofSpec's, which is told where in the request it stands, or
// ofValidate's.
func linkWith(r *pc.Request, ofSpec func(spec *pf.CaptureSpec, path ...string) (*collectionTable, error),
	ofValidate func(*pc.Request_Validate) (*collectionTable, error),
) error {
	link := func(spec *pf.CaptureSpec, path ...string) error {
		if spec == nil {
			return nil
		}
		t, err := ofSpec(spec, path...)
		if err == nil {
			err = t.resolve(spec)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path[0], path[1], err)
		}
		return nil
	}
	switch {
	case r.Validate != nil:
		t, err := ofValidate(r.Validate)
		if err == nil {
			err = t.resolveValidate(r.Validate)
		}
		if err != nil {
			return fmt.Errorf("validate: %w", err)
		}
		return link(r.Validate.LastCapture, "validate", "lastCapture")
	case r.Apply != nil:
		if err := link(r.Apply.Capture, "apply", "capture"); err != nil {
			return err
		}
		return link(r.Apply.LastCapture, "apply", "lastCapture")
	case r.Open != nil:
		return link(r.Open.Capture, "open", "capture")
	}
	return nil
}

// linkedCollections reads the entries of a table from the fields of a message that the library does not know.
func linkedCollections(unknown []byte, table protowire.Number) (collections []pf.CollectionSpec, err error) {
	for len(unknown) > 0 {
		number, kind, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return nil, fmt.Errorf("fields that are not known: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(number, kind, unknown[n:])
		if size < 0 {
			return nil, fmt.Errorf("field %d: %w", number, protowire.ParseError(size))
		}
		if number == table && kind == protowire.BytesType {
			body, _ := protowire.ConsumeBytes(unknown[n:])
			collections = append(collections, pf.CollectionSpec{})
			if err := collections[len(collections)-1].Unmarshal(body); err != nil {
				return nil, fmt.Errorf("linkedCollections[%d]: %w", len(collections)-1, err)
			}
		}
		unknown = unknown[n+size:]
	}
	return collections, nil
}

// linkedIndex reads an index likewise; 0 without one.
func linkedIndex(unknown []byte, index protowire.Number) (value uint32) {
	for len(unknown) > 0 {
		number, kind, n := protowire.ConsumeTag(unknown)
		if n < 0 {
			return value
		}
		size := protowire.ConsumeFieldValue(number, kind, unknown[n:])
		if size < 0 {
			return value
		}
		if number == index && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(unknown[n:])
			value = uint32(v)
		}
		unknown = unknown[n+size:]
	}
	return value
}

// linkedJSON is what the library leaves out of a request in JSON.
type linkedJSON struct {
	LinkedCollections []json.RawMessage `json:"linkedCollections"`
	Bindings          []linkedBinding   `json:"bindings"`
	InactiveBindings  []linkedBinding   `json:"inactiveBindings"`
	Capture           *linkedJSON       `json:"capture"`
	LastCapture       *linkedJSON       `json:"lastCapture"`
}

type linkedBinding struct {
	CollectionIndex json.RawMessage `json:"collectionIndex"` // a number, which JSON may have as a text
}

// index is 0 where there is none.
func (b *linkedBinding) index() (uint32, error) {
	text := strings.Trim(string(b.CollectionIndex), `"`)
	if text == "" || text == "null" {
		return 0, nil
	}
	index, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("collectionIndex is %.40s, and must be a number from 0 on", b.CollectionIndex)
	}
	return uint32(index), nil
}

// linkJSON resolves the indirect specs of a request that was decoded from a line of JSON.
func linkJSON(r *pc.Request, line []byte) error {
	if !bytes.Contains(line, []byte(`"linkedCollections"`)) {
		return nil
	}
	var requests map[string]json.RawMessage
	if err := json.Unmarshal(line, &requests); err != nil {
		return err
	}
	forms := make(map[string]*linkedJSON)
	for _, kind := range [...]string{"validate", "apply", "open"} {
		if raw := requests[kind]; raw != nil {
			form := &linkedJSON{}
			if err := json.Unmarshal(raw, form); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
			forms[kind] = form
		}
	}
	return linkWith(r, func(_ *pf.CaptureSpec, path ...string) (*collectionTable, error) {
		form := forms[path[0]]
		if form != nil && path[1] == "lastCapture" {
			form = form.LastCapture
		} else if form != nil {
			form = form.Capture
		}
		return form.table()
	}, func(*pc.Request_Validate) (*collectionTable, error) { return forms["validate"].table() })
}

// table is the spec's table; a nil form has none.
func (form *linkedJSON) table() (*collectionTable, error) {
	t := &collectionTable{}
	if form == nil || len(form.LinkedCollections) == 0 {
		return t, nil
	}
	t.collections = make([]pf.CollectionSpec, len(form.LinkedCollections))
	for i, raw := range form.LinkedCollections {
		if err := (&jsonpb.Unmarshaler{AllowUnknownFields: true}).Unmarshal(bytes.NewReader(raw), &t.collections[i]); err != nil {
			return nil, fmt.Errorf("linkedCollections[%d]: %w", i, err)
		}
	}
	for i := range form.Bindings {
		index, err := form.Bindings[i].index()
		if err != nil {
			return nil, fmt.Errorf("bindings[%d]: %w", i, err)
		}
		t.indexes = append(t.indexes, index)
	}
	for i := range form.InactiveBindings {
		index, err := form.InactiveBindings[i].index()
		if err != nil {
			return nil, fmt.Errorf("inactiveBindings[%d]: %w", i, err)
		}
		t.inactive = append(t.inactive, index)
	}
	return t, nil
}
