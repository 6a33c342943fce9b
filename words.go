// words.go owns the words that all other files use: a position in the WAL, the name of a table and how SQL spells names and
// texts, an error for the operator, and the limits that more than one file keeps.
// Invariant: it uses nothing of ours.

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"
)

// lsn is a position in the write-ahead log; its text form is X/X in upper-case hex.
type lsn = pglogrepl.LSN

// tableName is a schema-qualified name in exact spelling.
type tableName struct{ schema, name string }

func (t tableName) String() string { return t.schema + "." + t.name }

// isText reports whether the name is text. Neither JSON nor the platform has a name for another, and one that is spelled
// otherwise is another table's, or nobody's.
func (t tableName) isText() bool { return utf8.ValidString(t.schema) && utf8.ValidString(t.name) }

// quoteIdent quotes one identifier. A NUL byte, which no name can hold, is dropped.
func quoteIdent(name string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(name, "\x00", ""), `"`, `""`) + `"`
}

func quoteTable(t tableName) string { return quoteIdent(t.schema) + "." + quoteIdent(t.name) }

// quoteLiteral quotes a text so that it reads the same whatever standard_conforming_strings says.
func quoteLiteral(text string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\x00", ""), `'`, `''`)
	if strings.Contains(text, `\`) {
		return ` E'` + strings.ReplaceAll(text, `\`, `\\`) + `'`
	}
	return `'` + text + `'`
}

// literal quotes a text for a statement that a person is to run.
func literal(text string) string { return strings.TrimPrefix(quoteLiteral(text), " ") }

// oidArray is the text form of an oid[].
func oidArray(oids []uint32) string {
	b := []byte{'{'}
	for i, oid := range oids {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(oid), 10)
	}
	return string(append(b, '}'))
}

// userError is an error whose text is for the operator: what is wrong and how to fix it.
type userError struct{ msg string }

func (e *userError) Error() string { return e.msg }

// maxDocument keeps a document's message below the runtime's limit of 64 MiB (spec/flow-protocol.md §2.6).
const maxDocument = 60 << 20

// truncateAt is the size from which the incumbent truncates values, 8 MiB.
const truncateAt = 8 << 20

// maxFaults bounds the faults shown.
const maxFaults = 20

// splitAddress splits host, host:port, [IPv6]:port, [IPv6] or a bare IPv6 address.
func splitAddress(address, defaultPort string) (host, port string, ok bool) {
	isIPv6 := func(s string) bool {
		addr, err := netip.ParseAddr(s)
		return err == nil && addr.Is6()
	}
	if isIPv6(address) || !strings.ContainsAny(address, ":[]") {
		return address, defaultPort, address != ""
	}
	if address[0] == '[' && address[len(address)-1] == ']' {
		host = address[1 : len(address)-1]
		return host, defaultPort, isIPv6(host)
	}
	host, port, err := net.SplitHostPort(address)
	return host, port, err == nil && host != "" && (address[0] != '[' || isIPv6(host))
}

// connectTimeout bounds one attempt to reach the server and to log in.
const connectTimeout = 20 * time.Second

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)
}
