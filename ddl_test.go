package main

// ddl_test.go is the walker of schema changes: random DDL against random writes, with stops, kills and restarts of the
// connector while it streams, while it is stopped with a backlog, and in the middle of backfills.
//
// Method: every change of a table's shape writes the shape into a table of markers, in its own transaction and right behind
// itself, so that the stream's order tells which shape is in force at every change. Every document must have the fields of
// the shape in force, and a sourced schema with just these must be there by its checkpoint. No session may end by itself
// twice in a row for one reason, and the stream must reach a row written last of all. Values are judged where nothing has
// changed their type since they were written, and then all of them once more by a backfill.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/jackc/pgx/v5"
)

// ddlTypes are the types columns get, with an expression for a random value.
var ddlTypes = map[string]string{
	"integer":           "(random() * 1e9)::int",
	"bigint":            "(random() * 1e15)::bigint",
	"text":              "md5(random()::text)",
	"character varying": "left(md5(random()::text), 8)",
	"numeric":           "round((random() * 1e6)::numeric, 3)",
	"boolean":           "random() < 0.5",
	"date":              "date '2000-01-01' + (random() * 9999)::int",
	"time":              "time '00:00' + random() * interval '1 day'",
	"integer[]":         "ARRAY[(random() * 9)::int, NULL, 7]",
	"mood":              "(SELECT m FROM unnest(enum_range(NULL::%[1]s.mood)) m ORDER BY random() LIMIT 1)",
	"mood[]":            "(SELECT array_agg(m) FROM unnest(enum_range(NULL::%[1]s.mood)) m)",
	"word":              "('w' || (random() * 99)::int)::%[1]s.word",
	"timestamptz":       "now() - random() * interval '9 years'",
	"jsonb":             "jsonb_build_object('a', (random() * 9)::int)",
}

// ddlShape is a row of the markers table: the shape of a table from here on.
type ddlShape struct {
	Table    string `json:"tab"`
	Columns  string `json:"columns"`  // streamed ones, as a JSON array in byte order
	Identity string `json:"identity"` // columns of old tuples, likewise
}

// ddlWalk is one run.
type ddlWalk struct {
	*oracle
	schema  string
	markers tableName
	walked  []tableName
	shapes  map[string]string // columns of each table before its first marker
	present sync.Mutex        // held while something is changed, and while bindings are validated; guards the fields below
	labels  int
	changed map[string]string // the row counter at the last change of each table's shape or types
	last    string            // reason why the last session ended by itself
	ends    int
	// refusals counts validations that refused a table.
	refusals int
	done     []string // statements, for the report
}

// newDDLWalk makes the tables.
func newDDLWalk(t *testing.T, seed uint64) *ddlWalk {
	w := &ddlWalk{oracle: newOracle(t, seed), shapes: make(map[string]string), changed: make(map[string]string)}
	w.schema = w.oracle.schema()
	w.db.script(strings.ReplaceAll(`CREATE TYPE {}.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN {}.word AS text CHECK (value <> '');
		CREATE SEQUENCE {}.written; CREATE SEQUENCE {}.names; CREATE TABLE {}.markers (id bigserial PRIMARY KEY, tab text,
		columns text, identity text)`, "{}", quoteIdent(w.schema)))
	w.markers = tableName{w.schema, "markers"}
	w.db.grant(w.markers)
	w.db.publish(w.markers)
	for _, name := range []string{"a", "b", "c"} {
		table := tableName{w.schema, name}
		w.walked = append(w.walked, table)
		w.db.script(w.create(table))
		w.shapes[name] = w.db.query(w.shapeQuery(table))[0][0]
	}
	return w
}

// create is the SQL that makes a table.
func (w *ddlWalk) create(table tableName) string {
	return fmt.Sprintf(`CREATE TABLE %[1]s (id int NOT NULL, k bigint NOT NULL DEFAULT nextval('%[3]s.names'),
		written bigint NOT NULL, n int, t text, CONSTRAINT %[5]s PRIMARY KEY (id));
		CREATE UNIQUE INDEX %[2]s ON %[1]s (id); CREATE UNIQUE INDEX %[4]s ON %[1]s (k);
		INSERT INTO %[1]s (id, written, n) SELECT i, nextval('%[3]s.written'), i FROM generate_series(1, 40) i;
		GRANT SELECT ON %[1]s TO %[6]s; ALTER PUBLICATION %[7]s ADD TABLE %[1]s`,
		quoteTable(table), quoteIdent(table.name+"_ids"), quoteIdent(w.schema), quoteIdent(table.name+"_ks"),
		quoteIdent(table.name+"_primary"), quoteIdent(*testCaptureUser), quoteIdent(w.db.publication))
}

// shapeQuery is a query of a table's streamed columns and of those of its old tuples.
func (w *ddlWalk) shapeQuery(table tableName) string {
	return fmt.Sprintf(`SELECT coalesce(json_agg(attname ORDER BY attname::text COLLATE "C"), '[]')::text,
		coalesce(json_agg(attname ORDER BY attname::text COLLATE "C") FILTER (WHERE relreplident = 'f' OR attnum = ANY (indkey)),
			'[]')::text
		FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
		LEFT JOIN pg_index i ON indrelid = c.oid AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident END
		WHERE c.oid = %s::regclass`, sqlText(quoteTable(table)))
}

// mark writes the shape of a table into the markers.
func (w *ddlWalk) mark(ctx context.Context, conn *pgx.Conn, table, as tableName) error {
	_, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO %s (tab, columns, identity) SELECT %s, s.* FROM (%s) s",
		quoteTable(w.markers), sqlText(table.name), w.shapeQuery(as)))
	return err
}

// ddlColumn is a column as the catalog has it now.
type ddlColumn struct{ name, kind string }

func (w *ddlWalk) columns(ctx context.Context, conn *pgx.Conn, table tableName) ([]ddlColumn, error) {
	rows, err := conn.Query(ctx, `SELECT attname::text, CASE WHEN typtype IN ('e', 'd') THEN typname
		WHEN attndims > 0 AND format_type(atttypid, -1) LIKE '%mood[]' THEN 'mood[]'
		WHEN atttypid = 'timestamptz'::regtype THEN 'timestamptz' WHEN atttypid = 'time'::regtype THEN 'time'
		ELSE format_type(atttypid, -1) END FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
		WHERE attrelid = `+sqlText(quoteTable(table))+`::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
		AND attname NOT IN ('id', 'k', 'written') ORDER BY attnum`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ddlColumn, error) {
		var c ddlColumn
		err := row.Scan(&c.name, &c.kind)
		return c, err
	})
}

// value is an expression for a value of a type.
func (w *ddlWalk) value(kind string) string {
	return strings.ReplaceAll(ddlTypes[kind], "%[1]s", quoteIdent(w.schema))
}

// write runs a few statements on a table, in the transaction of the connection.
func (w *ddlWalk) write(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table tableName) error {
	columns, err := w.columns(ctx, conn, table)
	if err != nil {
		return err
	}
	for range 1 + random.IntN(3) {
		id := 1 + random.IntN(60)
		name, counter := quoteTable(table), fmt.Sprintf("nextval('%s.written')", quoteIdent(w.schema))
		var sql string
		switch n := random.IntN(10); {
		case n < 4:
			names, values := "id, written", fmt.Sprintf("%d, %s", id, counter)
			for _, c := range columns {
				if random.IntN(4) > 0 {
					names, values = names+", "+quoteIdent(c.name), values+", "+w.value(c.kind)
				}
			}
			sql = fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT DO NOTHING", name, names, values)
		case n < 8:
			set := "written = " + counter
			for _, c := range columns {
				if random.IntN(2) > 0 {
					set += ", " + quoteIdent(c.name) + " = " + w.value(c.kind)
				}
			}
			sql = fmt.Sprintf("UPDATE %s SET %s WHERE id BETWEEN %d AND %d", name, set, id, id+random.IntN(4))
		case n < 9:
			sql = fmt.Sprintf("DELETE FROM %s WHERE id = %d", name, id)
		default:
			sql = fmt.Sprintf("UPDATE %[1]s SET id = %[2]d, written = %[3]s WHERE id = %[4]d AND NOT EXISTS "+
				"(SELECT FROM %[1]s WHERE id = %[2]d)", name, 1+random.IntN(60), counter, id)
		}
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// writer writes until the context ends.
func (w *ddlWalk) writer(ctx context.Context, number uint64) error {
	conn := testConnect(w.t, *testControlUser, *testControlPassword)
	defer conn.Close(context.Background())
	random := rand.New(rand.NewPCG(w.seed, 100+number))
	background := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		err := w.transact(background, conn, func() error {
			for range 1 + random.IntN(2) {
				table := w.walked[random.IntN(len(w.walked))]
				if _, err := conn.Exec(background, "LOCK TABLE "+quoteTable(table)+" IN ROW EXCLUSIVE MODE"); err != nil {
					return err
				}
				if err := w.write(background, conn, random, table); err != nil {
					return err
				}
			}
			return nil
		})
		if code := sqlState(err); err != nil && !refused(err) && code != "42P01" && code != "55000" { // away; no identity
			return err
		}
		time.Sleep(time.Duration(random.IntN(8)) * time.Millisecond)
	}
	return nil
}

func (w *ddlWalk) transact(ctx context.Context, conn *pgx.Conn, f func() error) error {
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := f(); err != nil {
		_, rollback := conn.Exec(ctx, "ROLLBACK")
		return errors.Join(err, rollback)
	}
	_, err := conn.Exec(ctx, "COMMIT")
	return err
}

// change is a statement that changes a table, "" when nothing fits.
func (w *ddlWalk) change(random *rand.Rand, table tableName, columns []ddlColumn) string {
	alter := "ALTER TABLE " + quoteTable(table) + " "
	fresh := quoteIdent(fmt.Sprintf("c%d", random.IntN(30)))
	var some *ddlColumn
	if len(columns) > 0 {
		some = &columns[random.IntN(len(columns))]
	}
	kinds := slices.Sorted(maps.Keys(ddlTypes))
	kind := kinds[random.IntN(len(kinds))]
	spelled := kind
	switch kind {
	case "mood", "mood[]", "word":
		spelled = quoteIdent(w.schema) + "." + kind
	case "character varying":
		spelled = "varchar(20)"
	}
	switch n := random.IntN(14); {
	case n < 2:
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " " + spelled
	case n < 3 && kind != "mood" && kind != "mood[]": // a default has no subquery
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " " + spelled + " DEFAULT " + w.value(kind)
	case n < 4:
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " bigint GENERATED ALWAYS AS (id * 2) STORED"
	case n < 6 && some != nil && len(columns) > 1:
		return alter + "DROP COLUMN " + quoteIdent(some.name)
	case n < 7 && some != nil:
		return alter + "RENAME COLUMN " + quoteIdent(some.name) + fmt.Sprintf(" TO r%d", random.IntN(1000000))
	case n < 9 && some != nil:
		to := "text"
		switch some.kind {
		case "integer":
			to = []string{"bigint", "text", "numeric"}[random.IntN(3)]
		case "character varying":
			to = fmt.Sprintf("varchar(%d)", 32+random.IntN(40))
		case "text":
			to = "varchar(40)"
		}
		return alter + "ALTER COLUMN " + quoteIdent(some.name) + " DROP DEFAULT, ALTER COLUMN " + quoteIdent(some.name) + " TYPE " +
			to + " USING " + quoteIdent(some.name) + "::text::" + to
	case n < 10 && some != nil:
		return alter + "DROP COLUMN " + quoteIdent(some.name) + ", ADD COLUMN " + quoteIdent(some.name+"_") + " " + spelled
	case n < 12:
		return alter + "REPLICA IDENTITY " + []string{
			"DEFAULT", "DEFAULT", "FULL", "FULL", "USING INDEX " + quoteIdent(table.name+"_ids"),
			"USING INDEX " + quoteIdent(table.name+"_ids"), "USING INDEX " + quoteIdent(table.name+"_ks"),
		}[random.IntN(7)]
	case n < 13:
		return alter + "DROP CONSTRAINT " + quoteIdent(table.name+"_primary") + ", ADD CONSTRAINT " +
			quoteIdent(table.name+"_primary") + " PRIMARY KEY (" + []string{"id", "id", "k"}[random.IntN(3)] + ")"
	default:
		return "TRUNCATE " + quoteTable(table)
	}
}

// walk changes tables until the context ends.
func (w *ddlWalk) walk(ctx context.Context, pause time.Duration) error {
	conn := testConnect(w.t, *testControlUser, *testControlPassword)
	defer conn.Close(context.Background())
	random := rand.New(rand.NewPCG(w.seed, 50))
	background := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		table := w.walked[random.IntN(len(w.walked))]
		var err error
		switch n := random.IntN(16); n {
		case 0:
			err = w.away(background, conn, random, table)
		case 1:
			w.present.Lock()
			err = w.alter(background, conn, random, table, "DROP TABLE "+quoteTable(table)+"; "+w.create(table))
			w.present.Unlock()
		case 2, 3:
			w.present.Lock()
			err = w.alterType(background, conn, random)
			w.present.Unlock()
		default:
			w.present.Lock()
			err = w.alter(background, conn, random, table, "")
			w.present.Unlock()
		}
		if err != nil && !refused(err) {
			return err
		}
		select {
		case <-time.After(time.Duration(random.Int64N(int64(2 * pause)))):
		case <-ctx.Done():
		}
	}
	return nil
}

// alter changes a table by a script, or by what fits, in a transaction with writes on either side.
func (w *ddlWalk) alter(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table tableName, script string) error {
	return w.transact(ctx, conn, func() error {
		if _, err := conn.Exec(ctx, "LOCK TABLE "+quoteTable(table)+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		if random.IntN(3) == 0 {
			if err := w.write(ctx, conn, random, table); err != nil {
				return err
			}
		}
		columns, err := w.columns(ctx, conn, table)
		if err != nil {
			return err
		}
		if script == "" {
			script = w.change(random, table, columns)
		}
		w.done = append(w.done, script)
		if _, err := conn.PgConn().Exec(ctx, script).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", script, err)
		}
		if err := w.mark(ctx, conn, table, table); err != nil {
			return err
		}
		if err := w.count(ctx, conn, table); err != nil {
			return err
		}
		if random.IntN(3) == 0 {
			return w.write(ctx, conn, random, table)
		}
		return nil
	})
}

// count notes up to which count the rows of tables may have been written in another shape.
func (w *ddlWalk) count(ctx context.Context, conn *pgx.Conn, tables ...tableName) error {
	var last string
	err := conn.QueryRow(ctx, fmt.Sprintf("SELECT last_value::text FROM %s.written", quoteIdent(w.schema))).Scan(&last)
	for _, table := range tables {
		w.changed[table.name] = last
	}
	return err
}

// away renames a table, writes to it, and names it as before.
func (w *ddlWalk) away(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table tableName) error {
	w.present.Lock()
	defer w.present.Unlock()
	other := tableName{table.schema, table.name + "_away"}
	rename := func(from, to tableName) error {
		w.done = append(w.done, "rename "+from.name+" to "+to.name)
		return w.transact(ctx, conn, func() error {
			_, err := conn.Exec(ctx, "ALTER TABLE "+quoteTable(from)+" RENAME TO "+quoteIdent(to.name))
			if err != nil {
				return err
			}
			if err := w.mark(ctx, conn, table, to); err != nil {
				return err
			}
			return w.count(ctx, conn, table)
		})
	}
	if err := rename(table, other); err != nil {
		return err
	}
	if random.IntN(2) == 0 {
		err := w.transact(ctx, conn, func() error { return w.write(ctx, conn, random, other) })
		if err != nil && !refused(err) && sqlState(err) != "55000" {
			return err
		}
	}
	time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
	for {
		if err := rename(other, table); !refused(err) { // a deadlock does not leave it away
			return err
		}
	}
}

// alterType adds or renames a label and uses it in the next transaction.
func (w *ddlWalk) alterType(ctx context.Context, conn *pgx.Conn, random *rand.Rand) error {
	w.labels++
	sql := fmt.Sprintf("ALTER TYPE %s.mood ADD VALUE 'm%d'", quoteIdent(w.schema), w.labels)
	if random.IntN(3) == 0 {
		var label string
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT m::text FROM unnest(enum_range(NULL::%s.mood)) m ORDER BY random() LIMIT 1",
			quoteIdent(w.schema))).Scan(&label); err != nil {
			return err
		}
		sql = fmt.Sprintf("ALTER TYPE %s.mood RENAME VALUE '%s' TO 'r%d'", quoteIdent(w.schema), label, w.labels)
	}
	w.done = append(w.done, sql)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return w.count(ctx, conn, w.walked...) // rows written with the old label keep it in their documents
}

// bound are the bindings as of now.
func (w *ddlWalk) bound() []runtimeBinding {
	var bindings []runtimeBinding
	for _, t := range append([]tableName{w.markers, w.sentinel}, w.walked...) {
		mode := ""
		if t == w.markers {
			mode = `,"mode":"Only Changes"`
		}
		bindings = append(bindings, runtimeBinding{
			resource:   fmt.Appendf(nil, `{"namespace":%q,"stream":%q%s}`, t.schema, t.name, mode),
			collection: t.schema + "/" + t.name, key: []string{"/id"}, backfill: w.counters[t],
		})
	}
	return bindings
}

// rebind has tables backfilled from now on. Validation may refuse a table as it is now: then nothing changes, or the tables
// do and it is asked again.
func (w *ddlWalk) rebind(again []tableName) error {
	w.present.Lock()
	defer w.present.Unlock()
	for _, t := range again {
		w.counters[t]++
	}
	validate := func() (*pf.CaptureSpec, error) {
		return w.runtime.driver.validate(context.Background(), w.bound(), w.runtime.capture)
	}
	capture, err := validate()
	if err != nil && strings.Contains(err.Error(), "would carry only the replica identity") && w.rand.IntN(3) > 0 {
		w.refusals++ // what the error says to run helps
		w.calm()
		capture, err = validate()
	}
	if err != nil {
		for _, t := range again {
			w.counters[t]--
		}
		return err
	}
	w.runtime.capture = capture
	return nil
}

// begin starts a session. One that does not come to be counts as one that ended by itself.
func (w *ddlWalk) begin() {
	w.t.Helper()
	for {
		err := w.runtime.tryStart()
		if err == nil {
			return
		}
		w.judgeEnd(err)
	}
}

// end ends the session by stop, kill, or as it has ended itself.
func (w *ddlWalk) end(stop bool) {
	w.t.Helper()
	own := w.hasEnded()
	if stop {
		w.runtime.stop()
	} else {
		w.runtime.kill()
	}
	err := w.runtime.wait()
	if exit, ok := errors.AsType[*connectorExit](err); err == nil && !own ||
		ok && !own && (exit.status == "signal: killed" || strings.HasPrefix(exit.message, errStdinClosed.Error())) {
		w.last = ""
		return
	}
	w.judgeEnd(err)
}

// judgeEnd fails the test when sessions end by themselves for one reason twice.
func (w *ddlWalk) judgeEnd(err error) {
	w.t.Helper()
	if err == nil {
		err = errors.New("a session ended by itself without an error")
	}
	w.ends++
	w.t.Logf("seed %d: a session ended by itself: %v", w.seed, err)
	if w.last == err.Error() {
		w.fatalf("sessions end by themselves, twice in a row with %v\n%s", err, w.report())
	}
	w.last = err.Error()
}

// report is what the walker did last.
func (w *ddlWalk) report() string {
	return strings.Join(w.done[max(0, len(w.done)-40):], "\n")
}

// await waits until all bindings are captured whole, and a row written now; sessions that end are started again.
func (w *ddlWalk) await(deadline time.Time) {
	w.t.Helper()
	w.sentinels++
	w.db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d)", quoteTable(w.sentinel), w.sentinels))
	want := fmt.Sprintf(`"id":%d`, w.sentinels)
	for {
		state, err := parseState(w.runtime.committedState())
		if err != nil {
			w.fatalf("the committed state: %v", err)
		}
		here := slices.ContainsFunc(w.runtime.documents(), func(d testDocument) bool {
			return d.table == w.sentinel.String() && strings.Contains(d.doc, want)
		})
		if here && !slices.ContainsFunc(w.runtime.capture.Bindings, func(spec *pf.CaptureSpec_Binding) bool {
			b := state.Bindings[spec.StateKey]
			return b == nil || b.Mode != storedActive
		}) {
			return
		}
		if w.hasEnded() {
			w.end(false)
			w.begin()
		}
		if time.Now().After(deadline) {
			w.fatalf("wedged: the sentinel came: %v; state %s\n%s", here, w.runtime.committedState(), w.report())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// calm gives every table an identity that can be captured. REQUIRES: present is held, or nothing else changes tables.
func (w *ddlWalk) calm() {
	w.t.Helper()
	for _, table := range w.walked {
		for {
			err := w.alter(w.db.ctx, w.db.control, w.rand, table, "ALTER TABLE "+quoteTable(table)+" REPLICA IDENTITY FULL")
			if err == nil {
				break
			}
			if !refused(err) {
				w.fatalf("%v", err)
			}
		}
	}
}

// touch writes to every table.
func (w *ddlWalk) touch() {
	w.t.Helper()
	for _, table := range w.walked {
		for range 5 {
			if err := w.write(w.db.ctx, w.db.control, w.rand, table); err != nil {
				w.fatalf("%v", err)
			}
		}
		w.db.exec(fmt.Sprintf("INSERT INTO %s (id, written) VALUES (1000, nextval('%s.written'))",
			quoteTable(table), quoteIdent(w.schema)))
	}
}

// judgeShapes checks the fields of all documents.
func (w *ddlWalk) judgeShapes() {
	w.t.Helper()
	type known struct{ columns, identity string }
	now := make(map[string]known)
	ever := make(map[string]bool) // shapes that a table has had
	for table, columns := range w.shapes {
		now[table], ever[table+columns] = known{columns: columns, identity: `["id"]`}, true
	}
	rows := w.db.query("SELECT tab || columns FROM " + quoteTable(w.markers))
	for _, row := range rows {
		ever[row[0]] = true
	}
	w.runtime.mu.Lock()
	schemas := slices.Clone(w.runtime.schemas)
	w.runtime.mu.Unlock()
	markers := 0
	for i, d := range w.runtime.documents() {
		name := strings.TrimPrefix(d.table, w.schema+".")
		switch name {
		case "sentinel":
			continue
		case "markers":
			var m ddlShape
			if err := json.Unmarshal([]byte(d.doc), &m); err != nil {
				w.fatalf("%v", err)
			}
			now[m.Table] = known{m.Columns, m.Identity}
			markers++
			continue
		}
		source := sourceOf(w.t, d.doc)
		have := fieldsOf(w.t, d.doc)
		shape := now[name]
		switch {
		case source.Snapshot:
			if !ever[name+have] {
				w.fatalf("document %d of %s has fields of no shape: %s\n%s", i, name, d.doc, w.report())
			}
		case source.op == "d" && have != shape.columns:
			if have != shape.identity {
				w.fatalf("document %d of %s: a delete by %s\n%s\n%s", i, name, shape.identity, d.doc, w.report())
			}
			continue
		case have != shape.columns:
			w.fatalf("document %d of %s: want the fields %s\n%s\n%s", i, name, shape.columns, d.doc, w.report())
		}
		sourced := false
		for j := len(schemas) - 1; j >= 0 && !sourced; j-- {
			s := &schemas[j]
			if s.table != d.table || s.checkpoint > d.checkpoint {
				continue
			}
			sourced = propertiesOf(w.t, s.doc) == have
			if s.checkpoint < d.checkpoint {
				break
			}
		}
		if !sourced {
			var near strings.Builder
			for _, s := range schemas {
				if s.table == d.table && s.checkpoint <= d.checkpoint {
					fmt.Fprintf(&near, "checkpoint %d: %s\n", s.checkpoint, propertiesOf(w.t, s.doc))
				}
			}
			w.fatalf("document %d of %s in checkpoint %d has no sourced schema: %s\n%s%s", i, name, d.checkpoint, d.doc, &near,
				w.report())
		}
	}
	if want := len(rows); markers != want {
		w.fatalf("%d documents of %d markers", markers, want)
	}
}

func fieldsOf(t testing.TB, doc string) string {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(doc), &fields); err != nil {
		t.Fatalf("document %s: %v", doc, err)
	}
	delete(fields, metaColumn)
	return namesOf(t, fields)
}

func propertiesOf(t testing.TB, schema string) string {
	var s struct {
		Definitions map[string]struct {
			Properties map[string]json.RawMessage `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		t.Fatalf("schema %s: %v", schema, err)
	}
	properties := make(map[string]json.RawMessage)
	for _, d := range s.Definitions {
		maps.Copy(properties, d.Properties)
	}
	delete(properties, metaColumn)
	return namesOf(t, properties)
}

// namesOf is a JSON array of names in byte order, spaced as the server does it.
func namesOf(t testing.TB, fields map[string]json.RawMessage) string {
	names := []string{}
	for name := range fields {
		raw, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, string(raw))
	}
	slices.Sort(names)
	return "[" + strings.Join(names, ", ") + "]"
}

// judgeValues compares the last documents, from one on, with the rows written behind a count. With exactly, no document
// may be left whose row is not there.
func (w *ddlWalk) judgeValues(from int, behind map[string]string, exactly bool) {
	w.t.Helper()
	documents := w.runtime.documents()[from:]
	for _, table := range w.walked {
		rows := make(map[int]string)
		for _, d := range documents {
			if d.table != table.String() {
				continue
			}
			var row struct {
				ID int `json:"id"`
			}
			if err := json.Unmarshal([]byte(d.doc), &row); err != nil {
				w.fatalf("%s: %v", d.doc, err)
			}
			if sourceOf(w.t, d.doc).op == "d" {
				delete(rows, row.ID)
			} else {
				rows[row.ID] = d.doc
			}
		}
		after := "0"
		if behind != nil {
			after = behind[table.name]
		}
		var list []string
		for _, doc := range rows {
			list = append(list, doc)
		}
		dropped := "'{" + strings.Join(w.generated(table), ",") + "}'::text[]"
		sql := fmt.Sprintf(`WITH docs AS MATERIALIZED (SELECT doc::jsonb FROM unnest($1::text[]) doc
				WHERE (doc::jsonb->>'written')::bigint > %[3]s), -- others may not be values of today's types
			d AS (SELECT to_jsonb(jsonb_populate_record(NULL::%[1]s, doc)) - %[2]s AS v FROM docs),
			s AS (SELECT to_jsonb(source) - %[2]s AS v, written FROM %[1]s source)
			SELECT 'lacks ' || s.v::text || coalesce(' but has ' || d.v::text, '') FROM s LEFT JOIN d ON d.v->'id' = s.v->'id'
				WHERE s.written > %[3]s AND d.v IS DISTINCT FROM s.v
			UNION ALL SELECT 'has ' || d.v::text FROM d WHERE %[4]v AND NOT EXISTS (SELECT FROM s WHERE s.v->'id' = d.v->'id')`,
			quoteTable(table), dropped, after, exactly)
		if wrong := w.db.query(sql, list); len(wrong) > 0 {
			w.fatalf("%s, of %d rows in documents (backfill again: %v):\n%v\n%s", table, len(rows), exactly, wrong[:min(4, len(wrong))],
				w.report())
		}
	}
}

// generated are a table's generated columns, which are not captured.
func (w *ddlWalk) generated(table tableName) []string {
	var names []string
	for _, row := range w.db.query(`SELECT attname::text FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attgenerated <> ''`, quoteTable(table)) {
		names = append(names, row[0])
	}
	return names
}

// TestDDLWalk changes tables at random while they are written to and captured.
func TestDDLWalk(t *testing.T) {
	seeds(t, 1, func(t *testing.T, seed uint64) {
		w := newDDLWalk(t, seed)
		w.chunk = []int{1, 3, 10}[w.rand.IntN(3)]
		w.readOnly = w.rand.IntN(3) == 0
		w.runtime = newTestRuntime(t, runtimeOptions{
			config: w.config(), codec: codec(w.rand.IntN(2)), logLevel: "warn", deadline: time.Minute,
		})
		w.runtime.bind(w.bound())
		w.begin()
		w.await(time.Now().Add(time.Minute)) // every marker is streamed
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 3)
		for i := range uint64(2) {
			go func() { ended <- w.writer(ctx, i) }()
		}
		go func() { ended <- w.walk(ctx, 60*time.Millisecond) }()
		rounds := 4
		if *longTests {
			rounds += w.rand.IntN(15)
		}
		for range rounds {
			w.sleep(time.Duration(w.rand.IntN(900)) * time.Millisecond)
			w.end(w.rand.IntN(2) == 0)
			if w.rand.IntN(2) == 0 { // a backlog
				time.Sleep(time.Duration(w.rand.IntN(900)) * time.Millisecond)
			}
			var again []tableName
			for _, table := range w.walked {
				if w.rand.IntN(3) == 0 {
					again = append(again, table)
				}
			}
			if err := w.rebind(again); err != nil {
				w.refusals++
				if !strings.Contains(err.Error(), "would carry only the replica identity") {
					w.fatalf("validation: %v", err)
				}
			}
			w.begin()
		}
		cancel()
		if err := errWriters(ended, 3); err != nil {
			w.fatalf("a writer failed: %v", err)
		}
		w.calm()
		w.touch()
		w.await(time.Now().Add(time.Minute))
		w.judgeShapes()
		w.judgeValues(0, w.changed, false)
		w.end(true)
		from := len(w.runtime.documents())
		if err := w.rebind(w.walked); err != nil {
			w.fatalf("validation in the end: %v", err)
		}
		w.begin()
		w.await(time.Now().Add(time.Minute))
		w.judgeShapes()
		w.judgeValues(from, nil, true)
		w.end(true)
		t.Logf("seed %d: %d statements, %d documents, %d sessions ended by themselves, %d validations refused", seed,
			len(w.done), len(w.runtime.documents()), w.ends, w.refusals)
	})
}

// TestDeleteWithoutKey deletes under a replica identity that lacks the collection key: that table is parked, others go on,
// and it is captured anew once its identity is right, also where it has been put right before the delete is streamed.
func TestDeleteWithoutKey(t *testing.T) {
	for _, backlog := range []bool{false, true} {
		t.Run(fmt.Sprintf("backlog=%v", backlog), func(t *testing.T) {
			t.Parallel()
			w := newDDLWalk(t, 1)
			w.chunk = 10
			w.runtime = newTestRuntime(t, runtimeOptions{config: w.config(), logLevel: "info"})
			w.runtime.bind(w.bound())
			w.begin()
			w.await(time.Now().Add(time.Minute))
			table := w.walked[0]
			if backlog {
				w.end(true)
			}
			w.db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY USING INDEX " + quoteIdent(table.name+"_ks"))
			w.db.exec("DELETE FROM " + quoteTable(table) + " WHERE id = 7")
			if !backlog {
				w.runtime.waitLog("is no longer captured: its replica identity lacks key column")
				w.pass()
			}
			w.db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
			if backlog {
				w.begin()
			}
			from := len(w.runtime.documents())
			w.touch()
			w.await(time.Now().Add(time.Minute))
			w.walked = w.walked[:1] // the others have not been backfilled again
			w.judgeValues(from, nil, true)
			if w.ends > 0 {
				t.Errorf("%d sessions ended by themselves", w.ends)
			}
			w.end(true)
		})
	}
}
