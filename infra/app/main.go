// Command app is Holdfast's own CDK app: one stack with one coordinator. Settings are context values, "cdk deploy -c NAME=VALUE":
//
//	stack         the stack's name; default Holdfast. One account may have several
//	architecture  arm64, the default, or x86_64
//	code          a directory with the functions' zips; by default they are built
//	destroy       true: the table goes with the stack, for trials
package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

func main() {
	defer jsii.Close()
	app := awscdk.NewApp(&awscdk.AppProps{Context: &map[string]any{"@aws-cdk/aws-iam:minimizePolicies": true}})
	context := func(name, otherwise string) string {
		if v, ok := app.Node().TryGetContext(&name).(string); ok && v != "" {
			return v
		}
		return otherwise
	}
	name := context("stack", "Holdfast")
	stack := awscdk.NewStack(app, &name, &awscdk.StackProps{Description: jsii.String("Holdfast: a serverless lock coordinator")})
	props := infra.Props{Architecture: infra.Architecture(context("architecture", "")), Code: context("code", "")}
	if context("destroy", "") == "true" {
		props.RemovalPolicy = awscdk.RemovalPolicy_DESTROY
	}
	examples := context("examples", "")
	if examples != "" {
		props.StateMachines = []string{exampleMachines}
	}
	locks := infra.NewCoordinator(stack, "Locks", props)
	if examples != "" {
		addExamples(stack, locks, examples, context("work", ""))
	}
	for output, value := range map[string]*string{
		"Endpoint": locks.API.ApiEndpoint(), "BusName": locks.Bus.EventBusName(), "TableName": locks.Table.TableName(),
		"DeadLettersUrl": locks.DeadLetters.QueueUrl(),
	} {
		awscdk.NewCfnOutput(stack, &output, &awscdk.CfnOutputProps{Value: value})
	}
	app.Synth(nil)
}
