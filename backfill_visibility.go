// backfill_visibility.go owns when a transaction becomes visible to others: which ones a snapshot sees, which are still open behind a
// lock on a table, and what a commit may wait for. WAL reaches us before that (DESIGN I3).
// Invariant: a transaction counts as seen only if a snapshot, or its end, has shown it.

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// snapshot is a txid_current_snapshot(): which transactions a query sees.
type snapshot struct {
	xmin, xmax uint64
	xip        []uint64
}

// parseSnapshot reads xmin:xmax:xip,… (txid_snapshot's text form).
func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("snapshot %q is not xmin:xmax:xip", text)
	}
	if s.xmin, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return s, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if s.xmax, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return s, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if parts[2] == "" {
		return s, nil
	}
	for xid := range strings.SplitSeq(parts[2], ",") {
		x, err := strconv.ParseUint(xid, 10, 64)
		if err != nil {
			return s, fmt.Errorf("snapshot %q: %w", text, err)
		}
		s.xip = append(s.xip, x)
	}
	return s, nil
}

// sees reports whether a transaction that has been streamed, hence committed, is visible in the snapshot. xid is the
// 32-bit one of the Begin message; the snapshot's epoch widens it.
func (s *snapshot) sees(xid uint32) bool {
	full := s.xmax&^0xffffffff | uint64(xid)
	if full > s.xmax && full-s.xmax > 1<<31 && full >= 1<<32 {
		full -= 1 << 32
	} else if full < s.xmax && s.xmax-full > 1<<31 {
		full += 1 << 32
	}
	return full < s.xmax && !slices.Contains(s.xip, full)
}

// xidSet are streamed transactions that touched a range not yet settled: a chunk counts only from a snapshot that sees
// them all (DESIGN I3).
type xidSet []uint32

func (x *xidSet) add(xid uint32) {
	if n := len(*x); n == 0 || (*x)[n-1] != xid {
		*x = append(*x, xid)
	}
}

// prune removes what the snapshot sees and reports whether nothing is left.
func (x *xidSet) prune(s *snapshot) bool {
	*x = slices.DeleteFunc(*x, s.sees)
	return len(*x) == 0
}

// matchesStandby reports whether a walsender called application counts as one of synchronous_standby_names: `a, b`,
// `2 (a, b)`, `FIRST 2 (a, b)` or `ANY 2 (a, b)`, where * stands for all and names compare without case
// (syncrep_scanner.l, SyncRepGetStandbyPriority).
func matchesStandby(names, application string) bool {
	if i := unquotedParen(names); i >= 0 {
		names = names[i+1:]
	}
	for name := []byte(nil); names != ""; {
		name = name[:0]
		switch ch := names[0]; {
		case ch == '"':
			names = names[1:]
			for names != "" {
				if names[0] == '"' {
					if !strings.HasPrefix(names, `""`) {
						names = names[1:]
						break
					}
					names = names[1:]
				}
				name = append(name, names[0])
				names = names[1:]
			}
		case strings.IndexByte(standbySeparators, ch) >= 0:
			names = names[1:]
			continue
		default:
			end := strings.IndexAny(names, standbySeparators+`"`)
			if end < 0 {
				end = len(names)
			}
			name, names = append(name, names[:end]...), names[end:]
		}
		if string(name) == "*" || strings.EqualFold(string(name), application) {
			return true
		}
	}
	return false
}

const standbySeparators = " \t\n\r\f\v,()"

// unquotedParen returns the index of the first opening parenthesis outside of quotes, -1 if there is none.
func unquotedParen(text string) int {
	quoted := false
	for i := range len(text) {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case text[i] == '(' && !quoted:
			return i
		}
	}
	return -1
}

// mayBeSynchronous reports whether synchronous_standby_names stands for our replication session.
func (db *database) mayBeSynchronous(names string) bool {
	return matchesStandby(names, db.applicationName())
}

func (db *database) applicationName() string { return db.sessionParams()["application_name"] }

// synchronousText says that we are among the synchronous standbys, and what to do.
func synchronousText(names, application string) string {
	return fmt.Sprintf("synchronous_standby_names = %s stands for this capture too (application_name %s), which is no standby. It leaves "+
		"that part to any other; but where there is none, commits wait until the runtime has taken in what they wrote. Name the "+
		"standbys that are meant, and run: ALTER SYSTEM SET synchronous_standby_names = 'NAME'; SELECT pg_reload_conf(); or, if there are "+
		"none, ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();", literal(names), application)
}

// writer is an open transaction, which may have written to a relation.
type writer struct {
	relation    uint32 // 0: whichever
	virtualXID  string // -1/xid for a transaction that was prepared before the server was restarted
	pid         int32  // 0 for a prepared transaction
	gid         string // of a prepared transaction
	application string
	user        string
	state       string        // "" where our role may not see it
	age         time.Duration // of the transaction; below 0 where our role may not see it
}

// String names the transaction for a person.
func (w writer) String() string {
	var b strings.Builder
	if w.gid != "" {
		fmt.Fprintf(&b, "prepared transaction %s", literal(w.gid))
	} else {
		fmt.Fprintf(&b, "pid %d", w.pid)
	}
	var about []string
	if w.application != "" {
		about = append(about, fmt.Sprintf("application %q", w.application))
	}
	if w.user != "" {
		about = append(about, fmt.Sprintf("user %q", w.user))
	}
	if w.state != "" {
		about = append(about, w.state)
	}
	if w.age >= 0 {
		about = append(about, "open for "+w.age.Round(time.Second).String())
	}
	if len(about) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(about, ", "))
	}
	return b.String()
}

// writeLocks are the modes that a writing transaction holds on a table until its changes are visible to all.
const writeLocks = `('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

// memberLocks are the modes that keep a table from being made a member of a publication.
const memberLocks = `('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

const sqlLockHolders = `
SELECT DISTINCT ON (l.relation, l.virtualtransaction, p.gid)
	l.relation::text, l.virtualtransaction, coalesce(l.pid, 0)::text, coalesce(p.gid, ''),
	coalesce(a.application_name, ''), coalesce(a.usename, p.owner, '')::text, coalesce(a.state, ''),
	coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), -1)::text
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
	AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE NOT pg_is_in_recovery() AND l.locktype = 'relation' AND l.granted AND l.mode IN %s
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.relation = ANY ($1::oid[]) AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY l.relation, l.virtualtransaction, p.gid`

// lockHolders returns, by relation, the open transactions that hold a lock of one of the modes on the relations, prepared
// ones included. Those with one of writeLocks may have written to them: a transaction keeps its locks until its changes are
// visible to every new snapshot. On a standby, which shows no locks of the primary's transactions, there are none.
func lockHolders(ctx context.Context, conn *pgx.Conn, oids []uint32, modes string) (map[uint32][]writer, error) {
	holders := make(map[uint32][]writer)
	rows, err := conn.Query(ctx, fmt.Sprintf(sqlLockHolders, modes), oidArray(oids))
	if err != nil {
		return nil, fmt.Errorf("list the transactions that hold locks on the tables: %w", err)
	}
	var relation, pid, age string
	var w writer
	targets := []any{&relation, &w.virtualXID, &pid, &w.gid, &w.application, &w.user, &w.state, &age}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		oid, err := strconv.ParseUint(relation, 10, 32)
		if err != nil {
			return err
		}
		number, err := strconv.ParseInt(pid, 10, 32)
		if err != nil {
			return err
		}
		w.relation, w.pid, w.age = uint32(oid), int32(number), seconds(age)
		holders[w.relation] = append(holders[w.relation], w)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the transactions that hold locks on the tables: %w", err)
	}
	return holders, nil
}

// A transaction that is prepared keeps its virtual ID (since the minor releases of November 2021; before, and after a
// restart of the server, it is -1/xid, which cannot be traced back to the ID it had: so any such transaction with a write
// lock on the same relation counts, which has to be waited for anyway).
const sqlStillOpen = `
SELECT w.ordinality::text
FROM unnest($1::text[], $2::oid[]) WITH ORDINALITY AS w (vxid, relation)
WHERE NOT pg_is_in_recovery() AND EXISTS (
	SELECT FROM pg_locks l
	WHERE l.virtualtransaction = w.vxid
		OR l.virtualtransaction LIKE '-1/%' AND l.locktype = 'relation' AND l.relation = w.relation
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND l.granted AND l.mode IN ` + writeLocks + `)
ORDER BY w.ordinality`

// stillOpen returns those of the transactions that have not ended yet.
func stillOpen(ctx context.Context, conn *pgx.Conn, writers []writer) ([]writer, error) {
	if len(writers) == 0 {
		return nil, nil
	}
	vxids := make([]string, len(writers))
	oids := make([]uint32, len(writers))
	for i, w := range writers {
		vxids[i], oids[i] = w.virtualXID, w.relation
	}
	rows, err := conn.Query(ctx, sqlStillOpen, "{"+strings.Join(vxids, ",")+"}", oidArray(oids))
	if err != nil {
		return nil, fmt.Errorf("look for transactions that have not ended: %w", err)
	}
	var open []writer
	var ordinal string
	_, err = pgx.ForEachRow(rows, []any{&ordinal}, func() error {
		n, err := strconv.Atoi(ordinal)
		if err != nil {
			return err
		}
		open = append(open, writers[n-1])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for transactions that have not ended: %w", err)
	}
	return open, nil
}

// seconds reads a number of seconds as the server writes it; -1ns when it is negative, the mark for unknown.
func seconds(text string) time.Duration {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 {
		return -1
	}
	return time.Duration(n * float64(time.Second))
}
