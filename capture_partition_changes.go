// capture_partition_changes.go owns what becomes of the partitions of a table published via its root: TRUNCATE, DETACH, DROP and ATTACH of a
// partition say nothing in the stream. The partitions whose rows are accounted for are remembered, with how they came to
// be partitions, so that what happened while the capture was stopped is noticed too.
// Invariant: every partition of a captured table is remembered, and then each of its rows has been captured, or is streamed,
// or a scan that reads it is under way (the table's own, or a cursor in meta.Leaves). One that may have come with rows is
// remembered in the same checkpoint that gives it a cursor. Where that cannot be told for sure, it is scanned: a row that
// comes twice is better than one that is lost.
//
// A table that is captured already (phaseActive) has the new partition scanned by ctid while every change goes on being
// emitted, as in the mode Normal: chunks are fenced and patched (DESIGN I1, I2), and the transactions streamed meanwhile must
// be visible to them (I3). Its stored mode stays Active, which is what the incumbent makes of it.
// A scan by key reads the new partition's keys behind its position as it reads all others; those up to it are scanned when it
// has ended (UpTo). A scan by ctid gives the new partition a cursor beside the others'.

package main

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// freshPartitions reads the partitions of bindings' tables from the catalog again.
func (c *capture) freshPartitions(bindings []*binding) error {
	var names []tableName
	for _, b := range bindings {
		if b.table.kind == 'p' {
			names = append(names, b.name())
		}
	}
	if len(names) == 0 {
		return nil
	}
	loaded, err := c.catalog(names)
	if err != nil {
		return fmt.Errorf("read the partitions of the captured tables: %w", err)
	}
	for _, b := range bindings {
		if now := loaded[b.name()]; now != nil && now.oid == b.table.oid && b.table.kind == 'p' {
			fresh := *b.table // chunks in flight have the other
			fresh.leaves, fresh.partitions, fresh.partialOld = now.leaves, now.partitions, now.partialOld
			b.table = &fresh
		}
	}
	return nil
}

// sqlBornPartitions tells which of the tables were created as partitions (CREATE TABLE … PARTITION OF), so that no row was
// ever in them that was not their root's: they have a column whose catalog entry is as old as the table, to the command,
// while ATTACH writes those of all columns anew (tablecmds.c, MergeAttributesIntoExisting). The entry of ctid (attnum -1) is
// never written again. The transaction that made the table and the one that made it a partition are one, of course, but
// that and how many commands lie between prove nothing: CREATE TABLE, INSERT and ATTACH in one transaction are 2 or 3 apart,
// and so is CREATE TABLE … PARTITION OF (measured on 14 to 18). An xmax stands where somebody tried to change the entry and
// gave up: cmin is then not to be trusted.
const sqlBornPartitions = `
SELECT made.attrelid
  FROM pg_attribute made
  JOIN pg_inherits i ON i.inhrelid = made.attrelid AND i.xmin = made.xmin AND i.xmax = '0'::xid
 WHERE made.attrelid = ANY ($1::oid[]) AND made.attnum = -1 AND made.xmax = '0'::xid
   AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = made.attrelid AND a.attnum > 0 AND NOT a.attisdropped
         AND a.xmin = made.xmin AND a.cmin = made.cmin AND a.xmax = '0'::xid)`

// bornPartitions returns those of the tables that were created as partitions.
func (c *capture) bornPartitions(oids []uint32) (map[uint32]bool, error) {
	born := make(map[uint32]bool)
	if len(oids) == 0 {
		return born, nil
	}
	err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(c.ctx, sqlBornPartitions, oidArray(oids))
		if err != nil {
			return err
		}
		var oid uint32
		_, err = pgx.ForEachRow(rows, []any{&oid}, func() error {
			born[oid] = true
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read how partitions came to be: %w", err)
	}
	return born, nil
}

// judgePartitions compares the partitions of a binding's table, as the catalog has just told them, with those remembered.
// sameColumns tells that it has the columns that it had then.
func (c *capture) judgePartitions(b *binding, sameColumns bool) error {
	if b.phase != phaseActive && b.phase != phaseBackfill {
		return nil
	}
	t, before := b.table, b.partitions.known
	if t.kind != 'p' {
		b.partitions.forget()
		return nil
	}
	now := partitionsOf(t)
	if before == nil { // nobody has looked yet: what there is counts as captured, or is being scanned
		if wait, err := c.awaitRenewal(b, t.partitions, now); wait || err != nil {
			return err
		}
		b.partitions.remember(now)
		b.mark()
		c.ledger.owe()
		return nil
	}
	var news []uint32
	for oid, k := range now {
		if before[oid].path != k.path {
			news = append(news, oid)
		}
	}
	born, err := c.bornPartitions(news)
	if err != nil {
		return err
	}
	ch := comparePartitions(t, before, now, born, sameColumns)
	if wait, err := c.awaitRenewal(b, ch.attached, now); wait || err != nil {
		return err
	}
	// From here on nothing fails: what is remembered and what is done about it go together.
	if !b.partitions.goOn(now) {
		return nil
	}
	b.mark()
	c.ledger.owe()
	vanished := append(c.describeRemoved(b, ch.removed), c.describeRewritten(b, ch.rewritten)...)
	for _, text := range vanished {
		c.status("%s", text)
	}
	if len(vanished) > 0 && c.settings.onTruncate == "backfill" {
		c.status("%s is backfilled again, as advanced.on_truncate asks. %s", b.name(), c.remains(b))
		c.rewind(b)
		return nil
	}
	ch.attached = append(ch.attached, ch.hidden...)
	c.scanAttached(b, &ch)
	return nil
}

// awaitRenewal reports whether attached partitions of a binding's table, which has those of now, cannot be captured by this session. Then
// nothing of it is read before the next one.
func (c *capture) awaitRenewal(b *binding, attached []partition, now map[uint32]knownPartition) (wait bool, err error) {
	if c.db.version >= 150000 {
		return false, nil
	}
	attachments := attachmentsOf(attached, now)
	lacks, asked := c.renewal.lacks(attachments)
	if !lacks {
		return false, nil
	}
	b.partitions.hold()
	b.scan.invalidate()
	if asked {
		return true, nil
	}
	at, err := newFencer(c.db).position(c.ctx) // the capture's own may be in use by a round
	if err != nil {
		return true, err
	}
	c.renewal.ask(attachments, at.position)
	return true, nil
}

// knownAttachments are the attachments of all partitions that the captured tables are known to have.
func (c *capture) knownAttachments() []uint64 {
	var known []uint64
	for _, b := range c.bindings {
		if b.table != nil && b.table.kind == 'p' {
			known = append(known, attachmentsOf(b.table.partitions, partitionsOf(b.table))...)
		}
	}
	return known
}

// scanAttached has the rows of the partitions that were attached captured, and drops the cursors of those that are gone.
func (c *capture) scanAttached(b *binding, ch *partitionsChange) {
	b.meta.Leaves = slices.DeleteFunc(slices.Clone(b.meta.Leaves), func(l leafCursor) bool {
		return slices.Contains(ch.removed, l.OID) ||
			slices.ContainsFunc(ch.attached, func(p partition) bool { return p.oid == l.OID })
	})
	if b.scanning() || b.phase == phaseActive { // what is in flight stands on the table as it was
		b.scan.invalidate()
		if b.scanning() && b.byCTID() {
			b.scan.rewritten()
		}
	}
	if b.phase == phaseActive && len(b.meta.Leaves) == 0 && slices.Contains(c.backlog.reading, b) {
		b.complete() // the partition that was being scanned is gone
		c.backlog.leave(b)
	}
	for _, p := range ch.born {
		if b.phase == phaseBackfill && b.byCTID() && len(b.meta.Leaves) > 0 { // else the pages are counted later
			b.meta.Leaves = append(b.meta.Leaves, leafCursor{OID: p.oid, Filenode: p.relfilenode, Done: true})
		}
	}
	if len(ch.attached) == 0 {
		return
	}
	names := describePartitions(ch.attached)
	switch {
	case b.resource.mode == modeOnlyChanges || c.settings.skipsBackfill(b.name()):
		c.status("%s: if there were rows when attached to %s, they are not captured, as for all of the table's", names, b.name())
		return
	case b.phase == phaseBackfill && b.byCTID():
	case b.phase == phaseBackfill && b.state.Scanned == nil: // the scan by key has all before it
	default:
		for _, p := range ch.attached {
			l := leafCursor{OID: p.oid}
			if b.phase == phaseBackfill {
				l.UpTo = base64.StdEncoding.EncodeToString(b.state.Scanned)
			}
			b.meta.Leaves = append(b.meta.Leaves, l)
		}
		if b.phase == phaseActive {
			c.backlog.attach(b)
		}
	}
	c.status("%s: new or attached again to %s, or perhaps unlogged for some time, and captured now. Rows that changed since may come twice.",
		names, b.name())
}

// describePartitions names partitions, of many the first.
func describePartitions(partitions []partition) string {
	names := make([]string, len(partitions))
	for i, p := range partitions {
		names[i] = p.String()
	}
	return partitionNames(names)
}

func partitionNames(names []string) string {
	switch {
	case len(names) == 1:
		return "Partition " + names[0]
	case len(names) <= 3:
		return "Partitions " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("Partitions %s and %d more", names[0], len(names)-1)
}

func (c *capture) describeRewritten(b *binding, rewritten []partition) []string {
	if len(rewritten) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s of %s: truncated or rewritten (the catalog does not tell which).%s", describePartitions(rewritten),
		b.name(), c.partRemains(b))}
}

// partRemains says what becomes of the documents of rows that went with a partition, where the table is not backfilled for that.
func (c *capture) partRemains(b *binding) string {
	text := " Documents of rows that vanished stay in the collection"
	switch marks := c.settings.flags.emitBackfillMarkers; {
	case c.settings.onTruncate == "backfill":
		return ""
	case c.v1 || c.unmarkedScan(b) != "":
	case marks:
		text += "; its readers drop them when the table is backfilled, as with advanced.on_truncate set to \"backfill\""
	default:
		text += "; with the feature flag emit_backfill_markers its readers drop them when the table is backfilled, as with " +
			"advanced.on_truncate set to \"backfill\""
	}
	return text + "."
}

// describeRemoved names partitions that are none any more, as far as there still are such tables.
func (c *capture) describeRemoved(b *binding, removed []uint32) []string {
	if len(removed) == 0 {
		return nil
	}
	names := make([]string, len(removed))
	found := make(map[uint32]string)
	if err := c.db.with(c.ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(c.ctx, `SELECT c.oid, n.nspname || '.' || c.relname FROM pg_class c
			JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[])`, oidArray(removed))
		if err != nil {
			return err
		}
		var oid uint32
		var name string
		_, err = pgx.ForEachRow(rows, []any{&oid, &name}, func() error {
			found[oid] = name
			return nil
		})
		return err
	}); err != nil {
		found = nil // names are all that is missing
	}
	for i, oid := range removed {
		if names[i] = found[oid]; names[i] == "" {
			names[i] = fmt.Sprintf("with OID %d (dropped)", oid)
		}
	}
	return []string{fmt.Sprintf("%s: no longer of %s.%s", partitionNames(names), b.name(), c.partRemains(b))}
}

// describedPartition is told of a relation that no binding captures, and that is a partition of b's table, if that is not nil; again tells
// that it was described before.
func (c *capture) describedPartition(b *binding, oid uint32, again bool) {
	if b == nil || b.phase != phaseActive && b.phase != phaseBackfill {
		return
	}
	after := soonAfter
	if _, known := b.partitions.known[oid]; known {
		if !again {
			return
		}
		after = laterAfter
	}
	c.refreshes.partitionsChanged(b, after)
}
