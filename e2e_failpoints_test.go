package main

// e2e_failpoints_test.go is the crash matrix.
//
// Goal: DESIGN §1 whatever step the process dies at. Method: the connector is built with -tags failpoints, and every name
// that stands in the source as failpoint("name") is armed in turn: kill -9 there, in a backfill and in streaming, with both
// codecs and both kinds of fences, while writers go on. After each kill the slot must not be ahead of what was acknowledged
// and the next session must start; in the end the committed documents are a strict history that replays to the tables. A
// failpoint that a session does not come to is a failure. The short form kills at every name once, some kills a run; -long
// makes a run for each name, phase, fence and codec.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// failpointPhase is what a capture is about when it is killed.
type failpointPhase string

const (
	phaseSetup     failpointPhase = "setup" // the first start: publication, watermarks table and slot are made
	phaseScanning  failpointPhase = "backfill"
	phaseStreaming failpointPhase = "stream"
	phaseQuiet     failpointPhase = "quiet" // streaming, and nobody writes to captured tables
	phaseAnew      failpointPhase = "anew"  // tables are captured anew behind backfill markers
)

// failpointReach is where a failpoint can be met.
type failpointReach struct {
	phases []failpointPhase // nil: backfill and stream
	fence  byte             // 'w': with watermarks only, 'l': with LSN fences only
	most   int              // hits that a session surely comes to; 0: three
	ahead  string           // armed with it
}

var (
	scanning  = []failpointPhase{phaseScanning}
	streaming = []failpointPhase{phaseStreaming}
	settingUp = []failpointPhase{phaseSetup}
	anew      = []failpointPhase{phaseAnew}

	// slowFences has changes fall between chunks and their fences.
	slowFences = "watermark.before:1:sleep=40ms,fence.position:1:sleep=40ms"

	// failpointReaches lists the failpoints that are not met everywhere. One that is not listed is killed at in both phases.
	failpointReaches = map[string]failpointReach{
		"activate.before": {phases: scanning, most: 1}, "activate.after": {phases: scanning, most: 1},
		"ask.before": {phases: scanning}, "ask.after": {phases: scanning},
		"checkpoint.idle": {phases: []failpointPhase{phaseQuiet}, most: 1},
		"chunk.locked":    {phases: scanning}, "chunk.snapshot": {phases: scanning}, "chunk.rows": {phases: scanning},
		"chunk.hand-over": {most: 1}, "fence.hand-over": {most: 1}, "promote.before": {most: 1}, "promote.after": {most: 1},
		"settle.before": {most: 1}, "settle.rows": {phases: scanning}, "settle.advanced": {phases: scanning},
		// A session that has nothing to read makes no fence of these.
		"fence.position": {phases: scanning, fence: 'l', most: 1}, "fence.pushed": {phases: scanning, fence: 'l', most: 1},
		"watermark.before": {phases: scanning, fence: 'w', most: 1}, "watermark.sent": {phases: scanning, fence: 'w', most: 1},
		"watermark.after": {phases: scanning, fence: 'w', most: 1},
		"open.answered":   {most: 1}, "open.schemas": {most: 1}, "session.connected": {most: 1}, "session.started": {most: 1},
		"patch.put": {phases: scanning, ahead: slowFences}, "patch.remove": {phases: scanning, most: 1, ahead: slowFences},
		"reconnect":         {most: 1, ahead: "receive.read:3:cut"},
		"rediscover.before": {phases: streaming, most: 1}, "rediscover.after": {phases: streaming, most: 1},
		"reread.before": {phases: streaming, most: 1}, "reread.after": {phases: streaming, most: 1},
		"slot.before": {phases: settingUp, most: 1}, "slot.dropped": {phases: settingUp, most: 1},
		"slot.sent": {phases: settingUp, most: 1, ahead: "slot.sent:1:sleep=300ms"}, "slot.after": {phases: settingUp, most: 1},
		"publication.before": {phases: settingUp, most: 1}, "publication.after": {phases: settingUp, most: 1},
		"member.before": {phases: settingUp, most: 1}, "member.after": {phases: settingUp, most: 1},
		"watermarks.before": {phases: settingUp, most: 1, fence: 'w'}, "watermarks.after": {phases: settingUp, most: 1, fence: 'w'},
		"status.before": {most: 2}, "status.after": {most: 2},
		"truncate.before": {phases: anew}, "truncate.written": {phases: anew}, "truncate.after": {phases: anew},
		"marker.before": {phases: anew, most: 9}, "marker.written": {phases: anew, most: 9}, "marker.after": {phases: anew, most: 9},
		"within.before": {phases: streaming, most: 2}, "within.after": {phases: streaming, most: 2},
	}
)

func (r failpointReach) meets(phase failpointPhase, readOnly bool) bool {
	if r.fence == 'w' && readOnly || r.fence == 'l' && !readOnly {
		return false
	}
	if r.phases == nil {
		return phase == phaseScanning || phase == phaseStreaming
	}
	return slices.Contains(r.phases, phase)
}

var failpointCalls = regexp.MustCompile(`\bfailpoint\("([^"]*)"\)`)

// failpointNames finds the failpoints in the source.
func failpointNames(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range failpointCalls.FindAllStringSubmatch(string(text), -1) {
			if slices.Contains(names, found[1]) {
				t.Errorf("failpoint %q stands twice in the source", found[1])
			}
			names = append(names, found[1])
		}
	}
	if len(names) < 40 {
		t.Fatalf("%d failpoints in the source: is the test run outside of it?", len(names))
	}
	for name := range failpointReaches {
		if !slices.Contains(names, name) {
			t.Errorf("failpoint %q is not in the source", name)
		}
	}
	slices.Sort(names)
	return names
}

// failpointFolder is where the connector with failpoints is built; TestMain removes it.
var failpointFolder string

var buildFailpoints = sync.OnceValues(func() (binary string, err error) {
	if failpointFolder, err = os.MkdirTemp("", "source-postgres-failpoints-"); err != nil {
		return "", err
	}
	binary = filepath.Join(failpointFolder, "source-postgres")
	build := exec.Command("go", "build", "-tags", "nozstd,failpoints,invariants", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with -tags failpoints: %w: %s", err, out)
	}
	return binary, nil
})

// failpointBinary is a connector with failpoints, built once.
func failpointBinary(t testing.TB) string {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a test server: set TEST_DATABASE=yes (and -db-address), or run make test")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("builds the connector with -tags failpoints: %v", err)
	}
	binary, err := buildFailpoints()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// crashes is an oracle whose connector dies at failpoints.
type crashes struct {
	*oracle
	phase failpointPhase
	again [][]*workTable // tables not bound yet, a set for each time that the backfills so far have ended
}

// kill runs a session that dies at the named failpoint.
func (o *crashes) kill(name string, c codec) {
	o.t.Helper()
	for try := 1; ; try++ {
		o.arm(name)
		o.session(c)
		if o.runtime.tryStart() != nil || o.waitKilled(name) {
			o.runtime.mu.Lock()
			exit, ok := errors.AsType[*connectorExit](o.runtime.err)
			o.runtime.mu.Unlock()
			if ok && (o.unmappedBy(exit.message) || try < 6 && o.cutAmidOutput(exit.message)) {
				continue
			}
			o.died(name)
			if o.phase != phaseScanning || o.backfilling() {
				return
			}
		}
		if try == 6 {
			o.fatalf("six backfills ended before failpoint %s was met", name)
		}
		o.more()
	}
}

// arm has the next session, or the process of a request, die at the n-th hit of a failpoint.
func (o *crashes) arm(name string) {
	reach := failpointReaches[name]
	most := reach.most
	if most == 0 {
		most = 3
	}
	armed := fmt.Sprintf("%s:%d:kill", name, 1+o.rand.IntN(most))
	if reach.ahead != "" {
		armed = reach.ahead + "," + armed
	}
	o.runtime.armed = []string{"SOURCE_POSTGRES_FAILPOINT=" + armed}
}

// session prepares the next session.
func (o *crashes) session(c codec) {
	o.drawPeer()
	o.runtime.driver.codec = c
	if o.phase == phaseAnew {
		o.runtime.driver.runtime, o.runtime.driver.limits = runtimeV2, nil
	}
	o.renew()
	o.mu.Lock()
	o.delayed = o.rand.IntN(3) == 0
	o.mu.Unlock()
}

// waitKilled waits for a session's end. It is false when the backfills ended first, with which the session is over too.
func (o *crashes) waitKilled(name string) bool {
	o.t.Helper()
	for deadline := time.Now().Add(waitLimit); !o.hasEnded(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			o.fatalf("%s: a session did not come to failpoint %s (%s) within %s", o.phase, name, o.runtime.armed, waitLimit)
		}
		ends := o.phase == phaseScanning || o.phase == phaseAnew && strings.HasPrefix(name, "marker.") // a TRUNCATE takes a Complete's place
		if ends && !o.backfilling() {
			o.runtime.kill()
			o.ended(false)
			return strings.Contains(o.runtime.stderr(), "failpoint "+name+": kill")
		}
	}
	return true
}

// cutAmidOutput notes a session that ended, and its process with it, since its connections were cut when the runtime had read
// something behind the last checkpoint: that cannot be taken back, so that no other session follows in the process (capture.run).
func (o *crashes) cutAmidOutput(message string) bool {
	o.t.Helper()
	log := o.runtime.stderr()
	if !strings.Contains(log, ": cut at hit ") || strings.Contains(log, ": kill at hit ") || !o.runtime.unsettled() ||
		!transientMessage(message) && !strings.HasSuffix(message, ": EOF") {
		return false
	}
	o.checkSame()
	o.checkSlot()
	o.runtime.mu.Lock()
	o.runtime.logs = nil // as died does
	o.runtime.mu.Unlock()
	o.t.Logf("cut amid the output: %s", message)
	return true
}

// died checks that a process has died at the failpoint, and what it left on the server.
func (o *crashes) died(name string) {
	o.t.Helper()
	if !strings.Contains(o.runtime.stderr(), "failpoint "+name+": kill") {
		o.runtime.mu.Lock()
		err := o.runtime.err
		o.runtime.mu.Unlock()
		o.fatalf("%s: a session ended before it came to failpoint %s (%s): %v", o.phase, name, o.runtime.armed, err)
	}
	o.checkSame()
	o.runtime.mu.Lock()
	o.runtime.logs = nil // the next kill may be at the same
	o.runtime.mu.Unlock()
	o.runtime.armed = nil
	o.kills++
	o.checkSlot()
	o.t.Logf("killed at %s in %s", name, o.phase)
}

// backfilling reports whether a backfill is under way or to come in what is committed.
func (o *crashes) backfilling() bool {
	state, err := parseState(o.runtime.committedState())
	if err != nil {
		o.fatalf("the committed state: %v", err)
	}
	return slices.ContainsFunc(o.runtime.names, func(name string) bool {
		schema, table, _ := strings.Cut(name, ".")
		b := state.Bindings[stateKey([]string{schema, table}, o.counters[tableName{schema, table}])]
		if b == nil || b.Mode != storedActive {
			return true
		}
		m, _ := b.metadata()
		return m.Begun
	})
}

// more binds tables that are backfilled: new ones, or when there are none left, some again.
func (o *crashes) more() {
	o.t.Helper()
	if len(o.again) > 0 {
		for _, t := range o.again[0] {
			delete(o.without, t.table)
		}
		o.again = o.again[1:]
		o.runtime.bind(o.bindings())
		return
	}
	o.captureAnew()
}

// captureAnew has some of the tables backfilled again.
func (o *crashes) captureAnew() {
	o.t.Helper()
	for i, t := range o.tables {
		if (o.phase == phaseAnew || i%2 == o.rand.IntN(2)) && t.check == checkStrict {
			o.counters[t.table]++
			t.again = true
		}
	}
	o.runtime.bind(o.bindings())
}

// failpointTables makes sets of tables of all the kinds that matter to a failpoint.
func (o *crashes) failpointTables(sets, space int) {
	o.t.Helper()
	schema := o.schema()
	for i := range sets {
		var made []*workTable
		for name, identities := range map[string][]bool{
			"int": {true, false}, "icu": {false}, "deferred": {true}, "parts": {true}, "keyless": {true},
		} {
			kind := *flavours[slices.IndexFunc(flavours, func(f *flavour) bool { return f.name == name })]
			kind.name = fmt.Sprint(name, i)
			tables := o.create(schema, &kind, space, identities...)
			if name == "keyless" {
				tables[0].mode, tables[0].check = modeKeyless, checkContained
			}
			made = append(made, tables...)
		}
		if i > 0 {
			o.again = append(o.again, made)
			for _, t := range made {
				o.without[t.table] = true
			}
		}
	}
}

// run kills at each of the names in turn, and judges.
func (o *crashes) run(names []string, codecOf func() codec) {
	o.t.Helper()
	o.chunk = 1 + o.rand.IntN(6)
	sets := 1
	if o.phase == phaseScanning {
		sets = 1 + len(names)/6
	}
	o.failpointTables(sets, 40+10*o.chunk)
	if o.phase == phaseAnew {
		o.truncates = 150
		o.changes = map[string]any{"advanced.feature_flags": "emit_backfill_markers"}
	}
	stop := o.writers(3, 6*time.Millisecond)
	defer stop()
	o.prepare()
	o.runtime.bind(o.bindings())
	if o.phase != phaseScanning {
		o.session(codecOf())
		o.runtime.start()
		o.quiesceBackfills()
		o.runtime.kill()
		o.ended(false)
	}
	o.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if o.phase == phaseQuiet {
		stop()
		o.unpublishedWrites()
	}
	for _, name := range names {
		if o.phase == phaseAnew {
			o.captureAnew()
		}
		if o.phase == phaseScanning && (!o.backfilling() || o.kills > 0 && strings.HasPrefix(name, "activate.")) {
			o.more()
		}
		o.kill(name, codecOf())
	}
	stop()
	clear(o.without)
	o.runtime.bind(o.bindings())
	o.session(codecOf())
	o.runtime.start()
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
}

// unpublishedWrites goes on writing what no capture sees until the test ends.
func (o *crashes) unpublishedWrites() {
	o.t.Helper()
	table := o.db.table("unpublished")
	o.db.exec("CREATE TABLE " + quoteTable(table) + " (v text)")
	conn := testConnect(o.t, *testControlUser, *testControlPassword)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := conn.Exec(context.Background(), "INSERT INTO "+quoteTable(table)+" VALUES ('x')"); err != nil {
				o.t.Errorf("write to an unpublished table: %v", err)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	o.t.Cleanup(func() { cancel(); <-done })
}

// setup kills where publication, watermarks table and slot are made, by Validate or by Open, and judges what comes of it.
func (o *crashes) setup(names []string, codecOf func() codec) {
	o.t.Helper()
	o.chunk, o.noRow = 5, true
	o.changes = map[string]any{"user": *testControlUser, "credentials.password": *testControlPassword}
	o.failpointTables(1, 40)
	late := o.tables[o.rand.IntN(len(o.tables))]
	undo := func(name string) { // what the failpoint is about is not there
		o.t.Helper()
		switch what, _, _ := strings.Cut(name, "."); what {
		case "publication":
			o.db.exec("DROP PUBLICATION IF EXISTS " + quoteIdent(o.db.publication))
		case "watermarks":
			o.db.exec("DROP TABLE IF EXISTS " + quoteTable(o.db.watermarks))
		case "member":
			o.db.exec(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", quoteIdent(o.db.publication), quoteTable(late.table)))
		}
	}
	stop := o.writers(2, 10*time.Millisecond)
	defer stop()
	o.prepare()
	o.runtime.bind(o.bindings())
	o.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		undo(name)
		if !strings.HasPrefix(name, "slot.") && o.rand.IntN(2) == 0 {
			o.arm(name)
			plain := o.runtime.driver.env
			o.runtime.driver.env = append(slices.Clone(plain), o.runtime.armed...)
			_, err := o.runtime.driver.validate(o.t.Context(), o.bindings(), o.runtime.capture)
			o.runtime.driver.env = plain
			if exit, ok := errors.AsType[*connectorExit](err); !ok || exit.status != "signal: killed" {
				o.fatalf("validation did not die at failpoint %s: %v", name, err)
			}
			o.died(name)
			o.runtime.bind(o.bindings()) // makes what is missing
			continue
		}
		var release func()
		if name == "slot.sent" { // a slot's creation waits for the transactions that are open
			conn := testConnect(o.t, *testControlUser, *testControlPassword)
			if _, err := conn.PgConn().Exec(o.db.ctx, "BEGIN; SELECT txid_current()").ReadAll(); err != nil {
				o.t.Fatal(err)
			}
			release = func() {
				time.Sleep(500 * time.Millisecond)
				_, err := conn.PgConn().Exec(o.db.ctx, "ROLLBACK").ReadAll()
				if err != nil {
					o.t.Error(err)
				}
			}
		}
		o.kill(name, codecOf())
		o.runtime.bind(o.bindings())
		if release != nil {
			if n := o.db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", o.db.slot); n != "1" {
				o.fatalf("%s slots of ours are being made", n)
			}
			go release()
		}
	}
	o.session(codecOf())
	o.runtime.start()
	o.quiesceBackfills()
	stop()
	o.quiesce()
	o.judge()
	o.runtime.stop()
	o.ended(true)
	if n := o.db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE $1", "%"+o.db.suffix+"%"); n != "1" {
		o.fatalf("%s slots are left, want one", n)
	}
}

// TestFailpoints is the crash matrix.
func TestFailpoints(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	names := failpointNames(t)
	binary := failpointBinary(t)
	startServer(t, "wal_sender_timeout=5s") // status updates come every 0.8 s
	seed := firstSeed(t)
	random := rand.New(rand.NewPCG(seed, 7))

	// A run kills at names; the short form has one run for each phase and kind of fence.
	type run struct {
		phase    failpointPhase
		readOnly bool
		codec    string // "": any
		names    []string
	}
	var runs []*run
	for _, phase := range []failpointPhase{phaseSetup, phaseScanning, phaseStreaming, phaseQuiet, phaseAnew} {
		for _, readOnly := range []bool{false, true} {
			if *longTests {
				for _, name := range names {
					if failpointReaches[name].meets(phase, readOnly) {
						for _, codec := range []string{"proto", "json"} {
							runs = append(runs, &run{phase, readOnly, codec, []string{name}})
						}
					}
				}
				continue
			}
			runs = append(runs, &run{phase: phase, readOnly: readOnly})
		}
	}
	if !*longTests {
		for _, name := range names {
			var able []*run
			for _, r := range runs {
				if failpointReaches[name].meets(r.phase, r.readOnly) {
					able = append(able, r)
				}
			}
			if len(able) == 0 {
				t.Errorf("failpoint %s is not met by any run", name)
				continue
			}
			r := able[random.IntN(len(able))]
			r.names = append(r.names, name)
		}
		runs = slices.DeleteFunc(runs, func(r *run) bool { return len(r.names) == 0 })
	}
	slots := make(chan struct{}, 2) // two runs at a time keep both processors of a small machine busy
	for i, r := range runs {
		fence := "watermarks"
		if r.readOnly {
			fence = "LSN"
		}
		title := fmt.Sprintf("%s with %s", r.phase, fence)
		if *longTests {
			title = fmt.Sprintf("%s in %s with %s and %s", r.names[0], r.phase, fence, r.codec)
		}
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			o := &crashes{oracle: newOracle(t, seed+uint64(i)), phase: r.phase}
			o.readOnly, o.command = r.readOnly, []string{binary}
			o.large = o.rand.IntN(2) == 0 || slices.ContainsFunc(r.names, func(name string) bool { return strings.HasPrefix(name, "within.") })
			codecOf := func() codec {
				switch r.codec {
				case "proto":
					return codecProto
				case "json":
					return codecJSON
				}
				return codec(o.rand.IntN(2))
			}
			if r.phase == phaseSetup {
				o.setup(r.names, codecOf)
			} else {
				o.run(r.names, codecOf)
			}
		})
	}
}
