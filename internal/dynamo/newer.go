package dynamo

import (
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// Attributes of a newer version. Writes leave attributes of an item, and of a lease in it, as they are if this version does not know
// them. Only a grant to a waiter makes a lease of another item: its terms carry such attributes along, see lock.Terms.

// termsKnown are the attributes of a lease, and of the terms of a waiter, that this version knows.
var termsKnown = map[string]bool{
	attrOwner: true, attrPrincipal: true, attrPermits: true, attrLeaseCapacity: true, attrLeaseFence: true, attrAcquiredAt: true, attrRenewedAt: true,
	attrExpiresAt: true, attrTTLms: true, attrSplit: true, attrMetadata: true, attrUnclaimed: true, attrTokens: true, attrAttempted: true,
	attrExecution: true, attrCheckAt: true, attrJoined: true, attrSet: true, attrEndsAt: true, attrMaxTTL: true, attrTTLPrefix: true, attrMaxHold: true, attrHoldPrefix: true, attrTrace: true,
}

// newerText is the text of the attributes of a map, such as a lease's, that this version does not know: DynamoDB's JSON, in the order of their names, so
// that equal attributes have equal texts. It is empty if there are none.
func newerText(it item, known map[string]bool) string {
	var newer map[string]any
	for attr, v := range it {
		if !known[attr] {
			if newer == nil {
				newer = map[string]any{}
			}
			newer[attr] = plainJSON(v)
		}
	}
	if newer == nil {
		return ""
	}
	text, _ := json.Marshal(newer) // texts, lists and maps
	return string(text)
}

// newerAttributes are the attributes of a text that newerText made.
func newerAttributes(text string) item {
	if text == "" {
		return nil
	}
	var image map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &image) != nil {
		return nil
	}
	it, _ := attributes(image)
	return it
}

// plainJSON is a value as DynamoDB's JSON has it.
func plainJSON(v types.AttributeValue) any {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return map[string]any{"S": v.Value}
	case *types.AttributeValueMemberN:
		return map[string]any{"N": v.Value}
	case *types.AttributeValueMemberB:
		return map[string]any{"B": v.Value}
	case *types.AttributeValueMemberBOOL:
		return map[string]any{"BOOL": v.Value}
	case *types.AttributeValueMemberSS:
		return map[string]any{"SS": v.Value}
	case *types.AttributeValueMemberNS:
		return map[string]any{"NS": v.Value}
	case *types.AttributeValueMemberBS:
		return map[string]any{"BS": v.Value}
	case *types.AttributeValueMemberM:
		m := map[string]any{}
		for name, e := range v.Value {
			m[name] = plainJSON(e)
		}
		return map[string]any{"M": m}
	case *types.AttributeValueMemberL:
		list := []any{}
		for _, e := range v.Value {
			list = append(list, plainJSON(e))
		}
		return map[string]any{"L": list}
	}
	return map[string]any{"NULL": true}
}
