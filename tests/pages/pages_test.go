// Package pages holds the pages for people against each other and against the code.
//
// Goal: a reader who follows a link arrives, who looks for a message finds it in the words that the connector says, and who
// looks for a file, a setting or a variable finds its row. Method: the pages are read as text, the sources by the Go parser;
// nothing is run, and nothing is asked of a network.
package pages

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

const root = "../.."

// readmeLimit is what README may have: a page that is read in five minutes.
const readmeLimit = 8 << 10

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pageNames returns every page, by its path from the root.
func pageNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "*/*.md", "*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
	}
	return names
}

var (
	fencedCode = regexp.MustCompile("(?ms)^```.*?^```$")
	inlineCode = regexp.MustCompile("`[^`\n]*`")
	headings   = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	links      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// anchors returns the names by which a page's headings can be reached, made as GitHub makes them.
func anchors(text string) map[string]bool {
	found := make(map[string]bool)
	for _, m := range headings.FindAllStringSubmatch(fencedCode.ReplaceAllString(text, ""), -1) {
		title := strings.ReplaceAll(m[1], "`", "")
		title = links.ReplaceAllString(strings.ReplaceAll(title, "[", ""), "")
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(title))
		for i, name := 1, anchor; ; i++ {
			if !found[name] {
				found[name] = true
				break
			}
			name = anchor + "-" + strconv.Itoa(i)
		}
	}
	return found
}

func TestLinks(t *testing.T) {
	checked := 0
	for _, page := range pageNames(t) {
		text := inlineCode.ReplaceAllString(fencedCode.ReplaceAllString(read(t, page), ""), "``")
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			link := m[1]
			if strings.Contains(link, "://") {
				continue
			}
			checked++
			path, anchor, _ := strings.Cut(link, "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			info, err := os.Stat(filepath.Join(root, target))
			if err != nil {
				t.Errorf("%s: the link (%s) leads nowhere: %v", page, link, err)
				continue
			}
			if anchor != "" && (info.IsDir() || !anchors(read(t, target))[anchor]) {
				t.Errorf("%s: the link (%s) leads to a heading that is not in %s", page, link, target)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d links were found", checked)
	}
}

func TestReadme(t *testing.T) {
	text := read(t, "README.md")
	if len(text) > readmeLimit {
		t.Errorf("README.md has %d bytes, %d more than it may have: move something to docs", len(text), len(text)-readmeLimit)
	}
	for _, command := range []string{"make demo", "make test"} {
		if !strings.Contains(text, command) {
			t.Errorf("README.md does not say %q", command)
		}
	}
	for _, page := range pageNames(t) {
		if strings.HasPrefix(page, "docs/") && strings.Count(page, "/") == 1 && page != "docs/README.md" &&
			!strings.Contains(read(t, "docs/README.md"), "("+strings.TrimPrefix(page, "docs/")+")") {
			t.Errorf("docs/README.md does not lead to %s", page)
		}
	}
}

var goFile = regexp.MustCompile("`([a-z0-9_]+\\.go)`")

// TestMap holds the map of DESIGN.md §2 against the files that there are.
func TestMap(t *testing.T) {
	_, section, ok := strings.Cut(read(t, "DESIGN.md"), "\n## 2.")
	if !ok {
		t.Fatal("DESIGN.md has no §2")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	named := make(map[string]bool)
	for _, m := range goFile.FindAllStringSubmatch(section, -1) {
		named[m[1]] = true
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("DESIGN.md §2 has a row for %s, which is no file", m[1])
		}
	}
	for name := range sources(t) {
		if !named[name] {
			t.Errorf("DESIGN.md §2 has no row for %s: add one, at the place from which it uses only what stands below", name)
		}
	}
}

// TestTests finds each test that a page names, and each command of CONTRIBUTING and the pages in the Makefile.
func TestTests(t *testing.T) {
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "tests/*/*_test.go"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tests.Write(text)
		}
	}
	makefile := read(t, "Makefile")
	named := regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)[A-Z][A-Za-z0-9]*`)
	target := regexp.MustCompile("`make ([a-z-]+)")
	for _, page := range pageNames(t) {
		if page == "CHANGELOG.md" || strings.HasPrefix(page, "tests/") {
			continue
		}
		text := read(t, page)
		for _, name := range named.FindAllString(text, -1) {
			if name != "TestName" && name != "TestA" && name != "TestB" && !strings.Contains(tests.String(), "\nfunc "+name) {
				t.Errorf("%s names %s, and no test has a name that begins so", page, name)
			}
		}
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names make %s, which is no target", page, m[1])
			}
		}
	}
}

// sources returns the package's files but for its tests, parsed.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]*ast.File)
	set := token.NewFileSet()
	for _, path := range names {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = file
	}
	return files
}

// TestSettings finds each property of the two schemas, each feature flag and each variable in docs/settings.md.
func TestSettings(t *testing.T) {
	page := read(t, "docs/settings.md")
	wanted := make(map[string]bool)
	properties := make(map[string]bool) // by their own names
	var walk func(at string, schema map[string]any)
	walk = func(at string, schema map[string]any) {
		inner, _ := schema["properties"].(map[string]any)
		for name, property := range inner {
			properties[name] = true
			if property, ok := property.(map[string]any); ok {
				if property["properties"] == nil && property["oneOf"] == nil {
					wanted[at+name] = true
				}
				walk(at+name+".", property)
			}
		}
		for _, key := range []string{"oneOf", "anyOf"} {
			forms, _ := schema[key].([]any)
			for _, form := range forms {
				if form, ok := form.(map[string]any); ok {
					walk("", form) // the forms of the credentials are told by their own names
				}
			}
		}
	}
	for _, name := range []string{"schemas/endpoint.json", "schemas/resource.json"} {
		var schema map[string]any
		if err := json.Unmarshal([]byte(read(t, name)), &schema); err != nil {
			t.Fatal(err)
		}
		walk("", schema)
	}
	flag := regexp.MustCompile(`^[a-z]+(_[a-z]+)+$`)
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				selector, ok := n.Fun.(*ast.SelectorExpr)
				if ok && (selector.Sel.Name == "Getenv" || selector.Sel.Name == "LookupEnv") && len(n.Args) == 1 {
					if literal, ok := n.Args[0].(*ast.BasicLit); ok && !strings.HasPrefix(name, "debug_failpoints") {
						wanted[unquote(literal)] = true
					}
				}
			case *ast.FuncDecl:
				if n.Name.Name == "parseFlags" {
					ast.Inspect(n, func(n ast.Node) bool {
						if pair, ok := n.(*ast.KeyValueExpr); ok {
							if key, ok := pair.Key.(*ast.BasicLit); ok && flag.MatchString(unquote(key)) {
								wanted[unquote(key)] = true
							}
						}
						return true
					})
				}
			}
			return true
		})
	}
	minted := regexp.MustCompile(`^(?:aws_(?:access_key_id|secret_access_key)|[a-z]+_(?:session|access)_token)$`) // by the runtime
	for _, name := range []string{"config.go", "config_access.go"} {
		ast.Inspect(sources(t)[name], func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			literal, isText := call.Args[0].(*ast.BasicLit)
			if ok && isText && slices.Contains([]string{"text", "required", "flag", "integer", "list", "choice", "object"}, method.Sel.Name) &&
				!properties[unquote(literal)] && !minted.MatchString(unquote(literal)) {
				t.Errorf("%s reads the property %s, which no schema has: add it to schemas", name, unquote(literal))
			}
			return true
		})
	}
	if len(wanted) < 60 {
		t.Errorf("only %d settings were found", len(wanted))
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if !strings.Contains(page, name) {
			t.Errorf("docs/settings.md does not say what %s is", name)
		}
	}
}

// TestFlags finds each flag of the binary in docs/preview.md.
func TestFlags(t *testing.T) {
	page := read(t, "docs/preview.md")
	found := 0
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 4 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			name, isText := call.Args[1].(*ast.BasicLit)
			if ok && isText && strings.HasSuffix(method.Sel.Name, "Var") {
				found++
				if !strings.Contains(page, "`--"+unquote(name)+"`") && !strings.Contains(page, "`--"+unquote(name)+" ") {
					t.Errorf("docs/preview.md does not say what --%s is", unquote(name))
				}
			}
			return true
		})
	}
	if found < 15 {
		t.Errorf("only %d flags were found", found)
	}
}

func unquote(literal *ast.BasicLit) string {
	text, err := strconv.Unquote(literal.Value)
	if err != nil {
		return ""
	}
	return text
}

// TestMessages finds the words of each message of docs/troubleshooting.md in the sources, so that a message whose
// words change takes its row along.
func TestMessages(t *testing.T) {
	said := texts(t)
	quoted := regexp.MustCompile("`([^`]+)`")
	checked := 0
	for line := range strings.Lines(read(t, "docs/troubleshooting.md")) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " | ")
		for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
			for part := range strings.SplitSeq(m[1], "…") {
				words := strings.Fields(marks.ReplaceAllString(part, " "))
				if len(part) < 6 || len(words) == 0 || words[0] == "SQLSTATE" {
					continue
				}
				checked++
				if !isSaid(said, words) {
					t.Errorf("docs/troubleshooting.md: no text of the sources has %q, of the message %q", part, m[1])
				}
			}
		}
	}
	if checked < 150 {
		t.Errorf("only %d pieces of messages were found", checked)
	}
}

// TestSaid finds a message of docs/troubleshooting.md, or a status of docs/operations.md, in each text that a person is to act on: the
// faults and warnings of the checks, and the statuses, as far as they are written at the call.
func TestSaid(t *testing.T) {
	quoted := regexp.MustCompile("`([^`]+)`")
	var pieces []string
	for _, m := range quoted.FindAllStringSubmatch(read(t, "docs/troubleshooting.md")+read(t, "docs/operations.md"), -1) {
		for part := range strings.SplitSeq(m[1], "…") {
			if words := strings.Fields(marks.ReplaceAllString(part, " ")); len(words) > 1 {
				pieces = append(pieces, strings.Join(words, " "))
			}
		}
	}
	methods := []string{"fault", "tableFault", "warn", "status", "say"}
	checked := 0
	for name, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(methods, method.Sel.Name) {
				return true
			}
			for _, argument := range call.Args {
				text, ok := constant(argument)
				text = strings.Join(strings.Fields(marks.ReplaceAllString(verbs.ReplaceAllString(text, " "), " ")), " ")
				if !ok || !strings.Contains(text, " ") {
					continue
				}
				checked++
				if !slices.ContainsFunc(pieces, func(piece string) bool {
					return strings.Contains(text, piece) || strings.Contains(piece, text)
				}) {
					t.Errorf("docs/troubleshooting.md has no row for %q, which %s says", text, name)
				}
				break
			}
			return true
		})
	}
	if checked < 80 {
		t.Errorf("only %d texts were found", checked)
	}
}

// isSaid reports whether words are a text, or a part of one: with a word or two where that has a place for a value, such as the 20s
// of "no answer within %s", or with another text there.
func isSaid(texts string, words []string) bool {
	if len(words) == 0 {
		return true
	}
	for n := len(words); n >= 0; n-- {
		piece, rest := strings.Join(words[:n], " "), words[n:]
		if !strings.Contains(texts, piece) {
			continue
		}
		if len(rest) == 0 {
			return true
		}
		next := strings.Join(rest[:min(2, len(rest))], " ")
		nested := strings.Contains(texts, piece+" "+place) && strings.Contains(texts, "\n"+next) || strings.Contains(texts, place+" "+next)
		if n >= min(2, len(words)) && nested && isSaid(texts, rest) {
			return true
		}
		for value := 1; value <= min(2, len(rest)); value++ {
			behind := strings.Join(rest[value:min(value+2, len(rest))], " ")
			around := strings.TrimSpace(piece + " " + place + " " + behind)
			if (around != place && strings.Contains(texts, around) || n == 0 && strings.Contains(texts, "\n"+behind)) &&
				isSaid(texts, rest[value:]) {
				return true
			}
		}
	}
	return false
}

// place stands for each verb of the texts, by which Sprintf puts a value in.
const place = "\x00"

var (
	verbs = regexp.MustCompile(`%[-+#0-9.]*[a-zA-Z]`)
	marks = regexp.MustCompile("[`:;,.()\"]+") // and what cannot stand within code of a page
)

// texts returns the words of the string constants of the sources, those put together of several pieces as one, a line each.
func texts(t *testing.T) string {
	var all strings.Builder
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			text, ok := constant(e)
			if ok {
				all.WriteString(text + "\n")
			}
			return !ok
		})
	}
	text := marks.ReplaceAllString(verbs.ReplaceAllString(all.String(), place), " ")
	text = regexp.MustCompile("[ "+place+"]*"+place+"[ "+place+"]*").ReplaceAllString(text, " "+place+" ")
	return regexp.MustCompile(` *\n *`).ReplaceAllString(regexp.MustCompile(` +`).ReplaceAllString(text, " "), "\n")
}

// constant returns the text of a literal, or of several that + puts together, with a place for what is no constant.
func constant(e ast.Expr) (text string, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		return unquote(e), e.Kind == token.STRING
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, isLeft := constant(e.X)
		right, isRight := constant(e.Y)
		if !isLeft {
			left = place
		}
		if !isRight {
			right = place
		}
		return left + right, isLeft || isRight
	}
	return "", false
}
