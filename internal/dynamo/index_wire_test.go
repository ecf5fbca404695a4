package dynamo_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// answers gives each action its response, and records the requests.
func answers(t *testing.T, by map[string]string) (*dynamo.Store, func() string) {
	t.Helper()
	var mu sync.Mutex
	asked := map[string]int{}
	s := offline(t, awstest.Doer(func(req *http.Request) (*http.Response, error) {
		_, action, _ := strings.Cut(req.Header.Get("X-Amz-Target"), ".")
		var body struct{ IndexName string }
		if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
			return nil, err
		}
		mu.Lock()
		asked[action+body.IndexName]++
		mu.Unlock()
		status, answer := 200, by[action]
		if rest, failed := strings.CutPrefix(answer, "400 "); failed {
			status, answer = 400, rest
		}
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader(answer)), Request: req}, nil
	}))
	return s, func() string {
		return fmt.Sprintf("%d scans, %d describe, %d queries, %d batches", asked["Scan"], asked["DescribeTable"], asked["Query"+dynamo.IndexName], asked["BatchGetItem"])
	}
}

// A list of a prefix uses the index where that takes fewer requests one after another and fewer units than a scan.
func TestWhenTheIndexPays(t *testing.T) {
	table := func(rows, bytes int, status string) string {
		return fmt.Sprintf(`{"Table":{"ItemCount":%d,"TableSizeBytes":%d,"GlobalSecondaryIndexes":[{"IndexName":"names","IndexStatus":%q}]}}`, rows, bytes, status)
	}
	names := func(n int) string {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(`{"pk":{"S":"a:%d"}}`, i))
		}
		return `{"Items":[` + strings.Join(items, ",") + `]}`
	}
	const denied = `400 {"__type":"AccessDeniedException"}`
	const byScan, byIndex = "10 scans, 1 describe", "1 scans, 1 describe, 17 queries"
	for name, test := range map[string]struct {
		prefix, scan, table, query string
		asks                       string
		err                        error
	}{
		"no prefix":                 {"", scanJSON("z"), table(1e6, 4e8, "ACTIVE"), names(0), "10 scans, 0 describe", nil},
		"few of a million":          {"a:", scanJSON("z"), table(1e6, 4e8, "ACTIVE"), names(1), byIndex, nil},
		"one scan is enough":        {"a:", scanJSON(""), table(1e6, 4e8, "ACTIVE"), names(1), "1 scans, 0 describe", nil},
		"the first scan fills it":   {"a:", scanJSON("z", rowJSON("a:1"), rowJSON("a:2")), table(1e6, 4e8, "ACTIVE"), names(1), "1 scans, 0 describe", nil},
		"a small table":             {"a:", scanJSON("z"), table(4000, 1.6e6, "ACTIVE"), names(0), byScan + ", 1 queries", nil},
		"a table of 5,001":          {"a:", scanJSON("z"), table(5001, 2e6, "ACTIVE"), names(0), byIndex, nil},
		"8 % of the rows":           {"a:", scanJSON("z"), table(1e5, 4e7, "ACTIVE"), names(475), byIndex, nil}, // 7,600 by the estimate
		"12 % of the rows":          {"a:", scanJSON("z"), table(1e5, 4e7, "ACTIVE"), names(750), byScan + ", 1 queries", nil},
		"8 % of small rows":         {"a:", scanJSON("z"), table(1e5, 2e7, "ACTIVE"), names(475), byScan + ", 1 queries", nil},
		"no index":                  {"a:", scanJSON("z"), strings.Replace(table(1e6, 4e8, "ACTIVE"), "names", "other", 1), names(1), byScan + ", 0 queries", nil},
		"an index that is filled":   {"a:", scanJSON("z"), table(1e6, 4e8, "CREATING"), names(1), byScan + ", 0 queries", nil},
		"describing is not allowed": {"a:", scanJSON("z"), denied, names(1), byScan + ", 0 queries", nil},
		"the index is not allowed":  {"a:", scanJSON("z"), table(1e6, 4e8, "ACTIVE"), denied, byScan + ", 1 queries", nil},
		"the index is throttled":    {"a:", scanJSON("z"), table(1e6, 4e8, "ACTIVE"), `400 {"__type":"ThrottlingException"}`, "1 scans, 1 describe, 3 queries", lock.ErrThrottled},
		"describing is throttled":   {"a:", scanJSON("z"), `400 {"__type":"ThrottlingException"}`, names(1), "1 scans, 3 describe", lock.ErrThrottled},
	} {
		s, asked := answers(t, map[string]string{"Scan": test.scan, "DescribeTable": test.table, "Query": test.query, "BatchGetItem": `{"Responses":{"locks":[]}}`})
		_, err := s.List(t.Context(), lock.ListQuery{Prefix: test.prefix, Limit: 2})
		if !errors.Is(err, test.err) || !strings.HasPrefix(asked(), test.asks) {
			t.Errorf("%s: %s, %v; want %s, %v", name, asked(), err, test.asks, test.err)
		}
	}
}

// A page of the index ends at its limit, or at so many bytes, and says after which name the next one begins; rows that are gone, and an
// item that is no lock's.
func TestPagesOfTheIndex(t *testing.T) {
	query := func(more bool, names ...string) string {
		var items []string
		for _, n := range names {
			items = append(items, fmt.Sprintf(`{"pk":{"S":%q}}`, n))
		}
		last := ""
		if more {
			last = `,"LastEvaluatedKey":{"pk":{"S":"x"}}`
		}
		return `{"Items":[` + strings.Join(items, ",") + `]` + last + `}`
	}
	rows := func(list ...string) string { return `{"Responses":{"locks":[` + strings.Join(list, ",") + `]}}` }
	long := rowJSON("a1", `,"holders":{"M":{"l":{"M":{"metadata":{"S":"`+strings.Repeat("m", lock.MaxPageBytes)+`"}}}}}`)
	for name, test := range map[string]struct {
		query, rows string
		names, next string
		says        string
	}{
		"gone":       {query(false, "a1"), rows(), "", "", ""},
		"none":       {query(false), rows(), "", "", ""},
		"no lock":    {query(false, "a1"), rows(`{"pk":{"S":"a1"},"sk":{"S":"lock"}}`), "", "", `lock "a1" in table "locks" is not a lock's`},
		"many bytes": {query(true, "a1", "a2"), rows(long, rowJSON("a2")), "a1", cursorOf("", "a1"), ""},
		"more":       {query(true, "a1", "a2"), rows(rowJSON("a1"), rowJSON("a2")), "a1 a2", cursorOf("", "a2"), ""},
		"left out":   {query(false, "a1"), `{"Responses":{},"UnprocessedKeys":{"locks":{"Keys":[{"pk":{"S":"a1"},"sk":{"S":"lock"}}]}}}`, "", "", "left out items"},
	} {
		s, _ := answers(t, map[string]string{"Query": test.query, "BatchGetItem": test.rows})
		// All parts give the same names, which only a fake can: each entry counts once.
		page, err := s.List(t.Context(), lock.ListQuery{Prefix: "a", Limit: 32, Cursor: cursorOf("", "a")})
		seen := map[string]bool{}
		var names []string
		for _, e := range page.Entries {
			if !seen[e.Name] {
				seen[e.Name], names = true, append(names, e.Name)
			}
		}
		if got := strings.Join(names, " "); got != test.names || page.Next != test.next || (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %q, next %q, %v", name, got, page.Next, err)
		}
	}
}
