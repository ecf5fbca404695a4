package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Callbacks tell those who wait with a token. Their errors are [ErrTaskGone], or mean that nobody knows.
type Callbacks interface {
	Succeed(ctx context.Context, token string, output []byte) error
	Fail(ctx context.Context, token, code, cause string) error
}

// ErrTaskGone says that nobody waits with this token. The task may have been told before, have timed out, or be of an execution that
// ended: the services do not say which.
var ErrTaskGone = errors.New("nobody waits with this token")

// ErrUndeliverable says that a callback can never be sent: the deployment does not allow it, or the token is none.
var ErrUndeliverable = errors.New("callback cannot be sent")

// What a wait that ends without a grant fails with, for a state machine's Catch.
const (
	FailTimedOut  = "WaitTimedOut"
	FailCancelled = "WaitCancelled"
	FailLost      = "LeaseLost"
)

// tell delivers a grant to whoever waits for it with a token. false: the write must come again.
//
// That it is about to be tried is stored first, under the lease and its fence. So when nobody waits any more:
//
//   - on the first attempt ever, with the only token there ever was, nobody can have been told: the task is dead, and its
//     lease is ended at once;
//   - on a later one, an earlier attempt may have succeeded and its answer been lost, or this process died after it: the task
//     may be at work under the lock. Nothing is ended; the lease's TTL, or its execution's end, decides. The same if the task
//     was tried again and so has several tokens: all are told, and nobody knows whose is whose.
//
// A crash before the attempt was stored repeats as a first one; a crash after it, as a later one. A live task loses its lock
// to neither, and a dead one keeps it for a TTL at most.
func (c *Consumer) tell(ctx context.Context, w Write, granted lock.Change) bool {
	h := granted.Holder
	req := lock.ExpireRequest{Lock: w.Lock, Lease: granted.Lease, Fence: h.Fence}
	first, err := c.Coordinator.Attempt(ctx, req, h.Token, w.After)
	switch {
	case errors.Is(err, lock.ErrSuperseded): // the write that added a token tells all
		return true
	case errors.Is(err, lock.ErrLeaseLost): // ended, or forced out, before it could be told
		return c.fail(ctx, w.Lock, h, FailLost, "the lease ended before it could be told")
	case err != nil:
		c.Log.ErrorContext(ctx, "grant was not told", "lock", w.Lock, "fence", h.Fence, "error", err)
		return false
	}
	gone, done := 0, true
	tokens := h.Tokens()
	for _, token := range tokens {
		switch err := c.Callbacks.Succeed(ctx, token, output(w.Lock, h)); {
		case err == nil:
			c.Log.InfoContext(ctx, "grant was told", "lock", w.Lock, "fence", h.Fence, "owner", h.Owner, "first", first)
		case errors.Is(err, ErrTaskGone):
			gone++
			c.Log.InfoContext(ctx, "nobody waits with this token", "lock", w.Lock, "fence", h.Fence, "owner", h.Owner, "first", first, "error", err)
		case errors.Is(err, ErrUndeliverable): // as good as gone: it can never be told
			gone++
			c.Log.ErrorContext(ctx, "grant cannot be told", "lock", w.Lock, "fence", h.Fence, "owner", h.Owner, "error", err)
		default:
			done = false
			c.Log.ErrorContext(ctx, "grant was not told", "lock", w.Lock, "fence", h.Fence, "error", err)
		}
	}
	if !first || gone == 0 || len(tokens) > 1 {
		return done
	}
	if err := c.Coordinator.End(ctx, req, h.Token, "task gone"); err != nil { // a repetition finds it attempted: its TTL ends it
		c.Log.ErrorContext(ctx, "lease of a dead task was not ended", "lock", w.Lock, "fence", h.Fence, "error", err)
	}
	return done
}

func (c *Consumer) fail(ctx context.Context, name string, h lock.Holder, code, cause string) bool {
	done := true
	for _, token := range h.Tokens() {
		err := c.Callbacks.Fail(ctx, token, code, cause)
		if err != nil && !errors.Is(err, ErrTaskGone) {
			c.Log.ErrorContext(ctx, "end of a wait was not told", "lock", name, "error", err)
			done = done && errors.Is(err, ErrUndeliverable)
		}
	}
	return done
}

// callbacks tells of all of a write's grants and ended waits. false: it must come again.
func (c *Consumer) callbacks(ctx context.Context, w Write) bool {
	done := true
	for _, ended := range w.Ended {
		code, cause := FailCancelled, "the wait was cancelled"
		if ended.Until <= c.now().UnixMilli() {
			code, cause = FailTimedOut, "the lock did not come free within wait_ms"
		}
		done = c.fail(ctx, w.Lock, ended.Want, code, cause) && done
	}
	for _, ch := range lock.ToTell(w.Before, w.After) {
		done = c.tell(ctx, w, ch) && done
	}
	if lock.Unsettled(w.After) { // whoever wrote it died before it had handed on all there is
		if err := c.Coordinator.Settle(ctx, w.Lock); err != nil {
			c.Log.ErrorContext(ctx, "lock was not handed on", "lock", w.Lock, "error", err)
			done = false
		}
	}
	return done
}

// output is what a task gets of its lease.
func output(name string, h lock.Holder) []byte {
	out := wire.Granted{
		Lock: name, Fence: h.Fence, Owner: h.Owner, AcquiredAt: wire.At(h.AcquiredAt), ExpiresAt: wire.At(h.ExpiresAt), TTL: h.TTL, Permits: h.Permits,
	}
	if json.Valid([]byte(h.Metadata)) {
		out.Metadata = []byte(h.Metadata)
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // plain types
	}
	return data
}

// Services are [Callbacks] of Step Functions and of Lambda's durable functions. Their clients must not retry by themselves: a
// retry of an attempt that was carried out looks like a dead task.
type Services struct {
	Tasks   *sfn.Client
	Durable *lambda.Client
}

// once sends one attempt.
func once(o *sfn.Options)           { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }
func onceDurable(o *lambda.Options) { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }

// Succeed implements [Callbacks].
func (s *Services) Succeed(ctx context.Context, token string, output []byte) error {
	if id, durable := strings.CutPrefix(token, wire.DurablePrefix); durable {
		_, err := s.Durable.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{CallbackId: &id, Result: output}, onceDurable)
		return gone(err)
	}
	_, err := s.Tasks.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{
		TaskToken: aws.String(strings.TrimPrefix(token, wire.TaskPrefix)), Output: aws.String(string(output)),
	}, once)
	return gone(err)
}

// Fail implements [Callbacks].
func (s *Services) Fail(ctx context.Context, token, code, cause string) error {
	if id, durable := strings.CutPrefix(token, wire.DurablePrefix); durable {
		_, err := s.Durable.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
			CallbackId: &id, Error: &lambdatypes.ErrorObject{ErrorType: &code, ErrorMessage: &cause},
		}, onceDurable)
		return gone(err)
	}
	_, err := s.Tasks.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{
		TaskToken: aws.String(strings.TrimPrefix(token, wire.TaskPrefix)), Error: &code, Cause: &cause,
	}, once)
	return gone(err)
}

// gone tells the errors apart that say that nobody waits.
func gone(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch api.ErrorCode() {
		case "TaskTimedOut", "TaskDoesNotExist", "InvalidToken", "CallbackTimeoutException", "ResourceNotFoundException":
			return fmt.Errorf("%w: %w", ErrTaskGone, err)
		case "AccessDeniedException", "InvalidParameterValueException", "ValidationException", "InvalidOutput", "KmsAccessDeniedException":
			return fmt.Errorf("%w; list the state machine in StateMachines, or the function in DurableFunctions: %w", ErrUndeliverable, err)
		}
	}
	return err
}

// Executions tell whether executions run.
type Executions interface {
	Running(ctx context.Context, arn string) (bool, error)
}

// Running implements [Executions]: an execution that Step Functions does not know is over.
func (s *Services) Running(ctx context.Context, arn string) (bool, error) {
	out, err := s.Tasks.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &arn})
	if api, ok := errors.AsType[smithy.APIError](err); ok && (api.ErrorCode() == "ExecutionDoesNotExist" || api.ErrorCode() == "InvalidArn" || api.ErrorCode() == "ValidationException") {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return out.Status == "RUNNING" || out.Status == "PENDING_REDRIVE", nil
}

// An ExecutionEvent is EventBridge's word that an execution's status changed.
type ExecutionEvent struct {
	Detail struct {
		Execution string `json:"executionArn"`
		Status    string `json:"status"`
	} `json:"detail"`
}

// HandleExecution ends what belonged to an execution that is over.
func (x *Expirer) HandleExecution(ctx context.Context, event ExecutionEvent) error {
	d := event.Detail
	if d.Status == "RUNNING" || d.Status == "" {
		return nil
	}
	over := func(ctx context.Context) (bool, error) {
		running, err := x.Executions.Running(ctx, d.Execution)
		return !running, err
	}
	if err := x.Coordinator.EndExecution(ctx, d.Execution, over); err != nil {
		x.Log.ErrorContext(ctx, "leases of an execution were not ended", "execution", d.Execution, "error", err)
		return err
	}
	x.Log.LogAttrs(ctx, slog.LevelInfo, "execution ended", slog.String("execution", d.Execution), slog.String("status", d.Status))
	return nil
}

func (c *Consumer) now() time.Time {
	if c.Clock != nil {
		return c.Clock()
	}
	return time.Now()
}
