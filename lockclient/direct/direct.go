// Package direct lets a client use a DynamoDB table itself, with no service in between: for those who want a lock before
// they deploy one, or cannot. The coordinator then runs in the client's process.
//
//	table, err := direct.New(ctx, direct.Config{Region: "eu-west-1"})
//	...
//	client, err := lockclient.New(lockclient.Config{Transport: table})
//
// It is the same protocol on the same table, so services and direct clients may share one. What the service adds is
// missing: access by lock name (whoever may write the table may take any lock), one clock for all (every client's clock
// must be within 250 ms of every other's, see internal/lock), a record of who the caller was, and, unless its stream
// function is deployed on the table, events and prompt expiry (an expired lease is then taken over by the next acquire).
package direct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// DefaultTable is the lock table's name where none is given.
const DefaultTable = "distributed-locks"

// Config is which table a client uses, and how. The zero value is the table distributed-locks, with the region and
// credentials that the AWS SDK finds in the environment.
type Config struct {
	// Table is the lock table's name or ARN. Empty: distributed-locks.
	Table string
	// Region is the table's. Empty: what the SDK finds (AWS_REGION, the profile).
	Region string
	// Endpoint is DynamoDB's, for a local engine or a VPC endpoint. Empty: the region's.
	Endpoint string
	// Credentials sign requests. Nil: what the SDK finds (the environment, the profile, the role).
	Credentials aws.CredentialsProvider
	// PoolSize is how many connections to DynamoDB are open at a time, at most. Zero: no limit of its own.
	PoolSize int
	// HTTPClient sends requests. Nil: one of its own. It takes the place of PoolSize.
	HTTPClient *http.Client
	// Log takes what goes wrong with the store, with what to do about it. Nil: nowhere.
	Log *slog.Logger
}

// validate returns an error that names a field that is wrong and says how to correct it.
func (c Config) validate() error {
	u, err := url.Parse(c.Endpoint)
	switch {
	case c.Table != "" && !dynamo.ValidTable(c.Table):
		return fmt.Errorf("direct: Config.Table is %q; give 3 to 255 letters, digits, '_', '-' and '.', or the table's ARN", c.Table)
	case c.Endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https"):
		return fmt.Errorf("direct: Config.Endpoint is %q; give a URL like http://127.0.0.1:8000", c.Endpoint)
	case c.PoolSize < 0:
		return fmt.Errorf("direct: Config.PoolSize is %d; give a number above 0, or 0 for no limit", c.PoolSize)
	case c.PoolSize > 0 && c.HTTPClient != nil:
		return errors.New("direct: Config.PoolSize and Config.HTTPClient are both given; bound the connections of one's own HTTP client there")
	}
	return nil
}

// A Table is a [lockclient.Transport] to a lock table. It is safe for use by any number of goroutines.
type Table struct {
	api         *api.API
	coordinator *lock.Coordinator
	store       *dynamo.Store
}

// New makes a transport to a table. It sends nothing: a table that is not there shows at the first request, or is made by
// [Table.CreateTable].
func New(ctx context.Context, cfg Config) (*Table, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Table == "" {
		cfg.Table = DefaultTable
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	options := []func(*config.LoadOptions) error{config.WithCredentialsProvider(cfg.Credentials)}
	if cfg.Region != "" {
		options = append(options, config.WithRegion(cfg.Region))
	}
	sdk, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("direct: %w", err)
	}
	switch {
	case cfg.HTTPClient != nil:
		sdk.HTTPClient = cfg.HTTPClient
	case cfg.PoolSize > 0:
		sdk.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxConnsPerHost, t.MaxIdleConnsPerHost = cfg.PoolSize, cfg.PoolSize
		})
	}
	store, err := dynamo.New(dynamo.Config{AWS: sdk, Table: cfg.Table, Endpoint: cfg.Endpoint})
	if err != nil {
		return nil, fmt.Errorf("direct: %w", err)
	}
	coordinator, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return nil, err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: slog.New(onlyErrors{cfg.Log.Handler()})})
	if err != nil {
		return nil, err
	}
	return &Table{a, coordinator, store}, nil
}

// RoundTrip implements [lockclient.Transport].
func (t *Table) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	answer := t.api.Call(ctx, wire.Op(r.Op), r.Lock, r.Body)
	return lockclient.Response{Status: answer.Status, Body: answer.Body}, nil
}

// CreateTable makes the table, and waits until it can be used: keys pk and sk, pay per request, native TTL, a stream. It may
// be repeated, and changes nothing that is there; a table of another shape is an error that says how it differs.
func (t *Table) CreateTable(ctx context.Context) error { return t.store.CreateTable(ctx) }

// CloseIdleConnections closes the connections to DynamoDB that are not in use; a client does so when it is closed.
func (t *Table) CloseIdleConnections() { t.store.CloseIdleConnections() }

var _ lockclient.Transport = (*Table)(nil)

// onlyErrors keeps the coordinator's record of every request out of a client's log.
type onlyErrors struct{ slog.Handler }

func (h onlyErrors) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}
