// Command progress reads `go test -json` and tells a person what goes on: a line now and then while it does, the outcome of
// each package, and at the end the whole output of what failed, what was skipped and why, and what took longest.
//
// Invariant: what a failed test or package wrote is printed whole, and the status is 0 only if every package has said that
// it passed.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

// interval is the time between two lines when nothing else is printed: short enough for a person who wonders.
const interval = 10 * time.Second

func main() {
	signal.Ignore(os.Interrupt) // go test ends by it, and then our input does
	events := make(chan event)
	go read(os.Stdin, events)
	r := newReport(os.Stdout, time.Now())
	tick := time.NewTicker(time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				if !r.finish(time.Now()) {
					os.Exit(1)
				}
				return
			}
			r.take(e, time.Now())
		case now := <-tick.C:
			r.tick(now)
		}
	}
}

// event is a line of `go test -json`; go doc test2json says what it holds.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// read hands on each line as an event, one that is none as output of nothing.
func read(r io.Reader, events chan<- event) {
	defer close(events)
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
				e = event{Action: "output", Output: line}
			}
			events <- e
		}
		if err != nil {
			return
		}
	}
}

// report is what has been seen so far.
type report struct {
	w                       io.Writer
	began, printed          time.Time
	packages                map[string]*packageReport
	order                   []*packageReport // as they began
	passed, skipped, failed int              // tests; subtests are their tests' own
}

// packageReport is what has been seen of a package.
type packageReport struct {
	name  string
	tests map[string]*test // those that run, have failed or were skipped, by name; subtests are their tests' own
	done  []*test          // all that have ended
	state string           // pass, fail, skip; empty: it runs
}

// test is a test with its subtests.
type test struct {
	name    string
	begin   time.Time
	paused  bool
	state   string
	elapsed float64
	output  []outputLine
	passed  map[string]bool // subtests
	leftOut []string        // why subtests were skipped, one each
}

type outputLine struct{ test, text string }

func newReport(w io.Writer, now time.Time) *report {
	return &report{w: w, began: now, printed: now, packages: make(map[string]*packageReport)}
}

func (r *report) print(now time.Time, format string, args ...any) {
	r.printed = now
	fmt.Fprintf(r.w, format+"\n", args...)
}

// take handles an event.
func (r *report) take(e event, now time.Time) {
	if e.Package == "" {
		if e.Output != "" { // of the compiler, or of whoever wrote into our pipe
			r.print(now, "%s", strings.TrimSuffix(e.Output, "\n"))
		}
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &packageReport{name: e.Package, tests: make(map[string]*test)}
		r.packages[e.Package] = p
		r.order = append(r.order, p)
	}
	if e.Test == "" {
		r.takePackage(p, e, now)
		return
	}
	name, _, sub := strings.Cut(e.Test, "/")
	t := p.tests[name]
	if t == nil {
		t = &test{name: name, begin: now, passed: make(map[string]bool)}
		p.tests[name] = t
	}
	switch e.Action {
	case "output":
		t.output = append(t.output, outputLine{e.Test, e.Output})
	case "pause":
		t.paused = t.paused || !sub
	case "cont":
		if !sub {
			t.paused, t.begin = false, now
		}
	case "pass", "skip", "fail":
		if sub {
			t.passed[e.Test] = e.Action != "fail"
			if e.Action == "skip" {
				t.leftOut = append(t.leftOut, t.reason(e.Test))
			}
			return
		}
		t.state, t.elapsed = e.Action, e.Elapsed
		p.done = append(p.done, t)
		switch e.Action {
		case "pass":
			r.passed++
			delete(p.tests, name)
			t.output = nil
		case "skip":
			r.skipped++
		case "fail":
			r.failed++
			r.print(now, "%s  FAILED %s after %.1f s, more at the end", since(r.began, now), name, e.Elapsed)
		}
	}
}

// dull are the lines of a package that say nothing that we do not.
var dull = regexp.MustCompile(`^(PASS|FAIL|ok\s.*|FAIL\s.*|exit status \d+|\?\s.*|testing: warning: no tests to run)$`)

// takePackage handles an event of a package as a whole.
func (r *report) takePackage(p *packageReport, e event, now time.Time) {
	switch e.Action {
	case "output":
		if text := strings.TrimSuffix(e.Output, "\n"); !dull.MatchString(text) && !strings.Contains(text, "[no test files]") {
			r.print(now, "%s", text)
		}
	case "pass", "fail", "skip":
		p.state = e.Action
		switch {
		case e.Action == "fail" && e.FailedBuild != "":
			r.print(now, "FAIL %s: it does not build", p.name)
		case e.Action == "fail":
			r.print(now, "FAIL %s, %d tests in %.1f s", p.name, len(p.done), e.Elapsed)
		case len(p.done) > 0:
			r.print(now, "ok   %s, %d tests in %.1f s", p.name, len(p.done), e.Elapsed)
		}
	}
}

// tick prints what goes on, if nothing was printed for an interval.
func (r *report) tick(now time.Time) {
	if now.Sub(r.printed) < interval {
		return
	}
	var running []*test
	for _, p := range r.order {
		for _, t := range p.tests {
			if t.state == "" && !t.paused {
				running = append(running, t)
			}
		}
	}
	if len(r.order) == 0 || len(running) == 0 && r.passed+r.skipped+r.failed == 0 {
		r.print(now, "%s  building the tests", since(r.began, now))
		return
	}
	slices.SortFunc(running, func(a, b *test) int {
		return cmp.Or(a.begin.Compare(b.begin), strings.Compare(a.name, b.name))
	})
	names := ""
	for i, t := range running[:min(3, len(running))] {
		names += fmt.Sprintf("%s %s (%.0f s)", map[bool]string{true: ", running", false: ","}[i == 0], t.name, now.Sub(t.begin).Seconds())
	}
	if more := len(running) - 3; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	r.print(now, "%s  %s%s", since(r.began, now), r.counts(), names)
}

func (r *report) counts() string {
	return fmt.Sprintf("%d tests passed, %d skipped, %d failed", r.passed, r.skipped, r.failed)
}

func since(began, now time.Time) string {
	seconds := int(now.Sub(began).Seconds())
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

// finish prints what there is to say at the end, and tells whether all is well.
func (r *report) finish(now time.Time) bool {
	well := len(r.order) > 0
	for _, p := range r.order {
		if p.state == "" {
			r.print(now, "FAIL %s did not end", p.name)
		}
		well = well && p.state != "" && p.state != "fail"
	}
	r.finishSkipped(now)
	r.finishSlowest(now)
	for _, p := range r.order {
		r.finishFailed(p, now)
	}
	r.print(now, "%s in %s", r.counts(), since(r.began, now))
	return well
}

// finishFailed prints all that the failed tests of a package wrote, and those that were running when it failed.
func (r *report) finishFailed(p *packageReport, now time.Time) {
	var failed []*test
	for _, t := range p.tests {
		if t.state == "fail" || t.state == "" && p.state != "pass" {
			failed = append(failed, t)
		}
	}
	slices.SortFunc(failed, func(a, b *test) int { return a.begin.Compare(b.begin) })
	for _, t := range failed {
		if t.state == "" {
			r.print(now, "\n== %s of %s did not end", t.name, p.name)
		} else {
			r.print(now, "\n== %s of %s failed", t.name, p.name)
		}
		for _, line := range t.output {
			if !marker.MatchString(line.text) && !t.passed[line.test] {
				fmt.Fprint(r.w, line.text)
			}
		}
	}
}

// marker is a line of which the events tell.
var marker = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) `)

// reason is a line by which a test says why it is skipped.
var reason = regexp.MustCompile(`^\s+\w+\.go:\d+: (.*)`)

// reason returns why the test or a subtest of it was skipped.
func (t *test) reason(name string) string {
	why := "without a reason"
	for _, line := range t.output {
		if match := reason.FindStringSubmatch(line.text); match != nil && line.test == name {
			why = match[1]
		}
	}
	return why
}

// finishSkipped prints what was skipped, by reason: whole tests, and how many cases of others.
func (r *report) finishSkipped(now time.Time) {
	type skips struct {
		tests []string       // skipped whole
		some  []string       // of which cases were
		cases map[string]int // of some
		count int            // of cases
	}
	all := make(map[string]*skips)
	var reasons []string
	of := func(why string) *skips {
		if all[why] == nil {
			all[why] = &skips{cases: make(map[string]int)}
			reasons = append(reasons, why)
		}
		return all[why]
	}
	for _, p := range r.order {
		for _, t := range p.done {
			if t.state == "skip" {
				s := of(t.reason(t.name))
				s.tests = append(s.tests, t.name)
			}
			for _, why := range t.leftOut {
				s := of(why)
				if s.count++; s.cases[t.name] == 0 {
					s.some = append(s.some, t.name)
				}
				s.cases[t.name]++
			}
		}
	}
	for _, why := range reasons {
		s := all[why]
		if len(s.tests) > 0 {
			r.print(now, "skipped %d, %s: %s", len(s.tests), why, strings.Join(s.tests, " "))
		}
		if s.count > 0 {
			for i, name := range s.some {
				s.some[i] = fmt.Sprintf("%s %d", name, s.cases[name])
			}
			r.print(now, "skipped %d cases, %s: %s", s.count, why, strings.Join(s.some, ", "))
		}
	}
}

// finishSlowest prints what took longest, where that is worth a word.
func (r *report) finishSlowest(now time.Time) {
	const most, worth = 10, 5.0
	var slow []*test
	for _, p := range r.order {
		for _, t := range p.done {
			if t.elapsed >= worth {
				slow = append(slow, t)
			}
		}
	}
	slices.SortFunc(slow, func(a, b *test) int { return cmp.Compare(b.elapsed, a.elapsed) })
	var text []string
	for _, t := range slow[:min(most, len(slow))] {
		text = append(text, fmt.Sprintf("%s %.0f s", t.name, t.elapsed))
	}
	if len(text) > 0 {
		r.print(now, "slowest: %s", strings.Join(text, ", "))
	}
}
