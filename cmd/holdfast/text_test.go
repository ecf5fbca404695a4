package main

import (
	"encoding/json"
	"testing"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"alice":            "alice",
		"Zoë 東京 🚀":         "Zoë 東京 🚀",
		"a\x1b[2Jb":        `a\u001b[2Jb`,
		"a\u009b2Jb":       `a\u009b2Jb`, // the C1 form of ESC [
		"\u0080\u009f":     `\u0080\u009f`,
		"\u202etxt.exe":    `\u202etxt.exe`, // bidirectional override
		"\u2066a\u2069":    `\u2066a\u2069`,
		"\u200e\u200f":     `\u200e\u200f`,
		"👩\u200d🚀":         `👩\u200d🚀`, // joiner
		"می\u200cخواهم":    `می\u200cخواهم`,
		"a\u00a0b":         `a\u00a0b`,
		"a\nb\tc\rd\x7f":   `a\nb\tc\rd\u007f`,
		"\U000e0041":       `\udb40\udc41`, // a tag character
		"\xff":             "\ufffd",
		`back\slash "q"`:   `back\slash "q"`,
		"line\u2028end":    `line\u2028end`,
		"\ufeffbom\u00adx": `\ufeffbom\u00adx`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		whole, _ := json.Marshal(map[string]string{"k": text}) // what is escaped in JSON means the same
		var before, after map[string]string
		if err := json.Unmarshal([]byte(printable(string(whole))), &after); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		_ = json.Unmarshal(whole, &before)
		if before["k"] != after["k"] {
			t.Errorf("%q: %q in JSON", text, after["k"])
		}
	}
	if got := lines("a\x1b\nb"); got != "a\\u001b\nb" {
		t.Errorf("lines: %q", got)
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		text string
		most int
		want string
		n    int
	}{
		{"abc", 3, "abc", 3},
		{"abc", 4, "abc", 3},
		{"abcd", 3, "ab…", 3},
		{"", 3, "", 0},
		{"abcd", 1, "…", 1},
		{"東京都", 6, "東京都", 6},
		{"東京都", 5, "東京…", 5},
		{"東京都", 4, "東…", 3}, // half a character is none
		{"ｱb", 2, "ｱb", 2},  // half width
		{"e\u0301e\u0301", 2, "e\u0301e\u0301", 2},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…", 2},
	} {
		if got, n := cut(test.text, test.most); got != test.want || n != test.n {
			t.Errorf("cut(%q, %d): %q, %d; want %q, %d", test.text, test.most, got, n, test.want, test.n)
		}
	}
}
