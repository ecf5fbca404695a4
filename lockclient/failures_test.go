package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

const aSecret = "a-secret-of-a-lease-0123"

// operations are all that a client sends, with the sentinel of each.
func operations(t *testing.T, c *lockclient.Client) map[error]func() error {
	return map[error]func() error{
		lockclient.ErrAcquire:      func() error { _, err := c.Acquire(t.Context(), "a", lockclient.Options{}); return err },
		lockclient.ErrRenew:        func() error { _, err := c.Adopt(t.Context(), "a", aSecret, lockclient.Options{}); return err },
		lockclient.ErrRelease:      func() error { return c.Release(t.Context(), "a", aSecret) },
		lockclient.ErrForceRelease: func() error { _, err := c.ForceRelease(t.Context(), "a", "test", 0); return err },
		lockclient.ErrStatus:       func() error { _, err := c.Status(t.Context(), "a"); return err },
		lockclient.ErrList: func() (last error) {
			for _, err := range c.List(t.Context(), "a", false) {
				last = err
			}
			return last
		},
		lockclient.ErrWatch: func() (last error) {
			for _, err := range c.Watch(t.Context(), "a") {
				last = err
			}
			return last
		},
	}
}

const page = "<!DOCTYPE html><html><body>Welcome</body></html>"

// What no repetition can mend ends every operation at once, after one request, and the error says what to change. Of an
// answer that may repeat the request nothing is shown.
func TestLastingAnswersEndAtOnce(t *testing.T) {
	json := map[string]string{"Content-Type": "application/json"}
	for what, test := range map[string]struct {
		answer func() *http.Response
		says   string
	}{
		"404 of a web server":            {answer(404, nil, page), "no coordinator at this URL"},
		"404 of API Gateway":             {answer(404, json, `{"message":"Not Found"}`), "Not Found"},
		"200 of a web server":            {answer(200, nil, page), "no coordinator at this URL"},
		"200 of another API":             {answer(200, json, `{"status":"ok"}`), "no coordinator at this URL"},
		"200 of another API, a list":     {answer(200, json, `[]`), "no coordinator at this URL"},
		"204":                            {answer(204, nil, ""), "no coordinator at this URL"},
		"405":                            {answer(405, nil, page), "405 Method Not Allowed"},
		"501":                            {answer(501, nil, page), "501 Not Implemented"},
		"505":                            {answer(505, nil, page), "no coordinator at this URL"},
		"410 of another":                 {answer(410, nil, page), "no coordinator at this URL"},
		"304":                            {answer(304, nil, ""), "no coordinator at this URL"},
		"407":                            {answer(407, nil, page), "407"},
		"HTTP spoken to TLS":             {answer(400, nil, "Client sent an HTTP request to an HTTPS server.\n"), "https://"},
		"redirect":                       {answer(308, map[string]string{"Location": "https://login.test/?x=1"}, ""), "redirects to https://login.test"},
		"forbidden":                      {answer(403, json, `{"message":"Forbidden"}`), "execute-api:Invoke"},
		"denied":                         {answer(403, json, `{"Message":"User: arn:aws:iam::1:user/x is not authorized to perform: execute-api:Invoke on resource: y"}`), "is not authorized to perform"},
		"401 of a web server":            {answer(401, nil, page), "sign with credentials"},
		"credentials have expired":       {answer(403, json, `{"message":"The security token included in the request is expired"}`), "renew them"},
		"credentials are invalid":        {answer(403, json, `{"message":"The security token included in the request is invalid."}`), "AWS_ACCESS_KEY_ID"},
		"unsigned":                       {answer(403, json, `{"message":"Missing Authentication Token"}`), "sign the requests"},
		"clock is wrong":                 {answer(403, json, `{"message":"Signature expired: 20200101T000000Z is now earlier than 20200101T000500Z"}`), "clock right"},
		"secret key is wrong":            {answer(403, json, `{"message":"The request signature we calculated does not match the signature you provided."}`), "secret key"},
		"region is wrong":                {answer(403, json, `{"message":"Credential should be scoped to a valid region."}`), "Config.Region"},
		"store is misconfigured":         {answer(500, json, `{"code":"misconfigured","status":500,"detail":"table \"nosuch\" does not exist; create it with holdfast init"}`), "holdfast init"},
		"coordinator refuses":            {answer(400, json, `{"code":"invalid_request","status":400,"field":"owner","detail":"owner is too long"}`), "owner is too long"},
		"echo of the request, forbidden": {answer(403, nil, `{"lease":"`+aSecret+`"}`), "403"},
		"echo of the request":            {answer(500+1, nil, `{"lease":"`+aSecret+`"}`), "501"},
	} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			for sentinel, operate := range operations(t, c) {
				w.breakWith(func(string, int, *http.Request) (*http.Response, error) { return test.answer(), nil }, nil)
				start := time.Now()
				err := operate()
				wantIs(t, err, lockclient.ErrRefused, sentinel)
				if errors.Is(err, lockclient.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), test.says) || strings.Contains(fmt.Sprint(err), aSecret) {
					t.Errorf("%s: %v", what, err)
				}
				took := time.Since(start)
				synctest.Wait()
				w.mu.Lock()
				requests := len(w.seen)
				w.mu.Unlock()
				if requests > 1 && errors.Is(err, lockclient.ErrAcquire) {
					requests -= w.count("release") // of a grant that there may be
				}
				if requests != 1 || took != 0 {
					t.Errorf("%s: %v: %d requests, %v", what, sentinel, requests, took)
				}
			}
			w.breakWith(nil, nil)
			_ = c.Close(t.Context())
		})
	}
}

// What may pass is sent again, and is an ErrUnavailable in the end.
func TestPassingAnswersAreRetried(t *testing.T) {
	for _, status := range []int{408, 425, 429, 500, 502, 503, 504} {
		for _, body := range []string{page, `{"message":"Service Unavailable"}`, ""} {
			run(t, func(t *testing.T, w *world) {
				w.breakWith(func(string, int, *http.Request) (*http.Response, error) { return answer(status, nil, body)(), nil }, nil)
				c := w.client()
				_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
				wantIs(t, err, lockclient.ErrUnavailable, lockclient.ErrAcquire)
				if n := w.count("acquire"); n != 4 || errors.Is(err, lockclient.ErrRefused) || !strings.Contains(err.Error(), fmt.Sprint(status)) {
					t.Errorf("%d requests, %v", n, err)
				}
				_ = c.Close(t.Context())
			})
		}
	}
}

// An answer that was cut off may come whole the next time.
func TestAnswerCutOffIsRetried(t *testing.T) {
	for _, body := range []string{"", `{"lock":"a","lea`} {
		run(t, func(t *testing.T, w *world) {
			w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
				if n < 3 {
					return answer(200, nil, body)(), nil
				}
				return resp, nil
			})
			c := w.client()
			l := w.acquire(c, lockclient.Options{})
			if n := w.count("acquire"); n != 3 {
				t.Errorf("%d requests", n)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// An answer about another lock, another lease or another grant is not believed.
func TestAnswersOfOthersAreNotBelieved(t *testing.T) {
	for what, change := range map[string][2]string{
		"lock":  {`"lock":"a"`, `"lock":"b"`},
		"lease": {`"lease":"`, `"lease":"0`},
		"fence": {`"fence":9`, `"fence":8`},
	} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			l := w.acquire(c, lockclient.Options{TTL: 10 * time.Second, ManualRenew: true})
			expires := l.ExpiresAt()
			time.Sleep(time.Second)
			w.breakWith(nil, func(_ string, _ int, resp *http.Response) (*http.Response, error) {
				body, _ := io.ReadAll(resp.Body)
				resp.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), change[0], change[1], 1)))
				return resp, nil
			})
			wantIs(t, l.Renew(t.Context()), lockclient.ErrRefused, lockclient.ErrRenew)
			if !l.ExpiresAt().Equal(expires) || w.count("renew") != 1 {
				t.Errorf("%s: expires %v after %v, %d requests", what, l.ExpiresAt(), expires, w.count("renew"))
			}
			if what == "lock" {
				_, err := c.Status(t.Context(), "a")
				wantIs(t, err, lockclient.ErrRefused)
				wantIs(t, c.Release(t.Context(), "a", aSecret+"x"), lockclient.ErrRelease)
			}
			w.breakWith(nil, nil)
			_ = c.Close(t.Context())
		})
	}
}

// A host that does not exist, credentials that are missing: nothing is tried twice, over any transport that signs.
func TestUnreachableAsSetUp(t *testing.T) {
	nowhere := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "nosuch.test", IsNotFound: true}}
	}}}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	keys := credentials.NewStaticCredentialsProvider("a", "b", "")
	none := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("no profile prod")
	})
	lambdas := func(cfg aws.Config, endpoint string) lockclient.Config {
		cfg.Region = "eu-west-1"
		functions, err := invoke.New(invoke.Config{AWS: cfg, Endpoint: endpoint, Functions: invoke.Functions{Acquire: "acquire"}})
		if err != nil {
			t.Fatal(err)
		}
		return lockclient.Config{Transport: functions}
	}
	tables := func(client *http.Client, provider aws.CredentialsProvider, endpoint string) lockclient.Config {
		table, err := direct.New(t.Context(), direct.Config{Region: "eu-west-1", Credentials: provider, HTTPClient: client, Endpoint: endpoint, Table: "nosuch"})
		if err != nil {
			t.Fatal(err)
		}
		return lockclient.Config{Transport: table}
	}
	for what, test := range map[string]struct {
		cfg  lockclient.Config
		says string
	}{
		"direct, no host":          {tables(nowhere, keys, ""), "there is no host nosuch.test"},
		"direct, no authority":     {tables(nil, keys, server.URL), "authority"},
		"direct, provider fails":   {tables(nowhere, none, ""), "aws sso login"},
		"direct, no table":         {tables(nil, keys, dynamodbEndpoint(t)), "holdfast init"},
		"direct, not DynamoDB":     {tables(server.Client(), keys, server.URL), "not as DynamoDB does"},
		"http, no host":            {lockclient.Config{Endpoint: "http://nosuch.test", HTTPClient: nowhere}, "there is no host nosuch.test"},
		"http, unknown authority":  {lockclient.Config{Endpoint: server.URL}, "authority"},
		"http, no credentials":     {lockclient.Config{Endpoint: "http://nosuch.test", Region: "eu-west-1", Credentials: lockclient.EnvCredentials{}}, "AWS_ACCESS_KEY_ID"},
		"http, provider fails":     {lockclient.Config{Endpoint: "http://nosuch.test", Region: "eu-west-1", Credentials: none}, "no profile prod"},
		"invoke, no host":          {lambdas(aws.Config{Credentials: keys, HTTPClient: nowhere}, ""), "there is no host nosuch.test"},
		"invoke, no authority":     {lambdas(aws.Config{Credentials: keys}, server.URL), "authority"},
		"invoke, no credentials":   {lambdas(aws.Config{HTTPClient: nowhere}, ""), "no AWS credentials"},
		"invoke, provider fails":   {lambdas(aws.Config{Credentials: none, HTTPClient: nowhere}, ""), "no profile prod"},
		"invoke, not Lambda (404)": {lambdas(aws.Config{Credentials: keys, HTTPClient: server.Client()}, server.URL), "check Config.Functions"},
	} {
		t.Run(what, func(t *testing.T) {
			c, err := lockclient.New(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			var tried atomic.Int32
			_, err = c.Acquire(t.Context(), "a", lockclient.Options{OnUnavailable: func(error) { tried.Add(1) }})
			wantIs(t, err, lockclient.ErrRefused, lockclient.ErrAcquire)
			if !strings.Contains(err.Error(), test.says) || tried.Load() != 0 {
				t.Errorf("tried %d times again: %v", tried.Load(), err)
			}
			_ = c.Close(t.Context())
		})
	}
}

// What Lambda itself refuses for good is told with what to do, and not tried again; the rest is.
func TestInvokeFaults(t *testing.T) {
	refusals := map[string]string{
		"AccessDeniedException": "lambda:InvokeFunction", "ResourceNotFoundException": "check Config.Functions", "ExpiredTokenException": "renew them",
		"UnrecognizedClientException": "AWS_ACCESS_KEY_ID", "InvalidSignatureException": "clock", "KMSAccessDeniedException": "deploy the stack",
		"SomethingNewException": "check Config.Functions",
	}
	for code, says := range refusals {
		t.Run(code, func(t *testing.T) { invokeFault(t, 403, code, lockclient.ErrRefused, says, 1) })
	}
	t.Run("502 with a known code", func(t *testing.T) {
		invokeFault(t, 502, "KMSDisabledException", lockclient.ErrRefused, "deploy the stack", 1)
	})
	for code, status := range map[string]int{"ServiceException": 500, "TooManyRequestsException": 429, "ResourceConflictException": 409, "EC2ThrottledException": 502} {
		t.Run(code, func(t *testing.T) { invokeFault(t, status, code, lockclient.ErrUnavailable, "", 3) })
	}
	t.Run("function does not start", func(t *testing.T) {
		c, r := lambdaWith(t, answer(200, map[string]string{"X-Amz-Function-Error": "Unhandled"}, `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"fork/exec"}`))
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrRefused)
		if r.harm.sent != 1 {
			t.Errorf("%d requests", r.harm.sent)
		}
		r.harm.next(0, nil)
		_ = c.Close(t.Context())
	})
}

func lambdaWith(t *testing.T, respond func() *http.Response) (*lockclient.Client, reached) {
	r := overLambda(t)
	cfg := r.transport
	cfg.RetryDelay, cfg.Retries = time.Millisecond, 2
	c, err := lockclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.harm.next(100, func(*http.Request, func() (*http.Response, error)) (*http.Response, error) { return respond(), nil })
	return c, r
}

func invokeFault(t *testing.T, status int, code string, want error, says string, requests int) {
	c, r := lambdaWith(t, answer(status, map[string]string{"X-Amzn-ErrorType": code}, `{"Message":"no"}`))
	_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
	wantIs(t, err, want)
	r.harm.mu.Lock()
	sent := r.harm.sent
	r.harm.mu.Unlock()
	if sent < requests || requests == 1 && sent != 1 || !strings.Contains(err.Error(), says) {
		t.Errorf("%d requests, %v", sent, err)
	}
	r.harm.next(0, nil)
	_ = c.Close(t.Context())
}

// TryAcquire against a coordinator that hangs ends within its tries, joins no queue, and leaves no grant behind.
func TestTryAcquireIsBounded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		var told []error
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if hasField(r, "wait_ms") {
				t.Error("asked for a place in the queue")
			}
			return nil, nil
		}, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" { // carried out, and not answered
				time.Sleep(time.Minute)
			}
			return resp, nil
		})
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{Wait: time.Hour, OnUnavailable: func(err error) { told = append(told, err) }})
		wantIs(t, err, lockclient.ErrUnavailable, lockclient.ErrAcquire)
		if n := w.count("acquire"); n != 4 || len(told) != 3 {
			t.Errorf("%d requests, told %d times", n, len(told))
		}
		for _, err := range told {
			wantIs(t, err, lockclient.ErrUnavailable)
		}
		time.Sleep(time.Second) // the release in the background
		synctest.Wait()
		if w.locked() || w.count("release") != 1 {
			t.Errorf("locked %v, %d releases", w.locked(), w.count("release"))
		}
		_ = c.Close(t.Context())
	})
}

// hangs is a network where requests get no answer until their context ends.
func hangs(_ string, _ int, r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTryAcquireAgainstSilence(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(hangs, nil)
		start := time.Now()
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrUnavailable)
		if took := time.Since(start); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("took %v", took)
		}
		_ = c.Close(t.Context())
	})
}

// An outage while acquiring is told each time, and the lock is taken when it is over.
func TestOutageWhileAcquiring(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(cutAll, nil)
		time.AfterFunc(time.Minute, func() { w.breakWith(nil, nil) })
		told := 0
		l := w.acquire(c, lockclient.Options{OnUnavailable: func(err error) {
			told++
			wantIs(t, err, lockclient.ErrUnavailable)
			if !strings.Contains(err.Error(), errCut.Error()) {
				t.Errorf("%v", err)
			}
		}})
		if told < 60 || told > 150 {
			t.Errorf("told %d times in a minute", told)
		}
		_ = l.Release(t.Context())
	})
}

// A wait that ends while nobody answers says both; one that the caller ends is the caller's; and if others were seen to hold
// the lock, that is what counts.
func TestWaitAgainstSilence(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(hangs, nil)
		start := time.Now()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: 200 * time.Millisecond})
		wantIs(t, err, lockclient.ErrUnavailable, context.DeadlineExceeded, lockclient.ErrAcquire)
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		for sentinel, operate := range map[error]func() error{
			lockclient.ErrStatus:  func() error { _, err := c.Status(ctx, "a"); return err },
			lockclient.ErrRelease: func() error { return c.Release(ctx, "a", aSecret) },
		} {
			wantIs(t, operate(), lockclient.ErrUnavailable, context.DeadlineExceeded, sentinel)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = c.Acquire(ctx, "a", lockclient.Options{})
		wantIs(t, err, context.Canceled)
		if errors.Is(err, lockclient.ErrUnavailable) {
			t.Errorf("given up: %v", err)
		}
		w.breakWith(nil, nil)
		time.Sleep(10 * time.Second)
		l := w.acquire(w.client(), lockclient.Options{})
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if op == "acquire" && n > 1 {
				return hangs(op, n, r)
			}
			return nil, nil
		}, nil)
		_, err = c.Acquire(t.Context(), "a", lockclient.Options{Wait: 3 * time.Second}) // it ends in the middle of a try
		wantIs(t, err, lockclient.ErrHeld)
		w.breakWith(nil, nil)
		_ = l.Release(t.Context())
		_ = c.Close(t.Context())
	})
}

// A lock in use with another capacity, or whose record is full, is waited for, and not where waiting is not wanted.
func TestWaitForAnotherCapacity(t *testing.T) {
	for _, code := range []string{"capacity_mismatch", "lock_full"} {
		run(t, func(t *testing.T, w *world) {
			refusal := func(op string, _ int, r *http.Request) (*http.Response, error) {
				if op == "acquire" {
					return answer(409, nil, `{"code":"`+code+`","status":409,"detail":"the lock is in use with capacity 3"}`)(), nil
				}
				return nil, nil
			}
			c := w.client()
			w.breakWith(refusal, nil)
			_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{Capacity: 5})
			wantIs(t, err, lockclient.ErrRefused)
			if w.count("acquire") != 1 {
				t.Errorf("%d requests", w.count("acquire"))
			}
			start := time.Now()
			_, err = c.Acquire(t.Context(), "a", lockclient.Options{Capacity: 5, Wait: 10 * time.Second})
			wantIs(t, err, lockclient.ErrRefused)
			refused, ok := errors.AsType[*lockclient.RefusedError](err)
			if took := time.Since(start); took != 10*time.Second || !ok || refused.Code != code {
				t.Errorf("%v after %v", err, took)
			}
			time.AfterFunc(time.Minute, func() { w.breakWith(nil, nil) })
			l := w.acquire(c, lockclient.Options{Capacity: 5})
			if n := w.count("acquire"); n > 3 {
				t.Errorf("%d requests after the lock came free", n)
			}
			_ = l.Release(t.Context())
		})
	}
}

// The sender of a redirected request is told where to; no transport sends it there.
func init() {
	transportSuite["a redirect is refused"] = func(t *testing.T, c *lockclient.Client, r reached) {
		redirect := answer(307, map[string]string{"Location": "http://127.0.0.1:1/elsewhere?x=y"}, "")
		r.harm.next(1000, func(*http.Request, func() (*http.Response, error)) (*http.Response, error) { return redirect(), nil })
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: time.Minute})
		wantIs(t, err, lockclient.ErrRefused)
		r.harm.mu.Lock()
		defer r.harm.mu.Unlock()
		if !strings.Contains(err.Error(), "127.0.0.1:1") || r.harm.sent > 3 { // the SDK's retries of DynamoDB
			t.Errorf("%d requests, %v", r.harm.sent, err)
		}
		r.harm.times = 0
	}
}

func hasField(r *http.Request, field string) bool {
	body, err := r.GetBody()
	if err != nil {
		return false
	}
	data, _ := io.ReadAll(body)
	return strings.Contains(string(data), field)
}
