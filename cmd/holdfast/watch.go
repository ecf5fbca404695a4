package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type watchCmd struct {
	Name string `arg:"" optional:"" predictor:"lock" help:"The lock's name; or how the names of several begin, with a : or * at its end; by default all locks."`
}

// Run shows each lock at first and after each change, until it is interrupted.
func (c *watchCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	answered := s.slow("watch")
	defer answered()
	for status, err := range c.statuses(ctx, client) {
		answered()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, lockclient.ErrRefused):
			return err
		case err != nil:
			s.notice("unavailable", "coordinator unreachable, trying: "+why(err), "lock", c.Name, "reason", why(err))
		default:
			line := stamp(status.At) + " " + s.describe(status)
			if err := s.result(wireStatus(status), line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *watchCmd) statuses(ctx context.Context, client *lockclient.Client) iter.Seq2[lockclient.Status, error] {
	prefix, isPrefix := strings.CutSuffix(c.Name, lock.AllLocks)
	if isPrefix || c.Name == "" || strings.HasSuffix(c.Name, ":") {
		return client.WatchPrefix(ctx, prefix)
	}
	return client.Watch(ctx, c.Name)
}

type eventsCmd struct {
	Prefix string `arg:"" optional:"" predictor:"lock" help:"How the names of the locks begin; by default all locks."`
}

// Help is shown with events' flags.
func (c *eventsCmd) Help() string {
	return `Shows each grant and each end of a lease from now on, until it is interrupted. A local coordinator (holdfast dev) sends its events as they happen. Of a
deployed one, the command reads the history of the locks that have changed, where a rule keeps it (holdfast keep-history), and else tells what it
sees: grants and ends between two looks are then missing. Subscribers that must miss nothing use the events on EventBridge.`
}

// Run shows events.
func (c *eventsCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	answered := s.slow("events")
	defer answered()
	if u, err := url.Parse(conn.Endpoint); err == nil && isLoopback(u.Hostname()) {
		if err := c.live(ctx, s, conn, answered); !errors.Is(err, errNoEvents) {
			return err
		}
	}
	s.notice("looking", "this coordinator sends its events to EventBridge; looking for changes instead", "prefix", c.Prefix)
	return c.look(ctx, s, client, answered)
}

// live reads the events that a local coordinator sends, and connects again when the connection ends.
func (c *eventsCmd) live(ctx context.Context, s *streams, conn *connection, answered func()) error {
	connected := false
	for {
		var shown error // why an event could not be shown
		err := readStream(ctx, conn.streamClient(), conn.Endpoint, c.Prefix, func() { answered(); connected = true }, func(line string) error {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				shown = c.show(s, []byte(data))
			}
			return shown
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted, which is how it ends
		}
		if shown != nil || errors.Is(err, errNoEvents) || !connected {
			return err
		}
		s.notice("unavailable", "the stream of events ended; connecting again. Events meanwhile are not shown", "reason", why(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// show writes an event in EventBridge's form.
func (c *eventsCmd) show(s *streams, data []byte) error {
	var envelope struct {
		Type   string          `json:"detail-type"`
		Detail json.RawMessage `json:"detail"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return fmt.Errorf("the coordinator sent an event that is no JSON: %w", err)
	}
	decoded, err := events.Decode(envelope.Type, envelope.Detail)
	if _, unknown := errors.AsType[*events.UnknownTypeError](err); unknown {
		s.notice("unknown", fmt.Sprintf("an event of the type %q, which this version does not know", envelope.Type))
		return nil
	}
	if err != nil {
		return err
	}
	return s.result(json.RawMessage(data), eventText(decoded))
}

// eventText is an event in words.
func eventText(e events.Event) string {
	l := e.Subject()
	entry := lockclient.HistoryEntry{Fence: l.Fence, Owner: l.Owner, Principal: l.Principal, Permits: int(l.Permits), Set: l.Set, Waited: time.Duration(l.WaitedMS) * time.Millisecond, At: l.AcquiredAt.Time}
	ended := func(kind string, end events.End) {
		entry.Kind, entry.At, entry.Held = kind, end.EndedAt.Time, time.Duration(end.HeldMS)*time.Millisecond
	}
	switch e := e.(type) {
	case events.RuleChanged:
		text := fmt.Sprintf("%s the rule of %s has changed", stamp(e.ChangedAt.Time), printable(e.Prefix))
		if e.By != "" {
			text += " by " + printable(e.By)
		}
		return text
	case events.Acquired:
		entry.Kind = lockclient.HistoryAcquired
	case events.Released:
		ended(lockclient.HistoryReleased, e.End)
	case events.Expired:
		ended(lockclient.HistoryExpired, e.End)
	case events.ForceReleased:
		ended(lockclient.HistoryForceReleased, e.End)
		entry.By, entry.Reason = e.By, e.Reason
	}
	return entryText(l.Lock, entry)
}

// entryText is a grant or an end of a lease in words.
func entryText(name string, e lockclient.HistoryEntry) string {
	text := fmt.Sprintf("%s %s %s, %s, fence %d", stamp(e.At), printable(name), e.Kind, holderOf(name, e), e.Fence)
	switch {
	case e.Kind == lockclient.HistoryAcquired && e.Waited > 0:
		text += ", waited " + short(e.Waited)
	case e.Kind != lockclient.HistoryAcquired:
		text += ", held " + short(e.Held)
	}
	if e.By != "" {
		text += ", by " + printable(e.By)
	}
	if e.Reason != "" {
		text += ": " + printable(e.Reason)
	}
	return text
}
