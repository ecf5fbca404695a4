// Package scope limits a function to some locks. IAM cannot see which lock a direct invocation is about, but it can allow
// one alias of a function and not another: so an alias may carry a pattern of names in its own name, and a function that is
// invoked through it serves no other lock.
package scope

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// aliasPrefix begins the names of aliases that carry a pattern, in base64url.
const aliasPrefix = "only-"

// maxPattern keeps an alias's name within Lambda's 128 characters.
const maxPattern = (128 - len(aliasPrefix)) * 3 / 4

// CheckPattern says what is wrong with a pattern: a lock's name, or the beginning of names and a "*". Empty: nothing.
func CheckPattern(pattern string) string {
	name := strings.TrimSuffix(pattern, "*")
	if pattern == "*" {
		return ""
	}
	if problem := wire.CheckName(name); problem != "" {
		return fmt.Sprintf("%q %s; give a name, or the beginning of names and a *", pattern, problem)
	}
	return ""
}

// Alias is the name of the alias for a pattern.
func Alias(pattern string) (string, error) {
	if problem := CheckPattern(pattern); problem != "" {
		return "", fmt.Errorf("pattern %s", problem)
	}
	if len(pattern) > maxPattern {
		return "", fmt.Errorf("pattern %q is %d bytes long; at most %d fit an alias's name", pattern, len(pattern), maxPattern)
	}
	return aliasPrefix + base64.RawURLEncoding.EncodeToString([]byte(pattern)), nil
}

// Allows tells whether a function invoked by an ARN may serve a lock. An ARN without an alias, or with one that carries no
// pattern, limits nothing: then IAM's word on the whole function holds. With a name of "" it asks about all locks.
func Allows(functionARN, name string) bool {
	parts := strings.Split(functionARN, ":") // arn:aws:lambda:REGION:ACCOUNT:function:NAME:ALIAS
	if len(parts) < 8 || !strings.HasPrefix(parts[7], aliasPrefix) {
		return true
	}
	pattern, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(parts[7], aliasPrefix))
	if err != nil {
		return false
	}
	if prefix, any := strings.CutSuffix(string(pattern), "*"); any {
		return strings.HasPrefix(name, prefix)
	}
	return name == string(pattern)
}
