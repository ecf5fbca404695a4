package lock

import (
	"context"
	"iter"
	"maps"
	"slices"
)

// The texts of a semaphore's leases. A store may keep the owner, principal and metadata of a lease apart from its record, so that a write
// of a lock with many holders does not pay for all their texts. Whoever shows a lease to others reads them: a status, a list, a
// refusal, a force-release, an event.

// namedHolders is how many of the holders a refusal names at most: each costs a read unit, and a refused caller may come often.
const namedHolders = 10

// lookUp reads the texts that the store keeps apart, by the fencing tokens of their leases.
func (c *Coordinator) lookUp(ctx context.Context, name string, leases iter.Seq[Lease]) (map[int64]Texts, error) {
	var split []int64
	for l := range leases {
		if l.Split != Whole {
			split = append(split, l.Fence)
		}
	}
	if len(split) == 0 {
		return nil, nil
	}
	return c.store.Texts(ctx, name, split)
}

// withTexts reads the texts of all leases of a record.
func (c *Coordinator) withTexts(ctx context.Context, name string, r Record) (Record, error) {
	texts, err := c.lookUp(ctx, name, maps.Values(r.Holders))
	if err != nil || texts == nil {
		return r, err
	}
	r.Holders = maps.Clone(r.Holders)
	for key, l := range r.Holders {
		r.Holders[key] = l.With(texts[l.Fence])
	}
	return r, nil
}

// nameHolders reads the texts of the first holders that a refusal lists. It is as good without them.
func (c *Coordinator) nameHolders(ctx context.Context, name string, held *HeldError) {
	first := held.Holders[:min(len(held.Holders), namedHolders)]
	texts, err := c.lookUp(ctx, name, slices.Values(first))
	if err != nil || texts == nil {
		return
	}
	for i, l := range first {
		first[i] = l.With(texts[l.Fence])
	}
}

// TextsOf reads the texts of leases that changes are about. If they cannot be read, the changes are returned without, with the error.
func (c *Coordinator) TextsOf(ctx context.Context, name string, changes []Change) ([]Change, error) {
	texts, err := c.lookUp(ctx, name, func(yield func(Lease) bool) {
		for _, ch := range changes {
			if !yield(ch.Lease) {
				return
			}
		}
	})
	if texts == nil && err == nil {
		return changes, nil
	}
	list := slices.Clone(changes)
	for i, ch := range changes {
		list[i].Lease = ch.Lease.With(texts[ch.Lease.Fence])
	}
	return list, err
}
