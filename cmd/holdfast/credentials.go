package main

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

// awsConfig is the SDK's configuration for a region, or for a local engine at endpoint, which accepts any credentials.
func awsConfig(ctx context.Context, region, endpoint string) (aws.Config, error) {
	if u, err := url.Parse(endpoint); endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return aws.Config{}, fmt.Errorf("--dynamodb-endpoint is %q; give a URL like http://127.0.0.1:8000", endpoint)
	}
	options := []func(*config.LoadOptions) error{config.WithLogger(logging.Nop{})} // errors say what failed
	if region != "" {
		options = append(options, config.WithRegion(region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil || endpoint == "" {
		return cfg, err
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" && os.Getenv("AWS_PROFILE") == "" {
		cfg.Credentials = localCredentials{}
	}
	return cfg, nil
}

// localCredentials sign requests to a local engine.
type localCredentials struct{}

func (localCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "local", SecretAccessKey: "local"}, nil
}
