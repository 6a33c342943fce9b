package main

// live_transcripts_test.go holds the scenarios of the transcripts; kit_transcript_test.go tells what they are.

import (
	"strings"
	"testing"
)

func TestTranscripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	scenarios := []struct {
		name string
		run  func(tr *transcript)
	}{
		{"fresh", transcriptFresh},
		{"fresh-json-v1", inJSON(onV1(transcriptFresh))},
		{"identity-default", func(tr *transcript) { transcriptIdentity(tr, "DEFAULT") }},
		{"identity-full", func(tr *transcript) { transcriptIdentity(tr, "FULL") }},
		{"identity-index", func(tr *transcript) { transcriptIdentity(tr, "USING INDEX t_pair") }},
		{"identity-nothing", transcriptIdentityNothing},
		{"identity-index-refused", transcriptIdentityRefused},
		{"keyless", transcriptKeyless},
		{"key-move", transcriptKeyMove},
		{"key-move-json-v1", inJSON(onV1(transcriptKeyMove))},
		{"key-cascade", transcriptCascade},
		{"key-swap", transcriptSwap},
		{"toast-default", func(tr *transcript) { transcriptTOAST(tr, "DEFAULT") }},
		{"toast-full", func(tr *transcript) { transcriptTOAST(tr, "FULL") }},
		{"modes", transcriptModes},
		{"mode-change", transcriptModeChange},
		{"filtering", transcriptFiltering},
		{"scanned", transcriptScanned},
		{"priorities", transcriptPriorities},
		{"skip-backfills", transcriptSkipBackfills},
		{"skip-running", transcriptSkipRunning},
		{"min-backfill-xid", transcriptMinXID},
		{"backfill-filter", transcriptBackfillFilter},
		{"partitions-root", transcriptPartitionRoot},
		{"partitions-leaves", transcriptPartitionLeaves},
		{"partitions-keyless", transcriptPartitionsKeyless},
		{"scan-key", transcriptScanKey},
		{"key-renamed", transcriptKeyRenamed},
		{"bindings", transcriptBindings},
		{"bindings-all-new", transcriptAllNew},
		{"incumbent-active", func(tr *transcript) {
			transcriptIncumbent(tr, "t", `"mode":"Active","key_columns":["id"],"backfilled":5`)
		}},
		{"incumbent-backfill", func(tr *transcript) {
			transcriptIncumbent(tr, "t", `"mode":"Backfill","key_columns":["id"],"scanned":"FQI=","backfilled":2`)
		}},
		{"incumbent-unfiltered", func(tr *transcript) {
			transcriptIncumbent(tr, "x", `"mode":"UnfilteredBackfill","key_columns":["id"],"scanned":"AmIA","backfilled":2`)
		}},
		{"incumbent-keyless", func(tr *transcript) {
			transcriptIncumbent(tr, "k", `"mode":"KeylessBackfill","scanned":"KDEsMCk=","backfilled":2`)
		}},
		{"incumbent-pending", func(tr *transcript) {
			transcriptIncumbent(tr, "t", `"mode":"Pending","backfilled":0`)
		}},
		{"state-faults", transcriptStateFaults},
		{"source", transcriptSource},
		{"flags", transcriptFlags},
		{"arrays-multidimensional", transcriptMultidimensional},
		{"truncate", transcriptTruncate},
		{"truncate-backfill", transcriptTruncateBackfill},
		{"recreated-stopped", transcriptRecreatedStopped},
		{"recreated-streaming", transcriptRecreatedStreaming},
		{"missing-at-open", transcriptMissing},
		{"missing-returns-streaming", transcriptMissingReturns},
		{"unfit", transcriptUnfit},
		{"shapes", transcriptShapes},
		{"shapes-json-v1", inJSON(onV1(transcriptShapes))},
		{"shapes-behind", transcriptShapesBehind},
		{"shapes-backfill", transcriptShapesBackfill},
		{"columns-left-out", transcriptLeftOut},
		{"names", transcriptNames},
		{"names-json-v1", inJSON(onV1(transcriptNames))},
		{"types", transcriptTypes},
		{"types-json-v1", inJSON(onV1(transcriptTypes))},
		{"publication", transcriptPublication},
		{"read-only", transcriptReadOnly},
		{"transactions", transcriptTransactions},
		{"no-bindings", transcriptNoBindings},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			tr := newTranscript(t)
			s.run(tr)
			tr.golden(strings.TrimSuffix(s.name, "-json-v1"))
		})
	}
}

// inJSON runs a scenario in the other codec; its golden file is the same.
func inJSON(run func(tr *transcript)) func(tr *transcript) {
	return func(tr *transcript) {
		tr.codec = codecJSON
		run(tr)
	}
}

// onV1 runs a scenario on the other runtime; its golden file is the same.
func onV1(run func(tr *transcript)) func(tr *transcript) {
	return func(tr *transcript) {
		tr.runtime = runtimeV1
		run(tr)
	}
}

const fiveRows = "(1, 'one'), (2, 'two'), (3, 'three'), (4, 'four'), (5, 'five')"

// A fresh capture of five rows in chunks of two is the sequence observed of the incumbent (spec/incumbent.md §7.2); then a
// restart with nothing to do, then changes made while it was stopped. Both codecs must say the same.
func transcriptFresh(tr *transcript) {
	tr.full = true
	tr.table("t", "(id integer PRIMARY KEY, b varchar(2000), c real NOT NULL)",
		"(1, 'one', 1)", "(2, 'two', 2)", "(3, NULL, 3)", "(4, 'four <&>', 4.5)", "(5, 'five', 5)")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.poll()
	tr.sql("INSERT INTO t VALUES (6, 'six', 6)")
	tr.sql(`BEGIN;
		UPDATE t SET b = 'zwei' WHERE id = 2;
		DELETE FROM t WHERE id = 3;
		COMMIT`)
	tr.poll()
}

// What before and the deleted document carry depends on the replica identity (decisions.md 1 and 9).
func transcriptIdentity(tr *transcript, identity string) {
	tr.table("t", "(a integer, b integer, v text, n text, PRIMARY KEY (a, b))")
	tr.sql("CREATE UNIQUE INDEX t_pair ON t (b, a); ALTER TABLE t REPLICA IDENTITY " + identity)
	tr.sql("INSERT INTO t VALUES (1, 1, 'v', NULL), (2, 2, 'w', 'n')")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (3, 3, 'x', NULL)")
	tr.sql("UPDATE t SET v = 'vv' WHERE a = 1")
	tr.sql("UPDATE t SET n = 'nn', v = NULL WHERE a = 1")
	tr.sql("UPDATE t SET b = 20 WHERE a = 2")
	tr.sql("DELETE FROM t WHERE a = 1")
	tr.sql("DELETE FROM t WHERE a = 2")
	tr.poll()
}

// The server itself refuses updates and deletes of a published table without an identity; inserts flow.
func transcriptIdentityNothing(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.sql("ALTER TABLE t REPLICA IDENTITY NOTHING")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (6, 'six')")
	tr.poll()
}

// An identity that does not carry the collection key is refused with what to run (decisions.md 9).
func transcriptIdentityRefused(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, other integer NOT NULL UNIQUE)")
	tr.sql("ALTER TABLE t REPLICA IDENTITY USING INDEX t_other_key")
	tr.bindError(bound{table: "t"})
}

// Every change of a keyless table is a document of its own, keyed by loc.
func transcriptKeyless(tr *transcript) {
	tr.table("t", "(a text, b integer)")
	tr.sql("INSERT INTO t SELECT repeat('x', 1000) || i, i FROM generate_series(1, 9) i")
	tr.sql("ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET a = 'x' WHERE b > 1")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES ('y', 9), ('z', 10)")
	tr.sql("COPY t FROM PROGRAM 'printf \"c\\t1\\nc\\t2\\nc\\t3\\n\"'")
	tr.sql("UPDATE t SET b = -1 WHERE a = 'y'")
	tr.sql("DELETE FROM t WHERE a = 'z'")
	tr.poll()
}

// A key that moves is a delete and then a create, one behind it (decisions.md 1).
func transcriptKeyMove(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.table("f", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two')")
	tr.table("c", "(a integer, b text, v text, PRIMARY KEY (a, b))", "(1, 'x', 'v'), (2, 'x', 'v')")
	tr.sql("ALTER TABLE f REPLICA IDENTITY FULL")
	tr.bind(bound{table: "t"}, bound{table: "f"}, bound{table: "c"})
	tr.poll()
	tr.sql("UPDATE t SET id = 10, v = 'ten' WHERE id = 1")
	tr.sql("UPDATE t SET id = -id WHERE id IN (2, 3)")
	tr.sql("UPDATE f SET id = 10 WHERE id = 1")
	tr.sql("UPDATE c SET b = 'y' WHERE a = 1")
	tr.sql("UPDATE c SET a = 3 WHERE a = 2")
	tr.sql(`BEGIN;
		UPDATE t SET id = 11 WHERE id = 10;
		UPDATE t SET id = 12 WHERE id = 11;
		INSERT INTO t VALUES (10, 'again');
		COMMIT`)
	tr.poll()
}

// ON UPDATE CASCADE moves the keys of referencing rows within the same transaction.
func transcriptCascade(tr *transcript) {
	tr.table("parent", "(id integer PRIMARY KEY)", "(1), (2)")
	tr.table("child", `(parent integer REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, n integer,
		PRIMARY KEY (parent, n))`, "(1, 1), (1, 2), (2, 1)")
	tr.bind(bound{table: "parent"}, bound{table: "child"})
	tr.poll()
	tr.sql("UPDATE parent SET id = 10 WHERE id = 1")
	tr.sql("DELETE FROM parent WHERE id = 2")
	tr.poll()
}

// Two rows swap a key that is checked at commit only: no delete may remove the row that took the key (DESIGN §3.1.6).
func transcriptSwap(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.sql("ALTER TABLE t REPLICA IDENTITY FULL")
	tr.bind(bound{table: "t", key: []string{"/id"}, mode: "Normal"})
	tr.poll()
	tr.sql("UPDATE t SET id = 3 - id WHERE id < 3")
	tr.sql("UPDATE t SET id = id % 3 + 1")
	tr.sql(`BEGIN;
		INSERT INTO t VALUES (1, 'second one');
		DELETE FROM t WHERE id = 1 AND v <> 'second one';
		COMMIT`)
	tr.poll()
	tr.show("SELECT id, v FROM t ORDER BY id")
}

// An unchanged TOAST value is left out where nothing tells it, taken from the old row where that is complete, and read
// again where the row is a new document.
func transcriptTOAST(tr *transcript, identity string) {
	tr.table("t", "(id integer PRIMARY KEY, small text, big text)")
	tr.sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL; ALTER TABLE t REPLICA IDENTITY " + identity)
	tr.sql("INSERT INTO t VALUES (1, 's', repeat('x', 2100)), (2, 's', repeat('y', 2100)), (3, 's', repeat('z', 2100))")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("UPDATE t SET small = 'toast kept' WHERE id = 1")
	tr.sql("UPDATE t SET small = 'toast gone', big = NULL WHERE id = 3")
	tr.sql("UPDATE t SET id = 20 WHERE id = 2")
	tr.sql("DELETE FROM t WHERE id = 1")
	tr.poll()
}

// The state words and key columns of every mode (spec/incumbent.md §3.1).
func transcriptModes(tr *transcript) {
	for _, name := range []string{"automatic", "precise", "normal", "changes", "keyless"} {
		tr.table(name, "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	}
	tr.table("words", `(id text COLLATE "und-x-icu" PRIMARY KEY)`, "('b'), ('B'), ('a')")
	tr.bind(
		bound{table: "automatic", priority: 6}, bound{table: "precise", mode: "Precise", priority: 5},
		bound{table: "normal", mode: "Normal", priority: 4}, bound{table: "changes", mode: "Only Changes"},
		bound{table: "keyless", mode: "Without Primary Key", priority: 3}, bound{table: "words", priority: 2},
	)
	tr.poll()
	for _, name := range []string{"automatic", "precise", "normal", "changes", "keyless"} {
		tr.sql("UPDATE " + name + " SET v = 'zwei' WHERE id = 2")
	}
	tr.sql("DELETE FROM words WHERE id = 'B'")
	tr.poll()
}

// Another mode needs another backfill; a table without a key needs a mode that works without one.
func transcriptModeChange(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.table("k", "(a text)")
	tr.bindError(bound{table: "k", mode: "Precise"})
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.bindError(bound{table: "t", mode: "Normal"})
	tr.bind(bound{table: "t", mode: "Normal", backfill: 1})
	tr.poll()
}

// Changes made between two chunks: those behind the position are emitted, those ahead of it are read by a later chunk;
// Normal emits both.
func transcriptFiltering(tr *transcript) {
	tr.table("p", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.table("n", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "p", priority: 1}, bound{table: "n", mode: "Normal"})
	tr.pollFor(5) // p has been read to 4
	tr.sql("UPDATE p SET v = 'zwei' WHERE id = 2; UPDATE n SET v = 'zwei' WHERE id = 2")
	tr.sql("UPDATE p SET v = 'fünf' WHERE id = 5; UPDATE n SET v = 'fünf' WHERE id = 5")
	tr.sql("DELETE FROM p WHERE id IN (3, 5); DELETE FROM n WHERE id = 3")
	tr.sql("INSERT INTO p VALUES (0, 'zero'), (6, 'six'); INSERT INTO n VALUES (0, 'zero')")
	tr.sql("UPDATE p SET id = 7 WHERE id = 1; UPDATE p SET id = 1 WHERE id = 6")
	tr.pollFor(6)
	tr.sql("UPDATE n SET v = 'neu' WHERE id IN (1, 5)")
	tr.poll()
}

// The position of a scan is packed as the incumbent packs it (spec/incumbent.md §7.4).
func transcriptScanned(tr *transcript) {
	tr.sql("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
	for _, k := range []struct{ name, definition, values string }{
		{"k_int", "bigint", "(-5), (0), (2), (4294967295)"},
		{"k_text", "text COLLATE \"C\"", "('a'), ('b'), ('c')"},
		{"k_pair", "text COLLATE \"C\", n int", "('B', 3), ('B', 4), ('C', 1)"},
		{"k_bool", "boolean", "(false), (true)"},
		{"k_float", "double precision", "(-1.5), (0), (1.5), ('NaN')"},
		{"k_bytea", "bytea", "('\\x00'), ('\\x0001'), ('\\xff')"},
		{"k_uuid", "uuid", "('11111111-1111-1111-1111-111111111111'), ('21111111-1111-1111-1111-111111111111')"},
		{"k_date", "date", "('1999-01-08'), ('2000-01-01')"},
		{"k_timestamp", "timestamp", "('1999-01-08 04:05:06.5'), ('infinity')"},
		{"k_numeric", "numeric", "(-12.5), (0), (123.4500)"},
		{"k_enum", "mood", "('sad'), ('ok'), ('happy')"},
		{"k_inet", "inet", "('10.0.0.1'), ('10.0.0.2/8')"},
		{"k_interval", "interval", "('1 day'), ('1 mon')"},
	} {
		definition := "(id " + k.definition + ", PRIMARY KEY (id))"
		if strings.Contains(k.definition, ",") {
			definition = "(id " + k.definition + ", PRIMARY KEY (id, n))"
		}
		tr.table(k.name, definition, k.values)
	}
	tr.advanced["backfill_chunk_size"] = 1
	var all []bound
	for i, name := range []string{
		"k_int", "k_text", "k_pair", "k_bool", "k_float", "k_bytea", "k_uuid", "k_date", "k_timestamp", "k_numeric", "k_enum",
		"k_inet", "k_interval",
	} {
		all = append(all, bound{table: name, priority: -i})
	}
	tr.bind(all...)
	tr.poll()
}

// The highest band is backfilled before the next begins.
func transcriptPriorities(tr *transcript) {
	for _, name := range []string{"low", "high", "normal"} {
		tr.table(name, "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	}
	tr.bind(bound{table: "low", priority: -1}, bound{table: "high", priority: 2}, bound{table: "normal"})
	tr.poll()
}

// Tables that are listed are Active at once; * lists all.
func transcriptSkipBackfills(tr *transcript) {
	tr.table("a", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.table("b", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.set("skip_backfills", "other.a,"+strings.ToUpper(tr.schema)+".A")
	tr.bind(bound{table: "a"}, bound{table: "b"})
	tr.poll()
	tr.sql("UPDATE a SET v = 'zwei' WHERE id = 2; DELETE FROM b WHERE id = 1")
	tr.set("skip_backfills", "*.*")
	tr.bind(bound{table: "a", backfill: 1}, bound{table: "b", backfill: 1})
	tr.poll()
	tr.sql("UPDATE a SET v = 'drei' WHERE id = 3")
	tr.poll()
}

// A listed table's backfill stops at the next start.
func transcriptSkipRunning(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.pollFor(4)
	tr.set("skip_backfills", tr.schema+".t")
	tr.sql("UPDATE t SET v = 'fünf' WHERE id = 5")
	tr.poll()
	tr.sql("UPDATE t SET v = 'cinq' WHERE id = 5")
	tr.poll()
}

// Only rows written by the transaction or later are read; changes come whatever the row's age.
func transcriptMinXID(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.sql("INSERT INTO t SELECT i, 'old' FROM generate_series(6, 9) i")
	tr.advanced["min_backfill_xid"] = tr.queryValue("SELECT txid_current() % 4294967296")
	tr.advanced["backfill_chunk_size"] = 100
	tr.sql("UPDATE t SET v = 'new' WHERE id IN (2, 5, 8)")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("UPDATE t SET v = 'later' WHERE id = 1")
	tr.poll()
}

// The filter narrows the backfill, not the stream, and asks for a new backfill when it changes.
func transcriptBackfillFilter(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bindError(bound{table: "t", filter: "id > 2", mode: "Precise"})
	tr.bindError(bound{table: "t", filter: " "})
	tr.bind(bound{table: "t", filter: "id = 1 OR v LIKE 'f%'"})
	tr.poll()
	tr.sql("UPDATE t SET v = 'zwei' WHERE id = 2")
	tr.poll()
	tr.bindError(bound{table: "t", filter: "id > 3"})
	tr.bind(bound{table: "t", filter: "id > 3", backfill: 1})
	tr.poll()
	tr.bind(bound{table: "t", backfill: 1})
	tr.poll()
}

const partitioned = `(id integer, part text, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
	CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a');
	CREATE TABLE p_rest PARTITION OF p DEFAULT PARTITION BY RANGE (id);
	CREATE TABLE p_rest_low PARTITION OF p_rest FOR VALUES FROM (MINVALUE) TO (10);
	CREATE TABLE p_rest_high PARTITION OF p_rest FOR VALUES FROM (10) TO (MAXVALUE)`

// A root published as such: one collection, moves between leaves are a delete and a create.
func transcriptPartitionRoot(tr *transcript) {
	tr.table("p", partitioned, "(1, 'a', 'x'), (2, 'b', 'x'), (3, 'a', 'x'), (11, 'b', 'x')")
	tr.bind(bound{table: "p"})
	tr.poll()
	tr.sql("INSERT INTO p VALUES (4, 'a', 'y'), (12, 'c', 'y')")
	tr.sql("UPDATE p SET v = 'z' WHERE id = 1")
	tr.sql("UPDATE p SET part = 'b' WHERE id = 3")
	tr.sql("DELETE FROM p WHERE id = 11")
	tr.poll()
}

// Leaves published as such: a collection each.
func transcriptPartitionLeaves(tr *transcript) {
	tr.exec("ALTER PUBLICATION " + quoteIdent(tr.publication) + " SET (publish_via_partition_root = false)")
	tr.table("p", partitioned, "(1, 'a', 'x'), (2, 'b', 'x'), (3, 'a', 'x'), (11, 'b', 'x')")
	tr.set("capture_as_partitions", true)
	tr.bind(bound{table: "p_a", priority: 2}, bound{table: "p_rest_low", priority: 1}, bound{table: "p_rest_high"})
	tr.poll()
	tr.sql("INSERT INTO p VALUES (4, 'a', 'y'), (12, 'c', 'y')")
	tr.sql("UPDATE p SET part = 'b' WHERE id = 3")
	tr.sql("DELETE FROM p WHERE id = 11")
	tr.poll()
}

// Without a key every leaf is scanned by itself, at whatever depth.
func transcriptPartitionsKeyless(tr *transcript) {
	tr.table("p", partitioned)
	tr.sql("INSERT INTO p SELECT i, CASE WHEN i < 3 THEN 'a' ELSE 'b' END, repeat('x', 1500) FROM generate_series(1, 15) i")
	tr.sql("UPDATE p SET v = ''") // the rows' later versions are on later pages
	tr.bind(bound{table: "p", mode: "Without Primary Key"})
	tr.pollFor(5)
	tr.sql("INSERT INTO p VALUES (16, 'b', 'new'); UPDATE p SET v = 'u' WHERE id = 1")
	tr.poll()
}

// A table may be scanned by other columns than its primary key: by those of the collection's key, or of the resource.
// Several rows may then have one scan key, or none of it.
func transcriptScanKey(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, a integer, b text NOT NULL UNIQUE)",
		"(1, 2, 'x'), (2, 2, 'y'), (3, 2, 'z'), (4, NULL, 'n'), (5, 1, 'o'), (6, NULL, 'p')")
	tr.table("u", "(id integer PRIMARY KEY, b text COLLATE \"C\" NOT NULL UNIQUE)", "(1, 'c'), (2, 'b'), (3, 'a')")
	tr.sql("ALTER TABLE u REPLICA IDENTITY FULL; ALTER TABLE t REPLICA IDENTITY FULL")
	tr.bind(bound{table: "t", priority: 1, primaryKey: []string{"a"}}, bound{table: "u", key: []string{"/b"}})
	tr.pollFor(4)
	tr.sql("UPDATE t SET b = b || '+'; UPDATE u SET b = 'd' WHERE id = 3")
	tr.poll()
	tr.sql("UPDATE t SET a = 3 WHERE id = 1; UPDATE u SET b = 'e' WHERE id = 1; DELETE FROM t WHERE id = 4")
	tr.poll()
}

// A key column that gets another name is no longer the collection's key: the binding is parked with the reason.
func transcriptKeyRenamed(tr *transcript) {
	tr.markable()
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two')")
	tr.bind(bound{table: "t"})
	tr.stream()
	tr.step("UPDATE t SET v = 'eins' WHERE id = 1; ALTER TABLE t RENAME id TO no; UPDATE t SET v = 'zwei' WHERE no = 2")
	tr.stepBack("t", "ALTER TABLE t RENAME no TO id; UPDATE t SET v = 'drei' WHERE id = 2")
	tr.stop()
}

// Bindings come, go, come back and are reset, beside one that stays (spec/incumbent.md §7.3).
func transcriptBindings(tr *transcript) {
	tr.table("stays", "(id integer PRIMARY KEY)", "(1)")
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.bind(bound{table: "stays"})
	tr.poll()
	tr.bind(bound{table: "stays"}, bound{table: "t"})
	tr.sql("INSERT INTO stays VALUES (2)")
	tr.poll()
	tr.bind(bound{table: "stays"})
	tr.sql("INSERT INTO stays VALUES (3); UPDATE t SET v = 'drei' WHERE id = 3; DELETE FROM t WHERE id = 1")
	tr.poll()
	tr.bind(bound{table: "stays"}, bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (5, 'five'), (6, 'six'), (7, 'seven')")
	tr.poll()
	tr.bind(bound{table: "stays"}, bound{table: "t", backfill: 1})
	// Before the first chunk and beyond the position: the collection has these keys, and no chunk will tell of them.
	tr.sql("DELETE FROM t WHERE id = 2; UPDATE t SET id = 4 WHERE id = 3; UPDATE t SET v = 'fünf' WHERE id = 5")
	tr.pollFor(4)
	tr.sql("DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (8, 'eight')")
	tr.poll()
}

// Without a binding that was there before, the slot begins anew.
func transcriptAllNew(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("UPDATE t SET v = 'drei' WHERE id = 3")
	tr.dropSlot()
	tr.poll()
	tr.bind(bound{table: "t", backfill: 1})
	tr.poll()
}

// A state that the incumbent wrote goes on where it stood, without a loss and without repeating what it had captured.
func transcriptIncumbent(tr *transcript, name, state string) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.table("x", "(id text COLLATE \"C\" PRIMARY KEY, v text)", "('a', '1'), ('b', '2'), ('c', '3'), ('d', '4'), ('e', '5')")
	tr.table("k", "(v text, n integer)")
	tr.sql("ALTER TABLE k REPLICA IDENTITY FULL; INSERT INTO k SELECT repeat('x', 1500), i FROM generate_series(1, 15) i")
	tr.sql("UPDATE k SET v = ''")
	tr.bind(bound{table: name})
	tr.stored(`{"cursor":"{cursor}","bindingStateV1":{"s%2F` + name + `":{` + state + `},"s%2Fgone":{"mode":"Active","key_columns":["id"],"backfilled":1}}}`)
	tr.sql("UPDATE t SET v = v || '+' WHERE id IN (2, 4); DELETE FROM t WHERE id IN (1, 5); INSERT INTO t VALUES (6, 'six')")
	tr.sql("UPDATE x SET v = v || '+' WHERE id IN ('b', 'd'); DELETE FROM x WHERE id IN ('a', 'e')")
	tr.sql("INSERT INTO k VALUES ('new', 16)")
	tr.poll()
	tr.poll()
}

// A state we do not understand is an error: what is in it would be lost.
func transcriptStateFaults(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	for _, state := range []string{
		`{"cursor":"0/1","unknown":1}`,
		`{"cursor":"0/1","bindingStateV1":{"s%2Ft":{"mode":"Active","unknown":1}}}`,
		`{"cursor":"0/1","bindingStateV1":{"s%2Ft":{"mode":"Other"}}}`,
		`{"cursor":"17"}`,
		`{"cursor":7}`,
	} {
		tr.stored(state)
		tr.poll()
	}
	// A position that cannot be unpacked starts the backfill again.
	tr.stored(`{"cursor":"{cursor}","bindingStateV1":{"s%2Ft":{"mode":"Backfill","key_columns":["id"],"scanned":"/w==","backfilled":2}}}`)
	tr.poll()
}

// What _meta.source says: tag, txid where the collection has a place for it, history mode changing nothing.
func transcriptSource(tr *transcript) {
	tr.full = true
	tr.root["historyMode"] = true
	tr.set("source_tag", "tag \"1\"")
	tr.table("t", "(id integer PRIMARY KEY)", "(1)")
	tr.table("u", "(id integer PRIMARY KEY)", "(1)")
	tr.bind(bound{table: "t", priority: 1}, bound{table: "u", noTxID: true})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (2)")
	tr.sql("INSERT INTO u VALUES (2)")
	tr.poll()
}

const flagged = `(id integer PRIMARY KEY, d date, t time, z timetz, a integer[], ad date[])`

const flaggedRows = `(1, '1999-01-08', '04:05:06.789', '04:05:06+02', '{{1,2},{3,4}}', '{1999-01-08,NULL}'), (2, 'infinity', '24:00', '24:00+00', '{}', NULL)`

// Feature flags that change documents and schemas (spec/incumbent.md §2.1).
func transcriptFlags(tr *transcript) {
	tr.table("t", flagged, flaggedRows)
	for i, flags := range []string{
		"", "no_date_as_date,no_time_as_time", "no_flatten_arrays, no_use_schema_inference", "no_emit_sourced_schemas",
	} {
		tr.set("feature_flags", flags)
		tr.bind(bound{table: "t", backfill: uint32(i)})
		tr.poll()
		tr.sql("UPDATE t SET id = id")
		tr.poll()
	}
}

func transcriptMultidimensional(tr *transcript) {
	tr.set("feature_flags", "multidimensional_arrays")
	tr.table("t", flagged, flaggedRows)
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("UPDATE t SET id = id")
	tr.poll()
}

// TRUNCATE is said once for a table; documents stay (decisions.md 25).
func transcriptTruncate(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("TRUNCATE t")
	tr.sql("INSERT INTO t VALUES (1, 'new')")
	tr.sql("TRUNCATE t")
	tr.sql("INSERT INTO t VALUES (2, 'newer'), (3, 'newer')")
	tr.poll()
	tr.bind(bound{table: "t", backfill: 1})
	tr.pollFor(4) // to 2 and 3
	tr.sql("TRUNCATE t; INSERT INTO t VALUES (2, 'last'), (9, 'last')")
	tr.poll()
}

func transcriptTruncateBackfill(tr *transcript) {
	tr.set("on_truncate", "backfill")
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("TRUNCATE t")
	tr.sql("INSERT INTO t VALUES (1, 'new'), (7, 'new'), (8, 'new')")
	tr.sql("DELETE FROM t WHERE id = 7")
	tr.poll()
}

// A table that was dropped and created again is another table: it is backfilled again (decisions.md 25).
func transcriptRecreatedStopped(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (6, 'six')")
	tr.sql("DROP TABLE t")
	tr.table("t", "(id integer PRIMARY KEY, v text, w integer)", "(1, 'again', 1), (2, 'again', 2), (3, 'again', 3)")
	tr.sql("INSERT INTO t VALUES (4, 'again', 4)")
	tr.poll()
	tr.sql("DELETE FROM t WHERE id = 4")
	tr.poll()
}

func (tr *transcript) markable() {
	tr.streaming = true
	tr.exec("CREATE TABLE " + markerTable + " (id integer PRIMARY KEY)")
	tr.exec("ALTER PUBLICATION " + quoteIdent(tr.publication) + " ADD TABLE " + markerTable)
}

func transcriptRecreatedStreaming(tr *transcript) {
	tr.markable()
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.stream()
	tr.step("INSERT INTO t VALUES (6, 'six')")
	tr.step("DROP TABLE t")
	tr.table("t", "(id integer PRIMARY KEY, v text, w integer)")
	tr.step("INSERT INTO t VALUES (1, 'again', 1), (2, 'again', 2), (3, 'again', 3), (4, 'again', 4)")
	tr.step("DELETE FROM t WHERE id = 4")
	tr.stop()
}

// A table that is missing parks its binding; the others go on (decisions.md 25).
func transcriptMissing(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two')")
	tr.table("u", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two')")
	tr.bind(bound{table: "t", priority: 1}, bound{table: "u"})
	tr.poll()
	tr.sql("UPDATE t SET v = 'last'; DROP TABLE t; INSERT INTO u VALUES (3, 'three')")
	tr.poll()
	tr.sql("INSERT INTO u VALUES (4, 'four')")
	tr.poll()
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'back'), (3, 'back')")
	tr.poll()
	tr.sql("DELETE FROM t WHERE id = 1")
	tr.poll()
}

// A parked binding's table returns while the capture runs.
func transcriptMissingReturns(tr *transcript) {
	tr.markable()
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two')")
	tr.bind(bound{table: "t"})
	tr.sql("DROP TABLE t")
	tr.stream()
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'back'), (3, 'back')")
	tr.step("INSERT INTO t VALUES (4, 'four')")
	tr.step("DELETE FROM t WHERE id = 1")
	tr.stop()
}

// A table that cannot be captured as it is parks its binding until it can.
func transcriptUnfit(tr *transcript) {
	tr.markable()
	tr.table("t", "(id integer PRIMARY KEY, other integer NOT NULL UNIQUE)", "(1, 10), (2, 20)")
	tr.bind(bound{table: "t"})
	tr.stream()
	tr.stop()
	tr.sql("ALTER TABLE t REPLICA IDENTITY USING INDEX t_other_key")
	tr.stream()
	tr.step("INSERT INTO t VALUES (3, 30)")
	tr.step("DELETE FROM t WHERE id = 1")
	tr.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT")
	tr.stepBack("t", "INSERT INTO t VALUES (4, 40)")
	tr.step("DELETE FROM t WHERE id = 2")
	tr.stop()
}

// A new shape is announced before its first document (decisions.md 24).
func transcriptShapes(tr *transcript) {
	tr.markable()
	tr.lax = true
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.bind(bound{table: "t"})
	tr.stream()
	tr.step("ALTER TABLE t ADD d date")
	tr.step("INSERT INTO t VALUES (4, 'four', '2000-02-29')")
	tr.step("ALTER TABLE t ADD a date[] DEFAULT '{2000-01-01}'; UPDATE t SET v = 'zwei' WHERE id = 2")
	tr.step("ALTER TABLE t DROP v; UPDATE t SET d = '2001-01-01' WHERE id = 1")
	tr.step("ALTER TABLE t RENAME d TO day; UPDATE t SET day = '2001-01-02' WHERE id = 1")
	tr.step("ALTER TABLE t ALTER day TYPE text; UPDATE t SET day = 'today' WHERE id = 1")
	tr.step("ALTER TABLE t ADD m numeric(5,2) NOT NULL DEFAULT 1.5; DELETE FROM t WHERE id = 3")
	tr.step("CREATE TYPE color AS ENUM ('red', 'green'); ALTER TABLE t ADD c color, ADD cs color[]")
	tr.step("UPDATE t SET c = 'green', cs = '{red,NULL}' WHERE id = 1")
	tr.step("ALTER TABLE t ALTER id TYPE bigint; INSERT INTO t (id) VALUES (5000000000)")
	tr.stop()
}

// The same while stopped: the catalog is ahead of the stream, whose values are decoded by the stream's shapes.
func transcriptShapesBehind(tr *transcript) {
	tr.lax = true
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one'), (2, 'two'), (3, 'three')")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (4, 'four')")
	tr.sql("ALTER TABLE t ADD a date[]")
	tr.sql("UPDATE t SET a = '{2000-01-01}' WHERE id = 1")
	tr.sql("ALTER TABLE t DROP v")
	tr.sql("UPDATE t SET a = '{}' WHERE id = 2")
	tr.sql("ALTER TABLE t DROP a")
	tr.sql("ALTER TABLE t ADD v integer")
	tr.sql("UPDATE t SET v = 3 WHERE id = 3")
	tr.poll()
}

// DDL in the middle of a backfill: the chunks that follow have the new shape, and so do the changes.
func transcriptShapesBackfill(tr *transcript) {
	tr.lax = true
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.pollFor(4)
	tr.sql("UPDATE t SET v = 'eins' WHERE id = 1; UPDATE t SET v = 'drei' WHERE id = 3")
	tr.sql("ALTER TABLE t ADD w integer DEFAULT 7")
	tr.sql("UPDATE t SET w = 8 WHERE id IN (2, 4)")
	tr.pollFor(4)
	tr.sql("ALTER TABLE t DROP v; UPDATE t SET w = 9 WHERE id IN (1, 5)")
	tr.poll()
}

// Columns that are in no document: generated ones that the stream does not have, and one named as our own field.
func transcriptLeftOut(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, g integer GENERATED ALWAYS AS (id * 2) STORED, _meta text, z text)",
		"(1, DEFAULT, 'm', 'z'), (2, DEFAULT, 'm', 'z')")
	tr.table("nothing", "()")
	tr.sql("ALTER TABLE nothing REPLICA IDENTITY FULL; INSERT INTO nothing DEFAULT VALUES")
	tr.bind(bound{table: "t", priority: 1}, bound{table: "nothing"})
	tr.poll()
	tr.sql("UPDATE t SET _meta = 'mm', z = 'zz' WHERE id = 1")
	tr.sql("INSERT INTO nothing DEFAULT VALUES; DELETE FROM t WHERE id = 2")
	tr.poll()
}

// Names are taken as they are (decisions.md 20).
func transcriptNames(tr *transcript) {
	tr.sql(`CREATE TABLE "quo""te" ("I D" integer PRIMARY KEY, "a/b~c" text, "sch""ön" text, "A" text, "a" text);
		CREATE TABLE "Case" (id integer PRIMARY KEY); CREATE TABLE "case" (id integer PRIMARY KEY);
		CREATE TABLE "日本.語" ("ключ" text COLLATE "C" PRIMARY KEY)`)
	tr.exec(`ALTER PUBLICATION ` + quoteIdent(tr.publication) + ` ADD TABLE "quo""te", "Case", "case", "日本.語"`)
	tr.sql(`INSERT INTO "quo""te" VALUES (1, 'x', 'y', 'A', 'a'); INSERT INTO "Case" VALUES (1); INSERT INTO "case" VALUES (2);
		INSERT INTO "日本.語" VALUES ('значение'), ('ü')`)
	tr.bind(bound{table: `quo"te`, priority: 4}, bound{table: "Case", priority: 3}, bound{table: "case", priority: 2},
		bound{table: "日本.語", priority: 1})
	tr.poll()
	tr.sql(`UPDATE "quo""te" SET "I D" = 2, "a/b~c" = E'tab\t"\\'; INSERT INTO "Case" VALUES (3); DELETE FROM "case";
		DELETE FROM "日本.語" WHERE "ключ" = 'ü'`)
	tr.poll()
}

// Values of user-defined types and arrays of them; a chunk and the stream agree (decisions.md 10 to 16).
func transcriptTypes(tr *transcript) {
	tr.requireVersion(140000) // multiranges
	tr.sql(`CREATE TYPE color AS ENUM ('red', 'gr"een'); CREATE DOMAIN short AS varchar(3) CHECK (value <> 'no');
		CREATE DOMAIN shorter AS short; CREATE TYPE pair AS (a integer, b text)`)
	tr.table("t", `(id integer PRIMARY KEY, e color, es color[], d short, ds short[], dd shorter, p pair, ps pair[], n numeric(6,2),
		ts timestamptz, r int4range, rs int4range[], m int4multirange, j json, jb jsonb, i interval, iv inet, by bytea, f float8,
		tz timetz, mo money[], x xml, da date[])`)
	row := `'red', '{red,"gr\"een",NULL}', 'abc', '{a,NULL}', 'd', '(1,"x y")', '{"(1,x)","(,)"}', 0,
		'infinity', '[1,5)', '{"[1,2)",empty}', '{[1,2),[4,6)}', '{"b": 1.0, "a": [1]}', '{"b": 1.0, "a": [1]}',
		'1 year 2 days -04:05:06', '10.1.2.3/8', '\x00ff', 'NaN', '24:00:00+00', '{1,2}', '<a b="c">&amp;</a>', '{{1999-01-08},{infinity}}'`
	tr.exec("SET lc_monetary = 'C'")
	tr.sql("INSERT INTO t VALUES (1, " + row + "); INSERT INTO t VALUES (2)")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (3, " + row + ")")
	tr.poll()
}

// Row filters and column lists of the publication hold for the backfill too (decisions.md 23).
func transcriptPublication(tr *transcript) {
	tr.requireVersion(150000)
	tr.sql("CREATE TABLE t (id integer PRIMARY KEY, v text, secret text)")
	tr.exec("ALTER PUBLICATION " + quoteIdent(tr.publication) + " ADD TABLE t (id, v) WHERE (id > 1)")
	tr.sql("INSERT INTO t VALUES (1, 'out', 's'), (2, 'in', 's'), (3, 'in', 's')")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("INSERT INTO t VALUES (0, 'out', 's'), (4, 'in', 's')")
	tr.sql("UPDATE t SET secret = 'x' WHERE id = 2")
	tr.sql("UPDATE t SET id = 5 WHERE id = 1; UPDATE t SET id = -2 WHERE id = 2; UPDATE t SET v = 'x' WHERE id = 0")
	tr.poll()
}

// A capture that may not write is the same but for where its cursors stand.
func transcriptReadOnly(tr *transcript) {
	tr.drifting = true
	tr.set("read_only_capture", true)
	tr.exec("REVOKE ALL ON " + quoteTable(tr.watermarks) + " FROM " + quoteIdent(*testCaptureUser))
	tr.table("t", "(id integer PRIMARY KEY, v text)", fiveRows)
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.sql("UPDATE t SET v = 'zwei' WHERE id = 2")
	tr.sql("DELETE FROM t WHERE id = 3")
	tr.poll()
}

// What becomes of transactions: savepoints, empty ones, prepared ones; several updates of a row; order across tables.
func transcriptTransactions(tr *transcript) {
	tr.table("a", "(id integer PRIMARY KEY, v text)", "(1, 'one')")
	tr.table("b", "(id integer PRIMARY KEY, v text)", "(1, 'one')")
	tr.sql("CREATE TABLE other (id integer)")
	tr.bind(bound{table: "a", priority: 1}, bound{table: "b"})
	tr.poll()
	tr.sql(`BEGIN;
		UPDATE a SET v = 'first' WHERE id = 1;
		SAVEPOINT s; UPDATE b SET v = 'rolled back'; ROLLBACK TO s;
		UPDATE b SET v = 'second' WHERE id = 1;
		UPDATE a SET v = 'third' WHERE id = 1;
		COMMIT`)
	tr.sql("BEGIN; INSERT INTO a VALUES (9, 'never'); ROLLBACK")
	tr.sql("INSERT INTO other VALUES (1)")
	tr.sql("BEGIN; INSERT INTO b VALUES (2, 'prepared'); PREPARE TRANSACTION '" + tr.name("x") + "'")
	tr.sql("INSERT INTO a VALUES (2, 'before the prepared one')")
	tr.sql("COMMIT PREPARED '" + tr.name("x") + "'")
	tr.poll()
}

// A task without bindings captures nothing, and bindings that come later start anew.
func transcriptNoBindings(tr *transcript) {
	tr.table("t", "(id integer PRIMARY KEY, v text)", "(1, 'one')")
	tr.bind(bound{table: "t"})
	tr.poll()
	tr.bind()
	tr.poll()
	tr.bind(bound{table: "t"})
	tr.poll()
}
