package infra

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2authorizers"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsapigatewayv2integrations"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"
)

// A Route is a route of the API, and the function that serves it.
type Route struct{ Method, Path, Function string }

// Routes are all routes of the API. Each requires a signed request.
var Routes = []Route{
	{"POST", "/v1/locks/{name}/acquire", "acquire"},
	{"POST", "/v1/locks/{name}/renew", "renew"},
	{"POST", "/v1/locks/{name}/release", "release"},
	{"POST", "/v1/locks/{name}/force-release", "forcerelease"},
	{"GET", "/v1/locks/{name}", "status"},
	{"GET", "/v1/locks", "status"},
	{"GET", "/v1/history/{name}", "status"},
	{"GET", "/v1/rules", "rules"},
	{"GET", "/v1/rules/{prefix}", "rules"},
	{"PUT", "/v1/rules/{prefix}", "rules"},
	{"DELETE", "/v1/rules/{prefix}", "rules"},
	{"POST", "/v1/sets/{scope}/acquire", "acquire"},
	{"POST", "/v1/sets/{scope}/renew", "renew"},
	{"POST", "/v1/sets/{scope}/release", "release"},
}

// accessLog is the format of the API's access log.
const accessLog = `{"requestId":"$context.requestId","time":"$context.requestTime","route":"$context.routeKey",` +
	`"path":"$context.path","status":"$context.status","caller":"$context.identity.userArn","ip":"$context.identity.sourceIp",` +
	`"latency":"$context.responseLatency","error":"$context.error.message"}`

func (c *Coordinator) api() {
	c.API = awsapigatewayv2.NewHttpApi(c.Construct, jsii.String("Api"), &awsapigatewayv2.HttpApiProps{
		ApiName: awscdk.Aws_STACK_NAME(), Description: jsii.String("Holdfast locks"), CreateDefaultStage: jsii.Bool(false),
		DefaultAuthorizer: awsapigatewayv2authorizers.NewHttpIamAuthorizer(),
	})
	integrations := map[string]awsapigatewayv2integrations.HttpLambdaIntegration{}
	for _, r := range Routes {
		if integrations[r.Function] == nil {
			integrations[r.Function] = awsapigatewayv2integrations.NewHttpLambdaIntegration(jsii.String(r.Function), c.Live[r.Function], nil)
		}
		c.API.AddRoutes(&awsapigatewayv2.AddRoutesOptions{
			Path: &r.Path, Methods: &[]awsapigatewayv2.HttpMethod{awsapigatewayv2.HttpMethod(r.Method)}, Integration: integrations[r.Function],
		})
	}
	logs := awslogs.NewLogGroup(c.Construct, jsii.String("ApiLogs"), &awslogs.LogGroupProps{
		// API Gateway adds each other log group to a resource policy of CloudWatch Logs, which is limited to 5,120
		// characters. It needs no entry for names that begin with /aws/vendedlogs.
		LogGroupName: jsii.String("/aws/vendedlogs/holdfast/" + c.path() + "/api"), Retention: c.props.LogRetention,
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY, EncryptionKey: c.key,
	})
	stage := awsapigatewayv2.NewHttpStage(c.Construct, jsii.String("ApiStage"), &awsapigatewayv2.HttpStageProps{
		HttpApi: c.API, StageName: jsii.String("$default"), AutoDeploy: jsii.Bool(true), DetailedMetricsEnabled: jsii.Bool(true),
		Throttle: &awsapigatewayv2.ThrottleSettings{
			RateLimit: jsii.Number(c.props.RequestsPerSecond), BurstLimit: jsii.Number(c.props.Burst),
		},
	})
	stage.Node().DefaultChild().(awsapigatewayv2.CfnStage).SetAccessLogSettings(&awsapigatewayv2.CfnStage_AccessLogSettingsProperty{
		DestinationArn: logs.LogGroupArn(), Format: jsii.String(accessLog),
	})
}
