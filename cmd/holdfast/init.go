package main

import (
	"context"
	"fmt"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
)

// defaultTable is the lock table's name where none is given.
const defaultTable = "distributed-locks"

// initCmd makes the lock table. It may be repeated, and changes nothing that is there.
type initCmd struct {
	DynamodbEndpoint string `help:"DynamoDB's endpoint, such as http://127.0.0.1:8000 of DynamoDB Local; by default the region's." placeholder:"URL"`
	Region           string `help:"AWS region; by default the environment's or the profile's." placeholder:"REGION"`
	Table            string `help:"The lock table." default:"distributed-locks" placeholder:"NAME"`
}

// Run makes the table and waits until it can be used.
func (c *initCmd) Run(ctx context.Context, s *streams) error {
	cfg, err := awsConfig(ctx, c.Region, c.DynamodbEndpoint)
	if err != nil {
		return err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: c.Table, Endpoint: c.DynamodbEndpoint})
	if err != nil {
		return err
	}
	if err := store.CreateTable(ctx); err != nil {
		return err
	}
	return s.result(map[string]any{"table": c.Table, "ready": true},
		fmt.Sprintf("table %q is ready: pk and sk, pay per request, native TTL on ttl, stream of new and old images", c.Table))
}
