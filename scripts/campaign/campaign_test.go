package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/eventbridge"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/tasks"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// The faults of a round follow from its plan, and each family has some.
func TestActionsFollowFromThePlan(t *testing.T) {
	p := plan{Seed: 7, Seconds: 60, Families: safeFamilies}
	list, again := p.actions(), p.actions()
	if !reflect.DeepEqual(list, again) {
		t.Error("the same plan gave other faults")
	}
	p.Seed = 8
	if reflect.DeepEqual(list, p.actions()) {
		t.Error("another seed gave the same faults")
	}
	count := map[string]int{}
	last := time.Duration(0)
	for _, a := range list {
		count[a.family]++
		if a.at < last || a.offset.Abs() > maxOffset*time.Millisecond || 2*maxOffset > 250 {
			t.Errorf("action %+v after %v", a, last)
		}
		last = a.at
	}
	for _, family := range []string{famPartition, famPause, famPauseServer, famKillClient, famKillServer, famKillStream, famClock} {
		if count[family] < 5 {
			t.Errorf("family %s has %d faults in a minute", family, count[family])
		}
	}
	p.Families = nil
	if list := p.actions(); len(list) > 0 {
		t.Errorf("a plan without families has the faults %v", list)
	}
}

// A long campaign has long rounds with more clients, and as many clients for each lock as a short one; what its caller sets counts.
func TestDefaultsOfLongCampaigns(t *testing.T) {
	for _, c := range []struct {
		campaign campaign
		seconds  float64
		workers  int
	}{{campaign{}, 30, 3}, {campaign{Ops: 1}, 300, 8}, {campaign{Minutes: 1}, 300, 8}, {campaign{Minutes: 1, Seconds: 7, Workers: 4}, 7, 4}} {
		c.campaign.defaults()
		p := c.campaign.everything()
		if p.Seconds != c.seconds || p.Workers != c.workers || p.Locks != 4*p.Workers {
			t.Errorf("plan %v", p)
		}
	}
}

// A smaller plan lacks something, and plans that cannot become smaller are not tried for ever.
func TestSmallerPlans(t *testing.T) {
	p := (&campaign{Seconds: 60, Workers: 3}).everything()
	steps := 0
	for list := p.smaller(); len(list) > 0; list = p.smaller() {
		if p = list[len(list)-1]; steps > 100 {
			t.Fatal("the plans do not end")
		}
		steps++
	}
	if len(p.Families) > 1 || p.Seconds > 8 {
		t.Errorf("the smallest plan is %v", p)
	}
}

func TestReadAnswer(t *testing.T) {
	problem := func(code wire.Code) string { return fmt.Sprintf(`{"code":%q,"ticket":4}`, code) }
	for _, c := range []struct {
		op     history.Kind
		status int
		body   string
		want   history.Result
		fence  int64
		ticket int64
	}{
		{history.Acquire, 200, `{"lock":"a","fence":7,"remaining_ms":5}`, history.Granted, 7, 0},
		{history.Acquire, 200, `{"lock":"a","queued":true,"ticket":3}`, history.Held, 0, 3},
		{history.Acquire, 409, problem(wire.LockHeld), history.Held, 0, 4},
		{history.Acquire, 410, problem(wire.LeaseLost), history.Lost, 0, 0},
		{history.Acquire, 503, problem(wire.Throttled), history.Unknown, 0, 0},
		{history.Acquire, 500, `{"message":"Internal Server Error"}`, history.Unknown, 0, 0},
		{history.Acquire, 200, `{"lock":"a","fen`, history.Unknown, 0, 0},
		{history.Acquire, 0, "", history.Unknown, 0, 0},
		{history.Renew, 200, `{"lock":"a","fence":7}`, history.Granted, 7, 0},
		{history.Release, 200, `{"lock":"a","fence":7}`, history.OK, 7, 0},
		{history.Force, 200, `{"lock":"a","released":[]}`, history.OK, 0, 0},
		{history.Force, 409, problem(wire.LockChanged), history.Lost, 0, 0},
	} {
		o := history.Op{Op: c.op, Lock: "a", Result: history.Unknown}
		readAnswer(&o, c.status, []byte(c.body))
		if o.Result != c.want || o.Fence != c.fence || o.Ticket != c.ticket {
			t.Errorf("%s answered %d %s is %+v", c.op, c.status, c.body, o)
		}
	}
}

// A refusal by a freeze or a rate is one, and says by which; a refusal by another limit is no answer that a campaign expects.
func TestReadRefusalsByRules(t *testing.T) {
	for body, want := range map[string]history.Op{
		`{"code":"frozen","ticket":4,"tickets":[4],"freeze":{"until":"2026-11-26T12:00:00Z"}}`: {Result: history.Held, Ticket: 4, Frozen: 1795694400000},
		`{"code":"limit_exceeded","limit":"rate"}`:                                             {Result: history.Held, Rated: true},
		`{"code":"lock_held","ticket":4,"tickets":[4],"limit":"rate"}`:                         {Result: history.Held, Ticket: 4, Rated: true},
		`{"code":"limit_exceeded","limit":"max_ttl_ms"}`:                                       {Result: history.Unknown},
	} {
		o := history.Op{Op: history.Acquire, Lock: "a", Result: history.Unknown}
		set := []history.Op{o}
		readAnswer(&o, http.StatusConflict, []byte(body))
		readSetAnswer(set, 0, http.StatusConflict, []byte(body))
		for _, got := range []history.Op{o, set[0]} {
			if got.Result != want.Result || got.Ticket != want.Ticket || got.Frozen != want.Frozen || got.Rated != want.Rated {
				t.Errorf("%s is %+v", body, got)
			}
		}
	}
}

// What a killed process was doing is unknown from its death on: its requests have no answers, its beliefs end, and its last line may be cut.
func TestKilledProcess(t *testing.T) {
	rec, err := newRecorder(t.TempDir(), "http0")
	if err != nil {
		t.Fatal(err)
	}
	rec.begin("http0.1", wire.OpAcquire, "a", []byte(`{"lease":"0123456789abcdef","ttl_ms":1000}`))(200, []byte(`{"lock":"a","fence":7,"remaining_ms":900}`))
	rec.begin("http0.1", wire.OpRenew, "a", []byte(`{"lease":"0123456789abcdef"}`))
	rec.begin("http0.1", wire.OpStatus, "a", nil)(200, []byte(`{}`))
	died := now()
	rec.write(line{Number: 99, Belief: &history.Belief{Lock: "a", From: 1, Until: died + 5}})
	h := &history.History{}
	rec.refused("http0.1", &lockclient.RefusedError{Detail: "no"})
	rec.refused("http0.1", lockclient.ErrLost)
	_, _ = rec.file.WriteString(`{"n":100,"op":{"cl`)
	refused, err := readLines(rec.file.Name(), died, h)
	if err != nil || len(refused) != 1 {
		t.Fatalf("refused %q, %v", refused, err)
	}
	if len(h.Ops) != 2 || len(h.Beliefs) != 1 {
		t.Fatalf("history %+v", h)
	}
	key := string(lock.KeyOf("a", "0123456789abcdef"))
	if o := h.Ops[0]; o.Result != history.Granted || o.Fence != 7 || o.Lease != key || o.Left != 9e8 || o.Ended < o.Began {
		t.Errorf("the acquire is %+v", o)
	}
	if o := h.Ops[1]; o.Result != history.Unknown || o.Ended != died {
		t.Errorf("the renewal without an answer is %+v, the process died at %d", o, died)
	}
	if h.Beliefs[0].Until != died {
		t.Errorf("the belief lasts until %d, the process died at %d", h.Beliefs[0].Until, died)
	}
}

// The fake speaks the protocol of the SDK's clients, through the code that the functions use.
func TestServices(t *testing.T) {
	s := newServices()
	server := httptest.NewServer(s)
	defer server.Close()
	cfg := awsConfig(server.URL)
	defer cfg.HTTPClient.(*http.Client).CloseIdleConnections()
	queue := sqs.New(cfg, server.URL+"/1/timers")
	timer := stream.Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 7}, Due: time.Now().Add(-time.Second)}
	if errs := queue.Arm(t.Context(), []stream.Timer{timer}); len(errs) > 0 && errs[0] != nil {
		t.Fatal(errs)
	}
	client := awssqs.NewFromConfig(cfg)
	url := queue.URL()
	out, err := client.ReceiveMessage(t.Context(), &awssqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10})
	if err != nil || len(out.Messages) != 1 {
		t.Fatalf("received %+v, %v", out, err)
	}
	if out, err := client.ReceiveMessage(t.Context(), &awssqs.ReceiveMessageInput{QueueUrl: &url}); err != nil || len(out.Messages) != 0 {
		t.Errorf("a message that was received is received again at once: %+v, %v", out, err)
	}
	if _, err := client.DeleteMessage(t.Context(), &awssqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: out.Messages[0].ReceiptHandle}); err != nil || len(s.queues["timers"]) != 0 {
		t.Errorf("after its deletion: %v, %v", s.queues, err)
	}
	timer.Due = time.Now().Add(time.Hour)
	_ = queue.Arm(t.Context(), []stream.Timer{timer})
	s.hurry()
	if out, err := client.ReceiveMessage(t.Context(), &awssqs.ReceiveMessageInput{QueueUrl: &url}); err != nil || len(out.Messages) != 1 {
		t.Errorf("a message in a hurry is not received: %+v, %v", out, err)
	}
	detail, _ := json.Marshal(map[string]any{"version": 1, "id": "a/7/released", "lock": "a", "fence": 7})
	bus := eventbridge.New(cfg, "campaign")
	for range 2 {
		if errs := bus.Put(t.Context(), []stream.Entry{{DetailType: "Lock Released", Detail: detail, Lock: "a"}}); errs[0] != nil {
			t.Fatal(errs)
		}
	}
	if want := (history.Event{Lock: "a", Type: "released", Fence: 7, ID: "a/7/released"}); len(s.events) != 1 || s.events[0] != want || s.seen[want] != 2 {
		t.Errorf("events %v, seen %v", s.events, s.seen)
	}
	functions := tasks.New(cfg)
	if err := functions.Succeed(t.Context(), lock.Token{Text: "t"}, []byte(`{}`)); err != nil {
		t.Error(err)
	}
	if err := functions.Succeed(t.Context(), lock.Token{Text: "t"}, []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "TaskTimedOut") {
		t.Errorf("a second callback: %v", err)
	}
}

// A grant or the end of a wait that a task was not told, and a callback for no grant, are violations.
func TestTaskViolations(t *testing.T) {
	r := &round{services: newServices(), truth: &truth{granted: map[string]bool{"told": true, "untold": true}, ended: map[string]bool{"over": true}, gone: map[string]int64{"told": 7, "again": 9}}}
	r.truth.granted["again"] = true
	for token, status := range map[string]string{"told": "succeeded", "again": "succeeded", "invented": "succeeded", "over": "failed"} {
		_, _ = r.services.finish(token, status, `{"fence":7}`)
	}
	found := r.taskViolations(&summary{})
	if len(found) != 3 || !strings.Contains(found[0], "untold") || !strings.Contains(found[1], "invented") || !strings.Contains(found[2], "is gone") {
		t.Errorf("found %q", found)
	}
}

// The changes of rules follow from the plan: in time order, each within the round, most before the epoch of their locks; all freezes end before the round does.
func TestRulesFollowFromThePlan(t *testing.T) {
	p := (&campaign{Seconds: 120, Workers: 3}).everything()
	p.Seed = 5
	list := p.rules()
	if !reflect.DeepEqual(list, p.rules()) {
		t.Error("two lists differ")
	}
	freezes, rates, ends := 0, 0, 0
	for i, c := range list {
		if i > 0 && c.at < list[i-1].at || c.at.Seconds() > p.Seconds {
			t.Errorf("change %d is at %v", i, c.at)
		}
		switch {
		case c.remove != "":
			ends++
		case c.rate.Grants > 0 && c.rate.Period >= time.Second:
			rates++
		case c.freeze > c.at && c.freeze.Seconds() <= p.Seconds:
			freezes++
		case c.prefix != "none:":
			t.Errorf("change %+v", c)
		}
	}
	if freezes < 12 || rates < 8 || ends < 5 {
		t.Errorf("%d freezes, %d rates, %d ends", freezes, rates, ends)
	}
	p.Rules = false
	if len(p.rules()) > 0 {
		t.Error("a plan without rules has some")
	}
}

// A change of a rule that no event tells of is a violation, and the time that its answer promised is in the history.
func TestRulesOfARound(t *testing.T) {
	r := &round{
		services: newServices(), truth: &truth{start: 1000, rules: []history.Rule{{Prefix: "a:", Rev: 1, At: 7 * 1e6}, {Prefix: "a:", Rev: 2, At: 9 * 1e6}}},
		promises: []rulePromise{{"a:", 1007, 3000}, {"a:", 1007, 2000}, {"b:", 1009, 4000}},
	}
	r.services.rules[ruleWrite{"a:", 1}] = true
	if r.missing() != 1 {
		t.Errorf("%d events are missing", r.missing())
	}
	rules, found := r.rules()
	if len(found) != 1 || !strings.Contains(found[0], "revision 2") {
		t.Errorf("found %q", found)
	}
	if rules[0].InForce != 2000 || rules[1].InForce != 0 {
		t.Errorf("rules %+v", rules)
	}
}

func TestLateLocks(t *testing.T) {
	k := killResult{Took: []float64{1300, 3300, 3300, 9000}, Control: []float64{1260, 1260, 1800, 1300}}
	if measured, corrected := k.late(); measured != 3 || corrected != 2 || k.bound() != 3250 {
		t.Errorf("%d and %d of %v are late, bound %v", measured, corrected, k.Took, k.bound())
	}
	if len(k.violations()) != 1 {
		t.Errorf("violations %q", k.violations())
	}
}

// A place is kept whole.
func TestPlaces(t *testing.T) {
	d := places(t.TempDir())
	if at, err := d.Load("shard/1"); at != "" || err != nil {
		t.Errorf("no place: %q, %v", at, err)
	}
	if err := d.Save("shard/1", "42"); err != nil {
		t.Fatal(err)
	}
	if at, err := d.Load("shard/1"); at != "42" || err != nil {
		t.Errorf("place %q, %v", at, err)
	}
	if left, _ := filepath.Glob(filepath.Join(string(d), "*.new")); len(left) > 0 {
		t.Errorf("files %v are left", left)
	}
}

// A function that fails answers as Lambda does.
func TestInvoker(t *testing.T) {
	w := httptest.NewRecorder()
	invoker{}.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/2015-03-31/functions/nope/invocations", bytes.NewReader(nil)))
	if w.Code != http.StatusNotFound || w.Header().Get("X-Amzn-Errortype") != "ResourceNotFoundException" {
		t.Errorf("an unknown function is answered %d %v", w.Code, w.Header())
	}
}

// The text that each planted bug replaces is in its file once.
func TestPlantedBugsFit(t *testing.T) {
	for _, b := range bugs {
		source, err := os.ReadFile(filepath.Join("../..", b.file))
		if n := strings.Count(string(source), b.old); err != nil || n != 1 || b.old == b.new {
			t.Errorf("%s: the text is %d times in %s, %v", b.name, n, b.file, err)
		}
	}
}

// The secret of a lease in anything that a round left is a violation.
func TestSearchSecrets(t *testing.T) {
	r := &round{dir: t.TempDir()}
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte("0123456789abcdef0123\nfedcba98765432100123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"log-http0.txt": "nothing", "events.jsonl": `{"x":"fedcba98765432100123"}`} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var s summary
	n, err := r.searchSecrets(file, &s)
	if err != nil || n != 2 || len(s.Violations) != 1 || !strings.Contains(s.Violations[0], "events.jsonl") || strings.Contains(s.Violations[0], "fedcba") {
		t.Errorf("%d secrets, %v, violations %q", n, err, s.Violations)
	}
}

// A long run of kills is in rounds, each with an engine of its own.
func TestPartsOfKills(t *testing.T) {
	c := &campaign{StreamKills: 450, Kills: -1, Seconds: 30, Workers: 3}
	list, err := c.plans()
	sum := 0
	for _, p := range list {
		sum += p.StreamKills
	}
	if err != nil || len(list) != 3 || sum != 450 || list[2].StreamKills != 50 {
		t.Errorf("plans %v, %v", list, err)
	}
}
