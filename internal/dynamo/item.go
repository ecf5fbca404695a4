package dynamo

import (
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The attributes of an item. The key is (pk, sk): the lock's name and "lock". Attributes that are not listed here are
// left alone by every write, so that a newer version's are kept.
const (
	attrPK           = "pk"
	attrSK           = "sk"
	attrRev          = "rev"
	attrFence        = "fence"
	attrCapacity     = "capacity"
	attrHolders      = "holders"
	attrFreeAt       = "free_at"
	attrWaiting      = "waiting"
	attrNextTicket   = "next_ticket"
	attrCause        = "cause"
	attrBy           = "by"
	attrReason       = "reason"
	attrRetired      = "retired"
	attrRetiredFence = "retired_fence"
	attrRetiredAt    = "retired_at"
	attrRetiredCause = "retired_cause"
	attrTTL          = "ttl"

	// of a holder
	attrOwner      = "owner"
	attrPrincipal  = "principal"
	attrPermits    = "permits"
	attrAcquiredAt = "acquired_at"
	attrRenewedAt  = "renewed_at"
	attrExpiresAt  = "expires_at"
	attrTTLms      = "ttl_ms"
	attrMetadata   = "metadata"
	attrUnclaimed  = "unclaimed" // 1, or not there
	attrToken      = "token"
	attrAttempted  = "attempted" // 1 for Attempted and 2 for Known, added, or not there; older versions only ask whether it is there
	attrExecution  = "execution"
	attrCheckAt    = "check_at"

	// of a waiter, of the end of one, and of what belongs to an execution
	attrTicket = "ticket"
	attrLease  = "lease"
	attrWant   = "want"
	attrUntil  = "until"
	attrLock   = "lock"

	skLock  = "lock"
	skWait  = "wait#"  // and a ticket: a waiter
	skEnded = "ended#" // and a ticket: a waiter with a token that is not in the queue any more, and got nothing

	pkExecution = "exec#" // and an execution: what belongs to it. No lock's name has a "#"
)

type item = map[string]types.AttributeValue

func key(name string) item { return item{attrPK: str(name), attrSK: str(skLock)} }

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// holderItem writes a holder. Empty strings and what does not apply are left out: every byte counts towards the 1 KB of one
// write unit.
func holderItem(h lock.Holder) types.AttributeValue {
	m := item{
		attrPermits: num(h.Permits), attrFence: num(h.Fence), attrAcquiredAt: num(h.AcquiredAt),
		attrRenewedAt: num(h.RenewedAt), attrExpiresAt: num(h.ExpiresAt), attrTTLms: num(h.TTL),
	}
	for attr, s := range map[string]string{attrOwner: h.Owner, attrPrincipal: h.Principal, attrMetadata: h.Metadata, attrToken: h.Token, attrExecution: h.Execution} {
		if s != "" {
			m[attr] = str(s)
		}
	}
	for attr, n := range map[string]int64{attrUnclaimed: flag(h.Unclaimed), attrAttempted: attempted(h), attrCheckAt: h.CheckAt, attrCapacity: h.Capacity} {
		if n != 0 {
			m[attr] = num(n)
		}
	}
	return &types.AttributeValueMemberM{Value: m}
}

func attempted(h lock.Holder) int64 { return flag(h.Attempted) + 2*flag(h.Known) }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func decodeHolder(m item) (lock.Holder, error) {
	h := decoder{it: m}
	out := lock.Holder{
		Owner: h.str(attrOwner), Principal: h.str(attrPrincipal), Permits: h.num(attrPermits), Fence: h.num(attrFence),
		AcquiredAt: h.num(attrAcquiredAt), RenewedAt: h.num(attrRenewedAt), ExpiresAt: h.num(attrExpiresAt),
		TTL: h.num(attrTTLms), Metadata: h.str(attrMetadata), Unclaimed: h.num(attrUnclaimed) != 0, Token: h.str(attrToken),
		Attempted: h.num(attrAttempted)&1 != 0, Known: h.num(attrAttempted)&2 != 0, Execution: h.str(attrExecution), CheckAt: h.num(attrCheckAt),
		Capacity: h.num(attrCapacity),
	}
	return out, h.err
}

func waiterKey(name string, ticket int64) item {
	return item{attrPK: str(name), attrSK: str(fmt.Sprintf("%s%016d", skWait, ticket))}
}

func waiterItem(name string, w lock.Waiter) item {
	it := waiterKey(name, w.Ticket)
	it[attrTicket], it[attrLease], it[attrWant], it[attrUntil] = num(w.Ticket), str(string(w.Lease)), holderItem(w.Want), num(w.Until)
	it[attrTTL] = num(w.Until/1000 + retention) // for one whose lock's row was purged
	return it
}

func decodeWaiter(it item) (lock.Waiter, error) {
	d := decoder{it: it}
	w := lock.Waiter{Ticket: d.num(attrTicket), Lease: lock.LeaseKey(d.str(attrLease)), Until: d.num(attrUntil)}
	want := d.m(attrWant)
	if d.err == nil {
		w.Want, d.err = decodeHolder(want)
	}
	return w, d.err
}

// Decode reads a record from an item; no item is the zero record. It is also how the stream's images are read.
func Decode(it map[string]types.AttributeValue) (lock.Record, error) {
	if len(it) == 0 {
		return lock.Record{}, nil
	}
	d := decoder{it: it}
	r := lock.Record{
		Rev: d.num(attrRev), Fence: d.num(attrFence), Capacity: d.num(attrCapacity), FreeAt: d.num(attrFreeAt),
		Waiting: d.num(attrWaiting), NextTicket: d.num(attrNextTicket), Cause: lock.Cause(d.str(attrCause)),
		By: d.str(attrBy), Reason: d.str(attrReason), TTL: d.num(attrTTL),
		Retired: lock.Retired{
			Lease: lock.LeaseKey(d.str(attrRetired)), Fence: d.num(attrRetiredFence), At: d.num(attrRetiredAt),
			Cause: lock.Cause(d.str(attrRetiredCause)),
		},
	}
	if holders := d.m(attrHolders); len(holders) > 0 {
		r.Holders = make(map[lock.LeaseKey]lock.Holder, len(holders))
		for k, v := range holders {
			m, ok := v.(*types.AttributeValueMemberM)
			if !ok {
				return lock.Record{}, fmt.Errorf("holder %q is a %T, not a map", k, v)
			}
			h, err := decodeHolder(m.Value)
			if err != nil {
				return lock.Record{}, fmt.Errorf("holder %q: %w", k, err)
			}
			r.Holders[lock.LeaseKey(k)] = h
		}
	}
	if d.err == nil && r.Rev < 1 {
		d.err = fmt.Errorf("attribute %q is %d; a lock's is 1 or more", attrRev, r.Rev)
	}
	return r, d.err
}

// decoder reads attributes that may be absent, and keeps the first error.
type decoder struct {
	it  item
	err error
}

func (d *decoder) num(attr string) int64 {
	v, ok := d.it[attr]
	if !ok {
		return 0
	}
	m, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		d.fail(attr, v)
		return 0
	}
	n, err := strconv.ParseInt(m.Value, 10, 64)
	if err != nil {
		d.fail(attr, m.Value)
	}
	return n
}

func (d *decoder) str(attr string) string {
	v, ok := d.it[attr]
	if !ok {
		return ""
	}
	m, ok := v.(*types.AttributeValueMemberS)
	if !ok {
		d.fail(attr, v)
		return ""
	}
	return m.Value
}

func (d *decoder) m(attr string) item {
	v, ok := d.it[attr]
	if !ok {
		return nil
	}
	m, ok := v.(*types.AttributeValueMemberM)
	if !ok {
		d.fail(attr, v)
		return nil
	}
	return m.Value
}

func (d *decoder) fail(attr string, v any) {
	if d.err == nil {
		d.err = fmt.Errorf("attribute %q is %v (%T), which no lock record has", attr, v, v)
	}
}

// DecodeEnded reads the item that tells of a waiter's end.
func DecodeEnded(it map[string]types.AttributeValue) (lock.Waiter, error) { return decodeWaiter(it) }
