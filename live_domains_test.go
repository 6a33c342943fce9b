package main

import (
	"slices"
	"strings"
	"testing"
)

// Goal: columns whose types are domains are captured like any other. A query's result shows a domain as its base type
// (printtup.c, SendRowDescriptionMessage), the catalog and the stream as itself. Method: a backfill, and a key move whose
// unchanged TOAST value only the table has.
func TestCaptureDomains(t *testing.T) {
	db := newTestDB(t)
	schema := db.createSchema("domains")
	db.script("CREATE DOMAIN " + quoteIdent(schema) + ".posint AS int CHECK (VALUE > 0); CREATE DOMAIN " + quoteIdent(schema) +
		".ints AS int[]; CREATE DOMAIN " + quoteIdent(schema) + ".posint2 AS " + quoteIdent(schema) + ".posint")
	of := func(name string) string { return quoteIdent(schema) + "." + name }
	name := db.createTable("domains", "(id "+of("posint2")+" PRIMARY KEY, l "+of("ints")+", wide text)")
	db.grant(name)
	db.exec("ALTER TABLE " + quoteTable(name) + " ALTER wide SET STORAGE EXTERNAL")
	db.exec("INSERT INTO " + quoteTable(name) + " VALUES (1, '{1,2}', repeat('w', 10000))")

	r := startRuntime(t, runtimeOptions{config: db.config(), tables: name.String()})
	r.waitStreaming()
	r.waitDocuments(1)
	db.exec("UPDATE " + quoteTable(name) + " SET id = 2")
	r.waitDocuments(3)
	var got []string
	for _, d := range r.documents() {
		_, rest, _ := strings.Cut(d.doc, `}},`)
		got = append(got, strings.ReplaceAll(rest, strings.Repeat("w", 10000), "W"))
	}
	if want := []string{`"id":1,"l":[1,2],"wide":"W"}`, `"id":1}`, `"id":2,"l":[1,2],"wide":"W"}`}; !slices.Equal(got, want) {
		t.Errorf("have %q, want %q", got, want)
	}
}
