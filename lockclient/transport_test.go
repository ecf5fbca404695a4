package lockclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// harm is an http.RoundTripper that damages the next requests when told to.
type harm struct {
	base  http.RoundTripper
	mu    sync.Mutex
	spoil func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error)
	times int // the number of requests to damage
	sent  int
}

func (h *harm) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.sent++
	spoil := h.spoil
	if h.times--; h.times < 0 {
		spoil = nil
	}
	h.mu.Unlock()
	if spoil == nil {
		return h.base.RoundTrip(r)
	}
	return spoil(r, func() (*http.Response, error) {
		return h.base.RoundTrip(r.Clone(context.WithoutCancel(r.Context())))
	})
}

func (h *harm) next(times int, spoil func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.times, h.spoil, h.sent = times, spoil, 0
}

// A reached is a transport to a coordinator whose network is a harm.
type reached struct {
	transport lockclient.Config // with Endpoint or Transport
	harm      *harm
	throttle  func() *http.Response // the answer to a throttled request
	fail      func() *http.Response // the answer of a broken gateway
}

func answer(status int, headers map[string]string, body string) func() *http.Response {
	return func() *http.Response {
		h := http.Header{"Content-Type": {"application/json"}}
		for k, v := range headers {
			h.Set(k, v)
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
	}
}

func newAPI(t *testing.T) *api.API {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newHarm(t *testing.T) *harm {
	base := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	return &harm{base: base}
}

func overHTTP(t *testing.T) reached {
	server := httptest.NewServer(local.NewGateway(newAPI(t), slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	h := newHarm(t)
	return reached{
		lockclient.Config{Endpoint: server.URL, HTTPClient: &http.Client{Transport: h}}, h,
		answer(429, nil, `{"message":"Too Many Requests"}`), answer(502, nil, `{"message":"Internal Server Error"}`),
	}
}

// fakeLambda is a fake of the Lambda service that invokes the API's handlers.
func fakeLambda(t *testing.T) http.Handler {
	a := newAPI(t)
	functions := map[string]lambda.Handler{}
	for _, op := range wire.Ops() {
		functions[strings.ReplaceAll(string(op.Function()), "-", "")] = a.Handler(op)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/2015-03-31/functions/"), "/invocations")
		payload, _ := io.ReadAll(r.Body)
		out, err := functions[name].Invoke(r.Context(), payload)
		if failed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			out, _ = json.Marshal(failed)
		}
		_, _ = w.Write(out)
	})
}

func overLambda(t *testing.T) reached {
	server := httptest.NewServer(fakeLambda(t))
	t.Cleanup(server.Close)
	h := newHarm(t)
	transport, err := invoke.New(invoke.Config{
		AWS:       aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: &http.Client{Transport: h}},
		Functions: invoke.Functions{Acquire: "acquire", Renew: "renew", Release: "release", ForceRelease: "forcerelease", Status: "status"},
		Endpoint:  server.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	return reached{
		lockclient.Config{Transport: transport}, h,
		answer(429, map[string]string{"X-Amzn-ErrorType": "TooManyRequestsException"}, `{"Message":"Rate Exceeded."}`),
		answer(200, map[string]string{"X-Amz-Function-Error": "Unhandled"}, `{"errorType":"Sandbox.Timedout","errorMessage":"Task timed out after 10.00 seconds"}`),
	}
}

func overDynamoDB(t *testing.T) reached {
	h := newHarm(t)
	table, err := direct.New(t.Context(), direct.Config{
		Table: awstest.TableName(t, "direct"), Region: "us-east-1", Endpoint: awstest.Endpoint(t),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: &http.Client{Transport: h},
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // repeating it changes nothing
		if err := table.CreateTable(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return reached{
		lockclient.Config{Transport: table}, h,
		answer(400, nil, `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"slow down"}`),
		answer(500, nil, `{"__type":"com.amazonaws.dynamodb.v20120810#InternalServerError","message":"broken"}`),
	}
}

// Every transport passes the same suite.
func TestTransports(t *testing.T) {
	for name, reach := range map[string]func(*testing.T) reached{"http": overHTTP, "invoke": overLambda, "direct": overDynamoDB} {
		t.Run(name, func(t *testing.T) {
			suite := maps.Clone(transportSuite)
			for what := range spoilers(reached{}) {
				suite["fault: "+what] = faultTest(what)
			}
			for what, test := range suite {
				t.Run(what, func(t *testing.T) {
					t.Parallel()
					r := reach(t)
					cfg := r.transport
					cfg.Owner, cfg.RequestTimeout, cfg.RetryDelay = "tester", 700*time.Millisecond, 50*time.Millisecond
					c, err := lockclient.New(cfg)
					if err != nil {
						t.Fatal(err)
					}
					test(t, c, r)
					if err := c.Close(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

var errReset = errors.New("connection reset by peer")

// spoilers returns the faults of a network by name.
func spoilers(r reached) map[string]func(req *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
	discard := func(resp *http.Response, err error) {
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}
	return map[string]func(req *http.Request, send func() (*http.Response, error)) (*http.Response, error){
		"request lost": func(*http.Request, func() (*http.Response, error)) (*http.Response, error) { return nil, errReset },
		"reply lost": func(_ *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			discard(send())
			return nil, errReset
		},
		"failure after commit": func(_ *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			discard(send())
			return r.fail(), nil
		},
		"throttled": func(*http.Request, func() (*http.Response, error)) (*http.Response, error) { return r.throttle(), nil },
		"time-out after commit": func(req *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			discard(send())
			<-req.Context().Done()
			return nil, req.Context().Err()
		},
		"answer cut short": func(_ *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			resp, err := send()
			if err != nil {
				return nil, err
			}
			data, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(data[:len(data)/2]), failing{}))
			return resp, nil
		},
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

var transportSuite = map[string]func(t *testing.T, c *lockclient.Client, r reached){
	"a lock's life": func(t *testing.T, c *lockclient.Client, _ reached) {
		l, err := c.Acquire(t.Context(), "deploy:a", lockclient.Options{Metadata: map[string]any{"build": 7}, TTL: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = c.TryAcquire(t.Context(), "deploy:a", lockclient.Options{})
		held, ok := errors.AsType[*lockclient.HeldError](err)
		if !ok || len(held.Holders) != 1 || held.Holders[0].Owner != "tester" || held.Holders[0].Fence != l.Fence() || held.RetryAfter <= 0 {
			t.Fatalf("error %+v", err)
		}
		s, err := c.Status(t.Context(), "deploy:a")
		if err != nil || !s.Locked || s.Holders[0].Fence != l.Fence() || string(s.Holders[0].Metadata) != `{"build":7}` || s.Holders[0].RenewedAt.Before(s.Holders[0].AcquiredAt) {
			t.Fatalf("status %+v, %v", s, err)
		}
		var listed []string
		for s, err := range c.List(t.Context(), "deploy:", false) {
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, s.Lock)
		}
		if fmt.Sprint(listed) != "[deploy:a]" {
			t.Errorf("listed %v", listed)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Release(t.Context(), "deploy:a", l.Secret()); err != nil {
			t.Errorf("a repeated release: %v", err)
		}
		wantIs(t, c.Release(t.Context(), "deploy:a", "another-secret-0123"), lockclient.ErrLost, lockclient.ErrRelease)
	},
	"an operator forces": func(t *testing.T, c *lockclient.Client, _ reached) {
		l, err := c.Acquire(t.Context(), "deploy:a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.ForceRelease(t.Context(), "deploy:a", "it hangs", l.Fence()+1)
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Code != "lock_changed" {
			t.Errorf("another fence: %v", err)
		}
		ended, err := c.ForceRelease(t.Context(), "deploy:a", "it hangs", l.Fence())
		if err != nil || len(ended) != 1 || ended[0].Fence != l.Fence() {
			t.Errorf("ended %+v, %v", ended, err)
		}
		wantIs(t, l.Renew(t.Context()), lockclient.ErrLost, lockclient.ErrRenew)
		wantIs(t, l.Err(), lockclient.ErrLost)
		_, err = c.Adopt(t.Context(), "deploy:a", l.Secret(), lockclient.Options{})
		wantIs(t, err, lockclient.ErrLost, lockclient.ErrRenew)
	},
	"a lease is handed over": func(t *testing.T, c *lockclient.Client, _ reached) {
		first, err := c.Acquire(t.Context(), "deploy:a", lockclient.Options{TTL: 7 * time.Second, ManualRenew: true})
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.Adopt(t.Context(), "deploy:a", first.Secret(), lockclient.Options{})
		if err != nil || second.Fence() != first.Fence() || time.Until(second.ExpiresAt()) > 7*time.Second || second.Err() != nil {
			t.Fatalf("%v, %v", second, err)
		}
		if err := second.Release(t.Context()); err != nil {
			t.Error(err)
		}
		wantIs(t, first.Renew(t.Context()), lockclient.ErrLost)
	},
	"bad input names its field": func(t *testing.T, c *lockclient.Client, _ reached) {
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{TTL: 10 * time.Millisecond})
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Field != "ttl_ms" || refused.Status != 400 {
			t.Errorf("%v", err)
		}
	},
	"a caller who gives up leaves nothing": func(t *testing.T, c *lockclient.Client, r reached) {
		r.harm.next(1000, spoilers(r)["reply lost"])
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrUnavailable, lockclient.ErrAcquire)
		r.harm.next(0, nil)
		l, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: 10 * time.Second}) // the release in the background
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	},
	"a context that ends ends the request": func(t *testing.T, c *lockclient.Client, r reached) {
		ctx, cancel := context.WithCancel(t.Context())
		r.harm.next(1, func(req *http.Request, _ func() (*http.Response, error)) (*http.Response, error) {
			cancel()
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		_, err := c.Acquire(ctx, "a", lockclient.Options{})
		wantIs(t, err, context.Canceled, lockclient.ErrAcquire)
	},
}

// faultTest returns a test that a fault, twice in a row on each operation, has no effect for the caller.
func faultTest(what string) func(t *testing.T, c *lockclient.Client, r reached) {
	return func(t *testing.T, c *lockclient.Client, r reached) {
		spoil := spoilers(r)[what]
		r.harm.next(2, spoil)
		l, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		if err != nil {
			t.Fatalf("acquire: %v", err)
		}
		r.harm.next(2, spoil)
		if err := l.Renew(t.Context()); err != nil {
			t.Errorf("renew: %v", err)
		}
		s, err := c.Status(t.Context(), "a")
		if err != nil || len(s.Holders) != 1 || s.Holders[0].Fence != l.Fence() {
			t.Errorf("the client holds fence %d, the lock says %+v, %v", l.Fence(), s, err)
		}
		r.harm.next(2, spoil)
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("release: %v", err)
		}
		if s, err := c.Status(t.Context(), "a"); err != nil || s.Locked {
			t.Errorf("after its release %+v, %v", s, err)
		}
	}
}

func TestTransportConfigsAreChecked(t *testing.T) {
	if _, err := invoke.New(invoke.Config{}); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("%v", err)
	}
	if _, err := invoke.New(invoke.Config{AWS: aws.Config{Region: "r"}}); err == nil || !strings.Contains(err.Error(), "Config.Functions") {
		t.Errorf("%v", err)
	}
	for _, cfg := range []direct.Config{{Table: "qp", Region: "r"}, {Table: "my table", Region: "r"}, {Table: strings.Repeat("t", 256), Region: "r"}, {Endpoint: "x", Region: "r"}, {PoolSize: -1, Region: "r"}, {PoolSize: 1, HTTPClient: http.DefaultClient, Region: "r"}} {
		if _, err := direct.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "direct: Config.") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	for _, table := range []string{"", "tab", strings.Repeat("t", 255), "arn:aws:dynamodb:eu-west-1:123456789012:table/locks"} {
		if _, err := direct.New(t.Context(), direct.Config{Table: table, Region: "eu-west-1"}); err != nil {
			t.Errorf("%q: %v", table, err)
		}
	}
	if _, err := lockclient.New(lockclient.Config{Endpoint: "http://x", Transport: &direct.Table{}}); err == nil || !strings.Contains(err.Error(), "one or the other") {
		t.Errorf("%v", err)
	}
}

type inProcess struct{ answer any }

func (p inProcess) RoundTrip(context.Context, lockclient.Request) (lockclient.Response, error) {
	return lockclient.Response{Status: 200, Answer: p.answer}, nil
}

// An answer that was not encoded is taken as it is. One of another operation is refused, and a problem is the error that it would be
// as JSON, whatever the status beside it.
func TestAnswerInProcess(t *testing.T) {
	for what, test := range map[string]struct {
		answer any
		want   error
		says   string
	}{
		"the operation's":  {wire.Released{Lock: "a", Fence: 1}, nil, ""},
		"another lock's":   {wire.Released{Lock: "b", Fence: 1}, lockclient.ErrRefused, "not about this lock"},
		"another":          {wire.Lease{Lock: "a"}, lockclient.ErrRefused, "Response.Answer is wire.Lease"},
		"a pointer to one": {&wire.Released{Lock: "a"}, lockclient.ErrRefused, "Response.Answer is *wire.Released"},
		"a lost lease":     {wire.NewProblem(wire.LeaseLost, "r"), lockclient.ErrLost, ""},
		"an outage":        {wire.NewProblem(wire.StoreUnavailable, "r"), lockclient.ErrUnavailable, "request r"},
	} {
		c, err := lockclient.New(lockclient.Config{Transport: inProcess{test.answer}, Retries: -1})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Release(t.Context(), "a", "a-secret-of-a-lease")
		if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", what, err)
		}
		_ = c.Close(t.Context())
	}
}
