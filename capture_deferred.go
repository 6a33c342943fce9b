// capture_deferred.go owns the keys that the server checks only at commit (deferrable constraints): for a moment two rows of a
// transaction stand under one. Their old tuples come whole (such a constraint is no replica identity, so it is FULL), and tell
// which row a change is about.
// Invariant: a transaction's last document of a key tells of the row that stands under it at its commit. Of the row that
// stood there before, nothing is told while a younger one is there.

package main

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/sirupsen/logrus"
)

// keyRef names a key of a table.
type keyRef struct {
	relation uint32
	identity string
}

// olderRow is what a transaction has told of the row that stood under a key before it.
type olderRow uint8

const (
	olderUnknown olderRow = iota // nothing: there may be none
	olderChanged                 // it is keyRows.changed now
	olderGone
)

// keyRows are the rows that a transaction has under a key.
type keyRows struct {
	younger  []uint64 // images of those that it has put there and that have not left
	last     uint64   // image of the younger row that the key's last document tells of
	stale    bool     // that row has left, and another younger one is there
	older    olderRow
	changed  tuple
	told     bool // the last document of the key is a delete
	doubtful bool // it is among transaction.doubtful
}

// doubtfulKey is a key of which it is not known what stands there: its younger rows have left while the older one is unknown, or
// the last document tells of one that has left while another one stays.
type doubtfulKey struct {
	entry *relationEntry
	key   []value
	rows  *keyRows
}

// defers reports whether rows of a table may share a key for a moment. Of a transaction with more keys than can be remembered
// it says once that they are not told apart any more.
func (j *changes) defers(e *relationEntry) bool {
	if !e.binding.deferrable || e.relation.identity != 'f' {
		return false
	}
	if len(j.tx.held) <= budget.held {
		return true
	}
	if !j.tx.crowded {
		j.tx.crowded = true
		logrus.WithFields(logrus.Fields{"table": e.binding.name().String(), "xid": j.tx.begin.xid}).Warnf("a transaction puts rows under "+
			"more than %d keys that are checked at its end: if beyond these rows exchange their keys, their documents may be wrong "+
			"until they change or the table is backfilled", budget.held)
	}
	return false
}

// arrive takes note of a row that now stands under its key, and makes the document one of that key. It returns false where it
// has none, since a younger row stands there.
func (j *changes) arrive(e *relationEntry, d *document) bool {
	if !j.defers(e) || d.op == 'u' && len(j.tx.held) == 0 {
		return true
	}
	j.identity = appendIdentity(j.identity[:0], d.key)
	k := j.tx.held[keyRef{e.relation.oid, string(j.identity)}]
	if d.op == 'c' {
		if k == nil {
			if j.tx.held == nil {
				j.tx.held = make(map[keyRef]*keyRows)
			}
			k = &keyRows{}
			j.tx.held[keyRef{e.relation.oid, string(j.identity)}] = k
		}
		k.last = j.imageOf(d.row, d.fill)
		k.younger = append(k.younger, k.last)
		k.told, k.stale = false, false
		return true
	}
	if k == nil {
		return true
	}
	if i := slices.Index(k.younger, j.imageOf(d.before, nil)); i >= 0 {
		other := k.younger[i] != k.last
		k.last = j.imageOf(d.row, d.before)
		k.younger[i], k.stale = k.last, false
		if other { // what was told last is another row
			d.op, d.before = 'c', nil
		}
		return true
	}
	if len(k.younger) > 0 {
		k.older, k.changed = olderChanged, slices.Clone(d.row)
		k.changed.fill(d.before)
		k.changed = cloneTuple(k.changed)
		return false
	}
	delete(j.tx.held, keyRef{e.relation.oid, string(j.identity)})
	if k.told { // the row was there all the time
		k.told = false
		d.op, d.before = 'c', nil
	}
	return true
}

// leave takes note of a row that leaves a key. held tells that another row stands there, so that the key's documents go on
// without a delete, or that a delete was the last of them; back is the older row where that stands there again; untold, that the
// key's last document tells of another row that has left before.
func (j *changes) leave(e *relationEntry, key []value, old tuple) (held bool, back tuple, untold bool) {
	if len(j.tx.held) == 0 || !j.defers(e) {
		return false, nil, false
	}
	j.identity = appendIdentity(j.identity[:0], key)
	k := j.tx.held[keyRef{e.relation.oid, string(j.identity)}]
	if k == nil {
		return false, nil, false
	}
	image := j.imageOf(old, nil)
	i := slices.Index(k.younger, image)
	if i < 0 {
		k.older, k.changed = olderGone, nil
		return len(k.younger) > 0 || k.told, nil, false
	}
	k.younger = slices.Delete(k.younger, i, i+1)
	if len(k.younger) > 0 {
		if k.stale = k.stale || image == k.last; k.stale {
			j.doubt(e, key, k)
		}
		return true, nil, false
	}
	untold, k.stale = k.stale, false
	if k.older == olderChanged {
		delete(j.tx.held, keyRef{e.relation.oid, string(j.identity)})
		return false, k.changed, untold
	}
	k.told = true
	if k.older == olderUnknown {
		j.doubt(e, key, k)
	}
	return false, nil, untold
}

// doubt has the table asked at the commit which row stands under a key.
func (j *changes) doubt(e *relationEntry, key []value, k *keyRows) {
	if !k.doubtful {
		k.doubtful = true
		j.tx.doubtful = append(j.tx.doubtful, doubtfulKey{e, cloneTuple(key), k})
	}
}

// leaveAll takes note of a TRUNCATE: no row of the table stands under any key.
func (j *changes) leaveAll(e *relationEntry) {
	maps.DeleteFunc(j.tx.held, func(k keyRef, _ *keyRows) bool { return k.relation == e.relation.oid })
	j.tx.doubtful = slices.DeleteFunc(j.tx.doubtful, func(d doubtfulKey) bool { return d.entry.relation.oid == e.relation.oid })
}

// imageOf tells rows apart: a hash of the whole row, unchanged TOAST values taken from fill.
func (j *changes) imageOf(t, fill tuple) uint64 {
	j.image.Reset()
	for i := range t {
		v := t.from(fill, i)
		var head [5]byte
		head[0] = byte(v.kind)
		binary.BigEndian.PutUint32(head[1:], uint32(len(v.data)))
		j.image.Write(head[:])
		j.image.Write(v.data)
	}
	return j.image.Sum64()
}
