package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// notice tells a person, or with --json a program, what happens; on standard error, since standard output is for results.
func (s *streams) notice(event, text string, attrs ...any) {
	if !s.json {
		_, _ = fmt.Fprintf(s.err, "%sholdfast: %s\n", s.clear(), text)
		return
	}
	fields := map[string]any{"event": event, "message": text, "time": time.Now().UTC().Format(time.RFC3339Nano)}
	for i := 0; i+1 < len(attrs); i += 2 {
		fields[fmt.Sprint(attrs[i])] = attrs[i+1]
	}
	line, _ := json.Marshal(fields) // strings and numbers
	_, _ = fmt.Fprintf(s.err, "%s\n", line)
}

// clear wipes a live line off a terminal.
func (s *streams) clear() string {
	if s.errTTY && !s.json {
		return "\r\x1b[K"
	}
	return ""
}

// result writes a value as JSON, or its text.
func (s *streams) result(value any, text string) error {
	if !s.json {
		_, err := fmt.Fprintln(s.out, text)
		return err
	}
	line, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s\n", line)
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

// message is an error for a person: without the package that it came from.
func message(err error) string {
	text := strings.ReplaceAll(err.Error(), "lockclient: ", "")
	for _, flag := range [][2]string{
		{"Options.TTL", "--ttl"}, {"Options.Wait", "--wait"}, {"Options.Capacity", "--capacity"}, {"Options.Permits", "--permits"},
		{"Options.Metadata", "--metadata"}, {"Config.Endpoint", "--endpoint"}, {"Config.Region", "--region"},
	} {
		text = strings.ReplaceAll(text, flag[0], flag[1])
	}
	return text
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
	return owner
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
