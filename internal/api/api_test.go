package api_test

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func TestConfigIsChecked(t *testing.T) {
	c, _ := lock.New(lock.Config{Store: &lock.Memory{}})
	log := slog.New(slog.DiscardHandler)
	for _, cfg := range []api.Config{
		{Log: log}, {Coordinator: c}, {Coordinator: c, Log: log, MaxTTL: time.Second}, {Coordinator: c, Log: log, MaxTTL: wire.MaxTTL + 1},
		{Coordinator: c, Log: log, MinTTL: -1},
	} {
		if _, err := api.New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

// A request of the same process is served as a direct invocation is, and answered with the status of HTTP.
func TestCall(t *testing.T) {
	s := newSystem(t)
	for _, step := range []struct {
		op, name, body string
		status         int
		says           string
	}{
		{"acquire", "a", `{"lease":"` + secret + `","owner":"me"}`, 200, `"lease":"` + secret + `"`},
		{"acquire", "a", `{}`, 409, `"code":"lock_held"`},
		{"acquire", "a", `{"lease":"another-secret-lease","task_token":"t"}`, 200, `"queued":true`},
		{"acquire", "b", `{"lease":"short"}`, 400, `"field":"lease"`},
		{"acquire", "b", `{"name":"a"}`, 400, `"field":"name"`},
		{"acquire", "", `{}`, 400, `"field":"name"`},
		{"acquire", "b", `[]`, 400, `"field":"body"`},
		{"renew", "a", `{"lease":"` + secret + `"}`, 200, `"remaining_ms":60000`},
		{"status", "a", "", 200, `"locked":true`},
		{"list", "", `{"limit":5}`, 200, `"locks":[{`},
		{"list", "a", "", 200, `"locks":[{`},
		{"force-release", "a", `{"reason":"x","fence":5}`, 409, `"code":"lock_changed"`},
		{"release", "a", `{"lease":"` + secret + `"}`, 200, `"released_at"`},
		{"steal", "a", `{}`, 400, `"field":"op"`},
	} {
		var body []byte
		if step.body != "" {
			body = []byte(step.body)
		}
		answer, problem := s.Call(t.Context(), wire.Op(step.op), step.name, body)
		status := 200
		if problem != nil {
			status, answer = problem.Status, problem
		}
		says, err := json.Marshal(answer)
		if err != nil || status != step.status || !strings.Contains(string(says), step.says) {
			t.Errorf("%s %q %s: %d %s, %v", step.op, step.name, step.body, status, says, err)
		}
		if problem != nil && problem.RequestID == "" {
			t.Errorf("%s: %s", step.op, says)
		}
	}
}

// An answer that stays in the process is equal to the one that travels as JSON.
func TestAnswersInProcess(t *testing.T) {
	s := newSystem(t)
	const secret = "my-secret-lease-0001"
	for _, step := range []struct {
		op, body string
		decoded  any
	}{
		{"acquire", `{"lease":"` + secret + `","owner":"<me>","metadata":{"a": [1, "é"]},"capacity":2}`, new(wire.Lease)},
		{"renew", `{"lease":"` + secret + `"}`, new(wire.Lease)},
		{"status", ``, new(wire.Status)},
		{"list", `{}`, new(wire.List)},
		{"acquire", `{"capacity":2,"permits":2}`, new(wire.Problem)},
		{"force-release", `{"reason":"x","fence":5}`, new(wire.Problem)},
		{"force-release", `{"reason":"x"}`, new(wire.ForceReleased)},
		{"acquire", `{"lease":"another-lease-0002"}`, new(wire.Lease)},
		{"release", `{"lease":"another-lease-0002"}`, new(wire.Released)},
	} {
		var body []byte
		if step.body != "" {
			body = []byte(step.body)
		}
		answer, problem := s.Call(t.Context(), wire.Op(step.op), "a", body)
		want := reflect.ValueOf(step.decoded).Elem()
		if problem != nil {
			answer = *problem
		}
		data, err := json.Marshal(answer)
		if err != nil || json.Unmarshal(data, step.decoded) != nil || !reflect.DeepEqual(answer, want.Interface()) {
			t.Errorf("%s: %#v, as JSON %#v, %v", step.op, answer, want, err)
		}
	}
}
