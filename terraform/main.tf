# Holdfast in Terraform: the same system as template.yaml, which `make terraform` compares with it.

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region

  namespace     = var.metric_namespace != "" ? var.metric_namespace : "Holdfast/${var.name}/Locks"
  key           = var.key_arn != "" ? var.key_arn : null
  notify_queues = "arn:${local.partition}:sqs:${local.region}:${local.account}:${var.notify_name}-notify-*"
  notify_prefix = "https://sqs.${local.region}.${data.aws_partition.current.dns_suffix}/${local.account}/${var.notify_name}-notify-"

  # Tasks that wait need the timers. NAME/LABEL are the child executions of a Distributed Map.
  machine_names = var.prompt_expiry ? var.state_machines : []
  machines      = flatten([for m in local.machine_names : [for rest in ["", "/*"] : "arn:${local.partition}:states:${local.region}:${local.account}:stateMachine:${m}${rest}"]])
  executions    = flatten([for m in local.machine_names : [for rest in ["", "/*"] : "arn:${local.partition}:states:${local.region}:${local.account}:execution:${m}${rest}:*"]])
  durable       = flatten([for f in(var.prompt_expiry ? var.durable_functions : []) : [for rest in ["", ":*"] : "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${f}${rest}"]])

  all_events = join(",", var.events) == "*"
  no_events  = join(",", var.events) == "-"
}

resource "aws_dynamodb_table" "table" {
  name                        = var.table_name != "" ? var.table_name : "${var.name}-locks"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  range_key                   = "sk"
  stream_enabled              = true
  stream_view_type            = "NEW_AND_OLD_IMAGES"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "pk"
    type = "S"
  }
  attribute {
    name = "sk"
    type = "S"
  }
  attribute {
    name = "idx"
    type = "S"
  }
  global_secondary_index { # for lists of a prefix
    name            = "names"
    hash_key        = "idx"
    range_key       = "pk"
    projection_type = "KEYS_ONLY"
  }
  ttl {
    attribute_name = "ttl"
    enabled        = true
  }
  point_in_time_recovery {
    enabled = true
  }
  server_side_encryption {
    enabled     = local.key != null # otherwise an AWS owned key
    kms_key_arn = local.key
  }
}

resource "aws_cloudwatch_event_bus" "bus" {
  name               = "${var.name}-locks"
  kms_key_identifier = local.key
}

resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600
  kms_master_key_id         = local.key
  sqs_managed_sse_enabled   = local.key == null ? true : null
}

resource "aws_sqs_queue" "timers" {
  count                      = var.prompt_expiry ? 1 : 0
  name                       = "${var.name}-timers"
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 180 # six times the timeout of expire
  kms_master_key_id          = local.key
  sqs_managed_sse_enabled    = local.key == null ? true : null
  redrive_policy             = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead_letters.arn, maxReceiveCount = 100 })
}
