package main

import "github.com/jackc/pglogrepl"

// lsn is a position in the write-ahead log; its text form is X/X in upper-case hex.
type lsn = pglogrepl.LSN

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

// msg in each decoder is the XLogData payload including its leading kind byte.

func decodeBegin(msg []byte) (beginMessage, error)       { panic("stub") }
func decodeCommit(msg []byte) (commitMessage, error)     { panic("stub") }
func decodeRelation(msg []byte) (*relation, error)       { panic("stub") } // copies what it keeps
func decodeType(msg []byte) (typeMessage, error)         { panic("stub") }
func decodeTruncate(msg []byte) (truncateMessage, error) { panic("stub") }

// decodeChange decodes an Insert, Update or Delete into c, reusing its tuples: no allocation in steady state.
func decodeChange(msg []byte, c *change) error { panic("stub") }

// appendTuple appends t in TupleData form (int16 count, then kind byte, int32 length, bytes), the form chunks keep rows in.
func appendTuple(dst []byte, t tuple) []byte { panic("stub") }

// decodeTuple decodes one TupleData at the start of src into dst[:0] and returns what follows it.
func decodeTuple(dst tuple, src []byte) (t tuple, rest []byte, err error) { panic("stub") }
