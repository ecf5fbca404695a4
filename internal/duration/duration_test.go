package duration_test

import (
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/duration"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "1.5d": 36 * time.Hour, ".5d": 12 * time.Hour, "-1d1h": -25 * time.Hour, "+2d": 48 * time.Hour, "0d": 0,
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "-1s": -time.Second, "106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := duration.Parse(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "1", "1x", "1d2", "1d-1h", "1d+1h", "1h1d", "106752d", "9999999999d", "106751d24h", "1.2.3d", "--1d"} {
		if got, err := duration.Parse(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
