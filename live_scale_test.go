package main

// live_scale_test.go holds what a large database asks for: thousands of tables are discovered, and a capture of all of them, as many
// as the platform allows, starts in seconds and has memory for them. It runs the whole connector against a real server and times each request. The bounds are
// generous: they catch a query per table or a loop over all pairs of them, not a slow machine. That no number of queries
// grows with the tables is held by TestDiscoverManyTables, TestPrerequisitesOfManyTables and TestRestart.

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestManyBindings(t *testing.T) {
	db := newTestDB(t)
	tables, bound := 500, 100
	discoverLimit, startLimit, backfillLimit := 10*time.Second, 10*time.Second, time.Minute
	const mostMemory = 64<<20 + 10000*50<<10 // bytes that a connector which has nothing to do may have for 10,000 bindings
	if *longTests {
		tables, bound = 10000, 10000
		startLimit, backfillLimit = time.Minute, 5*time.Minute // the stand-in has its part in both
	}
	schema := db.createSchema("many")
	createManyTables(db, schema, tables, bound)

	r := newTestRuntime(t, runtimeOptions{config: db.config(), deadline: 2 * backfillLimit})
	timed := func(what string, limit time.Duration, f func()) {
		t.Helper()
		begin := time.Now()
		f()
		took := time.Since(begin)
		t.Logf("%s: %.2f s", what, took.Seconds())
		if limit = allow(limit); took > limit {
			t.Errorf("%s took %v, want at most %v", what, took, limit)
		}
	}

	var bindings []runtimeBinding
	timed(fmt.Sprintf("discover %d tables", tables), discoverLimit, func() {
		discovered, err := r.driver.discover(t.Context())
		if err != nil {
			t.Fatalf("discover: %v", err)
		}
		all, err := previewBindings(discovered.Bindings, &previewOptions{tables: schema + ".*"})
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != tables {
			t.Errorf("discovered %d tables of schema %s, want %d", len(all), schema, tables)
		}
		bindings, err = previewBindings(discovered.Bindings, &previewOptions{tables: schema + ".bound_*"})
		if err != nil {
			t.Fatal(err)
		}
	})
	if len(bindings) != bound {
		t.Fatalf("%d tables to bind, want %d", len(bindings), bound)
	}
	timed(fmt.Sprintf("validate %d bindings", bound), startLimit, func() { r.bind(bindings) })
	timed("apply and open, all new", startLimit, r.start)
	timed("backfill three rows of each", backfillLimit, func() { r.waitDocuments(3 * bound) })
	r.waitStreaming()
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatalf("stop: %v", err)
	}

	timed("apply and open, resumed", startLimit, r.start)
	timed("catch up", startLimit, r.waitStreaming)
	if peak := peakMemory(r.current().process.cmd.Process.Pid); peak > mostMemory {
		t.Errorf("the connector took %d MiB of memory", peak>>20)
	} else if peak > 0 {
		t.Logf("the connector took %d MiB of memory", peak>>20)
	}
	db.exec(fmt.Sprintf(`UPDATE %s.bound_%d SET b = 'changed' WHERE a = 2`, quoteIdent(schema), bound))
	timed("a live change", startLimit, func() { r.waitDocuments(3*bound + 1) })
	last := r.documents()[3*bound:]
	if !slices.ContainsFunc(last, func(d testDocument) bool { return strings.Contains(d.doc, `"changed"`) }) {
		t.Errorf("the change is not among the documents after it: %v", last)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// peakMemory is the most memory that a process has had, in bytes; 0 where the system does not tell.
func peakMemory(pid int) (bytes int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, peak, ok := strings.Cut(string(status), "\nVmHWM:"); ok {
		_, _ = fmt.Sscan(peak, &bytes)
	}
	return bytes << 10
}

// createManyTables creates n published tables in the schema; the first of them are named bound_1, bound_2 … and have
// three rows each. A transaction holds its locks to its end, so not all are made, or dropped, in one.
func createManyTables(db *testDB, schema string, n, bound int) {
	db.Helper()
	const batch = 500
	inBatches := func(block string) {
		db.Helper()
		for from := 1; from <= n; from += batch {
			db.script(fmt.Sprintf(`DO $$ DECLARE
				names text[] := ARRAY(SELECT format('%%I.%%I', %s, CASE WHEN i <= %d THEN 'bound_' ELSE 'other_' END || i)
				                      FROM generate_series(%d, %d) i);
				name text;
				BEGIN %s END $$`, quoteLiteral(schema), bound, from, min(from+batch-1, n), block))
		}
	}
	db.Cleanup(func() { inBatches(`EXECUTE 'DROP TABLE IF EXISTS ' || array_to_string(names, ', ');`) })
	inBatches(fmt.Sprintf(`
		FOREACH name IN ARRAY names LOOP
			EXECUTE format('CREATE TABLE %%s (a int PRIMARY KEY, b varchar(20), c numeric(10, 2), d timestamptz)', name);
			EXECUTE format('GRANT SELECT ON %%s TO %%I', name, %s);
			IF name LIKE '%%.bound%%' THEN
				EXECUTE format('INSERT INTO %%s SELECT i, ''text'', i, now() FROM generate_series(1, 3) i', name);
			END IF;
		END LOOP;
		EXECUTE 'ALTER PUBLICATION %s ADD TABLE ' || array_to_string(names, ', ');`,
		quoteLiteral(*testCaptureUser), quoteIdent(db.publication)))
}
