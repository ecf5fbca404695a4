package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A set is up to [MaxSet] locks that one caller acquires together: all or none. Its lease is one lease in each of the locks, all under the
// same key. Its place is one place in each queue; they are joined, extended, granted and left together, each in one atomic step over all
// records ([Store.ApplyAll]). So any two sets that share locks stand in the same order in all queues that they share, nothing is held while a
// set waits, and no deadlock is possible. See setop.go for the operations, and setrun.go for who grants a set that waits.
//
// What ends alone: a lease that expires or that an operator ends is ended in its own lock only. The lease of the set is then lost as a whole
// for its caller, who releases the rest. A place whose time is over is removed by each queue on its own. What is left of such a set can never
// be granted, because a grant needs all places; its own time ends it, or the settling of its locks.

// MaxSet is how many locks a set can have. With it a grant of a set is at most 100 items of a DynamoDB transaction.
const MaxSet = 10

// A Want is what a set asks of one of its locks.
type Want struct {
	Lock     string
	Capacity int64
	Permits  int64
}

// A SetRequest asks for permits on several locks, all or none. The fields have the meaning that they have in an [AcquireRequest].
type SetRequest struct {
	Locks     []Want // 1 to [MaxSet], each lock once, in any order
	Secret    string
	Owner     string
	Principal string
	TTL       time.Duration // of all its leases
	AnyTTL    bool          // the shortest limit of the locks takes the place of TTL
	Metadata  string
	Wait      time.Duration
	Tickets   []int64 // of an earlier [HeldError] for the same request; empty: none
	Token     Token   // of a task; a set is sent no hints
	Execution string
	Trace     string
}

// A SetStatus is the coordinator's answer about the lease of a set.
type SetStatus struct {
	Leases    []LeaseStatus // one for each lock, in the order of their names
	Remaining time.Duration // until the first of them expires
}

// A SetError says which lock of a set an error is about.
type SetError struct {
	Lock string
	Err  error
}

func (e *SetError) Error() string { return fmt.Sprintf("lock %q of the set: %v", e.Lock, e.Err) }

// Unwrap gives the error of the lock.
func (e *SetError) Unwrap() error { return e.Err }

// setSeparator is between the names in the text of a set. No lock's name contains it.
const setSeparator = ","

// setOf is the text of a set of locks: their names in order. The set of one lock is empty: it is no set.
func setOf(names []string) string {
	if len(names) == 1 {
		return ""
	}
	return strings.Join(names, setSeparator)
}

// SetNames are the locks of a set, by its text in [Terms].
func SetNames(set string) []string {
	if set == "" {
		return nil
	}
	return strings.Split(set, setSeparator)
}

// SetKey is the key of a lease secret on a set of locks; on one lock it is that of [KeyOf].
func SetKey(names []string, secret string) LeaseKey {
	sorted := slices.Sorted(slices.Values(names))
	return KeyOf(strings.Join(sorted, setSeparator), secret)
}

// inOrder are the wants of a set in the order of their names.
func inOrder(list []Want) ([]Want, error) {
	sorted := slices.SortedFunc(slices.Values(list), func(a, b Want) int { return strings.Compare(a.Lock, b.Lock) })
	names := namesOf(sorted)
	if len(names) == 0 || len(names) > MaxSet || len(slices.Compact(slices.Clone(names))) != len(names) {
		return nil, fmt.Errorf("lock: a set of the locks %q; give 1 to %d, each once", names, MaxSet)
	}
	return sorted, nil
}

func namesOf(list []Want) (names []string) {
	for _, w := range list {
		names = append(names, w.Lock)
	}
	return names
}

// AcquireAll grants permits on all locks of a set, or on none. Repeated with the secret of a live lease, it returns that lease again. The errors
// are those of [Coordinator.Acquire]; one about a single lock is a [*SetError]. A [*HeldError] is about the lock that holds the set up.
func (c *Coordinator) AcquireAll(ctx context.Context, req SetRequest) (SetStatus, error) {
	wants, err := inOrder(req.Locks)
	if err != nil {
		return SetStatus{}, err
	}
	if len(wants) == 1 {
		return c.acquireOne(ctx, wants[0], req)
	}
	req.Locks = wants
	names := namesOf(wants)
	op := c.withLimitsOfSet(ctx, setAcquiring{rules: c.rules, names: names, key: SetKey(names, req.Secret), req: req})
	out, err := c.acquireSet(ctx, op)
	if err != nil {
		return SetStatus{}, err
	}
	if err := c.checkOffset(out.offset); err != nil {
		c.undoSet(ctx, out)
		return SetStatus{}, err
	}
	return c.setStatus(ctx, op, out)
}

func (c *Coordinator) acquireSet(ctx context.Context, op setAcquiring) (out setOutcome, err error) {
	if len(op.req.Tickets) == len(op.names) && op.req.Wait > 0 && op.ones[0].polls() {
		return c.pollSet(ctx, op)
	}
	for range maxTries {
		out, err = c.runSet(ctx, op.names, nil, op)
		if err != nil || op.req.Wait == 0 || len(out.parts) == 0 || heldIn(out.after, op.key)+waitsIn(out.after, op.key) > 0 {
			return out, err
		}
		// The write removed abandoned waiters, or what was left of this set. The next one joins.
	}
	return out, nil
}

func (c *Coordinator) acquireOne(ctx context.Context, w Want, req SetRequest) (SetStatus, error) {
	one := AcquireRequest{
		Lock: w.Lock, Secret: req.Secret, Owner: req.Owner, Principal: req.Principal, TTL: req.TTL, AnyTTL: req.AnyTTL, Metadata: req.Metadata,
		Capacity: w.Capacity, Permits: w.Permits, Wait: req.Wait, Token: req.Token, Execution: req.Execution, Trace: req.Trace,
	}
	if len(req.Tickets) == 1 {
		one.Ticket = req.Tickets[0]
	}
	l, err := c.Acquire(ctx, one)
	if held, ok := errors.AsType[*HeldError](err); ok {
		held.Lock = w.Lock
		if held.Ticket != 0 {
			held.Tickets = []int64{held.Ticket}
		}
	}
	if err != nil {
		return SetStatus{}, err
	}
	return SetStatus{Leases: []LeaseStatus{l}, Remaining: l.Remaining}, nil
}

// setStatus is the answer about the lease of a set that the records show, or why they show none.
func (c *Coordinator) setStatus(ctx context.Context, op setAcquiring, out setOutcome) (SetStatus, error) {
	if heldIn(out.after, op.key) < len(op.names) {
		err := op.refusal(out.at, out.after)
		if held, ok := errors.AsType[*HeldError](err); ok && len(op.req.Tickets) == 0 {
			c.nameHolders(ctx, held.Lock, held)
		}
		return SetStatus{}, err
	}
	return c.setLease(ctx, op.names, op.key, out.after)
}

func (c *Coordinator) setLease(ctx context.Context, names []string, key LeaseKey, rs []Record) (s SetStatus, err error) {
	for i, name := range names {
		r := rs[i]
		if h := r.Holders[key]; h.Split != Whole { // a repeated request, whose caller knows the texts
			texts, _ := c.store.Texts(ctx, name, []int64{h.Fence})
			r = r.withHolder(key, h.With(texts[h.Fence]))
		}
		l, err := c.lease(name, key, r)
		if err != nil {
			return SetStatus{}, err
		}
		if i == 0 || l.Remaining < s.Remaining {
			s.Remaining = l.Remaining
		}
		s.Leases = append(s.Leases, l)
	}
	return s, nil
}

// A SetRenewRequest extends the lease of a set.
type SetRenewRequest struct {
	Locks     []string
	Secret    string
	Principal string
	TTL       time.Duration // 0: the TTL that the lease has
	Metadata  *string       // nil: unchanged
}

// RenewAll extends the live lease of a set in all its locks, as [Coordinator.Renew] does in one. A lease that is over in one of the locks is
// [ErrLeaseLost]: the caller releases the rest.
func (c *Coordinator) RenewAll(ctx context.Context, req SetRenewRequest) (SetStatus, error) {
	names, err := sortedNames(req.Locks)
	if err != nil {
		return SetStatus{}, err
	}
	one := RenewRequest{Lock: names[0], Secret: req.Secret, Principal: req.Principal, TTL: req.TTL, Metadata: req.Metadata}
	if len(names) == 1 {
		l, err := c.Renew(ctx, one)
		if err != nil {
			return SetStatus{}, err
		}
		return SetStatus{Leases: []LeaseStatus{l}, Remaining: l.Remaining}, nil
	}
	key := SetKey(names, req.Secret)
	out, err := c.runSet(ctx, names, nil, setRenewing{c.rules, names, key, one})
	if err != nil {
		return SetStatus{}, err
	}
	if err := c.checkOffset(out.offset); err != nil {
		return SetStatus{}, err
	}
	return c.setLease(ctx, names, key, out.after)
}

// A SetReleaseRequest ends the lease of a set, or removes its places.
type SetReleaseRequest struct {
	Locks     []string
	Secret    string
	Principal string
}

// ReleaseAll ends the lease of a set in all its locks, or removes the set from all queues. If the lease is over in some of the locks, it is
// ended in the others, and the error is [ErrLeaseLost]. Repeated, it returns the same answer while a record remembers the lease.
func (c *Coordinator) ReleaseAll(ctx context.Context, req SetReleaseRequest) ([]Released, error) {
	names, err := sortedNames(req.Locks)
	if err != nil {
		return nil, err
	}
	if len(names) == 1 {
		r, err := c.Release(ctx, ReleaseRequest{Lock: names[0], Secret: req.Secret, Principal: req.Principal})
		if err != nil {
			return nil, err
		}
		return []Released{r}, nil
	}
	key := SetKey(names, req.Secret)
	op := &setReleasing{rules: c.rules, names: names, key: key, by: req.Principal}
	out, err := c.runSet(ctx, names, nil, op)
	if err != nil {
		return nil, err
	}
	if op.partial {
		return nil, ErrLeaseLost
	}
	var list []Released
	for i, r := range out.after {
		if r.Retired.Key == key {
			list = append(list, Released{Lock: names[i], Fence: r.Retired.Fence, At: r.Retired.At})
		}
	}
	return list, nil
}

func sortedNames(list []string) ([]string, error) {
	var wants []Want
	for _, name := range list {
		wants = append(wants, Want{Lock: name})
	}
	wants, err := inOrder(wants)
	return namesOf(wants), err
}
