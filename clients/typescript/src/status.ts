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
    at: new Date(text(s["server_time"])),
  };
  const freeze = freezeOf(s["freeze"]);
  if (freeze) status.freeze = freeze;
  if (s["next_grant_at"] !== undefined) status.nextGrant = new Date(text(s["next_grant_at"]));
  return status;
}

export function holdersOf(value: unknown): StatusHolder[] {
  return (Array.isArray(value) ? value : []).map((holder: unknown) => {
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
