package main

import (
	"encoding/json"
	"io"

	pc "github.com/estuary/flow/go/protocols/capture"
)

// codec is how messages are framed on stdin and stdout.
type codec uint8

const (
	codecProto codec = iota // 4-byte little-endian length, then protobuf
	codecJSON               // one JSON object a line
)

// parseCodec reads FLOW_RUNTIME_CODEC.
func parseCodec(name string) (codec, error) { panic("stub") }

// requestReader reads requests. One goroutine at a time.
type requestReader struct{}

func newRequestReader(r io.Reader, c codec) *requestReader { panic("stub") }

// next returns the next request, checked for shape; io.EOF after the last one.
func (r *requestReader) next() (*pc.Request, error) { panic("stub") }

// output is the one buffer in front of stdout. Owned by one goroutine.
type output struct{}

func newOutput(w io.Writer, c codec) *output { panic("stub") }

// respond writes one rare response (everything but documents and checkpoints) and flushes.
func (o *output) respond(r *pc.Response) error { panic("stub") }

// begin opens a document frame of a binding and returns the buffer to append the document's JSON to; end closes it with
// what was appended, flushing when the buffer is full. Between the two nothing else may be called but discard.
func (o *output) begin(binding uint32) []byte { panic("stub") }
func (o *output) end(dst []byte) error        { panic("stub") }

// discard drops the frame opened by begin.
func (o *output) discard() { panic("stub") }

// sourcedSchema appends a SourcedSchema response. A checkpoint must follow.
func (o *output) sourcedSchema(binding uint32, schema json.RawMessage) error { panic("stub") }

// checkpoint appends a Checkpoint with a merge patch and flushes.
func (o *output) checkpoint(patch []byte) error { panic("stub") }

func (o *output) flush() error { panic("stub") }

// settled reports whether nothing that reached the writer lies after the last checkpoint (or the opening response), so
// that the process may exit 0: what is still buffered is dropped with it.
func (o *output) settled() bool { panic("stub") }
