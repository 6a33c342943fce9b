// flow_protocol.go owns the Flow frames: requests in from stdin, responses out to stdout, in both codecs.
//
// Invariant: what reaches the writer is whole frames in the order they were made, with a document's JSON copied at most
// once; and after a failed write nothing more is written.

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"github.com/sirupsen/logrus"
)

// codec is how messages are framed on stdin and stdout.
type codec uint8

const (
	codecProto codec = iota // 4-byte little-endian length, then protobuf
	codecJSON               // one JSON object a line
)

// parseCodec reads FLOW_RUNTIME_CODEC.
func parseCodec(name string) (codec, error) {
	switch name {
	case "", "proto":
		return codecProto, nil
	case "json":
		return codecJSON, nil
	}
	return 0, &userError{fmt.Sprintf(
		`FLOW_RUNTIME_CODEC is %q: set it to "proto" or "json", or leave it out for "proto"`, name)}
}

// maxFrame bounds one frame, in and out. It is far above any spec and any document the runtime takes (64 MiB), and
// below what a protobuf length holds.
const maxFrame = 1 << 30

const (
	readStep = 64 << 10 // first read of a message; the next ones double what is there
	readKept = 1 << 20  // of the buffer, between requests
)

// frameLength is the size of the length in front of a protobuf message.
const frameLength = 4

// requestReader reads requests. One goroutine at a time. Its memory is bounded by the bytes that came, not by a
// length that was announced. After an error it stays at that error.
type requestReader struct {
	in     *bufio.Reader
	codec  codec
	limit  int
	buf    []byte // the frame being read; reused, as decoding copies
	number int    // requests begun
	offset int64  // bytes consumed
	err    error
}

func newRequestReader(r io.Reader, c codec) *requestReader {
	return &requestReader{in: bufio.NewReaderSize(r, readStep), codec: c, limit: maxFrame}
}

// next returns the next request, checked for shape; io.EOF after the last one.
func (r *requestReader) next() (*pc.Request, error) {
	if r.err != nil {
		return nil, r.err
	}
	request, err := r.read()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("request %d: %w", r.number, err)
	}
	r.err = err
	return request, err
}

func (r *requestReader) read() (*pc.Request, error) {
	r.number++
	start := r.offset
	if cap(r.buf) > readKept {
		r.buf = nil // an outlier, such as the Open of thousands of bindings; acknowledgements follow
	}
	readFrame, decode := r.readMessage, decodeProto
	if r.codec == codecJSON {
		readFrame, decode = r.readLine, decodeJSON
	}
	frame, err := readFrame()
	if err != nil {
		return nil, err
	}
	request, err := decode(frame)
	if err != nil {
		return nil, fmt.Errorf("%d bytes at offset %d of the input: %w", len(frame), start, err)
	}
	if err := checkRequest(request); err != nil {
		return nil, err
	}
	return request, nil
}

// readMessage returns the next protobuf message, valid until the next call.
func (r *requestReader) readMessage() ([]byte, error) {
	var header [frameLength]byte
	n, err := io.ReadFull(r.in, header[:])
	r.offset += int64(n)
	if err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("the input ends at offset %d, after %d of the %d bytes of a length", r.offset, n, len(header))
	} else if err == io.EOF {
		return nil, io.EOF
	} else if err != nil {
		return nil, fmt.Errorf("reading the input at offset %d: %w", r.offset, err)
	}
	length := int(binary.LittleEndian.Uint32(header[:]))
	if length > r.limit {
		return nil, fmt.Errorf("a length of %d bytes at offset %d of the input, more than the %d allowed: "+
			"is the peer using another codec?", length, r.offset-frameLength, r.limit)
	}
	r.buf = r.buf[:0]
	for len(r.buf) < length {
		have := len(r.buf)
		step := min(length-have, max(have, readStep))
		r.buf = slices.Grow(r.buf, step)[:have+step]
		n, err := io.ReadFull(r.in, r.buf[have:])
		r.offset += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("the input ends at offset %d, after %d of the %d bytes of a message", r.offset, have+n, length)
		} else if err != nil {
			return nil, fmt.Errorf("reading the input at offset %d: %w", r.offset, err)
		}
	}
	return r.buf, nil
}

// readLine returns the next line that is not blank, without its end, valid until the next call. The last line may
// lack its line feed, as JSON shows by itself whether it is whole.
func (r *requestReader) readLine() ([]byte, error) {
	for {
		r.buf = r.buf[:0]
		err := bufio.ErrBufferFull
		for err == bufio.ErrBufferFull {
			var part []byte
			part, err = r.in.ReadSlice('\n')
			r.buf = append(r.buf, part...)
			r.offset += int64(len(part))
			if len(r.buf) > r.limit {
				return nil, fmt.Errorf("a line at offset %d of the input has more than the %d bytes allowed",
					r.offset-int64(len(r.buf)), r.limit)
			}
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("reading the input at offset %d: %w", r.offset, err)
		}
		if line := bytes.TrimSpace(r.buf); len(line) > 0 {
			return line, nil
		}
		if err == io.EOF {
			return nil, io.EOF
		}
	}
}

func decodeProto(frame []byte) (*pc.Request, error) {
	request := &pc.Request{}
	if err := request.Unmarshal(frame); err != nil {
		return nil, fmt.Errorf("not a protobuf request: %w", err)
	}
	logUnknownProto(request)
	return request, linkProto(request)
}

func decodeJSON(line []byte) (*pc.Request, error) {
	request := &pc.Request{}
	decoder := json.NewDecoder(bytes.NewReader(line))
	err := (&jsonpb.Unmarshaler{AllowUnknownFields: true}).UnmarshalNext(decoder, request)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.New("not a JSON request: the line ends inside it")
	} else if err != nil {
		return nil, fmt.Errorf("not a JSON request: %w", err)
	}
	if rest := line[decoder.InputOffset():]; len(rest) > 0 {
		return nil, fmt.Errorf("not a JSON request: %d bytes follow it on its line", len(rest))
	}
	logUnknownJSON(line)
	return request, linkJSON(request, line)
}

// checkRequest checks that a request is one and has what the connector reads of it. The library's own Validate_ asks
// for more, and panics where a template is absent.
func checkRequest(r *pc.Request) error {
	var kinds []string
	var err error
	if r.Spec != nil {
		kinds = append(kinds, "spec")
	}
	if r.Discover != nil {
		kinds, err = append(kinds, "discover"), checkPresent(requestField{"config", len(r.Discover.ConfigJson)})
	}
	if r.Validate != nil {
		kinds, err = append(kinds, "validate"), checkValidate(r.Validate)
	}
	if r.Apply != nil {
		kinds, err = append(kinds, "apply"), checkCapture(r.Apply.Capture)
	}
	if r.Open != nil {
		kinds, err = append(kinds, "open"), checkCapture(r.Open.Capture)
	}
	if r.Acknowledge != nil {
		kinds = append(kinds, "acknowledge")
	}
	switch {
	case len(kinds) == 0:
		return errors.New("none of spec, discover, validate, apply, open and acknowledge is set: one must be")
	case len(kinds) > 1:
		return fmt.Errorf("%s and %s are both set: only one may be", kinds[0], kinds[1])
	case err != nil:
		return fmt.Errorf("%s: %w", kinds[0], err)
	}
	return nil
}

func checkValidate(v *pc.Request_Validate) error {
	if err := checkPresent(requestField{"name", len(v.Name)}, requestField{"config", len(v.ConfigJson)}); err != nil {
		return err
	}
	without := 0
	for i, b := range v.Bindings {
		if b == nil {
			return fmt.Errorf("bindings[%d] is null", i)
		}
		if err := checkPresent(requestField{"resourceConfig", len(b.ResourceConfigJson)}); err != nil {
			return fmt.Errorf("bindings[%d]: %w", i, err)
		}
		if len(b.Collection.Name) == 0 || len(b.Collection.Key) == 0 {
			without++
		}
	}
	// A form of linked collections that we do not know leaves bindings without one: their keys are then not checked.
	if without > 0 {
		logrus.Debugf("%d bindings of the validation have no collection: their keys are not checked", without)
	}
	return nil
}

func checkCapture(c *pf.CaptureSpec) error {
	if c == nil {
		return errors.New("capture is missing")
	}
	if err := checkPresent(requestField{"name", len(c.Name)}, requestField{"config", len(c.ConfigJson)}); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	for i, b := range c.Bindings {
		if b == nil {
			return fmt.Errorf("capture.bindings[%d] is null", i)
		}
		err := checkPresent(
			requestField{"resourceConfig", len(b.ResourceConfigJson)},
			requestField{"collection.name", len(b.Collection.Name)},
			requestField{"collection.key", len(b.Collection.Key)},
			requestField{"stateKey", len(b.StateKey)},
		)
		if err != nil {
			return fmt.Errorf("capture.bindings[%d]: %w", i, err)
		}
	}
	return nil
}

// requestField is a name of the protocol's and the length of what it holds.
type requestField struct {
	name   string
	length int
}

func checkPresent(fields ...requestField) error {
	var missing []string
	for _, f := range fields {
		if f.length == 0 {
			missing = append(missing, f.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
}

const (
	outputSize  = 1 << 20   // kept between flushes
	outputFlush = 256 << 10 // written when a document ends beyond: large enough that the system call does not count
	outputMost  = 4 << 20   // given back when an outlier grew the buffer beyond
)

// output is the one buffer in front of stdout. Owned by one goroutine.
//
//	buf: | frames ... | header | document ... |
//	     0            start    body
//
// start and body are those of the document that begin opened. The header's size depends on the document's; it is
// guessed as large as the last one was, and the document is moved where the guess was wrong.
type output struct {
	w     io.Writer
	codec codec
	limit int // of a frame
	buf   []byte
	err   error // of the first failed write; sticky

	start   int
	body    int
	binding uint32
	header  int // size of the last document's header

	// Documents and schemas belong to the checkpoint that follows them.
	open  bool // some were appended after the last checkpoint
	dirty bool // some of those, or a part of a frame, reached the writer

	blockedSince atomic.Int64 // when the write under way began, Unix nanoseconds; 0 outside writes. Loaded by main and watcher
	written      atomic.Int64 // bytes; loaded by the watcher
}

func newOutput(w io.Writer, c codec) *output {
	return &output{w: w, codec: c, limit: maxFrame, buf: make([]byte, 0, outputSize), header: frameLength + 1 + 2 + 1 + 2}
}

// Keys of protobuf fields: number<<3 | wire type, 2 for bytes, 0 (not written) for a varint (capture.proto, flow.proto).
const (
	keyCaptured   = 6<<3 | 2 // Response.captured
	keyCheckpoint = 7<<3 | 2 // Response.checkpoint
	keyBinding    = 1 << 3   // Response.Captured.binding
	keyDoc        = 2<<3 | 2 // Response.Captured.doc_json
	keyState      = 1<<3 | 2 // Response.Checkpoint.state
	keyUpdated    = 1<<3 | 2 // ConnectorState.updated_json
	keyMergePatch = 2 << 3   // ConnectorState.merge_patch
)

// maxHeader is the size of the largest document header: length, then captured, binding and doc with a varint each.
const maxHeader = frameLength + 3*(1+binary.MaxVarintLen32)

var blankHeader [maxHeader]byte

// respond writes one rare response (everything but documents and checkpoints) and flushes.
func (o *output) respond(r *pc.Response) error {
	if err := o.encode(r); err != nil {
		return err
	}
	if r.Opened != nil {
		o.open = false
	}
	return o.flush()
}

// encode appends a response that the library encodes.
func (o *output) encode(r *pc.Response) error {
	if o.err != nil {
		return o.err
	}
	var frame []byte
	var err error
	if o.codec == codecJSON {
		var line bytes.Buffer
		err = (&jsonpb.Marshaler{}).Marshal(&line, r)
		frame = append(line.Bytes(), '\n')
	} else {
		frame, err = r.Marshal()
	}
	if err == nil && len(frame) > o.limit {
		err = fmt.Errorf("it has %d bytes, more than the %d allowed", len(frame), o.limit)
	}
	if err != nil {
		return fmt.Errorf("encoding a response: %w", err)
	}
	if o.codec == codecProto {
		o.buf = binary.LittleEndian.AppendUint32(o.buf, uint32(len(frame)))
	}
	o.buf = append(o.buf, frame...)
	return nil
}

// begin opens a document frame of a binding and returns the buffer to append the document's JSON to; end closes it with
// what was appended, flushing when the buffer is full. Between the two nothing else may be called but discard.
func (o *output) begin(binding uint32) []byte {
	o.start, o.binding = len(o.buf), binding
	if o.codec == codecProto {
		o.buf = append(o.buf, blankHeader[:o.header]...)
	} else if binding == 0 {
		o.buf = append(o.buf, `{"captured":{"doc":`...)
	} else {
		o.buf = append(o.buf, `{"captured":{"binding":`...)
		o.buf = strconv.AppendUint(o.buf, uint64(binding), 10)
		o.buf = append(o.buf, `,"doc":`...)
	}
	o.body = len(o.buf)
	return o.buf
}

// end takes the buffer that begin returned with one JSON value appended. On error the frame is dropped.
func (o *output) end(dst []byte) error {
	doc := len(dst) - o.body
	switch {
	case o.err != nil:
		o.discard()
		return o.err
	case doc <= 0:
		o.discard()
		return fmt.Errorf("an empty document for binding %d", o.binding)
	case doc > o.limit-maxHeader:
		o.discard()
		return fmt.Errorf("a document of %d bytes for binding %d, more than a frame holds", doc, o.binding)
	}
	if o.codec == codecJSON {
		blankLineFeeds(dst[o.body:])
		o.buf = append(dst, "}}\n"...)
	} else {
		o.buf = o.closeMessage(dst, doc)
	}
	o.open = true
	if len(o.buf) > outputFlush {
		return o.flush()
	}
	return nil
}

// closeMessage puts the header in front of the doc bytes at the end of dst.
func (o *output) closeMessage(dst []byte, doc int) []byte {
	var scratch [maxHeader]byte
	header := appendDocumentHeader(scratch[:0], o.binding, doc)
	if shift := len(header) - o.header; shift != 0 {
		if shift > 0 {
			dst = append(dst, blankHeader[:shift]...)
		}
		copy(dst[o.body+shift:], dst[o.body:o.body+doc])
		dst = dst[:o.body+shift+doc]
		o.header = len(header)
	}
	copy(dst[o.start:], header)
	return dst
}

// appendDocumentHeader appends what stands in front of a document: the frame's length, Response.captured with its
// length, binding unless it is 0, doc with its length.
func appendDocumentHeader(dst []byte, binding uint32, doc int) []byte {
	captured := 1 + varintSize(uint64(doc)) + doc
	if binding != 0 {
		captured += 1 + varintSize(uint64(binding))
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(1+varintSize(uint64(captured))+captured))
	dst = append(dst, keyCaptured)
	dst = binary.AppendUvarint(dst, uint64(captured))
	if binding != 0 {
		dst = append(dst, keyBinding)
		dst = binary.AppendUvarint(dst, uint64(binding))
	}
	dst = append(dst, keyDoc)
	return binary.AppendUvarint(dst, uint64(doc))
}

func varintSize(v uint64) int {
	size := 1
	for ; v >= 1<<7; v >>= 7 {
		size++
	}
	return size
}

// blankLineFeeds makes JSON fit on one line. A string holds no raw line feed, so one is whitespace between tokens.
func blankLineFeeds(text []byte) {
	for {
		i := bytes.IndexByte(text, '\n')
		if i < 0 {
			return
		}
		text[i] = ' '
		text = text[i+1:]
	}
}

// discard drops the frame opened by begin.
func (o *output) discard() { o.buf = o.buf[:o.start] }

// sourcedSchema appends a SourcedSchema response. A checkpoint must follow.
func (o *output) sourcedSchema(binding uint32, schema json.RawMessage) error {
	err := o.encode(&pc.Response{SourcedSchema: &pc.Response_SourcedSchema{Binding: binding, SchemaJson: schema}})
	if err != nil {
		return err
	}
	o.open = true
	if len(o.buf) > outputFlush {
		return o.flush()
	}
	return nil
}

// markerKind is one of the two backfill markers.
type markerKind uint8

const (
	markerBegin markerKind = iota
	markerComplete
)

// marker appends a backfill marker. REQUIRES: nothing has come since the last checkpoint; a checkpoint follows at once.
func (o *output) marker(binding uint32, kind markerKind) error {
	assert(!o.open, "a backfill marker stands alone in its checkpoint")
	r := &pc.Response{BackfillBegin: &pc.Response_BackfillBegin{Binding: binding}}
	if kind == markerComplete {
		r = &pc.Response{BackfillComplete: &pc.Response_BackfillComplete{Binding: binding}}
	}
	if err := o.encode(r); err != nil {
		return err
	}
	o.open = true
	return nil
}

// checkpoint appends a Checkpoint with a merge patch and flushes.
func (o *output) checkpoint(patch []byte) error {
	switch {
	case o.err != nil:
		return o.err
	case len(patch) == 0:
		return errors.New("an empty patch for a checkpoint")
	case len(patch) > o.limit-maxHeader:
		return fmt.Errorf("a checkpoint's patch of %d bytes, more than a frame holds", len(patch))
	}
	if o.codec == codecJSON {
		o.buf = append(o.buf, `{"checkpoint":{"state":{"updated":`...)
		start := len(o.buf)
		o.buf = append(o.buf, patch...)
		blankLineFeeds(o.buf[start:])
		o.buf = append(o.buf, `,"mergePatch":true}}}`+"\n"...)
	} else {
		state := 1 + varintSize(uint64(len(patch))) + len(patch) + 2
		checkpoint := 1 + varintSize(uint64(state)) + state
		o.buf = binary.LittleEndian.AppendUint32(o.buf, uint32(1+varintSize(uint64(checkpoint))+checkpoint))
		o.buf = append(o.buf, keyCheckpoint)
		o.buf = binary.AppendUvarint(o.buf, uint64(checkpoint))
		o.buf = append(o.buf, keyState)
		o.buf = binary.AppendUvarint(o.buf, uint64(state))
		o.buf = append(o.buf, keyUpdated)
		o.buf = binary.AppendUvarint(o.buf, uint64(len(patch)))
		o.buf = append(o.buf, patch...)
		o.buf = append(o.buf, keyMergePatch, 1)
	}
	o.open = false
	return o.flush()
}

// flush writes what is buffered. The first failure stays: later calls return it and write nothing.
func (o *output) flush() error {
	rest := o.buf
	for o.err == nil && len(rest) > 0 {
		o.blockedSince.Store(time.Now().UnixNano())
		n, err := o.w.Write(rest)
		o.blockedSince.Store(0)
		o.written.Add(int64(n))
		if n > 0 {
			o.dirty = true // until the rest has followed
		}
		if err == nil && n <= 0 {
			err = io.ErrShortWrite
		}
		if rest = rest[n:]; err != nil {
			o.err = fmt.Errorf("writing to the runtime: %w", err)
		}
	}
	if o.err == nil {
		o.dirty = o.open
	}
	o.buf = o.buf[:0]
	if cap(o.buf) > outputMost {
		o.buf = make([]byte, 0, outputSize)
	}
	return o.err
}

// drop forgets what has not reached the writer since the last checkpoint. REQUIRES: settled.
func (o *output) drop() {
	o.buf = o.buf[:0]
	o.open = false
}

// settled reports whether nothing that reached the writer lies after the last checkpoint (or the opening response), so
// that the process may exit 0: what is still buffered is dropped with it.
func (o *output) settled() bool { return !o.dirty }
