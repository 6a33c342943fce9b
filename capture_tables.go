// capture_tables.go owns how a running capture learns of its tables: their shapes from the stream and the catalog, their sourced schemas, and
// what happens when one vanishes or comes back.
// Invariant: what the catalog says of a table now and what follows from that go together (refresh): a table that is another one is
// captured anew, one that is gone is parked, and chunks of a table as it was count no more.

package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// describe makes the plan of a relation the stream has just described, and takes note of what became of its table.
func (c *capture) describe(e *relationEntry) error {
	b := e.binding
	if b.plan != nil && b.plan.sameShape(e.relation.columns) && (b.meta.OID == 0 || b.meta.OID == e.relation.oid) &&
		b.phase != phaseBackfill {
		e.plan = b.plan
		return c.checkIdentity(e)
	}
	if b.phase == phaseMissing && !c.refreshes.readsParked(b) {
		return nil
	}
	// The stream may be far behind the catalog or, for a moment, ahead of what we read of it.
	began := time.Now()
	if err := c.reload(b); err != nil {
		return err
	}
	if b.phase == phaseMissing {
		c.refreshes.parkedTook(time.Since(began))
		return nil
	}
	if b.plan.sameShape(e.relation.columns) {
		e.plan = b.plan
		return c.checkIdentity(e)
	}
	var oids []uint32
	for _, column := range e.relation.columns {
		oids = append(oids, column.typeOID)
	}
	if err := c.loadTypes(oids); err != nil {
		return err
	}
	e.plan = newPlan(e.relation.columns, b.planOptions(c.types, c.settings))
	return c.checkIdentity(e)
}

// checkIdentity parks a binding when old images do not carry its key at this place of the stream: a key move would pass
// unseen. Without a usable identity no column is marked, and the server itself refuses updates and deletes. What the stream says of
// a partitioned table is the root's identity, by which nothing is logged: those of its partitions are in the catalog (judgeKeys).
func (c *capture) checkIdentity(e *relationEntry) error {
	if e.binding.lenient || e.binding.table.kind == 'p' || e.relation.identity == 'f' || !slices.ContainsFunc(e.relation.columns, func(k relationColumn) bool { return k.key }) {
		return nil
	}
	for _, i := range e.plan.key {
		if !e.relation.columns[i].key {
			return c.parkForNow(e.binding, fmt.Sprintf("its replica identity lacks key column %q; run ALTER TABLE %s REPLICA IDENTITY FULL",
				e.relation.columns[i].name, quoteTable(e.binding.name())))
		}
	}
	return nil
}

// judgeKeys parks those partitioned tables some partition of which is logged without the key.
func (c *capture) judgeKeys(bindings []*binding) error {
	var partitioned []*binding
	var oids []uint32
	for _, b := range bindings {
		if b.phase != phaseMissing && b.table != nil && b.table.kind == 'p' && !c.settings.flags.skipTablePrerequisites &&
			!c.settings.flags.skipPrerequisites {
			partitioned, oids = append(partitioned, b), append(oids, b.table.oid)
		}
	}
	if len(partitioned) == 0 {
		return nil
	}
	held, err := c.loadIdentities(oids)
	if err != nil {
		return err
	}
	for _, b := range partitioned {
		switch lost, _ := keyFault(b.name(), held[b.table.oid], b.identified()); {
		case lost == "":
		case b.lenient:
			b.noteUntold(true)
		default:
			c.parkBinding(b, lost)
			c.ledger.owe()
		}
	}
	return nil
}

// identified are the columns that old images of the binding's rows must carry.
func (b *binding) identified() []string {
	if b.keyless() {
		return b.collectionKey
	}
	return b.scanColumns()
}

// noteUntold keeps whether a captured table's replica identity lacks the key. The stream may be behind: what was so holds for the
// session.
func (b *binding) noteUntold(untold bool) {
	if b.untold = b.untold || untold; b.meta.Untold != untold {
		b.meta.Untold = untold
		b.mark()
	}
}

// identityRemedy is what has the changes of a binding's table carry its key: statements for the relations that are logged without it
// now, which of a partitioned table are its partitions.
func (c *capture) identityRemedy(b *binding) (string, error) {
	var lacking []*replicaIdentity
	if c.db.pool != nil && b.table != nil {
		held, err := c.loadIdentities([]uint32{b.table.oid})
		if err != nil {
			return "", err
		}
		for i := range held[b.table.oid] {
			if r := &held[b.table.oid][i]; r.lacks(b.identified()) {
				lacking = append(lacking, r)
			}
		}
	}
	if len(lacking) == 0 { // it has been put right since
		return "ALTER TABLE " + quoteTable(b.name()) + " REPLICA IDENTITY FULL;", nil
	}
	return remedies(lacking, b.identified()), nil
}

func (c *capture) loadIdentities(oids []uint32) (held map[uint32][]replicaIdentity, err error) {
	err = c.db.with(c.ctx, func(conn *pgx.Conn) (err error) {
		held, err = loadIdentities(c.ctx, conn, oids)
		return err
	})
	return held, err
}

// parkForNow parks a binding for what the stream has shown of its table. The stream may be behind: where that has been put
// right since, the table is captured anew at once, with nothing to wait for.
func (c *capture) parkForNow(b *binding, reason string) error {
	c.parkBinding(b, reason)
	c.ledger.owe()
	return c.reload(b)
}

func (c *capture) loadTypes(oids []uint32) error {
	var unknown []uint32
	for _, oid := range oids {
		unknown = c.types.unknown(unknown, oid)
	}
	if len(unknown) == 0 {
		return nil
	}
	return c.db.with(c.ctx, func(conn *pgx.Conn) error { return loadTypes(c.ctx, conn, c.types, unknown) })
}

// loadTables reads tables from the catalog.
func (c *capture) loadTables(names []tableName) (loaded map[tableName]*table, err error) {
	err = c.db.with(c.ctx, func(conn *pgx.Conn) (err error) {
		loaded, err = loadTables(c.ctx, conn, c.settings, names)
		return err
	})
	return loaded, err
}

// reload reads a binding's table from the catalog again.
// Inside a transaction it waits a moment for that one, which may have changed the table, to be visible.
func (c *capture) reload(b *binding) error {
	if err := c.awaitVisible(); err != nil {
		return err
	}
	loaded, err := c.catalog([]tableName{b.name()})
	if err != nil {
		return fmt.Errorf("read the catalog about %s: %w", b.name(), err)
	}
	unfit, _, err := c.unfitToReturn(loaded)
	if err != nil {
		return err
	}
	before := b.phase
	if err := c.refresh(b, loaded[b.name()], unfit[b.name()] == ""); err != nil {
		return err
	}
	if b.phase == phasePending && before != phasePending {
		return c.noteFitness(b)
	}
	return nil
}

// visibleWait is how long a catalog read waits for the transaction being streamed: it is visible a moment after it can be
// streamed, but under synchronous replication perhaps not for hours, and the stream must go on.
const visibleWait = 250 * time.Millisecond

// awaitVisible waits a moment until queries see the transaction being streamed. If they do not yet, the catalog is looked
// at again soon.
func (c *capture) awaitVisible() error {
	if !c.changes.tx.open || c.db.pool == nil {
		return nil
	}
	started := time.Now()
	for pause := time.Millisecond; ; pause *= 2 {
		var text string
		err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(c.ctx, `SELECT txid_current_snapshot()::text`).Scan(&text)
		})
		if err != nil {
			return fmt.Errorf("look whether transaction %d is visible: %w", c.changes.tx.begin.xid, err)
		}
		seen, err := parseSnapshot(text)
		if err != nil || seen.sees(c.changes.tx.begin.xid) {
			return err
		}
		if time.Since(started) >= visibleWait {
			c.refreshes.notVisible()
			return nil
		}
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// refresh takes note of what the catalog says of a binding's table now; nil is a missing one. fit tells that the table meets
// what a capture of it requires; a parked binding stays so until it does.
func (c *capture) refresh(b *binding, t *table, fit bool) error {
	if t == nil {
		if b.phase != phaseMissing {
			c.parkBinding(b, "the table is gone")
			c.ledger.owe()
		}
		return nil
	}
	if b.phase == phaseMissing && (!fit || b.meta.Hidden && t.sight != sightAll) {
		return nil
	}
	c.tellChildren(b, t)
	if b.phase == phaseActive && b.meta.Sight != "" && b.meta.Sight != sightAll && t.sight == sightAll {
		c.status("Row-level security hides no rows of %s any more. Those that it hid when the table was backfilled were not captured: "+
			"trigger a backfill of it", b.name())
		b.meta.Sight = sightAll
		b.mark()
	}
	if b.scanning() && b.meta.Sight == "" { // begun by an image that did not look
		b.meta.Sight = t.sight
		b.mark()
	}
	if b.phase == phaseMissing || b.meta.OID != 0 && b.meta.OID != t.oid {
		c.status("%s is there anew: it is backfilled. %s", b.name(), c.remains(b))
		c.rewind(b)
		c.ledger.owe()
	}
	if b.plan != nil && b.table != nil && b.table.oid == t.oid && b.table.sameAs(t) {
		b.table = t
		same, err := c.announceShape(b, b.plan)
		if err != nil {
			return err
		}
		return c.judgePartitions(b, same)
	}
	before := b.plan
	if err := c.loadTypesOf(t); err != nil {
		return fmt.Errorf("read the types of %s: %w", b.name(), err)
	}
	if err := b.prepare(t, c.types, c.settings, c.casts); err != nil {
		c.parkBinding(b, err.Error())
		c.ledger.owe()
		return nil
	}
	if b.phase == phaseBackfill && b.meta.Key != "" && b.meta.Key != b.keySignature() {
		c.status("A key column of %s is another one, or has another type or collation: its backfill starts again", b.name())
		c.rewind(b)
		c.ledger.owe()
	}
	if b.scanning() { // chunks of the table as it was may lack rows of the table as it is
		b.scan.invalidate()
	}
	same, err := c.announceShape(b, before)
	if err != nil {
		return err
	}
	return c.judgePartitions(b, same)
}

// tellChildren says once of each table that inherits from a binding's that its rows are not captured with it.
func (c *capture) tellChildren(b *binding, t *table) {
	first := b.children == nil
	if first {
		b.children = make(map[uint32]bool)
	}
	came := false
	bound := func(name tableName) bool { return c.byName[name] != nil }
	for _, child := range t.children {
		if !b.children[child.oid] && !bound(child.tableName) {
			b.children[child.oid], came = true, true
		}
	}
	switch {
	case !came:
	case first:
		logrus.Warn(t.childrenWarning(bound))
	default:
		c.status("%s", t.childrenWarning(bound))
	}
}

// announceShape says what the stream does not of a table's change: columns that others have taken the place of, rows that
// were rewritten. before is the plan until now, nil at the start of a session. Columns that the stream can tell of are
// announced with the first of their documents, by sourceSchema, unless the change came while no session ran. A table that may
// have been unlogged for some time, as only one can be that the publication does not name itself, is captured anew. The result tells whether the columns are the same.
func (c *capture) announceShape(b *binding, before *plan) (sameColumns bool, err error) {
	if b.table.persistence == 'u' {
		return true, nil // it is parked; what it was before counts when it is logged again
	}
	was := b.meta
	b.noteShape()
	sameColumns = was.Columns == "" || was.Columns == b.meta.Columns
	if was.Columns == b.meta.Columns && was.Filenode == b.meta.Filenode && was.Toast == b.meta.Toast || b.phase == phasePending {
		return sameColumns, nil
	}
	b.mark()
	rewritten := was.Filenode != 0 && b.meta.Filenode != 0 && was.Filenode != b.meta.Filenode
	switch {
	case !sameColumns:
		if before == nil || before.sameShape(b.plan.columns) {
			c.status("%s has other columns than when it was last looked at. Rows already captured are not sent again: trigger a backfill "+
				"if they have new values. If documents no longer fit the collection's schema, re-discover it.", b.name())
		}
	case !mayHide(was.Toast, b.meta.Toast, rewritten), !b.table.isPartition && namedByPublication(was.Sent):
		if rewritten {
			c.status("The rows of %s were rewritten (ALTER TABLE, VACUUM FULL, CLUSTER) or truncated. Rows already captured are not sent "+
				"again: trigger a backfill if they have new values.", b.name())
		}
	case was.Toast != b.meta.Toast:
		c.wasUnlogged(b)
	default:
		b.meta.Filenode = was.Filenode // until it is known
		return true, c.suspect(b)
	}
	return sameColumns, nil
}

// noteShape takes note of the columns and the place of the table as the catalog has them.
func (b *binding) noteShape() {
	h := fnv.New64a()
	for i := range b.table.columns {
		if c := &b.table.columns[i]; b.table.sends(c) {
			fmt.Fprintf(h, "%d %q %d %d;", c.attnum, c.name, c.typeOID, c.typmod)
		}
	}
	b.meta.Columns, b.meta.Filenode, b.meta.Toast = strconv.FormatUint(h.Sum64(), 36), 0, 0
	if b.table.kind == 'r' && len(b.table.leaves) == 1 {
		b.meta.Filenode, b.meta.Toast = b.table.leaves[0].relfilenode, b.table.leaves[0].toast
	}
}

// loadTypesOf reads what a plan and a scan key need to know of the types of a table's columns.
func (c *capture) loadTypesOf(t *table) error {
	var oids []uint32
	for i := range t.columns {
		oids = append(oids, t.columns[i].typeOID)
	}
	if err := c.loadTypes(oids); err != nil {
		return err
	}
	return c.loadCasts(oids)
}

// sqlComparisons tells how types are spelled in casts (with -1, a type that has a length is spelled so that it has none) and
// which operators of theirs ORDER BY stands for: those of the default btree operator class of the type itself, when it has
// one, such as citext's. Other types find theirs in pg_catalog. 403 is the access method btree; strategies 3 and 5 are = and >.
const sqlComparisons = `
SELECT t.oid::bigint, format_type(t.oid, -1), coalesce(eq.name, ''), coalesce(gt.name, '')
  FROM pg_type t
  LEFT JOIN pg_opclass c ON c.opcintype = t.oid AND c.opcmethod = 403 AND c.opcdefault
  LEFT JOIN LATERAL (SELECT quote_ident(n.nspname) || '.' || o.oprname AS name
    FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
   WHERE a.amopfamily = c.opcfamily AND a.amoplefttype = t.oid AND a.amoprighttype = t.oid AND a.amopstrategy = 3
     AND n.nspname <> 'pg_catalog') eq ON true
  LEFT JOIN LATERAL (SELECT quote_ident(n.nspname) || '.' || o.oprname AS name
    FROM pg_amop a JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
   WHERE a.amopfamily = c.opcfamily AND a.amoplefttype = t.oid AND a.amoprighttype = t.oid AND a.amopstrategy = 5
     AND n.nspname <> 'pg_catalog') gt ON true
 WHERE t.oid = ANY ($1::oid[])`

// loadCasts reads how types are compared in SQL.
func (c *capture) loadCasts(oids []uint32) error {
	return loadCasts(c.ctx, c.db, c.types, c.casts, oids)
}

// loadCasts adds to casts how the types are compared in SQL.
func loadCasts(ctx context.Context, db *database, types *typeCatalog, casts map[uint32]comparison, oids []uint32) error {
	var missing []uint32
	for _, oid := range oids {
		oid, _ = types.base(oid, -1)
		if _, ok := casts[oid]; !ok && !slices.Contains(missing, oid) {
			missing = append(missing, oid)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return db.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sqlComparisons, oidArray(missing))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var oid int64
			var how comparison
			var equal, greater string
			if err := rows.Scan(&oid, &how.cast, &equal, &greater); err != nil {
				return err
			}
			how.equal, how.greater = operator(equal, "="), operator(greater, ">")
			casts[uint32(oid)] = how
		}
		return rows.Err()
	})
}

func operator(qualified, plain string) string {
	if qualified == "" {
		return plain
	}
	return "OPERATOR(" + qualified + ")"
}

// sourceSchema emits the schema of a binding's documents if it changed. The documents of the new shape follow it.
// t is what the catalog said of the table when p was made, or later where shape, which is newer, has the columns.
func (c *capture) sourceSchema(b *binding, t *table, p *plan, shape *relation) error {
	same := b.sourced != nil && b.sourced.sameShape(p.columns)
	if b.sourced != nil && !same {
		c.status("%s changed its columns: later documents have the new ones. Rows already captured are not sent again: trigger "+
			"a backfill if they have new values. If documents no longer fit the collection's schema, re-discover it.", b.name())
	}
	b.sourced = p
	if same || !c.settings.flags.emitSourcedSchemas || t == nil {
		return nil
	}
	schema, err := sourcedSchema(t, shape, c.types, b.collectionKey, c.settings)
	if err != nil {
		c.status("The schema of the documents of %s cannot be told: %v", b.name(), err)
		return nil
	}
	return c.out.sourcedSchema(b.index, schema)
}

// refreshDue reads what of the catalog is due. REQUIRES: between transactions.
func (c *capture) refreshDue() error {
	if c.refreshes.allDue() {
		if err := c.rediscover(); err != nil {
			return err
		}
	}
	if c.refreshes.sendingDue() {
		if err := c.refreshSending(); err != nil {
			return err
		}
	}
	if len(c.refreshes.suspects) > 0 {
		c.session.askKeepalive()
		for _, b := range c.refreshes.unexplained(c.ledger.reached()) {
			c.wasUnlogged(b)
		}
	}
	return c.refreshPartitioned()
}

// rediscover reads the catalog about every bound table: tables that came back or went, schemas that changed.
func (c *capture) rediscover() error {
	c.refreshes.readsAll()
	failpoint("rediscover.before")
	read, err := c.readFitness(c.ctx, c.bindings)
	if err != nil {
		return err
	}
	if err := c.refreshAll(c.bindings, read); err != nil {
		return err
	}
	failpoint("rediscover.after")
	logrus.Debug("looked at the captured tables")
	return nil
}

// refreshSending reads the catalog again about the tables of which something is otherwise than at the last look, and about parked ones
// that the stream has described since. REQUIRES: between transactions.
func (c *capture) refreshSending() error {
	c.refreshes.readsSending()
	read, err := c.readFitness(c.ctx, c.bindings)
	if err != nil {
		return err
	}
	changed := c.refreshes.changed(c.bindings, read)
	if len(changed) == 0 {
		return nil
	}
	logrus.WithField("tables", len(changed)).Debug("what is sent of tables has changed")
	return c.refreshAll(changed, read)
}

// refreshPartitioned reads the catalog about the tables whose partitions seem to have changed.
func (c *capture) refreshPartitioned() error {
	bindings := c.refreshes.readsPartitioned()
	for _, b := range bindings {
		if b.phase != phaseActive && b.phase != phaseBackfill {
			continue
		}
		if err := c.reload(b); err != nil {
			return err
		}
	}
	return c.judgeKeys(bindings)
}

// refreshAll reads the catalog about the tables of bindings, and judges what is sent of all tables; before is what was sent of
// them just now. REQUIRES: between transactions.
func (c *capture) refreshAll(bindings []*binding, before map[tableName]fitness) error {
	names := make([]tableName, len(bindings))
	for i, b := range bindings {
		names[i] = b.name()
	}
	loaded, err := c.catalog(names)
	if err != nil {
		return fmt.Errorf("read the catalog about the captured tables: %w", err)
	}
	unfit, checked, err := c.unfitToReturn(loaded)
	if err != nil {
		return err
	}
	now := before
	if checked { // tables may have been added to the publication
		if now, err = c.readFitness(c.ctx, c.bindings); err != nil {
			return err
		}
	}
	for _, b := range bindings {
		if err := c.refresh(b, loaded[b.name()], unfit[b.name()] == ""); err != nil {
			return err
		}
		if b.plan != nil && b.sourced != b.plan {
			if err := c.sourceSchema(b, b.table, b.plan, nil); err != nil {
				return err
			}
			c.ledger.owe()
		}
	}
	c.refreshes.sent(before) // what came behind it is seen by the next look
	c.heedFitness(before, now)
	if err := c.judgeKeys(bindings); err != nil {
		return err
	}
	return nil
}

// heedFitness parks tables of which changes are not sent now, and has those captured anew of which some may not have been sent.
func (c *capture) heedFitness(before, now map[tableName]fitness) {
	unsent, hidden := judgeFitness(c.bindings, before, now, c.settings)
	for _, v := range unsent.list {
		c.parkBindings(v.bindings, v.text)
	}
	for _, v := range hidden.list {
		c.status("%s %s: changes may have been missed, so all rows are backfilled. %s", subject(v.bindings, "was", "were"), v.text,
			c.remains(v.bindings...))
		for _, b := range v.bindings {
			c.rewind(b)
		}
	}
	if len(unsent.list)+len(hidden.list) > 0 {
		c.ledger.owe()
	}
}

// unfitToReturn checks the tables of parked bindings that are there: what keeps them from being captured. checked is set when
// there were any.
func (c *capture) unfitToReturn(loaded map[tableName]*table) (unfit map[tableName]string, checked bool, err error) {
	var wanted []requirement
	for _, b := range c.bindings {
		if b.phase == phaseMissing && loaded[b.name()] != nil {
			wanted = append(wanted, requirement{table: b.name(), key: b.identified()})
		}
	}
	if len(wanted) == 0 {
		return nil, false, nil
	}
	unfit, _, err = openPrerequisites(c.ctx, c.db, wanted, checkRunning)
	if _, told := errors.AsType[*userError](err); told && !transient(err) {
		// A fault of the server's set-up keeps parked tables away, but must not end what goes well.
		c.status("Tables that are not captured cannot come back: %v", err)
		unfit = make(map[tableName]string)
		for _, w := range wanted {
			unfit[w.table] = err.Error()
		}
		return unfit, true, nil
	}
	return unfit, true, err
}
