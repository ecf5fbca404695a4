package lockclient

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Exclusive makes a Lambda handler that runs only while it holds a lock, whose name it takes from the event:
//
//	lambda.Start(lockclient.Exclusive(client, func(e Order) string { return "order:" + e.ID }, handle))
//
// If others hold the lock the handler does not run, and the invocation fails with a [*HeldError]: whoever invoked it, a
// queue or a person, tries again. Waiting inside a function is billed; Options.Wait allows it nevertheless, up to that
// time, and no waiting is its default here. The handler finds its lease with [LeaseFrom].
//
// The lease lasts as long as the invocation, and a little longer (see [Options.TTL]); nothing renews it. So the lock of an
// invocation that was killed or timed out comes free right after its own deadline. The same holds if the release brings no
// answer: it ends before the deadline, and its failure is not the handler's, whose work is done. A lease that was lost while the
// handler ran is an [ErrLost], joined with the handler's own error.
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
			return out, held // by itself, so that Lambda's errorType is HeldError
		case ran && !errors.Is(err, ErrLost): // what failed besides the handler is the release
			return out, outcome
		}
		return out, err
	}
}

type leaseKey struct{}

// LeaseFrom is the lease that a function run by [Client.Do] or [Exclusive] holds; nil if ctx is not of one.
func LeaseFrom(ctx context.Context) *Lease {
	l, _ := ctx.Value(leaseKey{}).(*Lease)
	return l
}

// An invocation is a Lambda function's, as its context tells.
type invocation struct {
	id       string
	deadline time.Time
}

// invocationOf finds the Lambda invocation whose context ctx is, or derives from; nil elsewhere.
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

// reportMargin is what is left to the runtime to report an invocation's outcome.
const reportMargin = 500 * time.Millisecond

// budget bounds what is done after a handler's work, or instead of it: most, but in an invocation no more than is left of it, less
// reportMargin, or less half of what is left if that is little.
func budget(ctx context.Context, most time.Duration) time.Duration {
	inv := invocationOf(ctx)
	if inv == nil {
		return most
	}
	left := time.Until(inv.deadline)
	return max(min(most, left-min(left/2, reportMargin)), 0)
}

// owner is who holds, as others see it.
func (i *invocation) owner() string {
	return os.Getenv("AWS_LAMBDA_FUNCTION_NAME") + "/" + i.id
}

// ttl is the life of a lease that lasts from now until the invocation's deadline and a margin: a second, and what the
// client takes off for the rate of clocks, twice. So the invocation never outlives its lease, and its lease outlives it by
// no more than two seconds or so.
func (i *invocation) ttl() time.Duration {
	left := time.Until(i.deadline)
	ttl := left + time.Second + 2*left/rateMargin
	return min(max(ttl, wire.MinTTL), wire.MaxTTL).Truncate(time.Millisecond)
}
