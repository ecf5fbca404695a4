package holdfast_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are the paths and texts of the documents: those at the root and all below docs.
func documents(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "events/*.md"} {
		list, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range list {
			pages[page] = read(t, page)
		}
	}
	if len(pages) < 20 {
		t.Fatalf("only %d documents found", len(pages))
	}
	return pages
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// sources calls do with each file of the repository that may be named, except what is generated or fetched.
func sources(t *testing.T, do func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".bin", "dist", "node_modules"}, d.Name()):
			return filepath.SkipDir
		case !d.IsDir():
			do(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// Every Go snippet of the documents is part of a test or an example, which compiles and runs: the same lines, one after the
// other, indentation aside.
func TestDocumentedGoIsCompiled(t *testing.T) {
	var code strings.Builder
	sources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			code.WriteString(trimmed(read(t, path)))
		}
	})
	n := 0
	for page, text := range documents(t) {
		for _, block := range goBlock.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(code.String(), trimmed(block[1])) {
				t.Errorf("%s: no test has this:\n%s", page, block[1])
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d snippets found", n)
	}
}

// trimmed is text without indentation and empty lines.
func trimmed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

var (
	links    = regexp.MustCompile(`\]\(([^)\s#]*)(?:#([^)\s]*))?\)`)
	headings = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInID  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the identifiers that GitHub gives the headings of a page.
func anchors(text string) (list []string) {
	for _, h := range headings.FindAllStringSubmatch(text, -1) {
		list = append(list, strings.ReplaceAll(notInID.ReplaceAllString(strings.ToLower(strings.TrimSpace(h[1])), ""), " ", "-"))
	}
	return list
}

// Links between the documents lead to a file, and to a heading if they name one.
func TestDocumentLinks(t *testing.T) {
	pages := documents(t)
	for page, text := range pages {
		for _, link := range links.FindAllStringSubmatch(text, -1) {
			target, anchor := filepath.Join(filepath.Dir(page), link[1]), link[2]
			if strings.Contains(link[1], ":") {
				continue
			}
			if link[1] == "" {
				target = page
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", page, target)
			} else if anchor != "" && !slices.Contains(anchors(pages[target]), anchor) {
				t.Errorf("%s links to %s#%s, which is no heading there", page, target, anchor)
			}
		}
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)(…?)")

// Every test that a document names is there.
func TestDocumentedTestsExist(t *testing.T) {
	var code strings.Builder
	sources(t, func(path string) {
		if strings.HasSuffix(path, "_test.go") {
			code.WriteString(read(t, path))
		}
	})
	n := 0
	for page, text := range documents(t) {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			n++
			start := "\nfunc " + m[1]
			if m[2] == "" {
				start += "("
			}
			if !strings.Contains(code.String(), start) {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d names of tests found", n)
	}
}

var (
	quoted     = regexp.MustCompile("`([^`\n]+)`")
	pathInText = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.*-]+)+/?$`)
	fileInText = regexp.MustCompile(`^[A-Za-z0-9_.-]+\.(go|md|sh|py|yaml|toml|svg)$`)
)

// Every path that a document names exists: one that begins with a folder of the root, or the bare name of a source file.
func TestDocumentedPathsExist(t *testing.T) {
	roots, names := map[string]bool{}, map[string]bool{}
	sources(t, func(path string) {
		names[filepath.Base(path)] = true
		if root, _, below := strings.Cut(path, "/"); below {
			roots[root] = true
		}
	})
	n := 0
	for page, text := range documents(t) {
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			root, _, _ := strings.Cut(m[1], "/")
			switch {
			case pathInText.MatchString(m[1]) && roots[root]:
				if found, _ := filepath.Glob(m[1]); len(found) == 0 {
					t.Errorf("%s names %s, which is not there", page, m[1])
				}
			case fileInText.MatchString(m[1]):
				if !names[m[1]] {
					t.Errorf("%s names %s, which is nowhere", page, m[1])
				}
			default:
				continue
			}
			n++
		}
	}
	if n < 30 {
		t.Errorf("only %d paths found", n)
	}
}

var (
	makeInText  = regexp.MustCompile("`make ([a-z0-9-]+)")
	makeInBlock = regexp.MustCompile(`(?m)^make ([a-z0-9-]+)`)
	fence       = regexp.MustCompile("(?s)```sh\n(.*?)```")
)

// Every target of make that a document names is in the Makefile.
func TestDocumentedTargetsExist(t *testing.T) {
	makefile := "\n" + read(t, "Makefile")
	n := 0
	for page, text := range documents(t) {
		named := makeInText.FindAllStringSubmatch(text, -1)
		for _, block := range fence.FindAllStringSubmatch(text, -1) {
			named = append(named, makeInBlock.FindAllStringSubmatch(block[1], -1)...)
		}
		for _, m := range named {
			n++
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names make %s, which the Makefile does not have", page, m[1])
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d targets found", n)
	}
}

var decision = regexp.MustCompile(`(?m)^## (\d+)\. (.*)\n\n\*(Accepted|Superseded|Withdrawn)\b`)

// The decisions are numbered from 1 without a gap, each has a status, and the index lists them in order, with their file.
func TestDecisionsAreIndexed(t *testing.T) {
	pages := documents(t)
	lines := map[string]bool{}
	numbered := 0
	for page, text := range pages {
		if filepath.Dir(page) != "docs/decisions" || filepath.Base(page) == "README.md" {
			continue
		}
		numbered += len(regexp.MustCompile(`(?m)^## \d`).FindAllString(text, -1))
		for _, m := range decision.FindAllStringSubmatch(text, -1) {
			line := fmt.Sprintf("| %s | [%s](%s#", m[1], m[2], filepath.Base(page))
			if lines[line] = true; !strings.Contains(pages["docs/decisions/README.md"], line) {
				t.Errorf("docs/decisions/README.md does not have a line that begins with %s", line)
			}
		}
	}
	if len(lines) != numbered {
		t.Errorf("%d decisions, of which %d have a status", numbered, len(lines))
	}
	list := regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(pages["docs/decisions/README.md"], -1)
	for i, m := range list {
		if m[1] != fmt.Sprint(i+1) {
			t.Fatalf("the index lists decision %s in place %d", m[1], i+1)
		}
	}
	if len(list) != numbered {
		t.Errorf("the index lists %d of %d decisions", len(list), numbered)
	}
}

var attribute = regexp.MustCompile(`(?m)^\tattr[A-Za-z]+ += "([a-z_]+)"`)

// ARCHITECTURE.md has a row for every attribute of the table.
func TestAttributesAreDocumented(t *testing.T) {
	list := attribute.FindAllStringSubmatch(read(t, "internal/dynamo/item.go"), -1)
	if len(list) < 20 {
		t.Fatalf("found %d attributes", len(list))
	}
	for _, m := range list {
		if !strings.Contains(read(t, "ARCHITECTURE.md"), "`"+m[1]+"`") {
			t.Errorf("ARCHITECTURE.md does not have the attribute %s", m[1])
		}
	}
}

// ARCHITECTURE.md says what each package is for.
func TestPackagesAreDocumented(t *testing.T) {
	text := read(t, "ARCHITECTURE.md")
	for name := range mayImport {
		if strings.HasPrefix(name, "internal/") && !strings.Contains(text, "["+name+"]") {
			t.Errorf("ARCHITECTURE.md does not have the package %s", name)
		}
	}
}
