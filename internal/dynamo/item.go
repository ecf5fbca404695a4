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

	skLock = "lock"
	skWait = "wait#" // and a ticket: a waiter
)

type item = map[string]types.AttributeValue

func key(name string) item { return item{attrPK: str(name), attrSK: str(skLock)} }

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// holderItem writes a holder. Empty strings are left out: every byte counts towards the 1 KB of one write unit.
func holderItem(h lock.Holder) types.AttributeValue {
	m := item{
		attrPermits: num(h.Permits), attrFence: num(h.Fence), attrAcquiredAt: num(h.AcquiredAt),
		attrRenewedAt: num(h.RenewedAt), attrExpiresAt: num(h.ExpiresAt), attrTTLms: num(h.TTL),
	}
	for attr, s := range map[string]string{attrOwner: h.Owner, attrPrincipal: h.Principal, attrMetadata: h.Metadata} {
		if s != "" {
			m[attr] = str(s)
		}
	}
	return &types.AttributeValueMemberM{Value: m}
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
			h := decoder{it: m.Value}
			r.Holders[lock.LeaseKey(k)] = lock.Holder{
				Owner: h.str(attrOwner), Principal: h.str(attrPrincipal), Permits: h.num(attrPermits), Fence: h.num(attrFence),
				AcquiredAt: h.num(attrAcquiredAt), RenewedAt: h.num(attrRenewedAt), ExpiresAt: h.num(attrExpiresAt),
				TTL: h.num(attrTTLms), Metadata: h.str(attrMetadata),
			}
			if h.err != nil {
				return lock.Record{}, fmt.Errorf("holder %q: %w", k, h.err)
			}
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
