package main

// capture_failures_test.go shows what becomes of tables whose rows cannot be read, and of those beside them.
//
// Goal: one table's fault is that table's: its backfill keeps its place, is tried on, and is told of with reason and remedy, while
// others go on; and a fault that passes leaves nothing behind. Method: backfills that the server refuses on a real one, for as
// long as the test wants.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPauseAfter(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{
		0: firstPause, 1: firstPause, 2: 2 * firstPause, 5: 16 * firstPause, 10: 256 * time.Second, 11: longestPause, 1 << 40: longestPause,
	} {
		if got := pauseAfter(failures, longestPause); got != want {
			t.Errorf("after %d failures: %s, want %s", failures, got, want)
		}
	}
}

// filtered binds tables, one of them with an additional_backfill_filter.
func (r *testRuntime) filtered(table tableName, filter string, others ...tableName) {
	r.t.Helper()
	modes := map[tableName]backfillMode{table: modeAutomatic}
	for _, other := range others {
		modes[other] = modeAutomatic
	}
	bindings := r.edgeBindings(modes)
	for i := range bindings {
		if bound, _, _ := tableOfResource(bindings[i].resource); bound == table {
			bindings[i].resource, _ = json.Marshal(map[string]any{
				"namespace": table.schema, "stream": table.name, "advanced": map[string]any{"additional_backfill_filter": filter},
			})
		}
	}
	r.bind(bindings)
}

// TestSuspended: a row that the binding's filter cannot judge suspends that backfill where it is. Another table comes through, and
// when the row is mended the rest follows; with SHUTDOWN_AFTER_POLLING the capture ends well, and says what it leaves.
func TestSuspended(t *testing.T) {
	t.Parallel()
	for _, polling := range []bool{false, true} {
		t.Run(fmt.Sprintf("polling=%t", polling), func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			table, other := db.edgeTable("faulty", "int PRIMARY KEY", 200), db.edgeTable("healthy", "int PRIMARY KEY", 200)
			o := runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 20}), deadline: 2 * time.Minute}
			if polling {
				o.env = []string{"SHUTDOWN_AFTER_POLLING=yes"}
			}
			r := newTestRuntime(t, o)
			r.filtered(table, "1 / (id - 111) <= 1", other)
			r.start()
			if polling {
				if err := r.wait(); err != nil {
					t.Fatalf("a suspended table should not fail the capture: %v", err)
				}
				r.waitLog("The capture ends with the backfill of " + table.String() + " suspended: ")
			} else {
				r.waitLog("The backfill of " + table.String() + " is suspended: ")
				r.waitLog("division by zero (SQLSTATE 22012)")
			}
			r.waitFor("the rows", func() bool { return r.ended || r.countLocked(other) >= 200 && r.countLocked(table) >= 100 })
			if got := r.count(other); got != 200 {
				t.Errorf("%d of 200 rows of the table beside it", got)
			}
			if got := r.count(table); got != 100 {
				t.Errorf("%d rows of the suspended table, want the 100 ahead of its faulty chunk", got)
			}
			db.exec(fmt.Sprintf("UPDATE %s SET id = 1111 WHERE id = 111", quoteTable(table)))
			if polling {
				r.start()
				if err := r.wait(); err != nil {
					t.Fatal(err)
				}
			} else {
				r.waitLog("The backfill of " + table.String() + " goes on")
				r.waitStreaming()
			}
			if got := r.count(table); got < 200 {
				t.Errorf("%d rows of the table once it was mended, want 200", got)
			}
		})
	}
}

// TestRareFilter: a filter that matches no row within the statement timeout does not keep a backfill from going on.
func TestRareFilter(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for statement timeouts")
	}
	db := newTestDB(t)
	table := db.createTable("rare", "(id int PRIMARY KEY, v text, verdict int, wide text)")
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, i, i, repeat('x', 1000) FROM generate_series(1, 1500) i", quoteTable(table)))
	r := newTestRuntime(t, runtimeOptions{
		config: db.edgeConfig(map[string]any{"statement_timeout": "300ms"}), deadline: 2 * time.Minute,
	})
	r.filtered(table, "id = 1499 AND verdict > 0 AND "+table.name+".v <> '' -- a comment\n OR length(pg_sleep(0.001)::text) > 0")
	r.start()
	r.waitLog("rows that its filter leaves out are scanned, too")
	r.waitFor("the row", func() bool { return r.countLocked(table) > 0 })
	r.waitLog("backfill completed")
	if got := r.summary(table); got != "c 1499=1499" {
		t.Errorf("captured %s, want the one row that passes", got)
	}
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'changed' WHERE id = 1499", quoteTable(table)))
	r.waitFor("the change", func() bool { return r.countLocked(table) == 2 })
}

// TestLockedTables: tables that are to be scanned by ctid, and that another session has locked, do not hold up the stream.
func TestLockedTables(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	var tables []tableName
	modes := make(map[tableName]backfillMode)
	write, lock := "BEGIN", "BEGIN"
	for i := range 20 {
		table := db.createTable(fmt.Sprintf("locked%02d", i), "(id int, v text)")
		db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(table)))
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (1, 'a'), (2, 'b')", quoteTable(table)))
		tables, modes[table] = append(tables, table), modeKeyless
		write += "; INSERT INTO " + quoteTable(table) + " VALUES (3, 'c')"
		lock += "; LOCK TABLE " + quoteTable(table)
	}
	healthy := db.edgeTable("healthy", "int PRIMARY KEY", 10)
	modes[healthy] = modeAutomatic
	r := edgeStart(db, runtimeOptions{config: db.config(), deadline: 2 * time.Minute}, modes)
	r.waitStreaming()
	r.kill()
	_ = r.wait()
	for _, table := range tables { // all of them begin anew
		db.exec(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", quoteIdent(db.publication), quoteTable(table)))
	}
	db.publish(tables...)
	writer, locker := testConnect(t, *testControlUser, *testControlPassword), testConnect(t, *testControlUser, *testControlPassword)
	if _, err := writer.PgConn().Exec(db.ctx, write).ReadAll(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitLog("waits for 1 open transactions")
	locked := make(chan error, 1)
	go func() {
		_, err := locker.PgConn().Exec(db.ctx, lock).ReadAll()
		locked <- err
	}()
	db.eventually("the locks to be waited for", func() bool {
		return db.queryValue("SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted", int(locker.PgConn().PID())) == "1"
	})
	if _, err := writer.PgConn().Exec(db.ctx, "COMMIT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	r.waitLog("waits for a lock that another session holds on it")
	began := time.Now()
	for id := range int64(20) {
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 'prompt')", quoteTable(healthy), 100+id))
		r.waitID(healthy, 100+id)
	}
	if took := time.Since(began); took > allow(15*time.Second) {
		t.Errorf("20 rows of a healthy table took %s", took)
	}
	if _, err := locker.PgConn().Exec(db.ctx, "COMMIT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	r.waitStreaming()
	for _, table := range tables {
		r.waitFor("all rows of "+table.String(), func() bool { return r.countLocked(table) >= 5 })
	}
}

// TestManyPartitions: a table whose partitions, or the indexes of those, are more than the server has room for locks is read
// partition by partition: where that can be counted, and where the server says so. Nothing is lost meanwhile.
func TestManyPartitions(t *testing.T) {
	startServer(t, "max_locks_per_transaction=10", "max_connections=30", "max_prepared_transactions=0")
	db := newTestDB(t)
	create := func(base string, partitions, indexes int) tableName {
		table := db.createTable(base, "(id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
		name := func(i int) string { return quoteTable(tableName{table.schema, fmt.Sprintf("%s_%d", table.name, i)}) }
		for i := range partitions {
			db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%d) TO (%d)", name(i), quoteTable(table), 10*i, 10*i+10))
			db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, i FROM generate_series(%d, %d) i", name(i), 10*i, 10*i+9))
			db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name(i)))
			for range indexes {
				db.exec(fmt.Sprintf("CREATE INDEX ON %s (v)", name(i)))
			}
		}
		t.Cleanup(func() { // one by one: DROP TABLE of all has no room for its locks
			for i := range partitions {
				db.exec("DROP TABLE " + name(i))
			}
		})
		return table
	}
	many, few := create("many", 300, 0), create("few", 40, 60)
	healthy := db.edgeTable("healthy", "int PRIMARY KEY", 100)
	r := newTestRuntime(t, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 100}), deadline: 3 * time.Minute})
	r.bind(r.edgeBindings(map[tableName]backfillMode{many: modeAutomatic, few: modeAutomatic, healthy: modeAutomatic}))
	r.start()
	r.waitLog("Reading " + many.String() + " by its key takes 602 locks at once")
	r.waitFor("the server to have no room, or after all some, which it does not promise", func() bool {
		return r.countLogsLocked("The server has no room for the locks that reading "+few.String()+" by its key takes") > 0 ||
			r.countLocked(few) == 400
	})
	r.waitFor("some rows of the partitions", func() bool { return r.countLocked(many) > 100 })
	r.kill()
	_ = r.wait()
	last := tableName{many.schema, fmt.Sprintf("%s_%d", many.name, 299)}
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'changed' WHERE id = 2995", quoteTable(last)))
	db.exec(fmt.Sprintf("DELETE FROM %s WHERE id = 2996", quoteTable(last)))
	r.start()
	r.waitStreaming()
	for table, partitions := range map[tableName]int{many: 300, few: 40} {
		rows := r.edgeRows(table)
		for id := range 10 * partitions {
			want, ok := fmt.Sprint(id), table != many || id != 2996
			if table == many && id == 2995 {
				want = "changed"
			}
			if got, has := rows[fmt.Sprint(id)]; has != ok || ok && got != want {
				t.Fatalf("row %d of %s is %q (%t), want %q (%t)", id, table, got, has, want, ok)
			}
		}
	}
}

// TestUntellable: a value that has no document has its own table captured anew where the stream brings it, suspends the backfill
// that meets it, with no row twice, and is gone when it is corrected. Another table comes through, and no start of the capture fails.
func TestUntellable(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	database := db.name("untellable")
	db.exec("CREATE DATABASE " + quoteIdent(database))
	t.Cleanup(func() {
		_, _ = db.control.Exec(db.ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active", database)
		_, _ = db.control.Exec(db.ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", database)
		_, _ = db.control.Exec(db.ctx, "DROP DATABASE "+quoteIdent(database)+" WITH (FORCE)")
	})
	run := func(sql string) {
		t.Helper()
		db.inDatabase(database, sql)
	}
	// In this database the text of a date is no date.
	run(`CREATE TABLE public.flow_watermarks (slot text PRIMARY KEY, watermark text);
		CREATE TABLE public.bad (id int PRIMARY KEY, d date); CREATE TABLE public.good (id int PRIMARY KEY);
		INSERT INTO public.bad SELECT g, NULL FROM generate_series(1, 50) g;
		INSERT INTO public.good SELECT g FROM generate_series(1, 50) g;
		GRANT ALL ON ALL TABLES IN SCHEMA public TO ` + quoteIdent(*testCaptureUser) + `;
		UPDATE pg_type SET typoutput = 'int4out'::regproc WHERE oid = 'date'::regtype;
		CREATE PUBLICATION ` + quoteIdent(db.publication) + ` FOR TABLE public.bad, public.good, public.flow_watermarks`)
	r := newTestRuntime(t, runtimeOptions{
		config: edit(t, db.config(), map[string]any{"database": database, "advanced.watermarksTable": "public.flow_watermarks"}),
		env:    []string{testHurryVariable + "=500ms"},
	})
	bad, good := tableName{"public", "bad"}, tableName{"public", "good"}
	r.bind(r.edgeBindings(map[tableName]backfillMode{bad: modeAutomatic, good: modeAutomatic}))
	r.start()
	r.waitStreaming()
	run("INSERT INTO public.bad VALUES (51, NULL), (52, '2020-01-02'), (53, NULL); INSERT INTO public.good VALUES (51)")
	r.waitLog(`public.bad is captured anew: an insert of the row [52] in transaction `)
	r.waitLog(`column "d": want `)
	r.waitFor("the other table", func() bool { return r.countLocked(good) == 51 })
	r.waitLog("The backfill of public.bad is suspended: ")
	r.waitFor("its rows", func() bool { return r.countLocked(bad) >= 51+51 })
	before := r.count(bad)
	if before != 51+51 { // those ahead of the bad one, from the stream and from the backfill
		t.Errorf("%d documents of the table, want 102", before)
	}
	r.kill()
	_ = r.wait()
	r.start() // which meets the value again
	run("INSERT INTO public.good VALUES (52)")
	r.waitFor("the other table after a restart", func() bool { return r.countLocked(good) == 52 })
	run("UPDATE public.bad SET d = NULL WHERE id = 52")
	r.waitStreaming()
	run("INSERT INTO public.bad VALUES (54, NULL)")
	r.waitFor("the table, mended", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool {
			return d.table == bad.String() && strings.Contains(d.doc, `"id":54`)
		})
	})
}

// TestUnordered: keys that the server fails to compare do not end a backfill: changes pass it unfiltered, and no row is missing.
func TestUnordered(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	schema := db.createSchema("keys")
	db.script("SET search_path = " + quoteIdent(schema) + ", public; " + `create type k as (n int);
		create function k_cmp(k, k) returns int immutable language sql as 'select case when ($1).n < ($2).n then -1 when ($1).n > ($2).n then 1 else 0 end';
		create function k_lt(k, k) returns bool immutable language sql as 'select ($1).n < ($2).n';
		create function k_le(k, k) returns bool immutable language sql as 'select ($1).n <= ($2).n';
		create function k_eq(k, k) returns bool immutable language sql as 'select ($1).n = ($2).n';
		create function k_ge(k, k) returns bool immutable language sql as 'select ($1).n >= ($2).n';
		create function k_gt(k, k) returns bool immutable cost 100000 language plpgsql as $$begin
			if ($1).n = 99999 then raise 'no order of 99999' using hint = 'try another'; end if; return ($1).n > ($2).n; end$$;
		create operator < (leftarg = k, rightarg = k, function = k_lt); create operator <= (leftarg = k, rightarg = k, function = k_le);
		create operator = (leftarg = k, rightarg = k, function = k_eq); create operator >= (leftarg = k, rightarg = k, function = k_ge);
		create operator > (leftarg = k, rightarg = k, function = k_gt);
		create operator class k_ops default for type k using btree as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 k_cmp(k, k)`)
	table := db.createTable("unordered", "(id "+quoteIdent(schema)+".k PRIMARY KEY, v text)")
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT row(g)::k, 'a' FROM generate_series(1, 1500) g", quoteTable(table)))
	db.exec("ANALYZE " + quoteTable(table))
	db.exec("GRANT USAGE ON SCHEMA " + quoteIdent(schema) + " TO " + quoteIdent(*testCaptureUser))
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"backfill_chunk_size": 10})}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitFor("a part of the backfill", func() bool { return r.countLocked(table) >= 100 })
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES (row(99999)::k, 'new')", quoteTable(table)))
	r.waitLog("The order of the keys of " + table.String() + " cannot be told: ")
	r.waitLog("no order of 99999 (SQLSTATE P0001); HINT: try another")
	db.exec(fmt.Sprintf("UPDATE %s SET v = 'b' WHERE (id).n IN (1000, 1499)", quoteTable(table)))
	db.exec("CREATE OR REPLACE FUNCTION k_gt(k, k) RETURNS bool IMMUTABLE LANGUAGE sql AS 'select ($1).n > ($2).n'")
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES (row(100000)::k, 'the end')", quoteTable(table)))
	r.waitStreaming()
	r.waitFor("the last row", func() bool {
		return slices.ContainsFunc(r.committed, func(d testDocument) bool { return strings.Contains(d.doc, `"the end"`) })
	})
	last := make(map[string]string)
	for _, d := range r.documents() {
		var doc struct{ ID, V string }
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			t.Fatal(err)
		}
		last[doc.ID] = doc.V
	}
	if len(last) != 1502 || last["(1000)"] != "b" || last["(1499)"] != "b" || last["(99999)"] != "new" {
		t.Errorf("%d rows of 1502; (1000) is %q, (1499) is %q, (99999) is %q", len(last), last["(1000)"], last["(1499)"], last["(99999)"])
	}
}

// TestSightReturns: a backfill that began under row-level security starts again, once, when that hides no more rows, with no look
// into the catalog at hand.
func TestSightReturns(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	role := db.name("sight")
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret1234'", quoteIdent(role)))
	t.Cleanup(func() {
		_, _ = db.control.Exec(db.ctx, "DROP OWNED BY "+quoteIdent(role)+" CASCADE")
		_, _ = db.control.Exec(db.ctx, "DROP ROLE "+quoteIdent(role))
	})
	table := db.createTable("sight", "(id int PRIMARY KEY, v text)")
	db.script(fmt.Sprintf(`INSERT INTO %[1]s SELECT i, i::text FROM generate_series(1, 5000) i; CREATE POLICY p ON %[1]s USING (id <= 4000);
		ALTER TABLE %[1]s ENABLE ROW LEVEL SECURITY; GRANT %[2]s TO %[3]s`, quoteTable(table), quoteIdent(*testCaptureUser), quoteIdent(role)))
	r := edgeStart(db, runtimeOptions{
		config: edit(t, db.edgeConfig(map[string]any{"backfill_chunk_size": 10}), map[string]any{"user": role, "password": "secret1234"}),
	}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitFor("rows", func() bool { return r.countLocked(table) >= 20 })
	db.exec("ALTER ROLE " + quoteIdent(role) + " BYPASSRLS")
	r.waitLog("its backfill starts again")
	r.awaitRows(db, table)
	r.waitStreaming()
	if n := r.countLogs("its backfill starts again"); n != 1 {
		t.Errorf("the backfill was started again %d times", n)
	}
	r.finish()
	r.checkRows(db, table)
}

// TestManyParked: tables that are parked for one fault, and whose changes come all the same, are not checked one by one while the
// stream waits; when the fault is gone they are back.
func TestManyParked(t *testing.T) {
	t.Parallel()
	db := newTestDB(t)
	modes := make(map[tableName]backfillMode)
	var tables []tableName
	for i := range 40 {
		table := db.edgeTable(fmt.Sprintf("parked_%d", i), "int PRIMARY KEY", 1)
		modes[table] = modeAutomatic
		tables = append(tables, table)
	}
	healthy := db.edgeTable("healthy", "int PRIMARY KEY", 1)
	modes[healthy] = modeAutomatic
	r := newTestRuntime(t, runtimeOptions{config: db.edgeConfig(nil), logLevel: "debug"})
	r.bind(r.edgeBindings(modes))
	r.start()
	r.waitStreaming()
	r.finish()
	for _, table := range tables {
		db.script(fmt.Sprintf("ALTER TABLE %[1]s ADD k serial, ADD CONSTRAINT %[2]s UNIQUE (k); ALTER TABLE %[1]s REPLICA IDENTITY USING INDEX %[2]s",
			quoteTable(table), quoteIdent(table.name+"_k")))
	}
	r.start()
	r.waitStreaming()
	var all strings.Builder
	for _, table := range append(tables, healthy) {
		fmt.Fprintf(&all, "INSERT INTO %s VALUES (2, 'b');", quoteTable(table))
	}
	began := time.Now()
	db.script("BEGIN; " + all.String() + " COMMIT")
	r.waitFor("the healthy table", func() bool { return r.countLocked(healthy) == 2 })
	t.Logf("the healthy table's change came after %v", time.Since(began))
	for _, table := range tables {
		db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(table)))
	}
	db.script("BEGIN; " + strings.ReplaceAll(all.String(), "(2,", "(3,") + " COMMIT")
	r.awaitRows(db, tables...)
}

// TestParkedDescribed: soon after a parked table has been looked at, those that the stream describes wait for a look at them all.
func TestParkedDescribed(t *testing.T) {
	later := time.Now().Add(time.Hour)
	c := &capture{refreshes: refreshes{parkedAt: later, sendingAt: later}}
	c.catalog = func([]tableName) (map[tableName]*table, error) { return nil, errors.New("the catalog was read") }
	b := &binding{phase: phaseMissing}
	if err := c.describe(&relationEntry{relation: &relation{}, binding: b}); err != nil {
		t.Error(err)
	}
	if wait := time.Until(c.refreshes.sendingAt); !c.refreshes.returning[b] || wait > laterAfter {
		t.Errorf("to be looked at: %t, in %v", c.refreshes.returning[b], wait)
	}
}
