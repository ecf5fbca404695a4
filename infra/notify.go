package infra

import (
	"fmt"
	"regexp"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"
)

// defaultNotifyName is the default of Props.NotifyName.
const defaultNotifyName = "holdfast"

// checkNotifyName returns what is wrong with a Props.NotifyName. A queue's name has at most 80 characters, of which the client needs
// 20 and "-notify-" eight.
func checkNotifyName(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,52}$`).MatchString(name) {
		return fmt.Errorf("infra: Props.NotifyName is %q; give 1 to 52 letters, digits, _ and -", name)
	}
	return nil
}

// notifyPrefix is how the URLs of the queues begin by which waiters may be notified.
func (c *Coordinator) notifyPrefix() *string {
	stack := awscdk.Stack_Of(c.Construct)
	return awscdk.Fn_Join(jsii.String(""), &[]*string{
		jsii.String("https://sqs."), stack.Region(), jsii.String("."), stack.UrlSuffix(), jsii.String("/"), stack.Account(),
		jsii.String("/" + c.props.NotifyName + "-notify-"),
	})
}

// notifyQueues is the ARN of these queues, with a * at its end.
func (c *Coordinator) notifyQueues() *string {
	return awscdk.Stack_Of(c.Construct).FormatArn(&awscdk.ArnComponents{
		Service: jsii.String("sqs"), Resource: jsii.String(c.props.NotifyName + "-notify-*"), ArnFormat: awscdk.ArnFormat_NO_RESOURCE_NAME,
	})
}
