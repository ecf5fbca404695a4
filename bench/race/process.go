package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-lock/holdfast/internal/history"
)

// monotonic returns the time in nanoseconds of CLOCK_MONOTONIC, which the drivers share.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// settings are those of a driver; see bench/driver/main.go.
type settings struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
	Table    string `json:"table"`
	LeaseMS  int64  `json:"lease_ms"`
	PollMS   int64  `json:"poll_ms"`
	Clients  int    `json:"clients"`
	Watch    bool   `json:"watch"`
}

// command returns the command of a kind's driver, as bench/install.sh built it into a folder.
func command(dir, kind string) []string {
	switch kind {
	case "awslabs":
		return []string{"java", "-Xmx256m", "-cp", filepath.Join(dir, "java/classes") + ":" + filepath.Join(dir, "java/lib/*"), "Driver"}
	case "python-dynamodb-lock", "chainsaws":
		return []string{filepath.Join(dir, "venv/bin/python"), filepath.Join(dir, "driver.py")}
	case "deliveryhero":
		return []string{"node", filepath.Join(dir, "node/driver.js")}
	}
	return []string{filepath.Join(dir, "driver")}
}

// An answer is a driver's answer to a command.
type answer struct {
	ID    string `json:"id"`
	OK    bool   `json:"ok"`
	Began int64  `json:"began"`
	Ended int64  `json:"ended"`
	Fence int64  `json:"fence"`
	Error string `json:"error"`
}

func (a answer) err() error {
	if a.OK {
		return nil
	}
	return errors.New(a.Error)
}

// A process is a driver that runs.
type process struct {
	settings
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed when the process has ended
	write sync.Mutex

	mu      sync.Mutex
	next    int
	waiting map[string]chan answer
	beliefs []history.Belief
	lost    map[int]int64 // when a client was told last that it lost its lock
	url     string        // of a process that serves the API
	ready   chan struct{}
}

const startLimit = 3 * time.Minute // a machine under load starts many drivers at once

// start starts a driver, and waits until it answers.
func start(dir string, s settings) (*process, error) {
	argv := command(dir, s.Kind)
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	p := &process{settings: s, cmd: exec.CommandContext(context.Background(), argv[0], argv[1:]...), ended: make(chan struct{}), waiting: map[string]chan answer{}, lost: map[int]int64{}, ready: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "PEER="+string(data), "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(dir, "drivers.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the driver has it
	p.cmd.Stderr = log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(out)
	if s.Kind == serveKind {
		select {
		case <-p.ready:
			return p, nil
		case <-p.ended:
		case <-time.After(startLimit):
		}
		return nil, fmt.Errorf("the process that serves the API printed no URL; see %s", log.Name())
	}
	if _, err := p.do(0, startLimit, "held"); err != nil {
		p.kill()
		return nil, fmt.Errorf("the driver of %s: %w; see %s", s.Kind, err, log.Name())
	}
	return p, nil
}

func (p *process) read(out io.Reader) {
	defer close(p.ended)
	p.lines(out)
	_ = p.cmd.Wait()
}

// lines handles the lines that the driver writes.
func (p *process) lines(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var entry struct {
			T   string `json:"t"`
			URL string `json:"url"`
			At  int64  `json:"at"`
		}
		line := lines.Bytes()
		_ = json.Unmarshal(line, &entry) // the client of a belief is a text, of others a number, and is read below
		p.mu.Lock()
		switch {
		case entry.T == "belief":
			var b history.Belief
			if json.Unmarshal(line, &b) == nil {
				p.beliefs = append(p.beliefs, b)
			}
		case entry.T == "lost":
			var l struct{ Client int }
			_ = json.Unmarshal(line, &l)
			p.lost[l.Client] = entry.At
		case entry.URL != "":
			p.url = entry.URL
			close(p.ready)
		default:
			var a answer
			if json.Unmarshal(line, &a) == nil && p.waiting[a.ID] != nil {
				p.waiting[a.ID] <- a
				delete(p.waiting, a.ID)
			}
		}
		p.mu.Unlock()
	}
}

// send sends a command, and returns the channel of its answer.
func (p *process) send(client int, words ...string) (<-chan answer, error) {
	p.mu.Lock()
	p.next++
	id := strconv.Itoa(p.next)
	c := make(chan answer, 1)
	p.waiting[id] = c
	p.mu.Unlock()
	p.write.Lock()
	defer p.write.Unlock()
	_, err := io.WriteString(p.in, strings.Join(append([]string{id, strconv.Itoa(client)}, words...), " ")+"\n")
	return c, err
}

// do sends a command and waits for its answer, up to a limit.
func (p *process) do(client int, limit time.Duration, words ...string) (answer, error) {
	c, err := p.send(client, words...)
	if err != nil {
		return answer{}, err
	}
	select {
	case a := <-c:
		return a, nil
	case <-p.ended:
		return answer{}, errors.New("the driver has ended")
	case <-time.After(limit):
		return answer{}, fmt.Errorf("no answer to %s in %v", words[0], limit)
	}
}

// acquire acquires a lock, and waits for it up to a time.
func (p *process) acquire(client int, name string, wait time.Duration) (answer, error) {
	a, err := p.do(client, wait+time.Minute, "acquire", name, strconv.FormatInt(wait.Milliseconds(), 10))
	if err == nil {
		err = a.err()
	}
	return a, err
}

func (p *process) release(client int) (answer, error) {
	a, err := p.do(client, time.Minute, "release")
	if err == nil {
		err = a.err()
	}
	return a, err
}

// told returns when a client was told that it lost its lock, since the time before; 0: it was not.
func (p *process) told(client int, before int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost[client] > before {
		return p.lost[client]
	}
	return 0
}

func (p *process) history() []history.Belief {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]history.Belief(nil), p.beliefs...)
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// alive says whether the process runs.
func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	if p == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	_ = p.in.Close()
	<-p.ended
}
