// capture_renewal.go owns the renewal of a replication session for the sake of partitions that it does not publish. Before version 15 the server
// keeps what it found out about how a table's changes are published as long as the session lasts, ATTACH or not (pgoutput.c,
// rel_sync_cache_relation_cb): when it has seen a change of the table from before, it never sends those that follow. So the session
// is started anew from a position behind the attachment.
// Invariant: nothing of a binding is read, and no partition of it that came is remembered, before a session has begun behind the
// attachment; so that after a kill it is found again.

package main

import "maps"

// renewal is which attachments of partitions sessions were started behind. An attachment is known by its path (knownPartition).
type renewal struct {
	at     lsn             // the session is to be started anew from a position at or behind this; 0: that is not asked for
	asking map[uint64]bool // attachments that ask for it
	behind map[uint64]bool // those behind which the present session, or one before, was started
}

// lacks reports whether the session does not begin behind some of the attachments, and whether all of those ask for another one already.
func (r *renewal) lacks(attachments []uint64) (lacks, asked bool) {
	asked = true
	for _, path := range attachments {
		lacks = lacks || !r.behind[path]
		asked = asked && (r.behind[path] || r.asking[path])
	}
	return lacks, asked
}

// ask asks for a session that begins behind the attachments, which a position is behind.
func (r *renewal) ask(attachments []uint64, position lsn) {
	if r.asking == nil {
		r.asking = make(map[uint64]bool)
	}
	for _, path := range attachments {
		r.asking[path] = true
	}
	r.at = max(r.at, position)
}

// begins takes note that the session to come begins behind the attachments.
func (r *renewal) begins(attachments []uint64) {
	if r.behind == nil {
		r.behind = make(map[uint64]bool)
	}
	for _, path := range attachments {
		r.behind[path] = true
	}
}

// began reports whether a session that begins at start is the one that was asked for.
func (r *renewal) began(start lsn) bool {
	if r.at == 0 || start < r.at {
		return false
	}
	if r.behind == nil {
		r.behind = make(map[uint64]bool)
	}
	maps.Copy(r.behind, r.asking)
	r.at, r.asking = 0, nil
	return true
}
