package infra

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/internal/scope"
)

// LockRole adds a role of this account that a trusted principal, such as [awsiam.NewAccountPrincipal] or
// [awsiam.NewOrganizationPrincipal], may assume. The role may acquire, renew and release the locks of a pattern over
// HTTP; other grants may be added to it. Callers of other accounts need such a role, since an HTTP API has no resource
// policy.
func (c *Coordinator) LockRole(id string, trusted awsiam.IPrincipal, pattern string) awsiam.Role {
	mustBePattern(pattern)
	c.mustHaveAPI()
	role := awsiam.NewRole(c.Construct, &id, &awsiam.RoleProps{
		AssumedBy: trusted, Description: jsii.String("Takes the locks " + pattern),
	})
	c.GrantLock(role, pattern)
	return role
}

// ShareDirectLock allows an account ("111122223333") or an organisation ("o-a1b2c3d4e5") to invoke the acquire, renew
// and release functions for the locks of a pattern. Callers also need a policy of their own account. It returns the
// ARNs to invoke, by function.
func (c *Coordinator) ShareDirectLock(with, pattern string) map[string]*string {
	return c.shareDirect(with, pattern, "acquire", "renew", "release")
}

// ShareDirectRead is like ShareDirectLock, for the status function without lists.
func (c *Coordinator) ShareDirectRead(with, pattern string) map[string]*string {
	return c.shareDirect(with, pattern, "status")
}

func (c *Coordinator) shareDirect(with, pattern string, functions ...string) map[string]*string {
	isAccount := mustBeAccount(with)
	name, err := scope.Alias(pattern)
	if err != nil {
		panic(fmt.Errorf("infra: %w", err))
	}
	arns, _ := c.aliases(name, pattern, functions)
	for _, f := range functions {
		props := &awslambda.CfnPermissionProps{Action: jsii.String("lambda:InvokeFunction"), FunctionName: arns[f], Principal: &with}
		if !isAccount {
			props.Principal, props.PrincipalOrgId = jsii.String("*"), &with
		}
		id := capital(f) + "For" + base64.RawURLEncoding.EncodeToString([]byte(with+" "+pattern))
		if c.Construct.Node().TryFindChild(&id) == nil {
			awslambda.NewCfnPermission(c.Construct, &id, props)
		}
	}
	return arns
}

// ShareEvents allows an account ("111122223333") or an organisation ("o-a1b2c3d4e5") to create rules on the bus, and to
// change only rules that it created.
func (c *Coordinator) ShareEvents(with string) {
	stack := awscdk.Stack_Of(c.Construct)
	principal := any("*")
	conditions := map[string]any{"StringEqualsIfExists": map[string]any{"events:creatorAccount": "${aws:PrincipalAccount}"}}
	if mustBeAccount(with) {
		principal = map[string]any{"AWS": "arn:" + *stack.Partition() + ":iam::" + with + ":root"}
	} else {
		conditions["StringEquals"] = map[string]any{"aws:PrincipalOrgID": with}
	}
	id := "Rules" + strings.ReplaceAll(with, "-", "")
	awsevents.NewCfnEventBusPolicy(c.Construct, &id, &awsevents.CfnEventBusPolicyProps{
		EventBusName: c.Bus.EventBusName(), StatementId: &id,
		Statement: map[string]any{
			"Sid": id, "Effect": "Allow", "Principal": principal, "Condition": conditions,
			"Action": []string{
				"events:DeleteRule", "events:DescribeRule", "events:DisableRule", "events:EnableRule",
				"events:PutRule", "events:PutTargets", "events:RemoveTargets",
			},
			"Resource": stack.FormatArn(&awscdk.ArnComponents{
				Service: jsii.String("events"), Resource: jsii.String("rule"), ResourceName: jsii.String(*c.Bus.EventBusName() + "/*"),
			}),
		},
	})
}

// mustBeAccount reports whether with is an account's id; it panics if with is not an organisation's id either.
func mustBeAccount(with string) bool {
	switch {
	case regexp.MustCompile(`^[0-9]{12}$`).MatchString(with):
		return true
	case regexp.MustCompile(`^o-[a-z0-9]{10,32}$`).MatchString(with):
		return false
	}
	panic(fmt.Errorf("infra: %q is neither an account's id (12 digits) nor an organisation's (o-…)", with))
}
