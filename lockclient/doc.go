// Package lockclient acquires and keeps Holdfast locks.
//
//	client, err := lockclient.New(lockclient.Config{Endpoint: "http://127.0.0.1:7420"})
//	...
//	err = client.Do(ctx, "report:daily", lockclient.Options{}, func(ctx context.Context, lease *lockclient.Lease) error {
//		return writeReport(ctx, lease.Fence())
//	})
//
// A [Client] reaches the coordinator over HTTP, or through another [Transport]: package invoke invokes the coordinator's Lambda
// functions, and package direct uses the DynamoDB table without a coordinator. Package locktest has a coordinator for tests.
//
// A lock is held by a [Lease], which the client renews in the background until it is released. [Lease.Context] ends when the
// lease is released, is lost, or can no longer be proved to be held. Its cause says which.
//
// # Guarantees
//
// The client computes a lease's expiry on its own clock, from the moment before it sent the request that the coordinator
// answered, and subtracts a margin of 1/1000 for the difference in rate between the two clocks. It therefore considers the lease
// lost before the coordinator can grant the lock to another client, whatever the network does.
//
// A lease does not stop code that is already running. A process may be paused between a check of its lease and the effect that
// the check was for, and resume after the lease has expired. Where that matters, pass [Lease.Fence] to the resource: every grant
// of a lock has a higher fencing token than all grants before it, so that the resource can refuse a late write (see package
// fencing).
//
// [Client.ForceRelease] is the exception to the guarantee: it ends a lease at once, because an operator says that its holder is
// dead. A holder that is alive learns of it at its next renewal, by default within a third of its TTL. Until then only fencing
// tokens protect the resource.
//
// # Waiting
//
// [Client.Acquire] joins the lock's queue. The coordinator grants the lock in the order of the queue, and no later caller
// overtakes. A waiter keeps its place by repeating its request. If it dies, it loses the place within seconds; if it gives up, it
// leaves the queue. [Client.TryAcquire] does not join the queue.
//
// Locks are not reentrant: a second Acquire of a lock that the same process holds waits as any other does.
//
// # Errors
//
// Match errors with errors.Is and the Err variables, such as [ErrHeld], [ErrLost] and [ErrUnavailable]. For details use
// errors.As with [HeldError] (who holds the lock), [RefusedError] (what is wrong with a request) and [OpError] (the operation and
// the lock).
package lockclient
