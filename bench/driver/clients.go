package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"cirello.io/dynamolock/v2"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// serveKind is not a client: the process serves the coordinator's API over a table, with the handlers of the functions.
const serveKind = "serve"

const region = "us-east-1"

var keys = credentials.NewStaticCredentialsProvider("test", "test", "")

func newClient(ctx context.Context, s settings) (client, error) {
	switch s.Kind {
	case "bare", "bare-stream":
		return &bare{s, sdk(s.Endpoint)}, nil
	case "dynamolock":
		return newDynamolock(s)
	case "direct":
		table, err := direct.New(ctx, direct.Config{Table: s.Table, Region: region, Endpoint: s.Endpoint, Credentials: keys})
		if err != nil {
			return nil, err
		}
		return newHoldfast(s, lockclient.Config{Transport: table}, table.CreateTable)
	case "api":
		return newHoldfast(s, lockclient.Config{Endpoint: s.Endpoint}, func(context.Context) error { return nil })
	}
	return nil, fmt.Errorf("there is no kind %q", s.Kind)
}

// sdk makes a DynamoDB client with the SDK's defaults. The check of a response's checksum is off: it logs a warning for each condition
// that fails.
func sdk(endpoint string) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{Region: region, BaseEndpoint: &endpoint, Credentials: keys, DisableValidateResponseChecksum: true})
}

// serve serves the API until standard input ends. It prints its URL.
func serve(ctx context.Context, s settings) error {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithCredentialsProvider(keys))
	if err != nil {
		return err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: s.Table, Endpoint: s.Endpoint})
	if err != nil {
		return err
	}
	if err := store.CreateTable(ctx); err != nil {
		return err
	}
	coordinator, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log})
	if err != nil {
		return err
	}
	listener, err := loopback.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: local.NewGateway(a, log), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it ends
		_ = server.Close()
	}()
	(&output{w: os.Stdout}).line(map[string]string{"url": "http://" + listener.Addr().String()})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bare is a lock of one conditional write: the item has an owner, an expiry and a fencing token. A waiter repeats the write; a holder
// does not renew.
type bare struct {
	settings
	db *dynamodb.Client
}

const (
	bareLease = time.Minute
	barePoll  = time.Second
)

func milliseconds(ms int64, standard time.Duration) time.Duration {
	if ms == 0 {
		return standard
	}
	return time.Duration(ms) * time.Millisecond
}

func (b *bare) setup(ctx context.Context) error {
	create := &dynamodb.CreateTableInput{
		TableName: &b.Table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}},
	}
	if b.Kind == "bare-stream" {
		create.StreamSpecification = &types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewAndOldImages}
	}
	_, err := b.db.CreateTable(ctx, create)
	return err
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

func (b *bare) acquire(ctx context.Context, name string, wait time.Duration) (lease, error) {
	owner, length := rand.Text(), milliseconds(b.LeaseMS, bareLease)
	for limit := time.Now().Add(wait); ; {
		now := time.Now()
		out, err := b.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: &b.Table, Key: map[string]types.AttributeValue{"pk": text(name)},
			ConditionExpression: aws.String("attribute_not_exists(holder) OR expires_at < :now"),
			UpdateExpression:    aws.String("SET holder = :holder, expires_at = :expiry ADD fence :one"),
			ReturnValues:        types.ReturnValueUpdatedNew,
			ExpressionAttributeValues: map[string]types.AttributeValue{
				":now": number(now.UnixMilli()), ":holder": text(owner), ":expiry": number(now.Add(length).UnixMilli()), ":one": number(1),
			},
		})
		if err == nil {
			var fence int64
			if n, ok := out.Attributes["fence"].(*types.AttributeValueMemberN); ok {
				fence, err = strconv.ParseInt(n.Value, 10, 64)
			}
			return &bareLock{b, name, owner, now.Add(length), fence}, err
		}
		if _, held := errors.AsType[*types.ConditionalCheckFailedException](err); !held || time.Now().After(limit) {
			return nil, err
		}
		time.Sleep(milliseconds(b.PollMS, barePoll))
	}
}

type bareLock struct {
	bare        *bare
	name, owner string
	expires     time.Time
	token       int64
}

func (l *bareLock) release(ctx context.Context) error {
	_, err := l.bare.db.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: &l.bare.Table, Key: map[string]types.AttributeValue{"pk": text(l.name)},
		ConditionExpression:       aws.String("holder = :holder"),
		UpdateExpression:          aws.String("REMOVE holder, expires_at"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":holder": text(l.owner)},
	})
	return err
}

func (l *bareLock) held() bool   { return time.Now().Before(l.expires) }
func (l *bareLock) fence() int64 { return l.token }

type dynamolocks struct {
	settings
	db     *dynamodb.Client
	client *dynamolock.Client
}

// newDynamolock keeps the library's ratio of heartbeats to the lease, 5 s to 20 s.
func newDynamolock(s settings) (*dynamolocks, error) {
	var options []dynamolock.ClientOption
	if s.LeaseMS != 0 {
		options = append(options, dynamolock.WithLeaseDuration(milliseconds(s.LeaseMS, 0)), dynamolock.WithHeartbeatPeriod(milliseconds(s.LeaseMS/4, 0)))
	}
	db := sdk(s.Endpoint)
	c, err := dynamolock.New(db, s.Table, options...)
	return &dynamolocks{s, db, c}, err
}

func (d *dynamolocks) setup(ctx context.Context) error {
	if _, err := d.client.CreateTableWithContext(ctx, d.Table); err != nil {
		return err
	}
	return dynamodb.NewTableExistsWaiter(d.db).Wait(ctx, &dynamodb.DescribeTableInput{TableName: &d.Table}, time.Minute)
}

func (d *dynamolocks) acquire(ctx context.Context, name string, wait time.Duration) (lease, error) {
	options := []dynamolock.AcquireLockOption{dynamolock.WithAdditionalTimeToWaitForLock(wait)}
	if d.PollMS != 0 {
		options = append(options, dynamolock.WithRefreshPeriod(milliseconds(d.PollMS, 0)))
	}
	l, err := d.client.AcquireLockWithContext(ctx, name, options...)
	if err != nil {
		return nil, err
	}
	return &dynamolocked{d.client, l}, nil
}

type dynamolocked struct {
	client *dynamolock.Client
	lock   *dynamolock.Lock
}

func (l *dynamolocked) release(ctx context.Context) error {
	_, err := l.client.ReleaseLockWithContext(ctx, l.lock)
	return err
}

func (l *dynamolocked) held() bool   { return !l.lock.IsExpired() }
func (l *dynamolocked) fence() int64 { return 0 }

type holdfast struct {
	settings
	client *lockclient.Client
	create func(context.Context) error
}

func newHoldfast(s settings, cfg lockclient.Config, create func(context.Context) error) (*holdfast, error) {
	cfg.RetryDelay = milliseconds(s.PollMS, 0)
	c, err := lockclient.New(cfg)
	return &holdfast{s, c, create}, err
}

func (h *holdfast) setup(ctx context.Context) error { return h.create(ctx) }

func (h *holdfast) acquire(ctx context.Context, name string, wait time.Duration) (lease, error) {
	l, err := h.client.Acquire(ctx, name, lockclient.Options{TTL: milliseconds(h.LeaseMS, 0), Wait: max(wait, time.Millisecond)})
	if err != nil {
		return nil, err
	}
	return &holdfastLease{l}, nil
}

type holdfastLease struct{ lease *lockclient.Lease }

func (l *holdfastLease) release(ctx context.Context) error { return l.lease.Release(ctx) }
func (l *holdfastLease) held() bool                        { return l.lease.Err() == nil }
func (l *holdfastLease) fence() int64                      { return l.lease.Fence() }
