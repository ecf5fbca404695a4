package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// initCmd creates the lock table, or adds what an existing one lacks.
type initCmd struct{}

// Run creates the table and waits until it is active.
func (initCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := conn.noEndpoint("init"); err != nil {
		return err
	}
	table := cmp.Or(conn.Table, direct.DefaultTable)
	cfg, err := conn.tableConfig(ctx)
	if err != nil {
		return err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: conn.DynamodbEndpoint})
	if err != nil {
		return err
	}
	added, err := store.EnsureTable(ctx)
	if err != nil {
		return err
	}
	if added {
		s.notice("index", fmt.Sprintf("table %q had no index of names; locks that it has by now may be missing from lists of a prefix until their next acquire, or until: holdfast redrive --table %[1]s --apply", table))
	}
	return s.result(map[string]any{"table": table, "ready": true},
		fmt.Sprintf("table %q is ready: pk and sk, index names, pay per request, native TTL on ttl, stream of new and old images", table))
}
