// capture_changes.go owns the judging of a change of the stream: which rows it puts under which keys, and what becomes of each by its key
// and its binding's phase.
// Invariant (DESIGN I2–I5): a change is emitted if its key is settled, patched if its key lies in the chunk whose opening
// fence has passed, and dropped otherwise, with its transaction remembered until a chunk's snapshot sees it. An update
// that moves a key is a delete of the old key and a create of the new one, each judged by itself. Judging reads the bindings and
// asks nobody: where it needs to know more it says what, and goes on where it was.

package main

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
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

// ruling is what is to be done next about the change being judged.
type ruling uint8

const (
	rulingDone     ruling = iota // nothing: it has been judged
	rulingRow                    // a document: changes.row says what becomes of it
	rulingOrder                  // the key of the document is to be compared on the server, or, with changes.unordered, cannot be
	rulingNoOldKey               // its row was under another key, and which is not known
	rulingNoKey                  // it cannot be told apart by the key of today: the plan lacks one of its columns
)

// rowRuling is what becomes of a row under its key.
type rowRuling struct {
	unsettles bool // the transaction is remembered until a chunk's snapshot sees it
	patches   bool // the buffered chunk is patched
	emits     bool
}

// steps are what is still to be judged of a change, the lowest bit first.
type steps uint16

const (
	stepLeave   steps = 1 << iota // the row of oldKey leaves it: by a delete or the first half of a key move
	stepUntold                    // it is emitted, as the last document of its key tells of another one that has left before
	stepNext                      // what follows has a place of its own
	stepBack                      // the row that stood there before stands there again
	stepDelete                    // its key has no row
	stepMove                      // what follows has a place of its own
	stepPlace                     // a row comes to newKey
	stepUpdate                    // the row of newKey is another one
	stepWhole                     // the change is one document, without a key
	stepCurrent                   // back is the row of newKey now
)

// changes judges what the stream brings. Its user asks next for one ruling after another, and carries each out before the next.
//
//	take ─▶ judge ─▶ next ─▶ rulingRow ─┐   ─▶ rulingDone
//	                  ▲ ▲────────────────┘   ─▶ rulingNoOldKey, rulingNoKey: the change ends there
//	                  └── answered ◀── rulingOrder
type changes struct {
	relations map[uint32]*relationEntry
	last      *relationEntry // of the last change; nil when a relation was described since
	tx        transaction
	from      provenance // of the row being judged

	change         change // being judged
	entry          *relationEntry
	newKey, oldKey []value
	todo           steps
	asked          bool  // where the key of the document lies was not known
	back           tuple // of stepBack or stepCurrent
	row            rowRuling
	end            ruling // the last one of the change
	unsettles      bool   // whatever becomes of the change, the transaction is remembered until a chunk's snapshot sees it
	unordered      error  // why nobody can tell where the key of the document lies

	identity []byte // of the last key looked at
	order    []byte
	image    maphash.Hash
	filled   tuple
}

// forget drops what belonged to the replication session before.
func (j *changes) forget() {
	j.relations, j.last, j.tx = make(map[uint32]*relationEntry), nil, transaction{}
}

// release forgets what aliases the messages before, which may be large too, ahead of a large one.
func (j *changes) release() {
	j.change = change{}
	j.oldKey, j.newKey, j.back, j.filled = nil, nil, nil, nil
}

// describe takes note of a relation's shape as of here in the stream. known tells that it was described before.
func (j *changes) describe(r *relation) (e *relationEntry, known bool) {
	known = j.relations[r.oid] != nil
	e = &relationEntry{relation: r}
	j.relations[r.oid], j.last = e, nil
	return e, known
}

// takeBegin begins a transaction behind what ends at previous.
func (j *changes) takeBegin(data []byte, previous lsn) error {
	tx := &j.tx
	if tx.open {
		return fmt.Errorf("begin inside transaction %d", tx.begin.xid)
	}
	begin, err := decodeBegin(data)
	if err != nil {
		return err
	}
	tx.open, tx.begin, tx.changes, tx.lastLoc = true, begin, 0, 0
	if clear(tx.held); tx.crowded {
		tx.held, tx.crowded = nil, false // a map keeps the size it has had
	}
	tx.doubtful = nil
	j.from.tsMillis = (begin.commitTime + postgresEpoch) / 1000
	j.from.loc[0] = int64(previous)
	j.from.loc[2] = int64(begin.finalLSN)
	j.from.xid = begin.xid
	return nil
}

// takeCommit decodes the commit of the transaction, which goes on until it is closed.
func (j *changes) takeCommit(data []byte, previous lsn) (commit commitMessage, err error) {
	if commit, err = decodeCommit(data); err != nil {
		return commit, err
	}
	switch {
	case !j.tx.open:
		err = errors.New("commit without a begin")
	case commit.commitLSN != j.tx.begin.finalLSN:
		err = fmt.Errorf("commit at %s of a transaction that began with final LSN %s", commit.commitLSN, j.tx.begin.finalLSN)
	case commit.endLSN < previous:
		err = fmt.Errorf("commit that ends at %s behind one that ended at %s", commit.endLSN, previous)
	}
	return commit, err
}

// close ends the transaction.
func (j *changes) close() { j.tx.open = false }

// takeTruncate decodes a TRUNCATE. What comes of it stands at its place, one behind the other.
func (j *changes) takeTruncate(m *walMessage) (truncate truncateMessage, err error) {
	if truncate, err = decodeTruncate(m.data); err == nil && !j.tx.open {
		err = errors.New("truncate outside a transaction")
	}
	j.from.loc[1] = max(int64(m.start), j.tx.lastLoc+1)
	return truncate, err
}

// count has the transaction be one that the cursor is to follow.
func (j *changes) count() { j.tx.changes++ }

// pass ends what stands at a place of its own, other than a document.
func (j *changes) pass() {
	j.judged()
	j.from.loc[1]++
}

// take decodes an insert, update or delete and finds its relation. REQUIRES: no change is being judged.
func (j *changes) take(m *walMessage) (*relationEntry, error) {
	ch := &j.change
	if err := decodeChange(m.data, ch); err != nil {
		return nil, err
	}
	ch.oldCut, ch.newCut = m.oldCut, m.newCut
	e := j.last
	if e == nil || e.relation.oid != ch.relation {
		if e = j.relations[ch.relation]; e == nil {
			return nil, fmt.Errorf("change of relation %d, which has not been described", ch.relation)
		}
		j.last = e
	}
	if !j.tx.open {
		return nil, fmt.Errorf("change of %s.%s outside a transaction", e.relation.schema, e.relation.name)
	}
	return e, nil
}

// takes reports whether changes of the binding count: its table is there, and rows of it were captured or may have been before.
func (b *binding) takes() bool {
	return b.phase != phaseMissing && (b.phase != phasePending || !b.meta.First)
}

// judge begins to judge the change that was taken, at its place in the stream. unread tells that all rows of its table are still to
// be read. REQUIRES: e has a plan; its binding takes changes.
func (j *changes) judge(e *relationEntry, place lsn, unread bool) error {
	ch, b := &j.change, e.binding
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
	j.from.loc[1] = max(int64(place), j.tx.lastLoc+1)
	j.tx.changes++
	j.entry, j.todo, j.asked, j.unsettles, j.unordered = e, 0, false, false, nil
	j.end = j.route(unread)
	return nil
}

// judgeRow begins to judge a row that the table has, behind all changes of the transaction, as if it came to its key.
func (j *changes) judgeRow(e *relationEntry, row tuple) {
	j.from.loc[1] = j.tx.lastLoc + 1
	j.newKey = e.plan.keyValues(j.newKey, row, nil)
	j.entry, j.todo, j.asked, j.unsettles, j.unordered = e, stepCurrent, false, false, nil
	j.end, j.back = rulingDone, row
}

// judged ends the judging of a change: what comes next lies behind it.
func (j *changes) judged() { j.tx.lastLoc = j.from.loc[1] }

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

// route decides which rows leave their keys and come to others by the change, and returns its last ruling.
func (j *changes) route(unread bool) ruling {
	e, ch := j.entry, &j.change
	b, p := e.binding, e.plan
	if b.isOther(e.relation) {
		return rulingDone
	}
	if b.lenient && ch.op != 'I' && !j.oldKeyTold() {
		return rulingNoOldKey
	}
	if unread {
		return j.routePending()
	}
	if b.phase == phaseBackfill && p != b.plan && !p.sameKeyTypes(b.plan) {
		// Of the table before its key changed its type: its rows are read as they are now, behind a fence that comes later.
		j.unsettles = true
		return j.routePending()
	}
	if p.missing != "" { // the column was renamed or added later
		return rulingNoKey
	}
	if p.key == nil {
		j.todo = stepWhole
		return rulingDone
	}
	switch ch.op {
	case 'I':
		j.newKey = p.keyValues(j.newKey, ch.new, nil)
		j.todo = stepPlace
		return rulingDone
	case 'D':
		if !j.oldHasKey() {
			return rulingNoOldKey
		}
		j.oldKey = p.keyValues(j.oldKey, ch.old, nil)
		if !isOldKey(j.oldKey, ch.oldKind) {
			return rulingNoOldKey
		}
		j.todo = stepLeave
		return rulingDone
	}
	return j.routeUpdate()
}

// routeUpdate is route for an update. An old tuple tells the old key, as far as it carries the key's columns; without one the key is
// the same.
func (j *changes) routeUpdate() ruling {
	p, ch := j.entry.plan, &j.change
	full := ch.oldKind == 'O'
	for _, i := range p.key { // an unchanged TOAST value of the key itself: no document goes without its key
		if ch.new[i].kind == valueUnchanged && (full || ch.oldKind == 'K' && ch.old[i].kind != valueNull) {
			ch.new[i] = ch.old[i]
		}
	}
	j.newKey = p.keyValues(j.newKey, ch.new, nil)
	if ch.oldKind == 0 {
		j.todo = stepUpdate
		return rulingDone
	}
	if !j.oldHasKey() {
		return rulingNoOldKey
	}
	j.oldKey = p.keyValues(j.oldKey, ch.old, nil)
	if sameKey(j.oldKey, j.newKey) {
		j.todo = stepUpdate
		return rulingDone
	}
	if !isOldKey(j.oldKey, ch.oldKind) {
		return rulingNoOldKey
	}
	j.todo = stepLeave | stepMove | stepPlace
	return rulingDone
}

// routePending is route for a table whose rows are all still to be read, while the collection may hold rows of its
// past: of those, the scan will not see what disappears now (DESIGN I5).
func (j *changes) routePending() ruling {
	p, ch := j.entry.plan, &j.change
	if p.key == nil || ch.oldKind == 0 || !j.oldHasKey() {
		return rulingDone
	}
	j.oldKey = p.keyValues(j.oldKey, ch.old, nil)
	if ch.op == 'U' {
		j.newKey = p.keyValues(j.newKey, ch.new, ch.old)
		if sameKey(j.oldKey, j.newKey) {
			return rulingDone
		}
	}
	j.todo = stepLeave
	return rulingDone
}

// oldHasKey reports whether the old tuple carries every column of the key: those that the stream says are of the identity, and
// those that have a value, which are of the identity of a partition (see wholeOld).
func (j *changes) oldHasKey() bool {
	e, ch := j.entry, &j.change
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
func (j *changes) oldKeyTold() bool {
	e := j.entry
	switch {
	case j.change.oldKind != 0:
		return j.oldHasKey()
	case e.binding.untold && e.binding.table != nil && e.binding.table.kind == 'p':
		return false
	}
	return !slices.ContainsFunc(e.plan.key, func(i int) bool { return !e.relation.columns[i].key })
}

// isOldKey reports whether an old key is one: not with a value that the tuple does not carry, or a NULL in a tuple of identity
// columns (kind 'K'), which cannot be NULL. A partition's identity that was changed while the root's says otherwise shows so.
func isOldKey(key []value, kind byte) bool {
	return !slices.ContainsFunc(key, func(v value) bool {
		return v.kind == valueUnchanged || v.kind == valueNull && kind == 'K'
	})
}

// next returns what is to be done next about the change. d, which is empty, becomes the document that it is about; where the order of its
// key is asked for, the next call has the same.
func (j *changes) next(d *document) ruling {
	if j.asked {
		return j.rule(d)
	}
	for j.todo != 0 {
		step := j.todo & -j.todo
		j.todo &^= step
		switch step {
		case stepLeave:
			j.leaveOldKey()
			continue
		case stepNext, stepMove:
			j.from.loc[1]++
			continue
		}
		if j.make(step, d) {
			return j.rule(d)
		}
	}
	return j.end
}

// leaveOldKey decides what is to be told of the row of oldKey, which leaves it.
func (j *changes) leaveOldKey() {
	held, back, untold := j.leave(j.entry, j.oldKey, j.change.old)
	if untold {
		j.todo |= stepUntold | stepNext
	}
	switch j.back = back; {
	case held:
	case back != nil:
		j.todo |= stepBack
	default:
		j.todo |= stepDelete
	}
}

// make makes the document of a step, in one that is empty. It returns false where there is none, since a younger row stands under
// its key.
func (j *changes) make(step steps, d *document) bool {
	ch := &j.change
	switch step {
	case stepUntold:
		d.op, d.key, d.row = 'c', j.oldKey, ch.old
	case stepBack:
		d.op, d.key, d.row, d.before = 'u', j.oldKey, j.back, ch.old
	case stepDelete:
		d.op, d.key, d.row, d.keysOnly = 'd', j.oldKey, ch.old, ch.oldKind == 'K'
	case stepCurrent:
		d.op, d.key, d.row = 'c', j.newKey, j.back
	case stepWhole:
		j.makeWhole(d)
	default:
		d.op, d.key, d.row = 'c', j.newKey, ch.new
		if step == stepUpdate {
			d.op = 'u'
			j.setBefore(d)
		}
		// A buffered row of the old key is no fill: the chunk may have been read later, when another row stood there.
		if ch.oldKind == 'O' && !ch.oldCut {
			d.fill = ch.old
		}
		return j.arrive(j.entry, d)
	}
	return true
}

// makeWhole makes the document of a change of a table whose documents have no key of the table's: every change is one.
func (j *changes) makeWhole(d *document) {
	ch := &j.change
	switch ch.op {
	case 'I':
		d.op, d.row = 'c', ch.new
	case 'D':
		d.op, d.row, d.keysOnly = 'd', ch.old, ch.oldKind == 'K'
	default:
		d.op, d.row = 'u', ch.new
		j.setBefore(d)
	}
}

// setBefore gives the document of an update the old tuple, where it came.
func (j *changes) setBefore(d *document) {
	if ch := &j.change; ch.oldKind != 0 {
		d.before, d.beforeKeysOnly = ch.old, ch.oldKind == 'K'
	}
}

// rule decides what becomes of a row that now stands under its key, or has left it.
func (j *changes) rule(d *document) ruling {
	b := j.entry.binding
	j.asked = false
	if len(d.key) == 0 || !b.scanning() {
		j.row = rowRuling{emits: true}
		return rulingRow
	}
	j.identity = appendIdentity(j.identity[:0], d.key)
	at, known := j.sideOf(b, d.key)
	if !known {
		j.asked = true
		return rulingOrder
	}
	ck := b.scan.patched()
	j.row = rowRuling{
		unsettles: at != sideScanned,
		patches: ck != nil && at == sideChunk && ck.table.oid == j.entry.relation.oid &&
			(d.op == 'd' || b.filtering() || ck.holds(j.identity)),
		emits: at == sideScanned || !b.filtering() || d.op == 'd' && !b.meta.First, // else no document of this key has ever been emitted
	}
	return rulingRow
}

// sideOf tells where a key lies in its binding's backfill, where that is known. REQUIRES: scanning; j.identity is the key's.
func (j *changes) sideOf(b *binding, key []value) (at side, known bool) {
	ck := b.scan.patched()
	if !b.filtering() {
		if ck == nil {
			return sideBeyond, true
		}
		return sideChunk, true
	}
	if !b.key.ordered() {
		switch {
		case b.scan.scanned == nil && ck == nil:
			return sideBeyond, true
		case b.scan.scanned == nil && ck.final:
			return sideChunk, true
		case ck != nil && ck.find(j.identity) >= 0:
			return sideChunk, true
		}
		at, known = b.scan.sides[string(j.identity)]
		return at, known
	}
	var order []byte
	if order, j.unordered = b.key.appendOrder(j.order[:0], key); j.unordered != nil {
		return 0, false
	}
	j.order = order
	switch {
	case b.scan.scannedAt != nil && string(order) <= string(b.scan.scannedAt):
		return sideScanned, true
	case ck != nil && (ck.final || string(order) <= string(ck.order)):
		return sideChunk, true
	}
	return sideBeyond, true
}

// whole takes what a row lacks from where it is at hand, and reports whether it lacks more that the collection may not have either.
// changed tells whether it lacked anything.
func (j *changes) whole(d *document) (changed, lacks bool) {
	if len(d.key) == 0 || d.op == 'd' || d.before != nil && !d.beforeKeysOnly || !d.row.lacks() {
		return false, false
	}
	j.filled = append(j.filled[:0], d.row...)
	d.row = j.filled
	d.row.fill(d.fill)
	b := j.entry.binding
	return true, d.row.lacks() && (d.op == 'c' || b.scanning() && (b.byCTID() || b.meta.Begun && !b.filtering()))
}
