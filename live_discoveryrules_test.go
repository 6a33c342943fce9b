package main

// live_discoveryrules_test.go holds what discovery and captures say of tables against the rules of the runtime
// (spec/flow-protocol.md §3.7 to §3.10), which refuses a whole publication for one schema that breaks them.
//
// Method: a zoo of tables (every type of the golden file, nullable, not null, as an array and as a key; odd names) is
// discovered under every combination of the options that change schemas. preview_transactionrules_test.go has the rules of every
// schema; those of sourced ones, which must be closed, are here.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// sourcedRules checks that a sourced schema is closed.
type sourcedRules struct {
	anchors map[string]map[string]any
	faults  []string
}

func (r *sourcedRules) fault(path, format string, args ...any) {
	r.faults = append(r.faults, path+": "+fmt.Sprintf(format, args...))
}

// inPlace are the schemas that speak of the same location.
func (r *sourcedRules) inPlace(path string, schema map[string]any) []map[string]any {
	all := []map[string]any{schema}
	if ref, ok := schema["$ref"].(string); ok {
		target := r.anchors[strings.TrimPrefix(ref, "#")]
		if target == nil {
			r.fault(path, "$ref %q leads nowhere", ref)
		} else {
			all = append(all, r.inPlace(path, target)...)
		}
	}
	for _, word := range strings.Fields("allOf anyOf oneOf") {
		parts, _ := schema[word].([]any)
		for _, part := range parts {
			all = append(all, r.inPlace(path, part.(map[string]any))...)
		}
	}
	for _, word := range strings.Fields("if then else reduce not") {
		if schema[word] != nil {
			r.fault(path, "a sourced schema has no use for %s", word)
		}
	}
	return all
}

// location checks one place of a document and those below it: where it may have properties, it may have no others.
func (r *sourcedRules) location(path string, schemas ...map[string]any) {
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
	if len(properties) > 0 && !closed {
		r.fault(path, "is not closed")
	}
	for name, schemas := range properties {
		r.location(path+"/"+name, schemas...)
	}
}

// checkSourced returns what a sourced schema has that the runtime would end the capture for.
func checkSourced(raw json.RawMessage, key []string) []string {
	var root map[string]any
	if err := json.Unmarshal(raw, &root); err != nil {
		return []string{err.Error()}
	}
	r := &sourcedRules{anchors: map[string]map[string]any{}}
	for _, def := range root["$defs"].(map[string]any) {
		r.anchors[def.(map[string]any)["$anchor"].(string)] = def.(map[string]any)
	}
	r.location("", root)
	if err := checkRuntimeRules(raw, key); err != nil {
		r.faults = append(r.faults, err.Error())
	}
	return r.faults
}

// TestSourcedRules: the rules see what breaks them.
func TestSourcedRules(t *testing.T) {
	good := `{"$defs":{"T":{"$anchor":"T","type":"object","required":["a"],"properties":{"a":{"type":"string"}}}},"allOf":[{"$ref":"#T"}],"unevaluatedProperties":false}`
	if faults := checkSourced(json.RawMessage(good), []string{"/a"}); faults != nil {
		t.Errorf("faults of a good schema: %v", faults)
	}
	for name, edit := range map[string][2]string{
		"open":          {`,"unevaluatedProperties":false`, ``},
		"open inside":   {`"a":{"type":"string"}`, `"a":{"type":"string"},"b":{"type":"object","properties":{"c":{}}}`},
		"bad reference": {`#T"`, `#U"`},
		"reduce":        {`"type":"string"`, `"type":"string","reduce":{"strategy":"merge"}`},
		"key":           {`"type":"string"`, `"type":"number"`},
	} {
		if faults := checkSourced(json.RawMessage(strings.Replace(good, edit[0], edit[1], 1)), []string{"/a"}); faults == nil {
			t.Errorf("%s: no fault", name)
		}
	}
}

// TestDiscoveryRules discovers the zoo.
func TestDiscoveryRules(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
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
		if testing.Short() && options%(1<<7-1) != 0 || !*longTests && options&(options-1) != 0 && options != 1<<7-1 {
			continue // none, all, each alone
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
			if len(keyColumnsOf(c.key)) > 0 {
				keyed++
			}
			checked += 2
			found := checkSourced(sourced, c.key)
			if err := checkRuntimeRules(c.schema, c.key); err != nil {
				found = append(found, err.Error())
			}
			for _, fault := range found {
				if faults++; faults < 20 {
					t.Errorf("options %07b: %s: %s", options, tables[i].tableName, fault)
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
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
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
