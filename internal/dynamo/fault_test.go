package dynamo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

func apiError(status int, code, message string) *http.Response {
	body := fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":%q}`, code, message)
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

type setup struct {
	*lock.Coordinator
	wire  *wire
	store *dynamo.Store
	t     *testing.T
}

func newSetup(t *testing.T, change ...func(*dynamo.Config)) *setup {
	w := &wire{}
	s := newStore(t, append(change, func(c *dynamo.Config) { c.AWS.HTTPClient = w })...)
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PrefixRules(t.Context()); err != nil { // so that no request reads them
		t.Fatal(err)
	}
	w.reset()
	return &setup{c, w, s, t}
}

func (s *setup) acquire(ctx context.Context, lease string) (lock.LeaseStatus, error) {
	return s.Acquire(ctx, lock.AcquireRequest{Lock: "f", Secret: lease, TTL: time.Minute, Capacity: 1, Permits: 1})
}

// A write whose reply was lost is sent again: its guard fails and the request is found carried out, or a renewal is applied again. One grant,
// one request more.
func TestLostReplyOfEveryOperation(t *testing.T) {
	lose := func(w *wire) {
		w.reset()
		w.after = func(n int, resp *http.Response) (*http.Response, error) {
			if n == 1 {
				_ = resp.Body.Close()
				return nil, &lostReply{}
			}
			return resp, nil
		}
	}
	s := newSetup(t)
	lose(s.wire)
	first, err := s.acquire(t.Context(), "a")
	if err != nil || s.wire.count() != 2 {
		t.Fatalf("acquire %+v, %v after %d requests", first, err, s.wire.count())
	}
	lose(s.wire)
	renewed, err := s.Renew(t.Context(), lock.RenewRequest{Lock: "f", Secret: "a", TTL: time.Hour})
	if err != nil || renewed.Lease.Fence != first.Lease.Fence || s.wire.count() != 2 {
		t.Fatalf("renew %+v, %v after %d requests", renewed, err, s.wire.count())
	}
	lose(s.wire)
	released, err := s.Release(t.Context(), lock.ReleaseRequest{Lock: "f", Secret: "a"})
	if err != nil || released.Fence != first.Lease.Fence || s.wire.count() != 2 {
		t.Fatalf("release %+v, %v after %d requests", released, err, s.wire.count())
	}
	s.wire.reset()
	second, err := s.acquire(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	s.wire.after = func(n int, resp *http.Response) (*http.Response, error) {
		if n == 3 { // the acquire was 1, the look is 2
			_ = resp.Body.Close()
			return nil, &lostReply{}
		}
		return resp, nil
	}
	ended, err := s.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "f", Reason: "x"})
	if err != nil || len(ended) != 1 || ended[0].Fence != second.Lease.Fence {
		t.Fatalf("force-release %+v, %v", ended, err)
	}
}

type lostReply struct{}

func (*lostReply) Error() string   { return "connection reset by peer" }
func (*lostReply) Timeout() bool   { return true }
func (*lostReply) Temporary() bool { return true }

// A call returns when its context ends, not when the store replies.
func TestContextEndsMidCall(t *testing.T) {
	s := newSetup(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.wire.harm = func(_ int, req *http.Request) (*http.Response, error, bool) {
		cancel()
		<-req.Context().Done()
		return nil, req.Context().Err(), true
	}
	if _, err := s.acquire(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := s.wire.count(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// dated sets the Date of every response to be off.
func dated(offset time.Duration) func(int, *http.Response) (*http.Response, error) {
	return func(_ int, resp *http.Response) (*http.Response, error) {
		resp.Header.Set("Date", time.Now().Add(-offset).UTC().Format(http.TimeFormat))
		return resp, nil
	}
}

// The clock guard: a coordinator whose clock is provably wrong grants nothing, undoes what it wrote, and reads before it writes again.
func TestClockGuard(t *testing.T) {
	for _, offset := range []time.Duration{10 * time.Second, -10 * time.Second} {
		t.Run(offset.String(), func(t *testing.T) {
			s := newSetup(t)
			s.wire.after = dated(offset)
			_, err := s.acquire(t.Context(), "a")
			clock, ok := errors.AsType[*lock.ClockError](err)
			if !ok || !errors.Is(err, lock.ErrUnavailable) || (clock.Offset > 0) != (offset > 0) {
				t.Fatalf("error %v", err)
			}
			if r, _ := s.store.Get(t.Context(), "f"); len(r.After.Holders) != 0 || r.After.Rev != 2 {
				t.Errorf("the grant is still there: %+v", r.After)
			}
			n := s.wire.count()
			if _, err = s.acquire(t.Context(), "b"); !errors.Is(err, lock.ErrUnavailable) {
				t.Errorf("again: %v", err)
			}
			if got := s.wire.requests[n:]; len(got) != 1 || !strings.Contains(got[0], "GetItem") {
				t.Errorf("a clock known to be wrong sent %v", got)
			}
			s.wire.reset()
			if _, err = s.acquire(t.Context(), "c"); err != nil {
				t.Errorf("after the clock was set right: %v", err)
			}
			s.wire.after = dated(offset)
			if _, err = s.Renew(t.Context(), lock.RenewRequest{Lock: "f", Secret: "c", TTL: time.Hour}); !errors.Is(err, lock.ErrUnavailable) {
				t.Errorf("renew: %v", err)
			}
		})
	}
}

// A clock that is off by up to a second is not refused: a Date, cut to seconds, cannot prove the error.
func TestClockGuardAllowsWhatItCannotProve(t *testing.T) {
	for _, offset := range []time.Duration{lock.MaxClockError, -lock.MaxClockError} {
		s := newSetup(t)
		s.wire.after = dated(offset)
		if _, err := s.acquire(t.Context(), "a"); err != nil {
			t.Error(offset, err)
		}
	}
}

// A request that is refused because of the clock is not signed again and sent: a process with a wrong clock must not write.
func TestWrongClockIsNotCorrectedAndSent(t *testing.T) {
	s := newSetup(t)
	s.wire.harm = func(int, *http.Request) (*http.Response, error, bool) {
		resp := apiError(400, "InvalidSignatureException", "Signature expired")
		resp.Header.Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		return resp, nil, true
	}
	if _, err := s.acquire(t.Context(), "a"); !errors.Is(err, lock.ErrUnavailable) || !strings.Contains(err.Error(), "clock is off") {
		t.Errorf("error %v", err)
	}
	if n := s.wire.count(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A coordinator whose clock is far ahead takes every lease for expired. It ends no live lease: not by an acquire, nor by one whose first
// reply is lost, nor by a timer. Its request, repeated at a coordinator with a right clock, does not get the lock.
func TestClockAheadDisplacesNobody(t *testing.T) {
	s := newSetup(t)
	a, err := s.acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ahead := 2 * time.Minute
	wrong, err := lock.New(lock.Config{Store: s.store, Clock: func() time.Time { return time.Now().Add(ahead) }})
	if err != nil {
		t.Fatal(err)
	}
	date := dated(ahead)
	for what, try := range map[string]func() error{
		"acquire": func() error {
			_, err := wrong.Acquire(t.Context(), lock.AcquireRequest{Lock: "f", Secret: "b", TTL: time.Minute, Capacity: 1, Permits: 1})
			return err
		},
		"release by a semaphore's holder that would tidy up": func() error {
			_, err := wrong.Release(t.Context(), lock.ReleaseRequest{Lock: "f", Secret: "nobody"})
			return err
		},
		"timer": func() error {
			_, err := wrong.Expire(t.Context(), lock.GrantRef{Lock: "f", Key: lock.KeyOf("f", "a"), Fence: a.Lease.Fence})
			return err
		},
	} {
		for _, lost := range []bool{false, true} {
			s.wire.reset()
			s.wire.after = func(n int, resp *http.Response) (*http.Response, error) {
				if lost && n == 1 {
					_ = resp.Body.Close()
					return nil, &lostReply{}
				}
				return date(n, resp)
			}
			if err := try(); !errors.Is(err, lock.ErrUnavailable) {
				t.Errorf("%s, first reply lost: %v: error %v", what, lost, err)
			}
			s.wire.reset()
			if _, err := s.acquire(t.Context(), "b"); !errors.Is(err, lock.ErrLockHeld) {
				t.Errorf("%s, first reply lost: %v: the request repeated at a right coordinator: %v", what, lost, err)
			}
			again, err := s.acquire(t.Context(), "a")
			if err != nil || again.Lease != a.Lease {
				t.Errorf("%s, first reply lost: %v: the live holder has %+v, %v", what, lost, again, err)
			}
		}
	}
}

// An engine that takes requests and never answers costs one attempt's time-out, not the whole call: also with the HTTP
// client that the SDK's own configuration brings.
func TestSilentEngine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	var taken atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	t.Setenv("AWS_MAX_ATTEMPTS", "8") // is not for us
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-west-1"),
		config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("a", "b", "")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := dynamo.New(dynamo.Config{AWS: cfg, Table: "locks", Endpoint: "http://" + listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if n := taken.Load(); n != dynamo.MaxAttempts {
		t.Errorf("%d attempts, want %d", n, dynamo.MaxAttempts)
	}
}

func TestCorruptItem(t *testing.T) {
	s := newSetup(t)
	s.wire.after = func(_ int, resp *http.Response) (*http.Response, error) {
		resp.Body = io.NopCloser(bytes.NewReader([]byte(`{"Item":{"pk":{"S":"f"},"rev":{"S":"x"}}}`)))
		resp.ContentLength = -1
		return resp, nil
	}
	if _, err := s.Status(t.Context(), "f"); !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), "not a lock's") {
		t.Errorf("error %v", err)
	}
}

// One write of a coordinator whose clock is a year ahead closes no lock: it is undone, with its fencing token. If its reply was lost, the
// next request says what to do, and a repair opens the lock.
func TestClockFarAheadClosesNoLock(t *testing.T) {
	for _, lost := range []bool{false, true} {
		s := newSetup(t)
		const ahead = 365 * 24 * time.Hour
		wrong, err := lock.New(lock.Config{Store: s.store, Clock: func() time.Time { return time.Now().Add(ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := wrong.PrefixRules(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, err := s.acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Release(t.Context(), lock.ReleaseRequest{Lock: "f", Secret: "a"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.wire.after = func(n int, resp *http.Response) (*http.Response, error) {
			if lost {
				cancel() // the coordinator is killed
				_ = resp.Body.Close()
				return nil, &lostReply{}
			}
			return dated(ahead)(n, resp)
		}
		if _, err := wrong.Acquire(ctx, lock.AcquireRequest{Lock: "f", Secret: "b", TTL: time.Minute, Capacity: 1, Permits: 1}); err == nil {
			t.Fatal("granted")
		}
		s.wire.reset()
		later := func(by time.Duration) *lock.Coordinator {
			c, err := lock.New(lock.Config{Store: s.store, Clock: func() time.Time { return time.Now().Add(by) }})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		right := later(0)
		if lost {
			if _, err := right.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "f", Reason: "wrong clock"}); err != nil {
				t.Fatal(err)
			}
			_, err := right.Acquire(t.Context(), lock.AcquireRequest{Lock: "f", Secret: "c", TTL: time.Minute, Capacity: 1, Permits: 1})
			if !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), "holdfast repair") {
				t.Errorf("before a repair: %v", err)
			}
			if _, err := right.Repair(t.Context(), lock.RepairRequest{Lock: "f", Reason: "wrong clock"}); err != nil {
				t.Fatal(err)
			}
			right = later(2*lock.MaxClockOffset + time.Second)
		}
		got, err := right.Acquire(t.Context(), lock.AcquireRequest{Lock: "f", Secret: "c", TTL: time.Minute, Capacity: 1, Permits: 1})
		if err != nil || got.Lease.Fence <= first.Lease.Fence || time.UnixMicro(got.Lease.Fence).After(time.Now().Add(2*lock.MaxFenceLead)) {
			t.Errorf("reply lost: %v: %+v, %v", lost, got, err)
		}
	}
}
