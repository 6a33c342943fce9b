// draw.go owns the picture as text.

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// mostStructs is how many of the largest structs are printed.
const mostStructs = 12

// draw prints all that is measured.
func (h *house) draw(w io.Writer, all bool) {
	h.findUses()
	h.drawFamilies(w)
	h.drawArrows(w, all)
	circles := h.circles()
	fmt.Fprintf(w, "\n# The circle: files that use each other, directly or through others\n")
	for _, members := range circles {
		fmt.Fprintf(w, "%d of %d files: %s\n", len(members), len(h.files), join(members))
	}
	if len(circles) == 0 {
		fmt.Fprintln(w, "none")
	}
	fmt.Fprintf(w, "\n# The largest structs\n")
	for i, s := range h.structs() {
		if i < mostStructs {
			fmt.Fprintf(w, "%4d fields  %s\n", s.fields, s.name)
		}
	}
	h.drawOwners(w)
	functions := h.wideFunctions()
	fmt.Fprintf(w, "\n# Functions with more than %d parameters: %d\n", mostParameters, len(functions))
	for _, fn := range functions {
		fmt.Fprintf(w, "%4d  %s  %s\n", fn.parameters, fn.file, fn.name)
	}
	states := h.sqlstates()
	fmt.Fprintf(w, "\n# Files that spell SQLSTATEs: %d\n", len(states))
	for _, name := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(w, "%4d  %s\n", states[name], name)
	}
	comments := h.packageComments()
	fmt.Fprintf(w, "\n# Files whose head `go doc` shows: %d\n%s\n", len(comments), join(comments))
	h.drawWalks(w, all)
}

// drawFamilies prints each family, its files, and which others it uses; ^ marks those that stand above it.
func (h *house) drawFamilies(w io.Writer) {
	names, members := h.families()
	family := make(map[*file]string)
	for name, files := range members {
		for _, f := range files {
			family[f] = name
		}
	}
	lines := 0
	for _, f := range h.files {
		lines += f.lines
	}
	fmt.Fprintf(w, "# Families: %d, of %s with %d lines; ^ stands above\n", len(names), plural(len(h.files), "file"), lines)
	for _, name := range names {
		fmt.Fprintf(w, "%s: %s\n", name, join(members[name]))
		marks := make(map[string]string)
		for _, f := range members[name] {
			for to := range f.uses {
				if family[to] == name {
					continue
				}
				if runsUp(f, to) {
					marks[family[to]] = "^"
				} else if marks[family[to]] == "" {
					marks[family[to]] = " "
				}
			}
		}
		var used []string
		for _, other := range names {
			if mark := marks[other]; mark != "" {
				used = append(used, strings.TrimSpace(mark)+other)
			}
		}
		if len(used) > 0 {
			fmt.Fprintf(w, "    uses %s\n", strings.Join(used, " "))
		}
	}
	var unlisted []*file
	for _, f := range h.files {
		if !f.listed {
			unlisted = append(unlisted, f)
		}
	}
	if len(unlisted) > 0 {
		fmt.Fprintf(w, "DESIGN.md §2 does not name: %s\n", join(unlisted))
	}
}

// drawArrows counts the arrows, and prints those that run up by what they run to.
func (h *house) drawArrows(w io.Writer, all bool) {
	arrows, names, up, upNames := 0, 0, 0, 0
	sources := make(map[*file][]*file)
	for _, f := range h.files {
		for _, to := range f.targets() {
			arrows++
			names += len(f.uses[to])
			if runsUp(f, to) {
				up++
				upNames += len(f.uses[to])
				sources[to] = append(sources[to], f)
			}
		}
	}
	fmt.Fprintf(w, "\n# Arrows between files: %d with %d names, of which run up: %d with %d\n", arrows, names, up, upNames)
	for _, to := range h.files {
		if len(sources[to]) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s <- %s\n", to.name, join(sources[to]))
		for _, from := range sources[to] {
			if all {
				fmt.Fprintf(w, "    %s: %s\n", from.name, strings.Join(slices.Sorted(maps.Keys(from.uses[to])), " "))
			}
		}
	}
}

// drawOwners prints which fields of owners others write, and how many of each owner's are written in several files.
func (h *house) drawOwners(w io.Writer) {
	fields := h.written()
	several, outside := make(map[string]int), 0
	for _, b := range fields {
		if len(b.files) > 1 {
			several[b.owner]++
		}
		if len(b.outsiders) > 0 {
			outside++
		}
	}
	fmt.Fprintf(w, "\n# Fields of owners written outside of their methods: %d\n", outside)
	for _, b := range fields {
		if len(b.outsiders) > 0 {
			fmt.Fprintf(w, "%s.%s: %s\n", b.owner, b.field, strings.Join(slices.Sorted(maps.Keys(b.outsiders)), ", "))
		}
	}
	fmt.Fprintf(w, "\n# Fields of owners written in more than one file\n")
	for _, owner := range slices.Sorted(maps.Keys(several)) {
		fmt.Fprintf(w, "%s: %d\n", owner, several[owner])
		for _, b := range fields {
			if b.owner == owner && len(b.files) > 1 {
				fmt.Fprintf(w, "    %s: %s\n", b.field, strings.Join(slices.Sorted(maps.Keys(b.files)), " "))
			}
		}
	}
}

func (h *house) drawWalks(w io.Writer, all bool) {
	fmt.Fprintf(w, "\n# Walks: everything that an entry may call, read where it is called first; of it, what has an owner in its hands; of the capture's own methods\n")
	for _, k := range walks {
		for _, entry := range k.entries {
			whole, owned, loop := h.walkFrom(entry, whatever), h.walkFrom(entry, hasOwner), h.walkFrom(entry, ofTheLoop)
			if whole == nil {
				continue
			}
			fmt.Fprintf(w, "%s, %s\n    %s\n    %s\n    %s\n", k.what, entry, whole, owned, loop)
			if all {
				fmt.Fprintf(w, "    %s\n", join(owned.stays))
			}
			break
		}
	}
}

func (w *walk) String() string {
	return fmt.Sprintf("%4d functions in %2d files, %3d stays, %3d climbs", w.functions, len(w.files), len(w.stays), w.climbs)
}

func join(files []*file) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.name, ".go")
	}
	return strings.Join(names, " ")
}
