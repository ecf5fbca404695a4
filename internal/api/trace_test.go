package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	traced     = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	otherTrace = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
)

func withHeader(traceparent string) change {
	return func(e *events.APIGatewayV2HTTPRequest) { e.Headers["traceparent"] = traceparent }
}

// A lease keeps the trace context of its acquire: that of the field, or else that of the header. One that is malformed is ignored.
func TestTraceOfAnAcquire(t *testing.T) {
	s := newSystem(t)
	for i, test := range []struct{ field, header, want string }{
		{`"traceparent":"` + traced + `"`, otherTrace, traced},
		{`"traceparent":"` + traced + `"`, "", traced},
		{`"owner":"o"`, otherTrace, otherTrace},
		{`"traceparent":"00-1-2-3"`, otherTrace, otherTrace},
		{`"traceparent":""`, otherTrace, otherTrace},
		{`"traceparent":"` + strings.Repeat("x", 9000) + `"`, "garbage", ""},
		{`"owner":"o"`, "", ""},
	} {
		name, body := fmt.Sprintf("a%d", i), `{"lease":"`+secret+`",`+test.field+`}`
		resp := s.call("acquire", name, body, withHeader(test.header))
		conforms(t, "acquire", body, resp)
		if got := s.holder(name).Trace; resp.StatusCode != 200 || got != test.want {
			t.Errorf("%s with %q: %d %q, want %q", test.field, test.header, resp.StatusCode, got, test.want)
		}
	}
	if p := s.problem(s.call("acquire", "b", `{"traceparent":7}`)); p.Code != wire.InvalidRequest || p.Field != "traceparent" {
		t.Errorf("no text: %+v", p)
	}
}

// A request without a context gets that of the function's own span, if there is one.
func TestTraceOfTheFunction(t *testing.T) {
	own := otherTrace
	s := newSystem(t, func(_ *system, c *api.Config) { c.Traceparent = func(context.Context) string { return own } })
	for i, test := range []struct{ field, own, want string }{
		{`"traceparent":"` + traced + `"`, otherTrace, traced}, {`"owner":"o"`, otherTrace, otherTrace}, {`"owner":"o"`, "", ""}, {`"owner":"o"`, "x", ""},
	} {
		own = test.own
		name := fmt.Sprintf("a%d", i)
		if resp := s.call("acquire", name, `{"lease":"`+secret+`",`+test.field+`}`); resp.StatusCode != 200 || s.holder(name).Trace != test.want {
			t.Errorf("%s in %q: %q, want %q", test.field, test.own, s.holder(name).Trace, test.want)
		}
	}
}

// A direct invocation carries the context in its payload, of a lock and of a set. Others see it in a status and in a refusal.
func TestTraceIsShown(t *testing.T) {
	s := newSystem(t)
	for _, payload := range []string{
		`{"name":"a","lease":"` + secret + `","traceparent":"` + traced + `"}`, `{"locks":[{"name":"c"},{"name":"d"}],"traceparent":"` + traced + `"}`,
	} {
		if _, p := s.invokeAs(ownFunction, "acquire", payload); p != nil {
			t.Fatalf("%+v", p)
		}
	}
	var status wire.Status
	resp := s.call("status", "a", "")
	conforms(t, "status", "", resp)
	if err := json.Unmarshal([]byte(resp.Body), &status); err != nil || status.Holders[0].Traceparent != traced {
		t.Error(resp.Body, err)
	}
	resp = s.call("acquire", "a", `{}`)
	conforms(t, "acquire", `{}`, resp)
	if p := s.problem(resp); p.Holders[0].Traceparent != traced {
		t.Errorf("%+v", p)
	}
	for _, name := range []string{"c", "d"} {
		if got := s.holder(name).Trace; got != traced {
			t.Errorf("%s of the set: %q", name, got)
		}
	}
}
