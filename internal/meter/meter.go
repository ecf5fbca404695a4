// Package meter counts the requests of DynamoDB clients and the capacity units that they consume.
package meter

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Count has the requests of an operation and the capacity units that they consumed.
type Count struct {
	Requests   int
	Refused    int // of Requests: a condition failed
	Unanswered int // of Requests: the sender gave up, and the units are not known
	ReadUnits  float64
	WriteUnits float64
}

// A Meter counts requests. It asks the engine for the units of each. The request is changed after it was signed, which DynamoDB Local does
// not check. A request of the coordinator's API is counted by its operation, without units.
//
// DynamoDB Local returns no units of a request that was refused; the Meter counts them by DynamoDB's rules:
//
//   - UpdateItem, PutItem and DeleteItem: the size of the stored item, in units of 1 KB. The size is known if the answer has the item;
//     else the item counts as one of at most 1 KB.
//   - TransactWriteItems: two write units for each item that the request names, each as one of at most 1 KB.
type Meter struct {
	mu     sync.Mutex
	counts map[string]Count
	paused bool
	last   time.Time // of an answer
	wrote  int64     // see Wrote
	clock  func() int64
}

// New makes a Meter. clock gives the time that [Meter.Wrote] returns; nil: nothing does.
func New(clock func() int64) *Meter {
	if clock == nil {
		clock = func() int64 { return 0 }
	}
	return &Meter{counts: map[string]Count{}, clock: clock}
}

// Client makes an HTTP client whose requests are counted.
func (m *Meter) Client() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 1024
	return &http.Client{Transport: metered{m, t}}
}

// Take returns what was counted since the last call.
func (m *Meter) Take() map[string]Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := m.counts
	m.counts = map[string]Count{}
	return counts
}

// Stop ends the counting.
func (m *Meter) Stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused = true
}

// Quiet waits until no answer has come for a second, for half a minute at most.
func (m *Meter) Quiet() {
	for limit := time.Now().Add(30 * time.Second); time.Now().Before(limit); time.Sleep(100 * time.Millisecond) {
		m.mu.Lock()
		idle := time.Since(m.last)
		m.mu.Unlock()
		if idle > time.Second {
			return
		}
	}
}

// Wrote returns when the last write that succeeded was sent: of the table, or a request of the API other than a read. 0: there was none.
func (m *Meter) Wrote() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wrote
}

func (m *Meter) written(at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrote = at
}

// Add counts what was done without a request of [Meter.Client].
func (m *Meter) Add(op string, c Count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = time.Now()
	if m.paused {
		return
	}
	sum := m.counts[op]
	m.counts[op] = sum.plus(c)
}

func (c Count) plus(d Count) Count {
	return Count{c.Requests + d.Requests, c.Refused + d.Refused, c.Unanswered + d.Unanswered, c.ReadUnits + d.ReadUnits, c.WriteUnits + d.WriteUnits}
}

// Total adds the counts of all operations up.
func Total(counts map[string]Count) (sum Count) {
	for _, c := range counts {
		sum = sum.plus(c)
	}
	return sum
}

type metered struct {
	meter *Meter
	base  http.RoundTripper
}

// reads are the operations whose units are read units. TransactGetItems, too, but nothing here uses it.
var reads = []string{"GetItem", "BatchGetItem", "Query", "Scan"}

func (t metered) RoundTrip(r *http.Request) (*http.Response, error) {
	began := t.meter.clock()
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if op == "" {
		return t.api(r, began)
	}
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(sent, &fields); err != nil {
		return nil, err
	}
	fields["ReturnConsumedCapacity"] = json.RawMessage(`"TOTAL"`)
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	resp, err := t.base.RoundTrip(r)
	var received []byte
	if err == nil {
		received, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if err != nil {
		t.meter.Add(op, Count{Requests: 1, Unanswered: 1})
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(received))
	if slices.Contains(reads, op) || strings.HasSuffix(op, "Item") || op == "TransactWriteItems" { // and no operation on tables
		t.meter.Add(op, units(op, fields, resp.StatusCode, received))
		if resp.StatusCode == http.StatusOK && !slices.Contains(reads, op) {
			t.meter.written(began)
		}
	}
	return resp, nil
}

// api passes a request of the coordinator's API on.
func (t metered) api(r *http.Request, began int64) (*http.Response, error) {
	resp, err := t.base.RoundTrip(r)
	c := Count{Requests: 1}
	switch {
	case err != nil:
		c.Unanswered = 1
	case resp.StatusCode != http.StatusOK:
		c.Refused = 1
	case r.Method == http.MethodPost:
		t.meter.written(began)
	}
	t.meter.Add(path.Base(r.URL.Path), c)
	return resp, err
}

// units returns the units of a request from its answer.
func units(op string, request map[string]json.RawMessage, status int, answer []byte) Count {
	var a struct {
		ConsumedCapacity json.RawMessage
		Item             map[string]json.RawMessage // of a refused write that asked for it
	}
	_ = json.Unmarshal(answer, &a)
	n := consumed(a.ConsumedCapacity)
	c := Count{Requests: 1}
	if status != http.StatusOK {
		c.Refused = 1
	}
	switch {
	case slices.Contains(reads, op):
		c.ReadUnits = n
	case status == http.StatusOK:
		c.WriteUnits = n
	case op == "TransactWriteItems":
		var items []json.RawMessage
		_ = json.Unmarshal(request["TransactItems"], &items)
		c.WriteUnits = 2 * float64(len(items))
	default:
		c.WriteUnits = max(1, float64((itemSize(a.Item)+1023)/1024))
	}
	return c
}

// consumed adds the units of an answer up: an object, or a list with one for each table.
func consumed(raw json.RawMessage) (sum float64) {
	type capacity struct{ CapacityUnits float64 }
	var list []capacity
	if json.Unmarshal(raw, &list) != nil {
		var one capacity
		_ = json.Unmarshal(raw, &one)
		list = []capacity{one}
	}
	for _, c := range list {
		sum += c.CapacityUnits
	}
	return sum
}

// itemSize is the size of an item by DynamoDB's rules: names and strings count their bytes, a number about a byte for two digits, and
// one more, a map 3 bytes and one for each entry.
func itemSize(attributes map[string]json.RawMessage) (size int) {
	for name, raw := range attributes {
		size += len(name) + valueSize(raw)
	}
	return size
}

func valueSize(raw json.RawMessage) int {
	var v map[string]json.RawMessage
	_ = json.Unmarshal(raw, &v)
	for _, kind := range slices.Collect(maps.Keys(v)) {
		switch kind {
		case "S":
			var s string
			_ = json.Unmarshal(v[kind], &s)
			return len(s)
		case "N":
			var s string
			_ = json.Unmarshal(v[kind], &s)
			return (len(s)+1)/2 + 1
		case "M":
			var m map[string]json.RawMessage
			_ = json.Unmarshal(v[kind], &m)
			return 3 + len(m) + itemSize(m)
		case "L":
			var l []json.RawMessage
			_ = json.Unmarshal(v[kind], &l)
			size := 3 + len(l)
			for _, e := range l {
				size += valueSize(e)
			}
			return size
		}
	}
	return 1
}
