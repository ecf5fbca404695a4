package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// madeLease matches a lease that the API made, in the form of rand.Text.
var madeLease = regexp.MustCompile(`"lease": "[A-Z2-7]{26,}"`)

// Every answer equals its golden file, byte by byte.
func TestGolden(t *testing.T) {
	s := newSystem(t)
	acquire := `{"lease":"` + secret + `","owner":"worker <1> & co","ttl_ms":30000,"metadata":{"build": 7, "big": 12345678901234567890}}`
	for _, step := range []struct {
		name, op, lock, body string
		advance              time.Duration
		changes              []change
	}{
		{name: "acquire", op: "acquire", lock: "deploy:prod", body: acquire},
		{name: "acquire repeated", op: "acquire", lock: "deploy:prod", body: acquire, advance: time.Second},
		{name: "acquire defaults", op: "acquire", lock: "deploy:test", body: `{}`},
		{name: "acquire held", op: "acquire", lock: "deploy:prod", body: `{}`},
		{name: "acquire other capacity", op: "acquire", lock: "deploy:prod", body: `{"capacity":2}`},
		{name: "acquire permits", op: "acquire", lock: "pool", body: `{"capacity":3,"permits":2}`},
		{name: "acquire to read", op: "acquire", lock: "shared", body: `{"lease":"reader-lease-secret-01","mode":"read"}`},
		{name: "acquire to write by the reader", op: "acquire", lock: "shared", body: `{"lease":"reader-lease-secret-01","mode":"write"}`},
		{name: "release a reader to read", op: "release", lock: "shared", body: `{"lease":"reader-lease-secret-01","mode":"read"}`},
		{name: "renew", op: "renew", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`, advance: time.Second},
		{name: "renew unknown lease", op: "renew", lock: "deploy:prod", body: `{"lease":"another-secret-lease"}`},
		{name: "status", op: "status", lock: "deploy:prod", advance: time.Second},
		{name: "status of a lock never seen", op: "status", lock: "nothing"},
		{name: "list", op: "list", changes: []change{query("prefix", "deploy:", "limit", "1")}},
		{name: "release", op: "release", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`},
		{name: "release repeated", op: "release", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`, advance: time.Second},
		{name: "release of another lock", op: "release", lock: "deploy:test", body: `{"lease":"` + secret + `"}`},
		{name: "force-release", op: "force-release", lock: "deploy:test", body: `{"reason":"stuck since noon"}`},
		{name: "force-release of a free lock", op: "force-release", lock: "deploy:test", body: `{"reason":"again"}`},
		{name: "force-release of another fence", op: "force-release", lock: "pool", body: `{"reason":"stuck","fence":1}`},
		{name: "bad input", op: "acquire", lock: "deploy:prod", body: `{"ttl_ms":0}`},
	} {
		t.Run(step.name, func(t *testing.T) {
			s.t = t
			s.now = s.now.Add(step.advance)
			resp := s.call(step.op, step.lock, step.body, step.changes...)
			conforms(t, step.op, step.body, resp)
			var body bytes.Buffer
			if err := json.Indent(&body, []byte(resp.Body), "", "  "); err != nil {
				t.Fatal(err)
			}
			headers, _ := json.Marshal(resp.Headers)
			got := madeLease.ReplaceAllString(body.String(), `"lease": "made-by-the-server"`)
			got += "\n" + string(headers) + "\n"
			file := filepath.Join("testdata", strings.ReplaceAll(step.name, " ", "-")+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the log has a lease secret")
	}
}
