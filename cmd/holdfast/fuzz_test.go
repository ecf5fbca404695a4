package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What the command prints of others' texts has no character that controls a terminal or reorders a line, and fits its column.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"me", "a\x1b[2J", "\u009b2J", "a\u202eb", "\xff\xfe", "日本語", "e\u0301", "\U000e0001", "👩‍🚀", "\u00ad", "\u2028", "a\\u001b"} {
		f.Add(s, 5)
	}
	f.Fuzz(func(t *testing.T, s string, most int) {
		text := printable(s)
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", s, text)
		}
		for line := range strings.SplitSeq(lines(s), "\n") {
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q: line %q", s, line)
			}
		}
		if most = most % 300; most > 0 {
			if short, n := cut(text, most); n > most || n != sum(short) || !utf8.ValidString(short) {
				t.Errorf("%q to %d columns: %q has %d", text, most, short, n)
			}
		}
		if object, err := json.Marshal(map[string]string{"k": s}); err == nil { // metadata keeps its meaning
			var before, after any
			if json.Unmarshal(object, &before) != nil || json.Unmarshal([]byte(printable(string(object))), &after) != nil || before.(map[string]any)["k"] != after.(map[string]any)["k"] {
				t.Errorf("%s is printed as %s", object, printable(string(object)))
			}
		}
	})
}
