package infra

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/jsii-runtime-go"
)

// tableActions are what lockclient/direct needs on the table. A transaction needs the actions of its parts, and is no action of its own:
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
//
// Each of them names the partition keys that it touches, so that the condition on dynamodb:LeadingKeys holds for no other. Scan, which
// names none, must not be added: "ForAllValues" is true of no values.
var tableActions = []string{
	"dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "dynamodb:UpdateItem",
}

// GrantTable allows a grantee to use the locks of a pattern in the table itself, by lockclient/direct: at the price of DynamoDB's requests
// alone. IAM compares the pattern with the items' partition keys, which are the locks' names.
//
// It gives up what the functions keep apart: the grantee may also force-release these locks, is recorded as no principal, and is trusted to
// write what the client writes. It reads the prefix rules, which bind it as they bind the functions, and cannot change them. It cannot list locks, nor bind a lease to an execution, whose items have other keys. See docs/iam.md.
func (c *Coordinator) GrantTable(grantee awsiam.IGrantable, pattern string) {
	mustBePattern(pattern)
	c.addToPrincipal(awsiam.GrantOnPrincipalOptions{
		Grantee: grantee, Actions: jsii.Strings(tableActions...), ResourceArns: &[]*string{c.Table.TableArn()},
		Conditions: &map[string]*map[string]any{"ForAllValues:StringLike": {"dynamodb:LeadingKeys": []string{pattern}}},
	}, "the table", throughFunctions)
	c.addToPrincipal(awsiam.GrantOnPrincipalOptions{
		Grantee: grantee, Actions: jsii.Strings("dynamodb:Query"), ResourceArns: &[]*string{c.Table.TableArn()},
		Conditions: &map[string]*map[string]any{"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": []string{rulesPartition}}},
	}, "the table's rules", throughFunctions)
	if c.key != nil { // DynamoDB uses the key in the caller's name
		service := "dynamodb." + *awscdk.Stack_Of(c.Construct).Region() + "." + *awscdk.Aws_URL_SUFFIX()
		c.addToPrincipal(awsiam.GrantOnPrincipalOptions{
			Grantee: grantee, Actions: jsii.Strings("kms:Decrypt", "kms:GenerateDataKey"), ResourceArns: &[]*string{c.key.KeyArn()},
			Conditions: &map[string]*map[string]any{"StringEquals": {"kms:ViaService": service}},
		}, "the table's key", throughFunctions)
	}
}

// throughFunctions is the remedy for a grantee whose policy this stack cannot change.
const throughFunctions = "let it call the API or the functions: GrantLock, ShareDirectLock or LockRole"
