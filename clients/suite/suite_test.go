package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// The Go client passes every scenario that it can run.
func TestSuite(t *testing.T) {
	driver := filepath.Join(t.TempDir(), "godriver")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", driver, "./godriver").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	err := run(t.Context(), options{driver: driver, name: "go", only: regexp.MustCompile(""), verbose: true, parallel: 8, patience: time.Minute})
	if err != nil {
		t.Error(err)
	}
}

// Each scenario has a name of its own, and says what it is about.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range scenarios {
		if c.name == "" || c.about == "" || c.run == nil || seen[c.name] {
			t.Errorf("scenario %q: %q", c.name, c.about)
		}
		seen[c.name] = true
	}
}
