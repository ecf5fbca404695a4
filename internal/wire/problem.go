package wire

// Problem is the body of every response that is not a success, in the format of RFC 9457 with a code added.
type Problem struct {
	Type       string          `json:"type"`
	Title      string          `json:"title"`
	Status     int             `json:"status"`
	Detail     string          `json:"detail"`
	Code       Code            `json:"code"`
	Lock       string          `json:"lock,omitempty"`           // the lock's name, if the request had a valid one; of a set, the lock that the problem is about
	Field      string          `json:"field,omitempty"`          // the field of the request that is wrong
	Holders    []ProblemHolder `json:"holders,omitempty"`        // with lock_held and frozen: the live leases
	RetryAfter int64           `json:"retry_after_ms,omitempty"` // a hint when to send the request again
	Position   int64           `json:"position,omitempty"`       // the caller's place in the lock's queue, from 1
	Waiting    int64           `json:"waiting,omitempty"`        // the length of the queue
	Ticket     int64           `json:"ticket,omitempty"`         // of the place in the queue, to send with the next poll
	Tickets    []int64         `json:"tickets,omitempty"`        // of a set: those of its places, in the order of the locks' names
	Freeze     *Freeze         `json:"freeze,omitempty"`         // with frozen: the freeze
	Limit      string          `json:"limit,omitempty"`          // with limit_exceeded, queue_full and lease_lost: the limit that refuses the request
	Value      int64           `json:"value,omitempty"`          // of the limit
	Period     int64           `json:"period_ms,omitempty"`      // of a limit of grants: in any such period the lock is granted Value times at most
	Prefix     string          `json:"prefix,omitempty"`         // of the rule that sets the limit; "*" for all locks
	RequestID  string          `json:"request_id"`               // also in the log record of the request
}

// NewProblem returns a problem with the members that follow from its code.
func NewProblem(c Code, requestID string) *Problem {
	return &Problem{Type: "urn:holdfast:problem:" + string(c), Title: c.Title(), Status: c.Status(), Code: c, RequestID: requestID}
}

// Outage reports whether the problem is the coordinator's and may pass. It is then unknown whether the request took effect, and
// the client sends the same request again. A code of a newer version is judged by the status.
func (p *Problem) Outage() bool {
	if row := codes[p.Code.row()]; row.code == p.Code {
		return row.outage
	}
	return p.Status >= 500 || p.Status == 429
}

// ProblemHolder is a live lease in a problem with the code lock_held or frozen.
type ProblemHolder struct {
	Owner     string `json:"owner"`
	Fence     int64  `json:"fence"`
	ExpiresAt Time   `json:"expires_at"`
	Remaining int64  `json:"remaining_ms"`

	Traceparent string `json:"traceparent,omitempty"` // of the acquire that was granted
}
