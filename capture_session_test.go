package main

import (
	"testing"
	"time"
)

// TestSessionRenewals: partitions that are attached one by one to a table of which nothing changes do not end the capture, however many
// sessions they ask for.
func TestSessionRenewals(t *testing.T) {
	s := newSession(nil, &settings{}, newAcknowledgements(), &progress{}, func(string) {})
	s.began = time.Now()
	for range 20 {
		again, err := s.again(t.Context(), errRenewSession, false, nil)
		if !again || err != errRenewSession {
			t.Fatalf("another session follows: %v, %v", again, err)
		}
		if err := s.pause(t.Context(), err); err != nil {
			t.Fatal(err)
		}
	}
}
