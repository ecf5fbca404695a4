package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// Units are read from the answer, or counted by DynamoDB's rules where DynamoDB Local returns none.
func TestUnits(t *testing.T) {
	big := strings.Repeat("x", 2000)
	for what, test := range map[string]struct {
		op, request string
		status      int
		answer      string
		want        Count
	}{
		"a write":                          {"UpdateItem", `{}`, 200, `{"ConsumedCapacity":{"TableName":"t","CapacityUnits":2.0}}`, Count{Requests: 1, WriteUnits: 2}},
		"a refused write":                  {"UpdateItem", `{}`, 400, `{"__type":"x#ConditionalCheckFailedException"}`, Count{Requests: 1, Refused: 1, WriteUnits: 1}},
		"a refused write of a larger item": {"UpdateItem", `{}`, 400, `{"Item":{"pk":{"S":"` + big + `"}}}`, Count{Requests: 1, Refused: 1, WriteUnits: 2}},
		"a read":                           {"GetItem", `{}`, 200, `{"ConsumedCapacity":{"CapacityUnits":1.0}}`, Count{Requests: 1, ReadUnits: 1}},
		"a read of two items":              {"BatchGetItem", `{}`, 200, `{"ConsumedCapacity":[{"CapacityUnits":2.0}]}`, Count{Requests: 1, ReadUnits: 2}},
		"a transaction":                    {"TransactWriteItems", `{"TransactItems":[{},{}]}`, 200, `{"ConsumedCapacity":[{"CapacityUnits":4.0}]}`, Count{Requests: 1, WriteUnits: 4}},
		"a refused transaction":            {"TransactWriteItems", `{"TransactItems":[{},{},{}]}`, 400, `{}`, Count{Requests: 1, Refused: 1, WriteUnits: 6}},
	} {
		request := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte(test.request), &request); err != nil {
			t.Fatal(err)
		}
		if got := units(test.op, request, test.status, []byte(test.answer)); got != test.want {
			t.Errorf("%s: %+v, want %+v", what, got, test.want)
		}
	}
}

func TestItemSize(t *testing.T) {
	for item, want := range map[string]int{
		`{}`:                                 0,
		`{"pk":{"S":"abc"}}`:                 5,
		`{"n":{"N":"1234"}}`:                 4,
		`{"m":{"M":{"a":{"S":"b"}}}}`:        1 + 3 + 1 + 2,
		`{"l":{"L":[{"S":"b"},{"S":"cd"}]}}`: 1 + 3 + 2 + 3,
		`{"m":{"M":{"a":{"M":{}}}},"b":{"BOOL":true}}`: 1 + 3 + 1 + 1 + 3 + 2,
	} {
		attributes := map[string]json.RawMessage{}
		if err := json.Unmarshal([]byte(item), &attributes); err != nil {
			t.Fatal(err)
		}
		if got := itemSize(attributes); got != want {
			t.Errorf("%s: %d bytes, want %d", item, got, want)
		}
	}
}

// The plot has a line and a mark for each figure of each kind, and each kind has a line in the legend.
func TestPlot(t *testing.T) {
	var before, after Run
	for _, waiters := range []int{1, 10, 100, 500} {
		for _, kind := range []string{ours, bare, other} {
			w := Waiting{Kind: kind, Waiters: waiters, Total: Count{Requests: waiters * 10, WriteUnits: float64(waiters) * 10}}
			before.Waiting, after.Waiting = append(before.Waiting, w), append(after.Waiting, w)
		}
	}
	svg := plot(before, after)
	for class, want := range map[string]int{"before": 9, "bare": 9, "other": 9, "after": 9} { // 4 figures in 2 panels, and the legend
		if n := strings.Count(svg, `class="mark `+class+`"`); n != want {
			t.Errorf("%d marks of %s, want %d", n, class, want)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error("a coordinate is no number")
	}
}
