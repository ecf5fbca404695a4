// Command release is the function behind POST /v1/locks/{name}/release.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/callbacks"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func main() { tracing.Start(callbacks.API().Handler(wire.OpRelease)) }
