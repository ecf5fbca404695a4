package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var (
	inDocs     = regexp.MustCompile(`(?:^|[\s"(\x60])holdfast ([a-z-]+|--[a-z-]+)([^\x60\n]*)`)
	flagInDocs = regexp.MustCompile(`(?:^|[\s\x60(])--([a-z][a-z-]*)`)
)

// Every command line of the documents has a command and flags that exist.
func TestDocumentedCommandLines(t *testing.T) {
	model := newParser(new(cli), &streams{out: io.Discard, err: io.Discard}).Model
	commands := map[string]*kong.Node{}
	for _, n := range model.Children {
		commands[n.Name] = n
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Glob("../../*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range slices.Concat(pages, root) {
		if filepath.Base(page) == "figures.md" { // the past
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range inDocs.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\\\n", " "), -1) {
			command, rest := line[1], line[2]
			flags := model.Flags
			if node := commands[command]; node != nil {
				n++
				flags = slices.Concat(flags, node.Flags)
			} else if strings.HasPrefix(command, "--") {
				rest = " " + command + rest
			} else {
				continue // "holdfast" in a sentence
			}
			rest, _, _ = strings.Cut(rest, " -- ")
			for _, flag := range flagInDocs.FindAllStringSubmatch(rest, -1) {
				if !slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == flag[1] }) {
					t.Errorf("%s: holdfast %s has no flag --%s", page, command, flag[1])
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("found %d command lines", n)
	}
}
