package lock

import "context"

// A Status is what anyone may know of a lock.
type Status struct {
	Lock      string
	Capacity  int64 // 1 for a lock never seen
	Available int64 // permits that an acquire of that capacity could get
	Fence     int64 // the highest ever granted
	Holders   []Lease
	Waiting   int64
	Now       int64 // the coordinator's clock, Unix milliseconds
}

// Status reads a lock. A holder is listed as long as it bars others: until its expiry plus the skew allowance.
func (c *Coordinator) Status(ctx context.Context, name string) (Status, error) {
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return Status{}, err
	}
	return c.status(name, reply.After), nil
}

func (c *Coordinator) status(name string, r Record) Status {
	now := c.clock().UnixMilli()
	live := r.blocking(now, c.rules.skew())
	s := Status{Lock: name, Capacity: max(r.Capacity, 1), Fence: r.Fence, Waiting: r.Waiting, Now: now}
	s.Available = s.Capacity - permits(live)
	for _, key := range byFence(live) {
		s.Holders = append(s.Holders, live[key])
	}
	return s
}

// A ListRequest asks for a page of statuses.
type ListRequest struct {
	Prefix string
	All    bool // also locks that nobody holds, as long as their rows are kept
	Limit  int
	Cursor string
}

// List reads locks by name prefix. A page may be short, even empty, and still have a next cursor; at the end that is
// empty. A cursor that no list answered is [ErrBadCursor].
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
		list = append(list, c.status(e.Name, e.Record))
	}
	return list, page.Next, nil
}
