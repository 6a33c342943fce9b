// database_errors.go owns what an error of the server's means for a capture: whether it passes, what has to be put right, and by
// whom; and the words in which it is told. Invariants: what cannot pass by itself is never tried again for ever, every class
// has a line of advice, and nothing is decided by a text that the server translates (lc_messages): SQLSTATE, the function of
// the server's source that raised it, and facts decide. SQLSTATEs are spelled here and nowhere else.

package main

import (
	"errors"
	"fmt"
	"slices"
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
	classPublication                     // the publication was not there when a change was made: what it is now decides
	classServer                          // a fault or a limit within the server
)

func (c errorClass) String() string {
	return [...]string{"unknown", "retry", "configuration", "slot", "publication", "server"}[c]
}

// SQLSTATEs that decisions are made by, here and elsewhere.
const (
	codeAdminShutdown      = "57P01"
	codeCanceled           = "57014" // by a timeout, most often
	codeCrashShutdown      = "57P02"
	codeDatetimeForm       = "22007"
	codeDatetimeRange      = "22008"
	codeDeadlock           = "40P01"
	codeDuplicate          = "42710"
	codeInvalidSchema      = "3F000"
	codeLimit              = "53400"
	codeLockTaken          = "55P03" // lock_not_available
	codeNumericRange       = "22003"
	codeObjectInUse        = "55006"
	codeOutOfMemory        = "53200"
	codePrerequisite       = "55000"
	codePrivilege          = "42501"
	codeReadOnly           = "25006"
	codeSerialization      = "40001" // on a standby: in the way of its replay
	codeStarting           = "57P03"
	codeTextForm           = "22P02"
	codeTooManyConnections = "53300"
	codeUndefinedColumn    = "42703"
	codeUndefinedObject    = "42704"
	codeUndefinedTable     = "42P01"
	codeUntranslatable     = "22P05"
)

// How SQLSTATEs of a kind begin.
const (
	codesConnection   = "08"
	codesConstraint   = "23"
	codesData         = "22"
	codesIntervention = "57P"
	codesLogin        = "28"
	codesResources    = "53"
	codesStatement    = "42" // its syntax, its names, and the rights to them
	codesTimeout      = "25P"
	codesUnsupported  = "0A"
)

// {user} and {database} stand for those that the capture logs in with.
const (
	adviceSlot     = "The slot cannot be read on from here. " + waysOut
	adviceServer   = "This is a fault within the server: its log tells more. If it comes again, install the newest minor release."
	adviceDecoding = adviceServer + " If that does not help, have the slot made anew: re-backfill all bindings (raise the `backfill` " +
		"counter of every binding at once)."
	adviceTooLarge = "A value or row is larger than the server can send (1 GB, where bytea takes two bytes for one): leave the " +
		"column out by a column list of the publication, or shorten the value."
	advicePooler = "This comes from a connection pooler, through which no replication is possible: use the address of the database " +
		"server itself."
	adviceLogin = "Check `user` and `credentials`, and that the server lets the role connect from here with the encryption that " +
		"`advanced.sslmode` asks for (pg_hba.conf, or the provider's network settings), both to the database and for replication."
	advicePassword = "Check `user` and `credentials.password`."
	adviceBinding  = "The server's certificate (such as one with an Ed25519 key) does not allow that the login is bound to the TLS " +
		"connection: set `advanced.channel_binding` to disable, or give the server a certificate with an RSA or ECDSA key."
	advicePreparation = "The password has characters that its preparation for SCRAM does not allow, and with which the driver cannot " +
		"log in: give the role another password."
	adviceNoLogin  = "Check `user`: it must be a role that exists and may log in. For one that exists, run: ALTER ROLE {user} LOGIN;"
	adviceNoRole   = "Check `user`: the server has no role of that name, which is spelled in exact case."
	adviceConnect  = "Run as an administrator: GRANT CONNECT ON DATABASE {database} TO {user};"
	adviceAllow    = "The database takes no connections. Run as an administrator: ALTER DATABASE {database} ALLOW_CONNECTIONS true;"
	adviceDatabase = "Check `database`: it is the name of a database on this server, in exact case."
	adviceStarting = "The server does not take connections yet: try again when it has started. A standby takes them with hot_standby = " +
		"on only."
	adviceEncryption = "The server wants encrypted connections: set `advanced.sslmode` to require or verify-full."
	adviceWALLevel   = "Set wal_level = logical, for a standby on its primary, too, and restart the server (Amazon RDS and Aurora: " +
		"parameter rds.logical_replication = 1; Google Cloud SQL: flag cloudsql.logical_decoding = on; AlloyDB: flag " +
		"alloydb.logical_decoding = on; Azure: wal_level = LOGICAL in the server parameters)."
	adviceReplication = "Run as an administrator: ALTER ROLE {user} REPLICATION; (on Amazon RDS: GRANT rds_replication TO {user};)"
	adviceRights      = "Grant the role what it lacks."
	adviceSlots       = "Raise `max_replication_slots` on the server and restart it, or drop a slot that nothing uses: SELECT slot_name, " +
		"active FROM pg_replication_slots;"
	adviceSenders       = "Raise `max_wal_senders` on the server, or end another replication connection."
	adviceRoleLimit     = "Raise the role's limit (ALTER ROLE {user} CONNECTION LIMIT …), or end other connections of it."
	adviceDatabaseLimit = "Raise the database's limit (ALTER DATABASE {database} CONNECTION LIMIT …), or end other connections to it."
	adviceConnections   = "Raise `max_connections` on the server, or end other connections."
	adviceReadOnly      = "This server takes no writes: connect to the primary (the writer endpoint), or set `advanced.read_only_capture`."
	adviceEndpoint      = "The provider does not serve this database now: see its console, and use the direct endpoint of the database, in " +
		"full."
	advicePublication = "The publication did not exist when a change was made that is still to be sent. " + waysOut
	adviceObject      = "Something that the capture needs was dropped or renamed: restore it, or remove its binding."
	adviceForeign     = "If the slot is of another database or kind, set `advanced.slotName` to a name that nothing else uses."
	adviceEncoding    = "Text of the database has characters that mean nothing in its encoding: repair the rows, or leave the column out " +
		"by a column list of the publication. A change that is still to be streamed keeps them, whatever becomes of its row: then also " +
		"re-backfill all bindings (raise the `backfill` counter of every binding at once; the slot is then created anew)."
	adviceDisk     = "Free or add disk space on the server."
	adviceMemory   = "The server is short of memory: lower `logical_decoding_work_mem`, or give it more."
	adviceTimeout  = "If it comes again, raise the timeout that it names."
	adviceSort     = "A backfill sorts the table: create an index on its key, or raise temp_file_limit."
	adviceAgain    = "It passes: the capture connects again."
	adviceProtocol = "The two sides do not understand each other: check that `address` is a PostgreSQL server, with nothing in between."
)

// serverErrors are judged from top to bottom: the first that fits decides. Functions and files are those of PostgreSQL 10 to 18
// (functions were renamed and moved: all are named). The texts are those of poolers and providers, which put them into no
// catalog of translations and mostly under a code of their own; no text of PostgreSQL's belongs here.
var serverErrors = []struct {
	code     string // the SQLSTATE, or how it begins
	raised   string // functions and files of the server's source, by one of which it was raised; "": by any
	foreign  string // a part of the text, where it is no server's
	replicas bool   // of the login of a replication connection only
	class    errorClass
	advice   string
}{
	// poolers and proxies
	{foreign: "unsupported startup parameter", class: classConfiguration, advice: advicePooler},
	{code: "08P01", foreign: "max_client_conn", class: classConfiguration, advice: advicePooler},
	{foreign: "MaxClientsInSessionMode", class: classConfiguration, advice: advicePooler},
	{foreign: "Tenant or user not found", class: classConfiguration, advice: advicePooler},
	{code: "26000", class: classConfiguration, advice: advicePooler}, // a prepared statement that is on another session
	{code: "42P05", class: classConfiguration, advice: advicePooler},
	{foreign: "ndpoint ID is not specified", class: classConfiguration, advice: adviceEndpoint},
	{foreign: "ndpoint has been disabled", class: classConfiguration, advice: adviceEndpoint},
	{foreign: "exceeded the compute time quota", class: classConfiguration, advice: adviceEndpoint},
	{foreign: "exceeded the data transfer quota", class: classConfiguration, advice: adviceEndpoint},
	{foreign: "ouldn't connect to compute node", class: classRetry, advice: adviceAgain},
	{foreign: "ontrol plane request failed", class: classRetry, advice: adviceAgain},
	{code: codesLogin, foreign: "SSL connection is required. Please specify SSL options", class: classConfiguration, advice: adviceEncryption},

	// the slot and the publication
	{code: "58P01", raised: "WalSndSegmentOpen wal_segment_open CheckXLogRemoval XLogRead", class: classSlot, advice: adviceSlot},
	{code: codePrerequisite, raised: "ReplicationSlotAcquire StartLogicalReplication pg_logical_slot_get_changes_guts", class: classSlot, advice: adviceSlot},
	{code: codePrerequisite, raised: "CreateDecodingContext", class: classRetry, advice: adviceForeign}, // the next look at the slot tells
	{code: "0A000", raised: "CreateDecodingContext", class: classRetry, advice: adviceForeign},          // before 15
	{code: codeUndefinedObject, raised: "ReplicationSlotAcquire SearchNamedReplicationSlot", class: classSlot, advice: adviceSlot},
	{code: codeUndefinedObject, raised: "get_publication_oid GetPublicationByName", class: classPublication, advice: advicePublication},
	{code: codePrerequisite, raised: "CheckLogicalDecodingRequirements CheckSlotRequirements", class: classConfiguration, advice: adviceWALLevel},
	{code: codeLimit, raised: "fd.c", class: classConfiguration, advice: adviceSort},
	{code: codeLimit, class: classConfiguration, advice: adviceSlots},

	// limits and faults within the server that look like others
	{code: "XX000", raised: "mcxt.c", class: classServer, advice: adviceTooLarge},
	{code: "54000", class: classServer, advice: adviceTooLarge},
	{code: "XX", raised: "reorderbuffer.c snapbuild.c decode.c logical.c pgoutput.c walsender.c xlogreader.c", class: classServer, advice: adviceDecoding},

	// connections
	{code: "28P01", class: classConfiguration, advice: advicePassword},
	{code: "28000", raised: "InitializeSessionUserId", class: classConfiguration, advice: adviceNoLogin},
	{code: "28000", raised: "auth-scram.c", class: classConfiguration, advice: adviceBinding},
	{code: "XX000", raised: "be_tls_get_certificate_hash", class: classConfiguration, advice: adviceBinding},
	{code: codesLogin, class: classConfiguration, advice: adviceLogin},
	{code: "3D000", class: classConfiguration, advice: adviceDatabase},
	{code: codePrerequisite, raised: "CheckMyDatabase", class: classConfiguration, advice: adviceAllow},
	{code: codeStarting, class: classRetry, advice: adviceStarting},
	{code: "57P04", class: classConfiguration, advice: adviceObject},
	// The last place may be that of our own dead sender.
	{code: codeTooManyConnections, raised: "InitProcess", replicas: true, class: classRetry, advice: adviceSenders},
	{code: codeTooManyConnections, raised: "walsender.c", class: classRetry, advice: adviceSenders},
	{code: codeTooManyConnections, raised: "InitializeSessionUserId", class: classRetry, advice: adviceRoleLimit},
	{code: codeTooManyConnections, raised: "CheckMyDatabase", class: classRetry, advice: adviceDatabaseLimit},
	{code: codeTooManyConnections, class: classRetry, advice: adviceConnections},
	{code: "08P01", class: classUnknown, advice: adviceProtocol},
	{code: codesConnection, class: classRetry, advice: adviceAgain},
	{code: codesIntervention, class: classRetry, advice: adviceAgain},
	{code: codeCanceled, class: classRetry, advice: adviceTimeout},
	{code: "25P03", class: classRetry, advice: adviceTimeout},
	{code: "25P04", class: classRetry, advice: adviceTimeout},

	// others' work, which ends
	{code: "40", class: classRetry, advice: adviceAgain},
	{code: codeObjectInUse, class: classRetry, advice: adviceAgain},
	{code: codeLockTaken, class: classRetry, advice: adviceAgain},

	// rights, names, values
	{code: codeReadOnly, class: classConfiguration, advice: adviceReadOnly},
	{code: codePrivilege, raised: "InitPostgres InitWalSender", class: classConfiguration, advice: adviceReplication},
	{code: codePrivilege, raised: "CheckSlotPermissions slotfuncs.c slot.c", class: classConfiguration, advice: adviceReplication},
	{code: codePrivilege, raised: "CheckMyDatabase", class: classConfiguration, advice: adviceConnect},
	{code: codePrivilege, class: classConfiguration, advice: adviceRights},
	{code: codeUndefinedTable, class: classConfiguration, advice: adviceObject},
	{code: codeUndefinedColumn, class: classConfiguration, advice: adviceObject},
	{code: codeInvalidSchema, class: classConfiguration, advice: adviceObject},
	{code: codeUndefinedObject, class: classConfiguration, advice: adviceObject},
	{code: "22021", class: classConfiguration, advice: adviceEncoding},
	{code: codeUntranslatable, class: classConfiguration, advice: adviceEncoding},

	// the machine and the server's own faults
	{code: "53100", class: classConfiguration, advice: adviceDisk},
	{code: codeOutOfMemory, class: classRetry, advice: adviceMemory},
	{code: "58", class: classServer, advice: adviceServer},
	{code: "F0", class: classServer, advice: adviceServer},
	{code: "XX", class: classServer, advice: adviceServer},
}

// classify judges the server's error that err wraps. Without one, or with one that nothing is known of, it is classUnknown.
func classify(err error) (errorClass, string) {
	server, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return classUnknown, ""
	}
	failure, ok := errors.AsType[*connectFailure](err)
	replicas := ok && failure.replication
	for i := range serverErrors {
		e := &serverErrors[i]
		if strings.HasPrefix(server.Code, e.code) && raisedBy(server, e.raised) && strings.Contains(server.Message, e.foreign) &&
			(replicas || !e.replicas) {
			return e.class, e.advice
		}
	}
	return classUnknown, ""
}

// raisedBy reports whether one of the functions or files, in a list with blanks between, raised an error. The server writes a
// file as a name or, where it was built so, a path.
func raisedBy(server *pgconn.PgError, places string) bool {
	if places == "" {
		return true
	}
	file := server.File[strings.LastIndexByte(server.File, '/')+1:]
	return slices.ContainsFunc(strings.Fields(places), func(place string) bool { return place == server.Routine || place == file })
}

// advised fills in the names that a line of advice is about.
func advised(advice string, s *settings) string {
	return strings.NewReplacer("{user}", quoteIdent(s.user), "{database}", quoteIdent(s.database)).Replace(advice)
}

// advise adds the server's own DETAIL and HINT, and the line of advice, to an error that ends a request or a capture, unless it
// carries a remedy of its own.
func advise(err error, s *settings) error {
	if _, ok := errors.AsType[*userError](err); ok || err == nil {
		return err
	}
	text := explain(err)
	if _, advice := classify(err); advice != "" {
		text = strings.TrimSuffix(text, ".") + ". " + advised(advice, s)
	}
	if text == err.Error() {
		return err
	}
	return &toldError{text, err}
}

// toldError is an error in the words in which it is to be told.
type toldError struct {
	text  string
	cause error
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.cause }

// serverReason is the server's own words for an error, with its SQLSTATE, DETAIL and HINT, or err's where it is not the
// server's. A sentence may go on behind it: it ends in no full stop.
func serverReason(err error) string {
	server, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return strings.TrimSuffix(err.Error(), ".")
	}
	return fmt.Sprintf("%s (SQLSTATE %s)%s", server.Message, server.Code, particulars(server))
}

// explain is the text of err, in which the server's words have their DETAIL and HINT.
func explain(err error) string {
	text := err.Error()
	server, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return text
	}
	return strings.Replace(text, server.Error(), server.Error()+particulars(server), 1)
}

// particulars are an error's DETAIL and HINT, to be put behind its text. The words that lead them are the server's in English,
// by which a reader finds them in the manual.
func particulars(server *pgconn.PgError) string {
	var b strings.Builder
	for _, part := range []struct{ name, text string }{{"DETAIL", server.Detail}, {"HINT", server.Hint}} {
		if text := strings.TrimRight(strings.ReplaceAll(part.text, "\n", " "), " .。"); text != "" {
			b.WriteString("; " + part.name + ": " + text)
		}
	}
	return b.String()
}

const waysOut = "Either re-backfill all bindings (raise the `backfill` counter of every binding at once; the slot is " +
	"then created anew), or set `advanced.on_slot_loss` to \"backfill\", which makes the connector do that by itself."

// sqlState returns the SQLSTATE of the server error that err wraps, or "".
func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// connectFailure is a connection that could not be made. It unwraps to what the operator is told and to the cause.
type connectFailure struct {
	userError
	cause       error
	replication bool // it was to be one for replication
	expired     bool // the login was refused after others with the same credentials were not
}

func (e *connectFailure) Unwrap() []error { return []error{&e.userError, e.cause} }
