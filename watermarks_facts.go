// watermarks_facts.go owns what keeps our row out of the stream: whether the watermarks table is one whose changes reach us, and
// whether what is written there is what was meant. It is asked before a capture starts, and when a watermark did not come.
// Invariant: nothing is written here.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// watermarkFacts is what the catalog says of the watermarks table.
type watermarkFacts struct {
	Publication *publicationFacts `json:"publication"` // nil: there is none
	OID         uint32            `json:"oid"`         // 0: there is none
	Kind        string            `json:"kind"`
	Persistence string            `json:"persistence"`
	Published   bool              `json:"published"`
	Ancestor    string            `json:"ancestor"` // a published ancestor of a partition
	Columns     []string          `json:"columns"`  // that are published, nil before version 15
	Filter      string            `json:"filter"`   // SQL of the row filter, "" without one
	Identity    bool              `json:"identity"` // there is a replica identity, without which no update is accepted
	Triggers    []string          `json:"triggers"` // that may change what is written, or drop it
	Rules       []string          `json:"rules"`
	RowSecurity bool              `json:"row_security"`
}

// sqlWatermarkFacts reads the facts of table $2, $3 in publication $1. The %s are the published tables, and what only newer
// versions have: a published ancestor. 3 in tgtype stands for BEFORE and FOR EACH ROW (trigger.h), '1' in ev_type for SELECT.
const sqlWatermarkFacts = `
WITH published AS (%s)
SELECT (jsonb_build_object('publication', (SELECT to_jsonb(b) FROM pg_publication b WHERE b.pubname = $1::text::name),
	'oid', c.oid::int8, 'kind', c.relkind, 'persistence', c.relpersistence, 'published', p.tablename IS NOT NULL,
	'columns', to_jsonb(p.attnames), 'filter', coalesce(p.rowfilter, ''), 'ancestor', coalesce(%s, ''),
	'identity', c.relkind = 'p' OR CASE c.relreplident WHEN 'f' THEN true
		WHEN 'd' THEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary AND x.indisvalid)
		WHEN 'i' THEN EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid) ELSE false END,
	'triggers', (SELECT jsonb_agg(g.tgname ORDER BY g.tgname) FROM pg_trigger g
		WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') AND g.tgtype & 3 = 3),
	'rules', (SELECT jsonb_agg(r.rulename ORDER BY r.rulename) FROM pg_rewrite r
		WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled IN ('O', 'A')),
	'row_security', c.relrowsecurity AND row_security_active(c.oid)))::text
FROM (SELECT) AS one
LEFT JOIN pg_class c ON c.oid = (SELECT t.oid FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
	WHERE n.nspname = $2::text::name AND t.relname = $3::text::name)
LEFT JOIN published p ON p.schemaname = $2::text::name AND p.tablename = $3::text::name`

// watermarksFault says what keeps our row out of the stream and what mends that, "" when nothing does that can be seen. What
// our row holds must be one of the values, if any are given.
func watermarksFault(ctx context.Context, conn *pgx.Conn, s *settings, version int, values ...string) (string, error) {
	ancestor := "NULL"
	if version >= 130000 {
		ancestor = sqlAncestor
	}
	var text string
	facts := new(watermarkFacts)
	err := conn.QueryRow(ctx, fmt.Sprintf(sqlWatermarkFacts, publishedTables(version/10000, "$1::text::name"), ancestor),
		s.publication, s.watermarks.schema, s.watermarks.name).Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), facts)
	}
	if err != nil {
		return "", err
	}
	if fault := facts.fault(s); fault != "" {
		return fault, nil
	}
	if fault, err := facts.filterFault(ctx, conn, s); fault != "" || err != nil || len(values) == 0 {
		return fault, err
	}
	var held *string
	err = conn.QueryRow(ctx, "SELECT watermark::text FROM "+quoteTable(s.watermarks)+" WHERE slot = $1", s.slot).Scan(&held)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", err
	}
	if held != nil && slices.Contains(values, *held) {
		return "", nil
	}
	return facts.changedFault(s), nil
}

// fault judges the facts.
func (f *watermarkFacts) fault(s *settings) string {
	table, publication := quoteTable(s.watermarks), quoteIdent(s.publication)
	name := fmt.Sprintf("the watermarks table %s", s.watermarks)
	switch {
	case f.Publication == nil:
		return fmt.Sprintf("the publication %q does not exist. Make it again, for the watermarks table and all tables that are captured: "+
			"CREATE PUBLICATION %s FOR TABLE ONLY %s, …;", s.publication, publication, table)
	case !f.Publication.Insert || !f.Publication.Update:
		return fmt.Sprintf("the publication %q does not publish inserts and updates. Run: ALTER PUBLICATION %s SET (publish = 'insert, update, "+
			"delete, truncate');", s.publication, publication)
	case f.OID == 0:
		return fmt.Sprintf("%s does not exist. Run: CREATE TABLE %s (slot TEXT PRIMARY KEY, watermark TEXT); GRANT SELECT, INSERT, UPDATE ON "+
			"%s TO %s; %s;", name, table, table, quoteIdent(s.user), addStatement(s.publication, s.watermarks))
	case f.Kind != "r" && f.Kind != "p":
		return fmt.Sprintf("%s is no table. Drop or rename it, or set `advanced.watermarksTable` to another name", name)
	case f.Persistence == "u":
		add := ""
		if !f.Published && !f.Publication.AllTables {
			add = " " + addStatement(s.publication, s.watermarks) + ";"
		}
		return fmt.Sprintf("%s is unlogged: its changes are not written to the WAL. Run: ALTER TABLE %s SET LOGGED;%s", name, table, add)
	case f.Persistence == "t":
		return fmt.Sprintf("%s is a temporary table, which is not replicated. Set `advanced.watermarksTable` to another name", name)
	case f.Kind == "p" && !f.Publication.viaRoot():
		return fmt.Sprintf("%s is partitioned, and the publication %q publishes its changes as those of its partitions. Run: ALTER PUBLICATION "+
			"%s SET (publish_via_partition_root = true); or set `advanced.watermarksTable` to a table that is not partitioned", name,
			s.publication, publication)
	case f.Ancestor != "" && f.Publication.viaRoot():
		return fmt.Sprintf("%s is a partition of %s, and the publication %q publishes its changes as those of that table. Set "+
			"`advanced.watermarksTable` to a table that is no partition", name, f.Ancestor, s.publication)
	case !f.Published:
		return fmt.Sprintf("%s is not in the publication %q. Run: %s;", name, s.publication, addStatement(s.publication, s.watermarks))
	case f.Columns != nil && (!slices.Contains(f.Columns, "slot") || !slices.Contains(f.Columns, "watermark")):
		return fmt.Sprintf("the publication %q has only the columns %s of %s. %s", s.publication, quoteIdents(f.Columns), name, f.addAnew(s))
	case !f.Identity:
		return fmt.Sprintf("%s has no replica identity, without which the server rejects its updates. Run: ALTER TABLE %s REPLICA IDENTITY FULL;",
			name, table)
	}
	return ""
}

// addAnew is the remedy for restrictions of the watermarks table's entry in the publication.
func (f *watermarkFacts) addAnew(s *settings) string {
	return fmt.Sprintf("Run: BEGIN; ALTER PUBLICATION %s DROP TABLE ONLY %s; %s; COMMIT;", quoteIdent(s.publication), quoteTable(s.watermarks),
		addStatement(s.publication, s.watermarks))
}

// filterFault judges the row filter, which the server applies to our row before and after each update of it.
func (f *watermarkFacts) filterFault(ctx context.Context, conn *pgx.Conn, s *settings) (string, error) {
	if f.Filter == "" {
		return "", nil
	}
	passes := false
	if !strings.Contains(f.Filter, "watermark") { // what we shall write there is not known
		err := conn.QueryRow(ctx, fmt.Sprintf("SELECT coalesce((%s), false) FROM %s WHERE slot = $1", f.Filter, quoteTable(s.watermarks)), s.slot).
			Scan(&passes)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return "", err
		}
	}
	if passes {
		return "", nil
	}
	return fmt.Sprintf("the publication %q has the watermarks table %s with a row filter, %s, which leaves our row (slot %s) out. %s", s.publication,
		s.watermarks, f.Filter, literal(s.slot), f.addAnew(s)), nil
}

// changedFault says that our row does not hold what was written there.
func (f *watermarkFacts) changedFault(s *settings) string {
	table := quoteTable(s.watermarks)
	fault := fmt.Sprintf("what is written to the watermarks table %s is not what stands there afterwards", s.watermarks)
	switch {
	case len(f.Triggers) > 0:
		for _, name := range f.Triggers {
			fault += fmt.Sprintf("; its trigger %s may drop or change it. Run: ALTER TABLE %s DISABLE TRIGGER %s;", quoteIdent(name), table, quoteIdent(name))
		}
	case len(f.Rules) > 0:
		for _, name := range f.Rules {
			fault += fmt.Sprintf("; its rule %s may drop or change it. Run: ALTER TABLE %s DISABLE RULE %s;", quoteIdent(name), table, quoteIdent(name))
		}
	case f.RowSecurity:
		fault += fmt.Sprintf("; row-level security may hide it. Run: ALTER TABLE %s DISABLE ROW LEVEL SECURITY;", table)
	default:
		fault += ". Set `advanced.watermarksTable` to a table that nothing else uses"
	}
	return fault
}
