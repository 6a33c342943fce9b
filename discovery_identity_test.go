package main

// Goal: a capture that runs today goes on tomorrow. A table whose replica identity lacks the collection key, and which the
// incumbent has captured all the same, is captured on while nothing can be lost by it; the first change whose old key is not told
// parks that binding, and nothing else. Method: states of such captures are handed to sessions, changes of every kind are
// made, and what comes out is compared with the tables.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// untoldRun is a capture of a table by another key than that of its replica identity, and of a healthy one beside it.
type untoldRun struct {
	*testDB
	*testRuntime
	table, beside tableName
	bindings      []runtimeBinding
	rows          int // of the healthy table
}

// newUntoldRun captures three rows, with REPLICA IDENTITY FULL.
func newUntoldRun(t *testing.T, partitioned bool, advanced map[string]any) *untoldRun {
	db := newTestDB(t)
	db.requireVersion(130000)
	r := &untoldRun{testDB: db, beside: db.createTable("beside", "(id int PRIMARY KEY)")}
	definition := "(id int PRIMARY KEY, name text NOT NULL, v text)"
	if partitioned {
		definition += " PARTITION BY RANGE (id)"
	}
	r.table = db.createTable("t", definition)
	if partitioned {
		leaf := db.table("leaf")
		db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s DEFAULT", quoteTable(leaf), quoteTable(r.table)))
		db.grant(leaf)
	}
	r.identity("FULL")
	db.exec("INSERT INTO " + quoteTable(r.table) + " SELECT i, 'name ' || i, 'old' FROM generate_series(1, 3) i")
	r.testRuntime = newTestRuntime(t, runtimeOptions{config: db.edgeConfig(advanced), env: []string{testHurryVariable + "=300ms"}, deadline: 20 * time.Second})
	r.bindings = r.edgeBindings(map[tableName]backfillMode{r.table: modeAutomatic, r.beside: modeAutomatic})
	for i := range r.bindings {
		if r.bindings[i].collection == r.collection() {
			r.bindings[i].key = []string{"/name"}
		}
	}
	r.bind(r.bindings)
	r.start()
	r.waitStreaming()
	r.end()
	return r
}

func (r *untoldRun) collection() string {
	for _, b := range r.bindings {
		if table, _, err := tableOfResource(b.resource); err == nil && table == r.table {
			return b.collection
		}
	}
	return ""
}

// leaf is the relation that holds the rows.
func (r *untoldRun) leaf() tableName {
	for _, t := range r.tables {
		if strings.HasPrefix(t.name, "leaf") {
			return t
		}
	}
	return r.table
}

func (r *untoldRun) identity(identity string) {
	r.Helper()
	r.exec("ALTER TABLE " + quoteTable(r.leaf()) + " REPLICA IDENTITY " + identity)
}

func (r *untoldRun) end() {
	r.Helper()
	r.stop()
	if err := r.wait(); err != nil {
		r.Fatal(err)
	}
}

// asIncumbent takes out of the state what only we write.
func (r *untoldRun) asIncumbent() {
	var state map[string]any
	if err := json.Unmarshal(r.committedState(), &state); err != nil {
		r.Fatal(err)
	}
	for _, b := range state["bindingStateV1"].(map[string]any) {
		delete(b.(map[string]any), "metadata")
	}
	raw, err := json.Marshal(state)
	if err != nil {
		r.Fatal(err)
	}
	r.mu.Lock()
	r.state = raw
	r.mu.Unlock()
}

// pass waits until what was committed so far has come out, as far as the healthy table shows.
func (r *untoldRun) pass() {
	r.Helper()
	r.rows++
	r.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d)", quoteTable(r.beside), r.rows))
	want := fmt.Sprintf(`"id":%d}`, r.rows)
	r.testRuntime.waitFor("the row "+want+" of the healthy table", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool {
			return d.table == r.beside.String() && strings.HasSuffix(d.doc, want)
		})
	})
}

// judge compares the last documents of the names with the table.
func (r *untoldRun) judge() {
	r.Helper()
	last := map[string]string{}
	for _, d := range r.documents() {
		if d.table != r.table.String() {
			continue
		}
		var doc struct {
			Meta struct {
				Op string `json:"op"`
			} `json:"_meta"`
			Name, V string
		}
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			r.Fatal(err)
		}
		if last[doc.Name] = doc.V; doc.Meta.Op == "d" {
			delete(last, doc.Name)
		}
	}
	var have, want []string
	for name, v := range last {
		have = append(have, name+" "+v)
	}
	for _, row := range r.query("SELECT name || ' ' || v FROM " + quoteTable(r.table)) {
		want = append(want, row[0])
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		r.Errorf("captured %q\nthe table has %q", have, want)
	}
}

const parkedUntold = " is no longer captured: "

func (r *untoldRun) parked() bool {
	return strings.Contains(r.stderr(), r.table.String()+parkedUntold)
}

func TestUntoldKeys(t *testing.T) {
	for _, c := range []struct{ name, sql string }{
		{"another column", "UPDATE {t} SET v = 'new' WHERE id = 1"},
		{"the collection key", "UPDATE {t} SET name = 'moved' WHERE id = 1"},
		{"the primary key", "UPDATE {t} SET id = 100 WHERE id = 1"},
		{"a delete", "DELETE FROM {t} WHERE id = 1"},
	} {
		for _, partitioned := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/partitioned %v", c.name, partitioned), func(t *testing.T) {
				if testing.Short() && c.name != "another column" {
					t.Skip("one change a run")
				}
				t.Parallel()
				r := newUntoldRun(t, partitioned, nil)
				r.identity("DEFAULT")
				r.asIncumbent()
				r.bind(r.bindings) // for the capture before it has been
				r.start()
				r.waitLog("It is captured already, and goes on while rows are only inserted")
				r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (4, 'four', 'new')")
				r.pass()
				r.testRuntime.kill() // a second session goes by what ours has stored
				_ = r.wait()
				r.start()
				r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (5, 'five', 'new')")
				r.pass()
				if r.parked() {
					t.Fatal("parked before any key was untold")
				}
				r.judge()

				r.exec(strings.ReplaceAll(c.sql, "{t}", quoteTable(r.table)))
				r.pass()
				r.waitLog(r.table.String() + parkedUntold)
				if text := r.stderr(); !strings.Contains(text, "run ALTER TABLE "+quoteTable(r.leaf())+" REPLICA IDENTITY FULL") {
					t.Errorf("the statement to run is missing:\n%s", text)
				}
				r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (6, 'six', 'new')")
				r.pass()
				r.identity("FULL")
				r.waitLog(r.table.String() + " is there anew: it is backfilled")
				r.waitStreaming()
				r.exec("UPDATE " + quoteTable(r.table) + " SET v = 'newer'")
				r.exec("DELETE FROM " + quoteTable(r.table) + " WHERE id = 5")
				r.pass()
				if c.name == "another column" { // the others leave a document of a key that went untold
					r.judge()
				}
				r.end()
			})
		}
	}
}

// What was captured under an identity that lacked the key, and is put right, goes on without a backfill, also when it was put
// right while the capture was stopped.
func TestUntoldPutRight(t *testing.T) {
	t.Parallel()
	r := newUntoldRun(t, false, nil)
	r.identity("DEFAULT")
	r.asIncumbent()
	r.start()
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (4, 'four', 'new')")
	r.pass()
	r.end()
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (5, 'five', 'new')")
	r.identity("FULL")
	r.exec("UPDATE " + quoteTable(r.table) + " SET name = name || '!', v = 'newer'")
	r.start()
	r.pass()
	r.end()
	r.start() // from here on it is as strict as with any other
	r.pass()
	r.judge()
	if text := r.stderr(); strings.Contains(text, "backfilled") || r.parked() {
		t.Errorf("it should have gone on:\n%s", text)
	}
	r.identity("DEFAULT")
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (6, 'six', 'new')")
	r.waitLog(r.table.String() + parkedUntold)
	r.pass()
	r.end()
}

// A binding that is captured anew by ourselves goes on being captured as it was.
func TestUntoldTruncated(t *testing.T) {
	t.Parallel()
	r := newUntoldRun(t, false, map[string]any{"on_truncate": "backfill"})
	r.identity("DEFAULT")
	r.asIncumbent()
	r.start()
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (4, 'name 3', 'new')")
	r.pass()
	r.exec("TRUNCATE " + quoteTable(r.table))
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (5, 'five', 'new')")
	r.pass()
	r.waitLog(r.table.String() + " was truncated: it is backfilled again")
	r.testRuntime.kill()
	_ = r.wait()
	r.start()
	r.exec("INSERT INTO " + quoteTable(r.table) + " VALUES (6, 'six', 'new')")
	r.pass()
	r.waitStreaming()
	if r.parked() {
		t.Error("parked")
	}
	r.exec("DELETE FROM " + quoteTable(r.table) + " WHERE id = 6")
	r.pass()
	r.waitLog(r.table.String() + parkedUntold)
	r.end()
}

// A binding whose identity has the key is taken over as before, and one that is new, or to be captured anew, is refused.
func TestUntoldIsNotNew(t *testing.T) {
	t.Parallel()
	for _, partitioned := range []bool{false, true} {
		r := newUntoldRun(t, partitioned, nil)
		r.asIncumbent()
		r.start()
		r.exec("UPDATE " + quoteTable(r.table) + " SET name = name || '!', v = 'newer' WHERE id < 3")
		r.exec("DELETE FROM " + quoteTable(r.table) + " WHERE id = 3")
		r.pass()
		r.judge()
		r.end()
		if r.parked() || strings.Contains(r.stderr(), "goes on while") {
			t.Error("parked, though all keys are told")
		}

		r.identity("DEFAULT")
		last := r.capture
		for name, c := range map[string]struct {
			before  bool
			edit    func(b *runtimeBinding)
			refused bool
		}{
			"as before":        {true, func(*runtimeBinding) {}, false},
			"a new capture":    {false, func(*runtimeBinding) {}, true},
			"captured anew":    {true, func(b *runtimeBinding) { b.backfill++ }, true},
			"with another key": {true, func(b *runtimeBinding) { b.key = []string{"/v"} }, true},
		} {
			bindings := slices.Clone(r.bindings)
			for i := range bindings {
				if bindings[i].collection == r.collection() {
					c.edit(&bindings[i])
				}
			}
			before := last
			if !c.before {
				before = nil
			}
			_, err := r.driver.validate(t.Context(), bindings, before)
			if (err != nil) != c.refused || err != nil && !strings.Contains(err.Error(), "updates and deletes would carry only the replica identity") {
				t.Errorf("%s: %v", name, err)
			}
		}
		// What the state does not know as captured by another is parked by a start.
		r.start()
		r.waitLog(r.table.String() + parkedUntold)
		r.pass()
		r.end()
	}
}

// The root's own identity says nothing of how its partitions are logged: one that differs has nothing captured anew.
func TestRootIdentity(t *testing.T) {
	for _, identity := range []string{"FULL", "USING INDEX {index}"} {
		t.Run(identity, func(t *testing.T) {
			t.Parallel()
			r := newUntoldRun(t, true, nil)
			index := r.name("names")
			r.exec(fmt.Sprintf("CREATE UNIQUE INDEX %s ON %s (name)", quoteIdent(index), quoteTable(r.leaf())))
			r.identity(strings.ReplaceAll(identity, "{index}", quoteIdent(index)))
			r.start()
			for i := range 3 {
				r.exec(fmt.Sprintf("UPDATE %s SET v = 'round %d', name = 'name ' || id || ' %[2]d'", quoteTable(r.table), i))
				r.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'more %[2]d', 'x')", quoteTable(r.table), 10+i))
				r.pass()
				r.exec("ANALYZE " + quoteTable(r.table)) // has the server describe it again
			}
			r.judge()
			if text := r.stderr(); r.parked() || strings.Contains(text, "backfilled") {
				t.Errorf("it should have gone on:\n%s", text)
			}
			// A partition that loses the key is seen by a look at the latest.
			r.identity("DEFAULT")
			r.waitLog(r.table.String() + parkedUntold)
			r.end()
		})
	}
}
