package main

// live_types_golden_test.go drives the edge values of every type through all that can carry them: a chunk, an insert, an update,
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
	CREATE DOMAIN types.range_d AS tstzrange;
	CREATE TYPE types.deep AS (n types.nested, l types.pair[], d types.ints, r tstzrange, j jsonb, m types.mood[]);
	CREATE TYPE types.nothing AS ();
	CREATE TYPE types."Quo""te d" AS ("A b" text, "c""d" types."mood");
	CREATE TABLE types.row (a int, gone text, b date);
	ALTER TABLE types.row DROP gone;
	CREATE TYPE types.longest AS ENUM ('123456789012345678901234567890123456789012345678901234567890123', ' ', 'é', 'E''s', '\', '{}', '😀');
	CREATE TYPE types.moodrange AS RANGE (subtype = types.mood, multirange_type_name = types.moodmulti);
	CREATE TYPE types.posrange AS RANGE (subtype = types.posint, multirange_type_name = types.posmulti);
	CREATE TYPE types.inetrange AS RANGE (subtype = inet, multirange_type_name = types.inetmulti);
	CREATE TYPE types.arrayrange AS RANGE (subtype = int4[], multirange_type_name = types.arraymulti);
	CREATE TYPE types.timerange AS RANGE (subtype = time, multirange_type_name = types.timemulti);
	CREATE DOMAIN types.range_dd AS types.range_d CHECK (NOT isempty(value));
	CREATE DOMAIN types.multi_d AS datemultirange;
	CREATE DOMAIN types.posints AS types.posint3[];
	CREATE DOMAIN types.posints2 AS types.posints CHECK (cardinality(value) < 5);
	CREATE DOMAIN types.pair_dd AS types.pair_d;
	CREATE DOMAIN types.mood_dd AS types.mood_d CHECK (value::types.mood <> 'sad');
	CREATE DOMAIN types.deeps AS types.deep[];
	CREATE DOMAIN types.float_d AS float8;
	CREATE DOMAIN types.stamp_d AS timestamp(3);
	CREATE DOMAIN types.json_d AS json;`

var goldenTypes = []goldenType{
	{name: "bool", values: []string{"t", "f"}},
	{name: "int2", values: []string{"-32768", "32767", "0"}},
	{name: "int4", values: []string{"-2147483648", "2147483647", "0", "-1"}},
	{name: "int8", values: []string{"-9223372036854775808", "9223372036854775807", "0", "9007199254740993", "-9007199254740993", "10"}},
	{name: "oid", values: []string{"0", "4294967295"}},
	{name: "xid", values: []string{"0", "4294967295"}},
	{name: "cid", values: []string{"0", "4294967295"}},
	{name: "xid8", values: []string{"0", "18446744073709551615"}},
	{name: "tid", values: []string{"(0,0)", "(1,2)", "(4294967295,65535)"}},
	{name: `"char"`, values: []string{"a", "", `"`, `=1::int4::"char"`, " "}},
	{name: `"char"`, label: `"char" (15)`, since: 150000, values: []string{`\351`, `\200`, `\377`, `\134`}},
	{name: "name", values: []string{"", "pg_class", `quo"te`, "=repeat('x', 63)::name", "日本"}},
	{name: "float4", values: []string{
		"0", "-0", "1.5", "0.1", "16777216", "3.4028235e38", "-3.4028235e38", "1e-45", "1e21", "1e20", "1e-6", "9.9e-7", "NaN",
		"Infinity", "-Infinity", "123456.79", "1e15", "8388609", "1.1754944e-38", "9999999", "1e6", "-1e-6", "0.3", "1e-7", "33554432",
	}},
	{name: "float8", values: []string{
		"0", "-0", "1", "-1.5", "0.1", "0.30000000000000004", "123456789012345", "1e15", "1e16", "1e20", "1.2345678901234567e20",
		"1e21", "1e23", "9007199254740993", "0.0001", "1e-5", "1e-6", "1e-7", "1.5e-9", "1e-10", "5e-324",
		"2.2250738585072014e-308", "1.5e300", "1.7976931348623157e308", "-1.7976931348623157e308", "NaN", "Infinity", "-Infinity",
		"999999999999999", "9999999999999998", "100000000000000000000.5", "0.000001", "0.00000099", "4.35", "2.5e-8", "-1e-10", "1e22",
		"123456789.123456789", "9.5367431640625e-07",
	}},
	{name: "numeric", values: []string{
		"0", "0.00", "-0.0", "1", "123.4500", "-0.000000000000000000000000000001", "1e400", "NaN", "Infinity", "-Infinity",
		"=(repeat('9', 1000) || '.' || repeat('1', 1000))::numeric", "1e-400", "10000", "99999999", "0.0001", "-12345678901234567890",
		"=('0.' || repeat('0', 999) || '1')::numeric", "=(repeat('1', 1000))::numeric", "=('-1' || repeat('0', 1000))::numeric", "1.0e10",
		"9999.9999", "10000.0001", "0.00000000", "-0.5", "1e131071",
	}},
	{name: "numeric(1000,1000)", values: []string{"=('0.' || repeat('12345', 200))::numeric(1000, 1000)", "0"}},
	{name: "numeric(2,-3)", since: 150000, values: []string{"12345", "-99000", "0"}},
	{name: "numeric(3,5)", since: 150000, values: []string{"0.00123", "-0.00999"}},
	{name: "numeric(10,3)", values: []string{"0", "1234567.891", "-1.5", "NaN"}},
	{name: "money", values: []string{
		"=0::money", "=1234.50::numeric::money", "=(-1234.50)::numeric::money",
		"=(-92233720368547758.08)::numeric::money", "=92233720368547758.07::numeric::money",
	}},
	{name: "text", values: []string{
		"", " ", "plain", "a<b>&c", "quote\" back\\ slash/", "tab\tnewline\nreturn\rbell\aesc\x1bdel\x7f\x01\x1f", "naïve 日本語 😀\u2028\u2029",
		"NULL", "null", "{}", "\ufeffbom", "\ufffd", "\U0010ffff", `\N`, `\x00`, `\u0000`, "e\u0301", "\u202eright",
		"👩‍👩‍👧‍👦 🇯🇵", "\u00a0\u2003\u3000", "\U0001d11e𐍈", "\ue000\uffff", "a\\\\\"\"b", "<script>&amp;</script>", `{"json":true}`, "a\r\n\r\nb",
		"=E'\\u0001\\u0008\\u000b\\u000c\\u001f\\u007f\\u0080\\u009f'", "=repeat('\"\\', 2000)", "=repeat(chr(1), 2000)", "=repeat('é', 4096)",
		"=repeat('long😀', 3000)", "=string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(1, 300) i",
	}},
	{name: "varchar", values: []string{"", "häß", "trailing  "}},
	{name: "varchar(5)", values: []string{"", "12345", "日本語😀é"}},
	{name: "char(3)", values: []string{"", "a", "abc", " b", "日本", "😀", "\t", "é "}},
	{name: "bpchar", values: []string{"", "a  ", "abc", "   "}},
	{name: "char(1)", values: []string{"", "x", "😀"}},
	{name: "varchar(3)[]", values: []string{`{abc,"",NULL,"a b"}`}},
	{name: "char(2)[]", values: []string{`{a,"",NULL}`}},
	{name: "bytea", values: []string{
		`\x`, `\x00`, `\x61`, `\x6162`, `\x616263`, `\xfffefdfc`, `\x5c`, `\x27225c`, "=decode(repeat('00ff10', 4000), 'hex')",
	}},
	{name: "bit", values: []string{"0", "1"}},
	{name: "bit(11)", values: []string{"10101010101", "00000000000"}},
	{name: "varbit", values: []string{"", "1", "10101010101", "=repeat('10', 500)::varbit", "X1f", "00000000"}},
	{name: "varbit(5)", values: []string{"", "10101"}},
	{name: "bit(3)[]", values: []string{"{101,NULL,000}"}},
	{name: "uuid", values: []string{
		"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000",
		"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
	}},
	{name: "json", values: []string{
		" {\"b\" : 1.0 ,\n \"a\": [ 1e400, true , null ], \"a\":{} } ", `{"a":"\ud800x"}`,
		`"\ud83d\ude00 \ude00 \ud83d\ud83d\ude00 \u0000 \uFFFF"`, `"a b\n\/\"\\\t\b\f\r"`, `null`, ` "x" `, `-0.5E+7`, `[[],{},[[]],""]`,
		`{"":{"":""}}`, `"<>&日本😀"`, `-0`, `0.10`, `12345678901234567890123456789`, `[1 , 2	,3]`, `"\u00e9\u2028"`, `false`,
		`"\ud800"`, `"\udfff\ud800"`, `{"\ud83d":"\ude00","\ud83d\ude00":1}`, `["\uD83D\u0041","\uDBFF\uDFFF"]`, `{"\u0000":"\u0001"}`, `1E400`, `-1e-400`,
		`1.7976931348623157e309`, `0e0`, "\t[\r\n1\n]\t", `"\u2028\u2029"`, `18446744073709551616`, `[[[[[[[[[[]]]]]]]]]]`, `"\/\u002f"`,
		`{"a":{"a":{"a":{}}}}`, `"\ud800\\udc00"`, `"\\ud800"`,
		"=('[' || repeat('[1,2],', 2000) || '0]')::json", `{"a":1,"a":1}`, "\"\x7f\"",
	}},
	{name: "jsonb", values: []string{
		`{"b": 1.50, "a": [1, 2, {"b": "c d"}], "bb": -0, "a": 2}`, `"日本\u00e9😀<>&"`, `null`, `true`, `1e400`, `-1.0`, `0.000000001`, `{}`, `[]`,
		`"\ud83d\ude00"`, `"\\ \" \/ \b\f\n\r\t\u0001\u007f"`, `[null, [], {}, ""]`, `{"": 1}`,
		`"\u0001\u001f\u0080"`, `{"\ud83d\ude00":"😀"}`, `-1e-30`, `1.000`, `18446744073709551616`, `{"a": {"b": [1, {"c": null}]}}`, `[1, "1", 1.0, true]`,
		`"=>"`, `{"_meta": 1}`, `"\\ud800"`,
		"=('1' || repeat('0', 1000) || '.' || repeat('1', 1000))::jsonb",
		"=jsonb_agg(jsonb_build_object('k', i, 'v', md5(i::text))) FROM generate_series(1, 200) i", `12345678901234567890123456789.0`,
	}},
	{name: "jsonpath", values: []string{`$."a"[*]?(@ > 1)`, `strict $.a`, `$."日本"`, `$.a ? (@ like_regex "^a\\b" flag "i")`, `$."q\"q"`, `lax $[last].datetime()`}},
	{name: "xml", needs: "xml", values: []string{"<a>1</a>", `<a b="c">&lt;&amp;</a>`, "text", "<日本/>", "", "<!-- c --><a/>", "<![CDATA[<&]]>", "<a>\n\t</a>"}},
	{name: "date", values: []string{
		"1999-01-08", "9999-12-31", "0001-01-01", "0001-06-07 BC", "0044-03-15 BC", "4713-11-24 BC", "10000-01-01", "5874897-12-31", "infinity",
		"-infinity", "2000-02-29", "1970-01-01", "0001-12-31 BC", "0002-12-31 BC", "0001-02-29 BC", "9999-01-01", "99999-02-28", "2000-12-31", "0099-01-01", "epoch",
	}},
	{name: "timestamp", values: []string{
		"1999-01-08 04:05:06.123456", "1999-01-08 04:05:06.5", "1999-01-08 04:05:06", "0001-06-07 01:02:03 BC", "0044-03-15 12:00:00 BC",
		"4713-11-24 00:00:00 BC", "10000-01-01 00:00:00", "294276-12-31 23:59:59.999999", "infinity", "-infinity", "2016-12-31 23:59:60",
		"9999-12-31 23:59:59.999999", "0001-01-01 00:00:00", "2000-01-01 24:00:00", "1999-12-31 23:59:59.999999", "2000-01-01 00:00:00.000001",
		"9999-12-31 24:00:00", "0001-12-31 23:59:59.999999 BC", "0002-12-31 23:59:59.999999 BC", "2000-02-29 12:00:00.1", "1970-01-01 00:00:00.00001",
		"epoch", "0001-01-01 00:00:00 BC",
	}},
	{name: "timestamp(3)", values: []string{"1999-01-08 04:05:06.1239", "infinity", "9999-12-31 23:59:59.9999", "-infinity"}},
	{name: "timestamp(0)[]", values: []string{`{"1999-01-08 04:05:06.5",infinity,NULL,"0044-03-15 00:00:00 BC"}`}},
	{name: "timestamptz", values: []string{
		"1999-01-07 20:05:06.5-08", "1999-07-07 20:05:06-07", "1999-01-07 20:05:06+00", "1999-01-07 20:05:06.123456+05:30",
		"1850-01-01 00:00:00.25-07:52:58", "9999-12-31 23:59:59+00", "9999-12-31 23:59:59-08", "10000-01-01 00:00:00+00", "0001-01-01 00:00:00+00",
		"0001-01-01 00:00:00+00 BC", "0002-12-31 23:59:59+00 BC", "0001-12-31 16:00:00-08 BC", "4713-11-25 00:00:00+00 BC",
		"294276-12-31 23:59:59.999999+00", "infinity", "-infinity", "2016-12-31 23:59:60+00", "1883-11-18 12:00:00+00",
		"2021-11-07 01:30:00-07", "2021-11-07 01:30:00-08", "2021-03-14 03:00:00-07", "1970-01-01 00:00:00+00", "0001-01-01 07:52:57.999999+00", "9999-12-31 23:59:59.999999-08", "2000-01-01 00:00:00+15:59:59", "2000-01-01 00:00:00-15:59", "1844-12-31 00:00:00-15:56",
		"1900-01-01 00:00:00+00:19:32", "epoch", "1883-11-18 19:59:59+00", "1883-11-18 20:00:00+00",
	}},
	{name: "timestamptz(0)", values: []string{"1999-01-07 20:05:06.5-08"}},
	{name: "time", values: []string{
		"04:05:06.789", "00:00:00", "24:00:00", "23:59:59.999999", "23:59:60", "00:00:00.000001", "12:00", "04:05:06.1", "12:00 AM", "23:59:59.9999999", "allballs",
	}},
	{name: "time(0)", values: []string{"23:59:59.9", "00:00:00.4"}},
	{name: "time(2)", values: []string{"04:05:06.789", "23:59:59.999"}},
	{name: "timetz", values: []string{
		"04:05:06.123-08", "04:05:06+00", "04:05:06+05:30", "24:00:00+00", "24:00:00-03:30", "04:05:06+03:30:50", "04:05:06.5-03:30:50",
		"00:00:10+03:30:50", "23:59:50-03:30:50", "12:00:00+00:00:30", "12:00:00+15:59", "12:00:00-15:59:59", "00:00:00-15:59:59",
		"23:59:59.999999+15:59:59", "24:00:00-15:59:59", "24:00:00+15:59:59", "00:00:00+15:59:59", "00:00:00+00:00:01", "23:59:59.999999-00:00:01",
		"12:00:00-00:30", "04:05:06.1-08", "23:59:60+05:45",
	}},
	{name: "timetz(2)", values: []string{"04:05:06.789-08", "23:59:59.999+01"}},
	{name: "interval", values: []string{
		"1 year 2 mons 3 days 04:05:06.789", "0", "100:00:00", "-00:00:01.5", "-1 years -2 mons +3 days -04:05:06.789", "-1 days +02:03:00",
		"1 mon", "-1 mons", "1 day", "1 mon 00:00:00.000001", "178000000 years", "-178000000 years", "2147483647:59:59.999999",
		"2147483647 days", "-2147483648 days", "1 mon -1 day", "11 mons 29 days 23:59:59.999999",
		"-1 mons +1 day -00:00:00.000001", "-100:00:00", "00:00:00.1", "-178956970 years -8 mons", "178956970 years 7 mons", "-2147483648 mons",
		"-1 year 1 mon", "9:00", "-2147483648 mons -2147483648 days -00:00:00.000001", "1 mon 00:01", "999999:59:59.9", "P1Y2M3DT4H5M6.7S",
	}},
	{name: "interval", label: "interval (15)", since: 150000, values: []string{"2562047788:00:54.775807", "-2562047788:00:54.775807"}},
	{name: "interval", label: "interval (17)", since: 170000, values: []string{"infinity", "-infinity"}},
	{name: "interval day to second(1)", values: []string{"1 day 02:03:04.567"}},
	{name: "interval year to month", values: []string{"1 year 2 mons"}},
	{name: "point", values: []string{"(1.5,-2)", "(1e20,1e-7)", "(NaN,-Infinity)", "(0.1,-0)", "(1e300,5e-324)", "(Infinity,NaN)", "(1e15,1e-5)"}},
	{name: "line", values: []string{"{1,2,3}", "{-1,0,0.5}", "{0,-1,1e20}"}},
	{name: "lseg", values: []string{"[(1,2),(3,4)]", "[(0.1,0.2),(1e-7,-1e21)]"}},
	{name: "box", values: []string{"(3,4),(1,2)", "(0.1,1e20),(-1,-2)"}},
	{name: "path", values: []string{"[(1,2),(3,4)]", "((1,2),(3,4))", "[(0,0)]", "((1e20,NaN))"}},
	{name: "polygon", values: []string{"((0,0),(0,1),(1,0))", "((1.5,-Infinity))"}},
	{name: "circle", values: []string{"<(1,2),3>", "<(1e20,-0.5),0>"}},
	{name: "inet", values: []string{
		"192.168.1.1", "192.168.1.1/24", "0.0.0.0/0", "::1/64", "2001:db8::ff", "::ffff:1.2.3.4", "::1.2.3.4/96", "::0.0.0.5", "::", "::/0",
		"1:0:0:2:0:0:0:3", "255.255.255.255", "::ffff:0:0", "::1.2.3.4", "::0.1.0.0", "::1", "64:ff9b::192.0.2.33", "fe80::1/10",
		"::ffff:255.255.255.255/96", "0:0:0:0:0:0:1:0", "1::", "0.0.0.0", "::2:3:4", "::ffff:1.2.3.4/128",
	}},
	{name: "cidr", values: []string{"10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0", "192.168.1.1/32", "::/0", "::ffff:1.2.3.4/128", "10/8", "::1.2.3.4/128"}},
	{name: "macaddr", values: []string{"08:00:2b:01:02:03", "FF-FF-FF-FF-FF-FF"}},
	{name: "macaddr8", values: []string{"08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00"}},
	{name: "tsvector", values: []string{"", "'a':1 'it''s':2A", "'日本':3B,16383 'b\\\\c'", "'a b':1 '\"q\"' ", ":1"}},
	{name: "tsquery", values: []string{"", "'a' & 'b':*", "!'a' | 'b':AB <-> 'c'", "'a' <3> 'b c'", "!!('it''s' | 'x\\\\y')"}},
	{name: "pg_lsn", values: []string{"0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"}},
	{name: "regclass", values: []string{"pg_class", "0", `types."row"`, "=4294967295::oid::regclass"}},
	{name: "regtype", values: []string{"integer", "timestamp with time zone", "integer[]", `"char"`, "types.mood", "=0::oid::regtype"}},
	{name: "regproc", values: []string{"pg_sleep"}},
	{name: "regprocedure", values: []string{"pg_sleep(double precision)"}},
	{name: "regoperator", values: []string{"+(integer,integer)"}},
	{name: "regnamespace", values: []string{"pg_catalog"}},
	{name: "regconfig", values: []string{"english"}},
	{name: "regcollation", values: []string{`"C"`}},
	{name: "regoper", values: []string{"=0::oid::regoper", "||/"}},
	{name: "regdictionary", values: []string{"simple", "english_stem"}},
	{name: "regrole", values: []string{"pg_monitor", "-"}},
	{name: "aclitem", values: []string{"pg_monitor=r/pg_monitor", "pg_read_all_stats=U*/pg_monitor"}},
	{name: "int2vector", values: []string{"1 2 3", "", "-32768"}},
	{name: "oidvector", values: []string{"1 2 3", "4294967295"}},
	{name: "txid_snapshot", values: []string{"10:20:10,14"}},
	{name: "pg_snapshot", values: []string{"10:20:10,14", "1:1:"}},
	{name: "refcursor", values: []string{"c", ""}},

	{name: "int4range", values: []string{"[1,5)", "empty", "(,6)", "[-2147483648,)", "(,)", "[1,5]", "[5,5)", "(2147483646,2147483647)", "[,5]", "(0,1]"}},
	{name: "int8range", values: []string{"[1,9223372036854775807)", "(,6)", "[-9223372036854775808,)", "empty"}},
	{name: "numrange", values: []string{"[1.50,2.00]", "(,)", "(0.00,1e30)", "[-Infinity,NaN]", "[1,1]", "(1,1)", "(,0.000]", "=numrange(('-' || repeat('9', 1000))::numeric, NULL)"}},
	{name: "daterange", values: []string{
		"[2010-01-01,2010-01-03)", "empty", "[2010-01-01,infinity)", "[-infinity,2010-01-01)", `["0044-03-15 BC",)`, "[10000-01-01,)", "(,)", "(2010-01-01,2010-01-03]", `["0002-01-01 BC","0001-01-01 BC"]`, "(-infinity,infinity]", "[5874897-12-31,]",
	}},
	{name: "tsrange", values: []string{
		`["2010-01-01 14:30:00","2010-01-01 15:30:00.5")`, `(-infinity,"2010-01-01 15:30:00"]`, `["0044-03-15 00:00:00 BC","10000-01-01 00:00:00")`, "(,)", "empty", "[infinity,infinity]", `["2010-01-01 00:00:00.000001","9999-12-31 23:59:59.999999"]`,
	}},
	{name: "tstzrange", values: []string{
		`["2010-01-01 14:30:00-08",)`, `["2010-01-01 14:30:00+00","2010-07-01 00:00:00.000001+05:30"]`,
		"(-infinity,infinity)", "empty", "(,)", `["0001-01-01 00:00:00+00","1850-01-01 00:00:00+00")`, `("10000-01-01 00:00:00+00",]`,
	}},
	{name: "int4multirange", values: []string{"{[1,5),[7,9)}", "{}", "{(,)}", "{(,-5),[1,2],[7,)}", "{empty}"}},
	{name: "int8multirange", values: []string{"{}", "{(,1),[9223372036854775806,)}"}},
	{name: "nummultirange", values: []string{"{[1.5,2.0)}", "{(0.00,1),[2,3]}", "{}", "{[NaN,NaN]}"}},
	{name: "datemultirange", values: []string{"{[2010-01-01,2010-01-03),[2011-01-01,)}", "{}", `{["0044-03-15 BC",2000-01-01),[10000-01-01,infinity)}`}},
	{name: "tsmultirange", values: []string{`{["2010-01-01 14:30:00","2010-01-01 15:30:00"]}`, "{}"}},
	{name: "tstzmultirange", values: []string{
		`{["2010-01-01 14:30:00-08",infinity)}`,
		`{["2010-01-01 00:00:00+00","2010-07-01 00:00:00+00"),["2011-01-01 00:00:00+00",]}`,
		"{}", "{(,)}", `{["1850-01-01 00:00:00+00","1850-01-02 00:00:00+00"]}`,
	}},

	{name: "types.mood", values: []string{"sad", "ok", `so "so"`, "NULL", "", "a,b", "日本"}},
	{name: "twin.mood", values: []string{"other"}},
	{name: "types.longest", values: []string{"123456789012345678901234567890123456789012345678901234567890123", " ", "é", "E's", `\`, "{}", "😀"}},
	{name: "types.pair", values: []string{
		`(1,"x y")`, "(,)", `(-1,"quo""te\\,")`, `(2,"")`, "(3,日本)", `(4,NULL)`, `(5,"a,b{}""\\'")`,
		`(6," ")`, "=(7, E'tab\t\nline')::types.pair", `(8,"()")`, `=(9, '\')::types.pair`, `=(10, '"')::types.pair`, "(11,😀)",
	}},
	{name: "types.nested", values: []string{
		`("(1,""x y"")",ok,"{1,NULL}","2010-01-01 14:30:00+00")`, "(,,,)",
		`=(ROW(2, 'q"\,()'), 'so "so"', '[0:1]={1,2}', 'infinity')::types.nested`, `("(,)","",{},-infinity)`,
	}},
	{name: "types.deep", values: []string{
		"(,,,,,)",
		`=(ROW(ROW(1, 'x"y'), 'NULL', '{}', 'epoch'), ARRAY[ROW(1, 'a,b'), NULL, ROW(NULL, '\')]::types.pair[], '{1,NULL}', '["2010-01-01 00:00:00+00",)', '{"k": "\""}', '{"so \"so\"",NULL,"NULL",""}')::types.deep`,
	}},
	{name: "types.nothing", values: []string{"()"}},
	{name: `types."Quo""te d"`, label: "quoted composite", values: []string{`("a b",sad)`, "(,)"}},
	{name: "types.row", values: []string{"(1,2010-01-01)", "(,)", "(2,infinity)"}},
	{name: "types.floatrange", values: []string{"[1.5,2)", "[0.1,0.30000000000000004]", "(-Infinity,1e20]"}},
	{name: "types.floatmulti", values: []string{"{[1.5,2)}", "{}"}},
	{name: "types.textrange", values: []string{`["a b","c,d")`, "(,z]", `["",""""]`, `["(",")"]`, `["\\","日本"]`, "empty"}},
	{name: "types.moodrange", values: []string{"[sad,ok]", `("so ""so""",)`, `["","a,b")`, "empty"}},
	{name: "types.moodmulti", values: []string{`{[sad,ok),["so ""so""","a,b"]}`, "{}"}},
	{name: "types.posrange", values: []string{"[1,5)", "(,)"}},
	{name: "types.posmulti", values: []string{"{[1,5),(7,8]}"}},
	{name: "types.inetrange", values: []string{"[10.0.0.0/8,192.168.1.1]", `(::1,)`}},
	{name: "types.arrayrange", values: []string{`["{1,2}","{3,NULL}")`, "({},)"}},
	{name: "types.timerange", values: []string{"[04:05:06.5,24:00:00]"}},
	{name: "types.textmulti", values: []string{`{["a b","c,d"),[e,f]}`}},
	{name: "types.posint", values: []string{"1", "2147483647"}},
	{name: "types.posint3", values: []string{"7"}},
	{name: "types.mood_d", values: []string{"so \"so\""}},
	{name: "types.moods_d", values: []string{`{ok,NULL,"NULL"}`, "{}"}},
	{name: "types.pair_d", values: []string{`(1,"x y")`}},
	{name: "types.short", values: []string{"0123456789", ""}},
	{name: "types.ints", values: []string{"{1,2}", "{}", "{NULL}", "[0:1]={5,6}"}},
	{name: "types.times", values: []string{`{"2010-01-01 14:30:00+00",infinity,NULL}`}},
	{name: "types.range_dd", values: []string{`["2010-01-01 14:30:00-08",infinity]`}},
	{name: "types.multi_d", values: []string{"{[2010-01-01,)}", "{}"}},
	{name: "types.posints", values: []string{"{1,999}", "{}", "[5:6]={7,8}"}},
	{name: "types.posints2", values: []string{"{7,NULL}"}},
	{name: "types.pair_dd", values: []string{`(1,"a,b")`}},
	{name: "types.mood_dd", values: []string{"ok", "NULL"}},
	{name: "types.deeps", values: []string{"{}", `=ARRAY[ROW(NULL, ARRAY[ROW(1, 'q"')::types.pair], NULL, NULL, '[]', NULL)::types.deep, NULL]`}},
	{name: "types.float_d", values: []string{"1e21", "NaN", "-0"}},
	{name: "types.stamp_d", values: []string{"2010-01-01 00:00:00.1239", "infinity", "0044-03-15 00:00:00 BC"}},
	{name: "types.json_d", values: []string{`{"a": "\ud800"}`, "null"}},
	{name: "types.boxd", values: []string{"(3,4),(1,2)"}},
	{name: "types.range_d", values: []string{`["2010-01-01 14:30:00-08",)`}},

	{name: "int4[]", values: []string{
		"{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}", "[-1:0][2:3]={{1,2},{3,4}}", "{{{{{{1,2}}}}}}", "{NULL}", "=array_fill(7, ARRAY[5000])",
		"[2147483645:2147483646]={1,2}", "[-2147483648:-2147483647]={1,2}", "{{NULL,1},{2,NULL}}", "[1:1][2:2][3:3]={{{9}}}", "{{{1},{2}},{{3},{4}}}",
		"=array_fill(NULL::int, ARRAY[2, 3])", "=ARRAY[]::int[]",
	}},
	{name: "int2[]", values: []string{"{1,-32768}"}},
	{name: "int8[]", values: []string{"{9223372036854775807}", "{NULL,NULL}"}},
	{name: "bool[]", values: []string{"{t,f,NULL}"}},
	{name: "float8[]", values: []string{"{1e20,NaN,-0,0.30000000000000004,-Infinity}"}},
	{name: "float4[]", values: []string{"{1.5,Infinity,0.1}"}},
	{name: "numeric[]", values: []string{"{0.00,1.50,NaN,-Infinity}"}},
	{name: "text[]", values: []string{
		`{a,"b c","","NULL",NULL,"q\"b\\","{x}","a,b"," "}`, "{\"line\nbreak\",日本,😀}", `{{a,NULL},{"{",";"}}`, `[2:2]={x}`,
		`{"nuLL",Null,null}`, `{"\\","\"","\\\"","'"}`, `{"[1:2]={a}","="}`, `{"\t"," a ","a "}`, `{"}","{","{}","{{"}`, "{\"\u2028\",\"\U0010ffff\"}",
		"=ARRAY[repeat('x', 10000), NULL, repeat('\\\\\"', 3000)]", "=ARRAY[E'\\001', E'\\037', E'\\r\\n']",
	}},
	{name: "bytea[]", values: []string{`{"\\x6162","\\x"}`, `{{"\\x00",NULL},{"\\xff","\\x"}}`}},
	{name: "numeric(5,2)[]", values: []string{"{1.005,-999.99,NULL,NaN}"}},
	{name: "date[]", values: []string{`{2010-01-01,infinity,"0044-03-15 BC",10000-01-01,NULL}`}},
	{name: "time[]", values: []string{"{24:00:00,04:05:06.5,NULL}"}},
	{name: "timetz[]", values: []string{"{24:00:00+00,04:05:06.5-08}"}},
	{name: "interval[]", values: []string{`{"1 mon -1 day",00:00:00,NULL}`}},
	{name: "uuid[]", values: []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}"}},
	{name: "inet[]", values: []string{"{10.0.0.1,::1,NULL}"}},
	{name: "types.mood[]", values: []string{`{sad,"so \"so\"",NULL,"NULL","","a,b"}`, "{{sad,ok},{NULL,日本}}", "[0:0]={ok}"}},
	{name: "types.pair[]", values: []string{`{"(1,\"x y\")",NULL,"(,)","(2,\"q\"\"\\\\\")"}`, "{}"}},
	{name: "types.deep[]", values: []string{`=ARRAY[ROW(NULL, ARRAY[ROW(1, 'q"\')::types.pair, NULL], '{1}', 'empty', '{"a":"\""}', '{NULL}')::types.deep]`}},
	{name: "types.ints[]", values: []string{`{"{1,2}",NULL,"[0:1]={5,NULL}","{}"}`, `{{"{1}"},{"{2}"}}`}},
	{name: "types.moods_d[]", values: []string{`{"{ok,NULL,\"so \\\"so\\\"\"}"}`}},
	{name: "int4range[]", values: []string{`{"[1,5)",empty,NULL,"(,)"}`}},
	{name: "daterange[]", values: []string{`{"[2010-01-01,infinity)",NULL}`}},
	{name: "tstzmultirange[]", values: []string{`{"{[\"2010-01-01 00:00:00+00\",)}","{}",NULL}`}},
	{name: "types.textrange[]", values: []string{`{"[\"A b\",\"\\\\\"]",empty}`}},
	{name: "money[]", values: []string{"{1234.50,-1,NULL}"}},
	{name: "point[]", values: []string{`{"(1,2)",NULL,"(1e20,NaN)"}`}},
	{name: "tsvector[]", values: []string{`{"'a':1 'it''s'",NULL}`}},
	{name: "xml[]", needs: "xml", values: []string{`{"<a b=\"c\">x</a>",NULL}`}},
	{name: `"char"[]`, values: []string{`{a,"\"","",NULL}`}},
	{name: "name[]", values: []string{"{a,NULL}"}},
	{name: "tid[]", values: []string{`{"(0,1)",NULL}`}},
	{name: "xid[]", values: []string{"{1,NULL,4294967295}"}},
	{name: "regclass[]", values: []string{"{pg_class,NULL}"}},
	{name: "pg_lsn[]", values: []string{"{0/0,NULL}"}},
	{name: "int2vector[]", values: []string{`{"1 2",NULL}`}},
	{name: "timestamptz[]", values: []string{`{"1999-01-08 04:05:06-08","2000-07-01 00:00:00+00",-infinity}`}},
	{name: "box[]", values: []string{"{(3,4),(1,2);(1,1),(0,0)}"}},
	{name: "json[]", values: []string{`{"{\"a\": [1, 2]}",null,"null","\"\\ud800\""}`}},
	{name: "jsonb[]", values: []string{`{"{\"a\": \"\\\"x\\\"\"}",NULL,"null"}`}},

	{name: "extensions.citext", needs: "citext", values: []string{"MiXed", "", "häß", "NULL"}},
	{name: "extensions.hstore", needs: "hstore", values: []string{`"a"=>"1", "b"=>NULL`, "", `"quo\"te"=>"日本"`, `""=>"", "NULL"=>"NULL"`, `"\\"=>"{},"`}},
	{name: "extensions.ltree", needs: "ltree", values: []string{"a.b.c", ""}},
	{name: "extensions.lquery", needs: "ltree", values: []string{"*.b.*{1,2}"}},
	{name: "extensions.cube", needs: "cube", values: []string{"(1, 2),(3, 4)", "(0.1)"}},
	{name: "extensions.isbn", needs: "isn", values: []string{"978-0-393-04002-9"}},
	{name: "extensions.seg", needs: "seg", values: []string{"1.5 .. 2", "~5", "< 7"}},
	{name: "extensions.ltxtquery", needs: "ltree", values: []string{"a & b*@"}},
	{name: "extensions.query_int", needs: "intarray", values: []string{"1 & (2 | !3)"}},
	{name: "extensions.lo", needs: "lo", values: []string{"4294967295", "0"}},
	{name: "extensions.citext[]", label: "citext[]", needs: "citext", values: []string{`{A,"",NULL,"a\"b"}`}},
	{name: "extensions.hstore[]", label: "hstore[]", needs: "hstore", values: []string{`{"\"a\"=>\"1\"",NULL,""}`}},
	{name: "extensions.ltree[]", label: "ltree[]", needs: "ltree", values: []string{"{a.b,NULL}"}},
	{name: "extensions.geometry", needs: "postgis", values: []string{
		"POINT(1 -2.5)", "SRID=4326;POINT Z(1 2 3)", "POLYGON((0 0,0 1,1 0,0 0))", "POINT EMPTY", "GEOMETRYCOLLECTION(POINT(0 0),LINESTRING(0 0,1 1))",
	}},
	{name: "extensions.geometry(Point,4326)", needs: "postgis", values: []string{"SRID=4326;POINT(1 2)"}},
	{name: "extensions.geography", needs: "postgis", values: []string{"POINT(-118.4 33.9)"}},
	{name: "extensions.box2d", needs: "postgis", values: []string{"BOX(0 0,1 2.5)"}},
	{name: "extensions.box3d", needs: "postgis", values: []string{"BOX3D(0 0 0,1 2.5 3)"}},
	// These sections of the golden file were written by hand: no server of ours has had pgvector.
	{name: "extensions.vector", needs: "vector", values: []string{"[1,-2.5,3e-07]"}},
	{name: "extensions.vector(2)", needs: "vector", values: []string{"[0,1]"}},
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
			SELECT '"' || q || '"' || delimiter || 'NULL' || delimiter || '"' || q || '"'
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

// goldenForms are the ways in which a column has a type: by itself, as a domain, and as arrays of both.
var goldenForms = []struct {
	name  string
	typ   func(i int, c goldenColumn) string
	array string // the literal of an array of an element, a NULL and the element again; empty: no array
	// lists has the JSON of such an array, of an element's JSON, by the shape that the feature flags ask for.
	lists map[string]string
}{
	{name: "plain", typ: func(_ int, c goldenColumn) string { return c.typ }},
	{name: "domain", typ: func(i int, _ goldenColumn) string { return fmt.Sprintf("types.domain%d", i) }},
	{
		"array", func(_ int, c goldenColumn) string {
			if !c.array {
				return ""
			}
			return c.typ + "[]"
		}, "{%s}",
		map[string]string{"": "[%s]", "no_flatten_arrays": `{"elements":[%s],"dimensions":[3]}`, "multidimensional_arrays": "[%s]"},
	},
	{
		"domainarray", func(i int, _ goldenColumn) string { return fmt.Sprintf("types.domain%d[]", i) }, "[0:0][-1:1]={{%s}}",
		map[string]string{"": "[%s]", "no_flatten_arrays": `{"elements":[%s],"dimensions":[1,3]}`, "multidimensional_arrays": "[[%s]]"},
	},
}

// golden is the tables that hold the values, one for each form.
type golden struct {
	*testDB
	columns []goldenColumn
	tables  []tableName
	rows    int // of each table; the last one's values are NULL
}

func (db *testDB) newGolden(columns []goldenColumn) *golden {
	db.Helper()
	g := &golden{testDB: db, columns: columns, rows: 1}
	delimiters := make([]string, len(columns))
	for i, c := range columns {
		g.rows = max(g.rows, len(c.values)+1)
		db.exec(fmt.Sprintf("CREATE DOMAIN types.domain%d AS %s", i, c.typ))
		delimiters[i] = db.queryValue(fmt.Sprintf("SELECT typdelim FROM pg_type WHERE oid = 'types.domain%d'::regtype", i))
	}
	for _, form := range goldenForms {
		var definitions, names []string
		for i, c := range columns {
			if typ := form.typ(i, c); typ != "" {
				definitions = append(definitions, quoteIdent(c.name)+" "+typ)
				names = append(names, quoteIdent(c.name))
			}
		}
		table := db.createTable(form.name, "(id int PRIMARY KEY, n int DEFAULT 0, "+strings.Join(definitions, ", ")+")")
		g.tables = append(g.tables, table)
		db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
		var sql strings.Builder
		for row := range g.rows {
			var values []string
			for i, c := range columns {
				typ := form.typ(i, c)
				switch {
				case typ == "":
				case row >= len(c.values):
					values = append(values, "NULL")
				case form.array == "":
					values = append(values, c.values[row])
				default:
					values = append(values, fmt.Sprintf("format('%s', types.twice(format('%%s', %s), '%s'))::%s",
						form.array, c.values[row], delimiters[i], typ))
				}
			}
			fmt.Fprintf(&sql, "INSERT INTO %s (id, %s) VALUES (%d, %s);\n", quoteTable(table), strings.Join(names, ", "), row,
				strings.Join(values, ", "))
		}
		if _, err := db.control.PgConn().Exec(db.ctx, sql.String()).ReadAll(); err != nil {
			for _, c := range columns { // name the value, as the statement is long
				for _, value := range c.values {
					if _, err := db.control.Exec(db.ctx, "SELECT "+value); err != nil {
						db.Errorf("%s: %s: %v", c.name, value, err)
					}
				}
			}
			db.Fatalf("the rows of table %s: %v", form.name, err)
		}
	}
	return g
}

// drive sends the values by every way under the feature flags, checks that all bring the same, and returns the JSON of each
// value, in the order of the columns.
func (g *golden) drive(role, flags string) [][]string {
	db, columns, tables, rows := g.testDB, g.columns, g.tables, g.rows
	db.Helper()
	db.dropSlot()
	var config map[string]any
	if err := json.Unmarshal(db.config(), &config); err != nil {
		db.Fatal(err)
	}
	if role != "" {
		config["user"] = role
		config["credentials"] = map[string]any{"auth_type": "UserPassword", "password": "secret1234"}
	}
	config["advanced"].(map[string]any)["feature_flags"] = flags
	r := newTestRuntime(db.TB, runtimeOptions{config: config})
	discovered, err := r.driver.discover(db.ctx)
	if err != nil {
		db.Fatalf("discover: %v", err)
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		db.Fatal(err)
	}
	checkBindings(db.TB, bindings)
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

	for _, s := range r.schemas {
		if err := checkClosed(json.RawMessage(s.doc)); err != nil {
			db.Errorf("the sourced schema of %s: %v", s.table, err)
		}
	}
	told := map[string]int{}
	for _, log := range r.logs {
		if column, _, ok := strings.Cut(log.message, " holds "); ok {
			told[column]++
		}
	}
	for column, n := range told {
		if n > 1 {
			db.Errorf("%d warnings of %s, want one for each column", n, column)
		}
	}
	if i := slices.IndexFunc(columns, func(c goldenColumn) bool { return c.name == "timestamptz" }); i >= 0 && len(told) < len(tables) {
		db.Errorf("%d columns were warned about, though timestamptz has infinities: %v", len(told), told)
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
			for f, form := range goldenForms {
				want := plain
				if form.array != "" && row < len(c.values) {
					list, ok := form.lists[flags]
					if !ok {
						list = form.lists[""]
					}
					want = fmt.Sprintf(list, plain+",null,"+plain)
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

// goldenFlags are the feature flags that change values. Their sections of the golden file have what differs from the first's.
var goldenFlags = []string{"", "no_flatten_arrays", "multidimensional_arrays", "no_date_as_date,no_time_as_time"}

// compareTypes compares the values under the flags with those of testdata/types.golden. What this server does not have is
// taken from there, and so is what other flags bring.
func (g *golden) compareTypes(types []goldenType, missing map[string]bool, flags string, values [][]string) {
	g.Helper()
	const name = "types.golden"
	old := map[string]string{}
	if content, err := os.ReadFile(filepath.Join("testdata", name)); err == nil {
		for section := range strings.SplitSeq("\n"+strings.TrimSuffix(string(content), "\n"), "\n# ") {
			title, body, _ := strings.Cut(section, "\n")
			old[title] = body
		}
	}
	var text strings.Builder
	for _, under := range goldenFlags {
		for _, typ := range types {
			title := typ.label
			if title == "" {
				title = typ.name
			}
			full := title
			if under != "" {
				full = under + ": " + title
			}
			body, ok := old[full]
			switch {
			case under != flags:
			case missing[title]:
				if !ok && under == "" {
					g.Fatalf("this server has no %s and %s has none either: update it on a server that has", title, name)
				}
			default:
				i := slices.IndexFunc(g.columns, func(c goldenColumn) bool { return c.name == title })
				var lines []string
				for v, value := range values[i] {
					lines = append(lines, fmt.Sprintf("%q\n\t%s", typ.values[v], shortened(value)))
				}
				body = strings.Join(lines, "\n")
				ok = under == "" || body != old[title]
			}
			if ok {
				fmt.Fprintf(&text, "# %s\n%s\n", full, body)
			}
		}
	}
	compareGolden(g.TB, name, text.String())
}

// createGoldenTypes makes the types of goldenTypes that no server brings.
func (db *testDB) createGoldenTypes() {
	db.Helper()
	db.script(goldenTypesSQL)
}

func TestTypesGolden(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	for _, c := range []struct {
		name     string
		flags    []string
		settings []string
	}{
		{"plain", goldenFlags, []string{"timezone = 'America/Los_Angeles'", "lc_monetary = 'C'"}},
		{"hostile", goldenFlags[:1], []string{
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
			g, role := db.newGolden(columns), db.goldenRole(c.settings...)
			for _, flags := range c.flags {
				g.compareTypes(goldenTypes, missing, flags, g.drive(role, flags))
			}
		})
	}
}

// TestTypesOfEncodings does the same with text in databases whose encoding is not UTF-8. SQL_ASCII does not know what its
// bytes mean, so that what is no UTF-8 there is replaced.
func TestTypesOfEncodings(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	type extra struct{ typ, expression, want string }
	for _, c := range []struct {
		encoding, text string
		extras         []extra
	}{
		{"LATIN1", "näïve ¿ÿ\u00a0 \\ \"q\"", []extra{{`"char"`, `chr(233)::"char"`, `233`}, {"char(3)", `chr(233)::char(3)`, `"é  "`}}},
		{"LATIN9", "10 € Œ", []extra{{`"char"`, `chr(233)::"char"`, `233`}}},
		{"EUC_JP", "日本語 カナ ｶﾅ 漢字", []extra{{"char(3)", "'日本'::char(3)", `"日本 "`}}},
		{"WIN1251", "Привет мир", nil},
		{"EUC_JIS_2004", "日本 か゚", []extra{{"varchar(1)", `'か゚'::varchar(1)`, `"か゚"`}, {"char(2)", `'か゚'::char(2)`, `"か゚ "`}}}, // one character, two in Unicode
		{"SQL_ASCII", "日本 näïve", []extra{
			{"text", `convert_from('\x61e97a', 'SQL_ASCII')`, `"a�z"`},
			{"char(4)", `convert_from('\x61c3a9', 'SQL_ASCII')::char(4)`, `"aé "`}, // a byte is a character
			{`"char"`, `convert_from('\xe9', 'SQL_ASCII')::"char"`, `233`},
		}},
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
			for i, x := range c.extras {
				types = append(types, goldenType{name: x.typ, label: fmt.Sprint("extra", i), values: []string{"=" + x.expression}})
				want = append(want, []string{x.want})
			}
			columns, _ := db.columns(types)
			values := db.newGolden(columns).drive(db.goldenRole("client_encoding = 'SQL_ASCII'"), "")
			for i, column := range columns {
				if !slices.Equal(values[i], want[i]) {
					t.Errorf("column %s: %s, want %s", column.name, values[i], want[i])
				}
			}
		})
	}
}
