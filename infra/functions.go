package infra

import (
	"strconv"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambdaeventsources"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"
)

// Timeouts in seconds. A request's is below the API's 30. A queue's messages stay invisible for six times as long as their
// function may take, as Lambda asks for.
const (
	requestTimeout   = 10
	expireTimeout    = 30
	streamTimeout    = 60
	timersVisibility = 6 * expireTimeout
)

// A function is one Lambda function: what it is called, here and under functions/, and what it needs.
type function struct {
	id, name, description string
	memory, timeout       float64
	request               bool // it serves requests
	environment           map[string]*string
	statements            []awsiam.PolicyStatement
}

func (c *Coordinator) functions() {
	// What hands a lock on writes the queue beside the lock.
	queue := []string{"dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"}
	table := func(actions ...string) awsiam.PolicyStatement { return allow(actions, c.Table.TableArn()) }
	stream := function{
		id: "Stream", name: "stream", description: "Publishes events of locks, sets timers, and tells tasks that wait", memory: 256, timeout: streamTimeout,
		environment: map[string]*string{"HOLDFAST_BUS": c.Bus.EventBusName(), "HOLDFAST_DLQ_URL": c.DeadLetters.QueueUrl()},
		statements: []awsiam.PolicyStatement{
			allow([]string{"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"},
				awscdk.Fn_Join(jsii.String(""), &[]*string{c.Table.TableArn(), jsii.String("/stream/*")})),
			allow([]string{"events:PutEvents"}, c.Bus.EventBusArn()),
			table(queue...),
		},
	}
	list := []function{
		{
			id: "Acquire", name: "acquire", description: "Acquires a lock", memory: 256, timeout: requestTimeout, request: true,
			statements: []awsiam.PolicyStatement{table(queue...)},
		},
		{
			id: "Renew", name: "renew", description: "Renews a lease", memory: 256, timeout: requestTimeout, request: true,
			statements: []awsiam.PolicyStatement{table("dynamodb:GetItem", "dynamodb:UpdateItem")},
		},
		{
			id: "Release", name: "release", description: "Releases a lease", memory: 256, timeout: requestTimeout, request: true,
			statements: []awsiam.PolicyStatement{table(queue...)},
		},
		{
			id: "Status", name: "status", description: "Shows locks", memory: 256, timeout: requestTimeout, request: true,
			statements: []awsiam.PolicyStatement{table("dynamodb:GetItem", "dynamodb:Scan")},
		},
		{
			id: "ForceRelease", name: "forcerelease", description: "Ends leases against their holders' will", memory: 256,
			timeout: requestTimeout, request: true,
			statements: []awsiam.PolicyStatement{table(queue...)},
		},
	}
	if c.Timers != nil {
		stream.environment["HOLDFAST_TIMER_QUEUE_URL"] = c.Timers.QueueUrl()
		stream.statements = append(stream.statements, allow([]string{"sqs:SendMessage"}, c.DeadLetters.QueueArn(), c.Timers.QueueArn()))
		list = append(list, function{
			id: "Expire", name: "expire", description: "Puts out leases whose holders died, or whose executions ended", memory: 256, timeout: expireTimeout,
			environment: map[string]*string{"HOLDFAST_TIMER_QUEUE_URL": c.Timers.QueueUrl()},
			statements: []awsiam.PolicyStatement{
				table(queue...),
				allow([]string{"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"}, c.Timers.QueueArn()),
			},
		})
	} else {
		stream.statements = append(stream.statements, allow([]string{"sqs:SendMessage"}, c.DeadLetters.QueueArn()))
	}
	for _, f := range append(list, stream) {
		c.tasks(&f)
		c.function(f)
	}
}

// tasks lets functions deal with the state machines and durable functions of Props, and with no others.
func (c *Coordinator) tasks(f *function) {
	var machines, executions, durable []*string
	arn := func(service, resource, name string) *string {
		return awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
			Service: &service, Resource: &resource, ResourceName: &name, ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		})
	}
	for _, m := range c.props.StateMachines {
		machines = append(machines, arn("states", "stateMachine", m))
		executions = append(executions, arn("states", "execution", m+":*"))
	}
	for _, d := range c.props.DurableFunctions {
		durable = append(durable, arn("lambda", "function", d), arn("lambda", "function", d+":*"))
	}
	switch f.name {
	case "acquire":
		if len(machines) > 0 {
			f.environment = map[string]*string{"HOLDFAST_STATE_MACHINES": jsii.String(strings.Join(c.props.StateMachines, ","))}
		}
	case "stream":
		if len(machines) > 0 {
			f.statements = append(f.statements, allow([]string{"states:SendTaskFailure", "states:SendTaskSuccess"}, machines...))
		}
		if len(durable) > 0 {
			f.statements = append(f.statements, allow([]string{"lambda:SendDurableExecutionCallbackFailure", "lambda:SendDurableExecutionCallbackSuccess"}, durable...))
		}
	case "expire":
		if len(executions) > 0 {
			f.statements = append(f.statements, allow([]string{"states:DescribeExecution"}, executions...))
		}
	}
}

// executions has the expire function told when an execution of Props.StateMachines ends.
func (c *Coordinator) executions() {
	if len(c.props.StateMachines) == 0 || c.Functions["expire"] == nil {
		return
	}
	var machines []any
	for _, m := range c.props.StateMachines {
		prefix, open := strings.CutSuffix(m, "*")
		arn := *awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("states"), Resource: jsii.String("stateMachine"), ResourceName: &prefix, ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		})
		if open {
			machines = append(machines, map[string]any{"prefix": arn})
		} else {
			machines = append(machines, arn)
		}
	}
	awsevents.NewRule(c.Construct, jsii.String("ExecutionsEnd"), &awsevents.RuleProps{
		Description: jsii.String("Ends the leases of executions that ended"),
		EventPattern: &awsevents.EventPattern{
			Source: jsii.Strings("aws.states"), DetailType: jsii.Strings("Step Functions Execution Status Change"),
			Detail: &map[string]any{"status": []any{"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}, "stateMachineArn": machines},
		},
		Targets: &[]awsevents.IRuleTarget{awseventstargets.NewLambdaFunction(c.Functions["expire"], &awseventstargets.LambdaFunctionProps{DeadLetterQueue: c.DeadLetters})},
	})
}

// allow makes a statement for some resources.
func allow(actions []string, resources ...*string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: jsii.Strings(actions...), Resources: &resources})
}

// function adds a function with a log group and a role of its own. The role has no managed policy: what it may do is all
// here.
func (c *Coordinator) function(f function) {
	logs := awslogs.NewLogGroup(c.Construct, jsii.String(f.id+"Logs"), &awslogs.LogGroupProps{
		Retention: c.props.LogRetention, RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	statements := append([]awsiam.PolicyStatement{
		allow([]string{"logs:CreateLogStream", "logs:PutLogEvents"}, logs.LogGroupArn()), // the ARN covers the group's streams
	}, f.statements...)
	if c.props.Key != nil {
		statements = append(statements, allow([]string{"kms:Decrypt", "kms:GenerateDataKey"}, c.props.Key.KeyArn()))
	}
	if c.props.Tracing { // X-Ray's actions know no resources
		statements = append(statements, allow([]string{"xray:PutTelemetryRecords", "xray:PutTraceSegments"}, jsii.String("*")))
	}
	role := awsiam.NewRole(c.Construct, jsii.String(f.id+"Role"), &awsiam.RoleProps{
		AssumedBy: awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		InlinePolicies: &map[string]awsiam.PolicyDocument{
			"function": awsiam.NewPolicyDocument(&awsiam.PolicyDocumentProps{Statements: &statements}),
		},
	})
	environment := map[string]*string{"HOLDFAST_METRICS": c.namespace, "HOLDFAST_TABLE": c.Table.TableName()}
	if f.request && c.props.MaxTTL != nil {
		environment["HOLDFAST_MAX_TTL_MS"] = jsii.String(strconv.Itoa(int(*c.props.MaxTTL.ToMilliseconds(nil))))
	}
	for name, value := range f.environment {
		environment[name] = value
	}
	code, copied := c.code(f.name)
	defer copied()
	props := &awslambda.FunctionProps{
		Runtime: awslambda.Runtime_PROVIDED_AL2023(), Handler: jsii.String("bootstrap"), Code: code,
		Architecture: awslambda.Architecture_ARM_64(), Description: &f.description, MemorySize: &f.memory,
		Timeout: awscdk.Duration_Seconds(&f.timeout), Environment: &environment,
		// The role is not to be added to: it is imported, so that no other construct can widen it.
		Role:     awsiam.Role_FromRoleArn(c.Construct, jsii.String(f.id+"FixedRole"), role.RoleArn(), &awsiam.FromRoleArnOptions{Mutable: jsii.Bool(false)}),
		LogGroup: logs, LoggingFormat: awslambda.LoggingFormat_JSON, ApplicationLogLevelV2: awslambda.ApplicationLogLevel_INFO,
		SystemLogLevelV2: awslambda.SystemLogLevel_WARN,
	}
	if c.props.Architecture == X86 {
		props.Architecture = awslambda.Architecture_X86_64()
	}
	if f.request && c.props.Concurrency > 0 {
		props.ReservedConcurrentExecutions = jsii.Number(c.props.Concurrency)
	}
	if c.props.Tracing {
		props.Tracing = awslambda.Tracing_ACTIVE
	}
	fn := awslambda.NewFunction(c.Construct, &f.id, props)
	c.Functions[f.name], c.logs[f.name] = fn, logs
}

// StreamFilters let through what changes who holds a lock, and what tells that a task waited in vain, and nothing else: a
// renewal, a waiter or the purge of a lock that was free invokes nothing.
var StreamFilters = []map[string]any{
	{"dynamodb": map[string]any{
		"Keys":     map[string]any{"sk": map[string]any{"S": []any{"lock"}}},
		"NewImage": map[string]any{"cause": map[string]any{"S": []any{map[string]any{"anything-but": []any{"renew", "enqueue"}}}}},
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
	var filters []*map[string]any
	for _, f := range StreamFilters {
		filters = append(filters, awslambda.FilterCriteria_Filter(&f))
	}
	awslambda.NewEventSourceMapping(c.Construct, jsii.String("StreamSource"), &awslambda.EventSourceMappingProps{
		Target: c.Functions["stream"], EventSourceArn: c.Table.TableStreamArn(), StartingPosition: awslambda.StartingPosition_TRIM_HORIZON,
		BatchSize: jsii.Number(100), Filters: &filters, ReportBatchItemFailures: jsii.Bool(true), BisectBatchOnError: jsii.Bool(true),
		// An event bus that is away for an hour loses nothing; what fails for longer goes to the dead letters.
		RetryAttempts: jsii.Number(1000), MaxRecordAge: awscdk.Duration_Hours(jsii.Number(1)),
		OnFailure: awslambdaeventsources.NewSqsDlq(c.DeadLetters),
	})
	if c.Timers == nil {
		return
	}
	awslambda.NewEventSourceMapping(c.Construct, jsii.String("TimersSource"), &awslambda.EventSourceMappingProps{
		Target: c.Functions["expire"], EventSourceArn: c.Timers.QueueArn(), BatchSize: jsii.Number(10), ReportBatchItemFailures: jsii.Bool(true),
	})
}
