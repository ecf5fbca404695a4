package infra_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// code is a directory with a placeholder for each function's zip, since templates do not depend on its content.
func code(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, of := range []string{dir, filepath.Join(dir, "traced")} {
		if err := os.MkdirAll(of, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"acquire", "renew", "release", "status", "forcerelease", "rules", "stream", "expire", "redrive"} {
			if err := os.WriteFile(filepath.Join(of, name+".zip"), []byte("PK\x05\x06"+strings.Repeat("\x00", 18)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

type resource struct {
	Type           string
	DeletionPolicy string
	UpdatePolicy   map[string]any
	Properties     map[string]any
}

type template map[string]resource

func newApp() awscdk.App {
	return awscdk.NewApp(&awscdk.AppProps{Context: &map[string]any{"@aws-cdk/aws-iam:minimizePolicies": true}})
}

// synth makes a stack with one coordinator, and its template.
func synth(t *testing.T, build func(stack awscdk.Stack, code string)) template {
	t.Helper()
	app := newApp()
	stack := awscdk.NewStack(app, jsii.String("Test"), nil)
	build(stack, code(t))
	data, err := json.Marshal(assertions.Template_FromStack(stack, nil).ToJSON())
	if err != nil {
		t.Fatal(err)
	}
	var whole struct{ Resources template }
	if err := json.Unmarshal(data, &whole); err != nil {
		t.Fatal(err)
	}
	return whole.Resources
}

func with(props infra.Props) func(awscdk.Stack, string) {
	return func(stack awscdk.Stack, code string) {
		props.Code = code
		infra.NewCoordinator(stack, "Locks", props)
	}
}

func (t template) of(kind string) (list []resource) {
	for _, id := range slices.Sorted(maps.Keys(t)) {
		if t[id].Type == kind {
			list = append(list, t[id])
		}
	}
	return list
}

type statement struct {
	Effect           string
	Action, Resource any
}

// statements are the statements of all policies in the template, by resource.
func (t template) statements() map[string][]statement {
	all := map[string][]statement{}
	for id, r := range t {
		documents := []any{r.Properties["PolicyDocument"]}
		policies, _ := r.Properties["Policies"].([]any)
		for _, p := range policies {
			documents = append(documents, p.(map[string]any)["PolicyDocument"])
		}
		for _, d := range documents {
			data, _ := json.Marshal(d)
			var document struct{ Statement []statement }
			_ = json.Unmarshal(data, &document)
			all[id] = append(all[id], document.Statement...)
		}
	}
	return all
}

func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// No policy has a wildcard for an action or a resource, except for a table's streams, whose names contain the time of
// their creation.
func TestNoWildcards(t *testing.T) {
	n := 0
	for id, statements := range synth(t, with(infra.Props{})).statements() {
		for _, s := range statements {
			n++
			for _, action := range list(s.Action) {
				if strings.Contains(fmt.Sprint(action), "*") {
					t.Errorf("%s: action %v", id, action)
				}
			}
			for _, r := range list(s.Resource) {
				text, _ := json.Marshal(r)
				if strings.Contains(strings.NewReplacer(`"/stream/*"`, "", `:holdfast-notify-*"`, "").Replace(string(text)), "*") {
					t.Errorf("%s: resource %s", id, text)
				}
			}
		}
	}
	if n != 34 {
		t.Errorf("%d statements; docs/iam.md explains 34", n)
	}
}

func TestDefaults(t *testing.T) {
	tpl := synth(t, with(infra.Props{}))
	table := tpl.of("AWS::DynamoDB::Table")[0]
	if p := table.Properties; table.DeletionPolicy != "RetainExceptOnCreate" || p["DeletionProtectionEnabled"] != false || p["BillingMode"] != "PAY_PER_REQUEST" ||
		p["TimeToLiveSpecification"].(map[string]any)["AttributeName"] != "ttl" || p["StreamSpecification"].(map[string]any)["StreamViewType"] != "NEW_AND_OLD_IMAGES" ||
		p["PointInTimeRecoverySpecification"].(map[string]any)["PointInTimeRecoveryEnabled"] != true {
		t.Errorf("table %+v", table)
	}
	if got, want := fmt.Sprint(table.Properties["GlobalSecondaryIndexes"]),
		"[map[IndexName:names KeySchema:[map[AttributeName:idx KeyType:HASH] map[AttributeName:pk KeyType:RANGE]] Projection:map[ProjectionType:KEYS_ONLY]]]"; got != want {
		t.Errorf("indexes %s, want %s as CreateTable of internal/dynamo makes", got, want)
	}
	functions := tpl.of("AWS::Lambda::Function")
	if len(functions) != 9 {
		t.Errorf("%d functions", len(functions))
	}
	for _, f := range functions {
		if f.Properties["Runtime"] != "provided.al2023" || fmt.Sprint(f.Properties["Architectures"]) != "[arm64]" {
			t.Errorf("function %+v", f.Properties)
		}
	}
	for _, g := range tpl.of("AWS::Logs::LogGroup") {
		if g.Properties["RetentionInDays"] != 30.0 {
			t.Errorf("log group %+v", g)
		}
	}
	for _, r := range tpl.of("AWS::ApiGatewayV2::Route") {
		if r.Properties["AuthorizationType"] != "AWS_IAM" {
			t.Errorf("route %+v", r.Properties)
		}
	}
}

// Contention is a normal answer: no alarm depends on 4xx or on outcomes of requests.
func TestContentionNeverAlarms(t *testing.T) {
	for _, a := range synth(t, with(infra.Props{})).of("AWS::CloudWatch::Alarm") {
		if name := fmt.Sprint(a.Properties["MetricName"]); name == "4xx" || name == "latency_ms" {
			t.Errorf("alarm on %s", name)
		}
		text, _ := json.Marshal(a.Properties) // a function that serves requests fails on purpose when it is invoked directly
		if about := fmt.Sprint(a.Properties["AlarmDescription"]); strings.Contains(string(text), `"Errors"`) && !strings.Contains(about, "Function stream") &&
			!strings.Contains(about, "Function expire") && !strings.Contains(string(text), "errors - FILL(refused, 0)") {
			t.Errorf("alarm on all errors: %s", about)
		}
	}
}

// Each fault of the functions has an alarm, each alarm has a section in docs/runbook.md that says five things, and each section there an alarm.
func TestFaultsAlarm(t *testing.T) {
	var alarmed []string
	for _, a := range synth(t, with(infra.Props{})).of("AWS::CloudWatch::Alarm") {
		alarmed = append(alarmed, fmt.Sprint(a.Properties["MetricName"]))
		if text := fmt.Sprint(a.Properties["AlarmDescription"]); !strings.Contains(text, "; docs/runbook.md#") {
			t.Errorf("an alarm's description names no section: %s", text)
		}
	}
	for _, f := range stream.Faults() {
		if !slices.Contains(alarmed, f.Metric) {
			t.Errorf("no alarm looks at %s", f.Metric)
		}
	}
	doc, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, alarms, _ := strings.Cut(string(doc), "\n## Alarms\n")
	alarms, _, _ = strings.Cut(alarms, "\n## ")
	sections := map[string]string{}
	for _, text := range strings.Split(alarms, "\n### ")[1:] {
		heading, body, _ := strings.Cut(text, "\n")
		sections[strings.ToLower(heading)] = body
	}
	used := map[string]bool{}
	for id := range synthesised(t, infra.Props{StateMachines: []string{"A"}, Versions: true, Rollout: infra.Rollouts[0]}).Alarms {
		section := infra.Section(id)
		used[section] = true
		for _, part := range []string{"- **Users see**", "- **Look**", "- **Do**", "- **Over when**", "- **If ignored**"} {
			if !strings.Contains(sections[section], part) {
				t.Errorf("docs/runbook.md: the section %q, of the alarm %s, has no %s", section, id, part)
			}
		}
	}
	for section := range sections {
		if !used[section] {
			t.Errorf("docs/runbook.md has a section %q, for which there is no alarm", section)
		}
	}
}

func synthesised(t *testing.T, props infra.Props) (c *infra.Coordinator) {
	t.Helper()
	props.Code = code(t)
	return infra.NewCoordinator(awscdk.NewStack(newApp(), jsii.String("Test"), nil), "Locks", props)
}

func TestProps(t *testing.T) {
	tpl := synth(t, with(infra.Props{NoPromptExpiry: true, RemovalPolicy: awscdk.RemovalPolicy_DESTROY, Architecture: infra.X86, Concurrency: 7,
		LogRetention: awslogs.RetentionDays_ONE_WEEK, Table: "locks", MaxTTL: awscdk.Duration_Minutes(jsii.Number(5))}))
	if n := len(tpl.of("AWS::SQS::Queue")); n != 1 {
		t.Errorf("%d queues without prompt expiry", n)
	}
	if table := tpl.of("AWS::DynamoDB::Table")[0]; table.DeletionPolicy != "Delete" || table.Properties["DeletionProtectionEnabled"] != false || table.Properties["TableName"] != "locks" {
		t.Errorf("table %+v", table)
	}
	reserved, ttls := 0, 0
	for _, f := range tpl.of("AWS::Lambda::Function") {
		if f.Properties["ReservedConcurrentExecutions"] == 7.0 {
			reserved++
		}
		if f.Properties["Environment"].(map[string]any)["Variables"].(map[string]any)["HOLDFAST_MAX_TTL_MS"] == "300000" {
			ttls++
		}
	}
	if reserved != 6 || ttls != 6 {
		t.Errorf("%d functions have reserved concurrency, %d the longest TTL", reserved, ttls)
	}
	tpl = synth(t, func(stack awscdk.Stack, code string) {
		infra.NewCoordinator(stack, "Locks", infra.Props{
			Code: code, Tracing: true, Key: awskms.NewKey(stack, jsii.String("Key"), nil), AlarmTopic: awssns.NewTopic(stack, jsii.String("Topic"), nil),
		})
	})
	for _, a := range tpl.of("AWS::CloudWatch::Alarm") {
		if len(list(a.Properties["AlarmActions"])) != 1 || a.Properties["AlarmActions"] == nil {
			t.Errorf("alarm %+v", a.Properties)
		}
	}
	text, _ := json.Marshal(tpl.statements())
	if n := strings.Count(string(text), "kms:GenerateDataKey"); n < 7 {
		t.Errorf("%d statements let a function use the key", n)
	}
}

// With a collector every function has its URL and its layer, and the zips are those that make spans; without one, nothing.
func TestTraceEndpoint(t *testing.T) {
	const endpoint, layer = "http://localhost:4318", "arn:aws:lambda:eu-west-1:111122223333:layer:collector:1"
	for _, on := range []bool{true, false} {
		props := infra.Props{}
		if on {
			props.TraceEndpoint, props.TraceLayer = endpoint, layer
		}
		tpl := synth(t, func(stack awscdk.Stack, code string) {
			props.Code = code
			infra.NewCoordinator(stack, "Locks", props)
		})
		n := 0
		for _, f := range tpl.of("AWS::Lambda::Function") {
			text, _ := json.Marshal(f.Properties)
			if on == (strings.Count(string(text), endpoint) == 1 && strings.Count(string(text), layer) == 1) {
				n++
			}
		}
		if n != 9 {
			t.Errorf("on %v: %d functions", on, n)
		}
	}
	dir := t.TempDir()
	defer func() {
		if p := fmt.Sprint(recover()); !strings.Contains(p, filepath.Join(dir, "traced")) || !strings.Contains(p, "make build TRACED=true") {
			t.Errorf("without zips that make spans: %s", p)
		}
	}()
	infra.NewCoordinator(awscdk.NewStack(newApp(), jsii.String("Test"), nil), "Locks", infra.Props{Code: dir, TraceEndpoint: endpoint})
}

// Invalid props are refused by name.
func TestBadProps(t *testing.T) {
	seconds := func(n float64) awscdk.Duration { return awscdk.Duration_Seconds(&n) }
	imported := func(stream *string) awsdynamodb.ITable {
		return awsdynamodb.Table_FromTableAttributes(awscdk.NewStack(nil, nil, nil), jsii.String("Table"), &awsdynamodb.TableAttributes{
			TableArn: jsii.String("arn:aws:dynamodb:eu-west-1:111122223333:table/locks"), TableStreamArn: stream,
		})
	}
	stream := jsii.String("arn:aws:dynamodb:eu-west-1:111122223333:table/locks/stream/1")
	for _, test := range []struct {
		prop  string
		props infra.Props
	}{
		{"Architecture", infra.Props{Architecture: "ia64"}},
		{"Concurrency", infra.Props{Concurrency: -1}},
		{"StreamConcurrency", infra.Props{StreamConcurrency: -1}},
		{"ExpireConcurrency", infra.Props{ExpireConcurrency: -1}},
		{"RequestsPerSecond", infra.Props{RequestsPerSecond: -1}},
		{"Burst", infra.Props{Burst: -1}},
		{"TimersConcurrency", infra.Props{TimersConcurrency: 1}},
		{"TimersConcurrency", infra.Props{TimersConcurrency: 1001}},
		{"ExpireConcurrency", infra.Props{ExpireConcurrency: 1}},
		{"ExpireConcurrency", infra.Props{ExpireConcurrency: 5, TimersConcurrency: 6}},
		{"MaxTTL", infra.Props{MaxTTL: seconds(59)}},
		{"MaxTTL", infra.Props{MaxTTL: seconds(604801)}},
		{"NoPromptExpiry", infra.Props{NoPromptExpiry: true, StateMachines: []string{"a"}}},
		{"NoPromptExpiry", infra.Props{NoPromptExpiry: true, DurableFunctions: []string{"a"}}},
		{"NoAPI", infra.Props{NoAPI: true, Burst: 1}},
		{"SubnetIDs", infra.Props{SubnetIDs: []string{"subnet-1"}}},
		{"SubnetIDs", infra.Props{SecurityGroupIDs: []string{"sg-1"}}},
		{"SubnetIDs", infra.Props{SubnetIDs: slices.Repeat([]string{"subnet-1"}, 17), SecurityGroupIDs: []string{"sg-1"}}},
		{"SecurityGroupIDs", infra.Props{SubnetIDs: []string{"subnet-1"}, SecurityGroupIDs: slices.Repeat([]string{"sg-1"}, 6)}},
		{"SecurityGroupIDs has \"1\"", infra.Props{SubnetIDs: []string{"subnet-0a1b2c3d"}, SecurityGroupIDs: []string{"1"}}},
		{"RouteTableIDs", infra.Props{RouteTableIDs: []string{"rtb-1"}}},
		{"EndpointsVPC", infra.Props{EndpointsVPC: "vpc-1"}},
		{"EndpointsVPC", infra.Props{EndpointsVPC: "vpc-1", SubnetIDs: []string{"subnet-1"}, SecurityGroupIDs: []string{"sg-1"}}},
		{"Rollout", infra.Props{Versions: true, Rollout: "Canary"}},
		{"Versions", infra.Props{Rollout: infra.Rollouts[0]}},
		{"NoAPI", infra.Props{NoAPI: true, RequestsPerSecond: 1}},
		{"ImportedTable", infra.Props{ImportedTable: imported(stream), Table: "locks"}},
		{"ImportedTable", infra.Props{ImportedTable: imported(stream), DeletionProtection: true}},
		{"ImportedTable", infra.Props{ImportedTable: imported(nil)}},
		{"MetricNamespace", infra.Props{MetricNamespace: `a"b`}},
		{"Events", infra.Props{Events: []string{"deploy:*"}}},
		{"Events", infra.Props{Events: []string{"deploy:", infra.NoEvents}}},
		{"Events", infra.Props{Events: []string{""}}},
		{"4096", infra.Props{Events: slices.Repeat([]string{strings.Repeat("n", 60)}, 60)}},
		{"NotifyName", infra.Props{NotifyName: "a.b"}},
		{"NotifyName", infra.Props{NotifyName: strings.Repeat("n", 53)}},
		{"Key", infra.Props{Key: awskms.Alias_FromAliasName(awscdk.NewStack(nil, nil, nil), jsii.String("Key"), jsii.String("alias/locks"))}},
		{"StateMachines", infra.Props{StateMachines: []string{"a,b"}}},
		{"StateMachines", infra.Props{StateMachines: []string{"a*b"}}},
		{"DurableFunctions", infra.Props{DurableFunctions: []string{""}}},
	} {
		if said := panics(func() { synth(t, with(test.props)) }); !strings.Contains(said, "infra: Props.") || !strings.Contains(said, test.prop) {
			t.Errorf("%s, %+v: %s", test.prop, test.props, said)
		}
	}
}

// All functions but redrive are in the VPC, and no function's own code may use the permissions that its role has for that. The endpoints are those
// of docs/network.md, each for this account alone.
func TestFunctionsInAVPC(t *testing.T) {
	tpl := synth(t, with(withoutAPI()))
	inside := 0
	for _, f := range tpl.of("AWS::Lambda::Function") {
		if vpc, ok := f.Properties["VpcConfig"].(map[string]any); ok {
			inside++
			if len(list(vpc["SubnetIds"])) != 2 || len(list(vpc["SecurityGroupIds"])) != 1 {
				t.Errorf("%v", vpc)
			}
		} else if f.Properties["Timeout"] != 60.0 || f.Properties["Description"] != "Handles dead letters again, and mends what nobody will free or tell" {
			t.Errorf("in no VPC: %v", f.Properties["Description"])
		}
	}
	allowed, denied := 0, 0
	for _, statements := range tpl.statements() {
		for _, s := range statements {
			if strings.Contains(fmt.Sprint(s.Action), "ec2:CreateNetworkInterface") {
				if s.Effect == "Deny" {
					denied++
				} else {
					allowed++
				}
			}
		}
	}
	if inside != 8 || allowed != 8 || denied != 8 {
		t.Errorf("%d functions are in the VPC, %d roles allow that, and %d deny it to the function's code", inside, allowed, denied)
	}
	var services []string
	for _, e := range tpl.of("AWS::EC2::VPCEndpoint") {
		text, _ := json.Marshal(e.Properties)
		if strings.Count(string(text), `"aws:PrincipalAccount"`) != strings.Count(string(text), `"Effect"`) {
			t.Errorf("an endpoint is open to other accounts: %s", text)
		}
		services = append(services, regexp.MustCompile(`"\.(\w+)"\]\]`).FindStringSubmatch(string(text))[1]+" "+fmt.Sprint(e.Properties["VpcEndpointType"]))
	}
	slices.Sort(services)
	if want := []string{"dynamodb Gateway", "events Interface", "lambda Interface", "sqs Interface", "states Interface", "xray Interface"}; !slices.Equal(services, want) {
		t.Errorf("endpoints %v, want %v", services, want)
	}
}

// With Rollout each alias is on a version that stays, and CodeDeploy moves it and looks at alarms of the function's own; without, the aliases are on
// the functions as they are.
func TestRollouts(t *testing.T) {
	grant := func(props infra.Props) template {
		return synth(t, func(stack awscdk.Stack, code string) {
			props.Code = code
			locks := infra.NewCoordinator(stack, "Locks", props)
			role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("ecs-tasks.amazonaws.com"), nil)})
			list, _ := json.Marshal(stack.Resolve(infra.FunctionList(locks.GrantDirectLock(role, "deploy:*"), locks.GrantDirectForceRelease(role, "deploy:*"))))
			if n := strings.Count(string(list), `{"Ref":"Locks`); n != 4 || !strings.Contains(string(list), `["force-release",{"Ref":`) {
				t.Errorf("functions %s", list)
			}
		})
	}
	for _, a := range grant(infra.Props{}).of("AWS::Lambda::Alias") {
		if a.Properties["FunctionVersion"] != "$LATEST" {
			t.Errorf("alias %v", a.Properties)
		}
	}
	tpl := grant(infra.Props{Versions: true, Rollout: "Canary10Percent5Minutes"})
	aliases, versions, groups := tpl.of("AWS::Lambda::Alias"), tpl.of("AWS::Lambda::Version"), tpl.of("AWS::CodeDeploy::DeploymentGroup")
	if len(aliases) != 8+4 || len(versions) != 8 || len(groups) != 12 {
		t.Errorf("%d aliases, %d versions, %d deployment groups", len(aliases), len(versions), len(groups))
	}
	for _, a := range aliases {
		if a.Properties["FunctionVersion"] == "$LATEST" || a.UpdatePolicy["CodeDeployLambdaAliasUpdate"] == nil {
			t.Errorf("alias %+v", a)
		}
	}
	for _, v := range versions {
		if v.DeletionPolicy != "Retain" {
			t.Errorf("version %+v", v)
		}
	}
	for _, g := range groups {
		alarms := g.Properties["AlarmConfiguration"].(map[string]any)
		if n := len(list(alarms["Alarms"])); alarms["Enabled"] != true || n < 1 || n > 2 || g.Properties["DeploymentConfigName"] != "CodeDeployDefault.LambdaCanary10Percent5Minutes" {
			t.Errorf("group %v", g.Properties)
		}
	}
}

// panics is what a function panics with.
func panics(f func()) (said string) {
	defer func() { said = fmt.Sprint(recover()) }()
	f()
	return ""
}

// Without Code, the functions are built from the module.
func TestFunctionsAreBuilt(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, _ string) { infra.NewCoordinator(stack, "Locks", infra.Props{}) })
	assets := map[string]bool{}
	for _, f := range tpl.of("AWS::Lambda::Function") {
		assets[fmt.Sprint(f.Properties["Code"])] = true
	}
	if len(assets) != 9 {
		t.Errorf("%d different functions", len(assets))
	}
}

// The lines of docs/deploy.md make a stack.
func TestDocumentedApp(t *testing.T) {
	synth(t, func(stack awscdk.Stack, _ string) {
		deployer := awsiam.NewRole(stack, jsii.String("Deployer"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("ecs-tasks.amazonaws.com"), nil)})
		next := awslambda.Function_FromFunctionName(stack, jsii.String("Next"), jsii.String("next"))
		documented := func() {
			locks := infra.NewCoordinator(stack, "Locks", infra.Props{})
			locks.GrantLock(deployer, "deploy:*")
			locks.OnFree("NextDeploy", "deploy", awseventstargets.NewLambdaFunction(next, nil))
		}
		documented()
	})
}

// The lines of docs/stepfunctions.md make a state machine, and the functions have permissions on it and on no other.
func TestDocumentedSection(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, _ string) {
		role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
		body := awsstepfunctions.NewPass(stack, jsii.String("Body"), nil)
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{StateMachines: []string{"Deploy*"}})
		section := locks.CriticalSection(stack, "Prod", infra.SectionProps{Role: role, Lock: "deploy:prod", Body: body})
		awsstepfunctions.NewStateMachine(stack, jsii.String("Machine"), &awsstepfunctions.StateMachineProps{
			StateMachineName: jsii.String("DeployProd"), Role: role, DefinitionBody: awsstepfunctions.DefinitionBody_FromChainable(section),
		})
	})
	text, err := json.Marshal(tpl)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{":stateMachine:Deploy*", ":execution:Deploy*:*", "waitForTaskToken", `"HOLDFAST_STATE_MACHINES":"Deploy*"`, "Step Functions Execution Status Change"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the template has no %s", want)
		}
	}
}

// A critical section of several locks acquires and releases them by name or path. One whose settings contradict each other is refused.
func TestSectionOfSeveralLocks(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, _ string) {
		role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{StateMachines: []string{"Import*"}})
		body := awsstepfunctions.NewPass(stack, jsii.String("Body"), nil)
		section := locks.CriticalSection(stack, "Import", infra.SectionProps{
			Role: role, Locks: []infra.SectionLock{{Name: "$.customer"}, {Name: "import:api", Capacity: 20}}, Pattern: "import:*", Body: body,
		})
		several := []infra.SectionLock{{Name: "import:a", Permits: 2, Capacity: 3}, {Name: "import:b"}}
		awsstepfunctions.NewStateMachine(stack, jsii.String("Machine"), &awsstepfunctions.StateMachineProps{
			StateMachineName: jsii.String("ImportAll"), Role: role, DefinitionBody: awsstepfunctions.DefinitionBody_FromChainable(section),
		})
		for i, bad := range []infra.SectionProps{
			{Locks: several, Pattern: "import:*", Lock: "import:a"}, {Locks: several, Pattern: "import:*", Capacity: 2}, {Locks: several, Pattern: "import:*", Permits: 1},
			{Locks: make([]infra.SectionLock, 11), Pattern: "import:*"}, {Locks: several},
		} {
			bad.Role = role
			if said := panics(func() { locks.CriticalSection(stack, fmt.Sprint("bad", i), bad) }); !strings.Contains(said, "give the Pattern of their names") {
				t.Errorf("%+v: %s", bad, said)
			}
		}
	})
	text, err := json.Marshal(tpl)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`\"locks\":[{\"name.$\":\"$.customer\"},{\"capacity\":20,\"name\":\"import:api\"}]`,
		`\"locks.$\":\"States.Array($.customer, 'import:api')\"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the template has no %s", want)
		}
	}
}

// A grant covers the locks of its pattern only.
func TestGrants(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code})
		role := func(id string) awsiam.Role {
			return awsiam.NewRole(stack, &id, &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("ecs-tasks.amazonaws.com"), nil)})
		}
		locks.GrantLock(role("Deployer"), "deploy:*")
		locks.GrantRead(role("Reader"), "deploy:prod")
		locks.GrantForceRelease(role("Operator"), "*")
		locks.GrantList(role("Lister"))
		locks.GrantRules(role("Freezer"), "deploy:*")
		locks.GrantHistory(role("Auditor"), "deploy:*")
		locks.GrantNotify(role("Waiter"))
		locks.GrantSweep(role("Sweeper"))
		direct := role("Direct")
		locks.GrantDirectLock(direct, "deploy:*")
		locks.GrantDirectRead(direct, "deploy:*")
		locks.OnExpired("Dead", "deploy", awseventstargets.NewSqsQueue(locks.DeadLetters, nil))
		for _, bad := range []string{"", "a*b", "a/b"} {
			if said := panics(func() { locks.GrantLock(direct, bad) }); !strings.Contains(said, "infra: pattern") {
				t.Errorf("pattern %q: %s", bad, said)
			}
		}
	})
	granted := map[string]string{}
	for id, s := range tpl.statements() {
		if i := strings.Index(id, "DefaultPolicy"); i > 0 {
			text, _ := json.Marshal(s)
			granted[id[:i]] = string(text)
		}
	}
	for who, want := range map[string][]string{
		"Deployer": {"/$default/POST/v1/locks/deploy:*/acquire", "/$default/POST/v1/locks/deploy:*/renew", "/$default/POST/v1/locks/deploy:*/release",
			"/$default/POST/v1/sets/deploy:*/acquire", "/$default/POST/v1/sets/deploy:*/renew", "/$default/POST/v1/sets/deploy:*/release"},
		"Reader":   {"/$default/GET/v1/locks/deploy:prod"},
		"Operator": {"/$default/POST/v1/locks/*/force-release"},
		"Lister":   {"/$default/GET/v1/locks"},
		"Auditor":  {"/$default/GET/v1/history/deploy:*"},
		"Freezer":  {"/$default/DELETE/v1/rules/deploy:*", "/$default/GET/v1/rules", "/$default/GET/v1/rules/deploy:*", "/$default/PUT/v1/rules/deploy:*"},
	} {
		paths := regexp.MustCompile(`/\$default/[^"]*`).FindAllString(granted[who], -1)
		slices.Sort(paths)
		if slices.Sort(want); !slices.Equal(paths, want) {
			t.Errorf("%s may %v, want %v", who, paths, want)
		}
	}
	for who, want := range map[string][]string{
		"Waiter":  {"sqs:CreateQueue", "sqs:DeleteMessage", "sqs:DeleteQueue", "sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:TagQueue"},
		"Sweeper": {"sqs:DeleteQueue", "sqs:ListQueueTags", "sqs:ListQueues"},
	} {
		actions := regexp.MustCompile(`sqs:[A-Z]\w*`).FindAllString(granted[who], -1)
		slices.Sort(actions)
		if !slices.Equal(actions, want) || strings.Count(granted[who], `:holdfast-notify-*"`) != 1 {
			t.Errorf("%s may %s", who, granted[who])
		}
	}
	aliases := tpl.of("AWS::Lambda::Alias")
	if len(aliases) != 4+8 || // and the live aliases
		!strings.Contains(granted["Direct"], "lambda:InvokeFunction") || strings.Count(granted["Direct"], `"Ref"`) != 4 {
		t.Errorf("%d aliases; Direct may %s", len(aliases), granted["Direct"])
	}
	rule, _ := json.Marshal(tpl.of("AWS::Events::Rule")[0].Properties["EventPattern"])
	if want := `{"detail":{"prefixes":["deploy"]},"detail-type":["Lock Expired"],"source":["holdfast"]}`; string(rule) != want {
		t.Errorf("rule %s", rule)
	}
}

// The API's routes are the OpenAPI document's.
func TestRoutesAreTheDocumented(t *testing.T) {
	data, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var documented, routes []string
	path := ""
	for line := range strings.Lines(string(data)) {
		if m := regexp.MustCompile(`^  (/v1/[^:]*):`).FindStringSubmatch(line); m != nil {
			path = m[1]
		}
		if m := regexp.MustCompile(`^    (get|post|put|delete|patch):`).FindStringSubmatch(line); m != nil && path != "" {
			documented = append(documented, strings.ToUpper(m[1])+" "+path)
		}
	}
	for _, r := range infra.Routes {
		routes = append(routes, r.Method+" "+r.Path)
	}
	slices.Sort(documented)
	if slices.Sort(routes); !slices.Equal(routes, documented) {
		t.Errorf("routes %v, documented %v", routes, documented)
	}
}
