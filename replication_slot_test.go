package main

// Goal: a capture never resumes past a gap, never drops a slot that is not its own, leaves no half-made slot, and knows
// whom it waits for. Method: slotFault against a table of states with exact texts; the rest against a real server.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestSlotFault(t *testing.T) {
	const ways = ` Either re-backfill all bindings (raise the ` + "`backfill`" + ` counter of every binding at once; the ` +
		`slot is then created anew), or set ` + "`advanced.on_slot_loss`" + ` to "backfill", which makes the connector do that by ` +
		`itself.`
	const drop = ` Set ` + "`advanced.slotName`" + ` to a name that nothing else uses, or, if nothing needs that slot, drop it: ` +
		`SELECT pg_drop_replication_slot('s');`
	const invalid = `the server has invalidated the replication slot "s": `
	const unread = ` Changes after 0/100, where the capture has read up to, cannot be read.` + ways
	for _, c := range []struct {
		name   string
		edit   func(*slotStatus)
		cursor lsn
		loss   bool
		want   string
	}{
		{"fine", func(*slotStatus) {}, 0x100, false, ""},
		{"fine, at the slot's own position", func(*slotStatus) {}, 0x80, false, ""},
		{"fine, at the end", func(*slotStatus) {}, 0x200, false, ""},
		{"fine, in use", func(s *slotStatus) { s.pid = 7 }, 0x100, false, ""},
		{"fine, about to be lost", func(s *slotStatus) { s.walStatus = "unreserved" }, 0x100, false, ""},
		{"absent, to be created", func(s *slotStatus) { *s = slotStatus{name: "s", server: "db", end: 0x200} }, 0, false, ""},
		{"lost, to be created anew", func(s *slotStatus) { s.walStatus = "lost" }, 0, false, ""},
		{
			"absent", func(s *slotStatus) { *s = slotStatus{name: "s", server: "db", end: 0x200} }, 0x100, true,
			`the replication slot "s" does not exist, though the capture has read up to 0/100 with it: it was dropped, or this ` +
				`is another server (a failover, a restore or a major upgrade may not carry it along). Changes after 0/100 cannot ` +
				`be read.` + ways,
		},
		{
			"advanced", func(s *slotStatus) { s.confirmed = 0x180 }, 0x100, true,
			`the replication slot "s" starts at 0/180, beyond 0/100 where the capture has read up to: it was created anew or ` +
				`advanced by something else. The changes in between (128 bytes of WAL) cannot be read.` + ways,
		},
		{
			"beyond the end", func(s *slotStatus) {}, 0x203, true,
			`the capture has read up to 0/203, but the server's WAL ends at 0/200, 3 bytes before: the server was restored ` +
				`to an earlier state, failed over to one that lacked changes, or is another one.` + ways,
		},
		{
			"beyond the end of a standby", func(s *slotStatus) { s.standby = true }, 0x203, false,
			`the capture has read up to 0/203, but this standby has WAL up to 0/200 only. If it was restarted, it catches up ` +
				`by itself: try again. If it is another server than before, connect to that one, or re-backfill all bindings ` +
				"(raise the `backfill` counter of every binding at once).",
		},
		{
			"lost", func(s *slotStatus) { s.walStatus, s.restart = "lost", 0 }, 0x100, true,
			invalid + "WAL that it needed was removed (wal_status lost), since it fell behind by more than " +
				"`max_slot_wal_keep_size`; raise that setting." + unread,
		},
		{
			"wal_removed", func(s *slotStatus) { s.walStatus, s.invalidation = "lost", "wal_removed" }, 0x100, true,
			invalid + "WAL that it needed was removed (wal_removed), since it fell behind by more than " +
				"`max_slot_wal_keep_size`; raise that setting." + unread,
		},
		{
			"rows_removed", func(s *slotStatus) { s.invalidation, s.conflicting = "rows_removed", true }, 0x100, true,
			invalid + "catalog rows that it needed were vacuumed away (rows_removed); set hot_standby_feedback = on, on the " +
				"standby." + unread,
		},
		{
			"wal_level", func(s *slotStatus) { s.invalidation = "wal_level_insufficient" }, 0x100, true,
			invalid + "the server's wal_level was below logical for a while (wal_level_insufficient)." + unread,
		},
		{
			"idle", func(s *slotStatus) { s.invalidation = "idle_timeout" }, 0x100, true,
			invalid + "nobody used it for longer than `idle_replication_slot_timeout` (idle_timeout); raise that setting." + unread,
		},
		{"a reason of the future", func(s *slotStatus) { s.invalidation = "full_moon" }, 0x100, true, invalid + "full_moon." + unread},
		{
			"conflict on 16", func(s *slotStatus) { s.conflicting, s.walStatus, s.standby = true, "lost", true }, 0x100, true,
			invalid + "it conflicted with recovery on the standby; set hot_standby_feedback = on, on the standby, and keep " +
				"wal_level = logical on the primary." + unread,
		},
		{
			"lost by size on 16", func(s *slotStatus) { s.conflicting, s.walStatus = true, "lost" }, 0x100, true,
			invalid + "WAL that it needed was removed (wal_status lost), since it fell behind by more than `max_slot_wal_keep_size`; raise " +
				"that setting." + unread,
		},
		{
			"being created", func(s *slotStatus) { s.confirmed, s.pid = 0, 7 }, 0x100, false,
			"the replication slot \"s\" is still being created (by pid 7). If another capture uses it, give each its own " +
				"`advanced.slotName`; else try again.",
		},
		{
			"two_phase", func(s *slotStatus) { s.twoPhase = true }, 0x100, false,
			"the replication slot \"s\" was created with two_phase, which sends transactions before they commit: use one " +
				"without. Re-backfill all bindings (raise the `backfill` counter of every binding at once; the slot is then " +
				"created anew).",
		},
		{
			"physical", func(s *slotStatus) { s.kind, s.plugin, s.database = "physical", "", "" }, 0, false,
			`the replication slot "s" is a physical slot, the capture needs a logical one.` + drop,
		},
		{
			"other database", func(s *slotStatus) { s.database = "else" }, 0x300, false,
			`the replication slot "s" belongs to database "else", the capture reads database "db".` + drop,
		},
		{
			"other plugin", func(s *slotStatus) { s.plugin = "wal2json" }, 0, false,
			`the replication slot "s" uses the output plugin "wal2json", the capture needs "pgoutput".` + drop,
		},
		{
			"temporary", func(s *slotStatus) { s.temporary = true }, 0, false,
			`the replication slot "s" is temporary: it belongs to another session and ends with it.` + drop,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			status := &slotStatus{
				name: "s", exists: true, kind: "logical", plugin: "pgoutput", database: "db", server: "db",
				restart: 0x40, confirmed: 0x80, end: 0x200, walStatus: "reserved", safeWAL: -1,
			}
			c.edit(status)
			err := slotFault(status, c.cursor)
			if got := errorText(err); got != c.want {
				t.Fatalf("got  %s\nwant %s", got, c.want)
			}
			var loss *slotLossError
			if errors.As(err, &loss) != c.loss {
				t.Errorf("a slot loss: %v, want %v", !c.loss, c.loss)
			}
			var user *userError
			if err != nil && !errors.As(err, &user) {
				t.Errorf("%T is no userError", err)
			}
		})
	}
}

func TestTimelineFault(t *testing.T) {
	const history = "1\t0/A000000\tno recovery target specified\n\n2\t0/B000000\tbefore 2000-01-01 00:00:00+00\n"
	const behind = `: the server was failed over to one that lacked changes, or restored to an earlier state. What the capture has ` +
		`read since then never happened on this server, and what did may be missing. ` + waysOut
	for _, c := range []struct {
		history         string
		stored, current int
		cursor          lsn
		want            string
	}{
		{"", 1, 1, 0xF000000, ""},
		{"", 0, 3, 0xF000000, ""},
		{"", 1, 3, 0, ""},
		{history, 1, 3, 0xA000000, ""},
		{history, 2, 3, 0xAFFFFFF, ""},
		{history, 1, 3, 0xA000001, `the server left timeline 1 for timeline 3 at 0/A000000, before 0/A000001 where the capture has ` +
			`read up to` + behind},
		{history, 2, 3, 0xC000000, `the server left timeline 2 for timeline 3 at 0/B000000, before 0/C000000 where the capture has ` +
			`read up to` + behind},
		{history, 4, 3, 0x1000000, `the server is on timeline 3, which does not come from timeline 4, on which the capture has read ` +
			`up to 0/1000000` + behind},
		{"1\tnowhere\n", 1, 2, 0x1000000, `read the history of timeline 2: "nowhere" is not an LSN`},
	} {
		if got := errorText(timelineFault([]byte(c.history), c.stored, c.current, c.cursor)); got != c.want {
			t.Errorf("%d to %d at %s\ngot  %s\nwant %s", c.stored, c.current, c.cursor, got, c.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Rows of pg_replication_slots as the versions show them.
func TestSlotStatusParse(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     slotStatus
		wantErr  string
	}{
		{
			"10", `{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","datoid":5,"database":"db","temporary":false,` +
				`"active":false,"active_pid":null,"xmin":null,"catalog_xmin":"561","restart_lsn":"0/15D5A10",` +
				`"confirmed_flush_lsn":"0/15D5A48"}`,
			slotStatus{
				exists: true, kind: "logical", plugin: "pgoutput", database: "db", restart: 0x15D5A10, confirmed: 0x15D5A48,
				safeWAL: -1,
			},
			"",
		},
		{
			"18, lost", `{"slot_name":"s","plugin":"pgoutput","slot_type":"logical","datoid":5,"database":"db","temporary":false,` +
				`"active":true,"active_pid":42,"xmin":null,"catalog_xmin":"561","restart_lsn":null,` +
				`"confirmed_flush_lsn":"16/B374D848","wal_status":"lost","safe_wal_size":17,"two_phase":true,` +
				`"two_phase_at":null,"inactive_since":"2025-01-01T00:00:00+00:00","conflicting":true,` +
				`"invalidation_reason":"wal_removed","failover":true,"synced":false}`,
			slotStatus{
				exists: true, kind: "logical", plugin: "pgoutput", database: "db", pid: 42,
				confirmed: 0x16_B374D848, walStatus: "lost", safeWAL: 17, twoPhase: true,
				conflicting: true, invalidation: "wal_removed", failover: true,
			},
			"",
		},
		{
			"past the limit", `{"slot_type":"logical","plugin":"pgoutput","database":"db","restart_lsn":"0/15D5A10",` +
				`"confirmed_flush_lsn":"0/15D5A48","wal_status":"unreserved","safe_wal_size":-16777216}`,
			slotStatus{
				exists: true, kind: "logical", plugin: "pgoutput", database: "db", restart: 0x15D5A10, confirmed: 0x15D5A48,
				walStatus: "unreserved",
			},
			"",
		},
		{
			"physical", `{"slot_type":"physical","plugin":null,"database":null,"restart_lsn":null,"confirmed_flush_lsn":null}`,
			slotStatus{exists: true, kind: "physical", safeWAL: -1},
			"",
		},
		{"bad position", `{"restart_lsn":"nowhere"}`, slotStatus{}, `"nowhere" is not an LSN`},
		{"no JSON", `{`, slotStatus{}, `unexpected end of JSON input`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := slotStatus{safeWAL: -1}
			err := got.parse(c.in)
			if errorText(err) != c.wantErr {
				t.Fatalf("error %v, want %q", err, c.wantErr)
			}
			if err == nil && got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestDescribeTransaction(t *testing.T) {
	for _, c := range []struct {
		w    writer
		want string
	}{
		{writer{pid: 7, age: -1}, `pid 7`},
		{writer{pid: 7, application: "psql", age: -1}, `pid 7 (application "psql")`},
		{
			writer{pid: 7, application: "psql", user: "bob", state: "idle in transaction", age: 61*time.Second + 1},
			`pid 7 (application "psql", user "bob", idle in transaction, open for 1m1s)`,
		},
		{writer{gid: "it's", user: "bob", age: time.Hour}, `prepared transaction 'it''s' (user "bob", open for 1h0m0s)`},
	} {
		if got := c.w.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestCreateSlotError(t *testing.T) {
	for _, c := range []struct{ code, want string }{
		{"42710", "cannot create the replication slot \"s\": boom (SQLSTATE 42710). Another capture has just created it: give each " +
			"capture its own `advanced.slotName`."},
		{"53400", "cannot create the replication slot \"s\": boom (SQLSTATE 53400). Raise `max_replication_slots` on the server and " +
			"restart it, or drop a slot that nothing uses: SELECT slot_name, active FROM pg_replication_slots;"},
		{"XX000", `create replication slot "s": : boom (SQLSTATE XX000)`},
	} {
		if got := createSlotError("s", &pgconn.PgError{Code: c.code, Message: "boom"}).Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// --- against a server

func (db *testDB) replication(d *database) *pgconn.PgConn {
	db.Helper()
	conn, err := d.connectReplication(db.ctx)
	if err != nil {
		db.Fatal(err)
	}
	db.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// waitFor fails the test if the condition does not come true.
func (db *testDB) waitFor(what string, condition func() bool) {
	db.Helper()
	for deadline := time.Now().Add(waitLimit); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			db.Fatalf("still waiting for: %s", what)
		}
	}
}

// begin opens a transaction on a session of its own with the statements run in it.
func (db *testDB) begin(statements ...string) *pgx.Conn {
	db.Helper()
	conn := testConnect(db, *testControlUser, *testControlPassword)
	for _, sql := range append([]string{"SET application_name = 'the writer'", "BEGIN"}, statements...) {
		if _, err := conn.Exec(db.ctx, sql); err != nil {
			db.Fatalf("%s: %v", sql, err)
		}
	}
	return conn
}

func (db *testDB) end(conn *pgx.Conn, sql string) {
	db.Helper()
	if _, err := conn.Exec(db.ctx, sql); err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
}

// proxy forwards to the test server until kill cuts all its connections and refuses new ones, as the death of a process
// does: a client of it cannot even ask the server to cancel.
func (db *testDB) proxy() (host string, port uint16, kill func()) {
	db.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		db.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	kill = func() {
		_ = listener.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			_ = conn.Close()
		}
	}
	db.Cleanup(kill)
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", *testAddress)
			if err != nil {
				_ = client.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, client, server)
			mu.Unlock()
			go func() { _, _ = io.Copy(server, client) }()
			go func() { _, _ = io.Copy(client, server) }()
		}
	}()
	address := listener.Addr().(*net.TCPAddr)
	return "127.0.0.1", uint16(address.Port), kill
}

func noWait(t testing.TB) func(string) {
	return func(msg string) { t.Errorf("unexpected wait: %s", msg) }
}

func TestCreateAndInspectSlot(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)

	status, err := inspectSlot(db.ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	if status.exists || status.server != *testDatabase || status.end == 0 || status.standby {
		t.Fatalf("before: %+v", status)
	}

	first, err := createSlot(db.ctx, d, db.replication(d), noWait(t))
	if err != nil {
		t.Fatal(err)
	}
	if status, err = inspectSlot(db.ctx, d); err != nil {
		t.Fatal(err)
	}
	if !status.exists || status.kind != "logical" || status.plugin != "pgoutput" || status.database != *testDatabase ||
		status.temporary || status.confirmed != first || status.restart == 0 || status.end < first {
		t.Fatalf("after: %+v, consistent at %s", status, first)
	}
	if err := slotFault(status, first); err != nil {
		t.Error(err)
	}

	// A capture that starts afresh gets a new slot, which the cursor of the old one cannot be resumed on.
	table := db.createTable("t", "(id int)")
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1)")
	second, err := createSlot(db.ctx, d, db.replication(d), noWait(t))
	if err != nil {
		t.Fatal(err)
	}
	if second <= first {
		t.Errorf("created anew at %s, the old one stood at %s", second, first)
	}
	if status, err = inspectSlot(db.ctx, d); err != nil {
		t.Fatal(err)
	}
	var loss *slotLossError
	if err := slotFault(status, first); !errors.As(err, &loss) {
		t.Errorf("resume on a slot created anew: %v", err)
	}
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (2)")
	db.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", db.slot)
	if status, err = inspectSlot(db.ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := slotFault(status, second); !errors.As(err, &loss) {
		t.Errorf("resume on an advanced slot: %v", err)
	}
	db.exec("SELECT pg_drop_replication_slot($1)", db.slot)
	if status, err = inspectSlot(db.ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := slotFault(status, second); !errors.As(err, &loss) {
		t.Errorf("resume on a dropped slot: %v", err)
	}
}

func TestCreateSlotRefusesForeignSlots(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)
	db.exec("SELECT pg_create_physical_replication_slot($1)", db.slot)
	_, err := createSlot(db.ctx, d, db.replication(d), noWait(t))
	if want := fmt.Sprintf("the replication slot %q is a physical slot", db.slot); !strings.HasPrefix(errorText(err), want) {
		t.Fatalf("got %v", err)
	}
	db.exec("SELECT pg_drop_replication_slot($1)", db.slot)
	db.exec("SELECT pg_create_logical_replication_slot($1, 'test_decoding')", db.slot)
	_, err = createSlot(db.ctx, d, db.replication(d), noWait(t))
	if want := fmt.Sprintf(`the replication slot %q uses the output plugin "test_decoding"`, db.slot); !strings.HasPrefix(errorText(err), want) {
		t.Fatalf("got %v", err)
	}
	if db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", db.slot) != "1" {
		t.Error("a foreign slot was dropped")
	}
}

// A server that is restarted while its slot is waited for is not the one by which the start was chosen: we connect again.
func TestServerRestartedWhileSlotInUse(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)
	start, err := createSlot(db.ctx, d, db.replication(d), noWait(t))
	if err != nil {
		t.Fatal(err)
	}
	predecessor, err := startReplication(db.ctx, db.replication(d), subscription{db.slot, db.publication, start}, newAcknowledgements(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer predecessor.close()
	s := newSession(d, d.settings, newAcknowledgements(), &progress{}, func(string) {})
	s.sender = db.replication(d)
	d.started.Add(-1) // it is another server now
	if err = s.start(db.ctx, start, 0); !errors.Is(err, errOtherServer) || !transient(err) {
		t.Errorf("the capture ends with %v", err)
	}
}

// A slot that a predecessor still uses is waited for, then refused by name.
func TestCreateSlotInUse(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)
	if _, err := createSlot(db.ctx, d, db.replication(d), noWait(t)); err != nil {
		t.Fatal(err)
	}
	predecessor := db.replication(d)
	stream := fmt.Sprintf(`START_REPLICATION SLOT %s LOGICAL 0/0 ("proto_version" '1', "publication_names" '%s')`,
		quoteIdent(db.slot), db.publication)
	go func() { _, _ = predecessor.Exec(context.Background(), stream).ReadAll() }()
	inUse := func() bool {
		return db.queryValue("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "true"
	}
	db.waitFor("the predecessor", inUse)

	var waits []string
	onWait := func(msg string) { waits = append(waits, msg) }
	_, err := createSlotWith(db.ctx, d, db.replication(d), slotPatience{onWait, 0, time.Hour})
	want := fmt.Sprintf("another capture is already running against this database: replication slot %q is active for PID %d "+
		"(SQLSTATE 55006), and was so for 0s. Stop it, or give each capture its own `advanced.slotName`. If nothing should "+
		"use the slot any more: SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '%s';",
		db.slot, predecessor.PID(), db.slot)
	if errorText(err) != want {
		t.Fatalf("got  %v\nwant %s", err, want)
	}

	go func() {
		time.Sleep(time.Second)
		_ = predecessor.Conn().Close()
	}()
	if _, err := createSlotWith(db.ctx, d, db.replication(d), slotPatience{onWait, 20 * time.Second, time.Hour}); err != nil {
		t.Fatal(err)
	}
	want = fmt.Sprintf("waiting for replication slot %q, which pid %d still uses", db.slot, predecessor.PID())
	if len(waits) != 1 || waits[0] != want {
		t.Errorf("waits %q, want %q", waits, want)
	}
}

// Creation waits for open transactions: it names them, goes on when they end, and leaves nothing behind when given up.
func TestCreateSlotBlocked(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)
	table := db.createTable("t", "(id int)")
	blocker := db.begin("INSERT INTO " + quoteTable(table) + " VALUES (1)")
	present := func() bool {
		return db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "1"
	}

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(db.ctx)
		stop := errors.New("stopped by the test")
		waits := make(chan string, 100)
		go func() {
			waits <- <-waits
			cancel(stop)
		}()
		_, err := createSlotWith(ctx, d, db.replication(d), slotPatience{func(msg string) { waits <- msg }, 0, 200 * time.Millisecond})
		if !errors.Is(err, stop) {
			t.Fatalf("got %v", err)
		}
		prefix := fmt.Sprintf("waiting to create replication slot %q: transactions that were open before must end first: ", db.slot)
		whom := fmt.Sprintf(`pid %d (application "the writer", user %q`, blocker.PgConn().PID(), *testControlUser)
		if msg := <-waits; !strings.HasPrefix(msg, prefix) || !strings.Contains(msg, whom) {
			t.Errorf("got  %s\nwant %s%s…", msg, prefix, whom)
		}
		if present() {
			t.Error("a half-made slot is left")
		}
	})
	t.Run("killed", func(t *testing.T) {
		if d.version < 140000 {
			t.Skip("servers before 14 do not notice")
		}
		s := db.settings()
		var kill func()
		s.host, s.port, kill = db.proxy()
		doomed := db.connect(s)
		_, err := createSlotWith(db.ctx, doomed, db.replication(doomed), slotPatience{func(string) { kill() }, 0, 200 * time.Millisecond})
		if err == nil {
			t.Fatal("created, though killed")
		}
		db.waitFor("the end of the half-made slot", func() bool { return !present() })
	})
	t.Run("released", func(t *testing.T) {
		released := false
		onWait := func(string) {
			if !released {
				released = true
				db.end(blocker, "COMMIT")
			}
		}
		if _, err := createSlotWith(db.ctx, d, db.replication(d), slotPatience{onWait, 0, 200 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		if !released {
			t.Error("it did not wait")
		}
		status, err := inspectSlot(db.ctx, d)
		if err != nil || !status.exists || status.confirmed == 0 {
			t.Errorf("%+v, %v", status, err)
		}
	})
}

func TestWriters(t *testing.T) {
	db := newTestDB(t)
	d := db.connect(nil)
	one, two := db.createTable("one", "(id int PRIMARY KEY)"), db.createTable("two", "(id int PRIMARY KEY)")
	oids := make([]uint32, 2)
	for i, name := range []tableName{one, two} {
		_, err := fmt.Sscan(db.queryValue("SELECT $1::regclass::oid::text", quoteTable(name)), &oids[i])
		if err != nil {
			t.Fatal(err)
		}
	}
	holders := func() map[uint32][]writer {
		t.Helper()
		var found map[uint32][]writer
		err := d.with(db.ctx, func(conn *pgx.Conn) (err error) {
			found, err = lockHolders(db.ctx, conn, oids, writeLocks)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	open := func(writers []writer) int {
		t.Helper()
		var found []writer
		err := d.with(db.ctx, func(conn *pgx.Conn) (err error) {
			found, err = stillOpen(db.ctx, conn, writers)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}

	if found := holders(); len(found) != 0 {
		t.Fatalf("nobody writes, yet %v", found)
	}
	reader := db.begin("SELECT * FROM "+quoteTable(one), "LOCK TABLE "+quoteTable(two)+" IN SHARE UPDATE EXCLUSIVE MODE")
	if found := holders(); len(found) != 0 {
		t.Fatalf("nobody writes, yet %v", found)
	}
	db.end(reader, "ROLLBACK")

	both := db.begin("INSERT INTO "+quoteTable(one)+" VALUES (1)", "UPDATE "+quoteTable(two)+" SET id = 1")
	found := holders()
	if len(found[oids[0]]) != 1 || len(found[oids[1]]) != 1 {
		t.Fatalf("one transaction writes to both, found %v", found)
	}
	w := found[oids[0]][0]
	if w.pid != int32(both.PgConn().PID()) || w.application != "the writer" || w.user != *testControlUser || w.relation != oids[0] {
		t.Errorf("found %+v", w)
	}
	if n := open(append(found[oids[0]], found[oids[1]]...)); n != 2 {
		t.Errorf("%d of 2 still open", n)
	}
	ddl := db.begin("ALTER TABLE " + quoteTable(one) + " ALTER id SET STATISTICS 7")
	if n := len(holders()[oids[0]]); n != 1 {
		t.Errorf("SET STATISTICS takes no write lock, yet %d writers", n)
	}
	db.end(ddl, "ROLLBACK")
	db.end(both, "ROLLBACK")
	if n := open(append(found[oids[0]], found[oids[1]]...)); n != 0 {
		t.Errorf("%d still open after the end", n)
	}

	t.Run("prepared", func(t *testing.T) {
		if db.queryValue("SHOW max_prepared_transactions") == "0" {
			t.Skip("the server has max_prepared_transactions = 0")
		}
		gid := db.name("it's")
		conn := db.begin("INSERT INTO " + quoteTable(one) + " VALUES (2)")
		before := holders()[oids[0]]
		db.end(conn, "PREPARE TRANSACTION "+quoteLiteral(gid))
		finished := false
		finish := func() {
			if !finished {
				finished = true
				db.exec("COMMIT PREPARED " + quoteLiteral(gid))
			}
		}
		defer finish()
		if n := open(before); n != 1 {
			t.Errorf("a transaction that was prepared meanwhile counts as ended")
		}
		after := holders()[oids[0]]
		if len(after) != 1 || after[0].gid != gid || after[0].pid != 0 {
			t.Fatalf("found %+v", after)
		}
		// The session goes on with other work: that is no concern of ours.
		db.end(conn, "BEGIN")
		db.end(conn, "UPDATE "+quoteTable(two)+" SET id = 1")
		if n := open(after); n != 1 {
			t.Errorf("%d of 1 still open", n)
		}
		finish()
		if n := open(append(before, after...)); n != 0 {
			t.Errorf("%d still open after COMMIT PREPARED", n)
		}
		db.end(conn, "ROLLBACK")
	})
}

// A server with another system identifier is another server, whatever its slot of our name says.
func TestAnotherServer(t *testing.T) {
	bindings := []*binding{{}, {meta: bindingMetadata{System: "1", Timeline: 1}}}
	other := sessions{identity: pglogrepl.IdentifySystemResult{SystemID: "2", Timeline: 1}}
	if _, lost := errors.AsType[*slotLossError](other.serverFault(bindings, 0x1000)); !lost {
		t.Error("another server is none")
	}
	same := sessions{identity: pglogrepl.IdentifySystemResult{SystemID: "1", Timeline: 1}}
	if fault := same.serverFault(bindings, 0x1000); fault != nil {
		t.Errorf("fault %v on the same server", fault)
	}
}

// TestReadOnCurrent: only a slot that came with the promotion proves that somebody has read on the new timeline.
func TestReadOnCurrent(t *testing.T) {
	const history = "1\t0/100\tno recovery target\n2\t0/300\tno recovery target\n"
	for _, c := range []struct {
		carried   bool
		confirmed lsn
		want      bool
	}{{true, 0x301, true}, {true, 0x300, false}, {true, 0x200, false}, {false, 0x400, false}} {
		if got := readOnCurrent([]byte(history), &slotStatus{carried: c.carried, confirmed: c.confirmed}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if readOnCurrent(nil, &slotStatus{carried: true, confirmed: 1}) {
		t.Error("without a history")
	}
}
