package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A past is a lock's history that a test writes by hand. Its times are minutes after the start.
type past struct {
	start   time.Time
	entries []lock.HistoryEntry
}

func (p *past) lease(owner string, permits int64, from, until, waited int, end lock.HistoryEntry) {
	at := func(minutes int) int64 { return p.start.Add(time.Duration(minutes) * time.Minute).UnixMilli() }
	grant := lock.HistoryEntry{
		At: at(from), Kind: lock.LeaseAcquired, Fence: at(from) * 1000, Owner: owner, Principal: "arn:" + owner, Permits: permits, AcquiredAt: at(from), Waited: int64(waited) * 60_000,
	}
	p.entries = append(p.entries, grant)
	if end.Kind == "" {
		return
	}
	end.At, end.Fence, end.Owner, end.Principal, end.Permits, end.AcquiredAt, end.Waited = at(until), grant.Fence, owner, grant.Principal, permits, grant.At, grant.Waited
	p.entries[len(p.entries)-1].Set = end.Set
	p.entries = append(p.entries, end)
}

// put stores the history with the permits that are held after each entry.
func (p *past) put(t *testing.T, s *service, name string) {
	t.Helper()
	for i, e := range p.entries {
		for _, o := range p.entries {
			switch before := o.Key() <= e.Key(); {
			case before && o.Kind == lock.LeaseAcquired:
				p.entries[i].Held += o.Permits
			case before:
				p.entries[i].Held -= o.Permits
			}
		}
	}
	if err := s.coordinator.Record(t.Context(), name, &lock.Keeping{For: (1000 * 24 * time.Hour).Milliseconds()}, p.entries); err != nil {
		t.Fatal(err)
	}
}

// The history of a lock is a table of its leases, newest first: with gaps, waits, and how each ended. --at names the holder of a time and the next one.
func TestHistoryCommand(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	run := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := call(t.Context(), args...)
		if code != want {
			t.Errorf("%v: exit code %d, want %d\n%s%s", args, code, want, out, errs)
		}
		return out + errs
	}
	says := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s\nwant %q", text, want)
			}
		}
	}
	says(run(0, "history", "deploy:prod"), "no history of deploy:prod is kept", "holdfast keep-history deploy:prod")
	says(run(0, "keep-history", "deploy:"), "every lock whose name begins with deploy: is kept for 90d")
	says(run(0, "history", "deploy:prod"), "the rule of deploy: has kept its history since", "each entry for 90d")
	says(run(0, "rules"), "deploy:  history kept for 90d")
	says(run(0, "--json", "rules"), `"history":{"prefix":"deploy:","keep_ms":7776000000,`)

	start := time.Now().Add(-3 * time.Hour).Truncate(time.Minute)
	p := &past{start: start}
	released, expired := lock.HistoryEntry{Kind: lock.LeaseReleased, Cause: lock.CauseRelease}, lock.HistoryEntry{Kind: lock.LeaseExpired, Cause: lock.CauseAcquire}
	p.lease("alice", 1, 0, 10, 0, released)
	p.lease("bob", 1, 10, 20, 7, expired)
	p.lease("carol", 1, 30, 40, 0, lock.HistoryEntry{
		Kind: lock.LeaseForceReleased, Cause: lock.CauseForceRelease, By: "arn:op", Reason: "stuck since noon", Set: "api,deploy:prod,quota",
	})
	p.lease("dave", 1, 40, 41, 3, lock.HistoryEntry{Kind: lock.LeaseExpired, Cause: lock.CauseExpire, Unclaimed: true})
	p.lease("erin", 1, 50, 0, 0, lock.HistoryEntry{})
	p.put(t, s, "deploy:prod")
	out := run(0, "history", "deploy:prod")
	var rows [][]string
	for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
		var cells []string
		for cell := range strings.SplitSeq(line, "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				cells = append(cells, cell)
			}
		}
		rows = append(rows, cells)
	}
	at := func(minutes int) string { return stamp(start.Add(time.Duration(minutes) * time.Minute)) }
	fence := func(minutes int) string {
		return fmt.Sprint(start.Add(time.Duration(minutes)*time.Minute).UnixMilli() * 1000)
	}
	want := [][]string{
		{"FROM", "UNTIL", "HELD", "HELD BY", "FENCE", "WAITED", "FREE BEFORE", "ENDED"},
		{at(50), "-", "-", "erin", fence(50), "-", "9m0s", "still held"},
		{at(40), at(41), "1m0s", "dave", fence(40), "3m0s", "-", "expired, never claimed"},
		{at(30), at(40), "10m0s", "carol with api, quota", fence(30), "-", "10m0s", "force-released by arn:op: stuck since noon"},
		{at(10), at(20), "10m0s", "bob", fence(10), "7m0s", "-", "expired"},
		{at(0), at(10), "10m0s", "alice", fence(0), "-", "?", "released"},
	}
	if fmt.Sprint(rows) != fmt.Sprint(want) {
		t.Errorf("%s\n%v\nwant\n%v", out, rows, want)
	}
	says(run(0, "history", "deploy:prod", "--limit=2"), "dave", "there are more than 2 leases")
	if out := run(0, "history", "deploy:prod", "--from", at(25), "--to", at(45)); strings.Contains(out, "bob") || strings.Contains(out, "erin") || !strings.Contains(out, "carol") {
		t.Error(out)
	}
	says(run(0, "history", "deploy:prod", "--to", at(35)), "after "+at(35), "?")
	lines := strings.Split(strings.TrimSpace(run(0, "--json", "history", "deploy:prod")), "\n")
	var first wire.HistoryEntry
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != 9 || first.Owner != "erin" || first.Kind != "acquired" || first.InUse != 1 {
		t.Errorf("%d lines, %+v, %v", len(lines), first, err)
	}

	says(run(0, "history", "deploy:prod", "--at", at(15)), "deploy:prod was held at "+at(15)+" by\n  bob (arn:bob), fence "+fence(10), "since "+at(10)+", after waiting 7m0s; until "+at(20)+": expired", "next was carol with api, quota at "+at(30)+", without a wait")
	says(run(0, "history", "deploy:prod", "--at", at(25)), "nobody held deploy:prod at "+at(25), "next was carol with api, quota at ")
	says(run(0, "history", "deploy:prod", "--at", at(40)), "  dave (arn:dave)", "expired, never claimed", "next was erin") // carol's lease ended then
	says(run(0, "history", "deploy:prod", "--at", at(55)), "erin", "no end is recorded", "nobody was granted it since")
	says(run(0, "history", "deploy:prod", "--at", "4h"), "nothing is known of deploy:prod")
	var m moment
	if err := json.Unmarshal([]byte(run(0, "--json", "history", "deploy:prod", "--at", at(35))), &m); err != nil || len(m.Holders) != 1 || m.Holders[0].Kind != "force-released" || len(m.Holders[0].Set) != 3 || m.Next.Owner != "dave" || m.Next.Waited != 180_000 || m.Missing {
		t.Errorf("%+v, %v", m, err)
	}
	says(run(0, "keep-history", "deploy:", "--stop"), "is not kept any more by this rule")
	says(run(0, "rules"), "there are no rules")
}

// Several hold a semaphore at a time. A grant that is not in the history leaves a holder without a name.
func TestHistoryOfASemaphore(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	p := &past{start: time.Now().Add(-3 * time.Hour).Truncate(time.Minute)}
	released := lock.HistoryEntry{Kind: lock.LeaseReleased, Cause: lock.CauseRelease}
	p.lease("a", 2, 0, 30, 0, released)
	p.lease("b", 1, 5, 10, 0, released)
	p.lease("c", 1, 10, 20, 0, released)
	p.put(t, s, "s")
	at := func(minutes int) string { return stamp(p.start.Add(time.Duration(minutes) * time.Minute)) }
	_, out, _ := call(t.Context(), "history", "s", "--at", at(15))
	if !strings.Contains(out, "c (arn:c)") || !strings.Contains(out, "a (2 permits) (arn:a)") || strings.Contains(out, "b (arn:b)") || strings.Contains(out, "others") || !strings.Contains(out, "nobody was granted it since") {
		t.Error(out)
	}
	lost := &past{start: p.start}
	lost.lease("x", 1, 0, 0, 0, lock.HistoryEntry{})
	lost.lease("y", 1, 20, 30, 0, released)
	lost.lease("z", 1, 40, 50, 0, released)
	for i := range lost.entries { // the end of x was lost
		lost.entries[i].Held = map[lock.ChangeKind]int64{lock.LeaseAcquired: 1}[lost.entries[i].Kind]
	}
	if err := s.coordinator.Record(t.Context(), "lost", &lock.Keeping{For: (1000 * 24 * time.Hour).Milliseconds()}, lost.entries); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := call(t.Context(), "history", "lost"); !strings.Contains(out, "not recorded") || strings.Contains(out, "still held") || strings.Count(out, "?") != 3 {
		t.Error(out)
	}
	p.entries = p.entries[1:] // a's grant was lost with its record; the counts are those of the table
	if err := s.coordinator.Record(t.Context(), "lossy", &lock.Keeping{For: (1000 * 24 * time.Hour).Milliseconds()}, p.entries); err != nil {
		t.Fatal(err)
	}
	if _, out, _ := call(t.Context(), "history", "lossy", "--at", at(15)); !strings.Contains(out, "c (arn:c)") || !strings.Contains(out, "and by others, whom the history does not name") {
		t.Error(out)
	}
}

func TestBadHistory(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	for args, says := range map[string]string{
		"history|a|--at|soon": `--at is "soon"; give a time of day`, "history|a|--from|x": "--from is", "history|a|--to|x": "--to is", "history|a|--at|2h|--from|3h": "give one or the other",
		"history|a|--from|2h|--to|3h": "which is not after --from", "history|a|--limit|0": "--limit is 0", "history|a|--at|2222-01-01": "still to come", "history|a/b": "only A-Z a-z",
		"keep-history|a|--for|59m": "give 1h to 400d", "keep-history|a|--for|401d": "give 1h to 400d", "keep-history|..": "URLs", "history|a|--at|-2h": "--at",
	} {
		code, out, errs := call(t.Context(), strings.Split(args, "|")...)
		if code != exitFailed || !strings.Contains(out+errs, says) {
			t.Errorf("%s: exit code %d, %s%s; want %q", args, code, out, errs, says)
		}
	}
}

func TestParsePast(t *testing.T) {
	zone := time.FixedZone("here", 3600)
	now := time.Date(2026, 11, 26, 16, 30, 0, 0, zone) // a Thursday
	for text, want := range map[string]string{
		"02:14": "2026-11-26T02:14:00+01:00", "16:30": "2026-11-26T16:30:00+01:00", "16:31": "2026-11-25T16:31:00+01:00", "02:14:07": "2026-11-26T02:14:07+01:00",
		"mon": "2026-11-23T00:00:00+01:00", "thu": "2026-11-26T00:00:00+01:00", "Friday": "2026-11-20T00:00:00+01:00", "2026-11-20": "2026-11-20T00:00:00+01:00",
		"2026-11-26 02:14": "2026-11-26T02:14:00+01:00", "2026-11-26 02:14:09": "2026-11-26T02:14:09+01:00", "2026-11-26T02:14:00Z": "2026-11-26T03:14:00+01:00", "3h": "2026-11-26T13:30:00+01:00", "2d": "2026-11-24T16:30:00+01:00",
	} {
		if got, err := parsePast("--at", text, now); err != nil || got.In(zone).Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
}

// `holdfast dev` keeps a history, in memory and on DynamoDB through the table's stream: a user sets the rule, uses the lock and asks who had it.
func TestHistoryInDev(t *testing.T) {
	for name, conn := range map[string]connection{"memory": {}, "DynamoDB": {DynamodbEndpoint: awstest.Endpoint(t), Table: awstest.TableName(t, "history")}} {
		t.Run(name, func(t *testing.T) {
			url, _ := startDev(t, devCmd{}, conn)
			run := func(args ...string) string {
				t.Helper()
				code, out, errs := call(t.Context(), append([]string{"--endpoint", url}, args...)...)
				if code != 0 {
					t.Errorf("%v: exit code %d: %s%s", args, code, out, errs)
				}
				return out + errs
			}
			run("keep-history", "deploy:", "--for", "2d")
			client, err := lockclient.New(lockclient.Config{Endpoint: url, RetryDelay: 50 * time.Millisecond, Owner: "second"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close(t.Context()) }()
			holder, err := lockclient.New(lockclient.Config{Endpoint: url, Owner: "first"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = holder.Close(t.Context()) }()
			first, err := holder.Acquire(t.Context(), "deploy:prod", lockclient.Options{})
			if err != nil {
				t.Fatal(err)
			}
			queued := make(chan struct{})
			go func() {
				defer close(queued)
				for status, err := range holder.Watch(t.Context(), "deploy:prod") {
					if err != nil || status.Waiting > 0 {
						_ = first.Release(t.Context())
						return
					}
				}
			}()
			second, err := client.Acquire(t.Context(), "deploy:prod", lockclient.Options{Wait: time.Minute})
			<-queued
			if err != nil {
				t.Fatal(err)
			}
			if second.Waited() <= 0 {
				t.Errorf("waited %v", second.Waited())
			}
			run("force-release", "deploy:prod", "--reason", "the test")
			var out string
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && strings.Count(out, "\n") < 3; time.Sleep(50 * time.Millisecond) {
				if out = run("history", "deploy:prod"); !strings.Contains(out, "force-released: the test") {
					out = ""
				}
			}
			for _, want := range []string{"first", "second", "released", "force-released: the test"} {
				if !strings.Contains(out, want) {
					t.Errorf("%s\nwant %q", out, want)
				}
			}
			if strings.Contains(out, "not recorded") || strings.Contains(out, "still held") {
				t.Error(out)
			}
			if at := run("history", "deploy:prod", "--at", "0s"); !strings.Contains(at, "nobody held deploy:prod") {
				t.Error(at)
			}
		})
	}
}
