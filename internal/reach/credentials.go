package reach

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
)

// Credentials is a provider that tells missing credentials, for which its error is a [*Refusal], from credentials that cannot be
// fetched at the moment.
type Credentials struct {
	provider aws.CredentialsProvider
	had      atomic.Bool
}

// NewCredentials wraps a provider. A nil provider means that the credentials are missing.
func NewCredentials(provider aws.CredentialsProvider) *Credentials {
	return &Credentials{provider: provider}
}

// Retrieve implements [aws.CredentialsProvider].
func (c *Credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	var creds aws.Credentials
	err := errors.New("no AWS credentials are configured")
	if c.provider != nil {
		creds, err = c.provider.Retrieve(ctx)
	}
	if err == nil && !creds.HasKeys() {
		err = errors.New("the AWS credentials are empty")
	}
	switch {
	case err == nil:
		c.had.Store(true)
	case ctx.Err() == nil && !c.had.Load() && !passing(err):
		err = &Refusal{
			Fix: "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; with single sign-on, run aws sso login",
			Err: err,
		}
	}
	return creds, err
}

// passing reports whether a source of credentials failed only for the moment. The SDK's chain of sources ends at the instance
// metadata service (IMDS); if there is none, there are no credentials.
func passing(err error) bool {
	if strings.Contains(err.Error(), "IMDS") {
		return false
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorFault() == smithy.FaultServer || strings.Contains(api.ErrorCode(), "Throttl")
	}
	_, network := errors.AsType[net.Error](err)
	return network
}

// EnvironmentCredentials are the credentials of the variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, in
// which Lambda passes a function's. They may be without keys.
func EnvironmentCredentials(getenv func(string) string) aws.Credentials {
	return aws.Credentials{
		AccessKeyID: getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: getenv("AWS_SESSION_TOKEN"),
		Source: "environment",
	}
}
