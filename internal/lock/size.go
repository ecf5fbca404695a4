package lock

// The size of records. A store keeps the leases of a lock in one item, whose size is limited (400 KB in DynamoDB). A lease is
// granted only if it fits beside the others; one that does not fit waits as if its permits were taken, or is refused with a
// [*FullError]. Waiters are items of their own and count when they are granted.

const (
	// MaxRecordBytes is how many bytes a record may take, by [Record.Bytes]: less than the 409,600 bytes of a DynamoDB item.
	MaxRecordBytes = 400_000
	// MaxMetadata is how many bytes of metadata a lease may have. Every lease is granted with room for them: a renewal may
	// bring them, and is one write that does not read the record.
	MaxMetadata = 2048

	recordBytes = 4096 // the record without its leases
	holderBytes = 256  // a lease without its texts: attribute names, numbers and the key
	boundsBytes = 64   // the limits that a lease keeps
	grantBytes  = 16   // the time of a grant
	tokenBytes  = 8    // a callback token without its kind and text
)

// Bytes is an upper bound of the record's size in a store, whatever metadata renewals bring.
func (r Record) Bytes() int64 {
	sum := int64(recordBytes + grantBytes*len(r.Grants))
	for _, h := range r.Holders {
		sum += h.bytes()
	}
	return sum
}

func (t Terms) bytes() int64 {
	size := holderBytes
	if t.Bounds != (Bounds{}) {
		size += boundsBytes
	}
	return int64(size + len(t.Owner) + len(t.Principal) + t.Tokens.bytes() + len(t.Execution) + len(t.Set) + len(t.Trace) + len(t.Newer) + max(len(t.Metadata), MaxMetadata))
}

// room returns a [*FullError] if the record has no room for another lease. An empty record has room for any.
func (r Record) room(want Terms) error {
	if len(r.Holders) == 0 {
		return nil
	}
	return full(r.Bytes() + want.bytes())
}

// grows returns a [*FullError] if a change makes the record larger than it may be.
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
