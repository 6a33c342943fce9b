package main

// capture_partition_changes_test.go shows what becomes of partitions that come, go and are rewritten (DESIGN §3.1 no 8), of which the stream
// says nothing.
//
// Goal: no row of a partitioned table is lost however it came to be there, and none that was streamed is repeated.
// Method: a tree of three levels on a real server, whose leaves are attached, detached, created, dropped and rewritten while
// the real connector streams, scans or is stopped or killed; then the documents are compared with the table, and their
// history is strict where nobody wrote to what was attached.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// leafTree is a table partitioned by ranges of id.
type leafTree struct {
	*testDB
	root tableName
	key  string // what follows the type of id
}

func newLeafTree(db *testDB, key string) *leafTree {
	db.Helper()
	if testing.Short() {
		db.Skip("starts a connector for each of many cases")
	}
	x := &leafTree{testDB: db, root: db.table("root"), key: key}
	db.exec(fmt.Sprintf("CREATE TABLE %s (id int %s, v text) PARTITION BY RANGE (id)", quoteTable(x.root), key))
	x.identify(x.root)
	db.grant(x.root)
	db.publish(x.root)
	return x
}

func (x *leafTree) identify(table tableName) {
	x.Helper()
	x.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
}

// create makes a partition of parent; with partitions of its own where below says so.
func (x *leafTree) create(base string, parent tableName, from, to int, below ...string) tableName {
	x.Helper()
	t := x.table(base)
	x.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%d) TO (%d) %s", quoteTable(t), quoteTable(parent), from, to,
		strings.Join(below, " ")))
	x.identify(t)
	x.grant(t)
	return t
}

// filled makes a table with a row for each id that is no partition yet. Its columns stand in another order than the root's,
// behind one that was dropped.
func (x *leafTree) filled(base string, from, to int) tableName {
	x.Helper()
	t := x.table(base)
	x.exec(fmt.Sprintf("CREATE TABLE %s (gone int, v text, id int %s)", quoteTable(t), x.key))
	x.exec("ALTER TABLE " + quoteTable(t) + " DROP COLUMN gone")
	x.identify(t)
	x.grant(t)
	x.fill(t, from, to)
	return t
}

// fill inserts a row for each id, a dozen to a page.
func (x *leafTree) fill(table tableName, from, to int) {
	x.Helper()
	x.exec(fmt.Sprintf("INSERT INTO %s (id, v) SELECT i, i || repeat('.', 500) FROM generate_series(%d, %d) i", quoteTable(table), from, to-1))
}

func (x *leafTree) attach(leaf, parent tableName, from, to int) {
	x.Helper()
	x.exec(fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)", quoteTable(parent), quoteTable(leaf), from, to))
}

func (x *leafTree) detach(leaf, parent tableName) {
	x.Helper()
	x.exec(fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", quoteTable(parent), quoteTable(leaf)))
}

// nudge has the connector look at the partitions: it creates one and inserts a row into it.
func (x *leafTree) nudge() {
	x.Helper()
	id := 1_000_000 + int(testCount.Add(1))
	leaf := x.create(fmt.Sprint("nudge", id), x.root, id, id+1)
	x.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'nudge')", quoteTable(leaf), id))
}

// waitRows waits until every row of the table is in the documents, as it is now.
func (r *testRuntime) waitRows(x *leafTree) {
	r.t.Helper()
	deadline := time.Now().Add(waitLimit)
	for {
		missing := r.missing(x)
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) || r.hasEnded() {
			r.t.Fatalf("%d rows of %s are missing or stale, such as %s", len(missing), x.root, r.describeRows(x, missing[:min(5, len(missing))]))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// describeRows is each row as it is, with its partition and the documents of its key.
func (r *testRuntime) describeRows(x *leafTree, keys []string) string {
	r.t.Helper()
	var text strings.Builder
	for _, key := range keys {
		fmt.Fprintf(&text, "\n  %s, which is now %v", key,
			x.query(fmt.Sprintf("SELECT t::text, tableoid::regclass::text, xmin::text FROM %s t WHERE id::text = '%s'", quoteTable(x.root), key)))
		for _, d := range r.documents() {
			if d.table == x.root.String() && strings.Contains(d.doc, fmt.Sprintf(`"id":%s,`, key)) {
				fmt.Fprintf(&text, "\n    checkpoint %d: %s", d.checkpoint, d.doc)
			}
		}
	}
	fmt.Fprintf(&text, "\n  state %s", r.committedState())
	return text.String()
}

// missing lists the rows of the table that no document tells of as they are: the last one of a key, or of a keyless table any.
func (r *testRuntime) missing(x *leafTree) []string {
	r.t.Helper()
	rows := r.edgeRows(x.root)
	seen := make(map[string]bool)
	if x.key == "" {
		for _, d := range r.edgeDocuments(x.root) {
			if d.Meta.Op != "d" && d.V != nil {
				seen[string(d.ID)+" "+*d.V] = true
			}
		}
	}
	var missing []string
	for _, row := range x.query("SELECT id::text, v FROM " + quoteTable(x.root)) {
		if rows[row[0]] != row[1] && !seen[row[0]+" "+row[1]] {
			missing = append(missing, row[0])
		}
	}
	return missing
}

// once checks that no insertion of a row is repeated.
func (r *testRuntime) once(x *leafTree) {
	r.t.Helper()
	if x.key != "" {
		r.strict(x.root)
		return
	}
	seen := make(map[string]int)
	for _, d := range r.edgeDocuments(x.root) {
		if d.Meta.Op == "c" {
			if seen[string(d.ID)]++; seen[string(d.ID)] == 2 {
				r.t.Errorf("%s: row %s came twice", x.root, d.ID)
				return
			}
		}
	}
}

// finish stops the session and waits for its end.
func (r *testRuntime) finish() {
	r.t.Helper()
	r.stop()
	if err := r.wait(); err != nil {
		r.t.Fatal(err)
	}
}

// bindingState is the committed state of the only binding.
func (r *testRuntime) bindingState() (*bindingState, bindingMetadata) {
	r.t.Helper()
	return onlyBinding(r.t, r.committedState())
}

func onlyBinding(t testing.TB, raw json.RawMessage) (*bindingState, bindingMetadata) {
	t.Helper()
	state, err := parseState(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range state.Bindings {
		m, _ := b.metadata()
		return b, m
	}
	return nil, bindingMetadata{}
}

// TestLeavesStored: what is remembered survives being stored, is written only when it changed, and what cannot be read is
// told.
func TestLeavesStored(t *testing.T) {
	random := testRandom(t)
	for range 200 {
		known := make(map[uint32]knownPartition)
		for range random.IntN(50) {
			k := knownPartition{path: random.Uint64(), leaf: random.IntN(4) > 0}
			oid := random.Uint32()
			if k.leaf {
				k.relfilenode = []uint32{oid, 0, random.Uint32()}[random.IntN(3)]
				k.toast = []uint32{oid + createdToast, 0, noToast, random.Uint32()}[random.IntN(4)]
			}
			known[oid] = k
		}
		text := encodePartitions(known)
		back, err := decodePartitions(text)
		if err != nil || back == nil || !maps.Equal(back, known) {
			t.Fatalf("%v became %q and %v (%v)", known, text, back, err)
		}
	}
	for _, bad := range []string{
		"3 a.b", "1 a", "1 a.b.c.d", "1 A_.b", "1 a.-", "1 a.b.c!", "1 zzzzzzzz.1", "2 a.b.c.d.e", "2 a.b..!",
	} {
		if known, err := decodePartitions(bad); err == nil {
			t.Errorf("%q was read as %v", bad, known)
		}
	}

	// As stored when nothing was known of TOAST tables.
	old, err := decodePartitions("1 a.1 b.2.c d.3.-")
	want := map[uint32]knownPartition{
		10: {path: 1, leaf: true, relfilenode: 10}, 11: {path: 2, leaf: true, relfilenode: 12}, 13: {path: 3},
	}
	if err != nil || !maps.Equal(old, want) {
		t.Errorf("have %v (%v)", old, err)
	}

	var set partitionSet
	if have := set.unwritten(); have != nil {
		t.Errorf("nothing to write, have %q", *have)
	}
	if !set.remember(map[uint32]knownPartition{}) || set.unwritten() == nil || set.unwritten() != nil {
		t.Error("a table without partitions must be written once")
	}
	if !set.remember(map[uint32]knownPartition{7: {path: 1, leaf: true, relfilenode: 7, toast: 10}}) ||
		set.remember(map[uint32]knownPartition{7: {path: 1, leaf: true, relfilenode: 7, toast: 10}}) {
		t.Error("news are what differs")
	}
	written := set.unwritten()
	if written == nil || *written != "2 7.1" {
		t.Errorf("have %v", written)
	}
	set.forget()
	if have := set.unwritten(); have == nil || *have != "" {
		t.Error("what is forgotten must be taken out of what is stored")
	}
	if err := set.restore(written); err != nil || set.known[7].path != 1 || set.unwritten() != nil {
		t.Errorf("restored %v (%v)", set.known, err)
	}
}

// TestLeavesCompared: which leaves are scanned, by what became of them and of the partitions above them.
func TestLeavesCompared(t *testing.T) {
	tree := func(nodes ...partition) *table { return &table{oid: 1, kind: 'p', partitions: nodes} }
	middle := partition{tableName: tableName{"s", "m"}, oid: 2, parent: 1, kind: 'p', attached: 100}
	leaf := partition{tableName: tableName{"s", "l"}, oid: 3, parent: 2, kind: 'r', relfilenode: 3, attached: 101, toast: 6}
	with := func(p partition, change func(*partition)) partition {
		change(&p)
		return p
	}
	again := func(p *partition) { p.attached = 200 }
	for _, test := range []struct {
		name          string
		before, now   *table
		born          map[uint32]bool
		want          string
		hidden        string // of the rewritten
		unexpectedRew bool
	}{
		{name: "nothing", before: tree(middle, leaf), now: tree(middle, leaf), want: "[] [] [] []"},
		{name: "a created leaf", before: tree(middle), now: tree(middle, leaf), born: map[uint32]bool{3: true}, want: "[] [3] [] []"},
		{name: "an attached leaf", before: tree(middle), now: tree(middle, leaf), want: "[3] [] [] []"},
		{
			name: "a created branch", before: tree(), now: tree(middle, leaf),
			born: map[uint32]bool{2: true, 3: true}, want: "[] [3] [] []",
		},
		{
			name: "an attached branch whose leaf was created in it", before: tree(), now: tree(middle, leaf),
			born: map[uint32]bool{3: true}, want: "[3] [] [] []",
		},
		{
			name: "a branch attached again", before: tree(middle, leaf), now: tree(with(middle, again), leaf),
			born: map[uint32]bool{3: true}, want: "[3] [] [] []",
		},
		{name: "a leaf attached again", before: tree(middle, leaf), now: tree(middle, with(leaf, again)), want: "[3] [] [] []"},
		{
			name: "a leaf that moved", before: tree(middle, leaf),
			now:  tree(middle, with(leaf, func(p *partition) { p.parent, p.attached = 1, 200 })),
			want: "[3] [] [] []",
		},
		{name: "a rewritten leaf", before: tree(middle, leaf), now: tree(middle, with(leaf, func(p *partition) { p.relfilenode = 9 })), want: "[] [] [3] []"},
		{
			name: "a leaf with another TOAST table", before: tree(middle, leaf), hidden: "[3]",
			now: tree(middle, with(leaf, func(p *partition) { p.relfilenode, p.toast = 9, 10 })), want: "[] [] [3] []",
		},
		{
			name: "a rewritten leaf without a TOAST table", before: tree(middle, with(leaf, func(p *partition) { p.toast = noToast })), hidden: "[3]",
			now: tree(middle, with(leaf, func(p *partition) { p.relfilenode, p.toast = 9, noToast })), want: "[] [] [3] []",
		},
		{
			name: "a leaf that may be anywhere", before: tree(middle, with(leaf, func(p *partition) { p.relfilenode = 0 })),
			now: tree(middle, leaf), want: "[] [] [] []",
		},
		{name: "a leaf that is gone", before: tree(middle, leaf), now: tree(middle), want: "[] [] [] [3]"},
		{name: "a branch that is gone", before: tree(middle, leaf), now: tree(), want: "[] [] [] [3]"},
		{
			name: "a foreign table", before: tree(middle),
			now: tree(middle, with(leaf, func(p *partition) { p.kind = 'f' })), want: "[] [] [] []",
		},
	} {
		oids := func(list []partition) []uint32 {
			var o []uint32
			for _, p := range list {
				o = append(o, p.oid)
			}
			return o
		}
		ch := comparePartitions(test.now, partitionsOf(test.before), partitionsOf(test.now), test.born, true)
		have := fmt.Sprint(oids(ch.attached), oids(ch.born), oids(ch.rewritten), ch.removed)
		if have != test.want {
			t.Errorf("%s: attached, created, rewritten, removed are %s, want %s", test.name, have, test.want)
		}
		if want := cmp.Or(test.hidden, "[]"); fmt.Sprint(oids(ch.hidden)) != want {
			t.Errorf("%s: %v may have been unlogged, want %s", test.name, oids(ch.hidden), want)
		}
	}
}

// TestLeavesBorn: which partitions are taken for created as such. CREATE TABLE … PARTITION OF is, whatever came with it; a
// table that was made and filled first is not, be it in one transaction.
func TestLeavesBorn(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	schema := db.createSchema("born")
	conn := testConnect(t, *testControlUser, *testControlPassword)
	if _, err := conn.Exec(db.ctx, "SET search_path = "+quoteIdent(schema)); err != nil {
		t.Fatal(err)
	}
	run := func(sql string) {
		t.Helper()
		if _, err := conn.PgConn().Exec(db.ctx, sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run(`CREATE TABLE ref (k int PRIMARY KEY);
		CREATE TABLE r (id int PRIMARY KEY, v text DEFAULT 'x', k int REFERENCES ref,
			g int GENERATED ALWAYS AS (id + 1) STORED, CHECK (id > -100)) PARTITION BY RANGE (id);
		CREATE INDEX ON r (v);
		CREATE TABLE defaults (id int DEFAULT 1) PARTITION BY RANGE (id);
		CREATE TABLE bare (id int) PARTITION BY RANGE (id)`)
	cases := []struct {
		name, sql string
		want      bool
	}{
		{"created", "CREATE TABLE L PARTITION OF r FOR VALUES FROM (1) TO (2)", true},
		{"created with more", "CREATE TABLE L PARTITION OF r (v DEFAULT 'y', CHECK (id <> 7)) FOR VALUES FROM (3) TO (4)", true},
		{"created as the default", "CREATE TABLE L PARTITION OF r DEFAULT", true},
		{"created with partitions", "CREATE TABLE L PARTITION OF r FOR VALUES FROM (5) TO (6) PARTITION BY RANGE (id)", true},
		{"created bare", "CREATE TABLE L PARTITION OF bare FOR VALUES FROM (1) TO (2)", true},
		{
			"created, filled, owned, in one transaction",
			"BEGIN; SELECT 1; INSERT INTO ref VALUES (1); CREATE TABLE L PARTITION OF r FOR VALUES FROM (6) TO (7); INSERT INTO r VALUES (6); " +
				"ALTER TABLE L OWNER TO " + quoteIdent(*testCaptureUser) + "; ALTER TABLE L REPLICA IDENTITY FULL; COMMIT", true,
		},
		{
			"created in a subtransaction",
			"DO $$ BEGIN EXECUTE 'CREATE TABLE L PARTITION OF r FOR VALUES FROM (7) TO (8)'; EXCEPTION WHEN division_by_zero THEN RAISE; END $$", true,
		},
		{"created and renamed", "CREATE TABLE L_ PARTITION OF r FOR VALUES FROM (8) TO (9); ALTER TABLE L_ RENAME TO L", true},
		{"created with nothing but defaults, which cannot be told", "CREATE TABLE L PARTITION OF defaults FOR VALUES FROM (8) TO (9)", false},
		{"attached", "CREATE TABLE L (id int); INSERT INTO L VALUES (10); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (10) TO (11)", false},
		{"attached empty in one transaction", "BEGIN; CREATE TABLE L (id int); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (12) TO (13); COMMIT", false},
		{
			"attached filled in one transaction",
			"BEGIN; CREATE TABLE L (id int); INSERT INTO L VALUES (13); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (13) TO (14); COMMIT", false,
		},
		{
			"attached filled in one block",
			"DO $$ BEGIN CREATE TABLE L (id int); INSERT INTO L VALUES (14); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (14) TO (15); END $$", false,
		},
		{
			"attached from a query in one transaction",
			"BEGIN; CREATE TABLE L AS SELECT 15 AS id; ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (15) TO (16); COMMIT", false,
		},
		{
			"attached with constraints in one transaction",
			"BEGIN; CREATE TABLE L (id int NOT NULL CHECK (id >= 16 AND id < 17)); INSERT INTO L VALUES (16); " +
				"ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (16) TO (17); COMMIT", false,
		},
		{
			"attached like the root in one transaction",
			"BEGIN; CREATE TABLE L (LIKE bare INCLUDING ALL); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (17) TO (18); COMMIT", false,
		},
		{
			"created, detached, filled, attached in one transaction",
			"BEGIN; CREATE TABLE L PARTITION OF bare FOR VALUES FROM (18) TO (19); ALTER TABLE bare DETACH PARTITION L; " +
				"INSERT INTO L VALUES (18); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (18) TO (19); COMMIT", false,
		},
		{
			"created, detached and attached again",
			"CREATE TABLE L PARTITION OF bare FOR VALUES FROM (19) TO (20); ALTER TABLE bare DETACH PARTITION L; " +
				"ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (19) TO (20)", false,
		},
		{
			"filled and attached in one transaction, then nearly detached, twice",
			"BEGIN; CREATE TABLE L (id int); INSERT INTO L VALUES (21); ALTER TABLE bare ATTACH PARTITION L FOR VALUES FROM (21) TO (22); COMMIT; " +
				"BEGIN; ALTER TABLE bare DETACH PARTITION L; ROLLBACK; " +
				"BEGIN; SELECT 1; ALTER TABLE bare DETACH PARTITION L; ROLLBACK", false,
		},
	}
	d := db.connect(nil)
	c := &capture{ctx: db.ctx, db: d, settings: d.settings}
	for i, test := range cases {
		name := fmt.Sprintf("leaf_%d", i)
		statements := strings.Split(regexp.MustCompile(`\bL(_?)(;| |$)`).ReplaceAllString(test.sql, name+"$1$2"), "; ")
		if strings.HasPrefix(test.sql, "DO") {
			statements = []string{strings.Join(statements, "; ")}
		}
		for _, sql := range statements { // one message would be one transaction
			run(sql)
		}
		oid := db.queryValue("SELECT $1::text::regclass::oid::bigint", quoteIdent(schema)+"."+name)
		var n uint32
		if _, err := fmt.Sscan(oid, &n); err != nil {
			t.Fatal(err)
		}
		born, err := c.bornPartitions([]uint32{n})
		if err != nil {
			t.Fatal(err)
		}
		if born[n] != test.want {
			t.Errorf("%s: taken for created as a partition: %t, want %t", test.name, born[n], test.want)
		}
	}
}

// TestLeavesAttached: partitions that come with rows, by themselves and in a branch of their own, while the capture streams
// and while it is stopped, in every mode; and such as are created, whose rows are all in the stream.
func TestLeavesAttached(t *testing.T) {
	for _, mode := range []backfillMode{modeAutomatic, modeNormal, modeKeyless, modeOnlyChanges} {
		for _, stopped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%sstopped=%t", strings.ReplaceAll(string(mode), " ", ""), stopped), func(t *testing.T) {
				t.Parallel()
				testLeavesAttached(t, mode, stopped)
			})
		}
	}
}

func testLeavesAttached(t *testing.T, mode backfillMode, stopped bool) {
	db := newTestDB(t)
	db.requireVersion(130000)
	key := "PRIMARY KEY"
	if mode == modeKeyless {
		key = ""
	}
	x := newLeafTree(db, key)
	x.create("first", x.root, 0, 100)
	middle := x.create("middle", x.root, 100, 1000, "PARTITION BY RANGE (id)")
	x.create("second", middle, 100, 200)
	x.fill(x.root, 0, 120)
	r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{x.root: mode})
	r.waitStreaming()
	if stopped {
		r.finish()
	}
	branch := x.table("branch")
	x.exec(fmt.Sprintf("CREATE TABLE %s (v text, id int %s) PARTITION BY RANGE (id)", quoteTable(branch), key))
	x.fill(x.create("below", branch, 1000, 1100), 1000, 1050)
	x.exec("SET synchronous_commit = on")
	x.script(fmt.Sprintf(`BEGIN; CREATE TABLE %[1]s PARTITION OF %[2]s FOR VALUES FROM (200) TO (300);
		ALTER TABLE %[1]s REPLICA IDENTITY FULL;
		INSERT INTO %[2]s SELECT i, 'created' FROM generate_series(200, 250) i; COMMIT`, quoteTable(x.table("created")), quoteTable(middle)))
	third := x.filled("third", 300, 350)
	x.attach(third, middle, 300, 400)
	x.attach(x.filled("empty", 400, 400), middle, 400, 500)
	x.attach(branch, x.root, 1000, 2000)
	x.script(fmt.Sprintf(`BEGIN; CREATE TABLE %[1]s (id int %[3]s, v text); INSERT INTO %[1]s VALUES (500, 'before');
		ALTER TABLE %[1]s REPLICA IDENTITY FULL;
		ALTER TABLE %[2]s ATTACH PARTITION %[1]s FOR VALUES FROM (500) TO (600); COMMIT`, quoteTable(x.table("at_once")), quoteTable(middle), key))
	x.nudge()
	if stopped {
		r.start()
	}
	if mode == modeOnlyChanges {
		r.waitLog("they are not captured, as for all of the table's")
		r.waitFor("what was streamed", func() bool { return r.countLocked(x.root) >= 52 })
		r.finish()
		for _, d := range r.edgeDocuments(x.root) {
			if v := *d.V; v != "created" && v != "nudge" {
				t.Errorf("row %s came, which no change told of", d.ID)
			}
		}
		return
	}
	r.waitRows(x)
	r.waitStreaming()
	r.once(x)
	// What was captured of them is streamed from now on as all else.
	x.exec(fmt.Sprintf("UPDATE %s SET v = v || '!' WHERE id %% 10 = 0", quoteTable(x.root)))
	if x.key != "" {
		x.exec(fmt.Sprintf("DELETE FROM %s WHERE id %% 10 = 1", quoteTable(x.root)))
	}
	x.nudge()
	r.waitRows(x)
	r.finish()
	r.once(x)
	if x.key != "" {
		r.checkRows(db, x.root)
	}
	if b, m := r.bindingState(); b.Mode != storedActive || len(m.Leaves) > 0 || m.Partitions == nil {
		t.Errorf("state %s", r.committedState())
	}
	r.start() // what the last one has led to may not have been noticed yet
	r.waitStreaming()
	r.finish()
	// Nothing has happened since: nothing comes, and the partitions are not written again.
	before, patches := len(r.documents()), len(r.patches)
	r.start()
	r.waitStreaming()
	r.finish()
	if now := len(r.documents()); now != before {
		t.Errorf("%d documents came at a start without news", now-before)
	}
	for _, patch := range r.patches[patches:] {
		if strings.Contains(string(patch), `"partitions"`) {
			t.Errorf("partitions are written without news: %s", patch)
		}
	}
}

// TestLeavesCreated: the daily routine. Partitions are created and filled while the capture streams, is stopped and is
// killed; no document is repeated.
func TestLeavesCreated(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	x := newLeafTree(db, "PRIMARY KEY")
	x.create("first", x.root, 0, 100)
	x.fill(x.root, 0, 50)
	r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{x.root: modeAutomatic})
	r.waitStreaming()
	for day := range 6 {
		if day == 2 || day == 5 {
			r.kill()
			_ = r.wait()
		}
		from := 1000 * (day + 1)
		parent := x.root
		if day%2 == 1 {
			parent = x.create(fmt.Sprint("month", day), x.root, from, from+1000, "PARTITION BY RANGE (id)")
		}
		x.create(fmt.Sprint("day", day), parent, from, from+100)
		x.fill(x.root, from, from+60)
		if day == 2 || day == 5 {
			r.start()
		}
		r.waitRows(x)
	}
	x.nudge()
	r.waitRows(x)
	time.Sleep(1500 * time.Millisecond) // the look that the last one leads to
	r.finish()
	r.once(x)
	if n := r.count(x.root); n != 50+6*60+1 {
		t.Errorf("%d documents", n)
	}
	if strings.Contains(r.stderr(), "captured now") {
		t.Error("a created partition was scanned")
	}
}

// TestLeavesMidScan: partitions that come while the table is scanned by key, with keys before its position, in the chunk
// being read, and behind; each row comes once.
func TestLeavesMidScan(t *testing.T) {
	for _, mode := range []backfillMode{modeAutomatic, modeNormal} {
		t.Run(strings.ReplaceAll(string(mode), " ", ""), func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			db.requireVersion(130000)
			x := newLeafTree(db, "PRIMARY KEY")
			for _, bounds := range [][2]int{{0, 5}, {8, 14}, {17, 60}, {70, 200}} {
				x.create(fmt.Sprint("leaf", bounds[0]), x.root, bounds[0], bounds[1])
				x.fill(x.root, max(1, bounds[0]), min(bounds[1], 100))
			}
			before, inside, behind := x.filled("before", 5, 8), x.filled("inside", 14, 17), x.filled("behind", 60, 70)
			wide := x.table("wide")
			x.exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)", quoteTable(wide)))
			x.fill(x.create("low", wide, -10, 0), -10, 0)
			r := inWindow(db, x.root, mode, func() {
				x.attach(before, x.root, 5, 8)
				x.attach(inside, x.root, 14, 17)
				x.attach(behind, x.root, 60, 70)
				x.attach(wide, x.root, -10, 0)
			}) // nothing in the stream tells of them: the next chunk does
			r.waitStreaming()
			r.waitRows(x)
			r.finish()
			r.checkRows(db, x.root)
			if mode == modeAutomatic {
				r.once(x)
			}
		})
	}
}

// TestLeavesKilled: the connector is killed in the midst of the scan of an attached partition, and goes on from there. What
// is stored is a captured table's, for the incumbent, with our position beside it.
func TestLeavesKilled(t *testing.T) {
	for _, key := range []string{"PRIMARY KEY", ""} {
		t.Run("key="+key, func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			db.requireVersion(130000)
			x := newLeafTree(db, key)
			x.create("first", x.root, 0, 100)
			x.fill(x.root, 0, 50)
			mode := modeAutomatic
			if key == "" {
				mode = modeKeyless
			}
			const wantKills = 3
			midway, kills := 0, 0 // of the hook's goroutine
			r := edgeStart(db, runtimeOptions{
				config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10}),
				onCheckpoint: func(r *testRuntime, patch json.RawMessage) {
					b, m := onlyBinding(t, patch)
					if b == nil || b.Mode != storedActive || len(m.Leaves) == 0 || m.Leaves[0].Block == 0 || m.Leaves[0].Done {
						return
					}
					if midway++; midway%4 == 0 && kills < wantKills {
						kills++
						r.sever(midway%8 == 0)
					}
				},
			}, map[tableName]backfillMode{x.root: mode})
			r.waitStreaming()
			x.attach(x.filled("second", 100, 300), x.root, 100, 300)
			x.nudge()
			for range wantKills {
				if err := r.wait(); !errors.Is(err, errSevered) {
					t.Fatal(err)
				}
				r.start()
			}
			r.waitRows(x)
			r.finish()
			r.once(x)
		})
	}
}

// TestLeavesGone: partitions that are detached, dropped, truncated or rewritten, while the capture streams and while it is
// stopped: a status by default, a new backfill where advanced.on_truncate asks for one.
func TestLeavesGone(t *testing.T) {
	for _, policy := range []string{"ignore", "backfill"} {
		for _, stopped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,stopped=%t", policy, stopped), func(t *testing.T) {
				t.Parallel()
				testLeavesGone(t, policy, stopped)
			})
		}
	}
}

func testLeavesGone(t *testing.T, policy string, stopped bool) {
	db := newTestDB(t)
	db.requireVersion(130000)
	x := newLeafTree(db, "PRIMARY KEY")
	middle := x.create("middle", x.root, 0, 1000, "PARTITION BY RANGE (id)")
	var leaves []tableName
	for i := range 5 {
		leaves = append(leaves, x.create(fmt.Sprint("leaf", i), middle, 100*i, 100*i+100))
	}
	x.fill(x.root, 0, 500)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"on_truncate": policy})},
		map[tableName]backfillMode{x.root: modeAutomatic})
	r.waitStreaming()
	backfills := 1
	for _, event := range []struct {
		do   func()
		want string
	}{
		{func() { x.detach(leaves[0], middle) }, "Partition " + leaves[0].String() + ": no longer of " + x.root.String()},
		{func() { x.exec("DROP TABLE " + quoteTable(leaves[1])) }, "(dropped): no longer of"},
		{func() { x.exec("TRUNCATE " + quoteTable(leaves[2])) }, "Partition " + leaves[2].String() + " of " + x.root.String() + ": truncated or rewritten"},
		{func() { x.exec("VACUUM FULL " + quoteTable(leaves[3])) }, "Partition " + leaves[3].String() + " of " + x.root.String() + ": truncated or rewritten"},
	} {
		if stopped {
			r.finish()
		}
		event.do()
		x.nudge()
		if stopped {
			r.start()
		}
		r.waitLog(event.want)
		if policy == "backfill" {
			backfills++
			r.waitFor("another backfill", func() bool {
				n := 0
				for _, log := range r.logs {
					if log.message == "backfill triggered" {
						n++
					}
				}
				return n == backfills
			})
			r.waitStreaming()
		}
		r.waitRows(x)
	}
	// Of a TRUNCATE of the whole table the stream tells: that its leaves were rewritten is no news.
	said := strings.Count(r.stderr(), "truncated or rewritten")
	x.exec("TRUNCATE " + quoteTable(x.root))
	x.fill(x.root, 300, 320)
	r.waitLog(x.root.String() + " was truncated")
	r.waitRows(x)
	x.nudge()
	r.waitRows(x)
	time.Sleep(1500 * time.Millisecond) // the look that it leads to
	r.finish()
	if now := strings.Count(r.stderr(), "truncated or rewritten"); now != said {
		t.Errorf("leaves of a truncated table are said to be rewritten")
	}
	r.start()
	r.waitStreaming()
	r.finish()
	if now := strings.Count(r.stderr(), "truncated or rewritten"); now != said {
		t.Errorf("leaves of a truncated table are said to be rewritten, at a start")
	}
	r.checkPresent(db, x.root)
}

// TestLeavesAgain: a partition that was away comes back with rows that changed meanwhile.
func TestLeavesAgain(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stopped=%t", stopped), func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			db.requireVersion(130000)
			x := newLeafTree(db, "PRIMARY KEY")
			middle := x.create("middle", x.root, 0, 1000, "PARTITION BY RANGE (id)")
			leaf := x.create("leaf", middle, 0, 100)
			x.create("other", middle, 100, 200)
			x.fill(x.root, 0, 50)
			x.fill(x.root, 100, 150)
			r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{x.root: modeAutomatic})
			r.waitStreaming()
			for _, away := range []struct{ part, parent tableName }{{leaf, middle}, {middle, x.root}} {
				if stopped {
					r.finish()
				}
				from, to := 0, 100
				if away.part == middle {
					to = 1000
				}
				x.detach(away.part, away.parent)
				x.exec(fmt.Sprintf("UPDATE %s SET v = v || 'away' WHERE id %% 3 = 0", quoteTable(leaf)))
				x.exec(fmt.Sprintf("INSERT INTO %s SELECT coalesce(max(id), 0) + 1, 'new' FROM %[1]s", quoteTable(leaf)))
				x.attach(away.part, away.parent, from, to)
				x.nudge()
				if stopped {
					r.start()
				}
				r.waitRows(x)
			}
			r.finish()
			r.checkPresent(db, x.root)
		})
	}
}

// TestLeavesKeylessScan: lessons 4 and 5. A keyless tree of three levels, and a parent of plain inheritance, scanned a page at
// a time, while partitions come, go, move and are rewritten between the chunks, with a kill after each.
func TestLeavesKeylessScan(t *testing.T) {
	for _, kind := range []string{"partitions", "inheritance"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			testLeavesKeylessScan(t, kind == "partitions")
		})
	}
}

func testLeavesKeylessScan(t *testing.T, partitions bool) {
	db := newTestDB(t)
	db.requireVersion(130000)
	rows := 1200
	if *longTests {
		rows = 60_000
	}
	var x *leafTree
	var events []func()
	var scanned []tableName
	if partitions {
		x = newLeafTree(db, "")
		middle := x.create("middle", x.root, 0, 10*rows, "PARTITION BY RANGE (id)")
		for i := range 4 {
			scanned = append(scanned, x.create(fmt.Sprint("leaf", i), middle, i*rows/4, (i+1)*rows/4))
		}
		x.fill(x.root, 0, rows)
		attached := x.filled("attached", 2*rows, 2*rows+100)
		events = append(
			events, func() { x.attach(attached, middle, 2*rows, 3*rows) },
			func() { x.fill(x.create("created", middle, 3*rows, 4*rows), 3*rows, 3*rows+100) },
			func() { x.detach(scanned[2], middle) },
			func() {
				x.exec(fmt.Sprintf("INSERT INTO %s SELECT id, 'moved' FROM %[1]s LIMIT 50", quoteTable(scanned[2])))
				x.attach(scanned[2], x.root, 20*rows, 21*rows)
			},
		)
		events[2], events[3] = func() { x.detach(scanned[2], middle) }, func() { x.attach(scanned[2], middle, rows/2, 3*rows/4) }
	} else {
		x = &leafTree{testDB: db, root: db.createTable("parent", "(id int, v text)")}
		x.identify(x.root)
		child := x.table("child")
		x.exec(fmt.Sprintf("CREATE TABLE %s () INHERITS (%s)", quoteTable(child), quoteTable(x.root)))
		x.fill(x.root, 0, rows)
		x.exec(fmt.Sprintf("INSERT INTO %s VALUES (-1, 'of the child')", quoteTable(child)))
		scanned = []tableName{x.root}
	}
	for i, leaf := range []tableName{scanned[0], scanned[len(scanned)-1]} {
		index := quoteIdent(x.name(fmt.Sprint("by_id", i)))
		events = append(
			events, func() { x.exec("VACUUM FULL " + quoteTable(leaf)) },
			func() {
				x.exec(fmt.Sprintf("CREATE INDEX %s ON %s (id)", index, quoteTable(leaf)))
				x.exec(fmt.Sprintf("CLUSTER %s USING %s", quoteTable(leaf), index))
			},
			func() {
				x.script(fmt.Sprintf(`BEGIN; CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM ONLY %[1]s;
					TRUNCATE ONLY %[1]s; INSERT INTO %[1]s SELECT * FROM kept ORDER BY id DESC; COMMIT`, quoteTable(leaf)))
			},
		)
	}
	events = append(events, func() { x.exec(fmt.Sprintf("ALTER TABLE %s ALTER v TYPE varchar(%d)", quoteTable(x.root), 1000)) })
	random := testRandom(t)
	if !partitions { // the order among the first four is theirs
		random.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
	}

	var mu sync.Mutex
	chunks, happened := 0, 0
	r := newTestRuntime(t, runtimeOptions{
		config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10}),
		onCheckpoint: func(r *testRuntime, patch json.RawMessage) {
			b, _ := onlyBinding(t, patch)
			if b == nil || b.Mode != storedKeyless || b.Scanned == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			chunks++
			switch {
			case happened == len(events):
			case chunks%6 == 3 && happened%2 == 1: // between chunks
				events[happened]()
				happened++
			case chunks%6 == 0:
				r.sever(true)
			}
		},
	})
	r.bind(r.edgeBindings(map[tableName]backfillMode{x.root: modeKeyless}))
	r.start()
	for {
		r.waitFor("the scan's end, or a kill", func() bool { return r.ended || isStreaming(r.status) })
		if !r.hasEnded() {
			break
		}
		if err := r.wait(); !errors.Is(err, errSevered) {
			t.Fatal(err)
		}
		if happened < len(events) && happened%2 == 0 { // while it is away
			events[happened]()
			happened++
		}
		r.start()
	}
	if happened != len(events) {
		t.Errorf("the scan ended after %d of %d events", happened, len(events))
	}
	if partitions {
		x.nudge()
		r.waitRows(x)
	}
	r.waitStreaming()
	r.finish()
	seen := make(map[string]bool)
	for _, d := range r.edgeDocuments(x.root) {
		seen[string(d.ID)] = true
		if string(d.ID) == "-1" {
			t.Error("a row of an inheritance child, which is a table of its own")
		}
	}
	only := ""
	if !partitions {
		only = "ONLY "
	}
	var lost []string
	for _, row := range db.query("SELECT id::text FROM " + only + quoteTable(x.root)) {
		if !seen[row[0]] {
			lost = append(lost, row[0]+" was lost")
		}
	}
	r.report(x.root, lost)
}

// TestLeavesUnreadable: the role may read the table but not its partitions, as suffices for a table with a key: an attached
// one is read by way of the table, until the role may read it by itself.
func TestLeavesUnreadable(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	x := newLeafTree(db, "PRIMARY KEY")
	x.create("first", x.root, 0, 100)
	x.fill(x.root, 0, 50)
	role := quoteIdent(db.name("reader"))
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret'", role))
	t.Cleanup(func() {
		db.dropSlot() // in use by the role
		db.exec("DROP OWNED BY " + role)
		db.exec("DROP ROLE " + role)
	})
	testSchema.Lock()
	db.exec("GRANT USAGE ON SCHEMA test TO " + role)
	testSchema.Unlock()
	db.exec(fmt.Sprintf("GRANT ALL ON %s TO %s", quoteTable(db.watermarks), role))
	db.exec(fmt.Sprintf("GRANT SELECT ON %s TO %s", quoteTable(x.root), role))
	var config map[string]any
	if err := json.Unmarshal(db.edgeConfig(map[string]any{"backfill_chunk_size": 10}), &config); err != nil {
		t.Fatal(err)
	}
	config["user"] = db.name("reader")
	config["credentials"] = map[string]any{"auth_type": "UserPassword", "password": "secret"}
	r := edgeStart(db, runtimeOptions{config: config, env: []string{testHurryVariable + "=100ms"}}, map[tableName]backfillMode{x.root: modeAutomatic})
	r.waitStreaming()
	second := x.filled("second", 100, 5000)
	x.attach(second, x.root, 100, 5000)
	x.nudge()
	r.waitLog("it is read by way of the table")
	x.exec(fmt.Sprintf("GRANT SELECT ON %s TO %s", quoteTable(second), role))
	r.waitLog("its partitions can be read by themselves now")
	r.waitRows(x)
	r.waitStreaming()
	r.finish()
	r.once(x)
}

// TestLeavesByThemselves: without publish_via_partition_root partitions are tables of their own, and nothing is done about
// those of others.
func TestLeavesByThemselves(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	db.requireVersion(130000)
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = false)", quoteIdent(db.publication)))
	x := newLeafTree(db, "PRIMARY KEY")
	one, two := x.create("one", x.root, 0, 100), x.create("two", x.root, 100, 200)
	x.fill(x.root, 0, 99)
	x.fill(x.root, 100, 150)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"capture_as_partitions": true})},
		map[tableName]backfillMode{one: modeAutomatic, two: modeKeyless})
	r.waitStreaming()
	x.attach(x.filled("three", 200, 250), x.root, 200, 300)
	x.detach(two, x.root)
	x.publish(two) // it was a member by its root
	x.exec("VACUUM FULL " + quoteTable(one))
	x.exec(fmt.Sprintf("INSERT INTO %s (id, v) VALUES (99, 'end')", quoteTable(one)))
	r.waitID(one, 99)
	r.finish()
	r.start()
	r.waitStreaming()
	r.finish()
	for _, text := range []string{"captured now", "no longer of", "truncated or rewritten"} {
		if strings.Contains(r.stderr(), text) {
			t.Errorf("a log of %q", text)
		}
	}
	if n := r.count(one); n != 100 {
		t.Errorf("%d documents of %s", n, one)
	}
	if strings.Contains(string(r.committedState()), `"partitions"`) {
		t.Errorf("partitions are stored: %s", r.committedState())
	}
}

// leafWalk attaches, detaches, creates, drops and rewrites partitions at random.
type leafWalk struct {
	*leafTree
	random *rand.Rand
	mu     sync.Mutex
	away   []int // ranges whose table is no partition now
	there  []int // ranges whose table is
	made   int
}

// leafSpan is how many ids a partition of the walk is for.
const leafSpan = 40

func (w *leafWalk) nameOf(i int) tableName { return tableName{"test", w.name(fmt.Sprint("walk", i))} }

// step does one thing to one partition, on a connection of its own.
func (w *leafWalk) step(ctx context.Context, conn *pgx.Conn) error {
	run := func(format string, args ...any) error {
		_, err := conn.PgConn().Exec(ctx, fmt.Sprintf(format, args...)).ReadAll()
		return err
	}
	pick := func(list []int) int { return list[w.random.IntN(len(list))] }
	root := quoteTable(w.root)
	w.mu.Lock()
	there, away := slices.Clone(w.there), slices.Clone(w.away)
	w.mu.Unlock()
	move := func(i int, from, to *[]int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		*from = slices.DeleteFunc(*from, func(o int) bool { return o == i })
		if to != nil {
			*to = append(*to, i)
		}
	}
	switch choice := w.random.IntN(10); {
	case choice < 3 && len(away) > 0:
		i := pick(away)
		if err := run("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)", root, quoteTable(w.nameOf(i)), i*leafSpan, (i+1)*leafSpan); err != nil {
			return err
		}
		move(i, &w.away, &w.there)
	case choice < 5 && len(there) > 2:
		i := pick(there)
		concurrently := ""
		if w.random.IntN(2) == 0 && w.version() >= 140000 {
			concurrently = "CONCURRENTLY"
		}
		if err := run("ALTER TABLE %s DETACH PARTITION %s %s", root, quoteTable(w.nameOf(i)), concurrently); err != nil {
			return err
		}
		move(i, &w.there, &w.away)
	case choice == 5 && len(there) > 2:
		i := pick(there)
		if err := run("DROP TABLE %s", quoteTable(w.nameOf(i))); err != nil {
			return err
		}
		move(i, &w.there, nil)
	case choice == 6 && len(there) > 0:
		return run("VACUUM FULL %s", quoteTable(w.nameOf(pick(there))))
	case choice < 9:
		w.made++
		i := w.made
		name := quoteTable(w.nameOf(i))
		if w.random.IntN(2) == 0 {
			if err := run("CREATE TABLE %[1]s PARTITION OF %[2]s FOR VALUES FROM (%[3]d) TO (%[4]d); ALTER TABLE %[1]s REPLICA IDENTITY FULL; "+
				"GRANT SELECT ON %[1]s TO %[5]s", name, root, i*leafSpan, (i+1)*leafSpan, quoteIdent(*testCaptureUser)); err != nil {
				return err
			}
			w.mu.Lock()
			w.there = append(w.there, i)
			w.mu.Unlock()
			return nil
		}
		attach := ""
		if w.random.IntN(3) == 0 { // all in one transaction
			attach = fmt.Sprintf("; ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)", root, name, i*leafSpan, (i+1)*leafSpan)
		}
		if err := run("CREATE TABLE %s (v text, id int PRIMARY KEY); ALTER TABLE %[1]s REPLICA IDENTITY FULL; GRANT SELECT ON %[1]s TO %[2]s; "+
			"INSERT INTO %[1]s SELECT 'filled', i FROM generate_series(%[3]d, %[4]d) i%[5]s", name, quoteIdent(*testCaptureUser), i*leafSpan,
			i*leafSpan+leafSpan/2, attach); err != nil {
			return err
		}
		w.mu.Lock()
		if attach == "" {
			w.away = append(w.away, i)
		} else {
			w.there = append(w.there, i)
		}
		w.mu.Unlock()
	}
	return nil
}

// write runs transactions of a few changes of partitions and of such as are none, some of them over an attachment.
func (w *leafWalk) write(ctx context.Context, random *rand.Rand) error {
	conn, err := pgx.ConnectConfig(ctx, w.control.Config())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for n := 0; ctx.Err() == nil; n++ {
		w.mu.Lock()
		all := append(slices.Clone(w.there), w.away...)
		w.mu.Unlock()
		if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
			return ignoreCancelled(ctx, err)
		}
		for range 1 + random.IntN(4) {
			i := all[random.IntN(len(all))]
			target := quoteTable(w.nameOf(i))
			if random.IntN(2) == 0 {
				target = quoteTable(w.root)
			}
			id := i*leafSpan + random.IntN(leafSpan)
			var sql string
			switch random.IntN(4) {
			case 0:
				sql = fmt.Sprintf("DELETE FROM %s WHERE id = %d", target, id)
			case 1:
				sql = fmt.Sprintf("UPDATE %s SET v = 'u%d' WHERE id BETWEEN %d AND %d", target, n, id-3, id)
			default:
				sql = fmt.Sprintf("INSERT INTO %s (id, v) VALUES (%d, 'i%d' || repeat('x', %d)) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
					target, id, n, random.IntN(200))
			}
			if _, err = conn.Exec(ctx, sql); err != nil {
				break
			}
			if random.IntN(4) == 0 {
				time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
			}
		}
		end := "COMMIT"
		if err != nil { // no such partition now, a deadlock
			end = "ROLLBACK"
		}
		if _, err := conn.Exec(ctx, end); err != nil {
			return ignoreCancelled(ctx, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

func ignoreCancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// TestLeavesWalk: partitions come, go and are rewritten at random, under writers that do not care, while the table is scanned
// and streamed and the connector killed now and then. In the end every row is there, as it is.
func TestLeavesWalk(t *testing.T) {
	rounds := 2
	if *longTests {
		rounds = 40
	}
	modes := []backfillMode{modeAutomatic, modeNormal, modePrecise, modeKeyless}
	for round := range rounds {
		mode := modes[round%len(modes)]
		title := fmt.Sprint(strings.ReplaceAll(cmp.Or(string(mode), "Automatic"), " ", ""), round)
		t.Run(title, func(t *testing.T) {
			if !*longTests {
				t.Parallel()
			}
			testLeavesWalk(t, mode, false)
		})
		if *longTests {
			t.Run(title+" slowed", func(t *testing.T) { testLeavesWalk(t, mode, true) })
		}
	}
}

// testLeavesWalk is one walk; slowed has the connector pause at random at all of its failpoints.
func testLeavesWalk(t *testing.T, mode backfillMode, slowed bool) {
	db := newTestDB(t)
	db.requireVersion(130000)
	x := newLeafTree(db, "PRIMARY KEY")
	w := &leafWalk{leafTree: x, random: testRandom(t), made: 4}
	for i := 1; i <= 4; i++ {
		x.create(fmt.Sprint("walk", i), x.root, i*leafSpan, (i+1)*leafSpan)
		w.there = append(w.there, i)
	}
	x.fill(x.root, leafSpan, 5*leafSpan)
	t.Cleanup(func() { // those that are away
		for i := range w.made + 1 {
			db.exec("DROP TABLE IF EXISTS " + quoteTable(w.nameOf(i)))
		}
	})
	r := newTestRuntime(db.TB, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 5})})
	r.bind(r.edgeBindings(map[tableName]backfillMode{x.root: mode}))
	if slowed {
		r.driver.command, r.armed = []string{failpointBinary(t)}, []string{"SOURCE_POSTGRES_FAILPOINT=*:1:jitter=40ms"}
	}
	r.start()
	r.waitLog("created replication slot") // which is made again where partitions change meanwhile (replication_newslot_test.go)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seed := w.random.Uint64()
	writers := make(chan error, 2)
	for i := range 2 {
		go func() { writers <- w.write(ctx, rand.New(rand.NewPCG(seed, uint64(i)))) }()
	}
	conn := testConnect(t, *testControlUser, *testControlPassword)
	steps := 60
	for n := range steps {
		if err := w.step(ctx, conn); err != nil && sqlState(err) != "40P01" { // deadlock
			t.Fatalf("step %d: %v", n, err)
		}
		time.Sleep(time.Duration(w.random.IntN(60)) * time.Millisecond)
		if n%20 == 19 {
			r.kill()
			_ = r.wait()
			if w.random.IntN(2) == 0 {
				if err := w.step(ctx, conn); err != nil && sqlState(err) != "40P01" {
					t.Fatal(err)
				}
			}
			r.start()
		}
	}
	cancel()
	for range 2 {
		if err := <-writers; err != nil {
			t.Fatal(err)
		}
	}
	x.nudge() // what is still to be noticed
	x.waitNoticed(r)
	r.waitRows(x)
	r.finish()
	r.checkPresent(db, x.root)
}

// waitNoticed starts the connector again, which is when it looks, and waits until it is done.
func (x *leafTree) waitNoticed(r *testRuntime) {
	x.Helper()
	r.finish()
	r.start()
	r.waitStreaming()
}

// TestLeavesRewound: a partition that was attached before a backfill of its table began, and was decoded as a table of its own
// before that: before version 15 the session would go on not publishing it.
func TestLeavesRewound(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	x := newLeafTree(db, "PRIMARY KEY")
	x.create("first", x.root, 0, 100)
	x.fill(x.root, 0, 50)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"on_truncate": "backfill"})},
		map[tableName]backfillMode{x.root: modeAutomatic})
	r.waitStreaming()
	third := x.filled("third", 300, 350)
	x.exec("UPDATE " + quoteTable(third) + " SET v = v || '1'")
	x.nudge()
	r.waitRows(x)
	x.attach(third, x.root, 300, 400)
	x.exec("TRUNCATE " + quoteTable(x.root))
	x.fill(x.root, 300, 320)
	r.waitLog("was truncated")
	r.waitRows(x)
	r.waitStreaming()
	x.exec("UPDATE " + quoteTable(x.root) + " SET v = v || '!' WHERE id = 305")
	x.nudge()
	r.waitFor("the update of the attached partition", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool {
			return strings.Contains(d.doc, `"id":305,`) && strings.Contains(d.doc, `!"`)
		})
	})
}
