// discovery_identity.go owns the judgement of replica identities: whether the old image that the server writes for an update or
// delete carries the collection key. Invariant: a binding passes without a fault only if, for every relation that holds its
// rows, the server either writes the key or rejects the change.

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// replicaIdentity is what decides the old images of one relation that holds rows: a table or a leaf partition.
type replicaIdentity struct {
	tableName
	kind        byte // relkind
	persistence byte // relpersistence
	identity    byte // relreplident: d primary key, i index, f full, n nothing
	usable      bool // our role may use its schema
	readable    bool // and read it directly, if it may that
	indexes     []uniqueIndex
	generated   map[string]string // generated columns, by name (18 and newer): s stored, v virtual
}

// uniqueIndex is an index that can be a replica identity if its columns are NOT NULL: valid, immediate, not partial,
// without expressions.
type uniqueIndex struct {
	Name     string   `json:"name"`
	Columns  []string `json:"columns"` // key columns, without INCLUDE
	Primary  bool     `json:"primary"`
	Identity bool     `json:"identity"` // chosen by REPLICA IDENTITY USING INDEX
	NotNull  bool     `json:"notnull"`
}

// hasIdentity reports whether the relation can have one. A foreign partition has none to be set, and needs none: its changes are
// not in the WAL, and the server refuses none of them.
func (r *replicaIdentity) hasIdentity() bool { return r.kind != 'f' }

// covers reports whether the index holds all the columns.
func (x *uniqueIndex) covers(columns []string) bool {
	return !slices.ContainsFunc(columns, func(c string) bool { return !slices.Contains(x.Columns, c) })
}

// index returns the index that makes up the identity, nil if there is none.
func (r *replicaIdentity) index() *uniqueIndex {
	for i := range r.indexes {
		if x := &r.indexes[i]; r.identity == 'd' && x.Primary || r.identity == 'i' && x.Identity {
			return x
		}
	}
	return nil
}

// lacks reports whether the server writes old images that lack some of the columns.
func (r *replicaIdentity) lacks(key []string) bool {
	x := r.index()
	return r.hasIdentity() && r.identity != 'f' && x != nil && !x.covers(key)
}

// remedy is the statement that makes old images carry the key, the cheapest one that does.
func (r *replicaIdentity) remedy(key []string) string {
	alter := "ALTER TABLE " + quoteTable(r.tableName) + " REPLICA IDENTITY "
	var usable *uniqueIndex
	for i := range r.indexes {
		switch x := &r.indexes[i]; {
		case len(key) == 0 || !x.NotNull || !x.covers(key):
		case x.Primary:
			return alter + "DEFAULT;"
		case usable == nil || len(x.Columns) < len(usable.Columns):
			usable = x
		}
	}
	if usable != nil {
		return alter + "USING INDEX " + quoteIdent(usable.Name) + ";"
	}
	return alter + "FULL;"
}

// maxRemedies bounds the statements shown for one table; a partitioned one may need thousands.
const maxRemedies = 10

// keyFault judges the relations that hold the rows of t. A fault: the server lets an update or delete happen whose old
// collection key could not be known. A warning: it rejects updates and deletes, while inserts are captured. An empty key is
// that of a keyless binding.
func keyFault(t tableName, held []replicaIdentity, key []string) (fault, warning string) {
	var uncovered, rejecting []*replicaIdentity
	for i := range held {
		switch r := &held[i]; {
		case r.lacks(key):
			uncovered = append(uncovered, r)
		case r.identity != 'f' && r.index() == nil && r.hasIdentity():
			rejecting = append(rejecting, r)
		}
	}
	if len(uncovered) > 0 {
		first := uncovered[0]
		what := "its primary key"
		if first.identity == 'i' {
			what = fmt.Sprintf("index %q", first.index().Name)
		}
		fault = fmt.Sprintf("table %s%s: updates and deletes would carry only the replica identity (%s: %s), not the "+
			"collection key (%s), so that they could not be matched to documents. Run: %s", t, partitions(t, uncovered),
			what, strings.Join(first.index().Columns, ", "), strings.Join(key, ", "), remedies(uncovered, key))
	}
	if len(rejecting) > 0 {
		warning = fmt.Sprintf("table %s%s has no replica identity: the server rejects every UPDATE and DELETE of it while it "+
			"is in the publication; inserts are captured. To allow them, run: %s", t, partitions(t, rejecting),
			remedies(rejecting, key))
	}
	return fault, warning
}

// unpublished lists the generated columns of the identity that the publication does not send: from version 18 on the server
// rejects the updates and deletes of such a relation (GetRelationIdentityKeyBitmap, relcache.c).
func (r *replicaIdentity) unpublished(sends func(column string) bool) []string {
	x := r.index()
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(r.generated)) {
		if (r.identity == 'f' || x != nil && slices.Contains(x.Columns, name)) && !sends(name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// unpublishedRemedy has the server take updates and deletes though the publication lacks those generated columns of the identity.
func (r *replicaIdentity) unpublishedRemedy(publication string, missing, key []string) string {
	if !slices.ContainsFunc(missing, func(name string) bool { return r.generated[name] == "v" }) { // no publication sends virtual ones
		return "ALTER PUBLICATION " + quoteIdent(publication) + " SET (publish_generated_columns = stored);"
	}
	for i := range r.indexes {
		x := &r.indexes[i]
		if !x.NotNull || !x.covers(key) || slices.ContainsFunc(x.Columns, func(c string) bool { return r.generated[c] != "" }) {
			continue
		}
		if x.Primary {
			return "ALTER TABLE " + quoteTable(r.tableName) + " REPLICA IDENTITY DEFAULT;"
		}
		return "ALTER TABLE " + quoteTable(r.tableName) + " REPLICA IDENTITY USING INDEX " + quoteIdent(x.Name) + ";"
	}
	return "(create a unique index over columns of " + r.tableName.String() + " that are NOT NULL, and make it the replica identity)"
}

// unpublishedWarning tells of them for a table that the publication has.
func (r *replicaIdentity) unpublishedWarning(publication string, sends func(column string) bool, key []string) string {
	missing := r.unpublished(sends)
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("table %s: the server rejects every UPDATE and DELETE of it while it is in the publication, since its replica "+
		"identity has generated columns that are not published: %s. To allow them, run: %s", r.tableName,
		strings.Join(missing, ", "), r.unpublishedRemedy(publication, missing, key))
}

// partitions names the relations in question unless it is the table itself.
func partitions(t tableName, relations []*replicaIdentity) string {
	switch {
	case relations[0].tableName == t:
		return ""
	case len(relations) == 1:
		return fmt.Sprintf(" (partition %s)", relations[0].tableName)
	}
	return fmt.Sprintf(" (partition %s and %d more)", relations[0].tableName, len(relations)-1)
}

func remedies(relations []*replicaIdentity, key []string) string {
	var statements []string
	for i, r := range relations {
		if i == maxRemedies {
			statements = append(statements, fmt.Sprintf("(and so for %d more partitions)", len(relations)-i))
			break
		}
		statements = append(statements, r.remedy(key))
	}
	return strings.Join(statements, " ")
}

// A partitioned table stands for its leaves. Before version 11 all columns of an index are key columns. The %s is the generated
// columns.
const sqlIdentities = `
WITH RECURSIVE tree (root, oid) AS (
	SELECT r.oid, r.oid FROM unnest($1::oid[]) AS r (oid)
	UNION
	SELECT t.root, i.inhrelid
	FROM tree t JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT t.root::text, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
	has_schema_privilege(n.oid, 'USAGE')::text, has_any_column_privilege(c.oid, 'SELECT')::text,
	coalesce((
		SELECT jsonb_agg(jsonb_build_object('name', x.relname, 'primary', i.indisprimary, 'identity', i.indisreplident,
			'columns', k.columns, 'notnull', k.notnull) ORDER BY x.relname)
		FROM pg_index i
		JOIN pg_class x ON x.oid = i.indexrelid
		CROSS JOIN LATERAL (
			SELECT jsonb_agg(a.attname ORDER BY k.n) AS columns, bool_and(a.attnotnull) AS notnull
			FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
			WHERE k.n <= coalesce((to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts)
		) k
		WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
			AND i.indexprs IS NULL
	), '[]')::text, %s
FROM tree t
JOIN pg_class c ON c.oid = t.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind <> 'p'
ORDER BY t.root, n.nspname::text COLLATE "C", c.relname::text COLLATE "C"`

// loadIdentities returns, by the OID of a table, the relations that hold its rows: the leaves of a partitioned one, else
// itself.
func loadIdentities(ctx context.Context, conn *pgx.Conn, oids []uint32) (map[uint32][]replicaIdentity, error) {
	identities := make(map[uint32][]replicaIdentity, len(oids))
	generated := `'{}'`
	if majorVersion(conn) >= 18 {
		generated = `coalesce((SELECT jsonb_object_agg(a.attname, a.attgenerated) FROM pg_attribute a
		WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''), '{}')::text`
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(sqlIdentities, generated), oidArray(oids))
	if err != nil {
		return nil, fmt.Errorf("read the replica identities: %w", err)
	}
	var root, schema, name, kind, persistence, identity, usable, readable, indexes, columns string
	targets := []any{&root, &schema, &name, &kind, &persistence, &identity, &usable, &readable, &indexes, &columns}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		oid, err := strconv.ParseUint(root, 10, 32)
		if err != nil {
			return err
		}
		r := replicaIdentity{
			tableName: tableName{schema, name}, kind: kind[0], persistence: persistence[0], identity: identity[0],
			usable: usable == "true", readable: readable == "true",
		}
		if err := json.Unmarshal([]byte(indexes), &r.indexes); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(columns), &r.generated); err != nil {
			return err
		}
		identities[uint32(oid)] = append(identities[uint32(oid)], r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the replica identities: %w", err)
	}
	return identities, nil
}
