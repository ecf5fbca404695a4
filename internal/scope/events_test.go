package scope

import (
	"strings"
	"testing"
)

func TestEvents(t *testing.T) {
	for _, test := range []struct {
		list, lock string
		want       bool
	}{
		{"", "a", true},
		{"*", "a", true},
		{"-", "a", false},
		{"-", "-", false},
		{"-a", "-ab", true},
		{"deploy:,report", "deploy:prod", true},
		{"deploy:,report", "reports", true},
		{"deploy:,report", "deploy", false},
		{"deploy:,report", "x:deploy:", false},
	} {
		includes, err := Events(test.list)
		if err != nil || includes(test.lock) != test.want {
			t.Errorf("%q includes %q: %v, %v", test.list, test.lock, !test.want, err)
		}
	}
	for list, want := range map[string]string{
		"a,":                     `""`,
		"a, b":                   `" b"`,
		"deploy:*":               "without a *",
		"a,-":                    "beside prefixes",
		"*,a":                    `"*"`,
		strings.Repeat("a", 256): "255",
	} {
		if _, err := Events(list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", list, err, want)
		}
	}
}
