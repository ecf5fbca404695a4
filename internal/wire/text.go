package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckText returns what is wrong with a text that people will see, such as an owner or a reason, or "". It accepts letters, signs and
// emoji of all scripts, with the joiners and spaces that they need. It refuses control characters, and characters that reorder the
// text around them: with those, an owner could show as another one. If lines is true it accepts line breaks and tabs. most is the
// limit in bytes.
func CheckText(s string, most int, lines bool) string {
	if len(s) > most {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), most)
	}
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	if lines {
		s = strings.ReplaceAll(s, "\r\n", "\n")
	}
	for _, c := range s {
		switch {
		case lines && (c == '\n' || c == '\t'):
		case unicode.IsControl(c):
			return fmt.Sprintf("has the control character %U, which cannot be printed; leave it out", c)
		case !lines && (c == '\u2028' || c == '\u2029'):
			return fmt.Sprintf("has the line break %U; leave it out", c)
		case reorders(c):
			return fmt.Sprintf("has the bidirectional control %U, which reorders the text around it; leave it out", c)
		}
	}
	return ""
}

// reorders reports whether c is a bidirectional embedding, override or isolate. The marks U+200E, U+200F and U+061C are none: they
// belong to right-to-left text and affect their neighbours only.
func reorders(c rune) bool { return c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069' }

// CheckToken returns what is wrong with a task token or a callback's id, or "". The text has at most one character of it.
func CheckToken(s string) string {
	if len(s) > MaxToken {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), MaxToken)
	}
	for _, c := range s {
		if c <= ' ' || c > '~' {
			return fmt.Sprintf("has the character %q, which no token has; send what the waiting task was given", c)
		}
	}
	return ""
}

// Blank reports whether a text shows nothing: it is empty, or has only spaces and invisible characters.
func Blank(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsSpace(c) && !unicode.Is(unicode.Cf, c) })
}
