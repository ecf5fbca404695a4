// Package tasks sends callbacks to Step Functions tasks and to Lambda's durable functions, and asks Step Functions whether an
// execution runs.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
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
func (s *Services) Succeed(ctx context.Context, token string, output []byte) error {
	if id, durable := strings.CutPrefix(token, wire.DurablePrefix); durable {
		_, err := s.durable.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{CallbackId: &id, Result: output}, onceDurable)
		return gone(err)
	}
	_, err := s.stepFunctions.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{
		TaskToken: aws.String(strings.TrimPrefix(token, wire.TaskPrefix)), Output: aws.String(string(output)),
	}, once)
	return gone(err)
}

// Fail implements [stream.Callbacks].
func (s *Services) Fail(ctx context.Context, token, code, cause string) error {
	if id, durable := strings.CutPrefix(token, wire.DurablePrefix); durable {
		_, err := s.durable.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
			CallbackId: &id, Error: &lambdatypes.ErrorObject{ErrorType: &code, ErrorMessage: &cause},
		}, onceDurable)
		return gone(err)
	}
	_, err := s.stepFunctions.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{
		TaskToken: aws.String(strings.TrimPrefix(token, wire.TaskPrefix)), Error: &code, Cause: &cause,
	}, once)
	return gone(err)
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
