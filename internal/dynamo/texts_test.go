package dynamo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
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

// A meter asks DynamoDB for the capacity that each request consumes, and adds it up.
type meter struct {
	wire
	units float64
}

func (m *meter) Do(req *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(req.Body)
	var transaction struct{ TransactItems []json.RawMessage }
	_ = json.Unmarshal(body, &transaction)
	body = append([]byte(`{"ReturnConsumedCapacity":"TOTAL",`), bytes.TrimPrefix(body, []byte("{"))...)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	req.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp, err := m.wire.Do(req)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(data))
	var one struct {
		ConsumedCapacity struct{ CapacityUnits float64 }
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if json.Unmarshal(data, &one) == nil {
		m.units += one.ConsumedCapacity.CapacityUnits
	}
	var several struct {
		ConsumedCapacity []struct{ CapacityUnits float64 }
	}
	if len(transaction.TransactItems) > 0 { // DynamoDB Local counts some of them only; each of less than 1 KB takes two
		m.units += 2 * float64(len(transaction.TransactItems))
	} else if json.Unmarshal(data, &several) == nil {
		for _, c := range several.ConsumedCapacity {
			m.units += c.CapacityUnits
		}
	}
	return resp, err
}

func permit(i int, change ...func(*lock.AcquireRequest)) lock.AcquireRequest {
	req := lock.AcquireRequest{
		Lock: "s", Secret: fmt.Sprint("secret ", i), Owner: fmt.Sprintf("host-%02d.example/12345", i), Capacity: 100, Permits: 1, TTL: time.Minute,
		Principal: "arn:aws:sts::123456789012:assumed-role/some-role-of-a-team/a-session", Metadata: `{"commit":"0123456789abcdef","why":"a nightly run"}`,
	}
	for _, c := range change {
		c(&req)
	}
	return req
}

func (m *meter) reset() {
	m.wire.reset()
	m.units = 0
}

// costs checks the requests of something that is done, and that they consume no more than so many units.
func (m *meter) costs(t *testing.T, what, actions string, most float64, do func() error) {
	t.Helper()
	m.reset()
	if err := do(); err != nil {
		t.Fatal(what, err)
	}
	if got := m.actions(); got != actions || m.units > most {
		t.Errorf("%s: %s, %v units; want %s, at most %v", what, got, m.units, actions, most)
	}
	t.Logf("%s: %s, %v units", what, m.actions(), m.units)
}

// metered is a coordinator over a table, whose requests and units are counted.
func metered(t *testing.T) (*meter, *storetest.Clock, *lock.Coordinator) {
	t.Helper()
	m, clock := &meter{}, &storetest.Clock{}
	c, err := lock.New(lock.Config{Store: newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = m }), Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return m, clock, c
}

// The units of one write of a lock with many holders, and the requests of each operation.
func TestUnitsOfASemaphore(t *testing.T) {
	m, clock, c := metered(t)
	cost := func(what, actions string, most float64, do func() error) {
		t.Helper()
		if _, err := c.PrefixRules(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.costs(t, what, actions, most, do)
	}
	for i := range 100 {
		clock.Advance(10 * time.Millisecond)
		join := func() error { _, err := c.Acquire(t.Context(), permit(i)); return err }
		renew := func() error {
			_, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "s", Secret: fmt.Sprint("secret ", i), TTL: time.Minute})
			return err
		}
		switch n := i + 1; n {
		case 1:
			cost("acquire, 1 holder, of a lock that has no row", "UpdateItem", 2, join) // one of them in the index of names
			cost("renew, 1 holder", "UpdateItem", 1, renew)
		case 10, 50, 100:
			most := map[int]float64{10: 2, 50: 4, 100: 8}[n]
			cost(fmt.Sprintf("acquire, %d holders", n), "UpdateItem PutItem UpdateItem", most+1, join)
			cost(fmt.Sprintf("renew, %d holders", n), "UpdateItem", most, renew)
		default:
			if err := join(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cost("refused acquire, 100 holders", "UpdateItem BatchGetItem", 10, func() error {
		held, ok := errors.AsType[*lock.HeldError](func() error { _, err := c.Acquire(t.Context(), permit(100)); return err }())
		if !ok || len(held.Holders) != 100 || held.Holders[9].Owner != "host-09.example/12345" || held.Holders[10].Owner != "" {
			return fmt.Errorf("%d holders: %+v", len(held.Holders), held.Holders[:min(len(held.Holders), 11)])
		}
		return nil
	})
	cost("release, 100 holders", "UpdateItem UpdateItem", 8, func() error {
		_, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "s", Secret: "secret 50"})
		return err
	})
	cost("status, 99 holders", "GetItem BatchGetItem", 110, func() error {
		status, err := c.Status(t.Context(), "s")
		for i, h := range status.Holders {
			if want := permit(i + i/50); h.Owner != want.Owner || h.Principal != want.Principal || h.Metadata != want.Metadata || h.Split != lock.Whole {
				return fmt.Errorf("%d: %+v", i, h)
			}
		}
		return err
	})
}

// A split lease, from the grant to what its event shows.
func TestTextsOfALease(t *testing.T) {
	w, clock, table := &wire{}, &storetest.Clock{}, ""
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w; table = c.Table })
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	var fence int64
	item := func() map[string]types.AttributeValue {
		out, err := engine(t).GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(table), Key: map[string]types.AttributeValue{
			"pk": &types.AttributeValueMemberS{Value: "s"}, "sk": &types.AttributeValueMemberS{Value: "holder#" + strconv.FormatInt(fence, 10)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Item
	}
	keptUntil := func() time.Time {
		seconds, _ := strconv.ParseInt(item()["ttl"].(*types.AttributeValueMemberN).Value, 10, 64)
		return time.Unix(seconds, 0)
	}
	shown := func(owner, metadata string) {
		t.Helper()
		status, err := c.Status(t.Context(), "s")
		if err != nil || len(status.Holders) != 2 || status.Holders[1].Owner != owner || status.Holders[1].Metadata != metadata {
			t.Errorf("%+v, %v; want %q, %q", status, err, owner, metadata)
		}
	}
	if _, err := c.Acquire(t.Context(), permit(0)); err != nil {
		t.Fatal(err)
	}
	w.after = func(n int, resp *http.Response) (*http.Response, error) {
		if n == 3 { // the reply of the grant is lost; the SDK sends it again
			return nil, errors.New("connection reset by peer")
		}
		return resp, nil
	}
	w.reset()
	l, err := c.Acquire(t.Context(), permit(1))
	if err != nil || l.Lease.Owner != permit(1).Owner || l.Lease.Metadata != permit(1).Metadata {
		t.Fatalf("%+v, %v after %s", l, err, w.actions())
	}
	w.after, fence = nil, l.Lease.Fence
	shown(permit(1).Owner, permit(1).Metadata)
	if again, err := c.Acquire(t.Context(), permit(1)); err != nil || again.Lease.Owner != permit(1).Owner || again.Lease.Fence != l.Lease.Fence {
		t.Errorf("repeated: %+v, %v", again, err)
	}
	renew := func(metadata *string) {
		t.Helper()
		if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "s", Secret: "secret 1", TTL: time.Hour, Metadata: metadata}); err != nil {
			t.Fatal(err)
		}
	}
	for _, metadata := range []string{`{"step":2}`, "", `{"step":3}`} {
		renew(&metadata)
		shown(permit(1).Owner, metadata)
	}
	renew(nil)
	shown(permit(1).Owner, `{"step":3}`)
	first := keptUntil()
	for range 30 { // of renewals, over more than a day
		clock.Advance(50 * time.Minute)
		if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: "s", Secret: "secret 0", TTL: time.Hour}); err != nil && !errors.Is(err, lock.ErrLeaseLost) {
			t.Fatal(err)
		}
		renew(nil)
	}
	if until := keptUntil(); !until.After(first) || until.Before(clock.Now().Add(48*time.Hour)) {
		t.Errorf("kept until %v, then until %v", first, until)
	}
	before, err := s.Get(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "s", Secret: "secret 1"}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Get(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	changes, err := c.TextsOf(t.Context(), "s", lock.Changes(before.After, after.After))
	if last := changes[len(changes)-1]; err != nil || last.Lease.Owner != permit(1).Owner || last.Lease.Metadata != `{"step":3}` || last.Lease.Principal != permit(1).Principal {
		t.Errorf("%+v, %v", changes, err)
	}
	_, err = engine(t).DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: aws.String(table), Key: map[string]types.AttributeValue{"pk": item()["pk"], "sk": item()["sk"]}})
	if err != nil {
		t.Fatal(err)
	}
	if changes, err = c.TextsOf(t.Context(), "s", lock.Changes(before.After, after.After)); err != nil || changes[len(changes)-1].Lease.Owner != "" || changes[len(changes)-1].Lease.Fence != l.Lease.Fence {
		t.Errorf("texts that are gone: %+v, %v", changes, err)
	}
}

// Texts are put before their grant, so a grant that fails leaves an item that nobody reads, and one that succeeds has its texts. Leases of tasks
// and executions, and those of a mutex, keep their texts in the record.
func TestWhichLeasesAreSplit(t *testing.T) {
	w := &wire{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	split := func(i int) lock.SplitTexts {
		reply, err := s.Get(t.Context(), "s")
		if err != nil {
			t.Fatal(err)
		}
		return reply.After.Holders[lock.KeyOf("s", fmt.Sprint("secret ", i))].Split
	}
	for i, test := range []struct {
		change func(*lock.AcquireRequest)
		want   lock.SplitTexts
	}{
		{func(*lock.AcquireRequest) {}, lock.Whole}, // the first
		{func(*lock.AcquireRequest) {}, lock.Split},
		{func(r *lock.AcquireRequest) { r.Token, r.Wait = task("t"), time.Hour }, lock.Whole},
		{func(r *lock.AcquireRequest) { r.Execution = "arn:aws:states:::execution:m:e" }, lock.Whole},
		{func(r *lock.AcquireRequest) { r.Wait = time.Hour }, lock.Split},
	} {
		if _, err := c.Acquire(t.Context(), permit(i, test.change)); err != nil {
			t.Fatal(err)
		}
		if got := split(i); got != test.want {
			t.Errorf("lease %d: %v, want %v", i, got, test.want)
		}
	}
	waits := permit(5, func(r *lock.AcquireRequest) { r.Permits, r.Wait = 96, time.Hour })
	if _, err := c.Acquire(t.Context(), waits); !errors.Is(err, lock.ErrLockHeld) {
		t.Fatal(err)
	}
	w.reset()
	if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: "s", Secret: "secret 1"}); err != nil {
		t.Fatal(err)
	}
	if got := w.actions(); got != "UpdateItem Query TransactWriteItems" || split(5) != lock.Split {
		t.Errorf("a hand-off: %s, %v", got, split(5))
	}
	if l, err := c.Acquire(t.Context(), waits); err != nil || l.Lease.Owner != waits.Owner || l.Lease.Metadata != waits.Metadata {
		t.Errorf("claimed: %+v, %v", l, err)
	}
	w.harm = func(_ int, req *http.Request) (*http.Response, error, bool) {
		return nil, errors.New("connection reset by peer"), strings.HasSuffix(req.Header.Get("X-Amz-Target"), ".PutItem")
	}
	if _, err := c.Acquire(t.Context(), permit(6, func(r *lock.AcquireRequest) { r.Lock = "other" })); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(t.Context(), permit(7, func(r *lock.AcquireRequest) { r.Lock = "other" })); !errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("texts that cannot be put: %v", err)
	}
	if reply, err := s.Get(t.Context(), "other"); err != nil || len(reply.After.Holders) != 1 {
		t.Errorf("%+v, %v", reply, err)
	}
}

// More than a hundred texts, as one write of a full semaphore may need, are read in parts.
func TestManyTexts(t *testing.T) {
	w := &wire{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = w })
	w.reset()
	fences := make([]int64, 110)
	for i := range fences {
		fences[i] = int64(i + 1)
	}
	if texts, err := s.Texts(t.Context(), "s", fences); err != nil || len(texts) != 0 || w.actions() != "BatchGetItem BatchGetItem" {
		t.Errorf("%v, %v after %s", texts, err, w.actions())
	}
}
