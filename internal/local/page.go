package local

import (
	"context"
	"encoding/json"
	"iter"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/ui"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	pageEvery   = 2 * time.Second // between two lists for the live page
	pageChanges = 1024            // names of changed locks that wait for the page; it lists those that do not fit
)

// A livePage is the live page of this process, on a port of its own: a browser's page is refused at the coordinator's.
type livePage struct {
	page     *ui.Page
	source   inProcess
	listener net.Listener
	changed  chan string
}

func newLivePage(ctx context.Context, coordinator *lock.Coordinator, o *Options, where string, log *slog.Logger) (*livePage, error) {
	listener, err := loopback.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: slog.New(warnings{log.Handler()}), MinTTL: o.MinTTL, MaxTTL: o.MaxTTL})
	if err != nil {
		return nil, err
	}
	l := &livePage{source: inProcess{a}, listener: listener, changed: make(chan string, pageChanges)}
	l.page, err = ui.New(ui.Config{Source: l.source, Where: where, Every: pageEvery, Changed: l.changed, Log: log}, listener.Addr().String())
	return l, err
}

// follow returns a consumer of writes that tells the page which locks changed, and passes the writes on.
func (l *livePage) follow(consume func(context.Context, []stream.Write) []string) func(context.Context, []stream.Write) []string {
	return func(ctx context.Context, writes []stream.Write) []string {
		for _, w := range writes {
			if w.Rule != nil {
				continue
			}
			select {
			case l.changed <- w.Lock:
			default:
			}
		}
		return consume(ctx, writes)
	}
}

// warnings drops the records of requests, of which the page sends one each second or so.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

// inProcess is the [ui.Source] of a coordinator in the same process.
type inProcess struct{ api *api.API }

// ask carries out an operation whose answer is a T.
func ask[T any](ctx context.Context, a *api.API, op wire.Op, name string, request any) (T, error) {
	var none T
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return none, err
		}
	}
	answer, problem := a.Call(ctx, op, name, body)
	if problem != nil {
		return none, &ui.Failure{Status: problem.Status, Code: string(problem.Code), Detail: problem.Detail}
	}
	return answer.(T), nil
}

// List implements [ui.Source].
func (s inProcess) List(ctx context.Context, prefix string, all bool) iter.Seq2[wire.Status, error] {
	return func(yield func(wire.Status, error) bool) {
		request := map[string]any{"limit": wire.MaxPage}
		if prefix != "" {
			request["prefix"] = prefix
		}
		if all {
			request["state"] = "all"
		}
		for {
			page, err := ask[wire.List](ctx, s.api, wire.OpList, "", request)
			if err != nil {
				yield(wire.Status{}, err)
				return
			}
			for _, status := range page.Locks {
				if !yield(status, nil) {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			request["cursor"] = page.NextCursor
		}
	}
}

// Status implements [ui.Source].
func (s inProcess) Status(ctx context.Context, name string, waiters int) (wire.Status, error) {
	return ask[wire.Status](ctx, s.api, wire.OpStatus, name, wire.StatusRequest{Waiters: waiters})
}

// History implements [ui.Source].
func (s inProcess) History(ctx context.Context, name string, r wire.HistoryRequest) (wire.History, error) {
	return ask[wire.History](ctx, s.api, wire.OpHistory, name, r)
}

// Rules implements [ui.Source].
func (s inProcess) Rules(ctx context.Context) ([]wire.Rule, error) {
	answer, err := ask[wire.Rules](ctx, s.api, wire.OpRules, "", nil)
	return answer.Rules, err
}

// ForceRelease implements [ui.Source].
func (s inProcess) ForceRelease(ctx context.Context, name string, r wire.ForceReleaseRequest) (wire.ForceReleased, error) {
	return ask[wire.ForceReleased](ctx, s.api, wire.OpForceRelease, name, r)
}
