package dynamo

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// clockClient compares our clock with the Date of every response: the last attempt's, where the SDK tried several.
type clockClient struct {
	base  aws.HTTPClient
	clock func() time.Time
}

type observation struct{ offset time.Duration }

type observationKey struct{}

// observe makes room in ctx for what clockClient sees.
func observe(ctx context.Context) (context.Context, *observation) {
	seen := new(observation)
	return context.WithValue(ctx, observationKey{}, seen), seen
}

func (c *clockClient) Do(req *http.Request) (*http.Response, error) {
	sent := c.clock()
	resp, err := c.base.Do(req)
	if err != nil {
		return resp, err
	}
	offset := provenOffset(sent, c.clock(), resp.Header.Get("Date"))
	if seen, ok := req.Context().Value(observationKey{}).(*observation); ok {
		seen.offset = offset
	}
	// A refusal may be due to the clock, as of a signature that is not yet or no longer valid. No answer drawn from it
	// would be worth more than this one.
	if resp.StatusCode >= 300 && offset.Abs() > lock.MaxClockError {
		_ = resp.Body.Close()
		return nil, &lock.ClockError{Offset: offset}
	}
	return resp, nil
}

// provenOffset is by how much our clock is off at the least, given that the server read its own between the two times,
// and cut it to whole seconds: positive if ours is ahead, 0 if they may agree.
func provenOffset(sent, received time.Time, date string) time.Duration {
	server, err := http.ParseTime(date)
	if err != nil {
		return 0 // no date, no proof
	}
	if ahead := sent.Sub(server.Add(time.Second)); ahead > 0 {
		return ahead
	}
	return min(received.Sub(server), 0)
}
