package main

// preview_table.go owns how a command of a person reads a table: as a backfill reads it, for itself.

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"
)

// readingBinding is a binding of a table that is read by a key.
func readingBinding(ctx context.Context, db *database, read *tableCatalog, key []string, t *table) (*binding, error) {
	if err := keyColumnsFault(t, key); err != nil {
		return nil, err
	}
	oids := make([]uint32, len(t.columns))
	for i := range t.columns {
		oids[i] = t.columns[i].typeOID
	}
	casts := make(map[uint32]comparison)
	if err := loadCasts(ctx, db, read.types, casts, oids); err != nil {
		return nil, err
	}
	b := &binding{resource: resource{table: t.tableName}, collectionKey: key}
	if err := b.prepare(t, read.types, db.settings, casts); err != nil {
		return nil, fmt.Errorf("%s: %w", t.tableName, err)
	}
	b.meta.Sight = t.sight
	return b, nil
}

// eachDocument reads a table in the order of its key, in chunks of so many rows at most, and calls f with the document of each row, which
// is valid during the call.
func eachDocument(ctx context.Context, db *database, b *binding, limit int, f func(doc []byte) error) error {
	from := &provenance{snapshot: true, loc: [3]int64{-1}}
	seed := maphash.MakeSeed()
	var doc []byte
	var row tuple
	for waited := time.Duration(0); ; {
		ck := &chunk{
			binding: b, plan: b.plan, table: b.table, limit: limit, budget: budget.chunks / 4, seed: seed,
			classes: b.plan.cutClasses(), alone: true,
		}
		err := ck.readOn(ctx, db, b.scanQuery(ck, db.settings, db))
		switch {
		case err == nil:
		case sqlState(err) == codeLockTaken && waited < time.Minute: // DDL: it ends, or shows
			waited += time.Second
			continue
		default:
			return err
		}
		for i := range ck.rows {
			if ck.rows[i].dead {
				continue
			}
			row = ck.row(row, i)
			if doc, err = b.plan.appendFitting(doc[:0], from, &document{op: 'c', row: row}); err != nil {
				return err
			}
			if err := f(doc); err != nil {
				return err
			}
		}
		if ck.final {
			return nil
		}
		if ck.end == nil {
			return errors.New("a chunk of it came to no end")
		}
		b.scan.readFrom(ck.end, nil)
	}
}
