// Command rules is the function behind GET, PUT and DELETE /v1/rules/{prefix}, and GET /v1/rules.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(boot.API().Handler(wire.OpRules)) }
