import type { Client } from "./client.js";
import { LeaseLostError } from "./errors.js";
import type { Invocation } from "./invocation.js";
import type { Lease } from "./lease.js";
import type { AcquireOptions } from "./options.js";

/** The options of `exclusive`. Waiting in a function is billed, so it does not wait unless `waitMs` is set. */
export type ExclusiveOptions = Omit<AcquireOptions, "invocation" | "signal">;

/**
 * Makes a Lambda handler that runs `handler` only while it holds a lock. `name` is the lock's name, or a function that returns it for an event:
 *
 *     export const handler = exclusive(client, (order) => `order:${order.id}`, async (order, context, lease) => { ... });
 *
 * If others hold the lock, `handler` does not run, and the invocation fails with a `LockHeldError`, so that the invoker, such as a queue, tries
 * again.
 *
 * The lease lasts until the end of the invocation and about a second longer (see `AcquireOptions.ttlMs`); it is not renewed. If the invocation is
 * killed or times out, the lock is free soon after. The release ends before the invocation's deadline, and its failure is not the invocation's: the
 * handler's work is done, and the lease expires. If the lease is lost while the handler runs, the invocation fails with a `LeaseLostError`, or with
 * the handler's own error if it has one.
 *
 * If the handler is called without a context of Lambda's, as in a local test, the lease has the default TTL and is renewed.
 */
export function exclusive<Event, Context extends Invocation, Result>(
  client: Client,
  name: string | ((event: Event) => string),
  handler: (event: Event, context: Context, lease: Lease) => Result | Promise<Result>,
  options: ExclusiveOptions = {},
): (event: Event, context: Context) => Promise<Result> {
  return async (event, context) => {
    const lease = await acquireIn(client, typeof name === "string" ? name : name(event), context, options);
    let result: Result;
    try {
      result = await handler(event, context, lease);
    } catch (error) {
      await releaseIn(client, lease, context).catch(() => undefined);
      throw error;
    }
    await releaseIn(client, lease, context);
    return result;
  };
}

/** What `lockMiddleware` needs of a request of Middy's. */
interface MiddyRequest {
  event: unknown;
  context: unknown;
  internal: Record<string, unknown>;
}

/** A middleware of Middy's. */
export interface LockMiddleware {
  before(request: MiddyRequest): Promise<void>;
  after(request: MiddyRequest): Promise<void>;
  onError(request: MiddyRequest): Promise<void>;
}

/**
 * Makes a middleware for Middy that does the same as `exclusive`: `middy(handler).use(lockMiddleware(client, "report:daily"))`. The handler finds its
 * lease with `leaseOf(context)`.
 */
export function lockMiddleware(client: Client, name: string | ((event: never) => string), options: ExclusiveOptions = {}): LockMiddleware {
  const key = Symbol("lease");
  const take = (request: MiddyRequest): Lease | undefined => {
    const internal = request.internal as Record<symbol, Lease | undefined>;
    const lease = internal[key];
    delete internal[key];
    return lease;
  };
  return {
    async before(request) {
      const lease = await acquireIn(client, typeof name === "string" ? name : name(request.event as never), request.context, options);
      (request.internal as Record<symbol, Lease>)[key] = lease;
    },
    async after(request) {
      const lease = take(request);
      if (lease) await releaseIn(client, lease, request.context);
    },
    async onError(request) {
      const lease = take(request);
      if (lease) await releaseIn(client, lease, request.context).catch(() => undefined);
    },
  };
}

const leases = new WeakMap<object, Lease>();

/** The lease under which `exclusive` or `lockMiddleware` runs the handler of an invocation; of several, the last. Undefined if there is none. */
export function leaseOf(context: Invocation): Lease | undefined {
  return leases.get(context);
}

/** The invocation that a handler's context describes; undefined if it is not Lambda's. */
function invocationOf(context: unknown): Invocation | undefined {
  return typeof (context as Partial<Invocation> | null | undefined)?.getRemainingTimeInMillis === "function" ? (context as Invocation) : undefined;
}

async function acquireIn(client: Client, name: string, context: unknown, options: ExclusiveOptions): Promise<Lease> {
  const invocation = invocationOf(context);
  const all = { ...options, ...(invocation && { invocation }) };
  const lease = await (options.waitMs === undefined ? client.tryAcquire(name, all) : client.acquire(name, all));
  if (typeof context === "object" && context !== null) leases.set(context, lease);
  return lease;
}

/** Releases the lease after the handler's work. Of its failures only the loss of the lease is the invocation's. */
async function releaseIn(client: Client, lease: Lease, context: unknown): Promise<void> {
  const invocation = invocationOf(context);
  try {
    await client.releaseAfter(lease, invocation ? { invocation } : {});
  } catch (error) {
    if (error instanceof LeaseLostError) throw error;
  }
}
