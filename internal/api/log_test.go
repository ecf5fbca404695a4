package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The log says which caller did what with which lease, and contains no secret.
func TestLog(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","owner":"me","metadata":{"x":1}}`)
	s.call("acquire", "a", `{"lease":"`+secret+`2"}`)
	s.call("renew", "a", `{"lease":"`+secret+`"}`)
	s.call("status", "a", "")
	s.call("force-release", "a", `{"reason":"stuck","fence":5}`)
	s.call("force-release", "a", `{"reason":"stuck"}`)
	s.call("force-release", "a", `{"reason":"stuck"}`)
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	s.call("list", "", "")
	const fence = 1772366400123456.0
	alice := "arn:aws:iam::123456789012:user/alice"
	records := s.records()
	for i, want := range []map[string]any{
		{"op": "acquire", "code": "ok", "owner": "me", "fence": fence},
		{"op": "acquire", "code": "lock_held", "owner": nil, "fence": nil},
		{"op": "renew", "code": "ok", "owner": "me", "fence": fence},
		{"op": "status", "code": "ok", "owner": nil, "fence": fence},
		{"op": "force-release", "code": "lock_changed", "owner": nil, "fence": nil},
		{"op": "force-release", "code": "ok", "owner": nil, "fence": fence},
		{"op": "force-release", "code": "ok", "owner": nil, "fence": nil},
		{"op": "release", "code": "lease_lost", "owner": nil, "fence": nil},
		{"op": "status", "code": "ok", "lock": "", "fence": nil},
	} {
		r := records[i]
		for k, v := range want {
			if r[k] != v {
				t.Errorf("record %d: %s is %v, want %v", i, k, r[k], v)
			}
		}
		if r["level"] != "INFO" || r["request_id"] != "request-1" || r["principal"] != alice || r["latency_ms"].(float64) < 0 || r["_aws"] != nil || i < 8 && r["lock"] != "a" {
			t.Errorf("record %d: %v", i, r)
		}
		if text := fmt.Sprint(r); strings.Contains(text, secret) {
			t.Errorf("record %d has the secret", i)
		}
	}
}

// The log record of a request is also its metrics, in CloudWatch's embedded metric format and with few dimensions.
func TestMetrics(t *testing.T) {
	s := newSystem(t, func(_ *system, c *api.Config) { c.Metrics = "Holdfast/test" })
	s.call("acquire", "deploy:prod", `{"lease":"`+secret+`"}`)
	s.now = s.now.Add(3 * time.Second)
	s.call("release", "deploy:prod", `{"lease":"`+secret+`"}`)
	var records []map[string]any
	for line := range strings.Lines(s.log.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	release := records[1]
	if release["hold_ms"] != 3000.0 || release["group"] != "deploy" || release["op"] != "release" || release["code"] != "ok" {
		t.Errorf("record %v", release)
	}
	for _, r := range records {
		aws, ok := r["_aws"].(map[string]any)
		if !ok || aws["Timestamp"] == nil {
			t.Fatalf("record %v", r)
		}
		for _, d := range aws["CloudWatchMetrics"].([]any) {
			directive := d.(map[string]any)
			if directive["Namespace"] != "Holdfast/test" {
				t.Errorf("directive %v", directive)
			}
			for _, m := range directive["Metrics"].([]any) {
				if _, ok := r[m.(map[string]any)["Name"].(string)].(float64); !ok {
					t.Errorf("%v is no number in the record", m)
				}
			}
			for _, dimension := range directive["Dimensions"].([]any)[0].([]any) {
				if v, ok := r[dimension.(string)].(string); !ok || v == "deploy:prod" {
					t.Errorf("dimension %v is %v", dimension, r[dimension.(string)])
				}
			}
		}
	}
}

// A release measures how long the lease was held; nothing else does. A wrong clock is counted, and so is a direct invocation that fails on purpose.
func TestWhatIsMeasured(t *testing.T) {
	withMetrics := func(_ *system, c *api.Config) { c.Metrics = "Holdfast/test" }
	names := func(r map[string]any) string {
		var list []string
		for _, d := range r["_aws"].(map[string]any)["CloudWatchMetrics"].([]any) {
			for _, m := range d.(map[string]any)["Metrics"].([]any) {
				list = append(list, fmt.Sprint(m.(map[string]any)["Name"], d.(map[string]any)["Dimensions"]))
			}
		}
		return strings.Join(list, " ")
	}
	s := newSystem(t, withMetrics)
	s.call("acquire", "g:a", `{"lease":"`+secret+`"}`)
	s.call("acquire", "g:a", `{"lease":"`+secret+`2","wait_ms":1000}`)
	s.call("release", "g:a", `{"lease":"`+secret+`2"}`) // leaves the queue
	s.now = s.now.Add(1500 * time.Millisecond)
	s.call("release", "g:a", `{"lease":"`+secret+`"}`)
	const latency = "latency_ms[[op]] latency_ms[[op code]]"
	records := s.records()
	for i, want := range []string{latency, latency, latency, latency + " hold_ms[[group]]"} {
		if got := names(records[i]); got != want {
			t.Errorf("record %d: %s, want %s", i, got, want)
		}
	}
	if r := records[3]; r["hold_ms"] != 1500.0 || r["group"] != "g" || records[2]["hold_ms"] != nil {
		t.Errorf("%v", records)
	}
	s = newSystem(t, withMetrics)
	s.call("acquire", "a", `{}`)
	s.call("acquire", "a", `{}`) // held, over HTTP
	s.invokeAs(ownFunction, "status", `{"name":"a","op":"status"}`)
	s.invokeAs(ownFunction, "acquire", `{"name":"a"}`)
	s.invokeAs(ownFunction, "acquire", `{"nam":"a"}`)
	records = s.records()
	for i, want := range []string{latency, latency, latency, latency + " refused[[op]]", latency + " refused[[op]]"} {
		if r := records[i]; names(r) != want || (r["refused"] == 1.0) != strings.Contains(want, "refused") {
			t.Errorf("%v, want %s", r, want)
		}
	}
	s = newSystem(t, withMetrics, func(s *system, _ *api.Config) {
		s.store = failing{&lock.StoreError{Kind: lock.ErrUnavailable, Err: errors.New("down")}}
	})
	s.invokeAs(ownFunction, "acquire", `{"name":"a"}`)
	if r := s.records()[0]; names(r) != latency+" fault[[op]]" || r["fault"] != 1.0 || r["refused"] != nil { // an error of the function
		t.Errorf("%v", r)
	}
	s = newSystem(t, withMetrics, func(s *system, _ *api.Config) { s.store = failing{&lock.ClockError{Offset: -10 * time.Second}} })
	s.call("acquire", "a", `{}`)
	r := s.records()[0]
	if names(r) != latency+" fault[[op]] clock_guard[[]]" || r["clock_guard"] != 1.0 || r["clock_offset_ms"] != -10000.0 || r["level"] != "ERROR" {
		t.Errorf("%v", r)
	}
}

// Every write records its caller: the principal over HTTP, and none for a direct invocation.
func TestWhoAskedIsRecorded(t *testing.T) {
	const alice = "arn:aws:iam::123456789012:user/alice"
	s := newSystem(t)
	by := func(what, want string) {
		t.Helper()
		s.now = s.now.Add(time.Second)
		if r, err := s.store.Get(t.Context(), "a"); err != nil || r.After.By != want {
			t.Errorf("%s: by %q, %v", what, r.After.By, err)
		}
	}
	lease := `"lease":"` + secret + `"`
	s.call("acquire", "a", `{`+lease+`}`)
	by("acquire", alice)
	s.invokeAs(ownFunction, "renew", `{"name":"a",`+lease+`}`)
	by("direct renew", "")
	s.call("renew", "a", `{`+lease+`,"ttl_ms":90000,"metadata":{"n":1}}`)
	by("renew", alice)
	r, _ := s.store.Get(t.Context(), "a")
	for _, h := range r.After.Holders {
		if h.TTL != 90000 || h.Metadata != `{"n":1}` || h.Principal != alice {
			t.Errorf("renewed to %+v", h)
		}
	}
	s.invokeAs(ownFunction, "release", `{"name":"a",`+lease+`}`)
	by("direct release", "")
	s.call("acquire", "a", `{"lease":"`+secret+`1"}`)
	s.call("release", "a", `{"lease":"`+secret+`1"}`)
	by("release", alice)
	s.invokeAs(ownFunction, "acquire", `{"name":"a"}`)
	by("direct acquire", "")
	s.call("force-release", "a", `{"reason":"stuck"}`)
	by("force-release", alice)
}
