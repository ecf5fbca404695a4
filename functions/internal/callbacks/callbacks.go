// Package callbacks builds the API of the functions whose writes grant locks to waiters: they send the callbacks of these grants in
// the same request: to tasks of Step Functions, and to waiters' queues. Those to durable functions are left to the stream function, since
// the SDK's Lambda client would make every cold start longer. Package boot lists the settings.
package callbacks

import (
	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing/leases"
	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/tasks"
)

// API builds the API. If a setting is missing or wrong, it logs an error that names the setting, and ends the process.
func API() *api.API { return boot.Must(build) }

func build(e *boot.Environment) (*api.API, error) {
	cfg := e.Bounded()
	return e.API(stream.AtOnce(stream.ByKind{lock.TaskToken: leases.Callbacks(tasks.New(cfg))}, sqs.NewSender(cfg), e.Log, e.Metrics()))
}
