package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

const (
	tableName     = "campaign-locks"
	engineTimeout = time.Minute
)

// A round is one run over one engine: processes, the fault proxies between them, and what is known of the run.
type round struct {
	plan     plan
	dir      string
	engine   string    // URL of DynamoDB Local
	versions []version // of processes: this one, and with --base another
	start    int64

	dynamo, api, aws *wirefault.Proxy
	services         *services
	parent           string // URL of this process's own server, which has no faults
	truth            *truth
	files            []*os.File
	servers          []*http.Server

	replacing sync.Mutex // held while a process is killed and started again

	mu           sync.Mutex
	coordinators []*process
	clients      []*process
	consumer     *process
	died         map[string]int64  // when processes were killed, by name
	started      map[string]int    // processes, by what takes turns: see next
	ofVersion    map[string]int    // processes, by version and kind
	versionOf    map[string]string // the version of a client's process, by its name
	guarded      []history.Guarded
	top          map[string]int64 // the highest fencing token at the guarded resource, by lock
	injected     map[string]int64 // faults other than those of the wire, by family
	killCount    int              // of the stream's process
	countdown    int              // requests of the stream's process until it is killed; 0: it is not
	after        bool             // kill it after that request, else before
	kills        killResult
	promises     []rulePromise // of changes of rules
	complaints   []string      // violations that were noted during the round
	refused      []string      // errors of clients that say that no retry can help
}

// runRound runs a round and writes its summary to standard output.
func runRound(text string) error {
	var cfg roundConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	r := &round{
		plan: cfg.Plan, dir: cfg.Dir, engine: os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT"), versions: cfg.Versions,
		services: newServices(), died: map[string]int64{}, top: map[string]int64{}, injected: map[string]int64{},
		started: map[string]int{}, ofVersion: map[string]int{}, versionOf: map[string]string{},
	}
	err := r.run(cfg.Secrets)
	if err != nil {
		r.stopAll()
		return err
	}
	s, err := r.summarize()
	if err != nil {
		return err
	}
	if s.Secrets, err = r.searchSecrets(cfg.Secrets, &s); err != nil {
		return err
	}
	out, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	return os.WriteFile(filepath.Join(r.dir, "summary.json"), append(out, '\n'), 0o600)
}

// A roundConfig configures the process of a round.
type roundConfig struct {
	Plan     plan      `json:"plan"`
	Dir      string    `json:"dir"`      // for everything that the round leaves
	Secrets  string    `json:"secrets"`  // a file outside of it, for the secrets that passed
	Versions []version `json:"versions"` // of processes
}

func (r *round) run(secrets string) error {
	ctx := context.Background()
	table, err := direct.New(ctx, direct.Config{Table: tableName, Region: region, Endpoint: r.engine, Credentials: awsConfig("").Credentials})
	if err != nil {
		return err
	}
	for end := time.Now().Add(engineTimeout); ; time.Sleep(time.Second) { // an engine that has just started is slow
		err := table.CreateTable(ctx)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	if err := r.warm(ctx, table); err != nil {
		return err
	}
	r.truth = readTruth(r.engine, tableName)
	if err := r.startProxies(secrets); err != nil {
		return err
	}
	if err := r.startProcesses(); err != nil {
		return err
	}
	r.inject()
	if err := r.killHolders(); err != nil {
		return err
	}
	return r.finish()
}

// warm makes the engine compile what it runs, so that the round does not begin with time-outs: a JVM that has just started takes seconds
// for its first requests.
func (r *round) warm(ctx context.Context, table *direct.Table) error {
	client, err := lockclient.New(lockclient.Config{Transport: table})
	if err != nil {
		return err
	}
	for i := range 100 {
		if lease, err := client.TryAcquire(ctx, fmt.Sprint("warm:m", i%10), lockclient.Options{TTL: 10 * time.Second}); err == nil {
			_ = lease.Release(ctx)
		}
	}
	return client.Close(ctx)
}

// startProxies starts the fault proxies and this process's own servers.
func (r *round) startProxies(secrets string) error {
	kept, err := os.OpenFile(secrets, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r.files = append(r.files, kept)
	log := func(name string) *os.File {
		f, bad := os.Create(filepath.Join(r.dir, "faults-"+name+".jsonl"))
		err = errors.Join(err, bad)
		r.files = append(r.files, f)
		return f
	}
	r.services.crash = r.atRequest
	fakes, err2 := r.serve(r.services)
	mux := http.NewServeMux()
	mux.HandleFunc("/guard", r.guard)
	mux.HandleFunc("/task", r.services.wait)
	parent, err3 := r.serve(mux)
	if err = errors.Join(err, err2, err3); err != nil {
		return err
	}
	r.parent = parent
	rules := func(family string, rate float64) wirefault.Plan {
		p := wirefault.Plan{Seed: r.plan.Seed}
		if r.plan.has(family) {
			p.Rules = wireRules(rate * cmp.Or(r.plan.Rate, 1))
		}
		return p
	}
	var err4, err5, err6 error
	r.dynamo, err4 = wirefault.New(wirefault.Config{Upstreams: []string{r.engine}, Plan: rules(famDynamo, 0.04), Log: log("dynamodb")})
	r.aws, err5 = wirefault.New(wirefault.Config{Upstreams: []string{fakes}, Plan: rules(famServices, 0.04), Log: log("services")})
	r.api, err6 = wirefault.New(wirefault.Config{Upstreams: []string{"http://127.0.0.1:1"}, Plan: rules(famAPI, 0.08), Log: log("api"), Secrets: kept})
	return errors.Join(err, err4, err5, err6)
}

// serve serves a handler on a free port.
func (r *round) serve(h http.Handler) (url string, err error) {
	l, err := loopback.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	r.servers = append(r.servers, server)
	go func() { _ = server.Serve(l) }()
	return "http://" + l.Addr().String(), nil
}

// guard is the resource that compares fencing tokens.
func (r *round) guard(w http.ResponseWriter, q *http.Request) {
	fence, _ := strconv.ParseInt(q.FormValue("fence"), 10, 64)
	name := q.FormValue("lock")
	r.mu.Lock()
	defer r.mu.Unlock()
	g := history.Guarded{Client: q.FormValue("client"), Lock: name, Fence: fence, At: now(), OK: fence >= r.top[name]}
	if g.OK {
		r.top[name] = fence
	}
	r.guarded = append(r.guarded, g)
	_ = json.NewEncoder(w).Encode(map[string]bool{"ok": g.OK})
}

func (r *round) startProcesses() error {
	for i := range r.plan.Coordinators {
		if err := r.startCoordinator(i); err != nil {
			return err
		}
	}
	if err := r.startConsumer(); err != nil {
		return err
	}
	r.start = now()
	for _, k := range []struct {
		kind  string
		count int
	}{{"http", r.plan.HTTP}, {"invoke", r.plan.Invoke}, {"direct", r.plan.Direct}, {"cli", r.plan.CLI}} {
		for i := range k.count {
			p, err := r.startClient(fmt.Sprintf("%s%d", k.kind, i), k.kind)
			if err != nil {
				return err
			}
			r.clients = append(r.clients, p)
		}
	}
	return nil
}

// startCoordinator starts the coordinator with an index, in place of one that has ended if there was one.
func (r *round) startCoordinator(i int) error {
	name := fmt.Sprint("coordinator", i)
	db, err := r.dynamo.Listen("127.0.0.1:0", name)
	if err != nil {
		return err
	}
	services, err := r.aws.Listen("127.0.0.1:0", name)
	if err != nil {
		return err
	}
	cfg := coordinatorConfig{DynamoDB: db, Services: services, Table: tableName, Listen: "127.0.0.1:0"}
	if r.plan.has(famClock) {
		cfg.Offset = int64([]int{-maxOffset, maxOffset, 0}[i%3])
	}
	if r.plan.has(famClockPast) && i == 0 {
		cfg.Offset = pastOffset.Milliseconds()
	}
	p, err := startProcess(r.next(name, i).Program, r.dir, name, "coordinator", cfg)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i < len(r.coordinators) {
		r.coordinators[i] = p
	} else {
		r.coordinators = append(r.coordinators, p)
	}
	var urls []string
	for _, c := range r.coordinators {
		urls = append(urls, c.url)
	}
	return r.api.SetUpstreams(urls...)
}

func (r *round) startConsumer() error {
	db, err := r.dynamo.Listen("127.0.0.1:0", "stream")
	if err != nil {
		return err
	}
	services, err := r.aws.Listen("127.0.0.1:0", "stream")
	if err != nil {
		return err
	}
	p, err := startProcess(r.next("stream", 0).Program, r.dir, "stream", "consumer", consumerConfig{DynamoDB: db, Services: services, Table: tableName, Dir: r.dir})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consumer = p
	return nil
}

func (r *round) startClient(name, kind string) (*process, error) {
	api, err := r.api.Listen("127.0.0.1:0", name)
	if err != nil {
		return nil, err
	}
	db, err := r.dynamo.Listen("127.0.0.1:0", name)
	if err != nil {
		return nil, err
	}
	v := r.next(kind, 0)
	r.mu.Lock()
	r.versionOf[name] = v.Name
	r.mu.Unlock()
	return startProcess(v.Program, r.dir, name, "client", clientConfig{
		Name: name, Kind: kind, API: api, DynamoDB: db, Parent: r.parent, Table: tableName, Dir: r.dir, Holdfast: v.Holdfast, Seed: r.plan.Seed,
		Workers: r.workers(kind), Long: r.plan.Long, Sets: r.plan.Sets, Locks: r.plan.Locks, Start: r.start, Epoch: int64(r.plan.Epoch * float64(time.Second)),
	})
}

// workers is how many clients a process has. The command starts a process for each request, so it has fewer.
func (r *round) workers(kind string) int {
	if kind == "cli" {
		return max(r.plan.Workers/3, 1)
	}
	return r.plan.Workers
}

// finish ends the clients without further faults, lets the stream's process finish, and stops everything.
func (r *round) finish() error {
	for _, p := range []*wirefault.Proxy{r.dynamo, r.api, r.aws} {
		if err := p.SetPlan(wirefault.Plan{}); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.countdown = 0
	clients := r.clients
	r.mu.Unlock()
	var ending sync.WaitGroup
	for _, c := range clients {
		c.signal(syscall.SIGCONT)
		ending.Go(func() {
			if !c.end(40 * time.Second) {
				r.note(c)
			}
		})
	}
	ending.Wait()
	settle, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := errors.Join(r.dynamo.Settle(settle), r.api.Settle(settle), r.aws.Settle(settle))
	r.drain()
	err = errors.Join(err, r.dump())
	r.stopAll()
	return err
}

// drainTime bounds how long the stream's process may take at the end: timers that are set again, and jobs that were deferred.
const (
	drainTime  = 90 * time.Second
	hurryEvery = 2 * time.Second
)

// drain waits until no lock has a holder or a waiter, and all that follows from the writes has been done.
func (r *round) drain() {
	hurried := time.Now()
	for end := time.Now().Add(drainTime); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if len(r.truth.stuck()) == 0 && r.missing() == 0 {
			return
		}
		if time.Since(hurried) > hurryEvery {
			r.services.hurry()
			hurried = time.Now()
		}
	}
}

// note keeps when a process was killed.
func (r *round) note(p *process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.died[p.name] = p.died
}

// stopAll ends what still runs.
func (r *round) stopAll() {
	r.mu.Lock()
	all := append(append([]*process{}, r.coordinators...), r.clients...)
	if r.consumer != nil {
		all = append(all, r.consumer)
	}
	r.mu.Unlock()
	for _, p := range all {
		p.kill()
	}
	for _, p := range []*wirefault.Proxy{r.dynamo, r.api, r.aws} {
		if p != nil {
			_ = p.Close()
		}
	}
	for _, s := range r.servers {
		_ = s.Close()
	}
	if r.truth != nil {
		r.truth.stop()
	}
	for _, f := range r.files {
		_ = f.Close()
	}
}

// quiet drops log records.
var quiet = slog.New(slog.DiscardHandler)
