package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A process of clients: it has a lockclient.Client, and callers that use it. When it crashes, another one starts.
type clientProcess struct {
	w     *world
	*dice // not of its callers
	id    int
	lives int

	client *lockclient.Client
	link   *link
	ending chan struct{} // closed when the process crashes or closes its client
	end    func(crash bool)
}

// run runs one process after another until the run is over.
func (c *clientProcess) run() {
	for !c.w.over() {
		c.lives++
		c.start()
		var callers sync.WaitGroup
		for i := range c.w.p.Sessions {
			own := &caller{c, c.w.dice("caller", int64(c.id), int64(c.lives), int64(i))}
			callers.Go(func() {
				for !c.w.over() && c.alive() {
					own.session()
				}
			})
		}
		callers.Wait()
		c.close()
	}
}

func (c *clientProcess) start() {
	c.link = &link{w: c.w, client: fmt.Sprintf("client-%d.%d", c.id, c.lives)}
	cfg := lockclient.Config{
		Transport: c.link, Owner: c.link.client, RequestTimeout: c.between(900*time.Millisecond, 5*time.Second),
		RetryDelay: c.between(100*time.Millisecond, 2*time.Second),
	}
	client, err := lockclient.New(cfg)
	if err != nil {
		panic(err) // the configuration is valid
	}
	c.client, c.ending = client, make(chan struct{})
	link, ending := c.link, c.ending
	c.end = func(crash bool) {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		select {
		case <-ending:
		default:
			link.dead = crash
			close(ending)
		}
	}
}

// alive reports whether the process goes on.
func (c *clientProcess) alive() bool {
	select {
	case <-c.ending:
		return false
	default:
		return true
	}
}

// close closes the client, unless the process crashed: its leases then expire.
func (c *clientProcess) close() {
	if c.link.isDead() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	_ = c.client.Close(ctx) // leases that it cannot release expire
}

// sleepThroughNight waits until the morning if it is night. The night begins when half of the requests were sent.
func (w *world) sleepThroughNight(d *dice) {
	w.mu.Lock()
	begins := w.night.IsZero() && w.requests > w.p.Ops/2 && w.rates[Night] > 0
	w.mu.Unlock()
	if begins && d.happens(Night) {
		morning := time.Now().Add(d.between(27*time.Hour, 28*time.Hour))
		w.mu.Lock()
		w.night = morning
		w.mu.Unlock()
		purge := d.between(25*time.Hour, 26*time.Hour)
		w.spawn(func() { // native TTL
			time.Sleep(purge)
			w.memory.Purge(time.Now())
		})
	}
	w.mu.Lock()
	rest := time.Until(w.night)
	w.mu.Unlock()
	if rest > 0 {
		time.Sleep(rest + d.between(time.Millisecond, time.Minute))
	}
}

// A caller is a goroutine that uses the client of its process.
type caller struct {
	*clientProcess
	own *dice
}

// session is one caller that takes a lock, or several at once, works and releases it.
func (c *caller) session() {
	w := c.w
	w.sleepThroughNight(c.own)
	time.Sleep(c.own.between(time.Millisecond, 2*time.Second))
	targets := []*target{w.locks[c.own.intn(len(w.locks))]}
	if c.own.happens(Sets) {
		targets = c.w.several(c.own)
	}
	opts := lockclient.Options{TTL: targets[0].ttl + time.Duration(c.own.intn(2000))*time.Millisecond, ManualRenew: c.own.chance(0.2)}
	opts.Heartbeat = opts.TTL/3 + c.own.between(0, 20*time.Millisecond)
	var wants []lockclient.Want
	for _, t := range targets {
		want := lockclient.Want{Lock: t.name, Capacity: t.capacity, Permits: 1 + c.own.intn(t.capacity)}
		mode := lockclient.Mode("")
		if t.modes {
			if mode, want.Permits = lockclient.ModeRead, 1; c.own.chance(0.5) {
				mode, want.Permits = lockclient.ModeWrite, t.capacity
			}
		}
		if c.own.happens(Capacities) {
			mode = ""
			want.Capacity = 1 + c.own.intn(4)
			want.Permits = 1 + c.own.intn(want.Capacity)
		}
		wants = append(wants, want)
		if len(targets) == 1 {
			opts.Mode = mode
		}
	}
	lease, err := c.acquire(wants, opts)
	if err != nil || !c.alive() {
		return
	}
	c.hold(targets, wants, opts, lease)
}

// several are some of the locks, in any order; all, if there are less than three.
func (w *world) several(d *dice) (list []*target) {
	order := d.rng.Perm(len(w.locks))
	for _, i := range order[:min(len(order), 2+d.intn(2))] {
		list = append(list, w.locks[i])
	}
	return list
}

func (c *caller) acquire(wants []lockclient.Want, opts lockclient.Options) (*lockclient.Lease, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ending := c.ending
	go func() { // a process that ends waits for nothing
		select {
		case <-ending:
			cancel()
		case <-ctx.Done():
		}
	}()
	acquire, acquireAll := c.client.Acquire, c.client.AcquireAll
	if c.own.chance(0.25) {
		acquire, acquireAll = c.client.TryAcquire, c.client.TryAcquireAll
	} else {
		opts.Wait = c.own.between(2*time.Second, 90*time.Second)
		if c.own.happens(Cancel) {
			defer time.AfterFunc(c.own.between(time.Millisecond, 10*time.Second), cancel).Stop()
		}
	}
	if len(wants) > 1 {
		return acquireAll(ctx, wants, opts)
	}
	if opts.Mode == "" {
		opts.Capacity, opts.Permits = wants[0].Capacity, wants[0].Permits
	}
	return acquire(ctx, wants[0].Lock, opts)
}

// hold works under a lease for a while, and then releases it, crashes, or loses it before.
func (c *caller) hold(targets []*target, wants []lockclient.Want, opts lockclient.Options, lease *lockclient.Lease) {
	w, ttl := c.w, opts.TTL
	w.mu.Lock()
	name := w.nameOf(c.link.client, lease.Secret())
	w.mu.Unlock()
	fences := lease.Fences()
	var beliefs []history.Belief
	for _, want := range wants {
		beliefs = append(beliefs, history.Belief{
			Client: c.link.client, Lease: name, Lock: want.Lock, Fence: fences[want.Lock], Permits: int64(want.Permits), Capacity: int64(want.Capacity), From: w.at(),
		})
	}
	work := c.own.between(time.Millisecond, ttl/2)
	if c.own.chance(0.2) {
		work = c.own.between(ttl, 3*ttl)
	}
	crash := c.own.happens(ClientCrash)
	if opts.Mode == lockclient.ModeWrite && c.own.happens(Modes) {
		c.pause(c.own.between(0, work), lease)
		beliefs = c.downgrade(lease, beliefs)
	}
	if opts.ManualRenew && c.own.chance(0.5) {
		c.pause(c.own.between(0, ttl), lease)
		c.renew(lease)
	}
	c.pause(work, lease)
	for _, t := range targets {
		if lease.Err() == nil && t.capacity == 1 && c.alive() {
			c.write(t, fences[t.name])
		}
	}
	w.endBeliefs(beliefs)
	switch {
	case crash: // or the process closes its client, which releases the leases of all its callers
		c.end(c.own.chance(0.5))
		c.close()
	case c.alive():
		ctx, cancel := context.WithTimeout(context.Background(), c.own.between(500*time.Millisecond, 8*time.Second))
		defer cancel()
		_ = lease.Release(ctx) // the history has what the coordinator answered
	}
}

// renew renews a lease by hand.
func (c *caller) renew(lease *lockclient.Lease) {
	if lease.Err() != nil || !c.alive() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.own.between(500*time.Millisecond, 8*time.Second))
	defer cancel()
	_ = lease.Renew(ctx) // the history has what the coordinator answered
}

// pause works for a while, or until the lease or the process ends.
func (c *caller) pause(work time.Duration, lease *lockclient.Lease) {
	timer := time.NewTimer(work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-lease.Context().Done():
	case <-c.ending:
	}
}

// endBeliefs records beliefs that end now.
func (w *world) endBeliefs(list []history.Belief) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range list {
		b.Until = w.at()
		w.h.Beliefs = append(w.h.Beliefs, b)
	}
}

// downgrade makes a reader of a writer. From the beginning of the request on, the caller believes in one permit only.
func (c *caller) downgrade(lease *lockclient.Lease, beliefs []history.Belief) []history.Belief {
	if lease.Err() != nil || !c.alive() {
		return beliefs
	}
	c.w.endBeliefs(beliefs)
	for i := range beliefs {
		beliefs[i].Permits, beliefs[i].From = 1, c.w.at()
	}
	ctx, cancel := context.WithTimeout(lease.Context(), c.own.between(500*time.Millisecond, 8*time.Second))
	defer cancel()
	_ = lease.Downgrade(ctx) // the history has what the coordinator answered
	return beliefs
}

// write writes to the resource that compares fencing tokens, at once, or after the process was paused.
func (c *caller) write(t *target, fence int64) {
	w := c.w
	name := c.link.client
	if c.own.happens(Pause) {
		pause := c.own.between(time.Second, 2*t.ttl)
		w.spawn(func() {
			time.Sleep(pause)
			w.guarded(name, t, fence)
		})
		return
	}
	w.guarded(name, t, fence)
}

// guarded is the resource.
func (w *world) guarded(client string, t *target, fence int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ok := fence >= w.tops[t.name]
	if ok {
		w.tops[t.name] = fence
	}
	w.h.Guarded = append(w.h.Guarded, history.Guarded{Client: client, Lock: t.name, Fence: fence, At: w.at(), OK: ok})
}

// operate is an operator who ends leases now and then.
func (w *world) operate() {
	d := w.dice("operator")
	l := &link{w: w, client: "operator"}
	client, err := lockclient.New(lockclient.Config{Transport: l, Owner: "operator", RetryDelay: 700*time.Millisecond + d.between(0, time.Millisecond)})
	if err != nil {
		panic(err) // the configuration is valid
	}
	for !w.over() {
		w.sleepThroughNight(d)
		time.Sleep(d.between(time.Second, 80*time.Second))
		t := w.locks[d.intn(len(w.locks))]
		fence := int64(0)
		if d.chance(0.5) {
			if reply, err := w.memory.Get(context.Background(), t.name); err == nil {
				fence = reply.After.Fence
			}
		}
		if w.over() || !d.happens(Force) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), d.between(3*time.Second, 9*time.Second))
		_, _ = client.ForceRelease(ctx, t.name, "simulated", fence) // the history has what the coordinator answered
		cancel()
	}
	_ = client.Close(context.Background()) // it holds nothing
}

// moveClocks lets the coordinators' clocks step, within Params.ClockError of the true time.
func (w *world) moveClocks() {
	d := w.dice("clocks")
	all := append(slices.Clone(w.fronts), w.back)
	for _, f := range all {
		w.setClock(d, f)
	}
	for {
		time.Sleep(d.between(time.Second, 30*time.Second))
		w.setClock(d, all[d.intn(len(all))])
		if w.over() {
			return
		}
	}
}

func (w *world) setClock(d *dice, f *front) {
	if !d.happens(Clocks) {
		return
	}
	offset := d.between(-w.p.ClockError, w.p.ClockError)
	switch d.intn(4) { // the ends are what matters
	case 0:
		offset = w.p.ClockError
	case 1:
		offset = -w.p.ClockError
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f.offset = offset
}
