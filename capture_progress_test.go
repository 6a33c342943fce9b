package main

// capture_progress_test.go shows that what the operator is told is so: the numbers of the metrics and of the progress report
// against what is measured from outside, and which stall is named.

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scrape returns the values of METRICS_ADDRESS by name and labels.
func scrape(t *testing.T, address string) map[string]float64 {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("scrape: %s: %s", response.Status, text)
	}
	values := make(map[string]float64)
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("scrape: %q: %v", line, err)
		}
		values[strings.TrimPrefix(line[:at], "source_postgres_")] = value
	}
	return values
}

// freeAddress returns a loopback address that nothing listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestStatusTellsTheTruth measures a capture from outside and compares.
//
// Goal: bytes and seconds behind, retained WAL, headroom, rows and estimates are within a tenth of what the server says.
// Method: a backfill is held up by a table lock, then the stream by a stopped walsender, while others write.
func TestStatusTellsTheTruth(t *testing.T) {
	server := startServer(t, "max_slot_wal_keep_size=64MB", "autovacuum=off")
	db := newTestDB(t)
	const rows = 5000
	small, big := db.createTable("a_small", "(id int PRIMARY KEY)"), db.createTable("big", "(id int PRIMARY KEY, pad text)")
	db.exec(fmt.Sprintf("INSERT INTO %s SELECT i, repeat('x', 100) FROM generate_series(1, %d) i", quoteTable(big), rows))
	db.exec("ANALYZE " + quoteTable(big))
	config := make(map[string]any)
	if err := json.Unmarshal(db.config(), &config); err != nil {
		t.Fatal(err)
	}
	config["advanced"].(map[string]any)["backfill_chunk_size"] = 100
	address := freeAddress(t)
	locked := false
	locker := testConnect(t, *testControlUser, *testControlPassword)
	r := startRuntime(t, runtimeOptions{
		config: config, env: []string{"METRICS_ADDRESS=" + address},
		onCheckpoint: func(r *testRuntime, _ json.RawMessage) {
			if !locked && len(r.uncommitted)+len(r.committed) >= 1000 {
				locked = true
				if _, err := locker.Exec(db.ctx, "BEGIN; LOCK TABLE "+quoteTable(big)); err != nil {
					t.Error(err)
				}
			}
		},
	})
	near := func(what string, got, want, slack float64) {
		t.Helper()
		if math.Abs(got-want) > math.Max(slack, math.Abs(want)/10) {
			t.Errorf("%s: told %.0f, measured %.0f", what, got, want)
		}
	}
	r.waitLog("waits for a lock that another session holds on it")
	time.Sleep(1100 * time.Millisecond) // backfills are noted once a second
	values := scrape(t, address)
	label := fmt.Sprintf("{table=%q}", big.String())
	near("rows of the backfill", values["backfill_rows"+label], float64(len(r.documents())), 0)
	near("estimated rows", values["backfill_estimated_rows"+label], rows, 0)
	near("bindings in backfill", values[`bindings{phase="backfill"}`], 1, 0)
	near("active bindings", values[`bindings{phase="active"}`], 1, 0)
	if _, err := locker.Exec(db.ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	r.waitStreaming()
	r.waitDocuments(rows)

	slot := db.slot
	thaw := server.freeze(db)
	started := time.Now()
	db.exec("INSERT INTO " + quoteTable(small) + " VALUES (1)")
	db.exec("CREATE TABLE unpublished AS SELECT i, repeat('y', 1000) FROM generate_series(1, 10000) i")
	time.Sleep(5 * time.Second)
	values = scrape(t, address)
	behind := time.Since(started)
	measured := func(sql string) float64 {
		value, err := strconv.ParseFloat(db.queryValue(sql, slot), 64)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	near("behind, bytes", values["behind_bytes"], measured(`SELECT pg_current_wal_flush_lsn() - confirmed_flush_lsn
		FROM pg_replication_slots WHERE slot_name = $1`), 64<<10)
	near("retained", values["slot_retained_bytes"], measured(`SELECT pg_current_wal_flush_lsn() - restart_lsn
		FROM pg_replication_slots WHERE slot_name = $1`), 64<<10)
	near("headroom", values["slot_safe_bytes"], measured(`SELECT safe_wal_size FROM pg_replication_slots WHERE slot_name = $1`), 64<<10)
	near("behind, seconds", values["behind_seconds"], behind.Seconds(), allow(750*time.Millisecond).Seconds())
	if values["behind_bytes"] < 5<<20 {
		t.Errorf("behind by %.0f bytes: the test wrote more than that", values["behind_bytes"])
	}
	thaw()
	r.waitDocuments(rows + 1)
	db.eventually("the capture not to be behind", func() bool {
		values = scrape(t, address)
		return values["behind_bytes"] == 0 && values["behind_seconds"] == 0
	})
	near("documents", values["documents_total"], rows+1, 0)

	// The report says the same.
	r.waitLog("processed replication events")
	for _, log := range r.logs {
		if log.message == "processed replication events" && !strings.Contains(log.fields, "bytesBehind") {
			t.Errorf("the progress report lacks the bytes behind: %s", log.fields)
		}
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// newTestWatcher makes a watcher of a capture that does nothing.
func newTestWatcher() (*watcher, *diagnostics) {
	diag := &diagnostics{}
	return newWatcher(&database{settings: &settings{}}, newOutput(io.Discard, codecJSON), diag, &progress{}), diag
}

// TestStallsAreNamed shows which words stand for which stall, and that they are taken back.
func TestStallsAreNamed(t *testing.T) {
	long := time.Now().Add(-2 * stallLimit).UnixNano()
	for name, test := range map[string]struct {
		stall func(w *watcher) (seen *observation)
		want  string
	}{
		"output": {func(w *watcher) *observation {
			w.out.blockedSince.Store(long)
			w.progress.began.Store(long) // a blocked write keeps everything else waiting
			return nil
		}, "The runtime has not read our output for 1m30s"},
		"transaction": {func(w *watcher) *observation {
			w.progress.began.Store(long)
			w.progress.xid.Store(77)
			w.progress.inside.Store(1234)
			return nil
		}, "Streaming one large transaction (77) for 1m30s: 1234 changes so far"},
		"fence": {func(w *watcher) *observation {
			w.progress.fence.Store(long)
			w.last = &observation{behind: 5 << 20}
			return nil
		}, "The backfill has waited 1m30s for a watermark in the stream: 5.0 MiB of WAL are still to be decoded"},
		"query": {func(w *watcher) *observation {
			w.progress.reading.Store(long)
			return nil
		}, "A backfill query has been running for 1m30s"},
		"headroom": {func(*watcher) *observation {
			return &observation{
				slot: &slotStatus{name: "s", exists: true, safeWAL: 1 << 20, walStatus: "extended"}, retained: 63 << 20, growth: 1 << 10,
			}
		}, `Replication slot "s" retains 63.0 MiB of WAL, and the server takes it away after 1.0 MiB more (max_slot_wal_keep_size), ` +
			`at the rate of now in 17m4s`},
		"lag": {func(*watcher) *observation {
			return &observation{slot: &slotStatus{safeWAL: -1}, lag: time.Hour, behind: 3 << 30}
		}, "The capture is 1h0m0s and 3.0 GiB of WAL behind the server"},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newTestWatcher()
			now := time.Now()
			seen := test.stall(w)
			w.judge(now, seen)
			if !strings.Contains(d.last, test.want) {
				t.Fatalf("told %q, want %q", d.last, test.want)
			}
			d.last = "other"
			w.judge(now.Add(time.Second), seen)
			if d.last != "other" {
				t.Errorf("told again after a second: %q", d.last)
			}
			w.judge(now.Add(stallRepeat+time.Second), seen)
			if d.last == "other" && name != "output" && name != "transaction" && name != "fence" && name != "query" {
				t.Error("not told again when it lasts")
			}
			if d.recovered.Load() {
				t.Error("taken back while it lasts")
			}
			w.out.blockedSince.Store(0)
			w.progress.began.Store(0)
			w.progress.fence.Store(0)
			w.progress.reading.Store(0)
			w.judge(now.Add(stallRepeat+2*time.Second), &observation{slot: &slotStatus{safeWAL: -1}})
			if !d.recovered.Load() {
				t.Error("not taken back when it is over")
			}
		})
	}
}

// TestStallsInTurn: where one stall gives way to another in the same look, the second one is not taken back.
func TestStallsInTurn(t *testing.T) {
	w, d := newTestWatcher()
	now := time.Now()
	long := now.Add(-2 * stallLimit).UnixNano()
	w.out.blockedSince.Store(long)
	w.judge(now, nil)
	w.out.blockedSince.Store(0)
	w.progress.began.Store(long)
	w.judge(now.Add(time.Second), nil)
	if !strings.Contains(d.last, "Streaming one large transaction") || d.recovered.Load() {
		t.Errorf("told %q, taken back: %v", d.last, d.recovered.Load())
	}
}

// TestLag shows how the age of what has not been streamed is told from the server's words and the last commit.
func TestLag(t *testing.T) {
	w, _ := newTestWatcher()
	now := time.Now()
	at := func(seconds int, end lsn) *observation {
		o := &observation{at: now.Add(time.Duration(seconds) * time.Second), slot: &slotStatus{end: end, exists: true, restart: 100}}
		w.measure(o)
		w.last = o
		return o
	}
	check := func(o *observation, behind int64, lag time.Duration) {
		t.Helper()
		if o.behind != behind || o.lag.Round(time.Second) != lag {
			t.Errorf("at %s: %d bytes and %s behind, want %d and %s", o.at.Sub(now), o.behind, o.lag, behind, lag)
		}
	}
	w.progress.cursor.Store(1000)
	if o := at(0, 2000); o.lag >= 0 || o.behind != 1000 {
		t.Errorf("nothing streamed yet: %d bytes and %s behind, want 1000 and not known", o.behind, o.lag)
	}
	w.progress.cursor.Store(2000)
	check(at(10, 3000), 1000, 10*time.Second) // all of second 0 has been streamed
	w.progress.committed.Store(now.Add(8 * time.Second).UnixMicro())
	check(at(20, 4000), 2000, 12*time.Second) // and a commit of second 8
	w.progress.cursor.Store(4000)
	o := at(30, 4000)
	check(o, 0, 0)
	if o.retained != 3900 || o.growth != 0 {
		t.Errorf("retained %d, growth %f, want 3900 and 0", o.retained, o.growth)
	}
	if o := at(40, 5000); o.growth != 100 || o.lag.Round(time.Second) != 10*time.Second {
		t.Errorf("growth %f, lag %s, want 100 and 10s", o.growth, o.lag)
	}
}
