package dynamo

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// What a reply proves, for every fraction of a second at which the server may read its clock: an error above MaxClockOffset is always
// found, one of MaxClockError or less never, and the proved error never exceeds the true one.
func TestProvenOffset(t *testing.T) {
	second := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, at := range []time.Duration{0, 1, 500 * time.Millisecond, time.Second - 1} {
		for _, off := range []time.Duration{
			0, lock.MaxClockError - 1, lock.MaxClockError, lock.MaxClockError + 1, 1500 * time.Millisecond, 1999 * time.Millisecond,
			lock.MaxClockOffset, lock.MaxClockOffset + 1, 2999 * time.Millisecond, time.Hour,
		} {
			for _, signed := range []time.Duration{off, -off} {
				read := second.Add(at) // true time
				date := read.UTC().Format(http.TimeFormat)
				ours := read.Add(signed)
				got := provenOffset(ours, ours, date)
				found := got.Abs() > lock.MaxClockError
				if got != 0 && (got > 0) != (signed > 0) || got.Abs() > off {
					t.Errorf("read at .%09d, %v off: proved %v", at, signed, got)
				}
				if off > lock.MaxClockOffset && !found || off <= lock.MaxClockError && found {
					t.Errorf("read at .%09d, %v off: proved %v, so found: %v", at, signed, got, found)
				}
			}
		}
	}
}

// A slow reply proves no more than one that took no time: the server may have read its clock at any moment of it.
func TestSlowReplyIsNoProof(t *testing.T) {
	sent := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, took := range []time.Duration{0, time.Second, 10 * time.Second} {
		for _, read := range []time.Duration{0, took / 2, took} {
			if off := provenOffset(sent, sent.Add(took), sent.Add(read).Format(http.TimeFormat)); off != 0 {
				t.Errorf("a right clock is %v off by a reply of %v, whose Date was read after %v", off, took, read)
			}
		}
	}
	// What it still proves: ahead of the first moment, or behind the last.
	if off := provenOffset(sent, sent.Add(5*time.Second), sent.Add(-4*time.Second).Format(http.TimeFormat)); off != 3*time.Second {
		t.Errorf("ahead: %v", off)
	}
	if off := provenOffset(sent, sent.Add(5*time.Second), sent.Add(9*time.Second).Format(http.TimeFormat)); off != -4*time.Second {
		t.Errorf("behind: %v", off)
	}
	for _, date := range []string{"", "yesterday"} {
		if off := provenOffset(sent, sent.Add(time.Hour), date); off != 0 {
			t.Errorf("the Date %q proves %v", date, off)
		}
	}
}

// answers is an HTTP client whose response takes some time. It reads its Date at the start.
type answers struct {
	took   time.Duration
	status int
}

func (a answers) Do(*http.Request) (*http.Response, error) {
	date := time.Now().UTC().Format(http.TimeFormat)
	time.Sleep(a.took)
	return &http.Response{StatusCode: a.status, Header: http.Header{"Date": {date}}, Body: http.NoBody}, nil
}

// A Date is compared with the times of its own request and reply, so a slow engine is not taken for a wrong clock.
func TestClockClientMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, off := range []time.Duration{0, 10 * time.Second, -20 * time.Second} {
			for _, status := range []int{200, 299, 300, 400} {
				c := &clockClient{answers{5 * time.Second, status}, func() time.Time { return time.Now().Add(off) }}
				ctx, seen := observe(t.Context())
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x", nil)
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Do(req)
				wrong := off != 0
				if refused := err != nil; refused != (wrong && status >= 300) {
					t.Errorf("%v off, status %d: error %v", off, status, err)
				}
				if (seen.offset.Abs() > lock.MaxClockError) != wrong || seen.offset.Abs() > off.Abs() {
					t.Errorf("%v off, status %d: seen %v", off, status, seen.offset)
				}
			}
		}
	})
}
