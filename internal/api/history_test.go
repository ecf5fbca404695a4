package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// keepHistory makes a history of n leases, a minute apart; all but the last have ended.
func (s *system) keepHistory(name string, n int) {
	s.t.Helper()
	var list []lock.HistoryEntry
	for i := range n {
		at := s.now.Add(time.Duration(i-n) * time.Minute).UnixMilli()
		e := lock.HistoryEntry{At: at, Kind: lock.LeaseAcquired, Fence: at * 1000, Owner: fmt.Sprint("o", i), Principal: alice, Permits: 1, AcquiredAt: at, Waited: 250, Held: 1}
		if list = append(list, e); i < n-1 {
			e.At, e.Kind, e.Held, e.Cause, e.By, e.Reason = at+30_000, lock.LeaseForceReleased, 0, lock.CauseForceRelease, "arn:op", "stuck"
			list = append(list, e)
		}
	}
	if err := s.store.PutHistory(s.t.Context(), name, list, time.Hour); err != nil {
		s.t.Fatal(err)
	}
}

// history asks for a page, as API Gateway passes the query on.
func (s *system) history(name string, query map[string]string) events.APIGatewayV2HTTPResponse {
	s.t.Helper()
	return s.call("history", name, "", func(e *events.APIGatewayV2HTTPRequest) {
		e.RouteKey, e.RequestContext.HTTP.Method, e.Headers, e.QueryStringParameters = "GET /v1/history/{name}", "GET", nil, query
	})
}

func (s *system) page(name string, query map[string]string) (h wire.History) {
	s.t.Helper()
	resp := s.history(name, query)
	conforms(s.t, "history", "", resp)
	if err := json.Unmarshal([]byte(resp.Body), &h); err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%d %s", resp.StatusCode, resp.Body)
	}
	return h
}

// A history is read in pages, newest or oldest first, between two times; the answer says by which rule it is kept.
func TestHistory(t *testing.T) {
	s := newSystem(t)
	if h := s.page("a", nil); len(h.Entries) != 0 || h.Keeping != nil || h.NextCursor != "" || h.Lock != "a" || h.ServerTime.UnixMilli() != s.now.UnixMilli() {
		t.Errorf("%+v", h)
	}
	if r := s.rule("put-rule", "a", `{"history":{"keep_ms":7776000000}}`); r.History == nil || r.History.Keep != 7776000000 || r.History.By != alice || r.Freeze != nil {
		t.Errorf("%+v", r)
	}
	s.keepHistory("a", 4)
	h := s.page("a", nil)
	if len(h.Entries) != 7 || h.Keeping == nil || h.Keeping.Prefix != "a" || h.Keeping.By != alice {
		t.Errorf("%+v", h)
	}
	if e := h.Entries[1]; e.Kind != "force-released" || e.Owner != "o2" || *e.Held != 30_000 || e.Waited != 250 || e.By != "arn:op" || e.Reason != "stuck" || e.Cause != "force-release" || e.InUse != 0 {
		t.Errorf("%+v", e)
	}
	if e := h.Entries[0]; e.Kind != "acquired" || e.Held != nil || e.Principal != alice || e.InUse != 1 || !e.At.Equal(e.AcquiredAt.Time) {
		t.Errorf("%+v", e)
	}
	for order, first := range map[string]string{"newest": "o3", "oldest": "o0"} {
		var all []wire.HistoryEntry
		query := map[string]string{"limit": "3", "order": order}
		for pages := 0; ; pages++ {
			h := s.page("a", query)
			if all = append(all, h.Entries...); h.NextCursor == "" || pages > 4 {
				break
			}
			query["cursor"] = h.NextCursor
		}
		if len(all) != 7 || all[0].Owner != first {
			t.Errorf("%s: %+v", order, all)
		}
	}
	from, to := h.Entries[4].At.Format(time.RFC3339Nano), h.Entries[1].At.Format(time.RFC3339Nano)
	if some := s.page("a", map[string]string{"from": from, "to": to}); len(some.Entries) != 3 || some.Entries[0].Fence != h.Entries[2].Fence || some.Entries[2].Fence != h.Entries[4].Fence {
		t.Errorf("%+v", some)
	}
	if h := s.page("a", map[string]string{"from": "0001-01-01T00:00:00Z"}); len(h.Entries) != 7 {
		t.Errorf("from the year 1: %d entries", len(h.Entries))
	}
	for _, to := range []string{"1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"} {
		if h := s.page("a", map[string]string{"to": to}); len(h.Entries) != 0 {
			t.Errorf("to %s: %d entries", to, len(h.Entries))
		}
	}
	out, problem := s.invokeAs(ownFunction, "status", `{"op":"history","name":"a","limit":1,"from":"`+from+`"}`)
	if problem != nil || !strings.Contains(out, `"next_cursor":"`) {
		t.Errorf("%s, %+v", out, problem)
	}
	route := func(e *events.APIGatewayV2HTTPRequest) { e.RouteKey = "GET /v1/locks/{name}" }
	if status := s.call("status", "a", "", route); status.StatusCode != 200 || strings.Contains(status.Body, "entries") {
		t.Errorf("status: %s", status.Body)
	}
}

// A wrong request for a history, or for a rule of one, says which field is wrong, and why.
func TestBadHistory(t *testing.T) {
	s := newSystem(t)
	for _, test := range []struct{ name, field, value, says string }{
		{"a/b", "name", "", "only A-Z"}, {"a", "from", "02:14", "RFC 3339"}, {"a", "to", "x", "RFC 3339"}, {"a", "order", "up", "newest or oldest"}, {"a", "limit", "0", "from 1 to 100"},
		{"a", "limit", "101", "from 1 to 100"}, {"a", "cursor", "bG9jaw", "cursor is not one"}, {"a", "at", "x", "unknown"},
	} {
		query := map[string]string{test.field: test.value}
		if test.field == "name" {
			query = nil
		}
		resp := s.history(test.name, query)
		conforms(t, "history", "", resp)
		if p := s.problem(resp); p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%v: %+v", test, p)
		}
	}
	same := map[string]string{"from": "2026-03-01T12:00:00Z", "to": "2026-03-01T12:00:00Z"}
	if p := s.problem(s.history("a", same)); p.Field != "to" || !strings.Contains(p.Detail, "not after from") {
		t.Errorf("%+v", p)
	}
	for body, says := range map[string]string{
		`{"history":7}`: "must be an object", `{"history":{}}`: "keep_ms of history is missing", `{"history":{"keep_ms":3599999}}`: "an hour to 400 days", `{"history":{"keep_ms":34560000001}}`: "an hour to 400 days",
		`{"history":{"keep_ms":7200000,"x":1}}`: `"x" is unknown`, `{"history":{"keep_ms":"1"}}`: "whole number", `{"history":null}`: "must be an object",
	} {
		resp := s.call("put-rule", "a", body)
		conforms(t, "put-rule", body, resp)
		if p := s.problem(resp); p.Field != "history" || !strings.Contains(p.Detail, says) {
			t.Errorf("%s: %+v", body, p)
		}
	}
}

// An alias with a pattern shows the history of the locks of its pattern only.
func TestHistoryThroughAnAlias(t *testing.T) {
	s := newSystem(t)
	for pattern, allowed := range map[string][]string{"deploy:*": {"deploy:prod"}, "deploy:prod": {"deploy:prod"}, "*": {"deploy:prod", "report"}} {
		alias, err := scope.Alias(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"deploy:prod", "report"} {
			_, problem := s.invokeAs(ownFunction+":"+alias, "status", `{"op":"history","name":"`+name+`"}`)
			if (problem == nil) != slices.Contains(allowed, name) {
				t.Errorf("%s through %s: %+v", name, pattern, problem)
			}
		}
	}
}

// A history that cannot be read is a fault of the store.
func TestHistoryFails(t *testing.T) {
	s := newSystem(t, func(s *system, _ *api.Config) {
		s.store = failing{err: &lock.StoreError{Kind: lock.ErrUnavailable, What: "down"}}
	})
	if resp := s.history("a", nil); resp.StatusCode != 503 {
		t.Errorf("%s", resp.Body)
	}
}
