package stream

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A job comes through its message as it was, and a message that lacks something is none.
func TestJobMessages(t *testing.T) {
	h := lock.Lease{Terms: lock.Terms{Owner: "o", Permits: 2, TTL: 3, Metadata: `{"a":1}`, Tokens: lock.Tokens{task("x"), {Kind: lock.CallbackToken, Text: "y"}}, Execution: "arn:x"}, Fence: 7, AcquiredAt: 1, ExpiresAt: 2, CheckAt: 9}
	since := time.UnixMilli(1_800_000_000_123)
	for _, j := range []Job{
		{Kind: JobPublish, Lock: "a", Event: Entry{DetailType: "d", Detail: []byte(`{"id":"x"}`), Time: time.Unix(5, 0).UTC(), Lock: "a"}, Since: since, Tries: 3},
		{Kind: JobDeliver, Lock: "a", Key: "k", Lease: h, Since: since},
		{Kind: JobFail, Lock: "a", Tokens: h.Tokens, Code: "WaitTimedOut", Cause: "why", Tries: 1},
		{Kind: JobSettle, Lock: "a", Since: since, Tries: 1},
		{Kind: JobTimer, Lock: "a", Timer: Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 7}}, Since: since, Tries: 2},
		{Kind: JobEnd, Execution: ExecutionEnd{"arn:x", "FAILED"}, Since: since},
	} {
		body, err := EncodeJob(j)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeJob(string(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if a, b := string(mustJSON(j)), string(mustJSON(got)); a != b || !got.Since.Equal(j.Since) {
			t.Errorf("%s\nbecame %s", a, b)
		}
	}
	for body, says := range map[string]string{
		`{"v":1,"kind":"publish","lock":"a"}`: "publish", `{"v":1,"kind":"tell","lock":"a","holder":{}}`: "tell", `{"v":1,"kind":"tell","lock":"a","lease":"k"}`: "tell",
		`{"v":1,"kind":"fail","lock":"a"}`: "fail", `{"v":1,"kind":"settle"}`: "names no lock", `{"v":1,"kind":"timer","lock":"a","lease":"k"}`: "timer",
		`{"v":1,"lock":"a","fence":1}`: "timer", `{"v":1,"lock":"a","lease":"k","fence":0}`: "timer", `{"v":1,"kind":"end"}`: "end", `{"v":1,"kind":"end","execution":{}}`: "end", `[]`: "unmarshal",
	} {
		if j, err := DecodeJob(body); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v", body, j, err)
		}
	}
	if j, err := DecodeJob(`{"v":1,"lock":"a","lease":"k","fence":1}`); err != nil || j.Kind != JobTimer || j.Timer != (Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 1}}) || !j.Since.IsZero() {
		t.Errorf("a timer: %+v, %v", j, err)
	}
}
