// Command status is the function behind GET /v1/locks/{name} and GET /v1/locks.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { lambda.Start(boot.API().Handler(wire.OpStatus)) }
