package main

// e2e_ddl_test.go is the walker of schema changes: random DDL against random writes, with stops, kills and restarts of the
// connector while it streams, while it is stopped with a backlog, and in the middle of backfills.
//
// Method: every change of a table's shape writes the shape into a table of markers, in its own transaction and right behind
// itself, so that the stream's order tells which shape is in force at every change. Every document must have the fields of
// the shape in force, and a sourced schema with just these must be there by its checkpoint. No session may end by itself
// twice in a row for one reason, and the stream must reach a row written last of all. Triggers note every version of every
// row, which a counter in the row tells apart, by the numbers of its columns: by them each document is judged, whatever its
// columns were called when it was written. In the end the documents must leave every row, and those of tables that nothing
// has happened to but what the stream tells of must leave no other; then all values are compared once more by a backfill.

import (
	"bytes"
	"context"
	"crypto/md5"
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
	"pair":              ddlPair,
	"pair[]":            "ARRAY[" + ddlPair + ", NULL]",
	"large": "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, CASE WHEN random() < 0.02 THEN 9400 " +
		"ELSE 60 + (random() * 1500)::int END))", // out of line: 2 to 50 kB, now and then 300 kB
}

// ddlPair is an expression for a value of the composite type, whatever attributes it has.
const ddlPair = "(SELECT jsonb_populate_record(NULL::%[1]s.pair, jsonb_object_agg('z' || i, (random() * 9)::int)) " +
	"FROM generate_series(0, 9) i)"

// ddlTable is a table that is walked on.
type ddlTable struct {
	tableName
	kind ddlKind
	// calm tables keep their names and an identity with the key: whatever else happens to them, the stream tells.
	calm bool
}

func (t *ddlTable) keyless() bool { return t.kind == ddlKeyless || t.kind == ddlInserted }

type ddlKind uint8

const (
	ddlKeyed    ddlKind = iota
	ddlKeyless          // with full old tuples
	ddlInserted         // keyless, only inserted into
	ddlParts            // partitioned
)

// ddlShape is a row of the markers table: the shape of a table from here on.
type ddlShape struct {
	Table    string `json:"tab"`
	Columns  string `json:"columns"`  // streamed ones, as a JSON array in byte order
	Identity string `json:"identity"` // columns of old tuples, likewise
	Numbers  string `json:"numbers"`  // attnum and type of each streamed column, as a JSON object
}

// ddlWalk is one run.
type ddlWalk struct {
	*oracle
	schema  string
	markers tableName
	walked  []*ddlTable
	shapes  map[string]ddlShape // of each table before its first marker
	present sync.Mutex          // held while something is changed, and while bindings are validated; guards the fields below
	labels  int                 // of enums, tables and columns made so far
	changed map[string]string   // the row counter at the last change of each table's shape or types
	last    string              // reason why the last session ended by itself
	ends    int
	// refusals counts validations that refused a table.
	refusals int
	done     []string // statements, for the report
}

// newDDLWalk makes the tables.
func newDDLWalk(t *testing.T, seed uint64) *ddlWalk {
	w := &ddlWalk{oracle: newOracle(t, seed), shapes: make(map[string]ddlShape), changed: make(map[string]string)}
	w.schema = w.oracle.schema()
	w.db.script(strings.ReplaceAll(`CREATE TYPE {}.mood AS ENUM ('sad', 'ok'); CREATE DOMAIN {}.word AS text CHECK (value <> '');
		CREATE TYPE {}.pair AS (z0 int, z1 int);
		CREATE SEQUENCE {}.written; CREATE SEQUENCE {}.names; CREATE TABLE {}.markers (id bigserial PRIMARY KEY, tab text,
		columns text, identity text, numbers text);
		CREATE TABLE {}.versions (written bigint, prior bigint, next bigint, columns text);
		CREATE FUNCTION {}.version() RETURNS trigger LANGUAGE plpgsql SET timezone = 'UTC' AS $$
		BEGIN
			IF TG_OP <> 'INSERT' THEN
				INSERT INTO {}.versions (prior, next) SELECT OLD.written, NEW.written WHERE TG_OP = 'UPDATE' AND NEW.id = OLD.id
					UNION ALL SELECT OLD.written, 0 WHERE TG_OP = 'DELETE' OR NEW.id <> OLD.id;
			END IF;
			IF TG_OP <> 'DELETE' THEN
				INSERT INTO {}.versions (written, columns) SELECT NEW.written, json_object_agg(key, json_build_array(attnum, atttypid::bigint,
					CASE WHEN length(value) > 1000 THEN 'md5:' || md5(value) ELSE value END))::text
					FROM json_each_text(to_json(NEW)) JOIN pg_attribute ON attname = key
					WHERE attrelid = TG_ARGV[0]::oid AND attnum > 0 AND NOT attisdropped;
			END IF;
			RETURN NULL;
		END $$`, "{}", quoteIdent(w.schema)))
	w.markers = tableName{w.schema, "markers"}
	w.db.grant(w.markers)
	w.db.publish(w.markers)
	for _, name := range []string{"a", "b", "c"} {
		w.add(&ddlTable{tableName: tableName{w.schema, name}})
	}
	return w
}

// add makes a table.
func (w *ddlWalk) add(table *ddlTable) {
	w.t.Helper()
	w.walked = append(w.walked, table)
	w.db.script(w.create(table, table.tableName))
	row := w.db.query(w.shapeQuery(table.tableName))[0]
	w.shapes[table.name] = ddlShape{Table: table.name, Columns: row[0], Identity: row[1], Numbers: row[2]}
}

// create is the SQL that makes a table under a name.
func (w *ddlWalk) create(table *ddlTable, name tableName) string {
	definition, after := ", PRIMARY KEY (id))", ""
	switch table.kind {
	case ddlKeyed:
		after = `CREATE UNIQUE INDEX ON {} (id); CREATE UNIQUE INDEX ON {} (k);`
	case ddlKeyless:
		definition, after = ") WITH (fillfactor = 50)", "ALTER TABLE {} REPLICA IDENTITY FULL; CREATE INDEX ON {} (written);"
	case ddlInserted:
		definition = ")"
	case ddlParts:
		definition += " PARTITION BY RANGE (id)"
		for i, to := range []string{"20", "40", "MAXVALUE"} {
			from := []string{"MINVALUE", "20", "1000"}[i]
			leaf := quoteTable(tableName{name.schema, fmt.Sprintf("%s_%d", name.name, i)})
			after += fmt.Sprintf("CREATE TABLE %s PARTITION OF {} FOR VALUES FROM (%s) TO (%s);", leaf, from, to)
		}
	}
	return strings.NewReplacer("{}", quoteTable(name), "{schema}", quoteIdent(w.schema), "{name}", sqlText(quoteTable(name))).Replace(
		`CREATE TABLE {} (id int NOT NULL, k bigint NOT NULL DEFAULT nextval('{schema}.names'), written bigint NOT NULL, n int, t text,
			big text`+definition+`; ALTER TABLE {} ALTER big SET STORAGE EXTERNAL;`+after+`
		DO $$ BEGIN EXECUTE format('CREATE TRIGGER version AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW EXECUTE FUNCTION '
			'{schema}.version(%L)', {name}::regclass::oid); END $$;
		INSERT INTO {} (id, written, n, big) SELECT i, nextval('{schema}.written'), i, repeat(md5(i::text), 100) FROM generate_series(1, 39) i;`) +
		fmt.Sprintf("GRANT SELECT ON %s TO %s; ALTER PUBLICATION %s ADD TABLE %[1]s", quoteTable(name), quoteIdent(*testCaptureUser),
			quoteIdent(w.db.publication))
}

// shapeQuery is a query of a table's streamed columns, of those of its old tuples, and of the numbers of its columns.
func (w *ddlWalk) shapeQuery(table tableName) string {
	return fmt.Sprintf(`SELECT coalesce(json_agg(attname ORDER BY attname::text COLLATE "C"), '[]')::text,
		coalesce(json_agg(attname ORDER BY attname::text COLLATE "C") FILTER (WHERE relreplident = 'f' OR attnum = ANY (indkey)),
			'[]')::text, json_object_agg(attname, json_build_array(attnum, atttypid::bigint))::text
		FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
		LEFT JOIN pg_index i ON indrelid = c.oid AND CASE relreplident WHEN 'd' THEN indisprimary WHEN 'i' THEN indisreplident END
		WHERE c.oid = %s::regclass`, sqlText(quoteTable(table)))
}

// mark writes the shape of a table into the markers.
func (w *ddlWalk) mark(ctx context.Context, conn *pgx.Conn, table *ddlTable, as tableName) error {
	_, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO %s (tab, columns, identity, numbers) SELECT %s, s.* FROM (%s) s",
		quoteTable(w.markers), sqlText(table.name), w.shapeQuery(as)))
	return err
}

// ddlColumn is a column as the catalog has it now.
type ddlColumn struct{ name, kind string }

func (w *ddlWalk) columns(ctx context.Context, conn *pgx.Conn, table tableName) ([]ddlColumn, error) {
	rows, err := conn.Query(ctx, `SELECT attname::text, CASE WHEN typtype IN ('e', 'd', 'c') THEN typname
		WHEN attndims > 0 AND format_type(atttypid, -1) LIKE '%mood[]' THEN 'mood[]'
		WHEN attndims > 0 AND format_type(atttypid, -1) LIKE '%pair[]' THEN 'pair[]'
		WHEN attstorage = 'e' AND typcategory = 'S' THEN 'large'
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

// write runs a few statements on a table, which may have another name, in the transaction of the connection.
func (w *ddlWalk) write(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable, as tableName) error {
	columns, err := w.columns(ctx, conn, as)
	if err != nil {
		return err
	}
	for range 1 + random.IntN(3) {
		id := 1 + random.IntN(60)
		name, counter := quoteTable(as), fmt.Sprintf("nextval('%s.written')", quoteIdent(w.schema))
		var sql string
		switch n := random.IntN(10); {
		case n < 4 || table.kind == ddlInserted:
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
				if random.IntN(2) > 0 && (c.kind != "large" || random.IntN(3) == 0) {
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
				if _, err := conn.Exec(background, "LOCK TABLE "+quoteTable(table.tableName)+" IN ROW EXCLUSIVE MODE"); err != nil {
					return err
				}
				if err := w.write(background, conn, random, table, table.tableName); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !ddlRefused(err) {
			return err
		}
		time.Sleep(time.Duration(random.IntN(8)) * time.Millisecond)
	}
	return nil
}

// ddlRefused reports whether the server refuses a statement for what the walk does to tables: an object is away, taken,
// without an identity, without a partition, or in use.
func ddlRefused(err error) bool {
	switch sqlState(err) {
	case "42P01", "42703", "42701", "42704", "42P07", "42710", "55000", "23514", "55006", "2BP01", "42P17", "42P16", "0A000",
		"42P10": // 18: an identity with a generated column that is not published
		return true
	}
	return refused(err)
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

// indexes are a table's unique indexes by their column, and the name of its primary key, "" when there is none.
func (w *ddlWalk) indexes(ctx context.Context, conn *pgx.Conn, table tableName) (byColumn map[string]string, primary string, err error) {
	rows, err := conn.Query(ctx, `SELECT c.relname::text, a.attname::text, coalesce((SELECT conname::text FROM pg_constraint
			WHERE conindid = indexrelid AND conrelid = indrelid AND contype = 'p'), '')
		FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]
		WHERE indisunique AND indrelid = `+sqlText(quoteTable(table))+`::regclass`)
	if err != nil {
		return nil, "", err
	}
	byColumn = make(map[string]string)
	var name, column, constraint string
	_, err = pgx.ForEachRow(rows, []any{&name, &column, &constraint}, func() error {
		if constraint != "" {
			primary = constraint
		} else {
			byColumn[column] = name
		}
		return nil
	})
	return byColumn, primary, err
}

// change is SQL that changes a table, "" when nothing fits.
func (w *ddlWalk) change(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable) (string, error) {
	columns, err := w.columns(ctx, conn, table.tableName)
	if err != nil {
		return "", err
	}
	byColumn, primary, err := w.indexes(ctx, conn, table.tableName)
	if err != nil {
		return "", err
	}
	w.labels++
	alter := "ALTER TABLE " + quoteTable(table.tableName) + " "
	fresh := quoteIdent(fmt.Sprintf("c%d", random.IntN(30)))
	var some, other *ddlColumn
	if len(columns) > 0 {
		some, other = &columns[random.IntN(len(columns))], &columns[random.IntN(len(columns))]
	}
	kinds := slices.Sorted(maps.Keys(ddlTypes))
	kind := kinds[random.IntN(len(kinds))]
	spelled := kind
	switch kind {
	case "mood", "mood[]", "word", "pair", "pair[]":
		spelled = quoteIdent(w.schema) + "." + kind
	case "character varying":
		spelled = "varchar(20)"
	case "large":
		fresh = quoteIdent(fmt.Sprintf("l%d", w.labels))
		spelled = "text; " + alter + "ALTER " + fresh + " SET STORAGE EXTERNAL"
	}
	switch n := random.IntN(20); {
	case n < 2:
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " " + spelled, nil
	case n < 3 && !strings.Contains(ddlTypes[kind], "SELECT"): // a default has no subquery
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " " + spelled + " DEFAULT " + w.value(kind), nil
	case n < 4:
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " int DEFAULT 7", nil
	case n < 5:
		return alter + "ADD COLUMN IF NOT EXISTS " + fresh + " bigint GENERATED ALWAYS AS (id * 2) STORED", nil
	case n < 7 && some != nil && len(columns) > 1:
		return alter + "DROP COLUMN " + quoteIdent(some.name), nil
	case n < 8 && some != nil:
		return alter + "RENAME COLUMN " + quoteIdent(some.name) + fmt.Sprintf(" TO r%d", w.labels), nil
	case n < 10 && some != nil && some != other: // swapped, which names alone do not show
		return strings.NewReplacer("{}", alter+"RENAME COLUMN ", "{a}", quoteIdent(some.name), "{b}", quoteIdent(other.name)).Replace(
			"{}{a} TO swapped; {}{b} TO {a}; {}swapped TO {b}"), nil
	case n < 12 && some != nil && some.kind != "large":
		to := "text"
		switch some.kind {
		case "integer":
			to = []string{"bigint", "text", "numeric"}[random.IntN(3)]
		case "character varying", "text":
			to = fmt.Sprintf("varchar(%d)", 400_000+random.IntN(40))
		}
		return alter + "ALTER COLUMN " + quoteIdent(some.name) + " DROP DEFAULT, ALTER COLUMN " + quoteIdent(some.name) + " TYPE " +
			to + " USING " + quoteIdent(some.name) + "::text::" + to, nil
	case n < 13 && some != nil && kind != "large":
		return alter + "DROP COLUMN " + quoteIdent(some.name) + ", ADD COLUMN " + quoteIdent(some.name) + " " + spelled, nil
	case n < 14 && some != nil && (some.kind == "large" || some.kind == "text"):
		return alter + "ALTER COLUMN " + quoteIdent(some.name) + " SET STORAGE " + []string{"EXTERNAL", "MAIN", "EXTENDED"}[random.IntN(3)], nil
	case n < 17 && table.kind == ddlKeyed:
		identities := []string{"DEFAULT", "FULL", "NOTHING", "USING INDEX " + quoteIdent(byColumn["id"])}
		if !table.calm {
			identities = append(identities, "USING INDEX "+quoteIdent(byColumn["k"]))
		}
		return alter + "REPLICA IDENTITY " + identities[random.IntN(len(identities))], nil
	case n < 17 && table.kind == ddlParts:
		return w.changeParts(ctx, conn, random, table)
	case n < 19 && table.kind == ddlKeyed:
		key := "id"
		if !table.calm && random.IntN(2) == 0 {
			key = "k"
		}
		switch {
		case primary == "":
			return alter + "ADD PRIMARY KEY (" + key + ")", nil
		case random.IntN(2) == 0: // added again by another transaction
			return alter + "DROP CONSTRAINT " + quoteIdent(primary), nil
		}
		return alter + "DROP CONSTRAINT " + quoteIdent(primary) + ", ADD PRIMARY KEY (" + key + ")", nil
	case n == 19:
		return "TRUNCATE " + quoteTable(table.tableName), nil
	}
	return "", nil
}

// changeParts is SQL that adds a partition, or changes the identity of all.
func (w *ddlWalk) changeParts(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable) (string, error) {
	var full bool
	var leaves []string
	if err := conn.QueryRow(ctx, fmt.Sprintf(`SELECT relreplident = 'f', ARRAY(SELECT inhrelid::regclass::text FROM pg_inherits
		WHERE inhparent = c.oid ORDER BY 1) FROM pg_class c WHERE oid = %s::regclass`, sqlText(quoteTable(table.tableName)))).Scan(
		&full, &leaves); err != nil {
		return "", err
	}
	identity := "DEFAULT"
	if full != (random.IntN(3) == 0) {
		identity = "FULL"
	}
	var sql strings.Builder
	if random.IntN(2) == 0 {
		from := 40 + 10*random.IntN(3)
		leaf := quoteTable(tableName{w.schema, fmt.Sprintf("%s_%d", table.name, w.labels)})
		fmt.Fprintf(&sql, "CREATE TABLE %s PARTITION OF %s FOR VALUES FROM (%d) TO (%d);", leaf, quoteTable(table.tableName), from, from+10)
		leaves = append(leaves, leaf)
	}
	for _, leaf := range append(leaves, quoteTable(table.tableName)) {
		fmt.Fprintf(&sql, "ALTER TABLE %s REPLICA IDENTITY %s;", leaf, identity)
	}
	return sql.String(), nil
}

// walk changes tables until the context ends.
func (w *ddlWalk) walk(ctx context.Context, pause time.Duration) error {
	conn := testConnect(w.t, *testControlUser, *testControlPassword)
	defer conn.Close(context.Background())
	random := rand.New(rand.NewPCG(w.seed, 50))
	background := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		table := w.walked[random.IntN(len(w.walked))]
		n := random.IntN(18)
		if table.calm && n < 3 {
			n = 17
		}
		w.present.Lock()
		var err error
		switch {
		case n == 0:
			err = w.away(background, conn, random, table)
		case n == 1 && table.kind != ddlParts:
			err = w.swap(background, conn, random, table)
		case n == 2:
			err = w.alter(background, conn, random, table, "DROP TABLE "+quoteTable(table.tableName)+"; "+w.create(table, table.tableName))
		case n < 6:
			err = w.alterType(background, conn, random)
		default:
			err = w.alter(background, conn, random, table, "")
		}
		w.present.Unlock()
		if err != nil && !ddlRefused(err) && !errors.Is(err, errAborted) {
			return err
		}
		select {
		case <-time.After(time.Duration(random.Int64N(int64(2 * pause)))):
		case <-ctx.Done():
		}
	}
	return nil
}

// errAborted ends a transaction that the walk rolls back.
var errAborted = errors.New("aborted on purpose")

// alter changes a table by a script, or by what fits, in a transaction with writes on either side. The transaction, or a
// change in a savepoint, may be rolled back.
func (w *ddlWalk) alter(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable, script string) error {
	chosen := script != ""
	return w.transact(ctx, conn, func() error {
		if _, err := conn.Exec(ctx, "LOCK TABLE "+quoteTable(table.tableName)+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		if random.IntN(3) == 0 {
			if err := w.write(ctx, conn, random, table, table.tableName); err != nil {
				return err
			}
		}
		change := func(what string) error {
			if !chosen {
				var err error
				if script, err = w.change(ctx, conn, random, table); err != nil {
					return err
				}
			}
			w.done = append(w.done, what+script)
			if _, err := conn.PgConn().Exec(ctx, script).ReadAll(); err != nil {
				return fmt.Errorf("%s: %w", script, err)
			}
			return nil
		}
		if !chosen && random.IntN(4) == 0 {
			if _, err := conn.Exec(ctx, "SAVEPOINT s"); err != nil {
				return err
			}
			err := change("rolled back to a savepoint: ")
			if err == nil {
				err = w.write(ctx, conn, random, table, table.tableName)
			}
			if err != nil && !ddlRefused(err) {
				return err
			}
			if _, err := conn.Exec(ctx, "ROLLBACK TO s"); err != nil {
				return err
			}
			if random.IntN(2) == 0 {
				if err := w.write(ctx, conn, random, table, table.tableName); err != nil {
					return err
				}
			}
		}
		for range 1 + random.IntN(2) {
			if err := change(""); err != nil {
				return err
			}
			if err := w.mark(ctx, conn, table, table.tableName); err != nil {
				return err
			}
			if err := w.count(ctx, conn, table); err != nil {
				return err
			}
			if random.IntN(3) == 0 {
				if err := w.write(ctx, conn, random, table, table.tableName); err != nil {
					return err
				}
			}
			if chosen {
				return nil
			}
		}
		if random.IntN(8) == 0 {
			w.done = append(w.done, "rolled back")
			return errAborted
		}
		return nil
	})
}

// count notes up to which count the rows of tables may have been written in another shape.
func (w *ddlWalk) count(ctx context.Context, conn *pgx.Conn, tables ...*ddlTable) error {
	var last string
	err := conn.QueryRow(ctx, fmt.Sprintf("SELECT last_value::text FROM %s.written", quoteIdent(w.schema))).Scan(&last)
	for _, table := range tables {
		w.changed[table.name] = last
	}
	return err
}

// rename names tables anew, pairs of a name and the next, in one transaction.
func (w *ddlWalk) rename(ctx context.Context, conn *pgx.Conn, table *ddlTable, as tableName, names ...tableName) error {
	return w.transact(ctx, conn, func() error {
		for i := 0; i < len(names); i += 2 {
			w.done = append(w.done, "rename "+names[i].name+" to "+names[i+1].name)
			if _, err := conn.Exec(ctx, "ALTER TABLE "+quoteTable(names[i])+" RENAME TO "+quoteIdent(names[i+1].name)); err != nil {
				return err
			}
		}
		if err := w.mark(ctx, conn, table, as); err != nil {
			return err
		}
		return w.count(ctx, conn, table)
	})
}

// insist is rename for what must be done: a deadlock does not leave tables away.
func (w *ddlWalk) insist(ctx context.Context, conn *pgx.Conn, table *ddlTable, as tableName, names ...tableName) error {
	for {
		if err := w.rename(ctx, conn, table, as, names...); !refused(err) {
			return err
		}
	}
}

// away renames a table, writes to it, and names it as before.
func (w *ddlWalk) away(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable) error {
	other := tableName{table.schema, table.name + "_away"}
	if err := w.rename(ctx, conn, table, other, table.tableName, other); err != nil {
		return err
	}
	if random.IntN(2) == 0 {
		err := w.transact(ctx, conn, func() error { return w.write(ctx, conn, random, table, other) })
		if err != nil && !ddlRefused(err) {
			return err
		}
	}
	time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
	return w.insist(ctx, conn, table, table.tableName, other, table.tableName)
}

// swap puts another table in the place of one, as online migrations do, and perhaps back.
func (w *ddlWalk) swap(ctx context.Context, conn *pgx.Conn, random *rand.Rand, table *ddlTable) error {
	w.labels++
	fresh := tableName{table.schema, fmt.Sprintf("%s_new%d", table.name, w.labels)}
	old := tableName{table.schema, fmt.Sprintf("%s_old%d", table.name, w.labels)}
	if _, err := conn.PgConn().Exec(ctx, w.create(table, fresh)).ReadAll(); err != nil {
		return err
	}
	write := func(as tableName) error {
		if random.IntN(2) == 0 {
			return nil
		}
		err := w.transact(ctx, conn, func() error { return w.write(ctx, conn, random, table, as) })
		if err != nil && !ddlRefused(err) {
			return err
		}
		return nil
	}
	if err := write(fresh); err != nil {
		return err
	}
	err := w.rename(ctx, conn, table, table.tableName, table.tableName, old, fresh, table.tableName)
	if err != nil {
		_, dropped := conn.Exec(ctx, "DROP TABLE "+quoteTable(fresh))
		return errors.Join(err, dropped)
	}
	if err := errors.Join(write(old), write(table.tableName)); err != nil {
		return err
	}
	time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
	gone := old
	if random.IntN(2) == 0 {
		gone = fresh
		if err := w.insist(ctx, conn, table, table.tableName, table.tableName, fresh, old, table.tableName); err != nil {
			return err
		}
		if err := errors.Join(write(fresh), write(table.tableName)); err != nil {
			return err
		}
	}
	w.done = append(w.done, "drop "+gone.name)
	_, err = conn.Exec(ctx, "DROP TABLE "+quoteTable(gone))
	return err
}

// alterType changes a type that columns have; a label of an enum is used in the next transaction.
func (w *ddlWalk) alterType(ctx context.Context, conn *pgx.Conn, random *rand.Rand) error {
	w.labels++
	var sql string
	switch random.IntN(6) {
	case 0:
		var label string
		if err := conn.QueryRow(ctx, fmt.Sprintf("SELECT m::text FROM unnest(enum_range(NULL::%s.mood)) m ORDER BY random() LIMIT 1",
			quoteIdent(w.schema))).Scan(&label); err != nil {
			return err
		}
		sql = fmt.Sprintf("ALTER TYPE {}.mood RENAME VALUE '%s' TO 'r%d'", label, w.labels)
	case 1:
		sql = fmt.Sprintf("ALTER DOMAIN {}.word ADD CONSTRAINT c%d CHECK (value <> 'no%[1]d')", w.labels)
	case 2:
		sql = fmt.Sprintf("ALTER TYPE {}.pair ADD ATTRIBUTE z%d int", 1+random.IntN(9))
	case 3:
		sql = fmt.Sprintf("ALTER TYPE {}.pair DROP ATTRIBUTE z%d", 1+random.IntN(9))
	case 4:
		sql = fmt.Sprintf("ALTER TYPE {}.pair RENAME ATTRIBUTE z%d TO z%d", 1+random.IntN(9), 1+random.IntN(9))
	default:
		sql = fmt.Sprintf("ALTER TYPE {}.mood ADD VALUE 'm%d'", w.labels)
	}
	sql = strings.ReplaceAll(sql, "{}", quoteIdent(w.schema))
	w.done = append(w.done, sql)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return w.count(ctx, conn, w.walked...) // rows written with the old label or attributes keep them in their documents
}

// bound are the bindings as of now.
func (w *ddlWalk) bound() []runtimeBinding {
	var bindings []runtimeBinding
	bind := func(t tableName, mode backfillMode) {
		key := []string{"/id"}
		if mode == modeKeyless {
			key = fallbackKey
		}
		resource := fmt.Appendf(nil, `{"namespace":%q,"stream":%q,"mode":%q}`, t.schema, t.name, mode)
		if mode == modeAutomatic {
			resource = fmt.Appendf(nil, `{"namespace":%q,"stream":%q}`, t.schema, t.name)
		}
		bindings = append(bindings, runtimeBinding{
			resource: resource, collection: t.schema + "/" + t.name, key: key, backfill: w.counters[t],
		})
	}
	bind(w.markers, modeOnlyChanges)
	bind(w.sentinel, modeAutomatic)
	for _, t := range w.walked {
		mode := modeAutomatic
		if t.keyless() {
			mode = modeKeyless
		}
		bind(t.tableName, mode)
	}
	return bindings
}

// rebind has tables backfilled from now on. Validation may refuse a table as it is now: then nothing changes, or the tables
// do and it is asked again.
func (w *ddlWalk) rebind(again []*ddlTable) error {
	w.present.Lock()
	defer w.present.Unlock()
	for _, t := range again {
		w.counters[t.tableName]++
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
			w.counters[t.tableName]--
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
		sql := "ALTER TABLE " + quoteTable(table.tableName) + " REPLICA IDENTITY FULL"
		switch table.kind {
		case ddlInserted:
			continue
		case ddlParts:
			for _, row := range w.db.query("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass",
				quoteTable(table.tableName)) {
				sql += "; ALTER TABLE " + row[0] + " REPLICA IDENTITY FULL"
			}
		}
		for {
			err := w.alter(w.db.ctx, w.db.control, w.rand, table, sql)
			if err == nil {
				break
			}
			if !ddlRefused(err) {
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
			if err := w.write(w.db.ctx, w.db.control, w.rand, table, table.tableName); err != nil && !ddlRefused(err) {
				w.fatalf("%v", err)
			}
		}
		w.db.exec(fmt.Sprintf("INSERT INTO %s (id, written) VALUES (1000, nextval('%s.written'))",
			quoteTable(table.tableName), quoteIdent(w.schema)))
	}
}

// judgeShapes checks the fields of all documents, and their values by the versions of the rows.
func (w *ddlWalk) judgeShapes() {
	w.t.Helper()
	now, versions := maps.Clone(w.shapes), w.versions()
	ever := make(map[string][]ddlNumbers) // the shapes that a table has had, by its name and theirs
	shapes := w.allShapes()
	for _, m := range shapes {
		ever[m.Table+m.Columns] = append(ever[m.Table+m.Columns], versions.note(w.t, &m))
	}
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
			now[m.Table] = m
			markers++
			continue
		}
		source, have := sourceOf(w.t, d.doc), fieldsOf(w.t, d.doc)
		shape := now[name]
		fault := ""
		switch {
		case source.Snapshot:
			if len(ever[name+have]) == 0 {
				fault = "has fields of no shape"
				break
			}
			for _, numbers := range ever[name+have] { // names do not tell which of them it was
				if fault = versions.judge(name, d.doc, numbers, ""); fault == "" {
					break
				}
			}
		case source.op == "d" && (have == shape.Identity || name == "parts" && versions.lacksNulls(w.t, d.doc, have, shape.Columns)):
		case have != shape.Columns && (source.op == "d" || !lacksOnly(w.t, have, shape.Columns, versions.large)):
			fault = fmt.Sprintf("want the fields %s; its version was %s", shape.Columns, versions.describe(d.doc))
		default:
			numbers := ddlNumbers{}
			if err := json.Unmarshal([]byte(shape.Numbers), &numbers); err != nil {
				w.fatalf("%v", err)
			}
			fault = versions.judge(name, d.doc, numbers, source.op)
		}
		if fault != "" {
			w.fatalf("document %d of %s: %s\n%s\n%s", i, name, fault, abridged(d.doc), w.report())
		}
	}
	if want := len(shapes) - len(w.shapes); markers != want {
		w.fatalf("%d documents of %d markers", markers, want)
	}
	w.runtime.judgeSourced()
}

// lacksOnly reports whether the fields that a document lacks are such as may be large: unchanged ones are left out of an
// update, and of an insertion by a key move where the row, or the column, is gone since. judgeValues tells what got lost.
func lacksOnly(t testing.TB, have, want string, large map[string]bool) bool {
	var has, wants []string
	if err := errors.Join(json.Unmarshal([]byte(have), &has), json.Unmarshal([]byte(want), &wants)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range wants {
		if slices.Contains(has, name) {
			n++
		} else if !large[name] {
			return false
		}
	}
	return n == len(has)
}

// ddlNumbers are the attnum and type of a shape's columns, by which it is known that a value is still one of its column.
type ddlNumbers map[string][2]uint32

// ddlVersions are all versions of all rows, by their counter.
type ddlVersions struct {
	rows    map[string]map[string][3]json.RawMessage // columns by name: attnum, type, text
	next    map[string]string                        // of those updated, and "0" for those deleted or moved to another id
	large   map[string]bool                          // columns that had a value which may be kept out of line
	digests map[string]bool                          // all such values, long ones in short: what is read again may be newer
	labels  map[string]bool                          // types whose values change their text
	shapes  map[string][]ddlNumbers                  // by table
}

// allShapes are all that tables have had.
func (w *ddlWalk) allShapes() []ddlShape {
	w.t.Helper()
	shapes := slices.Collect(maps.Values(w.shapes))
	for _, row := range w.db.query("SELECT tab, columns, identity, numbers FROM " + quoteTable(w.markers)) {
		shapes = append(shapes, ddlShape{row[0], row[1], row[2], row[3]})
	}
	return shapes
}

// note takes a shape in and returns its numbers.
func (v *ddlVersions) note(t testing.TB, m *ddlShape) ddlNumbers {
	numbers := ddlNumbers{}
	if err := json.Unmarshal([]byte(m.Numbers), &numbers); err != nil {
		t.Fatal(err)
	}
	v.shapes[m.Table] = append(v.shapes[m.Table], numbers)
	return numbers
}

func (w *ddlWalk) versions() *ddlVersions {
	w.t.Helper()
	v := &ddlVersions{
		rows: make(map[string]map[string][3]json.RawMessage), next: make(map[string]string), large: make(map[string]bool),
		digests: make(map[string]bool), labels: make(map[string]bool), shapes: make(map[string][]ddlNumbers),
	}
	for _, row := range w.db.query("SELECT written::text, prior::text, next::text, columns FROM " + quoteIdent(w.schema) + ".versions") {
		if row[1] != "NULL" {
			v.next[row[1]] = row[2]
			continue
		}
		columns := make(map[string][3]json.RawMessage)
		if err := json.Unmarshal([]byte(row[3]), &columns); err != nil {
			w.fatalf("%s: %v", row[3], err)
		}
		for name, c := range columns {
			if len(c[2]) >= 20 { // a value longer than a TOAST pointer goes out of line where the row must get smaller
				v.large[name], v.digests[string(c[2])] = true, true
			}
		}
		v.rows[row[0]] = columns
	}
	for _, row := range w.db.query(`SELECT t.oid::text FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
		WHERE nspname = $1 AND (typtype IN ('e', 'c') OR typelem <> 0)`, w.schema) {
		v.labels[row[0]] = true
	}
	return v
}

// judge returns what is wrong with the values of a document whose columns have these numbers, or "". The row of an
// insertion or update was written under the names it has; others may have been written under other ones.
func (v *ddlVersions) judge(table, doc string, numbers ddlNumbers, op string) string {
	var row map[string]json.RawMessage
	var meta struct {
		Before map[string]json.RawMessage `json:"before"`
	}
	if err := errors.Join(json.Unmarshal([]byte(doc), &row), json.Unmarshal(row[metaColumn], &meta)); err != nil {
		return err.Error()
	}
	delete(row, metaColumn)
	if fault := v.judgeRow(table, row, numbers, op == "c" || op == "u"); fault != "" {
		return fault
	}
	if _, told := meta.Before["written"]; told {
		return v.judgeRow(table, meta.Before, numbers, false)
	}
	return ""
}

// describe is the version of a document's row.
func (v *ddlVersions) describe(doc string) string {
	var row struct {
		Written json.Number `json:"written"`
	}
	if err := json.Unmarshal([]byte(doc), &row); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s", v.rows[row.Written.String()])
}

// lacksNulls reports whether a document has all fields of its shape but some that are NULL in its version, by whatever names the
// version's columns had: an old tuple of a partitioned table may count as one of keys alone, if a partition's identity is not
// FULL any more (capture_stream.go, wholeOld).
func (v *ddlVersions) lacksNulls(t testing.TB, doc, have, want string) bool {
	var row struct {
		Written json.Number `json:"written"`
	}
	var has, wants []string
	err := errors.Join(json.Unmarshal([]byte(doc), &row), json.Unmarshal([]byte(have), &has), json.Unmarshal([]byte(want), &wants))
	if err != nil {
		t.Fatal(err)
	}
	nulls := 0
	for _, column := range v.rows[row.Written.String()] {
		if string(column[2]) == "null" {
			nulls++
		}
	}
	for _, name := range has {
		if !slices.Contains(wants, name) {
			return false
		}
	}
	return len(wants)-len(has) <= nulls
}

func (v *ddlVersions) judgeRow(table string, row map[string]json.RawMessage, numbers ddlNumbers, sameNames bool) string {
	version := v.rows[string(row["written"])]
	if version == nil {
		return fmt.Sprintf("no row has had the counter %s", row["written"])
	}
	for name, value := range row {
		want, ok := version[name]
		if !sameNames {
			number := numbers[name]
			ok = false
			for _, column := range version {
				if string(column[0]) == fmt.Sprint(number[0]) && string(column[1]) == fmt.Sprint(number[1]) && !v.labels[string(column[1])] {
					want, ok = column, true
				}
			}
			if !ok { // the value came with the column, or with its type
				continue
			}
		}
		if !ok {
			return fmt.Sprintf("the row had no column %q", name)
		}
		// An unchanged value may have been read again, from the column that has its name now.
		readAgain := v.large[name] && (v.digests[string(value)] || v.digests[digestOf(value)] || v.hasMoved(table, name))
		if !sameText(value, want[2]) && !readAgain {
			return fmt.Sprintf("column %q is %.100s, the row had %.100s", name, value, want[2])
		}
	}
	return ""
}

// hasMoved reports whether a name has meant more than one column of a table.
func (v *ddlVersions) hasMoved(table, name string) bool {
	numbers := make(map[uint32]bool)
	for _, shape := range v.shapes[table] {
		numbers[shape[name][0]] = true
	}
	return len(numbers) > 1
}

// digestOf is how a large value stands among the versions.
func digestOf(value json.RawMessage) string {
	var text string
	if len(value) < 1000 || json.Unmarshal(value, &text) != nil {
		return ""
	}
	return fmt.Sprintf(`"md5:%x"`, md5.Sum([]byte(text)))
}

// sameText compares a document's value with the text that to_json gives of a value.
func sameText(value, want json.RawMessage) bool {
	if string(want) == "null" || string(value) == "null" {
		return string(want) == string(value)
	}
	var text string
	if json.Unmarshal(want, &text) != nil {
		return false
	}
	return sameJSON(value, text) || digestOf(value) == string(want)
}

// sameJSON compares a document's value with the server's JSON of a value, a string without its quotes.
func sameJSON(value json.RawMessage, want string) bool {
	var text string
	if json.Unmarshal(value, &text) == nil {
		if text == want || text == want+"Z" || text == compositeText(want) {
			return true
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		other, errOther := time.Parse(time.RFC3339Nano, want)
		return err == nil && errOther == nil && at.Equal(other)
	}
	var list, wants []json.RawMessage
	if json.Unmarshal(value, &list) == nil && json.Unmarshal([]byte(want), &wants) == nil {
		return slices.EqualFunc(list, wants, func(a, b json.RawMessage) bool {
			inner := string(b)
			if json.Unmarshal(b, &text) == nil {
				inner = text
			}
			return string(a) == "null" && inner == "null" || sameJSON(a, inner)
		})
	}
	var compact bytes.Buffer
	return string(value) == want || json.Compact(&compact, []byte(want)) == nil && compact.String() == string(value)
}

// compositeText is the server's text of a composite of numbers, by its JSON.
func compositeText(object string) string {
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	var parts []string
	for {
		token, err := d.Token()
		if err != nil {
			return "(" + strings.Join(parts, ",") + ")"
		}
		if _, delimiter := token.(json.Delim); delimiter {
			continue
		}
		switch token, err = d.Token(); {
		case err != nil:
			return object
		case token == nil:
			parts = append(parts, "")
		default:
			parts = append(parts, fmt.Sprint(token))
		}
	}
}

// judgeRows checks that the documents leave every row of the tables, in its last version, and no row that was deleted where
// the stream has told of it.
func (w *ddlWalk) judgeRows() {
	w.t.Helper()
	versions := w.versions()
	for _, table := range w.walked {
		left := make(map[string]string) // version to id
		for _, row := range w.merged(0, table) {
			left[string(row["written"])] = string(row["id"])
		}
		for _, row := range w.db.query("SELECT written::text, id::text FROM " + quoteTable(table.tableName)) {
			if left[row[0]] == "" {
				w.fatalf("%s: the row %s, version %s, is in no document\n%s\n%s", table, row[1], row[0], w.ofRow(table, row[1]), w.report())
			}
			delete(left, row[0])
		}
		for written, id := range left {
			last := written // the row may have been truncated in a later version than was captured
			for versions.next[last] != "" && versions.next[last] != "0" {
				last = versions.next[last]
			}
			if table.calm && versions.next[last] == "0" {
				w.fatalf("%s: the documents leave version %s of row %s, which has been deleted\n%s\n%s", table, written, id,
					w.ofRow(table, id), w.report())
			}
		}
	}
}

// ofRow lists the documents of an id, with the table's shapes between them.
func (w *ddlWalk) ofRow(table *ddlTable, id string) string {
	var lines strings.Builder
	for _, d := range w.runtime.documents() {
		var doc struct {
			ID  json.RawMessage `json:"id"`
			Tab string          `json:"tab"`
		}
		if json.Unmarshal([]byte(d.doc), &doc) == nil && (d.table == table.String() && string(doc.ID) == id ||
			d.table == w.markers.String() && doc.Tab == table.name) {
			fmt.Fprintf(&lines, "  checkpoint %d: %s\n", d.checkpoint, abridged(d.doc))
		}
	}
	return lines.String()
}

// merged are the rows that a table's documents leave, from document number from on: by id, or each by itself.
func (w *ddlWalk) merged(from int, table *ddlTable) map[string]map[string]json.RawMessage {
	w.t.Helper()
	rows := make(map[string]map[string]json.RawMessage)
	for i, d := range w.runtime.documents()[from:] {
		if d.table != table.String() {
			continue
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			w.fatalf("%s: %v", d.doc, err)
		}
		key := string(doc["id"])
		if table.keyless() {
			key = fmt.Sprint(i)
		}
		op := sourceOf(w.t, d.doc).op
		delete(doc, metaColumn)
		switch row := rows[key]; {
		case op == "d":
			delete(rows, key)
		case row != nil && op == "u":
			maps.Copy(row, doc)
		default:
			rows[key] = doc
		}
	}
	return rows
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

// judgeValues compares the last documents, from one on, with the rows written behind a count: all of their columns, but for
// large ones that came with an older version and another name. With exactly, every column, and no document may be left whose
// row is not there.
func (w *ddlWalk) judgeValues(from int, behind map[string]string, exactly bool) {
	w.t.Helper()
	versions := w.versions()
	for _, shape := range w.allShapes() {
		versions.note(w.t, &shape)
	}
	for _, table := range w.walked {
		large := maps.Clone(versions.large)
		maps.DeleteFunc(large, func(name string, _ bool) bool { return !versions.hasMoved(table.name, name) })
		if table.keyless() {
			continue // judgeRows and judgeShapes tell
		}
		rows := w.merged(from, table)
		after := "0"
		if behind != nil {
			after = behind[table.name]
		}
		columns := w.db.query(`SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0
			AND NOT attisdropped AND attgenerated = ''`, quoteTable(table.tableName))
		var list []string
		for _, row := range rows {
			if !exactly {
				for _, c := range columns {
					if _, told := row[c[0]]; !told && large[c[0]] {
						row[c[0]] = json.RawMessage(`"not told"`)
					}
				}
			}
			doc, err := json.Marshal(row)
			if err != nil {
				w.fatalf("%v", err)
			}
			list = append(list, string(doc))
		}
		dropped := "'{" + strings.Join(w.generated(table.tableName), ",") + "}'::text[]"
		for name := range large {
			if exactly {
				break
			}
			// Told or not: what is told must be right.
			dropped += fmt.Sprintf(" - CASE WHEN d.v->>%[1]s = 'not told' THEN ARRAY[%[1]s] ELSE '{}' END", sqlText(name))
		}
		sql := fmt.Sprintf(`WITH docs AS MATERIALIZED (SELECT doc::jsonb FROM unnest($1::text[]) doc
				WHERE (doc::jsonb->>'written')::bigint > %[3]s), -- others may not be values of today's types
			d AS (SELECT to_jsonb(jsonb_populate_record(NULL::%[1]s, doc)) AS v FROM docs),
			s AS (SELECT to_jsonb(source) AS v, written FROM %[1]s source)
			SELECT 'lacks ' || left(s.v::text, 3000) || coalesce(' but has ' || left(d.v::text, 3000), '')
				FROM s LEFT JOIN d ON d.v->'id' = s.v->'id'
				WHERE s.written > %[3]s AND (d.v - %[2]s) IS DISTINCT FROM (s.v - %[2]s)
			UNION ALL SELECT 'has ' || d.v::text FROM d WHERE %[4]v AND NOT EXISTS (SELECT FROM s WHERE s.v->'id' = d.v->'id')`,
			quoteTable(table.tableName), dropped, after, exactly)
		if wrong := w.db.query(sql, list); len(wrong) > 0 {
			w.fatalf("%s, of %d rows in documents (backfill again: %v):\n%v\n%s", table, len(rows), exactly,
				wrong[:min(4, len(wrong))], w.report())
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

// walkConfig is the endpoint config of a walk.
func (w *ddlWalk) walkConfig() json.RawMessage {
	w.t.Helper()
	return json.RawMessage(strings.Replace(string(w.config()), `"advanced":{`,
		fmt.Sprintf(`"advanced":{"on_truncate":%q,`, []string{"ignore", "backfill"}[w.rand.IntN(2)]), 1))
}

// TestDDLWalk changes tables at random while they are written to and captured.
func TestDDLWalk(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	t.Parallel()
	seeds(t, 1, func(t *testing.T, seed uint64) {
		rounds := 4
		if *longTests {
			rounds += int(seed % 15)
		}
		walkDDL(t, seed, rounds)
	})
}

// walkDDL is a run of TestDDLWalk.
func walkDDL(t *testing.T, seed uint64, rounds int) *ddlWalk {
	t.Helper()
	w := newDDLWalk(t, seed)
	for _, kind := range []ddlKind{ddlKeyless, ddlInserted, ddlParts} {
		if kind != ddlParts || w.db.version() >= 130000 {
			w.add(&ddlTable{tableName: tableName{w.schema, []string{"", "keyless", "inserted", "parts"}[kind]}, kind: kind})
		}
	}
	for _, table := range w.walked[:3] {
		table.calm = w.rand.IntN(2) == 0
	}
	w.chunk = []int{1, 3, 10}[w.rand.IntN(3)]
	w.readOnly = w.rand.IntN(3) == 0
	w.runtime = newTestRuntime(t, runtimeOptions{
		config: w.walkConfig(), codec: codec(w.rand.IntN(2)), logLevel: "warn",
	})
	w.runtime.bind(w.bound())
	w.begin()
	w.await(time.Now().Add(waitLimit)) // every marker is streamed
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	for i := range uint64(2) {
		go func() { ended <- w.writer(ctx, i) }()
	}
	go func() { ended <- w.walk(ctx, 60*time.Millisecond) }()
	for range rounds {
		w.sleep(time.Duration(w.rand.IntN(900)) * time.Millisecond)
		w.end(w.rand.IntN(2) == 0)
		if w.rand.IntN(2) == 0 { // a backlog
			time.Sleep(time.Duration(w.rand.IntN(900)) * time.Millisecond)
		}
		var again []*ddlTable
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
	w.await(time.Now().Add(waitLimit))
	w.judgeShapes()
	w.judgeRows()
	w.judgeValues(0, w.changed, false)
	w.end(true)
	from := len(w.runtime.documents())
	if err := w.rebind(w.walked); err != nil {
		w.fatalf("validation in the end: %v", err)
	}
	w.begin()
	w.await(time.Now().Add(waitLimit))
	w.judgeShapes()
	w.judgeRows()
	w.judgeValues(from, nil, true)
	w.end(true)
	t.Logf("seed %d: %d statements, %d documents, %d sessions ended by themselves, %d validations refused", seed,
		len(w.done), len(w.runtime.documents()), w.ends, w.refusals)
	return w
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
			w.await(time.Now().Add(waitLimit))
			table := w.walked[0]
			if backlog {
				w.end(true)
			}
			w.db.exec("ALTER TABLE " + quoteTable(table.tableName) + " REPLICA IDENTITY USING INDEX " + quoteIdent(table.name+"_k_idx"))
			w.db.exec("DELETE FROM " + quoteTable(table.tableName) + " WHERE id = 7")
			if !backlog {
				w.runtime.waitLog("is no longer captured: its replica identity lacks key column")
				w.pass()
			}
			w.db.exec("ALTER TABLE " + quoteTable(table.tableName) + " REPLICA IDENTITY FULL")
			if backlog {
				w.begin()
			}
			from := len(w.runtime.documents())
			w.touch()
			w.await(time.Now().Add(waitLimit))
			w.walked = w.walked[:1] // the others have not been backfilled again
			w.judgeValues(from, nil, true)
			if w.ends > 0 {
				t.Errorf("%d sessions ended by themselves", w.ends)
			}
			w.end(true)
		})
	}
}
