locals {
  routes = { for route, function in {
    "POST /v1/locks/{name}/acquire"       = "acquire"
    "POST /v1/locks/{name}/renew"         = "renew"
    "POST /v1/locks/{name}/release"       = "release"
    "POST /v1/locks/{name}/force-release" = "forcerelease"
    "GET /v1/locks/{name}"                = "status"
    "GET /v1/locks"                       = "status"
    "GET /v1/history/{name}"              = "status"
    "GET /v1/rules"                       = "rules"
    "GET /v1/rules/{prefix}"              = "rules"
    "PUT /v1/rules/{prefix}"              = "rules"
    "DELETE /v1/rules/{prefix}"           = "rules"
    "POST /v1/sets/{scope}/acquire"       = "acquire"
    "POST /v1/sets/{scope}/renew"         = "renew"
    "POST /v1/sets/{scope}/release"       = "release"
  } : route => function if !var.no_api }
  reached = { for name, f in local.serving : name => f if !var.no_api }
}

resource "aws_apigatewayv2_api" "api" {
  count         = var.no_api ? 0 : 1
  name          = var.name
  description   = "Holdfast locks"
  protocol_type = "HTTP"
}

resource "aws_apigatewayv2_integration" "function" {
  for_each               = local.reached
  api_id                 = aws_apigatewayv2_api.api[0].id
  integration_type       = "AWS_PROXY"
  integration_uri        = aws_lambda_alias.live[each.key].invoke_arn
  payload_format_version = "2.0"
}

resource "aws_apigatewayv2_route" "route" {
  for_each           = local.routes
  api_id             = aws_apigatewayv2_api.api[0].id
  route_key          = each.key
  target             = "integrations/${aws_apigatewayv2_integration.function[each.value].id}"
  authorization_type = "AWS_IAM"
}

resource "aws_lambda_permission" "api" {
  for_each      = local.reached
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.function[each.key].function_name
  qualifier     = aws_lambda_alias.live[each.key].name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.api[0].execution_arn}/*"
}

resource "aws_cloudwatch_log_group" "api" {
  count             = var.no_api ? 0 : 1
  name              = "/aws/vendedlogs/holdfast/${var.name}/Locks/api"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key
}

resource "aws_apigatewayv2_stage" "api" {
  count       = var.no_api ? 0 : 1
  api_id      = aws_apigatewayv2_api.api[0].id
  name        = "$default"
  auto_deploy = true

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.api[0].arn
    format          = "{\"requestId\":\"$context.requestId\",\"time\":\"$context.requestTime\",\"route\":\"$context.routeKey\",\"path\":\"$context.path\",\"status\":\"$context.status\",\"caller\":\"$context.identity.userArn\",\"ip\":\"$context.identity.sourceIp\",\"latency\":\"$context.responseLatency\",\"error\":\"$context.error.message\"}"
  }
  default_route_settings {
    throttling_rate_limit    = var.requests_per_second
    throttling_burst_limit   = var.burst
    detailed_metrics_enabled = true
  }
}
