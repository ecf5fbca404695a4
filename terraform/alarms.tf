# The alarms of infra/alarms.go. Contention raises none.
locals {
  alarmed = { for name, f in local.published : name => "${upper(substr(name, 0, 1))}${substr(name, 1, -1)}" } # in the names of alarms

  # Lambda counts direct invocations that fail on purpose among Errors; the functions that serve requests count these, too.
  failures = { for name, capital in local.alarmed : "Errors${capital}" => {
    description = "Function ${name} fails or times out: see its log; docs/runbook.md#errors", minutes = 3, threshold = 1
    function    = aws_lambda_function.function[name].function_name, op = local.serving[name].op
  } if contains(keys(local.serving), name) }

  metrics = merge(
    { for name, capital in local.alarmed : "Errors${capital}" => {
      description = "Function ${name} fails or times out: see its log; docs/runbook.md#errors", namespace = "AWS/Lambda", metric = "Errors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.function[name].function_name }, threshold = 1, minutes = 3
    } if !contains(keys(local.serving), name) },
    { for name, capital in local.alarmed : "Throttles${capital}" => {
      description = "Function ${name} is throttled: raise its concurrency, or the account's; docs/runbook.md#throttles", namespace = "AWS/Lambda", metric = "Throttles", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.function[name].function_name }, threshold = 1, minutes = 3
    } },
    { for id in aws_apigatewayv2_api.api[*].id : "ApiFaults" => {
      description = "Requests fail with 5xx: see the functions' logs by request_id; docs/runbook.md#apifaults", namespace = "AWS/ApiGateway", metric = "5xx", statistic = "Sum"
      dimensions  = { ApiId = id }, threshold = 5, minutes = 3
    } },
    {
      StreamLag = {
        description = "Events are late: the stream function cannot keep up, or the bus is unavailable; docs/runbook.md#streamlag", namespace = "AWS/Lambda", metric = "IteratorAge", statistic = "Maximum"
        dimensions  = { FunctionName = aws_lambda_function.function["stream"].function_name }, threshold = 30000, minutes = 3
      }
      DeadLetters = {
        description = "A record, event or timer could not be decoded or handled: see the dead-letter queue; docs/runbook.md#deadletters", namespace = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum"
        dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }, threshold = 1, minutes = 1
      }
      UndeliveredStream = {
        description = "A failed invocation could not be sent to the dead-letter queue: see Lambda's metrics of the function; docs/runbook.md#undelivered", namespace = "AWS/Lambda", metric = "DestinationDeliveryFailures", statistic = "Sum"
        dimensions  = { FunctionName = aws_lambda_function.function["stream"].function_name }, threshold = 1, minutes = 1
      }
    },
    { for rule in aws_cloudwatch_event_rule.executions_end[*].name : "UndeliveredExpire" => {
      description = "A failed invocation could not be sent to the dead-letter queue: see Lambda's metrics of the function; docs/runbook.md#undelivered", namespace = "AWS/Lambda", metric = "DestinationDeliveryFailures", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.function["expire"].function_name }, threshold = 1, minutes = 1
    } },
    { for rule in aws_cloudwatch_event_rule.executions_end[*].name : "ExecutionsEndLost" => {
      description = "The event of an execution's end reached neither the expire function nor the dead-letter queue; a later check ends its leases; docs/runbook.md#executionsendlost", namespace = "AWS/Events", metric = "InvocationsFailedToBeSentToDlq", statistic = "Sum"
      dimensions  = { RuleName = rule }, threshold = 1, minutes = 1
    } },
    { for id, a in {
      ClockGuard            = { timers = false, metric = "clock_guard", statistic = "Sum", threshold = 1, minutes = 1, description = "A coordinator's clock is wrong: more than 2 s off always shows, 1 s or less never; it grants nothing until it is right" }
      CallbackUndeliverable = { timers = false, metric = "callback_undeliverable", statistic = "Sum", threshold = 1, minutes = 1, description = "A task can never get its callback: list its state machine in StateMachines, or its function in DurableFunctions" }
      CallbackFailed        = { timers = false, metric = "callback_failed", statistic = "Sum", threshold = 1, minutes = 3, description = "Callbacks to tasks fail and are retried: see the stream function's log" }
      EventPutOff           = { timers = false, metric = "event_put_off", statistic = "Sum", threshold = 1, minutes = 3, description = "The event bus does not accept events; they are kept and sent later: see the stream function's log" }
      LockNotHandedOn       = { timers = false, metric = "lock_not_handed_on", statistic = "Sum", threshold = 1, minutes = 1, description = "A free lock cannot be granted to its waiters: see the log for its name" }
      RecordBuried          = { timers = false, metric = "record_buried", statistic = "Sum", threshold = 1, minutes = 1, description = "A stream record cannot be decoded: see the dead-letter queue" }
      WorkGivenUp           = { timers = true, metric = "work_given_up", statistic = "Sum", threshold = 1, minutes = 1, description = "An event, a callback or a hand-off has failed for a day, or can never succeed: see the dead-letter queue" }
      TimerFailed           = { timers = true, metric = "timer_failed", statistic = "Sum", threshold = 1, minutes = 3, description = "Timers cannot be set or handled, and are retried: see the logs of stream and expire" }
      ExecutionUnknown      = { timers = true, metric = "execution_unknown", statistic = "Sum", threshold = 1, minutes = 3, description = "DescribeExecution fails, so that leases of ended executions may stay: check the expire function's permission" }
      ExecutionChecksLate   = { timers = true, metric = "execution_checks_delayed", statistic = "Sum", threshold = 1, minutes = 5, description = "Checks of executions are delayed by the limit of DescribeExecution calls: raise ttl_ms of leases with an execution" }
      ExecutionEndFailed    = { timers = true, metric = "execution_end_failed", statistic = "Sum", threshold = 1, minutes = 3, description = "Leases of ended executions cannot be ended, which is retried: see the expire function's log" }
      ExecutionEndMissed    = { timers = true, metric = "execution_end_missed", statistic = "Sum", threshold = 1, minutes = 1, description = "A check found an ended execution whose event did not arrive: see the rule on executions and its dead letters" }
      GrantToldLate         = { timers = true, metric = "grant_told_late", statistic = "Sum", threshold = 1, minutes = 1, description = "A check found a task that had not got its callback, and sent it: the stream function failed or lost records" }
      ExpiryLag             = { timers = true, metric = "expiry_lag_ms", statistic = "p90", threshold = 10000, minutes = 3, description = "Lock Expired events are late: timers are lost or delayed" }
      } : id => {
      description = "${a.description}; docs/runbook.md#${lower(id)}", namespace = local.namespace, metric = a.metric, statistic = a.statistic, dimensions = {}, threshold = a.threshold, minutes = a.minutes
    } if var.prompt_expiry || !a.timers },
  )
  actions = [for arn in [var.alarm_topic_arn] : arn if arn != ""]
}

resource "aws_cloudwatch_metric_alarm" "alarm" {
  for_each            = local.metrics
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  alarm_actions       = local.actions
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = startswith(each.value.statistic, "p") ? null : each.value.statistic
  extended_statistic  = startswith(each.value.statistic, "p") ? each.value.statistic : null
  dimensions          = each.value.dimensions
  period              = 60
  threshold           = each.value.threshold
  evaluation_periods  = 5
  datapoints_to_alarm = each.value.minutes
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
}

resource "aws_cloudwatch_metric_alarm" "failures" {
  for_each            = local.failures
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  alarm_actions       = local.actions
  threshold           = each.value.threshold
  evaluation_periods  = 5
  datapoints_to_alarm = each.value.minutes
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"

  metric_query {
    id          = "expr_1"
    label       = "failures"
    expression  = "IF(errors - FILL(refused, 0) > errors / 50, errors - FILL(refused, 0), 0)"
    return_data = true
  }
  metric_query {
    id          = "errors"
    return_data = false
    metric {
      namespace   = "AWS/Lambda"
      metric_name = "Errors"
      dimensions  = { FunctionName = each.value.function }
      period      = 60
      stat        = "Sum"
    }
  }
  metric_query {
    id          = "refused"
    return_data = false
    metric {
      namespace   = local.namespace
      metric_name = "refused"
      dimensions  = { op = each.value.op }
      period      = 60
      stat        = "Sum"
    }
  }
}
