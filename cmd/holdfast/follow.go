package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

const (
	followEvery = 2 * time.Second  // between two looks at the histories of locks that have changed
	followFor   = 30 * time.Second // for so long an entry of a change may be late; the stream's consumer writes it
)

// A follower shows what happens to locks by their histories, and where none is kept, by their statuses.
type follower struct {
	s       *streams
	client  *lockclient.Client
	since   time.Time            // by the coordinator's clock
	from    map[string]time.Time // of each lock, the time of the last entry that was shown
	shown   map[string]bool      // entries of that time, by lock, kind and fencing token
	changed map[string]changed   // locks whose entries are still to come
}

type changed struct {
	status lockclient.Status
	late   time.Time // when the entry is given up
}

// look shows the changes of a coordinator whose events go elsewhere.
func (c *eventsCmd) look(ctx context.Context, s *streams, client *lockclient.Client, answered func()) error {
	since := time.Now()
	switch began, err := client.Status(ctx, cmp.Or(c.Prefix, "holdfast")); { // any lock's status has the coordinator's clock
	case err == nil:
		since = began.At
	case !errors.Is(err, lockclient.ErrRefused): // which the list may be allowed to answer
		return err
	}
	f := &follower{s: s, client: client, since: since, from: map[string]time.Time{}, shown: map[string]bool{}, changed: map[string]changed{}}
	type look struct {
		status lockclient.Status
		err    error
	}
	looks := make(chan look)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for status, err := range client.WatchPrefix(ctx, c.Prefix) {
			select {
			case looks <- look{status, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case l := <-looks:
			answered()
			switch err = l.err; {
			case err == nil:
				f.note(l.status)
			case ctx.Err() == nil && !errors.Is(err, lockclient.ErrRefused):
				s.notice("unavailable", "coordinator unreachable, trying: "+why(err), "prefix", c.Prefix, "reason", why(err))
				err = nil
			}
		case <-tick.C:
			err = f.read(ctx)
		case <-ctx.Done():
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
	}
}

// note remembers that a lock has changed. What was held when the follower began is no change.
func (f *follower) note(status lockclient.Status) {
	begun := status.Locked
	for _, h := range status.Holders {
		begun = begun && h.AcquiredAt.Before(f.since)
	}
	if _, known := f.from[status.Lock]; !known {
		f.from[status.Lock] = f.since
		if begun {
			return
		}
	}
	f.changed[status.Lock] = changed{status, time.Now().Add(followFor)}
}

// read shows the entries of the locks that have changed.
func (f *follower) read(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(f.changed)) {
		ch := f.changed[name]
		page, err := f.client.HistoryPage(ctx, name, lockclient.HistoryOptions{From: f.from[name], Oldest: true, Limit: 100})
		switch {
		case errors.Is(err, lockclient.ErrRefused), err == nil && page.Keeping == nil: // not allowed, or not kept
			delete(f.changed, name)
			if err := f.s.result(wireStatus(ch.status), stamp(ch.status.At)+" "+f.s.describe(ch.status)); err != nil {
				return err
			}
			continue
		case err != nil:
			f.s.notice("unavailable", "the history cannot be read, trying: "+why(err), "lock", name, "reason", why(err))
			continue
		}
		last := ch.status.Fence == 0
		for _, e := range page.Entries {
			if err := f.entry(name, e); err != nil {
				return err
			}
			last = e.Fence >= ch.status.Fence && (e.Kind == lockclient.HistoryAcquired) == ch.status.Locked
		}
		if last || time.Now().After(ch.late) {
			delete(f.changed, name)
		}
	}
	return nil
}

// entry shows an entry that was not shown yet.
func (f *follower) entry(name string, e lockclient.HistoryEntry) error {
	key := fmt.Sprint(name, " ", e.Kind, " ", e.Fence)
	if f.shown[key] {
		return nil
	}
	if e.At.After(f.from[name]) {
		maps.DeleteFunc(f.shown, func(old string, _ bool) bool { return len(old) > len(name) && old[:len(name)+1] == name+" " })
		f.from[name] = e.At
	}
	f.shown[key] = true
	return f.s.result(map[string]any{"lock": name, "entry": wireEntry(e)}, entryText(name, e))
}
