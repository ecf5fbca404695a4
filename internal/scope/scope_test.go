package scope_test

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/scope"
)

func TestAllows(t *testing.T) {
	for _, test := range []struct {
		pattern, lock string
		allowed       bool
	}{
		{"deploy:*", "deploy:prod", true},
		{"deploy:*", "deploy:", true},
		{"deploy:*", "deploy", false},
		{"deploy:*", "billing:x", false},
		{"deploy:prod", "deploy:prod", true},
		{"deploy:prod", "deploy:prod2", false},
		{"*", "anything", true},
		{"deploy:*", "", false}, // all locks
		{"*", "", true},
	} {
		alias, err := scope.Alias(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		arn := "arn:aws:lambda:eu-west-1:123456789012:function:acquire:" + alias
		if scope.Allows(arn, test.lock) != test.allowed {
			t.Errorf("%s through %s: allowed is %v", test.lock, test.pattern, !test.allowed)
		}
	}
	for arn, allowed := range map[string]bool{
		"": true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire":          true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:$LATEST":  true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:live":     true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:only-%%%": false,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:only-":    false, // carries "", which is no pattern
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:only-YS8": false, // a/
	} {
		for _, name := range []string{"x", ""} {
			if scope.Allows(arn, name) != allowed {
				t.Errorf("%q through %q: allowed is %v", name, arn, !allowed)
			}
		}
	}
}

func TestAllowsBelow(t *testing.T) {
	for _, test := range []struct {
		pattern, prefix string
		allowed         bool
	}{
		{"deploy:*", "deploy:", true},
		{"deploy:*", "deploy:prod", true},
		{"deploy:*", "dep", false},
		{"deploy:*", "", false},
		{"deploy:prod", "deploy:prod", false}, // other names begin with it
		{"*", "", true},
		{"*", "x", true},
	} {
		alias, err := scope.Alias(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if scope.AllowsBelow("arn:aws:lambda:eu-west-1:123456789012:function:rules:"+alias, test.prefix) != test.allowed {
			t.Errorf("%q through %s: allowed is %v", test.prefix, test.pattern, !test.allowed)
		}
	}
	const function = "arn:aws:lambda:eu-west-1:123456789012:function:rules"
	for arn, allowed := range map[string]bool{function: true, function + ":live": true, function + ":only-%%%": false, function + ":only-YSo%": false} {
		if scope.AllowsBelow(arn, "a") != allowed {
			t.Errorf("through %q: allowed is %v", arn, !allowed)
		}
	}
}

func TestMayBeAPI(t *testing.T) {
	for arn, may := range map[string]bool{
		"": true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire":               true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:":              true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:live":          true,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:3":             false,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:$LATEST":       false,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:live2":         false,
		"arn:aws:lambda:eu-west-1:123456789012:function:acquire:only-ZGVwbG95": false,
	} {
		if scope.MayBeAPI(arn) != may {
			t.Errorf("%q: may be the API's is %v", arn, !may)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, bad := range []string{"", "a*b", "**", "a b", "a/*", "?"} {
		if _, err := scope.Alias(bad); err == nil {
			t.Errorf("pattern %q was taken", bad)
		}
	}
	if alias, err := scope.Alias(strings.Repeat("a", 92)); err != nil || len(alias) > 128 {
		t.Errorf("%d characters, %v", len(alias), err)
	}
	if _, err := scope.Alias(strings.Repeat("a", 93)); err == nil {
		t.Error("a pattern too long for an alias was taken")
	}
}
