// Package tasks sends callbacks to Step Functions tasks and to Lambda's durable functions, and asks Step Functions whether an
// execution runs.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Services are [stream.Callbacks] and [stream.Executions]. Callbacks are sent without the SDK's retries: a retry of an attempt
// that was carried out would look like a task that is gone.
type Services struct {
	stepFunctions *sfn.Client
	durable       *lambda.Client
}

// New returns the services of a region and account.
func New(cfg aws.Config) *Services {
	return &Services{sfn.NewFromConfig(cfg), lambda.NewFromConfig(cfg)}
}

// once and onceDurable limit a request to one attempt.
func once(o *sfn.Options)           { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }
func onceDurable(o *lambda.Options) { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }

// Succeed implements [stream.Callbacks].
func (s *Services) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	var err error
	switch token.Kind {
	case lock.TaskToken:
		_, err = s.stepFunctions.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: &token.Text, Output: aws.String(string(output))}, once)
	case lock.CallbackToken:
		_, err = s.durable.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{
			CallbackId: &token.Text, Result: output,
		}, onceDurable)
	default:
		return unknown(token.Kind)
	}
	return gone(err)
}

// Fail implements [stream.Callbacks].
func (s *Services) Fail(ctx context.Context, token lock.Token, code, cause string) error {
	var err error
	switch token.Kind {
	case lock.TaskToken:
		_, err = s.stepFunctions.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: &token.Text, Error: &code, Cause: &cause}, once)
	case lock.CallbackToken:
		_, err = s.durable.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
			CallbackId: &token.Text, Error: &lambdatypes.ErrorObject{ErrorType: &code, ErrorMessage: &cause},
		}, onceDurable)
	default:
		return unknown(token.Kind)
	}
	return gone(err)
}

// unknown is the error of a kind of token that this version has no service for.
func unknown(kind lock.TokenKind) error {
	return fmt.Errorf("%w: this version knows no tokens of the kind %q", stream.ErrUndeliverable, kind)
}

// gone marks the errors that say that nobody waits with a token, or that the callback can never be sent.
func gone(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch api.ErrorCode() {
		case "TaskTimedOut", "TaskDoesNotExist", "InvalidToken", "CallbackTimeoutException", "ResourceNotFoundException":
			return fmt.Errorf("%w: %w", stream.ErrTaskGone, err)
		case "AccessDeniedException", "InvalidParameterValueException", "ValidationException", "InvalidOutput", "KmsAccessDeniedException":
			return fmt.Errorf("%w; list the state machine in StateMachines, or the function in DurableFunctions: %w", stream.ErrUndeliverable, err)
		}
	}
	return err
}

// Running implements [stream.Executions]. An execution that Step Functions does not know is over.
func (s *Services) Running(ctx context.Context, arn string) (bool, error) {
	out, err := s.stepFunctions.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &arn})
	if api, ok := errors.AsType[smithy.APIError](err); ok && slices.Contains([]string{"ExecutionDoesNotExist", "InvalidArn", "ValidationException"}, api.ErrorCode()) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return out.Status == types.ExecutionStatusRunning || out.Status == types.ExecutionStatusPendingRedrive, nil
}
