//go:build cloud

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// taskToken is the task token in a lease or in the wish of a waiter.
func taskToken(lease dbtypes.AttributeValue) string {
	tokens := lease.(*dbtypes.AttributeValueMemberM).Value["tokens"].(*dbtypes.AttributeValueMemberL).Value
	return tokens[0].(*dbtypes.AttributeValueMemberM).Value["task"].(*dbtypes.AttributeValueMemberS).Value
}

// waiting is the waiter with a ticket.
func (c *cloud) waiting(name string, ticket int) dbtypes.AttributeValue {
	c.t.Helper()
	out, err := c.db.GetItem(c.t.Context(), &dynamodb.GetItemInput{TableName: aws.String(c.outputs["TableName"]), Key: map[string]dbtypes.AttributeValue{
		"pk": &dbtypes.AttributeValueMemberS{Value: name}, "sk": &dbtypes.AttributeValueMemberS{Value: fmt.Sprintf("wait#%016d", ticket)},
	}})
	if err != nil || out.Item == nil {
		c.t.Fatalf("%v, %v", out, err)
	}
	return out.Item["want"]
}

// logOf invokes a function, and returns its log with the time that the request took.
func (c *cloud) logOf(function string, payload any) (string, time.Duration) {
	c.t.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	start := time.Now()
	out, err := c.lambda.Invoke(c.t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: data, LogType: lambdatypes.LogTypeTail})
	took := time.Since(start)
	if err != nil || out.FunctionError != nil {
		c.t.Fatalf("%s: %v %s", function, err, out.Payload)
	}
	log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(log), took
}

// The function that frees a lock sends the callback of the next task before it answers, under its own role; and it may do so by its
// statement on the state machines alone.
func TestCallbackWithinTheRequest(t *testing.T) {
	m := newMachines(t)
	undeliverable := regexp.MustCompile(`callback_undeliverable("?:|=)1`)
	const delivered, secret = "callback of a grant was delivered", "callback-lease-0123456789"
	free := func(id, name string) (function string, payload map[string]any) {
		switch id {
		case "Release":
			return m.id(id), map[string]any{"name": name, "lease": secret}
		case "ForceRelease":
			return m.id(id), map[string]any{"name": name, "reason": "test"}
		}
		token := taskToken(m.waiting(name, 1)) // an acquire that is granted at once tells its own task
		return m.id(id), map[string]any{"name": name + "-free", "lease": secret, "task_token": token}
	}
	for _, id := range []string{"Release", "ForceRelease", "Acquire"} {
		for _, allowed := range []bool{true, false} {
			name := fmt.Sprintf("example:callback-%s-%v", strings.ToLower(id), allowed)
			if answer, failure := m.invoke(m.id("Acquire"), map[string]any{"name": name, "lease": secret, "ttl_ms": 600_000}); failure != "" {
				t.Fatalf("%s: %s", failure, answer)
			}
			execution := m.start("CriticalSection", strings.ReplaceAll(name, ":", "-"), map[string]any{"lock": name})
			m.until(m.root(), name, "waited for", func(s lockclient.Status) bool { return s.Waiting == 1 })
			function, payload := free(id, name)
			role := m.id(id + "Role")
			whole := m.rolePolicy(role)
			if !allowed {
				rest := slices.DeleteFunc(slices.Clone(whole), func(st statement) bool { return strings.HasPrefix(first(st.Action), "states:") })
				if len(rest) != len(whole)-1 {
					t.Errorf("%s has %d statements on state machines", id, len(whole)-len(rest))
				}
				m.setRolePolicy(role, rest)
			}
			log, _ := m.logOf(function, payload)
			m.setRolePolicy(role, whole)
			if strings.Contains(log, delivered) != allowed || undeliverable.MatchString(log) == allowed {
				t.Errorf("%s, allowed %v: %s", id, allowed, log)
			}
			if allowed && id != "Acquire" {
				m.succeeds(execution)
			} else {
				m.ended(execution)
			}
		}
	}
}

// How much longer a release takes that calls a task back.
func TestTimeOfACallback(t *testing.T) {
	m := newMachines(t)
	var with, without []time.Duration
	for i := range 20 {
		name := fmt.Sprint("example:callback-time-", i)
		lease := map[string]any{"name": name, "lease": fmt.Sprintf("callback-time-%010d", i)}
		for _, task := range []bool{false, true} {
			if answer, failure := m.invoke(m.id("Acquire"), lease); failure != "" {
				t.Fatalf("%s: %s", failure, answer)
			}
			if !task {
				_, took := m.logOf(m.id("Release"), lease)
				without = append(without, took)
				lease["lease"] = fmt.Sprintf("callback-time-again-%010d", i)
				continue
			}
			execution := m.start("CriticalSection", fmt.Sprint("callback-time-", i), map[string]any{"lock": name})
			m.until(m.root(), name, "waited for", func(s lockclient.Status) bool { return s.Waiting == 1 })
			_, took := m.logOf(m.id("Release"), lease)
			with = append(with, took)
			m.succeeds(execution)
		}
	}
	slices.Sort(with)
	slices.Sort(without)
	fmt.Printf("e2e: a release with the callback of the next task: p50 %v; of a lock that nobody waits for: p50 %v\n", with[len(with)/2], without[len(without)/2])
}
