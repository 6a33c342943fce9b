package main

// preview_runtime.go is a stand-in for the Flow runtime, in its two versions: it starts the connector as a child process and speaks
// the capture protocol to it as spec/flow-protocol.md §3.1 and spec/platform-2026.md §1 lay down, for preview and for the
// tests. What becomes of a session's messages is in preview_transaction.go.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"syscall"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

// spec asks for the connector's Spec.
func (d *runtimeDriver) spec(ctx context.Context) (*pc.Response_Spec, error) {
	r, err := d.unary(ctx, &pc.Request{Spec: &pc.Request_Spec{ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: []byte("{}")}})
	if err != nil {
		return nil, err
	}
	if r.Spec == nil {
		return nil, fmt.Errorf("spec: the connector answered with %s", responseKind(r))
	}
	return r.Spec, r.Spec.Validate()
}

// discover asks which tables could be captured.
func (d *runtimeDriver) discover(ctx context.Context) (*pc.Response_Discovered, error) {
	r, err := d.unary(ctx, &pc.Request{Discover: &pc.Request_Discover{
		Name: pf.Capture(d.task), ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: d.config,
	}})
	if err != nil {
		return nil, err
	}
	if r.Discovered == nil {
		return nil, fmt.Errorf("discover: the connector answered with %s", responseKind(r))
	}
	return r.Discovered, r.Discovered.Validate()
}

// validate has the connector validate the bindings and returns the task as Apply and Open get it. last may be nil.
func (d *runtimeDriver) validate(
	ctx context.Context, bindings []runtimeBinding, last *pf.CaptureSpec,
) (*pf.CaptureSpec, error) {
	request := &pc.Request_Validate{
		Name: pf.Capture(d.task), ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: d.config, LastCapture: last,
	}
	if last != nil {
		request.LastVersion = driverVersion
	}
	for _, b := range bindings {
		collection, err := d.collectionSpec(b)
		if err != nil {
			return nil, err
		}
		request.Bindings = append(request.Bindings, &pc.Request_Validate_Binding{
			ResourceConfigJson: b.resource, Collection: collection, Backfill: b.backfill,
		})
	}
	r, err := d.unary(ctx, &pc.Request{Validate: request})
	if err != nil {
		return nil, err
	}
	if r.Validated == nil {
		return nil, fmt.Errorf("validate: the connector answered with %s", responseKind(r))
	}
	if err := r.Validated.Validate(); err != nil {
		return nil, err
	}
	if got, want := len(r.Validated.Bindings), len(bindings); got != want {
		return nil, fmt.Errorf("validate: wrong number of bindings: %d, want %d", got, want)
	}
	capture := d.captureSpec()
	seen := make(map[string]bool)
	for i, v := range request.Bindings {
		path := r.Validated.Bindings[i].ResourcePath
		key := stateKey(path, v.Backfill)
		if seen[key] {
			return nil, fmt.Errorf("validate: two bindings have the resource path %q", path)
		}
		seen[key] = true
		capture.Bindings = append(capture.Bindings, &pf.CaptureSpec_Binding{
			ResourceConfigJson: v.ResourceConfigJson,
			ResourcePath:       path,
			Collection:         v.Collection,
			Backfill:           v.Backfill,
			StateKey:           key,
		})
	}
	if last != nil {
		for _, b := range slices.Concat(last.Bindings, last.InactiveBindings) {
			if !slices.ContainsFunc(capture.Bindings, func(active *pf.CaptureSpec_Binding) bool {
				return slices.Equal(active.ResourcePath, b.ResourcePath)
			}) {
				capture.InactiveBindings = append(capture.InactiveBindings, b)
			}
		}
	}
	return capture, capture.Validate()
}

// apply runs Apply ahead of a session, and returns the state that the session opens with. last is the spec that was applied
// before, or nil. V1 applies for every session and drops the state that Apply returns. V2 applies a spec that has changed,
// again until no state is returned; what was returned is kept even if an error comes behind it.
func (d *runtimeDriver) apply(
	ctx context.Context, capture, last *pf.CaptureSpec, state json.RawMessage,
) (json.RawMessage, error) {
	if d.runtime == runtimeV1 {
		_, err := d.applyOnce(ctx, capture, last, nil)
		return state, err
	}
	if same, err := sameSpec(capture, last); same || err != nil {
		return state, err
	}
	for range maxApplies {
		applied, err := d.applyOnce(ctx, capture, last, state)
		if err != nil || applied.State == nil {
			return state, err
		}
		have, err := decodeState(state)
		if err == nil {
			have, err = reduceState(have, applied.State)
		}
		if err != nil {
			return state, fmt.Errorf("apply: %w", err)
		}
		if state, err = json.Marshal(have); err != nil {
			return state, err
		}
	}
	return state, fmt.Errorf("apply: did not converge after %d iterations", maxApplies)
}

func sameSpec(a, b *pf.CaptureSpec) (bool, error) {
	if a == nil || b == nil {
		return a == b, nil
	}
	left, err := a.Marshal()
	if err != nil {
		return false, err
	}
	right, err := b.Marshal()
	return bytes.Equal(left, right), err
}

func (d *runtimeDriver) applyOnce(
	ctx context.Context, capture, last *pf.CaptureSpec, state json.RawMessage,
) (*pc.Response_Applied, error) {
	request := &pc.Request_Apply{Capture: capture, Version: driverVersion, LastCapture: last, StateJson: state}
	if last != nil {
		request.LastVersion = driverVersion
	}
	r, err := d.unary(ctx, &pc.Request{Apply: request})
	if err != nil {
		return nil, err
	}
	if r.Applied == nil {
		return nil, fmt.Errorf("apply: the connector answered with %s", responseKind(r))
	}
	return r.Applied, nil
}

// unary sends Spec and then the request to a new process, closes its stdin, and returns the one answer.
func (d *runtimeDriver) unary(ctx context.Context, request *pc.Request) (*pc.Response, error) {
	p, err := d.start(ctx, nil)
	if err != nil {
		return nil, err
	}
	response, err := func() (*pc.Response, error) {
		if err := p.handshake(); err != nil {
			return nil, err
		}
		// A connector started by the `local:` endpoint finds this on its first real request.
		request.Internal = []byte{0x0a, 0x04, 'i', 'n', 'f', 'o'}
		if err := p.send(request); err != nil {
			return nil, err
		}
		p.stdin.Close()
		response, err := p.responses.next()
		if err != nil {
			return nil, err
		}
		if extra, err := p.responses.next(); err == nil {
			return nil, fmt.Errorf("the connector sent %s after its answer", responseKind(extra))
		} else if !errors.Is(err, io.EOF) {
			return nil, err
		}
		return response, nil
	}()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EPIPE) {
		p.kill()
		_ = p.wait()
		return nil, err
	}
	if exit := p.wait(); exit != nil {
		return nil, exit
	}
	if err != nil {
		return nil, errors.New("the connector exited without an answer")
	}
	return response, nil
}

// session is one process that captures. Only stop, kill and acknowledge may be called from any goroutine.
type session struct {
	runtimeTransactions
	process  *connectorProcess
	pump     *pump
	explicit bool        // acknowledgements are wanted
	stopped  atomic.Bool // by stop, on V2: nothing more is taken
	unwatch  func() bool // no longer stop when the context of open ends
}

// open starts a process, sends Spec and Open, and reads Opened. The caller goes on with run. Either the session or the
// error is nil, never both.
func (d *runtimeDriver) open(
	ctx context.Context, capture *pf.CaptureSpec, state json.RawMessage, sink sessionSink,
) (*session, error) {
	s := &session{}
	if len(state) == 0 {
		state = json.RawMessage("{}")
	}
	opening, err := decodeState(state)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s.runtimeTransactions = newRuntimeTransactions(d, capture, opening, sink, s.acknowledgeCommitted)
	s.process, err = d.start(context.WithoutCancel(ctx), func(r io.Reader) io.Reader {
		if d.wrap != nil {
			r = d.wrap(r)
		}
		s.pump = newPump(r, s.idle, s.woken)
		return s.pump
	})
	if err != nil {
		return nil, err
	}
	s.unwatch = context.AfterFunc(ctx, s.stop)
	if d.onStart != nil {
		d.onStart(s.process.cmd.Process.Pid)
	}
	var opened *pc.Response
	err = s.process.handshake()
	if err == nil {
		fullRange := pf.NewFullRange()
		err = s.process.send(&pc.Request{
			Open:     &pc.Request_Open{Capture: capture, Version: driverVersion, Range: &fullRange, StateJson: state},
			Internal: []byte{0x0a, 0x04, 'i', 'n', 'f', 'o'},
		})
	}
	if err == nil {
		opened, err = s.process.responses.next()
	}
	if err == nil && opened.Opened == nil {
		err = fmt.Errorf("open: the connector answered with %s", responseKind(opened))
	}
	if err != nil {
		if err = s.end(err); err == nil {
			err = errNotOpened
		}
		return nil, err
	}
	s.explicit = opened.Opened.ExplicitAcknowledgements
	return s, nil
}

// errNotOpened is what open makes of an end with status 0, such as that of a connector that was asked to stop.
var errNotOpened = errors.New("the connector exited without an answer to Open")

// run hands everything captured to the sink until the connector ends. It returns nil when the connector exited with
// status 0 at a checkpoint or was stopped as V2 stops it, and a *connectorExit when it failed.
func (s *session) run() error {
	for {
		r, err := s.process.responses.next()
		if err == nil && s.stopped.Load() {
			err = io.EOF // the stream was closed ahead of this
		}
		if err == nil {
			err = s.take(r)
		}
		if err != nil {
			return s.end(err)
		}
	}
}

// acknowledge sends an Acknowledge. Tests that withhold them in commit call it later, from any goroutine.
func (s *session) acknowledge(checkpoints int) error {
	return s.process.send(&pc.Request{Acknowledge: &pc.Request_Acknowledge{Checkpoints: uint32(checkpoints)}})
}

// acknowledgeCommitted acknowledges if the connector wants it. As in the runtime a failure to write is no error: why the
// connector is gone shows in its exit.
func (s *session) acknowledgeCommitted(checkpoints int) {
	if s.explicit {
		_ = s.acknowledge(checkpoints)
	}
}

// end commits what is complete, if nothing but the end of the process ended the conversation, reaps the process, and returns
// what the session's result is.
func (s *session) end(err error) error {
	// One that was killed may have been cut off within a message.
	gone := errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) ||
		errors.Is(err, errPartial) && s.process.killed.Load()
	if gone {
		if commitErr := s.flush(); commitErr != nil {
			gone, err = false, commitErr
		}
	}
	if !gone {
		s.process.kill()
	}
	s.pump.close()
	s.process.stdin.Close()
	exit := s.process.wait()
	s.unwatch()
	_ = s.settle() // an error of it is not the first
	switch {
	case !gone:
		return err
	case s.stopped.Load():
		return nil
	case exit != nil:
		return exit
	}
	return s.checkEnd()
}

// stop ends the session gracefully, as the runtime does for a new spec and some minutes before the token of an IAM login
// expires. V1 closes the connector's stdin, and kills it after stopGrace; V2 closes its output at the same time, with which
// it is killed. From any goroutine.
func (s *session) stop() {
	if s.version == runtimeV1 {
		s.process.stop()
		return
	}
	s.stopped.Store(true)
	s.process.stdin.Close()
	s.process.kill()
}

// kill ends the connector with SIGKILL. From any goroutine.
func (s *session) kill() { s.process.kill() }
