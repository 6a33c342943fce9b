package main

// bench_test.go measures the way of a row without a server: a WAL message decoded, judged, encoded and framed; a scanned
// row buffered, settled and framed. Each body runs once as a test, which looks at what came out. bench/README.md keeps
// commands and results.

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// wideTable is wideRow's table as the catalog has it.
func wideTable() (*table, tuple) {
	p, row := wideRow()
	t := &table{
		tableName: tableName{"public", "wide"}, oid: testOID, kind: 'r', persistence: 'p', published: true, identity: 'd',
		primaryKey: []string{"column_00"}, identityColumns: []string{"column_00"}, reltuples: -1,
	}
	for i, c := range p.columns {
		t.columns = append(t.columns, column{
			attnum: int16(i + 1), name: c.name, typeOID: c.typeOID, typmod: -1, notNull: i == 0, byteOrder: true,
		})
	}
	return t, row
}

// wideCapture is a capture of the wide table that writes to w.
func wideCapture(t testing.TB, c codec, w io.Writer) (*testCapture, tuple) {
	table, row := wideTable()
	capture := newTestCapture(t, table, modeAutomatic)
	capture.out = newOutput(w, c)
	capture.ledger.out = capture.out
	return capture, row
}

func spellTuple(row tuple) (values []string) {
	for _, v := range row {
		values = append(values, string(rune(v.kind))+string(v.data))
	}
	return values
}

// streamBody is a transaction of one change of each kind named, ready to be handled again and again.
func streamBody(t testing.TB, c *testCapture, messages ...string) func() error {
	c.activeNow().describeTable()
	if err := c.send(beginText(1<<40, 7)); err != nil {
		t.Fatal(err)
	}
	var made []walMessage
	for _, m := range messages {
		made = append(made, walMessage{kind: 'w', start: c.at, data: []byte(m)})
	}
	return func() error {
		for i := range made {
			if err := c.handle(&made[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

var streamBenchmarks = []struct {
	name string
	make func(row []string) []string
}{
	{"insert", func(row []string) []string { return []string{insertText(testOID, row...)} }},
	{"update", func(row []string) []string { return []string{updateText(testOID, "", nil, row)} }},
	{"update full", func(row []string) []string { return []string{updateText(testOID, "O", row, row)} }},
	{"delete", func(row []string) []string {
		key := []string{row[0]}
		for range row[1:] {
			key = append(key, "n")
		}
		return []string{deleteText(testOID, "K", key...)}
	}},
}

func BenchmarkStream(b *testing.B) {
	for _, codec := range []codec{codecProto, codecJSON} {
		for _, bench := range streamBenchmarks {
			b.Run(fmt.Sprintf("%s/%s", codec, bench.name), func(b *testing.B) {
				c, row := wideCapture(b, codec, io.Discard)
				messages := bench.make(spellTuple(row))
				run := streamBody(b, c, messages...)
				b.SetBytes(int64(len(messages[0])))
				b.ReportAllocs()
				for b.Loop() {
					if err := run(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func TestStreamBenchmarks(t *testing.T) {
	for _, bench := range streamBenchmarks {
		var sink bytes.Buffer
		c, row := wideCapture(t, codecJSON, &sink)
		run := streamBody(t, c, bench.make(spellTuple(row))...)
		for range 3 {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.out.flush(); err != nil {
			t.Fatal(err)
		}
		if all := parseOutput(t, sink.Bytes()); len(all) != 3 {
			t.Errorf("%s: %d documents", bench.name, len(all))
		}
	}
}

// chunkBody buffers and settles chunks of the rows.
func chunkBody(t testing.TB, c *testCapture, row tuple, rows, patches int) func() {
	c.backfill()
	c.settings.chunkRows = rows
	keys := make([][]byte, rows)
	for i := range keys {
		keys[i] = fmt.Append(nil, 1_000_000+i)
	}
	var buffers chunkBuffers
	var identity []byte
	return func() {
		ck := &chunk{
			binding: c.b, plan: c.b.plan, table: c.b.table, limit: rows, budget: 1 << 30, seed: c.seed, generation: c.b.scan.generation,
		}
		ck.borrow(buffers)
		for _, key := range keys {
			row[0].data = key
			first := len(ck.rows)
			ck.add(row)
			ck.endAt(row, false, first)
		}
		for i := range patches {
			row[0].data = keys[i*7919%rows]
			identity = appendIdentity(identity[:0], row[:1])
			ck.put(identity, row, nil, false)
			ck.compact()
		}
		order, err := c.b.key.appendOrder(nil, ck.end)
		if err != nil {
			t.Fatal(err)
		}
		ck.order, c.b.scan.chunk = order, ck
		if err := c.settleChunk(ck); err != nil {
			t.Fatal(err)
		}
		buffers, c.rounds.spare = c.rounds.spare[0], c.rounds.spare[:0]
	}
}

func BenchmarkChunk(b *testing.B) {
	const rows = 10_000
	for _, patches := range []int{0, rows} {
		b.Run(fmt.Sprintf("%d patches", patches), func(b *testing.B) {
			c, row := wideCapture(b, codecProto, io.Discard)
			run := chunkBody(b, c, row, rows, patches)
			run()
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
		})
	}
}

func TestChunkBenchmark(t *testing.T) {
	var sink bytes.Buffer
	c, row := wideCapture(t, codecJSON, &sink)
	run := chunkBody(t, c, row, 50, 20)
	run()
	run()
	if err := c.out.flush(); err != nil {
		t.Fatal(err)
	}
	documents, checkpoints := 0, 0
	for _, e := range parseOutput(t, sink.Bytes()) {
		if e.doc != "" {
			documents++
		} else {
			checkpoints++
		}
	}
	if documents != 100 || checkpoints != 2 || c.b.state.Backfilled != 100 {
		t.Errorf("%d documents, %d checkpoints, %d backfilled", documents, checkpoints, c.b.state.Backfilled)
	}
}

// BenchmarkReceive is the session's receive half on bytes that are there at once.
func BenchmarkReceive(b *testing.B) {
	frame := xlogData(7, insertText(testOID, "t1234567890", "tsome text of a usual length", "t2024-05-17 12:34:56.789012+00", "n"))
	s := pipeSession(&endlessConn{frames: bytes.Repeat(frame, 2000)})
	go func() { _ = s.receive(b.Context()) }()
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// endlessConn repeats its frames without end.
type endlessConn struct {
	scriptedConn
	frames []byte
	at     int
}

func (c *endlessConn) Read(p []byte) (int, error) {
	n := copy(p, c.frames[c.at:])
	c.at = (c.at + n) % len(c.frames)
	return n, nil
}
