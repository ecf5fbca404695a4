package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// notice writes what happens to standard error: text, or with --json an object with event, message, time and the given
// attributes.
func (s *streams) notice(event, text string, attrs ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.json {
		_, _ = fmt.Fprintf(s.err, "%sholdfast: %s\n", s.wipe(), lines(text))
		return
	}
	fields := map[string]any{"event": event, "message": text, "time": time.Now().UTC().Format(time.RFC3339Nano)}
	for i := 0; i+1 < len(attrs); i += 2 {
		fields[fmt.Sprint(attrs[i])] = attrs[i+1]
	}
	line, _ := json.Marshal(fields) // it holds strings and numbers, which always encode
	_, _ = fmt.Fprintf(s.err, "%s\n", printable(string(line)))
}

// live shows a line on the terminal that the next live line, notice or result replaces. It is cut to the terminal's
// width, so that it takes one row.
func (s *streams) live(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = printable("holdfast: " + text)
	s.draw()
}

// redraw draws the live line again after the terminal's width has changed.
func (s *streams) redraw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.line != "" {
		s.draw()
	}
}

func (s *streams) draw() {
	line := s.line
	wiped := s.wipe()
	s.line = line
	text, n := cut(line, s.columns()-1) // some terminals wrap after the last column
	s.drawn = n
	_, _ = fmt.Fprint(s.err, wiped, text)
}

// wipe forgets the live line, and returns the escape sequence that erases it. The line takes several rows if the
// terminal has become narrower.
func (s *streams) wipe() string {
	rows := max(s.drawn-1, 0) / s.columns()
	shown := s.drawn > 0
	s.drawn, s.line = 0, ""
	switch {
	case !shown:
		return ""
	case rows > 0:
		return fmt.Sprintf("\r\x1b[%dA\x1b[J", rows)
	}
	return "\r\x1b[K"
}

// columns is the terminal's width.
func (s *streams) columns() int {
	if s.width != nil {
		if n := s.width(); n > 1 {
			return n
		}
	}
	return 80
}

// isLive reports whether standard error shows live lines: it is a terminal, and --json is not given.
func (s *streams) isLive() bool { return s.errTTY && !s.json }

// result writes a value as JSON, or its text.
func (s *streams) result(value any, text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wiped := s.wipe(); wiped != "" {
		_, _ = fmt.Fprint(s.err, wiped)
	}
	if !s.json {
		_, err := fmt.Fprintln(s.out, text)
		return err
	}
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s\n", printable(string(line)))
	return err
}

// paint colours text for standard output if that is a terminal and NO_COLOR is not set.
func (s *streams) paint(text string, attrs ...color.Attribute) string {
	c := color.New(attrs...)
	if !s.outTTY || s.json {
		c.DisableColor()
	}
	return c.Sprint(text)
}

// inGo matches the names of lockclient's settings in errors.
var inGo = regexp.MustCompile(`\b(?:Config|Options)\.([A-Z]\w*)`)

// flagsOf maps lockclient's settings to the flags whose names differ.
var flagsOf = map[string]string{ //nolint:gosec // names, no credentials
	"TTL": "--ttl", "Prefix": "--notify-prefix", "AWS": "the AWS configuration", "MinHold": "--at-least", "RequestTimeout": "--timeout", "Credentials": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}

// inNet matches the request that net/http puts before an error, and the address that net does.
var inNet = regexp.MustCompile(`\b(?:Get|Post) "(https?://[^"]*?)(?:/v1/locks[^"]*)?": (?:dial tcp(?: \S+)?: )?(?:lookup \S+(?: on \S+)?: )?(?:connect: )?`)

// inContext replaces Go's wording of a time-out.
var inContext = strings.NewReplacer("it did not answer in time: context deadline exceeded", "it did not answer in time", "context deadline exceeded", "no answer in time")

var wordBegins = regexp.MustCompile(`[A-Z][a-z]*`)

// message is the text of an error for people: with the names of flags instead of lockclient's settings, and without
// package names.
func message(err error) string {
	text := err.Error()
	if fault, ok := errors.AsType[*lock.StoreError](err); ok && !isClients(err) {
		text = storeFault{fault}.Error()
	}
	for _, prefix := range []string{"lockclient: ", "direct: ", "invoke: ", "notify: ", "dynamo: ", "lock: ", "api: "} {
		text = strings.ReplaceAll(text, prefix, "")
	}
	text = inContext.Replace(inNet.ReplaceAllString(text, "$1: "))
	return inGo.ReplaceAllStringFunc(text, func(name string) string {
		field := inGo.FindStringSubmatch(name)[1]
		if flag, ok := flagsOf[field]; ok {
			return flag
		}
		return "-" + strings.ToLower(wordBegins.ReplaceAllString(field, "-$0"))
	})
}

// isClients reports whether an error comes from lockclient, whose text is kept.
func isClients(err error) bool {
	_, ok := errors.AsType[*lockclient.OpError](err)
	return ok || errors.Is(err, lockclient.ErrUnavailable)
}

// why is the cause of an outage in a few words, such as "connection refused".
func why(err error) string {
	var dns *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s cannot be looked up: %s", dns.Name, dns.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed without an answer"
	}
	return strings.TrimPrefix(message(err), lockclient.ErrUnavailable.Error()+": ")
}

// holders describes the first holder, and how many more there are.
func holders(list []lockclient.Holder) string {
	if len(list) == 0 {
		return "others"
	}
	h := list[0]
	text := fmt.Sprintf("%s until %s (%v left, fence %d)", who(h.Owner), h.ExpiresAt.Local().Format("15:04:05"), h.Remaining.Round(time.Second), h.Fence)
	if len(list) > 1 {
		text += fmt.Sprintf(" and %d more", len(list)-1)
	}
	return text
}

func who(owner string) string {
	if owner == "" {
		return "an unnamed holder"
	}
	return printable(owner)
}

// wireStatus is a status as the API writes it.
func wireStatus(s lockclient.Status) wire.Status {
	out := wire.Status{
		Lock: s.Lock, Locked: s.Locked, Capacity: int64(s.Capacity), Available: int64(s.Available), Fence: s.Fence,
		Holders: wireHolders(s.Holders), Waiting: int64(s.Waiting), Freeze: wireFreeze(s.Frozen), NextGrant: wireTime(s.NextGrant), ServerTime: wire.Time{Time: s.At},
	}
	for _, w := range s.Queue {
		out.Queue = append(out.Queue, wire.Waiter{
			Position: int64(w.Position), Owner: w.Owner, Principal: w.Principal, Permits: int64(w.Permits), JoinedAt: wireTime(w.JoinedAt), Task: w.Task, Set: w.Set,
		})
	}
	return out
}

// wireTime is a time as the API writes it; nil if it is zero.
func wireTime(t time.Time) *wire.Time {
	if t.IsZero() {
		return nil
	}
	return &wire.Time{Time: t}
}

func wireHolders(list []lockclient.StatusHolder) []wire.Holder {
	out := make([]wire.Holder, len(list))
	for i, h := range list {
		out[i] = wire.Holder{
			Owner: h.Owner, Fence: h.Fence, Permits: int64(h.Permits), AcquiredAt: wire.Time{Time: h.AcquiredAt},
			RenewedAt: wire.Time{Time: h.RenewedAt}, ExpiresAt: wire.Time{Time: h.ExpiresAt}, Remaining: h.Remaining.Milliseconds(),
			Metadata: h.Metadata, Principal: h.Principal, Traceparent: h.Traceparent,
		}
	}
	return out
}
