package infra

import (
	"errors"
	"fmt"
	"regexp"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"
)

// checkNetwork returns what is wrong with the props about the VPC, or nil.
func (p Props) checkNetwork() error {
	switch {
	case (len(p.SubnetIDs) == 0) != (len(p.SecurityGroupIDs) == 0):
		return errors.New("infra: Props.SubnetIDs and SecurityGroupIDs go together: they put the functions into a VPC; give both or neither")
	case p.EndpointsVPC == "" && len(p.RouteTableIDs) > 0:
		return errors.New("infra: Props.RouteTableIDs are for the endpoints, which need EndpointsVPC; give it, or leave them out")
	case p.EndpointsVPC != "" && (len(p.SubnetIDs) == 0 || len(p.RouteTableIDs) == 0):
		return errors.New("infra: Props.EndpointsVPC is set: the endpoints need SubnetIDs, SecurityGroupIDs and RouteTableIDs, too")
	case len(p.SubnetIDs) > 16 || len(p.SecurityGroupIDs) > 5: // https://docs.aws.amazon.com/lambda/latest/api/API_VpcConfig.html
		return errors.New("infra: Props.SubnetIDs or SecurityGroupIDs has too many entries; Lambda takes 16 subnets and 5 security groups")
	}
	vpc := []string{}
	if p.EndpointsVPC != "" {
		vpc = []string{p.EndpointsVPC}
	}
	for _, list := range []struct {
		prop, kind string
		ids        []string
	}{
		{"SubnetIDs", "subnet", p.SubnetIDs}, {"SecurityGroupIDs", "sg", p.SecurityGroupIDs}, {"RouteTableIDs", "rtb", p.RouteTableIDs}, {"EndpointsVPC", "vpc", vpc},
	} {
		id := regexp.MustCompile("^" + list.kind + "-([0-9a-f]{8}|[0-9a-f]{17})$")
		for _, given := range list.ids {
			if !*awscdk.Token_IsUnresolved(given) && !id.MatchString(given) {
				return fmt.Errorf("infra: Props.%s has %q; give ids such as %s-0a1b2c3d", list.prop, given, list.kind)
			}
		}
	}
	return nil
}

// inVPC are the statements that a function's role needs for Lambda to attach the function to a VPC. The code of the function may not use them:
// the key lambda:SourceFunctionArn is there only in requests from within the function.
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
func (c *Coordinator) inVPC(f function) []awsiam.PolicyStatement {
	if !c.attaches(f) {
		return nil
	}
	actions := jsii.Strings("ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces",
		"ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses")
	return []awsiam.PolicyStatement{
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{Actions: actions, Resources: jsii.Strings("*")}),
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Effect: awsiam.Effect_DENY, Actions: actions, Resources: jsii.Strings("*"),
			Conditions: &map[string]any{"Null": map[string]any{"lambda:SourceFunctionArn": "false"}},
		}),
	}
}

// attaches reports whether a function is in the VPC. Redrive is not: it reads DynamoDB Streams, whose endpoints have no private DNS name.
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/privatelink-streams.html
func (c *Coordinator) attaches(f function) bool { return len(c.props.SubnetIDs) > 0 && !f.operators }

// attach puts a function into the VPC.
func (c *Coordinator) attach(f function, fn awslambda.Function) {
	if c.attaches(f) {
		fn.Node().DefaultChild().(awslambda.CfnFunction).SetVpcConfig(&awslambda.CfnFunction_VpcConfigProperty{
			SubnetIds: jsii.Strings(c.props.SubnetIDs...), SecurityGroupIds: jsii.Strings(c.props.SecurityGroupIDs...),
		})
	}
}

// endpoints adds the VPC endpoints by which the functions, and callers of the VPC, reach AWS. docs/network.md lists who needs which. The policy of
// each allows what Holdfast needs, to callers of this account, so that the endpoints are for a VPC without other users of these services.
func (c *Coordinator) endpoints() {
	if c.props.EndpointsVPC == "" {
		return
	}
	tableARN := c.Table.TableArn()
	c.endpoint("Table", "dynamodb", true, statement{[]string{"dynamodb:*"}, []*string{tableARN, joined(tableARN, "/index/*")}})
	var invoked []*string
	for _, name := range append(serving(), "redrive") {
		arn := c.Functions[name].FunctionArn()
		invoked = append(invoked, arn, joined(arn, ":*"))
	}
	toLambda := []statement{{[]string{"lambda:InvokeFunction"}, invoked}}
	machines, executions, durable := c.waiters()
	if len(durable) > 0 {
		toLambda = append(toLambda, statement{durableActions, durable})
	}
	c.endpoint("Lambda", "lambda", false, toLambda...)
	queues := []*string{c.DeadLetters.QueueArn(), c.notifyQueues()}
	if c.Timers != nil {
		queues = append(queues, c.Timers.QueueArn())
	}
	c.endpoint("Sqs", "sqs", false, statement{[]string{"sqs:*"}, queues}, statement{[]string{"sqs:ListQueues"}, []*string{jsii.String("*")}})
	c.endpoint("Events", "events", false, statement{[]string{"events:PutEvents"}, []*string{c.Bus.EventBusArn()}})
	if len(machines) > 0 {
		c.endpoint("States", "states", false, statement{taskActions, machines}, statement{[]string{"states:DescribeExecution"}, executions})
	}
	if c.props.Tracing {
		c.endpoint("Xray", "xray", false, statement{xrayActions, []*string{jsii.String("*")}})
	}
}

// A statement allows actions on resources by the policy of an endpoint.
type statement struct {
	actions   []string
	resources []*string
}

func (c *Coordinator) endpoint(id, service string, gateway bool, statements ...statement) {
	var list []map[string]any
	for _, s := range statements {
		list = append(list, map[string]any{
			"Effect": "Allow", "Principal": map[string]any{"AWS": "*"}, "Action": s.actions, "Resource": s.resources,
			"Condition": map[string]any{"StringEquals": map[string]any{"aws:PrincipalAccount": awscdk.Aws_ACCOUNT_ID()}},
		})
	}
	props := &awsec2.CfnVPCEndpointProps{
		VpcId: &c.props.EndpointsVPC, ServiceName: jsii.String("com.amazonaws." + *awscdk.Aws_REGION() + "." + service),
		PolicyDocument: map[string]any{"Version": "2012-10-17", "Statement": list},
	}
	if gateway {
		props.VpcEndpointType, props.RouteTableIds = jsii.String("Gateway"), jsii.Strings(c.props.RouteTableIDs...)
	} else {
		props.VpcEndpointType, props.PrivateDnsEnabled = jsii.String("Interface"), jsii.Bool(true)
		props.SubnetIds, props.SecurityGroupIds = jsii.Strings(c.props.SubnetIDs...), jsii.Strings(c.props.SecurityGroupIDs...)
	}
	awsec2.NewCfnVPCEndpoint(c.Construct, jsii.String(id+"Endpoint"), props)
}

func joined(arn *string, rest string) *string {
	return awscdk.Fn_Join(jsii.String(""), &[]*string{arn, &rest})
}
