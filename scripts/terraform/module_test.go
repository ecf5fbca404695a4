package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const moduleDir = "../../terraform"

// given are variables for a module with everything.
var given = []string{
	`code="dist"`, `state_machines=["Deploy*"]`, `durable_functions=["durable"]`, "tracing=true", "versions=true", `key_arn="arn:aws:kms:eu-west-1:111122223333:key/k"`,
	`subnet_ids=["subnet-0a1b2c3d"]`, `security_group_ids=["sg-0a1b2c3d"]`, `endpoints_vpc_id="vpc-0a1b2c3d"`, `route_table_ids=["rtb-0a1b2c3d"]`,
}

// The module makes what its variables ask for.
func TestVariants(t *testing.T) {
	for _, test := range []struct {
		variables []string
		has, not  string
	}{
		{[]string{`code="dist"`}, `"ApiStage"`, "AcquireVersion"},
		{append(given, "no_api=true"), `"HOLDFAST_NO_API"`, `"ApiStage"`},
		{append(given, `stable_versions={acquire="3"}`, "canary_weight=0.1"), `"AdditionalVersionWeights":{"${AcquireVersion.Version}":0.1}`, "${Stand-in}"},
		{[]string{`code="dist"`, "prompt_expiry=false", `events=["-"]`, `state_machines=["a"]`}, `"HOLDFAST_EVENTS":"-"`, "ExecutionsEnd"},
		{[]string{`code="dist"`, `events=["deploy:"]`}, `prefix\":\"deploy:`, "TableEndpoint"},
	} {
		out, err := run(moduleDir, "schema.json", test.variables)
		if err != nil {
			t.Errorf("%v: %v", test.variables, err)
			continue
		}
		data, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		if text := string(data); !strings.Contains(text, test.has) || strings.Contains(text, test.not) {
			t.Errorf("%v: %s", test.variables, text)
		}
	}
}

// Wrong values of variables are refused by their own rules.
func TestRefusedVariables(t *testing.T) {
	for variable, says := range map[string]string{
		`architecture="ia64"`: "architecture must be", "max_ttl_milliseconds=59999": "max_ttl_milliseconds must be", `state_machines=["a,b"]`: "state_machines must be",
		`durable_functions=["a/b"]`: "durable_functions must be", "events=[]": "events must be", `events=["deploy:*"]`: "events must be", "timers_concurrency=1": "timers_concurrency must be",
		`subnet_ids=["subnet-1"]`: "go together", `endpoints_vpc_id="vpc-1"`: "endpoints_vpc_id needs", "log_retention_days=8": "log_retention_days must be",
		`notify_name="a.b"`: "notify_name must be", "canary_weight=1": "canary_weight must be", `nam="x"`: "there is no variable nam", "tracing=[]": "bool required",
	} {
		if _, err := run(moduleDir, "schema.json", []string{`code="dist"`, variable}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", variable, err)
		}
	}
	if _, err := run(moduleDir, "schema.json", nil); err == nil || !strings.Contains(err.Error(), "the variable code is required") {
		t.Error(err)
	}
}

// Mistakes in the module are found: what the provider does not take, what it requires, and what refers to nothing or is used by nothing.
func TestMistakes(t *testing.T) {
	for _, test := range []struct{ file, old, with, says string }{
		{"main.tf", "  billing_mode ", "  billing_mod ", "takes no argument billing_mod"},
		{"main.tf", "  ttl {", "  tttl {", "takes no block tttl"},
		{"api.tf", "  protocol_type = \"HTTP\"\n", "", "lacks the argument protocol_type"},
		{"functions.tf", "    for_each = local.in_vpc && each.value.in_vpc ? [1] : []\n", "", "a dynamic block needs"},
		{"functions.tf", "each.value.timeout", "each.value.timeouts", "timeouts"},
		{"functions.tf", "var.versions && each.value.published", "var.version && each.value.published", "there is no variable version"},
		{"functions.tf", "aws_iam_role.function[each.key].arn", "aws_iam_role.functions[each.key].arn", "there is no resource aws_iam_role.functions"},
		{"functions.tf", "aws_iam_role.function[each.key].arn", "aws_iam_role.function[each.key].unique_id", "unique_id"},
		{"sources.tf", "  quiet    =", "  unused   = 1\n  quiet    =", "nothing uses the local value unused"},
		{"sources.tf", "jsonencode({ eventName = [\"INSERT\"", "yamlencode({ eventName = [\"INSERT\"", "yamlencode"},
		{"variables.tf", "variable \"burst\"", "variable \"bursts\"", "there is no variable burst"},
		{"variables.tf", "variable \"burst\"", "variable \"more\" {\n description = \"x\"\n default = 1\n}\nvariable \"burst\"", "nothing uses the variable more"},
		{"outputs.tf", "  description = \"The event bus.\"\n", "", "the output bus_name has no description"},
		{"network.tf", "resource \"aws_vpc_endpoint\" \"table\"", "resource \"aws_vpc_endpoints\" \"table\"", "schema.json has no aws_vpc_endpoints"},
		{"network.tf", "resource \"aws_vpc_endpoint\" \"table\"", "resource \"aws_vpc_endpoint\" \"tables\"", "the comparison does not know aws_vpc_endpoint.tables"},
		{"api.tf", "  auto_deploy = true\n", "  auto_deploy = true\n  deployment_id = \"x\"\n", "does not know the argument deployment_id"},
	} {
		dir := t.TempDir()
		files, err := filepath.Glob(moduleDir + "/*.tf")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text := string(data)
			if filepath.Base(f) == test.file {
				if text = strings.Replace(text, test.old, test.with, 1); text == string(data) {
					t.Fatalf("%s has no %q", test.file, test.old)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := run(dir, "schema.json", given); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s with %q: %v, want %q", test.file, test.with, err, test.says)
		}
	}
}
