// Command forcerelease is the function behind POST /v1/locks/{name}/force-release.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/callbacks"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(callbacks.API().Handler(wire.OpForceRelease)) }
