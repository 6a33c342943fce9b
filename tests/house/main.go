// Command house draws who uses whom in the package at the repository's root: the families of its files, the arrows that run up
// against the reading order of DESIGN.md §2, the circle of files that all use each other, the largest structs, the fields of
// an owner that others write, the functions with too many parameters, the files that spell SQLSTATEs, and how far one has to
// walk to read a path through the code. `make house` prints it.
//
// Invariant: what it prints depends on the sources of that package and on DESIGN.md alone, so that two runs can be held
// against each other as a diff.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	tags := flag.String("tags", "nozstd", "build tags")
	all := flag.Bool("all", false, "print each arrow that runs up, and each stay of the walks")
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, "usage: go run ./tests/house [-all] [-tags TAGS] [FOLDER]\n\n"+
			"Draws the package in FOLDER, by default the present one.\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	folder := "."
	if flag.NArg() > 0 {
		folder = flag.Arg(0)
	}
	h, err := load(folder, *tags)
	if err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
	h.draw(os.Stdout, *all)
}
