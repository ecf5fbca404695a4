package dynamo_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A hand-off costs the same number of requests however many waiters there are, and waiting costs none.
func TestRequestsPerHandOff(t *testing.T) {
	for _, n := range []int{1, 10, 100} {
		w := &wire{}
		s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w })
		c, err := lock.New(lock.Config{Store: s})
		if err != nil {
			t.Fatal(err)
		}
		acquire := func(i int) error {
			_, err := c.Acquire(t.Context(), lock.AcquireRequest{
				Lock: "q", Secret: fmt.Sprint("w", i), TTL: time.Hour, Capacity: 1, Permits: 1, Wait: time.Hour, Token: task(strings.Repeat("t", 800)),
			})
			return err
		}
		count := func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			var ops []string
			for _, r := range w.requests {
				ops = append(ops, r[strings.Index(r, ".")+1:])
			}
			return strings.Join(ops, ", ")
		}
		if err := acquire(0); err != nil {
			t.Fatal(err)
		}
		var enqueued string
		for i := 1; i <= n; i++ {
			w.reset()
			if err := acquire(i); !errors.Is(err, lock.ErrLockHeld) {
				t.Fatal(err)
			}
			enqueued = count()
		}
		want := "GetItem, Query, TransactWriteItems"
		if n > lock.QueueHead { // and the place that a repeated request may have behind the head
			want = "GetItem, Query, GetItem, TransactWriteItems"
		}
		if n > 1 && enqueued != want {
			t.Errorf("%d waiters: enqueueing is %s, want %s", n, enqueued, want)
		}
		w.reset()
		if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "q", Secret: "w0"}); err != nil {
			t.Fatal(err)
		}
		handOff := count()
		r, err := s.Get(t.Context(), "q")
		if err != nil {
			t.Fatal(err)
		}
		key := lock.KeyOf("q", "w1")
		ref, tokens := lock.GrantRef{Lock: "q", Key: key, Fence: r.After.Holders[key].Fence}, lock.Tokens{task(strings.Repeat("t", 800))}
		w.reset()
		attempt, err := c.MarkAttempt(t.Context(), ref, tokens, r.After)
		if !attempt.First || err != nil {
			t.Fatal(attempt.First, err)
		}
		before := count()
		w.reset()
		if _, err := c.MarkTold(t.Context(), ref, tokens, attempt.Seen); err != nil {
			t.Fatal(err)
		}
		after := count()
		w.reset()
		if _, err := c.MarkAttempt(t.Context(), ref, tokens, lock.Record{}); !errors.Is(err, lock.ErrTold) {
			t.Fatal(err)
		}
		fmt.Printf("handoff: %d waiters: %s; before the callback %s, after it %s, and by the stream's consumer %s\n", n, handOff, before, after, count())
		if handOff != "UpdateItem, Query, TransactWriteItems" || before != "UpdateItem" || after != "UpdateItem" || count() != "GetItem" {
			t.Errorf("%d waiters: %s; %s; %s; %s", n, handOff, before, after, count())
		}
	}
}

// A transaction whose reply was lost is answered again, and not refused because it was applied; one that conflicts with another write
// reads the record again.
func TestTransactionsAreRetried(t *testing.T) {
	for _, lost := range []int{1, 2} {
		s := newSetup(t)
		req := func(lease string) lock.AcquireRequest {
			return lock.AcquireRequest{Lock: "f", Secret: lease, Owner: lease, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Minute}
		}
		if _, err := s.Acquire(t.Context(), req("a")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Acquire(t.Context(), req("b")); !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
		s.wire.reset()
		n := 0
		s.wire.after = func(i int, resp *http.Response) (*http.Response, error) {
			if strings.HasSuffix(s.wire.requests[i-1], "TransactWriteItems") {
				if n++; n <= lost {
					_ = resp.Body.Close()
					return nil, errors.New("connection reset by peer")
				}
			}
			return resp, nil
		}
		if _, err := s.Release(t.Context(), lock.ReleaseRequest{Lock: "f", Secret: "a"}); err != nil {
			t.Fatal(err)
		}
		r, err := s.store.Get(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := r.After.Holders[lock.KeyOf("f", "b")]; !ok || len(r.After.Holders) != 1 || r.After.Waiting != 0 || r.After.Rev != 3 {
			t.Errorf("%d replies lost: %+v", lost, r.After)
		}
		if transactions := len(slices.DeleteFunc(slices.Clone(s.wire.requests), func(target string) bool { return !strings.HasSuffix(target, "TransactWriteItems") })); transactions != lost+1 {
			t.Errorf("%d transactions", transactions)
		}
	}
}

// After a waiter was deleted by hand, the lock is granted to the remaining ones.
func TestQueueEditedByHand(t *testing.T) {
	var table string
	s := newSetup(t, func(c *dynamo.Config) { table = c.Table })
	for _, lease := range []string{"a", "b", "c"} {
		_, err := s.Acquire(t.Context(), lock.AcquireRequest{Lock: "f", Secret: lease, Owner: lease, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Minute})
		if err != nil && !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	if _, err := engine(t).DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &table, Key: map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: "f"}, "sk": &types.AttributeValueMemberS{Value: fmt.Sprintf("wait#%016d", 1)},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Release(t.Context(), lock.ReleaseRequest{Lock: "f", Secret: "a"}); err != nil {
		t.Fatal(err)
	}
	r, err := s.store.Get(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.After.Holders[lock.KeyOf("f", "c")]; !ok || r.After.Waiting != 0 {
		t.Errorf("record %+v", r.After)
	}
}

// task is the token of a Step Functions task.
func task(text string) lock.Token { return lock.Token{Kind: lock.TaskToken, Text: text} }
