package emf_test

import (
	"testing"

	"github.com/holdfast-lock/holdfast/internal/emf"
)

// A group never is a lock's whole name.
func TestGroup(t *testing.T) {
	for lock, want := range map[string]string{"deploy:prod": "deploy", "deploy:prod:eu": "deploy", "deploy": "-", ":x": "-", "": "-"} {
		if got := emf.Group(lock); got != want {
			t.Errorf("%q: %q, want %q", lock, got, want)
		}
	}
}
