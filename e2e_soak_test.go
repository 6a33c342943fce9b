package main

// e2e_soak_test.go is the long form of the faults: `make soak`.
//
// Goal: nothing is lost, repeated or silent however faults come together. Method: run after run, each made from its seed on
// a server of its own, of each version at hand in turn: the oracle's tables and writers, changes of shape beside them,
// tables that are bound as it goes on, and one fault after the other: kills and cuts and pauses at failpoints, kills at
// random moments and outputs, deaths within messages, server crashes, slow and blocked sinks, faults of the network. Each
// run ends with strict history and replay. Where that fails on a key, the failure lists what the server's own decoding says of it
// (kit_witness_test.go). Every sixth run is of situations (e2e_situations_test.go), whose captures are killed. What was done so far lies in
// a file, so that a soak that was interrupted goes on where it was; the report counts it.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	soakTests   = flag.Bool("soak", false, "run TestSoak for -duration, going on where the last one stopped; with -seed that run alone")
	soakVersion = flag.String("soak-version", "", "major version of TestSoak's servers; empty: each at hand in turn")
)

const (
	soakStateFile  = ".test-postgres/soak.json"
	soakReportFile = "tests/soak-report.md"
)

// soakTotals is what a soak has done.
type soakTotals struct {
	First    uint64         `json:"first"` // seed
	Next     uint64         `json:"next"`  // seed
	Started  time.Time      `json:"started"`
	Elapsed  time.Duration  `json:"elapsed"`
	Commit   string         `json:"commit"`
	Checked  map[string]int `json:"checked"` // documents and so on
	Faults   map[string]int `json:"faults"`  // by kind
	Points   map[string]int `json:"points"`  // failpoints, as action and name
	Versions map[string]int `json:"versions"`
	Kinds    map[string]int `json:"kinds"` // of runs
	Failures []string       `json:"failures"`
}

func newSoakTotals() *soakTotals {
	first := uint64(time.Now().UnixNano()) % 1_000_000_000
	commit, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	return &soakTotals{
		First: first, Next: first, Started: time.Now().UTC(), Commit: strings.TrimSpace(string(commit)),
		Checked: map[string]int{}, Faults: map[string]int{}, Points: map[string]int{}, Versions: map[string]int{}, Kinds: map[string]int{},
	}
}

// soakFault is a way to disturb a session. It starts the session and sees its end.
type soakFault struct {
	name   string
	weight int
	run    func(s *soakRun)
}

// soakFaults are the kinds there are.
var soakFaults = []soakFault{
	{"kill at a failpoint", 8, (*soakRun).killAtFailpoint},
	{"connections cut at a failpoint", 4, (*soakRun).cutAtFailpoint},
	{"pauses at failpoints", 2, (*soakRun).pauseAtFailpoints},
	{"kill, cut, stop or end at random", 8, func(s *soakRun) { s.begin(); s.disturb() }},
	{"death within a message", 2, (*soakRun).dieInMessage},
	{"server crash", 2, (*soakRun).crashServer},
	{"slow sink", 1, (*soakRun).slowSink},
	{"blocked sink", 1, (*soakRun).blockSink},
	{"tables bound", 3, (*soakRun).bindMore},
	{"network: connections reset", 1, network(func(p *faultProxy, kind linkKind, _ *rand.Rand) { p.each(kind, (*link).reset) })},
	{"network: cut inside a message", 1, network(func(p *faultProxy, kind linkKind, random *rand.Rand) {
		p.each(kind, func(l *link) { l.left.Store(random.Int64N(5000)) })
	})},
	{"network: black hole", 1, network(func(p *faultProxy, kind linkKind, _ *rand.Rand) {
		p.each(kind, func(l *link) { l.swallow.Store(true) })
	})},
	{"network: stall", 1, network(func(p *faultProxy, kind linkKind, _ *rand.Rand) {
		p.each(kind, func(l *link) { l.held.Store(true) })
	})},
	{"network: one byte at a time", 1, network(func(p *faultProxy, _ linkKind, _ *rand.Rand) { p.fragment.Store(true) })},
	{"network: latency", 1, network(func(p *faultProxy, _ linkKind, random *rand.Rand) {
		p.latency.Store(int64(time.Duration(1+random.IntN(50)) * time.Millisecond))
	})},
}

// network is a fault of the network on either kind of connection for a second or two, on which the session goes on or ends.
func network(inject func(p *faultProxy, kind linkKind, random *rand.Rand)) func(s *soakRun) {
	return func(s *soakRun) {
		s.begin()
		s.cut++
		s.sleep(time.Duration(s.rand.IntN(1500)) * time.Millisecond)
		inject(s.proxy, []linkKind{linkQuery, linkReplication, -1}[s.rand.IntN(3)], s.rand)
		s.sleep(time.Duration(500+s.rand.IntN(1500)) * time.Millisecond)
		s.proxy.fragment.Store(false)
		s.proxy.latency.Store(0)
		s.proxy.each(-1, func(l *link) { l.held.Store(false) })
		s.sleep(time.Duration(s.rand.IntN(3000)) * time.Millisecond)
		s.finish()
	}
}

// soakRun is one run.
type soakRun struct {
	*oracle
	server  *ownServer
	proxy   *faultProxy // between connector and server
	totals  *soakTotals
	names   []string // of failpoints that this run can meet
	unbound []*workTable
}

// soakRandom runs writers, changes of shape and faults for a while, and judges.
func soakRandom(t *testing.T, seed uint64, server *ownServer, totals *soakTotals) *oracle {
	s := &soakRun{oracle: newOracle(t, seed), server: server, totals: totals}
	s.command, s.crashes, s.proxy = []string{failpointBinary(t)}, true, startFaultProxy(t)
	s.changes = map[string]any{"address": s.proxy.address()}
	s.chunk = []int{1, 2, 7, 50}[s.rand.IntN(4)]
	s.readOnly, s.large = s.rand.IntN(2) == 0, s.rand.IntN(2) == 0
	for _, name := range failpointNames(t) {
		reach := failpointReaches[name]
		if !s.large && strings.HasPrefix(name, "within.") {
			continue
		}
		if reach.meets(phaseScanning, s.readOnly) || reach.meets(phaseStreaming, s.readOnly) {
			s.names = append(s.names, name)
		}
	}
	s.flavoured()
	s.witness()
	for _, table := range s.tables {
		table.altered = s.rand.IntN(3) == 0
		if table.check != checkChanges && s.rand.IntN(2) == 0 {
			s.without[table.table] = true
			s.unbound = append(s.unbound, table)
		}
	}
	stop := s.writers(4, 6*time.Millisecond)
	defer stop()
	ctx, cancel := context.WithCancel(t.Context())
	altered := make(chan error, 1)
	go func() { altered <- s.alter(ctx) }()
	stopAlter := func() error {
		cancel()
		err := <-altered
		altered <- nil
		return err
	}
	defer stopAlter() //nolint:errcheck
	s.start()
	s.waitChanges()
	s.runtime.kill()
	s.ended(false)
	weights := 0
	for _, f := range soakFaults {
		weights += f.weight
	}
	lasts := 20*time.Second + time.Duration(s.rand.Int64N(int64(25*time.Second)))
	for until := time.Now().Add(lasts); time.Now().Before(until); {
		n := s.rand.IntN(weights)
		for _, f := range soakFaults {
			if n -= f.weight; n < 0 {
				s.cut = 0
				f.run(s)
				s.totals.Faults[f.name]++
				break
			}
		}
		s.runtime.mu.Lock()
		s.runtime.logs = nil
		s.runtime.mu.Unlock()
	}
	clear(s.without)
	s.cut = 0
	s.runtime.bind(s.bindings())
	s.begin()
	if err := stopAlter(); err != nil {
		s.fatalf("a change of shape failed: %v", err)
	}
	stop()
	s.quiesce()
	s.judge()
	s.runtime.stop()
	s.ended(true)
	s.totals.Faults["kills at random moments"] += s.kills
	s.totals.Faults["kills behind an output, or within one"] += s.severed
	s.totals.Faults["stops"] += s.stops
	return s.oracle
}

// begin starts a session, which may be armed.
func (s *soakRun) begin(armed ...string) {
	s.t.Helper()
	if err := s.tryBegin(armed...); err != nil {
		s.fatalf("a session did not start: %v", err)
	}
}

func (s *soakRun) tryBegin(armed ...string) error {
	s.t.Helper()
	r := s.runtime
	if s.rand.IntN(6) == 0 {
		s.chunk = []int{1, 2, 7, 50}[s.rand.IntN(4)]
		r.driver.config = s.config()
		r.bind(s.bindings())
	}
	s.drawPeer()
	s.totals.Checked[fmt.Sprintf("sessions on %s with %s", r.driver.runtime, codecName(r.driver.codec))]++
	s.renew()
	s.mu.Lock()
	s.delayed = s.rand.IntN(2) == 0
	s.mu.Unlock()
	r.armed = nil
	if len(armed) > 0 {
		r.armed = []string{"SOURCE_POSTGRES_FAILPOINT=" + strings.Join(armed, ",")}
	}
	err := r.tryStart()
	r.armed = nil
	return err
}

// hit draws the hit of a failpoint at which something happens.
func (s *soakRun) hit(name string) int {
	if most := failpointReaches[name].most; most > 0 {
		return 1 + s.rand.IntN(most)
	}
	return 1 + s.rand.IntN(1<<s.rand.IntN(7))
}

// killAtFailpoint has the connector die at a failpoint, or at another moment when it does not come there soon.
func (s *soakRun) killAtFailpoint() {
	name := s.names[s.rand.IntN(len(s.names))]
	armed := fmt.Sprintf("%s:%d:kill", name, s.hit(name))
	if ahead := failpointReaches[name].ahead; ahead != "" {
		armed = ahead + "," + armed
		s.cut++
	}
	err := s.tryBegin(armed)
	if err == nil {
		s.sleep(4 * time.Second)
	}
	if strings.Contains(s.runtime.stderr(), "failpoint "+name+": kill") {
		s.totals.Points["kill "+name]++
		if err == nil {
			s.sleep(time.Minute)
		}
		s.checkSlot()
		return
	}
	if err != nil {
		s.fatalf("%s: a session did not start: %v", armed, err)
	}
	s.runtime.kill()
	s.kills++
	s.ended(false)
}

// cutAtFailpoint has the connector lose all its connections at a failpoint, which it survives, or ends of by itself.
func (s *soakRun) cutAtFailpoint() {
	s.cut++
	name := s.names[s.rand.IntN(len(s.names))]
	err := s.tryBegin(fmt.Sprintf("%s:%d:cut", name, s.hit(name)))
	if err != nil && !transientMessage(err.Error()) {
		s.fatalf("%s: a session did not start: %v", name, err)
	}
	if err == nil {
		s.sleep(time.Duration(2000+s.rand.IntN(2000)) * time.Millisecond)
		s.finish()
	}
	if strings.Contains(s.runtime.stderr(), "failpoint "+name+": cut") {
		s.totals.Points["cut "+name]++
	}
}

// finish ends a session in one of the ways there are.
func (s *soakRun) finish() {
	s.t.Helper()
	if s.rand.IntN(2) == 0 {
		s.runtime.kill()
		s.kills++
		s.ended(s.cut > 0)
		return
	}
	s.runtime.stop()
	s.stops++
	s.ended(true)
}

// pauseAtFailpoints has three steps take long.
func (s *soakRun) pauseAtFailpoints() {
	var armed []string
	for range 3 {
		name := s.names[s.rand.IntN(len(s.names))]
		armed = append(armed, fmt.Sprintf("%s:1:sleep=%dms", name, 1+s.rand.IntN(40)))
		s.totals.Points["pause "+name]++
	}
	s.begin(armed...)
	s.disturb()
}

func (s *soakRun) dieInMessage() {
	at := 1 + s.rand.Int64N(1<<(4+s.rand.IntN(18)))
	s.runtime.driver.wrap = func(r io.Reader) io.Reader { return &cutReader{r: r, left: at} }
	err := s.tryBegin()
	s.runtime.driver.wrap = nil
	if err != nil {
		if !errors.Is(err, errSevered) {
			s.fatalf("a session did not start: %v", err)
		}
		s.severed++
		return
	}
	s.sleep(4 * time.Second)
	if !s.hasEnded() {
		s.runtime.kill()
		s.kills++
	}
	s.ended(false)
}

func (s *soakRun) crashServer() {
	s.begin()
	s.sleep(time.Duration(s.rand.IntN(1500)) * time.Millisecond)
	s.cut++
	s.server.crash(s.db)
	s.confirmed = 0 // the slot is as of the last checkpoint of the server
	s.sleep(time.Duration(s.rand.IntN(4000)) * time.Millisecond)
	s.finish()
}

func (s *soakRun) slowSink() {
	s.slow.Store(int64(time.Millisecond) * (1 + s.rand.Int64N(20)))
	s.begin()
	s.sleep(4 * time.Second)
	s.runtime.kill()
	s.kills++
	s.ended(false)
	s.slow.Store(0)
}

// blockSink takes nothing for longer than wal_sender_timeout, which the connection survives.
func (s *soakRun) blockSink() {
	s.begin()
	s.sleep(time.Second)
	s.slow.Store(int64(7 * time.Second))
	s.sleep(6 * time.Second)
	active := s.db.queryValue(`SELECT active::text FROM pg_replication_slots WHERE slot_name = $1`, s.db.slot)
	if active != "true" && s.hasEnded() {
		s.slow.Store(0)
		s.ended(false)
		return
	}
	if active != "true" {
		s.fatalf("the sink was blocked for six seconds, and the slot is in use no more: %s", s.runtime.stderr())
	}
	s.slow.Store(0)
	s.sleep(2 * time.Second)
	s.finish()
}

// bindMore binds a table or two whose rows nothing has read, if some are left.
func (s *soakRun) bindMore() {
	for range min(len(s.unbound), 1+s.rand.IntN(2)) {
		delete(s.without, s.unbound[0].table)
		s.unbound = s.unbound[1:]
		s.totals.Checked["tables bound while others streamed"]++
	}
	s.runtime.bind(s.bindings())
	s.begin()
	s.disturb()
}

// alter changes the shapes of some tables: columns beside those that are judged come, go and change their type.
func (s *soakRun) alter(ctx context.Context) error {
	var tables []*workTable
	for _, t := range s.tables {
		if t.altered {
			tables = append(tables, t)
		}
	}
	random := rand.New(rand.NewPCG(s.seed, 5))
	background := context.WithoutCancel(ctx)
	conn, err := s.reconnect(background)
	if err != nil || len(tables) == 0 {
		return err
	}
	defer func() { conn.Close(background) }()
	columns := make(map[*workTable][]string)
	for n := 0; ctx.Err() == nil; n++ {
		t := tables[random.IntN(len(tables))]
		name, has := quoteTable(t.table), columns[t]
		column := fmt.Sprint("extra", n)
		var sql string
		change := func() {}
		switch kind := random.IntN(10); {
		case kind < 3 || len(has) == 0 && kind < 8:
			sql = fmt.Sprintf("ALTER TABLE %s ADD %s %s", name, column,
				[]string{"int", "int DEFAULT 7", "text DEFAULT md5(random()::text)", "numeric"}[random.IntN(4)])
			change = func() { columns[t] = append(has, column) }
		case kind < 5:
			sql = fmt.Sprintf("ALTER TABLE %s DROP %s", name, has[0])
			change = func() { columns[t] = has[1:] }
		case kind < 6:
			sql = fmt.Sprintf("ALTER TABLE %s RENAME %s TO %s", name, has[0], column)
			change = func() { columns[t] = append(slices.Clone(has[1:]), column) }
		case kind < 7:
			sql = fmt.Sprintf("ALTER TABLE %s ALTER %s TYPE text", name, has[0])
		case kind < 8:
			sql = fmt.Sprintf("UPDATE %s SET %s = NULL WHERE n %% 7 = 3", name, has[0])
			if t.insertOnly {
				sql = "ANALYZE " + name
			}
		case kind < 9 && t.after == "" && t.mode != modeKeyless:
			sql = "VACUUM FULL " + name
		default:
			sql = "VACUUM " + name
		}
		_, err := conn.Exec(background, "SET lock_timeout = '2s'")
		if err == nil {
			if _, err = conn.Exec(background, sql); err == nil {
				change()
				s.mu.Lock()
				s.shapes++
				s.mu.Unlock()
			}
		}
		switch {
		case err == nil || refused(err) || sqlState(err) == "55P03":
		case conn.IsClosed():
			if conn, err = s.reconnect(background); err != nil {
				return err
			}
			columns[t] = nil // the server may have forgotten the last change, or we its success
		default:
			return fmt.Errorf("%s: %w", sql, err)
		}
		select {
		case <-time.After(time.Duration(random.IntN(700)) * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// soakVersions lists the folders of servers at hand by major version; "" is the machine's own.
func soakVersions(t *testing.T) map[string]string {
	t.Helper()
	store := cmp.Or(os.Getenv("MATRIX_DIR"), filepath.Join(os.TempDir(), fmt.Sprintf("source-postgres-matrix-%d", os.Getuid())))
	found := make(map[string]string)
	folders, err := filepath.Glob(filepath.Join(store, "*", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		major, _, _ := strings.Cut(filepath.Base(filepath.Dir(folder)), ".")
		found[major] = folder
	}
	if len(found) == 0 {
		t.Logf("no servers in %s (make test-matrix gets them): the soak runs on this machine's own", store)
		found["own"] = ""
	}
	if *soakVersion != "" {
		maps.DeleteFunc(found, func(major, _ string) bool { return major != *soakVersion })
		if len(found) == 0 {
			t.Fatalf("no server of version %s is at hand", *soakVersion)
		}
	}
	return found
}

// TestSoak is `make soak`.
func TestSoak(t *testing.T) {
	if !*soakTests {
		t.Skip("takes an hour: make soak")
	}
	os.Setenv("TEST_DATABASE", "yes") // servers are its own
	versions := soakVersions(t)
	majors := slices.Sorted(maps.Keys(versions))
	once := *oracleSeed != 0
	totals := newSoakTotals()
	if once {
		totals.Next = *oracleSeed
	} else if text, err := os.ReadFile(soakStateFile); err == nil {
		var stored soakTotals
		if err := json.Unmarshal(text, &stored); err != nil {
			t.Fatalf("%s: %v: remove it to begin anew", soakStateFile, err)
		}
		if stored.Elapsed < *oracleDuration {
			if !strings.HasSuffix(stored.Commit, totals.Commit) {
				stored.Commit += ", then " + totals.Commit
			}
			totals = &stored
			t.Logf("going on with seed %d after %s", totals.Next, totals.Elapsed.Round(time.Second))
		}
	}
	for ran := false; totals.Elapsed < *oracleDuration && (!once || !ran); ran = true {
		began := time.Now()
		seed := totals.Next
		major := majors[seed%uint64(len(majors))]
		kind := "random faults"
		switch seed / 5 % 6 { // whichever versions are at hand, so that -soak-version repeats it
		case 2:
			kind = "random changes of schema"
		case 4:
			kind = "situations"
		case 5:
			kind = "bindings added, removed and backfilled again"
		}
		passed := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			if versions[major] != "" {
				t.Setenv("PGBIN", versions[major])
			}
			settings := []string{"wal_sender_timeout=5s", "logical_decoding_work_mem=64kB", "max_wal_size=64MB"}
			if seed%3 == 0 {
				settings = append(settings, "synchronous_commit=off")
			}
			server := startServer(t, settings...)
			var o *oracle
			switch kind {
			case "situations":
				const many = 20
				totals.Checked["situations"] += many
				totals.Faults["kills amid situations"] += soakSituations(t, seed, many)
				return
			case "random faults":
				o = soakRandom(t, seed, server, totals)
			case "random changes of schema":
				w := walkDDL(t, seed, 15)
				o = w.oracle
				totals.Checked["statements of schema changes"] += len(w.done)
				totals.Faults["kills or stops amid schema changes"] += 15
			default:
				o = oracleAgain(t, seed, 10)
				totals.Faults["kills at random moments"] += o.kills
				totals.Faults["kills behind an output, or within one"] += o.severed
				totals.Faults["stops"] += o.stops
			}
			totals.Checked["sessions ended by a failure of the server's decoding"] += o.unmapped
			totals.Checked["documents"] += len(o.runtime.documents())
			totals.Checked["checkpoints"] += o.runtime.checkpoints
			totals.Checked["rows compared"] += o.compared
			totals.Checked["changes of shape"] += o.shapes
			totals.Checked["transactions written"] += o.written
		})
		totals.Next++
		totals.Elapsed += time.Since(began)
		totals.Versions["PostgreSQL "+major]++
		totals.Kinds[kind]++
		if !passed {
			totals.Failures = append(totals.Failures, fmt.Sprintf("seed %d on PostgreSQL %s, %s: `go test -tags nozstd -count=1 "+
				"-timeout 0 -run TestSoak . -args -soak -seed %d -soak-version %s` (writers interleave as they like: it may take "+
				"several tries)", seed, major, kind, seed, major))
		}
		if once {
			t.Log(totals.report())
			return
		}
		totals.save(t)
	}
}

// save keeps the totals, and reports them.
func (s *soakTotals) save(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(soakStateFile), 0o755)
	}
	if err == nil {
		err = os.WriteFile(soakStateFile, text, 0o644)
	}
	if err == nil {
		err = os.WriteFile(soakReportFile, []byte(s.report()), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// report is the totals for a person.
func (s *soakTotals) report() string {
	var b strings.Builder
	runs := 0
	for _, n := range s.Versions {
		runs += n
	}
	fmt.Fprintf(&b, "# Soak report\n\nWritten by `make soak` (e2e_soak_test.go), which says what a run is.\n\n")
	fmt.Fprintf(&b, "| | |\n| --- | --- |\n| begun | %s |\n| commit | %s |\n| machine | %s/%s, %d processors |\n| ran for | %s |\n"+
		"| runs | %d, seeds %d to %d |\n| failed runs | %d |\n", s.Started.Format("2006-01-02 15:04 UTC"), s.Commit, runtime.GOOS,
		runtime.GOARCH, runtime.NumCPU(), s.Elapsed.Round(time.Second), runs, s.First, s.Next-1, len(s.Failures))
	section := func(title, column string, counts map[string]int) {
		fmt.Fprintf(&b, "\n## %s\n\n| %s | count |\n| --- | ---: |\n", title, column)
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "| %s | %d |\n", name, counts[name])
		}
	}
	section("Checked", "what", s.Checked)
	section("Runs", "kind", s.Kinds)
	section("Servers", "version", s.Versions)
	section("Faults", "kind", s.Faults)
	fmt.Fprintf(&b, "\n## Failpoints\n\n| name | kills | cuts | pauses |\n| --- | ---: | ---: | ---: |\n")
	names := make(map[string]bool)
	for point := range s.Points {
		_, name, _ := strings.Cut(point, " ")
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", name, s.Points["kill "+name], s.Points["cut "+name], s.Points["pause "+name])
	}
	fmt.Fprintf(&b, "\n## Failures\n\n")
	for _, failure := range s.Failures {
		fmt.Fprintf(&b, "- %s\n", failure)
	}
	if len(s.Failures) == 0 {
		fmt.Fprintf(&b, "None.\n")
	}
	return b.String()
}
