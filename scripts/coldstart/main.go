// Command coldstart measures the time of each function from the start of its process until its first request for an
// event at Lambda's runtime API, and until its first answer, and compares them with a function that does nothing. Runs
// alternate, so that other load on the machine affects all functions alike. The ratios of medians are comparable
// between machines.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const rounds = 40

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "coldstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	functions, _ := filepath.Glob("functions/*/main.go")
	if len(functions) == 0 {
		return errors.New("no functions found; run this in the root of the repository")
	}
	dir, err := os.MkdirTemp("", "coldstart-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	packages := map[string]string{"hello": "./scripts/coldstart/hello", "hello+client": "./scripts/coldstart/client"}
	names := []string{"hello", "hello+client"}
	for _, f := range functions {
		f = filepath.Base(filepath.Dir(f))
		packages[f] = "./functions/" + f
		names = append(names, f)
	}
	for name, pkg := range packages {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", //nolint:gosec // our own names
			"-o", filepath.Join(dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", pkg, err, out)
		}
	}
	ready, answered, memory := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string]int64{}
	for range rounds {
		for _, name := range names {
			r, a, kb, err := start(ctx, filepath.Join(dir, name))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			ready[name], answered[name] = append(ready[name], r), append(answered[name], a)
			memory[name] = max(memory[name], kb)
		}
	}
	if err := compareSizes(dir); err != nil {
		return err
	}
	for _, name := range names {
		r, a := median(ready[name]), median(answered[name])
		fmt.Printf("coldstart: %-12s ready %5.1f ms (%.2f of hello), first answer %5.1f ms (%.2f), peak memory %d MB\n", name, ms(r),
			float64(r)/float64(median(ready["hello"])), ms(a), float64(a)/float64(median(answered["hello"])), memory[name]/1024)
	}
	return nil
}

// compareSizes tells what the thin client adds to a function that does nothing.
func compareSizes(dir string) error {
	hello, err := os.Stat(filepath.Join(dir, "hello"))
	if err != nil {
		return err
	}
	client, err := os.Stat(filepath.Join(dir, "hello+client"))
	if err != nil {
		return err
	}
	fmt.Printf("coldstart: hello is %d bytes, hello with lockclient.Exclusive %d: %d more (%.0f %%)\n", hello.Size(), client.Size(),
		client.Size()-hello.Size(), 100*float64(client.Size()-hello.Size())/float64(hello.Size()))
	return nil
}

// start runs a function once, with an event that it answers without a request to AWS.
func start(ctx context.Context, path string) (ready, answered time.Duration, peakKB int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	times := make(chan time.Duration, 2) // ready, answered
	begin := time.Now()
	server := httptest.NewServer(runtimeAPI(ctx, func() { times <- time.Since(begin) }))
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{
		"AWS_LAMBDA_RUNTIME_API=" + strings.TrimPrefix(server.URL, "http://"), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x",
		"HOLDFAST_TABLE=locks", "HOLDFAST_ENDPOINT=" + server.URL, "HOLDFAST_BUS=b", "HOLDFAST_DLQ_URL=https://sqs.test/d", "HOLDFAST_TIMER_QUEUE_URL=https://sqs.test/t", "HOLDFAST_METRICS=Holdfast/x",
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	begin = time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, 0, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed when it has answered
	}()
	for _, t := range []*time.Duration{&ready, &answered} {
		select {
		case *t = <-times:
		case <-ended:
			return 0, 0, 0, fmt.Errorf("it ended without an answer: %s", bytes.TrimSpace(said.Bytes()))
		case <-ctx.Done():
			return 0, 0, 0, fmt.Errorf("no answer within a minute: %s", bytes.TrimSpace(said.Bytes()))
		}
	}
	cancel()
	<-ended
	server.CloseClientConnections()
	server.Close()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peakKB = usage.Maxrss // kilobytes, on Linux
	}
	return ready, answered, peakKB, nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// runtimeAPI is Lambda's runtime API with one event. It calls step when the function asks for the event and when it
// answers.
func runtimeAPI(ctx context.Context, step func()) http.HandlerFunc {
	asked, answered := false, false
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/next") && asked: // there are no more events
			select {
			case <-ctx.Done():
			case <-r.Context().Done():
			}
		case strings.HasSuffix(r.URL.Path, "/next"):
			asked = true
			step()
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "1")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(10*time.Second).UnixMilli()))
			_, _ = io.WriteString(w, `{"name":"","Records":[]}`)
		case strings.HasPrefix(r.URL.Path, "/v1/locks"): // the client's; refused, so that it fails at once
			w.WriteHeader(http.StatusForbidden)
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			if !answered {
				answered = true
				step()
			}
			w.WriteHeader(http.StatusAccepted)
		}
	}
}
