package holdfast_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-lock/holdfast"

// mayImport says which of the project's packages each may import; a package that is not here may import none, and must
// be added. Mains and boot, which put parts together, may import everything internal.
var mayImport = map[string][]string{
	"internal/lock":      {},
	"internal/wire":      {},
	"internal/dynamo":    {"internal/lock", "internal/reach"},
	"internal/history":   {"internal/lock"},
	"internal/chance":    {},
	"internal/sim":       {"internal/api", "internal/chance", "internal/history", "internal/lock", "internal/stream", "internal/wire", "events", "lockclient"},
	"internal/storetest": {"internal/lock", "internal/history"},
	"internal/api":       {"internal/lock", "internal/wire", "internal/emf", "internal/scope"},
	"internal/stream":    {"internal/lock", "internal/wire", "internal/emf", "internal/chance", "events"},
	"internal/duration":  {},

	"internal/eventbridge": {"internal/stream", "events"},
	"internal/sqs":         {"internal/stream"},
	"internal/tasks":       {"internal/lock", "internal/stream"},
	"internal/durable":     {"internal/lock", "internal/stream"},
	"internal/poller":      {"internal/dynamo", "internal/stream"},
	"internal/redrive":     {"internal/dynamo", "internal/lock", "internal/poller", "internal/stream", "internal/wire"},
	"internal/awsenv":      {"internal/reach"},
	"internal/awstest":     {},

	"internal/local":    {"internal/api", "internal/lock", "internal/loopback", "internal/stream", "internal/ui", "internal/wire", "events"},
	"internal/ui":       {"internal/wire"},
	"internal/loopback": {},
	"internal/secrets":  {},
	"internal/emf":      {},
	"internal/meter":    {},
	"internal/scope":    {"internal/wire"},
	"events":            {},
	"action":            {}, // tests alone

	"internal/reach":       {},
	"internal/reach/relay": {"internal/loopback"},
	"internal/supervise":   {},
	"internal/wirefault":   {"internal/loopback", "internal/wire"},

	"lockclient":          {"internal/wire", "internal/reach", "internal/chance"},
	"lockclient/invoke":   {"lockclient", "internal/wire", "internal/reach"},
	"lockclient/notify":   {"lockclient", "internal/reach", "internal/wire"},
	"lockclient/fencing":  {},
	"lockclient/direct":   {"lockclient", "internal/api", "internal/dynamo", "internal/lock", "internal/reach", "internal/wire"},
	"lockclient/locktest": {"lockclient", "internal/api", "internal/lock", "internal/wire"},
}

// onlyStdlib are the packages that import nothing but the standard library.
var onlyStdlib = []string{"internal/lock", "internal/wire", "internal/emf", "internal/scope", "events"}

// publicLeaf is the one public package that internal packages may import: the schema of the events, which those who send events
// share with those who receive them. It is a leaf: it imports nothing but the standard library.
const publicLeaf = "events"

// simulation is the internal package that is above the public client: it runs the client against everything else, and only its own test
// imports it.
const simulation = "internal/sim"

func assembles(pkg string) bool {
	return strings.HasPrefix(pkg, "cmd/") || strings.HasPrefix(pkg, "functions/") || strings.HasPrefix(pkg, "scripts/") || strings.HasPrefix(pkg, "examples/") || strings.HasPrefix(pkg, "clients/")
}

// Imports point inward.
func TestImportDirections(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Standard", "-deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	type pkg struct {
		ImportPath string
		Imports    []string
		Standard   bool
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	for path, p := range all {
		name, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			continue
		}
		allowed, known := mayImport[name]
		if !known && !assembles(name) {
			t.Errorf("%s is not in mayImport: say what it may import", name)
		}
		if slices.Contains(p.Imports, module+"/"+simulation) {
			t.Errorf("%s imports %s, which is for its own test", name, simulation)
		}
		for _, i := range p.Imports {
			imported, ours := strings.CutPrefix(i, module+"/")
			switch {
			case ours && strings.HasPrefix(name, "internal/") && name != simulation && !strings.HasPrefix(imported, "internal/") && imported != publicLeaf:
				t.Errorf("%s imports %s, which points upward: an internal package imports no public one but %s", name, imported, publicLeaf)
			case ours && !assembles(name) && !slices.Contains(allowed, imported):
				t.Errorf("%s imports %s", name, imported)
			case !ours && slices.Contains(onlyStdlib, name) && !all[i].Standard:
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
}

// mayLink says which service clients of the AWS SDK each program may link. A client adds about a millisecond and 0.3 MB to a
// function's start, so a function links only those that it calls.
var mayLink = map[string][]string{
	"./functions/acquire":      {"dynamodb", "sfn", "sqs"}, // it may grant a lock to others: to waiters before it,
	"./functions/renew":        {"dynamodb"},
	"./functions/release":      {"dynamodb", "sfn", "sqs"},
	"./functions/status":       {"dynamodb"},
	"./functions/forcerelease": {"dynamodb", "sfn", "sqs"},
	"./functions/stream":       {"dynamodb", "eventbridge", "lambda", "sfn", "sqs"},
	"./functions/expire":       {"dynamodb", "eventbridge", "lambda", "sfn", "sqs"}, // it does the stream function's work that was deferred
	"./functions/redrive":      {"dynamodb", "dynamodbstreams", "eventbridge", "lambda", "sfn", "sqs"},
	"./lockclient":             {},
	"./lockclient/invoke":      {"lambda"},
	"./lockclient/notify":      {"sqs"},
	"./lockclient/fencing":     {"dynamodb"},
	"./internal/stream":        {},
	"./internal/local":         {},
	"./scripts/run":            {},
	// With the SDK's config package, which signs in with SSO and STS, for what people run.
	"./lockclient/direct": {"dynamodb", "signin", "sso", "ssooidc", "sts"},
	"./cmd/holdfast":      {"dynamodb", "dynamodbstreams", "lambda", "signin", "sqs", "sso", "ssooidc", "sts"},
}

// A program links the SDK's clients that mayLink names, all of them and no other.
func TestClientsOfPrograms(t *testing.T) {
	for program, want := range mayLink {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", program).Output()
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for path := range strings.FieldsSeq(string(out)) {
			service, ok := strings.CutPrefix(path, "github.com/aws/aws-sdk-go-v2/service/")
			if ok && !strings.Contains(service, "/") {
				got = append(got, service)
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s links the clients %v, want %v", program, got, want)
		}
	}
}
