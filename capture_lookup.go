// capture_lookup.go owns what is asked of the server about single rows while the stream stands still: the row of a key as it is now, and
// which keys lie behind which.
// Invariant: a row counts only from a snapshot that sees the transaction being applied, and every streamed one that a chunk of its
// table is still to see: a newer value is fine, an older one is not. Only values are read that no tuple at hand has (value_toast.go).

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// lookup answers questions about rows. There is one without a server, for tests.
type lookup interface {
	// row reads the row that is wanted as it is now: its lacking values, the others of the result are not to be used. seen is false
	// where the snapshot that it was read under does not count. row is nil when there is no such row; errTableChanged when not all of
	// those columns are there any more, or with other types; errHidden when row-level security may keep it from us.
	row(ctx context.Context, w *wantedRow) (row tuple, seen bool, err error)
	// after tells of each of the keys whether it comes after each of the bounds in the order that a scan walks by.
	after(ctx context.Context, b *binding, keys []askedKey, bounds [][]value) ([][]bool, error)
}

// wantedRow is a row of a binding's table of which some values are wanted.
type wantedRow struct {
	binding *binding
	plan    *plan
	key     []value
	lacking tuple  // the row as far as it is known: what it lacks is wanted
	xid     uint32 // the transaction being applied
}

// sees reports whether a row that is read under a snapshot counts.
func (w *wantedRow) sees(s *snapshot) bool {
	return s.sees(w.xid) && !slices.ContainsFunc(w.binding.scan.unsettled, func(xid uint32) bool { return !s.sees(xid) })
}

// wanted is a row that is to be read for the transaction being streamed.
func (c *capture) wanted(b *binding, p *plan, key []value, lacking tuple) *wantedRow {
	return &wantedRow{binding: b, plan: p, key: key, lacking: lacking, xid: c.changes.tx.begin.xid}
}

// currentRow reads the row that stands under a key now, with all its columns that are still there.
func (c *capture) currentRow(e *relationEntry, key []value) (tuple, error) {
	return c.awaitRest(c.wanted(e.binding, e.plan, key, lackingAll(len(e.plan.columns))))
}

// awaitRest is awaitRow for what the stream emits: a value that is gone with its column stays unchanged, the others are read.
func (c *capture) awaitRest(w *wantedRow) (tuple, error) {
	row, err := c.awaitRow(w)
	if !errors.Is(err, errTableChanged) {
		return row, err
	}
	rest := cloneTuple(w.lacking)
	one := *w
	one.lacking = make(tuple, len(rest))
	for i := range rest {
		if w.lacking[i].kind != valueUnchanged {
			continue
		}
		clear(one.lacking)
		one.lacking[i] = w.lacking[i]
		switch row, err := c.awaitRow(&one); {
		case errors.Is(err, errTableChanged):
		case err != nil || row == nil:
			return nil, err
		default:
			rest[i] = row[i]
		}
	}
	return rest, nil
}

// awaitRow reads a row as soon as it counts. It is nil when there is none; errTableChanged when the columns are not those of the
// plan. Where our role may not see the row, the binding is parked (errParked), or what the user has chosen not to see stays
// unchanged.
func (c *capture) awaitRow(w *wantedRow) (tuple, error) {
	b := w.binding
	started, told := time.Now(), false
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if c.report(); time.Since(started) > 5*time.Second {
			c.status("A row of %s must be read again and waits for transaction %d to become visible (synchronous replication: is "+
				"the standby away?)", b.name(), w.xid)
		}
		failpoint("reread.before")
		row, seen, err := c.lookup.row(c.ctx, w)
		switch {
		case errors.Is(err, errTableChanged):
			return nil, err
		case errors.Is(err, errHidden):
			return c.rowHidden(b, w.key, w.lacking)
		case err == nil:
		case mayPass(err) && c.ctx.Err() == nil && time.Since(started) < c.patienceWith(b):
			if !told {
				c.status("A row of %s must be read again, and the stream waits for it: %s", b.name(), serverReason(err))
			}
			told, seen = true, false
		case !linkFailed(err) && !mayPass(err) && c.parkUnreadable(b, err):
			return nil, errParked
		default:
			return nil, fmt.Errorf("read the row %s of %s again: %w", describeKey(w.key), b.name(), err)
		}
		if seen {
			failpoint("reread.after")
			return row, nil
		}
		select {
		case <-time.After(pause):
		case <-c.ctx.Done():
			return nil, context.Cause(c.ctx)
		}
	}
}

// serverLookup asks the server.
type serverLookup struct{ db *database }

func (l serverLookup) row(ctx context.Context, w *wantedRow) (row tuple, seen bool, err error) {
	err = l.db.with(ctx, func(conn *pgx.Conn) (err error) {
		row, seen, err = readCurrentRow(ctx, conn, w)
		return err
	})
	return row, seen, err
}

func readCurrentRow(ctx context.Context, conn *pgx.Conn, w *wantedRow) (tuple, bool, error) {
	b, p := w.binding, w.plan
	var columns, where []string
	var params [][]byte
	var at []int // place of each column of the result in the row
	for i, c := range p.columns {
		if w.lacking[i].kind == valueUnchanged || slices.Contains(p.key, i) {
			columns, at = append(columns, quoteIdent(c.name)), append(at, i)
		}
	}
	for i, v := range w.key {
		column := quoteIdent(p.columns[p.key[i]].name)
		if v.kind == valueNull {
			where = append(where, column+" IS NULL")
			continue
		}
		params = append(params, parameter(v))
		equal := "="
		if len(b.terms) == len(w.key) && b.terms[i].equal != "" {
			equal = b.terms[i].equal
		}
		where = append(where, column+" "+equal+" $"+strconv.Itoa(len(params)))
	}
	pg := conn.PgConn()
	// The snapshot is taken first: the query that follows sees at least as much.
	oid := uint32(0)
	if b.table != nil {
		oid = b.table.oid
	}
	sqlHides := fmt.Sprintf("row_security_active(%d::oid)::text", oid)
	seen := pg.ExecParams(ctx, "SELECT txid_current_snapshot()::text, "+sqlHides, nil, nil, nil, nil).Read()
	if seen.Err != nil {
		return nil, false, seen.Err
	}
	taken, err := parseSnapshot(string(seen.Rows[0][0]))
	if err != nil {
		return nil, false, err
	}
	if !w.sees(&taken) {
		return nil, false, nil
	}
	whole, classes := p.cutClasses(), make([]cutClass, len(at))
	for i, place := range at {
		classes[i] = whole[place]
	}
	cutRows(pg, classes, budget.cutRule())
	defer cutRows(pg, nil, cutRule{})
	pipeline := pg.StartPipeline(ctx) // one transaction, to which the timeout belongs: the stream stands still meanwhile
	pipeline.SendQueryParams("SELECT set_config('lock_timeout', '1s', true)", nil, nil, nil, nil)
	pipeline.SendQueryParams("SELECT "+strings.Join(columns, ", ")+" FROM "+b.from()+" WHERE "+strings.Join(where, " AND "),
		params, nil, nil, nil)
	result, err := onlyLast(pipeline, 1)
	switch code := sqlState(err); {
	case code == codeUndefinedColumn || code == codeUndefinedTable:
		return nil, false, errTableChanged
	case err != nil:
		return nil, false, err
	}
	for i, f := range result.FieldDescriptions {
		// A string takes the text of any type.
		if sent := p.sent[at[i]]; f.DataTypeOID != sent && sent != pgtype.TextOID && sent != pgtype.VarcharOID {
			return nil, false, errTableChanged
		}
	}
	row := make(tuple, len(p.columns))
	for _, raw := range result.Rows {
		if raw, _, err = rowLevel(raw, len(at)); err != nil {
			return nil, false, err
		}
		for i, v := range raw {
			row[at[i]] = value{kind: valueText, data: v}
			if v == nil {
				row[at[i]].kind = valueNull
			}
		}
		if sameKey(p.keyValues(nil, row, nil), w.key) { // the server may call other texts equal too
			return row, true, nil
		}
	}
	hides := string(seen.Rows[0][1]) == "true"
	if !hides { // it may have come between the two queries
		after := pg.ExecParams(ctx, "SELECT "+sqlHides, nil, nil, nil, nil).Read()
		if after.Err != nil {
			return nil, false, after.Err
		}
		hides = string(after.Rows[0][0]) == "true"
	}
	if hides {
		return nil, false, errHidden
	}
	return nil, true, nil
}

func (l serverLookup) after(ctx context.Context, b *binding, keys []askedKey, bounds [][]value) (after [][]bool, err error) {
	err = l.db.with(ctx, func(conn *pgx.Conn) (err error) {
		after, err = askAfter(ctx, conn, b, keys, bounds)
		return err
	})
	return after, err
}

// askAfter asks the server, for each of the keys, whether it comes after each of the bounds.
func askAfter(ctx context.Context, conn *pgx.Conn, b *binding, keys []askedKey, bounds [][]value) ([][]bool, error) {
	var params [][]byte
	param := func(v value, i int) string {
		params = append(params, parameter(v))
		return "($" + strconv.Itoa(len(params)) + "::" + b.casts[i] + ")"
	}
	var rows, names, columns []string
	for i, k := range keys {
		row := []string{strconv.Itoa(i)}
		for j, v := range k.values {
			row = append(row, param(v, j))
		}
		rows = append(rows, "("+strings.Join(row, ",")+")")
	}
	left := make([]keyTerm, len(b.terms))
	for i := range left {
		names = append(names, "c"+strconv.Itoa(i))
		left[i] = b.terms[i]
		left[i].sql = names[i]
	}
	for _, bound := range bounds {
		right := make([]keyTerm, len(bound))
		for i, v := range bound {
			if right[i].null = v.kind == valueNull; !right[i].null {
				right[i].sql = param(v, i)
			}
		}
		columns = append(columns, "coalesce("+sqlAfter(left, right)+", false)::text")
	}
	result := conn.PgConn().ExecParams(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM (VALUES "+strings.Join(rows, ",")+
		") AS k (i, "+strings.Join(names, ", ")+") ORDER BY i", params, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != len(keys) {
		return nil, fmt.Errorf("want %d rows, have %d", len(keys), len(result.Rows))
	}
	after := make([][]bool, len(keys))
	for i, row := range result.Rows {
		for _, v := range row {
			after[i] = append(after[i], string(v) == "true")
		}
	}
	return after, nil
}

// askedKey is a key whose side the server is to tell.
type askedKey struct {
	identity string
	values   []value
}

// mostAsked bounds the keys of one question, and with the columns of a key the parameters of its query (65,535 at most).
const mostAsked = 1000

// askOrder finds out where the key of the document being judged lies. Answers are kept until the window changes; a question
// includes the keys of the changes that have already arrived, so that a round trip serves many.
func (c *capture) askOrder(b *binding, key []value) error {
	j, ck := &c.changes, b.scan.patched()
	if j.unordered != nil {
		return c.keyUnordered(b, j.unordered)
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
	asked := c.arrivedKeys(b, ck, []askedKey{{identity: string(j.identity), values: key}})
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
		return c.keyUnordered(b, fmt.Errorf("compare key %s on the server: %w", describeKey(key), err))
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
	return nil
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
		e := c.changes.relations[ch.relation]
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
