package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A problem's code, detail and times follow from the error, and the Retry-After header from the problem.
func TestProblems(t *testing.T) {
	holders := []lock.Lease{{Terms: lock.Terms{Owner: "x"}, Fence: 7, ExpiresAt: 5000}, {Terms: lock.Terms{Owner: "gone"}, Fence: 8, ExpiresAt: 900}}
	for name, test := range map[string]struct {
		err    error
		want   wire.Problem // without the members that all have
		header string
	}{
		"held": {
			&lock.HeldError{Holders: holders, Now: 1000, RetryAfter: 4001 * time.Millisecond},
			wire.Problem{
				Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 4001,
				Detail:  "the lock is held; the next permit is free in 4001 ms at the latest, unless its lease is renewed",
				Holders: []wire.ProblemHolder{{Owner: "x", Fence: 7, ExpiresAt: wire.At(5000), Remaining: 4000}, {Owner: "gone", Fence: 8, ExpiresAt: wire.At(900)}},
			}, "5",
		},
		"held, free any moment": {
			&lock.HeldError{RetryAfter: -time.Second},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1, Detail: "the lock is held; the next permit is free in 1 ms at the latest, unless its lease is renewed"}, "1",
		},
		"a place in the queue": {
			&lock.HeldError{RetryAfter: time.Second, Position: 1, Waiting: 2, Ticket: 7},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1000, Position: 1, Waiting: 2, Ticket: 7, Detail: "the lock is held, and place 1 of 2 in its queue is yours; send the same request again, with the ticket, to keep it"}, "1",
		},
		"others wait": {
			&lock.HeldError{RetryAfter: 1999 * time.Millisecond, Waiting: 1},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1999, Waiting: 1, Detail: "the lock is held, and 1 wait for it; send wait_ms to join them"}, "2",
		},
		"lost":    {lock.ErrLeaseLost, wire.Problem{Code: wire.LeaseLost, Status: 410, Title: "The lease is over", Detail: "the lease has expired, was released or forced out, or never was; acquire with a new one"}, ""},
		"changed": {fmt.Errorf("x: %w", lock.ErrLockChanged), wire.Problem{Code: wire.LockChanged, Status: 409, Title: "The lock has changed hands", Detail: "no holder has the fence given any more; look at the lock again"}, ""},
		"cursor":  {lock.ErrBadCursor, wire.Problem{Code: wire.InvalidRequest, Status: 400, Title: "The request is not valid", Field: "cursor", Detail: "cursor is not one that a list answered; start without one"}, ""},
		"canceled": {
			context.Canceled,
			wire.Problem{Code: wire.StoreUnavailable, Status: 503, Title: "The store cannot be used", RetryAfter: 1000, Detail: "the store cannot be used just now; it is not known whether the write happened: send the same request again"}, "1",
		},
		"misconfigured, no fix known": {
			&lock.StoreError{Kind: lock.ErrMisconfigured, What: "the table is odd", Err: errors.New("inside")},
			wire.Problem{Code: wire.Misconfigured, Status: 500, Title: "The coordinator is not set up right", Detail: "the table is odd"}, "",
		},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		resp := s.call("acquire", "a", `{}`)
		test.want.Type, test.want.Lock, test.want.RequestID = "urn:holdfast:problem:"+string(test.want.Code), "a", "request-1"
		want, _ := json.Marshal(test.want)
		if resp.Body != strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(want)) || resp.Headers["Retry-After"] != test.header {
			t.Errorf("%s: %s, Retry-After %q; want %s", name, resp.Body, resp.Headers["Retry-After"], want)
		}
		if level := strings.Contains(s.log.String(), `"level":"ERROR"`); level != (test.want.Status >= 500) {
			t.Errorf("%s: log %s", name, s.log.String())
		}
	}
}

// The problem of a fault says that the outcome is unknown and when to retry. The cause of the fault is only in the log.
func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		code  wire.Code
		retry string
	}{
		"throttled":   {&lock.StoreError{Kind: lock.ErrThrottled, What: "the innards"}, wire.Throttled, "1"},
		"unavailable": {&lock.StoreError{Kind: lock.ErrUnavailable, What: "the innards"}, wire.StoreUnavailable, "1"},
		"misconfigured": {
			&lock.StoreError{Kind: lock.ErrMisconfigured, What: `table "locks" does not exist`, Fix: "create it", Err: errors.New("the innards")},
			wire.Misconfigured, "",
		},
		"misconfigured, no more known": {fmt.Errorf("the innards: %w", lock.ErrMisconfigured), wire.Misconfigured, ""},
		"clock off":                    {&lock.ClockError{Offset: 10 * time.Second}, wire.StoreUnavailable, "1"},
		"context ended":                {context.DeadlineExceeded, wire.StoreUnavailable, "1"},
		"something else":               {errors.New("the innards"), wire.Internal, ""},
		"panics, in fact":              {nil, wire.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
			resp := s.call("acquire", "a", `{}`)
			p := s.problem(resp)
			if p.Code != test.code || resp.Headers["Retry-After"] != test.retry || strings.Contains(resp.Body, "innards") {
				t.Errorf("%s, headers %v", resp.Body, resp.Headers)
			}
			if !strings.Contains(s.log.String(), `"level":"ERROR"`) || name != "context ended" && name != "clock off" && !strings.Contains(s.log.String(), "innards") {
				t.Errorf("log %s", s.log.String())
			}
			if name == "misconfigured" && (p.Status != 500 || p.Detail != `table "locks" does not exist; create it`) {
				t.Errorf("problem %+v", p)
			}
			if name == "clock off" && !strings.Contains(s.log.String(), `"clock_offset_ms":10000`) {
				t.Errorf("log %s", s.log.String())
			}
		})
	}
}

// The problem of a full queue or record has the number and a time to retry, and is not logged as an error.
func TestFullIsAnAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		code wire.Code
		says string
	}{
		"queue":             {lock.ErrQueueFull, wire.QueueFull, "500 wait"},
		"record":            {&lock.FullError{Size: 301_000, Most: 300_000}, wire.LockFull, "would have 301000 bytes with this request; at most 300000"},
		"record, no number": {lock.ErrLockFull, wire.LockFull, "less metadata"},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		resp := s.call("acquire", "a", `{}`)
		p := s.problem(resp)
		if p.Code != test.code || p.Status != 429 || resp.Headers["Retry-After"] != "5" || p.RetryAfter != 5000 || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %s, headers %v", name, resp.Body, resp.Headers)
		}
		if strings.Contains(s.log.String(), `"level":"ERROR"`) {
			t.Errorf("%s: log %s", name, s.log.String())
		}
	}
}

// A held lock and a lost lease are not logged as errors.
func TestContentionIsNoError(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{}`)
	s.call("acquire", "a", `{}`)
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	if log := s.log.String(); strings.Contains(log, "ERROR") || strings.Contains(log, "WARN") || !strings.Contains(log, "lock_held") {
		t.Errorf("log %s", log)
	}
}

// hanging is a store that answers when the request's context ends.
type hanging struct{ failing }

func (hanging) Apply(ctx context.Context, _ string, _ lock.Command) (lock.Reply, error) {
	<-ctx.Done()
	return lock.Reply{}, context.Cause(ctx)
}

// A function answers before Lambda ends it.
func TestAnswersBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = hanging{} })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Handler(wire.OpAcquire).Invoke(ctx, []byte(`{"name":"a"}`))
		if took := time.Since(start); took != 9750*time.Millisecond || err == nil || !strings.Contains(err.Error(), "store_unavailable") {
			t.Errorf("%v after %v", err, took)
		}
		if latency := s.records()[0]["latency_ms"]; latency != 9750.0 {
			t.Errorf("latency_ms is %v", latency)
		}
	})
}
