package dynamo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// fault turns an SDK error into one that says what to do: a [*lock.StoreError], a [*lock.ClockError], or the context's.
func (s *Store) fault(ctx context.Context, action string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dynamo: %s: %w", action, context.Cause(ctx))
	}
	if clock, ok := errors.AsType[*lock.ClockError](err); ok {
		return clock
	}
	f := &lock.StoreError{Kind: lock.ErrUnavailable, Err: err}
	api, answered := errors.AsType[smithy.APIError](err)
	if !answered {
		f.What = "DynamoDB did not answer " + action
		f.Fix = "check the endpoint, the region and the network; for credentials, check that the role or profile can be read"
		return f
	}
	switch code := api.ErrorCode(); code {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "Throttling",
		"TransactionConflictException", "TransactionInProgressException", "TransactionCanceledException":
		f.Kind = lock.ErrThrottled
		f.What = "DynamoDB throttles " + action
		f.Fix = "one lock takes about 1,000 writes a second; spread callers over more locks, or wait between tries"
	case "ResourceNotFoundException":
		f.What = fmt.Sprintf("table %q does not exist in this region and account", s.table)
		f.Fix = "create it (deploy the stack, or CreateTable), or correct the table name, region or endpoint"
	case "AccessDeniedException":
		f.What = fmt.Sprintf("dynamodb:%s on table %q is not allowed", action, s.table)
		f.Fix = "allow that action on the table's ARN for this role"
	case "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "MissingAuthenticationTokenException",
		"IncompleteSignatureException", "InvalidClientTokenId":
		f.What = "DynamoDB refuses the credentials"
		f.Fix = "renew or correct them; for InvalidSignatureException check this machine's clock too"
	case "ValidationException":
		f.What = "DynamoDB refuses the request"
		if strings.Contains(api.ErrorMessage(), "schema") {
			f.What = fmt.Sprintf("table %q has another key schema", s.table)
			f.Fix = "a lock table has the partition key pk (string) and the sort key sk (string); use a table of its own"
		}
	default:
		f.What = "DynamoDB failed " + action + " with " + code
		f.Fix = "send the same request again"
	}
	return f
}

func (s *Store) corrupt(name string, err error) error {
	return &lock.StoreError{
		Kind: lock.ErrUnavailable, What: fmt.Sprintf("the item of lock %q in table %q is not a lock record", name, s.table),
		Fix: "something else writes to the table; look at the item", Err: err,
	}
}
