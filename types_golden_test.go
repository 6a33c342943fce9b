package main

// types_golden_test.go drives the edge values of every type through all that can carry them: a chunk, an insert, an update,
// and the old tuples of an update and a delete. All must be the same JSON, and the JSON of testdata/types.golden, on every
// version of the server, whatever the role's settings, and as elements of arrays and behind domains as well.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// goldenType is a type with its values. A value is the text of a literal, or behind = an expression.
type goldenType struct {
	name   string
	values []string
	since  int    // server_version_num that has the type or the values; 0: all
	needs  string // extension, or "xml" where the server must have been built with it
	label  string // instead of the name: divides values with another since
}

const goldenTypesSQL = `
	CREATE TYPE types.mood AS ENUM ('sad', 'ok', 'so "so"', 'NULL', '', 'a,b', '日本');
	CREATE TYPE types.pair AS (a int4, b text);
	CREATE TYPE types.nested AS (p types.pair, m types.mood, i int4[], t timestamptz);
	CREATE TYPE types.floatrange AS RANGE (subtype = float8, multirange_type_name = types.floatmulti);
	CREATE TYPE types.textrange AS RANGE (subtype = text, multirange_type_name = types.textmulti);
	CREATE TYPE twin.mood AS ENUM ('other');
	CREATE DOMAIN types.posint AS int4 CHECK (value > 0);
	CREATE DOMAIN types.posint2 AS types.posint;
	CREATE DOMAIN types.posint3 AS types.posint2 CHECK (value < 1000);
	CREATE DOMAIN types.mood_d AS types.mood;
	CREATE DOMAIN types.moods_d AS types.mood[];
	CREATE DOMAIN types.pair_d AS types.pair;
	CREATE DOMAIN types.short AS varchar(10);
	CREATE DOMAIN types.ints AS int4[];
	CREATE DOMAIN types.times AS timestamptz[];
	CREATE DOMAIN types.boxd AS box;
	CREATE DOMAIN types.range_d AS tstzrange;`

var goldenTypes = []goldenType{
	{name: "bool", values: []string{"t", "f"}},
	{name: "int2", values: []string{"-32768", "32767", "0"}},
	{name: "int4", values: []string{"-2147483648", "2147483647", "0", "-1"}},
	{name: "int8", values: []string{"-9223372036854775808", "9223372036854775807", "0", "9007199254740993"}},
	{name: "oid", values: []string{"0", "4294967295"}},
	{name: "xid", values: []string{"0", "4294967295"}},
	{name: "cid", values: []string{"0", "4294967295"}},
	{name: "xid8", values: []string{"0", "18446744073709551615"}},
	{name: "tid", values: []string{"(0,0)", "(1,2)", "(4294967295,65535)"}},
	{name: `"char"`, values: []string{"a", "", `"`, `=1::int4::"char"`, " "}},
	{name: `"char"`, label: `"char" (15)`, since: 150000, values: []string{`\351`}},
	{name: "name", values: []string{"", "pg_class", `quo"te`, "=repeat('x', 63)::name", "日本"}},
	{name: "float4", values: []string{
		"0", "-0", "1.5", "0.1", "16777216", "3.4028235e38", "-3.4028235e38", "1e-45", "1e21", "1e20", "1e-6", "9.9e-7", "NaN",
		"Infinity", "-Infinity", "123456.79", "1e15", "8388609",
	}},
	{name: "float8", values: []string{
		"0", "-0", "1", "-1.5", "0.1", "0.30000000000000004", "123456789012345", "1e15", "1e16", "1e20", "1.2345678901234567e20",
		"1e21", "1e23", "9007199254740993", "0.0001", "1e-5", "1e-6", "1e-7", "1.5e-9", "1e-10", "5e-324",
		"2.2250738585072014e-308", "1.5e300", "1.7976931348623157e308", "-1.7976931348623157e308", "NaN", "Infinity", "-Infinity",
	}},
	{name: "numeric", values: []string{
		"0", "0.00", "-0.0", "1", "123.4500", "-0.000000000000000000000000000001", "1e400", "NaN", "Infinity", "-Infinity",
		"=(repeat('9', 1000) || '.' || repeat('1', 1000))::numeric", "1e-400", "10000", "99999999", "0.0001", "-12345678901234567890",
	}},
	{name: "numeric(10,3)", values: []string{"0", "1234567.891", "-1.5", "NaN"}},
	{name: "money", values: []string{
		"=0::money", "=1234.50::numeric::money", "=(-1234.50)::numeric::money",
		"=(-92233720368547758.08)::numeric::money", "=92233720368547758.07::numeric::money",
	}},
	{name: "text", values: []string{
		"", " ", "plain", "a<b>&c", "quote\" back\\ slash/", "tab\tnewline\nreturn\rbell\aesc\x1bdel\x7f\x01\x1f", "naïve 日本語 😀\u2028\u2029",
		"NULL", "null", "{}", "\ufeffbom", "\ufffd", "\U0010ffff", `\N`, `\x00`, `\u0000`, "e\u0301", "\u202eright",
		"=repeat('long😀', 3000)", "=string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(1, 300) i",
	}},
	{name: "varchar", values: []string{"", "häß", "trailing  "}},
	{name: "varchar(5)", values: []string{"", "12345", "日本語😀é"}},
	{name: "char(3)", values: []string{"", "a", "abc", " b", "日本"}},
	{name: "bpchar", values: []string{"", "a  ", "abc"}},
	{name: "bytea", values: []string{
		`\x`, `\x00`, `\x61`, `\x6162`, `\x616263`, `\xfffefdfc`, `\x5c`, `\x27225c`, "=decode(repeat('00ff10', 4000), 'hex')",
	}},
	{name: "bit", values: []string{"0", "1"}},
	{name: "bit(11)", values: []string{"10101010101", "00000000000"}},
	{name: "varbit", values: []string{"", "1", "10101010101", "=repeat('10', 500)::varbit"}},
	{name: "uuid", values: []string{
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000",
		"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
	}},
	{name: "json", values: []string{
		" {\"b\" : 1.0 ,\n \"a\": [ 1e400, true , null ], \"a\":{} } ", `{"a":"\ud800x"}`,
		`"\ud83d\ude00 \ude00 \ud83d\ud83d\ude00 \u0000 \uFFFF"`, `"a b\n\/\"\\\t\b\f\r"`, `null`, ` "x" `, `-0.5E+7`, `[[],{},[[]],""]`,
		`{"":{"":""}}`, `"<>&日本😀"`, `-0`, `0.10`, `12345678901234567890123456789`, `[1 , 2	,3]`, `"\u00e9\u2028"`, `false`,
		"=('[' || repeat('[1,2],', 2000) || '0]')::json", `{"a":1,"a":1}`, "\"\x7f\"",
	}},
	{name: "jsonb", values: []string{
		`{"b": 1.50, "a": [1, 2, {"b": "c d"}], "bb": -0, "a": 2}`, `"日本\u00e9😀<>&"`, `null`, `true`, `1e400`, `-1.0`, `0.000000001`, `{}`, `[]`,
		`"\ud83d\ude00"`, `"\\ \" \/ \b\f\n\r\t\u0001\u007f"`, `[null, [], {}, ""]`, `{"": 1}`,
		"=jsonb_agg(jsonb_build_object('k', i, 'v', md5(i::text))) FROM generate_series(1, 200) i", `12345678901234567890123456789.0`,
	}},
	{name: "jsonpath", values: []string{`$."a"[*]?(@ > 1)`, `strict $.a`, `$."日本"`}},
	{name: "xml", needs: "xml", values: []string{"<a>1</a>", `<a b="c">&lt;&amp;</a>`, "text", "<日本/>"}},
	{name: "date", values: []string{
		"1999-01-08", "9999-12-31", "0001-01-01", "0001-06-07 BC", "0044-03-15 BC", "4713-11-24 BC", "10000-01-01", "5874897-12-31", "infinity",
		"-infinity", "2000-02-29", "1970-01-01", "0001-12-31 BC", "0002-12-31 BC",
	}},
	{name: "timestamp", values: []string{
		"1999-01-08 04:05:06.123456", "1999-01-08 04:05:06.5", "1999-01-08 04:05:06", "0001-06-07 01:02:03 BC", "0044-03-15 12:00:00 BC",
		"4713-11-24 00:00:00 BC", "10000-01-01 00:00:00", "294276-12-31 23:59:59.999999", "infinity", "-infinity", "2016-12-31 23:59:60",
		"9999-12-31 23:59:59.999999", "0001-01-01 00:00:00", "2000-01-01 24:00:00", "1999-12-31 23:59:59.999999", "2000-01-01 00:00:00.000001",
	}},
	{name: "timestamp(3)", values: []string{"1999-01-08 04:05:06.1239", "infinity"}},
	{name: "timestamptz", values: []string{
		"1999-01-07 20:05:06.5-08", "1999-07-07 20:05:06-07", "1999-01-07 20:05:06+00", "1999-01-07 20:05:06.123456+05:30",
		"1850-01-01 00:00:00.25-07:52:58", "9999-12-31 23:59:59+00", "9999-12-31 23:59:59-08", "10000-01-01 00:00:00+00", "0001-01-01 00:00:00+00",
		"0001-01-01 00:00:00+00 BC", "0002-12-31 23:59:59+00 BC", "0001-12-31 16:00:00-08 BC", "4713-11-25 00:00:00+00 BC",
		"294276-12-31 23:59:59.999999+00", "infinity", "-infinity", "2016-12-31 23:59:60+00", "1883-11-18 12:00:00+00",
		"2021-11-07 01:30:00-07", "2021-11-07 01:30:00-08", "2021-03-14 03:00:00-07", "1970-01-01 00:00:00+00",
	}},
	{name: "timestamptz(0)", values: []string{"1999-01-07 20:05:06.5-08"}},
	{name: "time", values: []string{
		"04:05:06.789", "00:00:00", "24:00:00", "23:59:59.999999", "23:59:60", "00:00:00.000001", "12:00",
	}},
	{name: "time(2)", values: []string{"04:05:06.789", "23:59:59.999"}},
	{name: "timetz", values: []string{
		"04:05:06.123-08", "04:05:06+00", "04:05:06+05:30", "24:00:00+00", "24:00:00-03:30", "04:05:06+03:30:50", "04:05:06.5-03:30:50",
		"00:00:10+03:30:50", "23:59:50-03:30:50", "12:00:00+00:00:30", "12:00:00+15:59", "12:00:00-15:59:59", "00:00:00-15:59:59",
		"23:59:59.999999+15:59:59",
	}},
	{name: "interval", values: []string{
		"1 year 2 mons 3 days 04:05:06.789", "0", "100:00:00", "-00:00:01.5", "-1 years -2 mons +3 days -04:05:06.789", "-1 days +02:03:00",
		"1 mon", "-1 mons", "1 day", "1 mon 00:00:00.000001", "178000000 years", "-178000000 years", "2147483647:59:59.999999",
		"2147483647 days", "-2147483648 days", "1 mon -1 day", "11 mons 29 days 23:59:59.999999",
	}},
	{name: "interval", label: "interval (15)", since: 150000, values: []string{"2562047788:00:54.775807"}},
	{name: "interval", label: "interval (17)", since: 170000, values: []string{"infinity", "-infinity"}},
	{name: "interval day to second(1)", values: []string{"1 day 02:03:04.567"}},
	{name: "interval year to month", values: []string{"1 year 2 mons"}},
	{name: "point", values: []string{"(1.5,-2)", "(1e20,1e-7)", "(NaN,-Infinity)", "(0.1,-0)", "(1e300,5e-324)"}},
	{name: "line", values: []string{"{1,2,3}", "{-1,0,0.5}"}},
	{name: "lseg", values: []string{"[(1,2),(3,4)]"}},
	{name: "box", values: []string{"(3,4),(1,2)", "(0.1,1e20),(-1,-2)"}},
	{name: "path", values: []string{"[(1,2),(3,4)]", "((1,2),(3,4))", "[(0,0)]"}},
	{name: "polygon", values: []string{"((0,0),(0,1),(1,0))"}},
	{name: "circle", values: []string{"<(1,2),3>", "<(1e20,-0.5),0>"}},
	{name: "inet", values: []string{
		"192.168.1.1", "192.168.1.1/24", "0.0.0.0/0", "::1/64", "2001:db8::ff", "::ffff:1.2.3.4", "::1.2.3.4/96", "::0.0.0.5", "::", "::/0",
		"1:0:0:2:0:0:0:3", "255.255.255.255",
	}},
	{name: "cidr", values: []string{"10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "192.168.1.1/32", "::/0"}},
	{name: "macaddr", values: []string{"08:00:2b:01:02:03", "FF-FF-FF-FF-FF-FF"}},
	{name: "macaddr8", values: []string{"08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"}},
	{name: "tsvector", values: []string{"", "'a':1 'it''s':2A", "'日本':3B,16383 'b\\\\c'"}},
	{name: "tsquery", values: []string{"", "'a' & 'b':*", "!'a' | 'b':AB <-> 'c'"}},
	{name: "pg_lsn", values: []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"}},
	{name: "regclass", values: []string{"pg_class", "0"}},
	{name: "regtype", values: []string{"integer", "timestamp with time zone", "integer[]"}},
	{name: "regproc", values: []string{"pg_sleep"}},
	{name: "regprocedure", values: []string{"pg_sleep(double precision)"}},
	{name: "regoperator", values: []string{"+(integer,integer)"}},
	{name: "regnamespace", values: []string{"pg_catalog"}},
	{name: "regconfig", values: []string{"english"}},
	{name: "regcollation", values: []string{`"C"`}},
	{name: "int2vector", values: []string{"1 2 3", "", "-32768"}},
	{name: "oidvector", values: []string{"1 2 3", "4294967295"}},
	{name: "txid_snapshot", values: []string{"10:20:10,14"}},
	{name: "pg_snapshot", values: []string{"10:20:10,14", "1:1:"}},
	{name: "refcursor", values: []string{"c", ""}},

	{name: "int4range", values: []string{"[1,5)", "empty", "(,6)", "[-2147483648,)", "(,)", "[1,5]"}},
	{name: "int8range", values: []string{"[1,9223372036854775807)", "(,6)"}},
	{name: "numrange", values: []string{"[1.50,2.00]", "(,)", "(0.00,1e30)", "[-Infinity,NaN]"}},
	{name: "daterange", values: []string{
		"[2010-01-01,2010-01-03)", "empty", "[2010-01-01,infinity)", "[-infinity,2010-01-01)", `["0044-03-15 BC",)`, "[10000-01-01,)",
	}},
	{name: "tsrange", values: []string{
		`["2010-01-01 14:30:00","2010-01-01 15:30:00.5")`, `(-infinity,"2010-01-01 15:30:00"]`, `["0044-03-15 00:00:00 BC","10000-01-01 00:00:00")`, "(,)",
	}},
	{name: "tstzrange", values: []string{
		`["2010-01-01 14:30:00-08",)`, `["2010-01-01 14:30:00+00","2010-07-01 00:00:00.000001+05:30"]`,
		"(-infinity,infinity)", "empty",
	}},
	{name: "int4multirange", values: []string{"{[1,5),[7,9)}", "{}", "{(,)}"}},
	{name: "int8multirange", values: []string{"{}", "{(,1),[9223372036854775806,)}"}},
	{name: "nummultirange", values: []string{"{[1.5,2.0)}", "{(0.00,1),[2,3]}"}},
	{name: "datemultirange", values: []string{"{[2010-01-01,2010-01-03),[2011-01-01,)}"}},
	{name: "tsmultirange", values: []string{`{["2010-01-01 14:30:00","2010-01-01 15:30:00"]}`, "{}"}},
	{name: "tstzmultirange", values: []string{
		`{["2010-01-01 14:30:00-08",infinity)}`,
		`{["2010-01-01 00:00:00+00","2010-07-01 00:00:00+00"),["2011-01-01 00:00:00+00",]}`,
	}},

	{name: "types.mood", values: []string{"sad", "ok", `so "so"`, "NULL", "", "a,b", "日本"}},
	{name: "twin.mood", values: []string{"other"}},
	{name: "types.pair", values: []string{`(1,"x y")`, "(,)", `(-1,"quo""te\\,")`, `(2,"")`, "(3,日本)"}},
	{name: "types.nested", values: []string{`("(1,""x y"")",ok,"{1,NULL}","2010-01-01 14:30:00+00")`, "(,,,)"}},
	{name: "types.floatrange", values: []string{"[1.5,2)", "[0.1,0.30000000000000004]", "(-Infinity,1e20]"}},
	{name: "types.floatmulti", values: []string{"{[1.5,2)}", "{}"}},
	{name: "types.textrange", values: []string{`["a b","c,d")`, "(,z]"}},
	{name: "types.textmulti", values: []string{`{["a b","c,d"),[e,f]}`}},
	{name: "types.posint", values: []string{"1", "2147483647"}},
	{name: "types.posint3", values: []string{"7"}},
	{name: "types.mood_d", values: []string{"so \"so\""}},
	{name: "types.moods_d", values: []string{`{ok,NULL,"NULL"}`, "{}"}},
	{name: "types.pair_d", values: []string{`(1,"x y")`}},
	{name: "types.short", values: []string{"0123456789", ""}},
	{name: "types.ints", values: []string{"{1,2}", "{}", "{NULL}", "[0:1]={5,6}"}},
	{name: "types.times", values: []string{`{"2010-01-01 14:30:00+00",infinity,NULL}`}},
	{name: "types.boxd", values: []string{"(3,4),(1,2)"}},
	{name: "types.range_d", values: []string{`["2010-01-01 14:30:00-08",)`}},

	{name: "int4[]", values: []string{
		"{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}", "[-1:0][2:3]={{1,2},{3,4}}", "{{{{{{1,2}}}}}}", "{NULL}", "=array_fill(7, ARRAY[5000])",
	}},
	{name: "int2[]", values: []string{"{1,-32768}"}},
	{name: "int8[]", values: []string{"{9223372036854775807}", "{NULL,NULL}"}},
	{name: "bool[]", values: []string{"{t,f,NULL}"}},
	{name: "float8[]", values: []string{"{1e20,NaN,-0,0.30000000000000004,-Infinity}"}},
	{name: "float4[]", values: []string{"{1.5,Infinity,0.1}"}},
	{name: "numeric[]", values: []string{"{0.00,1.50,NaN,-Infinity}"}},
	{name: "text[]", values: []string{
		`{a,"b c","","NULL",NULL,"q\"b\\","{x}","a,b"," "}`, "{\"line\nbreak\",日本,😀}", `{{a,NULL},{"{",";"}}`, `[2:2]={x}`,
	}},
	{name: "bytea[]", values: []string{`{"\\x6162","\\x"}`}},
	{name: "timestamptz[]", values: []string{`{"1999-01-08 04:05:06-08","2000-07-01 00:00:00+00",-infinity}`}},
	{name: "box[]", values: []string{"{(3,4),(1,2);(1,1),(0,0)}"}},
	{name: "json[]", values: []string{`{"{\"a\": [1, 2]}",null,"null","\"\\ud800\""}`}},
	{name: "jsonb[]", values: []string{`{"{\"a\": \"\\\"x\\\"\"}",NULL,"null"}`}},

	{name: "extensions.citext", needs: "citext", values: []string{"MiXed", "", "häß"}},
	{name: "extensions.hstore", needs: "hstore", values: []string{`"a"=>"1", "b"=>NULL`, "", `"quo\"te"=>"日本"`}},
	{name: "extensions.ltree", needs: "ltree", values: []string{"a.b.c", ""}},
	{name: "extensions.lquery", needs: "ltree", values: []string{"*.b.*{1,2}"}},
	{name: "extensions.cube", needs: "cube", values: []string{"(1, 2),(3, 4)", "(0.1)"}},
	{name: "extensions.isbn", needs: "isn", values: []string{"978-0-393-04002-9"}},
	{name: "extensions.seg", needs: "seg", values: []string{"1.5 .. 2"}},
}

// goldenDatabase makes a database of the encoding and has all test in it until the end of the test, so that types and
// extensions are its own. Tests that use it may not run in parallel.
func goldenDatabase(t *testing.T, encoding string) *testDB {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a test server: set TEST_DATABASE=yes (and -db-address), or run make test")
	}
	t.Setenv("SOURCE_POSTGRES_GOLDEN", encoding) // panics in a parallel test
	outer := testConnect(t, *testControlUser, *testControlPassword)
	name := fmt.Sprintf("golden_%s_%d_%d", strings.ToLower(encoding), os.Getpid(), testCount.Add(1))
	exec := func(sql string) {
		t.Helper()
		if _, err := outer.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ENCODING '%s' LC_COLLATE 'C' LC_CTYPE 'C'", name, encoding))
	t.Cleanup(func() {
		conn := testConnect(t, *testControlUser, *testControlPassword)
		if _, err := conn.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("drop the database: %v", err)
		}
	})
	old := *testDatabase
	*testDatabase = name
	t.Cleanup(func() { *testDatabase = old })
	db := newTestDB(t)
	db.requireVersion(140000) // multiranges and infinite numerics
	db.script(`SET client_encoding = 'UTF8'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC';
		SET lc_monetary = 'C'; SET extra_float_digits = 1; SET search_path = pg_catalog;
		CREATE SCHEMA types; CREATE SCHEMA twin; CREATE SCHEMA extensions;
		CREATE FUNCTION types.twice(value text, delimiter text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
			SELECT '{"' || q || '"' || delimiter || 'NULL' || delimiter || '"' || q || '"}'
			FROM (SELECT replace(replace(value, '\', '\\'), '"', '\"') AS q) x $$`)
	return db
}

// goldenRole makes a role with settings of its own that captures.
func (db *testDB) goldenRole(settings ...string) string {
	db.Helper()
	role := db.name("golden")
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret1234' IN ROLE pg_read_all_data", role))
	db.Cleanup(func() {
		db.dropSlot()
		db.script("DROP OWNED BY " + role + "; DROP ROLE " + role)
	})
	for _, setting := range settings {
		db.exec("ALTER ROLE " + role + " SET " + setting)
	}
	db.script(fmt.Sprintf("GRANT USAGE ON SCHEMA test TO %s; GRANT ALL ON %s TO %[1]s", role, quoteTable(db.watermarks)))
	return role
}

// goldenColumn is a column of each of the four tables.
type goldenColumn struct {
	name, typ string
	array     bool     // the type has an array type
	values    []string // expressions
	texts     []string // as in the list of types
}

// columns returns the columns of what this server has of the types, and whether it has all.
func (db *testDB) columns(types []goldenType) (columns []goldenColumn, missing map[string]bool) {
	db.Helper()
	missing = map[string]bool{}
	version, there := db.version(), map[string]bool{"": true}
	for _, typ := range types {
		if _, tried := there[typ.needs]; !tried {
			sql := "CREATE EXTENSION " + typ.needs + " SCHEMA extensions"
			if typ.needs == "xml" {
				sql = "SELECT xml '<a/>'"
			}
			_, err := db.control.Exec(db.ctx, sql)
			if err != nil {
				db.Logf("left out: %v", err)
			}
			there[typ.needs] = err == nil
		}
		name := typ.label
		if name == "" {
			name = typ.name
		}
		if !there[typ.needs] || version < typ.since {
			missing[name] = true
			continue
		}
		c := goldenColumn{name: name, typ: typ.name, texts: typ.values, array: !strings.HasSuffix(typ.name, "[]")}
		for _, value := range typ.values {
			if expression, ok := strings.CutPrefix(value, "="); ok {
				c.values = append(c.values, "(SELECT ("+expression+"))")
				if strings.Contains(expression, " FROM ") {
					c.values[len(c.values)-1] = "(SELECT " + expression + ")"
				}
			} else {
				c.values = append(c.values, fmt.Sprintf("%s::%s", quoteLiteral(value), typ.name))
			}
		}
		columns = append(columns, c)
	}
	return columns, missing
}

// drive sends the values of the types by every way, checks that all bring the same, and returns the JSON of each value, in
// the order of the columns.
func (db *testDB) drive(columns []goldenColumn, role string) [][]string {
	db.Helper()
	rows := 1 // of NULL
	for _, c := range columns {
		rows = max(rows, len(c.values)+1)
	}
	forms := []struct {
		name    string
		element bool
		typ     func(i int, c goldenColumn) string
	}{
		{"plain", true, func(_ int, c goldenColumn) string { return c.typ }},
		{"domain", true, func(i int, _ goldenColumn) string { return fmt.Sprintf("types.domain%d", i) }},
		{"array", false, func(_ int, c goldenColumn) string {
			if !c.array {
				return ""
			}
			return c.typ + "[]"
		}},
		{"domainarray", false, func(i int, _ goldenColumn) string { return fmt.Sprintf("types.domain%d[]", i) }},
	}
	for i, c := range columns {
		db.exec(fmt.Sprintf("CREATE DOMAIN types.domain%d AS %s", i, c.typ))
	}
	var tables []tableName
	for _, form := range forms {
		var definitions, names []string
		for i, c := range columns {
			if typ := form.typ(i, c); typ != "" {
				definitions = append(definitions, quoteIdent(c.name)+" "+typ)
				names = append(names, quoteIdent(c.name))
			}
		}
		table := db.createTable(form.name, "(id int PRIMARY KEY, n int DEFAULT 0, "+strings.Join(definitions, ", ")+")")
		tables = append(tables, table)
		db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
		var sql strings.Builder
		for row := range rows {
			var values []string
			for i, c := range columns {
				typ := form.typ(i, c)
				switch {
				case typ == "":
				case row >= len(c.values):
					values = append(values, "NULL")
				case form.element:
					values = append(values, c.values[row])
				default:
					delimiter := ","
					if strings.Contains(c.typ, "box") {
						delimiter = ";"
					}
					values = append(values, fmt.Sprintf("types.twice(format('%%s', %s), '%s')::%s", c.values[row], delimiter, typ))
				}
			}
			fmt.Fprintf(&sql, "INSERT INTO %s (id, %s) VALUES (%d, %s);\n", quoteTable(table), strings.Join(names, ", "), row,
				strings.Join(values, ", "))
		}
		if _, err := db.control.PgConn().Exec(db.ctx, sql.String()).ReadAll(); err != nil {
			db.Fatalf("the rows of table %s: %v", form.name, err)
		}
	}

	var config map[string]any
	if err := json.Unmarshal(db.config(), &config); err != nil {
		db.Fatal(err)
	}
	if role != "" {
		config["user"] = role
		config["credentials"] = map[string]any{"auth_type": "UserPassword", "password": "secret1234"}
	}
	r := newTestRuntime(db.TB, runtimeOptions{config: config})
	discovered, err := r.driver.discover(db.ctx)
	if err != nil {
		db.Fatalf("discover: %v", err)
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		db.Fatal(err)
	}
	schemas := map[string]*jsonschema.Schema{}
	for _, b := range bindings {
		table, _, err := tableOfResource(b.resource)
		if err != nil {
			db.Fatal(err)
		}
		// To the runtime this is an annotation, which a JSON value that is a string need not satisfy.
		schema := bytes.ReplaceAll(b.schema, []byte(`"contentMediaType"`), []byte(`"$comment"`))
		if schemas[table.String()], err = compileSchema(schema); err != nil {
			db.Fatalf("the schema of %s: %v\n%s", table, err, b.schema)
		}
	}
	r.bind(bindings)
	r.start()
	r.waitStreaming()
	for _, table := range tables {
		name := quoteTable(table)
		db.script(fmt.Sprintf("CREATE TEMPORARY TABLE copied AS TABLE %s; UPDATE copied SET id = id + 1000; INSERT INTO %[1]s TABLE copied;"+
			"DROP TABLE copied; UPDATE %[1]s SET n = 1 WHERE id >= 1000; DELETE FROM %[1]s WHERE id >= 1000", name))
	}
	r.waitDocuments(4 * rows * len(tables))
	r.stop()
	if err := r.wait(); err != nil {
		db.Fatal(err)
	}

	// seen[table][row] are the values of the chunk's document, by column; the stream's must be the same.
	seen := map[string]map[int]map[string]json.RawMessage{}
	for _, d := range r.documents() {
		if err := validateDocument(schemas[d.table], []byte(d.doc)); err != nil {
			db.Errorf("%s: %v", d.table, err)
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			db.Fatal(err)
		}
		var meta struct {
			Op     string
			Before map[string]json.RawMessage
			Source struct{ Snapshot bool }
		}
		if err := json.Unmarshal(doc["_meta"], &meta); err != nil {
			db.Fatal(err)
		}
		var id int
		if err := json.Unmarshal(doc["id"], &id); err != nil {
			db.Fatal(err)
		}
		if meta.Source.Snapshot {
			if seen[d.table] == nil {
				seen[d.table] = map[int]map[string]json.RawMessage{}
			}
			seen[d.table][id] = doc
			continue
		}
		chunk := seen[d.table][id-1000]
		compare := func(path string, doc map[string]json.RawMessage) {
			for _, c := range columns {
				if got, want := string(doc[c.name]), string(chunk[c.name]); got != want {
					db.Errorf("%s, column %s, row %d: the %s brings %s, the chunk %s", d.table, c.name, id-1000, path, shortened(got), shortened(want))
				}
			}
		}
		compare(map[string]string{"c": "insert", "u": "update", "d": "delete"}[meta.Op], doc)
		if meta.Op == "u" {
			compare("old tuple of the update", meta.Before)
		}
	}

	values := make([][]string, len(columns))
	for i, c := range columns {
		for row := range rows {
			plain := string(seen[tables[0].String()][row][c.name])
			for f, form := range forms {
				want := plain
				if !form.element {
					if want = "[" + plain + ",null," + plain + "]"; row >= len(c.values) {
						want = "null"
					}
				}
				if got := string(seen[tables[f].String()][row][c.name]); got != want && form.typ(i, c) != "" {
					db.Errorf("column %s, row %d: as %s the value is %s, want %s", c.name, row, form.name, shortened(got), shortened(want))
				}
			}
			if row < len(c.values) {
				values[i] = append(values[i], plain)
			} else if plain != "null" {
				db.Errorf("column %s: NULL is %s", c.name, plain)
			}
		}
	}
	return values
}

// shortened returns a value as messages and the golden file have it.
func shortened(text string) string {
	if len(text) <= 300 {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes, sha256 %x)", strings.ToValidUTF8(text[:200], ""), len(text), sha256.Sum256([]byte(text)))
}

// compareTypes compares the values with those of testdata/types.golden. What this server does not have is taken from there.
func (db *testDB) compareTypes(types []goldenType, columns []goldenColumn, missing map[string]bool, values [][]string) {
	db.Helper()
	const name = "types.golden"
	old := map[string]string{}
	if content, err := os.ReadFile(filepath.Join("testdata", name)); err == nil {
		for section := range strings.SplitSeq(string(content), "\n# ") {
			title, _, _ := strings.Cut(strings.TrimPrefix(section, "# "), "\n")
			old[title] = strings.TrimPrefix(strings.TrimSuffix(section, "\n"), "# ")
		}
	}
	var text strings.Builder
	for _, typ := range types {
		title := typ.label
		if title == "" {
			title = typ.name
		}
		if missing[title] {
			section, ok := old[title]
			if !ok {
				db.Fatalf("this server has no %s and %s has none either: update it on a server that has", title, name)
			}
			fmt.Fprintf(&text, "# %s\n", section)
			continue
		}
		i := slices.IndexFunc(columns, func(c goldenColumn) bool { return c.name == title })
		fmt.Fprintf(&text, "# %s\n", title)
		for v, value := range values[i] {
			fmt.Fprintf(&text, "%q\n\t%s\n", typ.values[v], shortened(value))
		}
	}
	compareGolden(db.TB, name, text.String())
}

// createGoldenTypes makes the types of goldenTypes that no server brings.
func (db *testDB) createGoldenTypes() {
	db.Helper()
	db.script(goldenTypesSQL)
}

func TestTypesGolden(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings []string
	}{
		{"plain", []string{"timezone = 'America/Los_Angeles'", "lc_monetary = 'C'"}},
		{"hostile", []string{
			"timezone = 'America/Los_Angeles'", "lc_monetary = 'C'", "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'",
			"bytea_output = 'escape'", "extra_float_digits = -15", "client_encoding = 'LATIN1'",
			"search_path = twin, types, extensions, public", "xmlbinary = 'hex'",
			"standard_conforming_strings = off", "default_transaction_isolation = 'serializable'", "array_nulls = off",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := goldenDatabase(t, "UTF8")
			db.createGoldenTypes()
			columns, missing := db.columns(goldenTypes)
			values := db.drive(columns, db.goldenRole(c.settings...))
			db.compareTypes(goldenTypes, columns, missing, values)
		})
	}
}

// TestTypesOfEncodings does the same with text in databases whose encoding is not UTF-8. SQL_ASCII does not know what its
// bytes mean, so that what is no UTF-8 there is replaced.
func TestTypesOfEncodings(t *testing.T) {
	for _, c := range []struct{ encoding, text, extra, wanted string }{
		{"LATIN1", "näïve ¿ÿ\u00a0 \\ \"q\"", "", ""},
		{"LATIN9", "10 € Œ", "", ""},
		{"EUC_JP", "日本語 カナ ｶﾅ 漢字", "", ""},
		{"WIN1251", "Привет мир", "", ""},
		{"SQL_ASCII", "日本 näïve", `convert_from('\x61e97a', 'SQL_ASCII')`, `"a�z"`},
	} {
		t.Run(c.encoding, func(t *testing.T) {
			db := goldenDatabase(t, c.encoding)
			literal := quoteLiteral(c.text)
			db.script(fmt.Sprintf(`CREATE TYPE types.mood AS ENUM (%s, 'x'); CREATE TYPE types.pair AS (a int, %s text)`,
				literal, quoteIdent(c.text)))
			quoted, err := json.Marshal(c.text)
			if err != nil {
				t.Fatal(err)
			}
			types := []goldenType{
				{name: "text", values: []string{c.text}},
				{name: "varchar", values: []string{c.text}},
				{name: "name", values: []string{c.text}},
				{name: "types.mood", values: []string{c.text}},
				{name: "json", values: []string{string(quoted), `"\ud800"`}},
				{name: "jsonb", values: []string{string(quoted)}},
				{name: "text", label: c.text, values: []string{c.text}}, // the name of a column
				{name: "types.pair", values: []string{"=(1, " + literal + ")::types.pair"}},
				{name: "text[]", values: []string{"=ARRAY[" + literal + ", NULL]"}},
			}
			pair, err := json.Marshal("(1,\"" + strings.NewReplacer(`"`, `""`, `\`, `\\`).Replace(c.text) + "\")")
			if err != nil {
				t.Fatal(err)
			}
			want := [][]string{
				{string(quoted)},
				{string(quoted)},
				{string(quoted)},
				{string(quoted)},
				{string(quoted), `"\uFFFD"`},
				{string(quoted)},
				{string(quoted)},
				{string(pair)},
				{"[" + string(quoted) + ",null]"},
			}
			if c.extra != "" {
				types = append(types, goldenType{name: "text", label: "extra", values: []string{"=" + c.extra}})
				want = append(want, []string{c.wanted})
			}
			columns, _ := db.columns(types)
			values := db.drive(columns, db.goldenRole("client_encoding = 'SQL_ASCII'"))
			for i, column := range columns {
				if !slices.Equal(values[i], want[i]) {
					t.Errorf("column %s: %s, want %s", column.name, values[i], want[i])
				}
			}
		})
	}
}
