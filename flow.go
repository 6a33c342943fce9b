// flow.go owns the five requests: Spec, Discover, Validate, Apply and Open. One process answers any number of the
// first four in turn; Open turns into a capture that ends the process.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/jackc/pgx/v5"
	"github.com/sirupsen/logrus"
)

// protocolVersion is the capture protocol's number, which the runtime checks.
const protocolVersion = 3032023

// connector serves one process' requests.
type connector struct {
	requests *requestReader
	out      *output
	stop     context.CancelCauseFunc // of the context that serve runs under
	idle     atomic.Bool             // waiting for a request; loaded by main
	docsURL  string
	polling  bool // SHUTDOWN_AFTER_POLLING=yes
}

// serve answers requests until input ends or a capture does. A nil error means exit status 0.
func (k *connector) serve(ctx context.Context) error {
	for {
		k.idle.Store(true)
		r, err := k.requests.next()
		k.idle.Store(false)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var response *pc.Response
		switch {
		case r.Spec != nil:
			response = k.spec()
		case r.Discover != nil:
			response, err = k.discover(ctx, r.Discover)
		case r.Validate != nil:
			response, err = k.validate(ctx, r.Validate)
		case r.Apply != nil:
			response, err = k.apply(ctx, r.Apply)
		case r.Open != nil:
			return k.open(ctx, r.Open)
		default:
			return errors.New("the runtime sent an acknowledgement before a capture was opened")
		}
		if err != nil {
			return err
		}
		if err := k.out.respond(response); err != nil {
			return err
		}
	}
}

func (k *connector) spec() *pc.Response {
	return &pc.Response{Spec: &pc.Response_Spec{
		Protocol:                 protocolVersion,
		ConfigSchemaJson:         configSchema(),
		ResourceConfigSchemaJson: resourceSchema(),
		DocumentationUrl:         k.docsURL,
		ResourcePathPointers:     []string{"/namespace", "/stream"},
	}}
}

// discover lists what could be captured.
func (k *connector) discover(ctx context.Context, r *pc.Request_Discover) (response *pc.Response, err error) {
	logStatus("Initializing connector", nil)
	s, err := parseConfig(r.ConfigJson)
	if err != nil {
		return nil, err
	}
	defer func() { err = advise(err, s) }()
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return nil, err
	}
	defer db.close()
	types := db.newTypeCatalog()
	var tables []*table
	var leftOut map[string][]tableName
	var schemas []string
	err = db.with(ctx, func(conn *pgx.Conn) (err error) {
		if schemas, err = listSchemas(ctx, conn); err != nil {
			return err
		}
		if tables, leftOut, err = listTables(ctx, conn, s); err != nil {
			return err
		}
		return loadTypes(ctx, conn, types, typesOf(tables, types))
	})
	if err != nil {
		return nil, fmt.Errorf("discover tables: %w", err)
	}
	logLeftOut(leftOut)
	warnOfTables(tables)
	collections, err := proposeCollections(tables, types, s)
	if err != nil {
		return nil, err
	}
	discovered := &pc.Response_Discovered{}
	for i, c := range collections {
		resource := map[string]string{"namespace": tables[i].schema, "stream": tables[i].name}
		if c.mode != "" {
			resource["mode"] = c.mode
		}
		raw, err := json.Marshal(resource)
		if err != nil {
			return nil, err
		}
		discovered.Bindings = append(discovered.Bindings, &pc.Response_Discovered_Binding{
			RecommendedName: c.name, ResourceConfigJson: raw, DocumentSchemaJson: c.schema, Key: c.key,
			IsFallbackKey: c.fallbackKey,
		})
	}
	if size := (&pc.Response{Discovered: discovered}).ProtoSize(); size > maxDocument {
		return nil, &userError{msg: fmt.Sprintf("the schemas of %d tables take %d MiB, more than one answer may hold: narrow the "+
			"discovery with discoveryFilters (include_schemas, exclude_schemas, table_patterns)", len(tables), size>>20)}
	}
	idle := idleFilters(s, schemas, tables, leftOut)
	for _, warning := range idle {
		logrus.Warn(warning)
	}
	if len(tables) == 0 && len(idle) == 0 {
		logrus.Warn("no tables were discovered: grant the capture user access to them and add them to the publication, or " +
			"set advanced.discover_unpublished_tables")
	}
	return &pc.Response{Discovered: discovered}, nil
}

// mostLeftOut bounds the names that the summary of what is left out has for one reason.
const mostLeftOut = 10

func logLeftOut(leftOut map[string][]tableName) {
	var parts []string
	for reason, names := range leftOut {
		if reason == leftOutWatermarks {
			continue // as it should be
		}
		var list []string
		for _, name := range names[:min(len(names), mostLeftOut)] {
			list = append(list, name.show())
		}
		if more := len(names) - len(list); more > 0 {
			list = append(list, fmt.Sprintf("and %d more", more))
		}
		parts = append(parts, fmt.Sprintf("%d %s (%s)", len(names), reason, strings.Join(list, ", ")))
	}
	if len(parts) > 0 {
		slices.Sort(parts)
		logrus.Info("left out of discovery: " + strings.Join(parts, "; "))
	}
}

// warnOfTables tells what of the discovered tables is not captured with them.
func warnOfTables(tables []*table) {
	none := func(tableName) bool { return false }
	told := 0
	for _, t := range tables {
		for _, warning := range [...]string{t.columnsWarning(), t.childrenWarning(none)} {
			if warning == "" {
				continue
			}
			if told++; told <= mostLeftOut {
				logrus.Warn(warning)
			}
		}
	}
	if more := told - mostLeftOut; more > 0 {
		logrus.Warnf("and %d more tables of which columns are left out, or from which others inherit", more)
	}
}

// typesOf lists the types of all columns that the catalog does not know.
func typesOf(tables []*table, types *typeCatalog) []uint32 {
	var oids []uint32
	for _, t := range tables {
		for i := range t.columns {
			if types.lookup(t.columns[i].typeOID) == nil && !slices.Contains(oids, t.columns[i].typeOID) {
				oids = append(oids, t.columns[i].typeOID)
			}
		}
	}
	return oids
}

// tableCatalog is what a capture needs to know of its tables before it starts.
type tableCatalog struct {
	tables map[tableName]*table
	types  *typeCatalog
}

func readCatalog(ctx context.Context, db *database, names []tableName) (*tableCatalog, error) {
	read := &tableCatalog{types: db.newTypeCatalog()}
	err := db.with(ctx, func(conn *pgx.Conn) (err error) {
		if read.tables, err = loadTables(ctx, conn, db.settings, names); err != nil {
			return err
		}
		tables := make([]*table, 0, len(read.tables))
		for _, t := range read.tables {
			tables = append(tables, t)
		}
		return loadTypes(ctx, conn, read.types, typesOf(tables, read.types))
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog about the captured tables: %w", err)
	}
	return read, nil
}

// validate checks that the server and every table can be captured as asked.
func (k *connector) validate(ctx context.Context, r *pc.Request_Validate) (response *pc.Response, err error) {
	logStatus("Validating capture configuration", nil)
	s, err := parseConfig(r.ConfigJson)
	if err != nil {
		return nil, err
	}
	if err := checkMarkers(s, r.LastCapture); err != nil {
		return nil, err
	}
	defer func() { err = advise(err, s) }()
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return nil, err
	}
	defer db.close()
	db.warnExposed()
	var wanted []requirement
	var resources []resource
	var names []tableName
	var faults []error
	captured := make(map[tableName]bool) // already, with the same key
	before := bindingsBefore(r.LastCapture)
	validated := &pc.Response_Validated{}
	for i, b := range r.Bindings {
		res, err := parseResource(b.ResourceConfigJson)
		if err != nil {
			faults = append(faults, fmt.Errorf("binding %d: %w", i, err))
			continue
		}
		old := before[res.table]
		if old != nil && b.Backfill > old.backfill {
			old = nil // captured anew
		}
		if err := validateResource(res, b, old); err != nil {
			faults = append(faults, err)
		}
		need := requirementOf(res, b.Collection.Key)
		if old != nil && slices.Equal(old.key, need.key) {
			captured[res.table] = true
		}
		names = append(names, res.table)
		resources = append(resources, res)
		wanted = append(wanted, need)
		validated.Bindings = append(validated.Bindings, &pc.Response_Validated_Binding{
			ResourcePath: []string{res.table.schema, res.table.name},
		})
	}
	read, err := readCatalog(ctx, db, names)
	if err != nil {
		return nil, err
	}
	isBound := make(map[tableName]bool, len(names))
	for _, name := range names {
		isBound[name] = true
	}
	bound := func(name tableName) bool { return isBound[name] }
	for i, w := range wanted {
		if t := read.tables[w.table]; t != nil {
			faults = append(faults, keyColumnsFault(t, w.key))
			if err := filterFault(ctx, db, resources[i]); err != nil && captured[w.table] {
				logrus.Warnf("%v. The table is captured already: the filter counts when it is backfilled", err)
			} else {
				faults = append(faults, err)
			}
			for _, warning := range [...]string{t.columnsWarning(), t.childrenWarning(bound)} {
				if warning != "" {
					logrus.Warn(warning)
				}
			}
		}
	}
	warnings, err := checkPrerequisites(ctx, db, wanted, slices.Collect(maps.Keys(captured))...)
	for _, w := range warnings {
		logrus.Warn(w)
	}
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	return &pc.Response{Validated: validated}, nil
}

// filterFault has the server check a binding's additional backfill filter.
func filterFault(ctx context.Context, db *database, r resource) error {
	if r.filter == "" {
		return nil
	}
	err := db.with(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", db.searchPath); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "SELECT FROM "+quoteTable(r.table)+" WHERE ("+r.filter+"\n) LIMIT 0")
		return err
	})
	if err == nil || sqlState(err) == codeUndefinedTable || sqlState(err) == codePrivilege { // told by the table's own checks
		return nil
	}
	return &userError{msg: fmt.Sprintf("%s: advanced.additional_backfill_filter is not a condition the server accepts: %s; "+
		"write an SQL expression over the table's columns, such as created_at > '2026-01-01'", r.table, serverReason(err))}
}

// keyColumnsFault checks that a table has the columns it is to be scanned by, among those that are captured.
func keyColumnsFault(t *table, key []string) error {
	columns := streamed(t)
	for _, name := range key {
		if !slices.ContainsFunc(columns, func(c relationColumn) bool { return c.name == name }) {
			return &userError{msg: fmt.Sprintf("%s has no captured column %q, which its collection's key names: choose a key "+
				"of columns that the table has and the publication publishes", t.tableName, name)}
		}
	}
	return nil
}

// bindingBefore is a binding of the capture as it was published last.
type bindingBefore struct {
	resource
	backfill uint32
	key      []string // as requirementOf has it
}

// bindingsBefore are the bindings of the capture as it was published last, by table.
func bindingsBefore(last *pf.CaptureSpec) map[tableName]*bindingBefore {
	before := make(map[tableName]*bindingBefore)
	if last == nil {
		return before
	}
	for _, b := range last.Bindings {
		if r, err := parseResource(b.ResourceConfigJson); err == nil {
			before[r.table] = &bindingBefore{resource: r, backfill: b.Backfill, key: requirementOf(r, b.Collection.Key).key}
		}
	}
	return before
}

// validateResource checks one binding against itself, and against what it was if it is not captured anew.
func validateResource(res resource, b *pc.Request_Validate_Binding, before *bindingBefore) error {
	keyed := res.mode != modeKeyless && res.mode != modeOnlyChanges
	if keyed && len(res.primaryKey) == 0 && keyColumnsOf(b.Collection.Key) == nil {
		return &userError{msg: fmt.Sprintf("%s has no key to scan it by (its collection's key is the fallback key): set its "+
			"backfill mode to %q or %q, or give the collection a key", res.table, modeKeyless, modeOnlyChanges)}
	}
	switch {
	case before == nil:
	case before.mode != res.mode:
		return &userError{msg: fmt.Sprintf("%s: changing the backfill mode from %q to %q needs a new backfill: trigger a "+
			"backfill of this binding together with the change", res.table, before.mode, res.mode)}
	case before.filter != res.filter && res.filter != "":
		return &userError{msg: fmt.Sprintf("%s: changing advanced.additional_backfill_filter needs a new backfill: "+
			"trigger a backfill of this binding together with the change", res.table)}
	}
	return nil
}

// requirementOf is what the server must have for a binding: changes must carry its key, whichever columns a scan walks by.
func requirementOf(r resource, key []string) requirement {
	columns := keyColumnsOf(key)
	if len(r.primaryKey) > 0 && r.mode != modeKeyless {
		columns = r.primaryKey
	}
	return requirement{table: r.table, key: columns}
}

// apply checks that the bound tables are there. It changes nothing, and a missing table does not stop the others: Open
// parks its binding.
func (k *connector) apply(ctx context.Context, r *pc.Request_Apply) (response *pc.Response, err error) {
	response = &pc.Response{Applied: &pc.Response_Applied{}}
	if r.Capture == nil || len(r.Capture.Bindings) == 0 {
		return response, nil
	}
	logStatus("Applying capture configuration", nil)
	s, err := parseConfig(r.Capture.ConfigJson)
	if err != nil {
		return nil, err
	}
	if err := checkMarkers(s, r.Capture); err != nil {
		return nil, err
	}
	defer func() { err = advise(err, s) }()
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return nil, err
	}
	defer db.close()
	var names []tableName
	for i, b := range r.Capture.Bindings {
		res, err := parseResource(b.ResourceConfigJson)
		if err != nil {
			return nil, fmt.Errorf("binding %d: %w", i, err)
		}
		names = append(names, res.table)
	}
	read, err := readCatalog(ctx, db, names)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if read.tables[name] == nil {
			logStatus(fmt.Sprintf("%s does not exist: it will not be captured until it does", name), nil)
		}
	}
	return response, nil
}

// open runs a capture until it is stopped or fails.
func (k *connector) open(ctx context.Context, r *pc.Request_Open) error {
	if r.Range != nil && (r.Range.KeyBegin != 0 || r.Range.KeyEnd != 0xffffffff) {
		return &userError{msg: "this shard covers part of the key range, but a replication slot cannot be shared: a capture of " +
			"PostgreSQL cannot be split; set its shards back to one"}
	}
	logStatus("Starting capture", nil)
	s, err := parseConfig(r.Capture.ConfigJson)
	if err != nil {
		return err
	}
	if err := checkMarkers(s, r.Capture); err != nil {
		return err
	}
	state, err := parseState(r.StateJson)
	if err != nil {
		return err
	}
	var bindings []*binding
	for i, spec := range r.Capture.Bindings {
		b, err := newBinding(i, spec)
		if err != nil {
			return err
		}
		bindings = append(bindings, b)
	}
	noteShared(bindings, r.Capture.InactiveBindings)
	for _, b := range bindings {
		b.marks = s.onTruncate == "mark" && b.unmarkable() == ""
	}
	acks := newAcknowledgements()
	go func() { k.stop(acks.run(k.requests)) }()

	logStatus("Connecting to database", nil)
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return stopCause(ctx, err)
	}
	defer db.close()
	db.warnExposed()
	c := &capture{
		ctx: ctx, db: db, settings: s, out: k.out, ledger: newLedger(k.out, acks), polling: k.polling, v1: runsOnV1(r.Capture),
		bindings: bindings, byName: make(map[tableName]*binding), casts: make(map[uint32]comparison), rounds: newRounds(db, k.polling),
	}
	defer c.rounds.fencer.close()
	c.session = newSession(db, s, acks, &c.progress, c.say)
	c.catalog, c.lookup = c.loadTables, serverLookup{c.db}
	c.diag = &diagnostics{task: r.Capture.Name.String()}
	if err := c.start(ctx, r.Capture.Bindings, state); err != nil {
		return stopCause(ctx, advise(err, s))
	}
	watching, stop := context.WithCancel(ctx)
	w := newWatcher(db, c.out, c.diag, &c.progress)
	if err := serveMetrics(watching, w); err != nil {
		stop()
		return err
	}
	watched := make(chan struct{})
	go func() { w.run(watching); close(watched) }()
	err = c.run(ctx)
	stop()
	<-watched
	if tokenExpired(err) && k.out.settled() && ctx.Err() == nil {
		logStatus("The session ends: "+err.Error(), nil) // no failure: the next one has a new token
		return nil
	}
	return stopCause(ctx, advise(err, s))
}

// stopCause prefers the reason of the stop over what it broke.
func stopCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// start checks the server, reconciles the stored state with the task's bindings and emits the opening messages.
func (c *capture) start(ctx context.Context, specs []*pf.CaptureSpec_Binding, state *captureState) error {
	var names, captured []tableName
	var wanted []requirement
	for i, b := range c.bindings {
		if c.byName[b.name()] != nil {
			return &userError{msg: fmt.Sprintf("%s is bound twice: remove one of its bindings", b.name())}
		}
		c.byName[b.name()] = b
		names = append(names, b.name())
		need := requirementOf(b.resource, specs[i].Collection.Key)
		wanted = append(wanted, need)
		if b.lenient = state.Bindings[b.stateKey].captures(need.key); b.lenient {
			captured = append(captured, b.name())
		}
	}
	before, err := c.readFitness(ctx, c.bindings) // as the server had it, before we add what is missing
	if err != nil {
		return err
	}
	read, err := readCatalog(ctx, c.db, names)
	if err != nil {
		return err
	}
	c.types = read.types
	c.say("Verifying capture requirements")
	cursor, err := state.cursor()
	if err != nil {
		return err
	}
	checks := checkFirst
	switch {
	case cursor != 0 && state.streaming(c.bindings):
		checks = checkCaptured
	case cursor != 0:
		checks = checkResumed
	}
	unfit, untold, warnings, err := resumePrerequisites(ctx, c.db, wanted, captured, checks)
	for _, w := range warnings {
		logrus.Warn(w)
	}
	if err != nil {
		return err
	}
	c.reconcile(specs, state, cursor)
	for _, b := range c.bindings {
		b.untold = b.meta.Untold
		b.noteUntold(untold[b.name()] != "")
		if lost := untold[b.name()]; lost != "" {
			c.status("%s %s", lost, goesOn)
		}
	}
	if err := c.prepareAll(read.tables, unfit); err != nil {
		return err
	}
	now, err := c.readFitness(ctx, c.bindings)
	if err != nil {
		return err
	}
	c.refreshes.sent(before)
	c.heedFitness(before, now)

	if err := c.out.respond(&pc.Response{Opened: &pc.Response_Opened{ExplicitAcknowledgements: true}}); err != nil {
		return err
	}
	failpoint("open.answered")
	if len(c.bindings) == 0 {
		c.say("Capture started, no bindings are enabled")
	} else {
		logStatus("Capture started", logrus.Fields{"bindings": len(c.bindings)})
	}
	for _, b := range c.bindings {
		if b.plan == nil {
			continue
		}
		if err := c.sourceSchema(b, b.table, b.plan, nil); err != nil {
			return err
		}
	}
	// The schemas commit at once, with the cursor as it was; the bindings as they are now follow.
	if err := c.ledger.open(cursor); err != nil {
		return err
	}
	failpoint("open.schemas")
	return c.checkpoint()
}

// streaming reports whether nothing is to be read of any of the bindings, unless something is found to have changed.
func (s *captureState) streaming(bindings []*binding) bool {
	return !slices.ContainsFunc(bindings, func(b *binding) bool {
		stored := s.Bindings[b.stateKey]
		return stored == nil || stored.Mode != storedActive && stored.Mode != storedMissing
	})
}

// reconcile makes the bindings' states from what is stored, with the cursor.
func (c *capture) reconcile(specs []*pf.CaptureSpec_Binding, state *captureState, cursor lsn) {
	fresh := true
	bound := make(map[string]bool)
	for i, b := range c.bindings {
		b.ledger = &c.ledger
		bound[b.stateKey] = true
		stored := state.Bindings[b.stateKey]
		if stored == nil || stored.Mode == storedIgnore {
			logrus.WithField("stateKey", b.stateKey).Info("binding added to capture")
			b.state = &bindingState{Mode: storedPending}
			b.meta.First = stored == nil && specs[i].Backfill == 0
			b.anew = !b.meta.First
			b.phase = phasePending
			b.mark()
			continue
		}
		fresh = false
		b.state = stored
		b.meta, _ = stored.metadata()
		if b.meta.Begun && b.meta.BegunAt != stored.place() {
			c.foreignBegun(b)
		}
		if err := b.partitions.restore(b.meta.Partitions); err != nil {
			c.status("What is stored of %s cannot be read (%v): partitions attached while the capture was stopped may be missing; "+
				"trigger a backfill of it if there were any", b.name(), err)
		}
		switch stored.Mode {
		case storedPending:
			b.phase = phasePending
		case storedBackfill, storedUnfiltered, storedKeyless:
			b.phase = phaseBackfill
		case storedActive:
			b.phase = phaseActive
		case storedMissing:
			b.phase = phaseMissing
		}
	}
	for key, stored := range state.Bindings {
		if !bound[key] && stored.Mode != storedIgnore {
			logrus.WithField("stateKey", key).Info("binding removed from capture")
			c.ledger.remove(key)
		}
	}
	if fresh && cursor != 0 {
		logrus.Info("all bindings are new, resetting replication cursor")
		cursor = 0
	}
	c.ledger.resume(cursor, cmp.Or(c.settings.flags.forceResetCursor, cursor))
}

// prepareAll makes the bindings' plans; those whose tables are gone or cannot be captured are parked.
func (c *capture) prepareAll(tables map[tableName]*table, unfit map[tableName]string) error {
	var oids []uint32
	for _, t := range tables {
		for i := range t.columns {
			if !slices.Contains(oids, t.columns[i].typeOID) {
				oids = append(oids, t.columns[i].typeOID)
			}
		}
	}
	if err := c.loadCasts(oids); err != nil {
		return fmt.Errorf("read the names of the captured columns' types: %w", err)
	}
	for _, b := range c.bindings {
		if reason := unfit[b.name()]; reason != "" && tables[b.name()] != nil {
			hidden := b.meta.Hidden // when it is fit again, our role may still not see all
			c.parkBinding(b, reason)
			b.meta.Hidden = hidden
			continue
		}
		if t := tables[b.name()]; b.meta.Hidden && t != nil && t.sight != sightAll {
			c.parkHidden(b)
			continue
		}
		if err := c.refresh(b, tables[b.name()], true); err != nil {
			return err
		}
		if b.phase == phaseActive && b.meta.OID == 0 && b.table != nil { // taken over from the incumbent
			b.meta.OID = b.table.oid
			b.mark()
		}
		if b.phase == phaseBackfill && b.meta.OID == 0 && b.table != nil {
			b.meta.OID = b.table.oid
		}
	}
	return nil
}
