package main

// flow_linked_test.go: a request in the indirect form means what the same request means in the inline one.
//
// Goal: whichever form a runtime sends, in either codec, active and inactive bindings and those of lastCapture get the
// collection that was meant; an index that leads nowhere is an error that names the binding. Method: inline requests are
// turned into indirect ones by the stand-in runtime, which shares no code with what reads them.

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// indirectFrame is a request in the indirect form as a runtime sends it.
func indirectFrame(t testing.TB, r *pc.Request, c codec) []byte {
	t.Helper()
	frame, err := appendIndirectRequest(nil, r, c)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// linkedRequests are requests of many bindings over few collections.
func linkedRequests() []*pc.Request {
	spec := func() *pf.CaptureSpec {
		s := openRequest().Open.Capture
		one := *s.Bindings[0]
		s.Bindings = nil
		for i := range 5 {
			b := one
			b.StateKey = fmt.Sprint("s", i)
			b.Collection = pf.CollectionSpec{
				Name: pf.Collection(fmt.Sprint("acmeCo/c", i%3)), Key: []string{fmt.Sprint("/k", i%3)},
				Projections: []pf.Projection{{Ptr: fmt.Sprint("/k", i%3), Field: fmt.Sprint("k", i%3), IsPrimaryKey: true}},
			}
			if i < 4 {
				s.Bindings = append(s.Bindings, &b)
			} else {
				s.InactiveBindings = append(s.InactiveBindings, &b)
			}
		}
		return s
	}
	validate := &pc.Request_Validate{Name: "acmeCo/capture", ConfigJson: json.RawMessage(`{}`), LastVersion: "1", LastCapture: spec()}
	for _, b := range spec().Bindings {
		validate.Bindings = append(validate.Bindings, &pc.Request_Validate_Binding{ResourceConfigJson: b.ResourceConfigJson, Collection: b.Collection})
	}
	open := openRequest()
	open.Open.Capture = spec()
	return []*pc.Request{{Validate: validate}, {Apply: &pc.Request_Apply{Capture: spec(), LastCapture: spec()}}, open}
}

func TestLinkedCollections(t *testing.T) {
	marshal := func(r *pc.Request) string {
		t.Helper()
		text, err := (&jsonpb.Marshaler{}).MarshalToString(r)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for i, inline := range linkedRequests() {
		want := marshal(inline)
		for _, c := range codecs {
			frame := indirectFrame(t, inline, c)
			if strings.Contains(string(frame), `"collection":`) {
				t.Fatalf("a collection is still inline: %s", frame)
			}
			got, err := newRequestReader(strings.NewReader(string(frame)), c).next()
			if err != nil {
				t.Errorf("%s, request %d: %v", c, i, err)
				continue
			}
			if text := marshal(got); text != want {
				t.Errorf("%s, request %d:\n got %s\nwant %s", c, i, text, want)
			}
		}
	}
}

func TestLinkedCollectionsAmiss(t *testing.T) {
	const (
		head    = `{"open":{"capture":{"name":"a/b","config":{},`
		binding = `"resourceConfig":{"stream":"t"},"stateKey":"s"`
		entry   = `{"name":"a/c","key":["/id"]}`
		inline  = `"collection":{"name":"a/inline","key":["/x"]}`
	)
	for _, test := range []struct{ name, in, collection, wantErr string }{
		{"no index is 0", head + `"linkedCollections":[` + entry + `],"bindings":[{` + binding + `}]}}}`, "a/c", ""},
		{"the table wins", head + `"linkedCollections":[` + entry + `],"bindings":[{` + binding + `,` + inline + `}]}}}`, "a/c", ""},
		{"a stray index", head + `"bindings":[{` + binding + `,` + inline + `,"collectionIndex":7}]}}}`, "a/inline", ""},
		{"an empty table", head + `"linkedCollections":[],"bindings":[{` + binding + `,` + inline + `}]}}}`, "a/inline", ""},
		{
			"two of one name", head + `"linkedCollections":[` + entry + `,` + entry + `],"bindings":[{` + binding + `,"collectionIndex":1}]}}}`,
			"a/c", "",
		},
		{
			"out of range", head + `"linkedCollections":[` + entry + `],"bindings":[{` + binding + `},{` + binding + `,"collectionIndex":1}]}}}`,
			"", "open: capture: bindings[1]: collectionIndex is 1, and linkedCollections has 1 entries",
		},
		{
			"out of range, inactive", head + `"linkedCollections":[` + entry + `],"bindings":[],"inactiveBindings":[{"collectionIndex":9}]}}}`,
			"", "open: capture: inactiveBindings[0]: collectionIndex is 9",
		},
		{"an index as text", head + `"linkedCollections":[` + entry + `],"bindings":[{` + binding + `,"collectionIndex":"0"}]}}}`, "a/c", ""},
		{
			"no number", head + `"linkedCollections":[` + entry + `],"bindings":[{` + binding + `,"collectionIndex":-1}]}}}`,
			"", "open: capture: bindings[0]: collectionIndex is -1, and must be a number from 0 on",
		},
		{"a stray index that is no number", head + `"bindings":[{` + binding + `,` + inline + `,"collectionIndex":{}}],"linkedCollections":null}}}`, "a/inline", ""},
		{"no collection at all", head + `"bindings":[{` + binding + `}]}}}`, "", "missing: collection.name, collection.key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := newRequestReader(strings.NewReader(test.in+"\n"), codecJSON).next()
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got %v, want %s", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Open.Capture.Bindings[0].Collection.Name.String(); got != test.collection {
				t.Errorf("got collection %q, want %q", got, test.collection)
			}
		})
	}
	// A validation in a form that nobody has seen yet goes on without the checks of keys.
	in := `{"validate":{"name":"a/b","config":{},"someTable":[` + entry + `],"bindings":[{"resourceConfig":{"stream":"t"}}]}}` + "\n"
	r, err := newRequestReader(strings.NewReader(in), codecJSON).next()
	if err != nil || len(r.Validate.Bindings) != 1 {
		t.Errorf("a validation without collections: %v", err)
	}
	// Nor is it refused where its fields mean something else: a text and a number at the places of table and index.
	validate := linkedRequests()[0]
	validate.Validate.XXX_unrecognized = protowire.AppendString(protowire.AppendTag(nil, fieldValidateTable, protowire.BytesType), "later")
	for _, b := range validate.Validate.Bindings {
		b.XXX_unrecognized = protowire.AppendVarint(protowire.AppendTag(nil, fieldValidateIndex, protowire.VarintType), 99)
	}
	r, err = newRequestReader(strings.NewReader(string(peerFrame(t, codecProto, validate))), codecProto).next()
	if err != nil || r.Validate.Bindings[1].Collection.Name != "acmeCo/c1" {
		t.Errorf("a validation with fields of another meaning: %v", err)
	}
}

// TestLinkedCollectionsCaptured: discover, validate, apply and open in the indirect form, in both codecs.
func TestLinkedCollectionsCaptured(t *testing.T) {
	for _, c := range codecs {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			db := newTestDB(t)
			table := db.createTable("t", "(id int PRIMARY KEY, v text)")
			db.exec("INSERT INTO " + quoteTable(table) + " VALUES (1, 'one')")
			r := startRuntime(t, runtimeOptions{config: db.config(), codec: c, indirect: true, tables: table.String()})
			r.waitDocuments(1)
			r.stop()
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLinkedCollectionsByHand: a capture is opened in the indirect form by a script that shares no code with us.
func TestLinkedCollectionsByHand(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("needs bash, which is not installed")
	}
	db := newTestDB(t)
	schema := db.createSchema("linked")
	for _, name := range []string{"one", "two", "three"} {
		table := tableName{schema, name}
		db.exec(fmt.Sprintf("CREATE TABLE %s (id int PRIMARY KEY, v text)", quoteTable(table)))
		db.exec(fmt.Sprintf("INSERT INTO %s VALUES (1, 'a'), (2, 'b')", quoteTable(table)))
		db.grant(table)
		db.publish(table)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := exec.Command("tests/linked.sh")
	script.Env = append(os.Environ(), testMainVariable+"=connector", "CONNECTOR="+self, "ADDRESS="+*testAddress, "DATABASE="+*testDatabase,
		"CAPTURE_USER="+*testCaptureUser, "CAPTURE_PASSWORD="+*testCapturePassword, "SLOT="+db.slot, "PUBLICATION="+db.publication,
		"WATERMARKS="+db.watermarks.String(), "SCHEMA="+schema)
	if out, err := script.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// FuzzLinkedProto: whatever stands in fields that the library does not know, it is an error or a request, in bounded memory.
func FuzzLinkedProto(f *testing.F) {
	for _, r := range linkedRequests() {
		body, err := indirectProto(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
		if _, err := newRequestReader(strings.NewReader(string(frame)), codecProto).next(); err == io.EOF {
			t.Error("a request is no end")
		}
	})
}

// BenchmarkLinkedCollections reads the Open of 10,000 bindings over three collections, inline and indirect.
func BenchmarkLinkedCollections(b *testing.B) {
	one := openRequest()
	binding := one.Open.Capture.Bindings[0]
	one.Open.Capture.Bindings = nil
	for i := range 10000 {
		copied := *binding
		copied.StateKey = fmt.Sprint("s", i)
		copied.Collection.Name = pf.Collection(fmt.Sprint("acmeCo/c", i%3))
		copied.Collection.WriteSchemaJson = json.RawMessage(`{"type":"object","description":"` + strings.Repeat("x", 3000) + `"}`)
		one.Open.Capture.Bindings = append(one.Open.Capture.Bindings, &copied)
	}
	for _, c := range codecs {
		for name, frame := range map[string][]byte{"inline": peerFrame(b, c, one), "indirect": indirectFrame(b, one, c)} {
			b.Run(c.String()+"/"+name, func(b *testing.B) {
				for b.Loop() {
					if _, err := newRequestReader(strings.NewReader(string(frame)), c).next(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
