package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// commandLines has a command line for every command.
var commandLines = map[string][]string{
	"exec":          {"exec", "a", "--", "true"},
	"acquire":       {"acquire", "a"},
	"renew":         {"renew", "a"},
	"release":       {"release", "a"},
	"status":        {"status", "a"},
	"ls":            {"ls"},
	"watch":         {"watch", "a"},
	"events":        {"events"},
	"ui":            {"ui"},
	"force-release": {"force-release", "a", "--reason=r"},
	"freeze":        {"freeze", "a:", "--until=1h", "--reason=r"},
	"unfreeze":      {"unfreeze", "a:"},
	"limit":         {"limit", "a:", "--capacity=2"},
	"unlimit":       {"unlimit", "a:"},
	"rules":         {"rules"},
	"keep-history":  {"keep-history", "a:"},
	"history":       {"history", "a"},
	"doctor":        {"doctor"},
	"dev":           {"dev", "--listen=127.0.0.1:0"},
	"init":          {"init"},
	"name":          {"name", "a/b"},
	"redrive":       {"redrive"},
	"sweep":         {"sweep"},
	"repair":        {"repair", "a", "--reason=r"},
	"version":       {"version"},
	"completion":    {"completion"},
	"guard":         {"guard", "3"},
}

// with puts flags into a command line, before or after the command's name.
func with(line []string, before bool, flags ...string) []string {
	if before {
		return append(slices.Clone(flags), line...)
	}
	at := slices.Index(line, "--")
	if at < 0 {
		at = len(line)
	}
	return slices.Insert(slices.Clone(line), at, flags...)
}

// ways are the ways to give a setting.
var ways = map[string]func(t *testing.T, line []string, settings map[string]string) []string{
	"before": func(_ *testing.T, line []string, settings map[string]string) []string {
		return with(line, true, asFlags(settings)...)
	},
	"after": func(_ *testing.T, line []string, settings map[string]string) []string {
		return with(line, false, asFlags(settings)...)
	},
	"environment": func(t *testing.T, line []string, settings map[string]string) []string {
		for name, value := range settings {
			t.Setenv("HOLDFAST_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")), value)
		}
		return line
	},
}

func asFlags(settings map[string]string) (flags []string) {
	for name, value := range settings {
		flags = append(flags, "--"+name+"="+value)
	}
	return flags
}

// Every command takes every setting as a flag before or after its name, and from the environment.
func TestEveryCommandTakesEverySetting(t *testing.T) {
	settings := map[string]string{
		"endpoint": "http://127.0.0.1:1", "table": "t", "dynamodb-endpoint": "http://127.0.0.1:2", "region": "eu-west-1", "sign": "always",
		"timeout": "1d", "owner": "me", "json": "true", "functions": "acquire=a",
	}
	want := connection{
		Endpoint: "http://127.0.0.1:1", Table: "t", DynamodbEndpoint: "http://127.0.0.1:2", Region: "eu-west-1", Sign: "always",
		Timeout: 24 * time.Hour, Owner: "me", Functions: "acquire=a",
	}
	newTestParser := func(c *cli) *kong.Kong { return newParser(c, &streams{out: io.Discard, err: io.Discard}) }
	model := newTestParser(new(cli)).Model
	for _, flag := range model.Flags {
		if _, ok := settings[flag.Name]; !ok && flag.Name != "help" && flag.Name != "version" {
			t.Errorf("the test does not know the setting %s", flag.Name)
		}
	}
	for _, command := range model.Children {
		for way, give := range ways {
			t.Run(command.Name+"/"+way, func(t *testing.T) {
				line := commandLines[command.Name]
				if line == nil {
					t.Fatal("the test does not know the command")
				}
				line = give(t, line, settings)
				var c cli
				_, err := newTestParser(&c).Parse(line)
				if err != nil {
					t.Fatal(err)
				}
				got := c.connection
				got.given = nil
				if got.Endpoint != want.Endpoint || got.Table != want.Table || got.DynamodbEndpoint != want.DynamodbEndpoint ||
					got.Region != want.Region || got.Sign != want.Sign || got.Functions != want.Functions || got.Timeout != want.Timeout || got.Owner != want.Owner || !c.JSON {
					t.Errorf("settings %+v, json %v", got, c.JSON)
				}
			})
		}
	}
}

const everyFunction = "acquire=f-acquire:live,renew=f-renew:live,release=f-release:live,force-release=f-force:live,status=f-status:live,rules=f-rules:live"

// Every command that uses a table or a coordinator sends its first request to the one that the settings name.
func TestSettingsAreHonoured(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	onTables := []string{"exec", "acquire", "renew", "release", "status", "ls", "watch", "force-release", "doctor", "repair", "init", "dev"}
	onServices := onTables[:len(onTables)-3]
	for _, target := range []struct {
		commands []string
		settings map[string]string
		scope    string // of the signature
	}{
		{onTables, map[string]string{"dynamodb-endpoint": "URL", "table": "my-table", "region": "eu-north-1"}, "/eu-north-1/dynamodb/"},
		{onServices, map[string]string{"endpoint": "URL", "sign": "always", "region": "eu-north-1"}, "/eu-north-1/execute-api/"},
		{onServices, map[string]string{"functions": everyFunction, "region": "eu-north-1"}, "/eu-north-1/lambda/"},
	} {
		for _, command := range target.commands {
			for way, give := range ways {
				t.Run(command+"/"+way+target.scope, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					asked := make(chan *http.Request, 1)
					fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						r.Body = io.NopCloser(bytes.NewReader(body))
						select {
						case asked <- r:
							cancel() // the first request is enough
							<-r.Context().Done()
						default:
							_, _ = io.WriteString(w, "{}")
						}
					}))
					defer fake.Close()
					t.Setenv("AWS_ENDPOINT_URL_LAMBDA", fake.URL)
					settings := map[string]string{"timeout": "30s"}
					for name, value := range target.settings {
						settings[name] = strings.ReplaceAll(value, "URL", fake.URL)
					}
					call(ctx, give(t, commandLines[command], settings)...)
					select {
					case r := <-asked:
						if _, ok := settings["functions"]; ok && !strings.Contains(r.URL.Path, "/functions/f-") {
							t.Errorf("invoked %s", r.URL.Path)
						}
						if !strings.Contains(r.Header.Get("Authorization"), target.scope) {
							t.Errorf("signed %s", r.Header.Get("Authorization"))
						}
						var body struct{ TableName string }
						_ = json.NewDecoder(r.Body).Decode(&body)
						if _, table := settings["table"]; table && body.TableName != "my-table" && !strings.Contains(r.Header.Get("X-Amz-Target"), "ListTables") {
							t.Errorf("%s of table %q", r.Header.Get("X-Amz-Target"), body.TableName)
						}
					default:
						t.Error("nothing was sent")
					}
				})
			}
		}
	}
}

// A flag replaces an environment variable that names another coordinator; two flags, or two variables, are refused.
func TestFlagsReplaceTheEnvironment(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_TABLE", "locks")
	t.Setenv("HOLDFAST_ENDPOINT", "")
	if code, out, errs := call(t.Context(), "status", "a", "--endpoint", s.url); code != 0 {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	if code, _, errs := call(t.Context(), "status", "a"); code != exitFailed || !strings.Contains(errs, "give one") {
		t.Errorf("%d: %s", code, errs)
	}
	if code, _, errs := call(t.Context(), "status", "a", "--table", "others", "--dynamodb-endpoint", "x"); code != exitFailed || !strings.Contains(errs, "--dynamodb-endpoint is") {
		t.Errorf("%d: %s", code, errs)
	}
	t.Setenv("HOLDFAST_TABLE", "")
	t.Setenv("HOLDFAST_FUNCTIONS", everyFunction)
	if code, _, errs := call(t.Context(), "status", "a"); code != exitFailed || !strings.Contains(errs, "give one") {
		t.Errorf("%d: %s", code, errs)
	}
	if code, out, errs := call(t.Context(), "status", "a", "--endpoint", s.url); code != 0 {
		t.Errorf("%d: %s%s", code, out, errs)
	}
	if code, _, errs := call(t.Context(), "status", "a", "--functions", "acquire"); code != exitFailed || !strings.Contains(errs, `--functions: "acquire" names no function`) {
		t.Errorf("%d: %s", code, errs)
	}
	if code, _, errs := call(t.Context(), "status", "a", "--functions", "acquire=x", "--region", "eu-west-1"); code != exitFailed || !strings.Contains(errs, "HOLDFAST_FUNCTIONS") {
		t.Errorf("%d: %s", code, errs)
	}
	for _, command := range []string{"init", "dev"} { // the environment's endpoint is for the others
		if code, _, errs := call(t.Context(), with(commandLines[command], false, "--functions", "acquire=x")...); code != exitFailed || !strings.Contains(errs, "--functions means nothing") {
			t.Errorf("%s --functions: %d: %s", command, code, errs)
		}
		if code, _, errs := call(t.Context(), with(commandLines[command], false, "--endpoint", s.url)...); code != exitFailed || !strings.Contains(errs, "--dynamodb-endpoint") {
			t.Errorf("%s --endpoint: %d: %s", command, code, errs)
		}
	}
	t.Setenv("HOLDFAST_DYNAMODB_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	if code, _, errs := call(t.Context(), "init"); code != exitFailed || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("init: %d: %s", code, errs)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range []string{"", "--help", "status --help"} {
		if code, out, errs := call(t.Context(), strings.Fields(args)...); code != 0 || !strings.Contains(out, "Usage: holdfast") || errs != "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, out, errs)
		}
	}
	t.Setenv("HOLDFAST_TIMEOUT", "3s")
	if _, out, _ := call(t.Context(), "--help"); !strings.Contains(out, "$HOLDFAST_ENDPOINT") || !strings.Contains(out, "$HOLDFAST_TIMEOUT") {
		t.Errorf("the help names no environment variables: %s", out)
	}
	for _, args := range []string{"version", "--version"} {
		if code, out, errs := call(t.Context(), args); code != 0 || out != version()+"\n" || errs != "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, out, errs)
		}
	}
}

// Empty environment variables count as unset.
func TestEmptyVariables(t *testing.T) {
	parser := newParser(new(cli), &streams{out: io.Discard, err: io.Discard})
	_ = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				t.Setenv(name, "")
			}
		}
		return next(nil)
	})
	for command, line := range commandLines {
		var c cli
		if _, err := newParser(&c, &streams{out: io.Discard, err: io.Discard}).Parse(line); err != nil || c.Timeout != 5*time.Second || c.Sign != "auto" || c.JSON {
			t.Errorf("%s: %v: %+v", command, err, c.connection)
		}
	}
}

// A command that uses a table names the flag for its region.
func TestTableWithoutRegion(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "HOLDFAST_REGION", "HOLDFAST_ENDPOINT", "HOLDFAST_DYNAMODB_ENDPOINT"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	for _, args := range []string{"exec a -- true", "acquire a", "status a", "repair a --reason x", "doctor", "init"} {
		code, out, errs := call(t.Context(), append([]string{"--table=locks"}, strings.Fields(args)...)...)
		if code != exitFailed || strings.Count(out+errs, "give --region, or set AWS_REGION") != 1 {
			t.Errorf("%s: %d: %s%s", args, code, out, errs)
		}
	}
}

// A lease file may have any name that the system allows, and one below ~.
func TestLeaseFileNames(t *testing.T) {
	for text, want := range map[string]string{"/a/caf\xe9": "/a/caf\xe9", "~/a": kong.ExpandPath("~/a")} {
		var c cli
		if _, err := newParser(&c, &streams{out: io.Discard, err: io.Discard}).Parse([]string{"acquire", "a", "--lease-file", text}); err != nil || c.Acquire.LeaseFile != want {
			t.Errorf("%q: %q, %v", text, c.Acquire.LeaseFile, err)
		}
	}
}

// The error of an invalid command line names the command whose help explains it.
func TestUsageErrors(t *testing.T) {
	for args, says := range map[string]string{
		"bogus": "holdfast --help", "status": "holdfast status --help", "acquire a --ttl": "holdfast acquire --help",
	} {
		if code, _, errs := call(t.Context(), strings.Fields(args)...); code != exitFailed || !strings.Contains(errs, "; "+says+" tells more") {
			t.Errorf("%s: %d: %s", args, code, errs)
		}
	}
}

// Invalid values are refused before a request is sent, by the names of their flags.
func TestBadValues(t *testing.T) {
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	for args, says := range map[string]string{
		"acquire a --ttl 0":                            "--ttl is 0s; give a time above 0",
		"acquire a --ttl=-1s":                          "--ttl is -1s",
		"exec a --ttl 0 -- true":                       "--ttl is 0s",
		"renew a --ttl 0":                              "--ttl is 0s",
		"acquire a --wait 0":                           "--wait is 0s; give a time above 0, or --no-wait",
		"acquire a --wait=-1s":                         "--wait is -1s",
		"acquire a --wait 1s --no-wait":                "--wait and --no-wait",
		"acquire a --capacity 0":                       "--capacity is 0; give 1 to 100",
		"acquire a --permits 0":                        "--permits is 0",
		"acquire a --read --write":                     "--read and --write are both given",
		"exec a --read --permits 2 -- true":            "--read or --write is given with --capacity or --permits",
		"acquire a --capacity 1 --permits 2":           "--permits is 2; give 1 to the capacity, which is 1",
		"acquire a --capacity 1 --permits 2 --json":    "which is 1\",",
		"acquire a --permits 101":                      "--permits is 101; give 1 to the capacity",
		"acquire a --capacity 101":                     "--capacity is 101; give 1 to 100\n",
		"exec a --at-least 8d -- true":                 "--at-least is 192h0m0s; give a time up to 168h0m0s",
		"exec a --at-least=-1s -- true":                "--at-least is -1s; give a time above 0, or 0 for none",
		"status a --region= --endpoint http://host:80": "--region, or set AWS_REGION; for a coordinator that takes unsigned requests, such as holdfast dev on another machine, give --sign never",
		"status a --timeout 0":                         "--timeout is 0s",
		"acquire a --ttl soon":                         `"soon" is not a duration; give a number with a unit of ms, s, m, h or d`,
		"status a --sign x":                            "--sign",
		"status a --owner " + strings.Repeat("x", 257): "--owner is 257 bytes long; at most 256",
	} {
		code, _, errs := call(t.Context(), append(strings.Fields(args)[:1:1], append([]string{"--endpoint=http://127.0.0.1:1"}, strings.Fields(args)[1:]...)...)...)
		if code != exitFailed || !strings.Contains(errs, says) || strings.Contains(errs, "Options.") || strings.Contains(errs, "Config.") {
			t.Errorf("%s: exit code %d: %s", args, code, errs)
		}
	}
}

// The error for an endpoint without a scheme suggests the URL.
func TestEndpointWithoutAScheme(t *testing.T) {
	for endpoint, says := range map[string]string{
		"localhost:7420":                            "has no scheme; give http://localhost:7420",
		"127.0.0.1:7420":                            "has no scheme; give http://127.0.0.1:7420",
		"coordinator.internal:8080":                 "give http://coordinator.internal:8080",
		"abc.execute-api.eu-west-1.amazonaws.com":   "give https://abc.execute-api.eu-west-1.amazonaws.com",
		"abc.execute-api.eu-west-1.amazonaws.com/v": "give https://abc.execute-api.eu-west-1.amazonaws.com/v",
		"7420":                  "no host; give http://127.0.0.1:7420",
		":7420":                 "no host; give http://127.0.0.1:7420",
		"http:/127.0.0.1:7420":  "give a URL like",
		"https:/127.0.0.1:7420": "give a URL like",
		"7420a":                 "has no scheme; give https://7420a",
		"ftp://x":               "give a URL like",
		"http://":               "give a URL like",
	} {
		for _, command := range []string{"status a", "doctor"} {
			code, out, errs := call(t.Context(), append(strings.Fields(command), "--endpoint", endpoint)...)
			if code != exitFailed || !strings.Contains(out+errs, says) {
				t.Errorf("%s --endpoint %s: exit code %d: %s%s", command, endpoint, code, out, errs)
			}
		}
	}
}

// Names under .localhost, as the local cloud has, reach this machine without the resolver.
func TestNamesUnderLocalhost(t *testing.T) {
	s := newService(t)
	endpoint := strings.Replace(s.url, "127.0.0.1", "abc.execute-api.localhost", 1)
	for _, command := range []string{"status a", "doctor"} {
		if code, out, errs := call(t.Context(), append(strings.Fields(command), "--sign=never", "--endpoint", endpoint)...); code != 0 {
			t.Errorf("%s: %d: %s%s", command, code, out, errs)
		}
	}
}
