// assert.go owns the checks of our own invariants. A broken one is a bug of ours and panics: the process dies, the
// runtime restarts it from the last committed checkpoint, and nothing wrong has been emitted.
package main

import "fmt"

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
