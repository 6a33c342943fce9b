package main

// preview_transaction.go owns the stand-in runtime's transactions: how the messages of a session are folded into them, when one
// closes, and what is acknowledged.
//
//	V1: … C C C | C C …     a transaction is committed before anything behind it is read
//	V2: … C C C | C C …     while one commits the next accumulates; the next closes when that commit is done
//
// Invariant: the state that is committed is the opening state with the patches of exactly those checkpoints whose documents
// were handed to the sink before, and only committed checkpoints are acknowledged, once each.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

// sessionSink takes what a session captures. All calls come from the goroutine in run.
type sessionSink interface {
	document(binding int, doc []byte) error // doc is lent for the call
	sourcedSchema(binding int, schema json.RawMessage) error
	// marker is a BackfillBegin or BackfillComplete, alone in its checkpoint.
	marker(binding int, kind string) error
	// checkpoint ends what document, sourcedSchema and marker were given since the last one.
	checkpoint(patch *pf.ConnectorState) error
	// commit ends a transaction. What it returns makes that durable, and says how many checkpoints to acknowledge: all of
	// the transaction, unless a test wants otherwise. It is called once, before the next commit, and on V2 from another
	// goroutine, while the sink is already given what comes next.
	commit(c commitment) (persist func() (acknowledge int, err error))
}

// commitment is what a sink commits: everything up to the last checkpoint, with the state behind it.
type commitment struct {
	checkpoints int
	state       json.RawMessage // nil without checkpoints: the state before stays
	synthetic   bool            // the documents behind the last checkpoint too, without a state that knows of them
}

// runtimeTransactions are those of a session. One goroutine, but for what is said otherwise.
type runtimeTransactions struct {
	version runtimeVersion
	limits  transactionLimits
	capture *pf.CaptureSpec
	sink    sessionSink
	// committed is told how many checkpoints to acknowledge, on V2 from another goroutine.
	committed func(checkpoints int)

	state      any
	current    *runtimeTransaction // nil: nothing has come since the last one closed
	open       bool                // something has come behind the last checkpoint
	marked     bool                // and that is a marker
	behind     int                 // bytes of documents behind the last checkpoint, or behind a synthetic one
	committing chan error          // gets the result of the commit under way; nil without one
	woken      chan struct{}
}

// runtimeTransaction is one that is open.
type runtimeTransaction struct {
	checkpoints int
	bytes       int // captured
	began       time.Time
	late        atomic.Bool // it has been open for the most; stored by a timer
	timers      []*time.Timer
}

func newRuntimeTransactions(
	d *runtimeDriver, capture *pf.CaptureSpec, state any, sink sessionSink, committed func(checkpoints int),
) runtimeTransactions {
	t := runtimeTransactions{
		version: d.runtime, limits: d.runtime.transactionLimits(), capture: capture, sink: sink, committed: committed,
		state: state, woken: make(chan struct{}, 1),
	}
	if d.limits != nil {
		t.limits = *d.limits
	}
	return t
}

// take handles one response.
func (t *runtimeTransactions) take(r *pc.Response) error {
	if t.current == nil {
		t.begin()
	}
	switch {
	case r.Captured != nil:
		if err := t.content("a document", r.Captured.Binding); err != nil {
			return err
		}
		t.current.bytes += len(r.Captured.DocJson)
		t.behind += len(r.Captured.DocJson)
		if err := t.sink.document(int(r.Captured.Binding), r.Captured.DocJson); err != nil {
			return err
		}
		if t.limits.synthetic > 0 && t.behind > t.limits.synthetic {
			return t.commit(true)
		}
		if t.current.checkpoints > 0 && t.current.late.Load() {
			return t.commit(false)
		}
		return nil
	case r.SourcedSchema != nil:
		if err := t.content("a schema", r.SourcedSchema.Binding); err != nil {
			return err
		}
		return t.sink.sourcedSchema(int(r.SourcedSchema.Binding), r.SourcedSchema.SchemaJson)
	case r.BackfillBegin != nil && t.version == runtimeV2:
		return t.mark(r.BackfillBegin.Binding, responseKind(r))
	case r.BackfillComplete != nil && t.version == runtimeV2:
		return t.mark(r.BackfillComplete.Binding, responseKind(r))
	case r.Checkpoint != nil:
		return t.checkpoint(r.Checkpoint.State)
	}
	return fmt.Errorf("the connector sent %s during a capture", responseKind(r))
}

// content is called for what makes a checkpoint more than empty.
func (t *runtimeTransactions) content(what string, binding uint32) error {
	if int(binding) >= len(t.capture.Bindings) {
		return fmt.Errorf("%s of binding %d, but there are %d", what, binding, len(t.capture.Bindings))
	}
	if t.marked {
		return fmt.Errorf("the connector sent %s behind a backfill marker, which must stand alone in its checkpoint", what)
	}
	t.open = true
	return nil
}

func (t *runtimeTransactions) mark(binding uint32, kind string) error {
	if t.open && !t.marked {
		return fmt.Errorf("the connector sent %s behind a document or a schema, but it must stand alone in its checkpoint", kind)
	}
	if err := t.content("a "+kind, binding); err != nil {
		return err
	}
	t.marked = true
	return t.sink.marker(int(binding), kind)
}

func (t *runtimeTransactions) checkpoint(update *pf.ConnectorState) error {
	if update == nil {
		if t.version == runtimeV1 {
			return errors.New("a checkpoint without state, which the runtime rejects")
		}
		update = &pf.ConnectorState{UpdatedJson: json.RawMessage("{}"), MergePatch: true}
	}
	var err error
	if t.state, err = reduceState(t.state, update); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	control := t.marked
	t.open, t.marked, t.behind = false, false, 0
	t.current.checkpoints++
	if err := t.sink.checkpoint(update); err != nil {
		return err
	}
	if control || t.current.bytes >= t.limits.bytes || t.current.late.Load() {
		return t.commit(false)
	}
	return nil
}

// begin opens a transaction.
func (t *runtimeTransactions) begin() {
	current := &runtimeTransaction{began: time.Now()}
	if t.open {
		current.bytes = t.behind
	}
	if t.limits.least > 0 {
		current.timers = append(current.timers, time.AfterFunc(t.limits.least, t.wake))
	}
	if t.limits.most > 0 {
		current.timers = append(current.timers, time.AfterFunc(t.limits.most, func() {
			current.late.Store(true)
			t.wake()
		}))
	}
	t.current = current
}

// wake has the pump call idle again. From any goroutine.
func (t *runtimeTransactions) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// idle commits what is complete, unless a commit is under way or the transaction has to stay open. The pump calls it when
// there is nothing left to read without waiting.
func (t *runtimeTransactions) idle() error {
	select {
	case err := <-t.committing:
		t.committing = nil
		if err != nil {
			return err
		}
	default:
	}
	if t.current == nil || t.current.checkpoints == 0 || t.committing != nil || time.Since(t.current.began) < t.limits.least {
		return nil
	}
	return t.commit(false)
}

// flush commits what is complete, and waits until it is durable.
func (t *runtimeTransactions) flush() error {
	if t.current != nil && t.current.checkpoints > 0 {
		if err := t.commit(false); err != nil {
			return err
		}
	}
	return t.settle()
}

// settle waits for the commit that is under way.
func (t *runtimeTransactions) settle() error {
	if t.committing == nil {
		return nil
	}
	err := <-t.committing
	t.committing = nil
	return err
}

// commit closes the transaction once the one before is durable, and begins to commit it; on V1 it waits for that.
func (t *runtimeTransactions) commit(synthetic bool) error {
	if err := t.settle(); err != nil {
		return err
	}
	c := commitment{checkpoints: t.current.checkpoints, synthetic: synthetic}
	if c.checkpoints > 0 {
		var err error
		if c.state, err = json.Marshal(t.state); err != nil {
			return err
		}
	}
	for _, timer := range t.current.timers {
		timer.Stop()
	}
	persist := t.sink.commit(c)
	t.current = nil
	if synthetic {
		t.behind = 0
	} else if t.open {
		t.begin()
	}
	done := make(chan error, 1)
	t.committing = done
	finish := func() {
		acknowledge, err := persist()
		if err == nil && acknowledge > 0 {
			t.committed(acknowledge)
		}
		done <- err
		t.wake()
	}
	if t.version == runtimeV1 {
		finish()
		return t.settle()
	}
	go finish()
	return nil
}

// checkEnd judges the end of the connector's output.
func (t *runtimeTransactions) checkEnd() error {
	switch {
	case !t.open:
		return nil
	case t.version == runtimeV1:
		return errors.New("unexpected capture connector EOF while within a checkpoint")
	}
	return errors.New("unexpected capture connector EOF within a capture checkpoint sequence")
}

// decodeState decodes a state or patch; numbers keep their spelling.
func decodeState(raw []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, fmt.Errorf("want a JSON object, have %.60s", raw)
	}
	return v, nil
}

// reduceState applies what a checkpoint says to a state, which it may change, and returns the result.
func reduceState(state any, update *pf.ConnectorState) (any, error) {
	patch, err := decodeState(update.UpdatedJson)
	if err != nil || !update.MergePatch {
		return patch, err
	}
	return mergePatch(state, patch), nil
}

// mergePatch applies an RFC 7396 merge patch to target, which it may change, and returns the result.
func mergePatch(target, patch any) any {
	fields, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = make(map[string]any, len(fields))
	}
	for name, value := range fields {
		if value == nil {
			delete(object, name)
			continue
		}
		object[name] = mergePatch(object[name], value)
	}
	return object
}
