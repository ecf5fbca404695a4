package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
)

// A count has the requests of an operation and the units that they consumed.
type count struct {
	requests, refused int
	read, write       float64
}

// A meter is an HTTP client between the SDK and DynamoDB Local. It asks for the units of each request (which changes the request after it
// was signed; DynamoDB Local does not check that) and counts them. Of a refused write, whose units DynamoDB Local does not tell, it counts
// what DynamoDB charges: a unit for each started KB of the stored item, and two for each item of a refused transaction.
type meter struct {
	base    *http.Client
	noIndex bool // hides indexes from DescribeTable's answers, so that lists scan

	mu     sync.Mutex
	counts map[string]count
}

func newMeter() *meter {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 1024
	return &meter{base: &http.Client{Transport: t}, counts: map[string]count{}}
}

// take returns what was counted since the last call, by operation.
func (m *meter) take() map[string]count {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := m.counts
	m.counts = map[string]count{}
	return counts
}

func sum(counts map[string]count) (all count) {
	for _, c := range counts {
		all.requests, all.refused, all.read, all.write = all.requests+c.requests, all.refused+c.refused, all.read+c.read, all.write+c.write
	}
	return all
}

// Do implements aws.HTTPClient.
func (m *meter) Do(r *http.Request) (*http.Response, error) {
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(sent, &fields); err != nil {
		return nil, err
	}
	data := strings.HasSuffix(op, "Item") || strings.HasSuffix(op, "Items") || op == "Query" || op == "Scan"
	if data {
		fields["ReturnConsumedCapacity"] = json.RawMessage(`"TOTAL"`)
		if sent, err = json.Marshal(fields); err != nil {
			return nil, err
		}
	}
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
	resp, err := m.base.Do(r) //nolint:gosec // to DynamoDB Local alone: see local
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if op == "DescribeTable" && m.noIndex {
		answer = bytes.ReplaceAll(answer, []byte(`"IndexName":"names"`), []byte(`"IndexName":"other"`))
		resp.Header.Del("X-Amz-Crc32")
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(answer)), int64(len(answer))
	m.add(op, units(op, fields, resp.StatusCode, answer))
	return resp, nil
}

func (m *meter) add(op string, c count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[op] = sum(map[string]count{"": m.counts[op], op: c})
}

// units returns the units of a request from its answer.
func units(op string, request map[string]json.RawMessage, status int, answer []byte) count {
	var a struct {
		ConsumedCapacity    json.RawMessage
		Item                map[string]json.RawMessage // of a refused write that asked for it
		CancellationReasons []json.RawMessage
	}
	_ = json.Unmarshal(answer, &a)
	n, c := consumed(a.ConsumedCapacity), count{requests: 1}
	if status != http.StatusOK {
		c.refused = 1
	}
	switch {
	case op == "Query" || op == "Scan" || strings.HasSuffix(op, "GetItem"):
		c.read = n
	case status == http.StatusOK:
		c.write = n
	case op == "TransactWriteItems":
		var items []json.RawMessage
		_ = json.Unmarshal(request["TransactItems"], &items)
		c.write = 2 * float64(len(items))
	case strings.HasSuffix(op, "Item"):
		raw, _ := json.Marshal(a.Item)
		c.write = 1 + float64(len(raw)/2048) // the JSON of an item is about twice as long as the item
	}
	return c
}

// consumed adds up the units of an answer: an object, or a list with one for each table.
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
