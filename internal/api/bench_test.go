package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func BenchmarkAcquireRelease(b *testing.B) {
	c, _ := lock.New(lock.Config{Store: &lock.Memory{}})
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.NewJSONHandler(nowhere{}, nil))})
	if err != nil {
		b.Fatal(err)
	}
	event := func(dir string) []byte {
		data, err := os.ReadFile(filepath.Join("..", "..", "functions", dir, "event.json"))
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	acquire, release := event("acquire"), event("release")
	acquireHandler, releaseHandler := a.Handler(wire.OpAcquire), a.Handler(wire.OpRelease)
	b.ReportAllocs()
	n := 0
	for b.Loop() { // each round uses a new lease
		n++
		lease := fmt.Appendf(nil, "secret-lease-%020d", n)
		for _, call := range []struct {
			h lambda.Handler
			e []byte
		}{{acquireHandler, acquire}, {releaseHandler, release}} {
			out, err := call.h.Invoke(b.Context(), bytes.ReplaceAll(call.e, []byte("my-secret-lease-0001"), lease))
			if err != nil || !bytes.Contains(out, []byte(`"statusCode":200`)) {
				b.Fatalf("%s, %v", out, err)
			}
		}
	}
}

// nowhere discards log records after they were encoded, as a function encodes them.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
