// Command stream is the function behind the lock table's stream: it publishes events, sets timers and tells tasks that wait.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/functions/internal/streamboot"
)

func main() { lambda.Start(streamboot.Consumer().HandleStream(streamboot.Decode())) }
