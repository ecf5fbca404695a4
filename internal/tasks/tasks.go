// Package tasks sends callbacks to Step Functions tasks, and asks Step Functions whether an execution runs.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// StepFunctions is [stream.Callbacks] for tokens of tasks, and [stream.Executions]. Callbacks are sent without the SDK's retries: a
// retry of an attempt that was carried out would look like a task that is gone.
type StepFunctions struct{ client *sfn.Client }

// New returns Step Functions of a region and account.
func New(cfg aws.Config) *StepFunctions { return &StepFunctions{sfn.NewFromConfig(cfg)} }

// once limits a request to one attempt.
func once(o *sfn.Options) { o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{} }

// Succeed implements [stream.Callbacks].
func (s *StepFunctions) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	_, err := s.client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: &token.Text, Output: aws.String(string(output))}, once)
	return gone(err)
}

// Fail implements [stream.Callbacks].
func (s *StepFunctions) Fail(ctx context.Context, token lock.Token, code, cause string) error {
	_, err := s.client.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: &token.Text, Error: &code, Cause: &cause}, once)
	return gone(err)
}

// gone marks the errors that say that nobody waits with a token, or that the callback can never be sent.
func gone(err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch api.ErrorCode() {
		case "TaskTimedOut", "TaskDoesNotExist", "InvalidToken":
			return fmt.Errorf("%w: %w", stream.ErrTaskGone, err)
		case "AccessDeniedException", "ValidationException", "InvalidOutput", "KmsAccessDeniedException":
			return fmt.Errorf("%w; list the state machine in StateMachines: %w", stream.ErrUndeliverable, err)
		}
	}
	return err
}

// Running implements [stream.Executions]. An execution that Step Functions does not know is over.
func (s *StepFunctions) Running(ctx context.Context, arn string) (bool, error) {
	out, err := s.client.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &arn})
	if api, ok := errors.AsType[smithy.APIError](err); ok && slices.Contains([]string{"ExecutionDoesNotExist", "InvalidArn", "ValidationException"}, api.ErrorCode()) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return out.Status == types.ExecutionStatusRunning || out.Status == types.ExecutionStatusPendingRedrive, nil
}
