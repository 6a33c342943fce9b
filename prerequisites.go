package main

import "context"

// prerequisites checks what the server must have for a capture of the tables (bound names; nil details are missing
// tables), creating the watermarks table, the publication and its members where permitted. All faults are in one userError,
// each with the server's reason and the SQL that fixes it.
func checkPrerequisites(ctx context.Context, db *database, names []tableName, details map[tableName]*table) error {
	panic("stub")
}

// publicationTable tells about the membership of one table; used by the capture when a table joins later.
func addToPublication(ctx context.Context, db *database, t tableName) error { panic("stub") }
