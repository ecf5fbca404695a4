package dynamo

import (
	"context"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// clockClient compares this process's clock with the Date of every response. If the SDK made several attempts, the last one counts.
type clockClient struct {
	base  aws.HTTPClient
	clock func() time.Time
}

type observation struct{ offset time.Duration }

type observationKey struct{}

// observe returns a context in which clockClient stores what it found.
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
	// A refusal may be due to the clock, for instance a signature that has expired. The proof that the clock is wrong comes first.
	if resp.StatusCode >= 300 && offset.Abs() > lock.MaxClockError {
		_ = resp.Body.Close()
		return nil, &lock.ClockError{Offset: offset}
	}
	return resp, nil
}

// provenOffset is how far this process's clock is off at least, if the server read its own between the two times and cut it to whole
// seconds: positive if this process is ahead, 0 if the clocks may agree.
func provenOffset(sent, received time.Time, date string) time.Duration {
	server, err := http.ParseTime(date)
	if err != nil {
		return 0 // without a Date nothing is proved
	}
	if ahead := sent.Sub(server.Add(time.Second)); ahead > 0 {
		return ahead
	}
	return min(received.Sub(server), 0)
}
