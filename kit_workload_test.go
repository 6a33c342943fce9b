package main

// kit_workload_test.go is the oracle's writer: seeded random transactions over tables of many kinds.
//
// A seed fixes what each writer tries, not how writers interleave. Every statement picks its rows by keys drawn from a
// small space, so that writers meet on the same rows; what the server refuses (a key that is taken, a deadlock) aborts a
// transaction or a savepoint, as in any application.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// flavour is a kind of table.
type flavour struct {
	name    string
	columns string   // definition of the key columns: %[2]s the schema, %[3]s a linguistic collation, %[4]s citext
	key     []string // their names
	// primary is the constraint, in SQL; empty: none.
	primary string
	after   string // follows the table's definition
	// setup is run after CREATE TABLE, with %[1]s for the table's name.
	setup string
	// keyOf returns the texts of a key; space is about how many keys there are.
	keyOf func(r *rand.Rand, space int) []string
	// swaps are possible: the server looks at the key at the end of a statement or transaction only.
	swaps bool
	// fresh keys that no writer has used: for COPY.
	fresh func(n int64) []string
}

// workTable is a table of the workload.
type workTable struct {
	*flavour
	table      tableName
	full       bool // REPLICA IDENTITY FULL
	mode       backfillMode
	priority   int
	space      int
	insertOnly bool
	check      tableCheck
	scanned    atomic.Pointer[scanPosition]
	again      bool // its binding was backfilled again
	altered    bool // columns come and go: an old image may have what the document before it could not
	vanished   bool // its binding was away: documents of rows deleted meanwhile stay
}

// scanPosition is where a backfill was last seen.
type scanPosition struct {
	key []string
	at  time.Time
}

// tableCheck is what holds for the documents of a table.
type tableCheck uint8

const (
	checkStrict    tableCheck = iota // a strict history, whose replay equals the table
	checkFinal                       // the replay equals the table
	checkChanges                     // the replay equals the table in what has changed since streaming began
	checkContained                   // every row of the table is among the documents
)

// payload are the columns that every table has besides its key. big and wide hold values of 3 to 50 kB out of line.
const payload = `n int NOT NULL DEFAULT 0, stamp timestamptz NOT NULL DEFAULT clock_timestamp(), amount numeric(12,2),
	small text, big text, wide text`

var payloadColumns = []string{"n", "stamp", "amount", "small", "big", "wide"}

func intKey(r *rand.Rand, space int) []string { return []string{strconv.Itoa(r.IntN(space))} }

func freshInt(n int64) []string { return []string{strconv.FormatInt(1_000_000+n, 10)} }

// words are texts that linguistic collations sort otherwise than their bytes.
var words = []string{
	"", "a", "A", "á", "Á", "ab", "a b", "a-b", "aB", "Ab", "b", "B", "ä", "z", "Z", "ß", "ss", "é", "e", "E", "co-op",
	"coop", "Coop", "résumé", "resume", "Resume", "_", "-", "1", "10", "2", "ñ", "n", "N", "œ", "oe", "日本", "😀", "'", `\`,
}

func wordKey(r *rand.Rand, space int) string {
	n := r.IntN(space)
	word := words[n%len(words)]
	for n /= len(words); n > 0; n /= len(words) {
		word += words[n%len(words)]
	}
	return word
}

func freshWord(n int64) []string { return []string{fmt.Sprintf("fresh %d é", n)} }

// enumLabels are the values of the enum key, in an order of their own.
const enumLabels = 64

func enumLabel(i int) string { return fmt.Sprintf("v%d", i*37%enumLabels) }

var flavours = []*flavour{
	{name: "int", columns: "id int", key: []string{"id"}, primary: "PRIMARY KEY (id)", keyOf: intKey, fresh: freshInt},
	{
		name: "icu", columns: `a bigint, t text COLLATE %[3]s`, key: []string{"a", "t"}, primary: "PRIMARY KEY (a, t)",
		keyOf: func(r *rand.Rand, space int) []string {
			return []string{strconv.Itoa(r.IntN(3) - 1), wordKey(r, max(1, space/3))}
		},
		fresh: func(n int64) []string { return []string{strconv.FormatInt(n%3, 10), freshWord(n)[0]} },
	},
	{
		name: "c", columns: `t text COLLATE "C", a bigint`, key: []string{"t", "a"}, primary: "PRIMARY KEY (t, a)",
		keyOf: func(r *rand.Rand, space int) []string {
			return []string{wordKey(r, max(1, space/3)), strconv.Itoa(r.IntN(3) - 1)}
		},
		fresh: func(n int64) []string { return []string{freshWord(n)[0], strconv.FormatInt(-n, 10)} },
	},
	{
		name: "text", columns: "t text", key: []string{"t"}, primary: "PRIMARY KEY (t)",
		keyOf: func(r *rand.Rand, space int) []string { return []string{wordKey(r, space)} }, fresh: freshWord,
	},
	{
		name: "numeric", columns: "v numeric", key: []string{"v"}, primary: "PRIMARY KEY (v)",
		keyOf: func(r *rand.Rand, space int) []string {
			switch n := r.IntN(space); {
			case n == 0:
				return []string{"NaN"}
			case n == 1:
				return []string{[]string{"0", "0.0", "0.00"}[r.IntN(3)]}
			default: // equal values in unlike forms
				return []string{fmt.Sprintf("%d.%s%s", (n-space/2)/2, []string{"0", "5"}[n%2], strings.Repeat("0", r.IntN(3)))}
			}
		},
		fresh: func(n int64) []string { return []string{fmt.Sprintf("1e%d", 5+n%40)} },
	},
	{
		name: "uuid", columns: "u uuid", key: []string{"u"}, primary: "PRIMARY KEY (u)",
		keyOf: func(r *rand.Rand, space int) []string {
			n := r.IntN(space)
			return []string{fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(n)*2654435761, n)}
		},
		fresh: func(n int64) []string { return []string{fmt.Sprintf("%08x-ffff-4000-8000-%012x", uint32(n)*40503, n)} },
	},
	{
		name: "moment", columns: "at timestamptz", key: []string{"at"}, primary: "PRIMARY KEY (at)",
		keyOf: func(r *rand.Rand, space int) []string {
			n := r.IntN(space)
			at := time.Date(1969, 12, 31, 23, 0, 0, n%7*1000, time.UTC).Add(time.Duration(n) * 17 * time.Minute)
			return []string{at.Format("2006-01-02 15:04:05.000000Z07:00")}
		},
		fresh: func(n int64) []string { return []string{time.Unix(n, 0).AddDate(60, 0, 0).UTC().Format(time.RFC3339)} },
	},
	{
		name: "enum", columns: "e %[2]s.label", key: []string{"e"}, primary: "PRIMARY KEY (e)",
		keyOf: func(r *rand.Rand, space int) []string { return []string{enumLabel(r.IntN(min(space, enumLabels)))} },
	},
	{
		name: "citext", columns: "t %[4]s", key: []string{"t"}, primary: "PRIMARY KEY (t)",
		keyOf: func(r *rand.Rand, space int) []string { return []string{wordKey(r, space)} }, fresh: freshWord,
	},
	{
		name: "padded", columns: "c char(6), b bit(5)", key: []string{"c", "b"}, primary: "PRIMARY KEY (c, b)",
		keyOf: func(r *rand.Rand, space int) []string {
			n := r.IntN(space)
			return []string{string([]byte{'a' + byte(n%2)}) + strconv.Itoa(n/12), fmt.Sprintf("%05b", n/2%6)}
		},
		fresh: func(n int64) []string { return []string{strconv.FormatInt(n, 10), "11111"} },
	},
	{
		name: "parts", columns: "region int, id int", key: []string{"region", "id"}, primary: "PRIMARY KEY (region, id)",
		after: "PARTITION BY RANGE (region)",
		setup: `CREATE TABLE %[1]s_a PARTITION OF %[1]s FOR VALUES FROM (0) TO (1);
			CREATE TABLE %[1]s_b PARTITION OF %[1]s FOR VALUES FROM (1) TO (3) PARTITION BY LIST (region);
			CREATE TABLE %[1]s_b1 PARTITION OF %[1]s_b FOR VALUES IN (1);
			CREATE TABLE %[1]s_b2 PARTITION OF %[1]s_b FOR VALUES IN (2);
			CREATE TABLE %[1]s_c PARTITION OF %[1]s DEFAULT;`,
		keyOf: func(r *rand.Rand, space int) []string {
			return []string{strconv.Itoa(r.IntN(4)), strconv.Itoa(r.IntN(max(1, space/4)))}
		},
		fresh: func(n int64) []string { return []string{strconv.FormatInt(n%4, 10), freshInt(n)[0]} },
	},
	{
		name: "deferred", columns: "id int NOT NULL", key: []string{"id"},
		primary: "PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED", keyOf: intKey, swaps: true, fresh: freshInt,
	},
	{
		name: "keyless", columns: "id int", key: []string{"id"}, keyOf: intKey,
		after: "WITH (fillfactor = 50)", setup: "CREATE INDEX ON %[1]s (id); CREATE INDEX ON %[1]s (stamp);",
	},
}

// workWriter is one session of the workload.
type workWriter struct {
	rand   *rand.Rand
	conn   *pgx.Conn
	tables []*workTable
	number int64 // of the writer, for keys of its own
	fresh  int64
	depth  int                        // of savepoints
	chunk  int                        // rows a chunk may have
	latest *atomic.Pointer[workTable] // the table of the last backfilled row
	// truncates is how many statements there are to a TRUNCATE; 0: there is none.
	truncates int
	// reconnect opens another connection when the server has ended the last one; nil where that is a failure.
	reconnect func(ctx context.Context) (*pgx.Conn, error)

	transactions, statements, refused int
}

// refused tells the errors an application has to live with.
func refused(err error) bool {
	switch sqlState(err) {
	case "23505", "40P01", "40001", "25P02": // unique_violation, deadlock, serialization failure, in a failed transaction
		return true
	case "55006": // a TRUNCATE while a deferred constraint is still to be checked
		return true
	}
	return false
}

// run writes until the context ends.
func (w *workWriter) run(ctx context.Context, pause time.Duration) error {
	for ctx.Err() == nil {
		err := w.transaction(ctx)
		if err != nil && ctx.Err() == nil && w.reconnect != nil && w.conn.IsClosed() {
			w.conn, err = w.reconnect(ctx)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-time.After(time.Duration(w.rand.Int64N(int64(2*pause) + 1))):
		case <-ctx.Done():
		}
	}
	return nil
}

// transaction runs one transaction; statements are not cut short by ctx. A refusal is no error.
func (w *workWriter) transaction(ctx context.Context) error {
	// Once begun a transaction runs to its end: an interrupted one would leave the connection closed.
	background := context.WithoutCancel(ctx)
	w.transactions++
	if w.rand.IntN(3) == 0 { // by itself
		err := w.statement(background, w.pick())
		if refused(err) {
			err = nil
		}
		return err
	}
	if _, err := w.conn.Exec(background, "BEGIN"); err != nil {
		return err
	}
	w.depth = 0
	t := w.pick()
	err := error(nil)
	for range 1 + w.rand.IntN(7) {
		if w.rand.IntN(3) == 0 {
			t = w.pick()
		}
		if err = w.step(background, t); err != nil {
			break
		}
		if w.rand.IntN(20) == 0 {
			time.Sleep(time.Duration(w.rand.IntN(60)) * time.Millisecond)
		}
	}
	end := "COMMIT"
	if err != nil || w.rand.IntN(8) == 0 {
		end = "ROLLBACK"
	}
	if err != nil && !refused(err) {
		return err
	}
	if _, err = w.conn.Exec(background, end); refused(err) { // a deferred constraint
		err = nil
	}
	return err
}

// step is a statement of a transaction, or something about its savepoints.
func (w *workWriter) step(ctx context.Context, t *workTable) error {
	switch n := w.rand.IntN(12); {
	case n < 2:
		w.depth++
		_, err := w.conn.Exec(ctx, fmt.Sprintf("SAVEPOINT s%d", w.depth))
		return err
	case n < 4 && w.depth > 0:
		to := 1 + w.rand.IntN(w.depth)
		verb := []string{"ROLLBACK TO", "RELEASE", "ROLLBACK TO"}[w.rand.IntN(3)]
		if verb == "RELEASE" {
			w.depth = to - 1
		} else {
			w.depth = to
		}
		_, err := w.conn.Exec(ctx, fmt.Sprintf("%s s%d", verb, to))
		return err
	}
	err := w.statement(ctx, t)
	if refused(err) && w.depth > 0 {
		_, err = w.conn.Exec(ctx, fmt.Sprintf("ROLLBACK TO s%d", w.depth))
	}
	return err
}

// pick chooses a table, every other time that of the backfill seen last.
func (w *workWriter) pick() *workTable {
	if w.rand.IntN(2) == 0 {
		if t := w.latest.Load(); t != nil && t.scanning() != nil {
			return t
		}
	}
	return w.tables[w.rand.IntN(len(w.tables))]
}

// scanning is the key a running backfill has lately emitted, or nil.
func (t *workTable) scanning() []string {
	if at := t.scanned.Load(); at != nil && time.Since(at.at) < 300*time.Millisecond {
		return at.key
	}
	return nil
}

// statement writes to a table in a random way.
func (w *workWriter) statement(ctx context.Context, t *workTable) error {
	w.statements++
	err := w.write(ctx, t)
	if refused(err) {
		w.refused++
	}
	return err
}

func (w *workWriter) write(ctx context.Context, t *workTable) error {
	n := w.rand.IntN(100)
	if t.insertOnly {
		n %= 30
	}
	name := quoteTable(t.table)
	if w.truncates > 0 && w.rand.IntN(w.truncates) == 0 {
		if w.rand.IntN(4) == 0 {
			name += ", " + quoteTable(w.tables[w.rand.IntN(len(w.tables))].table)
		}
		return w.exec(ctx, "TRUNCATE "+name)
	}
	switch {
	case n < 20:
		return w.exec(ctx, w.insert(t, 1))
	case n < 24:
		return w.exec(ctx, w.insert(t, 2+w.rand.IntN(12)))
	case n < 28 && t.fresh != nil:
		return w.copy(ctx, t)
	case n < 30:
		return w.exec(ctx, w.insert(t, 1))
	case n < 58:
		return w.exec(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s", name, w.set(), w.where(t, 1)))
	case n < 62:
		return w.exec(ctx, fmt.Sprintf("UPDATE %s SET %s WHERE %s", name, w.set(), w.where(t, 2+w.rand.IntN(6))))
	case n < 63: // all of them
		return w.exec(ctx, fmt.Sprintf("UPDATE %s SET %s", name, w.set()))
	case n < 64: // a change that changes nothing
		return w.exec(ctx, fmt.Sprintf("UPDATE %s SET n = n WHERE %s", name, w.where(t, 1)))
	case n < 72:
		return w.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE %s", name, w.where(t, 1)))
	case n < 75:
		return w.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE %s", name, w.where(t, 2+w.rand.IntN(5))))
	case n < 78: // deleted and inserted
		key := t.keyOf(w.rand, t.space)
		if err := w.exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE %s", name, equals(t.key, key))); err != nil {
			return err
		}
		return w.exec(ctx, w.insertKeys(t, [][]string{key}))
	case n < 81 && t.primary != "" && !t.swaps:
		return w.exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES %s ON CONFLICT (%s) DO UPDATE SET %s, n = %s.n + 1",
			name, columnList(t), w.row(t.keyOf(w.rand, t.space)), strings.Join(t.key, ", "), w.assign(), name))
	case n < 86 && t.swaps:
		return w.exec(ctx, w.swap(t))
	case n < 88 && t.swaps:
		return w.exec(ctx, fmt.Sprintf("UPDATE %s SET id = id + 1, n = n + 1 WHERE id BETWEEN %d AND %[3]d",
			name, t.space/3, t.space/3+w.rand.IntN(5)))
	default:
		return w.exec(ctx, w.move(t))
	}
}

func (w *workWriter) exec(ctx context.Context, sql string) error {
	_, err := w.conn.Exec(ctx, sql)
	if err != nil && !refused(err) {
		err = fmt.Errorf("%.300s: %w", sql, err)
	}
	return err
}

func sqlText(text string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

func sqlTexts(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = sqlText(text)
	}
	return strings.Join(quoted, ", ")
}

func equals(columns, key []string) string {
	parts := make([]string, len(columns))
	for i := range columns {
		parts[i] = columns[i] + " = " + sqlText(key[i])
	}
	return strings.Join(parts, " AND ")
}

func columnList(t *workTable) string {
	return strings.Join(append(append([]string(nil), t.key...), "n", "amount", "small", "big", "wide"), ", ")
}

// where picks n keys, of a table that is being backfilled often those that the chunks to come hold: what changes between
// the snapshot of a chunk and its fence is what is hard to get right.
func (w *workWriter) where(t *workTable, n int) string {
	if key := t.scanning(); key != nil && w.rand.IntN(3) > 0 {
		list := strings.Join(t.key, ", ")
		return fmt.Sprintf("(%s) IN (SELECT %s FROM %s WHERE (%s) > (%s) ORDER BY %s LIMIT %d OFFSET %d)",
			list, list, quoteTable(t.table), list, sqlTexts(key), list, n, w.rand.IntN(3*w.chunk+1))
	}
	parts := make([]string, n)
	for i := range parts {
		parts[i] = "(" + equals(t.key, t.keyOf(w.rand, t.space)) + ")"
	}
	return strings.Join(parts, " OR ")
}

func (w *workWriter) insert(t *workTable, n int) string {
	keys := make([][]string, n)
	for i := range keys {
		keys[i] = t.keyOf(w.rand, t.space)
	}
	return w.insertKeys(t, keys)
}

func (w *workWriter) insertKeys(t *workTable, keys [][]string) string {
	rows := make([]string, len(keys))
	for i, key := range keys {
		rows[i] = w.row(key)
	}
	sql := fmt.Sprintf("INSERT INTO %s (%s) VALUES %s", quoteTable(t.table), columnList(t), strings.Join(rows, ", "))
	if t.primary != "" && !t.swaps {
		sql += " ON CONFLICT DO NOTHING"
	}
	return sql
}

// row returns the values of columnList.
func (w *workWriter) row(key []string) string {
	return fmt.Sprintf("(%s, %d, %s, %s, %s, %s)", sqlTexts(key), w.rand.IntN(1000), w.amount(), w.small(), w.big(), w.big())
}

func (w *workWriter) amount() string {
	if w.rand.IntN(6) == 0 {
		return "NULL"
	}
	return fmt.Sprintf("%d.%d", w.rand.IntN(2000)-1000, w.rand.IntN(100))
}

func (w *workWriter) small() string {
	switch w.rand.IntN(6) {
	case 0:
		return "NULL"
	case 1:
		return "''"
	default:
		return sqlText(words[w.rand.IntN(len(words))] + "\n\t\"" + words[w.rand.IntN(len(words))])
	}
}

// big is a value that mostly goes out of line: what does not compress.
func (w *workWriter) big() string {
	switch w.rand.IntN(6) {
	case 0, 1:
		return "NULL"
	case 2:
		return sqlText("short " + strconv.Itoa(w.rand.IntN(1000)))
	default:
		part := w.rand.Float64()
		part *= part
		raw := make([]byte, (3000+int(47000*part*part*part))*3/4)
		for i := 0; i+8 <= len(raw); i += 8 {
			n := w.rand.Uint64()
			for j := range 8 {
				raw[i+j] = byte(n >> (8 * j))
			}
		}
		return "'" + base64.StdEncoding.EncodeToString(raw) + "'"
	}
}

// assign is a list of assignments to columns that are no key, most of which leave the values out of line alone.
func (w *workWriter) assign() string {
	set := "stamp = clock_timestamp()"
	if w.rand.IntN(5) == 0 {
		set += ", small = " + w.small()
	}
	if w.rand.IntN(6) == 0 {
		set += ", amount = " + w.amount()
	}
	if w.rand.IntN(7) == 0 {
		set += ", big = " + w.big()
	}
	if w.rand.IntN(9) == 0 {
		set += ", wide = " + w.big()
	}
	return set
}

func (w *workWriter) set() string { return w.assign() + ", n = n + 1" }

// move gives a row another key, if that is free.
func (w *workWriter) move(t *workTable) string {
	from, to := t.keyOf(w.rand, t.space), t.keyOf(w.rand, t.space)
	if w.rand.IntN(4) == 0 { // one column only; for a numeric or citext key often another form of the same value
		keep := w.rand.IntN(len(to))
		to[keep] = from[keep]
		if len(to) == 1 && t.name == "numeric" && strings.Contains(to[0], ".") {
			to[0] += "0"
		}
		if len(to) == 1 && t.name == "citext" {
			to[0] = strings.ToUpper(to[0])
		}
	}
	parts := make([]string, len(to))
	for i := range to {
		parts[i] = t.key[i] + " = " + sqlText(to[i])
	}
	if w.rand.IntN(2) == 0 {
		parts = append(parts, w.set())
	}
	where := equals(t.key, from)
	if t.scanning() != nil && w.rand.IntN(2) == 0 {
		where = w.where(t, 1)
	}
	return fmt.Sprintf("UPDATE %s SET %s WHERE %s", quoteTable(t.table), strings.Join(parts, ", "), where)
}

// swap exchanges the keys of two rows, or turns three round.
func (w *workWriter) swap(t *workTable) string {
	keys := w.rand.Perm(t.space)[:2+w.rand.IntN(2)]
	var cases, list []string
	for i, k := range keys {
		cases = append(cases, fmt.Sprintf("WHEN %d THEN %d", k, keys[(i+1)%len(keys)]))
		list = append(list, strconv.Itoa(k))
	}
	return fmt.Sprintf("UPDATE %s SET id = CASE id %s END, n = n + 1, stamp = clock_timestamp() WHERE id IN (%s)",
		quoteTable(t.table), strings.Join(cases, " "), strings.Join(list, ", "))
}

// copy copies rows in, which the server writes as multi-insert records.
func (w *workWriter) copy(ctx context.Context, t *workTable) error {
	var rows strings.Builder
	for range 2 + w.rand.IntN(20) {
		w.fresh++
		key := t.fresh(w.number*100_000 + w.fresh)
		for _, text := range key {
			rows.WriteString(strings.ReplaceAll(text, `\`, `\\`) + "\t")
		}
		fmt.Fprintf(&rows, "%d\t%d.5\t\\N\t", w.rand.IntN(1000), w.rand.IntN(1000))
		if big := strings.Trim(w.big(), "E'"); big == "NULL" || w.rand.IntN(4) > 0 {
			rows.WriteString("\\N\t\\N\n")
		} else {
			rows.WriteString(big + "\t\\N\n")
		}
	}
	sql := fmt.Sprintf("COPY %s (%s) FROM STDIN", quoteTable(t.table), columnList(t))
	_, err := w.conn.PgConn().CopyFrom(ctx, io.Reader(strings.NewReader(rows.String())), sql)
	if err != nil && !refused(err) {
		err = fmt.Errorf("%s: %w", sql, err)
	}
	return err
}

// errWriters joins the errors of writers.
func errWriters(errs <-chan error, n int) error {
	var joined error
	for range n {
		joined = errors.Join(joined, <-errs)
	}
	return joined
}
