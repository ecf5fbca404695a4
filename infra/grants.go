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

// GrantLock allows a grantee to acquire, renew and release the locks of a pattern over HTTP. A pattern is a lock's
// name, or a prefix of names followed by "*", such as "deploy:*". It also allows sets of such locks, whose scope the pattern includes.
func (c *Coordinator) GrantLock(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "acquire", "renew", "release")
}

// GrantForceRelease allows a grantee to force-release the locks of a pattern over HTTP.
func (c *Coordinator) GrantForceRelease(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "force-release")
}

// GrantRead allows a grantee to read the status of the locks of a pattern over HTTP.
func (c *Coordinator) GrantRead(grantee awsiam.IGrantable, pattern string) {
	c.grantHTTP(grantee, pattern, "")
}

// GrantList allows a grantee to list all locks over HTTP. IAM does not see the query, so that lists cannot be limited
// to a pattern.
func (c *Coordinator) GrantList(grantee awsiam.IGrantable) {
	c.mustHaveAPI()
	c.grant(grantee, []string{"execute-api:Invoke"}, overHTTP, c.route("GET", "/v1/locks"))
}

// GrantHistory allows a grantee to read the history of the locks of a pattern over HTTP: who held them, with the ARNs of callers.
func (c *Coordinator) GrantHistory(grantee awsiam.IGrantable, pattern string) {
	mustBePattern(pattern)
	c.mustHaveAPI()
	c.grant(grantee, []string{"execute-api:Invoke"}, overHTTP, c.route("GET", "/v1/history/"+pattern))
}

// GrantRules allows a grantee, an operator's role, to set the rules of the locks of a pattern, such as freezes, over HTTP. It may also read
// all rules. "*" is the pattern for all locks.
func (c *Coordinator) GrantRules(grantee awsiam.IGrantable, pattern string) {
	mustBePattern(pattern)
	c.mustHaveAPI()
	path := "/v1/rules/" + pattern
	c.grant(grantee, []string{"execute-api:Invoke"}, overHTTP, c.route("GET", "/v1/rules"), c.route("GET", path), c.route("PUT", path), c.route("DELETE", path))
}

// GrantNotify allows a grantee to wait by a queue, which the functions notify of its grants (package lockclient/notify, and the command
// with --notify-prefix): to make, read and delete queues whose names are NotifyName-notify-… in this stack's account and region.
func (c *Coordinator) GrantNotify(grantee awsiam.IGrantable) {
	actions := []string{"sqs:CreateQueue", "sqs:TagQueue", "sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:DeleteQueue"}
	c.grant(grantee, actions, byQueue, c.notifyQueues())
}

// GrantSweep allows a grantee to delete the queues that killed processes have left (notify.Sweep, holdfast sweep). It may list all
// queues of the account, since IAM cannot limit that.
func (c *Coordinator) GrantSweep(grantee awsiam.IGrantable) {
	c.grant(grantee, []string{"sqs:ListQueues"}, byQueue, jsii.String("*"))
	c.grant(grantee, []string{"sqs:ListQueueTags", "sqs:DeleteQueue"}, byQueue, c.notifyQueues())
}

// GrantRedrive allows a grantee, an operator's role, to handle the dead letters again and to mend what nobody will free (holdfast redrive): to
// invoke the redrive function, which has one kind of payload. It can publish no other events, and end no other leases, than the dead letters
// and the table call for; it shows the names of all locks, and what is wrong with them.
func (c *Coordinator) GrantRedrive(grantee awsiam.IGrantable) {
	c.grant(grantee, []string{"lambda:InvokeFunction"}, redriven, c.Functions["redrive"].FunctionArn())
}

// setOps are the operations that there are on sets of locks.
var setOps = map[string]bool{"acquire": true, "renew": true, "release": true}

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
		if setOps[op] {
			arns = append(arns, c.route("POST", "/v1/sets/"+pattern+"/"+op))
		}
	}
	c.grant(grantee, []string{"execute-api:Invoke"}, overHTTP, arns...)
}

func (c *Coordinator) mustHaveAPI() {
	if c.API == nil {
		panic(errors.New("infra: a grant over HTTP needs the API, and Props.NoAPI is set; use GrantDirectLock, GrantDirectRead, GrantDirectForceRelease or GrantDirectRules"))
	}
}

// Remedies for a grantee whose policy this stack cannot change.
const (
	overHTTP = "the HTTP API has no resource policy, so add a role that the grantee may assume: LockRole"
	byQueue  = "the queues are of this stack's account, so add a role here that the grantee may assume (LockRole), and grant it to that role; or let the grantee poll"
	redriven = "add a role of this account that the grantee may assume, and grant it to that role"
	directly = "allow its account or organisation to invoke the functions: ShareDirectLock; or add a role that the grantee may assume: LockRole"
)

// grant allows actions to a grantee by a statement of its policy. It panics where that is not possible, as for a role of another account,
// since the CDK would ignore the grant silently and the grantee would be refused at run time.
func (c *Coordinator) grant(grantee awsiam.IGrantable, actions []string, instead string, arns ...*string) {
	c.addToPrincipal(awsiam.GrantOnPrincipalOptions{Grantee: grantee, Actions: jsii.Strings(actions...), ResourceArns: &arns}, strings.Join(actions, ", "), instead)
}

// addToPrincipal adds a statement to the policy of its grantee. what names in errors that which is granted.
func (c *Coordinator) addToPrincipal(statement awsiam.GrantOnPrincipalOptions, what, instead string) {
	grantee := statement.Grantee
	if !*awsiam.Grant_AddToPrincipal(&statement).Success() || !hasPolicy(grantee.GrantPrincipal()) {
		panic(fmt.Errorf("infra: %s cannot be granted: this stack cannot change the grantee's policy, since the grantee is of another account, immutable, or neither a role nor a user; %s",
			what, instead))
	}
	account := grantee.GrantPrincipal().PrincipalAccount()
	if account != nil && !*awscdk.Token_IsUnresolved(account) && *awscdk.Token_IsUnresolved(awscdk.Stack_Of(c.Construct).Account()) {
		awscdk.Annotations_Of(c.Construct).AddWarningV2(jsii.String("holdfast:grant-account"), jsii.String(fmt.Sprintf(
			"the policy of a grant to a role of account %s is created in this stack's account, which is unknown: if they differ, the deployment fails; set the stack's Env, or %s",
			*account, instead)))
	}
}

// hasPolicy reports whether a principal that is a construct has a policy. A role of another account, or an immutable
// one, reports that it added a statement although it has no policy.
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

// GrantDirectLock allows a grantee, such as a state machine's role, to invoke the acquire, renew and release functions
// directly for the locks of a pattern. It returns the ARNs to invoke, by function. Each is an alias that serves only
// those locks, since IAM does not see the payload of an invocation.
func (c *Coordinator) GrantDirectLock(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "acquire", "renew", "release")
}

// GrantDirectRead is like GrantDirectLock, for the status function without lists. That function also answers for the history of the locks.
func (c *Coordinator) GrantDirectRead(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "status")
}

// GrantDirectForceRelease is like GrantDirectLock, for the force-release function.
func (c *Coordinator) GrantDirectForceRelease(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "forcerelease")
}

// GrantDirectRules is like GrantDirectLock, for the rules function. Who invokes it is not recorded: Lambda does not say.
func (c *Coordinator) GrantDirectRules(grantee awsiam.IGrantable, pattern string) map[string]*string {
	return c.grantDirect(grantee, pattern, "rules")
}

func (c *Coordinator) grantDirect(grantee awsiam.IGrantable, pattern string, functions ...string) map[string]*string {
	name, err := scope.Alias(pattern)
	if err != nil {
		panic(fmt.Errorf("infra: %w", err))
	}
	arns, list := c.aliases(name, pattern, functions)
	c.grant(grantee, []string{"lambda:InvokeFunction"}, directly, list...)
	return arns
}

// aliases adds, once each, the aliases of functions that serve only the locks of a pattern. It returns their ARNs by
// function, and as a list.
func (c *Coordinator) aliases(name, pattern string, functions []string) (arns map[string]*string, list []*string) {
	arns = map[string]*string{}
	for _, f := range functions {
		id := jsii.String(capital(f) + "Only" + base64.RawURLEncoding.EncodeToString([]byte(pattern)))
		alias, _ := c.Construct.Node().TryFindChild(id).(awslambda.Alias)
		if alias == nil {
			alias = awslambda.NewAlias(c.Construct, id, &awslambda.AliasProps{
				AliasName: &name, Version: c.version(c.Functions[f]), Description: jsii.String("Serves only the locks " + pattern),
			})
			c.rollOut(*id+"Rollout", f, alias)
		}
		arns[f] = alias.FunctionArn()
		list = append(list, alias.FunctionArn())
	}
	return arns, list
}

func mustBePattern(pattern string) {
	if problem := scope.CheckPattern(pattern); problem != "" {
		panic(fmt.Errorf("infra: pattern %s", problem))
	}
}

// OnReleased adds a rule that matches when a lease of the lock prefix, or of a lock below it (prefix:…), is released or
// force-released. An empty prefix means every lock.
func (c *Coordinator) OnReleased(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeReleased, events.TypeForceReleased)
}

// OnExpired adds a rule that matches when a lease of the lock prefix, or of a lock below it, expires.
func (c *Coordinator) OnExpired(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeExpired)
}

// OnFree adds a rule that matches when a lease ends in any way.
func (c *Coordinator) OnFree(id, prefix string, target awsevents.IRuleTarget) awsevents.Rule {
	return c.onEvent(id, prefix, target, events.TypeReleased, events.TypeForceReleased, events.TypeExpired)
}

func (c *Coordinator) onEvent(id, prefix string, target awsevents.IRuleTarget, types ...string) awsevents.Rule {
	if prefix == "" {
		c.mustPublish("")
	}
	pattern := &awsevents.EventPattern{Source: jsii.Strings(events.Source), DetailType: jsii.Strings(types...)}
	if prefix != "" {
		mustBePattern(prefix)
		c.mustPublish(strings.TrimSuffix(strings.TrimSuffix(prefix, "*"), ":"))
		pattern.Detail = &map[string]any{"prefixes": []string{strings.TrimSuffix(strings.TrimSuffix(prefix, "*"), ":")}}
	}
	return awsevents.NewRule(c.Construct, &id, &awsevents.RuleProps{EventBus: c.Bus, EventPattern: pattern, Targets: &[]awsevents.IRuleTarget{target}})
}

// mustPublish panics if Props.Events includes no lock that a rule on a prefix could match: the rule would never match, in silence.
func (c *Coordinator) mustPublish(prefix string) {
	list := c.props.Events
	for _, e := range list {
		if e != NoEvents && (prefix == "" || strings.HasPrefix(prefix+":", e) || strings.HasPrefix(e, prefix+":")) {
			return
		}
	}
	if len(list) > 0 {
		panic(fmt.Errorf("infra: a rule on the events of %q would match none, since Props.Events is %q; add a prefix of these locks to it", prefix, list))
	}
}
