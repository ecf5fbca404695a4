package lock

import "slices"

// maxTokens is how many callback tokens a lease or a waiter keeps: a task that is retried waits with another one.
const maxTokens = 3

// A TokenKind says who waits with a token, and so which service a callback goes to. Its values are in the table and in messages.
type TokenKind string

// The kinds of token.
const (
	TaskToken     TokenKind = "task"     // a Step Functions task; the text is its task token
	CallbackToken TokenKind = "callback" // a Lambda durable function; the text is its callback's id
	NotifyToken   TokenKind = "notify"   // a caller that polls, and gets hints; the text says where, as the callers of this package like
)

// A Token is a callback token. The zero Token is none.
type Token struct {
	Kind TokenKind `json:"kind,omitzero"`
	Text string    `json:"text,omitzero"`
}

// Empty reports whether there is no token.
func (t Token) Empty() bool { return t.Text == "" }

// OfTask reports whether a task waits with the token: it holds the lease from its callback on. Whoever waits with a token of the
// kind notify polls: its callback is a hint to do so, and it holds the lease only after its own acquire was answered.
func (t Token) OfTask() bool { return !t.Empty() && t.Kind != NotifyToken }

// Tokens are the callback tokens of a lease or a waiter, oldest first, then zero Tokens. They are all of tasks, or there is one of
// the kind notify.
type Tokens [maxTokens]Token

// TokensOf are the last of the tokens of a list, as many as a lease keeps. It leaves out zero Tokens.
func TokensOf(list ...Token) (t Tokens) {
	list = slices.DeleteFunc(slices.Clone(list), Token.Empty)
	copy(t[:], list[max(len(list)-maxTokens, 0):])
	return t
}

// List are the tokens that are there.
func (t Tokens) List() []Token {
	n := slices.IndexFunc(t[:], Token.Empty)
	if n < 0 {
		n = maxTokens
	}
	return t[:n]
}

// Empty reports whether there is no token.
func (t Tokens) Empty() bool { return t[0].Empty() }

// OfTask reports whether tasks wait with the tokens.
func (t Tokens) OfTask() bool { return t[0].OfTask() }

// bytes is an upper bound of the tokens' size in a store.
func (t Tokens) bytes() (sum int) {
	for _, token := range t.List() {
		sum += tokenBytes + len(token.Kind) + len(token.Text)
	}
	return sum
}

// single reports whether there is exactly one token.
func (t Tokens) single() bool { return !t[0].Empty() && t[1].Empty() }

// with adds a token, unless it is there already, in place of the oldest if there are [maxTokens]. A token of a task replaces one of
// the kind notify, which is not added to those of tasks. Of the kind notify the last token counts.
func (t Tokens) with(token Token) (Tokens, bool) {
	if token.Empty() || slices.Contains(t[:], token) {
		return t, false
	}
	if !token.OfTask() || !t.Empty() && !t.OfTask() {
		if t.OfTask() {
			return t, false
		}
		return Tokens{token}, true
	}
	return TokensOf(append(t.List(), token)...), true
}

// withToken adds a token to a lease. Nobody knows which of its tasks still waits, so all tokens get a callback, and the
// new one has had no attempt.
func (l Lease) withToken(token Token) (Lease, bool) {
	tokens, added := l.Tokens.with(token)
	if added {
		l.Tokens, l.Known, l.Attempted, l.Told = tokens, true, false, false
	}
	return l, added
}

// withToken adds a token to a place in the queue.
func (w Waiter) withToken(token Token) (Waiter, bool) {
	tokens, added := w.Tokens.with(token)
	if added {
		w.Tokens, w.Known = tokens, w.Known || token.OfTask()
	}
	return w, added
}

// unshared reports whether nobody but the one task that waits with the only token can know of a lease with these.
func unshared(t Tokens, known bool) bool { return t.single() && t.OfTask() && !known }
