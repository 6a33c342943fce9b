// memory.go owns the memory budget: the container's limit, as far as it can be read, becomes the garbage collector's.
package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
)

// defaultMemory is assumed where no limit can be read: what the runtime gives a connector's container.
const defaultMemory = 1 << 30

// memoryLimit returns the container's memory limit in bytes (cgroup v2, then v1), or the default.
func memoryLimit() int64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		limit, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err == nil && limit > 0 && limit < math.MaxInt64/2 {
			return limit
		}
	}
	return defaultMemory
}

// setMemoryLimit has the garbage collector work harder as the limit comes near. GOMEMLIMIT, when set, wins.
func setMemoryLimit() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := memoryLimit()
	debug.SetMemoryLimit(limit / 10 * 9)
	logrus.WithField("bytes", limit).Debug("memory limit")
}
