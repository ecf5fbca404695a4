package wire

// HistoryRequest asks for a page of a lock's history.
type HistoryRequest struct {
	From   *Time  `json:"from,omitempty"`  // entries of this time and later
	To     *Time  `json:"to,omitempty"`    // entries before this time
	Order  string `json:"order,omitzero"`  // [NewestFirst], the default, or [OldestFirst]
	Limit  int    `json:"limit,omitzero"`  // entries on the page, 1 to [MaxPage]; default [DefaultPage]
	Cursor string `json:"cursor,omitzero"` // the NextCursor of the page before
}

// The orders of a history.
const (
	NewestFirst = "newest"
	OldestFirst = "oldest"
)

// History is the answer to a request for a lock's history. An empty NextCursor means that this is the last page.
type History struct {
	Lock       string         `json:"lock"`
	Entries    []HistoryEntry `json:"entries"`
	Keeping    *Keeping       `json:"keeping,omitempty"` // the rule by which the history is kept now; nil: nothing is added
	NextCursor string         `json:"next_cursor,omitempty"`
	ServerTime Time           `json:"server_time"`
}

// HistoryEntry is a grant or an end of a lease.
type HistoryEntry struct {
	At         Time     `json:"at"`
	Kind       string   `json:"kind"` // acquired, released, expired or force-released
	Fence      int64    `json:"fence"`
	Owner      string   `json:"owner"`
	Principal  string   `json:"principal,omitempty"`
	Set        []string `json:"set,omitempty"` // the names of the locks that were acquired together, in order; absent: this one alone
	Permits    int64    `json:"permits"`
	AcquiredAt Time     `json:"acquired_at"`
	Held       *int64   `json:"held_ms,omitempty"`  // of an end
	Waited     int64    `json:"waited_ms,omitzero"` // in the queue before the grant
	Cause      string   `json:"cause,omitempty"`    // of an end: what kind of write ended the lease
	By         string   `json:"by,omitempty"`       // of a force-release: the principal that did it
	Reason     string   `json:"reason,omitempty"`   // of a force-release
	Unclaimed  bool     `json:"unclaimed,omitempty"`
	Purged     bool     `json:"purged,omitempty"`
	InUse      int64    `json:"permits_held"` // permits of the lock that were held after the change
	Waiting    int64    `json:"waiting"`      // waiters after the change

	Traceparent string `json:"traceparent,omitempty"` // the trace context (W3C) of the acquire
}
