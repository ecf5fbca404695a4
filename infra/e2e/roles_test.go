//go:build cloud

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// putOff matches the log, in the engine's text format, of an invocation that deferred a part of its work.
var putOff = regexp.MustCompile(`(callback_failed|event_put_off|execution_unknown|timer_failed)("?:|=)1`)

// Every function works with its role, and fails or defers its work when a statement is removed from the role's
// policy.
func TestEveryStatementIsNeeded(t *testing.T) {
	c := newCloud(t)
	now := time.Now()
	due := lock.KeyOf("least:timer", "least-lease-00000000")
	streamEvent := map[string]any{"Records": []any{map[string]any{
		"eventID": "1", "eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "111", "Keys": map[string]any{"pk": s("least:stream"), "sk": s("lock")},
			"NewImage": map[string]any{
				"pk": s("least:stream"), "sk": s("lock"), "rev": n(1), "fence": n(now.UnixMicro()), "capacity": n(1), "cause": s("acquire"),
				"free_at": n(now.Add(time.Hour).UnixMilli()), "waiting": n(0), "next_ticket": n(0),
				"holders": map[string]any{"M": map[string]any{"k": map[string]any{"M": map[string]any{
					"owner": s("o"), "fen": n(now.UnixMicro()),
					"exp": n(now.Add(time.Hour).UnixMilli()), "tms": n(3_600_000),
				}}}},
			},
		},
	}}}
	poison := map[string]any{"Records": []any{map[string]any{
		"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "112", "Keys": map[string]any{"pk": s("least:poison"), "sk": s("lock")},
			"NewImage": map[string]any{"pk": s("least:poison"), "sk": s("lock"), "rev": s("x")},
		},
	}}}
	timer, _ := json.Marshal(map[string]any{"v": 1, "lock": "least:timer", "lease": due, "fence": 1})
	timerEvent := map[string]any{"Records": []any{map[string]any{"messageId": "m1", "body": string(timer), "eventSource": "aws:sqs"}}}
	// A waiting task with its token, a grant to it that has ended, the end of its wait, and a lease of its execution
	// that is due for a check.
	m := newMachines(t)
	holding, err := c.root().Acquire(t.Context(), "example:least", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	execution := m.start("Construct", "least", map[string]any{"lock": "example:least"})
	m.until(c.root(), "example:least", "waited for", func(s lockclient.Status) bool { return s.Waiting == 1 })
	waiter, err := c.db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(c.outputs["TableName"]), Key: map[string]dbtypes.AttributeValue{
		"pk": &dbtypes.AttributeValueMemberS{Value: "example:least"}, "sk": &dbtypes.AttributeValueMemberS{Value: fmt.Sprintf("wait#%016d", 1)},
	}})
	if err != nil || waiter.Item == nil {
		t.Fatalf("%v, %v", waiter, err)
	}
	token := taskToken(waiter.Item["want"])
	running := m.start("Construct", "least-running", map[string]any{"lock": "example:least"})
	m.until(c.root(), "example:least", "waited for by both", func(s lockclient.Status) bool { return s.Waiting == 2 })
	if answer, failure := c.invoke(c.id("Acquire"), map[string]any{"name": "least:check", "lease": "least-lease-00000000", "ttl_ms": 1000, "execution": running}); failure != "" {
		t.Fatalf("%s: %s", failure, answer)
	}
	checked, err := c.root().Status(t.Context(), "least:check")
	if err != nil {
		t.Fatal(err)
	}
	holder := func(fence int64) map[string]any {
		return map[string]any{"M": map[string]any{
			"fen": n(fence),
			"exp": n(now.Add(time.Hour).UnixMilli()), "tms": n(3_600_000), "tokens": map[string]any{"L": []any{map[string]any{"M": map[string]any{"task": s(token)}}}},
		}}
	}
	tokenEvent := map[string]any{"Records": []any{map[string]any{
		"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "113", "Keys": map[string]any{"pk": s("example:least"), "sk": s("lock")},
			"NewImage": map[string]any{
				"pk": s("example:least"), "sk": s("lock"), "rev": n(1), "fence": n(7), "capacity": n(1), "cause": s("acquire"), "free_at": n(1),
				"waiting": n(0), "next_ticket": n(0), "holders": map[string]any{"M": map[string]any{"none": holder(7)}},
			},
		},
	}}}
	check, _ := json.Marshal(map[string]any{"v": 1, "lock": "least:check", "lease": lock.KeyOf("least:check", "least-lease-00000000"), "fence": checked.Fence})
	checkEvent := map[string]any{"Records": []any{map[string]any{"messageId": "m2", "body": string(check), "eventSource": "aws:sqs"}}}
	said := ""
	fails := func(function string, payload any) bool {
		data, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: data, LogType: lambdatypes.LogTypeTail})
		if err != nil {
			t.Fatal(err)
		}
		var batch struct {
			Failures []any `json:"batchItemFailures"`
		}
		_ = json.Unmarshal(out.Payload, &batch)
		log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
		if err != nil {
			t.Fatal(err)
		}
		said = string(log) + " and answered " + string(out.Payload)
		return out.FunctionError != nil || len(batch.Failures) > 0 || putOff.Match(log)
	}
	lease := 0
	for _, test := range []struct {
		id      string
		actions string // prefix of the first action of the statement that is removed
		payload func() any
	}{
		{"Acquire", "dynamodb:", func() any {
			lease++
			return map[string]any{"name": fmt.Sprint("least:", lease), "lease": fmt.Sprintf("least-lease-%08d", lease)}
		}},
		{"Renew", "dynamodb:", func() any { return map[string]any{"name": "least:1", "lease": "least-lease-00000001"} }},
		{"Status", "dynamodb:BatchGetItem", func() any { return map[string]any{"name": "least:1", "op": "status"} }},
		{"ForceRelease", "dynamodb:", func() any { return map[string]any{"name": "least:2", "reason": "x"} }},
		{"Release", "dynamodb:", func() any { return map[string]any{"name": "least:1", "lease": "least-lease-00000001"} }},
		{"Expire", "dynamodb:BatchGetItem", func() any { return timerEvent }},
		{"Stream", "sqs:", func() any { return streamEvent }},
		{"Stream", "sqs:", func() any { return poison }},
		{"Stream", "dynamodb:BatchGetItem", func() any { return tokenEvent }},
		{"Stream", "events:", func() any { return streamEvent }}, // the last test of Stream, which does not retry the bus at once
		{"Expire", "states:Describe", func() any { return checkEvent }},
	} {
		role, function := c.id(test.id+"Role"), c.id(test.id)
		whole := c.rolePolicy(role)
		if fails(function, test.payload()) {
			t.Errorf("%s fails with its own role", test.id)
			continue
		}
		var rest []statement
		for _, st := range whole {
			if !strings.HasPrefix(first(st.Action), test.actions) {
				rest = append(rest, st)
			}
		}
		if len(rest) != len(whole)-1 {
			t.Errorf("%s has %d statements of %s", test.id, len(whole)-len(rest), test.actions)
		}
		c.setRolePolicy(role, rest)
		failed := fails(function, test.payload())
		for deadline := time.Now().Add(patience); !failed && test.id == "Expire" && test.actions == "states:Describe" && time.Now().Before(deadline); {
			failed = fails(function, test.payload()) // until the check is due
		}
		if !failed {
			t.Errorf("%s works without %s; it said %s", test.id, test.actions, said)
		}
		c.setRolePolicy(role, whole)
	}
	_ = holding.Release(t.Context())
	m.ended(execution)
	m.succeeds(running)
}

func first(action any) string {
	switch a := action.(type) {
	case string:
		return a
	case []any:
		return fmt.Sprint(a[0])
	}
	return ""
}

func (c *cloud) rolePolicy(role string) []statement {
	c.t.Helper()
	out, err := c.iam.GetRolePolicy(c.t.Context(), &iam.GetRolePolicyInput{RoleName: &role, PolicyName: aws.String("function")})
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := url.QueryUnescape(*out.PolicyDocument)
	if err != nil {
		c.t.Fatal(err)
	}
	var document struct{ Statement []statement }
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		c.t.Fatal(err)
	}
	return document.Statement
}

func (c *cloud) setRolePolicy(role string, statements []statement) {
	c.t.Helper()
	if _, err := c.iam.PutRolePolicy(c.t.Context(), &iam.PutRolePolicyInput{
		RoleName: &role, PolicyName: aws.String("function"), PolicyDocument: aws.String(policy(statements)),
	}); err != nil {
		c.t.Fatal(err)
	}
}
