package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
)

// fakeLocks are drivers in this process. They grant a lock to each that asks, one after the other or, if broken, at once.
type fakeLocks struct {
	broken bool
	lock   sync.Mutex
	fence  int64 // guarded by lock, unless broken
}

// driver speaks the drivers' protocol.
func (f *fakeLocks) driver(t *testing.T, name string) *process {
	in, commands := io.Pipe()
	answers, out := io.Pipe()
	p := &process{settings: settings{Name: name}, in: commands, ended: make(chan struct{}), waiting: map[string]chan answer{}, lost: map[int]int64{}, ready: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.lines(answers)
	}()
	go func() {
		var from int64
		for lines := bufio.NewScanner(in); lines.Scan(); {
			words := strings.Fields(lines.Text())
			a := answer{ID: words[0], OK: true, Began: monotonic()}
			switch words[2] {
			case "acquire":
				if !f.broken {
					f.lock.Lock()
					f.fence++
					a.Fence = f.fence
				}
				from = monotonic()
			case "release":
				_ = history.NewWriter(out).Write(history.Belief{Client: name, Lock: "a", From: from, Until: monotonic()})
				if !f.broken {
					f.lock.Unlock()
				}
			}
			a.Ended = monotonic()
			data, _ := json.Marshal(a)
			_, _ = fmt.Fprintf(out, "%s\n", data)
		}
	}()
	t.Cleanup(func() { _ = commands.Close(); _ = out.Close() })
	return p
}

// Clients of a lock that excludes lose no updates and do not overlap; clients of one that does not exclude do both.
func TestContention(t *testing.T) {
	for _, broken := range []bool{false, true} {
		locks := &fakeLocks{broken: broken}
		run := &contention{result: Exclusion{FencedLost: 0}, until: time.Now().Add(3 * time.Second)}
		var work sync.WaitGroup
		var procs []*process
		for i := range 2 {
			p := locks.driver(t, fmt.Sprint("c", i))
			procs = append(procs, p)
			work.Go(func() { run.client(p, "a") })
		}
		work.Wait()
		for _, p := range procs {
			run.hist.Beliefs = append(run.hist.Beliefs, p.history()...)
		}
		run.judge()
		e := run.result
		if e.Increments < 2 {
			t.Fatalf("broken %v: %+v", broken, e)
		}
		if bad := e.Lost > 0 && e.Overlaps > 0; bad != broken {
			t.Errorf("broken %v: %+v", broken, e)
		}
		if !broken && (e.Lost+e.Overlaps+e.FencedLost+e.Refused+e.Fences != 0) {
			t.Errorf("a lock that excludes: %+v", e)
		}
	}
}

// A write that is refused because a later holder has read is no violation of the tokens' order; a grant is, that was asked for after another was told and
// has no higher token.
func TestOrderOfTokens(t *testing.T) {
	run := &contention{top: 5}
	run.work((&fakeLocks{}).driver(t, "c"), answer{Fence: 4})
	run.judge()
	if e := run.result; e.Refused != 1 || e.Fences != 0 {
		t.Errorf("a write that was rightly refused: %+v", e)
	}
	for _, grant := range []struct {
		fence, before int64
		want          int
	}{{1, 0, 0}, {3, 1, 0}, {2, 1, 0}, {3, 3, 1}, {2, 3, 2}, {4, 3, 2}} {
		if run.granted(grant.fence, grant.before); run.result.Fences != grant.want {
			t.Errorf("%+v: %d violations", grant, run.result.Fences)
		}
	}
	if run.told != 4 {
		t.Errorf("the highest token that was told is %d", run.told)
	}
}
