package main

// verify_replay.go owns the two sides that verify compares: documents as they were captured, replayed by key, and rows as the
// tables have them, both in temporary files parted by the hash of table and key.
// Invariant: memory holds the replayed rows of one part, and a part whose rows would outgrow verifyBudget is parted further.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
)

// verifyBudget is how many bytes of replayed rows are held at once. Go's maps and headers take about as much again.
var verifyBudget = 128 << 20

const (
	verifyParts     = 32       // files of the first pass; each later one of a part that is too large makes as many
	verifyDepth     = 5        // passes: the hash has five bits for each and more
	verifyBuffer    = 64 << 10 // of each file
	maxDifferences  = 1 << 20  // kept as keys; more are counted
	differenceBytes = 16 << 20 // of rows kept to be shown, column by column
	maxHistory      = 5        // faults of the history shown
	replayedBytes   = 128      // memory of a replayed row beside its bytes
)

// logPlace is where in the log a change stands: its transaction's commit, then the change itself.
type logPlace struct{ commit, event int64 }

func (p logPlace) before(q logPlace) bool {
	return p.commit < q.commit || p.commit == q.commit && p.event < q.event
}

// verifyTable is one table to be compared, and what came of it.
type verifyTable struct {
	name   tableName
	key    []string // the columns of its collection's key; nil for a table without one, which is not compared
	begins []int64  // lines of the markers that began a backfill of it
	// ends are the begins whose backfill a later marker completed.
	ends []int64

	documents, replayed, rows, equal int64
	columns                          map[string]bool // of the table
	strangers                        map[string]bool // columns of documents that the table does not have
}

// left reports whether a backfill that was begun behind line, and completed, left the row behind.
func (t *verifyTable) left(line int64) bool { return len(t.ends) > 0 && line < t.ends[len(t.ends)-1] }

// begunBetween reports whether a backfill was begun between two lines: readers take the row of the first for not being there.
func (t *verifyTable) begunBetween(line, next int64) bool {
	i, _ := slices.BinarySearch(t.begins, line)
	return i < len(t.begins) && t.begins[i] < next
}

// difference is a key whose replayed row is not that of its table.
type difference struct {
	table    *verifyTable
	key      string
	line     int64  // of the key's last document; 0 for none
	document []byte // columns of the replayed row, nil for none
	row      []byte // columns of the table's, nil for none
	detailed bool   // whether document and row have been kept
	since    bool   // a change of the key is not in the documents yet
}

// replay is the whole comparison but for the server.
type replay struct {
	dir    string
	tables []*verifyTable
	byName map[tableName]int
	skip   func(tableName) bool // tables whose documents do not count
	// describe is asked for a table when its first document comes.
	describe func(tableName) (*verifyTable, error)

	parts []*replayPart
	seed  maphash.Seed

	lines, skipped, states int64
	last                   logPlace // of the last streamed document
	cursor                 lsn      // of the last state among the documents; 0 for none

	differences []*difference
	byKey       map[string]*difference
	overflowed  int64 // differences beyond those that are kept
	detail      int   // bytes of rows kept to be shown
	checked     int64 // changes held against the row that they say was there
	history     []string
	faults      int64 // of the history
}

// replayPart is one temporary file and, while it is written, its buffer.
type replayPart struct {
	file *os.File
	w    *bufio.Writer
}

func newReplay(dir string) (*replay, error) {
	r := &replay{
		dir: dir, byName: make(map[tableName]int), seed: maphash.MakeSeed(), byKey: make(map[string]*difference),
		skip: func(tableName) bool { return false },
	}
	var err error
	r.parts, err = r.newParts()
	return r, err
}

// newParts makes temporary files that are gone from the folder as soon as they are open: a kill leaves nothing.
func (r *replay) newParts() ([]*replayPart, error) {
	parts := make([]*replayPart, 0, verifyParts)
	for range verifyParts {
		file, err := os.CreateTemp(r.dir, "verify-*")
		if err == nil {
			err = os.Remove(file.Name())
		}
		if err != nil {
			closeParts(parts)
			return nil, err
		}
		parts = append(parts, &replayPart{file, bufio.NewWriterSize(file, verifyBuffer)})
	}
	return parts, nil
}

func closeParts(parts []*replayPart) {
	for _, p := range parts {
		if p != nil {
			p.file.Close()
		}
	}
}

func (r *replay) close() { closeParts(r.parts) }

// add adds a table.
func (r *replay) add(t *verifyTable) {
	r.byName[t.name] = len(r.tables)
	r.tables = append(r.tables, t)
	t.strangers = make(map[string]bool)
}

// replayRecord is the document of a line, or for line 0 a row of a table.
type replayRecord struct {
	table int // its index
	line  int64
	key   string
	body  []byte
}

// put appends a record.
func (r *replay) put(parts []*replayPart, depth int, rec *replayRecord) error {
	var hash maphash.Hash
	hash.SetSeed(r.seed)
	_, _ = hash.WriteString(strconv.Itoa(rec.table))
	_, _ = hash.WriteString(rec.key)
	w := parts[hash.Sum64()>>(depth*5)%verifyParts].w
	var head [4 * binary.MaxVarintLen64]byte
	h := binary.AppendUvarint(head[:0], uint64(rec.table))
	h = binary.AppendUvarint(h, uint64(rec.line))
	h = binary.AppendUvarint(h, uint64(len(rec.key)))
	h = binary.AppendUvarint(h, uint64(len(rec.body)))
	_, err := w.Write(h)
	if err == nil {
		_, err = w.WriteString(rec.key)
	}
	if err == nil {
		_, err = w.Write(rec.body)
	}
	return err
}

// documentMeta is what verify reads of a document's _meta.
type documentMeta struct {
	Ack    bool            `json:"ack"`
	Op     string          `json:"op"`
	Before json.RawMessage `json:"before"`
	Source struct {
		Schema   string  `json:"schema"`
		Table    string  `json:"table"`
		Snapshot bool    `json:"snapshot"`
		Loc      []int64 `json:"loc"`
	} `json:"source"`
}

// position is where the change of a streamed document stands.
func (m *documentMeta) position() (p logPlace, streamed bool) {
	if m.Source.Snapshot || len(m.Source.Loc) != 3 {
		return p, false
	}
	return logPlace{m.Source.Loc[2], m.Source.Loc[1]}, true
}

// parseDocument splits a document into its columns and its _meta. Both alias it.
func parseDocument(doc []byte) (properties, *documentMeta, error) {
	columns, raw, err := parseColumns(doc)
	if err != nil {
		return nil, nil, err
	}
	var m documentMeta
	err = json.Unmarshal(raw, &m)
	return columns, &m, err
}

// parseColumns is parseDocument with the _meta as it stands there.
func parseColumns(doc []byte) (columns properties, meta []byte, err error) {
	if columns, err = splitObject(doc); err != nil {
		return nil, nil, err
	}
	i, ok := columns.find(metaColumn)
	if !ok {
		return nil, nil, errors.New("it has no _meta: want documents as this connector captures them")
	}
	meta = columns[i].value
	return slices.Delete(columns, i, i+1), meta, nil
}

// readDocuments reads the file: a line is a document, or ["collection",document] as previews print it; states, markers and
// acknowledgements among them are known.
func (r *replay) readDocuments(in io.Reader) error {
	reader := bufio.NewReaderSize(in, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r.lines++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := r.line(line); err != nil {
			return fmt.Errorf("line %d: %w", r.lines, err)
		}
	}
}

func (r *replay) line(line []byte) error {
	kind, line, err := splitLine(line)
	if err != nil {
		return fmt.Errorf(`want a document or ["collection",document]: %w: %s`, err, cut(string(line), 60))
	}
	switch kind {
	case "connectorState":
		return r.state(line)
	case "backfillBegin", "backfillComplete":
		return r.marker(kind == "backfillBegin", line)
	case "applied.actionDescription": // flowctl preview
		return nil
	}
	columns, m, err := parseDocument(line)
	if err != nil {
		return fmt.Errorf("%w: %s", err, cut(string(line), 60))
	}
	if m.Ack {
		return nil
	}
	name := tableName{m.Source.Schema, m.Source.Table}
	if name.schema == "" || name.name == "" || m.Op != "c" && m.Op != "u" && m.Op != "d" {
		return fmt.Errorf("_meta does not say what happened to which table: %s", cut(string(line), 60))
	}
	if p, ok := m.position(); ok && r.last.before(p) {
		r.last = p
	}
	if r.skip(name) {
		r.skipped++
		return nil
	}
	index, err := r.tableOf(name)
	if err != nil {
		return err
	}
	t := r.tables[index]
	t.documents++
	if t.key == nil {
		return nil
	}
	key, err := keyOfColumns(t.key, columns)
	if err != nil {
		return fmt.Errorf("document of %s: %w", name, err)
	}
	return r.put(r.parts, 0, &replayRecord{index, r.lines, key, line})
}

// splitLine splits a line of a preview, ["collection",document], and returns another as it is.
func splitLine(line []byte) (kind string, body []byte, err error) {
	if line[0] != '[' {
		return "", line, nil
	}
	if rest, ok := bytes.CutPrefix(line, []byte(`["`)); ok && line[len(line)-1] == ']' { // as preview prints it
		name, rest, ok := bytes.Cut(rest[:len(rest)-1], []byte(`",`))
		if ok && !bytes.ContainsAny(name, `"\\`) && len(rest) > 0 && rest[0] == '{' {
			return string(name), rest, nil
		}
	}
	var pair []json.RawMessage
	if err = json.Unmarshal(line, &pair); err == nil && len(pair) != 2 {
		err = fmt.Errorf("%d elements", len(pair))
	}
	if err == nil {
		err = json.Unmarshal(pair[0], &kind)
	}
	if err != nil {
		return "", line, err
	}
	return kind, pair[1], nil
}

func (r *replay) tableOf(name tableName) (int, error) {
	if index, ok := r.byName[name]; ok {
		return index, nil
	}
	t, err := r.describe(name)
	if err != nil {
		return 0, err
	}
	r.add(t)
	return len(r.tables) - 1, nil
}

// state reads the cursor of a checkpoint.
func (r *replay) state(patch []byte) error {
	var state struct {
		Cursor  string `json:"cursor"`
		Updated struct {
			Cursor string `json:"cursor"`
		} `json:"updated"`
	}
	if err := json.Unmarshal(patch, &state); err != nil {
		return err
	}
	r.states++
	for _, text := range []string{state.Cursor, state.Updated.Cursor} {
		if cursor, ok := parseLSN(text); ok {
			r.cursor = cursor
		}
	}
	return nil
}

// marker reads a backfill marker, whose binding preview calls schema.table.
func (r *replay) marker(begin bool, body []byte) error {
	var m struct{ Binding string }
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	for _, t := range r.tables {
		switch {
		case t.name.String() != m.Binding:
		case begin:
			t.begins = append(t.begins, r.lines)
		case len(t.begins) > 0:
			t.ends = append(t.ends, t.begins[len(t.begins)-1])
		}
	}
	return nil // of a table without documents before it: nothing to leave behind
}

// keyOfColumns returns the key's values in their one spelling.
func keyOfColumns(key []string, columns properties) (string, error) {
	var text []byte
	for i, name := range key {
		raw := columns.get(name)
		if raw == nil {
			return "", fmt.Errorf("it lacks %q, which its table's key has: %s", name, cut(string(columns.append(nil)), 200))
		}
		if i > 0 {
			text = append(text, ',')
		}
		var err error
		if text, err = appendCanonical(text, raw); err != nil {
			return "", err
		}
	}
	return string(text), nil
}

// row adds a row of a table, as the document that it would be captured as.
func (r *replay) row(index int, doc []byte) error {
	t := r.tables[index]
	columns, _, err := parseColumns(doc)
	if err != nil {
		return err
	}
	key, err := keyOfColumns(t.key, columns)
	if err != nil {
		return fmt.Errorf("row of %s: %w", t.name, err)
	}
	if t.rows++; t.columns == nil {
		t.columns = make(map[string]bool, len(columns))
		for _, c := range columns {
			t.columns[c.name] = true
		}
	}
	return r.put(r.parts, 0, &replayRecord{index, 0, key, doc})
}

// compare compares what was put. REQUIRES: the documents were put before the rows.
func (r *replay) compare() error { return r.compareParts(r.parts, 0) }

func (r *replay) compareParts(parts []*replayPart, depth int) error {
	for i, p := range parts {
		if err := p.w.Flush(); err != nil {
			return err
		}
		err := r.comparePart(p, depth)
		if errors.Is(err, errPartFull) {
			err = r.divide(p, depth+1)
		}
		if err != nil {
			return err
		}
		p.file.Close() // its blocks are free for what is still to be parted
		parts[i] = nil
	}
	return nil
}

// errPartFull says that the rows of a part are more than may be held.
var errPartFull = errors.New("too many rows")

// divide parts a file further.
func (r *replay) divide(p *replayPart, depth int) error {
	parts, err := r.newParts()
	if err != nil {
		return err
	}
	defer func() { closeParts(parts) }()
	err = p.each(func(rec *replayRecord) error { return r.put(parts, depth, rec) })
	if err != nil {
		return err
	}
	return r.compareParts(parts, depth)
}

// each reads the records; body is valid until the next.
func (p *replayPart) each(f func(rec *replayRecord) error) error {
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in := bufio.NewReaderSize(p.file, 1<<20)
	var buf []byte
	var rec replayRecord
	for {
		var head [4]uint64
		for i := range head {
			n, err := binary.ReadUvarint(in)
			if i == 0 && errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			head[i] = n
		}
		buf = slices.Grow(buf[:0], int(head[2]+head[3]))[:head[2]+head[3]]
		if _, err := io.ReadFull(in, buf); err != nil {
			return err
		}
		rec = replayRecord{int(head[0]), int64(head[1]), string(buf[:head[2]]), buf[head[2]:]}
		if err := f(&rec); err != nil {
			return err
		}
	}
}

// replayed is what the documents so far leave of a key.
type replayed struct {
	columns []byte // nil once deleted
	line    int64
	at      logPlace // of the last streamed change
	met     bool     // the table has a row of the key
}

// partKey is a key of one table.
type partKey struct {
	table int
	key   string
}

// comparePart replays the documents of a part and holds them against its rows. On errPartFull nothing has been counted.
func (r *replay) comparePart(p *replayPart, depth int) error {
	rows := make(map[partKey]*replayed)
	found := partFindings{replay: r}
	size := 0
	err := p.each(func(rec *replayRecord) error {
		table, line, key, body := rec.table, rec.line, rec.key, rec.body
		t, at := r.tables[table], partKey{table, key}
		row := rows[at]
		if line == 0 {
			return found.meet(t, key, row, body)
		}
		if row == nil {
			row = &replayed{}
			rows[at] = row
			size += replayedBytes + len(key)
		}
		size -= len(row.columns)
		if err := found.apply(t, key, row, line, body); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if size += len(row.columns); size > verifyBudget && depth < verifyDepth {
			return errPartFull
		}
		return nil
	})
	if err != nil {
		return err
	}
	for at, row := range rows {
		t := r.tables[at.table]
		if row.columns == nil || t.left(row.line) {
			continue
		}
		found.replayed(t)
		if !row.met {
			found.differ(&difference{table: t, key: at.key, line: row.line, document: row.columns})
		}
	}
	found.commit()
	return nil
}

// partFindings is what one part yields, kept apart until the part has been read to its end.
type partFindings struct {
	replay      *replay
	counts      map[*verifyTable]*[2]int64 // rows replayed, and those equal
	strangers   map[*verifyTable]map[string]bool
	differences []*difference
	detail      int
	history     []string
	faults      int64
	checked     int64
}

func (f *partFindings) count(t *verifyTable) *[2]int64 {
	if f.counts == nil {
		f.counts, f.strangers = make(map[*verifyTable]*[2]int64), make(map[*verifyTable]map[string]bool)
	}
	if f.counts[t] == nil {
		f.counts[t], f.strangers[t] = new([2]int64), make(map[string]bool)
	}
	return f.counts[t]
}

func (f *partFindings) replayed(t *verifyTable) { f.count(t)[0]++ }

// unstrict notes what a strict history would not have.
func (f *partFindings) unstrict(t *verifyTable, key string, line int64, text string) {
	if f.faults++; len(f.history) < maxHistory {
		f.history = append(f.history, fmt.Sprintf("line %d: %s [%s]: %s", line, t.name, cut(key, 100), text))
	}
}

// apply replays one document.
func (f *partFindings) apply(t *verifyTable, key string, row *replayed, line int64, doc []byte) error {
	columns, m, err := parseDocument(doc)
	if err != nil {
		return err
	}
	if t.begunBetween(row.line, line) {
		row.columns = nil
	}
	if p, ok := m.position(); ok {
		if row.line > 0 && row.at != (logPlace{}) && !row.at.before(p) {
			f.unstrict(t, key, line, fmt.Sprintf("it comes again, or out of order: the document before it is on line %d", row.line))
		}
		row.at = p
	}
	var before properties
	if row.columns != nil && m.Op != "c" {
		if before, err = splitObject(row.columns); err != nil {
			return err
		}
	}
	fault, compared := row.holdAgainst(m, columns, before)
	if compared {
		f.checked++
	}
	if fault != "" {
		f.unstrict(t, key, line, fault)
	}
	row.line = line
	if m.Op == "d" {
		row.columns = nil
		return nil
	}
	if m.Op == "u" { // what an update leaves out is as it was
		for _, c := range before {
			if i, ok := columns.find(c.name); !ok {
				columns = slices.Insert(columns, i, c)
			}
		}
	}
	row.columns = columns.append(nil)
	return nil
}

// holdAgainst checks a document against the row that those before it left, which before has the columns of. fault is what a strict
// history would not have; compared tells that the document says what stood there.
func (r *replayed) holdAgainst(m *documentMeta, columns, before properties) (fault string, compared bool) {
	there := "no document before it left a row"
	if r.line > 0 {
		there = "line " + strconv.FormatInt(r.line, 10) + " is the key's last before it"
	}
	switch {
	case m.Op == "c" && r.columns != nil:
		return "an insertion of a key that is there: " + there, false
	case m.Op == "c":
		return "", false
	case r.columns == nil:
		return "a change of a key that is not there: " + there, false
	}
	var said properties
	switch {
	case len(m.Before) > 0 && m.Before[0] == '{':
		var err error
		if said, err = splitObject(m.Before); err != nil {
			return "_meta.before: " + err.Error(), false
		}
	case m.Op == "d":
		said = columns
	default:
		return "", false
	}
	for _, c := range said {
		if had := before.get(c.name); had != nil && !sameValue(had, c.value) {
			return fmt.Sprintf("it says that %s was %s, and line %d left %s", c.name, cut(string(c.value), 60), r.line,
				cut(string(had), 60)), true
		}
	}
	return "", true
}

// meet holds a row of the table against the replayed one.
func (f *partFindings) meet(t *verifyTable, key string, row *replayed, doc []byte) error {
	columns, _, err := parseColumns(doc)
	if err != nil {
		return err
	}
	d := &difference{table: t, key: key}
	if row != nil && row.columns != nil && !t.left(row.line) {
		have, err := splitObject(row.columns)
		if err != nil {
			return err
		}
		row.met = true
		count := f.count(t)
		for _, c := range have {
			if !t.columns[c.name] {
				f.strangers[t][c.name] = true
			}
		}
		if len(differingColumns(have, columns)) == 0 {
			count[1]++
			return nil
		}
		d.line, d.document = row.line, row.columns
	} else if row != nil {
		d.line = row.line
	}
	d.row = columns.append(nil)
	f.differ(d)
	return nil
}

// differ notes a difference, with its rows while there is room for them.
func (f *partFindings) differ(d *difference) {
	size := len(d.document) + len(d.row)
	if d.detailed = f.replay.detail+f.detail+size <= differenceBytes; d.detailed {
		f.detail += size
		d.document, d.row = bytes.Clone(d.document), bytes.Clone(d.row)
	} else { // which of the two there is remains to be seen
		if d.document != nil {
			d.document = []byte{}
		}
		if d.row != nil {
			d.row = []byte{}
		}
	}
	f.differences = append(f.differences, d)
}

// commit adds the findings to those of the whole.
func (f *partFindings) commit() {
	r := f.replay
	for t, n := range f.counts {
		t.replayed += n[0]
		t.equal += n[1]
		maps.Copy(t.strangers, f.strangers[t])
	}
	r.detail += f.detail
	r.checked += f.checked
	r.faults += f.faults
	r.history = append(r.history, f.history[:min(len(f.history), maxHistory-len(r.history))]...)
	for _, d := range f.differences {
		if len(r.differences) >= maxDifferences {
			r.overflowed++
			continue
		}
		r.differences = append(r.differences, d)
		r.byKey[d.table.name.String()+"\x00"+d.key] = d
	}
}

// differingColumns returns the columns of the table's row that the document has otherwise. A column that the document lacks is
// as one that is null: readers of a collection cannot tell the two apart.
func differingColumns(document, row properties) []string {
	var names []string
	for _, c := range row {
		have := document.get(c.name)
		if have == nil {
			have = []byte("null")
		}
		if !sameValue(have, c.value) {
			names = append(names, c.name)
		}
	}
	return names
}

// sameValue reports whether two values are one, however they are spelled.
func sameValue(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := appendCanonical(nil, a)
	y, errY := appendCanonical(nil, b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// appendCanonical appends a value in its one spelling: no blanks, names in order, no escape that is not needed, numbers by their
// digits and exponent. Nothing is rounded.
func appendCanonical(dst []byte, raw []byte) ([]byte, error) {
	switch c := raw[0]; {
	case c == '"' && bytes.IndexByte(raw, '\\') < 0:
		return appendJSONString(dst, raw[1:len(raw)-1]), nil
	case c == '-' || c >= '0' && c <= '9':
		return append(dst, canonicalNumber(string(raw))...), nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return dst, err
	}
	return appendCanonicalValue(dst, v), nil
}

func appendCanonicalValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case json.Number:
		return append(dst, canonicalNumber(string(v))...)
	case string:
		return appendJSONString(dst, []byte(v))
	case []any:
		dst = append(dst, '[')
		for i, element := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCanonicalValue(dst, element)
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, []byte(name)), ':')
			dst = appendCanonicalValue(dst, v[name])
		}
		return append(dst, '}')
	}
	return dst
}

// canonicalNumber spells a JSON number as its digits, without zeros at either end, and the exponent of the last of them: 1.50
// and 15e-1 are both 15e-1. Whole numbers of usual length are written out: 7e2 is 700. A zero keeps its sign, which a float has.
func canonicalNumber(text string) string {
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign, text = "-", text[1:]
	}
	mantissa, exponentText, _ := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent, err := strconv.Atoi(cmp.Or(exponentText, "0"))
	if err != nil {
		return sign + text
	}
	exponent -= len(fraction)
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return sign + "0"
	}
	short := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(short)
	if exponent >= 0 && exponent <= 20 {
		return sign + short + strings.Repeat("0", exponent)
	}
	return sign + short + "e" + strconv.Itoa(exponent)
}

// property is one of an object; its value is as it stands there.
type property struct {
	name  string
	value []byte
}

// properties are those of an object, in the order of their names, each once.
type properties []property

// find returns where a name is, or would be.
func (m properties) find(name string) (int, bool) {
	return slices.BinarySearchFunc(m, name, func(c property, name string) int { return strings.Compare(c.name, name) })
}

// get returns the value of a name, nil for none.
func (m properties) get(name string) []byte {
	if i, ok := m.find(name); ok {
		return m[i].value
	}
	return nil
}

// append appends the object.
func (m properties) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, c := range m {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendJSONString(dst, []byte(c.name)), ':')
		dst = append(dst, c.value...)
	}
	return append(dst, '}')
}

// splitObject splits an object into its properties, whose values alias it. Each value is passed over, not decoded: all of a row is
// decoded only where it is not byte for byte what it is compared with.
func splitObject(doc []byte) (properties, error) {
	doc = bytes.TrimSpace(doc)
	if !json.Valid(doc) || doc[0] != '{' {
		var object map[string]json.RawMessage
		err := json.Unmarshal(doc, &object)
		return nil, cmp.Or(err, errors.New("want an object"))
	}
	m := make(properties, 0, 16)
	for at := skipBlanks(doc, 1); doc[at] != '}'; {
		if doc[at] == ',' {
			at = skipBlanks(doc, at+1)
		}
		end := skipJSON(doc, at)
		name := string(doc[at+1 : end-1])
		if strings.IndexByte(name, '\\') >= 0 {
			if err := json.Unmarshal(doc[at:end], &name); err != nil {
				return nil, err
			}
		}
		at = skipBlanks(doc, skipBlanks(doc, end)+1) // behind the colon
		end = skipJSON(doc, at)
		m = append(m, property{name, doc[at:end:end]})
		at = skipBlanks(doc, end)
	}
	byName := func(a, b property) int { return strings.Compare(a.name, b.name) }
	if !slices.IsSortedFunc(m, byName) {
		slices.SortStableFunc(m, byName)
	}
	for i := 1; i < len(m); i++ {
		if m[i].name == m[i-1].name {
			return nil, fmt.Errorf("the name %q comes twice", m[i].name)
		}
	}
	return m, nil
}

func skipBlanks(doc []byte, at int) int {
	for doc[at] == ' ' || doc[at] == '\n' || doc[at] == '\t' || doc[at] == '\r' {
		at++
	}
	return at
}

// skipJSON returns the end of the value that begins at a place. REQUIRES: the document is a valid object.
func skipJSON(doc []byte, at int) int {
	for depth := 0; ; at++ {
		switch doc[at] {
		case '"':
			for at++; doc[at] != '"'; at++ {
				if doc[at] == '\\' {
					at++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			if depth--; depth < 0 { // of what the value, a word or a number, stands in
				return at
			}
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return at
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return at + 1
		}
	}
}
