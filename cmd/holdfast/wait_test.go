package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// screen is what a terminal of the given width shows. It supports the escape sequences of live lines.
func screen(t *testing.T, wide int, written string) []string {
	t.Helper()
	rows, row, col := [][]rune{nil}, 0, 0
	put := func(r rune) {
		if col == wide {
			row, col = row+1, 0
		}
		for len(rows) <= row {
			rows = append(rows, nil)
		}
		for len(rows[row]) <= col {
			rows[row] = append(rows[row], ' ')
		}
		rows[row][col] = r
		col++
	}
	for written != "" {
		if m := regexp.MustCompile(`^\x1b\[(\d*)([AJK])`).FindStringSubmatch(written); m != nil {
			switch m[2] {
			case "A":
				up := 0
				_, _ = fmt.Sscan(m[1], &up)
				row -= up
			case "J":
				rows = rows[:row+1]
				fallthrough
			case "K":
				if col < len(rows[row]) {
					rows[row] = rows[row][:col]
				}
			}
			written = written[len(m[0]):]
			continue
		}
		r := []rune(written)[0]
		written = written[len(string(r)):]
		switch r {
		case '\n':
			row, col = row+1, 0
			for len(rows) <= row {
				rows = append(rows, nil)
			}
		case '\r':
			col = 0
		default:
			put(r)
		}
	}
	var out []string
	for _, r := range rows {
		if text := strings.TrimRight(string(r), " "); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// terminal returns streams that write to a terminal, and their output.
func terminal(wide *int) (*streams, *bytes.Buffer) {
	var b bytes.Buffer
	return &streams{in: os.Stdin, out: &b, err: &b, outTTY: true, errTTY: true, width: func() int { return *wide }}, &b
}

var heldByMany = &lockclient.HeldError{Position: 1, Waiting: 1, Holders: []lockclient.Holder{
	{Owner: strings.Repeat("a-long-owner-name ", 8), Fence: 1795510300181679, ExpiresAt: time.Now(), Remaining: time.Minute}, {},
}}

// The waiting line stays one line on a narrow terminal, and further output is on a line of its own.
func TestWaitingLineFitsTheTerminal(t *testing.T) {
	for _, wide := range []int{20, 80, 110} {
		s, b := terminal(&wide)
		w := &wait{streams: s, name: "deploy:prod", began: time.Now()}
		for range 3 {
			w.held(heldByMany)
		}
		got := screen(t, wide, b.String())
		if len(got) != 1 || !strings.HasPrefix(got[0], "holdfast: waiting") || len([]rune(got[0])) != wide-1 {
			t.Errorf("%d columns: %q", wide, got)
		}
		if err := s.result(nil, "HOLDFAST_FENCE=1"); err != nil {
			t.Error(err)
		}
		if got := screen(t, wide, b.String()); len(got) != 1 || got[0] != "HOLDFAST_FENCE=1" {
			t.Errorf("%d columns, with a result: %q", wide, got)
		}
	}
}

func TestWaitingLineFollowsResizes(t *testing.T) {
	wide := 110
	s, b := terminal(&wide)
	w := &wait{streams: s, name: "deploy:prod", began: time.Now()}
	w.held(heldByMany)
	wide = 40 // the terminal breaks the line into three rows, as if it had been written so
	s.redraw()
	if got := screen(t, wide, b.String()); len(got) != 1 || len([]rune(got[0])) != 39 {
		t.Errorf("narrower: %q", got)
	} else {
		b.Reset() // what the terminal shows by now
		b.WriteString(got[0])
	}
	wide = 60
	s.redraw()
	if got := screen(t, wide, b.String()); len(got) != 1 || len([]rune(got[0])) != 59 {
		t.Errorf("wider: %q", got)
	}
	s.notice("acquired", "acquired it")
	s.redraw() // nothing is there to be drawn again
	s.notice("released", "released it")
	if got := screen(t, wide, b.String()); len(got) != 2 || got[0] != "holdfast: acquired it" || got[1] != "holdfast: released it" {
		t.Errorf("after it: %q", got)
	}
}

// Without a terminal each change is a line: the holder, why the coordinator does not answer, the holder again.
func TestWaitingInAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		w := &wait{streams: &streams{out: &b, err: &b}, name: "a", began: time.Now()}
		refused := fmt.Errorf("try: %w", syscall.ECONNREFUSED)
		said := func(want string) {
			t.Helper()
			if got := b.String(); want == "" && got != "" || !strings.Contains(got, want) || strings.Count(got, "\n") > 1 {
				t.Errorf("%v: %q, want %q", time.Since(w.began), got, want)
			}
			b.Reset()
		}
		time.Sleep(patience - 1)
		w.silence()
		said("")
		time.Sleep(time.Nanosecond)
		w.silence()
		said("holdfast: coordinator unreachable, trying: no answer yet\n")
		w.silence()
		said("") // once
		w.unavailable(refused)
		said("coordinator unreachable, trying: connection refused\n")
		w.unavailable(refused)
		said("")
		held := &lockclient.HeldError{Holders: []lockclient.Holder{{Owner: "alice", Fence: 7}}}
		w.held(held)
		said("waiting for a: held by alice")
		w.held(held)
		said("")
		w.unavailable(refused) // a short outage is not worth a word
		said("")
		time.Sleep(patience)
		w.unavailable(refused)
		said("connection refused")
		w.held(held)
		said("held by alice") // it answers again
		held.Holders[0].Fence = 8
		w.held(held)
		said("held by alice")
		time.Sleep(patience)
		w.silence() // between two polls
		said("")
	})
}

func TestOutageOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wide := 80
		s, b := terminal(&wide)
		w := &wait{streams: s, name: "a", began: time.Now()}
		w.unavailable(syscall.ECONNREFUSED)
		if b.Len() > 0 {
			t.Errorf("at once: %q", b)
		}
		time.Sleep(3 * time.Second)
		w.unavailable(syscall.ECONNREFUSED)
		if got := screen(t, wide, b.String()); len(got) != 1 || got[0] != "holdfast: coordinator unreachable, trying (3s): connection refused" {
			t.Errorf("%q", got)
		}
	})
}

// A command that gets no answer reports that once, after [patience].
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newOutput()
		s := &streams{out: b, err: b}
		answered := s.slow("status")
		time.Sleep(patience - 1)
		synctest.Wait()
		if b.String() != "" {
			t.Errorf("too early: %q", b.String())
		}
		time.Sleep(10 * time.Second)
		answered()
		answered()
		if b.String() != "holdfast: coordinator unreachable, trying: no answer yet to status\n" {
			t.Errorf("%q", b.String())
		}
	})
}

func TestWhy(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{&url.Error{Op: "Post", URL: "http://x", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}, "connection refused"},
		{&url.Error{Op: "Get", URL: "http://x", Err: context.DeadlineExceeded}, "no answer in time"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "x.example"}}, "the name x.example cannot be looked up: server misbehaving"},
		{&url.Error{Op: "Get", URL: "http://x", Err: errors.New("EOF")}, "http://x: EOF"},
		{errors.New("coordinator is unavailable: 503 throttled: slow down"), "503 throttled: slow down"},
	} {
		if got := why(test.err); got != test.want {
			t.Errorf("%v: %q", test.err, got)
		}
	}
}

// --no-wait ends with an error if the coordinator is unreachable or hangs.
func TestNoWaitEnds(t *testing.T) {
	release := make(chan bool)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	for _, endpoint := range []string{"http://127.0.0.1:1", hanging.URL} {
		for _, command := range []string{"acquire", "exec"} {
			line := append(commandLines[command][:2:2], "--no-wait", "--endpoint", endpoint, "--timeout", "20ms")
			code, _, errs := call(t.Context(), append(line, commandLines[command][2:]...)...)
			if code != exitFailed || !strings.Contains(errs, "unavailable") || !everyLineNamesTheProgram(errs) || strings.Contains(errs, "deadline") {
				t.Errorf("%s %s: %d: %s", command, endpoint, code, errs)
			}
		}
	}
}

func everyLineNamesTheProgram(text string) bool {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "holdfast: ") {
			return false
		}
	}
	return true
}

// Every command reports a table that is unreachable in the same words as a coordinator.
func TestTableUnreachable(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	for _, args := range []string{
		"acquire a --no-wait", "exec a --no-wait -- true", "status a", "ls", "renew a", "release a", "force-release a --reason x", "doctor", "init", "dev --listen 127.0.0.1:0",
	} {
		code, out, errs := call(t.Context(), append([]string{"--table=locks", "--dynamodb-endpoint=http://127.0.0.1:1"}, strings.Fields(args)...)...)
		if said := out + errs; code != exitFailed || !strings.Contains(said, "connection refused; check the endpoint") && !strings.Contains(said, "connection refused\n") ||
			strings.Contains(said, "RequestID") || strings.Contains(said, "operation error") || strings.Contains(said, "503") {
			t.Errorf("%s: %d: %s", args, code, said)
		}
	}
}

// Commands report a table whose engine hangs.
func TestTableHangs(t *testing.T) {
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	release := make(chan bool)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer hanging.Close()
	defer close(release)
	for _, args := range []string{"acquire a --wait 100ms", "exec a --wait 100ms -- true"} {
		code, _, errs := call(t.Context(), append([]string{"--table=locks", "--dynamodb-endpoint=" + hanging.URL, "--timeout=10ms"}, strings.Fields(args)...)...)
		if code != exitFailed || !strings.Contains(errs, "unavailable: DynamoDB: no answer in time\n") && !strings.Contains(errs, "unavailable: it did not answer in time\n") {
			t.Errorf("%s: %d: %s", args, code, errs)
		}
	}
}

// --no-wait joins no queue.
func TestNoWaitDoesNotQueue(t *testing.T) {
	s := newService(t)
	s.hold(t, "a", "alice")
	before := s.requests.Load()
	code, _, errs := call(t.Context(), "acquire", "a", "--no-wait", "--endpoint", s.url)
	if code != exitHeld || !strings.Contains(errs, `"alice"`) {
		t.Errorf("%d: %s", code, errs)
	}
	if n := s.requests.Load() - before; n != 1 {
		t.Errorf("%d requests", n)
	}
	if status, err := s.coordinator.Status(t.Context(), "a"); err != nil || status.Waiting != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// A command that gives up reports what it waits for, and a second interrupt ends it at once.
func TestGivingUpIsTold(t *testing.T) {
	s := newService(t)
	s.hangs.Store(true)
	cmd := holdfast(t, s.url, "acquire", "a", "--timeout=1m")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "coordinator unreachable") {
	}
	_ = cmd.Process.Signal(os.Interrupt)
	for lines.Scan() && !strings.Contains(lines.Text(), "giving up; releasing a first") {
	}
	told := lines.Text()
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("%v after %q", cmd.ProcessState, told)
	}
}
