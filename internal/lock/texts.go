package lock

import (
	"context"
	"slices"
)

// The texts of a semaphore's leases. A store may keep the owner, principal and metadata of a lease apart from its record, so that a write
// of a lock with many holders does not pay for all their texts. Whoever shows a lease to others reads them: a status, a list, a
// refusal, a force-release, an event.

// namedHolders is how many of the holders a refusal names at most: each costs a read unit, and a refused caller may come often.
const namedHolders = 10

// withTexts reads the texts of the leases of a record under some keys.
func (c *Coordinator) withTexts(ctx context.Context, name string, r Record, keys []LeaseKey) (Record, error) {
	var split []int64
	for _, key := range keys {
		if l := r.Holders[key]; l.Split != Whole {
			split = append(split, l.Fence)
		}
	}
	if len(split) == 0 {
		return r, nil
	}
	texts, err := c.store.Texts(ctx, name, split)
	if err != nil {
		return r, err
	}
	for _, key := range keys {
		l := r.Holders[key]
		r = r.withHolder(key, l.With(texts[l.Fence]))
	}
	return r, nil
}

// nameHolders reads the texts of the first holders that a refusal lists. It is as good without them.
func (c *Coordinator) nameHolders(ctx context.Context, name string, held *HeldError) {
	first := held.keys[:min(len(held.keys), namedHolders)]
	r := Record{Holders: map[LeaseKey]Lease{}}
	for i, key := range first {
		r.Holders[key] = held.Holders[i]
	}
	r, _ = c.withTexts(ctx, name, r, first)
	for i, key := range first {
		held.Holders[i] = r.Holders[key]
	}
}

// TextsOf reads the texts of leases that changes are about. If they cannot be read, the changes are returned without, with the error.
func (c *Coordinator) TextsOf(ctx context.Context, name string, changes []Change) ([]Change, error) {
	var split []int64
	for _, ch := range changes {
		if ch.Lease.Split != Whole {
			split = append(split, ch.Lease.Fence)
		}
	}
	if len(split) == 0 {
		return changes, nil
	}
	texts, err := c.store.Texts(ctx, name, split)
	list := slices.Clone(changes)
	for i, ch := range changes {
		list[i].Lease = ch.Lease.With(texts[ch.Lease.Fence])
	}
	return list, err
}
