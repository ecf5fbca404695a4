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

// notice tells a person, or with --json a program, what happens; on standard error, since standard output is for results.
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
	line, _ := json.Marshal(fields) // strings and numbers
	_, _ = fmt.Fprintf(s.err, "%s\n", printable(string(line)))
}

// live shows a line that the next one, a notice or a result replaces. It is cut to the terminal's width, so that it stays one.
func (s *streams) live(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line = printable("holdfast: " + text)
	s.draw()
}

// redraw draws the live line again, after the terminal changed its width.
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
	text, n := cut(line, s.columns()-1) // the last column would wrap on some terminals
	s.drawn = n
	_, _ = fmt.Fprint(s.err, wiped, text)
}

// wipe forgets the live line, and is what takes it off the terminal. A terminal that has become narrower has broken it into
// several rows.
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

// isLive tells whether standard error is a terminal for a person.
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

// paint colours text for standard output, if that is a terminal and NO_COLOR does not forbid it.
func (s *streams) paint(text string, attrs ...color.Attribute) string {
	c := color.New(attrs...)
	if !s.outTTY || s.json {
		c.DisableColor()
	}
	return c.Sprint(text)
}

// inGo matches the names of lockclient's settings.
var inGo = regexp.MustCompile(`\b(?:Config|Options)\.([A-Z]\w*)`)

// flagsOf has the flags that set what lockclient calls otherwise.
var flagsOf = map[string]string{ //nolint:gosec // names, no credentials
	"TTL": "--ttl", "MinHold": "--at-least", "RequestTimeout": "--timeout", "Credentials": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}

// inNet matches how net/http says which request failed, and net where.
var inNet = regexp.MustCompile(`\b(?:Get|Post) "(https?://[^"]*?)(?:/v1/locks[^"]*)?": (?:dial tcp(?: \S+)?: )?(?:lookup \S+(?: on \S+)?: )?(?:connect: )?`)

// inContext is how Go words a time-out.
var inContext = strings.NewReplacer("it did not answer in time: context deadline exceeded", "it did not answer in time", "context deadline exceeded", "no answer in time")

var wordBegins = regexp.MustCompile(`[A-Z][a-z]*`)

// message is an error for a person: in the words of the command line, and without the package that it came from.
func message(err error) string {
	text := err.Error()
	if fault, ok := errors.AsType[*lock.StoreError](err); ok && !isClients(err) {
		text = storeFault{fault}.Error()
	}
	for _, prefix := range []string{"lockclient: ", "direct: ", "invoke: ", "dynamo: ", "lock: ", "api: "} {
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

// isClients tells whether an error is lockclient's, and has its words.
func isClients(err error) bool {
	_, ok := errors.AsType[*lockclient.OpError](err)
	return ok || errors.Is(err, lockclient.ErrUnavailable)
}

// why is an outage in a few words, such as "connection refused".
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

// holders says who holds, for a line.
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
		return "somebody unnamed"
	}
	return printable(owner)
}

// wireStatus is a status as the API writes it.
func wireStatus(s lockclient.Status) wire.Status {
	return wire.Status{
		Lock: s.Lock, Locked: s.Locked, Capacity: int64(s.Capacity), Available: int64(s.Available), Fence: s.Fence,
		Holders: wireHolders(s.Holders), Waiting: int64(s.Waiting), ServerTime: wire.Time{Time: s.At},
	}
}

func wireHolders(list []lockclient.StatusHolder) []wire.Holder {
	out := make([]wire.Holder, len(list))
	for i, h := range list {
		out[i] = wire.Holder{
			Owner: h.Owner, Fence: h.Fence, Permits: int64(h.Permits), AcquiredAt: wire.Time{Time: h.AcquiredAt},
			RenewedAt: wire.Time{Time: h.RenewedAt}, ExpiresAt: wire.Time{Time: h.ExpiresAt}, Remaining: h.Remaining.Milliseconds(),
			Metadata: h.Metadata, Principal: h.Principal,
		}
	}
	return out
}
