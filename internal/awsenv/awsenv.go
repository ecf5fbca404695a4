// Package awsenv makes the AWS SDK's configuration from environment variables alone, which is all that a Lambda function has. The
// SDK's own config package also reads files and signs in with SSO and STS; its clients make up most of a function's start.
package awsenv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/holdfast-lock/holdfast/internal/reach"
)

// Credentials are those of the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
type Credentials func(string) string

// Retrieve implements [aws.CredentialsProvider]. The error names the variables if one is not set.
func (getenv Credentials) Retrieve(context.Context) (aws.Credentials, error) {
	c := reach.EnvironmentCredentials(getenv)
	if !c.HasKeys() {
		return aws.Credentials{}, errors.New("AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set")
	}
	return c, nil
}

// Config is the configuration that the environment describes: AWS_REGION, the [Credentials], AWS_RETRY_MODE,
// AWS_MAX_ATTEMPTS, AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE>, AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT. It
// reads no other variable and no file. The error names a variable with a bad value.
func Config(getenv func(string) string) (aws.Config, error) {
	cfg := aws.Config{Region: getenv("AWS_REGION"), Credentials: Credentials(getenv), HTTPClient: awshttp.NewBuildableClient()}
	if url := getenv("AWS_ENDPOINT_URL"); url != "" {
		cfg.BaseEndpoint = &url
	}
	if mode := getenv("AWS_RETRY_MODE"); mode != "" {
		m, err := aws.ParseRetryMode(mode)
		if err != nil {
			return aws.Config{}, fmt.Errorf("AWS_RETRY_MODE is %q; give standard or adaptive", mode)
		}
		cfg.RetryMode = m
	}
	if attempts := getenv("AWS_MAX_ATTEMPTS"); attempts != "" {
		n, err := strconv.Atoi(attempts)
		if err != nil || n < 1 {
			return aws.Config{}, fmt.Errorf("AWS_MAX_ATTEMPTS is %q; give a whole number from 1", attempts)
		}
		cfg.RetryMaxAttempts = n
	}
	for _, name := range []string{"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"} {
		switch strings.ToLower(getenv(name)) {
		case "", "true", "false":
		default:
			return aws.Config{}, fmt.Errorf("%s is %q; give true or false", name, getenv(name))
		}
	}
	cfg.ConfigSources = []any{source{getenv}}
	return cfg, nil
}

// A source answers what clients ask their configuration's sources for when they are made.
type source struct{ getenv func(string) string }

// GetServiceBaseEndpoint is the endpoint of one service.
func (s source) GetServiceBaseEndpoint(_ context.Context, service string) (string, bool, error) {
	url := s.getenv("AWS_ENDPOINT_URL_" + strings.ToUpper(strings.ReplaceAll(service, " ", "_")))
	return url, url != "", nil
}

// GetUseFIPSEndpoint reports whether to use FIPS endpoints.
func (s source) GetUseFIPSEndpoint(context.Context) (aws.FIPSEndpointState, bool, error) {
	if strings.EqualFold(s.getenv("AWS_USE_FIPS_ENDPOINT"), "true") {
		return aws.FIPSEndpointStateEnabled, true, nil
	}
	return aws.FIPSEndpointStateUnset, false, nil
}

// GetUseDualStackEndpoint reports whether to use dual-stack endpoints.
func (s source) GetUseDualStackEndpoint(context.Context) (aws.DualStackEndpointState, bool, error) {
	if strings.EqualFold(s.getenv("AWS_USE_DUALSTACK_ENDPOINT"), "true") {
		return aws.DualStackEndpointStateEnabled, true, nil
	}
	return aws.DualStackEndpointStateUnset, false, nil
}
