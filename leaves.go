// leaves.go owns what becomes of the partitions of a table published via its root: TRUNCATE, DETACH, DROP and ATTACH of a
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
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// knownPartition is what is remembered of a partition.
type knownPartition struct {
	// path tells how it came to be one, on every level up to the root: another path is another attachment.
	path uint64
	// leaf is set when it holds rows. relfilenode is then where; 0 stands for any: the table was truncated.
	leaf        bool
	relfilenode uint32
	// toast is the OID of its TOAST table, or noToast; 0 for unknown.
	toast uint32
}

// partitionSet is the partitions that a binding remembers.
type partitionSet struct {
	known  map[uint32]knownPartition // by OID; nil: none are remembered yet
	text   string                    // their stored form, "" for none yet
	stored string                    // what the last checkpoint with them said
	// truncated is set when the stream has told of a TRUNCATE that the catalog may not show for another moment.
	truncated bool
	held      bool // nothing of the table is read before another replication session has begun (renewal.go)
}

// partitionsOf are the partitions that the catalog says a table has.
func partitionsOf(t *table) map[uint32]knownPartition {
	known := make(map[uint32]knownPartition, len(t.partitions))
	for _, p := range t.partitions { // parents come first; the root's path is 0
		path := known[p.parent].path
		for _, part := range [...]uint32{p.parent, p.oid, p.attached} {
			path = (path ^ uint64(part)) * 1099511628211 // FNV-1a's prime
			path ^= path >> 29
		}
		k := knownPartition{path: path, leaf: p.kind == 'r', relfilenode: p.relfilenode}
		if k.leaf {
			k.toast = p.toast
		}
		known[p.oid] = k
	}
	return known
}

// attachmentsOf are the attachments of some of the partitions that a table has now.
func attachmentsOf(some []partition, now map[uint32]knownPartition) []uint64 {
	attachments := make([]uint64, len(some))
	for i, p := range some {
		attachments[i] = now[p.oid].path
	}
	return attachments
}

// partitionsFormat begins the stored form: the number of its version. Partitions follow, each as OID, path, relfilenode and TOAST
// table in base 36. A relfilenode that is the OID is empty, a dash stands for one that holds no rows itself. Of the TOAST table
// there is its distance from the OID, or a dash where there is none; nothing stands for the one that CREATE TABLE makes, and the
// end of the entry with it. In the form of version 1 the TOAST tables are unknown.
const partitionsFormat = "2"

// createdToast is the distance of a TOAST table's OID from that of its table, when CREATE TABLE has made both on a server that makes
// nothing else: between them are the types of the row and its array.
const createdToast = 3

func encodePartitions(known map[uint32]knownPartition) string {
	oids := make([]uint32, 0, len(known))
	for oid := range known {
		oids = append(oids, oid)
	}
	slices.Sort(oids)
	text := append(make([]byte, 0, 1+24*len(known)), partitionsFormat...)
	for _, oid := range oids {
		k := known[oid]
		text = strconv.AppendUint(append(text, ' '), uint64(oid), 36)
		text = strconv.AppendUint(append(text, '.'), k.path, 36)
		switch {
		case !k.leaf:
			text = append(text, ".-"...)
		case k.relfilenode != oid || k.toast != oid+createdToast:
			if text = append(text, '.'); k.relfilenode != oid {
				text = strconv.AppendUint(text, uint64(k.relfilenode), 36)
			}
			switch k.toast {
			case oid + createdToast:
			case noToast:
				text = append(text, ".-"...)
			case 0:
				text = append(text, ".?"...)
			default:
				text = strconv.AppendInt(append(text, '.'), int64(k.toast)-int64(oid), 36)
			}
		}
	}
	return string(text)
}

func decodePartitions(text string) (map[uint32]knownPartition, error) {
	if text == "" {
		return nil, nil
	}
	format, rest, _ := strings.Cut(text, " ")
	if format != partitionsFormat && format != "1" {
		return nil, fmt.Errorf("partitions in an unknown format %q", format)
	}
	known := make(map[uint32]knownPartition)
	for entry := range strings.FieldsSeq(rest) {
		if format == "1" {
			entry += strings.Repeat(".", max(0, 2-strings.Count(entry, "."))) + ".?"
		}
		oid, k, err := decodePartition(entry)
		if err != nil {
			return nil, fmt.Errorf("partition %q: %w", entry, err)
		}
		known[oid] = k
	}
	return known, nil
}

func decodePartition(entry string) (uint32, knownPartition, error) {
	fields := strings.Split(entry, ".")
	if len(fields) < 2 || len(fields) > 4 {
		return 0, knownPartition{}, errors.New("it is not OID, path, relfilenode and TOAST table")
	}
	oid, err := strconv.ParseUint(fields[0], 36, 32)
	if err != nil {
		return 0, knownPartition{}, err
	}
	k := knownPartition{leaf: true, relfilenode: uint32(oid), toast: uint32(oid) + createdToast}
	if k.path, err = strconv.ParseUint(fields[1], 36, 64); err != nil {
		return 0, knownPartition{}, err
	}
	if len(fields) > 2 && fields[2] == "-" {
		k.leaf, k.relfilenode, k.toast = false, 0, 0
	} else if len(fields) > 2 && fields[2] != "" {
		filenode, err := strconv.ParseUint(fields[2], 36, 32)
		if err != nil {
			return 0, knownPartition{}, err
		}
		k.relfilenode = uint32(filenode)
	}
	if len(fields) > 3 {
		switch fields[3] {
		case "-":
			k.toast = noToast
		case "?":
			k.toast = 0
		default:
			distance, err := strconv.ParseInt(fields[3], 36, 64)
			if err != nil {
				return 0, knownPartition{}, err
			}
			k.toast = uint32(int64(oid) + distance)
		}
	}
	return uint32(oid), k, nil
}

// remember has the set hold these partitions and reports whether that is news.
func (s *partitionSet) remember(known map[uint32]knownPartition) bool {
	text := encodePartitions(known)
	if text == s.text {
		return false
	}
	s.known, s.text = known, text
	return true
}

// forget empties the set: the table is captured anew, or no longer.
func (s *partitionSet) forget() { s.known, s.text = nil, "" }

// restore takes up what is stored; nil is nothing. On error the set is empty.
func (s *partitionSet) restore(stored *string) (err error) {
	*s = partitionSet{}
	if stored == nil {
		return nil
	}
	s.stored = *stored
	if s.known, err = decodePartitions(s.stored); err == nil {
		s.text = s.stored
	}
	return err
}

// unwritten returns the stored form for the checkpoint that is about to be written; nil when the last one said the same.
func (s *partitionSet) unwritten() *string {
	if s.text == s.stored {
		return nil
	}
	text := s.text
	s.stored = text
	return &text
}

// expectRewrites is called when the stream tells of a TRUNCATE of the whole table: that its leaves are rewritten is no news.
func (s *partitionSet) expectRewrites() {
	s.truncated = true
	if s.known != nil {
		s.remember(anywhere(s.known))
	}
}

// anywhere returns the partitions with their leaves' relfilenodes unknown.
func anywhere(partitions map[uint32]knownPartition) map[uint32]knownPartition {
	known := make(map[uint32]knownPartition, len(partitions))
	for oid, k := range partitions {
		k.relfilenode = 0
		known[oid] = k
	}
	return known
}

// begin has the set hold the partitions that are about to be captured, and reports whether that is news.
func (s *partitionSet) begin(now map[uint32]knownPartition) bool {
	if s.truncated {
		now = anywhere(now)
	}
	return s.goOn(now)
}

// goOn has the set hold the partitions that the table has now, and reports whether that is news. A TRUNCATE of before is in them.
func (s *partitionSet) goOn(now map[uint32]knownPartition) bool {
	s.truncated = false
	return s.remember(now)
}

// hold has nothing of the table read until release.
func (s *partitionSet) hold() { s.held = true }

// release takes hold back, and reports whether the table was held.
func (s *partitionSet) release() bool {
	held := s.held
	s.held = false
	return held
}

// rememberPartitions counts the partitions that the table has as captured, or about to be.
func (b *binding) rememberPartitions() {
	if b.table.kind == 'p' && b.partitions.begin(partitionsOf(b.table)) {
		b.mark()
	}
}

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

// partitionsChange is what became of a table's partitions since they were remembered.
type partitionsChange struct {
	attached  []partition // leaves that may hold rows the stream has not shown
	born      []partition // new leaves all of whose rows are streamed
	rewritten []partition
	hidden    []partition // those of the rewritten that may have been unlogged meanwhile
	removed   []uint32
}

// comparePartitions tells what became of the partitions of a table. born are those of the new ones, or newly attached ones,
// that were created as partitions: one whose parents have all been partitions of the table since then has had no row that
// was not streamed. sameColumns tells that the table's columns have not changed, which rewrites partitions too.
func comparePartitions(t *table, before, now map[uint32]knownPartition, born map[uint32]bool, sameColumns bool) partitionsChange {
	var ch partitionsChange
	whole := map[uint32]bool{t.oid: true}
	for _, p := range t.partitions {
		k, known := before[p.oid]
		same := known && k.path == now[p.oid].path
		whole[p.oid] = same || born[p.oid] && whole[p.parent]
		switch {
		case p.kind != 'r': // holds no rows, or ones that are not in the stream
		case !whole[p.oid]:
			ch.attached = append(ch.attached, p)
		case !same:
			ch.born = append(ch.born, p)
		default:
			moved := k.relfilenode != 0 && k.relfilenode != p.relfilenode
			if moved {
				ch.rewritten = append(ch.rewritten, p)
			}
			if sameColumns && mayHide(k.toast, now[p.oid].toast, moved) {
				ch.hidden = append(ch.hidden, p)
			}
		}
	}
	for oid, k := range before {
		if _, still := now[oid]; !still && k.leaf {
			ch.removed = append(ch.removed, oid)
		}
	}
	slices.Sort(ch.removed)
	return ch
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

// leafPlace is an expression of a leaf's relfilenode, and of the transaction that attached it if it is a partition, with the
// value under which l is a position in it.
func (b *binding) leafPlace(l *leafCursor) (sql, want string) {
	filenode := fmt.Sprintf("coalesce(pg_relation_filenode(%d::oid), 0)::text", l.OID)
	if b.table.kind != 'p' {
		return filenode, strconv.FormatUint(uint64(l.Filenode), 10)
	}
	sql = fmt.Sprintf("%s || ' ' || coalesce((SELECT i.xmin::text FROM pg_inherits i WHERE i.inhrelid = %d), '0')", filenode, l.OID)
	i := slices.IndexFunc(b.table.partitions, func(p partition) bool { return p.oid == l.OID })
	if i < 0 {
		return sql, "no partition"
	}
	return sql, fmt.Sprintf("%d %d", l.Filenode, b.table.partitions[i].attached)
}

// boundOf is the key up to which the rows of a leaf are to be read; nil for all, also where the stored bound means nothing
// under the key's columns of today.
func (b *binding) boundOf(l *leafCursor) []value {
	if l.UpTo == "" || b.key == nil || b.meta.Key != b.keySignature() || !slices.Equal(b.state.KeyColumns, b.scanColumns()) {
		return nil
	}
	packed, err := base64.StdEncoding.DecodeString(l.UpTo)
	if err != nil {
		return nil
	}
	bound, err := b.key.unpack(packed)
	if err != nil || len(bound) != len(b.terms) {
		return nil
	}
	return bound
}

// partitionsMark tells a table's partitions and their attachments apart from other ones: their number and two sums.
func (t *table) partitionsMark() string {
	var oids, attached uint64
	for _, p := range t.partitions {
		oids, attached = oids+uint64(p.oid), attached+uint64(p.attached)
	}
	return fmt.Sprintf("%d %d %d", len(t.partitions), oids, attached)
}

// partitionsPlace is an expression of what partitionsMark tells. A chunk of a scan by key whose query follows it sees at least
// the rows of these partitions.
func (t *table) partitionsPlace(version int) (sql, want string) {
	pending := ""
	if version >= 140000 {
		pending = " AND NOT i.inhdetachpending"
	}
	return fmt.Sprintf(`(WITH RECURSIVE tree(oid, attached) AS (
  SELECT i.inhrelid, i.xmin::text::bigint FROM pg_inherits i WHERE i.inhparent = %d%s
  UNION ALL
  SELECT i.inhrelid, i.xmin::text::bigint FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid%s
)
SELECT count(*)::text || ' ' || coalesce(sum(oid::bigint), 0) || ' ' || coalesce(sum(attached), 0) FROM tree)`,
		t.oid, pending, pending), t.partitionsMark()
}
