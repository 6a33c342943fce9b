package main

// charset_test.go captures databases of other encodings than UTF-8.
//
// Goal: what is text comes out as the server would convert it, what is not comes out as U+FFFD, and is lost nowhere and never
// the end of a capture: in values, in keys and in names, from the backfill as from the stream.

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// Names that are no text are left out with the reason, whatever they would be spelled like otherwise.
func TestNamesWithoutText(t *testing.T) {
	for encoding, bad := range map[string]string{"SQL_ASCII": "\xe9", "WIN1251": "\x98"} {
		t.Run(encoding, func(t *testing.T) {
			db := goldenDatabase(t, encoding)
			db.script("SET client_encoding = 'SQL_ASCII'")
			db.script(strings.ReplaceAll(`CREATE SCHEMA bad; CREATE SCHEMA "bad?"; GRANT USAGE ON SCHEMA bad TO flow_capture;
CREATE TABLE bad."caf?" (id int PRIMARY KEY);
CREATE TABLE "bad?".t (id int PRIMARY KEY);
CREATE TABLE bad.columns (id int PRIMARY KEY, "x?" text, "x??" text, y text);
CREATE TABLE bad.keyed ("k?" int PRIMARY KEY, a text);
CREATE TABLE bad.parent (id int, a text, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE bad."leaf?" PARTITION OF bad.parent DEFAULT;
INSERT INTO bad.columns VALUES (1, 'lost', 'lost', 'kept'); INSERT INTO bad.keyed VALUES (1, 'a'); INSERT INTO bad.parent VALUES (1, 'a');
GRANT SELECT ON ALL TABLES IN SCHEMA bad TO flow_capture`, "?", bad))
			db.script(strings.ReplaceAll(`ALTER PUBLICATION `+quoteIdent(db.publication)+
				` ADD TABLE bad."caf?", "bad?".t, bad.columns, bad.keyed, bad.parent`, "?", bad))
			r := startRuntime(t, runtimeOptions{config: db.config()})
			r.waitStreaming()
			db.script(`INSERT INTO bad.columns VALUES (2, 'lost', 'lost', 'kept'); INSERT INTO bad.keyed VALUES (2, 'a');
UPDATE bad.columns SET y = 'changed' WHERE id = 1; INSERT INTO bad.parent VALUES (2, 'a')`)
			r.waitDocuments(7)
			got := map[string][]string{}
			for _, d := range r.documents() {
				var doc map[string]any
				if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
					t.Fatal(err)
				}
				delete(doc, "_meta")
				text, _ := json.Marshal(doc)
				got[d.table] = append(got[d.table], string(text))
			}
			want := map[string][]string{
				"bad.columns": {`{"id":1,"y":"kept"}`, `{"id":2,"y":"kept"}`, `{"id":1,"y":"changed"}`},
				"bad.keyed":   {`{"a":"a"}`, `{"a":"a"}`},
				"bad.parent":  {`{"a":"a","id":1}`, `{"a":"a","id":2}`},
			}
			delete(got, db.watermarks.String())
			for table, docs := range want {
				if !slices.Equal(got[table], docs) {
					t.Errorf("%s: %q, want %q", table, got[table], docs)
				}
			}
			if len(got) != len(want) {
				t.Errorf("captured are %v", got)
			}
			for _, said := range []string{
				"2 table whose name is no text in the database's encoding (rename it to capture it) (\"bad.caf",
				"column \"x",
				"of bad.columns is left out: its name is no text in the database's encoding. Rename it to capture it",
				"of bad.keyed is left out: its name is no text",
			} {
				if !strings.Contains(r.stderr(), said) {
					t.Errorf("nothing said of %s", said)
				}
			}
		})
	}
}
