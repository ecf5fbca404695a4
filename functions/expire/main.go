// Command expire is the function behind the timer queue: it puts out leases whose holders died.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
)

func main() { lambda.Start(boot.Expirer().HandleTimers) }
