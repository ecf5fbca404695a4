package api

import (
	"bytes"
	"encoding/json"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func leaseAnswer(l lock.LeaseStatus, secret string) wire.Lease {
	h := l.Lease
	return wire.Lease{
		EndsAt: wire.AtOrNone(h.EndsAt),
		Lock:   l.Lock, Lease: secret, Fence: h.Fence, Owner: h.Owner, AcquiredAt: wire.At(h.AcquiredAt),
		RenewedAt: wire.At(h.RenewedAt), ExpiresAt: wire.At(h.ExpiresAt), TTL: h.TTL, Remaining: l.Remaining.Milliseconds(),
		Capacity: l.Capacity, Permits: h.Permits, Waited: h.Waited(), Metadata: metadata(h.Metadata),
	}
}

func statusAnswer(s lock.Status) wire.Status {
	return wire.Status{
		Lock: s.Lock, Locked: len(s.Holders) > 0, Capacity: s.Capacity, Available: s.Available, Fence: s.Fence,
		Holders: holders(s.Holders, s.Now), Waiting: s.Waiting, Freeze: freezeAnswer(s.Freeze), NextGrant: wire.AtOrNone(s.NextGrant), ServerTime: wire.At(s.Now),
	}
}

// nextGrant is when a rate allows the grant for which a task waits; nil if none keeps it waiting.
func nextGrant(held *lock.HeldError) *wire.Time {
	if held.Rate == nil {
		return nil
	}
	return new(wire.At(held.Now + held.Rate.RetryAfter.Milliseconds()))
}

// metadata returns the metadata of a stored lease, or nil if it is not JSON, which another program must have written.
func metadata(s string) json.RawMessage {
	if !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

// holders shows leases at the time now, in Unix milliseconds. For leases that have ended now is the maximum, so that no time
// remains.
func holders(list []lock.Lease, now int64) []wire.Holder {
	out := make([]wire.Holder, len(list))
	for i, h := range list {
		out[i] = wire.Holder{
			Owner: h.Owner, Fence: h.Fence, Permits: h.Permits, AcquiredAt: wire.At(h.AcquiredAt), RenewedAt: wire.At(h.RenewedAt),
			ExpiresAt: wire.At(h.ExpiresAt), Remaining: max(h.ExpiresAt-now, 0), Metadata: metadata(h.Metadata), Principal: h.Principal, Traceparent: h.Trace,
		}
	}
	return out
}

// encode returns v in JSON. It does not escape <, > and &, so that an owner reads as it was sent.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // cannot happen: the types of package wire encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
