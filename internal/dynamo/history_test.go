package dynamo_test

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

// entryOf is a large entry as it comes from an operator: the ARNs of two assumed roles and a long reason.
func entryOf(i int) lock.HistoryEntry {
	at := time.Now().UnixMilli() + int64(i)
	return lock.HistoryEntry{
		At: at, Kind: lock.LeaseForceReleased, Fence: at * 1000, Cause: lock.CauseForceRelease, Owner: fmt.Sprintf("runner-%03d@ip-10-0-0-1.eu-west-1.compute.internal", i),
		Principal: "arn:aws:sts::123456789012:assumed-role/deployer/a-session-of-some-length", Permits: 1, AcquiredAt: at - 60_000, Waited: 12_345,
		By: "arn:aws:sts::123456789012:assumed-role/operator/a-session", Reason: "stuck since noon; the runner was replaced", Held: 0, Waiting: 12,
	}
}

// What a history costs: a write unit for each entry; for a page of a hundred entries one request, of half a read unit for each 4 KB.
func TestUnitsOfAHistory(t *testing.T) {
	m := &meter{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = m })
	var list []lock.HistoryEntry
	for i := range 100 {
		list = append(list, entryOf(i))
	}
	m.reset()
	if err := s.PutHistory(t.Context(), "deploy:prod", list, time.Hour); err != nil || m.count() != 100 || m.units != 100 {
		t.Errorf("100 entries: %d requests, %v write units, %v", m.count(), m.units, err)
	}
	m.reset()
	page, more, err := s.History(t.Context(), lock.HistoryQuery{Lock: "deploy:prod", From: "0", To: "~", Limit: 100})
	if err != nil || len(page) != 100 || page[0] != list[99] || m.count() != 1 || m.units > 7 {
		t.Errorf("a page of %d entries: %d requests, %v read units, more %v, %v", len(page), m.count(), m.units, more, err)
	}
	t.Logf("100 entries: 100 write units; a page of 100: %v read units", m.units)
}

// Entries of a history, and their removal by native TTL, are nothing to the stream's consumer, lists and sweeps.
func TestHistoryIsNoLock(t *testing.T) {
	db := engine(t)
	var table string
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "s", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	list := []lock.HistoryEntry{entryOf(0), entryOf(1)}
	if err := s.PutHistory(t.Context(), "a", list, time.Hour); err != nil {
		t.Fatal(err)
	}
	out, err := db.Query(t.Context(), &dynamodb.QueryInput{
		TableName: &table, KeyConditionExpression: aws.String("pk = :pk"), ExpressionAttributeValues: map[string]types.AttributeValue{":pk": &text{Value: "#history#a"}},
	})
	if err != nil || len(out.Items) != 2 {
		t.Fatalf("%d items, %v", len(out.Items), err)
	}
	for i, it := range out.Items {
		if _, indexed := it["idx"]; indexed || it["ttl"].(*types.AttributeValueMemberN).Value != strconv.FormatInt((list[i].At+3600_000)/1000, 10) {
			t.Errorf("%v", it)
		}
		keys := attrMap{"pk": it["pk"], "sk": it["sk"]}
		for _, images := range [][2]attrMap{{nil, it}, {it, it}, {it, nil}} {
			if w, ok, err := dynamo.DecodeWrite(keys, images[0], images[1]); ok || err != nil {
				t.Errorf("a stream record is %+v, %v", w, err)
			}
		}
	}
	for _, all := range []bool{true, false} {
		for _, prefix := range []string{"", "a", "#"} {
			if got, next, err := c.List(t.Context(), lock.ListRequest{Prefix: prefix, All: all, Limit: 10}); err != nil || next != "" || len(got) > 1 || len(got) == 1 && got[0].Lock != "a" {
				t.Errorf("list of %q: %+v, %v", prefix, got, err)
			}
		}
	}
	swept := func() (list []dynamo.Swept) {
		done, err := s.Sweep(t.Context(), dynamo.SweepQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return done.Items
	}
	if got := swept(); len(got) != 1 || got[0].Lock != "a" {
		t.Errorf("sweep: %+v", got)
	}
	_, err = db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{TableName: &table, Key: attrMap{"pk": out.Items[0]["pk"], "sk": out.Items[0]["sk"]}, UpdateExpression: aws.String("REMOVE #t"), ExpressionAttributeNames: map[string]string{"#t": "ttl"}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, o := range swept() {
		if o.Kind == dynamo.SweptHistory && o.NoTTL {
			if err := s.Expire(t.Context(), o, now); err != nil {
				t.Error(err)
			}
		}
	}
	again, err := db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: &table, Key: attrMap{"pk": out.Items[0]["pk"], "sk": out.Items[0]["sk"]}})
	if err != nil || again.Item["ttl"].(*types.AttributeValueMemberN).Value != strconv.FormatInt(now.Add(90*24*time.Hour).Unix(), 10) {
		t.Errorf("an entry without native TTL has %v, %v", again.Item["ttl"], err)
	}
}

// An item of a history that this version cannot read is named in the error.
func TestBrokenHistory(t *testing.T) {
	db := engine(t)
	var table string
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	for sk, with := range map[string]attrMap{"notes": nil, entryOf(0).Key(): {"waited": &text{Value: "long"}}} {
		it := attrMap{"pk": &text{Value: "#history#" + storetest.Name()}, "sk": &text{Value: sk}}
		maps.Copy(it, with)
		if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: it}); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(it["pk"].(*text).Value, "#history#")
		_, _, err := s.History(t.Context(), lock.HistoryQuery{Lock: name, From: "0", To: "~", Limit: 10})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", sk, err)
		}
	}
}

// The owner, the principal, the set and the wait of a semaphore's lease are read where the consumer had not read them: after a fault, of a grant that was
// deferred.
func TestHistoryReadsTexts(t *testing.T) {
	s := newStore(t)
	clock := &storetest.Clock{}
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(owner string) {
		req := lock.AcquireRequest{Lock: "a", Secret: owner, Owner: owner, Principal: "arn:" + owner, TTL: time.Minute, Capacity: 2, Permits: 1, Wait: time.Hour}
		if _, err := c.Acquire(t.Context(), req); err != nil && !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	acquire("one")
	set := lock.SetRequest{
		Locks:  []lock.Want{{Lock: "b", Capacity: 1, Permits: 1}, {Lock: "a", Capacity: 2, Permits: 1}},
		Secret: "two", Owner: "two", Principal: "arn:two", TTL: time.Minute,
	}
	if _, err := c.AcquireAll(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	acquire("three")
	clock.Advance(1500 * time.Millisecond)
	before, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReleaseAll(t.Context(), lock.SetReleaseRequest{Locks: []string{"a", "b"}, Secret: "two"}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	w := lock.Write{Lock: "a", Before: before.After, After: after.After}
	entries := lock.HistoryOf(w, lock.Changes(w.Before, w.After))
	if len(entries) != 2 || !entries[0].Split || !entries[1].Split {
		t.Fatalf("%+v", entries)
	}
	if err := c.Record(t.Context(), "a", &lock.Keeping{For: (90 * 24 * time.Hour).Milliseconds()}, entries); err != nil {
		t.Fatal(err)
	}
	page, err := c.History(t.Context(), lock.HistoryRequest{Lock: "a", Oldest: true, Limit: 10})
	if err != nil || len(page.Entries) != 2 {
		t.Fatalf("%+v, %v", page, err)
	}
	for i, want := range []lock.HistoryEntry{{Kind: lock.LeaseReleased, Owner: "two", Set: "a,b", Held: 1}, {Kind: lock.LeaseAcquired, Owner: "three", Waited: 1500, Held: 2}} {
		if e := page.Entries[i]; e.Kind != want.Kind || e.Owner != want.Owner || e.Principal != "arn:"+want.Owner || e.Waited != want.Waited || e.Set != want.Set || e.Held != want.Held {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
}
