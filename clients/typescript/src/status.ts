import { type Freeze, freezeOf, type Holder, holderOf } from "./errors.js";
import { record, text, whole } from "./json.js";

/** The state of a lock, as all callers may see it. */
export interface Status {
  /** The lock's name. */
  lock: string;
  /** At least one lease is live. */
  locked: boolean;
  /** The capacity that the holders gave; 1 if the lock is free. */
  capacity: number;
  /** The permits that are free. */
  available: number;
  /** The highest fencing token ever granted; 0 if there was no grant. */
  fence: number;
  holders: StatusHolder[];
  /** The number of waiters in the queue. */
  waiting: number;
  /** The first waiters, if `options.waiters` asks for them. They are read after the lock, and may be newer. */
  queue: StatusWaiter[];
  /** Undefined if the lock is not frozen; lists leave it out. */
  freeze?: Freeze;
  /** When a rate of the lock's prefix allows the next grant, if that is later than `at`; lists leave it out. */
  nextGrant?: Date;
  /** When the coordinator answered, by its clock. */
  at: Date;
}

/** A live lease in a {@link Status}. */
export interface StatusHolder extends Holder {
  /** Of the lock's capacity. */
  permits: number;
  /** The time of the grant. */
  acquiredAt: Date;
  /** The time of the last renewal. */
  renewedAt: Date;
  metadata?: Record<string, unknown>;
  /** The caller's ARN, as API Gateway's authorizer gave it; undefined for other transports. */
  principal?: string;
}

/** A waiter in a {@link Status}. */
export interface StatusWaiter {
  /** Its place in the queue, from 1. */
  position: number;
  owner: string;
  /** The permits that it waits for. */
  permits: number;
  /** The caller's ARN; undefined if it is not known. */
  principal?: string;
  /** When it joined the queue; undefined if it is not known. */
  joinedAt?: Date;
  /** A task of a state machine waits, and not a caller that polls. */
  task: boolean;
  /** The locks that it acquires together, this one included; undefined for a single lock. */
  set?: string[];
  /** Its trace context (W3C). */
  traceparent?: string;
}

export function statusOf(value: unknown): Status {
  const s = record(value);
  const status: Status = {
    lock: text(s["lock"]),
    locked: s["locked"] === true,
    capacity: whole(s["capacity"]),
    available: whole(s["available"]),
    fence: whole(s["fence"]),
    holders: holdersOf(s["holders"]),
    waiting: whole(s["waiting"]),
    queue: listOf(s["queue"]).map(waiterOf),
    at: new Date(text(s["server_time"])),
  };
  const freeze = freezeOf(s["freeze"]);
  if (freeze) status.freeze = freeze;
  if (s["next_grant_at"] !== undefined) status.nextGrant = new Date(text(s["next_grant_at"]));
  return status;
}

export function holdersOf(value: unknown): StatusHolder[] {
  return listOf(value).map((holder) => {
    const h = record(holder);
    const out: StatusHolder = {
      ...holderOf(h),
      permits: whole(h["permits"]),
      acquiredAt: new Date(text(h["acquired_at"])),
      renewedAt: new Date(text(h["renewed_at"])),
    };
    if (h["metadata"] !== undefined) out.metadata = record(h["metadata"]);
    if (text(h["principal"])) out.principal = text(h["principal"]);
    return out;
  });
}

function waiterOf(value: unknown): StatusWaiter {
  const w = record(value);
  const waiter: StatusWaiter = { position: whole(w["position"]), owner: text(w["owner"]), permits: whole(w["permits"]), task: w["task"] === true };
  if (text(w["principal"])) waiter.principal = text(w["principal"]);
  if (text(w["joined_at"])) waiter.joinedAt = new Date(text(w["joined_at"]));
  if (w["set"] !== undefined) waiter.set = listOf(w["set"]).map(text);
  if (text(w["traceparent"])) waiter.traceparent = text(w["traceparent"]);
  return waiter;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}
