// discovery_prerequisites.go owns what the server must have: it is checked, created where permitted, and explained with the SQL
// that fixes it. Invariants: all faults are told at once, a check that cannot be made hides no other, the number of queries
// does not grow with the number of tables, and nothing is written but the watermarks table with our row in it, the
// publication, and its members.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// checkPrerequisites checks what the server must have for a capture of the tables, creating the watermarks table, the
// publication and its members where permitted. All faults are in one userError, each with the server's reason and the SQL
// that fixes it; warnings are what the operator should know though the capture can run.
//
// captured are those tables that are captured already with the same key: what only a capture that began now would not get right is
// told of them by a warning.
func checkPrerequisites(ctx context.Context, db *database, tables []requirement, captured ...tableName) (warnings []string, err error) {
	c, err := runChecks(ctx, db, tables, captured, checkFirst)
	if err != nil {
		return nil, err
	}
	return c.warnings, faultsError(c.faults)
}

// readinessFaults makes those of the checks that create nothing: the server's settings, our role's rights, replication, the slot
// and whether the tables can be read.
func readinessFaults(ctx context.Context, db *database, tables []tableName) (warnings []string, err error) {
	c := &checker{db: db, s: db.settings, captured: make(map[tableName]bool), untold: make(map[tableName]string)}
	for _, t := range tables {
		c.tables = append(c.tables, requirement{table: t})
	}
	if db.settings.flags.skipPrerequisites {
		return nil, nil
	}
	err = db.with(ctx, func(conn *pgx.Conn) error {
		c.conn = conn
		for _, check := range []func(context.Context) error{
			c.checkServer, c.checkReplication, c.checkSlot, c.readPublication, c.findTables, c.checkTables,
		} {
			if err := check(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.warnings, faultsError(c.faults)
}

// openPrerequisites is checkPrerequisites for a capture that starts: the faults of single tables, which keep only their own
// bindings from going on, are apart from those of the whole capture.
func openPrerequisites(ctx context.Context, db *database, tables []requirement, of checkedCapture,
) (unfit map[tableName]string, warnings []string, err error) {
	unfit, _, warnings, err = resumePrerequisites(ctx, db, tables, nil, of)
	return unfit, warnings, err
}

// resumePrerequisites is openPrerequisites for a capture some tables of which are captured already. Of these, untold are those
// whose replica identity lacks the collection key: they may go on until a change comes whose old key is not told.
func resumePrerequisites(ctx context.Context, db *database, tables []requirement, captured []tableName, of checkedCapture,
) (unfit, untold map[tableName]string, warnings []string, err error) {
	c, err := runChecks(ctx, db, tables, captured, of)
	if err != nil {
		return nil, nil, nil, err
	}
	var general []fault
	unfit = make(map[tableName]string)
	for _, f := range c.faults {
		if len(f.tables) == 0 || !c.s.readOnly && slices.Contains(f.tables, c.s.watermarks) {
			general = append(general, f)
			continue
		}
		for _, t := range f.tables {
			if unfit[t] != "" {
				unfit[t] += " And: "
			}
			unfit[t] += f.text
		}
	}
	return unfit, c.untold, c.warnings, faultsError(general)
}

func runChecks(ctx context.Context, db *database, tables []requirement, captured []tableName, of checkedCapture) (*checker, error) {
	c := &checker{
		db: db, s: db.settings, tables: tables, of: of, captured: make(map[tableName]bool, len(captured)), untold: make(map[tableName]string),
	}
	for _, t := range captured {
		c.captured[t] = true
	}
	if db.settings.flags.skipPrerequisites {
		return c, nil
	}
	err := db.with(ctx, func(conn *pgx.Conn) error {
		c.conn = conn
		return c.run(ctx)
	})
	return c, err
}

// run makes the checks. Its error is one that ends them all: the connection or the context.
func (c *checker) run(ctx context.Context) error {
	if c.db.version < 100000 {
		c.fault("the server is PostgreSQL %s, the capture needs 10 or newer: upgrade it", versionText(c.db.version))
		return nil
	}
	for _, check := range []struct {
		what string
		make func(context.Context) error
	}{
		{"the server's settings", c.checkServer},
		{"replication connections", c.checkReplication},
		{fmt.Sprintf("the replication slot %q", c.s.slot), c.checkSlot},
		{fmt.Sprintf("the watermarks table %s", c.s.watermarks), c.checkWatermarks},
		{fmt.Sprintf("the publication %q", c.s.publication), c.checkPublication},
		{"the tables", c.checkTables},
		{"the members of the publication", c.checkMembers},
		{"what is published of the watermarks table", c.checkPublishedWatermarks},
		{"the replica identities", c.checkIdentities},
	} {
		err := check.make(ctx)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("check the prerequisites: %w", context.Cause(ctx))
		case err != nil && c.conn.IsClosed():
			return fmt.Errorf("check the prerequisites: the connection was lost: %w", err)
		case err != nil:
			c.fault("cannot check %s: %s", check.what, serverReason(err))
		}
	}
	return nil
}

// --- the server

// Membership in rds_replication takes the place of the REPLICATION attribute on Amazon RDS.
const sqlServerFacts = `
SELECT jsonb_build_object(
	'user', current_user,
	'session', session_user,
	'application', current_setting('application_name'),
	'replication', (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = session_user)
		OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(session_user, oid, 'MEMBER')),
	'wal_level', current_setting('wal_level'),
	'effective_wal_level', current_setting('effective_wal_level', true),
	'synchronous_standby_names', current_setting('synchronous_standby_names'),
	'synchronized_standby_slots', current_setting('synchronized_standby_slots', true),
	'hot_standby_feedback', current_setting('hot_standby_feedback'),
	'idle_replication_slot_timeout', current_setting('idle_replication_slot_timeout', true),
	'max_slots', current_setting('max_replication_slots')::int,
	'max_senders', current_setting('max_wal_senders')::int,
	'slots', (SELECT count(*) FROM pg_replication_slots),
	'senders', (SELECT count(*) FROM pg_stat_replication)
)::text`

func (c *checker) checkServer(ctx context.Context) error {
	var text string
	if err := c.conn.QueryRow(ctx, sqlServerFacts).Scan(&text); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &c.server); err != nil {
		return err
	}
	c.judgeServer()
	return nil
}

// judgeServer finds the faults of the server's settings and our role's rights.
func (c *checker) judgeServer() {
	f := &c.server
	// Where effective_wal_level exists, the first logical slot raises it from replica by itself.
	if f.WALLevel != "logical" && (f.EffectiveWALLevel == "" || f.WALLevel == "minimal") {
		c.fault("logical replication is not enabled: wal_level is %s. Run: ALTER SYSTEM SET wal_level = logical; and restart "+
			"the server (Amazon RDS and Aurora: parameter rds.logical_replication = 1; Google Cloud SQL: flag "+
			"cloudsql.logical_decoding = on; Azure: wal_level = LOGICAL in the server parameters)", f.WALLevel)
	}
	if !f.Replication {
		c.fault("the role %s may not replicate. Run: ALTER ROLE %s REPLICATION; (on Amazon RDS: GRANT rds_replication TO %s;)",
			quoteIdent(f.Session), quoteIdent(f.Session), quoteIdent(f.Session))
	}
	switch {
	case !c.s.failoverSlot:
	case c.db.version < 170000:
		c.fault("`advanced.failover_slot` needs PostgreSQL 17 or newer, and the server is version %s: remove it, or set it to false",
			versionText(c.db.version))
	case c.db.standby:
		c.fault("the server is a standby, where no failover slot can be made: connect to the primary, or remove " +
			"`advanced.failover_slot`")
	case f.SynchronizedSlots == "":
		c.warn("synchronized_standby_slots is empty, so that the capture may read what its standby does not have yet, and loses its " +
			"place if that one is promoted then. Name there the physical slots of the standbys that are meant, and run: SELECT " +
			"pg_reload_conf();")
	}
	if c.db.standby {
		if c.db.version < 160000 {
			c.fault("the server is a standby of version %s, which cannot decode logically before version 16: connect to the "+
				"primary", versionText(c.db.version))
		}
		if !c.s.readOnly {
			c.fault("the server is a standby, where no watermarks can be written: set `advanced.read_only_capture`, or connect " +
				"to the primary")
		}
		if f.HotStandbyFeedback != "on" {
			c.warn("hot_standby_feedback is off on this standby, so that VACUUM on the primary can invalidate the replication " +
				"slot. Run on the standby: ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf();")
		}
	} else if matchesStandby(f.SynchronousNames, f.Application) { // a standby's own walsenders are never synchronous
		if c.of != checkFirst { // it is not held to be one (replication.go), and stopped it would help nobody
			c.warn("%s", synchronousText(f.SynchronousNames, f.Application))
		} else {
			c.fault("synchronous_standby_names = %s would make this capture (application_name %s) a synchronous standby: where no other "+
				"is there, every commit of the database would wait for it. Set it to the names of the standbys that are meant, and "+
				"run: SELECT pg_reload_conf();", literal(f.SynchronousNames), f.Application)
		}
	}
	if t := f.IdleSlotTimeout; t != "" && t != "0" && t != "0s" {
		c.warn("idle_replication_slot_timeout is %s: a capture that is stopped for longer loses its replication slot, and has "+
			"to re-backfill", t)
	}
}

// versionText is server_version_num as people write it.
func versionText(version int) string {
	if version >= 100000 {
		return fmt.Sprintf("%d.%d", version/10000, version%10000)
	}
	return fmt.Sprintf("%d.%d", version/10000, version/100%100)
}

// checkReplication opens a replication connection, and one more: both must lead to the server that was connected to first.
func (c *checker) checkReplication(ctx context.Context) error {
	if len(c.faults) > 0 && !c.server.Replication || c.server.Senders >= c.server.MaxSenders {
		return nil // told already, or by checkSlot if the capture needs a new connection
	}
	conn, err := c.db.connectReplication(ctx)
	if err != nil {
		c.fault("%s", strings.TrimSuffix(err.Error(), "."))
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := pglogrepl.IdentifySystem(ctx, conn); err != nil {
		c.fault("a replication connection does not know the replication protocol (%s): %s", serverReason(err), pooler)
		return nil
	}
	again := &database{settings: c.s}
	if err := again.probe(ctx); err != nil {
		c.fault("%v", err)
		return nil
	}
	err = c.db.check(ctx, conn)
	if err == nil && again.started.Load() != c.db.started.Load() {
		err = errOtherServer
	}
	if err != nil {
		c.fault("a replication connection: %s", serverReason(err))
	}
	return nil
}

// --- the slot

func (c *checker) checkSlot(ctx context.Context) error {
	status, err := readSlot(ctx, c.conn, c.s.slot)
	if err != nil {
		return err
	}
	if foreign := foreignSlot(status); foreign != "" {
		c.fault("%s", foreign)
	}
	if status.exists {
		return nil
	}
	if !c.s.flags.createReplicationSlot {
		c.fault("the replication slot %q does not exist, and the feature flag no_create_replication_slot forbids creating it. "+
			"Run: SELECT pg_create_logical_replication_slot(%s, 'pgoutput');", c.s.slot, literal(c.s.slot))
		return nil
	}
	f := &c.server
	if f.User == "" { // its settings could not be read, which is a fault already
		return nil
	}
	if f.Slots >= f.MaxSlots {
		c.fault("the server has no replication slot left: all %d of max_replication_slots are taken. Drop one that nothing uses "+
			"(SELECT slot_name, active FROM pg_replication_slots;), or run: ALTER SYSTEM SET max_replication_slots = %d; and "+
			"restart the server", f.MaxSlots, f.MaxSlots+5)
	}
	if f.Senders >= f.MaxSenders {
		c.fault("the server has no replication connection left: all %d of max_wal_senders are taken. End one (SELECT pid, "+
			"application_name FROM pg_stat_replication;), or run: ALTER SYSTEM SET max_wal_senders = %d; and restart the server",
			f.MaxSenders, f.MaxSenders+5)
	}
	return nil
}

// --- the watermarks table

// checkWatermarks writes our row as a capture does, creating the table if it does not exist. A capture that has nothing to read looks
// whether it could.
func (c *checker) checkWatermarks(ctx context.Context) error {
	if c.s.readOnly || c.db.standby {
		return nil
	}
	if c.of == checkCaptured {
		if c.stands = c.rowStands(ctx); c.stands {
			return nil
		}
	}
	before := len(c.faults)
	defer func() { c.unwritten = len(c.faults) > before }()
	create := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (slot TEXT PRIMARY KEY, watermark TEXT);", quoteTable(c.s.watermarks))
	err := c.probeWatermarks(ctx)
	if code := sqlState(err); code == codeUndefinedTable || code == codeInvalidSchema {
		failpoint("watermarks.before")
		if err = c.write(ctx, create, lockWait); err != nil {
			return c.judgeNoWatermarks(ctx, err, create)
		}
		failpoint("watermarks.after")
		err = c.probeWatermarks(ctx)
	}
	switch code := sqlState(err); {
	case err == nil || code == "":
		return err
	case code == codePrivilege:
		return c.judgeWatermarkRights(ctx, err, create)
	case code == codePrerequisite: // no replica identity (execReplication.c, CheckCmdReplicaIdentity)
		c.fault("cannot write to the watermarks table %s: %s. Run: ALTER TABLE %s REPLICA IDENTITY FULL;", c.s.watermarks,
			serverReason(err), quoteTable(c.s.watermarks))
	case shapeFaults[code[:2]] || shapeFaults[code]:
		c.fault("cannot write to the watermarks table %s: %s. It must have been created by: %s Drop or rename the one there is, "+
			"or set `advanced.watermarksTable` to another name", c.s.watermarks, serverReason(err), create)
	default: // no fault of the table's
		_, advice := classify(err)
		c.fault("%s", strings.TrimRight(fmt.Sprintf("cannot write to the watermarks table %s: %s. %s", c.s.watermarks, serverReason(err),
			advised(advice, c.s)), ". "))
	}
	return nil
}

// shapeFaults are the SQLSTATEs, and classes of them, of a table, or what else has that name, that is not as it must be: wrong
// columns, types, constraints or kind.
var shapeFaults = map[string]bool{
	codesStatement: true, codesData: true, codesConstraint: true, codePrerequisite: true, codesUnsupported: true,
}

// sqlWatermarkRights tells what there is of the table $2 of schema $1 and what our role may do with it.
const sqlWatermarkRights = `SELECT jsonb_build_object('schema', n.oid IS NOT NULL, 'table', c.oid IS NOT NULL,
	'usage', coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
	'missing', (SELECT string_agg(r, ', ') FROM unnest('{SELECT,INSERT,UPDATE}'::text[]) r
		WHERE NOT coalesce(has_table_privilege(c.oid, r), false)),
	'policies', coalesce(row_security_active(c.oid), false))::text
FROM (SELECT) AS one LEFT JOIN pg_namespace n ON n.nspname = $1 LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2`

// watermarkRights is what sqlWatermarkRights tells.
type watermarkRights struct {
	Schema   bool   `json:"schema"`
	Table    bool   `json:"table"`
	Usage    bool   `json:"usage"`
	Missing  string `json:"missing"` // rights on the table that our role lacks
	Policies bool   `json:"policies"`
}

func (c *checker) watermarkRights(ctx context.Context) (rights watermarkRights, err error) {
	var text string
	if err := c.conn.QueryRow(ctx, sqlWatermarkRights, c.s.watermarks.schema, c.s.watermarks.name).Scan(&text); err != nil {
		return rights, err
	}
	return rights, json.Unmarshal([]byte(text), &rights)
}

// grants are the statements that give our role the rights on the watermarks table that it lacks.
func (c *checker) grants(r watermarkRights) string {
	var statements []string
	if !r.Usage {
		statements = append(statements, c.usage(c.s.watermarks.schema))
	}
	if r.Missing != "" {
		statements = append(statements, fmt.Sprintf("GRANT %s ON %s TO %s;", r.Missing, quoteTable(c.s.watermarks), quoteIdent(c.user())))
	}
	return strings.Join(statements, " ")
}

// judgeNoWatermarks tells that there is no watermarks table and that we could not make it, for the reason of err.
func (c *checker) judgeNoWatermarks(ctx context.Context, err error, create string) error {
	if sqlState(err) == "" {
		return err
	}
	c.watermarksMissing = true
	if sqlState(err) == codeReadOnly {
		c.fault("the watermarks table %s does not exist and could not be created: %s. %s", c.s.watermarks, serverReason(err),
			strings.TrimSuffix(adviceReadOnly, "."))
		return nil
	}
	rights, look := c.watermarkRights(ctx)
	if look != nil {
		return look
	}
	if !rights.Schema {
		create = fmt.Sprintf("CREATE SCHEMA %s; %s", quoteIdent(c.s.watermarks.schema), create)
	}
	c.fault("the watermarks table %s does not exist and could not be created: %s. Run: %s %s Or set `advanced.read_only_capture`",
		c.s.watermarks, serverReason(err), create, c.grants(rights))
	if !rights.Usage {
		c.faults[len(c.faults)-1].usage = c.usage(c.s.watermarks.schema)
	}
	return nil
}

// judgeWatermarkRights tells why our role may not write to the watermarks table.
func (c *checker) judgeWatermarkRights(ctx context.Context, err error, create string) error {
	rights, look := c.watermarkRights(ctx)
	if look != nil {
		return look
	}
	user, reason := quoteIdent(c.user()), serverReason(err)
	switch {
	case !rights.Table: // the server does not say so to a role that may not use the schema
		return c.judgeNoWatermarks(ctx, err, create)
	case !rights.Usage || rights.Missing != "":
		c.fault("the role %s may not write to the watermarks table %s: %s. Run: %s", user, c.s.watermarks, reason, c.grants(rights))
		if !rights.Usage {
			c.faults[len(c.faults)-1].usage = c.usage(c.s.watermarks.schema)
		}
	case rights.Policies:
		c.fault("row-level security keeps the role %s from writing to the watermarks table %s: %s. Run: ALTER TABLE %s DISABLE ROW LEVEL "+
			"SECURITY;", user, c.s.watermarks, reason, quoteTable(c.s.watermarks))
	default:
		c.fault("the role %s has the rights to write to the watermarks table %s, and yet: %s. Something that the table calls, such as a "+
			"trigger, lacks a right: remove it, or grant that", user, c.s.watermarks, reason)
	}
	return nil
}

// rowStands reports whether our row is there and may be written again, as far as the catalog tells. What speaks against it is found
// out by the write that follows.
func (c *checker) rowStands(ctx context.Context) bool {
	rights, err := c.watermarkRights(ctx)
	if err != nil || !rights.Table || !rights.Usage || rights.Missing != "" || rights.Policies {
		return false
	}
	var held *string
	err = c.conn.QueryRow(ctx, "SELECT watermark::text FROM "+quoteTable(c.s.watermarks)+" WHERE slot = $1", c.s.slot).Scan(&held)
	return err == nil
}

// existenceCheck is what our row holds when it may be written.
const existenceCheck = "existence-check"

// probeWatermarks writes our row, which must be possible more than once. It waits for no synchronous standby: what counts is that
// it may write.
func (c *checker) probeWatermarks(ctx context.Context) error {
	return pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local"); err != nil {
			return err
		}
		for _, value := range []string{"existence-probe", existenceCheck} {
			_, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s (slot, watermark) VALUES ($1, $2) "+
				"ON CONFLICT (slot) DO UPDATE SET watermark = excluded.watermark", quoteTable(c.s.watermarks)), c.s.slot, value)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// checkPublishedWatermarks looks whether what is written to our row gets into the stream. REQUIRES: checkWatermarks.
func (c *checker) checkPublishedWatermarks(ctx context.Context) error {
	if c.s.readOnly || c.db.standby || c.publication == nil || !c.publication.Insert || !c.publication.Update ||
		c.unwritten || slices.ContainsFunc(c.faults, func(f fault) bool { return slices.Contains(f.tables, c.s.watermarks) }) {
		return nil // told already
	}
	var written []string
	if !c.stands {
		written = []string{existenceCheck}
	}
	fault, err := watermarksFault(ctx, c.conn, c.s, c.db.version, written...)
	if fault != "" {
		c.fault("%s", fault)
	}
	return err
}

// --- the replica identities

// checkIdentities judges the relations that hold the rows of the bound tables.
func (c *checker) checkIdentities(ctx context.Context) error {
	if c.found == nil {
		return nil
	}
	if err := c.loadHeld(ctx); err != nil {
		return err
	}
	for _, r := range c.tables {
		if f := c.found[r.table]; f.OID == 0 || f.notTable() != "" {
			continue
		}
		why := c.harm(r.table)
		switch {
		case c.s.flags.skipTablePrerequisites:
			if why != "" {
				c.warn("%s", c.harmFault(r, why))
			}
		default:
			c.judgeIdentities(r, c.held[c.found[r.table].OID], why)
		}
	}
	return nil
}

// goesOn is said of a table that is captured though its replica identity lacks the collection key.
const goesOn = "It is captured already, and goes on while rows are only inserted: the first update or delete whose old key is not told parks it"

// judgeIdentities judges the relations that hold a table's rows. harm is why the table was not added to the publication.
func (c *checker) judgeIdentities(r requirement, held []replicaIdentity, harm string) {
	lost, warning := keyFault(r.table, held, r.key)
	switch {
	case lost == "":
	case c.captured[r.table]:
		c.untold[r.table] = lost
		c.warn("%s %s", lost, goesOn)
	default:
		c.tableFault(r.table, "%s", lost)
	}
	switch {
	case harm != "":
		c.tableFault(r.table, "%s", c.harmFault(r, harm))
	case warning != "":
		c.warn("%s", warning)
	}
	user := quoteIdent(c.user())
	if f := c.found[r.table]; f != nil {
		for i := range held {
			if why := f.rejecting(&held[i]); why != "" {
				c.warn("table %s%s: the server rejects every UPDATE and DELETE of it, because publication %q %s; inserts are captured. To "+
					"allow them, set its entry anew (ALTER PUBLICATION %s DROP TABLE %s; then ADD TABLE), or another REPLICA IDENTITY",
					r.table, partitions(r.table, []*replicaIdentity{&held[i]}), c.s.publication, why, quoteIdent(c.s.publication),
					quoteTable(r.table))
				break
			}
		}
	}
	tell := c.tableFault
	if c.captured[r.table] { // the incumbent puts up with it
		tell = func(_ tableName, format string, args ...any) { c.warn(format, args...) }
	}
	for i := range held {
		leaf := &held[i]
		if f := c.found[r.table]; len(leaf.generated) > 0 && harm == "" {
			sends := func(column string) bool { return slices.Contains(f.Columns, column) }
			if warning := leaf.unpublishedWarning(c.s.publication, sends, r.key); warning != "" {
				c.warn("%s", warning)
			}
		}
		switch {
		case leaf.tableName == r.table:
		case leaf.kind == 'f':
			c.warn("table %s: its partition %s is a foreign table, whose changes are not captured (a backfill by key reads its rows once, one in "+
				"the mode %q does not): capture it where it lives", r.table, leaf.tableName, modeKeyless)
		case leaf.persistence == 'u':
			c.tableFault(r.table, "table %s: its partition %s is unlogged: its changes are not written to the WAL. Run: ALTER TABLE %s SET LOGGED;",
				r.table, leaf.tableName, quoteTable(leaf.tableName))
		}
		if leaf.tableName == r.table || leaf.kind == 'f' || len(r.key) > 0 || leaf.usable && leaf.readable {
			continue
		}
		statement, usage := fmt.Sprintf("GRANT SELECT ON %s TO %s;", quoteTable(leaf.tableName), user), ""
		switch {
		case leaf.usable:
		case leaf.readable:
			usage = c.usage(leaf.schema)
			statement = usage
		default:
			usage = c.usage(leaf.schema)
			statement = usage + " " + statement
		}
		told := len(c.faults)
		tell(r.table, "the role %s may not read %s, a partition of %s, which has no key and so is read by partition. Run: %s", user,
			leaf.tableName, r.table, statement)
		if len(c.faults) > told {
			c.faults[told].usage = usage
		}
	}
}
