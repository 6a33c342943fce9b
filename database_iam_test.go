package main

// Goal: a login with a token of a provider's is made as the provider wants it, over TLS only, and its end is the session's, not a
// failure. Method: published signatures for AWS; for the logins a server whose role has the token as its password.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go/aws-http-auth/credentials"
	"github.com/jackc/pgx/v5"
)

// TestAWSSignature: RDS tokens against the one that botocore's tests publish (test_signers.py, test_generate_db_auth_token), whose
// order of parameters is another.
func TestAWSSignature(t *testing.T) {
	l := &iamLogin{kind: authAWS, region: "us-east-1", key: credentials.Credentials{AccessKeyID: "akid", SecretAccessKey: "skid"}}
	at := time.Date(2016, 11, 7, 17, 39, 33, 0, time.UTC)
	const want = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=someusername&X-Amz-Algorithm=AWS4-HMAC-SHA256" +
		"&X-Amz-Credential=akid%2F20161107%2Fus-east-1%2Frds-db%2Faws4_request&X-Amz-Date=20161107T173933Z&X-Amz-Expires=900" +
		"&X-Amz-Signature=d1138cdbc0ca63eec012ec0fc6c2267e03642168f5884a7795320d4c18374c61&X-Amz-SignedHeaders=host"
	for _, host := range []string{"prod-instance.us-east-1.rds.amazonaws.com", "Prod-Instance.us-east-1.rds.amazonaws.com."} {
		if got := l.sign(host, 3306, "someusername", at.In(time.FixedZone("", 3600))); got != want {
			t.Errorf("signed for %s:\n%s\nwant\n%s", host, got, want)
		}
	}
	l.key.SessionToken = "a+b/c=="
	token, err := url.Parse("https://" + l.sign("h", 5432, "o'neil@corp", at))
	if err != nil {
		t.Fatal(err)
	}
	if q := token.Query(); q.Get("X-Amz-Security-Token") != "a+b/c==" || q.Get("DBUser") != "o'neil@corp" || strings.Contains(token.RawQuery, "+") {
		t.Errorf("with a session token: %s", token)
	}
}

func TestIAMSettings(t *testing.T) {
	aws := configChanges{
		"auth_type": "AWSIAM", "aws_region": "eu-central-1", "aws_role_arn": "arn", "aws_access_key_id": "id", "aws_secret_access_key": "s3cr3t",
		"aws_session_token": "s3cr3t", "password": "left over",
	}
	for mode, want := range map[string]string{"": "require", "allow": "require", "prefer": "require", "require": "require", "verify-full": "verify-full"} {
		s, err := parseConfig(configWith(t, map[string]any{"credentials": aws, "advanced.sslmode": mode}))
		if err != nil {
			t.Fatal(err)
		}
		if s.sslmode != want || s.password != "" || s.iam.kind != authAWS || s.iam.key.SessionToken != "s3cr3t" {
			t.Errorf("sslmode %q: %q, %v", mode, s.sslmode, s.iam.kind)
		}
		first, second := s.iam.sign(s.host, s.port, s.user, time.Unix(1, 0)), s.iam.sign(s.host, s.port, s.user, time.Unix(2, 0))
		if first == second || strings.Contains(first, "left over") {
			t.Errorf("signed twice: %s and %s", first, second)
		}
	}
	for kind, name := range map[string]string{"GCPIAM": "gcp_access_token", "AzureIAM": "azure_access_token"} {
		s, err := parseConfig(configWith(t, map[string]any{"credentials": configChanges{"auth_type": kind, name: "t0ken"}}))
		if err != nil || s.iam.password(s) != "t0ken" || s.sslmode != "require" {
			t.Errorf("%s: %v, %v", kind, s, err)
		}
	}
}

// iamServer is a server with TLS of the test's own.
func iamServer(t *testing.T) (*testDB, func(token string)) {
	t.Helper()
	startServer(t)
	db := newTestDB(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db.serveTLS(key, "localhost")
	return db, func(token string) {
		t.Helper()
		db.exec("ALTER ROLE " + quoteIdent(*testCaptureUser) + " PASSWORD " + quoteLiteral(token))
	}
}

// TestIAMLogins: connections of every sort log in with the token, of AWS with one of their own.
func TestIAMLogins(t *testing.T) {
	db, setToken := iamServer(t)
	now := time.Now()
	signedAt = func() time.Time { return now }
	t.Cleanup(func() { signedAt = time.Now })
	s := db.settings()
	s.sslmode, s.password = "require", "none"
	s.iam = &iamLogin{kind: authAWS, region: "r", key: credentials.Credentials{AccessKeyID: "i", SecretAccessKey: "k", SessionToken: strings.Repeat("s", 700)}}
	if _, err := connectDatabase(t.Context(), s); err == nil || !strings.Contains(err.Error(), "GRANT rds_iam TO ") || tokenExpired(err) ||
		strings.Contains(err.Error(), "sss") {
		t.Errorf("a login that is refused at once: %v", err)
	}
	setToken(s.iam.password(s))
	conn, err := connectDatabase(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	now = now.Add(time.Minute)
	setToken(s.iam.password(s))
	conn.pool.Reset()
	if err := conn.with(t.Context(), func(conn *pgx.Conn) error { return conn.Ping(t.Context()) }); err != nil {
		t.Errorf("a query connection made later: %v", err)
	}
	if w, err := conn.connectWatermarks(t.Context()); err != nil {
		t.Errorf("the connection for watermarks: %v", err)
	} else {
		w.Close(t.Context())
	}
	if r, err := conn.connectReplication(t.Context()); err != nil {
		t.Errorf("a replication connection: %v", err)
	} else {
		r.Close(t.Context())
	}
	if _, err := conn.working(1); err != nil {
		t.Errorf("a question about another session: %v", err)
	}
	now = now.Add(time.Minute)
	if _, err := conn.connectReplication(t.Context()); !tokenExpired(err) || !strings.Contains(err.Error(), "(credentials.auth_type AWSIAM) has expired") || transient(err) {
		t.Errorf("a login that is refused later: %v", err)
	}
}

// TestTokenExpires: a session whose token has expired goes on while it need not connect, then ends as one that was stopped; the
// next one, with a new token, goes on from there. In a backfill, too.
func TestTokenExpires(t *testing.T) {
	db, setToken := iamServer(t)
	config := func(token string) json.RawMessage {
		var config map[string]any
		if err := json.Unmarshal(db.edgeConfig(map[string]any{"backfill_chunk_size": 20}), &config); err != nil {
			t.Fatal(err)
		}
		config["credentials"] = map[string]any{"auth_type": "AzureIAM", "azure_client_id": "c", "azure_tenant_id": "t", "azure_access_token": token}
		text, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const one, two, three = "the-first-token", "the-second-token", "the-third-token"
	table := db.edgeTable("t", "int PRIMARY KEY", 400)
	disconnect := func() {
		db.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = " + quoteLiteral(*testCaptureUser))
	}
	setToken(one)
	renewed := false
	r := newTestRuntime(t, runtimeOptions{config: config(one), onCheckpoint: func(r *testRuntime, _ json.RawMessage) {
		if !renewed && len(r.uncommitted)+len(r.committed) >= 100 {
			renewed = true
			setToken(two)
			disconnect()
		}
	}})
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	r.start()
	ended := func(token string) {
		t.Helper()
		err := r.wait()
		if err != nil && !strings.Contains(err.Error(), "has expired, or was revoked") { // documents followed the last checkpoint
			t.Errorf("the session ended with %v", err)
		}
		if logs := r.stderr(); !strings.Contains(logs, "its token (credentials.auth_type AzureIAM) has expired") || strings.Contains(logs, "-token\"") {
			t.Errorf("nothing is said of the token, or too much: %s", logs)
		}
		r.driver.config = config(token)
		r.capture.ConfigJson, r.applied.ConfigJson = config(token), config(token)
		r.start()
	}
	ended(two)
	r.waitEnd(db, table)
	setToken(three)
	db.exec("UPDATE " + quoteTable(table) + " SET v = v || '+' WHERE id % 5 = 0")
	r.waitEnd(db, table) // over the connections that there are
	disconnect()
	r.waitFor("the end of the session", func() bool { return r.ended })
	if r.err != nil {
		t.Errorf("between checkpoints the session ended with %v", r.err)
	}
	ended(three)
	r.waitEnd(db, table)
	r.strict(table)
	r.checkRows(db, table)
	r.stop()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}
