package main

// Goal: the comparison finds every difference and invents none. Method: tables of every common type with hand-written
// documents, spelled as the connector spells them, that equal the rows, and variations that do not.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func testDatabase(t *testing.T) (url string, conn *pgx.Conn) {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a PostgreSQL server: set TEST_DATABASE=yes, or run make test")
	}
	address := os.Getenv("TEST_DATABASE_ADDRESS")
	if address == "" {
		address = "localhost:5432"
	}
	url = "postgres://postgres:postgres@" + address + "/postgres"
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return url, conn
}

const replaySetup = `
DROP SCHEMA IF EXISTS "replay.test" CASCADE;
CREATE SCHEMA "replay.test";
SET search_path = "replay.test";
SET TimeZone = 'PST8PDT';
CREATE TYPE mood AS ENUM ('sad', 'ok "x"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS numeric(8,2) NOT NULL CHECK (VALUE > 0);
CREATE TABLE types (
	id bigint PRIMARY KEY, "Quo""te" text, b bool, f4 real, f8 double precision, n numeric(10,4), p positive,
	t timestamp, tz timestamptz, d date, tm time, tmz timetz, iv interval, by bytea, j json, jb jsonb, u uuid,
	ia int[], ta text[], ja jsonb[], bya bytea[], e mood, ea mood[], c pair, r int4range, bx box[], ip inet, bt bit(3),
	vc varchar(5), ch char(5), m money, jn jsonb, g int GENERATED ALWAYS AS (1) STORED, "_meta" text
);
INSERT INTO types (id, "Quo""te", b, f4, f8, n, p, t, tz, d, tm, tmz, iv, by, j, jb, u, ia, ta, ja, bya, e, ea, c, r, bx,
                   ip, bt, vc, ch, m, jn)
VALUES (9223372036854775807, E'tab\t nl\n bs\\ \\N', true, 1.1, '-Infinity', 12.5, 1, '1999-01-08 04:05:06.123456',
	'1999-01-08 04:05:06.5+00', '1999-01-08', '04:05:06.789', '04:05:06-08', '1 year 2 mons 3 days -04:05:06.789',
	'\x00ff', '{"b" : 1.0, "a":[ ]}', '{"b": 1.0, "a": null}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
	'{{1,2},{3,NULL}}', ARRAY['a"b', 'c\d', '', 'NULL', NULL], ARRAY['{"x": [1]}', '"s"']::jsonb[], ARRAY['\x5c22']::bytea[],
	'ok "x"', ARRAY['sad', 'ok "x"']::mood[], '(1,"x ""y")', '[1,5)', ARRAY['(3,4),(1,2)', '(1,1),(0,0)']::box[],
	'192.168.1.1', '101', 'v', 'c', 1234.5, 'null');
INSERT INTO types (id, p) VALUES (2, 2);
CREATE TABLE indexed (a int NOT NULL, b int NOT NULL, v text);
CREATE UNIQUE INDEX ON indexed (b, a) INCLUDE (v);
ALTER TABLE indexed REPLICA IDENTITY FULL;
INSERT INTO indexed VALUES (1, 2, 'x');
CREATE TABLE keyless (v int);
INSERT INTO keyless VALUES (1), (1), (2);
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
INSERT INTO parted VALUES (1);
CREATE TABLE empty (id int PRIMARY KEY)`

func TestReplay(t *testing.T) {
	url, conn := testDatabase(t)
	if _, err := conn.PgConn().Exec(t.Context(), replaySetup).ReadAll(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.Exec(context.Background(), `DROP SCHEMA "replay.test" CASCADE`); err != nil {
			t.Error(err)
		}
	})
	row := 0
	doc := func(table, op, columns string) string {
		row++
		source := fmt.Sprintf(`{"schema":"replay.test","table":%q,"loc":[%d,%d,%d]}`, table, row, row, row)
		return fmt.Sprintf(`["replay.test.%s",{"_meta":{"op":%q,"source":%s},%s}]`, table, op, source, columns)
	}
	empty := ""
	for name := range strings.SplitSeq(
		"b f4 f8 n t tz d tm tmz iv by j jb u ia ta ja bya e ea c r bx ip bt vc ch m jn", " ",
	) {
		empty += `,"` + name + `":null`
	}
	right := []string{
		doc("types", "c", `"id":2,"Quo\"te":null,"p":"2.00"`+empty),
		doc("types", "c", `"id":9223372036854775807,"Quo\"te":"tab\t nl\n bs\\ \\N","b":true,"f4":1.1,"f8":"-Infinity",`+
			`"n":"12.5000","p":"1.00","t":"1999-01-08T04:05:06.123456Z","tz":"1999-01-07T20:05:06.5-08:00","d":"1999-01-08",`+
			`"tm":"04:05:06.789Z","tmz":"04:05:06-08:00","iv":"14 mon 3 day -04:05:06.789000","by":"AP8=",`+
			`"j":{"b":1.0,"a":[]},"jb":{"a":null,"b":1.0},"u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","ia":[1,2,3,null],`+
			`"ta":["a\"b","c\\d","","NULL",null],"ja":[{"x":[1]},"s"],"bya":["XCI="],"e":"ok \"x\"","ea":["sad","ok \"x\""],`+
			`"c":"(1,\"x \"\"y\")","r":"[1,5)","bx":["(3,4),(1,2)","(1,1),(0,0)"],"ip":"192.168.1.1/32","bt":"101","vc":"v",`+
			`"ch":"c    ","m":"$1,234.50","jn":null`),
		doc("indexed", "c", `"a":1,"b":2,"v":"x"`),
		doc("keyless", "c", `"v":1`), doc("keyless", "c", `"v":2`), doc("keyless", "c", `"v":1`),
		doc("parted", "c", `"id":1`),
	}
	check := func(name string, lines []string, want string, args ...string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "output")
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := run(t.Context(), append([]string{"--database", url, "--output", path}, args...))
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	changed := func(old, new string) []string {
		return strings.Split(strings.ReplaceAll(strings.Join(right, "\n"), old, new), "\n")
	}
	const differs = "the replayed output differs from the tables:\n  "
	check("right", right, "7 documents, 7 keys, 4 tables: replayed output equals the tables", "--strict")
	check("with an empty table", right, "7 documents, 7 keys, 5 tables: replayed output equals the tables",
		"--strict", "--tables", "replay.test.empty,replay.test.types")
	check("a table without documents", right[:6],
		differs+`replay.test.parted: on the server, not in the replay: {"id": "1"}`, "--tables", "replay.test.parted")
	check("a row missed", append([]string{right[0]}, right[2:]...),
		differs+`replay.test.types: on the server, not in the replay: {"b": "true", "c": "(1,\"x \"\"y\")", `)
	check("a row too many", append(right, doc("keyless", "c", `"v":2`)),
		differs+`replay.test.keyless: in the replay, not on the server: {"v": "2"}`)
	check("a stale row", append(right, doc("indexed", "u", `"a":1,"b":2,"v":"y"`)),
		differs+"replay.test.indexed: on the server, not in the replay: "+`{"a": "1", "b": "2", "v": "x"}`+"\n  "+
			"replay.test.indexed: in the replay, not on the server: "+`{"a": "1", "b": "2", "v": "y"}`)
	for _, pair := range [][2]string{
		{`"12.5000"`, `"12.5001"`},
		{`AP8=`, `AP4=`},
		{`[1,2,3,null]`, `[1,2,null,3]`},
		{`06.5-08:00`, `06.5Z`},
		{`"-Infinity"`, `-1`},
		{`"b":1.0}`, `"b":1.00}`},
		{`c\\d`, `cd`},
		{`XCI=`, `XCE=`},
		{`14 mon`, `13 mon`},
	} {
		check(pair[0], changed(pair[0], pair[1]), differs+"replay.test.types: ")
	}
	check("a column too many", changed(`"a":1,`, `"a":1,"z":1,`), "compare replay.test.indexed: line 3: a column that the table does not have")
	check("no such table", []string{`["x.y",{}]`}, "line 1: the server has no table x.y")
	check("not strict", append(right, doc("parted", "c", `"id":1`)), "8 documents", "--keyless", "replay.test.empty")
	check("strict", append(right, doc("parted", "c", `"id":1`)),
		"replay.test.parted key [1]: line 8 (c): an insertion of a key that exists; ", "--strict")
	check("strict, replaced", append(right, doc("parted", "c", `"id":1`)),
		"8 documents", "--strict", "--replaced", "replay.test.parted")
	check("strict, identity full", append(right, doc("indexed", "u", `"a":1,"b":2,"v":"x"`)),
		"replay.test.indexed key [2,1]: line 8 (u): no before, but the replica identity is FULL; ", "--strict")
}
