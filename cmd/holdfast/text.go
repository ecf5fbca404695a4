package main

import (
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/text/width"
)

// printable replaces characters that could mislead a reader or control a terminal by JSON's escapes: control characters
// (C0 and C1), bidirectional overrides, joiners, spaces other than U+0020, invisible characters. JSON keeps its
// meaning.
func printable(text string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if !strings.ContainsFunc(text, misleading) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if misleading(r) {
			escape(&b, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func misleading(r rune) bool { return !unicode.IsPrint(r) }

// escape writes \n, \r, \t or \uXXXX; a surrogate pair for characters above U+FFFF.
func escape(b *strings.Builder, r rune) {
	const hex = "0123456789abcdef"
	switch r {
	case '\n':
		b.WriteString(`\n`)
		return
	case '\r':
		b.WriteString(`\r`)
		return
	case '\t':
		b.WriteString(`\t`)
		return
	}
	for _, unit := range utf16.Encode([]rune{r}) {
		b.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			b.WriteByte(hex[unit>>shift&0xf])
		}
	}
}

// lines is [printable] for each line: it keeps the text's line breaks.
func lines(text string) string {
	parts := strings.Split(text, "\n")
	for i, line := range parts {
		parts[i] = printable(line)
	}
	return strings.Join(parts, "\n")
}

// columns is the number of terminal columns of a printable character.
func columns(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cut shortens a printable text to at most so many columns, and returns the number that it takes.
func cut(text string, most int) (string, int) {
	n, fits := 0, 0 // columns so far; bytes that leave a column for an ellipsis
	for i, r := range text {
		if n <= most-1 {
			fits = i
		}
		n += columns(r)
		if n > most {
			short := text[:fits] + "…"
			return short, sum(short)
		}
	}
	return text, n
}

func sum(text string) (n int) {
	for _, r := range text {
		n += columns(r)
	}
	return n
}
