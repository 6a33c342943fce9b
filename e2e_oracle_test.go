package main

// e2e_oracle_test.go is the oracle: random writers on a real server, a connector that is killed at random moments and at exact
// points of its output, and the judgement of what it got committed.
//
// Goal: DESIGN §1.1 to §1.4. Method: tables of many kinds, each with REPLICA IDENTITY FULL and DEFAULT, are backfilled with
// tiny chunks and streamed while writers of kit_workload_test.go work on them. In the end the committed documents of every key
// must be a strict history, and their replay must equal the table. A run is made from its seed; -seed repeats one (writers
// interleave as they like, so a fault may take several tries), -long runs one seed after the other for -duration.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"source-postgres/tests/history"

	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

var (
	oracleSeed     = flag.Uint64("seed", 0, "seed of the oracle's first run; 0: of the time")
	oracleDuration = flag.Duration("duration", 10*time.Minute, "how long the oracle runs with -long")
)

// oracle is one run.
type oracle struct {
	t          testing.TB
	db         *testDB
	seed       uint64
	rand       *rand.Rand // of the goroutine that runs the sessions
	tables     []*workTable
	sentinel   tableName
	connConfig *pgx.ConnConfig // of the control user
	readOnly   bool
	chunk      int
	runtime    *testRuntime
	command    []string             // the connector; nil: the test binary
	changes    map[string]any       // of the endpoint config, by edit
	standby    string               // address of the standby that is captured instead of the test server
	replica    *testDB              // a connection to it; see onSlot
	crashes    bool                 // the server is crashed while writers write
	noRow      bool                 // the watermarks table comes and goes
	marks      bool                 // backfill markers are on, so that each session has a runtime of version 2
	truncates  int                  // as of the writers
	loses      bool                 // the slot is lost now and then
	counters   map[tableName]uint32 // backfill counters
	without    map[tableName]bool   // not bound now
	large      bool                 // transactions are large from some kB on
	bound      int                  // as many bytes; 0: drawn anew for each session
	since      string               // server time behind which every change is streamed

	byName map[string]*workTable
	latest atomic.Pointer[workTable] // stored by the hook of documents, loaded by writers
	slow   atomic.Int64              // nanoseconds that the sink takes for a document

	mu       sync.Mutex // the fields below; held by hooks
	hooks    *rand.Rand // random numbers of hooks
	left     int        // outputs until the session is severed; 0: it is not
	commit   bool
	outputs  int
	delayed  bool   // acknowledgements come late
	withheld int    // checkpoints not acknowledged
	sent     []lsn  // their cursors, and those of checkpoints not committed
	acked    lsn    // the greatest cursor acknowledged; a session's first one, which is committed, counts
	each     func() // called behind every output; may be nil

	confirmed                             lsn // by the slot, at the last look
	kills, severed, stops, cut, sentinels int
	witnessSlot                           string            // that of kit_witness_test.go, if there is one
	saidOf                                map[string]string // what it said
	unmapped                              int               // sessions that the server's decoding ended
	unmappedNext                          int64             // the transaction ID that was next at the first of them
	unmappedSince                         time.Time         // when that was
	written, compared, shapes             int               // transactions, rows, changes of tables' shapes; the last under mu
}

// newOracle makes the run's tables.
func newOracle(t testing.TB, seed uint64) *oracle {
	t.Helper()
	db := newTestDB(t)
	o := &oracle{
		t: t, db: db, connConfig: db.control.Config(), seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), hooks: rand.New(rand.NewPCG(seed, 2)),
		counters: make(map[tableName]uint32), without: make(map[tableName]bool), byName: make(map[string]*workTable),
	}
	return o
}

// create makes the tables of a flavour, one a replica identity, and fills them.
func (o *oracle) create(schema string, f *flavour, space int, identities ...bool) []*workTable {
	o.t.Helper()
	var made []*workTable
	for _, full := range identities {
		t := &workTable{flavour: f, full: full, space: space}
		identity := "default"
		if full {
			identity = "full"
		}
		t.table = tableName{schema, f.name + "_" + identity}
		o.build(t)
		made = append(made, t)
	}
	return made
}

func (o *oracle) build(t *workTable) {
	o.t.Helper()
	name := quoteTable(t.table)
	constraint := ""
	if t.primary != "" {
		constraint = ", " + t.primary
	}
	columns := strings.NewReplacer("%[2]s", quoteIdent(t.table.schema), "%[3]s", o.collation(), "%[4]s", o.citext()).Replace(t.columns)
	o.db.exec(fmt.Sprintf("CREATE TABLE %s (%s, %s%s) %s", name, columns, payload, constraint, t.after))
	o.db.exec(fmt.Sprintf("ALTER TABLE %s ALTER big SET STORAGE EXTERNAL, ALTER wide SET STORAGE EXTERNAL", name))
	if t.setup != "" {
		o.db.script(strings.ReplaceAll(t.setup, "%[1]s", t.table.String()))
	}
	o.identity(t.table, t.full)
	o.db.grant(t.table)
	o.db.publish(t.table)
	o.tables = append(o.tables, t)
	o.byName[t.table.String()] = t
	w := &workWriter{rand: rand.New(rand.NewPCG(o.seed, uint64(len(o.tables))+1000)), conn: o.db.control, tables: o.tables}
	for range 4 {
		keys := make(map[string][]string)
		for range t.space / 5 {
			key := t.keyOf(w.rand, t.space)
			keys[strings.Join(key, "\x00")] = key
		}
		for _, id := range slices.Sorted(mapKeys(keys)) {
			if err := w.exec(o.db.ctx, w.insertKeys(t, [][]string{keys[id]})); err != nil && !refused(err) {
				o.t.Fatal(err)
			}
		}
	}
}

func mapKeys(m map[string][]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// identity sets the replica identity of a table and of its partitions, where the leaves' count.
func (o *oracle) identity(name tableName, full bool) {
	o.t.Helper()
	if !full {
		return
	}
	for _, row := range o.db.query(`SELECT $1::text::regclass::text UNION SELECT relid::regclass::text
		FROM pg_partition_tree($1::text::regclass)`, quoteTable(name)) {
		o.db.exec("ALTER TABLE " + row[0] + " REPLICA IDENTITY FULL")
	}
}

// collation is a linguistic one that the server has.
func (o *oracle) collation() string {
	o.t.Helper()
	rows := o.db.query(`SELECT collname FROM pg_collation WHERE collname IN ('en_US.utf8', 'en_US', 'en-US-x-icu', 'und-x-icu')
		AND (collencoding = -1 OR collencoding = pg_char_to_encoding(current_setting('server_encoding'))) ORDER BY collname DESC`)
	if len(rows) == 0 {
		o.t.Log("the server has no linguistic collation: the composite key sorts as its bytes do")
		return `"C"`
	}
	return quoteIdent(rows[0][0])
}

// citext is the name of the type where the extension exists, else text.
func (o *oracle) citext() string {
	o.t.Helper()
	rows := o.db.query(`SELECT quote_ident(n.nspname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE typname = 'citext'`)
	if len(rows) == 0 {
		return "text"
	}
	return rows[0][0] + ".citext"
}

// schema makes the schema of the run's tables with the enum, and the sentinel's table.
func (o *oracle) schema() string {
	o.t.Helper()
	schema := o.db.createSchema("oracle")
	var labels []string
	for i := range enumLabels {
		labels = append(labels, enumLabel(i))
	}
	o.db.exec(fmt.Sprintf("CREATE TYPE %s.label AS ENUM (%s)", quoteIdent(schema), strings.ReplaceAll(sqlTexts(labels), "E'", "'")))
	if len(o.db.query(`SELECT FROM pg_available_extensions WHERE name = 'citext'`)) == 0 {
		o.t.Log("the server does not have the extension citext: its table has a key of type text")
	} else { // one at a time: CREATE EXTENSION IF NOT EXISTS fails when two meet
		o.db.script(`BEGIN; SELECT pg_advisory_xact_lock(7236541); CREATE EXTENSION IF NOT EXISTS citext; COMMIT`)
	}
	o.sentinel = tableName{schema, "sentinel"}
	o.db.exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY)", quoteTable(o.sentinel)))
	o.db.grant(o.sentinel)
	o.db.publish(o.sentinel)
	return schema
}

// flavoured makes the tables of a run.
func (o *oracle) flavoured() {
	o.t.Helper()
	schema := o.schema()
	space := 50 + 6*min(o.chunk, 40)
	for _, f := range flavours {
		switch f.name {
		case "deferred":
			o.create(schema, f, space, true)
		case "keyless":
			for _, t := range o.create(schema, f, space, true, false) {
				t.mode, t.check, t.insertOnly = modeKeyless, checkContained, !t.full
			}
		default:
			o.create(schema, f, space, true, false)
		}
	}
	other := func(f *flavour, name string, full bool, mode backfillMode, check tableCheck) {
		copied := *f
		copied.name = name
		o.create(schema, &copied, space, full)
		t := o.tables[len(o.tables)-1]
		t.mode, t.check = mode, check
	}
	byName := func(name string) *flavour {
		return flavours[slices.IndexFunc(flavours, func(f *flavour) bool { return f.name == name })]
	}
	other(byName("int"), "normal", o.rand.IntN(2) == 0, modeNormal, checkFinal)
	other(byName("icu"), "normal_icu", o.rand.IntN(2) == 0, modeNormal, checkFinal)
	other(byName("int"), "changes", o.rand.IntN(2) == 0, modeOnlyChanges, checkChanges)
	other(byName("parts"), "scanned", o.rand.IntN(2) == 0, modeKeyless, checkContained)
	for _, t := range o.tables {
		t.priority = o.rand.IntN(3) - 1
		if t.check == checkStrict && t.mode == modeAutomatic && o.rand.IntN(3) == 0 {
			t.mode = modePrecise
		}
	}
}

// bindings are those of the tables bound now.
func (o *oracle) bindings() []runtimeBinding {
	o.t.Helper()
	var bindings []runtimeBinding
	bind := func(name tableName, key []string, mode backfillMode, priority int) {
		resource := map[string]any{"namespace": name.schema, "stream": name.name, "priority": priority}
		if mode != modeAutomatic {
			resource["mode"] = mode
		}
		raw, err := json.Marshal(resource)
		if err != nil {
			o.t.Fatal(err)
		}
		pointers := make([]string, len(key))
		for i := range key {
			pointers[i] = "/" + key[i]
		}
		if mode == modeKeyless {
			pointers = fallbackKey
		}
		bindings = append(bindings, runtimeBinding{
			resource: raw, collection: name.schema + "/" + name.name, key: pointers, backfill: o.counters[name],
		})
	}
	for _, t := range o.tables {
		if !o.without[t.table] {
			bind(t.table, t.key, t.mode, t.priority)
		}
	}
	bind(o.sentinel, []string{"id"}, modeAutomatic, 0)
	return bindings
}

// config is the endpoint config with the run's chunk size.
func (o *oracle) config() json.RawMessage {
	o.t.Helper()
	changes := map[string]any{"advanced.backfill_chunk_size": o.chunk}
	if o.readOnly {
		changes["advanced.read_only_capture"] = true
	}
	if o.standby != "" {
		changes["address"] = o.standby
	}
	maps.Copy(changes, o.changes)
	return edit(o.t, o.db.config(), changes)
}

// start starts the first session.
func (o *oracle) start() {
	o.t.Helper()
	o.prepare()
	o.runtime.bind(o.bindings())
	o.runtime.start()
}

// prepare makes the runtime.
func (o *oracle) prepare() {
	o.t.Helper()
	o.runtime = newTestRuntime(o.t, runtimeOptions{
		config: o.config(), logLevel: "warn",
		onDocument: func(_ *testRuntime, table string, doc []byte) {
			o.watch(table, doc)
			time.Sleep(time.Duration(o.slow.Load()))
			o.output()
		},
		onMarker: func(*testRuntime, string, string) { o.output() },
		onCheckpoint: func(_ *testRuntime, patch json.RawMessage) {
			o.noteCheckpoint(patch)
			o.output()
		},
		acknowledge: o.acknowledge,
	})
	o.runtime.driver.command = o.command
	o.drawPeer()
}

// drawPeer draws what runtime the next session meets, and from how many bytes on a transaction has checkpoints inside of it.
func (o *oracle) drawPeer() {
	d := o.runtime.driver
	o.runtime.drawPeer(o.rand)
	if o.marks && d.runtime == runtimeV1 {
		d.runtime, d.limits = runtimeV2, nil
	}
	d.env = slices.DeleteFunc(slices.Clone(d.env), func(v string) bool { return strings.HasPrefix(v, testLargeVariable) })
	if bound := o.bound; o.large {
		if bound == 0 {
			bound = 100 << o.rand.IntN(7)
		}
		d.env = append(d.env, fmt.Sprintf("%s=%d", testLargeVariable, bound))
	}
}

// noteCheckpoint keeps a checkpoint's cursor until it is acknowledged.
func (o *oracle) noteCheckpoint(patch json.RawMessage) {
	at := o.cursorOf(patch)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, at)
}

// cursorOf is the cursor of a state or a patch, 0 without one.
func (o *oracle) cursorOf(state json.RawMessage) lsn {
	parsed, err := parseState(state)
	if err != nil {
		o.t.Errorf("%s: %v", state, err)
		return 0
	}
	at, _ := parsed.cursor() // parseState has looked at it
	return at
}

// watch tells the writers where backfills are.
func (o *oracle) watch(table string, doc []byte) {
	t := o.byName[table]
	if t == nil || !bytes.Contains(doc, []byte(`"snapshot":true`)) {
		return
	}
	var columns map[string]json.RawMessage
	if json.Unmarshal(doc, &columns) != nil {
		return // the judgement tells
	}
	at := &scanPosition{at: time.Now()}
	for _, name := range t.key {
		text := string(columns[name])
		if strings.HasPrefix(text, `"`) && json.Unmarshal(columns[name], &text) != nil {
			return
		}
		at.key = append(at.key, text)
	}
	t.scanned.Store(at)
	o.latest.Store(t)
}

// output is called behind every document and checkpoint.
func (o *oracle) output() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.outputs++
	if o.each != nil {
		o.each()
	}
	if o.left == 0 {
		return
	}
	if o.left--; o.left == 0 {
		commit := o.commit
		o.mu.Unlock() // a commit acknowledges
		o.runtime.sever(commit)
		o.mu.Lock()
	}
}

// acknowledge acknowledges n committed checkpoints, or some of them later.
func (o *oracle) acknowledge(_ *testRuntime, n int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.withheld += n
	if o.delayed && o.hooks.IntN(12) > 0 {
		return 0
	}
	n = o.withheld
	if o.delayed {
		n = 1 + o.hooks.IntN(n)
	}
	o.withheld -= n
	for _, at := range o.sent[:n] {
		o.acked = max(o.acked, at)
	}
	o.sent = o.sent[n:]
	return n
}

// renew forgets what was not committed: a session begins.
func (o *oracle) renew() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.withheld, o.left, o.sent = 0, 0, nil
	o.acked = max(o.acked, o.cursorOf(o.runtime.committedState()))
}

// restart starts the next session, now and then with another runtime, chunk size or acknowledgements.
func (o *oracle) restart(rebind bool) {
	o.t.Helper()
	r := o.runtime
	o.drawPeer()
	o.renew()
	o.mu.Lock()
	o.delayed = o.rand.IntN(2) == 0
	o.mu.Unlock()
	if !rebind && o.rand.IntN(5) == 0 {
		o.chunk = []int{1, 2, 7, 50}[o.rand.IntN(4)]
		rebind = true
	}
	if rebind {
		r.driver.config = o.config()
		r.bind(o.bindings())
	}
	r.start()
}

// ended waits for the end of a session that was killed or stopped; another end is a failure.
func (o *oracle) ended(asked bool) {
	o.t.Helper()
	err := o.runtime.wait()
	o.checkSlot()
	exit, ok := errors.AsType[*connectorExit](err)
	switch {
	case errors.Is(err, errSevered):
		o.severed++
	case err == nil && asked:
	case ok && exit.status == "signal: killed":
	case ok && asked && strings.HasPrefix(exit.message, errStdinClosed.Error()):
	case ok && o.cut > 0 && transientMessage(exit.message):
	case ok && o.unmappedBy(exit.message):
	default:
		o.fatalf("a session ended by itself: %v", err)
	}
}

// onSlot is the connection to the server that has the slot.
func (o *oracle) onSlot() *testDB {
	if o.standby == "" || o.standby == *testAddress {
		return o.db
	}
	if o.replica == nil {
		o.replica = &testDB{TB: o.t, ctx: o.db.ctx, control: testConnectTo(o.t, o.standby, *testControlUser, *testControlPassword)}
	}
	return o.replica
}

// checkSame looks whether a transaction that was streamed again had other documents than before.
func (o *oracle) checkSame() {
	o.t.Helper()
	for line := range strings.Lines(o.runtime.stderr()) {
		if strings.Contains(line, " were captured of the transaction that commits at ") {
			o.fatalf("a transaction streamed again had other documents: %s", line)
		}
	}
}

// checkSlot looks at the slot on the server: its position never runs ahead of what was acknowledged, and never goes back.
func (o *oracle) checkSlot() {
	o.t.Helper()
	o.mu.Lock()
	acked := o.acked
	o.mu.Unlock()
	rows := o.onSlot().query(`SELECT coalesce(confirmed_flush_lsn, '0/0')::text FROM pg_replication_slots WHERE slot_name = $1`, o.db.slot)
	if acked == 0 || o.loses { // a slot that may not be there, or is made anew
		return
	}
	if len(rows) != 1 {
		o.fatalf("slot %s is gone, and checkpoints up to %s are acknowledged", o.db.slot, acked)
	}
	confirmed, err := pglogrepl.ParseLSN(rows[0][0])
	if err != nil {
		o.t.Fatal(err)
	}
	if confirmed > acked || confirmed < o.confirmed {
		o.fatalf("slot %s stands at %s: acknowledged are %s, and it stood at %s before", o.db.slot, confirmed, acked, o.confirmed)
	}
	o.confirmed = confirmed
}

// unmappedMessages are what the server's decoding says of a table whose making it missed: the catalog that it sees lacks the
// table's rows, or some of them.
var unmappedMessages = []string{"could not map filen", "pg_attribute catalog is missing"} // filenode, from 16 on filenumber

// unmappedBy notes a session that the server ended for what it could not decode: its own fault, and not one of a number of times. The
// first snapshot of a slot lacks the transactions that ended while it was made (snapbuild.c follows none before all that ran at
// its beginning have ended), and one that began before the slot was ready is decoded with it: whatever such a one does to a table
// that it does not know ends every session at the same place (seen on 15.18), until another slot's decoding has stored a
// snapshot of that place. What is missing is known from the state of its transaction as soon as that precedes the slot's
// catalog_xmin: an end behind that counts as any other, and so does one that has come again for as long as a wait lasts.
func (o *oracle) unmappedBy(message string) bool {
	o.t.Helper()
	missed := func(text string) bool { return strings.Contains(message, text) }
	if !slices.ContainsFunc(unmappedMessages, missed) {
		return false
	}
	var oldest, next int64
	for _, row := range o.onSlot().query(`SELECT (n - age(catalog_xmin))::text, n::text
		FROM pg_replication_slots, txid_snapshot_xmax(txid_current_snapshot()) n WHERE slot_name = $1`, o.db.slot) {
		if _, err := fmt.Sscan(row[0]+" "+row[1], &oldest, &next); err != nil {
			o.t.Fatal(err)
		}
	}
	if o.unmappedNext == 0 || o.loses && oldest >= o.unmappedNext { // a slot that is lost is made anew
		o.unmappedNext, o.unmappedSince = next, time.Now()
	}
	if oldest >= o.unmappedNext || time.Since(o.unmappedSince) > waitLimit {
		return false
	}
	o.unmapped++
	o.t.Logf("the server failed to decode: %s", message)
	return true
}

// transientMessage tells what a connector says whose connections were cut by us.
func transientMessage(text string) bool {
	return strings.Contains(text, "57P01") || strings.Contains(text, "unexpected EOF") || strings.Contains(text, "conn closed") ||
		strings.Contains(text, "terminat") || strings.Contains(text, "connection reset by peer") || strings.Contains(text, "broken pipe")
}

func (o *oracle) hasEnded() bool {
	o.runtime.mu.Lock()
	defer o.runtime.mu.Unlock()
	return o.runtime.ended
}

// sleep waits, but not for longer than the session lives.
func (o *oracle) sleep(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until) && !o.hasEnded(); {
		time.Sleep(min(5*time.Millisecond, d))
	}
}

// sleepQuiet waits until the session has ended or puts out nothing more.
func (o *oracle) sleepQuiet() {
	for before, since := -1, time.Now(); !o.hasEnded() && time.Since(since) < allow(3*time.Second); time.Sleep(5 * time.Millisecond) {
		o.mu.Lock()
		if o.outputs != before {
			before, since = o.outputs, time.Now()
		}
		o.mu.Unlock()
	}
}

// disturb lets a session run for a while and ends it in a random way.
func (o *oracle) disturb() {
	o.t.Helper()
	o.cut = 0
	switch n := o.rand.IntN(20); {
	case n < 8:
		o.sleep(time.Duration(o.rand.Int64N(int64(900 * time.Millisecond))))
		o.runtime.kill()
		o.kills++
		o.ended(false)
	case n < 16:
		o.mu.Lock()
		o.left, o.commit = 1+o.rand.IntN(1<<o.rand.IntN(10)), o.rand.IntN(2) == 0
		o.mu.Unlock()
		o.sleep(2 * time.Second)
		if !o.hasEnded() {
			o.runtime.kill()
			o.kills++
		}
		o.ended(false)
	case n < 18:
		o.sleep(time.Duration(o.rand.Int64N(int64(700 * time.Millisecond))))
		o.runtime.stop()
		o.stops++
		o.ended(true)
	default: // every connection of the capture is cut; it reconnects, or ends and is started again
		o.sleep(time.Duration(o.rand.Int64N(int64(500 * time.Millisecond))))
		o.cut++
		o.onSlot().query(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active`, o.db.slot)
		o.sleep(2 * time.Second)
		o.runtime.stop()
		o.stops++
		o.ended(true)
	}
}

// writers starts n writers; the returned function stops them and waits for them, and may be called again.
func (o *oracle) writers(n int, pause time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, n)
	writers := make([]*workWriter, n)
	for i := range n {
		conn := testConnect(o.t, *testControlUser, *testControlPassword)
		if _, err := conn.Exec(ctx, "SET deadlock_timeout = '20ms'"); err != nil {
			o.t.Fatal(err)
		}
		writers[i] = &workWriter{
			rand: rand.New(rand.NewPCG(o.seed, uint64(100+i))), conn: conn, tables: o.tables, number: int64(i),
			chunk: o.chunk, latest: &o.latest, truncates: o.truncates,
		}
		if o.crashes {
			writers[i].reconnect = o.reconnect
		}
		go func() { ended <- writers[i].run(ctx, pause) }()
	}
	held := make(chan error, 1)
	go func() { held <- o.hold(ctx) }()
	stopped := false
	return func() {
		o.t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := errors.Join(errWriters(ended, n), <-held); err != nil {
			o.fatalf("a writer failed: %v", err)
		}
		transactions, statements, refused := 0, 0, 0
		for _, w := range writers {
			transactions, statements, refused = transactions+w.transactions, statements+w.statements, refused+w.refused
			if w.conn != nil {
				w.conn.Close(context.Background())
			}
		}
		o.written += transactions
		o.t.Logf("seed %d: %d transactions, %d statements, of which %d were refused", o.seed, transactions, statements, refused)
	}
}

// reconnect opens a connection of a writer to a server that is starting again.
func (o *oracle) reconnect(ctx context.Context) (conn *pgx.Conn, err error) {
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if conn, err = pgx.ConnectConfig(ctx, o.connConfig); err == nil {
			_, err = conn.Exec(ctx, "SET deadlock_timeout = '20ms'")
			return conn, err
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

// hold keeps the capture waiting, now for its watermark, now for a chunk, so that changes fall between a chunk and its fence:
// else that takes a millisecond, and hardly any does. A standby's replay is held up instead: what it replays of a lock can
// deadlock with a query of the capture's, which ends only when the replay has waited for max_standby_streaming_delay.
func (o *oracle) hold(ctx context.Context) error {
	random := rand.New(rand.NewPCG(o.seed, 3))
	if o.standby != "" && o.standby != *testAddress {
		conn := testConnectTo(o.t, o.standby, *testControlUser, *testControlPassword)
		for background := context.WithoutCancel(ctx); ctx.Err() == nil; time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond) {
			if _, err := conn.Exec(background, "SELECT pg_wal_replay_pause()"); err != nil {
				return err
			}
			time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
			if _, err := conn.Exec(background, "SELECT pg_wal_replay_resume()"); err != nil {
				return err
			}
		}
		return conn.Close(context.Background())
	}
	conn := testConnect(o.t, *testControlUser, *testControlPassword)
	for ctx.Err() == nil {
		lock := fmt.Sprintf("SELECT FROM %s WHERE slot = %s FOR UPDATE", quoteTable(o.db.watermarks), sqlText(o.db.slot))
		if o.readOnly || o.noRow || random.IntN(3) == 0 {
			lock = fmt.Sprintf("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE", quoteTable(o.tables[random.IntN(len(o.tables))].table))
		}
		background := context.WithoutCancel(ctx)
		_, err := conn.Exec(background, "BEGIN")
		if err == nil {
			if _, err = conn.Exec(background, lock); err != nil && !refused(err) {
				err = fmt.Errorf("%s: %w", lock, err)
			} else {
				time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
				_, err = conn.Exec(background, "ROLLBACK")
			}
		}
		if err != nil && o.crashes && conn.IsClosed() {
			conn, err = o.reconnect(background)
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond)
	}
	return conn.Close(context.Background())
}

// quiesce waits until every backfill is done and all that was written before has been committed.
func (o *oracle) quiesce() {
	o.t.Helper()
	o.quiesceBackfills()
	o.pass()
}

// quiesceBackfills waits for the ends of the backfills, while writers may go on.
func (o *oracle) quiesceBackfills() {
	o.t.Helper()
	o.waitState("every backfill to end", func(state *captureState) bool {
		return !slices.ContainsFunc(o.runtime.capture.Bindings, func(spec *pf.CaptureSpec_Binding) bool {
			b := state.Bindings[spec.StateKey]
			if b == nil || b.Mode != storedActive {
				return true
			}
			m, _ := b.metadata()
			return m.Begun
		})
	})
}

// waitState waits for a state of the capture that is committed, for as long as backfills go on: chunks of one row may take a
// quarter of a second each, where the sender sleeps until it is asked.
func (o *oracle) waitState(what string, holds func(*captureState) bool) {
	o.t.Helper()
	deadline, latest := time.Now().Add(waitLimit), time.Now().Add(5*waitLimit)
	rows := 0
	for {
		state, err := parseState(o.runtime.committedState())
		if err != nil {
			o.fatalf("the committed state: %v", err)
		}
		if holds(state) {
			return
		}
		if before := o.unmapped; o.hasEnded() {
			if o.ended(false); o.unmapped == before {
				o.fatalf("the session ended while the test waited for %s", what)
			}
			o.renew()
			o.runtime.start()
		}
		before := rows
		rows = 0
		for _, b := range state.Bindings {
			rows += b.Backfilled
		}
		if rows != before {
			deadline = time.Now().Add(waitLimit)
		}
		if now := time.Now(); now.After(deadline) || now.After(latest) {
			o.fatalf("waited in vain for %s; state %s", what, o.runtime.committedState())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// waitChanges waits until every change of the tables of which only changes are captured is, and notes since when.
func (o *oracle) waitChanges() {
	o.t.Helper()
	o.waitState("Only Changes to begin", func(state *captureState) bool {
		return !slices.ContainsFunc(o.tables, func(t *workTable) bool {
			b := state.Bindings[stateKey([]string{t.table.schema, t.table.name}, o.counters[t.table])]
			return t.mode == modeOnlyChanges && (b == nil || b.Mode != storedActive)
		})
	})
	o.since = o.db.queryValue(`SELECT clock_timestamp()::text`)
}

// pass waits until the stream has passed a row written now.
func (o *oracle) pass() {
	o.t.Helper()
	o.sentinels++
	o.db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d)", quoteTable(o.sentinel), o.sentinels))
	want := fmt.Sprintf(`"id":%d`, o.sentinels)
	seen := 0
	o.runtime.waitFor("the sentinel", func() bool {
		for ; seen < len(o.runtime.committed); seen++ {
			d := &o.runtime.committed[seen]
			if d.table == o.sentinel.String() && strings.Contains(d.doc, want) {
				return true
			}
		}
		return false
	})
}

// judge checks the committed documents and their replay.
func (o *oracle) judge() {
	o.t.Helper()
	o.checkSame()
	documents := o.runtime.documents()
	h := history.New(history.Table{Name: o.sentinel.String(), Key: []string{"id"}})
	for _, t := range o.tables {
		if t.check != checkContained {
			strict := t.check == checkStrict && !t.again && !t.vanished
			h.Add(history.Table{
				Name: t.table.String(), Key: t.key, Full: t.full && strict && !t.altered, Replaced: t.swaps, Lenient: !strict,
			})
		}
	}
	checkpoint := 0
	contained := make(map[string][]json.RawMessage)
	last := make(map[string]docSource)
	for i, d := range documents {
		if d.checkpoint != checkpoint {
			o.runtime.endCheckpoint(h, i, checkpoint)
			checkpoint = d.checkpoint
		}
		t := o.byName[d.table]
		if d.marker != "" {
			if t != nil && t.check == checkContained {
				contained[d.table] = nil
			} else if err := historyTake(h, i+1, &d); err != nil {
				o.fatalf("%v", err)
			}
			continue
		}
		if t != nil && t.check == checkContained {
			source := sourceOf(o.t, d.doc)
			before := last[d.table]
			if !source.Snapshot && slices.Compare(source.Loc, before.Loc) <= 0 {
				o.fatalf("%s: document %d: loc %v does not come after %v", d.table, i+1, source.Loc, before.Loc)
			}
			if !source.Snapshot {
				last[d.table] = source
			}
			if source.op != "d" {
				contained[d.table] = append(contained[d.table], json.RawMessage(d.doc))
			}
			continue
		}
		if err := h.Document(i+1, d.table, []byte(d.doc)); err != nil {
			o.fatalf("%v\n%s", err, o.around(t, documents, i))
		}
		if t != nil && t.swaps {
			o.judgeSwap(t, documents, i)
		}
	}
	for _, t := range o.tables {
		var rows []json.RawMessage
		if t.check == checkContained {
			rows = contained[t.table.String()]
		} else if err := h.Rows(t.table.String(), func(row *history.Row, _ int) error {
			rows = append(rows, json.RawMessage(row.Columns))
			return nil
		}); err != nil {
			o.fatalf("%s: %v", t.table, err)
		}
		o.compare(t, rows, documents)
	}
	o.compared += h.Keys()
	o.t.Logf("seed %d: %d documents, %d checkpoints, of them %d inside of transactions, %d rows in %d tables; %d kills, %d severed, %d stops",
		o.seed, len(documents), o.runtime.checkpoints, h.Within, h.Keys(), len(o.tables), o.kills, o.severed, o.stops)
}

// docSource is what the judgement needs of _meta.
type docSource struct {
	Loc      []int64 `json:"loc"`
	Snapshot bool    `json:"snapshot"`
	op       string
}

func sourceOf(t testing.TB, doc string) docSource {
	var d struct {
		Meta struct {
			Op     string    `json:"op"`
			Source docSource `json:"source"`
		} `json:"_meta"`
	}
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		t.Fatalf("document %.300s: %v", doc, err)
	}
	d.Meta.Source.op = d.Meta.Op
	return d.Meta.Source
}

// judgeSwap checks what the history allows of a table whose keys can be swapped: an insertion over a row that exists is one
// of the stream, whose row a change of the same transaction has moved to another key.
func (o *oracle) judgeSwap(t *workTable, documents []testDocument, i int) {
	source := sourceOf(o.t, documents[i].doc)
	if !source.Snapshot || source.op != "c" {
		return
	}
	key := o.keyOf(t, documents[i].doc)
	for j := i - 1; j >= 0; j-- {
		if documents[j].table == documents[i].table && documents[j].marker == "BackfillBegin" {
			return
		}
		if documents[j].table == documents[i].table && documents[j].marker == "" && o.keyOf(t, documents[j].doc) == key {
			if sourceOf(o.t, documents[j].doc).op != "d" && !t.again && !t.vanished {
				o.fatalf("%s key %s: document %d is a backfilled row of a key that exists\n%s", t.table, key, i+1,
					o.around(t, documents, i))
			}
			return
		}
	}
}

// keyOf returns a document's key.
func (o *oracle) keyOf(t *workTable, doc string) string {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal([]byte(doc), &columns); err != nil {
		o.t.Fatalf("document %.300s: %v", doc, err)
	}
	var key []string
	for _, name := range t.key {
		key = append(key, string(columns[name]))
	}
	return "[" + strings.Join(key, ", ") + "]"
}

// keyTexts returns the values of the key of a document or row as texts.
func keyTexts(t *workTable, row string) []string {
	var columns map[string]json.RawMessage
	_ = json.Unmarshal([]byte(row), &columns) // the caller has done so
	key := make([]string, len(t.key))
	for i, name := range t.key {
		if json.Unmarshal(columns[name], &key[i]) != nil {
			key[i] = string(columns[name]) // a number
		}
	}
	return key
}

// around lists the documents of the key of document i before and behind it.
func (o *oracle) around(t *workTable, documents []testDocument, i int) string {
	if t == nil {
		return ""
	}
	return o.ofKey(t, documents, o.keyOf(t, documents[i].doc), i) + o.witnessed(t, keyTexts(t, documents[i].doc))
}

// ofKey lists the documents of a key, at most eight before document i and four behind it.
func (o *oracle) ofKey(t *workTable, documents []testDocument, key string, at int) string {
	var before, behind []string
	for i, d := range documents {
		if d.table != t.table.String() || d.marker == "" && o.keyOf(t, d.doc) != key {
			continue
		}
		line := fmt.Sprintf("  document %d, checkpoint %d: %s", i+1, d.checkpoint, d.marker+abridged(d.doc))
		if i <= at {
			before = append(before, line)
		} else if len(behind) < 4 {
			behind = append(behind, line)
		}
	}
	before = before[max(0, len(before)-8):]
	return fmt.Sprintf("documents of key %s:\n%s\nstates of the table:\n%s", key, strings.Join(append(before, behind...), "\n"),
		strings.Join(o.states(t, documents[at].checkpoint), "\n"))
}

// states lists what the checkpoints around n said of a table's binding, those that were lost included.
func (o *oracle) states(t *workTable, n int) []string {
	var found []string
	shown := 0
	for i, patch := range o.runtime.patches {
		var state captureState
		if err := json.Unmarshal(patch, &state); err != nil || i > n+1 && shown > 2 {
			continue
		}
		for key, b := range state.Bindings {
			if b == nil || !strings.HasPrefix(key, stateKey([]string{t.table.schema, t.table.name}, 0)) {
				continue
			}
			raw, err := json.Marshal(b)
			if err != nil || state.Cursor == nil {
				continue
			}
			if i > n+1 {
				shown++
			}
			found = append(found, fmt.Sprintf("  checkpoint %d, cursor %s: %s %q %s", i+1, *state.Cursor, key, b.Scanned, raw))
		}
	}
	return found[max(0, len(found)-8):]
}

// abridged shortens the long values of a document.
func abridged(doc string) string {
	var out strings.Builder
	for run := 0; run < len(doc); {
		end := strings.IndexByte(doc[run:], '"')
		if end < 0 {
			end = len(doc) - run - 1
		}
		if end > 60 {
			fmt.Fprintf(&out, "%s…(%d)…%s", doc[run:run+20], end, doc[run+end-4:run+end+1])
		} else {
			out.WriteString(doc[run : run+end+1])
		}
		run += end + 1
	}
	return out.String()
}

// compare loads the replayed rows into a table like t and has the server compare the two as text.
func (o *oracle) compare(t *workTable, rows []json.RawMessage, documents []testDocument) {
	o.t.Helper()
	columns := append(slices.Clone(t.key), payloadColumns...)
	compared := slices.Clone(columns)
	if t.check != checkStrict && t.check != checkFinal && !t.full { // documents leave unchanged values out
		compared = slices.DeleteFunc(compared, func(c string) bool { return c == "big" || c == "wide" })
	}
	list := strings.Join(columns, ", ")
	o.db.exec("DROP TABLE IF EXISTS pg_temp.replayed")
	o.db.exec(fmt.Sprintf("CREATE TEMPORARY TABLE replayed AS SELECT %s FROM %s WITH NO DATA", list, quoteTable(t.table)))
	var load bytes.Buffer
	for _, row := range rows {
		var values map[string]json.RawMessage
		if err := json.Unmarshal(row, &values); err != nil {
			o.fatalf("%s: %v", t.table, err)
		}
		for i, c := range columns {
			if i > 0 {
				load.WriteByte('\t')
			}
			raw := values[c]
			var text string
			switch {
			case len(raw) == 0 || string(raw) == "null":
				load.WriteString(`\N`)
				continue
			case raw[0] == '"':
				if err := json.Unmarshal(raw, &text); err != nil {
					o.fatalf("%s: column %s: %v", t.table, c, err)
				}
			default:
				text = string(raw)
			}
			load.WriteString(strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`).Replace(text))
		}
		load.WriteByte('\n')
	}
	if _, err := o.db.control.PgConn().CopyFrom(o.db.ctx, &load, "COPY pg_temp.replayed ("+list+") FROM STDIN"); err != nil {
		o.fatalf("%s: load the replay: %v", t.table, err)
	}
	texts := make([]string, len(compared))
	for i, c := range compared {
		texts[i] = c + "::text AS " + c
	}
	server := "SELECT " + strings.Join(texts, ", ") + " FROM " + quoteTable(t.table)
	replayed := "SELECT " + strings.Join(texts, ", ") + " FROM pg_temp.replayed"
	var faults []string
	differ := func(what, sql string) {
		rows, err := o.db.control.Query(o.db.ctx, fmt.Sprintf(`SELECT to_json(d)::text FROM (%s) d LIMIT 3`, sql))
		if err != nil {
			o.fatalf("%s: compare: %v", t.table, err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			o.fatalf("%s: compare: %v", t.table, err)
		}
		for _, row := range found {
			faults = append(faults, what+": "+abridged(row)+o.explain(t, row, documents))
		}
	}
	switch {
	case t.check == checkContained:
		differ("a row without a document", server+" EXCEPT "+replayed)
	case t.check == checkChanges:
		differ("in the replay and not so in the table", replayed+" EXCEPT ALL "+server)
		differ("changed in the table and not so in the replay",
			server+" WHERE stamp > "+sqlText(o.since)+"::timestamptz EXCEPT ALL "+replayed)
	case t.vanished: // rows deleted while the binding was away keep their documents
		differ("in the table and not so in the replay", server+" EXCEPT ALL "+replayed)
	default:
		differ("in the table and not so in the replay", server+" EXCEPT ALL "+replayed)
		differ("in the replay and not so in the table", replayed+" EXCEPT ALL "+server)
	}
	if len(faults) > 0 {
		o.fatalf("%s:\n%s", t.table, strings.Join(faults, "\n"))
	}
}

// explain lists the documents of the key of a row that differs.
func (o *oracle) explain(t *workTable, row string, documents []testDocument) string {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal([]byte(row), &columns); err != nil {
		return err.Error()
	}
	for i := len(documents) - 1; i >= 0; i-- {
		if documents[i].table != t.table.String() {
			continue
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal([]byte(documents[i].doc), &doc); err != nil {
			continue
		}
		if !slices.ContainsFunc(t.key, func(c string) bool {
			return strings.Trim(string(doc[c]), `"`) != strings.Trim(string(columns[c]), `"`)
		}) {
			return "\n" + o.around(t, documents, i)
		}
	}
	return "\n  no document has this key" + o.witnessed(t, keyTexts(t, row))
}

// fatalf ends the test with the seed.
func (o *oracle) fatalf(format string, args ...any) {
	o.t.Helper()
	o.t.Fatalf("seed %d (chunk %d, read-only %v): %s", o.seed, o.chunk, o.readOnly, fmt.Sprintf(format, args...))
}

// firstSeed is the seed of a test's first run.
func firstSeed(t testing.TB) uint64 {
	seed := *oracleSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("the first seed is %d; repeat with -seed %d", seed, seed)
	return seed
}

// seeds runs a test for the seeds of this invocation: runs of them, or as many as -duration has room for with -long.
func seeds(t *testing.T, runs int, run func(t *testing.T, seed uint64)) {
	first := firstSeed(t)
	until := time.Now().Add(*oracleDuration)
	if limit, limited := t.Deadline(); *longTests && limited && limit.Before(until) {
		t.Fatalf("-long runs this for %s, and go test would end it before: give it -timeout 0 or a shorter -duration", *oracleDuration)
	}
	for i := uint64(0); *longTests && time.Now().Before(until) || i < uint64(runs); i++ {
		if !t.Run(fmt.Sprintf("seed=%d", first+i), func(t *testing.T) { run(t, first+i) }) {
			return
		}
	}
}

// TestOracle lets writers, kills and restarts go on for a while.
func TestOracle(t *testing.T) {
	t.Parallel()
	runs, least := 2, 6*time.Second
	if testing.Short() {
		runs, least = 1, 3*time.Second
	}
	seeds(t, runs, func(t *testing.T, seed uint64) {
		o := newOracle(t, seed)
		lasts := least
		if *longTests {
			lasts += time.Duration(o.rand.Int64N(int64(3 * least)))
		}
		o.chunk = []int{1, 2, 7, 50}[o.rand.IntN(4)]
		o.readOnly = seed%2 == 1
		o.large = o.rand.IntN(2) == 0
		o.disturbed(lasts)
	})
}

// disturbed captures tables of all flavours under writers and disturbances for a while, and judges what came.
func (o *oracle) disturbed(lasts time.Duration) {
	o.t.Helper()
	o.flavoured()
	stop := o.writers(4, 6*time.Millisecond)
	o.start()
	o.waitChanges()
	for until := time.Now().Add(lasts); time.Now().Before(until); {
		o.disturb()
		o.restart(false)
	}
	stop()
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
}

// TestOracleAgain adds, removes and resets bindings while writers and kills go on, also while no session runs. In the end
// the destination has exactly the source's keys, but for tables that were away: what was deleted then keeps its documents.
func TestOracleAgain(t *testing.T) {
	t.Parallel()
	rounds := 3
	switch {
	case *longTests:
		rounds = 10
	case testing.Short():
		rounds = 1
	}
	seeds(t, 1, func(t *testing.T, seed uint64) { oracleAgain(t, seed, rounds) })
}

// TestOracleMarkers has tables truncated, bindings reset, removed and added, and slots lost, while writers and kills go on: with backfill
// markers the collection equals the table, deletions included. Where nothing but TRUNCATE happens, the history is strict all the same.
func TestOracleMarkers(t *testing.T) {
	t.Parallel()
	lasts := 6 * time.Second
	if testing.Short() {
		lasts = 3 * time.Second
	}
	seeds(t, 2, func(t *testing.T, seed uint64) {
		if seed%2 == 0 {
			rounds := 3
			if *longTests {
				rounds = 8
			}
			o := markedOracle(t, seed)
			o.loses, o.changes["advanced.on_slot_loss"] = true, "backfill"
			o.again(rounds)
			return
		}
		o := markedOracle(t, seed)
		o.chunk, o.readOnly = []int{1, 2, 7, 50}[o.rand.IntN(4)], seed%4 == 1
		o.disturbed(lasts)
	})
}

// markedOracle is an oracle with backfill markers, whose writers truncate tables.
func markedOracle(t *testing.T, seed uint64) *oracle {
	o := newOracle(t, seed)
	o.marks, o.truncates, o.changes = true, 50, map[string]any{"advanced.feature_flags": "emit_backfill_markers"}
	return o
}

// lose drops the slot between two sessions, with what it has for the capture.
func (o *oracle) lose() {
	o.t.Helper()
	const sqlDrop = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active`
	o.db.eventually("the slot to be free", func() bool {
		o.db.query(sqlDrop, o.db.slot)
		return o.db.queryValue("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1", o.db.slot) == "0"
	})
	for _, t := range o.tables {
		t.again = true
	}
}

// oracleAgain is a run of TestOracleAgain.
func oracleAgain(t *testing.T, seed uint64, rounds int) *oracle {
	t.Helper()
	o := newOracle(t, seed)
	o.again(rounds)
	return o
}

// again resets, removes and adds bindings for some rounds, and judges.
func (o *oracle) again(rounds int) {
	o.t.Helper()
	o.chunk = []int{2, 7, 20}[o.rand.IntN(3)]
	o.readOnly = o.rand.IntN(3) == 0
	o.large = o.rand.IntN(2) == 0
	schema := o.schema()
	for _, f := range flavours {
		if slices.Contains([]string{"int", "icu", "numeric", "enum", "parts"}, f.name) {
			o.create(schema, f, 60+6*o.chunk, true, false)
		}
	}
	if *soakTests { // on a server of its own, which may keep its WAL
		o.witness()
	}
	for _, table := range o.tables {
		if o.rand.IntN(3) == 0 { // added later
			o.without[table.table] = true
		}
	}
	stop := o.writers(3, 15*time.Millisecond)
	o.start()
	for range rounds {
		o.disturb()
		for range o.rand.IntN(3) {
			o.restart(false)
			o.disturb()
		}
		time.Sleep(time.Duration(o.rand.IntN(300)) * time.Millisecond) // changes that wait in the slot
		for _, table := range o.tables {
			switch n := o.rand.IntN(6); {
			case o.without[table.table] && n < 3:
				delete(o.without, table.table)
			case n == 0 && !o.without[table.table]:
				o.without[table.table], table.vanished, table.again = true, !o.marks, true
			case n < 3 && !o.without[table.table]:
				o.counters[table.table]++
				table.again = true
			}
		}
		if o.loses && o.rand.IntN(2) == 0 {
			o.lose()
		}
		o.restart(true)
	}
	o.disturb()
	clear(o.without)
	o.restart(true)
	stop()
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
}

// TestOracleAgainDown resets a binding whose rows were deleted and moved while no session ran.
func TestOracleAgainDown(t *testing.T) {
	o := newOracle(t, 1)
	o.chunk = 2
	schema := o.schema()
	for _, table := range o.create(schema, flavours[0], 0, true, false) {
		table.again = true
		o.db.exec(fmt.Sprintf("INSERT INTO %s (id) SELECT generate_series(1, 12)", quoteTable(table.table)))
	}
	o.start()
	o.quiesce()
	o.runtime.stop()
	o.ended(true)
	for _, table := range o.tables {
		o.counters[table.table]++
		o.db.script(strings.ReplaceAll(`DELETE FROM {} WHERE id IN (1, 11); UPDATE {} SET id = 50 WHERE id = 5;
			BEGIN; DELETE FROM {} WHERE id = 3; INSERT INTO {} (id, n) VALUES (3, 1); COMMIT`, "{}", quoteTable(table.table)))
	}
	o.restart(true)
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
}

// killScript is what TestOracleKillEvery writes, a transaction a line; {int}, {num} and {icu} are the tables.
var killScript = []string{
	`UPDATE {int} SET n = n + 1, stamp = clock_timestamp()`,
	`INSERT INTO {int} (id, big) VALUES (100, repeat('x', 4000)); UPDATE {int} SET id = 1000 WHERE id = 3; UPDATE {num} SET n = 7 WHERE v = 2`,
	`DELETE FROM {num} WHERE v = 1; INSERT INTO {num} (v) VALUES (1.0); UPDATE {num} SET v = 1.00 WHERE v = 1`,
	`DELETE FROM {icu} WHERE t = 'ab'; DELETE FROM {int} WHERE id IN (1, 2); UPDATE {icu} SET n = n + 1`,
	`INSERT INTO {int} (id) VALUES (2); SAVEPOINT s; INSERT INTO {int} (id) VALUES (200); DELETE FROM {num} WHERE v = 4; ROLLBACK TO s;
		UPDATE {int} SET id = -id WHERE id = 2`,
	`UPDATE {icu} SET t = upper(t) WHERE t IN ('a', 'z'); UPDATE {num} SET v = v + 10, n = n + 1 WHERE v = 3`,
	`INSERT INTO {icu} (a, t) VALUES (7, 'é'), (7, 'e'), (-7, 'é'); UPDATE {int} SET n = n + 1 WHERE id > 3`,
	`DELETE FROM {int} WHERE id = 1000; INSERT INTO {int} (id) VALUES (1000); UPDATE {int} SET n = 5 WHERE id = 1000`,
	`UPDATE {icu} SET a = a + 1, wide = repeat('y', 3000) WHERE t < 'c'`,
	`DELETE FROM {icu}; INSERT INTO {num} (v) VALUES (-1), ('NaN'); DELETE FROM {num} WHERE v = 'NaN'`,
	`INSERT INTO {icu} (a, t) VALUES (1, 'a'), (1, 'A'); UPDATE {int} SET n = n + 1; UPDATE {num} SET n = n + 1`,
	// Rows of one WAL record, and commits that follow each other at once: only the place within and behind tells them apart.
	`COPY {int} (id) FROM PROGRAM 'seq 2000 2011'; UPDATE {int} SET n = n + 1 WHERE id >= 2000`,
	`UPDATE {int} SET n = 6 WHERE id = 2000; COMMIT; BEGIN; UPDATE {int} SET n = 7 WHERE id = 2000; COMMIT; BEGIN;
		COPY {num} (v) FROM PROGRAM 'seq 3000 3005'; COMMIT; BEGIN; UPDATE {int} SET n = 8 WHERE id = 2000; COMMIT; BEGIN;
		DELETE FROM {int} WHERE id = 2001; COMMIT; BEGIN; INSERT INTO {int} (id) VALUES (2001)`,
}

// TestOracleKillEvery kills the connector behind every output of a small run, one run for each, and looks at each result.
// The writes come at fixed outputs, so that the runs are alike.
func TestOracleKillEvery(t *testing.T) {
	step := 5
	switch {
	case *longTests:
		step = 1
	case testing.Short():
		step = 25
	}
	whole, _ := killBehind(t, 0, 0, 0, false)
	parts, _ := killBehind(t, 0, 0, 0, true)
	t.Logf("a run has %d documents and checkpoints, with checkpoints inside of transactions %d", whole, parts)
	if whole < 60 || parts < whole {
		t.Errorf("a run has %d documents and checkpoints, want 60 at least, and not more than %d", whole, parts)
	}
	for n := step; n <= parts; n += step {
		large := n/step%2 == 0 || n > whole || step == 1
		total := whole
		if large {
			total = parts
		}
		t.Run(fmt.Sprintf("n=%d", n), func(t *testing.T) {
			t.Parallel()
			killBehind(t, n, 0, total, large)
			if step == 1 && n <= whole {
				killBehind(t, n, 0, whole, false)
			}
		})
	}
}

// TestOracleKillBytes has the runtime die at random bytes of the connector's output, within messages.
func TestOracleKillBytes(t *testing.T) {
	cuts := 6
	switch {
	case *longTests:
		cuts = 300
	case testing.Short():
		cuts = 2
	}
	total, bytes := killBehind(t, 0, 0, 0, true)
	random := rand.New(rand.NewPCG(firstSeed(t), 4))
	for range cuts {
		at := 1 + random.Int64N(bytes)
		t.Run(fmt.Sprintf("at=%d", at), func(t *testing.T) {
			t.Parallel()
			killBehind(t, 0, at, total, true)
		})
	}
}

// cutReader is an output of which we die to see more than the first bytes.
type cutReader struct {
	r    io.Reader
	left int64 // negative: there is no end
	seen atomic.Int64
}

func (c *cutReader) Read(p []byte) (int, error) {
	if left := c.left - c.seen.Load(); c.left >= 0 {
		if left == 0 {
			return 0, errSevered
		}
		p = p[:min(int64(len(p)), left)]
	}
	n, err := c.r.Read(p)
	c.seen.Add(int64(n))
	return n, err
}

// killBehind runs killScript, kills the connector behind output n or dies at a byte of the first session's output (0: never),
// resumes, judges, and returns how many outputs there were, and how many bytes in the first session. total is about how
// many outputs a run without a kill has.
func killBehind(t *testing.T, n int, at int64, total int, large bool) (outputs int, bytes int64) {
	o := newOracle(t, uint64(n)+uint64(at))
	o.chunk = 3
	o.readOnly, o.large, o.bound = n%7 == 6, large, 100
	schema := o.schema()
	names := []string{"{schema}", quoteIdent(schema)}
	for _, f := range flavours {
		if rows := map[string]string{
			"int":     `(id, big) SELECT i, CASE WHEN i % 2 = 1 THEN repeat(md5(i::text), 120) END FROM generate_series(1, 10) i`,
			"numeric": `(v, big) SELECT i, repeat(md5(i::text), 130) FROM generate_series(1, 8) i`,
			"icu": `(a, t, wide) SELECT i % 3, w, repeat(w, 1000)
				FROM unnest('{a,ab,b,co-op,coop,é,ß,z,x y,""}'::text[]) WITH ORDINALITY w (w, i)`,
		}[f.name]; rows != "" {
			table := o.create(schema, f, 0, f.name != "numeric")[0]
			o.db.exec("INSERT INTO " + quoteTable(table.table) + rows)
			names = append(names, "{"+f.name[:3]+"}", quoteTable(table.table))
		}
	}
	conn := testConnect(t, *testControlUser, *testControlPassword)
	script := killScript
	write := func() { // with o.mu held
		if len(script) == 0 {
			return
		}
		sql := "BEGIN; " + strings.NewReplacer(names...).Replace(script[0]) + "; COMMIT"
		script = script[1:]
		if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	o.each = func() {
		if o.outputs%4 == 0 {
			write()
		}
	}
	o.delayed = n%3 == 0
	o.left, o.commit = n, n%2 == 0
	o.prepare()
	o.runtime.bind(o.bindings())
	cut := &cutReader{left: -1}
	if at > 0 {
		cut.left = at
	}
	o.runtime.driver.wrap = func(r io.Reader) io.Reader { cut.r = r; return cut }
	err := o.runtime.tryStart()
	o.runtime.driver.wrap = nil
	switch {
	case err != nil && at > 0 && errors.Is(err, errSevered): // in the answer to Spec or Open
		o.severed++
		o.restart(false)
	case err != nil:
		t.Fatal(err)
	case at > 0:
		o.sleepQuiet()
		if !o.hasEnded() {
			t.Logf("byte %d has not come: this run has fewer", at)
			o.runtime.kill()
		}
		o.ended(false)
		o.restart(false)
	case n > 0:
		o.sleepQuiet()
		switch {
		case o.hasEnded():
			o.ended(false)
			o.restart(false)
		case n < total*3/4:
			o.fatalf("output %d has not come", n)
		default:
			t.Logf("output %d has not come: this run has fewer", n)
			o.mu.Lock()
			o.left = 0
			o.mu.Unlock()
		}
	}
	for done, before := false, -1; !done; time.Sleep(200 * time.Millisecond) {
		o.mu.Lock()
		if o.outputs == before { // the outputs so far do not lead to the rest of the script
			write()
		}
		before, done = o.outputs, len(script) == 0
		o.mu.Unlock()
	}
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
	return o.outputs, cut.seen.Load()
}

// TestBackfillKeys scans tables row by row, so that every key is once the position a chunk starts behind.
func TestBackfillKeys(t *testing.T) {
	o := newOracle(t, 1)
	o.chunk = 1
	schema := o.schema()
	o.db.exec(fmt.Sprintf("CREATE DOMAIN %s.word AS %s", quoteIdent(schema), o.citext()))
	for i, c := range []struct {
		columns string
		rows    []string // of keys
	}{
		{"a text, b text", []string{"('', '')", "('', 'x')", "('x', '')", "(' ', '')"}},
		{"a " + o.citext() + ", b int", []string{"('a', 1)", "('B', 1)", "('c', 1)", "('D', 2)", "('d', 3)", "('', 0)"}},
		{"a " + quoteIdent(schema) + ".word, b int", []string{"('a', 1)", "('B', 1)", "('c', 1)", "('D', 2)", "('', 0)"}},
		{"a " + o.citext() + ", b " + o.citext(), []string{"('a', 'b')", "('A', 'C')", "('B', 'a')", "('b', 'D')", "('', '')"}},
		{"a char(3), b bit(3)", []string{"('abc', B'101')", "('abd', B'100')", "('abd', B'110')", "('', B'000')"}},
		{`a "char", b varbit`, []string{"('a', B'101')", "('b', B'')", "('', B'11')", "('', B'')"}},
		{"a bytea, b uuid", []string{"('', md5(random()::text)::uuid)", `('\x00', md5(random()::text)::uuid)`, `('\xff', md5(random()::text)::uuid)`}},
		{"a interval, b numeric", []string{"('1 mon', 1)", "('30 days', 1.5)", "('-1 day', 'NaN')", "('0', 0)", "('0', -0.5)"}},
		{"a int[], b text[]", []string{"('{}', '{}')", "('{1,NULL}', '{NULL}')", `('{1}', '{"",a}')`, "('{2}', '{}')"}},
		{"a time, b timetz", []string{"('24:00', '24:00+0')", "('0:0', '0:0+1')", "('0:0', '1:0+2')"}},
	} {
		f := &flavour{
			name: fmt.Sprintf("keys%d", i), columns: c.columns, key: []string{"a", "b"}, primary: "PRIMARY KEY (a, b)",
		}
		table := o.create(schema, f, 0, false)[0]
		o.db.exec(fmt.Sprintf("INSERT INTO %s (a, b) VALUES %s", quoteTable(table.table), strings.Join(c.rows, ", ")))
	}
	o.start()
	o.quiesce()
	for _, table := range o.tables {
		count := 0
		for _, d := range o.runtime.documents() {
			if d.table == table.table.String() {
				count++
			}
		}
		if want := o.db.queryValue("SELECT count(*)::text FROM " + quoteTable(table.table)); want != fmt.Sprint(count) {
			t.Errorf("%s (%s): %d documents of %s rows", table.table, table.columns, count, want)
		}
	}
}
