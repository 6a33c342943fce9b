package main

// preview_process.go owns the connector's process as the stand-in runtime sees it: start, framing of both codecs from the
// runtime's side, logs, kill and exit. It is as strict as the stricter of the two runtimes.
//
// Invariant: a process is reaped after its stdout and stderr have been read to their ends.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
)

const (
	maxResponseBytes = 1 << 26 // the runtime's limit of one message from an image connector
	maxLogBytes      = 1 << 20 // a longer log line is cut
)

// connectorProcess is a running connector.
type connectorProcess struct {
	cmd       *exec.Cmd
	codec     codec
	encode    func(dst []byte, request *pc.Request, c codec) ([]byte, error)
	stdin     io.WriteCloser
	writing   sync.Mutex // held while a request is written
	responses *responseReader
	killed    atomic.Bool
	timer     atomic.Pointer[time.Timer]
	unwatch   func() bool   // no longer stop when the context of start ends
	logs      chan struct{} // closed when stderr has ended
	lastLog   string        // written by the goroutine of readLogs; read after logs is closed
}

// start starts the connector. wrap, if not nil, comes between its stdout and the decoder.
func (d *runtimeDriver) start(ctx context.Context, wrap func(io.Reader) io.Reader) (*connectorProcess, error) {
	command := d.command
	if len(command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = []string{self}
	}
	p := &connectorProcess{
		cmd: exec.Command(command[0], command[1:]...), codec: d.codec, encode: d.encode, logs: make(chan struct{}),
	}
	if p.encode == nil {
		p.encode = appendRequest
		if d.indirect {
			p.encode = appendIndirectRequest
		}
	}
	level := d.logLevel
	if level == "" {
		level = "info"
	}
	p.cmd.Env = append(os.Environ(), "LOG_FORMAT=json", "LOG_LEVEL="+level, "FLOW_RUNTIME_CODEC="+codecName(d.codec))
	p.cmd.Env = append(p.cmd.Env, d.env...)
	// A group of its own: Ctrl-C in a terminal reaches the runtime alone, which then closes the connector's stdin.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the connector: %w", err)
	}
	var r io.Reader = stdout
	if wrap != nil {
		r = wrap(stdout)
	}
	p.responses = newResponseReader(r, d.codec)
	go p.readLogs(stderr, d.onLog)
	p.unwatch = context.AfterFunc(ctx, p.stop)
	return p, nil
}

// handshake sends the Spec request that comes first in every process, and checks its answer.
func (p *connectorProcess) handshake() error {
	err := p.send(&pc.Request{Spec: &pc.Request_Spec{ConnectorType: pf.CaptureSpec_LOCAL, ConfigJson: []byte("{}")}})
	if err != nil {
		return err
	}
	r, err := p.responses.next()
	if err != nil {
		return err
	}
	if r.Spec == nil {
		return fmt.Errorf("spec: the connector answered with %s", responseKind(r))
	}
	return r.Spec.Validate()
}

// send writes one request.
func (p *connectorProcess) send(request *pc.Request) error {
	frame, err := p.encode(nil, request, p.codec)
	if err != nil {
		return err
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err = p.stdin.Write(frame)
	return err
}

func (p *connectorProcess) kill() {
	p.killed.Store(true)
	_ = p.cmd.Process.Kill()
}

// stop asks the connector to stop by closing its stdin, and kills it after stopGrace.
func (p *connectorProcess) stop() {
	p.stdin.Close()
	if old := p.timer.Swap(time.AfterFunc(stopGrace, p.kill)); old != nil {
		old.Stop()
	}
}

// wait reaps the process once its stdout has been read to the end. A failure is a *connectorExit.
func (p *connectorProcess) wait() error {
	<-p.logs
	err := p.cmd.Wait()
	p.unwatch()
	if timer := p.timer.Load(); timer != nil {
		timer.Stop()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &connectorExit{status: exit.String(), message: p.lastLog}
	}
	return err
}

// readLogs reads stderr to its end. Lines that are no records and follow each other make one message, as a stack trace.
func (p *connectorProcess) readLogs(stderr io.Reader, onLog func(connectorLog)) {
	defer close(p.logs)
	r := bufio.NewReaderSize(stderr, 64<<10)
	raw := false
	for {
		line, err := readLine(r, maxLogBytes)
		if len(line) > 0 {
			log := parseLog(line)
			switch {
			case log.level == "" && raw && len(p.lastLog) < maxLogBytes:
				p.lastLog += "\n" + log.message
			default:
				p.lastLog = log.message
			}
			raw = log.level == ""
			if onLog != nil {
				onLog(log)
			}
		}
		if err != nil {
			return
		}
	}
}

// readLine reads a line without its end, of which it keeps at most limit bytes.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if room := limit - len(line); len(part) > room {
			part = part[:max(room, 0)]
		}
		line = append(line, part...)
		if err == bufio.ErrBufferFull {
			continue
		}
		return bytes.TrimRight(line, "\r\n\t "), err
	}
}

func parseLog(line []byte) connectorLog {
	var record map[string]json.RawMessage
	if len(line) == 0 || line[0] != '{' || json.Unmarshal(line, &record) != nil {
		return connectorLog{message: string(line), line: string(line)}
	}
	text := func(names ...string) string {
		for _, name := range names {
			var s string
			if raw, ok := record[name]; ok && json.Unmarshal(raw, &s) == nil {
				delete(record, name)
				return s
			}
		}
		return ""
	}
	log := connectorLog{level: text("level", "lvl"), message: text("message", "msg"), line: string(line)}
	if log.level == "" {
		log.level = "warning"
	}
	text("time", "ts", "timestamp")
	log.status = text("eventType") == "connectorStatus"
	names := make([]string, 0, len(record))
	for name := range record {
		names = append(names, name)
	}
	slices.Sort(names)
	var fields strings.Builder
	for _, name := range names {
		var s string
		if json.Unmarshal(record[name], &s) != nil || strings.ContainsAny(s, " \"\n") {
			s = string(record[name])
		}
		fmt.Fprintf(&fields, " %s=%s", name, s)
	}
	log.fields = fields.String()
	return log
}

// responseReader decodes responses as strictly as the stricter of the two runtimes.
type responseReader struct {
	r     *bufio.Reader
	codec codec
	buf   []byte
}

func newResponseReader(r io.Reader, c codec) *responseReader {
	return &responseReader{r: bufio.NewReaderSize(r, 256<<10), codec: c}
}

var errPartial = errors.New("connector wrote a partial message and then closed its output")

// next returns the next response, or io.EOF when the output ended between two.
func (r *responseReader) next() (*pc.Response, error) {
	var response *pc.Response
	var err error
	if r.codec == codecJSON {
		response, err = r.nextJSON()
	} else {
		response, err = r.nextProto()
	}
	if err != nil {
		return nil, err
	}
	if kind := responseKind(response); strings.Contains(kind, ",") || kind == "nothing" {
		return nil, fmt.Errorf("the connector sent a response of %s, want one kind", kind)
	}
	return response, nil
}

func (r *responseReader) nextProto() (*pc.Response, error) {
	var head [4]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			err = errPartial
		}
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxResponseBytes {
		return nil, fmt.Errorf("the connector sent a message of %d bytes, the runtime's limit is %d", n, maxResponseBytes)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n)
	}
	buf := r.buf[:n]
	if _, err := io.ReadFull(r.r, buf); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errPartial
		}
		return nil, err
	}
	response := new(pc.Response)
	if err := response.Unmarshal(buf); err != nil {
		return nil, fmt.Errorf("the connector sent a message of %d bytes that is no response: %w", n, err)
	}
	if len(response.XXX_unrecognized) > 0 {
		return nil, fmt.Errorf("the connector sent a response with unknown fields: %x", response.XXX_unrecognized)
	}
	return response, nil
}

func (r *responseReader) nextJSON() (*pc.Response, error) {
	r.buf = r.buf[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		r.buf = append(r.buf, part...)
		if len(r.buf) > maxResponseBytes {
			return nil, fmt.Errorf("the connector sent a line over %d bytes, the runtime's limit", maxResponseBytes)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(r.buf) > 0 {
			err = errPartial
		}
		if err != nil {
			return nil, err
		}
		break
	}
	response := new(pc.Response)
	var err error
	if bytes.HasPrefix(r.buf, []byte(`{"captured":`)) {
		// jsonpb takes ten times as long for a document.
		var frame struct {
			Captured struct {
				Binding uint32          `json:"binding"`
				Doc     json.RawMessage `json:"doc"`
			} `json:"captured"`
		}
		if err = strictJSON(r.buf, &frame); err == nil {
			response.Captured = &pc.Response_Captured{Binding: frame.Captured.Binding, DocJson: frame.Captured.Doc}
		}
	} else {
		err = jsonpb.Unmarshal(bytes.NewReader(r.buf), response)
	}
	if err != nil {
		return nil, fmt.Errorf("the connector sent a line that is no response: %w: %.200s", err, r.buf)
	}
	return response, nil
}

func strictJSON(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(data[decoder.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes follow the value", len(rest))
	}
	return nil
}

// responseKind names what is set in a response.
func responseKind(r *pc.Response) string {
	var kinds []string
	for _, k := range []struct {
		set  bool
		name string
	}{
		{r.Spec != nil, "Spec"},
		{r.Discovered != nil, "Discovered"},
		{r.Validated != nil, "Validated"},
		{r.Applied != nil, "Applied"},
		{r.Opened != nil, "Opened"},
		{r.Captured != nil, "Captured"},
		{r.SourcedSchema != nil, "SourcedSchema"},
		{r.Checkpoint != nil, "Checkpoint"},
		{r.BackfillBegin != nil, "BackfillBegin"},
		{r.BackfillComplete != nil, "BackfillComplete"},
	} {
		if k.set {
			kinds = append(kinds, k.name)
		}
	}
	if len(kinds) == 0 {
		return "nothing"
	}
	return strings.Join(kinds, ",")
}

func codecName(c codec) string {
	if c == codecJSON {
		return "json"
	}
	return "proto"
}

// pump reads ahead of its reader, so that the reader knows when it is about to wait: it calls idle first, and again whenever
// it is woken while it waits.
type pump struct {
	full  chan []byte
	free  chan []byte
	done  chan struct{}
	once  sync.Once
	idle  func() error
	woken <-chan struct{}
	err   error  // written before full is closed
	lent  []byte // the block being read, whole
	rest  []byte // what of it has not been read
}

func newPump(r io.Reader, idle func() error, woken <-chan struct{}) *pump {
	const blocks, size = 8, 256 << 10
	p := &pump{
		full: make(chan []byte, blocks), free: make(chan []byte, blocks), done: make(chan struct{}), idle: idle, woken: woken,
	}
	for range blocks {
		p.free <- make([]byte, size)
	}
	go p.fill(r)
	return p
}

func (p *pump) fill(r io.Reader) {
	defer close(p.full)
	for {
		var block []byte
		select {
		case block = <-p.free:
		case <-p.done:
			p.err = os.ErrClosed
			return
		}
		n, err := r.Read(block)
		p.full <- block[:n] // never waits: there are no more blocks than places
		if err != nil {
			p.err = err
			return
		}
	}
}

func (p *pump) Read(dst []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.lent != nil {
			p.free <- p.lent[:cap(p.lent)]
			p.lent = nil
		}
		ok, err := p.await()
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, p.err
		}
		p.rest = p.lent
	}
	n := copy(dst, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// await has the next block lent; it reports false when there is none any more.
func (p *pump) await() (ok bool, err error) {
	select {
	case p.lent, ok = <-p.full:
		return ok, nil
	default:
	}
	for {
		if err := p.idle(); err != nil {
			return false, err
		}
		select {
		case p.lent, ok = <-p.full:
			return ok, nil
		case <-p.woken:
		}
	}
}

// close lets the goroutine of the pump end.
func (p *pump) close() { p.once.Do(func() { close(p.done) }) }

// connectorExit is the failure of a connector process; its text is what the runtime would show.
type connectorExit struct {
	status  string // as in "exit status 1" or "signal: killed"
	message string // of the last log
}

func (e *connectorExit) Error() string {
	if e.message == "" {
		return "connector exited with no log output (" + e.status + ")"
	}
	return e.message
}
