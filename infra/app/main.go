// Command app is Holdfast's own CDK app: one stack with one coordinator. Settings are context values, "cdk deploy -c
// NAME=VALUE", and docs/deploy.md lists them.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

func main() {
	err := synth()
	jsii.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func synth() (err error) {
	defer func() {
		p := recover()
		if e, ok := p.(error); ok && strings.HasPrefix(e.Error(), "infra: ") {
			err = e // invalid settings, for the user to correct
		} else if p != nil {
			panic(p)
		}
	}()
	app := awscdk.NewApp(&awscdk.AppProps{Context: &map[string]any{"@aws-cdk/aws-iam:minimizePolicies": true}})
	context := map[string]string{}
	if all, ok := app.Node().GetAllContext(nil).(map[string]any); ok {
		for name, value := range all {
			context[name] = fmt.Sprint(value)
		}
	}
	name := context["stack"]
	if name == "" {
		name = "Holdfast"
	}
	stack := awscdk.NewStack(app, &name, &awscdk.StackProps{Description: jsii.String("Holdfast: a serverless lock coordinator")})
	props, err := readSettings(stack, context)
	if err != nil {
		return err
	}
	if props.AlarmTopic == nil {
		awscdk.Annotations_Of(stack).AddInfo(jsii.String("the alarms notify nobody; -c alarmTopic=ARN names an SNS topic for them"))
	}
	examples := context["examples"]
	if examples != "" {
		props.StateMachines = append(props.StateMachines, exampleMachines)
	}
	locks := infra.NewCoordinator(stack, "Locks", props)
	if examples != "" {
		addExamples(stack, locks, examples, context["work"])
	}
	outputs := map[string]*string{
		"BusName": locks.Bus.EventBusName(), "TableName": locks.Table.TableName(), "DeadLettersUrl": locks.DeadLetters.QueueUrl(),
		"NotifyPrefix": locks.NotifyPrefix, "Functions": locks.LiveFunctions(),
	}
	if locks.API != nil {
		outputs["Endpoint"] = locks.API.ApiEndpoint()
	}
	for _, f := range locks.Functions {
		outputs[*f.Node().Id()+"Function"] = f.FunctionName()
	}
	for output, value := range outputs {
		awscdk.NewCfnOutput(stack, &output, &awscdk.CfnOutputProps{Value: value})
	}
	app.Synth(nil)
	return nil
}
