// Command driver lets the race of peers (bench/race) use the lock clients that are written in Go, each by its own API: a bare
// conditional write, dynamolock, lockclient/direct, and lockclient over HTTP. The drivers of the other clients, in bench/java,
// bench/python and bench/node, speak the same protocol.
//
// The environment variable PEER has the settings, a JSON object (see settings). A driver is a process with a number of clients, each
// an object of the library of its own, which holds at most one lock. It reads commands from standard input, a line each:
//
//	ID CLIENT setup                  makes the table
//	ID CLIENT acquire LOCK WAIT_MS   acquires a lock, and waits for it up to the time
//	ID CLIENT release                releases it
//	ID CLIENT held                   asks the library whether the lock is still held
//	exit
//
// Commands of different clients run at the same time. Each is answered by a line of JSON on standard output, {"id", "ok", "began", "ended",
// "fence", "error"}, with times in nanoseconds of CLOCK_MONOTONIC. Other lines are entries of a history (internal/history), and
// {"t":"lost","client":N,"at":NS} when a client is told that it lost its lock. If the settings say "watch", a client that holds a lock asks
// its library every 10 ms whether it still does. A belief lasts until the release began, or else until the last time the answer was yes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-lock/holdfast/internal/history"
)

type settings struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"` // of the process, in histories
	Endpoint string `json:"endpoint"`
	Table    string `json:"table"`
	LeaseMS  int64  `json:"lease_ms"` // 0: the library's default
	PollMS   int64  `json:"poll_ms"`  // the pause between two tries of a waiter; 0: the library's default
	Clients  int    `json:"clients"`
	Watch    bool   `json:"watch"`
}

// A client is one object of a library.
type client interface {
	setup(ctx context.Context) error
	acquire(ctx context.Context, name string, wait time.Duration) (lease, error)
}

// A lease is a lock that is held.
type lease interface {
	release(ctx context.Context) error
	held() bool // as the library says
	fence() int64
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var s settings
	if err := json.Unmarshal([]byte(os.Getenv("PEER")), &s); err != nil {
		return fmt.Errorf("the environment variable PEER has no settings: %w", err)
	}
	if s.Kind == serveKind {
		return serve(ctx, s)
	}
	slots := make([]*slot, s.Clients)
	out := &output{w: os.Stdout}
	for i := range slots {
		c, err := newClient(ctx, s)
		if err != nil {
			return err
		}
		slots[i] = &slot{number: i, client: c, out: out, settings: s}
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 1 && fields[0] == "exit" {
			return nil
		}
		if len(fields) < 3 {
			return fmt.Errorf("the command is %q; give ID CLIENT COMMAND", lines.Text())
		}
		n, err := strconv.Atoi(fields[1])
		if err != nil || n < 0 || n >= len(slots) {
			return fmt.Errorf("the client is %q; give 0 to %d", fields[1], len(slots)-1)
		}
		go slots[n].command(ctx, fields[0], fields[2:])
	}
	return nil
}

// monotonic returns the time in nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// An output writes lines, each whole.
type output struct {
	mu sync.Mutex
	w  *os.File
}

func (o *output) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(line)
}

func (o *output) line(v any) {
	data, _ := json.Marshal(v)
	_, _ = o.Write(append(data, '\n'))
}

type answer struct {
	ID    string `json:"id"`
	OK    bool   `json:"ok"`
	Began int64  `json:"began"`
	Ended int64  `json:"ended"`
	Fence int64  `json:"fence,omitempty"`
	Error string `json:"error,omitempty"`
}

type lost struct {
	T      string `json:"t"`
	Client int    `json:"client"`
	At     int64  `json:"at"`
}

// A slot is a client and the lock that it holds.
type slot struct {
	number   int
	client   client
	out      *output
	settings settings

	mu     sync.Mutex
	lease  lease
	belief history.Belief // of the lease; Until is 0 while it lasts
	sure   int64          // when the library last said that the lease is held
	count  int
}

func (s *slot) command(ctx context.Context, id string, args []string) {
	a := answer{ID: id, Began: monotonic()}
	var err error
	switch args[0] {
	case "setup":
		err = s.client.setup(ctx)
	case "acquire":
		a.Fence, err = s.acquire(ctx, args[1], args[2])
	case "release":
		err = s.release(ctx)
	case "held":
		a.OK = s.holds()
	default:
		err = fmt.Errorf("there is no command %q", args[0])
	}
	a.Ended = monotonic()
	if args[0] != "held" {
		a.OK = err == nil
	}
	if err != nil {
		a.Error = err.Error()
	}
	s.out.line(a)
}

func (s *slot) acquire(ctx context.Context, name, wait string) (int64, error) {
	ms, err := strconv.ParseInt(wait, 10, 64)
	if err != nil {
		return 0, err
	}
	l, err := s.client.acquire(ctx, name, time.Duration(ms)*time.Millisecond)
	if err != nil {
		return 0, err
	}
	now := monotonic()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	who := s.settings.Name + "/" + strconv.Itoa(s.number)
	s.lease, s.sure = l, now
	s.belief = history.Belief{Client: who, Lock: name, Lease: who + "/" + strconv.Itoa(s.count), Fence: l.fence(), From: now}
	if s.settings.Watch {
		go s.watch(l)
	}
	return l.fence(), nil
}

func (s *slot) release(ctx context.Context) error {
	began := monotonic()
	s.mu.Lock()
	l := s.lease
	s.end(began)
	s.lease = nil
	s.mu.Unlock()
	if l == nil {
		return fmt.Errorf("there is no lock to release")
	}
	return l.release(ctx)
}

func (s *slot) holds() bool {
	s.mu.Lock()
	l := s.lease
	s.mu.Unlock()
	return l != nil && s.ask(l)
}

// ask asks the library whether a lease is held, and notes the answer.
func (s *slot) ask(l lease) bool {
	held := l.held()
	now := monotonic()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != l {
		return false
	}
	if held {
		s.sure = now
		return true
	}
	if s.belief.Until == 0 {
		s.out.line(lost{"lost", s.number, now})
		s.end(s.sure)
	}
	return false
}

// end ends the belief, if it lasts, and writes it. The caller has locked s.mu.
func (s *slot) end(at int64) {
	if s.lease == nil || s.belief.Until != 0 {
		return
	}
	s.belief.Until = max(at, s.belief.From+1)
	_ = history.NewWriter(s.out).Write(s.belief)
}

func (s *slot) watch(l lease) {
	for s.ask(l) {
		time.Sleep(10 * time.Millisecond)
	}
}
