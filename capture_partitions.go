// capture_partitions.go owns what is remembered of a table's partitions: which ones have their rows accounted for, how each came to be one,
// where its rows lie, and what has changed of that between two looks. capture_partition_changes.go says what becomes of it.
// Invariant: a partition is remembered only together with a cursor for its rows, or when they have been captured or are streamed.

package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	held      bool // nothing of the table is read before another replication session has begun (capture_renewal.go)
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
