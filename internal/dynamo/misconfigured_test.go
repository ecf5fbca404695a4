package dynamo_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// offline returns a store whose requests answer responds to, without an engine.
func offline(t *testing.T, answer awstest.Doer, change ...func(*dynamo.Config)) *dynamo.Store {
	t.Helper()
	cfg := dynamo.Config{AWS: awsConfig(), Table: "locks"}
	cfg.AWS.HTTPClient = answer
	for _, c := range change {
		c(&cfg)
	}
	s, err := dynamo.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// calls are the calls of a store, by the action that each sends first.
func calls(s *dynamo.Store) map[string]func(context.Context) error {
	waits := lock.Record{Rev: 1, Waiting: 1, Queue: []lock.Waiter{{Ticket: 1, Key: "l"}}}
	return map[string]func(context.Context) error{
		"GetItem": func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"UpdateItem": func(ctx context.Context) error {
			_, err := s.Apply(ctx, "a", lock.Command{Effect: lock.End{}})
			return err
		},
		"TransactWriteItems": func(ctx context.Context) error {
			_, err := s.Apply(ctx, "a", lock.Command{Effect: lock.Become{From: waits, To: lock.Record{}}})
			return err
		},
		"Query":  func(ctx context.Context) error { _, err := s.Waiters(ctx, "a", 10); return err },
		"Query ": func(ctx context.Context) error { _, err := s.Bound(ctx, "e"); return err },
		"Query   ": func(ctx context.Context) error {
			_, _, err := s.History(ctx, lock.HistoryQuery{Lock: "a", To: "~", Limit: 1})
			return err
		},
		"PutItem ": func(ctx context.Context) error {
			return s.PutHistory(ctx, "a", []lock.HistoryEntry{{Fence: 1, Kind: lock.LeaseAcquired}}, time.Hour)
		},
		"Query  ":       func(ctx context.Context) error { _, err := s.PrefixRules(ctx); return err },
		"UpdateItem ":   func(ctx context.Context) error { return s.PutPrefixRule(ctx, lock.PrefixRule{Rev: 1}) },
		"Scan":          func(ctx context.Context) error { _, err := s.List(ctx, lock.ListQuery{Limit: 1}); return err },
		"DeleteItem":    func(ctx context.Context) error { return s.Unbind(ctx, "e", []lock.Binding{{Lock: "a", Key: "l"}}) },
		"CreateTable":   s.CreateTable,
		"DescribeTable": func(ctx context.Context) error { _, err := s.Inspect(ctx); return err },
	}
}

// Every error response becomes an error of its kind that says what to do, for every call of the store; transient ones are tried
// MaxAttempts times.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		code     string
		status   int
		message  string
		want     error
		says     string
		attempts int
	}{
		{"ProvisionedThroughputExceededException", 400, "", lock.ErrThrottled, "spread callers", dynamo.MaxAttempts},
		{"ThrottlingException", 400, "", lock.ErrThrottled, "spread callers", dynamo.MaxAttempts},
		{"RequestLimitExceeded", 400, "", lock.ErrThrottled, "spread callers", dynamo.MaxAttempts},
		{"TransactionConflictException", 400, "", lock.ErrThrottled, "spread callers", dynamo.MaxAttempts},
		{"TransactionInProgressException", 400, "", lock.ErrThrottled, "spread callers", dynamo.MaxAttempts},
		{"InternalServerError", 500, "", lock.ErrUnavailable, "same request again", dynamo.MaxAttempts},
		{"ServiceUnavailable", 503, "", lock.ErrUnavailable, "same request again", dynamo.MaxAttempts},
		{"NobodyKnowsException", 400, "", lock.ErrUnavailable, "NobodyKnowsException", 1},
		{"ResourceNotFoundException", 400, "", lock.ErrMisconfigured, `table "locks" does not exist`, 1},
		{"AccessDeniedException", 400, "is not authorized", lock.ErrMisconfigured, "dynamodb:ACTION", 1},
		{"AccessDeniedException", 400, "KMS key access denied", lock.ErrMisconfigured, "kms:Decrypt", 1},
		{"KMSDisabledException", 400, "", lock.ErrMisconfigured, "enable the key", 1},
		{"ValidationException", 400, "KMS validation error: the key is pending deletion", lock.ErrMisconfigured, "enable the key", 1},
		{"UnrecognizedClientException", 400, "", lock.ErrMisconfigured, "refuses the credentials", 1},
		{"InvalidSignatureException", 400, "", lock.ErrMisconfigured, "this machine's clock", 1},
		{"ExpiredTokenException", 400, "", lock.ErrMisconfigured, "renew or correct them", 1},
		{"MissingAuthenticationTokenException", 400, "", lock.ErrMisconfigured, "renew or correct them", 1},
		{"IncompleteSignatureException", 400, "", lock.ErrMisconfigured, "renew or correct them", 1},
		{"InvalidClientTokenId", 403, "", lock.ErrMisconfigured, "renew or correct them", 1},
		{"OptInRequired", 403, "", lock.ErrMisconfigured, "enable the region", 1},
		{"ValidationException", 400, "The provided key element does not match the schema", lock.ErrMisconfigured, "partition key pk", 1},
		{"ValidationException", 400, "One or more parameter values were invalid: Missing the key id in the item", lock.ErrMisconfigured, "partition key pk", 1},
		{"ValidationException", 400, "One of the required keys was not given a value", lock.ErrMisconfigured, "partition key pk", 1},
		{"ValidationException", 400, "Query condition missed key schema element: pk", lock.ErrMisconfigured, "partition key pk", 1},
		{"ValidationException", 400, "One or more parameter values were invalid: Missing the key id in the item", lock.ErrMisconfigured, "partition key pk", 1},
		{"ValidationException", 400, "Invalid table name", lock.ErrMisconfigured, "3 to 255", 1},
		{"ValidationException", 400, "something else", lock.ErrMisconfigured, "does not accept ACTION", 1},
		{"UnknownOperationException", 400, "", lock.ErrMisconfigured, "does not accept ACTION", 1},
	} {
		t.Run(test.code+" "+test.message, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // pauses between attempts take no time
				attempts := 0
				s := offline(t, func(*http.Request) (*http.Response, error) {
					attempts++
					return apiError(test.status, test.code, test.message), nil
				})
				for action, call := range calls(s) {
					attempts = 0
					err := call(t.Context())
					says := strings.ReplaceAll(test.says, "ACTION", strings.TrimSpace(action))
					if _, ok := errors.AsType[*lock.StoreError](err); !ok || !errors.Is(err, test.want) || !strings.Contains(err.Error(), says) {
						t.Errorf("%s: error %v", action, err)
					}
					if attempts != test.attempts {
						t.Errorf("%s: %d attempts, want %d", action, attempts, test.attempts)
					}
				}
			})
		})
	}
}

// The reason of a canceled transaction decides its kind: throttling and other writes pass, a request that is not accepted never does.
func TestFaultsOfTransactions(t *testing.T) {
	for _, test := range []struct {
		reasons string // codes, of the lock's own write first
		want    error
		says    string
	}{
		{"ThrottlingError None", lock.ErrThrottled, "spread callers"},
		{"None ProvisionedThroughputExceeded", lock.ErrThrottled, "spread callers"},
		{"None ConditionalCheckFailed", lock.ErrThrottled, "spread callers"},
		{"None AccessDenied", lock.ErrMisconfigured, "dynamodb:TransactWriteItems"},
		{"ThrottlingError AccessDenied", lock.ErrMisconfigured, "dynamodb:TransactWriteItems"},
		{"ValidationError None", lock.ErrMisconfigured, "does not accept"},
		{"None ItemCollectionSizeLimitExceeded", lock.ErrUnavailable, "ItemCollectionSizeLimitExceeded"},
		{"ValidationError ItemCollectionSizeLimitExceeded", lock.ErrMisconfigured, "does not accept"},
	} {
		t.Run(test.reasons, func(t *testing.T) {
			list := []string{}
			for code := range strings.FieldsSeq(test.reasons) {
				list = append(list, fmt.Sprintf(`{"Code":%q,"Message":"m"}`, code))
			}
			s := offline(t, func(*http.Request) (*http.Response, error) {
				resp := apiError(400, "TransactionCanceledException", "")
				resp.Body = io.NopCloser(strings.NewReader(`{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException","CancellationReasons":[` + strings.Join(list, ",") + `]}`))
				return resp, nil
			})
			err := calls(s)["TransactWriteItems"](t.Context())
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A response that is not DynamoDB's is a misconfiguration; a gateway's 5xx is an outage.
func TestAnswersOfOthers(t *testing.T) {
	answer := func(status int, header http.Header, body string) awstest.Doer {
		return func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
		}
	}
	html := http.Header{"Content-Type": {"text/html"}}
	for _, test := range []struct {
		name   string
		answer awstest.Doer
		want   error
		says   string
	}{
		{"not found", answer(404, html, "<html>"), lock.ErrMisconfigured, "status 404"},
		{"a proxy that refuses", answer(403, html, "<html>"), lock.ErrMisconfigured, "check the proxy"},
		{"a page", answer(200, html, "<html>"), lock.ErrMisconfigured, "not as DynamoDB does"},
		{"a redirect", answer(307, http.Header{"Location": {"https://elsewhere.example/x"}}, ""), lock.ErrMisconfigured, "redirects to https://elsewhere.example"},
		{"a redirect to nowhere", answer(302, nil, ""), lock.ErrMisconfigured, "status 302"},
		{"a gateway", answer(502, html, "<html>"), lock.ErrUnavailable, "same request again"},
		{"a slow gateway", answer(408, html, "<html>"), lock.ErrUnavailable, "same request again"},
		{"a gateway that throttles", answer(429, html, "<html>"), lock.ErrThrottled, "spread callers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := offline(t, test.answer).Get(t.Context(), "a"); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A host that does not resolve and a failed TLS handshake end with the first attempt, and the error says the fix.
func TestUnreachable(t *testing.T) {
	quiet := log.New(io.Discard, "", 0)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	defer secure.Close()
	for endpoint, test := range map[string]struct {
		want error
		says string
	}{
		"http://nowhere.invalid": {lock.ErrMisconfigured, "there is no host nowhere.invalid"},
		"http://127.0.0.1:1":     {lock.ErrUnavailable, "check the endpoint"},
		secure.URL:               {lock.ErrMisconfigured, "certificate"},
		"https" + strings.TrimPrefix(plain.URL, "http"): {lock.ErrMisconfigured, "begins with http://"},
		plain.URL: {lock.ErrMisconfigured, "status 404"},
	} {
		s := offline(t, nil, func(c *dynamo.Config) { c.AWS.HTTPClient, c.Endpoint = nil, endpoint })
		if _, err := s.Get(t.Context(), "a"); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v", endpoint, err)
		}
	}
}

// A redirect is not followed, whatever its status and whichever client sends: the other host gets nothing.
func TestRedirectsAreNotFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s was sent there", r.Method) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		asked := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, other.URL, status)
		}))
		for name, client := range map[string]aws.HTTPClient{
			"none": nil, "the SDK's": awshttp.NewBuildableClient(), "the standard library's": &http.Client{},
		} {
			asked = 0
			store := offline(t, nil, func(c *dynamo.Config) { c.AWS.HTTPClient, c.Endpoint = client, s.URL })
			_, err := store.Get(t.Context(), "a")
			if !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), "redirects to "+other.URL) || asked != 1 {
				t.Errorf("status %d, HTTP client: %s: asked %d times: error %v", status, name, asked, err)
			}
		}
		s.Close()
	}
}

// After an attempt that times out, neither its connection nor those opened with it are used again.
func TestDeadConnections(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for name, client := range map[string]func(*x509.CertPool) aws.HTTPClient{
			"the SDK's": func(pool *x509.CertPool) aws.HTTPClient {
				return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.TLSClientConfig = &tls.Config{RootCAs: pool} })
			},
			"the standard library's": func(pool *x509.CertPool) aws.HTTPClient {
				return &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
			},
		} {
			t.Run(fmt.Sprintf("HTTP/2 %v, %s", http2, name), func(t *testing.T) {
				t.Parallel()
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.ProtoAtLeast(2, 0) != http2 {
						t.Errorf("protocol %s", r.Proto)
					}
					_, _ = io.WriteString(w, "{}")
				}))
				server.EnableHTTP2 = http2
				server.Config.ErrorLog = log.New(io.Discard, "", 0)
				server.StartTLS()
				defer server.Close()
				relay := newRelay(t, server.Listener.Addr().String())
				pool := x509.NewCertPool()
				pool.AddCert(server.Certificate())
				s := offline(t, nil, func(c *dynamo.Config) {
					c.AWS.HTTPClient, c.Endpoint = client(pool), "https://"+relay.addr
				})
				var together sync.WaitGroup // several connections, where the protocol wants one each
				for range 5 {
					together.Go(func() {
						if _, err := s.Get(t.Context(), "a"); err != nil {
							t.Error(err)
						}
					})
				}
				together.Wait()
				relay.cut()
				if _, err := s.Get(t.Context(), "a"); err != nil {
					t.Errorf("after the connections died: %v", err)
				}
			})
		}
	}
}

// A relay copies bytes between clients and a server until its connections are cut: then it drops what they send, as a broken network does.
// New connections work.
type relay struct {
	addr string
	mu   sync.Mutex
	dead []*atomic.Bool
}

func newRelay(t *testing.T, to string) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r := &relay{addr: l.Addr().String()}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				return
			}
			t.Cleanup(func() { _, _ = in.Close(), out.Close() })
			dead := new(atomic.Bool)
			r.mu.Lock()
			r.dead = append(r.dead, dead)
			r.mu.Unlock()
			go pipe(in, out, dead)
			go pipe(out, in, dead)
		}
	}()
	return r
}

func pipe(from, to net.Conn, dead *atomic.Bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if !dead.Load() {
			_, _ = to.Write(buf[:n])
		}
	}
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, dead := range r.dead {
		dead.Store(true)
	}
}

// A provider without credentials is asked once, and its error is distinguished from DynamoDB's.
func TestNoCredentials(t *testing.T) {
	refusal := func(code string, fault smithy.ErrorFault) error {
		return &smithy.OperationError{ServiceID: "STS", OperationName: "AssumeRole", Err: &smithy.GenericAPIError{Code: code, Fault: fault}}
	}
	for _, test := range []struct {
		name string
		err  error
		want error
		says string
	}{
		{"none", errors.New("no EC2 IMDS role found"), lock.ErrMisconfigured, "aws sso login"},
		{"empty", &credentials.StaticCredentialsEmptyError{}, lock.ErrMisconfigured, "static credentials are empty"},
		{"role refused", refusal("AccessDenied", smithy.FaultClient), lock.ErrMisconfigured, "no AWS credentials"},
		{"STS throttles", refusal("Throttling", smithy.FaultClient), lock.ErrUnavailable, "just now"},
		{"STS away", refusal("InternalFailure", smithy.FaultServer), lock.ErrUnavailable, "just now"},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := 0
			s := offline(t, func(*http.Request) (*http.Response, error) { t.Error("sent"); return nil, errors.New("x") }, func(c *dynamo.Config) {
				c.AWS.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					asked++
					return aws.Credentials{}, test.err
				})
			})
			if _, err := s.Get(t.Context(), "a"); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// A configuration that is visibly wrong is refused before a request is sent.
func TestConfig(t *testing.T) {
	good := dynamo.Config{AWS: awsConfig(), Table: "locks"}
	for says, change := range map[string]func(*dynamo.Config){
		"Config.Table is empty":              func(c *dynamo.Config) { c.Table = "" },
		`Config.Table "qp" is no table name`: func(c *dynamo.Config) { c.Table = "qp" },
		`Config.Table "a b" is no`:           func(c *dynamo.Config) { c.Table = "a b" },
		`"arn:aws:s3:::bucket" is no`:        func(c *dynamo.Config) { c.Table = "arn:aws:s3:::bucket" },
		"the region is not set":              func(c *dynamo.Config) { c.AWS.Region = "" },
		`"localhost:8000" is no URL`:         func(c *dynamo.Config) { c.Endpoint = "localhost:8000" },
		`"ftp://x" is no URL`:                func(c *dynamo.Config) { c.Endpoint = "ftp://x" },
		`"https://" is no URL`:               func(c *dynamo.Config) { c.Endpoint = "https://" },
	} {
		cfg := good
		change(&cfg)
		if _, err := dynamo.New(cfg); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
	}
	for _, table := range []string{"abc", strings.Repeat("a", 255), "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/locks"} {
		cfg := good
		cfg.Table = table
		if _, err := dynamo.New(cfg); err != nil {
			t.Errorf("%s: %v", table, err)
		}
	}
}

// A missing table, and one with other keys, on the engine itself.
func TestMissingTableAndWrongKeys(t *testing.T) {
	s, err := dynamo.New(dynamo.Config{AWS: awsConfig(), Table: "nowhere", Endpoint: awstest.Endpoint(t)})
	if err != nil {
		t.Fatal(err)
	}
	for action, call := range calls(s) {
		if action == "CreateTable" {
			continue
		}
		if err := call(t.Context()); !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), `"nowhere" does not exist`) {
			t.Errorf("%s: error %v", action, err)
		}
	}
	s = otherKeys(t)
	for action, call := range calls(s) {
		if action == "CreateTable" || action == "DescribeTable" || action == "Scan" {
			continue // the first two look at the shape themselves; a scan names no key
		}
		if err := call(t.Context()); !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), "partition key pk") {
			t.Errorf("other keys: %s: error %v", action, err)
		}
	}
}
