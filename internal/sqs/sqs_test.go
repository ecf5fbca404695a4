package sqs

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

func newQueue(do awstest.Doer) *Queue {
	return &Queue{url: "http://sqs.test/timers", client: awssqs.NewFromConfig(awstest.Config(do), func(o *awssqs.Options) { o.DisableMessageChecksumValidation = true })}
}

// Timers are sent ten in a request, with delays rounded up to seconds and at most 15 minutes; refused ones have errors.
func TestQueueArm(t *testing.T) {
	var delays []int
	requests := 0
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct {
			Entries []struct {
				MessageBody  string
				DelaySeconds int
			}
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		requests++
		for _, e := range in.Entries {
			delays = append(delays, e.DelaySeconds)
			job, err := stream.DecodeJob(e.MessageBody)
			timer := job.Timer
			if err != nil || timer.Lock != "a" || timer.Key != "k" || timer.Fence != 7 {
				t.Errorf("message %s: %v", e.MessageBody, err)
			}
		}
		if requests == 2 {
			return awstest.Answer(200, `{"Successful":[],"Failed":[{"Id":"1","Code":"InternalError","SenderFault":false}]}`), nil
		}
		if requests == 3 {
			return awstest.Answer(503, `{}`), nil
		}
		return awstest.Answer(200, `{"Successful":[],"Failed":[]}`), nil
	})
	var errs []error
	synctest.Test(t, func(t *testing.T) { // time stands still
		var timers []stream.Timer
		for i := range 22 {
			due := time.Now().Add(time.Duration([]int64{-5000, 0, 1, 1000, 1001, 899_001, 900_001, 86_400_000}[i%8]) * time.Millisecond)
			timers = append(timers, stream.Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 7}, Due: due})
		}
		errs = q.Arm(t.Context(), timers)
	})
	if requests != 3 || !slices.Equal(delays[:8], []int{0, 0, 1, 1, 2, 900, 900, 900}) {
		t.Errorf("%d requests, delays %v", requests, delays[:8])
	}
	var refused []int
	for i, err := range errs {
		if err != nil {
			refused = append(refused, i)
		}
	}
	if !slices.Equal(refused, []int{11, 20, 21}) {
		t.Errorf("refused %v", refused)
	}
}

func TestQueueBury(t *testing.T) {
	var body string
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct{ MessageBody string }
		data, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(data, &in); err != nil {
			t.Error(err)
		}
		body = in.MessageBody
		return awstest.Answer(200, `{"MessageId":"1"}`), nil
	})
	if err := q.Bury(t.Context(), stream.Write{Write: lock.Write{Lock: "a"}, Sequence: "7", Poison: io.EOF, Raw: []byte(`{"dynamodb":{}}`)}); err != nil {
		t.Fatal(err)
	}
	if body != `{"problem":"EOF","lock":"a","sequence":"7","record":{"dynamodb":{}}}` {
		t.Errorf("message %s", body)
	}
	if err := q.Bury(t.Context(), stream.Write{Sequence: "8", Poison: io.EOF, Raw: make([]byte, 300*1024)}); err != nil || strings.Contains(body, "record") {
		t.Errorf("message %s, %v", body, err)
	}
}

// A request has at most ten messages and 256 KiB; a job that cannot be encoded or is refused has an error.
func TestQueuePutOff(t *testing.T) {
	var sizes []int
	refuse := ""
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct {
			Entries []struct{ MessageBody string }
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		bytes := 0
		for _, e := range in.Entries {
			bytes += len(e.MessageBody)
		}
		if bytes > maxMessageBytes && len(in.Entries) > 1 {
			t.Errorf("a request of %d bytes", bytes)
		}
		sizes = append(sizes, len(in.Entries))
		return awstest.Answer(200, `{"Successful":[],"Failed":[`+refuse+`]}`), nil
	})
	job := func(n int) stream.Job {
		return stream.Job{Kind: stream.JobFail, Lock: "a", Cause: strings.Repeat("x", n)}
	}
	refused := func(jobs ...stream.Job) (list []int) {
		sizes = nil
		for i, err := range q.Defer(t.Context(), jobs) {
			if err != nil {
				list = append(list, i)
			}
		}
		return list
	}
	one, _ := stream.EncodeJob(job(1))
	half := maxMessageBytes/2 - len(one) + 1
	for _, test := range []struct {
		jobs []stream.Job
		want []int
	}{
		{slices.Repeat([]stream.Job{job(1)}, 21), []int{10, 10, 1}}, {[]stream.Job{job(half), job(half)}, []int{2}}, {[]stream.Job{job(half), job(half + 1)}, []int{1, 1}},
		{[]stream.Job{job(1), job(maxMessageBytes), job(1)}, []int{1, 1, 1}}, {nil, nil},
	} {
		if got := refused(test.jobs...); got != nil || !slices.Equal(sizes, test.want) {
			t.Errorf("%d jobs: refused %v, requests of %v", len(test.jobs), got, sizes)
		}
	}
	broken := stream.Job{Kind: stream.JobPublish, Lock: "a", Event: stream.Entry{Detail: []byte("{")}}
	if got := refused(broken); !slices.Equal(got, []int{0}) || sizes != nil {
		t.Errorf("refused %v, requests of %v", got, sizes)
	}
	refuse = `{"Id":"2","Code":"X","SenderFault":true},{"Id":"99","Code":"X","SenderFault":true},{"Id":"-1","Code":"X","SenderFault":true}`
	if got := refused(broken, job(1), job(1)); !slices.Equal(got, []int{0, 2}) || !slices.Equal(sizes, []int{2}) {
		t.Errorf("refused %v, requests of %v", got, sizes)
	}
}
