package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// The goal: no message, however broken, panics, is misread or is half used. Method: exact errors by table, every
// truncation of good messages, and a second decoder (pglogrepl's) that must agree with whatever ours accepts.

func u16(n uint16) string { return string(binary.BigEndian.AppendUint16(nil, n)) }
func u32(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }
func u64(n uint64) string { return string(binary.BigEndian.AppendUint64(nil, n)) }

// rawTuple spells a tuple: each value is its kind byte followed by its bytes.
func rawTuple(values ...string) string {
	s := u16(uint16(len(values)))
	for _, v := range values {
		s += v[:1]
		if v[0] == 't' || v[0] == 'b' {
			s += u32(uint32(len(v)-1)) + v[1:]
		}
	}
	return s
}

var goodMessages = map[string]string{
	"begin":         "B" + u64(0x16B374D848) + u64(841_017_600_000_000) + u32(732),
	"commit":        "C\x00" + u64(0x16B374D848) + u64(0x16B374D880) + u64(841_017_600_000_000),
	"relation":      "R" + u32(16384) + "public\x00orders\x00d" + u16(2) + "\x01id\x00" + u32(23) + u32(math.MaxUint32) + "\x00note\x00" + u32(1043) + u32(14),
	"no columns":    "R" + u32(16385) + "public\x00bare\x00n" + u16(0),
	"catalog":       "R" + u32(1255) + "\x00pg_proc\x00n" + u16(1) + "\x00oid\x00" + u32(26) + u32(math.MaxUint32),
	"type":          "Y" + u32(16390) + "public\x00mood\x00",
	"truncate":      "T" + u32(2) + "\x03" + u32(16384) + u32(16385),
	"insert":        "I" + u32(16384) + "N" + rawTuple("t42", "n", "t", "bab"),
	"insert bare":   "I" + u32(16385) + "N" + rawTuple(),
	"update":        "U" + u32(16384) + "N" + rawTuple("t42", "u"),
	"update key":    "U" + u32(16384) + "K" + rawTuple("t41", "n") + "N" + rawTuple("t42", "u"),
	"update full":   "U" + u32(16384) + "O" + rawTuple("t41", "tlong") + "N" + rawTuple("t42", "u"),
	"delete key":    "D" + u32(16384) + "K" + rawTuple("t41", "n"),
	"delete full":   "D" + u32(16384) + "O" + rawTuple("t41", "tlong"),
	"delete 1 kind": "D" + u32(16384) + "O" + rawTuple("u"),
}

// decodeAny decodes msg by its kind byte.
func decodeAny(msg []byte) (any, error) {
	if len(msg) == 0 {
		return nil, errors.New("empty")
	}
	switch msg[0] {
	case 'B':
		return decodeBegin(msg)
	case 'C':
		return decodeCommit(msg)
	case 'R':
		return decodeRelation(msg)
	case 'Y':
		return decodeType(msg)
	case 'T':
		return decodeTruncate(msg)
	}
	var c change
	err := decodeChange(msg, &c)
	return c, err
}

func text(s string) value { return value{data: []byte(s), kind: valueText} }

func TestDecodeMessages(t *testing.T) {
	null, unchanged := value{kind: valueNull}, value{kind: valueUnchanged}
	want := map[string]any{
		"begin":  beginMessage{finalLSN: 0x16B374D848, commitTime: 841_017_600_000_000, xid: 732},
		"commit": commitMessage{commitLSN: 0x16B374D848, endLSN: 0x16B374D880, commitTime: 841_017_600_000_000},
		"relation": &relation{oid: 16384, schema: "public", name: "orders", identity: 'd', columns: []relationColumn{
			{name: "id", typeOID: 23, typmod: -1, key: true}, {name: "note", typeOID: 1043, typmod: 14},
		}},
		"no columns": &relation{oid: 16385, schema: "public", name: "bare", identity: 'n', columns: []relationColumn{}},
		"catalog": &relation{oid: 1255, schema: "pg_catalog", name: "pg_proc", identity: 'n', columns: []relationColumn{
			{name: "oid", typeOID: 26, typmod: -1},
		}},
		"type":          typeMessage{oid: 16390, schema: "public", name: "mood"},
		"truncate":      truncateMessage{relations: []uint32{16384, 16385}, cascade: true, restart: true},
		"insert":        change{op: 'I', relation: 16384, new: tuple{text("42"), null, text(""), {[]byte("ab"), valueBinary}}},
		"insert bare":   change{op: 'I', relation: 16385},
		"update":        change{op: 'U', relation: 16384, new: tuple{text("42"), unchanged}},
		"update key":    change{op: 'U', relation: 16384, oldKind: 'K', old: tuple{text("41"), null}, new: tuple{text("42"), unchanged}},
		"update full":   change{op: 'U', relation: 16384, oldKind: 'O', old: tuple{text("41"), text("long")}, new: tuple{text("42"), unchanged}},
		"delete key":    change{op: 'D', relation: 16384, oldKind: 'K', old: tuple{text("41"), null}},
		"delete full":   change{op: 'D', relation: 16384, oldKind: 'O', old: tuple{text("41"), text("long")}},
		"delete 1 kind": change{op: 'D', relation: 16384, oldKind: 'O', old: tuple{unchanged}},
	}
	for name, msg := range goodMessages {
		have, err := decodeAny([]byte(msg))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(have, want[name]) {
			t.Errorf("%s:\nhave %+v\nwant %+v", name, have, want[name])
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	id := u32(16384)
	for _, test := range []struct{ name, msg, want string }{
		{"begin cut", "B" + u64(1) + u64(2) + "abc", "begin: at byte 17: want 4 more bytes, have 3"},
		{"begin trailing", goodMessages["begin"] + "\x00", "begin: at byte 21: want the end, have 1 more byte"},
		{"commit cut", "C", "commit: at byte 1: want 1 more byte, have 0"},
		{"relation name", "R" + id + "public\x00ord", "relation: at byte 12: string without an end"},
		{"relation columns", "R" + id + "s\x00t\x00d" + u16(3) + "\x01id\x00" + id + id, "relation: at byte 12: want 30 more bytes, have 12"},
		{"relation negative", "R" + id + "s\x00t\x00d" + u16(0xffff), "relation: at byte 12: count -1 is negative"},
		{"type trailing", goodMessages["type"] + "xx", "type: at byte 17: want the end, have 2 more bytes"},
		{"truncate count", "T" + u32(1<<30) + "\x00", "truncate: at byte 6: want 4294967296 more bytes, have 0"},
		{"truncate negative", "T" + u32(1<<31) + "\x00", "truncate: at byte 6: count -2147483648 is negative"},
		{"other kind", "M", "change: at byte 0: want kind 'I', 'U' or 'D', have 'M'"},
		{"insert header", "I\x00\x00", "insert: at byte 1: want 5 more bytes, have 2"},
		{"insert key", "I" + id + "K" + rawTuple("n"), "insert: at byte 5: want tuple mark 'N', have 'K'"},
		{"insert count cut", "I" + id + "N\x00", "insert: new tuple: at byte 6: want 2 more bytes, have 1"},
		{"insert count lies", "I" + id + "N" + u16(1600), "insert: new tuple: at byte 8: want 1600 more bytes, have 0"},
		{"insert count negative", "I" + id + "N" + u16(0x8000), "insert: new tuple: at byte 6: column count -32768 is negative"},
		{"insert kind missing", "I" + id + "N" + u16(2) + "t" + u32(0), "insert: new tuple: at byte 13: want 1 more byte, have 0"},
		{"insert length cut", "I" + id + "N" + u16(1) + "t\x00", "insert: new tuple: at byte 9: want 4 more bytes, have 1"},
		{"insert length negative", "I" + id + "N" + u16(1) + "t" + u32(math.MaxUint32), "insert: new tuple: at byte 9: value length -1 is negative"},
		{"insert value cut", "I" + id + "N" + u16(1) + "t" + u32(10) + "a", "insert: new tuple: at byte 13: want 10 more bytes, have 1"},
		{"insert value kind", "I" + id + "N" + u16(1) + "x", "insert: new tuple: at byte 8: want value kind 'n', 'u', 't' or 'b', have 'x'"},
		{"insert trailing", goodMessages["insert"] + "N", "insert: at byte 28: want the end, have 1 more byte"},
		{"update mark", "U" + id + "X", "update: at byte 5: want tuple mark 'K', 'O' or 'N', have 'X'"},
		{"update no new", "U" + id + "K" + rawTuple("n"), "update: at byte 9: want 1 more byte, have 0"},
		{"update two old", "U" + id + "K" + rawTuple("n") + "K" + rawTuple("n"), "update: at byte 9: want tuple mark 'N', have 'K'"},
		{"update old", "U" + id + "O" + u16(1) + "?", "update: old tuple: at byte 8: want value kind 'n', 'u', 't' or 'b', have '?'"},
		{"delete new", "D" + id + "N" + rawTuple("n"), "delete: at byte 5: want tuple mark 'K' or 'O', have 'N'"},
	} {
		_, err := decodeAny([]byte(test.msg))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: have error %v, want %s", test.name, err, test.want)
		}
		var malformed *malformedError
		if !errors.As(err, &malformed) {
			t.Errorf("%s: %T is no malformedError", test.name, err)
		}
	}

	empty := "want 1 more byte, have 0"
	for name, decode := range map[string]func() error{
		"begin":    func() error { _, err := decodeBegin(nil); return err },
		"commit":   func() error { _, err := decodeCommit(nil); return err },
		"relation": func() error { _, err := decodeRelation(nil); return err },
		"type":     func() error { _, err := decodeType(nil); return err },
		"truncate": func() error { _, err := decodeTruncate(nil); return err },
		"change":   func() error { return decodeChange(nil, new(change)) },
	} {
		if err := decode(); err == nil || err.Error() != name+": at byte 0: "+empty {
			t.Errorf("empty %s: have error %v", name, err)
		}
	}
	if _, err := decodeBegin([]byte("C")); err == nil || err.Error() != "begin: at byte 0: want kind 'B', have 'C'" {
		t.Errorf("wrong kind: have error %v", err)
	}
	if _, _, err := decodeTuple(nil, []byte(u16(1)+"t"+u32(10)+"a")); err == nil || err.Error() != "tuple: at byte 7: want 10 more bytes, have 1" {
		t.Errorf("tuple: have error %v", err)
	}
}

func TestDecodeTruncated(t *testing.T) {
	for name, msg := range goodMessages {
		for n := range len(msg) {
			if m, err := decodeAny([]byte(msg[:n])); err == nil {
				t.Errorf("%s: first %d of %d bytes decode to %+v", name, n, len(msg), m)
			}
		}
	}
}

// A relation outlives its message, a change does not, and appending to one value must not reach the next.
func TestDecodeAliasing(t *testing.T) {
	msg := []byte(goodMessages["relation"])
	r, err := decodeRelation(msg)
	if err != nil {
		t.Fatal(err)
	}
	clear(msg)
	if r.schema != "public" || r.name != "orders" || r.columns[1].name != "note" {
		t.Errorf("relation changed with its message: %+v", r)
	}

	msg = []byte(goodMessages["insert"])
	var c change
	if err := decodeChange(msg, &c); err != nil {
		t.Fatal(err)
	}
	for i, v := range c.new {
		if cap(v.data) != len(v.data) {
			t.Errorf("value %d: capacity %d, length %d", i, cap(v.data), len(v.data))
		}
	}
	msg[bytes.IndexByte(msg, '4')] = '9'
	if string(c.new[0].data) != "92" {
		t.Errorf("value 0 is a copy: %q", c.new[0].data)
	}
}

// benchmarkUpdate is an update of a table of 16 columns with its full old row.
func benchmarkUpdate() []byte {
	values := strings.Split(strings.Repeat("t1234567890 n t3.14159 ttrue ", 4), " ")[:16]
	return []byte("U" + u32(16384) + "O" + rawTuple(values...) + "N" + rawTuple(values...))
}

func TestDecodeChangeAllocations(t *testing.T) {
	update, bare := benchmarkUpdate(), []byte(goodMessages["delete key"])
	var c change
	var row tuple
	var buf []byte
	if n := testing.AllocsPerRun(100, func() {
		if decodeChange(update, &c) != nil || decodeChange(bare, &c) != nil || decodeChange(update, &c) != nil {
			t.Fatal("decode failed")
		}
		buf = appendTuple(buf[:0], c.new)
		var err error
		if row, _, err = decodeTuple(row, buf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a change", n)
	}
}

func BenchmarkDecodeChange(b *testing.B) {
	values := strings.Split(strings.Repeat("t1234567890 n t3.14159 ttrue ", 4), " ")[:16]
	msg := []byte("I" + u32(16384) + "N" + rawTuple(values...))
	var c change
	b.ReportAllocs()
	for b.Loop() {
		if err := decodeChange(msg, &c); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, msg := range goodMessages {
		f.Add([]byte(msg))
	}
	var reused change
	f.Fuzz(func(t *testing.T, msg []byte) {
		have, err := decodeAny(msg)
		if err != nil {
			var malformed *malformedError
			if len(msg) > 0 && (!errors.As(err, &malformed) || malformed.offset > len(msg)) {
				t.Errorf("error %v of a message of %d bytes", err, len(msg))
			}
			return
		}
		if msg[0] == 'I' && len(msg) == len(goodMessages["insert bare"]) { // a row of no columns: pglogrepl takes it for a short message
			return
		}
		if msg[0] == 'T' && len(msg) == 1+4+1 { // a truncation of no tables: likewise
			return
		}
		second, err := pglogrepl.Parse(msg)
		if err != nil {
			t.Fatalf("pglogrepl rejects %q: %v", msg, err)
		}
		switch have := have.(type) {
		case beginMessage:
			m := second.(*pglogrepl.BeginMessage)
			if have.finalLSN != m.FinalLSN || have.xid != m.Xid || uint64(have.commitTime) != binary.BigEndian.Uint64(msg[9:]) {
				t.Errorf("have %+v, pglogrepl %+v", have, m)
			}
		case commitMessage:
			m := second.(*pglogrepl.CommitMessage)
			if have.commitLSN != m.CommitLSN || have.endLSN != m.TransactionEndLSN {
				t.Errorf("have %+v, pglogrepl %+v", have, m)
			}
		case typeMessage:
			m := second.(*pglogrepl.TypeMessage)
			if have.oid != m.DataType || have.schema != orCatalog(m.Namespace) || have.name != m.Name {
				t.Errorf("have %+v, pglogrepl %+v", have, m)
			}
		case truncateMessage:
			m := second.(*pglogrepl.TruncateMessage)
			if !equalElements(have.relations, m.RelationIDs) || have.cascade != (m.Option&1 != 0) || have.restart != (m.Option&2 != 0) {
				t.Errorf("have %+v, pglogrepl %+v", have, m)
			}
		case *relation:
			m := second.(*pglogrepl.RelationMessage)
			same := have.oid == m.RelationID && have.schema == orCatalog(m.Namespace) && have.name == m.RelationName &&
				have.identity == m.ReplicaIdentity && len(have.columns) == len(m.Columns)
			for i := 0; same && i < len(m.Columns); i++ {
				c := m.Columns[i]
				same = have.columns[i] == relationColumn{c.Name, c.DataType, c.TypeModifier, c.Flags&1 != 0}
			}
			if !same {
				t.Errorf("have %+v, pglogrepl %+v", have, m)
			}
		case change:
			switch m := second.(type) {
			case *pglogrepl.InsertMessage:
				same := have.relation == m.RelationID && have.oldKind == 0
				if !same || !sameTuple(have.new, m.Tuple) || !sameTuple(have.old, nil) {
					t.Errorf("have %+v, pglogrepl %+v", have, m)
				}
			case *pglogrepl.UpdateMessage:
				same := have.relation == m.RelationID && have.oldKind == m.OldTupleType
				if !same || !sameTuple(have.new, m.NewTuple) || !sameTuple(have.old, m.OldTuple) {
					t.Errorf("have %+v, pglogrepl %+v", have, m)
				}
			case *pglogrepl.DeleteMessage:
				same := have.relation == m.RelationID && have.oldKind == m.OldTupleType
				if !same || !sameTuple(have.new, nil) || !sameTuple(have.old, m.OldTuple) {
					t.Errorf("have %+v, pglogrepl %+v", have, m)
				}
			default:
				t.Fatalf("pglogrepl takes it for a %T", second)
			}
			if err := decodeChange(msg, &reused); err != nil || !equalTuples(reused.new, have.new) || !equalTuples(reused.old, have.old) {
				t.Errorf("reused tuples decode differently: %+v, %v", reused, err)
			}
			for _, row := range []tuple{have.old, have.new} {
				again, rest, err := decodeTuple(nil, append(appendTuple(nil, row), "rest"...))
				if err != nil || string(rest) != "rest" || !equalTuples(again, row) {
					t.Errorf("round trip: have %+v, %q, %v, want %+v", again, rest, err, row)
				}
			}
		}
	})
}

func orCatalog(schema string) string {
	if schema == "" {
		return "pg_catalog"
	}
	return schema
}

func equalElements(a, b []uint32) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func equalTuples(a, b tuple) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func sameTuple(have tuple, second *pglogrepl.TupleData) bool {
	if second == nil {
		return len(have) == 0
	}
	if len(have) != len(second.Columns) {
		return false
	}
	for i, c := range second.Columns {
		if byte(have[i].kind) != c.DataType || !bytes.Equal(have[i].data, c.Data) {
			return false
		}
	}
	return true
}
