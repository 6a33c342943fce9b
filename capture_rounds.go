// capture_rounds.go owns which chunks are being read, and when the fence that closes them counts.
//
//	start ──▶ ahead: chunks are read, then a fence is made ──▶ promote ──▶ open: the stream comes to the fence ──▶ settle
//
// One round is read while the stream comes to the fence of the one before: two at most are buffered, each with half of the budget.
// Invariant (DESIGN I1–I3): a round is promoted only when it has been read whole and none is open, so that the stream stands at
// its opening fence; a chunk of it counts only if its snapshot sees every transaction streamed so far that touched what is not
// settled; and what the fence has passed is said only of a place that the stream has come to.

package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// roundChunks is how many bindings may have a chunk in one round.
	roundChunks = 4

	// missedLook is how often the server is looked at while watermarks do not come.
	missedLook = time.Minute
)

// round is the chunks that one fence closes.
type round struct {
	chunks []*chunk
	fence  *fence
	err    error         // of the fence
	done   chan struct{} // closed when chunks and fence are complete; they belong to the capture from then on
}

// rounds is the round being streamed to and the one being read.
type rounds struct {
	db      *database
	fencer  *fencer
	polling bool // nothing may depend on how long a query takes

	open  *round // its fence is being streamed to, its chunks patched
	ahead *round // being read
	turn  int    // which binding comes first in the next round
	seed  maphash.Seed
	spare []chunkBuffers // of settled chunks

	watermark []byte    // the last value that the stream had of our row
	wary      bool      // the light fence that this session began with was given up
	missedAt  time.Time // when the server was last looked at because a watermark did not come; zero while they come

	waitingSince time.Time // when transactions began to hold up scans
	lastWaiting  string    // what was said last of that
}

func newRounds(db *database, polling bool) rounds {
	return rounds{db: db, fencer: newFencer(db), polling: polling}
}

// forget drops what belonged to the session before. REQUIRES: nothing is being read.
func (r *rounds) forget() {
	r.open, r.ahead, r.watermark, r.wary, r.missedAt = nil, nil, nil, false, time.Time{}
	r.seed = maphash.MakeSeed()
	r.fencer.close() // behind the same address may be another server now
}

// finish waits for what is being read.
func (r *rounds) finish() {
	if r.ahead != nil {
		<-r.ahead.done
	}
}

// idle reports whether nothing is read, or streamed to.
func (r *rounds) idle() bool { return r.open == nil && r.ahead == nil }

// passed reports whether the open round is to be settled.
func (r *rounds) passed() bool { return r.open != nil && r.open.fence.passed }

// atOpening reports whether the stream stands at the opening fence of the round being read.
func (r *rounds) atOpening() bool { return r.open == nil && r.ahead != nil }

// pick chooses of the bindings those of the next round: of all that can be read now, the highest priority that has any.
func (r *rounds) pick(reading []*binding) []*binding {
	most := roundChunks
	if r.polling {
		most = 1
	}
	if r.open != nil && slices.ContainsFunc(r.open.chunks, (*chunk).isWide) {
		return nil // there is room for one wide row
	}
	now := time.Now()
	var picked []*binding
	for i := range reading {
		b := reading[(i+r.turn)%len(reading)]
		if !b.readable(now) {
			continue
		}
		if len(picked) > 0 && b.resource.priority > picked[0].resource.priority {
			picked = picked[:0]
		}
		if len(picked) > 0 && b.resource.priority < picked[0].resource.priority || len(picked) == most {
			continue
		}
		if len(picked) > 0 && (b.wide || picked[0].wide) {
			continue // a table with wide rows is read alone
		}
		picked = append(picked, b)
	}
	r.turn++
	return picked
}

// start reads a chunk of each of the bindings and then makes the fence that closes them. reading is how many bindings the rounds
// to come may be of. Where nothing stands on the fence, it may be light.
func (r *rounds) start(ctx context.Context, bindings []*binding, reading int, light bool) {
	assert(r.ahead == nil, "one round is read at a time")
	started := &round{done: make(chan struct{})}
	bytes := budget.chunks / 2
	if !r.polling {
		bytes /= max(1, min(reading, roundChunks))
	}
	queries := make([]*scanQuery, len(bindings))
	for i, b := range bindings {
		ck := &chunk{
			binding: b, plan: b.plan, table: b.table, limit: max(1, b.scan.limit), budget: bytes, seed: r.seed,
			generation: b.scan.generation, classes: b.plan.cutClasses(), alone: len(bindings) == 1,
		}
		if n := len(r.spare); n > 0 {
			ck.borrow(r.spare[n-1])
			r.spare = r.spare[:n-1]
		}
		started.chunks = append(started.chunks, ck)
		queries[i] = b.scanQuery(ck, r.db.settings, r.db)
		queries[i].explain = b.explain()
	}
	r.ahead = started
	db, establish := r.db, r.fencer.establish
	if light && !r.wary {
		establish = r.fencer.caughtUp
	}
	go started.read(ctx, db, queries, establish)
}

// read reads the chunks, each on a connection of its own, and then makes the fence.
func (d *round) read(ctx context.Context, db *database, queries []*scanQuery, establish func(context.Context) (*fence, error)) {
	defer close(d.done)
	var scans sync.WaitGroup
	for i, ck := range d.chunks {
		scans.Go(func() { _ = ck.readOn(ctx, db, queries[i]) }) // the chunk keeps it
	}
	scans.Wait()
	failpoint("chunk.hand-over")
	d.fence, d.err = establish(ctx)
	failpoint("fence.hand-over")
}

// promote makes the round that was read the one being streamed to. Its chunks count only if their snapshots see every transaction
// streamed so far that touched their tables. It returns those that could not be read, and those that did not see all.
func (r *rounds) promote() (failed, blind []*chunk, err error) {
	promoted := r.ahead
	r.ahead = nil
	if promoted.err != nil {
		return nil, nil, promoted.err
	}
	kept := promoted.chunks[:0]
	for _, ck := range promoted.chunks {
		b := ck.binding
		switch {
		case ck.generation != b.scan.generation:
		case !ck.packEnd(b.key):
			failed = append(failed, ck)
		case !b.scan.counts(&ck.snapshot):
			blind = append(blind, ck)
		case !ck.final && ck.end == nil && ck.leaf.OID == 0:
			return nil, nil, fmt.Errorf("backfill %s: a chunk that is not the last has no end", b.name())
		default:
			b.scan.judgeBy(ck)
			kept = append(kept, ck)
		}
	}
	promoted.chunks = kept
	r.open = promoted
	return failed, blind, nil
}

// catchUp tells the open round's fence what came before it was known: an LSN fence may lie behind the stream already, and so may
// one whose watermark came before the open one was known to be missed. received is how far the stream has come.
func (r *rounds) catchUp(received lsn) {
	r.open.fence.sawWatermark(r.watermark)
	r.open.fence.sawCommit(received)
}

// sawWatermark is told of every value written to our row. The fence of the round being read comes only behind the open one, at
// which the stream stops until that round is complete.
func (r *rounds) sawWatermark(value []byte) {
	r.watermark = append(r.watermark[:0], value...)
	if r.open != nil {
		r.open.fence.sawWatermark(value)
	}
}

// sawCommit is told of every commit.
func (r *rounds) sawCommit(end lsn) {
	if r.open != nil {
		r.open.fence.sawCommit(end)
	}
}

// sawKeepalive is told of every keepalive between transactions.
func (r *rounds) sawKeepalive(end lsn) {
	if r.open != nil {
		r.open.fence.sawKeepalive(end)
	}
}

// fenceAt is a position that the open fence is not behind; 0 for none.
func (r *rounds) fenceAt() lsn {
	if r.open == nil {
		return 0
	}
	return r.open.fence.position
}

// distrust gives up the light fence that is being streamed to, if it is one; this session makes no other.
func (r *rounds) distrust() bool {
	if r.open == nil || !r.open.fence.light {
		return false
	}
	r.open, r.wary = nil, true
	return true
}

// settle ends the open round.
func (r *rounds) settle() *round {
	settled := r.open
	r.open = nil
	return settled
}

// missed takes note of a watermark that did not come, and reports whether that is to be looked into: it was not for a while.
func (r *rounds) missed() bool {
	now := time.Now()
	if now.Sub(r.missedAt) < missedLook {
		return false
	}
	r.missedAt = now
	return true
}

// came takes note of a watermark that came, and reports whether the one before did not.
func (r *rounds) came() bool {
	again := !r.missedAt.IsZero()
	r.missedAt = time.Time{}
	return again
}

// discard drops the chunk of a binding that was read ahead: it stands on an end that is not settled.
func (r *rounds) discard(b *binding) {
	if r.ahead == nil {
		return
	}
	for _, ck := range r.ahead.chunks {
		if ck.binding == b {
			ck.discard()
		}
	}
}

// giveBack takes the memory of a settled chunk for the next one, unless it is too large to be kept.
func (r *rounds) giveBack(ck *chunk) {
	if len(r.spare) < 2*roundChunks && cap(ck.arena) <= 2*ck.budget {
		r.spare = append(r.spare, ck.giveBack())
	}
}

// isReading reports whether a chunk of the binding is being read.
func (r *rounds) isReading(b *binding) bool {
	return r.ahead != nil && slices.ContainsFunc(r.ahead.chunks, func(ck *chunk) bool { return ck.binding == b })
}

// beginScans begins the scans of bindings, which wait for the transactions that may have written to their tables by now.
func (r *rounds) beginScans(ctx context.Context, bindings []*binding) error {
	if len(bindings) == 0 {
		return nil
	}
	var oids []uint32
	for _, b := range bindings {
		oids = append(oids, b.toRead()...)
	}
	var holders map[uint32][]writer
	err := r.db.with(ctx, func(conn *pgx.Conn) (err error) {
		holders, err = lockHolders(ctx, conn, oids, writeLocks)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the transactions that write to the captured tables: %w", err)
	}
	for _, b := range bindings {
		var writers []writer
		for _, oid := range b.toRead() {
			writers = append(writers, holders[oid]...)
		}
		b.scan.begin(writers, r.db.settings.chunkRows, b.byCTID())
	}
	return nil
}

// mostUnsettled is how many streamed transactions are remembered for a binding before those that are visible by now are
// sorted out: a backfill may wait for hours.
const mostUnsettled = 1 << 14

// pruneRead forgets the transactions that a chunk which has been read, and waits for the stream to reach it, does see. In a
// stream that is far behind these are all.
func (r *rounds) pruneRead() {
	if r.ahead == nil {
		return
	}
	select {
	case <-r.ahead.done:
	default:
		return
	}
	for _, ck := range r.ahead.chunks {
		if b := ck.binding; ck.err == nil && ck.generation == b.scan.generation && len(b.scan.unsettled) > mostUnsettled {
			b.scan.saw(&ck.snapshot)
		}
	}
}

// lookAtWaiting looks whether bindings that wait for transactions may go on, and returns what is to be said of those that have waited
// for long; "" for nothing.
func (r *rounds) lookAtWaiting(ctx context.Context, reading []*binding) (status string, err error) {
	r.pruneRead()
	var writers []writer
	var blind []*binding
	for _, b := range reading {
		writers = append(writers, b.scan.writers...)
		// A chunk being read is judged by all that its own snapshot does not see.
		if b.scan.state == scanUnseen || len(b.scan.unsettled) > mostUnsettled && !r.isReading(b) {
			blind = append(blind, b)
		}
	}
	if len(writers)+len(blind) == 0 {
		r.waitingSince = time.Time{}
		return "", nil
	}
	if r.waitingSince.IsZero() {
		r.waitingSince = time.Now()
	}
	err = r.db.with(ctx, func(conn *pgx.Conn) error {
		if len(writers) > 0 {
			open, err := stillOpen(ctx, conn, writers)
			if err != nil {
				return err
			}
			for _, b := range reading {
				b.scan.stillOpen(open, b.byCTID())
			}
		}
		if len(blind) > 0 {
			var text string
			if err := conn.QueryRow(ctx, `SELECT txid_current_snapshot()::text`).Scan(&text); err != nil {
				return err
			}
			seen, err := parseSnapshot(text)
			if err != nil {
				return err
			}
			for _, b := range blind {
				b.scan.saw(&seen)
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look at the transactions a backfill waits for: %w", err)
	}
	if time.Since(r.waitingSince) <= 5*time.Second {
		return "", nil
	}
	for _, b := range reading {
		text := b.describeWaiting()
		if text == "" {
			continue
		}
		if text != r.lastWaiting {
			status = "Backfill of " + text
		}
		r.lastWaiting = text
		break
	}
	return status, nil
}
