package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"go.opentelemetry.io/otel"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

// The examples use a coordinator in the same process. In a program, make the client with lockclient.New.
func exampleClient(owner string) (*lockclient.Client, *locktest.Coordinator) {
	locks := locktest.New(exampleT)
	return locks.Client(owner), locks
}

func writeReport(context.Context, int64) error { return nil }

func ExampleClient_Do() {
	client, _ := exampleClient("example")
	ctx := context.Background()

	err := client.Do(ctx, "report:daily", lockclient.Options{TTL: 30 * time.Second}, func(ctx context.Context, lease *lockclient.Lease) error {
		return writeReport(ctx, lease.Fence()) // ctx ends if the lease is lost
	})

	fmt.Println(err)
	// Output: <nil>
}

func ExampleClient_Acquire() {
	client, _ := exampleClient("example")
	ctx := context.Background()

	work := func() error {
		lease, err := client.Acquire(ctx, "migration:users", lockclient.Options{
			Wait:     10 * time.Minute, // then give up
			Metadata: map[string]any{"version": 42},
		})
		if err != nil {
			return err
		}
		defer func() { _ = lease.Release(ctx) }()
		return migrate(lease.Context()) // ends if the lease is lost
	}

	fmt.Println(work())
	// Output: <nil>
}

func migrate(ctx context.Context) error { return ctx.Err() }

func ExampleClient_TryAcquire() {
	client, locks := exampleClient("me")
	ctx := context.Background()
	locks.Steal("deploy:prod", "alice")

	lease, err := client.TryAcquire(ctx, "deploy:prod", lockclient.Options{})
	var held *lockclient.HeldError
	switch {
	case errors.As(err, &held):
		fmt.Println("held by", held.Holders[0].Owner)
	case err != nil:
		log.Println(err)
	default:
		defer func() { _ = lease.Release(ctx) }()
	}
	// Output: held by alice
}

func ExampleClient_Watch() {
	client, locks := exampleClient("me")
	locks.Steal("deploy:prod", "alice")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	for status, err := range client.Watch(ctx, "deploy:prod") {
		if err != nil {
			log.Println(err) // the loop continues
			continue
		}
		if !status.Locked {
			fmt.Println("free")
			break
		}
		fmt.Println("held by", status.Holders[0].Owner)
		locks.Expire("deploy:prod")
	}
	// Output:
	// held by alice
	// free
}

func ExampleClient_Close() {
	client, locks := exampleClient("me")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if _, err := client.Acquire(ctx, "leader", lockclient.Options{}); err != nil {
		log.Fatal(err)
	}
	stop()

	<-ctx.Done() // a signal: release every lease, in at most 10 s
	closing, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := client.Close(closing); err != nil {
		log.Println(err) // those leases expire by themselves
	}

	fmt.Printf("held by %q\n", locks.Holder("leader"))
	// Output: held by ""
}

type Order struct{ ID string }

func handle(ctx context.Context, o Order) (string, error) {
	return fmt.Sprintf("order %s, fenced: %v", o.ID, lockclient.LeaseFrom(ctx).Fence() > 0), nil
}

func ExampleExclusive() {
	client, _ := exampleClient("me")
	nameOf := func(o Order) string { return "order:" + o.ID }

	// In a function: lambda.Start(lockclient.Exclusive(client, nameOf, handle))
	handler := lockclient.Exclusive(client, nameOf, handle)

	fmt.Println(handler(context.Background(), Order{ID: "7"}))
	// Output: order 7, fenced: true <nil>
}

func ExampleNew() {
	client, err := lockclient.New(lockclient.Config{
		Endpoint:    "https://abc123.execute-api.eu-west-1.amazonaws.com", // the stack's output Endpoint
		Region:      "eu-west-1",
		Credentials: lockclient.EnvCredentials{}, // or the SDK's: config.LoadDefaultConfig(ctx) gives cfg.Credentials
	})

	fmt.Println(client != nil, err)
	// Output: true <nil>
}

// A worker holds one permit of ten for each item.
func ExampleOptions_semaphore() {
	client, locks := exampleClient("me")
	ctx := context.Background()

	lease, err := client.Acquire(ctx, "api:geocoder", lockclient.Options{Capacity: 10, Permits: 2})

	fmt.Println(err, locks.Holder("api:geocoder"))
	_ = lease.Release(ctx)
	// Output: <nil> me
}

// A deployment reads the schema together with others. A migration has it alone, and lets others read while it checks its work.
func ExampleMode() {
	client, locks := exampleClient("migration")
	ctx := context.Background()

	lease, err := client.Acquire(ctx, "schema:orders", lockclient.Options{Mode: lockclient.ModeWrite})
	if err != nil {
		return
	}
	fmt.Println(lease.Downgrade(ctx), locks.Holder("schema:orders"))
	_ = lease.Release(ctx)
	// Output: <nil> migration
}

// One process acquires a lease, and another one takes it over.
func ExampleClient_Adopt() {
	first, locks := exampleClient("first")
	second := locks.Client("second")
	ctx := context.Background()
	taken, err := first.Acquire(ctx, "export", lockclient.Options{ManualRenew: true})
	if err != nil {
		log.Fatal(err)
	}
	secret := taken.Secret() // passed to the other process, for example in an SQS message

	lease, err := second.Adopt(ctx, "export", secret, lockclient.Options{})

	fmt.Println(err, lease.Fence() == taken.Fence())
	_ = lease.Release(ctx)
	// Output: <nil> true
}

// The first lines of README, for a coordinator that `make run` started; the test has none.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	run := func() error {
		client, err := lockclient.New(lockclient.Config{Endpoint: "http://127.0.0.1:7420"})
		if err != nil {
			return err
		}
		err = client.Do(ctx, "report:daily", lockclient.Options{TTL: 30 * time.Second}, func(ctx context.Context, lease *lockclient.Lease) error {
			return writeReport(ctx, lease.Fence()) // ctx ends if the lease is lost
		})
		return err
	}

	fmt.Println(errors.Is(run(), context.Canceled))
	// Output: true
}

func Example_signed() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	endpoint := "https://abc123.execute-api.eu-west-1.amazonaws.com"
	deploy := func(context.Context, *lockclient.Lease) error { return nil }
	run := func() error {
		cfg, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return err
		}
		client, err := lockclient.New(lockclient.Config{Endpoint: endpoint, Region: cfg.Region, Credentials: cfg.Credentials})
		if err != nil {
			return err
		}
		return client.Do(ctx, "deploy:prod", lockclient.Options{}, deploy)
	}

	fmt.Println(run() != nil) // the test has no coordinator
	// Output: true
}

// With the program's providers of OpenTelemetry, the client makes spans and metrics.
func Example_tracing() {
	endpoint := "http://127.0.0.1:7420"

	client, err := lockclient.New(lockclient.Config{
		Endpoint:       endpoint,
		TracerProvider: otel.GetTracerProvider(), // of go.opentelemetry.io/otel
		MeterProvider:  otel.GetMeterProvider(),
	})

	fmt.Println(client != nil, err)
	// Output: true <nil>
}

func Example_migration() {
	client, _ := exampleClient("kirk")
	ctx := context.Background()

	opts := lockclient.Options{TTL: 20 * time.Second, Heartbeat: 5 * time.Second, Wait: 21 * time.Second}
	lease, err := client.Acquire(ctx, "spock", opts)

	early := func() error {
		if time.Until(lease.ExpiresAt()) < 10*time.Second {
			return errors.New("no renewal for too long; stopping early")
		}
		return nil
	}
	fmt.Println(err, early())
	_ = lease.Release(ctx)
	// Output: <nil> <nil>
}

// Any text can be made a lock name.
func ExampleEscapeName() {
	name, err := lockclient.EscapeName("refs/heads/größe")
	fmt.Println(name, err)

	text, err := lockclient.UnescapeName(name)
	fmt.Println(text, err)
	// Output:
	// refs=2Fheads=2Fgr=C3=B6=C3=9Fe <nil>
	// refs/heads/größe <nil>
}

// "One at a time per customer, and at most 20 in all": both locks are acquired together, or none.
func ExampleClient_DoAll() {
	client, _ := exampleClient("example")
	ctx := context.Background()
	importCustomer := func(_ context.Context, fence int64) error {
		fmt.Println("imported:", fence > 0)
		return nil
	}
	run := func() error {
		err := client.DoAll(ctx, []lockclient.Want{{Lock: "customer:42"}, {Lock: "api", Capacity: 20}}, lockclient.Options{}, func(ctx context.Context, lease *lockclient.Lease) error {
			return importCustomer(ctx, lease.Fences()["customer:42"])
		})
		return err
	}
	fmt.Println(run())
	// Output:
	// imported: true
	// <nil>
}
