package infra_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awskms"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/infra"
)

// GrantTable allows the actions of lockclient/direct on items whose partition key matches the pattern, and no action that names no key.
func TestGrantTable(t *testing.T) {
	tpl := synth(t, func(stack awscdk.Stack, code string) {
		key := awskms.Key_FromKeyArn(stack, jsii.String("Key"), jsii.String("arn:aws:kms:eu-west-1:"+account+":key/k"))
		locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code, Key: key})
		role := func(id string) awsiam.Role {
			return awsiam.NewRole(stack, &id, &awsiam.RoleProps{AssumedBy: awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil)})
		}
		locks.GrantTable(role("Deployer"), "deploy:*")
		if said := panics(func() { locks.GrantTable(role("Bad"), "a/b") }); !strings.Contains(said, "infra: pattern") {
			t.Errorf("pattern a/b: %s", said)
		}
		service := awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil)
		if said := panics(func() { locks.GrantTable(service, "deploy:*") }); !strings.Contains(said, "the table cannot be granted") {
			t.Errorf("a service: %s", said)
		}
	})
	var text strings.Builder
	for _, policy := range tpl.of("AWS::IAM::Policy") {
		data, err := json.Marshal(policy.Properties)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), `"Ref":"Deployer`) {
			text.WriteString(string(data))
		}
	}
	for _, want := range []string{
		`"Action":["dynamodb:BatchGetItem","dynamodb:DeleteItem","dynamodb:GetItem","dynamodb:PutItem","dynamodb:Query","dynamodb:UpdateItem"]`,
		`"Condition":{"ForAllValues:StringLike":{"dynamodb:LeadingKeys":["deploy:*"]}}`,
		`"Condition":{"ForAllValues:StringEquals":{"dynamodb:LeadingKeys":["#rules"]}}`,
		`"Action":["kms:Decrypt","kms:GenerateDataKey"]`, `"kms:ViaService"`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the policy lacks %s: %s", want, text.String())
		}
	}
	for _, never := range []string{"Scan", `"*"`, "PartiQL"} {
		if strings.Contains(text.String(), never) {
			t.Errorf("the policy has %s: %s", never, text.String())
		}
	}
}

// A rule on events that Props.Events leaves out is refused.
func TestRulesNeedEvents(t *testing.T) {
	for _, test := range []struct {
		events []string
		prefix string
		ok     bool
	}{
		{nil, "deploy", true}, {nil, "", true},
		{[]string{infra.NoEvents}, "", false}, {[]string{infra.NoEvents}, "deploy", false},
		{[]string{"deploy:"}, "", true}, {[]string{"deploy:"}, "deploy", true}, {[]string{"deploy:"}, "deploy:*", true}, {[]string{"deploy:"}, "deploy:prod", true},
		{[]string{"deploy:prod"}, "deploy", true}, {[]string{"deploy:"}, "report", false}, {[]string{"deploy:"}, "deployer", false},
	} {
		synth(t, func(stack awscdk.Stack, code string) {
			locks := infra.NewCoordinator(stack, "Locks", infra.Props{Code: code, Events: test.events})
			said := panics(func() { locks.OnFree("Free", test.prefix, awseventstargets.NewSqsQueue(locks.DeadLetters, nil)) })
			if test.ok != (said == "" || said == "<nil>") || !test.ok && !strings.Contains(said, "Props.Events") {
				t.Errorf("events %q, a rule on %q: %s", test.events, test.prefix, said)
			}
		})
	}
}
