package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/holdfast-lock/holdfast/events"
)

var update = flag.Bool("update", false, "write the golden files anew")

var lease = events.Lease{
	Version: events.Version, Lock: "deploy:prod:eu", Prefixes: events.Prefixes("deploy:prod:eu"), Fence: 1772366400123456, Owner: "job-42",
	Principal: "arn:aws:sts::123456789012:assumed-role/deployer/job-42", Permits: 1, AcquiredAt: events.At(1772366400123),
	ExpiresAt: events.At(1772366460123), WaitedMS: 61500, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Metadata: json.RawMessage(`{"commit":"4f2a9c1"}`),
}

var end = events.End{EndedAt: events.At(1772366430123), HeldMS: 30000}

func all() map[string]events.Event {
	acquired, released := events.Acquired{Lease: lease}, events.Released{Lease: lease, End: end}
	expired := events.Expired{Lease: lease, End: end, Purged: true}
	forced := events.ForceReleased{Lease: lease, End: end, By: "arn:aws:iam::123456789012:user/alice", Reason: "stuck since noon"}
	expired.Metadata, expired.MetadataOmitted = nil, true
	acquired.ID = events.ID(lease.Lock, lease.Fence, acquired.DetailType())
	released.ID = events.ID(lease.Lock, lease.Fence, released.DetailType())
	expired.ID = events.ID(lease.Lock, lease.Fence, expired.DetailType())
	acquired.Set, released.Set = []string{"deploy:prod:eu", "quota:eu"}, []string{"deploy:prod:eu", "quota:eu"}
	forced.ID = events.ID(lease.Lock, lease.Fence, forced.DetailType())
	by := "arn:aws:iam::123456789012:user/alice"
	rule := events.RuleChanged{
		Version: events.Version, ID: events.RuleID("deploy:", 3, 1772366400123), Prefix: "deploy:", Rev: 3, ChangedAt: events.At(1772366400123), By: by,
		Freeze:  &events.Freeze{Until: events.At(1772388000000), Since: events.At(1772366400123), Reason: "no deployments during the audit", By: by},
		History: &events.Keeping{KeepMS: 90 * 24 * 3600_000, Since: events.At(1772366400123), By: by},
		Limits:  &events.Limits{Capacity: 3, MaxTTL: 300000, MaxHold: 7200000, MaxQueue: 100, MaxPerPrincipal: 1, Since: events.At(1772280000000), By: by},
	}
	return map[string]events.Event{
		"acquired": acquired, "released": released, "expired": expired, "force-released": forced, "rule-changed": rule,
	}
}

// Every type of event equals its golden file, conforms to its schema, and decodes to itself.
func TestGolden(t *testing.T) {
	for name, e := range all() {
		data, err := json.MarshalIndent(e, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, '\n')
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s: got\n%s\nwant\n%s%v", name, data, want, err)
		}
		schema := jsonschema.NewCompiler()
		compiled, err := schema.Compile(filepath.Join("schema", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		compact := new(bytes.Buffer)
		if err := json.Compact(compact, data); err != nil {
			t.Fatal(err)
		}
		decoded, err := events.Decode(e.DetailType(), compact.Bytes())
		if err != nil || !reflect.DeepEqual(decoded, e) {
			t.Errorf("%s: decoded %+v, %v", name, decoded, err)
		}
	}
}

// The schemas have exactly the fields of the types, and the detail-types as titles.
func TestSchemasHaveTheFields(t *testing.T) {
	for name, e := range all() {
		raw, err := os.ReadFile(filepath.Join("schema", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var schema struct {
			Title      string                     `json:"title"`
			Properties map[string]json.RawMessage `json:"properties"`
			Required   []string                   `json:"required"`
		}
		if err := json.Unmarshal(raw, &schema); err != nil {
			t.Fatal(err)
		}
		var fields, required []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(e)) {
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if field == "" {
				continue
			}
			fields = append(fields, field)
			if options == "" {
				required = append(required, field)
			}
		}
		var properties []string
		for p := range schema.Properties {
			properties = append(properties, p)
		}
		for _, list := range [][]string{fields, required, properties, schema.Required} {
			slices.Sort(list)
		}
		if schema.Title != e.DetailType() || !slices.Equal(fields, properties) || !slices.Equal(required, schema.Required) {
			t.Errorf("%s: schema %+v; fields %v, always %v", name, schema, fields, required)
		}
	}
}

func TestDecodeIsTolerantOfNewerAndStrictOfForeign(t *testing.T) {
	newer := `{"version":2,"id":"x","lock":"a","prefixes":["a"],"fence":5,"owner":"","permits":1,"brand":{"new":true},"acquired_at":"2026-03-01T12:00:00.123Z"}`
	e, err := events.Decode(events.TypeAcquired, []byte(newer))
	if err != nil || e.Subject().Fence != 5 || e.Subject().Version != 2 {
		t.Errorf("newer: %+v, %v", e, err)
	}
	_, err = events.Decode("Lock Painted", []byte(newer))
	if unknown, ok := errors.AsType[*events.UnknownTypeError](err); !ok || unknown.DetailType != "Lock Painted" {
		t.Errorf("unknown type: %v", err)
	}
	for _, detail := range []string{`{}`, `[]`, `{"fence":"5"}`, ``} {
		if e, err := events.Decode(events.TypeExpired, []byte(detail)); err == nil {
			t.Errorf("%q decoded to %+v", detail, e)
		}
	}
}

// A detail without a version, lock or fence is not Holdfast's; the least value of each is accepted.
func TestDecodeWantsTheEssentials(t *testing.T) {
	for detail, ours := range map[string]bool{
		`{"version":1,"lock":"a","fence":1}`:  true,
		`{"version":0,"lock":"a","fence":1}`:  false,
		`{"version":-1,"lock":"a","fence":1}`: false,
		`{"version":1,"lock":"","fence":1}`:   false,
		`{"version":1,"lock":"a","fence":0}`:  false,
		`{"version":1,"lock":"a","fence":-1}`: false,
		`{"lock":"a","fence":1}`:              false,
		`{"version":1,"fence":1}`:             false,
		`{"version":1,"lock":"a"}`:            false,
	} {
		for _, detailType := range []string{events.TypeAcquired, events.TypeReleased, events.TypeExpired, events.TypeForceReleased} {
			e, err := events.Decode(detailType, []byte(detail))
			if (err == nil) != ours || err == nil && e.DetailType() != detailType || err != nil && !strings.Contains(err.Error(), "events: "+detailType+": ") {
				t.Errorf("%s %s: %+v, %v", detailType, detail, e, err)
			}
		}
	}
	_, err := events.Decode("lock acquired", []byte(`{"version":1,"lock":"a","fence":1}`))
	if err == nil || err.Error() != `events: detail-type "lock acquired" is not known to this version` {
		t.Errorf("%v", err)
	}
}

func TestID(t *testing.T) {
	for detailType, want := range map[string]string{
		events.TypeAcquired: "a:b/5/acquired", events.TypeReleased: "a:b/5/released", events.TypeExpired: "a:b/5/expired", events.TypeForceReleased: "a:b/5/force-released",
	} {
		if got := events.ID("a:b", 5, detailType); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTime(t *testing.T) {
	at := events.At(1772366400123)
	if data, err := json.Marshal(at); err != nil || string(data) != `"2026-03-01T12:00:00.123Z"` {
		t.Errorf("%s, %v", data, err)
	}
	var read events.Time
	if err := json.Unmarshal([]byte(`"2026-03-01T13:00:00.123+01:00"`), &read); err != nil || !read.Equal(at.Time) {
		t.Errorf("%v, %v", read, err)
	}
	if data, _ := json.Marshal(read); string(data) != `"2026-03-01T12:00:00.123Z"` {
		t.Errorf("in another zone: %s", data)
	}
	if err := json.Unmarshal([]byte(`"noon"`), &read); err == nil {
		t.Error("accepted")
	}
}

// Texts of people arrive as they were sent, with line breaks, joiners, and the characters that HTML escapes.
func TestTextsArriveAsWritten(t *testing.T) {
	forced := events.ForceReleased{Lease: lease, End: end, Reason: "Revert <x>\n\n\t& \u200dmore"}
	data, err := json.Marshal(forced)
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Decode(events.TypeForceReleased, data)
	if err != nil || e.(events.ForceReleased).Reason != forced.Reason {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestPrefixes(t *testing.T) {
	for name, want := range map[string][]string{
		"a": {"a"}, "a:b": {"a", "a:b"}, "a:b:c": {"a", "a:b", "a:b:c"}, "a::b": {"a", "a:", "a::b"}, ":a": {":a"}, "a:": {"a", "a:"},
	} {
		if got := events.Prefixes(name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
