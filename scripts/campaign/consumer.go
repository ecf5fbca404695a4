package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/eventbridge"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/tasks"
)

// A consumerConfig configures the stream's process.
type consumerConfig struct {
	DynamoDB string `json:"dynamodb"` // URL
	Services string `json:"services"` // URL of the queue, the bus and the tasks
	Table    string `json:"table"`
	Dir      string `json:"dir"` // keeps the places in the stream
}

// runConsumer reads the table's stream and the timers' queue, and does what the stream and expire functions do, with their code, until
// its input ends. The poller takes the part of Lambda's event source mapping; its places are files.
func runConsumer(text string) error {
	var cfg consumerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := dynamo.New(dynamo.Config{AWS: awsConfig(""), Table: cfg.Table, Endpoint: cfg.DynamoDB})
	if err != nil {
		return err
	}
	services, database := awsConfig(cfg.Services), awsConfig(cfg.DynamoDB)
	callbacks := stream.ByKind{lock.TaskToken: tasks.New(services)}
	sender := sqs.NewSender(services)
	coordinator, err := lock.New(lock.Config{Store: store, Granted: stream.AtOnce(callbacks, sender, log, "")})
	if err != nil {
		return err
	}
	queue := sqs.New(services, cfg.Services+"/1/timers")
	c := &stream.Consumer{
		Bus: eventbridge.New(services, "campaign"), Timers: queue, Backlog: queue, DeadLetter: sqs.New(services, cfg.Services+"/1/dead"),
		Callbacks: callbacks, Notifications: sender, Coordinator: coordinator, Skew: lock.DefaultSkew, Log: log,
	}
	expirer := &stream.Expirer{Coordinator: coordinator, Timers: queue, Consumer: c, Log: log}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	p := newPoller(database, cfg.Table, places(cfg.Dir), log)
	p.Consume = func(ctx context.Context, batch []stream.Write) []string {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // the function's time
		defer cancel()
		return c.Consume(ctx, batch)
	}
	work.Go(func() { p.Run(ctx) })
	for range 2 { // processes of the expire function
		work.Go(func() { readTimers(ctx, awssqs.NewFromConfig(services), queue.URL(), expirer) })
	}
	ready("")
	untilInputEnds(func(string) {})
	stop()
	work.Wait()
	return nil
}

func newPoller(cfg aws.Config, table string, at poller.Places, log *slog.Logger) *poller.Poller {
	return &poller.Poller{
		Tables: dynamodb.NewFromConfig(cfg), Streams: dynamodbstreams.NewFromConfig(cfg), Table: table, Places: at, Log: log, Every: 400 * time.Millisecond,
	}
}

// readTimers takes the part of Lambda's event source mapping of the timers' queue.
func readTimers(ctx context.Context, client *awssqs.Client, url string, x *stream.Expirer) {
	for ctx.Err() == nil {
		out, err := client.ReceiveMessage(ctx, &awssqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10})
		if err != nil || len(out.Messages) == 0 {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		var event lambdaevents.SQSEvent
		handles := map[string]*string{}
		for _, m := range out.Messages {
			id := aws.ToString(m.MessageId)
			event.Records = append(event.Records, lambdaevents.SQSMessage{MessageId: id, Body: aws.ToString(m.Body)})
			handles[id] = m.ReceiptHandle
		}
		work, cancel := context.WithTimeout(ctx, 30*time.Second)
		resp, err := x.HandleTimers(work, event)
		cancel()
		if err != nil {
			continue
		}
		for _, f := range resp.BatchItemFailures {
			delete(handles, f.ItemIdentifier)
		}
		for _, h := range handles {
			_, _ = client.DeleteMessage(ctx, &awssqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: h}) // otherwise it comes again
		}
	}
}

// places are [poller.Places] in files of a directory.
type places string

func (d places) file(shard string) string {
	return filepath.Join(string(d), "place-"+url.PathEscape(shard))
}

// Load implements [poller.Places].
func (d places) Load(shard string) (string, error) {
	data, err := os.ReadFile(d.file(shard))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

// Save implements [poller.Places]. A rename is whole, however the process ends.
func (d places) Save(shard, sequence string) error {
	file := d.file(shard)
	if err := os.WriteFile(file+".new", []byte(sequence), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
