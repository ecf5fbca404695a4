package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cirello.io/dynamolock/v2"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// The kinds of locker.
const (
	ours       = "lockclient/direct"
	bare       = "bare conditional write"
	bareStream = "bare conditional write, table with a stream" // lockclient's table has one, which makes writes slower in DynamoDB Local
	other      = "dynamolock 2.1.0"
)

// A locker acquires a lock and waits for it while others hold it. It returns a function that releases the lock.
type locker func(ctx context.Context, name string) (release func(context.Context) error, err error)

var keys = credentials.NewStaticCredentialsProvider("test", "test", "")

const (
	region = "us-east-1"
	lease  = time.Minute
	poll   = time.Second // between two tries of the bare loop; also the default of the others
)

// A process makes the locker of one process on a table that several use. client sends its requests; nil: the kind's own.
type process func(client *http.Client) (locker, error)

// newTable makes a table for a kind of locker, with the kind's own settings and defaults. interval replaces the longest pause between
// two polls; 0: the default.
func newTable(ctx context.Context, kind, endpoint string, interval time.Duration) (process, error) {
	switch kind {
	case ours:
		return newOurs(ctx, endpoint, interval)
	case bare, bareStream:
		return newBare(ctx, endpoint, kind == bareStream)
	}
	return newOther(ctx, endpoint, interval)
}

func newOurs(ctx context.Context, endpoint string, interval time.Duration) (process, error) {
	cfg := direct.Config{Table: "bench-" + rand.Text(), Region: region, Endpoint: endpoint, Credentials: keys}
	table, err := direct.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := table.CreateTable(ctx); err != nil {
		return nil, err
	}
	return func(client *http.Client) (locker, error) {
		cfg := cfg
		cfg.HTTPClient = client
		table, err := direct.New(ctx, cfg)
		if err != nil {
			return nil, err
		}
		c, err := lockclient.New(lockclient.Config{Transport: table, RetryDelay: interval})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, name string) (func(context.Context) error, error) {
			l, err := c.Acquire(ctx, name, lockclient.Options{})
			if err != nil {
				return nil, err
			}
			return l.Release, nil
		}, nil
	}, nil
}

// sdkClient makes a DynamoDB client with the SDK's defaults. The check of a response's checksum is off: it logs a warning for each
// condition that fails.
func sdkClient(endpoint string, client *http.Client) *dynamodb.Client {
	o := dynamodb.Options{Region: region, BaseEndpoint: &endpoint, Credentials: keys, DisableValidateResponseChecksum: true}
	if client != nil {
		o.HTTPClient = client
	}
	return dynamodb.New(o)
}

// newBare makes a lock of one conditional write: the item has an owner, an expiry and a fencing token. A waiter repeats the write once
// a second.
func newBare(ctx context.Context, endpoint string, stream bool) (process, error) {
	table := "bench-" + rand.Text()
	create := &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}},
	}
	if stream {
		create.StreamSpecification = &types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewAndOldImages}
	}
	if _, err := sdkClient(endpoint, nil).CreateTable(ctx, create); err != nil {
		return nil, err
	}
	return func(client *http.Client) (locker, error) {
		db := sdkClient(endpoint, client)
		return func(ctx context.Context, name string) (func(context.Context) error, error) {
			owner := rand.Text()
			for {
				_, err := db.UpdateItem(ctx, bareAcquire(table, name, owner))
				if err == nil {
					break
				}
				if _, held := errors.AsType[*types.ConditionalCheckFailedException](err); !held {
					return nil, err
				}
				select {
				case <-time.After(poll):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return func(ctx context.Context) error {
				_, err := db.UpdateItem(ctx, bareRelease(table, name, owner))
				return err
			}, nil
		}, nil
	}, nil
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number(n int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(n, 10)}
}

// bareAcquire is the smallest acquire with an expiry and a fencing token.
func bareAcquire(table, name, owner string) *dynamodb.UpdateItemInput {
	now := time.Now()
	return &dynamodb.UpdateItemInput{
		TableName: &table, Key: map[string]types.AttributeValue{"pk": text(name)},
		ConditionExpression:       aws.String("attribute_not_exists(holder) OR expires_at < :now"),
		UpdateExpression:          aws.String("SET holder = :holder, expires_at = :expiry ADD fence :one"),
		ReturnValues:              types.ReturnValueUpdatedNew,
		ExpressionAttributeValues: map[string]types.AttributeValue{":now": number(now.UnixMilli()), ":holder": text(owner), ":expiry": number(now.Add(lease).UnixMilli()), ":one": number(1)},
	}
}

func bareRelease(table, name, owner string) *dynamodb.UpdateItemInput {
	return &dynamodb.UpdateItemInput{
		TableName: &table, Key: map[string]types.AttributeValue{"pk": text(name)},
		ConditionExpression:       aws.String("holder = :holder"),
		UpdateExpression:          aws.String("REMOVE holder, expires_at"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":holder": text(owner)},
	}
}

func newOther(ctx context.Context, endpoint string, interval time.Duration) (process, error) {
	db, table := sdkClient(endpoint, nil), "bench-"+rand.Text()
	admin, err := dynamolock.New(db, table, dynamolock.DisableHeartbeat())
	if err != nil {
		return nil, err
	}
	if _, err := admin.CreateTableWithContext(ctx, table); err != nil {
		return nil, err
	}
	if err := dynamodb.NewTableExistsWaiter(db).Wait(ctx, &dynamodb.DescribeTableInput{TableName: &table}, time.Minute); err != nil {
		return nil, err
	}
	return func(client *http.Client) (locker, error) {
		c, err := dynamolock.New(sdkClient(endpoint, client), table)
		if err != nil {
			return nil, err
		}
		options := []dynamolock.AcquireLockOption{dynamolock.WithAdditionalTimeToWaitForLock(10 * time.Minute)}
		if interval != 0 {
			options = append(options, dynamolock.WithRefreshPeriod(interval))
		}
		return func(ctx context.Context, name string) (func(context.Context) error, error) {
			l, err := c.AcquireLockWithContext(ctx, name, options...)
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context) error {
				_, err := c.ReleaseLockWithContext(ctx, l)
				return err
			}, nil
		}, nil
	}, nil
}
