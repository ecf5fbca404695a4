package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A lease of an execution is looked at every 15 minutes, if the request does not say how often; any other lasts a minute.
func TestDefaultTTL(t *testing.T) {
	const execution = `{"execution":"arn:aws:states:eu-west-1:123456789012:execution:Deploy:n"%s}`
	for _, test := range []struct {
		body   string
		maxTTL time.Duration
		want   time.Duration
	}{
		{`{}`, 0, wire.DefaultTTL},
		{fmt.Sprintf(execution, ""), 0, wire.DefaultCheck},
		{fmt.Sprintf(execution, ""), 10 * time.Minute, 10 * time.Minute},
		{fmt.Sprintf(execution, `,"ttl_ms":30000`), 0, 30 * time.Second},
	} {
		s := newSystem(t, func(_ *system, c *api.Config) { c.Machines, c.MaxTTL = []string{"Deploy"}, test.maxTTL })
		resp := s.call("acquire", "a", test.body)
		if h := s.holder("a"); resp.StatusCode != 200 || h.TTL != test.want.Milliseconds() {
			t.Errorf("%s, at most %v: %d, ttl %d ms", test.body, test.maxTTL, resp.StatusCode, h.TTL)
		}
	}
}

// holder is the lock's only one, as it is stored.
func (s *system) holder(name string) (h lock.Lease) {
	s.t.Helper()
	r, err := s.store.Get(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h = range r.After.Holders {
	}
	return h
}
