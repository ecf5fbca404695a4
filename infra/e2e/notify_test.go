//go:build cloud

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// told receives a notification from a queue; empty if there is none within the time.
func (c *cloud) told(queue string, within time.Duration) (body string) {
	c.t.Helper()
	out, err := c.sqs.ReceiveMessage(c.t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &queue, WaitTimeSeconds: int32(within / time.Second)})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, m := range out.Messages {
		body = aws.ToString(m.Body)
		if _, err := c.sqs.DeleteMessage(c.t.Context(), &sqs.DeleteMessageInput{QueueUrl: &queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
			c.t.Fatal(err)
		}
	}
	return body
}

// notifyStatement reports whether a statement allows a function to notify waiters.
func notifyStatement(st statement) bool {
	text, _ := json.Marshal(st.Resource)
	return strings.HasPrefix(first(st.Action), "sqs:") && strings.Contains(string(text), "-notify-")
}

// The function that frees a lock notifies the next waiter, under its own role; and by the statement on the waiters' queues alone. Without it,
// and when the queue was deleted, the lock is freed all the same, and the stream function notifies the waiter if it may.
func TestNotification(t *testing.T) {
	c := newCloud(t)
	const notified, refused, deleted = "waiter was notified", "waiter cannot be notified", "deleted"
	for _, test := range []struct {
		how, by string
		without []string // roles that lose the statement
		log     string   // of the function that frees the lock
		arrives bool
	}{
		{"release", "Release", nil, notified, true},
		{"force", "ForceRelease", nil, notified, true},
		{"release-refused", "Release", []string{"Release"}, refused, true},
		{"force-refused", "ForceRelease", []string{"ForceRelease"}, refused, true},
		{"all-refused", "Release", []string{"Release", "Stream"}, refused, false},
		{deleted, "Release", nil, refused, false},
	} {
		prefix := c.outputs["NotifyPrefix"]
		queue := prefix + "e2e-" + test.how
		name := queue[strings.LastIndexByte(queue, '/')+1:]
		created, err := c.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
		if err != nil {
			t.Fatal(err)
		}
		lock, secret := "notify:"+test.how, "notify-holder-0123456789"
		if answer, failure := c.invoke(c.id("Acquire"), map[string]any{"name": lock, "lease": secret}); failure != "" {
			t.Fatalf("%s: %s", failure, answer)
		}
		waiter := map[string]any{"name": lock, "lease": "notify-waiter-0123456789", "wait_ms": 60_000, "notify": map[string]any{"queue": queue, "id": test.how}}
		if answer, failure := c.invoke(c.id("Acquire"), waiter); failure != "LockHeld" {
			t.Fatalf("%s: %s", failure, answer)
		}
		if test.how == deleted {
			if _, err := c.sqs.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: created.QueueUrl}); err != nil {
				t.Fatal(err)
			}
		}
		whole := map[string][]statement{}
		for _, id := range test.without {
			role := c.id(id + "Role")
			whole[role] = c.rolePolicy(role)
			rest := slices.DeleteFunc(slices.Clone(whole[role]), notifyStatement)
			if len(rest) != len(whole[role])-1 {
				t.Errorf("%s has %d statements on waiters' queues", id, len(whole[role])-len(rest))
			}
			c.setRolePolicy(role, rest)
		}
		free := map[string]any{"name": lock, "lease": secret}
		if test.by == "ForceRelease" {
			free = map[string]any{"name": lock, "reason": "test"}
		}
		log, _ := c.logOf(c.id(test.by), free)
		if !strings.Contains(log, test.log) {
			t.Errorf("%s: %s", test.how, log)
		}
		if test.how != deleted {
			body, want := c.told(*created.QueueUrl, 3*time.Second), fmt.Sprintf(`{"type":"granted","lock":"%s","fence":`, lock)
			if arrived := strings.HasPrefix(body, want) && strings.HasSuffix(body, `"id":"`+test.how+`"}`); arrived != test.arrives {
				t.Errorf("%s: received %q", test.how, body)
			}
		}
		for role, statements := range whole {
			c.setRolePolicy(role, statements)
		}
		if answer, failure := c.invoke(c.id("Acquire"), waiter); failure != "" {
			t.Errorf("%s: the grant cannot be claimed: %s %s", test.how, failure, answer)
		}
	}
	elsewhere := map[string]any{"name": "notify:elsewhere", "lease": "notify-waiter-0123456789", "wait_ms": 60_000, "notify": map[string]any{"queue": c.outputs["DeadLettersUrl"], "id": "1"}}
	if answer, failure := c.invoke(c.id("Acquire"), elsewhere); failure != "InvalidRequest" {
		t.Errorf("another queue: %s %s", failure, answer)
	}
}

// The time from a release's request to the message in the waiter's hands.
func TestTimeOfANotification(t *testing.T) {
	c := newCloud(t)
	queue := c.outputs["NotifyPrefix"] + "e2e-time"
	name := queue[strings.LastIndexByte(queue, '/')+1:]
	created, err := c.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for i := range 20 {
		lease := map[string]any{"name": "notify:time", "lease": fmt.Sprintf("notify-time-%012d", i)}
		next := map[string]any{"name": "notify:time", "lease": fmt.Sprintf("notify-time-%012d", i+1), "wait_ms": 60_000, "notify": map[string]any{"queue": queue, "id": fmt.Sprint(i)}}
		if i == 0 {
			if answer, failure := c.invoke(c.id("Acquire"), lease); failure != "" {
				t.Fatalf("%s: %s", failure, answer)
			}
		}
		if answer, failure := c.invoke(c.id("Acquire"), next); failure != "LockHeld" {
			t.Fatalf("%s: %s", failure, answer)
		}
		heard := make(chan time.Time, 1)
		go func() {
			c.told(*created.QueueUrl, 10*time.Second)
			heard <- time.Now()
		}()
		time.Sleep(200 * time.Millisecond) // the receive is under way
		start := time.Now()
		if answer, failure := c.invoke(c.id("Release"), lease); failure != "" {
			t.Fatalf("%s: %s", failure, answer)
		}
		took = append(took, (<-heard).Sub(start))
		if answer, failure := c.invoke(c.id("Acquire"), next); failure != "" {
			t.Fatalf("%s: %s", failure, answer)
		}
		for c.told(*created.QueueUrl, 0) != "" { // the stream function's repetition, if there was one
		}
	}
	slices.Sort(took)
	fmt.Printf("e2e: from a release's request to the notification in the waiter's hands: p50 %v, max %v\n", took[len(took)/2], took[len(took)-1])
}
