package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-lock/holdfast/internal/duration"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type historyCmd struct {
	Name  string `arg:"" predictor:"lock" help:"The lock's name."`
	At    string `placeholder:"WHEN" help:"Show who held the lock at this time, and who was next: 02:14, '2026-11-26 02:14', a time in RFC 3339, or a duration before now such as 3h."`
	From  string `placeholder:"WHEN" help:"Show what happened from this time on; as --at, or a day (2026-11-26) or a weekday."`
	To    string `placeholder:"WHEN" help:"Show what happened before this time."`
	Limit int    `placeholder:"N" default:"50" help:"Show at most N leases, the newest."`
}

// Help is shown with history's flags.
func (c *historyCmd) Help() string {
	return `The history of a lock has its leases since a rule asked for it (holdfast keep-history), some seconds after each change. FREE BEFORE is for how long
nobody held the lock before the lease, WAITED for how long its holder waited in the queue. With --json, each grant and each end is a line of its own. Times without a
zone are local; a time of day is the last one that has passed.`
}

// Run shows a lock's history.
func (c *historyCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	now := time.Now()
	opts, at, err := c.options(now)
	if err != nil {
		return err
	}
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	defer s.slow("history")()
	if c.At != "" {
		return c.showAt(ctx, s, client, at)
	}
	entries, page, err := c.read(ctx, client, opts)
	switch {
	case err != nil:
		return err
	case len(entries) == 0:
		s.notice("none", nothingKept(c.Name, page))
		return nil
	case s.json:
		for _, e := range entries {
			if err := s.result(wireEntry(e), ""); err != nil {
				return err
			}
		}
		return nil
	}
	list, more := tenures(entries, c.Limit)
	if err := s.result(nil, table(c.Name, list, opts.To)); err != nil {
		return err
	}
	if more || page.Next != "" {
		s.notice("more", fmt.Sprintf("there are more than %d leases; give --from and --to, or a higher --limit", c.Limit))
	}
	return nil
}

// options are the query that the flags ask for, and the time of --at.
func (c *historyCmd) options(now time.Time) (opts lockclient.HistoryOptions, at time.Time, err error) {
	for flag, value := range map[string]*struct {
		text string
		at   *time.Time
	}{"--from": {c.From, &opts.From}, "--to": {c.To, &opts.To}, "--at": {c.At, &at}} {
		if value.text == "" {
			continue
		}
		if *value.at, err = parsePast(flag, value.text, now); err != nil {
			return opts, at, err
		}
	}
	switch {
	case c.At != "" && (c.From != "" || c.To != ""):
		err = errors.New("--at is a time, and --from and --to are a range; give one or the other")
	case !opts.To.IsZero() && !opts.To.After(opts.From):
		err = fmt.Errorf("--to %s is %s, which is not after --from", c.To, stamp(opts.To))
	case c.Limit < 1 || c.Limit > 10_000:
		err = fmt.Errorf("--limit is %d; give 1 to 10000", c.Limit)
	case c.At != "" && at.After(now):
		err = fmt.Errorf("--at %s is %s, which is still to come", c.At, stamp(at))
	}
	return opts, at, err
}

// parsePast reads a time, which is as a rule in the past. Times without a zone are in that of now.
func parsePast(flag, text string, now time.Time) (time.Time, error) {
	for _, layout := range []string{"15:04", "15:04:05"} {
		if clock, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			if at.After(now) {
				at = time.Date(now.Year(), now.Month(), now.Day()-1, clock.Hour(), clock.Minute(), clock.Second(), 0, now.Location())
			}
			return at, nil
		}
	}
	for days := range 7 {
		day := time.Date(now.Year(), now.Month(), now.Day()-days, 0, 0, 0, 0, now.Location())
		if name := day.Weekday().String(); strings.EqualFold(text, name) || strings.EqualFold(text, name[:3]) {
			return day, nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02 15:04:05"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	if d, err := duration.Parse(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%s is %q; give a time of day (02:14), a weekday (mon), a day (2026-11-26), a day and a time (2026-11-26 02:14), a time in RFC 3339, or a duration before now (3h, 2d)", flag, text)
}

// read reads the newest entries, enough for the leases that are shown: each has two at most.
func (c *historyCmd) read(ctx context.Context, client *lockclient.Client, opts lockclient.HistoryOptions) (all []lockclient.HistoryEntry, page lockclient.HistoryPage, err error) {
	opts.Limit = wire.MaxPage
	for len(all) < 2*c.Limit {
		if page, err = client.HistoryPage(ctx, c.Name, opts); err != nil {
			return nil, page, err
		}
		all = append(all, page.Entries...)
		if opts.Cursor = page.Next; opts.Cursor == "" {
			break
		}
	}
	return all, page, nil
}

// nothingKept says why a history shows nothing.
func nothingKept(name string, page lockclient.HistoryPage) string {
	if k := page.Keeping; k != nil {
		return fmt.Sprintf("nothing happened to %s in that time that is kept: the rule of %s has kept its history since %s, each entry for %s", name, printable(k.Prefix), stamp(k.Since), days(k.For))
	}
	return fmt.Sprintf("no history of %s is kept; to keep it from now on, ask for it: holdfast keep-history %s", name, name)
}

// A tenure is one lease in a history.
type tenure struct {
	lockclient.HistoryEntry           // of its end, or of its grant if that is all there is
	held                    bool      // it is not over, as far as the history tells
	free                    string    // for how long nobody held the lock before
	until                   time.Time // zero if the end is not there
}

// tenures are the leases of entries, newest first, and whether there are more than limit.
func tenures(entries []lockclient.HistoryEntry, limit int) (list []tenure, more bool) {
	ended := map[int64]bool{}
	open := entries[0].InUse // permits that are held after the last change
	for _, e := range entries {
		switch {
		case e.Kind != lockclient.HistoryAcquired:
			ended[e.Fence] = true
			list = append(list, tenure{HistoryEntry: e, until: e.At})
		case !ended[e.Fence]:
			held := open >= e.Permits
			if held {
				open -= e.Permits
			}
			list = append(list, tenure{HistoryEntry: e, held: held})
		}
	}
	gaps(list)
	if len(list) > limit {
		return list[:limit], true
	}
	return list, false
}

// gaps fills in for how long the lock was free before each lease.
func gaps(list []tenure) {
	for i := range list {
		list[i].free = "?" // the lease before it is not in the list
		var last time.Time
		known := i < len(list)-1
		for _, earlier := range list[i+1:] {
			if earlier.AcquiredAt.After(list[i].AcquiredAt) {
				continue
			}
			known = known && !earlier.until.IsZero()
			if earlier.until.After(last) {
				last = earlier.until
			}
		}
		switch gap := list[i].AcquiredAt.Sub(last); {
		case !known:
		case gap <= 0:
			list[i].free = "-"
		default:
			list[i].free = short(gap)
		}
	}
}

// table formats leases of a lock as rows.
func table(name string, list []tenure, to time.Time) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "FROM\tUNTIL\tHELD\tHELD BY\tFENCE\tWAITED\tFREE BEFORE\tENDED")
	for _, t := range list {
		until, held := "-", "-"
		if !t.until.IsZero() {
			until, held = stamp(t.until), short(t.Held)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", stamp(t.AcquiredAt), until, held, holderOf(name, t.HistoryEntry), t.Fence, waited(t.HistoryEntry), t.free, t.ending(to))
	}
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// holderOf names the holder of a lease of a lock, and the other locks of its set.
func holderOf(lock string, e lockclient.HistoryEntry) string {
	name := who(e.Owner)
	if e.Owner == "" && e.Principal != "" {
		name = printable(e.Principal)
	}
	if e.Permits > 1 {
		name += fmt.Sprintf(" (%d permits)", e.Permits)
	}
	if others := slices.DeleteFunc(slices.Clone(e.Set), func(other string) bool { return other == lock }); len(others) > 0 {
		name += " with " + printable(strings.Join(others, ", "))
	}
	return name
}

func waited(e lockclient.HistoryEntry) string {
	if e.Waited == 0 {
		return "-"
	}
	return short(e.Waited)
}

// ending says how a lease ended.
func (t tenure) ending(to time.Time) string {
	switch {
	case t.until.IsZero() && !t.held:
		return "not recorded"
	case t.until.IsZero() && !to.IsZero():
		return "after " + stamp(to)
	case t.until.IsZero():
		return "still held"
	}
	text := t.Kind
	switch {
	case t.Unclaimed:
		text += ", never claimed"
	case t.Kind == lockclient.HistoryReleased && t.Cause != "release":
		text += fmt.Sprintf(" (%s)", printable(t.Cause))
	}
	if t.Kind == lockclient.HistoryForceReleased {
		if t.By != "" {
			text += " by " + printable(t.By)
		}
		text += ": " + printable(t.Reason)
	}
	return text
}

// short formats a duration for a table: milliseconds below a second, else whole seconds.
func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// wireEntry is an entry as the API writes it.
func wireEntry(e lockclient.HistoryEntry) wire.HistoryEntry {
	out := wire.HistoryEntry{
		At: wire.Time{Time: e.At}, Kind: e.Kind, Fence: e.Fence, Owner: e.Owner, Principal: e.Principal, Permits: int64(e.Permits), AcquiredAt: wire.Time{Time: e.AcquiredAt},
		Waited: e.Waited.Milliseconds(), Cause: e.Cause, By: e.By, Reason: e.Reason, Unclaimed: e.Unclaimed, Purged: e.Purged, InUse: int64(e.InUse), Waiting: int64(e.Waiting),
		Set: e.Set, Traceparent: e.Traceparent,
	}
	if e.Kind != lockclient.HistoryAcquired {
		out.Held = new(e.Held.Milliseconds())
	}
	return out
}
