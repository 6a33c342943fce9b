package main

// Goal: whatever the server lacks is told at once, with the server's reason and SQL that really fixes it, and what may be
// created is created, nothing more. Method: the judgements against tables of facts with exact texts; the checks against a
// real server, where the SQL of the faults is run and the check repeated.

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMatchesStandby(t *testing.T) {
	for _, c := range []struct {
		names string
		want  bool
	}{
		{"", false},
		{"*", true},
		{`"*"`, true},
		{"estuary_flow", true},
		{"Estuary_FLOW", true},
		{`"estuary_flow"`, true},
		{"s1, estuary_flow", true},
		{"s1,s2", false},
		{"estuary_flow2", false},
		{"estuary", false},
		{"2 (s1, s2)", false},
		{"2 (s1, estuary_flow)", true},
		{"FIRST 1 (s1, *)", true},
		{"ANY 2(s1,s2,\testuary_flow)", true},
		{"any 1 (s1)", false},
		{`1 ("a(b", s1)`, false},
		{`1 ("a(estuary_flow", s1)`, false},
		{`"a""b", "estuary_flow"`, true},
		{`"estuary_flow""`, false},
		{`"say ""estuary_flow"""`, false},
		{`"`, false},
		{`(`, false},
	} {
		if got := matchesStandby(c.names, "estuary_flow"); got != c.want {
			t.Errorf("%q: %v, want %v", c.names, got, c.want)
		}
	}
}

// The scan ends, and a name put into the list is found there.
func FuzzMatchesStandby(f *testing.F) {
	for _, names := range []string{"", "*", "2 (s1, s2)", `"a""b", c`, `ANY 1 ("x`, `"a(b"`} {
		f.Add(names)
	}
	f.Fuzz(func(t *testing.T, names string) {
		matchesStandby(names, "x")
		if !matchesStandby(`1 ("`+strings.ReplaceAll(names, `"`, `""`)+`", other)`, names) {
			t.Errorf("%q is not found in a list with it", names)
		}
	})
}

func TestVersionText(t *testing.T) {
	for version, want := range map[int]string{90624: "9.6", 100023: "10.23", 150018: "15.18", 180000: "18.0"} {
		if got := versionText(version); got != want {
			t.Errorf("%d: %s, want %s", version, got, want)
		}
	}
}

func TestJudgeServer(t *testing.T) {
	for _, c := range []struct {
		name     string
		version  int
		standby  bool
		readOnly bool
		edit     func(*serverFacts)
		faults   []string
		warnings []string
	}{
		{"fine", 150000, false, false, func(*serverFacts) {}, nil, nil},
		{"19 raises the level by itself", 190000, false, false, func(f *serverFacts) {
			f.WALLevel, f.EffectiveWALLevel = "replica", "replica"
		}, nil, nil},
		{"wal_level", 150000, false, false, func(f *serverFacts) { f.WALLevel = "replica" }, []string{
			"logical replication is not enabled: wal_level is replica. Run: ALTER SYSTEM SET wal_level = logical; and restart the " +
				"server (Amazon RDS and Aurora: parameter rds.logical_replication = 1; Google Cloud SQL: flag " +
				"cloudsql.logical_decoding = on; Azure: wal_level = LOGICAL in the server parameters)",
		}, nil},
		{"no right", 150000, false, false, func(f *serverFacts) { f.Replication = false }, []string{
			`the role "bob@server" may not replicate. Run: ALTER ROLE "bob@server" REPLICATION; (on Amazon RDS: GRANT ` +
				`rds_replication TO "bob@server";)`,
		}, nil},
		{"synchronous", 150000, false, false, func(f *serverFacts) { f.SynchronousNames = "ANY 1 (*)" }, []string{
			"synchronous_standby_names = 'ANY 1 (*)' would make this capture (application_name estuary_flow) a synchronous standby: " +
				"where no other is there, every commit of the database would wait for it. Set it to the names of the standbys that are meant, and run: " +
				"SELECT pg_reload_conf();",
		}, nil},
		{"synchronous for others", 150000, false, false, func(f *serverFacts) { f.SynchronousNames = "s1" }, nil, nil},
		{"idle timeout", 180000, false, false, func(f *serverFacts) { f.IdleSlotTimeout = "1d" }, nil, []string{
			"idle_replication_slot_timeout is 1d: a capture that is stopped for longer loses its replication slot, and has to " +
				"re-backfill",
		}},
		{"no idle timeout", 180000, false, false, func(f *serverFacts) { f.IdleSlotTimeout = "0" }, nil, nil},
		{"standby, fine", 160000, true, true, func(f *serverFacts) { f.SynchronousNames = "*" }, nil, nil},
		{"standby, all wrong", 150004, true, false, func(f *serverFacts) { f.HotStandbyFeedback = "off" }, []string{
			"the server is a standby of version 15.4, which cannot decode logically before version 16: connect to the primary",
			"the server is a standby, where no watermarks can be written: set `advanced.read_only_capture`, or connect to the primary",
		}, []string{
			"hot_standby_feedback is off on this standby, so that VACUUM on the primary can invalidate the replication slot. Run " +
				"on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &settings{readOnly: c.readOnly}
			check := &checker{db: &database{settings: s, version: c.version, standby: c.standby}, s: s, server: serverFacts{
				User: "bob@server", Session: "bob@server", Application: "estuary_flow", Replication: true, WALLevel: "logical", HotStandbyFeedback: "on",
			}}
			c.edit(&check.server)
			check.judgeServer()
			wantLines(t, "fault", faultTexts(check.faults), c.faults)
			wantLines(t, "warning", check.warnings, c.warnings)
		})
	}
}

func faultTexts(faults []fault) (texts []string) {
	for _, f := range faults {
		texts = append(texts, f.text)
	}
	return texts
}

func wantLines(t testing.TB, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("missing %s: %s", what, want[i])
		case i >= len(want):
			t.Errorf("unexpected %s: %s", what, got[i])
		case got[i] != want[i]:
			t.Errorf("%s %d\ngot  %s\nwant %s", what, i, got[i], want[i])
		}
	}
}

func TestOldServer(t *testing.T) {
	c := &checker{db: &database{version: 90624}}
	if err := c.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantLines(t, "fault", faultTexts(c.faults), []string{"the server is PostgreSQL 9.6, the capture needs 10 or newer: upgrade it"})
}

func TestFaultsAreCapped(t *testing.T) {
	c := &checker{}
	if err := faultsError(c.faults); err != nil {
		t.Fatal(err)
	}
	for i := range 23 {
		c.fault("fault %d", i)
	}
	lines := strings.Split(faultsError(c.faults).Error(), "\n")
	if len(lines) != 22 || lines[0] != "the database is not ready for this capture:" || lines[1] != "  - fault 0" ||
		lines[20] != "  - fault 19" || lines[21] != "  - and 3 more" {
		t.Errorf("%q", lines)
	}
}

func TestJudgePublication(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		name             string
		p                publicationFacts
		faults, warnings []string
	}{
		{"fine", publicationFacts{Insert: true, Update: true, Delete: true, Truncate: &yes}, nil, nil},
		{"fine on 10", publicationFacts{Insert: true, Update: true, Delete: true}, nil, nil},
		{"insert only", publicationFacts{Insert: true, Truncate: &no}, []string{
			`the publication "P" does not publish update and delete. Run: ALTER PUBLICATION "P" SET (publish = 'insert, update, ` +
				`delete, truncate');`,
		}, nil},
		{"no insert on 10", publicationFacts{Update: true, Delete: true}, []string{
			`the publication "P" does not publish insert. Run: ALTER PUBLICATION "P" SET (publish = 'insert, update, delete');`,
		}, nil},
		{"no truncate", publicationFacts{Insert: true, Update: true, Delete: true, Truncate: &no}, nil, []string{
			`the publication "P" does not publish truncate, so that a TRUNCATE goes unnoticed. Run: ALTER PUBLICATION "P" SET ` +
				`(publish = 'insert, update, delete, truncate');`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := &checker{s: &settings{publication: "P"}, publication: &c.p}
			check.judgePublication()
			wantLines(t, "fault", faultTexts(check.faults), c.faults)
			wantLines(t, "warning", check.warnings, c.warnings)
		})
	}
}

func TestJudgeTable(t *testing.T) {
	yes, no := true, false
	fine := tableFacts{
		Schema: "s", Name: "T", SchemaOID: 1, OID: 2, Kind: "r", Persistence: "p", Usage: true, Select: true, Published: true,
	}
	for _, c := range []struct {
		name    string
		edit    func(*tableFacts)
		viaRoot *bool
		want    []string
	}{
		{"fine", func(*tableFacts) {}, &no, nil},
		{"partitioned", func(f *tableFacts) { f.Kind = "p" }, &yes, nil},
		{"partitioned, not via root", func(f *tableFacts) { f.Kind = "p" }, &no, []string{
			`table s.T is partitioned, and the publication "P" publishes its changes as those of its partitions. Run: ALTER ` +
				`PUBLICATION "P" SET (publish_via_partition_root = true);`,
		}},
		{"partitioned on 12", func(f *tableFacts) { f.Kind = "p" }, nil, []string{
			"table s.T is partitioned, and its changes are published as those of its partitions, which versions before 13 cannot " +
				"change: capture the partitions instead (`advanced.capture_as_partitions`)",
		}},
		{"no schema", func(f *tableFacts) { *f = tableFacts{} }, &yes, []string{
			`table s.T: there is no schema "s". If it was dropped or renamed, remove the binding`,
		}},
		{"missing", func(f *tableFacts) { f.OID = 0 }, &yes, []string{
			`table s.T does not exist. If it was dropped or renamed, remove the binding`,
		}},
		{"no rights", func(f *tableFacts) { f.Usage, f.Select = false, false }, &yes, []string{
			`the role "bob" may not use schema "s", which holds table s.T. Run: GRANT USAGE ON SCHEMA "s" TO "bob";`,
			`the role "bob" may not read table s.T. Run: GRANT SELECT ON "s"."T" TO "bob";`,
		}},
		{"view", func(f *tableFacts) { f.Kind = "v" }, &yes, []string{`s.T is a view: capture the tables that it reads`}},
		{"materialized view", func(f *tableFacts) { f.Kind = "m" }, &yes, []string{
			`s.T is a materialized view: capture the tables that it reads`,
		}},
		{"foreign", func(f *tableFacts) { f.Kind = "f" }, &yes, []string{
			`s.T is a foreign table: capture it on the server where it lives`,
		}},
		{"sequence", func(f *tableFacts) { f.Kind = "S" }, &yes, []string{`s.T is a sequence`}},
		{"of the future", func(f *tableFacts) { f.Kind = "g" }, &yes, []string{`s.T is a relation of kind "g"`}},
		{"unlogged", func(f *tableFacts) { f.Persistence = "u" }, &yes, []string{
			`s.T is unlogged: its changes are not written to the WAL. Run: ALTER TABLE "s"."T" SET LOGGED;`,
		}},
		{"temporary", func(f *tableFacts) { f.Persistence = "t" }, &yes, []string{
			`s.T is a temporary table, which is not replicated`,
		}},
		{"column list", func(f *tableFacts) { f.Columns = []string{"a", "c"} }, &yes, []string{
			`table s.T: the column list of publication "P" lacks "b", which the collection key has. Run as the owner of both, or ` +
				`as a superuser: ALTER PUBLICATION "P" DROP TABLE "s"."T"; ALTER PUBLICATION "P" ADD TABLE ONLY "s"."T" ("a", "c", "b");`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := fine
			c.edit(&facts)
			check := &checker{
				s: &settings{publication: "P", user: "bob"}, publication: &publicationFacts{ViaRoot: c.viaRoot},
			}
			check.judgeTable(requirement{tableName{"s", "T"}, []string{"a", "b"}}, &facts)
			wantLines(t, "fault", faultTexts(check.faults), c.want)
		})
	}
}

func TestKeyFault(t *testing.T) {
	name := tableName{"s", "T"}
	primary := uniqueIndex{Name: "T_pkey", Columns: []string{"id"}, Primary: true, NotNull: true}
	wide := uniqueIndex{Name: "wide", Columns: []string{"id", "b", "c"}, NotNull: true}
	narrow := uniqueIndex{Name: "nar\"row", Columns: []string{"b", "id"}, NotNull: true}
	nullable := uniqueIndex{Name: "nullable", Columns: []string{"b"}}
	chosen := func(x uniqueIndex) uniqueIndex {
		x.Identity = true
		return x
	}
	one := func(identity byte, indexes ...uniqueIndex) []replicaIdentity {
		return []replicaIdentity{{tableName: name, identity: identity, indexes: indexes}}
	}
	leaf := func(n int, identity byte, indexes ...uniqueIndex) replicaIdentity {
		return replicaIdentity{tableName: tableName{"p", fmt.Sprintf("T_%d", n)}, identity: identity, indexes: indexes}
	}
	var many []replicaIdentity
	for i := range 12 {
		many = append(many, leaf(i, 'd', primary))
	}
	const rejects = `the server rejects every UPDATE and DELETE of it while it is in the publication; inserts are captured. To ` +
		`allow them, run: `
	for _, c := range []struct {
		name           string
		held           []replicaIdentity
		key            []string
		fault, warning string
	}{
		{"primary key", one('d', primary), []string{"id"}, "", ""},
		{"part of the primary key", one('d', uniqueIndex{Columns: []string{"a", "id"}, Primary: true}), []string{"id"}, "", ""},
		{"full", one('f'), []string{"id"}, "", ""},
		{"index", one('i', primary, chosen(narrow)), []string{"id", "b"}, "", ""},
		{"keyless binding of a table with a key", one('d', primary), nil, "", ""},
		{"no rows held", nil, []string{"id"}, "", ""},
		{
			"other key than the primary one", one('d', primary),
			[]string{"b"},
			`table s.T: updates and deletes would carry only the replica identity (its primary key: id), not the collection key (b), ` +
				`so that they could not be matched to documents. Run: ALTER TABLE "s"."T" REPLICA IDENTITY FULL;`, "",
		},
		{
			"other key, with indexes that hold it", one('d', nullable, primary, wide, narrow),
			[]string{"b"},
			`table s.T: updates and deletes would carry only the replica identity (its primary key: id), not the collection key (b), ` +
				`so that they could not be matched to documents. Run: ALTER TABLE "s"."T" REPLICA IDENTITY USING INDEX "nar""row";`, "",
		},
		{
			"index without the key", one('i', primary, chosen(uniqueIndex{Name: "x", Columns: []string{"b", "c"}, NotNull: true})),
			[]string{"id"},
			`table s.T: updates and deletes would carry only the replica identity (index "x": b, c), not the collection key (id), so ` +
				`that they could not be matched to documents. Run: ALTER TABLE "s"."T" REPLICA IDENTITY DEFAULT;`, "",
		},
		{
			"nothing", one('n', primary),
			[]string{"id"},
			"",
			`table s.T has no replica identity: ` + rejects + `ALTER TABLE "s"."T" REPLICA IDENTITY DEFAULT;`,
		},
		{
			"no primary key", one('d'), nil, "",
			`table s.T has no replica identity: ` + rejects + `ALTER TABLE "s"."T" REPLICA IDENTITY FULL;`,
		},
		{
			"index dropped", one('i', narrow),
			[]string{"b"},
			"",
			`table s.T has no replica identity: ` + rejects + `ALTER TABLE "s"."T" REPLICA IDENTITY USING INDEX "nar""row";`,
		},
		{
			"leaves of every kind",
			[]replicaIdentity{leaf(1, 'f'), leaf(2, 'd', primary), leaf(3, 'i', chosen(narrow), primary), leaf(4, 'n')},
			[]string{"b"},
			`table s.T (partition p.T_2): updates and deletes would carry only the replica identity (its primary key: id), not the ` +
				`collection key (b), so that they could not be matched to documents. Run: ALTER TABLE "p"."T_2" REPLICA IDENTITY FULL;`,
			`table s.T (partition p.T_4) has no replica identity: ` + rejects + `ALTER TABLE "p"."T_4" REPLICA IDENTITY FULL;`,
		},
		{
			"many leaves", many,
			[]string{"b"},
			`table s.T (partition p.T_0 and 11 more): updates and deletes would carry only the replica identity (its primary key: ` +
				`id), not the collection key (b), so that they could not be matched to documents. Run: ` +
				strings.Join(remedyOf(many[:10]), " ") + ` (and so for 2 more partitions)`, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			fault, warning := keyFault(name, c.held, c.key)
			if fault != c.fault {
				t.Errorf("fault\ngot  %s\nwant %s", fault, c.fault)
			}
			if warning != c.warning {
				t.Errorf("warning\ngot  %s\nwant %s", warning, c.warning)
			}
		})
	}
}

func TestJudgeIdentities(t *testing.T) {
	c := &checker{s: &settings{user: "bob"}}
	root, leaf := tableName{"s", "root"}, tableName{"p", "Leaf"}
	for _, held := range [][]replicaIdentity{
		{{tableName: leaf, kind: 'f', persistence: 'p', identity: 'f', readable: true}},
		{{tableName: leaf, kind: 'r', persistence: 'u', identity: 'f', usable: true, readable: true}},
		{{tableName: leaf, kind: 'r', persistence: 'p', identity: 'f'}},
		{{tableName: root, kind: 'r', persistence: 'p', identity: 'f'}}, // a fault of the table, told there
	} {
		c.judgeIdentities(requirement{table: root}, held, "")
	}
	c.judgeIdentities(requirement{root, []string{"id"}}, []replicaIdentity{{tableName: leaf, kind: 'r', persistence: 'p', identity: 'f'}}, "")
	wantLines(t, "fault", faultTexts(c.faults), []string{
		`table s.root: its partition p.Leaf is unlogged: its changes are not written to the WAL. Run: ALTER TABLE "p"."Leaf" SET ` +
			`LOGGED;`,
		`the role "bob" may not read p.Leaf, a partition of s.root, which has no key and so is read by partition. Run: GRANT USAGE ` +
			`ON SCHEMA "p" TO "bob"; GRANT SELECT ON "p"."Leaf" TO "bob";`,
	})
	wantLines(t, "warning", c.warnings, []string{
		`table s.root: its partition p.Leaf is a foreign table, whose changes are not captured (a backfill by key reads its rows once, ` +
			`one in the mode "Without Primary Key" does not): capture it where it lives`,
	})
}

func remedyOf(held []replicaIdentity) (statements []string) {
	for _, r := range held {
		statements = append(statements, `ALTER TABLE `+quoteTable(r.tableName)+` REPLICA IDENTITY FULL;`)
	}
	return statements
}

// --- against a server

// check runs the checks and returns the faults and warnings, this test's suffix taken out.
func (db *testDB) check(d *database, tables ...requirement) (faults, warnings []string) {
	db.Helper()
	warnings, err := checkPrerequisites(db.ctx, d, tables)
	if err != nil {
		var user *userError
		if !errors.As(err, &user) {
			db.Fatalf("%T: %v", err, err)
		}
		header, list, _ := strings.Cut(db.sanitize(user.msg), "\n  - ")
		if header != "the database is not ready for this capture:" {
			db.Fatalf("header %q", header)
		}
		faults = strings.Split(list, "\n  - ")
	}
	for i, w := range warnings {
		warnings[i] = db.sanitize(w)
	}
	return faults, warnings
}

// members are the publication's tables in order, this test's suffix taken out.
func (db *testDB) members() string {
	db.Helper()
	return db.sanitize(db.queryValue(`SELECT coalesce(string_agg(tablename, ' ' ORDER BY tablename), '') FROM pg_publication_tables
		WHERE pubname = $1`, db.publication))
}

func (db *testDB) asOwner() *settings {
	s := db.settings()
	s.user, s.password = *testControlUser, *testControlPassword
	return s
}

func TestPrerequisitesFine(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	one := db.createTable("One", `(id int PRIMARY KEY, "B" text)`)
	root := db.createTable("root", "(id int PRIMARY KEY) PARTITION BY RANGE (id)")
	db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s DEFAULT", quoteTable(db.table("leaf")), quoteTable(root)))
	d := db.connect(nil)
	for range 2 {
		faults, warnings := db.check(d, requirement{one, []string{"id"}}, requirement{root, []string{"id"}})
		wantLines(t, "fault", faults, nil)
		wantLines(t, "warning", warnings, nil)
	}
	if got := db.queryValue(`SELECT watermark FROM ` + quoteTable(db.watermarks) + ` WHERE slot = '` + db.slot + `'`); got != "existence-check" {
		t.Errorf("watermark %q", got)
	}
	if got := db.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", db.slot); got != "0" {
		t.Error("validation has created a slot")
	}
}

// All that may be created is created, by a role that may.
func TestPrerequisitesCreated(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	db.exec("DROP PUBLICATION " + quoteIdent(db.publication))
	db.exec("DROP TABLE " + quoteTable(db.watermarks))
	one, parent, child, later := db.table("one"), db.table("parent"), db.table("child"), db.table("later")
	db.exec("CREATE TABLE " + quoteTable(one) + " (id int PRIMARY KEY)")
	db.exec("CREATE TABLE " + quoteTable(parent) + " (id int PRIMARY KEY)")
	db.exec("CREATE TABLE " + quoteTable(child) + " () INHERITS (" + quoteTable(parent) + ")")
	db.exec("CREATE TABLE " + quoteTable(later) + " (id int PRIMARY KEY)")
	d := db.connect(db.asOwner())

	faults, warnings := db.check(d, requirement{one, []string{"id"}}, requirement{parent, []string{"id"}})
	wantLines(t, "fault", faults, nil)
	wantLines(t, "warning", warnings, nil)
	if got := db.members(); got != "one parent watermarks" {
		t.Errorf("members %q", got)
	}
	if got := db.queryValue("SELECT puballtables::text || pubviaroot::text FROM pg_publication WHERE pubname = $1", db.publication); got != "falsetrue" {
		t.Errorf("all tables, via root: %s", got)
	}

	faults, _ = db.check(d, requirement{one, []string{"id"}}, requirement{later, []string{"id"}})
	wantLines(t, "fault", faults, nil)
	if got := db.members(); got != "later one parent watermarks" {
		t.Errorf("members %q", got)
	}

	// Read-only captures need no watermarks.
	db.exec("DROP TABLE " + quoteTable(db.watermarks))
	s := db.asOwner()
	s.readOnly = true
	faults, _ = db.check(db.connect(s), requirement{one, []string{"id"}})
	wantLines(t, "fault", faults, nil)
	if got := db.members(); got != "later one parent" {
		t.Errorf("members %q", got)
	}
}

// A role without any right is told everything at once; a superuser who runs what it is told makes it pass.
func TestPrerequisitesRestrictedRole(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	db.exec("DROP PUBLICATION " + quoteIdent(db.publication))
	role := db.name("nobody")
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'secret1234'", quoteIdent(role)))
	t.Cleanup(func() {
		db.exec("DROP OWNED BY " + quoteIdent(role))
		db.exec("DROP ROLE " + quoteIdent(role))
	})
	schema := db.createSchema("hidden")
	hidden := tableName{schema, "t"}
	db.exec("CREATE TABLE " + quoteTable(hidden) + " (id int PRIMARY KEY)")
	other := db.table("other")
	db.exec("CREATE TABLE " + quoteTable(other) + " (id int PRIMARY KEY, b int NOT NULL UNIQUE)")
	gone := tableName{schema, "gone"}

	s := db.settings()
	s.user, s.password = role, "secret1234"
	d := db.connect(s)
	tables := []requirement{{hidden, []string{"id"}}, {other, []string{"b"}}, {gone, nil}}
	faults, warnings := db.check(d, tables...)
	wantLines(t, "warning", warnings, nil)
	wantLines(t, "fault", faults, []string{
		`the role "nobody" may not replicate. Run: ALTER ROLE "nobody" REPLICATION; (on Amazon RDS: GRANT rds_replication TO ` +
			`"nobody";)`,
		`the role "nobody" may not write to the watermarks table test.watermarks: permission denied for schema test (SQLSTATE ` +
			`42501). Run: GRANT USAGE ON SCHEMA "test" TO "nobody"; GRANT SELECT, INSERT, UPDATE ON "test"."watermarks" TO "nobody";`,
		`the publication "pub" does not exist and could not be created: permission denied for database ` + *testDatabase +
			` (SQLSTATE 42501). Run as the owner of the tables, or as a superuser: CREATE PUBLICATION "pub" FOR TABLE ONLY ` +
			`"test"."watermarks", ONLY "hidden"."t", ONLY "test"."other" WITH (publish_via_partition_root = true);`,
		`the role "nobody" may not use schema "hidden", which holds table hidden.t. Run: GRANT USAGE ON SCHEMA "hidden" TO "nobody";`,
		`the role "nobody" may not read table hidden.t. Run: GRANT SELECT ON "hidden"."t" TO "nobody";`,
		`the role "nobody" may not use schema "test", which holds table test.other. The statement for that is above`,
		`the role "nobody" may not read table test.other. Run: GRANT SELECT ON "test"."other" TO "nobody";`,
		`table hidden.gone does not exist. If it was dropped or renamed, remove the binding`,
		`table test.other: updates and deletes would carry only the replica identity (its primary key: id), not the collection key ` +
			`(b), so that they could not be matched to documents. Run: ALTER TABLE "test"."other" REPLICA IDENTITY USING INDEX ` +
			`"other_b_key";`,
	})

	// Every statement of the faults is run as shown.
	_, err := checkPrerequisites(db.ctx, d, tables)
	db.exec("CREATE TABLE " + quoteTable(gone) + " (id int)")
	db.exec("GRANT SELECT ON " + quoteTable(gone) + " TO " + quoteIdent(role))
	db.runRemedies(err)
	faults, _ = db.check(d, tables...)
	wantLines(t, "fault", faults, []string{
		`table hidden.gone has no replica identity: once it is in the publication "pub" the server rejects every UPDATE and DELETE of ` +
			`its rows, so the capture does not add it as it is. Run as the owner of both, or as a superuser: ALTER TABLE "hidden"."gone" ` +
			`REPLICA IDENTITY FULL; ALTER PUBLICATION "pub" ADD TABLE ONLY "hidden"."gone"; (If its rows are never updated or deleted, ` +
			`the last statement is enough.)`,
	})
	_, err = checkPrerequisites(db.ctx, d, tables)
	db.runRemedies(err)
	faults, warnings = db.check(d, tables...)
	wantLines(t, "fault", faults, nil)
	wantLines(t, "warning", warnings, nil)
}

var remedyPattern = regexp.MustCompile(`(?:ALTER|GRANT|CREATE) [^;]*;`)

// runRemedies runs the SQL that an error tells to run, but what is for another provider.
func (db *testDB) runRemedies(err error) {
	db.Helper()
	if err == nil {
		db.Fatal("there is nothing to remedy")
	}
	for _, sql := range remedyPattern.FindAllString(err.Error(), -1) {
		if !strings.Contains(sql, "rds_replication") {
			db.exec(sql)
		}
	}
}

func TestPrerequisitesTables(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(150000)
	view, unlogged, sequence := db.table("view"), db.table("unlogged"), db.table("sequence")
	filtered, listed := db.createTable("filtered", "(id int PRIMARY KEY)"), db.table("listed")
	db.exec("CREATE VIEW " + quoteTable(view) + " AS SELECT 1 AS id")
	t.Cleanup(func() {
		db.exec("DROP VIEW " + quoteTable(view))
		db.exec("DROP SEQUENCE " + quoteTable(sequence))
	})
	db.exec("CREATE UNLOGGED TABLE " + quoteTable(unlogged) + " (id int PRIMARY KEY)")
	db.exec("CREATE SEQUENCE " + quoteTable(sequence))
	db.exec("ALTER TABLE " + quoteTable(filtered) + " ENABLE ROW LEVEL SECURITY")
	db.exec("CREATE TABLE " + quoteTable(listed) + " (id int, b int, c int, PRIMARY KEY (id, b))")
	db.exec(fmt.Sprintf("GRANT SELECT (id, c) ON %s TO %s", quoteTable(listed), quoteIdent(*testCaptureUser)))
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s (id, c)", quoteIdent(db.publication), quoteTable(listed)))
	faults, warnings := db.check(db.connect(nil), requirement{view, nil}, requirement{unlogged, []string{"id"}},
		requirement{sequence, nil}, requirement{filtered, []string{"id"}}, requirement{listed, []string{"id", "b"}},
		requirement{tableName{"no such", "t"}, nil}, requirement{tableName{"test", strings.Repeat("x", 70)}, nil})
	user := quoteIdent(*testCaptureUser)
	wantLines(t, "fault", faults, []string{
		`test.view is a view: capture the tables that it reads`,
		`test.unlogged is unlogged: its changes are not written to the WAL. Run: ALTER TABLE "test"."unlogged" SET LOGGED; ` +
			`ALTER PUBLICATION "pub" ADD TABLE ONLY "test"."unlogged";`,
		`test.sequence is a sequence`,
		`table test.listed: the column list of publication "pub" lacks "b", which the collection key has. Run as the owner of both, or ` +
			`as a superuser: ALTER PUBLICATION "pub" DROP TABLE "test"."listed"; ALTER PUBLICATION "pub" ADD TABLE ONLY "test"."listed" ("id", "c", "b");`,
		`table no such.t: there is no schema "no such". If it was dropped or renamed, remove the binding`,
		`table test.` + strings.Repeat("x", 70) + ` does not exist. If it was dropped or renamed, remove the binding`,
	})
	wantLines(t, "warning", warnings, []string{
		`table test.filtered: row-level security hides rows from the role ` + user + `, so that the backfill may lack rows whose ` +
			`changes are captured. To see all, run: ALTER ROLE ` + user + ` BYPASSRLS;`,
		`table test.listed: the server rejects every UPDATE and DELETE of it, because publication "pub" has a column list that lacks ` +
			`columns of the replica identity ("id", "b"); inserts are captured. To allow them, set its entry anew (ALTER PUBLICATION ` +
			`"pub" DROP TABLE "test"."listed"; then ADD TABLE), or another REPLICA IDENTITY`,
	})

	s := db.settings()
	s.flags.skipTablePrerequisites = true
	faults, warnings = db.check(db.connect(s), requirement{view, nil}, requirement{unlogged, nil})
	wantLines(t, "fault", faults, nil)
	wantLines(t, "warning", warnings, nil)
	s.publication, s.flags.skipPrerequisites = db.name("none"), true
	faults, _ = db.check(db.connect(s), requirement{view, nil})
	wantLines(t, "fault", faults, nil)
}

func TestPrerequisitesPartitions(t *testing.T) {
	db := newTestDB(t)
	db.requireVersion(130000)
	root := db.createTable("root", "(id int, b int NOT NULL, PRIMARY KEY (id)) PARTITION BY LIST (id)")
	middle, leaf, plain := db.table("middle"), db.table("leaf"), db.table("plain")
	db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s DEFAULT PARTITION BY LIST (id)", quoteTable(middle), quoteTable(root)))
	db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES IN (1)", quoteTable(leaf), quoteTable(middle)))
	db.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF %s FOR VALUES IN (2)", quoteTable(plain), quoteTable(middle)))
	db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY NOTHING", quoteTable(leaf)))
	db.exec(fmt.Sprintf("GRANT SELECT ON %s, %s TO %s", quoteTable(leaf), quoteTable(plain), quoteIdent(*testCaptureUser)))
	d := db.connect(nil)

	faults, warnings := db.check(d, requirement{root, []string{"id"}})
	wantLines(t, "fault", faults, nil)
	wantLines(t, "warning", warnings, []string{
		`table test.root (partition test.leaf) has no replica identity: the server rejects every UPDATE and DELETE of it while it ` +
			`is in the publication; inserts are captured. To allow them, run: ALTER TABLE "test"."leaf" REPLICA IDENTITY DEFAULT;`,
	})
	faults, _ = db.check(d, requirement{root, []string{"b"}}, requirement{root, nil}, requirement{leaf, []string{"id"}})
	wantLines(t, "fault", faults, []string{
		`table test.leaf is a partition of test.root, and the publication "pub" publishes its changes as those of test.root. Capture ` +
			`that table instead, or run: ALTER PUBLICATION "pub" SET (publish_via_partition_root = false);`,
		`table test.root (partition test.plain): updates and deletes would carry only the replica identity (its primary key: id), ` +
			`not the collection key (b), so that they could not be matched to documents. Run: ALTER TABLE "test"."plain" REPLICA ` +
			`IDENTITY FULL;`,
	})

	db.exec(fmt.Sprintf("ALTER PUBLICATION %s SET (publish_via_partition_root = false)", quoteIdent(db.publication)))
	faults, _ = db.check(d, requirement{root, []string{"id"}}, requirement{leaf, []string{"id"}})
	wantLines(t, "fault", faults, []string{
		`table test.root is partitioned, and the publication "pub" publishes its changes as those of its partitions. Run: ALTER ` +
			`PUBLICATION "pub" SET (publish_via_partition_root = true);`,
	})
}

// The tables that can be added are, whatever keeps others out.
func TestPrerequisitesMembers(t *testing.T) {
	db := newTestDB(t)
	role := db.name("owner")
	db.exec(fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD 'secret1234'", quoteIdent(role)))
	t.Cleanup(func() {
		db.exec("DROP OWNED BY " + quoteIdent(role))
		db.exec("DROP ROLE " + quoteIdent(role))
	})
	db.exec(fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", quoteIdent(*testDatabase), quoteIdent(role)))
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s OWNER TO %s", quoteIdent(db.publication), quoteIdent(role)))
	db.exec(fmt.Sprintf("GRANT USAGE ON SCHEMA test TO %s", quoteIdent(role)))
	db.exec(fmt.Sprintf("GRANT ALL ON %s TO %s", quoteTable(db.watermarks), quoteIdent(role)))
	var tables []requirement
	for _, base := range []string{"a", "b", "c", "d"} {
		name := db.table(base)
		db.exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY)", quoteTable(name)))
		db.exec(fmt.Sprintf("GRANT SELECT ON %s TO %s", quoteTable(name), quoteIdent(role)))
		if base == "b" || base == "d" {
			db.exec(fmt.Sprintf("ALTER TABLE %s OWNER TO %s", quoteTable(name), quoteIdent(role)))
		}
		tables = append(tables, requirement{name, []string{"id"}})
	}
	s := db.settings()
	s.user, s.password = role, "secret1234"
	d := db.connect(s)
	faults, _ := db.check(d, tables...)
	wantLines(t, "fault", faults, []string{
		`2 tables (test.a, test.c) are not in the publication "pub" and could not be added: must be owner of table a (SQLSTATE 42501). ` +
			`Run as the owner of both, or as a superuser: ALTER PUBLICATION "pub" ADD TABLE ONLY "test"."a", ONLY "test"."c";`,
	})
	if got := db.members(); got != "b d watermarks" {
		t.Errorf("members %q", got)
	}
	_, err := checkPrerequisites(db.ctx, d, tables)
	db.runRemedies(err)
	if faults, _ := db.check(d, tables...); len(faults) != 0 {
		t.Error(faults)
	}
}

// A capture that starts is told which tables are unfit, each with all its faults, and fails only for what all need.
func TestOpenPrerequisites(t *testing.T) {
	db := newTestDB(t)
	fine, unfit := db.createTable("fine", "(id int PRIMARY KEY)"), db.table("unfit")
	db.exec("CREATE TABLE " + quoteTable(unfit) + " (id int PRIMARY KEY, b int)")
	db.grant(unfit)
	gone := tableName{"test", db.name("gone")}
	tables := []requirement{{fine, []string{"id"}}, {gone, nil}, {unfit, []string{"b"}}}
	got, warnings, err := openPrerequisites(db.ctx, db.connect(nil), tables, checkFirst)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, "warning", warnings, nil)
	want := map[string]string{
		"test.gone": `table test.gone does not exist. If it was dropped or renamed, remove the binding`,
		"test.unfit": `table test.unfit is not in the publication "pub" and could not be added: must be owner of publication pub ` +
			`(SQLSTATE 42501). Run as the owner of both, or as a superuser: ALTER PUBLICATION "pub" ADD TABLE ONLY "test"."unfit"; And: ` +
			`table test.unfit: updates and deletes would carry only the replica identity (its primary key: id), not the collection ` +
			`key (b), so that they could not be matched to documents. Run: ALTER TABLE "test"."unfit" REPLICA IDENTITY FULL;`,
	}
	for name, text := range got {
		if sane := db.sanitize(name.String()); db.sanitize(text) != want[sane] {
			t.Errorf("%s\ngot  %s\nwant %s", sane, db.sanitize(text), want[sane])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d unfit tables, want %d", len(got), len(want))
	}

	// Without its watermarks in the publication no binding can go on.
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE %s", quoteIdent(db.publication), quoteTable(db.watermarks)))
	_, _, err = openPrerequisites(db.ctx, db.connect(nil), tables, checkFirst)
	wantPrefix := "the database is not ready for this capture:\n  - 2 tables (test.watermarks, test.unfit) are not in the publication"
	if !strings.HasPrefix(db.sanitize(errorText(err)), wantPrefix) {
		t.Errorf("got %v", err)
	}
	s := db.settings()
	s.flags.skipPrerequisites = true
	got, _, err = openPrerequisites(db.ctx, db.connect(s), tables, checkFirst)
	if err != nil || len(got) != 0 {
		t.Errorf("skipped: %v, %v", got, err)
	}
}

func TestPrerequisitesSlotAndWatermarks(t *testing.T) {
	db := newTestDB(t)
	s := db.settings()
	s.flags.createReplicationSlot = false
	s.watermarks = tableName{db.createSchema("closed"), "watermarks"}
	d := db.connect(s)
	faults, _ := db.check(d)
	user := quoteIdent(*testCaptureUser)
	wantLines(t, "fault", faults, []string{
		`the replication slot "slot" does not exist, and the feature flag no_create_replication_slot forbids creating it. Run: ` +
			`SELECT pg_create_logical_replication_slot('slot', 'pgoutput');`,
		`the watermarks table closed.watermarks does not exist and could not be created: permission denied for schema closed ` +
			`(SQLSTATE 42501). Run: CREATE TABLE IF NOT EXISTS "closed"."watermarks" (slot TEXT PRIMARY KEY, watermark TEXT); ` +
			`GRANT SELECT, INSERT, UPDATE ON "closed"."watermarks" TO ` + user +
			"; Or set `advanced.read_only_capture`",
		`the watermarks table closed.watermarks must be in the publication "pub", too. Run as the owner of both, or as a superuser, once ` +
			`there is one: ALTER PUBLICATION "pub" ADD TABLE ONLY "closed"."watermarks";`,
	})
	_, err := checkPrerequisites(db.ctx, d, nil)
	db.runRemedies(err)
	db.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.slot)
	faults, _ = db.check(d)
	wantLines(t, "fault", faults, nil)

	db.exec("ALTER TABLE " + quoteTable(s.watermarks) + " DROP COLUMN slot")
	db.exec("SELECT pg_drop_replication_slot($1)", db.slot)
	db.exec("SELECT pg_create_physical_replication_slot($1)", db.slot)
	faults, _ = db.check(d)
	wantLines(t, "fault", faults, []string{
		`the replication slot "slot" is a physical slot, the capture needs a logical one. Set ` + "`advanced.slotName`" + ` to a name ` +
			`that nothing else uses, or, if nothing needs that slot, drop it: SELECT pg_drop_replication_slot('slot');`,
		`cannot write to the watermarks table closed.watermarks: column "slot" of relation "watermarks" does not exist (SQLSTATE ` +
			`42703). It must have been created by: CREATE TABLE IF NOT EXISTS "closed"."watermarks" (slot TEXT PRIMARY KEY, watermark ` +
			"TEXT); Drop or rename the one there is, or set `advanced.watermarksTable` to another name",
	})
}

// A check that cannot be made is one fault among the others.
func TestPrerequisitesHideNothing(t *testing.T) {
	db := newTestDB(t)
	s := db.settings()
	s.publication = "not\x00a name"
	faults, _ := db.check(db.connect(s), requirement{tableName{"test", "gone"}, nil}, requirement{tableName{"test", "a\x00b"}, nil})
	if len(faults) == 0 || !slices.ContainsFunc(faults, func(f string) bool { return strings.HasPrefix(f, "cannot check the publication") }) {
		t.Errorf("faults %q", faults)
	}
	ctx, cancel := context.WithCancelCause(db.ctx)
	cancel(errors.New("stopped by the test"))
	if _, err := checkPrerequisites(ctx, db.connect(nil), nil); !strings.Contains(errorText(err), "stopped by the test") {
		t.Errorf("cancelled: %v", err)
	}
}

// A thousand tables take the queries of one.
func TestPrerequisitesOfManyTables(t *testing.T) {
	if testing.Short() {
		t.Skip("creates 1,000 tables")
	}
	db := newTestDB(t)
	schema := db.createSchema("many")
	db.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..1000 LOOP
		EXECUTE format('CREATE TABLE %s.t%%s (id int PRIMARY KEY)', i); END LOOP; END $$`, quoteIdent(schema)))
	var tables []requirement
	for i := range 1000 {
		tables = append(tables, requirement{tableName{schema, fmt.Sprintf("t%d", i+1)}, []string{"id"}})
	}
	d := db.connect(db.asOwner())
	for range 2 {
		begin := time.Now()
		faults, warnings := db.check(d, tables...)
		wantLines(t, "fault", faults, nil)
		wantLines(t, "warning", warnings, nil)
		if took := time.Since(begin); took > allow(10*time.Second) {
			t.Errorf("took %s", took)
		} else {
			t.Logf("took %s", took)
		}
	}
}
