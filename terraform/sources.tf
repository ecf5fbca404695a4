# See StreamFilters in infra/sources.go.
locals {
  quiet    = ["attempt", "check", "claim", "queue", "renew", "told"]
  loud     = { cause = { S = [{ "anything-but" = local.quiet }] } }
  listened = merge({ sk = { S = ["lock"] } }, { for k, v in { pk = { S = [for e in var.events : { prefix = e }] } } : k => v if !local.all_events })
  filters = concat(
    [jsonencode({ eventName = ["INSERT", "MODIFY"], dynamodb = { Keys = { sk = { S = [{ prefix = "ended#" }, { prefix = "rule#" }] } } } })],
    [for f in [
      jsonencode({ dynamodb = { Keys = local.listened, NewImage = local.loud } }),
      jsonencode({ eventName = ["REMOVE"], dynamodb = { Keys = local.listened, OldImage = { free_at = { N = [{ "anything-but" = ["0"] }] } } } }),
    ] : f if !local.no_events],
    [for f in [
      jsonencode({ dynamodb = { Keys = { sk = { S = ["lock"] } }, NewImage = { cause = { S = ["join", "recheck", "repair", "task", "token", "turn", "undo"] } } } }),
      jsonencode({ dynamodb = { Keys = { sk = { S = ["lock"] } }, NewImage = local.loud, OldImage = { waiting = { N = [{ "anything-but" = ["0"] }] } } } }),
    ] : f if !local.all_events],
  )
}

resource "aws_lambda_event_source_mapping" "stream" {
  function_name                  = aws_lambda_alias.live["stream"].arn
  event_source_arn               = aws_dynamodb_table.table.stream_arn
  starting_position              = "TRIM_HORIZON"
  batch_size                     = 100
  function_response_types        = ["ReportBatchItemFailures"]
  bisect_batch_on_function_error = true
  maximum_retry_attempts         = -1 # retry as long as the stream keeps a record
  maximum_record_age_in_seconds  = -1

  destination_config {
    on_failure {
      destination_arn = aws_sqs_queue.dead_letters.arn
    }
  }
  filter_criteria {
    dynamic "filter" {
      for_each = local.filters
      content {
        pattern = filter.value
      }
    }
  }
}

resource "aws_lambda_event_source_mapping" "timers" {
  count                   = var.prompt_expiry ? 1 : 0
  function_name           = aws_lambda_alias.live["expire"].arn
  event_source_arn        = aws_sqs_queue.timers[0].arn
  batch_size              = 10
  function_response_types = ["ReportBatchItemFailures"]
  scaling_config {
    maximum_concurrency = var.timers_concurrency
  }
}

locals {
  machines_end = length(local.machine_names) > 0 ? 1 : 0
}

resource "aws_cloudwatch_event_rule" "executions_end" {
  count       = local.machines_end
  name        = "${var.name}-executions-end"
  description = "Ends the leases of ended executions"
  state       = "ENABLED"
  event_pattern = jsonencode({
    source        = ["aws.states"]
    "detail-type" = ["Step Functions Execution Status Change"]
    detail = {
      status          = ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]
      stateMachineArn = [for m in local.machines : { wildcard = m }]
    }
  })
}

resource "aws_cloudwatch_event_target" "executions_end" {
  count     = local.machines_end
  rule      = aws_cloudwatch_event_rule.executions_end[0].name
  target_id = "Target0"
  arn       = aws_lambda_alias.live["expire"].arn
  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }
}

resource "aws_lambda_permission" "executions_end" {
  count         = local.machines_end
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.function["expire"].function_name
  qualifier     = aws_lambda_alias.live["expire"].name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.executions_end[0].arn
}

resource "aws_lambda_function_event_invoke_config" "executions_end" {
  count                  = local.machines_end
  function_name          = aws_lambda_function.function["expire"].function_name
  qualifier              = aws_lambda_alias.live["expire"].name
  maximum_retry_attempts = 2
  destination_config {
    on_failure {
      destination = aws_sqs_queue.dead_letters.arn
    }
  }
}

resource "aws_sqs_queue_policy" "dead_letters" {
  count     = local.machines_end
  queue_url = aws_sqs_queue.dead_letters.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow", Principal = { Service = "events.amazonaws.com" }, Action = "sqs:SendMessage", Resource = aws_sqs_queue.dead_letters.arn
      Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.executions_end[0].arn } }
    }]
  })
}
