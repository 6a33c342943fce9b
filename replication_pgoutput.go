// replication_pgoutput.go decodes the messages of the pgoutput plugin, protocol version 1: Begin, Commit, Relation, Type, Truncate,
// Insert, Update, Delete. Origin ('O') and Message ('M') carry nothing a capture uses and have no decoder; their
// receiver tells them by the kind byte and passes them over.
//
// Invariant: every length is checked against the bytes that are there before it is used, and a message is accepted only
// if it was used up to its last byte.

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
)

// value is one column of a tuple, aliasing the message it was decoded from.
type value struct {
	data []byte
	kind valueKind
}

// valueKind is TupleData's column kind byte (proto.c, logicalrep_write_tuple).
type valueKind byte

const (
	valueNull      valueKind = 'n'
	valueUnchanged valueKind = 'u' // a TOAST value the update did not change; its bytes are not in the WAL
	valueText      valueKind = 't'
	valueBinary    valueKind = 'b'
)

// tuple is one row image in relation column order. Valid until the message it aliases is released.
type tuple []value

// relation is what the WAL says of a table (Relation message).
type relation struct {
	oid      uint32
	schema   string
	name     string
	identity byte // pg_class.relreplident: d, n, f, i
	columns  []relationColumn
}

type relationColumn struct {
	name    string
	typeOID uint32
	typmod  int32
	key     bool // part of the replica identity
}

// change is one decoded insert, update or delete. Its tuples are scratch, reused by the next decode.
type change struct {
	op       byte   // 'I', 'U' or 'D'
	relation uint32 // OID
	oldKind  byte   // 0 none, 'K' key columns only (the others null), 'O' full row
	old      tuple
	new      tuple

	oldCut, newCut bool // the tuple's values were cut for its own sake: another row of these values would have more of them
}

type beginMessage struct {
	finalLSN   lsn
	commitTime int64 // microseconds since 2000-01-01 UTC
	xid        uint32
}

type commitMessage struct {
	commitLSN  lsn
	endLSN     lsn
	commitTime int64
}

type truncateMessage struct {
	relations []uint32
	cascade   bool
	restart   bool
}

// typeMessage names a non-built-in type (Type message, sent ahead of the Relation that uses it).
type typeMessage struct {
	oid    uint32
	schema string
	name   string
}

// malformedError says where a message departs from the protocol. The offset counts from the start of the message.
type malformedError struct {
	what   string // the message and its part, as in "update: new tuple"
	offset int
	fault  string
}

func (e *malformedError) Error() string {
	return e.what + ": at byte " + strconv.Itoa(e.offset) + ": " + e.fault
}

func short(what string, offset, want, have int) *malformedError {
	return &malformedError{what, offset, "want " + moreBytes(want) + ", have " + strconv.Itoa(have)}
}

func trailing(what string, offset, count int) *malformedError {
	return &malformedError{what, offset, "want the end, have " + moreBytes(count)}
}

func moreBytes(n int) string {
	if n == 1 {
		return "1 more byte"
	}
	return strconv.Itoa(n) + " more bytes"
}

func wrongByte(what string, offset int, name, want string, have byte) *malformedError {
	return &malformedError{what, offset, fmt.Sprintf("want %s %s, have %q", name, want, have)}
}

// msg in each decoder is the XLogData payload including its leading kind byte.

// decodeBegin: final LSN, commit time, xid; proto.c, logicalrep_write_begin.
func decodeBegin(msg []byte) (beginMessage, error) {
	c := newCursor("begin", 'B', msg)
	m := beginMessage{finalLSN: lsn(c.uint64()), commitTime: int64(c.uint64()), xid: c.uint32()}
	return m, c.end()
}

// decodeCommit: flags (unused), commit LSN, end LSN, commit time; proto.c, logicalrep_write_commit.
func decodeCommit(msg []byte) (commitMessage, error) {
	c := newCursor("commit", 'C', msg)
	c.byte()
	m := commitMessage{commitLSN: lsn(c.uint64()), endLSN: lsn(c.uint64()), commitTime: int64(c.uint64())}
	return m, c.end()
}

// decodeRelation returns a relation that shares nothing with msg; proto.c, logicalrep_write_rel.
func decodeRelation(msg []byte) (*relation, error) {
	c := newCursor("relation", 'R', msg)
	r := &relation{oid: c.uint32(), schema: c.namespace(), name: c.string(), identity: c.byte()}
	count := c.count(int(int16(c.uint16())), minRelationColumn)
	r.columns = make([]relationColumn, count)
	for i := range r.columns {
		const isReplicaIdentity = 1 // LOGICALREP_IS_REPLICA_IDENTITY
		r.columns[i] = relationColumn{
			key:     c.byte()&isReplicaIdentity != 0,
			name:    c.string(),
			typeOID: c.uint32(),
			typmod:  int32(c.uint32()),
		}
	}
	return r, c.end()
}

// minRelationColumn is a Relation column with an empty name: flags, terminator, type OID, typmod.
const minRelationColumn = 1 + 1 + 4 + 4

// decodeType: OID, namespace, name; proto.c, logicalrep_write_typ.
func decodeType(msg []byte) (typeMessage, error) {
	c := newCursor("type", 'Y', msg)
	m := typeMessage{oid: c.uint32(), schema: c.namespace(), name: c.string()}
	return m, c.end()
}

// decodeTruncate: count, option bits, OIDs; proto.c, logicalrep_write_truncate.
func decodeTruncate(msg []byte) (truncateMessage, error) {
	const (
		cascade         = 1 // TRUNCATE_CASCADE
		restartIdentity = 2 // TRUNCATE_RESTART_SEQS
	)
	c := newCursor("truncate", 'T', msg)
	declared := int(int32(c.uint32()))
	options := c.byte()
	m := truncateMessage{
		relations: make([]uint32, c.count(declared, 4)),
		cascade:   options&cascade != 0,
		restart:   options&restartIdentity != 0,
	}
	for i := range m.relations {
		m.relations[i] = c.uint32()
	}
	return m, c.end()
}

// decodeChange decodes an Insert, Update or Delete into c, reusing its tuples: no allocation in steady state.
// The tuples alias msg. After an error c holds nothing of use.
//
// Insert: OID, 'N', tuple. Update: OID, optionally 'K' or 'O' and a tuple, 'N', tuple. Delete: OID, 'K' or 'O', tuple;
// proto.c, logicalrep_write_insert and its neighbours.
func decodeChange(msg []byte, c *change) error {
	if len(msg) == 0 {
		return short("change", 0, 1, 0)
	}
	var what, oldWhat, newWhat string
	switch msg[0] {
	case 'I':
		what, newWhat = "insert", "insert: new tuple"
	case 'U':
		what, oldWhat, newWhat = "update", "update: old tuple", "update: new tuple"
	case 'D':
		what, oldWhat = "delete", "delete: old tuple"
	default:
		return wrongByte("change", 0, "kind", "'I', 'U' or 'D'", msg[0])
	}
	const header = 1 + 4 // kind, OID
	if len(msg) < header+1 {
		return short(what, 1, header, len(msg)-1)
	}
	c.op, c.relation, c.oldKind = msg[0], binary.BigEndian.Uint32(msg[1:]), 0
	c.old, c.new = c.old[:0], c.new[:0]

	at := header
	var err error
	if mark := msg[at]; c.op != 'I' && (mark == 'K' || mark == 'O') {
		c.oldKind = mark
		if c.old, at, err = walkTuple(c.old, oldWhat, msg, at+1); err != nil {
			return err
		}
	} else if c.op == 'D' {
		return wrongByte(what, at, "tuple mark", "'K' or 'O'", mark)
	}
	if c.op != 'D' {
		if at == len(msg) {
			return short(what, at, 1, 0)
		}
		if mark := msg[at]; mark != 'N' {
			want := "'N'"
			if c.op == 'U' && c.oldKind == 0 {
				want = "'K', 'O' or 'N'"
			}
			return wrongByte(what, at, "tuple mark", want, mark)
		}
		if c.new, at, err = walkTuple(c.new, newWhat, msg, at+1); err != nil {
			return err
		}
	}
	if at != len(msg) {
		return trailing(what, at, len(msg)-at)
	}
	return nil
}

// appendTuple appends t in TupleData form (int16 count, then kind byte, int32 length, bytes), the form chunks keep
// rows in. REQUIRES: at most 32767 values, each shorter than 2 GiB; PostgreSQL's limits are 1600 and 1 GiB.
func appendTuple(dst []byte, t tuple) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(t)))
	for i := range t {
		v := &t[i]
		dst = append(dst, byte(v.kind))
		if v.kind == valueText || v.kind == valueBinary {
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(v.data)))
			dst = append(dst, v.data...)
		}
	}
	return dst
}

// decodeTuple decodes one TupleData at the start of src into dst[:0] and returns what follows it. The tuple aliases
// src. On error t is empty and keeps dst's capacity.
func decodeTuple(dst tuple, src []byte) (t tuple, rest []byte, err error) {
	t, end, err := walkTuple(dst, "tuple", src, 0)
	if err != nil {
		return t, nil, err
	}
	return t, src[end:], nil
}

// walkTuple decodes the TupleData at msg[at:] into dst[:0] and returns the offset behind it. proto.c,
// logicalrep_write_tuple: count, then a kind byte each, and for 't' and 'b' a length and that many bytes.
func walkTuple(dst tuple, what string, msg []byte, at int) (tuple, int, error) {
	if len(msg)-at < 2 {
		return dst[:0], at, short(what, at, 2, len(msg)-at)
	}
	count := int(int16(binary.BigEndian.Uint16(msg[at:])))
	if count < 0 {
		return dst[:0], at, &malformedError{what, at, "column count " + strconv.Itoa(count) + " is negative"}
	}
	at += 2
	if len(msg)-at < count { // each value takes its kind byte at least, so a lying count cannot make us allocate
		return dst[:0], at, short(what, at, count, len(msg)-at)
	}
	dst = slices.Grow(dst[:0], count)[:count]
	for i := range dst {
		if at == len(msg) {
			return dst[:0], at, short(what, at, 1, 0)
		}
		v := &dst[i]
		v.kind, v.data = valueKind(msg[at]), nil
		at++
		switch v.kind {
		case valueText, valueBinary:
			if len(msg)-at < 4 {
				return dst[:0], at, short(what, at, 4, len(msg)-at)
			}
			n := int(int32(binary.BigEndian.Uint32(msg[at:])))
			if n < 0 {
				return dst[:0], at, &malformedError{what, at, "value length " + strconv.Itoa(n) + " is negative"}
			}
			at += 4
			if len(msg)-at < n {
				return dst[:0], at, short(what, at, n, len(msg)-at)
			}
			v.data = msg[at : at+n : at+n]
			at += n
		case valueNull, valueUnchanged:
		default:
			return dst[:0], at - 1, wrongByte(what, at-1, "value kind", "'n', 'u', 't' or 'b'", byte(v.kind))
		}
	}
	return dst, at, nil
}

// cursor reads the rarer messages. Its first fault sticks: reads after it return zero values, and end reports it.
type cursor struct {
	what string
	msg  []byte
	at   int
	err  *malformedError
}

func newCursor(what string, kind byte, msg []byte) *cursor {
	c := &cursor{what: what, msg: msg}
	if have := c.byte(); c.err == nil && have != kind {
		c.err = wrongByte(what, 0, "kind", strconv.QuoteRune(rune(kind)), have)
	}
	return c
}

func (c *cursor) take(n int) []byte {
	if c.err == nil && len(c.msg)-c.at < n {
		c.err = short(c.what, c.at, n, len(c.msg)-c.at)
	}
	if c.err != nil {
		return zeros[:n]
	}
	c.at += n
	return c.msg[c.at-n : c.at]
}

// zeros is what a cursor past its fault reads: eight bytes are the widest integer.
var zeros [8]byte

func (c *cursor) byte() byte     { return c.take(1)[0] }
func (c *cursor) uint16() uint16 { return binary.BigEndian.Uint16(c.take(2)) }
func (c *cursor) uint32() uint32 { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cursor) uint64() uint64 { return binary.BigEndian.Uint64(c.take(8)) }

// string copies a NUL-terminated string.
func (c *cursor) string() string {
	if c.err != nil {
		return ""
	}
	n := bytes.IndexByte(c.msg[c.at:], 0)
	if n < 0 {
		c.err = &malformedError{c.what, c.at, "string without an end"}
		return ""
	}
	c.at += n + 1
	return string(c.msg[c.at-n-1 : c.at-1])
}

// namespace reads a schema name; pg_catalog travels as the empty string (proto.c, logicalrep_write_namespace).
func (c *cursor) namespace() string {
	name := c.string()
	if name == "" && c.err == nil {
		return "pg_catalog"
	}
	return name
}

// count checks a number of elements just read against the bytes left, so that a lying one cannot make us allocate.
func (c *cursor) count(n, minSize int) int {
	if c.err == nil && n < 0 {
		c.err = &malformedError{c.what, c.at, "count " + strconv.Itoa(n) + " is negative"}
	}
	if have := len(c.msg) - c.at; c.err == nil && have < n*minSize {
		c.err = short(c.what, c.at, n*minSize, have)
	}
	if c.err != nil {
		return 0
	}
	return n
}

// end reports the first fault; bytes left over are one.
func (c *cursor) end() error {
	if c.err == nil && c.at != len(c.msg) {
		c.err = trailing(c.what, c.at, len(c.msg)-c.at)
	}
	if c.err != nil {
		return c.err
	}
	return nil
}

// A change is a CopyData frame with XLogData with an Insert, Update or Delete: kind, length; 'w', two positions, send time;
// kind, relation.
const (
	xlogHead   = 5 + 25
	changeHead = xlogHead + 5
)

// messageHead is the size of a message's head: kind, length of the rest with these four bytes.
const messageHead = 5

func cloneTuple(t tuple) tuple {
	copied := slices.Clone(t)
	for i := range copied {
		copied[i].data = slices.Clone(copied[i].data)
	}
	return copied
}
