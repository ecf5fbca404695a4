package sqs

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A notification goes to the waiter's queue, at the region's endpoint whatever the URL of the queue says. A queue that is gone or not
// allowed is told from a service that is throttled.
func TestNotify(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		want   error
	}{
		{200, "", nil},
		{400, "AWS.SimpleQueueService.NonExistentQueue", stream.ErrUndeliverable},
		{400, "com.amazonaws.sqs#QueueDoesNotExist", stream.ErrUndeliverable},
		{400, "AccessDenied", stream.ErrUndeliverable},
		{403, "AccessDeniedException", stream.ErrUndeliverable},
		{400, "ThrottlingException", nil},
		{503, "ServiceUnavailable", nil},
	} {
		body, host := "", ""
		s := &Sender{awssqs.NewFromConfig(awstest.Config(awstest.Doer(func(r *http.Request) (*http.Response, error) {
			data, _ := io.ReadAll(r.Body)
			body, host = string(data), r.URL.Host
			if test.code == "" {
				return awstest.Answer(200, `{"MessageId":"1"}`), nil
			}
			return awstest.Answer(test.status, `{"__type":"`+test.code+`","message":"no"}`), nil
		})), func(o *awssqs.Options) { o.DisableMessageChecksumValidation = true })}
		err := s.Notify(t.Context(), "https://elsewhere.test/123456789012/holdfast-notify-1", []byte(`{"type":"granted"}`))
		if (err == nil) != (test.code == "") || errors.Is(err, stream.ErrUndeliverable) != (test.want != nil) {
			t.Errorf("%s: %v", test.code, err)
		}
		if strings.Contains(host, "elsewhere") || !strings.Contains(body, `"MessageBody":"{\"type\":\"granted\"}"`) || !strings.Contains(body, `"QueueUrl":"https://elsewhere.test/123456789012/holdfast-notify-1"`) {
			t.Errorf("asked %s %s", host, body)
		}
	}
}
