// Package dynamo keeps lock records in a DynamoDB table. It is the only package that knows the table's attribute names. Each
// guarded command of package lock is one UpdateItem whose condition is the guard. A refused write returns the stored record,
// so nothing is read first.
//
// # Retries
//
// One policy covers every request: connection errors, time-outs, throttling and 5xx are tried up to [MaxAttempts] times,
// each for at most [AttemptTimeout], with a jittered backoff of at most [MaxBackoff] between, so a request ends within about
// 7 s or with its context. A connection on which an attempt timed out is not used again. A command may be sent again after a
// lost reply, although the first attempt was applied: then its guard fails and package lock finds the request carried out, or, for a
// renewal, the same write is applied again. A reply that proves
// this process's clock wrong ends the retries.
package dynamo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/reach"
)

// The numbers of the retry policy.
const (
	MaxAttempts    = 3
	AttemptTimeout = 2 * time.Second
	MaxBackoff     = 300 * time.Millisecond
)

// Config configures a [Store].
type Config struct {
	AWS      aws.Config       // region, credentials, HTTP client; its retryer is replaced, see the package doc
	Table    string           // required
	Endpoint string           // of DynamoDB; empty: the region's
	Clock    func() time.Time // the coordinator's; nil: time.Now
}

// table is an optional ARN prefix and the name. The length is checked apart: compiling an expression that repeats 255 times takes
// more than a millisecond of every cold start.
var table = regexp.MustCompile(`^(?:arn:[^/\s]+:dynamodb:[^/\s]+:table/)?([A-Za-z0-9_.-]+)$`)

// ValidTable reports whether a text is the name of a table, 3 to 255 letters, digits, '_', '-' and '.', or the ARN of one.
func ValidTable(text string) bool {
	m := table.FindStringSubmatch(text)
	return m != nil && len(m[1]) >= 3 && len(m[1]) <= 255
}

// A Store is a [lock.Store] on one table. It is safe for use by any number of goroutines.
type Store struct {
	client *dynamodb.Client
	http   *reach.Client
	table  string
}

// New returns a store. It sends no request: a missing table is an error of the first request.
func New(cfg Config) (*Store, error) {
	if cfg.Table == "" {
		return nil, errors.New("dynamo: Config.Table is empty; name the lock table")
	}
	if !ValidTable(cfg.Table) {
		return nil, fmt.Errorf("dynamo: Config.Table %q is no table name; give 3 to 255 letters, digits, '_', '-' and '.', or the table's ARN", cfg.Table)
	}
	if u, err := url.Parse(cfg.Endpoint); cfg.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("dynamo: Config.Endpoint %q is no URL; write it as https://HOST or http://HOST:PORT", cfg.Endpoint)
	}
	if cfg.AWS.Region == "" {
		return nil, errors.New("dynamo: the region is not set; set AWS_REGION, or a region in the profile")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	base := cfg.AWS.HTTPClient
	switch b := base.(type) {
	case nil:
		base = awshttp.NewBuildableClient().WithTimeout(AttemptTimeout)
	case *awshttp.BuildableClient: // the SDK's own, with the certificates that the environment names
		base = b.WithTimeout(AttemptTimeout)
	case *http.Client:
		c := *b
		if c.Timeout == 0 || c.Timeout > AttemptTimeout {
			c.Timeout = AttemptTimeout
		}
		base = &c
	}
	connections := reach.New(base)
	client := dynamodb.NewFromConfig(cfg.AWS, func(o *dynamodb.Options) {
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		o.HTTPClient = &clockClient{base: connections, clock: cfg.Clock}
		o.Credentials = markedCredentials{reach.NewCredentials(o.Credentials)}
		o.RetryMaxAttempts = 0 // AWS_MAX_ATTEMPTS does not apply: the retryer below has its own limit
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts = MaxAttempts
			r.MaxBackoff = MaxBackoff
			r.Retryables = append([]retry.IsErrorRetryable{
				retry.IsErrorRetryableFunc(notAgain),
				retry.RetryableErrorCode{Codes: map[string]struct{}{"TransactionConflictException": {}}}, // a single write while a transaction is under way
			}, r.Retryables...)
		})
		// A process whose clock is so wrong that signatures fail must not write. The SDK would correct the signature.
		o.DisableClockSkewCorrection = true
		// TLS protects the body already, and the check logs a warning for every condition that fails.
		o.DisableValidateResponseChecksum = true
	})
	return &Store{client: client, http: connections, table: cfg.Table}, nil
}

// CloseIdleConnections closes the connections to DynamoDB that are not in use.
func (s *Store) CloseIdleConnections() { s.http.CloseIdleConnections() }

// Get implements [lock.Store] with one consistent GetItem.
func (s *Store) Get(ctx context.Context, name string) (lock.Reply, error) {
	ctx, seen := observe(ctx)
	it, err := s.read(ctx, key(name))
	if err != nil {
		return lock.Reply{}, err
	}
	r, err := Decode(it)
	if err != nil {
		return lock.Reply{}, s.corrupt(name, err)
	}
	return lock.Reply{After: r, Offset: seen.offset}, nil
}

// Apply implements [lock.Store] with one UpdateItem, of the lock's item or of a waiter's, or with one transaction if the command changes
// the queue or the bindings of executions.
func (s *Store) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	if keep, ok := c.Effect.(lock.Keep); ok {
		return s.keep(ctx, name, c, keep)
	}
	texts := newTexts(name, c)
	if beside := s.beside(name, c); len(beside) > 0 {
		for _, it := range texts {
			beside = append(beside, types.TransactWriteItem{Put: &types.Put{TableName: aws.String(s.table), Item: it}})
		}
		return s.transact(ctx, name, c, beside)
	}
	if err := s.putTexts(ctx, texts); err != nil {
		return lock.Reply{}, err
	}
	ctx, seen := observe(ctx)
	out, err := s.client.UpdateItem(ctx, compile(s.table, name, c))
	if err != nil {
		failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err)
		if !ok {
			return lock.Reply{}, s.fault(ctx, "UpdateItem", err)
		}
		current, err := Decode(failed.Item)
		if err != nil {
			return lock.Reply{}, s.corrupt(name, err)
		}
		return lock.Reply{}, &lock.GuardError{Current: current, Offset: seen.offset}
	}
	before, err := Decode(out.Attributes)
	if err != nil {
		return lock.Reply{}, s.corrupt(name, err)
	}
	after := c.Next(before)
	after.Queue = nil
	s.keepTexts(ctx, name, before, after)
	return lock.Reply{Before: before, After: after, Offset: seen.offset}, nil
}
