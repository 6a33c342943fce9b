package main

// driver.go is a stand-in for the Flow runtime: it starts the connector as a child process and speaks the capture
// protocol to it as spec/flow-protocol.md §3.1 lays down, for preview and for the tests.
//
// Invariant: the state a session commits is the opening state with the patches of exactly those checkpoints whose
// documents were handed to the sink before, and only committed checkpoints are acknowledged.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

const (
	maxTransaction     = 32 << 20        // captured bytes after which the runtime folds no more checkpoints into a transaction
	stopGrace          = 5 * time.Second // between stdin EOF and SIGKILL
	driverVersion      = "ffffffffffffffff"
	driverIntervalSecs = 300
)

// runtimeDriver says how the connector is started and what every request carries. Its methods each start one process,
// which is asked to stop when their context is cancelled.
type runtimeDriver struct {
	command  []string // empty: this executable
	env      []string // added to our own environment, after what the driver sets
	codec    codec
	task     string
	config   json.RawMessage
	logLevel string                 // empty: info
	onLog    func(log connectorLog) // called in order by one goroutine per process; may be nil
	onStart  func(pid int)          // called for the process that captures; may be nil
	// encode frames the requests; nil is appendRequest.
	encode func(dst []byte, request *pc.Request, c codec) ([]byte, error)
	// wrap comes between the output of the process that captures and us; may be nil.
	wrap func(io.Reader) io.Reader
}

// runtimeBinding is one binding as a task has it in its model.
type runtimeBinding struct {
	resource   json.RawMessage
	collection string // name below the task's prefix
	key        []string
	schema     json.RawMessage // write schema; empty: {}
	backfill   uint32
}

// connectorExit is the failure of a connector process; its text is what the runtime would show.
type connectorExit struct {
	status  string // as in "exit status 1" or "signal: killed"
	message string // of the last log
}

func (e *connectorExit) Error() string {
	if e.message == "" {
		return "connector exited with no log output (" + e.status + ")"
	}
	return e.message
}

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

// apply runs Apply as before every session; last is the spec that was applied before, or nil.
func (d *runtimeDriver) apply(ctx context.Context, capture, last *pf.CaptureSpec) (*pc.Response_Applied, error) {
	request := &pc.Request_Apply{Capture: capture, Version: driverVersion, LastCapture: last}
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

// sessionSink takes what a session captures. All calls come from the goroutine in run.
type sessionSink interface {
	document(binding int, doc []byte) error // doc is lent for the call
	sourcedSchema(binding int, schema json.RawMessage) error
	// checkpoint ends what document and sourcedSchema were given since the last one.
	checkpoint(patch *pf.ConnectorState) error
	// commit makes everything up to the last checkpoint durable together with the state, and returns how many
	// checkpoints to acknowledge: n, those since the last commit, unless a test wants otherwise. Documents given after
	// the last checkpoint are not part of it.
	commit(n int, state json.RawMessage) (acknowledge int, err error)
}

// session is one process that captures.
type session struct {
	process  *connectorProcess
	pump     *pump
	capture  *pf.CaptureSpec
	sink     sessionSink
	explicit bool // acknowledgements are wanted
	state    any
	pending  int  // checkpoints not committed
	bytes    int  // captured since the last commit
	open     bool // something was captured after the last checkpoint
}

// open starts a process, sends Spec and Open, and reads Opened. The caller goes on with run. Either the session or the
// error is nil, never both.
func (d *runtimeDriver) open(
	ctx context.Context, capture *pf.CaptureSpec, state json.RawMessage, sink sessionSink,
) (*session, error) {
	s := &session{capture: capture, sink: sink}
	if len(state) == 0 {
		state = json.RawMessage("{}")
	}
	var err error
	if s.state, err = decodeState(state); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s.process, err = d.start(ctx, func(r io.Reader) io.Reader {
		if d.wrap != nil {
			r = d.wrap(r)
		}
		s.pump = newPump(r, s.commitPending)
		return s.pump
	})
	if err != nil {
		return nil, err
	}
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
// status 0 at a checkpoint, and a *connectorExit when it failed.
func (s *session) run() error {
	for {
		r, err := s.process.responses.next()
		if err == nil {
			err = s.take(r)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				if commitErr := s.commitPending(); commitErr != nil {
					err = commitErr
				}
			}
			return s.end(err)
		}
	}
}

// take handles one response.
func (s *session) take(r *pc.Response) error {
	switch {
	case r.Captured != nil:
		if int(r.Captured.Binding) >= len(s.capture.Bindings) {
			return fmt.Errorf("a document of binding %d, but there are %d", r.Captured.Binding, len(s.capture.Bindings))
		}
		s.open = true
		s.bytes += len(r.Captured.DocJson)
		return s.sink.document(int(r.Captured.Binding), r.Captured.DocJson)
	case r.SourcedSchema != nil:
		if int(r.SourcedSchema.Binding) >= len(s.capture.Bindings) {
			return fmt.Errorf("a schema of binding %d, but there are %d", r.SourcedSchema.Binding, len(s.capture.Bindings))
		}
		s.open = true
		return s.sink.sourcedSchema(int(r.SourcedSchema.Binding), r.SourcedSchema.SchemaJson)
	case r.Checkpoint != nil:
		if r.Checkpoint.State == nil {
			return errors.New("a checkpoint without state, which the runtime rejects")
		}
		patch, err := decodeState(r.Checkpoint.State.UpdatedJson)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if r.Checkpoint.State.MergePatch {
			s.state = mergePatch(s.state, patch)
		} else {
			s.state = patch
		}
		s.open = false
		s.pending++
		if err := s.sink.checkpoint(r.Checkpoint.State); err != nil {
			return err
		}
		if s.bytes >= maxTransaction {
			return s.commitPending()
		}
		return nil
	}
	return fmt.Errorf("the connector sent %s during a capture", responseKind(r))
}

// commitPending commits what is complete. The pump calls it when there is nothing left to read without waiting.
func (s *session) commitPending() error {
	if s.pending == 0 {
		return nil
	}
	state, err := json.Marshal(s.state)
	if err != nil {
		return err
	}
	n := s.pending
	acknowledge, err := s.sink.commit(n, state)
	if err != nil {
		return err
	}
	s.pending, s.bytes = 0, 0
	if acknowledge > 0 && s.explicit {
		// As in the runtime a failure to write is no error: why the connector is gone shows in its exit.
		_ = s.acknowledge(acknowledge)
	}
	return nil
}

// acknowledge sends an Acknowledge. Tests that withhold them in commit call it later, from any goroutine.
func (s *session) acknowledge(checkpoints int) error {
	return s.process.send(&pc.Request{Acknowledge: &pc.Request_Acknowledge{Checkpoints: uint32(checkpoints)}})
}

// end reaps the process after err ended the conversation and returns what the session's result is.
func (s *session) end(err error) error {
	// One that was killed may have been cut off within a message.
	gone := errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) ||
		errors.Is(err, errPartial) && s.process.killed.Load()
	if !gone {
		s.process.kill()
	}
	s.pump.close()
	s.process.stdin.Close()
	exit := s.process.wait()
	switch {
	case !gone:
		return err
	case exit != nil:
		return exit
	case s.open:
		return errors.New("unexpected capture connector EOF while within a checkpoint")
	}
	return nil
}

// stop asks the connector to stop by closing its stdin, and kills it after stopGrace. From any goroutine.
func (s *session) stop() { s.process.stop() }

// kill ends the connector with SIGKILL. From any goroutine.
func (s *session) kill() { s.process.kill() }

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
