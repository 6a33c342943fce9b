package main

// live_keymatrix_test.go takes every kind of type that can be a scan key through a backfill.
//
// Goal: whatever type, collation or nullability a key has, a scan that is resumed behind any row reads exactly the rows
// that the server sorts behind it, and a capture that is killed on its way leaves a strict history while rows on both
// sides of its position change and move across it. Method: keyTypes lists the types with values that hurt; TestScanKeys
// packs and unpacks each row's key and compares what the resumed query reads, what the server answers and what packed
// bytes say with the server's own ranks; TestScanKeysCaptured runs the connector with a chunk for each row, kills it at
// checkpoints, and has each checkpoint answered by random changes.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"source-postgres/tests/history"

	"github.com/jackc/pgx/v5"
)

// keyCase is a type of key.
type keyCase struct {
	name string
	// sql is the type and what follows it in a column's definition: S is the test's schema, E that of extensions.
	sql string
	// values are texts of it. Those that are written `a = b` are equal for the server and not identical.
	values string
	// index replaces the primary key (k): a definition of a unique index, or of a temporal primary key.
	index string
	// version is the oldest server that has the type.
	version int
	// extension must be there, collation must exist.
	extension, collation string
}

// setupKeyTypes makes the types and collations of keyTypes.
const setupKeyTypes = `
CREATE TYPE S.mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE S.mood ADD VALUE 'fine' BEFORE 'happy';
ALTER TYPE S.mood ADD VALUE 'angry' BEFORE 'sad';
ALTER TYPE S.mood ADD VALUE 'so so' AFTER 'sad';
CREATE COLLATION S.loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TYPE S.pair AS (a numeric, b text);
CREATE TYPE S.deep AS (p S.pair, l int[]);
CREATE TYPE S.textrange AS RANGE (subtype = text, collation = "C");
CREATE DOMAIN S.d_int AS int CHECK (VALUE < 1000);
CREATE DOMAIN S.d_d_int AS S.d_int;
CREATE DOMAIN S.d_text AS text COLLATE "und-x-icu";
CREATE DOMAIN S.d_numeric AS numeric(10, 3);
CREATE DOMAIN S.d_mood AS S.mood;
CREATE DOMAIN S.d_array AS int[];
CREATE DOMAIN S.d_range AS numrange;
CREATE DOMAIN S.d_pair AS S.pair;
CREATE DOMAIN S.d_bpchar AS char(4);
CREATE DOMAIN S.d_moods AS S.mood[];`

var keyTypes = []keyCase{
	{name: "bool", sql: "bool", values: "t|f"},
	{name: "int2", sql: "int2", values: "-32768|-1|0|1|255|256|32767"},
	{name: "int4", sql: "int4", values: "-2147483648|-256|-255|-1|0|1|65536|2147483647"},
	{name: "int8", sql: "int8", values: "-9223372036854775808|-1|0|1|4294967296|9223372036854775807"},
	{name: "oid", sql: "oid", values: "0|17|2147483648|4294967295"},
	{name: "xid8", sql: "xid8", values: "1|9|9223372036854775808|18446744073709551615"},
	{name: "float4", sql: "float4", values: "-Infinity|-1.5|-0 = 0|1e-45|0.1|3.4028235e38|Infinity|NaN"},
	{name: "float8", sql: "float8", values: "-Infinity|-1e300|-0 = 0|5e-324|0.1|1e300|Infinity|NaN"},
	{name: "numeric", sql: "numeric", values: "-1.50 = -1.5|0 = 0.00|1.0 = 1.00 = 1|1.01|1e30|123456789.000001|NaN"},
	{name: "numeric14", sql: "numeric", values: "-Infinity|-1e-20|1e-20|Infinity|NaN", version: 140000},
	{name: "numeric_scale", sql: "numeric(8, 2)", values: "-1|0|0.01|10|99.99|NaN"},
	{name: "money", sql: "money", values: "-$5.00|$0.00|$1.00|$1,000.50"},
	{name: "bpchar", sql: "char(3)", values: "|  x|a|ab|abc|b|é"},
	{name: "bpchar_c", sql: `char(3) COLLATE "C"`, values: "|  x|A|a|ab|abc|b|é"},
	{name: "bpchar_free", sql: `bpchar COLLATE "C"`, values: " = |a = a  |ab|b"},
	{name: "internal", sql: `"char"`, values: "A|a|z|~|\\"},
	{name: "name", sql: "name", values: "|A|a|zz|é"},
	{name: "text", sql: "text", values: "|A|B|a|a b|a-b|ab|b|Z|é|日本|😀"},
	{name: "text_c", sql: `text COLLATE "C"`, values: "|A|B|a|a b|ab|b|Z|é|日本|😀"},
	{name: "text_icu", sql: `text COLLATE "und-x-icu"`, values: "|A|B|a|a b|a-b|ab|b|Z|é|日本|😀"},
	{name: "text_de", sql: `text COLLATE "de-x-icu"`, values: "ä|a|z|Z|ß|ss|co-op|coop"},
	{name: "text_libc", sql: `text COLLATE "en_US.utf8"`, values: "|A|B|a|a b|a-b|ab|b|Z|é", collation: "en_US.utf8"},
	{name: "text_loose", sql: "text COLLATE S.loose", values: "a = A|b|é = É|z"},
	{name: "text_tied", sql: "text COLLATE S.loose NOT NULL", values: "a|A|b|B|c|z", index: `(k COLLATE "C")`},
	{name: "text_pattern", sql: `text COLLATE "und-x-icu" NOT NULL`, values: "a|A|b|Z|é", index: "(k text_pattern_ops)"},
	{name: "varchar", sql: "varchar(10)", values: "|A|a|b|Z|é"},
	{name: "citext", sql: "E.citext", values: "a = A|b|C|é = É|Z|z z", extension: "citext"},
	{name: "bytea", sql: "bytea", values: `\x|\x00|\x0000|\x00ff|\x01|\xff`},
	{name: "uuid", sql: "uuid", values: "00000000-0000-0000-0000-000000000001|7fffffff-0000-0000-0000-000000000000|ffffffff-0000-0000-0000-000000000000"},
	{name: "date", sql: "date", values: "0044-03-15 BC|0001-01-01|1999-12-31|2020-02-29|9999-12-30|infinity"},
	{name: "date_low", sql: "date", values: "-infinity|2020-01-01|11111-01-01"},
	{name: "timestamp", sql: "timestamp", values: "0044-03-15 12:00 BC|2020-01-01|2020-01-01 00:00:00.000001|infinity"},
	{name: "timestamptz", sql: "timestamptz", values: "-infinity|1850-01-01 00:00+00|2024-11-03 08:30+00|2024-11-03 09:30+00|2024-03-10 10:00+00|infinity"},
	{name: "time", sql: "time", values: "00:00|00:00:00.000001|12:34:56.789|24:00:00"},
	{name: "timetz", sql: "timetz", values: "00:00+00|12:00+03|12:00-08|13:00+04|23:00:00+15:59|12:34:56.789-08"},
	{name: "interval", sql: "interval", values: "-1 day|0|29 days|1 mon = 30 days = 720:00:00|31 days|1 year = 12 mons = 360 days|1 year -1 day"},
	{name: "interval17", sql: "interval", values: "-infinity|-1 day|0|infinity", version: 170000},
	{name: "inet", sql: "inet", values: "10.0.0.0/8|10.0.0.1/8|10.0.0.0/16|10.0.0.1|192.168.0.1/24|::1|2001:db8::/32"},
	{name: "cidr", sql: "cidr", values: "0.0.0.0/0|10.0.0.0/8|10.0.0.0/16|10.0.0.1/32|::/0|2001:db8::/32"},
	{name: "macaddr", sql: "macaddr", values: "00:00:00:00:00:00|08:00:2b:01:02:03|ff:00:00:00:00:00"},
	{name: "macaddr8", sql: "macaddr8", values: "00:00:00:00:00:00:00:00|08:00:2b:01:02:03:04:05|ff:00:00:00:00:00:00:00"},
	{name: "bit", sql: "bit(3)", values: "000|001|010|100|111"},
	{name: "varbit", sql: "varbit", values: "|0|00|01|1|10|100000000"},
	{name: "pg_lsn", sql: "pg_lsn", values: "0/0|0/1|0/FFFFFFFF|F/0|FFFFFFFF/0"},
	{name: "jsonb", sql: "jsonb", values: `null|"a"|1 = 1.0 = 1.00|true|[]|{}|[1]|{"a": 1}|{"a": {"b": null}}`},
	{name: "tsvector", sql: "tsvector", values: "|'a'|'a' 'b'|'a':1 'b':2|'b''c'"},
	{name: "tsquery", sql: "tsquery", values: "'a'|'a' & 'b'|!'b'"},
	{name: "tid", sql: "tid", values: "(0,1)|(0,2)|(7,1)|(4294967295,1)"},
	{name: "ints", sql: "int[]", values: "{}|{1}|{1,2}|{2}|{NULL}|{{1,2},{3,4}}|[0:1]={1,3}"},
	{name: "numerics", sql: "numeric[]", values: "{}|{1.0} = {1.00}|{1,NULL}|{NaN}|{2}"},
	{name: "texts", sql: `text[] COLLATE "und-x-icu"`, values: `{}|{a}|{A,b}|{"",NULL}|{"a \"b\""}`},
	{name: "int4range", sql: "int4range", values: "empty|[1,5)|[1,6)|[2,)|(,6)|(,)"},
	{name: "numrange", sql: "numrange", values: "empty|[1.0,2) = [1.00,2)|[1,2]|(1,2]|[2,)|(,)"},
	{name: "daterange", sql: "daterange", values: "empty|[2020-01-01,2020-01-03)|[2020-01-02,infinity)|(,2020-01-01)"},
	{name: "tstzrange", sql: "tstzrange", values: `empty|["2020-01-01 00:00+00","2020-01-02 00:00+00")|["2020-01-01 00:00+00",)|(,infinity)`},
	{name: "textrange", sql: "S.textrange", values: "empty|[a,b)|[A,z]|(,)"},
	{name: "multirange", sql: "int4multirange", values: "{}|{[1,5)}|{[1,2),[4,5)}|{(,3)}", version: 140000},
	{name: "enum", sql: "S.mood", values: "angry|sad|so so|ok|fine|happy"},
	{name: "enums", sql: "S.mood[]", values: "{}|{happy}|{sad,NULL}|{angry,happy}"},
	{name: "pair", sql: "S.pair", values: `(1.0,x) = (1.00,x)|(1,y)|(2,)|(,x)|(,)|(NaN,"a ""b""")`},
	{name: "pair_image", sql: "S.pair NOT NULL", values: "(1.0,x)|(1.00,x)|(1.000,x)|(1,y)|(2,)", index: "(k record_image_ops)"},
	{name: "deep", sql: "S.deep", values: `("(1,x)",{1})|("(1,x)",)|("(2,)",{})|(,)`},
	{name: "d_int", sql: "S.d_int", values: "-1|0|1|999"},
	{name: "d_d_int", sql: "S.d_d_int", values: "-1|0|1|999"},
	{name: "d_text", sql: "S.d_text", values: "|A|a|a-b|ab|b|é"},
	{name: "d_text_c", sql: `S.d_text COLLATE "C"`, values: "|A|a|a-b|ab|b|é"},
	{name: "d_numeric", sql: "S.d_numeric", values: "-1.5|0|1|1.001|NaN"},
	{name: "d_mood", sql: "S.d_mood", values: "angry|sad|so so|ok|fine|happy"},
	{name: "d_array", sql: "S.d_array", values: "{}|{1}|{1,2}|{2}|{NULL}"},
	{name: "d_range", sql: "S.d_range", values: "empty|[1.0,2) = [1.00,2)|[1,2]|(,)"},
	{name: "d_pair", sql: "S.d_pair", values: "(1.0,x) = (1.00,x)|(1,y)|(2,)|(,x)|(,)"},
	{name: "d_bpchar", sql: "S.d_bpchar", values: "|a|ab|b"},
	{name: "d_moods", sql: "S.d_moods", values: "{}|{happy}|{sad,NULL}|{angry,happy}"},
	{
		name: "period", sql: "daterange NOT NULL", index: "(a, k WITHOUT OVERLAPS)", version: 180000,
		values: "(,2000-01-01)|[2000-01-01,2000-01-02)|[2000-01-02,2020-01-01)|[2000-01-02,2020-01-03)|[2020-01-01,)",
	},
	{
		name: "periods", sql: "nummultirange NOT NULL", index: "(a, k WITHOUT OVERLAPS)", version: 180000,
		values: "{[1,2)} = {[1.0,2)}|{[2,3),[4,5)}|{[3,4)}|{[5,6]}|{(6,)}|{[0,1),(7,8)}",
	},
	{name: "hstore", sql: "E.hstore", values: `|"a"=>"1"|"a"=>NULL|"a"=>"1", "b"=>"2"`, extension: "hstore"},
	{name: "ltree", sql: "E.ltree", values: "|a|a.b|a.b.c|a.c|B", extension: "ltree"},
	{name: "cube", sql: "E.cube", values: "(1, 2)|(1, 2),(3, 4)|(0)", extension: "cube"},
	{name: "isbn", sql: "E.isbn", values: "0-393-04002-X|0-306-40615-2|1-86197-876-6", extension: "isn"},
}

// groups are the values, those that are equal together.
func (c *keyCase) groups() (groups [][]string) {
	for value := range strings.SplitSeq(c.values, "|") {
		groups = append(groups, strings.Split(value, " = "))
	}
	return groups
}

// keyTable is a table of a case: (k), (k, a), or (a, k) with a nullable k.
type keyTable struct {
	*keyCase
	table    tableName
	key      []string // columns of the scan key
	override bool     // by the resource, not by the collection
	nullable bool
	full     bool
	pool     []string // texts of k that may be in the table
	typed    string   // the type of k in SQL, for casts
}

// createKeyTables makes the tables of every case that this server has, with rows; shapes are asked for by their names.
func (db *testDB) createKeyTables(shapes ...string) (tables []*keyTable) {
	db.Helper()
	schema := db.createSchema("keys")
	extensions := db.queryValue("SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'citext'")
	names := func(sql string) string {
		return regexp.MustCompile(`\b[SE]\.`).ReplaceAllStringFunc(sql, func(word string) string {
			return quoteIdent(map[string]string{"S.": schema, "E.": extensions}[word]) + "."
		})
	}
	db.script(names(setupKeyTypes))
	for i := range keyTypes {
		c := &keyTypes[i]
		if db.version() < c.version {
			db.Logf("%s: not on this server, skipped", c.name)
			continue
		}
		if c.collation != "" && db.queryValue("SELECT count(*) FROM pg_collation WHERE collname = $1", c.collation) == "0" {
			db.Logf("%s: the server has no collation %s, skipped", c.name, c.collation)
			continue
		}
		sql := names(c.sql)
		typed, _, _ := strings.Cut(strings.TrimSuffix(sql, " NOT NULL"), " COLLATE ")
		temporal := strings.Contains(c.index, "WITHOUT OVERLAPS")
		for _, shape := range shapes {
			if temporal && shape != "single" {
				continue
			}
			groups := c.groups()
			t := &keyTable{keyCase: c, table: tableName{schema, c.name + "_" + shape}, typed: typed, full: i%2 == 0}
			definition := sql + " PRIMARY KEY"
			unique := ""
			switch shape {
			case "single":
				t.key = []string{"k"}
				for _, g := range groups {
					t.pool = append(t.pool, g...)
				}
				if c.index != "" {
					definition, unique = sql, c.index
				}
				if temporal {
					t.key = []string{"a", "k"}
				}
			case "pair":
				t.key, definition = []string{"k", "a"}, sql
				unique = "(k, a)"
				if c.index != "" {
					unique = strings.TrimSuffix(c.index, ")") + ", a)"
				}
				for _, g := range groups {
					t.pool = append(t.pool, g...)
				}
			case "nullable":
				groups = slices.DeleteFunc(slices.Clone(groups), func(g []string) bool { return g[0] == "null" }) // as JSON, it is NULL
				t.key, definition = []string{"a", "k"}, strings.TrimSuffix(sql, " NOT NULL")
				unique = "(a, k)"
				if c.index != "" {
					unique = "(a, " + strings.TrimPrefix(c.index, "(")
				}
				t.nullable, t.full, t.override = true, true, i%4 < 2
				for _, g := range groups {
					t.pool = append(t.pool, g[len(g)-1])
				}
			}
			name := quoteTable(t.table)
			db.exec(fmt.Sprintf("CREATE TABLE %s (k %s, a int NOT NULL DEFAULT 0, n int)", name, definition))
			if unique != "" && !t.nullable && (c.index == "" || temporal) {
				db.exec("ALTER TABLE " + name + " ADD PRIMARY KEY " + unique)
			} else if unique != "" {
				db.exec("CREATE UNIQUE INDEX " + quoteIdent(t.table.name+"_u") + " ON " + name + unique)
			}
			if t.nullable {
				db.exec("CREATE UNIQUE INDEX ON " + name + " (a) WHERE num_nulls(k) = 1")
			}
			switch {
			case t.full:
				db.exec("ALTER TABLE " + name + " REPLICA IDENTITY FULL")
			case c.index != "" && !temporal:
				db.exec("ALTER TABLE " + name + " REPLICA IDENTITY USING INDEX " + quoteIdent(t.table.name+"_u"))
			}
			db.grant(t.table)
			db.publish(t.table)
			n := 0
			insert := func(a int, key *string) {
				n++
				db.exec(fmt.Sprintf("INSERT INTO %s (k, a, n) VALUES ($1::text::%s, $2, $3)", name, typed), key, a, n)
			}
			for _, g := range groups {
				switch {
				case shape == "pair":
					for a := range 2 {
						insert(a, &g[a%len(g)])
					}
				case temporal:
					insert(n, &g[0])
				case shape == "single":
					insert(0, &g[0])
				default:
					insert(1, &g[len(g)-1])
					insert(2, &g[0])
				}
			}
			if t.nullable {
				insert(1, nil)
				insert(2, nil)
			}
			tables = append(tables, t)
		}
	}
	return tables
}

// resourceOf is the resource config of a table of the matrix.
func (t *keyTable) resourceOf() json.RawMessage {
	fields := map[string]any{"namespace": t.table.schema, "stream": t.table.name}
	if t.override {
		fields["primary_key"] = t.key
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return raw
}

// TestScanKeysResume: behind each row of each table, the resumed query, the server's answers and, where they are said to sort as
// the server does, packed keys agree with the server's ranks.
func TestScanKeysResume(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	db.keyExtensions()
	tables := db.createKeyTables("single", "pair", "nullable")
	s := db.settings()
	d := db.connect(s)
	c := &capture{ctx: db.ctx, settings: s, db: d, types: newTypeCatalog(), casts: make(map[uint32]comparison)}
	pooled, err := d.acquire(db.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	var names []tableName
	for _, k := range tables {
		names = append(names, k.table)
	}
	found, err := loadTables(db.ctx, pooled.Conn(), s, names)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range tables {
		b := &binding{resource: resource{table: k.table}, collectionKey: k.key, ledger: &c.ledger}
		if err := c.loadTypesOf(found[k.table]); err != nil {
			t.Fatal(err)
		}
		b.meta.Sight = found[k.table].sight
		if err := b.prepare(found[k.table], c.types, s, c.casts); err != nil {
			t.Errorf("%s: %v", k.table, err)
			continue
		}
		c.checkScanKey(t, pooled.Conn(), b)
	}
}

// keyExtensions has the extensions of the matrix installed.
func (db *testDB) keyExtensions() {
	db.Helper()
	db.script(`BEGIN; SELECT pg_advisory_xact_lock(7236541); CREATE EXTENSION IF NOT EXISTS citext;
		CREATE EXTENSION IF NOT EXISTS hstore; CREATE EXTENSION IF NOT EXISTS ltree; CREATE EXTENSION IF NOT EXISTS cube;
		CREATE EXTENSION IF NOT EXISTS isn; CREATE EXTENSION IF NOT EXISTS btree_gist; COMMIT`)
}

// rankedRow is a row as a scan reads it, with its rank among the table's keys.
type rankedRow struct {
	key  []value
	rank string
	n    string
}

func (c *capture) checkScanKey(t *testing.T, conn *pgx.Conn, b *binding) {
	t.Helper()
	order := joinTerms(b.terms)
	result := conn.PgConn().ExecParams(c.ctx, fmt.Sprintf("SELECT dense_rank() OVER (ORDER BY %s), n, %[1]s FROM %s ORDER BY %[1]s, n",
		order, b.from()), nil, nil, nil, nil).Read()
	if result.Err != nil {
		t.Errorf("%s: %v", b.name(), result.Err)
		return
	}
	var rows []rankedRow
	for _, raw := range result.Rows {
		r := rankedRow{rank: string(raw[0]), n: string(raw[1])}
		for _, v := range raw[2:] {
			if v == nil {
				r.key = append(r.key, value{kind: valueNull})
			} else {
				r.key = append(r.key, value{kind: valueText, data: v})
			}
		}
		rows = append(rows, r)
	}
	if len(rows) < 2 {
		t.Errorf("%s: %d rows", b.name(), len(rows))
		return
	}
	var all []string
	for _, row := range rows {
		all = append(all, row.n)
	}
	if read, err := c.walk(conn, b); err != nil || !slices.Equal(slices.Sorted(slices.Values(read)), slices.Sorted(slices.Values(all))) {
		t.Errorf("%s: chunks of one row read rows %v, want %v (%v)", b.name(), read, all, err)
	}
	for _, row := range rows {
		packed, err := b.key.appendPacked(nil, row.key)
		if err != nil {
			t.Errorf("%s: %v", b.name(), err)
			return
		}
		b.phase, b.state = phaseBackfill, &bindingState{KeyColumns: b.scanColumns(), Scanned: packed}
		b.meta.Key = b.keySignature()
		if err := b.resume(); err != nil {
			t.Errorf("%s: resume behind %s: %v", b.name(), describeKey(row.key), err)
			return
		}
		var want []string
		var asked []askedKey
		for _, other := range rows {
			asked = append(asked, askedKey{values: other.key})
			if cmp.Or(cmp.Compare(len(other.rank), len(row.rank)), cmp.Compare(other.rank, row.rank)) > 0 {
				want = append(want, other.n)
			}
		}
		ck := &chunk{binding: b, plan: b.plan, table: b.table, limit: len(rows) + 1, budget: 1 << 20, seed: maphash.MakeSeed()}
		q := b.scanQuery(ck, c.settings, c.db)
		if err := ck.read(c.ctx, conn.PgConn(), q); err != nil {
			t.Errorf("%s: read on behind %s: %v", b.name(), describeKey(row.key), err)
			if _, err := conn.Exec(c.ctx, "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			return
		}
		have := b.numbers(ck)
		slices.Sort(have)
		if sorted := slices.Sorted(slices.Values(want)); !slices.Equal(have, sorted) {
			t.Errorf("%s: behind %s the scan reads rows %v, want %v", b.name(), describeKey(row.key), have, sorted)
		}
		after, err := askAfter(c.ctx, conn, b, asked, [][]value{b.scan.scanned})
		if err != nil {
			t.Errorf("%s: ask for what is behind %s: %v", b.name(), describeKey(row.key), err)
			return
		}
		for i, other := range rows {
			behind := slices.Contains(want, other.n)
			if after[i][0] != behind {
				t.Errorf("%s: asked whether %s is behind %s: %v", b.name(), describeKey(other.key), describeKey(row.key), after[i][0])
			}
			form, err := b.key.appendOrder(nil, other.key)
			if err != nil {
				t.Errorf("%s: %v", b.name(), err)
			} else if b.key.ordered() && (bytes.Compare(form, b.scan.scannedAt) > 0) != behind {
				t.Errorf("%s: %s against %s: packed keys sort otherwise than the server", b.name(), describeKey(other.key), describeKey(row.key))
			}
		}
	}
}

// walk reads the table from its start with chunks of one row, and returns the rows it reads.
func (c *capture) walk(conn *pgx.Conn, b *binding) ([]string, error) {
	var read []string
	b.scan.scanned, b.scan.chunk = nil, nil
	for n := 0; n < 100; n++ {
		ck := &chunk{binding: b, plan: b.plan, table: b.table, limit: 1, budget: 1 << 20, seed: maphash.MakeSeed()}
		if err := ck.read(c.ctx, conn.PgConn(), b.scanQuery(ck, c.settings, c.db)); err != nil {
			return nil, err
		}
		read = append(read, b.numbers(ck)...)
		if ck.final {
			return read, nil
		}
		b.scan.scanned = ck.end
	}
	return nil, errors.New("the scan does not end")
}

// numbers are the values of n in a chunk's rows.
func (b *binding) numbers(ck *chunk) (numbers []string) {
	column := slices.IndexFunc(b.plan.columns, func(p relationColumn) bool { return p.name == "n" })
	for i := range ck.rows {
		numbers = append(numbers, string(ck.row(nil, i)[column].data))
	}
	return numbers
}

// TestScanKeysCaptured backfills all tables of the matrix with a chunk for each row.
func TestScanKeysCaptured(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	t.Parallel()
	db := newTestDB(t)
	db.keyExtensions()
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	w := &keyWriter{db: db, every: 25, rand: rand.New(rand.NewPCG(seed, 1))}
	if *longTests {
		w.every = 3
	}
	for i, k := range db.createKeyTables("single", "nullable") {
		mixed := uint64(i/2) + seed
		switch {
		case *longTests:
		case uint64(i)%2 != mixed%2, testing.Short() && mixed/2%4 != 0: // each type in one of the shapes; a quarter of them
			continue
		}
		w.tables = append(w.tables, k)
	}
	sentinel := db.edgeTable("sentinel", "int PRIMARY KEY", 0)
	r := newTestRuntime(t, runtimeOptions{
		config:       edit(t, db.config(), map[string]any{"advanced.backfill_chunk_size": 1 + seed/2%2}),
		onCheckpoint: w.checkpoint,
	})
	bindings := []runtimeBinding{faultBinding(sentinel)}
	for _, k := range w.tables {
		var key []string
		for _, column := range k.key {
			key = append(key, columnPointer(column))
		}
		bindings = append(bindings, runtimeBinding{resource: k.resourceOf(), collection: "keys/" + k.table.name, key: key})
	}
	r.bind(bindings)
	r.start()
	kills := 0
	for {
		r.waitFor("streaming or a kill", func() bool { return r.ended || isStreaming(r.status) })
		if w.stop(r) {
			break
		}
		if err := r.wait(); !errors.Is(err, errSevered) {
			t.Fatal(err)
		}
		kills++
		r.start()
	}
	r.waitEnd(db, sentinel)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tables, %d kills, %d changes, %d documents", len(w.tables), kills, w.changes, len(r.documents()))
	if kills == 0 || w.changes == 0 {
		t.Error("nothing was killed, or nothing changed")
	}
	for _, k := range w.tables {
		k.judge(t, db, r)
	}
}

// judge checks that the table's documents are a strict history that leaves its rows.
func (k *keyTable) judge(t *testing.T, db *testDB, r *testRuntime) {
	t.Helper()
	h := history.New(history.Table{Name: k.table.String(), Key: k.key, Full: k.full})
	for i, d := range r.documents() {
		if d.table != k.table.String() {
			continue
		}
		if err := h.Document(i+1, d.table, []byte(d.doc)); err != nil {
			t.Errorf("%v", err)
			for j, e := range r.documents()[:i+1] {
				if e.table == d.table {
					t.Logf("  %d, checkpoint %d: %.300s", j+1, e.checkpoint, e.doc)
				}
			}
			return
		}
	}
	var have []string
	_ = h.Rows(k.table.String(), func(row *history.Row, _ int) error {
		values, err := row.Values()
		have = append(have, string(values["a"])+" "+string(values["n"]))
		return err
	})
	var want []string
	for _, row := range db.query("SELECT a || ' ' || n FROM " + quoteTable(k.table)) {
		want = append(want, row[0])
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("%s: the documents leave rows (a n) %v, the table has %v", k.table, have, want)
	}
}

// keyWriter answers the checkpoints of a backfill with changes and kills.
type keyWriter struct {
	db     *testDB
	tables []*keyTable
	every  int // checkpoints to a kill

	mu          sync.Mutex // the rest
	rand        *rand.Rand
	n           int
	checkpoints int
	changes     int
	stopped     bool
}

// stop ends the changes and kills; it returns false when a session has been killed.
func (w *keyWriter) stop(r *testRuntime) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = r.end() == nil && r.current() != nil
	return w.stopped
}

// checkpoint is the hook of checkpoints.
func (w *keyWriter) checkpoint(r *testRuntime, patch json.RawMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || r.end() != nil || !bytes.Contains(patch, []byte(`"scanned":"`)) {
		return
	}
	if w.checkpoints++; w.checkpoints%w.every == 0 {
		r.sever(w.rand.IntN(2) == 0)
		return
	}
	if w.checkpoints == 10 {
		w.addLabel()
	}
	var moved []*keyTable
	for _, k := range w.tables {
		if bytes.Contains(patch, []byte("%2F"+k.table.name+`"`)) {
			moved = append(moved, k)
		}
	}
	if err := pgx.BeginFunc(w.db.ctx, w.db.control, func(tx pgx.Tx) error {
		for range 1 + w.rand.IntN(4) {
			k := w.tables[w.rand.IntN(len(w.tables))]
			if len(moved) > 0 && w.rand.IntN(4) > 0 {
				k = moved[w.rand.IntN(len(moved))]
			}
			if err := w.change(tx, k); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		w.db.Errorf("the writer: %v", err)
	}
}

// addLabel adds a label in the midst of the enum, which keys have from then on.
func (w *keyWriter) addLabel() {
	for _, k := range w.tables {
		if !strings.HasSuffix(k.typed, "mood") {
			continue
		}
		enum := strings.Replace(k.typed, ".d_mood", ".mood", 1)
		if _, err := w.db.control.Exec(w.db.ctx, "ALTER TYPE "+enum+" ADD VALUE IF NOT EXISTS 'calm' BEFORE 'ok'"); err != nil {
			w.db.Errorf("the writer: %v", err)
			return
		}
		k.pool = append(k.pool, "calm")
	}
}

// change inserts, deletes, updates or moves one row, wherever it lies.
func (w *keyWriter) change(tx pgx.Tx, k *keyTable) error {
	w.n++
	var key *string
	a := 0
	if k.nullable {
		a = 1 + w.rand.IntN(2)
	}
	if !k.nullable || w.rand.IntN(6) > 0 {
		key = &k.pool[w.rand.IntN(len(k.pool))]
	}
	name := quoteTable(k.table)
	row := " WHERE ctid = (SELECT ctid FROM " + name + " ORDER BY random() LIMIT 1)"
	var sql string
	args := []any{pgx.QueryExecModeExec}
	switch w.rand.IntN(5) {
	case 0:
		sql = "INSERT INTO " + name + " (k, a, n) VALUES ($1::text::" + k.typed + ", $2, $3)"
		args = append(args, key, a, w.n+1000)
	case 1:
		sql = "DELETE FROM " + name + row
	case 2:
		sql = "UPDATE " + name + " SET n = $1" + row
		args = append(args, w.n+1000)
	default:
		sql = "UPDATE " + name + " SET k = $1::text::" + k.typed + ", a = $2, n = $3" + row
		args = append(args, key, a, w.n+1000)
	}
	err := pgx.BeginFunc(w.db.ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(w.db.ctx, sql, args...)
		return err
	})
	switch sqlState(err) {
	case "23505", "23P01": // the key is taken
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	w.changes++
	return nil
}
