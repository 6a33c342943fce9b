package main

import (
	"os"
	"strings"
	"testing"
)

// TestDraw draws a small package in which each measure has something to tell: a constant in main.go that files below use, three
// fields written by others of which one is a part of another struct, a function of six parameters, and three SQLSTATEs. The
// walk does not go back into what was read.
func TestDraw(t *testing.T) {
	h, err := load("testdata/small", "nozstd")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	h.draw(&got, true)
	want, err := os.ReadFile("testdata/small.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("drew\n%s\nwant\n%s", got.String(), want)
	}
}
