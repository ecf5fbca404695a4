package api_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A waiter over HTTP polls, learns its place, keeps it, and leaves the queue by a release.
func TestWaitingOverHTTP(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","owner":"first"}`)
	if p := s.problem(s.call("acquire", "a", `{}`)); p.Position != 0 || p.Waiting != 0 || p.Detail != "the lock is held; the next permit is free in 60250 ms at the latest, unless its lease is renewed" {
		t.Errorf("%+v", p)
	}
	joined := s.now
	second := `{"lease":"second-second-second","wait_ms":1000}`
	p := s.problem(s.call("acquire", "a", second))
	if p.Code != wire.LockHeld || p.Position != 1 || p.Waiting != 1 || p.Holders[0].Owner != "first" || !strings.Contains(p.Detail, "place 1 of 1") {
		t.Errorf("%+v", p)
	}
	if p := s.problem(s.call("acquire", "a", `{"wait_ms":1000}`)); p.Field != "lease" || !strings.Contains(p.Detail, "with wait_ms choose it yourself") {
		t.Errorf("a place that nobody could come back to: %+v", p)
	}
	if p := s.problem(s.call("acquire", "a", `{}`)); p.Position != 0 || p.Waiting != 1 || !strings.Contains(p.Detail, "send wait_ms to join") {
		t.Errorf("%+v", p)
	}
	w, err := s.store.Waiters(t.Context(), "a", 10)
	if err != nil || len(w) != 1 || w[0].Until != s.now.UnixMilli()+1000 || !w[0].Tokens.Empty() {
		t.Errorf("waiters %+v, %v", w, err)
	}
	s.now = s.now.Add(700 * time.Millisecond)
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	resp := s.call("acquire", "a", second)
	conforms(t, "acquire", second, resp)
	if resp.StatusCode != 200 || !strings.Contains(resp.Body, `"waited_ms":`+strconv.FormatInt(s.now.Sub(joined).Milliseconds(), 10)) || !s.now.After(joined) {
		t.Error(resp.Body)
	}
}

// A status names the waiters that it is asked for, in their order, and leaves out those whose places are no longer kept.
func TestStatusNamesWaiters(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","owner":"first","capacity":3,"permits":3}`)
	s.call("acquire", "a", `{"lease":"second-second-second","owner":"second","capacity":3,"wait_ms":1000}`)
	s.now = s.now.Add(time.Second) // the place of second is over
	joined := s.now
	s.call("acquire", "a", `{"lease":"third-third-third-third","owner":"third","capacity":3,"permits":2,"wait_ms":60000}`)
	s.now = s.now.Add(2 * time.Second)
	s.call("acquire", "a", `{"lease":"fourth-fourth-fourth","owner":"fourth","capacity":3,"wait_ms":60000}`)
	ask := func(changes ...change) (status wire.Status) {
		t.Helper()
		resp := s.call("status", "a", "", changes...)
		conforms(t, "status", "", resp)
		if err := json.Unmarshal([]byte(resp.Body), &status); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Body, err)
		}
		return status
	}
	if status := ask(); status.Queue != nil || status.Waiting == 0 {
		t.Errorf("waiters that nobody asked for: %+v", status)
	}
	queue := ask(query("waiters", "100")).Queue
	if len(queue) != 2 || queue[0].Owner != "third" || queue[0].Position != 1 || queue[0].Permits != 2 || queue[0].JoinedAt.UnixMilli() != joined.UnixMilli() || queue[0].Task ||
		queue[1].Owner != "fourth" || queue[1].Position != 2 || queue[0].Principal == "" {
		t.Errorf("%+v", queue)
	}
	if queue := ask(query("waiters", "2")).Queue; len(queue) > 2 || queue[0].Owner != "third" {
		t.Errorf("%+v", queue)
	}
	if status := ask(query("waiters", "1")); len(status.Queue) > 1 {
		t.Errorf("%+v", status)
	}
}

// A waiter with a task token or a callback id must be invoked directly. It gets a place in the queue, and the grant by callback.
func TestTokens(t *testing.T) {
	const lease = `"name":"a","lease":"` + secret + `"`
	for _, test := range []struct{ payload, field, says string }{
		{`{"name":"a","task_token":"AAAA"}`, "lease", "with task_token choose it yourself"},
		{`{"name":"a","callback_id":"AAAA"}`, "lease", "with callback_id choose it yourself"},
		{`{` + lease + `,"task_token":""}`, "task_token", "task_token is empty"},
		{`{` + lease + `,"callback_id":""}`, "callback_id", "callback_id is empty"},
		{`{` + lease + `,"task_token":"A","callback_id":"A"}`, "callback_id", "give the one that waits"},
		{`{` + lease + `,"task_token":"A\nB"}`, "task_token", "no token has"},
		{`{` + lease + `,"task_token":"` + strings.Repeat("t", 2049) + `"}`, "task_token", "at most 2048"},
		{`{` + lease + `,"task_token":"A","wait_ms":999}`, "wait_ms", "from 1000 to 31622400000"},
		{`{` + lease + `,"task_token":"A","wait_ms":31622400001}`, "wait_ms", "from 1000 to 31622400000"},
		{`{` + lease + `,"wait_ms":900001}`, "wait_ms", "from 1000 to 900000"},
	} {
		s := newSystem(t)
		if _, p := s.invokeAs(ownFunction, "acquire", test.payload); p == nil || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %+v", test.payload, p)
		}
	}
	for _, field := range []string{"task_token", "callback_id"} {
		s := newSystem(t)
		if p := s.problem(s.call("acquire", "a", `{"lease":"`+secret+`","`+field+`":"AAAA"}`)); p.Field != field || !strings.Contains(p.Detail, "over HTTP send wait_ms and poll") {
			t.Errorf("%+v", p)
		}
	}
	const year = 366 * 24 * time.Hour
	for _, test := range []struct {
		fields string
		token  lock.Token
		wait   time.Duration
	}{
		{`"task_token":"AAAA"`, lock.Token{Kind: lock.TaskToken, Text: "AAAA"}, year},
		{`"callback_id":"AAAA"`, lock.Token{Kind: lock.CallbackToken, Text: "AAAA"}, year},
		{`"task_token":"AAAA","wait_ms":1000`, lock.Token{Kind: lock.TaskToken, Text: "AAAA"}, time.Second},
		{`"task_token":"AAAA","wait_ms":31622400000`, lock.Token{Kind: lock.TaskToken, Text: "AAAA"}, year},
		{`"task_token":"` + strings.Repeat("t", 2048) + `"`, lock.Token{Kind: lock.TaskToken, Text: strings.Repeat("t", 2048)}, year},
	} {
		s := newSystem(t)
		s.call("acquire", "a", `{}`)
		answer, p := s.invokeAs(ownFunction, "acquire", `{`+lease+`,`+test.fields+`}`)
		if p != nil || answer != `{"lock":"a","queued":true,"position":1,"waiting":1,"ticket":1}` {
			t.Errorf("%s: %s, %+v", test.fields, answer, p)
		}
		w, err := s.store.Waiters(t.Context(), "a", 10)
		if err != nil || len(w) != 1 || w[0].Tokens[0] != test.token || w[0].Until != s.now.Add(test.wait).UnixMilli() {
			t.Errorf("%s: waiters %+v, %v", test.fields, w, err)
		}
	}
}

// A caller without a place in the queue does not get the answer "queued": it would wait forever.
func TestNoPlaceIsNotQueued(t *testing.T) {
	for _, test := range []struct {
		fields string
		err    error
		code   wire.Code
		queued bool
	}{
		{`,"task_token":"A"`, &lock.HeldError{Waiting: 3}, wire.LockHeld, false},
		{`,"callback_id":"A"`, &lock.HeldError{Waiting: 3}, wire.LockHeld, false},
		{`,"task_token":"A"`, lock.ErrQueueFull, wire.QueueFull, false},
		{`,"wait_ms":1000`, &lock.HeldError{Position: 2, Waiting: 3}, wire.LockHeld, false},
		{`,"task_token":"A"`, &lock.HeldError{Position: 2, Waiting: 3}, "", true},
		{`,"task_token":"A"`, fmt.Errorf("wrapped: %w", &lock.HeldError{Position: 2, Waiting: 3}), "", true},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		answer, p := s.invokeAs(ownFunction, "acquire", `{"name":"a","lease":"`+secret+`"`+test.fields+`}`)
		if test.queued != strings.Contains(answer, `"queued":true,"position":2,"waiting":3`) || !test.queued && (p == nil || p.Code != test.code) {
			t.Errorf("%+v: %s, %+v", test, answer, p)
		}
	}
}
