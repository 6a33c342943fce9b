package main

// Goal: nothing that a check does by itself has the server refuse, or hold up, a statement of an application; what it says
// instead can be run as printed, and is enough. Method: tables of every kind whose updates the server refuses once they are
// published are checked by roles that may and may not publish them, updated, and checked again behind each way out.

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// harmedTable is a table whose updates and deletes the server would refuse once it is in a publication. In its SQL, {t} is its
// name, {q} a prefix for others' in the same schema.
type harmedTable struct {
	name  string
	since int // server version
	sql   string
	key   []string
	why   string // the fault has it
	loose bool   // what it says is not all SQL
}

var harmedTables = []harmedTable{
	{name: "keyless", sql: "CREATE TABLE {t} (id int, v text)", why: "{n} has no replica identity"},
	{
		name: "nothing", sql: "CREATE TABLE {t} (id int PRIMARY KEY, v text); ALTER TABLE {t} REPLICA IDENTITY NOTHING", key: []string{"id"},
		why: "{n} has no replica identity",
	},
	{
		name: "index gone", sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text NOT NULL UNIQUE);
			ALTER TABLE {t} REPLICA IDENTITY USING INDEX "{q}_v_key"; ALTER TABLE {t} DROP CONSTRAINT "{q}_v_key"`, key: []string{"id"},
		why: "{n} has no replica identity",
	},
	{
		name: "index invalid", sql: `CREATE TABLE {t} (id int NOT NULL, v text); CREATE UNIQUE INDEX "{q}_i" ON {t} (id);
			ALTER TABLE {t} REPLICA IDENTITY USING INDEX "{q}_i"; UPDATE pg_index SET indisvalid = false WHERE indrelid = '{t}'::regclass`,
		why: "{n} has no replica identity",
	},
	{name: "deferrable", sql: "CREATE TABLE {t} (id int PRIMARY KEY DEFERRABLE, v text)", key: []string{"id"}, why: "{n} has no replica identity"},
	{name: "unique", sql: "CREATE TABLE {t} (id int NOT NULL UNIQUE, v text)", key: []string{"id"}, why: "{n} has no replica identity"},
	{
		name: "leaf", sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
			CREATE TABLE "{q}_1" PARTITION OF {t} FOR VALUES FROM (0) TO (5);
			CREATE TABLE "{q}_2" PARTITION OF {t} DEFAULT PARTITION BY RANGE (id); CREATE TABLE "{q}_3" PARTITION OF "{q}_2" DEFAULT;
			ALTER TABLE "{q}_3" REPLICA IDENTITY NOTHING`, key: []string{"id"},
		why: `{n} (partition {n}_3) has no replica identity`,
	},
	{
		name: "keyless root", sql: `CREATE TABLE {t} (id int, v text) PARTITION BY RANGE (id);
			CREATE TABLE "{q}_1" PARTITION OF {t} FOR VALUES FROM (0) TO (5); CREATE TABLE "{q}_2" PARTITION OF {t} DEFAULT;
			ALTER TABLE "{q}_1" REPLICA IDENTITY FULL`, why: `{n} (partition {n}_2) has no replica identity`,
	},
	{ // those to come
		name: "keyless root, full", sql: `CREATE TABLE {t} (id int, v text) PARTITION BY RANGE (id);
			CREATE TABLE "{q}_1" PARTITION OF {t} DEFAULT; ALTER TABLE "{q}_1" REPLICA IDENTITY FULL`,
		why: "{n} is partitioned and has no primary key",
	},
	{
		name: "foreign leaf", sql: `CREATE TABLE {t} (id int, v text) PARTITION BY RANGE (id);
			CREATE TABLE "{q}_2" PARTITION OF {t} FOR VALUES FROM (0) TO (100);
			CREATE FOREIGN DATA WRAPPER "{q}"; CREATE SERVER "{q}" FOREIGN DATA WRAPPER "{q}";
			CREATE FOREIGN TABLE "{q}_1" PARTITION OF {t} DEFAULT SERVER "{q}"`,
		why: `{n} (partition {n}_2) has no replica identity`,
	},
	{
		name: "full, stored", since: 180000, sql: `CREATE TABLE {t} (id int, v text, g int GENERATED ALWAYS AS (id) STORED);
			ALTER TABLE {t} REPLICA IDENTITY FULL`, why: "{n} has generated columns in its replica identity that are not published (g)",
	},
	{
		name: "primary key, stored", since: 180000, sql: `CREATE TABLE {t} (id int, v text, g int GENERATED ALWAYS AS (id) STORED PRIMARY KEY)`,
		why: "{n} has generated columns in its replica identity that are not published (g)",
	},
	{
		name: "full, virtual", since: 180000, sql: `CREATE TABLE {t} (id int PRIMARY KEY, v text, g int GENERATED ALWAYS AS (id) VIRTUAL);
			ALTER TABLE {t} REPLICA IDENTITY FULL`, key: []string{"id"},
		why: "{n} has generated columns in its replica identity that are not published (g)",
	},
	{
		name: "full, virtual, keyless", since: 180000, loose: true, sql: `CREATE TABLE {t} (id int, v text, g int GENERATED ALWAYS AS (id) VIRTUAL);
			ALTER TABLE {t} REPLICA IDENTITY FULL`, why: "(create a unique index over columns",
	},
}

// harmRun is one table checked in one way.
type harmRun struct {
	*testDB
	table tableName
	d     *database
	want  requirement
	why   string
}

func newHarmRun(t *testing.T, h *harmedTable, mayPublish, published bool) *harmRun {
	db := newTestDB(t)
	db.requireVersion(max(130000, h.since))
	r := &harmRun{testDB: db, table: tableName{db.createSchema("s"), "t"}}
	names := strings.NewReplacer("{t}", quoteTable(r.table), "{q}", r.table.name, "{n}", r.table.String())
	r.exec("SET search_path = " + quoteIdent(r.table.schema))
	if strings.Contains(h.sql, "SERVER") { // names of the whole database
		names = strings.NewReplacer(`WRAPPER "{q}"`, `WRAPPER "`+db.suffix+`"`, `SERVER "{q}"`, `SERVER "`+db.suffix+`"`, "{t}", quoteTable(r.table),
			"{q}", r.table.name, "{n}", r.table.String())
		t.Cleanup(func() { db.exec("DROP FOREIGN DATA WRAPPER " + quoteIdent(db.suffix) + " CASCADE") })
	}
	r.script(names.Replace(h.sql))
	r.exec("INSERT INTO " + quoteTable(r.table) + " (id, v) VALUES (1, $$one$$), (9, $$nine$$)")
	r.exec(fmt.Sprintf("GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s", quoteIdent(r.table.schema), quoteIdent(*testCaptureUser)))
	r.want, r.why = requirement{table: r.table, key: h.key}, names.Replace(h.why)
	if !published {
		r.exec("DROP PUBLICATION " + quoteIdent(r.publication))
	}
	s := r.settings()
	if mayPublish {
		s = r.asOwner()
	}
	r.d = r.connect(s)
	return r
}

// unharmed updates and deletes rows as an application would; nothing of it stays. Publications of others, which the server may
// have, are not there meanwhile.
func (r *harmRun) unharmed(when string) {
	r.Helper()
	r.script("BEGIN; DROP PUBLICATION IF EXISTS flow_publication")
	defer r.script("ROLLBACK")
	_, err := r.control.PgConn().Exec(r.ctx, fmt.Sprintf(`UPDATE %[1]s SET id = id + 1 WHERE id = 1; UPDATE %[1]s SET v = 'new' WHERE id = 9;
		DELETE FROM %[1]s WHERE id = 9`, quoteTable(r.table))).ReadAll()
	if err != nil {
		r.Errorf("%s, an application meets: %v", when, err)
	}
}

// fault returns the only fault of a check.
func (r *harmRun) fault() string {
	r.Helper()
	_, err := checkPrerequisites(r.ctx, r.d, []requirement{r.want})
	lines := strings.Split(errorText(err), "\n  - ")
	if !strings.Contains(lines[len(lines)-1], r.why) {
		r.Fatalf("the fault should say %q:\n%s", r.why, errorText(err))
	}
	return errorText(err)
}

func (r *harmRun) passes(warned bool) {
	r.Helper()
	warnings, err := checkPrerequisites(r.ctx, r.d, []requirement{r.want})
	warnings = slices.DeleteFunc(warnings, func(w string) bool { return strings.Contains(w, "is a foreign table, whose changes are not captured") })
	if err != nil || (len(warnings) > 0) != warned {
		r.Errorf("%v; warnings: %q", err, warnings)
	}
	if r.queryValue("SELECT count(*) FROM pg_publication_rel WHERE prrelid = $1::text::regclass", quoteTable(r.table)) != "1" {
		r.Error("the table is not in the publication")
	}
}

var statements = regexp.MustCompile(`(?:ALTER|GRANT|CREATE) [^;]*;`)

func TestHarmless(t *testing.T) {
	if testing.Short() {
		t.Skip("does one thing at a time, in many cases")
	}
	for i := range harmedTables {
		h := &harmedTables[i]
		for _, may := range []bool{true, false} {
			for _, published := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/may publish %v/is there %v", h.name, may, published), func(t *testing.T) {
					r := newHarmRun(t, h, may, published)
					text := r.fault()
					r.unharmed("behind the first check")
					r.fault()
					r.unharmed("behind the second one")
					if h.loose {
						return
					}
					for _, sql := range statements.FindAllString(text, -1) {
						if adds := strings.Contains(sql, "ADD TABLE"); !adds || !may || strings.Contains(text, "made later") {
							r.exec(sql)
							r.unharmed(sql)
						}
					}
					r.passes(false)
					r.unharmed("in the publication")
				})
			}
		}
		t.Run(h.name+"/as it is", func(t *testing.T) {
			r := newHarmRun(t, h, true, true)
			for _, sql := range statements.FindAllString(r.fault(), -1) {
				if strings.Contains(sql, "ADD TABLE") {
					r.exec(sql)
				}
			}
			r.passes(h.name != "keyless root, full")
		})
		t.Run(h.name+"/unchecked", func(t *testing.T) {
			for _, published := range []bool{true, false} {
				r := newHarmRun(t, h, true, published)
				r.d.settings.flags.skipTablePrerequisites = true
				warnings, err := checkPrerequisites(r.ctx, r.d, []requirement{r.want})
				if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], r.why) {
					t.Errorf("%v; warnings: %q", err, warnings)
				}
				r.unharmed("behind a check of the server alone")
			}
		})
	}
}

// A table that an open CREATE INDEX has locked is not waited for long, what it is locked by is said, and others are added.
func TestMembersLocked(t *testing.T) {
	db := newTestDB(t)
	var wanted []requirement
	for _, base := range []string{"a", "b", "c"} {
		name := db.table(base)
		db.exec("CREATE TABLE " + quoteTable(name) + " (id int PRIMARY KEY)")
		wanted = append(wanted, requirement{name, []string{"id"}})
	}
	d := db.connect(db.asOwner())
	other := testConnect(t, *testControlUser, *testControlPassword)
	run := func(sql string) {
		t.Helper()
		if _, err := other.Exec(db.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, publication := range []bool{true, false} {
		if !publication {
			db.exec("DROP PUBLICATION " + quoteIdent(db.publication))
		}
		run("BEGIN")
		run("LOCK TABLE " + quoteTable(wanted[1].table) + " IN SHARE MODE")
		if publication { // while a capture runs, its stream is not held up
			unfit, _, err := openPrerequisites(db.ctx, d, wanted, checkRunning)
			if err != nil || len(unfit) != 1 || !strings.Contains(unfit[wanted[1].table], "could not be added within 10ms, for a lock") {
				t.Errorf("while it runs: %v, unfit %q", err, unfit)
			}
		}
		began := time.Now()
		faults, _ := db.check(d, wanted...)
		took := time.Since(began)
		if len(faults) != 1 || !strings.HasPrefix(faults[0], `table test.b is not in the publication "pub" and could not be added within 3s, `+
			`for a lock on it that is held by pid `) {
			t.Errorf("faults %q", faults)
		}
		if took > 20*time.Second { // the wait is three, and the machine may be busy
			t.Errorf("took %s", took)
		}
		if got := db.members(); got != "a c watermarks" {
			t.Errorf("members %q", got)
		}
		run("ROLLBACK")
		faults, _ = db.check(d, wanted...)
		wantLines(t, "fault", faults, nil)
		if got := db.members(); got != "a b c watermarks" {
			t.Errorf("members %q", got)
		}
	}
}

// Many tables are added without holding the locks of all of them at a time, which others need the memory for.
func TestMembersInBatches(t *testing.T) {
	db := newTestDB(t)
	schema := db.createSchema("many")
	db.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		EXECUTE format('CREATE TABLE %s.t%%s (id int PRIMARY KEY)', i); END LOOP; END $$`, 2*memberBatch+1, quoteIdent(schema)))
	var wanted []requirement
	for i := range 2*memberBatch + 1 {
		wanted = append(wanted, requirement{tableName{schema, fmt.Sprintf("t%d", i+1)}, []string{"id"}})
	}
	db.exec("DROP PUBLICATION " + quoteIdent(db.publication))
	faults, _ := db.check(db.connect(db.asOwner()), wanted...)
	wantLines(t, "fault", faults, nil)
	rows := db.query(`SELECT xmin::text, count(*) FROM pg_publication_rel WHERE prpubid = (SELECT oid FROM pg_publication WHERE pubname = $1)
		GROUP BY 1`, db.publication)
	if len(rows) != 3 {
		t.Errorf("members by transaction: %v", rows)
	}
}
