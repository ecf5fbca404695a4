package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/gateway"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

type devCmd struct {
	Listen           string `default:"127.0.0.1:7420" help:"Address to serve HTTP on; port 0 takes a free one."`
	DynamodbEndpoint string `help:"Keep locks in DynamoDB at this endpoint, such as http://127.0.0.1:8000 of DynamoDB Local; the table is made if it is missing." placeholder:"URL"`
	Region           string `help:"Keep locks in DynamoDB in this AWS region. With neither this nor an endpoint, locks are kept in memory." placeholder:"REGION"`
	Table            string `default:"distributed-locks" help:"The lock table."`
	CreateTable      bool   `help:"Make the table in AWS, if it is missing."`

	stdout io.Writer // nil: os.Stdout
}

// minDevTTL lets people watch a lease expire without waiting for long.
const minDevTTL = 100 * time.Millisecond

// purgeEvery is how often the memory store forgets what native TTL would.
const purgeEvery = time.Minute

// Run serves until ctx ends.
func (d *devCmd) Run(ctx context.Context, log *slog.Logger) error {
	store, engine, err := d.store(ctx)
	if err != nil {
		return err
	}
	coordinator, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log, MinTTL: minDevTTL})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; choose another address with --listen", d.Listen, err)
	}
	server := &http.Server{
		Handler: gateway.New(a, log), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if d.stdout == nil {
		d.stdout = os.Stdout
	}
	d.greet("http://"+listener.Addr().String(), engine)

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	purge := time.NewTicker(purgeEvery)
	defer purge.Stop()
	for {
		select {
		case err := <-served:
			return err
		case now := <-purge.C:
			if m, ok := store.(*lock.Memory); ok {
				m.Purge(now)
			}
		case <-ctx.Done():
			stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateway.Timeout)
			defer cancel()
			err := server.Shutdown(stopCtx)
			if served := <-served; !errors.Is(served, http.ErrServerClosed) {
				err = errors.Join(err, served)
			}
			return err
		}
	}
}

func (d *devCmd) store(ctx context.Context) (lock.Store, string, error) {
	if d.DynamodbEndpoint == "" && d.Region == "" {
		return &lock.Memory{}, "in memory: stopping forgets all locks", nil
	}
	var options []func(*config.LoadOptions) error
	if d.Region != "" {
		options = append(options, config.WithRegion(d.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, "", err
	}
	if d.DynamodbEndpoint != "" {
		if cfg.Region == "" {
			cfg.Region = "us-east-1"
		}
		if os.Getenv("AWS_ACCESS_KEY_ID") == "" && os.Getenv("AWS_PROFILE") == "" {
			cfg.Credentials = localCredentials{}
		}
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: d.Table, Endpoint: d.DynamodbEndpoint})
	if err != nil {
		return nil, "", err
	}
	if d.DynamodbEndpoint != "" || d.CreateTable {
		if err := store.CreateTable(ctx); err != nil {
			return nil, "", err
		}
	} else if _, err := store.Get(ctx, "holdfast:check"); err != nil {
		return nil, "", fmt.Errorf("%w; or let --create-table make it", err)
	}
	where := "region " + cfg.Region
	if d.DynamodbEndpoint != "" {
		where = d.DynamodbEndpoint
	}
	return store, fmt.Sprintf("in DynamoDB table %q, %s", d.Table, where), nil
}

// greet prints three lines that work as they are pasted.
func (d *devCmd) greet(url, engine string) {
	_, _ = fmt.Fprintf(d.stdout, `holdfast dev: %s
Locks are kept %s. Try:

curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/acquire -d '{"lease":"my-secret-lease-0001","owner":"me","ttl_ms":60000}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/renew   -d '{"lease":"my-secret-lease-0001"}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/release -d '{"lease":"my-secret-lease-0001"}'

`, url, engine)
}
