package main

// Goal: what a server, a provider or a pooler says is told apart by what has to be done. Method: errors of PostgreSQL 10 to 18 as
// its source has them, each with the function that raises it, and those of Amazon RDS and Aurora, Google Cloud SQL and AlloyDB, Azure, Neon and Supabase as their users
// report them, each with its class and a part of its advice.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestClassify(t *testing.T) {
	s := &settings{user: "flow_capture", database: "orders"}
	for _, c := range []struct {
		code, message, raised string // by which function, in which file
		class                 errorClass
		advice                string
	}{
		// passes
		{"57P01", "terminating connection due to administrator command", "", classRetry, adviceAgain},
		{"57P02", "terminating connection because of crash of another server process", "", classRetry, adviceAgain},
		{"57P03", "the database system is starting up", "", classRetry, "does not take connections yet"},
		{"57P03", "the database system is shutting down", "", classRetry, "does not take connections yet"},
		{"57P03", "the database system is in recovery mode", "", classRetry, "does not take connections yet"},
		{"57P03", "the database system is not yet accepting connections", "", classRetry, "does not take connections yet"},
		{"57P05", "terminating connection due to idle-session timeout", "", classRetry, adviceAgain},
		{"08006", "an I/O error occurred while sending to the backend", "", classRetry, adviceAgain},
		{"08003", "connection does not exist", "", classRetry, adviceAgain},
		{"08000", "server closed the connection unexpectedly", "", classRetry, adviceAgain},
		{"57014", "canceling statement due to statement timeout", "", classRetry, adviceTimeout},
		{"57014", "canceling statement due to user request", "", classRetry, adviceTimeout},
		{"25P03", "terminating connection due to idle-in-transaction timeout", "", classRetry, adviceTimeout},
		{"25P04", "terminating connection due to transaction timeout", "", classRetry, adviceTimeout},
		{"40001", "canceling statement due to conflict with recovery", "", classRetry, adviceAgain},
		{"40001", "terminating connection due to conflict with recovery", "", classRetry, adviceAgain},
		{"40001", "could not serialize access due to concurrent update", "", classRetry, adviceAgain},
		{"40P01", "deadlock detected", "", classRetry, adviceAgain},
		{"55P03", "canceling statement due to lock timeout", "", classRetry, adviceAgain},
		{"55006", `replication slot "flow_slot" is active for PID 4711`, "", classRetry, adviceAgain},
		{"53300", "sorry, too many clients already", "InitProcess proc.c", classRetry, "max_connections"},
		{"53300", "remaining connection slots are reserved for roles with the SUPERUSER attribute", "InitPostgres postinit.c", classRetry, "max_connections"},
		{"53300", "remaining connection slots are reserved for non-replication superuser and rds_superuser connections", "InitPostgres postinit.c", classRetry, "max_connections"},
		{"53300", `too many connections for role "flow_capture"`, "InitializeSessionUserId miscinit.c", classRetry, "CONNECTION LIMIT"},
		{"53200", "out of memory", "", classRetry, "logical_decoding_work_mem"},
		{"XX000", "Couldn't connect to compute node", "", classRetry, adviceAgain},          // Neon
		{"XX000", "Control plane request failed: retry later", "", classRetry, adviceAgain}, // Neon

		// something must be set, granted or freed
		{"28P01", `password authentication failed for user "flow_capture"`, "", classConfiguration, "credentials"},
		{"28000", `no pg_hba.conf entry for host "10.0.0.1", user "flow_capture", database "postgres", no encryption`, "ClientAuthentication auth.c", classConfiguration, "advanced.sslmode"}, // Azure, RDS from 14 on
		{"28000", `no pg_hba.conf entry for host "10.0.0.1", user "flow_capture", database "postgres", SSL off`, "ClientAuthentication auth.c", classConfiguration, "advanced.sslmode"},       // RDS before
		{"28000", `no pg_hba.conf entry for replication connection from host "10.0.0.1", user "flow_capture", SSL encryption`, "ClientAuthentication auth.c", classConfiguration, "both to the database and for replication"},
		{"28000", "SSL connection is required. Please specify SSL options and retry.", "", classConfiguration, "advanced.sslmode"}, // Azure
		{"28000", `PAM authentication failed for user "flow_capture"`, "auth_failed auth.c", classConfiguration, "credentials"},    // RDS with IAM
		{"28000", "Cloud SQL IAM user authentication failed", "", classConfiguration, "credentials"},
		{"28000", `role "flow_capture" is not permitted to log in`, "InitializeSessionUserId miscinit.c", classConfiguration, "may log in"},
		{"3D000", `database "orders" does not exist`, "", classConfiguration, "exact case"},
		{"57P04", `database "orders" does not exist`, "", classConfiguration, "dropped"},
		{"57P03", "the database system is not accepting connections: Hot standby mode is disabled.", "", classRetry, "does not take connections yet"},
		{"53400", "temporary file size exceeds temp_file_limit (1024kB)", "FileWrite fd.c", classConfiguration, "create an index"},
		{"53300", "number of requested standby connections exceeds max_wal_senders (currently 10)", "InitWalSenderSlot walsender.c", classRetry, "max_wal_senders"}, // 10
		{"53400", "all replication slots are in use", "ReplicationSlotCreate slot.c", classConfiguration, "max_replication_slots"},
		{"55000", "logical decoding requires wal_level >= logical", "CheckLogicalDecodingRequirements logical.c", classConfiguration, "rds.logical_replication"},                 // RDS, Aurora
		{"55000", `logical decoding requires "wal_level" >= "logical"`, "CheckLogicalDecodingRequirements logical.c", classConfiguration, "cloudsql.logical_decoding"},           // 17, Cloud SQL
		{"55000", `logical decoding on standby requires "wal_level" >= "logical" on the primary`, "CheckLogicalDecodingRequirements logical.c", classConfiguration, "wal_level"}, // a standby
		{"42501", "must be superuser or replication role to start walsender", "InitPostgres postinit.c", classConfiguration, "REPLICATION"},
		{"42501", "permission denied to start WAL sender", "InitPostgres postinit.c", classConfiguration, "REPLICATION"},
		{"42501", "must be superuser, replication role, or a member of rds_replication to use replication slots", "CheckSlotPermissions slot.c", classConfiguration, "rds_replication"},
		{"42501", "permission denied for table orders", "", classConfiguration, "Grant"},
		{"25006", "cannot execute INSERT in a read-only transaction", "", classConfiguration, "writer endpoint"}, // Aurora's reader
		{"42704", `publication "flow_publication" does not exist`, "get_publication_oid lsyscache.c", classPublication, "on_slot_loss"},
		{"42P01", `relation "public.orders" does not exist`, "", classConfiguration, "dropped or renamed"},
		{"0A000", `replication slot "flow_slot" was not created in this database`, "CreateDecodingContext logical.c", classRetry, "advanced.slotName"},
		{"55000", "cannot use physical replication slot for logical decoding", "CreateDecodingContext logical.c", classRetry, "advanced.slotName"},
		{"22021", `invalid byte sequence for encoding "UTF8": 0xff`, "", classConfiguration, "encoding"},
		{"22P05", `character with byte sequence 0x81 in encoding "WIN1252" has no equivalent in encoding "UTF8"`, "", classConfiguration, "encoding"},
		{"53100", `could not extend file "base/5/16384": No space left on device`, "", classConfiguration, "disk space"},
		{"08P01", "unsupported startup parameter: replication", "", classConfiguration, "pooler"}, // PgBouncer
		{"08P01", "no more connections allowed (max_client_conn)", "", classConfiguration, "pooler"},
		{"26000", `prepared statement "stmtcache_1" does not exist`, "", classConfiguration, "pooler"},
		{"42P05", `prepared statement "lrupsc_1_0" already exists`, "", classConfiguration, "pooler"},
		{"XX000", "Tenant or user not found", "", classConfiguration, "pooler"},                                                          // Supabase
		{"XX000", "MaxClientsInSessionMode: max clients reached - in Session mode", "", classConfiguration, "pooler"},                    // Supabase
		{"08P01", "Endpoint ID is not specified. Either please upgrade the postgres client library", "", classConfiguration, "endpoint"}, // Neon
		{"XX000", "The endpoint has been disabled. Enable it using Neon API and retry.", "", classConfiguration, "console"},
		{"XX000", "Your project has exceeded the data transfer quota. Upgrade your plan to increase limits.", "", classConfiguration, "console"},

		// the slot is of no use any more
		{"58P01", "requested WAL segment 000000010000000000000003 has already been removed", "WalSndSegmentOpen walsender.c", classSlot, "on_slot_loss"},
		{"55000", `can no longer get changes from replication slot "flow_slot"`, "CreateDecodingContext logical.c", classRetry, "advanced.slotName"}, // 16, 17: the slot's state tells, at the next look
		{"55000", `can no longer access replication slot "flow_slot"`, "ReplicationSlotAcquire slot.c", classSlot, "on_slot_loss"},                   // 18
		{"55000", `cannot read from logical replication slot "flow_slot"`, "StartLogicalReplication walsender.c", classSlot, "on_slot_loss"},         // 13 to 15
		{"42704", `replication slot "flow_slot" does not exist`, "ReplicationSlotAcquire slot.c", classSlot, "on_slot_loss"},

		// faults and limits within the server
		{"XX000", "invalid memory alloc request size 1243423744", "palloc mcxt.c", classServer, "1 GB"},
		{"54000", "out of memory", "enlargeStringInfo stringinfo.c", classServer, "1 GB"},
		{"XX000", "could not map filenumber \"base/5/16402\" to relation OID", "ReorderBufferProcessTXN reorderbuffer.c", classServer, "minor release"},
		{"XX000", "subtransaction logged without previous top-level txn record", "ReorderBufferAssignChild reorderbuffer.c", classServer, "minor release"},
		{"XX000", "cache lookup failed for relation 16402", "", classServer, "minor release"},
		{"XX001", "could not read block 7 in file \"base/5/16402\": read only 0 of 8192 bytes", "", classServer, "minor release"},
		{"XX002", "index \"orders_pkey\" contains unexpected zero page at block 3", "", classServer, "minor release"},
		{"58P01", `could not open file "base/5/16402": No such file or directory`, "", classServer, "its log"},
		{"58030", `could not fsync file "pg_replslot/flow_slot/state.tmp": Input/output error`, "", classServer, "its log"},

		// as it says
		{"22012", "division by zero", "", classUnknown, ""},
		{"08P01", "invalid message length", "", classUnknown, "nothing in between"},
	} {
		routine, file, _ := strings.Cut(c.raised, " ")
		err := error(&pgconn.PgError{Severity: "ERROR", Code: c.code, Message: c.message, Routine: routine, File: file})
		class, advice := classify(fmt.Errorf("receive the replication stream: %w", err))
		if class != c.class || !strings.Contains(advice, c.advice) || (advice == "") != (c.advice == "") {
			t.Errorf("%s %s: %s, %q; want %s, %q", c.code, c.message, class, advice, c.class, c.advice)
		}
		if transient(err) != (c.class == classRetry) {
			t.Errorf("%s %s: tried again: %v", c.code, c.message, transient(err))
		}
		if told := advise(err, s).Error(); !strings.HasPrefix(told, err.Error()) || !strings.HasSuffix(told, advised(advice, s)) {
			t.Errorf("%s %s is told as %s", c.code, c.message, told)
		}
	}
	// The same function has two limits under one code: which connection it was tells them apart.
	full := &pgconn.PgError{Code: "53300", Message: "nombre maximum de connexions atteint", Routine: "InitProcess", File: "proc.c"}
	for replication, want := range map[bool]string{false: adviceConnections, true: adviceSenders} {
		if _, advice := classify(connectErrorOf(t.Context(), s, full, replication)); advice != want {
			t.Errorf("no place is left, of a replication connection %v: %s", replication, advice)
		}
	}
	if class, advice := classify(errors.New("no server's")); class != classUnknown || advice != "" {
		t.Errorf("an error that is no server's: %s, %q", class, advice)
	}
	remedied := &userError{"run: GRANT"}
	if got := advise(remedied, s); got != error(remedied) {
		t.Errorf("an error with a remedy became %v", got)
	}
}
