package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func sprint(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// fields are the members of a command.
type fields = map[string]any

// A driver is a process with clients in it.
type driver struct {
	s      *stage
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr lockedBuffer
	exited chan struct{}
	err    error // of the process, after exited is closed

	mu       sync.Mutex
	lastID   int
	answers  map[int]reply
	events   []event
	protocol error // the driver does not keep to the protocol
}

// A reply is the answer to a command.
type reply struct {
	ID    int      `json:"id"`
	OK    *result  `json:"ok"`
	Error *failure `json:"error"`
}

// A result has the members of all successful answers.
type result struct {
	Fence     int64   `json:"fence"`
	Waited    float64 `json:"waited_ms"`
	Deadline  float64 `json:"deadline_ms"`
	Held      bool    `json:"held"`
	Remaining float64 `json:"remaining_ms"`
	Secret    string  `json:"secret"`
	Locked    bool    `json:"locked"`
	Waiting   int64   `json:"waiting"`
	Holders   []struct {
		Owner    string         `json:"owner"`
		Fence    int64          `json:"fence"`
		Metadata map[string]any `json:"metadata"`
	} `json:"holders"`
}

// A failure is the error of a command, or of a lease that was lost.
type failure struct {
	Kinds   []string `json:"kinds"`
	Text    string   `json:"text"`
	Holders []struct {
		Owner string `json:"owner"`
		Fence int64  `json:"fence"`
	} `json:"holders"`
	Position   int     `json:"position"`
	Field      string  `json:"field"`
	Code       string  `json:"code"`
	RetryAfter float64 `json:"retry_after_ms"`
}

// An event is what a driver reports by itself.
type event struct {
	Event    string   `json:"event"`
	Lease    string   `json:"lease"`
	ID       int      `json:"id"`
	Fence    int64    `json:"fence"`
	Position int      `json:"position"`
	Error    *failure `json:"error"`
}

// driver starts a driver.
func (s *stage) driver(name string) *driver {
	words := strings.Fields(s.options.driver)
	d := &driver{s: s, name: name, answers: map[int]reply{}, exited: make(chan struct{})}
	d.cmd = exec.CommandContext(s.ctx, words[0], words[1:]...) //nolint:gosec // the flag -driver, which the user of the suite gives
	d.cmd.Stderr = &d.stderr
	var err error
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		s.failf("driver %s: %v", name, err)
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		s.failf("driver %s: %v", name, err)
	}
	if err := d.cmd.Start(); err != nil {
		s.failf("driver %s does not start: %v", name, err)
	}
	s.drivers = append(s.drivers, d)
	go d.read(out)
	return d
}

// open starts a driver with one client, "c1".
func (s *stage) open(name string, extra ...fields) *driver {
	d := s.driver(name)
	command := fields{"client": "c1", "endpoint": s.front.url, "owner": name, "retry_delay_ms": 100}
	merge(command, extra)
	d.must("open", command)
	return d
}

func merge(into fields, from []fields) {
	for _, m := range from {
		maps.Copy(into, m)
	}
}

func (d *driver) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		d.s.logf("%s > %s", d.name, lines.Text())
		d.take(lines.Bytes())
	}
	d.err = d.cmd.Wait()
	close(d.exited)
}

// take stores an answer or an event.
func (d *driver) take(line []byte) {
	var e event
	var r reply
	d.mu.Lock()
	defer d.mu.Unlock()
	switch err := json.Unmarshal(line, &e); {
	case err != nil:
		d.protocol = fmt.Errorf("driver %s wrote %q, which is no JSON object of the protocol: %w", d.name, line, err)
	case e.Event != "":
		d.events = append(d.events, e)
	default:
		if err := json.Unmarshal(line, &r); err != nil || (r.OK == nil) == (r.Error == nil) {
			d.protocol = fmt.Errorf("driver %s wrote %q, which is no answer: it needs id, and ok or error (%w)", d.name, line, err)
			return
		}
		if _, twice := d.answers[r.ID]; twice {
			d.protocol = fmt.Errorf("driver %s answered command %d twice", d.name, r.ID)
		}
		d.answers[r.ID] = r
	}
}

// A pending command has been sent, and not been answered.
type pending struct {
	d  *driver
	id int
	do string
}

// start sends a command.
func (d *driver) start(do string, members ...fields) pending {
	command := fields{"do": do}
	merge(command, members)
	d.mu.Lock()
	d.lastID++
	command["id"] = d.lastID
	p := pending{d, d.lastID, do}
	d.mu.Unlock()
	line, err := json.Marshal(command)
	if err != nil {
		panic(err)
	}
	d.s.logf("%s < %s", d.name, line)
	if _, err := d.stdin.Write(append(line, '\n')); err != nil {
		d.s.failf("driver %s: %v\n%s", d.name, err, d.stderr.String())
	}
	return p
}

// healthy fails the scenario if the driver has ended, or does not keep to the protocol.
func (d *driver) healthy() {
	d.mu.Lock()
	err := d.protocol
	d.mu.Unlock()
	if err != nil {
		d.s.failf("%v", err)
	}
	select {
	case <-d.exited:
		d.s.failf("driver %s ended (%v):\n%s", d.name, d.err, d.stderr.String())
	default:
	}
}

// wait waits for the answer.
func (p pending) wait() reply {
	var r reply
	p.d.s.until(sprint("the answer of %s to %s (id %d)", p.d.name, p.do, p.id), func() bool {
		p.d.healthy()
		var ok bool
		r, ok = p.answered()
		return ok
	})
	return r
}

func (p pending) answered() (reply, bool) {
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	r, ok := p.d.answers[p.id]
	return r, ok
}

// ok waits for the answer, which must be a success.
func (p pending) ok() *result {
	r := p.wait()
	if r.Error != nil {
		p.d.s.failf("%s of %s (id %d) failed: %v %s", p.do, p.d.name, p.id, r.Error.Kinds, r.Error.Text)
	}
	return r.OK
}

// fails waits for the answer, which must be an error of all these kinds.
func (p pending) fails(kinds ...string) *failure {
	r := p.wait()
	if r.Error == nil {
		p.d.s.failf("%s of %s (id %d) succeeded; want an error of %v", p.do, p.d.name, p.id, kinds)
	}
	p.d.s.kinds(r.Error, kinds...)
	return r.Error
}

func (s *stage) kinds(e *failure, kinds ...string) {
	for _, k := range kinds {
		if not, ok := strings.CutPrefix(k, "!"); ok {
			s.check(!slices.Contains(e.Kinds, not), "the error is of the kinds %v, and must not be %q: %s", e.Kinds, not, e.Text)
		} else {
			s.check(slices.Contains(e.Kinds, k), "the error is of the kinds %v, without %q: %s", e.Kinds, k, e.Text)
		}
	}
}

// must sends a command that must succeed.
func (d *driver) must(do string, members ...fields) *result { return d.start(do, members...).ok() }

// acquire acquires a lock, which must succeed, and checks the lease.
func (d *driver) acquire(lease, lock string, extra ...fields) *result {
	return d.granted(lock, d.start("acquire", append([]fields{{"client": "c1", "lease": lease, "lock": lock}}, extra...)...))
}

// granted waits for a grant, and checks it.
func (d *driver) granted(lock string, p pending) *result {
	r := p.ok()
	d.s.check(r.Fence > 0, "the lease has the fencing token %d", r.Fence)
	d.proved(r.Deadline, d.s.front.requests("acquire", lock))
	return r
}

// proved fails the scenario if a deadline is later than any of the requests proves: its arrival and the lease's remaining life by the
// coordinator's answer, less the margin of 1/1000.
func (d *driver) proved(deadline float64, requests []*request) {
	var most float64
	for _, r := range requests {
		if r.status == 200 {
			most = max(most, r.at+float64(r.remaining)*0.999)
		}
	}
	d.s.check(deadline <= most, "the client counts on the lease until %.3f ms, which is %.3f ms later than any request proves", deadline, deadline-most)
}

// state reads a lease's state.
func (d *driver) state(lease string) *result { return d.must("state", fields{"lease": lease}) }

// holds fails the scenario unless the client counts on a lease.
func (d *driver) holds(lease string, want bool) *result {
	r := d.state(lease)
	d.s.check(r.Held == want, "the client says that %s is held: %v; want %v", lease, r.Held, want)
	d.s.check(want || r.Remaining <= 0, "%s is not held, and has %v ms left", lease, r.Remaining)
	return r
}

// event waits for an event that match accepts.
func (d *driver) event(what string, match func(event) bool) (found event) {
	d.s.until("the event of "+d.name+": "+what, func() bool {
		d.healthy()
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, e := range d.events {
			if match(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// lost waits until a lease is lost.
func (d *driver) lost(lease string, kinds ...string) event {
	e := d.event(lease+" is lost", func(e event) bool { return e.Event == "lost" && e.Lease == lease })
	d.s.check(e.Error != nil, "the event of the loss of %s has no error", lease)
	d.s.kinds(e.Error, append(kinds, "lost")...)
	return e
}

// losses counts the events of a lease's loss.
func (d *driver) losses(lease string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.events {
		if e.Event == "lost" && e.Lease == lease {
			n++
		}
	}
	return n
}

// waits waits until a command has reported a place in the queue.
func (p pending) waits(position int) {
	p.d.event(sprint("command %d waits at position %d", p.id, position), func(e event) bool {
		return e.Event == "waiting" && e.ID == p.id && (position == 0 || e.Position == position)
	})
}

// freeze stops the process, and waits until it has stopped.
func (d *driver) freeze() {
	d.s.logf("%s is frozen", d.name)
	d.signal(syscall.SIGSTOP)
}

func (d *driver) thaw() {
	d.s.logf("%s is thawed", d.name)
	d.signal(syscall.SIGCONT)
}

func (d *driver) signal(sig syscall.Signal) {
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.s.failf("driver %s: %v: %v", d.name, sig, err)
	}
}

// end closes the driver's standard input, and waits until the process has ended.
func (d *driver) end() error {
	_ = d.stdin.Close()
	select {
	case <-d.exited:
	case <-time.After(d.s.options.patience):
		return errors.New("it does not end after its standard input is closed")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.protocol != nil {
		return d.protocol
	}
	if d.err != nil {
		return fmt.Errorf("it ended with %w:\n%s", d.err, d.stderr.String())
	}
	return nil
}

// kill ends the process of a scenario that failed.
func (d *driver) kill() {
	select {
	case <-d.exited:
		return
	default:
	}
	_ = d.cmd.Process.Kill()
	_ = d.stdin.Close()
	<-d.exited
}

// A lockedBuffer is a buffer that may be written while it is read.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
