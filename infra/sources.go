package infra

import (
	"encoding/json"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// StreamFilters select the stream records that invoke the stream function: writes of a lock's record except the quiet
// ones of [lock.QuietCauses], rows that report the end of a task's wait, and the removal of a held lock by native TTL.
// A renewal, a new waiter or the removal of a free lock invokes nothing.
var StreamFilters = []map[string]any{
	{"dynamodb": map[string]any{
		"Keys":     map[string]any{"sk": map[string]any{"S": []any{"lock"}}},
		"NewImage": map[string]any{"cause": map[string]any{"S": []any{map[string]any{"anything-but": lock.QuietCauses()}}}},
	}},
	{"eventName": []any{"INSERT"}, "dynamodb": map[string]any{
		"Keys": map[string]any{"sk": map[string]any{"S": []any{map[string]any{"prefix": "ended#"}}}},
	}},
	{"eventName": []any{"REMOVE"}, "dynamodb": map[string]any{
		"Keys":     map[string]any{"sk": map[string]any{"S": []any{"lock"}}},
		"OldImage": map[string]any{"free_at": map[string]any{"N": []any{map[string]any{"anything-but": []any{"0"}}}}},
	}},
}

// eventSources connects the stream and the timers to their functions.
func (c *Coordinator) eventSources() {
	var filters []*awslambda.CfnEventSourceMapping_FilterProperty
	for _, f := range StreamFilters {
		pattern, err := json.Marshal(f)
		if err != nil {
			panic(err)
		}
		filters = append(filters, &awslambda.CfnEventSourceMapping_FilterProperty{Pattern: jsii.String(string(pattern))})
	}
	// A -1, which the CDK's own construct does not accept, retries a record as long as the stream keeps it, so that
	// nothing is lost when the function fails for hours. The function itself puts a record that can never be handled
	// into the dead-letter queue.
	awslambda.NewCfnEventSourceMapping(c.Construct, jsii.String("StreamSource"), &awslambda.CfnEventSourceMappingProps{
		FunctionName: c.Functions["stream"].FunctionName(), EventSourceArn: c.Table.TableStreamArn(), StartingPosition: jsii.String("TRIM_HORIZON"),
		BatchSize: jsii.Number(100), FilterCriteria: &awslambda.CfnEventSourceMapping_FilterCriteriaProperty{Filters: filters},
		FunctionResponseTypes: jsii.Strings("ReportBatchItemFailures"), BisectBatchOnFunctionError: jsii.Bool(true),
		MaximumRetryAttempts: jsii.Number(-1), MaximumRecordAgeInSeconds: jsii.Number(-1),
		DestinationConfig: &awslambda.CfnEventSourceMapping_DestinationConfigProperty{
			OnFailure: &awslambda.CfnEventSourceMapping_OnFailureProperty{Destination: c.DeadLetters.QueueArn()},
		},
	})
	if c.Timers == nil {
		return
	}
	awslambda.NewEventSourceMapping(c.Construct, jsii.String("TimersSource"), &awslambda.EventSourceMappingProps{
		Target: c.Functions["expire"], EventSourceArn: c.Timers.QueueArn(), BatchSize: jsii.Number(10), ReportBatchItemFailures: jsii.Bool(true),
		MaxConcurrency: jsii.Number(c.props.TimersConcurrency),
	})
}

// executions adds a rule that invokes the expire function when an execution of Props.StateMachines ends.
func (c *Coordinator) executions() {
	if len(c.props.StateMachines) == 0 || c.Functions["expire"] == nil {
		return
	}
	var machines []any
	for _, m := range c.props.StateMachines {
		name, open := strings.CutSuffix(m, "*")
		arn := *awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("states"), Resource: jsii.String("stateMachine"), ResourceName: &name, ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		})
		if open {
			machines = append(machines, map[string]any{"prefix": arn})
		} else { // the prefix is that of its Distributed Maps' child executions
			machines = append(machines, arn, map[string]any{"prefix": arn + "/"})
		}
	}
	c.rule = awsevents.NewRule(c.Construct, jsii.String("ExecutionsEnd"), &awsevents.RuleProps{
		Description: jsii.String("Ends the leases of ended executions"),
		EventPattern: &awsevents.EventPattern{
			Source: jsii.Strings("aws.states"), DetailType: jsii.Strings("Step Functions Execution Status Change"),
			Detail: &map[string]any{"status": []any{"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}, "stateMachineArn": machines},
		},
		Targets: &[]awsevents.IRuleTarget{awseventstargets.NewLambdaFunction(c.Functions["expire"], &awseventstargets.LambdaFunctionProps{DeadLetterQueue: c.DeadLetters})},
	})
	// EventBridge invokes the function asynchronously: Lambda retries twice, and then sends the event to OnFailure.
	awslambda.NewCfnEventInvokeConfig(c.Construct, jsii.String("ExecutionsEndFailed"), &awslambda.CfnEventInvokeConfigProps{
		FunctionName: c.Functions["expire"].FunctionName(), Qualifier: jsii.String("$LATEST"), MaximumRetryAttempts: jsii.Number(2),
		DestinationConfig: &awslambda.CfnEventInvokeConfig_DestinationConfigProperty{
			OnFailure: &awslambda.CfnEventInvokeConfig_OnFailureProperty{Destination: c.DeadLetters.QueueArn()},
		},
	})
}
