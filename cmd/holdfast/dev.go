package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/gateway"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

type devCmd struct {
	Listen      string        `placeholder:"HOST:PORT" default:"127.0.0.1:7420" help:"Address to serve HTTP on; port 0 takes a free one."`
	AllowRemote bool          `help:"Listen beyond this machine too, where anyone may use the locks: there is no authentication."`
	AllowHost   []string      `placeholder:"NAME" help:"A name, beside localhost, by which clients call this process; others are refused, since a web page could use them."`
	MinTTL      time.Duration `name:"min-ttl" placeholder:"TIME" default:"100ms" help:"The shortest TTL that is accepted; 1s in AWS."`
	CreateTable bool          `help:"Make the table in AWS, if it is missing."`
	ListenHint  string        `hidden:"" env:"HOLDFAST_LISTEN_HINT" default:"--listen HOST:PORT"` // how to choose an address

	stdout io.Writer // nil: os.Stdout
}

// purgeEvery is how often the memory store forgets what native TTL would.
const purgeEvery = time.Minute

// check says which flag is wrong, and how to put it right.
func (d *devCmd) check(conn *connection) error {
	host, _, err := net.SplitHostPort(d.Listen)
	if err != nil || d.Listen == "" {
		return fmt.Errorf("the address is %q; give HOST and PORT, such as 127.0.0.1:7420, with %s", d.Listen, d.ListenHint)
	}
	if host == "" && !d.AllowRemote {
		return d.remote()
	}
	if d.MinTTL < time.Millisecond || d.MinTTL > wire.DefaultTTL {
		return fmt.Errorf("--min-ttl is %v; give 1ms to %v", d.MinTTL, wire.DefaultTTL)
	}
	if conn.Region == "" && conn.DynamodbEndpoint == "" && (d.CreateTable || conn.Table != "") {
		return errors.New("--table (HOLDFAST_TABLE) and --create-table need --region or --dynamodb-endpoint; without one, locks are kept in memory")
	}
	return conn.noEndpoint("dev")
}

// remote refuses to listen beyond this machine.
func (d *devCmd) remote() error {
	return fmt.Errorf("%s serves anyone who can reach this machine, and there is no authentication; if that is meant, add --allow-remote", d.Listen)
}

// Run serves until ctx ends.
func (d *devCmd) Run(ctx context.Context, log *slog.Logger, conn *connection) error {
	if err := d.check(conn); err != nil {
		return err
	}
	backend, err := d.backend(ctx, conn)
	if err != nil {
		return err
	}
	rules := lock.Rules{Skew: lock.DefaultSkew}
	coordinator, err := lock.New(lock.Config{Store: backend.store, Rules: rules})
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log, MinTTL: d.MinTTL})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", d.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %s; choose another address with %s", d.Listen, why(err), d.ListenHint)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		if !d.AllowRemote {
			return errors.Join(d.remote(), listener.Close())
		}
		log.Warn("anyone who can reach this machine may use its locks: there is no authentication", "listen", d.Listen)
	}
	expirer := &stream.Expirer{Coordinator: coordinator, Log: log}
	timers := stream.NewLocalTimers(expirer.Fire)
	defer timers.Close()
	expirer.Timers = timers
	live := newHub(log)
	consumer := &stream.Consumer{Bus: live, Timers: timers, DeadLetter: logDeadLetter{}, Skew: rules.Skew, Log: log}
	var work sync.WaitGroup
	defer work.Wait()
	workCtx, stop := context.WithCancel(ctx)
	defer stop()
	work.Go(func() { backend.follow(workCtx, consumer.Consume, log) })

	serving := gateway.New(a, log)
	serving.Events = live
	server := &http.Server{
		Handler: gateway.Guard{Next: serving, Hosts: d.AllowHost}, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: gateway.Timeout + 10*time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	server.RegisterOnShutdown(live.close)
	if d.stdout == nil {
		d.stdout = os.Stdout
	}
	d.greet("http://"+listener.Addr().String(), backend.name)

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateway.Timeout)
	defer cancel()
	err = server.Shutdown(stopCtx)
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// logDeadLetter is what becomes of a stream record that cannot be read: the consumer has logged it.
type logDeadLetter struct{}

func (logDeadLetter) Bury(context.Context, stream.Write) error { return nil }

// A backend is where locks are kept, and how their changes are followed.
type backend struct {
	store  lock.Store
	name   string
	follow func(ctx context.Context, consume func(context.Context, []stream.Write) []string, log *slog.Logger)
}

func memoryBackend() backend {
	feed := newChanges()
	memory := &lock.Memory{Changed: feed.add}
	return backend{
		store: memory, name: "in memory: stopping forgets all locks",
		follow: func(ctx context.Context, consume func(context.Context, []stream.Write) []string, _ *slog.Logger) {
			var purging sync.WaitGroup
			defer purging.Wait()
			purging.Go(func() {
				purge := time.NewTicker(purgeEvery)
				defer purge.Stop()
				for {
					select {
					case now := <-purge.C:
						memory.Purge(now)
					case <-ctx.Done():
						return
					}
				}
			})
			feed.run(ctx, consume)
		},
	}
}

func (d *devCmd) backend(ctx context.Context, conn *connection) (backend, error) {
	if conn.DynamodbEndpoint == "" && conn.Region == "" {
		return memoryBackend(), nil
	}
	table := cmp.Or(conn.Table, defaultTable)
	cfg, err := awsConfig(ctx, conn.Region, conn.DynamodbEndpoint)
	if err != nil {
		return backend{}, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: conn.DynamodbEndpoint})
	if err != nil {
		return backend{}, err
	}
	if conn.DynamodbEndpoint != "" || d.CreateTable {
		if err := store.CreateTable(ctx); err != nil {
			return backend{}, err
		}
	} else if _, err := store.Get(ctx, "holdfast:check"); err != nil {
		if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
			err = fmt.Errorf("%w; or let --create-table make it", err)
		}
		return backend{}, err
	}
	where, endpoint := "region "+cfg.Region, (*string)(nil)
	if conn.DynamodbEndpoint != "" {
		where, endpoint = conn.DynamodbEndpoint, &conn.DynamodbEndpoint
	}
	return backend{
		store: store, name: fmt.Sprintf("in DynamoDB table %q, %s", table, where),
		follow: func(ctx context.Context, consume func(context.Context, []stream.Write) []string, log *slog.Logger) {
			poller := &stream.Poller{
				Tables:  dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = endpoint }),
				Streams: dynamodbstreams.NewFromConfig(cfg, func(o *dynamodbstreams.Options) { o.BaseEndpoint = endpoint }),
				Table:   table, Decode: dynamo.Decode, Consume: consume, Log: log,
			}
			poller.Run(ctx)
		},
	}, nil
}

// greet prints lines that work as they are pasted, and again: a lease's secret is used once.
func (d *devCmd) greet(url, engine string) {
	_, _ = fmt.Fprintf(d.stdout, `holdfast dev: %s
Locks are kept %s. Try:

lease=my-secret-lease-$$-${try:=1}
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/acquire -d '{"lease":"'$lease'","owner":"me","ttl_ms":60000}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/renew   -d '{"lease":"'$lease'"}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/release -d '{"lease":"'$lease'"}'; try=$((try+1))

Events, live: curl -N '%[1]s/v1/events?prefix=deploy:'

`, url, engine)
	if d.MinTTL < wire.MinTTL {
		_, _ = fmt.Fprintf(d.stdout, "TTLs from %v are accepted here, and from %v in AWS: --min-ttl %[2]v makes it the same.\n\n", d.MinTTL, wire.MinTTL)
	}
}
