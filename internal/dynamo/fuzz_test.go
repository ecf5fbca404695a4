package dynamo

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// A record of the stream is read, left out or refused, whatever it contains. What the log says of one that is refused has no text of its
// attributes, among which are callback tokens.
func FuzzReadRecord(f *testing.F) {
	const secret = "SECRET-TOKEN"
	const keys = `"Keys":{"pk":{"S":"a"},"sk":{"S":"lock"}},"SequenceNumber":"7"`
	for _, s := range []string{
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"1"},"by":{"S":"SECRET-TOKEN"}}}}`,
		`{"dynamodb":{` + keys + `,"OldImage":{"rev":{"N":"1"}},"NewImage":{"rev":{"N":"1"},"holders":{"M":{"k":{"M":{"tokens":{"L":[{"M":{"task":{"S":"SECRET-TOKEN"}}}]}}}}}}}}`,
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"1"},"holders":{"M":{"k":{"M":{"tokens":{"S":"SECRET-TOKEN"}}}}}}}}`,
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"S":"SECRET-TOKEN"}}}}`,
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"1"},"holders":{"M":{"k":{"S":"SECRET-TOKEN"}}}}}}`,
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"SECRET-TOKEN"}}}}`,
		`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"S":"ended#0000000000000003"}},"NewImage":{"ticket":{"N":"3"},"want":{"M":{"tokens":{"L":[{"M":{"task":{"S":"SECRET-TOKEN"}}}]}}}}}}`,
		`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"S":"wait#1"}}}}`, `{"dynamodb":7}`, `7`, `{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"9223372036854775808"}}}}`,
		`{"dynamodb":{` + keys + `,"NewImage":{"rev":{"N":"1"},"x":{"L":[{"L":[{"L":[{"M":{"y":{"BOOL":true}}}]}]}]}}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		w, _, ok, err := ReadRecord(json.RawMessage(raw))
		if err != nil && strings.Contains(err.Error(), secret) && !quotedName(raw, secret) {
			t.Errorf("%s: %v", raw, err)
		}
		if ok && err == nil {
			w.Effects(true) // does not panic either
			_ = w.After.Size()
			for _, l := range w.After.Holders {
				_ = time.UnixMilli(l.ExpiresAt)
			}
		}
	})
}

// quotedName reports whether the text may be part of a name, which an error may repeat: that of an attribute or of a lease's key.
func quotedName(raw []byte, text string) bool {
	for rest := string(raw); ; {
		_, after, found := strings.Cut(rest, text)
		if !found {
			return false
		}
		if end := strings.IndexByte(after, '"'); end >= 0 && strings.HasPrefix(strings.TrimLeft(after[end+1:], " \t\r\n"), ":") {
			return true
		}
		rest = after
	}
}
