package main

// e2e_faults_test.go shows what a person and the runtime see when something is wrong.
//
// Goal: every fault is one error, the last line of stderr, exit status 1, with nothing lost and no secret told; and a
// stop is quick and leaves nothing behind on the server but the slot. Method: the connector as a child process, fed with
// what is wrong.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

// faultProcess is a connector whose input and output the test holds.
type faultProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	mu     sync.Mutex
	stderr bytes.Buffer
}

func (p *faultProcess) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func startFaultProcess(t *testing.T, env ...string) *faultProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &faultProcess{t: t, cmd: exec.Command(self)}
	p.cmd.Env = append(append(os.Environ(), testMainVariable+"=connector", "LOG_FORMAT=json"), env...)
	p.cmd.Stderr = p
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	return p
}

// end waits for the exit, which is to come within limit on an idle machine, and returns its status and the message of the
// last line on stderr.
func (p *faultProcess) end(limit time.Duration) (status int, last string) {
	p.t.Helper()
	limit = allow(limit)
	timer := time.AfterFunc(limit, func() { _ = p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	if !timer.Stop() {
		p.t.Fatalf("the connector did not end within %s: %s", limit, p.stderr.String())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	return p.cmd.ProcessState.ExitCode(), parseLog([]byte(lines[len(lines)-1])).message
}

// TestFaultyInput: what is no request, and an environment that means nothing.
func TestFaultyInput(t *testing.T) {
	for _, test := range []struct{ name, env, in, want string }{
		{"log level", "LOG_LEVEL=loud", "", `LOG_LEVEL "loud" is not one of trace, debug, info, warn, error`},
		{"log format", "LOG_FORMAT=xml", "", `LOG_FORMAT \"xml\" is not one of json, text, color`},
		{"codec", "FLOW_RUNTIME_CODEC=avro", "", `FLOW_RUNTIME_CODEC is "avro": set it to "proto" or "json", or leave it out for "proto"`},
		{"no JSON", "FLOW_RUNTIME_CODEC=json", "hello\n", "request 1: 5 bytes at offset 0 of the input: not a JSON request: " +
			"invalid character 'h' looking for beginning of value"},
		{"half a line", "FLOW_RUNTIME_CODEC=json", `{"spec":{`, "request 1: 9 bytes at offset 0 of the input: not a JSON request: " +
			"the line ends inside it"},
		{"unknown field", "FLOW_RUNTIME_CODEC=json", `{"specs":{}}` + "\n", "request 1: none of spec, discover, validate, " +
			"apply, open and acknowledge is set: one must be"},
		{"wrong type", "FLOW_RUNTIME_CODEC=json", `{"acknowledge":{"checkpoints":"many"}}` + "\n", "request 1: 38 bytes at offset 0 of " +
			"the input: not a JSON request: "},
		{"no kind", "FLOW_RUNTIME_CODEC=json", "{}\n", "request 1: none of spec, discover, validate, apply, open and acknowledge is " +
			"set: one must be"},
		{
			"two kinds", "FLOW_RUNTIME_CODEC=json", `{"spec":{"connectorType":"LOCAL","config":{}},"acknowledge":{"checkpoints":1}}` + "\n",
			"request 1: spec and acknowledge are both set: only one may be",
		},
		{
			"early acknowledgement", "FLOW_RUNTIME_CODEC=json", `{"acknowledge":{"checkpoints":1}}` + "\n",
			"the runtime sent an acknowledgement before a capture was opened",
		},
		{"half a length", "", "\x05\x00", "request 1: the input ends at offset 2, after 2 of the 4 bytes of a length"},
		{"half a message", "", "\x05\x00\x00\x00\x0a", "request 1: the input ends at offset 5, after 1 of the 5 bytes of a message"},
		{"no protobuf", "", "\x02\x00\x00\x00\xff\xff", "request 1: 2 bytes at offset 0 of the input: not a protobuf request: "},
		{"JSON to protobuf", "", `{"spec":{}}`, "request 1: a length of 1886593659 bytes at offset 0 of the input, more than the " +
			"1073741824 allowed: is the peer using another codec?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startFaultProcess(t, test.env)
			if _, err := io.WriteString(p.stdin, test.in); err != nil && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
			p.stdin.Close()
			out, _ := io.ReadAll(p.stdout)
			status, last := p.end(10 * time.Second)
			if status != 1 || len(out) > 0 || !strings.Contains(last, test.want) {
				t.Errorf("status %d, stdout %q, last log:\n got %s\nwant %s", status, out, last, test.want)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		p := startFaultProcess(t)
		p.stdin.Close()
		out, _ := io.ReadAll(p.stdout)
		if status, _ := p.end(10 * time.Second); status != 0 || len(out) > 0 {
			t.Errorf("status %d, stdout %q, stderr %s", status, out, p.stderr.String())
		}
	})
	for name, s := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			p := startFaultProcess(t)
			frame, err := appendRequest(nil, &pc.Request{
				Spec: &pc.Request_Spec{ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: []byte("{}")},
			}, codecProto)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.stdin.Write(frame); err != nil {
				t.Fatal(err)
			}
			if _, err := newResponseReader(p.stdout, codecProto).next(); err != nil {
				t.Fatal(err)
			}
			if err := p.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			if status, last := p.end(3 * time.Second); status != 0 {
				t.Errorf("status %d after %s between requests: %s", status, name, last)
			}
		})
	}
}

// edit returns the config with properties changed: paths divided by dots; nil removes.
func edit(t testing.TB, config json.RawMessage, changes map[string]any) json.RawMessage {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(config, &root); err != nil {
		t.Fatal(err)
	}
	for path, value := range changes {
		at := root
		names := strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			at = at[name].(map[string]any)
		}
		if last := names[len(names)-1]; value == nil {
			delete(at, last)
		} else {
			at[last] = value
		}
	}
	raw, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// faultBinding binds a table that discovery may not propose.
func faultBinding(table tableName) runtimeBinding {
	return runtimeBinding{
		resource:   fmt.Appendf(nil, `{"namespace":%q,"stream":%q}`, table.schema, table.name),
		collection: table.schema + "/" + table.name, key: []string{"/id"},
		schema: json.RawMessage(`{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}`),
	}
}

// TestFaultsAtValidation: what stops a capture before it starts is told at once, with the remedy.
func TestFaultsAtValidation(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	good := db.edgeTable("good", "int PRIMARY KEY", 1)
	unpublished := db.table("unpublished")
	db.exec("CREATE TABLE " + quoteTable(unpublished) + " (id int PRIMARY KEY)")
	db.grant(unpublished)
	view := tableName{"test", db.name("view")}
	db.exec(fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", quoteTable(view), quoteTable(good)))
	defer db.exec("DROP VIEW " + quoteTable(view))
	role := db.name("weak")
	db.exec("CREATE ROLE " + quoteIdent(role) + " LOGIN PASSWORD 'Tr0ub4dor&3'")
	defer db.exec("DROP ROLE " + quoteIdent(role))
	otherDatabase := db.name("other")
	db.exec("CREATE DATABASE " + quoteIdent(otherDatabase))
	defer db.exec("DROP DATABASE " + quoteIdent(otherDatabase))
	physical, foreign := db.slot+"_physical", db.slot+"_foreign"
	db.exec("SELECT pg_create_physical_replication_slot($1)", physical)
	defer db.exec("SELECT pg_drop_replication_slot($1)", physical)
	db.inDatabase(otherDatabase, "SELECT pg_create_logical_replication_slot("+quoteLiteral(foreign)+", 'pgoutput')")
	defer db.inDatabase(otherDatabase, "SELECT pg_drop_replication_slot("+quoteLiteral(foreign)+")")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()

	for _, test := range []struct {
		name    string
		changes map[string]any
		tables  []tableName
		want    []string
	}{
		{"unknown property", map[string]any{"pasword": "hunter2"}, nil, []string{"pasword"}},
		{"unknown advanced property", map[string]any{"advanced.slotname": "x"}, nil, []string{"advanced.slotname"}},
		{"wrong type", map[string]any{"advanced.backfill_chunk_size": "many"}, nil, []string{"advanced.backfill_chunk_size"}},
		{"no address", map[string]any{"address": nil}, nil, []string{"address"}},
		{"several at once", map[string]any{"address": nil, "user": 7, "advanced.x": 1}, nil, []string{"address", "user", "advanced.x"}},
		{"wrong password", map[string]any{"credentials.password": "correct horse battery staple"}, nil, []string{
			"cannot connect to database", "SQLSTATE 28P01", "Check `user` and `credentials.password`.",
		}},
		{"unreachable port", map[string]any{"address": closed.Addr().String()}, nil, []string{
			"cannot connect to database", "connection refused", "No server listens there",
		}},
		{"no such database", map[string]any{"database": "nonesuch"}, nil, []string{`"nonesuch"`, "SQLSTATE 3D000", "Check `database`"}},
		{"no such user", map[string]any{"user": "nonesuch"}, nil, []string{`user "nonesuch"`}},
		{"weak role", map[string]any{"user": role, "credentials.password": "Tr0ub4dor&3"}, nil, []string{
			"may not replicate", "ALTER ROLE", "REPLICATION;", "watermarks table", "GRANT",
		}},
		{"missing publication", map[string]any{"advanced.publicationName": "nonesuch"}, nil, []string{
			`"nonesuch"`, "CREATE PUBLICATION",
		}},
		{"missing watermarks table", map[string]any{"advanced.watermarksTable": "test.nonesuch"}, nil, []string{
			"test.nonesuch", "CREATE TABLE IF NOT EXISTS",
		}},
		{"physical slot", map[string]any{"advanced.slotName": physical}, nil, []string{"is a physical slot", "pg_drop_replication_slot"}},
		{"slot of another database", map[string]any{"advanced.slotName": foreign}, nil, []string{
			`belongs to database "` + otherDatabase + `"`,
		}},
		{"missing table", nil, []tableName{{"test", "nonesuch"}}, []string{"test.nonesuch"}},
		{"view", nil, []tableName{view}, []string{view.String(), "view"}},
		{"unpublished", nil, []tableName{unpublished}, []string{
			unpublished.String(), "is not in the publication", "ALTER PUBLICATION",
		}},
		{
			"all at once",
			map[string]any{"advanced.slotName": physical, "advanced.watermarksTable": "test.nonesuch"},
			[]tableName{{"test", "nonesuch"}, view, unpublished},
			[]string{"is a physical slot", "CREATE TABLE IF NOT EXISTS", "test.nonesuch", view.String(), "ALTER PUBLICATION"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newTestRuntime(t, runtimeOptions{config: edit(t, db.config(), test.changes)})
			tables := test.tables
			if tables == nil {
				tables = []tableName{good}
			}
			var bindings []runtimeBinding
			for _, table := range tables {
				bindings = append(bindings, faultBinding(table))
			}
			_, err := r.driver.validate(t.Context(), bindings, nil)
			var exit *connectorExit
			if !errors.As(err, &exit) || exit.status != "exit status 1" {
				t.Fatalf("validation ended with %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(exit.message, want) {
					t.Errorf("the last log lacks %q:\n%s", want, exit.message)
				}
			}
			for _, secret := range []string{*testCapturePassword, "hunter2", "battery", "Tr0ub4dor"} {
				if strings.Contains(r.stderr()+exit.message, secret) {
					t.Errorf("a secret is told: %s", r.stderr())
				}
			}
		})
	}
	for _, test := range []struct{ name, resource, want string }{
		{"unknown property", `{"namespace":"test","stream":"x","prio":1}`, "prio"},
		{"wrong type", `{"namespace":"test","stream":7}`, "stream"},
		{"no stream", `{"namespace":"test"}`, "stream"},
		{"unknown mode", `{"namespace":"test","stream":"x","mode":"Fast"}`, "Fast"},
	} {
		t.Run("resource "+test.name, func(t *testing.T) {
			p := startFaultProcess(t)
			binding := faultBinding(good)
			binding.resource = json.RawMessage(test.resource)
			collection, err := newTestRuntime(t, runtimeOptions{config: db.config()}).driver.collectionSpec(binding)
			if err != nil {
				t.Fatal(err)
			}
			frame, err := appendRequest(nil, &pc.Request{Validate: &pc.Request_Validate{
				Name: "test/capture", ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: db.config(),
				Bindings: []*pc.Request_Validate_Binding{{ResourceConfigJson: binding.resource, Collection: collection}},
			}}, codecProto)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.stdin.Write(frame); err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadAll(p.stdout)
			if status, last := p.end(20 * time.Second); status != 1 || !strings.Contains(last, test.want) {
				t.Errorf("status %d, last log %s, want one about %s", status, last, test.want)
			}
		})
	}
	if n := db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", db.slot); n != "0" {
		t.Error("validation created the slot")
	}
	db.checkNoBackends()
}

// inDatabase runs a statement in another database of the test server.
func (db *testDB) inDatabase(database, sql string) {
	db.Helper()
	conn := testConnectIn(db.TB, *testAddress, database, *testControlUser, *testControlPassword)
	defer conn.Close(db.ctx)
	if _, err := conn.Exec(db.ctx, sql); err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
}

// checkNoBackends checks that no connector of this test is connected any more.
func (db *testDB) checkNoBackends() {
	db.Helper()
	db.eventually("the connectors' sessions to end", func() bool {
		return db.queryValue("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'estuary_flow'") == "0"
	})
}

// TestFaultsAtOpen: a stored state, a shard or acknowledgements that cannot be.
func TestFaultsAtOpen(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 10)
	options := runtimeOptions{config: db.config()}
	r := newTestRuntime(t, options)
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	open := func(t *testing.T, state string, keyRange pf.RangeSpec) *faultProcess {
		t.Helper()
		p := startFaultProcess(t)
		frame, err := appendRequest(nil, &pc.Request{Open: &pc.Request_Open{
			Capture: r.capture, Version: driverVersion, Range: &keyRange, StateJson: json.RawMessage(state),
		}}, codecProto)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.stdin.Write(frame); err != nil {
			t.Fatal(err)
		}
		return p
	}
	key := stateKey([]string{table.schema, table.name}, 0)
	whole := pf.NewFullRange()
	half := whole
	half.KeyEnd = 0x7fffffff
	for _, test := range []struct {
		name, state string
		keyRange    pf.RangeSpec
		want        string
	}{
		{"split", "{}", half, "this shard covers part of the key range, but a replication slot cannot be shared"},
		{"no object", "[]", whole, "parse the stored capture state: "},
		{"unknown property", `{"cursors":"0/0"}`, whole, `parse the stored capture state: json: unknown field "cursors"`},
		{"no LSN", `{"cursor":"here"}`, whole, `parse the stored capture state: cursor "here" is not an LSN (want X/X)`},
		{"wrong type", `{"cursor":7}`, whole, "parse the stored capture state: "},
		{
			"unknown mode", `{"cursor":"0/1","bindingStateV1":{"` + key + `":{"mode":"Lost","key_columns":null,"scanned":null,"backfilled":0}}}`,
			whole, `parse the stored capture state: binding "` + key + `" has unknown mode "Lost"`,
		},
		{
			"another server's cursor", `{"cursor":"FFFF/0","bindingStateV1":{"` + key + `":{"mode":"Active","key_columns":null,"scanned":null,"backfilled":0}}}`,
			whole, "does not exist, though the capture has read up to FFFF/0 with it",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := open(t, test.state, test.keyRange)
			_, _ = io.ReadAll(p.stdout)
			if status, last := p.end(20 * time.Second); status != 1 || !strings.Contains(last, test.want) {
				t.Errorf("status %d, last log:\n got %s\nwant %s", status, last, test.want)
			}
		})
	}
	for _, test := range []struct {
		name    string
		request *pc.Request
		want    string
	}{
		{
			"too many acknowledged", &pc.Request{Acknowledge: &pc.Request_Acknowledge{Checkpoints: 1000}},
			"the runtime acknowledged 1000 checkpoints, but only ",
		},
		{
			"another request", &pc.Request{Spec: &pc.Request_Spec{ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: []byte("{}")}},
			"the runtime sent a request other than Acknowledge after Open",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := open(t, "{}", whole)
			if opened, err := newResponseReader(p.stdout, codecProto).next(); err != nil || opened.Opened == nil {
				t.Fatalf("%v, %v", opened, err)
			}
			frame, err := appendRequest(nil, test.request, codecProto)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.stdin.Write(frame); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, p.stdout) }()
			if status, last := p.end(20 * time.Second); status != 1 || !strings.Contains(last, test.want) {
				t.Errorf("status %d, last log:\n got %s\nwant %s", status, last, test.want)
			}
		})
	}
	db.checkNoBackends()
}

// TestStops: the end of stdin and SIGTERM, when nothing goes on, in the midst of documents, and with a full stdout. V2 kills the
// connector along with the end of stdin, so that how we end by ourselves shows with V1 and with SIGTERM: at a checkpoint with
// status 0, which neither runtime minds, inside one with a failure that says so.
func TestStops(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 20)
	sessionEnds := func(t *testing.T, r *testRuntime, limit time.Duration) error {
		t.Helper()
		began := time.Now()
		err := r.wait()
		if took := time.Since(began); took > allow(limit) {
			t.Errorf("the connector took %s to stop", took)
		}
		return err
	}
	terminate := func(r *testRuntime) {
		if s := r.current(); s != nil {
			_ = s.process.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	ways := []struct {
		name    string
		runtime runtimeVersion
		stop    func(*testRuntime)
	}{
		{"EOF", runtimeV1, (*testRuntime).stop},
		{"EOF on V2", runtimeV2, (*testRuntime).stop},
		{"SIGTERM", runtimeV1, terminate},
		{"SIGTERM on V2", runtimeV2, terminate},
	}
	for _, way := range ways {
		t.Run("idle "+way.name, func(t *testing.T) {
			r := edgeStart(db, runtimeOptions{config: db.config(), runtime: way.runtime}, map[tableName]backfillMode{table: modeAutomatic})
			r.waitEnd(db, table)
			way.stop(r)
			if err := sessionEnds(t, r, 2*time.Second); err != nil {
				t.Errorf("an idle capture ended with %v", err)
			}
			r.start() // resumes with nothing to say again
			r.waitEnd(db, table)
			r.strict(table)
			r.checkRows(db, table)
			if q := db.query("SELECT active::text FROM pg_replication_slots WHERE slot_name = $1", db.slot); len(q) != 1 {
				t.Errorf("slots: %v", q)
			}
			r.stop()
			_ = r.wait()
		})
	}
	big := db.edgeTable("big", "int PRIMARY KEY", 20000)
	for _, way := range ways {
		t.Run("busy "+way.name, func(t *testing.T) {
			stops := 0
			documents := 0
			r := newTestRuntime(t, runtimeOptions{
				config:  db.edgeConfig(map[string]any{"backfill_chunk_size": 5000}),
				runtime: way.runtime,
				onDocument: func(r *testRuntime, _ string, _ []byte) {
					if documents++; documents%1777 == 0 && stops < 5 {
						stops++
						way.stop(r)
					}
				},
			})
			r.bind(r.edgeBindings(map[tableName]backfillMode{big: modeAutomatic}))
			for {
				r.start()
				ended := func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return r.ended
				}
				for !ended() && r.count(big) < 20000 {
					time.Sleep(10 * time.Millisecond)
				}
				if !ended() {
					break
				}
				var exit *connectorExit
				if err := r.wait(); err != nil && (!errors.As(err, &exit) || exit.status != "exit status 1" ||
					!strings.Contains(exit.message, "documents behind the last checkpoint were already written") &&
						!strings.Contains(exit.message, "the last message may be incomplete")) {
					t.Fatalf("a stop in the midst of documents ended with %v", err)
				}
			}
			r.waitEnd(db, big)
			r.strict(big)
			r.checkRows(db, big)
			r.stop()
			_ = r.wait()
		})
	}
	t.Run("full stdout", func(t *testing.T) {
		r := newTestRuntime(t, runtimeOptions{config: db.config()})
		r.bind(r.edgeBindings(map[tableName]backfillMode{big: modeAutomatic}))
		for _, name := range []string{"SIGTERM", "EOF"} {
			p := startFaultProcess(t)
			whole := pf.NewFullRange()
			frame, err := appendRequest(nil, &pc.Request{Open: &pc.Request_Open{
				Capture: r.capture, Version: driverVersion, Range: &whole, StateJson: json.RawMessage("{}"),
			}}, codecProto)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.stdin.Write(frame); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second) // until the pipe is full; nothing tells
			if name == "EOF" {
				p.stdin.Close()
			} else if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			state, err := p.cmd.Process.Wait() // without reading stdout, as cmd.Wait would let go of it
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > allow(3500*time.Millisecond) || state.ExitCode() != 1 {
				t.Errorf("%s: status %d after %s", name, state.ExitCode(), took)
			}
			time.Sleep(100 * time.Millisecond) // stderr's last line
			p.mu.Lock()
			text := p.stderr.String()
			p.mu.Unlock()
			if !strings.Contains(text, "a write to stdout was blocked, the last message may be incomplete") {
				t.Errorf("%s: %s", name, text)
			}
		}
	})
	db.checkNoBackends()
	if n := db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", db.slot); n != "1" {
		t.Error("the slot is gone, or in use")
	}
}

// TestMissingLater: a table that goes parks its own binding, and comes back by itself; others go on.
func TestMissingLater(t *testing.T) {
	db := newTestDB(t)
	stays := db.edgeTable("stays", "int PRIMARY KEY", 10)
	goes := db.edgeTable("goes", "int PRIMARY KEY", 10)
	r := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{stays: modeAutomatic, goes: modeAutomatic})
	r.waitEnd(db, stays)
	db.exec("DROP TABLE " + quoteTable(goes))
	r.waitEnd(db, stays)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.waitLog(goes.String() + " is no longer captured: the table is gone")
	r.waitEnd(db, stays)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	db.exec("CREATE TABLE " + quoteTable(goes) + " (id int PRIMARY KEY, v text)")
	db.exec("INSERT INTO " + quoteTable(goes) + " VALUES (1, 'anew')")
	db.grant(goes)
	db.publish(goes)
	r.start()
	r.waitLog(goes.String() + " is there anew: it is backfilled")
	r.waitEnd(db, goes)
	r.checkPresent(db, goes)
	r.waitEnd(db, stays)
	r.strict(stays)
}

// TestSlotInUse: a slot that its last user still holds is waited for, and taken when it is free; one that stays in use is
// an error that names the other capture.
func TestSlotInUse(t *testing.T) {
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 10)
	first := edgeStart(db, runtimeOptions{config: db.config()}, map[tableName]backfillMode{table: modeAutomatic})
	first.waitEnd(db, table)
	second := newTestRuntime(t, runtimeOptions{config: db.config(), state: first.committedState()})
	second.bind(second.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	second.start()
	second.waitLog(fmt.Sprintf("Waiting for replication slot %q, which another session still holds", db.slot))
	fresh := newTestRuntime(t, runtimeOptions{config: db.config()})
	fresh.bind(second.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	fresh.start()
	fresh.waitLog(fmt.Sprintf("waiting for replication slot %q", db.slot))
	if *longTests {
		for _, r := range []*testRuntime{second, fresh} {
			err := r.wait()
			if err == nil || !strings.Contains(err.Error(), "another capture is already running against this database") {
				t.Errorf("a second capture on the slot ended with %v", err)
			}
		}
		first.waitEnd(db, table)
		return
	}
	fresh.stop()
	_ = fresh.wait()
	first.waitEnd(db, table) // its slot is untouched
	first.kill()
	_ = first.wait()
	second.waitEnd(db, table)
	db.checkHeld(1)
}

// checkHeld checks how many sessions stream from the test's slot.
func (db *testDB) checkHeld(want int) {
	db.Helper()
	if got := db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND active", db.slot); got != fmt.Sprint(want) {
		db.Errorf("%s sessions use the slot, want %d", got, want)
	}
}

// TestWALLevel: a server that decodes nothing.
func TestWALLevel(t *testing.T) {
	startServer(t, "wal_level=replica")
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 10)
	r := newTestRuntime(t, runtimeOptions{config: db.config()})
	_, err := r.driver.validate(t.Context(), []runtimeBinding{faultBinding(table)}, nil)
	const want = "the database is not ready for this capture:\n  - logical replication is not enabled: wal_level is replica. " +
		"Run: ALTER SYSTEM SET wal_level = logical; and restart the server"
	var exit *connectorExit
	if !errors.As(err, &exit) || exit.status != "exit status 1" || !strings.HasPrefix(exit.message, want) {
		t.Errorf("validation ended with %v, want %s", err, want)
	}
}
