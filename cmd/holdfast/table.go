package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// A tableTransport uses a table directly, and returns the cause when the table is unavailable. A coordinator service
// writes the cause to its log only, since its callers need not know it; here caller and operator are the same person.
type tableTransport struct{ *direct.Table }

// RoundTrip implements [lockclient.Transport].
func (t tableTransport) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	var logged error
	resp, err := t.Table.RoundTrip(context.WithValue(ctx, loggedKey{}, &logged), r)
	if fault, ok := errors.AsType[*lock.StoreError](logged); ok && errors.Is(fault.Kind, lock.ErrUnavailable) {
		return lockclient.Response{}, storeFault{fault}
	}
	if errors.Is(logged, context.DeadlineExceeded) { // the SDK's retries took all the time
		return lockclient.Response{}, fmt.Errorf("DynamoDB: %w", context.DeadlineExceeded)
	}
	return resp, err
}

type loggedKey struct{}

// errorLog is a log handler that passes the error of a request to its caller, through the context.
type errorLog struct{}

func (errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

func (errorLog) Handle(ctx context.Context, r slog.Record) error {
	logged, ok := ctx.Value(loggedKey{}).(*error)
	if !ok {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			*logged = err
		}
		return true
	})
	return nil
}

func (l errorLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l errorLog) WithGroup(string) slog.Handler      { return l }

// A storeFault is a store's failure with a text for people, without the layers of the SDK's error.
type storeFault struct{ *lock.StoreError }

func (f storeFault) Error() string {
	text := f.What
	if f.Err != nil && errors.Is(f.Kind, lock.ErrUnavailable) { // for other kinds, What says everything
		text += ": " + why(f.Err)
	}
	if f.Fix != "" {
		text += fmt.Sprintf("; %s", f.Fix)
	}
	return text
}
