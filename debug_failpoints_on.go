//go:build failpoints

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// failpointVariable arms failpoints: NAME:N:ACTION, divided by commas. At the N-th hit of the name the process is killed
// (kill) or loses its connections (cut); sleep=DURATION pauses at every hit from the N-th on, jitter=DURATION at one in eight, for
// up to as long, as on a machine that others keep busy. The name * stands for all.
const failpointVariable = "SOURCE_POSTGRES_FAILPOINT"

// armedFailpoint is one entry of the variable.
type armedFailpoint struct {
	name   string
	from   int64
	action string
	pause  time.Duration
	jitter bool
	hits   atomic.Int64
}

var armedFailpoints = parseFailpoints(os.Getenv(failpointVariable))

func parseFailpoints(text string) (armed []*armedFailpoint) {
	if text == "" {
		return nil
	}
	for entry := range strings.SplitSeq(text, ",") {
		f := &armedFailpoint{}
		parts := strings.Split(entry, ":")
		err := fmt.Errorf("want NAME:N:ACTION")
		if len(parts) == 3 {
			f.name, f.action = parts[0], parts[2]
			what, pause, pauses := strings.Cut(f.action, "=")
			f.jitter = what == "jitter"
			if f.from, err = strconv.ParseInt(parts[1], 10, 64); err == nil && pauses && (f.jitter || what == "sleep") {
				f.pause, err = time.ParseDuration(pause)
			}
		}
		if err != nil || f.from < 1 || f.action != "kill" && f.action != "cut" && f.pause <= 0 {
			panic(fmt.Sprintf("%s: %q: %v", failpointVariable, entry, err))
		}
		armed = append(armed, f)
	}
	return armed
}

// failpoint marks a step at which a test may have the process killed. Names are unique; the test finds them in the source.
func failpoint(name string) {
	for _, f := range armedFailpoints {
		if f.name != name && f.name != "*" {
			continue
		}
		n := f.hits.Add(1)
		switch {
		case f.jitter:
			if n >= f.from && rand.IntN(8) == 0 {
				time.Sleep(rand.N(f.pause))
			}
		case f.pause > 0 && n >= f.from:
			time.Sleep(f.pause)
		case n != f.from:
		case f.action == "cut":
			tellFailpoint(f)
			cutConnections()
		default:
			tellFailpoint(f)
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {} // not a step further
		}
	}
}

// tellFailpoint logs the hit in one write, so that nothing is lost of it.
func tellFailpoint(f *armedFailpoint) {
	line := fmt.Sprintf("{\"level\":\"warning\",\"msg\":\"failpoint %s: %s at hit %d\"}\n", f.name, f.action, f.from)
	_, _ = os.Stderr.WriteString(line)
}

// cutConnections ends every socket of the process in both directions, as a network that fails does. Other files stay.
func cutConnections() {
	for fd := 3; fd < 1024; fd++ {
		_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
	}
}

// largeTransactionVariable holds another value of largeTransaction.
const largeTransactionVariable = "SOURCE_POSTGRES_TEST_LARGE_TRANSACTION"

func init() {
	if text := os.Getenv(largeTransactionVariable); text != "" {
		var err error
		if largeTransaction, err = strconv.Atoi(text); err != nil {
			panic(largeTransactionVariable + ": " + err.Error())
		}
	}
}

// hurry is the longest that hurried lets anything wait.
var hurry = time.Second
