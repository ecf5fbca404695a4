// Package scope limits a function to some locks by the alias through which it is invoked. IAM cannot see which lock a direct
// invocation is about, but it can allow the invocation of one alias of a function and not of another. So the name of an alias can
// contain a pattern of lock names, and a function that is invoked through it serves no other locks.
package scope

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Live is the alias by which API Gateway and the event sources invoke the functions of a deployment. A roll-out moves it from one published
// version to the next.
const Live = "live"

// aliasPrefix begins the name of an alias with a pattern. The rest is the pattern in base64url.
const aliasPrefix = "only-"

// maxPattern is the longest pattern, in bytes, whose alias name fits Lambda's limit of 128 characters.
const maxPattern = (128 - len(aliasPrefix)) * 3 / 4

// CheckPattern returns what is wrong with a pattern, or "". A pattern is a lock's name, or the first part of names and a "*".
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

// Alias returns the name of the alias for a pattern.
func Alias(pattern string) (string, error) {
	if problem := CheckPattern(pattern); problem != "" {
		return "", fmt.Errorf("pattern %s", problem)
	}
	if len(pattern) > maxPattern {
		return "", fmt.Errorf("pattern %q is %d bytes long; at most %d fit an alias's name", pattern, len(pattern), maxPattern)
	}
	return aliasPrefix + base64.RawURLEncoding.EncodeToString([]byte(pattern)), nil
}

// MayBeAPI reports whether API Gateway may have invoked a function by this ARN: it invokes the function itself or the alias [Live], and no
// other alias and no version.
func MayBeAPI(functionARN string) bool {
	q := qualifier(functionARN)
	return q == "" || q == Live
}

// qualifier returns the alias or version in the ARN of an invocation, or "".
func qualifier(functionARN string) string {
	parts := strings.SplitN(functionARN, ":", 8) // arn:aws:lambda:REGION:ACCOUNT:function:NAME:QUALIFIER
	if len(parts) < 8 {
		return ""
	}
	return parts[7]
}

// AllowsBelow reports whether a function that was invoked by an ARN may serve every lock whose name begins with a prefix; the empty one stands for
// all locks.
func AllowsBelow(functionARN, prefix string) bool {
	encoded, scoped := strings.CutPrefix(qualifier(functionARN), aliasPrefix)
	if !scoped {
		return true
	}
	pattern, err := base64.RawURLEncoding.DecodeString(encoded)
	return err == nil && strings.HasSuffix(string(pattern), "*") && Allows(functionARN, prefix)
}

// Allows reports whether a function that was invoked by an ARN may serve a lock. An ARN without an alias, or with an alias without a
// pattern, allows every lock: IAM's permission on the function decides. An empty name stands for all locks.
func Allows(functionARN, name string) bool {
	encoded, scoped := strings.CutPrefix(qualifier(functionARN), aliasPrefix)
	if !scoped {
		return true
	}
	pattern, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || CheckPattern(string(pattern)) != "" {
		return false // Alias did not make this name
	}
	return Matches(string(pattern), name)
}

// Matches reports whether a pattern includes a name.
func Matches(pattern, name string) bool {
	if prefix, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(name, prefix)
	}
	return name == pattern
}
