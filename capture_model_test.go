package main

// capture_model_test.go proves the hand-over between backfill and stream on a model of a database, without a server: every short
// sequence of inserts, updates, deletes and key moves over a few rows, interleaved in every way with the capture's reads
// and fences, with commits that are streamed before they are visible, with a stream that is far ahead or far behind, and
// with kills. Each run's committed output must be a strict history and leave the database's rows.

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"source-postgres/tests/history"
)

var (
	modelRuns = flag.Int("model-runs", 0, "random runs of TestModelRandom; 0: a few thousand")
	modelAll  = flag.Bool("model-all", false, "have TestModelExhaustive run every combination, for a minute or two")
)

// modelOp is one change of one row.
type modelOp struct {
	// I, U, D; M moves a row to a free key; T empties the table. On a deferrable key: S swaps two rows, P moves a row to the
	// key via, where another stands, and on to a free one.
	op           byte
	key, to, via int
	keepsBig     bool // the TOAST value is not touched
}

// touches reports whether the row of a key, or one that comes there, is changed.
func (o modelOp) touches(key int) bool {
	return o.op == 'T' || o.key == key || o.to == key || o.op == 'P' && o.via == key
}

func (o modelOp) String() string {
	switch o.op {
	case 'M', 'S':
		return fmt.Sprintf("%c%d→%d", o.op, o.key, o.to)
	case 'P':
		return fmt.Sprintf("P%d→%d→%d", o.key, o.via, o.to)
	}
	return fmt.Sprintf("%c%d", o.op, o.key)
}

type modelValues struct{ v, big string }

// modelTransaction is committed once it is in the WAL, and visible a while later.
type modelTransaction struct {
	ops     []modelOp
	visible bool
	xid     uint32
}

func (x *modelTransaction) touches(key int) bool {
	return slices.ContainsFunc(x.ops, func(o modelOp) bool { return o.touches(key) })
}

func (x *modelTransaction) truncates() bool {
	return slices.ContainsFunc(x.ops, func(o modelOp) bool { return o.op == 'T' })
}

// walEntry is a transaction of the WAL: changes of the table, or a watermark.
type walEntry struct {
	messages  []string
	watermark string
	xid       uint32
}

func (m *model) final(i int) lsn { return lsn(1000 * (i + 1)) }

// pace is when the stream is read.
type pace int

const (
	paceEager pace = iota // before anything else
	paceLazy              // when nothing else can happen
	paceAny               // at any time
)

// model is the database and the capture beside it.
type model struct {
	t      testing.TB
	choose func(n int) int // the next decision: one of n
	full   bool            // replica identity
	first  bool            // the collection is empty
	// deferrable: the key is checked at commit
	deferrable bool
	pace       pace
	limit      int // rows of a chunk
	kills      int // still to come
	within     int // bytes of documents behind which a checkpoint stands inside a transaction; 0: never. Kills come there, too
	initial    map[int]modelValues
	template   *testCapture // its output, types and table serve every run
	trace      []string

	todo      []*modelTransaction
	committed []*modelTransaction
	wal       []walEntry

	c         *testCapture
	read      int    // of wal, by the present session
	reading   *chunk // read, its fence not written
	fence     string // of the round being read
	catchUp   bool   // the fence of the catch-up stands in the WAL
	awaited   []*modelTransaction
	described bool

	committedDocs []emitted    // up to the last checkpoint of any session
	emptied       map[int]bool // keys that had documents when the table was emptied
	state         json.RawMessage
	cursor        lsn
}

// apply plays a transaction on rows; messages, when wanted, are those of its changes.
func (m *model) apply(rows map[int]modelValues, x *modelTransaction, wantMessages bool) (messages []string) {
	mark := "K"
	for i, o := range x.ops {
		stamp := fmt.Sprintf("x%d.%d", x.xid, i)
		old := rows[o.key]
		oldKey := []string{"t" + strconv.Itoa(o.key), "n", "n"}
		if m.full {
			mark, oldKey = "O", []string{"t" + strconv.Itoa(o.key), "t" + old.v, "t" + old.big}
		}
		made := modelValues{v: stamp, big: "B" + stamp}
		if o.keepsBig {
			made.big = old.big
		}
		spell := func(key int) []string {
			big := "t" + made.big
			if o.keepsBig {
				big = "u"
			}
			return []string{"t" + strconv.Itoa(key), "t" + made.v, big}
		}
		move := func(row modelValues, from, to int) string { // of the key alone
			image := []string{"t" + strconv.Itoa(from), "t" + row.v, "t" + row.big}
			return updateText(testOID, "O", image, []string{"t" + strconv.Itoa(to), "t" + row.v, "u"})
		}
		var message string
		switch o.op {
		case 'T':
			clear(rows)
			message = "T" + u32(1) + "\x00" + u32(testOID)
		case 'S':
			other := rows[o.to]
			rows[o.key], rows[o.to] = other, old
			if wantMessages {
				messages = append(messages, move(old, o.key, o.to))
			}
			message = move(other, o.to, o.key)
		case 'P':
			delete(rows, o.key)
			rows[o.to] = old
			if wantMessages {
				messages = append(messages, move(old, o.key, o.via))
			}
			message = move(old, o.via, o.to)
		case 'I':
			rows[o.key] = made
			message = insertText(testOID, spell(o.key)...)
		case 'U':
			rows[o.key] = made
			if m.full {
				message = updateText(testOID, mark, oldKey, spell(o.key))
			} else {
				message = updateText(testOID, "", nil, spell(o.key))
			}
		case 'D':
			delete(rows, o.key)
			message = deleteText(testOID, mark, oldKey...)
		case 'M':
			delete(rows, o.key)
			rows[o.to] = made
			message = updateText(testOID, mark, oldKey, spell(o.to))
		}
		if wantMessages {
			messages = append(messages, message)
		}
	}
	return messages
}

func (m *model) rows(visibleOnly bool) map[int]modelValues {
	rows := make(map[int]modelValues, len(m.initial))
	for k, v := range m.initial {
		rows[k] = v
	}
	for _, x := range m.committed {
		if x.visible || !visibleOnly {
			m.apply(rows, x, false)
		}
	}
	return rows
}

// snapshot is what a query sees now.
func (m *model) snapshot() snapshot {
	s := snapshot{xmin: 700, xmax: uint64(700 + len(m.wal))}
	for _, x := range m.committed {
		if !x.visible {
			s.xip = append(s.xip, uint64(x.xid))
		}
	}
	return s
}

// start begins a session from the last checkpoint.
func (m *model) start() {
	m.template.sink.Reset()
	m.template.out.buf, m.template.out.open, m.template.out.dirty = m.template.out.buf[:0], false, false
	m.c = makeTestCapture(m.t, m.template.b.table, modeAutomatic, testEnds{m.template.out, m.template.sink, m.template.types})
	m.c.b.sourced, m.c.b.plan = m.template.b.plan, m.template.b.plan
	m.reading, m.fence, m.catchUp, m.described = nil, "", false, false
	b := m.c.b
	if m.state == nil {
		b.meta.First = m.first
		m.c.backfill()
	} else {
		state, err := parseState(m.state)
		if err != nil {
			m.t.Fatalf("%s: %v", m.state, err)
		}
		if stored := state.Bindings["t"]; stored != nil {
			b.state = stored
			b.meta, _ = stored.metadata()
			if b.phase = phaseBackfill; stored.Mode == storedActive {
				b.phase = phaseActive
			} else {
				m.c.backlog.reading = []*binding{b}
				b.scan.begin(nil, 50_000, false)
			}
			if err := b.resume(); err != nil {
				m.t.Fatal(err)
			}
		} else {
			b.meta.First = m.first
			m.c.backfill()
		}
	}
	m.c.lookup = testLookup(m.lookup)
	m.c.ledger.cursor, m.c.stage = m.cursor, stageCatchUp
	m.c.placesFailed(m.c.ledger.begin(m.c.bindings))
	if m.within > 0 {
		m.c.ledger.within.large = m.within
	}
	m.read = 0
	for m.read < len(m.wal) && m.final(m.read)+10 <= m.cursor {
		m.read++
	}
	m.awaited = nil // writers at the start are waited for
	for _, x := range m.committed {
		if !x.visible {
			m.awaited = append(m.awaited, x)
		}
	}
	m.c.rounds.ahead = &round{done: make(chan struct{})}
}

func (m *model) writeFence() {
	m.fence = fmt.Sprint("w", len(m.wal))
	m.wal = append(m.wal, walEntry{watermark: m.fence, xid: uint32(700 + len(m.wal)), messages: []string{
		relationText(watermarksOID, watermarksTable, 'd', watermarkShape...), insertText(watermarksOID, "tflow_slot", "t"+m.fence),
	}})
	r := m.c.rounds.ahead
	r.fence = &fence{watermark: []byte(m.fence)}
	close(r.done)
	m.catchUp, m.reading = true, nil
	if m.c.rounds.open == nil {
		m.promote()
	}
}

func (m *model) promote() {
	if err := m.c.promote(); err != nil {
		m.t.Fatalf("%v: %v", m.trace, err)
	}
}

// startRead reads the next chunk as startRound and scan do.
func (m *model) startRead() {
	b := m.c.b
	ck := &chunk{
		binding: b, plan: b.plan, table: b.table, limit: m.limit, budget: 1 << 20, seed: m.c.seed, generation: b.scan.generation,
		snapshot: m.snapshot(),
	}
	lower := b.scan.scanned
	if b.scan.chunk != nil {
		lower = b.scan.chunk.end
	}
	after := -1
	if lower != nil {
		after, _ = strconv.Atoi(string(lower[0].data))
	}
	rows := m.rows(true)
	for _, k := range sortedKeys(rows) {
		if k > after && len(ck.rows) < m.limit {
			t := texts(strconv.Itoa(k), rows[k].v, rows[k].big)
			ck.add(t)
			ck.endAt(t, false, len(ck.rows)-1)
		}
	}
	ck.final = len(ck.rows) < m.limit
	m.c.rounds.ahead = &round{chunks: []*chunk{ck}, done: make(chan struct{})}
	m.reading = ck
}

func sortedKeys[V any](rows map[int]V) []int {
	var keys []int
	for k := range rows {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// mayRead is what pick and startRound ask.
func (m *model) mayRead() bool {
	b := m.c.b
	locked := slices.ContainsFunc(m.committed, func(x *modelTransaction) bool { return !x.visible && x.truncates() })
	return m.c.stage == stageCapture && m.c.rounds.ahead == nil && b.phase == phaseBackfill && b.scan.state == scanReady && len(m.awaited) == 0 && !locked &&
		(b.scan.chunk == nil || !b.scan.chunk.final && b.scan.chunk.spoiled == "")
}

// mayStream tells whether a message can be taken: at an opening fence the stream waits for what is being read.
func (m *model) mayStream() bool {
	return m.read < len(m.wal) && (m.c.rounds.open != nil || m.c.rounds.ahead == nil)
}

// consume streams one transaction.
func (m *model) consume() {
	w := m.wal[m.read]
	final := m.final(m.read)
	m.read++
	m.c.at = final - 500
	var err error
	if m.c.at++; !m.described {
		m.described = true
		m.c.at--
		err = m.c.send(relationText(testOID, m.c.b.name(), m.c.b.table.identity, m.c.b.plan.columns...))
	}
	for _, message := range slices.Concat([]string{beginText(final, w.xid)}, w.messages) {
		if m.within > 0 && m.kills > 0 && err == nil && m.choose(4) == 0 {
			m.trace = append(m.trace, "kill within")
			m.kills--
			m.collect()
			m.start()
			return
		}
		if err == nil {
			err = m.c.send(message)
		}
	}
	if m.c.at = final; err == nil {
		err = m.c.send(commitText(final, final+10))
	}
	if slices.ContainsFunc(w.messages, func(message string) bool { return message[0] == 'T' }) {
		m.noteEmptied()
	}
	if err == nil && m.c.rounds.open != nil && m.c.rounds.open.fence.passed {
		err = m.c.settle()
	}
	if err == nil && m.c.ledger.due {
		err = m.c.checkpoint()
	}
	if err != nil {
		m.t.Fatalf("%v: %v", m.trace, err)
	}
	if m.c.rounds.open == nil && m.c.rounds.ahead != nil && m.c.rounds.ahead.fence != nil {
		m.promote()
	}
	m.collect()
}

// noteEmptied notes which keys have documents.
func (m *model) noteEmptied() {
	m.emptied = make(map[int]bool)
	for key := range m.initial {
		m.emptied[key] = !m.first // by the last backfill
	}
	written := slices.Concat(m.c.sink.Bytes(), m.c.out.buf)
	for _, e := range slices.Concat(m.committedDocs, parseOutput(m.t, written)) {
		if e.patch == "" {
			m.emptied[m.idOf(e.doc)] = true
		}
	}
}

// lookup is the row that a key has now, once the transactions are visible that a reading waits for. One of which nothing is known
// is as the transaction being streamed leaves it: documents that follow tell of a later one again.
func (m *model) lookup(w *wantedRow) (tuple, error) {
	var rows map[int]modelValues
	if w.whole() {
		rows = maps.Clone(m.initial)
		for _, x := range m.committed {
			if x.xid <= w.xid {
				m.apply(rows, x, false)
			}
		}
	} else {
		for _, x := range m.committed {
			if x.xid == w.xid || slices.Contains(w.binding.scan.unsettled, x.xid) {
				x.visible = true
			}
		}
		rows = m.rows(true)
	}
	at, err := strconv.Atoi(string(w.key[0].data))
	row, ok := rows[at]
	if err != nil || !ok {
		return nil, err
	}
	return texts(strconv.Itoa(at), row.v, row.big), nil
}

// collect takes what a checkpoint has committed.
func (m *model) collect() {
	written := m.c.sink.Bytes()
	if len(written) == 0 {
		return
	}
	all := parseOutput(m.t, written)
	last := -1
	for i, e := range all {
		if e.patch != "" {
			last = i
			m.merge(e.patch)
		}
	}
	if last < 0 {
		return
	}
	if last != len(all)-1 && !m.c.changes.tx.open {
		m.t.Fatalf("%v: documents reached the output before their checkpoint was due", m.trace)
	}
	m.committedDocs = append(m.committedDocs, all[:last+1]...)
	m.c.sink.Reset()
}

// merge applies a checkpoint's patch; one binding is written whole.
func (m *model) merge(patch string) {
	next, err := parseState(json.RawMessage(patch))
	if err != nil {
		m.t.Fatal(err)
	}
	if m.state != nil && next.Bindings["t"] == nil {
		old, err := parseState(m.state)
		if err != nil {
			m.t.Fatal(err)
		}
		next.Bindings = old.Bindings
	}
	if m.cursor, err = next.cursor(); err != nil {
		m.t.Fatal(err)
	}
	if m.state, err = json.Marshal(next); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) commit(visible bool) {
	x := m.todo[0]
	m.todo = m.todo[1:]
	x.xid, x.visible = uint32(700+len(m.wal)), visible
	messages := m.apply(m.rows(false), x, true)
	m.committed = append(m.committed, x)
	m.wal = append(m.wal, walEntry{messages: messages, xid: x.xid})
}

// mayCommit: a transaction that is not visible yet still holds its row locks.
func (m *model) mayCommit() bool {
	if len(m.todo) == 0 {
		return false
	}
	for _, x := range m.committed {
		if !x.visible && slices.ContainsFunc(m.todo[0].ops, func(o modelOp) bool {
			return o.op == 'T' || x.touches(o.key) || o.to != 0 && x.touches(o.to) || o.via != 0 && x.touches(o.via)
		}) {
			return false
		}
	}
	return true
}

// run lets things happen, in the order the choices say, until nothing more can, and returns how many checkpoints stood inside of
// transactions.
func (m *model) run() int {
	m.start()
	for {
		m.awaited = slices.DeleteFunc(m.awaited, func(x *modelTransaction) bool { return x.visible })
		if m.c.b.scan.state == scanUnseen {
			now := m.snapshot()
			m.c.b.scan.saw(&now)
		}
		type action struct {
			name string
			do   func()
		}
		var actions []action
		hidden := slices.IndexFunc(m.committed, func(x *modelTransaction) bool { return !x.visible })
		if m.mayCommit() {
			actions = append(actions, action{"commit", func() { m.commit(true) }})
			if hidden < 0 {
				actions = append(actions, action{"commit unseen", func() { m.commit(false) }})
			}
		}
		if hidden >= 0 {
			actions = append(actions, action{"seen", func() { m.committed[hidden].visible = true }})
		}
		switch {
		case m.c.rounds.ahead != nil && m.c.rounds.ahead.fence == nil:
			actions = append(actions, action{"fence", m.writeFence})
		case m.mayRead():
			actions = append(actions, action{"read", m.startRead})
		}
		switch {
		case !m.mayStream():
		case m.pace == paceEager:
			m.consume()
			continue
		case m.pace == paceAny || len(actions) == 0:
			actions = append(actions, action{"stream", m.consume})
		}
		if m.kills > 0 && len(actions) > 0 {
			actions = append(actions, action{"kill", func() { m.kills--; m.start() }})
		}
		if len(actions) == 0 {
			break
		}
		chosen := actions[0]
		if len(actions) > 1 {
			chosen = actions[m.choose(len(actions))]
		}
		m.trace = append(m.trace, chosen.name)
		chosen.do()
	}
	if m.c.b.phase != phaseActive || m.read != len(m.wal) || m.c.rounds.open != nil {
		m.t.Fatalf("%v: came to a stop in phase %d at %d of %d", m.trace, m.c.b.phase, m.read, len(m.wal))
	}
	return m.check()
}

// check judges the committed output.
func (m *model) check() (within int) {
	// Documents of rows that a TRUNCATE took stay, and others may come over them.
	truncated := slices.ContainsFunc(m.committed, (*modelTransaction).truncates)
	h := history.New(history.Table{
		Name: "public.t", Key: []string{"id"}, Full: m.full, Replaced: !m.first || truncated || m.deferrable, Lenient: !m.first,
	})
	have := make(map[int]modelValues)
	if !m.first { // documents of the last backfill, before the database became what it is
		for k, v := range m.initial {
			have[k] = v
		}
		have[9] = modelValues{"stale", "stale"}
	}
	for i, e := range m.committedDocs {
		if e.patch != "" {
			if err := h.Checkpoint(i+1, []byte(e.patch)); err != nil {
				m.fail(err.Error())
			}
			continue
		}
		if err := h.Document(i+1, "public.t", []byte(e.doc)); err != nil {
			m.fail(err.Error())
		}
		var doc struct {
			ID   int     `json:"id"`
			V    string  `json:"v"`
			Big  *string `json:"big"`
			Meta struct {
				Op string `json:"op"`
			} `json:"_meta"`
		}
		if err := json.Unmarshal([]byte(e.doc), &doc); err != nil {
			m.fail(err.Error())
		}
		if doc.Meta.Op == "d" {
			delete(have, doc.ID)
			continue
		}
		row := modelValues{v: doc.V, big: have[doc.ID].big}
		if doc.Big != nil {
			row.big = *doc.Big
		}
		have[doc.ID] = row
	}
	want := m.rows(false)
	delete(have, 9)
	if truncated {
		maps.DeleteFunc(have, func(key int, _ modelValues) bool {
			_, is := want[key]
			return !is && m.emptied[key]
		})
	}
	if len(have) != len(want) {
		m.fail(fmt.Sprintf("left %v, want %v", have, want))
	}
	for k, v := range want {
		if have[k] != v {
			m.fail(fmt.Sprintf("key %d left as %v, want %v", k, have[k], v))
		}
	}
	return h.Within
}

func (m *model) idOf(doc string) int {
	var d struct {
		ID int `json:"id"`
	}
	if err := json.Unmarshal([]byte(doc), &d); err != nil {
		m.t.Fatalf("%s: %v", doc, err)
	}
	return d.ID
}

func (m *model) fail(what string) {
	m.t.Helper()
	var docs bytes.Buffer
	for i, e := range m.committedDocs {
		fmt.Fprintf(&docs, "%d: %s%s\n", i+1, e.doc, e.patch)
	}
	var transactions []string
	for _, x := range m.committed {
		transactions = append(transactions, fmt.Sprint(x.xid, x.ops))
	}
	m.t.Fatalf("%s\nfull %v, first %v, pace %v, limit %d, rows %v\ntransactions %v\nevents %q\n%s", what, m.full, m.first, m.pace,
		m.limit, sortedKeys(m.initial), transactions, m.trace, docs.String())
}

// possible lists the changes a table of some rows can see, keys up to top. They leave the TOAST value alone.
func possible(rows map[int]bool, top int) (ops []modelOp) {
	for k := 1; k <= top; k++ {
		if !rows[k] {
			ops = append(ops, modelOp{op: 'I', key: k})
			continue
		}
		ops = append(ops, modelOp{op: 'U', key: k, keepsBig: true}, modelOp{op: 'D', key: k})
		for to := 1; to <= top; to++ {
			if !rows[to] {
				ops = append(ops, modelOp{op: 'M', key: k, to: to, keepsBig: true})
			}
		}
	}
	return ops
}

func (o modelOp) play(rows map[int]bool) {
	switch o.op {
	case 'I':
		rows[o.key] = true
	case 'D':
		delete(rows, o.key)
	case 'M', 'P':
		delete(rows, o.key)
		rows[o.to] = true
	case 'T':
		clear(rows)
	}
}

// eachSequence calls f with every sequence of n changes that a table of the keys can see.
func eachSequence(keys []int, n, top int, f func(ops []modelOp)) {
	var ops []modelOp
	var extend func(rows map[int]bool)
	extend = func(rows map[int]bool) {
		if len(ops) == n {
			f(ops)
			return
		}
		for _, o := range possible(rows, top) {
			next := make(map[int]bool)
			for k := range rows {
				next[k] = true
			}
			o.play(next)
			ops = append(ops, o)
			extend(next)
			ops = ops[:len(ops)-1]
		}
	}
	rows := make(map[int]bool)
	for _, k := range keys {
		rows[k] = true
	}
	extend(rows)
}

// eachChoice calls run until it has made every combination of choices.
func eachChoice(run func(choose func(n int) int)) {
	var path, widths []int
	for {
		at := 0
		run(func(n int) int {
			if at == len(path) {
				path, widths = append(path, 0), append(widths, n)
			}
			at++
			return path[at-1]
		})
		for len(path) > 0 && path[len(path)-1]+1 == widths[len(path)-1] {
			path, widths = path[:len(path)-1], widths[:len(widths)-1]
		}
		if len(path) == 0 {
			return
		}
		path[len(path)-1]++
	}
}

// newModels returns a maker of models that share what does not change between runs.
func newModels(t testing.TB, deferrable bool) func(full bool, keys []int, transactions ...[]modelOp) *model {
	table := testTable('f')
	if deferrable {
		table.primaryKey, table.deferrableKeys = nil, [][]string{{"id"}}
	}
	templates := map[bool]*testCapture{true: newTestCapture(t, table, modeAutomatic)}
	templates[false] = newTestCapture(t, testTable('d'), modeAutomatic)
	return func(full bool, keys []int, transactions ...[]modelOp) *model {
		m := &model{t: t, full: full, deferrable: deferrable, first: true, limit: 1, template: templates[full], initial: make(map[int]modelValues)}
		for _, k := range keys {
			m.initial[k] = modelValues{fmt.Sprint("i", k), fmt.Sprint("I", k)}
		}
		for _, ops := range transactions {
			m.todo = append(m.todo, &modelTransaction{ops: ops})
		}
		return m
	}
}

// TestModelExhaustive: two changes, in one transaction or in two, of a table of one or two rows and three keys, in every
// order relative to the reads and fences of chunks of one row. Every fourth run is a re-backfill.
func TestModelExhaustive(t *testing.T) {
	t.Parallel()
	make := newModels(t, false)
	runs := 0
	for _, full := range []bool{false, true} {
		for _, keys := range [][]int{{1, 3}, {2}} {
			eachSequence(keys, 2, 3, func(ops []modelOp) {
				for variant := range 4 {
					together, pace := variant&1 != 0, paceEager
					if variant&2 != 0 {
						pace = paceLazy
					}
					if !*modelAll && (pace == paceLazy && !together || full != (len(keys) == 1)) || testing.Short() && !together {
						continue
					}
					eachChoice(func(choose func(n int) int) {
						transactions := [][]modelOp{{ops[0]}, {ops[1]}}
						if together {
							transactions = [][]modelOp{{ops[0], ops[1]}}
						}
						m := make(full, keys, transactions...)
						m.choose, m.pace, m.first = choose, pace, runs%4 > 0
						m.run()
						runs++
					})
				}
			})
		}
	}
	t.Logf("%d runs", runs)
}

// TestModelEdges: an edge of DESIGN §3.1 and a change before or behind it, in one transaction or in two, in every order relative
// to the reads and fences: the table is emptied, two rows swap their keys, a row passes over the key of another.
func TestModelEdges(t *testing.T) {
	t.Parallel()
	make := newModels(t, true)
	keys := []int{1, 3}
	edges := []modelOp{{op: 'T'}, {op: 'S', key: 1, to: 3}, {op: 'P', key: 1, via: 3, to: 2}, {op: 'P', key: 3, via: 1, to: 2}}
	runs := 0
	try := func(ops ...modelOp) {
		for variant := range 4 {
			together, pace := variant&1 != 0, paceEager
			if variant&2 != 0 {
				pace = paceLazy
			}
			if !*modelAll && pace == paceLazy && !together || testing.Short() && !together {
				continue
			}
			eachChoice(func(choose func(n int) int) {
				transactions := [][]modelOp{{ops[0]}, {ops[1]}}
				if together {
					transactions = [][]modelOp{ops}
				}
				m := make(true, keys, transactions...)
				m.choose, m.pace, m.first = choose, pace, runs%4 > 0
				m.run()
				runs++
			})
		}
	}
	for _, edge := range edges {
		rows := map[int]bool{1: true, 3: true}
		for _, before := range possible(rows, 3) {
			if before.op == 'U' || before.op == 'I' { // the edge has its rows and its free key still, or is T
				if edge.op != 'P' || before.op == 'U' {
					try(before, edge)
				}
			} else if edge.op == 'T' {
				try(before, edge)
			}
		}
		edge.play(rows)
		for _, behind := range possible(rows, 3) {
			try(edge, behind)
		}
	}
	t.Logf("%d runs", runs)
}

// TestModelRandom takes what is too much to enumerate: more rows, longer transactions, larger chunks, kills.
func TestModelRandom(t *testing.T) {
	t.Parallel()
	random := testRandom(t)
	runs := *modelRuns
	if runs == 0 {
		runs = 4000
	}
	if testing.Short() {
		runs /= 10
	}
	make := newModels(t, false)
	for range runs {
		runRandomModel(make, random)
	}
}

// TestModelWithin has checkpoints inside of transactions, and kills there: transactions of more changes, on keys that are checked
// at once and at commit.
func TestModelWithin(t *testing.T) {
	t.Parallel()
	random := testRandom(t)
	runs := *modelRuns
	if runs == 0 {
		runs = 2000
	}
	if testing.Short() {
		runs /= 5
	}
	within := 0
	for _, deferrable := range []bool{false, true} {
		make := newModels(t, deferrable)
		for range runs / 2 {
			within += runWithinModel(make, deferrable, random)
		}
	}
	if t.Logf("%d checkpoints inside of transactions", within); within < runs {
		t.Errorf("%d checkpoints inside of transactions in %d runs", within, runs)
	}
}

// runWithinModel returns how many checkpoints stood inside of transactions.
func runWithinModel(make func(full bool, keys []int, transactions ...[]modelOp) *model, deferrable bool, random *rand.Rand) int {
	const top = 5
	full := deferrable || random.IntN(2) == 0
	captured := random.IntN(2) == 0 // an empty table, already
	rows := map[int]bool{}
	var keys []int
	for k := 1; k <= top && !captured; k++ {
		if random.IntN(2) == 0 {
			rows[k], keys = true, append(keys, k)
		}
	}
	var transactions [][]modelOp
	for range 2 + random.IntN(3) {
		var ops []modelOp
		for range 1 + random.IntN(7) {
			able := possible(rows, top)
			if deferred := deferredOps(rows, top); deferrable && len(deferred) > 0 && random.IntN(2) == 0 {
				able = deferred
			}
			ops = append(ops, drawOp(able, rows, random))
		}
		transactions = append(transactions, ops)
	}
	m := make(full, keys, transactions...)
	m.choose, m.pace, m.first = random.IntN, pace(random.IntN(3)), random.IntN(4) > 0
	m.limit, m.kills, m.within, m.cursor = 1+random.IntN(3), random.IntN(5), 1+random.IntN(400), 1
	if captured {
		m.state = json.RawMessage(`{"bindingStateV1":{"t":{"mode":"Active","key_columns":["id"],"metadata":{"oid":16384}}}}`)
		m.first = true
	}
	return m.run()
}

// deferredOps are the swaps, and the passings over another row, that a table of some rows can see.
func deferredOps(rows map[int]bool, top int) (ops []modelOp) {
	for a := 1; a <= top; a++ {
		for b := 1; b <= top; b++ {
			if a == b || !rows[a] || !rows[b] {
				continue
			}
			if a < b {
				ops = append(ops, modelOp{op: 'S', key: a, to: b})
			}
			for to := 1; to <= top; to++ {
				if !rows[to] {
					ops = append(ops, modelOp{op: 'P', key: a, via: b, to: to})
				}
			}
		}
	}
	return ops
}

// drawOp draws one of the changes and plays it; now and then it writes the TOAST value too.
func drawOp(able []modelOp, rows map[int]bool, random *rand.Rand) modelOp {
	o := able[random.IntN(len(able))]
	if (o.op == 'U' || o.op == 'M') && random.IntN(4) == 0 {
		o.keepsBig = false
	}
	o.play(rows)
	return o
}

func runRandomModel(make func(full bool, keys []int, transactions ...[]modelOp) *model, random *rand.Rand) {
	const top = 6
	full := random.IntN(2) == 0
	rows := map[int]bool{}
	var keys []int
	for k := 1; k <= top; k++ {
		if random.IntN(2) == 0 {
			rows[k], keys = true, append(keys, k)
		}
	}
	var transactions [][]modelOp
	for range 1 + random.IntN(6) {
		var ops []modelOp
		for range 1 + random.IntN(3) {
			ops = append(ops, drawOp(possible(rows, top), rows, random))
		}
		transactions = append(transactions, ops)
	}
	m := make(full, keys, transactions...)
	m.choose, m.pace, m.first = random.IntN, pace(random.IntN(3)), random.IntN(4) > 0
	m.limit, m.kills = 1+random.IntN(3), random.IntN(3)
	m.run()
}
