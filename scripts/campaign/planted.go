package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A bug is a small change of the source that the campaign must find. It is planted with go build -overlay, so the tree stays as it is.
type bug struct {
	name     string
	file     string
	old, new string // a text of the file, which is there once, and what replaces it
	plan     func(*plan)
	leaves   bool // it leaves locks held: that a lock is stuck counts as found, too
}

// The plans under which bugs are looked for: the faults that bring each out, and enough clients.
func brief(p *plan) {
	p.Seconds, p.Kills, p.StreamKills, p.CLI, p.Rules = 30, 0, 0, 0, false
}

func with(p *plan, families ...string) {
	brief(p)
	p.Families = families
}

func onTransport(p *plan, family string, http, invoke, direct int) {
	with(p, family)
	p.HTTP, p.Invoke, p.Direct, p.Rate = http, invoke, direct, 5
}

func onLeases(p *plan, families ...string) {
	with(p, families...)
	p.Long, p.Locks = true, 4
}

func onStream(p *plan) {
	brief(p)
	p.Seconds, p.StreamKills, p.Direct, p.Invoke, p.Families = 5, 30, 1, 4, []string{famServices, famDynamo}
}

// onRules has the faults under which most changes of rules arrive in time.
func onRules(p *plan) {
	with(p, famAPI)
	p.Rules, p.Seconds, p.Locks = true, 40, 4
}

func onCommand(p *plan) {
	brief(p)
	p.HTTP, p.Invoke, p.Direct, p.CLI, p.Workers, p.Locks, p.Families = 1, 0, 0, 3, 6, 4, []string{famPartition, famPause, famKillClient}
}

// bugs are those that only processes and the wire between them show: in the client's leases, the transports, the command, the store's
// connection, and the stream's process.
var bugs = []bug{
	{"the client takes the whole TTL for the remaining time", "lockclient/lease.go", "remaining := time.Duration(answer.Remaining) * time.Millisecond",
		"remaining := 2 * time.Duration(answer.TTL) * time.Millisecond", func(p *plan) { onLeases(p, famAPI) }, false},
	{"a renewal without an answer extends the lease", "lockclient/lease.go", "\tl.renewErr = err\n\tif err != nil {\n\t\treturn err\n\t}",
		"\tl.renewErr = err\n\tif err != nil {\n\t\tl.deadline = sent.add(l.ttl)\n\t\treturn err\n\t}", func(p *plan) { onLeases(p, famPartition) }, false},
	{"a lease is over for its client a second late", "lockclient/clock.go", "return deadline.sub(c.now()) }", "return deadline.sub(c.now()) + time.Second }",
		func(p *plan) { onLeases(p, famPause) }, false},
	{"the HTTP transport takes API Gateway's limit for a refusal", "lockclient/gateway.go", "return &unavailable{after: resp.RetryAfter, throttled: true, err: statusError(resp.Status, message)}",
		"return &RefusedError{Status: resp.Status, Detail: message}", func(p *plan) { onTransport(p, famAPI, 6, 0, 0) }, false},
	{"the HTTP transport takes a status 500 after the commit for a refusal", "lockclient/gateway.go", "if resp.Status >= http.StatusInternalServerError {", "if resp.Status > http.StatusHTTPVersionNotSupported {",
		func(p *plan) { onTransport(p, famAPI, 6, 0, 0) }, false},
	{"Invoke's transport takes Lambda's limit for a refusal", "lockclient/invoke/invoke.go", "func throttled(err error) bool { return httpStatus(err) == http.StatusTooManyRequests }", "func throttled(err error) bool { return false }",
		func(p *plan) { onTransport(p, famAPI, 0, 6, 0) }, false},
	{"Invoke's transport takes a reset connection for a refusal", "lockclient/invoke/invoke.go", "if status/100 != 4 || status == http.StatusConflict", "if status/100 == 5 || status == http.StatusConflict",
		func(p *plan) { onTransport(p, famAPI, 0, 6, 0) }, false},
	{"the direct transport takes a status 500 of DynamoDB for a lasting fault", "internal/dynamo/fault.go", "return &lock.StoreError{Kind: lock.ErrUnavailable, What: \"DynamoDB failed \" + action + \" with \" + code",
		"return &lock.StoreError{Kind: lock.ErrMisconfigured, What: \"DynamoDB failed \" + action + \" with \" + code", func(p *plan) { onTransport(p, famDynamo, 0, 0, 6) }, false},
	{"the direct transport takes an answer that was cut off for another server's", "internal/dynamo/fault.go", "e.HTTPStatusCode() != 0 && !cutOff(err)", "e.HTTPStatusCode() != 0",
		func(p *plan) { onTransport(p, famDynamo, 0, 0, 6) }, false},
	{"a write whose reply was lost is taken for another caller's", "internal/lock/acquire.go", "if h, mine := r.Holders[o.key]; mine {", "if h, mine := r.Holders[o.key+\"-\"]; mine {",
		func(p *plan) { onTransport(p, famDynamo, 2, 2, 2) }, false},
	{"there is no allowance for clocks", "internal/lock/rules.go", "func (u Rules) skew() int64 { return u.Skew.Milliseconds() }", "func (u Rules) skew() int64 { return 0 }",
		func(p *plan) { onLeases(p, famClock) }, false},
	{"holdfast exec does not watch the lease's end", "internal/supervise/guard.go", "if !g.ending && g.now() >= g.until-g.grace {", "if !g.ending && g.now() >= g.until+time.Hour {", onCommand, false},
	{"the command outlives a holdfast that is killed", "internal/supervise/guard.go", "\t\t\t\tg.over = true\n\t\t\t\tg.end(deserted)\n\t\t\t\tcontinue", "\t\t\t\tg.until += time.Hour\n\t\t\t\tcontinue", onCommand, false},
	{"the poller keeps its place before the records are consumed", "internal/poller/poller.go", "\tfailed := p.hand(ctx, out.Records)\n", "\tif n := len(out.Records); n > 0 && p.Places != nil {\n\t\t_ = p.Places.Save(id, aws.ToString(out.Records[n-1].Dynamodb.SequenceNumber))\n\t}\n\tfailed := p.hand(ctx, out.Records)\n", onStream, true},
	{"the poller starts at the end of the stream", "internal/poller/poller.go", "latest: first && p.Places == nil}\n\t\t\tif p.Places != nil {", "latest: first}\n\t\t\tif false {", onStream, true},
	{"an event that the bus did not take counts as published", "internal/stream/publish.go", "\t\tif err != nil {\n\t\t\trequest[i].err = err", "\t\tif err != nil && len(entries) == 0 {\n\t\t\trequest[i].err = err",
		func(p *plan) { onStream(p); p.StreamKills, p.Seconds = 0, 40 }, false},
	{"a timer that fires before the expiry is not set again", "internal/stream/expirer.go", "\tif again.IsZero() || x.Timers == nil {\n", "\tif !again.IsZero() || x.Timers == nil {\n",
		func(p *plan) { with(p, famKillClient) }, true},
	{"an acquire is granted a frozen lock", "internal/lock/acquire.go", "case hold == nil && op.refused == nil && op.blind():", "case op.refused == nil && op.blind():", onRules, false},
	{"a hand-off grants a frozen lock", "internal/lock/queue.go", "w.Set == \"\" && to.heldBack(now) == nil && to.fits", "w.Set == \"\" && to.fits", onRules, false},
	{"a rate allows one grant more", "internal/lock/rate.go", "counted := len(r.Grants) - int(one.Value)", "counted := len(r.Grants) - int(one.Value) - 1", onRules, false},
	{"callbacks are left to the function that made the grant", "internal/stream/callbacks.go", "\t\tlist = append(list, Job{Kind: JobDeliver, Lock: d.Lock, Key: ch.Key, Lease: ch.Lease})\n", "",
		func(p *plan) { onStream(p); p.StreamKills, p.Seconds = 0, 40 }, true},
}

// plantedRounds is how many rounds with a bug are run until a check finds it: a round does not always have what the bug needs.
const plantedRounds = 3

// planted looks for each bug in rounds of its own, and prints which check found it. It fails if one is not found.
func (c *campaign) planted() error {
	tried, found := 0, 0
	var failed error
	for i, b := range bugs {
		if c.Only != "" && !strings.Contains(b.name, c.Only) {
			continue
		}
		tried++
		by, err := c.look(b)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("bug %d: %s: %w", i+1, b.name, err))
			continue
		}
		found++
		fmt.Printf("campaign: bug %d: %s: found: %.160s\n", i+1, b.name, by)
	}
	fmt.Printf("campaign: %d planted bugs, %d found\n", tried, found)
	return failed
}

// look runs rounds with a bug. It returns the first violation that a check found.
func (c *campaign) look(b bug) (string, error) {
	operations := 0
	for try := range plantedRounds {
		s, err := c.withBug(b, max(c.Seed, 1)+1000*uint64(try))
		if err != nil {
			return "", err
		}
		for _, v := range s.Violations {
			if b.leaves || !strings.HasPrefix(v, "stuck: ") {
				first, _, _ := strings.Cut(v, "\n")
				return first, nil
			}
		}
		operations += s.operations()
	}
	return "", fmt.Errorf("no check found it in %d rounds, %d operations", plantedRounds, operations)
}

// withBug builds the programs with a bug, and runs a round with them.
func (c *campaign) withBug(b bug, seed uint64) (s summary, err error) {
	source, err := os.ReadFile(b.file)
	if err != nil {
		return s, err
	}
	if n := bytes.Count(source, []byte(b.old)); n != 1 {
		return s, fmt.Errorf("the text to replace is %d times in %s", n, b.file)
	}
	dir, err := os.MkdirTemp("", "campaign-bug-*")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	changed, overlay := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(changed, bytes.Replace(source, []byte(b.old), []byte(b.new), 1), 0o600); err != nil {
		return s, err
	}
	path, err := filepath.Abs(b.file)
	if err != nil {
		return s, err
	}
	text, _ := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}}) // texts
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return s, err
	}
	for _, program := range []string{"./scripts/campaign", "./cmd/holdfast"} {
		out, err := exec.Command("go", "build", "-overlay", overlay, "-o", dir+"/", program).CombinedOutput() //nolint:gosec,noctx // as make does
		if err != nil {
			return s, fmt.Errorf("it does not compile: %s", out)
		}
	}
	p := c.everything()
	p.Seed = seed
	b.plan(&p)
	s, left, err := c.roundWith(p, filepath.Join(dir, "campaign"), filepath.Join(dir, "holdfast"))
	_ = os.RemoveAll(left)
	_ = os.Remove(left + ".secrets")
	return s, err
}
