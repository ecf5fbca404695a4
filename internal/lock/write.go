package lock

import "slices"

// A Change is what one write did to one lease.
type Change struct {
	Kind  ChangeKind
	Key   LeaseKey
	Lease Lease // after the write, or before it if the write ended it
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

// Changes derives what a write did to leases from the record before and after it; the zero Record stands for no row. Ends
// come first, then grants, each oldest grant first. A lease is identified by its key and its fencing token.
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

// endOf is how the lease under key ended in the write that made the record after. A force-release ended every lease that is
// gone. Another write ended the retired lease by its cause; the others had expired.
func endOf(key LeaseKey, after Record) ChangeKind {
	kind := causes[after.Cause].ends
	if kind == LeaseForceReleased || kind != "" && after.Retired.Key == key {
		return kind
	}
	return LeaseExpired
}

// CallbacksDue are the grants that need callbacks after a write: new grants with tokens, and those that got another token.
func CallbacksDue(before, after Record) (list []Change) {
	for _, key := range byFence(after.Holders) {
		if h := after.Holders[key]; !h.Tokens.Empty() && (before.Holders[key].Fence != h.Fence || before.Holders[key].Tokens != h.Tokens) {
			list = append(list, Change{LeaseAcquired, key, h})
		}
	}
	return list
}
