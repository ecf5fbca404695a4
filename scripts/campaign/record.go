package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A recorder writes what the clients of a process do to a file, in one write call for each line, so that it survives the process. An
// operation and a belief are written when they begin and again when more is known: the last line with a number counts.
type recorder struct {
	mu   sync.Mutex
	file *os.File
	next atomic.Int64
}

// A line is a line of a recorder's file.
type line struct {
	Number  int64           `json:"n"`
	Op      *history.Op     `json:"op,omitempty"`
	Belief  *history.Belief `json:"belief,omitempty"`
	Refused string          `json:"refused,omitempty"` // an error that says that no retry can help
}

func newRecorder(dir, name string) (*recorder, error) {
	f, err := os.OpenFile(filepath.Join(dir, "ops-"+name+".jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &recorder{file: f}, err
}

func (r *recorder) write(l line) {
	text, _ := json.Marshal(l) // has no value that JSON lacks
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.file.Write(append(text, '\n'))
}

// refused records an error that says that no retry can help: no fault of a campaign is one.
func (r *recorder) refused(client string, err error) {
	if errors.Is(err, lockclient.ErrRefused) {
		r.write(line{Number: r.next.Add(1), Refused: client + ": " + err.Error()})
	}
}

// begin records that a client sends a request. The returned function records its answer; status 0 means that there was none. It
// records nothing for operations that change no lock.
func (r *recorder) begin(client string, op wire.Op, name string, body []byte) func(status int, answer []byte) {
	kinds := map[wire.Op]history.Kind{
		wire.OpAcquire: history.Acquire, wire.OpRenew: history.Renew, wire.OpRelease: history.Release, wire.OpForceRelease: history.Force,
		wire.OpAcquireSet: history.Acquire, wire.OpRenewSet: history.Renew, wire.OpReleaseSet: history.Release,
	}
	kind, known := kinds[op]
	if !known {
		return func(int, []byte) {}
	}
	var request struct {
		wire.AcquireRequest
		Fence int64           `json:"fence"`
		Locks json.RawMessage `json:"locks"` // of a set
	}
	_ = json.Unmarshal(body, &request) // the client made it
	switch {
	case kind == history.Release && request.Mode != "":
		kind = history.Downgrade
	case request.Mode != "":
		request.Capacity, request.Permits = wire.ModeCapacity, request.Mode.Permits()
	}
	ms := int64(time.Millisecond)
	o := history.Op{
		Client: client, Op: kind, Lock: name, Permits: request.Permits, Capacity: request.Capacity, Began: now(), Result: history.Unknown,
		TTL: request.TTL * ms, Wait: request.Wait * ms, Fence: request.Fence,
	}
	ops := []history.Op{o}
	names := []string{name}
	if op.IsSet() {
		if list, err := history.SetOps(o, request.Locks); err == nil {
			ops, names = list, lock.SetNames(list[0].Set)
		}
	}
	if request.Lease != "" {
		for i := range ops {
			ops[i].Lease = string(lock.SetKey(names, request.Lease))
		}
	}
	last := r.next.Add(int64(len(ops)))
	write := func() {
		for i, o := range ops {
			r.write(line{Number: last - int64(i), Op: &o})
		}
	}
	write()
	return func(status int, answer []byte) {
		ended := now() // of all of a set: the check of sets knows the operations of a request by that
		for i := range ops {
			ops[i].Ended = ended
			if op.IsSet() {
				readSetAnswer(ops, i, status, answer)
			} else {
				readAnswer(&ops[i], status, answer)
			}
		}
		write()
	}
}

// ruled is what an answer to an acquire says of the rules that kept the lock from it.
type ruled struct {
	Freeze    *wire.Freeze `json:"freeze"`
	NextGrant *wire.Time   `json:"next_grant_at"`
	Limit     string       `json:"limit"`
}

// refuses reports whether an error with a code is a refusal by a rule of the campaign.
func (r ruled) refuses(code wire.Code) bool {
	return code == wire.Frozen || code == wire.LimitExceeded && r.rated()
}

// frozen is the end of the freeze, in Unix milliseconds; 0 for none.
func (r ruled) frozen() int64 {
	if r.Freeze == nil {
		return 0
	}
	return r.Freeze.Until.UnixMilli()
}

// rated reports whether a rate kept the lock.
func (r ruled) rated() bool { return r.NextGrant != nil || r.Limit == "rate" }

// readSetAnswer sets the result of the operation with an index, of a request about a set. A lease that is lost in one of its locks may be live in
// others, and is ended there by a release that is told so: such an answer says nothing of one lock.
func readSetAnswer(ops []history.Op, i, status int, body []byte) {
	var a struct {
		Code wire.Code `json:"code"`
		ruled
		Remaining int64   `json:"remaining_ms"`
		Tickets   []int64 `json:"tickets"`
		Locks     []struct {
			Lock  string `json:"lock"`
			Fence int64  `json:"fence"`
		} `json:"locks"`
	}
	if status == 0 || json.Unmarshal(body, &a) != nil {
		return
	}
	o := &ops[i]
	for _, l := range a.Locks {
		switch {
		case l.Lock != o.Lock || status != http.StatusOK:
		case o.Op == history.Release:
			o.Result, o.Fence = history.OK, l.Fence
		case len(a.Locks) == len(ops): // else it was cut off
			o.Result, o.Fence, o.Left = history.Granted, l.Fence, a.Remaining*int64(time.Millisecond)
		}
	}
	if a.Code == wire.LockHeld || a.Code == wire.QueueFull || a.Code == wire.CapacityMismatch || a.Code == wire.LockFull || a.refuses(a.Code) {
		o.Result, o.Frozen, o.Rated = history.Held, a.frozen(), a.rated()
		if len(a.Tickets) == len(ops) {
			o.Ticket = a.Tickets[i]
		}
	}
}

// readAnswer sets an operation's result.
func readAnswer(o *history.Op, status int, body []byte) {
	var a struct {
		Code wire.Code `json:"code"`
		ruled
		Queued    bool   `json:"queued"`
		Fence     int64  `json:"fence"`
		Ticket    int64  `json:"ticket"`
		Remaining int64  `json:"remaining_ms"`
		Lock      string `json:"lock"`
	}
	if status == 0 || json.Unmarshal(body, &a) != nil {
		return
	}
	switch {
	case status == http.StatusOK && a.Queued:
		o.Result, o.Ticket, o.Frozen, o.Rated = history.Held, a.Ticket, a.frozen(), a.rated()
	case status == http.StatusOK && a.Lock != o.Lock: // cut off
	case status == http.StatusOK && (o.Op == history.Acquire || o.Op == history.Renew):
		o.Result, o.Fence, o.Left = history.Granted, a.Fence, a.Remaining*int64(time.Millisecond)
	case status == http.StatusOK && (o.Op == history.Release || o.Op == history.Downgrade):
		o.Result, o.Fence = history.OK, a.Fence
	case status == http.StatusOK:
		o.Result = history.OK
	case a.Code == wire.LockHeld || a.refuses(a.Code):
		o.Result, o.Ticket, o.Frozen, o.Rated = history.Held, a.Ticket, a.frozen(), a.rated()
	case a.Code == wire.QueueFull || a.Code == wire.CapacityMismatch || a.Code == wire.LockFull:
		o.Result = history.Held
	case a.Code == wire.LeaseLost || a.Code == wire.LockChanged:
		o.Result = history.Lost
	}
}

// A recordingTransport records the requests of a lock client.
type recordingTransport struct {
	lockclient.Transport
	recorder *recorder
	client   string
}

func (t recordingTransport) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	answered := t.recorder.begin(t.client, wire.Op(r.Op), r.Lock, r.Body)
	resp, err := t.Transport.RoundTrip(ctx, r)
	body := resp.Body
	if resp.Answer != nil {
		body, _ = json.Marshal(resp.Answer) // a struct of package wire
	}
	if err != nil {
		resp.Status = 0
	}
	answered(resp.Status, body)
	return resp, err
}

// CloseIdleConnections passes on what [lockclient.Client.Close] asks for.
func (t recordingTransport) CloseIdleConnections() {
	if c, ok := t.Transport.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// A recordingHTTP is the same for a client over HTTP: it reads the whole answer and records it. It also names the client in each
// request, for the fault proxy.
type recordingHTTP struct {
	base     *http.Transport
	recorder *recorder // nil: it only names the client
	client   string
	header   string
}

func (t *recordingHTTP) CloseIdleConnections() { t.base.CloseIdleConnections() }

func (t *recordingHTTP) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(t.header, t.client)
	if t.recorder == nil {
		return t.base.RoundTrip(r)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	op, name := operationOf(r)
	answered := t.recorder.begin(t.client, op, name, body)
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		answered(0, nil)
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		answered(0, nil)
		return nil, err
	}
	answered(resp.StatusCode, answer)
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	return resp, nil
}

// operationOf is what a request of the HTTP API asks for.
func operationOf(r *http.Request) (op wire.Op, name string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/") // v1, locks, name, operation; or v1, sets, scope, operation
	switch {
	case len(parts) != 4:
		return wire.OpStatus, ""
	case parts[1] == "sets":
		return wire.Op(parts[3] + "-set"), parts[2]
	}
	return wire.Op(parts[3]), parts[2]
}
