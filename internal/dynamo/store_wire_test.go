package dynamo_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

func rowJSON(name string, more ...string) string {
	return fmt.Sprintf(`{"pk":{"S":%q},"sk":{"S":"lock"},"rev":{"N":"3"}%s}`, name, strings.Join(more, ""))
}

func scanJSON(last string, items ...string) string {
	if last != "" {
		last = fmt.Sprintf(`,"LastEvaluatedKey":{"pk":{"S":%q},"sk":{"S":"lock"}}`, last)
	}
	return `{"Items":[` + strings.Join(items, ",") + `]` + last + `}`
}

// cursorOf is the cursor of a list that continues after a key.
func cursorOf(pk, sk string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(pk + "\x00" + sk))
}

// A page of a list ends at its limit, at so many bytes, or after ten scans, and says where the next one begins.
func TestListPages(t *testing.T) {
	long := func(name string) string {
		return rowJSON(name, `,"holders":{"M":{"l":{"M":{"metadata":{"S":"`+strings.Repeat("m", lock.MaxPageBytes)+`"}}}}}`)
	}
	scans := func(n int) (list []string) {
		for range n {
			list = append(list, scanJSON("z"))
		}
		return list
	}
	for name, test := range map[string]struct {
		answers []string
		limit   int
		names   []string
		next    string
		scans   int
	}{
		"all":                         {[]string{scanJSON("", rowJSON("a"), rowJSON("b"))}, 3, []string{"a", "b"}, "", 1},
		"exactly the limit":           {[]string{scanJSON("", rowJSON("a"), rowJSON("b"))}, 2, []string{"a", "b"}, "", 1},
		"more than the limit":         {[]string{scanJSON("", rowJSON("a"), rowJSON("b"), rowJSON("c"))}, 2, []string{"a", "b"}, cursorOf("b", "lock"), 1},
		"the limit, and more to scan": {[]string{scanJSON("q", rowJSON("a"), rowJSON("b"))}, 2, []string{"a", "b"}, cursorOf("q", "lock"), 1},
		"over two scans":              {[]string{scanJSON("a", rowJSON("a")), scanJSON("", rowJSON("b"))}, 9, []string{"a", "b"}, "", 2},
		"an empty scan":               {[]string{scanJSON("a"), scanJSON("", rowJSON("b"))}, 9, []string{"b"}, "", 2},
		"nothing in ten scans":        {scans(11), 9, nil, cursorOf("z", "lock"), 10},
		"many bytes":                  {[]string{scanJSON("", long("a"), rowJSON("b"))}, 9, []string{"a"}, cursorOf("a", "lock"), 1},
	} {
		s, wire := scripted(t, test.answers...)
		page, err := s.List(t.Context(), lock.ListQuery{Limit: test.limit})
		var names []string
		for _, e := range page.Entries {
			names = append(names, e.Name)
		}
		if err != nil || !reflect.DeepEqual(names, test.names) || page.Next != test.next || len(wire.asked) != test.scans {
			t.Errorf("%s: %v, next %q after %d scans, %v", name, names, page.Next, len(wire.asked), err)
		}
		for i, r := range wire.asked {
			if (r.at("ExclusiveStartKey") != nil) != (i > 0) || r.at("ConsistentRead") != true || r.at("Limit") != 1000.0 {
				t.Errorf("%s: scan %d is %v", name, i, r.body)
			}
		}
	}
}

// A list filters by prefix and expiry, and continues where the last page ended.
func TestListAsks(t *testing.T) {
	for _, test := range []struct {
		query  lock.ListQuery
		filter string
		values int
	}{
		{lock.ListQuery{}, "#sk = :lock", 1},
		{lock.ListQuery{Prefix: "p"}, "#sk = :lock AND begins_with(#pk, :prefix)", 2},
		{lock.ListQuery{HeldAfter: 7}, "#sk = :lock AND (#free_at > :held_after OR #waiting > :none)", 3},
		{lock.ListQuery{Prefix: "p", HeldAfter: 7, Cursor: cursorOf("k", "lock")}, "#sk = :lock AND begins_with(#pk, :prefix) AND (#free_at > :held_after OR #waiting > :none)", 4},
	} {
		s, wire := scripted(t)
		if _, err := s.List(t.Context(), test.query); err != nil {
			t.Fatal(err)
		}
		r := wire.asked[0]
		values, _ := r.at("ExpressionAttributeValues").(map[string]any)
		start := r.at("ExclusiveStartKey", "pk", "S")
		if r.at("FilterExpression") != test.filter || len(values) != test.values || (start == "k") != (test.query.Cursor != "") {
			t.Errorf("%+v: asked %v", test.query, r.body)
		}
	}
}

// A cursor is accepted if List can have returned it: for any item, and no longer than a key.
func TestListCursors(t *testing.T) {
	longest := strings.Repeat("k", 1024)
	for cursor, good := range map[string]bool{
		cursorOf("a", "lock"): true, cursorOf(longest, longest): true, cursorOf("", "a:b"): true,
		"!": false, cursorOf("", ""): false, cursorOf("", longest+"k"): false, cursorOf("a", ""): false, cursorOf(longest+"k", "lock"): false, cursorOf("a", longest+"k"): false,
		cursorOf("\xff", "lock"): false, base64.RawURLEncoding.EncodeToString([]byte("a")): false,
	} {
		s, wire := scripted(t)
		_, err := s.List(t.Context(), lock.ListQuery{Limit: 1, Cursor: cursor})
		if good && err != nil || !good && (!errors.Is(err, lock.ErrBadCursor) || len(wire.asked) > 0) {
			t.Errorf("cursor of %d bytes: %v after %d requests", len(cursor), err, len(wire.asked))
		}
	}
}

// An item that is no lock's is an error with its name, for every call that reads items.
func TestItemsThatAreNoLocks(t *testing.T) {
	for _, bad := range []string{
		rowJSON("a", `,"fence":{"S":"1"}`), rowJSON("a", `,"by":{"N":"1"}`), rowJSON("a", `,"holders":{"S":"x"}`), rowJSON("a", `,"holders":{"M":{"l":{"S":"x"}}}`),
		rowJSON("a", `,"holders":{"M":{"l":{"M":{"fen":{"S":"x"}}}}}`), `{"pk":{"S":"a"},"rev":{"N":"0"}}`, `{"pk":{"S":"a"}}`, rowJSON("a", `,"ttl":{"N":"1.5"}`),
	} {
		for call, body := range map[string]string{
			"Get": `{"Item":` + bad + `}`, "Apply": `{"Attributes":` + bad + `}`, "Apply refused": `400 {"__type":"ConditionalCheckFailedException","Item":` + bad + `}`, "List": scanJSON("", bad),
		} {
			s, _ := scripted(t, body)
			var err error
			switch call {
			case "Get":
				_, err = s.Get(t.Context(), "a")
			case "List":
				_, err = s.List(t.Context(), lock.ListQuery{Limit: 1})
			default:
				_, err = s.Apply(t.Context(), "a", lock.Command{Effect: lock.End{Key: "l"}})
			}
			if !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), `lock "a" in table "locks" is not a lock's`) {
				t.Errorf("%s of %s: %v", call, bad, err)
			}
		}
	}
	s, _ := scripted(t, `{"Items":[{"ticket":{"S":"x"}}]}`)
	if _, err := s.Waiters(t.Context(), "a", 1); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("waiter: %v", err)
	}
	s, _ = scripted(t, `{"Items":[{"want":{"M":{"per":{"S":"x"}}}}]}`)
	if _, err := s.Waiters(t.Context(), "a", 1); !errors.Is(err, lock.ErrMisconfigured) {
		t.Errorf("waiter's want: %v", err)
	}
}

// Every reply contains the clock's offset.
func TestRepliesTellTheClock(t *testing.T) {
	for call, do := range map[string]func(*dynamo.Store) (time.Duration, error){
		"Get": func(s *dynamo.Store) (time.Duration, error) { r, err := s.Get(t.Context(), "a"); return r.Offset, err },
		"Apply": func(s *dynamo.Store) (time.Duration, error) {
			r, err := s.Apply(t.Context(), "a", lock.Command{Effect: lock.End{Key: "l"}})
			return r.Offset, err
		},
	} {
		s, wire := scripted(t)
		wire.date = func() time.Time { return time.Now().Add(-time.Minute) }
		if off, err := do(s); err != nil || off < 58*time.Second || off > 61*time.Second {
			t.Errorf("%s: %v, %v", call, off, err)
		}
	}
}

const (
	rightTable = `{"Table":{"TableStatus":"ACTIVE","KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],` +
		`"AttributeDefinitions":[{"AttributeName":"pk","AttributeType":"S"},{"AttributeName":"sk","AttributeType":"S"},{"AttributeName":"n","AttributeType":"N"}],` +
		`"GlobalSecondaryIndexes":[{"IndexName":"names","IndexStatus":"ACTIVE","KeySchema":[{"AttributeName":"idx","KeyType":"HASH"},{"AttributeName":"pk","KeyType":"RANGE"}]}],` +
		`"StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}}}`
	ttlOn  = `{"TimeToLiveDescription":{"TimeToLiveStatus":"ENABLED","AttributeName":"ttl"}}`
	ttlOff = `{"TimeToLiveDescription":{"TimeToLiveStatus":"DISABLED"}}`
)

// CreateTable continues where an earlier try ended, and changes nothing of a table of another shape.
func TestCreateTableSteps(t *testing.T) {
	const exists = `400 {"__type":"ResourceInUseException"}`
	const made = "CreateTable DescribeTable DescribeTimeToLive "
	change := func(from, to string) string { return strings.Replace(rightTable, from, to, 1) }
	for name, test := range map[string]struct {
		answers []string
		actions string
		says    string
	}{
		"new":                      {[]string{"{}", rightTable, ttlOff}, made + "UpdateTimeToLive UpdateContinuousBackups", ""},
		"new, nothing said of TTL": {[]string{"{}", rightTable, "{}"}, made + "UpdateTimeToLive UpdateContinuousBackups", ""},
		"there":                    {[]string{exists, rightTable, ttlOn}, made + "UpdateContinuousBackups", ""},
		"no backups here":          {[]string{exists, rightTable, ttlOn, `400 {"__type":"UnknownOperationException"}`}, made + "UpdateContinuousBackups", ""},
		"backups refused":          {[]string{exists, rightTable, ttlOn, `400 {"__type":"AccessDeniedException"}`}, made + "UpdateContinuousBackups", "dynamodb:UpdateContinuousBackups"},
		"TTL refused":              {[]string{exists, rightTable, ttlOff, `400 {"__type":"AccessDeniedException"}`}, made + "UpdateTimeToLive", "dynamodb:UpdateTimeToLive"},
		"refused":                  {[]string{`400 {"__type":"AccessDeniedException"}`}, "CreateTable", "dynamodb:CreateTable"},
		"looking refused":          {[]string{exists, `400 {"__type":"AccessDeniedException"}`}, "CreateTable DescribeTable", "dynamodb:DescribeTable"},
		"looking at TTL refused":   {[]string{exists, rightTable, `400 {"__type":"AccessDeniedException"}`}, strings.TrimSpace(made), "dynamodb:DescribeTimeToLive"},
		"other keys":               {[]string{exists, change(`"sk","KeyType"`, `"id","KeyType"`), ttlOff}, strings.TrimSpace(made), "its keys are [pk HASH id RANGE]"},
		"a key of numbers":         {[]string{exists, change(`"sk","AttributeType":"S"`, `"sk","AttributeType":"N"`), ttlOff}, strings.TrimSpace(made), "its key sk is of type N"},
		"no stream":                {[]string{exists, change(`"StreamEnabled":true`, `"StreamEnabled":false`), ttlOff}, strings.TrimSpace(made), "it has no stream"},
		"nothing said of a stream": {[]string{exists, change(`"StreamSpecification"`, `"Other"`), ttlOff}, strings.TrimSpace(made), "it has no stream"},
		"a stream of keys":         {[]string{exists, change("NEW_AND_OLD_IMAGES", "KEYS_ONLY"), ttlOff}, strings.TrimSpace(made), "its stream is of KEYS_ONLY"},
		"no index":                 {[]string{exists, change("names", "other"), ttlOn}, made + "UpdateTable UpdateContinuousBackups", ""},
		"an index is refused":      {[]string{exists, change("names", "other"), ttlOn, `400 {"__type":"AccessDeniedException"}`}, made + "UpdateTable", "dynamodb:UpdateTable"},
		"another index":            {[]string{exists, change(`"idx","KeyType"`, `"id","KeyType"`), ttlOn}, strings.TrimSpace(made), "its index names has other keys"},
		"TTL on another":           {[]string{exists, rightTable, strings.Replace(ttlOn, `"ttl"`, `"expires"`, 1)}, strings.TrimSpace(made), `its native TTL is on "expires"`},
		"TTL being switched on":    {[]string{exists, rightTable, strings.Replace(ttlOn, "ENABLED", "ENABLING", 1)}, made + "UpdateContinuousBackups", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, wire := scripted(t, test.answers...)
			err := s.CreateTable(t.Context())
			if (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) || wire.actions() != test.actions {
				t.Errorf("%s: %v after %s", name, err, wire.actions())
			}
			if r := wire.asked[0]; r.at("DeletionProtectionEnabled") != true || r.at("StreamSpecification", "StreamEnabled") != true || r.at("BillingMode") != "PAY_PER_REQUEST" {
				t.Errorf("%s: asked %v", name, r.body)
			}
			for _, r := range wire.asked[1:] {
				if r.action == "UpdateTimeToLive" && (r.at("TimeToLiveSpecification", "Enabled") != true || r.at("TimeToLiveSpecification", "AttributeName") != "ttl") ||
					r.action == "UpdateContinuousBackups" && r.at("PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled") != true {
					t.Errorf("%s: asked %v", name, r.body)
				}
			}
		})
	}
}

// Inspect lists the differences from a lock table, and how to fix them.
func TestInspect(t *testing.T) {
	for name, test := range map[string]struct {
		table, ttl string
		problems   []string
	}{
		"right":      {rightTable, ttlOn, nil},
		"TTL off":    {rightTable, ttlOff, []string{"native TTL is off"}},
		"no index":   {strings.Replace(rightTable, "names", "other", 1), ttlOn, []string{"no index names"}},
		"no stream":  {strings.Replace(rightTable, `"StreamEnabled":true`, `"StreamEnabled":false`, 1), ttlOn, []string{"no stream"}},
		"everything": {strings.Replace(strings.Replace(rightTable, `"StreamEnabled":true`, `"StreamEnabled":false`, 1), `"sk","KeyType"`, `"id","KeyType"`, 1), ttlOff, []string{"keys", "no stream", "native TTL"}},
	} {
		s, _ := scripted(t, test.table, test.ttl)
		problems, err := s.Inspect(t.Context())
		ok := err == nil && len(problems) == len(test.problems)
		for i := range min(len(problems), len(test.problems)) {
			ok = ok && strings.Contains(problems[i].What, test.problems[i]) && problems[i].Fix != ""
		}
		if !ok {
			t.Errorf("%s: %+v, %v", name, problems, err)
		}
	}
	s, _ := scripted(t, rightTable, `400 {"__type":"AccessDeniedException"}`)
	if _, err := s.Inspect(t.Context()); !errors.Is(err, lock.ErrMisconfigured) || !strings.Contains(err.Error(), "DescribeTimeToLive") {
		t.Errorf("TTL refused: %v", err)
	}
}

// Names and ARNs of tables, at the limits of their length.
func TestValidTable(t *testing.T) {
	const arn = "arn:aws-us-gov:dynamodb:us-gov-west-1:111122223333:table/"
	for text, want := range map[string]bool{
		"abc": true, "ab": false, "": false, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false, "A.b_c-9": true, "a/b": false, "a b c": false, "äbc": false,
		arn + "abc": true, arn + "ab": false, arn + strings.Repeat("a", 255): true, arn + strings.Repeat("a", 256): false, arn + "abc/index/x": false,
		"arn:aws:sqs:eu-west-1:111122223333:table/abc": false, "arn:abc": false, "xarn:aws:dynamodb:eu-west-1:1:table/abc": false, "abc\n": false,
	} {
		if got := dynamo.ValidTable(text); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
