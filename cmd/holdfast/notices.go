package main

import (
	"time"
)

// notices writes notices in order, without making anyone wait: perhaps nobody reads standard error, and the command must be
// stopped all the same.
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

// say queues a notice. If the queue is full, nobody reads, and the notice is dropped.
func (n *notices) say(event, text string, attrs ...any) {
	select {
	case n.queue <- func() { n.s.notice(event, text, attrs...) }:
	default:
	}
}

// drain waits until what is queued is written, but no longer than most.
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

// flush writes the queued notices, as far as standard error takes them. No notice can be queued afterwards.
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
