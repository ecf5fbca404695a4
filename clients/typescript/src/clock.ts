import { setMaxListeners } from "node:events";
import { uptime } from "node:os";

/**
 * A time on two clocks, in milliseconds: the monotonic clock, which stands still while a machine is suspended, and the time since the machine
 * was started, which does not. Neither is changed when the machine's date is set. A lease has expired as soon as either clock says so.
 */
export interface Reading {
  monotonic: number;
  /** The same as `monotonic` where the system has no such clock. */
  uptime: number;
}

export type Clock = () => Reading;

/** What `uptime` may lag behind: Linux rounds it down to 10 ms. */
const uptimeStep = 10;

/** The clocks of this machine. Only Linux has the second with a step of less than a second. */
export const systemClock: Clock =
  process.platform === "linux"
    ? () => ({ monotonic: monotonicNow(), uptime: uptime() * 1000 })
    : () => {
        const now = monotonicNow();
        return { monotonic: now, uptime: now };
      };

/** CLOCK_MONOTONIC, the clock of `process.hrtime`, in milliseconds. */
export function monotonicNow(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

export function later(r: Reading, ms: number): Reading {
  return { monotonic: r.monotonic + ms, uptime: r.uptime + ms };
}

/** The time from `now` until `deadline`, by the clock that says less. */
export function left(deadline: Reading, now: Reading): number {
  return Math.min(deadline.monotonic - now.monotonic, deadline.uptime - now.uptime + uptimeStep);
}

/** The longest time that setTimeout takes; a longer one would end at once. */
const maxTimeout = 2 ** 31 - 1;

/** Calls `done` after `ms` milliseconds. It keeps the process alive if `ref` is true. */
export class Timer {
  #timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly done: () => void,
    private readonly ref: boolean,
  ) {}

  /** Starts the timer anew. */
  set(ms: number): void {
    this.clear();
    const part = Math.min(Math.max(ms, 0), maxTimeout);
    this.#timer = setTimeout(() => (ms > part ? this.set(ms - part) : this.done()), part);
    if (!this.ref) this.#timer.unref();
  }

  clear(): void {
    clearTimeout(this.#timer);
  }
}

/** A controller whose signal may have any number of listeners without a warning. */
export function newController(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}

/** Why the work of a {@link Scope} ended: the signal of its caller, its client was closed, or its time is over. */
export type End = "caller" | "closed" | "time";

/** A signal that ends with its caller's, with its client's life, or after a time, whichever is first. It must be closed, which removes its listeners. */
export class Scope {
  readonly #controller = newController();
  readonly #undo: (() => void)[] = [];
  /** Why it ended; undefined while it has not. */
  ended: End | undefined;

  constructor(from: { caller?: AbortSignal | undefined; life?: AbortSignal | undefined; ms?: number | undefined }) {
    this.#follow(from.caller, "caller");
    this.#follow(from.life, "closed");
    if (from.ms !== undefined && this.ended === undefined) {
      const timer = new Timer(() => this.#end("time", undefined), true);
      timer.set(from.ms);
      this.#undo.push(() => timer.clear());
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  #follow(signal: AbortSignal | undefined, end: End): void {
    if (!signal || this.ended !== undefined) return;
    if (signal.aborted) {
      this.#end(end, signal.reason);
      return;
    }
    const listener = () => this.#end(end, signal.reason);
    signal.addEventListener("abort", listener, { once: true });
    this.#undo.push(() => signal.removeEventListener("abort", listener));
  }

  #end(end: End, reason: unknown): void {
    this.ended ??= end;
    this.close();
    this.#controller.abort(reason);
  }

  close(): void {
    for (const undo of this.#undo.splice(0)) undo();
  }
}

/** Waits for `ms` milliseconds, or less if the signal ends or `wake` is called with the function that ends the wait. */
export function sleep(ms: number, signal: AbortSignal, wake?: (end: () => void) => void): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      timer.clear();
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = new Timer(end, true);
    timer.set(ms);
    signal.addEventListener("abort", end, { once: true });
    wake?.(end);
  });
}

/** A random number from half of `ms` to `ms`. */
export function jitter(ms: number): number {
  return ms / 2 + (Math.random() * ms) / 2;
}
