// Command replay reads what `source-postgres preview --json` wrote, checks that it is a strict history, replays it, and
// compares the result with the tables on the server.
//
//	replay --database URL --output FILE [--strict] [--tables a.b,c.d] [--keyless a.b] [--replaced a.b]
//
// It exits 0 when every table equals its replay, 1 with the first differences when not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"source-postgres/tests/history"

	"github.com/jackc/pgx/v5"
)

func main() {
	summary, err := run(context.Background(), os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "replay: "+err.Error())
		os.Exit(1)
	}
	fmt.Println(summary)
}

// tableList is a comma-separated list of schema.table names.
type tableList []string

func (l *tableList) String() string { return strings.Join(*l, ",") }

func (l *tableList) Set(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			*l = append(*l, name)
		}
	}
	return nil
}

func run(ctx context.Context, args []string) (summary string, err error) {
	f := flag.NewFlagSet("replay", flag.ContinueOnError)
	database := f.String("database", "", "connection `URL` of the captured database; the role must read the tables")
	output := f.String("output", "", "the `file` that preview wrote with --json")
	strict := f.Bool("strict", false, "check the history, and _meta.before of tables with REPLICA IDENTITY FULL")
	var tables, keyless, replaced tableList
	f.Var(&tables, "tables", "compare these `tables` even when no document is of them")
	f.Var(&keyless, "keyless", "treat these `tables` as having no key")
	f.Var(&replaced, "replaced", "allow insertions over existing keys of these `tables`")
	if err := f.Parse(args); err != nil {
		return "", err
	}
	if *database == "" || *output == "" || f.NArg() > 0 {
		f.Usage()
		return "", flag.ErrHelp
	}
	conn, err := connect(ctx, *database)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	server, err := newServer(ctx, conn)
	if err != nil {
		return "", err
	}
	file, err := os.Open(*output)
	if err != nil {
		return "", err
	}
	defer file.Close()

	describe := func(name string) (history.Table, error) {
		t, err := server.table(ctx, name)
		if err != nil {
			return history.Table{}, err
		}
		described := history.Table{
			Name: name, Key: t.key, Full: t.full, Lenient: !*strict, Replaced: slices.Contains(replaced, name),
		}
		if slices.Contains(keyless, name) {
			described.Key = nil
		}
		return described, nil
	}
	return replay(ctx, server, file, describe, tables)
}

// replay reads the documents and compares every table. The error lists the differences.
func replay(
	ctx context.Context, server *server, documents io.Reader, describe func(string) (history.Table, error), tables []string,
) (summary string, err error) {
	h := history.New()
	for _, name := range tables {
		t, err := describe(name)
		if err != nil {
			return "", err
		}
		h.Add(t)
	}
	if err := h.ReadLines(documents, describe); err != nil {
		return "", err
	}
	var faults []string
	for _, name := range h.Tables() {
		differences, err := server.compare(ctx, h, name)
		if err != nil {
			return "", fmt.Errorf("compare %s: %w", name, err)
		}
		faults = append(faults, differences...)
	}
	if len(faults) > 0 {
		return "", errors.New("the replayed output differs from the tables:\n  " + strings.Join(faults, "\n  "))
	}
	return fmt.Sprintf("%d documents, %d keys, %d tables: replayed output equals the tables",
		h.Documents(), h.Keys(), len(h.Tables())), nil
}

// connect opens a session whose text forms do not depend on the role's settings.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"TimeZone":            "UTC",
		"DateStyle":           "ISO, YMD",
		"IntervalStyle":       "postgres",
		"bytea_output":        "hex",
		"extra_float_digits":  "1",
		"search_path":         "pg_catalog",
		"statement_timeout":   "0",
		"client_min_messages": "warning",
	} {
		config.RuntimeParams[name] = value
	}
	return pgx.ConnectConfig(ctx, config)
}
