package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// connection are the flags that say which coordinator is meant. There are none for credentials, which others could read in
// a list of processes: they come from the environment, the profile or the role, as for every AWS tool.
type connection struct {
	Endpoint         string        `env:"HOLDFAST_ENDPOINT" placeholder:"URL" help:"The coordinator's URL, up to where /v1/locks begins."`
	Table            string        `env:"HOLDFAST_TABLE" placeholder:"NAME" help:"Use this DynamoDB table itself, with no service."`
	DynamodbEndpoint string        `env:"HOLDFAST_DYNAMODB_ENDPOINT" placeholder:"URL" help:"DynamoDB's endpoint, with --table."`
	Region           string        `placeholder:"REGION" help:"AWS region; by default the endpoint's, the environment's or the profile's."`
	Sign             string        `enum:"auto,always,never" default:"auto" help:"Sign requests with AWS credentials: auto, always or never. auto does not for a loopback address."`
	Timeout          time.Duration `default:"5s" help:"How long one try of a request may take."`
}

// client makes a client of the coordinator that is meant.
func (c *connection) client(ctx context.Context, owner string) (*lockclient.Client, error) {
	cfg := lockclient.Config{Owner: owner, RequestTimeout: c.Timeout}
	switch {
	case c.Endpoint == "" && c.Table == "":
		return nil, errors.New("which coordinator? Give --endpoint URL or set HOLDFAST_ENDPOINT (of `holdfast dev`: http://127.0.0.1:7420), or give --table NAME to use a DynamoDB table itself")
	case c.Table != "" && c.Endpoint != "":
		return nil, errors.New("--endpoint and --table are both given (perhaps by HOLDFAST_ENDPOINT or HOLDFAST_TABLE); give one")
	case c.Table != "":
		table, err := c.direct(ctx)
		if err != nil {
			return nil, err
		}
		cfg.Transport = table
	default:
		cfg.Endpoint = c.Endpoint
		if err := c.sign(ctx, &cfg); err != nil {
			return nil, err
		}
	}
	return lockclient.New(cfg)
}

func (c *connection) direct(ctx context.Context) (*direct.Table, error) {
	sdk, err := awsConfig(ctx, c.Region, c.DynamodbEndpoint)
	if err != nil {
		return nil, err
	}
	return direct.New(ctx, direct.Config{Table: c.Table, Region: sdk.Region, Endpoint: c.DynamodbEndpoint, Credentials: sdk.Credentials})
}

// sign adds what requests are signed with.
func (c *connection) sign(ctx context.Context, cfg *lockclient.Config) error {
	if !c.signs() {
		return nil
	}
	region := c.Region
	if region == "" {
		region = regionOf(c.Endpoint)
	}
	sdk, err := awsConfig(ctx, region, "")
	if err != nil {
		return err
	}
	if sdk.Region == "" {
		return fmt.Errorf("requests to %s are signed for a region, and none is set; give --region, or set AWS_REGION", c.Endpoint)
	}
	cfg.Region, cfg.Credentials = sdk.Region, sdk.Credentials
	return nil
}

func (c *connection) signs() bool {
	if c.Sign != "auto" {
		return c.Sign == "always"
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// regionOf is the region in the name of an API Gateway endpoint, or "".
func regionOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	if parts := strings.Split(u.Hostname(), "."); len(parts) >= 5 && parts[1] == "execute-api" && parts[3] == "amazonaws" {
		return parts[2]
	}
	return ""
}
