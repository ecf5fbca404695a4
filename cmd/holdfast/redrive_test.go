package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/redrive"
)

// fakeFunction is Lambda's API with a redrive function that gives the answers of a test, and records its requests.
func fakeFunction(t *testing.T, answers ...any) (asked *[]redrive.Request) {
	t.Helper()
	asked = &[]redrive.Request{}
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req redrive.Request
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &req); err != nil || !strings.Contains(r.URL.Path, "/functions/redrive/invocations") {
			t.Errorf("%s: %s: %v", r.URL.Path, body, err)
		}
		*asked = append(*asked, req)
		answer := answers[min(len(*asked), len(answers))-1]
		if text, failed := answer.(string); failed {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			answer = map[string]string{"errorMessage": text}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(fake.Close)
	t.Setenv("AWS_ENDPOINT_URL_LAMBDA", fake.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("HOLDFAST_REDRIVE_FUNCTION", "redrive")
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", "")
	return asked
}

// redrive shows first, sweeps if records of the stream are lost, and has the messages of lost ranges deleted only after a sweep of the whole table
// that nothing failed in.
func TestRedrive(t *testing.T) {
	window := redrive.Window{From: time.Now().Add(-time.Hour), To: time.Now(), Message: "m2"}
	letters := redrive.Answer{Lost: []redrive.Window{window}, Outcomes: []redrive.Outcome{
		{Message: "m1", What: "timer", Lock: "a", State: redrive.Done, Detail: "end the lease", Deleted: true},
		{Message: "m2", What: "range", State: redrive.Kept, Detail: "9 records", Fix: "sweep", Lost: []string{"the events of 9 records"}},
	}}
	part := redrive.Answer{Cursor: "next", Locks: 3, Items: 10, Units: 1.5}
	rest := redrive.Answer{Locks: 2, Items: 5, Units: 0.5, Timers: 4}
	deleted := redrive.Answer{Outcomes: []redrive.Outcome{{Message: "m2", What: "range", State: redrive.Done, Detail: "swept", Deleted: true, Lost: []string{"the events of 9 records"}}}}
	asked := fakeFunction(t, letters, part, rest, deleted)
	code, out, errs := call(t.Context(), "redrive", "--apply")
	for _, says := range []string{"end the lease (message m1, deleted)", "lost: the events of 9 records", "swept 5 locks: 15 items read for 2.0 read units; 4 timers", "2 done; 1 notes of lost events"} {
		if !strings.Contains(out, says) {
			t.Errorf("it does not say %q: %s%s", says, out, errs)
		}
	}
	if req := *asked; code != 0 || len(req) != 4 || len(req[0].Swept) != 0 || !req[0].Apply || req[1].Work != redrive.WorkSweep || len(req[1].Lost) != 1 ||
		req[2].Cursor != "next" || req[3].Work != redrive.WorkLetters || !slices.Equal(req[3].Swept, []string{"m2"}) || req[1].Timers {
		t.Errorf("exit code %d, requests %+v", code, req)
	}

	failing := rest
	failing.Outcomes = []redrive.Outcome{{What: "expired", Lock: "a", State: redrive.Failed, Detail: "throttled"}}
	asked = fakeFunction(t, letters, failing)
	if code, out, _ := call(t.Context(), "redrive", "--apply"); code != exitFailed || len(*asked) != 2 || !strings.Contains(out, "1 failed") {
		t.Errorf("after a failure: exit code %d, %d requests: %s", code, len(*asked), out)
	}
	for args, want := range map[string]int{"redrive": 2, "redrive --timers": 2, "redrive --no-sweep": 1, "redrive --apply --no-sweep": 1, "redrive --apply --prefix a": 2} {
		asked = fakeFunction(t, letters, rest)
		if call(t.Context(), strings.Fields(args)...); len(*asked) != want {
			t.Errorf("%s: %d requests, want %d", args, len(*asked), want)
		}
	}
	fakeFunction(t, redrive.Answer{})
	if code, out, errs := call(t.Context(), "--json", "redrive"); code != 0 || !strings.Contains(out, `{"applied":false,"summary":{}}`) {
		t.Errorf("--json: %d: %s%s", code, out, errs)
	}
	fakeFunction(t, "HOLDFAST_BUS is not set")
	if code, _, errs := call(t.Context(), "redrive"); code != exitFailed || !strings.Contains(errs, "HOLDFAST_BUS is not set") {
		t.Errorf("a function that fails: %d: %s", code, errs)
	}
}

// Combinations of flags that mean nothing are refused, and say what to give.
func TestRedriveRefuses(t *testing.T) {
	t.Setenv("HOLDFAST_REDRIVE_FUNCTION", "")
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", "")
	for args, says := range map[string]string{
		"redrive": "--function", "redrive --function f --sweep --no-sweep": "give one", "redrive --table locks --no-sweep": "leave it out",
		"redrive --function f --prefix a --no-sweep": "--prefix", "redrive --function f --limit=-1": "--limit", "redrive --table locks --discard": "--function",
		"redrive --table locks --timers": "--function", "redrive --function f --timers --no-sweep": "--no-sweep",
		"redrive --endpoint http://127.0.0.1:1": "--dynamodb-endpoint", "doctor --table locks --limit=-1": "--limit",
	} {
		if code, _, errs := call(t.Context(), strings.Fields(args)...); code != exitFailed || !strings.Contains(errs, says) {
			t.Errorf("%s: %d: %s; want %q", args, code, errs, says)
		}
	}
}

// On a table alone, doctor reports a lock that nobody will free, with its fix, and redrive mends it.
func TestStuckLockOnATable(t *testing.T) {
	endpoint := awstest.Endpoint(t)
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_REDRIVE_FUNCTION", "")
	table := awstest.TableName(t, "stuck")
	t.Setenv("HOLDFAST_TABLE", table)
	if code, out, errs := call(t.Context(), "init"); code != 0 {
		t.Fatalf("init: %d: %s%s", code, out, errs)
	}
	cfg, err := awsConfig(t.Context(), "", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	db := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = &endpoint })
	acquire := func(ctx context.Context, ago time.Duration, secret string, wait time.Duration) {
		r, err := sweeper(ctx, &connection{Table: table, DynamodbEndpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
		c, err := lock.New(lock.Config{Store: r.Store, Clock: func() time.Time { return time.Now().Add(-ago) }})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Acquire(ctx, lock.AcquireRequest{Lock: "stuck", Secret: secret, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: wait})
	}
	acquire(t.Context(), 10*time.Minute, "dead", 0)
	acquire(t.Context(), 10*time.Minute, "waiter", time.Hour)
	code, out, _ := call(t.Context(), "doctor")
	if code != exitFailed || !strings.Contains(out, "FAIL  stuck locks  stuck: expired:") || !strings.Contains(out, "fix: holdfast redrive --apply") ||
		!strings.Contains(out, "FAIL  stuck locks  1 of 1 locks are stuck") {
		t.Errorf("doctor: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "doctor", "--no-sweep"); code != 0 || strings.Contains(out, "stuck locks") {
		t.Errorf("doctor --no-sweep: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "redrive"); code != 0 || !strings.Contains(out, "due") || !strings.Contains(out, "--apply does what is due") {
		t.Errorf("redrive: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "redrive", "--apply"); code != 0 || !strings.Contains(out, "1 done") {
		t.Errorf("redrive --apply: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "doctor"); code != 0 || !strings.Contains(out, "none of 1 locks are stuck") {
		t.Errorf("doctor after it: %d: %s", code, out)
	}
	row := map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: "stuck"}, "sk": &types.AttributeValueMemberS{Value: "lock"}}
	if _, err := db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: &table, UpdateExpression: aws.String("REMOVE idx"), Key: row}); err != nil { // as a version without the index wrote it
		t.Fatal(err)
	}
	if code, out, _ := call(t.Context(), "doctor"); code != exitFailed || !strings.Contains(out, "FAIL  index        1 of 1 locks are not in the index of names") ||
		!strings.Contains(out, "none of 1 locks are stuck") || strings.Count(out, "FAIL") != 1 {
		t.Errorf("doctor with rows that are not in the index: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "redrive", "--apply"); code != 0 || !strings.Contains(out, "1 done") {
		t.Errorf("redrive --apply with rows that are not in the index: %d: %s", code, out)
	}
	if code, out, _ := call(t.Context(), "doctor"); code != 0 || strings.Contains(out, "not in the index") {
		t.Errorf("doctor after the rows were put into the index: %d: %s", code, out)
	}
	got, err := db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: row})
	if err != nil || got.Item["retired_cause"].(*types.AttributeValueMemberS).Value != "expire" {
		t.Errorf("%v, %v", got, err)
	}
}
