package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const notifyPrefix = "https://sqs.eu-west-1.amazonaws.com/123456789012/holdfast-notify-"

func notifies(_ *system, cfg *api.Config) { cfg.NotifyPrefix = notifyPrefix }

// What is wrong with notify is said, and a deployment without notifications has a code of its own for it.
func TestNotify(t *testing.T) {
	const lease = `"lease":"` + secret + `"`
	const queue = `"queue":"` + notifyPrefix + `x"`
	for _, test := range []struct {
		fields, field, says string
	}{
		{lease + `,"wait_ms":1000,"notify":"x"`, "notify", "must be an object"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `}`, "notify", "lacks queue or id"},
		{lease + `,"wait_ms":1000,"notify":{"id":"1"}`, "notify", "lacks queue or id"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":1}`, "notify", "id is a number"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":"1","id":"2"}`, "notify", "there twice"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":"1","other":2}`, "notify", `"other" is unknown`},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":""}`, "notify", "the id of notify"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":"a b"}`, "notify", "the id of notify"},
		{lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":"` + strings.Repeat("i", 65) + `"}`, "notify", "1 to 64"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"https://sqs.eu-west-1.amazonaws.com/999999999999/holdfast-notify-x","id":"1"}`, "notify", "begins with"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"` + notifyPrefix + `","id":"1"}`, "notify", "has the name"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"` + notifyPrefix + `x/y","id":"1"}`, "notify", "has the name"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"` + notifyPrefix + `x.fifo","id":"1"}`, "notify", "standard queue"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"` + notifyPrefix + strings.Repeat("x", 65) + `","id":"1"}`, "notify", "has the name"},
		{lease + `,"wait_ms":1000,"notify":{"queue":"` + notifyPrefix + strings.Repeat("x", 256) + `","id":"1"}`, "notify", "at most 256"},
		{lease + `,"notify":{` + queue + `,"id":"1"}`, "wait_ms", "wait_ms is missing"},
		{`"wait_ms":1000,"notify":{` + queue + `,"id":"1"}`, "lease", "lease is missing"},
		{lease + `,"wait_ms":31622400001,"notify":{` + queue + `,"id":"1"}`, "wait_ms", "from 1000 to 31622400000"},
		{lease + `,"wait_ms":1000,"task_token":"T","notify":{` + queue + `,"id":"1"}`, "notify", "leave notify out"},
	} {
		s := newSystem(t, notifies)
		if _, p := s.invokeAs(ownFunction, "acquire", `{"name":"a",`+test.fields+`}`); p == nil || p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %+v", test.fields, p)
		}
	}
	s := newSystem(t)
	body := `{` + lease + `,"wait_ms":1000,"notify":{` + queue + `,"id":"1"}}`
	if p := s.problem(s.call("acquire", "a", body)); p.Code != wire.NotifyRefused || p.Status != 422 || p.Field != "notify" || p.Outage() {
		t.Errorf("without notifications: %+v", p)
	}
}

// A waiter that is notified waits as one that polls, over HTTP too, and may keep its place for longer.
func TestNotifiedWait(t *testing.T) {
	const year = 366 * 24 * time.Hour
	s := newSystem(t, notifies)
	body := func(lease, id string) string {
		return `{"lease":"` + lease + `","wait_ms":31622400000,"notify":{"queue":"` + notifyPrefix + strings.Repeat("x", 64) + `","id":"` + id + `"}}`
	}
	if resp := s.call("acquire", "a", body(secret, "1")); resp.StatusCode != 200 {
		t.Fatal(resp.Body)
	}
	second := "second-second-second"
	for _, id := range []string{"2", strings.Repeat("3", 64)} { // another process may wait with the same lease: the last one is notified
		if p := s.problem(s.call("acquire", "a", body(second, id))); p.Code != wire.LockHeld || p.Position != 1 {
			t.Errorf("%+v", p)
		}
		w, err := s.store.Waiters(t.Context(), "a", 10)
		want := lock.Tokens{{Kind: lock.NotifyToken, Text: `{"queue":"` + notifyPrefix + strings.Repeat("x", 64) + `","id":"` + id + `"}`}}
		if err != nil || len(w) != 1 || w[0].Tokens != want || w[0].Known || w[0].Until != s.now.Add(year).UnixMilli() {
			t.Errorf("waiters %+v, %v", w, err)
		}
	}
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	if resp := s.call("acquire", "a", body(second, "3")); resp.StatusCode != 200 || strings.Contains(resp.Body, "queue") {
		t.Error(resp.Body)
	}
}
