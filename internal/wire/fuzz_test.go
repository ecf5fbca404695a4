package wire_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

var (
	noText  = regexp.MustCompile(`[\x00-\x1f\x7f-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}]`)
	noLines = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{202a}-\x{202e}\x{2066}-\x{2069}]`)
)

// A text is accepted if and only if it has no character that controls a terminal or reorders what is around it.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "me", "a\x1b[2J", "a\u009b2J", "\u202e", "\u2028", "a\r\nb", "a\rb", "\xff", "\ud7ff", "👩‍🚀", strings.Repeat("é", 128), strings.Repeat("é", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		good := len(s) <= wire.MaxOwner && utf8.ValidString(s)
		if accepted := wire.CheckText(s, wire.MaxOwner, false) == ""; accepted != (good && !noText.MatchString(s)) {
			t.Errorf("%q in a line: accepted %v", s, accepted)
		}
		if accepted := wire.CheckText(s, wire.MaxOwner, true) == ""; accepted != (good && !noLines.MatchString(strings.ReplaceAll(s, "\r\n", "\n"))) {
			t.Errorf("%q with lines: accepted %v", s, accepted)
		}
		for _, problem := range []string{wire.CheckText(s, wire.MaxOwner, false), wire.CheckLease(s), wire.CheckToken(s), wire.CheckName(s)} {
			if noText.MatchString(problem) || !utf8.ValidString(problem) {
				t.Errorf("%q: the problem is %q", s, problem)
			}
		}
	})
}

// The problem of a secret never contains it.
func FuzzLease(f *testing.F) {
	for _, s := range []string{"my-secret-lease-0001", "short", "my secret lease 0001", strings.Repeat("s", 129)} {
		f.Add(s)
	}
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)
	f.Fuzz(func(t *testing.T, s string) {
		problem := wire.CheckLease(s)
		if (problem == "") != form.MatchString(s) || len(s) > 8 && strings.Contains(problem, s) {
			t.Errorf("%q: %q", s, problem)
		}
	})
}
