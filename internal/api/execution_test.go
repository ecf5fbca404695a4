package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// executions are ARNs of executions, with the text of the problem; an empty text means that a lease can be bound to the execution.
var executions = []struct{ execution, says string }{
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run-1", ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/Map1:4f2a9c1e-0000-4000-8000-000000000001", ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/ProcessFiles:run:2", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch:x", ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:BatchNightly/Label:x", ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:DeployX:run-1", `state machine "DeployX", to which`},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deplo:run-1", "StateMachines"},
	{"arn:aws:states:eu-west-1:123456789012:execution:DeployX/Map1:run-1", `state machine "DeployX", to which`},
	{"arn:aws:states:eu-west-1:123456789012:execution:Other/Deploy:run-1", `state machine "Other", to which`},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:/Map1:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/a/b:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/Map*:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution::run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch*:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch 1:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch\u0085:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run/1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run*", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + strings.Repeat("x", 80), ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + strings.Repeat("x", 81), "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch" + strings.Repeat("x", 75) + ":a", ""},
	{"arn:aws:states:eu-west-1:123456789012:execution:Batch" + strings.Repeat("x", 76) + ":a", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + strings.Repeat("x", 300), "at most 256"},
	{"arn:aws:states:eu-west-1:123456789012:execution:Deploy", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012:stateMachine:Deploy:run-1", "send the ARN"},
	{"arn:aws:lambda:eu-west-1:123456789012:execution:Deploy:run-1", "send the ARN"},
	{"urn:aws:states:eu-west-1:123456789012:execution:Deploy:run-1", "send the ARN"},
	{"arn:aws:states:eu-west-1:123456789012", "send the ARN"},
	{ofBytes(wire.MaxExecution), ""},
	{ofBytes(wire.MaxExecution + 1), "is 257 bytes long; at most 256"},
	{"", "send the ARN"},
	{"arn:aws:states:eu-west-2:123456789012:execution:Deploy:run-1", `region "eu-west-2", account "123456789012"; its end`},
	{"arn:aws:states:eu-west-1:999999999999:execution:Deploy:run-1", `account "999999999999"`},
	{"arn:aws-cn:states:eu-west-1:123456789012:execution:Deploy:run-1", `partition "aws-cn"`},
	{"arn:aws:states:eu-west-1:123456789012:express:Deploy:run-1:x", "Standard workflow"},
	{"arn:aws:states:eu-west-1:123456789012:express:Deploy/Map1:run-1", "Standard workflow"},
}

// ofBytes is the ARN of an execution of "Batch" and a label, with a length in bytes.
func ofBytes(n int) string {
	const arn = "arn:aws:states:eu-west-1:123456789012:execution:Batch"
	fill := n - len(arn) - len("/:")
	return arn + strings.Repeat("b", fill/3) + "/" + strings.Repeat("l", fill/3) + ":" + strings.Repeat("r", fill-2*(fill/3))
}

// A lease can be bound to an execution of a listed state machine in the coordinator's account and region, and to those that a
// Distributed Map of it started.
func TestExecutions(t *testing.T) {
	for _, test := range executions {
		s := newSystem(t, machines("Deploy", "Batch*"))
		payload, _ := json.Marshal(map[string]string{"name": "a", "lease": secret, "execution": test.execution})
		_, p := s.invokeAs(ownFunction, "acquire", string(payload))
		if test.says != "" {
			if p == nil || p.Code != wire.InvalidRequest || p.Field != "execution" || !strings.Contains(p.Detail, test.says) {
				t.Errorf("%s: %+v", test.execution, p)
			}
			continue
		}
		r, err := s.store.Get(t.Context(), "a")
		if p != nil || err != nil || len(r.After.Holders) != 1 {
			t.Errorf("%s: %+v, %v", test.execution, p, err)
		}
		for _, h := range r.After.Holders {
			if h.Execution != test.execution {
				t.Errorf("stored %q", h.Execution)
			}
		}
	}
	// Outside Lambda the coordinator does not know its account, and accepts every one.
	s := newSystem(t, machines("*"))
	resp := s.call("acquire", "a", `{"execution":"arn:aws:states:us-east-1:000000000000:execution:Deploy:run-1"}`)
	if resp.StatusCode != 200 {
		t.Error(resp.Body)
	}
	// What invoked the function is no ARN of one: its account is not known either.
	payload, _ := json.Marshal(map[string]string{"name": "b", "lease": secret, "execution": "arn:aws:states:us-east-1:000000000000:execution:Deploy:run-1"})
	if _, p := s.invokeAs("a:b:c:d", "acquire", string(payload)); p != nil {
		t.Errorf("%+v", p)
	}
	// Without a listed state machine no lease can be bound.
	s = newSystem(t)
	if p := s.problem(s.call("acquire", "a", `{"execution":"arn:aws:states:us-east-1:000000000000:execution:Deploy:run-1"}`)); p.Field != "execution" {
		t.Errorf("%+v", p)
	}
}
