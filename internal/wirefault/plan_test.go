package wirefault_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

// faultsOf sends requests of two clients, in the order that turns says, and returns the faults of each as the log has them.
func faultsOf(t *testing.T, seed uint64, turns []string) map[string][]string {
	t.Helper()
	var log bytes.Buffer
	p, url := startWith(t, wirefault.Config{Upstreams: []string{newServer(t).URL}, Log: &log, Plan: wirefault.Plan{Seed: seed, Rules: []wirefault.Rule{
		{Kind: wirefault.Throttle, Rate: 0.2}, {Kind: wirefault.Error500, Rate: 0.2}, {Kind: wirefault.DelayReply, Rate: 0.2, Max: wirefault.Duration(time.Microsecond)},
	}}})
	for _, c := range turns {
		if _, err := send(t, url, "x", wirefault.ClientHeader, c); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.Close()
	faults := map[string][]string{}
	for line := range strings.Lines(log.String()) {
		var f struct {
			Client, Kind, For string
			Request           int
		}
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal([]any{f.Request, f.Kind, f.For})
		faults[f.Client] = append(faults[f.Client], string(text))
	}
	return faults
}

// The faults of each client follow from the seed, whatever the other clients do.
func TestDecisionsFollowFromTheSeed(t *testing.T) {
	one := faultsOf(t, 7, slices.Repeat([]string{"a", "b"}, 40))
	again := faultsOf(t, 7, slices.Concat(slices.Repeat([]string{"b"}, 40), slices.Repeat([]string{"a"}, 40)))
	other := faultsOf(t, 8, slices.Repeat([]string{"a", "b"}, 40))
	if !reflect.DeepEqual(one, again) {
		t.Errorf("the same seed gave\n%v\nand\n%v", one, again)
	}
	if reflect.DeepEqual(one, other) || slices.Equal(one["a"], one["b"]) {
		t.Error("another seed or another client gave the same faults")
	}
	if n := len(one["a"]); n < 12 || n > 36 {
		t.Errorf("%d of 40 requests had a fault, want about 24", n)
	}
}

func TestRulesMatch(t *testing.T) {
	s := newServer(t)
	p, url := start(t, s, wirefault.Rule{Kind: wirefault.Throttle, Rate: 1, Clients: []string{"c1"}, Operations: []string{"acquire", "list", "status", "fn:live", "UpdateItem"}})
	for _, c := range []struct {
		path, client, target string
		fault                bool
	}{
		{"/v1/locks/a%2Frenew/acquire", "c1", "", true},
		{"/v1/locks/acquire/renew", "c1", "", false},
		{"/v1/locks", "c1", "", true},
		{"/v1/locks/a", "c1", "", true},
		{"/v1/locks/a/acquire", "c2", "", false},
		{"/2015-03-31/functions/fn%3Alive/invocations", "c1", "", true},
		{"/2015-03-31/functions/fn/invocations", "c1", "", false},
		{"/", "c1", "DynamoDB_20120810.UpdateItem", true},
		{"/", "c1", "DynamoDB_20120810.GetItem", false},
	} {
		headers := []string{wirefault.ClientHeader, c.client}
		if c.target != "" {
			headers = append(headers, "X-Amz-Target", c.target)
		}
		got, err := send(t, url+c.path, "x", headers...)
		if err != nil || (got.status != 200) != c.fault {
			t.Errorf("%+v: status %d, %v", c, got.status, err)
		}
	}
	if err := p.SetPlan(wirefault.Plan{}); err != nil {
		t.Fatal(err)
	}
	if got, err := send(t, url+"/v1/locks", "x"); err != nil || got.status != 200 {
		t.Errorf("with an empty plan: %+v, %v", got, err)
	}
}

func TestBadPlans(t *testing.T) {
	p, _ := start(t, newServer(t))
	for text, rule := range map[string]wirefault.Rule{
		"kind": {Kind: "explode"}, "rate": {Kind: wirefault.Delay, Rate: 1.5}, "limit": {Kind: wirefault.Delay, Limit: -1},
		"min and max": {Kind: wirefault.Delay, Min: 2, Max: 1},
	} {
		if err := p.SetPlan(wirefault.Plan{Rules: []wirefault.Rule{rule}}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("a rule with a wrong %s: error %v", text, err)
		}
		if err := p.AddRules(rule); err == nil {
			t.Errorf("a rule with a wrong %s was added", text)
		}
	}
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"} {
		if _, err := p.Listen(address, ""); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("address %s: error %v", address, err)
		}
	}
	if _, err := wirefault.New(wirefault.Config{}); err == nil {
		t.Error("a proxy without an upstream was made")
	}
	if _, err := wirefault.New(wirefault.Config{Upstreams: []string{"example.com"}}); err == nil {
		t.Error("an upstream without a scheme was accepted")
	}
}

func TestParseRules(t *testing.T) {
	got, err := wirefault.ParseRules("drop-reply=0.02, delay=0.05:10ms-200ms")
	want := []wirefault.Rule{
		{Kind: wirefault.DropReply, Rate: 0.02},
		{Kind: wirefault.Delay, Rate: 0.05, Min: wirefault.Duration(10 * time.Millisecond), Max: wirefault.Duration(200 * time.Millisecond)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, text := range []string{"delay", "delay=x", "delay=0.1:10", "delay=0.1:10ms-x", "explode=0.1"} {
		if _, err := wirefault.ParseRules(text); err == nil {
			t.Errorf("rules %q were accepted", text)
		}
	}
}

func TestSecrets(t *testing.T) {
	var kept bytes.Buffer
	p, url := startWith(t, wirefault.Config{Upstreams: []string{newServer(t).URL}, Secrets: &kept})
	for _, body := range []string{`{"lease":"s-1","ttl_ms":1}`, `{"lease":"s-1"}`, `{"lease":7}`, `not JSON`, `{"lock":"a","lease":"s-2"}`} {
		if _, err := send(t, url, body); err != nil {
			t.Fatal(err)
		}
	}
	_ = p.Close()
	if kept.String() != "s-1\ns-2\n" {
		t.Errorf("kept %q", kept.String())
	}
}

func TestControl(t *testing.T) {
	s := newServer(t)
	p, _ := start(t, s)
	control := httptest.NewServer(p.Control())
	t.Cleanup(control.Close)
	call := func(method, path, body string) (int, string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), method, control.URL+path, strings.NewReader(body))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // a test
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	var l struct{ URL string }
	if _, text := call("POST", "/listen", `{"client":"c9"}`); json.Unmarshal([]byte(text), &l) != nil || l.URL == "" {
		t.Fatalf("listen: %s", text)
	}
	for _, c := range [][2]string{
		{"PUT /plan", `{"seed":3,"rules":[{"kind":"delay","rate":0}]}`},
		{"POST /rules", `[{"kind":"throttle","rate":1,"limit":1,"clients":["c9"]}]`},
		{"POST /settle", ""}, {"POST /partition", `{"client":"c8"}`}, {"POST /heal", `{"client":"c8"}`},
	} {
		method, path, _ := strings.Cut(c[0], " ")
		if status, text := call(method, path, c[1]); status != 200 {
			t.Errorf("%s: %d %s", c[0], status, text)
		}
	}
	if got, err := send(t, l.URL, "x"); err != nil || got.status != 429 && got.status != 503 {
		t.Errorf("the request for which a rule was added: %+v, %v", got, err)
	}
	if got, err := send(t, l.URL, "x"); err != nil || got.status != 200 {
		t.Errorf("the request after it: %+v, %v", got, err)
	}
	var stats wirefault.Stats
	if _, text := call("GET", "/stats", ""); json.Unmarshal([]byte(text), &stats) != nil || !maps.Equal(stats.Faults, map[wirefault.Kind]int64{wirefault.Throttle: 1}) {
		t.Errorf("stats: %s", text)
	}
	var plan wirefault.Plan
	if _, text := call("GET", "/plan", ""); json.Unmarshal([]byte(text), &plan) != nil || plan.Seed != 3 || len(plan.Rules) != 2 {
		t.Errorf("plan: %s", text)
	}
	for _, c := range [][2]string{
		{"PUT /plan", `{"rules":[{"kind":"explode"}]}`}, {"PUT /plan", `{"sed":3}`}, {"POST /partition", `{}`}, {"POST /partition", `{"client":"a","direction":"up"}`},
		{"PUT /upstreams", `[]`}, {"POST /listen", `{"address":"0.0.0.0:0"}`},
	} {
		method, path, _ := strings.Cut(c[0], " ")
		if status, text := call(method, path, c[1]); status != 400 || !strings.Contains(text, "error") {
			t.Errorf("%s with %s: %d %s", c[0], c[1], status, text)
		}
	}
}
