package main

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// freeze stops a lock from being granted, and shows why; unfreeze ends it.
func TestFreezeCommands(t *testing.T) {
	s := newService(t)
	want := s.commands(t)
	s.withOldRule(t)
	want("rules", "there are no rules", 0)
	want("freeze|deploy:|--no-wait|--until|2h|--reason|the audit", "every lock whose name begins with deploy: is frozen until", 0)
	want("freeze|*|--until|1h|--reason|all of it", "the freeze is stored; waiting 1s until every coordinator goes by it", 0)
	want("--json|freeze|*|--no-wait|--until|1h|--reason|r", `"reason":"r"`, 0)
	want("exec|deploy:prod|--no-wait|--|true", ": the audit", exitHeld)
	want("exec|deploy:prod|--wait|100ms|--|true", "waiting for deploy:prod: frozen until", exitHeld)
	want("status|deploy:prod", "deploy:prod is free\n  frozen until", 0)
	want("rules", "deploy:  frozen until 2", 0)
	want("rules", "the audit", 0)
	want("--json|rules", `{"changed_at":`, 0)
	want("unfreeze|*", "every lock has no freeze any more", 0)
	want("unfreeze|*", "every lock has no freeze any more", 0)
	want("unfreeze|deploy:", "deploy: has no freeze any more", 0)
	want("rules", "there are no rules", 0)
	want("freeze|a/b|--until|1h|--reason|r", "only A-Z a-z", exitFailed)
	want("freeze|a|--until|1h|--reason| ", "--reason is empty", exitFailed)
	want("freeze|a|--until|soon|--reason|r", `--until is "soon"`, exitFailed)
	want("freeze|a|--until|1h", "--reason", exitFailed)
	want("unfreeze|..", "URLs", exitFailed)
}

// The end of a freeze is a time of day, a weekday, a day, a time or a duration; those without a zone are local.
func TestParseUntil(t *testing.T) {
	zone := time.FixedZone("here", 3600)
	now := time.Date(2026, 11, 26, 16, 30, 0, 0, zone) // a Thursday
	for text, want := range map[string]string{
		"18:00": "2026-11-26T18:00:00+01:00", "16:30": "2026-11-27T16:30:00+01:00", "09:15": "2026-11-27T09:15:00+01:00",
		"mon": "2026-11-30T00:00:00+01:00", "Friday": "2026-11-27T00:00:00+01:00", "thu": "2026-12-03T00:00:00+01:00",
		"2026-12-01": "2026-12-01T00:00:00+01:00", "2026-12-01 18:00": "2026-12-01T18:00:00+01:00", "2026-12-01T18:00": "2026-12-01T18:00:00+01:00",
		"2026-12-01T18:00:00Z": "2026-12-01T19:00:00+01:00", "2h": "2026-11-26T18:30:00+01:00", "3d": "2026-11-29T16:30:00+01:00",
	} {
		if got, err := parseUntil(text, now); err != nil || got.In(zone).Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"": "--until is", "tomorrow": "--until is", "25:00": "--until is", "2026-11-01": "which is over", "-1h": "which is over", "0s": "which is over",
		"400d": "366 days", "2028-01-01": "366 days", "2026-13-01": "--until is",
	} {
		if _, err := parseUntil(text, now); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if wire.MaxFreeze != 366*24*time.Hour {
		t.Error(wire.MaxFreeze)
	}
}
