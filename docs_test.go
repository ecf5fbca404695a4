package holdfast_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// Every Go snippet of the documents is part of a test or an example, which compiles and runs: the same lines, one after the
// other, indentation aside.
func TestDocumentedGoIsCompiled(t *testing.T) {
	var code strings.Builder
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		code.WriteString(trimmed(string(data)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range append(pages, "README.md") {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range goBlock.FindAllStringSubmatch(string(data), -1) {
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

var links = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// Links between the documents lead somewhere.
func TestDocumentLinks(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.md") {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links.FindAllStringSubmatch(string(data), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), link[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", page, link[1])
			}
		}
	}
}

var testName = regexp.MustCompile("`(Test[A-Za-z0-9]+)")

// Every test that a document names is there.
func TestDocumentedTestsExist(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "grep", "-rhoE", "^func Test[A-Za-z0-9]+", "--include=*_test.go", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(data), -1) {
			if !strings.Contains(string(out), "func "+m[1]) {
				t.Errorf("%s names %s, which is not there", page, m[1])
			}
		}
	}
}
