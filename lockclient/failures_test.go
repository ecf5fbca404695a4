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

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

const aSecret = "a-secret-of-a-lease-0123"

// operations returns all operations of a client by the sentinel of their errors.
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

// A failure that no retry corrects ends every operation after one request, and the error says what to change. It repeats nothing of
// an answer that may contain the request.
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
					requests -= w.count("release") // of a possible grant
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

// A failure that may pass is retried, and is an ErrUnavailable in the end.
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

// An answer that was cut off is retried.
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

// An answer about another lock, another lease or another grant is not accepted.
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

// A host that does not exist and missing credentials are not retried, over any transport that has them.
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
		"direct, no table":         {tables(nil, keys, awstest.Endpoint(t)), "holdfast init"},
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

// The error of a redirect names its target. No transport follows it.
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

// A host that does not exist is not retried for the whole wait.
func TestNoSuchHost(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "holdfast.test", IsNotFound: true}
		}, nil)
		c := w.client()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrRefused)
		if !strings.Contains(err.Error(), "no host holdfast.test") {
			t.Errorf("error %v", err)
		}
		_ = c.Close(t.Context())
	})
}
