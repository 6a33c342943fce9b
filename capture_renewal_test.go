package main

// capture_renewal_test.go holds which sessions publish which attachments, without a server. What becomes of the partitions is in
// capture_partition_changes_test.go, on a server before version 15.

import "testing"

func TestRenewal(t *testing.T) {
	var r renewal
	check := func(lacks, asked bool, attachments ...uint64) {
		t.Helper()
		if haveLacks, haveAsked := r.lacks(attachments); haveLacks != lacks || lacks && haveAsked != asked {
			t.Errorf("%v: not published %t, asked for %t; want %t, %t", attachments, haveLacks, haveAsked, lacks, asked)
		}
	}
	r.begins([]uint64{1, 2})
	check(false, true)
	check(false, true, 1, 2)
	check(true, false, 10)
	r.ask([]uint64{10, 11}, 200)
	r.ask([]uint64{12}, 100)
	check(true, true, 10, 11)
	check(true, false, 11, 13)
	if r.at != 200 || r.began(199) {
		t.Errorf("a session that begins at 199 does for one that is to begin at %s", r.at)
	}
	check(true, true, 12)
	if !r.began(200) || r.at != 0 {
		t.Error("the session that was asked for is not it")
	}
	check(false, true, 10, 11, 12)
	check(true, false, 12, 13)
	if r.began(300) {
		t.Error("a session that nobody asked for is one that was")
	}
}
