package wire

import "strings"

// lenTraceparent is the length of a traceparent of the version 00 of W3C's Trace Context: version, trace, parent and flags.
const lenTraceparent = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

// Traceparent returns a trace context (W3C) in the form of the version 00, in which it takes 55 bytes. It returns "" for a text that is no traceparent. Of a
// later version it takes the fields that the version 00 has.
func Traceparent(text string) string {
	if len(text) < lenTraceparent {
		return ""
	}
	version, rest := text[:2], text[lenTraceparent:]
	if !hexadecimal(version) || version == "ff" || version == "00" && rest != "" || rest != "" && rest[0] != '-' {
		return ""
	}
	text = "00" + text[2:lenTraceparent]
	parts := strings.Split(text, "-")
	if len(parts) != 4 || len(parts[1]) != 32 || len(parts[2]) != 16 {
		return ""
	}
	for _, p := range parts {
		if !hexadecimal(p) {
			return ""
		}
	}
	if strings.Trim(parts[1], "0") == "" || strings.Trim(parts[2], "0") == "" {
		return ""
	}
	return text
}

func hexadecimal(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
