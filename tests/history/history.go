// Package history checks that captured documents, in the order they were committed, are a strict history of their
// tables, and replays them.
//
// A strict history has for every key first one insertion and then only changes that came after that state: nothing
// missed, nothing repeated, nothing stale. Replicated documents of all tables together come in commit order, and no
// checkpoint splits a transaction but one that says so: its cursor stands before that transaction.
//
// Backfill markers count as they do for readers of a collection: what came before a Begin is not there for the documents behind
// it, and rows that none of these has told of are gone once the Complete has come.
package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Table says how the documents of one table are to be read.
type Table struct {
	Name string   // schema.table
	Key  []string // columns of the collection key; none for a table whose documents are keyed by their position

	// Full says that the table had REPLICA IDENTITY FULL all the time: the previous row of each change is checked.
	Full bool
	// Replaced allows an insertion over a row that exists: keys swapped under a deferrable constraint, or a table that
	// was backfilled again.
	Replaced bool
	// Lenient replays without checking anything.
	Lenient bool
}

// Row is what the history leaves of one key.
type Row struct {
	Columns []byte // JSON object of the row; nil once deleted
	Line    int    // of the last document
	op      string
}

// Values returns the row's columns as raw JSON.
func (r *Row) Values() (map[string]json.RawMessage, error) {
	fields, err := appendFields(nil, r.Columns)
	values := make(map[string]json.RawMessage, len(fields))
	for _, f := range fields {
		values[f.name] = f.value
	}
	return values, err
}

// History replays documents. Its methods stop at the first fault.
type History struct {
	tables    map[string]*tableHistory
	documents int
	last      position // of the last replicated document of any table
	lastLine  int
	splitAt   int // line of the last checkpoint; the transaction of last must not go on behind it
	split     int64

	Within int // checkpoints inside of a transaction

	fields, before, previous []field // scratch
}

type tableHistory struct {
	Table
	rows     map[string]*Row // by key; for a keyless table by content, with the count below
	counts   map[string]int  // keyless: how often the content is there
	live     int
	begun    int      // line of the last Begin, of which the Complete has not come; 0: none
	snapshot position // last backfill row
	docs     int
}

// position is _meta.source.loc: the end of the previous transaction, the event, the commit of its transaction.
type position [3]int64

func (p position) compare(q position) int { return slices.Compare(p[:], q[:]) }

// New returns an empty history of the tables.
func New(tables ...Table) *History {
	h := &History{tables: make(map[string]*tableHistory)}
	for _, t := range tables {
		h.Add(t)
	}
	return h
}

// Add adds a table. REQUIRES: it has no documents yet.
func (h *History) Add(t Table) {
	h.tables[t.Name] = &tableHistory{
		Table: t, rows: make(map[string]*Row), counts: make(map[string]int), snapshot: position{-1, -1, -1},
	}
}

// meta is a document's _meta.
type meta struct {
	Op     string          `json:"op"`
	Before json.RawMessage `json:"before"`
	Source struct {
		Schema   string   `json:"schema"`
		Table    string   `json:"table"`
		Snapshot bool     `json:"snapshot"`
		Loc      position `json:"loc"`
	} `json:"source"`
}

// Document adds the next document. line is what errors call it.
func (h *History) Document(line int, table string, doc []byte) error {
	t := h.tables[table]
	if t == nil {
		return fmt.Errorf("line %d: a document of %s, which is not among the tables", line, table)
	}
	var err error
	if h.fields, err = appendFields(h.fields[:0], doc); err != nil {
		return fmt.Errorf("line %d: document of %s: %w", line, table, err)
	}
	at := slices.IndexFunc(h.fields, func(f field) bool { return f.name == "_meta" })
	if at < 0 {
		return fmt.Errorf("line %d: document of %s: no _meta: %.200s", line, table, doc)
	}
	var m meta
	if err := json.Unmarshal(h.fields[at].value, &m); err != nil {
		return fmt.Errorf("line %d: document of %s: _meta: %w", line, table, err)
	}
	h.fields = slices.Delete(h.fields, at, at+1)
	h.documents++
	t.docs++
	if !t.Lenient {
		if err := h.order(t, line, &m); err != nil {
			return err
		}
	}
	if len(t.Key) == 0 {
		return h.keyless(t, line, &m)
	}
	return h.keyed(t, line, &m)
}

// order checks where a document stands among all.
func (h *History) order(t *tableHistory, line int, m *meta) error {
	loc := m.Source.Loc
	name := m.Source.Schema + "." + m.Source.Table
	switch {
	case name != t.Name:
		return fmt.Errorf("line %d: %s: a document that says it is of %s", line, t.Name, name)
	case m.Source.Snapshot != (loc[0] == -1):
		return fmt.Errorf("line %d: %s: snapshot is %v, but loc is %v", line, t.Name, m.Source.Snapshot, loc)
	case m.Source.Snapshot && m.Op != "c":
		return fmt.Errorf("line %d: %s: a backfill document with op %q", line, t.Name, m.Op)
	case m.Source.Snapshot && loc.compare(t.snapshot) <= 0 && !t.Replaced:
		return fmt.Errorf("line %d: %s: backfill loc %v does not come after %v", line, t.Name, loc, t.snapshot)
	case m.Source.Snapshot:
		t.snapshot = loc
		return nil
	case h.last[2] != 0 && loc[2] < h.last[2]:
		return fmt.Errorf("line %d: %s: loc %v is of an earlier commit than loc %v on line %d",
			line, t.Name, loc, h.last, h.lastLine)
	case h.last[2] != 0 && loc.compare(h.last) <= 0:
		return fmt.Errorf("line %d: %s: loc %v does not come after loc %v on line %d: repeated or out of order",
			line, t.Name, loc, h.last, h.lastLine)
	case h.splitAt > 0 && loc[2] == h.split:
		return fmt.Errorf("line %d: %s: loc %v belongs to the transaction before the checkpoint on line %d",
			line, t.Name, loc, h.splitAt)
	}
	h.last, h.lastLine = loc, line
	return nil
}

// Checkpoint ends what must be committed together: whole transactions, unless the cursor of the state, which is a JSON object, is
// not behind the commit of the last document's.
func (h *History) Checkpoint(line int, state []byte) error {
	var s struct {
		Cursor *string `json:"cursor"`
	}
	if err := json.Unmarshal(state, &s); err != nil {
		return fmt.Errorf("line %d: the state of a checkpoint: %w", line, err)
	}
	h.splitAt, h.split = line, h.last[2]
	if h.last[2] == 0 {
		h.splitAt = 0
	}
	if s.Cursor == nil {
		return nil
	}
	var high, low int64
	if _, err := fmt.Sscanf(*s.Cursor, "%X/%X", &high, &low); err != nil {
		return fmt.Errorf("line %d: the cursor %q of a checkpoint: %w", line, *s.Cursor, err)
	}
	if high<<32|low <= h.last[2] {
		h.splitAt = 0
		h.Within++
	}
	return nil
}

// Marker adds a backfill marker of a table: a BackfillBegin, or else a BackfillComplete.
func (h *History) Marker(line int, table string, begin bool) error {
	t := h.tables[table]
	if t == nil {
		return fmt.Errorf("line %d: a marker of %s, which is not among the tables", line, table)
	}
	h.splitAt = 0 // a marker may stand within a transaction
	if begin {
		t.begun, t.snapshot = line, position{-1, -1, -1}
		return nil
	}
	if t.begun == 0 {
		return nil // readers ignore it
	}
	for key, row := range t.rows {
		switch {
		case row.Line >= t.begun && len(t.Key) == 0:
			return fmt.Errorf("line %d: %s has no key, and documents between its markers (line %d and before)", line, table, row.Line)
		case row.Line >= t.begun:
			continue
		case len(t.Key) == 0:
			t.live -= t.counts[key]
			delete(t.counts, key)
		case row.Columns != nil:
			t.live--
		}
		delete(t.rows, key)
	}
	t.begun = 0
	return nil
}

// keyed applies h.fields to a table with a key.
func (h *History) keyed(t *tableHistory, line int, m *meta) error {
	key, err := keyOf(t.Key, h.fields)
	if err != nil {
		return fmt.Errorf("line %d: document of %s: %w", line, t.Name, err)
	}
	row := t.rows[key]
	if row == nil {
		row = &Row{}
		t.rows[key] = row
	}
	fault := func(format string, args ...any) error {
		before := "there is no document of this key before it"
		switch {
		case row.Line > 0 && row.Columns == nil:
			before = fmt.Sprintf("line %d deleted the key", row.Line)
		case row.Line > 0:
			before = fmt.Sprintf("line %d (%s) left %.500s", row.Line, row.op, row.Columns)
		}
		return fmt.Errorf("%s key %s: line %d (%s): %s; %s", t.Name, key, line, m.Op, fmt.Sprintf(format, args...), before)
	}
	if row.Line < t.begun && row.Columns != nil { // left behind by a marker
		*row = Row{}
		t.live--
	}
	exists := row.Columns != nil
	if !t.Lenient {
		switch {
		case m.Op == "d" && !exists && t.begun > 0: // of a row that the collection may have had before the marker
			row.Line, row.op = line, m.Op
			return nil
		case m.Op != "c" && m.Op != "u" && m.Op != "d":
			return fault("unknown op")
		case m.Op == "c" && exists && !t.Replaced:
			return fault("an insertion of a key that exists")
		case m.Op != "c" && !exists:
			return fault("a change of a key that does not exist")
		case m.Op == "c" && m.Before != nil:
			return fault("an insertion with before")
		}
		if t.Full && m.Op != "c" {
			if err := h.previousRow(row, m, fault); err != nil {
				return err
			}
		}
	}
	switch {
	case m.Op == "d":
		if exists {
			t.live--
		}
		row.Columns = nil
	default:
		if !exists {
			t.live++
		} else if m.Op == "u" {
			if err := h.mergePrevious(row); err != nil {
				return fault("%v", err)
			}
		}
		row.Columns = appendObject(make([]byte, 0, len(row.Columns)), h.fields)
	}
	row.Line, row.op = line, m.Op
	return nil
}

// previousRow checks that what a change says was there is what the last document left. A deletion carries it as the
// document itself, an update as _meta.before.
func (h *History) previousRow(row *Row, m *meta, fault func(string, ...any) error) error {
	var err error
	if h.previous, err = appendFields(h.previous[:0], row.Columns); err != nil {
		return fault("%v", err)
	}
	said, what := h.fields, "the deleted row"
	if m.Op == "u" || m.Before != nil {
		if m.Before == nil {
			return fault("no before, but the replica identity is FULL")
		}
		if h.before, err = appendFields(h.before[:0], m.Before); err != nil {
			return fault("before: %v", err)
		}
		said, what = h.before, "before"
	}
	for _, f := range said {
		i := slices.IndexFunc(h.previous, func(p field) bool { return p.name == f.name })
		switch {
		case i < 0:
			return fault("%s has the column %s=%.200s", what, f.name, f.value)
		case !equal(h.previous[i].value, f.value):
			return fault("%s has %s=%.200s", what, f.name, f.value)
		}
	}
	if len(said) < len(h.previous) {
		return fault("%s has %d columns, want %d", what, len(said), len(h.previous))
	}
	return nil
}

// mergePrevious adds to h.fields the columns of the row that the update left out: TOAST values it did not change.
func (h *History) mergePrevious(row *Row) error {
	var err error
	if h.previous, err = appendFields(h.previous[:0], row.Columns); err != nil {
		return err
	}
	for _, p := range h.previous {
		if !slices.ContainsFunc(h.fields, func(f field) bool { return f.name == p.name }) {
			h.fields = append(h.fields, p)
		}
	}
	return nil
}

// keyless applies h.fields to a table without a key, as a multiset of rows.
func (h *History) keyless(t *tableHistory, line int, m *meta) error {
	add := func(fields []field, n int) error {
		content := string(appendCanonical(nil, fields))
		if t.counts[content]+n < 0 {
			return fmt.Errorf("%s: line %d (%s): the row before the change is not there: %.500s", t.Name, line, m.Op, content)
		}
		t.counts[content] += n
		t.live += n
		if t.counts[content] == 0 {
			delete(t.counts, content)
			delete(t.rows, content)
		} else if t.rows[content] == nil {
			t.rows[content] = &Row{Columns: []byte(content), Line: line, op: m.Op}
		}
		return nil
	}
	switch m.Op {
	case "c":
		return add(h.fields, 1)
	case "d":
		return add(h.fields, -1)
	case "u":
		if m.Before == nil {
			return fmt.Errorf("%s: line %d (u): an update of a keyless table without before", t.Name, line)
		}
		var err error
		if h.before, err = appendFields(h.before[:0], m.Before); err != nil {
			return fmt.Errorf("%s: line %d (u): before: %w", t.Name, line, err)
		}
		return errors.Join(add(h.before, -1), add(h.fields, 1))
	}
	return fmt.Errorf("%s: line %d: unknown op %q", t.Name, line, m.Op)
}

// keyOf returns the key columns as a JSON array.
func keyOf(columns []string, fields []field) (string, error) {
	key := []byte{'['}
	for i, column := range columns {
		at := slices.IndexFunc(fields, func(f field) bool { return f.name == column })
		if at < 0 {
			return "", fmt.Errorf("no key column %s", column)
		}
		if i > 0 {
			key = append(key, ',')
		}
		key = append(key, canonical(fields[at].value)...)
	}
	return string(append(key, ']')), nil
}

func appendObject(dst []byte, fields []field) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		name, _ := json.Marshal(f.name) // a string always marshals
		dst = append(append(append(dst, name...), ':'), f.value...)
	}
	return append(dst, '}')
}

// appendCanonical appends the object in its one spelling.
func appendCanonical(dst []byte, fields []field) []byte {
	sorted := slices.SortedFunc(slices.Values(fields), func(a, b field) int { return strings.Compare(a.name, b.name) })
	for i := range sorted {
		sorted[i].value = canonical(sorted[i].value)
	}
	return appendObject(dst, sorted)
}

// Rows calls f with each row the history leaves of a table and how often it is there, until f fails.
func (h *History) Rows(table string, f func(row *Row, count int) error) error {
	t := h.tables[table]
	for key, row := range t.rows {
		count := 1
		if len(t.Key) == 0 {
			count = t.counts[key]
		} else if row.Columns == nil {
			continue
		}
		if err := f(row, count); err != nil {
			return err
		}
	}
	return nil
}

// Tables returns the names of the tables, sorted.
func (h *History) Tables() []string {
	names := make([]string, 0, len(h.tables))
	for name := range h.tables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Counts returns the number of documents of a table and of the rows they leave.
func (h *History) Counts(table string) (documents, rows int) {
	t := h.tables[table]
	return t.docs, t.live
}

// Documents returns the number of documents of all tables.
func (h *History) Documents() int { return h.documents }

// Keys returns the number of rows of all tables.
func (h *History) Keys() int {
	n := 0
	for _, t := range h.tables {
		n += t.live
	}
	return n
}

// ReadLines adds the lines of a `preview --json` output: ["schema.table",document], and ["connectorState",…] for a
// checkpoint. tables, if not nil, is asked for each table that was not added yet.
func (h *History) ReadLines(r io.Reader, table func(name string) (Table, error)) error {
	lines := bufio.NewReaderSize(r, 1<<20)
	var long []byte
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		for long = long[:0]; err == bufio.ErrBufferFull; line, err = lines.ReadSlice('\n') {
			long = append(long, line...)
		}
		if len(long) > 0 {
			line = append(long, line...)
			long = line
		}
		switch {
		case err == io.EOF && len(line) == 0:
			return nil
		case err == io.EOF:
			return fmt.Errorf("line %d: it has no end: %.200s", n, line)
		case err != nil:
			return err
		}
		name, doc, err := splitLine(line)
		if err != nil {
			return fmt.Errorf("line %d: %w: %.200s", n, err, line)
		}
		if name == "connectorState" {
			if err := h.Checkpoint(n, doc); err != nil {
				return err
			}
			continue
		}
		marker := name == "backfillBegin" || name == "backfillComplete"
		begin := name == "backfillBegin"
		if marker {
			var m struct{ Binding string }
			if err := json.Unmarshal(doc, &m); err != nil {
				return fmt.Errorf("line %d: %w: %.200s", n, err, line)
			}
			name = m.Binding
		}
		if h.tables[name] == nil && table != nil {
			t, err := table(name)
			if err != nil {
				return fmt.Errorf("line %d: %w", n, err)
			}
			h.Add(t)
		}
		if marker {
			err = h.Marker(n, name, begin)
		} else {
			err = h.Document(n, name, doc)
		}
		if err != nil {
			return err
		}
	}
}

// splitLine splits ["name",document].
func splitLine(line []byte) (string, []byte, error) {
	line = bytes.TrimSpace(line)
	if !bytes.HasPrefix(line, []byte(`["`)) || !bytes.HasSuffix(line, []byte(`]`)) {
		return "", nil, errors.New(`want ["schema.table",document]`)
	}
	for end := 2; end < len(line); end++ {
		switch line[end] {
		case '\\':
			end++
		case '"':
			name, err := unquote(line[1 : end+1])
			if err != nil {
				return "", nil, err
			}
			doc, ok := bytes.CutPrefix(line[end+1:len(line)-1], []byte(","))
			if !ok {
				return "", nil, errors.New(`want ["schema.table",document]`)
			}
			return name, doc, nil
		}
	}
	return "", nil, errors.New(`want ["schema.table",document]`)
}
