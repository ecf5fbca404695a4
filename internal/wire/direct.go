package wire

import (
	"encoding/json"
	"fmt"
)

// DirectRequest returns the payload of a direct invocation of the function that serves op: the fields of body, a JSON object or
// nil, and beside them name, the lock's name, where it is about one, or prefix, that of a rule, and op where the function needs it.
func DirectRequest(op Op, name string, body []byte) ([]byte, error) {
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
	if len(op.Together()) > 1 {
		set("op", string(op))
	}
	switch {
	case !op.Named():
	case op.OfRules():
		set("prefix", name)
	default:
		set("name", name)
	}
	return json.Marshal(fields)
}
