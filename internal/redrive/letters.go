package redrive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// defaultLimit is how many messages one request handles, if its time suffices: their outcomes fit what a function may return.
const defaultLimit = 1000

// releaseTime is what it takes to put one message back.
const releaseTime = 20 * time.Millisecond

// letters handles dead letters. A message is deleted after its work is done or the table has shown that it is pointless; every other one is
// put back when all have been looked at.
func (r *Redriver) letters(ctx context.Context, req Request) (a Answer, err error) {
	limit := req.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	a.Outcomes = []Outcome{}
	var back []stream.Letter
	defer func() {
		for _, l := range back {
			if failed := r.Letters.Release(context.WithoutCancel(ctx), l); failed != nil && err == nil {
				err = fmt.Errorf("redrive: message %s was not put back, so that it is hidden for a minute and a half: %w", l.ID, failed)
			}
		}
	}()
	seen := map[string]bool{}
	for {
		if late(ctx, margin+time.Duration(len(back))*releaseTime) || len(seen) >= limit {
			a.More = true
			return a, nil
		}
		batch, err := r.Letters.Receive(ctx, min(10, limit-len(seen)))
		if err != nil {
			return a, fmt.Errorf("redrive: the dead-letter queue cannot be read: %w", err)
		}
		if len(batch) == 0 {
			return a, nil
		}
		for _, l := range batch {
			if seen[l.ID] { // a standard queue may deliver a message twice
				continue
			}
			seen[l.ID] = true
			o := r.letter(ctx, req, l, &a)
			if o.Message = l.ID; req.Apply && o.State.over() {
				if err := r.Letters.Delete(ctx, l); err != nil {
					o.Detail += fmt.Sprintf("; the message was not deleted: %v", err)
				} else {
					o.Deleted = true
				}
			}
			if !o.Deleted {
				back = append(back, l)
			}
			a.Outcomes = append(a.Outcomes, o)
		}
	}
}

// A message of Lambda, or of EventBridge, in the dead-letter queue.
type foreign struct {
	DetailType string              `json:"detail-type"`
	Detail     stream.ExecutionEnd `json:"detail"`
	Payload    json.RawMessage     `json:"requestPayload"` // of an asynchronous invocation that failed
	Batch      *struct {           // of a batch of the stream that Lambda gave up
		poller.Range
		First time.Time `json:"approximateArrivalOfFirstRecord"`
		Last  time.Time `json:"approximateArrivalOfLastRecord"`
		Size  int       `json:"batchSize"`
	} `json:"DDBStreamBatchInfo"`
	Problem string `json:"problem"`
}

// letter handles one message. A message that is late in a request is only shown.
func (r *Redriver) letter(ctx context.Context, req Request, l stream.Letter, a *Answer) Outcome {
	if late(ctx, margin) {
		return Outcome{What: "message", State: Kept, Detail: "the time of the function ended before its turn; ask again"}
	}
	var f foreign
	if err := json.Unmarshal([]byte(l.Body), &f); err != nil {
		return r.hopeless(req, Outcome{What: "message", Detail: "it is no JSON of this project, of Lambda or of EventBridge: " + err.Error()})
	}
	if len(f.Payload) > 0 {
		if err := json.Unmarshal(f.Payload, &f); err != nil {
			return r.hopeless(req, Outcome{What: "invocation", Detail: "its payload cannot be read: " + err.Error()})
		}
	}
	switch {
	case f.Batch != nil:
		return r.lostRange(ctx, req, l, f, a)
	case f.DetailType != "":
		return r.job(ctx, req, stream.Job{Kind: stream.JobEnd, Execution: f.Detail})
	case f.Problem != "":
		return r.buried(ctx, req, l)
	}
	j, err := stream.DecodeJob(l.Body)
	if err != nil {
		return r.hopeless(req, Outcome{What: "message", Detail: "it is neither a timer, a job nor a record: " + err.Error()})
	}
	return r.job(ctx, req, j)
}

// hopeless is the outcome of a message that cannot be handled. It is kept, since a newer version may be able to, unless the operator
// discards such messages.
func (r *Redriver) hopeless(req Request, o Outcome) Outcome {
	if req.Discard {
		if o.State = Due; req.Apply {
			o.State = Done
		}
		o.Detail += "; discarded"
		return o
	}
	o.State, o.Fix = Kept, "deploy a version that can read it and ask again, or delete it with --discard"
	return o
}

// buried handles a message that this project's functions wrote.
func (r *Redriver) buried(ctx context.Context, req Request, l stream.Letter) Outcome {
	var b stream.Buried
	if err := json.Unmarshal([]byte(l.Body), &b); err != nil {
		return r.hopeless(req, Outcome{What: "message", Detail: err.Error()})
	}
	var shape struct {
		Change json.RawMessage `json:"dynamodb"`
	}
	if json.Unmarshal(b.Record, &shape) == nil && len(shape.Change) > 0 {
		return r.record(ctx, req, b)
	}
	if j, err := stream.DecodeJob(string(b.Record)); err == nil {
		return r.job(ctx, req, j)
	}
	o := Outcome{What: "record", Lock: b.Lock, Detail: "its content is not in the message: " + b.Problem}
	if b.Lock == "" {
		return r.hopeless(req, o)
	}
	return r.withoutRecord(ctx, req, o)
}

// record handles a record of the stream that could not be read or handled: this version may be able to.
func (r *Redriver) record(ctx context.Context, req Request, b stream.Buried) Outcome {
	w, ok := stream.ReadRecord(b.Record, dynamo.ReadRecord)
	o := Outcome{What: "record", Lock: w.Lock}
	switch {
	case !ok:
		o.State, o.Detail = Pointless, "it is not about a lock"
		return o
	case w.Poison != nil:
		o.Lock, o.Detail = b.Lock, "this version cannot read it either: "+w.Poison.Error()
		return r.withoutRecord(ctx, req, o)
	}
	return r.consume(ctx, req, o, []stream.Write{w})
}

// withoutRecord does for a lock what the table says, in place of a record whose content is not known. The record's events are lost.
func (r *Redriver) withoutRecord(ctx context.Context, req Request, o Outcome) Outcome {
	o.Lost = []string{"the events of one write of the lock, and its entries in the history"}
	if o.Lock == "" {
		return r.hopeless(req, o)
	}
	list, err := r.tend(ctx, o.Lock, req.Apply)
	if err != nil {
		o.State, o.Detail = Failed, o.Detail+"; the lock cannot be examined: "+err.Error()
		return o
	}
	for _, found := range list {
		if found.State == Failed || found.State == Kept {
			o.State, o.Detail = Failed, fmt.Sprintf("%s; %s: %s", o.Detail, found.What, found.Detail)
			return o
		}
		o.Detail += fmt.Sprintf("; %s: %s (%s)", found.What, found.Detail, found.State)
	}
	if len(list) == 0 {
		o.Detail += "; nothing is due on the lock"
	}
	return r.hopeless(req, o)
}

// refuse is a [stream.DeadLetter] that takes nothing: what fails again stays in the dead letter that it came from.
type refuse struct{}

// Bury implements [stream.DeadLetter].
func (refuse) Bury(context.Context, stream.Write) error {
	return errors.New("it failed again, and stays in its dead letter")
}

// Refuse is the [stream.Consumer.DeadLetter] of a redriver's consumer.
var Refuse stream.DeadLetter = refuse{}

// consume does what follows from writes, as the stream function does: timers, callbacks and events. The consumer goes by the table where that
// matters, so that a write of long ago ends nothing and tells nobody twice.
func (r *Redriver) consume(ctx context.Context, req Request, o Outcome, list []stream.Write) Outcome {
	events := 0
	for _, w := range list {
		if w.Poison == nil && r.listens(w.Lock) {
			events += len(w.Effects(true).Changes)
		}
	}
	o.Detail = fmt.Sprintf("%d records of the stream with %d events", len(list), events)
	if !req.Apply {
		o.State = Due
		return o
	}
	for start := 0; start < len(list); start += 100 {
		if failed := r.Expirer.Consumer.Consume(ctx, list[start:min(start+100, len(list))]); len(failed) > 0 {
			o.State, o.Detail = Failed, fmt.Sprintf("%s, of which %d could not be handled; the function's log says why", o.Detail, len(failed))
			return o
		}
	}
	o.State = Done
	return o
}

func (r *Redriver) listens(name string) bool {
	return r.Expirer.Consumer != nil && (r.Expirer.Consumer.Listens == nil || r.Expirer.Consumer.Listens(name))
}

// lostRange handles Lambda's message about a batch of the stream. As long as the stream has the records, they are handled as if for the first
// time. After that only a sweep of the table finds what is due, and some events are lost.
func (r *Redriver) lostRange(ctx context.Context, req Request, l stream.Letter, f foreign, a *Answer) Outcome {
	o := Outcome{What: "range"}
	about := fmt.Sprintf("%d records of shard %s from %s to %s", f.Batch.Size, f.Batch.Shard, stamp(f.Batch.First), stamp(f.Batch.Last))
	list, err := []stream.Write(nil), poller.ErrTrimmed
	if r.Range != nil {
		list, err = r.Range(ctx, f.Batch.Range)
	}
	switch {
	case err == nil:
		o = r.consume(ctx, req, o, list)
		o.Detail = about + ": " + o.Detail
		return o
	case !errors.Is(err, poller.ErrTrimmed):
		o.State, o.Detail = Failed, about+" cannot be read again: "+err.Error()
		return o
	}
	o.Lost = []string{"the events of " + about + " and their entries in the history, but for those that were made before the batch failed"}
	if slices.Contains(req.Swept, l.ID) {
		if o.State, o.Detail = Due, about+": the stream does not have them any more, and the table was swept since"; req.Apply {
			o.State = Done
		}
		return o
	}
	a.Lost = append(a.Lost, Window{f.Batch.First, f.Batch.Last, l.ID})
	o.State, o.Detail = Kept, about+": the stream does not have them any more"
	o.Fix = "sweep the whole table: holdfast redrive does so after the messages, unless --no-sweep or --prefix is given"
	return o
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// job does one job, if the table says that it is still to be done.
func (r *Redriver) job(ctx context.Context, req Request, j stream.Job) Outcome {
	o := Outcome{What: string(j.Kind), Lock: j.Lock}
	detail, is, err := r.isDue(ctx, j)
	o.Detail = detail
	switch {
	case errors.Is(err, errUnknownJob):
		return r.hopeless(req, o)
	case err != nil:
		o.State, o.Detail = Failed, err.Error()
	case !is:
		o.State = Pointless
	case !req.Apply:
		o.State = Due
	default:
		if err := r.Expirer.Try(ctx, j); err != nil {
			o.State, o.Detail = Failed, detail+": "+err.Error()
		} else {
			o.State = Done
		}
	}
	return o
}

var errUnknownJob = errors.New("this version does not know the job")

// isDue decides by the table whether a job is still to be done. detail says what it does, or why it is pointless.
func (r *Redriver) isDue(ctx context.Context, j stream.Job) (detail string, due bool, err error) {
	switch j.Kind {
	case stream.JobTimer:
		_, held, err := r.held(ctx, j.Timer.GrantRef)
		if err != nil || !held {
			return fmt.Sprintf("the grant %d is over", j.Timer.Fence), false, err
		}
		return fmt.Sprintf("end the lease of grant %d if it is over, or set its timer again", j.Timer.Fence), true, nil
	case stream.JobDeliver:
		l, held, err := r.held(ctx, lock.GrantRef{Lock: j.Lock, Key: j.Key, Fence: j.Lease.Fence})
		switch {
		case err != nil:
			return "", false, err
		case !held:
			return fmt.Sprintf("tell the tasks of grant %d that its lease ended", j.Lease.Fence), true, nil
		case l.Tokens != j.Lease.Tokens:
			return fmt.Sprintf("grant %d has got other tokens, whose callbacks have work of their own", j.Lease.Fence), false, nil
		case l.Told:
			return fmt.Sprintf("the callbacks of grant %d were answered", j.Lease.Fence), false, nil
		}
		return fmt.Sprintf("send the callbacks of grant %d", j.Lease.Fence), true, nil
	case stream.JobFail:
		return "tell the tasks that their wait ended: " + j.Code, true, nil
	case stream.JobSettle:
		found, err := r.examine(ctx, j.Lock)
		for _, f := range found {
			if f.Kind != lock.FindingNoTTL && f.Kind != lock.FindingAhead {
				return "grant the free permits to the waiters", true, err
			}
		}
		return "the queue is settled", false, err
	case stream.JobThaw:
		return "look through the locks below " + j.Lock + " for waiters, if its freeze is over", true, nil
	case stream.JobPublish:
		return "publish " + j.Event.DetailType + "; its id is as it was, so that a subscriber can tell a repetition", true, nil
	case stream.JobEnd:
		return r.isEndDue(ctx, j.Execution)
	}
	return fmt.Sprintf("a job of kind %q is unknown to this version", j.Kind), false, errUnknownJob
}

// isEndDue decides whether the leases of an execution must be ended.
func (r *Redriver) isEndDue(ctx context.Context, e stream.ExecutionEnd) (detail string, due bool, err error) {
	list, err := r.Store.Bound(ctx, e.Execution)
	if err != nil || len(list) == 0 {
		return "the execution has no leases: " + e.Execution, false, err
	}
	if r.Expirer.Executions == nil {
		return "", false, errors.New("nothing here can tell whether the execution runs: " + e.Execution)
	}
	running, err := r.Expirer.Executions.Running(ctx, e.Execution)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("whether the execution runs is unknown: %w", err)
	case running:
		return "the execution runs again, and its next end has an event and checks of its own: " + e.Execution, false, nil
	}
	return fmt.Sprintf("end the %d leases and places of %s", len(list), e.Execution), true, nil
}

func (r *Redriver) held(ctx context.Context, ref lock.GrantRef) (lock.Lease, bool, error) {
	reply, err := r.Store.Get(ctx, ref.Lock)
	l, held := reply.After.Holders[ref.Key]
	return l, held && l.Fence == ref.Fence, err
}
