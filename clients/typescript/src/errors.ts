import { inspect } from "node:util";
import { milliseconds, record, text, whole } from "./json.js";

/** What was tried when an error occurred. */
export type Operation = "acquire" | "renew" | "release" | "force-release" | "status" | "list";

/** The base of all errors of this package, except for bad arguments of `Client`, which are a `TypeError`. */
export abstract class HoldfastError extends Error {
  /** What failed; undefined until the error leaves the client. */
  operation?: Operation;
  /** The lock's name; of a list, the prefix. */
  lock?: string;
  /** The operation ended because the time that `AcquireOptions.waitMs` gives was over. */
  timedOut = false;
  /** What happened, without the operation and the lock. */
  readonly detail: string;

  constructor(detail: string, options?: ErrorOptions) {
    super(detail, options);
    this.detail = detail;
  }

  /** @internal Says what was tried. An error that says so already keeps it. */
  during(operation: Operation, lock: string): this {
    if (this.operation === undefined) {
      this.operation = operation;
      this.lock = lock;
      // A name that is refused may contain control characters.
      const name = /^[\w.:@+=-]*$/.test(lock) ? lock : JSON.stringify(lock);
      this.message = `${operation} ${name}: ${this.detail}`;
    }
    return this;
  }
}

/** A holder of a lock, as {@link LockHeldError} describes it. */
export interface Holder {
  /** Its name for itself; see `ClientConfig.owner`. */
  owner: string;
  /** The fencing token of its lease. */
  fence: number;
  /** When its lease expires unless it is renewed, by the coordinator's clock. */
  expiresAt: Date;
  /** The time until then in milliseconds, when the coordinator answered. */
  remainingMs: number;
  /** The trace context (W3C) of the acquire that was granted; undefined if it carried none. */
  traceparent?: string;
}

/** A time in which nobody is granted a lock, as an operator has set it for all locks whose names begin with a prefix. */
export interface Freeze {
  /** "*" for all locks. */
  prefix: string;
  /** By the coordinator's clock. */
  until: Date;
  reason: string;
  /** The ARN of the operator; undefined if it is not known. */
  by?: string;
}

/** A limit that an operator has set for all locks whose names begin with a prefix. */
export interface Limit {
  /** Its name in the API: capacity, max_ttl_ms, max_hold_ms, max_queue, max_per_principal or rate. */
  name: string;
  value: number;
  /** Of a rate, in milliseconds: in any such period the lock is granted `value` times at most. */
  periodMs?: number;
  /** Of the rule that sets the limit; "*" for all locks. */
  prefix: string;
  /** The field of the request that is more than the limit. */
  field?: string;
  /** What is wrong and what to do. */
  detail: string;
}

interface Held {
  holders?: Holder[];
  retryAfterMs: number;
  position?: number;
  waiting?: number;
  limit?: Limit | undefined;
  ticket?: number;
}

/**
 * Others hold the lock, and the time to wait is over. If the lock's queue is full, or the caller's principal has as many permits as it may,
 * it has only `retryAfterMs` and `limit`.
 */
export class LockHeldError extends HoldfastError {
  override readonly name: string = "LockHeldError";
  readonly holders: readonly Holder[];
  /** The time in milliseconds until the first of the leases expires, unless it is renewed; or a hint, if the queue is full. */
  readonly retryAfterMs: number;
  /** The caller's place in the lock's queue, from 1; 0 if it is not in the queue. */
  readonly position: number;
  /** The number of waiters in the queue. */
  readonly waiting: number;
  /** The limit that keeps the request out of the queue, or the rate that keeps the lock from being granted for `retryAfterMs`. */
  readonly limit: Limit | undefined;
  /** @internal */
  readonly ticket: number;

  /** @internal */
  constructor(held: Held, detail?: string) {
    const first = held.holders?.[0];
    super(detail ?? held.limit?.detail ?? (first ? `the lock is held by ${JSON.stringify(first.owner)}${untilTime(first.expiresAt)}` : "the lock is held"));
    this.holders = held.holders ?? [];
    this.retryAfterMs = held.retryAfterMs;
    this.position = held.position ?? 0;
    this.waiting = held.waiting ?? 0;
    this.limit = held.limit;
    this.ticket = held.ticket ?? 0;
  }
}

/** An operator has frozen the lock, and the time to wait ended before the freeze. */
export class LockFrozenError extends LockHeldError {
  override readonly name = "LockFrozenError";
  readonly freeze: Freeze;

  /** @internal */
  constructor(held: Held, freeze: Freeze) {
    super(held, `the lock is frozen${untilTime(freeze.until)}${freeze.by ? ` by ${freeze.by}` : ""}: ${freeze.reason}`);
    this.freeze = freeze;
  }
}

/** The lease has ended: it expired, was forced out, or was not proved to be held in time. */
export class LeaseLostError extends HoldfastError {
  override readonly name = "LeaseLostError";
  /** The limit that ended the lease, if one did. */
  readonly limit: Limit | undefined;

  /** @internal */
  constructor(why: string, options?: ErrorOptions & { limit?: Limit | undefined }) {
    super(`the lease is lost: ${options?.limit?.detail ?? why}`, options);
    this.limit = options?.limit;
  }
}

/** The reason of a lease's signal after its release. */
export class LeaseReleasedError extends HoldfastError {
  override readonly name = "LeaseReleasedError";

  /** @internal */
  constructor() {
    super("the lease was released");
  }
}

/**
 * Every try of a request failed because the coordinator could not be reached or could not use its store. It is not known whether the request
 * took effect. A later request may succeed. The `cause` is the failure.
 */
export class UnavailableError extends HoldfastError {
  override readonly name = "UnavailableError";
  /** @internal When to send it again, in milliseconds, as the answer says; 0 if it does not. */
  readonly afterMs: number;
  /** @internal Too many requests arrive at once. */
  readonly throttled: boolean;

  /** @internal */
  constructor(why: string, options?: ErrorOptions & { afterMs?: number; throttled?: boolean }) {
    super(`the coordinator is unavailable: ${why}`, options);
    this.afterMs = options?.afterMs ?? 0;
    this.throttled = options?.throttled ?? false;
  }
}

/**
 * The same request will fail again: it is not valid or not allowed, the lock is in use with another capacity, or the coordinator cannot be
 * reached or cannot work as it is configured. The client does not retry it. The message says what to change. A transport or a signer throws
 * it for what no retry corrects.
 */
export class RefusedError extends HoldfastError {
  override readonly name: string = "RefusedError";
  /** The code of the coordinator's answer (see docs/openapi.yaml); empty if the answer was another's, such as API Gateway's. */
  readonly code: string;
  /** The HTTP status; 0 if there was no answer. */
  readonly status: number;
  /** The field of the request that is wrong; empty if it is none. */
  readonly field: string;

  constructor(why: string, about?: ErrorOptions & { code?: string; status?: number; field?: string }) {
    super(about?.status ? `the request is refused (${`${about.status} ${about.code ?? ""}`.trim()}): ${why}` : `the request is refused: ${why}`, about);
    this.code = about?.code ?? "";
    this.status = about?.status ?? 0;
    this.field = about?.field ?? "";
  }
}

/** A limit, which an operator has set for the lock's prefix, never allows the request. */
export class LimitError extends RefusedError {
  override readonly name = "LimitError";
  readonly limit: Limit;

  /** @internal */
  constructor(limit: Limit, status: number) {
    super(limit.detail, { code: "limit_exceeded", status, field: limit.field ?? "" });
    this.limit = limit;
  }
}

/** The client was closed. */
export class ClosedError extends HoldfastError {
  override readonly name = "ClosedError";

  /** @internal */
  constructor() {
    super("the client is closed");
  }
}

/** `Client.close` did not release some leases. Those expire by themselves. `errors` has one error for each. */
export class CloseError extends AggregateError {
  override readonly name = "CloseError";
  /** The number of leases that may still be held. */
  readonly left: number;
  /** The number of leases that the client held. */
  readonly total: number;

  /** @internal */
  constructor(left: number, total: number, errors: Error[]) {
    const first = `${errors[0]?.message}${errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""}`;
    super(errors, left === 0 ? `close: ${first}` : `close: ${left} of ${total} leases were not released, and expire by themselves: ${first}`);
    this.left = left;
    this.total = total;
  }
}

/** The error of a request that the client does not send. */
export function invalid(field: string, why: string): RefusedError {
  return new RefusedError(why, { code: "invalid_request", field });
}

// Above every position of a coordinator's queue, which has 500 places. The answer may be another server's.
const maxPosition = 10_000;

const refusals = new Set([
  "invalid_request",
  "not_found",
  "method_not_allowed",
  "rule_changed",
  "too_many_rules",
  "capacity_mismatch",
  "more_permits",
  "lock_changed",
  "payload_too_large",
  "notify_refused",
  "lock_full",
  "misconfigured",
]);

/** The error for a problem (RFC 9457) that the coordinator answered, or undefined if the object is none. */
export function problemError(status: number, p: Record<string, unknown>): HoldfastError | undefined {
  const code = text(p["code"]);
  if (code === "") return undefined;
  const retryAfterMs = milliseconds(p["retry_after_ms"]);
  const limit = limitOf(code, p, retryAfterMs);
  switch (code) {
    case "lock_held":
    case "frozen": {
      const held = {
        holders: Array.isArray(p["holders"]) ? p["holders"].map(holderOf) : [],
        retryAfterMs,
        limit,
        position: Math.min(whole(p["position"]), maxPosition),
        waiting: Math.min(whole(p["waiting"]), maxPosition),
        ticket: whole(p["ticket"]),
      };
      const freeze =
        freezeOf(p["freeze"]) ?? (code === "frozen" ? { prefix: "", until: new Date(Date.now() + retryAfterMs), reason: text(p["detail"]) } : undefined);
      return freeze ? new LockFrozenError(held, freeze) : new LockHeldError(held);
    }
    case "lease_lost":
      return new LeaseLostError("the coordinator says that it expired, was released or was forced out", { limit });
    case "queue_full":
      return new LockHeldError({ retryAfterMs, limit }, limit?.detail ?? `the lock is held, and its queue is full: ${text(p["detail"])}`);
    case "limit_exceeded":
      if (limit && retryAfterMs > 0) return new LockHeldError({ retryAfterMs, limit });
      if (limit) return new LimitError(limit, status);
  }
  // A code of a newer version is judged by the status.
  if (!refusals.has(code) && (code === "throttled" || code === "store_unavailable" || code === "internal" || status >= 500 || status === 429)) {
    const request = text(p["request_id"]);
    return new UnavailableError(`${status} ${code}: ${text(p["detail"])}${request ? ` (request ${request})` : ""}`, {
      afterMs: retryAfterMs,
      throttled: code === "throttled" || status === 429,
    });
  }
  return new RefusedError(text(p["detail"]), { code, status, field: text(p["field"]) });
}

export function holderOf(value: unknown): Holder {
  const h = record(value);
  const traceparent = text(h["traceparent"]);
  const [owner, expiresAt] = [text(h["owner"]), new Date(text(h["expires_at"]))];
  return { owner, fence: whole(h["fence"]), expiresAt, remainingMs: milliseconds(h["remaining_ms"]), ...(traceparent && { traceparent }) };
}

export function freezeOf(value: unknown): Freeze | undefined {
  if (value === undefined || value === null) return undefined;
  const f = record(value);
  const by = text(f["by"]);
  return { prefix: text(f["prefix"]), until: new Date(text(f["until"])), reason: text(f["reason"]), ...(by && { by }) };
}

function limitOf(code: string, p: Record<string, unknown>, retryAfterMs: number): Limit | undefined {
  const name = text(p["limit"]);
  if (name === "" && code !== "limit_exceeded") return undefined;
  const limit: Limit = { name, value: whole(p["value"]), prefix: text(p["prefix"]), detail: text(p["detail"]) };
  const [period, field] = [milliseconds(p["period_ms"]), text(p["field"])];
  if (period > 0) limit.periodMs = period;
  if (field) limit.field = field;
  if (name === "rate") {
    // The coordinator's text names fields of the request.
    const each = limit.prefix === "*" ? "each lock" : `each lock below ${limit.prefix}`;
    limit.detail = `${each} is granted ${limit.value === 1 ? "once" : `${limit.value} times`} in ${period} ms at most, and the next grant is possible in ${retryAfterMs} ms`;
  }
  return limit;
}

/** Words for an error's text; empty for a date that is not valid, for another server's answer may have any. */
function untilTime(date: Date): string {
  return Number.isNaN(date.getTime()) ? "" : ` until ${date.toISOString()}`;
}

/** The text of what was thrown: an error, or anything, such as a signal's reason. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error && thrown.message ? thrown.message : inspect(thrown);
}

/** Says in an error of this package what was tried. Other errors, such as a signal's reason, stay as they are. */
export function during(error: unknown, operation: Operation, lock: string): unknown {
  return error instanceof HoldfastError ? error.during(operation, lock) : error;
}
