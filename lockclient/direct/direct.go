// Package direct is a transport for package lockclient that uses a DynamoDB table without a deployed coordinator. The coordinator
// runs in the client's process.
//
//	table, err := direct.New(ctx, direct.Config{Region: "eu-west-1"})
//	...
//	client, err := lockclient.New(lockclient.Config{Transport: table})
//
// The protocol and the table are those of a deployed coordinator, so both kinds of client may use one table at the same time.
// Compared with a deployed coordinator, a direct client lacks:
//
//   - Permissions by lock name. A client that may write the table may take any lock.
//   - One clock. The clocks of all direct clients and coordinators must be within 250 ms of each other (see internal/lock).
//   - A record of the caller. A lease has no principal.
//   - Events, and an expiry that is acted on in time, unless the stream's functions are deployed on the table. Without them, an
//     expired lease is taken over by the next acquire.
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

// DefaultTable is the name of the lock table if Config.Table is empty.
const DefaultTable = "distributed-locks"

// Config configures a [Table]. The zero value uses the table distributed-locks, with the region and the credentials that the AWS
// SDK finds.
type Config struct {
	// Table is the lock table's name or ARN. Empty means [DefaultTable].
	Table string
	// Region is the table's region. Empty means the one that the SDK finds (AWS_REGION, the profile).
	Region string
	// Endpoint is the URL of DynamoDB: that of a local engine or of a VPC endpoint. Empty means the region's.
	Endpoint string
	// Credentials sign the requests. Nil means those that the SDK finds (the environment, the profile, the role).
	Credentials aws.CredentialsProvider
	// PoolSize is the largest number of connections to DynamoDB. Zero means no limit.
	PoolSize int
	// HTTPClient sends the requests; PoolSize must then be 0. Nil means a client of the Table's own.
	HTTPClient *http.Client
	// Log receives the faults of the store, with what to do about them. Nil means that they are not logged.
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
		return errors.New("direct: Config.PoolSize and Config.HTTPClient are both given; limit the connections in the HTTP client, and leave PoolSize 0")
	}
	return nil
}

// A Table is a [lockclient.Transport] to a lock table. It is safe for concurrent use.
type Table struct {
	api         *api.API
	coordinator *lock.Coordinator
	store       *dynamo.Store
}

// New makes a transport to a table. It sends no request, so it succeeds even if the table does not exist; see [Table.CreateTable].
// The error names the field of cfg that is wrong, or says what the SDK's configuration lacks.
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
	answer, problem := t.api.Call(ctx, wire.Op(r.Op), r.Lock, r.Body)
	if problem != nil {
		return lockclient.Response{Status: problem.Status, Answer: problem}, nil
	}
	return lockclient.Response{Status: http.StatusOK, Answer: answer}, nil
}

// CreateTable creates the table and waits until it can be used: the keys pk and sk, an index of names for lists, on-demand capacity, native
// TTL, and a stream. If the table exists, CreateTable adds an index or native TTL that it lacks, and changes nothing else; the error then
// says how the table differs, if it does.
func (t *Table) CreateTable(ctx context.Context) error { return t.store.CreateTable(ctx) }

// CloseIdleConnections closes the connections to DynamoDB that are not in use. [lockclient.Client.Close] calls it.
func (t *Table) CloseIdleConnections() { t.store.CloseIdleConnections() }

var _ lockclient.Transport = (*Table)(nil)

// onlyErrors drops the coordinator's log records below the level of errors: it logs every request.
type onlyErrors struct{ slog.Handler }

func (h onlyErrors) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}
