package main

// live_restart_test.go: a session that finds nothing new costs next to nothing. With tokens that last an hour it begins hourly.
//
// Goal: what a restart with nothing to do sends to the server, writes there and commits. Method: counted, not timed: a server
// of the test's own logs every statement, and its transaction ids show what was written.

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/sirupsen/logrus"
)

// streamingHook tells when the connector says that it streams.
type streamingHook chan struct{}

func (streamingHook) Levels() []logrus.Level { return []logrus.Level{logrus.InfoLevel} }

func (h streamingHook) Fire(e *logrus.Entry) error {
	if isStreaming(e.Message) {
		close(h)
	}
	return nil
}

// restartFrame is the Open of a capture of n tables that streams and was stopped.
func restartFrame(db *testDB, n int) []byte {
	schema := db.createSchema("many")
	createManyTables(db, schema, n, n)
	r := startRuntime(db.TB, runtimeOptions{config: db.config(), tables: schema + ".*", mode: string(modeOnlyChanges), logLevel: "warn"})
	r.waitFor("streaming", func() bool { return r.settled() })
	r.stop()
	if err := r.wait(); err != nil {
		db.Fatal(err)
	}
	full := pf.NewFullRange()
	return peerFrame(db.TB, codecProto, &pc.Request{Open: &pc.Request_Open{
		Capture: r.capture, Version: driverVersion, Range: &full, StateJson: r.committedState(),
	}})
}

// BenchmarkRestart is a session of 1,000 bindings with nothing to do, in this process, from its Open to its streaming; most of it
// is the server's.
func BenchmarkRestart(b *testing.B) {
	db := newTestDB(b)
	frame := restartFrame(db, 1000)
	out, hooks := logrus.StandardLogger().Out, logrus.StandardLogger().Hooks
	defer func() { logrus.SetOutput(out); logrus.StandardLogger().ReplaceHooks(hooks) }()
	logrus.SetOutput(io.Discard)
	b.ReportAllocs()
	for b.Loop() {
		streaming := make(streamingHook)
		logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{logrus.InfoLevel: {streaming}})
		in, feed := io.Pipe()
		ctx, cancel := context.WithCancelCause(context.Background())
		k := &connector{requests: newRequestReader(in, codecProto), out: newOutput(io.Discard, codecProto), stop: cancel}
		ended := make(chan error, 1)
		go func() { ended <- k.serve(ctx) }()
		if _, err := feed.Write(frame); err != nil {
			b.Fatal(err)
		}
		select {
		case <-streaming:
		case err := <-ended:
			b.Fatal(err)
		}
		feed.Close()
		if err := <-ended; err != errStdinClosed {
			b.Fatal(err)
		}
		cancel(nil)
	}
}

// TestRestart: a restart with nothing to do sends as many statements for many tables as for few, writes nothing to the database and
// commits no binding's state.
func TestRestart(t *testing.T) {
	server := startServer(t, "log_statement=all", "log_line_prefix=user=%u ", "autovacuum=off")
	sent := regexp.MustCompile("(?m)^user=" + *testCaptureUser + " LOG:  (statement|execute <unnamed>): (.*)")
	const most = 50 // statements; Apply, which V1 sends ahead of each session, has 13 of them
	for _, way := range []struct {
		name     string
		runtime  runtimeVersion
		advanced map[string]any
	}{
		{"watermarks", runtimeV2, nil},
		{"V1", runtimeV1, nil},
		{"read only", runtimeV2, map[string]any{"read_only_capture": true}},
	} {
		t.Run(way.name, func(t *testing.T) {
			var counts []int
			for _, n := range []int{3, 300} {
				db := newTestDB(t)
				schema := db.createSchema("many")
				createManyTables(db, schema, n, n)
				r := startRuntime(t, runtimeOptions{
					config: db.edgeConfig(way.advanced), tables: schema + ".*", runtime: way.runtime,
				})
				r.waitDocuments(3 * n)
				r.waitStreaming()
				r.stop()
				if err := r.wait(); err != nil {
					t.Fatal(err)
				}
				for db.queryValue("SELECT (pg_current_wal_flush_lsn() - '0/0') % 8192") == "0" { // where a true fence is made
					db.exec("CREATE TABLE " + quoteTable(db.table("moves")) + " ()")
				}
				written := func() string { return db.queryValue("SELECT txid_snapshot_xmax(txid_current_snapshot())") }
				before, log, patches := written(), len(server.log()), len(r.patches)
				r.start()
				r.waitStreaming()
				r.waitFor("the checkpoints of a start", func() bool { return len(r.patches) >= patches+3 })
				if after := written(); after != before {
					t.Errorf("%d tables: the next transaction id was %s and is %s: something was written", n, before, after)
				}
				statements := sent.FindAllString(server.log()[log:], -1)
				counts = append(counts, len(statements))
				if len(statements) > most {
					t.Errorf("%d tables: %d statements:\n%s", n, len(statements), strings.Join(statements, "\n"))
				}
				for _, patch := range r.patches[patches:] {
					if !regexp.MustCompile(`^{"cursor":"[0-9A-F/]+"}$`).Match(patch) {
						t.Errorf("%d tables: a checkpoint of the start is %.300s", n, patch)
					}
				}
				db.exec(fmt.Sprintf("UPDATE %s.bound_%d SET b = 'changed' WHERE a = 2", quoteIdent(schema), n))
				r.waitDocuments(3*n + 1)
				r.stop()
				if err := r.wait(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d statements", counts)
			if counts[1] > counts[0]+2 { // those of the watcher come at times of their own
				t.Errorf("%d statements of a restart with 3 tables, %d with 300", counts[0], counts[1])
			}
		})
	}
}
