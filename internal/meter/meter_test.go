package meter

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
