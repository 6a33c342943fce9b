// prerequisites.go owns what the server must have: it is checked, created where permitted, and explained with the SQL
// that fixes it.
package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// prerequisites checks what the server must have for a capture of the tables (bound names; nil details are missing
// tables), creating the watermarks table, the publication and its members where permitted. All faults are in one userError,
// each with the server's reason and the SQL that fixes it.
func checkPrerequisites(ctx context.Context, db *database, names []tableName, details map[tableName]*table) error {
	panic("stub")
}

// addToPublication makes a table a member of the publication; fine if it is one already.
func addToPublication(ctx context.Context, db *database, t tableName) error {
	statement := fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", quoteIdent(db.settings.publication), quoteTable(t))
	err := db.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statement)
		return err
	})
	if err == nil || sqlState(err) == "42710" { // duplicate_object: already a member
		return nil
	}
	return &userError{fmt.Sprintf("table %s is not in the publication %q and could not be added: %s. Run as its owner: %s;",
		t, db.settings.publication, serverReason(err), statement)}
}
