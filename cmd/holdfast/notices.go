package main

import (
	"time"
)

// notices writes notices in order and never blocks its caller: the command must be stopped in time even if nothing
// reads standard error.
type notices struct {
	s       *streams
	queue   chan func()
	written chan struct{}
	closed  bool
}

func newNotices(s *streams) *notices {
	n := &notices{s: s, queue: make(chan func(), 64), written: make(chan struct{})}
	go func() {
		defer close(n.written)
		for write := range n.queue {
			write()
		}
	}()
	return n
}

// say queues a notice. A full queue means that nothing reads standard error; the notice is dropped.
func (n *notices) say(event, text string, attrs ...any) {
	select {
	case n.queue <- func() { n.s.notice(event, text, attrs...) }:
	default:
	}
}

// drain waits until the queued notices are written, for at most the given time.
func (n *notices) drain(most time.Duration) {
	written := make(chan struct{})
	select {
	case n.queue <- func() { close(written) }:
	default:
		return
	}
	select {
	case <-written:
	case <-time.After(most):
	}
}

// flush waits up to a second until the queued notices are written. No notice may be queued afterwards.
func (n *notices) flush() {
	if n.closed {
		return
	}
	n.closed = true
	close(n.queue)
	select {
	case <-n.written:
	case <-time.After(time.Second):
	}
}
