package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/meter"
)

// writers is how many BatchWriteItems are under way at once.
const writers = 8

// list measures what lists cost: it fills a table with held locks, and lists prefixes with 10, 1,000 and a twentieth and half of all locks,
// first with the index hidden, then with it.
func list(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("list", flag.ContinueOnError)
	rows := flags.Int("rows", 100_000, "locks in the table")
	scan := flags.Bool("scan", true, "measure lists that scan the table, too; DynamoDB Local takes seconds for each request when a table has a million rows")
	if err := flags.Parse(args); err != nil {
		return err
	}
	endpoint, err := local()
	if err != nil {
		return err
	}
	m := meter.New(nil)
	client := m.Client()
	index := &hiding{base: client.Transport}
	client.Transport = index
	cfg := awsConfig()
	cfg.HTTPClient = patient{client}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: "scale-list", Endpoint: endpoint})
	if err != nil {
		return err
	}
	if err := store.CreateTable(ctx); err != nil {
		return err
	}
	prefixes := map[string]int{"ten:": 10, "thousand:": 1000, "twentieth:": *rows / 20, "half:": *rows / 2}
	start := time.Now()
	if err := fill(ctx, store, endpoint, *rows, prefixes); err != nil {
		return err
	}
	fmt.Printf("list: %d rows written in %v\n", *rows, time.Since(start).Round(time.Second))
	for _, prefix := range slices.SortedFunc(maps.Keys(prefixes), func(a, b string) int { return prefixes[a] - prefixes[b] }) {
		for _, index.hidden = range []bool{true, false} {
			if (index.hidden || prefixes[prefix] > *rows/10) && !*scan {
				continue
			}
			m.Take()
			pages, found, err := readAll(ctx, store, prefix)
			if err != nil {
				return err
			}
			if found != prefixes[prefix] {
				return fmt.Errorf("%s: %d locks listed of %d", prefix, found, prefixes[prefix])
			}
			counts := m.Take()
			all := meter.Total(counts)
			fmt.Printf("list: rows %d, below the prefix %d, %s: pages %d, requests %d (%s), read units %.1f\n",
				*rows, found, map[bool]string{true: "scan", false: "as decided"}[index.hidden], pages, all.Requests, byOperation(counts), all.ReadUnits)
		}
	}
	return nil
}

// patient hides the type of a client from the store, which would give it its own time limit of two seconds for a request.
type patient struct{ *http.Client }

// hiding passes requests on, and hides the index of names from DescribeTable's answers if it is told to, so that lists scan the table.
type hiding struct {
	base   http.RoundTripper
	hidden bool
}

func (h *hiding) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.base.RoundTrip(r)
	if err != nil || !h.hidden || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".DescribeTable") {
		return resp, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	answer = bytes.ReplaceAll(answer, []byte(`"IndexName":"names"`), []byte(`"IndexName":"other"`))
	resp.Header.Del("X-Amz-Crc32")
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(answer)), int64(len(answer))
	return resp, err
}

func byOperation(counts map[string]meter.Count) string {
	var parts []string
	for _, op := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", op, counts[op].Requests))
	}
	return strings.Join(parts, ", ")
}

// readAll reads a list to its end, as `holdfast ls PREFIX` does.
func readAll(ctx context.Context, store *dynamo.Store, prefix string) (pages, found int, err error) {
	q := lock.ListQuery{Prefix: prefix, HeldAfter: 1, Limit: 100}
	for {
		page, err := store.List(ctx, q)
		if err != nil {
			return 0, 0, err
		}
		pages, found = pages+1, found+len(page.Entries)
		if q.Cursor = page.Next; q.Cursor == "" {
			return pages, found, nil
		}
	}
}

// fill writes rows of held locks: copies of one that the coordinator made, under other names and in their part of the index.
func fill(ctx context.Context, store *dynamo.Store, endpoint string, rows int, prefixes map[string]int) error {
	c, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return err
	}
	name := func(i int) string {
		for _, prefix := range slices.Sorted(maps.Keys(prefixes)) {
			if i < prefixes[prefix] {
				return fmt.Sprintf("%s%07d", prefix, i)
			}
			i -= prefixes[prefix]
		}
		return fmt.Sprintf("other:%07d", i)
	}
	db := dynamodb.NewFromConfig(awsConfig(), func(o *dynamodb.Options) { o.BaseEndpoint = aws.String(endpoint) })
	var templates []map[string]types.AttributeValue // one for each part of the index, so that rows can be copied without knowing its hash
	parts := map[string]bool{}
	for i := 0; len(templates) < 16; i++ {
		probe := fmt.Sprintf("template:%d", i)
		if _, err := c.Acquire(ctx, lock.AcquireRequest{Lock: probe, Secret: "s", Owner: "host-1.example.com", Principal: "arn:aws:sts::123456789012:assumed-role/deploy/s", TTL: time.Hour, Capacity: 1, Permits: 1}); err != nil {
			return err
		}
		out, err := db.GetItem(ctx, &dynamodb.GetItemInput{TableName: aws.String("scale-list"), Key: map[string]types.AttributeValue{
			"pk": &types.AttributeValueMemberS{Value: probe}, "sk": &types.AttributeValueMemberS{Value: "lock"},
		}})
		if err != nil {
			return err
		}
		if part := out.Item["idx"].(*types.AttributeValueMemberS).Value; !parts[part] {
			parts[part] = true
			templates = append(templates, out.Item)
		}
	}
	return writeRows(ctx, db, rows, func(i int) map[string]types.AttributeValue {
		it := maps.Clone(templates[i%len(templates)]) // any part will do: a list reads all
		it["pk"] = &types.AttributeValueMemberS{Value: name(i)}
		return it
	})
}

func writeRows(ctx context.Context, db *dynamodb.Client, rows int, row func(i int) map[string]types.AttributeValue) error {
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		wg.Go(func() {
			for from := w * 25; from < rows && errs[w] == nil && ctx.Err() == nil; from += writers * 25 {
				var puts []types.WriteRequest
				for i := from; i < min(from+25, rows); i++ {
					puts = append(puts, types.WriteRequest{PutRequest: &types.PutRequest{Item: row(i)}})
				}
				_, errs[w] = db.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{"scale-list": puts}})
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
