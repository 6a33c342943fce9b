package main

// verify.go owns the command that proves a capture on a person's own data: it replays captured documents by key and compares
// them with the tables as they are now.
//
// Invariant: a key is said to differ only if no change of it can have come after the documents. The tables are read chunk by
// chunk, so that each row is as of a moment of its own; what changed between the documents and the last of these moments stands
// in the slot, which is looked into, and never moved, after they were read.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

const verifyHelp = `usage: source-postgres verify --config FILE --documents FILE [flags]

Replays captured documents by key and compares the result with the tables. The documents are lines of JSON, as
"source-postgres preview --json --output" and "flowctl collections read" write them. Changes nothing on the server.

What was changed after the documents were captured is told apart by the capture's slot, if no capture uses it at the
moment: stop the capture ahead of a verify, or stop writing and say so with --idle.

Exit status: 0 everything equal, 1 something differs, 2 it could not be told.

`

// verifyOptions are the flags of verify.
type verifyOptions struct {
	documents string
	tables    string
	keys      string
	temp      string
	strict    bool
	idle      bool
	show      int

	wanted []tablePattern         // of tables; nil: all
	keysOf map[tableName][]string // of keys
}

// exitError is an error with the exit status that it means.
type exitError struct {
	status int
	msg    string
}

func (e *exitError) Error() string { return e.msg }

// untold is the error of what could not be told.
func untold(err error) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	return &exitError{2, "could not tell: " + err.Error()}
}

func verifyCommand(ctx context.Context, args []string) error {
	f := newCommandFlags("verify", verifyHelp)
	f.addConfig()
	var o verifyOptions
	f.StringVar(&o.documents, "documents", "", "the `file` of the documents, - for stdin")
	f.StringVar(&o.tables, "tables", "",
		"compare only tables that match one of these comma-separated `patterns`, and these also when they have no document "+
			"(default all that have)")
	f.StringVar(&o.keys, "keys", "", "collection keys other than the tables' own, as `schema.table=column+column,…`")
	f.StringVar(&o.temp, "temp", "", "the `folder` for temporary files, which take about as much as documents and tables (default the system's)")
	f.BoolVar(&o.strict, "strict", false, "a history that is not strict counts as a difference")
	f.BoolVar(&o.idle, "idle", false, "nothing was written to the tables since the documents were captured: every difference counts")
	f.IntVar(&o.show, "show", 10, "how many differing keys to show, column by `column`")
	d, err := f.parse(args, true)
	if err != nil {
		return err
	}
	if o.documents == "" {
		return usageError("verify: --documents is missing: the file of the documents, or - for stdin")
	}
	if o.documents == "-" && f.config == "-" {
		return usageError("verify: only one of --config and --documents can be stdin")
	}
	if o.wanted, err = tablePatterns("verify", o.tables); err != nil {
		return err
	}
	if o.keysOf, err = parseKeys(o.keys); err != nil {
		return err
	}
	s, err := parseConfig(d.config)
	if err != nil {
		return untold(err)
	}
	return untold(advise(verify(ctx, s, &o, os.Stdout), s))
}

// parseKeys reads --keys.
func parseKeys(list string) (map[tableName][]string, error) {
	keys := make(map[tableName][]string)
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		table, columns, ok := strings.Cut(part, "=")
		name, named := parseTableName(table)
		if !ok || !named || columns == "" {
			return nil, usageError("verify: --keys: " + part + " is not schema.table=column+column")
		}
		keys[name] = strings.Split(columns, "+")
	}
	return keys, nil
}

// verifier is one run of verify.
type verifier struct {
	*replay
	ctx      context.Context
	db       *database
	settings *settings
	keys     map[tableName][]string
	bindings map[tableName]*binding
	out      io.Writer
}

func verify(ctx context.Context, s *settings, o *verifyOptions, out io.Writer) error {
	in := os.Stdin
	if o.documents != "-" {
		var err error
		if in, err = os.Open(o.documents); err != nil {
			return err
		}
		defer in.Close()
	}
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return err
	}
	defer db.close()
	r, err := newReplay(o.temp)
	if err != nil {
		return err
	}
	defer r.close()
	v := &verifier{
		replay: r, ctx: ctx, db: db, settings: s, keys: o.keysOf, bindings: make(map[tableName]*binding), out: out,
	}
	r.describe = v.describe
	if o.wanted != nil {
		wanted := func(name tableName) bool {
			return slices.ContainsFunc(o.wanted, func(p tablePattern) bool { return p.matches(name) })
		}
		r.skip = func(name tableName) bool { return !wanted(name) }
		if err := v.addTables(wanted); err != nil {
			return err
		}
	}
	if err := r.readDocuments(in); err != nil {
		return fmt.Errorf("%s: %w", o.documents, err)
	}
	if len(r.tables) == 0 {
		return fmt.Errorf("%s has no document of a table that is to be compared", o.documents)
	}
	for i, t := range r.tables {
		if t.key == nil {
			continue
		}
		if err := v.readTable(i); err != nil {
			return fmt.Errorf("read %s: %w", t.name, err)
		}
	}
	if err := r.compare(); err != nil {
		return err
	}
	var lag error
	if len(r.differences) > 0 && !o.idle {
		lag = v.lookIntoSlot()
	}
	v.report(o)
	return v.verdict(o, lag)
}

// addTables adds the tables that discovery offers and that are wanted.
func (v *verifier) addTables(wanted func(tableName) bool) error {
	var tables []*table
	err := v.db.with(v.ctx, func(conn *pgx.Conn) (err error) {
		tables, _, err = listTables(v.ctx, conn, v.settings)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range tables {
		if !wanted(t.tableName) {
			continue
		}
		described, err := v.describe(t.tableName)
		if err != nil {
			return err
		}
		v.add(described)
	}
	return nil
}

// describe makes a binding of a table, to read it as a backfill would.
func (v *verifier) describe(name tableName) (*verifyTable, error) {
	read, err := readCatalog(v.ctx, v.db, []tableName{name})
	if err != nil {
		return nil, err
	}
	t := read.tables[name]
	if t == nil {
		return nil, fmt.Errorf("the database has no table %s", name.show())
	}
	key := v.keys[name]
	for _, otherwise := range [][]string{t.primaryKey, t.uniqueKey} {
		if key == nil {
			key = otherwise
		}
	}
	described := &verifyTable{name: name, key: key}
	if key == nil {
		return described, nil
	}
	b, err := readingBinding(v.ctx, v.db, read, key, t)
	if err != nil {
		return nil, err
	}
	v.bindings[name] = b
	return described, nil
}

// readTable puts the rows of a table.
func (v *verifier) readTable(index int) error {
	return eachDocument(v.ctx, v.db, v.bindings[v.tables[index].name], v.settings.chunkRows, func(doc []byte) error {
		return v.row(index, doc)
	})
}

// lookIntoSlot marks the differences whose keys were changed after the documents. An error says why that could not be told.
func (v *verifier) lookIntoSlot() error {
	if err := v.awaitFlushed(); err != nil {
		return err
	}
	return v.db.with(v.ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(v.ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(v.ctx) }()
		if _, err := tx.Exec(v.ctx, "SET LOCAL statement_timeout = 0"); err != nil {
			return err
		}
		var confirmed string
		err = tx.QueryRow(v.ctx, "SELECT coalesce(confirmed_flush_lsn::text, '') FROM pg_replication_slots"+
			" WHERE slot_name = $1 AND database = current_database()", v.settings.slot).Scan(&confirmed)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("there is no slot %s", v.settings.slot)
		}
		if err != nil {
			return err
		}
		if at, _ := parseLSN(confirmed); v.cursor != 0 && at > v.cursor {
			return fmt.Errorf("the slot %s has been moved on to %s, and the documents' last state is of %s: these are not all that was "+
				"captured", v.settings.slot, at, v.cursor)
		}
		rows, err := tx.Query(v.ctx, "SELECT lsn::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,"+
			" 'proto_version', '1', 'publication_names', $2)", v.settings.slot, quoteIdent(v.settings.publication))
		if err != nil {
			return err
		}
		look := slotLook{v: v, relations: make(map[uint32]*plan)}
		var at string
		var data []byte
		_, err = pgx.ForEachRow(rows, []any{&at, &data}, func() error { return look.message(at, data) })
		if sqlState(err) == codeObjectInUse {
			return fmt.Errorf("the slot %s is used by a capture that runs: stop it and verify again", v.settings.slot)
		}
		return err
	})
}

// awaitFlushed waits until all that was visible to us can be decoded: a commit may be visible before it is flushed.
func (v *verifier) awaitFlushed() error {
	if v.db.standby {
		return nil
	}
	return v.db.with(v.ctx, func(conn *pgx.Conn) error {
		var end string
		if err := conn.QueryRow(v.ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
			return err
		}
		for range 100 {
			var flushed bool
			if err := conn.QueryRow(v.ctx, "SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn", end).Scan(&flushed); err != nil || flushed {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return errors.New("the server does not flush its log")
	})
}

// slotLook reads what the slot has still to send.
type slotLook struct {
	v         *verifier
	begin     beginMessage
	relations map[uint32]*plan // those of tables that are compared
	change    change
}

// message judges one message of pgoutput at a place in the log.
func (l *slotLook) message(at string, data []byte) (err error) {
	if len(data) == 0 {
		return nil
	}
	switch data[0] {
	case 'B':
		l.begin, err = decodeBegin(data)
	case 'R':
		r, err := decodeRelation(data)
		if err != nil {
			return err
		}
		l.relations[r.oid] = nil
		if b := l.v.bindings[tableName{r.schema, r.name}]; b != nil {
			o := b.plan.options
			o.standIn = nil
			l.relations[r.oid] = newPlan(r.columns, o)
		}
	case 'I', 'U', 'D':
		if err := decodeChange(data, &l.change); err != nil {
			return err
		}
		p := l.relations[l.change.relation]
		if p == nil || p.key == nil || !l.isLater(at) {
			return nil
		}
		if l.change.oldKind != 0 {
			err = l.mark(p, l.change.old, nil)
		}
		if l.change.op != 'D' && err == nil {
			err = l.mark(p, l.change.new, l.change.old)
		}
		return err
	case 'T':
		truncated, err := decodeTruncate(data)
		if err != nil {
			return err
		}
		for _, oid := range truncated.relations {
			if p := l.relations[oid]; p != nil && l.isLater(at) {
				l.markAll(tableName{p.options.schema, p.options.table})
			}
		}
	}
	return err
}

// isLater reports whether a change at a place of the log is not among the documents.
func (l *slotLook) isLater(at string) bool {
	event, _ := parseLSN(at)
	if l.v.cursor != 0 && l.begin.finalLSN < l.v.cursor {
		return false
	}
	return l.v.last.before(logPlace{int64(l.begin.finalLSN), int64(event)})
}

// mark marks the difference of a row's key, if there is one.
func (l *slotLook) mark(p *plan, t, fill tuple) error {
	columns := make(properties, 0, len(p.key))
	for i, at := range p.key {
		value := t.from(fill, at)
		raw := []byte("null")
		if value.kind != valueNull {
			var err error
			f := slices.IndexFunc(p.fields, func(f planField) bool { return f.index == at })
			if raw, err = p.fields[f].encode(nil, value.data); err != nil {
				return err
			}
		}
		columns = append(columns, property{p.options.keyColumns[i], raw})
	}
	slices.SortFunc(columns, func(a, b property) int { return strings.Compare(a.name, b.name) })
	key, err := keyOfColumns(p.options.keyColumns, columns)
	if err != nil {
		return err
	}
	if d := l.v.byKey[p.options.schema+"."+p.options.table+"\x00"+key]; d != nil {
		d.since = true
	}
	return nil
}

func (l *slotLook) markAll(name tableName) {
	for _, d := range l.v.differences {
		d.since = d.since || d.table.name == name
	}
}

// tally counts the differences of a table: those that are real, and those of keys that changed since.
func (v *verifier) tally(t *verifyTable) (differ, since int64) {
	for _, d := range v.differences {
		switch {
		case d.table != t:
		case d.since:
			since++
		default:
			differ++
		}
	}
	return differ, since
}

// report prints what was found.
func (v *verifier) report(o *verifyOptions) {
	table := tabwriter.NewWriter(v.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tDOCUMENTS\tREPLAYED\tIN THE TABLE\tEQUAL\tDIFFERENT\tCHANGED SINCE")
	for _, t := range v.tables {
		if t.key == nil {
			fmt.Fprintf(table, "%s\t%s\tnot compared: it has no key, and its documents are told apart by their place in the log alone\n",
				t.name, grouped(t.documents))
			continue
		}
		differ, since := v.tally(t)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.name, grouped(t.documents), grouped(t.replayed), grouped(t.rows),
			grouped(t.equal), grouped(differ), grouped(since))
	}
	_ = table.Flush()
	for _, t := range v.tables {
		if names := sortedNames(t.strangers); len(names) > 0 {
			fmt.Fprintf(v.out, "%s: documents have columns that the table does not have now, which were not compared: %s\n", t.name,
				strings.Join(names, ", "))
		}
	}
	v.reportHistory()
	shown := 0
	for _, d := range v.differences {
		if d.since || shown == o.show {
			continue
		}
		shown++
		fmt.Fprint(v.out, d.show())
	}
	if v.overflowed > 0 {
		fmt.Fprintf(v.out, "and %s more differences, of which it was not looked up whether they changed since\n", grouped(v.overflowed))
	}
}

func sortedNames(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (v *verifier) reportHistory() {
	if v.faults == 0 {
		fmt.Fprintf(v.out, "history: strict; %s changes were held against the row before them\n", grouped(v.checked))
		return
	}
	fmt.Fprintf(v.out, "history: not strict in %s places\n", grouped(v.faults))
	for _, fault := range v.history {
		fmt.Fprintln(v.out, "  "+fault)
	}
}

// show is a difference for people, a line a column.
func (d *difference) show() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s [%s]: ", d.table.name, cut(d.key, 200))
	switch {
	case d.document == nil && d.line == 0:
		s.WriteString("in the table, and no document is of it\n")
	case d.document == nil:
		fmt.Fprintf(&s, "in the table, and the documents have it deleted (line %d)\n", d.line)
	case d.row == nil:
		fmt.Fprintf(&s, "in the documents (line %d), and not in the table\n", d.line)
	default:
		fmt.Fprintf(&s, "differs (line %d)\n", d.line)
	}
	if !d.detailed || d.document == nil || d.row == nil {
		return s.String()
	}
	document, err := splitObject(d.document)
	if err != nil {
		return s.String()
	}
	row, err := splitObject(d.row)
	if err != nil {
		return s.String()
	}
	for _, name := range differingColumns(document, row) {
		have := "no value"
		if value := document.get(name); value != nil {
			have = cut(string(value), 120)
		}
		fmt.Fprintf(&s, "  %s: document %s, table %s\n", name, have, cut(string(row.get(name)), 120))
	}
	return s.String()
}

// verdict is nil for equal. lag says why it could not be told what changed since.
func (v *verifier) verdict(o *verifyOptions, lag error) error {
	var differ, since, keyless int64
	for _, t := range v.tables {
		d, s := v.tally(t)
		differ, since = differ+d, since+s
		if t.key == nil {
			keyless++
		}
	}
	switch {
	case lag != nil:
		return &exitError{2, fmt.Sprintf("could not tell: %s keys differ, and whether they were changed after the documents is not known: "+
			"%v. If nothing was written since, say so with --idle", grouped(differ+v.overflowed), lag)}
	case differ > 0 || v.overflowed > 0 && o.idle:
		return &exitError{1, fmt.Sprintf("%s keys differ", grouped(differ+v.overflowed))}
	case v.overflowed > 0:
		return &exitError{2, "could not tell: too many differences to look up whether they changed since"}
	case o.strict && v.faults > 0:
		return &exitError{1, "the rows are equal, but the history is not strict"}
	case keyless > 0:
		return &exitError{2, "could not tell: tables without a key cannot be compared; leave them out with --tables"}
	}
	text := "the replayed documents equal the tables"
	if since > 0 {
		text += fmt.Sprintf(", but for %s keys that were changed after the documents", grouped(since))
	}
	fmt.Fprintln(v.out, text)
	return nil
}
