package ui

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// routes are what the page asks of its server.
var routes = map[string]struct {
	method string
	serve  func(*Page, http.ResponseWriter, *http.Request)
}{
	"/api/live":          {http.MethodGet, (*Page).live},
	"/api/lock":          {http.MethodGet, (*Page).lock},
	"/api/history":       {http.MethodGet, (*Page).history},
	"/api/rules":         {http.MethodGet, (*Page).rules},
	"/api/force-release": {http.MethodPost, (*Page).forceRelease},
}

const maxBody = 16 << 10 // bytes of a request to the page

// forward asks the coordinator, and answers what it said.
func forward[T any](w http.ResponseWriter, r *http.Request, ask func(context.Context) (T, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	value, err := ask(ctx)
	if err != nil {
		fail(w, failureOf(err))
		return
	}
	answer(w, http.StatusOK, value)
}

// failureOf returns the failure that an error is or wraps, or one that says what the error says.
func failureOf(err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Failure{0, "unavailable", "the coordinator did not answer in time"}
	}
	return &Failure{0, "unavailable", err.Error()}
}

// maxWaiters is how many waiters the page of a lock names.
const maxWaiters = 100

// A lockAnswer is the answer to /api/lock.
type lockAnswer struct {
	Status wire.Status `json:"status"`
}

func (p *Page) lock(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if !p.shows(w, name) {
		return
	}
	forward(w, r, func(ctx context.Context) (lockAnswer, error) {
		asked := time.Now()
		status, err := p.cfg.Source.Status(ctx, name, maxWaiters)
		if err == nil {
			p.board.put(status, asked)
		}
		status.Holders = append([]wire.Holder{}, status.Holders...) // in JSON a list, also without holders
		return lockAnswer{status}, err
	})
}

// shows reports whether the page shows a lock. If it does not, it answers the request.
func (p *Page) shows(w http.ResponseWriter, name string) bool {
	if problem := wire.CheckName(name); problem != "" {
		fail(w, &Failure{http.StatusBadRequest, string(wire.InvalidRequest), "name " + problem})
		return false
	}
	if !strings.HasPrefix(name, p.cfg.Prefix) {
		fail(w, &Failure{http.StatusNotFound, "not_found", "this page shows only the locks whose names begin with " + p.cfg.Prefix})
		return false
	}
	return true
}

func (p *Page) history(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name := query.Get("name")
	if !p.shows(w, name) {
		return
	}
	request := wire.HistoryRequest{Limit: wire.MaxPage, Cursor: query.Get("cursor")}
	from, err := milliseconds(query, "from")
	if err != nil {
		fail(w, &Failure{http.StatusBadRequest, string(wire.InvalidRequest), "from is no time in Unix milliseconds"})
		return
	}
	request.From = from
	forward(w, r, func(ctx context.Context) (wire.History, error) { return p.cfg.Source.History(ctx, name, request) })
}

// milliseconds reads a time of a query; nil if there is none.
func milliseconds(query url.Values, field string) (*wire.Time, error) {
	text := query.Get(field)
	if text == "" {
		return nil, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, err
	}
	return new(wire.At(ms)), nil
}

func (p *Page) rules(w http.ResponseWriter, r *http.Request) {
	forward(w, r, func(ctx context.Context) (wire.Rules, error) {
		list, err := p.cfg.Source.Rules(ctx)
		return wire.Rules{Rules: append([]wire.Rule{}, list...)}, err
	})
}

// A forceReleaseRequest is the body of /api/force-release. The fence is that of the lease that the page showed: without it, the lease of
// whoever holds the lock now would end.
type forceReleaseRequest struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	Fence  int64  `json:"fence"`
}

func (p *Page) forceRelease(w http.ResponseWriter, r *http.Request) {
	var request forceReleaseRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &request)
	}
	switch {
	case err != nil:
		fail(w, &Failure{http.StatusBadRequest, string(wire.InvalidRequest), "the body is no JSON object with name, reason and fence, or is too large"})
		return
	case !p.shows(w, request.Name):
		return
	case strings.TrimSpace(request.Reason) == "":
		fail(w, &Failure{http.StatusBadRequest, string(wire.InvalidRequest), "reason is empty; say why, for those who read of it later"})
		return
	case request.Fence < 1:
		fail(w, &Failure{http.StatusBadRequest, string(wire.InvalidRequest), "fence is missing; give that of the lease to end"})
		return
	}
	forward(w, r, func(ctx context.Context) (wire.ForceReleased, error) {
		released, err := p.cfg.Source.ForceRelease(ctx, request.Name, wire.ForceReleaseRequest{Reason: request.Reason, Fence: request.Fence})
		p.refresh(ctx, request.Name)
		return released, err
	})
}
