//go:build unix

package supervise

import (
	"encoding/json"
	"os"
	"syscall"
	"time"
)

// An order is a message of the supervisor to the guard.
type order struct {
	Start  *start         `json:"start,omitempty"`  // run this command; the first order only
	Until  time.Duration  `json:"until,omitempty"`  // the end of the lease, on the clock of now; 0: unchanged
	Signal syscall.Signal `json:"signal,omitempty"` // pass this on to the command
	Stop   Reason         `json:"stop,omitempty"`   // end the command
	Resume bool           `json:"resume,omitempty"` // continue the stopped command
}

// start is the command. Its strings are sent as bytes, since JSON strings cannot hold file names that are not UTF-8.
type start struct {
	Path  []byte        `json:"path"`
	Args  [][]byte      `json:"args"` // with the command's name
	Grace time.Duration `json:"grace"`
}

func newStart(path string, args []string, grace time.Duration) *start {
	s := &start{Path: []byte(path), Grace: grace}
	for _, arg := range args {
		s.Args = append(s.Args, []byte(arg))
	}
	return s
}

func (s *start) args() []string {
	args := make([]string, len(s.Args))
	for i, arg := range s.Args {
		args[i] = string(arg)
	}
	return args
}

// An event is the kind of a [report].
type event string

const (
	eventStarted  event = "started"  // with PID
	eventFailed   event = "failed"   // the command could not be started, with Error
	eventStopped  event = "stopped"  // the command was stopped by Signal, as by Ctrl-Z
	eventStopping event = "stopping" // the guard ends the command, with Reason
	eventDenied   event = "denied"   // the guard may not signal Processes
	eventEnded    event = "ended"    // the last report: the command has ended as Status says; Processes are left
)

// A report is a message of the guard to the supervisor.
type report struct {
	Event     event          `json:"event"`
	PID       int            `json:"pid,omitempty"`
	Error     string         `json:"error,omitempty"`
	Signal    syscall.Signal `json:"signal,omitempty"`
	Reason    Reason         `json:"reason,omitempty"`
	Processes []Process      `json:"processes,omitempty"`
	Status    *status        `json:"status,omitempty"`
}

// status is how a command ended: an exit code, or the signal that ended it.
type status struct {
	Code   int            `json:"code"`
	Signal syscall.Signal `json:"signal,omitempty"`
}

// A Process is a process in a report for people.
type Process struct {
	PID  int    `json:"pid"`
	Name string `json:"name,omitempty"`
}

// A Reason is why a command was stopped.
type Reason string

// The reasons for which a command is stopped.
const (
	Lost     Reason = "lost"     // the lease is lost
	Expiring Reason = "expiring" // the lease was not renewed, and the command must have ended before it expires
	Orphaned Reason = "orphaned" // the supervisor's parent has ended

	// Unguarded: the guard was killed, and the supervisor ended the command at once.
	Unguarded Reason = "unguarded"

	leftover Reason = "leftover" // the command has ended, and has left processes behind
	deserted Reason = "deserted" // the supervisor has ended
)

// minControlFD is the lowest descriptor of the guard's connection. Lower descriptors may belong to the command, which
// can inherit some by number, such as those of make's job server.
const minControlFD = 64

// receive decodes messages until the connection ends, and then closes the channel.
func receive[T any](conn *os.File) <-chan T {
	messages := make(chan T, 16)
	go func() {
		defer close(messages)
		for d := json.NewDecoder(conn); ; {
			var m T
			if d.Decode(&m) != nil {
				return
			}
			messages <- m
		}
	}()
	return messages
}

// send writes a message. It drops errors: they mean that the other process has ended, which the end of its messages
// shows.
func send(conn *os.File, message any) { _ = json.NewEncoder(conn).Encode(message) }
