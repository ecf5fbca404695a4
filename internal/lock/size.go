package lock

// How much a record may hold. A store keeps a lock's holders in one item, which has a limit (400 KB in DynamoDB), so a lease is
// granted only where it fits beside the others. One that does not fit waits as if its permits were taken, or is told so by a
// [*FullError]. Waiters are items of their own, and count when they are granted.

const (
	// MaxRecordBytes is how many bytes a record may take, by [Record.Bytes]: some less than the 409,600 of a DynamoDB item.
	MaxRecordBytes = 400_000
	// MaxMetadata is how many bytes of metadata each lease may have at any time: a renewal may bring them, and is one write that
	// sees no record, so every lease is granted with room for them.
	MaxMetadata = 2048

	recordBytes = 4096 // the record without its holders: its name, who wrote it and why
	holderBytes = 256  // a holder without its texts: names of attributes, numbers and the lease's key
)

// Bytes bounds what the record takes in a store, whatever renewals do to its leases' metadata.
func (r Record) Bytes() int64 {
	sum := int64(recordBytes)
	for _, h := range r.Holders {
		sum += h.bytes()
	}
	return sum
}

func (t Terms) bytes() int64 {
	return int64(holderBytes + len(t.Owner) + len(t.Principal) + len(t.Tokens.String()) + len(t.Execution) + max(len(t.Metadata), MaxMetadata))
}

// room tells, by a [*FullError], that a lease has no room beside the record's others. Alone, every lease has.
func (r Record) room(want Terms) error {
	if len(r.Holders) == 0 {
		return nil
	}
	return full(r.Bytes() + want.bytes())
}

// grows tells, by a [*FullError], that a change of a record's leases makes it larger than it may be.
func grows(from, to Record) error {
	if size := to.Bytes(); size > from.Bytes() {
		return full(size)
	}
	return nil
}

func full(size int64) error {
	if size <= MaxRecordBytes {
		return nil
	}
	return &FullError{Size: size, Most: MaxRecordBytes}
}
