// Command coldstart measures the time of each function from the start of its process until its first request for an
// event at Lambda's runtime API, and until its first answer, and compares them with a function that does nothing. Runs
// alternate, so that other load on the machine affects all functions alike. The ratios of medians are comparable
// between machines. NAME+spans is a function that was built with the tag traced, and sends its spans to a collector which
// takes them at once.
//
// With -base, a checkout of another revision, it measures that one's functions in the same run, as NAME@base.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
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

// traced are the functions that are also measured with spans: one that serves requests and one that handles the stream.
var traced = []string{"acquire", "stream"}

const (
	withSpans = "+spans"
	plainTags = "lambda.norpc"
)

func main() {
	base := flag.String("base", "", "the `directory` of a checkout of another revision, whose functions are measured, too")
	only := flag.String("only", "", "the names of the functions to measure beside hello, with commas between; empty: all")
	n := flag.Int("rounds", rounds, "how often each function is started")
	flag.Parse()
	if err := run(context.Background(), *base, *only, *n); err != nil {
		fmt.Fprintln(os.Stderr, "coldstart:", err)
		os.Exit(1)
	}
}

// A program is what is measured under a name.
type program struct {
	dir, pkg, tags string
}

func run(ctx context.Context, base, only string, rounds int) error {
	functions, _ := filepath.Glob("functions/*/main.go")
	if len(functions) == 0 {
		return errors.New("no functions found; run this in the root of the repository")
	}
	dir, err := os.MkdirTemp("", "coldstart-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs := map[string]program{"hello": {".", "./scripts/coldstart/hello", plainTags}, "hello+client": {".", "./scripts/coldstart/client", plainTags}}
	names := []string{"hello", "hello+client"}
	if base != "" {
		programs["hello+client@base"] = program{base, "./scripts/coldstart/client", plainTags}
		names = append(names, "hello+client@base")
	}
	for _, f := range functions {
		f = filepath.Base(filepath.Dir(f))
		if only != "" && !slices.Contains(strings.Split(only, ","), f) {
			continue
		}
		add := func(name, dir, tags string) {
			programs[name] = program{dir, "./functions/" + f, tags}
			names = append(names, name)
		}
		add(f, ".", plainTags)
		if base != "" {
			add(f+"@base", base, plainTags)
		}
		if slices.Contains(traced, f) {
			add(f+withSpans, ".", plainTags+",traced")
		}
	}
	for name, p := range programs {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", p.tags, "-ldflags", "-s -w", //nolint:gosec // our own names
			"-o", filepath.Join(dir, name), p.pkg)
		build.Env, build.Dir = append(os.Environ(), "CGO_ENABLED=0"), p.dir
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", p.pkg, err, out)
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
		file, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Printf("coldstart: %-17s ready %5.1f ms (%.2f of hello), first answer %5.1f ms (%.2f), peak memory %d MB, %.2f MB\n", name, ms(r),
			float64(r)/float64(median(ready["hello"])), ms(a), float64(a)/float64(median(answered["hello"])), memory[name]/1024, float64(file.Size())/1e6)
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
	if strings.HasSuffix(path, withSpans) {
		cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)
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
		case r.URL.Path == "/v1/traces": // the collector's
			_, _ = io.Copy(io.Discard, r.Body)
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
