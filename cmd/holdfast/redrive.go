package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/redrive"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

type redriveCmd struct {
	Function string `env:"HOLDFAST_REDRIVE_FUNCTION" placeholder:"NAME" help:"The deployment's redrive function: the stack's output RedriveFunction. Without it, --table is swept with your own credentials."`
	Apply    bool   `help:"Do it. Without this flag the command shows what it would do, and changes nothing."`
	Sweep    bool   `help:"Sweep the whole table too. It is swept all the same if records of the stream are lost for good."`
	NoSweep  bool   `help:"Never sweep the table."`
	Prefix   string `placeholder:"TEXT" help:"Sweep only the locks whose names begin so. The whole table is read all the same."`
	Timers   bool   `help:"Sweep, and set the timers of all live leases again, as after the loss of the timers' queue. A lease that has its timer gets another, and each costs a message, an invocation and a read for each TTL that the lease lives."`
	Limit    int    `placeholder:"N" help:"Handle so many dead letters at most; by default all."`
	Discard  bool   `help:"Delete also the messages that no version can handle: with --apply, and for good."`
}

// Help is shown with redrive's flags.
func (*redriveCmd) Help() string {
	return `Handles the messages of the dead-letter queue by what the table says now: it sends callbacks that are due, ends leases that
are over, sets timers, settles queues, and publishes the events that a message holds. A message is deleted only after that is done
or is proved pointless. If the stream has lost records for good, or with --sweep, it then reads the whole table, which costs half a
read unit for each 4 KB, and does the same for each lock. It sets the timers again that may be lost with those records, and names the
events that cannot be made from the table.

With --function the deployment's redrive function does the work, and you need no permission but to invoke it. With --table the
command itself sweeps the table, and leaves callbacks, checks of executions and timers. Everything may be repeated.`
}

// check validates the flags together.
func (c *redriveCmd) check(conn *connection) error {
	switch {
	case c.Function == "" && conn.Table == "":
		return errors.New("which deployment? Give --function NAME or set HOLDFAST_REDRIVE_FUNCTION (the stack's output RedriveFunction), or give --table NAME to sweep a table alone")
	case c.Sweep && c.NoSweep:
		return errors.New("--sweep and --no-sweep are both given; give one")
	case c.NoSweep && c.Function == "":
		return errors.New("--no-sweep leaves nothing to do, since without --function there are no dead letters; leave it out")
	case c.Prefix != "" && c.NoSweep:
		return fmt.Errorf("--prefix is %q, and --no-sweep is given; leave one out", c.Prefix)
	case c.Limit < 0:
		return fmt.Errorf("--limit is %d; give a number of messages above 0, or leave it out for all", c.Limit)
	case c.Discard && c.Function == "":
		return errors.New("--discard is for dead letters, which need --function")
	case c.Timers && c.Function == "":
		return errors.New("--timers needs --function: only the deployment's function can set timers")
	case c.Timers && c.NoSweep:
		return errors.New("--timers and --no-sweep are both given; timers are set by the sweep")
	}
	return nil
}

// Run handles the dead letters, then sweeps the table if that is needed.
func (c *redriveCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := conn.noEndpoint("redrive"); err != nil {
		return err
	}
	if err := c.check(conn); err != nil {
		return err
	}
	do, err := c.worker(ctx, conn)
	if err != nil {
		return err
	}
	run := &redriving{redriveCmd: c, out: s, do: do, counts: map[redrive.State]int{}, shown: map[string]redrive.Outcome{}}
	if err := run.all(ctx); err != nil {
		return err
	}
	return run.summary()
}

// A redriving is one run of redrive.
type redriving struct {
	*redriveCmd
	out    *streams
	do     func(context.Context, redrive.Request) (redrive.Answer, error)
	counts map[redrive.State]int
	lost   int                        // events
	shown  map[string]redrive.Outcome // by message
}

// all handles the dead letters, then sweeps the table if that is needed. The messages of lost ranges are deleted after a sweep that was given them. They
// may have hidden further ones, for which the table is swept again.
func (r *redriving) all(ctx context.Context) error {
	sweep := r.Sweep || r.Timers || r.Prefix != "" && !r.NoSweep || r.Function == ""
	var lost []redrive.Window
	var err error
	if r.Function != "" {
		if lost, err = r.letters(ctx, nil); err != nil {
			return err
		}
	}
	for sweep || len(lost) > 0 && !r.NoSweep {
		if err := r.sweep(ctx, lost); err != nil {
			return err
		}
		// Only a sweep of the whole table without failures has dealt with the lost ranges.
		if len(lost) == 0 || !r.Apply || r.Prefix != "" || r.counts[redrive.Failed] > 0 {
			return nil
		}
		var swept []string
		for _, w := range lost {
			swept = append(swept, w.Message)
		}
		if lost, err = r.letters(ctx, swept); err != nil {
			return err
		}
		sweep = false
	}
	return nil
}

// letters handles the dead letters, all of them or up to the limit. swept are the messages of ranges that a sweep has dealt with, which are deleted. It
// returns the ranges that it shows for the first time.
func (r *redriving) letters(ctx context.Context, swept []string) (lost []redrive.Window, err error) {
	left, seen := r.Limit, map[string]bool{}
	for {
		answered := r.out.works("the redrive function")
		a, err := r.do(ctx, redrive.Request{Work: redrive.WorkLetters, Apply: r.Apply, Discard: r.Discard, Limit: left, Swept: swept})
		answered()
		if err != nil {
			return lost, err
		}
		for _, w := range a.Lost {
			if _, before := r.shown[w.Message]; !before {
				lost = append(lost, w)
			}
		}
		deleted, fresh := 0, false
		for _, o := range a.Outcomes {
			if o.Deleted {
				deleted++
			}
			fresh = fresh || !seen[o.Message]
			seen[o.Message] = true
			if err := r.showMessage(o); err != nil {
				return lost, err
			}
		}
		if left > 0 {
			if left -= len(a.Outcomes); left <= 0 {
				return lost, nil
			}
		}
		if !a.More {
			return lost, nil
		}
		if deleted == 0 { // the next request would see the same messages, or some of those behind them
			r.out.notice("more", fmt.Sprintf("there are more than the %d messages above; those behind them are seen once some of these are deleted", len(r.shown)))
			return lost, nil
		}
		if !fresh {
			return lost, nil
		}
	}
}

// showMessage prints the outcome of a message. One that was shown before is shown again only when it is deleted, and counted once.
func (r *redriving) showMessage(o redrive.Outcome) error {
	if was, before := r.shown[o.Message]; before {
		if !o.Deleted {
			return nil
		}
		r.counts[was.State]--
		r.lost -= len(was.Lost)
	}
	r.shown[o.Message] = o
	return r.show(o)
}

// sweep reads the whole table.
func (r *redriving) sweep(ctx context.Context, lost []redrive.Window) error {
	req := redrive.Request{Work: redrive.WorkSweep, Apply: r.Apply, Prefix: r.Prefix, Lost: lost, Timers: r.Timers}
	var all redrive.Answer
	for {
		answered := r.out.works("the sweep")
		a, err := r.do(ctx, req)
		answered()
		if err != nil {
			return err
		}
		for _, o := range a.Outcomes {
			if err := r.show(o); err != nil {
				return err
			}
		}
		all.Locks, all.Items, all.Units, all.Timers = all.Locks+a.Locks, all.Items+a.Items, all.Units+a.Units, all.Timers+a.Timers
		if req.Cursor = a.Cursor; a.Cursor == "" {
			break
		}
		if r.out.isLive() {
			r.out.live(fmt.Sprintf("swept %d items, %.0f read units", all.Items, all.Units))
		}
	}
	return r.out.result(map[string]any{"swept": map[string]any{"locks": all.Locks, "items": all.Items, "read_units": all.Units, "timers": all.Timers}},
		fmt.Sprintf("swept %d locks: %d items read for %.1f read units; %d timers set again", all.Locks, all.Items, all.Units, all.Timers))
}

// works tells once that the answer to a long request is awaited.
func (s *streams) works(what string) (answered func()) {
	slow := time.AfterFunc(5*time.Second, func() {
		s.notice("working", what+" works, for a minute at most before its next answer")
	})
	return func() { slow.Stop() }
}

// show prints one outcome.
func (r *redriving) show(o redrive.Outcome) error {
	r.counts[o.State]++
	r.lost += len(o.Lost)
	colour := map[redrive.State]color.Attribute{redrive.Failed: color.FgRed, redrive.Kept: color.FgYellow, redrive.Due: color.FgYellow}
	state := fmt.Sprintf("%-9s", o.State)
	if c, ok := colour[o.State]; ok {
		state = r.out.paint(state, c)
	}
	text := fmt.Sprintf("%s  %-10s %s", state, o.What, o.Detail)
	if o.Lock != "" {
		text = fmt.Sprintf("%s  %-10s %s: %s", state, o.What, o.Lock, o.Detail)
	}
	if o.Message != "" {
		text += fmt.Sprintf(" (message %s%s)", o.Message, map[bool]string{true: ", deleted"}[o.Deleted])
	}
	for _, l := range o.Lost {
		text += "\n                       lost: " + l
	}
	if o.Fix != "" && o.State != redrive.Due {
		text += "\n                       fix: " + o.Fix
	}
	return r.out.result(o, printable(text))
}

// summary prints how many outcomes there were of each state. It fails if something failed.
func (r *redriving) summary() error {
	var parts []string
	counts := map[string]int{}
	for _, state := range slices.Sorted(maps.Keys(r.counts)) {
		if n := r.counts[state]; n > 0 {
			parts, counts[string(state)] = append(parts, fmt.Sprintf("%d %s", n, state)), n
		}
	}
	text := "nothing to do"
	if len(parts) > 0 {
		text = strings.Join(parts, ", ")
	}
	if r.lost > 0 {
		text += fmt.Sprintf("; %d notes of lost events", r.lost)
	}
	if n := r.counts[redrive.Due]; n > 0 && !r.Apply {
		text += "; --apply does what is due"
	}
	if err := r.out.result(map[string]any{"summary": counts, "applied": r.Apply}, text); err != nil {
		return err
	}
	if r.counts[redrive.Failed] > 0 {
		return exit(exitFailed)
	}
	return nil
}

// worker does requests: by the function, or in this process on the table alone.
func (c *redriveCmd) worker(ctx context.Context, conn *connection) (func(context.Context, redrive.Request) (redrive.Answer, error), error) {
	if c.Function != "" {
		return c.invoke(ctx, conn)
	}
	r, err := sweeper(ctx, conn)
	if err != nil {
		return nil, err
	}
	return r.Do, nil
}

// sweeper is a redriver on a table alone.
func sweeper(ctx context.Context, conn *connection) (*redrive.Redriver, error) {
	sdk, err := conn.tableConfig(ctx)
	if err != nil {
		return nil, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: sdk, Table: conn.Table, Endpoint: conn.DynamodbEndpoint})
	if err != nil {
		return nil, err
	}
	coordinator, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return nil, err
	}
	return &redrive.Redriver{Store: store, Coordinator: coordinator, Expirer: &stream.Expirer{Coordinator: coordinator, Log: slog.New(slog.DiscardHandler)}}, nil
}

// invokeTime bounds one invocation of the redrive function, which runs for a minute at most.
const invokeTime = 75 * time.Second

// invoke returns a worker that invokes the redrive function. An invocation is not repeated by itself: the operator sees what failed.
func (c *redriveCmd) invoke(ctx context.Context, conn *connection) (func(context.Context, redrive.Request) (redrive.Answer, error), error) {
	sdk, err := awsConfig(ctx, conn.Region, "")
	if err != nil {
		return nil, err
	}
	if sdk.Region == "" {
		return nil, errors.New("the function's region is not set; give --region, or set AWS_REGION, or a region in the profile")
	}
	client := lambda.NewFromConfig(sdk, func(o *lambda.Options) { o.Retryer = aws.NopRetryer{} })
	return func(ctx context.Context, req redrive.Request) (a redrive.Answer, err error) {
		ctx, cancel := context.WithTimeout(ctx, invokeTime)
		defer cancel()
		payload, err := json.Marshal(req)
		if err != nil {
			return a, err
		}
		out, err := client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(c.Function), Payload: payload})
		if err != nil {
			return a, fmt.Errorf("the function %s was not invoked: %w; it needs lambda:InvokeFunction (docs/iam.md); what it did is done, and the command may be repeated", c.Function, err)
		}
		if out.FunctionError != nil {
			var failed struct {
				Message string `json:"errorMessage"`
			}
			_ = json.Unmarshal(out.Payload, &failed)
			return a, fmt.Errorf("the function %s failed: %s; its log says more, and the command may be repeated", c.Function, failed.Message)
		}
		if err := json.Unmarshal(out.Payload, &a); err != nil {
			return a, fmt.Errorf("the function %s answered what no redrive function does: %w; give the stack's output RedriveFunction", c.Function, err)
		}
		return a, nil
	}, nil
}
