package main

// keyColumn is one column of a scan key.
type keyColumn struct {
	name      string
	typeOID   uint32 // domains resolved to their base
	typeKind  byte   // pg_type.typtype of typeOID: b, e, c, r, m
	typeName  string // of typeOID, as in pg_type.typname: citext is recognised by it
	byteOrder bool   // its collation sorts as bytes do (C, POSIX, pg_c_utf8), or it has none
	nullable  bool
}

// scanKey is the key a table is scanned by: how its keys compare and how they persist.
type scanKey struct {
	columns []keyColumn
}

func newScanKey(columns []keyColumn) *scanKey { panic("stub") }

// ordered reports whether bytes.Compare of appendOrder's results is the server's ORDER BY (ascending, NULLS LAST)
// with equality included, for every column.
func (k *scanKey) ordered() bool { panic("stub") }

// predictable reports whether the incumbent would scan this key precisely (spec/incumbent.md §3.1), which decides the
// mode word stored in the checkpoint.
func (k *scanKey) predictable() bool { panic("stub") }

// appendOrder appends the comparison form of a key. values are the key columns' in key order, text format.
func (k *scanKey) appendOrder(dst []byte, values []value) ([]byte, error) { panic("stub") }

// appendPacked appends the persisted form: the incumbent's tuple encoding (spec/incumbent.md §7.4).
func (k *scanKey) appendPacked(dst []byte, values []value) ([]byte, error) { panic("stub") }

// unpack reads a persisted key back as text values that the server parses to equal ones.
func (k *scanKey) unpack(packed []byte) ([]value, error) { panic("stub") }
