#!/usr/bin/env bash
# compare.sh: compares what terraform/ makes with template.yaml, for the defaults and for three sets of values, and checks the format with
# Terraform itself where it is installed. Terraform's own validate and plan need its AWS provider and are not run here. Needs Go, and Python 3.10
# or later with venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/cloud/venv.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go -C scripts/terraform build -o "$work/terraform" .

# same VARIABLES... -- PARAMETERS...: fails unless the module with the variables is the template with the parameters.
same() {
  local variables=('code="dist"')
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  "$work/terraform" "${variables[@]}" >"$work/terraform.json"
  "$HOLDFAST_CLOUD_PYTHON" scripts/cloud/parity.py template.yaml "$work/terraform.json" "$@"
}

same --
key=arn:aws:kms:eu-west-1:111122223333:key/k topic=arn:aws:sns:eu-west-1:111122223333:alarms
same deletion_protection=true 'table_name="locks"' max_ttl_milliseconds=300000 'state_machines=["Deploy*"]' 'durable_functions=["durable"]' \
  'events=["deploy:","report"]' concurrency=20 stream_concurrency=5 expire_concurrency=6 timers_concurrency=4 requests_per_second=50 burst=60 \
  log_retention_days=7 tracing=true 'trace_endpoint="http://localhost:4318"' 'trace_layer_arn="arn:aws:lambda:eu-west-1:111122223333:layer:collector:1"' 'metric_namespace="Mine"' 'notify_name="mine"' versions=true 'subnet_ids=["subnet-0a1b2c3d"]' \
  'security_group_ids=["sg-0a1b2c3d"]' "alarm_topic_arn=\"$topic\"" "key_arn=\"$key\"" -- \
  DeletionProtection=true TableName=locks MaxTtlMilliseconds=300000 'StateMachines=Deploy*' DurableFunctions=durable \
  Events=deploy:,report Concurrency=20 StreamConcurrency=5 ExpireConcurrency=6 TimersConcurrency=4 RequestsPerSecond=50 Burst=60 \
  LogRetentionDays=7 Tracing=true TraceEndpoint=http://localhost:4318 TraceLayerArn=arn:aws:lambda:eu-west-1:111122223333:layer:collector:1 MetricNamespace=Mine NotifyName=mine DeployedVersion=v1 SubnetIds=subnet-0a1b2c3d \
  SecurityGroupIds=sg-0a1b2c3d AlarmTopicArn=$topic KeyArn=$key
same prompt_expiry=false 'events=["-"]' -- PromptExpiry=false Events=-
same 'architecture="x86_64"' no_api=true 'subnet_ids=["subnet-0a1b2c3d","subnet-1a2b3c4d"]' 'security_group_ids=["sg-0a1b2c3d"]' \
  'endpoints_vpc_id="vpc-0a1b2c3d"' 'route_table_ids=["rtb-0a1b2c3d"]' 'state_machines=["Deploy*"]' 'durable_functions=["durable"]' tracing=true -- \
  Architecture=x86_64 NoApi=true SubnetIds=subnet-0a1b2c3d,subnet-1a2b3c4d SecurityGroupIds=sg-0a1b2c3d EndpointsVpcId=vpc-0a1b2c3d \
  RouteTableIds=rtb-0a1b2c3d 'StateMachines=Deploy*' DurableFunctions=durable Tracing=true

if command -v terraform >/dev/null; then
  terraform fmt -check -diff terraform
  echo "terraform: formatted"
else
  echo "terraform: not installed, so that the format is not checked"
fi
