import { inspect } from "node:util";
import { later, left, newController, type Reading, Scope, Timer } from "./clock.js";
import { type Core, checkLock, within } from "./core.js";
import { ClosedError, during, type HoldfastError, LeaseLostError, LeaseReleasedError, type Limit, messageOf } from "./errors.js";
import { milliseconds, text, whole } from "./json.js";
import { type AcquireOptions, encodeMetadata } from "./options.js";
import { notCoordinator } from "./transport.js";

/**
 * The divisor of the margin that the client subtracts from a lease's life, for the difference in rate between its clock and the coordinator's:
 * 1/1000, twice the 500 ppm by which NTP may slew a clock.
 */
const rateMargin = 1000;

/**
 * The longest time in milliseconds between two checks of a lease's clocks. Timers run on the monotonic clock, which stands still while the machine
 * is suspended. So the signal of a lease that expired meanwhile ends within this time; `Lease.held` is right at once.
 */
const watchEvery = 1000;

const leastTTL = 1000;
const lastRelease = 5000;

/** A grant or a renewal as the coordinator answered it. */
export interface Grant {
  fence: number;
  ttl: number;
  remaining: number;
  waited: number;
  /** Not 0: the expiry is the end by a limit of so many milliseconds from the grant on, which no renewal moves. */
  hold: number;
}

/** Reads an answer to an acquire or a renewal. Throws if it is not the lease that was asked for. */
export function readGrant(answer: Record<string, unknown>, lock: string, secret: string): Grant {
  const [fence, ttl, remaining] = [whole(answer["fence"]), whole(answer["ttl_ms"]), whole(answer["remaining_ms"])];
  if (answer["lock"] !== lock || answer["lease"] !== secret || fence < 1 || ttl < 1 || remaining < 1) {
    throw notCoordinator(200, "an answer that is not a lease of this lock");
  }
  const [acquired, expires, ends] = ["acquired_at", "expires_at", "ends_at"].map((field) => Date.parse(text(answer[field]))) as [number, number, number];
  const hold = expires >= ends ? ends - acquired : 0; // comparisons with an absent time are false
  return { fence, ttl, remaining, hold, waited: milliseconds(answer["waited_ms"]) };
}

/**
 * A lock that this process holds. It is renewed in the background until it is released, by `release` or by leaving the block of `await using`.
 * Neither its timers nor its idle connections keep the process alive.
 *
 * The client computes the lease's expiry on its own clock, from the moment before it sent the request that the coordinator answered, and subtracts
 * a margin of 1/1000 for the difference in rate between the two clocks. It therefore considers the lease lost before the coordinator can grant the
 * lock to another client, whatever the network does. A force-release by an operator is the exception: the client learns of it at its next renewal.
 *
 * A lease does not stop code that is already running. Where that matters, pass `fence` to the resource, so that it can refuse a late write.
 */
export class Lease implements AsyncDisposable {
  /** The lock's name. */
  readonly name: string;
  /**
   * The fencing token of the grant. It is higher than that of every earlier grant of the lock, and below 2^53. A renewal does not change it.
   */
  readonly fence: number;
  /** For how long the lease's place was in the lock's queue before the grant, in milliseconds, by the coordinator's clock; 0 if the lock was granted at once. */
  readonly waitedMs: number;
  /** The TTL in milliseconds. */
  readonly ttlMs: number;

  readonly #core: Core;
  readonly #secret: string;
  readonly #options: AcquireOptions;
  readonly #heartbeat: number;
  readonly #controller = newController();
  readonly #granted: Reading; // when the answer with the grant arrived
  readonly #invocationEnd: Reading | undefined;
  readonly #expiry = new Timer(() => this.#watch(), false);
  readonly #next = new Timer(() => this.#beat(), false);
  #deadline: Reading; // the lease is proved to be held until then
  #hold: number; // as in Grant
  #renewal: Promise<void> | undefined; // in the background
  #renewalError: unknown; // of the last renewal; undefined if it succeeded
  #failing = false; // as onRenewal knows it
  #released: Promise<void> | undefined;

  /** @internal Makes a lease of a grant, for a request that was sent at `sent`, and starts its timers and its renewal. */
  constructor(core: Core, name: string, secret: string, options: AcquireOptions, sent: Reading, grant: Grant) {
    this.#core = core;
    this.name = name;
    this.fence = grant.fence;
    this.waitedMs = grant.waited;
    this.ttlMs = grant.ttl;
    this.#secret = secret;
    this.#options = options;
    this.#granted = core.clock();
    this.#invocationEnd = options.invocation && later(this.#granted, options.invocation.getRemainingTimeInMillis());
    const heartbeat = options.heartbeatMs ?? grant.ttl / 3;
    this.#heartbeat = heartbeat < grant.ttl ? heartbeat : grant.ttl / 3; // possible for an adopted lease
    this.#deadline = this.#provedUntil(sent, grant);
    this.#hold = grant.hold;
    const life = this.#left();
    if (life <= 0) throw new LeaseLostError("the answer took longer than the lease's life");
    if (core.closed) throw new ClosedError();
    core.leases.add(this);
    this.#expiry.set(Math.min(life, watchEvery));
    // If the grant's answer was slow, less of the lease's life is left, and the first renewal is sooner.
    if (!options.manualRenew) this.#next.set(Math.min(this.#heartbeat, (life * this.#heartbeat) / this.ttlMs));
  }

  /** The time until which an answer proves the lease, which ends with its invocation. */
  #provedUntil(sent: Reading, { remaining }: Grant): Reading {
    const proved = later(sent, remaining - remaining / rateMargin);
    return this.#invocationEnd && this.#invocationEnd.monotonic < proved.monotonic ? this.#invocationEnd : proved;
  }

  #left(): number {
    return left(this.#deadline, this.#core.clock());
  }

  /**
   * Ends when the lease is released (the reason is then a `LeaseReleasedError`), or is lost or can no longer be proved to be held (the reason is then
   * a `LeaseLostError`). Pass it to what the lock protects.
   */
  get signal(): AbortSignal {
    this.#ended();
    return this.#controller.signal;
  }

  /** Whether the lease is proved to be held. It reads the clock itself, so it is right even immediately after the process was paused. */
  get held(): boolean {
    return this.#ended() === undefined;
  }

  /** For how long the lease is still proved to be held unless it is renewed, in milliseconds; 0 after it has ended. */
  get remainingMs(): number {
    return this.held ? Math.max(this.#left(), 0) : 0;
  }

  /** The time until which the lease is proved to be held unless it is renewed: on the clock of `process.hrtime.bigint()`, in milliseconds. */
  get deadlineMs(): number {
    return this.#deadline.monotonic;
  }

  /**
   * The secret by which the coordinator knows the lease. A process that has it can renew and release the lease. Pass it only to a process that takes
   * the lease over (see `Client.adopt`), and keep it out of logs and command lines.
   */
  get secret(): string {
    return this.#secret;
  }

  /** Throws the reason of the lease's signal if the lease is not held any more. */
  throwIfEnded(): void {
    const reason = this.#ended();
    if (reason) throw reason;
  }

  /** Why the lease is not held; undefined while it is. It ends the signal of a lease that has expired. */
  #ended(): HoldfastError | undefined {
    const { signal } = this.#controller;
    if (!signal.aborted && this.#left() <= 0) this.#stop(this.#ranOut());
    return signal.aborted ? (signal.reason as HoldfastError) : undefined;
  }

  /** The loss of a lease that expired before a renewal succeeded. */
  #ranOut(): LeaseLostError {
    if (this.#deadline === this.#invocationEnd) return this.#lost("its invocation is over");
    if (this.#hold > 0) {
      const limit: Limit = {
        name: "max_hold_ms",
        value: this.#hold,
        prefix: "",
        detail: `a limit for locks below its prefix ended it ${this.#hold} ms after its grant; acquire the lock again`,
      };
      return this.#lost(limit.detail, { limit });
    }
    if (this.#renewalError === undefined) return this.#lost("its time ran out");
    return this.#lost(`it was not renewed in time: ${messageOf(this.#renewalError)}`, { cause: this.#renewalError });
  }

  #lost(why: string, options?: ErrorOptions & { limit?: Limit }): LeaseLostError {
    return new LeaseLostError(why, options).during("renew", this.name);
  }

  /** Ends the lease if it has expired, and otherwise sets the timer for the next check. */
  #watch(): void {
    if (!this.#ended()) this.#expiry.set(Math.min(this.#left(), watchEvery));
  }

  /** Ends the lease's signal. From then on the client considers it lost or released. */
  #stop(reason: HoldfastError): void {
    this.#expiry.clear();
    this.#next.clear();
    this.#core.leases.delete(this);
    this.#controller.abort(reason);
  }

  /**
   * Renews the lease: it then expires one TTL after the request. The client does this in the background at every heartbeat, unless
   * `AcquireOptions.manualRenew` is set. `metadata` replaces what others see while the lock is held. Rejects with a `LeaseLostError` if the lease has
   * ended, also while it waits for an answer, and with an `UnavailableError` if the coordinator did not answer; the lease is then held for
   * `remainingMs` as before.
   */
  async renew(options: { metadata?: object; ttlMs?: number; signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = this.#controller;
    try {
      const metadata = encodeMetadata(options.metadata);
      await within({ caller: options.signal, life: signal }, (scope) => this.#renew(scope, options.ttlMs ?? this.ttlMs, metadata));
    } catch (error) {
      throw during(signal.aborted && !(error instanceof LeaseLostError) ? new LeaseLostError("it has ended") : error, "renew", this.name);
    }
  }

  async #renew(scope: Scope, ttl: number, metadata?: object, failed?: (error: unknown) => void): Promise<void> {
    if (this.#ended()) throw new LeaseLostError("it has ended");
    let sent = this.#core.clock();
    let grant: Grant;
    try {
      grant = await this.#core.retry(scope, async () => {
        sent = this.#core.clock();
        try {
          return await this.#sendRenewal(scope, ttl, metadata);
        } catch (error) {
          failed?.(error);
          throw error;
        }
      });
    } catch (error) {
      this.#renewalError = error;
      if (error instanceof LeaseLostError && !this.#controller.signal.aborted) this.#stop(error.during("renew", this.name));
      throw error;
    }
    this.#renewalError = undefined;
    if (this.#ended()) throw new LeaseLostError("it expired before the answer arrived");
    const proved = this.#provedUntil(sent, grant);
    if (proved.monotonic > this.#deadline.monotonic) {
      // Answers may arrive out of order.
      this.#deadline = proved;
      this.#hold = grant.hold;
    }
  }

  /** Makes one try of a renewal. */
  async #sendRenewal(scope: Scope, ttl: number, metadata?: object): Promise<Grant> {
    const answer = await this.#core.send("renew", this.name, { lease: this.#secret, ttl_ms: ttl, metadata }, scope);
    const grant = readGrant(answer, this.name, this.#secret);
    // The lease had ended, the lock forgot it, and a copy of its acquire that came late got the lock again: others may have held it between.
    if (grant.fence > this.fence) throw new LeaseLostError("the lock was granted again since, with a higher fence");
    if (grant.fence < this.fence) throw notCoordinator(200, "an answer with a lower fence than this lease's");
    return grant;
  }

  /** Renews the lease in the background, and sets the timer for the next time: at the next heartbeat, or sooner after a failure. */
  #beat(): void {
    // A try that hangs leaves time for others.
    const ms = Math.max(Math.min(this.#heartbeat, this.#left() / 2), this.ttlMs / 12);
    const renewal = within({ caller: this.#controller.signal, ms }, (scope) => this.#renew(scope, this.ttlMs, undefined, (error) => this.#report(error))).then(
      () => {
        this.#report(undefined);
        return this.#heartbeat;
      },
      () => Math.min(this.#heartbeat, this.ttlMs / 12),
    );
    this.#renewal = this.#core.track(
      renewal.then((pause) => {
        if (!this.#controller.signal.aborted) this.#next.set(pause);
      }),
    );
  }

  /** Calls `AcquireOptions.onRenewal` when renewals begin to fail and when they succeed again. The lease's end is not reported. */
  #report(error: unknown): void {
    if (this.#controller.signal.aborted || error instanceof LeaseLostError || this.#failing === (error !== undefined)) return;
    this.#failing = error !== undefined;
    try {
      this.#options.onRenewal?.(error as Error | undefined);
    } catch (thrown) {
      queueMicrotask(() => {
        throw thrown; // an uncaught exception of its own, which does not end the renewals
      });
    }
  }

  /**
   * Releases the lock. The lease's signal ends before the request is sent. Rejects with a `LeaseLostError` if the lease had been lost before, and with
   * an `UnavailableError` if the coordinator did not answer. A second release has the result of the first. If the signal ends before there is an
   * answer, the request is sent once more in the background, for up to 5 s.
   *
   * Before `AcquireOptions.minHoldMs` has passed, it leaves the lock held. It makes sure that the lease lasts until then, with a renewal if necessary,
   * and the client releases the lock in the background at that time. Two cases have no background: after `Client.close` and in a Lambda invocation,
   * the lease instead expires by itself, when both the minimum and its TTL have passed. The same happens if the process ends before. If the renewal
   * fails or is given up, the promise rejects, no request to release the lock is sent, and the lease expires by itself.
   */
  release(options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.releaseOnce(options.signal, undefined);
  }

  /** @internal Is `release`, within `ms` milliseconds. After an error it tries again for as long as `more` returns true. */
  releaseOnce(signal: AbortSignal | undefined, ms: number | undefined, more?: (error: unknown) => boolean): Promise<void> {
    this.#released ??= this.#release(signal, ms, more);
    return this.#released;
  }

  /** @internal Ends the lease's signal as a release does, without a request. */
  abandon(): void {
    this.#stop(new LeaseReleasedError());
  }

  /** Releases the lock, at the end of the block of `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }

  async #release(signal: AbortSignal | undefined, ms: number | undefined, more?: (error: unknown) => boolean): Promise<void> {
    const was = this.#ended();
    this.#stop(new LeaseReleasedError());
    await this.#renewal;
    const now = this.#core.clock();
    const rest = Math.ceil((this.#options.minHoldMs ?? 0) - (now.monotonic - this.#granted.monotonic));
    const stays = was === undefined && rest > 0;
    const scope = new Scope({ caller: signal, ms });
    try {
      if (stays) return await this.#releaseLater(scope, rest);
      await this.#core.releaseSecret(scope, this.name, this.#secret, more);
    } catch (error) {
      if (was === undefined) {
        if (scope.ended && !stays && !this.#core.closed) await this.#core.forget(this.name, this.#secret, this.#options.invocation); // close ends with its signal
        throw during(error, "release", this.name);
      }
    } finally {
      scope.close();
    }
    // The request was sent so that others get the lock sooner.
    if (was !== undefined) throw new LeaseLostError(was.detail.replace(/^the lease is lost: /, ""), { cause: was }).during("release", this.name);
  }

  /** Keeps the lock held for `rest` milliseconds, and then releases it in the background. */
  async #releaseLater(scope: Scope, rest: number): Promise<void> {
    if (this.#left() < rest) await this.#core.retry(scope, () => this.#sendRenewal(scope, Math.max(rest + 1, leastTTL)));
    if (this.#core.closed || this.#options.invocation) return;
    const timer = new Timer(() => {
      life.removeEventListener("abort", stop);
      const release = within({ ms: lastRelease }, (last) => this.#core.releaseSecret(last, this.name, this.#secret));
      void this.#core.track(release.catch(() => undefined));
    }, false);
    const life = this.#core.life.signal;
    const stop = () => timer.clear();
    life.addEventListener("abort", stop, { once: true });
    timer.set(rest);
  }

  /**
   * Makes a reader's lease of a writer's (see `AcquireOptions.mode`): other readers are granted the lock now, and the lease goes on, with its fencing
   * token and its renewals. A reader cannot become a writer. Repeated, it changes nothing.
   */
  async downgrade(options: { signal?: AbortSignal } = {}): Promise<void> {
    try {
      this.throwIfEnded();
      await within({ caller: options.signal }, (scope) =>
        this.#core.retry(scope, async () => checkLock(await this.#core.send("release", this.name, { lease: this.#secret, mode: "read" }, scope), this.name)),
      );
      this.#core.wakeNext(this.name);
    } catch (error) {
      throw during(error, "release", this.name);
    }
  }

  /** Names the lock and the fencing token, and not the secret. */
  toString(): string {
    return `Lease of ${this.name}, fence ${this.fence}`;
  }

  toJSON(): unknown {
    return { name: this.name, fence: this.fence };
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
