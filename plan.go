package main

// plan.go owns the command that says what a capture would do: what the server lacks, which tables are read how, how long that takes
// and what it costs the server. Invariant: nothing is created or changed.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

const planHelp = `usage: source-postgres plan --config FILE [flags]

Says what a capture would do, and changes nothing: what the server lacks, with the SQL; for each table the key that it is read by,
rows and bytes by the server's statistics, and the time by one second of reading; which tables are left out and why; how much of the
server's log a slot would keep.

Exit status: 0 the capture could start, 1 it could not, 2 wrong usage.

`

// sampleTime is how long a table is read to know how fast that is.
const sampleTime = time.Second

// capturePlan is what plan prints; with --json as it is.
type capturePlan struct {
	Server    string          `json:"server"`
	Slot      string          `json:"slot"`
	Creates   []string        `json:"creates"`  // what is not there and is made by validation or the first start, where our role may
	Missing   string          `json:"missing"`  // why the capture cannot start, with the SQL; "": it can
	Warnings  []string        `json:"warnings"` // of validation
	Tables    []*plannedTable `json:"tables"`
	LeftOut   []leftOutTables `json:"leftOut"`
	Sample    *planSample     `json:"sample"`              // null: nothing could be read
	WALLimit  int64           `json:"maxSlotWALKeepBytes"` // -1: there is none
	WALSecond int64           `json:"walBytesPerSecond"`   // while the sample was read; -1: not known
}

// plannedTable is one table that would be captured.
type plannedTable struct {
	Table   string   `json:"table"`
	Key     []string `json:"key"` // null: it has none
	Reading string   `json:"reading"`
	Rows    int64    `json:"rows"`    // by the statistics; -1: there are none
	Bytes   int64    `json:"bytes"`   // on disk, with what is stored out of line
	Seconds float64  `json:"seconds"` // to read it; -1: not known

	table *table
	key   []string
}

// leftOutTables are tables that would not be captured, for one reason.
type leftOutTables struct {
	Reason string   `json:"reason"`
	Tables []string `json:"tables"`
}

// planSample is what was read for a second.
type planSample struct {
	Table     string  `json:"table"`
	Rows      int64   `json:"rows"`
	Documents int64   `json:"documentBytes"`
	Seconds   float64 `json:"seconds"`
	disk      float64 // bytes of the table that this was, about
}

func planCommand(ctx context.Context, args []string) error {
	f := newCommandFlags("plan", planHelp)
	f.addConfig()
	tables := f.String("tables", "", "only tables that match one of these comma-separated `patterns` (default all that can be captured)")
	asJSON := f.Bool("json", false, "print the plan as JSON")
	d, err := f.parse(args, true)
	if err != nil {
		return err
	}
	wanted, err := tablePatterns("plan", *tables)
	if err != nil {
		return err
	}
	s, err := parseConfig(d.config)
	if err != nil {
		return err
	}
	p, err := makePlan(ctx, s, wanted)
	if err != nil {
		return advise(err, s)
	}
	if *asJSON {
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		err = printIndented(os.Stdout, text)
		return errors.Join(err, p.verdict())
	}
	p.print(os.Stdout)
	return p.verdict()
}

// verdict is the error of a capture that could not start.
func (p *capturePlan) verdict() error {
	switch {
	case p.Missing != "":
		return &exitError{1, "the capture could not start: what is missing is above, with the statements to run"}
	case len(p.Tables) == 0:
		return &exitError{1, "there is no table to capture: why each was left out is above"}
	}
	return nil
}

func makePlan(ctx context.Context, s *settings, wanted []tablePattern) (*capturePlan, error) {
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return nil, err
	}
	defer db.close()
	p := &capturePlan{Server: fmt.Sprintf("PostgreSQL %s, database %s", versionText(db.version), s.database), WALSecond: -1}
	if db.standby {
		p.Server += ", a standby"
	}
	names, err := p.list(ctx, db, wanted)
	if err != nil {
		return nil, err
	}
	missing := error(nil)
	if p.Warnings, missing = readinessFaults(ctx, db, names); missing != nil {
		if _, ok := errors.AsType[*userError](missing); !ok {
			return nil, missing
		}
		p.Missing = missing.Error()
	}
	if err := p.readServer(ctx, db); err != nil {
		return nil, err
	}
	if err := p.measure(ctx, db); err != nil {
		return nil, err
	}
	p.sample(ctx, db)
	return p, nil
}

// list finds the tables that match, and those that are left out.
func (p *capturePlan) list(ctx context.Context, db *database, wanted []tablePattern) (names []tableName, err error) {
	matches := func(name tableName) bool {
		return wanted == nil || slices.ContainsFunc(wanted, func(p tablePattern) bool { return p.matches(name) })
	}
	var tables []*table
	var leftOut map[string][]tableName
	err = db.with(ctx, func(conn *pgx.Conn) (err error) {
		tables, leftOut, err = listTables(ctx, conn, db.settings)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if !matches(t.tableName) {
			continue
		}
		planned := &plannedTable{Table: t.tableName.String(), table: t, key: t.primaryKey, Rows: -1, Seconds: -1}
		from := "primary key"
		if planned.key == nil {
			planned.key, from = t.uniqueKey, "unique index"
		}
		planned.Key = planned.key
		switch {
		case db.settings.skipsBackfill(t.tableName):
			planned.Reading = "not: advanced.skip_backfills names it; only changes are captured"
		case planned.key == nil:
			planned.Reading = "by its place on disk, as it has no key: a row that changes meanwhile may come twice"
		default:
			planned.Reading = "by its " + from
		}
		p.Tables = append(p.Tables, planned)
		names = append(names, t.tableName)
	}
	for reason, those := range leftOut {
		out := leftOutTables{Reason: reason}
		for _, name := range those {
			if matches(name) {
				out.Tables = append(out.Tables, name.String())
			}
		}
		if len(out.Tables) > 0 {
			p.LeftOut = append(p.LeftOut, out)
		}
	}
	slices.SortFunc(p.LeftOut, func(a, b leftOutTables) int { return strings.Compare(a.Reason, b.Reason) })
	return names, nil
}

const sqlPlanServer = `
SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1), to_regclass($2) IS NOT NULL,
       coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), -1)`

// readServer finds what of ours is there already.
func (p *capturePlan) readServer(ctx context.Context, db *database) error {
	s := db.settings
	var publication, watermarks bool
	var limit int64 // MB
	err := db.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sqlPlanServer, s.publication, quoteTable(s.watermarks)).Scan(&publication, &watermarks, &limit)
	})
	if err != nil {
		return fmt.Errorf("read what the server has of ours: %w", err)
	}
	if p.WALLimit = limit; limit > 0 {
		p.WALLimit = limit << 20
	}
	slot, err := inspectSlot(ctx, db)
	if err != nil {
		return err
	}
	p.Slot = s.slot
	if !slot.exists {
		p.Creates = append(p.Creates, fmt.Sprintf("the replication slot %q", s.slot))
	}
	if !publication {
		p.Creates = append(p.Creates, fmt.Sprintf("the publication %q with the tables", s.publication))
	}
	if !watermarks && !s.readOnly {
		p.Creates = append(p.Creates, fmt.Sprintf("the table %s, for a row of ours", s.watermarks))
	}
	return nil
}

// Partitions hold the rows of a partitioned table. Statistics say -1, or before version 14 0, of a table that was never analyzed.
const sqlPlanSizes = `
WITH RECURSIVE tree (root, oid) AS (
  SELECT o, o FROM unnest($1::oid[]) o
  UNION ALL
  SELECT tree.root, i.inhrelid FROM tree JOIN pg_class p ON p.oid = tree.oid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = p.oid
)
SELECT tree.root, sum(pg_table_size(c.oid))::bigint, sum(greatest(c.reltuples, 0))::bigint,
       bool_or(c.reltuples < 0 OR c.reltuples = 0 AND c.relpages = 0 AND pg_relation_size(c.oid) > 0)
  FROM tree JOIN pg_class c ON c.oid = tree.oid AND c.relkind <> 'p'
 GROUP BY tree.root`

// measure reads how large the tables are.
func (p *capturePlan) measure(ctx context.Context, db *database) error {
	byOID := make(map[uint32]*plannedTable)
	var oids []uint32
	for _, t := range p.Tables {
		byOID[t.table.oid] = t
		oids = append(oids, t.table.oid)
		t.Rows = 0 // of a table without partitions nothing comes
	}
	err := db.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sqlPlanSizes, oids)
		if err != nil {
			return err
		}
		var oid uint32
		var bytes, count int64
		var unknown bool
		_, err = pgx.ForEachRow(rows, []any{&oid, &bytes, &count, &unknown}, func() error {
			t := byOID[oid]
			if t.Bytes, t.Rows = bytes, count; unknown {
				t.Rows = -1
			}
			return nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("read the sizes of the tables: %w", err)
	}
	return nil
}

var errSampled = errors.New("the sample is complete")

// sample reads the largest table that has a key for a second, and says how long all would take. What fails is left unknown: why is
// among what is missing.
func (p *capturePlan) sample(ctx context.Context, db *database) {
	var largest *plannedTable
	for _, t := range p.Tables {
		if t.key != nil && (largest == nil || t.Bytes > largest.Bytes) {
			largest = t
		}
	}
	begin, before := time.Now(), walEnd(ctx, db)
	if largest != nil {
		s := &planSample{Table: largest.Table}
		read, err := readCatalog(ctx, db, []tableName{largest.table.tableName})
		var b *binding
		if err == nil && read.tables[largest.table.tableName] != nil {
			b, err = readingBinding(ctx, db, read, largest.key, read.tables[largest.table.tableName])
		}
		if err == nil && b != nil {
			began := time.Now()
			err = eachDocument(ctx, db, b, min(1000, db.settings.chunkRows), func(doc []byte) error {
				s.Rows++
				s.Documents += int64(len(doc))
				if s.Seconds = time.Since(began).Seconds(); s.Seconds >= sampleTime.Seconds() {
					return errSampled
				}
				return nil
			})
			whole := err == nil
			if (whole || errors.Is(err, errSampled)) && s.Rows > 0 {
				p.Sample, s.disk = s, float64(largest.Bytes)
				if !whole && largest.Rows > s.Rows {
					s.disk *= float64(s.Rows) / float64(largest.Rows)
				}
			}
		}
	}
	if rest := sampleTime - time.Since(begin); rest > 0 {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	if after := walEnd(ctx, db); before != 0 && after >= before {
		p.WALSecond = int64(float64(after-before) / time.Since(begin).Seconds())
	}
	if p.Sample == nil || p.Sample.disk == 0 {
		return
	}
	for _, t := range p.Tables {
		t.Seconds = float64(t.Bytes) / p.Sample.disk * p.Sample.Seconds
	}
}

// walEnd is where the server writes its log; 0 where it does not, or that cannot be read.
func walEnd(ctx context.Context, db *database) (end lsn) {
	if db.standby {
		return 0
	}
	_ = db.with(ctx, func(conn *pgx.Conn) error {
		var text string
		err := conn.QueryRow(ctx, sqlInsertPosition).Scan(&text)
		end, _ = parseLSN(text)
		return err
	})
	return end
}

// print prints the plan for a person.
func (p *capturePlan) print(out io.Writer) {
	fmt.Fprintf(out, "%s, replication slot %s\n", p.Server, p.Slot)
	if len(p.Creates) > 0 {
		fmt.Fprintf(out, "Created at the first start, where the role may: %s\n", strings.Join(p.Creates, ", "))
	}
	if p.Missing != "" {
		fmt.Fprintf(out, "\nMissing:\n  %s\n", strings.ReplaceAll(p.Missing, "\n", "\n  "))
	} else {
		fmt.Fprintln(out, "The server has all that a capture needs.")
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(out, "Warning: %s\n", w)
	}
	if len(p.Tables) > 0 {
		fmt.Fprintln(out)
		table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(table, "TABLE\tKEY\tROWS\tSIZE\tTIME\tIS READ")
		var bytes int64
		seconds := 0.0
		for _, t := range p.Tables {
			rows, key := "unknown", "none"
			if t.Rows >= 0 {
				rows = grouped(t.Rows)
			}
			if t.Key != nil {
				key = strings.Join(t.Key, ", ")
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Table, key, rows, byteCount(t.Bytes), timeText(t.Seconds), t.Reading)
			bytes, seconds = bytes+t.Bytes, seconds+max(t.Seconds, 0)
		}
		if len(p.Tables) > 1 {
			if p.Sample == nil {
				seconds = -1
			}
			fmt.Fprintf(table, "all\t\t\t%s\t%s\n", byteCount(bytes), timeText(seconds))
		}
		_ = table.Flush()
	}
	for _, l := range p.LeftOut {
		fmt.Fprintf(out, "\nNot captured, %s: %s\n", l.Reason, strings.Join(l.Tables, ", "))
	}
	fmt.Fprintln(out)
	if s := p.Sample; s != nil {
		fmt.Fprintf(out, "Times are by a sample: %s rows of %s, %s as documents, in %.1f s on this machine and link.\n", grouped(s.Rows), s.Table,
			byteCount(s.Documents), s.Seconds)
	}
	p.printWAL(out)
}

// printWAL says what the slot would keep.
func (p *capturePlan) printWAL(out io.Writer) {
	limit := "max_slot_wal_keep_size sets no limit: a capture that is stopped for long fills the server's disk"
	if p.WALLimit >= 0 {
		limit = "max_slot_wal_keep_size is " + byteCount(p.WALLimit)
		if p.WALSecond > 0 {
			limit += ", which a stopped capture would reach in " + timeText(float64(p.WALLimit)/float64(p.WALSecond)) + " at that rate"
		}
	}
	if p.WALSecond >= 0 {
		fmt.Fprintf(out, "The server wrote %s of its log a second meanwhile. ", byteCount(p.WALSecond))
	}
	fmt.Fprintf(out, "A capture reads changes while it reads rows, so that a backfill keeps no more of the log than what is written while some "+
		"chunks are read; %s.\n", limit)
}

// timeText is a number of seconds for a person; less than 0 is unknown.
func timeText(seconds float64) string {
	switch {
	case seconds < 0:
		return "unknown"
	case seconds < 1:
		return "under 1 s"
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 2*60*60:
		return fmt.Sprintf("%.0f min", seconds/60)
	case seconds < 48*60*60:
		return fmt.Sprintf("%.0f h", seconds/3600)
	}
	return fmt.Sprintf("%.0f days", seconds/86400)
}
