package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A lease's secret is in no command line and in no environment of a child.
func TestSecretsStayOut(t *testing.T) {
	s := newService(t)
	file := filepath.Join(t.TempDir(), "lease")
	out, err := holdfast(t, s.url, "acquire", "a", "--lease-file", file).Output()
	if err != nil || strings.Contains(string(out), "HOLDFAST_LEASE") {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	for _, op := range []string{"renew", "release"} {
		if out, err := holdfast(t, s.url, op, "a", "--lease-file", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", op, err, out)
		}
	}
	for _, wait := range []string{"--wait=1m", "--no-wait"} { // the second is refused, and leaves the first one's secret
		err := holdfast(t, s.url, "acquire", "b", "--lease-file", file, wait).Run()
		if want := map[string]int{"--wait=1m": 0, "--no-wait": exitHeld}[wait]; exitOf(err) != want {
			t.Errorf("%s: %v", wait, err)
		}
	}
	if out, err := holdfast(t, s.url, "release", "b", "--lease-file", file).CombinedOutput(); err != nil {
		t.Errorf("release: %v: %s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	cmd := holdfast(t, s.url, "release", "a")
	cmd.Env = append(cmd.Env, "HOLDFAST_LEASE=another-secret-0123")
	if code := exitOf(cmd.Run()); code != exitLost {
		t.Errorf("release of a lease that never was: exit code %d", code)
	}
	if code := exitOf(holdfast(t, s.url, "release", "a").Run()); code != exitFailed {
		t.Errorf("release without a secret: exit code %d", code)
	}
}
