// flow_acknowledgements.go owns stdin after Open: it turns the runtime's acknowledgements into the position that may be
// reported to the server.
// Invariant: flushed <= every checkpoint not yet acknowledged; it moves only when the runtime has committed.

package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// errStdinClosed is the runtime's word that the session is over.
var errStdinClosed = errors.New("the runtime closed our input: stopping")

// acknowledgements are the checkpoints sent and not yet acknowledged.
type acknowledgements struct {
	mu      sync.Mutex
	pending []lsn // cursors of checkpoints in the order sent; pushed by capture, popped by run

	flushed atomic.Uint64 // acknowledged position; stored by run, loaded by standby
	moved   chan struct{} // tells standby of each acknowledgement
}

func newAcknowledgements() *acknowledgements {
	return &acknowledgements{moved: make(chan struct{}, 1)}
}

// push notes a checkpoint that is about to be written.
func (a *acknowledgements) push(cursor lsn) {
	a.mu.Lock()
	a.pending = append(a.pending, cursor)
	a.mu.Unlock()
}

// reset forgets all positions: they are of another slot's past. Checkpoints already sent still await acknowledgement.
func (a *acknowledgements) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.pending)
	a.flushed.Store(0)
}

// pop acknowledges the n oldest pending checkpoints.
func (a *acknowledgements) pop(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n == 0 {
		n = 1
	}
	if n > len(a.pending) {
		return fmt.Errorf("the runtime acknowledged %d checkpoints, but only %d are pending", n, len(a.pending))
	}
	for _, cursor := range a.pending[:n] {
		if uint64(cursor) > a.flushed.Load() {
			a.flushed.Store(uint64(cursor))
		}
	}
	a.pending = append(a.pending[:0], a.pending[n:]...)
	select {
	case a.moved <- struct{}{}:
	default:
	}
	return nil
}

// run reads acknowledgements until stdin ends or says something else. One goroutine.
func (a *acknowledgements) run(requests *requestReader) error {
	for {
		r, err := requests.next()
		if errors.Is(err, io.EOF) {
			return errStdinClosed
		}
		if err != nil {
			return fmt.Errorf("read an acknowledgement: %w", err)
		}
		if r.Acknowledge == nil {
			return errors.New("the runtime sent a request other than Acknowledge after Open")
		}
		failpoint("acknowledge.received")
		if err := a.pop(int(r.Acknowledge.Checkpoints)); err != nil {
			return err
		}
		failpoint("acknowledge.stored")
	}
}
