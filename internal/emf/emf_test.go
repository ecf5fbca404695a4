package emf_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/emf"
)

// A group never is a lock's whole name.
func TestGroup(t *testing.T) {
	for lock, want := range map[string]string{"deploy:prod": "deploy", "deploy:prod:eu": "deploy", "deploy": "-", ":x": "-", "": "-"} {
		if got := new(emf.Groups).Of(lock); got != want {
			t.Errorf("%q: %q, want %q", lock, got, want)
		}
	}
}

// Whoever may choose names makes only so many metrics.
func TestGroupsAreFew(t *testing.T) {
	var groups emf.Groups
	all := map[string]bool{}
	for i := range 10_000 {
		all[groups.Of(fmt.Sprintf("group%d:x", i))] = true
	}
	if len(all) != 101 || !all["-"] || groups.Of("group0:y") != "group0" {
		t.Errorf("%d groups", len(all))
	}
}
