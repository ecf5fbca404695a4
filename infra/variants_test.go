package infra_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

// templates is where "make templates" has the variants' templates written, to validate them.
var templates = flag.String("templates", "", "write the template of each variant into this directory")

// account is where variants with an environment are deployed.
const account = "111122223333"

func in(region string) *awscdk.StackProps {
	return &awscdk.StackProps{Env: &awscdk.Environment{Account: jsii.String(account), Region: jsii.String(region)}}
}

// A variant is a way to use the construct; build adds stacks to the app.
type variant struct {
	name  string
	build func(app awscdk.App, code string) []awscdk.Stack
}

// one is a variant of one stack.
func one(name string, env *awscdk.StackProps, build func(stack awscdk.Stack, code string)) variant {
	return variant{name, func(app awscdk.App, code string) []awscdk.Stack {
		stack := awscdk.NewStack(app, jsii.String("Test"), env)
		build(stack, code)
		return []awscdk.Stack{stack}
	}}
}

// used are the props that the variants set.
var used []infra.Props

func coordinator(stack awscdk.Stack, id, code string, props infra.Props) *infra.Coordinator {
	props.Code = code
	used = append(used, props)
	return infra.NewCoordinator(stack, id, props)
}

// everything is a coordinator with all features, and all that its methods add.
func everything(stack awscdk.Stack, code string, props infra.Props) {
	props.StateMachines, props.DurableFunctions, props.Tracing = []string{"Deploy*", "Nightly"}, []string{"durable"}, true
	locks := coordinator(stack, "Locks", code, props)
	role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
	locks.GrantLock(role, "deploy:*")
	locks.GrantList(role)
	locks.GrantDirectRead(role, "*")
	locks.LockRole("Partner", awsiam.NewAccountPrincipal(jsii.String("444455556666")), "partner:*")
	locks.ShareDirectLock("444455556666", "partner:*")
	locks.ShareDirectRead("o-a1b2c3d4e5", "*")
	locks.ShareEvents("444455556666")
	locks.ShareEvents("o-a1b2c3d4e5")
	section := locks.CriticalSection(stack, "Prod", infra.SectionProps{
		Role: role, Lock: "deploy:prod", Capacity: 3, Permits: 2, Body: awsstepfunctions.NewPass(stack, jsii.String("Body"), nil),
	})
	awsstepfunctions.NewStateMachine(stack, jsii.String("Machine"), &awsstepfunctions.StateMachineProps{
		StateMachineName: jsii.String("DeployProd"), Role: role, DefinitionBody: awsstepfunctions.DefinitionBody_FromChainable(section),
	})
	together := locks.CriticalSection(stack, "All", infra.SectionProps{
		Role: role, Locks: []infra.SectionLock{{Name: "$.lock"}, {Name: "deploy:shared", Capacity: 3, Permits: 2}}, Pattern: "deploy:*",
		Body: awsstepfunctions.NewPass(stack, jsii.String("Body of all"), nil),
	})
	awsstepfunctions.NewStateMachine(stack, jsii.String("MachineOfAll"), &awsstepfunctions.StateMachineProps{
		StateMachineName: jsii.String("DeployAll"), Role: role, DefinitionBody: awsstepfunctions.DefinitionBody_FromChainable(together),
	})
}

// withoutAPI are the props of a coordinator in a VPC, without an API, with endpoints of its own and gradual roll-outs.
func withoutAPI() infra.Props {
	return infra.Props{
		NoAPI: true, SubnetIDs: []string{"subnet-0a1b2c3d", "subnet-1a2b3c4d"}, SecurityGroupIDs: []string{"sg-0a1b2c3d"}, EndpointsVPC: "vpc-0a1b2c3d", RouteTableIDs: []string{"rtb-0a1b2c3d", "rtb-1a2b3c4d"},
		StateMachines: []string{"Deploy*"}, DurableFunctions: []string{"durable"}, Tracing: true, Versions: true, Rollout: "Canary10Percent5Minutes",
	}
}

var variants = []variant{
	one("defaults", nil, func(stack awscdk.Stack, code string) { coordinator(stack, "Locks", code, infra.Props{}) }),
	one("everything", nil, func(stack awscdk.Stack, code string) {
		everything(stack, code, infra.Props{
			Architecture: infra.X86, RemovalPolicy: awscdk.RemovalPolicy_RETAIN, DeletionProtection: true, Table: "locks",
			MaxTTL: awscdk.Duration_Days(jsii.Number(7)), Concurrency: 20, StreamConcurrency: 5, ExpireConcurrency: 6, TimersConcurrency: 4,
			RequestsPerSecond: 50, Burst: 60, LogRetention: awslogs.RetentionDays_ONE_WEEK, MetricNamespace: "Mine", NotifyName: "mine", Versions: true, Rollout: "Canary10Percent30Minutes",
			SubnetIDs: []string{"subnet-0a1b2c3d"}, SecurityGroupIDs: []string{"sg-0a1b2c3d"},
			AlarmTopic: awssns.Topic_FromTopicArn(stack, jsii.String("Topic"), jsii.String("arn:aws:sns:eu-west-1:"+account+":alarms")),
			Key:        awskms.Key_FromKeyArn(stack, jsii.String("Key"), jsii.String("arn:aws:kms:eu-west-1:"+account+":key/1a2b3c4d-1234-1234-1234-1a2b3c4d5e6f")),
		})
	}),
	one("own-key-and-topic", in("eu-west-1"), func(stack awscdk.Stack, code string) {
		everything(stack, code, infra.Props{
			Key: awskms.NewKey(stack, jsii.String("Key"), nil), AlarmTopic: awssns.NewTopic(stack, jsii.String("Topic"), nil),
		})
	}),
	{"key-in-its-own-stack", func(app awscdk.App, code string) []awscdk.Stack {
		keys := awscdk.NewStack(app, jsii.String("Keys"), in("eu-west-1"))
		stack := awscdk.NewStack(app, jsii.String("Test"), in("eu-west-1"))
		everything(stack, code, infra.Props{Key: awskms.NewKey(keys, jsii.String("Key"), nil)})
		return []awscdk.Stack{stack, keys}
	}},
	{"key-in-its-own-stack-without-environment", func(app awscdk.App, code string) []awscdk.Stack {
		keys := awscdk.NewStack(app, jsii.String("Keys"), nil)
		stack := awscdk.NewStack(app, jsii.String("Test"), nil)
		everything(stack, code, infra.Props{Key: awskms.NewKey(keys, jsii.String("Key"), nil)})
		return []awscdk.Stack{stack, keys}
	}},
	one("own-key-without-environment", nil, func(stack awscdk.Stack, code string) {
		everything(stack, code, infra.Props{Key: awskms.NewKey(stack, jsii.String("Key"), nil)})
	}),
	one("imported-table", nil, func(stack awscdk.Stack, code string) {
		coordinator(stack, "Locks", code, infra.Props{ImportedTable: awsdynamodb.Table_FromTableAttributes(stack, jsii.String("Table"), &awsdynamodb.TableAttributes{
			TableArn:       jsii.String("arn:aws:dynamodb:eu-west-1:" + account + ":table/locks"),
			TableStreamArn: jsii.String("arn:aws:dynamodb:eu-west-1:" + account + ":table/locks/stream/2026-01-01T00:00:00.000"),
		})})
	}),
	one("no-api", nil, func(stack awscdk.Stack, code string) {
		locks := coordinator(stack, "Locks", code, infra.Props{NoAPI: true})
		role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
		locks.GrantDirectLock(role, "*")
	}),
	one("no-api-by-alias", nil, func(stack awscdk.Stack, code string) {
		props := withoutAPI()
		props.StateMachines, props.Tracing = nil, false
		locks := coordinator(stack, "Locks", code, props)
		role := awsiam.NewRole(stack, jsii.String("Role"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("ecs-tasks.amazonaws.com"), nil)})
		functions := infra.FunctionList(locks.GrantDirectLock(role, "deploy:*"), locks.GrantDirectRead(role, "deploy:*"))
		awscdk.NewCfnOutput(stack, jsii.String("Deployer"), &awscdk.CfnOutputProps{Value: functions})
	}),
	// "make templates" compares the following with the SAM template.
	one("sam", nil, func(stack awscdk.Stack, code string) {
		coordinator(stack, "Locks", code, infra.Props{
			DeletionProtection: true, Table: "locks", MaxTTL: awscdk.Duration_Minutes(jsii.Number(5)), StateMachines: []string{"Deploy*"},
			DurableFunctions: []string{"durable"}, Events: []string{"deploy:", "report"}, Concurrency: 20, StreamConcurrency: 5, ExpireConcurrency: 6, TimersConcurrency: 4,
			RequestsPerSecond: 50, Burst: 60, LogRetention: awslogs.RetentionDays_ONE_WEEK, Tracing: true, MetricNamespace: "Mine", NotifyName: "mine",
			Versions: true, Rollout: "Canary10Percent30Minutes", SubnetIDs: []string{"subnet-0a1b2c3d"}, SecurityGroupIDs: []string{"sg-0a1b2c3d"},
			TraceEndpoint: "http://localhost:4318", TraceLayer: "arn:aws:lambda:eu-west-1:" + account + ":layer:collector:1",
			AlarmTopic: awssns.Topic_FromTopicArn(stack, jsii.String("Topic"), jsii.String("arn:aws:sns:eu-west-1:"+account+":alarms")),
			Key:        awskms.Key_FromKeyArn(stack, jsii.String("Key"), jsii.String("arn:aws:kms:eu-west-1:"+account+":key/k")),
		})
	}),
	one("sam-without-timers", nil, func(stack awscdk.Stack, code string) {
		coordinator(stack, "Locks", code, infra.Props{NoPromptExpiry: true, Events: []string{infra.NoEvents}, Versions: true, Rollout: "Linear10PercentEvery1Minute"})
	}),
	one("sam-without-api", nil, func(stack awscdk.Stack, code string) { coordinator(stack, "Locks", code, withoutAPI()) }),
	one("trial", nil, func(stack awscdk.Stack, code string) {
		coordinator(stack, "Locks", code, infra.Props{Versions: true, NoPromptExpiry: true, RemovalPolicy: awscdk.RemovalPolicy_DESTROY})
	}),
	one("two-coordinators", nil, func(stack awscdk.Stack, code string) {
		coordinator(stack, "Blue", code, infra.Props{StateMachines: []string{"Blue*"}})
		coordinator(stack, "Green", code, infra.Props{StateMachines: []string{"Green"}})
	}),
	one("us-gov", in("us-gov-west-1"), func(stack awscdk.Stack, code string) {
		everything(stack, code, infra.Props{Key: awskms.NewKey(stack, jsii.String("Key"), nil)})
	}),
	one("china", in("cn-north-1"), func(stack awscdk.Stack, code string) {
		everything(stack, code, infra.Props{Key: awskms.NewKey(stack, jsii.String("Key"), nil)})
	}),
}

// Every variant has a template that can be deployed, without a cycle, and every prop is set in one of them.
func TestVariants(t *testing.T) {
	zips := code(t)
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			app := newApp()
			for i, stack := range v.build(app, zips) {
				data, err := json.MarshalIndent(assertions.Template_FromStack(stack, nil).ToJSON(), "", " ")
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(v.name, "us-gov") || v.name == "china" {
					if bytes.Contains(data, []byte("arn:aws:")) {
						t.Error("the template names the partition aws")
					}
				}
				if *templates == "" {
					continue
				}
				name := v.name
				if i > 0 {
					name += "-" + strings.ToLower(*stack.StackName())
				}
				if err := os.WriteFile(filepath.Join(*templates, name+".template.json"), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	for f := range reflect.TypeFor[infra.Props]().Fields() {
		set := false
		for _, p := range used {
			set = set || !reflect.ValueOf(p).FieldByIndex(f.Index).IsZero()
		}
		if !set {
			t.Errorf("no variant sets Props.%s", f.Name)
		}
	}
}
