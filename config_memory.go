// config_memory.go owns the memory budget: the container's limit, as far as it can be read, becomes the garbage collector's and is
// divided among everything whose size the data decides.
// Invariant: the parts of a budget, each as large as it may get and all at once, stay below the limit they were made from
// (from smallestLimit on).

package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
)

const (
	// defaultMemory is assumed where no limit can be read: what the runtime gives a connector's container.
	defaultMemory = 1 << 30
	// smallestLimit is the least a budget is made for.
	smallestLimit = 256 << 20
)

// memoryBudget is how large what the data decides may get, in bytes. With the 1 GiB of a container of the runtime's, in MiB:
//
//	receive buffers    sessionBuffers of message                    32
//	a change           its old and its new row, values still whole 208
//	a document         the output buffer, twice while it grows     135
//	chunks             two rounds, patches may double each          64
//	and one wide row   read by the driver, kept, patched           288
//	keys of a transaction, and sides of keys                        96
//	the program and its bindings: what is left                      98
//
// Ten thousand bindings take 336 while they are opened, garbage included: such a capture has no room left for all of these
// at once, only for some.
type memoryBudget struct {
	document int // a document's JSON; at most maxDocument
	row      int // a row image: what makes a document that large, with room for hex digits and white space
	message  int // of the stream, or a row of a query, beyond which it is read in pieces
	chunks   int // the rows of all chunks, as they were scanned
	held     int // keys remembered of one transaction (capture_deferred.go), about 200 bytes each
}

// budget is set by setMemoryLimit before anything reads it.
var budget = newMemoryBudget(defaultMemory)

func newMemoryBudget(limit int64) memoryBudget {
	part := func(n int64, most int) int { return int(min(max(limit, smallestLimit)/n, int64(most))) }
	b := memoryBudget{
		document: part(17, maxDocument),
		message:  part(128, truncateAt),
		chunks:   part(32, 32<<20),
		held:     part(1<<11, 1<<19),
	}
	b.row = b.document / 5 * 8
	return b
}

// memoryLimit returns the memory limit in bytes: the least of those of the control groups the process is in (version 2, or
// the memory controller of version 1), below the file system's root, and of the machine's memory; the default where none
// is set.
func memoryLimit(root string) int64 {
	limit := int64(math.MaxInt64)
	note := func(name string, raw []byte) {
		n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err == nil && n > 0 && n < limit && n < math.MaxInt64/2 { // version 1 writes "none" as 2^63 less a page
			logrus.WithFields(logrus.Fields{"bytes": n, "from": name}).Debug("memory limit")
			limit = n
		}
	}
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	paths := map[string]string{"": "/", "memory": "/"} // of a container of its own name space
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(fields) == 3 && (fields[1] == "" || fields[1] == "memory") {
			paths[fields[1]] = fields[2]
		}
	}
	for controller, path := range paths {
		mount, file := "sys/fs/cgroup", "memory.max"
		if controller == "memory" {
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		// A limit of any group above holds too. A path of the host's, seen from a container, has only its root here.
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			name := filepath.Join(root, mount, path, file)
			if raw, err := os.ReadFile(name); err == nil {
				note(name, raw)
			}
			if path == "/" {
				break
			}
		}
	}
	if limit == math.MaxInt64 {
		limit = defaultMemory
	}
	if memory, err := os.ReadFile(filepath.Join(root, "proc/meminfo")); err == nil {
		if fields := strings.Fields(string(memory)); len(fields) > 2 && fields[0] == "MemTotal:" {
			if kib, err := strconv.ParseInt(fields[1], 10, 64); err == nil && kib > 0 {
				limit = min(limit, kib<<10)
			}
		}
	}
	return limit
}

// heapLimit is what the collector is told to keep the program's memory below. It passes that by a large buffer or two, and
// the program's own pages, about 25 MiB, count too.
func heapLimit(limit int64) int64 { return max(limit/2, limit-max(limit/10, 72<<20)) }

// setMemoryLimit makes the budget and has the garbage collector work harder as the limit comes near. GOMEMLIMIT, when set,
// wins; where it is lower, the budget is made from it.
func setMemoryLimit() {
	limit := memoryLimit("/")
	if os.Getenv("GOMEMLIMIT") != "" {
		if heap := debug.SetMemoryLimit(-1); heap < limit { // else, as "off" is, it is no bound
			limit = min(limit, heap/9*10)
		}
	} else {
		debug.SetMemoryLimit(heapLimit(limit))
	}
	if limit < smallestLimit {
		logrus.Warnf("the memory limit of %d MiB is below the %d MiB that captures of wide rows need: raise the container's limit",
			limit>>20, int64(smallestLimit)>>20)
	}
	budget = newMemoryBudget(limit)
}

// largeBuffer is the size from which a buffer is worth a collection of garbage before it is made: the limit is one the
// collector aims at, and would be passed by a few such buffers that are garbage already.
const largeBuffer = 16 << 20

// makeBuffer returns an empty buffer of that capacity.
func makeBuffer(size int) []byte {
	if size >= largeBuffer {
		runtime.GC()
	}
	return make([]byte, 0, size)
}
