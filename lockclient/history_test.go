package lockclient_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// A history is read page by page, with the same range, and an answer that is none is an error.
func TestHistory(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var queries []string
		answer := func(body string) *http.Response {
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
		}
		entry := func(fence int) string {
			return fmt.Sprintf(`{"at":"2026-03-01T12:00:30.000Z","kind":"released","fence":%d,"owner":"o","permits":1,"acquired_at":"2026-03-01T12:00:00.000Z","held_ms":30000,"waited_ms":1500,"cause":"release","permits_held":0,"waiting":2}`, fence)
		}
		body := ""
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			queries = append(queries, r.URL.Path+"?"+r.URL.RawQuery)
			switch {
			case body != "":
				return answer(body), nil
			case r.URL.Query().Get("cursor") == "":
				return answer(`{"lock":"a","entries":[` + entry(3) + `,` + entry(2) + `],"next_cursor":"xyz","server_time":"2026-03-01T13:00:00.000Z","keeping":{"prefix":"*","keep_ms":7200000,"since":"2026-03-01T11:00:00.000Z"}}`), nil
			}
			return answer(`{"lock":"a","entries":[` + entry(1) + `],"server_time":"2026-03-01T13:00:00.000Z"}`), nil
		}, nil)
		c := w.client()
		from := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		next := int64(3)
		for e, err := range c.History(t.Context(), "a", lockclient.HistoryOptions{From: from, Oldest: true}) {
			if err != nil || e.Fence != next || e.Held != 30*time.Second || e.Waited != 1500*time.Millisecond || e.Waiting != 2 || e.Kind != lockclient.HistoryReleased {
				t.Errorf("%+v, %v", e, err)
			}
			next--
		}
		const first = "/v1/history/a?from=2026-03-01T12%3A00%3A00.000Z&limit=100&order=oldest"
		if next != 0 || len(queries) != 2 || queries[0] != first || queries[1] != strings.Replace(first, "?", "?cursor=xyz&", 1) {
			t.Errorf("%d entries less, requests %q", next, queries)
		}
		page, err := c.HistoryPage(t.Context(), "a", lockclient.HistoryOptions{To: from, Limit: 2})
		if err != nil || page.Next != "xyz" || page.Keeping.For != 2*time.Hour || page.Keeping.Prefix != "*" || !page.At.Equal(from.Add(time.Hour)) || len(page.Entries) != 2 {
			t.Errorf("%+v, %v", page, err)
		}
		for _, body = range []string{`{"lock":"b","entries":[]}`, `{"lock":"a"}`} {
			_, err := c.HistoryPage(t.Context(), "a", lockclient.HistoryOptions{})
			wantIs(t, err, lockclient.ErrHistory)
		}
		_, err = c.HistoryPage(t.Context(), "a/b", lockclient.HistoryOptions{})
		wantIs(t, err, lockclient.ErrRefused)
	})
}
