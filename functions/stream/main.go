// Command stream is the function behind the lock table's stream: it sets timers, sends callbacks and publishes events.
package main

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/consumer"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
)

func main() { tracing.Start(boot.Must(consumer.New).HandleStream(dynamo.ReadRecord)) }
