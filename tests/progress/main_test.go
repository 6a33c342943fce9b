package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// Goal: a person sees that something goes on, and a failure whole. Method: events as go test sends them, a second apart.

func run(t *testing.T, lines string) (text string, well bool) {
	t.Helper()
	var out strings.Builder
	now := time.Unix(0, 0)
	r := newReport(&out, now)
	events := make(chan event)
	go read(strings.NewReader(lines), events)
	for e := range events {
		if now = now.Add(time.Second); e.Action == "wait" {
			now = now.Add(interval)
		}
		r.take(e, now)
		r.tick(now)
	}
	well = r.finish(now)
	return out.String(), well
}

func TestReport(t *testing.T) {
	for name, test := range map[string]struct {
		events []event
		raw    string
		want   string
		well   bool
	}{
		"all is well": {
			events: []event{
				{Action: "wait"},
				{Action: "start", Package: "p"},
				{Action: "output", Package: "p", Output: "a word of TestMain\n"},
				{Action: "run", Package: "p", Test: "TestA"},
				{Action: "output", Package: "p", Test: "TestA", Output: "not shown\n"},
				{Action: "run", Package: "p", Test: "TestB"},
				{Action: "pause", Package: "p", Test: "TestB"},
				{Action: "wait", Package: "p", Test: "TestA"},
				{Action: "pass", Package: "p", Test: "TestA", Elapsed: 12.5},
				{Action: "cont", Package: "p", Test: "TestB"},
				{Action: "output", Package: "p", Test: "TestB", Output: "    b_test.go:7: needs a server\n"},
				{Action: "skip", Package: "p", Test: "TestB"},
				{Action: "output", Package: "p", Output: "PASS\n"},
				{Action: "output", Package: "p", Output: "ok  \tp\t12.5s\n"},
				{Action: "pass", Package: "p", Elapsed: 13},
			},
			want: "0:11  building the tests\na word of TestMain\n0:28  0 tests passed, 0 skipped, 0 failed, running TestA (14 s)\n" +
				"ok   p, 2 tests in 13.0 s\nskipped 1, needs a server: TestB\nslowest: TestA 12 s\n" +
				"1 tests passed, 1 skipped, 0 failed in 0:35\n",
			well: true,
		},
		"cases are left out": {
			events: []event{
				{Action: "start", Package: "p"},
				{Action: "run", Package: "p", Test: "TestA"},
				{Action: "output", Package: "p", Test: "TestA/x", Output: "    a_test.go:7: elsewhere\n"},
				{Action: "skip", Package: "p", Test: "TestA/x"},
				{Action: "output", Package: "p", Test: "TestA/y", Output: "    a_test.go:7: elsewhere\n"},
				{Action: "skip", Package: "p", Test: "TestA/y"},
				{Action: "skip", Package: "p", Test: "TestA/z"},
				{Action: "pass", Package: "p", Test: "TestA/w"},
				{Action: "pass", Package: "p", Test: "TestA"},
				{Action: "output", Package: "p", Test: "TestB/x", Output: "    b_test.go:8: elsewhere\n"},
				{Action: "skip", Package: "p", Test: "TestB/x"},
				{Action: "pass", Package: "p", Test: "TestB"},
				{Action: "output", Package: "p", Test: "TestC", Output: "    c_test.go:9: elsewhere\n"},
				{Action: "skip", Package: "p", Test: "TestC"},
				{Action: "pass", Package: "p", Elapsed: 13},
			},
			want: "0:10  1 tests passed, 0 skipped, 0 failed, running TestB (0 s)\nok   p, 3 tests in 13.0 s\nskipped 1, elsewhere: TestC\nskipped 3 cases, elsewhere: TestA 2, TestB 1\n" +
				"skipped 1 cases, without a reason: TestA 1\n2 tests passed, 1 skipped, 0 failed in 0:15\n",
			well: true,
		},
		"a failure": {
			events: []event{
				{Action: "start", Package: "p"},
				{Action: "output", Package: "p", Test: "TestA", Output: "=== RUN   TestA\n"},
				{Action: "output", Package: "p", Test: "TestA/x", Output: "of x\n"},
				{Action: "pass", Package: "p", Test: "TestA/x"},
				{Action: "output", Package: "p", Test: "TestA/y", Output: "of y\n"},
				{Action: "fail", Package: "p", Test: "TestA/y"},
				{Action: "output", Package: "p", Test: "TestA", Output: "--- FAIL: TestA (0.10s)\n"},
				{Action: "fail", Package: "p", Test: "TestA", Elapsed: 0.1},
				{Action: "output", Package: "p", Output: "FAIL\n"},
				{Action: "output", Package: "p", Output: "exit status 1\n"},
				{Action: "fail", Package: "p", Elapsed: 1},
			},
			want: "0:08  FAILED TestA after 0.1 s, more at the end\nFAIL p, 1 tests in 1.0 s\n" +
				"\n== TestA of p failed\nof y\n--- FAIL: TestA (0.10s)\n0 tests passed, 0 skipped, 1 failed in 0:11\n",
		},
		"a panic ends the package": {
			events: []event{
				{Action: "start", Package: "p"},
				{Action: "run", Package: "p", Test: "TestA"},
				{Action: "output", Package: "p", Test: "TestA", Output: "panic: test timed out after 10m0s\n"},
				{Action: "fail", Package: "p", Elapsed: 600},
			},
			want: "FAIL p, 0 tests in 600.0 s\n\n== TestA of p did not end\npanic: test timed out after 10m0s\n" +
				"0 tests passed, 0 skipped, 0 failed in 0:04\n",
		},
		"go test was killed": {
			events: []event{
				{Action: "start", Package: "p"},
				{Action: "pass", Package: "p", Test: "TestA"},
			},
			want: "FAIL p did not end\n1 tests passed, 0 skipped, 0 failed in 0:02\n",
		},
		"it does not build": {
			events: []event{
				{Action: "build-output", ImportPath: "p [p.test]", Output: "./x.go:1:1: wrong\n"},
				{Action: "build-fail", ImportPath: "p [p.test]"},
				{Action: "start", Package: "p"},
				{Action: "output", Package: "p", Output: "FAIL\tp [build failed]\n"},
				{Action: "fail", Package: "p", FailedBuild: "p [p.test]"},
			},
			want: "./x.go:1:1: wrong\nFAIL p: it does not build\n0 tests passed, 0 skipped, 0 failed in 0:05\n",
		},
		"not of go test": {raw: "go: no such tool\n", want: "go: no such tool\n0 tests passed, 0 skipped, 0 failed in 0:01\n"},
		"nothing":        {want: "0 tests passed, 0 skipped, 0 failed in 0:00\n"},
	} {
		lines := test.raw
		for _, e := range test.events {
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			lines += string(line) + "\n"
		}
		text, well := run(t, lines)
		if text != test.want || well != test.well {
			t.Errorf("%s: %t\n%s\nwant\n%s", name, well, text, test.want)
		}
	}
}
