package stream

import (
	"bytes"
	"testing"
)

// A message of the timers' queue is read or refused, whatever it contains, and what was read is written the same again.
func FuzzJob(f *testing.F) {
	for _, s := range []string{
		`{"v":1,"lock":"a","lease":"k","fence":7}`, `{"v":1,"kind":"tell","lock":"a","lease":"k","grant":{},"since":1}`, `{"kind":"fail","lock":"a","tokens":[{"kind":"task","text":"t"}]}`,
		`{"kind":"settle","lock":"a","tries":-9}`, `{"kind":"end","execution":{"executionArn":"x","stopDate":5}}`, `{"kind":"publish","lock":"a","event":{"detail_type":"x","detail":{}}}`,
		`{"kind":"other","lock":"a"}`, `{}`, `7`, `{"lock":"a","since":9223372036854775807,"tries":9223372036854775807}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		j, err := DecodeJob(body)
		if err != nil {
			return
		}
		if d := retryDelay(j.Tries); d < firstDelay || d > MaxDelay {
			t.Errorf("delay %v after %d tries", d, j.Tries)
		}
		first, err := EncodeJob(j)
		if err != nil {
			return // an event's time beyond the year 9999
		}
		again, err := DecodeJob(string(first))
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := EncodeJob(again); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s, then %s: %v", first, second, err)
		}
	})
}
