package infra_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/infra"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
)

// matches evaluates a filter's pattern on a stream record, as Lambda documents it for strings: a field must equal one of the pattern's
// values, begin with its prefix, or be there and be none of those of anything-but.
func matches(pattern, record any) bool {
	switch p := pattern.(type) {
	case map[string]any:
		r, _ := record.(map[string]any)
		for field, want := range p {
			if !matches(want, r[field]) {
				return false
			}
		}
		return true
	case []any:
		for _, rule := range p {
			if matchesRule(rule, record) {
				return true
			}
		}
	}
	return false
}

func matchesRule(rule, value any) bool {
	text, is := value.(string)
	if equal, ok := rule.(string); ok {
		return is && text == equal
	}
	r := rule.(map[string]any)
	if prefix, ok := r["prefix"].(string); ok {
		return is && strings.HasPrefix(text, prefix)
	}
	for _, other := range r["anything-but"].([]any) {
		if text == other {
			return false
		}
	}
	return is
}

// filters are the filters of a setting as Lambda reads them.
func filters(t *testing.T, events []string) (list []any) {
	t.Helper()
	data := mustJSON(t, infra.StreamFilters(events))
	if err := json.Unmarshal([]byte(data), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func delivered(filters []any, record map[string]any) bool {
	for _, f := range filters {
		if matches(f, record) {
			return true
		}
	}
	return false
}

// record is the stream record of a write of a lock's row, with the attributes that filters may read; rev 0 stands for no image.
func record(name, event string, before, after lock.Record) map[string]any {
	image := func(r lock.Record) any {
		if r.Rev == 0 {
			return nil
		}
		number := func(n int64) any { return map[string]any{"N": fmt.Sprint(n)} }
		return map[string]any{"cause": map[string]any{"S": string(r.Cause)}, "waiting": number(r.Waiting), "free_at": number(r.FreeAt)}
	}
	keys := map[string]any{"pk": map[string]any{"S": name}, "sk": map[string]any{"S": "lock"}}
	return map[string]any{"eventName": event, "dynamodb": map[string]any{"Keys": keys, "OldImage": image(before), "NewImage": image(after)}}
}

// settings of Props.Events, each within Lambda's limit of five filters.
var settings = [][]string{nil, {infra.NoEvents}, {"deploy:"}, {"deploy:", "report"}}

// In every setting, the filters deliver a write if events of the lock are published and its cause is not quiet, or if it is of the queue
// (lock.Write.OfQueue, outside of which the tests of package lock show no effects but events). Every cause is tried with every change of
// the number of waiters.
func TestFiltersDeliverWhatMatters(t *testing.T) {
	for _, events := range settings {
		list := filters(t, events)
		if len(list) > 5 {
			t.Errorf("events %q: %d filters; an event source has five at most", events, len(list))
		}
		listens, err := scope.Events(strings.Join(events, ","))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"deploy:prod", "deploy", "reports:daily", "a"} {
			for _, cause := range append(lock.Causes(), "a-later-version's") {
				for _, waiting := range [][2]int64{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {20, 19}} {
					before, after := lock.Record{Rev: 1, Cause: lock.CauseAcquire, Waiting: waiting[0]}, lock.Record{Rev: 2, Cause: cause, Waiting: waiting[1]}
					w := lock.Write{Lock: name, Before: before, After: after}
					want := listens(name) && !cause.Quiet() || w.OfQueue()
					if got := delivered(list, record(name, "MODIFY", before, after)); got != want {
						t.Errorf("events %q: a write of %s, cause %s, waiters %v: delivered %v, want %v", events, name, cause, waiting, got, want)
					}
				}
				first := lock.Record{Rev: 1, Cause: cause}
				want := listens(name) && !cause.Quiet() || (lock.Write{After: first}).OfQueue()
				if got := delivered(list, record(name, "INSERT", lock.Record{}, first)); got != want {
					t.Errorf("events %q: a new row of %s, cause %s: delivered %v, want %v", events, name, cause, got, want)
				}
			}
			for _, freeAt := range []int64{0, 5000} {
				row := lock.Record{Rev: 1, Cause: lock.CauseAcquire, FreeAt: freeAt}
				if got, want := delivered(list, record(name, "REMOVE", row, lock.Record{})), listens(name) && freeAt > 0; got != want {
					t.Errorf("events %q: the purge of %s, free_at %d: delivered %v, want %v", events, name, freeAt, got, want)
				}
			}
		}
	}
}

// The end of a task's wait, which nobody modifies, and writes of prefix rules are delivered in every setting; other items of a lock, and their
// removal, in none.
func TestFiltersOfOtherItems(t *testing.T) {
	for _, events := range settings {
		list := filters(t, events)
		for sk, want := range map[string]string{"ended#0000000000000001": "INSERT MODIFY", "rule#deploy:": "INSERT MODIFY", "wait#0000000000000001": "", "place#x": "", lock.HistoryEntry{At: 1, Fence: 1, Kind: lock.LeaseReleased}.Key(): ""} {
			for _, event := range []string{"INSERT", "MODIFY", "REMOVE"} {
				keys := map[string]any{"pk": map[string]any{"S": "deploy:prod"}, "sk": map[string]any{"S": sk}}
				image := map[string]any{"cause": map[string]any{"S": "release"}}
				got := delivered(list, map[string]any{"eventName": event, "dynamodb": map[string]any{"Keys": keys, "NewImage": image, "OldImage": image}})
				if got != strings.Contains(want, event) {
					t.Errorf("events %q: %s of %s: delivered %v", events, event, sk, got)
				}
			}
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The filters of the SAM template have the same lists of causes as the construct's; `make templates` compares the rest.
func TestFiltersDropQuietWrites(t *testing.T) {
	sam, err := os.ReadFile("../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for list, times := range map[string]int{
		`"NewImage":{"cause":{"S":[{"anything-but":` + mustJSON(t, lock.QuietCauses()) + `}]}}`: 3,
		`"NewImage":{"cause":{"S":` + mustJSON(t, lock.QueueCauses()) + `}}`:                    1,
	} {
		if n := strings.Count(string(sam), list); n != times {
			t.Errorf("template.yaml has %d filters with %s, want %d", n, list, times)
		}
	}
}
