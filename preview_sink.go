package main

// preview_sink.go owns what preview keeps: the documents it printed and the state file.
//
// Invariant: a document is printed or kept in the output file only once its checkpoint has arrived, and the state file
// names the checkpoint and the length of the output file together: after a kill at any instant the two agree.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
)

// previewState is the state file. A file without connectorState is a bare connector state, as other tools write it.
type previewState struct {
	ConnectorState json.RawMessage `json:"connectorState"`
	OutputBytes    *int64          `json:"outputBytes,omitempty"` // committed length of the output file
}

// previewSink prints documents and keeps the state.
//
//	buf:  … printed …|… committed with the next commit …|… after the last checkpoint …|
//	                 ^written (output file only)       ^marked                        ^len(buf)
//
// written can lie beyond marked: an output file takes the documents of a large transaction before its checkpoint.
// While a commit is made durable it alone uses printing, length and state.
type previewSink struct {
	options *previewOptions
	console *console
	tables  []tableName
	quoted  []string // the tables as JSON strings
	keys    [][]string
	buf     []byte
	marked  int
	printed []byte   // of the last commit, to print and then to reuse
	output  *os.File // nil: stdout
	start   int64    // output file: offset of buf[0]; everything before it has been written
	length  int64    // output file: committed length
	state   json.RawMessage
	applied *pf.CaptureSpec       // the last one; nil before
	docs    int64                 // since the last commit
	pending int64                 // bytes of them
	failed  atomic.Pointer[error] // of ours, not the connector's
}

// newPreviewSink reads the state file and cuts the output file back to what it says.
func newPreviewSink(o *previewOptions, console *console) (*previewSink, error) {
	k := &previewSink{options: o, console: console, state: json.RawMessage("{}")}
	var saved previewState
	if err := checkWritable("--state", o.stateFile); err != nil {
		return nil, err
	}
	if err := checkWritable("--output", o.outputFile); err != nil {
		return nil, err
	}
	if o.stateFile != "" {
		raw, err := os.ReadFile(o.stateFile)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			if err := json.Unmarshal(raw, &saved); err != nil {
				return nil, fmt.Errorf("%s: %w", o.stateFile, err)
			}
			k.state = saved.ConnectorState
			if k.state == nil {
				k.state = raw
			}
		}
	}
	if o.outputFile == "" {
		return k, nil
	}
	var err error
	if k.output, err = os.OpenFile(o.outputFile, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	if saved.OutputBytes != nil {
		k.length = *saved.OutputBytes
	}
	info, err := k.output.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case info.Size() < k.length:
		return nil, fmt.Errorf("%s has %d bytes, but %s says that %d are committed: remove both to start over",
			o.outputFile, info.Size(), o.stateFile, k.length)
	case info.Size() > 0 && saved.OutputBytes == nil:
		return nil, fmt.Errorf("%s is not empty and no state file says how much of it is committed: remove it to start over",
			o.outputFile)
	case saved.OutputBytes == nil: // killed before the first commit, the next run must know that nothing is committed
		if err := k.save(previewState{ConnectorState: k.state, OutputBytes: &k.length}); err != nil {
			return nil, err
		}
	}
	return k, k.rollback()
}

// save writes the state file, if there is to be one.
func (k *previewSink) save(state previewState) error {
	if k.options.stateFile == "" {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return writeFileDurably(k.options.stateFile, append(text, '\n'))
}

// bind says what the bindings of the documents to come are.
func (k *previewSink) bind(capture *pf.CaptureSpec) {
	for _, b := range capture.Bindings {
		table, _, _ := tableOfResource(b.ResourceConfigJson)
		quoted, _ := json.Marshal(table.String())
		k.tables = append(k.tables, table)
		k.quoted = append(k.quoted, string(quoted))
		k.keys = append(k.keys, columnsOfKey(b.Collection.Key))
	}
}

func (k *previewSink) document(binding int, doc []byte) error {
	k.docs++
	k.pending += int64(len(doc))
	if !k.options.json {
		k.buf = appendReadable(k.buf, k.tables[binding], k.keys[binding], doc)
		return k.spill()
	}
	k.buf = append(append(append(k.buf, '['), k.quoted[binding]...), ',')
	if bytes.IndexByte(doc, '\n') >= 0 {
		var line bytes.Buffer
		if err := json.Compact(&line, doc); err != nil {
			return k.fail(fmt.Errorf("document of %s: %w", k.tables[binding], err))
		}
		doc = line.Bytes()
	}
	k.buf = append(append(k.buf, doc...), ']', '\n')
	return k.spill()
}

// spill writes what an output file can take early.
func (k *previewSink) spill() error {
	if k.output == nil || len(k.buf) < 1<<20 {
		return nil
	}
	return k.write()
}

// write writes all of buf to the output file.
func (k *previewSink) write() error {
	if _, err := k.output.WriteAt(k.buf, k.start); err != nil {
		return k.fail(err)
	}
	k.start += int64(len(k.buf))
	k.marked -= len(k.buf) // below zero when the checkpoint lies in what was written
	k.buf = k.buf[:0]
	return nil
}

func (k *previewSink) sourcedSchema(int, json.RawMessage) error { return nil }

// marker prints a line of its own, as a document: in JSON ["backfillBegin",{"binding":"schema.table"}].
func (k *previewSink) marker(binding int, kind string) error {
	if k.options.json {
		k.buf = fmt.Appendf(k.buf, `["%s%s",{"binding":%s}]`+"\n", strings.ToLower(kind[:1]), kind[1:], k.quoted[binding])
	} else {
		k.buf = fmt.Appendf(k.buf, "%-8s  %s\n", kind, k.tables[binding])
	}
	return nil
}

func (k *previewSink) checkpoint(patch *pf.ConnectorState) error {
	if k.options.outputState {
		line, err := new(jsonpb.Marshaler).MarshalToString(patch)
		if err != nil {
			return k.fail(err)
		}
		k.buf = append(append(append(k.buf, `["connectorState",`...), line...), ']', '\n')
	}
	k.marked = len(k.buf)
	return nil
}

func (k *previewSink) commit(c commitment) func() (int, error) {
	if c.synthetic {
		k.marked = len(k.buf)
	}
	committed := k.start + int64(k.marked)
	var written error
	k.printed = k.printed[:0]
	if k.output != nil {
		written = k.write()
	} else {
		k.printed = append(k.printed, k.buf[:k.marked]...)
		k.buf = k.buf[:copy(k.buf, k.buf[k.marked:])]
		k.marked = 0
	}
	docs, pending := k.docs, k.pending
	k.docs, k.pending = 0, 0
	return func() (int, error) {
		if written != nil {
			return 0, written
		}
		if c.state == nil {
			c.state = k.state
		}
		saved := previewState{ConnectorState: c.state}
		if k.output != nil {
			if err := k.output.Sync(); err != nil {
				return 0, k.fail(err)
			}
			k.length, saved.OutputBytes = committed, &committed
		} else if err := k.console.print(os.Stdout, k.printed); err != nil {
			return 0, k.fail(err)
		}
		if err := k.save(saved); err != nil {
			return 0, k.fail(err)
		}
		k.state = c.state
		k.console.captured(docs, pending)
		return c.checkpoints, nil
	}
}

// rollback forgets everything after the last commit.
func (k *previewSink) rollback() error {
	k.buf, k.marked, k.docs, k.pending = k.buf[:0], 0, 0, 0
	k.start = k.length
	if k.output == nil {
		return nil
	}
	return k.output.Truncate(k.length)
}

// fail remembers an error that a restart of the connector would not mend.
func (k *previewSink) fail(err error) error {
	k.failed.Store(&err)
	return err
}

func (k *previewSink) close() {
	if k.output != nil {
		_ = k.rollback()
		k.output.Close()
	}
}

// checkWritable says ahead of a capture that a file's folder is not there, or cannot be written to.
func checkWritable(flag, path string) error {
	if path == "" {
		return nil
	}
	folder := filepath.Dir(path)
	temp, err := os.CreateTemp(folder, filepath.Base(path)+".*.tmp")
	if err == nil {
		return errors.Join(temp.Close(), os.Remove(temp.Name()))
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s %s: there is no folder %s: make it first (in a container: mount it)", flag, path, folder)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s %s: the folder %s cannot be written to by user %d: change its owner or rights (in a container: "+
			"docker run --user \"$(id -u):$(id -g)\")", flag, path, folder, os.Getuid())
	}
	return fmt.Errorf("%s %s: %w", flag, path, err)
}

// writeFileDurably replaces a file so that after a crash it has its old content or the new.
func writeFileDurably(path string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// appendReadable appends one line that shows a document to a person: what happened, where, its key, the row cut short.
func appendReadable(dst []byte, table tableName, key []string, doc []byte) []byte {
	const width = 160 // of the row: two or three terminal lines at most
	var row map[string]json.RawMessage
	var meta struct {
		Op     string `json:"op"`
		Source struct {
			Snapshot bool    `json:"snapshot"`
			Loc      []int64 `json:"loc"`
		} `json:"source"`
	}
	if json.Unmarshal(doc, &row) != nil || json.Unmarshal(row["_meta"], &meta) != nil {
		return append(append(dst, doc...), '\n')
	}
	op := map[string]string{"c": "insert", "u": "update", "d": "delete"}[meta.Op]
	if meta.Source.Snapshot {
		op = "backfill"
	}
	dst = fmt.Appendf(dst, "%-8s  %s ", op, table)
	for _, column := range key {
		if value, ok := row[column]; ok {
			dst = fmt.Appendf(dst, " %s=%s", column, cut(string(value), 40))
			delete(row, column)
		}
	}
	delete(row, "_meta")
	rest := ""
	for _, column := range slices.Sorted(maps.Keys(row)) {
		rest += " " + column + "=" + cut(string(row[column]), 60)
		if len(rest) > width {
			break
		}
	}
	if rest != "" {
		dst = append(append(dst, " "...), cut(rest, width)...)
	}
	return append(dst, '\n')
}

// previewOptions are the flags of preview.
type previewOptions struct {
	tables           string
	mode             string
	backfill         uint
	stateFile        string
	outputFile       string
	json             bool
	outputState      bool
	exitWhenCaughtUp bool
	untilIdle        time.Duration
	restart          bool
	killEvery        time.Duration
	runtime          string
	indirect         bool
}

// columnsOfKey returns the columns that key pointers name; those of documents' own fields stay pointers.
func columnsOfKey(key []string) []string {
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	columns := make([]string, 0, len(key))
	for _, pointer := range key {
		if !strings.HasPrefix(pointer, "/_meta/") {
			pointer = unescape.Replace(strings.TrimPrefix(pointer, "/"))
		}
		columns = append(columns, pointer)
	}
	return columns
}

// tableOfResource reads what preview needs of a resource config.
func tableOfResource(raw json.RawMessage) (tableName, backfillMode, error) {
	var r struct {
		Namespace string       `json:"namespace"`
		Stream    string       `json:"stream"`
		Mode      backfillMode `json:"mode"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return tableName{}, "", fmt.Errorf("resource config %s: %w", raw, err)
	}
	return tableName{r.Namespace, r.Stream}, r.Mode, nil
}
