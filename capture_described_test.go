package main

// capture_described_test.go holds what the order of messages says of tables against runs of them: R and P describe a root and a table that are
// captured, f and g others; * may stand between descriptions, x is any other message, F a change of f.

import "testing"

func TestDescriptions(t *testing.T) {
	root := &relationEntry{binding: &binding{table: &table{kind: 'p'}}}
	captured := &relationEntry{binding: &binding{table: &table{kind: 'r'}}}
	f, g := &relationEntry{}, &relationEntry{}
	for _, tc := range []struct {
		messages string
		roots    string // by each description: R where that is of a partition of it
		sentAs   bool   // by the last message, which is a change of f
	}{
		{messages: "RfPg", roots: ".R.."},
		{messages: "RBf", roots: ".."}, // the root was described in another transaction
		{messages: "Rf*g", roots: ".R."},
		{messages: "fPF", roots: "..", sentAs: true},
		{messages: "f*P*F", roots: "..", sentAs: true},
		{messages: "fPxF", roots: ".."}, // as of a TRUNCATE of both
		{messages: "fxPF", roots: ".."},
		{messages: "fgPF", roots: "..."}, // it is g's
		{messages: "fPPF", roots: "..."},
		{messages: "PfF", roots: ".."},
		{messages: "xfPF", roots: "..", sentAs: true},
	} {
		var d descriptions
		roots, sentAs := "", false
		for i, m := range tc.messages {
			entry := map[rune]*relationEntry{'R': root, 'P': captured, 'f': f, 'g': g}[m]
			switch {
			case entry != nil && d.relation(entry, i+1) != nil:
				roots += "R"
			case entry != nil:
				roots += "."
			case m == '*':
				d.skip()
			case m == 'B':
				d.transaction()
			case m == 'F':
				sentAs = d.change(f, i+1) == captured
			}
		}
		if roots != tc.roots || sentAs != tc.sentAs {
			t.Errorf("%s: partitions %q, sent as f: %t; want %q, %t", tc.messages, roots, sentAs, tc.roots, tc.sentAs)
		}
	}
}
