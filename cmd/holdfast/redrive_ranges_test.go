package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/redrive"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A lettersQueue is a dead-letter queue in memory.
type lettersQueue struct {
	list   []stream.Letter
	hidden map[string]bool
}

func (q *lettersQueue) Receive(_ context.Context, n int) (list []stream.Letter, _ error) {
	for _, l := range q.list {
		if !q.hidden[l.ID] && len(list) < n {
			q.hidden[l.ID] = true
			list = append(list, l)
		}
	}
	return list, nil
}

func (q *lettersQueue) Delete(_ context.Context, l stream.Letter) error {
	for i := range q.list {
		if q.list[i].ID == l.ID {
			q.list = append(q.list[:i:i], q.list[i+1:]...)
			return nil
		}
	}
	return errors.New("no such message")
}

func (q *lettersQueue) Release(_ context.Context, l stream.Letter) error {
	q.hidden[l.ID] = false
	return nil
}

// lose adds the message of a range whose records the stream does not have any more.
func (q *lettersQueue) lose(id string, at time.Time) {
	q.list = append(q.list, stream.Letter{ID: id, Body: fmt.Sprintf(
		`{"DDBStreamBatchInfo":{"streamArn":"a","shardId":"s","startSequenceNumber":"1","endSequenceNumber":"2","approximateArrivalOfFirstRecord":%q,"approximateArrivalOfLastRecord":%[1]q,"batchSize":5}}`,
		at.UTC().Format(time.RFC3339))})
}

// realFunction starts a fake of Lambda's API. It passes requests for dead letters to a real redriver of the queue, and those for a sweep to the
// function sweep.
func realFunction(t *testing.T, q *lettersQueue, sweep func(redrive.Request)) {
	t.Helper()
	r := &redrive.Redriver{Letters: q, Expirer: &stream.Expirer{}}
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, asked *http.Request) {
		var req redrive.Request
		body, _ := io.ReadAll(asked.Body)
		if err := json.Unmarshal(body, &req); err != nil {
			t.Error(err)
		}
		answer := redrive.Answer{Outcomes: []redrive.Outcome{}}
		if req.Work == redrive.WorkSweep {
			sweep(req)
		} else {
			var err error
			if answer, err = r.Do(context.Background(), req); err != nil {
				t.Error(err)
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(fake.Close)
	fakeFunction(t) // its settings
	t.Setenv("AWS_ENDPOINT_URL_LAMBDA", fake.URL)
}

// However many ranges of lost records there are, a message is deleted only after a sweep was given its window, and is counted once. That holds for
// a range that is lost while the sweep runs, too: it is given to another sweep.
func TestEveryLostRangeIsSwept(t *testing.T) {
	for ranges, sweeps := range map[int]int{3: 2, 1500: 2} {
		q := &lettersQueue{hidden: map[string]bool{}}
		for i := range ranges {
			q.lose(fmt.Sprint("m", i), time.Now().Add(-48*time.Hour))
		}
		// A message that is deleted at once, so that the command asks for more, and sees the ranges again.
		q.list = append(q.list, stream.Letter{ID: "pointless", Body: `{"problem":"p","sequence":"1","record":{"dynamodb":{"Keys":{"pk":{"S":"a"},"sk":{"S":"holder#1"}}}}}`})
		slices.Reverse(q.list)
		given, count := map[string]bool{}, 0
		realFunction(t, q, func(req redrive.Request) {
			if count++; count == 1 {
				q.lose("during", time.Now().Add(-time.Hour))
			}
			for _, w := range req.Lost {
				if given[w.Message] {
					t.Errorf("%s was given to two sweeps", w.Message)
				}
				given[w.Message] = true
			}
			if there := len(q.list); count == 1 && there != ranges+1 {
				t.Errorf("%d messages of %d are left before the sweep", there, ranges+1)
			}
		})
		code, out, errs := call(t.Context(), "redrive", "--apply")
		if code != 0 || len(given) != ranges+1 || count != sweeps || len(q.list) != 0 {
			t.Errorf("%d ranges: exit code %d; %d of them given to %d sweeps, want %d; %d messages left: %s", ranges, code, len(given), count, sweeps, len(q.list), errs)
		}
		if want := fmt.Sprintf("%d done, 1 pointless; %[1]d notes of lost events", ranges+1); !strings.Contains(out, want) {
			t.Errorf("%d ranges: it does not say %q: %s", ranges, want, out[max(0, len(out)-200):])
		}
	}
}
