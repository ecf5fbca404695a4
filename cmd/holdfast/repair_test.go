package main

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A lock that a coordinator with a clock a year ahead has written cannot be acquired until it is repaired; repair
// reports what it refuses.
func TestRepair(t *testing.T) {
	endpoint := awstest.Endpoint(t)
	conn := &connection{DynamodbEndpoint: endpoint, Table: awstest.TableName(t, "repair"), Timeout: 5 * time.Second, Owner: "me"}
	if err := (initCmd{}).Run(t.Context(), &streams{out: newOutput()}, conn); err != nil {
		t.Fatal(err)
	}
	cfg, err := awsConfig(t.Context(), "", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: conn.Table, Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	ahead, err := lock.New(lock.Config{Store: store, Clock: func() time.Time { return time.Now().Add(365 * 24 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	name := "repair:" + strings.ToLower(time.Now().Format("150405.000000000"))
	if _, err := ahead.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: "l", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	repair := func(name, reason string) (string, error) {
		out := newOutput()
		err := (&repairCmd{Name: name, Reason: reason}).Run(t.Context(), &streams{out: out, err: newOutput()}, conn)
		return out.String(), err
	}
	for _, test := range []struct{ name, reason, says string }{
		{name, " ", "say why"},
		{"a b", "r", "has the character"},
		{name, "bad\x00", "reason"},
		{"never:seen", "r", "nothing to repair"},
		{name, "r", "force-release it first"},
	} {
		if _, err := repair(test.name, test.reason); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("repair of %q for %q: %v; want %q", test.name, test.reason, err, test.says)
		}
	}
	if _, err := ahead.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: "l"}); err != nil {
		t.Fatal(err)
	}
	if out, err := repair(name, "a clock was a year ahead"); err != nil || !strings.Contains(out, "repaired "+name) {
		t.Fatalf("%q, %v", out, err)
	}
	reply, err := store.Get(t.Context(), name)
	if r := reply.After; err != nil || r.Cause != lock.CauseRepair || r.By != "me" || r.Reason != "a clock was a year ahead" || time.Until(time.UnixMicro(r.Fence)) > lock.MaxFenceLead+time.Minute {
		t.Errorf("record %+v, %v", r, err)
	}
	if err := (&repairCmd{Name: name, Reason: "r"}).Run(t.Context(), &streams{}, &connection{}); err == nil || !strings.Contains(err.Error(), "--table") {
		t.Errorf("without a table: %v", err)
	}
	if !strings.Contains(thisUser(), "@") {
		t.Errorf("this user is %q", thisUser())
	}
}
