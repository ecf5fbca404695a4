package infra_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

func text(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// A grant to a principal whose policy the stack cannot change panics and names the alternatives, since the principal
// would be refused at run time.
func TestGrantsThatCannotBe(t *testing.T) {
	app := newApp()
	stack := awscdk.NewStack(app, jsii.String("Test"), in("eu-west-1"))
	locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code(t)})
	elsewhere := awsiam.Role_FromRoleArn(stack, jsii.String("Elsewhere"), jsii.String("arn:aws:iam::444455556666:role/deployer"), nil)
	immutable := awsiam.Role_FromRoleArn(stack, jsii.String("Immutable"), jsii.String("arn:aws:iam::"+account+":role/deployer"),
		&awsiam.FromRoleArnOptions{Mutable: jsii.Bool(false)})
	for name, grantee := range map[string]awsiam.IGrantable{
		"a role of another account": elsewhere, "an immutable role": immutable,
		"another account": awsiam.NewAccountPrincipal(jsii.String("444455556666")),
		"an organisation": awsiam.NewOrganizationPrincipal(jsii.String("o-a1b2c3d4e5")),
		"a service":       awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil),
	} {
		for grant, instead := range map[string]string{
			panics(func() { locks.GrantLock(grantee, "deploy:*") }):               "LockRole",
			panics(func() { locks.GrantRead(grantee, "deploy:*") }):               "LockRole",
			panics(func() { locks.GrantForceRelease(grantee, "deploy:*") }):       "LockRole",
			panics(func() { locks.GrantList(grantee) }):                           "LockRole",
			panics(func() { locks.GrantNotify(grantee) }):                         "LockRole",
			panics(func() { locks.GrantDirectLock(grantee, "deploy:*") }):         "ShareDirectLock",
			panics(func() { locks.GrantDirectRead(grantee, "deploy:*") }):         "ShareDirectLock",
			panics(func() { locks.GrantDirectForceRelease(grantee, "deploy:*") }): "ShareDirectLock",
		} {
			if !strings.HasPrefix(grant, "infra: ") || !strings.Contains(grant, instead) {
				t.Errorf("%s: %s", name, grant)
			}
		}
	}
	mutable := awsiam.Role_FromRoleArn(stack, jsii.String("Mutable"), jsii.String("arn:aws:iam::"+account+":role/deployer"), nil)
	locks.GrantLock(mutable, "deploy:*")
	locks.GrantDirectLock(mutable, "deploy:*")

	unknown := awscdk.NewStack(app, jsii.String("Unknown"), nil)
	locks = infra.NewCoordinator(unknown, "Locks", infra.Props{Code: code(t)})
	locks.GrantLock(awsiam.Role_FromRoleArn(unknown, jsii.String("Role"), jsii.String("arn:aws:iam::444455556666:role/deployer"), nil), "*")
	var said strings.Builder
	for _, w := range *assertions.Annotations_FromStack(unknown).FindWarning(jsii.String("*"), assertions.Match_AnyValue()) {
		_, _ = fmt.Fprintln(&said, w.Entry.Data)
	}
	if !strings.Contains(said.String(), "account 444455556666") {
		t.Errorf("where the account is not known, the warnings are %s", said.String())
	}

	silent := infra.NewCoordinator(awscdk.NewStack(app, jsii.String("Silent"), nil), "Locks", infra.Props{Code: code(t), NoAPI: true})
	for _, grant := range []string{
		panics(func() { silent.GrantLock(mutable, "deploy:*") }), panics(func() { silent.GrantList(mutable) }),
		panics(func() { silent.LockRole("Partner", awsiam.NewAccountPrincipal(jsii.String(account)), "*") }),
	} {
		if !strings.Contains(grant, "NoAPI") {
			t.Errorf("a grant over HTTP without an API: %s", grant)
		}
	}
}

// Other accounts get a role to assume, aliases to invoke, and rules on the bus.
func TestSharing(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code})
		locks.LockRole("Partner", awsiam.NewAccountPrincipal(jsii.String("444455556666")), "partner:*")
		locks.LockRole("Everyone", awsiam.NewOrganizationPrincipal(jsii.String("o-a1b2c3d4e5")), "shared:*")
		arns := locks.ShareDirectLock("444455556666", "partner:*") // or "o-a1b2c3d4e5"
		locks.ShareDirectRead("444455556666", "partner:*")
		for range 2 { // repeating it changes nothing
			locks.ShareDirectLock("o-a1b2c3d4e5", "partner:*")
		}
		if len(arns) != 3 {
			t.Errorf("%d aliases", len(arns))
		}
		locks.ShareEvents("o-a1b2c3d4e5")
		for _, bad := range []string{"", "44445555666", "o-", "arn:aws:iam::444455556666:root"} {
			for _, said := range []string{panics(func() { locks.ShareDirectLock(bad, "*") }), panics(func() { locks.ShareEvents(bad) })} {
				if !strings.Contains(said, "12 digits") {
					t.Errorf("sharing with %q: %s", bad, said)
				}
			}
		}
		if said := panics(func() { locks.ShareDirectLock("444455556666", "a*b") }); !strings.Contains(said, "infra: pattern") {
			t.Errorf("pattern a*b: %s", said)
		}
	})
	role := tpl.find(t, "Partner", "AWS::IAM::Role")
	if trust := text(role.Properties["AssumeRolePolicyDocument"]); !strings.Contains(trust, ":iam::444455556666:root") || !strings.Contains(trust, "sts:AssumeRole") {
		t.Errorf("the role trusts %s", trust)
	}
	if policy := text(tpl.find(t, "PartnerDefaultPolicy", "AWS::IAM::Policy").Properties); strings.Count(policy, "/$default/POST/v1/locks/partner:*/") != 3 {
		t.Errorf("the role may %s", policy)
	}
	var shared []string
	for _, p := range tpl.of("AWS::Lambda::Permission") {
		if p.Properties["Principal"] == "apigateway.amazonaws.com" {
			continue
		}
		if !strings.Contains(text(p.Properties["FunctionName"]), "Only") {
			t.Errorf("%v is shared whole", p.Properties)
		}
		org, _ := p.Properties["PrincipalOrgID"].(string)
		shared = append(shared, p.Properties["Principal"].(string)+" "+org)
	}
	slices.Sort(shared)
	want := []string{"* o-a1b2c3d4e5", "* o-a1b2c3d4e5", "* o-a1b2c3d4e5", "444455556666 ", "444455556666 ", "444455556666 ", "444455556666 "}
	if !slices.Equal(shared, want) {
		t.Errorf("shared with %q", shared)
	}
	bus := text(tpl.of("AWS::Events::EventBusPolicy")[0].Properties["Statement"])
	for _, part := range []string{`"aws:PrincipalOrgID":"o-a1b2c3d4e5"`, `"events:creatorAccount":"${aws:PrincipalAccount}"`, "events:PutRule", ":rule/"} {
		if !strings.Contains(bus, part) {
			t.Errorf("the bus's policy has no %s: %s", part, bus)
		}
	}
}

// The functions have the permissions and the rule for the child executions of a Distributed Map, which belong to
// NAME/LABEL, too.
func TestDistributedMapChildren(t *testing.T) {
	tpl := synth(t, with(infra.Props{StateMachines: []string{"Nightly", "Deploy*"}}))
	stream, expire := text(tpl.find(t, "StreamRole", "AWS::IAM::Role")), text(tpl.find(t, "ExpireRole", "AWS::IAM::Role"))
	for _, arn := range []string{":stateMachine:Nightly\"", ":stateMachine:Nightly/*\"", ":stateMachine:Deploy*\""} {
		if !strings.Contains(stream, arn) {
			t.Errorf("the stream function may not send callbacks to tasks of %s", arn)
		}
	}
	for _, arn := range []string{":execution:Nightly:*\"", ":execution:Nightly/*:*\"", ":execution:Deploy*:*\""} {
		if !strings.Contains(expire, arn) {
			t.Errorf("the expire function may not look at %s", arn)
		}
	}
	rule := tpl.of("AWS::Events::Rule")[0].Properties["EventPattern"].(map[string]any)["detail"].(map[string]any)["stateMachineArn"].([]any)
	if len(rule) != 3 || !strings.HasSuffix(text(rule[0]), `:stateMachine:Nightly"]]}`) ||
		!strings.HasPrefix(text(rule[1]), `{"prefix":`) || !strings.HasSuffix(text(rule[1]), `:stateMachine:Nightly/"]]}}`) ||
		!strings.HasPrefix(text(rule[2]), `{"prefix":`) || !strings.HasSuffix(text(rule[2]), `:stateMachine:Deploy"]]}}`) {
		t.Errorf("the rule hears of %s", text(rule))
	}
}

// With a key, all stored data is encrypted with it; EventBridge and CloudWatch Logs may use it, and no role is in its
// policy, which would be a cycle of dependencies.
func TestKey(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		infra.NewCoordinator(stack, "Locks", infra.Props{
			Code: code, Key: awskms.NewKey(stack, jsii.String("Key"), nil), StateMachines: []string{"Nightly"},
		})
	})
	for kind, property := range map[string]string{
		"AWS::DynamoDB::Table": "SSESpecification", "AWS::SQS::Queue": "KmsMasterKeyId", "AWS::Events::EventBus": "KmsKeyIdentifier", "AWS::Logs::LogGroup": "KmsKeyId",
	} {
		for _, r := range tpl.of(kind) {
			if !strings.Contains(text(r.Properties[property]), `"Key`) {
				t.Errorf("%s has %s %s", kind, property, text(r.Properties[property]))
			}
		}
	}
	policy := text(tpl.of("AWS::KMS::Key")[0].Properties["KeyPolicy"])
	for _, part := range []string{`"Service":"events.amazonaws.com"`, "aws:SourceAccount", `"logs."`, "kms:EncryptionContext:aws:logs:arn", ":log-group:*"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the key's policy has no %s: %s", part, policy)
		}
	}
	if strings.Contains(policy, "Role") {
		t.Errorf("a role is in the key's policy: %s", policy)
	}
}

// Records are retried for the day that the stream keeps them.
func TestStreamRecordsAreKeptTrying(t *testing.T) {
	for _, m := range synth(t, with(infra.Props{})).of("AWS::Lambda::EventSourceMapping") {
		p := m.Properties
		if p["StartingPosition"] == nil { // the mapping of the timers
			if text(p["ScalingConfig"]) != `{"MaximumConcurrency":10}` {
				t.Errorf("timers %s", text(p))
			}
			continue
		}
		if p["MaximumRetryAttempts"] != -1.0 || p["MaximumRecordAgeInSeconds"] != -1.0 || p["BisectBatchOnFunctionError"] != true ||
			!strings.Contains(text(p["DestinationConfig"]), "DeadLetters") || len(p["FilterCriteria"].(map[string]any)["Filters"].([]any)) != len(infra.StreamFilters(nil)) {
			t.Errorf("stream %s", text(p))
		}
	}
}

// Two coordinators of a stack share no metrics and no log, and the searches of their dashboards are well formed.
func TestNamespaces(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		infra.NewCoordinator(stack, "Blue", infra.Props{Code: code})
		infra.NewCoordinator(stack, "Green", infra.Props{Code: code})
	})
	spaces, logs := map[string]int{}, map[string]bool{}
	for _, f := range tpl.of("AWS::Lambda::Function") {
		spaces[text(f.Properties["Environment"].(map[string]any)["Variables"].(map[string]any)["HOLDFAST_METRICS"])]++
	}
	for _, g := range tpl.of("AWS::Logs::LogGroup") {
		if name := text(g.Properties["LogGroupName"]); strings.Contains(name, "/aws/vendedlogs/") {
			logs[name] = true
		}
	}
	if len(spaces) != 2 || len(logs) != 2 {
		t.Errorf("namespaces %v, logs %v", spaces, logs)
	}
	for _, d := range tpl.of("AWS::CloudWatch::Dashboard") {
		body := text(d.Properties["DashboardBody"])
		if n := strings.Count(body, "SEARCH("); n < 4 || strings.Count(body, `SEARCH('{\\\"Holdfast/`) != n {
			t.Errorf("a search's namespace is not quoted: %s", body)
		}
	}
}

// A Fail state has no End: Step Functions refuses the definition. Nothing names a partition.
func TestSectionIsValid(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code, StateMachines: []string{"Machine"}})
		awsstepfunctions.NewStateMachine(stack, jsii.String("Machine"), &awsstepfunctions.StateMachineProps{
			Role: role, DefinitionBody: awsstepfunctions.DefinitionBody_FromChainable(locks.CriticalSection(stack, "S", infra.SectionProps{
				Role: role, Lock: "deploy:prod", Body: awsstepfunctions.NewPass(stack, jsii.String("Body"), nil),
			})),
		})
	})
	definition := text(tpl.of("AWS::StepFunctions::StateMachine")[0].Properties["DefinitionString"])
	if !strings.Contains(definition, `\"S: failed\":{\"Type\":\"Fail\",\"ErrorPath\":\"$.holdfast.error.Error\",\"CausePath\":\"$.holdfast.error.Cause\"}`) {
		t.Errorf("definition %s", definition)
	}
	if strings.Contains(definition, "arn:aws:") {
		t.Errorf("the definition names the partition aws: %s", definition)
	}
}

// find is the resource of a kind whose logical id is the construct's, then a name, then a hash.
func (t template) find(test *testing.T, name, kind string) resource {
	test.Helper()
	for id, r := range t {
		if r.Type == kind && strings.HasPrefix(id, "Locks"+name) && len(id) == len("Locks"+name)+8 {
			return r
		}
	}
	test.Fatalf("there is no %s called %s", kind, name)
	return resource{}
}
