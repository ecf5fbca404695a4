// Package lockclient takes and keeps Holdfast locks over HTTP.
//
//	client, err := lockclient.New(lockclient.Config{Endpoint: "http://127.0.0.1:7420"})
//	...
//	err = client.Do(ctx, "report:daily", lockclient.Options{}, func(ctx context.Context, lease *lockclient.Lease) error {
//		return writeReport(ctx, lease.Fence())
//	})
//
// A [Lease] is renewed in the background until it is released, and its [Lease.Context] ends, with a cause, the moment it is
// lost or can no longer be proved.
//
// # What a lease promises
//
// The client counts a lease's life on its own monotonic clock, from before it sent the request that the coordinator
// answered, and takes a small part off for the difference in rate between two clocks. So it stops believing before the
// coordinator gives the lock to anyone else, whatever happens to the network. What it cannot do is stop work that is
// under way: code between a check and its effect may be paused for longer than the lease lasts. Where that matters, hand
// [Lease.Fence] to the resource: a token that grows with every grant, so that the resource can refuse an older one.
//
// A force-release is an operator's word that the holder is gone, and takes the lock away at once. A holder that lives hears
// of it at its next renewal, within a third of its TTL; until then only fences keep the two apart.
//
// # Taking turns
//
// A client that waits has a place in the lock's queue, which it keeps by asking again; turns are taken in order, and whoever
// comes later does not overtake. A waiter that goes away without a word is passed over within seconds; one that gives up
// leaves the queue. [Client.TryAcquire] does not queue.
//
// # Not reentrant
//
// A second Acquire of a lock that this process holds waits like anyone else's.
package lockclient
