package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

// faultLease is the lease where single faults are tried; all clients can be set to it.
const faultLease = 4 * time.Second

// Faults is what single faults do to a peer. Times are in milliseconds.
type Faults struct {
	Kind     string
	TakeOver []float64 // from the expiry of the lease of a holder that was killed to the return of a waiter's acquire, with default polling
	Acquire  []Outcome // the first reply of an acquire is lost
	Renew    []Outcome // the reply of a renewal is lost
	Release  []Outcome // the reply of a release is lost
	CutOff   []Outcome // the holder is cut off from the server
	Pause    []Outcome // the holder is stopped past its lease
	Errors   []string  // of runs that could not be carried out
}

// An Outcome is what one fault did.
type Outcome struct {
	OK      bool    // acquire: granted without an error; renew: the lock was kept; release: success; pause: the first check was right
	TookMS  float64 // acquire: until the client had the lock; release: until another had it
	Errors  int     // acquire: errors that the caller got before that
	Granted bool    // renew, cut-off, pause: another client was granted the lock
	Told    bool    // the holder was told of its loss while it was watched
	AheadMS float64 // from the holder's being told to the other's grant; negative: told after it
}

func toMS(nanoseconds int64) float64 { return float64(nanoseconds/1000) / 1000 }

// The operations that acquire, renew and release a lock. A release that deletes the item is a DeleteItem, and so differs from a renewal.
var (
	acquires = []string{"UpdateItem", "PutItem", "acquire"}
	renewals = []string{"UpdateItem", "renew"}
	releases = map[string][]string{"": {"UpdateItem", "release"}, "awslabs": {"DeleteItem"}, "python-dynamodb-lock": {"DeleteItem"}, "deliveryhero": {"DeleteItem"}}
)

// loseReply loses the reply of a client's next request of some operations: it was carried out, and its connection is closed 100 ms later.
func (s *site) loseReply(client string, operations []string) error {
	const silence = wirefault.Duration(100 * time.Millisecond)
	return s.proxy.AddRules(wirefault.Rule{Kind: wirefault.DropReply, Rate: 1, Limit: 1, Clients: []string{client}, Operations: operations, Min: silence, Max: silence})
}

// faults tries each fault on a peer.
func (w *world) faults(p peer, runs int) Faults {
	f := Faults{Kind: p.kind}
	s, err := w.site(p, 1)
	if err != nil {
		f.Errors = append(f.Errors, err.Error())
		return f
	}
	defer s.proxy.Close() //nolint:errcheck // the race is over
	note := func(what string, err error) {
		if err != nil {
			f.Errors = append(f.Errors, what+": "+err.Error())
		}
	}
	for range runs {
		ms, err := s.takeOver()
		if note("take-over", err); err == nil {
			f.TakeOver = append(f.TakeOver, ms)
		}
	}
	for _, try := range []struct {
		what string
		to   *[]Outcome
		do   func(a, b *process) (Outcome, error)
	}{{"acquire", &f.Acquire, s.acquireLost}, {"release", &f.Release, s.releaseLost}, {"renew", &f.Renew, s.renewLost}, {"cut off", &f.CutOff, s.cutOff}, {"pause", &f.Pause, s.pause}} {
		if try.what == "renew" && !p.renews {
			continue
		}
		for range runs {
			o, err := s.pair(try.do)
			if note(try.what, err); err == nil {
				*try.to = append(*try.to, o)
			}
		}
	}
	return f
}

// takeOver kills a holder while another client waits with default polling.
func (s *site) takeOver() (float64, error) {
	server, m, err := front(s.upstream(s.peer.kind))
	if err != nil {
		return 0, err
	}
	defer server.Close()
	a, err := s.start("holder", server.URL, faultLease, 0)
	if err != nil {
		return 0, err
	}
	defer a.kill()
	b, err := s.start("waiter", s.upstream(s.peer.kind), faultLease, 0)
	if err != nil {
		return 0, err
	}
	defer b.kill()
	name := s.name("takeover")
	if _, err := a.acquire(0, name, 10*time.Second); err != nil {
		return 0, err
	}
	time.AfterFunc(time.Second+rand.N(2*time.Second), func() { a.signal(syscall.SIGKILL) })
	got, err := b.acquire(0, name, 30*time.Second)
	if err != nil {
		return 0, err
	}
	return toMS(got.Ended - m.Wrote() - faultLease.Nanoseconds()), nil
}

// pair runs a fault with two fresh processes, a and b; a fault may leave a process in any state. b polls at its fastest.
func (s *site) pair(do func(a, b *process) (Outcome, error)) (Outcome, error) {
	s.names++
	var procs [2]*process
	var errs [2]error
	var work sync.WaitGroup
	for i := range procs {
		work.Go(func() {
			procs[i], errs[i] = s.join(fmt.Sprintf("%c%d", 'a'+rune(i), s.names), faultLease, s.peer.fastest)
		})
	}
	work.Wait()
	a, b := procs[0], procs[1]
	defer a.kill()
	defer b.kill()
	if err := errors.Join(errs[:]...); err != nil {
		return Outcome{}, err
	}
	defer s.proxy.Heal(a.Name)
	return do(a, b)
}

func (s *site) acquireLost(a, _ *process) (o Outcome, err error) {
	name := s.name("acquire")
	if err := s.loseReply(a.Name, acquires); err != nil {
		return o, err
	}
	began := monotonic()
	for monotonic()-began < (5 * faultLease).Nanoseconds() {
		got, err := a.acquire(0, name, 3*faultLease)
		if err == nil {
			o.OK, o.TookMS = o.Errors == 0, toMS(got.Ended-began)
			return o, nil
		}
		o.Errors++
		time.Sleep(20 * time.Millisecond)
	}
	return o, errors.New("the lock was not acquired")
}

func (s *site) releaseLost(a, b *process) (o Outcome, err error) {
	name := s.name("release")
	if _, err := a.acquire(0, name, 10*time.Second); err != nil {
		return o, err
	}
	time.Sleep(300 * time.Millisecond) // chainsaws renews at once
	operations, ok := releases[s.peer.kind]
	if !ok {
		operations = releases[""]
	}
	if err := s.loseReply(a.Name, operations); err != nil {
		return o, err
	}
	r, err := a.release(0)
	o.OK = err == nil
	got, err := b.acquire(0, name, 3*faultLease)
	o.TookMS = toMS(got.Ended - r.Began)
	return o, err
}

func (s *site) renewLost(a, b *process) (o Outcome, err error) {
	return s.watched(a, b, "renew", func(string) error {
		time.Sleep(300 * time.Millisecond) // chainsaws renews at once
		return s.loseReply(a.Name, renewals)
	})
}

func (s *site) cutOff(a, b *process) (o Outcome, err error) {
	return s.watched(a, b, "cutoff", func(string) error { return s.proxy.Partition(a.Name, wirefault.Both) })
}

// watched does something to the holder a, and watches for two and a half leases whether it is told of a loss and whether b is granted the lock.
func (s *site) watched(a, b *process, what string, do func(name string) error) (o Outcome, err error) {
	name := s.name(what)
	held, err := a.acquire(0, name, 10*time.Second)
	if err != nil {
		return o, err
	}
	if err := do(name); err != nil {
		return o, err
	}
	c, err := b.send(0, "acquire", name, fmt.Sprint((3 * faultLease).Milliseconds()))
	if err != nil {
		return o, err
	}
	var granted int64
	limit := time.After(5 * faultLease / 2)
	for told, both := int64(0), false; !both; both = told != 0 && granted != 0 {
		select {
		case got := <-c:
			if c = nil; got.OK {
				granted = got.Ended
			}
		case <-time.After(10 * time.Millisecond):
			told = a.told(0, held.Ended)
		case <-limit:
			both = true
		}
		if both {
			break
		}
	}
	told := a.told(0, held.Ended)
	o.Granted, o.Told = granted != 0, told != 0
	o.OK = !o.Granted && !o.Told
	if o.Granted && o.Told {
		o.AheadMS = toMS(granted - told)
	}
	return o, nil
}

// pause stops the holder until the lock was granted to another, and lets it go on.
func (s *site) pause(a, b *process) (o Outcome, err error) {
	name := s.name("pause")
	if _, err := a.acquire(0, name, 10*time.Second); err != nil {
		return o, err
	}
	a.signal(syscall.SIGSTOP)
	defer a.signal(syscall.SIGCONT)
	if _, err := b.acquire(0, name, 3*faultLease); err != nil {
		return o, err
	}
	o.Granted = true
	time.Sleep(500 * time.Millisecond)
	c, err := a.send(0, "held")
	if err != nil {
		return o, err
	}
	a.signal(syscall.SIGCONT)
	select {
	case got := <-c:
		o.OK = !got.OK
		return o, nil
	case <-time.After(20 * time.Second):
		return o, errors.New("no answer after SIGCONT")
	}
}
