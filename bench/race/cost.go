package main

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// Cycle is what one acquire and release of a free lock send to DynamoDB, on average.
type Cycle struct {
	Kind       string
	SameKey    meter.Count
	NewKeys    meter.Count
	Cycles     int // of each
	Operations map[string]meter.Count
}

const cycles = 20

// cost counts the requests and units of a cycle. The locks are free.
func (w *world) cost(p peer) (c Cycle, err error) {
	proc, m, stop, err := w.metered(p, settings{Name: "cost"})
	if err != nil {
		return c, err
	}
	defer stop()
	cycle := func(name string) error {
		if _, err := proc.acquire(0, name, 10*time.Second); err != nil {
			return fmt.Errorf("%s: acquire: %w", p.kind, err)
		}
		if _, err := proc.release(0); err != nil {
			return fmt.Errorf("%s: release: %w", p.kind, err)
		}
		return nil
	}
	name := "cost:" + rand.Text()
	if err := cycle(name); err != nil {
		return c, err
	}
	c = Cycle{Kind: p.kind, Cycles: cycles}
	m.Take()
	for range cycles {
		if err := cycle(name); err != nil {
			return c, err
		}
	}
	c.Operations = m.Take()
	c.SameKey = meter.Total(c.Operations)
	for range cycles {
		if err := cycle("cost:" + rand.Text()); err != nil {
			return c, err
		}
	}
	c.NewKeys = meter.Total(m.Take())
	return c, nil
}

// Waiter is what one waiter sends in 10 s, with the client's defaults, while another process holds the lock.
type Waiter struct {
	Kind       string
	Operations map[string]meter.Count
	Total      meter.Count
}

const waitWindow = 10 * time.Second

func (w *world) waiter(p peer) (result Waiter, err error) {
	holder, err := start(w.dir, settings{Kind: p.kind, Name: "holder", Endpoint: w.upstream(p.kind), Table: w.table(p.kind), Clients: 1})
	if err != nil {
		return result, err
	}
	defer holder.kill()
	proc, m, stop, err := w.metered(p, settings{Name: "waiter"})
	if err != nil {
		return result, err
	}
	defer stop()
	name := "waiter:" + rand.Text()
	if _, err := holder.acquire(0, name, 10*time.Second); err != nil {
		return result, err
	}
	m.Take()
	if _, err := proc.send(0, "acquire", name, "600000"); err != nil {
		return result, err
	}
	time.Sleep(waitWindow)
	m.Stop()
	result = Waiter{Kind: p.kind, Operations: m.Take()}
	result.Total = meter.Total(result.Operations)
	return result, nil
}
