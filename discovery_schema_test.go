package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestRecommendedNames(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []tableName
		want []string
	}{
		{"plain", []tableName{{"public", "Orders"}, {"SecretS", "noaccess"}}, []string{"public/orders", "secrets/noaccess"}},
		{"characters", []tableName{{"a b", `quo"te`}, {"x/y", "Größe"}, {"s-1.2", "_t"}}, []string{"a_b/quo_te", "x_y/gr__e", "s-1.2/_t"}},
		{"dots", []tableName{{".", ".."}, {"a.", "..."}}, []string{"_/__", "a./..."}},
		{"case", []tableName{{"s", "abc"}, {"s", "ABC"}, {"s", "Abc"}}, []string{"s/abc_35c78848", "s/abc", "s/abc_48fd079b"}},
		{"replaced", []tableName{{"s", "a b"}, {"s", "a_b"}}, []string{"s/a_b", "s/a_b_8d47d403"}},
	} {
		var tables []*table
		for _, name := range c.in {
			tables = append(tables, &table{tableName: name})
		}
		got := recommendedNames(tables)
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		// Which table has which name does not depend on the order in which they are given.
		slices.Reverse(tables)
		reversed := recommendedNames(tables)
		slices.Reverse(reversed)
		if !reflect.DeepEqual(reversed, got) {
			t.Errorf("%s: got %q, but %q in another order", c.name, got, reversed)
		}
	}
}

// A table that happens to have the very name that a suffix makes still gets a name of its own.
func TestRecommendedNamesStayUnique(t *testing.T) {
	tables := []*table{{tableName: tableName{"s", "A"}}, {tableName: tableName{"s", "a"}}}
	suffixed := recommendedNames(tables)[1]
	tables = append(tables, &table{tableName: tableName{"s", strings.ToUpper(strings.TrimPrefix(suffixed, "s/"))}})
	seen := map[string]bool{}
	for _, name := range recommendedNames(tables) {
		if seen[name] {
			t.Errorf("%s is used twice", name)
		}
		seen[name] = true
	}
}

func TestAnchorName(t *testing.T) {
	for in, want := range map[tableName]string{
		{"test", "simple"}:          "TestSimple",
		{"public", "two words-x.y"}: "PublicTwo Words-X.Y",
		{"a_b", "_c d"}:             "A_b_c D",
		{"x", "1st ünï ßa"}:         "X1st Ünï ßa",
		{"x", "a'b a\u00a0c a–d"}:   "XA'B A\u00a0C A–d",
	} {
		if got := anchorName(in); got != want {
			t.Errorf("%v: got %q, want %q", in, got, want)
		}
	}
}

func TestColumnPointer(t *testing.T) {
	for in, want := range map[string]string{"id": "/id", "a/b~c": "/a~1b~0c", "~1": "/~01", "": "/", "ä ": "/ä "} {
		if got := columnPointer(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

var simpleTable = &table{
	tableName: tableName{"test", "simple"}, kind: 'r', primaryKey: []string{"a"},
	columns: []column{
		{attnum: 1, name: "a", typeOID: 23, typmod: -1, notNull: true},
		{attnum: 2, name: "b", typeOID: 1043, typmod: 2004},
		{attnum: 3, name: "c", typeOID: 700, typmod: -1, notNull: true},
		{attnum: 4, name: "d", typeOID: 25, typmod: -1},
	},
}

func testSettings() *settings {
	return &settings{flags: featureFlags{useSchemaInference: true, dateAsDate: true, timeAsTime: true, flattenArrays: true}}
}

// withoutDescriptions removes the descriptions that are in our own words, those within _meta, and parses the rest.
func withoutDescriptions(t *testing.T, schema []byte) map[string]any {
	t.Helper()
	var parsed map[string]any
	if err := json.Unmarshal(schema, &parsed); err != nil {
		t.Fatal(err)
	}
	var strip func(any)
	strip = func(v any) {
		if m, ok := v.(map[string]any); ok {
			if text, ok := m["description"].(string); ok && text != "" {
				delete(m, "description")
			}
			for _, member := range m {
				strip(member)
			}
		}
	}
	strip(parsed["allOf"].([]any)[0])
	return parsed
}

// The shapes that existing collections were made from (spec/incumbent.md §4.5, §4.6), keyword by keyword.
func TestSchemaShapes(t *testing.T) {
	const row = `"TestSimple":{"type":"object","required":[%s],"$anchor":"TestSimple","properties":{
  "a":{"type":"integer","description":"(source type: non-nullable int4)"},
  "b":{"maxLength":2000,"description":"(source type: varchar)","type":["string"%[2]s]},
  "c":{"format":"number","description":"(source type: non-nullable float4)","type":["number","string"]},
  "d":{"description":"(source type: text)","type":["string"%[2]s]}}}`
	const source = `"type":"object","required":["schema","table","loc"],"properties":{
  "ts_ms":{"type":"integer"},"schema":{"type":"string"},"snapshot":{"type":"boolean"},"table":{"type":"string"},
  "loc":{"items":{"type":"integer"},"type":"array","maxItems":3,"minItems":3},"txid":{"type":"integer"}%s}`
	const write = `{"$defs":{%s},"allOf":[{
  "if":{"properties":{"_meta":{"properties":{"op":{"const":"d"}}}}},
  "then":{"reduce":{"delete":true,"strategy":"merge"}},"else":{"reduce":{"strategy":"merge"}},
  "required":["_meta"],"properties":{"_meta":{"type":"object","required":["op","source"],"properties":{
    "before":{"$ref":"#TestSimple","reduce":{"strategy":"firstWriteWins"}},
    "op":{"enum":["c","d","u"]},"source":{%s}},"reduce":{"strategy":"merge"}}}},
  {"$ref":"#TestSimple"}]%s}`
	const sourced = `{"$defs":{%s},"unevaluatedProperties":false,"allOf":[{
  "required":["_meta"],"properties":{"_meta":{"type":"object","required":["op","source"],"additionalProperties":false,
  "properties":{"before":{"$ref":"#TestSimple","unevaluatedProperties":false},
    "op":{"enum":["c","d","u"]},"source":{"additionalProperties":false,%s}}}}},
  {"$ref":"#TestSimple"}],"x-infer-schema":true}`
	writeRow := fmt.Sprintf(row, `"a"`, `,"null"`)
	sourcedRow := fmt.Sprintf(row, `"a","b","c","d"`, ``)
	infer := `,"x-infer-schema":true`

	for _, c := range []struct {
		name    string
		edit    func(*settings)
		sourced bool
		want    string
	}{
		{"write", func(*settings) {}, false, fmt.Sprintf(write, writeRow, fmt.Sprintf(source, ""), infer)},
		{
			"no inference", func(s *settings) { s.flags.useSchemaInference = false }, false,
			fmt.Sprintf(write, writeRow, fmt.Sprintf(source, ""), ""),
		},
		{
			"tag", func(s *settings) { s.sourceTag = "x" }, false,
			fmt.Sprintf(write, writeRow, fmt.Sprintf(source, `,"tag":{"type":"string"}`), infer),
		},
		{
			"history", func(s *settings) { s.historyMode = true }, false,
			fmt.Sprintf(write, writeRow, `"reduce":{"associative":false,"strategy":"lastWriteWins"},`+fmt.Sprintf(source, ""), infer),
		},
		{"sourced", func(s *settings) { s.historyMode = true }, true, fmt.Sprintf(sourced, sourcedRow, fmt.Sprintf(source, ""))},
	} {
		s := testSettings()
		c.edit(s)
		var got json.RawMessage
		if c.sourced {
			var err error
			if got, err = sourcedSchema(simpleTable, nil, newTypeCatalog(), []string{"a"}, s); err != nil {
				t.Fatal(err)
			}
		} else {
			collections, err := proposeCollections([]*table{simpleTable}, newTypeCatalog(), s)
			if err != nil {
				t.Fatal(err)
			}
			got = collections[0].schema
		}
		var want map[string]any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if stripped := withoutDescriptions(t, got); !reflect.DeepEqual(stripped, want) {
			gotText, _ := json.MarshalIndent(stripped, "", " ")
			wantText, _ := json.MarshalIndent(want, "", " ")
			t.Errorf("%s: got %s\nwant %s", c.name, gotText, wantText)
		}
	}
}

// Keys, fallback keys and modes, for each kind of key a table can have.
func TestProposedKeys(t *testing.T) {
	for _, c := range []struct {
		name            string
		primary, unique []string
		key             string
		fallback        bool
		mode            string
		required        string
	}{
		{"primary", []string{"c", "a"}, nil, "/c /a", false, "", `["a","c"]`},
		{"unique", nil, []string{"a"}, "/a", true, "", `["a"]`},
		{"none", nil, nil, "/_meta/source/loc/0 /_meta/source/loc/1 /_meta/source/loc/2", true, "Without Primary Key", "null"},
	} {
		with := *simpleTable
		with.primaryKey, with.uniqueKey = c.primary, c.unique
		collections, err := proposeCollections([]*table{&with}, newTypeCatalog(), testSettings())
		if err != nil {
			t.Fatal(err)
		}
		got := collections[0]
		var schema struct {
			Defs map[string]struct {
				Required   json.RawMessage
				Properties map[string]struct{ Type json.RawMessage }
			} `json:"$defs"`
		}
		if err := json.Unmarshal(got.schema, &schema); err != nil {
			t.Fatal(err)
		}
		row := schema.Defs["TestSimple"]
		if row.Required == nil {
			row.Required = json.RawMessage("null")
		}
		if strings.Join(got.key, " ") != c.key || got.fallbackKey != c.fallback || got.mode != c.mode ||
			string(row.Required) != c.required || got.name != "test/simple" {
			t.Errorf("%s: %+v, required %s", c.name, got, row.Required)
		}
		// A floating point number is a string as a key, since numbers cannot be keys.
		wantType := `["number","string"]`
		if slices.Contains(c.primary, "c") {
			wantType = `"string"`
		}
		if string(row.Properties["c"].Type) != wantType {
			t.Errorf("%s: type of the float column is %s, want %s", c.name, row.Properties["c"].Type, wantType)
		}
	}
}

// The relation in force wins over the table: new, retyped and dropped columns are those of the stream.
func TestSourcedSchemaOfShape(t *testing.T) {
	shape := &relation{schema: "test", name: "simple", columns: []relationColumn{
		{name: "a", typeOID: 20, typmod: -1, key: true},
		{name: "b", typeOID: 1043, typmod: 24},
		{name: "new", typeOID: 16, typmod: -1},
		{name: "_meta", typeOID: 25, typmod: -1},
	}}
	got, err := sourcedSchema(simpleTable, shape, newTypeCatalog(), []string{"a"}, testSettings())
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	if err := json.Unmarshal(got, &schema); err != nil {
		t.Fatal(err)
	}
	const want = `{"$anchor":"TestSimple","properties":{` +
		`"a":{"description":"(source type: non-nullable int8)","type":"integer"},` +
		`"b":{"description":"(source type: varchar)","maxLength":20,"type":["string"]},` +
		`"new":{"description":"(source type: bool)","type":["boolean"]}},"required":["a","b","new"],"type":"object"}`
	if text := string(schema.Defs["TestSimple"]); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

// printRow writes the part of a schema that describes a row, one line for each column.
func printRow(t *testing.T, out *bytes.Buffer, title string, schema []byte) {
	t.Helper()
	var document struct {
		Defs map[string]struct {
			Anchor     string `json:"$anchor"`
			Required   json.RawMessage
			Properties map[string]json.RawMessage
		} `json:"$defs"`
	}
	if err := json.Unmarshal(schema, &document); err != nil {
		t.Fatal(err)
	}
	for name, row := range document.Defs {
		fmt.Fprintf(out, "--- %s %s anchor %s required %s\n", title, name, row.Anchor, row.Required)
		for _, column := range slices.Sorted(maps.Keys(row.Properties)) {
			fmt.Fprintf(out, "%s: %s\n", column, row.Properties[column])
		}
	}
}

// What discovery proposes for tables on a real server, and what their documents are said to be: testdata/discovery.golden.
func TestDiscoveredSchemas(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(140000)
	schema, conn, s := inSchema(db)
	s.discoverUnpublished = true
	db.script(`
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b mood);
CREATE DOMAIN positive AS int NOT NULL CHECK (value > 0);
CREATE DOMAIN posmood AS mood;
CREATE TABLE scalars (
  id bigserial PRIMARY KEY, b bool, i2 int2, i4 int4 NOT NULL, o oid, f4 float4, f8 float8 NOT NULL, n numeric(10,2), m money,
  vc varchar(10), vcn varchar, ch char(3), qc "char", nm name, tx text, by bytea, bi bit(3), vb varbit, x xml, js json, jb jsonb,
  jp jsonpath, d date, ts timestamp, tz timestamptz, t time, tt timetz, iv interval, pt point, ine inet, ci cidr, ma macaddr,
  m8 macaddr8, u uuid, tv tsvector, tq tsquery, xi xid, x8 xid8, lsn pg_lsn, rc regclass, tid tid, iv2 int2vector);
CREATE TABLE arrays (
  id int PRIMARY KEY, i int[], f float8[], t text[] NOT NULL, v varchar(5)[], ts timestamptz[], js json[], tt timetz[], r int4range[],
  e mood[], p pair[], dm positive[], x xml[], nm name[]);
CREATE TABLE userdefined (e mood, p pair, dp positive, dm posmood, r int4range, mr int4multirange, tr tstzrange);
CREATE TABLE "Float ""Key""" (f8 float8, "a/b~c" int, _meta text, g int GENERATED ALWAYS AS (1) STORED, PRIMARY KEY (f8, "a/b~c"));
COMMENT ON COLUMN "Float ""Key"""."a/b~c" IS 'a comment, with "quotes" & <marks>';
CREATE TABLE uniquely (k text NOT NULL UNIQUE, v int);
CREATE TABLE nothing ();
CREATE TABLE root (a int, b text NOT NULL, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
CREATE TABLE part PARTITION OF root FOR VALUES FROM (0) TO (10);`)
	tables, _, err := listTables(db.ctx, conn, s)
	if err != nil {
		t.Fatal(err)
	}
	types := newTypeCatalog()
	var oids []uint32
	for _, table := range tables {
		for _, c := range table.columns {
			oids = append(oids, c.typeOID)
		}
	}
	if err := loadTypes(db.ctx, conn, types, oids); err != nil {
		t.Fatal(err)
	}
	collections, err := proposeCollections(tables, types, s)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for i, c := range collections {
		var key []string
		if !c.fallbackKey || c.mode == "" {
			key = append(slices.Clone(tables[i].primaryKey), tables[i].uniqueKey...)
		}
		sourced, err := sourcedSchema(tables[i], nil, types, key, s)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "=== %s key %q fallback %v mode %q\n", c.name, c.key, c.fallbackKey, c.mode)
		printRow(t, &out, "write", c.schema)
		printRow(t, &out, "sourced", sourced)
	}
	title := titleCase(schema)
	compareGolden(t, "discovery.golden", strings.ReplaceAll(db.sanitize(out.String()), title, titleCase("disc")))
}
