locals {
  queue_actions = ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem"]
  list_actions  = ["dynamodb:DescribeTable", "dynamodb:Scan"]
  index         = "${aws_dynamodb_table.table.arn}/index/names"
  streams       = "${aws_dynamodb_table.table.arn}/stream/*"
  timers_arns   = aws_sqs_queue.timers[*].arn

  # By name: the id of its outputs and alarms, the operation of its metrics, whether its writes grant locks to waiters, and its own statements.
  serving = {
    acquire = {
      id         = "Acquire", op = "acquire", description = "Acquires a lock", hands_on = true
      statements = [{ Effect = "Allow", Action = local.queue_actions, Resource = [aws_dynamodb_table.table.arn] }]
    }
    renew = {
      id         = "Renew", op = "renew", description = "Renews a lease", hands_on = false
      statements = [{ Effect = "Allow", Action = ["dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:UpdateItem"], Resource = [aws_dynamodb_table.table.arn] }]
    }
    release = {
      id         = "Release", op = "release", description = "Releases a lease", hands_on = true
      statements = [{ Effect = "Allow", Action = local.queue_actions, Resource = [aws_dynamodb_table.table.arn] }]
    }
    status = {
      id = "Status", op = "status", description = "Shows locks", hands_on = false
      statements = [
        { Effect = "Allow", Action = ["dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:GetItem", "dynamodb:Query", "dynamodb:Scan"], Resource = [aws_dynamodb_table.table.arn] },
        { Effect = "Allow", Action = ["dynamodb:Query"], Resource = [local.index] },
      ]
    }
    forcerelease = {
      id         = "ForceRelease", op = "force-release", description = "Ends leases against their holders' will", hands_on = true
      statements = [{ Effect = "Allow", Action = local.queue_actions, Resource = [aws_dynamodb_table.table.arn] }]
    }
    rules = {
      id = "Rules", op = "rules", description = "Reads and sets the rules of all locks below a prefix", hands_on = false
      statements = [{
        Effect    = "Allow", Action = ["dynamodb:Query", "dynamodb:UpdateItem"], Resource = [aws_dynamodb_table.table.arn]
        Condition = { "ForAllValues:StringEquals" = { "dynamodb:LeadingKeys" = ["#rules"] } }
      }]
    }
  }
  working = {
    stream = {
      id = "Stream", description = "Publishes events of locks, sets timers, and sends callbacks to waiting tasks", timeout = 60, concurrency = var.stream_concurrency
      statements = concat([
        { Effect = "Allow", Action = ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"], Resource = [local.streams] },
        { Effect = "Allow", Action = ["events:PutEvents"], Resource = [aws_cloudwatch_event_bus.bus.arn] },
        { Effect = "Allow", Action = sort(concat(local.queue_actions, [for a in local.list_actions : a if !var.prompt_expiry])), Resource = [aws_dynamodb_table.table.arn] },
        { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = concat([aws_sqs_queue.dead_letters.arn], local.timers_arns, [local.notify_queues]) },
        ], [for index in [local.index] : { Effect = "Allow", Action = ["dynamodb:Query"], Resource = [index] } if !var.prompt_expiry
      ])
    }
    expire = {
      id = "Expire", description = "Ends leases that have expired or whose executions have ended", timeout = 30, concurrency = var.expire_concurrency
      statements = concat([
        { Effect = "Allow", Action = ["events:PutEvents"], Resource = [aws_cloudwatch_event_bus.bus.arn] }, # the events that the stream function deferred
        { Effect = "Allow", Action = sort(concat(local.queue_actions, local.list_actions)), Resource = [aws_dynamodb_table.table.arn] },
        { Effect = "Allow", Action = ["dynamodb:Query"], Resource = [local.index] },
        { Effect = "Allow", Action = ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:SendMessage"], Resource = local.timers_arns },
        { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [aws_sqs_queue.dead_letters.arn, local.notify_queues] },
      ], local.may_describe)
    }
    redrive = {
      id = "Redrive", description = "Handles dead letters again, and mends what nobody will free or tell", timeout = 60, concurrency = 0
      statements = concat([
        { Effect = "Allow", Action = ["dynamodb:GetRecords", "dynamodb:GetShardIterator"], Resource = [local.streams] },
        { Effect = "Allow", Action = ["events:PutEvents"], Resource = [aws_cloudwatch_event_bus.bus.arn] },
        { Effect = "Allow", Action = sort(concat(["dynamodb:ConditionCheckItem"], local.queue_actions, local.list_actions)), Resource = [aws_dynamodb_table.table.arn] },
        { Effect = "Allow", Action = ["dynamodb:Query"], Resource = [local.index] },
        { Effect = "Allow", Action = ["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:ReceiveMessage"], Resource = [aws_sqs_queue.dead_letters.arn] },
        { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = concat(local.timers_arns, [local.notify_queues]) },
      ], local.may_describe)
    }
  }
  functions = merge(
    { for name, f in local.serving : name => {
      id = f.id, description = f.description, timeout = 10, concurrency = var.concurrency, in_vpc = true, published = true
      environment = merge(
        { HOLDFAST_MAX_TTL_MS = tostring(var.max_ttl_milliseconds) },
        { for k, v in { HOLDFAST_NO_API = "true" } : k => v if var.no_api },
        { for k, v in { HOLDFAST_NOTIFY_PREFIX = local.notify_prefix } : k => v if name == "acquire" },
        { for k, v in { HOLDFAST_STATE_MACHINES = join(",", local.machine_names) } : k => v if name == "acquire" && length(local.machine_names) > 0 },
      )
      statements = concat(f.statements,
        [for queues in [local.notify_queues] : { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [queues] } if f.hands_on],
        [for s in local.may_call_tasks : s if f.hands_on],
      )
    } },
    { for name, f in local.working : name => {
      id = f.id, description = f.description, timeout = f.timeout, concurrency = f.concurrency, in_vpc = name != "redrive", published = name != "redrive"
      environment = merge(
        { HOLDFAST_BUS = aws_cloudwatch_event_bus.bus.name, HOLDFAST_DLQ_URL = aws_sqs_queue.dead_letters.url },
        { for k, v in { HOLDFAST_EVENTS = join(",", var.events) } : k => v if !local.all_events },
        { for url in aws_sqs_queue.timers[*].url : "HOLDFAST_TIMER_QUEUE_URL" => url },
      )
      statements = concat(f.statements, local.may_call_tasks, local.may_call_durable)
    } if var.prompt_expiry || name != "expire" },
  )
  published = { for name, f in local.functions : name => f if f.published }

  may_call_tasks   = [for list in [local.machines] : { Effect = "Allow", Action = ["states:SendTaskFailure", "states:SendTaskSuccess"], Resource = list } if length(list) > 0]
  may_call_durable = [for list in [local.durable] : { Effect = "Allow", Action = ["lambda:SendDurableExecutionCallbackFailure", "lambda:SendDurableExecutionCallbackSuccess"], Resource = list } if length(list) > 0]
  may_describe     = [for list in [local.executions] : { Effect = "Allow", Action = ["states:DescribeExecution"], Resource = list } if length(list) > 0]
  may_use_key      = [for key in [var.key_arn] : { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [key] } if key != ""]
  may_trace        = [for all in ["*"] : { Effect = "Allow", Action = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"], Resource = [all] } if var.tracing]

  # By these Lambda attaches a function to the VPC. The function's own code may not use them: only its requests have the key.
  in_vpc      = length(var.subnet_ids) > 0
  vpc_actions = ["ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses"]
  may_attach = [for s in [
    { Effect = "Allow", Action = local.vpc_actions, Resource = ["*"] },
    { Effect = "Deny", Action = local.vpc_actions, Resource = ["*"], Condition = { Null = { "lambda:SourceFunctionArn" = "false" } } },
  ] : s if local.in_vpc]
}

resource "aws_cloudwatch_log_group" "function" {
  for_each          = local.functions
  name              = "/aws/lambda/${var.name}-${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key
}

resource "aws_iam_role" "function" {
  for_each = local.functions
  name     = "${var.name}-${local.region}-${each.key}"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "lambda.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "function" {
  for_each = local.functions
  name     = "function"
  role     = aws_iam_role.function[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{ Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.function[each.key].arn}:*"] }],
      local.may_use_key, local.may_trace, [for s in local.may_attach : s if each.value.in_vpc], each.value.statements,
    )
  })
}

resource "aws_lambda_function" "function" {
  for_each                       = local.functions
  function_name                  = "${var.name}-${each.key}"
  description                    = each.value.description
  role                           = aws_iam_role.function[each.key].arn
  filename                       = "${var.code}/${each.key}.zip"
  source_code_hash               = filebase64sha256("${var.code}/${each.key}.zip")
  runtime                        = "provided.al2023"
  handler                        = "bootstrap"
  architectures                  = [var.architecture]
  memory_size                    = 256
  timeout                        = each.value.timeout
  publish                        = var.versions && each.value.published
  layers                         = var.trace_layer_arn != "" ? [var.trace_layer_arn] : null
  reserved_concurrent_executions = each.value.concurrency > 0 ? each.value.concurrency : null

  environment {
    variables = merge(
      { HOLDFAST_METRICS = local.namespace, HOLDFAST_TABLE = aws_dynamodb_table.table.name },
      { for url in [var.trace_endpoint] : "OTEL_EXPORTER_OTLP_ENDPOINT" => url if url != "" },
      each.value.environment,
    )
  }
  logging_config {
    log_format            = "JSON"
    application_log_level = "INFO"
    system_log_level      = "WARN"
    log_group             = aws_cloudwatch_log_group.function[each.key].name
  }
  tracing_config {
    mode = var.tracing ? "Active" : "PassThrough"
  }
  dynamic "vpc_config" {
    for_each = local.in_vpc && each.value.in_vpc ? [1] : []
    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }
  depends_on = [aws_iam_role_policy.function]
}

# The API, the event sources and direct callers invoke the functions by this alias.
resource "aws_lambda_alias" "live" {
  for_each         = local.published
  name             = "live"
  function_name    = aws_lambda_function.function[each.key].function_name
  function_version = var.versions ? lookup(var.stable_versions, each.key, aws_lambda_function.function[each.key].version) : "$LATEST"

  dynamic "routing_config" {
    for_each = var.versions && var.canary_weight > 0 && lookup(var.stable_versions, each.key, aws_lambda_function.function[each.key].version) != aws_lambda_function.function[each.key].version ? [1] : []
    content {
      additional_version_weights = { (aws_lambda_function.function[each.key].version) = var.canary_weight }
    }
  }
}
