package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/history"
)

// With two versions, the processes of each kind take turns, so that a process that is replaced is followed by one of the other version.
func TestVersionsTakeTurns(t *testing.T) {
	list, err := versions("campaign", "holdfast", "base")
	if err != nil || len(list) != 2 || !strings.HasSuffix(list[1].Program, "/base/campaign") || !strings.HasSuffix(list[1].Holdfast, "/base/holdfast") {
		t.Fatalf("%+v, %v", list, err)
	}
	r := &round{versions: list, started: map[string]int{}, ofVersion: map[string]int{}}
	turns := func(kind string, first int) string {
		return fmt.Sprint(r.next(kind, first).Name, r.next(kind, first).Name, r.next(kind, first).Name)
	}
	for kind, first := range map[string]int{"stream": 0, "coordinator0": 0, "coordinator1": 1} {
		want := []string{"thisbasethis", "basethisbase"}[first]
		if got := turns(kind, first); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
	if r.ofVersion["this coordinator"] != 3 || r.ofVersion["base coordinator"] != 3 {
		t.Errorf("processes %v", r.ofVersion)
	}
	r.versions = list[:1]
	if got := turns("stream", 1); got != "thisthisthis" {
		t.Errorf("one version: %s", got)
	}
}

// A round with two versions of which one did nothing proves nothing, and fails.
func TestMixedRoundNeedsBothVersions(t *testing.T) {
	list, err := versions("campaign", "holdfast", "base")
	if err != nil {
		t.Fatal(err)
	}
	op := func(client string, result history.Result) history.Op {
		return history.Op{Client: client, Op: history.Acquire, Result: result}
	}
	r := &round{
		versions: list, plan: plan{Coordinators: 2, HTTP: 2, CLI: 1}, versionOf: map[string]string{"http0": "this", "http1": "base"},
		ofVersion: map[string]int{"this coordinator": 1, "base coordinator": 1, "this http": 1, "base http": 1, "this stream": 1, "this cli": 1},
	}
	h := &history.History{Ops: []history.Op{op("http0.1", history.Granted), op("http1.0", history.Granted), op("http1.1", history.Held)}}
	s := summary{Versions: map[string]int{}}
	if found := r.mixedViolations(h, &s); found != nil || s.Versions["base operations"] != 2 || s.Versions["base http"] != 1 {
		t.Errorf("%v, %v", found, s.Versions)
	}
	h.Ops = h.Ops[:1]
	delete(r.ofVersion, "base coordinator")
	want := `[mixed: no client of the version "base" was granted a lock mixed: no coordinator process was of the version "base"]`
	if found := r.mixedViolations(h, &s); fmt.Sprint(found) != want {
		t.Errorf("%v", found)
	}
	r.versions = list[:1]
	if found := r.mixedViolations(h, &s); found != nil {
		t.Errorf("one version: %v", found)
	}
}
