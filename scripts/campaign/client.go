package main

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// A clientConfig configures a client's process.
type clientConfig struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`     // http, invoke, direct or cli
	API      string `json:"api"`      // URL of the coordinators
	DynamoDB string `json:"dynamodb"` // URL
	Parent   string `json:"parent"`   // URL of the round's own server
	Table    string `json:"table"`
	Dir      string `json:"dir"`
	Holdfast string `json:"holdfast"` // path of the command
	Seed     uint64 `json:"seed"`
	Workers  int    `json:"workers"`
	Locks    int    `json:"locks"`
	Long     bool   `json:"long"`  // see [plan.Long]
	Sets     bool   `json:"sets"`  // see [plan.Sets]
	Start    int64  `json:"start"` // of the first epoch, in the history's time
	Epoch    int64  `json:"epoch"` // nanoseconds
}

// runClient works until the process's input ends; then it releases what it holds.
func runClient(text string) error {
	var cfg clientConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	rec, err := newRecorder(cfg.Dir, cfg.Name)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for i := range cfg.Workers {
		w, err := newWorker(cfg, rec, i)
		if err != nil {
			stop()
			return err
		}
		work.Go(func() { w.run(ctx) })
	}
	ready("")
	untilInputEnds(func(string) {})
	stop()
	work.Wait()
	return nil
}

// A worker is one client. It works on one lock at a time.
type worker struct {
	cfg    clientConfig
	name   string
	rec    *recorder
	random *rand.Rand
	client *lockclient.Client   // nil for the command's
	tasks  lockclient.Transport // of a client over Invoke: for acquires with a task's token
	shell  *shell               // of the command's
	parent *http.Client
}

func newWorker(cfg clientConfig, rec *recorder, i int) (*worker, error) {
	name := fmt.Sprintf("%s.%d", cfg.Name, i)
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	w := &worker{
		cfg: cfg, name: name, rec: rec, random: rand.New(rand.NewPCG(cfg.Seed, h.Sum64())),
		parent: &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
	}
	lc := lockclient.Config{RequestTimeout: 3 * time.Second, RetryDelay: 200 * time.Millisecond, Owner: name}
	named := func(r *recorder) *http.Client {
		return &http.Client{Transport: &recordingHTTP{
			base: &http.Transport{MaxIdleConnsPerHost: 4, DisableCompression: true}, recorder: r, client: name, header: wirefault.ClientHeader,
		}}
	}
	switch cfg.Kind {
	case "http":
		lc.Endpoint, lc.HTTPClient = cfg.API, named(rec)
	case "invoke":
		aws := awsConfig("")
		aws.HTTPClient = named(nil)
		t, err := invoke.New(invoke.Config{AWS: aws, Endpoint: cfg.API, Functions: invoke.Functions{
			Acquire: "acquire", Renew: "renew", Release: "release", ForceRelease: "force-release", Status: "status", Rules: "rules",
		}})
		if err != nil {
			return nil, err
		}
		w.tasks = recordingTransport{t, rec, name}
		lc.Transport = w.tasks
	case "direct":
		t, err := direct.New(context.Background(), direct.Config{
			Table: cfg.Table, Region: region, Endpoint: cfg.DynamoDB, Credentials: awsConfig("").Credentials, HTTPClient: named(nil),
		})
		if err != nil {
			return nil, err
		}
		lc.Transport = recordingTransport{t, rec, name}
	case "cli":
		var err error
		w.shell, err = newShell(cfg, named(rec).Transport)
		return w, err
	default:
		return nil, fmt.Errorf("a client's kind is %q; give http, invoke, direct or cli", cfg.Kind)
	}
	var err error
	w.client, err = lockclient.New(lc)
	return w, err
}

// run works until ctx ends.
func (w *worker) run(ctx context.Context) {
	for ctx.Err() == nil {
		switch {
		case w.shell != nil:
			w.command(ctx)
		case w.tasks != nil && w.random.IntN(16) == 0:
			w.task(ctx)
		default:
			w.cycle(ctx)
		}
	}
	if w.client == nil {
		return
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
	defer cancel()
	if err := w.client.Close(closing); err != nil {
		fmt.Fprintln(os.Stderr, w.name, "close:", err)
	}
}

// lockName is the name of a lock of an epoch.
func lockName(epoch int64, i int) string {
	return fmt.Sprintf("e%d:%s%d", epoch, []string{"m", "rw", "m", "s"}[i%4], i)
}

// lock chooses a lock of the present epoch: the first ones are chosen more often. Every fourth is a semaphore of three permits, and every fourth one that readers and a
// writer share.
func (w *worker) lock() (name string, opts lockclient.Options) {
	u := w.random.Float64()
	i := int(u * u * float64(w.cfg.Locks))
	epoch := (now() - w.cfg.Start) / w.cfg.Epoch
	name = lockName(epoch, i)
	switch i % 4 {
	case 3:
		opts.Capacity, opts.Permits = 3, 1+w.random.IntN(2)
	case 1:
		if opts.Capacity, opts.Permits = wire.ModeCapacity, 1; w.random.IntN(2) == 0 {
			opts.Permits = wire.ModeCapacity
		}
	}
	opts.TTL = time.Duration(1000+w.random.IntN(1500)) * time.Millisecond
	return name, opts
}
