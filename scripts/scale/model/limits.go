package model

import (
	"math"
	"slices"
)

// A Limit is a published quota or a setting, with what a user sees beyond it.
type Limit struct {
	Name    string
	Most    float64 // in its unit
	Unit    string
	Used    func(l Load, all, hottest Flow, d Durations) float64
	Sees    string
	Setting string
	Source  string // a page, or a file of this repository
}

const (
	streamBatch = 100 // BatchSize in infra/sources.go
	shards      = 4.0 // of the stream of a new on-demand table, one for each of its partitions
	guide       = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/"
)

// Limits are all limits that the model knows, in no order.
var Limits = []Limit{
	{
		"writes of the hottest lock", 1000, "write units a second of one partition key",
		func(_ Load, _, h Flow, _ Durations) float64 { return h.WriteUnits },
		"`throttled` (429) for callers of this lock alone; the client repeats it for as long as it waits", "spread the work over several names; let callers wait with `notify` or by tasks rather than try again",
		guide + "bp-partition-key-design.html",
	},
	{
		"reads of the hottest lock", 3000, "read units a second of one partition key",
		func(_ Load, _, h Flow, _ Durations) float64 { return h.ReadUnits },
		"`throttled` for polls of this lock", "waiters with `notify`, which poll only to keep their place", guide + "bp-partition-key-design.html",
	},
	{
		"events of the hottest lock", 1, "busy share of its shard's consumer",
		func(_ Load, _, h Flow, d Durations) float64 {
			return h.Events*d.Put + h.Events/streamBatch*d.Batch
		},
		"nothing fails; events, timers and late callbacks of all locks of its shard (a quarter of a new table) lag, and StreamLag fires", "leave its names out of `Events`; spread the work over several names",
		"internal/stream/publish.go: no request to the bus has two events of one lock",
	},
	{
		"the stream's consumers", 1, "busy share of a shard's consumer",
		func(l Load, all, h Flow, d Durations) float64 {
			records := all.Events / shards
			if !l.Events {
				records = all.Joined * 2 / shards
			}
			puts := all.Events/shards/10 + all.Timers/shards/10
			return records/streamBatch*d.Batch + puts*d.Put
		},
		"nothing fails; events and timers lag, StreamLag fires", "`Events` for the names that somebody listens for; a table with more partitions has more shards",
		"https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html",
	},
	{
		"a new table's writes", 4000, "write units a second, until DynamoDB splits it",
		func(_ Load, all, _ Flow, _ Durations) float64 { return all.WriteUnits },
		"`throttled` for any lock, for up to half an hour after a step", "pre-warm the table (warm throughput), or grow to at most double within 30 minutes",
		guide + "on-demand-capacity-mode.html",
	},
	{
		"new names in a new table's index", 2700, "new rows a second, until DynamoDB splits the index",
		func(_ Load, all, _ Flow, _ Durations) float64 { return all.IndexUnits },
		"`throttled` for first acquires", "pre-warm the index, use names again", guide + "gsi-throttling.html",
	},
	{
		"the table's quota", 40000, "write units a second",
		func(_ Load, all, _ Flow, _ Durations) float64 { return all.WriteUnits },
		"`throttled` for any lock", "raise the quota of the table", guide + "ServiceQuotas.html",
	},
	{
		"the API's throttle", 1000, "requests a second (`RequestsPerSecond`)",
		func(l Load, all, _ Flow, _ Durations) float64 { return over(l.API, all.Requests) },
		"429 from the gateway, without a problem's body; the client repeats it", "`RequestsPerSecond`, `Burst`", "infra/api.go",
	},
	{
		"the account's API quota", 10000, "requests a second",
		func(l Load, all, _ Flow, _ Durations) float64 { return over(l.API, all.Requests) },
		"429 from the gateway, for all APIs of the account", "raise the quota, or invoke the functions directly", "https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html",
	},
	{
		"Lambda's concurrency", 1000, "environments at a time, of the account",
		func(l Load, all, _ Flow, d Durations) float64 {
			stream := math.Min(shards, all.Events/streamBatch*d.Batch+all.Events/10*d.Put)
			return all.Requests*d.Request + stream + all.Timers/10*d.Timer
		},
		"503 over HTTP, TooManyRequestsException by invocation; the client repeats both", "raise the quota; reserve with `Concurrency`", "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html",
	},
	{
		"requests of Lambda's environments", 10000, "requests a second: ten for each environment of the account",
		func(_ Load, all, _ Flow, _ Durations) float64 { return all.Requests },
		"as above", "raise the quota of concurrency", "https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html",
	},
	{
		"PutEvents", 10000, "requests a second in us-east-1, us-west-2 and eu-west-1; 400 to 2,400 in other regions",
		func(_ Load, all, h Flow, _ Durations) float64 { return h.Events + (all.Events-h.Events)/10 },
		"nothing fails; events wait up to a day, EventPutOff fires", "raise the quota; `Events`", "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html",
	},
	{
		"the timers' function", 10, "invocations at a time (`TimersConcurrency`)",
		func(_ Load, all, _ Flow, d Durations) float64 { return all.Timers / 10 * (d.Timer + 10*d.ClientDB) },
		"nothing fails; `Lock Expired` and turns behind dead holders come late, ExpiryLag fires", "`TimersConcurrency`", "infra/coordinator.go",
	},
	{
		"timers in flight", 120000, "messages received and not deleted",
		func(_ Load, all, _ Flow, d Durations) float64 { return all.Timers * (d.Timer + 10*d.ClientDB) },
		"as above", "none needed", "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html",
	},
	{
		"SendTaskSuccess", 500, "a second, after a burst of 3,000; 300 in most regions",
		func(l Load, all, _ Flow, _ Durations) float64 { return l.Tasks * all.Granted },
		"turns of tasks come late; CallbackFailed counts the retries", "raise the quota", "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html",
	},
	{
		"DescribeExecution", 15, "a second, after a burst of 300; 10 in most regions",
		func(l Load, all, _ Flow, _ Durations) float64 {
			return l.Tasks * (all.Granted + all.Held/3600) // at the end of each execution, and one check an hour
		},
		"locks of ended executions stay taken for longer; ExecutionChecksLate fires", "raise the quota; let tasks release their locks", "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html",
	},
	{
		"state transitions", 5000, "a second in us-east-1 and the like; 800 in other regions",
		func(l Load, all, _ Flow, _ Durations) float64 { return 5 * l.Tasks * all.Granted },
		"executions are slower (ExecutionThrottled)", "raise the quota", "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html",
	},
}

func over(yes bool, n float64) float64 {
	if yes {
		return n
	}
	return 0
}

// A Use is how much of a limit a load uses.
type Use struct {
	Limit Limit
	Used  float64
	Share float64 // of the limit
	At    float64 // the rate of acquires at which the share is 1; infinite if no rate up to mostRate reaches it
}

const mostRate = 1e6

// Utilisation returns the use of each limit, the one that a growing rate reaches first at the beginning.
func (l Load) Utilisation(d Durations) []Use {
	all, hottest := l.Flows()
	list := make([]Use, len(Limits))
	for i, limit := range Limits {
		used := limit.Used(l, all, hottest, d)
		list[i] = Use{Limit: limit, Used: used, Share: used / limit.Most, At: math.Inf(1)}
	}
	for i, at := range l.saturation(d) {
		list[i].At = at
	}
	slices.SortStableFunc(list, func(a, b Use) int {
		switch {
		case a.At < b.At || a.At == b.At && a.Share > b.Share:
			return -1
		case a.At > b.At || a.Share < b.Share:
			return 1
		}
		return 0
	})
	return list
}

// saturation finds, for each limit, the rate at which it is used up. The shares grow with the rate, so a grid of rates, twenty for each
// factor of ten, brackets it, and it is interpolated between.
func (l Load) saturation(d Durations) []float64 {
	at, last := make([]float64, len(Limits)), make([]float64, len(Limits))
	for i := range at {
		at[i] = math.Inf(1)
	}
	const step = 1.1220184543019633 // the twentieth root of 10
	for rate := 1.0; rate <= mostRate; rate *= step {
		l.Rate = rate
		all, hottest := l.Flows()
		for i, limit := range Limits {
			share := limit.Used(l, all, hottest, d) / limit.Most
			if share >= 1 && math.IsInf(at[i], 1) {
				at[i] = rate
				if last[i] > 0 && share > last[i] {
					at[i] = rate / step * math.Exp(math.Log(1/last[i])/math.Log(share/last[i])*math.Log(step))
				}
			}
			last[i] = share
		}
	}
	return at
}

// Dollars are the prices of docs/cost.md for a million acquires, by service. Logs and alarms are not in it.
func (l Load) Dollars(d Durations) map[string]float64 {
	all, _ := l.Flows()
	million := 1e6 / all.Acquires
	batches := math.Max(all.Events/streamBatch, math.Min(all.Events, shards*5)) // a shard is polled about five times a second
	timers := all.Timers / 10
	return map[string]float64{
		"DynamoDB writes": (all.WriteUnits + all.IndexUnits) * 0.625 * million / 1e6,
		"DynamoDB reads":  (all.ReadUnits + all.Timers) * 0.125 * million / 1e6,
		"HTTP API":        over(l.API, all.Requests) * million / 1e6,
		"EventBridge":     all.Events * million / 1e6,
		"SQS":             timers * 3 * 0.40 * million / 1e6,
		"Lambda": ((all.Requests+batches+timers)*0.20 +
			(all.Requests*d.Request+batches*d.Batch+timers*d.Timer)*0.25*13.3333) * million / 1e6,
		"Step Functions": 5 * l.Tasks * all.Granted * 25 * million / 1e6,
	}
}
