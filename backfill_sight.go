// backfill_sight.go owns what a chunk's own transaction must see, judged behind its lock and ahead of its query: the table that the
// binding captures, as the plan has it, and no fewer rows than the chunks before saw.
// Invariant: a chunk counts only if its transaction found the shape that its query was made from, the partitions or the file
// that its position stands for, and the rows that row-level security left to the chunks before it.

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	errTableChanged = errors.New("the table changed its shape while its chunk was being read")

	// errPartitionsChanged says that the chunk may hold rows of partitions that the binding does not know yet, or lack some.
	errPartitionsChanged = errors.New("the table's partitions changed while its chunk was being read")

	// errLeafHidden says that row-level security hides rows of a partition from those who read it by itself.
	errLeafHidden = errors.New("row-level security hides rows of a partition from those who read it by itself")

	// errHidden says that a row which is not found may be one that row-level security hides.
	errHidden = errors.New("row-level security may hide the row")
)

// sightError is a chunk that saw other rows than those before it.
type sightError struct{ sight string }

func (e *sightError) Error() string {
	if e.sight == sightAll {
		return "row-level security hides no more rows"
	}
	return "row-level security hides rows that it did not hide before, or others"
}

// sqlShape tells, of the relation c in pg_class, all that a chunk's query is made from: which relation has the name, its
// columns, what makes its keys unique, and the columns and rows of it that the publication (%s, a literal) sends. The catalog
// is read and a chunk judged by this same expression. %s are for newer versions: a column's generation, the columns and rows.
const sqlShape = `concat_ws(' ', c.oid, c.relkind, c.relispartition,
  (SELECT md5(string_agg(concat_ws(' ', a.attnum, quote_ident(a.attname), a.atttypid, a.atttypmod, a.attcollation, a.attnotnull%s), ','
          ORDER BY a.attnum)) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT md5(string_agg(concat_ws(' ', i.indexrelid, i.indisvalid, i.indimmediate, i.indisprimary), ',' ORDER BY i.indexrelid))
     FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique),
  (SELECT concat_ws(' ', p.oid%s) FROM pg_publication p%s WHERE p.pubname = %s))`

// shapeExpression is sqlShape for a server and a publication.
func shapeExpression(major int, publication string) string {
	generated, sent, entry := "", "", ""
	if major >= 12 {
		generated = ", a.attgenerated"
	}
	if major >= 15 {
		sent = ", s.oid, CASE WHEN s.oid IS NULL THEN concat_ws(' ', r.prattrs, md5(r.prqual::text)) END"
		entry = " LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid" +
			" LEFT JOIN pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = c.relnamespace"
	}
	if major >= 18 {
		sent = ", p.pubgencols" + sent
	}
	return fmt.Sprintf(sqlShape, generated, sent, entry, quoteLiteral(publication))
}

// sightAll is the sight of a role that sees every row.
const sightAll = "all"

// sightExpression tells which rows of a relation, whose OID is the SQL expression, our role sees: all of them, or those that a
// set of policies leaves it.
func sightExpression(oid string) string {
	return fmt.Sprintf(`CASE WHEN row_security_active(%[1]s) THEN concat_ws(' ', 'of', quote_ident(current_user),
  (SELECT md5(string_agg(concat_ws(' ', l.polpermissive, l.polqual::text), ',' ORDER BY l.polname)) FROM pg_policy l
    WHERE l.polrelid = %[1]s AND l.polcmd IN ('*', 'r')
      AND EXISTS (SELECT FROM unnest(l.polroles) AS role(oid) WHERE role.oid = 0 OR pg_has_role(role.oid, 'USAGE'))))
 ELSE '`+sightAll+`' END`, oid)
}

// chunkCheck is a query of what a chunk's transaction must see, with the answers under which its rows count. Its columns are
// shape and sight of the table, then what the place of the scan stands for: of a leaf its file, of a partitioned table its
// partitions.
type chunkCheck struct {
	sql                 string
	shape, sight, place string
	byCTID              bool // the place is a file
	leaf                bool // the query reads a leaf by itself
}

// judge tells what is wrong with a chunk whose transaction saw this.
func (k *chunkCheck) judge(shape, sight, place string) error {
	switch {
	case shape != k.shape, place != k.place && k.byCTID:
		return errTableChanged
	case place != k.place:
		return errPartitionsChanged
	case sight != k.sight && k.leaf:
		return errLeafHidden
	case sight != k.sight:
		return &sightError{sight}
	}
	return nil
}

// probeTime bounds a probe: what takes longer does not fail, as far as we can tell.
const probeTime = time.Second

// probeSights runs a query of the form that chunks have over each of the tables, given as in FROM, and returns the errors with
// which the server refuses them for what row-level security adds to them. REQUIRES: conn is in no transaction.
func probeSights(ctx context.Context, conn *pgx.Conn, from []string) ([]error, error) {
	broken := make([]error, len(from))
	const batch = 50
	for at := 0; at < len(from); at += batch {
		p := conn.PgConn().StartPipeline(ctx)
		n := min(batch, len(from)-at)
		for i := range n {
			p.SendQueryParams("SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $1, true)",
				[][]byte{strconv.AppendInt(nil, probeTime.Milliseconds(), 10)}, nil, nil, nil)
			p.SendQueryParams("SELECT FROM "+from[at+i]+" LIMIT 1", nil, nil, nil, nil)
			p.SendPipelineSync()
		}
		err := p.Flush()
		for i := 0; i < n && err == nil; i++ {
			broken[at+i], err = probed(p)
		}
		if cerr := p.Close(); err == nil && sqlState(cerr) == "" {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
	}
	return broken, nil
}

// probed reads the results of one probe.
func probed(p *pgconn.Pipeline) (broken, err error) {
	for {
		results, err := p.GetResults()
		if err == nil {
			switch results := results.(type) {
			case *pgconn.PipelineSync, nil:
				return broken, nil
			case *pgconn.ResultReader:
				_, err = results.Close()
			}
		}
		switch code := sqlState(err); {
		case err == nil, code == codeCanceled, code == codeLockTaken, strings.HasPrefix(code, codesResources):
		case code == "":
			return nil, err
		default:
			broken = err
		}
	}
}

// probeSight is probeSights of one table.
func probeSight(ctx context.Context, conn *pgx.Conn, from string) (broken, err error) {
	all, err := probeSights(ctx, conn, []string{from})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}
