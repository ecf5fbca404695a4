package dynamo_test

import (
	"errors"
	"fmt"
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

// actions are the DynamoDB actions of the requests so far.
func (w *wire) actions() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, r := range w.requests {
		list = append(list, r[strings.Index(r, ".")+1:])
	}
	return strings.Join(list, " ")
}

// What waiting costs does not depend on how many wait: a poll is one read, a place is kept by one write, and a caller joins with one query
// of the queue's head.
func TestRequestsOfWaiters(t *testing.T) {
	for _, n := range []int{1, 10, 100} {
		w, clock := &wire{}, &storetest.Clock{}
		s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w })
		c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(secret string, ticket int64) *lock.HeldError {
			w.reset()
			_, err := c.Acquire(t.Context(), lock.AcquireRequest{
				Lock: "q", Secret: secret, TTL: time.Hour, Capacity: 1, Permits: 1, Wait: 15 * time.Second, Ticket: ticket, Owner: "host/1234",
			})
			held, _ := errors.AsType[*lock.HeldError](err)
			if err != nil && held == nil {
				t.Fatal(err)
			}
			return held
		}
		want := func(what, actions string) {
			t.Helper()
			if got := w.actions(); got != actions {
				t.Errorf("%d waiters: %s is %s, want %s", n, what, got, actions)
			}
		}
		_ = ask("holder", 0)
		var last *lock.HeldError
		for i := range n {
			last = ask(fmt.Sprint(i), 0)
			switch {
			case i == 0:
				want("joining", "UpdateItem TransactWriteItems")
			case i < lock.QueueHead:
				want("joining", "UpdateItem Query TransactWriteItems")
			default:
				want("joining", "UpdateItem Query GetItem TransactWriteItems")
			}
		}
		secret := fmt.Sprint(n - 1)
		if held := ask(secret, last.Ticket); held == nil || held.Position != int64(n) || held.Waiting != int64(n) {
			t.Errorf("%d waiters: %+v", n, held)
		}
		want("a poll", "BatchGetItem")
		clock.Advance(8 * time.Second)
		_ = ask(secret, last.Ticket)
		want("a poll in the second half of the place's time", "BatchGetItem UpdateItem")
		_ = ask(secret, 0)
		if n > lock.QueueHead {
			want("a repeat without a ticket", "UpdateItem Query GetItem GetItem")
		} else {
			want("a repeat without a ticket", "UpdateItem Query")
		}
	}
}

// A BatchGetItem may leave out an item. It is asked for again, three times in all.
func TestPollOfUnprocessedItems(t *testing.T) {
	row := `{"pk":{"S":"a"},"sk":{"S":"lock"},"rev":{"N":"3"},"fence":{"N":"9"},"waiting":{"N":"1"},"head":{"N":"7"}}`
	left := func(sk string) string {
		return `"UnprocessedKeys":{"locks":{"Keys":[{"pk":{"S":"a"},"sk":{"S":"` + sk + `"}}],"ConsistentRead":true}}`
	}
	s, wire := scripted(t, `{"Responses":{"locks":[`+row+`]},`+left("wait#0000000000000007")+`}`, `{"Responses":{"locks":[`+waiterJSON(7)+`]}}`)
	reply, w, err := s.Poll(t.Context(), "a", 7)
	if err != nil || reply.After.Rev != 3 || reply.After.Head != 7 || w.Ticket != 7 || w.Key != "l7" || len(wire.asked) != 2 {
		t.Errorf("%+v, %+v, %v after %s", reply, w, err, wire.actions())
	}
	for i, r := range wire.asked {
		for _, table := range r.at("RequestItems").(map[string]any) {
			request := table.(map[string]any)
			if request["ConsistentRead"] != true || len(request["Keys"].([]any)) != 2-i {
				t.Errorf("request %d: %v", i, request)
			}
		}
	}
	never := `{"Responses":{},` + left("lock") + `}`
	s, wire = scripted(t, never, never, never, never)
	if _, _, err := s.Poll(t.Context(), "a", 7); !errors.Is(err, lock.ErrThrottled) || len(wire.asked) != 3 {
		t.Errorf("%v after %s", err, wire.actions())
	}
	s, _ = scripted(t, `{"Responses":{"locks":[{"pk":{"S":"a"},"sk":{"S":"lock"},"rev":{"S":"x"}}]}}`)
	if _, _, err := s.Poll(t.Context(), "a", 7); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("an item that cannot be read: %v", err)
	}
}

// A waiter's item that outlives its lock's row does not keep its waiter waiting.
func TestPollWithoutARow(t *testing.T) {
	table := ""
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(secret string, ticket int64) error {
		_, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "q", Secret: secret, TTL: time.Hour, Capacity: 1, Permits: 1, Wait: time.Hour, Ticket: ticket})
		return err
	}
	if err := ask("holder", 0); err != nil {
		t.Fatal(err)
	}
	held, ok := errors.AsType[*lock.HeldError](ask("b", 0))
	if !ok {
		t.Fatal("not held")
	}
	_, err = engine(t).DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: aws.String(table), Key: map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: "q"}, "sk": &types.AttributeValueMemberS{Value: "lock"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ask("b", held.Ticket); err != nil {
		t.Error(err)
	}
}

// A place's item has a native TTL, and goes when the store finds that its place is gone.
func TestPlaceItems(t *testing.T) {
	table := ""
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	clock := &storetest.Clock{}
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(secret string) {
		_, _ = c.Acquire(t.Context(), lock.AcquireRequest{Lock: "q", Secret: secret, TTL: time.Hour, Capacity: 1, Permits: 1, Wait: time.Minute})
	}
	for i := range lock.QueueHead + 3 {
		ask(fmt.Sprint(i))
	}
	items := func() (places int) {
		out, err := engine(t).Scan(t.Context(), &dynamodb.ScanInput{TableName: aws.String(table)})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range out.Items {
			if sk := it["sk"].(*types.AttributeValueMemberS).Value; strings.HasPrefix(sk, "place#") {
				if places++; it["ttl"] == nil {
					t.Errorf("%v has no native TTL", it)
				}
			}
		}
		return places
	}
	if n := items(); n != 2 {
		t.Errorf("%d places have items", n)
	}
	last := fmt.Sprint(lock.QueueHead + 2)
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "q", Secret: last}); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Place(t.Context(), "q", lock.KeyOf("q", last)); w.Ticket != 0 || err != nil {
		t.Errorf("%+v, %v", w, err)
	}
	if n := items(); n != 1 {
		t.Errorf("%d places have items", n)
	}
}
