// Goal: every request that the runtime sends is read as the library reads it, whatever else comes is one clear error in
// bounded memory, and what we write by hand is what the library would have written.
// Method: tables with exact errors; the library's encoder and decoder as the second implementation; fuzzing.

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"github.com/gogo/protobuf/proto"
)

var codecs = []codec{codecProto, codecJSON}

func (c codec) String() string { return [...]string{"proto", "json"}[c] }

func TestParseCodec(t *testing.T) {
	for _, test := range []struct {
		name    string
		want    codec
		wantErr string
	}{
		{"", codecProto, ""},
		{"proto", codecProto, ""},
		{"json", codecJSON, ""},
		{"JSON", 0, `FLOW_RUNTIME_CODEC is "JSON": set it to "proto" or "json", or leave it out for "proto"`},
	} {
		got, err := parseCodec(test.name)
		if got != test.want || errorText(err) != test.wantErr {
			t.Errorf("%q: got %v, %q", test.name, got, errorText(err))
		}
	}
}

// peerFrame is a request or response as a peer sends it.
func peerFrame(t testing.TB, c codec, message libraryMessage) []byte {
	t.Helper()
	if c == codecJSON {
		text, err := (&jsonpb.Marshaler{}).MarshalToString(message)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(text + "\n")
	}
	body, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
}

type libraryMessage interface {
	proto.Message
	Marshal() ([]byte, error)
}

func openRequest() *pc.Request {
	return &pc.Request{Open: &pc.Request_Open{
		Capture: &pf.CaptureSpec{
			Name:          "acmeCo/capture",
			ConnectorType: pf.CaptureSpec_IMAGE,
			ConfigJson:    json.RawMessage(`{"address":"a<b"}`),
			Bindings: []*pf.CaptureSpec_Binding{{
				ResourceConfigJson: json.RawMessage(`{"namespace":"public","stream":"t"}`),
				ResourcePath:       []string{"public", "t"},
				StateKey:           "public%2Ft",
				Backfill:           2,
				Collection: pf.CollectionSpec{
					Name: "acmeCo/t", Key: []string{"/id"},
					Projections: []pf.Projection{{Ptr: "/id", Field: "id", IsPrimaryKey: true}},
				},
			}},
		},
		Version:   "0011223344556677",
		Range:     &pf.RangeSpec{KeyEnd: 0xffffffff, RClockEnd: 0xffffffff},
		StateJson: json.RawMessage(`{"cursor":"0/1"}`),
	}}
}

func sampleRequests() []*pc.Request {
	resource, collection := json.RawMessage(`{"namespace":"s"}`), pf.CollectionSpec{Name: "acmeCo/t", Key: []string{"/id"}}
	return []*pc.Request{
		{Spec: &pc.Request_Spec{ConnectorType: pf.CaptureSpec_IMAGE, ConfigJson: json.RawMessage(`{}`)}},
		{Spec: &pc.Request_Spec{ConfigJson: json.RawMessage(`"config.yaml"`)}, Internal: []byte{1, 2}},
		{Discover: &pc.Request_Discover{ConfigJson: json.RawMessage(`{"a":1}`), Name: "acmeCo/capture"}},
		{Validate: &pc.Request_Validate{
			Name: "acmeCo/capture", ConfigJson: json.RawMessage(`{}`), LastVersion: "1",
			Bindings: []*pc.Request_Validate_Binding{{ResourceConfigJson: resource, Collection: collection, Backfill: 1}},
		}},
		{Apply: &pc.Request_Apply{Capture: openRequest().Open.Capture, LastCapture: openRequest().Open.Capture}},
		openRequest(),
		{Acknowledge: &pc.Request_Acknowledge{Checkpoints: 3}},
		{Acknowledge: &pc.Request_Acknowledge{}},
	}
}

// Requests come through both codecs as they were sent, however the input is fragmented.
func TestRequestReader(t *testing.T) {
	for _, c := range codecs {
		var input []byte
		for _, request := range sampleRequests() {
			input = append(input, peerFrame(t, c, request)...)
		}
		for name, in := range map[string]io.Reader{
			"whole":    bytes.NewReader(input),
			"bytes":    iotest.OneByteReader(bytes.NewReader(input)),
			"halves":   iotest.HalfReader(bytes.NewReader(input)),
			"data+err": iotest.DataErrReader(bytes.NewReader(input)),
		} {
			r := newRequestReader(in, c)
			for i, want := range sampleRequests() {
				got, err := r.next()
				if err != nil {
					t.Fatalf("%v, %s, request %d: %v", c, name, i, err)
				}
				if g, w := peerFrame(t, c, got), peerFrame(t, c, want); !bytes.Equal(g, w) {
					t.Errorf("%v, %s, request %d: got %q, want %q", c, name, i, g, w)
				}
			}
			for range 2 {
				if _, err := r.next(); err != io.EOF {
					t.Errorf("%v, %s: at the end: %v, want EOF", c, name, err)
				}
			}
		}
	}
}

// What a request holds stays as it is when the next one is read into the same buffer.
func TestRequestsAreCopies(t *testing.T) {
	for _, c := range codecs {
		first, second := openRequest(), openRequest()
		second.Open.Capture.ConfigJson = json.RawMessage(`{"address":"XXX"}`)
		second.Open.Capture.Name = "zzzzzz/zzzzzzz"
		r := newRequestReader(bytes.NewReader(append(peerFrame(t, c, first), peerFrame(t, c, second)...)), c)
		got, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		before := peerFrame(t, c, got)
		if _, err := r.next(); err != nil {
			t.Fatal(err)
		}
		if after := peerFrame(t, c, got); !bytes.Equal(before, after) {
			t.Errorf("%v: the first request changed from %q to %q", c, before, after)
		}
	}
}

func TestRequestReaderJSONTolerance(t *testing.T) {
	in := "\n \r\n" +
		`{"spec":{"config":{},"new":[1,{"x":null}]},"later":{"a":1},"open":null}` + "\r\n" +
		`{"acknowledge":{"checkpoints":2},"$internal":"AAE="}` // no line feed
	r := newRequestReader(strings.NewReader(in), codecJSON)
	if request, err := r.next(); err != nil || request.Spec == nil {
		t.Fatalf("got %v, %v", request, err)
	}
	if request, err := r.next(); err != nil || request.Acknowledge.Checkpoints != 2 {
		t.Fatalf("got %v, %v", request, err)
	}
	if _, err := r.next(); err != io.EOF {
		t.Fatalf("got %v, want EOF", err)
	}
}

func TestRequestReaderErrors(t *testing.T) {
	ack := peerFrame(t, codecProto, &pc.Request{Acknowledge: &pc.Request_Acknowledge{Checkpoints: 1}})
	for _, test := range []struct {
		name  string
		codec codec
		in    string
		want  string // of the last request
	}{
		{"empty", codecProto, "", "EOF"},
		{"empty line", codecJSON, "\n\n", "EOF"},
		{"half a length", codecProto, "\x04\x00", "request 1: the input ends at offset 2, after 2 of the 4 bytes of a length"},
		{"length only", codecProto, "\x04\x00\x00\x00", "request 1: the input ends at offset 4, after 0 of the 4 bytes of a message"},
		{
			"half a message", codecProto, string(ack) + "\x04\x00\x00\x00ab",
			"request 2: the input ends at offset 14, after 2 of the 4 bytes of a message",
		},
		{
			"JSON to proto", codecProto, `{"spec":{}}` + "\n",
			"request 1: a length of 1886593659 bytes at offset 0 of the input, more than the 1073741824 allowed: is the peer using another codec?",
		},
		{
			"garbage", codecProto, string(ack) + "\x02\x00\x00\x00\xff\xff",
			"request 2: 2 bytes at offset 8 of the input: not a protobuf request: unexpected EOF",
		},
		{"no kind", codecProto, "\x00\x00\x00\x00", "request 1: none of spec, discover, validate, apply, open and acknowledge is set: one must be"},
		{"proto to JSON", codecJSON, string(ack), `request 1: 8 bytes at offset 0 of the input: not a JSON request: invalid character '\x04' looking for beginning of value`},
		{"half a line", codecJSON, `{"spec":{"config`, "request 1: 16 bytes at offset 0 of the input: not a JSON request: the line ends inside it"},
		{
			"two on a line", codecJSON, "{\"spec\":{}}\n{\"spec\":{}}  {}\n",
			"request 2: 15 bytes at offset 12 of the input: not a JSON request: 4 bytes follow it on its line",
		},
		{"wrong type", codecJSON, `{"acknowledge":{"checkpoints":"x"}}`, "request 1: 35 bytes at offset 0 of the input: not a JSON request: invalid character 'x' looking for beginning of value"},
		{"null", codecJSON, "null", "request 1: none of spec, discover, validate, apply, open and acknowledge is set: one must be"},
		{"two kinds", codecJSON, `{"spec":{},"acknowledge":{}}`, "request 1: spec and acknowledge are both set: only one may be"},
		{"discover", codecJSON, `{"discover":{}}`, "request 1: discover: missing: config"},
		{"validate", codecJSON, `{"validate":{}}`, "request 1: validate: missing: name, config"},
		{"validate binding", codecJSON, `{"validate":{"name":"a","config":{},"bindings":[{}]}}`, "request 1: validate: bindings[0]: missing: resourceConfig"},
		{"validate null binding", codecJSON, `{"validate":{"name":"a","config":{},"bindings":[null]}}`, "request 1: validate: bindings[0] is null"},
		{"apply", codecJSON, `{"apply":{}}`, "request 1: apply: capture is missing"},
		{"open", codecJSON, `{"open":{"capture":{}}}`, "request 1: open: capture: missing: name, config"},
		{
			"open binding", codecJSON, `{"open":{"capture":{"name":"a","config":{},"bindings":[{"resourceConfig":{},"collection":{"name":"c","key":["/k"]}}]}}}`,
			"request 1: open: capture.bindings[0]: missing: stateKey",
		},
	} {
		r := newRequestReader(strings.NewReader(test.in), test.codec)
		var err error
		for err == nil {
			_, err = r.next()
		}
		if err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
		if _, again := r.next(); again != err {
			t.Errorf("%s: then %v, want the same error", test.name, again)
		}
	}
}

func TestRequestReaderReportsReadErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range codecs {
		whole := peerFrame(t, c, openRequest())
		for _, n := range []int{0, 3, len(whole) / 2} {
			r := newRequestReader(io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(broken)), c)
			want := fmt.Sprintf("request 1: reading the input at offset %d: broken", n)
			if _, err := r.next(); !errors.Is(err, broken) || err.Error() != want {
				t.Errorf("%v after %d bytes: got %v, want %s", c, n, err, want)
			}
		}
	}
}

// A request larger than any step of the reader's buffer, and one beyond the limit.
func TestRequestReaderSizes(t *testing.T) {
	large := openRequest()
	large.Open.StateJson = json.RawMessage(`"` + strings.Repeat("x", 3<<20) + `"`)
	for _, c := range codecs {
		whole := peerFrame(t, c, large)
		r := newRequestReader(bytes.NewReader(append(whole, peerFrame(t, c, &pc.Request{Spec: &pc.Request_Spec{}})...)), c)
		if got, err := r.next(); err != nil || !bytes.Equal(got.Open.StateJson, large.Open.StateJson) {
			t.Errorf("%v: a large request: %v", c, err)
		}
		if _, err := r.next(); err != nil || cap(r.buf) > readKept {
			t.Errorf("%v: after a large request: %v, %d bytes kept", c, err, cap(r.buf))
		}
		r = newRequestReader(bytes.NewReader(whole), c)
		r.limit = 1 << 20
		if _, err := r.next(); err == nil || !strings.Contains(err.Error(), "more than the 1048576") {
			t.Errorf("%v: beyond the limit: got %v", c, err)
		}
		if cap(r.buf) > 4<<20 {
			t.Errorf("%v: beyond the limit: %d bytes held", c, cap(r.buf))
		}
	}
	// A length that is announced and does not come costs no memory.
	r := newRequestReader(strings.NewReader("\x00\x00\x00\x3fabc"), codecProto)
	if _, err := r.next(); err == nil || cap(r.buf) > 2*readStep {
		t.Errorf("an announced gigabyte: %v, %d bytes held", err, cap(r.buf))
	}
}

func FuzzRequestReader(f *testing.F) {
	for _, c := range codecs {
		var all []byte
		for _, request := range sampleRequests() {
			all = append(all, peerFrame(f, c, request)...)
			f.Add(c == codecJSON, peerFrame(f, c, request))
		}
		f.Add(c == codecJSON, all)
	}
	f.Fuzz(func(t *testing.T, isJSON bool, input []byte) {
		c := codecProto
		if isJSON {
			c = codecJSON
		}
		read := func(in io.Reader) (all []string) {
			r := newRequestReader(in, c)
			r.limit = 1 << 20
			for {
				request, err := r.next()
				if cap(r.buf) > 2*(len(input)+readStep) {
					t.Fatalf("%d bytes held for %d of input", cap(r.buf), len(input))
				}
				if err != nil {
					return append(all, err.Error())
				}
				all = append(all, request.String())
			}
		}
		whole := read(bytes.NewReader(input))
		for _, in := range []io.Reader{
			iotest.OneByteReader(bytes.NewReader(input)), iotest.DataErrReader(bytes.NewReader(input)),
		} {
			if parts := read(in); !reflect.DeepEqual(parts, whole) {
				t.Fatalf("whole: %q\nin parts: %q", whole, parts)
			}
		}
	})
}

// decodeResponses decodes what was written, with the library's decoder.
func decodeResponses(t testing.TB, c codec, written []byte) (all []*pc.Response) {
	t.Helper()
	for len(written) > 0 {
		response := &pc.Response{}
		if c == codecJSON {
			line, rest, ok := bytes.Cut(written, []byte("\n"))
			if !ok {
				t.Fatalf("a line without an end: %q", line)
			}
			if err := jsonpb.Unmarshal(bytes.NewReader(line), response); err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			written = rest
		} else {
			length := int(binary.LittleEndian.Uint32(written))
			if err := response.Unmarshal(written[4 : 4+length]); err != nil {
				t.Fatalf("message %q: %v", written[4:4+length], err)
			}
			written = written[4+length:]
		}
		all = append(all, response)
	}
	return all
}

func emitDocument(o *output, binding uint32, doc string) error {
	return o.end(append(o.begin(binding), doc...))
}

// Documents, checkpoints and schemas are byte for byte what the library would have written. The sizes cross every
// length of a varint, up and down, so that the guessed header is too small and too large.
func TestOutputAgreesWithLibrary(t *testing.T) {
	sizes := []int{2, 1000, 3, 125, 126, 127, 128, 129, 122, 121, 120, 119, 16381, 16384, 5, 2097150, 2097153, 16370, 200}
	for _, c := range codecs {
		var got, want bytes.Buffer
		o := newOutput(&got, c)
		for _, binding := range []uint32{0, 1, 127, 128, 65536, 1<<32 - 1} {
			for _, size := range sizes {
				if size > 1<<20 && binding > 1 {
					continue // no new sum of lengths
				}
				doc := `"` + strings.Repeat("x", size-2) + `"`
				if err := emitDocument(o, binding, doc); err != nil {
					t.Fatal(err)
				}
				want.Write(peerFrame(t, c, &pc.Response{Captured: &pc.Response_Captured{Binding: binding, DocJson: json.RawMessage(doc)}}))
			}
			schema := json.RawMessage(`{"type":"object"}`)
			if err := o.sourcedSchema(binding, schema); err != nil {
				t.Fatal(err)
			}
			want.Write(peerFrame(t, c, &pc.Response{SourcedSchema: &pc.Response_SourcedSchema{Binding: binding, SchemaJson: schema}}))
			for _, size := range sizes[:14] {
				patch := `{"cursor":"` + strings.Repeat("x", size) + `"}`
				if err := o.checkpoint([]byte(patch)); err != nil {
					t.Fatal(err)
				}
				want.Write(peerFrame(t, c, &pc.Response{Checkpoint: &pc.Response_Checkpoint{State: &pf.ConnectorState{
					UpdatedJson: json.RawMessage(patch), MergePatch: true,
				}}}))
			}
		}
		opened := &pc.Response{Opened: &pc.Response_Opened{ExplicitAcknowledgements: true}}
		if err := o.respond(opened); err != nil {
			t.Fatal(err)
		}
		want.Write(peerFrame(t, c, opened))
		// The library orders JSON fields by their numbers, as we do, and these texts need none of its escapes.
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%v: our %d bytes differ from the library's %d", c, got.Len(), want.Len())
		}
	}
}

func TestOutputExamples(t *testing.T) {
	write := func(c codec) string {
		var w bytes.Buffer
		o := newOutput(&w, c)
		for _, err := range []error{
			o.respond(&pc.Response{Opened: &pc.Response_Opened{ExplicitAcknowledgements: true}}),
			emitDocument(o, 0, `{"a":"<é>"}`),
			emitDocument(o, 1, "{\n\"a\":\n1}"),
			o.sourcedSchema(2, json.RawMessage(`{"type":"object"}`)),
			o.checkpoint([]byte("{\"a\":\n1}")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return w.String()
	}
	wantJSON := `{"opened":{"explicitAcknowledgements":true}}
{"captured":{"doc":{"a":"<é>"}}}
{"captured":{"binding":1,"doc":{ "a": 1}}}
{"sourcedSchema":{"binding":2,"documentSchema":{"type":"object"}}}
{"checkpoint":{"state":{"updated":{"a": 1},"mergePatch":true}}}
`
	if got := write(codecJSON); got != wantJSON {
		t.Errorf("json:\n got %s\nwant %s", got, wantJSON)
	}
	wantProto := "\x04\x00\x00\x00\x2a\x02\x08\x01" +
		"\x10\x00\x00\x00\x32\x0e\x12\x0c{\"a\":\"<é>\"}" +
		"\x0f\x00\x00\x00\x32\x0d\x08\x01\x12\x09{\n\"a\":\n1}" +
		"\x17\x00\x00\x00\x42\x15\x08\x02\x12\x11{\"type\":\"object\"}" +
		"\x10\x00\x00\x00\x3a\x0e\x0a\x0c\x0a\x08{\"a\":\n1}\x10\x01"
	if got := write(codecProto); got != wantProto {
		t.Errorf("proto:\n got %q\nwant %q", got, wantProto)
	}
}

// A dropped frame leaves no trace, also when its document had grown the buffer.
func TestOutputDiscard(t *testing.T) {
	for _, c := range codecs {
		var w bytes.Buffer
		o := newOutput(&w, c)
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(emitDocument(o, 1, `"a"`))
		_ = append(o.begin(2), strings.Repeat("x", 2<<20)...)
		o.discard()
		if err := o.end(o.begin(3)); errorText(err) != "an empty document for binding 3" {
			t.Errorf("%v: an empty document: %v", c, err)
		}
		check(emitDocument(o, 4, `"b"`))
		check(o.checkpoint([]byte(`{}`)))
		all := decodeResponses(t, c, w.Bytes())
		if len(all) != 3 || string(all[0].Captured.DocJson) != `"a"` || all[1].Captured.Binding != 4 || all[2].Checkpoint == nil {
			t.Errorf("%v: got %v", c, all)
		}
	}
}

// What is larger than a frame may be is refused, and the frames around it stay whole.
func TestOutputRefusesGiants(t *testing.T) {
	for _, c := range codecs {
		var w bytes.Buffer
		o := newOutput(&w, c)
		o.limit = 1000
		giant := `"` + strings.Repeat("x", 1000) + `"`
		for _, step := range []struct {
			err  error
			want string
		}{
			{emitDocument(o, 0, `1`), ""},
			{emitDocument(o, 7, giant), "a document of 1002 bytes for binding 7, more than a frame holds"},
			{emitDocument(o, 0, `2`), ""},
			{o.checkpoint([]byte(giant)), "a checkpoint's patch of 1002 bytes, more than a frame holds"},
			{o.checkpoint(nil), "an empty patch for a checkpoint"},
			{o.checkpoint([]byte(`{}`)), ""},
		} {
			if errorText(step.err) != step.want {
				t.Errorf("%v: got %v, want %s", c, step.err, step.want)
			}
		}
		if err := o.respond(&pc.Response{Applied: &pc.Response_Applied{ActionDescription: giant}}); err == nil {
			t.Errorf("%v: a giant response is taken", c)
		}
		if all := decodeResponses(t, c, w.Bytes()); len(all) != 3 || string(all[1].Captured.DocJson) != "2" {
			t.Errorf("%v: got %v", c, all)
		}
	}
}

func TestOutputFlushes(t *testing.T) {
	for _, c := range codecs {
		var w bytes.Buffer
		o := newOutput(&w, c)
		doc := `"` + strings.Repeat("x", 1000) + `"`
		for len(o.buf)+2*len(doc) < outputFlush {
			if err := emitDocument(o, 0, doc); err != nil {
				t.Fatal(err)
			}
		}
		if w.Len() != 0 {
			t.Errorf("%v: %d bytes written before the buffer was full", c, w.Len())
		}
		for range 3 {
			_ = emitDocument(o, 0, doc)
		}
		if w.Len() < outputFlush {
			t.Errorf("%v: %d bytes written when the buffer was full", c, w.Len())
		}
		_ = emitDocument(o, 0, `"`+strings.Repeat("x", 5<<20)+`"`)
		if cap(o.buf) != outputSize || len(o.buf) != 0 {
			t.Errorf("%v: after an outlier: %d of %d bytes", c, len(o.buf), cap(o.buf))
		}
		decodeResponses(t, c, w.Bytes())
	}
}

// failingWriter takes limit bytes, at most step at a time, then fails.
type failingWriter struct {
	limit, step int
	got         []byte
}

var errFull = errors.New("full")

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.step, w.limit)
	w.got = append(w.got, p[:n]...)
	if w.limit -= n; w.limit == 0 {
		return n, errFull
	}
	return n, nil
}

// After a failed write nothing more is written, every call reports it, and settled says what the peer has. All places
// of failure are tried, with short writes.
func TestOutputFailsOnce(t *testing.T) {
	for _, c := range codecs {
		run := func(w io.Writer) (settled []bool, errs []error, o *output) {
			o = newOutput(w, c)
			for _, call := range []func() error{
				func() error {
					return o.respond(&pc.Response{Opened: &pc.Response_Opened{ExplicitAcknowledgements: true}})
				},
				func() error { return emitDocument(o, 1, `{"a":1}`) },
				o.flush,
				func() error { return o.checkpoint([]byte(`{"b":1}`)) },
				func() error { return o.sourcedSchema(1, json.RawMessage(`{}`)) },
				o.flush,
				func() error { return emitDocument(o, 2, `{"c":1}`) },
				func() error { return o.checkpoint([]byte(`{"d":1}`)) },
				func() error { return emitDocument(o, 3, `{"dropped":1}`) },
			} {
				err := call()
				settled, errs = append(settled, o.settled()), append(errs, err)
			}
			return settled, errs, o
		}
		var whole bytes.Buffer
		settled, _, _ := run(&whole)
		if want := []bool{true, true, false, true, true, false, false, true, true}; !reflect.DeepEqual(settled, want) {
			t.Errorf("%v: settled is %v, want %v", c, settled, want)
		}
		var boundaries []int // ends of opened and of the checkpoints
		at := 0
		for _, response := range decodeResponses(t, c, whole.Bytes()) {
			if at += len(peerFrame(t, c, response)); response.Checkpoint != nil || response.Opened != nil {
				boundaries = append(boundaries, at)
			}
		}
		for limit := 1; limit < whole.Len(); limit++ {
			w := &failingWriter{limit: limit, step: 3}
			settled, errs, o := run(w)
			if !bytes.Equal(w.got, whole.Bytes()[:limit]) {
				t.Fatalf("%v: failing after %d bytes wrote %q", c, limit, w.got)
			}
			if last := errs[len(errs)-1]; !errors.Is(last, errFull) || last.Error() != "writing to the runtime: full" {
				t.Errorf("%v: failing after %d bytes: the last call returned %v", c, limit, last)
			}
			if !errors.Is(o.flush(), errFull) || !errors.Is(o.respond(&pc.Response{}), errFull) || len(o.buf) != 0 {
				t.Errorf("%v: failing after %d bytes: the failure is forgotten", c, limit)
			}
			atBoundary := false
			for _, b := range boundaries {
				atBoundary = atBoundary || b == limit
			}
			if settled[len(settled)-1] && !atBoundary {
				t.Errorf("%v: settled after %d bytes, a boundary is at %v", c, limit, boundaries)
			}
		}
	}
}

func TestOutputNoProgress(t *testing.T) {
	o := newOutput(writerFunc(func([]byte) (int, error) { return 0, nil }), codecJSON)
	if err := o.checkpoint([]byte(`{}`)); !errors.Is(err, io.ErrShortWrite) || !o.settled() {
		t.Errorf("got %v, settled %v", err, o.settled())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Documents and checkpoints cost no allocation, also when header sizes alternate.
func TestOutputAllocates(t *testing.T) {
	for _, c := range codecs {
		o := newOutput(io.Discard, c)
		small, large := bytes.Repeat([]byte("1"), 50), bytes.Repeat([]byte("1"), 20_000)
		patch := []byte(`{"cursor":"0/1"}`)
		allocations := testing.AllocsPerRun(200, func() {
			for i := range 50 {
				dst := append(o.begin(uint32(i)), small...)
				if i%7 == 0 {
					dst = append(dst, large...)
				}
				if o.end(dst) != nil {
					t.Fail()
				}
			}
			if o.checkpoint(patch) != nil {
				t.Fail()
			}
		})
		if allocations != 0 {
			t.Errorf("%v: %v allocations for 50 documents and a checkpoint", c, allocations)
		}
	}
}

// Whatever is written through the library's decoder comes out as it went in.
func FuzzOutput(f *testing.F) {
	f.Add(uint64(1), uint32(0), `{"a":1}`, `{"c":"0/1"}`)
	f.Add(uint64(2), uint32(300), "{\"é\":\n[ ]}", `{}`)
	f.Fuzz(func(t *testing.T, seed uint64, binding uint32, doc, patch string) {
		if !json.Valid([]byte(doc)) || !json.Valid([]byte(patch)) || strings.TrimSpace(doc) == "null" || strings.TrimSpace(patch) == "null" {
			t.Skip("the library reads null as absent")
		}
		for _, c := range codecs {
			random := rand.New(rand.NewPCG(seed, 0))
			var w bytes.Buffer
			o := newOutput(&w, c)
			var want []*pc.Response
			for range 20 {
				text := doc
				switch random.IntN(5) {
				case 0:
					_ = append(o.begin(binding), doc...)
					o.discard()
					continue
				case 1:
					text = `"` + strings.Repeat("y", random.IntN(20_000)) + `"`
				case 2:
					if err := o.checkpoint([]byte(patch)); err != nil {
						t.Fatal(err)
					}
					want = append(want, &pc.Response{Checkpoint: &pc.Response_Checkpoint{
						State: &pf.ConnectorState{UpdatedJson: json.RawMessage(patch), MergePatch: true},
					}})
					continue
				}
				if err := emitDocument(o, binding, text); err != nil {
					t.Fatal(err)
				}
				want = append(want, &pc.Response{Captured: &pc.Response_Captured{Binding: binding, DocJson: json.RawMessage(text)}})
			}
			if err := o.flush(); err != nil {
				t.Fatal(err)
			}
			got := decodeResponses(t, c, w.Bytes())
			if len(got) != len(want) {
				t.Fatalf("%v: %d responses, want %d", c, len(got), len(want))
			}
			for i := range got {
				if compactResponse(t, got[i]) != compactResponse(t, want[i]) {
					t.Errorf("%v: response %d is %v, want %v", c, i, got[i], want[i])
				}
			}
		}
	})
}

// compactResponse is a response with its JSON parts free of whitespace.
func compactResponse(t *testing.T, r *pc.Response) string {
	t.Helper()
	raw, kind := json.RawMessage(nil), "checkpoint"
	if r.Captured != nil {
		raw, kind = r.Captured.DocJson, fmt.Sprintf("document of %d", r.Captured.Binding)
	} else if !r.Checkpoint.State.MergePatch {
		t.Errorf("a checkpoint without mergePatch: %v", r)
	} else {
		raw = r.Checkpoint.State.UpdatedJson
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return kind + " " + b.String()
}

func BenchmarkOutput(b *testing.B) {
	for _, c := range codecs {
		b.Run(c.String(), func(b *testing.B) {
			o := newOutput(io.Discard, c)
			doc := bytes.Repeat([]byte("1"), 400)
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if err := o.end(append(o.begin(3), doc...)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
