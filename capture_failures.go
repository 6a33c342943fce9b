// capture_failures.go owns what becomes of a binding whose rows could not be read: another try, the catalog looked at again, the binding
// parked, or its backfill suspended, which keeps its place and tries on, ever less often.
// Invariant: a failure of one table's chunk neither ends the capture nor holds up other tables; only what shows that the table
// cannot be read as it is, and will not be by itself, parks its binding.

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

const (
	// maxFailures is how often in a row the chunks of a binding may fail before its backfill is said to be suspended.
	maxFailures = 5
	// rightsInterval is how often it is looked whether our role may read partitions by themselves that are read by way of their root.
	rightsInterval = 10 * time.Second
)

// rowError is a row that has no document.
type rowError struct {
	key   string
	cause error
}

func (e *rowError) Error() string { return "row " + e.key + ": " + e.cause.Error() }
func (e *rowError) Unwrap() error { return e.cause }

// chunkFailed decides what an unreadable chunk means.
func (c *capture) chunkFailed(ck *chunk) error {
	b, err := ck.binding, ck.err
	switch code := sqlState(err); {
	case errors.Is(err, errWide):
		b.readAlone()
		return nil
	case errors.Is(err, errTied) && b.scan.failures <= 2*maxFailures:
		b.scan.retry(4 * max(b.scan.limit, 1))
		return nil
	case code == codeCanceled && b.scan.failures == 0 && !b.byCTID() && !b.withVerdict && b.filterSQL() != "":
		// The filter may match so rarely that no timeout suffices for one row of it.
		b.scanWithVerdict()
		c.status("A backfill query of %s exceeded the statement timeout: rows that its filter leaves out are scanned, too, from now on",
			b.name())
		return nil
	case code == codeCanceled && b.scan.failures < 3:
		b.scan.retry(b.scan.limit / 8)
		c.status("A backfill query of %s exceeded the statement timeout; trying a smaller chunk", b.name())
		return nil
	case code == codeSerialization && b.scan.failures < maxFailures:
		b.scan.retry(b.scan.limit / 8)
		c.status("A backfill query of %s was in the way of the standby's replay (%s); trying a smaller chunk. To give queries "+
			"more time, set hot_standby_feedback = on or raise max_standby_streaming_delay, on the standby", b.name(), serverReason(err))
		return nil
	}
	return c.readFailed(b, err)
}

// readFailed decides what it means that rows of a binding's table, or what a scan needs to know of it, could not be read.
func (c *capture) readFailed(b *binding, err error) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if sqlState(err) == codeLockTaken {
		b.scan.failLocked()
		c.status("Backfill of %s waits for a lock that another session holds on it", b.name())
		return nil
	}
	if tokenExpired(err) {
		return err
	}
	b.scan.fail()
	if linkFailed(err) {
		if b.scan.failures > maxFailures {
			return fmt.Errorf("backfill %s: chunk after %s: %w", b.name(), describeKey(b.scan.scanned), err)
		}
		logrus.WithError(err).WithField("table", b.name().String()).Warn("a backfill query failed and is tried again")
		return nil
	}
	if saw, ok := errors.AsType[*sightError](err); ok {
		c.sightChanged(b, saw.sight)
		return nil
	}
	if errors.Is(err, errLeafHidden) {
		return c.readByRoot(b, err)
	}
	switch sqlState(err) {
	case codePrivilege:
		if b.byCTID() && b.table.kind == 'p' && !b.isIndirect() {
			return c.readByRoot(b, err)
		}
	case codeOutOfMemory: // most often of the table of locks
		if c.readByLeaf(b, err) {
			return nil
		}
	}
	switch moved, err := c.catalogMoved(b, err); {
	case err != nil || !b.scanning():
		return err
	case moved: // no fault of the chunk's
		b.scan.excuse(tickInterval)
		return nil
	}
	if sqlState(err) != "" {
		if reason, rerr := c.whyUnreadable(b, err); reason != "" || rerr != nil {
			if rerr == nil {
				c.parkBinding(b, reason)
				c.ledger.owe()
			}
			return rerr
		}
		if b.scan.failures > 1 && c.isPositionForeign(b, err) {
			c.status("The stored backfill position of %s cannot be used (%v): its backfill starts again", b.name(), err)
			c.rewind(b)
			return nil
		}
	}
	c.suspend(b, err)
	return nil
}

// linkFailed reports whether an error says nothing of a table, but of the connection that it was met on.
func linkFailed(err error) bool {
	code := sqlState(err)
	return code == "" && transient(err) || tokenExpired(err) || strings.HasPrefix(code, codesConnection) ||
		strings.HasPrefix(code, codesIntervention) || strings.HasPrefix(code, codesTimeout) || code == codeTooManyConnections
}

// catalogMoved reads the binding's table again where the error may come from a change of it, and reports whether it changed.
func (c *capture) catalogMoved(b *binding, err error) (bool, error) {
	if errors.Is(err, errTied) {
		return false, nil
	}
	before, partitions, generation := b.table.shape, b.table.partitionsMark(), b.scan.generation
	if err := c.reload(b); err != nil {
		return false, err
	}
	if !b.scanning() {
		return true, nil
	}
	if b.byCTID() && errors.Is(err, errTableChanged) { // a rewritten relation is scanned from its start
		b.scan.rewritten()
	}
	return b.table.shape != before || b.table.partitionsMark() != partitions || b.scan.generation != generation, nil
}

// readByRoot has partitions that are scanned by ctid read by way of their root, whose rights and policies count then.
func (c *capture) readByRoot(b *binding, err error) error {
	b.scan.excuse(0)
	if errors.Is(err, errLeafHidden) {
		if b.table.sight != sightAll {
			c.sightChanged(b, b.table.sight)
			return nil
		}
		b.readIndirectly()
		c.status("Row-level security is active on a partition of %s: it is read by way of the table, which is slow with many "+
			"partitions; run ALTER ROLE %s BYPASSRLS to have it read by itself", b.name(), c.role())
		return nil
	}
	b.readIndirectly()
	c.status("The role may not read a partition of %s (%v): it is read by way of the table, which is slow with many "+
		"partitions; run GRANT SELECT on the partition, and GRANT USAGE on its schema, to %s", b.name(), err, c.role())
	return nil
}

// sqlReadableLeaves tells whether our role may read each of the relations $1 by itself, and sees all rows of it.
const sqlReadableLeaves = `
SELECT coalesce(bool_and(has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'SELECT') AND NOT row_security_active(oid)), false)
  FROM pg_class WHERE oid = ANY ($1::oid[])`

// readByThemselves ends the reading by way of the root of those partitions that our role may read by themselves now.
func (c *capture) readByThemselves() {
	for _, b := range c.backlog.reading {
		if !b.isIndirect() || time.Since(b.indirect) < hurried(rightsInterval) {
			continue
		}
		b.readIndirectly()
		var oids []uint32
		for _, l := range b.meta.Leaves {
			if !l.Done {
				oids = append(oids, l.OID)
			}
		}
		var may bool
		err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(c.ctx, sqlReadableLeaves, oidArray(oids)).Scan(&may)
		})
		switch {
		case err != nil:
			logrus.WithError(err).WithField("table", b.name().String()).Warn("cannot look at the rights on its partitions")
		case may:
			b.readDirectly()
			logrus.WithField("table", b.name().String()).Info("its partitions can be read by themselves now")
		}
	}
}

// role is the role that the server's rights are about, as SQL.
func (c *capture) role() string { return quoteIdent(c.settings.user) }

// sightChanged takes note that chunks of a binding would see other rows now than those before: all, and then the backfill
// starts again; or fewer, or others, and then the binding is parked until our role sees all.
func (c *capture) sightChanged(b *binding, sight string) {
	c.ledger.owe()
	if sight == sightAll {
		fresh := *b.table // chunks in flight have the other
		fresh.sight = sight
		b.table = &fresh
		c.status("Row-level security hides no rows of %s any more: its backfill starts again", b.name())
		c.rewind(b)
		return
	}
	c.parkHidden(b)
}

// parkHidden parks a binding whose backfill row-level security has come to hide rows from. It comes back when our role sees all.
func (c *capture) parkHidden(b *binding) {
	c.parkBinding(b, fmt.Sprintf("row-level security came, or changed, under its backfill and hides rows from the role %s. To have "+
		"it captured anew with all its rows, run: ALTER ROLE %s BYPASSRLS; or: ALTER TABLE %s DISABLE ROW LEVEL SECURITY; To have "+
		"only the rows that the role may see, raise the `backfill` counter of the binding", c.role(), c.role(), quoteTable(b.name())))
	b.meta.Hidden = true
}

// sqlRights tells what our role may do with the relation $1: whether row-level security is active, whether it may use its schema,
// read the table, and which columns it may not read.
const sqlRights = `
SELECT row_security_active(c.oid), has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
           AND NOT a.attisdropped AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT'))
  FROM pg_class c WHERE c.oid = $1::oid`

// whyUnreadable tells why our role cannot read the binding's table as it is, with the SQL that lets it, or "": then the table can
// be read, and the fault is another one.
func (c *capture) whyUnreadable(b *binding, fault error) (reason string, err error) {
	err = c.db.with(c.ctx, func(conn *pgx.Conn) error {
		var hides, schema, whole bool
		var lacking []string
		switch err := conn.QueryRow(c.ctx, sqlRights, b.table.oid).Scan(&hides, &schema, &whole, &lacking); {
		case errors.Is(err, pgx.ErrNoRows):
			return nil
		case err != nil:
			return err
		}
		var wanted []string
		for _, column := range b.plan.columns {
			for _, l := range lacking {
				if column.name == l {
					wanted = append(wanted, l)
				}
			}
		}
		table := quoteTable(b.name())
		switch {
		case !schema:
			reason = fmt.Sprintf("%s; run GRANT USAGE ON SCHEMA %s TO %s", serverReason(fault), quoteIdent(b.name().schema), c.role())
		case !whole && len(wanted) == len(b.plan.columns):
			reason = fmt.Sprintf("%s; run GRANT SELECT ON %s TO %s", serverReason(fault), table, c.role())
		case !whole && len(wanted) > 0:
			reason = fmt.Sprintf("%s; run GRANT SELECT (%s) ON %s TO %s", serverReason(fault), quoteIdents(wanted), table, c.role())
		case hides:
			broken, err := probeSight(c.ctx, conn, b.from())
			if err != nil {
				return err
			}
			if broken != nil {
				reason = fmt.Sprintf("row-level security is active on it, and the policies fail for the role %s: %s; run ALTER ROLE %s "+
					"BYPASSRLS", c.role(), serverReason(broken), c.role())
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("look why %s cannot be read: %w", b.name(), err)
	}
	return reason, nil
}

// errParked is what was to be read of a binding that was parked for it.
var errParked = errors.New("the binding was parked")

// parkUnreadable parks a binding whose table our role cannot read as it is, and reports whether that was so.
func (c *capture) parkUnreadable(b *binding, fault error) bool {
	if b.table == nil || sqlState(fault) == "" {
		return false
	}
	reason, err := c.whyUnreadable(b, fault)
	if err != nil || reason == "" {
		return false
	}
	c.parkBinding(b, reason)
	c.ledger.owe()
	return true
}

// rowHidden decides about a row that row-level security may keep from us, and whose values no tuple at hand has: where it has
// come since the table was captured, the binding is parked; else the document lacks the values, as it is told.
func (c *capture) rowHidden(b *binding, key []value, lacking tuple) (tuple, error) {
	if b.meta.Sight == "" || b.meta.Sight == sightAll {
		c.ledger.owe()
		c.parkHidden(b)
		return nil, errParked
	}
	c.status("Row-level security hides a row of %s (%s) whose large values must be read again: its document lacks them. To see all, "+
		"run ALTER ROLE %s BYPASSRLS", b.name(), describeKey(key), c.role())
	return cloneTuple(lacking), nil
}

// sqlLockRoom is how many locks the server has room for, and how many a query of all partitions takes beside those on them.
const sqlLockRoom = `
SELECT current_setting('max_locks_per_transaction')::bigint
       * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint),
       (SELECT count(*) FROM pg_index WHERE indrelid = ANY ($1::oid[]))`

// chooseScan decides how the rows of a table that has a key are read: by that, unless the locks of all of its partitions at once
// would take more than half of the room that the server has for the locks of everybody.
func (c *capture) chooseScan(b *binding) error {
	t := b.table
	if t.kind != 'p' || b.byCTID() || b.resource.mode == modeOnlyChanges || c.settings.skipsBackfill(b.name()) {
		return nil
	}
	if b.lockPoor {
		b.meta.ByLeaf = true
		return nil
	}
	if len(t.partitions) < 50 {
		return nil
	}
	oids := []uint32{t.oid}
	for _, p := range t.partitions {
		oids = append(oids, p.oid)
	}
	var room, indexes int64
	err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(c.ctx, sqlLockRoom, oidArray(oids)).Scan(&room, &indexes)
	})
	if err != nil {
		return fmt.Errorf("count the locks that reading %s takes: %w", b.name(), err)
	}
	if locks := int64(len(oids)) + indexes; locks > room/2 {
		b.meta.ByLeaf = true
		c.status("Reading %s by its key takes %d locks at once, and the server has room for %d in all: it is read partition by "+
			"partition. %s", b.name(), locks, room, byLeafCosts)
	}
	return nil
}

const byLeafCosts = "Rows that change meanwhile may come twice, as in the mode Normal. To have it read by its key, raise " +
	"`max_locks_per_transaction` on the server, restart it, and trigger a backfill."

// readByLeaf has a partitioned table that was read by its key read partition by partition, where the server has no room for
// the locks of all, and reports whether it does so.
func (c *capture) readByLeaf(b *binding, err error) bool {
	if b.table.kind != 'p' || b.byCTID() {
		return false
	}
	b.readByLeaf()
	c.status("The server has no room for the locks that reading %s by its key takes (%s): its backfill starts again, partition by "+
		"partition. %s", b.name(), serverReason(err), byLeafCosts)
	c.rewind(b)
	c.ledger.owe()
	return true
}

// isPositionForeign reports whether the server cannot read the stored position as values of the key's types.
func (c *capture) isPositionForeign(b *binding, fault error) bool {
	unreadable := []string{codeTextForm, codeDatetimeForm, codeDatetimeRange, codeNumericRange}
	if b.scan.scanned == nil || b.byCTID() || !slices.Contains(unreadable, sqlState(fault)) {
		return false
	}
	var q scanQuery
	terms := b.boundTerms(&q, b.scan.scanned)
	var broken error
	err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
		broken = conn.PgConn().ExecParams(c.ctx, "SELECT "+joinTerms(terms), q.params, nil, nil, nil).Read().Err
		return nil
	})
	return err == nil && sqlState(broken) == sqlState(fault)
}

// suspend takes note that a binding's rows cannot be read now, for a reason that may pass. Its place is kept; it is tried again
// when it has rested, and other tables go on.
func (c *capture) suspend(b *binding, err error) {
	described := fmt.Sprintf("chunk after %s: %s", describeKey(b.scan.scanned), serverReason(err))
	if _, lasting := errors.AsType[*rowError](err); !lasting && b.scan.failures <= maxFailures {
		logrus.WithField("table", b.name().String()).Warn("a backfill query failed and is tried again: " + described)
		return
	}
	b.scan.suspend(described)
	remedy := c.remedyOf(b, err)
	c.status("The backfill of %s is suspended: %s. %s It is tried again in %s, from where it is; other tables go on", b.name(),
		described, remedy, time.Until(b.scan.notBefore).Round(time.Second))
}

// resumed takes note that a chunk of the binding was read.
func (c *capture) resumed(b *binding) {
	if b.scan.suspended != "" {
		c.status("The backfill of %s goes on", b.name())
	}
	b.scan.succeed()
}

// remedyOf is what may be done about a suspended backfill.
func (c *capture) remedyOf(b *binding, err error) string {
	if _, ok := errors.AsType[*rowError](err); ok {
		return c.valueRemedy()
	}
	code := sqlState(err)
	switch {
	case code == codeCanceled:
		key := "ctid"
		if !b.byCTID() {
			key = joinTerms(b.terms)
		}
		return fmt.Sprintf("Not one row came within the statement timeout of %s: create an index on the key (%s), or raise "+
			"`advanced.statement_timeout`.", c.settings.statementTimeout, key)
	case code == codeOutOfMemory:
		return "Raise `max_locks_per_transaction` on the server and restart it, or give it more memory."
	case b.table.sight != sightAll && b.table.sight != "":
		return fmt.Sprintf("Row-level security is active on it, whose policies may be what fails: ALTER ROLE %s BYPASSRLS.", c.role())
	case b.resource.filter != "" && (strings.HasPrefix(code, codesStatement) || strings.HasPrefix(code, codesData)):
		return "Check the binding's `additional_backfill_filter`, which is part of the query."
	}
	if _, advice := classify(err); advice != "" {
		return advised(advice, c.settings)
	}
	return "See the server's log."
}

// valueRemedy is what may be done about a value that has no document.
func (c *capture) valueRemedy() string {
	return fmt.Sprintf("Correct the value in the table, or leave its column out of the publication %s, with a column list of the table.",
		quoteIdent(c.settings.publication))
}

// onlySuspended reports whether no backfill goes on but those that are suspended.
func (c *capture) onlySuspended() bool {
	running := func(b *binding) bool { return b.scan.suspended == "" }
	return !slices.ContainsFunc(c.backlog.reading, running) && !slices.ContainsFunc(c.backlog.pending, running)
}

// tellSuspended says which backfills a capture that ends leaves behind.
func (c *capture) tellSuspended() {
	for _, b := range slices.Concat(c.backlog.pending, c.backlog.reading) {
		c.status("The capture ends with the backfill of %s suspended: %s. Its place is kept", b.name(), b.scan.suspended)
	}
}
