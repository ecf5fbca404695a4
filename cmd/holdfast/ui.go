package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/ui"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

type uiCmd struct {
	Prefix string        `arg:"" optional:"" predictor:"lock" help:"Show only the locks whose names begin with this; by default all."`
	Listen string        `placeholder:"HOST:PORT" default:"127.0.0.1:0" help:"Loopback address of the page; port 0 takes a free one."`
	Every  time.Duration `placeholder:"TIME" default:"5s" help:"The least time between two lists while a tab is open; longer where a list takes long."`
}

// Help is shown with ui's flags.
func (c *uiCmd) Help() string {
	return `The command prints a link, which works until the command ends and in browsers on this machine only. Requests to the coordinator are made by the
command, with your credentials; the browser has none. Who knows the link can do on this machine what you can do, so do not share it. Each list without a
prefix reads the whole table: give a prefix if there are many locks.`
}

const (
	minEvery    = time.Second
	eventsPause = 5 * time.Second // before the events are asked for again
)

// check validates the arguments.
func (c *uiCmd) check() error {
	if problem := wire.CheckPrefix(c.Prefix); problem != "" {
		return fmt.Errorf("the prefix %s", problem)
	}
	if c.Every < minEvery {
		return fmt.Errorf("--every is %v; give %v or more, since each list reads the coordinator's table", c.Every, minEvery)
	}
	return nil
}

// Run serves the page until it is interrupted.
func (c *uiCmd) Run(ctx context.Context, s *streams, conn *connection, log *slog.Logger) error {
	if err := c.check(); err != nil {
		return err
	}
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	listener, err := loopback.Listen(ctx, c.Listen)
	switch {
	case errors.Is(err, loopback.ErrRemote):
		return fmt.Errorf("--listen is %s, which other machines can reach; the page has your permissions, so give a loopback address such as 127.0.0.1:0", c.Listen)
	case err != nil:
		return fmt.Errorf("cannot listen on %s: %s; choose another address with --listen", c.Listen, why(err))
	}
	changed := make(chan string, 1024)
	page, err := ui.New(ui.Config{Source: source{client}, Where: conn.where(), Prefix: c.Prefix, Every: c.Every, Changed: changed, Log: log}, listener.Addr().String())
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	if conn.Endpoint != "" && !conn.signs() {
		go c.followEvents(ctx, conn, changed)
	}
	if err := s.result(map[string]any{"link": page.Link()}, "Open in a browser on this machine: "+page.Link()); err != nil {
		return errors.Join(err, listener.Close())
	}
	return page.Serve(ctx, listener)
}

// where names the coordinator.
func (c *connection) where() string {
	switch {
	case c.Table != "":
		return "table " + c.Table
	case c.Functions != "":
		functions, _ := invoke.ParseFunctions(c.Functions) // config has read them
		return "function " + cmp.Or(functions.Status, functions.Acquire)
	}
	return c.Endpoint
}

// followEvents sends the names of changed locks, as far as the coordinator has a live stream of events: a local one has, one in AWS has not.
func (c *uiCmd) followEvents(ctx context.Context, conn *connection, changed chan<- string) {
	for ctx.Err() == nil && c.readEvents(ctx, conn.streamClient(), conn.Endpoint, changed) {
		timer := time.NewTimer(eventsPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// readEvents reads the stream of events until it ends. It returns false if there is none to ask for again.
func (c *uiCmd) readEvents(ctx context.Context, client *http.Client, endpoint string, changed chan<- string) (again bool) {
	err := readStream(ctx, client, endpoint, c.Prefix, func() {}, func(line string) error {
		id, ok := strings.CutPrefix(line, "id: ")
		name, rest, _ := strings.Cut(id, "/")
		if !ok || strings.Count(rest, "/") != 1 { // an event of a lock: name/fence/kind
			return nil
		}
		select {
		case changed <- name:
		default: // the next list tells
		}
		return nil
	})
	return !errors.Is(err, errNoEvents) && !errors.Is(err, streamStatus(http.StatusForbidden))
}

// source is the [ui.Source] of a client.
type source struct{ client *lockclient.Client }

// failure is an error of the client, as the page shows it.
func failure(err error) error {
	if err == nil {
		return nil
	}
	f := &ui.Failure{Code: "unavailable", Detail: message(err)}
	if r, ok := errors.AsType[*lockclient.RefusedError](err); ok {
		f.Status, f.Code, f.Detail = r.Status, r.Code, message(r)
		if f.Code == "" {
			f.Code = "refused"
		}
	}
	return f
}

// List implements [ui.Source].
func (s source) List(ctx context.Context, prefix string, all bool) iter.Seq2[wire.Status, error] {
	return func(yield func(wire.Status, error) bool) {
		for status, err := range s.client.List(ctx, prefix, all) {
			if !yield(wireStatus(status), failure(err)) {
				return
			}
		}
	}
}

// Status implements [ui.Source].
func (s source) Status(ctx context.Context, name string, waiters int) (wire.Status, error) {
	if waiters > 0 {
		status, err := s.client.Queue(ctx, name, waiters)
		if r, ok := errors.AsType[*lockclient.RefusedError](err); !ok || r.Field != "waiters" { // else the coordinator's version knows no such field
			return wireStatus(status), failure(err)
		}
	}
	status, err := s.client.Status(ctx, name)
	return wireStatus(status), failure(err)
}

// History implements [ui.Source].
func (s source) History(ctx context.Context, name string, r wire.HistoryRequest) (wire.History, error) {
	opts := lockclient.HistoryOptions{Limit: r.Limit, Cursor: r.Cursor}
	if r.From != nil {
		opts.From = r.From.Time
	}
	page, err := s.client.HistoryPage(ctx, name, opts)
	out := wire.History{Lock: name, Entries: []wire.HistoryEntry{}, Keeping: wireKeeping(page.Keeping), NextCursor: page.Next, ServerTime: wire.Time{Time: page.At}}
	for _, e := range page.Entries {
		out.Entries = append(out.Entries, wireEntry(e))
	}
	return out, failure(err)
}

// Rules implements [ui.Source].
func (s source) Rules(ctx context.Context) (out []wire.Rule, err error) {
	list, err := s.client.Rules(ctx)
	for _, r := range list {
		rule := wire.Rule{Prefix: r.Prefix, Freeze: wireFreeze(r.Frozen), Limits: wireLimits(r.Limits), History: wireKeeping(r.History), Unknown: r.Unknown, By: r.By}
		out = append(out, rule)
	}
	return out, failure(err)
}

// ForceRelease implements [ui.Source].
func (s source) ForceRelease(ctx context.Context, name string, r wire.ForceReleaseRequest) (wire.ForceReleased, error) {
	released, err := s.client.ForceRelease(ctx, name, r.Reason, r.Fence)
	return wire.ForceReleased{Lock: name, Released: wireHolders(released)}, failure(err)
}
