package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// maxLook is how many entries --at reads in each direction, in case entries of grants or ends are missing.
const maxLook = 1000

// A moment says who held a lock at a time, and who was next.
type moment struct {
	Lock    string              `json:"lock"`
	At      wire.Time           `json:"at"`
	Holders []wire.HistoryEntry `json:"holders"`        // the ends of their leases, or the grants of those that are not over
	Next    *wire.HistoryEntry  `json:"next,omitempty"` // the first grant after that time
	Missing bool                `json:"missing"`        // the history does not name all holders

	holders []tenure
	next    *lockclient.HistoryEntry
}

// showAt answers who held the lock at a time, and how long the next one waited.
func (c *historyCmd) showAt(ctx context.Context, s *streams, client *lockclient.Client, at time.Time) error {
	m := moment{Lock: c.Name, At: wire.Time{Time: at}, Holders: []wire.HistoryEntry{}}
	last := at.Truncate(time.Millisecond).Add(time.Millisecond)
	page, err := client.HistoryPage(ctx, c.Name, lockclient.HistoryOptions{To: last, Limit: 1})
	if err != nil {
		return err
	}
	if len(page.Entries) == 0 {
		s.notice("none", fmt.Sprintf("nothing is known of %s at %s or before; %s", c.Name, stamp(at), nothingKept(c.Name, page)))
		return nil
	}
	if err := m.lookBack(client.History(ctx, c.Name, lockclient.HistoryOptions{To: last})); err != nil {
		return err
	}
	if err := m.lookAhead(client.History(ctx, c.Name, lockclient.HistoryOptions{From: last, Oldest: true})); err != nil {
		return err
	}
	for _, t := range m.holders {
		m.Holders = append(m.Holders, wireEntry(t.HistoryEntry))
	}
	if m.next != nil {
		m.Next = new(wireEntry(*m.next))
	}
	return s.result(m, m.text(at))
}

type entries = func(yield func(lockclient.HistoryEntry, error) bool)

// lookBack finds the leases that had been granted and had not ended: as many as the last change before says that permits were held.
func (m *moment) lookBack(before entries) error {
	ended, open, n := map[int64]bool{}, -1, 0
	for e, err := range before {
		if err != nil {
			return err
		}
		if open < 0 {
			open = e.InUse
		}
		if n++; open == 0 || n > maxLook {
			break
		}
		switch {
		case e.Kind != lockclient.HistoryAcquired:
			ended[e.Fence] = true
		case !ended[e.Fence] && e.Permits <= open:
			open -= e.Permits
			m.holders = append(m.holders, tenure{HistoryEntry: e, held: true})
		}
	}
	m.Missing = open > 0
	return nil
}

// lookAhead finds how the holders' leases ended, and the next grant.
func (m *moment) lookAhead(after entries) error {
	left, n := len(m.holders), 0
	for e, err := range after {
		if err != nil {
			return err
		}
		if e.Kind == lockclient.HistoryAcquired && m.next == nil {
			m.next = &e
		}
		for i, t := range m.holders {
			if t.Fence == e.Fence && e.Kind != lockclient.HistoryAcquired {
				m.holders[i] = tenure{HistoryEntry: e, until: e.At}
				left--
			}
		}
		if n++; left == 0 && m.next != nil || n == maxLook {
			return nil
		}
	}
	return nil
}

func (m *moment) text(at time.Time) string {
	var b strings.Builder
	switch {
	case len(m.holders) == 0 && m.Missing:
		fmt.Fprintf(&b, "%s was held at %s, and the history does not say by whom: the grant is older than what is kept, or was not recorded", printable(m.Lock), stamp(at))
	case len(m.holders) == 0:
		fmt.Fprintf(&b, "nobody held %s at %s", printable(m.Lock), stamp(at))
	default:
		fmt.Fprintf(&b, "%s was held at %s by", printable(m.Lock), stamp(at))
	}
	for _, t := range m.holders {
		fmt.Fprintf(&b, "\n  %s", holderOf(m.Lock, t.HistoryEntry))
		if t.Owner != "" && t.Principal != "" {
			fmt.Fprintf(&b, " (%s)", printable(t.Principal))
		}
		fmt.Fprintf(&b, ", fence %d\n    since %s", t.Fence, stamp(t.AcquiredAt))
		if t.Waited > 0 {
			fmt.Fprintf(&b, ", after waiting %s", short(t.Waited))
		}
		if t.until.IsZero() {
			b.WriteString("; no end is recorded")
		} else {
			fmt.Fprintf(&b, "; until %s: %s", stamp(t.until), t.ending(time.Time{}))
		}
	}
	if len(m.holders) > 0 && m.Missing {
		b.WriteString("\n  and by others, whom the history does not name")
	}
	switch e := m.next; {
	case e == nil:
		b.WriteString("\nnobody was granted it since")
	case e.Waited > 0:
		fmt.Fprintf(&b, "\nnext was %s at %s, after waiting %s", holderOf(m.Lock, *e), stamp(e.At), short(e.Waited))
	default:
		fmt.Fprintf(&b, "\nnext was %s at %s, without a wait", holderOf(m.Lock, *e), stamp(e.At))
	}
	return b.String()
}

type keepHistoryCmd struct {
	Prefix string        `arg:"" predictor:"lock" help:"How the names of the locks begin, such as deploy: ; '*' for all locks."`
	For    time.Duration `placeholder:"TIME" default:"90d" help:"How long an entry is kept: an hour to 400 days."`
	Stop   bool          `help:"Keep no history from now on; entries that exist stay until their time."`
}

// Help is shown with keep-history's flags.
func (c *keepHistoryCmd) Help() string {
	return `From now on an entry is kept of each grant and each end of a lease of these locks, which holdfast history shows. It costs a write unit each. If several
prefixes cover a lock, the longest time counts. Another time for the same prefix counts for later entries.`
}

// Run sets for how long history is kept.
func (c *keepHistoryCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	keep := c.For
	if c.Stop {
		keep = 0
	} else if c.For < wire.MinKeep || c.For > wire.MaxKeep {
		return fmt.Errorf("--for is %v; give 1h to 400d", c.For)
	}
	rule, err := ask(ctx, s, conn, "keep-history", func(client *lockclient.Client) (lockclient.Rule, error) {
		return client.KeepHistory(ctx, c.Prefix, keep)
	})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("the history of %s is not kept any more by this rule; what is there stays until its time", below(rule.Prefix))
	if rule.History != nil {
		text = fmt.Sprintf("the history of %s is kept for %s; from %s at the latest", below(rule.Prefix), days(rule.History.For), stamp(rule.InForceAt))
	}
	return s.result(wireRule(rule), text)
}

// days formats a long duration.
func days(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}
