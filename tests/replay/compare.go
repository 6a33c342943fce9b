package main

// compare.go has the server compare a table with its replay: the documents' values are loaded as the text that the
// column's type reads, and the two are compared column by column as text.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"source-postgres/tests/history"

	"github.com/jackc/pgx/v5"
)

const maxDifferences = 5 // shown of a table and direction

// server knows the tables and types of the database.
type server struct {
	conn   *pgx.Conn
	types  map[uint32]dataType
	tables map[string]*table
}

type dataType struct {
	name      string
	base      uint32 // of a domain
	element   uint32 // of an array
	delimiter string
}

type table struct {
	sql     string // quoted name, behind ONLY where children are tables of their own
	key     []string
	full    bool // REPLICA IDENTITY FULL, on every leaf
	columns []column
}

type column struct {
	name    string
	typeOID uint32
}

const sqlTypes = `
SELECT oid, typname, typbasetype, CASE WHEN typcategory = 'A' THEN typelem ELSE 0 END, typdelim::text FROM pg_type`

const sqlTable = `
SELECT c.oid, n.nspname, c.relname, c.relkind = 'p',
       CASE WHEN c.relkind <> 'p' THEN c.relreplident = 'f'
            ELSE (SELECT bool_and(l.relreplident = 'f') FROM pg_partition_tree(c.oid) p
                  JOIN pg_class l ON l.oid = p.relid WHERE p.isleaf) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = $1 AND c.relkind IN ('r', 'p')`

const sqlColumns = `
SELECT attname, atttypid FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> '_meta'
ORDER BY attnum`

// The primary key, or else the usable unique index with the smallest name.
const sqlKey = `
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.n)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
WHERE i.indrelid = $1
  AND (i.indisprimary OR c.relkind = 'r' AND i.indisunique AND i.indisvalid AND i.indimmediate
       AND i.indpred IS NULL AND i.indexprs IS NULL
       AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND NOT a.attnotnull
                       AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])))
ORDER BY i.indisprimary DESC, x.relname COLLATE "C"
LIMIT 1`

func newServer(ctx context.Context, conn *pgx.Conn) (*server, error) {
	s := &server{conn: conn, types: make(map[uint32]dataType), tables: make(map[string]*table)}
	rows, err := conn.Query(ctx, sqlTypes)
	if err != nil {
		return nil, err
	}
	var oid uint32
	var t dataType
	_, err = pgx.ForEachRow(rows, []any{&oid, &t.name, &t.base, &t.element, &t.delimiter}, func() error {
		s.types[oid] = t
		return nil
	})
	return s, err
}

// table looks a table up by schema.table.
func (s *server) table(ctx context.Context, name string) (*table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	var oid uint32
	var schema, relation string
	var partitioned bool
	var full *bool
	err := s.conn.QueryRow(ctx, sqlTable, name).Scan(&oid, &schema, &relation, &partitioned, &full)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("the server has no table %s", name)
	}
	if err != nil {
		return nil, err
	}
	t := &table{sql: pgx.Identifier{schema, relation}.Sanitize(), full: full != nil && *full}
	if !partitioned {
		t.sql = "ONLY " + t.sql
	}
	err = s.conn.QueryRow(ctx, sqlKey, oid).Scan(&t.key)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, sqlColumns, oid)
	if err != nil {
		return nil, err
	}
	var c column
	if _, err := pgx.ForEachRow(rows, []any{&c.name, &c.typeOID}, func() error {
		t.columns = append(t.columns, c)
		return nil
	}); err != nil {
		return nil, err
	}
	s.tables[name] = t
	return t, nil
}

// base resolves domains.
func (s *server) base(oid uint32) dataType {
	for s.types[oid].base != 0 {
		oid = s.types[oid].base
	}
	return s.types[oid]
}

// compare returns the first differences between a table and its replay.
func (s *server) compare(ctx context.Context, h *history.History, name string) ([]string, error) {
	t, err := s.table(ctx, name)
	if err != nil {
		return nil, err
	}
	var quoted, texts []string
	for _, c := range t.columns {
		quoted = append(quoted, pgx.Identifier{c.name}.Sanitize())
		texts = append(texts, s.textOf(c))
	}
	list := strings.Join(quoted, ", ")
	for _, sql := range []string{
		"DROP TABLE IF EXISTS pg_temp.replayed",
		"CREATE TEMPORARY TABLE replayed AS SELECT " + list + " FROM " + t.sql + " WITH NO DATA",
	} {
		if _, err := s.conn.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	if err := s.load(ctx, h, name, t, "COPY pg_temp.replayed ("+list+") FROM STDIN"); err != nil {
		return nil, err
	}
	columns := strings.Join(texts, ", ")
	onServer := "SELECT " + columns + " FROM " + t.sql
	inReplay := "SELECT " + columns + " FROM pg_temp.replayed"
	missing, err := s.differences(ctx, onServer+" EXCEPT ALL "+inReplay)
	if err != nil {
		return nil, err
	}
	extra, err := s.differences(ctx, inReplay+" EXCEPT ALL "+onServer)
	if err != nil {
		return nil, err
	}
	var faults []string
	for _, row := range missing {
		faults = append(faults, name+": on the server, not in the replay: "+row)
	}
	for _, row := range extra {
		faults = append(faults, name+": in the replay, not on the server: "+row)
	}
	return faults, nil
}

// textOf is the SQL of a column's text for comparison. Documents have flat arrays, and JSON without its blanks.
func (s *server) textOf(c column) string {
	name := pgx.Identifier{c.name}.Sanitize()
	t := s.base(c.typeOID)
	text := name + "::text"
	switch {
	case t.name == "json", t.name == "jsonb":
		text = "NULLIF(" + name + "::jsonb::text, 'null')" // in a document JSON's null is that of SQL
	case t.element != 0 && s.base(t.element).name == "json":
		text = "CASE WHEN " + name + " IS NOT NULL THEN ARRAY(SELECT unnest(" + name + "::jsonb[]))::text END"
	case t.element != 0:
		text = "CASE WHEN " + name + " IS NOT NULL THEN ARRAY(SELECT unnest(" + name + "))::text END"
	}
	return text + " AS " + name
}

func (s *server) differences(ctx context.Context, query string) ([]string, error) {
	rows, err := s.conn.Query(ctx,
		fmt.Sprintf(`SELECT left(to_jsonb("(row)")::text, 500) FROM (%s) "(row)" LIMIT %d`, query, maxDifferences))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// load copies the replayed rows to the server.
func (s *server) load(ctx context.Context, h *history.History, name string, t *table, sql string) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		var line []byte
		err := h.Rows(name, func(row *history.Row, count int) error {
			var err error
			if line, err = s.appendRow(line[:0], t, row); err != nil {
				return fmt.Errorf("line %d: %w", row.Line, err)
			}
			for range count {
				if _, err := w.Write(line); err != nil {
					return err
				}
			}
			return nil
		})
		w.CloseWithError(err)
		written <- err
	}()
	_, copyErr := s.conn.PgConn().CopyFrom(ctx, r, sql)
	r.CloseWithError(errLoadEnded)
	if err := <-written; err != nil && !errors.Is(err, errLoadEnded) {
		return err // the server knows only that there was one
	}
	return copyErr
}

var errLoadEnded = errors.New("the load has ended")

// appendRow appends a row in COPY's text format.
func (s *server) appendRow(dst []byte, t *table, row *history.Row) ([]byte, error) {
	values, err := row.Values()
	if err != nil {
		return dst, err
	}
	known := 0
	for i, c := range t.columns {
		if i > 0 {
			dst = append(dst, '\t')
		}
		raw, ok := values[c.name]
		if ok {
			known++
		}
		text, null, err := s.input(c.typeOID, raw)
		switch {
		case err != nil:
			return dst, fmt.Errorf("column %s: %w: %.200s", c.name, err, raw)
		case null:
			dst = append(dst, `\N`...)
		default:
			dst = append(dst, copyEscapes.Replace(text)...)
		}
	}
	if known < len(values) {
		return dst, fmt.Errorf("a column that the table does not have: %.500s", row.Columns)
	}
	return append(dst, '\n'), nil
}

var copyEscapes = strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)

// input returns the text that the type reads as the value of a document.
func (s *server) input(oid uint32, raw json.RawMessage) (text string, null bool, err error) {
	t := s.base(oid)
	isJSON := t.name == "json" || t.name == "jsonb"
	switch {
	case len(raw) == 0, string(raw) == "null" && !isJSON:
		return "", true, nil
	case isJSON:
		return string(raw), string(raw) == "null", nil
	case t.element != 0 && raw[0] == '[':
		literal := []byte{'{'}
		literal, err = s.appendArray(literal, t, raw)
		return string(append(literal, '}')), false, err
	case t.element != 0 && raw[0] == '{':
		var array struct {
			Elements json.RawMessage `json:"elements"`
		}
		if err := json.Unmarshal(raw, &array); err != nil {
			return "", false, err
		}
		return s.input(oid, array.Elements)
	case raw[0] != '"':
		return string(raw), false, nil
	}
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", false, err
	}
	if t.name == "bytea" {
		data, err := base64.StdEncoding.DecodeString(text)
		return `\x` + hex.EncodeToString(data), false, err
	}
	return text, false, nil
}

// appendArray appends the elements of a JSON array, nested ones flattened, as those of an array literal.
func (s *server) appendArray(dst []byte, t dataType, raw json.RawMessage) ([]byte, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal(raw, &elements); err != nil {
		return dst, err
	}
	name := s.base(t.element).name
	for _, element := range elements {
		if len(dst) > 1 {
			dst = append(dst, t.delimiter...)
		}
		if element[0] == '[' && name != "json" && name != "jsonb" {
			var err error
			if dst, err = s.appendArray(bytes.TrimSuffix(dst, []byte(t.delimiter)), t, element); err != nil {
				return dst, err
			}
			continue
		}
		text, null, err := s.input(t.element, element)
		if err != nil {
			return dst, err
		}
		if null {
			dst = append(dst, "NULL"...)
			continue
		}
		dst = append(dst, '"')
		dst = append(dst, arrayEscapes.Replace(text)...)
		dst = append(dst, '"')
	}
	return dst, nil
}

var arrayEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
