// Command status is the function behind GET /v1/locks/{name} and GET /v1/locks.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(boot.API().Handler(wire.OpStatus)) }
