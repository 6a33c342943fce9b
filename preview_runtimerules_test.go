package main

// preview_runtimerules_test.go: the stand-in keeps the rules of both runtimes (spec/flow-protocol.md §2.5, §3.3, §3.5, §3.6,
// spec/platform-2026.md §1, §3), so that a connector that passes with it passes there.
//
// Goal: each rule by itself. Method: responses are given to the transactions of a session, whose commits last as long as the
// test wants; what needs a process has the scripted connector.

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

// recordingSink notes what it is told. A commit lasts until one is released, if release is not nil.
type recordingSink struct {
	told    []string
	begun   chan commitment
	release chan error
}

func (k *recordingSink) document(binding int, doc []byte) error {
	k.told = append(k.told, fmt.Sprintf("%d%s", binding, doc))
	return nil
}

func (k *recordingSink) sourcedSchema(int, json.RawMessage) error {
	k.told = append(k.told, "schema")
	return nil
}

func (k *recordingSink) marker(binding int, kind string) error {
	k.told = append(k.told, fmt.Sprint(kind, " ", binding))
	return nil
}

func (k *recordingSink) checkpoint(*pf.ConnectorState) error {
	k.told = append(k.told, "checkpoint")
	return nil
}

func (k *recordingSink) commit(c commitment) func() (int, error) {
	text := fmt.Sprintf("commit %d %s", c.checkpoints, c.state)
	if c.synthetic {
		text += " synthetic"
	}
	k.told = append(k.told, text)
	return func() (int, error) {
		if k.release == nil {
			return c.checkpoints, nil
		}
		k.begun <- c
		return c.checkpoints, <-k.release
	}
}

// rulesTest is a session without a process.
type rulesTest struct {
	*testing.T
	runtimeTransactions
	sink         *recordingSink
	acknowledged []int
}

func newRulesTest(t *testing.T, version runtimeVersion, limits transactionLimits, slow bool) *rulesTest {
	r := &rulesTest{T: t, sink: &recordingSink{}}
	if slow {
		r.sink.begun, r.sink.release = make(chan commitment, 1), make(chan error)
	}
	capture := &pf.CaptureSpec{Bindings: []*pf.CaptureSpec_Binding{{}, {}}}
	r.runtimeTransactions = newRuntimeTransactions(&runtimeDriver{runtime: version, limits: &limits}, capture,
		map[string]any{}, r.sink, func(n int) { r.acknowledged = append(r.acknowledged, n) })
	return r
}

// The responses of which sessions are made.
func captured(binding uint32, bytes int) *pc.Response {
	return &pc.Response{Captured: &pc.Response_Captured{Binding: binding, DocJson: []byte(strings.Repeat("x", bytes))}}
}

func checkpointed(patch string) *pc.Response {
	return &pc.Response{Checkpoint: &pc.Response_Checkpoint{State: &pf.ConnectorState{UpdatedJson: []byte(patch), MergePatch: true}}}
}

func begins(binding uint32) *pc.Response {
	return &pc.Response{BackfillBegin: &pc.Response_BackfillBegin{Binding: binding}}
}

func completes(binding uint32) *pc.Response {
	return &pc.Response{BackfillComplete: &pc.Response_BackfillComplete{Binding: binding}}
}

func sourced() *pc.Response {
	return &pc.Response{SourcedSchema: &pc.Response_SourcedSchema{SchemaJson: []byte(`{}`)}}
}

// give takes responses, of which none may be refused.
func (r *rulesTest) give(responses ...*pc.Response) {
	r.Helper()
	for _, response := range responses {
		if err := r.take(response); err != nil {
			r.Fatal(err)
		}
	}
}

// wait has nothing to read, as the pump does, until a commit begins.
func (r *rulesTest) wait() commitment {
	r.Helper()
	deadline := time.After(time.Minute)
	for {
		if err := r.idle(); err != nil {
			r.Fatal(err)
		}
		select {
		case c := <-r.sink.begun:
			return c
		case <-r.woken:
		case <-deadline:
			r.Fatal("no transaction closes")
		}
	}
}

// told is what the sink was told since the last call, one a line.
func (r *rulesTest) told() string {
	text := strings.Join(r.sink.told, "\n")
	r.sink.told = nil
	return text
}

func (r *rulesTest) want(what string) {
	r.Helper()
	if got := r.told(); got != what {
		r.Errorf("the sink was told\n%s\nwant\n%s", got, what)
	}
}

// While a transaction commits the next accumulates, and closes when that commit is done; each is acknowledged once, behind
// its commit, with all of its checkpoints.
func TestDriverPipelines(t *testing.T) {
	r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 1 << 20}, true)
	r.give(captured(0, 1), checkpointed(`{"a":1}`))
	r.wait()
	r.give(captured(1, 1), checkpointed(`{"a":2}`), checkpointed(`{"a":3}`), captured(0, 2))
	if err := r.idle(); err != nil {
		t.Fatal(err)
	}
	r.want("0x\ncheckpoint\ncommit 1 {\"a\":1}\n1x\ncheckpoint\ncheckpoint\n0xx")
	if r.acknowledged != nil {
		t.Errorf("acknowledged %d ahead of the commit", r.acknowledged)
	}
	r.sink.release <- nil
	if c := r.wait(); c.checkpoints != 2 || string(c.state) != `{"a":3}` {
		t.Errorf("committed %d checkpoints with %s", c.checkpoints, c.state)
	}
	r.want(`commit 2 {"a":3}`)
	r.sink.release <- nil
	if err := r.settle(); err != nil {
		t.Fatal(err)
	}
	if err := r.checkEnd(); err == nil {
		t.Error("the document that follows is within a checkpoint")
	}
	r.give(checkpointed(`{"a":4}`))
	r.wait()
	r.sink.release <- errors.New("the disk is full")
	if err := r.flush(); err == nil || err.Error() != "the disk is full" {
		t.Errorf("a commit that fails: %v", err)
	}
	if !slices.Equal(r.acknowledged, []int{1, 2}) {
		t.Errorf("acknowledged %d", r.acknowledged)
	}
}

// A transaction closes when it is full or has been open for long, whether or not there is more to read; what has come of the
// next checkpoint is no part of it.
func TestDriverClosesTransactions(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 10}, false)
		r.give(captured(0, 6), checkpointed(`{}`), captured(0, 5), checkpointed(`{}`), captured(0, 1), checkpointed(`{}`))
		r.want("0xxxxxx\ncheckpoint\n0xxxxx\ncheckpoint\ncommit 2 {}\n0x\ncheckpoint")
	})
	t.Run("time", func(t *testing.T) {
		r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 1 << 20, most: time.Millisecond}, false)
		late := func() {
			for !r.current.late.Load() {
				<-r.woken
			}
		}
		r.give(checkpointed(`{}`))
		late()
		r.give(captured(0, 1))
		r.want("checkpoint\n0x\ncommit 1 {}")
		late()
		r.give(captured(0, 1), checkpointed(`{}`))
		r.want("0x\ncheckpoint\ncommit 1 {}")
	})
	t.Run("least", func(t *testing.T) {
		r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 1 << 20, least: 20 * time.Millisecond}, true)
		begin := time.Now()
		r.give(checkpointed(`{}`))
		r.wait()
		if open := time.Since(begin); open < 20*time.Millisecond {
			t.Errorf("closed after %v", open)
		}
		r.sink.release <- nil
	})
	t.Run("marker", func(t *testing.T) {
		r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 1 << 20, least: time.Hour}, false)
		r.give(captured(0, 1), checkpointed(`{}`), begins(1), checkpointed(`{"b":1}`))
		r.want("0x\ncheckpoint\nBackfillBegin 1\ncheckpoint\ncommit 2 {\"b\":1}")
		r.give(completes(1), checkpointed(`{}`), captured(1, 1))
		r.want("BackfillComplete 1\ncheckpoint\ncommit 1 {\"b\":1}\n1x")
	})
	t.Run("v1", func(t *testing.T) {
		r := newRulesTest(t, runtimeV1, transactionLimits{bytes: 10}, false)
		r.give(captured(0, 10), checkpointed(`{}`), captured(0, 1), checkpointed(`{}`))
		if err := r.idle(); err != nil {
			t.Fatal(err)
		}
		r.want("0xxxxxxxxxx\ncheckpoint\ncommit 1 {}\n0x\ncheckpoint\ncommit 1 {}")
		if !slices.Equal(r.acknowledged, []int{1, 1}) {
			t.Errorf("acknowledged %d", r.acknowledged)
		}
	})
	if v1, v2 := runtimeV1.transactionLimits(), runtimeV2.transactionLimits(); v1 != (transactionLimits{bytes: 32 << 20}) ||
		v2 != (transactionLimits{bytes: 64 << 20, most: time.Second, synthetic: 512 << 20}) {
		t.Errorf("limits %v and %v", v1, v2)
	}
}

// Documents without a checkpoint are committed by themselves when there are too many: with the state of the checkpoints ahead
// of them, if their transaction has any, and with no acknowledgement but for those.
func TestDriverSyntheticCheckpoint(t *testing.T) {
	r := newRulesTest(t, runtimeV2, transactionLimits{bytes: 1 << 20, synthetic: 3}, false)
	r.give(checkpointed(`{"a":1}`), captured(0, 2), captured(0, 1), captured(1, 1))
	r.want("checkpoint\n0xx\n0x\n1x\ncommit 1 {\"a\":1} synthetic")
	r.give(captured(0, 3), captured(1, 3), sourced())
	r.want("0xxx\n1xxx\ncommit 0  synthetic\nschema")
	if err := r.checkEnd(); err == nil {
		t.Error("a synthetic checkpoint is no end of the connector's")
	}
	r.give(checkpointed(`{"a":2}`))
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	r.want("checkpoint\ncommit 1 {\"a\":2}")
	if !slices.Equal(r.acknowledged, []int{1, 1}) {
		t.Errorf("acknowledged %d", r.acknowledged)
	}
	if err := r.checkEnd(); err != nil {
		t.Error(err)
	}
	v1 := newRulesTest(t, runtimeV1, transactionLimits{bytes: 1 << 20}, false)
	v1.give(captured(0, 1<<20), captured(0, 1<<20))
	if told := v1.told(); strings.Contains(told, "commit") {
		t.Error("V1 commits nothing without a checkpoint")
	}
}

func TestDriverRefuses(t *testing.T) {
	bare := &pc.Response{Checkpoint: &pc.Response_Checkpoint{}}
	const alone = ", which must stand alone in its checkpoint"
	for _, test := range []struct {
		name      string
		responses []*pc.Response
		v1, v2    string
	}{
		{"no state", []*pc.Response{bare}, "a checkpoint without state, which the runtime rejects", ""},
		{"no object", []*pc.Response{checkpointed(`7`)}, "checkpoint: want a JSON object, have 7", "checkpoint: want a JSON object, have 7"},
		{
			"binding",
			[]*pc.Response{captured(2, 1)},
			"a document of binding 2, but there are 2", "a document of binding 2, but there are 2",
		},
		{"a marker", []*pc.Response{begins(1), checkpointed(`{}`)}, "the connector sent BackfillBegin during a capture", ""},
		{"its end", []*pc.Response{completes(1), bare}, "the connector sent BackfillComplete during a capture", ""},
		{"its binding", []*pc.Response{begins(2)}, "the connector sent BackfillBegin during a capture", "a BackfillBegin of binding 2, but there are 2"},
		{
			"a marker behind a document",
			[]*pc.Response{captured(1, 1), begins(1)},
			"the connector sent BackfillBegin during a capture",
			"the connector sent BackfillBegin behind a document or a schema, but it must stand alone in its checkpoint",
		},
		{
			"a document behind a marker",
			[]*pc.Response{begins(0), captured(0, 1)},
			"the connector sent BackfillBegin during a capture",
			"the connector sent a document behind a backfill marker" + alone,
		},
		{
			"a schema behind a marker",
			[]*pc.Response{completes(0), sourced()},
			"the connector sent BackfillComplete during a capture",
			"the connector sent a schema behind a backfill marker" + alone,
		},
		{
			"two markers",
			[]*pc.Response{begins(0), completes(0)},
			"the connector sent BackfillBegin during a capture",
			"the connector sent a BackfillComplete behind a backfill marker" + alone,
		},
	} {
		for version, want := range map[runtimeVersion]string{runtimeV1: test.v1, runtimeV2: test.v2} {
			r := newRulesTest(t, version, version.transactionLimits(), false)
			var err error
			for _, response := range test.responses {
				if err = r.take(response); err != nil {
					break
				}
			}
			if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
				t.Errorf("%s on %s: %s, want %q", test.name, version, got, want)
			}
			if err := r.flush(); err != nil {
				t.Error(err)
			}
		}
	}
}

// V1 applies for every session and keeps no state of it; V2 applies a spec that has changed, until no state is returned.
func TestDriverApplies(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	count := func(r *testRuntime) int { return strings.Count(r.stderr(), "applied with") }
	session := func(r *testRuntime) {
		r.start()
		r.waitDocuments(2)
		r.stop()
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
	}
	binding := runtimeBinding{
		resource: json.RawMessage(`{"namespace":"public","stream":"t"}`), collection: "t", key: []string{"/id"},
	}
	for version, want := range map[runtimeVersion][]int{runtimeV1: {1, 2, 3}, runtimeV2: {3, 3, 4}} {
		r := newTestRuntime(t, runtimeOptions{
			config: map[string]any{}, connector: "scripted", runtime: version,
			env: scriptEnv(t, script{Documents: 2, Per: 2, Applies: 2, Talk: true}),
		})
		r.bind([]runtimeBinding{binding})
		if got, want := r.capture.ShardTemplate.LabelSet.ValueOf("estuary.dev/flag/enable-runtime-v2"),
			fmt.Sprint(version == runtimeV2); got != want {
			t.Errorf("%s: the label is %q", version, got)
		}
		for i, n := range want {
			if i == 2 {
				binding.backfill++
				r.bind([]runtimeBinding{binding})
			}
			session(r)
			if got := count(r); got != n {
				t.Errorf("%s: %d times applied with session %d, want %d", version, got, i+1, n)
			}
		}
		wantState, wantLog := `{"count":2,"seen":{"a2":2}}`, "applied with \n"
		if version == runtimeV2 {
			wantState, wantLog = `{"applied":2,"count":2,"seen":{"a2":2}}`, `applied with {"applied":1}`
		}
		if got := string(r.committedState()); got != wantState {
			t.Errorf("%s: state %s, want %s", version, got, wantState)
		}
		if !strings.Contains(r.stderr(), wantLog) {
			t.Errorf("%s: no Apply was %q", version, wantLog)
		}
	}
	r := newTestRuntime(t, runtimeOptions{
		config: map[string]any{}, connector: "scripted", env: scriptEnv(t, script{Applies: 3}),
	})
	r.bind([]runtimeBinding{binding})
	if err := r.tryStart(); err == nil || err.Error() != "apply: apply: did not converge after 3 iterations" {
		t.Error(err)
	}
	if got := string(r.committedState()); got != `{"applied":3}` {
		t.Errorf("the state that Apply returned is not kept: %s", got)
	}
}

// V2 ends a session at once, whatever the connector is doing, and what was complete is committed. The next session of a token
// that was about to expire has the new config, and the spec counts as unchanged.
func TestDriverRenewsTokens(t *testing.T) {
	r := startRuntime(t, runtimeOptions{
		config: map[string]any{"token": "old"}, connector: "scripted", tables: "public.t",
		env: scriptEnv(t, script{Documents: 10, Per: 5, Fault: "deaf", Talk: true}),
	})
	r.waitDocuments(10)
	begin := time.Now()
	r.renewToken(json.RawMessage(`{"token":"new"}`))
	if took := time.Since(begin); took > allow(stopGrace) {
		t.Errorf("the connector had %v", took)
	}
	r.waitLog(`opened with {"token":"new"}`)
	if n := strings.Count(r.stderr(), "applied with"); n != 1 {
		t.Errorf("applied %d times", n)
	}
}

// The end of the connector's output between two checkpoints is none of an error on either runtime, and one within is.
func TestDriverEOF(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	for version, within := range map[runtimeVersion]string{
		runtimeV1: "unexpected capture connector EOF while within a checkpoint",
		runtimeV2: "unexpected capture connector EOF within a capture checkpoint sequence",
	} {
		for fault, want := range map[string]string{"inside": within, "between": ""} {
			r := startRuntime(t, runtimeOptions{
				config: map[string]any{}, connector: "scripted", tables: "public.t", runtime: version,
				env: scriptEnv(t, script{Documents: 20, Per: 2, Fault: fault}),
			})
			if err := r.wait(); err == nil && want != "" || err != nil && err.Error() != want {
				t.Errorf("%s: %s: %v, want %q", version, fault, err, want)
			}
			if n := len(r.documents()); n != 2 {
				t.Errorf("%s: %s: %d documents are committed", version, fault, n)
			}
		}
	}
}

// What a session commits without a checkpoint of ours comes again when it dies ahead of one.
func TestDriverRepeatsSyntheticCheckpoints(t *testing.T) {
	limits := runtimeV2.transactionLimits()
	limits.synthetic = 400 // bytes: four documents
	r := startRuntime(t, runtimeOptions{
		config: map[string]any{}, connector: "scripted", tables: "public.t", limits: &limits,
		env: scriptEnv(t, script{Documents: 20, Per: 10, DieAt: []int{18}}),
	})
	if exit, ok := errors.AsType[*connectorExit](r.wait()); !ok || exit.status != "signal: killed" {
		t.Fatal("the connector was to die")
	}
	r.start()
	r.waitFor("all", func() bool { return strings.HasPrefix(string(r.state), `{"count":20`) })
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, d := range r.documents() {
		seen[d.doc]++
	}
	repeated := 0
	for _, n := range seen {
		repeated += n - 1
	}
	synthetic := 0
	for _, c := range r.commits {
		if c.synthetic {
			synthetic++
		}
	}
	if len(seen) != 20 || repeated == 0 || repeated > 8 || synthetic < 3 {
		t.Errorf("%d documents, %d repeated, %d synthetic checkpoints", len(seen), repeated, synthetic)
	}
}
