package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/loopback"
)

// A shell runs the command holdfast. The command's requests pass a reverse proxy in this process, which records them.
type shell struct {
	url  string
	self string
}

func newShell(cfg clientConfig, transport http.RoundTripper) (*shell, error) {
	target, err := url.Parse(cfg.API)
	if err != nil {
		return nil, err
	}
	l, err := loopback.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the command sees what this process saw
		ErrorLog:     nil,
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	self, err := os.Executable()
	return &shell{"http://" + l.Addr().String(), self}, err
}

// command runs holdfast exec, or acquire and release.
func (w *worker) command(ctx context.Context) {
	name, opts := w.lock()
	args := []string{name, "--ttl", opts.TTL.String(), "--wait", time.Duration(200 + w.random.IntN(3000)*1e6).String(),
		"--capacity", strconv.Itoa(max(opts.Capacity, 1)), "--permits", strconv.Itoa(max(opts.Permits, 1))}
	if w.random.IntN(3) > 0 {
		hold := time.Duration(w.random.ExpFloat64() * float64(200*time.Millisecond))
		if w.random.IntN(6) == 0 {
			hold = 3 * opts.TTL
		}
		inside, _ := json.Marshal(insideConfig{ // texts and numbers
			Dir: w.cfg.Dir, Client: w.name, Parent: w.cfg.Parent, Hold: hold.Milliseconds(), Permits: int64(opts.Permits), Capacity: int64(opts.Capacity),
		})
		_, _ = w.holdfast(ctx, nil, append(append([]string{"exec"}, args...), "--", w.shell.self, "inside", string(inside))...)
		return
	}
	out, err := w.holdfast(ctx, nil, append([]string{"acquire", "--json"}, args...)...)
	var lease struct {
		Lease     string    `json:"lease"`
		Fence     int64     `json:"fence"`
		ExpiresAt time.Time `json:"expires_at"`
	}
	if err != nil || json.Unmarshal(out, &lease) != nil {
		return
	}
	b := history.Belief{
		Client: w.name, Lock: name, Lease: string(lock.KeyOf(name, lease.Lease)), Fence: lease.Fence, Permits: int64(opts.Permits), Capacity: int64(opts.Capacity),
		From: now(), Until: now() + time.Until(lease.ExpiresAt).Nanoseconds(),
	}
	n := w.rec.next.Add(1)
	if b.Until <= b.From {
		return
	}
	w.rec.write(line{Number: n, Belief: &b})
	guardedWrite(ctx, w.parent, w.cfg.Parent, w.name, name, lease.Fence)
	w.rest(ctx, time.Duration(w.random.ExpFloat64()*float64(50*time.Millisecond)))
	ended := b
	ended.Until = min(b.Until, now())
	w.rec.write(line{Number: n, Belief: &ended})
	_, _ = w.holdfast(context.WithoutCancel(ctx), []string{"HOLDFAST_LEASE=" + lease.Lease}, "release", name)
}

// holdfast runs the command and returns what it prints.
func (w *worker) holdfast(ctx context.Context, env []string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.cfg.Holdfast, args...) //nolint:gosec // the command that this program built
	cmd.Env = append(append(os.Environ(), "HOLDFAST_ENDPOINT="+w.shell.url, "HOLDFAST_TIMEOUT=1500ms", "HOLDFAST_OWNER="+w.name), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 8 * time.Second
	return cmd.Output()
}

// An insideConfig configures the command that holdfast exec runs.
type insideConfig struct {
	Dir      string `json:"dir"`
	Client   string `json:"client"`
	Parent   string `json:"parent"`
	Hold     int64  `json:"hold"` // milliseconds
	Permits  int64  `json:"permits"`
	Capacity int64  `json:"capacity"`
}

// runInside is the command that holdfast exec runs. As long as it runs, it believes that it holds the lock.
func runInside(text string) error {
	from := now()
	var cfg insideConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	fence, err := strconv.ParseInt(os.Getenv("HOLDFAST_FENCE"), 10, 64)
	if err != nil {
		return fmt.Errorf("HOLDFAST_FENCE: %w", err)
	}
	name := os.Getenv("HOLDFAST_LOCK")
	rec, err := newRecorder(cfg.Dir, cfg.Client+".inside")
	if err != nil {
		return err
	}
	b := history.Belief{
		Client: cfg.Client + ".inside", Lock: name, Lease: fmt.Sprint("exec-", fence), Fence: fence, Permits: cfg.Permits, Capacity: cfg.Capacity, From: from,
	}
	client := &http.Client{Timeout: 5 * time.Second}
	for end := time.Now().Add(time.Duration(cfg.Hold) * time.Millisecond); ; time.Sleep(10 * time.Millisecond) {
		b.Until = now()
		stamp := b
		rec.write(line{Number: from, Belief: &stamp})
		if time.Now().After(end) {
			return nil
		}
		if b.Until-b.From < int64(10*time.Millisecond) {
			guardedWrite(context.Background(), client, cfg.Parent, b.Client, name, fence)
		}
	}
}
