package main

// discovery_schema.go owns what a table becomes as a collection: its name, its key and the JSON schemas of its documents.
//
// Invariant: the schemas are those of spec/incumbent.md §4.5 and §4.6, keyword by keyword, since collections that exist
// were made from them; only titles and descriptions are in our words.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// collection is what discovery proposes for one table.
type collection struct {
	name        string   // recommended name
	key         []string // JSON pointers
	fallbackKey bool
	mode        string // resource mode to propose: "" or "Without Primary Key"
	schema      json.RawMessage
}

// fallbackKey is the collection key of a table without one: the place of the change in the log.
var fallbackKey = []string{"/_meta/source/loc/0", "/_meta/source/loc/1", "/_meta/source/loc/2"}

// proposeCollections returns one collection per table, in the tables' order, names unique.
func proposeCollections(tables []*table, types *typeCatalog, s *settings) ([]collection, error) {
	names := recommendedNames(tables)
	collections := make([]collection, len(tables))
	for i, t := range tables {
		c := collection{name: names[i]}
		keyColumns := t.primaryKey
		if keyColumns == nil {
			keyColumns, c.fallbackKey = t.uniqueKey, true
		}
		if keyColumns == nil {
			c.key, c.mode = slices.Clone(fallbackKey), string(modeKeyless)
		}
		for _, name := range keyColumns {
			c.key = append(c.key, columnPointer(name))
		}
		var err error
		if c.schema, err = writeSchema(t, types, keyColumns, s); err != nil {
			return nil, fmt.Errorf("schema of table %s: %w", t.tableName, err)
		}
		collections[i] = c
	}
	return collections, nil
}

// columnPointer is the JSON pointer (RFC 6901) to a column in a document.
func columnPointer(name string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// recommendedNames returns a name for each table, no two alike. Where the plain names collide, the table that comes
// first in byte order has it and each other gets a suffix made from its own exact name.
func recommendedNames(tables []*table) []string {
	names := make([]string, len(tables))
	order := make([]int, len(tables))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return tables[a].compare(tables[b].tableName) })
	taken := make(map[string]bool, len(tables))
	for _, i := range order {
		plain := recommendedName(tables[i].tableName)
		hash := sha256.Sum256([]byte(tables[i].schema + "\x00" + tables[i].name))
		suffix := hex.EncodeToString(hash[:])
		name := plain
		for length := 8; taken[name] && length <= len(suffix); length += 8 {
			name = plain + "_" + suffix[:length]
		}
		taken[name], names[i] = true, name
	}
	return names
}

// recommendedName is the plain name: lower-case schema and table, with what a collection name cannot hold as _.
func recommendedName(t tableName) string {
	component := func(text string) string {
		text = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
				return r
			}
			return '_'
		}, strings.ToLower(text))
		if text == "." || text == ".." { // a path component that means something else
			return strings.Repeat("_", len(text))
		}
		return text
	}
	return component(t.schema) + "/" + component(t.name)
}

// anchorName names the schema of the table's row within the document's: both names with their words capitalised.
func anchorName(t tableName) string { return titleCase(t.schema) + titleCase(t.name) }

// titleCase capitalises the first letter of each word, a word being letters, digits and underscores. Beyond ASCII only
// blanks end a word.
func titleCase(text string) string {
	var inWord bool
	return strings.Map(func(r rune) rune {
		first := !inWord
		inWord = r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || r > unicode.MaxASCII && !unicode.IsSpace(r)
		if first {
			return unicode.ToTitle(r)
		}
		return r
	}, text)
}

// keywords are a JSON schema; encoding/json writes them in order of their names.
type keywords = map[string]any

// writeSchema returns the schema that a discovered collection's documents are validated and reduced by.
func writeSchema(t *table, types *typeCatalog, keyColumns []string, s *settings) (json.RawMessage, error) {
	properties := keywords{}
	for _, c := range tableColumns(t) {
		properties[c.name] = columnSchema(&c, types, keyColumns, s, true)
	}

	meta := metaSchema(t, s)
	metaProperties := meta["properties"].(keywords)
	meta["reduce"] = keywords{"strategy": "merge"}
	metaProperties["before"].(keywords)["reduce"] = keywords{"strategy": "firstWriteWins"}
	if s.historyMode {
		metaProperties["source"].(keywords)["reduce"] = keywords{"strategy": "lastWriteWins", "associative": false}
	}
	isDelete := keywords{"properties": keywords{"_meta": keywords{"properties": keywords{"op": keywords{"const": "d"}}}}}
	return json.Marshal(documentSchema(t, s, properties, keyColumns, keywords{
		"if":         isDelete,
		"then":       keywords{"reduce": keywords{"strategy": "merge", "delete": true}},
		"else":       keywords{"reduce": keywords{"strategy": "merge"}},
		"required":   []string{"_meta"},
		"properties": keywords{"_meta": meta},
	}))
}

// sourcedSchema returns the closed schema of a binding's documents as they are now (spec/incumbent.md §4.6). shape, when
// not nil, is the Relation message in force: its columns win over the table's. keyColumns are those of the collection key.
func sourcedSchema(t *table, shape *relation, types *typeCatalog, keyColumns []string, s *settings) (json.RawMessage, error) {
	columns := tableColumns(t)
	if shape != nil {
		columns = shapeColumns(t, shape)
	}
	properties := keywords{}
	var required []string
	for _, c := range columns {
		properties[c.name] = columnSchema(&c, types, keyColumns, s, false)
		required = append(required, c.name)
	}

	meta := metaSchema(t, s)
	metaProperties := meta["properties"].(keywords)
	meta["additionalProperties"] = false
	metaProperties["before"].(keywords)["unevaluatedProperties"] = false
	metaProperties["source"].(keywords)["additionalProperties"] = false
	document := documentSchema(t, s, properties, required, keywords{
		"required":   []string{"_meta"},
		"properties": keywords{"_meta": meta},
	})
	document["unevaluatedProperties"] = false
	return json.Marshal(document)
}

// tableColumns returns the table's columns that documents have.
func tableColumns(t *table) []column {
	return slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool { return !t.captures(&c) })
}

// shapeColumns returns the columns of a Relation message that documents have, with what the table knows of them.
func shapeColumns(t *table, shape *relation) []column {
	columns := make([]column, 0, len(shape.columns))
	for _, r := range shape.columns {
		if !namesProperty(r.name) {
			continue
		}
		c := column{name: r.name}
		if known := t.column(r.name); known != nil {
			c = *known
		}
		c.typeOID, c.typmod = r.typeOID, r.typmod
		columns = append(columns, c)
	}
	return columns
}

// columnSchema returns the schema of one column. One type of a column that is never null stands alone, else types are a
// list, to which withNull adds "null".
func columnSchema(c *column, types *typeCatalog, keyColumns []string, s *settings, withNull bool) keywords {
	options := s.encodeOptions()
	options.inKey = slices.Contains(keyColumns, c.name)
	words, catchAll := types.schema(c.typeOID, c.typmod, options)
	if names, ok := words["type"].([]string); ok {
		switch {
		case c.notNull && len(names) == 1:
			words["type"] = names[0]
		case !c.notNull && withNull:
			words["type"] = append(slices.Clone(names), "null")
		}
	}

	sourceName := types.sourceName(c.typeOID)
	var description []string
	if catchAll {
		description = append(description,
			fmt.Sprintf("using catch-all schema (unable to translate PostgreSQL type %q into JSON schema)", sourceName))
	}
	if c.comment != "" {
		description = append(description, c.comment)
	}
	if c.notNull {
		sourceName = "non-nullable " + sourceName
	}
	description = append(description, "(source type: "+sourceName+")")
	words["description"] = strings.Join(description, " ")
	return words
}

// metaSchema returns what the write schema and the sourced schema share of a document's _meta.
func metaSchema(t *table, s *settings) keywords {
	source := keywords{
		"ts_ms": keywords{
			"type":        "integer",
			"description": "When the database committed the change, in milliseconds since the Unix epoch.",
		},
		"schema":   keywords{"type": "string", "description": "Schema of the table that the event is from."},
		"snapshot": keywords{"type": "boolean", "description": "True if the row was read by the backfill, else absent."},
		"table":    keywords{"type": "string", "description": "Table that the event is from."},
		"loc": keywords{
			"type":     "array",
			"items":    keywords{"type": "integer"},
			"minItems": 3,
			"maxItems": 3,
			"description": "Place of the event in the write-ahead log, as three log sequence numbers " +
				"(https://www.postgresql.org/docs/current/datatype-pg-lsn.html): end of the last commit before it, " +
				"the event itself, and the commit of its transaction. Events sort by it.",
		},
		"txid": keywords{"type": "integer", "description": "The 32-bit id of the transaction that made the change."},
	}
	if s.sourceTag != "" {
		source["tag"] = keywords{"type": "string", "description": "The tag that the capture's configuration gives its source."}
	}
	return keywords{
		"type":     "object",
		"required": []string{"op", "source"},
		"properties": keywords{
			"before": keywords{
				"$ref":        "#" + anchorName(t.tableName),
				"description": "The row before the change, as far as the table's replica identity tells it.",
			},
			"op": keywords{
				"enum":        []string{"c", "d", "u"},
				"description": "What happened to the row: 'c' for created, 'u' for updated, 'd' for deleted.",
			},
			"source": keywords{
				"type":       "object",
				"required":   []string{"schema", "table", "loc"},
				"properties": source,
			},
		},
	}
}

// documentSchema puts a schema together from those of the columns, the columns that must be present, and the part that
// speaks of _meta.
func documentSchema(t *table, s *settings, properties keywords, required []string, metaPart keywords) keywords {
	anchor := anchorName(t.tableName)
	row := keywords{"$anchor": anchor, "type": "object"}
	if len(properties) > 0 {
		row["properties"] = properties
	}
	if len(required) > 0 {
		row["required"] = slices.Sorted(slices.Values(required))
	}
	document := keywords{
		"$defs": keywords{anchor: row},
		"allOf": []any{metaPart, keywords{"$ref": "#" + anchor}},
	}
	if s.flags.useSchemaInference {
		document["x-infer-schema"] = true
	}
	return document
}
