package main

import (
	"testing"
	"time"
)

// limit bounds the locks below a prefix and says so; what exceeds a limit fails at once; unlimit removes it. A freeze of the same prefix stays.
func TestLimitCommands(t *testing.T) {
	s := newService(t)
	want := s.commands(t)
	s.withOldRule(t)
	want("freeze|a:|--no-wait|--until|2h|--reason|the audit", "frozen until", 0)
	want("limit|a:|--capacity|2|--max-queue|7", "the limits are stored; waiting 1s until", 0)
	want("limit|d:|--capacity|2|--max-ttl|30s|--max-hold|1m|--max-queue|1", "d: has these limits: capacity 2, TTL up to 30s, held up to 1m0s, up to 1 waiters", 0)
	want("--json|limit|b:|--no-wait|--max-hold|2h", `"limits":{"max_hold_ms":7200000,"since":`, 0)
	want("rules", "a:      capacity 2, up to 7 waiters", 0)
	want("rules", "a:      frozen until", 0)
	want("unlimit|a:", "a: has no limits by this prefix any more", 0)
	want("rules", "a:      frozen until", 0)
	began := time.Now()
	want("exec|d:x|--ttl|20s|--capacity|3|--|true", "the limit capacity is 2 for locks below d:: capacity is 3; leave capacity out", exitFailed)
	want("exec|d:x|--ttl|1m|--|true", "ask for at most 30000", exitFailed)
	want("acquire|d:x|--ttl|20s|--permits|3", "at most 2 permits", exitFailed)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("refused after %v", took)
	}
	want("acquire|d:x|--ttl|20s|--permits|2", "HOLDFAST_LEASE=", 0)
	want("limit|a/b|--capacity|2", "only A-Z a-z", exitFailed)
	want("limit|a|--no-wait", "there is no limit; give --capacity", exitFailed)
	want("limit|a|--capacity|101", "--capacity is 101; give a number from 1 to 100", exitFailed)
	want("limit|a|--capacity=-1", "--capacity is -1", exitFailed)
	want("limit|a|--max-hold|5s", "--max-hold is 5s; give a time from 10s to", exitFailed)
	want("limit|a|--max-ttl|8d", "--max-ttl is 192h0m0s", exitFailed)
	want("unlimit|..", "URLs", exitFailed)
	want("limit|r:|--rate|1/24h", "r: has these limits: granted up to once in 24h0m0s", 0)
	want("acquire|r:x|--ttl|20s|--capacity|2", "HOLDFAST_LEASE=", 0)
	want("exec|r:x|--capacity|2|--no-wait|--|true", "each lock below r: is granted once in 24h0m0s at most", exitHeld)
	want("status|r:x", "at the earliest, by its rate", 0)
	want("--json|status|r:x", `"next_grant_at":`, 0)
	for _, bad := range []string{"1", "1/", "/1h", "0/1h", "101/1h", "1/25h", "1/10ms", "x/1h"} {
		want("limit|a|--rate|"+bad, "give how many grants in which time, like 10/1h: 1 to 100, in 1s to 24h0m0s", exitFailed)
	}
}
