import type { LockHeldError } from "./errors.js";

// A waiter's first pauses are 1/64 and 1/8 of a poll delay, since many leases are short; later ones are the whole.
const firstPause = 64;
const pauseGrowth = 8;
/** How many polls a waiter behind the first makes, at least, in the time for which its place is kept. */
const farPauses = 4;
/** The time in milliseconds after a lease's expiry over which first waiters spread their requests. */
export const herdSpread = 50;

/**
 * Chooses a waiter's pauses between its polls. The first waiter in the queue polls every `retryDelayMs`. One behind it polls once early, to see
 * whether the queue moves, and then less often, the farther the more: its pause is that of the first waiter times its position, and at most a
 * quarter of the time for which its place is kept. A queue that moves is followed: the pause is then at most half of the time until the
 * waiter's turn, as the queue has moved so far.
 */
export class Pace {
  #polls = 0; // so far; those as the first waiter are counted anew
  #since = 0; // when the first position was seen
  #first = 0; // the first position that was seen
  #last = 0;

  constructor(
    private readonly delay: number, // ClientConfig.retryDelayMs
    private readonly place: number, // for how long the place is kept after a poll
  ) {}

  /** The pause in milliseconds after an answer that the lock is held, for a waiter in the queue. `now` is on the monotonic clock. */
  next(now: number, held: LockHeldError): number {
    const { position } = held;
    if (this.#first === 0) {
      this.#since = now;
      this.#first = this.#last = position;
    }
    if (position === 1 && this.#last > 1) this.#polls = 0; // the lock has just changed hands
    this.#last = position;
    let pause = this.delay / Math.max(firstPause / pauseGrowth ** this.#polls, 1);
    if (position > 1) pause = this.#polls === 0 ? pause * 2 : Math.min(pause * position, this.place / farPauses);
    this.#polls++;
    const moved = this.#first - position;
    if (moved > 0) {
      const turn = ((now - this.#since) / moved) * position;
      pause = Math.min(pause, Math.max(turn / 2, this.delay / firstPause));
    }
    pause -= Math.random() * (pause / 5);
    // A holder that died does not release; the waiters behind the first follow it.
    return position === 1 ? Math.min(pause, held.retryAfterMs + Math.random() * herdSpread) : pause;
  }
}
