package dynamo

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Records of the stream as Lambda sends them, and their decoded writes.
func TestReadRecord(t *testing.T) {
	const keys = `"Keys":{"pk":{"S":"a"},"sk":{"S":"lock"}},"SequenceNumber":"7"`
	const ended = `"Keys":{"pk":{"S":"a"},"sk":{"S":"ended#1"}},"SequenceNumber":"7"`
	const rev = `"rev":{"N":"1"},`
	for _, test := range []struct{ record, want string }{
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"by":{"S":"x"}}}}`, "a 7 | x"},
		{`{"dynamodb":{` + keys + `,"OldImage":{` + rev + `"by":{"S":"y"}}}}`, "a 7 y |"},
		{`{"dynamodb":{` + keys + `,"OldImage":{` + rev + `"by":{"S":"y"}},"NewImage":{` + rev + `"other":{"BOOL":true}}}}`, "a 7 y |"},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"other":{"SS":["x"]}}}}`, "a 7 |"},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"owner":{"S":"o"}}}}}}}}`, "a 7 | o"},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"tokens":{"L":[{"M":{"task":{"S":"t"}}},{"M":{"callback":{"S":"c"}}}]}}}}}}}}`, "a 7 | [{task t} {callback c}]"},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"tokens":{"S":"t"}}}}}}}}`, `a 7 new image: holder "k": attribute "tokens" is`},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"tokens":{"L":[{"S":"t"}]}}}}}}}}`, `a 7 new image: holder "k": attribute "tokens" is`},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"tokens":{"L":[{"M":{"task":{"N":"1"}}}]}}}}}}}}`, `a 7 new image: holder "k": attribute "task" is`},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"holders":{"M":{"k":{"M":{"tokens":{"L":[7]}}}}}}}}`, `a 7 new image: attribute "holders"`},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"by":{"N":"1"}}}}`, `a 7 new image: attribute "by" is`},
		{`{"dynamodb":{` + keys + `,"NewImage":{` + rev + `"by":{"BOOL":true}}}}`, `a 7 new image: attribute "by" is`},
		{`{"dynamodb":{` + keys + `,"NewImage":{"other":{"S":"x"}}}}`, `a 7 new image: attribute "rev"`},
		{`{"dynamodb":{` + keys + `,"OldImage":{"other":{"S":"x"}},"NewImage":{` + rev + `"by":{"S":"x"}}}}`, `a 7 old image: attribute "rev"`},
		{`{"dynamodb":{` + keys + `,"OldImage":{"by":7}}}`, `a 7 old image: attribute "by"`},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":7}}}`, `a 7 new image: attribute "by"`},
		{`{"dynamodb":{` + keys + `,"NewImage":{"by":{"M":{"x":7}}}}}`, `a 7 new image: attribute "by": attribute "x"`},
		{`{"dynamodb":{` + keys + `}}`, "a 7 |"},
		{`{"dynamodb":{` + ended + `,"NewImage":{"ticket":{"N":"3"}}}}`, "a 7 ended 3"},
		{`{"dynamodb":{` + ended + `,"NewImage":{"ticket":{"S":"3"}}}}`, `a 7 attribute "ticket"`},
		{`{"dynamodb":{` + ended + `,"NewImage":{"ticket":3}}}`, `a 7 new image: attribute "ticket"`},
		{`{"dynamodb":{` + ended + `,"OldImage":{"ticket":{"N":"3"}}}}`, "nothing"}, // it was removed
		{`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"S":"wait#1"}},"NewImage":{"by":7}}}`, "nothing"},
		{`{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"N":"1"}},"SequenceNumber":"7"}}`, "7 keys: pk or sk is missing"},
		{`{"dynamodb":{"Keys":{"sk":{"S":"lock"}},"SequenceNumber":"7"}}`, "7 keys: pk or sk is missing"},
		{`{"dynamodb":{"Keys":{"pk":7,"sk":{"S":"lock"}},"SequenceNumber":"7"}}`, `7 keys: attribute "pk"`},
		{`{"dynamodb":{"Keys":7,"SequenceNumber":"7"}}`, "7 json"},
		{`{"dynamodb":7}`, "json"},
		{`7`, "json"},
	} {
		w, sequence, ok, err := ReadRecord(json.RawMessage(test.record))
		told := func(r lock.Record) string {
			for _, l := range r.Holders {
				if !l.Tokens.Empty() {
					return fmt.Sprint(l.Tokens.List())
				}
				return l.Owner
			}
			return r.By
		}
		got := "nothing"
		switch {
		case ok && err != nil:
			got = strings.Join(strings.Fields(fmt.Sprint(w.Lock, " ", sequence, " ", err)), " ")
		case ok && w.Ended != nil:
			got = fmt.Sprint(w.Lock, " ", sequence, " ended ", w.Ended[0].Ticket)
		case ok:
			got = strings.Join(strings.Fields(fmt.Sprint(w.Lock, " ", sequence, " ", told(w.Before), " | ", told(w.After))), " ")
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %s, want %s", test.record, got, test.want)
		}
	}
}
