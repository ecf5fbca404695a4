// Package api stands between the wire format and the coordinator. It decodes a request strictly, passes it to the coordinator,
// and encodes the answer. [API.Call] does this for a caller in the same process. Two thin adapters do it for AWS Lambda:
// [API.Handler] takes the events of API Gateway's HTTP API (gateway.go) and direct invocations of the function (invoke.go).
package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Config is the configuration of an [API].
type Config struct {
	Coordinator *lock.Coordinator // required
	Log         *slog.Logger      // required
	MinTTL      time.Duration     // the shortest TTL that a request may ask for; zero: wire.MinTTL
	MaxTTL      time.Duration     // the longest TTL that a request may ask for, at most wire.MaxTTL; zero: wire.DefaultMaxTTL
	// Machines are the names of the state machines whose executions leases may belong to. A "*" at the end of a name matches
	// any rest.
	Machines []string
	// NotifyPrefix is how the URL of a queue begins that a waiter may be notified by, such as
	// "https://sqs.eu-west-1.amazonaws.com/123456789012/holdfast-notify-". Empty: no waiter is notified.
	NotifyPrefix string
	// NoHTTP refuses events of API Gateway: the deployment has no HTTP API, so whoever sends one has made it up, with any principal.
	NoHTTP  bool
	Metrics string // the CloudWatch namespace of the metrics in the log records; empty: no metrics
	// Traceparent returns the trace context (W3C) of a request that carries none itself, or "". Nil: there is none.
	Traceparent func(context.Context) string
}

// An API serves requests to one coordinator. It is safe for concurrent use.
type API struct {
	coordinator *lock.Coordinator
	log         *slog.Logger
	minTTL      time.Duration
	maxTTL      time.Duration
	machines    []string
	notify      string // Config.NotifyPrefix
	noHTTP      bool
	metrics     string
	groups      *emf.Groups
	traceparent func(context.Context) string // Config.Traceparent
}

// New makes an API. It fails if a required field is missing or a limit is out of range.
func New(cfg Config) (*API, error) {
	if cfg.MinTTL == 0 {
		cfg.MinTTL = wire.MinTTL
	}
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = wire.DefaultMaxTTL
	}
	switch {
	case cfg.Coordinator == nil:
		return nil, errors.New("api: Config.Coordinator is nil")
	case cfg.Log == nil:
		return nil, errors.New("api: Config.Log is nil")
	case cfg.MinTTL < time.Millisecond || cfg.MinTTL > wire.DefaultTTL:
		return nil, fmt.Errorf("api: MinTTL is %v; it must be from 1ms to %v, the default of a request", cfg.MinTTL, wire.DefaultTTL)
	case cfg.MaxTTL > wire.MaxTTL || cfg.MaxTTL < wire.DefaultTTL:
		return nil, fmt.Errorf("api: MaxTTL is %v; it must be from %v, the default of a request, to %v", cfg.MaxTTL, wire.DefaultTTL, wire.MaxTTL)
	}
	return &API{cfg.Coordinator, cfg.Log, cfg.MinTTL, cfg.MaxTTL, cfg.Machines, cfg.NotifyPrefix, cfg.NoHTTP, cfg.Metrics, new(emf.Groups), cfg.Traceparent}, nil
}

// Call serves a request of this process. Name is the lock's, or the scope of a set; it is empty for list. Body has the operation's fields, as a JSON
// object; nil means that there are none. The caller may use task tokens, as a direct invocation may, and has no principal. The answer
// is the operation's, a struct of package wire such as [wire.Lease]; it is nil if there is a problem.
func (a *API) Call(ctx context.Context, op wire.Op, name string, body []byte) (answer any, problem *wire.Problem) {
	c := &call{op: op, lock: name, requestID: rand.Text(), fields: newObject()}
	if op.IsSet() {
		c.lock, c.scope = "", name
	}
	if body != nil {
		c.fields, c.malformed = parseObject(body)
	}
	return a.serve(ctx, c)
}
