// capture_refusals.go owns what becomes of a binding one of whose changes, or settled rows, cannot be told: a value that has no document,
// a row that must be read again and cannot be, a key whose order nobody knows.
// Invariant: what fails for one table ends neither the stream nor the changes of others, and nothing of that table is passed over
// without a word: it is captured anew, or read without what failed.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"
)

const (
	// lookupPatience is how long the stream stands still for a row that cannot be read again for a reason that may pass, such as
	// a lock of another session's. Then its table is captured anew, so that the others go on.
	lookupPatience = 20 * time.Second
	// firstAnew is how long a table that is captured anew for a change rests before its rows are read; each time more doubles
	// that, up to longestAnew: all of its rows are read, and captured once more.
	firstAnew   = time.Minute
	longestAnew = 2 * time.Hour
)

// anewAfter is how long a table rests that is captured anew for the nth time.
func anewAfter(n int) time.Duration {
	if n > 8 {
		return hurried(longestAnew)
	}
	return hurried(min(firstAnew<<max(n-1, 0), longestAnew))
}

// patienceWith is how long the stream stands still for a row of the binding. Where changes are left out for want of it, that is so
// once: nothing ends it.
func (c *capture) patienceWith(b *binding) time.Duration {
	if b.refusals > 0 && c.onlyStreams(b) {
		return 0
	}
	return hurried(lookupPatience)
}

// onlyStreams reports whether no rows of the binding's table are read but by a change.
func (c *capture) onlyStreams(b *binding) bool {
	return b.resource.mode == modeOnlyChanges || c.settings.skipsBackfill(b.name())
}

// isTables reports whether an error that was met with one table's rows is that table's: not the link's, the output's or the end's.
func (c *capture) isTables(err error) bool {
	if _, ok := errors.AsType[*userError](err); ok || c.ctx.Err() != nil || c.out.err != nil {
		return false
	}
	return !linkFailed(err) && (sqlState(err) != "" || !pgconn.SafeToRetry(err))
}

// mayPass tells errors of a query that may be gone in a moment: locks, timeouts, deadlocks, a standby's replay, and what the server
// lacks room for.
func mayPass(err error) bool {
	code := sqlState(err)
	passing := []string{codeLockTaken, codeCanceled, codeSerialization, codeDeadlock}
	return strings.HasPrefix(code, codesResources) && code != codeTooManyConnections || slices.Contains(passing, code)
}

// changeRefused decides what becomes of a binding a change of which cannot be applied; ch is nil for what a commit brings. It
// returns the error if it is not the table's. What was emitted of the transaction stays.
func (c *capture) changeRefused(e *relationEntry, ch *change, err error) error {
	b := e.binding
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case !c.isTables(err):
		return err
	case b.phase == phaseMissing: // parked meanwhile
		return nil
	}
	what := "a row that its commit leaves"
	if ch != nil {
		what = map[byte]string{'I': "an insert", 'U': "an update", 'D': "a delete"}[ch.op]
		t := ch.new
		if ch.op == 'D' {
			t = ch.old
		}
		if e.plan.key != nil && len(t) == len(e.plan.columns) {
			what += " of the row " + e.plan.describeKeyOf(t)
		}
	}
	reason := fmt.Sprintf("%s in transaction %d cannot be told: %s", what, c.changes.tx.begin.xid, withCause(err))
	c.ledger.owe()
	switch {
	case c.onlyStreams(b):
		b.refuse()
		c.status("A change of %s is left out, and no backfill of it brings the row: %s. %s", b.name(), reason, c.refusalRemedy(b, err))
		return nil
	case b.phase == phasePending: // its rows are still to be read, all of them
		logrus.WithField("table", b.name().String()).Warn("a change is passed over until the rows are read: " + reason)
		return nil
	}
	remedy := c.refusalRemedy(b, err)
	c.rewind(b)
	b.refuse()
	b.tryFirst()
	pause := anewAfter(b.refusals)
	b.scan.rest(reason, pause)
	c.status("%s is captured anew: %s. %s Its rows are read again in %s; other tables go on. %s", b.name(), reason, remedy,
		pause.Round(time.Second), c.remains(b))
	return nil
}

// withCause is an error's text, the server's words in it with their DETAIL and HINT.
func withCause(err error) string { return strings.TrimSuffix(explain(err), ".") }

// refusalRemedy is what may be done about rows that cannot be told.
func (c *capture) refusalRemedy(b *binding, err error) string {
	if sqlState(err) == codeLockTaken {
		return "See pg_stat_activity for the session that holds the lock, and end its transaction."
	}
	switch code := sqlState(err); {
	case code == codeCanceled && len(b.terms) > 0:
		return fmt.Sprintf("The row did not come within the statement timeout of %s: create an index on the key (%s), or raise "+
			"`advanced.statement_timeout`.", c.settings.statementTimeout, joinTerms(b.terms))
	case code != "" && b.table != nil:
		return c.remedyOf(b, err)
	}
	return c.valueRemedy()
}

// chunkRefused decides what becomes of a chunk that is settled and cannot be written; good is how many of its rows precede the one
// that fails. It returns the error if it is not the table's. Rows that were written come once more, once.
func (c *capture) chunkRefused(ck *chunk, good int, err error) error {
	if !c.isTables(err) {
		return err
	}
	b := ck.binding
	ck.spoil(err.Error())
	c.readAgain(ck)
	b.tryFirst()
	if good > 0 && good < ck.limit {
		b.scan.ask(good) // the chunk behind that one begins with the row
		return nil
	}
	return c.readFailed(b, err)
}

// keyUnordered has no change of a binding wait any more for the chunk that reads its row, as nobody can tell the order of its keys.
func (c *capture) keyUnordered(b *binding, err error) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if !c.isTables(err) {
		return err
	}
	c.status("The order of the keys of %s cannot be told: %s. From here on its changes do not wait for the backfill: rows that change "+
		"meanwhile may come twice, as in the mode Normal", b.name(), withCause(err))
	b.passUnordered()
	c.ledger.yieldsOtherwise(b)
	return nil
}
