// capture_progress.go owns the facts about a running capture that its operator is told: how far it is behind, what the slot
// retains, how the backfills get on, what holds them up, and what of the server's set-up has changed under the capture. The
// capture goroutine notes what it does; the watcher, a goroutine of its own, looks at that and at the server from outside, so
// that it can speak when the capture is stuck, and lets a server go that is shutting down.

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

const (
	watchInterval = time.Second
	// observeInterval is how often the server is asked about its position, its settings and our slot.
	observeInterval = 3 * time.Second
	// observeTimeout bounds that question.
	observeTimeout = 10 * time.Second
	// stallRepeat is how often a stall that lasts is told again, with the numbers of then.
	stallRepeat = 5 * time.Minute
	// lagNotice is how far behind a capture may be before its status says so.
	lagNotice = 10 * time.Minute
	// shutdownPatience is how long a server that says it is shutting down may wait for us. Before that it has sent us all and
	// heard that we have it, unless the runtime does not read.
	shutdownPatience = 3 * time.Second
)

// stallLimit is how long something that should be quick may take before the status says so.
var stallLimit = 45 * time.Second

// progress is what the capture goroutine notes of its work. Sizes are bytes, counts are of this process.
type progress struct {
	transactions, changes, documents, checkpoints atomic.Int64
	chunks, reread, reconnects                    atomic.Int64

	cursor    atomic.Uint64 // everything that ends at or before it has been streamed
	committed atomic.Int64  // commit time of the last transaction streamed, Unix microseconds of the server's clock
	began     atomic.Int64  // when the transaction being streamed began to arrive, Unix nanoseconds; 0 between transactions
	xid       atomic.Uint32 // of that transaction
	inside    atomic.Int64  // its changes so far
	within    atomic.Int64  // the checkpoints inside of it so far
	leaving   atomic.Int64  // its documents that were captured before, while some are still to be left out; else 0
	fence     atomic.Int64  // since when a fence is being streamed to, Unix nanoseconds; 0 without one
	reading   atomic.Int64  // since when the stream waits for chunks to be read, Unix nanoseconds; 0 when it does not

	session   atomic.Pointer[replication] // the one under way, or the last
	serverEnd atomic.Uint64               // end of the server's WAL, as the watcher has seen it last

	mu        sync.Mutex
	backfills []backfillProgress
	phases    [phaseMissing + 1]int // bindings in each phase

	starts  map[tableName]backfillProgress // backfills as of the last note; owned by the capture goroutine, as notedAt is
	notedAt time.Time
}

// tally is what the capture has streamed and written, in the process.
type tally struct {
	transactions int
	changes      int // inserts, updates and deletes of captured tables
	documents    int
}

// streamReport is where the stream is.
type streamReport struct {
	tally
	position lsn         // everything that ends at or before it has been streamed
	tx       transaction // the open one, or the last
	within   int         // the checkpoints inside of it
	leaving  int64       // its documents that were captured before, while some are still to be left out; else 0
	fence    bool        // a fence is being streamed to
	reading  bool        // the stream waits for chunks to be read
}

// note takes the capture's report of its stream.
func (p *progress) note(now time.Time, r *streamReport) {
	p.transactions.Store(int64(r.transactions))
	p.changes.Store(int64(r.changes))
	p.documents.Store(int64(r.documents))
	p.cursor.Store(uint64(r.position))
	if r.tx.begin.xid != 0 { // everything that committed before it has been streamed
		p.committed.Store(r.tx.begin.commitTime + postgresEpoch)
	}
	switch {
	case !r.tx.open:
		p.began.Store(0)
	case p.began.Load() == 0 || p.xid.Load() != r.tx.begin.xid:
		p.xid.Store(r.tx.begin.xid)
		p.began.Store(now.UnixNano())
	}
	p.inside.Store(int64(r.tx.changes))
	p.within.Store(int64(r.within))
	p.leaving.Store(r.leaving)
	since(&p.fence, now, r.fence)
	since(&p.reading, now, r.reading)
}

// since keeps in at when a state began that holds now or not.
func since(at *atomic.Int64, now time.Time, holds bool) {
	switch {
	case !holds:
		at.Store(0)
	case at.Load() == 0:
		at.Store(now.UnixNano())
	}
}

// due reports whether the backfills are to be noted again.
func (p *progress) due(now time.Time) bool { return now.Sub(p.notedAt) >= time.Second }

// noteBackfills takes note of how far the tables are whose rows are being read, and of how many bindings are in each phase.
func (p *progress) noteBackfills(now time.Time, reading, bindings []*binding) {
	p.notedAt = now
	backfills := make([]backfillProgress, 0, len(reading))
	starts := make(map[tableName]backfillProgress, len(reading))
	for _, b := range reading {
		at, known := p.starts[b.name()]
		if !known || at.first > b.state.Backfilled {
			at = backfillProgress{table: b.name().String(), since: now, first: b.state.Backfilled}
		}
		at.rows, at.estimated, at.waits = b.state.Backfilled, b.estimatedRows(), b.describeWaiting()
		starts[b.name()] = at
		backfills = append(backfills, at)
	}
	p.starts = starts
	var phases [phaseMissing + 1]int
	for _, b := range bindings {
		phases[b.phase]++
	}
	p.mu.Lock()
	p.backfills, p.phases = backfills, phases
	p.mu.Unlock()
}

// backfillProgress is how far the backfill of one table is.
type backfillProgress struct {
	table     string
	rows      int     // captured, in all sessions
	estimated float64 // rows that the table has; negative when nobody knows
	since     time.Time
	first     int // rows when this session began to read it
	waits     string
}

// rate is rows in a second.
func (p *backfillProgress) rate() float64 {
	seconds := time.Since(p.since).Seconds()
	if seconds < 1 {
		return 0
	}
	return float64(p.rows-p.first) / seconds
}

// eta is how long the backfill will take at this rate; negative when nobody knows.
func (p *backfillProgress) eta() time.Duration {
	rate := p.rate()
	if p.estimated < 0 || rate <= 0 {
		return -1
	}
	seconds := max(0, p.estimated-float64(p.rows)) / rate
	if seconds > 1e8 {
		return -1
	}
	return time.Duration(seconds * float64(time.Second))
}

// observation is what the server says of itself and of our slot.
type observation struct {
	at       time.Time
	slot     *slotStatus
	skew     time.Duration // of the server's clock, ahead of ours
	spilled  int64         // bytes of transactions that decoding has written to the server's disk; -1 before version 14
	behind   int64         // bytes of WAL that have not been streamed
	lag      time.Duration // age of the oldest of them, at most; negative when nobody knows
	retained int64         // bytes of WAL that the slot keeps
	growth   float64       // bytes of WAL that the server writes in a second; 0 when not known

	synchronous string // synchronous_standby_names
	syncState   string // of our session, as pg_stat_replication has it; "" where our role may not see it
	syncBefore  bool   // so it was at the look before: at a single one it may just be reporting a position
	alone       bool   // there is no standby
	walLevel    string // effective_wal_level; "" before version 19
}

// watcher is the goroutine that looks from outside.
type watcher struct {
	db       *database
	out      *output
	diag     *diagnostics
	progress *progress

	mu      sync.Mutex // one observation at a time
	last    *observation
	reached time.Time // our clock: everything committed until then has been streamed
	ahead   lsn       // the server's position at aheadAt, which the stream had not reached
	aheadAt time.Time

	stopping time.Time            // since when the server says that it is shutting down
	told     map[string]time.Time // when each kind of stall was told
	loggedAt time.Time
	logged   int64 // documents by then
}

func newWatcher(db *database, out *output, diag *diagnostics, p *progress) *watcher {
	return &watcher{db: db, out: out, diag: diag, progress: p, told: make(map[string]time.Time)}
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	started := time.Now()
	for observeAt := started.Add(observeInterval); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		seen := (*observation)(nil)
		if now.After(observeAt) {
			observeAt = now.Add(observeInterval)
			var err error
			if seen, err = w.observe(ctx, 0); err != nil && ctx.Err() == nil {
				logrus.WithError(err).Debug("could not look at the server and the slot")
			}
			if w.shuttingDown(now, err) {
				observeAt = now.Add(watchInterval)
			}
		}
		w.judge(now, seen)
		if seen == nil {
			continue
		}
		interval := progressInterval
		if len(w.tables()) > 0 || seen.lag > time.Minute {
			interval = time.Minute
		}
		if now.Sub(w.loggedAt) >= interval-observeInterval/2 {
			w.log(now, seen)
		}
	}
}

// sqlNoStandby tells that no session but those of logical slots and ours, whose pid is $1, is sent WAL. What it is called, other
// roles than members of pg_read_all_stats do not see.
const sqlNoStandby = `NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.pid <> $1::int AND r.pid NOT IN
	(SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL))`

const sqlObserve = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, %s,
	current_setting('synchronous_standby_names'),
	coalesce(current_setting('effective_wal_level', true), ''),
	coalesce((SELECT sync_state FROM pg_stat_replication WHERE pid = $1::int), ''), ` + sqlNoStandby + `, $2::text`

// observe asks the server, unless it was asked less than fresh ago.
func (w *watcher) observe(ctx context.Context, fresh time.Duration) (*observation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last != nil && time.Since(w.last.at) < fresh {
		return w.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, observeTimeout)
	defer cancel()
	o := &observation{spilled: -1}
	spilled := "-1::bigint"
	if w.db.version >= 140000 {
		spilled = `coalesce((SELECT spill_bytes FROM pg_stat_replication_slots WHERE slot_name = $2::text), 0)::bigint`
	}
	session := w.progress.session.Load()
	var pid uint32
	if session != nil {
		pid = session.pid
	}
	err := w.db.with(ctx, func(conn *pgx.Conn) (err error) {
		if o.slot, err = readSlot(ctx, conn, w.db.settings.slot); err != nil {
			return err
		}
		asked := time.Now()
		var clock int64
		var slot string
		err = conn.QueryRow(ctx, fmt.Sprintf(sqlObserve, spilled), fmt.Sprint(pid), w.db.settings.slot).
			Scan(&clock, &o.spilled, &o.synchronous, &o.walLevel, &o.syncState, &o.alone, &slot)
		o.at = time.Now()
		o.skew = time.UnixMicro(clock).Sub(asked.Add(o.at.Sub(asked) / 2))
		return err
	})
	if err != nil {
		return nil, err
	}
	w.measure(o)
	o.syncBefore = w.last != nil && w.last.syncState != "" && w.last.syncState != "async"
	w.progress.serverEnd.Store(uint64(o.slot.end))
	if session != nil {
		if prompt := o.alone && o.holdsCommits(w.db) != ""; session.prompt.Swap(prompt) && !prompt {
			session.wake() // takes the position back
		}
	}
	w.last = o
	return o, nil
}

// holdsCommits says why the server may take us for a synchronous standby, "" when it does not. On a standby nothing is
// synchronous.
func (o *observation) holdsCommits(db *database) string {
	switch {
	case o.slot.standby || o.synchronous == "":
		return ""
	case db.mayBeSynchronous(o.synchronous):
		return synchronousText(o.synchronous, db.applicationName())
	case o.syncState != "" && o.syncState != "async" && o.syncBefore:
		return fmt.Sprintf("The server takes this capture for a synchronous standby (sync_state %s in pg_stat_replication)", o.syncState)
	}
	return ""
}

// shuttingDown looks whether the server says that it is shutting down, which it cannot finish before our session has ended.
// A session that is still there after some time is ended: nothing is lost by that, since the slot keeps its place.
func (w *watcher) shuttingDown(now time.Time, err error) bool {
	code := sqlState(err)
	switch {
	case err == nil:
		w.stopping = time.Time{}
	case code != codeAdminShutdown && code != codeCrashShutdown && code != codeStarting:
	case w.stopping.IsZero():
		w.stopping = now
	case now.Sub(w.stopping) >= shutdownPatience:
		if session := w.progress.session.Load(); session != nil && session.letServerGo() {
			w.diag.say("The server is shutting down and waits for the replication connection, which is closed: the replication slot keeps " +
				"its place")
		}
	}
	return !w.stopping.IsZero()
}

// measure fills in what follows from the server's words and the capture's.
func (w *watcher) measure(o *observation) {
	cursor := lsn(w.progress.cursor.Load())
	if cursor >= w.ahead && w.ahead != 0 {
		w.reached, w.ahead = w.aheadAt, 0
	}
	if o.slot.exists && o.slot.restart != 0 && o.slot.end > o.slot.restart {
		o.retained = int64(o.slot.end - o.slot.restart)
	}
	if w.last != nil {
		if passed := o.at.Sub(w.last.at).Seconds(); passed >= 1 && o.slot.end >= w.last.slot.end {
			o.growth = float64(o.slot.end-w.last.slot.end) / passed
		} else {
			o.growth = w.last.growth
		}
	}
	if cursor >= o.slot.end {
		w.reached = o.at
		return
	}
	o.behind = int64(o.slot.end - cursor)
	if w.ahead == 0 {
		w.ahead, w.aheadAt = o.slot.end, o.at
	}
	until := w.reached
	if micros := w.progress.committed.Load(); micros != 0 {
		if committed := time.UnixMicro(micros).Add(-o.skew); committed.After(until) {
			until = committed
		}
	}
	o.lag = -1
	if !until.IsZero() {
		o.lag = max(0, o.at.Sub(until))
	}
}

// observedStalls are the kinds that a look at the server shows, the gravest last: what is said last stays.
var observedStalls = []string{"slot", "lag", "synchronous", "decoding", "lost"}

// judge tells the stalls that have lasted too long, and when the last one is over.
func (w *watcher) judge(now time.Time, seen *observation) {
	stalls := make(map[string]string)
	if began := w.out.blockedSince.Load(); began != 0 {
		if blocked := now.Sub(time.Unix(0, began)); blocked >= stallLimit {
			stalls["sink"] = fmt.Sprintf("The runtime has not read our output for %s: the capture waits for it, and the connection "+
				"to the server is kept", blocked.Round(time.Second))
		}
	} else if began := w.progress.began.Load(); began != 0 && now.Sub(time.Unix(0, began)) >= stallLimit {
		text := fmt.Sprintf("Streaming one large transaction (%d) for %s: %d changes so far", w.progress.xid.Load(),
			now.Sub(time.Unix(0, began)).Round(time.Second), w.progress.inside.Load())
		if before := w.progress.leaving.Load(); before > 0 {
			text += fmt.Sprintf(", of those whose %d documents were already captured", before)
		} else {
			text += fmt.Sprintf(", and %d checkpoints inside of it", w.progress.within.Load())
		}
		stalls["transaction"] = text
	} else if since := w.progress.fence.Load(); since != 0 && now.Sub(time.Unix(0, since)) >= stallLimit {
		what := "a watermark"
		if w.db.settings.readOnly { // as it must be on a standby
			what = "its fence"
		}
		text := fmt.Sprintf("The backfill has waited %s for %s in the stream", now.Sub(time.Unix(0, since)).Round(time.Second), what)
		switch last := w.lastObservation(); {
		case last == nil:
			text += ", and the server does not answer queries about it: see whether it is overloaded, or its connections are used up"
		case last.behind > 0:
			text += fmt.Sprintf(": %s of WAL are still to be decoded. If that does not get less, see what the sender waits for: SELECT "+
				"wait_event_type, wait_event FROM pg_stat_activity WHERE backend_type = 'walsender';", byteCount(last.behind))
		case last.slot.standby:
			text += ", which has come to the end of the standby's WAL: see whether its primary sends more (pg_stat_wal_receiver)"
		default:
			text += ", which has come to the end of the server's WAL. The server writes more within half a minute; if it does not, restart " +
				"the capture"
		}
		stalls["fence"] = text
	} else if since := w.progress.reading.Load(); since != 0 && now.Sub(time.Unix(0, since)) >= stallLimit {
		stalls["reading"] = fmt.Sprintf("A backfill query has been running for %s, and the stream waits for it",
			now.Sub(time.Unix(0, since)).Round(time.Second))
	}
	if seen != nil {
		if text := slotHeadroom(seen); text != "" {
			stalls["slot"] = text
		}
		if seen.lag >= lagNotice {
			stalls["lag"] = fmt.Sprintf("The capture is %s and %s of WAL behind the server", seen.lag.Round(time.Second),
				byteCount(seen.behind))
		}
		if text := seen.holdsCommits(w.db); text != "" {
			stalls["synchronous"] = text
		}
		if seen.walLevel != "" && seen.walLevel != "logical" {
			stalls["decoding"] = fmt.Sprintf("The server has switched logical decoding off (effective_wal_level = %s): changes from now on "+
				"cannot be read. Run: ALTER SYSTEM SET wal_level = logical; and restart the server", seen.walLevel)
		}
		if reason := seen.slot.lossReason(); seen.slot.exists && reason != "" {
			stalls["lost"] = fmt.Sprintf("The server has invalidated the replication slot %q: %s. %s", seen.slot.name, reason, waysOut)
		}
	} else {
		for _, kind := range observedStalls { // as long as nobody has looked again
			if _, told := w.told[kind]; told {
				stalls[kind] = ""
			}
		}
	}
	over := false
	for _, kind := range append([]string{"sink", "transaction", "fence", "reading"}, observedStalls...) {
		text, stalled := stalls[kind]
		at, told := w.told[kind]
		switch {
		case !stalled && told:
			delete(w.told, kind)
			over = true
		case stalled && text != "" && now.Sub(at) >= stallRepeat:
			w.told[kind] = now
			w.diag.say(text)
		}
	}
	if over && len(w.told) == 0 { // else what is said of the others would be taken back, too
		w.diag.recovered.Store(true)
	}
}

// slotHeadroom says that the server is about to take away the slot's WAL, "" when it is not.
func slotHeadroom(o *observation) string {
	s := o.slot
	if !s.exists || s.walStatus == "lost" || s.safeWAL < 0 { // a lost slot ends the session, with its reason
		return ""
	}
	if s.walStatus != "unreserved" && s.safeWAL > o.retained/4 {
		return ""
	}
	text := fmt.Sprintf("Replication slot %q retains %s of WAL, and the server takes it away after %s more "+
		"(max_slot_wal_keep_size)", s.name, byteCount(o.retained), byteCount(s.safeWAL))
	if o.growth > 0 {
		text += fmt.Sprintf(", at the rate of now in %s", time.Duration(float64(s.safeWAL)/o.growth*1e9).Round(time.Second))
	}
	return text + ": raise that setting, or see what holds the capture up"
}

func (w *watcher) lastObservation() *observation {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// tables returns the backfills under way.
func (w *watcher) tables() []backfillProgress {
	w.progress.mu.Lock()
	defer w.progress.mu.Unlock()
	return w.progress.backfills
}

// mostLogged bounds the tables of one progress report.
const mostLogged = 20

// log writes the periodic report.
func (w *watcher) log(now time.Time, o *observation) {
	documents := w.progress.documents.Load()
	fields := logrus.Fields{
		"documents": documents - w.logged, "cursor": lsn(w.progress.cursor.Load()).String(), "server": o.slot.end.String(),
		"bytesBehind": o.behind, "retainedWAL": o.retained, "checkpoints": w.progress.checkpoints.Load(),
		"transactions": w.progress.transactions.Load(),
	}
	if !w.loggedAt.IsZero() {
		fields["duration"] = now.Sub(w.loggedAt).Round(time.Second).String()
	}
	if o.lag >= 0 {
		fields["secondsBehind"] = o.lag.Seconds()
	}
	if o.slot.exists {
		fields["acknowledged"] = o.slot.confirmed.String()
		if o.slot.safeWAL >= 0 {
			fields["safeWAL"] = o.slot.safeWAL
		}
	}
	if o.spilled > 0 {
		fields["spilled"] = o.spilled
	}
	w.loggedAt, w.logged = now, documents
	logrus.WithFields(fields).Info("processed replication events")
	tables := w.tables()
	for i := range tables[:min(len(tables), mostLogged)] {
		t := &tables[i]
		fields := logrus.Fields{"stream": t.table, "rows": t.rows, "rate": fmt.Sprintf("%.0f rows/s", t.rate())}
		if t.estimated >= 0 {
			fields["estimated"] = int64(t.estimated)
		}
		if eta := t.eta(); eta >= 0 {
			fields["eta"] = eta.Round(time.Second).String()
		}
		if t.waits != "" {
			fields["waits"] = t.waits
		}
		logrus.WithFields(fields).Info("backfill progress")
	}
	if more := len(tables) - mostLogged; more > 0 {
		logrus.WithField("tables", more).Info("more tables are being backfilled")
	}
}

// byteCount spells a number of bytes for a person.
func byteCount(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for ; value >= 1<<10 && unit < len(units)-1; unit++ {
		value /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
