// Command godriver is the driver of the Go client, for the behaviour suite of the clients: see clients/suite/README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-lock/holdfast/lockclient"
)

func main() {
	d := &driver{clients: map[string]*lockclient.Client{}, leases: map[string]*lockclient.Lease{}, running: map[int]context.CancelFunc{}, leave: map[string]chan struct{}{}}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintln(os.Stderr, "godriver:", err)
			os.Exit(1)
		}
		ctx, cancel := context.WithCancel(context.Background())
		d.mu.Lock()
		d.running[c.ID] = cancel
		d.mu.Unlock()
		go func() {
			defer cancel()
			ok, err := d.do(ctx, c)
			if err != nil {
				d.write(map[string]any{"id": c.ID, "error": describe(err, c)})
				return
			}
			if ok == nil {
				ok = map[string]any{}
			}
			d.write(map[string]any{"id": c.ID, "ok": ok})
		}()
	}
}

// A command has the members of all commands.
type command struct {
	ID       int            `json:"id"`
	Do       string         `json:"do"`
	Client   string         `json:"client"`
	Lease    string         `json:"lease"`
	Lock     string         `json:"lock"`
	Endpoint string         `json:"endpoint"`
	Timeout  int            `json:"request_timeout_ms"`
	Retries  *int           `json:"retries"`
	Delay    int            `json:"retry_delay_ms"`
	Owner    string         `json:"owner"`
	Try      bool           `json:"try"`
	TTL      int            `json:"ttl_ms"`
	Wait     int            `json:"wait_ms"`
	Beat     int            `json:"heartbeat_ms"`
	Manual   bool           `json:"manual_renew"`
	MinHold  int            `json:"min_hold_ms"`
	Metadata map[string]any `json:"metadata"`
	Capacity int            `json:"capacity"`
	Permits  int            `json:"permits"`
	Mode     string         `json:"mode"`
	Target   int            `json:"target"`
	Body     string         `json:"body"`
	Secret   string         `json:"secret"`
	Fence    int64          `json:"fence"`
	Reason   string         `json:"reason"`
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

var (
	errBody        = errors.New("body failed")
	errUnsupported = errors.New("a Go program cannot shift its own wall clock")
)

// A driver has the clients and leases by the names that the suite gave them.
type driver struct {
	mu      sync.Mutex
	clients map[string]*lockclient.Client
	leases  map[string]*lockclient.Lease
	running map[int]context.CancelFunc
	leave   map[string]chan struct{}
	out     sync.Mutex
}

func (d *driver) write(line map[string]any) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	d.out.Lock()
	defer d.out.Unlock()
	_, _ = os.Stdout.Write(append(text, '\n'))
}

func (d *driver) client(name string) *lockclient.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients[name]
}

func (d *driver) lease(name string) *lockclient.Lease {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[name]
}

func (d *driver) do(ctx context.Context, c command) (map[string]any, error) {
	switch c.Do {
	case "open":
		return nil, d.open(c)
	case "acquire":
		return d.acquire(ctx, c)
	case "adopt":
		l, err := d.client(c.Client).Adopt(ctx, c.Lock, c.Secret, d.options(c))
		return d.keep(c, l, err)
	case "scoped":
		return nil, d.scoped(ctx, c)
	case "leave":
		close(d.leaving(c.Lease))
	case "cancel":
		d.mu.Lock()
		d.running[c.Target]()
		d.mu.Unlock()
	case "renew":
		return d.renew(ctx, c)
	case "release":
		return nil, d.lease(c.Lease).Release(ctx)
	case "state":
		l := d.lease(c.Lease)
		now := monotonic()
		return map[string]any{"held": l.Err() == nil, "remaining_ms": l.Remaining().Seconds() * 1e3, "deadline_ms": deadline(l, now), "fence": l.Fence()}, nil
	case "secret":
		return map[string]any{"secret": d.lease(c.Lease).Secret()}, nil
	case "status":
		return status(d.client(c.Client).Status(ctx, c.Lock))
	case "force_release":
		_, err := d.client(c.Client).ForceRelease(ctx, c.Lock, c.Reason, c.Fence)
		return nil, err
	case "clock":
		return nil, errUnsupported
	case "close":
		return nil, d.client(c.Client).Close(ctx)
	default:
		return nil, fmt.Errorf("there is no command %q", c.Do)
	}
	return nil, nil
}

func (d *driver) open(c command) error {
	retries := 0
	if c.Retries != nil {
		if retries = *c.Retries; retries == 0 {
			retries = -1
		}
	}
	client, err := lockclient.New(lockclient.Config{Endpoint: c.Endpoint, RequestTimeout: ms(c.Timeout), Retries: retries, RetryDelay: ms(c.Delay), Owner: c.Owner})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clients[c.Client] = client
	return nil
}

func (d *driver) options(c command) lockclient.Options {
	o := lockclient.Options{
		TTL: ms(c.TTL), Wait: ms(c.Wait), Heartbeat: ms(c.Beat), ManualRenew: c.Manual, MinHold: ms(c.MinHold),
		Capacity: c.Capacity, Permits: c.Permits, Mode: lockclient.Mode(c.Mode),
		OnWait: func(held *lockclient.HeldError) {
			d.write(map[string]any{"event": "waiting", "id": c.ID, "position": held.Position, "holders": holders(held)})
		},
	}
	if c.Metadata != nil {
		o.Metadata = c.Metadata
	}
	return o
}

func (d *driver) acquire(ctx context.Context, c command) (map[string]any, error) {
	acquire := d.client(c.Client).Acquire
	if c.Try {
		acquire = d.client(c.Client).TryAcquire
	}
	l, err := acquire(ctx, c.Lock, d.options(c))
	return d.keep(c, l, err)
}

// keep stores a lease, and reports its loss.
func (d *driver) keep(c command, l *lockclient.Lease, err error) (map[string]any, error) {
	if err != nil {
		return nil, err
	}
	d.add(c, l)
	now := monotonic()
	return map[string]any{"fence": l.Fence(), "waited_ms": l.Waited().Milliseconds(), "deadline_ms": deadline(l, now)}, nil
}

func (d *driver) add(c command, l *lockclient.Lease) {
	d.mu.Lock()
	d.leases[c.Lease] = l
	d.mu.Unlock()
	go func() {
		<-l.Context().Done()
		if cause := context.Cause(l.Context()); !errors.Is(cause, lockclient.ErrReleased) {
			d.write(map[string]any{"event": "lost", "lease": c.Lease, "error": describe(cause, command{})})
		}
	}()
}

// deadline is the end of a lease's proof on CLOCK_MONOTONIC. now was read before.
func deadline(l *lockclient.Lease, now float64) float64 { return now + l.Remaining().Seconds()*1e3 }

func monotonic() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return float64(t.Nano()) / 1e6
}

func (d *driver) renew(ctx context.Context, c command) (map[string]any, error) {
	l := d.lease(c.Lease)
	var err error
	if c.Metadata != nil {
		err = l.SetMetadata(ctx, c.Metadata)
	} else {
		err = l.Renew(ctx)
	}
	if err != nil {
		return nil, err
	}
	now := monotonic()
	return map[string]any{"deadline_ms": deadline(l, now)}, nil
}

func (d *driver) leaving(lease string) chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leave[lease] == nil {
		d.leave[lease] = make(chan struct{})
	}
	return d.leave[lease]
}

func (d *driver) scoped(ctx context.Context, c command) error {
	return d.client(c.Client).Do(ctx, c.Lock, d.options(c), func(ctx context.Context, l *lockclient.Lease) error {
		d.add(c, l)
		d.write(map[string]any{"event": "entered", "lease": c.Lease, "fence": l.Fence()})
		switch c.Body {
		case "raise":
			return errBody
		case "wait":
			select {
			case <-d.leaving(c.Lease):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
}

func status(s lockclient.Status, err error) (map[string]any, error) {
	if err != nil {
		return nil, err
	}
	list := []map[string]any{}
	for _, h := range s.Holders {
		list = append(list, map[string]any{"owner": h.Owner, "fence": h.Fence, "metadata": h.Metadata})
	}
	return map[string]any{"locked": s.Locked, "holders": list, "waiting": s.Waiting}, nil
}

func holders(held *lockclient.HeldError) []map[string]any {
	list := []map[string]any{}
	for _, h := range held.Holders {
		list = append(list, map[string]any{"owner": h.Owner, "fence": h.Fence})
	}
	return list
}

// kinds are the names of the errors in the protocol.
var kinds = []struct {
	name string
	err  error
}{
	{"acquire", lockclient.ErrAcquire}, {"renew", lockclient.ErrRenew}, {"release", lockclient.ErrRelease},
	{"force_release", lockclient.ErrForceRelease}, {"status", lockclient.ErrStatus},
	{"held", lockclient.ErrHeld}, {"frozen", lockclient.ErrFrozen}, {"limit", lockclient.ErrLimit}, {"lost", lockclient.ErrLost},
	{"unavailable", lockclient.ErrUnavailable}, {"refused", lockclient.ErrRefused}, {"closed", lockclient.ErrClosed},
	{"cancelled", context.Canceled}, {"body", errBody}, {"unsupported", errUnsupported},
}

// describe returns an error in the form of the protocol. c is the command that failed.
func describe(err error, c command) map[string]any {
	out := map[string]any{"text": err.Error()}
	names := []string{}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			names = append(names, k.name)
		}
	}
	if held, ok := errors.AsType[*lockclient.HeldError](err); ok {
		out["holders"], out["position"], out["retry_after_ms"] = holders(held), held.Position, held.RetryAfter.Milliseconds()
		if c.Wait > 0 && !c.Try && !errors.Is(err, context.Canceled) { // Options.Wait has ended
			names = append(names, "timeout")
		}
	}
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); ok {
		out["field"], out["code"] = refused.Field, refused.Code
	}
	out["kinds"] = names
	return out
}
