package main

// capture_markers_test.go holds the backfill markers against what readers of a collection make of them.
//
// Goal: with emit_backfill_markers the replayed collection equals the table, rows that vanished unseen included, each marker stands
// alone in its checkpoint, and each captured-anew table has one Begin and one Complete whatever dies in between. Method: a table loses
// rows where the stream does not show it; the documents and markers are looked at in their order and replayed as readers do.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"source-postgres/tests/history"

	pf "github.com/estuary/flow/go/protocols/flow"
)

// markerConfig is the endpoint config with markers on.
func (db *testDB) markerConfig(changes map[string]any) json.RawMessage {
	return edit(db.TB, edit(db.TB, db.config(), map[string]any{"advanced.feature_flags": "emit_backfill_markers"}), changes)
}

// markedStart starts a capture of tables by their key id.
func markedStart(db *testDB, o runtimeOptions, tables ...tableName) *testRuntime {
	db.Helper()
	if o.config == nil {
		o.config = db.markerConfig(nil)
	}
	r := newTestRuntime(db.TB, o)
	r.bind(keyedBindings(db.TB, 0, tables...))
	r.start()
	r.waitStreaming()
	return r
}

// keyedBindings bind tables by their key id, each with the backfill counter.
func keyedBindings(t testing.TB, counter uint32, tables ...tableName) []runtimeBinding {
	t.Helper()
	var bindings []runtimeBinding
	for _, name := range tables {
		resource, err := json.Marshal(map[string]string{"namespace": name.schema, "stream": name.name})
		if err != nil {
			t.Fatal(err)
		}
		bindings = append(bindings, runtimeBinding{
			resource: resource, collection: name.schema + "/" + name.name, key: []string{"/id"}, backfill: counter,
		})
	}
	return bindings
}

// stopped stops the session at a checkpoint.
func (r *testRuntime) stopped() {
	r.t.Helper()
	r.stop()
	if err := r.wait(); err != nil {
		r.t.Fatal(err)
	}
}

// over ends a session that may have been severed behind the last output that counts, such as by an idle checkpoint.
func (r *testRuntime) over() {
	r.t.Helper()
	r.stop()
	if err := r.wait(); err != nil && !errors.Is(err, errSevered) {
		r.t.Fatal(err)
	}
}

// pass waits until a row that is written to the table now has been committed.
func (r *testRuntime) pass(db *testDB, table tableName, id int) {
	r.t.Helper()
	db.exec(fmt.Sprintf("INSERT INTO %s (id) VALUES (%d)", quoteTable(table), id))
	want := fmt.Sprintf(`"id":%d`, id)
	r.waitFor("row "+want, func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool { return d.table == table.String() && strings.Contains(d.doc, want) })
	})
}

// told lists what is committed of tables since document from, a word each: the op and the id of a document, Begin or Complete. The table's
// name without its suffix goes ahead where there are several. A marker is checked to stand alone.
func (r *testRuntime) told(from int, tables ...tableName) string {
	r.t.Helper()
	documents := r.documents()
	var words []string
	for i, d := range documents[from:] {
		at := slices.IndexFunc(tables, func(t tableName) bool { return t.String() == d.table })
		word := strings.TrimPrefix(d.marker, "Backfill")
		if d.marker == "" {
			var doc struct {
				ID   int `json:"id"`
				Meta struct{ Op string }
			}
			raw := strings.Replace(d.doc, `"_meta"`, `"Meta"`, 1)
			if err := json.Unmarshal([]byte(raw), &doc); err != nil {
				r.t.Fatal(err)
			}
			word = doc.Meta.Op + fmt.Sprint(doc.ID)
		}
		for _, near := range [...]int{from + i - 1, from + i + 1} {
			if d.marker != "" && near >= 0 && near < len(documents) && documents[near].checkpoint == d.checkpoint {
				r.t.Errorf("%s of %s is not alone in checkpoint %d", d.marker, d.table, d.checkpoint)
			}
		}
		if at < 0 {
			continue
		}
		if len(tables) > 1 {
			base, _, _ := strings.Cut(tables[at].name, "_")
			word = base + "." + word
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// equals replays what is committed as readers do and compares the keys and values with the table.
func (r *testRuntime) equals(db *testDB, table tableName) {
	r.t.Helper()
	h := history.New(history.Table{Name: table.String(), Key: []string{"id"}, Lenient: true})
	for i, d := range r.documents() {
		if d.table != table.String() {
			continue
		}
		if err := historyTake(h, i+1, &d); err != nil {
			r.t.Fatal(err)
		}
	}
	var have []string
	if err := h.Rows(table.String(), func(row *history.Row, _ int) error {
		values, err := row.Values()
		have = append(have, fmt.Sprintf("%s %s", values["id"], values["v"]))
		return err
	}); err != nil {
		r.t.Fatal(err)
	}
	var want []string
	for _, row := range db.query("SELECT id::text || ' ' || coalesce(to_json(v)::text, 'null') FROM " + quoteTable(table)) {
		want = append(want, row[0])
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		r.t.Errorf("the collection has %q, the table %q\n%s", have, want, r.told(0, table))
	}
}

// TestMarkersCounter: rows vanish while the binding is away, and it is captured anew.
func TestMarkersCounter(t *testing.T) {
	for _, test := range []struct {
		codec  codec
		mode   string
		config map[string]any
		remain string // why there are no markers
	}{
		{codec: codecProto},
		{codec: codecJSON},
		{codec: codecJSON, mode: "Precise"},
		{mode: "Normal", remain: "in the mode Normal changes come ahead of their rows"},
		{config: map[string]any{"advanced.min_backfill_xid": "1000"}, remain: "advanced.min_backfill_xid leaves rows out"},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			db := newTestDB(t)
			table := db.createTable("t", "(id int PRIMARY KEY, v text)")
			other := db.createTable("other", "(id int PRIMARY KEY, v text)")
			db.grant(table, other)
			db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b'), (3, 'c')")
			bindings := func(counter uint32) []runtimeBinding {
				b := keyedBindings(t, counter, table)[0]
				if test.mode != "" {
					b.resource = edit(t, b.resource, map[string]any{"mode": test.mode})
				}
				return append(keyedBindings(t, 0, other), b)
			}
			r := newTestRuntime(t, runtimeOptions{
				config: db.markerConfig(edit2(map[string]any{"advanced.backfill_chunk_size": 1}, test.config)), codec: test.codec,
			})
			r.bind(bindings(0))
			r.start()
			r.waitStreaming()
			r.stopped()
			if said := r.told(0, table); said != "c1 c2 c3" {
				t.Fatalf("the first backfill said %s", said)
			}
			r.bind(keyedBindings(t, 0, other))
			r.start()
			r.waitStreaming()
			db.exec("DELETE FROM " + quoteTable(table) + " WHERE id = 2")
			r.pass(db, other, 1)
			r.stopped()
			before := len(r.documents())
			r.bind(bindings(1))
			r.start()
			r.waitStreaming()
			r.pass(db, table, 9)
			said := r.told(before, table)
			if test.remain != "" {
				if said != "c1 c3 c9" {
					t.Errorf("without markers, %s", said)
				}
				r.waitLog("without backfill markers, as " + test.remain)
				return
			}
			if said != "Begin c1 c3 Complete c9" {
				t.Errorf("said %s", said)
			}
			r.waitLog("is captured anew behind a backfill marker")
			r.equals(db, table)
			if !strings.Contains(string(r.committedState()), `"begun":false`) {
				t.Errorf("state %s", r.committedState())
			}
		})
	}
}

// edit2 is one set of changes with another on top.
func edit2(changes, more map[string]any) map[string]any {
	for path, value := range more {
		changes[path] = value
	}
	return changes
}

// TestMarkersSlotLoss: the slot is lost with changes in it, at a stop and amid the backfill that follows upon another loss.
func TestMarkersSlotLoss(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	db.grant(table)
	db.exec("INSERT INTO " + quoteTable(table) + " SELECT i, 'x' FROM generate_series(1, 6) i")
	var r *testRuntime
	rows := 0
	r = markedStart(db, runtimeOptions{
		config: db.markerConfig(map[string]any{"advanced.on_slot_loss": "backfill", "advanced.backfill_chunk_size": 1}),
		onDocument: func(r *testRuntime, _ string, _ []byte) {
			if rows++; rows == 9 { // three of the second backfill
				r.sever(true)
			}
		},
	}, table)
	r.stopped()
	lose := func(change string) {
		t.Helper()
		db.eventually("the slot to be free", func() bool {
			return db.queryValue("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "false"
		})
		db.exec(change)
		db.exec("SELECT pg_drop_replication_slot($1)", db.slot)
	}
	lose("DELETE FROM " + quoteTable(table) + " WHERE id IN (2, 6)")
	r.start()
	if err := r.wait(); err != errSevered {
		t.Fatal(err)
	}
	lose("DELETE FROM " + quoteTable(table) + " WHERE id = 1")
	r.start()
	r.waitStreaming()
	r.pass(db, table, 9)
	said := r.told(6, table)
	if !strings.HasPrefix(said, "Begin c1 c3") || !strings.HasSuffix(said, "Begin c3 c4 c5 Complete c9") {
		t.Errorf("said %s", said)
	}
	r.waitLog("Backfill markers have readers of the collection drop the documents of rows that vanished")
	r.equals(db, table)
}

// TestMarkersRecreated: a table is dropped and made anew with other rows.
func TestMarkersRecreated(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	db.grant(table)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b')")
	r := markedStart(db, runtimeOptions{codec: codecJSON}, table)
	db.script(strings.ReplaceAll(`BEGIN; DROP TABLE {}; CREATE TABLE {} (id int PRIMARY KEY, v text); INSERT INTO {} VALUES (2, 'new'), (3, 'c');
		COMMIT`, "{}", quoteTable(table)))
	db.grant(table)
	db.publish(table)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (4, 'd')")
	r.waitFor("the Complete", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool { return d.marker == "BackfillComplete" })
	})
	r.pass(db, table, 9)
	if said := r.told(2, table); !strings.HasPrefix(said, "Begin ") || !strings.Contains(said, " Complete") {
		t.Errorf("said %s", said)
	}
	r.equals(db, table)
}

// TestMarkersKilled kills the connector behind each output of a backfill with markers; each is repeated never, or harmlessly.
func TestMarkersKilled(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	empty := db.createTable("empty", "(id int PRIMARY KEY, v text)")
	db.grant(table, empty)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b')")
	db.exec("INSERT INTO " + quoteTable(empty) + " VALUES (1, 'a')")
	var left atomic.Int64 // outputs until the session is severed
	var commit atomic.Bool
	output := func(r *testRuntime) {
		if left.Add(-1) == 0 {
			r.sever(commit.Load())
		}
	}
	r := markedStart(db, runtimeOptions{
		config:       db.markerConfig(map[string]any{"advanced.backfill_chunk_size": 1}),
		onDocument:   func(r *testRuntime, _ string, _ []byte) { output(r) },
		onMarker:     func(r *testRuntime, _, _ string) { output(r) },
		onCheckpoint: func(r *testRuntime, _ json.RawMessage) { output(r) },
	}, table, empty)
	r.stopped()
	db.exec("DELETE FROM " + quoteTable(empty)) // in the stream, and so before what comes
	step := 3
	if *longTests {
		step = 1
	}
	for n := 1; ; n += step {
		counter := uint32(n)
		db.exec(fmt.Sprintf("UPDATE %s SET v = 'n %d' WHERE id = 1", quoteTable(table), n))
		before := len(r.documents())
		r.bind(keyedBindings(t, counter, table, empty))
		left.Store(int64(n))
		commit.Store(n%2 == 0)
		r.start()
		holds, ended, err := r.waitSome(waitLimit, func() bool {
			return isStreaming(r.status) && r.settled() && strings.Contains(string(r.state), `"begun":false`) && !strings.Contains(string(r.state), `"begun":true`)
		})
		if !holds && (!ended || err != errSevered) {
			t.Fatalf("output %d: %v %v", n, ended, err)
		}
		if ended {
			left.Store(0)
			r.start()
			r.waitFor("the end of the backfill", func() bool {
				return isStreaming(r.status) && r.settled() && !strings.Contains(string(r.state), `"begun":true`)
			})
		}
		r.over()
		for _, name := range []tableName{table, empty} {
			if said := r.told(before, name); strings.Count(said, "Begin") != 1 || strings.Count(said, "Complete") != 1 {
				t.Errorf("output %d: %s: %s", n, name, said)
			}
			r.equals(db, name)
		}
		if !ended {
			if n < 10 {
				t.Errorf("a session has %d outputs", n)
			}
			return
		}
	}
}

// TestMarkersOff: without the flag there are none, and the status says what they could have done.
func TestMarkersOff(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	db.grant(table)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b')")
	r := markedStart(db, runtimeOptions{config: edit(t, db.config(), map[string]any{"advanced.on_truncate": "backfill"})}, table)
	db.exec("TRUNCATE " + quoteTable(table))
	r.pass(db, table, 9)
	r.waitLog("Documents of rows that vanished stay in the collection (with the feature flag emit_backfill_markers its readers would drop them)")
	if said := r.told(2, table); strings.Contains(said, "Begin") {
		t.Errorf("said %s", said)
	}
}

// TestMarkersV1: where a marker ends the session it is refused, with the reason.
func TestMarkersV1(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	db.grant(table)
	const want = "advanced.feature_flags has emit_backfill_markers, but the task runs on the V1 runtime (its shards have the label " +
		"estuary.dev/flag/enable-runtime-v2=false)"
	r := newTestRuntime(t, runtimeOptions{config: db.markerConfig(nil), runtime: runtimeV1})
	r.bind(keyedBindings(t, 0, table))
	if err := r.tryStart(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("apply: %v", err)
	}
	if _, err := r.driver.validate(t.Context(), keyedBindings(t, 0, table), r.driver.labelled(r.capture)); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("validate: %v", err)
	}
	s, err := r.driver.open(context.Background(), r.driver.labelled(r.capture), json.RawMessage("{}"), r)
	if err == nil {
		err = s.run()
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("open: %v", err)
	}
	r.driver.runtime = runtimeV2
	r.start()
	r.waitStreaming()
}

// TestUnmarkedScans lists why a backfill has no markers.
func TestUnmarkedScans(t *testing.T) {
	for name, test := range map[string]struct {
		change func(c *capture, b *binding)
		want   string
	}{
		"none":   {func(*capture, *binding) {}, ""},
		"shared": {func(_ *capture, b *binding) { b.shares = "public.other" }, "its collection acme/t has documents of public.other too"},
		"changes": {
			func(_ *capture, b *binding) { b.resource.mode = modeOnlyChanges }, "the mode Only Changes reads no rows",
		},
		"skipped": {func(c *capture, _ *binding) { c.settings.skipAll = true }, "advanced.skip_backfills has no rows of it read"},
		"xid":     {func(c *capture, _ *binding) { c.settings.minBackfillXID = "7" }, "advanced.min_backfill_xid leaves rows out"},
		"reset":   {func(c *capture, _ *binding) { c.settings.flags.forceResetCursor = 1 }, "the feature flag force_reset_cursor leaves changes out"},
		"filter":  {func(_ *capture, b *binding) { b.resource.filter = "true" }, "advanced.additional_backfill_filter leaves rows out"},
		"rows": {
			func(_ *capture, b *binding) { b.table.rowFilter = "id > 0" },
			"the publication's row filter leaves rows out, of which the collection may have documents from before it",
		},
		"hidden": {func(_ *capture, b *binding) { b.table.sight = "p" }, "row-level security hides rows"},
		"normal": {
			func(_ *capture, b *binding) { b.resource.mode = modeNormal },
			"in the mode Normal changes come ahead of their rows, and may lack values that only older documents have",
		},
		"keyless": {
			func(_ *capture, b *binding) { b.resource.mode = modeKeyless },
			"without a key a row that moves while they are read may come as an update alone, which may lack values that only older documents have",
		},
	} {
		b := &binding{collection: "acme/t", collectionKey: []string{"id"}, table: &table{sight: sightAll}}
		c := &capture{settings: &settings{}}
		test.change(c, b)
		if got := c.unmarkedScan(b); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestNoteShared: bindings of one collection know of each other, and of those that are inactive.
func TestNoteShared(t *testing.T) {
	bindings := make([]*binding, 4)
	for i, collection := range []string{"acme/a", "acme/b", "acme/a", "acme/c"} {
		bindings[i] = &binding{collection: collection, resource: resource{table: tableName{"public", fmt.Sprint("t", i)}}}
	}
	noteShared(bindings, []*pf.CaptureSpec_Binding{{
		Collection: pf.CollectionSpec{Name: "acme/c"}, ResourcePath: []string{"public", "old"},
	}})
	for i, want := range []string{"public.t2", "", "public.t0", "public.old"} {
		if got := bindings[i].shares; got != want {
			t.Errorf("binding %d shares with %q, want %q", i, got, want)
		}
	}
}

// TestOutputMarkers reads markers back in both codecs.
func TestOutputMarkers(t *testing.T) {
	for _, c := range []codec{codecProto, codecJSON} {
		for _, binding := range []uint32{0, 300} {
			var written strings.Builder
			out := newOutput(&written, c)
			for _, kind := range []markerKind{markerBegin, markerComplete} {
				if err := out.marker(binding, kind); err != nil {
					t.Fatal(err)
				}
				if err := out.checkpoint([]byte(`{}`)); err != nil {
					t.Fatal(err)
				}
			}
			if !out.settled() {
				t.Error("not settled")
			}
			responses := decodeResponses(t, c, []byte(written.String()))
			if len(responses) != 4 || responses[0].BackfillBegin == nil || responses[0].BackfillBegin.Binding != binding ||
				responses[1].Checkpoint == nil || responses[2].BackfillComplete == nil || responses[2].BackfillComplete.Binding != binding {
				t.Errorf("codec %d: %v", c, responses)
			}
		}
	}
}

// TestMarkersTruncate: a TRUNCATE is marked at its place in the stream, whatever stands around it in its transaction.
func TestMarkersTruncate(t *testing.T) {
	for name, test := range map[string]struct {
		sql    string // %t and %o are the tables
		config map[string]any
		mode   string
		want   string // of what comes after the rows t.1, t.2 and o.1
		log    string
	}{
		"between": {
			sql:  "INSERT INTO %t VALUES (3, 'x'); TRUNCATE %t; INSERT INTO %t VALUES (1, 'y')",
			want: "t.c3 t.Begin t.Complete t.c1",
			log:  "was truncated: backfill markers have readers of its collection drop the documents of its rows",
		},
		"empty table":    {sql: "TRUNCATE %t; TRUNCATE %t", want: "t.Begin t.Complete t.Begin t.Complete"},
		"in its midst":   {sql: "BEGIN; INSERT INTO %t VALUES (3, 'x'); TRUNCATE %t; INSERT INTO %t VALUES (4, 'y'); COMMIT", want: "t.c3 t.Begin t.Complete t.c4"},
		"at its end":     {sql: "BEGIN; DELETE FROM %t WHERE id = 1; TRUNCATE %t; COMMIT", want: "t.d1 t.Begin t.Complete"},
		"rolled back":    {sql: "BEGIN; INSERT INTO %t VALUES (3, 'x'); SAVEPOINT s; TRUNCATE %t; ROLLBACK TO s; INSERT INTO %t VALUES (4, 'y'); COMMIT", want: "t.c3 t.c4"},
		"several tables": {sql: "TRUNCATE %t, %o", want: "t.Begin t.Complete o.Begin o.Complete"},
		"twice, among others": {
			sql: `BEGIN; INSERT INTO %o VALUES (2); INSERT INTO %t VALUES (3, 'x'); TRUNCATE %t; INSERT INTO %o VALUES (3); INSERT INTO %t VALUES (3, 'y');
				UPDATE %t SET v = 'z'; TRUNCATE %t; INSERT INTO %t VALUES (5, 'x'); INSERT INTO %o VALUES (4); COMMIT; DELETE FROM %t`,
			want: "o.c2 t.c3 t.Begin t.Complete o.c3 t.c3 t.u3 t.Begin t.Complete t.c5 o.c4 t.d5",
		},
		"Normal":       {sql: "INSERT INTO %t VALUES (3, 'x'); TRUNCATE %t; INSERT INTO %t VALUES (1, 'y')", mode: "Normal", want: "t.c3 t.Begin t.Complete t.c1"},
		"Only Changes": {sql: "TRUNCATE %t; INSERT INTO %t VALUES (1, 'y')", mode: "Only Changes", want: "t.Begin t.Complete t.c1"},
		"ignored": {
			sql: "TRUNCATE %t; INSERT INTO %t VALUES (1, 'y')", config: map[string]any{"advanced.on_truncate": "ignore"}, want: "t.c1",
			log: `Reset the collection to remove them, or set advanced.on_truncate to "mark" or "backfill".`,
		},
		"backfilled": {
			sql: "TRUNCATE %t", config: map[string]any{"advanced.on_truncate": "backfill"}, want: "t.Begin t.Complete",
			log: "was truncated: it is backfilled again. Backfill markers have",
		},
		"no flag": {
			sql: "TRUNCATE %t; INSERT INTO %t VALUES (1, 'y')", config: map[string]any{"advanced.feature_flags": ""}, want: "t.c1",
			log: "Reset the collection to remove them, or set advanced.on_truncate to \"backfill\" or, with the feature flag emit_backfill_markers, to \"mark\".",
		},
	} {
		for _, codec := range []codec{codecProto, codecJSON} {
			t.Run(fmt.Sprint(name, codec), func(t *testing.T) {
				db := newTestDB(t)
				table := db.createTable("t", "(id int PRIMARY KEY, v text)")
				other := db.createTable("o", "(id int PRIMARY KEY, v text)")
				end := db.createTable("end", "(id int PRIMARY KEY, v text)")
				db.grant(table, other, end)
				if test.mode != "Only Changes" {
					db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b')")
				}
				db.exec("INSERT INTO " + quoteTable(other) + " VALUES (1, 'a')")
				bindings := keyedBindings(t, 0, table, other, end)
				if test.mode != "" {
					bindings[0].resource = edit(t, bindings[0].resource, map[string]any{"mode": test.mode})
				}
				r := newTestRuntime(t, runtimeOptions{config: db.markerConfig(test.config), codec: codec})
				r.bind(bindings)
				r.start()
				r.waitStreaming()
				before := len(r.documents())
				names := strings.NewReplacer("%t", quoteTable(table), "%o", quoteTable(other))
				for _, sql := range strings.Split(names.Replace(test.sql), ";") {
					db.exec(sql)
				}
				if strings.Contains(test.want, "Complete") {
					r.waitFor("a Complete", func() bool {
						return slices.ContainsFunc(r.committed, func(d testDocument) bool { return d.marker == "BackfillComplete" })
					})
				}
				r.pass(db, end, 1)
				if said := r.told(before, table, other); said != test.want {
					t.Errorf("said %s, want %s", said, test.want)
				}
				if test.log != "" {
					r.waitLog(test.log)
				}
				if strings.Contains(test.want, "Begin") {
					r.equals(db, table)
					r.equals(db, other)
				}
			})
		}
	}
}

// TestMarkersTruncatePartitions: a TRUNCATE of the root is the table's, one of a partition says nothing in the stream.
func TestMarkersTruncatePartitions(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text) PARTITION BY LIST (id)")
	one, two := db.table("one"), db.table("two")
	for i, part := range []tableName{one, two} {
		db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES IN (%d, %d)", quoteTable(part), quoteTable(table), 1+i, 11+i))
	}
	end := db.createTable("end", "(id int PRIMARY KEY, v text)")
	db.grant(table, end)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b')")
	r := markedStart(db, runtimeOptions{}, table, end)
	db.script(strings.ReplaceAll("BEGIN; INSERT INTO {} VALUES (11, 'c'); TRUNCATE {}; INSERT INTO {} VALUES (2, 'd'); COMMIT", "{}", quoteTable(table)))
	r.pass(db, end, 1)
	if said := r.told(2, table); said != "c11 Begin Complete c2" {
		t.Errorf("said %s", said)
	}
	r.equals(db, table)
	db.exec("TRUNCATE " + quoteTable(two))
	r.pass(db, end, 2)
	if said := r.told(2, table); said != "c11 Begin Complete c2" {
		t.Errorf("behind the TRUNCATE of a partition: %s", said)
	}
}

// TestMarkersShared: a collection of two tables is not marked, and a status says why.
func TestMarkersShared(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	other := db.createTable("o", "(id int PRIMARY KEY, v text)")
	db.grant(table, other)
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a')")
	bindings := keyedBindings(t, 0, table, other)
	bindings[1].collection = bindings[0].collection
	for i, indirect := range []bool{false, true} {
		r := newTestRuntime(t, runtimeOptions{config: db.markerConfig(nil), indirect: indirect})
		r.bind(bindings)
		r.start()
		r.waitStreaming()
		before := len(r.documents())
		db.exec("TRUNCATE " + quoteTable(table))
		id := 7 + i // the first session's is among the second one's rows
		r.pass(db, table, id)
		if said := r.told(before, table); said != fmt.Sprint("c", id) {
			t.Errorf("said %s", said)
		}
		r.waitLog("No backfill markers are sent for it, as its collection test/" + bindings[0].collection + " has documents of " + other.String() + " too")
		r.stopped()
		db.dropSlot()
	}
}

// TestMarkersTruncateKilled kills the connector behind each output of transactions with TRUNCATEs: nothing comes twice, and nothing is missed.
func TestMarkersTruncateKilled(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("t", "(id int PRIMARY KEY, v text)")
	other := db.createTable("o", "(id int PRIMARY KEY, v text)")
	db.grant(table, other)
	var left atomic.Int64 // outputs until the session is severed
	var commit atomic.Bool
	output := func(r *testRuntime) {
		if left.Add(-1) == 0 {
			r.sever(commit.Load())
		}
	}
	r := markedStart(db, runtimeOptions{
		config:       db.markerConfig(nil),
		onDocument:   func(r *testRuntime, _ string, _ []byte) { output(r) },
		onMarker:     func(r *testRuntime, _, _ string) { output(r) },
		onCheckpoint: func(r *testRuntime, _ json.RawMessage) { output(r) },
	}, table, other)
	r.stopped()
	const script = `BEGIN; INSERT INTO %o VALUES (2); INSERT INTO %t VALUES (3, 'x'); TRUNCATE %t; INSERT INTO %o VALUES (3); INSERT INTO %t VALUES (3, 'y');
		UPDATE %t SET v = 'z'; TRUNCATE %t, %o; INSERT INTO %t VALUES (5, 'x'); INSERT INTO %o VALUES (4); COMMIT; DELETE FROM %t; TRUNCATE %o`
	const want = "o.c2 t.c3 t.Begin t.Complete o.c3 t.c3 t.u3 t.Begin t.Complete o.Begin o.Complete t.c5 o.c4 t.d5 o.Begin o.Complete"
	step := 3
	if *longTests {
		step = 1
	}
	for n := 1; ; n += step {
		before := len(r.documents())
		for _, sql := range strings.Split(strings.NewReplacer("%t", quoteTable(table), "%o", quoteTable(other)).Replace(script), ";") {
			db.exec(sql)
		}
		done := func() bool {
			return len(r.committed)-before >= strings.Count(want, " ")+1 && r.committed[len(r.committed)-1].marker == "BackfillComplete"
		}
		left.Store(int64(n))
		commit.Store(n%2 == 0)
		r.start()
		_, ended, err := r.waitSome(waitLimit, done)
		if ended {
			if err != errSevered {
				t.Fatalf("output %d: %v", n, err)
			}
			left.Store(0)
			r.start()
			r.waitFor("the rest", done)
		}
		r.over()
		if said := r.told(before, table, other); said != want {
			t.Errorf("output %d: said %s, want %s", n, said, want)
		}
		r.equals(db, table)
		r.equals(db, other)
		if !ended {
			if n < 25 {
				t.Errorf("a session has %d outputs", n)
			}
			return
		}
	}
}

// TestMarkersVoid: a backfill that a marker began ends without one where it does not read every row any more, or not by us, and a status says
// so; taken up unchanged it has its Complete.
func TestMarkersVoid(t *testing.T) {
	for name, test := range map[string]struct {
		config map[string]any
		state  func(state string) string
		log    string
		want   string
	}{
		"unchanged": {want: "Begin c1 c2 c3 Complete"},
		"skipped": {
			config: map[string]any{"advanced.skip_backfills": "*.*"}, want: "Begin c1",
			log: "ends without one, as advanced.skip_backfills has no rows of it read: documents of rows that vanished stay in the collection. Readers " +
				"that read it from its start drop what came before that marker, and so lack rows that are not read again",
		},
		"partial": {
			config: map[string]any{"advanced.min_backfill_xid": "100"}, want: "Begin c1 c2 c3",
			log: "ends without one, as advanced.min_backfill_xid leaves rows out",
		},
		"no flag": {
			config: map[string]any{"advanced.feature_flags": ""}, want: "Begin c1 c2 c3",
			log: "ends without one, as the feature flag emit_backfill_markers was taken out: documents of rows that vanished stay in the collection.",
		},
		"another image": {
			state: func(state string) string { return strings.Replace(state, `"backfilled":1`, `"backfilled":2`, 1) }, want: "Begin c1 c2 c3",
			log: "ends without one, as another connector went on with it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := newTestDB(t)
			table := db.createTable("t", "(id int PRIMARY KEY, v text)")
			db.grant(table)
			db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'a'), (2, 'b'), (3, 'c')")
			checkpoints := map[string]any{"advanced.backfill_chunk_size": 1}
			documents, begun := 0, false
			r := markedStart(db, runtimeOptions{
				config:     db.markerConfig(checkpoints),
				onMarker:   func(*testRuntime, string, string) { begun = true },
				onDocument: func(*testRuntime, string, []byte) { documents++ },
				onCheckpoint: func(r *testRuntime, _ json.RawMessage) {
					if begun && documents == 4 {
						documents++
						r.sever(true)
					}
				},
			}, table)
			r.stopped()
			r.bind(keyedBindings(t, 1, table))
			r.start()
			if err := r.wait(); err != errSevered {
				t.Fatal(err)
			}
			if test.state != nil {
				r.state = json.RawMessage(test.state(string(r.state)))
			}
			r.reconfigure(edit(t, db.markerConfig(checkpoints), test.config))
			r.start()
			r.waitStreaming()
			r.pass(db, table, 9)
			if said := r.told(3, table); said != test.want+" c9" {
				t.Errorf("said %s, want %s", said, test.want)
			}
			if test.log != "" {
				r.waitLog(test.log)
			}
			if strings.Contains(string(r.committedState()), `"begun":true`) {
				t.Errorf("state %s", r.committedState())
			}
		})
	}
}
