// stream.go owns the way of a WAL message to a document or a patch: it decodes, finds the binding, and judges each change
// by its key and its binding's phase.
// Invariant (DESIGN I2–I5): a change is emitted if its key is settled, patched if its key lies in the chunk whose opening
// fence has passed, and dropped otherwise, with its transaction remembered until a chunk's snapshot sees it. An update
// that moves a key is a delete of the old key and a create of the new one, each judged by itself.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sirupsen/logrus"
)

// relationEntry is what the stream's Relation messages and the catalog say together of one OID.
type relationEntry struct {
	relation *relation
	binding  *binding // nil when no binding captures it
	plan     *plan
	// watermark marks our watermarks table; slotColumn and uuidColumn are the columns of its row.
	watermark              bool
	slotColumn, uuidColumn int
}

// transaction is the one being streamed.
type transaction struct {
	open     bool
	begin    beginMessage
	changes  int                 // inserts, updates and deletes of captured tables
	lastLoc  int64               // loc[1] of the last document
	held     map[keyRef]*keyRows // keys that rows were put under, on tables where two may share one
	doubtful []doubtfulKey
	crowded  bool // there were more keys than can be held
}

// side is where a key lies relative to a backfill.
type side uint8

const (
	sideScanned side = iota // settled: at or before scanned
	sideChunk               // in the chunk whose opening fence has passed
	sideBeyond              // a later chunk will read it
)

// handle processes one WAL message.
func (c *capture) handle(m *walMessage) error {
	switch m.kind {
	case 'k':
		c.described.skip() // it is no part of what is described
		c.keepalive(m.start)
		return nil
	case 'N':
		c.described.skip()
		c.noticed(m.data)
		return nil
	case '?':
		e := c.relations[binary.BigEndian.Uint32(m.data[1:])]
		if e == nil {
			return fmt.Errorf("stream at %s: change of relation %d, which has not been described", m.start,
				binary.BigEndian.Uint32(m.data[1:]))
		}
		c.letGo()
		c.session.answer(c.cutClasses(e))
		return nil
	}
	if len(m.data) == 0 {
		return fmt.Errorf("stream at %s: empty message", m.start)
	}
	var err error
	switch kind := m.data[0]; kind {
	case 'I', 'U', 'D':
		err = c.handleChange(m)
	case 'B':
		err = c.handleBegin(m.data)
	case 'C':
		err = c.handleCommit(m.data)
	case 'R':
		err = c.handleRelation(m.data)
	case 'T':
		err = c.handleTruncate(m)
	case 'Y':
		c.described.skip() // those of a table's columns come ahead of what describes it
		_, err = decodeType(m.data)
	case 'O', 'M': // origin, logical message
	case 'A':
		// Stream Abort, which belongs to protocol version 2. PostgreSQL 18 sends it to all when it finds, while it spills, that a
		// transaction with subtransactions has aborted (reorderbuffer.c, ReorderBufferTruncateTXN): nothing of that was sent.
		if c.tx.open {
			err = fmt.Errorf("stream abort inside transaction %d", c.tx.begin.xid)
		}
	default:
		err = fmt.Errorf("unexpected message %q", kind)
	}
	if err != nil {
		return fmt.Errorf("stream at %s: %w", m.start, err)
	}
	return nil
}

// noticed is told of a notice in the stream. It is evidence like an error: from version 18 on, the server goes on with a
// WARNING and without rows where the publication is away (pgoutput.c, LoadPublications).
func (c *capture) noticed(body []byte) {
	logNotice(body)
	c.refreshes.doubtSending()
}

// letGo forgets what aliases the messages and chunks of before, which may be large too, ahead of a large one.
func (c *capture) letGo() {
	c.change = change{}
	c.oldKey, c.newKey, c.filled, c.rowScratch = nil, nil, nil, nil
}

func (c *capture) handleBegin(data []byte) error {
	if c.tx.open {
		return fmt.Errorf("begin inside transaction %d", c.tx.begin.xid)
	}
	begin, err := decodeBegin(data)
	if err != nil {
		return err
	}
	c.tx.open, c.tx.begin, c.tx.changes, c.tx.lastLoc = true, begin, 0, 0
	if clear(c.tx.held); c.tx.crowded {
		c.tx.held, c.tx.crowded = nil, false // a map keeps the size it has had
	}
	c.tx.doubtful = nil
	c.described.transaction()
	c.placesFailed(c.ledger.beginTransaction(begin.finalLSN, begin.xid))
	if before := c.ledger.within.before; before > 0 {
		c.status("Resuming within the transaction that commits at %s: %d documents of it were captured before and are left out",
			begin.finalLSN, before)
	}
	c.from.tsMillis = (begin.commitTime + postgresEpoch) / 1000
	c.from.loc[0] = int64(c.ledger.previousEnd)
	c.from.loc[2] = int64(begin.finalLSN)
	c.from.xid = begin.xid
	failpoint("stream.begin")
	return nil
}

func (c *capture) handleCommit(data []byte) error {
	commit, err := decodeCommit(data)
	if err != nil {
		return err
	}
	if !c.tx.open {
		return fmt.Errorf("commit without a begin")
	}
	if commit.commitLSN != c.tx.begin.finalLSN {
		return fmt.Errorf("commit at %s of a transaction that began with final LSN %s", commit.commitLSN, c.tx.begin.finalLSN)
	}
	if commit.endLSN < c.ledger.previousEnd {
		return fmt.Errorf("commit that ends at %s behind one that ended at %s", commit.endLSN, c.ledger.previousEnd)
	}
	if len(c.tx.doubtful) > 0 {
		if err := c.askDoubtful(); err != nil {
			return err
		}
	}
	if c.ledger.within.before > 0 {
		c.placesFailed(c.ledger.endWithin())
		c.usual()
	}
	c.tx.open = false
	c.tally.transactions++
	c.ledger.committed(commit.endLSN)
	c.committed(commit.endLSN)
	failpoint("stream.commit")
	return nil
}

// handleChange decodes an insert, update or delete and applies it to its binding.
func (c *capture) handleChange(m *walMessage) error {
	ch := &c.change
	if err := decodeChange(m.data, ch); err != nil {
		return err
	}
	ch.oldCut, ch.newCut = m.oldCut, m.newCut
	e := c.lastEntry
	if e == nil || e.relation.oid != ch.relation {
		if e = c.relations[ch.relation]; e == nil {
			return fmt.Errorf("change of relation %d, which has not been described", ch.relation)
		}
		c.lastEntry = e
	}
	if !c.tx.open {
		return fmt.Errorf("change of %s.%s outside a transaction", e.relation.schema, e.relation.name)
	}
	if e.watermark {
		c.sawWatermark(e, ch.new)
		return nil
	}
	b := e.binding
	if b == nil {
		c.sawForeign(e)
	}
	if b == nil || b.phase == phaseMissing || b.phase == phasePending && b.meta.First {
		return nil
	}
	if e.plan == nil { // the table was gone when the stream described it
		if err := c.describe(e); err != nil || e.plan == nil || b.phase == phaseMissing {
			return err
		}
	}
	want := len(e.relation.columns)
	if ch.op != 'D' && len(ch.new) != want {
		return fmt.Errorf("change of %s: a new tuple of %d columns, the relation has %d", b.name(), len(ch.new), want)
	}
	if ch.oldKind != 0 && len(ch.old) != want {
		return fmt.Errorf("change of %s: an old tuple of %d columns, the relation has %d", b.name(), len(ch.old), want)
	}
	if ch.oldKind == 'O' && !wholeOld(b.table, ch) {
		ch.oldKind = 'K'
	}
	c.from.loc[1] = max(int64(m.start), c.tx.lastLoc+1)
	c.tx.changes++
	c.tally.changes++
	failpoint("stream.change")
	if err := c.apply(e, ch); err != nil {
		if err := c.changeRefused(e, ch, err); err != nil {
			return fmt.Errorf("change of %s: %w", b.name(), err)
		}
	}
	if c.tx.lastLoc = c.from.loc[1]; c.ledger.full() {
		return c.checkpointWithin()
	}
	return nil
}

// wholeOld reports whether an old tuple that the stream says is the whole row is that. Published via its root, a partitioned
// table's changes are sent with the root's replica identity, while each partition logs by its own (pgoutput.c, pgoutput_change:
// targetrel): a column that it does not log is NULL. An unchanged TOAST value was not NULL before.
func wholeOld(t *table, ch *change) bool {
	if t == nil || t.kind != 'p' {
		return true
	}
	if t.partialOld {
		return false
	}
	for i := range ch.new {
		if ch.new[i].kind == valueUnchanged && ch.old[i].kind == valueNull {
			return false
		}
	}
	return true
}

// cutClasses is how the columns of a relation are cut when a change of it is too large to be held; nothing is kept of one
// that is not captured.
func (c *capture) cutClasses(e *relationEntry) []cutClass {
	switch {
	case e.plan != nil:
		return e.plan.cutClasses()
	case e.binding == nil && !e.watermark:
		return slices.Repeat([]cutClass{{kind: cutDrop}}, len(e.relation.columns))
	}
	classes := make([]cutClass, len(e.relation.columns))
	for i, column := range e.relation.columns {
		classes[i] = c.types.cutClass(column.typeOID, false)
	}
	return classes
}

// sawWatermark tells the fences of a value written to our row.
func (c *capture) sawWatermark(e *relationEntry, row tuple) {
	if len(row) <= max(e.slotColumn, e.uuidColumn) || string(row[e.slotColumn].data) != c.settings.slot {
		return
	}
	c.rounds.sawWatermark(row[e.uuidColumn].data)
}

// apply judges one change. Tuples have as many columns as the plan.
func (c *capture) apply(e *relationEntry, ch *change) error {
	b, p := e.binding, e.plan
	if b.isOther(e.relation) {
		return nil
	}
	if b.lenient && ch.op != 'I' && !c.oldKeyTold(e, ch) {
		if ch.op == 'U' {
			return c.lostKey(b, "an update")
		}
		return c.lostKey(b, "a delete")
	}
	if b.phase == phasePending && !c.onlyStreams(b) {
		return c.applyPending(e, ch)
	}
	if b.phase == phaseBackfill && p != b.plan && !p.sameKeyTypes(b.plan) {
		// Of the table before its key changed its type: its rows are read as they are now, behind a fence that comes later.
		c.unsettle(b)
		return c.applyPending(e, ch)
	}
	if p.missing != "" {
		// The column was renamed or added later: these changes cannot be told apart by the key of today.
		c.status("The stream's older columns of %s lack its key column %q: it is backfilled again", b.name(), p.missing)
		c.rewind(b)
		return nil
	}
	if p.key == nil {
		return c.applyKeyless(e, ch)
	}
	switch ch.op {
	case 'I':
		c.newKey = p.keyValues(c.newKey, ch.new, nil)
		return c.place(e, &document{op: 'c', key: c.newKey, row: ch.new})
	case 'D':
		if !c.oldHasKey(e, ch) {
			return c.lostKey(b, "a delete")
		}
		c.oldKey = p.keyValues(c.oldKey, ch.old, nil)
		if !isOldKey(c.oldKey, ch.oldKind) {
			return c.lostKey(b, "a delete")
		}
		return c.remove(e, c.oldKey, ch)
	}
	// An update. An old tuple tells the old key, as far as it carries the key's columns; without one the key is the same.
	full := ch.oldKind == 'O'
	var fill tuple
	if full && !ch.oldCut {
		fill = ch.old
	}
	for _, i := range p.key { // an unchanged TOAST value of the key itself: no document goes without its key
		if ch.new[i].kind == valueUnchanged && (full || ch.oldKind == 'K' && ch.old[i].kind != valueNull) {
			ch.new[i] = ch.old[i]
		}
	}
	c.newKey = p.keyValues(c.newKey, ch.new, nil)
	moved := false
	if ch.oldKind != 0 {
		if !c.oldHasKey(e, ch) {
			return c.lostKey(b, "an update")
		}
		c.oldKey = p.keyValues(c.oldKey, ch.old, nil)
		moved = !sameKey(c.oldKey, c.newKey)
	}
	if !moved {
		d := &document{op: 'u', key: c.newKey, row: ch.new, fill: fill, beforeKeysOnly: !full}
		if ch.oldKind != 0 {
			d.before = ch.old
		}
		return c.place(e, d)
	}
	if !isOldKey(c.oldKey, ch.oldKind) {
		return c.lostKey(b, "an update")
	}
	// The buffered row of the old key is no fill: the chunk may have been read later, when another row stood there.
	if err := c.remove(e, c.oldKey, ch); err != nil {
		return err
	}
	c.from.loc[1]++
	return c.place(e, &document{op: 'c', key: c.newKey, row: ch.new, fill: fill})
}

// applyPending applies a change of a table whose rows are all still to be read, while the collection may hold rows of its
// past: of those, the scan will not see what disappears now (DESIGN I5).
func (c *capture) applyPending(e *relationEntry, ch *change) error {
	if e.plan.key == nil || ch.oldKind == 0 || !c.oldHasKey(e, ch) {
		return nil
	}
	c.oldKey = e.plan.keyValues(c.oldKey, ch.old, nil)
	if ch.op == 'U' {
		c.newKey = e.plan.keyValues(c.newKey, ch.new, ch.old)
		if sameKey(c.oldKey, c.newKey) {
			return nil
		}
	}
	return c.remove(e, c.oldKey, ch)
}

func cloneTuple(t tuple) tuple {
	copied := slices.Clone(t)
	for i := range copied {
		copied[i].data = slices.Clone(copied[i].data)
	}
	return copied
}

// oldHasKey reports whether the old tuple carries every column of the key: those that the stream says are of the identity, and
// those that have a value, which are of the identity of a partition (see wholeOld).
func (c *capture) oldHasKey(e *relationEntry, ch *change) bool {
	if ch.oldKind == 'O' {
		return true
	}
	for _, i := range e.plan.key {
		if !e.relation.columns[i].key && ch.old[i].kind == valueNull {
			return false
		}
	}
	return true
}

// oldKeyTold reports whether an update or delete tells under which key its row was. An update without an old tuple has changed no
// column of the replica identity: that tells it where the key is of that. For a partitioned table the stream describes the root's.
func (c *capture) oldKeyTold(e *relationEntry, ch *change) bool {
	switch {
	case ch.oldKind != 0:
		return c.oldHasKey(e, ch)
	case e.binding.untold && e.binding.table != nil && e.binding.table.kind == 'p':
		return false
	}
	return !slices.ContainsFunc(e.plan.key, func(i int) bool { return !e.relation.columns[i].key })
}

// lostKey parks the binding of a row that is gone or has another key now, and whose document cannot be told, as the start of a
// session would.
func (c *capture) lostKey(b *binding, change string) error {
	remedy, err := c.identityRemedy(b)
	if err != nil {
		return err
	}
	return c.parkForNow(b, fmt.Sprintf("%s does not carry the collection key: the replica identity lacks some of its columns; "+
		"run %s", change, remedy))
}

// isOldKey reports whether an old key is one: not with a value that the tuple does not carry, or a NULL in a tuple of identity
// columns (kind 'K'), which cannot be NULL. A partition's identity that was changed while the root's says otherwise shows so.
func isOldKey(key []value, kind byte) bool {
	return !slices.ContainsFunc(key, func(v value) bool {
		return v.kind == valueUnchanged || v.kind == valueNull && kind == 'K'
	})
}

// place applies a row that now stands under its key: by an insert or the second half of a key move (op 'c'), or by an
// update of it (op 'u', with before when the old tuple came).
func (c *capture) place(e *relationEntry, d *document) error {
	if !c.arrive(e, d) {
		return nil
	}
	return c.put(e, d)
}

// put is place for a row that has the last word on its key.
func (c *capture) put(e *relationEntry, d *document) error {
	b := e.binding
	if !b.scanning() {
		return c.emitPlaced(e, d)
	}
	c.identity = appendIdentity(c.identity[:0], d.key)
	at, err := c.sideOf(b, d.key)
	if err != nil {
		return err
	}
	if at != sideScanned {
		c.unsettle(b)
	}
	if ck := b.scan.chunk; ck != nil && ck.spoiled == "" && at == sideChunk && (b.filtering() || ck.holds(c.identity)) {
		if c.patchable(ck, e) {
			failpoint("patch.put")
			if d.op == 'c' { // takes nothing from a row that stood there before
				ck.remove(c.identity)
			}
			ck.put(c.identity, d.row, d.fill, c.change.newCut)
			ck.compact()
		}
	}
	if b.filtering() && at != sideScanned {
		return nil
	}
	return c.emitPlaced(e, d)
}

// unsettle remembers the transaction for a binding whose unsettled range it touched. A standby's snapshots list no running
// transactions and so hold back none that was streamed, which is right: there a commit is visible before it is streamed. Once
// the standby is promoted they do, and what is remembered counts.
func (c *capture) unsettle(b *binding) { b.scan.unsettled.add(c.tx.begin.xid) }

// emitPlaced emits a row that place let through, whole where the collection may not have the rest of it.
func (c *capture) emitPlaced(e *relationEntry, d *document) error {
	if c.captured(e.binding, d.op) {
		return nil
	}
	if (d.before == nil || d.beforeKeysOnly) && d.row.lacks() {
		c.filled = append(c.filled[:0], d.row...)
		d.row = c.filled
		d.row.fill(d.fill)
		b := e.binding
		if d.row.lacks() && (d.op == 'c' || b.scanning() && (b.byCTID() || b.meta.Begun && !b.filtering())) {
			row, err := c.awaitRest(c.wanted(b, e.plan, d.key, d.row))
			if errors.Is(err, errParked) {
				return nil
			}
			if err != nil {
				return err
			}
			d.row.fill(row)
		}
		fitTuple(d.row, e.plan, budget.cutRule())
	}
	return c.send(e, d)
}

// remove applies the disappearance of the row under a key: by a delete or the first half of a key move.
func (c *capture) remove(e *relationEntry, key []value, ch *change) error {
	b := e.binding
	held, back, untold := c.leave(e, key, ch.old)
	if untold {
		if err := c.put(e, &document{op: 'c', key: key, row: ch.old}); err != nil {
			return err
		}
		c.from.loc[1]++
	}
	switch {
	case held:
		return nil
	case back != nil:
		return c.put(e, &document{op: 'u', key: key, row: back, before: ch.old})
	}
	if b.scanning() {
		c.identity = appendIdentity(c.identity[:0], key)
		at, err := c.sideOf(b, key)
		if err != nil {
			return err
		}
		if at != sideScanned {
			c.unsettle(b)
		}
		if ck := b.scan.chunk; ck != nil && ck.spoiled == "" && at == sideChunk && c.patchable(ck, e) {
			failpoint("patch.remove")
			ck.remove(c.identity)
		}
		if b.filtering() && at != sideScanned && b.meta.First {
			return nil // no document of this key has ever been emitted
		}
	}
	return c.emit(e, &document{op: 'd', row: ch.old, keysOnly: ch.oldKind == 'K'})
}

// patchable reports whether a change may be patched into the chunk; one of another shape spoils it.
func (c *capture) patchable(ck *chunk, e *relationEntry) bool {
	if ck.table.oid != e.relation.oid {
		return false
	}
	if ck.plan != e.plan && !ck.plan.sameShape(e.plan.columns) {
		ck.spoil("the table changed its shape")
		return false
	}
	return true
}

// applyKeyless applies a change of a table whose documents have no key of the table's: every change is one document.
func (c *capture) applyKeyless(e *relationEntry, ch *change) error {
	switch ch.op {
	case 'I':
		return c.emit(e, &document{op: 'c', row: ch.new})
	case 'D':
		return c.emit(e, &document{op: 'd', row: ch.old, keysOnly: ch.oldKind == 'K'})
	}
	d := &document{op: 'u', row: ch.new}
	if ch.oldKind != 0 {
		d.before, d.beforeKeysOnly = ch.old, ch.oldKind == 'K'
	}
	return c.emit(e, d)
}

// captured takes note of what a binding is about to put out at the place of c.from, and reports whether that has been captured
// before, so that it is left out.
func (c *capture) captured(b *binding, op byte) bool {
	before, fault := c.ledger.emitting(b, op, c.from.loc[1])
	if fault != nil {
		c.placeFailed(fault)
	}
	return before
}

// emit writes one document of the stream, unless it has been captured before.
func (c *capture) emit(e *relationEntry, d *document) error {
	if c.captured(e.binding, d.op) {
		return nil
	}
	return c.send(e, d)
}

func (c *capture) send(e *relationEntry, d *document) error {
	if e.binding.sourced != e.plan {
		if err := c.sourceSchema(e.binding, e.binding.table, e.plan, e.relation); err != nil {
			return err
		}
	}
	return c.write(e.binding, e.plan, &c.from, d)
}

// write appends one document to the output.
func (c *capture) write(b *binding, p *plan, from *provenance, d *document) error {
	failpoint("emit.before")
	dst := c.out.begin(b.index)
	at := len(dst)
	dst, err := p.appendFitting(dst, from, d)
	if err != nil {
		c.out.discard()
		return err
	}
	c.ledger.wrote(len(dst) - at)
	c.tally.documents++
	failpoint("emit.after")
	return c.out.end(dst)
}

// sideOf tells where a key lies in its binding's backfill. REQUIRES: scanning; c.identity is the key's.
func (c *capture) sideOf(b *binding, key []value) (side, error) {
	ck := b.scan.chunk
	if ck != nil && ck.spoiled != "" {
		ck = nil
	}
	if !b.filtering() {
		if ck == nil {
			return sideBeyond, nil
		}
		return sideChunk, nil
	}
	if !b.key.ordered() {
		return c.askSide(b, ck, key)
	}
	order, err := b.key.appendOrder(c.order[:0], key)
	if err != nil {
		return c.sideUnordered(b, key, err)
	}
	c.order = order
	switch {
	case b.scan.scannedAt != nil && string(order) <= string(b.scan.scannedAt):
		return sideScanned, nil
	case ck != nil && (ck.final || string(order) <= string(ck.order)):
		return sideChunk, nil
	}
	return sideBeyond, nil
}

// askedKey is a key whose side the server is to tell.
type askedKey struct {
	identity string
	values   []value
}

// mostAsked bounds the keys of one question, and with the columns of a key the parameters of its query (65,535 at most).
const mostAsked = 1000

// askSide is sideOf for keys whose order only the server knows. Answers are kept until the window changes; a question
// includes the keys of the changes that have already arrived, so that a round trip serves many.
func (c *capture) askSide(b *binding, ck *chunk, key []value) (side, error) {
	switch {
	case b.scan.scanned == nil && ck == nil:
		return sideBeyond, nil
	case b.scan.scanned == nil && ck.final:
		return sideChunk, nil
	case ck != nil && ck.find(c.identity) >= 0:
		return sideChunk, nil
	}
	if known, ok := b.scan.sides[string(c.identity)]; ok {
		return known, nil
	}
	if c.sidesSize > budget.chunks/2 {
		for _, other := range c.bindings {
			other.scan.sides = nil
		}
		c.sidesSize = 0
	}
	if b.scan.sides == nil {
		b.scan.sides = make(map[string]side)
	}
	identity := string(c.identity)
	asked := c.arrivedKeys(b, ck, []askedKey{{identity: identity, values: key}})
	var bounds [][]value
	if b.scan.scanned != nil {
		bounds = append(bounds, b.scan.scanned)
	}
	if ck != nil && !ck.final {
		bounds = append(bounds, ck.end)
	}
	failpoint("ask.before")
	after, err := c.lookup.after(c.ctx, b, asked, bounds)
	if err != nil {
		return c.sideUnordered(b, key, fmt.Errorf("compare key %s on the server: %w", describeKey(key), err))
	}
	failpoint("ask.after")
	for i, a := range asked {
		at, beyond := sideBeyond, after[i]
		if b.scan.scanned != nil {
			if !beyond[0] {
				at = sideScanned
			}
			beyond = beyond[1:]
		}
		if at == sideBeyond && ck != nil && (ck.final || !beyond[0]) {
			at = sideChunk
		}
		b.scan.sides[a.identity] = at
		c.sidesSize += len(a.identity) + 48
	}
	return b.scan.sides[identity], nil
}

// arrivedKeys appends the keys of the binding's changes that wait in the receive buffer and that would be asked for.
func (c *capture) arrivedKeys(b *binding, ck *chunk, asked []askedKey) []askedKey {
	var ch change
	var identity []byte
	seen := map[string]bool{asked[0].identity: true}
	most := mostAsked / len(b.terms)
	c.session.peek(func(data []byte) bool {
		switch data[0] {
		case 'R':
			return false // shapes may change
		case 'I', 'U', 'D':
		default:
			return true
		}
		if decodeChange(data, &ch) != nil {
			return false
		}
		e := c.relations[ch.relation]
		if e == nil || e.binding != b || e.plan == nil || e.plan.key == nil {
			return true
		}
		for _, t := range [...]tuple{ch.new, ch.old} {
			if len(t) != len(e.plan.columns) {
				continue
			}
			key := e.plan.keyValues(nil, t, nil)
			identity = appendIdentity(identity[:0], key)
			if _, known := b.scan.sides[string(identity)]; known || seen[string(identity)] || tuple(key).lacks() ||
				ck != nil && ck.find(identity) >= 0 {
				continue
			}
			seen[string(identity)] = true
			asked = append(asked, askedKey{identity: string(identity), values: cloneTuple(key)})
		}
		return len(asked) < most
	})
	return asked
}

// handleRelation takes note of a table's shape as of here in the stream.
func (c *capture) handleRelation(data []byte) error {
	r, err := decodeRelation(data)
	if err != nil {
		return err
	}
	c.lastEntry = nil
	e := &relationEntry{relation: r}
	again := c.relations[r.oid] != nil
	c.relations[r.oid] = e
	name := tableName{schema: r.schema, name: r.name}
	if !c.settings.readOnly && name == c.settings.watermarks {
		e.watermark = true
		e.slotColumn, e.uuidColumn, err = watermarkColumns(r)
		return err
	}
	e.binding = c.byName[name]
	if e.binding == nil || e.binding.meta.OID != r.oid { // else nobody can have had this table under another name
		for _, b := range c.bindings {
			if b.meta.OID == r.oid && b != e.binding {
				if err := c.parkForNow(b, fmt.Sprintf("it was renamed to %s; rename it back, or bind it by its new name", name)); err != nil {
					return err
				}
			}
			// A partition is described right behind the table as which its changes are sent, unless that is none.
			if _, known := b.partitions.known[r.oid]; known && c.described.root == nil {
				c.refreshes.doubtSending()
			}
		}
	}
	root := c.described.relation(e, c.handled)
	if e.binding == nil {
		c.describedPartition(root, r.oid, again)
		return nil
	}
	return c.describe(e) // by which a parked binding whose table is back is captured again
}

// handleTruncate applies a TRUNCATE.
func (c *capture) handleTruncate(m *walMessage) error {
	t, err := decodeTruncate(m.data)
	if err != nil {
		return err
	}
	if !c.tx.open {
		return fmt.Errorf("truncate outside a transaction")
	}
	c.from.loc[1] = max(int64(m.start), c.tx.lastLoc+1) // of the first marker
	for _, oid := range t.relations {
		e := c.relations[oid]
		if e == nil {
			return fmt.Errorf("truncate of relation %d, which has not been described", oid)
		}
		b := e.binding
		if b == nil || b.phase == phaseMissing || b.phase == phasePending && b.meta.First || b.isOther(e.relation) {
			continue
		}
		if err := c.truncated(b, e); err != nil {
			return err
		}
	}
	return nil
}

// truncated applies a TRUNCATE to its binding.
func (c *capture) truncated(b *binding, e *relationEntry) error {
	b.truncations++
	c.leaveAll(e)
	if b.phase == phasePending { // all that is there will be read
		if b.marks {
			return c.markTruncate(b)
		}
		return nil
	}
	b.meta.Filenode = 0 // the catalog will show another, of which no more is to be said
	b.mark()
	b.partitions.expectRewrites()
	if c.settings.onTruncate == "backfill" {
		c.status("%s was truncated: it is backfilled again. %s", b.name(), c.remains(b))
		c.rewind(b)
		return nil
	}
	if b.truncations == 1 {
		text := c.tellTruncate(b)
		logrus.Warn(text)
		c.say(text)
	}
	if b.scanning() {
		c.unsettle(b)
		if b.scan.chunk != nil && b.scan.chunk.spoiled == "" && b.scan.chunk.table.oid == e.relation.oid {
			b.scan.chunk.clearRows()
		}
	}
	if b.marks {
		return c.markTruncate(b)
	}
	return nil
}
