// Command acquire is the function behind POST /v1/locks/{name}/acquire.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/callbacks"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(callbacks.API().Handler(wire.OpAcquire)) }
