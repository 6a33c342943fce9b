package main

// live_slotloss_test.go does to the slot and to the server whatever may happen to them while a capture is stopped or runs.
//
// Goal: none of it passes as if nothing had happened: a gap is an error that names the state and both ways out, what is no
// slot of ours is an error that names it, and where the user asked for it the tables are backfilled anew. Method: a capture is
// stopped at a committed state with changes behind it, the thing is done, and the capture started again. Failovers and
// promotions are in e2e_standby_test.go, a slot in use in e2e_faults_test.go.

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stopped is a capture of one table that was stopped; the table has changes behind its cursor.
func (db *testDB) stopped(options runtimeOptions) (r *testRuntime, table tableName) {
	db.Helper()
	table = db.edgeTable("t", "int PRIMARY KEY", 10)
	if options.config == nil {
		options.config = db.config()
	}
	r = edgeStart(db, options, map[tableName]backfillMode{table: modeAutomatic})
	r.waitEnd(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		db.Fatal(err)
	}
	db.exec("INSERT INTO " + quoteTable(table) + " VALUES (100, 'in the gap')")
	db.eventually("the slot to be free", func() bool {
		return db.queryValue("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "false"
	})
	return r, table
}

// reconfigure has the sessions to come run with another configuration, which is not validated.
func (r *testRuntime) reconfigure(config json.RawMessage) {
	r.driver.config, r.capture.ConfigJson = config, config
}

// recovers starts a capture from the state of a stopped one that is told to backfill what it lost, and checks that it has
// every row in the end.
func (db *testDB) recovers(r *testRuntime, table tableName, changes map[string]any) {
	db.Helper()
	again := newTestRuntime(db.TB, runtimeOptions{
		config: edit(db.TB, db.edgeConfig(map[string]any{"on_slot_loss": "backfill"}), changes), state: r.committedState(),
	})
	again.bind(again.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	again.start()
	again.waitLog("As advanced.on_slot_loss asks, the slot is created anew and every table is backfilled")
	again.waitEnd(db, table)
	again.checkPresent(db, table)
	again.stop()
	if err := again.wait(); err != nil {
		db.Fatal(err)
	}
}

// TestSlotsAmiss: edge 10. What is done to the slot, or to the configuration, while the capture is stopped.
func TestSlotsAmiss(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	const drop = "SELECT pg_drop_replication_slot($1)"
	other := newTestDB(t)
	otherDatabase := other.name("other")
	other.exec("CREATE DATABASE " + quoteIdent(otherDatabase))
	defer other.exec("DROP DATABASE " + quoteIdent(otherDatabase))
	for _, test := range []struct {
		name     string
		do       func(db *testDB)
		changes  map[string]any // of the configuration
		want     []string
		gap      bool // both ways out, and a backfill recovers
		recovers bool
	}{
		{"dropped", func(db *testDB) { db.exec(drop, db.slot) }, nil, []string{
			"does not exist, though the capture has read up to", "it was dropped, or this is another server",
		}, true, false},
		{"dropped and created anew", func(db *testDB) {
			db.exec(drop, db.slot)
			db.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.slot)
		}, nil, []string{"starts at", "it was created anew or advanced by something else"}, true, true},
		{"advanced", func(db *testDB) {
			db.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", db.slot)
		}, nil, []string{"starts at", "it was created anew or advanced by something else"}, true, false},
		{"renamed", func(*testDB) {}, map[string]any{"advanced.slotName": "renamed_" + other.suffix}, []string{
			`the replication slot "renamed_` + other.suffix + `" does not exist, though the capture has read up to`,
		}, true, true},
		{"another plugin", func(db *testDB) {
			db.exec(drop, db.slot)
			db.exec("SELECT pg_create_logical_replication_slot($1, 'test_decoding')", db.slot)
		}, nil, []string{`uses the output plugin "test_decoding", the capture needs "pgoutput"`, "advanced.slotName"}, false, false},
		{"physical", func(db *testDB) {
			db.exec(drop, db.slot)
			db.exec("SELECT pg_create_physical_replication_slot($1)", db.slot)
		}, nil, []string{"is a physical slot, the capture needs a logical one", "advanced.slotName"}, false, false},
		{"temporary", func(db *testDB) {
			db.exec(drop, db.slot)
			owner := testConnect(db.TB, *testControlUser, *testControlPassword) // the slot ends with this session
			db.end(owner, "SELECT pg_create_logical_replication_slot("+quoteLiteral(db.slot)+", 'pgoutput', true)")
		}, nil, []string{"is temporary: it belongs to another session and ends with it", "advanced.slotName"}, false, false},
		{"wrong database", func(*testDB) {}, map[string]any{"database": otherDatabase}, []string{
			`belongs to database "` + *testDatabase + `", the capture reads database "` + otherDatabase + `"`,
		}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			db := newTestDB(t)
			r, table := db.stopped(runtimeOptions{})
			test.do(db)
			documents := len(r.documents())
			r.reconfigure(edit(t, db.config(), test.changes))
			want := test.want
			if test.gap {
				want = append(want, bothWaysOut...)
			}
			r.refused(want...)
			r.refused(want...) // and again, instead of going on where the first try left things
			if n := len(r.documents()); n != documents {
				t.Errorf("%d documents past the gap", n-documents)
			}
			if test.recovers {
				db.recovers(r, table, test.changes)
				if slot, ok := test.changes["advanced.slotName"].(string); ok {
					renamed := *db
					renamed.slot = slot
					renamed.dropSlot()
				}
			}
		})
	}
}

// fillWAL writes about n MB of WAL and has the server look at its slots.
func (db *testDB) fillWAL(n int) {
	db.Helper()
	table := db.table("noise")
	db.exec("CREATE TABLE IF NOT EXISTS " + quoteTable(table) + " (v text)")
	for range n / 8 {
		db.exec("INSERT INTO " + quoteTable(table) + " SELECT repeat('x', 1000) FROM generate_series(1, 7500)")
		db.exec("SELECT pg_switch_wal()")
	}
	db.exec("CHECKPOINT")
}

// TestSlotSizeExceeded: the server gives the slot up for its size, while the capture is stopped and while it runs.
func TestSlotSizeExceeded(t *testing.T) {
	server := startServer(t, "min_wal_size=32MB", "max_wal_size=64MB")
	db := newTestDB(t)
	if db.version() < 130000 {
		t.Skip("servers before 13 have no max_slot_wal_keep_size")
	}
	const want = "raise that setting. Changes after"
	withhold := false // set while no session runs
	r, table := db.stopped(runtimeOptions{acknowledge: func(_ *testRuntime, n int) int {
		if withhold {
			return 0
		}
		return n
	}})
	server.set(db, "max_slot_wal_keep_size", "1") // MB
	db.exec("SELECT pg_switch_wal()")
	db.fillWAL(48)
	if got := db.queryValue("SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1", db.slot); got != "lost" {
		t.Fatalf("the slot is %s", got)
	}
	r.refused(append(bothWaysOut, `the server has invalidated the replication slot "`+db.slot+`"`, "max_slot_wal_keep_size", want)...)
	db.recovers(r, table, nil)

	// In mid-stream: nothing is acknowledged any more, so that the slot stays where it is.
	server.set(db, "max_slot_wal_keep_size", "-1")
	db.dropSlot()
	withhold = true
	again := newTestRuntime(t, r.options)
	again.bind(again.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	again.start()
	again.waitEnd(db, table)
	server.set(db, "max_slot_wal_keep_size", "1") // MB
	began := time.Now()
	db.fillWAL(48)
	err := again.wait()
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), want) || took > allow(time.Minute) {
		t.Errorf("the session ended after %s with %v", took, err)
	}
	again.refused(append(bothWaysOut, `the server has invalidated the replication slot "`+db.slot+`"`, want)...)
}

// germanServer is startServer with one that tells its errors in German; without that locale, or its texts, the test is skipped.
func germanServer(t *testing.T, settings ...string) *ownServer {
	t.Helper()
	locales, err := exec.Command("locale", "-a").Output()
	if err != nil || !strings.Contains(string(locales), "de_DE.utf8") {
		t.Skip("needs the locale de_DE.UTF-8: apt-get install locales, add it to /etc/locale.gen, and run locale-gen")
	}
	server := startServer(t, append(settings, "lc_messages=de_DE.UTF-8")...)
	conn := testConnect(t, *testControlUser, *testControlPassword)
	if _, err := conn.Exec(t.Context(), "SELECT 1/0"); err == nil || !strings.Contains(err.Error(), "durch Null") {
		t.Skipf("the server's programs have no German texts: %v", err)
	}
	return server
}

// inLanguages runs a test on a server of its own that speaks English, and on one that does not.
func inLanguages(t *testing.T, test func(t *testing.T)) {
	t.Run("english", func(t *testing.T) { startServer(t); test(t) })
	t.Run("german", func(t *testing.T) { germanServer(t); test(t) })
}

// TestSlotWALMissing: WAL that the slot needs is gone, though the server does not know.
func TestSlotWALMissing(t *testing.T) {
	inLanguages(t, func(t *testing.T) {
		db := newTestDB(t)
		r, table := db.stopped(runtimeOptions{})
		segment := filepath.Join(db.queryValue("SHOW data_directory"), "pg_wal",
			db.queryValue("SELECT pg_walfile_name(restart_lsn) FROM pg_replication_slots WHERE slot_name = $1", db.slot))
		if _, err := os.Stat(segment); err != nil {
			t.Skipf("the server's files cannot be reached (it runs in a container?): %v", err)
		}
		db.exec("SELECT pg_switch_wal()")
		db.fillWAL(8)
		if err := os.Rename(segment, segment+".gone"); err != nil {
			t.Fatal(err)
		}
		r.refused(append(bothWaysOut, "(SQLSTATE 58P01)", "The slot cannot be read on from here.")...)
		db.recovers(r, table, nil)
	})
}

// TestPublicationAway: changes were made while there was no publication, of which version 17 and older cannot send one. While
// it is away the SQL that brings it back is told; with it there, what the slot has still to send is out of reach.
func TestPublicationAway(t *testing.T) {
	inLanguages(t, func(t *testing.T) {
		db := newTestDB(t)
		if db.version() >= 180000 {
			t.Skip("version 18 goes on without the publication")
		}
		const gone, away = "(SQLSTATE 42704)", "did not exist for a while"
		name := quoteIdent(db.publication)
		t.Run("made anew", func(t *testing.T) {
			r, table := db.stopped(runtimeOptions{})
			db.exec("DROP PUBLICATION " + name)
			db.exec("UPDATE " + quoteTable(table) + " SET v = 'unpublished'")
			db.exec(fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s, %s", name, quoteTable(table), quoteTable(db.watermarks)))
			r.refused(append(bothWaysOut, gone, away)...)
			r.refused(append(bothWaysOut, gone, away)...)
			db.recovers(r, table, nil)
			db.dropSlot()
		})
		t.Run("renamed and back", func(t *testing.T) {
			table := db.edgeTable("back", "int PRIMARY KEY", 10)
			r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"on_slot_loss": "backfill"})},
				map[tableName]backfillMode{table: modeAutomatic})
			r.waitEnd(db, table)
			db.exec("ALTER PUBLICATION " + name + " RENAME TO parked")
			db.exec("UPDATE " + quoteTable(table) + " SET v = 'unpublished'")
			db.exec("ALTER PUBLICATION parked RENAME TO " + name)
			r.waitLog("As advanced.on_slot_loss asks, the slot is created anew and every table is backfilled")
			r.waitEnd(db, table)
			r.checkPresent(db, table)
			r.stop()
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
			db.dropSlot()
		})
		t.Run("renamed", func(t *testing.T) {
			table := db.edgeTable("away", "int PRIMARY KEY", 10)
			r := edgeStart(db, runtimeOptions{config: db.edgeConfig(nil)}, map[tableName]backfillMode{table: modeAutomatic})
			r.waitEnd(db, table)
			db.exec("ALTER PUBLICATION " + name + " RENAME TO parked")
			defer db.exec("ALTER PUBLICATION parked RENAME TO " + name)
			db.exec("UPDATE " + quoteTable(table) + " SET v = 'unpublished'")
			err := r.wait()
			for _, want := range append(bothWaysOut, gone, "was dropped or renamed", "RENAME TO "+name+";", "CREATE PUBLICATION "+name+" FOR TABLE ONLY") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("it ended with %v, want %s", err, want)
				}
			}
		})
	})
}

// TestSlotIdle: the server gives up the slot of a capture that was stopped for too long (18).
func TestSlotIdle(t *testing.T) {
	server := startServerOf(t, 18)
	db := newTestDB(t)
	r, table := db.stopped(runtimeOptions{})
	server.set(db, "idle_replication_slot_timeout", "1") // second
	db.eventually("the slot to be given up", func() bool {
		db.exec("CHECKPOINT")
		return db.queryValue("SELECT coalesce(invalidation_reason, '') FROM pg_replication_slots WHERE slot_name = $1", db.slot) == "idle_timeout"
	})
	r.refused(append(bothWaysOut, `the server has invalidated the replication slot "`+db.slot+`": nobody used it for longer than `+
		"`idle_replication_slot_timeout` (idle_timeout); raise that setting")...)
	server.set(db, "idle_replication_slot_timeout", "3600")
	db.recovers(r, table, nil)
	r.waitLog("idle_replication_slot_timeout is 1s: a capture that is stopped for longer loses its replication slot")
}

// TestServersAmiss: the address leads to an older copy of the server, and to another server, as an upgrade or a restore from
// a dump leaves it: with a slot of our name and WAL beyond the cursor.
func TestServersAmiss(t *testing.T) {
	server := startServer(t)
	db := newTestDB(t)
	r, table := db.stopped(runtimeOptions{})
	server.script("halt")
	copied := server.copy()
	server.script("resume")
	db.moveTo(server)
	r.start()
	r.waitEnd(db, table)
	r.waitID(table, 100)
	db.fillWAL(8)
	r.waitEnd(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	server.script("halt")

	t.Run("copy", func(t *testing.T) {
		db.moveTo(copied)
		r.reconfigure(db.config())
		r.refused(append(bothWaysOut, "but the server's WAL ends at", "the server was restored to an earlier state")...)
		db.recovers(r, table, nil)
	})
	t.Run("other", func(t *testing.T) {
		another := launchServer(t, []string{"start"}, nil)
		db.moveTo(another)
		db.exec("CREATE SCHEMA IF NOT EXISTS test")
		db.exec("GRANT USAGE ON SCHEMA test TO " + quoteIdent(*testCaptureUser))
		for _, name := range []tableName{table, db.watermarks} {
			columns := "(id int PRIMARY KEY, v text)"
			if name == db.watermarks {
				columns = "(slot text PRIMARY KEY, watermark text)"
			}
			db.exec(fmt.Sprintf("CREATE TABLE %s %s", quoteTable(name), columns))
			db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(name)))
			db.exec(fmt.Sprintf("GRANT ALL ON %s TO %s", quoteTable(name), quoteIdent(*testCaptureUser)))
		}
		db.exec(fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s, %s", quoteIdent(db.publication), quoteTable(table), quoteTable(db.watermarks)))
		db.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.slot)
		db.fillWAL(64)
		r.reconfigure(db.config())
		r.refused(append(bothWaysOut, "this is another server (system identifier "+db.queryValue("SELECT system_identifier::text FROM pg_control_system()"))...)
		db.recovers(r, table, nil)
	})
}

// TestSlotLostUnderFlags: where the flags forbid a new slot, its loss while the capture runs ends it, instead of a loop.
func TestSlotLostUnderFlags(t *testing.T) {
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 3)
	db.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.slot)
	r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{
		"on_slot_loss": "backfill", "feature_flags": "no_create_replication_slot",
	})}, map[tableName]backfillMode{table: modeAutomatic})
	r.waitStreaming()
	db.dropSlot()
	err := r.wait()
	if exit, ok := errors.AsType[*connectorExit](err); !ok || !strings.Contains(exit.message, "replication slot") {
		t.Errorf("it ended with %v", err)
	}
}
