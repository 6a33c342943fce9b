package main

// live_hostile_test.go gives the connector servers that lie and names that bite.
//
// Goal: no panic, no hang, no blown memory and one clear error, whatever comes over the wire; and a name is a name, whatever
// is in it. Method: a proxy that changes bytes of a real server's messages, seeded; and injections as the names of all that
// can be named.

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCorruptedServer: bytes of the server's messages are changed at random: lengths, kinds, positions, values.
func TestCorruptedServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a connector for each of many cases")
	}
	runs := 6
	if *longTests {
		runs = 200
	}
	seed := *oracleSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 31)
	}
	t.Logf("the first seed is %d", seed)
	db := newTestDB(t)
	table := db.edgeTable("t", "int PRIMARY KEY", 200)
	for i := range runs {
		t.Run(fmt.Sprintf("seed=%d", seed+uint64(i)), func(t *testing.T) { testCorruptedServer(t, db, table, seed+uint64(i)) })
	}
}

func testCorruptedServer(t *testing.T, db *testDB, table tableName, seed uint64) {
	p := startFaultProxy(t)
	random := rand.New(rand.NewPCG(seed, 1))
	kind := linkKind(seed % 2)
	var mu sync.Mutex
	hits, mean := 0, 200+random.IntN(5000) // bytes between two changes
	corrupt := func(of linkKind, piece []byte) {
		if of != kind {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for i := range piece {
			if random.IntN(mean) == 0 {
				hits++
				switch random.IntN(4) {
				case 0:
					piece[i] ^= 1 << random.IntN(8)
				case 1:
					piece[i] = 0xff
				case 2:
					piece[i] = 0
				default:
					piece[i] = byte(random.IntN(256))
				}
			}
		}
	}
	r := newTestRuntime(t, runtimeOptions{
		config: db.proxied(p, map[string]any{"backfill_chunk_size": 50}), env: []string{testPatienceVariable + "=2s"},
	})
	r.bind(r.edgeBindings(map[tableName]backfillMode{table: modeAutomatic}))
	p.corrupt.Store(&corrupt)
	if err := r.tryStart(); err == nil {
		began := time.Now()
		for i := 0; time.Since(began) < 3*time.Second; i++ {
			mu.Lock()
			enough := hits > 20
			mu.Unlock()
			if enough || r.hasEnded() {
				break
			}
			db.exec(fmt.Sprintf("UPDATE %s SET v = '%d' WHERE id %% 10 = %d", quoteTable(table), i, i%10))
			time.Sleep(20 * time.Millisecond)
		}
		r.stop()
		_ = r.wait() // with any error: what it says is looked at below
	}
	logs := r.stderr()
	for _, sign := range []string{"panic: ", "goroutine ", "runtime error", "fatal error", "index out of range"} {
		if strings.Contains(logs, sign) {
			t.Errorf("seed %d: %s in the logs:\n%s", seed, sign, logs)
		}
	}
	if hits == 0 {
		t.Errorf("seed %d: no byte was changed: the test shows nothing", seed)
	}
}

func (r *testRuntime) hasEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// TestHostileNames: every name that a config or the catalog brings is quoted wherever it goes into SQL.
func TestHostileNames(t *testing.T) {
	db := newTestDB(t)
	canary := db.table("canary")
	db.exec("CREATE TABLE " + quoteTable(canary) + " (id int)")
	bite := fmt.Sprintf(`x"'; DROP TABLE %s; -- $$ \`, canary.name)

	schema := bite
	db.schemas = append(db.schemas, schema)
	db.exec("CREATE SCHEMA " + quoteIdent(schema))
	db.exec(fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s", quoteIdent(schema), quoteIdent(*testCaptureUser)))
	table := tableName{schema, bite}
	column, kind := quoteIdent(bite), quoteIdent(schema)+"."+quoteIdent(bite+"t")
	db.exec(fmt.Sprintf("CREATE TYPE %s AS ENUM ('a', %s)", kind, quoteLiteral(bite)))
	db.exec(fmt.Sprintf("CREATE TABLE %s (%s %s PRIMARY KEY, id int, v text)", quoteTable(table), column, kind))
	db.exec(fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY FULL", quoteTable(table)))
	db.exec(fmt.Sprintf("INSERT INTO %s VALUES ('a', 1, 'one')", quoteTable(table)))
	db.grant(table)
	publication := db.publication
	db.publication = (bite + db.suffix)[len(bite+db.suffix)-min(63, len(bite+db.suffix)):]
	db.exec(fmt.Sprintf("ALTER PUBLICATION %s RENAME TO %s", quoteIdent(publication), quoteIdent(db.publication)))
	db.publish(table)
	watermarks := tableName{schema, "w" + bite}
	db.exec(fmt.Sprintf("CREATE TABLE %s (slot text PRIMARY KEY, watermark text)", quoteTable(watermarks)))
	db.exec(fmt.Sprintf("GRANT ALL ON %s TO %s", quoteTable(watermarks), quoteIdent(*testCaptureUser)))
	db.publish(watermarks)
	for _, mode := range []backfillMode{modeNormal, modeKeyless} {
		config := db.edgeConfig(map[string]any{
			"backfill_chunk_size": 1, "publicationName": db.publication, "watermarksTable": quoteTable(watermarks),
		})
		r := edgeStart(db, runtimeOptions{config: config}, map[tableName]backfillMode{table: mode})
		r.waitStreaming()
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%s, 2, 'two')", quoteTable(table), quoteLiteral(bite)))
		r.waitID(table, 2)
		db.exec(fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s int", quoteTable(table), quoteIdent(bite+string(mode[:min(1, len(mode))]))))
		db.exec(fmt.Sprintf("UPDATE %s SET id = 3 WHERE id = 2", quoteTable(table)))
		r.waitID(table, 3)
		r.stop()
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		if n := len(r.documents()); n != 3 {
			t.Errorf("%s: %d documents, want 3", mode, n)
		}
		db.exec(fmt.Sprintf("DELETE FROM %s WHERE id = 3", quoteTable(table)))
		db.dropSlot()
	}
	if db.queryValue("SELECT count(*) FROM pg_class WHERE oid = $1::regclass", quoteTable(canary)) != "1" {
		t.Error("the canary is gone")
	}
}

// TestSecretsStayHidden: no log, status or error shows a password, whatever goes wrong with it.
func TestSecretsStayHidden(t *testing.T) {
	db := newTestDB(t)
	const secret = "pa55-w0rd '\"\\ %41"
	for name, change := range map[string]func(config map[string]any){
		"wrong password": func(map[string]any) {},
		"wrong address":  func(c map[string]any) { c["address"] = "127.0.0.1:1" },
		"wrong database": func(c map[string]any) { c["database"] = "no_such_database" },
		"no TLS":         func(c map[string]any) { c["advanced"].(map[string]any)["sslmode"] = "verify-full" },
		"bad config":     func(c map[string]any) { c["advanced"].(map[string]any)["backfill_chunk_size"] = secret },
		"as a URI":       func(c map[string]any) { c["address"] = "postgres://u:" + secret + "@127.0.0.1/db" },
		"unknown":        func(c map[string]any) { c["credentials"].(map[string]any)["passwort"] = secret },
		"wrong type":     func(c map[string]any) { c["credentials"] = secret },
		"PEM key":        func(c map[string]any) { c["advanced"].(map[string]any)["ssl_client_key"] = secret },
	} {
		t.Run(name, func(t *testing.T) {
			config := make(map[string]any)
			if err := json.Unmarshal(db.config(), &config); err != nil {
				t.Fatal(err)
			}
			config["credentials"].(map[string]any)["password"] = secret
			change(config)
			r := newTestRuntime(t, runtimeOptions{config: config, logLevel: "trace"})
			_, err := r.driver.discover(t.Context())
			if err == nil {
				t.Fatal("it connected")
			}
			for _, text := range []string{err.Error(), r.stderr()} {
				if strings.Contains(text, "pa55") || strings.Contains(text, "w0rd") {
					t.Errorf("the secret is told: %s", text)
				}
			}
		})
	}
}
