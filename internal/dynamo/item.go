package dynamo

import (
	"cmp"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The attributes of an item. The key of a lock is (pk, sk) = (its name, "lock"). Writes leave attributes that are not listed here as they
// are, so that those of a newer version are kept. ARCHITECTURE.md describes each attribute.
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
	attrHead         = "head"
	attrCause        = "cause"
	attrBy           = "by"
	attrReason       = "reason"
	attrRetired      = "retired"
	attrRetiredFence = "retired_fence"
	attrRetiredAt    = "retired_at"
	attrRetiredCause = "retired_cause"
	attrTTL          = "ttl"
	attrGrants       = "grants" // a list of the times of the last grants, oldest first; absent without a rate
	attrIndex        = "idx"    // the part of the index of names: see index.go

	// of a lease. Those that every lease has are short: a semaphore's item has up to a hundred leases, and each KB of it costs a write unit.
	attrOwner         = "owner"
	attrPrincipal     = "principal"
	attrPermits       = "per" // absent for 1
	attrLeaseCapacity = "cap"
	attrLeaseFence    = "fen"
	attrAcquiredAt    = "acq" // absent if the fencing token tells it
	attrRenewedAt     = "ren" // absent if it is the TTL before the expiry
	attrExpiresAt     = "exp"
	attrTTLms         = "tms"
	attrSplit         = "spl" // 1: owner, principal, set, trace and metadata are in an item of their own; absent: they are here
	attrMetadata      = "metadata"
	attrUnclaimed     = "unclaimed" // 1, or absent
	attrTokens        = "tokens"    // a list of maps of one entry each: kind → text
	attrAttempted     = "attempted" // bits: 1 Attempted, 2 Known, 4 Told; absent for 0
	attrExecution     = "execution"
	attrCheckAt       = "check_at"
	attrJoined        = "jnd" // absent if the caller did not wait
	attrSet           = "set" // the names of the set's locks, with a comma between; absent: a single lock
	attrTrace         = "trc" // the trace context of the acquire; absent if it has none
	attrEndsAt        = "las" // absent without a limit, as are the next four
	attrMaxTTL        = "mxt"
	attrTTLPrefix     = "mxtp"
	attrMaxHold       = "mxh"
	attrHoldPrefix    = "mxhp"

	// of a waiter, of the end of a wait, and of a binding
	attrTicket = "ticket"
	attrLease  = "lease"
	attrWant   = "want"
	attrUntil  = "until"
	attrPlaces = "tickets" // of a set, a list in the order of its locks
	attrLock   = "lock"

	// of a prefix rule
	attrFreeze  = "freeze"  // a map of until, reason, by and at
	attrHistory = "history" // a map of keep, by and at
	attrKeep    = "keep"    // milliseconds
	attrLimits  = "limits"  // a map of those below, by and at
	attrAt      = "at"

	// of an entry of the history
	attrGranted = "granted" // the time of the grant, in the entry of an end
	attrWaited  = "waited"  // milliseconds
	attrHeld    = "held"
	attrPurged  = "purged" // 1, or absent

	attrLimitCapacity  = "capacity"
	attrLimitTTL       = "max_ttl_ms"
	attrLimitHold      = "max_hold_ms"
	attrLimitQueue     = "max_queue"
	attrLimitPrincipal = "max_per_principal"
	attrLimitGrants    = "rate_grants"
	attrLimitPeriod    = "rate_period_ms"

	skLock  = "lock"
	skWait  = "wait#"   // and a ticket: a waiter
	skEnded = "ended#"  // and a ticket: a waiter with a token whose place ended without a grant
	skPlace = "place#"  // and a lease key: the ticket of a waiter that was not among the first when it joined
	skTexts = "holder#" // and a fencing token: the texts of a lease that is split

	pkExecution = "exec#"  // and an execution: its bindings. No lock's name contains "#"
	pkRules     = "#rules" // the prefix rules. It begins so that no pattern of locks but * matches it in IAM
	skRule      = "rule#"  // and a prefix: a prefix rule

	pkHistory = "#history#" // and a lock's name: the entries of its history, whose sk is lock.HistoryEntry's Key
)

type item map[string]types.AttributeValue

func key(name string) item { return item{attrPK: str(name), attrSK: str(skLock)} }

func str(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func num(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func numList(all []int64) types.AttributeValue {
	list := &types.AttributeValueMemberL{}
	for _, n := range all {
		list.Value = append(list.Value, num(n))
	}
	return list
}

// termsAttributes are the attributes of terms. Empty strings and zeros are left out: every byte counts towards the 1 KB of
// one write unit.
func termsAttributes(t lock.Terms) item {
	m := item{attrTTLms: num(t.TTL)}
	if t.Permits != 1 {
		m[attrPermits] = num(t.Permits)
	}
	m.strings(map[string]string{
		attrOwner: t.Owner, attrPrincipal: t.Principal, attrMetadata: t.Metadata, attrExecution: t.Execution, attrSet: t.Set, attrTrace: t.Trace,
	})
	m.numbers(map[string]int64{
		attrLeaseCapacity: t.Capacity, attrJoined: t.Joined, attrMaxTTL: t.Bounds.MaxTTL, attrMaxHold: t.Bounds.MaxHold, attrTTLPrefix: t.Bounds.TTLPrefix, attrHoldPrefix: t.Bounds.HoldPrefix,
	})
	if !t.Tokens.Empty() {
		m[attrTokens] = tokensItem(t.Tokens)
	}
	for attr, v := range newerAttributes(t.Newer) {
		if !termsKnown[attr] {
			m[attr] = v
		}
	}
	return m
}

// leaseAttributes are the attributes of a lease.
func leaseAttributes(l lock.Lease) item {
	m := termsAttributes(l.Terms)
	maps.Copy(m, item{attrLeaseFence: num(l.Fence), attrExpiresAt: num(l.ExpiresAt)})
	if l.AcquiredAt != acquiredAt(l.Fence) {
		m[attrAcquiredAt] = num(l.AcquiredAt)
	}
	if l.RenewedAt != l.ExpiresAt-l.TTL {
		m[attrRenewedAt] = num(l.RenewedAt)
	}
	if l.Split != lock.Whole {
		m[attrSplit] = num(1)
	}
	if l.Split == lock.SplitButMetadata {
		m[attrMetadata] = str(l.Metadata)
	}
	m.numbers(map[string]int64{attrUnclaimed: flag(l.Unclaimed), attrAttempted: delivery(l.Attempted, l.Known, l.Told), attrCheckAt: l.CheckAt, attrEndsAt: l.EndsAt})
	return m
}

// acquiredAt is when a grant with this fencing token was made, unless a clock went back: see lock.Record's nextFence.
func acquiredAt(fence int64) int64 { return fence / 1000 }

func leaseItem(l lock.Lease) types.AttributeValue {
	return &types.AttributeValueMemberM{Value: leaseAttributes(l)}
}

// strings and numbers set the attributes that are not empty.
func (it item) strings(all map[string]string) {
	for attr, s := range all {
		if s != "" {
			it[attr] = str(s)
		}
	}
}

func (it item) numbers(all map[string]int64) {
	for attr, n := range all {
		if n != 0 {
			it[attr] = num(n)
		}
	}
}

func tokensItem(t lock.Tokens) types.AttributeValue {
	list := &types.AttributeValueMemberL{}
	for _, token := range t.List() {
		list.Value = append(list.Value, &types.AttributeValueMemberM{Value: item{string(token.Kind): str(token.Text)}})
	}
	return list
}

func delivery(attempted, known, told bool) int64 {
	return flag(attempted) + 2*flag(known) + 4*flag(told)
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (d *decoder) terms() lock.Terms {
	return lock.Terms{
		Owner: d.str(attrOwner), Principal: d.str(attrPrincipal), Permits: d.numOr(attrPermits, 1), Capacity: d.num(attrLeaseCapacity), TTL: d.num(attrTTLms),
		Metadata: d.str(attrMetadata), Tokens: d.tokens(), Execution: d.str(attrExecution), Joined: d.num(attrJoined), Set: d.str(attrSet), Trace: d.str(attrTrace),
		Newer:  newerText(d.it, termsKnown),
		Bounds: lock.Bounds{MaxTTL: d.num(attrMaxTTL), MaxHold: d.num(attrMaxHold), TTLPrefix: d.num(attrTTLPrefix), HoldPrefix: d.num(attrHoldPrefix)},
	}
}

func decodeLease(m item) (lock.Lease, error) {
	d := decoder{it: m}
	terms, fence, expiresAt := d.terms(), d.num(attrLeaseFence), d.num(attrExpiresAt)
	l := lock.Lease{
		Terms: terms, Fence: fence, AcquiredAt: d.numOr(attrAcquiredAt, acquiredAt(fence)), RenewedAt: d.numOr(attrRenewedAt, expiresAt-terms.TTL),
		ExpiresAt: expiresAt, EndsAt: d.num(attrEndsAt), CheckAt: d.num(attrCheckAt), Unclaimed: d.num(attrUnclaimed) != 0, Attempted: d.num(attrAttempted)&1 != 0, Known: d.num(attrAttempted)&2 != 0, Told: d.num(attrAttempted)&4 != 0,
	}
	if d.num(attrSplit) != 0 {
		l.Split = lock.Split
		if _, here := m[attrMetadata]; here {
			l.Split = lock.SplitButMetadata
		}
	}
	return l, d.err
}

func waiterKey(name string, ticket int64) item {
	return item{attrPK: str(name), attrSK: str(fmt.Sprintf("%s%016d", skWait, ticket))}
}

func waiterItem(name string, w lock.Waiter) item {
	it := waiterKey(name, w.Ticket)
	it[attrTicket], it[attrLease], it[attrWant], it[attrUntil] = num(w.Ticket), str(string(w.Key)), wantItem(w), num(w.Until)
	it[attrTTL] = num(waiterTTL(w.Until))
	if w.Tickets[0] != 0 {
		it[attrPlaces] = numList(w.Tickets[:max(len(lock.SetNames(w.Set)), 1)])
	}
	return it
}

// waiterTTL is the native TTL of a waiter's items, in Unix seconds: in case the lock's row is purged first.
func waiterTTL(until int64) int64 { return until/1000 + retention }

// placeTTL is the native TTL of the item that names a waiter's ticket, in Unix seconds: see keepPlace.
func placeTTL(until int64) int64 { return until/1000 + 2*retention }

func placeKey(name string, key lock.LeaseKey) item {
	return item{attrPK: str(name), attrSK: str(skPlace + string(key))}
}

// wantItem is the lease that a waiter gets: its terms, and whether others may know of it.
func wantItem(w lock.Waiter) types.AttributeValue {
	return &types.AttributeValueMemberM{Value: wantAttributes(w)}
}

func wantAttributes(w lock.Waiter) item {
	m := termsAttributes(w.Terms)
	m.numbers(map[string]int64{attrAttempted: delivery(false, w.Known, false)})
	return m
}

func decodeWaiter(it item) (lock.Waiter, error) {
	d := decoder{it: it}
	w := lock.Waiter{Ticket: d.num(attrTicket), Key: lock.LeaseKey(d.str(attrLease)), Until: d.num(attrUntil)}
	d.tickets(&w.Tickets)
	want := decoder{it: d.m(attrWant)}
	w.Terms, w.Known = want.terms(), want.num(attrAttempted)&2 != 0
	return w, cmp.Or(d.err, want.err)
}

// Decode reads a record from an item. No item is the zero record.
func Decode(it map[string]types.AttributeValue) (lock.Record, error) {
	if len(it) == 0 {
		return lock.Record{}, nil
	}
	d := decoder{it: it}
	r := lock.Record{
		Rev: d.num(attrRev), Fence: d.num(attrFence), Capacity: d.num(attrCapacity), FreeAt: d.num(attrFreeAt),
		Waiting: d.num(attrWaiting), NextTicket: d.num(attrNextTicket), Head: d.num(attrHead), Cause: lock.Cause(d.str(attrCause)),
		By: d.str(attrBy), Reason: d.str(attrReason), TTL: d.num(attrTTL),
		Retired: lock.Retired{
			Key: lock.LeaseKey(d.str(attrRetired)), Fence: d.num(attrRetiredFence), At: d.num(attrRetiredAt),
			Cause: lock.Cause(d.str(attrRetiredCause)),
		},
	}
	r.Grants = d.numbers(attrGrants)
	if holders := d.m(attrHolders); len(holders) > 0 {
		r.Holders = make(map[lock.LeaseKey]lock.Lease, len(holders))
		for k, v := range holders {
			m, ok := v.(*types.AttributeValueMemberM)
			if !ok {
				return lock.Record{}, fmt.Errorf("holder %q is a %T, not a map", k, v)
			}
			h, err := decodeLease(m.Value)
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

// decoder reads attributes that may be absent. It keeps the first error.
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
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("attribute %q is a number that does not fit into 64 bits", attr)
	}
	return n
}

// numOr reads a number, which is otherwise if it is absent.
func (d *decoder) numOr(attr string, otherwise int64) int64 {
	if _, there := d.it[attr]; !there {
		return otherwise
	}
	return d.num(attr)
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

func (d *decoder) tokens() lock.Tokens {
	v, ok := d.it[attrTokens]
	if !ok {
		return lock.Tokens{}
	}
	l, ok := v.(*types.AttributeValueMemberL)
	if !ok {
		d.fail(attrTokens, v)
		return lock.Tokens{}
	}
	var list []lock.Token
	for _, v := range l.Value {
		m, ok := v.(*types.AttributeValueMemberM)
		if !ok {
			d.fail(attrTokens, v)
			continue
		}
		of := decoder{it: m.Value}
		for kind := range m.Value {
			list = append(list, lock.Token{Kind: lock.TokenKind(kind), Text: of.str(kind)})
		}
		d.err = cmp.Or(d.err, of.err)
	}
	return lock.TokensOf(list...)
}

// tickets reads the tickets of a set's places.
func (d *decoder) tickets(to *[lock.MaxSet]int64) {
	list := d.numbers(attrPlaces)
	if len(list) > len(to) {
		d.fail(attrPlaces, d.it[attrPlaces])
		return
	}
	copy(to[:], list)
}

// numbers reads a list of numbers; nil if it is absent.
func (d *decoder) numbers(attr string) (list []int64) {
	v, ok := d.it[attr]
	if !ok {
		return nil
	}
	l, ok := v.(*types.AttributeValueMemberL)
	if !ok {
		d.fail(attr, v)
		return nil
	}
	for _, v := range l.Value {
		of := decoder{it: item{attr: v}}
		list = append(list, of.num(attr))
		d.err = cmp.Or(d.err, of.err)
	}
	return list
}

// fail keeps the error of an attribute of another type than a lock's. It does not repeat the value, which may be a callback token: the
// error is logged.
func (d *decoder) fail(attr string, v types.AttributeValue) {
	if d.err == nil {
		d.err = fmt.Errorf("attribute %q is of the type %s, which no lock record has", attr, strings.TrimPrefix(fmt.Sprintf("%T", v), "*types.AttributeValueMember"))
	}
}
