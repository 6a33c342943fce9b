package main

// flow_unknown_test.go: what newer runtimes add to requests is accepted and, in a debug log, named.

import (
	"encoding/json"
	"strings"
	"testing"

	pc "github.com/estuary/flow/go/protocols/capture"
	"github.com/gogo/protobuf/jsonpb"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestUnknownFields(t *testing.T) {
	written := keepLogging(t)
	text, err := (&jsonpb.Marshaler{}).MarshalToString(openRequest())
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, into ...string) { // with a value that is no number of a table's
		t.Helper()
		before := `"` + strings.Join(into, "") + `":{`
		changed := strings.Replace(text, before, before+`"`+name+`":{"a":[1]},`, 1)
		if changed == text {
			t.Fatalf("%s is not in %s", before, text)
		}
		text = changed
	}
	put("later", "open")
	put("secrets", "capture")
	put("atOnce", "collection")
	text = strings.TrimSuffix(text, "}") + `,"of":null}`

	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 77, protowire.VarintType), 1)
	request := openRequest()
	capture := request.Open.Capture
	request.XXX_unrecognized, request.Open.XXX_unrecognized, capture.XXX_unrecognized = unknown, unknown, unknown
	for _, b := range capture.Bindings {
		b.Collection.XXX_unrecognized = unknown
	}
	for _, test := range []struct {
		codec codec
		frame string
		want  string
	}{
		{codecJSON, text + "\n", "of, open.capture.bindings.collection.atOnce, open.capture.secrets, open.later"},
		{codecProto, string(peerFrame(t, codecProto, request)), "77, open.77, open.capture.77, open.capture.bindings.collection.77"},
	} {
		for _, level := range []logrus.Level{logrus.InfoLevel, logrus.DebugLevel} {
			logrus.SetLevel(level)
			written.Reset()
			r, err := newRequestReader(strings.NewReader(test.frame), test.codec).next()
			if err != nil || r.Open == nil {
				t.Fatalf("%s: %v", test.codec, err)
			}
			want := ""
			if level == logrus.DebugLevel {
				want = `level=debug msg="fields of a request that this connector does not know: ` + test.want + "\"\n"
			}
			if got := written.String(); got != want {
				t.Errorf("%s: logged %q, want %q", test.codec, got, want)
			}
		}
	}
	// Linked collections are known, though not to the library.
	for _, c := range codecs {
		for _, inline := range linkedRequests() {
			written.Reset()
			if _, err := newRequestReader(strings.NewReader(string(indirectFrame(t, inline, c))), c).next(); err != nil {
				t.Error(err)
			}
			if got := written.String(); got != "" {
				t.Errorf("%s: logged %s", c, got)
			}
		}
	}
}

// What flow v0.6.12 added comes through, in both codecs.
func TestRequestsOfToday(t *testing.T) {
	open := openRequest()
	open.Open.SealedConfigJson, open.Open.Capture.CreatedAt = json.RawMessage(`{"sops":{}}`), "2026-07-01"
	discover := &pc.Request{Discover: &pc.Request_Discover{ConfigJson: json.RawMessage(`{}`), CreatedAt: "2026-07-01"}}
	for _, c := range codecs {
		requests := newRequestReader(strings.NewReader(string(peerFrame(t, c, open))+string(peerFrame(t, c, discover))), c)
		r, err := requests.next()
		if err != nil || string(r.Open.SealedConfigJson) != `{"sops":{}}` || r.Open.Capture.CreatedAt != "2026-07-01" {
			t.Errorf("%s: %v, %v", c, r, err)
		}
		if r, err = requests.next(); err != nil || r.Discover.CreatedAt != "2026-07-01" {
			t.Errorf("%s: %v, %v", c, r, err)
		}
	}
}
