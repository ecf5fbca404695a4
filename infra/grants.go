package infra

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/scope"
)

// GrantLock lets a grantee acquire, renew and release, over HTTP, the locks that a pattern names: a lock's name, or the
// beginning of names with a "*" at its end, such as "deploy:*".
func (c *Coordinator) GrantLock(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "acquire", "renew", "release")
}

// GrantForceRelease lets a grantee end leases of others, over HTTP.
func (c *Coordinator) GrantForceRelease(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "force-release")
}

// GrantRead lets a grantee see the locks that a pattern names, over HTTP.
func (c *Coordinator) GrantRead(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "")
}

// GrantList lets a grantee list locks over HTTP: all of them, since IAM cannot see what a query asks for.
func (c *Coordinator) GrantList(grantee awsiam.IGrantable) {
	c.mustHaveAPI()
	c.grant(grantee, "execute-api:Invoke", overHTTP, c.route("GET", "/v1/locks"))
}

func (c *Coordinator) grantHTTP(grantee awsiam.IGrantable, pattern string, ops ...string) {
	mustBePattern(pattern)
	c.mustHaveAPI()
	var arns []*string
	for _, op := range ops {
		if op == "" {
			arns = append(arns, c.route("GET", "/v1/locks/"+pattern))
		} else {
			arns = append(arns, c.route("POST", "/v1/locks/"+pattern+"/"+op))
		}
	}
	c.grant(grantee, "execute-api:Invoke", overHTTP, arns...)
}

func (c *Coordinator) mustHaveAPI() {
	if c.API == nil {
		panic(errors.New("infra: a grant over HTTP, and Props.NoAPI is set; use GrantDirectLock, GrantDirectRead or GrantDirectForceRelease"))
	}
}

// What to do about a grantee whose policy cannot be written to.
const (
	overHTTP = "the HTTP API has no policy of its own, so make a role here that the grantee may assume: LockRole"
	directly = "let its account or organisation invoke the functions: ShareDirectLock, or make a role here that the grantee may assume: LockRole"
)

// grant adds to a grantee's policy. Where that is not possible, as for a role of another account, the CDK would say nothing and the
// grantee would be refused at run time: so it panics, and says what to do.
func (c *Coordinator) grant(grantee awsiam.IGrantable, action, instead string, arns ...*string) {
	g := awsiam.Grant_AddToPrincipal(&awsiam.GrantOnPrincipalOptions{Grantee: grantee, Actions: jsii.Strings(action), ResourceArns: &arns})
	if !*g.Success() || !hasPolicy(grantee.GrantPrincipal()) {
		panic(fmt.Errorf("infra: %s cannot be granted: the grantee's policy is not this stack's to write, since it is of another account, immutable, or neither role nor user; %s",
			action, instead))
	}
	account := grantee.GrantPrincipal().PrincipalAccount()
	if account != nil && !*awscdk.Token_IsUnresolved(account) && *awscdk.Token_IsUnresolved(awscdk.Stack_Of(c.Construct).Account()) {
		awscdk.Annotations_Of(c.Construct).AddWarningV2(jsii.String("holdfast:grant-account"), jsii.String(fmt.Sprintf(
			"a grant to a role of account %s has its policy made in this stack's account, which is not known here: if it is another one, the deployment fails; set the stack's Env, or %s",
			*account, instead)))
	}
}

// hasPolicy tells whether a policy belongs to a principal that is a construct. A role of another account, or one that is not to be
// changed, says that it took a statement, and has none.
func hasPolicy(principal awsiam.IPrincipal) bool {
	construct, ok := principal.(constructs.IConstruct)
	if !ok {
		return true
	}
	for _, child := range *construct.Node().FindAll("") {
		if *awscdk.CfnResource_IsCfnElement(child) {
			if kind := child.(awscdk.CfnResource).CfnResourceType(); *kind == "AWS::IAM::Policy" {
				return true
			}
		}
	}
	return false
}

// route is the ARN of a route on the API's only stage.
func (c *Coordinator) route(method, path string) *string {
	return awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
		Service: jsii.String("execute-api"), Resource: c.API.ApiId(), ResourceName: jsii.String("$default/" + method + path),
	})
}

// GrantDirectLock lets a grantee, such as a state machine's role, invoke the acquire, renew and release functions directly,
// for the locks that a pattern names. It returns the ARNs to invoke, by function: an alias of each, which only serves such
// names, since IAM cannot see what an invocation asks for.
func (c *Coordinator) GrantDirectLock(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "acquire", "renew", "release")
}

// GrantDirectRead is like GrantDirectLock, for the status function. Lists are not served through it.
func (c *Coordinator) GrantDirectRead(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "status")
}

// GrantDirectForceRelease is like GrantDirectLock, for the force-release function.
func (c *Coordinator) GrantDirectForceRelease(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "forcerelease")
}

func (c *Coordinator) grantDirect(grantee awsiam.IGrantable, pattern string, functions ...string) map[string]*string {
	name, err := scope.Alias(pattern)
	if err != nil {
		panic(fmt.Errorf("infra: %w", err))
	}
	arns, list := c.aliases(name, pattern, functions)
	c.grant(grantee, "lambda:InvokeFunction", directly, list...)
	return arns
}

// aliases are those of some functions that serve only the locks of a pattern: by function, and as a list.
func (c *Coordinator) aliases(name, pattern string, functions []string) (arns map[string]*string, list []*string) {
	arns = map[string]*string{}
	for _, f := range functions {
		id := jsii.String(capital(f) + "Only" + base64.RawURLEncoding.EncodeToString([]byte(pattern)))
		alias, _ := c.Construct.Node().TryFindChild(id).(awslambda.CfnAlias)
		if alias == nil {
			alias = awslambda.NewCfnAlias(c.Construct, id, &awslambda.CfnAliasProps{
				FunctionName: c.Functions[f].FunctionName(), FunctionVersion: jsii.String("$LATEST"), Name: &name,
				Description: jsii.String("Serves only the locks " + pattern),
			})
		}
		arns[f] = alias.Ref()
		list = append(list, alias.Ref())
	}
	return arns, list
}

func mustBePattern(pattern string) {
	if problem := scope.CheckPattern(pattern); problem != "" {
		panic(fmt.Errorf("infra: pattern %s", problem))
	}
}

// OnReleased adds a rule that fires when a lease on the lock called prefix, or on one below it (prefix:…), is given back or
// forced out. An empty prefix means every lock.
func (c *Coordinator) OnReleased(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeReleased, events.TypeForceReleased)
}

// OnExpired adds a rule that fires when a lease on the lock called prefix, or on one below it, runs out.
func (c *Coordinator) OnExpired(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeExpired)
}

// OnFree adds a rule that fires when a lease ends, however.
func (c *Coordinator) OnFree(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeReleased, events.TypeForceReleased, events.TypeExpired)
}

func (c *Coordinator) onEvent(id, prefix string, target awsevents.IRuleTarget, types ...string) awsevents.Rule {
	pattern := &awsevents.EventPattern{Source: jsii.Strings(events.Source), DetailType: jsii.Strings(types...)}
	if prefix != "" {
		mustBePattern(prefix)
		pattern.Detail = &map[string]any{"prefixes": []string{strings.TrimSuffix(strings.TrimSuffix(prefix, "*"), ":")}}
	}
	return awsevents.NewRule(c.Construct, &id, &awsevents.RuleProps{EventBus: c.Bus, EventPattern: pattern, Targets: &[]awsevents.IRuleTarget{target}})
}
