package main

import (
	"slices"
	"strings"
	"testing"
)

// Goal: DESIGN I5 from the first message on. When one binding of several is backfilled again, the stream goes on from the
// cursor; a row that vanished since, before the new backfill begins, leaves no document behind. Method: a delete and a key
// move while the capture is stopped, then a start with a higher backfill counter of their table alone.
func TestRebackfillPendingDeletes(t *testing.T) {
	db := newTestDB(t)
	again := db.createTable("again", "(id int PRIMARY KEY, v text)")
	other := db.createTable("other", "(id int PRIMARY KEY, v text)")
	db.grant(again, other)
	db.exec("INSERT INTO " + quoteTable(again) + " VALUES (1, 'kept'), (2, 'deleted'), (3, 'moved')")
	r := newTestRuntime(t, runtimeOptions{config: db.config()})
	discovered, err := r.driver.discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{tables: again.String() + "," + other.String()})
	if err != nil {
		t.Fatal(err)
	}
	r.bind(bindings)
	r.start()
	r.waitStreaming()
	r.waitDocuments(3)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}

	db.exec("DELETE FROM " + quoteTable(again) + " WHERE id = 2")
	db.exec("UPDATE " + quoteTable(again) + " SET id = 4 WHERE id = 3")
	db.exec("UPDATE " + quoteTable(again) + " SET v = 'kept, changed' WHERE id = 1")
	bindings[0].backfill = 1
	r.bind(bindings)
	r.start()
	r.waitStreaming()
	db.exec("INSERT INTO " + quoteTable(other) + " VALUES (9, 'end')")
	r.waitFor("the end", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool { return d.table == other.String() })
	})
	var got []string
	for _, d := range r.documents()[3:] {
		_, row, _ := strings.Cut(d.doc, "}},")
		got = append(got, d.doc[len(`{"_meta":{"op":"`):][:1]+" {"+row)
	}
	want := []string{
		`d {"id":2}`, `d {"id":3}`, `c {"id":1,"v":"kept, changed"}`, `c {"id":4,"v":"moved"}`, `c {"id":9,"v":"end"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("have %q, want %q", got, want)
	}
}
