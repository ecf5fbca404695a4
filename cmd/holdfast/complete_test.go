package main

import (
	"strings"
	"testing"
)

// The shell's completion knows commands, flags, and the names of locks, which it asks the coordinator of the environment or of the line for.
func TestCompletion(t *testing.T) {
	s := newService(t)
	for _, name := range []string{"deploy:prod", "deploy:test", "nightly"} {
		s.hold(t, name, "ci")
	}
	for _, test := range []struct{ line, bash, want string }{
		{"holdfast status ", "", "deploy:prod deploy:test nightly"},
		{"holdfast status deploy:p", "", "deploy:prod"},
		{"holdfast status deploy:p", "9", "prod"}, // which bash puts in place of the p
		{"holdfast exec dep", "9", "deploy:prod deploy:test"},
		{"holdfast exec --lock deploy:prod --lock n", "", "nightly"},
		{"holdfast freeze d", "", "deploy:prod deploy:test"},
		{"holdfast status x", "", ""},
		{"holdfast unf", "", "unfreeze"},
		{"holdfast --endpoint http://127.0.0.1:1 status ", "", ""},
		{"holdfast status --endpoint=http://127.0.0.1:1 n", "", ""},
		{"holdfast status --sign nonsense n", "", ""},
	} {
		t.Setenv("HOLDFAST_ENDPOINT", s.url)
		t.Setenv("COMP_TYPE", test.bash)
		t.Setenv("COMP_LINE", test.line)
		code, out, errs := call(t.Context())
		if got := strings.Join(strings.Fields(out), " "); code != 0 || got != test.want || errs != "" {
			t.Errorf("%q: %d %q %s, want %q", test.line, code, got, errs, test.want)
		}
	}
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("COMP_LINE", "holdfast status ")
	if code, out, errs := call(t.Context()); code != 0 || out+errs != "" {
		t.Errorf("without a coordinator: %d %s%s", code, out, errs)
	}
}
