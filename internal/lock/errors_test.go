package lock

import (
	"errors"
	"testing"
)

func TestStoreErrorText(t *testing.T) {
	cause := errors.New("timeout")
	for text, e := range map[string]*StoreError{
		"store is throttled: too many requests":                        {Kind: ErrThrottled, What: "too many requests"},
		"store is throttled: too many requests (wait)":                 {Kind: ErrThrottled, What: "too many requests", Fix: "wait"},
		"store is unavailable: no answer: timeout":                     {Kind: ErrUnavailable, What: "no answer", Err: cause},
		"store is unavailable: no answer (check the network): timeout": {Kind: ErrUnavailable, What: "no answer", Fix: "check the network", Err: cause},
	} {
		if e.Error() != text || !errors.Is(e, e.Kind) {
			t.Errorf("%q, want %q", e, text)
		}
	}
}
