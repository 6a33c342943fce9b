// capture_binding.go owns one binding: its phase, its table and scan key, what it has captured, and the queries that read it.
//
//	            activate              last chunk settled
//	Pending ───────────────▶ Backfill ──────────────────▶ Active
//	   ▲  └── only changes, skipped ───────────────────────▲ │
//	   │                                                     │
//	   └── rewind (re-created, truncated, slot lost) ◀──────┘   any ── vanish ──▶ Missing
//
// Invariant: a change past scanned is dropped only in phaseBackfill of a filtering binding, because a later chunk reads
// that row; in phasePending, because the whole table is still to be read, or none of its changes has been captured yet.

package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	pf "github.com/estuary/flow/go/protocols/flow"
)

type phase uint8

const (
	phasePending  phase = iota // asked for; none of its rows captured
	phaseBackfill              // chunks are being read; rows past scanned belong to a later chunk
	phaseActive                // every row captured; changes pass as they come
	phaseMissing               // the table is gone
)

func (p phase) String() string {
	return [...]string{"pending", "backfill", "active", "missing"}[p]
}

type event uint8

const (
	eventActivate event = iota // its backfill starts
	eventComplete              // every row has been captured, or none is to be
	eventRewind                // its table must be captured anew
	eventVanish                // its table is gone or cannot be captured
)

// next returns the phase a binding enters when ev happens to it; ok is false for a transition that cannot be.
// Every change of phase in the program goes through here.
func (p phase) next(ev event) (_ phase, ok bool) {
	switch {
	case ev == eventActivate && p == phasePending:
		return phaseBackfill, true
	case ev == eventComplete && (p == phasePending || p == phaseBackfill):
		return phaseActive, true
	case ev == eventRewind:
		return phasePending, true
	case ev == eventVanish:
		return phaseMissing, true
	}
	return p, false
}

// binding is one table the task asked for.
type binding struct {
	index         uint32 // in the protocol
	stateKey      string
	collection    string
	resource      resource
	shares        string   // another table whose documents the collection has, of a binding of the same task; "": none
	marks         bool     // a TRUNCATE is marked
	anew          bool     // bound in this session, to a collection that may have documents of the table; until that has been said
	collectionKey []string // column names of the collection key; nil for the fallback key
	txid          bool     // the collection has a place for _meta.source.txid

	phase  phase
	state  *bindingState
	meta   bindingMetadata
	ledger *ledger
	entry  entry

	table  *table // what the catalog says; nil when missing
	plan   *plan  // for the table's columns as the catalog says
	key    *scanKey
	terms  []keyTerm // the key columns in SQL
	casts  []string  // the type (and collation) of each key column in SQL, for comparing parameters
	unique bool      // no two rows have keys that ORDER BY takes for equal
	// immediate is set when the server enforces the key at every row, so that a transaction never holds two rows of one
	// key even for a moment.
	immediate bool
	// deferrable is set when a constraint that is checked at commit makes the key unique: within a transaction two rows may
	// share one.
	deferrable bool

	partitions partitionSet // those whose rows are accounted for (capture_partition_changes.go)
	// lenient is set for a session that took the binding over from one that did not look at its replica identity: relations
	// without the key are put up with, until a change comes whose old key is not told.
	lenient bool
	// untold is set where some partition's replica identity lacks the key, or did when the capture was last started.
	untold bool

	filters bool // changes past what has been scanned are dropped
	scan    scan // of its rows
	lessons      // of reading the table

	sourced     *plan // the plan whose schema was sourced last
	truncations int
	stoodIn     map[string]bool // columns that warnStandIn has spoken of
	children    map[uint32]bool // tables that inherit from it and are not bound, which has been said; nil before the first look
}

// name is the table's name as the resource has it.
func (b *binding) name() tableName { return b.resource.table }

// tablesOf are the tables of bindings, but for those that are missing.
func tablesOf(bindings []*binding) []*table {
	var tables []*table
	for _, b := range bindings {
		if b.table != nil {
			tables = append(tables, b.table)
		}
	}
	return tables
}

// transition moves the binding to its next phase.
func (b *binding) transition(ev event) {
	next, ok := b.phase.next(ev)
	assert(ok, "%s: event %d in phase %d", b.name(), ev, b.phase)
	b.phase = next
	b.mark()
}

// mark has the next checkpoint carry the binding.
func (b *binding) mark() { b.ledger.mark(b) }

// isOther reports whether a relation of the stream is another table than the captured one, which has, or had, its name at
// that place of the stream. Where it is the one that has the name now, the binding will be rewound by the catalog.
func (b *binding) isOther(r *relation) bool {
	return b.phase != phasePending && b.meta.OID != 0 && b.meta.OID != r.oid
}

// rewind has the table captured anew. first tells whether the collection can hold nothing of it.
func (b *binding) rewind(first bool) {
	b.transition(eventRewind)
	b.state = &bindingState{Mode: storedPending}
	b.meta.First = first
	b.meta.Leaves, b.meta.Key = nil, ""
	b.meta.Columns, b.meta.Filenode, b.meta.Toast = "", 0, 0
	b.partitions.forget()
	b.meta.OID, b.meta.Sight, b.meta.Hidden, b.meta.ByLeaf, b.meta.Begun = 0, "", false, false, false
	b.scan = b.scan.over()
	b.partitions.release()
}

// forget drops what belonged to the replication session before.
func (b *binding) forget() { b.scan = b.scan.lost() }

// park takes the binding out of the capture: its table is gone or cannot be captured.
func (b *binding) park() {
	if b.phase != phaseMissing {
		b.transition(eventVanish)
	}
	b.state = &bindingState{Mode: storedMissing}
	b.meta, b.lenient, b.untold = bindingMetadata{Within: b.meta.Within}, false, false
	b.partitions.forget()
	b.scan = b.scan.over()
	b.table, b.plan = nil, nil
}

// storedState is the binding's entry as of now, with the cursor.
func (b *binding) storedState(cursor lsn) *bindingState {
	if b.meta.Within != nil && b.meta.Within.passed(cursor) {
		b.meta.Within = nil
	}
	b.meta.Partitions = b.partitions.unwritten()
	if b.meta.BegunAt = ""; b.meta.Begun {
		b.meta.BegunAt = b.state.place()
	}
	b.state.setMetadata(&b.meta)
	return b.state
}

// scanning reports whether rows of the table are still to be read.
func (b *binding) scanning() bool {
	return b.phase == phaseBackfill || b.phase == phaseActive && len(b.meta.Leaves) > 0
}

// byCTID reports whether what is still to be read is scanned by ctid. REQUIRES: scanning.
func (b *binding) byCTID() bool { return b.keyless() || b.meta.ByLeaf || b.phase == phaseActive }

// filtering reports whether changes past scanned are dropped. REQUIRES: scanning.
func (b *binding) filtering() bool { return b.filters && !b.byCTID() }

// keyColumnsOf turns a collection's key pointers into column names; nil for the fallback key.
func keyColumnsOf(pointers []string) []string {
	if slices.Equal(pointers, fallbackKey) {
		return nil
	}
	columns := make([]string, len(pointers))
	for i, p := range pointers {
		p = strings.TrimPrefix(p, "/")
		columns[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return columns
}

func newBinding(index int, spec *pf.CaptureSpec_Binding) (*binding, error) {
	r, err := parseResource(spec.ResourceConfigJson)
	if err != nil {
		return nil, fmt.Errorf("binding %d: %w", index, err)
	}
	b := &binding{
		index:         uint32(index),
		stateKey:      spec.StateKey,
		collection:    spec.Collection.Name.String(),
		resource:      r,
		collectionKey: keyColumnsOf(spec.Collection.Key),
		txid: slices.ContainsFunc(spec.Collection.Projections, func(p pf.Projection) bool {
			return p.Ptr == "/_meta/source/txid"
		}),
	}
	return b, nil
}

// keyless reports whether the table is scanned by ctid.
func (b *binding) keyless() bool {
	return b.resource.mode == modeKeyless || len(b.scanColumns()) == 0 && b.resource.mode != modeOnlyChanges
}

// scanColumns are the columns a scan walks by: the stored ones of a scan under way, else the resource's or the
// collection's.
func (b *binding) scanColumns() []string {
	if b.state != nil && len(b.state.KeyColumns) > 0 && b.phase == phaseBackfill {
		return b.state.KeyColumns
	}
	if len(b.resource.primaryKey) > 0 {
		return b.resource.primaryKey
	}
	return b.collectionKey
}

// streamed are the columns of a table as the stream will describe them, and so those a chunk reads.
func streamed(t *table) []relationColumn {
	var columns []relationColumn
	for i := range t.columns {
		c := &t.columns[i]
		if !t.sends(c) {
			continue
		}
		columns = append(columns, relationColumn{
			name: c.name, typeOID: c.typeOID, typmod: c.typmod, key: slices.Contains(t.identityColumns, c.name),
		})
	}
	return columns
}

// prepare makes plan and scan key from what the catalog says of the table.
func (b *binding) prepare(t *table, types *typeCatalog, s *settings, casts map[uint32]comparison) error {
	columns := streamed(t)
	if warning := t.columnsWarning(); warning != "" && (b.table == nil || b.table.columnsWarning() != warning) {
		logrus.Warn(warning)
	}
	b.table = t
	b.plan = newPlan(columns, b.planOptions(types, s))
	b.key, b.terms, b.casts = nil, nil, nil
	if b.keyless() {
		if b.plan.missing != "" { // every change of it would have it captured anew
			return fmt.Errorf("its key column %q is not among the columns captured from the table", b.plan.missing)
		}
		return nil
	}
	var keys []keyColumn
	for _, name := range b.scanColumns() {
		i := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
		if i < 0 || b.plan.missing == name {
			return fmt.Errorf("its key column %q is not among the columns captured from the table", name)
		}
		c := &t.columns[i]
		oid, _ := types.base(c.typeOID, c.typmod)
		k := keyColumn{name: name, typeOID: oid, byteOrder: c.byteOrder, nullable: !c.notNull}
		if known := types.lookup(oid); known != nil {
			k.typeKind, k.typeName = known.kind, known.name
		}
		keys = append(keys, k)
		how := casts[oid]
		sql := quoteIdent(name)
		if k.typeKind == 'e' && oid != c.typeOID {
			sql += "::" + how.cast // the server compares no domain of an enum with the enum itself
		}
		b.terms = append(b.terms, keyTerm{sql: sql, nullable: k.nullable, equal: how.equal, greater: how.greater})
		cast := how.cast
		if c.collation != "" {
			cast += " COLLATE " + c.collation
		}
		b.casts = append(b.casts, cast)
	}
	b.key = newScanKey(keys, types.encoding)
	sorted := func(names []string) []string { return slices.Sorted(slices.Values(names)) }
	scan := sorted(b.scanColumns())
	b.deferrable = slices.ContainsFunc(t.deferrableKeys, func(key []string) bool { return slices.Equal(sorted(key), scan) })
	b.immediate = !b.deferrable && (slices.Equal(sorted(t.primaryKey), scan) || slices.Equal(sorted(t.uniqueKey), scan))
	b.unique = b.immediate && !t.keyTies
	b.filters = b.resource.mode != modeNormal && b.resource.mode != modeOnlyChanges && b.resource.filter == ""
	return nil
}

// passUnordered has no change be dropped any more: nobody knows the order of the keys.
func (b *binding) passUnordered() {
	b.filters = false
	b.scan.judgeBy(b.scan.chunk)
}

func (b *binding) planOptions(types *typeCatalog, s *settings) planOptions {
	keys := b.scanColumns()
	if b.keyless() {
		keys = b.collectionKey
	}
	return planOptions{
		schema: b.name().schema, table: b.name().name, keyColumns: keys, collectionKey: b.collectionKey,
		types: types, settings: s, txid: b.txid, standIn: b.warnStandIn,
	}
}

// warnStandIn says once for each column that documents have another date than the table.
func (b *binding) warnStandIn(column, kind, standIn string) {
	if b.stoodIn[column] {
		return
	}
	if b.stoodIn == nil {
		b.stoodIn = make(map[string]bool)
	}
	b.stoodIn[column] = true
	logrus.Warnf("column %q of %s holds %s, which documents cannot: it is written as %s (said once for each column)",
		column, b.name(), kind, standIn)
}

// storedModeOf is the mode word under which the incumbent can resume this binding's backfill.
func (b *binding) storedModeOf() storedMode {
	switch {
	case b.byCTID():
		return storedKeyless
	case b.filters && b.key.predictable():
		return storedBackfill
	default:
		return storedUnfiltered
	}
}

// resume takes up the position a stored backfill has reached. An error means that it cannot be.
func (b *binding) resume() error {
	b.scan.readFrom(nil, nil)
	if b.state.Scanned == nil || b.byCTID() {
		return nil
	}
	if b.meta.Key != "" && b.meta.Key != b.keySignature() {
		return errors.New("a key column is another one, or has another type or collation")
	}
	scanned, err := b.key.unpack(b.state.Scanned)
	if err == nil && len(scanned) != len(b.terms) {
		err = fmt.Errorf("%d values for %d key columns", len(scanned), len(b.terms))
	}
	if err != nil {
		return fmt.Errorf("unpack the stored position: %w", err)
	}
	scannedAt, err := b.key.appendOrder([]byte{}, scanned)
	b.scan.readFrom(scanned, scannedAt)
	return err
}

// keySignature tells which columns the key columns are, with their types and collations, as the table has them now.
func (b *binding) keySignature() string {
	var s strings.Builder
	for _, name := range b.scanColumns() {
		if c := b.table.column(name); c != nil {
			fmt.Fprintf(&s, "%d %d %s %t;", c.attnum, c.typeOID, c.collation, c.byteOrder)
		}
	}
	return s.String()
}

// advance moves the binding past a settled chunk.
func (b *binding) advance(ck *chunk) {
	b.mark()
	if b.byCTID() {
		b.meta.Leaves = b.leavesAfter(ck)
		switch {
		case leavesDone(b.meta.Leaves):
			b.complete()
		case b.phase == phaseBackfill:
			b.state.Scanned = storedLeafPosition(b.meta.Leaves)
		}
		return
	}
	if ck.final {
		b.complete()
		return
	}
	b.state.Scanned = ck.packed
	b.scan.readFrom(ck.end, ck.order)
}

// complete ends the scan. Behind that of a whole table by key, partitions may be waiting that came meanwhile.
func (b *binding) complete() {
	if b.byCTID() || len(b.meta.Leaves) == 0 {
		b.meta.Leaves, b.meta.Key = nil, ""
	}
	b.meta.ByLeaf = false
	b.mark()
	if b.phase != phaseActive {
		b.transition(eventComplete)
	}
	b.state.Mode = storedActive
	b.state.Scanned = nil
	b.meta.First = false
	b.scan = b.scan.over()
	b.allEmitted()
}

// leavesAfter returns the cursors of a ctid scan once ck is settled.
func (b *binding) leavesAfter(ck *chunk) []leafCursor {
	leaves := slices.Clone(b.meta.Leaves)
	for i := range leaves {
		if leaves[i].OID == ck.leaf.OID {
			leaves[i] = ck.leaf
		}
	}
	return leaves
}

func leavesDone(leaves []leafCursor) bool {
	return !slices.ContainsFunc(leaves, func(l leafCursor) bool { return !l.Done })
}

// storedLeafPosition is the position the incumbent would resume from without missing a row: it applies one to all leaves.
func storedLeafPosition(leaves []leafCursor) []byte {
	block, offset := int64(-1), 0
	for _, l := range leaves {
		if !l.Done && (block < 0 || l.Block < block || l.Block == block && l.Offset < offset) {
			block, offset = l.Block, l.Offset
		}
	}
	return fmt.Appendf(nil, "(%d,%d)", max(block, 0), offset)
}

// scanQuery is the query of the binding's next chunk, behind the one whose fence is being streamed to if there is one.
func (b *binding) scanQuery(ck *chunk, s *settings, db *database) *scanQuery {
	var columns []string
	q := &scanQuery{stream: b.name().String(), source: b.table.oid}
	from := quoteTable(b.name())
	var where []string
	filter := b.filterSQL()
	if b.resource.filter != "" {
		q.searchPath = db.searchPath // the filter is written for the user's own
	}
	verdict := ""
	if b.withVerdict && filter != "" && !b.byCTID() {
		verdict = b.verdictName()
	} else if filter != "" {
		where = append(where, filter)
	}
	if b.byCTID() {
		q.ctid = true
		columns = append(columns, "ctid::text")
		leaves := b.leavesToRead()
		i := slices.IndexFunc(leaves, func(l leafCursor) bool { return !l.Done })
		q.leaf = leaves[i]
		q.leaf.next = min(q.leaf.Block+int64(ck.limit/100)+1, q.leaf.Pages)
		q.source = q.leaf.OID
		name := b.name()
		for _, l := range b.table.leaves {
			if l.oid == q.leaf.OID {
				name = l.tableName
			}
		}
		q.check = b.checkOf(&q.leaf, db, s.publication)
		if b.isIndirect() {
			q.source = b.table.oid
			where = append(where, fmt.Sprintf("tableoid = %d::oid", q.leaf.OID))
		} else {
			from = "ONLY " + quoteTable(name)
		}
		where = append(where, ctidRange(q.leaf, db.version))
		if bound := b.boundOf(&q.leaf); bound != nil {
			terms := b.boundTerms(q, bound)
			where = append(where, "("+boundParams(terms)+sqlAfter(b.terms, terms)+") IS NOT TRUE")
		}
	} else {
		if b.table.kind == 'r' {
			from = "ONLY " + from
		}
		q.check = b.checkOf(nil, db, s.publication)
	}
	var passes []string
	if s.minBackfillXID != "" {
		passes = append(passes, xminCondition(s.minBackfillXID))
		where = append(where, "(random() < 0.001 OR "+xminCondition(s.minBackfillXID)+")")
	}
	if verdict != "" {
		passes = append(passes, verdict)
	}
	if q.passes = len(passes) > 0; q.passes {
		columns = append(columns, strings.Join(passes, " AND "))
	}
	for i, c := range b.plan.columns {
		column := quoteIdent(c.name)
		if verdict != "" && !slices.Contains(b.plan.key, i) { // what is left out is not sent
			column = "CASE WHEN " + verdict + " THEN " + column + " END"
		}
		columns = append(columns, column)
	}
	order := ""
	if !q.ctid {
		lower := b.scan.scanned
		if b.scan.chunk != nil {
			lower = b.scan.chunk.end
		}
		if lower != nil {
			bound := b.boundTerms(q, lower)
			where = append(where, boundParams(bound)+sqlAfter(b.terms, bound))
		}
		q.ties = !b.unique
		order = " ORDER BY " + joinTerms(b.terms) + " LIMIT " + strconv.Itoa(ck.limit)
		if q.ties && db.version >= 130000 {
			q.whole = true
			order = " ORDER BY " + joinTerms(b.terms) + " FETCH FIRST " + strconv.Itoa(ck.limit) + " ROWS WITH TIES"
		}
	}
	// Takes the lock that LOCK TABLE … IN ACCESS SHARE MODE would, partitions included, also with rights on columns alone.
	q.lock = "SELECT FROM " + from + " LIMIT 0"
	q.sql = "SELECT " + strings.Join(columns, ", ") + " FROM " + from
	if verdict != "" { // OFFSET 0 has it computed once a row
		q.sql += " CROSS JOIN LATERAL (SELECT (" + filter + ") IS TRUE AS " + verdict + " OFFSET 0) AS " + verdict
	}
	if len(where) > 0 {
		q.sql += " WHERE " + strings.Join(where, " AND ")
	}
	q.sql += order
	return q
}

// filterSQL is the condition under which rows are backfilled: the publication's and the binding's own; "" for all.
func (b *binding) filterSQL() string {
	var filters []string
	if b.table.rowFilter != "" {
		filters = append(filters, "("+b.table.rowFilter+")")
	}
	if b.resource.filter != "" {
		filters = append(filters, "("+b.resource.filter+"\n)") // the text may end in a comment
	}
	return strings.Join(filters, " AND ")
}

// verdictName is a name, as SQL, that neither the table nor a column of it has.
func (b *binding) verdictName() string {
	name := "verdict"
	for name == b.name().name || b.table.column(name) != nil {
		name += "_"
	}
	return quoteIdent(name)
}

// boundTerms makes the key's values the parameters of a query.
func (b *binding) boundTerms(q *scanQuery, key []value) []keyTerm {
	bound := make([]keyTerm, len(key))
	for i, v := range key {
		bound[i] = keyTerm{sql: "$" + strconv.Itoa(i+1) + "::" + b.casts[i], null: v.kind == valueNull}
		q.params = append(q.params, parameter(v))
	}
	return bound
}

// parameter is a value as a query parameter: nil is NULL there, also where it is an empty text.
func parameter(v value) []byte {
	switch {
	case v.kind == valueNull:
		return nil
	case v.data == nil:
		return []byte{}
	}
	return v.data
}

// boundParams is a condition that always holds and mentions every parameter that is NULL: the server wants each parameter
// of a query to have a type.
func boundParams(bound []keyTerm) string {
	var s strings.Builder
	for _, t := range bound {
		if t.null {
			s.WriteString(t.sql + " IS NULL AND ")
		}
	}
	return s.String()
}

// ctidRange is the condition of one chunk of a ctid scan. Before version 14 a range of ctids is a scan of the whole table,
// a list of them is not; a page holds at most 291 tuples (MaxHeapTuplesPerPage of an 8 KiB page), 1,169 of a 32 KiB one.
func ctidRange(l leafCursor, version int) string {
	if version >= 140000 {
		return fmt.Sprintf("ctid > '(%d,%d)' AND ctid < '(%d,0)'", l.Block, l.Offset, l.next)
	}
	return fmt.Sprintf("ctid = ANY (ARRAY(SELECT ('(' || b || ',' || o || ')')::tid FROM generate_series(%d, %d) b, "+
		"generate_series(1, 1169) o WHERE (b, o) > (%d, %d)))", l.Block, l.next-1, l.Block, l.Offset)
}

// xminCondition is the SQL condition that a row was written by the transaction or a later one, in 32-bit modular
// arithmetic below the snapshot's end; 3 is the first normal transaction id.
func xminCondition(xid string) string {
	return "(xmin::text::bigint >= 3 AND (xmin::text::bigint - " + xid + " + 4294967296) % 4294967296 < 2147483648" +
		" AND (txid_snapshot_xmax(txid_current_snapshot()) % 4294967296 - xmin::text::bigint + 4294967296) % 4294967296" +
		" < 2147483648)"
}

// from is the binding's table in a FROM clause: without the rows of inheritance children, which are tables of their own.
func (b *binding) from() string {
	if b.table != nil && b.table.kind == 'p' {
		return quoteTable(b.name())
	}
	return "ONLY " + quoteTable(b.name())
}

// estimatedRows is how many rows the table has, negative when nobody knows. A scan by ctid knows better than the statistics.
func (b *binding) estimatedRows() float64 {
	var done, pages int64
	for _, l := range b.meta.Leaves {
		pages += l.Pages
		if l.Done {
			done += l.Pages
		} else {
			done += min(l.Block, l.Pages)
		}
	}
	switch {
	case b.phase == phaseBackfill && b.byCTID() && done > 0:
		return float64(b.state.Backfilled) * float64(pages) / float64(done)
	case b.table == nil:
		return -1
	}
	return b.table.reltuples
}

// checkOf is the check of a chunk that reads the leaf of the cursor, or the table where there is none.
func (b *binding) checkOf(l *leafCursor, db *database, publication string) *chunkCheck {
	check := &chunkCheck{shape: b.table.shape, sight: b.meta.Sight, byCTID: l != nil}
	place, oid := "''", b.table.oid
	switch {
	case l != nil:
		place, check.place = b.leafPlace(l)
		if b.table.kind == 'p' && !b.isIndirect() {
			oid, check.sight, check.leaf = l.OID, sightAll, true
		}
	case b.table.kind == 'p':
		place, check.place = b.table.partitionsPlace(db.version)
	}
	check.sql = fmt.Sprintf("SELECT coalesce((SELECT %s FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"+
		" WHERE n.nspname = %s AND c.relname = %s), ''), %s, %s", shapeExpression(db.version/10000, publication),
		quoteLiteral(b.name().schema), quoteLiteral(b.name().name), sightExpression(fmt.Sprintf("%d::oid", oid)), place)
	return check
}

// readable reports whether the next chunk may be read now, behind the one that changes are patched into where there is one.
func (b *binding) readable(now time.Time) bool {
	s := &b.scan
	switch {
	case s.state != scanReady || b.partitions.held || s.resting(now):
		return false
	case s.chunk != nil && (s.chunk.final || s.chunk.spoiled != ""):
		return false
	}
	return !b.byCTID() || !leavesDone(b.leavesToRead())
}

// leavesToRead are the cursors of a scan by ctid behind the chunk that changes are patched into.
func (b *binding) leavesToRead() []leafCursor {
	if b.scan.chunk == nil {
		return b.meta.Leaves
	}
	return b.leavesAfter(b.scan.chunk)
}

// describeWaiting names whom the binding waits for.
func (b *binding) describeWaiting() string {
	switch s := &b.scan; s.state {
	case scanWaiting:
		return fmt.Sprintf("%s waits for %d open transactions that may have written to it, the first: %s",
			b.name(), len(s.writers), &s.writers[0])
	case scanUnseen:
		return fmt.Sprintf("%s waits for %d committed transactions to become visible (synchronous replication: is the "+
			"standby away?)", b.name(), len(s.unsettled))
	default:
		return ""
	}
}

// toRead lists the relations whose rows are to be read, and the table that leads to them.
func (b *binding) toRead() []uint32 {
	var oids []uint32
	if b.phase == phaseActive {
		for _, l := range b.meta.Leaves {
			oids = append(oids, l.OID)
		}
		return oids
	}
	oids = append(oids, b.table.oid)
	for _, l := range b.table.leaves {
		if l.oid != b.table.oid {
			oids = append(oids, l.oid)
		}
	}
	return oids
}

// rememberPartitions counts the partitions that the table has as captured, or about to be.
func (b *binding) rememberPartitions() {
	if b.table.kind == 'p' && b.partitions.begin(partitionsOf(b.table)) {
		b.mark()
	}
}

// leafPlace is an expression of a leaf's relfilenode, and of the transaction that attached it if it is a partition, with the
// value under which l is a position in it.
func (b *binding) leafPlace(l *leafCursor) (sql, want string) {
	filenode := fmt.Sprintf("coalesce(pg_relation_filenode(%d::oid), 0)::text", l.OID)
	if b.table.kind != 'p' {
		return filenode, strconv.FormatUint(uint64(l.Filenode), 10)
	}
	sql = fmt.Sprintf("%s || ' ' || coalesce((SELECT i.xmin::text FROM pg_inherits i WHERE i.inhrelid = %d), '0')", filenode, l.OID)
	i := slices.IndexFunc(b.table.partitions, func(p partition) bool { return p.oid == l.OID })
	if i < 0 {
		return sql, "no partition"
	}
	return sql, fmt.Sprintf("%d %d", l.Filenode, b.table.partitions[i].attached)
}

// boundOf is the key up to which the rows of a leaf are to be read; nil for all, also where the stored bound means nothing
// under the key's columns of today.
func (b *binding) boundOf(l *leafCursor) []value {
	if l.UpTo == "" || b.key == nil || b.meta.Key != b.keySignature() || !slices.Equal(b.state.KeyColumns, b.scanColumns()) {
		return nil
	}
	packed, err := base64.StdEncoding.DecodeString(l.UpTo)
	if err != nil {
		return nil
	}
	bound, err := b.key.unpack(packed)
	if err != nil || len(bound) != len(b.terms) {
		return nil
	}
	return bound
}
