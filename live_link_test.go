package main

// live_link_test.go looks at what the replication session does to the server, and at what it hears of it.
//
// Goal: the server never waits for us: no commit does, nor its shutdown; and what a session can no longer count on is said
// within seconds. Method: servers of the test's own, whose settings are changed and which are shut down while a capture
// works, with a runtime that acknowledges or reads nothing.

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shutdown has the server end as pg_ctl -m fast does, and returns how long that took.
func (s *ownServer) shutdown() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.script("shutdown")
	return time.Since(began)
}

// log is what the server has written to its log.
func (s *ownServer) log() string {
	s.t.Helper()
	state, err := os.ReadFile(filepath.Join(".test-postgres", s.name, "server"))
	if err != nil {
		s.t.Fatal(err)
	}
	dir := regexp.MustCompile(`(?m)^\w*dir=(.*)$`).FindSubmatch(state)
	if dir == nil {
		s.t.Fatalf("no folder in %q", state)
	}
	log, err := os.ReadFile(filepath.Join(strings.Trim(string(dir[1]), `'"`), "server.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(log)
}

// senderTimeout is less than the default wal_sender_timeout, by which a shutdown ends that we hold up.
const senderTimeout = 45 * time.Second

// TestServerShutdown: a server shuts down at once though nothing of what it sent is acknowledged, and within seconds though
// it cannot even send that; the capture goes on when it is back, and nothing is lost.
func TestServerShutdown(t *testing.T) {
	for _, test := range []struct {
		name   string
		within time.Duration
	}{{"nothing acknowledged", 8 * time.Second}, {"nothing read", 25 * time.Second}} {
		t.Run(test.name, func(t *testing.T) {
			server := startServer(t)
			db := newTestDB(t)
			table := db.edgeTable("t", "int PRIMARY KEY", 10)
			blocked, unblock := make(chan struct{}), make(chan struct{})
			var withhold atomic.Bool
			once := false
			r := edgeStart(db, runtimeOptions{
				config: db.config(),
				acknowledge: func(r *testRuntime, n int) int {
					if withhold.Load() {
						return 0
					}
					return n
				},
				onDocument: func(_ *testRuntime, _ string, doc []byte) {
					if !strings.Contains(string(doc), "stall") || once {
						return
					}
					once = true
					withhold.Store(true)
					if test.name == "nothing read" {
						close(blocked)
						<-unblock
					}
				},
			}, map[tableName]backfillMode{table: modeAutomatic})
			r.waitEnd(db, table)
			rows := 1
			if test.name == "nothing read" {
				rows = 3000 // more than every buffer in between
			}
			db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, 'stall' || repeat('x', 10000) FROM generate_series(1001, %d) i", quoteTable(table), 1000+rows))
			if test.name == "nothing read" {
				<-blocked
				db.eventually("the sender to wait for us", func() bool {
					return db.queryValue("SELECT count(*) FROM pg_stat_activity WHERE pid = (SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1) "+
						"AND wait_event LIKE 'WalSender%Write%'", db.slot) == "1"
				})
			} else {
				r.waitID(table, 1001)
			}
			took := server.shutdown()
			t.Logf("the server shut down in %s", took)
			if took > min(allow(test.within), senderTimeout) {
				t.Errorf("the server took %s to shut down", took)
			}
			close(unblock)
			server.script("resume")
			db.moveTo(server)
			withhold.Store(false)
			for ended := true; ended; {
				r.waitFor("the rows behind the shutdown", func() bool { return r.ended || r.countLocked(table) >= 11+rows })
				ended = r.resume()
			}
			r.waitEnd(db, table)
			r.strict(table)
			r.checkRows(db, table)
		})
	}
}

// TestMadeSynchronous: synchronous_standby_names that match us, set while we stream. It is said within seconds and taken back;
// the standby that is there is the synchronous one, and where none is, commits need not wait for our next status update. A
// restart meanwhile is no outage.
func TestMadeSynchronous(t *testing.T) {
	server := startServer(t)
	db := newTestDB(t)
	db.exec("SET synchronous_commit = local")
	table := db.edgeTable("t", "int PRIMARY KEY", 30)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitEnd(db, table)
	defer server.set(db, "synchronous_standby_names", "") // what cleans up must not hang
	server.set(db, "synchronous_standby_names", "*")
	began := time.Now()
	r.waitLog("synchronous_standby_names = '*' stands for this capture too (application_name estuary_flow)")
	if took := time.Since(began); took > allow(15*time.Second) {
		t.Errorf("it took %s to be said", took)
	}
	writer := testConnect(t, *testControlUser, *testControlPassword)
	id := 10_000
	commit := func(what, sql string) {
		t.Helper()
		began := time.Now()
		id++
		if _, err := writer.Exec(db.ctx, fmt.Sprintf(sql, id)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > allow(5*time.Second) {
			t.Errorf("%s: a commit took %s", what, took)
		} else {
			t.Logf("%s: a commit took %s", what, took)
		}
	}
	insert := "INSERT INTO " + quoteTable(table) + " VALUES (%d, 'while we are meant')"
	db.exec("CREATE TABLE test.unpublished (id int)")
	elsewhere := "INSERT INTO test.unpublished VALUES (%d)"
	for range 3 {
		commit("alone", insert)
		commit("alone, elsewhere", elsewhere)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitStreaming()
	commit("after a restart", insert)

	if db.version() < 150000 {
		return // no standby is made
	}
	standby := server.standby()
	state := func(application string) string {
		return db.queryValue("SELECT coalesce(max(sync_state), '') FROM pg_stat_replication WHERE application_name = $1", application)
	}
	db.eventually("the standby to be the synchronous one", func() bool { return state(standby.name) == "sync" })
	synchronous := 0
	for range 20 {
		commit("beside a standby", insert)
		if state("estuary_flow") != "async" {
			synchronous++
		}
	}
	if synchronous > 1 { // one look may meet the moment at which a position is reported
		t.Errorf("we are synchronous at %d of 20 looks", synchronous)
	}
	server.set(db, "synchronous_standby_names", quoteIdent(standby.name))
	r.waitFor("it to be taken back", func() bool { return r.status == statusStream })
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
	db.eventually("the slot to move", func() bool {
		return db.queryValue("SELECT (confirmed_flush_lsn >= pg_current_wal_lsn())::text FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "true"
	})
}

// TestWatermarksRefused: a watermarks table whose changes would not come through the stream as they were written is refused with
// the reason, and what is said to mend it does.
func TestWatermarksRefused(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 3)
	wm, pub, version := quoteTable(db.watermarks), quoteIdent(db.publication), db.version()
	plain := fmt.Sprintf("CREATE TABLE %s (slot text PRIMARY KEY, watermark text); GRANT ALL ON %[1]s TO %s; ALTER PUBLICATION %s ADD TABLE ONLY %[1]s",
		wm, quoteIdent(*testCaptureUser), pub)
	function := quoteIdent("test") + "." + quoteIdent(db.name("swallow"))
	db.script(fmt.Sprintf("CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF TG_ARGV[0] = ''change'' THEN NEW.watermark := ''x''; "+
		"RETURN NEW; END IF; RETURN NULL; END'", function))
	t.Cleanup(func() { db.exec("DROP FUNCTION " + function + "() CASCADE") })
	for _, test := range []struct {
		name, setup string
		from        int
		want        string
		mend        string // how what is to be run begins
	}{
		{
			"unlogged", fmt.Sprintf("CREATE UNLOGGED TABLE %s (slot text PRIMARY KEY, watermark text); GRANT ALL ON %[1]s TO %s", wm, quoteIdent(*testCaptureUser)),
			0, "is unlogged: its changes are not written to the WAL", "ALTER TABLE " + wm + " SET LOGGED",
		},
		{
			"filtered", plain + "; ALTER PUBLICATION " + pub + " DROP TABLE " + wm + "; ALTER PUBLICATION " + pub + " ADD TABLE " + wm + " WHERE (slot = 'other')",
			150000, "which leaves our row", "BEGIN; ALTER PUBLICATION " + pub + " DROP TABLE ONLY " + wm,
		},
		{
			"filtered by a constant", plain + "; ALTER PUBLICATION " + pub + " DROP TABLE " + wm + "; ALTER PUBLICATION " + pub + " ADD TABLE " + wm + " WHERE (false)",
			150000, "which leaves our row", "BEGIN; ALTER PUBLICATION " + pub + " DROP TABLE ONLY " + wm,
		},
		{
			"a column missing", plain + "; ALTER PUBLICATION " + pub + " DROP TABLE " + wm + "; ALTER PUBLICATION " + pub + " ADD TABLE " + wm + " (slot)",
			150000, `has only the columns "slot"`, "BEGIN; ALTER PUBLICATION " + pub + " DROP TABLE ONLY " + wm,
		},
		{
			"swallowed", plain + "; CREATE TRIGGER s BEFORE INSERT OR UPDATE ON " + wm + " FOR EACH ROW EXECUTE PROCEDURE " + function + "('swallow')",
			0, `its trigger "s" may drop or change it`, "ALTER TABLE " + wm + ` DISABLE TRIGGER "s"`,
		},
		{
			"changed", plain + "; CREATE TRIGGER c BEFORE UPDATE ON " + wm + " FOR EACH ROW EXECUTE PROCEDURE " + function + "('change')",
			0, `its trigger "c" may drop or change it`, "ALTER TABLE " + wm + ` DISABLE TRIGGER "c"`,
		},
		{"ruled", plain + "; CREATE RULE r AS ON INSERT TO " + wm + " DO INSTEAD NOTHING", 0, `its rule "r" may drop or change it`, "ALTER TABLE " + wm + ` DISABLE RULE "r"`},
		{
			"partitioned", fmt.Sprintf("CREATE TABLE %s (slot text PRIMARY KEY, watermark text) PARTITION BY HASH (slot); CREATE TABLE %s PARTITION OF %[1]s FOR "+
				"VALUES WITH (MODULUS 1, REMAINDER 0); GRANT ALL ON %[1]s TO %[3]s; ALTER PUBLICATION %[4]s ADD TABLE %[1]s; ALTER PUBLICATION %[4]s SET "+
				"(publish_via_partition_root = false)", wm, quoteTable(tableName{"test", db.name("part")}), quoteIdent(*testCaptureUser), pub),
			130000, "is partitioned", "ALTER PUBLICATION " + pub + " SET (publish_via_partition_root = true)",
		},
		{
			"without identity", plain + "; ALTER TABLE " + wm + " REPLICA IDENTITY NOTHING",
			0, "replica identity", "ALTER TABLE " + wm + " REPLICA IDENTITY FULL",
		},
		{"filtered in our favour", plain + "; ALTER PUBLICATION " + pub + " DROP TABLE " + wm + "; ALTER PUBLICATION " + pub + " ADD TABLE " + wm +
			" WHERE (slot LIKE 'slot%')", 150000, "", ""},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			if version < test.from {
				t.Skipf("not on %d", version)
			}
			db.exec("DROP TABLE IF EXISTS " + wm)
			db.script(test.setup)
			r := newTestRuntime(t, runtimeOptions{config: db.config()})
			validate := func() error {
				_, err := r.driver.validate(t.Context(), []runtimeBinding{faultBinding(table)}, nil)
				return err
			}
			err := validate()
			if test.want == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("validation ended with %v, want %s", err, test.want)
			}
			_, rest, found := strings.Cut(err.Error(), test.mend)
			if !found {
				t.Fatalf("validation ended with\n%v\nwithout %s", err, test.mend)
			}
			mend, _, _ := strings.Cut(test.mend+rest, "\n")
			mend, _, _ = strings.Cut(mend, "; or set")
			db.script(mend)
			if err := validate(); err != nil {
				t.Errorf("after %s: %v", mend, err)
			}
		})
	}
}

// TestMissedWatermarks: a backfill whose fences all pass by their positions, since the watermarks table is not published, is as
// exact as any, under writers whose commits are flushed late. When it is published again its watermarks count again.
func TestMissedWatermarks(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	const rows = 3000
	table := db.edgeTable("t", "int PRIMARY KEY", rows)
	var begun, over atomic.Bool
	missing := make(chan struct{})
	r := newTestRuntime(t, runtimeOptions{
		config: db.edgeConfig(map[string]any{"backfill_chunk_size": 50}),
		onDocument: func(*testRuntime, string, []byte) {
			if !begun.Swap(true) {
				close(missing)
			}
		},
	})
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modePrecise}))
	r.start()
	<-missing
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", quoteIdent(db.publication), quoteTable(db.watermarks)))
	var writers sync.WaitGroup
	for w := range 3 {
		conn := testConnect(t, *testControlUser, *testControlPassword)
		writers.Go(func() {
			for i := 0; !over.Load(); i++ {
				sql := fmt.Sprintf("SET synchronous_commit = off; UPDATE %[1]s SET v = '%[2]d by %[3]d' WHERE id %% 97 = (%[2]d * 31) %% 97; "+
					"DELETE FROM %[1]s WHERE id = 1 + (%[2]d * 7 + %[3]d) %% %[4]d; INSERT INTO %[1]s VALUES (1 + (%[2]d * 11) %% %[4]d, 'new') ON CONFLICT DO NOTHING",
					quoteTable(table), i, w, rows)
				if _, err := conn.PgConn().Exec(db.ctx, sql).ReadAll(); err != nil && sqlState(err) != "40P01" {
					t.Error(err)
					return
				}
			}
		})
	}
	r.waitLog("A watermark has not come through the stream, and never will: the watermarks table " + db.watermarks.String() + " is not in the publication")
	r.waitStreaming()
	db.publish(db.watermarks)
	over.Store(true)
	writers.Wait()
	other := db.edgeTable("other", "int PRIMARY KEY", 200)
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
	if n := r.countLogs("backfill completed"); n != 1 {
		t.Errorf("%d backfills were completed, want 1", n)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	told := r.countLogs("A watermark has not come")
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modePrecise, other: modePrecise}))
	r.start()
	r.waitEnd(db, other)
	r.checkRows(db, other)
	if r.countLogs("A watermark has not come") != told {
		t.Error("watermarks are missed though they are published")
	}
}

// TestStandbyAway: a synchronous standby that is away holds up a backfill once in half a minute, not at every watermark; with
// and without the statement that bounds the wait.
func TestStandbyAway(t *testing.T) {
	server := startServer(t)
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			db := newTestDB(t)
			db.exec("SET synchronous_commit = local")
			if plain {
				db.exec("REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
			}
			table := db.edgeTable("t", "int PRIMARY KEY", 300)
			defer server.set(db, "synchronous_standby_names", "")
			server.set(db, "synchronous_standby_names", "nobody")
			began := time.Now()
			r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})}, map[tableName]backfillMode{table: modePrecise})
			r.waitEnd(db, table)
			if took := time.Since(began); took > allow(10*watermarkTimeout) {
				t.Errorf("a backfill of 30 chunks took %s", took)
			} else {
				t.Logf("a backfill of 30 chunks took %s", took)
			}
			r.strict(table)
			r.checkRows(db, table)
		})
	}
}

// TestStatementsOfChunks: a backfill of many chunks leaves a handful of statements in pg_stat_statements, whose room others need.
func TestStatementsOfChunks(t *testing.T) {
	if db := newTestDB(t); db.queryValue("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'") == "0" {
		t.Skip("needs pg_stat_statements, which is not installed")
	}
	startServer(t, "shared_preload_libraries=pg_stat_statements")
	db := newTestDB(t)
	db.exec("CREATE EXTENSION pg_stat_statements")
	const chunks = 100
	table := db.edgeTable("t", "int PRIMARY KEY", 10*chunks)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitEnd(db, table)
	statements := db.queryValue("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%' || $1 || '%'", db.watermarks.name)
	t.Logf("%s statements about the watermarks table", statements)
	if n, err := strconv.Atoi(statements); err != nil || n > 20 {
		t.Errorf("%s statements about the watermarks table in pg_stat_statements after %d chunks", statements, chunks)
	}
	r.strict(table)
	r.checkRows(db, table)
}

// TestSynchronousLog: where commits wait for our acknowledgements, the server does not log each of them; and it shuts down though
// the last ones do not come.
func TestSynchronousLog(t *testing.T) {
	server := startServer(t)
	db := newTestDB(t)
	db.exec("SET synchronous_commit = local")
	table := db.edgeTable("t", "int PRIMARY KEY", 3)
	var withhold atomic.Bool
	r := edgeStart(db, runtimeOptions{config: db.config(), acknowledge: func(_ *testRuntime, n int) int {
		if withhold.Load() {
			return 0
		}
		return n
	}}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitEnd(db, table)
	server.set(db, "synchronous_standby_names", "*")
	r.waitLog("synchronous_standby_names = '*' stands for this capture too")
	insert := "INSERT INTO " + quoteTable(table) + " VALUES (%d, 'waits')"
	db.exec("SET synchronous_commit = on")
	const commits = 100
	for i := range commits {
		db.exec(fmt.Sprintf(insert, 10_000+i))
	}
	db.exec("SET synchronous_commit = local")
	lines := strings.Count(server.log(), "is now a synchronous standby")
	t.Logf("%d lines about %d commits", lines, commits)
	if lines == 0 || lines > commits/10 {
		t.Errorf("the server's log has %d lines about us after %d commits", lines, commits)
	}
	withhold.Store(true)
	db.exec(fmt.Sprintf(insert, 20_000))
	r.waitID(table, 20_000)
	if took := server.shutdown(); took > min(allow(8*time.Second), senderTimeout) {
		t.Errorf("the server took %s to shut down", took)
	}
	server.script("resume")
	db.moveTo(server)
	server.set(db, "synchronous_standby_names", "") // what cleans up must not hang
	r.strict(table)
}
