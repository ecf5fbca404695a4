package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// offers are events of so many bytes each, of locks of their own.
func offersOf(sizes ...int) (list []*offer) {
	for i, size := range sizes {
		e := Entry{DetailType: "d", Lock: fmt.Sprint("l", i)}
		e.Detail = bytes.Repeat([]byte("x"), size-e.size())
		list = append(list, &offer{write: i, entry: e})
	}
	return list
}

// A request has 256 KiB at most, exactly, and one event at least.
func TestBytesOfARequest(t *testing.T) {
	for _, test := range []struct {
		sizes []int
		want  int // of the first request
	}{
		{[]int{MaxBytes - 100, 100}, 2}, {[]int{MaxBytes - 100, 101}, 1}, {[]int{MaxBytes}, 1}, {[]int{MaxBytes + 1}, 1}, {[]int{MaxBytes + 1, 100}, 1},
		{[]int{MaxBytes / 2, MaxBytes / 2, 100}, 2}, {slices.Repeat([]int{100}, 11), 10}, {[]int{MaxBytes, 100}, 1},
		{[]int{100, MaxBytes, 100}, 2}, // the one that does not fit waits; a later one goes on
	} {
		request, rest := nextRequest(offersOf(test.sizes...), map[string]bool{})
		if len(request) != test.want || len(request)+len(rest) != len(test.sizes) {
			t.Errorf("%v: %d in the request, %d left", test.sizes, len(request), len(rest))
		}
	}
	list := offersOf(100, MaxBytes, 100, 100)
	list[3].entry.Lock = "l1" // of the lock whose earlier event waits
	if request, _ := nextRequest(list, map[string]bool{"l0": true}); len(request) != 1 || request[0] != list[1] {
		t.Errorf("a stuck lock first: %d in the request", len(request))
	}
	if request, _ := nextRequest(list, map[string]bool{"l2": true}); len(request) != 1 || request[0] != list[0] {
		t.Errorf("an overtaken lock: %d in the request", len(request))
	}
	if e := (Entry{DetailType: "Lock Acquired", Detail: []byte("ä{}")}); e.size() != len("holdfast")+len("Lock Acquired")+4+14 {
		t.Errorf("size %d", e.size())
	}
}

// An event that fits keeps its metadata, and one that is a byte too large goes without.
func TestLargestEvent(t *testing.T) {
	withMetadata := func(n int) Entry {
		w := grant(1, "a", 1)
		h := w.After.Holders[leaseKey(1)]
		h.Metadata = `{"a":"` + strings.Repeat("m", n) + `"}`
		w.After.Holders[leaseKey(1)] = h
		return entry(Events(w)[0])
	}
	room := MaxBytes - withMetadata(0).size()
	if e := withMetadata(room); e.size() != MaxBytes || !bytes.Contains(e.Detail, []byte("mmm")) {
		t.Errorf("size %d", e.size())
	}
	if e := withMetadata(room + 1); e.size() > 1000 || !bytes.Contains(e.Detail, []byte(`"metadata_omitted":true`)) {
		t.Errorf("size %d", e.size())
	}
	for _, e := range []events.Event{
		events.Acquired{Lease: events.Lease{Metadata: []byte(`{}`)}}, events.Released{Lease: events.Lease{Metadata: []byte(`{}`)}},
		events.Expired{Lease: events.Lease{Metadata: []byte(`{}`)}}, events.ForceReleased{Lease: events.Lease{Metadata: []byte(`{}`)}},
	} {
		if l := withoutMetadata(e).Subject(); l.Metadata != nil || !l.MetadataOmitted {
			t.Errorf("%T keeps its metadata", e)
		}
	}
}

// The time of an event is its lease's grant, or its end; what is merged comes in the order of its writes.
func TestTimesOfEvents(t *testing.T) {
	for _, test := range []struct {
		w    Write
		want int64
	}{
		{grant(1, "a", 1), 1000}, {end(1, "a", 1), 3000},
		{Write{Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseExpire), 1)}, 5000},
		{Write{Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseForceRelease), 1)}, 3000},
	} {
		if got := entry(Events(test.w)[0]).Time.UnixMilli(); got != test.want {
			t.Errorf("%s: %d, want %d", Events(test.w)[0].DetailType(), got, test.want)
		}
	}
}

// EventBridge's answers: a refusal of one entry, of all, and an answer that does not match the question.
func TestEventBridgePut(t *testing.T) {
	for answerBody, want := range map[string]string{
		`{"FailedEntryCount":0,"Entries":[{"EventId":"1"},{"EventId":"2"}]}`:                                       "ok ok",
		`{"FailedEntryCount":1,"Entries":[{"EventId":"1"},{"ErrorCode":"ThrottlingException","ErrorMessage":""}]}`: "ok ThrottlingException: ",
		`{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`:                                                       "PutEvents answered for 1 entries of 2 PutEvents answered for 1 entries of 2",
	} {
		b := &EventBridge{Name: "bus", Client: eventbridge.New(eventbridge.Options{
			Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), Retryer: aws.NopRetryer{},
			HTTPClient: doer(func(*http.Request) (*http.Response, error) { return answer(200, answerBody), nil }),
		})}
		var got []string
		for _, err := range b.Put(t.Context(), []Entry{entry(Events(grant(1, "a", 1))[0]), entry(Events(grant(1, "b", 1))[0])}) {
			if err == nil {
				got = append(got, "ok")
			} else {
				got = append(got, err.Error())
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", answerBody, got)
		}
	}
	for n, err := range map[int]error{0: nil, 3: errReset} {
		if errs := errAll(n, err); len(errs) != n || n > 0 && !errors.Is(errs[0], errReset) {
			t.Errorf("%v", errs)
		}
	}
	if errs := errAll(1, nil); errs[0] == nil {
		t.Error("no error for a fault without one")
	}
}

// A write that left waiters that fit is settled by the consumer; one that left none is not.
func TestUnsettledQueueIsSettled(t *testing.T) {
	w := newTasks(t)
	w.waits("one", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.waits("two", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.deliver(3)
	w.now = w.now.Add(2 * time.Hour) // its holder is over, and nobody came
	r := storedA(w)
	if failed := w.consumer.Consume(t.Context(), []Write{{Lock: "a", Sequence: "1", Before: r, After: r}}); failed != nil || w.holder() != "" {
		t.Errorf("failed %v: a lock with a holder was settled", failed)
	}
	left := r
	left.Holders = nil
	if failed := w.consumer.Consume(t.Context(), []Write{{Lock: "a", Sequence: "2", Before: r, After: left}}); failed != nil {
		t.Errorf("failed %v", failed)
	}
	w.deliver(3)
	w.want("two", "one's token ok", "two's token ok")
	w.consumer.Callbacks = nil // where nobody waits with a token, whoever polls settles
	w.now = w.now.Add(2 * time.Hour)
	if failed := w.consumer.Consume(t.Context(), []Write{{Lock: "a", Sequence: "3", Before: r, After: left}}); failed != nil {
		t.Errorf("failed %v", failed)
	}
}

// A task that was tried again waits with several tokens. Nobody knows which of them was told: though all are gone, nothing is
// ended.
func TestSeveralTokensAllGone(t *testing.T) {
	for _, attempted := range []bool{false, true} {
		w := newTasks(t)
		w.waits("one")
		w.waits("two")
		w.waits("three")
		w.deliver(3)
		w.waits("two", func(r *lock.AcquireRequest) { r.Token = "two's new token" }) // while it waits
		clear(w.fake.waits)
		w.release("one")
		if attempted {
			w.deliver(1)
			w.writes = append(w.writes, w.lost...)
		}
		w.deliver(5)
		w.want("two", "one's token ok")
	}
}

// The only token is gone at the first attempt: the lease is ended; an error of the end is counted, and the write does not come again.
func TestEndOfADeadTasksLease(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	store := &endless{Memory: w.memory}
	var err error
	if w.coordinator, err = lock.New(lock.Config{Store: store, Clock: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	w.consumer.Coordinator = w.coordinator
	w.waits("one")
	clear(w.fake.waits)
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackFailed) != 1 {
		t.Errorf("failed %v, log %s", failed, log)
	}
	w.want("one")
}

// endless is a store on which no lease ends.
type endless struct{ *lock.Memory }

func (s *endless) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	if become, ok := c.Effect.(lock.Become); ok && len(become.To.Holders) < len(become.From.Holders) {
		return lock.Reply{}, &lock.StoreError{Kind: lock.ErrUnavailable, What: "away"}
	}
	return s.Memory.Apply(ctx, name, c)
}

// What can never be told is counted, of a grant and of a wait that ended, and holds nothing up.
func TestUndeliverable(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	w.waits("one")
	w.waits("two")
	w.deliver(3)
	w.fake.before = func(string) error { return fmt.Errorf("%w: AccessDeniedException", ErrUndeliverable) }
	w.release("two") // a wait that is cancelled
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackUndeliverable) != 1 {
		t.Errorf("failed %v, counted %d", failed, counted(log, CallbackUndeliverable))
	}
	w.writes = nil
	w.release("one")
	w.waits("three")
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackUndeliverable) != 2 {
		t.Errorf("failed %v, counted %d", failed, counted(log, CallbackUndeliverable))
	}
	w.want("", "one's token ok")
}

// Which timers a write sets: a new lease's, at its expiry and the skew, or at its execution's check; and one for a check that
// somebody asked for again. Not for a renewal, whose lease's timer is set.
func TestTimersOfAWrite(t *testing.T) {
	holder := func(change func(*lock.Lease)) lock.Record {
		r := record(lock.CauseAcquire, 1)
		h := r.Holders[leaseKey(1)]
		change(&h)
		r.Holders[leaseKey(1)] = h
		return r
	}
	plain := holder(func(*lock.Lease) {})
	ofExecution := holder(func(h *lock.Lease) { h.Execution, h.CheckAt = "arn:x", 2000 })
	unclaimed := holder(func(h *lock.Lease) { h.Execution, h.CheckAt, h.Unclaimed = "arn:x", 2000, true })
	again := holder(func(h *lock.Lease) { h.Execution, h.CheckAt = "arn:x", 9000 })
	again.Cause = lock.CauseRecheck
	renewed := again
	renewed.Cause = lock.CauseCheck
	longer := holder(func(h *lock.Lease) { h.ExpiresAt = 9000 })
	for name, test := range map[string]struct {
		before, after lock.Record
		want          []int64
	}{
		"a grant":                      {lock.Record{}, plain, []int64{5250}},
		"a grant to an execution":      {lock.Record{}, ofExecution, []int64{2000}},
		"one that nobody asked for":    {lock.Record{}, unclaimed, []int64{5250}},
		"a check that is asked for":    {ofExecution, again, []int64{9000}},
		"a check that was made":        {ofExecution, renewed, nil},
		"a lease that lasts":           {plain, longer, nil},
		"nothing of it":                {ofExecution, ofExecution, nil},
		"an end":                       {plain, retired(record(lock.CauseRelease), 1), nil},
		"another lease, later checked": {holder(func(h *lock.Lease) { h.Fence = 7 }), again, []int64{9000}},
	} {
		r := newRig()
		if failed := r.Consume(t.Context(), []Write{{Lock: "a", Sequence: "1", Before: test.before, After: test.after}}); failed != nil {
			t.Errorf("%s: failed %v", name, failed)
		}
		var got []int64
		for _, timer := range r.timers.armed {
			got = append(got, timer.Due.UnixMilli())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: timers at %v, want %v", name, got, test.want)
		}
	}
}

// Messages go ten a request and 256 KiB a request; a job that is no message, or is refused, is told.
func TestQueuePutOff(t *testing.T) {
	var sizes []int
	refuse := ""
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct {
			Entries []struct{ MessageBody string }
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		bytes := 0
		for _, e := range in.Entries {
			bytes += len(e.MessageBody)
		}
		if bytes > maxMessageBytes && len(in.Entries) > 1 {
			t.Errorf("a request of %d bytes", bytes)
		}
		sizes = append(sizes, len(in.Entries))
		return answer(200, `{"Successful":[],"Failed":[`+refuse+`]}`), nil
	})
	job := func(n int) Job { return Job{Kind: JobFail, Lock: "a", Cause: strings.Repeat("x", n)} }
	refused := func(jobs ...Job) (list []int) {
		sizes = nil
		for i, err := range q.PutOff(t.Context(), jobs) {
			if err != nil {
				list = append(list, i)
			}
		}
		return list
	}
	one, _ := encodeJob(job(1))
	half := maxMessageBytes/2 - len(one) + 1
	for _, test := range []struct {
		jobs []Job
		want []int
	}{
		{slices.Repeat([]Job{job(1)}, 21), []int{10, 10, 1}}, {[]Job{job(half), job(half)}, []int{2}}, {[]Job{job(half), job(half + 1)}, []int{1, 1}},
		{[]Job{job(1), job(maxMessageBytes), job(1)}, []int{1, 1, 1}}, {nil, nil},
	} {
		if got := refused(test.jobs...); got != nil || !slices.Equal(sizes, test.want) {
			t.Errorf("%d jobs: refused %v, requests of %v", len(test.jobs), got, sizes)
		}
	}
	broken := Job{Kind: JobPublish, Lock: "a", Event: Entry{Detail: []byte("{")}}
	if got := refused(broken); !slices.Equal(got, []int{0}) || sizes != nil {
		t.Errorf("refused %v, requests of %v", got, sizes)
	}
	refuse = `{"Id":"2","Code":"X","SenderFault":true},{"Id":"99","Code":"X","SenderFault":true},{"Id":"-1","Code":"X","SenderFault":true}`
	if got := refused(broken, job(1), job(1)); !slices.Equal(got, []int{0, 2}) || !slices.Equal(sizes, []int{2}) {
		t.Errorf("refused %v, requests of %v", got, sizes)
	}
}

// fakeStreams is a fake of DynamoDB and its streams: shards with records, read by iterators "SHARD/POSITION".
type fakeStreams struct {
	t      *testing.T
	mu     sync.Mutex
	shards []fakeShard
	reads  []string            // shards, in the order in which records of theirs were read
	fail   map[string]string   // error codes by target, once each
	types  map[string][]string // iterator types asked for, by shard
	page   int                 // shards a page of DescribeStream; 0: all
}

type fakeShard struct {
	id, parent string
	records    []string // names of locks
	closed     bool
}

func (f *fakeStreams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := r.Header.Get("X-Amz-Target")
	target = target[strings.LastIndex(target, ".")+1:]
	var in struct {
		ShardID               string `json:"ShardId"`
		ExclusiveStartShardID string `json:"ExclusiveStartShardId"`

		ShardIteratorType, SequenceNumber, ShardIterator string
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	if code := f.fail[target]; code != "" {
		delete(f.fail, target)
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		w.WriteHeader(400)
		_, _ = fmt.Fprintf(w, `{"__type":%q,"message":"no"}`, code)
		return
	}
	var out any
	switch target {
	case "DescribeTable":
		out = map[string]any{"Table": map[string]any{"LatestStreamArn": "arn:stream"}}
	case "DescribeStream":
		var list []any
		last := ""
		for _, s := range f.shards {
			if f.page > 0 && (in.ExclusiveStartShardID != "" && s.id <= in.ExclusiveStartShardID || len(list) == f.page) {
				continue
			}
			shard := map[string]any{"ShardId": s.id}
			if s.parent != "" {
				shard["ParentShardId"] = s.parent
			}
			list, last = append(list, shard), s.id
		}
		description := map[string]any{"Shards": list}
		if f.page > 0 && last != "" && last != f.shards[len(f.shards)-1].id {
			description["LastEvaluatedShardId"] = last
		}
		out = map[string]any{"StreamDescription": description}
	case "GetShardIterator":
		f.types[in.ShardID] = append(f.types[in.ShardID], in.ShardIteratorType)
		at := "0"
		switch in.ShardIteratorType {
		case "AFTER_SEQUENCE_NUMBER":
			at = fmt.Sprint(f.sequence(in.SequenceNumber) + 1)
		case "LATEST":
			at = fmt.Sprint(len(f.shard(in.ShardID).records))
		}
		out = map[string]any{"ShardIterator": in.ShardID + "/" + at}
	case "GetRecords":
		out = f.records(in.ShardIterator)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	_ = json.NewEncoder(w).Encode(out)
}

func (f *fakeStreams) sequence(s string) (n int) {
	_, _ = fmt.Sscanf(s[strings.Index(s, "#")+1:], "%d", &n)
	return n
}

func (f *fakeStreams) shard(id string) fakeShard {
	return f.shards[slices.IndexFunc(f.shards, func(s fakeShard) bool { return s.id == id })]
}

func (f *fakeStreams) records(iterator string) any {
	id, position, _ := strings.Cut(iterator, "/")
	s := f.shard(id)
	var at int
	_, _ = fmt.Sscan(position, &at)
	var list []any
	for i, name := range s.records[min(at, len(s.records)):] {
		list = append(list, map[string]any{"dynamodb": map[string]any{
			"SequenceNumber": fmt.Sprintf("%s#%d", id, at+i), "Keys": map[string]any{"pk": map[string]any{"S": name}, "sk": map[string]any{"S": "lock"}},
		}})
	}
	if len(list) > 0 {
		f.reads = append(f.reads, id)
	}
	out := map[string]any{"Records": list}
	if !s.closed {
		out["NextShardIterator"] = fmt.Sprintf("%s/%d", id, len(s.records))
	}
	return out
}

func newPoller(t *testing.T, f *fakeStreams, consume func([]Write) []string) (*Poller, func() error) {
	f.t, f.types = t, map[string][]string{}
	if f.fail == nil {
		f.fail = map[string]string{}
	}
	server := httptest.NewServer(f)
	client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		server.Close()
	})
	cfg := aws.Config{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), HTTPClient: client, BaseEndpoint: &server.URL,
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
	p := &Poller{
		Tables: dynamodb.NewFromConfig(cfg), Streams: dynamodbstreams.NewFromConfig(cfg), Table: "locks", Decode: dynamo.Decode,
		Consume: func(_ context.Context, batch []Write) []string { return consume(batch) }, Log: slog.New(slog.DiscardHandler),
	}
	shards, first := map[string]*shard{}, true
	return p, func() error {
		err := p.round(t.Context(), shards, first)
		first = first && err != nil
		return err
	}
}

// A shard is read after its parent was read to its end, whatever the order in which they are found; one whose parent is not
// there any more is read at once.
func TestChildAfterItsParent(t *testing.T) {
	for range 20 { // maps are read in any order
		f := &fakeStreams{}
		var locks []string
		_, round := newPoller(t, f, func(batch []Write) []string {
			for _, w := range batch {
				locks = append(locks, w.Lock)
			}
			return nil
		})
		f.shards = []fakeShard{{id: "0"}}
		if err := round(); err != nil {
			t.Fatal(err)
		}
		f.shards = []fakeShard{
			{id: "0", records: []string{"first"}}, {id: "1", parent: "0", records: []string{"second"}}, {id: "2", parent: "1", records: []string{"third"}},
			{id: "3", parent: "trimmed", records: []string{"apart"}},
		}
		for range 3 { // the parent is open still
			if err := round(); err != nil {
				t.Fatal(err)
			}
		}
		if slices.Sort(locks); !slices.Equal(locks, []string{"apart", "first"}) {
			t.Fatalf("read %v before the parent ended", locks)
		}
		locks = nil
		f.shards[0].closed, f.shards[1].closed = true, true
		for range 4 {
			if err := round(); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(locks, []string{"second", "third"}) {
			t.Fatalf("read %v", locks)
		}
		if fmt.Sprint(f.types) != "map[0:[LATEST] 1:[TRIM_HORIZON] 2:[TRIM_HORIZON] 3:[TRIM_HORIZON]]" {
			t.Errorf("iterators %v", f.types)
		}
	}
}

// A batch that failed in part is read again from its first failure; what was before it is not.
func TestPollerReadsAgain(t *testing.T) {
	for _, test := range []struct {
		failing string
		want    [][]string // what is handed on, in batches
		types   string
	}{
		{"b", [][]string{{"a", "b", "c"}, {"b", "c"}}, "[TRIM_HORIZON AFTER_SEQUENCE_NUMBER]"},
		{"a", [][]string{{"a", "b", "c"}, {"a", "b", "c"}}, "[TRIM_HORIZON]"},
		{"c", [][]string{{"a", "b", "c"}, {"c"}}, "[TRIM_HORIZON AFTER_SEQUENCE_NUMBER]"},
		{"", [][]string{{"a", "b", "c"}}, "[TRIM_HORIZON]"},
	} {
		f := &fakeStreams{page: 1}
		var batches [][]string
		_, round := newPoller(t, f, func(batch []Write) (failed []string) {
			var locks []string
			for _, w := range batch {
				locks = append(locks, w.Lock)
				if w.Lock == test.failing && len(batches) == 0 {
					failed = append(failed, w.Sequence)
				}
			}
			batches = append(batches, locks)
			return failed
		})
		f.shards = []fakeShard{{id: "0"}}
		_ = round()
		f.shards = []fakeShard{{id: "0"}, {id: "1", records: []string{"a", "b", "c"}}}
		for range 3 {
			if err := round(); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(batches) != fmt.Sprint(test.want) || fmt.Sprint(f.types["1"]) != test.types {
			t.Errorf("%q fails: handed on %v with iterators %v", test.failing, batches, f.types["1"])
		}
	}
}

// What goes wrong with a stream, and where it is read on.
func TestPollerFaults(t *testing.T) {
	for _, test := range []struct {
		target, code string
		err          bool
		types        string
		read         []string
	}{
		{"DescribeTable", "ResourceNotFoundException", true, "[LATEST]", []string{"a"}},
		{"DescribeStream", "InternalServerError", true, "[LATEST]", []string{"a"}},
		{"GetRecords", "InternalServerError", true, "[LATEST]", []string{"a"}}, // its iterator is good still
		{"GetRecords", "TrimmedDataAccessException", false, "[LATEST TRIM_HORIZON]", []string{"a"}},
	} {
		f := &fakeStreams{shards: []fakeShard{{id: "0"}}}
		var locks []string
		_, round := newPoller(t, f, func(batch []Write) []string {
			for _, w := range batch {
				locks = append(locks, w.Lock)
			}
			return nil
		})
		if err := round(); err != nil {
			t.Fatal(err)
		}
		f.shards[0].records = []string{"a"}
		f.fail[test.target] = test.code
		if err := round(); (err != nil) != test.err {
			t.Errorf("%s of %s: %v", test.code, test.target, err)
		}
		for range 2 {
			if err := round(); err != nil {
				t.Errorf("%s of %s: then %v", test.code, test.target, err)
			}
		}
		if fmt.Sprint(f.types["0"]) != test.types || !slices.Equal(locks, test.read) {
			t.Errorf("%s of %s: iterators %v, read %v", test.code, test.target, f.types["0"], locks)
		}
	}
	read := 0
	f := &fakeStreams{shards: []fakeShard{{id: "0"}}}
	_, round := newPoller(t, f, func(batch []Write) []string { read += len(batch); return nil })
	for step, change := range []func(){
		func() {}, func() { f.shards[0].records = []string{"a"} },
		func() { f.shards[0].records, f.fail["GetRecords"] = []string{"a", "b"}, "ExpiredIteratorException" }, func() {}, // behind what was read
	} {
		change()
		if err := round(); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
	}
	if fmt.Sprint(f.types["0"]) != "[LATEST AFTER_SEQUENCE_NUMBER]" || read != 2 {
		t.Errorf("iterators %v, read %d", f.types["0"], read)
	}
	f = &fakeStreams{shards: []fakeShard{{id: "0"}}, fail: map[string]string{"GetShardIterator": "TrimmedDataAccessException"}}
	_, round = newPoller(t, f, func([]Write) []string { return nil })
	for range 2 {
		if err := round(); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(f.types["0"]) != "[TRIM_HORIZON]" {
		t.Errorf("iterators %v", f.types["0"])
	}
}

// A repair changes no lease and makes no event; the log tells who did it, and why.
func TestRepairIsLogged(t *testing.T) {
	r := newRig()
	log := logged(&r.Consumer)
	before, after := record(lock.CauseRelease, 9), record(lock.CauseRepair)
	before.Holders, after.Fence, after.By, after.Reason = nil, 5, "arn:operator", "clock"
	if failed := r.Consume(t.Context(), []Write{{Lock: "a", Sequence: "1", Before: before, After: after}}); failed != nil || len(r.bus.taken) != 0 {
		t.Errorf("failed %v, events %v", failed, r.bus.taken)
	}
	if want := `"level":"WARN","msg":"lock repaired","lock":"a","by":"arn:operator","reason":"clock","fence_before":9,"fence_after":5}`; !strings.Contains(log.String(), want) {
		t.Errorf("log %s", log)
	}
	log.Reset()
	r.Consume(t.Context(), []Write{grant(2, "a", 10)})
	if log.Len() != 0 {
		t.Errorf("log %s", log)
	}
}

// Records of the stream, and what is read of them.
func TestReadRecord(t *testing.T) {
	const keys = `"Keys":{"pk":{"S":"a"},"sk":{"S":"lock"}},"SequenceNumber":"7"`
	const ended = `"Keys":{"pk":{"S":"a"},"sk":{"S":"ended#1"}},"SequenceNumber":"7"`
	decode := Decoder{
		Record: func(image map[string]types.AttributeValue) (r lock.Record, err error) {
			if image == nil {
				return lock.Record{}, nil
			}
			switch v := image["by"].(type) {
			case *types.AttributeValueMemberS:
				return lock.Record{Rev: 1, By: v.Value}, nil
			case *types.AttributeValueMemberN:
				return lock.Record{Rev: 1, By: "N" + v.Value}, nil
			case *types.AttributeValueMemberM:
				return lock.Record{Rev: 1, By: "M" + v.Value["x"].(*types.AttributeValueMemberS).Value}, nil
			case *types.AttributeValueMemberNULL:
				return lock.Record{Rev: 1, By: "null"}, nil
			}
			return lock.Record{}, errors.New("no by")
		},
		Ended: func(image map[string]types.AttributeValue) (lock.Waiter, error) {
			if image["ticket"] == nil {
				return lock.Waiter{}, errors.New("no ticket")
			}
			return lock.Waiter{Ticket: 3}, nil
		},
	}
	for _, test := range []struct{ record, want string }{
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":{"S":"x"}}}}`, "a 7 | x"},
		{`{"dynamodb":{` + keys + `,"OldImage":{"by":{"N":"1"}}}}`, "a 7 N1 |"},
		{`{"dynamodb":{` + keys + `,"OldImage":{"by":{"M":{"x":{"S":"y"}}}},"NewImage":{"by":{"BOOL":true}}}}`, "a 7 My | null"},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":{"SS":["x"]}}}}`, "a 7 | null"},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":{"M":{"x":{"N":"1"}}}}}}`, "7 panic"},
		{`{"dynamodb":{` + keys + `,"NewImage":{"other":{"S":"x"}}}}`, "a 7 new image: no by"},
		{`{"dynamodb":{` + keys + `,"OldImage":{"other":{"S":"x"}},"NewImage":{"by":{"S":"x"}}}}`, "a 7 old image: no by"},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":7}}}`, `a 7 new image: attribute "by"`},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":{"M":{"x":7}}}}}`, `a 7 new image: attribute "x"`},
		{`{"dynamodb":{` + keys + `}}`, "a 7 |"},
		{`{"dynamodb":{` + ended + `,"NewImage":{"ticket":{"N":"3"}}}}`, "a 7 ended 3"},
		{`{"dynamodb":{` + ended + `,"NewImage":{"other":{"N":"3"}}}}`, "a 7 no ticket"},
		{`{"dynamodb":{` + ended + `,"NewImage":{"ticket":3}}}`, `a 7 attribute "ticket"`},
		{`{"dynamodb":{` + ended + `,"OldImage":{"ticket":{"N":"3"}}}}`, "nothing"}, // it was removed
		{`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"S":"wait#1"}},"NewImage":{"by":{"S":"x"}}}}`, "nothing"},
		{`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"N":"1"}},"SequenceNumber":"7"}}`, "7 keys: pk or sk is missing"},
		{`{"dynamodb":{"Keys":{"sk":{"S":"lock"}},"SequenceNumber":"7"}}`, "7 keys: pk or sk is missing"},
		{`{"dynamodb":{"Keys":{"pk":7,"sk":{"S":"lock"}},"SequenceNumber":"7"}}`, `7 keys: attribute "pk"`},
		{`{"dynamodb":{"Keys":7,"SequenceNumber":"7"}}`, "7 json"},
		{`{"dynamodb":7}`, "json"},
		{`7`, "json"},
	} {
		w, ok := readSafely(json.RawMessage(test.record), decode)
		got := "nothing"
		switch {
		case ok && w.Poison != nil:
			got = strings.Join(strings.Fields(fmt.Sprint(w.Lock, " ", w.Sequence, " ", w.Poison)), " ")
		case ok && w.Ended != nil:
			got = fmt.Sprint(w.Lock, " ", w.Sequence, " ended ", w.Ended[0].Ticket)
		case ok:
			got = strings.Join(strings.Fields(fmt.Sprint(w.Lock, " ", w.Sequence, " ", w.Before.By, " | ", w.After.By)), " ")
		}
		if !strings.HasPrefix(got, test.want) || ok && string(w.Raw) != test.record {
			t.Errorf("%s: %s, want %s", test.record, got, test.want)
		}
	}
}

// The stream client's values become the table client's, those of no lock's record null.
func TestFromStream(t *testing.T) {
	if fromStream(nil) != nil {
		t.Error("an image out of none")
	}
	got := fromStream(map[string]streamtypes.AttributeValue{
		"s": &streamtypes.AttributeValueMemberS{Value: "x"}, "n": &streamtypes.AttributeValueMemberN{Value: "1"}, "b": &streamtypes.AttributeValueMemberBOOL{Value: true},
		"m": &streamtypes.AttributeValueMemberM{Value: map[string]streamtypes.AttributeValue{"s": &streamtypes.AttributeValueMemberS{Value: "y"}}},
	})
	want := map[string]types.AttributeValue{
		"s": &types.AttributeValueMemberS{Value: "x"}, "n": &types.AttributeValueMemberN{Value: "1"}, "b": &types.AttributeValueMemberNULL{Value: true},
		"m": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{"s": &types.AttributeValueMemberS{Value: "y"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

// The poller goes on after faults until its context ends, and says when it is ready.
func TestPollerRuns(t *testing.T) {
	f := &fakeStreams{shards: []fakeShard{{id: "0"}}, fail: map[string]string{"DescribeTable": "InternalServerError"}}
	ctx, cancel := context.WithCancel(t.Context())
	p, _ := newPoller(t, f, func(batch []Write) []string {
		if batch[0].Lock == "a" {
			cancel()
		}
		return nil
	})
	var log bytes.Buffer
	p.Log, p.Every, p.started = slog.New(slog.NewJSONHandler(&log, nil)), time.Microsecond, make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	<-p.started
	f.mu.Lock()
	f.shards[0].records = []string{"a"}
	f.mu.Unlock()
	running.Wait()
	if n := strings.Count(log.String(), "stream cannot be read"); n != 1 {
		t.Errorf("log %s", &log)
	}
}

// What a task is told of its lease: all that is public of it, and no secret.
func TestOutput(t *testing.T) {
	h := record(lock.CauseAcquire, 7).Holders[leaseKey(7)]
	const plain = `{"lock":"a","fence":7,"owner":"o7","acquired_at":"1970-01-01T00:00:01.000Z","expires_at":"1970-01-01T00:00:05.000Z","ttl_ms":4000,"permits":1`
	if got := string(output("a", h)); got != plain+"}" {
		t.Errorf("%s", got)
	}
	h.Metadata, h.Tokens, h.Principal = `{"n":1}`, lock.Tokens{"task:x"}, "arn:p"
	if got := string(output("a", h)); got != plain+`,"metadata":{"n":1}}` {
		t.Errorf("%s", got)
	}
}

// A table without a stream cannot be polled.
func TestTableWithoutAStream(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		_, _ = fmt.Fprint(w, `{"Table":{}}`)
	}))
	defer server.Close()
	client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	defer client.CloseIdleConnections()
	p := &Poller{Table: "locks", Tables: dynamodb.New(dynamodb.Options{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), HTTPClient: client, BaseEndpoint: &server.URL,
	})}
	if _, err := p.stream(t.Context()); err == nil || err.Error() != "the table has no stream" {
		t.Error(err)
	}
}

// Timers in process that were armed are set off in their order, the due ones at once, and Close waits for those that run.
func TestLocalTimersThatAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, at := time.Now(), []time.Duration{}
		var l *LocalTimers
		l = NewLocalTimers(func(ctx context.Context, timer Timer) error {
			l.mu.Lock()
			at = append(at, time.Since(start))
			times := len(at)
			l.mu.Unlock()
			if timer.Lock == "slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			if timer.Lock == "again" && times < 4 {
				return errReset
			}
			return nil
		})
		if errs := l.Arm(t.Context(), []Timer{{Lock: "past", Due: start.Add(-time.Hour)}, {Lock: "again", Due: start.Add(time.Second)}}); errs != nil {
			t.Error(errs)
		}
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		if want := []time.Duration{minHop, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("fired at %v, want %v", at, want)
		}
		l.mu.Unlock()
		l.Arm(t.Context(), []Timer{{Lock: "slow", Due: time.Now()}})
		time.Sleep(time.Second)
		l.Close() // ends its context; it is not set again
	})
}
