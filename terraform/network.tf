# The endpoints of docs/network.md, each for this account alone.
locals {
  of_account = { StringEquals = { "aws:PrincipalAccount" = local.account } }
  invoked    = flatten([for name in concat(keys(local.serving), ["redrive"]) : [aws_lambda_function.function[name].arn, "${aws_lambda_function.function[name].arn}:*"]])
  interface_endpoints = { for service, statements in {
    lambda = concat([{ Action = ["lambda:InvokeFunction"], Resource = local.invoked }], [for s in local.may_call_durable : { Action = s.Action, Resource = s.Resource }])
    sqs = [
      { Action = ["sqs:*"], Resource = concat([aws_sqs_queue.dead_letters.arn, local.notify_queues], local.timers_arns) },
      { Action = ["sqs:ListQueues"], Resource = ["*"] },
    ]
    events = [{ Action = ["events:PutEvents"], Resource = [aws_cloudwatch_event_bus.bus.arn] }]
    states = [for s in concat(local.may_call_tasks, local.may_describe) : { Action = s.Action, Resource = s.Resource }]
    xray   = [for s in local.may_trace : { Action = s.Action, Resource = s.Resource }]
  } : service => statements if var.endpoints_vpc_id != "" && length(statements) > 0 }
}

resource "aws_vpc_endpoint" "table" {
  count             = var.endpoints_vpc_id != "" ? 1 : 0
  vpc_id            = var.endpoints_vpc_id
  service_name      = "com.amazonaws.${local.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.route_table_ids
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow", Principal = { AWS = "*" }, Action = ["dynamodb:*"], Condition = local.of_account
      Resource = [aws_dynamodb_table.table.arn, "${aws_dynamodb_table.table.arn}/index/*"]
    }]
  })
}

resource "aws_vpc_endpoint" "interface" {
  for_each            = local.interface_endpoints
  vpc_id              = var.endpoints_vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = var.subnet_ids
  security_group_ids  = var.security_group_ids
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for s in each.value : { Effect = "Allow", Principal = { AWS = "*" }, Action = s.Action, Resource = s.Resource, Condition = local.of_account }]
  })
}
