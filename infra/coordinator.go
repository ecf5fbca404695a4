// Package infra provisions Holdfast with the AWS CDK: [NewCoordinator] is a construct for any app, and ./app a thin one of
// its own.
//
//	locks := infra.NewCoordinator(stack, "Locks", infra.Props{})
//	locks.GrantLock(deployer, "deploy:*")
//	locks.OnReleased("Next", "deploy", awseventstargets.NewLambdaFunction(next, nil))
package infra

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// An Architecture is what the functions are built for.
type Architecture string

// The architectures.
const (
	ARM64 Architecture = "arm64"
	X86   Architecture = "x86_64"
)

// Props are a coordinator's settings. The zero value is a production coordinator.
type Props struct {
	// Architecture of the functions. Empty: arm64, the cheaper one.
	Architecture Architecture
	// Code is a directory with the functions' zips for the architecture, as "make build" writes it (dist/arm64). Empty: they
	// are built from the module that the app depends on, with the app's own Go.
	Code string
	// RemovalPolicy of the table; with RETAIN it is protected from deletion too. Empty: RETAIN.
	RemovalPolicy awscdk.RemovalPolicy
	// Table names the table. Empty: CloudFormation does.
	Table string
	// MaxTTL is the longest TTL that a request may ask for. Nil: 24 hours. At least one minute.
	MaxTTL awscdk.Duration
	// StateMachines are the names of the Step Functions state machines (in this account and region) whose tasks may wait for
	// locks with a task token, and to whose executions leases may belong; a "*" at the end of one means any rest.
	StateMachines []string
	// DurableFunctions are the names of the Lambda durable functions that may wait for locks with a callback.
	DurableFunctions []string
	// NoPromptExpiry leaves out the timers: a lease that ran out is told when the lock is next used, or hours later by native
	// TTL. It saves $0.28 to $1.60 a million leases: docs/cost.md.
	NoPromptExpiry bool
	// Concurrency reserves so many concurrent executions for each function that serves requests. 0: none reserved; the
	// account's are shared.
	Concurrency int
	// RequestsPerSecond and Burst are the API's limits. 0: 1,000 and 500.
	RequestsPerSecond, Burst int
	// LogRetention of all log groups. Empty: 30 days.
	LogRetention awslogs.RetentionDays
	// AlarmTopic is told of alarms. Nil: alarms only show.
	AlarmTopic awssns.ITopic
	// Tracing turns X-Ray on for the functions.
	Tracing bool
	// Key encrypts the table and the queues. Nil: keys that AWS owns, at no cost.
	Key awskms.IKey
}

// A Coordinator is Holdfast in a stack.
type Coordinator struct {
	Construct   constructs.Construct
	Table       awsdynamodb.Table
	Bus         awsevents.EventBus
	API         awsapigatewayv2.HttpApi
	Timers      awssqs.Queue // nil without prompt expiry
	DeadLetters awssqs.Queue
	Dashboard   awscloudwatch.Dashboard
	Alarms      map[string]awscloudwatch.Alarm
	// Functions by name: acquire, renew, release, status, forcerelease, stream, expire.
	Functions map[string]awslambda.Function

	props     Props
	namespace *string // of the metrics
	logs      map[string]awslogs.LogGroup
}

// NewCoordinator adds a coordinator to a stack. It panics, as constructs do, on props that cannot be met.
func NewCoordinator(scope constructs.Construct, id string, props Props) *Coordinator {
	if err := props.validate(); err != nil {
		panic(err)
	}
	c := &Coordinator{
		Construct: constructs.NewConstruct(scope, &id), props: props.withDefaults(),
		Functions: map[string]awslambda.Function{}, Alarms: map[string]awscloudwatch.Alarm{}, logs: map[string]awslogs.LogGroup{},
	}
	c.namespace = awscdk.Fn_Join(jsii.String(""), jsii.Strings("Holdfast/", *awscdk.Aws_STACK_NAME()))
	c.storage()
	c.functions()
	c.api()
	c.eventSources()
	c.executions()
	c.alarms()
	c.dashboard()
	return c
}

func (p Props) validate() error {
	switch {
	case p.Architecture != "" && p.Architecture != ARM64 && p.Architecture != X86:
		return fmt.Errorf("infra: Props.Architecture is %q; it must be %s or %s", p.Architecture, ARM64, X86)
	case p.NoPromptExpiry && len(p.StateMachines)+len(p.DurableFunctions) > 0:
		return errors.New("infra: Props.NoPromptExpiry is set, and so are StateMachines or DurableFunctions: tasks that wait behind a dead holder need the timers; leave one out")
	case p.MaxTTL != nil && (*p.MaxTTL.ToSeconds(nil) < 60 || *p.MaxTTL.ToSeconds(nil) > 86400):
		return fmt.Errorf("infra: Props.MaxTTL is %v s; it must be from 60 s to 86,400 s", *p.MaxTTL.ToSeconds(nil))
	case p.Concurrency < 0 || p.RequestsPerSecond < 0 || p.Burst < 0:
		return fmt.Errorf("infra: Props.Concurrency, RequestsPerSecond and Burst must not be negative")
	}
	return nil
}

func (p Props) withDefaults() Props {
	if p.Architecture == "" {
		p.Architecture = ARM64
	}
	if p.RemovalPolicy == "" {
		p.RemovalPolicy = awscdk.RemovalPolicy_RETAIN
	}
	if p.RequestsPerSecond == 0 {
		p.RequestsPerSecond = 1000
	}
	if p.Burst == 0 {
		p.Burst = 500
	}
	if p.LogRetention == "" {
		p.LogRetention = awslogs.RetentionDays_ONE_MONTH
	}
	return p
}

func (c *Coordinator) storage() {
	encryption := awsdynamodb.TableEncryption_DEFAULT
	queueEncryption := awssqs.QueueEncryption_SQS_MANAGED
	if c.props.Key != nil {
		encryption, queueEncryption = awsdynamodb.TableEncryption_CUSTOMER_MANAGED, awssqs.QueueEncryption_KMS
	}
	c.Table = awsdynamodb.NewTable(c.Construct, jsii.String("Table"), &awsdynamodb.TableProps{
		TableName:           optional(c.props.Table),
		PartitionKey:        &awsdynamodb.Attribute{Name: jsii.String("pk"), Type: awsdynamodb.AttributeType_STRING},
		SortKey:             &awsdynamodb.Attribute{Name: jsii.String("sk"), Type: awsdynamodb.AttributeType_STRING},
		BillingMode:         awsdynamodb.BillingMode_PAY_PER_REQUEST,
		TimeToLiveAttribute: jsii.String("ttl"),
		Stream:              awsdynamodb.StreamViewType_NEW_AND_OLD_IMAGES,
		PointInTimeRecoverySpecification: &awsdynamodb.PointInTimeRecoverySpecification{
			PointInTimeRecoveryEnabled: jsii.Bool(true),
		},
		DeletionProtection: jsii.Bool(c.props.RemovalPolicy == awscdk.RemovalPolicy_RETAIN),
		RemovalPolicy:      c.props.RemovalPolicy,
		Encryption:         encryption,
		EncryptionKey:      c.props.Key,
	})
	c.Bus = awsevents.NewEventBus(c.Construct, jsii.String("Bus"), nil)
	c.DeadLetters = awssqs.NewQueue(c.Construct, jsii.String("DeadLetters"), &awssqs.QueueProps{
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)), Encryption: queueEncryption, EncryptionMasterKey: c.props.Key,
	})
	if c.props.NoPromptExpiry {
		return
	}
	c.Timers = awssqs.NewQueue(c.Construct, jsii.String("Timers"), &awssqs.QueueProps{
		VisibilityTimeout: awscdk.Duration_Seconds(jsii.Number(timersVisibility)), Encryption: queueEncryption, EncryptionMasterKey: c.props.Key,
		DeadLetterQueue: &awssqs.DeadLetterQueue{Queue: c.DeadLetters, MaxReceiveCount: jsii.Number(5)},
	})
}

// code is a function's zip, and what is to be called once that is copied.
func (c *Coordinator) code(name string) (code awslambda.Code, copied func()) {
	if c.props.Code != "" {
		zip := filepath.Join(c.props.Code, name+".zip")
		if _, err := os.Stat(zip); err != nil {
			panic(fmt.Errorf("infra: Props.Code: %w; run \"make build\", or leave Code empty to build from the module", err))
		}
		return awslambda.Code_FromAsset(&zip, nil), func() {}
	}
	dir, err := os.MkdirTemp("", "holdfast-"+name+"-")
	if err != nil {
		panic(err)
	}
	// In the module's own folder, since its go.sum knows what the functions need; the app's knows what the app does.
	module := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/holdfast-lock/holdfast") //nolint:noctx // a synthesis has no context
	where, err := module.Output()
	if err != nil {
		panic(fmt.Errorf("infra: the module github.com/holdfast-lock/holdfast is not there: %w; or give Props.Code", err))
	}
	build := exec.Command( //nolint:gosec,noctx // name is one of this package's
		"go", "build", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w -buildid=",
		"-o", filepath.Join(dir, "bootstrap"), "./functions/"+name)
	build.Dir = strings.TrimSpace(string(where))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+map[Architecture]string{ARM64: "arm64", X86: "amd64"}[c.props.Architecture])
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Errorf("infra: building function %s: %w\n%s", name, err, out))
	}
	return awslambda.Code_FromAsset(&dir, nil), func() { _ = os.RemoveAll(dir) }
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
