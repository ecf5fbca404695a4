// Command expire is the function behind the timers' queue and the rule on executions: it ends expired leases and those of
// executions that ended, and does the jobs that were deferred.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/consumer"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
)

func main() { tracing.Start(boot.Must(consumer.NewExpirer).Handle) }
