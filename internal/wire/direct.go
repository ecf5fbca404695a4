package wire

import (
	"encoding/json"
	"fmt"
)

// DirectRequest is what a direct invocation of an operation's function carries: the request's fields, the lock's name, and
// op where one function serves several. body is a JSON object, or nil.
func DirectRequest(op, name string, body []byte) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if body != nil {
		if err := json.Unmarshal(body, &fields); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
	}
	set := func(field, value string) {
		encoded, _ := json.Marshal(value) // a string always encodes
		fields[field] = encoded
	}
	if op == "status" || op == "list" {
		set("op", op)
	}
	if op != "list" {
		set("name", name)
	}
	return json.Marshal(fields)
}
