package sim

import (
	"context"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// store is the memory store behind a network that fails. It is a fake of DynamoDB's faults, not of DynamoDB.
type store struct{ w *world }

const (
	maxSlow = 3 * time.Second // how long a request to the store is under way
	maxLate = 9 * time.Second // how late a write lands whose coordinator gave up
)

func (s *store) enter(ctx context.Context) error {
	step(ctx)
	p := processOf(ctx)
	pause := p.between(200*time.Microsecond, 4*time.Millisecond)
	if p.happens(Slow) {
		pause = p.between(10*time.Millisecond, maxSlow)
	}
	if err := s.w.sleep(ctx, pause); err != nil {
		return err
	}
	if p.happens(StoreThrottle) {
		return &lock.StoreError{Kind: lock.ErrThrottled, What: "simulated"}
	}
	if p.happens(StoreLost) && p.chance(0.5) {
		return lost()
	}
	return nil
}

func (s *store) leave(ctx context.Context) error {
	step(ctx)
	if processOf(ctx).happens(StoreLost) {
		return lost()
	}
	return ctx.Err()
}

func lost() error { return &lock.StoreError{Kind: lock.ErrUnavailable, What: "simulated"} }

func (s *store) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	if err := s.enter(ctx); err != nil {
		return lock.Reply{}, err
	}
	if processOf(ctx).happens(StoreLate) {
		return lock.Reply{}, s.late(ctx, func() { _, _ = s.w.memory.Apply(context.Background(), name, c) })
	}
	bare := context.WithoutCancel(ctx)
	reply, err := s.w.memory.Apply(bare, name, c)
	if processOf(ctx).happens(StoreRepeat) {
		reply, err = s.w.memory.Apply(bare, name, c)
	}
	if failed := s.leave(ctx); failed != nil {
		return lock.Reply{}, failed
	}
	return reply, err
}

// ApplyAll applies commands to several records in one step.
func (s *store) ApplyAll(ctx context.Context, parts []lock.Part) (time.Duration, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	apply := func() (time.Duration, error) { return s.w.memory.ApplyAll(context.Background(), parts) }
	if processOf(ctx).happens(StoreLate) {
		return 0, s.late(ctx, func() { _, _ = apply() })
	}
	offset, err := apply()
	if processOf(ctx).happens(StoreRepeat) {
		offset, err = apply()
	}
	if failed := s.leave(ctx); failed != nil {
		return 0, failed
	}
	return offset, err
}

// late writes later than the coordinator waits.
func (s *store) late(ctx context.Context, write func()) error {
	p := processOf(ctx)
	after := p.between(time.Second, maxLate)
	s.w.landed(p.op, s.w.at()+int64(after))
	s.w.spawn(func() {
		time.Sleep(after)
		write()
	})
	if err := s.w.sleep(ctx, p.between(100*time.Millisecond, 2*time.Second)); err != nil {
		return err
	}
	return lost()
}

func read[A any](ctx context.Context, s *store, from func(context.Context) (A, error)) (A, error) {
	var none A
	if err := s.enter(ctx); err != nil {
		return none, err
	}
	answer, err := from(context.WithoutCancel(ctx))
	if failed := s.leave(ctx); failed != nil {
		return none, failed
	}
	return answer, err
}

func (s *store) Get(ctx context.Context, name string) (lock.Reply, error) {
	return read(ctx, s, func(ctx context.Context) (lock.Reply, error) { return s.w.memory.Get(ctx, name) })
}

func (s *store) Waiters(ctx context.Context, name string, limit int) ([]lock.Waiter, error) {
	return read(ctx, s, func(ctx context.Context) ([]lock.Waiter, error) { return s.w.memory.Waiters(ctx, name, limit) })
}

func (s *store) Place(ctx context.Context, name string, key lock.LeaseKey) (lock.Waiter, error) {
	return read(ctx, s, func(ctx context.Context) (lock.Waiter, error) { return s.w.memory.Place(ctx, name, key) })
}

// Poll reads the two items at different times, as DynamoDB may.
func (s *store) Poll(ctx context.Context, name string, ticket int64) (lock.Reply, lock.Waiter, error) {
	var waiter lock.Waiter
	reply, err := read(ctx, s, func(ctx context.Context) (lock.Reply, error) {
		reply, w, err := s.w.memory.Poll(ctx, name, ticket)
		waiter = w
		if p := processOf(ctx); err == nil && p.happens(Slow) {
			time.Sleep(p.between(time.Millisecond, 20*time.Millisecond))
			if p.chance(0.5) {
				return s.w.memory.Get(ctx, name)
			}
			_, waiter, err = s.w.memory.Poll(ctx, name, ticket)
		}
		return reply, err
	})
	return reply, waiter, err
}

// Read reads each record at a time of its own, as DynamoDB may.
func (s *store) Read(ctx context.Context, list []lock.Ask) ([]lock.Seen, time.Duration, error) {
	all, err := read(ctx, s, func(ctx context.Context) (all []lock.Seen, _ error) {
		for i := range list {
			if p := processOf(ctx); p.happens(Slow) {
				time.Sleep(p.between(time.Millisecond, 20*time.Millisecond))
			}
			one, _, err := s.w.memory.Read(ctx, list[i:i+1])
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	})
	return all, 0, err
}

func (s *store) List(ctx context.Context, q lock.ListQuery) (lock.Page, error) {
	return read(ctx, s, func(ctx context.Context) (lock.Page, error) { return s.w.memory.List(ctx, q) })
}

func (s *store) Texts(ctx context.Context, name string, fences []int64) (map[int64]lock.Texts, error) {
	return s.w.memory.Texts(ctx, name, fences)
}

func (s *store) Bound(ctx context.Context, execution string) ([]lock.Binding, error) {
	return read(ctx, s, func(ctx context.Context) ([]lock.Binding, error) { return s.w.memory.Bound(ctx, execution) })
}

func (s *store) Unbind(ctx context.Context, execution string, list []lock.Binding) error {
	return s.w.memory.Unbind(ctx, execution, list)
}

func (s *store) PutHistory(ctx context.Context, name string, entries []lock.HistoryEntry, keep time.Duration) error {
	return s.w.memory.PutHistory(ctx, name, entries, keep)
}

func (s *store) History(ctx context.Context, q lock.HistoryQuery) ([]lock.HistoryEntry, bool, error) {
	return s.w.memory.History(ctx, q)
}

func (s *store) PrefixRules(ctx context.Context) ([]lock.PrefixRule, error) {
	p := processOf(ctx)
	rules, err := read(ctx, s, s.w.memory.PrefixRules)
	if err == nil && s.w.isOut(p, NoRules) || p.happens(NoRules) {
		err = &lock.StoreError{Kind: lock.ErrThrottled, What: "simulated"}
	}
	if err != nil {
		s.w.unread(p.op)
		return nil, err
	}
	return rules, nil
}

// PutPrefixRule stores a rule. Its write may land late, as that of a lock.
func (s *store) PutPrefixRule(ctx context.Context, rule lock.PrefixRule) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	put := func() error { return s.w.memory.PutPrefixRule(context.Background(), rule) }
	if processOf(ctx).happens(StoreLate) {
		return s.late(ctx, func() { _ = put() })
	}
	err := put()
	if processOf(ctx).happens(StoreRepeat) {
		err = put()
	}
	if failed := s.leave(ctx); failed != nil {
		return failed
	}
	return err
}
