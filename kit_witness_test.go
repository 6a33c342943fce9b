package main

// kit_witness_test.go asks the server what its own decoding says of a key on which an oracle has failed.
//
// Goal: to tell from one failed run, which may never fail again, whether the server sent another change than the table had or
// we made another document of it. Method: a slot that nothing reads, made before the capture begins. It keeps the WAL of the
// run and holds back the vacuum of catalogs, nothing else: it is decoded when the run has failed, from its beginning, and with
// the publication of the capture. Invariant: nothing but what is printed behind a failure depends on it.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// mostWitnessed is how many of the last changes of a key are listed.
const mostWitnessed = 12

// witness makes the slot. The tables whose changes it is to tell are in the publication.
func (o *oracle) witness() {
	o.t.Helper()
	slot := o.db.name("witness")
	o.db.exec(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	o.t.Cleanup(func() { // ahead of the test's own, which closes the connection
		_, err := o.db.control.Exec(context.WithoutCancel(o.db.ctx), `SELECT pg_drop_replication_slot($1)`, slot)
		if err != nil {
			o.t.Logf("cleanup: drop slot %s: %v", slot, err)
		}
	})
	o.witnessSlot, o.saidOf = slot, make(map[string]string)
}

// witnessed lists the last changes of a row of the table in the server's own decoding: with the key, given in any form that the
// columns' types take, before or behind them. It is for the text of a failure and never fails itself.
func (o *oracle) witnessed(t *workTable, key []string) string {
	if o.witnessSlot == "" {
		return ""
	}
	asked := fmt.Sprint(t.table, key)
	if said, ok := o.saidOf[asked]; ok {
		return said
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(o.db.ctx), waitLimit)
	defer cancel()
	lines, err := o.decodeWitness(ctx, t, key)
	if err != nil {
		lines = append(lines, "  "+err.Error())
	} else if len(lines) == 0 {
		lines = []string{"  it has none"}
	}
	said := fmt.Sprintf("\nthe last changes of key %q in the server's own decoding, by slot %s:\n%s", key, o.witnessSlot, strings.Join(lines, "\n"))
	o.saidOf[asked] = said
	return said
}

func (o *oracle) decodeWitness(ctx context.Context, t *workTable, key []string) (lines []string, err error) {
	const sqlAsWritten = `SELECT format('SELECT format(''%%s'', %L::%s)', $3::text, format_type(atttypid, atttypmod)) FROM pg_attribute
		WHERE attrelid = format('%I.%I', $1::text, $2::text)::regclass AND attname = $4`
	want := make([]string, len(key))
	for i, text := range key { // in the form that the server sends it in
		sql := ""
		if err := o.db.control.QueryRow(ctx, sqlAsWritten, t.table.schema, t.table.name, text, t.key[i]).Scan(&sql); err != nil {
			return nil, err
		}
		if err := o.db.control.QueryRow(ctx, sql).Scan(&want[i]); err != nil {
			return nil, err
		}
	}
	const sqlPeek = `SELECT lsn::text, xid::text, data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', $2)`
	rows, err := o.db.control.Query(ctx, sqlPeek, o.witnessSlot, quoteIdent(o.db.publication))
	if err != nil {
		return nil, err
	}
	var at, xid string
	var data []byte
	var begin beginMessage
	relations := make(map[uint32]*relation)
	_, err = pgx.ForEachRow(rows, []any{&at, &xid, &data}, func() (err error) {
		switch data[0] {
		case 'B':
			begin, err = decodeBegin(data)
		case 'R':
			var r *relation
			if r, err = decodeRelation(data); err == nil {
				relations[r.oid] = r
			}
		case 'I', 'U', 'D':
			var ch change
			if err = decodeChange(data, &ch); err != nil {
				break
			}
			r := relations[ch.relation]
			if r == nil || r.schema != t.table.schema || r.name != t.table.name || !r.hasKey(&ch, t.key, want) {
				break
			}
			commit := time.UnixMicro(begin.commitTime + postgresEpoch).UTC().Format("15:04:05.000000")
			line := fmt.Sprintf("  %s, transaction %s, committed at %s, %s: %c", at, xid, begin.finalLSN, commit, ch.op)
			if ch.oldKind != 0 {
				line += fmt.Sprintf(" %c%s", ch.oldKind, r.describe(ch.old))
			}
			if ch.op != 'D' {
				line += " N" + r.describe(ch.new)
			}
			lines = append(lines, line)
		}
		return err
	})
	return lines[max(0, len(lines)-mostWitnessed):], err
}

// hasKey reports whether one of the change's tuples has the key.
func (r *relation) hasKey(ch *change, columns, key []string) bool {
	return slices.ContainsFunc([]tuple{ch.old, ch.new}, func(t tuple) bool {
		if len(t) != len(r.columns) {
			return false
		}
		for i, name := range columns {
			at := slices.IndexFunc(r.columns, func(c relationColumn) bool { return c.name == name })
			if at < 0 || string(t[at].data) != key[i] {
				return false
			}
		}
		return true
	})
}

// describe is a tuple for a person: its values as JSON, the long ones shortened.
func (r *relation) describe(t tuple) string {
	var parts []string
	for i, c := range r.columns {
		if i >= len(t) {
			break
		}
		text := "null"
		switch t[i].kind {
		case valueUnchanged:
			text = "unchanged"
		case valueText:
			quoted, _ := json.Marshal(string(t[i].data)) // of a string: no error
			text = abridged(string(quoted))
		}
		parts = append(parts, c.name+": "+text)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// TestOracleWitness lets a row change in every way and reads what the witness says of it.
func TestOracleWitness(t *testing.T) {
	o := newOracle(t, 1)
	schema := o.schema()
	table := o.create(schema, flavours[slices.IndexFunc(flavours, func(f *flavour) bool { return f.name == "moment" })], 0, false)[0]
	name := quoteTable(table.table)
	if said := o.witnessed(table, []string{"2001-01-01"}); said != "" {
		t.Errorf("without a witness: %s", said)
	}
	o.witness()
	for _, sql := range []string{
		"INSERT INTO {} (at, n, big) VALUES ('2000-01-01 00:00+0', 1, repeat('abcdefgh', 700)), ('2000-01-03 00:00+0', 7, NULL)",
		"UPDATE {} SET n = 2 WHERE n = 1",
		"UPDATE {} SET n = 3, big = repeat('hgfedcba', 800) WHERE n = 2",
		"UPDATE {} SET at = '2000-01-02 00:00+0' WHERE n = 3",
		"UPDATE {} SET n = 8 WHERE n = 7",
		"DELETE FROM {}",
	} {
		o.db.exec(strings.ReplaceAll(sql, "{}", name))
	}
	long := func(ends string, n int) string { return fmt.Sprintf(`big: "%s…(%d)…`, ends[:20], n) }
	first, second := strings.Repeat("abcdefgh", 3), strings.Repeat("hgfedcba", 3)
	for _, want := range []struct {
		key   string
		lines []string // parts of each in turn
	}{
		{"2000-01-01T00:00:00Z", []string{": I N{|" + long(first, 5600), ": U N{|n: \"2\"|big: unchanged", ": U N{|" + long(second, 6400), ": U K{|n: \"3\""}},
		{"2000-01-02 01:00:00+01", []string{": U K{| N{|n: \"3\"|big: unchanged", ": D K{"}},
		{"2000-01-04 00:00+00", []string{"it has none"}},
	} {
		said := o.witnessed(table, []string{want.key})
		lines := strings.Split(said, "\n")[2:]
		if len(lines) != len(want.lines) {
			t.Errorf("key %s: want %d changes, have%s", want.key, len(want.lines), said)
			continue
		}
		for i, parts := range want.lines {
			for _, part := range strings.Split(parts, "|") {
				if !strings.Contains(lines[i], part) {
					t.Errorf("key %s: want %q in %s", want.key, part, lines[i])
				}
			}
		}
	}
}
