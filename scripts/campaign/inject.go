package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

// inject injects the plan's faults, other than those of the wire, until the time of the round is over.
func (r *round) inject() {
	began := time.Now()
	var under sync.WaitGroup
	defer under.Wait()
	if r.plan.StreamKills > 0 {
		under.Go(r.killConsumers)
	}
	under.Go(r.govern)
	for _, a := range r.plan.actions() {
		time.Sleep(time.Until(began.Add(a.at)))
		under.Go(func() {
			if err := r.act(a); err != nil {
				fmt.Fprintln(os.Stderr, "campaign:", a.family, err)
			}
		})
	}
	time.Sleep(time.Until(began.Add(time.Duration(r.plan.Seconds * float64(time.Second)))))
}

// act injects one fault.
func (r *round) act(a action) error {
	r.mu.Lock()
	client := -1
	if len(r.clients) > 0 {
		client = a.target % len(r.clients)
	}
	coordinator := a.target % len(r.coordinators)
	r.mu.Unlock()
	switch a.family {
	case famPartition:
		return r.partition(a, client)
	case famPause:
		if client >= 0 {
			r.pause(r.clients[client], a.length)
		}
	case famPauseServer:
		r.mu.Lock()
		p := r.coordinators[coordinator]
		if a.part%4 == 0 {
			p = r.consumer
		}
		r.mu.Unlock()
		r.pause(p, a.length)
	case famKillClient:
		return r.replaceClient(client)
	case famKillServer:
		r.replacing.Lock()
		defer r.replacing.Unlock()
		r.mu.Lock()
		p := r.coordinators[coordinator]
		r.mu.Unlock()
		p.kill()
		r.count(a.family)
		return r.startCoordinator(coordinator)
	case famKillStream:
		if a.part%2 == 0 {
			return r.replaceConsumer()
		}
		r.mu.Lock()
		r.countdown, r.after = 1+a.part/4%20, a.part/2%2 == 0
		r.mu.Unlock()
	case famClock:
		r.mu.Lock()
		p := r.coordinators[coordinator]
		r.mu.Unlock()
		p.say("offset %d", a.offset.Milliseconds())
		r.count(a.family)
	}
	return nil
}

func (r *round) count(family string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.injected[family]++
}

// partition cuts all clients of a process off.
func (r *round) partition(a action, client int) error {
	if client < 0 {
		return nil
	}
	proxy := r.api
	r.mu.Lock()
	name := r.clients[client].name
	r.mu.Unlock()
	kind := kindOf(name)
	if kind == "direct" {
		proxy = r.dynamo
	}
	direction := []wirefault.Direction{wirefault.Both, wirefault.Requests, wirefault.Replies}[a.part%3]
	var names []string
	for i := range r.workers(kind) {
		names = append(names, fmt.Sprintf("%s.%d", name, i))
	}
	for _, n := range names {
		if err := proxy.Partition(n, direction); err != nil {
			return err
		}
	}
	r.count(a.family)
	time.Sleep(a.length)
	for _, n := range names {
		proxy.Heal(n)
	}
	return nil
}

// kindOf is the kind of a client's process by its name, or that of the clients in it.
func kindOf(name string) string {
	for _, kind := range []string{"http", "invoke", "direct", "cli"} {
		if strings.HasPrefix(name, kind) {
			return kind
		}
	}
	return ""
}

func (r *round) pause(p *process, length time.Duration) {
	p.signal(syscall.SIGSTOP)
	time.Sleep(length)
	p.signal(syscall.SIGCONT)
	r.count(famPause)
}

// replaceClient kills a client's process and starts another one.
func (r *round) replaceClient(i int) error {
	if i < 0 {
		return nil
	}
	r.replacing.Lock()
	defer r.replacing.Unlock()
	r.mu.Lock()
	old := r.clients[i]
	r.injected[famKillClient]++
	generation := r.injected[famKillClient]
	r.mu.Unlock()
	old.kill()
	r.note(old)
	kind := kindOf(old.name)
	p, err := r.startClient(fmt.Sprintf("%s%d-%d", kind, i, generation), kind)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[i] = p
	return nil
}

// replaceConsumer kills the stream's process and starts it again.
func (r *round) replaceConsumer() error {
	r.replacing.Lock()
	defer r.replacing.Unlock()
	r.mu.Lock()
	p := r.consumer
	r.killCount++
	r.mu.Unlock()
	p.kill()
	return r.startConsumer()
}

// atRequest is called before and after each request to the services; it kills the stream's process at the one that was chosen.
func (r *round) atRequest(after bool) {
	r.mu.Lock()
	kill := false
	if r.countdown > 0 && after == r.after {
		r.countdown--
		kill = r.countdown == 0
	}
	p := r.consumer
	if kill {
		r.killCount++
	}
	r.mu.Unlock()
	if !kill || p == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	go func() {
		r.replacing.Lock()
		defer r.replacing.Unlock()
		<-p.done
		r.mu.Lock()
		other := r.consumer != p
		r.mu.Unlock()
		if other {
			return
		}
		if err := r.startConsumer(); err != nil {
			fmt.Fprintln(os.Stderr, "campaign:", err)
		}
	}()
}

// killConsumers kills the stream's process as often as the plan says, each time after a short life or at one of its requests.
func (r *round) killConsumers() {
	random := rand.New(rand.NewPCG(r.plan.Seed, 99))
	for n := range r.plan.StreamKills {
		if n%2 == 0 {
			time.Sleep(time.Duration(50+random.IntN(600)) * time.Millisecond)
			if err := r.replaceConsumer(); err != nil {
				fmt.Fprintln(os.Stderr, "campaign:", err)
			}
			continue
		}
		r.mu.Lock()
		before := r.consumer
		r.countdown, r.after = 1+random.IntN(20), random.IntN(2) == 0
		r.mu.Unlock()
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			r.mu.Lock()
			changed := r.consumer != before
			r.mu.Unlock()
			if changed {
				break
			}
		}
		r.mu.Lock()
		missed := r.countdown > 0 // it made no such request
		r.countdown = 0
		r.mu.Unlock()
		if missed {
			if err := r.replaceConsumer(); err != nil {
				fmt.Fprintln(os.Stderr, "campaign:", err)
			}
		}
	}
}
