package main

// preview_look.go owns what discover and preview look up at the server by themselves, beside the connector that they start: why a
// table is not offered, and what a validation would refuse. Invariant: nothing is created or changed, and a look that fails says
// nothing, as the connector has said it already.

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// lookTime bounds a look.
const lookTime = 20 * time.Second

// look runs f on the database of a config.
func look(ctx context.Context, config json.RawMessage, f func(context.Context, *database) error) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	s, err := parseConfig(config)
	if err != nil {
		return err
	}
	db, err := connectDatabase(ctx, s)
	if err != nil {
		return err
	}
	defer db.close()
	return f(ctx, db)
}

// whyNotOffered says why discovery leaves out the tables that match a pattern: a line for each reason, or "".
func whyNotOffered(ctx context.Context, config json.RawMessage, patterns []tablePattern) string {
	var reasons []string
	_ = look(ctx, config, func(ctx context.Context, db *database) error {
		return db.with(ctx, func(conn *pgx.Conn) error {
			_, leftOut, err := listTables(ctx, conn, db.settings)
			for reason, names := range leftOut {
				var matching []tableName
				for _, name := range names {
					if slices.ContainsFunc(patterns, func(p tablePattern) bool { return p.matches(name) }) {
						matching = append(matching, name)
					}
				}
				if len(matching) == 0 {
					continue
				}
				text := listed(matching) + ": " + reason
				if reason == leftOutUnpublished {
					text += fmt.Sprintf(" (%s;)", addStatement(db.settings.publication, matching...))
				}
				reasons = append(reasons, text)
			}
			return err
		})
	})
	slices.Sort(reasons)
	return strings.Join(reasons, "\n  ")
}

// unready returns what a validation of the tables would refuse for what the server and our role are now, and what it would warn of.
func unready(ctx context.Context, config json.RawMessage, tables []tableName) (warnings []string, err error) {
	_ = look(ctx, config, func(ctx context.Context, db *database) error {
		warnings, err = readinessFaults(ctx, db, tables)
		return nil
	})
	return warnings, err
}
