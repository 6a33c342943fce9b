// walk.go owns the walks: what somebody reads who follows a path through the code with all its branches.

package main

import (
	"go/ast"
	"go/types"
	"slices"
)

// walk is what it takes to read everything that an entry can call.
type walk struct {
	functions int
	files     map[*file]bool
	stays     []*file // the files in the order of reading: one for each time that reading goes on in another file
	climbs    int     // calls into a file that stands above the caller's
}

// walks are the entries whose walks are printed: the first of the names that is declared. Such figures
// compare with each other, and not with ones of a walk that a person made.
var walks = []struct {
	what    string
	entries []string
}{
	{"one WAL message", []string{"(*capture).handle", "handle"}},
	{"one change of a row", []string{"(*capture).handleChange"}},
	{"one change being judged", []string{"(*changes).next"}},
	{"one round being read", []string{"(*rounds).start", "(*capture).startRound"}},
	{"one chunk settling", []string{"(*capture).settleChunk"}},
	{"one row being read", []string{"(*chunk).read"}},
	{"one acknowledgement", []string{"(*acknowledgements).run"}},
	{"a capture starting where it was", []string{"(*capture).start"}},
	{"a replication session beginning and ending", []string{"(*sessions).run", "(*capture).run"}},
}

// walkFrom reads depth first, as the source has it: what a function calls is read where it is called first, and not again.
// A function that is named without being called counts as called. Only what reads accepts is read, the others count as known.
func (h *house) walkFrom(entry string, reads func(types.Object) bool) *walk {
	bodies := make(map[types.Object]*ast.FuncDecl)
	var first types.Object
	h.functions(func(_ *file, fn *ast.FuncDecl) {
		bodies[h.info.Defs[fn.Name]] = fn
		if h.nameOf(fn) == entry {
			first = h.info.Defs[fn.Name]
		}
	})
	if first == nil {
		return nil
	}
	w := &walk{files: make(map[*file]bool)}
	read := make(map[types.Object]bool)
	var visit func(o types.Object)
	visit = func(o types.Object) {
		read[o] = true
		w.functions++
		f := h.fileAt(o.Pos())
		w.enter(f)
		ast.Inspect(bodies[o].Body, func(n ast.Node) bool {
			name, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			called := h.info.Uses[name]
			if called == nil || bodies[called] == nil || !reads(called) {
				return true
			}
			if runsUp(f, h.fileAt(called.Pos())) {
				w.climbs++
			}
			if !read[called] {
				visit(called)
				w.enter(f)
			}
			return true
		})
	}
	visit(first)
	return w
}

// whatever reads everything.
func whatever(types.Object) bool { return true }

// ofTheLoop accepts the capture's own methods: what the owners do stands in the promises of theirs.
func ofTheLoop(o types.Object) bool {
	r := o.(*types.Func).Signature().Recv()
	return r != nil && ownerName(r.Type()) == owners[0]
}

// hasOwner accepts what has an owner in its hands: its methods, and functions that are given one.
func hasOwner(o types.Object) bool {
	signature := o.(*types.Func).Signature()
	if r := signature.Recv(); r != nil && slices.Contains(owners, ownerName(r.Type())) {
		return true
	}
	for v := range signature.Params().Variables() {
		if slices.Contains(owners, ownerName(v.Type())) {
			return true
		}
	}
	return false
}

func (w *walk) enter(f *file) {
	w.files[f] = true
	if n := len(w.stays); n == 0 || w.stays[n-1] != f {
		w.stays = append(w.stays, f)
	}
}
