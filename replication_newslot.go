// replication_newslot.go owns the making of a slot for a capture: one that decodes what is captured by the catalog as it is.
//
// The server's decoding follows no transaction that ends before all those have ended that ran when the making of the slot began
// (decode.c, xact_decode returns below SNAPBUILD_FULL_SNAPSHOT). Where such a transaction has changed the catalog, and one that is
// older was still open when the decoding went on to the next phase, its first snapshot takes it for one that is still open, and it
// is kept until the catalog changes again, in every session that begins there; and what pgoutput has found out by it about
// a table stays for the session, whatever changes then (seen on 14 to 18). So a partition that was attached meanwhile, or a table
// that was added to the publication, is not published, without a word; a column that was added is not sent; a partition that was
// detached is published still; and a table that was rewritten, or created, ends the session ("could not map filenode").
// Invariant: nothing is streamed with a new slot in whose making a catalog row has changed by which captured tables are decoded.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// mostMade is how often in a row a slot is made before the session gives up: whoever changes the captured tables so often is to be
// asked to wait.
const mostMade = 8

// makeSlot makes the slot anew, as often as it takes for nothing of the bindings' tables to change meanwhile, and returns the
// position from which it streams every commit.
func (s *sessions) makeSlot(ctx context.Context, bindings []*binding) (lsn, error) {
	for made := 1; ; made++ {
		before, err := decodedBy(ctx, s.db, bindings)
		if err != nil {
			return 0, err
		}
		start, err := createSlot(ctx, s.db, s.sender, s.say)
		if err != nil {
			return 0, err
		}
		after, err := decodedBy(ctx, s.db, bindings)
		if err != nil || after == before {
			return start, err
		}
		text := fmt.Sprintf("Captured tables, their partitions or the publication %q were changed while the replication slot was being made. The "+
			"server may not decode their changes by that", s.settings.publication)
		if made == mostMade {
			return 0, &userError{fmt.Sprintf("%s, and so it was %d times. Leave them as they are until the capture has started, and end "+
				"transactions that stay open for long, which the making of a slot waits for.", text, made)}
		}
		s.status("%s: the slot is made anew", text)
		select {
		case <-time.After(hurried(250 * time.Millisecond << (made - 1))):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// sqlDecodedBy tells apart all states of the catalog rows by which changes of the tables ($2, $3) are decoded and published by $1:
// the versions (xmin) of those of the tables, of what is below and above them, and of the publication. %s is for what 15 added.
// ANALYZE and VACUUM write in place (heap_inplace_update), which leaves no version. Of a schema only the name is sent, while every
// GRANT on it leaves a version.
const (
	sqlDecodedBy = `
WITH RECURSIVE bound (oid) AS (
  SELECT c.oid FROM unnest($2::text[], $3::text[]) AS w(schema, name)
    JOIN pg_namespace n ON n.nspname = w.schema::name AND n.nspname::text = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relname::text = w.name
), down (oid) AS (
  SELECT oid FROM bound UNION SELECT i.inhrelid FROM down JOIN pg_inherits i ON i.inhparent = down.oid
), up (oid) AS (
  SELECT oid FROM bound UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
), tables (oid) AS (
  SELECT oid FROM down UNION SELECT oid FROM up
), publication (oid, version) AS (
  SELECT oid, xmin FROM pg_publication WHERE pubname = $1
), versions (version) AS (
  SELECT concat_ws(' ', 'c', c.oid, c.xmin) FROM tables t JOIN pg_class c ON c.oid = t.oid
  UNION ALL
  SELECT concat_ws(' ', 'a', a.attrelid, a.attnum, a.xmin) FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid WHERE a.attnum > 0
  UNION ALL
  SELECT concat_ws(' ', 'x', x.indexrelid, x.xmin) FROM tables t JOIN pg_index x ON x.indrelid = t.oid
  UNION ALL
  SELECT concat_ws(' ', 'i', i.inhrelid, i.inhparent, i.xmin) FROM tables t JOIN pg_inherits i ON i.inhrelid = t.oid
  UNION ALL
  SELECT concat_ws(' ', 'n', n.oid, n.nspname) FROM pg_namespace n
   WHERE n.oid IN (SELECT c.relnamespace FROM tables t JOIN pg_class c ON c.oid = t.oid)
  UNION ALL
  SELECT concat_ws(' ', 'p', p.oid, p.version) FROM publication p
  UNION ALL
  SELECT concat_ws(' ', 'r', r.oid, r.xmin) FROM publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN tables t ON t.oid = r.prrelid%s
)
SELECT coalesce(md5(string_agg(version, ',' ORDER BY version)), '') FROM versions`

	sqlDecodedBySchema = `
  UNION ALL
  SELECT concat_ws(' ', 's', s.oid, s.xmin) FROM publication p JOIN pg_publication_namespace s ON s.pnpubid = p.oid`
)

// decodedBy reads what sqlDecodedBy tells of the bindings' tables.
func decodedBy(ctx context.Context, db *database, bindings []*binding) (text string, err error) {
	var schemas, tables []string
	add := func(t tableName) { schemas, tables = append(schemas, t.schema), append(tables, t.name) }
	for _, b := range bindings {
		add(b.name())
	}
	if !db.settings.readOnly {
		add(db.settings.watermarks)
	}
	bySchema := ""
	if db.version >= 150000 {
		bySchema = sqlDecodedBySchema
	}
	err = db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, fmt.Sprintf(sqlDecodedBy, bySchema), db.settings.publication, schemas, tables).Scan(&text)
	})
	if err != nil {
		return "", fmt.Errorf("read the catalog that a new slot decodes by: %w", err)
	}
	return text, nil
}
