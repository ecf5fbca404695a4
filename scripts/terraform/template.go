package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// references are the attributes of resources that expressions may refer to, as CloudFormation's references; @ is the logical name.
var references = map[string]map[string]string{
	"aws_apigatewayv2_api": {
		"id": "${@}", "api_endpoint": "${@.ApiEndpoint}", "execution_arn": "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${@}",
	},
	"aws_apigatewayv2_integration": {"id": "${@}"},
	"aws_cloudwatch_event_bus":     {"arn": "${@.Arn}", "name": "${@}"},
	"aws_cloudwatch_event_rule":    {"arn": "${@.Arn}", "name": "${@}"},
	"aws_cloudwatch_log_group":     {"arn": "${@.GroupArn}", "name": "${@}"}, // CloudFormation's Arn ends in :*
	"aws_dynamodb_table":           {"arn": "${@.Arn}", "name": "${@}", "stream_arn": "${@.StreamArn}"},
	"aws_iam_role":                 {"arn": "${@.Arn}", "id": "${@}"},
	"aws_lambda_alias": {
		"arn": "${@}", "name": "live", "invoke_arn": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${@}/invocations",
	},
	"aws_lambda_function": {"arn": "${@.Arn}", "function_name": "${@}", "version": "${@Version.Version}"},
	"aws_sqs_queue":       {"arn": "${@.Arn}", "name": "${@.QueueName}", "url": "${@}"},
}

// logicals are the names of resources in template.yaml; @ is the function, operation or service of the instance's key.
var logicals = map[string]string{
	"aws_apigatewayv2_api.api": "Api", "aws_apigatewayv2_integration.function": "@Integration", "aws_apigatewayv2_route.route": "@Route",
	"aws_apigatewayv2_stage.api": "ApiStage", "aws_cloudwatch_event_bus.bus": "Bus", "aws_cloudwatch_event_rule.executions_end": "ExecutionsEnd",
	"aws_cloudwatch_event_target.executions_end": "ExecutionsEnd", "aws_cloudwatch_log_group.api": "ApiLogs", "aws_cloudwatch_log_group.function": "@Logs",
	"aws_cloudwatch_metric_alarm.alarm": "@Alarm", "aws_cloudwatch_metric_alarm.failures": "@Alarm", "aws_dynamodb_table.table": "Table",
	"aws_iam_role.function": "@Role", "aws_iam_role_policy.function": "@Role", "aws_lambda_alias.live": "@Live",
	"aws_lambda_event_source_mapping.stream": "StreamSource", "aws_lambda_event_source_mapping.timers": "TimersSource",
	"aws_lambda_function.function": "@", "aws_lambda_function_event_invoke_config.executions_end": "ExecutionsEndFailed",
	"aws_lambda_permission.api": "ApiMayInvoke@", "aws_lambda_permission.executions_end": "ExecutionsEndMayInvoke",
	"aws_sqs_queue.dead_letters": "DeadLetters", "aws_sqs_queue.timers": "Timers", "aws_sqs_queue_policy.dead_letters": "DeadLettersPolicy",
	"aws_vpc_endpoint.interface": "@Endpoint", "aws_vpc_endpoint.table": "TableEndpoint",
}

func logical(kind, name, key string) string {
	form, ok := logicals[kind+"."+name]
	if !ok {
		return "unknown " + kind + "." + name
	}
	switch {
	case key == "forcerelease":
		key = "ForceRelease"
	case kind != "aws_apigatewayv2_route" && key != "":
		key = strings.ToUpper(key[:1]) + key[1:]
	}
	return strings.ReplaceAll(form, "@", key)
}

// allowed are the differences to template.yaml that have a reason, in the form of ALLOWED of parity.py.
var allowed = map[string]string{
	": DeletionPolicy$": "Terraform has no policy of deletion for a resource: destroy deletes all, unless deletion_protection is set",
	"^(Acquire|Renew|Release|Status|ForceRelease|Rules|Expire|Stream)(Version)?: Description$": "Terraform publishes a version when a function changes, SAM is told by DeployedVersion",
}

// An argument's way into CloudFormation: the property that it becomes, with dots between, or "" if the comparison leaves it out. If change is not
// nil, it changes the value.
type way struct {
	property string
	change   func(any) any
}

func as(property string) way { return way{property: property} }

func fromJSON(property string) way {
	return way{property, func(v any) any {
		var out any
		if err := json.Unmarshal([]byte(v.(string)), &out); err != nil {
			panic(err) // jsonencode made it
		}
		return out
	}}
}

// one takes the only block of a list.
func one(ways map[string]way, property string) way {
	return way{property, func(v any) any { return translate(v.([]any)[0].(map[string]any), ways) }}
}

func each(ways map[string]way, property string) way {
	return way{property, func(v any) any {
		var list []any
		for _, b := range v.([]any) {
			list = append(list, translate(b.(map[string]any), ways))
		}
		return list
	}}
}

var nothing = way{}

// unknown is what translate panics with.
type unknown string

// translate converts arguments and blocks. It panics with unknown if it has no way for one.
func translate(from map[string]any, ways map[string]way) map[string]any {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		w, ok := ways[name]
		if !ok {
			panic(unknown(name))
		}
		if w.property == "" {
			continue
		}
		value := from[name]
		if w.change != nil {
			value = w.change(value)
		}
		at := out
		path := strings.Split(w.property, ".")
		for _, p := range path[:len(path)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		at[path[len(path)-1]] = value
	}
	return out
}

func pairs(v any) any { // of dimensions
	var list []any
	for _, name := range slices.Sorted(maps.Keys(v.(map[string]any))) {
		list = append(list, map[string]any{"Name": name, "Value": v.(map[string]any)[name]})
	}
	return list
}

// kinds are the types of resources, as CloudFormation has them.
var kinds = map[string]struct {
	cloudFormation string
	ways           map[string]way
}{
	"aws_dynamodb_table": {"AWS::DynamoDB::Table", map[string]way{
		"name": as("TableName"), "billing_mode": as("BillingMode"), "hash_key": nothing, "range_key": nothing, // keys adds them
		"stream_enabled": nothing, "stream_view_type": as("StreamSpecification.StreamViewType"), "deletion_protection_enabled": as("DeletionProtectionEnabled"),
		"attribute": each(map[string]way{"name": as("AttributeName"), "type": as("AttributeType")}, "AttributeDefinitions"),
		"global_secondary_index": {"GlobalSecondaryIndexes", func(v any) any {
			var list []any
			for _, b := range v.([]any) {
				index := b.(map[string]any)
				list = append(list, map[string]any{
					"IndexName": index["name"], "KeySchema": keys(index), "Projection": map[string]any{"ProjectionType": index["projection_type"]},
				})
			}
			return list
		}},
		"ttl":                    one(map[string]way{"attribute_name": as("AttributeName"), "enabled": as("Enabled")}, "TimeToLiveSpecification"),
		"point_in_time_recovery": one(map[string]way{"enabled": as("PointInTimeRecoveryEnabled")}, "PointInTimeRecoverySpecification"),
		"server_side_encryption": one(map[string]way{"enabled": as("SSEEnabled"), "kms_key_arn": as("KMSMasterKeyId")}, "SSESpecification"),
	}},
	"aws_cloudwatch_event_bus": {"AWS::Events::EventBus", map[string]way{"name": as("Name"), "kms_key_identifier": as("KmsKeyIdentifier")}},
	"aws_sqs_queue": {"AWS::SQS::Queue", map[string]way{
		"name": nothing, "message_retention_seconds": as("MessageRetentionPeriod"), "visibility_timeout_seconds": as("VisibilityTimeout"),
		"kms_master_key_id": as("KmsMasterKeyId"), "sqs_managed_sse_enabled": as("SqsManagedSseEnabled"), "redrive_policy": fromJSON("RedrivePolicy"),
	}},
	"aws_sqs_queue_policy": {"AWS::SQS::QueuePolicy", map[string]way{
		"queue_url": {"Queues", func(v any) any { return []any{v} }}, "policy": fromJSON("PolicyDocument"),
	}},
	"aws_cloudwatch_log_group": {"AWS::Logs::LogGroup", map[string]way{
		"name": {"LogGroupName", nil}, "retention_in_days": as("RetentionInDays"), "kms_key_id": as("KmsKeyId"),
	}},
	"aws_iam_role": {"AWS::IAM::Role", map[string]way{"name": nothing, "assume_role_policy": fromJSON("AssumeRolePolicyDocument")}},
	"aws_iam_role_policy": {"AWS::IAM::Role", map[string]way{
		"name": nothing, "role": nothing,
		"policy": {"Policies", func(v any) any {
			return []any{map[string]any{"PolicyName": "function", "PolicyDocument": fromJSON("x").change(v)}}
		}},
	}},
	"aws_lambda_function": {"AWS::Lambda::Function", map[string]way{
		"function_name": nothing, "filename": as("Code.S3Key"), "source_code_hash": nothing, "publish": nothing, // versions adds them
		"description": as("Description"), "role": as("Role"), "runtime": as("Runtime"), "handler": as("Handler"), "architectures": as("Architectures"),
		"memory_size": as("MemorySize"), "layers": as("Layers"), "timeout": as("Timeout"), "reserved_concurrent_executions": as("ReservedConcurrentExecutions"),
		"environment": one(map[string]way{"variables": as("Variables")}, "Environment"),
		"logging_config": one(map[string]way{
			"log_format": as("LogFormat"), "application_log_level": as("ApplicationLogLevel"), "system_log_level": as("SystemLogLevel"), "log_group": as("LogGroup"),
		}, "LoggingConfig"),
		"tracing_config": one(map[string]way{"mode": as("Mode")}, "TracingConfig"),
		"vpc_config":     one(map[string]way{"subnet_ids": as("SubnetIds"), "security_group_ids": as("SecurityGroupIds")}, "VpcConfig"),
	}},
	"aws_lambda_alias": {"AWS::Lambda::Alias", map[string]way{
		"name": as("Name"), "function_name": as("FunctionName"), "function_version": as("FunctionVersion"),
		"routing_config": one(map[string]way{"additional_version_weights": as("AdditionalVersionWeights")}, "RoutingConfig"),
	}},
	"aws_lambda_event_source_mapping": {"AWS::Lambda::EventSourceMapping", map[string]way{
		"function_name": as("FunctionName"), "event_source_arn": as("EventSourceArn"), "starting_position": as("StartingPosition"), "batch_size": as("BatchSize"),
		"function_response_types": as("FunctionResponseTypes"), "bisect_batch_on_function_error": as("BisectBatchOnFunctionError"),
		"maximum_retry_attempts": as("MaximumRetryAttempts"), "maximum_record_age_in_seconds": as("MaximumRecordAgeInSeconds"),
		"destination_config": one(map[string]way{"on_failure": one(map[string]way{"destination_arn": as("Destination")}, "OnFailure")}, "DestinationConfig"),
		"filter_criteria":    one(map[string]way{"filter": each(map[string]way{"pattern": as("Pattern")}, "Filters")}, "FilterCriteria"),
		"scaling_config":     one(map[string]way{"maximum_concurrency": as("MaximumConcurrency")}, "ScalingConfig"),
	}},
	"aws_lambda_function_event_invoke_config": {"AWS::Lambda::EventInvokeConfig", map[string]way{
		"function_name": as("FunctionName"), "qualifier": as("Qualifier"), "maximum_retry_attempts": as("MaximumRetryAttempts"),
		"destination_config": one(map[string]way{"on_failure": one(map[string]way{"destination": as("Destination")}, "OnFailure")}, "DestinationConfig"),
	}},
	"aws_lambda_permission": {"AWS::Lambda::Permission", map[string]way{
		"action": as("Action"), "function_name": as("FunctionName"), "qualifier": as("Qualifier"), "principal": as("Principal"), "source_arn": as("SourceArn"),
	}},
	"aws_apigatewayv2_api": {"AWS::ApiGatewayV2::Api", map[string]way{"name": as("Name"), "description": as("Description"), "protocol_type": as("ProtocolType")}},
	"aws_apigatewayv2_integration": {"AWS::ApiGatewayV2::Integration", map[string]way{
		"api_id": as("ApiId"), "integration_type": as("IntegrationType"), "integration_uri": as("IntegrationUri"), "payload_format_version": as("PayloadFormatVersion"),
	}},
	"aws_apigatewayv2_route": {"AWS::ApiGatewayV2::Route", map[string]way{
		"api_id": as("ApiId"), "route_key": as("RouteKey"), "target": as("Target"), "authorization_type": as("AuthorizationType"),
	}},
	"aws_apigatewayv2_stage": {"AWS::ApiGatewayV2::Stage", map[string]way{
		"api_id": as("ApiId"), "name": as("StageName"), "auto_deploy": as("AutoDeploy"),
		"access_log_settings": one(map[string]way{"destination_arn": as("DestinationArn"), "format": as("Format")}, "AccessLogSettings"),
		"default_route_settings": one(map[string]way{
			"throttling_rate_limit": as("ThrottlingRateLimit"), "throttling_burst_limit": as("ThrottlingBurstLimit"), "detailed_metrics_enabled": as("DetailedMetricsEnabled"),
		}, "DefaultRouteSettings"),
	}},
	"aws_cloudwatch_event_rule": {"AWS::Events::Rule", map[string]way{
		"name": nothing, "description": as("Description"), "state": as("State"), "event_pattern": fromJSON("EventPattern"),
	}},
	"aws_cloudwatch_event_target": {"AWS::Events::Rule", map[string]way{"rule": nothing, "target_id": nothing, "arn": nothing, "dead_letter_config": nothing}}, // targets adds them
	"aws_cloudwatch_metric_alarm": {"AWS::CloudWatch::Alarm", map[string]way{
		"alarm_name": nothing, "alarm_description": as("AlarmDescription"), "alarm_actions": as("AlarmActions"), "namespace": as("Namespace"), "metric_name": as("MetricName"),
		"statistic": as("Statistic"), "extended_statistic": as("ExtendedStatistic"), "dimensions": {"Dimensions", pairs}, "period": as("Period"),
		"threshold": as("Threshold"), "evaluation_periods": as("EvaluationPeriods"), "datapoints_to_alarm": as("DatapointsToAlarm"),
		"comparison_operator": as("ComparisonOperator"), "treat_missing_data": as("TreatMissingData"),
		"metric_query": each(map[string]way{
			"id": as("Id"), "label": as("Label"), "expression": as("Expression"), "return_data": as("ReturnData"),
			"metric": {"MetricStat", func(v any) any {
				m := v.([]any)[0].(map[string]any)
				return map[string]any{"Period": m["period"], "Stat": m["stat"], "Metric": map[string]any{
					"Namespace": m["namespace"], "MetricName": m["metric_name"], "Dimensions": pairs(m["dimensions"]),
				}}
			}},
		}, "Metrics"),
	}},
	"aws_vpc_endpoint": {"AWS::EC2::VPCEndpoint", map[string]way{
		"vpc_id": as("VpcId"), "service_name": as("ServiceName"), "vpc_endpoint_type": as("VpcEndpointType"), "route_table_ids": as("RouteTableIds"),
		"private_dns_enabled": as("PrivateDnsEnabled"), "subnet_ids": as("SubnetIds"), "security_group_ids": as("SecurityGroupIds"), "policy": fromJSON("PolicyDocument"),
	}},
}

// keys are the keys of a table or index.
func keys(from map[string]any) []any {
	return []any{map[string]any{"AttributeName": from["hash_key"], "KeyType": "HASH"}, map[string]any{"AttributeName": from["range_key"], "KeyType": "RANGE"}}
}

// template makes a template of the instances.
func template(instances []instance) (_ map[string]any, err error) {
	resources := map[string]any{}
	for _, i := range instances {
		kind, ok := kinds[i.kind]
		id := logical(i.kind, i.name, i.key)
		if !ok || strings.HasPrefix(id, "unknown") {
			return nil, fmt.Errorf("terraform: the comparison does not know %s.%s; add it to kinds and logicals", i.kind, i.name)
		}
		properties, err := converted(i, kind.ways)
		if err != nil {
			return nil, err
		}
		r, ok := resources[id].(map[string]any)
		if !ok {
			r = map[string]any{"Type": kind.cloudFormation, "Properties": map[string]any{}}
			resources[id] = r
		}
		maps.Copy(r["Properties"].(map[string]any), properties)
		switch i.kind {
		case "aws_dynamodb_table":
			properties = r["Properties"].(map[string]any)
			properties["KeySchema"] = keys(i.body)
			if encryption := properties["SSESpecification"].(map[string]any); encryption["KMSMasterKeyId"] != nil {
				encryption["SSEType"] = "KMS" // as the provider sets it
			}
			if properties["TableName"] == standIn+"-locks" {
				delete(properties, "TableName")
			}
		case "aws_cloudwatch_log_group":
			if i.name == "function" {
				delete(r["Properties"].(map[string]any), "LogGroupName")
			}
		case "aws_lambda_function":
			if i.body["publish"] == true {
				resources[id+"Version"] = map[string]any{"Type": "AWS::Lambda::Version", "Properties": map[string]any{"FunctionName": "${" + id + "}"}}
			}
		case "aws_lambda_permission":
			if p := r["Properties"].(map[string]any); p["Qualifier"] == "live" {
				p["FunctionName"] = strings.TrimSuffix(p["FunctionName"].(string), "}") + "Live}"
				delete(p, "Qualifier")
			}
		case "aws_cloudwatch_event_target":
			target := map[string]any{"Id": i.body["target_id"], "Arn": i.body["arn"]}
			for _, d := range i.body["dead_letter_config"].([]any) {
				target["DeadLetterConfig"] = map[string]any{"Arn": d.(map[string]any)["arn"]}
			}
			r["Properties"].(map[string]any)["Targets"] = []any{target}
		case "aws_cloudwatch_metric_alarm":
			p := r["Properties"].(map[string]any)
			for _, list := range []string{"AlarmActions", "Dimensions"} {
				if v, ok := p[list].([]any); ok && len(v) == 0 || p[list] == nil {
					delete(p, list)
				}
			}
		}
	}
	out := map[string]any{"Resources": resources, "Allowed": allowed}
	data, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	text := strings.NewReplacer(standIn, "${AWS::StackName}", `Logs.GroupArn}:*`, `Logs.Arn}`, `Logs.GroupArn}`, `Logs.Arn}`).Replace(string(data))
	return out, json.Unmarshal([]byte(text), &out)
}

func converted(i instance, ways map[string]way) (properties map[string]any, err error) {
	defer func() {
		p := recover()
		if name, ok := p.(unknown); ok {
			err = fmt.Errorf("terraform: the comparison does not know the argument %s of %s; add it to kinds", string(name), i.kind)
		} else if p != nil {
			panic(p)
		}
	}()
	return translate(i.body, ways), nil
}
