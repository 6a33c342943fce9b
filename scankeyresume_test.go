package main

// scankeyresume_test.go reads tables keyed by each type row by row: with a chunk size of one every row's key becomes the
// bound of the next query, so a bound that means something else to the server repeats or misses rows at once.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestScanKeyOfEveryType(t *testing.T) {
	db := newTestDB(t)
	db.script(`BEGIN; SELECT pg_advisory_xact_lock(7236541); CREATE EXTENSION IF NOT EXISTS citext; COMMIT`)
	cases := []struct{ name, definition, values string }{
		{"bpchar", "char(3)", `('a'),('ab'),('abc'),('b'),('  x'),('')`},
		{"bit", "bit(3)", `('000'),('001'),('010'),('111'),('100')`},
		{"varbit", "varbit", `(''),('0'),('00'),('01'),('1'),('10')`},
		{"numeric", "numeric", `(0),(-1.50),(1.00),(1e30),('NaN'),(123456789.000001)`},
		{"float8", "float8", `(0),(-1.5),('NaN'),('Infinity'),('-Infinity'),(1e300)`},
		{"text_c", `text COLLATE "C"`, `('a'),('B'),('b'),('Z'),('é'),('')`},
		{"text_icu", `text COLLATE "und-x-icu"`, `('a'),('B'),('b'),('Z'),('é'),(''),('a-b'),('ab')`},
		{"varchar", "varchar(10)", `('a'),('B'),('b'),('Z'),('é'),('')`},
		{
			"citext", db.queryValue("SELECT quote_ident(n.nspname) || '.citext' FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typname = 'citext'"),
			`('A'),('b'),('C'),('d'),('E'),('f')`,
		},
		{"bool", "bool", `(true),(false)`},
		{"bytea", "bytea", `('\x00'),('\x0000'),('\xff'),('')`},
		{"uuid", "uuid", `('00000000-0000-0000-0000-000000000001'),('ffffffff-0000-0000-0000-000000000000'),('7fffffff-0000-0000-0000-000000000000')`},
		{"date", "date", `('2020-01-01'),('infinity'),('-infinity'),('0044-03-15 BC'),('11111-01-01')`},
		{"timestamptz", "timestamptz", `('2020-01-01 00:00:00+00'),('2020-06-01 00:00:00+00'),('infinity'),('-infinity'),('1883-01-01 00:00+00')`},
		{"timestamp", "timestamp", `('2020-01-01'),('2020-01-01 00:00:00.000001'),('infinity'),('0001-01-01 BC')`},
		{"time", "time", `('00:00'),('24:00:00'),('12:34:56.789')`},
		{"timetz", "timetz", `('00:00+00'),('24:00:00+00'),('12:34:56.789-08'),('12:00+03:30:50')`},
		{"interval", "interval", `('1 mon'),('29 days'),('31 days'),('-1 day'),('00:00:00'),('1 year -1 day')`},
		{"inet", "inet", `('10.0.0.1'),('10.0.0.0/8'),('::1'),('192.168.0.1/24')`},
		{"macaddr", "macaddr", `('08:00:2b:01:02:03'),('00:00:00:00:00:00'),('ff:00:00:00:00:00')`},
		{"oid", "oid", `(0),(4294967295),(17)`},
		{"internalchar", `"char"`, `('a'),('z'),('A')`},
		{"name", "name", `('a'),('B'),('zz')`},
		{"jsonb", "jsonb", `('1'),('"a"'),('[]'),('{}'),('{"a":1}'),('null'),('true')`},
		{"ints", "int[]", `('{}'),('{1}'),('{1,2}'),('{2}'),('{NULL}')`},
		{"range", "int4range", `('empty'),('[1,5)'),('(,6)'),('[2,)')`},
		{"tsvector", "tsvector", `('a'),('b'),('a b'),('')`},
		{"xid8", "xid8", `('1'),('18446744073709551615'),('9')`},
		{"lsn", "pg_lsn", `('0/1'),('F/0'),('FFFFFFFF/0')`},
		{"money", "money", `(1),(-5),(1000.5)`},
	}
	type shape struct {
		table tableName
		want  int
	}
	var shapes []shape
	add := func(name, definition, values string) {
		if definition == "" {
			t.Logf("%s: not installed on this server, skipped", name)
			return
		}
		table := db.createTable(name, fmt.Sprintf("(k %s PRIMARY KEY, v int DEFAULT 1)", definition))
		db.exec("INSERT INTO " + quoteTable(table) + " (k) VALUES " + values)
		shapes = append(shapes, shape{table, strings.Count(values, "),(") + 1})
	}
	for _, c := range cases {
		add(c.name, c.definition, c.values)
	}
	db.exec("CREATE TYPE test." + quoteIdent(db.name("mood")) + " AS ENUM ('sad', 'ok', 'happy')")
	t.Cleanup(func() { db.exec("DROP TYPE test." + quoteIdent(db.name("mood")) + " CASCADE") })
	add("enumkey", "test."+quoteIdent(db.name("mood")), `('happy'),('sad'),('ok')`)
	composite := db.createTable("composite", `(a text COLLATE "und-x-icu", b numeric, c char(2), PRIMARY KEY (a, b, c))`)
	db.exec("INSERT INTO " + quoteTable(composite) +
		` SELECT a, b, c FROM unnest(ARRAY['x','X','é']) a, unnest(ARRAY[1.0, 2, -3.50]) b, unnest(ARRAY['a','ab']) c`)
	shapes = append(shapes, shape{composite, 18})
	for _, size := range []int{1, 2} {
		t.Run(fmt.Sprint("chunk", size), func(t *testing.T) {
			db.dropSlot()
			config := map[string]any{}
			if err := json.Unmarshal(db.config(), &config); err != nil {
				t.Fatal(err)
			}
			config["advanced"].(map[string]any)["backfill_chunk_size"] = size
			raw, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			r := startRuntime(t, runtimeOptions{config: json.RawMessage(raw), deadline: 2 * time.Minute})
			r.waitStreaming()
			r.stop()
			if err := r.wait(); err != nil { // what it has sent is all here then
				t.Fatal(err)
			}
			got := map[string]map[string]int{}
			for _, d := range r.documents() {
				var doc struct {
					K json.RawMessage `json:"k"`
					A json.RawMessage `json:"a"`
					B json.RawMessage `json:"b"`
					C json.RawMessage `json:"c"`
				}
				if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
					t.Fatal(err)
				}
				if got[d.table] == nil {
					got[d.table] = map[string]int{}
				}
				got[d.table][fmt.Sprintf("%s %s %s %s", doc.K, doc.A, doc.B, doc.C)]++
			}
			for _, s := range shapes {
				rows := 0
				for key, n := range got[s.table.String()] {
					rows += n
					_ = key
				}
				if rows != s.want {
					t.Errorf("%s: %d documents of %d rows: %v", s.table, rows, s.want, got[s.table.String()])
				}
			}
		})
	}
}
