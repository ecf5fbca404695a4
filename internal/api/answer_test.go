package api_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The remaining time in an answer counts from the time of the answer; a lease that has ended has none.
func TestRemaining(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","ttl_ms":10000,"capacity":3,"permits":2,"metadata":{"x": 1}}`)
	s.now = s.now.Add(4 * time.Second)
	var l wire.Lease
	if err := json.Unmarshal([]byte(s.call("acquire", "a", `{"lease":"`+secret+`","ttl_ms":10000,"capacity":3,"permits":2}`).Body), &l); err != nil || l.Remaining != 6000 {
		t.Errorf("%+v, %v", l, err)
	}
	var status wire.Status
	if err := json.Unmarshal([]byte(s.call("status", "a", "").Body), &status); err != nil {
		t.Fatal(err)
	}
	h := status.Holders[0]
	if h.Remaining != 6000 || h.Permits != 2 || string(h.Metadata) != `{"x":1}` || status.Available != 1 || status.Capacity != 3 || !status.Locked || status.ServerTime.UnixMilli() != s.now.UnixMilli() {
		t.Errorf("%+v", status)
	}
	var forced wire.ForceReleased
	if err := json.Unmarshal([]byte(s.call("force-release", "a", `{"reason":"x"}`).Body), &forced); err != nil || len(forced.Released) != 1 || forced.Released[0].Remaining != 0 || forced.Released[0].Fence != h.Fence {
		t.Errorf("%+v, %v", forced, err)
	}
	// Stored metadata that is not JSON is not shown.
	odd := lock.Lease{Terms: lock.Terms{Owner: "odd", Permits: 1, Metadata: "{"}, Fence: 9, ExpiresAt: s.now.Add(time.Minute).UnixMilli()}
	s = newSystem(t, func(s *system, _ *api.Config) {
		s.store = fixed{r: lock.Record{Capacity: 1, Rev: 1, Fence: 9, Holders: map[lock.LeaseKey]lock.Lease{"k": odd}}}
	})
	if resp := s.call("status", "a", ""); resp.StatusCode != 200 || strings.Contains(resp.Body, "metadata") || !strings.Contains(resp.Body, `"owner":"odd"`) {
		t.Error(resp.Body)
	}
}

func TestPrincipalIsRecordedAndShown(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{}`)
	if resp := s.call("status", "a", ""); !strings.Contains(resp.Body, `"principal":"arn:aws:iam::123456789012:user/alice"`) {
		t.Error(resp.Body)
	}
	s.call("acquire", "b", `{}`, func(e *events.APIGatewayV2HTTPRequest) { e.RequestContext.Authorizer = nil })
	if resp := s.call("status", "b", ""); strings.Contains(resp.Body, "principal") {
		t.Error(resp.Body)
	}
	if !strings.Contains(s.log.String(), `"principal":""`) {
		t.Error("the log does not show that there is no caller")
	}
}

// A caller that sends no lease gets a new one each time.
func TestLeasesAreMade(t *testing.T) {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 3 {
		out, err := a.Handler(wire.OpAcquire).Invoke(t.Context(), fmt.Appendf(nil, `{"name":"a%d"}`, i))
		var l wire.Lease
		if err != nil || json.Unmarshal(out, &l) != nil || wire.CheckLease(l.Lease) != "" || seen[l.Lease] {
			t.Errorf("%s, %v", out, err)
		}
		seen[l.Lease] = true
	}
}

// A list has 50 locks a page unless the request says otherwise, and only locks that are held unless it asks for all. A cursor
// continues it.
func TestLists(t *testing.T) {
	s := newSystem(t)
	for i := range 60 {
		s.call("acquire", fmt.Sprintf("a:%02d", i), `{"lease":"`+secret+`"}`)
	}
	s.call("release", "a:00", `{"lease":"`+secret+`"}`)
	s.call("acquire", "b", `{}`)
	page := func(kv ...string) (l wire.List) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.call("list", "", "", query(kv...)).Body), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := page("prefix", "a:")
	second := page("prefix", "a:", "cursor", first.NextCursor)
	if len(first.Locks) != 50 || len(second.Locks) != 9 || second.NextCursor != "" || first.Locks[0].Lock != "a:01" || !first.Locks[0].Locked {
		t.Errorf("%d and %d, then %q; first %+v", len(first.Locks), len(second.Locks), second.NextCursor, first.Locks[0])
	}
	if all := page("prefix", "a:0", "state", "all"); len(all.Locks) != 10 || all.Locks[0].Lock != "a:00" || all.Locks[0].Locked {
		t.Errorf("all: %+v", all)
	}
	if few := page("limit", "2"); len(few.Locks) != 2 {
		t.Errorf("two: %+v", few)
	}
	answer, p := s.invokeAs(ownFunction, "status", `{"op":"list","prefix":"b","limit":100,"state":"all"}`)
	if p != nil || !strings.Contains(answer, `"lock":"b"`) || strings.Contains(answer, `"lock":"a`) {
		t.Errorf("%s, %+v", answer, p)
	}
	for _, test := range []struct{ payload, field, says string }{
		{`{"op":"list","limit":"5"}`, "limit", "limit is a string"},
		{`{"op":"lists"}`, "op", `op is "lists"; it must be "status", "list" or "history"`},
		{`{"op":"` + strings.Repeat("l", 300) + `"}`, "op", strings.Repeat("l", 40) + "…"},
		{`{"op":5,"name":"a"}`, "op", "must be a string"},
		{`{"op":"status"}`, "name", "name is missing"},
		{`{"op":"status","name":5}`, "name", "name is a number"},
	} {
		if _, p := s.invokeAs(ownFunction, "status", test.payload); p == nil || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%.60s: %+v", test.payload, p)
		}
	}
}
