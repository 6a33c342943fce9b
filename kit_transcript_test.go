package main

// kit_transcript_test.go owns transcripts: SQL in, everything a capture says out, compared with a golden file each.
//
// Goal: every message of a session, in its order, is what spec/incumbent.md and spec/decisions.md promise. Method: a
// scenario runs SQL in a schema of its own and captures it through the stand-in runtime, in sessions that end by themselves
// (SHUTDOWN_AFTER_POLLING), at a chosen checkpoint, or on demand; the state is carried from one to the next. What differs
// from run to run is replaced: LSNs by their rank (#4+1 is one more than #4, not a later place in the WAL), transaction
// ids, OIDs and file nodes by their first appearance, commit times by T. The scenarios are in live_transcripts_test.go.
//
// Beside the comparison, of every session: documents satisfy their collection's write schema, every object of a sourced
// schema is closed, a checkpoint never divides a transaction, and its cursor is never behind a document before it.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/santhosh-tekuri/jsonschema/v6"

	pf "github.com/estuary/flow/go/protocols/flow"
)

// transcript is one scenario under way.
type transcript struct {
	*testDB
	schema   string         // holds the scenario's tables, and is the control session's search path
	root     map[string]any // of the endpoint config, beside what testDB.config sets
	advanced map[string]any
	codec    codec
	runtime  runtimeVersion
	full     bool // sourced schemas and states of the tables are written out in full
	drifting bool // cursors depend on time: they follow what others do to the server
	lax      bool // documents need not satisfy the write schema: the scenario retypes columns

	driver  *runtimeDriver
	capture *pf.CaptureSpec
	applied *pf.CaptureSpec
	state   json.RawMessage
	schemas []*jsonschema.Schema // of the bindings' documents
	text    strings.Builder      // with marks where values are to be replaced

	session   *session
	ended     chan error
	streaming bool // the session runs until stop
	markers   int

	mu          sync.Mutex // what follows is shared with the goroutine that reads the session
	cond        *sync.Cond
	events      []string
	since       int               // index in events behind the last checkpoint
	enough      int               // checkpoints after which the session is killed; 0: never
	checkpoints int               // of the session
	cursor      lsn               // of the last checkpoint
	streamed    int64             // loc[2] of the last document of the stream
	divided     int64             // the same, as of the last checkpoint
	marked      int               // the last marker received
	durable     int               // the last marker behind which a checkpoint came
	modes       map[string]string // of the bindings' states
	logs        []connectorLog
	over        bool
}

// bound is a binding of a scenario. What is empty is as discovered.
type bound struct {
	table      string
	mode       string
	key        []string // collection key
	primaryKey []string
	priority   int
	filter     string // advanced.additional_backfill_filter
	backfill   uint32
	noTxID     bool // the collection has no projection of it
}

// markerTable is bound as the last binding of sessions that stream, so that the scenario knows when its changes are
// through. Nothing of it shows.
const markerTable = "marker"

var errEnough = errors.New("killed at a checkpoint")

func newTranscript(t *testing.T) *transcript {
	t.Helper()
	db := newTestDB(t)
	tr := &transcript{
		testDB: db, schema: db.createSchema("s"), root: map[string]any{},
		advanced: map[string]any{"backfill_chunk_size": 2}, state: json.RawMessage("{}"),
	}
	tr.cond = sync.NewCond(&tr.mu)
	schema := quoteIdent(tr.schema)
	db.exec("SET search_path = " + schema + ", public")
	db.exec("ALTER DEFAULT PRIVILEGES IN SCHEMA " + schema + " GRANT SELECT ON TABLES TO " + quoteIdent(*testCaptureUser))
	t.Cleanup(func() {
		if tr.session != nil {
			tr.session.kill()
		}
		if t.Failed() {
			for _, log := range tr.logs {
				t.Logf("connector: %s %s%s", log.level, log.message, log.fields)
			}
		}
	})
	return tr
}

// sql runs statements divided by semicolons; several in one call without BEGIN are one transaction.
func (tr *transcript) sql(text string) {
	tr.Helper()
	tr.note("== SQL\n" + trimIndent(text))
	tr.script(text)
}

// table creates a table and adds it to the publication. Rows, if any, are what follows VALUES.
func (tr *transcript) table(name, definition string, rows ...string) {
	tr.Helper()
	tr.sql("CREATE TABLE " + name + " " + definition)
	tr.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(tr.publication), name))
	if len(rows) > 0 {
		tr.sql("INSERT INTO " + name + " VALUES " + strings.Join(rows, ", "))
	}
}

// trimIndent takes the indentation of Go code off a script.
func trimIndent(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

func (tr *transcript) note(line string) { tr.text.WriteString(line + "\n") }

// config is the endpoint config of the sessions to come.
func (tr *transcript) config() json.RawMessage {
	var config map[string]any
	if err := json.Unmarshal(tr.testDB.config(), &config); err != nil {
		tr.Fatal(err)
	}
	maps.Copy(config, tr.root)
	maps.Copy(config["advanced"].(map[string]any), tr.advanced)
	raw, err := json.Marshal(config)
	if err != nil {
		tr.Fatal(err)
	}
	return raw
}

// set changes an advanced property, or with a nil value takes it back.
func (tr *transcript) set(property string, value any) {
	tr.note(fmt.Sprintf("== advanced.%s = %v", property, value))
	tr.advanced[property] = value
	if value == nil {
		delete(tr.advanced, property)
	}
	if tr.capture != nil {
		tr.capture.ConfigJson = tr.config()
	}
}

// bind discovers and validates; the scenario fails if that does.
func (tr *transcript) bind(bindings ...bound) {
	tr.Helper()
	if err := tr.tryBind(bindings...); err != nil {
		tr.Fatal(err)
	}
}

// bindError is bind where validation must fail; its message becomes part of the transcript.
func (tr *transcript) bindError(bindings ...bound) {
	tr.Helper()
	err := tr.tryBind(bindings...)
	if err == nil {
		tr.Fatal("validation passed")
	}
	tr.note("error: " + err.Error())
}

func (tr *transcript) tryBind(bindings ...bound) error {
	tr.driver = &runtimeDriver{
		env: []string{testMainVariable + "=connector"}, codec: tr.codec, runtime: tr.runtime, task: "test/capture", config: tr.config(),
	}
	if len(bindings) == 0 { // nothing to discover: the task has no bindings any more
		tr.note("== bind nothing")
		var err error
		tr.capture, err = tr.driver.validate(tr.ctx, nil, tr.capture)
		return err
	}
	discovered, err := tr.driver.discover(tr.ctx)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	found, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		return err
	}
	if tr.streaming && bindings[len(bindings)-1].table != markerTable {
		bindings = append(bindings, bound{table: markerTable, mode: "Only Changes"})
	}
	var wanted []runtimeBinding
	for _, b := range bindings {
		i := slices.IndexFunc(found, func(f runtimeBinding) bool {
			name, _, err := tableOfResource(f.resource)
			return err == nil && name == (tableName{tr.schema, b.table})
		})
		if i < 0 {
			return fmt.Errorf("%s was not discovered", b.table)
		}
		wanted = append(wanted, tr.resourceOf(b, found[i]))
	}
	capture, err := tr.driver.validate(tr.ctx, wanted, tr.capture)
	if err != nil {
		return err
	}
	for i, b := range bindings {
		if c := &capture.Bindings[i].Collection; b.noTxID {
			c.Projections = slices.DeleteFunc(c.Projections, func(p pf.Projection) bool {
				return p.Ptr == "/_meta/source/txid"
			})
		}
	}
	if tr.state, err = tr.driver.apply(tr.ctx, capture, tr.applied, tr.state); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	tr.capture, tr.applied = capture, capture
	tr.schemas = nil
	for i := range capture.Bindings {
		schema, err := compileSchema(capture.Bindings[i].Collection.WriteSchemaJson)
		if err != nil {
			return fmt.Errorf("write schema of %s: %w", bindings[i].table, err)
		}
		tr.schemas = append(tr.schemas, schema)
	}
	return nil
}

// resourceOf makes a discovered binding what the scenario wants of it, and notes it.
func (tr *transcript) resourceOf(b bound, found runtimeBinding) runtimeBinding {
	resource := map[string]any{}
	if err := json.Unmarshal(found.resource, &resource); err != nil {
		tr.Fatal(err)
	}
	if b.mode != "" {
		resource["mode"] = b.mode
	}
	if b.priority != 0 {
		resource["priority"] = b.priority
	}
	if b.primaryKey != nil {
		resource["primary_key"] = b.primaryKey
	}
	if b.filter != "" {
		resource["advanced"] = map[string]any{"additional_backfill_filter": b.filter}
	}
	raw, err := json.Marshal(resource)
	if err != nil {
		tr.Fatal(err)
	}
	found.resource, found.backfill = raw, b.backfill
	if b.key != nil {
		found.key = b.key
	}
	if b.table != markerTable {
		tr.note(fmt.Sprintf("== bind %s key=%s backfill=%d", raw, strings.Join(found.key, ","), b.backfill))
	}
	return found
}

// poll runs a session that ends when it is caught up.
func (tr *transcript) poll() {
	tr.Helper()
	tr.note("== capture until polled")
	if err := tr.run(0); err != nil {
		tr.note("error: " + err.Error())
	}
}

// pollFor runs a session that is killed behind its nth checkpoint.
func (tr *transcript) pollFor(checkpoints int) {
	tr.Helper()
	tr.note(fmt.Sprintf("== capture for %d checkpoints", checkpoints))
	if err := tr.run(checkpoints); !errors.Is(err, errEnough) {
		tr.Fatalf("want to kill it at checkpoint %d, but the session ended: %v", checkpoints, err)
	}
	// Whether its next watermark was written is chance, and shows in loc[0] of what is streamed next: now one is.
	tr.exec(fmt.Sprintf("UPDATE %s SET watermark = 'killed'", quoteTable(tr.watermarks)))
}

func (tr *transcript) run(enough int) error {
	tr.Helper()
	if err := tr.open(enough, "SHUTDOWN_AFTER_POLLING=yes"); err != nil {
		return err
	}
	select {
	case err := <-tr.ended:
		tr.close()
		return err
	case <-time.After(waitLimit):
		tr.Fatal("the session does not end")
		return nil
	}
}

// open starts a session from the carried state.
func (tr *transcript) open(enough int, env ...string) error {
	tr.driver.env = append([]string{testMainVariable + "=connector"}, env...)
	tr.driver.config = tr.config()
	tr.driver.onLog = func(log connectorLog) {
		tr.mu.Lock()
		tr.logs = append(tr.logs, log)
		tr.mu.Unlock()
	}
	tr.mu.Lock()
	tr.enough, tr.checkpoints, tr.over, tr.cursor, tr.streamed, tr.divided = enough, 0, false, 0, 0, 0
	tr.modes = modesOf(tr.state)
	tr.mu.Unlock()
	logged := len(tr.logs)
	s, err := tr.driver.open(context.Background(), tr.capture, tr.state, (*transcriptSink)(tr))
	if err != nil {
		tr.noteLogs(tr.logs[logged:])
		return err
	}
	tr.session, tr.ended = s, make(chan error, 1)
	ended := tr.ended
	go func() {
		err := s.run()
		tr.mu.Lock()
		tr.over = true
		tr.cond.Broadcast()
		tr.mu.Unlock()
		ended <- err
	}()
	return nil
}

// close takes over what the ended session leaves.
func (tr *transcript) close() {
	state, err := json.Marshal(tr.session.state)
	if err != nil {
		tr.Fatal(err)
	}
	tr.state, tr.session = state, nil
	tr.flush()
	tr.noteLogs(tr.logs)
	tr.logs = nil
}

// flush moves the events so far into the transcript.
func (tr *transcript) flush() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for i, e := range tr.events {
		if i >= tr.since && !tr.streaming {
			e = "not committed: " + e
		}
		tr.note(e)
	}
	tr.events, tr.since = nil, 0
}

// routine are the beginnings of statuses that every session has, or that depend on time.
var routine = []string{
	"Initializing connector", "Validating capture configuration", "Applying capture configuration", "Starting capture",
	"Connecting to database", "Verifying capture requirements", "Capture started", "Catching up on CDC history",
	"Backfilling Tables", "Streaming CDC Events", "Backfill of ",
}

// waiting matches the statuses that are said only where something takes long: a busy machine shows them, an idle one does not.
var waiting = regexp.MustCompile(`^([Ww]aiting (for|to) |Reconnecting in |The (server|replication connection) has (been silent|sent nothing) )|` +
	` waits? for `)

func (tr *transcript) noteLogs(logs []connectorLog) {
	for _, log := range logs {
		if log.status && !waiting.MatchString(log.message) && (tr.full || !slices.ContainsFunc(routine, func(r string) bool {
			return strings.HasPrefix(log.message, r)
		})) {
			tr.note("status: " + log.message)
		}
		if strings.HasPrefix(log.message, "the connection to the server is not encrypted") {
			continue // whether it is depends on the test server
		}
		if log.level == "warning" || log.level == "" {
			tr.note("warning: " + log.message)
		}
	}
}

// stream starts a session that runs until stop. REQUIRES: streaming was set before bind.
func (tr *transcript) stream() {
	tr.Helper()
	tr.note("== stream")
	if err := tr.open(0); err != nil {
		tr.Fatal(err)
	}
	tr.settled()
}

// step runs statements and waits until what follows of them is committed.
func (tr *transcript) step(text string) {
	tr.Helper()
	tr.sql(text)
	tr.settled()
}

// stepBack is step for what puts a parked table right. The looks at parked tables are limited in time (capture_refresh.go): on a busy
// machine it comes back some seconds later, with the same to say.
func (tr *transcript) stepBack(table, text string) {
	tr.Helper()
	tr.sql(text)
	key := tr.capture.Bindings[slices.IndexFunc(tr.capture.Bindings, func(b *pf.CaptureSpec_Binding) bool {
		return b.ResourcePath[1] == table
	})].StateKey
	tr.waitFor("the return of "+table, func() bool { return tr.modes[key] == "Active" })
	tr.settled()
}

// settled waits until all that was committed before is captured and no backfill is under way.
func (tr *transcript) settled() {
	tr.Helper()
	tr.waitFor("no backfill", func() bool { return !tr.backfilling() })
	for range 2 { // what the first has shown to be needed, the second finds done
		tr.markers++
		marker := tr.markers
		tr.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d)", markerTable, marker))
		tr.waitFor("the marker", func() bool { return tr.durable >= marker && !tr.backfilling() })
	}
	tr.flush()
}

// backfilling reports whether a binding's state is not final. REQUIRES: tr.mu is held.
func (tr *transcript) backfilling() bool {
	for _, b := range tr.capture.Bindings {
		switch tr.modes[b.StateKey] {
		case "Active", "Missing":
		default:
			return true
		}
	}
	return false
}

func (tr *transcript) waitFor(what string, holds func() bool) {
	tr.Helper()
	timer := time.AfterFunc(waitLimit, func() { tr.cond.Broadcast() })
	defer timer.Stop()
	deadline := time.Now().Add(waitLimit)
	tr.mu.Lock()
	for !holds() && !tr.over && time.Now().Before(deadline) {
		tr.cond.Wait()
	}
	ok, over := holds(), tr.over
	tr.mu.Unlock()
	switch {
	case ok:
	case over:
		tr.Fatalf("waited for %s, but the session ended: %v", what, <-tr.ended)
	default:
		tr.Fatalf("waited %s for %s; modes %v; so far:\n%s", waitLimit, what, tr.modes, strings.Join(tr.events, "\n"))
	}
}

// stop ends a streaming session, which must exit with status 0.
func (tr *transcript) stop() {
	tr.Helper()
	tr.note("== stop")
	tr.session.stop()
	if err := <-tr.ended; err != nil {
		tr.Fatal(err)
	}
	tr.close()
}

// show adds a query's rows to the transcript.
func (tr *transcript) show(sql string) {
	tr.Helper()
	tr.note("== " + sql)
	for _, row := range tr.query(sql) {
		tr.note(strings.Join(row, " | "))
	}
}

// stored replaces what is stored, as if another image had written it. The text may use {cursor} for where the server is.
func (tr *transcript) stored(state string) {
	tr.Helper()
	tr.note("== state " + state)
	if strings.Contains(state, "{cursor}") {
		tr.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", tr.slot)
		state = strings.ReplaceAll(state, "{cursor}",
			tr.queryValue("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1", tr.slot))
	}
	tr.state = json.RawMessage(strings.ReplaceAll(state, "s%2F", tr.schema+"%2F"))
}

// golden compares the transcript with its file.
func (tr *transcript) golden(name string) {
	tr.Helper()
	if tr.version() < 150000 {
		tr.Skip("the golden files are of version 15 and newer: older ones stream empty transactions, which show in loc[0]")
	}
	text := strings.ReplaceAll(tr.text.String(), strings.ToUpper("_"+tr.suffix), "")
	compareGolden(tr, "transcripts/"+name+".txt", tr.sanitize(unmark(text)))
}

// transcriptSink takes what the session says.
type transcriptSink transcript

var locPattern = regexp.MustCompile(`"loc":\[(-?\d+),(\d+),(\d+)\]`)

func (s *transcriptSink) document(binding int, doc []byte) error {
	table := s.capture.Bindings[binding].ResourcePath[1]
	s.mu.Lock()
	defer s.mu.Unlock()
	loc := locPattern.FindSubmatch(doc)
	if loc == nil {
		return fmt.Errorf("a document without loc: %s", doc)
	}
	commit, err := strconv.ParseInt(string(loc[3]), 10, 64)
	if err != nil {
		return err
	}
	if commit != 0 {
		if commit == s.divided {
			return fmt.Errorf("a checkpoint divided the transaction of %s", doc)
		}
		s.streamed = commit
	}
	if table == markerTable {
		var marker struct {
			ID int `json:"id"`
		}
		if err := json.Unmarshal(doc, &marker); err != nil {
			return err
		}
		s.marked = marker.ID
		return nil
	}
	if !s.lax {
		if err := validateDocument(s.schemas[binding], doc); err != nil {
			return fmt.Errorf("%s\ndoes not satisfy the write schema: %w", doc, err)
		}
	}
	s.events = append(s.events, "doc "+table+" "+markDocument(string(doc)))
	return nil
}

func (s *transcriptSink) sourcedSchema(binding int, schema json.RawMessage) error {
	table := s.capture.Bindings[binding].ResourcePath[1]
	if err := checkClosed(schema); err != nil {
		return fmt.Errorf("sourced schema of %s: %w: %s", table, err, schema)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if table == markerTable {
		return nil
	}
	text, err := describeSchema(schema)
	if s.full {
		text = string(schema)
	}
	s.events = append(s.events, "schema "+table+" "+text)
	return err
}

func (s *transcriptSink) checkpoint(patch *pf.ConnectorState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !patch.MergePatch {
		return errors.New("a checkpoint that is no merge patch")
	}
	var p struct {
		Cursor   *string                    `json:"cursor"`
		Bindings map[string]json.RawMessage `json:"bindingStateV1"`
	}
	d := json.NewDecoder(bytes.NewReader(patch.UpdatedJson))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return fmt.Errorf("checkpoint %s: %w", patch.UpdatedJson, err)
	}
	maps.Copy(s.modes, modesOf(patch.UpdatedJson))
	line := `{"cursor":null`
	if p.Cursor != nil {
		at, err := pglogrepl.ParseLSN(*p.Cursor)
		if err != nil {
			return err
		}
		if at < s.cursor || int64(at) <= s.streamed {
			return fmt.Errorf("cursor %s is behind the checkpoint before (%s) or a document before it (%x)", at, s.cursor, s.streamed)
		}
		s.cursor = at
		line = `{"cursor":"` + mark("end", strconv.FormatUint(uint64(at), 10)) + `"`
	}
	s.divided = s.streamed
	delete(p.Bindings, s.schema+"%2F"+markerTable)
	if s.streaming { // whether a checkpoint comes between a binding's start and its first chunk depends on time
		maps.DeleteFunc(p.Bindings, func(_ string, b json.RawMessage) bool {
			return bytes.Contains(b, []byte(`Backfill"`)) && bytes.HasSuffix(b, []byte(`"backfilled":0}`))
		})
	}
	if len(p.Bindings) > 0 {
		bindings, err := json.Marshal(p.Bindings)
		if err != nil {
			return err
		}
		line += `,"bindingStateV1":` + markState(string(bindings))
	}
	s.checkpoints++
	if s.streaming || s.drifting {
		line = cursorPattern.ReplaceAllString(line, `{"cursor":"…"`)
	}
	if !s.streaming {
		s.events = append(s.events, "checkpoint "+line+"}")
	} else if len(p.Bindings) > 0 { // how transactions are batched, and so the other checkpoints, depends on time
		s.events = append(s.events, "checkpoint "+line+"}")
	}
	s.since = len(s.events)
	s.durable = s.marked
	s.cond.Broadcast()
	if s.checkpoints == s.enough {
		return errEnough
	}
	return nil
}

func (s *transcriptSink) marker(int, string) error { return nil }

func (s *transcriptSink) commit(c commitment) func() (int, error) {
	return func() (int, error) { return c.checkpoints, nil }
}

// modesOf lists the modes that a state or a patch has, by state key.
func modesOf(state json.RawMessage) map[string]string {
	var parsed struct {
		Bindings map[string]struct {
			Mode string `json:"mode"`
		} `json:"bindingStateV1"`
	}
	modes := make(map[string]string)
	if json.Unmarshal(state, &parsed) == nil {
		for key, b := range parsed.Bindings {
			modes[key] = b.Mode
		}
	}
	return modes
}

// What is replaced in a transcript is marked where it is written, and replaced once all of it is known.
const (
	markStart = "\x01"
	markEnd   = "\x02"
)

func mark(kind, value string) string { return markStart + kind + ":" + value + markEnd }

var (
	markPattern   = regexp.MustCompile(markStart + "([a-z]+):([^" + markEnd + "]*)" + markEnd)
	anchorPattern = regexp.MustCompile(`"\$anchor":"((?:[^"\\]|\\.)*)"`)
	cursorPattern = regexp.MustCompile(`\{"cursor":"[^"]*"`)
	timePattern   = regexp.MustCompile(`"ts_ms":\d+`)
	xidPattern    = regexp.MustCompile(`"txid":(\d+)`)
	oidPattern    = regexp.MustCompile(`"(oid|filenode)":([1-9]\d*)`)
	lsnPattern    = regexp.MustCompile(`\b[0-9A-F]{1,8}/[0-9A-F]{6,8}\b`)
)

func markDocument(doc string) string {
	doc = locPattern.ReplaceAllStringFunc(doc, func(loc string) string {
		m := locPattern.FindStringSubmatch(loc)
		if m[1] == "-1" {
			return loc
		}
		return `"loc":[` + mark("end", m[1]) + "," + mark("lsn", m[2]) + "," + mark("lsn", m[3]) + "]"
	})
	doc = timePattern.ReplaceAllString(doc, `"ts_ms":T`)
	return xidPattern.ReplaceAllString(doc, `"txid":`+mark("xid", "$1"))
}

// markState also leaves out of metadata, which is ours, what tells nothing of the scan.
func markState(state string) string {
	const name = `"metadata":`
	var text strings.Builder
	for {
		before, after, found := strings.Cut(state, name)
		text.WriteString(before)
		if !found {
			break
		}
		var metadata json.RawMessage
		d := json.NewDecoder(strings.NewReader(after))
		if err := d.Decode(&metadata); err != nil {
			panic(err)
		}
		state = after[d.InputOffset():]
		var ours struct {
			OID    uint32          `json:"oid"`
			First  bool            `json:"first"`
			Leaves json.RawMessage `json:"leaves"`
		}
		if err := json.Unmarshal(metadata, &ours); err != nil {
			panic(err)
		}
		if string(metadata) != "null" {
			metadata, _ = json.Marshal(ours)
		}
		text.WriteString(name + string(metadata))
	}
	return oidPattern.ReplaceAllString(text.String(), `"$1":`+mark("$1", "$2"))
}

// unmark replaces what is marked. The end of one record may be the start of the next or not, as chance has it: an end
// ranks before a start, never equal.
func unmark(text string) string {
	var positions []uint64 // twice the LSN, and one more for a start
	for _, m := range markPattern.FindAllStringSubmatch(text, -1) {
		if at, ok := position(m); ok {
			positions = append(positions, at)
		}
	}
	slices.Sort(positions)
	positions = slices.Compact(positions)
	names := make(map[uint64]string)
	rank, above := -1, 0
	for i, at := range positions {
		if i > 0 && at == positions[i-1]+2 { // records begin at multiples of eight: this one is made up
			above++
			names[at] = fmt.Sprintf("#%d+%d", rank, above)
		} else {
			rank, above = rank+1, 0
			names[at] = fmt.Sprintf("#%d", rank)
		}
	}
	others, count := make(map[string]string), make(map[string]int)
	text = markPattern.ReplaceAllStringFunc(text, func(marked string) string {
		m := markPattern.FindStringSubmatch(marked)
		if at, ok := position(m); ok {
			return names[at]
		}
		if _, ok := others[marked]; !ok {
			count[m[1]]++
			others[marked] = fmt.Sprintf("%s%d", m[1], count[m[1]])
		}
		return others[marked]
	})
	return lsnPattern.ReplaceAllString(text, "X/X")
}

// position returns what the match of a marked LSN sorts by.
func position(m []string) (uint64, bool) {
	if m[1] != "lsn" && m[1] != "end" {
		return 0, false
	}
	at, err := strconv.ParseUint(m[2], 10, 64)
	if err != nil {
		panic(err)
	}
	if m[1] == "end" {
		return 2 * at, true
	}
	return 2*at + 1, true
}

// compileSchema compiles a schema as the runtime would, for which an anchor need be no XML name.
func compileSchema(raw json.RawMessage) (*jsonschema.Schema, error) {
	if m := anchorPattern.FindSubmatch(raw); m != nil {
		raw = bytes.ReplaceAll(raw, append([]byte(`"#`), m[1]...), []byte(`"#Table`))
		raw = bytes.Replace(raw, m[0], []byte(`"$anchor":"Table"`), 1)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.AssertContent()
	c.RegisterFormat(&jsonschema.Format{Name: "number", Validate: func(v any) error { // Flow's: a string that is a number
		if text, ok := v.(string); ok && text != "NaN" && text != "Infinity" && text != "-Infinity" {
			if _, err := strconv.ParseFloat(text, 64); !errors.Is(err, strconv.ErrRange) {
				return err
			}
		}
		return nil
	}})
	if err := c.AddResource("urn:schema", schema); err != nil {
		return nil, err
	}
	return c.Compile("urn:schema")
}

func validateDocument(schema *jsonschema.Schema, doc []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}

// checkClosed checks that a schema compiles and that every object it describes allows no property it does not name: the
// runtime would otherwise widen the collection's inferred schema by nothing.
func checkClosed(raw json.RawMessage) error {
	if _, err := compileSchema(raw); err != nil {
		return err
	}
	var root map[string]any
	if err := json.Unmarshal(raw, &root); err != nil {
		return err
	}
	var walk func(node map[string]any, path string, closed bool) error
	walk = func(node map[string]any, path string, closed bool) error {
		closed = closed || node["additionalProperties"] == false || node["unevaluatedProperties"] == false
		properties, _ := node["properties"].(map[string]any)
		if properties != nil && !closed {
			return fmt.Errorf("the object at %q is open", path)
		}
		for name, property := range properties {
			if err := walk(property.(map[string]any), path+"/"+name, false); err != nil {
				return err
			}
		}
		if items, ok := node["items"].(map[string]any); ok {
			if err := walk(items, path+"/*", false); err != nil {
				return err
			}
		}
		parts, _ := node["allOf"].([]any)
		if ref, ok := node["$ref"].(string); ok {
			for _, def := range root["$defs"].(map[string]any) {
				if "#"+def.(map[string]any)["$anchor"].(string) == ref {
					parts = append(parts, def)
				}
			}
		}
		for _, part := range parts {
			if err := walk(part.(map[string]any), path, closed); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(root, "", false)
}

// describeSchema is what a sourced schema says of the table's columns.
func describeSchema(raw json.RawMessage) (string, error) {
	var root struct {
		Defs map[string]struct {
			Properties map[string]map[string]any `json:"properties"`
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &root); err != nil {
		return "", err
	}
	var text []byte
	for _, def := range root.Defs {
		for _, property := range def.Properties {
			delete(property, "description")
		}
		columns, err := json.Marshal(def.Properties)
		if err != nil {
			return "", err
		}
		text = append(text, columns...)
	}
	return string(text), nil
}
