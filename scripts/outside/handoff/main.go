// Command handoff measures the time between the release of a lock and its grant to the next holder, when two clients poll for it. It
// compares lockclient/direct with dynamolock in one run, on the DynamoDB engine of HOLDFAST_DYNAMODB_ENDPOINT, with their defaults and
// with an interval of 10 ms. Its module is one of its own, so that dynamolock is no dependency of the project.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"cirello.io/dynamolock/v2"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

const (
	pairs  = 20 // of clients, on a lock each
	rounds = 5
	minute = time.Minute
)

// A locker waits for a lock, and returns a function that releases it.
type locker func(ctx context.Context, name string) (release func() error, err error)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "handoff:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		return errors.New("HOLDFAST_DYNAMODB_ENDPOINT is not set: run scripts/with-dynamodb.sh")
	}
	for _, refresh := range []time.Duration{0, 10 * time.Millisecond} {
		polling, hold := "defaults", 3*time.Second
		if refresh != 0 {
			polling, hold = "polling every "+refresh.String(), 200*time.Millisecond
		}
		ours, err := holdfast(ctx, endpoint, refresh)
		if err != nil {
			return err
		}
		theirs, err := other(ctx, endpoint, refresh)
		if err != nil {
			return err
		}
		// Both run in each round, so that other load on the machine affects them alike.
		var a, b []time.Duration
		for range rounds {
			for list, lock := range map[*[]time.Duration]locker{&a: ours, &b: theirs} {
				idle, err := measure(ctx, lock, hold)
				if err != nil {
					return err
				}
				*list = append(*list, idle...)
			}
		}
		slices.Sort(a)
		slices.Sort(b)
		fmt.Printf("handoff: %s: lockclient p50 %v p90 %v, dynamolock p50 %v p90 %v, ratio of p50 %.2f (%d hand-offs each)\n", polling,
			at(a, 50), at(a, 90), at(b, 50), at(b, 90), float64(at(a, 50))/float64(at(b, 50)), len(a))
	}
	return nil
}

func at(d []time.Duration, percent int) time.Duration {
	return d[len(d)*percent/100].Round(100 * time.Microsecond)
}

// measure lets the first client of each pair hold a lock for about the given time while the second waits, and returns how long each
// lock was free.
func measure(ctx context.Context, lock locker, hold time.Duration) ([]time.Duration, error) {
	idle, errs := make([]time.Duration, pairs), make([]error, pairs)
	var work sync.WaitGroup
	for i := range pairs {
		work.Go(func() {
			name := "handoff:" + rand.Text()
			release, err := lock(ctx, name)
			if err != nil {
				errs[i] = err
				return
			}
			released := make(chan time.Time, 1)
			time.AfterFunc(hold+mathrand.N(time.Second), func() {
				if err := release(); err != nil {
					errs[i] = err
				}
				released <- time.Now()
			})
			release2, err := lock(ctx, name)
			taken := time.Now()
			idle[i] = taken.Sub(<-released)
			if err == nil {
				err = release2()
			}
			errs[i] = errors.Join(errs[i], err)
		})
	}
	work.Wait()
	return idle, errors.Join(errs...)
}

func holdfast(ctx context.Context, endpoint string, refresh time.Duration) (locker, error) {
	table, err := direct.New(ctx, direct.Config{
		Table: "handoff-" + rand.Text(), Region: "us-east-1", Endpoint: endpoint,
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
	if err != nil {
		return nil, err
	}
	if err := table.CreateTable(ctx); err != nil {
		return nil, err
	}
	client, err := lockclient.New(lockclient.Config{Transport: table, RetryDelay: refresh})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, name string) (func() error, error) {
		l, err := client.Acquire(ctx, name, lockclient.Options{})
		if err != nil {
			return nil, err
		}
		return func() error { return l.Release(ctx) }, nil
	}, nil
}

func other(ctx context.Context, endpoint string, refresh time.Duration) (locker, error) {
	db := dynamodb.New(dynamodb.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		DisableValidateResponseChecksum: true,
	})
	table := "handoff-" + rand.Text()
	admin, err := dynamolock.New(db, table, dynamolock.DisableHeartbeat())
	if err != nil {
		return nil, err
	}
	if _, err := admin.CreateTableWithContext(ctx, table); err != nil {
		return nil, err
	}
	if err := dynamodb.NewTableExistsWaiter(db).Wait(ctx, &dynamodb.DescribeTableInput{TableName: &table}, minute); err != nil {
		return nil, err
	}
	return func(ctx context.Context, name string) (func() error, error) {
		client, err := dynamolock.New(db, table) // one client for each holder, as in two processes
		if err != nil {
			return nil, err
		}
		options := []dynamolock.AcquireLockOption{dynamolock.WithAdditionalTimeToWaitForLock(minute)}
		if refresh != 0 {
			options = append(options, dynamolock.WithRefreshPeriod(refresh))
		}
		l, err := client.AcquireLockWithContext(ctx, name, options...)
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := client.ReleaseLockWithContext(ctx, l)
			return err
		}, nil
	}, nil
}
