// backfill.go owns one chunk: its query, its snapshot, its buffered rows, the patches applied to them, and its settled
// output. Rows are kept as wire bytes in one arena, in the form the stream's tuples have, so that patching is replacing a
// tuple and emission is the code that streaming uses.
// Invariant: between its opening and its closing fence a chunk holds, for its range of keys, the rows of its snapshot with
// every streamed change applied in commit order; rows are found by the exact text of their key, one live row a key.

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"
)

// chunkBuffers is the memory of a chunk, handed from one that has ended to the next.
type chunkBuffers struct {
	arena []byte
	rows  []chunkRow
	index []uint32
}

// borrow has the chunk use the buffers.
func (c *chunk) borrow(b chunkBuffers) {
	c.arena, c.rows, c.index = b.arena[:0], b.rows[:0], b.index[:0]
}

// giveBack ends the chunk and returns its memory.
func (c *chunk) giveBack() chunkBuffers {
	b := chunkBuffers{arena: c.arena, rows: c.rows, index: c.index}
	c.arena, c.rows, c.index, c.live, c.garbage = nil, nil, nil, 0, 0
	return b
}

// chunkRow is one buffered row: arena[at:tuple] is its key's identity, arena[tuple:end] its tuple.
type chunkRow struct {
	at, tuple, end int
	dead           bool // deleted by a patch
	cut            bool // its values were cut for its own sake: no other row may take them over
}

// rowOverhead is the memory of a buffered row beside its bytes: a chunkRow, and two to four places of the index.
const rowOverhead = 48

// chunk is one bounded scan of one binding's table and what has become of it.
type chunk struct {
	binding *binding
	plan    *plan      // of the rows
	table   *table     // as the query saw it
	limit   int        // rows asked for
	budget  int        // bytes
	classes []cutClass // of the rows' columns
	alone   bool       // no other chunk is read in the round

	snapshot snapshot
	arena    []byte
	rows     []chunkRow
	index    []uint32 // open addressing over the rows' identities: row+1, 0 is empty
	seed     maphash.Seed
	live     int
	garbage  int // arena bytes no live row uses

	final  bool    // the table ended within this chunk: its range ends at +∞
	end    []value // key of the last row scanned; nil when none was
	before []value // the key ahead of end, where several rows may share one; tied is where rows with end's key begin
	tied   int
	order  []byte // comparison form of end
	packed []byte // stored form of end
	leaf   leafCursor
	// filtered counts rows that only kept the scan moving and are not part of the chunk.
	filtered int
	bytes    int  // of the rows as they were scanned
	stopped  bool // the query was stopped before its end, the rows so far being kept

	generation int // the binding's when the chunk was asked for

	spoiled string // why the chunk must be read again, "" when it need not
	err     error
	took    time.Duration
	scratch tuple
	// buffered is the row that a patch is merged with.
	buffered tuple
	keyBuf   []value
}

// scanQuery is the query of one chunk.
type scanQuery struct {
	lock   string
	sql    string
	params [][]byte
	// source is the OID of the relation that the query names.
	source uint32
	// ctid is set for ctid scans: the first column of the result is the row's ctid.
	ctid bool
	// passes is set when the next column tells whether the row is part of the chunk, or only keeps the scan moving.
	passes bool
	// ties is set when several rows may have one key: the query returns all of its last one, and a chunk that was
	// stopped ends before the key it was stopped in.
	ties bool
	// whole is set when the query itself returns all rows of its last key (13 and newer).
	whole bool
	// explain has the server's plan of the query logged at level debug, and is not asked for at others. EXPLAIN reads no row and fails
	// where the query would.
	explain bool
	stream  string // the table, for that log
	// searchPath is the search path of the query; "" is that of the session.
	searchPath string
	// leaf is the relation a ctid scan reads.
	leaf leafCursor
	// check runs behind the lock and ahead of the query.
	check *chunkCheck
}

// errWide says that a row is too large for a chunk that is read beside others.
var errWide = errors.New("a row is too large to be read beside those of other tables")

// extra is how many columns of the result precede those of the row.
func (q *scanQuery) extra() (n int) {
	if q.ctid {
		n++
	}
	if q.passes {
		n++
	}
	return n
}

// read runs the query and fills the chunk. The pipeline is one transaction: take the lock that rewriting DDL would hold,
// then a snapshot, then the query, whose own snapshot is at least as new. A chunk that reaches its byte budget or its
// statement timeout is a shorter chunk: its rows came in key order.
func (c *chunk) read(ctx context.Context, conn *pgconn.PgConn, q *scanQuery) error {
	started := time.Now()
	defer func() { c.took = time.Since(started) }()
	q.explain = q.explain && logrus.IsLevelEnabled(logrus.DebugLevel)
	if c.classes != nil {
		rule := budget.cutRule()
		if !c.alone {
			rule.bound = budget.message
		}
		cutRows(conn, append(make([]cutClass, q.extra()), c.classes...), rule)
		defer cutRows(conn, nil, cutRule{})
	}
	p := conn.StartPipeline(ctx)
	p.SendQueryParams("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", nil, nil, nil, nil)
	// A chunk that waits holds up the stream, so it does not wait long for DDL: the binding tries again later.
	p.SendQueryParams("SET LOCAL lock_timeout = '1s'", nil, nil, nil, nil)
	p.SendQueryParams(q.lock, nil, nil, nil, nil)
	p.SendQueryParams("SELECT txid_current_snapshot()::text", nil, nil, nil, nil)
	p.SendQueryParams(q.check.sql, nil, nil, nil, nil)
	if q.searchPath != "" {
		p.SendQueryParams("SELECT set_config('search_path', $1, true)", [][]byte{[]byte(q.searchPath)}, nil, nil, nil)
	}
	if q.explain {
		p.SendQueryParams("EXPLAIN "+q.sql, q.params, nil, nil, nil)
	}
	p.SendQueryParams(q.sql, q.params, nil, nil, nil)
	p.SendQueryParams("COMMIT", nil, nil, nil, nil)
	err := p.Sync()
	if err == nil {
		err = c.consume(ctx, conn, p, q)
	}
	if cerr := p.Close(); err == nil && !c.stopped {
		err = cerr
	}
	return err
}

// readOn is read on a connection of the database's; err keeps its error.
func (c *chunk) readOn(ctx context.Context, db *database, q *scanQuery) error {
	c.err = db.with(ctx, func(conn *pgx.Conn) error { return c.read(ctx, conn.PgConn(), q) })
	return c.err
}

// consume reads the results of the pipeline.
func (c *chunk) consume(ctx context.Context, conn *pgconn.PgConn, p *pgconn.Pipeline, q *scanQuery) error {
	if err := skipResults(p, 3); err != nil {
		return err
	}
	failpoint("chunk.locked")
	text, err := oneRowOf(p, 1)
	if err != nil {
		return err
	}
	if c.snapshot, err = parseSnapshot(text[0]); err != nil {
		return err
	}
	failpoint("chunk.snapshot")
	saw, err := oneRowOf(p, 3)
	if err != nil {
		return err
	}
	if err := q.check.judge(saw[0], saw[1], saw[2]); err != nil {
		return err
	}
	if q.searchPath != "" {
		if err := skipResults(p, 1); err != nil {
			return err
		}
	}
	if q.explain {
		if err := logPlan(p, q); err != nil {
			return err
		}
	}
	results, err := p.GetResults()
	if err != nil {
		return err
	}
	rr, ok := results.(*pgconn.ResultReader)
	if !ok {
		return fmt.Errorf("unexpected result %T", results)
	}
	err = c.rowsFrom(ctx, conn, rr, q)
	failpoint("chunk.rows")
	return err
}

// logPlan logs the result of an EXPLAIN.
func logPlan(p *pgconn.Pipeline, q *scanQuery) error {
	result, err := readResult(p)
	if err != nil {
		return err
	}
	lines := make([]string, len(result.Rows))
	for i, row := range result.Rows {
		lines[i] = string(row[0])
	}
	logrus.WithFields(logrus.Fields{"stream": q.stream, "query": q.sql, "plan": strings.Join(lines, "\n")}).
		Debug("explain backfill query")
	return nil
}

func skipResults(p *pgconn.Pipeline, n int) error {
	for range n {
		results, err := p.GetResults()
		if err != nil {
			return err
		}
		if rr, ok := results.(*pgconn.ResultReader); ok {
			if _, err := rr.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// readResult reads the next result of the pipeline whole.
func readResult(p *pgconn.Pipeline) (*pgconn.Result, error) {
	results, err := p.GetResults()
	if err != nil {
		return nil, err
	}
	rr, ok := results.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("unexpected result %T", results)
	}
	result := rr.Read()
	return result, result.Err
}

// onlyLast sends a pipeline whose statements are one transaction, passes over n results, and returns the one behind them.
func onlyLast(p *pgconn.Pipeline, n int) (*pgconn.Result, error) {
	err := p.Sync()
	if err == nil {
		err = skipResults(p, n)
	}
	var result *pgconn.Result
	if err == nil {
		result, err = readResult(p)
	}
	if cerr := p.Close(); err == nil {
		err = cerr
	}
	return result, err
}

// oneRowOf reads the next result of the pipeline, which is one row of n values.
func oneRowOf(p *pgconn.Pipeline, n int) ([]string, error) {
	result, err := readResult(p)
	if err != nil {
		return nil, err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != n {
		return nil, fmt.Errorf("want one row of %d values, have %d rows", n, len(result.Rows))
	}
	row := make([]string, n)
	for i, v := range result.Rows[0] {
		row[i] = string(v)
	}
	return row, nil
}

// rowsFrom buffers the result's rows.
func (c *chunk) rowsFrom(ctx context.Context, conn *pgconn.PgConn, rr *pgconn.ResultReader, q *scanQuery) error {
	extra := q.extra()
	fields := rr.FieldDescriptions()
	if len(fields) != extra+len(c.plan.columns) {
		_, err := rr.Close()
		if err == nil {
			err = errTableChanged
		}
		return err
	}
	for i, sent := range c.plan.sent {
		// An expression is of no table.
		if f := fields[extra+i]; f.DataTypeOID != sent || f.TableOID != 0 && f.TableOID != q.source {
			if _, err := rr.Close(); err != nil {
				return err
			}
			return errTableChanged
		}
	}
	c.scratch = make(tuple, len(c.plan.columns))
	last := make([]byte, 0, 32) // ctid of the last row
	for rr.NextRow() {
		raw, level, err := rowLevel(rr.Values(), len(fields))
		if err != nil {
			return err
		}
		if level > 0 && !c.alone {
			if len(c.rows)+c.filtered == 0 || q.ties && c.before == nil {
				return c.abandon(ctx, conn, errWide)
			}
			c.bytes = len(c.arena)
			return c.abandon(ctx, conn, c.shorten(q, last))
		}
		if q.ctid {
			last = append(last[:0], raw[0]...)
			raw = raw[1:]
		}
		first := len(c.rows) // the row's place, if it is kept
		keep := true
		if q.passes {
			keep = len(raw[0]) == 1 && raw[0][0] == 't'
			raw = raw[1:]
		}
		for i, v := range raw {
			if v == nil {
				c.scratch[i] = value{kind: valueNull}
			} else {
				c.scratch[i] = value{kind: valueText, data: v}
			}
		}
		if keep {
			c.add(c.scratch)
			c.rows[len(c.rows)-1].cut = level > 0
		} else {
			c.filtered++
		}
		if c.plan.key != nil && !q.ctid {
			c.endAt(c.scratch, q.ties, first)
			for i := range c.end {
				if len(c.end[i].data) > truncateAt-utf8.UTFMax { // it may be cut, and the next chunk would start at this row again
					return fmt.Errorf("%s has a value of more than 8 MiB, too long to be scanned by: choose a collection key of "+
						"shorter values", c.plan.columns[c.plan.key[i]].name)
				}
			}
		}
		if len(c.arena)+len(c.rows)*rowOverhead > c.budget {
			return c.stopQuery(ctx, conn, rr, q, last)
		}
	}
	_, err := rr.Close()
	c.bytes = len(c.arena)
	scanned := len(c.rows) + c.filtered
	if err != nil {
		if cutShort(err) && scanned > 0 && ctx.Err() == nil && (!q.ties || c.before != nil) {
			return c.shorten(q, last)
		}
		return err
	}
	return c.complete(q)
}

// cutShort tells an error that only made the chunk shorter: the statement timeout, or a standby's replay that could not wait
// for the query any longer (it waits until the query has ended, so that the rows before are those of the snapshot).
func cutShort(err error) bool {
	code := sqlState(err)
	return code == codeCanceled || code == codeSerialization
}

// stopQuery cancels the rest of a query whose chunk is full and leaves the connection unusable: a cancel request that
// arrives late would hit whatever runs next on it.
func (c *chunk) stopQuery(ctx context.Context, conn *pgconn.PgConn, rr *pgconn.ResultReader, q *scanQuery, last []byte,
) error {
	c.bytes = len(c.arena)
	if !rr.NextRow() { // nothing is left to cancel
		if _, err := rr.Close(); err != nil {
			if cutShort(err) && ctx.Err() == nil {
				return c.shorten(q, last)
			}
			return err
		}
		return c.complete(q)
	}
	return c.abandon(ctx, conn, c.shorten(q, last))
}

// abandon ends the chunk's query and its connection, and returns err.
func (c *chunk) abandon(ctx context.Context, conn *pgconn.PgConn, err error) error {
	c.stopped = true
	stop, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = conn.CancelRequest(stop)
	_ = conn.Close(stop)
	return err
}

// shorten ends the chunk at the last row that came before its query was stopped.
func (c *chunk) shorten(q *scanQuery, ctid []byte) error {
	c.stopped = true
	if q.ctid {
		c.leaf = q.leaf
		block, offset, err := parseCTID(ctid)
		c.leaf.Block, c.leaf.Offset = block, offset
		return err
	}
	if q.ties {
		return c.cutTies()
	}
	return nil
}

// errTied says that not one whole key fits the chunk.
var errTied = errors.New("more rows than fit a chunk have one key: choose a collection key that tells rows apart")

// cutTies ends the chunk ahead of its last key, of which there may be more rows.
func (c *chunk) cutTies() error {
	if c.before == nil {
		return fmt.Errorf("%w (the key is %s)", errTied, describeKey(c.end))
	}
	c.live -= len(c.rows) - c.tied
	c.rows = c.rows[:c.tied]
	c.rebuildIndex()
	c.end = c.before
	return nil
}

// complete ends the chunk where its query ended by itself. A table has ended only when that returned fewer rows than its
// LIMIT.
func (c *chunk) complete(q *scanQuery) error {
	if q.ctid {
		c.leaf = q.leaf
		c.leaf.Block, c.leaf.Offset = q.leaf.next, 0
		c.leaf.Done = q.leaf.next >= q.leaf.Pages
		return nil
	}
	c.final = len(c.rows)+c.filtered < c.limit
	if q.ties && !q.whole && !c.final {
		return c.cutTies()
	}
	return nil
}

// parseCTID reads (block,offset): a 32-bit and a 16-bit number.
func parseCTID(text []byte) (block int64, offset int, err error) {
	inner, opened := strings.CutPrefix(string(text), "(")
	inner, closed := strings.CutSuffix(inner, ")")
	b, o, ok := strings.Cut(inner, ",")
	place, err := strconv.ParseUint(b, 10, 32)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(o, 10, 16)
		offset = int(n)
	}
	if err != nil || !opened || !closed || !ok {
		return 0, 0, fmt.Errorf("%q is not a ctid", text)
	}
	return int64(place), offset, nil
}

// endAt makes the key of t, the row scanned last, the end of the chunk. first is how many rows were kept before it.
func (c *chunk) endAt(t tuple, ties bool, first int) {
	c.keyBuf = c.plan.keyValues(c.keyBuf, t, nil)
	if ties && c.end != nil && !sameKey(c.end, c.keyBuf) {
		c.before = copyValues(c.before, c.end)
		c.tied = first
	}
	c.end = copyValues(c.end, c.keyBuf)
}

// copyValues copies src into dst, reusing dst's memory.
func copyValues(dst, src []value) []value {
	if len(dst) != len(src) {
		dst = make([]value, len(src))
	}
	for i, v := range src {
		dst[i].kind = v.kind
		dst[i].data = append(dst[i].data[:0], v.data...)
	}
	return dst
}

// add buffers a row of the query.
func (c *chunk) add(t tuple) {
	at := len(c.arena)
	if c.plan.key != nil {
		c.keyBuf = c.plan.keyValues(c.keyBuf, t, nil)
		c.arena = appendIdentity(c.arena, c.keyBuf)
	}
	mid := len(c.arena)
	c.arena = appendTuple(c.arena, t)
	c.rows = append(c.rows, chunkRow{at: at, tuple: mid, end: len(c.arena)})
	c.live++
	if c.plan.key != nil {
		c.insertIndex(len(c.rows) - 1)
	}
}

func (c *chunk) insertIndex(row int) {
	if len(c.rows)*4 > len(c.index)*3 {
		c.rebuildIndex()
		return // the rebuild has put this row in as well
	}
	c.place(row)
}

func (c *chunk) place(row int) {
	r := &c.rows[row]
	mask := uint64(len(c.index) - 1)
	slot := maphash.Bytes(c.seed, c.arena[r.at:r.tuple]) & mask
	for c.index[slot] != 0 {
		slot = (slot + 1) & mask
	}
	c.index[slot] = uint32(row) + 1
}

func (c *chunk) rebuildIndex() {
	size := 1024
	for size < 2*len(c.rows) {
		size *= 2
	}
	if cap(c.index) >= size {
		c.index = c.index[:size]
		clear(c.index)
	} else {
		c.index = make([]uint32, size)
	}
	for row := range c.rows {
		c.place(row)
	}
}

// find returns the row of an identity, dead or alive, or -1.
func (c *chunk) find(identity []byte) int {
	if len(c.index) == 0 {
		return -1
	}
	mask := uint64(len(c.index) - 1)
	slot := maphash.Bytes(c.seed, identity) & mask
	for ; c.index[slot] != 0; slot = (slot + 1) & mask {
		row := int(c.index[slot]) - 1
		if r := &c.rows[row]; bytes.Equal(c.arena[r.at:r.tuple], identity) {
			return row
		}
	}
	return -1
}

// holds reports whether a live row has the identity.
func (c *chunk) holds(identity []byte) bool {
	row := c.find(identity)
	return row >= 0 && !c.rows[row].dead
}

// put makes t the row of the identity. Unchanged TOAST values of t keep what the buffered row has, or what fill has,
// which may be nil, and stay unchanged where neither has them whole. cut is that of t.
func (c *chunk) put(identity []byte, t, fill tuple, cut bool) {
	row := c.find(identity)
	if row >= 0 && !c.rows[row].dead {
		t = c.merge(t, &c.rows[row], fill)
	} else if fill != nil {
		t = c.merge(t, nil, fill)
	}
	at := len(c.arena)
	c.arena = append(c.arena, identity...)
	mid := len(c.arena)
	c.arena = appendTuple(c.arena, t)
	if row < 0 {
		c.rows = append(c.rows, chunkRow{at: at, tuple: mid, end: len(c.arena), cut: cut})
		c.insertIndex(len(c.rows) - 1)
		c.live++
		return
	}
	r := &c.rows[row]
	c.garbage += r.end - r.at
	if r.dead {
		c.garbage -= r.end - r.tuple // counted when it was removed
		c.live++
	}
	*r = chunkRow{at: at, tuple: mid, end: len(c.arena), cut: cut}
}

// patch applies a change, by which a row stands under the identity of its key or has left it. One of another shape spoils the chunk.
// cut is that of the row.
func (c *chunk) patch(p *plan, identity []byte, d *document, cut bool) {
	if c.plan != p && !c.plan.sameShape(p.columns) {
		c.spoil("the table changed its shape")
		return
	}
	if d.op == 'd' {
		failpoint("patch.remove")
		c.remove(identity)
		return
	}
	failpoint("patch.put")
	if d.op == 'c' { // takes nothing from a row that stood there before
		c.remove(identity)
	}
	c.put(identity, d.row, d.fill, cut)
	c.compact()
}

// merge returns t with its unchanged values taken from fill, then from the buffered row.
func (c *chunk) merge(t tuple, buffered *chunkRow, fill tuple) tuple {
	if !t.lacks() {
		return t
	}
	c.scratch = append(c.scratch[:0], t...)
	var old tuple
	if buffered != nil && !buffered.cut {
		// It aliases the arena, which only grows behind it while the merged row is appended.
		old, _, _ = decodeTuple(c.buffered, c.arena[buffered.tuple:buffered.end])
		assert(len(old) == len(t), "a buffered tuple decodes to the columns of its plan")
		c.buffered = old
	}
	c.scratch.fill(fill)
	c.scratch.fill(old)
	return c.scratch
}

// remove deletes the row of the identity, if there is one.
func (c *chunk) remove(identity []byte) {
	if row := c.find(identity); row >= 0 && !c.rows[row].dead {
		c.rows[row].dead = true
		c.garbage += c.rows[row].end - c.rows[row].tuple
		c.live--
	}
}

// row returns a live row's tuple, decoded into dst, aliasing the arena.
func (c *chunk) row(dst tuple, i int) tuple {
	r := &c.rows[i]
	t, _, err := decodeTuple(dst[:0], c.arena[r.tuple:r.end])
	assert(err == nil, "a buffered tuple decodes")
	return t
}

// clearRows forgets every row: the table was truncated.
func (c *chunk) clearRows() {
	c.arena, c.rows, c.live, c.garbage = c.arena[:0], c.rows[:0], 0, 0
	clear(c.index)
}

// packEnd makes the forms in which the chunk's end is compared and stored, and reports whether the chunk could be read.
func (c *chunk) packEnd(key *scanKey) bool {
	if c.err == nil && c.end != nil && key != nil {
		c.order, c.err = key.appendOrder(nil, c.end)
		if c.err == nil && !c.final && c.leaf.OID == 0 {
			c.packed, c.err = key.appendPacked(nil, c.end)
		}
	}
	return c.err == nil
}

// discard has the chunk count no more: it stands on an end that is not settled.
func (c *chunk) discard() { c.generation = -1 }

// spoil marks the chunk as one to be read again and frees its rows.
func (c *chunk) spoil(reason string) {
	if c.spoiled == "" {
		c.spoiled = reason
	}
	c.giveBack()
}

// allowance is how large the chunk may become by patches.
func (c *chunk) allowance() int { return 2 * max(c.budget, c.bytes) }

// isWide reports whether the chunk is larger than a row that is read beside others may make it.
func (c *chunk) isWide() bool { return c.bytes > c.budget+budget.message }

// compact drops garbage when it outweighs the rest, and spoils a chunk that patches have outgrown.
func (c *chunk) compact() {
	if len(c.arena) <= c.allowance() {
		return
	}
	if len(c.arena)-c.garbage > c.allowance() && c.live > 1 {
		c.spoil("the changes patched into it outgrew its budget")
		return
	}
	if c.garbage < len(c.arena)/2 {
		return
	}
	// Live rows are moved down in place, in the order in which they lie there.
	rows := slices.DeleteFunc(c.rows, func(r chunkRow) bool { return r.dead })
	order := make([]*chunkRow, len(rows))
	for i := range rows {
		order[i] = &rows[i]
	}
	slices.SortFunc(order, func(a, b *chunkRow) int { return cmp.Compare(a.at, b.at) })
	arena := c.arena[:0]
	for _, r := range order {
		at := len(arena)
		arena = append(arena, c.arena[r.at:r.end]...)
		r.at, r.tuple, r.end = at, at+r.tuple-r.at, len(arena)
	}
	c.arena, c.rows, c.garbage = arena, rows, 0
	c.rebuildIndex()
}

// keyTerm is one column of a key in SQL, as a side of a comparison: the column, or the cast of a parameter.
type keyTerm struct {
	sql            string
	null           bool   // the term is a NULL value, known when the SQL is built
	nullable       bool   // the term may be NULL, known only to the server
	equal, greater string // the operators ORDER BY stands for; "" is = and >
}

// compare is the SQL of t operator o, the operator being the type's.
func (t *keyTerm) compare(operator, plain string, o *keyTerm) string {
	if operator == "" {
		operator = plain
	}
	return t.sql + " " + operator + " " + o.sql
}

// isNull is the SQL condition that the term is NULL. IS NULL also holds for a row of nothing but NULLs, which is no NULL and
// sorts as a value.
func (t *keyTerm) isNull() string { return t.sql + " IS NOT DISTINCT FROM NULL" }

// sqlAfter is the SQL condition that key a comes after key b in ORDER BY's order (ascending, NULLS LAST). Plain row
// comparison, which an index serves, unless a term may be NULL.
func sqlAfter(a, b []keyTerm) string {
	plain := true
	for i := range a {
		plain = plain && !a[i].nullable && !a[i].null && !b[i].null && !b[i].nullable &&
			(a[i].greater == "" || a[i].greater == ">")
	}
	if plain {
		return "(" + joinTerms(a) + ") > (" + joinTerms(b) + ")"
	}
	var either []string
	var equal []string
	for i := range a {
		var greater string
		switch {
		case b[i].null: // nothing comes after NULL
		case a[i].null:
			greater = "true"
		case a[i].nullable:
			greater = "(" + a[i].isNull() + " OR " + a[i].compare(a[i].greater, ">", &b[i]) + ")"
		default:
			greater = a[i].compare(a[i].greater, ">", &b[i])
		}
		if greater != "" {
			either = append(either, "("+strings.Join(append(slices.Clone(equal), greater), " AND ")+")")
		}
		switch {
		case b[i].null && a[i].null:
		case b[i].null:
			equal = append(equal, a[i].isNull())
		case a[i].null:
			equal = append(equal, "false")
		default:
			equal = append(equal, a[i].compare(a[i].equal, "=", &b[i]))
		}
	}
	if len(either) == 0 {
		return "false"
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

func joinTerms(terms []keyTerm) string {
	parts := make([]string, len(terms))
	for i, t := range terms {
		parts[i] = t.sql
	}
	return strings.Join(parts, ", ")
}

// comparison is how values of a type are compared in SQL.
type comparison struct {
	cast           string // the type's name
	equal, greater string // operators, qualified when not of pg_catalog
}
