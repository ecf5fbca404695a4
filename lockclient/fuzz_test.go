package lockclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// said is a [Transport] that gives one answer to every acquire, with the lease's secret in place of the text secret.
type said struct {
	answer Response
	lease  string
}

const secret = "my-secret-lease-0001"

func (s *said) RoundTrip(_ context.Context, r Request) (Response, error) {
	if r.Op == string(wire.OpAcquire) {
		var request wire.AcquireRequest
		_ = json.Unmarshal(r.Body, &request)
		s.lease = request.Lease
		answer := s.answer
		answer.Body = bytes.ReplaceAll(answer.Body, []byte(secret), []byte(s.lease))
		return answer, nil
	}
	return Response{Status: 410, Body: []byte(`{"code":"lease_lost","status":410}`)}, nil
}

// Whatever answers a client, it does not panic, believes in no lease that the answer does not grant to it, and no error repeats the
// lease's secret.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"lock":"a","lease":"my-secret-lease-0001","fence":1,"expires_at":"2026-01-01T00:00:00.000Z","ttl_ms":60000,"remaining_ms":60000,"capacity":1,"permits":1}`,
		`{"lock":"b","lease":"my-secret-lease-0001","fence":1,"ttl_ms":60000,"remaining_ms":60000}`, `{"lock":"a","lease":"another","fence":1,"remaining_ms":9223372036854775807}`,
		`{"code":"lock_held","position":1,"waiting":2,"retry_after_ms":10,"holders":[{"owner":"x","fence":1}]}`, `{"code":"lock_held","position":9223372036854775807}`,
		`{"code":"lock_held","position":1,"retry_after_ms":-9223372036854775808}`, `{"code":"lock_held","position":20000000000,"retry_after_ms":9223372036854775807}`,
		`{"code":"throttled","retry_after_ms":9223372036854775807}`, `{"message":"my-secret-lease-0001"}`, `{"message":"ééééé"}`, `{"message":7}`, `{`, ``, `<html>my-secret-lease-0001`, `{"code":"invalid_request","detail":"lease: my-secret-lease-0001","status":400}`,
	} {
		for _, status := range []int{200, 400, 403, 404, 409, 410, 429, 500, 503} {
			f.Add([]byte(s), status, int64(0))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, status int, after int64) {
		transport := &said{answer: Response{Status: status, Body: body, RetryAfter: time.Duration(after)}}
		c, err := New(Config{Transport: transport, Retries: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(t.Context()) }()
		var answer wire.Lease
		err = c.send(t.Context(), wire.OpAcquire, "a", wire.AcquireRequest{Lease: secret}, &answer)
		if err != nil {
			if text := err.Error(); !utf8.ValidString(text) && utf8.Valid(body) {
				t.Errorf("error %q", text)
			} else if strings.Contains(text, secret) {
				t.Errorf("error %q repeats the secret", text)
			}
		}
		if held, ok := errors.AsType[*HeldError](err); ok {
			p := pace{delay: time.Second, place: time.Minute}
			for range 3 {
				if pause := p.next(time.Now(), held); pause < 0 || pause > time.Hour {
					t.Errorf("pause of %v at position %d", pause, held.Position)
				}
			}
		}
		if down, ok := errors.AsType[*unavailable](err); ok {
			if pause := c.backoff(1, down.after); pause < 0 {
				t.Errorf("backoff of %v after %v", pause, down.after)
			}
		}
		lease, err := c.TryAcquire(t.Context(), "a", Options{})
		if err == nil && (lease.Name() != "a" || lease.Secret() != transport.lease || lease.Fence() < 1 || answer.Lock != "a" || answer.Lease != secret || status != 200) {
			t.Errorf("%d %s: %v", status, body, lease)
		}
	})
}
