package notify_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/notify"
)

// Waits of this process are notified of their grants through one queue. Close deletes it.
func Example() {
	ctx, cfg := context.Background(), aws.Config{Region: "eu-west-1"} // with config.LoadDefaultConfig
	notifier, err := notify.New(notify.Config{AWS: cfg, Prefix: os.Getenv("HOLDFAST_NOTIFY_PREFIX")})
	if err != nil {
		log.Fatal(err)
	}
	client, err := lockclient.New(lockclient.Config{
		Endpoint: os.Getenv("HOLDFAST_ENDPOINT"), Region: cfg.Region, Credentials: cfg.Credentials,
		Notify: notifier,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close(ctx) }()

	lease, err := client.Acquire(ctx, "deploy:prod", lockclient.Options{
		Wait:      time.Hour,
		OnPolling: func(reason error) { log.Println("waiting by polling:", reason) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = lease.Release(ctx) }()
}

func ExampleNew() {
	_, err := notify.New(notify.Config{AWS: aws.Config{Region: "eu-west-1"}, Prefix: "Holdfast-notify-"})
	fmt.Println(err)
	// Output: notify: Config.Prefix is "Holdfast-notify-", which is no URL; give the stack's output NotifyPrefix, such as https://sqs.eu-west-1.amazonaws.com/123456789012/Holdfast-notify-
}

// A scheduled job may sweep; the command is holdfast sweep.
func ExampleSweep() {
	done, err := notify.Sweep(context.Background(), notify.Config{AWS: aws.Config{Region: "eu-west-1"}, Prefix: os.Getenv("HOLDFAST_NOTIFY_PREFIX")})
	if err != nil {
		log.Println(err)
	}
	log.Printf("deleted %v; %d owners live", done.Deleted, done.Alive)
}
