package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

type devCmd struct {
	local.Options
	CreateTable bool `help:"Create the table in AWS if it is missing."`
}

// check validates the flags.
func (d *devCmd) check(conn *connection) error {
	if err := d.Check(); err != nil {
		return err
	}
	if conn.Region == "" && conn.DynamodbEndpoint == "" && (d.CreateTable || conn.Table != "") {
		return errors.New("--table (HOLDFAST_TABLE) and --create-table need --region or --dynamodb-endpoint; without one, locks are kept in memory")
	}
	return conn.noEndpoint("dev")
}

// Run serves until ctx ends.
func (d *devCmd) Run(ctx context.Context, s *streams, log *slog.Logger, conn *connection) error {
	if err := d.check(conn); err != nil {
		return err
	}
	backend, err := d.backend(ctx, conn)
	if err != nil {
		return err
	}
	return d.Options.Run(ctx, backend, s.out, log)
}

func (d *devCmd) backend(ctx context.Context, conn *connection) (local.Backend, error) {
	if conn.DynamodbEndpoint == "" && conn.Region == "" {
		return local.Memory(), nil
	}
	table := cmp.Or(conn.Table, direct.DefaultTable)
	cfg, err := awsConfig(ctx, conn.Region, conn.DynamodbEndpoint)
	if err != nil {
		return local.Backend{}, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: conn.DynamodbEndpoint})
	if err != nil {
		return local.Backend{}, err
	}
	if conn.DynamodbEndpoint != "" || d.CreateTable {
		if err := store.CreateTable(ctx); err != nil {
			return local.Backend{}, err
		}
	} else if _, err := store.Get(ctx, "holdfast:check"); err != nil {
		if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
			err = fmt.Errorf("%w; or create it with --create-table", err)
		}
		return local.Backend{}, err
	}
	where, endpoint := "region "+cfg.Region, (*string)(nil)
	if conn.DynamodbEndpoint != "" {
		where, endpoint = conn.DynamodbEndpoint, &conn.DynamodbEndpoint
	}
	return local.Backend{
		Store: store, Name: fmt.Sprintf("in DynamoDB table %q, %s", table, where),
		Follow: func(ctx context.Context, consume func(context.Context, []stream.Write) []string, log *slog.Logger) {
			reader := &poller.Poller{
				Tables:  dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = endpoint }),
				Streams: dynamodbstreams.NewFromConfig(cfg, func(o *dynamodbstreams.Options) { o.BaseEndpoint = endpoint }),
				Table:   table, Consume: consume, Log: log,
			}
			reader.Run(ctx)
		},
	}, nil
}
