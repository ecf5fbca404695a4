package invoke_test

import (
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// The names or ARNs of the functions are outputs of the stack. cfg is the AWS SDK's configuration.
func ExampleNew() {
	cfg := aws.Config{Region: "eu-west-1"}

	functions, err := invoke.New(invoke.Config{AWS: cfg, Functions: invoke.Functions{
		Acquire: "holdfast-acquire:only-ZGVwbG95Oio", Renew: "holdfast-renew:only-ZGVwbG95Oio", Release: "holdfast-release:only-ZGVwbG95Oio",
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := lockclient.New(lockclient.Config{Transport: functions})

	fmt.Println(client != nil, err)
	// Output: true <nil>
}

// The command's setting serves a program, too.
func ExampleParseFunctions() {
	cfg := aws.Config{Region: "eu-west-1"}
	documented := func() error {
		functions, err := invoke.ParseFunctions(os.Getenv("HOLDFAST_FUNCTIONS"))
		if err != nil {
			return err
		}
		transport, err := invoke.New(invoke.Config{AWS: cfg, Functions: functions})
		if err != nil {
			return err
		}
		client, err := lockclient.New(lockclient.Config{Transport: transport})
		fmt.Println(client != nil)
		return err
	}

	_ = os.Setenv("HOLDFAST_FUNCTIONS", "acquire=NAME:live,renew=NAME:live,release=NAME:live")
	fmt.Println(documented())
	// Output:
	// true
	// <nil>
}
