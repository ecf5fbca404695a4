// Command wirefault runs a fault proxy between clients and a server on this machine, until it gets SIGTERM or SIGINT, or its standard input
// ends with --with-stdin. It prints one line of JSON, {"proxy": URL, "control": URL}; internal/wirefault documents the control path.
//
//	go run ./scripts/wirefault --upstream http://127.0.0.1:8000 --seed 7 --rules drop-reply=0.02,delay=0.05:10ms-200ms
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

type options struct {
	Upstream  []string `required:"" placeholder:"URL" help:"Server that requests go to; several take turns."`
	Listen    string   `default:"127.0.0.1:0" placeholder:"HOST:PORT" help:"Address of the proxy, on loopback."`
	Control   string   `default:"127.0.0.1:0" placeholder:"HOST:PORT" help:"Address of the control path, on loopback."`
	Seed      uint64   `default:"1" help:"Seed of the plan."`
	Rules     string   `placeholder:"RULES" help:"Faults: KIND=RATE or KIND=RATE:MIN-MAX, separated by commas; see --kinds."`
	Log       string   `placeholder:"FILE" help:"File that gets a line of JSON for each fault."`
	Secrets   string   `placeholder:"FILE" help:"File that gets each lease's secret that passes."`
	WithStdin bool     `help:"End when standard input ends, so that the proxy does not outlive its parent."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("wirefault"), kong.Description(fmt.Sprintf("Runs a fault proxy. Kinds of faults: %v.", wirefault.Kinds())))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "wirefault:", err)
		os.Exit(1) //nolint:gocritic // stop only restores signals
	}
}

func (o *options) run(ctx context.Context) error {
	rules, err := wirefault.ParseRules(o.Rules)
	if err != nil {
		return err
	}
	cfg := wirefault.Config{Upstreams: o.Upstream, Plan: wirefault.Plan{Seed: o.Seed, Rules: rules}}
	for _, file := range []struct {
		name string
		to   *io.Writer
	}{{o.Log, &cfg.Log}, {o.Secrets, &cfg.Secrets}} {
		if file.name == "" {
			continue
		}
		f, err := os.OpenFile(file.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // written line by line, without a buffer
		*file.to = f
	}
	proxy, err := wirefault.New(cfg)
	if err != nil {
		return err
	}
	defer proxy.Close() //nolint:errcheck // the process ends
	url, err := proxy.Listen(o.Listen, "")
	if err != nil {
		return err
	}
	control, err := loopback.Listen(ctx, o.Control)
	if errors.Is(err, loopback.ErrRemote) {
		return fmt.Errorf("--control is %q, which is not on loopback; give an address such as 127.0.0.1:0", o.Control)
	}
	if err != nil {
		return err
	}
	server := &http.Server{Handler: proxy.Control(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(control) }()
	defer server.Close() //nolint:errcheck // the process ends
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"proxy": url, "control": "http://" + control.Addr().String()}); err != nil {
		return err
	}
	ended := make(chan struct{})
	if o.WithStdin {
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	return nil
}
