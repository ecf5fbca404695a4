// Package local runs the whole coordinator in one process, as holdfast dev does: the API behind a gateway over HTTP, the consumer
// of the stream of writes, the timers, and the events as a live stream. The locks are in memory or in a DynamoDB table.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Options are the flags of the process.
type Options struct {
	Listen      string        `placeholder:"HOST:PORT" default:"127.0.0.1:7420" help:"Address to serve HTTP on; port 0 takes a free one."`
	AllowRemote bool          `help:"Listen beyond this machine too, where anyone may use the locks: there is no authentication."`
	AllowHost   []string      `placeholder:"NAME" help:"A name, beside localhost, by which clients call this process; others are refused, since a web page could use them."`
	MinTTL      time.Duration `name:"min-ttl" placeholder:"TIME" default:"100ms" help:"The shortest TTL that is accepted; 1s in AWS."`
	MaxTTL      time.Duration `name:"max-ttl" placeholder:"TIME" default:"24h" help:"The longest TTL that is accepted, up to 168h; 24h in AWS, unless the deployment says otherwise."`
	ListenHint  string        `hidden:"" env:"HOLDFAST_LISTEN_HINT" default:"--listen HOST:PORT"` // how to choose an address
}

// Check returns an error that names a flag that is wrong and says how to correct it.
func (o *Options) Check() error {
	_, _, err := net.SplitHostPort(o.Listen)
	if err != nil || o.Listen == "" {
		return fmt.Errorf("the address is %q; give HOST and PORT, such as 127.0.0.1:7420, with %s", o.Listen, o.ListenHint)
	}
	if o.MinTTL < time.Millisecond || o.MinTTL > wire.DefaultTTL {
		return fmt.Errorf("--min-ttl is %v; give 1ms to %v", o.MinTTL, wire.DefaultTTL)
	}
	if o.MaxTTL < wire.DefaultTTL || o.MaxTTL > wire.MaxTTL {
		return fmt.Errorf("--max-ttl is %v; give %v to %v", o.MaxTTL, wire.DefaultTTL, wire.MaxTTL)
	}
	return nil
}

// remote returns the error of an address beyond this machine.
func (o *Options) remote() error {
	return fmt.Errorf("%s serves anyone who can reach this machine, and there is no authentication; if that is meant, add --allow-remote", o.Listen)
}

// Run serves until ctx ends. It writes the coordinator's URL and commands to try to out.
func (o *Options) Run(ctx context.Context, backend Backend, out io.Writer, log *slog.Logger) error {
	if err := o.Check(); err != nil {
		return err
	}
	rules := lock.Rules{Skew: lock.DefaultSkew}
	coordinator, err := lock.New(lock.Config{Store: backend.Store, Rules: rules})
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log, MinTTL: o.MinTTL, MaxTTL: o.MaxTTL})
	if err != nil {
		return err
	}
	listener, err := o.listen(ctx, log)
	if err != nil {
		return err
	}
	expirer := &stream.Expirer{Coordinator: coordinator, Log: log}
	armed := NewTimers(expirer.Fire)
	defer armed.Close()
	expirer.Timers = armed
	live := newHub(log)
	consumer := &stream.Consumer{Bus: live, Timers: armed, DeadLetter: logDeadLetter{}, Coordinator: coordinator, Skew: rules.Skew, Log: log}
	var work sync.WaitGroup
	defer work.Wait()
	workCtx, stop := context.WithCancel(ctx)
	defer stop()
	page, err := newLivePage(ctx, coordinator, o, backend.Name, log)
	if err != nil {
		return err
	}
	work.Go(func() { backend.Follow(workCtx, page.follow(consumer.Consume), log) })
	work.Go(func() {
		if err := page.page.Serve(workCtx, page.listener); err != nil {
			log.Error("live page", "error", err)
		}
	})

	gateway := NewGateway(a, log)
	gateway.live = live
	server := &http.Server{
		Handler: guard{next: gateway, hosts: o.AllowHost}, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: handlerTimeout + 10*time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	server.RegisterOnShutdown(live.close)
	o.greet(out, "http://"+listener.Addr().String(), backend.Name, page.page.Link())
	return serve(ctx, server, listener)
}

// listen opens the address to serve on. It refuses one beyond this machine unless o.AllowRemote is set.
func (o *Options) listen(ctx context.Context, log *slog.Logger) (listener net.Listener, err error) {
	if o.AllowRemote {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", o.Listen)
	} else {
		listener, err = loopback.Listen(ctx, o.Listen)
	}
	switch {
	case errors.Is(err, loopback.ErrRemote):
		return nil, o.remote()
	case err != nil:
		return nil, fmt.Errorf("cannot listen on %s: %s; choose another address with %s", o.Listen, why(err), o.ListenHint)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		log.Warn("anyone who can reach this machine may use its locks: there is no authentication", "listen", o.Listen)
	}
	return listener, nil
}

// serve serves until ctx ends, and then waits for the requests that are under way.
func serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handlerTimeout)
	defer cancel()
	err := server.Shutdown(stopCtx)
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// logDeadLetter drops a record of the stream that cannot be read, which the consumer has logged.
type logDeadLetter struct{}

func (logDeadLetter) Bury(context.Context, stream.Write) error { return nil }

// A Backend stores the locks and follows the writes to them.
type Backend struct {
	Store lock.Store
	Name  string // where the locks are, in words: "in memory …"
	// Follow passes the writes to consume, in order, until ctx ends.
	Follow func(ctx context.Context, consume func(context.Context, []stream.Write) []string, log *slog.Logger)
}

// greet prints commands to try. They work again when repeated: each round uses a new secret, since a secret is used once.
func (o *Options) greet(out io.Writer, url, engine, page string) {
	_, _ = fmt.Fprintf(out, `holdfast dev: %s
Locks are kept %s. Try:

lease=my-secret-lease-$$-${try:=1}
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/acquire -d '{"lease":"'$lease'","owner":"me","ttl_ms":60000}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/renew   -d '{"lease":"'$lease'"}'
curl -H 'Content-Type: application/json' %[1]s/v1/locks/deploy:prod/release -d '{"lease":"'$lease'"}'; try=$((try+1))

Events, live: curl -N '%[1]s/v1/events?prefix=deploy:'
The locks in a browser, live: %[3]s

`, url, engine, page)
	if o.MinTTL < wire.MinTTL {
		_, _ = fmt.Fprintf(out, "TTLs from %v are accepted here, and from %v in AWS: --min-ttl %[2]v makes it the same.\n\n", o.MinTTL, wire.MinTTL)
	}
}

// why returns the reason of a failure to listen in a few words, such as "address already in use".
func why(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}
