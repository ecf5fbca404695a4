import { acquire } from "./acquisition.js";
import type { Scope } from "./clock.js";
import { Core, checkLock, within } from "./core.js";
import { CloseError, during, LeaseLostError, type Operation, UnavailableError } from "./errors.js";
import { budget } from "./invocation.js";
import { type Grant, Lease, readGrant } from "./lease.js";
import { checkName, checkSecret } from "./names.js";
import { type AcquireOptions, type AdoptOptions, type ClientConfig, checkOptions, encodeMetadata } from "./options.js";
import { holdersOf, type Status, type StatusHolder, statusOf } from "./status.js";
import { notCoordinator } from "./transport.js";

/** How many releases `Client.close` makes at a time. */
const closers = 32;

/** Acquires locks. One client serves a whole process; in a Lambda function make it outside the handler. */
export class Client implements AsyncDisposable {
  readonly #core: Core;

  /** Sends no request. Throws a `TypeError` that names the field of the configuration that is wrong. */
  constructor(config: ClientConfig) {
    this.#core = new Core(config);
  }

  /**
   * Acquires the lock. While others hold it, waits in the lock's queue until `options.signal` ends or `options.waitMs` has passed. The coordinator
   * grants the lock in the order of the queue. A waiter keeps its place by repeating its request; if it gives up, it leaves the queue. Locks are not
   * reentrant: a second acquire of a lock that the same process holds waits as any other does.
   *
   * Rejects with a `LockHeldError` if others still held the lock at the last answer; with an `UnavailableError` if the coordinator did not answer
   * until the end of the wait (it is retried until then); with a `RefusedError` if no retry can help; with the reason of `options.signal`. A lock that
   * is in use with another capacity, or whose record is full, is waited for too. A grant whose answer was lost is released in the background as far
   * as the coordinator can be reached; otherwise it expires.
   */
  acquire(name: string, options: AcquireOptions = {}): Promise<Lease> {
    return acquire(this.#core, name, options, true);
  }

  /**
   * Acquires the lock if it is free now, and otherwise rejects with a `LockHeldError`. It does not join the queue, and ignores `options.waitMs`. It
   * retries a request without an answer `ClientConfig.retries` times; then it rejects with an `UnavailableError`.
   */
  tryAcquire(name: string, options: AcquireOptions = {}): Promise<Lease> {
    return acquire(this.#core, name, options, false);
  }

  /**
   * Acquires the lock as `acquire` does, runs `work`, releases the lock, and returns what `work` returned. `lease.signal` ends when the lease is lost.
   * An error of `work` is passed on as it is, whatever the release led to. Otherwise it rejects with the error of the release if that failed: a
   * `LeaseLostError` if the lease was lost. If the lock was not acquired, `work` does not run.
   */
  withLock<T>(name: string, work: (lease: Lease) => T | Promise<T>): Promise<T>;
  withLock<T>(name: string, options: AcquireOptions, work: (lease: Lease) => T | Promise<T>): Promise<T>;
  async withLock<T>(name: string, ...rest: [(lease: Lease) => T | Promise<T>] | [AcquireOptions, (lease: Lease) => T | Promise<T>]): Promise<T> {
    const [options, work] = rest.length === 1 ? [{}, rest[0]] : rest;
    const lease = await this.acquire(name, options);
    let result: T;
    try {
      result = await work(lease);
    } catch (error) {
      await this.releaseAfter(lease, options).catch(() => undefined);
      throw error;
    }
    await this.releaseAfter(lease, options);
    return result;
  }

  /** @internal Releases a lease after the work under it, within the time that is left for that. */
  releaseAfter(lease: Lease, options: AcquireOptions): Promise<void> {
    return lease.releaseOnce(undefined, budget(options.invocation, 2 * this.#core.timeout));
  }

  /**
   * Makes a `Lease` of a lease that another process acquired and handed over by its secret. It renews the lease at once, by `options.ttlMs` or else by
   * the lease's TTL, and renews it in the background from then on. Rejects with a `LeaseLostError` if the lease has ended. Two processes that have the
   * same lease hold it together: each learns only at its next renewal that the other released it.
   */
  adopt(name: string, secret: string, options: AdoptOptions = {}): Promise<Lease> {
    return this.#run("renew", name, options.signal, async (scope) => {
      checkSecret(secret);
      checkOptions(options);
      const fields = { lease: secret, ttl_ms: options.ttlMs, metadata: encodeMetadata(options.metadata) };
      let sent = this.#core.clock();
      const grant: Grant = await this.#core.retry(scope, async () => {
        sent = this.#core.clock();
        return readGrant(await this.#core.send("renew", name, fields, scope), name, secret);
      });
      return new Lease(this.#core, name, secret, { ...options }, sent, grant);
    });
  }

  /**
   * Releases a lease by its secret, for a process that has no `Lease` of it. A repetition succeeds while the coordinator remembers the lease. Rejects
   * with a `LeaseLostError` if the lease ended otherwise.
   */
  release(name: string, secret: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    return this.#run("release", name, options.signal, (scope) => {
      checkSecret(secret);
      return this.#core.releaseSecret(scope, name, secret);
    });
  }

  /** Reads a lock, and with `options.waiters` also so many waiters from the first in the queue on (1 to 100). A lock that was never acquired is a free lock. */
  status(name: string, options: { waiters?: number; signal?: AbortSignal } = {}): Promise<Status> {
    return this.#run("status", name, options.signal, async (scope) => {
      const answer = await this.#core.retry(scope, () => this.#core.send("status", name, { waiters: options.waiters }, scope));
      checkLock(answer, name);
      return statusOf(answer);
    });
  }

  /**
   * Ends leases of a lock without their holders' consent: all of them, or only the one with the fencing token `options.fence`. It is for an operator
   * who knows that the holder is dead. The coordinator records the reason (1 to 512 bytes) and the caller. Returns the leases that it ended; none if
   * the lock was free. If no live lease has the fencing token, it rejects with a `RefusedError` with the code lock_changed.
   */
  forceRelease(name: string, reason: string, options: { fence?: number; signal?: AbortSignal } = {}): Promise<StatusHolder[]> {
    return this.#run("force-release", name, options.signal, async (scope) => {
      const answer = await this.#core.retry(scope, () => this.#core.send("force-release", name, { reason, fence: options.fence }, scope));
      checkLock(answer, name);
      return holdersOf(answer["released"]);
    });
  }

  /**
   * Reads the locks whose names begin with `prefix` and that somebody holds; with `all` also those that nobody holds, as long as the coordinator
   * remembers them. It reads pages of 100 as they are needed. Without a prefix it reads the whole table: it is meant for people, and not for frequent
   * use by programs.
   */
  async *list(prefix = "", options: { all?: boolean; signal?: AbortSignal } = {}): AsyncGenerator<Status, void, undefined> {
    const fields: Record<string, unknown> = { ...(prefix && { prefix }), limit: 100, state: options.all ? "all" : "held" };
    do {
      const page = await this.#run("list", prefix, options.signal, async (scope) => {
        const answer = await this.#core.retry(scope, () => this.#core.send("list", "", fields, scope));
        if (!Array.isArray(answer["locks"])) throw notCoordinator(200, "an answer that is no list of locks");
        return answer;
      });
      for (const lock of page["locks"] as unknown[]) yield statusOf(lock);
      fields["cursor"] = page["next_cursor"];
    } while (fields["cursor"]);
  }

  async #run<T>(operation: Operation, name: string, signal: AbortSignal | undefined, work: (scope: Scope) => Promise<T>): Promise<T> {
    try {
      if (operation !== "list") checkName(name);
      return await within({ caller: signal }, work);
    } catch (error) {
      throw during(error, operation, name);
    }
  }

  /**
   * Closes the client. It ends acquires in progress, which reject with a `ClosedError`, releases every lease that the client holds, and waits until
   * nothing of the client runs in the background. `status` works afterwards.
   *
   * It continues after a failed release, and retries while the coordinator throttles it. It gives up when all tries of a release had no answer and no
   * other release had one meanwhile. Then it rejects with a `CloseError`; the leases that it could not release expire by themselves, as do those that
   * were released before their `AcquireOptions.minHoldMs` had passed. If `options.signal` ends, it rejects with the signal's reason.
   */
  async close(options: { signal?: AbortSignal } = {}): Promise<void> {
    const core = this.#core;
    const held = [...core.leases].sort((a, b) => a.fence - b.fence); // oldest grant first
    core.life.abort();
    await within({ caller: options.signal }, async (scope) => {
      const total = held.length;
      const errors = await this.#releaseAll(held, scope);
      await Promise.race([core.idle(), new Promise<void>((resolve) => scope.signal.addEventListener("abort", () => resolve()))]);
      core.closeTransport();
      if (scope.ended) throw scope.signal.reason;
      const left = errors.filter((error) => !(error instanceof LeaseLostError)).length;
      if (errors.length > 0) throw new CloseError(left, total, errors);
    });
  }

  async #releaseAll(held: Lease[], scope: Scope): Promise<Error[]> {
    const errors: Error[] = [];
    let answers = 0; // the number of releases that had an answer
    let away = false; // the coordinator does not answer, so close gives up
    const release = async (lease: Lease): Promise<void> => {
      let before = answers;
      const more = (error: unknown) => {
        const progress = answers > before;
        before = answers;
        return error instanceof UnavailableError && error.throttled && progress && !scope.ended;
      };
      try {
        await lease.releaseOnce(scope.signal, undefined, more);
        answers++;
      } catch (error) {
        errors.push(error as Error);
        if (!(error instanceof UnavailableError)) answers++;
        else if (answers === before) away = true;
      }
    };
    const worker = async () => {
      for (let lease = held.shift(); lease; lease = held.shift()) {
        if (away) {
          lease.abandon();
          errors.push(new UnavailableError("the coordinator did not answer the releases before").during("release", lease.name));
        } else {
          await release(lease);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(closers, held.length) }, worker));
    return errors;
  }

  /** Closes the client, at the end of the block of `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
