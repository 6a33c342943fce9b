package main

// config_memory_test.go holds the promise that memory has a budget which no row, transaction, chunk or number of tables exceeds:
// the limit is read from made-up control groups, and the connector runs in a real one, under a limit at which the kernel
// kills it, on what is too large for that by far. Where no control group can be made, the limit is given by GOMEMLIMIT and
// the process's own high-water mark is held to it.

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

func TestMemoryLimit(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing to read", nil, defaultMemory},
		{"no limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, defaultMemory},
		{"version 2, own name space", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, gib / 2},
		{"version 2, nested, a group above has less", map[string]string{
			"proc/self/cgroup":                        "0::/system.slice/c\n",
			"sys/fs/cgroup/system.slice/memory.max":   "300000000\n",
			"sys/fs/cgroup/system.slice/c/memory.max": "536870912\n",
		}, 300000000},
		{"version 1 in a container: the path is the host's", map[string]string{
			"proc/self/cgroup":                           "12:cpu:/docker/abc\n9:memory:/docker/abc\n0::/docker/abc\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
		}, gib},
		{"version 1, nested", map[string]string{
			"proc/self/cgroup":                               "9:memory:/a/b\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":     "9223372036854771712\n",
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "268435456\n",
		}, gib / 4},
		{"a larger limit than the default", map[string]string{"sys/fs/cgroup/memory.max": "8589934592"}, 8 * gib},
		{"less memory than any limit", map[string]string{
			"sys/fs/cgroup/memory.max": "8589934592", "proc/meminfo": "MemTotal:         524288 kB\nMemFree: 1 kB\n",
		}, gib / 2},
		{"rubbish", map[string]string{"sys/fs/cgroup/memory.max": "-5", "proc/meminfo": "MemTotal: many kB"}, defaultMemory},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range tc.files {
				name = filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if have := memoryLimit(root); have != tc.want {
				t.Errorf("%d, want %d", have, tc.want)
			}
		})
	}
}

// The parts of a budget, all at once, leave room for the program.
func TestMemoryBudget(t *testing.T) {
	for _, limit := range []int64{smallestLimit, 384 << 20, 512 << 20, 1 << 30, 8 << 30} {
		b := newMemoryBudget(limit)
		receive := sessionBuffers*b.message + 2*(b.row+truncateAt)
		document := b.document + b.document*5/4
		chunks := 2*b.chunks + max(3*b.row, 2*roundChunks*2*b.message)
		parts := receive + document + chunks
		t.Logf("%d MiB: %d receiving, %d a document, %d chunks; of %+v", limit>>20, receive>>20, document>>20, chunks>>20, b)
		if room := limit - int64(parts); room < 48<<20 {
			t.Errorf("limit %d MiB: the parts have %d MiB", limit>>20, parts>>20)
		}
		if b.row < b.document/2*3 || b.row < 2*truncateAt {
			t.Errorf("limit %d MiB: a row of %d MiB makes a document of %d MiB", limit>>20, b.row>>20, b.document>>20)
		}
	}
}

// memoryGroup is a control group with a memory limit.
type memoryGroup struct {
	path    string
	version int
}

// newMemoryGroup makes a group below the test's own; the error says why that is not possible.
func newMemoryGroup(t testing.TB, limit int64) (*memoryGroup, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	g := &memoryGroup{}
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[1] == "memory":
			g.path, g.version = filepath.Join("/sys/fs/cgroup/memory", fields[2]), 1
		case fields[1] == "" && g.path == "":
			g.path, g.version = filepath.Join("/sys/fs/cgroup", fields[2]), 2
		}
	}
	file := "memory.limit_in_bytes"
	if g.version == 2 {
		file = "memory.max"
	}
	g.path = filepath.Join(g.path, fmt.Sprintf("source-postgres-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(g.path, 0o755); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		for range 50 { // until the processes in it are gone
			if os.Remove(g.path) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("the control group %s cannot be removed", g.path)
	})
	return g, os.WriteFile(filepath.Join(g.path, file), []byte(strconv.FormatInt(limit, 10)), 0o644)
}

// kills is how many processes the kernel has killed in the group for their memory.
func (g *memoryGroup) kills(t testing.TB) string {
	file := "memory.oom_control"
	if g.version == 2 {
		file = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(g.path, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n
		}
	}
	t.Fatalf("%s of %q has no oom_kill", file, text)
	return ""
}

// limitedRuntime is a runtime whose connector has no more memory than a limit.
type limitedRuntime struct {
	*testRuntime
	limit int64
	group *memoryGroup // nil where none can be made
	peak  atomic.Int64 // resident bytes of the connector, the most of all sessions
}

func newLimitedRuntime(t testing.TB, limit int64, o runtimeOptions) *limitedRuntime {
	t.Helper()
	if testing.Short() {
		t.Skip("the memory of a program with the race detector and checks of lent memory is another")
	}
	group, err := newMemoryGroup(t, limit)
	if err != nil {
		t.Logf("no control group can be made here, the limit is given by GOMEMLIMIT and checked only afterwards: %v", err)
		group = nil
		o.env = append(o.env, fmt.Sprintf("GOMEMLIMIT=%d", heapLimit(limit)))
	}
	r := &limitedRuntime{testRuntime: newTestRuntime(t, o), limit: limit, group: group}
	if group != nil {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		r.driver.command = []string{"/bin/sh", "-c", `echo $$ > "$1/cgroup.procs" && exec "$0"`, self, group.path}
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				r.sample()
			}
		}
	}()
	return r
}

// sample reads the high-water mark of the running connector's resident memory.
func (r *limitedRuntime) sample() {
	s := r.current()
	if s == nil {
		return
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.cmd.Process.Pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil && kib<<10 > r.peak.Load() {
				r.peak.Store(kib << 10)
			}
		}
	}
}

// bindTables discovers and binds the tables.
func (r *limitedRuntime) bindTables(patterns string) {
	r.t.Helper()
	discovered, err := r.driver.discover(r.t.Context())
	if err != nil {
		r.t.Fatalf("discover: %v", err)
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{tables: patterns})
	if err != nil {
		r.t.Fatal(err)
	}
	r.bind(bindings)
}

// finish stops the session and holds its memory to the limit.
func (r *limitedRuntime) finish() {
	r.t.Helper()
	r.sample()
	r.stop()
	if err := r.wait(); err != nil {
		r.t.Errorf("the session ended: %v", err)
	}
	peak := r.peak.Load()
	r.t.Logf("at most %d MiB resident of %d", peak>>20, r.limit>>20)
	if peak == 0 || peak > r.limit {
		r.t.Errorf("a high-water mark of %d MiB, the limit is %d MiB", peak>>20, r.limit>>20)
	}
	if r.group != nil {
		if kills := r.group.kills(r.t); kills != "0" {
			r.t.Errorf("%s processes were killed for their memory", kills)
		}
	}
}

// One transaction of very many rows, inserted, updated and deleted, beside a backfill that waits for none of them.
func TestMemoryTransaction(t *testing.T) {
	db := newTestDB(t)
	rows := 300_000
	if *longTests {
		rows = 10_000_000
	}
	table := db.createTable("narrow", `(id int PRIMARY KEY, v text)`)
	var inserts, updates, deletes atomic.Int64
	seen := make([]byte, rows+1)
	r := newLimitedRuntime(t, 256<<20, runtimeOptions{
		config: db.config(), forget: true, deadline: 30 * time.Minute,
		onDocument: func(_ *testRuntime, _ string, doc []byte) {
			var d struct {
				ID   int
				Meta struct{ Op string } `json:"_meta"`
			}
			if err := json.Unmarshal(doc, &d); err != nil || d.ID < 1 || d.ID > rows {
				t.Errorf("%v: %s", err, doc)
				return
			}
			switch op := d.Meta.Op; {
			case op == "c" && seen[d.ID] == 0:
				inserts.Add(1)
			case op == "u" && seen[d.ID] == 1:
				updates.Add(1)
			case op == "d" && seen[d.ID] == 2:
				deletes.Add(1)
			default:
				t.Errorf("after %d changes: %s", seen[d.ID], doc)
			}
			seen[d.ID]++
		},
	})
	r.bindTables(table.String())
	r.start()
	r.waitStreaming()
	db.script(fmt.Sprintf(`BEGIN;
		INSERT INTO %[1]s SELECT i, 'row ' || i FROM generate_series(1, %[2]d) i;
		UPDATE %[1]s SET v = v || '!';
		DELETE FROM %[1]s WHERE id %% 2 = 0;
		COMMIT`, quoteTable(table), rows))
	begin := time.Now()
	before := r.checkpoints
	r.waitFor("all changes", func() bool { return deletes.Load() == int64(rows/2) && r.checkpoints > before })
	if inserts.Load() != int64(rows) || updates.Load() != int64(rows) {
		t.Errorf("%d inserts and %d updates of %d rows", inserts.Load(), updates.Load(), rows)
	}
	t.Logf("%d changes in %.1f s", 2*rows+rows/2, time.Since(begin).Seconds())
	r.finish()
}

// wideValues are the columns of a table of very wide rows, beside its key and a number.
type wideValues struct {
	sql, typ string // typ as pg_type has it
	text     func() []byte
}

// cutFields is what the documents of a row have of its columns: the row cut as the budget asks, and its document then, with
// its values cut until they fit.
func cutFields(t testing.TB, b memoryBudget, columns []wideValues, before bool) map[string]string {
	t.Helper()
	types := testCatalog()
	row := tuple{{kind: valueText, data: []byte("1")}, {kind: valueText, data: []byte("1")}}
	oids := []uint32{typeByName(t, types, "int4"), typeByName(t, types, "int4")}
	for _, c := range columns {
		row = append(row, value{kind: valueText, data: c.text()})
		oids = append(oids, typeByName(t, types, c.typ))
	}
	var classes []cutClass
	for _, oid := range oids {
		classes = append(classes, types.cutClass(oid, false))
	}
	raw := dataRow(row)
	kept, level := readRow(t, rowSource{bytes.NewReader(raw), len(raw), 1 << 20, false}, b.cutRule(), classes)
	kept = kept[2:]
	for i := range row {
		n := int(kept[0])<<24 | int(kept[1])<<16 | int(kept[2])<<8 | int(kept[3])
		row[i].data, kept = kept[4:4+n], kept[4+n:]
	}
	for limit := 0; ; limit /= 2 {
		fields, size := map[string]string{}, 0
		for i := range columns {
			text, err := types.encoder(oids[2+i], -1, encodeOptions{flattenArrays: true, limit: limit})(nil, row[2+i].data)
			if err != nil {
				t.Fatal(err)
			}
			fields[fmt.Sprintf("c%d", i)] = string(text)
			size += len(text)
		}
		if before {
			size *= 2
		}
		if size+1000 < b.document {
			t.Logf("cut at level %d, then to %d: %d bytes of JSON", level, limit, size)
			return fields
		}
		if limit == 0 {
			limit = truncateAt
		}
	}
}

// Rows of hundreds of megabytes, in a chunk, inserted, updated with the old row, moved to another key and deleted.
func TestMemoryWideRows(t *testing.T) {
	for _, limit := range []int64{256 << 20, 1 << 30} {
		t.Run(fmt.Sprintf("%d MiB", limit>>20), func(t *testing.T) {
			if limit > 256<<20 && !*longTests {
				t.Skip("needs -long")
			}
			testWideRows(t, limit)
		})
	}
}

func testWideRows(t *testing.T, limit int64) {
	db := newTestDB(t)
	repeat := func(s string, n int) func() []byte { return func() []byte { return bytes.Repeat([]byte(s), n) } }
	columns := []wideValues{
		{`repeat('x€', 25000000)`, "text", repeat("x€", 25_000_000)},
		{`decode(repeat('61', 10000000), 'hex')`, "bytea", func() []byte { return append([]byte(`\x`), bytes.Repeat([]byte("61"), 10_000_000)...) }},
		{`('"' || repeat('j', 12000000) || '"')::json`, "json", func() []byte { return []byte(`"` + strings.Repeat("j", 12_000_000) + `"`) }},
		{`ARRAY[repeat('a', 9000000), 'b', NULL]`, "_text", func() []byte { return []byte(`{` + strings.Repeat("a", 9_000_000) + `,b,NULL}`) }},
		{`repeat(E'\x01', 2000000)`, "text", repeat("\x01", 2_000_000)},
	}
	definition, values := "(id int PRIMARY KEY, n int", "1"
	for i, c := range columns {
		definition += fmt.Sprintf(", c%d %s", i, c.typ)
		values += ", " + c.sql
	}
	table := db.createTable("wide", definition+")")
	db.exec(fmt.Sprintf(`ALTER TABLE %s REPLICA IDENTITY FULL`, quoteTable(table)))
	insert := func(id int) { db.exec(fmt.Sprintf(`INSERT INTO %s VALUES (%d, %s)`, quoteTable(table), id, values)) }
	insert(1)

	r := newLimitedRuntime(t, limit, runtimeOptions{config: db.config(), deadline: 5 * time.Minute})
	r.bindTables(table.String())
	r.start()
	r.waitStreaming()
	insert(2)
	r.waitDocuments(2)
	db.exec(fmt.Sprintf(`UPDATE %s SET n = 2, c0 = repeat('y€', 25000000) WHERE id = 2`, quoteTable(table)))
	r.waitDocuments(3)
	db.exec(fmt.Sprintf(`UPDATE %s SET id = 3 WHERE id = 1`, quoteTable(table)))
	r.waitDocuments(5)
	db.exec(fmt.Sprintf(`DELETE FROM %s WHERE id = 3`, quoteTable(table)))
	r.waitDocuments(6)
	r.finish()

	b := newMemoryBudget(limit)
	alone, twice := cutFields(t, b, columns, false), cutFields(t, b, columns, true)
	changed := strings.ReplaceAll(twice["c0"], "x", "y")
	for i, want := range []struct {
		op     string
		id     int
		fields map[string]string
	}{{"c", 1, alone}, {"c", 2, alone}, {"u", 2, twice}, {"d", 1, alone}, {"c", 3, alone}, {"d", 3, alone}} {
		doc := r.documents()[i].doc
		if len(doc) > b.document {
			t.Errorf("document %d has %d bytes", i, len(doc))
		}
		var have map[string]json.RawMessage
		if err := json.Unmarshal([]byte(doc), &have); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		var meta struct {
			Op     string
			Before map[string]json.RawMessage
		}
		if err := json.Unmarshal(have["_meta"], &meta); err != nil {
			t.Fatal(err)
		}
		if meta.Op != want.op || string(have["id"]) != strconv.Itoa(want.id) || (meta.Before != nil) != (want.op == "u") {
			t.Errorf("document %d: %s of id %s with before %v, want %s of %d", i, meta.Op, have["id"], meta.Before != nil, want.op, want.id)
		}
		for name, field := range want.fields {
			if meta.Before != nil && string(meta.Before[name]) != field {
				t.Errorf("document %d: %s before has %d bytes, %.60q, want %d, %.60q", i, name, len(meta.Before[name]), meta.Before[name], len(field), field)
			}
			if want.op == "u" && name == "c0" {
				field = changed
			}
			if string(have[name]) != field {
				t.Errorf("document %d: %s has %d bytes, %.60q, want %d, %.60q", i, name, len(have[name]), have[name], len(field), field)
			}
		}
	}
}

// Tables of rows of 8 kB to 20 MB are backfilled beside each other while their rows change; what comes out is what is there.
func TestMemoryWideChunks(t *testing.T) {
	db := newTestDB(t)
	rows, sizes := 10, []int{8_000, 8_000, 900_000, 8_000, 3_000_000}
	if *longTests {
		rows, sizes = 200, []int{8_000, 900_000, 8_000, 3_000_000, 7_000_000, 100_000}
	}
	var tables []tableName
	for i := range 4 {
		table := db.createTable(fmt.Sprintf("chunks_%d", i), `(id int PRIMARY KEY, n int, a text, b text)`)
		db.exec(fmt.Sprintf(`ALTER TABLE %s ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL`, quoteTable(table)))
		for id := range rows {
			size := sizes[(id+i)%len(sizes)]
			db.exec(fmt.Sprintf(`INSERT INTO %s VALUES (%d, 0, repeat('%c', %d), repeat('b', %d))`, quoteTable(table), id, 'c'+id%20, size, size))
		}
		tables = append(tables, table)
	}
	r := newLimitedRuntime(t, 256<<20, runtimeOptions{config: db.config(), deadline: 10 * time.Minute})
	r.bindTables(fmt.Sprintf("test.%s", strings.Replace(tables[0].name, "chunks_0", "chunks_*", 1)))
	r.start()
	for n := 1; ; n++ {
		for _, table := range tables {
			db.exec(fmt.Sprintf(`UPDATE %s SET n = %d WHERE id %% 7 = %d`, quoteTable(table), n, n%7))
			db.exec(fmt.Sprintf(`UPDATE %s SET id = id + 1000, a = a || 'm' WHERE id = %d`, quoteTable(table), n%rows))
		}
		r.mu.Lock()
		done := isStreaming(r.status)
		r.mu.Unlock()
		if done {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	state := func() (want []string) {
		for _, table := range tables {
			for _, row := range db.query(fmt.Sprintf(`SELECT id::text, n::text, md5(a), md5(b) FROM %s`, quoteTable(table))) {
				want = append(want, table.name+" "+strings.Join(row, " "))
			}
		}
		slices.Sort(want)
		return want
	}
	want := state()
	marks := 0
	for _, table := range tables { // what comes before these has been seen when they have
		db.exec(fmt.Sprintf(`INSERT INTO %s VALUES (-1)`, quoteTable(table)))
		marks++
	}
	r.waitFor("the last changes", func() bool {
		n := 0
		for _, d := range r.committed[max(0, len(r.committed)-2*marks):] {
			if strings.Contains(d.doc, `"id":-1`) {
				n++
			}
		}
		return n == marks
	})
	r.finish()
	checkWideChunks(t, r.documents(), want)
}

// checkWideChunks replays the documents, strictly, and compares what they leave with the rows.
func checkWideChunks(t *testing.T, documents []testDocument, want []string) {
	t.Helper()
	rows := map[string]string{}
	for i, d := range documents {
		var doc struct {
			ID, N int
			A, B  string
			Meta  struct{ Op string } `json:"_meta"`
		}
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.ID == -1 {
			continue
		}
		_, name, _ := strings.Cut(d.table, ".")
		key := fmt.Sprintf("%s %d", name, doc.ID)
		if _, there := rows[key]; there != (doc.Meta.Op != "c") {
			t.Errorf("document %d: %s of %s, which is there: %v", i, doc.Meta.Op, key, there)
		}
		if doc.Meta.Op == "d" {
			delete(rows, key)
		} else if !strings.Contains(d.doc, `"a":`) { // unchanged, and not in the WAL
			fields := strings.Fields(rows[key])
			rows[key] = fmt.Sprintf("%d %s %s", doc.N, fields[1], fields[2])
		} else {
			rows[key] = fmt.Sprintf("%d %s %s", doc.N, md5Of(doc.A), md5Of(doc.B))
		}
	}
	var have []string
	for key, row := range rows {
		have = append(have, key+" "+row)
	}
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("%d rows, want %d: %s", len(have), len(want), firstDifference(have, want))
	}
}

// Many bindings, each with a few rows, and a change of one at the end.
func TestMemoryBindings(t *testing.T) {
	db := newTestDB(t)
	bound, limit := 500, int64(256<<20)
	if *longTests {
		bound, limit = 10_000, 1<<30
	}
	schema := db.createSchema("bound")
	createManyTables(db, schema, bound, bound)
	var documents atomic.Int64
	r := newLimitedRuntime(t, limit, runtimeOptions{
		config: db.config(), deadline: 30 * time.Minute, forget: true,
		onDocument: func(*testRuntime, string, []byte) { documents.Add(1) },
	})
	r.bindTables(schema + ".*")
	r.start()
	r.waitStreaming()
	db.exec(fmt.Sprintf(`UPDATE %s.bound_%d SET b = 'changed'`, quoteIdent(schema), bound))
	before := r.checkpoints
	r.waitFor("the changes", func() bool { return documents.Load() == int64(3*bound+3) && r.checkpoints > before })
	r.finish()
}

func md5Of(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }

// firstDifference is the first line of one that the other has not.
func firstDifference(have, want []string) string {
	for i := range max(len(have), len(want)) {
		if i >= len(have) || i >= len(want) || have[i] != want[i] {
			return fmt.Sprintf("have %v, want %v", have[min(i, len(have)):min(i+1, len(have))], want[min(i, len(want)):min(i+1, len(want))])
		}
	}
	return ""
}

// TestCutMarks: what is cut of the old and of the new tuple of one change is told of each, wherever the pieces fall.
func TestCutMarks(t *testing.T) {
	limitMemory(t, 256<<20)
	c := testCatalog()
	text := c.cutClass(pgtype.TextOID, false)
	classes := []cutClass{text, text, text, c.cutClass(pgtype.TextArrayOID, false)}
	wide := func(n int) string { return "t" + strings.Repeat("x", n) }
	array := "t{" + strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 1<<20)+",", 40), ",") + "}"
	row := []string{wide(8 << 20), wide(8 << 20), wide(8 << 20), array}
	old := []string{wide(8 << 20), wide(8 << 20), wide(8<<20 - 1000), "n"}
	s := pipeSession(&scriptedConn{rest: xlogData(1, updateText(testOID, "O", old, row)), piece: func() int { return 1 << 18 }})
	go func() { _ = s.receive(t.Context()) }()
	m, err := s.next(t.Context())
	if err == nil && m.kind == '?' {
		s.answer(classes)
		m, err = s.next(t.Context())
	}
	if err != nil || m.oldCut || !m.newCut {
		t.Errorf("cut: old %v, new %v, %v; want the new row alone", m.oldCut, m.newCut, err)
	}
}

// TestNoHeapLimit: GOMEMLIMIT=off is no bound of ours.
func TestNoHeapLimit(t *testing.T) {
	kept := budget
	t.Cleanup(func() { budget = kept })
	t.Setenv("GOMEMLIMIT", "off")
	setMemoryLimit()
	if want := newMemoryBudget(memoryLimit("/")); budget != want {
		t.Errorf("the budget is %+v, want %+v", budget, want)
	}
}

// TestWideGeometry: numbers that are long as plain decimals are not written out to be thrown away.
func TestWideGeometry(t *testing.T) {
	text := []byte("((1e+300,1e+300)" + strings.Repeat(",(1e+300,1e+300)", 1<<18) + ")")
	end := 60 << 20
	dst, err := testCatalog().encoder(pgtype.PathOID, -1, encodeOptions{end: &end})(nil, text)
	if err != nil || len(dst) != truncateAt+2 || cap(dst) > 3*truncateAt {
		t.Errorf("%d bytes in a buffer of %d, %v", len(dst), cap(dst), err)
	}
}

// TestStalledLargeChange: the runtime reads nothing while the receiver waits to be told how a large change is cut. The server
// was not heard meanwhile for our sake: the session is not given up for that.
func TestStalledLargeChange(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the limit of silence")
	}
	db := newTestDB(t)
	table := db.createTable("stall", "(id int PRIMARY KEY, a text)")
	db.exec("ALTER TABLE " + quoteTable(table) + " ALTER a SET STORAGE EXTERNAL")
	armed, once := make(chan struct{}), sync.Once{}
	r := edgeStart(db, runtimeOptions{
		config: db.config(), env: []string{testPatienceVariable + "=2s"},
		onDocument: func(*testRuntime, string, []byte) {
			select {
			case <-armed:
				once.Do(func() { time.Sleep(5 * time.Second) })
			default:
			}
		},
	}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitStreaming()
	close(armed)
	db.script(fmt.Sprintf(`BEGIN; INSERT INTO %[1]s SELECT i, repeat('s', 1000) FROM generate_series(1, 100) i;
		INSERT INTO %[1]s VALUES (1001, repeat('x', 6000000)), (5000, repeat('y', 90000000)); COMMIT`, quoteTable(table)))
	r.waitDocuments(102)
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}
