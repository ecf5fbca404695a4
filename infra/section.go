package infra

import (
	"cmp"
	"fmt"
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
	// Locks, instead of Lock, are 2 to 10 locks that are acquired together, all or none.
	Locks []SectionLock
	// Pattern covers the names that Lock, or each of Locks, may have: a name, or a prefix of names followed by "*". Empty: Lock itself.
	// With Locks it is required.
	Pattern string
	// Body runs while the lock is held. Its input has the fencing token at $.holdfast.grant.fence, and those of Locks at
	// $.holdfast.grant.locks[*].fence, in the order of the locks' names.
	Body awsstepfunctions.IChainable
	// WaitSeconds is how long to wait for the lock. 0: a day.
	WaitSeconds float64
	// Capacity and Permits make the lock a semaphore. 0: 1.
	Capacity, Permits int
}

// A SectionLock is one of the locks of a critical section that acquires several.
type SectionLock struct {
	// Name is the lock's name, or the JSONPath of the name in the input ("$.customer").
	Name string
	// Capacity and Permits make the lock a semaphore. 0: 1.
	Capacity, Permits int
}

// CriticalSection wraps a chain of states: it waits in the lock's queue, at no cost, runs the chain, and releases the
// lock on every path: when the chain succeeds, when it fails, and when the execution is aborted or times out, since the
// lease belongs to the execution. Its output and its error are the chain's. The execution's input must be an object.
// The state machine must be one of Props.StateMachines.
func (c *Coordinator) CriticalSection(scope constructs.Construct, id string, props SectionProps) awsstepfunctions.Chain {
	wanted, lock := props.payloads()
	functions := c.GrantDirectLock(props.Role, cmp.Or(props.Pattern, props.Lock))
	acquire := map[string]any{"owner.$": "$$.Execution.Name", "task_token.$": "$$.Task.Token", "execution.$": "$$.Execution.Id"} //nolint:gosec // paths, not credentials
	maps.Copy(acquire, wanted)
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

// payloads are what the payloads of an acquire and of a release say of the locks and the lease.
func (p SectionProps) payloads() (acquire, release map[string]any) {
	const lease, path = "lease.$", "$.holdfast.lease"
	if len(p.Locks) == 0 {
		acquire = SectionLock{p.Lock, p.Capacity, p.Permits}.json()
		release = SectionLock{Name: p.Lock}.json()
		acquire[lease], release[lease] = path, path
		return acquire, release
	}
	if p.Lock != "" || p.Capacity != 0 || p.Permits != 0 || p.Pattern == "" || len(p.Locks) > 10 {
		panic(fmt.Errorf("infra: SectionProps has %d Locks, Lock %q, Capacity %d, Permits %d, Pattern %q; with up to 10 Locks give the Pattern of their names, and leave out Lock, Capacity and Permits",
			len(p.Locks), p.Lock, p.Capacity, p.Permits, p.Pattern))
	}
	var locks []any
	var names []string
	for _, l := range p.Locks {
		locks = append(locks, l.json())
		if !strings.HasPrefix(l.Name, "$") {
			l.Name = "'" + l.Name + "'"
		}
		names = append(names, l.Name)
	}
	return map[string]any{"locks": locks, lease: path}, map[string]any{"locks.$": "States.Array(" + strings.Join(names, ", ") + ")", lease: path}
}

// json is what an acquire asks of the lock.
func (l SectionLock) json() map[string]any {
	m := map[string]any{}
	if strings.HasPrefix(l.Name, "$") {
		m["name.$"] = l.Name
	} else {
		m["name"] = l.Name
	}
	if l.Capacity > 0 {
		m["capacity"] = l.Capacity
	}
	if l.Permits > 0 {
		m["permits"] = l.Permits
	}
	return m
}

// invokeResource is the resource of a state that invokes a function.
func invokeResource() string { return "arn:" + *awscdk.Aws_PARTITION() + ":states:::lambda:invoke" }
