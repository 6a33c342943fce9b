package main

// database.go owns every connection to the server: how it is reached, what a session is pinned to, and the quoting of
// names and texts that go into SQL.
//
// Invariant: every session, query or replication, starts with the same output formats and time zone, given in the
// startup packet. There they override ALTER ROLE … SET and ALTER DATABASE … SET, so a value has one text form, whichever
// path it comes by. Nothing is taken from PG* environment variables, password files or service files.

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sirupsen/logrus"
)

// maxQueryConnections bounds the pool: a few chunks in flight, a watermark write and the periodic checks.
const maxQueryConnections = 8

// driverDefaults is a connection string that sets every parameter which the driver would else read from the
// environment or from files in the home directory. The real values are put into the parsed configuration.
const driverDefaults = "host=localhost port=5432 user=none password=none dbname=none passfile='' connect_timeout=20 " +
	"sslmode=disable sslrootcert='' sslcert='' sslkey='' sslcertmode=allow sslpassword='' sslsni=1 sslnegotiation='' " +
	"target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth=''"

// database is the way to the server: a pool of query connections and new replication connections, all with pinned
// session settings. Queries run in the driver's exec mode: the extended protocol without named statements, results in
// text format. So nothing is cached that DDL could make stale, and $n are sent as text.
type database struct {
	settings *settings
	tunnel   *tunnel // nil where the server is reached directly
	pool     *pgxpool.Pool
	version  int    // server_version_num
	timeZone string // of the first query session; pinned on all
	standby  bool   // pg_is_in_recovery()
	exposed  bool   // sslmode prefer has come down to a connection without TLS
	encoding string // server_encoding; under SQL_ASCII client_encoding stays that
	// charset is set where the server could not convert all that it stores: client_encoding is encoding then, and we convert.
	charset *charset
	// searchPath is the role's own, which additional_backfill_filter is written for; sessions are pinned to pg_catalog.
	searchPath string
	started    atomic.Int64 // when the server that we read from was started, in Unix microseconds: no two have one in common
}

// connectDatabase opens the pool and one connection to prove that it works. A failure is one userError.
func connectDatabase(ctx context.Context, s *settings) (*database, error) {
	os.Unsetenv("PGSERVICE") // the one variable of libpq's that driverDefaults cannot override
	db := &database{settings: s, tunnel: newTunnel(s.ssh)}
	if err := db.open(ctx); err != nil {
		db.close()
		return nil, err
	}
	return db, nil
}

func (db *database) open(ctx context.Context) error {
	if err := db.probe(ctx); err != nil {
		return err
	}
	config, err := db.poolConfig()
	if err != nil {
		return err
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return db.check(ctx, conn.PgConn()) }
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return connectError(ctx, db.settings, err)
	}
	return db.with(ctx, func(conn *pgx.Conn) error { return conn.Ping(ctx) })
}

// warnExposed says that the connection is not encrypted, where that was not asked for.
func (db *database) warnExposed() {
	if db.exposed {
		logrus.Warn("the connection to the server is not encrypted: it offers no TLS, or none that we could agree on, and advanced.sslmode is " +
			"prefer. Set it to require to insist on TLS, or to disable if it is as it should be")
	}
}

// close says goodbye to the server, but does not wait long for its answer: the link may be dead.
func (db *database) close() {
	defer db.tunnel.close()
	if db.pool == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		db.pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(2 * time.Second):
	}
}

// acquire hands out a query connection; release it when done. A broken one is replaced.
func (db *database) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return nil, connectError(ctx, db.settings, err)
	}
	return conn, nil
}

// with runs f on a query connection.
func (db *database) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := db.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return f(conn.Conn())
}

// connectReplication opens a walsender connection (replication=database) with the same pinned settings.
func (db *database) connectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	config, err := db.connectConfig()
	if err != nil {
		return nil, err
	}
	config.RuntimeParams = db.sessionParams()
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["statement_timeout"] = "0"
	if db.charset != nil {
		filterRows(config, db.charset)
	}
	gathering(config)
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectErrorOf(ctx, db.settings, err, true)
	}
	return conn, nil
}

// connectWatermarks opens the connection that writes watermarks. Its commits return when the transactions before them are
// visible, also under synchronous replication; a statement timeout ends only that wait, so it is short.
func (db *database) connectWatermarks(ctx context.Context) (*pgx.Conn, error) {
	config := db.pool.Config().ConnConfig
	db.attend(config)
	config.Password = db.password()
	if db.charset != nil {
		filterRows(&config.Config, db.charset)
	}
	config.RuntimeParams["synchronous_commit"] = "remote_apply"
	config.RuntimeParams["statement_timeout"] = strconv.FormatInt(watermarkTimeout.Milliseconds(), 10)
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		if err = db.check(ctx, conn.PgConn()); err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}
	if err != nil {
		return nil, connectError(ctx, db.settings, err)
	}
	return conn, nil
}

// sqlStarted tells servers apart, also those that are copies of each other or follow each other.
const sqlStarted = `(pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8`

// checkedSettings are pinned settings that a pooler which does not pass them on would leave at something else.
var checkedSettings = []string{"client_encoding", "DateStyle", "IntervalStyle", "bytea_output", "extra_float_digits", "search_path", "TimeZone"}

// check looks whether a new session is one with the server that we read from, with the settings that it was asked for. Two
// servers behind one address, of which one has not yet what the other has, would lose changes; and a pooler that keeps
// settings to itself would change values.
func (db *database) check(ctx context.Context, conn *pgconn.PgConn) error {
	sql := "SELECT " + sqlStarted
	for _, name := range checkedSettings {
		sql += ", pg_catalog.current_setting('" + name + "')"
	}
	row, err := oneRow(ctx, conn, sql)
	if err != nil {
		return err
	}
	if started, err := strconv.ParseInt(row[0], 10, 64); err != nil {
		return fmt.Errorf("pg_postmaster_start_time is %q", row[0])
	} else if started != db.started.Load() {
		return errOtherServer
	}
	params := db.sessionParams()
	for i, name := range checkedSettings {
		if got := row[1+i]; got != params[name] {
			return fmt.Errorf("a session was asked for with %s = %q and has %q: "+pooler, name, params[name], got)
		}
	}
	return nil
}

const pooler = "this looks like a connection pooler that does not pass settings on (PgBouncer, or a provider's pooled endpoint), " +
	"and logical replication needs the address of the database server itself"

// errOtherServer is a session with another server, or with the same one after a restart. Where it is the latter, the
// replication session has ended too, and the next one makes the server the one that we read from.
var errOtherServer = errors.New("this session is with another server than those before. If the server was not just restarted, " +
	"more than one server is behind the address (a load balancer, a reader endpoint, a name with several addresses), and a " +
	"capture needs the address of one of them")

// follow makes the server at the other end of a replication connection the one that we read from.
func (db *database) follow(ctx context.Context, conn *pgconn.PgConn) error {
	row, err := oneRow(ctx, conn, "SELECT "+sqlStarted)
	if err != nil {
		return connectError(ctx, db.settings, err)
	}
	started, err := strconv.ParseInt(row[0], 10, 64)
	if err != nil {
		return fmt.Errorf("pg_postmaster_start_time is %q", row[0])
	}
	if db.started.Swap(started) != started {
		db.pool.Reset()
	}
	return nil
}

// oneRow returns the only row of a query that has no parameters. It goes over replication connections, too.
func oneRow(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, errors.New("a query about the session gave an unexpected result")
	}
	var row []string
	for _, value := range results[0].Rows[0] {
		row = append(row, string(value))
	}
	return row, nil
}

// probe learns from a first session what the others are pinned to.
func (db *database) probe(ctx context.Context) error {
	config, err := db.connectConfig()
	if err != nil {
		return err
	}
	config.RuntimeParams = map[string]string{"application_name": "estuary_flow", "client_encoding": "SQL_ASCII"}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil && config.RequireAuth != "" && strings.Contains(err.Error(), "authentication method requirement") { // the driver's words
		db.settings.plainPassword = true
		return db.probe(ctx)
	}
	if err != nil {
		return connectError(ctx, db.settings, withGreeting(ctx, db.route(), db.settings, err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if db.settings.iam != nil {
		db.settings.iam.worked.Store(true)
	}
	_, encrypted := conn.Conn().(*tls.Conn)
	db.exposed = !encrypted && db.settings.sslmode == "prefer"

	const sqlAboutServer = `SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('TimeZone'),` +
		` pg_catalog.current_setting('server_encoding'), pg_catalog.pg_is_in_recovery(),` +
		` pg_catalog.encode(CASE WHEN pg_catalog.pg_encoding_max_length(pg_catalog.pg_char_to_encoding(pg_catalog.current_setting('server_encoding'))) > 1` +
		` THEN pg_catalog.convert_to(pg_catalog.current_setting('search_path'), 'UTF8')` +
		` ELSE pg_catalog.textsend(pg_catalog.current_setting('search_path')) END, 'hex'), ` + sqlStarted
	result := conn.ExecParams(ctx, sqlAboutServer, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return connectError(ctx, db.settings, fmt.Errorf("the first query failed: %w", result.Err))
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 6 {
		return connectError(ctx, db.settings, errors.New("the first query gave an unexpected result"))
	}
	row := result.Rows[0]
	if db.version, err = strconv.Atoi(string(row[0])); err != nil {
		return connectError(ctx, db.settings, fmt.Errorf("server_version_num is %q, not a number", row[0]))
	}
	db.timeZone = string(row[1])
	db.encoding = string(row[2])
	db.standby = string(row[3]) == "t"
	path, err := hex.DecodeString(string(row[4]))
	if err != nil {
		return connectError(ctx, db.settings, fmt.Errorf("the search path is %q, not hex", row[4]))
	}
	db.charset, db.searchPath = nil, string(path)
	if c := charsetOf(db.encoding); c != nil {
		db.searchPath = string(c.decode(nil, path))
		if c.gaps {
			db.charset = c
		}
	}
	started, err := strconv.ParseInt(string(row[5]), 10, 64)
	if err != nil {
		return connectError(ctx, db.settings, fmt.Errorf("pg_postmaster_start_time is %q", row[5]))
	}
	db.started.Store(started)
	return nil
}

// newTypeCatalog returns a catalog of the built-in types, as this database's encoding has them.
func (db *database) newTypeCatalog() *typeCatalog {
	types := newTypeCatalog()
	types.encoding = db.encoding
	return types
}

// sessionParams returns the startup parameters of every session after the probe, in a map of the caller's own.
func (db *database) sessionParams() map[string]string {
	params := map[string]string{
		"application_name":                    "estuary_flow",
		"client_encoding":                     "UTF8",
		"DateStyle":                           "ISO, YMD",
		"IntervalStyle":                       "postgres",
		"TimeZone":                            db.timeZone,
		"bytea_output":                        "hex",
		"extra_float_digits":                  "1", // shortest text that reads back the same, from version 12 on
		"search_path":                         "pg_catalog",
		"quote_all_identifiers":               "off", // as it shows in reg* values
		"lock_timeout":                        "0",
		"synchronize_seqscans":                "off", // a scan by ctid relies on physical order
		"idle_in_transaction_session_timeout": "0",
		"default_transaction_isolation":       "read committed",
		"default_transaction_read_only":       "off", // some providers turn it on when the disk is nearly full
		"tcp_keepalives_idle":                 "120",
		"tcp_keepalives_interval":             "30",
		"tcp_keepalives_count":                "6",
	}
	if db.version < 120000 {
		params["extra_float_digits"] = "3" // before 12, 1 gives one digit too few to read back every value
	}
	if db.encoding == "SQL_ASCII" || db.charset != nil {
		params["client_encoding"] = db.encoding // UTF8 would make the server reject bytes that have no meaning
	}
	if db.version >= 140000 {
		params["idle_session_timeout"] = "0"
	}
	if db.version >= 170000 {
		params["transaction_timeout"] = "0"
	}
	return params
}

func (db *database) poolConfig() (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(driverDefaults)
	if err != nil {
		return nil, fmt.Errorf("parse the driver's defaults: %w", err)
	}
	if err := db.fillConfig(&config.ConnConfig.Config); err != nil {
		return nil, err
	}
	params := db.sessionParams()
	params["statement_timeout"] = strconv.FormatInt(db.settings.statementTimeout.Milliseconds(), 10)
	params["max_parallel_workers_per_gather"] = "0"
	if db.version >= 110000 {
		params["jit"] = "off" // half a second to compile a catalog query that runs for four milliseconds
	}
	config.ConnConfig.RuntimeParams = params
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.ConnConfig.StatementCacheCapacity = 0
	config.ConnConfig.DescriptionCacheCapacity = 0
	// A cancelled context ends the query on the server too, not just our waiting for it.
	config.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Second}
	}
	config.BeforeConnect = func(_ context.Context, config *pgx.ConnConfig) error {
		db.attend(config)
		config.Password = db.password()
		filterRows(&config.Config, db.charset)
		return nil
	}
	config.MaxConns = maxQueryConnections
	return config, nil
}

// connectConfig returns the driver's configuration of one connection, without runtime parameters.
func (db *database) connectConfig() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(driverDefaults)
	if err != nil {
		return nil, fmt.Errorf("parse the driver's defaults: %w", err)
	}
	return config, db.fillConfig(config)
}

// prepared reports whether the password is sent as its preparation for SCRAM has it.
func (s *settings) prepared() bool {
	return s.iam == nil && !s.plainPassword && saslprep(s.password) != s.password
}

// password is what a connection that is made now logs in with.
func (db *database) password() string {
	s := db.settings
	switch {
	case s.iam != nil:
		return s.iam.password(s)
	case s.prepared():
		return saslprep(s.password)
	}
	return s.password
}

// route returns how the server's address is dialled.
func (db *database) route() pgconn.DialFunc {
	if db.tunnel != nil {
		return db.tunnel.dial
	}
	return newDialer().DialContext
}

// fillConfig puts the settings in place of what ParseConfig found.
func (db *database) fillConfig(config *pgconn.Config) error {
	s := db.settings
	tlsConfigs, err := tlsConfigs(s)
	if err != nil {
		return err
	}
	config.Host, config.Port = s.host, s.port
	config.User, config.Password, config.Database = s.user, db.password(), s.database
	if s.prepared() {
		config.RequireAuth = "scram-sha-256" // other ways to log in take the password as it is
	}
	config.ChannelBinding = cmp.Or(s.channelBinding, "prefer")
	config.ConnectTimeout = connectTimeout
	config.DialFunc = db.route()
	if db.tunnel != nil {
		config.LookupFunc = db.tunnel.lookup
	}
	config.TLSConfig = tlsConfigs[0]
	config.Fallbacks = nil
	for _, c := range tlsConfigs[1:] {
		config.Fallbacks = append(config.Fallbacks, &pgconn.FallbackConfig{Host: s.host, Port: s.port, TLSConfig: c})
	}
	config.RuntimeParams = map[string]string{}
	return nil
}

// tlsConfigs returns the TLS configurations to try in turn, nil being a connection without TLS: libpq's meaning of
// sslmode, except that without a root certificate the system's are trusted.
func tlsConfigs(s *settings) ([]*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: s.host}
	if s.sslRootCert != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(s.sslRootCert)) {
			return nil, &userError{"advanced.ssl_root_cert holds no PEM certificate: paste the text of the certificate " +
				"authority's file, from -----BEGIN CERTIFICATE----- on"}
		}
	}
	if (s.sslClientCert == "") != (s.sslClientKey == "") {
		return nil, &userError{"advanced.ssl_client_cert and advanced.ssl_client_key belong together: set both or none"}
	}
	if s.sslClientCert != "" {
		pair, err := tls.X509KeyPair([]byte(s.sslClientCert), []byte(s.sslClientKey))
		if err != nil {
			return nil, &userError{"advanced.ssl_client_cert and advanced.ssl_client_key must be a PEM certificate and its " +
				"unencrypted PEM private key: " + err.Error()}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	switch s.sslmode {
	case "disable":
		return []*tls.Config{nil}, nil
	case "allow":
		return []*tls.Config{nil, config}, nil
	case "", "prefer":
		return []*tls.Config{config, nil}, nil
	case "require":
		if config.RootCAs != nil { // libpq: with a root certificate, require means verify-ca
			config.VerifyConnection = verifyChain(config.RootCAs)
		}
		return []*tls.Config{config}, nil
	case "verify-ca":
		config.VerifyConnection = verifyChain(config.RootCAs)
		return []*tls.Config{config}, nil
	case "verify-full":
		config.InsecureSkipVerify = false
		return []*tls.Config{config}, nil
	}
	return nil, &userError{fmt.Sprintf("advanced.sslmode %q is not one of disable, allow, prefer, require, verify-ca, "+
		"verify-full", s.sslmode)}
}

// verifyChain returns a check of the server's certificate chain that ignores the host name.
func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(opts)
		return err
	}
}

// connectError turns the driver's error into one userError: what was tried and where, the server's reason, the remedy.
// It holds no password. When ctx has ended, the error is its cause.
func connectError(ctx context.Context, s *settings, err error) error {
	return connectErrorOf(ctx, s, err, false)
}

// connectErrorOf is connectError, which tells also whether the connection was one for replication.
func connectErrorOf(ctx context.Context, s *settings, err error, replication bool) error {
	where := fmt.Sprintf("database %q at %s as user %q",
		s.database, net.JoinHostPort(s.host, strconv.Itoa(int(s.port))), s.user)
	if ctx.Err() != nil {
		return fmt.Errorf("connect to %s: %w", where, context.Cause(ctx))
	}
	var reasons []string
	tried := attempts(err, nil)
	for i, attempt := range tried {
		if _, ok := errors.AsType[*otherServerError](err); ok && i+1 < len(tried) {
			continue // what answers there is the reason for all else
		}
		if i+1 < len(tried) && strings.Contains(attempt.Error(), "server refused TLS connection") {
			continue // what came of it without TLS is the reason
		}
		if r := connectReason(attempt); !slices.Contains(reasons, r) {
			reasons = append(reasons, r)
		}
	}
	msg := fmt.Sprintf("cannot connect to %s: %s", where, strings.Join(reasons, "; tried again in another way: "))
	failure := &connectFailure{cause: err, replication: replication, expired: s.iam.refused(err) && s.iam.worked.Load()}
	if remedy := connectRemedy(s, failure); remedy != "" {
		msg += ". " + remedy
	}
	failure.userError = userError{msg}
	return failure
}

// attempts appends the errors that err joins: one for each address and TLS mode that was tried.
func attempts(err error, dst []error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if joined, ok := e.(interface{ Unwrap() []error }); ok {
			for _, one := range joined.Unwrap() {
				dst = attempts(one, dst)
			}
			return dst
		}
	}
	return append(dst, err)
}

func connectReason(err error) string {
	if failure, ok := errors.AsType[*tunnelError](err); ok {
		return failure.Error()
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		return serverReason(err)
	}
	if opErr, ok := errors.AsType[*net.OpError](err); ok && !opErr.Timeout() {
		return opErr.Error()
	}
	if isTimeout(err) {
		return fmt.Sprintf("no answer within %s", connectTimeout)
	}
	return err.Error()
}

// connectRemedy says what can be done about a failed connection, or nothing where the reason says it all. The texts that it
// looks for are the driver's and the operating system's.
func connectRemedy(s *settings, failure *connectFailure) string {
	err := failure.cause
	if tunnel, ok := errors.AsType[*tunnelError](err); ok {
		return tunnel.remedy
	}
	if s.iam.refused(err) {
		return s.iam.remedy(s)
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); ok {
		_, advice := classify(failure)
		if advice == adviceNoLogin && strings.Contains(err.Error(), "does not exist") { // the server's words, where they are English
			advice = adviceNoRole
		}
		if advice == advicePassword && !sendable(saslprep(s.password)) {
			advice += " " + advicePreparation
		}
		return advised(advice, s)
	}
	text := err.Error()
	if other, ok := errors.AsType[*otherServerError](err); ok {
		return other.remedy()
	}
	switch {
	case strings.Contains(text, "channel binding required"):
		return "The server cannot bind the login to the TLS connection: set `advanced.channel_binding` to prefer, or use a server whose " +
			"certificate and password allow it (SCRAM, and no Ed25519)."
	case strings.Contains(text, "server refused TLS connection"):
		return "The server offers no TLS: enable it there (ssl = on), or set `advanced.sslmode` to disable."
	case isHostnameError(err):
		return "The certificate is for another name than the one in `address`: set `address` to a name that it has, or " +
			"`advanced.sslmode` to verify-ca, which does not look at names."
	case strings.Contains(text, "tls error"), strings.Contains(text, "x509: "):
		return "The TLS handshake failed: check `advanced.sslmode`, and that `advanced.ssl_root_cert` holds the certificate " +
			"authority of this server."
	case strings.Contains(text, "hostname resolving error"):
		return "Check the host name in `address`."
	case isTimeout(err):
		return "Check `address`, and that firewalls and the provider's allow list let this machine through."
	case strings.Contains(text, "connection refused"):
		return "No server listens there: check host and port in `address`, and the server's `listen_addresses`."
	case strings.Contains(text, "EOF"):
		return "The server closed the connection during login: check that `address` is a PostgreSQL server."
	}
	return ""
}

// isHostnameError reports whether the server's certificate is trusted, and for another name than ours.
func isHostnameError(err error) bool {
	for _, attempt := range attempts(err, nil) {
		if _, ok := errors.AsType[x509.HostnameError](attempt); ok {
			return true
		}
	}
	return false
}

// attend has the connections made from config watched.
func (db *database) attend(config *pgx.ConnConfig) {
	dial := config.DialFunc
	var last *attentiveConn // of the address and TLS mode that is being tried; the others failed
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		last = &attentiveConn{Conn: conn, limit: answerLimit, working: db.working}
		return last, nil
	}
	config.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		last.pid.Store(conn.PID())
		return nil
	}
}

// working asks the server whether a backend is at work, rather than done or waiting for us. The pool is of no use here: all
// of it may be waiting.
func (db *database) working(pid uint32) (bool, error) {
	config, err := db.connectConfig()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	config.RuntimeParams = db.sessionParams()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return false, connectError(ctx, db.settings, err)
	}
	defer conn.Close(ctx)
	result := conn.ExecParams(ctx, `SELECT count(*) > 0 FROM pg_stat_activity
		WHERE pid = $1 AND state IN ('active', 'fastpath function call', 'disabled') AND coalesce(wait_event_type, '') <> 'Client'`,
		[][]byte{strconv.AppendUint(nil, uint64(pid), 10)}, nil, nil, nil).Read()
	if result.Err != nil {
		return false, result.Err
	}
	return len(result.Rows) == 1 && string(result.Rows[0][0]) == "t", nil
}

// watermarkTimeout bounds the write of a watermark: the wait for a lock, which then fails, or the wait of its commit
// for a synchronous standby, which is given up: the commit stands (syncrep.c, SyncRepWaitForLSN).
const watermarkTimeout = 3 * time.Second
