// measure.go owns what is measured: arrows and the circle, structs, writers of owners' fields, parameters, SQLSTATEs.

package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// owners are the structs whose fields only their own methods may write, the loop first. One that is not declared has nothing
// to tell.
var owners = []string{
	"capture", "ledger", "sessions", "rounds", "backlog", "changes", "refreshes", "descriptions", "renewal", "partitions",
	"partitionSet", "catalog", "binding", "scan", "lessons", "diagnostics", "progress",
	"chunk", "round", "output", "replication", "fencer", "acknowledgements",
}

// mostParameters is how many parameters a function may have, without its receiver.
const mostParameters = 5

// findUses notes for each file what it uses of which other: functions, methods, types, fields, constants, variables.
func (h *house) findUses() {
	for _, f := range h.files {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			name, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			target := h.info.Uses[name]
			if target == nil || target.Pkg() != h.pkg {
				return true
			}
			if to := h.fileAt(target.Pos()); to != nil && to != f && declaredOutside(target) {
				if f.uses[to] == nil {
					f.uses[to] = make(map[string]bool)
				}
				f.uses[to][target.Name()] = true
			}
			return true
		})
	}
}

// declaredOutside tells what other files can name from what is local to a function.
func declaredOutside(o types.Object) bool {
	if v, ok := o.(*types.Var); ok && v.IsField() {
		return true
	}
	if f, ok := o.(*types.Func); ok && f.Signature().Recv() != nil {
		return true
	}
	return o.Parent() == o.Pkg().Scope()
}

// fileAt returns the file that a position is in.
func (h *house) fileAt(p token.Pos) *file {
	if !p.IsValid() {
		return nil
	}
	return h.named[h.fset.Position(p).Filename]
}

// runsUp tells an arrow against the reading order.
func runsUp(from, to *file) bool { return to.place < from.place }

// targets returns the files that f uses, in reading order.
func (f *file) targets() []*file {
	return slices.SortedFunc(maps.Keys(f.uses), inOrder)
}

func inOrder(a, b *file) int { return cmp.Or(a.place-b.place, cmp.Compare(a.name, b.name)) }

// circles returns the sets of files of which each uses each other, directly or through others; the largest first, none of one.
// It is Tarjan's algorithm.
func (h *house) circles() [][]*file {
	var stack []*file
	index, low, onStack := make(map[*file]int), make(map[*file]int), make(map[*file]bool)
	var found [][]*file
	var visit func(f *file)
	visit = func(f *file) {
		index[f] = len(index) + 1
		low[f] = index[f]
		stack = append(stack, f)
		onStack[f] = true
		for _, to := range f.targets() {
			if index[to] == 0 {
				visit(to)
				low[f] = min(low[f], low[to])
			} else if onStack[to] {
				low[f] = min(low[f], index[to])
			}
		}
		if low[f] != index[f] {
			return
		}
		var members []*file
		for top := (*file)(nil); top != f; {
			top = stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			onStack[top] = false
			members = append(members, top)
		}
		if len(members) > 1 {
			slices.SortFunc(members, inOrder)
			found = append(found, members)
		}
	}
	for _, f := range h.files {
		if index[f] == 0 {
			visit(f)
		}
	}
	slices.SortStableFunc(found, func(a, b []*file) int { return len(b) - len(a) })
	return found
}

// structure is a struct type and how many fields it has.
type structure struct {
	name   string
	fields int
}

// structs returns the package's structs, the largest first.
func (h *house) structs() []structure {
	var found []structure
	for _, name := range h.pkg.Scope().Names() {
		if declared, ok := h.pkg.Scope().Lookup(name).(*types.TypeName); ok && !declared.IsAlias() {
			if s, ok := declared.Type().Underlying().(*types.Struct); ok {
				found = append(found, structure{name, s.NumFields()})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b structure) int { return b.fields - a.fields })
	return found
}

// writtenField is a field of an owner that is assigned to.
type writtenField struct {
	owner, field string
	files        map[string]bool // in which it is written
	outsiders    map[string]bool // functions that write it and are not the owner's, with their files
}

// written returns the fields of owners that functions assign to, by name. A function that returns the owner makes one, and
// counts as its own. What counts as written is a field that is assigned to, in whole or in a part that lies in it, whose
// elements are, or that delete or clear empties; what is reached through a pointer belongs to another.
func (h *house) written() []*writtenField {
	found := make(map[string]*writtenField)
	h.functions(func(f *file, fn *ast.FuncDecl) {
		note := func(target ast.Expr) {
			for _, name := range h.fieldsWritten(target) {
				b := found[name]
				if b == nil {
					owner, field, _ := strings.Cut(name, ".")
					b = &writtenField{owner, field, make(map[string]bool), make(map[string]bool)}
					found[name] = b
				}
				b.files[strings.TrimSuffix(f.name, ".go")] = true
				if !h.belongsTo(fn, b.owner) {
					b.outsiders[h.nameOf(fn)+" in "+f.name] = true
				}
			}
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, target := range n.Lhs {
					note(target)
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					note(n.Key)
					note(n.Value)
				}
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (name.Name == "delete" || name.Name == "clear") {
					note(n.Args[0])
				}
			}
			return true
		})
	})
	fields := slices.Collect(maps.Values(found))
	slices.SortFunc(fields, func(a, b *writtenField) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.field, b.field))
	})
	return fields
}

// fieldsWritten returns the owners' fields, as owner.field, that an assignment to target changes.
func (h *house) fieldsWritten(target ast.Expr) []string {
	var found []string
	for {
		switch e := target.(type) {
		case *ast.ParenExpr:
			target = e.X
		case *ast.IndexExpr:
			target = e.X
		case *ast.SelectorExpr:
			s := h.info.Selections[e]
			if s == nil || s.Kind() != types.FieldVal {
				return found
			}
			if owner := ownerName(s.Recv()); slices.Contains(owners, owner) && len(s.Index()) == 1 {
				found = append(found, owner+"."+e.Sel.Name)
			}
			if _, pointer := s.Recv().Underlying().(*types.Pointer); pointer {
				return found
			}
			target = e.X
		default:
			return found
		}
	}
}

// ownerName returns the name of our struct that t is, or points to.
func ownerName(t types.Type) string {
	if p, ok := t.Underlying().(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name()
	}
	return ""
}

// belongsTo tells a method of the owner, and a function that makes one.
func (h *house) belongsTo(fn *ast.FuncDecl, owner string) bool {
	signature := h.info.Defs[fn.Name].(*types.Func).Signature()
	if r := signature.Recv(); r != nil {
		return ownerName(r.Type()) == owner
	}
	for v := range signature.Results().Variables() {
		if ownerName(v.Type()) == owner {
			return true
		}
	}
	return false
}

// functions calls do for each function and method, in the order of the files.
func (h *house) functions(do func(f *file, fn *ast.FuncDecl)) {
	for _, f := range h.files {
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				do(f, fn)
			}
		}
	}
}

// nameOf returns a function's name as Go prints it: (*capture).write.
func (h *house) nameOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	return "(" + types.ExprString(fn.Recv.List[0].Type) + ")." + fn.Name.Name
}

// wide is a function with more than mostParameters, of which there are so many.
type wide struct {
	name, file string
	parameters int
}

// wideFunctions returns them, the widest first.
func (h *house) wideFunctions() []wide {
	var found []wide
	h.functions(func(f *file, fn *ast.FuncDecl) {
		ast.Inspect(fn, func(n ast.Node) bool {
			name, list := h.nameOf(fn), (*ast.FieldList)(nil)
			switch n := n.(type) {
			case *ast.FuncDecl:
				list = n.Type.Params
			case *ast.FuncLit:
				name, list = "a function in "+name, n.Type.Params
			}
			if count := list.NumFields(); count > mostParameters {
				found = append(found, wide{name, f.name, count})
			}
			return true
		})
	})
	slices.SortStableFunc(found, func(a, b wide) int { return b.parameters - a.parameters })
	return found
}

// sqlstate is a string of five of which the server's errors have one: a class of theirs in front, and no word.
var sqlstate = regexp.MustCompile(`^(0[0-9A-Z]|2[0-9A-Z]|3[0-9A-Z]|4[0-9A-Z]|5[0-9A-Z]|F0|HV|P0|XX)[0-9A-Z]{3}$`)

// sqlstates returns how many SQLSTATEs each file spells.
func (h *house) sqlstates() map[string]int {
	found := make(map[string]int)
	for _, f := range h.files {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if text, err := strconv.Unquote(l.Value); err == nil && sqlstate.MatchString(text) {
					found[f.name]++
				}
			}
			return true
		})
	}
	return found
}

// packageComments returns the files whose first comment stands directly above the package clause. One is enough: an empty
// line keeps the others from the package's documentation.
func (h *house) packageComments() []*file {
	var found []*file
	for _, f := range h.files {
		if f.syntax.Doc != nil {
			found = append(found, f)
		}
	}
	return found
}

// families groups the files by what stands ahead of the first underscore in their names.
func (h *house) families() (names []string, members map[string][]*file) {
	members = make(map[string][]*file)
	for _, f := range h.files {
		name, _, _ := strings.Cut(strings.TrimSuffix(f.name, ".go"), "_")
		if members[name] == nil {
			names = append(names, name)
		}
		members[name] = append(members[name], f)
	}
	return names, members
}

func plural(n int, what string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
