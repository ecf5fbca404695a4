// Command expire is the function behind the timer queue: it puts out leases whose holders
// died, and those of executions that ended.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/functions/internal/streamboot"
)

func main() { lambda.Start(streamboot.Expirer().Handle) }
