package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The goal: no change is judged to lie on the wrong side of a scan, and a stored position means the same to us, to the
// server and to the incumbent. Method: the server sorts and compares for us; packed bytes are checked against vectors
// and, for numerics, against pgx's own encoder.

// keyType is a type as the tests name it: in SQL, with the catalog's facts of it.
type keyType struct {
	sql string
	keyColumn
}

func builtinKey(sql string, oid uint32) keyType {
	return keyType{sql, keyColumn{name: "k", typeOID: oid, typeKind: 'b', typeName: sql, byteOrder: true}}
}

func keyOf(types ...keyType) *scanKey {
	var columns []keyColumn
	for i, t := range types {
		t.name = fmt.Sprintf("k%d", i+1)
		columns = append(columns, t.keyColumn)
	}
	return newScanKey(columns, "UTF8")
}

func texts(values ...string) []value {
	var row []value
	for _, v := range values {
		row = append(row, text(v))
	}
	return row
}

var (
	boolKey        = builtinKey("boolean", pgtype.BoolOID)
	int2Key        = builtinKey("smallint", pgtype.Int2OID)
	int4Key        = builtinKey("integer", pgtype.Int4OID)
	int8Key        = builtinKey("bigint", pgtype.Int8OID)
	oidKey         = builtinKey("oid", pgtype.OIDOID)
	float4Key      = builtinKey("real", pgtype.Float4OID)
	float8Key      = builtinKey("double precision", pgtype.Float8OID)
	numericKey     = builtinKey("numeric", pgtype.NumericOID)
	textKey        = builtinKey(`text COLLATE "C"`, pgtype.TextOID)
	varcharKey     = builtinKey(`varchar COLLATE "C"`, pgtype.VarcharOID)
	bpcharKey      = builtinKey(`bpchar COLLATE "C"`, pgtype.BPCharOID)
	nameKey        = builtinKey("name", pgtype.NameOID)
	charKey        = builtinKey(`"char"`, pgtype.QCharOID)
	byteaKey       = builtinKey("bytea", pgtype.ByteaOID)
	uuidKey        = builtinKey("uuid", pgtype.UUIDOID)
	macKey         = builtinKey("macaddr", pgtype.MacaddrOID)
	mac8Key        = builtinKey("macaddr8", pgtype.Macaddr8OID)
	inetKey        = builtinKey("inet", pgtype.InetOID)
	cidrKey        = builtinKey("cidr", pgtype.CIDROID)
	bitKey         = builtinKey("bit(12)", pgtype.BitOID)
	varbitKey      = builtinKey("varbit", pgtype.VarbitOID)
	dateKey        = builtinKey("date", pgtype.DateOID)
	timeKey        = builtinKey("time", pgtype.TimeOID)
	timetzKey      = builtinKey("timetz", pgtype.TimetzOID)
	timestampKey   = builtinKey("timestamp", pgtype.TimestampOID)
	timestamptzKey = builtinKey("timestamptz", pgtype.TimestamptzOID)
	intervalKey    = builtinKey("interval", pgtype.IntervalOID)
	lsnKey         = builtinKey("pg_lsn", pgLSNOID)
	xid8Key        = builtinKey("xid8", xid8OID)
	moneyKey       = builtinKey("money", 790)
	jsonbKey       = builtinKey("jsonb", pgtype.JSONBOID)
	intArrayKey    = builtinKey("integer[]", pgtype.Int4ArrayOID)
	rangeKey       = keyType{"int4range", keyColumn{typeOID: pgtype.Int4rangeOID, typeKind: 'r', typeName: "int4range", byteOrder: true}}
	enumKey        = keyType{"key_mood", keyColumn{typeOID: 90001, typeKind: 'e', typeName: "key_mood", byteOrder: true}}
	citextKey      = keyType{"citext", keyColumn{typeOID: 90002, typeKind: 'b', typeName: "citext"}}
	compositeKey   = keyType{"key_pair", keyColumn{typeOID: 90003, typeKind: 'c', typeName: "key_pair", byteOrder: true}}
	linguisticKey  = keyType{`text COLLATE "en-x-icu"`, keyColumn{typeOID: pgtype.TextOID, typeKind: 'b', typeName: "text"}}
)

func TestScanKeyClasses(t *testing.T) {
	nullable := int4Key
	nullable.nullable = true
	linguisticPadded := bpcharKey
	linguisticPadded.byteOrder = false
	for _, test := range []struct {
		name                 string
		key                  *scanKey
		ordered, predictable bool
	}{
		{"integer", keyOf(int4Key), true, true},
		{"nullable", keyOf(nullable), true, true},
		{"text C", keyOf(textKey), true, false},
		{"text linguistic", keyOf(linguisticKey), false, false},
		{"bpchar C", keyOf(bpcharKey), true, false},
		{"bpchar linguistic", keyOf(linguisticPadded), false, false},
		{"varchar second", keyOf(int4Key, varcharKey), true, false},
		{"name", keyOf(nameKey), true, true},
		{"enum", keyOf(enumKey), false, false},
		{"citext", keyOf(citextKey), false, false},
		{"money", keyOf(moneyKey), false, true},
		{"array", keyOf(int8Key, intArrayKey), false, true},
		{"range", keyOf(rangeKey), false, true},
		{"jsonb", keyOf(jsonbKey), false, true},
		{"composite", keyOf(compositeKey), false, true},
		{"interval, inet, bit", keyOf(intervalKey, inetKey, bitKey), true, true},
	} {
		if have := test.key.ordered(); have != test.ordered {
			t.Errorf("%s: ordered is %v", test.name, have)
		}
		if have := test.key.predictable(); have != test.predictable {
			t.Errorf("%s: predictable is %v", test.name, have)
		}
	}
}

// orderVectors are lists in ascending order; "=" ties a value to the one before it.
var orderVectors = []struct {
	key  keyType
	list []string
}{
	{numericKey, []string{
		"-Infinity", "-1000000000000000000000000000001", "-100", "=-100.00", "-99.9", "-1.23", "-1.2", "=-1.20", "-0.01", "-0.001",
		"0", "=0.00", "=-0.0", "0.001", "0.01", "0.0100000000000000000000000001", "0.5", "1", "=1.0", "=1.00", "1.05", "1.1", "9.99",
		"10", "=10.0", "11", "100", "12345678901234567890.1", "1" + strings.Repeat("0", 131071), "Infinity", "NaN",
	}},
	{float8Key, []string{"-Infinity", "-1e+300", "-1.5", "-5e-324", "0", "=-0", "5e-324", "1.5", "1e+300", "Infinity", "NaN", "=NaN"}},
	{dateKey, []string{
		"-infinity", "4714-11-24 BC", "0044-03-15 BC", "0001-02-29 BC", "0001-03-01 BC", "0001-12-31 BC", "0001-01-01", "1999-12-31", "2000-02-29", "2000-03-01", "9999-12-31",
		"10000-01-01", "5874897-12-31", "infinity",
	}},
	{timestampKey, []string{
		"-infinity", "4714-11-24 00:00:00 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00", "2000-01-01 00:00:00",
		"2000-01-01 00:00:00.000001", "2000-01-01 00:00:00.1", "294276-12-31 23:59:59.999999", "infinity",
	}},
	{timestamptzKey, []string{
		"0044-03-15 12:00:00+00 BC", "1850-01-01 00:00:00-07:52:58", "=1850-01-01 07:52:58+00", "2024-01-01 05:30:00+05:30",
		"=2023-12-31 16:00:00-08", "2024-01-01 00:00:00.5+00", "294276-12-31 23:59:59.999999+14", "infinity",
	}},
	{timeKey, []string{"00:00:00", "00:00:00.000001", "12:30:00", "23:59:59.999999", "24:00:00"}},
	{timetzKey, []string{"00:00:00+15:59", "12:00:00+01", "11:00:00+00", "10:00:00-01", "11:00:00.000001+00:00:00", "24:00:00-15:59:59"}},
	{intervalKey, []string{
		"-infinity", "-178000000 years", "-2562047788:00:54.775808", "-1 years -2 mons +3 days -04:05:06.789", "-1 days", "=-24:00:00",
		"-00:00:00.000001", "00:00:00", "00:00:00.000001", "1 day", "=24:00:00", "1 day 00:00:01", "30 days", "=1 mon", "=720:00:00",
		"1 mon 1 day", "360 days", "=1 year", "1 year 2 mons 3 days 04:05:06.789", "2562047788:00:54.775807", "178000000 years",
		"infinity",
	}},
	{bpcharKey, []string{"", "=   ", "\t", "a", "=a  ", "a\t", "a b", "ab"}},
	{byteaKey, []string{`\x`, `\x00`, `\x0000`, `\x00ff`, `\x01`, `\x0100`, `\xff`}},
	{charKey, []string{"", "\x01", "A", `\`, "~", `\200`, `\377`}},
	{boolKey, []string{"f", "t"}},
	{int8Key, []string{"-9223372036854775808", "-1", "0", "1", "9223372036854775807"}},
	{xid8Key, []string{"0", "9223372036854775808", "18446744073709551615"}},
	{lsnKey, []string{"0/0", "0/FFFFFFFF", "1/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"}},
	{varbitKey, []string{"", "0", "00", "01", "1", "10", "10000000", "100000000", "10000001", "11"}},
	{inetKey, []string{
		"0.0.0.0/0", "10.0.0.0/8", "10.0.0.1/8", "10.1.0.0/12", "10.0.0.0/16", "10.0.0.0", "=10.0.0.0/32", "10.0.0.1", "192.168.0.1/24",
		"::/0", "::ffff:1.2.3.4/96", "::ffff:1.2.3.4", "2001:db8::/32", "2001:db8::1/64", "ffff::",
	}},
}

func TestAppendOrder(t *testing.T) {
	for _, test := range orderVectors {
		k := keyOf(test.key)
		var before []byte
		for i, v := range test.list {
			same := strings.HasPrefix(v, "=")
			v = strings.TrimPrefix(v, "=")
			form, err := k.appendOrder(nil, texts(v))
			if err != nil {
				t.Errorf("%s: %v", test.key.sql, err)
				continue
			}
			want := 1
			if same || i == 0 {
				want = 0
			}
			if i > 0 && bytes.Compare(form, before) != want {
				t.Errorf("%s: %.60q after its predecessor compares as %d, want %d", test.key.sql, v, bytes.Compare(form, before), want)
			}
			before = form
		}
		null, err := k.appendOrder(nil, []value{{kind: valueNull}})
		if err != nil || bytes.Compare(null, before) <= 0 {
			t.Errorf("%s: NULL is not last (%v)", test.key.sql, err)
		}
	}
}

func TestAppendOrderIdentity(t *testing.T) {
	k := keyOf(enumKey, citextKey, moneyKey)
	form, err := k.appendOrder(nil, texts("sad", "Ab", "$1.00"))
	if want := "\x01sad\x00\x01Ab\x00\x01$1.00\x00"; err != nil || string(form) != want {
		t.Errorf("have %q, %v, want %q", form, err, want)
	}
}

// Whatever the first column's type, the second decides among its ties only.
func TestAppendOrderTies(t *testing.T) {
	for _, test := range orderVectors {
		k := keyOf(test.key, int4Key)
		for i := 1; i < len(test.list); i++ {
			v, same := strings.CutPrefix(test.list[i], "=")
			before, err := k.appendOrder(nil, texts(strings.TrimPrefix(test.list[i-1], "="), "5"))
			if err != nil {
				t.Fatal(err)
			}
			form, err := k.appendOrder(nil, texts(v, "-5"))
			if err != nil {
				t.Fatal(err)
			}
			if have, want := bytes.Compare(form, before), map[bool]int{true: -1, false: 1}[same]; have != want {
				t.Errorf("%s: (%.60q, -5) after its predecessor compares as %d, want %d", test.key.sql, v, have, want)
			}
		}
	}
}

// A short element must not borrow from the one after it.
func TestAppendOrderColumns(t *testing.T) {
	rows := [][]value{
		texts("", "", "1"), texts("", "a", "0.1"), texts("", "a", "1"), texts("", "ab", "-5"), texts("a", "", "0"), texts("a", "", "0.5"),
		texts("a", "b", "0"), texts("aa", "", "0"), texts("ab", "", "-1"),
		{text("ab"), {kind: valueNull}, text("-2")},
		{text("ab"), {kind: valueNull}, text("3")},
		{{kind: valueNull}, text("a"), text("3")},
	}
	k := keyOf(textKey, varcharKey, numericKey)
	var before []byte
	for i, row := range rows {
		form, err := k.appendOrder(nil, row)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && bytes.Compare(before, form) >= 0 {
			t.Errorf("row %d does not follow row %d", i, i-1)
		}
		before = form
	}
}

func TestScanKeyErrors(t *testing.T) {
	for _, test := range []struct {
		name   string
		key    *scanKey
		values []value
		want   string
	}{
		{"count", keyOf(int4Key), texts("1", "2"), `scan key of 1 columns: have 2 values`},
		{"toast", keyOf(textKey), []value{{kind: valueUnchanged}}, `scan key column "k1": the row does not carry its value (unchanged TOAST)`},
		{"binary", keyOf(textKey), []value{{kind: valueBinary}}, `scan key column "k1": value kind 'b', want text`},
		{"integer", keyOf(int4Key), texts("1x"), `scan key column "k1": "1x" is no integer`},
		{"integer empty", keyOf(int4Key), texts(""), `scan key column "k1": "" is no integer`},
		{"bigint", keyOf(int8Key), texts("9223372036854775808"), `scan key column "k1": "9223372036854775808" is no integer`},
		{"oid", keyOf(oidKey), texts("-1"), `scan key column "k1": "-1" is no unsigned integer`},
		{"xid8", keyOf(xid8Key), texts("18446744073709551616"), `scan key column "k1": "18446744073709551616" is no unsigned integer`},
		{"bool", keyOf(int4Key, boolKey), texts("1", "true"), `scan key column "k2": "true" is no boolean`},
		{"float", keyOf(float8Key), texts("1,5"), `scan key column "k1": "1,5" is no double precision`},
		{"real", keyOf(float4Key), texts("1e+40"), `scan key column "k1": "1e+40" is no real`},
		{"numeric", keyOf(numericKey), texts("1e5"), `scan key column "k1": "1e5" is no numeric`},
		{"numeric dot", keyOf(numericKey), texts("1."), `scan key column "k1": "1." is no numeric`},
		{"date", keyOf(dateKey), texts("03/15/2024"), `scan key column "k1": "03/15/2024" is no ISO date`},
		{"date month", keyOf(dateKey), texts("2024-13-01"), `scan key column "k1": "2024-13-01" is no ISO date`},
		{"timestamp", keyOf(timestampKey), texts("2024-03-15"), `scan key column "k1": "2024-03-15" is no ISO timestamp`},
		{"timestamp zone", keyOf(timestampKey), texts("2024-03-15 00:00:00+00"), `scan key column "k1": "2024-03-15 00:00:00+00" is no ISO timestamp`},
		{"timestamptz", keyOf(timestamptzKey), texts("2024-03-15 00:00:00 PST"), `scan key column "k1": "2024-03-15 00:00:00 PST" is no ISO timestamp with an offset`},
		{"nanoseconds", keyOf(timestampKey), texts("2024-03-15 00:00:00.1234567"), `scan key column "k1": "2024-03-15 00:00:00.1234567" is no ISO timestamp`},
		{"time", keyOf(timeKey), texts("24:00:01"), `scan key column "k1": "24:00:01" is no time`},
		{"timetz", keyOf(timetzKey), texts("24:00:00"), `scan key column "k1": "24:00:00" is no time with an offset`},
		{"interval", keyOf(intervalKey), texts("@ 1 day ago"), `scan key column "k1": "@ 1 day ago" is no interval in style postgres`},
		{"interval empty", keyOf(intervalKey), texts(""), `scan key column "k1": "" is no interval in style postgres`},
		{"interval hours", keyOf(intervalKey), texts("2562047788:00:54.775808"), `scan key column "k1": "2562047788:00:54.775808" is no interval in style postgres`},
		{"bytea", keyOf(byteaKey), texts(`\000`), `scan key column "k1": "\\000" is no bytea in hex`},
		{"bytea odd", keyOf(byteaKey), texts(`\x0`), `scan key column "k1": "\\x0" is no bytea in hex`},
		{"uuid", keyOf(uuidKey), texts("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1"), `scan key column "k1": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1" is no uuid`},
		{"macaddr", keyOf(macKey), texts("08:00:2b:01:02:03:04:05"), `scan key column "k1": "08:00:2b:01:02:03:04:05" is no macaddr`},
		{"macaddr8", keyOf(mac8Key), texts("08:00:2b:01:02:03"), `scan key column "k1": "08:00:2b:01:02:03" is no macaddr8`},
		{"inet", keyOf(inetKey), texts("10.0.0.0/33"), `scan key column "k1": "10.0.0.0/33" is no network address`},
		{"inet zone", keyOf(inetKey), texts("fe80::1%eth0"), `scan key column "k1": "fe80::1%eth0" is no network address`},
		{"bit", keyOf(bitKey), texts("012"), `scan key column "k1": "012" is no bit string`},
		{"lsn", keyOf(lsnKey), texts("16"), `scan key column "k1": "16" is no LSN`},
	} {
		dst := []byte("kept")
		form, err := test.key.appendOrder(dst, test.values)
		if err == nil || err.Error() != test.want || string(form) != "kept" {
			t.Errorf("%s: have %q, error %v, want %s", test.name, form, err, test.want)
		}
		packed, err := test.key.appendPacked(dst, test.values)
		if err == nil || err.Error() != test.want || string(packed) != "kept" {
			t.Errorf("%s packed: have %q, error %v, want %s", test.name, packed, err, test.want)
		}
	}
}

func TestAppendOrderAllocations(t *testing.T) {
	var columns []keyType
	var row []value
	for _, v := range orderVectors {
		columns, row = append(columns, v.key), append(row, text(strings.TrimPrefix(v.list[len(v.list)/2], "=")))
	}
	columns = append(columns, uuidKey, macKey, textKey, enumKey, inetKey)
	row = append(row, texts("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "08:00:2b:01:02:03", "text", "sad",
		"2001:0db8:0000:0000:0000:ff00:0042:8329/128")...)
	k := keyOf(columns...)
	var buf []byte
	if n := testing.AllocsPerRun(100, func() {
		var err error
		if buf, err = k.appendOrder(buf[:0], row); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a key", n)
	}
}

// fromHex reads hexadecimal with blanks; 'text' stands for its bytes.
func fromHex(t *testing.T, s string) []byte {
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, raw...)
	}
	return b
}

var packedVectors = []struct {
	key    []keyType
	values []string // "NULL" is null
	want   string   // in fromHex's notation
	back   []string // what unpack makes of it, if not values
}{
	{[]keyType{int4Key}, []string{"0"}, "14", nil},
	{[]keyType{int4Key}, []string{"2"}, "15 02", nil},
	{[]keyType{int4Key}, []string{"-5"}, "13 fa", nil},
	{[]keyType{int4Key}, []string{"-1"}, "13 fe", nil},
	{[]keyType{int4Key}, []string{"255"}, "15 ff", nil},
	{[]keyType{int4Key}, []string{"-255"}, "13 00", nil},
	{[]keyType{int4Key}, []string{"-256"}, "12 feff", nil},
	{[]keyType{int8Key}, []string{"256"}, "16 0100", nil},
	{[]keyType{int8Key}, []string{"9223372036854775807"}, "1c 7fffffffffffffff", nil},
	{[]keyType{int8Key}, []string{"-9223372036854775808"}, "0c 7fffffffffffffff", nil},
	{[]keyType{oidKey}, []string{"4294967295"}, "18 ffffffff", nil},
	{[]keyType{textKey, int4Key}, []string{"B", "4"}, "02'B'00 1504", nil},
	{[]keyType{textKey, int4Key}, []string{"", "NULL"}, "02 00 00", nil},
	{[]keyType{boolKey, boolKey}, []string{"f", "t"}, "26 27", nil},
	{[]keyType{byteaKey}, []string{`\x`}, "01 00", nil},
	{[]keyType{byteaKey, int4Key}, []string{`\x0061ff00`, "1"}, "01 00ff 61 ff 00ff 00 1501", nil},
	{[]keyType{float4Key}, []string{"1.5"}, "20 bfc00000", nil},
	{[]keyType{float4Key}, []string{"-1.5"}, "20 403fffff", nil},
	{[]keyType{float4Key}, []string{"NaN"}, "20 ffc00000", nil},
	{[]keyType{float8Key}, []string{"0"}, "21 8000000000000000", nil},
	{[]keyType{float8Key}, []string{"-0"}, "21 7fffffffffffffff", nil},
	{[]keyType{float8Key}, []string{"-42"}, "21 3fbaffffffffffff", nil},
	{[]keyType{float8Key}, []string{"NaN"}, "21 fff8000000000000", nil},
	{[]keyType{float8Key}, []string{"Infinity"}, "21 fff0000000000000", nil},
	{[]keyType{float8Key}, []string{"-Infinity"}, "21 000fffffffffffff", nil},
	{[]keyType{uuidKey}, []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}, "02 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' 00", nil},
	{[]keyType{macKey}, []string{"08:00:2b:01:02:03"}, "02 '08:00:2b:01:02:03' 00", nil},
	{[]keyType{mac8Key, lsnKey}, []string{"08:00:2b:01:02:03:04:05", "1/AB"}, "02 '08:00:2b:01:02:03:04:05' 00 02 '1/AB' 00", nil},
	{[]keyType{bpcharKey, nameKey}, []string{"a  ", "n"}, "02 'a  ' 00 02 'n' 00", nil},
	{[]keyType{enumKey, moneyKey}, []string{"sad", "$1.00"}, "02 'sad' 00 02 '$1.00' 00", nil},
	{[]keyType{timetzKey}, []string{"08:09:10.5-08"}, "02 '08:09:10.5-08' 00", nil},
	{[]keyType{xid8Key}, []string{"18446744073709551615"}, "02 '18446744073709551615' 00", nil},
	{[]keyType{dateKey}, []string{"2024-02-29"}, "02 '2024-02-29T00:00:00.000000000Z' 00", nil},
	{[]keyType{dateKey}, []string{"0001-01-01"}, "02 '0001-01-01T00:00:00.000000000Z' 00", nil},
	{[]keyType{dateKey}, []string{"10000-01-01"}, "02 '10000-01-01' 00", nil},
	{[]keyType{dateKey}, []string{"0044-03-15 BC"}, "02 '0044-03-15 BC' 00", nil},
	{[]keyType{dateKey}, []string{"infinity"}, "02 'infinity' 00", nil},
	{[]keyType{timestampKey}, []string{"2024-02-29 12:34:56.7"}, "02 '2024-02-29T12:34:56.700000000Z' 00", nil},
	{[]keyType{timestampKey}, []string{"2024-02-29 12:34:50"}, "02 '2024-02-29T12:34:50.000000000Z' 00", nil},
	{[]keyType{timestamptzKey}, []string{"2024-02-29 12:34:56.789012-08"}, "02 '2024-02-29T12:34:56.789012000-08:00' 00", nil},
	{[]keyType{timestamptzKey}, []string{"2024-02-29 12:34:56+05:30"}, "02 '2024-02-29T12:34:56.000000000+05:30' 00", nil},
	{[]keyType{timestamptzKey}, []string{"2024-02-29 12:34:56+00"}, "02 '2024-02-29T12:34:56.000000000Z' 00", nil},
	{[]keyType{timestamptzKey}, []string{"1850-01-01 00:00:00-07:52:58"}, "02 '1850-01-01T07:52:58.000000000Z' 00", []string{"1850-01-01 07:52:58+00"}},
	{[]keyType{timestamptzKey}, []string{"0001-01-01 00:00:00+07:52:58"}, "02 '0001-01-01 00:00:00+07:52:58' 00", nil},
	{[]keyType{timestamptzKey}, []string{"-infinity"}, "02 '-infinity' 00", nil},
	{[]keyType{intervalKey, inetKey}, []string{"1 mon", "10.0.0.0/8"}, "02 '1 mon' 00 02 '10.0.0.0/8' 00", nil},
	{[]keyType{intArrayKey}, []string{"{1,NULL}"}, "02 '{1,NULL}' 00", nil},
	{
		[]keyType{numericKey},
		[]string{"123.45"},
		"05 02'N'00 05 16 4e23 01'12345'00 00 01 00ff 02 00ff 00ff 00ff 00ff 00ff 02 00ff 7b 11 94 00 00", nil,
	},
	{
		[]keyType{numericKey, int4Key},
		[]string{"-1.20", "7"},
		"05 02'N'00 05 12 b1de 01'87:'00 00 01 00ff 02 00ff 00ff 40 00ff 00ff 02 00ff 01 07 d0 00 00 1507", nil,
	},
	{
		[]keyType{numericKey},
		[]string{"0.00"},
		"05 02'N'00 05 14 00ff 00 01 00ff 00ff ff ff 00ff 00ff 00ff 00ff 00 00",
		[]string{"0"},
	},
	{[]keyType{numericKey}, []string{"NaN"}, "02 'NaN' 00", nil},
}

func rowOf(values []string) []value {
	row := texts(values...)
	for i := range row {
		if values[i] == "NULL" {
			row[i] = value{kind: valueNull}
		}
	}
	return row
}

func TestPacked(t *testing.T) {
	for _, test := range packedVectors {
		k, want := keyOf(test.key...), fromHex(t, test.want)
		packed, err := k.appendPacked([]byte("kept"), rowOf(test.values))
		if err != nil {
			t.Errorf("%q: %v", test.values, err)
			continue
		}
		packed, _ = bytes.CutPrefix(packed, []byte("kept"))
		if !bytes.Equal(packed, want) {
			t.Errorf("%q:\nhave % x\nwant % x", test.values, packed, want)
		}
		back := test.back
		if back == nil {
			back = test.values
		}
		values, err := k.unpack(want)
		if err != nil || !equalTuples(values, rowOf(back)) {
			t.Errorf("%q: unpacked %q, %v", test.values, values, err)
		}
	}
}

func TestUnpackIncumbent(t *testing.T) {
	for _, test := range []struct {
		stored string
		key    *scanKey
		want   []value
	}{
		{"FQQ=", keyOf(int4Key), texts("4")},
		{"FQI=", keyOf(int8Key), texts("2")},
		{"AkIAFQQ=", keyOf(textKey, int2Key), texts("B", "4")},
	} {
		raw, _ := base64.StdEncoding.DecodeString(test.stored)
		have, err := test.key.unpack(raw)
		if err != nil || !equalTuples(have, test.want) {
			t.Errorf("%s: have %q, %v", test.stored, have, err)
		}
		if packed, err := test.key.appendPacked(nil, test.want); err != nil || !bytes.Equal(packed, raw) {
			t.Errorf("%s: packed as % x, %v", test.stored, packed, err)
		}
	}
}

func TestUnpackErrors(t *testing.T) {
	for _, test := range []struct {
		name, packed string
		key          *scanKey
		want         string
	}{
		{"empty", "", keyOf(int4Key), `stored scan key: column "k1": at byte 0: want 1 more byte, have 0`},
		{"missing", "1504", keyOf(int4Key, int4Key), `stored scan key: column "k2": at byte 2: want 1 more byte, have 0`},
		{"trailing", "1504 14", keyOf(int4Key), `stored scan key: at byte 2: want the end, have 1 more byte`},
		{"cut integer", "16 01", keyOf(int4Key), `stored scan key: column "k1": at byte 0: want 2 more bytes, have 1`},
		{"cut text", "02 'a'", keyOf(textKey), `stored scan key: column "k1": at byte 0: text without an end`},
		{"other type", "02 'a' 00", keyOf(int4Key), `stored scan key: column "k1": at byte 0: type code 0x02, which no integer has`},
		{"unknown code", "33", keyOf(int4Key), `stored scan key: column "k1": at byte 0: unknown type code 0x33`},
		{"integer range", "1c ffffffffffffffff", keyOf(int8Key), `stored scan key: scan key column "k1": "18446744073709551615" is no integer`},
		{"date", "02 '2024-02-29T01:00:00.000000000Z' 00", keyOf(dateKey), `stored scan key: scan key column "k1": "2024-02-29T01:00:00.000000000Z" is no ISO date`},
		{"nested open", "05 02'N'00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: want 1 more byte, have 0`},
		{"nested deep", "05 05 05 00 00 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: tuples nested too deeply`},
		{"nested short", "05 02'N'00 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: want 1 more byte, have 0`},
		{"nested other", "05 02'X'00 0500 0100 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: nested tuple is no numeric`},
		{"numeric empty", "05 02'N'00 0500 0100 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: numeric without a header`},
		{"numeric digits", "05 02'N'00 0500 01 01 01 01 01 00ff 00ff 00ff 00ff 00 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: numeric of 257 digits in 0 bytes`},
		{"numeric sign", "05 02'N'00 0500 01 00ff 00ff 00ff 00ff c0 00ff 00ff 00ff 00 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: numeric with sign 0xc000`},
		{"numeric digit", "05 02'N'00 0500 01 00ff 01 00ff 00ff 00ff 00ff 00ff 00ff 27 10 00 00", keyOf(numericKey), `stored scan key: column "k1": at byte 0: numeric with a digit of 10000`},
		{"keyless", "'(1,0)'", keyOf(int4Key), `stored scan key: column "k1": at byte 0: unknown type code 0x28`},
	} {
		values, err := test.key.unpack(fromHex(t, test.packed))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: have %q, error %v, want %s", test.name, values, err, test.want)
		}
	}
}

// randomNumeric has digits and zeros in runs, where the encodings group and trim.
func randomNumeric(random *rand.Rand) string {
	run := func(most int) string {
		var s string
		for len(s) < most && random.IntN(8) > 0 {
			digit := "0"
			if random.IntN(2) > 0 {
				digit = string(rune('0' + random.IntN(10)))
			}
			s += strings.Repeat(digit, 1+random.IntN(6))
		}
		return s
	}
	s := strings.TrimLeft(run(30), "0")
	if s == "" {
		s = "0"
	}
	if fraction := run(20); fraction != "" {
		s += "." + fraction
	}
	if random.IntN(2) > 0 && strings.Trim(s, "0.") != "" {
		s = "-" + s
	}
	return s
}

func testRandom(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// The number inside a packed numeric is what pgx writes, since the incumbent compares its bytes.
func TestPackedNumericAgainstPgx(t *testing.T) {
	random, types := testRandom(t), pgtype.NewMap()
	k := keyOf(numericKey)
	for range 3000 {
		s := randomNumeric(random)
		var n pgtype.Numeric
		if err := n.Scan(s); err != nil {
			t.Fatal(err)
		}
		if n.Int.Sign() == 0 {
			n.Exp = 0 // as pgx reads any zero from a query's binary result
		}
		want, err := types.Encode(pgtype.NumericOID, pgtype.BinaryFormatCode, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		d, ok := parseDecimal([]byte(s))
		if have := binaryNumeric(d); !ok || !bytes.Equal(have, want) {
			t.Fatalf("%s: have % x, pgx % x", s, have, want)
		}
		packed, err := k.appendPacked(nil, texts(s))
		if err != nil {
			t.Fatal(err)
		}
		back, err := k.unpack(packed)
		if err != nil || string(back[0].data) != s && n.Int.Sign() != 0 {
			t.Fatalf("%s: unpacked as %q, %v", s, back, err)
		}
	}
}

func TestNumericOrderAgainstRationals(t *testing.T) {
	random := testRandom(t)
	k := keyOf(numericKey)
	for range 3000 {
		a, b := randomNumeric(random), randomNumeric(random)
		x, _ := new(big.Rat).SetString(a)
		y, _ := new(big.Rat).SetString(b)
		formA, _ := k.appendOrder(nil, texts(a))
		formB, _ := k.appendOrder(nil, texts(b))
		if bytes.Compare(formA, formB) != x.Cmp(y) {
			t.Fatalf("%s and %s compare as %d, want %d", a, b, bytes.Compare(formA, formB), x.Cmp(y))
		}
		packedA, _ := k.appendPacked(nil, texts(a))
		packedB, _ := k.appendPacked(nil, texts(b))
		if x.Cmp(y) != 0 && bytes.Compare(packedA, packedB) != x.Cmp(y) {
			t.Fatalf("%s and %s, packed, compare as %d, want %d", a, b, bytes.Compare(packedA, packedB), x.Cmp(y))
		}
	}
}

func FuzzUnpack(f *testing.F) {
	sets := [][]keyType{
		{numericKey},
		{textKey, int4Key},
		{timestamptzKey, dateKey, timestampKey},
		{byteaKey, boolKey, float8Key, float4Key},
		{intervalKey, inetKey, varbitKey},
		{uuidKey, timetzKey, timeKey},
		{oidKey, xid8Key, lsnKey, charKey},
		{enumKey, macKey, mac8Key},
	}
	for i := range sets {
		for _, v := range packedVectors {
			packed, err := keyOf(v.key...).appendPacked(nil, rowOf(v.values))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), packed)
		}
	}
	f.Fuzz(func(t *testing.T, set byte, packed []byte) {
		k := keyOf(sets[int(set)%len(sets)]...)
		values, err := k.unpack(packed)
		if err != nil {
			return
		}
		form, err := k.appendOrder(nil, values)
		if err != nil {
			t.Fatal(err)
		}
		again, err := k.appendPacked(nil, values)
		if err != nil {
			t.Fatalf("%q cannot be packed again: %v", values, err)
		}
		second, err := k.unpack(again)
		if err != nil {
			t.Fatalf("%q, packed as % x: %v", values, again, err)
		}
		if form2, err := k.appendOrder(nil, second); err != nil || !bytes.Equal(form, form2) {
			t.Fatalf("% x\nunpacked %q\npacked   % x\nunpacked %q, %v", packed, values, again, second, err)
		}
	})
}

func BenchmarkAppendOrder(b *testing.B) {
	for _, bench := range []struct {
		name  string
		key   *scanKey
		value string
	}{
		{"bigint", keyOf(int8Key), "1234567890"},
		{"uuid", keyOf(uuidKey), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{"timestamptz", keyOf(timestamptzKey), "2024-02-29 12:34:56.789012-08"},
		{"numeric", keyOf(numericKey), "12345.67"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			row := texts(bench.value)
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = bench.key.appendOrder(buf[:0], row)
			}
		})
	}
}

// scanKeyServer connects with the session settings that key text is read under.
func scanKeyServer(t *testing.T) *pgx.Conn {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a PostgreSQL server: set TEST_DATABASE=yes (and -db-address), or run make test")
	}
	conn := testConnect(t, *testControlUser, *testControlPassword)
	for _, setting := range []string{
		"DateStyle = ISO, YMD", "IntervalStyle = postgres", "bytea_output = hex", "extra_float_digits = 1", "client_encoding = UTF8",
		"TimeZone = PST8PDT",
	} {
		queryTexts(t, conn, "SET "+setting)
	}
	return conn
}

// queryTexts returns a query's rows, copied, in text format.
func queryTexts(t *testing.T, conn *pgx.Conn, sql string, args ...any) [][]value {
	t.Helper()
	arguments := append([]any{pgx.QueryExecModeSimpleProtocol}, args...) // whose results are text
	rows, err := conn.Query(context.Background(), sql, arguments...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var result [][]value
	for rows.Next() {
		var row []value
		for _, raw := range rows.RawValues() {
			v := value{kind: valueNull}
			if raw != nil {
				v = text(string(raw))
			}
			row = append(row, v)
		}
		result = append(result, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return result
}

// serverCases are the ordered types with an SQL expression for one random value, and edge values.
var serverCases = []struct {
	key    keyType
	random string
	edges  []string
}{
	{boolKey, "random() < 0.5", []string{"f", "t"}},
	{int2Key, "((random() - 0.5) * 65535)::int2", []string{"-32768", "32767", "0", "-1"}},
	{int4Key, "((random() - 0.5) * 10 ^ (random() * 9))::int4", []string{"-2147483648", "2147483647", "0", "-1", "255", "256"}},
	{int8Key, "((random() - 0.5) * 10 ^ (random() * 18))::int8", []string{"-9223372036854775808", "9223372036854775807", "0", "-1"}},
	{oidKey, "(random() * 4294967295)::int8::oid", []string{"0", "4294967295", "2147483648"}},
	{xid8Key, "((random() * 10 ^ (random() * 18))::int8)::text::xid8", []string{"0", "18446744073709551615", "9223372036854775808"}},
	{lsnKey, "'0/0'::pg_lsn + (random() * 10 ^ (random() * 18))::numeric(20)", []string{"0/0", "FFFFFFFF/FFFFFFFF", "0/FFFFFFFF", "1/0"}},
	{float4Key, "((random() - 0.5) * 10 ^ (random() * 60 - 30))::real", []string{"NaN", "Infinity", "-Infinity", "0", "-0", "1e-45", "-1e-45", "3.4028235e38"}},
	{float8Key, "(random() - 0.5) * 10 ^ (random() * 200 - 100)", []string{"NaN", "Infinity", "-Infinity", "0", "-0", "5e-324", "-5e-324", "1.7976931348623157e308", "0.1"}},
	{
		numericKey, "round(((random() - 0.5) * 10 ^ (random() * 30 - 10))::numeric, (random() * 12)::int)",
		[]string{
			"NaN", "Infinity", "-Infinity", "0", "0.00", "-0", "1", "1.0", "1.00", "-1", "-1.000", "10", "10.0", "100", "99.99", "-99.990", "0.001", "1e-16383",
			"9e131071", "-9e131071", "1e4", "1e5", "1e100",
		},
	},
	{textKey, "left(md5(random()::text), (random() * 4)::int) || chr(1 + (random() * 1000)::int)", []string{"", "a", "A", "a ", "ab", "é", "z", "\U0001F600", "\uffff", "\x01"}},
	{varcharKey, "left(md5(random()::text), (random() * 4)::int)", []string{"", " ", "a", "a ", "\t"}},
	{bpcharKey, "left(md5(random()::text), (random() * 2)::int) || repeat(' ', (random() * 3)::int)", []string{"", "  ", "a", "a  ", "a\t", "a b"}},
	{nameKey, "left(md5(random()::text), (random() * 4)::int)::name", []string{"", "a", "B", "_", strings.Repeat("x", 63)}},
	{charKey, "chr(1 + (random() * 126)::int)::\"char\"", []string{"", "A", "\\", "~"}},
	{byteaKey, "decode(left(md5(random()::text), 2 * (random() * 4)::int), 'hex')", []string{`\x`, `\x00`, `\x0000`, `\x00ff`, `\x0100`, `\xff`, `\xff00`}},
	{uuidKey, "md5((random() * 100)::int::text)::uuid", []string{"00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"}},
	{macKey, "left(md5(random()::text), 12)::macaddr", []string{"00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"}},
	{mac8Key, "left(md5(random()::text), 16)::macaddr8", []string{"00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff"}},
	{
		inetKey, "set_masklen('0.0.0.0'::inet + (random() * 16)::int8 * 268435455 + (random() * 3)::int8, (random() * 32)::int)",
		[]string{
			"10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/16", "10.0.0.0", "10.0.0.0/9", "10.128.0.0/9", "0.0.0.0/0", "255.255.255.255", "::", "::/0", "::1", "2001:db8::/32",
			"2001:db8::1/32", "::ffff:1.2.3.4", "::1.2.3.4", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		},
	},
	{cidrKey, "set_masklen(('0.0.0.0'::inet + (random() * 4294967295)::int8)::cidr, (random() * 32)::int)", []string{"10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.0.0.0/32"}},
	{bitKey, "(random() * 4095)::int::bit(12)", []string{"000000000000", "111111111111"}},
	{varbitKey, "substring((random() * 65535)::int::bit(16)::varbit FROM 1 FOR (random() * 16)::int)", []string{"", "0", "00", "1", "10", "10000000", "100000000"}},
	{dateKey, "date '2000-01-01' + ((random() - 0.5) * 10 ^ (random() * 6.2))::int", []string{"infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "0001-01-01", "0001-12-31 BC", "10000-01-01", "9999-12-31", "2000-02-29", "0001-02-29 BC", "0001-03-01 BC"}},
	{timeKey, "time '00:00' + random() * interval '24 hours'", []string{"00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.5"}},
	{
		timetzKey, "(('12:00:0' || (random() * 2)::int || '.' || (random() * 9)::int)::time::text || '+' || (random() * 14)::int || ':30')::timetz",
		[]string{"00:00:00+15:59:59", "24:00:00-15:59:59", "12:00:00+00", "13:00:00+01", "11:00:00-01", "00:00:00+00", "24:00:00+00"},
	},
	{timestampKey, "timestamp '2000-01-01' + (random() - 0.5) * 10 ^ (random() * 11) * interval '1 second'", []string{"infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "0001-01-01 00:00:00", "0001-12-31 23:59:59.999999 BC", "10000-01-01 00:00:00"}},
	{timestamptzKey, "timestamptz '2000-01-01' + (random() - 0.5) * 10 ^ (random() * 11) * interval '1 second'", []string{
		"infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00", "10000-01-01 00:00:00+00", "1850-01-01 00:00:00+00",
		"2024-11-03 08:30:00+00", "2024-11-03 09:30:00+00", "2024-03-10 09:59:59+00", "2024-03-10 10:00:00+00",
	}},
	{
		intervalKey, "make_interval(months => ((random() - 0.5) * 5)::int, days => ((random() - 0.5) * 90)::int, hours => ((random() - 0.5) * 50)::int * 12)",
		[]string{
			"0", "1 mon", "30 days", "720 hours", "29 days 24 hours", "-1 mon", "-30 days", "1 year", "12 mons", "360 days", "-1 mon +30 days", "1 day -24:00:00",
			"1 day -00:00:00.000001", "178000000 years", "-178000000 years", "2562047788:00:54.775807", "-2562047788:00:54.775807", "-1 year -2 mons +3 days -04:05:06.789",
			"1 year 2 mons -3 days", "2147483647 days", "-2147483648 days",
		},
	},
}

func TestAppendOrderAgainstServer(t *testing.T) {
	conn := scanKeyServer(t)
	seed := rand.Float64()
	t.Logf("seed %v", seed)
	for _, test := range serverCases {
		k := keyOf(test.key)
		if !k.ordered() {
			t.Errorf("%s is not ordered", test.key.sql)
		}
		name, collation, _ := strings.Cut(test.key.sql, " COLLATE ")
		if collation != "" {
			collation = " COLLATE " + collation
		}
		queryTexts(t, conn, fmt.Sprintf("SELECT setseed(%v)", seed))
		queryTexts(t, conn, "DROP TABLE IF EXISTS pg_temp.key_values")
		queryTexts(t, conn, fmt.Sprintf("CREATE TEMP TABLE key_values (k %s)", test.key.sql))
		for _, edge := range test.edges {
			if strings.HasSuffix(edge, "2562047788:00:54.775807") && conn.PgConn().ParameterStatus("server_version") < "15" {
				continue // more microseconds than those versions read
			}
			queryTexts(t, conn, fmt.Sprintf("INSERT INTO key_values VALUES ($1::text::%s)", name), edge)
		}
		queryTexts(t, conn, fmt.Sprintf("INSERT INTO key_values SELECT (%s)::%s FROM generate_series(1, 300)", test.random, name))
		queryTexts(t, conn, "INSERT INTO key_values VALUES (NULL)")

		rows := queryTexts(t, conn, fmt.Sprintf("SELECT k, dense_rank() OVER (ORDER BY k%s) FROM key_values ORDER BY k%[1]s", collation))
		var before []byte
		for i, row := range rows {
			form, err := k.appendOrder(nil, row[:1])
			if err != nil {
				t.Errorf("%s: %v", test.key.sql, err)
				continue
			}
			want := 0
			if i > 0 && string(row[1].data) != string(rows[i-1][1].data) {
				want = 1
			}
			if i > 0 && bytes.Compare(form, before) != want {
				t.Errorf("%s: %.60q after %.60q compares as %d, the server says %d", test.key.sql, row[0].data, rows[i-1][0].data, bytes.Compare(form, before), want)
			}
			before = form
		}
		checkUnpackedEqual(t, conn, test.key, rows)
	}
}

// checkUnpackedEqual packs and unpacks each row's first value and has the server compare it with the original.
func checkUnpackedEqual(t *testing.T, conn *pgx.Conn, key keyType, rows [][]value) {
	t.Helper()
	k := keyOf(key)
	name, _, _ := strings.Cut(key.sql, " COLLATE ")
	var before, after []*string
	for _, row := range rows {
		packed, err := k.appendPacked(nil, row[:1])
		if err != nil {
			t.Errorf("%s: %v", key.sql, err)
			continue
		}
		values, err := k.unpack(packed)
		if err != nil {
			t.Errorf("%s: %q: %v", key.sql, row[0].data, err)
			continue
		}
		before, after = append(before, nullableText(row[0])), append(after, nullableText(values[0]))
	}
	differ := queryTexts(t, conn, fmt.Sprintf(
		"SELECT a, b FROM unnest($1::text[], $2::text[]) AS v(a, b) WHERE a::%s IS DISTINCT FROM b::%[1]s", name), before, after)
	for _, row := range differ {
		t.Errorf("%s: %q came back as %q", key.sql, row[0].data, row[1].data)
	}
}

func nullableText(v value) *string {
	if v.kind == valueNull {
		return nil
	}
	s := string(v.data)
	return &s
}

// Keys that only the server orders persist as well.
func TestUnpackOpaqueAgainstServer(t *testing.T) {
	conn := scanKeyServer(t)
	queryTexts(t, conn, "CREATE TYPE pg_temp.key_mood AS ENUM ('sad', 'ok', 'it''s \"fine\"')")
	queryTexts(t, conn, "CREATE TYPE pg_temp.key_pair AS (a integer, b text)")
	queryTexts(t, conn, "SET search_path = pg_temp, public")
	for _, test := range []struct {
		key    keyType
		values []string
	}{
		{enumKey, []string{"sad", "ok", `it's "fine"`}},
		{compositeKey, []string{"(1,)", `(2,"a b")`, `(,"")`}},
		{intArrayKey, []string{"{}", "{1,NULL}", "{{1,2},{3,4}}"}},
		{rangeKey, []string{"empty", "[1,5)", "(,)"}},
		{jsonbKey, []string{"null", `{"a": [1, "é\n"]}`, `""`}},
		{moneyKey, []string{"$1.00", "-$92,233,720,368,547,758.08"}},
		{linguisticKey, []string{"", "a", "Ä", "ß"}},
		{builtinKey("tsvector", pgtype.TSVectorOID), []string{"", "'a':1 'b''c':2"}},
		{builtinKey("tid", pgtype.TIDOID), []string{"(0,1)", "(4294967295,65535)"}},
	} {
		if keyOf(test.key).ordered() {
			t.Errorf("%s is ordered", test.key.sql)
		}
		var rows [][]value
		for _, v := range test.values {
			rows = append(rows, texts(v))
		}
		checkUnpackedEqual(t, conn, test.key, rows)
	}
}

// What the incumbent sends as its resume argument is the packed text itself, so the server must parse that too, in zones
// with offsets of minutes and, before standard time, of seconds.
func TestPackedMomentsAgainstServer(t *testing.T) {
	conn := scanKeyServer(t)
	for _, zone := range []string{"PST8PDT", "Asia/Kolkata", "America/Los_Angeles", "UTC"} {
		queryTexts(t, conn, "SET TimeZone = '"+zone+"'")
		for _, key := range []keyType{dateKey, timestampKey, timestamptzKey} {
			k := keyOf(key)
			rows := queryTexts(t, conn, fmt.Sprintf(`SELECT (timestamptz '1800-01-01 00:00:00.25+00' + n * interval '1000 days 1 hour')::%s
				FROM generate_series(1, 100) n`, key.sql))
			checkUnpackedEqual(t, conn, key, rows)
			for _, row := range rows {
				packed, err := k.appendPacked(nil, row)
				if err != nil {
					t.Fatal(err)
				}
				stored := string(packed[1 : len(packed)-1])
				same := queryTexts(t, conn, fmt.Sprintf("SELECT $1::text::%s = $2::text::%[1]s", key.sql), stored, string(row[0].data))
				if string(same[0][0].data) != "t" {
					t.Errorf("%s in %s: %s is stored as %s", key.sql, zone, row[0].data, stored)
				}
			}
		}
	}
}

func TestAppendOrderColumnsAgainstServer(t *testing.T) {
	conn := scanKeyServer(t)
	k := keyOf(textKey, numericKey, byteaKey)
	rows := queryTexts(t, conn, `
		SELECT a, b, c, dense_rank() OVER (ORDER BY a, b, c)
		FROM unnest(ARRAY['', 'a', 'a ', 'ab', NULL]) a, unnest(ARRAY[-1.5, 0, 0.0, 1, 1.00, NULL, 'NaN']) b,
		     unnest(ARRAY['\x', '\x00', '\x0001', '\xff', NULL]::bytea[]) c
		ORDER BY a COLLATE "C", b, c`)
	var before []byte
	for i, row := range rows {
		form, err := k.appendOrder(nil, row[:3])
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if i > 0 && string(row[3].data) != string(rows[i-1][3].data) {
			want = 1
		}
		if i > 0 && bytes.Compare(form, before) != want {
			t.Errorf("%q after %q compares as %d, the server says %d", row, rows[i-1], bytes.Compare(form, before), want)
		}
		before = form
	}
	if len(rows) != 5*7*5 {
		t.Errorf("%d rows", len(rows))
	}
}
