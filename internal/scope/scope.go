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

// Qualified tells whether a function was invoked through an alias or a version, by the ARN that was invoked.
func Qualified(functionARN string) bool { return qualifier(functionARN) != "" }

// qualifier is the alias or version of an invoked ARN, or "".
func qualifier(functionARN string) string {
	parts := strings.SplitN(functionARN, ":", 8) // arn:aws:lambda:REGION:ACCOUNT:function:NAME:QUALIFIER
	if len(parts) < 8 {
		return ""
	}
	return parts[7]
}

// Allows tells whether a function invoked by an ARN may serve a lock. An ARN without an alias, or with one that carries no
// pattern, limits nothing: then IAM's word on the whole function holds. With a name of "" it asks about all locks.
func Allows(functionARN, name string) bool {
	encoded, scoped := strings.CutPrefix(qualifier(functionARN), aliasPrefix)
	if !scoped {
		return true
	}
	pattern, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || CheckPattern(string(pattern)) != "" {
		return false // no alias of [Alias]'s making
	}
	if prefix, open := strings.CutSuffix(string(pattern), "*"); open {
		return strings.HasPrefix(name, prefix)
	}
	return name == string(pattern)
}
