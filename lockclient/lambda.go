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
// invocation that was killed or timed out comes free right after its own deadline.
func Exclusive[In, Out any](client *Client, name func(In) string, handler func(context.Context, In) (Out, error), opts ...Options) func(context.Context, In) (Out, error) {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	return func(ctx context.Context, event In) (out Out, err error) {
		err = client.do(ctx, name(event), o, o.Wait > 0, func(ctx context.Context, _ *Lease) error {
			out, err = handler(ctx, event)
			return err
		})
		if held, ok := errors.AsType[*HeldError](err); ok && errors.Is(err, ErrAcquire) {
			return out, held // by itself, so that Lambda's errorType is HeldError
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
