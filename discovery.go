package main

// discovery.go owns what the catalog says: which tables there are, their columns, keys, partitions and membership in the
// publication, and the data types they use.
//
// Invariants: the number of queries does not grow with the number of tables; results come in a fixed order; a key is
// only what the server guarantees to be unique and not null for every row at every moment.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// excludedSchemas hold the server's and its extensions' own tables. Those of excludedCatalogs are not even reported as
// left out: nobody looks for them.
var (
	excludedCatalogs = []string{"pg_catalog", "information_schema"}
	excludedSchemas  = []string{"pg_internal", "catalog_history", "cron", "pglogical"}
)

// reservedNames are tables that the platform's materializations keep in a database; publishedAtColumn marks the tables
// they write. Capturing those would feed a capture its own output.
var reservedNames = []string{"flow_materializations_v2", "flow_checkpoints_v1"}

const publishedAtColumn = "flow_published_at"

// The reasons why a table is left out of discovery.
const (
	leftOutView         = "view"
	leftOutMaterialized = "materialized view"
	leftOutForeign      = "foreign table"
	leftOutUnlogged     = "unlogged table"
	leftOutTemporary    = "temporary table"
	leftOutSystem       = "system schema"
	leftOutSchema       = "schema excluded by discoveryFilters"
	leftOutPattern      = "no match in discoveryFilters.table_patterns"
	leftOutUnpublished  = "not in the publication"
	leftOutByLeaves     = "partitioned table published as its partitions (publish_via_partition_root is off)"
	leftOutByRoot       = "partition published as its root (publish_via_partition_root is on)"
	leftOutWatermarks   = "watermarks table of this capture"
	leftOutReserved     = "name reserved by the platform"
	leftOutName         = "table whose name is no text in the database's encoding (rename it to capture it)"
	leftOutPublishedAt  = "written by a materialization (has a column " + publishedAtColumn + ")"
)

// show is the name for people, its bytes that are no text in hex.
func (t tableName) show() string {
	if t.isText() {
		return t.String()
	}
	return strconv.Quote(t.String())
}

func (t tableName) compare(o tableName) int {
	return cmp.Or(strings.Compare(t.schema, o.schema), strings.Compare(t.name, o.name))
}

// table is what the catalog says of one captured or capturable table.
type table struct {
	tableName
	oid             uint32
	kind            byte // relkind: r, p (and others for bound names that are no tables)
	persistence     byte // relpersistence
	isPartition     bool
	columns         []column   // attnum order, without dropped ones
	primaryKey      []string   // key columns in index order; nil without a usable primary key
	uniqueKey       []string   // of the usable unique index with the smallest name, when there is no primary key
	keyTies         bool       // the order of the columns takes rows for equal that the key tells apart
	deferrableKeys  [][]string // of unique indexes checked at commit
	identity        byte       // relreplident
	identityColumns []string   // columns of the replica identity: d and i
	rowSecurity     bool
	comment         string
	reltuples       float64     // estimated rows including leaves; -1 unknown
	published       bool        // listed by pg_publication_tables
	publishedCols   []string    // columns the publication sends, in attnum order; nil: all that are not generated
	rowFilter       string      // row filter of the publication, SQL, or ""
	partialOld      bool        // some leaf's replica identity is not FULL
	leaves          []leaf      // the relations that hold rows: itself, its leaf partitions, or (inheritance) only itself
	partitions      []partition // of a partitioned table: all that are below it, parents first
	children        []child     // by inheritance, at any depth, in byte order of their names
	// shape tells apart all that a chunk's query is made from, and sight which of its rows our role sees (backfill_sight.go); both only
	// from loadTables.
	shape, sight string
}

// child is a table that inherits from another and is no partition of it: a SELECT of that one shows its rows, which are not its.
type child struct {
	tableName
	oid  uint32
	kind byte // relkind
}

type leaf struct {
	tableName
	oid         uint32
	relfilenode uint32
	toast       uint32 // the OID of its TOAST table, or noToast
	identity    byte
}

// partition is a relation below a partitioned table, which may be partitioned itself.
type partition struct {
	tableName
	oid, parent uint32
	kind        byte   // relkind
	relfilenode uint32 // 0 for one that holds no rows itself
	toast       uint32 // the OID of its TOAST table, or noToast
	attached    uint32 // the transaction that made it a partition of its parent (pg_inherits.xmin)
}

type column struct {
	attnum    int16
	name      string
	typeOID   uint32
	typmod    int32
	notNull   bool   // attnotnull, or a domain that is NOT NULL
	generated byte   // 0, 's' stored, 'v' virtual
	byteOrder bool   // its collation sorts as bytes do, or it has none
	collation string // quoted, schema-qualified name when not the default of the type, or of a domain's base type, else ""
	comment   string
}

// bare reports whether the server would reject updates and deletes of the table's rows in a publication, as far as its own identity and
// that of its partitions of now and later tell (discovery_identity.go has all of it).
func (t *table) bare() bool {
	if t.kind == 'p' {
		return t.primaryKey == nil || slices.ContainsFunc(t.leaves, func(l leaf) bool { return l.identity == 'n' })
	}
	return t.identity != 'f' && len(t.identityColumns) == 0
}

// column returns the column of that exact name, or nil.
func (t *table) column(name string) *column {
	for i := range t.columns {
		if t.columns[i].name == name {
			return &t.columns[i]
		}
	}
	return nil
}

// sameAs tells whether the table is captured the same way: columns, keys, identity and what the publication sends of it.
func (t *table) sameAs(o *table) bool {
	return t.kind == o.kind && t.identity == o.identity && t.rowFilter == o.rowFilter && slices.Equal(t.columns, o.columns) &&
		slices.Equal(t.primaryKey, o.primaryKey) && slices.Equal(t.uniqueKey, o.uniqueKey) && t.keyTies == o.keyTies &&
		slices.Equal(t.publishedCols, o.publishedCols) && (t.publishedCols == nil) == (o.publishedCols == nil) &&
		slices.EqualFunc(t.deferrableKeys, o.deferrableKeys, slices.Equal[[]string])
}

// sends tells whether the publication sends c's values: a generated column, or one outside of its column list, is
// absent from the stream, so the backfill leaves it out too.
func (t *table) sends(c *column) bool {
	if t.publishedCols == nil {
		return c.generated == 0
	}
	return slices.Contains(t.publishedCols, c.name)
}

// captures tells whether c appears in documents: what the publication sends and a property can be named after.
func (t *table) captures(c *column) bool { return namesProperty(c.name) && t.sends(c) }

// columnsWarning tells of the columns that no property can be named after, "" when there is none.
func (t *table) columnsWarning() string {
	var reasons []string
	for i := range t.columns {
		switch name := t.columns[i].name; {
		case !t.sends(&t.columns[i]) || namesProperty(name):
		case name == metaColumn:
			reasons = append(reasons, fmt.Sprintf("column %q of %s is left out: documents have a property of that name", name, t.tableName))
		default:
			reasons = append(reasons, fmt.Sprintf("column %q of %s is left out: its name is no text in the database's encoding. Rename it "+
				"to capture it", name, t.tableName))
		}
	}
	return strings.Join(reasons, "; ")
}

// listTables returns the tables that discovery offers, in byte order of (schema, name), and why others were left out.
// Without the publication it offers what could be added to one. REQUIRES: conn is in no transaction.
func listTables(ctx context.Context, conn *pgx.Conn, s *settings) (tables []*table, leftOut map[string][]tableName, err error) {
	leftOut = map[string][]tableName{}
	err = inCatalog(ctx, conn, func(c *catalog) error {
		offered, err := c.listClasses(s)
		if err != nil {
			return err
		}
		publication, err := c.loadPublication(s.publication)
		if err != nil {
			return err
		}
		offered = slices.DeleteFunc(offered, func(t *table) bool {
			reason := whyLeftOut(t, s, publication)
			if reason != "" {
				leftOut[reason] = append(leftOut[reason], t.tableName)
			}
			return reason != ""
		})
		if err := c.loadDetails(offered, publication); err != nil {
			return err
		}
		tables = slices.DeleteFunc(offered, func(t *table) bool {
			if t.column(publishedAtColumn) == nil {
				return false
			}
			leftOut[leftOutPublishedAt] = append(leftOut[leftOutPublishedAt], t.tableName)
			return true
		})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("discover tables: %w", err)
	}
	return tables, leftOut, nil
}

// listSchemas returns the names of all schemas.
func listSchemas(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `SELECT nspname::text FROM pg_namespace WHERE nspname <> 'pg_toast' ORDER BY nspname::text COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("list the schemas: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// idleFilters tells of entries of discoveryFilters that nothing fits, each with what may have been meant.
func idleFilters(s *settings, schemas []string, tables []*table, leftOut map[string][]tableName) []string {
	var warnings []string
	for _, list := range []struct {
		property string
		names    []string
	}{{"include_schemas", s.includeSchemas}, {"exclude_schemas", s.excludeSchemas}} {
		for _, name := range list.names {
			if slices.Contains(schemas, name) {
				continue
			}
			warning := fmt.Sprintf("discoveryFilters.%s has %q, and there is no schema of that name", list.property, name)
			if i := slices.IndexFunc(schemas, func(schema string) bool { return strings.EqualFold(schema, name) }); i >= 0 {
				warning += fmt.Sprintf(": did you mean %q? Names are taken in exact case", schemas[i])
			}
			warnings = append(warnings, warning)
		}
	}
	if len(s.tablePatterns) == 0 {
		return warnings
	}
	var names []tableName
	for _, t := range tables {
		names = append(names, t.tableName)
	}
	for _, left := range leftOut {
		names = append(names, left...)
	}
	for i, pattern := range s.tablePatterns {
		if slices.ContainsFunc(names, pattern.matches) {
			continue
		}
		warning := fmt.Sprintf("discoveryFilters.table_patterns has %q, which fits no table", s.tableGlobs[i])
		// \ is the same in both cases, and so are the other marks.
		if lower, err := compileTablePattern(strings.ToLower(s.tableGlobs[i])); err == nil {
			fits := func(t tableName) bool {
				return lower.matches(tableName{strings.ToLower(t.schema), strings.ToLower(t.name)})
			}
			if i := slices.IndexFunc(names, fits); i >= 0 {
				warning += fmt.Sprintf(": did you mean %s? Names are taken in exact case", names[i].show())
			}
		}
		warnings = append(warnings, warning)
	}
	return warnings
}

// whyLeftOut returns the reason why discovery does not offer a table, or "".
func whyLeftOut(t *table, s *settings, publication *publication) string {
	switch t.kind {
	case 'v':
		return leftOutView
	case 'm':
		return leftOutMaterialized
	case 'f':
		return leftOutForeign
	}
	matches := func(p tablePattern) bool { return p.matches(t.tableName) }
	switch {
	case slices.Contains(excludedSchemas, t.schema):
		return leftOutSystem
	case slices.Contains(s.excludeSchemas, t.schema):
		return leftOutSchema
	case t.persistence == 't':
		return leftOutTemporary
	case t.persistence != 'p':
		return leftOutUnlogged
	case len(s.tablePatterns) > 0 && !slices.ContainsFunc(s.tablePatterns, matches):
		return leftOutPattern
	case !t.isText():
		return leftOutName
	case t.tableName == s.watermarks:
		return leftOutWatermarks
	case slices.Contains(reservedNames, t.name):
		return leftOutReserved
	case publication == nil || s.discoverUnpublished || publication.members[t.tableName] != nil:
		return ""
	case t.kind == 'p' && !publication.viaRoot:
		return leftOutByLeaves
	case t.isPartition && publication.viaRoot:
		return leftOutByRoot
	}
	return leftOutUnpublished
}

// loadTables returns the named tables with all detail; missing ones are absent from the result. A name may turn out to
// be a view or another relation: kind tells. REQUIRES: conn is in no transaction.
func loadTables(ctx context.Context, conn *pgx.Conn, s *settings, names []tableName) (map[tableName]*table, error) {
	result := make(map[tableName]*table, len(names))
	err := inCatalog(ctx, conn, func(c *catalog) error {
		found, err := c.findClasses(names)
		if err != nil {
			return err
		}
		publication, err := c.loadPublication(s.publication)
		if err != nil {
			return err
		}
		for _, t := range found {
			result[t.tableName] = t
		}
		if err := c.loadDetails(found, publication); err != nil {
			return err
		}
		return c.loadShapes(found, s.publication)
	})
	if err != nil {
		return nil, fmt.Errorf("read what the catalog says of the captured tables: %w", err)
	}
	return result, nil
}

// catalog reads pg_catalog in one transaction, so that all queries see one state of it. The number of queries does not
// depend on the number of tables.
type catalog struct {
	ctx   context.Context
	tx    pgx.Tx
	major int // of the server's version
}

func inCatalog(ctx context.Context, conn *pgx.Conn, f func(*catalog) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		return f(&catalog{ctx, tx, majorVersion(conn)})
	})
}

// majorVersion is the first number of the version that the server reported at login; 10, the oldest we support, when
// it is not a number.
func majorVersion(conn *pgx.Conn) int {
	text := conn.PgConn().ParameterStatus("server_version")
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	if n, err := strconv.Atoi(text[:end]); err == nil {
		return n
	}
	return 10
}

// since returns sql on servers of that major version or newer, else otherwise: for columns that came later.
func (c *catalog) since(major int, sql, otherwise string) string {
	if c.major >= major {
		return sql
	}
	return otherwise
}

// each runs a query and calls row for each of its rows, with dest scanned.
func (c *catalog) each(sql string, args []any, dest []any, row func() error) error {
	rows, err := c.tx.Query(c.ctx, sql, args...)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, dest, row)
	return err
}

const sqlClasses = `
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relispartition, c.relreplident::text,
       c.relrowsecurity, c.reltuples, c.relpages, c.relfilenode, greatest(c.reltoastrelid, 1), coalesce(d.description, '')
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
`

// listClasses returns what could be a table to capture in the schemas asked for: no partitions, or only those.
func (c *catalog) listClasses(s *settings) ([]*table, error) {
	const sqlListClasses = sqlClasses + `
 WHERE c.relkind::text = ANY ($1) AND NOT n.nspname = ANY ($2)
   AND (cardinality($3::text[]) = 0 OR n.nspname = ANY ($3::text[])) AND ($4 OR NOT c.relispartition)`
	kinds := []string{"r", "p", "v", "m", "f"}
	if s.captureAsPartitions {
		kinds = []string{"r", "v", "m", "f"}
	}
	include := s.includeSchemas
	if include == nil {
		include = []string{}
	}
	return c.classes(sqlListClasses, kinds, excludedCatalogs, include, s.captureAsPartitions)
}

// findClasses returns the relations of exactly these names, whatever their kind.
func (c *catalog) findClasses(names []tableName) ([]*table, error) {
	// The cast cuts a name that is too long, so what comes back is compared with what was asked for.
	const sqlFindClasses = sqlClasses + `
  JOIN unnest($1::text[], $2::text[]) AS wanted(schema, name)
    ON n.nspname = wanted.schema::name AND c.relname = wanted.name::name`
	schemas, relations := make([]string, len(names)), make([]string, len(names))
	wanted := make(map[tableName]bool, len(names))
	for i, name := range names {
		schemas[i], relations[i], wanted[name] = name.schema, name.name, true
	}
	found, err := c.classes(sqlFindClasses, schemas, relations)
	found = slices.DeleteFunc(found, func(t *table) bool { return !wanted[t.tableName] })
	return slices.CompactFunc(found, func(a, b *table) bool { return a.oid == b.oid }), err
}

// classes returns the tables of a query over sqlClasses, in byte order of their names.
func (c *catalog) classes(sql string, args ...any) ([]*table, error) {
	var tables []*table
	var t table
	var kind, persistence, identity string
	var filenode, toast uint32
	var pages int64
	err := c.each(sql, args, []any{
		&t.oid, &t.schema, &t.name, &kind, &persistence, &t.isPartition, &identity, &t.rowSecurity,
		&t.reltuples, &pages, &filenode, &toast, &t.comment,
	}, func() error {
		found := t
		found.kind, found.persistence, found.identity = kind[0], persistence[0], identity[0]
		found.reltuples = estimatedRows(t.reltuples, pages)
		if found.kind != 'p' {
			found.leaves = []leaf{{tableName: t.tableName, oid: t.oid, relfilenode: filenode, toast: toast, identity: identity[0]}}
		}
		tables = append(tables, &found)
		return nil
	})
	slices.SortFunc(tables, func(a, b *table) int { return a.compare(b.tableName) })
	return tables, err
}

// estimatedRows is pg_class.reltuples, or -1 for a table never analysed, which before version 14 shows as no rows in no
// pages.
func estimatedRows(reltuples float64, pages int64) float64 {
	if reltuples < 0 || reltuples == 0 && pages == 0 {
		return -1
	}
	return reltuples
}

// publication is what a publication sends.
type publication struct {
	viaRoot bool // changes of partitions are published as those of the root
	members map[tableName]*member
}

type member struct {
	columns   []string // nil: not told
	rowFilter string
}

// loadPublication returns the publication's members, or nil if there is no such publication.
func (c *catalog) loadPublication(name string) (*publication, error) {
	sqlPublication := `
SELECT t.schemaname, t.tablename, t.attnames::text, coalesce(t.rowfilter, ''), ` + c.since(13, `p.pubviaroot`, `false`) + `
  FROM pg_publication p
  LEFT JOIN (` + publishedTables(c.major, "$1") + `) t ON true
 WHERE p.pubname = $1`
	var result *publication
	var schema, table, columns *string
	var rowFilter string
	var viaRoot bool
	err := c.each(sqlPublication, []any{name}, []any{&schema, &table, &columns, &rowFilter, &viaRoot}, func() error {
		if result == nil {
			result = &publication{viaRoot: viaRoot, members: map[tableName]*member{}}
		}
		if schema != nil && table != nil {
			result.members[tableName{*schema, *table}] = &member{columns: arrayOfNames(columns), rowFilter: rowFilter}
		}
		return nil
	})
	return result, err
}

// arrayOfNames reads the text of an array of names, nil for NULL. The driver would change what is no UTF-8 in them.
func arrayOfNames(text *string) []string {
	if text == nil {
		return nil
	}
	names := []string{}
	rest := strings.TrimSuffix(strings.TrimPrefix(*text, "{"), "}")
	for rest != "" {
		var name []byte
		quoted := rest[0] == '"'
		at := 0
		if quoted {
			at = 1
		}
		for at < len(rest) && rest[at] != '"' && (quoted || rest[at] != ',') {
			if rest[at] == '\\' && at+1 < len(rest) {
				at++
			}
			name = append(name, rest[at])
			at++
		}
		if quoted {
			at++
		}
		names = append(names, string(name))
		rest = rest[min(at+1, len(rest)):] // behind the comma
	}
	return names
}

// loadDetails fills in columns, keys, replica identity, membership and leaves.
func (c *catalog) loadDetails(tables []*table, publication *publication) error {
	byOID := make(map[uint32]*table, len(tables))
	oids := make([]uint32, 0, len(tables))
	for _, t := range tables {
		byOID[t.oid] = t
		oids = append(oids, t.oid)
	}
	if err := c.loadColumns(byOID, oids); err != nil {
		return fmt.Errorf("columns: %w", err)
	}
	for _, t := range tables {
		if publication != nil {
			t.join(publication.members[t.tableName], c.major)
		}
	}
	if err := c.loadKeys(byOID, oids); err != nil {
		return fmt.Errorf("indexes: %w", err)
	}
	if err := c.loadLeaves(byOID, tables); err != nil {
		return fmt.Errorf("partitions: %w", err)
	}
	if err := c.loadChildren(byOID, oids); err != nil {
		return fmt.Errorf("inheritance: %w", err)
	}
	return nil
}

// join notes that t is the member m of the publication, nil for none, on a server of that major version.
func (t *table) join(m *member, major int) {
	if m == nil {
		return
	}
	t.published, t.rowFilter = true, m.rowFilter
	if m.columns == nil {
		return
	}
	// The server lists all columns where none were chosen; version 15 also the generated ones, which it does not send.
	var sent []string
	var chosen bool
	for _, c := range t.columns {
		listed := slices.Contains(m.columns, c.name) && (c.generated == 0 || major >= 18)
		if listed {
			sent = append(sent, c.name)
		}
		chosen = chosen || listed != (c.generated == 0)
	}
	if chosen {
		t.publishedCols = sent
	}
}

// loadColumns reads columns in attnum order. A domain's NOT NULL may stand at any of the domains it is made of. A
// NOT NULL that was not validated (18) does not hold for older rows.
func (c *catalog) loadColumns(byOID map[uint32]*table, oids []uint32) error {
	sqlColumns := `
WITH RECURSIVE not_null(oid) AS (
  SELECT t.oid FROM pg_type t WHERE t.typtype = 'd' AND t.typnotnull
  UNION
  SELECT t.oid FROM not_null n JOIN pg_type t ON t.typbasetype = n.oid WHERE t.typtype = 'd'
)
SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, ` +
		c.since(12, `a.attgenerated::text`, `''`) + `, a.attnotnull` +
		c.since(18, ` AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid AND k.contype = 'n'
         AND NOT k.convalidated AND k.conkey[1] = a.attnum)`, ``) + `
       OR a.atttypid IN (SELECT oid FROM not_null),
       CASE
         WHEN a.attcollation = 0 THEN true
         WHEN l.collprovider = 'd' THEN ` + c.since(15, `d.datlocprovider = 'b' OR d.datlocprovider = 'c' AND `, ``) +
		`d.datcollate IN ('C', 'POSIX')
         WHEN l.collprovider = 'b' THEN true
         ELSE l.collprovider = 'c' AND l.collcollate IN ('C', 'POSIX')
       END,
       CASE WHEN a.attcollation <> t.typcollation OR t.typtype = 'd' AND a.attcollation <> 0 THEN quote_ident(ln.nspname) || '.' || quote_ident(l.collname) ELSE '' END,
       coalesce(comment.description, '')
  FROM unnest($1::oid[]) AS wanted(oid)
  JOIN pg_attribute a ON a.attrelid = wanted.oid
  JOIN pg_type t ON t.oid = a.atttypid
  JOIN pg_database d ON d.datname = current_database()
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
  LEFT JOIN pg_description comment ON comment.objoid = a.attrelid AND comment.classoid = 'pg_class'::regclass
        AND comment.objsubid = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum`
	var oid uint32
	var col column
	var generated string
	return c.each(sqlColumns, []any{oidArray(oids)}, []any{
		&oid, &col.attnum, &col.name, &col.typeOID, &col.typmod, &generated, &col.notNull, &col.byteOrder, &col.collation,
		&col.comment,
	}, func() error {
		col.generated = 0
		if generated != "" {
			col.generated = generated[0]
		}
		t := byOID[oid]
		t.columns = append(t.columns, col)
		return nil
	})
}

// index is what decides whether a unique index can be a key.
type index struct {
	name      string
	primary   bool
	identity  bool // chosen by ALTER TABLE … REPLICA IDENTITY USING INDEX
	usable    bool // valid, checked at once, for all rows, without expressions
	columns   []string
	finer     bool // it tells apart what ORDER BY takes for equal
	isCapture bool // all its columns are in documents
	notNull   bool
}

// loadKeys reads the unique indexes and decides on keys and replica identity. That of a partitioned table is valid only once each
// of its partitions has its own, so it is judged by the same rules; but one that is checked at commit in some partition, which
// the server lets an immediate one have below it, is a key that rows of that partition may share for a moment. An index is finer than ORDER BY where it has
// another collation than a column whose own is not deterministic, or an operator class with an equality of its own, such as
// record_image_ops; 403 is the access method btree, 3 its strategy of equality.
func (c *catalog) loadKeys(byOID map[uint32]*table, oids []uint32) error {
	sqlIndexes := `
SELECT i.indrelid, ic.relname, i.indisprimary, i.indisreplident,
       i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL, i.indimmediate,
       CASE WHEN ic.relkind = 'I' THEN EXISTS (
           WITH RECURSIVE below(oid) AS (
             SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = i.indexrelid
             UNION ALL
             SELECT h.inhrelid FROM below JOIN pg_inherits h ON h.inhparent = below.oid
           )
           SELECT FROM below JOIN pg_index b ON b.indexrelid = below.oid WHERE NOT b.indimmediate)
         ELSE false END,
       i.indkey::text, ` + c.since(11, `i.indnkeyatts`, `i.indnatts`) + `,
       EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[]) AS k (attnum, collated, class)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                 LEFT JOIN pg_collation l ON l.oid = a.attcollation AND a.attcollation <> k.collated
                 LEFT JOIN pg_opclass o ON o.oid = k.class AND NOT o.opcdefault AND o.opcmethod = 403
                WHERE ` + c.since(12, `NOT l.collisdeterministic OR `, ``) + `EXISTS (SELECT FROM pg_amop m
                      WHERE m.amopfamily = o.opcfamily AND m.amopstrategy = 3 AND m.amopopr NOT IN (
                        SELECT d.amopopr FROM pg_opclass s JOIN pg_amop d ON d.amopfamily = s.opcfamily AND d.amopstrategy = 3
                         WHERE s.opcmethod = 403 AND s.opcdefault)))
  FROM unnest($1::oid[]) AS wanted(oid)
  JOIN pg_index i ON i.indrelid = wanted.oid
  JOIN pg_class ic ON ic.oid = i.indexrelid
 WHERE i.indisunique`
	indexes := map[*table][]index{}
	var oid uint32
	var in index
	var attnums string
	var keyColumns int
	var immediate, deferredBelow bool
	err := c.each(sqlIndexes, []any{oidArray(oids)}, []any{
		&oid, &in.name, &in.primary, &in.identity, &in.usable, &immediate, &deferredBelow, &attnums, &keyColumns, &in.finer,
	}, func() error {
		t, found := byOID[oid], in
		if err := found.resolve(t, attnums, keyColumns); err != nil {
			return err
		}
		if found.usable && (!immediate || deferredBelow) {
			t.deferrableKeys = append(t.deferrableKeys, found.columns)
		}
		found.usable = found.usable && immediate
		indexes[t] = append(indexes[t], found)
		return nil
	})
	for t, list := range indexes {
		slices.SortFunc(list, func(a, b index) int { return strings.Compare(a.name, b.name) })
		t.chooseKeys(list)
	}
	return err
}

// resolve names the index's key columns, those before INCLUDE, given pg_index.indkey.
func (in *index) resolve(t *table, attnums string, keyColumns int) error {
	in.columns, in.isCapture, in.notNull = nil, true, true
	fields := strings.Fields(attnums)
	if len(fields) < keyColumns {
		return fmt.Errorf("index %s of %s: %d key columns but indkey is %q", in.name, t.tableName, keyColumns, attnums)
	}
	for _, field := range fields[:keyColumns] {
		n, err := strconv.ParseInt(field, 10, 16)
		if err != nil {
			return fmt.Errorf("index %s of %s: indkey %q: %w", in.name, t.tableName, attnums, err)
		}
		at := slices.IndexFunc(t.columns, func(c column) bool { return c.attnum == int16(n) })
		if at < 0 { // an expression, or a system column
			in.usable = false
			return nil
		}
		c := &t.columns[at]
		in.columns = append(in.columns, c.name)
		in.isCapture = in.isCapture && t.captures(c)
		in.notNull = in.notNull && c.notNull
	}
	return nil
}

// chooseKeys sets the keys and the identity's columns, given the unique indexes in order of their names. A primary key
// with a column that is not captured leaves the table without a key, even if there is another index, as it was for the
// incumbent's captures.
func (t *table) chooseKeys(indexes []index) {
	var withoutKey bool
	for _, in := range indexes {
		if in.usable && (in.identity && t.identity == 'i' || in.primary && t.identity == 'd') {
			t.identityColumns = in.columns
		}
		if !in.primary {
			continue
		}
		if in.usable && in.isCapture {
			t.primaryKey, t.keyTies = in.columns, in.finer
		}
		withoutKey = in.usable && !in.isCapture
	}
	if t.primaryKey != nil || withoutKey || t.kind != 'r' && t.kind != 'p' {
		return
	}
	for _, in := range indexes {
		if in.usable && in.notNull && in.isCapture {
			t.uniqueKey, t.keyTies = in.columns, in.finer
			return
		}
	}
}

// loadLeaves fills in the partitions of partitioned tables, the leaves in byte order of their names, and the estimated rows.
func (c *catalog) loadLeaves(byOID map[uint32]*table, tables []*table) error {
	sqlLeaves := `
WITH RECURSIVE tree(root, parent, oid, attached, depth) AS (
  SELECT roots.oid, roots.oid, roots.oid, 0::bigint, 0 FROM unnest($1::oid[]) AS roots(oid)
  UNION ALL
  SELECT tree.root, tree.oid, i.inhrelid, i.xmin::text::bigint, tree.depth + 1
    FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid` + c.since(14, ` AND NOT i.inhdetachpending`, ``) + `
)
SELECT tree.root, tree.parent, n.nspname, c.relname, c.oid, c.relkind::text, c.relfilenode, greatest(c.reltoastrelid, 1), tree.attached,
       c.relreplident::text, c.reltuples, c.relpages
  FROM tree
  JOIN pg_class c ON c.oid = tree.oid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE tree.depth > 0
 ORDER BY tree.depth`
	var roots []uint32
	for _, t := range tables {
		if t.kind == 'p' {
			roots = append(roots, t.oid)
			t.reltuples = 0
		}
	}
	if len(roots) == 0 {
		return nil
	}
	var root uint32
	var p partition
	var kind, identity string
	var attached, pages int64
	var reltuples float64
	err := c.each(sqlLeaves, []any{oidArray(roots)}, []any{
		&root, &p.parent, &p.schema, &p.name, &p.oid, &kind, &p.relfilenode, &p.toast, &attached, &identity, &reltuples, &pages,
	}, func() error {
		t := byOID[root]
		p.kind, p.attached = kind[0], uint32(attached)
		t.partitions = append(t.partitions, p)
		if p.kind != 'r' {
			return nil
		}
		t.leaves = append(t.leaves, leaf{tableName: p.tableName, oid: p.oid, relfilenode: p.relfilenode, toast: p.toast, identity: identity[0]})
		t.partialOld = t.partialOld || identity[0] != 'f'
		if rows := estimatedRows(reltuples, pages); rows < 0 || t.reltuples < 0 {
			t.reltuples = -1
		} else {
			t.reltuples += rows
		}
		return nil
	})
	for _, oid := range roots {
		slices.SortFunc(byOID[oid].leaves, func(a, b leaf) int { return a.compare(b.tableName) })
	}
	return err
}

// loadChildren fills in the children by inheritance. Temporary ones are their own session's affair.
func (c *catalog) loadChildren(byOID map[uint32]*table, oids []uint32) error {
	const sqlChildren = `
WITH RECURSIVE tree(root, oid) AS (
  SELECT p.oid, i.inhrelid
    FROM unnest($1::oid[]) AS wanted(oid)
    JOIN pg_class p ON p.oid = wanted.oid AND p.relkind = 'r' AND p.relhassubclass
    JOIN pg_inherits i ON i.inhparent = p.oid
  UNION
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)
SELECT tree.root, n.nspname, c.relname, c.oid, c.relkind::text
  FROM tree
  JOIN pg_class c ON c.oid = tree.oid AND c.relpersistence <> 't'
  JOIN pg_namespace n ON n.oid = c.relnamespace`
	var root uint32
	var found child
	var kind string
	err := c.each(sqlChildren, []any{oidArray(oids)}, []any{&root, &found.schema, &found.name, &found.oid, &kind}, func() error {
		found.kind = kind[0]
		byOID[root].children = append(byOID[root].children, found)
		return nil
	})
	for _, t := range byOID {
		slices.SortFunc(t.children, func(a, b child) int { return a.compare(b.tableName) })
	}
	return err
}

// mostChildren bounds the children named in a warning.
const mostChildren = 3

// childrenWarning says that a table has rows below it that a capture of it does not have, unless each child is bound; "" for
// none.
func (t *table) childrenWarning(bound func(tableName) bool) string {
	var names []string
	count, foreign := 0, ""
	for _, child := range t.children {
		if bound(child.tableName) {
			continue
		}
		if count++; count <= mostChildren {
			names = append(names, child.show())
		}
		if child.kind == 'f' {
			foreign = "; those of foreign tables cannot be captured"
		}
	}
	if count == 0 {
		return ""
	}
	if more := count - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	tables := "tables inherit"
	if count == 1 {
		tables = "table inherits"
	}
	return fmt.Sprintf("%d %s from %s (%s) without being a partition of it: a query of %s shows their rows too, but they are captured "+
		"only by bindings of their own%s", count, tables, t.tableName, strings.Join(names, ", "), t.tableName, foreign)
}

// loadTypes adds to the catalog every type that the OIDs need and it does not know yet, in one query. A type that no
// longer exists is not added.
func loadTypes(ctx context.Context, conn *pgx.Conn, types *typeCatalog, oids []uint32) error {
	var unknown []uint32
	for _, oid := range oids {
		unknown = types.unknown(unknown, oid)
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	unknown = slices.Compact(unknown)

	// A true array type is one that its element type names as such; int2vector and oidvector are not.
	const sqlElement = `coalesce((SELECT e.oid FROM pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid), 0::oid)`
	sqlSubtype := `coalesce((SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid), 0::oid)`
	if majorVersion(conn) >= 14 {
		sqlSubtype = `coalesce((SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid),
         (SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid), 0::oid)`
	}
	sqlTypes := `
WITH RECURSIVE needed(oid) AS (
  SELECT unnest($1::oid[])
  UNION
  SELECT part.oid
    FROM needed JOIN pg_type t ON t.oid = needed.oid,
         LATERAL (VALUES (` + sqlElement + `), (t.typbasetype), (` + sqlSubtype + `)) AS part(oid)
   WHERE part.oid <> 0
)
SELECT t.oid, n.nspname, t.typname, t.typtype::text, t.typdelim::text, ` + sqlElement + `, t.typbasetype, t.typtypmod,
       ` + sqlSubtype + `, t.typnotnull
  FROM needed
  JOIN pg_type t ON t.oid = needed.oid
  JOIN pg_namespace n ON n.oid = t.typnamespace
 ORDER BY t.oid`
	var t dataType
	var kind, delimiter string
	rows, err := conn.Query(ctx, sqlTypes, oidArray(unknown))
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{
			&t.oid, &t.schema, &t.name, &kind, &delimiter, &t.element, &t.base, &t.baseMod, &t.subtype, &t.notNull,
		}, func() error {
			t.kind, t.delimiter = kind[0], delimiter[0]
			if types.lookup(t.oid) == nil {
				types.add(t)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read data types from the catalog: %w", err)
	}
	return nil
}

// publishedTables is a query for what pg_publication_tables tells of one publication, whose name is the given SQL
// expression: schemaname, tablename, attnames (NULL: all columns that are not generated) and rowfilter (NULL: none).
//
// From version 16 on that view opens every member that has no column list, and so waits for whoever holds a lock on one
// of them, such as a rewriting ALTER TABLE; the catalogs behind it do not. Of them, pg_get_expr alone takes the member's lock.
func publishedTables(major int, name string) string {
	switch {
	case major < 15:
		return `SELECT schemaname, tablename, NULL::name[] AS attnames, NULL::text AS rowfilter FROM pg_publication_tables
 WHERE pubname = ` + name
	case major < 16:
		return `SELECT schemaname, tablename, attnames, rowfilter FROM pg_publication_tables WHERE pubname = ` + name
	}
	generated := `NULL`
	if major >= 18 {
		generated = `CASE WHEN p.pubgencols = 's' THEN (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v') END`
	}
	// As pg_get_publication_tables does it: what was named, or its leaves; via the root, no partition of what was named. A
	// member's own columns and filter hold unless its schema is published.
	return `WITH RECURSIVE named AS MATERIALIZED (
  SELECT r.prrelid AS oid FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
   WHERE p.pubname = ` + name + `
  UNION
  SELECT c.oid FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
    JOIN pg_class c ON c.relnamespace = s.pnnspid AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
   WHERE p.pubname = ` + name + `
  UNION
  SELECT c.oid FROM pg_publication p JOIN pg_class c ON c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
   WHERE p.pubname = ` + name + ` AND p.puballtables
), tree (oid) AS (
  SELECT oid FROM named
  UNION
  SELECT i.inhrelid FROM tree JOIN pg_class c ON c.oid = tree.oid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = c.oid
)
SELECT n.nspname AS schemaname, c.relname AS tablename,
       CASE WHEN own.prattrs IS NOT NULL THEN (SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum = ANY (own.prattrs)) ELSE ` + generated + ` END AS attnames,
       pg_get_expr(own.prqual, own.prrelid) AS rowfilter
  FROM pg_publication p
  JOIN tree ON true
  JOIN pg_class c ON c.oid = tree.oid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_publication_rel own ON own.prpubid = p.oid AND own.prrelid = c.oid
        AND NOT EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)
 WHERE p.pubname = ` + name + ` AND CASE WHEN NOT p.pubviaroot THEN c.relkind <> 'p'
       ELSE c.oid IN (SELECT oid FROM named) AND NOT (c.relispartition AND EXISTS (
         SELECT FROM pg_partition_ancestors(c.oid) a JOIN named ON named.oid = a.relid WHERE a.relid <> c.oid)) END`
}

// loadShapes reads shape and sight of tables.
func (c *catalog) loadShapes(tables []*table, publication string) error {
	byOID := make(map[uint32]*table, len(tables))
	oids := make([]uint32, 0, len(tables))
	for _, t := range tables {
		byOID[t.oid] = t
		oids = append(oids, t.oid)
	}
	var oid uint32
	var shape, sight string
	return c.each("SELECT c.oid, "+shapeExpression(c.major, publication)+", "+sightExpression("c.oid")+
		" FROM unnest($1::oid[]) AS wanted(oid) JOIN pg_class c ON c.oid = wanted.oid",
		[]any{oidArray(oids)}, []any{&oid, &shape, &sight}, func() error {
			byOID[oid].shape, byOID[oid].sight = shape, sight
			return nil
		})
}

// SET UNLOGGED and SET LOGGED rewrite a table, and what changes between them is in no WAL. Like every ALTER TABLE that rewrites
// the rows they give the table another TOAST table, which VACUUM FULL, CLUSTER and TRUNCATE do not (cluster.c, swap_relation_files:
// by content or by links). Of a table that has none nothing tells them apart.

// noToast is the OID of the TOAST table of a table that has none: 0 stands for one that is not known. OIDs of users' tables are
// 16384 and more.
const noToast = 1

// mayHide reports whether a relation may have been unlogged between two looks, given its TOAST table then and now, and whether
// its rows have moved. REQUIRES: its columns are the same.
func mayHide(before, now uint32, moved bool) bool {
	return before != 0 && before != now || before == noToast && now == noToast && moved
}
