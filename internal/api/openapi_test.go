package api_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/getkin/kin-openapi/openapi3"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

var openapi = sync.OnceValues(func() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromFile("../../docs/openapi.yaml")
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(loader.Context)
})

func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// conforms checks a request that was accepted, and every answer, against the document.
func conforms(t *testing.T, op, body string, resp events.APIGatewayV2HTTPResponse) {
	t.Helper()
	doc := document(t)
	method, path := wire.Op(op).Route()
	operation := doc.Paths.Find(path).GetOperation(method)
	if operation.RequestBody != nil {
		schema := operation.RequestBody.Value.Content.Get("application/json").Schema.Value
		err := schema.VisitJSON(decoded(t, body))
		if (err == nil) != (resp.StatusCode != 400) {
			t.Errorf("the document says %v of %s, the API answers %d", err, body, resp.StatusCode)
		}
	}
	answer := operation.Responses.Status(resp.StatusCode)
	if answer == nil {
		t.Fatalf("the document has no %d of %s", resp.StatusCode, op)
	}
	media := answer.Value.Content.Get(resp.Headers["Content-Type"])
	if media == nil {
		t.Fatalf("%d %s is not in the document", resp.StatusCode, resp.Headers["Content-Type"])
	}
	if err := media.Schema.Value.VisitJSON(decoded(t, resp.Body)); err != nil {
		t.Errorf("answer %s: %v", resp.Body, err)
	}
}

func decoded(t *testing.T, s string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

type (
	httpAcquire   struct{ wire.AcquireRequest }
	directAcquire struct {
		Name string `json:"name"`
		wire.AcquireRequest
	}
	httpAcquireSet struct{ wire.AcquireSetRequest }
)

// overHTTPOnly reports whether a field of an acquire is left out of its schema for HTTP: a task waits with a token in direct invocations only.
func overHTTPOnly(v any, field string) bool {
	_, ofLock := v.(httpAcquire)
	_, ofSet := v.(httpAcquireSet)
	return (ofLock || ofSet) && (field == "TaskToken" || field == "Callback")
}

// The document has exactly the fields of package wire. Fields that are always present are required.
func TestDocumentHasTheWiresFields(t *testing.T) {
	doc := document(t)
	for name, v := range map[string]any{
		"AcquireRequest": httpAcquire{}, "DirectAcquireRequest": directAcquire{}, "Notify": wire.Notify{}, "Notification": wire.Notification{}, "RenewRequest": wire.RenewRequest{}, "ReleaseRequest": wire.ReleaseRequest{},
		"ForceReleaseRequest": wire.ForceReleaseRequest{}, "Lease": wire.Lease{}, "Released": wire.Released{},
		"ForceReleased": wire.ForceReleased{}, "Holder": wire.Holder{}, "Status": wire.Status{}, "List": wire.List{},
		"AcquireSetRequest": httpAcquireSet{}, "DirectAcquireSetRequest": wire.AcquireSetRequest{}, "SetLock": wire.SetLock{}, "RenewSetRequest": wire.RenewSetRequest{}, "ReleaseSetRequest": wire.ReleaseSetRequest{},
		"SetLease": wire.SetLease{}, "SetMember": wire.SetMember{}, "SetReleased": wire.SetReleased{},
		"Problem": wire.Problem{}, "ProblemHolder": wire.ProblemHolder{},
		"RuleRequest": wire.RuleRequest{}, "FreezeRequest": wire.FreezeRequest{}, "KeepRequest": wire.KeepRequest{}, "Keeping": wire.Keeping{}, "History": wire.History{}, "HistoryEntry": wire.HistoryEntry{}, "Freeze": wire.Freeze{}, "LimitsRequest": wire.LimitsRequest{}, "Limits": wire.Limits{}, "Rule": wire.Rule{}, "Rules": wire.Rules{},
	} {
		schema := doc.Components.Schemas[name].Value
		var fields, required []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if f.Anonymous || overHTTPOnly(v, f.Name) {
				continue
			}
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, field)
			if options == "" {
				required = append(required, field)
			}
		}
		slices.Sort(fields)
		slices.Sort(required)
		var documented []string
		for p := range schema.Properties {
			documented = append(documented, p)
		}
		slices.Sort(documented)
		must := slices.Sorted(slices.Values(schema.Required))
		if !slices.Equal(fields, documented) || !slices.Equal(required, must) {
			t.Errorf("%s: the wire has %v, always %v; the document %v, required %v", name, fields, required, documented, must)
		}
	}
}

// The document has exactly the limits of package wire.
func TestDocumentHasTheWiresLimits(t *testing.T) {
	schemas := document(t).Components.Schemas
	get := func(path string) *openapi3.Schema {
		name, property, _ := strings.Cut(path, ".")
		s := schemas[name].Value
		if property != "" {
			s = s.Properties[property].Value
		}
		return s
	}
	length := func(path string, least, most uint64) {
		if s := get(path); s.MinLength != least || s.MaxLength == nil || *s.MaxLength != most {
			t.Errorf("%s: %d to %v, want %d to %d", path, s.MinLength, s.MaxLength, least, most)
		}
	}
	value := func(path string, least, most float64) {
		if s := get(path); s.Min == nil || s.Max == nil || *s.Min != least || *s.Max != most {
			t.Errorf("%s: %v to %v, want %v to %v", path, s.Min, s.Max, least, most)
		}
	}
	length("Name", 1, wire.MaxName)
	length("LeaseSecret", wire.MinLease, wire.MaxLease)
	length("AcquireRequest.owner", 0, wire.MaxOwner)
	length("ForceReleaseRequest.reason", 1, wire.MaxReason)
	length("FreezeRequest.reason", 1, wire.MaxReason)
	length("RulePrefix", 1, wire.MaxName)
	length("Notify.queue", 1, wire.MaxQueueURL)
	length("Notify.id", 1, wire.MaxNotifyID)
	value("TTL", float64(wire.MinTTL.Milliseconds()), float64(wire.MaxTTL.Milliseconds()))
	value("AcquireRequest.capacity", 1, wire.MaxCapacity)
	value("AcquireRequest.permits", 1, wire.MaxCapacity)
	value("LimitsRequest.capacity", 1, wire.MaxCapacity)
	value("LimitsRequest.max_ttl_ms", float64(wire.MinTTL.Milliseconds()), float64(wire.MaxTTL.Milliseconds()))
	value("LimitsRequest.max_hold_ms", float64(wire.MinHoldLimit.Milliseconds()), float64(wire.MaxHoldLimit.Milliseconds()))
	value("LimitsRequest.max_queue", 1, wire.MaxQueue)
	value("LimitsRequest.max_per_principal", 1, wire.MaxCapacity)
	value("Fence", 1, 1<<53-1)
	if d := get("AcquireRequest.ttl_ms").Default; d != float64(wire.DefaultTTL.Milliseconds()) {
		t.Errorf("default TTL %v", d)
	}
	limit := document(t).Paths.Find("/v1/locks").Get.Parameters.GetByInAndName("query", "limit").Schema.Value
	if *limit.Max != wire.MaxPage || limit.Default != float64(wire.DefaultPage) {
		t.Errorf("limit %v, default %v", *limit.Max, limit.Default)
	}
	var codes []any
	for _, c := range wire.Codes() {
		codes = append(codes, string(c))
	}
	if got := get("Problem.code").Enum; !reflect.DeepEqual(got, codes) {
		t.Errorf("codes %v, the wire has %v", got, codes)
	}
}
