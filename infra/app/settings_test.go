package main

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
)

// given has a value for every setting.
var given = map[string]string{
	"architecture": "x86_64", "code": "dist", "destroy": "true", "protect": "true", "table": "locks",
	"importedTableStream": "arn:aws:dynamodb:eu-west-1:111122223333:table/locks/stream/2026-01-01T00:00:00.000",
	"maxTtl":              "36h", "stateMachines": "Deploy*,Nightly", "durableFunctions": "a,b", "noPromptExpiry": "true", "concurrency": "3",
	"streamConcurrency": "4", "expireConcurrency": "20", "timersConcurrency": "6", "noApi": "true", "requestsPerSecond": "7", "burst": "8",
	"logRetentionDays": "90", "alarmTopic": "arn:aws:sns:eu-west-1:111122223333:alarms", "tracing": "true",
	"traceEndpoint": "http://localhost:4318", "traceLayer": "arn:aws:lambda:eu-west-1:111122223333:layer:collector:1",
	"key": "arn:aws:kms:eu-west-1:111122223333:key/1a2b3c4d-1234-1234-1234-1a2b3c4d5e6f", "metricNamespace": "Mine", "notifyName": "mine", "events": "deploy:,report",
	"subnetIds": "subnet-1,subnet-2", "securityGroupIds": "sg-1", "endpointsVpcId": "vpc-1", "routeTableIds": "rtb-1", "versions": "true", "rollout": "Canary10Percent5Minutes",
}

// Every prop of the construct has a context value that sets it, and every context value a line in the documents.
func TestSettingsReachEveryProp(t *testing.T) {
	props, err := readSettings(awscdk.NewStack(nil, nil, nil), given)
	if err != nil {
		t.Fatal(err)
	}
	v := reflect.ValueOf(props)
	for f := range v.Type().Fields() {
		if v.FieldByIndex(f.Index).IsZero() {
			t.Errorf("no context value sets Props.%s", f.Name)
		}
	}
	if *props.MaxTTL.ToHours(nil) != 36 || *props.ImportedTable.TableName() != "locks" || len(props.StateMachines) != 2 || len(props.Events) != 2 ||
		props.Concurrency != 3 || props.StreamConcurrency != 4 || props.ExpireConcurrency != 20 || props.TimersConcurrency != 6 ||
		props.RequestsPerSecond != 7 || props.Burst != 8 {
		t.Errorf("%+v", props)
	}
	doc, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if given[s.name] == "" {
			t.Errorf("this test gives no value for %s", s.name)
		}
		if !strings.Contains(string(doc), "| `"+s.name+"` |") {
			t.Errorf("docs/deploy.md does not list %s", s.name)
		}
	}
	if len(retentions) != 12 {
		t.Errorf("%d retentions; the error lists 12", len(retentions))
	}
}

func TestDefaultSettings(t *testing.T) {
	props, err := readSettings(awscdk.NewStack(nil, nil, nil), map[string]string{"stack": "S", "aws:cdk:x": "y", "destroy": "false"})
	if err != nil || !reflect.ValueOf(props).IsZero() {
		t.Errorf("%+v, %v", props, err)
	}
}

// Errors for invalid values and unknown names contain the name.
func TestBadSettings(t *testing.T) {
	for name, value := range map[string]string{
		"maxTtl": "long", "concurrency": "0", "burst": "many", "tracing": "yes please", "logRetentionDays": "8",
		"importedTableStream": "arn:aws:dynamodb:eu-west-1:111122223333:table/locks", "alarmTopik": "x",
	} {
		_, err := readSettings(awscdk.NewStack(nil, nil, nil), map[string]string{name: value})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}
