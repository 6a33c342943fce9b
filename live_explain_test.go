package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// The server's plan of a table's first chunk is logged at level debug, once a table and process, also where the chunk has bounds.
func TestExplain(t *testing.T) {
	db := newTestDB(t)
	keyed := db.edgeTable("keyed", "int PRIMARY KEY", 10)
	keyless := db.createTable("keyless", "(v text)")
	db.exec("INSERT INTO " + quoteTable(keyless) + " VALUES ('a')")
	patches := 0
	r := startRuntime(t, runtimeOptions{
		logLevel: "debug",
		config:   edit(t, db.config(), map[string]any{"advanced.backfill_chunk_size": 2}),
		onCheckpoint: func(r *testRuntime, patch json.RawMessage) {
			if strings.Contains(string(patch), `"backfilled":4`) {
				if patches++; patches == 1 {
					r.sever(true)
				}
			}
		},
	})
	plans := func(table tableName) (plans []string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, log := range r.logs {
			if log.message == "explain backfill query" && strings.Contains(log.fields, table.String()) {
				plans = append(plans, log.fields)
			}
			if strings.Contains(log.fields, *testCapturePassword) {
				t.Errorf("the password is logged: %s", log.fields)
			}
		}
		return plans
	}
	if err := r.wait(); !errors.Is(err, errSevered) {
		t.Fatal(err)
	}
	first := plans(keyed)
	if len(first) != 1 || !strings.Contains(first[0], "ORDER BY") || !strings.Contains(first[0], "Scan") {
		t.Errorf("first session: %q", first)
	}
	r.start()
	r.waitStreaming()
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	second := plans(keyed)
	if len(second) != 2 || !strings.Contains(second[1], "$1") || !strings.Contains(second[1], "Scan") {
		t.Errorf("second session: %q", second)
	}
	if have := plans(keyless); len(have) == 0 || !strings.Contains(have[0], "ctid") {
		t.Errorf("keyless: %q", have)
	}
	if rows := r.count(keyed); rows != 10 {
		t.Errorf("%d rows, want 10", rows)
	}
}
