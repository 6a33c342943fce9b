//go:build !failpoints

package main

import "time"

// failpoint marks a step at which a test may have the process killed. It is compiled in by the build tag of that name.
func failpoint(string) {}

// hurried shortens what a test would wait for, under that tag only.
func hurried(d time.Duration) time.Duration { return d }
