// load.go owns the way from a folder to a checked package: the files that the build tags choose, their syntax and types, and
// the reading order that DESIGN.md gives them.

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// house is a package as it was read.
type house struct {
	fset  *token.FileSet
	pkg   *types.Package
	info  types.Info
	files []*file // in reading order
	named map[string]*file
}

// file is one file of the house, without those of tests.
type file struct {
	name   string
	place  int  // in the reading order
	listed bool // DESIGN.md has a row for it
	lines  int
	syntax *ast.File
	uses   map[*file]map[string]bool // what it uses of which other file, by name
}

// load reads the package in folder. Types of other packages come from the export data that the build keeps, so that each of
// our identifiers is known for what it is.
func load(folder, tags string) (*house, error) {
	exports, names, err := list(folder, tags)
	if err != nil {
		return nil, err
	}
	order, err := readingOrder(filepath.Join(folder, "DESIGN.md"))
	if err != nil {
		return nil, err
	}
	h := &house{fset: token.NewFileSet(), named: make(map[string]*file)}
	var syntax []*ast.File
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		parsed, err := parser.ParseFile(h.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		place := slices.Index(order, name)
		f := &file{
			name: name, place: place, listed: place >= 0, lines: bytes.Count(text, []byte("\n")), syntax: parsed,
			uses: make(map[*file]map[string]bool),
		}
		if !f.listed {
			f.place = len(order)
		}
		syntax = append(syntax, parsed)
		h.files = append(h.files, f)
		h.named[name] = f
	}
	slices.SortStableFunc(h.files, func(a, b *file) int { return a.place - b.place })
	h.info = types.Info{
		Types: make(map[ast.Expr]types.TypeAndValue), Defs: make(map[*ast.Ident]types.Object),
		Uses: make(map[*ast.Ident]types.Object), Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}
	lookup := func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	}
	config := types.Config{Importer: importer.ForCompiler(h.fset, "gc", lookup)}
	h.pkg, err = config.Check("house", h.fset, syntax, &h.info)
	return h, err
}

// list returns the files of the package in folder, and the export data of every package it is built from.
func list(folder, tags string) (exports map[string]string, names []string, err error) {
	command := exec.Command("go", "list", "-tags", tags, "-export", "-deps", "-json=ImportPath,Export,GoFiles,DepOnly", ".")
	command.Dir, command.Stderr = folder, os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list: %w", err)
	}
	exports = make(map[string]string)
	for in := json.NewDecoder(bytes.NewReader(output)); ; {
		var p struct {
			ImportPath, Export string
			GoFiles            []string
			DepOnly            bool
		}
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return exports, names, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("go list: %w", err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			names = p.GoFiles
		}
	}
}

var goFile = regexp.MustCompile("`([a-z0-9_]+\\.go)`")

// readingOrder returns the files in the order in which §2 of DESIGN.md has them: the rows of its table, each file at its first
// mention. What the section names outside of the table stands beside the house: it may use all of it, so it is put behind the
// first row, which is main.go's.
func readingOrder(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	_, section, found := strings.Cut(string(text), "\n## 2.")
	if !found {
		return nil, fmt.Errorf("%s: no section 2", path)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows, beside []string
	for line := range strings.Lines(section) {
		for _, m := range goFile.FindAllStringSubmatch(line, -1) {
			if strings.HasPrefix(line, "|") {
				rows = append(rows, m[1])
			} else {
				beside = append(beside, m[1])
			}
		}
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s: the table of section 2 names no file", path)
	}
	seen := make(map[string]bool)
	for _, name := range rows {
		seen[name] = true
	}
	beside = slices.DeleteFunc(beside, func(name string) bool { return seen[name] })
	var order []string
	for _, name := range slices.Concat(rows[:1], beside, rows[1:]) {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	return order, nil
}
