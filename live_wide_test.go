package main

// live_wide_test.go takes values to the 8 MiB at which they are cut, and documents to the 60 MiB at which their longest values are
// cut further (decision 16). Method: rows just below, at and beyond the limit, a character of two bytes across it, by chunk,
// insert, update and old tuple; what is wanted is computed here.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestWideValues(t *testing.T) {
	if testing.Short() {
		t.Skip("not under -short: documents of 60 MiB are slow under the race detector")
	}
	db := newTestDB(t)
	table := db.createTable("wide", "(id int PRIMARY KEY, n int DEFAULT 0, t text, b bytea, j json, jb jsonb, l text[], c box[])")
	db.exec("ALTER TABLE " + quoteTable(table) + " REPLICA IDENTITY FULL")
	xs := func(n int) string { return strings.Repeat("x", n) }
	type wide struct{ column, value, want string }
	quote := func(s string) string { return `"` + s + `"` }
	mark := func(n int) string { return fmt.Sprintf(`{"flow_truncated":true,"original_size":%d}`, n) }
	repeat := func(n int, tail string) string { return fmt.Sprintf("repeat('x', %d) || '%s'", n, tail) }
	raw := func(n int) string { return quote(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{'x'}, n))) }
	rows := []wide{
		{"t", repeat(truncateAt-1, "é"), quote(xs(truncateAt - 1))},
		{"t", repeat(truncateAt-2, "é"), quote(xs(truncateAt-2) + "é")},
		{"b", fmt.Sprintf("convert_to(repeat('x', %d), 'UTF8')", truncateAt+1), raw(truncateAt)},
		{"j", `('"' || ` + repeat(truncateAt-2, `"`) + ")::json", quote(xs(truncateAt - 2))},
		{"jb", `('"' || ` + repeat(truncateAt-1, `"`) + ")::jsonb", mark(truncateAt + 1)},
		{"l", "ARRAY[" + repeat(truncateAt-3, "😀y") + ", NULL, 'z']", `["` + xs(truncateAt-3) + `",null,"z"]`},
	}
	if *longTests {
		for _, over := range []int{-1, 0, 1} {
			size := truncateAt + over
			kept := min(size, truncateAt)
			rows = append(rows,
				wide{"t", repeat(size, ""), quote(xs(kept))},
				wide{"t", repeat(size-4, "😀"), quote(xs(size-4) + []string{"😀", "😀", ""}[over+1])},
				wide{"b", fmt.Sprintf("convert_to(repeat('x', %d), 'UTF8')", size), raw(kept)},
				wide{"l", "ARRAY['', " + repeat(size, "") + "]", `["",` + quote(xs(kept)) + `]`},
				wide{"l", fmt.Sprintf("ARRAY[repeat('\\\"', %d)]", size/2), `["` + strings.Repeat(`\\\"`, size/2) + `"]`},
			)
			for _, typ := range []string{"j", "jb"} {
				want := quote(xs(size - 2))
				if over > 0 {
					want = mark(size)
				}
				rows = append(rows, wide{typ, `('"' || ` + repeat(size-2, `"`) + ")::json" + strings.TrimPrefix(typ, "j"), want})
			}
		}
	}
	for i, row := range rows {
		db.exec(fmt.Sprintf("INSERT INTO %s (id, %s) VALUES (%d, %s)", quoteTable(table), row.column, i, row.value))
	}

	r := startRuntime(t, runtimeOptions{config: db.config(), tables: table.String(), deadline: 5 * time.Minute})
	r.waitStreaming()
	for i := range rows {
		for _, sql := range []string{
			"INSERT INTO %[1]s SELECT id + 1000, n, t, b, j, jb, l, c FROM %[1]s WHERE id = %[2]d",
			"UPDATE %[1]s SET n = 1 WHERE id = %[2]d + 1000", "DELETE FROM %[1]s WHERE id = %[2]d + 1000",
		} {
			db.exec(fmt.Sprintf(sql, quoteTable(table), i))
		}
	}
	r.waitDocuments(4 * len(rows))
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for _, d := range r.documents() {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			t.Fatal(err)
		}
		var meta struct{ Before map[string]json.RawMessage }
		if err := json.Unmarshal(doc["_meta"], &meta); err != nil {
			t.Fatal(err)
		}
		var id int
		if err := json.Unmarshal(doc["id"], &id); err != nil {
			t.Fatal(err)
		}
		row := rows[id%1000]
		for image, fields := range map[string]map[string]json.RawMessage{"the row": doc, "before": meta.Before} {
			if got := string(fields[row.column]); fields != nil && got != row.want {
				t.Errorf("row %d, %s: column %s is of %d bytes: %.40s…, want %d: %.40s…", id, image, row.column, len(got), got, len(row.want), row.want)
			}
		}
	}
}

func TestWideDocuments(t *testing.T) {
	if testing.Short() {
		t.Skip("not under -short: documents of 60 MiB are slow under the race detector")
	}
	db := newTestDB(t)
	columns := make([]string, 8)
	for i := range columns {
		columns[i] = fmt.Sprintf("t%d text", i)
	}
	table := db.createTable("wide", "(id int PRIMARY KEY, n int, l int[], "+strings.Join(columns, ", ")+")")
	name := quoteTable(table)
	// Eight texts of 8 MiB are cut to four; an array of eight million numbers is as long, though none of them is.
	insert := func(id int) {
		eight := strings.TrimPrefix(strings.Repeat(fmt.Sprintf(", repeat('é', %d)", truncateAt/2), len(columns)), ", ")
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 1, '{1}', %s)", name, id, eight))
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (%d, 2, array_fill(1234567, ARRAY[8000000]))", name, id+1))
	}
	insert(0)
	r := startRuntime(t, runtimeOptions{config: db.config(), tables: table.String(), deadline: 5 * time.Minute})
	r.waitStreaming()
	insert(2)
	r.waitDocuments(4)
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	for id, d := range r.documents() {
		if len(d.doc) > maxDocument {
			t.Errorf("the document of row %d has %d bytes", id, len(d.doc))
		}
		var doc struct {
			N      int
			L      []int
			T0, T7 string
		}
		if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
			t.Fatal(err)
		}
		want := strings.Repeat("é", truncateAt/4)
		switch doc.N {
		case 1:
			if doc.T0 != want || doc.T7 != want || len(doc.L) != 1 {
				t.Errorf("row %d has texts of %d and %d bytes, want %d", id, len(doc.T0), len(doc.T7), len(want))
			}
		case 2:
			if n := len(doc.L); n < truncateAt/2/len("1234567,") || n > truncateAt/2/len("1234567,")+1 || doc.L[n-1] != 1234567 {
				t.Errorf("row %d has %d numbers, want as many as 4 MiB hold", id, n)
			}
		}
	}
	said := 0
	for _, log := range r.logs {
		if strings.HasPrefix(log.message, "a document over 60 MiB") {
			said++
			if fields := string(log.fields); !strings.Contains(fields, table.String()) || !strings.Contains(fields, fmt.Sprintf("[%d]", said-1)) {
				t.Errorf("the warning of row %d names %s", said-1, fields)
			}
		}
	}
	if said != 4 {
		t.Errorf("%d warnings of 4 documents", said)
	}
}
