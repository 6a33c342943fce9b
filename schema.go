package main

import "encoding/json"

// collection is what discovery proposes for one table.
type collection struct {
	name        string   // recommended name
	key         []string // JSON pointers
	fallbackKey bool
	mode        string // resource mode to propose: "" or "Without Primary Key"
	schema      json.RawMessage
}

// proposeCollections returns one collection per table, in the tables' order, names unique.
func proposeCollections(tables []*table, types *typeCatalog, s *settings) ([]collection, error) {
	panic("stub")
}

// sourcedSchema returns the closed schema of a binding's documents as they are now (spec/incumbent.md §4.6). shape, when
// not nil, is the Relation message in force: its columns win over the table's. keyColumns are those of the collection key.
func sourcedSchema(t *table, shape *relation, types *typeCatalog, keyColumns []string, s *settings) (json.RawMessage, error) {
	panic("stub")
}
