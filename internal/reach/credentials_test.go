package reach_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/reach"
)

// Missing credentials are a refusal. A source of credentials that fails for the moment is not, and neither is any failure after
// credentials were found once.
func TestCredentials(t *testing.T) {
	unreachable := &url.Error{Op: "Post", URL: "https://sts.test", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}
	keys := aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}
	for what, test := range map[string]struct {
		creds aws.Credentials
		err   error
		lasts bool
	}{
		"there are some":      {keys, nil, false},
		"empty":               {aws.Credentials{}, nil, true},
		"no profile":          {err: errors.New("failed to get shared config profile, prod"), lasts: true},
		"no instance":         {err: errors.Join(errors.New("no EC2 IMDS role found"), unreachable), lasts: true},
		"STS away":            {err: unreachable},
		"STS fails":           {err: &smithy.GenericAPIError{Code: "InternalFailure", Fault: smithy.FaultServer}},
		"STS throttles":       {err: &smithy.GenericAPIError{Code: "ThrottlingException", Fault: smithy.FaultClient}},
		"session has expired": {err: &smithy.GenericAPIError{Code: "ExpiredToken", Fault: smithy.FaultClient}, lasts: true},
	} {
		creds, err := test.creds, test.err
		c := reach.NewCredentials(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return creds, err }))
		got, failed := c.Retrieve(t.Context())
		refusal, lasts := errors.AsType[*reach.Refusal](failed)
		if lasts != test.lasts || (failed == nil) != (got.HasKeys()) || test.err != nil && !errors.Is(failed, test.err) {
			t.Errorf("%s: %+v, %v", what, got, failed)
		}
		if lasts && refusal.Fix == "" {
			t.Errorf("%s: no fix", what)
		}
		creds, err = keys, nil
		if _, err := c.Retrieve(t.Context()); err != nil {
			t.Errorf("%s, then there are some: %v", what, err)
		}
		creds, err = aws.Credentials{}, errors.New("gone")
		if _, err := c.Retrieve(t.Context()); err == nil || lasting(err) {
			t.Errorf("%s, then some, then none: %v", what, err)
		}
	}
	if _, err := reach.NewCredentials(nil).Retrieve(t.Context()); !lasting(err) {
		t.Errorf("no provider: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := reach.NewCredentials(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) { return aws.Credentials{}, ctx.Err() }))
	if _, err := c.Retrieve(ctx); err == nil || lasting(err) {
		t.Errorf("given up: %v", err)
	}
}

func lasting(err error) bool {
	_, ok := errors.AsType[*reach.Refusal](err)
	return ok
}
