package lockclient

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Exclusive returns a Lambda handler that runs handler only while it holds a lock. The function name returns the lock's name for an
// event:
//
//	lambda.Start(lockclient.Exclusive(client, func(e Order) string { return "order:" + e.ID }, handle))
//
// If others hold the lock, handler does not run, and the invocation fails with a [*HeldError], so that the invoker, such as a queue,
// tries again. Waiting for the lock in a function is billed, so Exclusive does not wait unless Options.Wait is set. The handler
// finds its lease with [LeaseFrom].
//
// The lease lasts until the end of the invocation and about a second longer (see Options.TTL); it is not renewed. If the
// invocation is killed or times out, the lock is free soon after. The release ends before the invocation's deadline, and its
// failure is not the invocation's: the handler's work is done, and the lease expires. If the lease is lost while the handler runs,
// the error matches [ErrLost] and is joined with the handler's own error.
func Exclusive[In, Out any](client *Client, name func(In) string, handler func(context.Context, In) (Out, error), opts ...Options) func(context.Context, In) (Out, error) {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	return func(ctx context.Context, event In) (out Out, err error) {
		var outcome error
		ran := false
		err = client.do(ctx, name(event), o, o.Wait > 0, func(ctx context.Context, _ *Lease) error {
			ran = true
			out, outcome = handler(ctx, event)
			return outcome
		})
		switch held, isHeld := errors.AsType[*HeldError](err); {
		case !ran && isHeld:
			return out, held // not wrapped, so that Lambda's errorType is HeldError
		case ran && !errors.Is(err, ErrLost): // only the release may have failed besides the handler
			return out, outcome
		}
		return out, err
	}
}

type leaseKey struct{}

// LeaseFrom returns the lease of the function that [Client.Do] or [Exclusive] runs with ctx, or nil if ctx is another context.
func LeaseFrom(ctx context.Context) *Lease {
	l, _ := ctx.Value(leaseKey{}).(*Lease)
	return l
}

// An invocation is an invocation of a Lambda function.
type invocation struct {
	id       string
	deadline time.Time
}

// invocationOf returns the Lambda invocation whose context ctx is derived from, or nil.
func invocationOf(ctx context.Context) *invocation {
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok {
		return nil
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	return &invocation{lc.AwsRequestID, deadline}
}

// reportMargin is the time that the runtime needs to report an invocation's outcome before its deadline.
const reportMargin = 500 * time.Millisecond

// budget returns the time limit of a release after the handler's work: most, but in an invocation at most its remaining time less
// reportMargin, or half of the remaining time if that is short.
func budget(ctx context.Context, most time.Duration) time.Duration {
	inv := invocationOf(ctx)
	if inv == nil {
		return most
	}
	left := time.Until(inv.deadline)
	return max(min(most, left-min(left/2, reportMargin)), 0)
}

// owner returns the owner of the locks that the invocation holds: FUNCTION/REQUEST-ID.
func (i *invocation) owner() string {
	return os.Getenv("AWS_LAMBDA_FUNCTION_NAME") + "/" + i.id
}

// ttl returns the TTL of a lease that lasts from now until the invocation's deadline and a margin of a second and twice the margin
// for the rate of clocks (rateMargin). So the lease is proved until the end of the invocation, and outlives it by two seconds at
// most.
func (i *invocation) ttl() time.Duration {
	left := time.Until(i.deadline)
	ttl := left + time.Second + 2*left/rateMargin
	return min(max(ttl, wire.MinTTL), wire.MaxTTL).Truncate(time.Millisecond)
}
