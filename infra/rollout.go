package infra

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscodedeploy"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Rollouts are the values of Props.Rollout: CodeDeploy's configurations for Lambda, without CodeDeployDefault.Lambda at their beginning.
// https://docs.aws.amazon.com/codedeploy/latest/userguide/deployment-configurations.html
var Rollouts = []string{
	"Canary10Percent5Minutes", "Canary10Percent10Minutes", "Canary10Percent15Minutes", "Canary10Percent30Minutes",
	"Linear10PercentEvery1Minute", "Linear10PercentEvery2Minutes", "Linear10PercentEvery3Minutes", "Linear10PercentEvery10Minutes",
}

func (p Props) checkRollout() error {
	switch {
	case p.Rollout != "" && !slices.Contains(Rollouts, p.Rollout):
		return fmt.Errorf("infra: Props.Rollout is %q; give one of %s, or leave it out to roll out at once", p.Rollout, strings.Join(Rollouts, ", "))
	case p.Rollout != "" && !p.Versions:
		return errors.New("infra: Props.Rollout is set, and Versions is not: requests are moved from one version to the next; set Versions, and in a stack that stands, deploy it once before Rollout")
	}
	return nil
}

// version is what the aliases of a function point to: the version that this deployment publishes with Props.Versions, and else the function as it
// is.
func (c *Coordinator) version(fn awslambda.Function) awslambda.IVersion {
	if c.props.Versions {
		return fn.CurrentVersion()
	}
	return fn.LatestVersion()
}

// live adds the alias [scope.Live] of a function.
func (c *Coordinator) live(f function, fn awslambda.Function) {
	c.Live[f.name] = awslambda.NewAlias(c.Construct, jsii.String(f.id+"Live"), &awslambda.AliasProps{
		AliasName: jsii.String(scope.Live), Version: c.version(fn),
	})
}

// rollouts makes CodeDeploy move the live aliases to a new version, bit by bit, and back if an alarm is raised.
func (c *Coordinator) rollouts() {
	if c.props.Rollout == "" {
		return
	}
	for _, f := range serving() {
		c.alarm("Faults"+capital(f), "Function "+f+" answers requests with 5xx: see its log by request_id", c.faults(f), 5, 1)
	}
	c.rollout.application = awscodedeploy.NewLambdaApplication(c.Construct, jsii.String("Rollouts"), nil)
	c.rollout.role = awsiam.NewRole(c.Construct, jsii.String("RolloutRole"), &awsiam.RoleProps{
		AssumedBy:       awsiam.NewServicePrincipal(jsii.String("codedeploy.amazonaws.com"), nil),
		ManagedPolicies: &[]awsiam.IManagedPolicy{awsiam.ManagedPolicy_FromAwsManagedPolicyName(jsii.String("service-role/AWSCodeDeployRoleForLambdaLimited"))},
	})
	c.rollout.config = awscodedeploy.LambdaDeploymentConfig_FromLambdaDeploymentConfigName(c.Construct, jsii.String("RolloutConfig"),
		jsii.String("CodeDeployDefault.Lambda"+c.props.Rollout))
	for _, f := range c.names {
		c.rollOut(*c.Functions[f].Node().Id()+"Rollout", f, c.Live[f])
	}
}

// rollOut has CodeDeploy move an alias of a function.
func (c *Coordinator) rollOut(id, function string, alias awslambda.Alias) {
	if c.props.Rollout == "" {
		return
	}
	alarms := []awscloudwatch.IAlarm{c.Alarms["Errors"+capital(function)]}
	if faults := c.Alarms["Faults"+capital(function)]; faults != nil {
		alarms = append(alarms, faults)
	}
	awscodedeploy.NewLambdaDeploymentGroup(c.Construct, &id, &awscodedeploy.LambdaDeploymentGroupProps{
		Alias: alias, Application: c.rollout.application, Role: c.rollout.role, DeploymentConfig: c.rollout.config, Alarms: &alarms,
		AutoRollback: &awscodedeploy.AutoRollbackConfig{FailedDeployment: jsii.Bool(true), StoppedDeployment: jsii.Bool(true), DeploymentInAlarm: jsii.Bool(true)},
	})
}

// faults counts the requests to a function that were answered with 5xx.
func (c *Coordinator) faults(function string) awscloudwatch.Metric {
	return awscloudwatch.NewMetric(&awscloudwatch.MetricProps{
		Namespace: c.namespace, MetricName: jsii.String("fault"), Statistic: jsii.String("Sum"), Period: minute(),
		DimensionsMap: &map[string]*string{"op": jsii.String(operation(function))},
	})
}

// operation is the operation that a function is named after, which is a dimension of its metrics.
func operation(function string) string {
	if function == "forcerelease" {
		return string(wire.OpForceRelease)
	}
	return function
}

// FunctionList is the value of HOLDFAST_FUNCTIONS, or of the command's --functions, by which a caller invokes functions directly, for ARNs that
// grants such as GrantDirectLock have returned.
func FunctionList(arns ...map[string]*string) *string {
	var parts []*string
	for _, f := range serving() {
		for _, some := range arns {
			if arn := some[f]; arn != nil {
				parts = append(parts, awscdk.Fn_Join(jsii.String("="), &[]*string{jsii.String(operation(f)), arn}))
				break
			}
		}
	}
	return awscdk.Fn_Join(jsii.String(","), &parts)
}

// LiveFunctions is FunctionList for all functions that serve requests, for all locks: NAME:live each.
func (c *Coordinator) LiveFunctions() *string {
	names := map[string]*string{}
	for _, f := range serving() {
		names[f] = joined(c.Functions[f].FunctionName(), ":"+scope.Live)
	}
	return FunctionList(names)
}
