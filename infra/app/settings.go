package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/constructs-go/constructs/v10"

	"github.com/holdfast-lock/holdfast/infra"
)

// A setting is a context value of the app, and the prop that it sets.
type setting struct {
	name, doc string
	set       func(scope constructs.Construct, value string, props *infra.Props) error
}

var settings = []setting{
	{"architecture", "arm64, the default, or x86_64", plain(func(v string, p *infra.Props) { p.Architecture = infra.Architecture(v) })},
	{"code", "a directory with the functions' zips; by default the functions are built", plain(func(v string, p *infra.Props) { p.Code = v })},
	{"destroy", "true: the table is deleted with the stack, for trials", flag(func(p *infra.Props) { p.RemovalPolicy = awscdk.RemovalPolicy_DESTROY })},
	{"protect", "true: DynamoDB refuses to delete the table; after the first deployment", flag(func(p *infra.Props) { p.DeletionProtection = true })},
	{"table", "the table's name", plain(func(v string, p *infra.Props) { p.Table = v })},
	{"importedTableStream", "the ARN of the stream of an existing lock table", importTable},
	{"maxTtl", "the longest TTL that a request may ask for, such as 36h", maxTTL},
	{"stateMachines", "names of state machines whose tasks may wait for locks, with commas", names(func(l []string, p *infra.Props) { p.StateMachines = l })},
	{"durableFunctions", "names of durable functions that may wait for locks, with commas", names(func(l []string, p *infra.Props) { p.DurableFunctions = l })},
	{"events", "the beginnings of the names of the locks whose events are published, with commas; - for none", names(func(l []string, p *infra.Props) { p.Events = l })},
	{"noPromptExpiry", "true: no timers", flag(func(p *infra.Props) { p.NoPromptExpiry = true })},
	{"concurrency", "reserved for each function that serves requests", number(func(n int, p *infra.Props) { p.Concurrency = n })},
	{"streamConcurrency", "reserved for the stream function", number(func(n int, p *infra.Props) { p.StreamConcurrency = n })},
	{"expireConcurrency", "reserved for the expire function", number(func(n int, p *infra.Props) { p.ExpireConcurrency = n })},
	{"timersConcurrency", "concurrent executions that handle timers", number(func(n int, p *infra.Props) { p.TimersConcurrency = n })},
	{"noApi", "true: no HTTP API", flag(func(p *infra.Props) { p.NoAPI = true })},
	{"subnetIds", "the subnets of the functions, with commas", names(func(l []string, p *infra.Props) { p.SubnetIDs = l })},
	{"securityGroupIds", "the security groups of the functions, with commas", names(func(l []string, p *infra.Props) { p.SecurityGroupIDs = l })},
	{"endpointsVpcId", "the VPC in which the stack makes VPC endpoints", plain(func(v string, p *infra.Props) { p.EndpointsVPC = v })},
	{"routeTableIds", "the route tables for DynamoDB's endpoint, with commas", names(func(l []string, p *infra.Props) { p.RouteTableIDs = l })},
	{"versions", "true: each deployment publishes versions of the functions", flag(func(p *infra.Props) { p.Versions = true })},
	{"rollout", "how CodeDeploy moves requests to a new version", plain(func(v string, p *infra.Props) { p.Rollout = v })},
	{"requestsPerSecond", "the API's limit", number(func(n int, p *infra.Props) { p.RequestsPerSecond = n })},
	{"burst", "the API's limit of bursts", number(func(n int, p *infra.Props) { p.Burst = n })},
	{"logRetentionDays", "how long logs are kept", logRetention},
	{"alarmTopic", "the ARN of the SNS topic that alarms notify", func(scope constructs.Construct, v string, p *infra.Props) error {
		p.AlarmTopic = awssns.Topic_FromTopicArn(scope, new("AlarmTopic"), &v)
		return nil
	}},
	{"tracing", "true: X-Ray", flag(func(p *infra.Props) { p.Tracing = true })},
	{"traceEndpoint", "the URL of a collector that gets the functions' spans, such as http://localhost:4318 of a layer", plain(func(v string, p *infra.Props) { p.TraceEndpoint = v })},
	{"traceLayer", "the ARN of a layer's version with a collector", plain(func(v string, p *infra.Props) { p.TraceLayer = v })},
	{"key", "the ARN of the KMS key that encrypts table, queues, bus and logs", func(scope constructs.Construct, v string, p *infra.Props) error {
		p.Key = awskms.Key_FromKeyArn(scope, new("Key"), &v)
		return nil
	}},
	{"notifyName", "the first part of the names of waiters' queues", plain(func(v string, p *infra.Props) { p.NotifyName = v })},
	{"metricNamespace", "the CloudWatch namespace of metrics", plain(func(v string, p *infra.Props) { p.MetricNamespace = v })},
}

// appContext are the context values that main reads itself.
var appContext = []string{"stack", "examples", "work"}

// readSettings converts context values to props. An unknown name is an error, since its value would be ignored.
func readSettings(scope constructs.Construct, context map[string]string) (infra.Props, error) {
	var props infra.Props
	known := slices.Clone(appContext)
	for _, s := range settings {
		known = append(known, s.name)
		if v := context[s.name]; v != "" {
			if err := s.set(scope, v, &props); err != nil {
				return props, fmt.Errorf("context value %s=%s: %w", s.name, v, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(context)) {
		ours := regexp.MustCompile(`^[a-zA-Z]+$`).MatchString(name) // names of the CDK's own have other characters too
		if ours && !slices.Contains(known, name) {
			return props, fmt.Errorf("there is no context value %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return props, nil
}

type setter = func(scope constructs.Construct, value string, props *infra.Props) error

func plain(set func(string, *infra.Props)) setter {
	return func(_ constructs.Construct, v string, p *infra.Props) error {
		set(v, p)
		return nil
	}
}

func flag(set func(*infra.Props)) setter {
	return func(_ constructs.Construct, v string, p *infra.Props) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("give true or false")
		}
		if on {
			set(p)
		}
		return nil
	}
}

func number(set func(int, *infra.Props)) setter {
	return func(_ constructs.Construct, v string, p *infra.Props) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return fmt.Errorf("give a whole number, 1 or more")
		}
		set(n, p)
		return nil
	}
}

func names(set func([]string, *infra.Props)) setter {
	return func(_ constructs.Construct, v string, p *infra.Props) error {
		set(strings.Split(v, ","), p)
		return nil
	}
}

func maxTTL(_ constructs.Construct, v string, p *infra.Props) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("give a duration, such as 36h or 90m")
	}
	p.MaxTTL = awscdk.Duration_Seconds(new(d.Seconds()))
	return nil
}

func importTable(scope constructs.Construct, v string, p *infra.Props) error {
	table, _, ok := strings.Cut(v, "/stream/")
	if !ok {
		return fmt.Errorf("give a stream's ARN, arn:…:table/NAME/stream/TIME")
	}
	p.ImportedTable = awsdynamodb.Table_FromTableAttributes(scope, new("ImportedTable"), &awsdynamodb.TableAttributes{TableArn: &table, TableStreamArn: &v})
	return nil
}

var retentions = map[string]awslogs.RetentionDays{
	"1": awslogs.RetentionDays_ONE_DAY, "3": awslogs.RetentionDays_THREE_DAYS, "5": awslogs.RetentionDays_FIVE_DAYS,
	"7": awslogs.RetentionDays_ONE_WEEK, "14": awslogs.RetentionDays_TWO_WEEKS, "30": awslogs.RetentionDays_ONE_MONTH,
	"60": awslogs.RetentionDays_TWO_MONTHS, "90": awslogs.RetentionDays_THREE_MONTHS, "120": awslogs.RetentionDays_FOUR_MONTHS,
	"180": awslogs.RetentionDays_SIX_MONTHS, "365": awslogs.RetentionDays_ONE_YEAR, "731": awslogs.RetentionDays_TWO_YEARS,
}

func logRetention(_ constructs.Construct, v string, p *infra.Props) error {
	r, ok := retentions[v]
	if !ok {
		return fmt.Errorf("give 1, 3, 5, 7, 14, 30, 60, 90, 120, 180, 365 or 731")
	}
	p.LogRetention = r
	return nil
}
