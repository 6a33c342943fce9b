package main

// kit_database_test.go gives server tests a place of their own: names, tables, slot, publication and watermarks table that no
// other test sees, so that tests may run at the same time, and cleanup of all that.

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The test server: by flag, else by environment, else what docker-compose.yaml sets up.
var (
	testAddress  = flag.String("db-address", envOr("TEST_DATABASE_ADDRESS", "localhost:5432"), "host:port of the test server")
	testDatabase = flag.String("db-name", envOr("TEST_DATABASE_NAME", "postgres"), "database on the test server")

	testControlUser     = flag.String("db-control-user", envOr("TEST_DATABASE_CONTROL_USER", "postgres"), "user that sets tests up")
	testControlPassword = flag.String("db-control-password", envOr("TEST_DATABASE_CONTROL_PASSWORD", "postgres"), "its password")
	testCaptureUser     = flag.String("db-capture-user", envOr("TEST_DATABASE_CAPTURE_USER", "flow_capture"), "user that captures")
	testCapturePassword = flag.String("db-capture-password", envOr("TEST_DATABASE_CAPTURE_PASSWORD", "secret1234"), "its password")

	updateGolden = flag.Bool("update", false, "rewrite golden files instead of comparing with them")

	longTests = flag.Bool("long", false, "run the long form of tests that have one")
)

// waitLimit ends a wait for what comes within seconds on an idle machine, and is not to come late on any.
const waitLimit = 3 * time.Minute

// allow returns how long something may take on this machine now that takes less than the limit on an idle one.
func allow(limit time.Duration) time.Duration {
	load := float64(runtime.NumCPU()) // of a machine that does not tell
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &load)
	}
	return limit + time.Duration(float64(limit)*load/float64(runtime.NumCPU()))
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// testDB is one test's share of the test server.
type testDB struct {
	testing.TB
	ctx         context.Context
	control     *pgx.Conn // as the control user, which owns everything here; search_path is the server's default
	suffix      string    // lower case, safe in every name, unique
	slot        string    // not created; dropped at cleanup
	publication string    // created empty of the test's tables (only the watermarks table), publish_via_partition_root
	watermarks  tableName // created, writable by the capture user, in the publication

	schemas []string
	tables  []tableName
}

var (
	testCount  atomic.Int64
	testSchema sync.Mutex
)

// newTestDB connects to the test server, or skips the test unless TEST_DATABASE=yes.
func newTestDB(t testing.TB) *testDB {
	t.Helper()
	if os.Getenv("TEST_DATABASE") != "yes" {
		t.Skip("needs a test server: set TEST_DATABASE=yes (and -db-address), or run make test")
	}
	suffix := fmt.Sprintf("%s%d", strconv.FormatInt(time.Now().UnixNano()/1000, 36), testCount.Add(1))
	db := &testDB{
		TB:          t,
		ctx:         context.Background(),
		control:     testConnect(t, *testControlUser, *testControlPassword),
		suffix:      suffix,
		slot:        "slot_" + suffix,
		publication: "pub_" + suffix,
		watermarks:  tableName{"test", "watermarks_" + suffix},
	}
	t.Cleanup(db.cleanup)
	testSchema.Lock() // the server refuses two grants on one schema at a time
	_, err := db.control.Exec(db.ctx, `CREATE SCHEMA IF NOT EXISTS test; GRANT USAGE ON SCHEMA test TO `+
		quoteIdent(*testCaptureUser), pgx.QueryExecModeSimpleProtocol)
	testSchema.Unlock()
	if err != nil {
		db.Fatal(err)
	}
	db.exec(fmt.Sprintf(`CREATE TABLE %s (slot text PRIMARY KEY, watermark text)`, quoteTable(db.watermarks)))
	db.exec(fmt.Sprintf(`GRANT ALL PRIVILEGES ON %s TO %s`, quoteTable(db.watermarks), quoteIdent(*testCaptureUser)))
	db.exec(fmt.Sprintf(`CREATE PUBLICATION %s FOR TABLE %s`, quoteIdent(db.publication), quoteTable(db.watermarks)))
	if db.version() >= 130000 {
		db.exec(fmt.Sprintf(`ALTER PUBLICATION %s SET (publish_via_partition_root = true)`, quoteIdent(db.publication)))
	}
	return db
}

// testConnect opens a plain connection to the test server, closed at cleanup.
func testConnect(t testing.TB, user, password string) *pgx.Conn {
	t.Helper()
	return testConnectTo(t, *testAddress, user, password)
}

// testConnectTo is testConnect to another server.
func testConnectTo(t testing.TB, address, user, password string) *pgx.Conn {
	t.Helper()
	return testConnectIn(t, address, *testDatabase, user, password)
}

// testConnectIn is testConnectTo in another database.
func testConnectIn(t testing.TB, address, database, user, password string) *pgx.Conn {
	t.Helper()
	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password), Host: address, Path: database,
		RawQuery: "sslmode=prefer&connect_timeout=10&default_query_exec_mode=exec",
	}
	conn, err := pgx.Connect(context.Background(), dsn.String())
	if err != nil {
		t.Fatalf("the test server at %s, user %s: %v", address, user, err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// cleanup drops what the test made. Failures are logged: the next test uses other names.
func (db *testDB) cleanup() {
	drop := func(sql string) {
		if _, err := db.control.Exec(db.ctx, sql); err != nil {
			db.Logf("cleanup: %s: %v", sql, err)
		}
	}
	db.dropSlot()
	drop(fmt.Sprintf(`DROP PUBLICATION IF EXISTS %s`, quoteIdent(db.publication)))
	for _, name := range append(db.tables, db.watermarks) {
		drop(fmt.Sprintf(`DROP TABLE IF EXISTS %s CASCADE`, quoteTable(name)))
	}
	for _, name := range db.schemas {
		drop(fmt.Sprintf(`DROP SCHEMA IF EXISTS %s CASCADE`, quoteIdent(name)))
	}
}

// dropSlot drops the test's slot if it exists, after ending the session that uses it.
func (db *testDB) dropSlot() {
	const sqlDropSlot = `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active`
	for range 100 {
		if _, err := db.control.Exec(db.ctx, sqlDropSlot, db.slot); err != nil {
			db.Logf("cleanup: end the user of slot %s: %v", db.slot, err)
		}
		_, err := db.control.Exec(db.ctx,
			`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, db.slot)
		if err == nil {
			return
		}
		if sqlState(err) != "55006" { // object_in_use
			db.Logf("cleanup: drop slot %s: %v", db.slot, err)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	db.Logf("cleanup: slot %s is still in use", db.slot)
}

// name returns a name of this test's own.
func (db *testDB) name(base string) string { return base + "_" + db.suffix }

// table returns a table name in schema test of this test's own, and has that table dropped at cleanup.
func (db *testDB) table(base string) tableName {
	t := tableName{"test", db.name(base)}
	db.tables = append(db.tables, t)
	return t
}

// createTable creates a table with the given definition (what follows its name) and adds it to the publication.
func (db *testDB) createTable(base, definition string) tableName {
	db.Helper()
	t := db.table(base)
	db.exec(fmt.Sprintf(`CREATE TABLE %s %s`, quoteTable(t), definition))
	db.grant(t)
	db.publish(t)
	return t
}

// publish adds tables to the test's publication.
func (db *testDB) publish(tables ...tableName) {
	db.Helper()
	for _, t := range tables {
		db.exec(fmt.Sprintf(`ALTER PUBLICATION %s ADD TABLE %s`, quoteIdent(db.publication), quoteTable(t)))
	}
}

// grant lets the capture user read tables (where its rights do not include that already).
func (db *testDB) grant(tables ...tableName) {
	db.Helper()
	for _, t := range tables {
		db.exec(fmt.Sprintf(`GRANT SELECT ON %s TO %s`, quoteTable(t), quoteIdent(*testCaptureUser)))
	}
}

// createSchema creates a schema of this test's own, which the capture user may use, dropped at cleanup with all in it.
func (db *testDB) createSchema(base string) string {
	db.Helper()
	name := db.name(base)
	db.schemas = append(db.schemas, name)
	db.exec(`CREATE SCHEMA ` + quoteIdent(name))
	db.exec(fmt.Sprintf(`GRANT USAGE ON SCHEMA %s TO %s`, quoteIdent(name), quoteIdent(*testCaptureUser)))
	return name
}

// exec runs one statement as the control user; an error fails the test.
func (db *testDB) exec(sql string, args ...any) {
	db.Helper()
	if _, err := db.control.Exec(db.ctx, sql, args...); err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
}

// script runs statements divided by semicolons as the control user; an error fails the test.
func (db *testDB) script(sql string) {
	db.Helper()
	if _, err := db.control.PgConn().Exec(db.ctx, sql).ReadAll(); err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
}

// query returns the rows of a query as texts, NULL as "NULL".
func (db *testDB) query(sql string, args ...any) [][]string {
	db.Helper()
	rows, err := db.control.Query(db.ctx, sql, args...)
	if err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
	var result [][]string
	for rows.Next() {
		var row []string
		for _, v := range rows.RawValues() {
			if v == nil {
				row = append(row, "NULL")
			} else {
				row = append(row, string(v))
			}
		}
		result = append(result, row)
	}
	if err := rows.Err(); err != nil {
		db.Fatalf("%s: %v", sql, err)
	}
	return result
}

// queryValue returns the only value of a query, as text.
func (db *testDB) queryValue(sql string, args ...any) string {
	db.Helper()
	rows := db.query(sql, args...)
	if len(rows) != 1 || len(rows[0]) != 1 {
		db.Fatalf("%s: want one value, got %v", sql, rows)
	}
	return rows[0][0]
}

// version is the server's server_version_num.
func (db *testDB) version() int {
	db.Helper()
	n, err := strconv.Atoi(db.queryValue(`SHOW server_version_num`))
	if err != nil {
		db.Fatal(err)
	}
	return n
}

// requireVersion skips the test on a server older than version (as server_version_num).
func (db *testDB) requireVersion(version int) {
	db.Helper()
	if v := db.version(); v < version {
		db.Skipf("needs server version %d, has %d", version, v)
	}
}

// config is the endpoint config of a capture as the capture user, with this test's slot, publication and watermarks.
func (db *testDB) config() json.RawMessage {
	db.Helper()
	config, err := json.Marshal(map[string]any{
		"address":     *testAddress,
		"user":        *testCaptureUser,
		"database":    *testDatabase,
		"historyMode": false,
		"credentials": map[string]any{"auth_type": "UserPassword", "password": *testCapturePassword},
		"advanced": map[string]any{
			"slotName":        db.slot,
			"publicationName": db.publication,
			"watermarksTable": db.watermarks.String(),
		},
	})
	if err != nil {
		db.Fatal(err)
	}
	return config
}

// settings are those of config, without the way through parseConfig.
func (db *testDB) settings() *settings {
	db.Helper()
	host, portText, err := net.SplitHostPort(*testAddress)
	if err != nil {
		db.Fatalf("test server address %q: %v", *testAddress, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		db.Fatalf("test server address %q: %v", *testAddress, err)
	}
	return &settings{
		host: host, port: uint16(port), user: *testCaptureUser, password: *testCapturePassword, database: *testDatabase,
		publication: db.publication, slot: db.slot, watermarks: db.watermarks,
		chunkRows: 50000, rediscoveryInterval: 15 * time.Minute, statementTimeout: 2 * time.Minute,
		onSlotLoss: "fail", onTruncate: "ignore",
		flags: featureFlags{
			useSchemaInference: true, emitSourcedSchemas: true, dateAsDate: true, timeAsTime: true, flattenArrays: true,
			createReplicationSlot: true,
		},
	}
}

// connect opens the capture user's database, closed at cleanup. A nil s means settings().
func (db *testDB) connect(s *settings) *database {
	db.Helper()
	if s == nil {
		s = db.settings()
	}
	d, err := connectDatabase(db.ctx, s)
	if err != nil {
		db.Fatal(err)
	}
	db.Cleanup(d.close)
	return d
}

// compareGolden compares text with the golden file testdata/name, or rewrites that with -update.
func compareGolden(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("golden file: %v (run with -update to write it)", err)
	}
	got, wanted := strings.Split(text, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			t.Fatalf("differs from %s at line %d:\n got %s\nwant %s", path, i+1,
				strings.Join(got[min(i, len(got)):min(i+5, len(got))], "\n     "),
				strings.Join(wanted[min(i, len(wanted)):min(i+5, len(wanted))], "\n     "))
		}
	}
}

// sanitize replaces what differs from run to run in names, for golden files.
func (db *testDB) sanitize(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "_"+db.suffix, ""), db.suffix, "")
}
