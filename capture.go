// capture.go owns the capture's loop: which chunk next, when to fence, when to checkpoint. It runs in one goroutine, which
// owns every binding, the checkpoint and stdout; chunks are read by others and handed over once.
// Invariants: a checkpoint is written only between transactions, or inside of one with a cursor before it (within.go), and never
// between a passed fence and the emission of the chunks it settles (DESIGN I7). The stream does not pass a chunk's opening
// fence until that chunk's end is known.

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// roundChunks is how many bindings may have a chunk in one round.
	roundChunks = 4

	// idleCheckpoint is how often a state-only checkpoint may move the cursor of a capture with nothing to deliver.
	idleCheckpoint = 10 * time.Second

	tickInterval = 100 * time.Millisecond
)

// round is the chunks that one fence closes.
type round struct {
	chunks []*chunk
	fence  *fence
	err    error         // of the fence
	done   chan struct{} // closed when chunks and fence are complete; they belong to the capture from then on
}

// stage is how far a session of the capture has come.
type stage uint8

const (
	stageCatchUp  stage = iota // streaming to a fence before any backfill starts or goes on
	stageCapture               // backfilling, streaming
	stageFinal                 // streaming to the shutdown fence
	stageFinished              // it has passed
)

// capture is one Open session.
type capture struct {
	ctx      context.Context
	db       *database
	settings *settings
	types    *typeCatalog
	casts    map[uint32]comparison
	out      *output
	ledger   ledger
	diag     *diagnostics
	progress progress
	fencer   *fencer
	session  *replication
	polling  bool // SHUTDOWN_AFTER_POLLING
	v1       bool // the runtime is known to be V1

	// catalog reads tables as they are now: loadTables, but for tests without a server.
	catalog func(names []tableName) (map[tableName]*table, error)
	lookup  lookup

	bindings []*binding
	byName   map[tableName]*binding
	pending  []*binding // in phasePending
	attached []*binding // captured, with partitions whose scans have not begun in this session
	reading  []*binding // scanning, highest priority first
	marking  []*binding // captured anew behind a BackfillBegin; their BackfillComplete is to come

	relations map[uint32]*relationEntry
	lastEntry *relationEntry
	tx        transaction
	from      provenance // of the document being written

	lost       error     // the last session's, when the slot could not be read on
	timeline   int32     // of the server we read from
	identified time.Time // when that was learnt

	stage stage
	wary  bool   // the light fence that this session began with was given up
	open  *round // its fence is being streamed to, its chunks patched
	ahead *round // being read

	handled      int // messages in the process
	tally        tally
	lastTick     time.Time
	ticks        *time.Ticker
	refreshes    refreshes
	renewAt      lsn             // the session is to be started anew from a position at or behind this; 0: not asked for
	renewing     map[uint64]bool // attachments (knownPartition.path) that ask for it
	renewed      map[uint64]bool // those behind which the present session, or one before, was started
	described    descriptions
	change       change
	newKey       []value
	oldKey       []value
	identity     []byte
	order        []byte
	image        maphash.Hash
	sidesSize    int // bytes of the answers kept in the sides of all bindings, at most
	filled       tuple
	rowScratch   tuple
	spare        []chunkBuffers // of settled chunks
	seed         maphash.Seed
	roundRobin   int
	waitingSince time.Time
	lastWaiting  string // the last status about a backfill that waits

	watermark []byte    // the last value that the stream had of our row
	missedAt  time.Time // when the server was last looked at because a watermark did not come; zero while they come

	askedAt  lsn // where the stream was when askPause began
	askPause time.Duration
	askNext  time.Time // when to ask the server how far it is
}

// forget drops what belonged to the replication session before: where it stood in the stream, its chunks, fences and relations.
// It comes ahead of all that the next session does, which may write a checkpoint before it streams.
func (c *capture) forget() {
	c.relations = make(map[uint32]*relationEntry)
	c.lastEntry, c.open, c.ahead, c.stage = nil, nil, nil, stageCatchUp
	c.described, c.wary = descriptions{}, false
	c.watermark, c.missedAt, c.askPause = nil, time.Time{}, 0
	c.tx = transaction{}
	c.ledger.leaveTransaction()
	for _, b := range c.bindings {
		b.scan = b.scan.lost()
	}
}

// stream runs one replication session until it fails or, when polling, is finished. REQUIRES: c.ledger.cursor is where to start.
func (c *capture) stream(ctx context.Context, start lsn) error {
	c.ctx = ctx
	c.placesFailed(c.ledger.begin(c.bindings))
	c.seed = maphash.MakeSeed()
	c.refreshes.begin(c.settings.rediscoveryInterval)
	c.ticks = time.NewTicker(tickInterval)
	defer c.ticks.Stop()
	if err := c.sessionRenewed(start); err != nil {
		return err
	}
	if err := c.resumeBackfills(); err != nil {
		return err
	}
	c.say(statusCatchUp)
	c.startRound(nil)
	for {
		if !c.tx.open {
			if err := c.advance(); err != nil {
				return err
			}
			if c.stage == stageFinished {
				return nil
			}
		}
		if c.session.ready() {
			m, err := c.session.next(ctx)
			if err != nil {
				return err
			}
			if err := c.handle(&m); err != nil {
				return err
			}
			if c.handled++; c.handled%1024 == 0 && c.tx.open && time.Since(c.lastTick) >= tickInterval {
				if err := c.tick(); err != nil { // a large transaction may leave no pause for hours
					return err
				}
			}
			continue
		}
		if err := c.wait(); err != nil {
			return err
		}
	}
}

// wait runs when no message is waiting: what can be delivered is, then it blocks until something happens.
func (c *capture) wait() error {
	if c.ledger.due && !c.tx.open && !c.polling {
		if err := c.checkpoint(); err != nil {
			return err
		}
	}
	var read <-chan struct{}
	if c.ahead != nil && c.open == nil && !c.tx.open {
		read = c.ahead.done
	}
	select {
	case b, ok := <-c.session.arrived():
		return c.session.take(b, ok)
	case <-read:
		return nil
	case <-c.ticks.C:
		return c.tick()
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// advance does what the stream's position allows. REQUIRES: between transactions.
func (c *capture) advance() error {
	if c.open != nil && c.open.fence.passed {
		if err := c.settle(); err != nil {
			return err
		}
	}
	if c.stage == stageCapture && c.open == nil && c.ahead == nil {
		if err := c.schedule(); err != nil {
			return err
		}
	}
	for c.open == nil && c.ahead != nil {
		// The stream is at the opening fence of what is being read: it waits here until the chunks' ends are known.
		if err := c.awaitRead(); err != nil {
			return err
		}
		if err := c.promote(); err != nil {
			return err
		}
		if c.open != nil && c.open.fence.passed {
			if err := c.settle(); err != nil {
				return err
			}
		}
	}
	if !c.polling && c.ledger.overdue() {
		return c.checkpoint()
	}
	if time.Since(c.lastTick) >= tickInterval {
		return c.tick()
	}
	return nil
}

// schedule activates what may be activated and starts the next round.
func (c *capture) schedule() error {
	if err := c.completeMarked(); err != nil { // owed since the session before, or of tables that hold no rows
		return err
	}
	if err := c.activate(); err != nil {
		return err
	}
	if picked := c.pick(); len(picked) > 0 {
		c.startRound(picked)
		return nil
	}
	if c.polling && c.onlySuspended() && c.renewAt == 0 {
		c.tellSuspended()
		c.stage = stageFinal
		c.startRound(nil)
	}
	return nil
}

// awaitRead waits for the round being read. The stream stalls meanwhile; the receive buffers fill and the server waits.
func (c *capture) awaitRead() error {
	for {
		select {
		case <-c.ahead.done:
			return nil
		case <-c.ticks.C:
			c.report()
			if c.fencer.lag() > 5*time.Second {
				c.say("Waiting for the standby to replay the WAL that follows (is its replay paused, or delayed by " +
					"recovery_min_apply_delay or by long queries on it?)")
			}
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// promote makes the round that was read the one being streamed to. Its chunks count only if their snapshots see every
// transaction streamed so far that touched their tables.
func (c *capture) promote() error {
	r := c.ahead
	failpoint("promote.before")
	c.ahead = nil
	if r.err != nil {
		return r.err
	}
	kept := r.chunks[:0]
	for _, ck := range r.chunks {
		b := ck.binding
		if ck.generation != b.scan.generation {
			continue
		}
		if ck.err == nil && ck.end != nil && b.key != nil {
			ck.order, ck.err = b.key.appendOrder(nil, ck.end)
			if ck.err == nil && !ck.final && ck.leaf.OID == 0 {
				ck.packed, ck.err = b.key.appendPacked(nil, ck.end)
			}
		}
		if ck.err != nil {
			if err := c.chunkFailed(ck); err != nil {
				return err
			}
			continue
		}
		if !b.scan.counts(&ck.snapshot) {
			c.progress.reread.Add(1)
			logrus.WithFields(logrus.Fields{"table": b.name().String(), "transactions": len(b.scan.unsettled)}).
				Debug("chunk is read again: a streamed transaction was not visible to it")
			continue
		}
		if !ck.final && ck.end == nil && ck.leaf.OID == 0 {
			return fmt.Errorf("backfill %s: a chunk that is not the last has no end", b.name())
		}
		if !b.tried {
			c.resumed(b)
		}
		b.scan.judgeBy(ck)
		kept = append(kept, ck)
	}
	r.chunks = kept
	c.open = r
	failpoint("promote.after")
	if c.stage == stageCapture { // ahead of what the fence has seen, as it may write checkpoints
		if err := c.activate(); err != nil {
			return err
		}
	}
	// It may lie behind us already: an LSN fence, and one whose watermark came before the open one was known to be missed.
	r.fence.sawWatermark(c.watermark)
	r.fence.sawCommit(c.ledger.received())
	if c.stage != stageCapture {
		return nil
	}
	if slices.ContainsFunc(kept, (*chunk).isWide) {
		return nil // there is room for one wide row
	}
	if picked := c.pick(); len(picked) > 0 {
		c.startRound(picked) // reads while we stream to the fence just opened, and emit
	}
	return nil
}

// pick chooses the bindings of the next round: of those that can be read now, the highest priority that has any.
func (c *capture) pick() []*binding {
	most := roundChunks
	if c.polling {
		most = 1
	}
	now := time.Now()
	var picked []*binding
	for i := range c.reading {
		b := c.reading[(i+c.roundRobin)%len(c.reading)]
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
	c.roundRobin++
	return picked
}

// startRound reads a chunk of each binding and then makes the fence that closes them.
func (c *capture) startRound(bindings []*binding) {
	assert(c.ahead == nil, "one round is read at a time")
	r := &round{done: make(chan struct{})}
	bytes := budget.chunks / 2
	if !c.polling {
		bytes /= max(1, min(len(c.reading), roundChunks))
	}
	type job struct {
		chunk *chunk
		query *scanQuery
	}
	var jobs []job
	for _, b := range bindings {
		ck := &chunk{
			binding: b, plan: b.plan, table: b.table, limit: max(1, b.scan.limit), budget: bytes, seed: c.seed,
			generation: b.scan.generation, classes: b.plan.cutClasses(), alone: len(bindings) == 1,
		}
		if n := len(c.spare); n > 0 {
			ck.borrow(c.spare[n-1])
			c.spare = c.spare[:n-1]
		}
		r.chunks = append(r.chunks, ck)
		query := b.scanQuery(ck, c.settings, c.db)
		query.explain, b.explained = !b.explained, true
		jobs = append(jobs, job{ck, query})
	}
	c.ahead = r
	ctx, db, establish := c.ctx, c.db, c.fencer.establish
	if c.stage == stageCatchUp && !c.wary && !c.polling && len(c.pending)+len(c.attached)+len(c.reading) == 0 {
		establish = c.fencer.caughtUp
	}
	go func() {
		defer close(r.done)
		var scans sync.WaitGroup
		for _, j := range jobs {
			scans.Go(func() { j.chunk.err = readChunk(ctx, db, j.chunk, j.query) })
		}
		scans.Wait()
		failpoint("chunk.hand-over")
		r.fence, r.err = establish(ctx)
		failpoint("fence.hand-over")
	}()
}

// readChunk reads one chunk on a connection of its own.
func readChunk(ctx context.Context, db *database, ck *chunk, q *scanQuery) error {
	conn, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return ck.read(ctx, conn.Conn().PgConn(), q)
}

// settle ends the round whose fence has passed: its chunks are emitted, each followed by its own checkpoint.
func (c *capture) settle() error {
	r := c.open
	c.open = nil
	failpoint("settle.before")
	if r.fence.watermark != nil {
		about := c.watermarkCame
		if r.fence.missed {
			about = func() error { return c.watermarkMissed(r.fence) }
		}
		if err := about(); err != nil {
			return err
		}
	}
	switch c.stage {
	case stageCatchUp:
		if r.fence.watermark == nil {
			c.ledger.advance(r.fence.position)
		}
		if err := c.checkpoint(); err != nil {
			return err
		}
		c.stage = stageCapture
		if len(c.pending)+len(c.attached)+len(c.reading)+len(c.marking) > 0 {
			c.say(statusBackfill)
		} else {
			c.say(statusStream)
		}
		return nil
	case stageFinal:
		logrus.Info("Shutting down due to SHUTDOWN_AFTER_POLLING=yes")
		c.stage = stageFinished
		return c.checkpoint()
	}
	c.ledger.advance(c.ledger.idleEnd) // a quiet table's long backfill must not pin WAL
	for _, ck := range r.chunks {
		if err := c.settleChunk(ck); err != nil {
			return fmt.Errorf("backfill %s: %w", ck.binding.name(), err)
		}
	}
	return c.completeMarked()
}

// settleChunk emits one chunk and moves its binding past it.
func (c *capture) settleChunk(ck *chunk) error {
	b := ck.binding
	if ck.generation != b.scan.generation {
		return nil
	}
	b.scan.judgeBy(nil)
	if ck.spoiled != "" {
		c.readAgain(ck)
		b.scan.ask(ck.limit / 2)
		return nil
	}
	if b.sourced != ck.plan {
		if err := c.sourceSchema(b, ck.table, ck.plan, nil); err != nil {
			return err
		}
	}
	if err := c.completeRows(b, ck); err != nil {
		return c.chunkRefused(ck, 0, err)
	}
	if ck.spoiled != "" || ck.generation != b.scan.generation {
		return c.settleChunk(ck)
	}
	from := provenance{snapshot: true, loc: [3]int64{-1, int64(b.state.Backfilled), 0}}
	if b.tried {
		if good, err := c.tryRows(ck, from); err != nil {
			return c.chunkRefused(ck, good, err)
		}
	}
	d := document{op: 'c'}
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		d.row = c.rowScratch
		if err := c.write(b, ck.plan, &from, &d); err != nil {
			return c.chunkRefused(ck, i, &rowError{ck.plan.describeKeyOf(c.rowScratch), err})
		}
		from.loc[1]++
	}
	failpoint("settle.rows")
	scannedRows := len(ck.rows)
	if b.wide = b.wide && ck.isWide(); ck.isWide() {
		c.letGo()
	}
	if len(c.spare) < 2*roundChunks && cap(ck.arena) <= 2*ck.budget {
		c.spare = append(c.spare, ck.giveBack())
	}
	rows := int(from.loc[1]) - b.state.Backfilled
	b.state.Backfilled = int(from.loc[1])
	b.scan.adapt(ck, scannedRows, c.settings.chunkRows, c.polling)
	if b.tried {
		c.resumed(b)
	}
	b.advance(ck)
	failpoint("settle.advanced")
	ended := ck.final || ck.leaf.OID != 0 && !b.scanning()
	if ended {
		c.reading = slices.DeleteFunc(c.reading, func(r *binding) bool { return r == b })
		if b.scanning() {
			c.attached = append(c.attached, b)
		}
	}
	if err := c.checkpoint(); err != nil { // ahead of what the logs say of it
		return err
	}
	c.progress.chunks.Add(1)
	logScanned(b, ck, rows)
	if len(c.reading) > 0 && b.phase == phaseBackfill {
		c.say(statusBackfill)
	}
	if ended {
		logrus.WithFields(logrus.Fields{"stream": b.name().String(), "rows": b.state.Backfilled}).Info("backfill completed")
		c.nothingToRead()
	}
	return nil
}

// readAgain has a chunk read again of which nothing is settled.
func (c *capture) readAgain(ck *chunk) {
	logrus.WithFields(logrus.Fields{"table": ck.binding.name().String(), "reason": ck.spoiled}).Info("chunk is read again")
	c.progress.reread.Add(1)
	if c.ahead != nil { // what was read behind it stands on an end that is not settled
		for _, next := range c.ahead.chunks {
			if next.binding == ck.binding {
				next.generation = -1
			}
		}
	}
}

// tryRows makes the documents of a chunk and drops them. It returns how many rows precede the first that has none.
func (c *capture) tryRows(ck *chunk, from provenance) (good int, err error) {
	var trial []byte
	d := document{op: 'c'}
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		d.row = c.rowScratch
		trial, err = ck.plan.appendFitting(trial[:0], &from, &d)
		if err != nil {
			return i, &rowError{ck.plan.describeKeyOf(c.rowScratch), err}
		}
	}
	return len(ck.rows), nil
}

// nothingToRead says so when the last backfill has ended.
func (c *capture) nothingToRead() {
	if len(c.pending)+len(c.attached)+len(c.reading)+len(c.marking) == 0 { // else their last markers are to come first
		c.say(statusStream)
	}
}

// completeRows fills in the unchanged TOAST values of buffered rows whose older image was not in the chunk. A row that is
// gone goes without them: its delete follows in the stream. Under another shape the chunk is spoiled.
func (c *capture) completeRows(b *binding, ck *chunk) error {
	for i := range ck.rows {
		if ck.rows[i].dead {
			continue
		}
		c.rowScratch = ck.row(c.rowScratch, i)
		if !c.rowScratch.lacks() {
			continue
		}
		t := cloneTuple(c.rowScratch)
		key := ck.plan.keyValues(nil, t, nil)
		row, err := c.awaitRow(c.wanted(b, ck.plan, key, t))
		if errors.Is(err, errTableChanged) {
			ck.spoil("the table changed its shape")
			return nil
		}
		if errors.Is(err, errParked) {
			return nil
		}
		if err != nil {
			return err
		}
		if row == nil {
			continue
		}
		t.fill(row)
		c.identity = appendIdentity(c.identity[:0], key)
		ck.put(c.identity, t, nil, fitTuple(t, ck.plan, budget.cutRule()))
	}
	return nil
}

// committed is called after each commit of the stream.
func (c *capture) committed(end lsn) {
	if c.open != nil {
		c.open.fence.sawCommit(end)
	}
	if c.tx.changes > 0 && !c.ledger.due {
		c.ledger.owe()
	}
}

// keepalive is called with the position of each keepalive. One inside a transaction says nothing we may use.
func (c *capture) keepalive(end lsn) {
	if c.tx.open {
		return
	}
	c.ledger.heard(end)
	if c.open != nil {
		c.open.fence.sawKeepalive(end)
	}
}

// checkpoint writes the state as of the last streamed transaction. REQUIRES: between transactions.
func (c *capture) checkpoint() error {
	assert(!c.tx.open, "checkpoint inside a transaction")
	return c.writeCheckpoint(c.ledger.checkpoint)
}

// writeCheckpoint has the ledger write a checkpoint, of either kind.
func (c *capture) writeCheckpoint(write func() error) error {
	assert(c.open == nil || !c.open.fence.passed, "checkpoint between a passed fence and its chunks")
	if c.db.standby && !c.identified.IsZero() { // what is stored has been judged
		if err := c.confirmTimeline(c.ctx); err != nil {
			return err
		}
	}
	if err := write(); err != nil {
		return err
	}
	c.progress.checkpoints.Add(1)
	return nil
}

// tick does what time asks for. It may run inside a transaction.
func (c *capture) tick() error {
	c.lastTick = time.Now()
	c.report()
	if err := c.pollWaiting(); err != nil {
		return err
	}
	if c.tx.open {
		return nil
	}
	c.askWhenSilent(c.lastTick)
	c.readByThemselves()
	if c.renewAt != 0 {
		if err := c.renewSession(); err != nil {
			return err
		}
	}
	if err := c.refreshDue(); err != nil {
		return err
	}
	// Nothing is undelivered and the server is further on: the cursor moves, so that the slot can. At once, where commits may
	// wait for that.
	rest := hurried(idleCheckpoint)
	if c.session.prompt.Load() {
		rest = 0
	}
	if !c.polling && !c.ledger.due && c.open == nil && c.ahead == nil && !c.session.ready() &&
		c.ledger.reached() > c.ledger.stored && time.Since(c.ledger.checkpointed) >= rest {
		failpoint("checkpoint.idle")
		c.ledger.advance(c.ledger.idleEnd)
		return c.checkpoint()
	}
	return nil
}

// rewind has a binding's table captured anew: what is in flight for it counts no more.
func (c *capture) rewind(b *binding) {
	if c.onlyStreams(b) && b.phase != phasePending {
		c.status("No rows of %s are read, as its mode or `advanced.skip_backfills` has it: what has not come through the stream stays missing",
			b.name())
	}
	b.rewind(false)
	c.refreshes.acquit(b)
	c.ledger.yieldsOtherwise(b)
	c.dismiss(b)
	if !slices.Contains(c.pending, b) {
		c.pending = append(c.pending, b)
	}
}

// parkBinding takes a binding out of the capture, with the reason.
func (c *capture) parkBinding(b *binding, reason string) {
	c.parkBindings([]*binding{b}, reason)
}

// parkBindings is parkBinding for one reason that concerns several.
func (c *capture) parkBindings(bindings []*binding, reason string) {
	c.status("%s no longer captured: %s", subject(bindings, "is", "are"), reason)
	for _, b := range bindings {
		b.park()
		c.refreshes.acquit(b)
		c.ledger.yieldsOtherwise(b)
	}
	parked := func(b *binding) bool { return b.phase == phaseMissing }
	c.reading = slices.DeleteFunc(c.reading, parked)
	c.attached = slices.DeleteFunc(c.attached, parked)
	c.pending = slices.DeleteFunc(c.pending, parked)
}

// dismiss takes a binding out of the lists of those whose rows are read.
func (c *capture) dismiss(b *binding) {
	c.reading = slices.DeleteFunc(c.reading, func(r *binding) bool { return r == b })
	c.attached = slices.DeleteFunc(c.attached, func(r *binding) bool { return r == b })
}

// status reports what the capture is doing.
func (c *capture) status(format string, args ...any) { c.say(fmt.Sprintf(format, args...)) }

// say is status of a text.
func (c *capture) say(message string) { c.diag.status(message, c.backfillSum()) }

// usual reports what the capture is doing, after something that held it up is over.
func (c *capture) usual() {
	switch {
	case c.stage == stageCatchUp:
		c.say(statusCatchUp)
	case len(c.pending)+len(c.attached)+len(c.reading) > 0:
		c.say(statusBackfill)
	default:
		c.say(statusStream)
	}
}

// backfillSum is how far the backfills under way are.
func (c *capture) backfillSum() backfillSum {
	sum := backfillSum{tables: len(c.reading) + len(c.attached) + len(c.pending), reading: len(c.reading)}
	for _, b := range c.reading {
		if b.table == nil || b.table.reltuples <= 0 {
			sum.estimated = 0
			break
		}
		sum.captured += float64(b.state.Backfilled)
		sum.estimated += b.table.reltuples
	}
	return sum
}

// report hands on how far the capture is to those who tell of it, and looks whether the session is alive. It may run inside a
// transaction.
func (c *capture) report() {
	now := time.Now()
	c.progress.note(now, &streamReport{
		tally: c.tally, position: c.ledger.received(), tx: c.tx, within: c.ledger.within.checkpoints, leaving: c.ledger.leaving(),
		fence: c.open != nil && !c.tx.open, reading: c.open == nil && c.ahead != nil && !c.tx.open,
	})
	if c.progress.due(now) {
		c.progress.noteBackfills(now, c.reading, c.bindings)
	}
	if c.diag.recovered.Swap(false) {
		c.usual()
	}
	c.diag.logXID(c.ctx, c.db, now)
	c.watchSilence(now)
}
