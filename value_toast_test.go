package main

// value_toast_test.go is the oracle of values kept out of line: the server leaves those that a change did not touch out of the
// stream, so that a value is lost for ever where a chunk, a key move or a moved tuple does not have it.
//
// Goal: no value of the TOAST columns is lost, stale or null, by a scan by key and one by ctid, with and without full old
// rows. Method: tables half full, whose updates cannot stay on their page, are backfilled while rows are updated in orders
// that move tuples to pages already scanned, VACUUM making room there; the writes come between the backfill's documents. In
// the end what the documents leave must equal the tables, TOAST columns by digest.

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// toastTable is a table with TOAST columns big (50 kB), wide (3 kB) and raw (bytea), none of which is ever NULL.
type toastTable struct {
	tableName
	key     []string
	mode    backfillMode
	full    bool
	filter  string // of the publication
	moves   bool   // keys move
	partial bool   // documents of changes may lack what did not change
}

const toastColumns = `n int NOT NULL DEFAULT 1, big text NOT NULL, wide text NOT NULL, raw bytea NOT NULL`

// toastValues are expressions for the TOAST columns of row i.
const toastValues = `repeat(md5(random()::text), 1600), repeat(md5(random()::text), 100), decode(repeat(md5(random()::text), 100), 'hex')`

// toastLongKey is a key of 2,300 bytes that do not compress, of which an index row has room for 2,704 at most.
const toastLongKey = `i || '-' || (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 71) j)`

// toastRun is one run.
type toastRun struct {
	*testing.T
	db     *testDB
	random *rand.Rand
	tables []*toastTable
	conn   *pgx.Conn

	mu     sync.Mutex // the script and its connection
	script []string
}

// create makes a table of n rows.
func (r *toastRun) create(t *toastTable, base, key, constraint string, n int) {
	r.Helper()
	t.tableName = r.db.table(base)
	name := quoteTable(t.tableName)
	r.db.exec(fmt.Sprintf("CREATE TABLE %s (id %s, %s%s) WITH (fillfactor = 50, autovacuum_enabled = off)", name, key, toastColumns, constraint))
	r.db.script(strings.ReplaceAll(`ALTER TABLE {} ALTER big SET STORAGE EXTERNAL, ALTER wide SET STORAGE EXTERNAL, ALTER raw SET STORAGE
		EXTERNAL, ALTER id SET STORAGE `+map[bool]string{true: "EXTERNAL", false: "PLAIN"}[key == "text"]+"; CREATE INDEX ON {} (n)", "{}", name))
	id := "i"
	if key == "text" {
		id = toastLongKey
	}
	r.db.exec(fmt.Sprintf("INSERT INTO %s (id, big, wide, raw) SELECT %s, %s FROM generate_series(1, %d) i", name, id, toastValues, n))
	if t.full {
		r.db.exec("ALTER TABLE " + name + " REPLICA IDENTITY FULL")
	}
	r.db.grant(t.tableName)
	if t.filter == "" {
		r.db.publish(t.tableName)
	} else {
		r.db.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s WHERE (%s)", quoteIdent(r.db.publication), name, t.filter))
	}
	for _, order := range []string{"DESC", "ASC", "random"} {
		var ids []string
		for i := range n {
			ids = append(ids, fmt.Sprint(i+1))
		}
		switch order {
		case "DESC":
			slices.Reverse(ids)
		case "random":
			r.random.Shuffle(n, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		}
		for some := range slices.Chunk(ids, 1+r.random.IntN(6)) {
			where := "id = ANY ('{" + strings.Join(some, ",") + "}')"
			if key == "text" {
				where = "split_part(id, '-', 1) = ANY ('{" + strings.Join(some, ",") + "}')"
			}
			r.script = append(r.script, r.statement(t, where, some[0], key == "text"))
		}
		r.script = append(r.script, "VACUUM "+name)
	}
}

// statement is a change of some rows; most leave the TOAST columns alone.
func (r *toastRun) statement(t *toastTable, where, id string, long bool) string {
	name := quoteTable(t.tableName)
	update := "UPDATE " + name + " SET n = n + 1 WHERE " + where
	one, moved := "id = "+id, fmt.Sprintf("id = %d + (SELECT max(id) FROM %s)", 1+r.random.IntN(3), name)
	if r.random.IntN(2) == 0 {
		moved = fmt.Sprintf("id = (SELECT min(id) FROM %s) - 1", name)
	}
	if long {
		one, moved = "split_part(id, '-', 1) = '"+id+"'", fmt.Sprintf("id = id || '%d'", r.random.IntN(10))
	}
	switch k := r.random.IntN(20); {
	case k < 3 && t.moves:
		return update + "; UPDATE " + name + " SET " + moved + " WHERE " + one + "; " + update
	case k < 4 && t.moves: // within one transaction, and on
		return "BEGIN; UPDATE " + name + " SET " + moved + ", n = n + 2 WHERE " + one + "; UPDATE " + name + " SET n = n + 1; COMMIT"
	case k < 6:
		return "UPDATE " + name + " SET wide = wide || 'x', n = n + 1 WHERE " + where
	case k < 7:
		return "DELETE FROM " + name + " WHERE " + one
	case k < 8 && !long:
		return fmt.Sprintf("INSERT INTO %s (id, big, wide, raw) SELECT max(id) + 1, %s FROM %[1]s", name, toastValues)
	case k < 9:
		return "UPDATE " + name + " SET raw = raw || '\\x00' WHERE " + one + "; " + update
	}
	return update
}

// write runs the next statement of the script and returns how many are left.
func (r *toastRun) write() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.script) == 0 {
		return 0
	}
	for statement := range strings.SplitSeq(r.script[0], "; ") {
		if _, err := r.conn.PgConn().Exec(context.Background(), statement).ReadAll(); err != nil && !refused(err) {
			r.Errorf("%s: %v", statement, err)
		}
	}
	r.script = r.script[1:]
	return len(r.script)
}

// TestTOASTOracle judges the TOAST columns of tables that are backfilled while their tuples move.
func TestTOASTOracle(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	for i, chunk := range []int{3, 40} {
		t.Run(fmt.Sprintf("chunk %d", chunk), func(t *testing.T) {
			t.Parallel()
			seeds(t, 1, func(t *testing.T, seed uint64) { toastOracle(t, seed, chunk, codec(i)) })
		})
	}
}

func toastOracle(t *testing.T, seed uint64, chunk int, wire codec) {
	r := &toastRun{T: t, db: newTestDB(t), random: rand.New(rand.NewPCG(seed, uint64(chunk)))}
	add := func(table *toastTable, base, key, constraint string, n int) {
		r.create(table, base, key, constraint, n)
		r.tables = append(r.tables, table)
	}
	id := []string{"id"}
	add(&toastTable{key: id, moves: true, partial: true}, "keyed", "int", ", PRIMARY KEY (id)", 60)
	add(&toastTable{key: id, moves: true, full: true}, "full", "int", ", PRIMARY KEY (id)", 40)
	add(&toastTable{key: id, moves: true, partial: true, mode: modeNormal}, "normal", "int", ", PRIMARY KEY (id)", 40)
	add(&toastTable{key: id, moves: true, mode: modeKeyless, partial: true}, "bypage", "int", ", PRIMARY KEY (id)", 60)
	add(&toastTable{mode: modeKeyless, full: true}, "keyless", "int", "", 60)
	add(&toastTable{key: id, moves: true, partial: true}, "long", "text", ", PRIMARY KEY (id)", 40)
	if r.db.version() >= 150000 {
		add(&toastTable{key: []string{"id", "n"}, filter: "n % 2 = 1", partial: true}, "filtered", "int", ", PRIMARY KEY (id, n)", 40)
	} else {
		t.Log("the server has no row filters: no update becomes an insertion")
	}
	r.random.Shuffle(len(r.script), func(i, j int) { r.script[i], r.script[j] = r.script[j], r.script[i] })
	end := r.db.createTable("end", "(id int PRIMARY KEY, v text)")

	r.conn = testConnect(t, *testControlUser, *testControlPassword)
	runtime := newTestRuntime(t, runtimeOptions{
		config: r.db.edgeConfig(map[string]any{"backfill_chunk_size": chunk}), codec: wire, logLevel: "info",
		onDocument: func(_ *testRuntime, _ string, doc []byte) {
			if strings.Contains(string(doc), `"snapshot":true`) {
				r.write()
			}
		},
	})
	bindings := []runtimeBinding{{
		resource:   fmt.Appendf(nil, `{"namespace":%q,"stream":%q}`, end.schema, end.name),
		collection: end.schema + "/" + end.name, key: []string{"/id"},
	}}
	for _, table := range r.tables {
		b := runtimeBinding{
			resource:   fmt.Appendf(nil, `{"namespace":%q,"stream":%q,"mode":%q}`, table.schema, table.name, table.mode),
			collection: table.schema + "/" + table.name, key: fallbackKey,
		}
		if table.key != nil {
			b.key = nil
			for _, column := range table.key {
				b.key = append(b.key, "/"+column)
			}
		}
		bindings = append(bindings, b)
	}
	runtime.bind(bindings)
	runtime.start()
	runtime.waitStreaming()
	during := r.write()
	if r.random.IntN(2) == 0 { // half of the rest is a backlog
		runtime.stop()
		err := runtime.wait() // a stop between checkpoints is told, and what lies behind the last one comes again
		if exit, ok := errors.AsType[*connectorExit](err); err != nil && (!ok || !strings.HasPrefix(exit.message, errStdinClosed.Error())) {
			t.Fatal(err)
		}
		for r.write() > during/2 {
		}
		runtime.start()
	}
	for r.write() > 0 {
	}
	runtime.waitEnd(r.db, end)
	runtime.judgeSourced()
	for _, table := range r.tables {
		r.judge(runtime, table)
	}
	t.Logf("%d documents; %d statements came behind the backfill", len(runtime.documents()), during)
}

// digest is a document's value in short, a TOAST value by its digest; "" for a NULL or absent one.
func (r *toastRun) digest(doc map[string]json.RawMessage, column string) string {
	r.Helper()
	var text string
	raw := doc[column]
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	if raw[0] != '"' {
		return string(raw)
	}
	if err := json.Unmarshal(raw, &text); err != nil {
		r.Fatal(err)
	}
	if column == "raw" {
		bytes, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			r.Fatal(err)
		}
		text = string(bytes)
	}
	return fmt.Sprintf("%x", md5.Sum([]byte(text)))
}

var toastDigested = []string{"id", "n", "big", "wide", "raw"}

// judge compares what a table's documents leave with the table.
func (r *toastRun) judge(runtime *testRuntime, table *toastTable) {
	r.Helper()
	rows := make(map[string]map[string]string)
	for i, d := range runtime.documents() {
		if d.table != table.String() {
			continue
		}
		var doc map[string]json.RawMessage
		var meta struct {
			Before map[string]json.RawMessage `json:"before"`
		}
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			r.Fatal(err)
		}
		if err := json.Unmarshal(doc[metaColumn], &meta); err != nil {
			r.Fatal(err)
		}
		source := sourceOf(r, d.doc)
		row := make(map[string]string)
		for _, column := range toastDigested {
			_, told := doc[column]
			row[column] = r.digest(doc, column)
			// Where a key has moved on since, its row cannot be read again, and its delete follows: also of one that a chunk holds.
			whole := source.op != "d" && !table.partial || source.op == "d" && table.full
			if row[column] == "" && (told && source.op != "d" || whole) {
				r.Errorf("%s: document %d has no value of %s: %s", table, i, column, abridged(d.doc))
				return
			}
			if table.full && meta.Before != nil && r.digest(meta.Before, column) == "" {
				r.Errorf("%s: document %d has no old value of %s: %s", table, i, column, abridged(d.doc))
				return
			}
		}
		key := fmt.Sprint(i)
		if table.key != nil {
			key = ""
			for _, column := range table.key {
				key += row[column] + " "
			}
		}
		switch before := rows[key]; {
		case source.op == "d":
			delete(rows, key)
		case before != nil && source.op == "u":
			maps.DeleteFunc(row, func(_, value string) bool { return value == "" })
			maps.Copy(before, row)
		default:
			rows[key] = row
		}
	}
	left := make(map[string]bool)
	for _, row := range rows {
		var values []string
		for _, column := range toastDigested {
			values = append(values, row[column])
		}
		left[strings.Join(values, " ")] = true
	}
	where := ""
	if table.filter != "" {
		where = " WHERE " + table.filter
	}
	var wrong []string
	n := 0
	for _, row := range r.db.query("SELECT CASE WHEN pg_typeof(id) = 'text'::regtype THEN md5(id::text) ELSE id::text END, n::text, " +
		"md5(big), md5(wide), md5(raw) FROM " + quoteTable(table.tableName) + where) {
		n++
		if !left[strings.Join(row, " ")] {
			wrong = append(wrong, fmt.Sprintf("id %s, n %s is not what the documents leave", row[0], row[1]))
		}
	}
	if table.key != nil && n != len(rows) {
		wrong = append(wrong, fmt.Sprintf("the documents leave %d rows of %d", len(rows), n))
	}
	if n == 0 {
		wrong = append(wrong, "no row is left")
	}
	runtime.report(table.tableName, wrong)
}
