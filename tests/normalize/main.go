// Command normalize brings what a preview printed, ours or flowctl's, to the form that tests/expected keeps: the
// documents alone, sorted, their members in order, and what differs from run to run replaced. Log positions become
// their rank among all of the run, so that the order of changes stays visible.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := normalize(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "normalize: "+err.Error())
		os.Exit(1)
	}
}

// document is one printed line.
type document struct {
	table string // the last part of the collection's name
	body  map[string]any
}

// normalize reads lines of the form ["collection",{…}] and writes the normal form of the documents among them.
func normalize(r io.Reader, w io.Writer) error {
	var documents []document
	var positions []int64
	in := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			d, lineErr := parseLine(line)
			if lineErr != nil {
				return fmt.Errorf("line %d: %w", n, lineErr)
			}
			if d != nil {
				documents = append(documents, *d)
				positions = append(positions, d.positions()...)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	slices.Sort(positions)
	positions = slices.Compact(positions)

	lines := make([]string, 0, len(documents))
	for _, d := range documents {
		d.hideVolatile(positions)
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode([]any{d.table, d.body}); err != nil {
			return err
		}
		lines = append(lines, out.String())
	}
	slices.Sort(lines)
	_, err := io.WriteString(w, strings.Join(lines, ""))
	return err
}

// parseLine returns nil for a line that is no document, such as the state.
func parseLine(line []byte) (*document, error) {
	var parts []json.RawMessage
	var collection string
	if err := json.Unmarshal(line, &parts); err != nil {
		return nil, fmt.Errorf("want [\"collection\",{…}]: %w", err)
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("want [\"collection\",{…}], have %d elements", len(parts))
	}
	if err := json.Unmarshal(parts[0], &collection); err != nil {
		return nil, fmt.Errorf("collection: %w", err)
	}
	if collection == "connectorState" || collection == "applied.actionDescription" {
		return nil, nil
	}
	d := &document{table: collection[strings.LastIndexAny(collection, "/.")+1:]}
	decoder := json.NewDecoder(bytes.NewReader(parts[1]))
	decoder.UseNumber()
	if err := decoder.Decode(&d.body); err != nil {
		return nil, fmt.Errorf("document: %w", err)
	}
	return d, nil
}

// source returns _meta.source, or nil.
func (d *document) source() map[string]any {
	meta, _ := d.body["_meta"].(map[string]any)
	source, _ := meta["source"].(map[string]any)
	return source
}

// positions returns the log positions of the change and of its transaction, loc[1] and loc[2]; a backfilled row,
// whose loc starts with -1, has none.
func (d *document) positions() []int64 {
	loc, _ := d.source()["loc"].([]any)
	var positions []int64
	for _, value := range loc {
		number, _ := value.(json.Number)
		position, err := number.Int64()
		if err != nil || position < 0 {
			return nil
		}
		positions = append(positions, position)
	}
	if len(positions) != 3 {
		return nil
	}
	return positions[1:]
}

// hideVolatile replaces what differs from run to run; positions are all of the run, sorted.
func (d *document) hideVolatile(positions []int64) {
	if meta, ok := d.body["_meta"].(map[string]any); ok {
		delete(meta, "uuid") // flowctl's
	}
	source := d.source()
	delete(source, "txid") // only there if the collection has a field for it
	if _, ok := source["ts_ms"]; ok {
		source["ts_ms"] = "…"
	}
	if own := d.positions(); own != nil {
		ranks := []any{"…"} // loc[0] depends on what else the connection has received
		for _, position := range own {
			rank, _ := slices.BinarySearch(positions, position)
			ranks = append(ranks, "#"+strconv.Itoa(rank))
		}
		source["loc"] = ranks
	}
}
