package infra

import (
	"cmp"
	"maps"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// SectionProps are the settings of a critical section.
type SectionProps struct {
	// Role is the state machine's role. It is granted to acquire and release the locks of Pattern.
	Role awsiam.IRole
	// Lock is the lock's name, or the JSONPath of the name in the input ("$.lock").
	Lock string
	// Pattern covers the names that Lock may have: a name, or a prefix of names followed by "*". Empty: Lock itself.
	Pattern string
	// Body runs while the lock is held. Its input has the fencing token at $.holdfast.grant.fence.
	Body awsstepfunctions.IChainable
	// WaitSeconds is how long to wait for the lock. 0: a day.
	WaitSeconds float64
	// Capacity and Permits make the lock a semaphore. 0: 1.
	Capacity, Permits int
}

// CriticalSection wraps a chain of states: it waits in the lock's queue, at no cost, runs the chain, and releases the
// lock on every path: when the chain succeeds, when it fails, and when the execution is aborted or times out, since the
// lease belongs to the execution. Its output and its error are the chain's. The execution's input must be an object.
// The state machine must be one of Props.StateMachines.
func (c *Coordinator) CriticalSection(scope constructs.Construct, id string, props SectionProps) awsstepfunctions.Chain {
	functions := c.GrantDirectLock(props.Role, cmp.Or(props.Pattern, props.Lock))
	lock := map[string]any{"lease.$": "$.holdfast.lease"}
	if strings.HasPrefix(props.Lock, "$") {
		lock["name.$"] = props.Lock
	} else {
		lock["name"] = props.Lock
	}
	acquire := map[string]any{"owner.$": "$$.Execution.Name", "task_token.$": "$$.Task.Token", "execution.$": "$$.Execution.Id"} //nolint:gosec // paths, not credentials
	maps.Copy(acquire, lock)
	if props.Capacity > 0 {
		acquire["capacity"] = props.Capacity
	}
	if props.Permits > 0 {
		acquire["permits"] = props.Permits
	}
	retry := []any{map[string]any{
		"ErrorEquals": []string{
			"Throttled", "StoreUnavailable", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException", "Lambda.TooManyRequestsException",
		},
		"IntervalSeconds": 1, "BackoffRate": 2, "MaxAttempts": 6, "MaxDelaySeconds": 20, "JitterStrategy": "FULL",
	}}
	state := func(name string, json map[string]any) awsstepfunctions.CustomState {
		return awsstepfunctions.NewCustomState(scope, jsii.String(id+": "+name), &awsstepfunctions.CustomStateProps{StateJson: &json})
	}
	call := func(resource string, function *string, payload map[string]any, result string) map[string]any {
		return map[string]any{
			"Type": "Task", "Resource": resource, "Parameters": map[string]any{"FunctionName": function, "Payload": payload},
			"ResultPath": result, "Retry": retry,
		}
	}
	invoke := invokeResource()

	failed := awsstepfunctions.NewFail(scope, jsii.String(id+": failed"), &awsstepfunctions.FailProps{
		ErrorPath: jsii.String("$.holdfast.error.Error"), CausePath: jsii.String("$.holdfast.error.Cause"),
	})
	giveUp := state("release after failure", call(invoke, functions["release"], lock, "$.holdfast.released"))
	giveUp.AddCatch(failed, &awsstepfunctions.CatchProps{ResultPath: jsii.String("$.holdfast.released")})
	giveUp.Next(failed)
	caught := &awsstepfunctions.CatchProps{ResultPath: jsii.String("$.holdfast.error")}

	take := call(invoke+".waitForTaskToken", functions["acquire"], acquire, "$.holdfast.grant")
	take["TimeoutSeconds"] = cmp.Or(props.WaitSeconds, 24*60*60)
	taking := state("acquire", take)
	taking.AddCatch(giveUp, caught)
	body := awsstepfunctions.NewParallel(scope, jsii.String(id), &awsstepfunctions.ParallelProps{ResultPath: jsii.String("$.holdfast.result")})
	body.Branch(props.Body)
	body.AddCatch(giveUp, caught)
	release := state("release", call(invoke, functions["release"], lock, "$.holdfast.released"))
	result := awsstepfunctions.NewPass(scope, jsii.String(id+": result"), &awsstepfunctions.PassProps{InputPath: jsii.String("$.holdfast.result[0]")})
	lease := awsstepfunctions.NewPass(scope, jsii.String(id+": lease"), &awsstepfunctions.PassProps{
		Parameters: &map[string]any{"lease.$": "States.UUID()"}, ResultPath: jsii.String("$.holdfast"),
	})
	return awsstepfunctions.Chain_Start(lease).Next(taking).Next(body).Next(release).Next(result)
}

// invokeResource is the resource of a state that invokes a function.
func invokeResource() string { return "arn:" + *awscdk.Aws_PARTITION() + ":states:::lambda:invoke" }
