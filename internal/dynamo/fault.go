package dynamo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/reach"
)

// fault turns an error of the SDK into one that says what to do: a [*lock.StoreError], a [*lock.ClockError], or the context's. A fault
// that repeating the request cannot fix is an [lock.ErrMisconfigured].
func (s *Store) fault(ctx context.Context, action string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dynamo: %s: %w", action, context.Cause(ctx))
	}
	if clock, ok := errors.AsType[*lock.ClockError](err); ok {
		return clock
	}
	f := s.diagnose(action, err)
	f.Err = err
	return f
}

func (s *Store) diagnose(action string, err error) *lock.StoreError {
	if e, ok := errors.AsType[*credentialsError](err); ok {
		return noCredentials(e.err)
	}
	if e, ok := errors.AsType[*types.TransactionCanceledException](err); ok {
		return s.canceled(action, e.CancellationReasons)
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() != unknownCode {
		return s.refused(action, e.ErrorCode(), e.ErrorMessage())
	}
	if e, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && e.HTTPStatusCode() != 0 && !cutOff(err) {
		return s.strange(action, e.Response.Response)
	}
	return s.unanswered(action, err)
}

// cutOff reports whether an answer ended before its end.
func cutOff(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.ErrUnexpectedEOF)
}

// unknownCode is the SDK's code for an error response without one.
const unknownCode = "UnknownError"

// refused explains an error response of DynamoDB.
func (s *Store) refused(action, code, message string) *lock.StoreError {
	switch code {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "Throttling", "ThrottlingError",
		"TransactionConflictException", "TransactionConflict", "TransactionInProgressException", "LimitExceededException",
		"ReplicatedWriteConflictException":
		return &lock.StoreError{
			Kind: lock.ErrThrottled, What: "DynamoDB throttles " + action,
			Fix: "one lock takes about 1,000 writes a second; spread callers over more locks, or wait between tries",
		}
	case "ResourceNotFoundException", "TableNotFoundException":
		return misconfigured(fmt.Sprintf("table %q does not exist in this region and account", s.table),
			"create it (deploy the stack, or run holdfast init), or correct the table name, region or endpoint")
	case "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "ExpiredToken", "MissingAuthenticationTokenException",
		"MissingAuthenticationToken", "IncompleteSignatureException", "IncompleteSignature", "InvalidClientTokenId", "InvalidAccessKeyId",
		"SignatureDoesNotMatch", "InvalidToken", "AuthFailure", "NotAuthorized":
		return misconfigured("DynamoDB refuses the credentials ("+code+")",
			"renew or correct them, and check that they are of the partition and account of the table; for a signature that is refused, check this machine's clock too")
	case "OptInRequired", "SubscriptionRequiredException":
		return misconfigured("the account may not use DynamoDB in this region ("+code+")", "enable the region for the account, or correct the region")
	}
	switch {
	case strings.Contains(strings.ToUpper(code+" "+message), "KMS"):
		return misconfigured(fmt.Sprintf("the KMS key of table %q cannot be used", s.table),
			"enable the key, and allow this role kms:Decrypt and kms:DescribeKey on it")
	case code == "AccessDeniedException" || code == "AccessDenied":
		return misconfigured(fmt.Sprintf("dynamodb:%s on table %q is not allowed", action, s.table),
			fmt.Sprintf("allow this role dynamodb:%s on the table's ARN, and check the policies of the organization and the VPC endpoint", action))
	case code == "ValidationException" || code == "ValidationError" || code == "SerializationException" || code == "UnknownOperationException":
		return s.invalid(action, message)
	}
	return &lock.StoreError{Kind: lock.ErrUnavailable, What: "DynamoDB failed " + action + " with " + code, Fix: "send the same request again"}
}

// invalid explains a request that DynamoDB refuses as malformed.
func (s *Store) invalid(action, message string) *lock.StoreError {
	lower := strings.ToLower(message)
	aboutKeys := []string{"schema", "missing the key", "required keys", "key element", "type mismatch for key", "conditions on the keys", "key condition"}
	switch {
	case strings.Contains(lower, "size has exceeded") || strings.Contains(lower, "size to update has exceeded") || strings.Contains(lower, "request size"):
		return &lock.StoreError{
			Kind: lock.ErrLockFull, What: "the lock's item would be larger than DynamoDB's 400 KB", Fix: "use less metadata, or a lock of fewer permits",
		}
	case slices.ContainsFunc(aboutKeys, func(words string) bool { return strings.Contains(lower, words) }):
		return misconfigured(fmt.Sprintf("table %q has another key schema", s.table),
			"a lock table has the partition key pk (string) and the sort key sk (string); use a table of its own")
	case strings.Contains(lower, "tablename") || strings.Contains(lower, "table name"):
		return misconfigured(fmt.Sprintf("%q is no table name", s.table), "correct the table name: 3 to 255 letters, digits, '_', '-' and '.', or the table's ARN")
	}
	return misconfigured("DynamoDB does not accept "+action, "check that the endpoint is DynamoDB's and the table a lock table; otherwise this is a bug")
}

// canceled explains a transaction that was canceled for another reason than a guard. The worst reason counts.
func (s *Store) canceled(action string, reasons []types.CancellationReason) *lock.StoreError {
	worst := s.refused(action, "TransactionConflict", "")
	for _, r := range reasons {
		switch code := aws.ToString(r.Code); code {
		case "", "None", "ConditionalCheckFailed", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded":
		default:
			f := s.refused(action, code, aws.ToString(r.Message))
			if errors.Is(f, lock.ErrMisconfigured) || errors.Is(worst, lock.ErrThrottled) {
				worst = f
			}
		}
	}
	return worst
}

// strange explains a response that is not DynamoDB's.
func (s *Store) strange(action string, resp *http.Response) *lock.StoreError {
	host := "the endpoint"
	if resp.Request != nil && resp.Request.URL != nil {
		host = resp.Request.URL.Host
	}
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests:
		return s.refused(action, "ThrottlingException", "")
	case status >= 500 || status == http.StatusRequestTimeout:
		return &lock.StoreError{
			Kind: lock.ErrUnavailable, What: fmt.Sprintf("%s failed %s with status %d", host, action, status), Fix: "send the same request again",
		}
	default:
		return misconfigured(fmt.Sprintf("%s answered %s with status %d, and not as DynamoDB does", host, action, status),
			"correct the endpoint of DynamoDB, and check the proxy that this process uses")
	}
}

// unanswered explains a request without a response.
func (s *Store) unanswered(action string, err error) *lock.StoreError {
	if refusal, ok := errors.AsType[*reach.Refusal](err); ok {
		return misconfigured("DynamoDB cannot be reached for "+action, refusal.Fix)
	}
	who := "DynamoDB"
	if sent, ok := errors.AsType[*url.Error](err); ok {
		if u, bad := url.Parse(sent.URL); bad == nil && u.Host != "" {
			who += " at " + u.Host
		}
	}
	return &lock.StoreError{
		Kind: lock.ErrUnavailable, What: who + " did not answer " + action,
		Fix: "check the endpoint, the region and the network",
	}
}

// noCredentials explains a request that was not sent because there are no credentials.
func noCredentials(err error) *lock.StoreError {
	if refusal, ok := errors.AsType[*reach.Refusal](err); ok {
		return misconfigured("there are no AWS credentials", refusal.Fix)
	}
	return &lock.StoreError{
		Kind: lock.ErrUnavailable, What: "the AWS credentials cannot be had just now",
		Fix: "check the service or the program that makes them",
	}
}

func misconfigured(what, fix string) *lock.StoreError {
	return &lock.StoreError{Kind: lock.ErrMisconfigured, What: what, Fix: fix}
}

// A credentialsError says that a request was not sent because there are no credentials.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// markedCredentials marks the errors of a credentials provider, to distinguish them from DynamoDB's.
type markedCredentials struct{ aws.CredentialsProvider }

func (p markedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := p.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		err = &credentialsError{err}
	}
	return c, err
}

// notAgain ends retries that cannot succeed: after a reply that proves this process's clock wrong, and without credentials, whose
// provider has its own retries.
func notAgain(err error) aws.Ternary {
	_, clock := errors.AsType[*lock.ClockError](err)
	_, refusal := errors.AsType[*reach.Refusal](err)
	_, noCredentials := errors.AsType[*credentialsError](err)
	if clock || refusal || noCredentials {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}

func (s *Store) corrupt(name string, err error) error {
	return &lock.StoreError{
		Kind: lock.ErrMisconfigured, What: fmt.Sprintf("an item of lock %q in table %q is not a lock's", name, s.table),
		Fix: "something else writes to the table; look at the item", Err: err,
	}
}
