package lock

import "context"

// A Status is what every caller may see of a lock.
type Status struct {
	Lock      string
	Capacity  int64 // 1 for a lock that has no record
	Available int64 // permits that are free
	Fence     int64 // the highest fencing token ever granted
	Holders   []Lease
	Waiting   int64
	Freeze    *Freeze // of [Coordinator.Status]: nil if the lock is not frozen. A list leaves it out
	NextGrant int64   // the same: when a rate allows the next grant, in Unix milliseconds; 0: now, or there is no rate
	Now       int64   // the coordinator's clock, Unix milliseconds
}

// Status reads a lock. It lists a lease as long as it keeps others out: until its expiry plus the skew allowance.
func (c *Coordinator) Status(ctx context.Context, name string) (Status, error) {
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return Status{}, err
	}
	rules, err := c.freshRules(ctx)
	if err != nil {
		return Status{}, err
	}
	s, err := c.status(ctx, name, reply.After)
	if reply.After.hold = holdBy(rules, name, c.clock()); reply.After.hold != nil {
		s.Freeze = reply.After.hold.freeze
	}
	if at, _ := reply.After.nextGrant(); at > s.Now {
		s.NextGrant = at
	}
	return s, err
}

func (c *Coordinator) status(ctx context.Context, name string, r Record) (Status, error) {
	r, err := c.withTexts(ctx, name, r)
	if err != nil {
		return Status{}, err
	}
	now := c.clock().UnixMilli()
	live := r.blocking(now, c.rules.skew())
	s := Status{Lock: name, Capacity: max(r.Capacity, 1), Fence: r.Fence, Waiting: r.Waiting, Now: now}
	s.Available = s.Capacity - permits(live)
	for _, key := range byFence(live) {
		s.Holders = append(s.Holders, live[key])
	}
	return s, nil
}

// A Waiting is a waiter as every caller may see it.
type Waiting struct {
	Position  int64 // from 1
	Owner     string
	Principal string
	Permits   int64
	Joined    int64    // Unix milliseconds; 0: not known
	Task      bool     // a task of a state machine waits, not a caller that polls
	Set       []string // the names of the set that the waiter acquires; nil: this lock alone
}

// Queue reads the first limit waiters of a lock, in their order, and leaves out those whose places are no longer kept. It is a read of its own: in the
// meantime the lock may have been granted to the first of them.
func (c *Coordinator) Queue(ctx context.Context, name string, limit int) ([]Waiting, error) {
	places, err := c.store.Waiters(ctx, name, limit)
	if err != nil {
		return nil, err
	}
	now := c.clock().UnixMilli()
	var list []Waiting
	for _, w := range places {
		if w.Until > now {
			list = append(list, Waiting{int64(len(list) + 1), w.Owner, w.Principal, w.Permits, w.Joined, w.Tokens.OfTask(), SetNames(w.Set)})
		}
	}
	return list, nil
}

// A ListRequest asks for a page of statuses.
type ListRequest struct {
	Prefix string
	All    bool // also locks that nobody holds or waits for, as long as their records are kept
	Limit  int
	Cursor string
}

// List reads locks by name prefix. A page may be short or empty and still have a next cursor; on the last page next is
// empty. A cursor that List did not return is [ErrBadCursor].
func (c *Coordinator) List(ctx context.Context, req ListRequest) (list []Status, next string, err error) {
	q := ListQuery{Prefix: req.Prefix, Limit: req.Limit, Cursor: req.Cursor}
	if !req.All {
		q.HeldAfter = c.clock().UnixMilli() - c.rules.skew()
	}
	page, err := c.store.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	for _, e := range page.Entries {
		s, err := c.status(ctx, e.Name, e.Record)
		if err != nil {
			return nil, "", err
		}
		list = append(list, s)
	}
	return list, page.Next, nil
}
