// servererrors.go owns what an error of the server's means for a capture: whether it passes, what has to be put right, and by
// whom. Invariant: what cannot pass by itself is never tried again for ever, and every class has a line of advice.
package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// errorClass is what becomes of a capture that met an error of the server's.
type errorClass uint8

const (
	classUnknown       errorClass = iota // as the error says; it ends the capture
	classRetry                           // it passes: connect again
	classConfiguration                   // something must be set, granted or freed first
	classSlot                            // what the slot has still to send is out of reach: it must be made anew
	classServer                          // a fault or a limit within the server
)

func (c errorClass) String() string {
	return [...]string{"unknown", "retry", "configuration", "slot", "server"}[c]
}

const (
	adviceSlot     = "The slot cannot be read on from here. " + waysOut
	adviceServer   = "This is a fault within the server: its log tells more. If it comes again, install the newest minor release."
	adviceDecoding = adviceServer + " If that does not help, have the slot made anew: re-backfill all bindings (raise the `backfill` " +
		"counter of every binding at once)."
	adviceTooLarge = "A value or row is larger than the server can send (1 GB, where bytea takes two bytes for one): leave the " +
		"column out by a column list of the publication, or shorten the value."
	advicePooler = "This comes from a connection pooler, through which no replication is possible: use the address of the database " +
		"server itself."
	adviceLogin = "Check `user` and `credentials`, that the role may log in, and that the server lets it connect from here with the " +
		"encryption that `advanced.sslmode` asks for (pg_hba.conf, or the provider's network settings), both to the database and for " +
		"replication."
	adviceEncryption = "The server wants encrypted connections: set `advanced.sslmode` to require or verify-full."
	adviceWALLevel   = "Set wal_level = logical and restart the server (Amazon RDS and Aurora: parameter rds.logical_replication = 1; Google " +
		"Cloud SQL: flag cloudsql.logical_decoding = on; AlloyDB: flag alloydb.logical_decoding = on; Azure: wal_level = LOGICAL in the " +
		"server parameters)."
	adviceRights = "Grant the role what it lacks; to replicate: ALTER ROLE … REPLICATION (on Amazon RDS: GRANT rds_replication TO …)."
	adviceSlots  = "Raise `max_replication_slots` on the server and restart it, or drop a slot that nothing uses: SELECT slot_name, " +
		"active FROM pg_replication_slots;"
	adviceSenders     = "Raise `max_wal_senders` on the server, or end another replication connection."
	adviceConnections = "Raise `max_connections` on the server (or the role's CONNECTION LIMIT), or end other connections."
	adviceReadOnly    = "This server takes no writes: connect to the primary (the writer endpoint), or set `advanced.read_only_capture`."
	adviceEndpoint    = "The provider does not serve this database now: see its console, and use the direct endpoint of the database, in " +
		"full."
	advicePublication = "If the publication exists, it was made after the place where the slot stands: have the slot made anew (raise the " +
		"`backfill` counter of every binding at once). Else create it."
	adviceObject   = "Something that the capture needs was dropped or renamed: restore it, or remove its binding."
	adviceForeign  = "The slot is of another database or kind: set `advanced.slotName` to a name that nothing else uses."
	adviceEncoding = "Text of the database is not valid in its encoding: repair the rows, or leave the column out by a column list of " +
		"the publication."
	adviceDisk    = "Free or add disk space on the server."
	adviceMemory  = "The server is short of memory: lower `logical_decoding_work_mem`, or give it more."
	adviceTimeout = "If it comes again, raise the timeout that it names."
	adviceAgain   = "It passes: the capture connects again."
)

// serverErrors are judged from top to bottom: the first whose SQLSTATE begins so and whose text is found decides. A text tells
// what one code has several meanings for, or what a provider says under a code of its own.
var serverErrors = []struct {
	code, text string
	class      errorClass
	advice     string
}{
	// poolers and proxies
	{"", "unsupported startup parameter", classConfiguration, advicePooler},
	{"08P01", "max_client_conn", classConfiguration, advicePooler},
	{"", "MaxClientsInSessionMode", classConfiguration, advicePooler},
	{"", "Tenant or user not found", classConfiguration, advicePooler},
	{"26000", "", classConfiguration, advicePooler}, // a prepared statement that is on another session
	{"42P05", "", classConfiguration, advicePooler},
	{"", "ndpoint ID is not specified", classConfiguration, adviceEndpoint},
	{"", "ndpoint has been disabled", classConfiguration, adviceEndpoint},
	{"", "exceeded the compute time quota", classConfiguration, adviceEndpoint},
	{"", "exceeded the data transfer quota", classConfiguration, adviceEndpoint},
	{"", "ouldn't connect to compute node", classRetry, adviceAgain},
	{"", "ontrol plane request failed", classRetry, adviceAgain},

	// the slot
	{"", "requested WAL segment", classSlot, adviceSlot},
	{"", "can no longer get changes from replication slot", classSlot, adviceSlot},
	{"", "can no longer access replication slot", classSlot, adviceSlot},
	{"", "cannot read from logical replication slot", classSlot, adviceSlot},
	{"42704", "replication slot", classSlot, adviceSlot},
	{"42704", "publication", classConfiguration, advicePublication},
	{"", "was not created in this database", classConfiguration, adviceForeign},
	{"", "cannot use physical replication slot for logical decoding", classConfiguration, adviceForeign},
	{"", "cannot use a replication slot created for a different process", classConfiguration, adviceForeign},
	{"53400", "temp_file_limit", classConfiguration, "A backfill sorts the table: create an index on its key, or raise temp_file_limit."},
	{"53400", "", classConfiguration, adviceSlots},
	{"", "all replication slots are in use", classConfiguration, adviceSlots},
	{"", "wal_level", classConfiguration, adviceWALLevel},

	// limits and faults within the server that look like others
	{"", "invalid memory alloc request size", classServer, adviceTooLarge},
	{"", "annot enlarge string buffer", classServer, adviceTooLarge},
	{"54000", "", classServer, adviceTooLarge},
	{"", "could not map filen", classServer, adviceDecoding},
	{"", "subtransaction logged without previous top-level", classServer, adviceDecoding},
	{"", "invalid record length", classServer, adviceDecoding},
	{"", "unexpected pageaddr", classServer, adviceDecoding},

	// connections
	{"28", "SSL connection is required", classConfiguration, adviceEncryption},
	{"28", "no encryption", classConfiguration, adviceEncryption},
	{"28", "SSL off", classConfiguration, adviceEncryption},
	{"28", "", classConfiguration, adviceLogin},
	{"3D000", "", classConfiguration, "Check `database`: it is the name of a database on this server, in exact case."},
	{"57P03", "Hot standby mode is disabled", classConfiguration, "The standby takes no queries: set hot_standby = on there, or connect to the primary."},
	{"57P04", "", classConfiguration, adviceObject},
	{"53300", "wal_senders", classRetry, adviceSenders}, // the last place may be that of our own dead sender
	{"53300", "standby connections", classRetry, adviceSenders},
	{"53300", "", classRetry, adviceConnections},
	{"08P01", "", classUnknown, "The two sides do not understand each other: check that `address` is a PostgreSQL server, with nothing in between."},
	{"08", "", classRetry, adviceAgain},
	{"57P", "", classRetry, adviceAgain},
	{"57014", "", classRetry, adviceTimeout},
	{"25P03", "", classRetry, adviceTimeout},
	{"25P04", "", classRetry, adviceTimeout},

	// others' work, which ends
	{"40", "", classRetry, adviceAgain},
	{"55006", "", classRetry, adviceAgain},
	{"55P03", "", classRetry, adviceAgain},

	// rights, names, values
	{"25006", "", classConfiguration, adviceReadOnly},
	{"42501", "", classConfiguration, adviceRights},
	{"42P01", "", classConfiguration, adviceObject},
	{"42703", "", classConfiguration, adviceObject},
	{"3F000", "", classConfiguration, adviceObject},
	{"42704", "", classConfiguration, adviceObject},
	{"22021", "", classConfiguration, adviceEncoding},
	{"22P05", "", classConfiguration, adviceEncoding},

	// the machine and the server's own faults
	{"53100", "", classConfiguration, adviceDisk},
	{"", "No space left on device", classConfiguration, adviceDisk},
	{"53200", "", classRetry, adviceMemory},
	{"58", "", classServer, adviceServer},
	{"F0", "", classServer, adviceServer},
	{"XX", "", classServer, adviceServer},
}

// classify judges the server's error that err wraps. Without one, or with one that nothing is known of, it is classUnknown.
func classify(err error) (errorClass, string) {
	server, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return classUnknown, ""
	}
	for i := range serverErrors {
		e := &serverErrors[i]
		if strings.HasPrefix(server.Code, e.code) && (strings.Contains(server.Message, e.text) || strings.Contains(server.Detail, e.text)) {
			return e.class, e.advice
		}
	}
	return classUnknown, ""
}

// advise adds the line of advice to an error that ends a capture, unless it carries a remedy of its own.
func advise(err error) error {
	if _, ok := errors.AsType[*userError](err); ok || err == nil {
		return err
	}
	if _, advice := classify(err); advice != "" {
		return fmt.Errorf("%w. %s", err, advice)
	}
	return err
}
