package lockclient

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// EscapeName returns a lock name for any text that is not empty, such as a path or a branch's name. It keeps the characters
// A-Z a-z 0-9 . _ : @ - and writes every other byte as = and two upper-case hexadecimal digits: "feature/x y" becomes
// "feature=2Fx=20y". Different texts have different names, and [UnescapeName] returns the text of a name. The error matches
// [ErrRefused]: the text is empty, or its name would be longer than 255 bytes.
func EscapeName(text string) (string, error) {
	if text == "" {
		return "", refused("name", "there is no lock name for an empty text; give at least one character")
	}
	var name strings.Builder
	onlyDots := text == "." || text == ".." // URLs cannot contain them as a path segment
	for i := range len(text) {
		if c := text[i]; keepsInName(c) && !onlyDots {
			name.WriteByte(c)
		} else {
			fmt.Fprintf(&name, "=%02X", c)
		}
	}
	if problem := wire.CheckName(name.String()); problem != "" {
		return "", refused("name", "the escaped name %s", problem)
	}
	return name.String(), nil
}

func keepsInName(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._:@-", c) >= 0
}

// UnescapeName returns the text of a name that [EscapeName] returned. For any other name the error matches [ErrRefused].
func UnescapeName(name string) (string, error) {
	var text strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] != '=' {
			text.WriteByte(name[i])
			continue
		}
		c, err := strconv.ParseUint(name[i+1:min(i+3, len(name))], 16, 8)
		if err != nil {
			return "", refused("name", "name %q has = with no two hexadecimal digits after it at byte %d", name, i)
		}
		text.WriteByte(byte(c))
		i += 2
	}
	if again, err := EscapeName(text.String()); err != nil || again != name {
		return "", refused("name", "name %q is not as EscapeName writes it: = and two upper-case hexadecimal digits only for bytes other than A-Z a-z 0-9 . _ : @ -", name)
	}
	return text.String(), nil
}
