// progress.go owns the facts about a running capture that its operator is told: how far it is behind, what the slot
// retains, how the backfills get on, and what holds them up. The capture goroutine notes what it does; the watcher, a
// goroutine of its own, looks at that and at the server from outside, so that it can speak when the capture is stuck.
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
	// observeInterval is how often the server is asked about its position and our slot.
	observeInterval = 30 * time.Second
	// observeTimeout bounds that question.
	observeTimeout = 10 * time.Second
	// stallRepeat is how often a stall that lasts is told again, with the numbers of then.
	stallRepeat = 5 * time.Minute
	// lagNotice is how far behind a capture may be before its status says so.
	lagNotice = 10 * time.Minute
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
	fence     atomic.Int64  // since when a fence is being streamed to, Unix nanoseconds; 0 without one
	reading   atomic.Int64  // since when the stream waits for chunks to be read, Unix nanoseconds; 0 when it does not

	mu        sync.Mutex
	backfills []backfillProgress
	phases    [phaseMissing + 1]int // bindings in each phase
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

	told     map[string]time.Time // when each kind of stall was told
	loggedAt time.Time
	logged   int64 // documents by then
}

func newWatcher(c *capture) *watcher {
	return &watcher{db: c.db, out: c.out, diag: c.diag, progress: &c.progress, told: make(map[string]time.Time)}
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	started := time.Now()
	for observeAt := started.Add(5 * time.Second); ; {
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

const sqlObserve = `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, %s`

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
		spilled = `coalesce((SELECT spill_bytes FROM pg_stat_replication_slots WHERE slot_name = $1), 0)::bigint`
	} else {
		spilled += ", $1::text"
	}
	err := w.db.with(ctx, func(conn *pgx.Conn) (err error) {
		if o.slot, err = readSlot(ctx, conn, w.db.settings.slot); err != nil {
			return err
		}
		asked := time.Now()
		var clock int64
		targets := []any{&clock, &o.spilled}
		if w.db.version < 140000 {
			targets = append(targets, new(string))
		}
		err = conn.QueryRow(ctx, fmt.Sprintf(sqlObserve, spilled), w.db.settings.slot).Scan(targets...)
		o.at = time.Now()
		o.skew = time.UnixMicro(clock).Sub(asked.Add(o.at.Sub(asked) / 2))
		return err
	})
	if err != nil {
		return nil, err
	}
	w.measure(o)
	w.last = o
	return o, nil
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

// judge tells the stalls that have lasted too long, and when the last one is over.
func (w *watcher) judge(now time.Time, seen *observation) {
	stalls := make(map[string]string)
	if began := w.out.blockedSince.Load(); began != 0 {
		if blocked := now.Sub(time.Unix(0, began)); blocked >= stallLimit {
			stalls["sink"] = fmt.Sprintf("The runtime has not read our output for %s: the capture waits for it, and the connection "+
				"to the server is kept", blocked.Round(time.Second))
		}
	} else if began := w.progress.began.Load(); began != 0 && now.Sub(time.Unix(0, began)) >= stallLimit {
		stalls["transaction"] = fmt.Sprintf("Streaming one large transaction (%d) for %s: %d changes so far; checkpoints follow "+
			"when it ends", w.progress.xid.Load(), now.Sub(time.Unix(0, began)).Round(time.Second), w.progress.inside.Load())
	} else if since := w.progress.fence.Load(); since != 0 && now.Sub(time.Unix(0, since)) >= stallLimit {
		what := "a watermark"
		if w.db.settings.readOnly { // as it must be on a standby
			what = "its fence"
		}
		text := fmt.Sprintf("The backfill has waited %s for %s in the stream", now.Sub(time.Unix(0, since)).Round(time.Second), what)
		if last := w.lastObservation(); last != nil {
			text += fmt.Sprintf(": %s of WAL are still to be decoded", byteCount(last.behind))
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
	} else {
		for _, kind := range []string{"slot", "lag"} { // as long as nobody has looked again
			if _, told := w.told[kind]; told {
				stalls[kind] = ""
			}
		}
	}
	for _, kind := range []string{"sink", "transaction", "fence", "reading", "slot", "lag"} {
		text, stalled := stalls[kind]
		at, told := w.told[kind]
		switch {
		case !stalled && told:
			delete(w.told, kind)
			if len(w.told) == 0 {
				w.diag.recovered.Store(true)
			}
		case stalled && text != "" && now.Sub(at) >= stallRepeat:
			w.told[kind] = now
			w.diag.say(text)
		}
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
		"(max_slot_wal_keep_size)", s.name, byteCount(o.retained), byteCount(max(0, s.safeWAL)))
	if o.growth > 0 {
		text += fmt.Sprintf(", at the rate of now in %s", time.Duration(float64(max(0, s.safeWAL))/o.growth*1e9).Round(time.Second))
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
