package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every fault of the lists can be planted: its text occurs once in its file, and changes.
func TestListsFitTheClients(t *testing.T) {
	t.Chdir("../../..")
	clients, err := read("")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		names := map[string]bool{}
		for _, p := range c.Plants {
			if p.Name == "" || names[p.Name] {
				t.Errorf("%s: the name %q is empty or there twice", c.Client, p.Name)
			}
			names[p.Name] = true
			source, err := os.ReadFile(filepath.Join(c.Dir, p.File))
			if err != nil {
				t.Error(err)
				continue
			}
			if n := strings.Count(string(source), p.Old); n != 1 || p.Old == p.New {
				t.Errorf("%s: %s: %s has its text %d times; want 1, and another text in its place", c.Client, p.Name, p.File, n)
			}
		}
		if len(c.Plants) == 0 || c.Driver == "" || c.Tests == "" {
			t.Errorf("%s: the list has no faults, driver or tests", c.Client)
		}
	}
}
