package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestPlan: a plan has each table with its key, size and time, those that are left out, and what is missing with its remedy; and it
// leaves nothing on the server.
func TestPlan(t *testing.T) {
	db := newTestDB(t)
	keyed := db.createTable("keyed", "(a int, b text, v text, PRIMARY KEY (b, a))")
	keyless := db.createTable("keyless", "(v text)")
	tree := db.createTable("tree", "(id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
	db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (0) TO (1000)", quoteTable(db.table("leaf")), quoteTable(tree)))
	outside := db.createTable("outside", "(id int PRIMARY KEY)")
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, 'key ' || i, repeat('v', 100) FROM generate_series(1, 5000) i", quoteTable(keyed)))
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, 'v' FROM generate_series(1, 900) i", quoteTable(tree)))
	db.exec("ANALYZE " + quoteTable(keyed))
	db.exec("ANALYZE " + quoteTable(tree))
	db.exec("DROP PUBLICATION IF EXISTS " + quoteIdent(db.publication))
	db.exec(fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s, %s, %s WITH (publish_via_partition_root)", quoteIdent(db.publication),
		quoteTable(keyed), quoteTable(keyless), quoteTable(tree)))
	db.exec("DROP TABLE " + quoteTable(db.watermarks))
	wanted, err := tablePatterns("plan", strings.Join([]string{keyed.String(), keyless.String(), tree.String(), outside.String()}, ","))
	if err != nil {
		t.Fatal(err)
	}
	p, err := makePlan(t.Context(), db.settings(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	of := func(name tableName) *plannedTable {
		i := slices.IndexFunc(p.Tables, func(t *plannedTable) bool { return t.Table == name.String() })
		if i < 0 {
			t.Fatalf("%s is not planned", name)
		}
		return p.Tables[i]
	}
	if k := of(keyed); !slices.Equal(k.Key, []string{"b", "a"}) || k.Rows != 5000 || k.Bytes < 500_000 || k.Seconds < 0 {
		t.Errorf("keyed: %+v", *k)
	}
	if k := of(keyless); k.Key != nil || k.Rows > 0 || !strings.Contains(k.Reading, "no key") {
		t.Errorf("keyless: %+v", *k)
	}
	if k := of(tree); k.Rows != 900 || k.Bytes == 0 {
		t.Errorf("partitioned: %+v", *k)
	}
	if len(p.LeftOut) != 1 || p.LeftOut[0].Reason != leftOutUnpublished || !slices.Equal(p.LeftOut[0].Tables, []string{outside.String()}) {
		t.Errorf("left out: %+v", p.LeftOut)
	}
	if p.Missing != "" || p.verdict() != nil {
		t.Errorf("missing: %s; %v", p.Missing, p.verdict())
	}
	if p.Sample == nil || p.Sample.Table != keyed.String() || p.Sample.Rows == 0 || p.WALSecond < 0 {
		t.Errorf("sample %+v, WAL %d", p.Sample, p.WALSecond)
	}
	if len(p.Creates) != 2 || !strings.Contains(p.Creates[0], db.slot) || !strings.Contains(p.Creates[1], db.watermarks.String()) {
		t.Errorf("creates %q", p.Creates)
	}
	if n := db.queryValue("SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1) + (to_regclass($2) IS NOT NULL)::int", db.slot,
		quoteTable(db.watermarks)); n != "0" {
		t.Errorf("%s things were created", n)
	}
	var text bytes.Buffer
	p.print(&text)
	for _, want := range []string{
		keyed.String(), "b, a", "5,000", "Not captured, " + leftOutUnpublished + ": " + outside.String(), "Times are by a sample",
		"max_slot_wal_keep_size",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the plan lacks %q:\n%s", want, text.String())
		}
	}
	if raw, err := json.Marshal(p); err != nil || !strings.Contains(string(raw), `"key":["b","a"]`) {
		t.Errorf("%s, %v", raw, err)
	}

	s := db.settings()
	s.flags.createReplicationSlot = false
	if p, err = makePlan(t.Context(), s, wanted); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Missing, "pg_create_logical_replication_slot") || p.verdict() == nil {
		t.Errorf("without a slot that it may make: missing %q, %v", p.Missing, p.verdict())
	}
}
