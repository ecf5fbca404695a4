package lockclient_test

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

func TestEscapeName(t *testing.T) {
	for text, name := range map[string]string{
		"deploy:prod":       "deploy:prod",
		"AZaz09._:@-":       "AZaz09._:@-",
		"feature/x y":       "feature=2Fx=20y",
		"a+b=c":             "a=2Bb=3Dc",
		"refs/heads/größe":  "refs=2Fheads=2Fgr=C3=B6=C3=9Fe",
		".":                 "=2E",
		"..":                "=2E=2E",
		"...":               "...",
		"../x":              "..=2Fx",
		"\x00\xff\n":        "=00=FF=0A",
		"#*[]`{}/,;~^":      "=23=2A=5B=5D=60=7B=7D=2F=2C=3B=7E=5E",
		"=41":               "=3D41",
		"\U0001F512 locked": "=F0=9F=94=92=20locked",
	} {
		got, err := lockclient.EscapeName(text)
		if got != name || err != nil || wire.CheckName(got) != "" {
			t.Errorf("EscapeName(%q) is %q, %v", text, got, err)
		}
		if back, err := lockclient.UnescapeName(got); back != text || err != nil {
			t.Errorf("UnescapeName(%q) is %q, %v", got, back, err)
		}
	}
	for text, says := range map[string]string{"": "empty text", strings.Repeat("/", 86): "258 bytes"} {
		_, err := lockclient.EscapeName(text)
		wantIs(t, err, lockclient.ErrRefused)
		if !strings.Contains(err.Error(), says) {
			t.Errorf("EscapeName(%q): %v", text, err)
		}
	}
	if _, err := lockclient.EscapeName(strings.Repeat("/", 85)); err != nil {
		t.Error(err)
	}
}

// A name that EscapeName never returns has no text, so that names and texts correspond one to one.
func TestUnescapeNameIsStrict(t *testing.T) {
	for _, name := range []string{"", "a=", "a=4", "a=4g", "a=+4", "a=2f", "=41", "a+b", "a/b", ".", "..", "ä", "=2E=2Fx", "a==", strings.Repeat("a", 256)} {
		text, err := lockclient.UnescapeName(name)
		if err == nil {
			t.Errorf("UnescapeName(%q) is %q", name, text)
			continue
		}
		wantIs(t, err, lockclient.ErrRefused)
	}
}

func FuzzEscapeName(f *testing.F) {
	for _, seed := range []string{"", ".", "a/b", "=41", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if name, err := lockclient.EscapeName(text); err == nil {
			if back, err := lockclient.UnescapeName(name); back != text || err != nil || wire.CheckName(name) != "" {
				t.Errorf("%q became %q, %q, %v", text, name, back, err)
			}
		}
		if back, err := lockclient.UnescapeName(text); err == nil {
			if name, err := lockclient.EscapeName(back); name != text || err != nil {
				t.Errorf("%q is the text of %q, which became %q, %v", back, text, name, err)
			}
		}
	})
}

// An error quotes a text that is not a valid name, since it may contain anything, such as a line break.
func TestErrorsQuoteWhatIsNoName(t *testing.T) {
	for name, want := range map[string]string{"a:b": "status: a:b: lock is held", "a\nb": `status: "a\nb": lock is held`, "a b\xff": `status: "a b\xff": lock is held`} {
		if text := (&lockclient.OpError{Op: lockclient.ErrStatus, Lock: name, Err: lockclient.ErrHeld}).Error(); text != "lockclient: "+want {
			t.Errorf("%q: %s", name, text)
		}
	}
}
