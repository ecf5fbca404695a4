package dynamo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A request is what was sent to DynamoDB.
type request struct {
	action string
	body   map[string]any
}

// at returns the request's value at a path of keys and indexes, or nil.
func (r request) at(path ...any) any {
	var v any = r.body
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			list, _ := v.([]any)
			if p >= len(list) {
				return nil
			}
			v = list[p]
		}
	}
	return v
}

// A script is a fake DynamoDB that gives the scripted responses in turn, then "{}", and records the requests.
type script struct {
	mu      sync.Mutex
	answers []string // a body; after "400 " that of an error
	asked   []request
	date    func() time.Time
}

func (s *script) Do(req *http.Request) (*http.Response, error) {
	r := request{action: req.Header.Get("X-Amz-Target")}
	r.action = r.action[strings.LastIndexByte(r.action, '.')+1:]
	if err := json.NewDecoder(req.Body).Decode(&r.body); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	status, body := 200, "{}"
	if n := len(s.asked); n < len(s.answers) {
		body = s.answers[n]
	}
	if rest, failed := strings.CutPrefix(body, "400 "); failed {
		status, body = 400, rest
	}
	s.asked = append(s.asked, r)
	header := http.Header{"Content-Type": {"application/x-amz-json-1.0"}}
	if s.date != nil {
		header.Set("Date", s.date().UTC().Format(http.TimeFormat))
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func (s *script) actions() string {
	var list []string
	for _, r := range s.asked {
		list = append(list, r.action)
	}
	return strings.Join(list, " ")
}

func scripted(t *testing.T, answers ...string) (*dynamo.Store, *script) {
	s := &script{answers: answers}
	return offline(t, s.Do), s
}

func waiterJSON(ticket int) string {
	return fmt.Sprintf(`{"pk":{"S":"a"},"sk":{"S":"wait#%016d"},"ticket":{"N":"%d"},"lease":{"S":"l%d"},"until":{"N":"7"},"want":{"M":{"permits":{"N":"1"}}}}`, ticket, ticket, ticket)
}

// A queue longer than a page is read to its end, or to the limit, each page from where the last one ended.
func TestQueueLongerThanAPage(t *testing.T) {
	page := func(next int, tickets ...int) string {
		var items []string
		for _, n := range tickets {
			items = append(items, waiterJSON(n))
		}
		last := ""
		if next > 0 {
			last = fmt.Sprintf(`,"LastEvaluatedKey":{"pk":{"S":"a"},"sk":{"S":"wait#%016d"}}`, next)
		}
		return `{"Items":[` + strings.Join(items, ",") + `]` + last + `}`
	}
	for _, test := range []struct {
		limit   int
		pages   []string
		tickets []int64
		limits  []any
	}{
		{10, []string{page(2, 1, 2), page(3, 3), page(0, 4)}, []int64{1, 2, 3, 4}, []any{10.0, 8.0, 7.0}},
		{3, []string{page(2, 1, 2), page(3, 3)}, []int64{1, 2, 3}, []any{3.0, 1.0}},
		{2, []string{page(2, 1, 2)}, []int64{1, 2}, []any{2.0}},
		{5, []string{page(9), page(0, 4)}, []int64{4}, []any{5.0, 5.0}}, // a page may be empty, and not the last
		{5, []string{page(0)}, nil, []any{5.0}},
		{0, nil, nil, nil},
	} {
		s, wire := scripted(t, test.pages...)
		list, err := s.Waiters(t.Context(), "a", test.limit)
		var tickets []int64
		var limits []any
		for _, w := range list {
			tickets = append(tickets, w.Ticket)
		}
		for i, r := range wire.asked {
			limits = append(limits, r.at("Limit"))
			if start := r.at("ExclusiveStartKey"); (start != nil) != (i > 0) {
				t.Errorf("page %d starts at %v", i, start)
			}
			if r.at("ConsistentRead") != true {
				t.Error("the queue is not read consistently")
			}
		}
		if err != nil || !reflect.DeepEqual(tickets, test.tickets) || !reflect.DeepEqual(limits, test.limits) {
			t.Errorf("limit %d: tickets %v with limits %v, %v", test.limit, tickets, limits, err)
		}
	}
}

// All bindings of an execution are read, over all pages; an item that is no binding is an error.
func TestBoundLongerThanAPage(t *testing.T) {
	binding := func(n int) string {
		return fmt.Sprintf(`{"pk":{"S":"exec#e"},"sk":{"S":"a#%d"},"lock":{"S":"a"},"lease":{"S":"%d"}}`, n, n)
	}
	s, wire := scripted(t, `{"Items":[`+binding(1)+`],"LastEvaluatedKey":{"pk":{"S":"exec#e"},"sk":{"S":"a#1"}}}`, `{"Items":[`+binding(2)+`]}`)
	list, err := s.Bound(t.Context(), "e")
	if want := []lock.Binding{{Lock: "a", Key: "1"}, {Lock: "a", Key: "2"}}; err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("%v, %v", list, err)
	}
	if wire.actions() != "Query Query" || wire.asked[0].at("ConsistentRead") != true || wire.asked[0].at("ExpressionAttributeValues", ":execution", "S") != "exec#e" {
		t.Errorf("asked %v", wire.asked)
	}
	s, _ = scripted(t, `{"Items":[{"lock":{"N":"1"}}]}`)
	if _, err := s.Bound(t.Context(), "e"); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("error %v", err)
	}
}

// Each binding of an execution is deleted by its own key; the first failure is returned.
func TestUnbindDeletesEach(t *testing.T) {
	s, wire := scripted(t)
	list := []lock.Binding{{Lock: "a", Key: "1"}, {Lock: "b", Key: "2"}}
	if err := s.Unbind(t.Context(), "e", list); err != nil {
		t.Fatal(err)
	}
	if wire.actions() != "DeleteItem DeleteItem" {
		t.Fatal(wire.actions())
	}
	for i, sk := range []string{"a#1", "b#2"} {
		if r := wire.asked[i]; r.at("Key", "pk", "S") != "exec#e" || r.at("Key", "sk", "S") != sk {
			t.Errorf("deleted %v", r.body)
		}
	}
	s, wire = scripted(t, `400 {"__type":"ResourceNotFoundException"}`)
	if err := s.Unbind(t.Context(), "e", list); !errors.Is(err, lock.ErrMisconfigured) || len(wire.asked) != 1 {
		t.Errorf("%v after %d requests", err, len(wire.asked))
	}
}

func canceled(codes ...string) string {
	var list []string
	for _, c := range codes {
		code, item, _ := strings.Cut(c, " ")
		if item != "" {
			item = `,"Item":` + item
		}
		list = append(list, fmt.Sprintf(`{"Code":%q%s}`, code, item))
	}
	return `400 {"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","CancellationReasons":[` + strings.Join(list, ",") + `]}`
}

// An orphan that has changed is left alone; a transaction that was cancelled for another reason is an error, and nothing was decided.
func TestRemoveOrphanCancelled(t *testing.T) {
	orphan := dynamo.Swept{Kind: dynamo.SweptPlace, Lock: "a", SK: "place#l", Waiter: lock.Waiter{Ticket: 3, Key: "l"}}
	for codes, want := range map[string]error{"None ConditionalCheckFailed": nil, "ConditionalCheckFailed None": nil, "TransactionConflict None": lock.ErrThrottled, "None ThrottlingError": lock.ErrThrottled} {
		s, _ := scripted(t, canceled(strings.Fields(codes)...))
		if removed, err := s.RemoveOrphan(t.Context(), orphan); removed || !errors.Is(err, want) {
			t.Errorf("%s: removed %t, %v; want %v", codes, removed, err, want)
		}
	}
}

// moves is a command that needs a transaction.
func moves() lock.Command {
	from := lock.Record{Rev: 4, Fence: 9, Waiting: 1, Queue: []lock.Waiter{{Ticket: 1, Key: "l", Terms: lock.Terms{Permits: 1}}}}
	to := lock.Record{Fence: 10, Waiting: 1, Queue: []lock.Waiter{{Ticket: 2, Key: "m"}}, Holders: map[lock.LeaseKey]lock.Lease{"l": {Terms: lock.Terms{Permits: 1}, Fence: 10}}}
	return lock.Command{
		Kind: lock.Swap, Guard: []lock.Clause{{Test: lock.RevIs, N: 4}, {Test: lock.FenceIs, N: 9}}, Effect: lock.Become{From: from, To: to},
		Stamp: lock.Stamp{Cause: lock.CauseRelease, By: "me", TTL: 77},
	}
}

// A transaction that conflicts with another write returns the record after it, as a failed guard does.
func TestTransactionConflicts(t *testing.T) {
	const row = `{"pk":{"S":"a"},"sk":{"S":"lock"},"rev":{"N":"5"}}`
	for name, codes := range map[string][]string{
		"on the lock": {"TransactionConflict", "None"}, "on a waiter": {"None", "TransactionConflict"},
	} {
		s, wire := scripted(t, canceled(codes...), `{"Item":`+row+`}`)
		wire.date = func() time.Time { return time.Now().Add(-time.Hour) }
		// A refusal of a clock that is wrong says so before all else.
		if _, err := s.Apply(t.Context(), "a", moves()); !errors.Is(err, lock.ErrUnavailable) {
			t.Errorf("%s: a wrong clock: %v", name, err)
		}
		s, wire = scripted(t, canceled(codes...), `{"Item":`+row+`}`)
		_, err := s.Apply(t.Context(), "a", moves())
		if g, ok := errors.AsType[*lock.GuardError](err); !ok || g.Current.Rev != 5 || wire.actions() != "TransactWriteItems GetItem" {
			t.Errorf("%s: %v after %s", name, err, wire.actions())
		}
	}
	s, wire := scripted(t, canceled("TransactionConflict", "None"), `400 {"__type":"ResourceNotFoundException"}`)
	if _, err := s.Apply(t.Context(), "a", moves()); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("the look fails: %v after %s", err, wire.actions())
	}
	// Of a guard that fails, the record comes along.
	s, wire = scripted(t, canceled("ConditionalCheckFailed "+row, "None"))
	_, err := s.Apply(t.Context(), "a", moves())
	if g, ok := errors.AsType[*lock.GuardError](err); !ok || g.Current.Rev != 5 || wire.actions() != "TransactWriteItems" {
		t.Errorf("guard: %v after %s", err, wire.actions())
	}
	s, _ = scripted(t, canceled(`ConditionalCheckFailed {"rev":{"S":"x"}}`, "None"))
	if _, err := s.Apply(t.Context(), "a", moves()); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("a record that is none: %v", err)
	}
}

// A single write that conflicts with a transaction is retried, and its guard decides.
func TestConflictOfASingleWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := scripted(t, `400 {"__type":"TransactionConflictException"}`, `400 {"__type":"ConditionalCheckFailedException","Item":{"rev":{"N":"6"}}}`)
		_, err := s.Apply(t.Context(), "a", lock.Command{Kind: lock.Release, Effect: lock.End{Key: "l"}})
		if g, ok := errors.AsType[*lock.GuardError](err); !ok || g.Current.Rev != 6 || wire.actions() != "UpdateItem UpdateItem" {
			t.Errorf("%v after %s", err, wire.actions())
		}
	})
}

// The reply of a transaction has the record before and after, as its guard proved it, and the clock's offset. All its attempts have one
// token, and the next transaction has another.
func TestTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := scripted(t, `400 {"__type":"TransactionInProgressException"}`)
		reply, err := s.Apply(t.Context(), "a", moves())
		if err != nil || wire.actions() != "TransactWriteItems TransactWriteItems" {
			t.Fatal(err, wire.actions())
		}
		if before := reply.Before; before.Rev != 4 || before.Waiting != 1 || before.Queue != nil {
			t.Errorf("before %+v", before)
		}
		after := reply.After
		if after.Rev != 5 || after.Holders["l"].Fence != 10 || after.Queue != nil || after.Cause != lock.CauseRelease || after.By != "me" || after.TTL != 77 {
			t.Errorf("after %+v", after)
		}
		token := wire.asked[0].at("ClientRequestToken")
		if token == nil || wire.asked[1].at("ClientRequestToken") != token {
			t.Errorf("tokens %v", token)
		}
		wire.date = func() time.Time { return time.Now().Add(-time.Minute) }
		if reply, err = s.Apply(t.Context(), "a", moves()); err != nil || reply.Offset <= 0 {
			t.Errorf("offset %v, %v", reply.Offset, err)
		}
		if wire.asked[2].at("ClientRequestToken") == token {
			t.Error("two transactions have one token")
		}
	})
}

// The writes beside a lock's own: waiters that join and leave, the end of a wait with a token, and bindings of executions, each with its
// native TTL.
func TestBeside(t *testing.T) {
	const day, second = 24 * 60 * 60, 1_000_000
	from := lock.Record{
		Rev: 1, Fence: 100 * second, Waiting: 4, Holders: map[lock.LeaseKey]lock.Lease{"kept": {Terms: lock.Terms{Execution: "e0"}, Fence: 1}},
		Queue: []lock.Waiter{
			{Ticket: 1, Key: "granted", Terms: lock.Terms{Tokens: lock.Tokens{task("t1")}, Execution: "e1"}},
			{Ticket: 2, Key: "polls", Until: 1000, Terms: lock.Terms{Tokens: lock.Tokens{{Kind: lock.NotifyToken, Text: "q"}}}},
			{Ticket: 3, Key: "told", Until: 50_000, Terms: lock.Terms{Tokens: lock.Tokens{task("t3")}}},
			{Ticket: 4, Key: "stays", Until: 7000},
		},
	}
	to := lock.Record{
		Fence: 200 * second, Waiting: 2, Holders: map[lock.LeaseKey]lock.Lease{
			"kept": {Terms: lock.Terms{Execution: "e0"}, Fence: 1}, "granted": {Terms: lock.Terms{Execution: "e1"}, Fence: 2}, "newcomer": {Terms: lock.Terms{Execution: "e2"}, Fence: 3},
		},
		Queue: []lock.Waiter{from.Queue[3], {Ticket: 5, Key: "joins", Until: 9000, Terms: lock.Terms{Execution: "e3"}}},
	}
	s, wire := scripted(t)
	if _, err := s.Apply(t.Context(), "a", lock.Command{Guard: []lock.Clause{{Test: lock.RevIs, N: 1}}, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseExpire}}); err != nil {
		t.Fatal(err)
	}
	list, _ := wire.asked[0].at("TransactItems").([]any)
	if request := (request{body: list[0].(map[string]any)}); request.at("Update", "Key", "sk", "S") != "lock" || request.at("Update", "ReturnValuesOnConditionCheckFailure") != "ALL_OLD" {
		t.Errorf("the first write is %v", list[0])
	}
	ttl := map[string]int{} // of what is put; -1: deleted
	for _, w := range list[1:] {
		r := request{body: w.(map[string]any)}
		if sk, ok := r.at("Delete", "Key", "sk", "S").(string); ok {
			ttl[r.at("Delete", "Key", "pk", "S").(string)+" "+sk] = -1
			continue
		}
		n, _ := strconv.Atoi(fmt.Sprint(r.at("Put", "Item", "ttl", "N")))
		ttl[fmt.Sprint(r.at("Put", "Item", "pk", "S"), " ", r.at("Put", "Item", "sk", "S"))] = n
		if sk := fmt.Sprint(r.at("Put", "Item", "sk", "S")); strings.HasPrefix(sk, "ended#") && (r.at("Put", "Item", "cause", "S") != "expire" || fmt.Sprint(r.at("Put", "Item", "want", "M", "tokens")) != "map[L:[map[M:map[task:map[S:t3]]]]]") {
			t.Errorf("%s is %v", sk, w)
		} else if strings.HasPrefix(sk, "a#newcomer") && (r.at("Put", "Item", "lock", "S") != "a" || r.at("Put", "Item", "lease", "S") != "newcomer") {
			t.Errorf("%s is %v", sk, w)
		}
	}
	want := map[string]int{
		"a wait#0000000000000001": -1, "a wait#0000000000000002": -1, "a wait#0000000000000003": -1,
		"a ended#0000000000000003": 200 + day, "a wait#0000000000000005": 9 + day,
		"exec#e2 a#newcomer": 200 + 2*367*day, "exec#e3 a#joins": 200 + 2*367*day,
	}
	if !reflect.DeepEqual(ttl, want) {
		t.Errorf("written %v\nwant    %v", ttl, want)
	}
}

// The bindings of an execution are deleted when it has ended, and not before.
func TestBindingsAreRemoved(t *testing.T) {
	s := newStore(t)
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: "l", TTL: time.Minute, Capacity: 1, Permits: 1, Execution: "e"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		over bool
		left int
	}{{false, 2}, {true, 0}} {
		if err := c.EndExecution(t.Context(), "e", func(context.Context) (bool, error) { return test.over, nil }); err != nil {
			t.Fatal(err)
		}
		list, err := s.Bound(t.Context(), "e")
		if err != nil || len(list) != test.left {
			t.Errorf("over: %v: bound is %v, %v", test.over, list, err)
		}
	}
}
