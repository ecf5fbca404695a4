package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// now is the time of the history: nanoseconds of CLOCK_MONOTONIC, which all processes of the machine share.
func now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // cannot happen: every Linux has this clock
	}
	return ts.Nano()
}

// A process is a child of the round. It ends when its standard input does, so that it does not outlive the round.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	url   string        // what it printed when it was ready
	log   string        // the file of its log
	done  chan struct{} // closed when it has ended
	died  int64         // when it ended
	mu    sync.Mutex    // held while it is signalled
}

const startTimeout = 30 * time.Second

// lean is an environment for processes of Go that are many and small: each runs on one CPU at a time, and collects garbage a quarter as often. Variables that the environment has
// already stay as they are.
func lean(env []string) []string { return append([]string{"GOMAXPROCS=1", "GOGC=400"}, env...) }

// startProcess starts a program of the campaign in a role, with a configuration, and waits until it is ready. Its log is a file in dir.
func startProcess(program, dir, name, role string, cfg any) (*process, error) {
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log-"+name+".txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()                                                                                                     //nolint:errcheck // the child has it
	p := &process{name: name, log: log.Name(), cmd: exec.Command(program, role, string(text)), done: make(chan struct{})} //nolint:gosec,noctx // a program of the campaign; it ends with its input
	p.cmd.Stderr, p.cmd.Env = log, lean(os.Environ())
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewReader(out)
		line, _ := lines.ReadString('\n')
		ready <- strings.TrimSuffix(line, "\n")
		_, _ = io.Copy(log, lines)
	})
	go func() {
		reading.Wait()
		_ = p.cmd.Wait()
		p.died = now()
		close(p.done)
	}()
	select {
	case line := <-ready:
		url, ok := strings.CutPrefix(line, "ready ")
		if !ok {
			p.kill()
			return nil, fmt.Errorf("process %s did not start; see %s", name, log.Name())
		}
		p.url = url
		return p, nil
	case <-time.After(startTimeout):
		p.kill()
		return nil, fmt.Errorf("process %s is not ready after %v; see %s", name, startTimeout, log.Name())
	}
}

// say sends the process a line.
func (p *process) say(format string, args ...any) { _, _ = fmt.Fprintf(p.stdin, format+"\n", args...) }

// kill kills the process and its group, and waits for its end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// signal sends a signal to the process and its group, unless it has ended.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// end ends the process's input and waits for it, at most for a time; then it kills it. It returns whether the process ended by itself.
func (p *process) end(most time.Duration) bool {
	_ = p.stdin.Close()
	select {
	case <-p.done:
		return true
	case <-time.After(most):
		p.kill()
		return false
	}
}

// ready tells the parent that the process can be used.
func ready(url string) { fmt.Println("ready " + url) }

// untilInputEnds calls line for each line of standard input until it ends.
func untilInputEnds(line func(string)) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		line(lines.Text())
	}
}
