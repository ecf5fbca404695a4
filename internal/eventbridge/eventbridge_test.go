package eventbridge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// The results of a single request: refusals, short responses, and no response.
func TestEventBridgeAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		resp *http.Response
		err  error
		want []bool // refused?
	}{
		"all taken":        {resp: awstest.Answer(200, `{"FailedEntryCount":0,"Entries":[{"EventId":"1"},{"EventId":"2"}]}`), want: []bool{false, false}},
		"one refused":      {resp: awstest.Answer(200, `{"FailedEntryCount":1,"Entries":[{"EventId":"1"},{"ErrorCode":"ThrottlingException"}]}`), want: []bool{false, true}},
		"answer too short": {resp: awstest.Answer(200, `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`), want: []bool{true, true}},
		"request refused":  {resp: awstest.Answer(400, `{"__type":"AccessDeniedException"}`), want: []bool{true, true}},
		"no answer":        {err: errors.New("connection reset"), want: []bool{true, true}},
	} {
		var sent []byte
		bus := New(awstest.Config(awstest.Doer(func(r *http.Request) (*http.Response, error) {
			sent, _ = io.ReadAll(r.Body)
			return test.resp, test.err
		})), "bus")
		errs := bus.Put(t.Context(), []stream.Entry{{DetailType: events.TypeAcquired, Detail: []byte(`{}`)}, {DetailType: events.TypeReleased, Detail: []byte(`{}`)}})
		for i, refused := range test.want {
			if (errs[i] != nil) != refused {
				t.Errorf("%s: %v", name, errs)
			}
		}
		if !bytes.Contains(sent, []byte(`"Source":"holdfast"`)) || !bytes.Contains(sent, []byte(`"EventBusName":"bus"`)) {
			t.Errorf("sent %s", sent)
		}
	}
}

// The errors of entries: none, a refusal of one, and a response with too few entries.
func TestEventBridgePut(t *testing.T) {
	for answerBody, want := range map[string]string{
		`{"FailedEntryCount":0,"Entries":[{"EventId":"1"},{"EventId":"2"}]}`:                                       "ok ok",
		`{"FailedEntryCount":1,"Entries":[{"EventId":"1"},{"ErrorCode":"ThrottlingException","ErrorMessage":""}]}`: "ok ThrottlingException: ",
		`{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`:                                                       "PutEvents answered for 1 entries of 2 PutEvents answered for 1 entries of 2",
	} {
		b := New(awstest.Config(awstest.Doer(func(*http.Request) (*http.Response, error) { return awstest.Answer(200, answerBody), nil })), "bus")
		var got []string
		for _, err := range b.Put(t.Context(), []stream.Entry{{DetailType: "d", Detail: []byte("{}"), Lock: "a"}, {DetailType: "d", Detail: []byte("{}"), Lock: "b"}}) {
			if err == nil {
				got = append(got, "ok")
			} else {
				got = append(got, err.Error())
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", answerBody, got)
		}
	}
}
