package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/holdfast-lock/holdfast/internal/meter"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// Holders is what operations on a semaphore with a number of holders consume.
type Holders struct {
	Holders int
	Acquire meter.Count // that made the last of the holders
	Renew   meter.Count
	Refused meter.Count // an acquire when no permit is free
	Release meter.Count
}

// holderMetadata is what each holder has beside an owner of 40 bytes.
var holderMetadata = map[string]string{"job": "report:daily", "run": "2026-11-26T03:00:00Z"}

// semaphore counts the units of operations on a semaphore whose permits are all taken.
func semaphore(ctx context.Context, endpoint string, holders int) (h Holders, err error) {
	m := meter.New(nil)
	table, err := direct.New(ctx, direct.Config{Table: "bench-" + rand.Text(), Region: region, Endpoint: endpoint, Credentials: keys, HTTPClient: m.Client()})
	if err != nil {
		return h, err
	}
	if err := table.CreateTable(ctx); err != nil {
		return h, err
	}
	client, err := lockclient.New(lockclient.Config{Transport: table})
	if err != nil {
		return h, err
	}
	options := func(i int) lockclient.Options {
		return lockclient.Options{Capacity: holders, Metadata: holderMetadata, ManualRenew: true, Owner: fmt.Sprintf("worker-%03d.eu-west-1.compute.internal/7341", i)}
	}
	h.Holders = holders
	var last *lockclient.Lease
	for i := range holders {
		m.Take()
		if last, err = client.TryAcquire(ctx, "semaphore", options(i)); err != nil {
			return h, err
		}
	}
	h.Acquire = meter.Total(m.Take())
	if err := last.Renew(ctx); err != nil {
		return h, err
	}
	h.Renew = meter.Total(m.Take())
	if _, err := client.TryAcquire(ctx, "semaphore", options(holders)); !errors.Is(err, lockclient.ErrHeld) {
		return h, fmt.Errorf("an acquire of a full semaphore: %w", err)
	}
	h.Refused = meter.Total(m.Take())
	if err := last.Release(ctx); err != nil {
		return h, err
	}
	h.Release = meter.Total(m.Take())
	return h, nil
}
