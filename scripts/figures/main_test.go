package main

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestShow(t *testing.T) {
	at := time.Unix(0, 0)
	now := func() time.Time { return at }
	var out strings.Builder
	v := &viewer{out: &out, now: now, log: map[string]*strings.Builder{}, since: map[string]time.Time{}, shownAt: at}
	said := func(want string) {
		t.Helper()
		if out.String() != want {
			t.Errorf("said %q, want %q", out.String(), want)
		}
		out.Reset()
	}
	for _, line := range []string{
		`{"Action":"run","Package":"x/lock","Test":"TestExplore"}`,
		`{"Action":"output","Package":"x/lock","Test":"TestExplore","Output":"=== RUN   TestExplore\n"}`,
		`{"Action":"output","Package":"x/lock","Test":"TestExplore","Output":"a line\n"}`,
	} {
		v.line(line)
	}
	said("")
	v.line(`{"Action":"output","Package":"x/lock","Test":"TestExplore","Output":"explorer: 7 states\n"}`)
	said("explorer: 7 states\n")
	at = at.Add(quiet - 1)
	v.progress()
	said("")
	at = at.Add(1)
	v.progress()
	said("... lock TestExplore for 15s\n")
	v.line(`{"Action":"run","Package":"x/lock","Test":"TestExplore/two"}`)
	at = at.Add(quiet)
	v.progress()
	said("... lock TestExplore/two for 15s, and 1 more\n")
	v.line(`{"Action":"pass","Package":"x/lock","Test":"TestExplore/two"}`)
	at = at.Add(quiet)
	v.progress()
	said("... lock TestExplore for 45s\n")
	v.line(`{"Action":"fail","Package":"x/lock","Test":"TestExplore"}`)
	said("")
	v.line(`{"Action":"fail","Package":"x/lock"}`)
	said("=== RUN   TestExplore\na line\nexplorer: 7 states\n")
	v.line(`{"Action":"output","Package":"x/api","Output":"ok  \tx/api\t0.1s\n"}`)
	said("ok  \tx/api\t0.1s\n")
	at = at.Add(time.Hour)
	v.progress() // nothing runs
	said("")
	v.line("go: downloading x\n")
	said("go: downloading x\n")
	v.line(`{"Action":"build-output","ImportPath":"x","Output":"x.go:1: syntax error\n"}`)
	said("x.go:1: syntax error\n")
}

func TestShowReadsToTheEnd(t *testing.T) {
	var out strings.Builder
	show(strings.NewReader("one\ntwo"), &out, nil, time.Now)
	if out.String() != "one\ntwo" {
		t.Errorf("%q", out.String())
	}
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -9 $$": 137} {
		if got := code(exec.CommandContext(t.Context(), "sh", "-c", script).Run()); got != want {
			t.Errorf("%s: %d", script, got)
		}
	}
}
