package main

// kit_sourced_test.go judges sourced schemas: what a document has must be told by the last one before it.

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// judgeSourced checks every committed document against the sourced schemas of its binding that came before it, in the
// order of the connector's output: the last of them must have the document's fields, and each field's value must be valid.
// A field may be NULL whatever the schema says, and one may be absent (an unchanged value, a delete by its key): those
// schemas widen what the collection may hold, they do not bind documents.
func (r *testRuntime) judgeSourced() {
	r.t.Helper()
	r.mu.Lock()
	schemas := slices.Clone(r.schemas)
	r.mu.Unlock()
	compiled := make(map[string]*jsonschema.Schema)
	for _, d := range r.documents() {
		var last *testDocument
		for i := range schemas {
			if s := &schemas[i]; s.table == d.table && s.order < d.order {
				last = s
			}
		}
		if last == nil {
			r.t.Fatalf("a document of %s has no sourced schema before it: %s", d.table, abridged(d.doc))
			return
		}
		fields := compiled[last.doc]
		if fields == nil {
			var err error
			if fields, err = compileSourced(last.doc); err != nil {
				r.t.Fatalf("the sourced schema %s: %v", last.doc, err)
			}
			compiled[last.doc] = fields
		}
		if err := validateSourced(fields, d.doc); err != nil {
			r.t.Fatalf("%s: document %s\nis not what its sourced schema says: %v\n%s", d.table, abridged(d.doc), err, last.doc)
		}
	}
}

// compileSourced compiles the columns of a sourced schema, each of which may be absent.
func compileSourced(raw string) (*jsonschema.Schema, error) {
	var s struct {
		Definitions map[string]struct {
			Properties map[string]json.RawMessage `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		return nil, err
	}
	if len(s.Definitions) != 1 {
		return nil, fmt.Errorf("want one definition, have %d", len(s.Definitions))
	}
	for _, d := range s.Definitions {
		fields, err := json.Marshal(map[string]any{"properties": d.Properties, "additionalProperties": false})
		if err != nil {
			return nil, err
		}
		return compileSchema(fields)
	}
	return nil, nil
}

// validateSourced validates the fields of a document and of its old row that are not NULL.
func validateSourced(fields *jsonschema.Schema, doc string) error {
	var row map[string]json.RawMessage
	var meta struct {
		Before map[string]json.RawMessage `json:"before"`
	}
	if err := json.Unmarshal([]byte(doc), &row); err != nil {
		return err
	}
	if err := json.Unmarshal(row[metaColumn], &meta); err != nil {
		return err
	}
	delete(row, metaColumn)
	for _, fieldsOf := range []map[string]json.RawMessage{row, meta.Before} {
		for name, value := range fieldsOf {
			if string(value) == "null" {
				delete(fieldsOf, name)
			}
		}
		if fieldsOf == nil {
			continue
		}
		raw, err := json.Marshal(fieldsOf)
		if err != nil {
			return err
		}
		if err := validateDocument(fields, raw); err != nil {
			return err
		}
	}
	return nil
}
