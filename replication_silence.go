// replication_silence.go owns what is made of a replication session from which nothing comes.
// Invariant: each status update asks for an answer, so that a healthy link is never silent for long; one that is for silenceLimit,
// though nothing waits to be handled, is dead, or its sender has stopped or is deep in a transaction, and the server knows which.

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// silenceLimit is how long the server may say nothing, though asked, before we look whether it is still there. A variable
// for the tests alone, as those like it are.
var silenceLimit = 35 * time.Second

// askLight is the pause between questions (askDue) at which a light fence is given up for a true one: it is not known of every
// server that it streams what it says to have flushed.
const askLight = 2 * time.Second

// silence is what is to be said of a session from which nothing comes.
type silence struct {
	said string // "": nothing, now
	over bool   // it has ended
	dead bool   // nothing will come any more: the session is to be given up
}

// judgeSilence tells a dead link, and a sender that has stopped, from one that is at work. Owned by the capture goroutine.
func (s *replication) judgeSilence(ctx context.Context, db *database, now time.Time) silence {
	silent := now.Sub(time.Unix(0, s.received.Load())).Round(time.Second)
	if silent < silenceLimit || s.ready() {
		over := !s.silentAt.IsZero()
		s.silentAt = time.Time{}
		return silence{over: over}
	}
	if now.Sub(s.silentAt) < silenceLimit {
		return silence{}
	}
	s.silentAt = now
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var kind, event string
	var there bool
	err := db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT count(*) > 0, coalesce(max(wait_event_type), ''), coalesce(max(wait_event), 'nothing')
			FROM pg_stat_activity WHERE pid = $1`, fmt.Sprint(s.pid)).Scan(&there, &kind, &event)
	})
	switch {
	case err != nil:
		return silence{dead: true, said: fmt.Sprintf("The server has been silent for %s and does not answer queries either: %v", silent, err)}
	case !there:
		return silence{dead: true, said: fmt.Sprintf("The replication connection has been silent for %s and the server no longer has it: "+
			"reconnecting", silent)}
	case kind == "Activity" || kind == "Client":
		// It waits for WAL or for us: then it would have answered, had it heard us and we it.
		return silence{dead: true, said: fmt.Sprintf("The replication connection has been silent for %s though the server's sender is idle "+
			"(%s): reconnecting", silent, event)}
	}
	return silence{said: fmt.Sprintf("The server has sent nothing for %s: its sender is at work, waiting for %s (it is decoding a large "+
		"transaction, or WAL of other databases)", silent, event)}
}
