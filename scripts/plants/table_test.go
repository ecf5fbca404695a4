package main

import (
	"os"
	"strings"
	"testing"
)

// The text of each bug is in its file once.
func TestTable(t *testing.T) {
	for _, p := range plants {
		source, err := os.ReadFile("../../" + p.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), p.old); n != 1 {
			t.Errorf("%s: the text %q is %d times in %s", p.name, p.old, n, p.file)
		}
	}
}
