package dynamo

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// DecodeWrite reads a record of the table's stream: the keys and images of one item. ok is false if the item is neither a
// lock's record, nor the end of a wait, nor a prefix rule. If err is not nil, w has the lock's name where the keys have one.
func DecodeWrite(keys, before, after map[string]types.AttributeValue) (w lock.Write, ok bool, err error) {
	var sk string
	if w.Lock, sk, err = streamKey(keys); err != nil {
		return w, true, err
	}
	switch {
	case isEnded(sk) && after != nil:
		ended, err := decodeWaiter(after)
		w.Ended = []lock.Waiter{ended}
		return w, true, err
	case isRule(w.Lock) && after != nil: // the removal by native TTL changes nothing
		return decodeRuleWrite(sk, before, after)
	case sk != skLock:
		return w, false, nil
	}
	if w.Before, err = Decode(before); err != nil {
		return w, true, fmt.Errorf("old image: %w", err)
	}
	if w.After, err = Decode(after); err != nil {
		return w, true, fmt.Errorf("new image: %w", err)
	}
	return w, true, nil
}

// ReadRecord reads a record of the table's stream as Lambda sends it, in DynamoDB's JSON. sequence is its number in the
// stream, which is also known of a record whose rest cannot be read. ok and err are as for [DecodeWrite].
func ReadRecord(raw json.RawMessage) (w lock.Write, sequence string, ok bool, err error) {
	var record struct {
		Change struct {
			Keys           map[string]json.RawMessage `json:"Keys"`
			SequenceNumber string                     `json:"SequenceNumber"`
			OldImage       map[string]json.RawMessage `json:"OldImage"`
			NewImage       map[string]json.RawMessage `json:"NewImage"`
		} `json:"dynamodb"`
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return w, record.Change.SequenceNumber, true, err // Unmarshal reads the fields of other types all the same
	}
	change := record.Change
	keys, err := attributes(change.Keys)
	if err != nil {
		return w, change.SequenceNumber, true, fmt.Errorf("keys: %w", err)
	}
	name, sk, err := streamKey(keys)
	if err != nil || sk != skLock && !isEnded(sk) && !isRule(name) {
		return lock.Write{Lock: name}, change.SequenceNumber, err != nil, err
	}
	w.Lock = name
	before, err := attributes(change.OldImage)
	if err != nil {
		return w, change.SequenceNumber, true, fmt.Errorf("old image: %w", err)
	}
	after, err := attributes(change.NewImage)
	if err != nil {
		return w, change.SequenceNumber, true, fmt.Errorf("new image: %w", err)
	}
	w, ok, err = DecodeWrite(keys, before, after)
	return w, change.SequenceNumber, ok, err
}

func streamKey(keys item) (name, sk string, err error) {
	p, _ := keys[attrPK].(*types.AttributeValueMemberS)
	s, _ := keys[attrSK].(*types.AttributeValueMemberS)
	if p == nil || s == nil {
		return "", "", errors.New("keys: pk or sk is missing, or not a string")
	}
	return p.Value, s.Value, nil
}

func decodeRuleWrite(sk string, before, after item) (w lock.Write, ok bool, err error) {
	w.Lock, w.Rule = lock.RuleSubject(strings.TrimPrefix(sk, skRule)), new(lock.RuleWrite)
	if w.Rule.Before, err = decodeRule(before); err != nil {
		return w, true, fmt.Errorf("old image: %w", err)
	}
	if w.Rule.After, err = decodeRule(after); err != nil {
		return w, true, fmt.Errorf("new image: %w", err)
	}
	return w, true, nil
}

func isRule(pk string) bool { return pk == pkRules }

func isEnded(sk string) bool { return strings.HasPrefix(sk, skEnded) }

// attributes reads DynamoDB's JSON. Values of types that DynamoDB does not have are read as null.
func attributes(image map[string]json.RawMessage) (item, error) {
	if image == nil {
		return nil, nil
	}
	it := make(item, len(image))
	for name, raw := range image {
		v, err := attribute(raw)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", strconv.Quote(name), err)
		}
		it[name] = v
	}
	return it, nil
}

func attribute(raw json.RawMessage) (types.AttributeValue, error) {
	var v struct {
		S    *string
		N    *string
		M    map[string]json.RawMessage
		L    []json.RawMessage
		B    []byte
		BOOL *bool
		SS   []string
		NS   []string
		BS   [][]byte
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	switch {
	case v.S != nil:
		return str(*v.S), nil
	case v.N != nil:
		return &types.AttributeValueMemberN{Value: *v.N}, nil
	case v.M != nil:
		m, err := attributes(v.M)
		return &types.AttributeValueMemberM{Value: m}, err
	case v.L != nil:
		list := &types.AttributeValueMemberL{}
		for _, raw := range v.L {
			e, err := attribute(raw)
			if err != nil {
				return nil, err
			}
			list.Value = append(list.Value, e)
		}
		return list, nil
	case v.B != nil:
		return &types.AttributeValueMemberB{Value: v.B}, nil
	case v.BOOL != nil:
		return &types.AttributeValueMemberBOOL{Value: *v.BOOL}, nil
	case v.SS != nil:
		return &types.AttributeValueMemberSS{Value: v.SS}, nil
	case v.NS != nil:
		return &types.AttributeValueMemberNS{Value: v.NS}, nil
	case v.BS != nil:
		return &types.AttributeValueMemberBS{Value: v.BS}, nil
	}
	return &types.AttributeValueMemberNULL{Value: true}, nil
}
