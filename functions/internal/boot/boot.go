// Package boot builds what every function needs, once per cold start, from the environment:
//
//	HOLDFAST_TABLE              the lock table; required
//	HOLDFAST_MAX_TTL_MS         the longest TTL a request may ask for; default 86400000
//	HOLDFAST_DYNAMODB_ENDPOINT  for a local engine; default the region's
//
// and AWS_REGION and credentials as the SDK reads them.
package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// API builds the API, or ends the process with an error that names the setting.
func API() *api.API {
	log := lambdacontext.NewLogger()
	a, err := build(context.Background(), os.Getenv, log)
	if err != nil {
		log.Error("cannot start", "error", err)
		os.Exit(1)
	}
	return a
}

func build(ctx context.Context, getenv func(string) string, log *slog.Logger) (*api.API, error) {
	table := getenv("HOLDFAST_TABLE")
	if table == "" {
		return nil, fmt.Errorf("HOLDFAST_TABLE is not set; name the lock table")
	}
	var maxTTL time.Duration
	if s := getenv("HOLDFAST_MAX_TTL_MS"); s != "" {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("HOLDFAST_MAX_TTL_MS is %q; give whole milliseconds", s)
		}
		maxTTL = time.Duration(ms) * time.Millisecond
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: getenv("HOLDFAST_DYNAMODB_ENDPOINT")})
	if err != nil {
		return nil, err
	}
	coordinator, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return nil, err
	}
	return api.New(api.Config{Coordinator: coordinator, Log: log, MaxTTL: maxTTL})
}
