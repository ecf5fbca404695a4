package dynamo_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

func TestSuite(t *testing.T) { storetest.Run(t, newStore(t)) }

func TestProperty(t *testing.T) {
	t.Parallel()
	storetest.Property(t, newStore(t, patient))
}

// patient gives the engine as long as it takes to answer: the property tests send tens of thousands of requests, and on a busy machine one of them
// may take longer than a store waits.
func patient(c *dynamo.Config) { c.AWS.HTTPClient = unbounded{connections} }

// unbounded is an HTTP client whose requests the store gives no limit of its own.
type unbounded struct{ *http.Client }

// An uncontended acquire, renew and release are one request each, and never a read.
func TestRequestsPerOperation(t *testing.T) {
	w := &wire{}
	clock := &storetest.Clock{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w })
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(lease string) error {
		_, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "r", Secret: lease, TTL: time.Minute, Capacity: 1, Permits: 1})
		return err
	}
	for _, step := range []struct {
		name string
		want int
		do   func() error
	}{
		{"acquire", 1, func() error { return acquire("a") }},
		{"renew", 1, func() error {
			_, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "r", Secret: "a", TTL: time.Minute})
			return err
		}},
		{"renew without a TTL", 1, func() error {
			_, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "r", Secret: "a"})
			return err
		}},
		{"repeated acquire", 1, func() error { return acquire("a") }},
		{"refused acquire", 1, func() error { _ = acquire("b"); return nil }},
		{"release", 1, func() error {
			_, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "r", Secret: "a"})
			return err
		}},
		{"repeated release", 1, func() error {
			_, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "r", Secret: "a"})
			return err
		}},
		{"acquire of a lock that was held before", 1, func() error { return acquire("c") }},
		{"take-over of an expired lease", 2, func() error { return acquire("d") }},
		{"status", 1, func() error { _, err := c.Status(t.Context(), "r"); return err }},
	} {
		if strings.Contains(step.name, "expired") {
			clock.Advance(2 * time.Minute)
		}
		if _, err := c.PrefixRules(t.Context()); err != nil { // an acquire reads them only if they are older than their period
			t.Fatal(err)
		}
		w.reset()
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		reads := slices.ContainsFunc(w.requests, func(target string) bool { return strings.Contains(target, "GetItem") })
		if w.count() != step.want || reads != (step.name == "status") {
			t.Errorf("%s: requests %v, want %d", step.name, w.requests, step.want)
		}
	}
}

// A held lock without metadata, with a trace context, fits one write unit: 1 KB, names and values of attributes counted.
func TestItemFitsOneWriteUnit(t *testing.T) {
	table := ""
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	c, _ := lock.New(lock.Config{Store: s})
	name := "deploy:" + strings.Repeat("n", 100)
	req := lock.AcquireRequest{
		Lock: name, Secret: "a", TTL: time.Hour, Capacity: 1, Permits: 1, Owner: strings.Repeat("o", 64),
		Principal: "arn:aws:sts::123456789012:assumed-role/some-deploy-role-of-a-team/a-session-name",
		Trace:     "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	for range 2 {
		if _, err := c.Acquire(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: req.Secret, Principal: req.Principal}); err != nil {
			t.Fatal(err)
		}
		req.Secret += "b"
	}
	if _, err := c.Acquire(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	out, err := engine(t).UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(table), Key: map[string]types.AttributeValue{
			"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: "lock"},
		},
		UpdateExpression: aws.String("ADD rev :one"), ExpressionAttributeValues: map[string]types.AttributeValue{":one": &types.AttributeValueMemberN{Value: "0"}},
		ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
	})
	if err != nil {
		t.Fatal(err)
	}
	if units := *out.ConsumedCapacity.CapacityUnits; units != 1 {
		t.Errorf("a write takes %v units", units)
	}
}

// Attributes that this version doesn't know, on the item and in holders, are kept by every command that keeps the thing
// they belong to, and a record without the newer attributes is read.
func TestUnknownAttributesAreKept(t *testing.T) {
	table := ""
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	clock := &storetest.Clock{}
	c, _ := lock.New(lock.Config{Store: s, Clock: clock.Now})
	db := engine(t)
	itemKey := map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: "u"}, "sk": &types.AttributeValueMemberS{Value: "lock"},
	}
	acquire := func(lease string, ttl time.Duration) {
		t.Helper()
		if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "u", Secret: lease, TTL: ttl, Capacity: 3, Permits: 1}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(step string, holder bool) {
		t.Helper()
		out, err := db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(table), Key: itemKey})
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := out.Item["newer"]; !ok {
			t.Errorf("%s: the item's newer attribute is gone", step)
		}
		h, _ := out.Item["holders"].(*types.AttributeValueMemberM).Value[string(lock.KeyOf("u", "a"))].(*types.AttributeValueMemberM)
		if holder {
			if _, ok := h.Value["newer"]; !ok {
				t.Errorf("%s: the holder's newer attribute is gone", step)
			}
		}
	}
	acquire("a", time.Minute)
	if _, err := db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(table), Key: itemKey,
		UpdateExpression:         aws.String("SET newer = :x, holders.#k.newer = :x REMOVE next_ticket, reason"),
		ExpressionAttributeNames: map[string]string{"#k": string(lock.KeyOf("u", "a"))},
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":x": &types.AttributeValueMemberSS{Value: []string{"not", "ours"}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	renew := func(ttl time.Duration) {
		if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "u", Secret: "a", TTL: ttl}); err != nil {
			t.Fatal(err)
		}
	}
	renew(2 * time.Minute)
	check("renew", true)
	acquire("b", time.Hour)
	check("join", true)
	renew(3 * time.Minute)
	check("renew by swap", true)
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "u", Secret: "b"}); err != nil {
		t.Fatal(err)
	}
	check("leave", true)
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "u", Secret: "a"}); err != nil {
		t.Fatal(err)
	}
	check("release", false)
	acquire("c", time.Minute)
	check("take", false)
}

func TestSetProperty(t *testing.T) {
	t.Parallel()
	storetest.SetProperty(t, newStore(t, patient))
}
