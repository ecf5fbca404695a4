// Command work is the function that the example state machines call while they hold a lock: it sleeps for sleep_ms, and
// then fails if its input says so.
package main

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

type request struct {
	Fence int64 `json:"fence"`
	Input struct {
		Fail  bool  `json:"fail"`
		Sleep int64 `json:"sleep_ms"`
	} `json:"input"`
}

func main() {
	lambda.Start(func(ctx context.Context, r request) (map[string]int64, error) {
		started := time.Now().UnixMilli()
		select {
		case <-time.After(time.Duration(r.Input.Sleep) * time.Millisecond):
		case <-ctx.Done():
		}
		if r.Input.Fail {
			return nil, errors.New("told to fail")
		}
		return map[string]int64{"fence": r.Fence, "started_ms": started, "ended_ms": time.Now().UnixMilli()}, nil
	})
}
