package dynamo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// connections keeps a connection for each part of the index.
var connections = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// large is a client of DynamoDB Local whose table seems so large that a list of a prefix uses the index: a scan reads one item, or ends before
// the first if empty is set, and the table's size is changed in the answer of DescribeTable.
type large struct {
	empty   bool
	mu      sync.Mutex
	actions []string
}

func (l *large) Do(req *http.Request) (*http.Response, error) {
	_, action, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
	l.mu.Lock()
	l.actions = append(l.actions, action)
	l.mu.Unlock()
	if action == "Scan" && l.empty {
		answer := `{"Items":[],"LastEvaluatedKey":{"pk":{"S":"?"},"sk":{"S":"lock"}}}`
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(answer)), Request: req}, nil
	}
	if action == "Scan" {
		body, _ := io.ReadAll(req.Body)
		body = bytes.Replace(body, []byte(`"Limit":1000`), []byte(`"Limit":1`), 1)
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	resp, err := connections.Do(req)
	if err != nil || action != "DescribeTable" {
		return resp, err
	}
	var answer map[string]map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	answer["Table"]["ItemCount"], answer["Table"]["TableSizeBytes"] = 1_000_000, 400_000_000
	body, err := json.Marshal(answer)
	resp.Header.Del("X-Amz-Crc32")
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, err
}

func (l *large) took() (actions []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	actions, l.actions = l.actions, nil
	return actions
}

// A list by the index has the locks of its prefix, each once, in the order of their names, whatever the pages; and none whose row is gone.
func TestListByIndex(t *testing.T) {
	wire, table := &large{empty: true}, ""
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient, table = wire, c.Table })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	var held, all []string
	for i := range 24 {
		name := fmt.Sprintf("%s%d", []string{"a:", "a:b:", "ab", "b:"}[i%4], i/4)
		if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: "x", TTL: time.Hour, Capacity: 1, Permits: 1}); err != nil {
			t.Fatal(err)
		}
		switch {
		case i%5 == 0:
			if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: "x"}); err != nil {
				t.Fatal(err)
			}
		case i == 6: // as native TTL does
			if _, err := engine(t).DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: map[string]types.AttributeValue{
				"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: "lock"},
			}}); err != nil {
				t.Fatal(err)
			}
			continue
		default:
			held = append(held, name)
		}
		all = append(all, name)
	}
	for _, prefix := range []string{"a:", "a:b", "b:5", "c"} {
		for _, limit := range []int{2, 7} {
			for _, state := range []struct {
				heldAfter int64
				names     []string
			}{{0, all}, {1, held}} {
				want := slices.DeleteFunc(slices.Sorted(slices.Values(state.names)), func(n string) bool { return !strings.HasPrefix(n, prefix) })
				wire.took()
				got := listNames(t, s, lock.ListQuery{Prefix: prefix, HeldAfter: state.heldAfter, Limit: limit})
				if !slices.Equal(got, want) {
					t.Errorf("%q by %d, held after %d: %v\nwant %v", prefix, limit, state.heldAfter, got, want)
				}
				if took := wire.took(); took[len(took)-1] == "Scan" {
					t.Errorf("%q by %d did not use the index: %v", prefix, limit, took)
				}
			}
		}
	}
}

// listNames reads a list to its end.
func listNames(t *testing.T, s *dynamo.Store, q lock.ListQuery) (names []string) {
	t.Helper()
	for range 1000 {
		page, err := s.List(t.Context(), q)
		if err != nil || len(page.Entries) > q.Limit {
			t.Fatalf("%+v: %d entries, %v", q, len(page.Entries), err)
		}
		for _, e := range page.Entries {
			names = append(names, e.Name)
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return names
		}
	}
	t.Fatalf("%+v does not end", q)
	return nil
}

// Only the write that makes a row costs a unit in the index: not those of a row that exists, and not those of waiters.
func TestUnitsOfTheIndex(t *testing.T) {
	m := &meter{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = m })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(name, secret string, wait time.Duration) error {
		_, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: secret, TTL: time.Hour, Capacity: 1, Permits: 1, Wait: wait})
		if errors.Is(err, lock.ErrLockHeld) {
			return nil
		}
		return err
	}
	release := func() error {
		_, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "r", Secret: "a"})
		return err
	}
	for _, step := range []struct {
		name string
		want float64
		do   func() error
	}{
		{"acquire of a new lock", 2, func() error { return acquire("r", "a", 0) }},
		{"renew", 1, func() error {
			_, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "r", Secret: "a", TTL: time.Hour})
			return err
		}},
		{"release", 1, release},
		{"acquire", 1, func() error { return acquire("r", "a2", 0) }},
		{"release again", 1, func() error {
			_, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "r", Secret: "a2"})
			return err
		}},
		{"acquire for a waiter", 1, func() error { return acquire("r", "b", 0) }},
		{"join: two items, twice each", 4, func() error { return acquire("r", "c", time.Minute) }},
	} {
		m.reset()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if m.units != step.want {
			t.Errorf("%s: %v units by %v, want %v", step.name, m.units, m.requests, step.want)
		}
	}
}

// The index is added to a table that has none, and finds the rows that are there.
func TestIndexIsAddedToATable(t *testing.T) {
	wire, table := &large{}, awstest.TableName(t, "old")
	awstest.CreateWithoutIndex(t, engine(t), table)
	cfg := awsConfig()
	cfg.HTTPClient = wire
	s, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: awstest.Endpoint(t)})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := lock.New(lock.Config{Store: s})
	for i := range 3 {
		if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: fmt.Sprint("l", i), Secret: "x", TTL: time.Hour, Capacity: 1, Permits: 1}); err != nil {
			t.Fatal(err)
		}
	}
	list := func(index bool) {
		t.Helper()
		wire.took()
		got := listNames(t, s, lock.ListQuery{Prefix: "l", Limit: 10})
		if slices.Sort(got); !slices.Equal(got, []string{"l0", "l1", "l2"}) {
			t.Errorf("index %v: %v", index, got)
		}
		if took := wire.took(); slices.Contains(took, "BatchGetItem") != index {
			t.Errorf("index %v: %v", index, took)
		}
	}
	list(false)
	if problems, err := s.Inspect(t.Context()); err != nil || len(problems) != 2 || !strings.Contains(problems[0].What, "no index") || !strings.Contains(problems[1].What, "TTL") {
		t.Errorf("Inspect: %v, %v", problems, err)
	}
	if added, err := s.EnsureTable(t.Context()); err != nil || !added {
		t.Fatal(added, err)
	}
	settle(t, table)
	if added, err := s.EnsureTable(t.Context()); err != nil || added {
		t.Errorf("with an index: %t, %v", added, err)
	}
	list(true)
}

// A row that a version without the index has made is missing from lists of a prefix, also while its lease is renewed, until it is written again: by
// the next grant, or by a sweep.
func TestRowThatIsNotInTheIndex(t *testing.T) {
	wire, table := &large{}, ""
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient, table = wire, c.Table })
	c, _ := lock.New(lock.Config{Store: s})
	for i := range 3 {
		if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: fmt.Sprint("l", i), Secret: "x", TTL: time.Hour, Capacity: 1, Permits: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := engine(t).UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: &table, UpdateExpression: aws.String("REMOVE idx"), Key: map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: "l1"}, "sk": &types.AttributeValueMemberS{Value: "lock"},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "l1", Secret: "x"}); err != nil {
		t.Fatal(err)
	}
	if got := listNames(t, s, lock.ListQuery{Prefix: "l", Limit: 10, HeldAfter: 1}); !slices.Equal(got, []string{"l0", "l2"}) {
		t.Errorf("listed %v", got)
	}
	if err := c.Rewrite(t.Context(), "l1"); err != nil {
		t.Fatal(err)
	}
	if got := listNames(t, s, lock.ListQuery{Prefix: "l", Limit: 10, HeldAfter: 1}); !slices.Equal(got, []string{"l0", "l1", "l2"}) {
		t.Errorf("listed %v after the row was written again", got)
	}
	if err := c.Rewrite(t.Context(), "gone"); err != nil {
		t.Errorf("a row that is gone: %v", err)
	}
}

// settle waits until the index of a table is active.
func settle(t *testing.T, table string) {
	t.Helper()
	for range 3000 { // only so that a failure has something to say
		out, err := engine(t).DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &table})
		if err != nil {
			t.Fatal(err)
		}
		if list := out.Table.GlobalSecondaryIndexes; len(list) == 1 && list[0].IndexStatus == types.IndexStatusActive {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("the table has no active index after five minutes")
}
