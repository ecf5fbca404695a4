package lock

import (
	"slices"
	"strings"
)

// maxTokens is how many callback tokens a lease or a waiter keeps: a task that is retried waits with another one.
const maxTokens = 3

// Tokens are the callback tokens of a lease or a waiter, oldest first, then empty strings.
type Tokens [maxTokens]string

// ParseTokens reads what [Tokens.String] writes. Of more than it keeps it takes the last.
func ParseTokens(text string) (t Tokens) {
	list := slices.DeleteFunc(strings.Split(text, "\n"), func(token string) bool { return token == "" })
	copy(t[:], list[max(len(list)-maxTokens, 0):])
	return t
}

// String joins the tokens by newlines, which no token has: a token is printable.
func (t Tokens) String() string { return strings.Join(t.List(), "\n") }

// List are the tokens that are there.
func (t Tokens) List() []string {
	n := slices.Index(t[:], "")
	if n < 0 {
		n = maxTokens
	}
	return t[:n]
}

// Empty reports whether there is no token.
func (t Tokens) Empty() bool { return t[0] == "" }

// single reports whether there is exactly one token.
func (t Tokens) single() bool { return t[0] != "" && t[1] == "" }

// with adds a token, unless it is there already, in place of the oldest if there are [maxTokens].
func (t Tokens) with(token string) (Tokens, bool) {
	if token == "" || slices.Contains(t[:], token) {
		return t, false
	}
	n := len(t.List())
	if n == maxTokens {
		copy(t[:], t[1:])
		n--
	}
	t[n] = token
	return t, true
}

// withToken adds a token to a lease. Nobody knows which of its tasks still waits, so all tokens get a callback, and the
// new one has had no attempt.
func (l Lease) withToken(token string) (Lease, bool) {
	tokens, added := l.Tokens.with(token)
	if added {
		l.Tokens, l.Known, l.Attempted = tokens, true, false
	}
	return l, added
}

// withToken adds a token to a place in the queue.
func (w Waiter) withToken(token string) (Waiter, bool) {
	tokens, added := w.Tokens.with(token)
	if added {
		w.Tokens, w.Known = tokens, true
	}
	return w, added
}

// unshared reports whether nobody but the one task that waits with the only token can know of a lease with these.
func unshared(t Tokens, known bool) bool { return t.single() && !known }
