// flow_checkpoint.go owns the persisted state of a capture: what a restart resumes. Its shape is the incumbent's
// (spec/incumbent.md §7), so that either image reads what the other wrote; what is ours alone lives in each binding's
// metadata. Every checkpoint is an RFC 7396 merge patch with the cursor and the bindings changed since the last one.
// Invariant: a binding is written whole or not at all, and a cursor is the end of a database transaction.

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/jackc/pglogrepl"
)

// storedMode is a binding's mode word in the checkpoint.
type storedMode string

const (
	storedPending    storedMode = "Pending"
	storedBackfill   storedMode = "Backfill"
	storedUnfiltered storedMode = "UnfilteredBackfill"
	storedKeyless    storedMode = "KeylessBackfill"
	storedActive     storedMode = "Active"
	storedIgnore     storedMode = "Ignore"
	storedMissing    storedMode = "Missing"
)

// captureState is the connector state as the runtime stores it.
type captureState struct {
	Cursor   *string                  `json:"cursor"`
	Bindings map[string]*bindingState `json:"bindingStateV1,omitempty"`
}

// bindingState is one binding's entry. Field names and order are the incumbent's.
type bindingState struct {
	Mode       storedMode      `json:"mode"`
	KeyColumns []string        `json:"key_columns"`
	Scanned    []byte          `json:"scanned"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	Backfilled int             `json:"backfilled"`
}

// bindingMetadata is what only we know of a binding. Every field but Partitions is always written: a merge patch cannot drop
// a key by leaving it out.
type bindingMetadata struct {
	// OID of the table captured; another OID under the same name is another table.
	OID uint32 `json:"oid"`
	// First is set while this is provably the first backfill of the state key, so that the collection holds no key
	// the scan has not reached (DESIGN I5).
	First bool `json:"first"`
	// Sent tells how the table's changes are sent, by the versions of the catalog rows that this rests on. Another one means that
	// for some time they may not have been (capture_fitness.go).
	Sent string `json:"membership"`
	// Key tells which columns are the key columns, and their types and collations, that a backfill under way walks by: its position means nothing under
	// others.
	Key string `json:"key"`
	// Columns tells the captured columns apart, Filenode and Toast where a plain table's rows and long values are, when the catalog
	// was last looked at; "" and 0 for unknown. By them, changes of a table that its stream says nothing of are announced.
	Columns  string `json:"columns"`
	Filenode uint32 `json:"filenode"`
	Toast    uint32 `json:"toast"`
	// Sight tells which rows our role saw when the backfill began: all of them, or those that row-level security left it; ""
	// for unknown. A chunk that sees others does not go on from there (backfill_sight.go).
	Sight string `json:"sight"`
	// ByLeaf is set while a partitioned table that has a key is read partition by partition, by ctid, as one without a key is.
	ByLeaf bool `json:"byLeaf"`
	// Hidden is set while the binding is parked because row-level security came to hide rows of the table under its backfill.
	Hidden bool `json:"hidden"`
	// Untold is set while the table is captured though its replica identity lacks the collection key, as it was captured before us:
	// until a change comes whose old key is not told.
	Untold bool `json:"untold"`
	// Begun is set from the BackfillBegin of the backfill under way until its BackfillComplete (capture_markers.go).
	// BegunAt tells how far that backfill was when we stored it: another image that goes on with it carries this along as it is.
	Begun   bool   `json:"begun"`
	BegunAt string `json:"begunAt"`
	// Within is how far a transaction behind the cursor has been captured (capture_within.go); nil for none that is known.
	Within *transactionPlace `json:"within"`
	// System and Timeline of the server that wrote the WAL behind the cursor.
	System   string `json:"system"`
	Timeline int    `json:"timeline"`
	// Leaves are the positions of a ctid scan, one per relation that holds rows; of a table captured already, or scanned by
	// key, those of the partitions that were attached to it with rows (capture_partition_changes.go).
	Leaves []leafCursor `json:"leaves"`
	// Partitions are those of a partitioned table whose rows are all accounted for, in the form of capture_partition_changes.go; nil where what
	// is stored says the same. There may be ten thousand, so they alone are written when they changed.
	Partitions *string `json:"partitions,omitempty"`
}

// transactionPlace is how far the documents of one binding have been captured of a transaction whose commit lies behind the
// cursor. Positions are texts: not every reader of JSON keeps 64 bits of a number.
type transactionPlace struct {
	Commit    string `json:"commit"`    // of the transaction
	XID       uint32 `json:"xid"`       // its own
	Last      string `json:"last"`      // loc[1] of the last document
	Documents int64  `json:"documents"` // so far
	Digest    string `json:"digest"`    // of their places and operations; "": what a change yields has changed among them
	Rule      string `json:"rule"`      // what a change yields: see ruleOf
}

// positions returns the commit and the last document's place.
func (p *transactionPlace) positions() (commit, last lsn, err error) {
	if commit, err = pglogrepl.ParseLSN(p.Commit); err == nil {
		last, err = pglogrepl.ParseLSN(p.Last)
	}
	return commit, last, err
}

// passed reports whether the transaction has been captured whole: it commits before the cursor. The end of the record before may
// be where the commit's begins.
func (p *transactionPlace) passed(cursor lsn) bool {
	commit, _, err := p.positions()
	return err == nil && commit < cursor
}

// leafCursor is the position of a ctid scan in one relation, valid only for one relfilenode: tuples up to and including
// (Block, Offset) have been read. Pages is where the scan ends: what is added behind it is streamed.
type leafCursor struct {
	OID      uint32 `json:"oid"`
	Filenode uint32 `json:"filenode"`
	Block    int64  `json:"block"`
	Offset   int    `json:"offset"`
	Pages    int64  `json:"pages"`
	Done     bool   `json:"done"`
	// UpTo bounds the keys to read: those behind it are read by the scan of the whole table, which had reached it when the
	// partition came. In base64; "": all.
	UpTo string `json:"upTo,omitempty"`
	next int64  // the block at which the chunk being read ends
}

// parseState reads the state of an Open request strictly: an unknown property is an error, since what we do not
// understand we would lose.
func parseState(raw json.RawMessage) (*captureState, error) {
	state := &captureState{}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		raw = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(state); err != nil {
		return nil, fmt.Errorf("parse the stored capture state: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("parse the stored capture state: more than one JSON value")
	}
	if _, err := state.cursor(); err != nil {
		return nil, err
	}
	for key, b := range state.Bindings {
		if b == nil {
			delete(state.Bindings, key)
			continue
		}
		switch b.Mode {
		case storedPending, storedBackfill, storedUnfiltered, storedKeyless, storedActive, storedIgnore, storedMissing:
		default:
			return nil, fmt.Errorf("parse the stored capture state: binding %q has unknown mode %q", key, b.Mode)
		}
	}
	return state, nil
}

// cursor returns the stored position, 0 when there is none.
func (s *captureState) cursor() (lsn, error) {
	if s.Cursor == nil || *s.Cursor == "" {
		return 0, nil
	}
	position, err := pglogrepl.ParseLSN(*s.Cursor)
	if err != nil || !lsnTexts.MatchString(*s.Cursor) { // ParseLSN takes what begins like a position
		return 0, fmt.Errorf("parse the stored capture state: cursor %q is not an LSN (want X/X)", *s.Cursor)
	}
	return position, nil
}

// metadata returns our part of an entry; ours is false when the entry was written by the incumbent or has none.
func (b *bindingState) metadata() (m bindingMetadata, ours bool) {
	if len(b.Metadata) == 0 || bytes.Equal(b.Metadata, []byte("null")) {
		return m, false
	}
	if err := json.Unmarshal(b.Metadata, &m); err != nil {
		return bindingMetadata{}, false
	}
	return m, true
}

// captures reports whether the entry is of a table that is being captured with the key, whatever its replica identity: taken over
// from the incumbent, who does not look at that, or by us as such.
func (b *bindingState) captures(key []string) bool {
	if b == nil || b.Mode == storedIgnore || b.Mode == storedMissing || len(b.KeyColumns) > 0 && !slices.Equal(b.KeyColumns, key) {
		return false
	}
	m, ours := b.metadata()
	return m.Untold || !ours && b.Mode != storedPending
}

func (b *bindingState) setMetadata(m *bindingMetadata) {
	if m.Leaves == nil {
		m.Leaves = []leafCursor{}
	}
	raw, err := json.Marshal(m)
	assert(err == nil, "metadata marshals")
	b.Metadata = raw
}

// place tells how far the backfill of an entry is.
func (b *bindingState) place() string {
	return string(b.Mode) + " " + strconv.Itoa(b.Backfilled) + " " + base64.StdEncoding.EncodeToString(b.Scanned)
}

// ignoredState is the entry of a binding that is no longer part of the task.
func ignoredState() *bindingState {
	return &bindingState{Mode: storedIgnore, Metadata: json.RawMessage("null")}
}

// appendPatch appends the merge patch of a checkpoint: the cursor (null when 0) and the changed bindings.
func appendPatch(dst []byte, cursor lsn, changed map[string]*bindingState) ([]byte, error) {
	dst = append(dst, `{"cursor":`...)
	if cursor == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = append(dst, '"')
		dst = appendLSN(dst, cursor)
		dst = append(dst, '"')
	}
	if len(changed) > 0 {
		bindings, err := json.Marshal(changed)
		if err != nil {
			return nil, fmt.Errorf("encode a checkpoint: %w", err)
		}
		dst = append(dst, `,"bindingStateV1":`...)
		dst = append(dst, bindings...)
	}
	return append(dst, '}'), nil
}

func appendLSN(dst []byte, l lsn) []byte {
	at := len(dst)
	dst = strconv.AppendUint(dst, uint64(l)>>32, 16)
	dst = append(dst, '/')
	dst = strconv.AppendUint(dst, uint64(l)&0xffffffff, 16)
	for i := at; i < len(dst); i++ {
		if 'a' <= dst[i] && dst[i] <= 'f' {
			dst[i] -= 'a' - 'A'
		}
	}
	return dst
}
