package infra

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"
)

// Timeouts in seconds. The timeout of a request is below the 30 s of an HTTP API. The visibility timeout of the timers' queue is six
// times the timeout of its function, as Lambda recommends:
// https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
const (
	requestTimeout   = 10
	expireTimeout    = 30
	redriveTimeout   = 60
	streamTimeout    = 60
	timersVisibility = 6 * expireTimeout
)

// memory of each function, in MB.
const memory = 256

// A function is one Lambda function. Its code is in functions/NAME.
type function struct {
	id, name, description string
	timeout               float64 // in seconds
	concurrency           int     // reserved; 0: none
	request               bool    // it serves requests
	operators             bool    // an operator invokes it and waits for its answer, so that it needs no alarm
	handsOn               bool    // its writes grant locks to waiters, and it sends the callbacks of these grants
	environment           map[string]*string
	statements            []awsiam.PolicyStatement
}

// functions adds all functions. Their order is that of alarms and of the dashboard.
func (c *Coordinator) functions() {
	list := append(c.requestFunctions(), c.streamFunction())
	if c.Timers != nil {
		list = append(list, c.expireFunction())
	}
	list = append(list, c.redriveFunction())
	for _, f := range list {
		c.tasks(&f)
		c.function(f)
	}
}

// queueActions are the table's actions of a function that grants a lock to its waiters: it writes the queue beside the lock, and reads several
// items at once: for a poll, for the locks of a set, or for the texts of a semaphore's leases.
var queueActions = []string{"dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"}

// requestFunctions are the functions that serve requests.
func (c *Coordinator) requestFunctions() (list []function) {
	for _, f := range []struct {
		id, description string
		actions         []string // on the table
		handsOn         bool
	}{
		{"Acquire", "Acquires a lock", queueActions, true},
		{"Renew", "Renews a lease", []string{"dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:UpdateItem"}, false},
		{"Release", "Releases a lease", queueActions, true},
		{"Status", "Shows locks", []string{"dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:Query", "dynamodb:Scan"}, false},
		{"ForceRelease", "Ends leases against their holders' will", queueActions, true},
		{"Rules", "Reads and sets the rules of all locks below a prefix", nil, false},
	} {
		var statements []awsiam.PolicyStatement
		switch f.id {
		case "Status":
			statements = []awsiam.PolicyStatement{allow(f.actions, c.Table.TableArn()), c.queryIndex()}
		case "Rules":
			statements = []awsiam.PolicyStatement{c.onlyRules()}
		default:
			statements = []awsiam.PolicyStatement{allow(f.actions, c.Table.TableArn())}
		}
		list = append(list, function{
			id: f.id, name: strings.ToLower(f.id), description: f.description, timeout: requestTimeout, concurrency: c.props.Concurrency,
			request: true, handsOn: f.handsOn, statements: statements,
		})
	}
	return list
}

// queryIndex allows to list the locks of a prefix by the index.
func (c *Coordinator) queryIndex() awsiam.PolicyStatement {
	return allow([]string{"dynamodb:Query"}, awscdk.Fn_Join(jsii.String(""), &[]*string{c.Table.TableArn(), jsii.String("/index/" + nameIndex)}))
}

// rulesPartition is the partition key of the items of prefix rules. No pattern of locks but "*" matches it.
const rulesPartition = "#rules"

// onlyRules allows to read and write the prefix rules, and no lock.
func (c *Coordinator) onlyRules() awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions: jsii.Strings("dynamodb:Query", "dynamodb:UpdateItem"), Resources: &[]*string{c.Table.TableArn()},
		Conditions: &map[string]any{"ForAllValues:StringEquals": map[string]any{"dynamodb:LeadingKeys": []string{rulesPartition}}},
	})
}

// listActions are the table's actions of a function that looks for the waiters of all locks below a prefix, when a freeze ends.
var listActions = []string{"dynamodb:DescribeTable", "dynamodb:Scan"}

// streamFunction is the function that consumes the table's stream.
func (c *Coordinator) streamFunction() function {
	f := function{
		id: "Stream", name: "stream", description: "Publishes events of locks, sets timers, and sends callbacks to waiting tasks", timeout: streamTimeout,
		concurrency: c.props.StreamConcurrency, handsOn: true,
		environment: map[string]*string{"HOLDFAST_BUS": c.Bus.EventBusName(), "HOLDFAST_DLQ_URL": c.DeadLetters.QueueUrl()},
		statements: []awsiam.PolicyStatement{
			allow([]string{"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"},
				awscdk.Fn_Join(jsii.String(""), &[]*string{c.Table.TableArn(), jsii.String("/stream/*")})),
			allow([]string{"events:PutEvents"}, c.Bus.EventBusArn()),
			allow(queueActions, c.Table.TableArn()),
		},
	}
	queues := []*string{c.DeadLetters.QueueArn()}
	if c.Timers == nil { // the end of a freeze is handled at once, without a job
		f.statements = append(f.statements, allow(listActions, c.Table.TableArn()), c.queryIndex())
	}
	if c.Timers != nil {
		f.environment["HOLDFAST_TIMER_QUEUE_URL"] = c.Timers.QueueUrl()
		queues = append(queues, c.Timers.QueueArn())
	}
	f.statements = append(f.statements, allow([]string{"sqs:SendMessage"}, queues...))
	return f
}

// expireFunction is the function that handles timers and the ends of executions.
func (c *Coordinator) expireFunction() function {
	return function{
		id: "Expire", name: "expire", description: "Ends leases that have expired or whose executions have ended", timeout: expireTimeout,
		concurrency: c.props.ExpireConcurrency, handsOn: true,
		environment: map[string]*string{
			"HOLDFAST_BUS": c.Bus.EventBusName(), "HOLDFAST_DLQ_URL": c.DeadLetters.QueueUrl(), "HOLDFAST_TIMER_QUEUE_URL": c.Timers.QueueUrl(),
		},
		statements: []awsiam.PolicyStatement{
			allow([]string{"events:PutEvents"}, c.Bus.EventBusArn()), // the events that the stream function deferred
			allow(sorted(queueActions, listActions), c.Table.TableArn()), c.queryIndex(),
			allow([]string{"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"}, c.Timers.QueueArn()),
			allow([]string{"sqs:SendMessage"}, c.DeadLetters.QueueArn()),
		},
	}
}

// redriveFunction is the function that an operator invokes after something was lost. It may do what the stream and expire functions may, read
// the dead letters and scan the table; but it is invoked with nothing but what to look at.
func (c *Coordinator) redriveFunction() function {
	f := function{
		id: "Redrive", name: "redrive", description: "Handles dead letters again, and mends what nobody will free or tell", timeout: redriveTimeout,
		handsOn: true, operators: true,
		environment: map[string]*string{"HOLDFAST_BUS": c.Bus.EventBusName(), "HOLDFAST_DLQ_URL": c.DeadLetters.QueueUrl()},
		statements: []awsiam.PolicyStatement{
			allow([]string{"dynamodb:GetRecords", "dynamodb:GetShardIterator"},
				awscdk.Fn_Join(jsii.String(""), &[]*string{c.Table.TableArn(), jsii.String("/stream/*")})),
			allow([]string{"events:PutEvents"}, c.Bus.EventBusArn()),
			allow(sorted([]string{"dynamodb:ConditionCheckItem"}, queueActions, listActions), c.Table.TableArn()), c.queryIndex(),
			allow([]string{"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"}, c.DeadLetters.QueueArn()),
		},
	}
	if c.Timers != nil {
		f.environment["HOLDFAST_TIMER_QUEUE_URL"] = c.Timers.QueueUrl()
		f.statements = append(f.statements, allow([]string{"sqs:SendMessage"}, c.Timers.QueueArn()))
	}
	return f
}

// Actions of callbacks and traces.
var (
	taskActions    = []string{"states:SendTaskFailure", "states:SendTaskSuccess"}
	durableActions = []string{"lambda:SendDurableExecutionCallbackFailure", "lambda:SendDurableExecutionCallbackSuccess"}
	xrayActions    = []string{"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
)

// serving are the functions that serve requests.
func serving() []string {
	return []string{"acquire", "renew", "release", "status", "forcerelease", "rules"}
}

// waiters are the ARNs of the state machines of Props, of their executions, and of the durable functions.
func (c *Coordinator) waiters() (machines, executions, durable []*string) {
	arn := func(service, resource, name string) *string {
		return awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
			Service: &service, Resource: &resource, ResourceName: &name, ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		})
	}
	// The child executions of a Distributed Map belong to NAME/LABEL.
	for _, m := range c.props.StateMachines {
		machines = append(machines, arn("states", "stateMachine", m), arn("states", "stateMachine", m+"/*"))
		executions = append(executions, arn("states", "execution", m+":*"), arn("states", "execution", m+"/*:*"))
	}
	for _, d := range c.props.DurableFunctions {
		durable = append(durable, arn("lambda", "function", d), arn("lambda", "function", d+":*"))
	}
	return machines, executions, durable
}

// tasks gives a function its permissions on the state machines and durable functions of Props, and on the queues of waiters. Those that
// hand on send callbacks.
func (c *Coordinator) tasks(f *function) {
	machines, executions, durable := c.waiters()
	if f.name == "acquire" {
		f.environment = map[string]*string{"HOLDFAST_NOTIFY_PREFIX": c.NotifyPrefix}
		if len(machines) > 0 {
			f.environment["HOLDFAST_STATE_MACHINES"] = jsii.String(strings.Join(c.props.StateMachines, ","))
		}
	}
	if len(c.props.Events) > 0 && (f.name == "stream" || f.name == "expire" || f.name == "redrive") {
		f.environment["HOLDFAST_EVENTS"] = jsii.String(strings.Join(c.props.Events, ","))
	}
	if f.handsOn {
		f.statements = append(f.statements, allow([]string{"sqs:SendMessage"}, c.notifyQueues()))
		if len(machines) > 0 {
			f.statements = append(f.statements, allow(taskActions, machines...))
		}
		if len(durable) > 0 && !f.request { // the others leave these callbacks to the stream function
			f.statements = append(f.statements, allow(durableActions, durable...))
		}
	}
	if (f.name == "expire" || f.name == "redrive") && len(executions) > 0 {
		f.statements = append(f.statements, allow([]string{"states:DescribeExecution"}, executions...))
	}
}

func sorted(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return all
}

// allow is a statement that allows actions on resources.
func allow(actions []string, resources ...*string) awsiam.PolicyStatement {
	return awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: jsii.Strings(actions...), Resources: &resources})
}

// function adds a function with a log group and a role. The role has no managed policy: its permissions are
// f.statements, the log group, and those of Props.Key and Props.Tracing.
func (c *Coordinator) function(f function) {
	logs := awslogs.NewLogGroup(c.Construct, jsii.String(f.id+"Logs"), &awslogs.LogGroupProps{
		Retention: c.props.LogRetention, RemovalPolicy: awscdk.RemovalPolicy_DESTROY, EncryptionKey: c.key,
	})
	statements := slices.Concat([]awsiam.PolicyStatement{
		allow([]string{"logs:CreateLogStream", "logs:PutLogEvents"}, logs.LogGroupArn()), // the ARN covers the group's streams
	}, f.statements, c.inVPC(f))
	if c.key != nil {
		statements = append(statements, allow([]string{"kms:Decrypt", "kms:GenerateDataKey"}, c.key.KeyArn()))
	}
	if c.props.Tracing { // X-Ray's actions support no resources
		statements = append(statements, allow(xrayActions, jsii.String("*")))
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
		if c.props.NoAPI {
			environment["HOLDFAST_NO_API"] = jsii.String("true")
		}
	}
	if c.props.TraceEndpoint != "" {
		environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = &c.props.TraceEndpoint
	}
	maps.Copy(environment, f.environment)
	code, copied := c.code(f.name)
	defer copied()
	props := &awslambda.FunctionProps{
		Runtime: awslambda.Runtime_PROVIDED_AL2023(), Handler: jsii.String("bootstrap"), Code: code,
		Architecture: awslambda.Architecture_ARM_64(), Description: &f.description, MemorySize: jsii.Number(memory),
		Timeout: awscdk.Duration_Seconds(&f.timeout), Environment: &environment,
		// The role is imported as immutable, so that no other construct can add to its policy.
		Role:     awsiam.Role_FromRoleArn(c.Construct, jsii.String(f.id+"FixedRole"), role.RoleArn(), &awsiam.FromRoleArnOptions{Mutable: jsii.Bool(false)}),
		LogGroup: logs, LoggingFormat: awslambda.LoggingFormat_JSON, ApplicationLogLevelV2: awslambda.ApplicationLogLevel_INFO,
		SystemLogLevelV2: awslambda.SystemLogLevel_WARN,
		// Versions stay, so that an alias can go back to one.
		CurrentVersionOptions: &awslambda.VersionOptions{RemovalPolicy: awscdk.RemovalPolicy_RETAIN},
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
	if c.props.TraceLayer != "" {
		props.Layers = &[]awslambda.ILayerVersion{awslambda.LayerVersion_FromLayerVersionArn(c.Construct, jsii.String(f.id+"TraceLayer"), &c.props.TraceLayer)}
	}
	fn := awslambda.NewFunction(c.Construct, &f.id, props)
	c.attach(f, fn)
	c.Functions[f.name], c.logs[f.name] = fn, logs
	if !f.operators {
		c.names = append(c.names, f.name)
		c.live(f, fn)
	}
}
