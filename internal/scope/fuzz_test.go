package scope_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/scope"
)

var patternForm = regexp.MustCompile(`^(\*|[A-Za-z0-9._:@+=-]{1,92}\*?)$`)

// An alias made of a pattern serves exactly the locks that the pattern matches. A pattern that cannot be carried is refused.
func FuzzAllows(f *testing.F) {
	for _, s := range [][2]string{{"deploy:*", "deploy:prod"}, {"*", ""}, {"a", "a"}, {"a", "A"}, {"a*", "a*"}, {"**", "*"}, {"", ""}, {"a\x00*", "a\x00b"}, {"ä*", "ä"}, {"..", ".."}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, lock string) {
		alias, err := scope.Alias(pattern)
		name := strings.TrimSuffix(pattern, "*")
		valid := patternForm.MatchString(pattern) && len(pattern) <= 92 && name != "." && name != ".."
		if (err == nil) != valid {
			t.Fatalf("%q: %v", pattern, err)
		}
		if err != nil {
			return
		}
		want := lock == pattern
		if strings.HasSuffix(pattern, "*") {
			want = strings.HasPrefix(lock, name)
		}
		arn := "arn:aws:lambda:eu-west-1:123456789012:function:acquire:" + alias
		if scope.Allows(arn, lock) != want || scope.MayBeAPI(arn) {
			t.Errorf("%q through %q: %v", lock, pattern, !want)
		}
	})
}

// An alias whose name begins with the mark of a pattern, and that no pattern makes, serves nothing.
func FuzzAlias(f *testing.F) {
	for _, s := range []string{"", "ZGVwbG95Oio", "YS8", "%%%", "Kg", "Kg==", "ZGVwbG95Oio:x"} {
		f.Add(s, "deploy:prod")
	}
	f.Fuzz(func(t *testing.T, rest, lock string) {
		arn := "arn:aws:lambda:eu-west-1:123456789012:function:acquire:only-" + rest
		if !scope.Allows(arn, lock) {
			return
		}
		for n := range len(lock) + 2 { // some pattern must have made the alias: the lock's name, or a beginning of it and a *
			pattern := lock
			if n <= len(lock) {
				pattern = lock[:n] + "*"
			}
			if alias, err := scope.Alias(pattern); err == nil && sameBytes(alias, "only-"+rest) {
				return
			}
		}
		t.Errorf("%q through %q", lock, rest)
	})
}

// sameBytes compares two aliases, except for line breaks and the unused bits of the last character, which base64 ignores.
func sameBytes(a, b string) bool {
	b = strings.NewReplacer("\r", "", "\n", "").Replace(b)
	return len(a) == len(b) && a[:len(a)-1] == b[:len(b)-1]
}
