package wirefault

import (
	"context"
	"fmt"
	"net/http"
)

// A Direction says which half of a client's traffic a partition holds back.
type Direction string

// The directions of a partition.
const (
	Both     Direction = "both"     // requests do not arrive, nor do replies to those that were under way
	Requests Direction = "requests" // requests do not arrive
	Replies  Direction = "replies"  // requests arrive, and their replies do not
)

// partition is a cut; healed is closed when it ends.
type partition struct {
	direction Direction
	healed    chan struct{}
}

// Partition cuts a client off: by the name of its listener or header, or by its address and port. The client hears nothing until it gives up,
// or until [Proxy.Heal]; then its connections are closed. A request that a partition held back is never delivered.
func (p *Proxy) Partition(client string, direction Direction) error {
	switch direction {
	case Both, Requests, Replies:
	default:
		return fmt.Errorf("wirefault: direction is %q; give %s, %s or %s", direction, Both, Requests, Replies)
	}
	if client == "" {
		return fmt.Errorf("wirefault: client is empty; give the name of a listener, the value of the header %s, or an address and port", ClientHeader)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.partitions[client]; ok {
		p.partitions[client] = partition{direction, old.healed}
		return nil
	}
	p.partitions[client] = partition{direction, make(chan struct{})}
	return nil
}

// Heal ends the partition of a client; it does nothing if there is none.
func (p *Proxy) Heal(client string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.partitions[client]; ok {
		close(old.healed)
		delete(p.partitions, client)
	}
}

// cut returns the partition that holds back what goes in a direction, from or to a client or an address.
func (p *Proxy) cut(client, address string, half Direction) (partition, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range []string{client, address} {
		if cut, ok := p.partitions[name]; ok && (cut.direction == Both || cut.direction == half) {
			return cut, true
		}
	}
	return partition{}, false
}

// hold waits until the partition is healed, the client has given up, or the proxy closes.
func (p *Proxy) hold(r *http.Request, cut partition) {
	ctx, cancel := context.WithTimeout(r.Context(), maxTime)
	defer cancel()
	select {
	case <-cut.healed:
	case <-ctx.Done():
	case <-p.ctx.Done():
	}
}
