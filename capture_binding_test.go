package main

// capture_binding_test.go: every phase against every event, the key of a collection against the columns of a table, the size of
// the next chunk, and stored positions that cannot be used.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/jackc/pgx/v5/pgtype"
)

func TestPhases(t *testing.T) {
	const none = phase(99) // there is no such transition
	events := []event{eventActivate, eventComplete, eventRewind, eventVanish}
	for p, want := range map[phase][4]phase{
		phasePending:  {phaseBackfill, phaseActive, phasePending, phaseMissing},
		phaseBackfill: {none, phaseActive, phasePending, phaseMissing},
		phaseActive:   {none, none, phasePending, phaseMissing},
		phaseMissing:  {none, none, phasePending, phaseMissing},
	} {
		for i, ev := range events {
			next, ok := p.next(ev)
			if ok != (want[i] != none) || ok && next != want[i] || !ok && next != p {
				t.Errorf("phase %d, event %d: %d, %v, want %d", p, ev, next, ok, want[i])
			}
		}
	}
}

func TestImpossibleTransitionPanics(t *testing.T) {
	defer func() {
		if have := fmt.Sprint(recover()); have != "broken invariant: public.t: event 0 in phase 2" {
			t.Errorf("panic %s", have)
		}
	}()
	b := &binding{phase: phaseActive, resource: resource{table: tableName{"public", "t"}}, ledger: &ledger{}}
	b.transition(eventActivate)
}

func TestKeyColumnsOf(t *testing.T) {
	for _, tc := range []struct {
		pointers []string
		want     []string
	}{
		{[]string{"/id"}, []string{"id"}},
		{[]string{"/a", "/b"}, []string{"a", "b"}},
		{[]string{"/a~1b"}, []string{"a/b"}},
		{[]string{"/a~0b"}, []string{"a~b"}},
		{[]string{"/a~01b"}, []string{"a~1b"}}, // ~0 is undone last
		{[]string{"/a~0~1"}, []string{"a~/"}},
		{[]string{"/"}, []string{""}},
		{[]string{"/ "}, []string{" "}},
		{fallbackKey, nil},
		{fallbackKey[:2], []string{"_meta/source/loc/0", "_meta/source/loc/1"}},
	} {
		if have := keyColumnsOf(tc.pointers); !slices.Equal(have, tc.want) || (have == nil) != (tc.want == nil) {
			t.Errorf("%q: %q, want %q", tc.pointers, have, tc.want)
		}
	}
}

func TestNewBinding(t *testing.T) {
	spec := &pf.CaptureSpec_Binding{
		ResourceConfigJson: json.RawMessage(`{"namespace":"public","stream":"t","priority":3}`), StateKey: "key.v1",
		Collection: pf.CollectionSpec{
			Name: "acme/t", Key: []string{"/id"},
			Projections: []pf.Projection{{Ptr: "/_meta/source/txid"}},
		},
	}
	b, err := newBinding(4, spec)
	if err != nil {
		t.Fatal(err)
	}
	if b.index != 4 || b.stateKey != "key.v1" || b.collection != "acme/t" || b.name() != (tableName{"public", "t"}) || !b.txid ||
		b.resource.priority != 3 || !slices.Equal(b.collectionKey, []string{"id"}) {
		t.Errorf("%+v", b)
	}
	spec.Collection.Projections = nil
	if b, err = newBinding(0, spec); err != nil || b.txid {
		t.Errorf("txid without a place for it (%v)", err)
	}
	spec.ResourceConfigJson = json.RawMessage(`{"namespace":"public"}`)
	if _, err = newBinding(2, spec); err == nil || !strings.HasPrefix(err.Error(), "binding 2: ") {
		t.Errorf("error %v", err)
	}
}

func TestAdapt(t *testing.T) {
	s := &settings{chunkRows: 50_000}
	for _, tc := range []struct {
		name     string
		limit    int
		rows     int
		filtered int
		bytes    int
		took     time.Duration
		stopped  bool
		fixed    bool
		want     int
	}{
		{name: "fast and small doubles", limit: 100, rows: 100, want: 200},
		{name: "up to the setting", limit: 40_000, rows: 40_000, want: 50_000},
		{name: "half a budget stays", limit: 100, rows: 100, bytes: 600, want: 100},
		{name: "a second stays", limit: 100, rows: 100, took: 1500 * time.Millisecond, want: 100},
		{name: "slow halves", limit: 100, rows: 100, took: 3 * time.Second, want: 50},
		{name: "slow stops at 16", limit: 20, rows: 20, took: 3 * time.Second, want: 16},
		{name: "slow never grows", limit: 1, rows: 1, took: 3 * time.Second, want: 1},
		{name: "slow, polling", limit: 100, rows: 100, took: 3 * time.Second, fixed: true, want: 100},
		{name: "stopped at its budget", limit: 50_000, rows: 1000, bytes: 2000, stopped: true, want: 750},
		{name: "filtered rows count", limit: 50_000, rows: 10, filtered: 990, stopped: true, want: 750},
		{name: "stopped at one row", limit: 50_000, rows: 1, bytes: 2000, stopped: true, want: 1},
	} {
		var scan scan
		scan.adapt(&chunk{limit: tc.limit, filtered: tc.filtered, bytes: tc.bytes, budget: 1000, took: tc.took, stopped: tc.stopped},
			tc.rows, s.chunkRows, tc.fixed)
		if scan.limit != tc.want {
			t.Errorf("%s: %d rows next, want %d", tc.name, scan.limit, tc.want)
		}
	}
}

func TestResumeErrors(t *testing.T) {
	for _, tc := range []struct {
		name    string
		scanned []byte
		at      string
		wantErr string
	}{
		{"none", nil, "[]", ""},
		{"integer", []byte{0x15, 2}, "[2]", ""},
		{"negative", []byte{0x13, 0xfa}, "[-5]", ""},
		{"cut off", []byte{0x16, 2}, "", "unpack the stored position: "},
		{"two values", []byte{0x15, 2, 0x15, 3}, "", "unpack the stored position: "},
		{"nothing", []byte{}, "", "unpack the stored position: "},
		{"another type", []byte{0x02, 'x', 0}, "", "unpack the stored position: "},
		{"not a tuple", []byte{0xff}, "", "unpack the stored position: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newTestCapture(t, testTable('d'), modeAutomatic)
			c.b.state.Scanned = tc.scanned
			err := c.b.resume()
			if tc.wantErr == "" {
				if err != nil || describeKey(c.b.scan.scanned) != tc.at || (c.b.scan.scannedAt == nil) != (tc.scanned == nil) {
					t.Errorf("resumed at %s (%v), want %s", describeKey(c.b.scan.scanned), err, tc.at)
				}
			} else if err == nil || !strings.HasPrefix(err.Error(), tc.wantErr) || len(err.Error()) <= len(tc.wantErr) {
				t.Errorf("error %v, want %s…", err, tc.wantErr)
			}
		})
	}
}

// Which scan a resource gets, and the word under which the incumbent resumes it.
func TestScans(t *testing.T) {
	for _, tc := range []struct {
		name                       string
		key                        []string
		mode                       backfillMode
		filter                     string
		change                     func(*table)
		keyless, filters, immediat bool
		stored                     storedMode
		wantErr                    string
	}{
		{name: "automatic", key: []string{"id"}, filters: true, immediat: true, stored: storedBackfill},
		{name: "precise", key: []string{"id"}, mode: modePrecise, filters: true, immediat: true, stored: storedBackfill},
		{name: "normal", key: []string{"id"}, mode: modeNormal, immediat: true, stored: storedUnfiltered},
		{name: "filtered", key: []string{"id"}, filter: "id > 1", immediat: true, stored: storedUnfiltered},
		{name: "text key", key: []string{"v"}, filters: true, stored: storedUnfiltered},
		{name: "not the primary key", key: []string{"id", "v"}, filters: true, stored: storedUnfiltered},
		{name: "without a key", mode: modeKeyless, key: []string{"id"}, keyless: true, stored: storedKeyless},
		{name: "fallback key", keyless: true, stored: storedKeyless},
		{
			name: "key column gone", key: []string{"gone"},
			wantErr: `its key column "gone" is not among the columns captured from the table`,
		},
		{
			name: "key column not published", key: []string{"id"}, change: func(t *table) { t.publishedCols = []string{"v"} },
			wantErr: `its key column "id" is not among the columns captured from the table`,
		},
		{
			name: "unique index", key: []string{"id"}, filters: true, immediat: true, stored: storedBackfill,
			change: func(t *table) { t.primaryKey, t.uniqueKey = nil, []string{"id"} },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := testTable('d')
			if tc.change != nil {
				tc.change(table)
			}
			b := &binding{
				resource: resource{table: table.tableName, mode: tc.mode, filter: tc.filter}, collectionKey: tc.key,
				state: &bindingState{},
			}
			casts := map[uint32]comparison{pgtype.Int4OID: {cast: "integer"}, pgtype.TextOID: {cast: "text"}}
			err := b.prepare(table, newTypeCatalog(), &settings{}, casts)
			if errorText(err) != tc.wantErr {
				t.Fatalf("error %q, want %q", errorText(err), tc.wantErr)
			}
			if err != nil {
				return
			}
			if b.keyless() != tc.keyless || b.filters != tc.filters || b.immediate != tc.immediat || b.storedModeOf() != tc.stored {
				t.Errorf("keyless %v, filters %v, immediate %v, stored as %s", b.keyless(), b.filters, b.immediate, b.storedModeOf())
			}
		})
	}
}

func TestCTIDRange(t *testing.T) {
	leaf := leafCursor{Block: 3, Offset: 7, next: 9, Pages: 100}
	for version, want := range map[int]string{
		140000: "ctid > '(3,7)' AND ctid < '(9,0)'",
		180000: "ctid > '(3,7)' AND ctid < '(9,0)'",
		130000: "ctid = ANY (ARRAY(SELECT ('(' || b || ',' || o || ')')::tid FROM generate_series(3, 8) b, " +
			"generate_series(1, 1169) o WHERE (b, o) > (3, 7)))",
	} {
		if have := ctidRange(leaf, version); have != want {
			t.Errorf("version %d: %s, want %s", version, have, want)
		}
	}
}

// Both conditions select the same rows, each once, whatever the page boundaries.
func TestCTIDRangeAgainstServer(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(140000)
	name := quoteTable(db.createTable("ctids", "(n int, pad text)"))
	db.exec("ALTER TABLE " + name + " REPLICA IDENTITY FULL")
	db.exec("INSERT INTO " + name + " SELECT n, repeat('x', 500) FROM generate_series(1, 100) n")
	db.exec("DELETE FROM " + name + " WHERE n % 7 = 0")
	for _, version := range []int{130000, 140000} {
		var all []string
		for block := int64(0); block < 10; block += 3 {
			l := leafCursor{Block: block, next: block + 3}
			if block == 3 { // resumes inside a page
				for _, row := range db.query("SELECT n FROM " + name + " WHERE ctid > '(3,0)' AND ctid <= '(3,4)' ORDER BY ctid") {
					all = append(all, row[0])
				}
				l.Offset = 4
			}
			for _, row := range db.query("SELECT n FROM " + name + " WHERE " + ctidRange(l, version) + " ORDER BY ctid") {
				all = append(all, row[0])
			}
		}
		var want []string
		for _, row := range db.query("SELECT n FROM " + name + " ORDER BY n") {
			want = append(want, row[0])
		}
		if !slices.Equal(all, want) {
			t.Errorf("version %d: %d rows, want %d", version, len(all), len(want))
		}
	}
}

func TestBoundParams(t *testing.T) {
	have := boundParams([]keyTerm{{sql: "$1::int", null: true}, {sql: "$2::text"}, {sql: "$3::date", null: true}})
	if want := "$1::int IS NULL AND $3::date IS NULL AND "; have != want {
		t.Errorf("%q, want %q", have, want)
	}
}
