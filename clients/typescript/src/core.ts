import { type Clock, jitter, newController, Scope, sleep, systemClock } from "./clock.js";
import { ClosedError, LeaseLostError, type Operation, RefusedError, UnavailableError } from "./errors.js";
import { HTTPTransport } from "./http.js";
import { budget, type Invocation, ownerOf } from "./invocation.js";
import type { Lease } from "./lease.js";
import { type ClientConfig, checkConfig, defaultOwner } from "./options.js";
import { notCoordinator, readAnswer, type Transport, type TransportResponse } from "./transport.js";

/** The time limit in milliseconds of a release in the background. */
const lastRelease = 5000;

/** The longest pause in milliseconds that an answer can ask for. */
const maxRetryAfter = 5000;

/** An acquire that pauses between two polls. */
export interface Waiter {
  ticket: number;
  /** Ends the pause. */
  wake: () => void;
}

/** What the client, its acquires and its leases share: requests and their retries, and what runs in the background. */
export class Core {
  readonly clock: Clock;
  readonly timeout: number; // ClientConfig.requestTimeoutMs
  readonly retries: number;
  readonly retryDelay: number; // ClientConfig.retryDelayMs
  readonly pollDelay: number; // the same for waiters
  readonly life = newController(); // ends when Client.close begins
  readonly leases = new Set<Lease>(); // those whose signals have not ended
  readonly waiting = new Map<string, Set<Waiter>>(); // by the lock's name
  readonly #work = new Set<Promise<unknown>>(); // acquires, and what runs in the background
  readonly #transport: Transport;
  readonly #owner: string | undefined;

  constructor(config: ClientConfig) {
    checkConfig(config);
    this.clock = config.clock ?? systemClock;
    this.timeout = config.requestTimeoutMs ?? 5000;
    this.retries = Math.floor(config.retries ?? 3);
    this.retryDelay = config.retryDelayMs ?? 1000;
    this.pollDelay = config.retryDelayMs ?? 2000;
    this.#owner = config.owner;
    this.#transport = config.transport ?? new HTTPTransport(config);
  }

  get closed(): boolean {
    return this.life.signal.aborted;
  }

  /** The owner of a lock that is acquired in an invocation, or outside of one. */
  owner(invocation: Invocation | undefined): string {
    return this.#owner || (invocation ? ownerOf(invocation) : defaultOwner());
  }

  /** Lets `Client.close` wait for the work. */
  track<T>(work: Promise<T>): Promise<T> {
    this.#work.add(work);
    const done = () => this.#work.delete(work);
    work.then(done, done);
    return work;
  }

  /** Waits until nothing runs in the background. */
  async idle(): Promise<void> {
    while (this.#work.size > 0) await Promise.allSettled(this.#work);
  }

  closeTransport(): void {
    this.#transport.close?.();
  }

  /** Makes one try of a request. */
  async send(operation: Operation, lock: string, fields: Record<string, unknown>, scope: Scope): Promise<Record<string, unknown>> {
    const one = new Scope({ caller: scope.signal, ms: this.timeout });
    let response: TransportResponse;
    try {
      // A transport may wait for what knows no signal, such as credentials.
      response = await Promise.race([this.#transport.send({ operation, lock, fields }, one.signal), ended(one.signal)]);
    } catch (error) {
      if (scope.ended === "caller") throw scope.signal.reason;
      if (scope.ended === "closed") throw new ClosedError();
      if (scope.ended === "time") throw new UnavailableError("it did not answer in time", { cause: error });
      if (one.ended) throw new UnavailableError(`it did not answer within ${this.timeout} ms`, { cause: error });
      if (error instanceof RefusedError) throw error;
      throw new UnavailableError((error as Error).message || String((error as { code?: unknown }).code ?? error), { cause: error });
    } finally {
      one.close();
    }
    return readAnswer(response, fields["lease"]);
  }

  /** Makes a request, up to `ClientConfig.retries` times again while it has no answer. */
  async retry<T>(scope: Scope, send: () => Promise<T>): Promise<T> {
    for (let n = 0; ; n++) {
      try {
        return await send();
      } catch (error) {
        if (!(error instanceof UnavailableError) || n >= this.retries || scope.ended) throw error;
        await sleep(this.backoff(n, error.afterMs), scope.signal);
        if (scope.ended === "caller") throw scope.signal.reason;
        if (scope.ended) throw error;
      }
    }
  }

  /**
   * The pause before another try, after n others: a tenth of `retryDelayMs`, doubled for each try up to `retryDelayMs`, at random from the upper
   * half of that range. It is at least `afterMs`, the time that the answer asked for, but not for that reason longer than five seconds.
   */
  backoff(n: number, afterMs: number): number {
    return Math.max(jitter(Math.min(this.retryDelay, (this.retryDelay / 10) * 2 ** n)), Math.min(afterMs, maxRetryAfter));
  }

  /**
   * Releases a lease that nobody uses, as far as the coordinator can be reached. It does so in the background, so that a caller who gives up is
   * not kept; in a Lambda invocation, where nothing runs after the handler, and on a closed client the promise waits for it.
   */
  async forget(lock: string, secret: string, invocation: Invocation | undefined): Promise<void> {
    const release = within({ ms: budget(invocation, lastRelease) }, (scope) => this.releaseSecret(scope, lock, secret)).catch(() => undefined);
    this.track(release);
    if (this.closed || invocation) await release;
  }

  /** Releases a lease. After an error it tries again for as long as `more` returns true. */
  async releaseSecret(scope: Scope, lock: string, secret: string, more: (error: unknown) => boolean = () => false): Promise<void> {
    let tries = 0;
    const send = async () => {
      tries++;
      const answer = await this.send("release", lock, { lease: secret }, scope);
      checkLock(answer, lock);
    };
    for (;;) {
      try {
        await this.retry(scope, send);
        break;
      } catch (error) {
        if (error instanceof LeaseLostError && tries > 1) return; // a retry: an earlier try released it
        if (!more(error)) throw error;
      }
    }
    this.wakeNext(lock);
  }

  /** Wakes this client's first waiter for a lock that it has released: the release may have granted the lock to it. */
  wakeNext(lock: string): void {
    let next: Waiter | undefined;
    for (const waiter of this.waiting.get(lock) ?? []) {
      if (waiter.ticket > 0 && (next === undefined || waiter.ticket < next.ticket)) next = waiter;
    }
    next?.wake();
  }
}

/** Throws if an answer is about another lock than the request. */
export function checkLock(answer: Record<string, unknown>, lock: string): void {
  if (answer["lock"] !== lock) throw notCoordinator(200, "an answer that is not about this lock");
}

/** Runs work in a scope of its own, and throws the signal's reason if that has ended before. */
export async function within<T>(from: { caller?: AbortSignal | undefined; life?: AbortSignal; ms?: number }, work: (scope: Scope) => Promise<T>): Promise<T> {
  const scope = new Scope(from);
  try {
    if (scope.ended) throw scope.signal.reason;
    return await work(scope);
  } finally {
    scope.close();
  }
}

function ended(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
