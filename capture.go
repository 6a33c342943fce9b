// capture.go owns the capture's loop: which chunk next, when to fence, when to checkpoint. It runs in one goroutine, which
// owns every binding, the checkpoint and stdout; chunks are read by others and handed over once.
// Invariants: a checkpoint is written only between transactions, or inside of one with a cursor before it (capture_within.go), and never
// between a passed fence and the emission of the chunks it settles (DESIGN I7). The stream does not pass a chunk's opening
// fence until that chunk's end is known.

package main

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// idleCheckpoint is how often a state-only checkpoint may move the cursor of a capture with nothing to deliver.
	idleCheckpoint = 10 * time.Second

	tickInterval = 100 * time.Millisecond
)

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
	session  sessions
	polling  bool // SHUTDOWN_AFTER_POLLING
	v1       bool // the runtime is known to be V1

	// catalog reads tables as they are now: loadTables, but for tests without a server.
	catalog func(names []tableName) (map[tableName]*table, error)
	lookup  lookup

	bindings []*binding
	byName   map[tableName]*binding
	backlog  backlog
	rounds   rounds

	changes changes

	stage stage

	handled    int // messages in the process
	tally      tally
	lastTick   time.Time
	ticks      *time.Ticker
	refreshes  refreshes
	renewal    renewal
	described  descriptions
	sidesSize  int // bytes of the answers kept in the sides of all bindings, at most
	rowScratch tuple
	seed       maphash.Seed
}

// run streams until the capture ends, over as many replication sessions as it takes.
func (c *capture) run(ctx context.Context) error {
	// A session's first checkpoint is no progress, nor are our own watermarks: what always fails behind them must not be tried
	// for ever.
	worked := func() int { return c.ledger.delivered + int(c.progress.chunks.Load()) }
	for {
		before := worked()
		err := c.replicate(ctx)
		again, err := c.session.again(ctx, err, worked() > before, c.bindings)
		if !again || !c.out.settled() {
			return err
		}
		// Nothing has been emitted since the last checkpoint: what is in memory is what is stored, and a new session
		// resumes as a new process would.
		c.ledger.rollBack()
		failpoint("reconnect")
		for _, b := range c.bindings {
			b.sourced = nil // its schema may have been dropped
		}
		if err := c.session.pause(ctx, err); err != nil {
			return err
		}
	}
}

// replicate runs one replication session.
func (c *capture) replicate(ctx context.Context) error {
	c.ctx = ctx // that of the session before has ended
	c.forget()
	if err := c.session.connect(ctx); err != nil {
		return err
	}
	start, err := c.position(ctx)
	if err != nil {
		c.session.hangUp(ctx)
		return err
	}
	err = c.session.run(ctx, start, func(ctx context.Context) error { return c.stream(ctx, start) })
	c.rounds.finish()
	return err
}

// position decides where to start: at the cursor if the slot still has what follows it, at a new slot's start otherwise.
func (c *capture) position(ctx context.Context) (lsn, error) {
	if c.ledger.cursor != 0 && c.settings.flags.forceResetCursor == 0 {
		loss, err := c.session.lossAt(ctx, c.ledger.cursor, c.bindings)
		if err != nil {
			return 0, err
		}
		if loss == nil {
			return c.ledger.cursor, nil
		}
		remains := ""
		if anew := c.capturedBindings(); len(anew) > 0 {
			remains = " " + c.remains(anew...)
		}
		c.status("%v. As advanced.on_slot_loss asks, the slot is created anew and every table is backfilled.%s", loss, remains)
		c.rewindAll()
	}
	created := c.session.creates()
	if created {
		c.rewindAll() // a new slot knows nothing of the past
	}
	start, err := c.session.place(ctx, c.bindings)
	if err != nil {
		return 0, err
	}
	c.ledger.restart(start, c.bindings)
	c.session.noteServer(c.bindings)
	if created {
		if err := c.readAfresh(); err != nil {
			return 0, err
		}
	}
	return start, nil
}

// readAfresh reads the catalog again behind the position that a new slot begins at: the making of it may have waited for hours
// for open transactions, and what changed meanwhile is neither in the stream nor in what was read before.
func (c *capture) readAfresh() error {
	c.renewal.begins(c.knownAttachments())
	if err := c.rediscover(); err != nil {
		return err
	}
	if c.ledger.due {
		return c.checkpoint()
	}
	return nil
}

// capturedBindings are those some of whose rows have been captured.
func (c *capture) capturedBindings() []*binding {
	var captured []*binding
	for _, b := range c.bindings {
		if b.phase == phaseActive || b.phase == phaseBackfill {
			captured = append(captured, b)
		}
	}
	return captured
}

// rewindAll has every table captured anew.
func (c *capture) rewindAll() {
	for _, b := range c.capturedBindings() {
		c.rewind(b)
	}
}

// forget drops what belonged to the replication session before: where it stood in the stream, its chunks, fences and relations.
// It comes ahead of all that the next session does, which may write a checkpoint before it streams.
func (c *capture) forget() {
	c.changes.forget()
	c.described, c.stage = descriptions{}, stageCatchUp
	c.rounds.forget()
	c.ledger.leaveTransaction()
	for _, b := range c.bindings {
		b.forget()
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
		if !c.changes.tx.open {
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
			if c.handled++; c.handled%1024 == 0 && c.changes.tx.open && time.Since(c.lastTick) >= tickInterval {
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
	if c.ledger.due && !c.changes.tx.open && !c.polling {
		if err := c.checkpoint(); err != nil {
			return err
		}
	}
	var read <-chan struct{}
	if c.rounds.atOpening() && !c.changes.tx.open {
		read = c.rounds.ahead.done
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
	if c.rounds.passed() {
		if err := c.settle(); err != nil {
			return err
		}
	}
	if c.stage == stageCapture && c.rounds.idle() {
		if err := c.schedule(); err != nil {
			return err
		}
	}
	for c.rounds.atOpening() {
		// The stream is at the opening fence of what is being read: it waits here until the chunks' ends are known.
		if err := c.awaitRead(); err != nil {
			return err
		}
		if err := c.promote(); err != nil {
			return err
		}
		if c.rounds.passed() {
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
	if c.readNext() {
		return nil
	}
	if c.polling && c.onlySuspended() && c.renewal.at == 0 {
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
		case <-c.rounds.ahead.done:
			return nil
		case <-c.ticks.C:
			c.report()
			if c.rounds.fencer.lag() > 5*time.Second {
				c.say("Waiting for the standby to replay the WAL that follows (is its replay paused, or delayed by " +
					"recovery_min_apply_delay or by long queries on it?)")
			}
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// promote makes the round that was read the one being streamed to, and reads the next.
func (c *capture) promote() error {
	failpoint("promote.before")
	failed, blind, err := c.rounds.promote()
	if err != nil {
		return err
	}
	for _, ck := range failed {
		if err := c.chunkFailed(ck); err != nil {
			return err
		}
	}
	for _, ck := range blind {
		c.progress.reread.Add(1)
		logrus.WithFields(logrus.Fields{"table": ck.binding.name().String(), "transactions": len(ck.binding.scan.unsettled)}).
			Debug("chunk is read again: a streamed transaction was not visible to it")
	}
	for _, ck := range c.rounds.open.chunks {
		if !ck.binding.tried {
			c.resumed(ck.binding)
		}
	}
	failpoint("promote.after")
	if c.stage == stageCapture { // ahead of what the fence has seen, as it may write checkpoints
		if err := c.activate(); err != nil {
			return err
		}
	}
	c.rounds.catchUp(c.ledger.received())
	if c.stage == stageCapture {
		c.readNext() // while we stream to the fence just opened, and emit
	}
	return nil
}

// readNext reads the next round, if there is anything that can be read now.
func (c *capture) readNext() bool {
	picked := c.rounds.pick(c.backlog.reading)
	if len(picked) > 0 {
		c.startRound(picked)
	}
	return len(picked) > 0
}

// startRound reads a chunk of each of the bindings; none for a fence alone.
func (c *capture) startRound(bindings []*binding) {
	light := c.stage == stageCatchUp && !c.polling && c.backlog.tables() == 0
	c.rounds.start(c.ctx, bindings, len(c.backlog.reading), light)
}

// committed is called after each commit of the stream.
func (c *capture) committed(end lsn) {
	c.rounds.sawCommit(end)
	if c.changes.tx.changes > 0 {
		c.ledger.owe()
	}
}

// keepalive is called with the position of each keepalive. One inside a transaction says nothing we may use.
func (c *capture) keepalive(end lsn) {
	if c.changes.tx.open {
		return
	}
	c.ledger.heard(end)
	c.rounds.sawKeepalive(end)
}

// checkpoint writes the state as of the last streamed transaction. REQUIRES: between transactions.
func (c *capture) checkpoint() error {
	assert(!c.changes.tx.open, "checkpoint inside a transaction")
	return c.writeCheckpoint(c.ledger.checkpoint)
}

// checkpointWithin writes a checkpoint inside of the transaction being streamed. REQUIRES: inside a transaction, behind all
// documents of one change.
func (c *capture) checkpointWithin() error {
	assert(c.changes.tx.open, "a checkpoint within a transaction outside of one")
	return c.writeCheckpoint(c.ledger.checkpointWithin)
}

// writeCheckpoint has the ledger write a checkpoint, of either kind.
func (c *capture) writeCheckpoint(write func() error) error {
	assert(!c.rounds.passed(), "checkpoint between a passed fence and its chunks")
	if c.db.standby && !c.session.identified.IsZero() { // what is stored has been judged
		if err := c.session.confirmTimeline(c.ctx, c.bindings); err != nil {
			return err
		}
	}
	if err := write(); err != nil {
		return err
	}
	c.progress.checkpoints.Add(1)
	return nil
}

// placesFailed says what became of places that do not count, and has a table captured anew of which a transaction yields now
// other documents than were captured of it.
func (c *capture) placesFailed(faults []*placeFault) {
	for _, f := range faults {
		c.placeFailed(f)
	}
}

func (c *capture) placeFailed(f *placeFault) {
	b, p := f.binding, f.place
	switch {
	case f.err != nil:
		c.status("How far the documents of %s were captured cannot be read (%v): those of a large transaction may come again", b.name(), f.err)
		return
	case f.rule:
		c.status("The settings or the backfill of %s are not what they were in the middle of the transaction that commits at %s: %d "+
			"documents of it that were captured are sent again", b.name(), c.ledger.within.commit, p.Documents)
		return
	}
	text := fmt.Sprintf("%s is captured anew: %d documents up to %s were captured of the transaction that commits at %s, and now it has others or "+
		"another number there (%d). The publication, the table or the server has changed meanwhile. %s", b.name(), p.Documents, p.Last,
		p.Commit, f.now, c.remains(b))
	logrus.Warn(text)
	c.say(text)
	c.rewind(b)
	c.ledger.owe()
}

// tick does what time asks for. It may run inside a transaction.
func (c *capture) tick() error {
	c.lastTick = time.Now()
	c.report()
	if err := c.pollWaiting(); err != nil {
		return err
	}
	if c.changes.tx.open {
		return nil
	}
	c.askWhenSilent(c.lastTick)
	c.readByThemselves()
	if c.renewal.at != 0 {
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
	if !c.polling && !c.ledger.due && c.rounds.idle() && !c.session.ready() &&
		c.ledger.reached() > c.ledger.stored && time.Since(c.ledger.checkpointed) >= rest {
		failpoint("checkpoint.idle")
		c.ledger.advance(c.ledger.idleEnd)
		return c.checkpoint()
	}
	return nil
}

// askWhenSilent asks the server how far it is where its WAL ends behind what the stream has shown, first after askFirst of no
// progress, then less and less often. REQUIRES: between transactions.
func (c *capture) askWhenSilent(now time.Time) {
	end := max(lsn(c.progress.serverEnd.Load()), c.rounds.fenceAt())
	if !c.session.askDue(c.ledger.received(), end, now) {
		return
	}
	if c.session.askPause >= askLight && c.rounds.distrust() {
		c.startRound(nil)
		return
	}
	c.session.askNow(now)
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
	c.backlog.await(b)
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
	c.backlog.leaveParked()
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
	case c.backlog.tables() > 0:
		c.say(statusBackfill)
	default:
		c.say(statusStream)
	}
}

// backfillSum is how far the backfills under way are.
func (c *capture) backfillSum() backfillSum {
	sum := backfillSum{tables: c.backlog.tables(), reading: len(c.backlog.reading)}
	for _, b := range c.backlog.reading {
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
		tally: c.tally, position: c.ledger.received(), tx: c.changes.tx, within: c.ledger.within.checkpoints, leaving: c.ledger.leaving(),
		fence: c.rounds.open != nil && !c.changes.tx.open, reading: c.rounds.atOpening() && !c.changes.tx.open,
	})
	if c.progress.due(now) {
		c.progress.noteBackfills(now, c.backlog.reading, c.bindings)
	}
	if c.diag.recovered.Swap(false) {
		c.usual()
	}
	c.diag.logXID(c.ctx, c.db, now)
	if c.session.watchSilence(c.ctx, now) {
		c.usual()
	}
}

// renewSession ends the session when it has come to where the next one is to begin. REQUIRES: between transactions.
func (c *capture) renewSession() error {
	if c.session.askKeepalive(); c.ledger.reached() < c.renewal.at {
		return nil
	}
	c.ledger.advance(c.ledger.idleEnd)
	if err := c.checkpoint(); err != nil {
		return err
	}
	return errRenewSession
}

// sessionRenewed has the partitions captured for which a session was started anew.
func (c *capture) sessionRenewed(start lsn) error {
	if !c.renewal.began(start) {
		return nil
	}
	for _, b := range c.bindings {
		if b.partitions.release() {
			if err := c.reload(b); err != nil {
				return err
			}
		}
	}
	return nil
}
