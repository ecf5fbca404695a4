package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/ui"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// startUI runs `holdfast ui` until the test ends, and returns a function that asks the page's server as the page does.
func startUI(t *testing.T, args ...string) (ask func(method, path, body string) (status int, answer string)) {
	t.Helper()
	out := newOutput()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	errs := newOutput()
	go func() { ended <- run(ctx, append([]string{"ui"}, args...), &streams{out: out, err: errs}) }()
	select {
	case <-out.written:
	case code := <-ended:
		t.Fatalf("ui ended with %d: %s", code, errs)
	}
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != 0 {
			t.Errorf("ui ended with %d: %s", code, errs)
		}
	})
	link := regexp.MustCompile(`(http://127\.0\.0\.1:\d+)/#token=(\w+)`).FindStringSubmatch(out.String())
	if link == nil {
		t.Fatalf("it printed %s", out)
	}
	return func(method, path, body string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, link[1]+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Holdfast-Token", link[2])
		r.Header.Set("Origin", link[1])
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var answer json.RawMessage
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
}

// The page of ui shows what the coordinator has, and force-releases by the fence.
func TestUI(t *testing.T) {
	s := newService(t)
	client, err := lockclient.New(lockclient.Config{Endpoint: s.url, Owner: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.Acquire(t.Context(), "deploy:prod", lockclient.Options{Metadata: map[string]int{"run": 7}, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.KeepHistory(t.Context(), "deploy:", time.Hour); err != nil {
		t.Fatal(err)
	}
	ask := startUI(t, "deploy:", "--endpoint", s.url)
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/api/lock?name=deploy:prod", "", 200, `"metadata":{"run":7}`},
		{"GET", "/api/lock?name=other", "", 404, "begin with deploy:"},
		{"GET", "/api/rules", "", 200, `"keep_ms":3600000`},
		{"GET", "/api/history?name=deploy:prod", "", 200, `"entries":[`},
		{"POST", "/api/force-release", fmt.Sprintf(`{"name":"deploy:prod","reason":"gone","fence":%d}`, lease.Fence()+1), 409, `"code":"lock_changed"`},
		{"POST", "/api/force-release", fmt.Sprintf(`{"name":"deploy:prod","reason":"gone","fence":%d}`, lease.Fence()), 200, `"owner":"bob"`},
		{"GET", "/api/lock?name=deploy:prod", "", 200, `"locked":false`},
	} {
		if status, answer := ask(test.method, test.path, test.body); status != test.status || !strings.Contains(answer, test.says) {
			t.Errorf("%s %s: %d %s", test.method, test.path, status, answer)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := client.Close(t.Context()); err != nil {
		t.Log(err) // the lease is lost
	}
}

// Failures reach the page with the coordinator's code, or the gateway's status, and what to do.
func TestUIFailures(t *testing.T) {
	answer := func(status int, body string) *httptest.Server {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(server.Close)
		return server
	}
	for _, test := range []struct {
		status int
		body   string
		want   ui.Failure
	}{
		{403, `{"message":"Forbidden"}`, ui.Failure{Status: 403, Code: "refused"}},
		{400, `{"code":"invalid_request","status":400,"detail":"name is bad"}`, ui.Failure{Status: 400, Code: "invalid_request"}},
		{503, `{"code":"store_unavailable","status":503,"detail":"down"}`, ui.Failure{Code: "unavailable"}},
	} {
		client, err := lockclient.New(lockclient.Config{Endpoint: answer(test.status, test.body).URL, Retries: -1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = source{client}.Status(t.Context(), "a", 10)
		got, ok := errors.AsType[*ui.Failure](err)
		if !ok || got.Status != test.want.Status || got.Code != test.want.Code || got.Detail == "" || strings.Contains(got.Detail, "lockclient") {
			t.Errorf("%d: %+v", test.status, err)
		}
	}
}

// The events of a local coordinator name the locks that have changed. One without a stream of events is not asked again.
func TestUIFollowsEvents(t *testing.T) {
	asked := ""
	local := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, ": comment\n\nid: deploy:prod/7/released\nevent: Lock Released\ndata: {\"id\":\"x\"}\n\nid: rules/deploy:/3/177\nevent: Rule Changed\ndata: {}\n\nid: a/8/acquired\n\n")
	}))
	defer local.Close()
	remote := httptest.NewServer(http.NotFoundHandler())
	defer remote.Close()
	changed := make(chan string, 4)
	c := &uiCmd{Prefix: "deploy:"}
	if !c.readEvents(t.Context(), http.DefaultClient, local.URL, changed) || c.readEvents(t.Context(), http.DefaultClient, remote.URL, changed) {
		t.Error("it would not ask again, or ask a coordinator that has none")
	}
	close(changed)
	var names []string
	for name := range changed {
		names = append(names, name)
	}
	if fmt.Sprint(names) != "[deploy:prod a]" || asked != "/v1/events?prefix=deploy%3A" {
		t.Errorf("%v of %s", names, asked)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestUISaysWhatIsWrong(t *testing.T) {
	for args, says := range map[string]string{
		"ui --endpoint http://127.0.0.1:1 --listen 0.0.0.0:0": "--listen is 0.0.0.0:0, which other machines can reach",
		"ui --endpoint http://127.0.0.1:1 --listen x":         "choose another address with --listen",
		"ui --endpoint http://127.0.0.1:1 --every 10ms":       "--every is 10ms; give 1s or more",
		"ui --endpoint http://127.0.0.1:1 a/b":                "the prefix has the character",
		"ui":                                                  "which coordinator?",
	} {
		if code, _, errs := call(t.Context(), strings.Fields(args)...); code != exitFailed || !strings.Contains(errs, says) {
			t.Errorf("%s: %d %s", args, code, errs)
		}
	}
}

var _ ui.Source = source{}

// A history of the client is that of the API again.
func TestUIHistory(t *testing.T) {
	entry := `{"at":"2026-11-26T02:14:00.000Z","kind":"released","fence":7,"owner":"bob","permits":1,"acquired_at":"2026-11-26T02:10:00.000Z","held_ms":240000,"waited_ms":1000,"permits_held":0,"waiting":0}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("from") != "2026-11-26T02:00:00Z" && r.URL.Query().Get("from") != "2026-11-26T02:00:00.000Z" || r.URL.Query().Get("cursor") != "c" {
			t.Errorf("it asked %s", r.URL)
		}
		_, _ = fmt.Fprintf(w, `{"lock":"a","entries":[%s],"next_cursor":"d","server_time":"2026-11-26T02:15:00.000Z"}`, entry)
	}))
	defer server.Close()
	client, err := lockclient.New(lockclient.Config{Endpoint: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	page, err := source{client}.History(t.Context(), "a", wire.HistoryRequest{From: new(wire.At(time.Date(2026, 11, 26, 2, 0, 0, 0, time.UTC).UnixMilli())), Cursor: "c", Limit: 100})
	if err != nil || len(page.Entries) != 1 || page.NextCursor != "d" {
		t.Fatal(page, err)
	}
	if text, _ := json.Marshal(page.Entries[0]); string(text) != entry {
		t.Errorf("%s", text)
	}
}
