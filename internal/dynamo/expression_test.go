package dynamo

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The longest updates are within DynamoDB's limit for an expression: the leases of the largest semaphore end, as many waiters are granted
// as one write moves, and as many overdue checks are asked for as one write may.
func TestLongestExpression(t *testing.T) {
	from := lock.Record{Rev: 1, Holders: map[lock.LeaseKey]lock.Lease{}}
	to := lock.Record{Holders: map[lock.LeaseKey]lock.Lease{}, Retired: lock.Retired{Key: "r"}}
	for i := range 100 {
		from.Holders[lock.KeyOf("from", fmt.Sprint(i))] = lock.Lease{Terms: lock.Terms{TTL: 60_000}, Fence: 1, CheckAt: 1, ExpiresAt: 3}
	}
	for i := range 10 {
		to.Holders[lock.KeyOf("from", fmt.Sprint(i))] = lock.Lease{Terms: lock.Terms{TTL: 60_000}, Fence: 1, CheckAt: 2, ExpiresAt: 3}
	}
	for i := range 40 {
		to.Holders[lock.KeyOf("to", fmt.Sprint(i))] = lock.Lease{Fence: 2}
	}
	u := compile("locks", "a", lock.Command{
		Guard: []lock.Clause{{Test: lock.RevIs}, {Test: lock.FenceIs, N: 1}}, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{TTL: 1, By: "b", Reason: "r"},
	})
	if n := len(*u.UpdateExpression); n > 4096 {
		t.Errorf("it has %d bytes; DynamoDB takes 4096", n)
	}
}

// Of a lease that stays, only the attributes that changed are written.
func TestChangesOfAHolder(t *testing.T) {
	was := lock.Lease{Terms: lock.Terms{TTL: 3, Metadata: "{}", Tokens: lock.Tokens{{Kind: lock.TaskToken, Text: "t"}}}, Fence: 1, ExpiresAt: 1, RenewedAt: 2, CheckAt: 4}
	for want, change := range map[string]func(*lock.Lease){
		"":                     func(*lock.Lease) {},
		"exp = :v0":            func(h *lock.Lease) { h.ExpiresAt = 9 },
		"ren = :v0":            func(h *lock.Lease) { h.RenewedAt = 9 },
		"tms = :v0":            func(h *lock.Lease) { h.TTL = 9 },
		"#metadata = :v0":      func(h *lock.Lease) { h.Metadata = "{ }" },
		"REMOVE #metadata":     func(h *lock.Lease) { h.Metadata = "" },
		"#tokens = :v0":        func(h *lock.Lease) { h.Tokens[0] = lock.Token{Kind: lock.TaskToken, Text: "u"} },
		"#check_at = :v0":      func(h *lock.Lease) { h.CheckAt = 9 },
		"#attempted = :v0 (1)": func(h *lock.Lease) { h.Attempted = true },
		"#attempted = :v0 (2)": func(h *lock.Lease) { h.Known = true },
		"#attempted = :v0 (3)": func(h *lock.Lease) { h.Attempted, h.Known = true, true },
		"#attempted = :v0 (4)": func(h *lock.Lease) { h.Told = true },
		"REMOVE #check_at":     func(h *lock.Lease) { h.CheckAt = 0 },
		"unclaimed = :v0 (1)":  func(h *lock.Lease) { h.Unclaimed = true },
	} {
		h := was
		change(&h)
		e := newExpression()
		e.becomeHolders(lock.Record{Holders: map[lock.LeaseKey]lock.Lease{"k": was}}, lock.Record{Holders: map[lock.LeaseKey]lock.Lease{"k": h}})
		got := strings.Join(e.set, ", ")
		if len(e.remove) > 0 {
			got = "REMOVE " + strings.Join(e.remove, ", ")
		}
		got = strings.ReplaceAll(got, "holders.#lease.", "")
		if text, number, ok := strings.Cut(want, " ("); ok {
			want, got = text, strings.TrimSpace(got)
			if v, _ := e.values[":v0"].(*types.AttributeValueMemberN); v == nil || v.Value+")" != number {
				t.Errorf("%s: value %v, want (%s", want, e.values, number)
			}
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The attribute "attempted" has two bits, and a lease is read as it was written.
func TestAttemptsAreReadAsWritten(t *testing.T) {
	for n, h := range []lock.Lease{{}, {Attempted: true}, {Known: true}, {Attempted: true, Known: true}} {
		m := leaseItem(h).(*types.AttributeValueMemberM).Value
		if v, ok := m[attrAttempted].(*types.AttributeValueMemberN); ok != (n > 0) || ok && v.Value != fmt.Sprint(n) {
			t.Errorf("%+v is written as %v", h, m[attrAttempted])
		}
		if got, err := decodeLease(m); err != nil || got != h {
			t.Errorf("%+v is read as %+v, %v", h, got, err)
		}
	}
}

// The commands that need no read have few names and values: DynamoDB parses them for every request.
func TestShortExpressions(t *testing.T) {
	for what, test := range map[string]struct {
		guard []lock.Clause
		f     lock.Effect
		want  string
	}{
		"take": {
			[]lock.Clause{{Test: lock.NobodyWaiting}}, lock.Grant{Key: "k", Lease: lock.Lease{Fence: 5, ExpiresAt: 7}, Capacity: 1},
			"SET holders = :v1, #capacity = :v2, fence = :v3, free_at = :v4, waiting = :v0, idx = :v5, cause = :v6, #ttl = :v4 REMOVE #by, #reason ADD rev :v2",
		},
		"a grant without the guard": {
			nil, lock.Grant{Key: "k", Lease: lock.Lease{Fence: 5, ExpiresAt: 7}, Capacity: 1},
			"SET holders = :v0, #capacity = :v1, fence = :v2, free_at = :v3, waiting = if_not_exists(waiting, :v4), idx = :v5, cause = :v6, #ttl = :v3 REMOVE #by, #reason ADD rev :v1",
		},
	} {
		u := compile("locks", "a", lock.Command{Guard: test.guard, Effect: test.f, Stamp: lock.Stamp{Cause: lock.CauseAcquire, TTL: 7}})
		got := strings.Replace(*u.UpdateExpression, "#reason, #by", "#by, #reason", 1) // in any order
		if got != test.want {
			t.Errorf("%s: %s\nwant %s", what, got, test.want)
		}
		if len(u.ExpressionAttributeNames) != 4 {
			t.Errorf("%s: names %v", what, u.ExpressionAttributeNames)
		}
	}
}
