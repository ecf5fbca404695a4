package local

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/ui"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The live page of this process reads the coordinator without HTTP, hears of each write, and makes no record of its requests in the log.
func TestLivePage(t *testing.T) {
	memory := &lock.Memory{}
	c, err := lock.New(lock.Config{Store: memory})
	if err != nil {
		t.Fatal(err)
	}
	records := 0
	log := slog.New(counting{&records})
	l, err := newLivePage(t.Context(), c, &Options{MinTTL: time.Second, MaxTTL: wire.DefaultMaxTTL}, "here", log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.listener.Close() }()
	passed := 0
	consume := l.follow(func(_ context.Context, writes []stream.Write) []string {
		passed += len(writes)
		return []string{"failed"}
	})
	writes := []stream.Write{{Write: lock.Write{Lock: "a"}}, {Write: lock.Write{Lock: "#rules", Rule: &lock.RuleWrite{}}}, {Write: lock.Write{Lock: "b"}}}
	for range pageChanges { // more than the page takes: the consumer does not wait for it
		if failed := consume(t.Context(), writes); len(failed) != 1 {
			t.Fatalf("failures %v", failed)
		}
	}
	if first, second := <-l.changed, <-l.changed; first != "a" || second != "b" || passed != 3*pageChanges || len(l.changed) != pageChanges-2 {
		t.Errorf("%s, %s, %d passed, %d kept", first, second, passed, len(l.changed))
	}
	s := l.source
	for i := range 250 { // three pages
		if _, err := ask[wire.Lease](t.Context(), s.api, wire.OpAcquire, "bulk:"+string(rune('a'+i/26))+string(rune('a'+i%26)), map[string]any{"lease": "my-secret-lease-0001"}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for status, err := range s.List(t.Context(), "bulk:", false) {
		if err != nil || !status.Locked {
			t.Fatal(status, err)
		}
		n++
	}
	for _, err := range s.List(t.Context(), "", true) { // which the reader ends
		if n++; err != nil {
			t.Error(err)
		}
		break
	}
	_, failed := s.ForceRelease(t.Context(), "bulk:aa", wire.ForceReleaseRequest{Reason: "x", Fence: 1})
	if f, ok := errors.AsType[*ui.Failure](failed); n != 251 || !ok || f.Code != string(wire.LockChanged) {
		t.Errorf("%d locks, %v", n, failed)
	}
	status, err := s.Status(t.Context(), "bulk:aa", 10)
	if err != nil || len(status.Holders) != 1 {
		t.Fatal(status, err)
	}
	if _, err := s.History(t.Context(), "bulk:aa", wire.HistoryRequest{Limit: 5}); err != nil {
		t.Error(err)
	}
	if rules, err := s.Rules(t.Context()); err != nil || len(rules) != 0 {
		t.Error(rules, err)
	}
	if records != 0 {
		t.Errorf("%d records in the log", records)
	}
}

// counting counts the records of a log.
type counting struct{ n *int }

func (c counting) Enabled(context.Context, slog.Level) bool      { return true }
func (c counting) Handle(_ context.Context, r slog.Record) error { *c.n++; return nil }
func (c counting) WithAttrs([]slog.Attr) slog.Handler            { return c }
func (c counting) WithGroup(string) slog.Handler                 { return c }
