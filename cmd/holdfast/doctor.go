package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type doctorCmd struct {
	Lock    string `placeholder:"NAME" default:"holdfast:doctor" help:"The lock whose status is read; name one that the credentials may read, if they may not read all."`
	Prefix  string `placeholder:"TEXT" help:"Look for stuck locks only among those whose names begin so. The items of others are read all the same."`
	Limit   int    `placeholder:"N" default:"100000" help:"How many items of the table are read to find stuck locks, at half a read unit for 4 KB; 0 for all. Of an endpoint: how many locks."`
	NoSweep bool   `help:"Do not look for stuck locks."`
	notifying
}

// An examination is one run of doctor.
type examination struct {
	*connection
	*doctorCmd
}

// Help is shown with doctor's flags.
func (*doctorCmd) Help() string {
	return `Checks the coordinator at --endpoint or of --functions, and the table --table; give either or both. It changes nothing.

Of a table it also reads the items, up to --limit, and reports what nobody will free or tell: a lease that is over and on which
somebody waits, a queue that could move, a task that was never told of its grant, an execution whose check is overdue, a waiter whose
time is over, an item without native TTL, or without its lock's row; and it counts the rows that are not in the index of names.
holdfast redrive mends that. Of an endpoint it lists the locks, which shows stuck queues only. With --notify-prefix it reports the notify queues that killed processes have left.`
}

// A finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// Run makes all checks that are possible, and fails if one of them fails.
func (d *doctorCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	c := examination{conn, d}
	if c.Limit < 0 {
		return fmt.Errorf("--limit is %d; give a number of items above 0, or 0 for all", c.Limit)
	}
	switch {
	case c.Endpoint == "" && c.Functions == "" && c.Table == "":
		return errors.New("nothing to check: give --endpoint URL (or HOLDFAST_ENDPOINT) or --functions LIST (or HOLDFAST_FUNCTIONS), --table NAME (or HOLDFAST_TABLE), or both")
	case c.Endpoint != "" && c.Functions != "":
		return errors.New("--endpoint and --functions are both given, or both set by HOLDFAST_ENDPOINT and HOLDFAST_FUNCTIONS; give one")
	}
	var list []finding
	switch {
	case c.Endpoint != "":
		list = append(list, c.service(ctx)...)
	case c.Functions != "":
		list = append(list, c.functions(ctx)...)
	}
	if c.Table != "" {
		list = append(list, c.table(ctx)...)
	}
	if c.NotifyPrefix != "" {
		list = append(list, c.queues(ctx))
	}
	failed := 0
	for _, f := range list {
		state := s.paint("ok  ", color.FgGreen)
		text := f.Detail
		if !f.OK {
			failed++
			state = s.paint("FAIL", color.FgRed)
			text += "\n                   fix: " + f.Fix
		}
		if err := s.result(f, fmt.Sprintf("%s  %-12s %s", state, f.Check, text)); err != nil {
			return err
		}
	}
	if failed > 0 {
		return exit(exitFailed)
	}
	return nil
}

func bad(check, fix string, err error) finding {
	return finding{Check: check, Detail: strings.TrimSuffix(message(err), "; "+fix), Fix: fix}
}

func (c examination) service(ctx context.Context) (list []finding) {
	if err := c.checkEndpoint(); err != nil {
		return append(list, bad("endpoint", "give the coordinator's URL, up to where /v1/locks begins", err))
	}
	cfg := lockclient.Config{Endpoint: c.Endpoint, HTTPClient: c.httpClient(), RequestTimeout: c.Timeout, Retries: -1}
	switch err := c.sign(ctx, &cfg); {
	case err != nil:
		return append(list, bad("credentials", "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_REGION", err))
	case cfg.Credentials == nil && c.Sign == "never":
		list = append(list, finding{"credentials", true, "requests are not signed, because of --sign never", ""})
	case cfg.Credentials == nil:
		list = append(list, finding{"credentials", true, "requests are not signed: a coordinator on this machine needs no signature", ""})
	default:
		f := checkCredentials(ctx, cfg.Credentials)
		if list = append(list, f); !f.OK {
			return list
		}
	}
	client, err := lockclient.New(cfg)
	if err != nil {
		return append(list, bad("endpoint", "give the coordinator's URL, up to where /v1/locks begins", err))
	}
	answers, ok := c.answers(ctx, client, "endpoint", c.Endpoint)
	if list = append(list, answers...); ok {
		list = append(list, checkPlus(ctx, client, c.Lock))
		list = append(list, c.stuck(ctx, client)...)
	}
	return list
}

// functions checks the coordinator's functions as they are invoked directly.
func (c examination) functions(ctx context.Context) (list []finding) {
	transport, err := c.invoked(ctx)
	if err != nil {
		return append(list, bad("functions", "give the stack's output Functions, and the region", err))
	}
	client, err := lockclient.New(lockclient.Config{Transport: transport, RequestTimeout: c.Timeout, Retries: -1})
	if err != nil {
		return append(list, bad("functions", "give the stack's output Functions", err))
	}
	answers, ok := c.answers(ctx, client, "functions", c.where())
	if list = append(list, answers...); ok {
		list = append(list, c.stuck(ctx, client)...)
	}
	return list
}

// answers reads a lock's status of the coordinator, and compares clocks. It reports whether there was an answer.
func (c examination) answers(ctx context.Context, client *lockclient.Client, check, where string) (list []finding, ok bool) {
	sent := time.Now()
	status, err := client.Status(ctx, c.Lock)
	received := time.Now()
	if err != nil {
		return append(list, bad(check, c.fix(ctx, err), err)), false
	}
	list = append(list, finding{check, true, fmt.Sprintf("%s answers in %v", where, received.Sub(sent).Round(time.Millisecond)), ""})
	return append(list, checkClock(clockOffset(sent, received, status.At), "the coordinator")), true
}

// fix is the remedy for a failed request to the coordinator.
func (c examination) fix(ctx context.Context, err error) string {
	if c.Functions != "" {
		return "name the status function, allow lambda:InvokeFunction on it (docs/iam.md), and let this machine reach Lambda (docs/network.md); with an alias that serves some locks, name one of them with --lock"
	}
	return c.endpointFix(ctx, err)
}

// endpointFix is the remedy for a failed request to an endpoint.
func (c examination) endpointFix(ctx context.Context, err error) string {
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); ok {
		switch {
		case refused.Status == http.StatusForbidden || refused.Status == http.StatusUnauthorized:
			return "give the credentials execute-api:Invoke on GET /v1/locks/* of this API (docs/iam.md), or name a lock that they may read with --lock; check the region and the URL"
		case refused.Code == string(wire.Misconfigured) && refused.Status != 0:
			return "fix the coordinator, not this machine: its table, or its role's permissions (docs/deploy.md)"
		case refused.Code == string(wire.InvalidRequest):
			return "give another lock's name with --lock"
		}
	}
	if host := c.unresolved(ctx); host != "" {
		return fmt.Sprintf("the name %s does not resolve: correct the URL, or this machine's name resolution (VPN, /etc/resolv.conf)", host)
	}
	return "check the URL and the network; the stack's output Endpoint has the URL, and `holdfast dev` prints its own"
}

// unresolved is the endpoint's host if the resolver finds no address for it, and empty otherwise.
func (c examination) unresolved(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return ""
	}
	if _, err = net.DefaultResolver.LookupHost(ctx, u.Hostname()); err != nil {
		return u.Hostname()
	}
	return ""
}

// checkPlus reads the status of a lock whose name has a +: some gateways change it, and some policies do not match it.
func checkPlus(ctx context.Context, client *lockclient.Client, name string) finding {
	name += "+"
	status, err := client.Status(ctx, name)
	if err == nil && status.Lock != name {
		err = fmt.Errorf("it arrives as %s", status.Lock)
	}
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); ok && refused.Status == http.StatusForbidden { // the policy allows the lock without the +
		return finding{"names", true, fmt.Sprintf("not checked whether a name with a + arrives unchanged: the credentials may not read %s", name), ""}
	}
	if err != nil {
		return finding{"names", false, fmt.Sprintf("the name %s, with a +, does not arrive unchanged: %s", name, message(err)),
			"use names without a +: holdfast name turns any text into one; or see docs/deploy.md about + in names"}
	}
	return finding{"names", true, "a name with a + arrives unchanged", ""}
}

func checkCredentials(ctx context.Context, provider aws.CredentialsProvider) finding {
	creds, err := provider.Retrieve(ctx)
	if err != nil {
		return bad("credentials", "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; with SSO, run aws sso login", err)
	}
	detail := fmt.Sprintf("key …%s", creds.AccessKeyID[max(len(creds.AccessKeyID)-4, 0):])
	if creds.Source != "" {
		detail += " from " + creds.Source
	}
	if creds.CanExpire {
		detail += ", expires " + stamp(creds.Expires)
	}
	return finding{"credentials", true, detail, ""}
}

// clockOffset is the least by which this machine's clock is ahead of a server's (negative: behind), if the server read
// its clock between the two times; 0 if the clocks may agree.
func clockOffset(sent, received, server time.Time) time.Duration {
	if ahead := sent.Sub(server.Add(time.Millisecond)); ahead > 0 { // the server truncates to milliseconds
		return ahead
	}
	return min(received.Sub(server), 0)
}

// checkClock judges an offset. A client measures leases on its monotonic clock; the wall clock matters for signatures
// and for the direct use of a table.
func checkClock(offset time.Duration, server string) finding {
	if offset.Abs() > lock.DefaultSkew {
		way := "ahead of"
		if offset < 0 {
			way = "behind"
		}
		return finding{"clock", false, fmt.Sprintf("this machine's clock is %v %s that of %s, at least", offset.Abs().Round(time.Millisecond), way, server),
			fmt.Sprintf("synchronise it (timedatectl set-ntp true, or chrony with 169.254.169.123 on EC2): a coordinator that is more than %v off grants nothing", lock.MaxClockOffset)}
	}
	return finding{"clock", true, fmt.Sprintf("agrees with that of %s, within the precision of the measurement", server), ""}
}

func (c examination) table(ctx context.Context) (list []finding) {
	sdk, err := c.tableConfig(ctx)
	var store *dynamo.Store
	if err == nil {
		store, err = dynamo.New(dynamo.Config{AWS: sdk, Table: c.Table, Endpoint: c.DynamodbEndpoint})
	}
	if err != nil {
		return append(list, bad("table", "give --region, or set AWS_REGION, or a region in the profile", err))
	}
	if c.Endpoint == "" {
		f := checkCredentials(ctx, sdk.Credentials)
		if list = append(list, f); !f.OK {
			return list
		}
	}
	reply, err := store.Get(ctx, c.Lock)
	if err != nil {
		fix := "see the error"
		if fault, ok := errors.AsType[*lock.StoreError](err); ok && fault.Fix != "" {
			fix = fault.Fix
		}
		return append(list, bad("table", fix, err))
	}
	list = append(list, finding{"table", true, fmt.Sprintf("%s can be read", c.Table), ""}, checkClock(reply.Offset, "DynamoDB"))
	problems, err := store.Inspect(ctx)
	if err != nil {
		return append(list, bad("settings", "give dynamodb:DescribeTable and dynamodb:DescribeTimeToLive on the table", err))
	}
	for _, p := range problems {
		list = append(list, finding{"settings", false, p.What, p.Fix})
	}
	if len(problems) == 0 {
		list = append(list, finding{"settings", true, "keys pk and sk, stream of new and old images, native TTL on ttl, one region", ""})
	}
	return append(list, c.sweep(ctx)...)
}
