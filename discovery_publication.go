// discovery_publication.go owns what is published: the publication, the tables that must be in it, and whether what it publishes of
// them is what a capture needs. Invariants: only the publication itself and its members are ever changed; nothing that is done
// here makes a statement of an application fail, so no table is added, nor a publication made FOR ALL TABLES, where the server
// would then reject updates and deletes; and none is made to wait for longer than lockWait.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

func (p *publicationFacts) viaRoot() bool { return p != nil && p.ViaRoot != nil && *p.ViaRoot }

const sqlPublication = `SELECT (to_jsonb(p) || jsonb_build_object('owned', pg_has_role(p.pubowner, 'USAGE')))::text FROM pg_publication p WHERE pubname = $1`

func (c *checker) checkPublication(ctx context.Context) error {
	if err := c.readPublication(ctx); err != nil {
		return err
	}
	// With a publication its members are compared below, without one it is made of the tables that exist.
	if err := c.findTables(ctx); err != nil {
		return err
	}
	if c.publication == nil {
		return c.createPublication(ctx)
	}
	c.judgePublication()
	return nil
}

func (c *checker) readPublication(ctx context.Context) error {
	rows, err := c.conn.Query(ctx, sqlPublication, c.s.publication)
	if err != nil {
		return err
	}
	var text string
	c.publication = nil
	_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
		c.publication = new(publicationFacts)
		return json.Unmarshal([]byte(text), c.publication)
	})
	return err
}

// lacking tells which operations the publication of that name does not publish; "" when it publishes all that is captured.
func (p *publicationFacts) lacking(name string) string {
	var missing []string
	for _, operation := range []struct {
		name      string
		published bool
	}{{"insert", p.Insert}, {"update", p.Update}, {"delete", p.Delete}} {
		if !operation.published {
			missing = append(missing, operation.name)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	all := "insert, update, delete"
	if p.Truncate != nil {
		all += ", truncate"
	}
	return fmt.Sprintf("the publication %q does not publish %s. Run: ALTER PUBLICATION %s SET (publish = '%s');", name,
		strings.Join(missing, " and "), quoteIdent(name), all)
}

func (c *checker) judgePublication() {
	p, name := c.publication, quoteIdent(c.s.publication)
	if lacking := p.lacking(c.s.publication); lacking != "" {
		c.fault("%s", lacking)
	} else if p.Truncate != nil && !*p.Truncate {
		c.warn("the publication %q does not publish truncate, so that a TRUNCATE goes unnoticed. Run: ALTER PUBLICATION %s SET "+
			"(publish = 'insert, update, delete, truncate');", c.s.publication, name)
	}
}

// createPublication creates the publication for the watermarks table and the bound tables that exist and that come to no harm.
func (c *checker) createPublication(ctx context.Context) error {
	if err := c.loadHeld(ctx); err != nil {
		return err
	}
	var members []tableName
	for _, t := range c.wanted() {
		if f := c.found[t]; f.OID != 0 && f.notTable() == "" && c.harm(t) == "" {
			members = append(members, t)
		}
	}
	statement := func(members []tableName) string {
		return createPublicationStatement(c.db.version, c.s.publication, members)
	}
	if c.of == checkRunning {
		c.fault("the publication %q does not exist any more. Rename it back, or run: %s;", c.s.publication, statement(members))
		return nil
	}
	told := members // with what is made by then, if all that is told is run in turn
	if c.watermarksMissing {
		told = append([]tableName{c.s.watermarks}, members...)
	}
	if c.db.standby {
		c.fault("the publication %q does not exist. Run on the primary: %s;", c.s.publication, statement(told))
		return nil
	}
	failpoint("publication.before")
	err := c.write(ctx, statement(members[:min(len(members), memberBatch)]), lockAtOnce) // checkMembers adds the rest
	if sqlState(err) == codeLockTaken {
		err = c.write(ctx, statement(nil), lockWait)
	}
	if err != nil {
		if sqlState(err) == "" {
			return err
		}
		c.fault("the publication %q does not exist and could not be created: %s. Run as the owner of the tables, or as a "+
			"superuser: %s;", c.s.publication, serverReason(err), statement(told))
		return nil
	}
	failpoint("publication.after")
	if err := c.readPublication(ctx); err != nil {
		return err
	}
	return c.findTables(ctx)
}

const (
	// lockWait is how long a statement of ours waits for a lock. Whoever wants one that conflicts waits behind it meanwhile: of a
	// member that is made, DDL, VACUUM and CREATE INDEX, but no query and no change of rows. It is more than the second of
	// deadlock_timeout, after which an autovacuum gives way.
	lockWait = 3 * time.Second
	// lockAtOnce is for statements that hold many locks: what waits with locks in its hands may end in a deadlock, and the server
	// may choose the application's statement to be the one that fails.
	lockAtOnce = 10 * time.Millisecond
	// membersWait bounds the waits of one check.
	membersWait = 10 * time.Second
	// memberBatch is how many tables are added by one statement: no more than the locks that every transaction has room for
	// (max_locks_per_transaction, 64 by default), since others need that memory, too.
	memberBatch = 64
)

// lockWait is how long the checks wait for a lock. While a capture runs, whose stream stands still meanwhile, the next look is
// soon enough.
func (c *checker) lockWait() time.Duration {
	if c.of == checkRunning {
		return lockAtOnce
	}
	return lockWait
}

// write runs a statement that changes the database. It waits for a lock no longer than told, and for no synchronous standby.
func (c *checker) write(ctx context.Context, statement string, wait time.Duration) error {
	return pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT set_config('synchronous_commit', 'local', true), set_config('lock_timeout', $1, true)",
			strconv.FormatInt(wait.Milliseconds(), 10))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, statement)
		return err
	})
}

// mostCreated bounds the tables that a statement for a person lists; the capture adds others, or names them by themselves.
const mostCreated = 100

// createStatement is what a person runs to make the publication anew. Tables that would come to harm in it are named behind it.
func createStatement(db *database, tables []*table) string {
	var members, bare []tableName
	for _, t := range tables {
		switch {
		case len(members) == mostCreated:
		case t.bare():
			bare = append(bare, t.tableName)
		default:
			members = append(members, t.tableName)
		}
	}
	if !db.settings.readOnly {
		members = append([]tableName{db.settings.watermarks}, members...)
	}
	text := createPublicationStatement(db.version, db.settings.publication, members) + ";"
	if len(bare) > 0 {
		text += fmt.Sprintf(" It leaves out %s, whose updates and deletes the server would reject: a table without a replica identity is to be "+
			"given one first, or added if its rows are only ever inserted.", listed(bare))
	}
	return text
}

// createPublicationStatement makes a publication of tables.
func createPublicationStatement(version int, publication string, members []tableName) string {
	statement := "CREATE PUBLICATION " + quoteIdent(publication)
	if len(members) > 0 {
		statement += " FOR TABLE " + onlyTables(members)
	}
	if version >= 130000 {
		statement += " WITH (publish_via_partition_root = true)"
	}
	return statement
}

// onlyTables lists tables for a publication. Without ONLY the children of an inheritance parent would become members, and
// the server would reject their updates and deletes where they have no replica identity.
func onlyTables(tables []tableName) string {
	var b strings.Builder
	for i, t := range tables {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("ONLY " + quoteTable(t))
	}
	return b.String()
}

// wanted returns the tables that the publication must have, each once.
func (c *checker) wanted() []tableName {
	seen := make(map[tableName]bool, len(c.tables)+1)
	var wanted []tableName
	add := func(t tableName) {
		if !seen[t] {
			seen[t] = true
			wanted = append(wanted, t)
		}
	}
	if !c.s.readOnly {
		add(c.s.watermarks)
	}
	for _, r := range c.tables {
		add(r.table)
	}
	return wanted
}

// --- the tables

func (f *tableFacts) notTable() string {
	switch f.Kind {
	case "r", "p":
		switch f.Persistence {
		case "u":
			return "is unlogged: its changes are not written to the WAL. Run: ALTER TABLE " +
				quoteTable(tableName{f.Schema, f.Name}) + " SET LOGGED;"
		case "t":
			return "is a temporary table, which is not replicated"
		}
		return ""
	case "v":
		return "is a view: capture the tables that it reads"
	case "m":
		return "is a materialized view: capture the tables that it reads"
	case "f":
		return "is a foreign table: capture it on the server where it lives"
	case "S":
		return "is a sequence"
	case "i", "I":
		return "is an index"
	case "c":
		return "is a composite type"
	}
	return fmt.Sprintf("is a relation of kind %q", f.Kind)
}

// sqlTables finds the names in $1, a JSON array of [schema, name], and their membership in publication $2. The %s are the
// published tables and the expressions of the newer versions: whether a member's columns may be generated ones, the columns, a
// published ancestor, and what the member's entry restricts. The publication's
// own list counts too, since a root is among the published tables only where it is published as such.
const sqlTables = `
WITH published AS (%s)
SELECT (jsonb_build_object('schema', w.name ->> 0, 'name', w.name ->> 1, 'schema_oid', coalesce(n.oid::int8, 0),
	'oid', coalesce(c.oid::int8, 0), 'kind', c.relkind, 'persistence', c.relpersistence,
	'usage', has_schema_privilege(n.oid, 'USAGE'), 'select', has_any_column_privilege(c.oid, 'SELECT'),
	'row_security', CASE WHEN c.relrowsecurity THEN row_security_active(c.oid) END,
	'owned', pg_has_role(c.relowner, 'USAGE'),
	'primary_key', EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate),
	'published', p.tablename IS NOT NULL OR EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication b ON b.oid = r.prpubid
		WHERE b.pubname = $2::text::name AND r.prrelid = c.oid),
	'unreadable', CASE WHEN NOT has_table_privilege(c.oid, 'SELECT') THEN (
		SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
			AND (p.attnames IS NULL OR a.attname = ANY (p.attnames))
			AND (coalesce(to_jsonb(a) ->> 'attgenerated', '') = '' OR p.attnames IS NOT NULL AND %s)) END,
	'columns', %s, 'where', %s, 'ancestor', %s) || %s)::text
FROM jsonb_array_elements($1::text::jsonb) AS w (name)
LEFT JOIN pg_namespace n ON n.nspname = (w.name ->> 0)::name AND n.nspname::text = w.name ->> 0
LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = (w.name ->> 1)::name AND c.relname::text = w.name ->> 1
LEFT JOIN published p ON p.schemaname = n.nspname AND p.tablename = c.relname`

// sqlRestrictions tells what a table's own entry in the publication restricts, which counts unless its schema is published. A
// filter is stored as a tree, whose text has the columns' numbers.
const sqlRestrictions = `coalesce((SELECT jsonb_build_object('list', r.prattrs IS NOT NULL, 'filter', (SELECT jsonb_agg(DISTINCT a.attname)
		FROM regexp_matches(r.prqual::text, ':varattno (\d+)', 'g') AS v JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = v[1]::int))
	FROM pg_publication b JOIN pg_publication_rel r ON r.prpubid = b.oid
	WHERE b.pubname = $2::text::name AND r.prrelid = c.oid
		AND NOT EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = b.oid AND s.pnnspid = c.relnamespace)), '{}')`

const sqlAncestor = `(SELECT an.nspname || '.' || ac.relname FROM pg_partition_ancestors(c.oid) a (oid)
	JOIN pg_class ac ON ac.oid = a.oid AND ac.oid <> c.oid JOIN pg_namespace an ON an.oid = ac.relnamespace
	JOIN published ap ON ap.schemaname = an.nspname AND ap.tablename = ac.relname
	WHERE c.relispartition LIMIT 1)`

// rejecting tells why the server rejects updates and deletes of a relation with that replica identity though it has one (see
// check_pub_rf_and_column_list): the restrictions of the publication leave out what the identity needs. "" when it does not.
func (f *tableFacts) rejecting(r *replicaIdentity) string {
	x := r.index()
	switch {
	case r.identity != 'f' && x == nil:
		return "" // told as such
	case f.List && r.identity == 'f':
		return "has a column list, which the replica identity FULL does not allow"
	case f.List && slices.ContainsFunc(x.Columns, func(c string) bool { return !slices.Contains(f.Columns, c) }):
		return "has a column list that lacks columns of the replica identity (" + quoteIdents(x.Columns) + ")"
	case r.identity != 'f' && !x.covers(f.Filter):
		return "has a row filter over columns (" + quoteIdents(f.Filter) + ") that are not of the replica identity (" +
			quoteIdents(x.Columns) + ")"
	}
	return ""
}

func quoteIdents(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quoteIdent(name)
	}
	return strings.Join(quoted, ", ")
}

func (c *checker) findTables(ctx context.Context) error {
	wanted := c.wanted()
	names := make([][2]string, len(wanted))
	for i, t := range wanted {
		names[i] = [2]string{t.schema, t.name}
	}
	list, err := json.Marshal(names)
	if err != nil {
		return err
	}
	columns, where, ancestor, generated, restrictions := "NULL", "NULL", "NULL", "false", "'{}'"
	if c.db.version >= 150000 {
		columns, where, restrictions = "to_jsonb(p.attnames)", "p.rowfilter", sqlRestrictions
	}
	if c.db.version >= 130000 {
		ancestor = sqlAncestor
	}
	if c.db.version >= 180000 { // version 15 lists generated columns that it does not send
		generated = "true"
	}
	rows, err := c.conn.Query(ctx, fmt.Sprintf(sqlTables, publishedTables(c.db.version/10000, "$2::text::name"), generated, columns, where, ancestor,
		restrictions),
		string(list), c.s.publication)
	if err != nil {
		return err
	}
	c.found = make(map[tableName]*tableFacts, len(wanted))
	for _, t := range wanted {
		c.found[t] = &tableFacts{Schema: t.schema, Name: t.name}
	}
	var text string
	_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
		f := new(tableFacts)
		if err := json.Unmarshal([]byte(text), f); err != nil {
			return err
		}
		c.found[tableName{f.Schema, f.Name}] = f
		return nil
	})
	return err
}

// checkTables judges what was found of the bound tables.
func (c *checker) checkTables(ctx context.Context) error {
	if c.s.flags.skipTablePrerequisites || c.found == nil {
		return nil
	}
	for _, r := range c.tables {
		c.judgeTable(r, c.found[r.table])
	}
	return c.probePolicies(ctx)
}

// probePolicies reads of the tables whose rows row-level security decides about: policies may fail for our role.
func (c *checker) probePolicies(ctx context.Context) error {
	var tables []tableName
	var from []string
	for _, r := range c.tables {
		if f := c.found[r.table]; f.RowSecurity && f.Usage && f.Select && f.notTable() == "" {
			only := "ONLY "
			if f.Kind == "p" {
				only = ""
			}
			tables, from = append(tables, r.table), append(from, only+quoteTable(r.table))
		}
	}
	broken, err := probeSights(ctx, c.conn, from)
	if err != nil {
		return err
	}
	for i, t := range tables {
		if broken[i] != nil {
			c.tableFault(t, "table %s: row-level security is active on it, and the role %s cannot read it: %s. Run: ALTER ROLE %s BYPASSRLS;",
				t, quoteIdent(c.user()), serverReason(broken[i]), quoteIdent(c.user()))
		}
	}
	return nil
}

func (c *checker) judgeTable(r requirement, f *tableFacts) {
	t, user := r.table, quoteIdent(c.user())
	switch {
	case f.SchemaOID == 0:
		c.tableFault(t, "table %s: there is no schema %q. If it was dropped or renamed, remove the binding%s", t, t.schema, nameRemedy(t))
		return
	case f.OID == 0:
		c.tableFault(t, "table %s does not exist. If it was dropped or renamed, remove the binding%s", t, nameRemedy(t))
		return
	case f.notTable() != "":
		add := ""
		if p := c.publication; f.Persistence == "u" && !f.Published && (p == nil || !p.AllTables && !(p.Owned && f.Owned)) {
			add = " " + addStatement(c.s.publication, t) + ";"
		}
		c.tableFault(t, "%s %s%s", t, f.notTable(), add)
		return
	case !f.Usage:
		usage := c.usage(t.schema)
		c.tableFault(t, "the role %s may not use schema %q, which holds table %s. Run: %s", user, t.schema, t, usage)
		c.faults[len(c.faults)-1].usage = usage
	}
	if !f.Select {
		c.tableFault(t, "the role %s may not read table %s. Run: GRANT SELECT ON %s TO %s;", user, t, quoteTable(t), user)
	} else if len(f.Unreadable) > 0 {
		columns := quoteIdents(f.Unreadable)
		c.tableFault(t, "the role %s may not read the columns %s of table %s. Run: GRANT SELECT (%s) ON %s TO %s; or leave them out by a "+
			"column list of the publication", user, columns, t, columns, quoteTable(t), user)
	}
	if f.RowSecurity {
		c.warn("table %s: row-level security hides rows from the role %s, so that the backfill may lack rows whose changes are "+
			"captured. To see all, run: ALTER ROLE %s BYPASSRLS;", t, user, user)
	}
	if f.Kind == "p" && c.publication != nil && !c.publication.viaRoot() {
		if c.publication.ViaRoot == nil {
			c.tableFault(t, "table %s is partitioned, and its changes are published as those of its partitions, which versions before 13 "+
				"cannot change: capture the partitions instead (`advanced.capture_as_partitions`)", t)
		} else {
			c.tableFault(t, "table %s is partitioned, and the publication %q publishes its changes as those of its partitions. Run: ALTER "+
				"PUBLICATION %s SET (publish_via_partition_root = true);", t, c.s.publication, quoteIdent(c.s.publication))
		}
	}
	if f.Published && f.Columns != nil {
		lacking := slices.DeleteFunc(slices.Clone(r.key), func(column string) bool { return slices.Contains(f.Columns, column) })
		if len(lacking) > 0 {
			filter := ""
			if f.Where != "" {
				filter = " WHERE (" + f.Where + ")"
			}
			c.tableFault(t, "table %s: the column list of publication %q lacks %s, which the collection key has. Run as the owner of both, or "+
				"as a superuser: ALTER PUBLICATION %s DROP TABLE %s; %s (%s)%s;", t, c.s.publication, quoteIdents(lacking),
				quoteIdent(c.s.publication), quoteTable(t), addStatement(c.s.publication, t), quoteIdents(slices.Concat(f.Columns, lacking)), filter)
		}
	}
}

// harm tells why the server would reject updates and deletes of a table's rows if the publication got it as we would add it,
// whole: "" when it would not.
func (c *checker) harm(t tableName) string {
	f := c.found[t]
	if f.Published || c.publication != nil && (c.publication.AllTables || f.Ancestor != "" && c.publication.viaRoot()) {
		return "" // it does so already
	}
	held := c.held[f.OID]
	for i := range held {
		r := &held[i]
		if !r.hasIdentity() {
			continue
		}
		if r.identity != 'f' && r.index() == nil {
			return partitions(t, []*replicaIdentity{r}) + " has no replica identity"
		}
		if missing := r.unpublished(c.sendsGenerated(r)); len(missing) > 0 {
			return fmt.Sprintf("%s has generated columns in its replica identity that are not published (%s)",
				partitions(t, []*replicaIdentity{r}), strings.Join(missing, ", "))
		}
	}
	if f.Kind == "p" && !f.PrimaryKey {
		return " is partitioned and has no primary key, so that partitions made later have no replica identity until they are given one"
	}
	return ""
}

// sendsGenerated tells which generated columns the publication will send of a relation that it has whole.
func (c *checker) sendsGenerated(r *replicaIdentity) func(column string) bool {
	return func(column string) bool {
		return c.publication != nil && c.publication.Generated == "s" && r.generated[column] == "s"
	}
}

// harmFault says that a table was not added to the publication and why, and what may be run instead: what makes it harmless, upon
// which it is added by us where we may; or what adds it as it is.
func (c *checker) harmFault(r requirement, why string) string {
	t, held := r.table, c.held[c.found[r.table].OID]
	var first, alter []string
	for i := range held {
		x := &held[i]
		switch missing := x.unpublished(c.sendsGenerated(x)); {
		case !x.hasIdentity():
		case x.identity != 'f' && x.index() == nil:
			alter = append(alter, x.remedy(r.key))
		case len(missing) > 0:
			if remedy := x.unpublishedRemedy(c.s.publication, missing, r.key); !slices.Contains(first, remedy) {
				first = append(first, remedy)
			}
		}
	}
	alter = append(first, alter...)
	if more := len(alter) - maxRemedies; more > 0 {
		alter = append(alter[:maxRemedies], fmt.Sprintf("(and so for %d more partitions)", more))
	}
	text := fmt.Sprintf("table %s%s: once it is in the publication %q the server rejects every UPDATE and DELETE of its rows, so "+
		"the capture does not add it as it is. ", t, why, c.s.publication)
	add, run := addStatement(c.s.publication, t)+";", "Run"
	f, p := c.found[t], c.publication
	ours := p != nil && p.Owned && f.Owned && !c.db.standby
	switch {
	case c.db.standby:
		run = "Run on the primary"
	case !ours:
		run = "Run as the owner of both, or as a superuser"
	}
	remedies := strings.Join(alter, " ")
	later := f.Kind == "p" && !f.PrimaryKey
	switch {
	case later:
		return text + strings.TrimSuffix(fmt.Sprintf("%s: %s", run, remedies), " ") + " " + add + " And give REPLICA IDENTITY FULL to each partition " +
			"that is made later. (If its rows are never updated or deleted, the last statement is enough.)"
	case !ours:
		return text + fmt.Sprintf("%s: %s %s (If its rows are never updated or deleted, the last statement is enough.)", run, remedies, add)
	}
	return text + fmt.Sprintf("Run: %s It is added then. Or, if its rows are never updated or deleted, add it as it is: %s", remedies, add)
}

// nameRemedy is what else may be wrong with a name that no table has.
func nameRemedy(t tableName) string {
	if !strings.ContainsRune(t.schema+t.name, utf8.RuneError) {
		return ""
	}
	return ". U+FFFD in it stands for bytes that are no text in the database's encoding: such a table cannot be captured unless it is " +
		"renamed"
}

// checkMembers adds the tables that are not in the publication yet, but for those that would come to harm (judgeIdentities).
func (c *checker) checkMembers(ctx context.Context) error {
	if c.publication == nil || c.found == nil {
		return nil
	}
	if err := c.loadHeld(ctx); err != nil {
		return err
	}
	var missing []tableName
	for _, t := range c.wanted() {
		f := c.found[t]
		switch {
		case f.OID == 0 || f.Published || f.notTable() != "":
		case t != c.s.watermarks && c.s.flags.skipTablePrerequisites:
		case f.Ancestor != "" && c.publication.viaRoot():
			c.tableFault(t, "table %s is a partition of %s, and the publication %q publishes its changes as those of %s. Capture that "+
				"table instead, or run: ALTER PUBLICATION %s SET (publish_via_partition_root = false);", t, f.Ancestor,
				c.s.publication, f.Ancestor, quoteIdent(c.s.publication))
		case c.harm(t) != "":
		default:
			missing = append(missing, t)
		}
	}
	refused, reason, locked, err := c.addMembers(ctx, missing)
	if err != nil {
		return err
	}
	if c.watermarksMissing && !c.publication.AllTables {
		published := false
		if c.db.version >= 150000 {
			if err := c.conn.QueryRow(ctx, sqlSchemaPublished, c.s.publication, c.s.watermarks.schema).Scan(&published); err != nil {
				return err
			}
		}
		if !published {
			c.fault("the watermarks table %s must be in the publication %q, too. Run as the owner of both, or as a superuser, once there "+
				"is one: %s;", c.s.watermarks, c.s.publication, addStatement(c.s.publication, c.s.watermarks))
		}
	}
	if len(locked) > 0 {
		if err := c.judgeLocked(ctx, locked); err != nil {
			return err
		}
	}
	if len(refused)+len(locked) < len(missing) { // what is sent of those that were added
		if err := c.findTables(ctx); err != nil {
			return err
		}
	}
	if len(refused) == 0 {
		return nil
	}
	names := make([]string, 0, maxFaults)
	for i, t := range refused {
		if i == maxFaults {
			names = append(names, fmt.Sprintf("and %d more", len(refused)-i))
			break
		}
		names = append(names, t.String())
	}
	subject, be := "table ", "is"
	if len(refused) > 1 {
		subject, be = strconv.Itoa(len(refused))+" tables (", "are"
		names[len(names)-1] += ")"
	}
	where := "as the owner of both, or as a superuser"
	if c.db.standby {
		where = "on the primary"
	}
	c.faults = append(c.faults, fault{tables: refused, text: fmt.Sprintf("%s%s %s not in the publication %q and could not be added: %s. Run %s: %s;",
		subject, strings.Join(names, ", "), be, c.s.publication, reason, where, addStatement(c.s.publication, refused...))})
	return nil
}

const sqlSchemaPublished = `SELECT EXISTS (SELECT FROM pg_publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid
	JOIN pg_namespace n ON n.oid = s.pnnspid WHERE p.pubname = $1 AND n.nspname = $2)`

// addMembers adds tables to the publication. It returns those that the server refuses to add, with its first reason, and those
// that others have locked; its error is one of the connection.
func (c *checker) addMembers(ctx context.Context, tables []tableName) (refused []tableName, reason string, locked []tableName, err error) {
	began := time.Now()
	for batch := range slices.Chunk(tables, memberBatch) {
		together := c.addTables(ctx, lockAtOnce, batch...)
		for _, t := range batch {
			err := together // one that cannot be added keeps all others out: find those that can
			if code := sqlState(err); code != "" && !c.db.standby && (len(batch) > 1 || code == codeLockTaken) {
				wait := c.lockWait()
				if time.Since(began) > membersWait {
					wait = lockAtOnce
				}
				err = c.addTables(ctx, wait, t)
			}
			switch code := sqlState(err); {
			case err == nil:
			case code == "":
				return nil, "", nil, err
			case code == codeLockTaken:
				locked = append(locked, t)
			default:
				if refused = append(refused, t); reason == "" {
					reason = serverReason(err)
				}
			}
		}
	}
	return refused, reason, locked, nil
}

func (c *checker) addTables(ctx context.Context, wait time.Duration, tables ...tableName) error {
	failpoint("member.before")
	err := c.write(ctx, addStatement(c.s.publication, tables...), wait)
	failpoint("member.after")
	return err
}

// judgeLocked tells of tables that could not be added for the locks that others hold on them.
func (c *checker) judgeLocked(ctx context.Context, tables []tableName) error {
	var oids []uint32
	for _, t := range tables {
		oids = append(oids, c.found[t].OID)
	}
	holders, err := lockHolders(ctx, c.conn, oids, memberLocks)
	if err != nil {
		return err
	}
	for _, t := range tables {
		who := "another session"
		if held := holders[c.found[t].OID]; len(held) > 0 {
			who = held[0].String()
		}
		c.tableFault(t, "table %s is not in the publication %q and could not be added within %s, for a lock on it that is held by %s. "+
			"Let that end and try again", t, c.s.publication, c.lockWait(), who)
	}
	return nil
}

func addStatement(publication string, tables ...tableName) string {
	return fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(publication), onlyTables(tables))
}

// loadHeld reads the relations that hold the rows of the bound tables.
func (c *checker) loadHeld(ctx context.Context) error {
	if c.held != nil {
		return nil
	}
	var oids []uint32
	for _, r := range c.tables {
		if f := c.found[r.table]; f.OID != 0 && f.notTable() == "" {
			oids = append(oids, f.OID)
		}
	}
	held := map[uint32][]replicaIdentity{}
	if len(oids) > 0 {
		var err error
		if held, err = loadIdentities(ctx, c.conn, oids); err != nil {
			return err
		}
	}
	c.held = held
	return nil
}
