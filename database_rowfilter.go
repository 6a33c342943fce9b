// database_rowfilter.go owns what a query connection reads: the server's messages as they come, but for rows that are too large to be
// held, which are cut as they come in (value_cut.go) before the driver sees them, and for texts of another encoding (database_charset.go).
// Invariant: every other byte passes unchanged and unbuffered.

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// rowFilter stands between a connection and the driver. Owned by whoever reads the connection.
type rowFilter struct {
	in   io.Reader
	left int    // bytes still to pass of the message that is passing
	out  []byte // bytes to pass before any other

	// How rows are cut: nil while none are. Set between the results of queries.
	classes []cutClass
	rule    cutRule

	charset *charset // nil where the server sends UTF-8, or what passes for it
	have    []byte   // with a charset: read and not yet converted
	sent    []byte   // with a charset: what out is of, to be used again
}

// Read passes bytes on.
func (f *rowFilter) Read(p []byte) (int, error) {
	if len(f.out) > 0 {
		n := copy(p, f.out)
		if f.out = f.out[n:]; len(f.out) == 0 {
			f.out = nil
		}
		return n, nil
	}
	if f.charset != nil {
		if err := f.convert(); err != nil {
			return 0, err
		}
		return f.Read(p)
	}
	n, err := f.in.Read(p[:min(len(p), budget.message)]) // a row to be cut never comes whole
	for at := 0; at < n; {
		if f.left > 0 {
			step := min(f.left, n-at)
			f.left -= step
			at += step
			continue
		}
		head := p[at:n]
		if len(head) < messageHead {
			head = append(make([]byte, 0, messageHead), head...)
			if _, err := io.ReadFull(f.in, head[len(head):messageHead]); err != nil {
				return at, err
			}
			head = head[:messageHead]
		}
		size := 1 + int(binary.BigEndian.Uint32(head[1:]))
		if f.classes != nil && head[0] == 'D' && size > budget.message {
			f.out, err = f.cut(size, slices.Clone(head[messageHead:]))
			if err != nil || at > 0 {
				return at, err
			}
			return f.Read(p)
		}
		f.left = max(size, messageHead)
		if len(head) > n-at { // read ahead
			f.left -= messageHead
			f.out = head
			if at > 0 {
				return at, nil
			}
			return f.Read(p)
		}
	}
	return n, err
}

// convert fills out with whole messages, their texts converted. After an error what has been read is kept.
func (f *rowFilter) convert() error {
	f.sent = f.sent[:0]
	for {
		at, want := 0, 0
		for len(f.have)-at >= messageHead {
			size := max(1+int(binary.BigEndian.Uint32(f.have[at+1:])), messageHead)
			if f.classes != nil && f.have[at] == 'D' && size > budget.message/charsetGrowth {
				if at > 0 {
					break // those ahead of it come first
				}
				rest := f.have[messageHead:min(size, len(f.have))]
				behind := slices.Clone(f.have[messageHead+len(rest):])
				var err error
				f.out, err = f.cut(size, slices.Clone(rest))
				f.have = behind
				return err
			}
			if want = size; len(f.have)-at < size {
				break
			}
			f.sent = f.charset.appendReceived(f.sent, f.have[at:at+size])
			at += size
		}
		if at > 0 {
			f.have = append(f.have[:0], f.have[at:]...)
			f.out = f.sent
			return nil
		}
		f.have = slices.Grow(f.have, max(64<<10, want-len(f.have)))
		n, err := f.in.Read(f.have[len(f.have):cap(f.have)])
		if f.have = f.have[:len(f.have)+n]; n == 0 && err != nil {
			return err
		}
	}
}

// cut reads a row of a query, of which have is here already, and returns it, its values cut. A row that was cut for its own
// sake has one value more, its level: so that is known with the row, whenever the driver gets to it.
func (f *rowFilter) cut(size int, have []byte) ([]byte, error) {
	r := rowCut{
		pieces:  pieces{in: f.in, have: have, left: size - messageHead - len(have), room: make([]byte, 64<<10)},
		rule:    f.rule,
		charset: f.charset,
		dst:     append(makeBuffer(min(size, f.rule.bound+2*f.rule.value)), 'D', 0, 0, 0, 0),
	}
	level, err := r.row(f.classes)
	if err == nil && len(r.have)+r.left > 0 {
		err = fmt.Errorf("%d bytes behind its last column", len(r.have)+r.left)
	}
	if err != nil {
		return nil, fmt.Errorf("a row of %d bytes: %w", size, err)
	}
	if level > 0 {
		text := strconv.Itoa(level)
		r.dst = binary.BigEndian.AppendUint32(r.dst, uint32(len(text)))
		r.dst = append(r.dst, text...)
		columns := r.dst[messageHead:]
		binary.BigEndian.PutUint16(columns, 1+binary.BigEndian.Uint16(columns))
	}
	binary.BigEndian.PutUint32(r.dst[1:], uint32(len(r.dst)-1))
	return r.dst, nil
}

// filterRows has every connection of the configuration read through a filter, and with a charset written through one, too.
func filterRows(config *pgconn.Config, charset *charset) {
	filter := &rowFilter{}
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		*filter = rowFilter{in: r, charset: charset}
		if charset != nil {
			w = &charsetWriter{out: w, charset: charset}
		}
		return pgproto3.NewFrontend(filter, w)
	}
	before := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		conn.CustomData()[rowFilterKey] = filter
		if before != nil {
			return before(ctx, conn)
		}
		return nil
	}
}

// charsetOfConn returns the charset of a connection whose reading and writing another is about to take over. REQUIRES: nothing
// is being read.
func charsetOfConn(conn *pgconn.PgConn) *charset {
	filter, ok := conn.CustomData()[rowFilterKey].(*rowFilter)
	if !ok {
		return nil
	}
	assert(len(filter.have)+len(filter.out) == 0, "nothing is read ahead of what takes over")
	return filter.charset
}

const rowFilterKey = "source-postgres row filter"

// cutRows has the rows of the connection's next queries cut, until it is called with nil. Columns without a class are not
// cut. REQUIRES: no result is being read.
func cutRows(conn *pgconn.PgConn, classes []cutClass, rule cutRule) {
	if filter, ok := conn.CustomData()[rowFilterKey].(*rowFilter); ok {
		filter.classes, filter.rule = classes, rule
	}
}

// rowLevel takes the level off a row of so many columns: 0 of one that was not cut for its own sake.
func rowLevel(row [][]byte, columns int) ([][]byte, int, error) {
	if len(row) == columns+1 {
		level, err := strconv.Atoi(string(row[columns]))
		return row[:columns], level, err
	}
	if len(row) != columns {
		return nil, 0, errors.New("a row with another number of columns than its description")
	}
	return row, 0, nil
}
