package lock

import "slices"

// A Change is one thing that happened to a lease in one write.
type Change struct {
	Kind  ChangeKind
	Key   LeaseKey
	Lease Lease // as it was last stored
}

// A ChangeKind says what happened to a lease.
type ChangeKind string

// The kinds of change.
const (
	LeaseAcquired      ChangeKind = "acquired"
	LeaseReleased      ChangeKind = "released"
	LeaseExpired       ChangeKind = "expired"
	LeaseForceReleased ChangeKind = "force-released"
)

// Changes tells what a write did to leases, purely from the record before and after it (the zero Record for a row that
// is not there): leases that ended first, then those granted, each oldest grant first. A lease is known by key and fence.
func Changes(before, after Record) (list []Change) {
	for _, key := range byFence(before.Holders) {
		h := before.Holders[key]
		if after.Holders[key].Fence == h.Fence {
			continue
		}
		list = append(list, Change{endOf(key, after), key, h})
	}
	granted := byFence(after.Holders)
	granted = slices.DeleteFunc(granted, func(key LeaseKey) bool {
		return before.Holders[key].Fence == after.Holders[key].Fence
	})
	for _, key := range granted {
		list = append(list, Change{LeaseAcquired, key, after.Holders[key]})
	}
	return list
}

// endOf is what ended the lease under key, in the write that made after. A force-release ends every lease that is gone; other
// causes end the retired one, beside leases that expired.
func endOf(key LeaseKey, after Record) ChangeKind {
	kind := causes[after.Cause].ends
	if kind == LeaseForceReleased || kind != "" && after.Retired.Key == key {
		return kind
	}
	return LeaseExpired
}

// CallbacksDue are the grants of a write of which somebody with a token is to be told: new ones, and those whose task waits with
// another token since.
func CallbacksDue(before, after Record) (list []Change) {
	for _, key := range byFence(after.Holders) {
		if h := after.Holders[key]; !h.Tokens.Empty() && (before.Holders[key].Fence != h.Fence || before.Holders[key].Tokens != h.Tokens) {
			list = append(list, Change{LeaseAcquired, key, h})
		}
	}
	return list
}
