package lock

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// kit is a coordinator with its own store and a clock that only the test moves.
type kit struct {
	*Coordinator
	t     *testing.T
	store *faultyStore
	time  time.Time
	timed []int64 // the fencing tokens of the leases that have timers, without a listener
}

// faultyStore is a reference store whose replies can be lost, and can prove a wrong clock.
type faultyStore struct {
	Memory
	applied []Command
	reads   int
	polls   int
	places  int                                     // how often a place was looked for
	sets    int                                     // requests about several locks at once, which requests does not count
	polled  func()                                  // called after each poll
	read    func()                                  // called once, when something was read and before it arrives
	limits  []int                                   // of the queue, as it was asked for
	offset  time.Duration                           // that replies prove
	before  func(c Command) error                   // an error: the command does not reach the record
	after   func(c Command) error                   // an error: it did, and its reply is lost
	unbound map[string][]Binding                    // what was forgotten
	list    func(q ListQuery) (Page, error)         // nil: the reference store's
	queue   func(list []Waiter, limit int) []Waiter // nil: what is stored

	ruleReads int                // how often the prefix rules were read; requests does not count them
	noRules   error              // they cannot be read
	ruleRead  func()             // called while they are read
	putting   func()             // called before a rule is stored
	put       func() (lost bool) // called after a rule was stored; true: the reply is lost
}

func (s *faultyStore) Get(ctx context.Context, name string) (Reply, error) {
	s.reads++
	reply, err := s.Memory.Get(ctx, name)
	reply.Offset = s.offset
	s.arrives()
	return reply, err
}

func (s *faultyStore) arrives() {
	if read := s.read; read != nil {
		s.read = nil
		read()
	}
}

func (s *faultyStore) Apply(ctx context.Context, name string, c Command) (Reply, error) {
	s.applied = append(s.applied, c)
	if s.before != nil {
		if err := s.before(c); err != nil {
			return Reply{}, err
		}
	}
	reply, err := s.Memory.Apply(ctx, name, c)
	if failed, ok := errors.AsType[*GuardError](err); ok {
		failed.Offset = s.offset
		s.arrives()
	}
	reply.Offset = s.offset
	if err == nil && s.after != nil {
		if err := s.after(c); err != nil {
			return Reply{}, err
		}
	}
	return reply, err
}

func (s *faultyStore) ApplyAll(ctx context.Context, parts []Part) (time.Duration, error) {
	s.sets++
	offset, err := s.Memory.ApplyAll(ctx, parts)
	if err == nil && s.after != nil {
		err = s.after(parts[0].Command)
	}
	return offset, err
}

func (s *faultyStore) Read(ctx context.Context, list []Ask) ([]Seen, time.Duration, error) {
	s.sets++
	seen, offset, err := s.Memory.Read(ctx, list)
	s.arrives()
	return seen, offset, err
}

func (s *faultyStore) Waiters(ctx context.Context, name string, limit int) ([]Waiter, error) {
	s.limits = append(s.limits, limit)
	list, err := s.Memory.Waiters(ctx, name, limit)
	if s.queue != nil {
		list = s.queue(list, limit)
	}
	return list, err
}

func (s *faultyStore) Place(ctx context.Context, name string, key LeaseKey) (Waiter, error) {
	s.places++
	return s.Memory.Place(ctx, name, key)
}

func (s *faultyStore) Poll(ctx context.Context, name string, ticket int64) (Reply, Waiter, error) {
	s.polls++
	reply, w, err := s.Memory.Poll(ctx, name, ticket)
	reply.Offset = s.offset
	s.arrives()
	if s.polled != nil {
		s.polled()
	}
	return reply, w, err
}

func (s *faultyStore) PrefixRules(ctx context.Context) ([]PrefixRule, error) {
	s.ruleReads++
	list, err := s.Memory.PrefixRules(ctx)
	if s.ruleRead != nil {
		s.ruleRead()
	}
	if s.noRules != nil {
		return nil, s.noRules
	}
	return list, err
}

func (s *faultyStore) PutPrefixRule(ctx context.Context, rule PrefixRule) error {
	if s.putting != nil {
		s.putting()
	}
	err := s.Memory.PutPrefixRule(ctx, rule)
	if err == nil && s.put != nil && s.put() {
		return &StoreError{Kind: ErrUnavailable, What: "the reply is lost"}
	}
	return err
}

// reset forgets what was counted, and counts the requests to the store.
func (s *faultyStore) reset() {
	s.applied, s.limits, s.reads, s.polls, s.places, s.sets = nil, nil, 0, 0, 0, 0
}

func (s *faultyStore) requests() int {
	return len(s.applied) + len(s.limits) + s.reads + s.polls + s.places
}

func (s *faultyStore) Unbind(_ context.Context, execution string, list []Binding) error {
	s.unbound[execution] = append(s.unbound[execution], list...)
	return nil
}

func (s *faultyStore) List(ctx context.Context, q ListQuery) (Page, error) {
	if s.list != nil {
		return s.list(q)
	}
	return s.Memory.List(ctx, q)
}

func newKit(t *testing.T) *kit {
	k := &kit{t: t, store: &faultyStore{unbound: map[string][]Binding{}}, time: time.Unix(1_800_000_000, 0)}
	c, err := New(Config{Store: k.store, Clock: func() time.Time { return k.time }})
	if err != nil {
		t.Fatal(err)
	}
	k.Coordinator = c
	k.store.Changed = func(_ string, before, after Record) {
		w := Write{Before: before, After: after}
		if text := lostByFilters(w); text != "" {
			t.Error(text)
		}
		k.checkTimers(w)
	}
	return k
}

const (
	lockName = "a"
	ttl      = time.Minute
	skew     = DefaultSkew
	ms       = time.Millisecond
)

func (k *kit) pass(d time.Duration) { k.time = k.time.Add(d) }

func (k *kit) acquire(secret string, change ...func(*AcquireRequest)) (LeaseStatus, error) {
	req := AcquireRequest{Lock: lockName, Secret: secret, Owner: secret, Principal: "p", TTL: ttl, Capacity: 1, Permits: 1}
	for _, c := range change {
		c(&req)
	}
	return k.Acquire(k.t.Context(), req)
}

func (k *kit) must(secret string, change ...func(*AcquireRequest)) LeaseStatus {
	k.t.Helper()
	l, err := k.acquire(secret, change...)
	if err != nil {
		k.t.Fatalf("acquire of %s: %v", secret, err)
	}
	return l
}

func (k *kit) waits(secret string, change ...func(*AcquireRequest)) int64 {
	k.t.Helper()
	_, err := k.acquire(secret, append([]func(*AcquireRequest){func(r *AcquireRequest) { r.Wait = time.Hour }}, change...)...)
	if err == nil {
		return 0
	}
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		k.t.Fatalf("acquire of %s: %v", secret, err)
	}
	return held.Position
}

func (k *kit) release(secret string) error {
	_, err := k.Release(k.t.Context(), ReleaseRequest{Lock: lockName, Secret: secret, Principal: "p"})
	return err
}

func (k *kit) renew(secret string, ttl time.Duration) (LeaseStatus, error) {
	return k.Renew(k.t.Context(), RenewRequest{Lock: lockName, Secret: secret, TTL: ttl})
}

func (k *kit) fire(secret string, fence int64) (time.Time, error) {
	return k.Expire(k.t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, secret), Fence: fence})
}

func (k *kit) record() Record {
	k.t.Helper()
	return k.store.records[lockName]
}

func (k *kit) holder(secret string) Lease { return k.record().Holders[KeyOf(lockName, secret)] }

// holds checks the holders and the waiters, in order.
func (k *kit) holds(holders, waiters []string) {
	k.t.Helper()
	r := k.record()
	var got, queue []string
	for _, key := range byFence(r.Holders) {
		got = append(got, r.Holders[key].Owner)
	}
	for _, w := range r.Queue {
		queue = append(queue, w.Owner)
	}
	if !slices.Equal(got, holders) || !slices.Equal(queue, waiters) || r.Waiting != int64(len(waiters)) {
		k.t.Errorf("%v hold and %v wait (%d), want %v and %v", got, queue, r.Waiting, holders, waiters)
	}
}

func (k *kit) want(err, want error) {
	k.t.Helper()
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		k.t.Errorf("error %v, want %v", err, want)
	}
}

func of(capacity, permits int64) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Capacity, r.Permits = capacity, permits }
}

func boundTo(execution string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Execution = execution }
}

func lasting(d time.Duration) func(*AcquireRequest) { return func(r *AcquireRequest) { r.TTL = d } }

func placeFor(d time.Duration) func(*AcquireRequest) { return func(r *AcquireRequest) { r.Wait = d } }

func withToken(token string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Token, r.Wait = task(token), time.Hour }
}

// task is the token of a Step Functions task.
func task(text string) Token { return Token{Kind: TaskToken, Text: text} }

// waits is the index of a lease's place in the queue; -1: none.
func (r Record) waits(key LeaseKey) int {
	return slices.IndexFunc(r.Queue, func(w Waiter) bool { return w.Key == key })
}
