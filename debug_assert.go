// debug_assert.go owns the checks of our own invariants, and the pace that tests set. A broken invariant is a bug of ours and panics:
// the process dies, the runtime restarts it from the last committed checkpoint, and nothing wrong has been emitted.

package main

import (
	"fmt"
	"time"
)

func assert(condition bool, format string, args ...any) {
	if !condition {
		panic("broken invariant: " + fmt.Sprintf(format, args...))
	}
}

// spoil overwrites a buffer that was lent and has come back, so that a use after its time shows at once.
func spoil(buf []byte) {
	for i := range buf {
		buf[i] = 0xDB
	}
}

// hurried is d, or less where a test does not wait as long (hurry) for what is done now and then.
func hurried(d time.Duration) time.Duration { return min(d, hurry) }
