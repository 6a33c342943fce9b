package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestQuoting(t *testing.T) {
	for _, c := range []struct{ in, ident, literal string }{
		{"", `""`, `''`},
		{"a", `"a"`, `'a'`},
		{`A"b'c`, `"A""b'c"`, `'A"b''c'`},
		{`a\'b`, `"a\'b"`, ` E'a\\''b'`},
		{"nul\x00l", `"null"`, `'null'`},
		{"größe; --", `"größe; --"`, `'größe; --'`},
	} {
		if got := quoteIdent(c.in); got != c.ident {
			t.Errorf("quoteIdent(%q) = %s, want %s", c.in, got, c.ident)
		}
		if got := quoteLiteral(c.in); got != c.literal {
			t.Errorf("quoteLiteral(%q) = %s, want %s", c.in, got, c.literal)
		}
	}
	if got := quoteTable(tableName{"S", `t".x`}); got != `"S"."t"".x"` {
		t.Errorf("quoteTable = %s", got)
	}
}

// Whatever a text holds, the server reads it back from its literal, and a name from its identifier, with either setting
// of standard_conforming_strings.
func TestQuotingOnServer(t *testing.T) {
	db := newTestDB(t)
	for _, setting := range []string{"on", "off"} {
		db.exec("SET standard_conforming_strings = " + setting)
		for _, text := range []string{`a`, `a'b`, `\`, `\'; SELECT 1; --`, `a\\b`, "a\nb\t\\n", `"x"`, `$1`, `é\é`} {
			if got := db.queryValue("SELECT" + quoteLiteral(text)); got != text {
				t.Errorf("%s: literal of %q is read as %q", setting, text, got)
			}
			rows, err := db.control.Query(db.ctx, "SELECT 1 AS "+quoteIdent(text))
			if err != nil {
				t.Fatal(err)
			}
			rows.Close()
			if got := rows.FieldDescriptions()[0].Name; got != text {
				t.Errorf("%s: identifier of %q is read as %q", setting, text, got)
			}
		}
	}
}

// certificate returns a self-signed certificate for the host names and its key, in PEM.
func certificate(t *testing.T, hosts ...string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// Each sslmode against servers whose certificate is right, for another host, from another authority, or missing.
func TestTLSModes(t *testing.T) {
	cert, key := certificate(t, "db.example")
	other, _ := certificate(t, "db.example")
	for _, c := range []struct {
		mode, root, host string
		want             string // attempts in order: plain, or tls with the outcome
	}{
		{"disable", "", "db.example", "plain"},
		{"allow", "", "db.example", "plain tls:ok"},
		{"", "", "db.example", "tls:ok plain"},
		{"prefer", other, "db.example", "tls:ok plain"},
		{"require", "", "elsewhere.example", "tls:ok"},
		{"require", cert, "elsewhere.example", "tls:ok"},
		{"require", other, "db.example", "tls:untrusted"},
		{"verify-ca", cert, "elsewhere.example", "tls:ok"},
		{"verify-ca", other, "db.example", "tls:untrusted"},
		{"verify-ca", "", "db.example", "tls:untrusted"},
		{"verify-full", cert, "db.example", "tls:ok"},
		{"verify-full", cert, "elsewhere.example", "tls:host"},
		{"verify-full", other, "db.example", "tls:untrusted"},
	} {
		configs, err := tlsConfigs(&settings{host: c.host, sslmode: c.mode, sslRootCert: c.root})
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		var got []string
		for _, config := range configs {
			if config == nil {
				got = append(got, "plain")
			} else {
				got = append(got, "tls:"+handshake(t, config, cert, key))
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("sslmode %q, host %s, right root %v: %s, want %s", c.mode, c.host, c.root == cert, s, c.want)
		}
	}
}

func handshake(t *testing.T, config *tls.Config, cert, key string) string {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = tls.Client(conn, config).Handshake()
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "host"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "untrusted"
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func TestTLSSettingsRefused(t *testing.T) {
	cert, key := certificate(t, "a")
	for _, c := range []struct {
		s    settings
		want string
	}{
		{settings{sslmode: "maybe"}, `advanced.sslmode "maybe" is not one of disable, allow, prefer, require, verify-ca, verify-full`},
		{settings{sslRootCert: "no"}, "advanced.ssl_root_cert holds no PEM certificate: paste the text of the certificate " +
			"authority's file, from -----BEGIN CERTIFICATE----- on"},
		{settings{sslClientCert: cert}, "advanced.ssl_client_cert and advanced.ssl_client_key belong together: set both or none"},
		{settings{sslClientKey: key}, "advanced.ssl_client_cert and advanced.ssl_client_key belong together: set both or none"},
		{settings{sslClientCert: "no", sslClientKey: key}, "advanced.ssl_client_cert and advanced.ssl_client_key must be a PEM " +
			"certificate and its unencrypted PEM private key: tls: failed to find any PEM data in certificate input"},
	} {
		_, err := tlsConfigs(&c.s)
		if _, ok := errors.AsType[*userError](err); !ok || err.Error() != c.want {
			t.Errorf("got %v\nwant %s", err, c.want)
		}
	}
}

// The environment and a home directory full of files must not reach a connection.
func TestConfigIgnoresEnvironment(t *testing.T) {
	for name, v := range map[string]string{
		"PGHOST": "evil", "PGPORT": "1", "PGUSER": "evil", "PGPASSWORD": "evil", "PGDATABASE": "evil", "PGOPTIONS": "-c x=y",
		"PGTZ": "Mars", "PGAPPNAME": "evil", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nonexistent", "PGSSLCERT": "/x",
		"PGSSLKEY": "/y", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "none", "PGCONNECT_TIMEOUT": "77",
		"PGSSLNEGOTIATION": "direct", "PGMINPROTOCOLVERSION": "3.2", "PGCHANNELBINDING": "require", "PGSSLCERTMODE": "require",
		"PGPASSFILE": "/nonexistent", "PGSSLSNI": "0",
	} {
		t.Setenv(name, v)
	}
	s := &settings{host: "h", port: 7, user: "u", database: "d", sslmode: "prefer"}
	config, err := (&database{settings: s}).connectConfig()
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "h" || config.Port != 7 || config.User != "u" || config.Password != "" || config.Database != "d" ||
		len(config.RuntimeParams) != 0 || config.ValidateConnect != nil || config.RequireAuth != "" ||
		config.SSLNegotiation != "" || config.MinProtocolVersion != "3.0" || config.ChannelBinding != "prefer" ||
		config.SSLCertMode != "allow" || config.ConnectTimeout != connectTimeout || len(config.Fallbacks) != 1 ||
		config.Fallbacks[0].Host != "h" || config.Fallbacks[0].TLSConfig != nil || config.TLSConfig.RootCAs != nil {
		t.Errorf("the environment shows in %+v", config)
	}
}

// TestOtherServers: what answers at the address is named where it is no PostgreSQL server, and what it would take is not.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS() // for its key
	defer certificate.Close()
	mysql := append([]byte{0x4a, 0, 0, 0, 10}, "8.0.36\x00"...)
	for _, c := range []struct {
		name, mode string
		serve      func(net.Conn)
		want       string
	}{
		{"SSH", "prefer", func(c net.Conn) { c.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n")); io.Copy(io.Discard, c) }, "an SSH server"},
		{"MySQL", "prefer", func(c net.Conn) { c.Write(mysql); io.Copy(io.Discard, c) }, "a MySQL or MariaDB server"},
		{"MySQL", "require", func(c net.Conn) { c.Write(mysql); io.Copy(io.Discard, c) }, "a MySQL or MariaDB server"},
		{"HTTP", "require", func(c net.Conn) {
			bufio.NewReader(c).ReadBytes('\n')
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
		}, "an HTTP server"},
		{"hasty HTTP", "prefer", func(c net.Conn) {
			c.Read(make([]byte, 8))
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}, "an HTTP server"},
		{"mail", "prefer", func(c net.Conn) { c.Write([]byte("220 mail.example.com ESMTP\r\n")); io.Copy(io.Discard, c) }, `"220 mail.example.com ESMTP"`},
		{"TLS", "require", func(c net.Conn) { tls.Server(c, certificate.TLS).Handshake() }, "speaks TLS from the first byte on"},
		{"silent", "disable", func(c net.Conn) { io.Copy(io.Discard, c) }, "takes connections and never answers, which is not a PostgreSQL server, or one that hangs"},
	} {
		t.Run(c.name+" "+c.mode, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() { c.serve(conn); conn.Close() }()
				}
			}()
			port := listener.Addr().(*net.TCPAddr).Port
			s := &settings{host: "127.0.0.1", port: uint16(port), user: "u", password: "hush-hush", database: "d", sslmode: c.mode}
			err = withGreeting(t.Context(), newDialer().DialContext, s, errors.New("tls error: something"))
			if c.name != "HTTP" && c.name != "silent" { // the driver waits for twenty seconds
				_, err = connectDatabase(t.Context(), s)
			} else {
				err = connectError(t.Context(), s, err)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "Check host and port") ||
				strings.Contains(err.Error(), "sslmode") {
				t.Errorf("it says %v, want %s", err, c.want)
			}
		})
	}
}

// Every way in which a connection fails gives one userError with place, reason and remedy, and no password.
func TestConnectErrors(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().(*net.TCPAddr).Port
	closed.Close()

	fails := func(code, message, routine string) func(*pgproto3.Backend, net.Conn) {
		return func(b *pgproto3.Backend, _ net.Conn) {
			b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: message, Routine: routine, Detail: "Just so.", Hint: "Try on."})
			b.Flush()
		}
	}
	for _, c := range []struct {
		name   string
		server func(*pgproto3.Backend, net.Conn)
		mode   string
		want   string // after "cannot connect to database "d" at 127.0.0.1:PORT as user "u": "
	}{
		{"refused", nil, "prefer", "dial tcp 127.0.0.1:PORT: connect: connection refused. No server listens there: check host " +
			"and port in `address`, and the server's `listen_addresses`."},
		{
			"password", fails("28P01", `password authentication failed for user "u"`, "auth_failed"), "disable",
			`password authentication failed for user "u" (SQLSTATE 28P01); DETAIL: Just so; HINT: Try on. Check ` +
				"`user` and `credentials.password`.",
		},
		{
			"pg_hba", fails("28000", `no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption`, "ClientAuthentication"), "disable",
			`no pg_hba.conf entry for host "10.0.0.1", user "u", database "d", no encryption (SQLSTATE 28000); DETAIL: Just so; HINT: Try on. ` +
				adviceLogin,
		},
		{
			"no login", fails("28000", `la connexion n'est pas permise`, "InitializeSessionUserId"), "disable",
			`la connexion n'est pas permise (SQLSTATE 28000); DETAIL: Just so; HINT: Try on. Check ` + "`user`: it must be a role that exists " +
				`and may log in. For one that exists, run: ALTER ROLE "u" LOGIN;`,
		},
		{
			"no role", fails("28000", `role "u" does not exist`, "InitializeSessionUserId"), "disable",
			`role "u" does not exist (SQLSTATE 28000); DETAIL: Just so; HINT: Try on. ` + adviceNoRole,
		},
		{
			"database", fails("3D000", `database "d" does not exist`, "InitPostgres"), "disable", `database "d" does not exist (SQLSTATE ` +
				"3D000); DETAIL: Just so; HINT: Try on. Check `database`: it is the name of a database on this server, in exact case.",
		},
		{
			"privilege", fails("42501", `keine Berechtigung für Datenbank »d«`, "CheckMyDatabase"), "disable", `keine Berechtigung für ` +
				`Datenbank »d« (SQLSTATE 42501); DETAIL: Just so; HINT: Try on. Run as an administrator: GRANT CONNECT ON DATABASE "d" TO "u";`,
		},
		{
			"walsender", fails("42501", "keine Berechtigung, um WAL-Sender zu starten", "InitPostgres"), "disable",
			"keine Berechtigung, um WAL-Sender zu starten (SQLSTATE 42501); DETAIL: Just so; HINT: Try on. Run as an administrator: " +
				`ALTER ROLE "u" REPLICATION; (on Amazon RDS: GRANT rds_replication TO "u";)`,
		},
		{"full", fails("53300", "sorry, too many clients already", "InitProcess"), "disable", "sorry, too many clients already " +
			"(SQLSTATE 53300); DETAIL: Just so; HINT: Try on. " + adviceConnections},
		{"starting", fails("57P03", "the database system is starting up", "ProcessStartupPacket"), "disable", "the database system is " +
			"starting up (SQLSTATE 57P03); DETAIL: Just so; HINT: Try on. " + adviceStarting},
		{"pooler", fails("08P01", "unsupported startup parameter: replication", ""), "disable", "unsupported startup parameter: " +
			"replication (SQLSTATE 08P01); DETAIL: Just so; HINT: Try on. " + advicePooler},
		{
			"no TLS", func(_ *pgproto3.Backend, c net.Conn) { c.Write([]byte("N")) }, "require",
			"127.0.0.1:PORT (127.0.0.1): tls error: server refused TLS connection. The server offers no TLS: enable it there " +
				"(ssl = on), or set `advanced.sslmode` to disable.",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			port := refused
			if c.server != nil {
				port = fakeServer(t, c.mode != "disable", c.server)
			}
			s := &settings{
				host: "127.0.0.1", port: uint16(port), user: "u", password: "hush-hush", database: "d", sslmode: c.mode,
			}
			_, err := connectDatabase(context.Background(), s)
			_, isUser := errors.AsType[*userError](err)
			place := fmt.Sprintf("127.0.0.1:%d", port)
			want := `cannot connect to database "d" at ` + place + ` as user "u": ` +
				strings.ReplaceAll(c.want, "127.0.0.1:PORT", place)
			if !isUser || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}

	t.Run("another name in the certificate", func(t *testing.T) {
		s := &settings{host: "h", port: 1, user: "u", database: "d"}
		err := connectError(context.Background(), s, errors.Join(fmt.Errorf("tls error: %w", &tls.CertificateVerificationError{
			Err: x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"db.example.com"}}, Host: "h"},
		})))
		if want := "certificate is valid for db.example.com, not h. The certificate is for another name than the one in `address`"; !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "verify-ca") {
			t.Errorf("%v\nlacks %s", err, want)
		}
	})

	t.Run("two reasons", func(t *testing.T) {
		s := &settings{host: "h", port: 1, user: "u", database: "d"}
		err := connectError(context.Background(), s, errors.Join(
			&pgconn.PgError{Code: "28000", Message: "TLS not allowed"}, &pgconn.PgError{Code: "28000", Message: "plain not allowed"},
			&pgconn.PgError{Code: "28000", Message: "TLS not allowed"}))
		if want := `: TLS not allowed (SQLSTATE 28000); tried again in another way: plain not allowed (SQLSTATE 28000). Check`; !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %s", err, want)
		}
	})

	t.Run("ended by us", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("stdin was closed"))
		_, err := connectDatabase(ctx, &settings{host: "127.0.0.1", port: uint16(refused), user: "u", database: "d"})
		want := fmt.Sprintf(`connect to database "d" at 127.0.0.1:%d as user "u": stdin was closed`, refused)
		if _, isUser := errors.AsType[*userError](err); isUser || err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// fakeServer accepts connections and answers each one's first message; it returns its port.
func fakeServer(t *testing.T, ssl bool, answer func(*pgproto3.Backend, net.Conn)) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(conn, conn)
			backend.ReceiveStartupMessage()
			answer(backend, conn)
			conn.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestConnectErrorsOnServer(t *testing.T) {
	db := newTestDB(t)
	for _, c := range []struct {
		name string
		edit func(*settings)
		want string
	}{
		{"password", func(s *settings) { s.password = "hush-hush" }, "(SQLSTATE 28P01). Check `user` and `credentials.password`."},
		{"database", func(s *settings) { s.database = "nosuch" }, `database "nosuch" does not exist (SQLSTATE 3D000). Check ` +
			"`database`: it is the name of a database on this server, in exact case."},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := db.settings()
			c.edit(s)
			_, err := connectDatabase(db.ctx, s)
			if _, isUser := errors.AsType[*userError](err); !isUser || !strings.HasSuffix(err.Error(), c.want) ||
				strings.Contains(err.Error(), "hush-hush") {
				t.Errorf("got %v\nwant …%s", err, c.want)
			}
		})
	}
}

// Whatever the role and the database are set to, every session has the pinned settings, query and replication alike.
func TestPinnedSession(t *testing.T) {
	db := newTestDB(t)
	role := quoteIdent(db.name("role"))
	db.exec(`CREATE ROLE ` + role + ` LOGIN REPLICATION PASSWORD 'secret1234'`)
	t.Cleanup(func() { db.control.Exec(db.ctx, `DROP ROLE `+role) })
	for _, set := range []string{
		`DateStyle = 'SQL, DMY'`, `IntervalStyle = 'iso_8601'`, `bytea_output = 'escape'`, `extra_float_digits = -5`,
		`client_encoding = 'LATIN1'`, `search_path = 'test, public'`, `TimeZone = 'PST8PDT'`, `statement_timeout = '7s'`,
		`lock_timeout = '3s'`, `idle_in_transaction_session_timeout = '5s'`,
		`default_transaction_isolation = 'serializable'`, `max_parallel_workers_per_gather = 4`,
	} {
		db.exec(`ALTER ROLE ` + role + ` SET ` + set)
	}
	if db.version() >= 140000 {
		db.exec(`ALTER ROLE ` + role + ` SET idle_session_timeout = '9s'`)
	}
	s := db.settings()
	s.user, s.password, s.statementTimeout = db.name("role"), "secret1234", 90*time.Second
	d := db.connect(s)
	if d.timeZone != "PST8PDT" || d.standby || d.encoding != "UTF8" || d.version != db.version() {
		t.Errorf("probe found %+v", d)
	}
	want := map[string]string{
		"DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1",
		"client_encoding": "UTF8", "search_path": "pg_catalog", "TimeZone": "PST8PDT", "application_name": "estuary_flow",
		"lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "default_transaction_isolation": "read committed",
		"idle_session_timeout": "0", "tcp_keepalives_idle": "120", "tcp_keepalives_interval": "30", "tcp_keepalives_count": "6",
	}
	if d.version < 140000 {
		delete(want, "idle_session_timeout")
	}
	if d.version < 120000 {
		want["extra_float_digits"] = "3"
	}

	want["statement_timeout"], want["max_parallel_workers_per_gather"] = "90s", "0"
	if d.version >= 110000 {
		want["jit"] = "off"
	}
	if err := d.with(db.ctx, func(conn *pgx.Conn) error {
		for name, w := range want {
			var got string
			if err := conn.QueryRow(db.ctx, `SELECT current_setting($1)`, name).Scan(&got); err != nil {
				return err
			}
			// 90000 milliseconds are shown as 90s.
			if got != w {
				t.Errorf("query session: %s is %q, want %q", name, got, w)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	want["statement_timeout"] = "0"
	delete(want, "max_parallel_workers_per_gather")
	delete(want, "jit")
	walsender, err := d.connectReplication(db.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer walsender.Close(db.ctx)
	for name, w := range want {
		results, err := walsender.Exec(db.ctx, "SHOW "+name).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(results[0].Rows[0][0]); got != w {
			t.Errorf("walsender: %s is %q, want %q", name, got, w)
		}
	}
	results, err := walsender.Exec(db.ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil || len(results[0].Rows) != 1 {
		t.Errorf("IDENTIFY_SYSTEM: %v, %v", results, err)
	}
}

// A database without an encoding sends its bytes as they are, also those that are not UTF-8.
func TestSQLASCIIDatabase(t *testing.T) {
	db := newTestDB(t)
	name := db.name("ascii")
	db.exec(`CREATE DATABASE ` + name + ` ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
	t.Cleanup(func() { db.control.Exec(db.ctx, `DROP DATABASE `+name) })
	s := db.settings()
	s.database = name
	d, err := connectDatabase(db.ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if d.encoding != "SQL_ASCII" {
		t.Error("the database is not seen as SQL_ASCII")
	}
	if err := d.with(db.ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(db.ctx, `SELECT E'a\377b'`)
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() || !bytes.Equal(rows.RawValues()[0], []byte("a\xffb")) {
			t.Errorf("got %q, %v", rows.RawValues(), rows.Err())
		}
		return rows.Err()
	}); err != nil {
		t.Error(err)
	}
}

// Cached plans break under DDL ("cached plan must not change result type"); ours must not. And a cancelled context ends
// the query on the server.
func TestQueriesWithoutCaches(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("shape", "(a integer)")
	db.exec(`INSERT INTO ` + quoteTable(table) + ` VALUES (1)`)
	d := db.connect(nil)
	if err := d.with(db.ctx, func(conn *pgx.Conn) error {
		for _, ddl := range []string{"ADD COLUMN b text DEFAULT 'x'", "ALTER COLUMN a TYPE text", "DROP COLUMN b"} {
			rows, err := conn.Query(db.ctx, `SELECT * FROM `+quoteTable(table)+` WHERE 1 = $1`, 1)
			if err != nil {
				return err
			}
			rows.Close()
			if err := rows.Err(); err != nil {
				return err
			}
			db.exec(`ALTER TABLE ` + quoteTable(table) + ` ` + ddl)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}

	ctx, cancel := context.WithTimeout(db.ctx, 100*time.Millisecond)
	defer cancel()
	if err := d.with(db.ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_sleep(60)`)
		return err
	}); err == nil {
		t.Error("the query was not cancelled")
	}
	db.eventually("the cancelled query to end on the server", func() bool {
		const sqlSleepers = `SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state = 'active' AND query ~ 'sleep.60'`
		return db.queryValue(sqlSleepers, *testCaptureUser) == "0"
	})
}

// What testDB gives tests as a config and as settings is the same.
func TestTestDBConfig(t *testing.T) {
	db := newTestDB(t)
	fromConfig, err := parseConfig(db.config())
	if err != nil {
		t.Fatal(err)
	}
	if want := db.settings(); fmt.Sprintf("%#v", fromConfig) != fmt.Sprintf("%#v", want) {
		t.Errorf("config gives   %#v\nsettings gives %#v", fromConfig, want)
	}
}
