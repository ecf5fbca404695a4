package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A shell is an interactive bash on a pseudo-terminal.
type shell struct {
	t      *testing.T
	master *os.File

	mu      sync.Mutex
	more    *sync.Cond
	screen  bytes.Buffer
	seen    int // of the screen
	expired bool
}

func startShell(t *testing.T, s *service) *shell {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // so that Close ends Read
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(fd), "ptmx")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	sh := &shell{t: t, master: master}
	sh.more = sync.NewCond(&sh.mu)
	const script = "#!/bin/sh\ntrap 'echo re$((40+2))' CONT\necho up$((40+2))\nwhile :; do sleep 1000 & wait; done\n"
	up := filepath.Join(t.TempDir(), "up") // says that it runs, and that it was resumed
	if err := os.WriteFile(up, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "--norc", "--noediting", "-i")
	cmd.Env = append(os.Environ(), "HOLDFAST_ENDPOINT="+s.url, "PS1=ready> ", "TERM=dumb", "HISTFILE=", "holdfast="+path, "up="+up)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = tty.Close()
	var reader sync.WaitGroup
	reader.Go(sh.read)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = master.Close()
		reader.Wait()
	})
	sh.expect("ready> ")
	return sh
}

func (sh *shell) read() {
	buf := make([]byte, 4096)
	for {
		n, err := sh.master.Read(buf)
		sh.mu.Lock()
		sh.screen.Write(buf[:n])
		sh.expired = err != nil
		sh.more.Broadcast()
		sh.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// inAnyOrder separates texts of two processes, of which either may be the first on the screen.
const inAnyOrder = " | "

// expect waits until a text comes up on the screen, after what was expected before. With [inAnyOrder] it waits for each of several texts, as often as it is listed.
func (sh *shell) expect(text string) {
	sh.t.Helper()
	patience := time.AfterFunc(2*time.Minute, func() { // a test that hangs says where
		sh.mu.Lock()
		defer sh.mu.Unlock()
		sh.expired = true
		sh.more.Broadcast()
	})
	defer patience.Stop()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for {
		rest := sh.screen.String()[sh.seen:]
		if end := endOf(rest, strings.Split(text, inAnyOrder)); end >= 0 {
			sh.seen += end
			return
		}
		if sh.expired {
			sh.t.Fatalf("waited for %q; the screen since then: %q; in all: %q", text, rest, sh.screen.String())
		}
		sh.more.Wait()
	}
}

// endOf returns where the last of some texts ends on a screen; -1 if one of them is not there. A text that is listed twice has to be there twice.
func endOf(screen string, texts []string) (end int) {
	from := map[string]int{}
	for _, text := range texts {
		i := strings.Index(screen[from[text]:], text)
		if i < 0 {
			return -1
		}
		from[text] += i + len(text)
		end = max(end, from[text])
	}
	return end
}

// keys types.
func (sh *shell) keys(text string) {
	sh.t.Helper()
	if _, err := sh.master.WriteString(text); err != nil {
		sh.t.Fatal(err)
	}
}

const (
	ctrlC = "\x03"
	ctrlD = "\x04"
	ctrlZ = "\x1a"
)

// Job control with a real shell on a real terminal. Each pair is what is typed, and what the screen shows then.
func TestExecJobControl(t *testing.T) {
	for name, dialogue := range map[string][][2]string{
		"stop and resume": {
			{"$holdfast exec a -- cat\n", "acquired a"}, {"one\n", "one\r\n"}, {"", "one"},
			{ctrlZ, "Stopped"}, {"", "ready> "}, {"echo $((40+2))\n", "42"},
			{"$holdfast exec a --no-wait -- true; echo code $?\n", "code 123"}, // the lease lasts
			{"fg\n", "cat"}, {"two\n", "two\r\n"}, {"", "two"}, {ctrlD, "released a"}, {"echo code $?\n", "code 0"},
		},
		"interrupt after a stop": {
			{"$holdfast exec a -- $up\n", "up42"}, {ctrlZ, "Stopped"}, {"fg\n", "re42"}, {ctrlC, "released a"}, {"echo code $?\n", "code 130"},
		},
		"in the background, and back": {
			{"set -b; $holdfast exec a -- cat &\n", "acquired a"}, {"", "stopped; the lease of a is not renewed"}, {"", "Stopped"},
			{"fg\n", "cat"}, {"one\n", "one\r\n"}, {"", "one"}, {ctrlZ, "Stopped"}, {"fg\n", "cat"}, {ctrlD, "released a"},
		},
		"stopped, resumed in the background": {
			{"$holdfast exec a -- $up\n", "up42"}, {ctrlZ, "Stopped"}, {"bg\n", "&"}, {"jobs\n", "Running"},
			{"kill %1; wait\n", "released a"},
		},
		"stopped for longer than the lease": {
			{"$holdfast exec a --ttl 1s -- $up\n", "up42"}, {ctrlZ, "Stopped"},
			{"$holdfast exec a -- echo next\n", "next"}, // when the lease has run out
			{"fg\n", "stopping the command"}, {"", "ready> "}, {"echo code $?\n", "code 124"},
		},
		"an interrupt ends the loop": {
			{"for n in 1 2; do $holdfast exec a -- $up; done\n", "up42"}, {ctrlC, "released a"}, {"", "ready> "}, {"echo end\n", "end\r\n"},
		},
		"an interrupt ends the script": {
			{"bash -c '$holdfast exec a -- $up; echo went on'\n", "up42"}, {ctrlC, "released a"}, {"", "ready> "}, {"echo code $?\n", "code 130"},
		},
		"in a pipeline": {
			{"$holdfast exec a -- $up | cat\n", "up42"}, {ctrlZ, "Stopped"}, {"fg\n", "re42"}, {ctrlC, "released a"}, {"", "ready> "},
		},
		"waiting for the lock": {
			{"$holdfast exec a -- $up &\n", "up42"}, {"$holdfast exec a -- true\n", "waiting for a"},
			{ctrlZ, "Stopped"}, {"bg\n", "&"}, {"kill %1; wait\n", "released a" + inAnyOrder + "acquired a" + inAnyOrder + "released a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh := startShell(t, newService(t))
			for _, d := range dialogue {
				sh.keys(d[0])
				sh.expect(d[1])
			}
		})
	}
}
