package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

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

func newPoller(t *testing.T, f *fakeStreams, consume func([]stream.Write) []string) (*Poller, func() error) {
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
		Tables: dynamodb.NewFromConfig(cfg), Streams: dynamodbstreams.NewFromConfig(cfg), Table: "locks",
		Consume: func(_ context.Context, batch []stream.Write) []string { return consume(batch) }, Log: slog.New(slog.DiscardHandler),
	}
	shards, first := map[string]*shard{}, true
	return p, func() error {
		err := p.round(t.Context(), shards, first)
		first = first && err != nil
		return err
	}
}

// A shard is read after its parent was read to its end, in whatever order they are found; one whose parent was trimmed is read at once.
func TestChildAfterItsParent(t *testing.T) {
	for range 20 { // maps are read in any order
		f := &fakeStreams{}
		var locks []string
		_, round := newPoller(t, f, func(batch []stream.Write) []string {
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

// A batch that failed in part is read again from its first failure.
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
		_, round := newPoller(t, f, func(batch []stream.Write) (failed []string) {
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

// Faults of a stream, and where the poller continues after each.
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
		_, round := newPoller(t, f, func(batch []stream.Write) []string {
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
	_, round := newPoller(t, f, func(batch []stream.Write) []string { read += len(batch); return nil })
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
	_, round = newPoller(t, f, func([]stream.Write) []string { return nil })
	for range 2 {
		if err := round(); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(f.types["0"]) != "[TRIM_HORIZON]" {
		t.Errorf("iterators %v", f.types["0"])
	}
}

// kept are places in memory, which outlive a poller.
type kept struct {
	at   map[string]string
	fail error
}

func (k *kept) Load(shard string) (string, error) { return k.at[shard], k.fail }

func (k *kept) Save(shard, sequence string) error {
	if k.fail == nil {
		k.at[shard] = sequence
	}
	return k.fail
}

// A poller with places continues where the last one ended: after what was consumed, and nothing is missed between them.
func TestPollerContinues(t *testing.T) {
	places := &kept{at: map[string]string{}}
	f := &fakeStreams{shards: []fakeShard{{id: "0", records: []string{"a", "b", "c"}}}}
	var locks []string
	failing := "c"
	consume := func(batch []stream.Write) (failed []string) {
		for _, w := range batch {
			if locks = append(locks, w.Lock); w.Lock == failing {
				failed = append(failed, w.Sequence)
			}
		}
		return failed
	}
	p, round := newPoller(t, f, consume)
	p.Places = places
	if err := round(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(places.at) != "map[0:0#1]" {
		t.Errorf("the places are %v after a batch whose last record failed", places.at)
	}
	f.shards = []fakeShard{{id: "0", records: []string{"a", "b", "c", "d"}, closed: true}, {id: "1", parent: "0", records: []string{"e"}}}
	for _, want := range []string{"[c d e]", "[]"} { // of two pollers, the second after the first has read everything
		locks, failing = nil, ""
		p, round = newPoller(t, f, consume)
		p.Places = places
		for range 3 {
			if err := round(); err != nil {
				t.Fatal(err)
			}
		}
		if fmt.Sprint(locks) != want {
			t.Errorf("the poller that continued read %v, want %s", locks, want)
		}
	}
	if fmt.Sprint(places.at) != "map[0:0#3 1:1#0]" {
		t.Errorf("the places are %v", places.at)
	}
	places.fail = fmt.Errorf("the disk is full")
	p, round = newPoller(t, f, consume)
	p.Places = places
	if err := round(); err == nil {
		t.Error("a place that cannot be loaded is no error")
	}
}

// The stream client's values become the table client's; types that no lock record has become null.
func TestFromStream(t *testing.T) {
	if fromStream(nil) != nil {
		t.Error("an image out of none")
	}
	got := fromStream(map[string]streamtypes.AttributeValue{
		"s": &streamtypes.AttributeValueMemberS{Value: "x"}, "n": &streamtypes.AttributeValueMemberN{Value: "1"}, "b": &streamtypes.AttributeValueMemberBOOL{Value: true},
		"m": &streamtypes.AttributeValueMemberM{Value: map[string]streamtypes.AttributeValue{"s": &streamtypes.AttributeValueMemberS{Value: "y"}}},
		"l": &streamtypes.AttributeValueMemberL{Value: []streamtypes.AttributeValue{&streamtypes.AttributeValueMemberS{Value: "z"}}},
	})
	want := map[string]types.AttributeValue{
		"s": &types.AttributeValueMemberS{Value: "x"}, "n": &types.AttributeValueMemberN{Value: "1"}, "b": &types.AttributeValueMemberNULL{Value: true},
		"m": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{"s": &types.AttributeValueMemberS{Value: "y"}}},
		"l": &types.AttributeValueMemberL{Value: []types.AttributeValue{&types.AttributeValueMemberS{Value: "z"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

// The poller continues after faults until its context ends, and logs when it misses no more writes.
func TestPollerRuns(t *testing.T) {
	f := &fakeStreams{shards: []fakeShard{{id: "0"}}, fail: map[string]string{"DescribeTable": "InternalServerError"}}
	ctx, cancel := context.WithCancel(t.Context())
	p, _ := newPoller(t, f, func(batch []stream.Write) []string {
		if batch[0].Lock == "a" {
			cancel()
		}
		return nil
	})
	log := newReadyLog()
	p.Log, p.Every = slog.New(log), time.Microsecond
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	<-log.ready
	f.mu.Lock()
	f.shards[0].records = []string{"a"}
	f.mu.Unlock()
	running.Wait()
	if n := log.count("stream cannot be read"); n != 1 {
		t.Errorf("%d faults in the log", n)
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

// A readyLog closes ready at the log record Reading, and counts messages.
type readyLog struct {
	slog.Handler
	ready chan struct{}

	mu       sync.Mutex
	messages []string
}

func newReadyLog() *readyLog {
	return &readyLog{Handler: slog.DiscardHandler, ready: make(chan struct{})}
}

func (l *readyLog) Enabled(context.Context, slog.Level) bool { return true }

func (l *readyLog) Handle(_ context.Context, r slog.Record) error { //nolint:gocritic // the interface's
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, r.Message)
	if r.Message == Reading {
		close(l.ready)
	}
	return nil
}

func (l *readyLog) count(message string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.messages {
		if m == message {
			n++
		}
	}
	return n
}
