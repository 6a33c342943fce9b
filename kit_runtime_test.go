package main

// kit_runtime_test.go is the Flow runtime of the tests: a capture whose committed documents, state and logs can be waited
// for and looked at, and whose connector can be stopped or killed at any point.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"source-postgres/tests/history"

	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/proto"
)

// runtimeOptions say what is captured and how.
type runtimeOptions struct {
	config    any              // endpoint config; json.RawMessage as is
	tables    string           // patterns of the discovered tables to bind, as in --tables; empty: all
	mode      string           // of tables with a key
	bindings  []runtimeBinding // instead of discovered ones
	codec     codec
	runtime   runtimeVersion
	limits    *transactionLimits // nil: those of the runtime
	indirect  bool
	state     json.RawMessage // the first session's
	env       []string
	logLevel  string
	connector string        // value of testMainVariable in the child; empty: connector
	deadline  time.Duration // of each wait; at least waitLimit
	forget    bool          // documents are shown to onDocument and not kept

	// Hooks, called by the goroutine that reads the connector's output. They may call kill and stop.
	onDocument   func(r *testRuntime, table string, doc []byte) // not yet committed
	onMarker     func(r *testRuntime, table, kind string)       // not yet committed
	onCheckpoint func(r *testRuntime, patch json.RawMessage)    // not yet committed
	// acknowledge is called by the goroutine that commits: how many to acknowledge of n committed checkpoints; nil: all.
	acknowledge func(r *testRuntime, n int) int
}

// testDocument is a committed document.
type testDocument struct {
	table      string // schema.table of its binding
	doc        string
	marker     string // BackfillBegin or BackfillComplete: this is one, and no document
	checkpoint int    // that committed it, counted from 1 over all sessions; of a synthetic one, the checkpoint that is to come
	order      int    // among all documents and sourced schemas received
}

// testRuntime runs one session at a time.
type testRuntime struct {
	t       testing.TB
	options runtimeOptions
	driver  *runtimeDriver
	capture *pf.CaptureSpec
	applied *pf.CaptureSpec // last; nil before the first session
	names   []string        // of the bindings
	armed   []string        // environment of the next session's process, not of those before it

	mu          sync.Mutex // everything below; cond is signalled whenever something of it changes
	cond        *sync.Cond
	session     *session
	committed   []testDocument
	commits     []commitment   // all so far, over all sessions, without their states
	uncommitted []testDocument // the checkpoint of those after the last one is not yet known
	schemas     []testDocument
	received    int // documents and sourced schemas, over all sessions
	checkpoints int // received, over all sessions
	patches     []json.RawMessage
	state       json.RawMessage
	logs        []connectorLog
	status      string // of the running session
	severed     bool   // by sever
	ended       bool
	err         error
}

// errSevered ends a session that sever has ended.
var errSevered = errors.New("the test has severed the session")

// startRuntime discovers, validates, applies and opens. The test fails when one of them does.
func startRuntime(t testing.TB, o runtimeOptions) *testRuntime {
	t.Helper()
	r := newTestRuntime(t, o)
	bindings := o.bindings
	if bindings == nil {
		discovered, err := r.driver.discover(t.Context())
		if err != nil {
			t.Fatalf("discover: %v", err)
		}
		bindings, err = previewBindings(discovered.Bindings, &previewOptions{tables: o.tables, mode: o.mode})
		if err != nil {
			t.Fatal(err)
		}
		checkBindings(t, bindings)
	}
	r.bind(bindings)
	r.start()
	return r
}

// newTestRuntime makes a runtime whose driver can be asked by itself.
func newTestRuntime(t testing.TB, o runtimeOptions) *testRuntime {
	config, ok := o.config.(json.RawMessage)
	if !ok {
		var err error
		if config, err = json.Marshal(o.config); err != nil {
			t.Fatal(err)
		}
	}
	if o.connector == "" {
		o.connector = "connector"
	}
	o.deadline = max(o.deadline, waitLimit)
	if o.state == nil {
		o.state = json.RawMessage("{}")
	}
	r := &testRuntime{t: t, options: o, state: o.state, driver: &runtimeDriver{
		env:      append([]string{testMainVariable + "=" + o.connector}, o.env...),
		codec:    o.codec,
		runtime:  o.runtime,
		limits:   o.limits,
		indirect: o.indirect,
		task:     "test/capture",
		config:   config,
		logLevel: o.logLevel,
	}}
	r.cond = sync.NewCond(&r.mu)
	r.driver.onLog = func(log connectorLog) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.logs = append(r.logs, log)
		if log.status {
			r.status = log.message
		}
		r.cond.Broadcast()
	}
	t.Cleanup(func() {
		r.kill()
		if t.Failed() {
			for _, log := range r.logs {
				t.Logf("connector: %s %s%s", log.level, log.message, log.fields)
			}
		}
	})
	return r
}

// drawPeer draws what runtime the next session meets: version, codec, form of specs, and how long transactions are.
func (r *testRuntime) drawPeer(random *rand.Rand) {
	d := r.driver
	d.runtime, d.codec, d.indirect, d.limits = runtimeVersion(random.IntN(2)), codec(random.IntN(2)), random.IntN(2) == 0, nil
	if random.IntN(2) == 0 {
		limits := d.runtime.transactionLimits()
		limits.bytes = 1 << random.IntN(20)
		if d.runtime == runtimeV2 {
			limits.least = time.Duration(random.IntN(30)) * time.Millisecond
			limits.most = limits.least + time.Duration(random.IntN(100))*time.Millisecond
		}
		d.limits = &limits
	}
}

// unsettled reports whether the last session put out something behind its last checkpoint.
func (r *testRuntime) unsettled() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	documents, schemas := len(r.uncommitted), len(r.schemas)
	return documents > 0 && r.uncommitted[documents-1].checkpoint == 0 || schemas > 0 && r.schemas[schemas-1].checkpoint > r.checkpoints
}

// bind validates the bindings of the sessions to come; positions in the task may change.
func (r *testRuntime) bind(bindings []runtimeBinding) {
	r.t.Helper()
	capture, err := r.driver.validate(r.t.Context(), bindings, r.capture)
	if err != nil {
		r.t.Fatalf("validate: %v", err)
	}
	r.names = nil
	for _, b := range bindings {
		table, _, err := tableOfResource(b.resource)
		if err != nil {
			r.t.Fatal(err)
		}
		r.names = append(r.names, table.String())
	}
	r.capture = capture
}

// start runs Apply and the next session from the committed state. REQUIRES: no session runs.
func (r *testRuntime) start() {
	r.t.Helper()
	if err := r.tryStart(); err != nil {
		r.t.Fatal(err)
	}
}

// tryStart is start for tests that expect it to fail.
func (r *testRuntime) tryStart() error {
	r.mu.Lock()
	r.uncommitted, r.ended, r.err, r.status, r.severed = nil, false, nil, "", false
	state := r.state
	r.mu.Unlock()
	r.capture = r.driver.labelled(r.capture)
	state, err := r.driver.apply(r.t.Context(), r.capture, r.applied, state)
	r.mu.Lock()
	r.state = state
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	r.applied = proto.Clone(r.capture).(*pf.CaptureSpec) // tests change the spec in place
	// The test's own context ends before its clean-up does.
	driver := *r.driver
	driver.env = append(slices.Clone(driver.env), r.armed...)
	s, err := driver.open(context.Background(), r.capture, state, r)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	go func() {
		err := s.run()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err, r.ended, r.session = err, true, nil
		r.cond.Broadcast()
	}()
	return nil
}

// current returns the running session, or nil.
func (r *testRuntime) current() *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.session
}

// kill sends SIGKILL; wait follows.
func (r *testRuntime) kill() {
	if s := r.current(); s != nil {
		s.kill()
	}
}

// sever kills the connector and has nothing that it wrote after the message at hand taken, so that a session ends at an
// exact point of its output; wait, which then returns errSevered, follows. With commit what is complete is committed first,
// else it is lost. REQUIRES: called by a hook.
func (r *testRuntime) sever(commit bool) {
	if s := r.current(); s != nil {
		if commit {
			_ = s.flush() // the sink is ours and does not fail
		}
		s.kill()
	}
	r.mu.Lock()
	r.severed = true
	r.mu.Unlock()
}

// end returns what a message of the session meets: errSevered behind sever.
func (r *testRuntime) end() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.severed {
		return errSevered
	}
	return nil
}

// stop ends the session gracefully; wait follows.
func (r *testRuntime) stop() {
	if s := r.current(); s != nil {
		s.stop()
	}
}

// renewToken ends the session some minutes before the token of its login expires, and starts the next one, whose config has
// a new token. The spec has not changed with it.
func (r *testRuntime) renewToken(config json.RawMessage) {
	r.t.Helper()
	r.stop()
	if err := r.wait(); err != nil {
		r.t.Fatalf("a session that was stopped ended with %v", err)
	}
	r.capture.ConfigJson, r.applied.ConfigJson = config, config
	r.start()
}

// wait returns how the session ended: nil for exit status 0 at a checkpoint, a *connectorExit for a failure.
func (r *testRuntime) wait() error {
	r.t.Helper()
	r.waitFor("the end of the session", func() bool { return r.ended })
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// waitFor waits until the condition holds. The condition is called with r.mu held.
func (r *testRuntime) waitFor(what string, condition func() bool) {
	r.t.Helper()
	switch holds, ended, err := r.waitSome(r.options.deadline, condition); {
	case holds:
	case ended:
		r.t.Fatalf("waited for %s, but the session ended: %v", what, err)
	default:
		r.t.Fatalf("waited %v for %s", r.options.deadline, what)
	}
}

// waitSome waits until the condition holds, the session has ended, or the limit is over. err is how the session ended.
func (r *testRuntime) waitSome(limit time.Duration, condition func() bool) (holds, ended bool, err error) {
	late := false
	timer := time.AfterFunc(limit, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.cond.Broadcast()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for !condition() && !late && !ended {
		if ended = r.ended; !ended {
			r.cond.Wait()
		}
	}
	return condition(), ended, r.err
}

// waitStreaming waits until every backfill is done and the stream is caught up, and the state that says so of the bindings is
// committed: the status comes another way, and may be ahead of it.
func (r *testRuntime) waitStreaming() {
	r.t.Helper()
	r.waitFor("streaming", func() bool {
		return isStreaming(r.status) && (r.options.connector == "scripted" || r.settled())
	})
}

// settled reports whether no backfill is to come in what is committed. REQUIRES: r.mu is held.
func (r *testRuntime) settled() bool {
	modes := modesOf(r.state)
	return !slices.ContainsFunc(r.capture.Bindings, func(b *pf.CaptureSpec_Binding) bool {
		mode := modes[b.StateKey]
		return mode != string(storedActive) && mode != string(storedMissing)
	})
}

// waitDocuments waits until n documents are committed.
func (r *testRuntime) waitDocuments(n int) {
	r.t.Helper()
	r.waitFor(fmt.Sprintf("%d documents", n), func() bool { return len(r.committed) >= n })
}

// waitLog waits for a log whose message contains text, from now on or earlier.
func (r *testRuntime) waitLog(text string) {
	r.t.Helper()
	r.waitFor("a log of "+text, func() bool {
		for _, log := range r.logs {
			if strings.Contains(log.message, text) {
				return true
			}
		}
		return false
	})
}

// documents returns what is committed so far.
func (r *testRuntime) documents() []testDocument {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed[:len(r.committed):len(r.committed)]
}

// committedState returns the state of the last commit.
func (r *testRuntime) committedState() json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// stderr returns the messages logged so far, one a line.
func (r *testRuntime) stderr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var text strings.Builder
	for _, log := range r.logs {
		text.WriteString(log.message + "\n")
	}
	return text.String()
}

// history replays the committed documents strictly and returns the result; the test fails at the first fault.
func (r *testRuntime) history(tables ...history.Table) *history.History {
	r.t.Helper()
	h := history.New(tables...)
	checkpoint := 0
	for i, d := range r.documents() {
		if d.checkpoint != checkpoint {
			r.endCheckpoint(h, i, checkpoint)
			checkpoint = d.checkpoint
		}
		if err := historyTake(h, i+1, &d); err != nil {
			r.t.Fatal(err)
		}
	}
	return h
}

// historyTake adds a committed document, or a marker, to a history.
func historyTake(h *history.History, line int, d *testDocument) error {
	if d.marker != "" {
		return h.Marker(line, d.table, d.marker == "BackfillBegin")
	}
	return h.Document(line, d.table, []byte(d.doc))
}

// endCheckpoint tells a history of checkpoint n, behind document i; there is none of number 0.
func (r *testRuntime) endCheckpoint(h *history.History, i, n int) {
	r.t.Helper()
	if n == 0 {
		return
	}
	r.mu.Lock()
	patch := json.RawMessage("{}")
	if n <= len(r.patches) { // else a synthetic one was to come, and the session ended before
		patch = r.patches[n-1]
	}
	r.mu.Unlock()
	if err := h.Checkpoint(i, patch); err != nil {
		r.t.Fatal(err)
	}
}

func (r *testRuntime) document(binding int, doc []byte) error {
	table := r.names[binding]
	r.mu.Lock()
	r.received++
	if !r.options.forget {
		r.uncommitted = append(r.uncommitted, testDocument{table: table, doc: string(doc), order: r.received})
	}
	r.mu.Unlock()
	if r.options.onDocument != nil {
		r.options.onDocument(r, table, doc)
	}
	return r.end()
}

func (r *testRuntime) sourcedSchema(binding int, schema json.RawMessage) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.received++
	r.schemas = append(r.schemas, testDocument{
		table: r.names[binding], doc: string(schema), checkpoint: r.checkpoints + 1, order: r.received,
	})
	return nil
}

func (r *testRuntime) marker(binding int, kind string) error {
	table := r.names[binding]
	r.mu.Lock()
	r.received++
	r.uncommitted = append(r.uncommitted, testDocument{table: table, marker: kind, order: r.received})
	r.mu.Unlock()
	if r.options.onMarker != nil {
		r.options.onMarker(r, table, kind)
	}
	return r.end()
}

func (r *testRuntime) checkpoint(patch *pf.ConnectorState) error {
	r.mu.Lock()
	r.checkpoints++
	for i := len(r.uncommitted) - 1; i >= 0 && r.uncommitted[i].checkpoint == 0; i-- {
		r.uncommitted[i].checkpoint = r.checkpoints
	}
	r.patches = append(r.patches, patch.UpdatedJson)
	r.mu.Unlock()
	if r.options.onCheckpoint != nil {
		r.options.onCheckpoint(r, patch.UpdatedJson)
	}
	return r.end()
}

func (r *testRuntime) commit(c commitment) func() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	complete := len(r.uncommitted)
	for complete > 0 && r.uncommitted[complete-1].checkpoint == 0 {
		if complete--; c.synthetic {
			r.uncommitted[complete].checkpoint = r.checkpoints + 1
		}
	}
	if c.synthetic {
		complete = len(r.uncommitted)
	}
	documents := r.uncommitted[:complete:complete]
	r.uncommitted = append([]testDocument(nil), r.uncommitted[complete:]...)
	return func() (int, error) {
		r.mu.Lock()
		r.committed = append(r.committed, documents...)
		if c.state != nil {
			r.state = c.state
		}
		r.commits = append(r.commits, commitment{checkpoints: c.checkpoints, synthetic: c.synthetic})
		r.cond.Broadcast()
		r.mu.Unlock()
		if r.options.acknowledge != nil {
			return r.options.acknowledge(r, c.checkpoints), nil
		}
		return c.checkpoints, nil
	}
}
