import type { Agent } from "node:http";
import { hostname } from "node:os";
import type { Clock } from "./clock.js";
import { invalid, type LockHeldError, type UnavailableError } from "./errors.js";
import type { HTTPConfig, Signer } from "./http.js";
import type { Invocation } from "./invocation.js";
import { ownerProblem } from "./names.js";
import type { Transport } from "./transport.js";

/** Configures a `Client`. Either `endpoint` or `transport` is required. */
export interface ClientConfig extends HTTPConfig {
  /** The coordinator's URL without the /v1/locks part of its routes, such as https://ID.execute-api.REGION.amazonaws.com. */
  endpoint?: string;
  /** Signs the requests: `sigV4()` of `@holdfast-lock/client/sigv4`. Without it requests are not signed, which only a local coordinator accepts. */
  signer?: Signer;
  /** Makes the connections, for example through a proxy: of `node:https` for an https endpoint. By default the client has its own. */
  agent?: Agent;
  /** Carries the requests in place of HTTP. `endpoint`, `signer` and `agent` must then be absent. */
  transport?: Transport;

  /** Limits one try of a request, in milliseconds. By default 5,000. */
  requestTimeoutMs?: number;
  /**
   * How many times a request without an answer is sent again: the connection failed, or the coordinator was throttled or could not use its
   * store. By default 3. `acquire` ignores it, and retries until the end of its wait.
   */
  retries?: number;
  /**
   * The longest pause in milliseconds between two tries of a request without an answer, and between two polls of the first waiter in a lock's
   * queue. Pauses begin with a part of it and grow; all are a little random, so that clients spread. Waiters behind the first poll less often:
   * about this times their position, and at least four times in the time for which their place is kept (20 s, or three times this if that is
   * more). A waiter of this client polls at once when the client releases the lock. By default 1,000, and 2,000 for the polls of waiters.
   */
  retryDelayMs?: number;
  /**
   * The name that others see while this client holds a lock, at most 256 bytes. `AcquireOptions.owner` replaces it. By default HOST/PID, and in
   * a Lambda invocation FUNCTION/REQUEST-ID.
   */
  owner?: string;
  /** @internal For tests. */
  clock?: Clock;
}

/** Say how a lock is acquired. Without options an acquire waits without end, for a lease with a TTL of 60 s. */
export interface AcquireOptions {
  /**
   * The time from a grant or renewal to the lease's expiry, in whole milliseconds: from 1,000 to the maximum of the deployment, which is 24 h
   * by default and at most 7 days. By default 60,000, or less where a limit of the lock's prefix says so. With an `invocation` by default the
   * rest of the invocation plus about a second, without renewals: the lease of a function that is killed does not outlive its invocation by
   * more than that.
   */
  ttlMs?: number;
  /** The interval between renewals in the background, in milliseconds. It must be less than the TTL. By default a third of the TTL. */
  heartbeatMs?: number;
  /** Turns background renewal off. The caller renews with `Lease.renew`. */
  manualRenew?: boolean;
  /**
   * The least time in milliseconds for which the lock stays held after the grant, even if the lease is released sooner; at most 7 days. It
   * makes a short periodic job run once a period although the clocks of its hosts differ. See `Lease.release`.
   */
  minHoldMs?: number;
  /** Limits how long `acquire` waits while others hold the lock, in milliseconds. By default it waits without end. `tryAcquire` ignores it. */
  waitMs?: number;
  /** Ends the acquire: it leaves the queue, and rejects with the signal's reason. It does not end the lease. */
  signal?: AbortSignal;
  /** Called before each pause of a wait, with the holders and the place in the queue. */
  onWait?: (held: LockHeldError) => void;
  /** Called before an acquire is retried because the last try had no answer. */
  onUnavailable?: (error: UnavailableError) => void;
  /**
   * Called with an error when background renewals begin to fail, and with undefined when they succeed again. The lease is held nevertheless,
   * for `lease.remainingMs`. It is not called when the lease is lost, since that ends the lease's signal.
   */
  onRenewal?: (error: Error | undefined) => void;
  /** Replaces `ClientConfig.owner`. */
  owner?: string;
  /** Shown to others while the lock is held: an object that encodes to at most 2,048 bytes of JSON. */
  metadata?: object;
  /**
   * With `permits` makes the lock a semaphore: the lease takes `permits` of the lock's `capacity`, each from 1 to 100. All holders and waiters
   * of a lock must give the same capacity. By default that of a limit of the lock's prefix, if there is one, and otherwise 1.
   */
  capacity?: number;
  /** By default 1. */
  permits?: number;
  /**
   * The caller's trace context (W3C), such as that of the active span of OpenTelemetry. It is kept with the lease, and shown in events, the
   * history and to others.
   */
  traceparent?: string;
  /** Makes the lock one that readers share and a writer has alone; instead of `capacity` and `permits`. All callers of the lock must give it. */
  mode?: "read" | "write";
  /** The `context` of the Lambda invocation in which the lease is used. The lease ends with the invocation. */
  invocation?: Invocation;
}

/** The options of `Client.adopt`. */
export type AdoptOptions = Pick<AcquireOptions, "ttlMs" | "heartbeatMs" | "manualRenew" | "metadata" | "onRenewal" | "signal">;

const day = 86_400_000;
const maxTTL = 7 * day;
const maxCapacity = 100;
const maxMetadata = 2048;

function isNumber(value: unknown, least: number, most: number): boolean {
  return typeof value === "number" && value >= least && value <= most;
}

/** Throws a `TypeError` that names the field that is wrong and says how to correct it. */
export function checkConfig(c: ClientConfig): void {
  if (c.transport && (c.endpoint !== undefined || c.signer || c.agent)) {
    throw new TypeError("ClientConfig.transport is given, and so is a field of HTTP's (endpoint, signer, agent); give one or the other");
  }
  for (const [field, least, most] of [
    ["requestTimeoutMs", 1, day],
    ["retryDelayMs", 1, day],
    ["retries", 0, 1000],
  ] as const) {
    if (c[field] !== undefined && !isNumber(c[field], least, most)) {
      throw new TypeError(`ClientConfig.${field} is ${c[field]}; give a number from ${least} to ${most}, or leave it out`);
    }
  }
  const problem = c.owner === undefined ? "" : ownerProblem(c.owner);
  if (problem) throw new TypeError(`ClientConfig.owner ${problem}`);
}

/** Throws a `RefusedError` that names the option that is wrong and says how to correct it. The coordinator checks the least TTL. */
export function checkOptions(o: AcquireOptions): void {
  const check = (field: keyof AcquireOptions, ok: boolean, fix: string) => {
    if (o[field] !== undefined && !ok) throw invalid(field, `AcquireOptions.${field} is ${String(o[field])}; ${fix}`);
  };
  check("ttlMs", isNumber(o.ttlMs, 1, maxTTL) && Number.isInteger(o.ttlMs), `give 1000 to ${maxTTL}, in whole milliseconds`);
  check(
    "heartbeatMs",
    isNumber(o.heartbeatMs, 1, (o.ttlMs ?? maxTTL + 1) - 1),
    `give less than the TTL, which is ${o.ttlMs ?? "60000"}, or leave it out for a third of it`,
  );
  check("waitMs", isNumber(o.waitMs, 1, Number.MAX_SAFE_INTEGER), "give a time above 0, or leave it out to wait without end");
  check("minHoldMs", isNumber(o.minHoldMs, 0, maxTTL), `give a time up to ${maxTTL}`);
  check("capacity", isNumber(o.capacity, 1, maxCapacity), `give 1 to ${maxCapacity}`);
  check("permits", isNumber(o.permits, 1, o.capacity ?? maxCapacity), `give 1 to the capacity, which is ${o.capacity ?? 1}`);
  check("mode", o.mode === "read" || o.mode === "write", 'give "read" or "write"');
  check("mode", o.capacity === undefined && o.permits === undefined, "it is there with capacity or permits: give one or the other");
  check("invocation", typeof o.invocation?.getRemainingTimeInMillis === "function", "give the context that Lambda passes to the handler");
  const problem = o.owner === undefined ? "" : ownerProblem(o.owner);
  if (problem) throw invalid("owner", `AcquireOptions.owner ${problem}`);
}

/** Checks metadata and returns it as it is sent. */
export function encodeMetadata(metadata: unknown): object | undefined {
  if (metadata === undefined) return undefined;
  let json: string | undefined;
  try {
    json = JSON.stringify(metadata);
  } catch (error) {
    throw invalid("metadata", `AcquireOptions.metadata cannot be encoded: ${(error as Error).message}`);
  }
  if (json?.[0] !== "{") throw invalid("metadata", "AcquireOptions.metadata encodes to no JSON object; give an object");
  const bytes = Buffer.byteLength(json);
  if (bytes > maxMetadata) throw invalid("metadata", `AcquireOptions.metadata is ${bytes} bytes of JSON; at most ${maxMetadata} are allowed`);
  return JSON.parse(json) as object; // as it is now, whatever becomes of the caller's object
}

export function defaultOwner(): string {
  return `${hostname()}/${process.pid}`;
}
