output "endpoint" {
  description = "The URL of the HTTP API; null without one."
  value       = var.no_api ? null : aws_apigatewayv2_api.api[0].api_endpoint
}

output "functions" {
  description = "HOLDFAST_FUNCTIONS of callers that invoke the functions: docs/network.md."
  value       = join(",", [for name in ["acquire", "renew", "release", "status", "forcerelease", "rules"] : "${local.serving[name].op}=${aws_lambda_function.function[name].function_name}:live"])
}

output "function_names" {
  description = "The names of the functions, by function."
  value       = { for name, f in aws_lambda_function.function : name => f.function_name }
}

output "versions" {
  description = "With versions: the newest version of each function, for stable_versions of the next deployment."
  value       = { for name in keys(local.published) : name => aws_lambda_function.function[name].version }
}

output "bus_name" {
  description = "The event bus."
  value       = aws_cloudwatch_event_bus.bus.name
}

output "table_name" {
  description = "The lock table."
  value       = aws_dynamodb_table.table.name
}

output "dead_letters_url" {
  description = "The dead-letter queue."
  value       = aws_sqs_queue.dead_letters.url
}

output "notify_prefix" {
  description = "How the URLs of the queues begin by which waiters may be notified."
  value       = local.notify_prefix
}
