// Package relay is a network for tests, whose connections can die without a word.
package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// A Relay forwards connections to a server. Those that were open when it was cut stay open, and swallow every byte; new ones
// work: as when a gateway on the way forgets its connections.
type Relay struct {
	net.Listener
	mu   sync.Mutex
	open []*atomic.Bool // whether each swallows
}

// New starts a relay to an address; it ends with the test.
func New(t testing.TB, to string) *Relay {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Listener: l}
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(func() { _ = l.Close(); cancel(); work.Wait() })
	work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			swallow := new(atomic.Bool)
			r.mu.Lock()
			r.open = append(r.open, swallow)
			r.mu.Unlock()
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			work.Go(func() { forward(out, in, swallow) })
			work.Go(func() { forward(in, out, swallow) })
		}
	})
	return r
}

func forward(to, from net.Conn, swallow *atomic.Bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !swallow.Load() {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			if !swallow.Load() {
				_ = to.Close()
			}
			return
		}
	}
}

// Cut makes the connections that are open swallow what comes.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.open {
		s.Store(true)
	}
}

// Connections is how many there have been.
func (r *Relay) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}
