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

// Credentials tells credentials that are missing, a [*Refusal], from those that cannot be fetched just now.
type Credentials struct {
	provider aws.CredentialsProvider
	had      atomic.Bool
}

// NewCredentials wraps a provider. With none, credentials are missing.
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

// passing tells whether a source of credentials is away for now. The SDK's chain ends at the instance's metadata service:
// where there is none, there are no credentials.
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
