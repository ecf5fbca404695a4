package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// connection are the settings of every command that select the coordinator and how it is reached: a flag before or
// after the command's name, or an environment variable. Credentials have no flag, since other users can read a
// process's command line: they come from the environment, the profile or the role, as for every AWS tool.
type connection struct {
	Endpoint         string        `env:"HOLDFAST_ENDPOINT" placeholder:"URL" help:"The coordinator's URL, up to where /v1/locks begins."`
	Functions        string        `env:"HOLDFAST_FUNCTIONS" placeholder:"LIST" help:"Invoke the coordinator's functions themselves, without an HTTP API: the stack's output Functions, which is acquire=NAME,renew=NAME and so on."`
	Table            string        `env:"HOLDFAST_TABLE" placeholder:"NAME" help:"Use this DynamoDB table directly, without a coordinator service."`
	DynamodbEndpoint string        `env:"HOLDFAST_DYNAMODB_ENDPOINT" placeholder:"URL" help:"DynamoDB's endpoint, such as http://127.0.0.1:8000 of DynamoDB Local; by default the region's."`
	Region           string        `env:"HOLDFAST_REGION" placeholder:"REGION" help:"AWS region; by default the endpoint's, AWS_REGION or the profile's."`
	Sign             string        `env:"HOLDFAST_SIGN" enum:"auto,always,never" default:"auto" help:"Sign requests with AWS credentials: auto, always or never. auto signs unless the address is a loopback address."`
	Timeout          time.Duration `env:"HOLDFAST_TIMEOUT" placeholder:"TIME" default:"5s" help:"Time limit of one attempt of a request; by default 5s."`
	Owner            string        `env:"HOLDFAST_OWNER" placeholder:"TEXT" help:"The holder's name that others see; by default host and process."`

	given map[string]bool // the flags on the command line, by name
}

// flagsGiven records which settings were given as flags. One of --endpoint, --functions and --table replaces the variables of the others.
func (c *connection) flagsGiven(k *kong.Context) {
	c.given = map[string]bool{}
	for _, p := range k.Path {
		if p.Flag != nil {
			c.given[p.Flag.Name] = true
		}
	}
	if c.given["endpoint"] || c.given["functions"] || c.given["table"] {
		for flag, setting := range map[string]*string{"endpoint": &c.Endpoint, "functions": &c.Functions, "table": &c.Table} {
			if !c.given[flag] {
				*setting = ""
			}
		}
	}
}

// check validates the settings that have the same limits for every command.
func (c *connection) check() error {
	switch {
	case c.Timeout <= 0:
		return fmt.Errorf("--timeout is %v; give a time above 0", c.Timeout)
	case len(c.Owner) > wire.MaxOwner:
		return fmt.Errorf("--owner is %d bytes long; at most %d are allowed", len(c.Owner), wire.MaxOwner)
	}
	return nil
}

// noEndpoint refuses --endpoint and --functions for a command that does not use a coordinator. Their variables are ignored, since they may be
// set for other commands.
func (c *connection) noEndpoint(command string) error {
	if c.given["endpoint"] {
		return fmt.Errorf("%s does not use a coordinator, so --endpoint means nothing to it; DynamoDB's own is --dynamodb-endpoint", command)
	}
	if c.given["functions"] {
		return fmt.Errorf("%s does not use a coordinator, so --functions means nothing to it; leave it out", command)
	}
	return nil
}

// client returns a client of the selected coordinator.
func (c *connection) client(ctx context.Context) (*lockclient.Client, error) {
	cfg, err := c.config(ctx)
	if err != nil {
		return nil, err
	}
	return lockclient.New(cfg)
}

// config is the configuration of a client of the selected coordinator.
func (c *connection) config(ctx context.Context) (lockclient.Config, error) {
	cfg := lockclient.Config{Owner: c.Owner, RequestTimeout: c.Timeout}
	switch {
	case c.Endpoint == "" && c.Functions == "" && c.Table == "":
		return cfg, errors.New("which coordinator? Give --endpoint URL or set HOLDFAST_ENDPOINT (of `holdfast dev`: http://127.0.0.1:7420); or give --functions LIST for a deployment without an API, or --table NAME to use a DynamoDB table itself")
	case c.Endpoint != "" && c.Functions != "", c.Endpoint != "" && c.Table != "", c.Functions != "" && c.Table != "":
		return cfg, errors.New("more than one of --endpoint, --functions and --table is given, or set by HOLDFAST_ENDPOINT, HOLDFAST_FUNCTIONS and HOLDFAST_TABLE; give one")
	case c.Functions != "":
		functions, err := c.invoked(ctx)
		if err != nil {
			return cfg, err
		}
		cfg.Transport = functions
	case c.Table != "":
		table, err := c.direct(ctx)
		if err != nil {
			return cfg, err
		}
		cfg.Transport = tableTransport{table}
	default:
		if err := c.checkEndpoint(); err != nil {
			return cfg, err
		}
		cfg.Endpoint, cfg.HTTPClient = c.Endpoint, c.httpClient()
		if err := c.sign(ctx, &cfg); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// close releases what the client holds, or may hold because a reply was lost. It does so also after a signal has
// cancelled ctx.
func (c *connection) close(ctx context.Context, client *lockclient.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout)
	defer cancel()
	return client.Close(ctx)
}

// giveUp closes the client after acquiring has failed, and returns that failure. A failure to close is dropped: nothing
// is known to be held, and a grant whose reply was lost expires by itself.
func (c *connection) giveUp(ctx context.Context, client *lockclient.Client, s *streams, name string, failed error) error {
	slow := time.AfterFunc(time.Second, func() {
		s.notice("giving_up", fmt.Sprintf("giving up; releasing %s first, whose grant may have been lost with a reply: 5 s at most", name), "lock", name)
	})
	defer slow.Stop()
	_ = c.close(ctx, client)
	return failed
}

// httpClient connects names under .localhost to 127.0.0.1 (RFC 6761), since not every resolver does. It is nil for other names.
func (c *connection) httpClient() *http.Client {
	u, err := url.Parse(c.Endpoint)
	if err != nil || !strings.HasSuffix(u.Hostname(), ".localhost") {
		return nil
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
		IdleConnTimeout: time.Minute,
	}
	return &http.Client{Transport: transport}
}

// checkEndpoint validates --endpoint, and suggests a URL for the usual mistakes.
func (c *connection) checkEndpoint() error {
	u, err := url.Parse(c.Endpoint)
	if err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		return nil
	}
	if strings.Contains(c.Endpoint, ":/") || strings.ContainsAny(c.Endpoint, " \t\n") {
		return fmt.Errorf("--endpoint is %q; give a URL like https://ID.execute-api.REGION.amazonaws.com or http://127.0.0.1:7420", c.Endpoint)
	}
	if port := strings.TrimPrefix(c.Endpoint, ":"); port != "" && strings.Trim(port, "0123456789") == "" {
		return fmt.Errorf("--endpoint is %q, which has no scheme and no host; give http://127.0.0.1:%s", c.Endpoint, port)
	}
	scheme := "https"
	if u, err := url.Parse("http://" + c.Endpoint); err == nil && (isLoopback(u.Hostname()) || u.Port() != "") {
		scheme = "http"
	}
	return fmt.Errorf("--endpoint is %q, which has no scheme; give %s://%[1]s", c.Endpoint, scheme)
}

// invoked is the transport that invokes the coordinator's functions.
func (c *connection) invoked(ctx context.Context) (*invoke.Transport, error) {
	functions, err := invoke.ParseFunctions(c.Functions)
	if err != nil {
		return nil, fmt.Errorf("--functions: %s", strings.TrimPrefix(err.Error(), "invoke: "))
	}
	sdk, err := awsConfig(ctx, cmp.Or(c.Region, regionOfARN(functions.Acquire), regionOfARN(functions.Status)), "")
	if err == nil && sdk.Region == "" {
		err = errors.New("the functions' region is not set; give --region, or set AWS_REGION, or a region in the profile")
	}
	if err != nil {
		return nil, err
	}
	return invoke.New(invoke.Config{AWS: sdk, Functions: functions})
}

// regionOfARN is the region in a function's ARN, or "" of a name.
func regionOfARN(function string) string {
	if parts := strings.Split(function, ":"); len(parts) > 6 && parts[0] == "arn" {
		return parts[3]
	}
	return ""
}

func (c *connection) direct(ctx context.Context) (*direct.Table, error) {
	sdk, err := c.tableConfig(ctx)
	if err != nil {
		return nil, err
	}
	return direct.New(ctx, direct.Config{Table: c.Table, Region: sdk.Region, Endpoint: c.DynamodbEndpoint, Credentials: sdk.Credentials, Log: slog.New(errorLog{})})
}

// tableConfig is the SDK's configuration for a command that uses a table directly.
func (c *connection) tableConfig(ctx context.Context) (aws.Config, error) {
	sdk, err := awsConfig(ctx, c.Region, c.DynamodbEndpoint)
	if err == nil && sdk.Region == "" {
		err = errors.New("the table's region is not set; give --region, or set AWS_REGION, or a region in the profile")
	}
	return sdk, err
}

// sign adds region and credentials, if requests are to be signed.
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
		return fmt.Errorf("requests to %s are signed for a region, and none is set; give --region, or set AWS_REGION; for a coordinator that takes unsigned requests, such as holdfast dev on another machine, give --sign never", c.Endpoint)
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
	return !isLoopback(u.Hostname())
}

// isLoopback reports whether a host is localhost or a loopback address, without asking a name server.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
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
