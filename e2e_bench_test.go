package main

// e2e_bench_test.go measures the connector as a process against a server: how long it takes for a backfill or for the changes
// of a slot, what CPU and memory it needs, and beside it what PostgreSQL's own tools take for the same. It is `make bench`:
// everything is compared within one run, in which the sides take turns; times of two runs say nothing of each other.

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

var (
	benchSides  = flag.String("sides", "", "connectors that TestServerBench measures, as NAME=BINARY,...; empty: it is left out")
	benchRounds = flag.Int("rounds", 3, "how often TestServerBench measures each side; the medians count")
	benchScale  = flag.Float64("scale", 1, "size of TestServerBench's workloads")
	benchOnly   = flag.String("workloads", "", "those of TestServerBench's workloads whose names have this; empty: all")
	benchOutput = flag.String("bench-output", "", "file that TestServerBench writes its table to, too")
	benchTLS    = flag.Bool("bench-tls", false, "have the server of TestServerBench offer TLS, which all sides take then")
	benchSpin   = flag.Int("spin", 0, "processes that use a core each while TestServerBench measures")
)

// benchCost is what one run of a side took.
type benchCost struct {
	wall, cpu time.Duration
	memory    int64 // most that was resident, bytes
	documents int
}

// benchSide is something that can be measured for a workload.
type benchSide struct {
	name string
	run  func(t *testing.T) benchCost
}

// serverWorkload makes what is measured, and returns the sides to compare on it.
type serverWorkload struct {
	name string
	make func(b *serverBench) []benchSide
}

var serverWorkloads = []serverWorkload{
	{"backfill narrow, 1 M rows", func(b *serverBench) []benchSide {
		return b.backfill("id bigint PRIMARY KEY, v text", "i, 'value ' || i", 1_000_000, "")
	}},
	{"backfill mixed, 1 M rows of 13 columns", func(b *serverBench) []benchSide {
		return b.backfill(mixedColumns("id bigint PRIMARY KEY"), mixedValues, 1_000_000, "")
	}},
	{"backfill wide, 40,000 rows of 10 kB", func(b *serverBench) []benchSide {
		return b.backfill("id bigint PRIMARY KEY, v text", "i, repeat(md5(i::text), 313)", 40_000, "ALTER TABLE %s ALTER v SET STORAGE EXTERNAL")
	}},
	{"backfill keyless mixed, 1 M rows", func(b *serverBench) []benchSide {
		return b.backfill(mixedColumns("id bigint"), mixedValues, 1_000_000, "")
	}},
	{"stream, 1 M changes in 3 transactions", func(b *serverBench) []benchSide {
		return b.stream(3, 333_334)
	}},
	{"stream, 300,000 changes in 40,000 transactions", func(b *serverBench) []benchSide {
		return b.stream(40_000, 8)
	}},
}

func mixedColumns(id string) string {
	return id + `, i4 int, i2 smallint, b boolean, f double precision, n numeric(12,2), d date, ts timestamp, tz timestamptz, u uuid,
		t text, v varchar(40), j jsonb`
}

const mixedValues = `i, i, i % 30000, i % 2 = 0, i / 7.0, (i % 100000) / 100.0, date '2020-01-01' + i::int % 2000,
	timestamp '2020-01-01' + i * interval '1 second', timestamptz '2020-01-01' + i * interval '1 second', md5(i::text)::uuid,
	'some text of row ' || i, 'v' || i, jsonb_build_object('a', i, 'b', 'text ' || i)`

// serverBench is the state of one workload.
type serverBench struct {
	*testDB
	sides []string // NAME=BINARY
}

func scaled(n int) int { return max(1, int(float64(n)**benchScale)) }

// TestServerBench prints the table of all workloads.
func TestServerBench(t *testing.T) {
	if *benchSides == "" {
		t.Skip("a measurement, for make bench: it says something on a machine that does nothing else")
	}
	for range *benchSpin {
		spin := exec.Command("sh", "-c", "while :; do :; done")
		if err := spin.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = spin.Process.Kill(); _ = spin.Wait() }()
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| workload | side | wall s | CPU s | memory MB | documents | wall, of the first |\n|---|---|---:|---:|---:|---:|---:|\n")
	for _, w := range serverWorkloads {
		if !strings.Contains(w.name, *benchOnly) {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			b := &serverBench{testDB: newTestDB(t), sides: strings.Split(*benchSides, ",")}
			if *benchTLS {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				b.serveTLS(key, "localhost")
				defer b.exec("SELECT pg_reload_conf()") // second
				defer b.exec("ALTER SYSTEM RESET ssl")
			}
			sides := w.make(b)
			costs := make([][]benchCost, len(sides))
			for range *benchRounds {
				for i, side := range sides {
					costs[i] = append(costs[i], side.run(t))
				}
			}
			first := 0.0
			for i, side := range sides {
				wall := median(costs[i], func(c benchCost) time.Duration { return c.wall }).Seconds()
				if i == 0 {
					first = wall
				}
				fmt.Fprintf(&table, "| %s | %s | %.2f | %.2f | %d | %d | %.2f |\n", w.name, side.name, wall,
					median(costs[i], func(c benchCost) time.Duration { return c.cpu }).Seconds(),
					median(costs[i], func(c benchCost) int64 { return c.memory })>>20, costs[i][0].documents, wall/first)
			}
		})
	}
	fmt.Print(table.String())
	if *benchOutput != "" {
		if err := os.WriteFile(*benchOutput, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func median[V cmp.Ordered](costs []benchCost, of func(benchCost) V) V {
	var values []V
	for _, c := range costs {
		values = append(values, of(c))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// backfill has a table of so many rows read, by each connector and by COPY in both formats.
func (b *serverBench) backfill(columns, values string, rows int, then string) []benchSide {
	rows = scaled(rows)
	table := b.createTable("bench", "("+columns+")")
	if then != "" {
		b.exec(fmt.Sprintf(then, table))
	}
	b.exec(fmt.Sprintf("INSERT INTO %s SELECT %s FROM generate_series(1, %d) i", quoteTable(table), values, rows))
	b.exec("VACUUM (ANALYZE, FREEZE) " + quoteTable(table))
	b.exec("CHECKPOINT")
	var sides []benchSide
	for _, format := range []string{"binary", "text"} {
		sides = append(sides, benchSide{"COPY " + format, func(t *testing.T) benchCost {
			return b.tool(t, "psql", "-qXAt", "-c", fmt.Sprintf("COPY %s TO STDOUT (FORMAT %s)", quoteTable(table), format))
		}})
	}
	for _, side := range b.sides {
		name, binary, _ := strings.Cut(side, "=")
		for _, c := range []codec{codecProto, codecJSON} {
			r := b.opened(binary, c, table)
			sides = append(sides, benchSide{name + " " + c.String(), func(t *testing.T) benchCost {
				b.free()
				b.dropSlot()
				cost := r.measure(t, json.RawMessage("{}"), func(patch string, documents int) bool {
					return strings.Contains(patch, `"mode":"Active"`)
				})
				if cost.documents < rows {
					t.Fatalf("%d documents of %d rows", cost.documents, rows)
				}
				return cost
			}})
		}
	}
	return sides
}

// stream has the changes of so many transactions streamed, by each connector and by pg_recvlogical.
func (b *serverBench) stream(transactions, changes int) []benchSide {
	transactions, changes = max(1, transactions), max(1, changes)
	if transactions > 100 {
		transactions = scaled(transactions)
	} else {
		changes = scaled(changes)
	}
	table := b.createTable("bench", "(id bigint PRIMARY KEY, a int, b text, c timestamptz DEFAULT '2026-01-01', d numeric DEFAULT 12.5)")
	var sides []benchSide
	type ready struct {
		name  string
		r     *benchRuntime
		state json.RawMessage
	}
	var all []ready
	var state json.RawMessage
	for _, side := range b.sides {
		name, binary, _ := strings.Cut(side, "=")
		r := b.opened(binary, codecProto, table)
		if state == nil { // the slot is made by the first, and each starts from where it begins
			state = r.streaming(b.TB)
		}
		all = append(all, ready{name, r, state})
	}
	slot := b.name("recvlogical")
	b.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
	b.TB.Cleanup(func() { b.exec("SELECT pg_drop_replication_slot($1)", slot) })
	// Inserts, then updates of them: one in three.
	b.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 0..%d LOOP
		INSERT INTO %s SELECT i * %d + j, j, 'text of change ' || j FROM generate_series(1, %d) j;
		UPDATE %s SET a = a + 1 WHERE id > i * %d AND id <= i * %d + %d; COMMIT; END LOOP; END $$`,
		transactions-1, quoteTable(table), changes, changes-changes/3, quoteTable(table), changes, changes, changes/3))
	end := b.queryValue("SELECT pg_current_wal_flush_lsn()")
	b.exec("CHECKPOINT")
	target, err := parseBenchLSN(end)
	if err != nil {
		b.TB.Fatal(err)
	}
	publication := b.settings().publication
	sides = append(sides, benchSide{"pg_recvlogical v1", func(t *testing.T) benchCost {
		again := b.name("recvlogical_again") // it moves its slot on
		b.exec("SELECT pg_copy_logical_replication_slot($1, $2)", slot, again)
		defer b.exec("SELECT pg_drop_replication_slot($1)", again)
		return b.tool(t, filepath.Join(b.queryValue("SELECT setting FROM pg_config() WHERE name = 'BINDIR'"), "pg_recvlogical"),
			"-d", *testDatabase, "--slot", again, "--start", "-f", "-", "--fsync-interval=0", "--status-interval=0", "-o", "proto_version=1",
			"-o", "publication_names="+publication, "--endpos", end, "--no-loop")
	}})
	for _, a := range all {
		sides = append(sides, benchSide{a.name + " proto", func(t *testing.T) benchCost {
			b.free()
			cost := a.r.measure(t, a.state, func(patch string, documents int) bool {
				var p struct {
					Cursor string `json:"cursor"`
				}
				if json.Unmarshal([]byte(patch), &p) != nil {
					return false
				}
				at, err := parseBenchLSN(p.Cursor)
				return err == nil && at >= target
			})
			if want := transactions * changes; cost.documents < want-transactions*2 {
				t.Fatalf("%d documents of %d changes", cost.documents, want)
			}
			return cost
		}})
	}
	return sides
}

func parseBenchLSN(text string) (lsn, error) {
	var high, low uint32
	if _, err := fmt.Sscanf(text, "%X/%X", &high, &low); err != nil {
		return 0, err
	}
	return lsn(high)<<32 | lsn(low), nil
}

// free waits until the process before has given the slot up.
func (b *serverBench) free() {
	b.eventually("the slot to be free", func() bool {
		return b.queryValue("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
	})
}

// tool runs a program of PostgreSQL's whose output is dropped.
func (b *serverBench) tool(t *testing.T, name string, arguments ...string) benchCost {
	host, port, _ := strings.Cut(*testAddress, ":")
	command := exec.Command(name, arguments...)
	command.Env = append(os.Environ(), "PGHOST="+host, "PGPORT="+port, "PGUSER="+*testControlUser, "PGPASSWORD="+*testControlPassword,
		"PGDATABASE="+*testDatabase)
	var complaint strings.Builder
	command.Stderr = &complaint
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, out, make([]byte, 1<<20))
	if err := command.Wait(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, complaint.String())
	}
	return costOf(command.ProcessState, time.Since(began))
}

func costOf(state *os.ProcessState, wall time.Duration) benchCost {
	return benchCost{
		wall: wall, cpu: state.UserTime() + state.SystemTime(),
		memory: state.SysUsage().(*syscall.Rusage).Maxrss << 10, // kB on Linux
	}
}

// benchRuntime opens captures of one table whose output is counted and dropped, and acknowledged never, so that each starts over.
type benchRuntime struct {
	driver  *runtimeDriver
	capture *pf.CaptureSpec
}

func (b *serverBench) opened(binary string, c codec, table tableName) *benchRuntime {
	r := newTestRuntime(b.TB, runtimeOptions{config: b.config(), codec: c, logLevel: "warn"})
	r.driver.command, r.driver.env = []string{binary}, nil
	discovered, err := r.driver.discover(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	bindings, err := previewBindings(discovered.Bindings, &previewOptions{tables: table.String()})
	if err != nil {
		b.Fatal(err)
	}
	capture, err := r.driver.validate(b.Context(), bindings, nil)
	if err != nil {
		b.Fatal(err)
	}
	return &benchRuntime{r.driver, capture}
}

// streaming captures the table, which is empty, and returns the state.
func (r *benchRuntime) streaming(t testing.TB) json.RawMessage {
	var state any = map[string]any{}
	r.measure(t, json.RawMessage("{}"), func(patch string, documents int) bool {
		update, err := decodeState([]byte(patch))
		if err != nil {
			t.Fatal(err)
		}
		state = mergePatch(state, update)
		return strings.Contains(patch, `"mode":"Active"`)
	})
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// measure opens a capture and reads until done says of a checkpoint's patch that it is the last that counts.
func (r *benchRuntime) measure(t testing.TB, state json.RawMessage, done func(patch string, documents int) bool) benchCost {
	began := time.Now()
	p, err := r.driver.start(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	full := pf.NewFullRange()
	if err := p.send(&pc.Request{Open: &pc.Request_Open{Capture: r.capture, Version: driverVersion, Range: &full, StateJson: state}}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.responses.next(); err != nil {
		t.Fatalf("open: %v", err)
	}
	documents := 0
	in := bufio.NewReaderSize(p.responses.r, 1<<20)
	for {
		kind, patch, err := benchFrame(in, r.driver.codec)
		if err != nil {
			p.kill()
			t.Fatalf("after %d documents: %v: %v", documents, err, p.wait())
		}
		if kind == 'd' {
			documents++
		}
		if kind == 'c' && done(patch, documents) {
			break
		}
	}
	wall := time.Since(began)
	p.kill()
	go io.Copy(io.Discard, in)
	_ = p.wait()
	cost := costOf(p.cmd.ProcessState, wall)
	cost.documents = documents
	return cost
}

// benchFrame reads one response without decoding it: a document ('d'), a checkpoint ('c') with its patch, or another.
func benchFrame(r *bufio.Reader, c codec) (kind byte, patch string, err error) {
	if c == codecJSON {
		long := false
		for {
			part, err := r.ReadSlice('\n')
			if err != nil && err != bufio.ErrBufferFull {
				return 0, "", err
			}
			if !long {
				switch {
				case strings.HasPrefix(string(part[:min(len(part), 12)]), `{"captured"`):
					kind = 'd'
				case strings.HasPrefix(string(part[:min(len(part), 14)]), `{"checkpoint"`):
					kind = 'c'
					var frame struct {
						Checkpoint struct {
							State struct {
								Updated json.RawMessage `json:"updated"`
							} `json:"state"`
						} `json:"checkpoint"`
					}
					if err := json.Unmarshal(part, &frame); err != nil {
						return 0, "", err
					}
					patch = string(frame.Checkpoint.State.Updated)
				}
			}
			if long = true; err == nil {
				return kind, patch, nil
			}
		}
	}
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	tag, err := r.Peek(1)
	if err != nil {
		return 0, "", err
	}
	switch tag[0] >> 3 {
	case 6: // captured
		_, err = r.Discard(n)
		return 'd', "", err
	case 7: // checkpoint
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return 0, "", err
		}
		var response pc.Response
		if err := response.Unmarshal(body); err != nil {
			return 0, "", err
		}
		return 'c', string(response.Checkpoint.State.UpdatedJson), nil
	}
	_, err = r.Discard(n)
	return 0, "", err
}
