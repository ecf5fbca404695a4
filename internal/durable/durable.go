// Package durable sends callbacks to Lambda's durable functions. It is apart from package tasks because the SDK's Lambda client adds
// 1 to 3 ms to a function's start: the functions for which callers wait leave these callbacks to the stream function.
package durable

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Functions are [stream.Callbacks] for the ids of callbacks. They are sent without the SDK's retries: a retry of an attempt that was
// carried out would look like a callback that nobody waits for.
type Functions struct{ client *lambda.Client }

// New returns the durable functions of a region and account.
func New(cfg aws.Config) *Functions { return &Functions{lambda.NewFromConfig(cfg)} }

// once limits a request to one attempt.
func once(o *lambda.Options) { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }

// Succeed implements [stream.Callbacks].
func (f *Functions) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	_, err := f.client.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{CallbackId: &token.Text, Result: output}, once)
	return gone(err)
}

// Fail implements [stream.Callbacks].
func (f *Functions) Fail(ctx context.Context, token lock.Token, code, cause string) error {
	_, err := f.client.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
		CallbackId: &token.Text, Error: &types.ErrorObject{ErrorType: &code, ErrorMessage: &cause},
	}, once)
	return gone(err)
}

// gone marks the errors that say that nobody waits for a callback, or that it can never be sent.
func gone(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch api.ErrorCode() {
		case "CallbackTimeoutException", "ResourceNotFoundException":
			return fmt.Errorf("%w: %w", stream.ErrTaskGone, err)
		case "AccessDeniedException", "InvalidParameterValueException", "ValidationException", "KmsAccessDeniedException":
			return fmt.Errorf("%w; list the function in DurableFunctions: %w", stream.ErrUndeliverable, err)
		}
	}
	return err
}
