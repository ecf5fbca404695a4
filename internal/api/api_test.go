package api_test

import (
	"log/slog"
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
		answer := s.Call(t.Context(), wire.Op(step.op), step.name, body)
		if answer.Status != step.status || !strings.Contains(string(answer.Body), step.says) {
			t.Errorf("%s %q %s: %d %s", step.op, step.name, step.body, answer.Status, answer.Body)
		}
		if answer.Status != 200 && !strings.Contains(string(answer.Body), `"request_id":"`) {
			t.Errorf("%s: %s", step.op, answer.Body)
		}
	}
}
