package infra

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/jsii-runtime-go"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// metric is one of the metrics that the functions log.
func (c *Coordinator) metric(name, statistic string) awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: c.namespace, MetricName: &name, Statistic: &statistic, Period: minute(),
	})
}

// lambdaMetric is one of Lambda's metrics of a function.
func (c *Coordinator) lambdaMetric(function, name, statistic string) awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/Lambda"), MetricName: &name, Statistic: &statistic, Period: minute(),
		DimensionsMap: &map[string]*string{"FunctionName": c.Functions[function].FunctionName()},
	})
}

// errors counts the failures of a function. Lambda also counts direct invocations that fail on purpose, such as with LockHeld, and these a
// function that serves requests counts itself. The two counts may put an invocation at the turn of a minute into different minutes, which is
// why a difference of up to a fiftieth is taken for none.
func (c *Coordinator) errors(function string) awscloudwatch.IMetric {
	errors := c.lambdaMetric(function, "Errors", "Sum")
	if !slices.Contains(serving(), function) {
		return errors
	}
	refused := awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: c.namespace, MetricName: jsii.String("refused"), Statistic: jsii.String("Sum"), Period: minute(),
		DimensionsMap: &map[string]*string{"op": jsii.String(operation(function))},
	})
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression:   jsii.String("IF(errors - FILL(refused, 0) > errors / 50, errors - FILL(refused, 0), 0)"),
		UsingMetrics: &map[string]awscloudwatch.IMetric{"errors": errors, "refused": refused}, Label: jsii.String("failures"), Period: minute(),
	})
}

// apiMetric is the sum of one of API Gateway's metrics.
func (c *Coordinator) apiMetric(name string) awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/ApiGateway"), MetricName: &name, Statistic: jsii.String("Sum"), Period: minute(),
		DimensionsMap: &map[string]*string{"ApiId": c.API.ApiId()},
	})
}

func (c *Coordinator) deadLetters() awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: jsii.String("AWS/SQS"), MetricName: jsii.String("ApproximateNumberOfMessagesVisible"), Statistic: jsii.String("Maximum"),
		DimensionsMap: &map[string]*string{"QueueName": c.DeadLetters.QueueName()}, Period: minute(),
	})
}

func minute() awscdk.Duration { return awscdk.Duration_Minutes(jsii.Number(1)) }

// alarms adds an alarm for each condition that needs a person. Contention is a normal answer and raises none.
func (c *Coordinator) alarms() {
	if c.API != nil {
		c.alarm("ApiFaults", "Requests fail with 5xx: see the functions' logs by request_id", c.apiMetric("5xx"), 5, 3)
	}
	for _, f := range c.names {
		c.alarm("Errors"+capital(f), "Function "+f+" fails or times out: see its log", c.errors(f), 1, 3)
		c.alarm("Throttles"+capital(f), "Function "+f+" is throttled: raise its concurrency, or the account's", c.lambdaMetric(f, "Throttles", "Sum"), 1, 3)
	}
	c.alarm("StreamLag", "Events are late: the stream function cannot keep up, or the bus is unavailable",
		c.lambdaMetric("stream", "IteratorAge", "Maximum"), 30_000, 3)
	c.alarm("DeadLetters", "A record, event or timer could not be decoded or handled: see the dead-letter queue", c.deadLetters(), 1, 1)
	c.alarm("ClockGuard", "A coordinator's clock is wrong: more than 2 s off always shows, 1 s or less never; it grants nothing until it is right",
		c.metric("clock_guard", "Sum"), 1, 1)
	for _, f := range stream.Faults() {
		if c.Timers != nil || !f.Timers {
			c.alarm(f.Alarm, f.Description, c.metric(f.Metric, "Sum"), 1, float64(f.Minutes))
		}
	}
	const undelivered = "A failed invocation could not be sent to the dead-letter queue: see Lambda's metrics of the function"
	c.alarm("UndeliveredStream", undelivered, c.lambdaMetric("stream", "DestinationDeliveryFailures", "Sum"), 1, 1)
	if c.rule != nil {
		c.alarm("UndeliveredExpire", undelivered, c.lambdaMetric("expire", "DestinationDeliveryFailures", "Sum"), 1, 1)
		c.alarm("ExecutionsEndLost", "The event of an execution's end reached neither the expire function nor the dead-letter queue; a later check ends its leases",
			awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
				Namespace: jsii.String("AWS/Events"), MetricName: jsii.String("InvocationsFailedToBeSentToDlq"), Statistic: jsii.String("Sum"),
				DimensionsMap: &map[string]*string{"RuleName": c.rule.RuleName()}, Period: minute(),
			}), 1, 1)
	}
	if c.Timers != nil {
		c.alarm("ExpiryLag", "Lock Expired events are late: timers are lost or delayed", c.metric("expiry_lag_ms", "p90"), 10_000, 3)
	}
}

// alarm adds an alarm that is raised when a metric has reached a threshold in so many of the last five minutes.
func (c *Coordinator) alarm(id, description string, metric awscloudwatch.IMetric, threshold, minutes float64) {
	description += "; docs/runbook.md#" + Section(id)
	alarm := awscloudwatch.NewAlarm(c.Construct, jsii.String(id+"Alarm"), &awscloudwatch.AlarmProps{
		AlarmDescription: &description, Metric: metric, Threshold: &threshold, EvaluationPeriods: jsii.Number(5), DatapointsToAlarm: &minutes,
		ComparisonOperator: awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
		TreatMissingData:   awscloudwatch.TreatMissingData_NOT_BREACHING,
	})
	if c.props.AlarmTopic != nil {
		alarm.AddAlarmAction(awscloudwatchactions.NewSnsAction(c.props.AlarmTopic))
	}
	c.Alarms[id] = alarm
}

// Section is the section of docs/runbook.md about an alarm. The alarms of all functions, such as ErrorsAcquire and ErrorsRenew, have one
// together.
func Section(alarm string) string {
	for _, kind := range []string{"Errors", "Faults", "Throttles", "Undelivered"} {
		if strings.HasPrefix(alarm, kind) {
			return strings.ToLower(kind)
		}
	}
	return strings.ToLower(alarm)
}

// dashboard adds a dashboard that shows, from the top: requests, locks, the functions, and the stream, the table and
// the queues.
func (c *Coordinator) dashboard() {
	search := func(dimensions, name, statistic string) awscloudwatch.IMetric {
		return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
			Expression: awscdk.Fn_Join(jsii.String(""), &[]*string{
				jsii.String("SEARCH('{\""), c.namespace, jsii.String(fmt.Sprintf("\",%s} MetricName=%q', '%s', 60)", dimensions, name, statistic)),
			}),
			Label: jsii.String(""), UsingMetrics: &map[string]awscloudwatch.IMetric{}, Period: minute(),
		})
	}
	graph := func(title string, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
		return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{Title: &title, Left: &metrics, Width: jsii.Number(8), Height: jsii.Number(6)})
	}
	each := func(name, statistic string) (list []awscloudwatch.IMetric) {
		for _, f := range c.names {
			list = append(list, c.lambdaMetric(f, name, statistic))
		}
		return list
	}
	table := func(name string) awscloudwatch.IMetric {
		return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
			Namespace: jsii.String("AWS/DynamoDB"), MetricName: &name, Statistic: jsii.String("Sum"), Period: minute(),
			DimensionsMap: &map[string]*string{"TableName": c.Table.TableName()},
		})
	}
	c.Dashboard = awscloudwatch.NewDashboard(c.Construct, jsii.String("Dashboard"), nil)
	awscdk.Annotations_Of(c.Dashboard).AcknowledgeWarning(jsii.String("CloudWatch:Math:UnknownIdentifier"),
		jsii.String("the CDK takes the words of a search's namespace for identifiers"))
	c.Dashboard.AddWidgets(
		graph("Requests a minute, by operation and outcome", search("op,code", "latency_ms", "SampleCount")),
		graph("Latency, p50 (ms)", search("op", "latency_ms", "p50")),
		graph("Latency, p99 (ms)", search("op", "latency_ms", "p99")),
	)
	locks := []awscloudwatch.IWidget{
		graph("Time held, p50 by first name segment (ms)", search("group", "hold_ms", "p50")),
		graph("Time waited in a queue, p50 by first name segment (ms)", search("group", "waited_ms", "p50")),
		graph("Leases that ran out: how late they were told, p50 and p99 (ms)",
			c.metric("expiry_lag_ms", "p50"), c.metric("expiry_lag_ms", "p99")),
	}
	if c.API != nil {
		locks = append(locks, graph("API: 4xx, 5xx and count", c.apiMetric("4xx"), c.apiMetric("5xx"), c.apiMetric("Count")))
	}
	c.Dashboard.AddWidgets(locks...)
	c.Dashboard.AddWidgets(
		graph("Functions: errors", each("Errors", "Sum")...),
		graph("Functions: duration, p99 (ms)", each("Duration", "p99")...),
		graph("Functions: concurrent executions", each("ConcurrentExecutions", "Maximum")...),
	)
	c.Dashboard.AddWidgets(
		graph("Stream: age of what it reads (ms)", c.lambdaMetric("stream", "IteratorAge", "Maximum")),
		graph("Table: units consumed", table("ConsumedWriteCapacityUnits"), table("ConsumedReadCapacityUnits")),
		graph("Dead letters, wrong clocks", c.deadLetters(), c.metric("clock_guard", "Sum")),
	)
}
