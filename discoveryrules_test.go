package main

// discoveryrules_test.go holds what discovery and captures say of tables against the rules of the runtime
// (spec/flow-protocol.md §3.7 to §3.10), which refuses a whole publication for one schema that breaks them.
//
// Method: a zoo of tables (every type of the golden file, nullable, not null, as an array and as a key; odd names) is
// discovered under every combination of the options that change schemas. The rules are written here anew, from the
// documents.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// What the runtime knows; every other keyword or format is an error there. Those that hold schemas are in schemaKeywords.
var (
	plainKeywords = strings.Fields(`$schema $id $anchor $ref type required enum const minItems maxItems minLength maxLength format
		title description default contentEncoding contentMediaType reduce`)
	schemaKeywords = strings.Fields(`if then else items additionalProperties unevaluatedProperties`)
	schemaMaps     = strings.Fields(`$defs properties patternProperties`)
	schemaLists    = strings.Fields(`allOf anyOf oneOf`)
	knownFormats   = strings.Fields(`date date-time time uuid number integer`)
	knownTypes     = strings.Fields(`null boolean integer number string array object`)
)

// schemaRules checks one schema.
type schemaRules struct {
	root    map[string]any
	anchors map[string]map[string]any
	sourced bool
	faults  []string
}

func (r *schemaRules) fault(path, format string, args ...any) {
	r.faults = append(r.faults, path+": "+fmt.Sprintf(format, args...))
}

// words checks the keywords of every schema below v, wherever it stands.
func (r *schemaRules) words(path string, v any) {
	schema, ok := v.(map[string]any)
	if !ok {
		if _, ok := v.(bool); !ok {
			r.fault(path, "%T is no schema", v)
		}
		return
	}
	for _, word := range slices.Sorted(maps.Keys(schema)) {
		value, at := schema[word], path+"/"+word
		switch {
		case word == "$anchor":
			if r.anchors[value.(string)] != nil {
				r.fault(at, "%v comes twice", value)
			}
			r.anchors[value.(string)] = schema
		case word == "type":
			names, list := value.([]any)
			if !list {
				names = []any{value}
			}
			for i, name := range names {
				if text, ok := name.(string); !ok || !slices.Contains(knownTypes, text) || slices.Contains(names[:i], name) {
					r.fault(at, "%v", value)
				}
			}
		case word == "format":
			if text, ok := value.(string); !ok || !slices.Contains(knownFormats, text) {
				r.fault(at, "unknown format %v", value)
			}
		case word == "const": // what the relaxed write schema requires (§3.9)
			if _, ok := value.(string); !ok {
				r.fault(at, "%v is no string", value)
			}
		case word == "enum":
			if _, ok := value.([]any); !ok {
				r.fault(at, "%v is no array", value)
			}
		case word == "reduce":
			if r.sourced {
				r.fault(at, "a sourced schema reduces nothing")
			}
		case slices.Contains(schemaKeywords, word):
			r.words(at, value)
		case slices.Contains(schemaMaps, word):
			for name, v := range value.(map[string]any) {
				r.words(at+"/"+name, v)
			}
		case slices.Contains(schemaLists, word):
			for i, v := range value.([]any) {
				r.words(fmt.Sprint(at, "/", i), v)
			}
		case !slices.Contains(plainKeywords, word) && !strings.HasPrefix(word, "x-"):
			r.fault(at, "unknown keyword")
		}
	}
}

// inPlace are the schemas that speak of the same location.
func (r *schemaRules) inPlace(path string, schema map[string]any) (all []map[string]any) {
	all = append(all, schema)
	if ref, ok := schema["$ref"].(string); ok {
		target := r.anchors[strings.TrimPrefix(ref, "#")]
		if target == nil {
			r.fault(path, "$ref %q leads nowhere", ref)
		} else {
			all = append(all, r.inPlace(path, target)...)
		}
	}
	for _, word := range append([]string{"if", "then", "else"}, schemaLists...) {
		switch value := schema[word].(type) {
		case map[string]any:
			if word != "if" {
				all = append(all, r.inPlace(path, value)...)
			}
		case []any:
			for _, v := range value {
				all = append(all, r.inPlace(path, v.(map[string]any))...)
			}
		}
	}
	return all
}

// location checks one place of a document and those below it: where it may have properties, it may have no others.
func (r *schemaRules) location(path string, schemas ...map[string]any) {
	var all []map[string]any
	for _, schema := range schemas {
		all = append(all, r.inPlace(path, schema)...)
	}
	properties := map[string][]map[string]any{}
	closed := false
	for _, schema := range all {
		closed = closed || schema["additionalProperties"] == false || schema["unevaluatedProperties"] == false
		if named, ok := schema["properties"].(map[string]any); ok {
			for name, v := range named {
				properties[name] = append(properties[name], v.(map[string]any))
			}
		}
		if items, ok := schema["items"].(map[string]any); ok {
			r.location(path+"/*", items)
		}
	}
	if r.sourced && len(properties) > 0 && !closed {
		r.fault(path, "is not closed")
	}
	for name, schemas := range properties {
		r.location(path+"/"+name, schemas...)
	}
}

// at returns the schemas of a location.
func (r *schemaRules) at(pointer []string) []map[string]any {
	schemas := []map[string]any{r.root}
	for _, token := range pointer {
		var next []map[string]any
		for _, schema := range schemas {
			for _, s := range r.inPlace("", schema) {
				if named, ok := s["properties"].(map[string]any); ok && named[token] != nil {
					next = append(next, named[token].(map[string]any))
				}
				if items, ok := s["items"].(map[string]any); ok && strings.Trim(token, "0123456789") == "" {
					next = append(next, items)
				}
			}
		}
		schemas = next
	}
	return schemas
}

// key checks a pointer of the collection's key.
func (r *schemaRules) key(pointer string) {
	var tokens []string
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		tokens = append(tokens, strings.NewReplacer("~1", "/", "~0", "~").Replace(token))
	}
	kind := ""
	for _, schema := range r.at(tokens) {
		for _, s := range r.inPlace(pointer, schema) {
			switch t := s["type"].(type) {
			case string:
				kind = t
			case []any:
				r.fault(pointer, "a key of %v", t)
			}
			if s["reduce"] != nil {
				r.fault(pointer, "a key that reduces by %v", s["reduce"])
			}
		}
	}
	if !slices.Contains([]string{"boolean", "integer", "string"}, kind) {
		r.fault(pointer, "a key of type %q", kind)
	}
}

// checkRules checks a schema against the rules; key is nil for one whose key is not its own.
func checkRules(raw json.RawMessage, sourced bool, key []string) []string {
	r := &schemaRules{anchors: map[string]map[string]any{}, sourced: sourced}
	if err := json.Unmarshal(raw, &r.root); err != nil {
		return []string{err.Error()}
	}
	r.words("#", r.root)
	r.location("", r.root)
	for _, pointer := range key {
		r.key(pointer)
	}
	return r.faults
}

// TestSchemaRules: the rules see what breaks them.
func TestSchemaRules(t *testing.T) {
	good := `{"$defs":{"T":{"$anchor":"T","type":"object","required":["a"],"properties":{"a":{"type":"string"}}}},"allOf":[{"$ref":"#T"}],"unevaluatedProperties":false}`
	if faults := checkRules(json.RawMessage(good), true, []string{"/a"}); faults != nil {
		t.Errorf("faults of a good schema: %v", faults)
	}
	for name, edit := range map[string][2]string{
		"open":            {`,"unevaluatedProperties":false`, ``},
		"open inside":     {`{"type":"string"}`, `{"type":"object","properties":{"b":{}}}`},
		"unknown keyword": {`"required"`, `"requires"`},
		"unknown format":  {`"type":"string"`, `"type":"string","format":"money"`},
		"a number as key": {`"type":"string"`, `"type":"number"`},
		"two types":       {`"type":"string"`, `"type":["string","null"]`},
		"no type":         {`{"type":"string"}`, `{}`},
		"bad reference":   {`#T"`, `#U"`},
		"reduce":          {`"type":"string"`, `"type":"string","reduce":{"strategy":"merge"}`},
	} {
		if faults := checkRules(json.RawMessage(strings.Replace(good, edit[0], edit[1], 1)), true, []string{"/a"}); faults == nil {
			t.Errorf("%s: no fault", name)
		}
	}
}

// TestDiscoveryRules discovers the zoo.
func TestDiscoveryRules(t *testing.T) {
	db := goldenDatabase(t, "UTF8")
	db.createGoldenTypes()
	schema := db.createSchema("zoo")
	types, _ := db.columns(goldenTypes)
	types = slices.CompactFunc(types, func(a, b goldenColumn) bool { return a.typ == b.typ })
	var wide []string
	db.exec("SET client_min_messages = error")
	for i, c := range types {
		wide = append(wide, fmt.Sprintf("c%d %s, n%[1]d %[2]s NOT NULL", i, c.typ))
		if c.array {
			wide = append(wide, fmt.Sprintf("a%d %s[]", i, c.typ))
		}
		for _, form := range []string{"k %s PRIMARY KEY, v text", "k %s NOT NULL UNIQUE, v text", "a int, k %s, PRIMARY KEY (k, a)"} {
			name := quoteTable(tableName{schema, fmt.Sprintf("key %d %.1s%d", i, form, len(form))})
			if _, err := db.control.Exec(db.ctx, fmt.Sprintf("CREATE TABLE %s (%s)", name, fmt.Sprintf(form, c.typ))); err != nil &&
				!slices.Contains([]string{"42704", "0A000"}, sqlState(err)) { // no operator class
				t.Fatal(err)
			}
		}
	}
	db.exec(fmt.Sprintf("CREATE TABLE %s (%s, PRIMARY KEY (n0))", quoteTable(tableName{schema, "wide"}), strings.Join(wide, ", ")))
	names := []string{
		"Mixed", "mixed", "MIXED", "a/b~c", `quo"te`, "sp ace", "日本", ".", "..", "#", "a#b", "100%", "-", "_", strings.Repeat("x", 63), "é", "e\u0301",
	}
	for _, name := range names {
		db.exec(
			fmt.Sprintf(`CREATE TABLE %s ("a/b~c" int PRIMARY KEY, %s text, _meta int)`, quoteTable(tableName{schema, name}), quoteIdent(name+"_")))
	}
	db.exec(fmt.Sprintf("CREATE TABLE %s ()", quoteTable(tableName{schema, "nothing"})))
	db.exec(fmt.Sprintf("GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s", quoteIdent(schema), quoteIdent(*testCaptureUser)))

	s := db.settings()
	s.includeSchemas, s.discoverUnpublished = []string{schema}, true
	pooled, err := db.connect(s).acquire(db.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	tables, _, err := listTables(db.ctx, pooled.Conn(), s)
	if err != nil {
		t.Fatal(err)
	}
	catalog := newTypeCatalog()
	var oids []uint32
	for _, table := range tables {
		for _, c := range table.columns {
			oids = append(oids, c.typeOID)
		}
	}
	if err := loadTypes(db.ctx, pooled.Conn(), catalog, oids); err != nil {
		t.Fatal(err)
	}
	if len(tables) < 2*len(types) {
		t.Fatalf("%d tables of %d types", len(tables), len(types))
	}
	checked, keyed, faults := 0, 0, 0
	for options := range 1 << 7 {
		bit := func(n int) bool { return options>>n&1 == 1 }
		s.flags.dateAsDate, s.flags.timeAsTime, s.flags.flattenArrays, s.flags.multidimensionalArrays = bit(0), bit(1), bit(2), bit(3)
		s.historyMode, s.flags.useSchemaInference, s.sourceTag = bit(4), bit(5), map[bool]string{true: "tag"}[bit(6)]
		if !*longTests && options&(options-1) != 0 && options != 1<<7-1 && ^options&0x7f&(^options&0x7f-1) != 0 {
			continue // none, all, each alone, all but one
		}
		collections, err := proposeCollections(tables, catalog, s)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for i, c := range collections {
			if seen[c.name] || c.name == "" || strings.Trim(c.name, "abcdefghijklmnopqrstuvwxyz0123456789-_./") != "" {
				t.Errorf("%s: recommended name %q", tables[i].tableName, c.name)
			}
			seen[c.name] = true
			sourced, err := sourcedSchema(tables[i], nil, catalog, keyColumnsOf(c.key), s)
			if err != nil {
				t.Fatal(err)
			}
			key := c.key
			if len(keyColumnsOf(key)) > 0 {
				keyed++
			}
			for _, part := range []struct {
				name   string
				schema json.RawMessage
			}{{"write", c.schema}, {"sourced", sourced}} {
				checked++
				for _, fault := range checkRules(part.schema, part.name == "sourced", key) {
					if faults++; faults < 20 {
						t.Errorf("options %07b: %s: %s schema: %s", options, tables[i].tableName, part.name, fault)
					}
				}
				if options == 0 && !strings.ContainsAny(tables[i].name, "/~\"# .%日é\u0301-") {
					value, err := jsonschema.UnmarshalJSON(bytes.NewReader(part.schema))
					if err != nil {
						t.Fatal(err)
					}
					compiler := jsonschema.NewCompiler()
					if err := compiler.AddResource("file:///schema.json", value); err != nil {
						t.Fatal(err)
					}
					if _, err := compiler.Compile("file:///schema.json"); err != nil {
						t.Errorf("%s: %v", tables[i].tableName, err)
					}
				}
			}
		}
	}
	t.Logf("%d schemas of %d tables, %d with a key of columns", checked, len(tables), keyed)
	if keyed == 0 {
		t.Error("no table has a key")
	}
}

// TestDiscoveryFilters: what is discovered is what the filters ask for, in the same bytes every time, and each binding has
// the form that the control plane merges by.
func TestDiscoveryFilters(t *testing.T) {
	db := newTestDB(t)
	first, second := db.createSchema("one"), db.createSchema("Two")
	var all []tableName
	for _, schema := range []string{first, second} {
		for _, name := range []string{"orders", "Orders", "order_items", "ord.ers", "a*b", "ab", "axb", "日本", `back\slash`} {
			table := tableName{schema, name}
			all = append(all, table)
			db.exec("CREATE TABLE " + quoteTable(table) + " (id int PRIMARY KEY, v text, e int[])")
			db.publish(table)
		}
	}
	// matches is the glob of spec/incumbent.md §4.1: * any run, ? one character, \ escapes.
	var matches func(pattern, text []rune) bool
	matches = func(pattern, text []rune) bool {
		switch {
		case len(pattern) == 0:
			return len(text) == 0
		case pattern[0] == '*':
			return matches(pattern[1:], text) || len(text) > 0 && matches(pattern, text[1:])
		case len(text) == 0:
			return false
		case pattern[0] == '?':
			return matches(pattern[1:], text[1:])
		case pattern[0] == '\\':
			return pattern[1] == text[0] && matches(pattern[2:], text[1:])
		}
		return pattern[0] == text[0] && matches(pattern[1:], text[1:])
	}
	discover := func(filters map[string]any) (tables []string, raw string) {
		t.Helper()
		r := newTestRuntime(t, runtimeOptions{config: edit(t, db.config(), map[string]any{"discoveryFilters": filters})})
		response, err := r.driver.discover(t.Context())
		if err != nil {
			t.Fatalf("%v: %v", filters, err)
		}
		for _, b := range response.Bindings {
			table, mode, err := tableOfResource(b.ResourceConfigJson)
			if err != nil {
				t.Fatal(err)
			}
			var fields map[string]any
			if err := json.Unmarshal(b.ResourceConfigJson, &fields); err != nil || len(fields) != 2 || mode != modeAutomatic || len(b.ResourcePath) > 0 || b.Disable {
				t.Errorf("%s: resource %s, path %v, disable %v", table, b.ResourceConfigJson, b.ResourcePath, b.Disable)
			}
			tables = append(tables, table.String())
		}
		text, err := json.Marshal(response)
		if err != nil {
			t.Fatal(err)
		}
		return tables, string(text)
	}
	tables, before := discover(map[string]any{})
	if len(tables) != len(all) {
		t.Errorf("discovered %q", tables)
	}
	for i := range all { // the catalog's rows move
		db.exec("ALTER TABLE " + quoteTable(all[(i*7+3)%len(all)]) + " SET (fillfactor = 90)")
	}
	db.script("ANALYZE " + quoteTable(all[0]))
	if _, after := discover(map[string]any{}); after != before {
		t.Error("the same tables were discovered in other bytes")
	}
	for _, c := range []struct {
		include, exclude []string
		schema, table    string // pattern; an empty schema is any
	}{
		{nil, nil, "", "ord*"},
		{nil, nil, "", "?rders"},
		{nil, nil, "", `ord\.ers`},
		{nil, nil, "", `a\*b`},
		{nil, nil, "", "a*b"},
		{nil, nil, "", "a?b"},
		{nil, nil, "", `back\\slash`},
		{nil, nil, "", "??"},
		{nil, nil, "Two*", "*"},
		{nil, nil, "*", "Order*"},
		{nil, nil, first, "*r*"},
		{[]string{first}, nil, "", "*"},
		{nil, []string{second}, "", "*"},
		{[]string{first, second}, []string{first}, "*", "*_*"},
		{[]string{"nowhere"}, nil, "", "*"},
	} {
		pattern := c.table
		if c.schema != "" {
			pattern = c.schema + "." + c.table
		}
		filters := map[string]any{"table_patterns": []string{pattern}}
		if c.include != nil {
			filters["include_schemas"] = c.include
		}
		if c.exclude != nil {
			filters["exclude_schemas"] = c.exclude
		}
		var want []string
		for _, table := range all {
			if (c.include == nil || slices.Contains(c.include, table.schema)) && !slices.Contains(c.exclude, table.schema) &&
				(c.schema == "" || matches([]rune(c.schema), []rune(table.schema))) && matches([]rune(c.table), []rune(table.name)) {
				want = append(want, table.String())
			}
		}
		have, _ := discover(filters)
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%v: discovered %q, want %q", filters, have, want)
		}
	}
}
