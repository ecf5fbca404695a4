package infra

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
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
	concurrency           int  // reserved; 0: none
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
		concurrency: c.props.StreamConcurrency,
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
			concurrency: c.props.ExpireConcurrency,
			environment: map[string]*string{
				"HOLDFAST_BUS": c.Bus.EventBusName(), "HOLDFAST_DLQ_URL": c.DeadLetters.QueueUrl(), "HOLDFAST_TIMER_QUEUE_URL": c.Timers.QueueUrl(),
			},
			statements: []awsiam.PolicyStatement{
				allow([]string{"events:PutEvents"}, c.Bus.EventBusArn()), // what the stream function put off
				table(queue...),
				allow([]string{"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"}, c.Timers.QueueArn()),
				allow([]string{"sqs:SendMessage"}, c.DeadLetters.QueueArn()),
			},
		})
	} else {
		stream.statements = append(stream.statements, allow([]string{"sqs:SendMessage"}, c.DeadLetters.QueueArn()))
	}
	for _, f := range append(list, stream) {
		if f.request {
			f.concurrency = c.props.Concurrency
		}
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
	// The child executions of a Distributed Map are those of NAME/LABEL.
	for _, m := range c.props.StateMachines {
		machines = append(machines, arn("states", "stateMachine", m), arn("states", "stateMachine", m+"/*"))
		executions = append(executions, arn("states", "execution", m+":*"), arn("states", "execution", m+"/*:*"))
	}
	for _, d := range c.props.DurableFunctions {
		durable = append(durable, arn("lambda", "function", d), arn("lambda", "function", d+":*"))
	}
	switch f.name {
	case "acquire":
		if len(machines) > 0 {
			f.environment = map[string]*string{"HOLDFAST_STATE_MACHINES": jsii.String(strings.Join(c.props.StateMachines, ","))}
		}
	case "expire", "stream":
		if len(machines) > 0 {
			f.statements = append(f.statements, allow([]string{"states:SendTaskFailure", "states:SendTaskSuccess"}, machines...))
		}
		if len(durable) > 0 {
			f.statements = append(f.statements, allow([]string{"lambda:SendDurableExecutionCallbackFailure", "lambda:SendDurableExecutionCallbackSuccess"}, durable...))
		}
	}
	if f.name == "expire" && len(executions) > 0 {
		f.statements = append(f.statements, allow([]string{"states:DescribeExecution"}, executions...))
	}
}

// executions has the expire function told when an execution of Props.StateMachines ends.
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
		} else { // and the child executions of its Distributed Maps
			machines = append(machines, arn, map[string]any{"prefix": arn + "/"})
		}
	}
	c.rule = awsevents.NewRule(c.Construct, jsii.String("ExecutionsEnd"), &awsevents.RuleProps{
		Description: jsii.String("Ends the leases of executions that ended"),
		EventPattern: &awsevents.EventPattern{
			Source: jsii.Strings("aws.states"), DetailType: jsii.Strings("Step Functions Execution Status Change"),
			Detail: &map[string]any{"status": []any{"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"}, "stateMachineArn": machines},
		},
		Targets: &[]awsevents.IRuleTarget{awseventstargets.NewLambdaFunction(c.Functions["expire"], &awseventstargets.LambdaFunctionProps{DeadLetterQueue: c.DeadLetters})},
	})
	// EventBridge invokes the function asynchronously: Lambda retries twice, and then gives the event up.
	awslambda.NewCfnEventInvokeConfig(c.Construct, jsii.String("ExecutionsEndFailed"), &awslambda.CfnEventInvokeConfigProps{
		FunctionName: c.Functions["expire"].FunctionName(), Qualifier: jsii.String("$LATEST"), MaximumRetryAttempts: jsii.Number(2),
		DestinationConfig: &awslambda.CfnEventInvokeConfig_DestinationConfigProperty{
			OnFailure: &awslambda.CfnEventInvokeConfig_OnFailureProperty{Destination: c.DeadLetters.QueueArn()},
		},
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
		Retention: c.props.LogRetention, RemovalPolicy: awscdk.RemovalPolicy_DESTROY, EncryptionKey: c.key,
	})
	statements := append([]awsiam.PolicyStatement{
		allow([]string{"logs:CreateLogStream", "logs:PutLogEvents"}, logs.LogGroupArn()), // the ARN covers the group's streams
	}, f.statements...)
	if c.key != nil {
		statements = append(statements, allow([]string{"kms:Decrypt", "kms:GenerateDataKey"}, c.key.KeyArn()))
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
	if f.request {
		environment["HOLDFAST_MAX_TTL_MS"] = jsii.String(strconv.Itoa(int(*c.props.MaxTTL.ToMilliseconds(nil))))
	}
	maps.Copy(environment, f.environment)
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
	if f.concurrency > 0 {
		props.ReservedConcurrentExecutions = jsii.Number(f.concurrency)
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
	// The construct of the CDK takes no -1, which keeps a record for the whole life of the stream: what waits for a function that is
	// broken for hours is told afterwards. The stream function itself sets aside a record that can never be handled.
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
