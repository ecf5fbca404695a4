package wire_test

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The cases of W3C's Trace Context: https://www.w3.org/TR/trace-context/#versioning-of-traceparent.
func TestTraceparent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for text, want := range map[string]string{
		good:                                  good,
		strings.TrimSuffix(good, "01") + "00": strings.TrimSuffix(good, "01") + "00",
		"cc" + good[2:]:                       good, // a later version
		"cc" + good[2:] + "-what-the-future-holds": good,
		"cc" + good[2:] + ".x":                     "",
		"ff" + good[2:]:                            "",
		"0g" + good[2:]:                            "",
		good + "-x":                                "",
		good + "0":                                 "",
		good[:54]:                                  "",
		"":                                         "",
		strings.ToUpper(good):                      "",
		strings.ReplaceAll(good, "-", "_"):         "",
		"00-0af7651916cd43dd-8448eb211c80319c-b7ad6b7169203331":       "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":     "",
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":     "",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01":     "",
		"00-0af7651916cd43dd8448eb211c80319\u00e9b7ad6b7169203331-01": "",
		"-0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":     "",
	} {
		if got := wire.Traceparent(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
