package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

// exampleMachines matches the names of the examples' state machines.
const exampleMachines = "HoldfastExample*"

// addExamples adds the state machines of examples/stepfunctions, and one made with CriticalSection, for "make e2e" and
// for trials (cdk deploy -c examples=DIRECTORY -c work=DIRECTORY). The function in the folder work does their work.
func addExamples(stack awscdk.Stack, locks *infra.Coordinator, dir, work string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.asl.json"))
	if err != nil || len(files) == 0 {
		panic("there are no examples in " + dir)
	}
	role := awsiam.NewRole(stack, jsii.String("ExampleRole"), &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil)})
	functions := locks.GrantDirectLock(role, "example:*")
	worker := awslambda.NewFunction(stack, jsii.String("ExampleWork"), &awslambda.FunctionProps{
		Runtime: awslambda.Runtime_PROVIDED_AL2023(), Handler: jsii.String("bootstrap"), Code: awslambda.Code_FromAsset(&work, nil),
		Timeout: awscdk.Duration_Seconds(jsii.Number(30)),
	})
	worker.GrantInvoke(role)
	replace := strings.NewReplacer(
		"${Partition}", *awscdk.Aws_PARTITION(),
		"${AcquireFunction}", *functions["acquire"], "${ReleaseFunction}", *functions["release"], "${WorkFunction}", *worker.FunctionArn(),
	)
	name := func(s string) string {
		var out strings.Builder
		out.WriteString(strings.TrimSuffix(exampleMachines, "*"))
		for word := range strings.SplitSeq(s, "-") {
			out.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
		return out.String()
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			panic(err)
		}
		machine(stack, role, name(strings.TrimSuffix(filepath.Base(f), ".asl.json")), awsstepfunctions.DefinitionBody_FromString(jsii.String(replace.Replace(string(text)))))
	}
	body := func(id, fence string) awsstepfunctions.CustomState {
		return awsstepfunctions.NewCustomState(stack, &id, &awsstepfunctions.CustomStateProps{StateJson: &map[string]any{
			"Type": "Task", "Resource": "arn:" + *awscdk.Aws_PARTITION() + ":states:::lambda:invoke", "ResultSelector": map[string]any{"done.$": "$.Payload"},
			"Parameters": map[string]any{"FunctionName": worker.FunctionArn(), "Payload": map[string]any{"fence.$": fence, "input.$": "$"}},
		}})
	}
	section := locks.CriticalSection(stack, "Section", infra.SectionProps{Role: role, Lock: "$.lock", Pattern: "example:*", Body: body("Work", "$.holdfast.grant.fence")})
	machine(stack, role, name("construct"), awsstepfunctions.DefinitionBody_FromChainable(section))
	together := locks.CriticalSection(stack, "Together", infra.SectionProps{
		Role: role, Locks: []infra.SectionLock{{Name: "$.lock"}, {Name: "example:shared", Capacity: 20}}, Pattern: "example:*",
		Body: body("Work together", "$.holdfast.grant.locks[0].fence"),
	})
	machine(stack, role, name("construct-together"), awsstepfunctions.DefinitionBody_FromChainable(together))
}

func machine(stack awscdk.Stack, role awsiam.Role, name string, definition awsstepfunctions.DefinitionBody) {
	m := awsstepfunctions.NewStateMachine(stack, &name, &awsstepfunctions.StateMachineProps{StateMachineName: &name, Role: role, DefinitionBody: definition})
	awscdk.NewCfnOutput(stack, jsii.String(name+"Arn"), &awscdk.CfnOutputProps{Value: m.StateMachineArn()})
}
