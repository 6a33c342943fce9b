// capture_fitness.go owns what is sent of a table: whether all its changes come, and whether that may have been otherwise since it was
// last looked at. Publications and tables are altered and put right again between two looks, and what was changed meanwhile is
// in no stream; what was done leaves its trace in the versions (xmin) of the catalog rows that the sending rests on. These
// are the table's mark, which is remembered with its binding.
// Invariant: as long as a table is captured, its remembered mark is that of a moment since when every change of it has been
// sent, or has been read by a backfill. Where that cannot be told for sure, the table is captured anew, with a status that
// says why; where changes are not sent now, its binding is parked with the SQL to run.
//
// The mark is about the catalog as it is now, and the stream may be far behind it. The table is captured anew from the moment of the
// look all the same, which is right wherever the stream stands: the backfill starts only when the transactions have ended that
// write to the table now, so that a part of them that was not sent is visible to it (DESIGN I3), and the changes of the table that
// are still to be streamed from before lead up to the state that it reads; deletes among them are emitted, since it is not the
// first (I5). And a change of the catalog that the look has not seen yet is seen by the next one, whose mark is another.

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sqlFitness tells how the publication $1 has each of the tables: for all tables, by entries of the table or of what it is a
// partition of, or (15 and newer, %[1]s and %[2]s) by those of their schemas, each with its version. A table's membership in a schema
// is as old as its pg_depend entry for that, which SET SCHEMA alone writes anew; an entry that is altered (SET TABLE) gets another
// OID. %[3]s leaves out partitions being detached (14). What is asked of a table is asked by indexes, table by table: the server has
// no statistics by which it could choose how to join ten thousand names.
const (
	sqlFitness = `
SELECT w.schema, w.name, c.relkind::text, c.relpersistence::text, coalesce(p.oid::text, ''), coalesce(p.xmin::text, ''),
       coalesce(p.puballtables, false), coalesce(p.pubinsert, false), coalesce(p.pubupdate, false), coalesce(p.pubdelete, false),
       (to_jsonb(p) ->> 'pubtruncate')::bool, (to_jsonb(p) ->> 'pubviaroot')::bool,
       concat_ws(' ', (SELECT r.oid || '.' || r.xmin FROM pg_publication_rel r WHERE r.prrelid = c.oid AND r.prpubid = p.oid)%[1]s),
       CASE WHEN c.relispartition THEN (
         WITH RECURSIVE up (oid, schema, name, part, depth) AS (
           SELECT a.oid, a.relnamespace, a.relname, a.relispartition, 1
             FROM pg_inherits i JOIN pg_class a ON a.oid = i.inhparent WHERE i.inhrelid = c.oid
            UNION ALL
           SELECT a.oid, a.relnamespace, a.relname, a.relispartition, up.depth + 1
             FROM up JOIN pg_inherits i ON i.inhrelid = up.oid JOIN pg_class a ON a.oid = i.inhparent WHERE up.part
         ), entry AS (
           SELECT up.depth, r.oid || '.' || r.xmin AS version FROM up JOIN pg_publication_rel r ON r.prrelid = up.oid AND r.prpubid = p.oid%[2]s
         )
         SELECT ARRAY[coalesce(string_agg(entry.version, ' ' ORDER BY entry.depth, entry.version), ''),
           coalesce((SELECT n.nspname || '.' || up.name FROM up JOIN pg_namespace n ON n.oid = up.schema
             WHERE p.puballtables OR up.depth IN (SELECT depth FROM entry) ORDER BY up.depth DESC LIMIT 1), '')] FROM entry) END,
       CASE c.relkind WHEN 'p' THEN (
         WITH RECURSIVE down (oid, attached) AS (
           SELECT i.inhrelid, i.xmin::text::bigint FROM pg_inherits i WHERE i.inhparent = c.oid%[3]s
            UNION ALL
           SELECT i.inhrelid, i.xmin::text::bigint FROM down JOIN pg_inherits i ON i.inhparent = down.oid%[3]s
         )
         SELECT ARRAY[concat_ws(' ', count(*), sum(d.oid::bigint), sum(down.attached), sum(d.relfilenode::bigint),
             sum(d.reltoastrelid::bigint),
             sum(hashtext(d.oid || d.relreplident::text))), coalesce(min(quote_ident(n.nspname) || '.' || quote_ident(d.relname))
             FILTER (WHERE d.relpersistence = 'u' AND d.relkind = 'r'), '')]
           FROM down JOIN pg_class d ON d.oid = down.oid JOIN pg_namespace n ON n.oid = d.relnamespace) END,
       concat_ws(' ', c.oid, c.relkind, c.relpersistence, c.relispartition, c.relfilenode, c.reltoastrelid, c.relreplident,
         c.relrowsecurity, c.relforcerowsecurity)
  FROM unnest($2::text[], $3::text[]) AS w(schema, name)
  JOIN pg_namespace n ON n.nspname = w.schema::name AND n.nspname::text = w.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name::name AND c.relname::text = w.name
  LEFT JOIN pg_publication p ON p.pubname = $1`

	sqlFitnessBySchema = `, (SELECT concat('s', s.oid, '.', s.xmin, '/', (SELECT d.xmin FROM pg_depend d
           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND d.refclassid = 'pg_namespace'::regclass))
         FROM pg_publication_namespace s WHERE s.pnnspid = c.relnamespace AND s.pnpubid = p.oid)`

	sqlFitnessAboveBySchema = `
            UNION ALL
           SELECT up.depth, concat('s', s.oid, '.', s.xmin, '/', (SELECT d.xmin FROM pg_depend d
             WHERE d.classid = 'pg_class'::regclass AND d.objid = up.oid AND d.objsubid = 0 AND d.refclassid = 'pg_namespace'::regclass))
             FROM up JOIN pg_publication_namespace s ON s.pnnspid = up.schema AND s.pnpubid = p.oid`

	sqlNotDetaching = ` AND NOT i.inhdetachpending`
)

// membership is how a publication has a table.
type membership struct {
	publication string // its OID; "" when there is none
	version     string // of its row
	allTables   bool
	own, above  string // entries of the table and of its ancestors, with their versions; those of schemas begin with s
}

// mark begins with the entry by which the publication has the table, that of a table with the smallest OID ahead of that of a schema,
// which is all that an image without versions remembers.
func (m *membership) mark(viaRoot bool) string {
	mark := m.publication + ":"
	if viaRoot {
		mark = m.publication + "r:"
	}
	entries := strings.Fields(m.own + " " + m.above)
	switch {
	case m.allTables:
		mark += "all"
	case len(entries) == 0:
		return ""
	default:
		mark += slices.MinFunc(entryNames(entries), func(a, b string) int {
			if bySchema := strings.Count(a, "s") - strings.Count(b, "s"); bySchema != 0 {
				return bySchema
			}
			return cmp.Or(len(a)-len(b), strings.Compare(a, b))
		})
	}
	return strings.Join(append([]string{mark, m.version}, entries...), " ")
}

func entryNames(entries []string) []string {
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i], _, _ = strings.Cut(entry, ".")
	}
	return names
}

// readFitness looks at what is sent of the tables of bindings now. Those that do not exist are absent.
func (c *capture) readFitness(ctx context.Context, bindings []*binding) (map[tableName]fitness, error) {
	bySchema, aboveBySchema, notDetaching := "", "", ""
	if c.db.version >= 150000 {
		bySchema, aboveBySchema = sqlFitnessBySchema, sqlFitnessAboveBySchema
	}
	if c.db.version >= 140000 {
		notDetaching = sqlNotDetaching
	}
	query := fmt.Sprintf(sqlFitness, bySchema, aboveBySchema, notDetaching)
	var schemas, tables []string
	for _, b := range bindings {
		schemas, tables = append(schemas, b.name().schema), append(tables, b.name().name)
	}
	read := make(map[tableName]fitness, len(bindings))
	err := c.db.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, query, c.settings.publication, schemas, tables)
		if err != nil {
			return err
		}
		var f tableFacts
		var p publicationFacts
		var m membership
		var above, parts []string // nil where there are none
		var seen string
		_, err = pgx.ForEachRow(rows, []any{
			&f.Schema, &f.Name, &f.Kind, &f.Persistence, &m.publication, &m.version, &p.AllTables, &p.Insert, &p.Update, &p.Delete,
			&p.Truncate, &p.ViaRoot, &m.own, &above, &parts, &seen,
		}, func() error {
			m.allTables, m.above, f.Ancestor = p.AllTables, "", ""
			if above != nil {
				if m.above = above[0]; p.viaRoot() {
					f.Ancestor = above[1]
				}
			}
			unlogged := ""
			if parts != nil {
				seen, unlogged = seen+" "+parts[0], parts[1]
			}
			found := fitness{seen: seen}
			if m.publication == "" {
				found.unsent = c.noPublication()
			} else {
				found.mark = m.mark(p.viaRoot())
				found.unsent = c.whyUnsent(&f, &p, found.mark, unlogged)
			}
			read[tableName{f.Schema, f.Name}] = found
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what the publication sends of the captured tables: %w", err)
	}
	return read, nil
}

// noteFitness has a binding that is captured anew, on the word of the stream, remember what is sent of its table now: its backfill
// starts later.
func (c *capture) noteFitness(b *binding) error {
	if c.db.pool == nil { // a test without a server
		return nil
	}
	read, err := c.readFitness(c.ctx, []*binding{b})
	if err != nil {
		return err
	}
	b.meta.Sent = read[b.name()].mark
	return nil
}

// whyUnsent tells why not all changes of a table come; "" when they do.
func (c *capture) whyUnsent(f *tableFacts, p *publicationFacts, mark, unlogged string) string {
	name := quoteIdent(c.settings.publication)
	lacking := p.lacking(c.settings.publication)
	switch {
	case f.Kind != "r" && f.Kind != "p":
		return "" // told by what it is
	case f.notTable() != "":
		return "it " + f.notTable()
	case mark == "":
		t := tableName{f.Schema, f.Name}
		text := fmt.Sprintf("publication %q does not have it any more; run %s;", c.settings.publication, addStatement(c.settings.publication, t))
		if b := c.byName[t]; b != nil && b.table != nil && b.table.bare() {
			text += " (the server rejects its updates and deletes then, unless it is given a replica identity first)"
		}
		return text
	case lacking != "":
		return lacking
	case f.Kind == "p" && !p.viaRoot():
		return fmt.Sprintf("publication %q publishes the changes of partitioned tables as those of their partitions; run ALTER PUBLICATION "+
			"%s SET (publish_via_partition_root = true)", c.settings.publication, name)
	case f.Ancestor != "":
		return fmt.Sprintf("publication %q publishes its changes as those of %s; capture that table instead, or run ALTER PUBLICATION %s SET "+
			"(publish_via_partition_root = false)", c.settings.publication, f.Ancestor, name)
	case unlogged != "":
		return fmt.Sprintf("its partition %s is unlogged: its changes are not written to the WAL; run ALTER TABLE %s SET LOGGED", unlogged,
			unlogged)
	}
	return ""
}

// noPublication tells what to do where the publication is gone.
func (c *capture) noPublication() string {
	return fmt.Sprintf("publication %q does not exist any more; rename it back, or run %s", c.settings.publication, createStatement(c.db, tablesOf(c.bindings)))
}

// accords reports whether a mark that was remembered allows for the one there is now: nothing has been hidden since. One
// that is not known does, and one without versions counts as far as it goes.
func accords(remembered, now string) bool {
	return remembered == "" || remembered == now || !strings.Contains(remembered, " ") && strings.HasPrefix(now, remembered+" ")
}

// judgeFitness tells of which captured tables changes are not sent now, and of which some may not have been, and has the bindings remember
// what is sent: before is how the server had the tables when we looked, now how it has them since we have added what was missing.
func judgeFitness(bindings []*binding, before, now map[tableName]fitness, s *settings) (unsent, hidden verdicts) {
	lenient := s.flags.skipPrerequisites || s.flags.skipTablePrerequisites
	for _, b := range bindings {
		was, is := before[b.name()], now[b.name()]
		captured := b.phase == phaseActive || b.phase == phaseBackfill
		hides := captured && (!accords(b.meta.Sent, was.mark) || was.mark != is.mark)
		switch {
		case b.phase == phaseMissing:
			continue
		case is.unsent != "" && (!lenient || hides && is.mark == ""):
			unsent.add(is.unsent, b)
			continue
		case hides:
			hidden.add(howHidden(b.meta.Sent, was.mark, s.publication), b)
		}
		if b.meta.Sent != is.mark {
			b.meta.Sent = is.mark
			if b.phase != phasePending {
				b.mark()
			}
		}
	}
	return unsent, hidden
}

// namedByPublication reports whether a mark is that of a table which the publication names itself. Such a table cannot be made unlogged while
// it stays one (ATPrepChangePersistence, tablecmds.c), and an entry that was dropped and made again is another one. Of a partition the mark
// has the entries of its ancestors, too, and tells nothing. REQUIRES: the table is no partition.
func namedByPublication(mark string) bool {
	fields := strings.Fields(mark) // the publication's, its version, the entries
	return len(fields) > 2 && slices.ContainsFunc(fields[2:], func(entry string) bool { return entry[0] != 's' })
}

// wasUnlogged has a table captured anew that may have been unlogged.
func (c *capture) wasUnlogged(b *binding) {
	c.status("%s was rewritten in a way that ALTER TABLE … SET UNLOGGED and SET LOGGED have too, between which no change is sent: all its "+
		"rows are backfilled. %s", b.name(), c.remains(b))
	c.rewind(b)
	c.ledger.owe()
}

// suspect takes note of a table without a TOAST table that was rewritten. It may have been truncated, which the stream tells of: it
// is judged when the stream has come to where the server is now.
func (c *capture) suspect(b *binding) error {
	if c.refreshes.isSuspect(b) {
		return nil
	}
	at, err := newFencer(c.db).position(c.ctx) // the capture's own may be in use by a round
	if err != nil {
		return err
	}
	c.refreshes.suspect(b, at.position)
	return nil
}

// sawForeign is told of a change of a relation that no binding captures.
func (c *capture) sawForeign(e *relationEntry) {
	captured := c.described.change(e, c.handled)
	if captured == nil {
		return
	}
	b, at := captured.binding, e.relation
	if b.phase != phaseActive && b.phase != phaseBackfill || b.isOther(captured.relation) {
		return
	}
	c.status("Changes of %s were sent as those of %s.%s, of which it is or was a partition (publish_via_partition_root): they are missed, so all "+
		"rows are backfilled. %s", b.name(), at.schema, at.name, c.remains(b))
	c.rewind(b)
	c.ledger.owe()
	c.refreshes.doubtSending()
}

// howHidden tells what of a publication may have hidden changes, given the mark that was remembered and the one that was found. It follows
// upon the names of the tables.
func howHidden(remembered, found, publication string) string {
	before, now := strings.Fields(remembered), strings.Fields(found)
	if len(before) > 1 && len(now) > 1 && before[0] == now[0] && slices.Equal(before[2:], now[2:]) {
		return fmt.Sprintf("perhaps left out for some time by publication %q, which was altered (SET, OWNER TO or RENAME TO)", publication)
	}
	return fmt.Sprintf("taken out of publication %q, or set anew in it, or the publication was altered or created anew", publication)
}

// verdicts are bindings by what is to be said of them: what is done to a publication may concern ten thousand.
type verdicts struct {
	list   []*verdict
	byText map[string]*verdict
}

type verdict struct {
	text     string
	bindings []*binding
}

func (v *verdicts) add(text string, b *binding) {
	of := v.byText[text]
	if of == nil {
		of = &verdict{text: text}
		if v.byText == nil {
			v.byText = make(map[string]*verdict)
		}
		v.list, v.byText[text] = append(v.list, of), of
	}
	of.bindings = append(of.bindings, b)
}

// subject names the tables of bindings, of many the first, with the verb for one or for many.
func subject(bindings []*binding, one, many string) string {
	names := make([]string, 0, maxFaults)
	for i, b := range bindings {
		if i == maxFaults {
			return fmt.Sprintf("%s and %d more %s", strings.Join(names, ", "), len(bindings)-i, many)
		}
		names = append(names, b.name().String())
	}
	if len(names) == 1 {
		return names[0] + " " + one
	}
	return strings.Join(names, ", ") + " " + many
}
