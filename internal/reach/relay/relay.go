// Package relay is a network for tests whose connections can die silently.
package relay

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/loopback"
)

// A Relay forwards connections to a server. After Cut, the connections that were open stay open and drop every byte, while new ones
// work, as when a gateway on the way has forgotten its connections.
type Relay struct {
	net.Listener
	mu   sync.Mutex
	open []*atomic.Bool // for each connection, whether it drops what it receives
}

// New starts a relay to an address. It ends with the test.
func New(t testing.TB, to string) *Relay {
	l, err := loopback.Listen(t.Context(), "127.0.0.1:0")
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
			drop := new(atomic.Bool)
			r.mu.Lock()
			r.open = append(r.open, drop)
			r.mu.Unlock()
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			work.Go(func() { forward(out, in, drop) })
			work.Go(func() { forward(in, out, drop) })
		}
	})
	return r
}

func forward(to, from net.Conn, drop *atomic.Bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !drop.Load() {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			if !drop.Load() {
				_ = to.Close()
			}
			return
		}
	}
}

// Cut makes the open connections drop what they receive.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.open {
		s.Store(true)
	}
}

// Connections returns the number of connections so far.
func (r *Relay) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}
