// Command renew is the function behind POST /v1/locks/{name}/renew.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(boot.API().Handler(wire.OpRenew)) }
