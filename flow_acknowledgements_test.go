package main

// flow_acknowledgements_test.go: the flushed position moves with what the runtime has committed, and with nothing else.

import (
	"bytes"
	"io"
	"slices"
	"testing"

	pc "github.com/estuary/flow/go/protocols/capture"
)

func TestPop(t *testing.T) {
	for _, tc := range []struct {
		name    string
		pending []lsn
		pops    []int
		flushed uint64
		left    []lsn
		wantErr string
	}{
		{"one", []lsn{10}, []int{1}, 10, nil, ""},
		{"zero means one", []lsn{10, 20}, []int{0}, 10, []lsn{20}, ""},
		{"several", []lsn{10, 20, 30}, []int{2}, 20, []lsn{30}, ""},
		{"one by one", []lsn{10, 20, 30}, []int{1, 1, 1}, 30, nil, ""},
		{"without a cursor", []lsn{0, 0, 10}, []int{2}, 0, []lsn{10}, ""},
		{"never back", []lsn{10, 0, 10}, []int{3}, 10, nil, ""},
		{"too many", []lsn{10}, []int{2}, 0, []lsn{10}, "the runtime acknowledged 2 checkpoints, but only 1 are pending"},
		{"none pending", nil, []int{0}, 0, nil, "the runtime acknowledged 1 checkpoints, but only 0 are pending"},
		{"too many after some", []lsn{10, 20}, []int{1, 2}, 10, []lsn{20}, "the runtime acknowledged 2 checkpoints, but only 1 are pending"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &acknowledgements{}
			for _, cursor := range tc.pending {
				a.push(cursor)
			}
			if a.flushed.Load() != 0 {
				t.Error("a checkpoint that was only sent moved the position")
			}
			var err error
			for _, n := range tc.pops {
				if err = a.pop(n); err != nil {
					break
				}
			}
			if errorText(err) != tc.wantErr || a.flushed.Load() != tc.flushed || !slices.Equal(a.pending, tc.left) {
				t.Errorf("flushed %d, left %v, error %q; want %d, %v, %q", a.flushed.Load(), a.pending, errorText(err), tc.flushed,
					tc.left, tc.wantErr)
			}
		})
	}
}

func TestAcknowledgementsRun(t *testing.T) {
	acknowledge := func(n uint32) libraryMessage {
		return &pc.Request{Acknowledge: &pc.Request_Acknowledge{Checkpoints: n}}
	}
	for _, c := range []codec{codecProto, codecJSON} {
		for _, tc := range []struct {
			name     string
			requests []libraryMessage
			flushed  uint64
			want     string
		}{
			{name: "end", want: "the runtime closed our input: stopping"},
			{name: "acknowledged", requests: []libraryMessage{acknowledge(1), acknowledge(2)}, flushed: 30, want: "the runtime closed our input: stopping"},
			{
				name: "too many", requests: []libraryMessage{acknowledge(1), acknowledge(3)}, flushed: 10,
				want: "the runtime acknowledged 3 checkpoints, but only 2 are pending",
			},
			{
				name: "another request", requests: []libraryMessage{acknowledge(1), &pc.Request{Spec: &pc.Request_Spec{}}}, flushed: 10,
				want: "the runtime sent a request other than Acknowledge after Open",
			},
		} {
			t.Run(c.String()+" "+tc.name, func(t *testing.T) {
				a := &acknowledgements{}
				for _, cursor := range []lsn{10, 20, 30} {
					a.push(cursor)
				}
				var in bytes.Buffer
				for _, r := range tc.requests {
					in.Write(peerFrame(t, c, r))
				}

				if err := a.run(newRequestReader(&in, c)); errorText(err) != tc.want || a.flushed.Load() != tc.flushed {
					t.Errorf("error %q, flushed %d; want %q, %d", errorText(err), a.flushed.Load(), tc.want, tc.flushed)
				}
			})
		}
	}
	a := &acknowledgements{}
	err := a.run(newRequestReader(io.MultiReader(bytes.NewReader([]byte{9, 0})), codecProto))
	if want := "read an acknowledgement: request 1: the input ends at offset 2, after 2 of the 4 bytes of a length"; errorText(err) != want {
		t.Errorf("error %q, want %q", errorText(err), want)
	}
}
