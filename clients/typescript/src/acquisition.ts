import { randomBytes } from "node:crypto";
import { Scope, sleep } from "./clock.js";
import type { Core, Waiter } from "./core.js";
import { ClosedError, during, type Holder, HoldfastError, LeaseLostError, LockHeldError, RefusedError, UnavailableError } from "./errors.js";
import { ttlOf } from "./invocation.js";
import { Lease, readGrant } from "./lease.js";
import { checkName } from "./names.js";
import { type AcquireOptions, checkOptions, encodeMetadata } from "./options.js";
import { herdSpread, Pace } from "./pace.js";

/** For how long in milliseconds the coordinator keeps a place in the queue after the last poll. */
const keepPlace = 20_000;
const maxPlace = 900_000;

/** Acquires a lock, and waits in its queue if `wait` is true. */
export function acquire(core: Core, name: string, options: AcquireOptions, wait: boolean): Promise<Lease> {
  return core.track(new Acquisition(core, name, { ...options }, wait).run());
}

function newSecret(): string {
  return randomBytes(18).toString("base64url");
}

/**
 * One call of `acquire` or `tryAcquire`. All its requests carry the same secret. So the coordinator answers a retry with the grant whose answer was
 * lost. Only after an answer that the secret's lease has ended does the acquisition take a new one.
 */
class Acquisition {
  #secret = newSecret();
  #fields: Record<string, unknown> = {};
  #ticket = 0; // of the last answer
  #pace: Pace | undefined;
  #owners = new Map<number, string>(); // of the holders of the last answer, by fencing token
  #unsure = false; // there may be a grant, or a place in the queue, that has to be released when giving up
  #failures = 0; // the number of tries without an answer since the last answer
  #untilInvocationEnd = false; // the lease lasts until the end of its invocation, and not for a TTL

  constructor(
    private readonly core: Core,
    private readonly name: string,
    private readonly options: AcquireOptions,
    private readonly wait: boolean,
  ) {}

  async run(): Promise<Lease> {
    const { core, name, options } = this;
    try {
      this.#prepare();
      const scope = new Scope({ caller: options.signal, life: core.life.signal, ms: this.wait ? options.waitMs : undefined });
      try {
        return await this.#loop(scope);
      } catch (error) {
        if (this.#unsure) await core.forget(name, this.#secret, options.invocation);
        throw outcome(error, scope);
      } finally {
        scope.close();
      }
    } catch (error) {
      throw during(error, "acquire", name);
    }
  }

  #prepare(): void {
    const { core, options } = this;
    checkName(this.name);
    checkOptions(options);
    this.#untilInvocationEnd = options.ttlMs === undefined && options.invocation !== undefined;
    this.#fields = {
      owner: options.owner || core.owner(options.invocation),
      ttl_ms: options.ttlMs, // by default the coordinator's, or a shorter one where a limit says so
      metadata: encodeMetadata(options.metadata),
      capacity: options.capacity,
      permits: options.permits,
      mode: options.mode,
      traceparent: options.traceparent,
    };
    if (this.wait) {
      const place = Math.floor(Math.min(Math.max(keepPlace, 3 * core.pollDelay), maxPlace));
      this.#fields["wait_ms"] = place;
      this.#pace = new Pace(core.pollDelay, place);
    }
  }

  /**
   * Tries until there is a grant, an error that ends the acquisition, or no time left. Then the error is that of the last try that had an answer, or
   * else of the last try.
   */
  async #loop(scope: Scope): Promise<Lease> {
    let last: unknown = new UnavailableError("the time to wait was over before the first request");
    for (let tries = 0; ; tries++) {
      if (scope.ended) throw last;
      try {
        return await this.#try(scope);
      } catch (error) {
        if (scope.ended) {
          this.#unsure = true; // the request may have been under way
          throw last instanceof LockHeldError ? last : error;
        }
        if (!(error instanceof HoldfastError)) this.#unsure = true; // a transport's answer could not be read
        const pause = this.#after(error, tries);
        if (pause === undefined) throw error;
        last = error;
        await this.#rest(pause, scope);
      }
    }
  }

  /** Sends the request once. */
  async #try(scope: Scope): Promise<Lease> {
    const { core, name, options } = this;
    if (this.#untilInvocationEnd && options.invocation) {
      // Its remaining time has become shorter.
      this.#fields["ttl_ms"] = ttlOf(options.invocation);
      options.manualRenew = true;
    }
    const sent = core.clock();
    const fields = { lease: this.#secret, ...this.#fields, ...(this.#ticket > 0 && { ticket: this.#ticket }) };
    const answer = await core.send("acquire", name, fields, scope);
    this.#unsure = true; // until there is a Lease
    if (scope.ended === "caller" || scope.ended === "closed") throw new ClosedError(); // nobody would release the lease
    const grant = readGrant(answer, name, this.#secret);
    const lease = new Lease(core, name, this.#secret, options, sent, grant);
    this.#unsure = false;
    return lease;
  }

  /** The pause in milliseconds before another try, after a failed one and `tries` before it; undefined if there is none. */
  #after(error: unknown, tries: number): number | undefined {
    const { core, options } = this;
    if (error instanceof LockHeldError) {
      this.#failures = 0;
      this.#nameHolders(error);
      this.#unsure ||= error.position > 0; // the place has to be left when giving up
      this.#ticket = error.ticket;
      if (!this.#pace) return undefined;
      options.onWait?.(error);
      if (error.position === 0) return Math.min(core.backoff(tries, 0), error.retryAfterMs + Math.random() * herdSpread); // the queue is full
      return this.#pace.next(core.clock().monotonic, error);
    }
    if (error instanceof UnavailableError) {
      this.#unsure = true;
      if (!this.#mayFail()) return undefined;
      options.onUnavailable?.(error);
      return core.backoff(this.#failures - 1, error.afterMs);
    }
    if (error instanceof LeaseLostError) {
      // The lease was granted, and ended before its answer arrived.
      this.#secret = newSecret();
      this.#ticket = 0;
      this.#unsure = false;
      return this.#mayFail() ? core.backoff(this.#failures - 1, 0) : undefined;
    }
    if (this.wait && error instanceof RefusedError && (error.code === "lock_full" || (options.mode === undefined && error.code === "capacity_mismatch"))) {
      this.#failures = 0;
      return core.backoff(tries, 0); // they pass when others release the lock
    }
    return undefined;
  }

  /** Adds the owners that an earlier answer named: the answer to a poll names none of the holders of a semaphore. */
  #nameHolders(held: LockHeldError): void {
    const owners = new Map<number, string>();
    for (const holder of held.holders as Holder[]) {
      holder.owner ||= this.#owners.get(holder.fence) ?? "";
      owners.set(holder.fence, holder.owner);
    }
    this.#owners = owners;
  }

  /**
   * Counts a try that led to nothing, and reports whether another may follow. An acquisition that waits is limited by its time only.
   */
  #mayFail(): boolean {
    this.#failures++;
    return this.wait || this.#failures <= this.core.retries;
  }

  /** Waits for `ms` milliseconds, or until this client releases the lock. */
  async #rest(ms: number, scope: Scope): Promise<void> {
    const { waiting } = this.core;
    const waiter: Waiter = { ticket: this.#ticket, wake: () => undefined };
    const waiters = waiting.get(this.name) ?? new Set();
    waiting.set(this.name, waiters.add(waiter));
    await sleep(ms, scope.signal, (end) => {
      waiter.wake = end;
    });
    waiters.delete(waiter);
    if (waiters.size === 0) waiting.delete(this.name);
  }
}

/** The error of an acquisition: its signal's reason if that has ended it. */
function outcome(error: unknown, scope: Scope): unknown {
  switch (scope.ended) {
    case "caller":
      return scope.signal.reason;
    case "closed":
      return new ClosedError();
    case "time":
      if (error instanceof HoldfastError) error.timedOut = true;
  }
  return error;
}
