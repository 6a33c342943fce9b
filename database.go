package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// database is the way to the server: a pool of query connections and new replication connections, all with pinned
// session settings.
type database struct {
	settings *settings
	pool     *pgxpool.Pool
	version  int    // server_version_num
	timeZone string // of the first query session; pinned on all
	standby  bool   // pg_is_in_recovery()
	sqlASCII bool   // server_encoding is SQL_ASCII: client_encoding stays SQL_ASCII
}

// connectDatabase opens the pool and one connection to prove that it works. A failure is one userError.
func connectDatabase(ctx context.Context, s *settings) (*database, error) { panic("stub") }

func (db *database) close() { panic("stub") }

// acquire hands out a query connection; release it when done. A broken one is replaced.
func (db *database) acquire(ctx context.Context) (*pgxpool.Conn, error) { panic("stub") }

// with runs f on a query connection.
func (db *database) with(ctx context.Context, f func(*pgx.Conn) error) error { panic("stub") }

// connectReplication opens a walsender connection (replication=database) with the same pinned settings.
func (db *database) connectReplication(ctx context.Context) (*pgconn.PgConn, error) { panic("stub") }

func quoteIdent(name string) string   { panic("stub") }
func quoteTable(t tableName) string   { panic("stub") }
func quoteLiteral(text string) string { panic("stub") }
