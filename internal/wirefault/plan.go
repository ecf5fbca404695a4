package wirefault

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Kind is a kind of fault.
type Kind string

// The kinds of faults that a [Rule] injects.
const (
	// DropRequest loses the request: it never reaches the server. The connection stays silent for the rule's time, and is then closed.
	DropRequest Kind = "drop-request"
	// DropReply loses the reply: the server has handled the request. The connection stays silent for the rule's time, and is then closed.
	DropReply Kind = "drop-reply"
	// Delay delivers the request after the rule's time, even if the sender has given up by then.
	Delay Kind = "delay"
	// DelayReply delivers the reply after the rule's time.
	DelayReply Kind = "delay-reply"
	// Duplicate delivers the request twice: the second time after the rule's time. The sender gets the first reply.
	Duplicate Kind = "duplicate"
	// Late closes the connection at once, and delivers the request after the rule's time, when the sender has gone on.
	Late Kind = "late"
	// Error500 answers with the protocol's own error of status 500 after the server has handled the request.
	Error500 Kind = "error-500"
	// Throttle answers with the protocol's own refusal of a request that came too fast. The request does not reach the server.
	Throttle Kind = "throttle"
	// Reset resets the connection (RST): before the request is delivered, after the server has handled it, or after half of the reply.
	Reset Kind = "reset"
)

// Kinds lists every kind of fault that a rule injects.
func Kinds() []Kind {
	return []Kind{DropRequest, DropReply, Delay, DelayReply, Duplicate, Late, Error500, Throttle, Reset}
}

// Partitioned counts the requests that a partition held back; see [Proxy.Partition].
const Partitioned Kind = "partition"

// A Duration is a time.Duration that JSON has as text: "150ms".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// A Rule injects one kind of fault into a share of the requests.
type Rule struct {
	Kind Kind    `json:"kind"`
	Rate float64 `json:"rate"` // the share of the requests that match, 0 to 1
	// Clients are the names of the clients whose requests match; empty: those of all. See [Proxy.Listen].
	Clients []string `json:"clients,omitempty"`
	// Operations are those whose requests match, such as "UpdateItem", "acquire", or a Lambda function's name; empty: all.
	Operations []string `json:"operations,omitempty"`
	// Min and Max are the shortest and the longest time of the fault, for the kinds that have one. A time between them is chosen.
	Min Duration `json:"min,omitempty"`
	Max Duration `json:"max,omitempty"`
	// Limit is how many requests get the fault; 0: no limit. With Rate 1 and Limit 1 it is the next request that matches.
	Limit int `json:"limit,omitempty"`
}

// maxTime bounds the time of a fault, so that nothing waits for ever.
const maxTime = 5 * time.Minute

func (r Rule) validate() error {
	switch {
	case !slices.Contains(Kinds(), r.Kind):
		return fmt.Errorf("wirefault: kind is %q; give one of %v", r.Kind, Kinds())
	case !(r.Rate >= 0 && r.Rate <= 1):
		return fmt.Errorf("wirefault: rate of %s is %v; give a share of the requests, 0 to 1", r.Kind, r.Rate)
	case r.Min < 0 || r.Max < r.Min || r.Max > Duration(maxTime):
		return fmt.Errorf("wirefault: min and max of %s are %v and %v; give times from 0 to %v, the smaller one as min",
			r.Kind, time.Duration(r.Min), time.Duration(r.Max), maxTime)
	case r.Limit < 0:
		return fmt.Errorf("wirefault: limit of %s is %d; give a number of requests, or 0 for no limit", r.Kind, r.Limit)
	}
	return nil
}

func (r Rule) matches(client, operation string) bool {
	return (len(r.Clients) == 0 || slices.Contains(r.Clients, client)) && (len(r.Operations) == 0 || slices.Contains(r.Operations, operation))
}

// A Plan says which requests get which faults. The decision about a client's n-th request follows from the seed, the client's name, n,
// and the rules alone, so a run with the same seed injects the same faults into the same requests of each client.
type Plan struct {
	Seed  uint64 `json:"seed"`
	Rules []Rule `json:"rules"` // at most one fault for a request: the first rule whose share it falls into
}

func (p Plan) validate() error {
	for _, r := range p.Rules {
		if err := r.validate(); err != nil {
			return err
		}
	}
	return nil
}

// fault is the decision about one request; the zero value is no fault.
type fault struct {
	Kind Kind
	time time.Duration
	// part is from 0 to 3 and chooses among the forms of a kind, such as when a connection is reset.
	part int
	rule int // its index
}

// decide returns the fault for a client's n-th request; spent says how often each rule was used.
func (p Plan) decide(client, operation string, n uint64, spent []int) fault {
	h := fnv.New64a()
	_, _ = h.Write([]byte(client))
	random := rand.New(rand.NewPCG(p.Seed^h.Sum64(), n))
	draw, part, within := random.Float64(), random.IntN(4), random.Float64()
	for i, r := range p.Rules {
		if !r.matches(client, operation) || r.Limit > 0 && spent[i] >= r.Limit {
			continue
		}
		if draw -= r.Rate; draw < 0 {
			length := time.Duration(r.Min) + time.Duration(within*float64(r.Max-r.Min))
			return fault{Kind: r.Kind, time: length, part: part, rule: i}
		}
	}
	return fault{}
}

// ParseRules reads rules in a short form, separated by commas: KIND=RATE, or KIND=RATE:MIN-MAX with times, such as
// "drop-reply=0.02,delay=0.05:10ms-200ms". It suits a flag.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		kind, rest, ok := strings.Cut(part, "=")
		rate, times, timed := strings.Cut(rest, ":")
		r := Rule{Kind: Kind(kind)}
		if _, err := fmt.Sscanf(rate, "%g", &r.Rate); err != nil || !ok {
			return nil, fmt.Errorf("wirefault: rule %q is not KIND=RATE or KIND=RATE:MIN-MAX, such as delay=0.05:10ms-200ms", part)
		}
		if timed {
			low, high, _ := strings.Cut(times, "-")
			if err := r.Min.UnmarshalText([]byte(low)); err != nil {
				return nil, fmt.Errorf("wirefault: min of rule %q is %q; give a time such as 10ms", part, low)
			}
			if err := r.Max.UnmarshalText([]byte(high)); err != nil {
				return nil, fmt.Errorf("wirefault: max of rule %q is %q; give a time such as 200ms", part, high)
			}
		}
		if err := r.validate(); err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}
