package main

// flow_checkpoint_test.go reads and writes stored state: strictly what either image writes, and nothing that would be lost on
// the way through. Patches are applied as the runtime applies them, by RFC 7396.

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// observedStates are checkpoints that the incumbent wrote (spec/incumbent.md §7.1, §7.2), in the order of one session.
var observedStates = []string{
	`{"cursor":null}`,
	`{"cursor":null,"bindingStateV1":{"test%2Flg":{"mode":"Pending","key_columns":null,"scanned":null,"backfilled":0}}}`,
	`{"cursor":"0/2C38C68"}`,
	`{"cursor":"0/2C38C68","bindingStateV1":{"test%2Flg":{"mode":"Backfill","key_columns":["id"],"scanned":"FQI=","backfilled":2}}}`,
	`{"cursor":"0/2C38C68","bindingStateV1":{"test%2Flg":{"mode":"Backfill","key_columns":["id"],"scanned":"FQQ=","backfilled":4}}}`,
	`{"cursor":"0/2C38C68","bindingStateV1":{"test%2Fk":{"mode":"KeylessBackfill","key_columns":null,"scanned":"KDEsMCk=","backfilled":9}}}`,
	`{"cursor":"0/2C38C68","bindingStateV1":{"test%2Ft":{"mode":"UnfilteredBackfill","key_columns":["a","b"],"scanned":"AkIAFQQ=","backfilled":1}}}`,
	`{"cursor":"0/2C38C68","bindingStateV1":{"test%2Flg":{"mode":"Active","key_columns":["id"],"scanned":null,"backfilled":5}}}`,
	`{"cursor":"16/B374D848","bindingStateV1":{"test%2Flg":{"mode":"Ignore","key_columns":null,"scanned":null,"metadata":null,"backfilled":0}}}`,
}

func TestParseState(t *testing.T) {
	const parse = "parse the stored capture state: "
	for _, tc := range []struct {
		name, in string
		cursor   lsn
		bindings int
		wantErr  string
	}{
		{name: "none", in: ""},
		{name: "blank", in: " \n"},
		{name: "null", in: "null"},
		{name: "empty", in: "{}"},
		{name: "empty cursor", in: `{"cursor":""}`},
		{name: "cursor", in: `{"cursor":"16/B374D848"}`, cursor: 0x16B374D848},
		{name: "lower case", in: `{"cursor":"16/b374d848"}`, cursor: 0x16B374D848},
		{name: "zero", in: `{"cursor":"0/0"}`},
		{name: "largest", in: `{"cursor":"FFFFFFFF/FFFFFFFF"}`, cursor: math.MaxUint64},
		{name: "a binding", in: `{"bindingStateV1":{"a":{"mode":"Active","backfilled":3}}}`, bindings: 1},
		{name: "a null binding", in: `{"bindingStateV1":{"a":null,"b":{"mode":"Pending"}}}`, bindings: 1},
		{name: "missing", in: `{"bindingStateV1":{"a":{"mode":"Missing"}}}`, bindings: 1},
		{name: "unknown property", in: `{"cursor":null,"x":1}`, wantErr: parse + `json: unknown field "x"`},
		{
			name: "unknown property of a binding", in: `{"bindingStateV1":{"a":{"mode":"Active","x":1}}}`,
			wantErr: parse + `json: unknown field "x"`,
		},
		{
			name: "unknown mode", in: `{"bindingStateV1":{"a":{"mode":"active"}}}`,
			wantErr: parse + `binding "a" has unknown mode "active"`,
		},
		{name: "no mode", in: `{"bindingStateV1":{"a":{}}}`, wantErr: parse + `binding "a" has unknown mode ""`},
		{name: "not base64", in: `{"bindingStateV1":{"a":{"mode":"Active","scanned":"?"}}}`, wantErr: parse + "illegal base64 data at input byte 0"},
		{name: "cursor is no LSN", in: `{"cursor":"here"}`, wantErr: parse + `cursor "here" is not an LSN (want X/X)`},
		{name: "more than an LSN", in: `{"cursor":"0/1 and more"}`, wantErr: parse + `cursor "0/1 and more" is not an LSN (want X/X)`},
		{name: "signed", in: `{"cursor":"0/-1"}`, wantErr: parse + `cursor "0/-1" is not an LSN (want X/X)`},
		{name: "too large", in: `{"cursor":"0/100000000"}`, wantErr: parse + `cursor "0/100000000" is not an LSN (want X/X)`},
		{
			name: "wrong type", in: `{"cursor":1}`,
			wantErr: parse + "json: cannot unmarshal number into Go struct field captureState.cursor of type string",
		},
		{name: "two", in: `{} {}`, wantErr: parse + "more than one JSON value"},
		{name: "rest", in: `{}x`, wantErr: parse + "more than one JSON value"},
		{name: "cut off", in: `{"cursor":`, wantErr: parse + "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state, err := parseState(json.RawMessage(tc.in))
			if errorText(err) != tc.wantErr {
				t.Fatalf("error %q, want %q", errorText(err), tc.wantErr)
			}
			if err != nil {
				return
			}
			if cursor, err := state.cursor(); err != nil || cursor != tc.cursor {
				t.Errorf("cursor %s (%v), want %s", cursor, err, tc.cursor)
			}
			if len(state.Bindings) != tc.bindings {
				t.Errorf("%d bindings, want %d", len(state.Bindings), tc.bindings)
			}
		})
	}
}

func FuzzParseState(f *testing.F) {
	for _, s := range observedStates {
		f.Add([]byte(s))
	}
	f.Add([]byte(`{"bindingStateV1":{"a":{"mode":"Active","metadata":{"oid":1,"leaves":[{"oid":2}]}},"b":null}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		state, err := parseState(in)
		if err != nil {
			return
		}
		cursor, err := state.cursor()
		if err != nil {
			t.Fatalf("a state with a bad cursor was accepted: %v", err)
		}
		patch, err := appendPatch(nil, cursor, state.Bindings)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseState(patch)
		if err != nil {
			t.Fatalf("%s: %v", patch, err)
		}
		if len(again.Bindings) != len(state.Bindings) {
			t.Fatalf("%d bindings became %d", len(state.Bindings), len(again.Bindings))
		}
		for key, b := range state.Bindings {
			if b.metadata(); !reflect.DeepEqual(normalState(b), normalState(again.Bindings[key])) {
				t.Fatalf("%+v became %+v", b, again.Bindings[key])
			}
		}
	})
}

// normalState is a binding's entry with what means the same written the same.
func normalState(b *bindingState) bindingState {
	n := *b
	var metadata any
	if json.Unmarshal(n.Metadata, &metadata) != nil {
		metadata = nil
	}
	n.Metadata = json.RawMessage(fmt.Sprint(metadata))
	if len(n.KeyColumns) == 0 {
		n.KeyColumns = nil
	}
	if len(n.Scanned) == 0 {
		n.Scanned = nil
	}
	return n
}

// mergeReference is RFC 7396.
func mergeReference(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged, ok := target.(map[string]any)
	if !ok {
		merged = make(map[string]any)
	}
	for key, v := range changes {
		if v == nil {
			delete(merged, key)
		} else {
			merged[key] = mergeReference(merged[key], v)
		}
	}
	return merged
}

// What the incumbent has written, merged by the runtime, is read; what we would write of it merges to the same.
func TestObservedStates(t *testing.T) {
	var stored, ours any = map[string]any{}, map[string]any{}
	for _, patch := range observedStates {
		stored = mergeReference(stored, decodeNumbers(t, []byte(patch)))
		raw, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		state, err := parseState(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		cursor, err := state.cursor()
		if err != nil {
			t.Fatal(err)
		}
		written, err := appendPatch(nil, cursor, state.Bindings)
		if err != nil {
			t.Fatal(err)
		}
		ours = mergeReference(ours, decodeNumbers(t, written))
		if !reflect.DeepEqual(stored, ours) {
			t.Fatalf("after %s\nstored %v\nours %v", patch, stored, ours)
		}
	}
}

func TestAppendPatch(t *testing.T) {
	scanned := &bindingState{Mode: storedBackfill, KeyColumns: []string{"id"}, Scanned: []byte{0x15, 2}, Backfilled: 2}
	for _, tc := range []struct {
		cursor  lsn
		changed map[string]*bindingState
		want    string
	}{
		{0, nil, `{"cursor":null}`},
		{1, nil, `{"cursor":"0/1"}`},
		{0x16B374D848, nil, `{"cursor":"16/B374D848"}`},
		{0x2C38C68, map[string]*bindingState{"test%2Flg": scanned}, observedStates[3]},
		{0x16B374D848, map[string]*bindingState{"test%2Flg": ignoredState()}, observedStates[8]},
		{
			1,
			map[string]*bindingState{`q"`: {Mode: storedPending}, "a": {Mode: storedActive}},
			`{"cursor":"0/1","bindingStateV1":{"a":{"mode":"Active","key_columns":null,"scanned":null,"backfilled":0},` +
				`"q\"":{"mode":"Pending","key_columns":null,"scanned":null,"backfilled":0}}}`,
		},
	} {
		have, err := appendPatch([]byte("#"), tc.cursor, tc.changed)
		if err != nil || string(have) != "#"+tc.want {
			t.Errorf("%s (%v), want %s", have, err, tc.want)
		}
		// A second implementation of the shape.
		reference := captureState{Bindings: tc.changed}
		if tc.cursor != 0 {
			text := tc.cursor.String()
			reference.Cursor = &text
		}
		if want, err := json.Marshal(reference); err != nil || string(want) != tc.want {
			t.Errorf("encoding/json: %s (%v), want %s", want, err, tc.want)
		}
	}
	if _, err := appendPatch(nil, 1, map[string]*bindingState{"a": {Metadata: json.RawMessage("{")}}); err == nil ||
		!strings.HasPrefix(err.Error(), "encode a checkpoint: ") {
		t.Errorf("error %v", err)
	}
}

func TestAppendLSN(t *testing.T) {
	random := testRandom(t)
	for _, l := range []lsn{0, 1, 0xabcdef, 0xffffffff, 1 << 32, 0xabcdef01_fedcba98, math.MaxUint64} {
		checkLSN(t, l)
	}
	for range 1000 {
		checkLSN(t, lsn(random.Uint64()>>random.IntN(64)))
	}
}

func checkLSN(t *testing.T, l lsn) {
	t.Helper()
	have := string(appendLSN([]byte("ab"), l))
	back, err := pglogrepl.ParseLSN(have[2:])
	if have != "ab"+l.String() || err != nil || back != l {
		t.Errorf("%s, want ab%s; read as %s (%v)", have, l, back, err)
	}
}

func TestBindingMetadata(t *testing.T) {
	b := &bindingState{}
	for _, foreign := range []string{"", "null", "[]", `"x"`, "1"} {
		b.Metadata = json.RawMessage(foreign)
		if m, ours := b.metadata(); ours || m.OID != 0 {
			t.Errorf("metadata %q taken as ours: %+v", foreign, m)
		}
	}
	want := bindingMetadata{OID: 7, First: true, System: "7001", Timeline: 3}
	b.setMetadata(&want)
	var written map[string]any
	if err := json.Unmarshal(b.Metadata, &written); err != nil {
		t.Fatal(err)
	}
	for field := range reflect.TypeFor[bindingMetadata]().Fields() {
		name := field.Tag.Get("json")
		if _, is := written[name]; name != "partitions,omitempty" && !is { // null drops it
			t.Errorf("metadata %s lacks %q: a merge patch cannot drop a property by leaving it out", b.Metadata, name)
		}
	}
	want.Within = &transactionPlace{Commit: "1/2", XID: 3, Last: "1/1", Documents: 4, Digest: "d", Rule: "r"}
	want.Leaves = []leafCursor{{OID: 1, Filenode: 2, Block: 3, Offset: 4, Pages: 5, Done: true}}
	b.setMetadata(&want)
	if m, ours := b.metadata(); !ours || !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, want %+v", m, want)
	}
}

func TestLeafPositions(t *testing.T) {
	leaves := []leafCursor{
		{OID: 1, Block: 9, Offset: 0, Pages: 20},
		{OID: 2, Block: 3, Offset: 8, Pages: 20},
		{OID: 3, Block: 3, Offset: 2, Pages: 20},
		{OID: 4, Block: 1, Offset: 1, Pages: 1, Done: true},
	}
	if have := string(storedLeafPosition(leaves)); have != "(3,2)" {
		t.Errorf("stored position %s, want the least of those not done", have)
	}
	if have := string(storedLeafPosition(leaves[:1])); have != "(9,0)" {
		t.Errorf("stored position %s", have)
	}
	for _, none := range [][]leafCursor{nil, leaves[3:]} {
		if have := string(storedLeafPosition(none)); have != "(0,0)" {
			t.Errorf("stored position %s", have)
		}
	}
	b := &binding{}
	b.meta.Leaves = leaves
	after := b.leavesAfter(&chunk{leaf: leafCursor{OID: 2, Block: 20, Pages: 20, Done: true}})
	if after[1].Block != 20 || !after[1].Done || leaves[1].Block != 3 || !slices.Equal(after[2:], leaves[2:]) || after[0] != leaves[0] {
		t.Errorf("%+v", after)
	}
	if leavesDone(after) || !leavesDone(nil) || !leavesDone(leaves[3:]) {
		t.Error("leavesDone")
	}
}
