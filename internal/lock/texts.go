package lock

import "context"

// The texts of a semaphore's leases. A store may keep the owner, principal and metadata of a lease apart from its record, so that a write
// of a lock with many holders does not pay for all their texts. Whoever shows a lease to others reads them: a status, a list, a
// refusal, a force-release, an event.

// namedHolders is how many of the holders a refusal names at most: each costs a read unit, and a refused caller may come often.
const namedHolders = 10

// withTexts reads the texts of the leases of a record under some keys.
func (c *Coordinator) withTexts(ctx context.Context, name string, r Record, keys []LeaseKey) (Record, error) {
	var split []LeaseKey
	for _, key := range keys {
		if r.Holders[key].Split != Whole {
			split = append(split, key)
		}
	}
	if len(split) == 0 {
		return r, nil
	}
	texts, err := c.store.Texts(ctx, name, split)
	if err != nil {
		return r, err
	}
	for _, key := range split {
		r = r.withHolder(key, r.Holders[key].With(texts[key]))
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
	r := Record{}
	var keys []LeaseKey
	for _, ch := range changes {
		if ch.Lease.Split != Whole {
			r, keys = r.withHolder(ch.Key, ch.Lease), append(keys, ch.Key)
		}
	}
	if len(keys) == 0 {
		return changes, nil
	}
	r, err := c.withTexts(ctx, name, r, keys)
	list := make([]Change, len(changes))
	for i, ch := range changes {
		if list[i] = ch; ch.Lease.Split != Whole {
			texts := r.Holders[ch.Key]
			list[i].Lease = ch.Lease.With(Texts{texts.Owner, texts.Principal, texts.Metadata})
		}
	}
	return list, err
}
