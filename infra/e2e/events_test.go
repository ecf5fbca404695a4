//go:build cloud

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A rule whose prefix matches gets each event of a lock's life once, in order; other rules get none.
func TestLifeOfALock(t *testing.T) {
	c := newCloud(t)
	all := c.subscribe("life", map[string]any{"source": []string{"holdfast"}, "detail": map[string]any{"prefixes": []string{"life:a"}}})
	other := c.subscribe("other", map[string]any{"source": []string{"holdfast"}, "detail": map[string]any{"prefixes": []string{"lif", "life:b"}}})
	client := c.root()
	lease, err := client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{Owner: "first", Metadata: map[string]int{"build": 7}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{})
	if held, ok := errors.AsType[*lockclient.HeldError](err); !ok || len(held.Holders) != 1 || held.Holders[0].Owner != "first" {
		t.Errorf("contention: %v", err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	status, err := client.Status(t.Context(), "life:a:x")
	if err != nil || !status.Locked || status.Holders[0].Fence != lease.Fence() || !strings.Contains(status.Holders[0].Principal, "arn:aws:") {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	forced, err := client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{Owner: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if forced.Fence() <= lease.Fence() {
		t.Errorf("fence went from %d to %d", lease.Fence(), forced.Fence())
	}
	if status := c.post(c.aws.Credentials, "/v1/locks/life:a:x/force-release", `{"reason":"test"}`); status != http.StatusOK {
		t.Errorf("force-release: %d", status)
	}
	if err := forced.Renew(t.Context()); !errors.Is(err, lockclient.ErrLost) {
		t.Errorf("renewal after force-release: %v", err)
	}
	unrelated, err := client.TryAcquire(t.Context(), "life:b", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = unrelated.Release(t.Context())
	for i, want := range []struct {
		kind  string
		fence int64
	}{
		{events.TypeAcquired, lease.Fence()}, {events.TypeReleased, lease.Fence()},
		{events.TypeAcquired, forced.Fence()}, {events.TypeForceReleased, forced.Fence()},
	} {
		e := all.next()
		if e.DetailType() != want.kind || e.Subject().Fence != want.fence || e.Subject().Lock != "life:a:x" {
			t.Errorf("event %d: %s %+v, want %+v", i, e.DetailType(), e.Subject(), want)
		}
	}
	if e := other.next(); e.Subject().Lock != "life:b" {
		t.Errorf("another subtree's rule heard of %+v", e.Subject())
	}
}

// A timer publishes the expiry of a holder that has died, and the lock is free.
func TestPromptExpiry(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("prompt", map[string]any{"detail-type": []string{events.TypeExpired}, "detail": map[string]any{"lock": []string{"prompt:dead"}}})
	lease, err := c.root().TryAcquire(t.Context(), "prompt:dead", lockclient.Options{TTL: 2 * time.Second, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	e := heard.next().(events.Expired)
	if e.Fence != lease.Fence() || e.Purged {
		t.Errorf("event %+v", e)
	}
	fmt.Printf("e2e: Lock Expired came %d ms after the lease's expiry\n", time.Since(e.ExpiresAt.Time).Milliseconds())
}

// The expiry of a row is also published if its timer is lost and native TTL removes the row.
func TestNativeTTLIsTheBackstop(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("backstop", map[string]any{"detail-type": []string{events.TypeExpired}, "detail": map[string]any{"lock": []string{"backstop:x"}}})
	lease, err := c.root().TryAcquire(t.Context(), "backstop:x", lockclient.Options{TTL: time.Hour, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(c.outputs["TableName"]), Key: rowKey("backstop:x"), UpdateExpression: aws.String("SET #t = :past"),
		ExpressionAttributeNames: map[string]string{"#t": "ttl"},
		ExpressionAttributeValues: map[string]dbtypes.AttributeValue{
			":past": &dbtypes.AttributeValueMemberN{Value: fmt.Sprint(time.Now().Add(-time.Hour).Unix())},
		},
	}); err != nil {
		t.Fatal(err)
	}
	if e := heard.next().(events.Expired); e.Fence != lease.Fence() || !e.Purged {
		t.Errorf("event %+v", e)
	}
}

// A record that cannot be decoded goes to the dead-letter queue, and later records are handled.
func TestPoisonRecord(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("poison", map[string]any{"detail": map[string]any{"lock": []string{"poison:after"}}})
	item := rowKey("poison:x")
	item["rev"], item["cause"] = &dbtypes.AttributeValueMemberS{Value: "not a number"}, &dbtypes.AttributeValueMemberS{Value: "acquire"}
	if _, err := c.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(c.outputs["TableName"]), Item: item}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.root().TryAcquire(t.Context(), "poison:after", lockclient.Options{}); err != nil {
		t.Fatal(err)
	}
	if e := heard.next(); e.DetailType() != events.TypeAcquired {
		t.Errorf("event %s", e.DetailType())
	}
	if body := c.receive(c.outputs["DeadLettersUrl"]); !strings.Contains(body, "poison:x") || !strings.Contains(body, "rev") {
		t.Errorf("dead letter %s", body)
	}
}
