package dynamo_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

// A waiter behind ten others that polls for a week keeps the item by which its place is found: the item's native TTL stays ahead of the
// clock, at the price of one write a day. So a poll that must be decided on as without a ticket finds the place and does not join again.
func TestPlaceOutlivesItsWaiter(t *testing.T) {
	w, clock := &wire{}, &storetest.Clock{}
	table := ""
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient, table = w, c.Table })
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	tickets := map[string]int64{}
	ask := func(secret string) {
		t.Helper()
		_, err := c.Acquire(t.Context(), lock.AcquireRequest{
			Lock: "q", Secret: secret, TTL: 30 * 24 * time.Hour, Capacity: 1, Permits: 1, Wait: 12 * time.Hour, Ticket: tickets[secret],
		})
		held, ok := errors.AsType[*lock.HeldError](err)
		if !ok && err != nil {
			t.Fatal(err)
		}
		if ok {
			tickets[secret] = held.Ticket
		}
	}
	ask("holder")
	for i := range lock.QueueHead + 1 {
		ask(fmt.Sprint("w", i))
	}
	last := fmt.Sprint("w", lock.QueueHead)
	ticket := tickets[last]
	item := map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "q"}, "sk": &types.AttributeValueMemberS{Value: "place#" + string(lock.KeyOf("q", last))}}
	writes := 0
	for range 7 * 24 / 7 {
		clock.Advance(7 * time.Hour)
		for i := range lock.QueueHead + 1 {
			w.reset()
			ask(fmt.Sprint("w", i))
		}
		if w.count() == 3 { // a read, the waiter's place, and its native TTL
			writes++
		}
		out, err := engine(t).GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: item})
		if err != nil || out.Item == nil {
			t.Fatal(out, err)
		}
		ttl, _ := strconv.ParseInt(out.Item["ttl"].(*types.AttributeValueMemberN).Value, 10, 64)
		if left := time.Unix(ttl, 0).Sub(clock.Now()); left < 24*time.Hour {
			t.Fatalf("the item of the place may be purged in %v, while its waiter polls", left)
		}
	}
	if writes < 6 || writes > 8 {
		t.Errorf("%d writes of the place's native TTL in a week, want one a day", writes)
	}
	if tickets[last] != ticket {
		t.Errorf("the waiter joined again: ticket %d, was %d", tickets[last], ticket)
	}
}
