package main

// e2e_standby_test.go captures from a real streaming standby (PostgreSQL 16 and newer), through its promotion, and from a
// primary whose standby takes over (17 and newer).
//
// Goal: a standby is captured as exactly as a primary is, also one that lags; nothing is written to it; and neither its own
// promotion nor that of a primary's standby loses or repeats a change, or passes as a gap when it is none. Method: servers
// of the test's own, killed and promoted while the capture works; the oracle of e2e_oracle_test.go judges.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// caughtUp waits until the standby has replayed what the test's server has written so far.
func (s *ownServer) caughtUp(db *testDB) {
	s.t.Helper()
	var at string
	db.exec("SELECT txid_current()") // a commit record is flushed, the end of the WAL is not always
	at = db.queryValue("SELECT pg_current_wal_insert_lsn()::text")
	db.eventually("the standby to catch up", func() bool {
		return s.value("SELECT (pg_last_wal_replay_lsn() >= $1::text::pg_lsn)::text", at) == "true"
	})
}

// value returns the only value of a query on the server, which need not be the test server.
func (s *ownServer) value(sql string, args ...any) string {
	s.t.Helper()
	conn := testConnectTo(s.t, s.address, *testControlUser, *testControlPassword)
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&text); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// logSnapshots has the primary log its running transactions all the time, for which the creation of a slot on a standby
// waits, until the returned function is called.
func (db *testDB) logSnapshots() (stop func()) {
	db.Helper()
	conn := testConnect(db.TB, *testControlUser, *testControlPassword)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := conn.Exec(context.Background(), "SELECT pg_log_standby_snapshot()"); err != nil {
				return // the primary was halted
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// standbyConfig is the configuration of a capture from the standby.
func (db *testDB) standbyConfig(s *ownServer, advanced map[string]any) any {
	db.Helper()
	all := map[string]any{"read_only_capture": true}
	for name, value := range advanced {
		all[name] = value
	}
	return edit(db.TB, db.edgeConfig(all), map[string]any{"address": s.address})
}

// refused starts a session that must end with exit status 1 and a message that holds all the texts.
func (r *testRuntime) refused(texts ...string) {
	r.t.Helper()
	err := r.tryStart()
	if err == nil {
		err = r.wait()
	}
	exit, ok := errors.AsType[*connectorExit](err)
	if !ok || exit.status != "exit status 1" {
		r.t.Errorf("the session ended with %v, want an error about %q", err, texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(exit.message, text) {
			r.t.Errorf("the session ended with\n%s\nwithout %q", exit.message, text)
		}
	}
}

// bothWaysOut are parts of every error of a gap.
var bothWaysOut = []string{"re-backfill all bindings", `set ` + "`advanced.on_slot_loss`" + ` to "backfill"`}

// TestStandby: what is refused on a standby and how, whom the creation of a slot waits for, a capture through restarts of
// connector and standby, and the ways in which a standby invalidates a slot.
func TestStandby(t *testing.T) {
	primary := startServerOf(t, 16, "wal_keep_size=512MB")
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 300)
	standby := primary.standby()
	modes := map[tableName]backfillMode{table: modePrecise}

	t.Run("validation", func(t *testing.T) {
		unpublished := db.table("unpublished")
		db.exec("CREATE TABLE " + quoteTable(unpublished) + " (id int PRIMARY KEY)")
		db.grant(unpublished)
		standby.caughtUp(db)
		for _, test := range []struct {
			name    string
			changes map[string]any
			table   tableName
			want    []string
		}{
			{"may write", map[string]any{"advanced.read_only_capture": false}, table, []string{
				"the server is a standby, where no watermarks can be written: set `advanced.read_only_capture`, or connect to the primary",
			}},
			{"no publication", map[string]any{"advanced.publicationName": "nonesuch"}, table, []string{
				`the publication "nonesuch" does not exist. Run on the primary: CREATE PUBLICATION "nonesuch" FOR TABLE ONLY ` + quoteTable(table),
			}},
			{"not a member", nil, unpublished, []string{
				unpublished.String() + " is not in the publication", "Run on the primary: " + addStatement(db.publication, unpublished),
			}},
			{"failover slot", map[string]any{"advanced.failover_slot": true}, table, []string{"`advanced.failover_slot`"}},
		} {
			config := edit(t, db.edgeConfig(map[string]any{"read_only_capture": true}), map[string]any{"address": standby.address})
			r := newTestRuntime(t, runtimeOptions{config: edit(t, config, test.changes)})
			_, err := r.driver.validate(t.Context(), []runtimeBinding{faultBinding(test.table)}, nil)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: validation ended with %v, want %q", test.name, err, want)
				}
			}
		}
		if got := standby.value("SELECT count(*)::text FROM pg_replication_slots"); got != "0" {
			t.Errorf("validation left %s slots", got)
		}
	})

	// createSlotWith says every 200 ms what the real thing says every 10 s.
	t.Run("slot", func(t *testing.T) {
		s := db.settings()
		s.readOnly = true
		host, port, _ := strings.Cut(standby.address, ":")
		s.host = host
		_, _ = fmt.Sscan(port, &s.port)
		d := db.connect(s)
		writer := db.begin("INSERT INTO " + quoteTable(table) + " VALUES (-1, 'open')")
		standby.caughtUp(db)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var waits []string
		stop := db.logSnapshots()
		onWait := func(msg string) {
			waits = append(waits, msg)
			if strings.Contains(msg, "transactions that are open on the primary must end first, the oldest with the transaction ID ") &&
				strings.Contains(msg, "run there: SELECT pid, application_name") {
				cancel()
			}
		}
		_, err := createSlotWith(ctx, d, db.replication(d), slotPatience{onWait, 0, 200 * time.Millisecond})
		stop()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("created behind an open transaction: %v, after %q", err, waits)
		}
		if got := standby.value("SELECT count(*)::text FROM pg_replication_slots"); got != "0" {
			t.Errorf("%s slots are left behind", got)
		}
		doomed := newTestRuntime(t, runtimeOptions{config: db.standbyConfig(standby, nil)})
		doomed.bind(doomed.edgeBindings(modes))
		doomed.start()
		slots := func() string { return standby.value("SELECT count(*)::text FROM pg_replication_slots") }
		db.eventually("a slot that is being created", func() bool { return slots() == "1" })
		doomed.kill()
		_ = doomed.wait()
		db.eventually("the half-made slot of a killed connector to go", func() bool { return slots() == "0" })
		db.end(writer, "ROLLBACK")
		waits = nil
		go func() {
			time.Sleep(time.Second) // without which the snapshot might come before the first status
			db.logSnapshots()
		}()
		at, err := createSlotWith(t.Context(), d, db.replication(d), slotPatience{func(msg string) { waits = append(waits, msg) }, 0, 200 * time.Millisecond})
		const want = "on a standby it needs the primary to log its running transactions, which an idle primary does not do; run there: " +
			"SELECT pg_log_standby_snapshot();"
		if err != nil || at == 0 || !slices.ContainsFunc(waits, func(msg string) bool { return strings.Contains(msg, want) }) {
			t.Errorf("created at %s, %v, after %q", at, err, waits)
		}
		standby.value("SELECT pg_drop_replication_slot($1)::text", db.slot)
	})

	snapshots := db.logSnapshots()
	defer snapshots()
	r := newTestRuntime(t, runtimeOptions{config: db.standbyConfig(standby, map[string]any{"backfill_chunk_size": 10})})
	standby.caughtUp(db)
	r.bind(r.edgeBindings(modes))
	r.start()
	for i := range 3 {
		r.waitFor("some rows", func() bool { return len(r.committed) >= 30*(i+1) })
		// What has been received and not replayed is streamed to no fence yet, and seen by no chunk.
		standby.value("SELECT pg_wal_replay_pause()::text")
		db.exec("UPDATE " + quoteTable(table) + " SET v = v || '.' WHERE id > 0")
		db.exec("UPDATE " + quoteTable(table) + " SET id = -id WHERE id % 50 = 0")
		time.Sleep(300 * time.Millisecond)
		standby.value("SELECT pg_wal_replay_resume()::text")
	}
	for range 2 {
		r.kill()
		_ = r.wait()
		r.start()
		db.exec("UPDATE " + quoteTable(table) + " SET v = v || '.' WHERE id % 3 = 0")
	}
	r.waitEnd(db, table)
	for _, command := range []string{"crash", "halt"} {
		standby.script(command)
		db.exec("UPDATE " + quoteTable(table) + " SET v = v || '" + command + "' WHERE id % 7 = 0")
		if command == "halt" {
			standby.script("resume")
		}
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'behind')", quoteTable(table), 5000+len(command)))
		for ended := true; ended; {
			r.waitFor("the standby's restart to be passed", func() bool {
				return r.ended || slices.ContainsFunc(r.committed, func(d testDocument) bool {
					return strings.Contains(d.doc, fmt.Sprintf(`"id":%d,`, 5000+len(command)))
				})
			})
			ended = r.resume()
		}
	}
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	state := r.committedState()
	resumed := func(t *testing.T, advanced map[string]any) *testRuntime {
		again := newTestRuntime(t, runtimeOptions{config: db.standbyConfig(standby, advanced), state: state})
		again.bind(again.edgeBindings(modes))
		return again
	}

	t.Run("rows removed", func(t *testing.T) {
		standby.value("SELECT set_config('x.y', 'z', false)") // the connection works
		standby.alter("hot_standby_feedback", "off")
		db.eventually("the standby's feedback to end", func() bool {
			return db.queryValue("SELECT count(backend_xmin) FROM pg_stat_replication") == "0"
		})
		db.exec("CREATE TABLE test.vacuumed (id int)")
		db.exec("DROP TABLE test.vacuumed")
		db.exec("VACUUM pg_class")
		db.exec("SELECT pg_log_standby_snapshot()")
		standby.caughtUp(db)
		db.eventually("the slot to be invalidated", func() bool {
			return standby.value("SELECT bool_or(conflicting)::text FROM pg_replication_slots") == "true"
		})
		resumed(t, nil).refused(append(bothWaysOut, `the server has invalidated the replication slot`, "set hot_standby_feedback = on")...)
		again := resumed(t, map[string]any{"on_slot_loss": "backfill"})
		again.start()
		again.waitEnd(db, table)
		again.checkRows(db, table)
		again.stop()
		if err := again.wait(); err != nil {
			t.Fatal(err)
		}
		state = again.committedState()
	})
	t.Run("wal_level", func(t *testing.T) {
		standby.alter("hot_standby_feedback", "on")
		again := resumed(t, nil)
		again.start()
		again.waitEnd(db, table)
		db.exec("ALTER SYSTEM SET wal_level = replica")
		snapshots()
		primary.crash(db)
		err := again.wait() // in mid-stream
		if err == nil || !strings.Contains(err.Error(), "the server has invalidated the replication slot") {
			t.Errorf("the session ended with %v", err)
		}
		again.refused(append(bothWaysOut, `the server has invalidated the replication slot`, "wal_level")...)
		all := resumed(t, map[string]any{"on_slot_loss": "backfill"})
		all.refused("Set wal_level = logical on this server, and for a standby on its primary, too")
	})
}

// alter changes a setting of a server that need not be the test server.
func (s *ownServer) alter(name, value string) {
	s.t.Helper()
	conn := testConnectTo(s.t, s.address, *testControlUser, *testControlPassword)
	defer conn.Close(context.Background())
	for _, sql := range []string{fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, quoteLiteral(value)), "SELECT pg_reload_conf()"} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestStandbyOracle: writers on the primary while a standby that lags is backfilled and streamed, with kills, then its
// promotion under the running capture, and writers on it.
func TestStandbyOracle(t *testing.T) {
	seeds(t, 1, func(t *testing.T, seed uint64) {
		primary := startServerOf(t, 16, "wal_keep_size=512MB")
		o := newOracle(t, seed)
		o.chunk = []int{5, 20}[o.rand.IntN(2)]
		o.readOnly = true
		schema := o.schema()
		for _, f := range flavours {
			if slices.Contains([]string{"int", "icu", "parts"}, f.name) {
				o.create(schema, f, 80+4*o.chunk, true)
			}
		}
		standby := primary.standby("recovery_min_apply_delay=40ms")
		o.standby = standby.address
		stopSnapshots := o.db.logSnapshots()
		defer stopSnapshots()
		stop := o.writers(3, 6*time.Millisecond)
		standby.caughtUp(o.db)
		o.start()
		o.waitChanges()
		disturbances := 2
		if *longTests {
			disturbances = 12
		}
		for range disturbances {
			o.disturb()
			o.restart(false)
		}
		if o.rand.IntN(2) == 0 { // every table is backfilled once more, through the promotion
			o.runtime.kill()
			o.ended(false)
			for _, table := range o.tables {
				o.counters[table.table]++
				table.again = true
			}
			o.restart(true)
		}
		stop()
		stopSnapshots()
		running := !o.hasEnded()
		primary.script("halt")
		standby.script("promote")
		o.db.moveTo(standby)
		stop = o.writers(3, 6*time.Millisecond)
		o.sleep(2 * time.Second)
		if running && o.hasEnded() {
			o.fatalf("the session did not outlive the promotion: %v", o.runtime.wait())
		}
		o.runtime.kill()
		o.ended(false)
		o.restart(false) // its cursor belongs to the new timeline
		o.sleep(time.Second)
		stop()
		o.quiesce()
		o.judge()
		o.runtime.stop()
		o.ended(true)
	})
}

// forwarder is an address that leads to one server now, and to another later, as a provider's endpoint does.
type forwarder struct {
	address string
	target  atomic.Pointer[string]
}

func newForwarder(t *testing.T, target *ownServer) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	f := &forwarder{address: listener.Addr().String()}
	f.target.Store(&target.address)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", *f.target.Load())
			if err != nil {
				client.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{server, client}, {client, server}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					pair[0].Close()
				}()
			}
		}
	}()
	return f
}

// TestFailover: the slot is a failover slot where that is asked for, from the beginning or later; its copy on the standby is
// refused; the primary dies under writers and the standby takes over at the same address: nothing is lost or repeated. A
// standby that lacked what the capture had read is a gap.
func TestFailover(t *testing.T) {
	const synchronized = "synchronized_standby_slots=first"
	const lively = "wal_sender_timeout=12s" // the slot moves every two seconds, and its copies come sooner
	primary := startServerOf(t, 17, "wal_keep_size=512MB", synchronized, lively)
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 300)
	db.exec("SELECT pg_create_physical_replication_slot('first', true)")
	standby := primary.standby("sync_replication_slots=on", "primary_slot_name=first", lively)
	stopSnapshots := db.logSnapshots() // with which the slot's restart position moves
	defer func() { stopSnapshots() }()
	endpoint := newForwarder(t, primary)
	config := func(advanced map[string]any) json.RawMessage {
		return edit(t, db.edgeConfig(advanced), map[string]any{"address": endpoint.address})
	}
	modes := map[tableName]backfillMode{table: modePrecise}
	synced := func(s *ownServer) {
		t.Helper()
		db.eventually("the standby to have a copy of the slot", func() bool {
			db.exec("UPDATE " + quoteTable(table) + " SET v = v || '.' WHERE id = 2") // it is copied once it has moved
			time.Sleep(100 * time.Millisecond)
			return s.value("SELECT count(*)::text FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary", db.slot) == "1"
		})
	}
	failover := func() string {
		return db.queryValue("SELECT failover::text FROM pg_replication_slots WHERE slot_name = $1", db.slot)
	}

	r := newTestRuntime(t, runtimeOptions{config: config(map[string]any{"backfill_chunk_size": 20})})
	r.bind(r.edgeBindings(modes))
	r.start()
	r.waitEnd(db, table)
	r.stop()
	if err := r.wait(); err != nil || failover() != "false" {
		t.Fatalf("%v, failover slot: %s", err, failover())
	}
	r.driver.config = config(map[string]any{"failover_slot": true})
	r.bind(r.edgeBindings(modes))
	r.start()
	r.waitEnd(db, table)
	if failover() != "true" {
		t.Error("a slot that was there did not become a failover slot")
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	db.dropSlot()
	again := newTestRuntime(t, runtimeOptions{config: config(map[string]any{"failover_slot": true, "backfill_chunk_size": 20})})
	again.bind(again.edgeBindings(modes))
	r = again
	r.start()
	r.waitEnd(db, table)
	if failover() != "true" {
		t.Error("a new slot is no failover slot")
	}

	synced(standby)
	copied := newTestRuntime(t, runtimeOptions{
		config: db.standbyConfig(standby, nil), state: r.committedState(),
	})
	_, err := copied.driver.validate(t.Context(), []runtimeBinding{faultBinding(table)}, nil)
	const want = "is this standby's copy of a slot of its primary's, which cannot be used before the standby is promoted"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("validation ended with %v, want %s", err, want)
	}

	// The primary dies under a writer.
	writer := testConnect(t, *testControlUser, *testControlPassword)
	dead := make(chan int)
	go func() {
		for i := 0; ; i++ {
			_, err := writer.PgConn().Exec(context.Background(), fmt.Sprintf("UPDATE %s SET v = 'written %d' WHERE id = 1 + %d %% 300; "+
				"INSERT INTO %s VALUES (%d, 'new')", quoteTable(table), i, i*7, quoteTable(table), 10_000+i)).ReadAll()
			if err != nil {
				dead <- i
				return
			}
		}
	}()
	documents := len(r.documents())
	r.waitFor("changes", func() bool { return len(r.committed) > documents+200 })
	primary.script("halt")
	written := <-dead
	stopSnapshots()
	standby.script("promote")
	db.moveTo(standby)
	endpoint.target.Store(&standby.address)
	for id, ended := int64(900_000_000), true; ended; id++ {
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'on the new primary')", quoteTable(table), id))
		r.waitFor("the new primary's rows", func() bool {
			return r.ended || slices.ContainsFunc(r.committed, func(d testDocument) bool { return strings.Contains(d.doc, fmt.Sprintf(`"id":%d,`, id)) })
		})
		ended = r.resume()
	}
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
	t.Logf("%d transactions before the primary died, %d documents", written, len(r.documents()))
	r.kill() // its state belongs to the new timeline
	_ = r.wait()
	r.start()
	r.waitEnd(db, table)

	// Another standby of the new primary is cut off from what the capture reads, and takes over.
	db.exec("SELECT pg_create_physical_replication_slot('second', true)")
	lagging := standby.standby("sync_replication_slots=on", "primary_slot_name=second")
	stopSnapshots = db.logSnapshots()
	r.waitEnd(db, table)
	synced(lagging)
	lagging.script("halt")
	db.exec("UPDATE " + quoteTable(table) + " SET v = 'lost' WHERE id < 10")
	r.waitEnd(db, table)
	r.kill()
	_ = r.wait()
	standby.script("halt")
	lagging.script("resume")
	lagging.script("promote")
	db.moveTo(lagging)
	endpoint.target.Store(&lagging.address)
	db.exec("INSERT INTO " + quoteTable(table) + " SELECT i, repeat('another past', 100) FROM generate_series(20000, 20999) i")
	r.refused(append(bothWaysOut, "the server left timeline 2 for timeline 3 at")...)
	loss := newTestRuntime(t, runtimeOptions{config: config(map[string]any{"on_slot_loss": "backfill"}), state: r.committedState()})
	loss.bind(loss.edgeBindings(modes))
	loss.start()
	loss.waitEnd(db, table)
	loss.checkPresent(db, table)
}
