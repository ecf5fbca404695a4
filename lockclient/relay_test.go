package lockclient_test

import (
	"crypto/rand"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/reach/relay"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// serve starts a TLS server with HTTP/2 behind a relay, and returns the relay and its URL.
func serve(t *testing.T, h http.Handler) (*relay.Relay, string, *http.Client) {
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	r := relay.New(t, server.Listener.Addr().String())
	return r, "https://" + r.Addr().String(), server.Client()
}

// Leases survive the death of their connections, over each transport: no two tries of a lease fail on one dead connection, however many
// leases share it and however many connections died.
func TestDeadConnections(t *testing.T) {
	for name, reach := range map[string]func(t *testing.T) (*relay.Relay, lockclient.Config){
		"http": func(t *testing.T) (*relay.Relay, lockclient.Config) {
			r, endpoint, client := serve(t, local.NewGateway(newAPI(t), slog.New(slog.DiscardHandler)))
			return r, lockclient.Config{Endpoint: endpoint, HTTPClient: client, RequestTimeout: time.Second}
		},
		"invoke": func(t *testing.T) (*relay.Relay, lockclient.Config) {
			r, endpoint, client := serve(t, fakeLambda(t))
			transport, err := invoke.New(invoke.Config{
				AWS:       aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: client},
				Functions: invoke.Functions{Acquire: "acquire", Renew: "renew", Release: "release", Status: "status"}, Endpoint: endpoint,
			})
			if err != nil {
				t.Fatal(err)
			}
			return r, lockclient.Config{Transport: transport, RequestTimeout: time.Second}
		},
		"direct": func(t *testing.T) (*relay.Relay, lockclient.Config) {
			u, err := url.Parse(awstest.Endpoint(t))
			if err != nil {
				t.Fatal(err)
			}
			r := relay.New(t, u.Host)
			table, err := direct.New(t.Context(), direct.Config{
				Table: awstest.TableName(t, "direct"), Region: "us-east-1", Endpoint: "http://" + r.Addr().String(),
				Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := table.CreateTable(t.Context()); err != nil {
				t.Fatal(err)
			}
			return r, lockclient.Config{Transport: table}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := reach(t)
			surviveCuts(t, r, cfg)
		})
	}
}

// surviveCuts renews and releases leases after their connections were cut.
func surviveCuts(t *testing.T, r *relay.Relay, cfg lockclient.Config) {
	cfg.RetryDelay = 50 * time.Millisecond
	c, err := lockclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var leases []*lockclient.Lease
	for range 6 {
		l, err := c.Acquire(t.Context(), rand.Text(), lockclient.Options{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, l)
	}
	each := func(what string, do func(*lockclient.Lease) error) {
		var wg sync.WaitGroup
		for _, l := range leases {
			wg.Go(func() {
				if err := do(l); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		wg.Wait()
	}
	renew := func(l *lockclient.Lease) error { return l.Renew(t.Context()) }
	each("renewal", renew) // opens more connections over HTTP/1.1
	r.Cut()
	each("renewal after the cut", renew)
	r.Cut()
	each("release", func(l *lockclient.Lease) error { return l.Release(t.Context()) })
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
