package main

// Goal: what validation prints can be run as it is printed, and is all there is to do. Method: each fault is made on a real
// server; the statements of the error are taken out of its text as a person would take them, and run in turn by an
// administrator, in one session that stops at the first that fails; each must change something; the next validation is told
// of no fault.

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// remedy is one fault, or several at once.
type remedy struct {
	name     string
	from, to int
	setup    string // in which {role}, {pub}, {wm}, {slot}, {s} and {db} stand for names, quoted, and {pub}, {wm} do not exist yet
	outside  string // is done then from another database
	key      []string
	advanced map[string]any
	want     string // of the error
}

const (
	ready     = `CREATE TABLE {wm} (slot text PRIMARY KEY, watermark text); GRANT SELECT, INSERT, UPDATE ON {wm} TO {role}; GRANT USAGE ON SCHEMA {s} TO {role};`
	tableT    = `CREATE TABLE {s}.t (id int PRIMARY KEY, name text NOT NULL, v text);`
	readT     = `GRANT SELECT ON {s}.t TO {role};`
	published = `CREATE PUBLICATION {pub} FOR TABLE {wm}, {s}.t WITH (publish_via_partition_root = true);`
	fit       = ready + tableT + readT
)

var remedyTable = []remedy{
	{name: "no replication", setup: `ALTER ROLE {role} NOREPLICATION;` + fit + published, want: "may not replicate"},
	{name: "no replication under another role", setup: fit + published + `CREATE ROLE {other} REPLICATION; GRANT {other} TO {role};
		GRANT USAGE ON SCHEMA {s} TO {other}; GRANT SELECT, INSERT, UPDATE ON {wm} TO {other}; GRANT SELECT ON {s}.t TO {other};
		ALTER ROLE {role} SET role = {otherName}; ALTER ROLE {role} NOREPLICATION`, want: "may not replicate"},
	{name: "rights under another role", setup: fit + published + `CREATE ROLE {other}; GRANT {other} TO {role}; ALTER ROLE {role} SET role = {otherName}`, want: "may not"},
	{name: "no connect", setup: fit + published + `REVOKE CONNECT ON DATABASE {db} FROM PUBLIC`, want: "SQLSTATE 42501"},
	{name: "no login", setup: fit + published + `ALTER ROLE {role} NOLOGIN`, want: "SQLSTATE 28000"},
	{name: "no connections", setup: fit + published, outside: `ALTER DATABASE {db} ALLOW_CONNECTIONS false`, want: "SQLSTATE 55000"},
	{name: "no watermarks table", setup: tableT + readT + `GRANT USAGE ON SCHEMA {s} TO {role};` +
		`CREATE PUBLICATION {pub} FOR TABLE {s}.t WITH (publish_via_partition_root = true)`, want: "does not exist and could not be created"},
	{name: "no watermarks schema", setup: fit + published, advanced: map[string]any{"watermarksTable": `"Else where"."w;m"`}, want: "CREATE SCHEMA"},
	{name: "nothing at all", setup: tableT, want: "does not exist and could not be created"},
	{name: "nothing but all tables", setup: tableT + `CREATE PUBLICATION {pub} FOR ALL TABLES WITH (publish_via_partition_root = true)`, want: "could not be created"},
	{name: "nothing but the schema", from: 15, setup: tableT + `CREATE PUBLICATION {pub} FOR TABLES IN SCHEMA {s} WITH (publish_via_partition_root = true)`, want: "could not be created"},
	{name: "watermarks without usage", setup: fit + published + `REVOKE USAGE ON SCHEMA {s} FROM {role}`, want: "may not"},
	{name: "watermarks without insert", setup: fit + published + `REVOKE INSERT ON {wm} FROM {role}`, want: "may not write"},
	{name: "watermarks without any", setup: fit + published + `REVOKE ALL ON {wm} FROM {role}`, want: "may not write"},
	{name: "watermarks under policies", setup: fit + published + `ALTER TABLE {wm} ENABLE ROW LEVEL SECURITY`, want: "row-level security"},
	{name: "no publication", setup: fit, want: "could not be created"},
	{name: "no member", setup: fit + `CREATE PUBLICATION {pub} FOR TABLE {wm} WITH (publish_via_partition_root = true)`, want: "is not in the publication"},
	{name: "inserts only", setup: fit + published + `ALTER PUBLICATION {pub} SET (publish = 'insert')`, want: "does not publish"},
	{name: "no select", setup: ready + tableT + published, want: "may not read"},
	{name: "no columns", setup: ready + tableT + `GRANT SELECT (id) ON {s}.t TO {role};` + published, want: "may not read the columns"},
	{name: "unlogged", setup: fit + `ALTER TABLE {s}.t SET UNLOGGED; CREATE PUBLICATION {pub} FOR TABLE {wm} WITH (publish_via_partition_root = true)`, want: "is unlogged"},
	{name: "unlogged, no publication", setup: fit + `ALTER TABLE {s}.t SET UNLOGGED`, want: "is unlogged"},
	{name: "another key", setup: fit + published, key: []string{"name"}, want: "updates and deletes would carry only the replica identity"},
	{name: "another key with an index", setup: fit + published + `CREATE UNIQUE INDEX "name;" ON {s}.t (name)`, key: []string{"name"}, want: "USING INDEX"},
	{name: "keyless", setup: ready + `CREATE TABLE {s}.t (v text);` + readT + `CREATE PUBLICATION {pub} FOR TABLE {wm} WITH (publish_via_partition_root = true)`, key: nil, want: "has no replica identity"},
	{name: "keyless, no publication", setup: ready + `CREATE TABLE {s}.t (v text);` + readT, key: nil, want: "has no replica identity"},
	{name: "not via the root", setup: ready + `CREATE TABLE {s}.t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE {s}.t1 PARTITION OF {s}.t DEFAULT;` + readT +
		`CREATE PUBLICATION {pub} FOR TABLE {wm}, {s}.t`, want: "publishes its changes as those of its partitions"},
	{name: "a partition", setup: ready + `CREATE TABLE {s}.p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE {s}.t PARTITION OF {s}.p DEFAULT;` + readT +
		`CREATE PUBLICATION {pub} FOR TABLE {wm}, {s}.p WITH (publish_via_partition_root = true)`, want: "is a partition of"},
	{name: "unlogged partition", setup: ready + `CREATE TABLE {s}.t (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE UNLOGGED TABLE {s}.t1 PARTITION OF {s}.t DEFAULT;` + readT +
		`CREATE PUBLICATION {pub} FOR TABLE {wm}, {s}.t WITH (publish_via_partition_root = true)`, want: "is unlogged"},
	{name: "keyless with a foreign partition", setup: ready + `CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER {other} FOREIGN DATA WRAPPER postgres_fdw;
		CREATE TABLE {s}.t (id int, v text) PARTITION BY LIST (id); CREATE TABLE {s}.t1 PARTITION OF {s}.t DEFAULT;
		CREATE FOREIGN TABLE {s}.a_foreign PARTITION OF {s}.t FOR VALUES IN (7) SERVER {other};` + readT + `GRANT SELECT ON {s}.t1 TO {role};` +
		`CREATE PUBLICATION {pub} FOR TABLE {wm} WITH (publish_via_partition_root = true)`, want: "REPLICA IDENTITY FULL"},
	{name: "column list without the key", from: 15, setup: ready + tableT + `ALTER TABLE {s}.t REPLICA IDENTITY FULL;` + readT +
		`CREATE PUBLICATION {pub} FOR TABLE {wm}, {s}.t (v) WHERE (v <> 'x') WITH (publish_via_partition_root = true)`, key: []string{"id"}, want: "the column list of publication"},
	{name: "no slot, and none may be made", setup: fit + published, advanced: map[string]any{"feature_flags": "no_create_replication_slot"}, want: "pg_create_logical_replication_slot"},
	{name: "read-only by default", setup: fit + published + `ALTER ROLE {role} SET default_transaction_read_only = on; ALTER DATABASE {db} SET default_transaction_read_only = on`},
	{name: "settings of the role", setup: fit + published + `ALTER ROLE {role} SET statement_timeout = '10s'; ALTER ROLE {role} SET search_path = 'nowhere';
		ALTER ROLE {role} SET DateStyle = 'German'; ALTER ROLE {role} SET default_transaction_isolation = 'serializable'`},
}

// sqlAll is a digest of what a remedy may change. Default privileges are none until they are changed.
const sqlAll = `SELECT md5(concat_ws('|',
	(SELECT string_agg(c.oid::text || c.relreplident::text || c.relpersistence::text || c.relrowsecurity::text || coalesce(c.relacl::text, '') ||
		coalesce((SELECT string_agg(a.attname || coalesce(a.attacl::text, ''), ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid), '') ||
		coalesce((SELECT string_agg(i.indisreplident::text, '' ORDER BY i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid), ''), ';' ORDER BY c.oid)
		FROM pg_class c WHERE c.oid >= 16384),
	(SELECT string_agg(n::text, ';' ORDER BY n.nspname) FROM pg_namespace n WHERE nspname !~ '^pg_'),
	(SELECT string_agg(r::text, ';' ORDER BY r.rolname) FROM pg_authid r),
	(SELECT string_agg(p::text, ';' ORDER BY p.pubname) FROM pg_publication p),
	(SELECT string_agg(p::text, ';' ORDER BY p.oid) FROM pg_publication_rel p),
	(SELECT string_agg(s.slot_name, ';' ORDER BY 1) FROM pg_replication_slots s),
	(SELECT string_agg(d.datname || d.datallowconn || coalesce(d.datacl::text, ''), ';' ORDER BY d.datname) FROM pg_database d)))`

var remedyLead = regexp.MustCompile(`\b[Rr]un\b[^:;\n]*: `)

// printedStatements takes the statements out of an error, as a person does who runs what follows "Run: ", and of ways that are
// alternatives the first.
func printedStatements(text string) []string {
	var statements []string
	for _, line := range strings.Split(text, "\n") {
		at := remedyLead.FindStringIndex(line)
		if at == nil {
			continue
		}
		rest := line[at[1]:]
		for {
			end, quote := -1, rune(0)
			for i, ch := range rest {
				switch {
				case quote != 0:
					if ch == quote {
						quote = 0
					}
				case ch == '"' || ch == '\'':
					quote = ch
				case ch == ';' && end < 0:
					end = i
				}
				if end >= 0 {
					break
				}
			}
			if end < 0 || !regexp.MustCompile(`^(ALTER|CREATE|GRANT|SELECT|DROP) `).MatchString(rest) {
				break
			}
			statements = append(statements, rest[:end+1])
			rest = strings.TrimPrefix(rest[end+1:], " ")
		}
	}
	return statements
}

func TestRemedies(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing at a time, in many cases")
	}
	for i := range remedyTable {
		c := &remedyTable[i]
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c *remedy) run(t *testing.T) {
	db := newTestDB(t)
	if major := db.version() / 10000; major < c.from || c.to != 0 && major > c.to {
		t.Skip("not on this version")
	}
	// A database, a role and names of its own.
	database, role, other := db.name("remedies"), `Re "medy" `+db.suffix, db.name("other")
	db.exec("CREATE DATABASE " + quoteIdent(database))
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret'", quoteIdent(role)))
	config := db.control.Config().Copy()
	config.Database = database
	admin, err := pgx.ConnectConfig(db.ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admin.Close(context.Background())
		db.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", database)
		db.exec("DROP DATABASE " + quoteIdent(database) + " WITH (FORCE)")
		db.exec("DROP ROLE " + quoteIdent(role))
		db.exec("DROP ROLE IF EXISTS " + quoteIdent(other))
	})
	table, watermarks, publication := tableName{`S;ch "x"`, "t"}, tableName{`S;ch "x"`, "w;m"}, `Pub "l;`
	run := func(sql string) error {
		_, err := admin.PgConn().Exec(db.ctx, sql).ReadAll()
		return err
	}
	names := strings.NewReplacer("{s}", quoteIdent(table.schema), "{wm}", quoteTable(watermarks), "{pub}", quoteIdent(publication),
		"{role}", quoteIdent(role), "{db}", quoteIdent(database), "{otherName}", quoteLiteral(other), "{other}", quoteIdent(other))
	if err := run("CREATE SCHEMA " + quoteIdent(table.schema) + "; " + names.Replace(c.setup)); err != nil {
		t.Fatalf("set up: %v", err)
	}
	if c.outside != "" {
		db.exec(names.Replace(c.outside))
	}
	advanced := map[string]any{"publicationName": publication, "watermarksTable": `"S;ch ""x"""."w;m"`}
	for name, value := range c.advanced {
		advanced[name] = value
	}
	changes := map[string]any{"user": role, "credentials.password": "secret", "database": database}
	for name, value := range advanced {
		changes["advanced."+name] = value
	}
	s, err := parseConfig(edit(t, db.config(), changes))
	if err != nil {
		t.Fatal(err)
	}
	validate := func() error {
		capture, err := connectDatabase(db.ctx, s)
		if err != nil {
			return err
		}
		defer capture.close()
		_, err = checkPrerequisites(db.ctx, capture, []requirement{{table: table, key: c.key}})
		return err
	}
	err = validate()
	if c.want == "" {
		if err != nil {
			t.Fatalf("it was refused: %v", err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), c.want) {
		t.Fatalf("it ended with %v, want %s", err, c.want)
	}
	if strings.Contains(err.Error(), "..") || strings.Contains(err.Error(), ". .") || strings.Contains(err.Error(), ";;") {
		t.Errorf("its punctuation is amiss: %v", err)
	}
	t.Log(err)
	statements := printedStatements(err.Error())
	if len(statements) == 0 {
		t.Fatalf("it prints no statement: %v", err)
	}
	digest := func() (text string) {
		if err := admin.QueryRow(db.ctx, sqlAll).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, statement := range statements {
		before := digest()
		if err := run(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		if digest() == before {
			t.Errorf("%s changes nothing", statement)
		}
	}
	if err := validate(); err != nil {
		t.Errorf("after %s: %v", strings.Join(statements, "\n"), err)
	}
}
