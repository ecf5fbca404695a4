package lockclient_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// withNewerFields is a JSON value with fields of a newer version in each of its objects.
func withNewerFields(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = withNewerFields(e)
		}
		v["newer"], v["newer_list"], v["newer_flag"] = map[string]any{"deep": 1}, []any{"x", nil}, true
		return v
	case []any:
		for i, e := range v {
			v[i] = withNewerFields(e)
		}
	}
	return v
}

// newerAnswer is an answer of a coordinator of a newer version.
func newerAnswer(t *testing.T, resp *http.Response) *http.Response {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // a fencing token does not fit a float
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	out, err := json.Marshal(withNewerFields(v))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(out)), int64(len(out))
	resp.Header.Set("Content-Length", strconv.Itoa(len(out)))
	resp.Header.Set("X-Newer", "1")
	return resp
}

// A client understands answers with fields, in every object, that its version does not know: success and problem alike.
func TestAnswersOfANewerCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.breakWith(nil, func(_ string, _ int, resp *http.Response) (*http.Response, error) { return newerAnswer(t, resp), nil })
		c, ctx := w.client(), t.Context()
		l := w.acquire(c, lockclient.Options{TTL: time.Minute})
		if err := l.Renew(ctx); err != nil {
			t.Errorf("renew: %v", err)
		}
		var held *lockclient.HeldError
		if _, err := c.TryAcquire(ctx, "a", lockclient.Options{}); !errors.As(err, &held) || len(held.Holders) != 1 || held.Holders[0].Fence != l.Fence() {
			t.Errorf("acquire of a held lock: %v", err)
		}
		if s, err := c.Status(ctx, "a"); err != nil || len(s.Holders) != 1 {
			t.Errorf("status: %+v, %v", s, err)
		}
		n := 0
		for s, err := range c.List(ctx, "", false) {
			if n++; err != nil || s.Lock != "a" {
				t.Errorf("list: %+v, %v", s, err)
			}
		}
		if n != 1 {
			t.Errorf("%d locks in the list", n)
		}
		waited := make(chan error, 1)
		go func() {
			next, err := c.Acquire(ctx, "a", lockclient.Options{TTL: time.Minute, Wait: time.Hour})
			if err == nil {
				err = next.Release(ctx)
			}
			waited <- err
		}()
		time.Sleep(5 * time.Second) // it polls
		if err := l.Release(ctx); err != nil {
			t.Errorf("release: %v", err)
		}
		if err := <-waited; err != nil {
			t.Errorf("acquire that waits: %v", err)
		}
		w.acquire(c, lockclient.Options{TTL: time.Minute})
		if ended, err := c.ForceRelease(ctx, "a", "test", 0); err != nil || len(ended) != 1 {
			t.Errorf("force-release: %+v, %v", ended, err)
		}
		_ = c.Close(ctx) // the last lease is lost
	})
}
