// Package infra provisions Holdfast with the AWS CDK: [NewCoordinator] is a construct for any app, and ./app a thin one
// of its own.
//
//	locks := infra.NewCoordinator(stack, "Locks", infra.Props{})
//	locks.GrantLock(deployer, "deploy:*")
//	locks.OnReleased("Next", "deploy", awseventstargets.NewLambdaFunction(next, nil))
package infra

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscodedeploy"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// An Architecture is the instruction set of the functions.
type Architecture string

// The architectures.
const (
	ARM64 Architecture = "arm64"
	X86   Architecture = "x86_64"
)

// Props are a coordinator's settings. The zero value is a production coordinator.
type Props struct {
	// Architecture of the functions. Empty: arm64, which costs less.
	Architecture Architecture
	// Code is a directory with the functions' zips for the architecture, such as dist/arm64 of "make build". Empty: the
	// functions are built from the module version that the app requires, with the installed Go.
	Code string
	// RemovalPolicy of the table. Empty: RETAIN_ON_UPDATE_OR_DELETE, which deletes the table if the first deployment
	// fails, and keeps it from then on.
	RemovalPolicy awscdk.RemovalPolicy
	// DeletionProtection makes DynamoDB refuse to delete the table. Set it after the first deployment: the rollback of
	// a failed deployment cannot delete a protected table.
	DeletionProtection bool
	// Table is the table's name. Empty: CloudFormation generates one.
	Table string
	// ImportedTable is an existing lock table, imported with its stream's ARN, to use instead of a table of this stack.
	ImportedTable awsdynamodb.ITable
	// MaxTTL is the longest TTL that a request may ask for: from [wire.DefaultTTL] (1 minute) to [wire.MaxTTL] (7
	// days). Nil: [wire.DefaultMaxTTL] (24 hours).
	MaxTTL awscdk.Duration
	// StateMachines are the names of the Step Functions state machines of this account and region whose tasks may wait
	// for locks with a task token, and whose executions leases may belong to. A "*" at the end of a name matches any
	// rest.
	StateMachines []string
	// DurableFunctions are the names of the Lambda durable functions that may wait for locks with a callback.
	DurableFunctions []string
	// NotifyName is the first part of the names of the queues by which waiters may be notified, which are NotifyName-notify-…:
	// docs/services.md. 1 to 52 letters, digits, _ and -. Empty: holdfast.
	NotifyName string
	// Events are prefixes of the names of the locks whose events are published, such as "deploy:". Nil: all locks. [NoEvents] alone: none.
	// A lock without events whose holder dies gets a timer only while others wait for it, so that it costs nothing but its requests:
	// docs/cost.md.
	Events []string
	// NoPromptExpiry leaves out the timers: the event of an expiry is published when the lock is next used, or hours
	// later by native TTL. It saves $0.28 to $1.60 per million leases: docs/cost.md.
	NoPromptExpiry bool
	// Concurrency is the number of concurrent executions reserved for each function that serves requests. 0: none; the
	// functions share the account's.
	Concurrency int
	// StreamConcurrency and ExpireConcurrency are the numbers reserved for the stream and the expire function. 0: none.
	StreamConcurrency, ExpireConcurrency int
	// TimersConcurrency is the number of concurrent executions of the expire function that handle timers: 2 to 1,000,
	// and at most ExpireConcurrency. 0: 10.
	TimersConcurrency int
	// NoAPI leaves out the HTTP API: callers invoke the functions directly, with GrantDirectLock: docs/network.md.
	NoAPI bool
	// SubnetIDs and SecurityGroupIDs put the functions into a VPC, from which they must reach DynamoDB, SQS and EventBridge: docs/network.md. The
	// redrive function, which only operators invoke, stays outside. At most 16 and 5. Nil: the functions are in no VPC.
	SubnetIDs, SecurityGroupIDs []string
	// EndpointsVPC is the VPC of these subnets, in which this stack makes the endpoints of the services that the functions and their callers use:
	// interface endpoints in SubnetIDs, which must then be of different availability zones, with SecurityGroupIDs, which must allow HTTPS among
	// themselves; and DynamoDB's gateway endpoint in RouteTableIDs. Their policies allow what Holdfast needs and nothing else. Empty: no endpoints
	// are made.
	EndpointsVPC  string
	RouteTableIDs []string
	// Versions publishes a version of each function whose code or settings have changed, to which the aliases point. False: they point to the
	// functions as they are.
	Versions bool
	// Rollout is how CodeDeploy moves the alias of each function to a new version, and back if an alarm of the function is raised: one of
	// [Rollouts], such as Canary10Percent5Minutes. It needs Versions, and in a stack that stands, Versions
	// in the deployment before. Empty: all requests go to the new version at once.
	Rollout string
	// RequestsPerSecond and Burst are the API's throttling limits. 0: 1,000 and 500.
	RequestsPerSecond, Burst int
	// LogRetention of all log groups. Empty: 30 days.
	LogRetention awslogs.RetentionDays
	// AlarmTopic is notified of alarms. Nil: alarms notify nobody.
	AlarmTopic awssns.ITopic
	// Tracing turns on X-Ray for the functions.
	Tracing bool
	// TraceEndpoint is the URL of a collector that gets the functions' spans by OTLP over HTTP, such as http://localhost:4318 of a layer. The functions
	// are then those that were built to make spans. Empty: they make none. See docs/tracing.md.
	TraceEndpoint string
	// TraceLayer is the ARN of the version of a layer that all functions get: a collector. Empty: none.
	TraceLayer string
	// Key encrypts the table, the queues, the bus and the logs. Nil: AWS owned keys, at no cost. The permissions of
	// EventBridge and CloudWatch Logs are added to the policy of a key of the same app; an imported key must have them:
	// docs/iam.md.
	Key awskms.IKey
	// MetricNamespace is the CloudWatch namespace of the coordinator's metrics. Empty: Holdfast/STACK/PATH, where PATH
	// is the path of the construct in its stack, so that several coordinators of a stack do not share one.
	MetricNamespace string
}

// NoEvents turns all events off, as the only entry of Props.Events.
const NoEvents = scope.NoEvents

// A Coordinator is Holdfast in a stack.
type Coordinator struct {
	Construct   constructs.Construct
	Table       awsdynamodb.ITable
	Bus         awsevents.EventBus
	API         awsapigatewayv2.HttpApi // nil with NoAPI
	Timers      awssqs.Queue            // nil without prompt expiry
	DeadLetters awssqs.Queue
	// NotifyPrefix is how the URLs of the queues begin by which waiters may be notified.
	NotifyPrefix *string
	Dashboard    awscloudwatch.Dashboard
	Alarms       map[string]awscloudwatch.Alarm
	// Functions by name: acquire, renew, release, status, forcerelease, rules, stream, expire, redrive.
	Functions map[string]awslambda.Function
	// Live are the aliases of the functions, without redrive, by which the API and the event sources invoke them.
	Live map[string]awslambda.Alias

	props     Props
	namespace *string     // of the metrics
	key       awskms.IKey // Props.Key, imported by its ARN; nil without
	logs      map[string]awslogs.LogGroup
	names     []string       // of the functions with alarms, in the order of these and of the dashboard
	rule      awsevents.Rule // of executions that end; nil without state machines
	rollout   struct {       // with Props.Rollout
		application awscodedeploy.LambdaApplication
		role        awsiam.Role
		config      awscodedeploy.ILambdaDeploymentConfig
	}
}

// NewCoordinator adds a coordinator to a stack. Like other constructs, it panics on invalid props.
func NewCoordinator(scope constructs.Construct, id string, props Props) *Coordinator {
	props = props.withDefaults()
	if err := props.validate(); err != nil {
		panic(err)
	}
	c := &Coordinator{
		Construct: constructs.NewConstruct(scope, &id), props: props,
		Functions: map[string]awslambda.Function{}, Live: map[string]awslambda.Alias{}, Alarms: map[string]awscloudwatch.Alarm{}, logs: map[string]awslogs.LogGroup{},
	}
	c.namespace = cmp.Or(optional(props.MetricNamespace), jsii.String("Holdfast/"+c.path()))
	c.NotifyPrefix = c.notifyPrefix()
	c.encryption()
	c.storage()
	c.functions()
	if !props.NoAPI {
		c.api()
	}
	c.eventSources()
	c.executions()
	c.alarms()
	c.rollouts()
	c.endpoints()
	c.dashboard()
	return c
}

// path is the stack's name and the construct's path in the stack, which are unique in an account and region.
func (c *Coordinator) path() string {
	stack := *awscdk.Stack_Of(c.Construct).Node().Path()
	within := strings.TrimPrefix(strings.TrimPrefix(*c.Construct.Node().Path(), stack), "/")
	return *awscdk.Aws_STACK_NAME() + "/" + regexp.MustCompile(`[^A-Za-z0-9/_.-]`).ReplaceAllString(within, "-")
}

func (p Props) validate() error {
	switch {
	case p.Architecture != ARM64 && p.Architecture != X86:
		return fmt.Errorf("infra: Props.Architecture is %q; it must be %s or %s", p.Architecture, ARM64, X86)
	case p.NoPromptExpiry && len(p.StateMachines)+len(p.DurableFunctions) > 0:
		return errors.New("infra: Props.NoPromptExpiry is set, and so are StateMachines or DurableFunctions: tasks that wait behind a dead holder need the timers; leave one out")
	case *p.MaxTTL.ToSeconds(nil) < wire.DefaultTTL.Seconds() || *p.MaxTTL.ToSeconds(nil) > wire.MaxTTL.Seconds():
		return fmt.Errorf("infra: Props.MaxTTL is %v s; it must be from %v s to %v s", *p.MaxTTL.ToSeconds(nil), wire.DefaultTTL.Seconds(), wire.MaxTTL.Seconds())
	case p.Concurrency < 0 || p.StreamConcurrency < 0 || p.ExpireConcurrency < 0 || p.RequestsPerSecond < 0 || p.Burst < 0:
		return errors.New("infra: Props.Concurrency, StreamConcurrency, ExpireConcurrency, RequestsPerSecond and Burst must not be negative")
	case p.TimersConcurrency < minTimersConcurrency || p.TimersConcurrency > 1000:
		return fmt.Errorf("infra: Props.TimersConcurrency is %d; it must be from %d to 1,000", p.TimersConcurrency, minTimersConcurrency)
	case p.ExpireConcurrency > 0 && p.ExpireConcurrency < p.TimersConcurrency:
		return fmt.Errorf("infra: Props.ExpireConcurrency is %d, and TimersConcurrency %d: more timers would be received than the function may handle; reserve at least as many",
			p.ExpireConcurrency, p.TimersConcurrency)
	case p.ImportedTable != nil && (p.Table != "" || p.DeletionProtection):
		return errors.New("infra: Props.ImportedTable is set, and so is Table or DeletionProtection: those are for a table of this stack; leave them out")
	case p.ImportedTable != nil && p.ImportedTable.TableStreamArn() == nil:
		return errors.New("infra: Props.ImportedTable has no stream; import it by Table_FromTableAttributes with TableStreamArn")
	case p.Key != nil && strings.Contains(*p.Key.KeyArn(), ":alias/"):
		return errors.New("infra: Props.Key is an alias: a policy on an alias allows nothing; give the key itself")
	case p.NoAPI && (p.RequestsPerSecond > 0 || p.Burst > 0):
		return errors.New("infra: Props.NoAPI is set, and so is RequestsPerSecond or Burst: those are limits of the API; leave them out")
	case p.MetricNamespace != "" && !regexp.MustCompile(`^[A-Za-z0-9/_.#-]{1,255}$`).MatchString(p.MetricNamespace):
		return fmt.Errorf("infra: Props.MetricNamespace is %q; give 1 to 255 letters, digits, and any of / _ . # -", p.MetricNamespace)
	}
	for _, err := range []error{checkNotifyName(p.NotifyName), p.checkNetwork(), p.checkRollout()} {
		if err != nil {
			return err
		}
	}
	if problem := scope.CheckEvents(p.Events); problem != "" {
		return fmt.Errorf("infra: Props.Events: %s", problem)
	}
	if _, err := patterns(p.Events); err != nil {
		return err
	}
	for _, list := range [][]string{p.StateMachines, p.DurableFunctions} {
		for _, name := range list {
			if *awscdk.Token_IsUnresolved(name) {
				continue
			}
			if name == "" || strings.ContainsAny(strings.TrimSuffix(name, "*"), " <>{}[]?*\"#%\\^|~`$&,;:/") {
				return fmt.Errorf("infra: Props.StateMachines or DurableFunctions has %q; give a name, or the beginning of names and a *", name)
			}
		}
	}
	return nil
}

func (p Props) withDefaults() Props {
	if p.Architecture == "" {
		p.Architecture = ARM64
	}
	if p.NotifyName == "" {
		p.NotifyName = defaultNotifyName
	}
	if p.RemovalPolicy == "" {
		p.RemovalPolicy = awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE
	}
	if p.TimersConcurrency == 0 {
		p.TimersConcurrency = 10
		if p.ExpireConcurrency >= minTimersConcurrency {
			p.TimersConcurrency = min(p.TimersConcurrency, p.ExpireConcurrency)
		}
	}
	if !p.NoAPI {
		p.RequestsPerSecond, p.Burst = cmp.Or(p.RequestsPerSecond, 1000), cmp.Or(p.Burst, 500)
	}
	if p.MaxTTL == nil {
		p.MaxTTL = awscdk.Duration_Seconds(jsii.Number(wire.DefaultMaxTTL.Seconds()))
	}
	if p.LogRetention == "" {
		p.LogRetention = awslogs.RetentionDays_ONE_MONTH
	}
	return p
}

// minTimersConcurrency is Lambda's minimum of the maximum concurrency of an SQS event source.
const minTimersConcurrency = 2

// encryption allows EventBridge and CloudWatch Logs to use Props.Key. The construct imports the key by its ARN: for a
// key of its own stack, the CDK would add the functions' roles to the key's policy, and the key would depend on the
// roles, the roles on the table, and the table on the key.
func (c *Coordinator) encryption() {
	if c.props.Key == nil {
		return
	}
	c.key = awskms.Key_FromKeyArn(c.Construct, jsii.String("Key"), c.props.Key.KeyArn())
	stack := awscdk.Stack_Of(c.Construct)
	use := func(service *string, actions []string, conditions map[string]any) bool {
		return *c.props.Key.AddToResourcePolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Principals: &[]awsiam.IPrincipal{awsiam.NewServicePrincipal(service, nil)}, Actions: jsii.Strings(actions...),
			Resources: jsii.Strings("*"), Conditions: &conditions,
		}), nil).StatementAdded
	}
	logs := "logs." + *stack.Region() + "." + *awscdk.Aws_URL_SUFFIX()
	events := use(jsii.String("events.amazonaws.com"), []string{"kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"},
		map[string]any{"StringEquals": map[string]any{"aws:SourceAccount": stack.Account()}})
	groups := stack.FormatArn(&awscdk.ArnComponents{
		Service: jsii.String("logs"), Resource: jsii.String("log-group"), ResourceName: jsii.String("*"), ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
	})
	logging := use(&logs, []string{"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"},
		map[string]any{"ArnLike": map[string]any{"kms:EncryptionContext:aws:logs:arn": groups}})
	if !events || !logging {
		awscdk.Annotations_Of(c.Construct).AddWarningV2(jsii.String("holdfast:imported-key"), jsii.String(
			"Props.Key is imported, so that its policy cannot be changed here: it must allow events.amazonaws.com and logs.REGION.amazonaws.com the actions that docs/iam.md lists"))
	}
}

func (c *Coordinator) storage() {
	c.table()
	c.Bus = awsevents.NewEventBus(c.Construct, jsii.String("Bus"), &awsevents.EventBusProps{KmsKey: c.key})
	encryption := awssqs.QueueEncryption_SQS_MANAGED
	if c.key != nil {
		encryption = awssqs.QueueEncryption_KMS
	}
	c.DeadLetters = awssqs.NewQueue(c.Construct, jsii.String("DeadLetters"), &awssqs.QueueProps{
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)), Encryption: encryption, EncryptionMasterKey: c.key,
	})
	if c.props.NoPromptExpiry {
		return
	}
	c.Timers = awssqs.NewQueue(c.Construct, jsii.String("Timers"), &awssqs.QueueProps{
		VisibilityTimeout: awscdk.Duration_Seconds(jsii.Number(timersVisibility)), Encryption: encryption, EncryptionMasterKey: c.key,
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)),
		// Each throttled invocation counts as a receive. The function itself puts messages that are no timers into the
		// dead-letter queue.
		DeadLetterQueue: &awssqs.DeadLetterQueue{Queue: c.DeadLetters, MaxReceiveCount: jsii.Number(100)},
	})
}

func (c *Coordinator) table() {
	if c.props.ImportedTable != nil {
		c.Table = c.props.ImportedTable
		return
	}
	encryption := awsdynamodb.TableEncryption_DEFAULT
	if c.key != nil {
		encryption = awsdynamodb.TableEncryption_CUSTOMER_MANAGED
	}
	table := awsdynamodb.NewTable(c.Construct, jsii.String("Table"), &awsdynamodb.TableProps{
		TableName:           optional(c.props.Table),
		PartitionKey:        &awsdynamodb.Attribute{Name: jsii.String("pk"), Type: awsdynamodb.AttributeType_STRING},
		SortKey:             &awsdynamodb.Attribute{Name: jsii.String("sk"), Type: awsdynamodb.AttributeType_STRING},
		BillingMode:         awsdynamodb.BillingMode_PAY_PER_REQUEST,
		TimeToLiveAttribute: jsii.String("ttl"),
		Stream:              awsdynamodb.StreamViewType_NEW_AND_OLD_IMAGES,
		PointInTimeRecoverySpecification: &awsdynamodb.PointInTimeRecoverySpecification{
			PointInTimeRecoveryEnabled: jsii.Bool(true),
		},
		DeletionProtection: jsii.Bool(c.props.DeletionProtection),
		RemovalPolicy:      c.props.RemovalPolicy,
		Encryption:         encryption,
		EncryptionKey:      c.key,
	})
	table.AddGlobalSecondaryIndex(&awsdynamodb.GlobalSecondaryIndexProps{ // for lists of a prefix: see internal/dynamo/index.go
		IndexName:      jsii.String(nameIndex),
		PartitionKey:   &awsdynamodb.Attribute{Name: jsii.String("idx"), Type: awsdynamodb.AttributeType_STRING},
		SortKey:        &awsdynamodb.Attribute{Name: jsii.String("pk"), Type: awsdynamodb.AttributeType_STRING},
		ProjectionType: awsdynamodb.ProjectionType_KEYS_ONLY,
	})
	c.Table = table
}

// nameIndex is the table's index of locks' names.
const nameIndex = "names"

// code is a function's code. The caller calls copied once the CDK has copied it.
func (c *Coordinator) code(name string) (code awslambda.Code, copied func()) {
	if c.props.Code != "" {
		zip, build := filepath.Join(c.props.Code, name+".zip"), "make build"
		if c.props.TraceEndpoint != "" {
			zip, build = filepath.Join(c.props.Code, "traced", name+".zip"), "make build TRACED=true"
		}
		if _, err := os.Stat(zip); err != nil {
			panic(fmt.Errorf("infra: Props.Code: %w; run %q, or leave Code empty to build from the module", err, build))
		}
		return awslambda.Code_FromAsset(&zip, nil), func() {}
	}
	dir, err := os.MkdirTemp("", "holdfast-"+name+"-")
	if err != nil {
		panic(err)
	}
	// The build runs in the module's folder, since the app's go.sum may lack modules that only the functions need.
	module := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/holdfast-lock/holdfast") //nolint:noctx // a synthesis has no context
	where, err := module.Output()
	if err != nil {
		panic(fmt.Errorf("infra: the module github.com/holdfast-lock/holdfast is not there: %w; or give Props.Code", err))
	}
	tags := "lambda.norpc"
	if c.props.TraceEndpoint != "" {
		tags += ",traced"
	}
	build := exec.Command( //nolint:gosec,noctx // name is one of this package's
		"go", "build", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags", "-s -w -buildid=",
		"-o", filepath.Join(dir, "bootstrap"), "./functions/"+name)
	build.Dir = strings.TrimSpace(string(where))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+map[Architecture]string{ARM64: "arm64", X86: "amd64"}[c.props.Architecture])
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Errorf("infra: building function %s: %w\n%s", name, err, out))
	}
	return awslambda.Code_FromAsset(&dir, nil), func() { _ = os.RemoveAll(dir) }
}

// capital is a function's name in a construct's id.
func capital(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
