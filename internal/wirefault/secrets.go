package wirefault

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// secrets writes the secrets of leases that requests carry: the text in a field "lease" of a JSON body.
type secrets struct {
	mu   sync.Mutex
	out  io.Writer
	seen map[string]bool
}

// record writes the secret in a body, if there is one and it is new. It does nothing on nil.
func (s *secrets) record(body []byte) {
	if s == nil {
		return
	}
	var fields struct {
		Lease string `json:"lease"`
	}
	if json.Unmarshal(body, &fields) != nil || fields.Lease == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.seen[fields.Lease] {
		s.seen[fields.Lease] = true
		_, _ = fmt.Fprintln(s.out, fields.Lease)
	}
}
