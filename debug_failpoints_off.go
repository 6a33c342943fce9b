//go:build !failpoints

package main

import (
	"math"
	"time"
)

// failpoint marks a step at which a test may have the process killed. It is compiled in by the build tag of that name.
func failpoint(string) {}

// hurry is the longest that hurried lets anything wait: for ever, unless a test says otherwise.
var hurry = time.Duration(math.MaxInt64)
