package infra

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
)

// maxPattern is Lambda's limit of one filter's pattern, in characters. An event source has at most five filters:
// https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html
const maxPattern = 4096

// StreamFilters select the stream records that invoke the stream function. events are Props.Events.
//
// For the events of locks that have listeners: writes of a lock's record except the quiet ones of [lock.QuietCauses], and the
// removal of a held lock by native TTL. For queues and executions, whoever listens: see [lock.Write.OfQueue], rows that report the
// end of a task's wait, and writes of prefix rules. So a renewal, or the removal of a free lock, invokes nothing; with [NoEvents] neither does an acquire or
// a release of a lock that nobody waits for.
//
// The filters compare strings only: numbers of DynamoDB are strings in a stream record, so that Lambda's numeric operators do not match
// them. "anything-but" does not match an attribute that is missing.
func StreamFilters(events []string) []map[string]any {
	image := func(attribute, kind string, is any) map[string]any {
		return map[string]any{attribute: map[string]any{kind: []any{is}}}
	}
	loud := map[string]any{"anything-but": lock.QuietCauses()}
	notZero := map[string]any{"anything-but": []any{"0"}}
	ofLock := func() map[string]any { return image("sk", "S", "lock") }
	prefix := func(s string) map[string]any { return map[string]any{"prefix": s} }
	always := map[string]any{"eventName": []any{"INSERT", "MODIFY"}, "dynamodb": map[string]any{"Keys": map[string]any{
		"sk": map[string]any{"S": []any{prefix("ended#"), prefix("rule#")}},
	}}}

	all, none := len(events) == 0, len(events) == 1 && events[0] == NoEvents
	filters := []map[string]any{always}
	if !none {
		listened := ofLock()
		if !all {
			var prefixes []any
			for _, p := range events {
				prefixes = append(prefixes, map[string]any{"prefix": p})
			}
			listened["pk"] = map[string]any{"S": prefixes}
		}
		filters = append(filters,
			map[string]any{"dynamodb": map[string]any{"Keys": listened, "NewImage": image("cause", "S", loud)}},
			map[string]any{"eventName": []any{"REMOVE"}, "dynamodb": map[string]any{"Keys": listened, "OldImage": image("free_at", "N", notZero)}})
	}
	if !all {
		var causes []any
		for _, c := range lock.QueueCauses() {
			causes = append(causes, c)
		}
		filters = append(filters,
			map[string]any{"dynamodb": map[string]any{"Keys": ofLock(), "NewImage": map[string]any{"cause": map[string]any{"S": causes}}}},
			map[string]any{"dynamodb": map[string]any{"Keys": ofLock(), "NewImage": image("cause", "S", loud), "OldImage": image("waiting", "N", notZero)}})
	}
	return filters
}

// patterns are the patterns of the stream's filters. The error says that there are too many prefixes for one.
func patterns(events []string) (list []*string, err error) {
	for _, f := range StreamFilters(events) {
		pattern, err := json.Marshal(f)
		if err != nil {
			return nil, err
		}
		if len(pattern) > maxPattern {
			return nil, fmt.Errorf("infra: Props.Events has %d prefixes, which make a filter of %d characters; Lambda takes %d: give fewer or shorter prefixes, or none for all events",
				len(events), len(pattern), maxPattern)
		}
		list = append(list, jsii.String(string(pattern)))
	}
	return list, nil
}

// eventSources connects the stream and the timers to their functions.
func (c *Coordinator) eventSources() {
	var filters []*awslambda.CfnEventSourceMapping_FilterProperty
	list, err := patterns(c.props.Events)
	if err != nil {
		panic(err) // cannot happen: validate made them
	}
	for _, pattern := range list {
		filters = append(filters, &awslambda.CfnEventSourceMapping_FilterProperty{Pattern: pattern})
	}
	// A -1, which the CDK's own construct does not accept, retries a record as long as the stream keeps it, so that
	// nothing is lost when the function fails for hours. The function itself puts a record that can never be handled
	// into the dead-letter queue.
	awslambda.NewCfnEventSourceMapping(c.Construct, jsii.String("StreamSource"), &awslambda.CfnEventSourceMappingProps{
		FunctionName: c.Live["stream"].FunctionArn(), EventSourceArn: c.Table.TableStreamArn(), StartingPosition: jsii.String("TRIM_HORIZON"),
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
	awslambda.NewCfnEventSourceMapping(c.Construct, jsii.String("TimersSource"), &awslambda.CfnEventSourceMappingProps{
		FunctionName: c.Live["expire"].FunctionArn(), EventSourceArn: c.Timers.QueueArn(), BatchSize: jsii.Number(10),
		FunctionResponseTypes: jsii.Strings("ReportBatchItemFailures"),
		ScalingConfig:         &awslambda.CfnEventSourceMapping_ScalingConfigProperty{MaximumConcurrency: jsii.Number(c.props.TimersConcurrency)},
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
		Targets: &[]awsevents.IRuleTarget{awseventstargets.NewLambdaFunction(c.Live["expire"], &awseventstargets.LambdaFunctionProps{DeadLetterQueue: c.DeadLetters})},
	})
	// EventBridge invokes the function asynchronously: Lambda retries twice, and then sends the event to OnFailure.
	failed := awslambda.NewCfnEventInvokeConfig(c.Construct, jsii.String("ExecutionsEndFailed"), &awslambda.CfnEventInvokeConfigProps{
		FunctionName: c.Functions["expire"].FunctionName(), Qualifier: jsii.String(scope.Live), MaximumRetryAttempts: jsii.Number(2),
		DestinationConfig: &awslambda.CfnEventInvokeConfig_DestinationConfigProperty{
			OnFailure: &awslambda.CfnEventInvokeConfig_OnFailureProperty{Destination: c.DeadLetters.QueueArn()},
		},
	})
	failed.Node().AddDependency(c.Live["expire"])
}
