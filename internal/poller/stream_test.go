package poller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// eventLog keeps events by id, and lets a test wait for them.
type eventLog struct {
	mu     sync.Mutex
	ids    []string
	at     map[string]time.Time
	events map[string]events.Event
	more   chan struct{} // closed and made anew with every event
	refuse func(id string) error
}

func newEventLog() *eventLog {
	return &eventLog{at: map[string]time.Time{}, events: map[string]events.Event{}, more: make(chan struct{})}
}

func (l *eventLog) Put(_ context.Context, entries []stream.Entry) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := make([]error, len(entries))
	for i, e := range entries {
		decoded, err := events.Decode(e.DetailType, e.Detail)
		if err != nil {
			errs[i] = err
			continue
		}
		id := decoded.Subject().ID
		if l.refuse != nil {
			if errs[i] = l.refuse(id); errs[i] != nil {
				continue
			}
		}
		if _, again := l.at[id]; !again {
			l.ids = append(l.ids, id)
			l.at[id] = time.Now()
			l.events[id] = decoded
		}
	}
	close(l.more)
	l.more = make(chan struct{})
	return errs
}

// wait returns when done is true of the ids that arrived, in the order of their first arrival.
func (l *eventLog) wait(t *testing.T, done func(ids []string) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute) // only so that a failure has something to say: an engine with many tables purges late
	defer cancel()
	for {
		l.mu.Lock()
		ids, more := slices.Clone(l.ids), l.more
		l.mu.Unlock()
		if done(ids) {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("events so far: %v", ids)
		}
	}
}

// cloud is a coordinator on a table of DynamoDB Local, with a poller for its stream and timers in process.
type cloud struct {
	*lock.Coordinator
	table  string
	db     *dynamodb.Client
	log    *eventLog
	poller *Poller
}

func newCloud(t *testing.T) *cloud {
	endpoint := awstest.Endpoint(t)
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	cfg := aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: client}
	c := &cloud{table: awstest.TableName(t, "stream"), log: newEventLog()}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: c.table, Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.Coordinator, err = lock.New(lock.Config{Store: store}); err != nil {
		t.Fatal(err)
	}
	c.db = dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = aws.String(endpoint) })
	log, ready := slog.New(slog.DiscardHandler), newReadyLog()
	x := &stream.Expirer{Coordinator: c.Coordinator, Log: log}
	timers := local.NewTimers(x.Fire)
	x.Timers = timers
	consumer := &stream.Consumer{Bus: c.log, Timers: timers, Skew: lock.DefaultSkew, Log: log}
	c.poller = &Poller{
		Tables: c.db, Streams: dynamodbstreams.NewFromConfig(cfg, func(o *dynamodbstreams.Options) { o.BaseEndpoint = aws.String(endpoint) }),
		Table: c.table, Consume: consumer.Consume, Log: slog.New(ready),
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.poller.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		timers.Close()
		client.CloseIdleConnections()
		store.CloseIdleConnections()
	})
	<-ready.ready
	return c
}

func (c *cloud) acquire(t *testing.T, name, secret string, ttl time.Duration) lock.LeaseStatus {
	t.Helper()
	l, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: secret, TTL: ttl, Capacity: 1, Permits: 1})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Writes of a real table arrive through its real stream: a cycle, a dead holder's lease that a timer ends, a bus that refuses for a
// while, and a held row that native TTL purges.
func TestStreamOfDynamoDBLocal(t *testing.T) {
	c := newCloud(t)
	ids := func(name string, fence int64, kinds ...string) (list []string) {
		for _, k := range kinds {
			list = append(list, events.ID(name, fence, k))
		}
		return list
	}
	contains := func(want []string) func([]string) bool {
		return func(got []string) bool {
			var ours []string
			for _, id := range got {
				if slices.Contains(want, id) {
					ours = append(ours, id)
				}
			}
			return slices.Equal(ours, want) // all, and in order
		}
	}

	a := c.acquire(t, "cycle", "s", time.Minute)
	if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "cycle", Secret: "s", TTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "cycle", Secret: "s"}); err != nil {
		t.Fatal(err)
	}
	c.log.wait(t, contains(ids("cycle", a.Lease.Fence, events.TypeAcquired, events.TypeReleased)))

	b := c.acquire(t, "dead", "s", 3*time.Second)
	c.log.wait(t, contains(ids("dead", b.Lease.Fence, events.TypeAcquired, events.TypeExpired)))

	refusals := 0
	c.log.mu.Lock()
	c.log.refuse = func(id string) error {
		if refusals++; refusals <= 8 {
			return errors.New("away")
		}
		return nil
	}
	c.log.mu.Unlock()
	d := c.acquire(t, "refused", "s", time.Minute)
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "refused", Secret: "s"}); err != nil {
		t.Fatal(err)
	}
	c.log.wait(t, contains(ids("refused", d.Lease.Fence, events.TypeAcquired, events.TypeReleased)))
	c.log.mu.Lock()
	c.log.refuse = nil
	c.log.mu.Unlock()

	// A row whose native TTL has passed while it is held, as if every timer and every caller had been lost for a day.
	e := c.acquire(t, "purged", "s", time.Hour)
	if _, err := c.db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(c.table), Key: map[string]ddbtypes.AttributeValue{
			"pk": &ddbtypes.AttributeValueMemberS{Value: "purged"}, "sk": &ddbtypes.AttributeValueMemberS{Value: "lock"},
		},
		UpdateExpression: aws.String("SET #ttl = :past"), ExpressionAttributeNames: map[string]string{"#ttl": "ttl"},
		ExpressionAttributeValues: map[string]ddbtypes.AttributeValue{":past": &ddbtypes.AttributeValueMemberN{Value: fmt.Sprint(time.Now().Unix() - 1)}},
	}); err != nil {
		t.Fatal(err)
	}
	purged := ids("purged", e.Lease.Fence, events.TypeAcquired, events.TypeExpired)
	c.log.wait(t, contains(purged))
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	if ev := c.log.events[purged[1]].(events.Expired); !ev.Purged {
		data, _ := json.Marshal(ev)
		t.Errorf("a purge is told as %s", data)
	}
}
