package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	maxLocks    = 20_000                // in the list; a table with more is shown in part
	maxTabs     = 32                    // that are open at the same time
	listTimeout = 2 * time.Minute       // of a whole list
	maxPause    = 5 * time.Minute       // between two lists
	maxFailing  = 30 * time.Second      // between two lists that fail
	heartbeat   = 10 * time.Second      // between two messages to a tab
	tabTimeout  = 10 * time.Second      // of writing a message to a tab
	gather      = 20 * time.Millisecond // in which changes are collected before they are read or sent together
	maxSingle   = 32                    // locks that change within this time and are read one by one
)

// live streams the list and its changes to a tab (server-sent events) until the tab or the process ends.
func (p *Page) live(w http.ResponseWriter, r *http.Request) {
	if n := p.board.tabs(); n >= maxTabs {
		fail(w, &Failure{http.StatusTooManyRequests, "throttled", fmt.Sprintf("%d tabs are open already; close some", n)})
		return
	}
	tab := p.board.join(r.URL.Query().Get("all") == "true")
	defer p.board.leave(tab)
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	_ = control.SetReadDeadline(time.Time{}) // the server's deadline would end the stream
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		began := time.Now()
		m, changed := p.board.next(tab)
		m.Where, m.Below = p.cfg.Where, p.cfg.Prefix
		text, err := json.Marshal(m)
		if err != nil {
			p.cfg.Log.Error("live page", "error", err)
			return
		}
		_ = control.SetWriteDeadline(time.Now().Add(tabTimeout))
		if _, err := fmt.Fprintf(w, "data: %s\n\n", text); err != nil || control.Flush() != nil {
			return
		}
		took := time.Since(began)
		select {
		case <-changed:
			if !pause(r.Context(), max(gather, 5*took)) { // further changes go along, and a long list takes a part of the time only
				return
			}
		case <-beat.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (b *board) tabs() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.readers)
}

// pause returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow lists the locks again and again while a tab is open, and reads those that are said to have changed.
func (p *Page) follow(ctx context.Context) {
	next, failures := time.NewTimer(0), 0
	defer next.Stop()
	for {
		due := false
		select {
		case <-next.C:
			due = true
		case <-p.board.wake:
			due = true
		case name := <-p.cfg.Changed:
			p.readChanged(ctx, name)
		case <-ctx.Done():
			return
		}
		if open, all := p.board.wanted(); open && due {
			took, err := p.list(ctx, all, failures)
			if failures++; err == nil {
				failures = 0
			}
			next.Reset(p.pauseAfter(took, failures))
		}
	}
}

// pauseAfter is the time between two lists: Config.Every at least, nine times what the last one took, and more after failures.
func (p *Page) pauseAfter(took time.Duration, failures int) time.Duration {
	d := max(p.cfg.Every, min(9*took, maxPause))
	if failures > 0 {
		d = max(d, min(p.cfg.Every<<min(failures, 10), maxFailing))
	}
	return d
}

// list lists the locks once. It returns the time that it took.
func (p *Page) list(ctx context.Context, all bool, failures int) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	began := time.Now()
	names, s := map[string]bool{}, state{}
	for status, failed := range p.cfg.Source.List(ctx, p.cfg.Prefix, all) {
		if err = failed; err != nil {
			break
		}
		if len(names) == maxLocks {
			s.Truncated = maxLocks
			break
		}
		names[status.Lock] = true
		p.board.put(status, began)
	}
	took = time.Since(began)
	if err != nil {
		f := failureOf(err)
		p.cfg.Log.Warn("live page: no list of the locks", "error", f.Detail)
		p.board.failed(f, p.pauseAfter(took, failures+1))
		return took, err
	}
	s.Every = p.pauseAfter(took, 0).Milliseconds()
	p.board.listed(names, began, s)
	return took, nil
}

// readChanged reads a lock that has changed, with those that change shortly after it. If they are many, the next list tells. Without a tab nothing is
// read.
func (p *Page) readChanged(ctx context.Context, name string) {
	names := map[string]bool{name: true}
	for more := pause(ctx, gather); more; {
		select {
		case name = <-p.cfg.Changed:
			names[name] = true
		default:
			more = false
		}
	}
	if open, _ := p.board.wanted(); !open || len(names) > maxSingle {
		return
	}
	for name := range names {
		p.refresh(ctx, name)
	}
}

// refresh reads a lock. A failure is left to the next list to find.
func (p *Page) refresh(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	asked := time.Now()
	if s, err := p.cfg.Source.Status(ctx, name, 0); err == nil {
		p.board.put(s, asked)
	}
}
