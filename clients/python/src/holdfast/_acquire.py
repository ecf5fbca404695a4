"""One acquire, from its first request to its lease or its error."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _clock, _wire
from ._errors import AcquireCancelled, Holder, HoldfastError, LeaseLost, LockHeld, Refused, Unavailable, _Aborted

if TYPE_CHECKING:
    from ._core import Core
    from ._lease import CoreLease
    from ._options import Invocation, Options
    from .transport import Request

KEEP_PLACE = 20.0  # for how long the coordinator keeps a place in the queue after a poll, in seconds


def new_secret() -> str:
    """Return the secret of a new lease: 128 bits from the system, as `secrets` has them, whose import is longer than that of this module."""
    return os.urandom(16).hex()


class Cancellation:
    """Ends acquires of a Client from another thread: pass it to `acquire`, and call `cancel`. With AsyncClient cancel the task instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._acquisitions: list[Acquisition] = []

    def cancel(self) -> None:
        """End the acquires that were given this object, now and later, with AcquireCancelled."""
        with self._lock:
            self._cancelled, running = True, list(self._acquisitions)
        for a in running:
            a.stop(AcquireCancelled())

    def _add(self, a: Acquisition) -> None:
        with self._lock:
            self._acquisitions.append(a)
            if self._cancelled:
                a.stop(AcquireCancelled())

    def _remove(self, a: Acquisition) -> None:
        with self._lock:
            self._acquisitions.remove(a)


class Pace:
    """Chooses a waiter's pauses between its polls: see lockclient/pace.go.

    The first waiter polls every `delay`. One behind it polls once early, and then less often, the farther the more, but at least four times in the
    time for which its place is kept. If the queue moves, the pause is at most half of the time until the waiter's turn. The first pauses are 1/64
    and 1/8 of the delay, since many leases are short.
    """

    def __init__(self, delay: float, place: float) -> None:
        self.delay, self.place = delay, place
        self.polls = self.first = self.last = 0
        self.since = 0.0

    def next(self, held: LockHeld) -> float:
        """Return the pause after an answer that the lock is held, in seconds, for a waiter in the queue."""
        now = time.monotonic()
        if self.first == 0:
            self.since, self.first, self.last = now, held.position, held.position
        if held.position == 1 and self.last > 1:  # the lock has just changed hands
            self.polls = 0
        self.last = held.position
        part = (64, 8, 1)[min(self.polls, 2)]
        pause = self.delay / part
        if held.position > 1 and self.polls == 0:
            pause *= 2
        elif held.position > 1:
            pause = min(pause * held.position, self.place / 4)
        self.polls += 1
        moved = self.first - held.position
        if moved > 0:
            turn = (now - self.since) / moved * held.position
            pause = min(pause, max(turn / 2, self.delay / 64))
        pause -= _clock.chance(pause / 5)
        if held.position == 1:  # a holder that died does not release
            pause = min(pause, held.retry_after + _clock.chance(0.05))
        return pause


@dataclass(eq=False)
class Acquisition:
    """One call of acquire.

    All its requests carry the same secret, so the coordinator answers a retry with the grant whose answer was lost. Only after an answer that the
    secret's lease has ended does the acquisition take a new one.
    """

    core: Core
    name: str
    options: Options
    invocation: Invocation | None = None
    waits: bool = True
    fields: dict[str, Any] = field(default_factory=dict)
    secret: str = field(default="", repr=False)
    pace: Pace = field(default_factory=lambda: Pace(1, 1))
    wake: Any = None  # set when the client has released the lock, or when the acquisition has to end
    ticket: int = 0
    unsure: bool = False  # there may be a grant, or a place in the queue, that has to be released when giving up
    failures: int = 0  # tries without an answer since the last answer
    tries: int = 0
    until: float | None = None  # the end of the wait, on the monotonic clock
    owners: dict[int, str] = field(default_factory=dict)  # of the holders of the last answer, by fencing token
    stopped: HoldfastError | None = None  # why it has to end
    request: Request | None = None  # in progress

    def stop(self, cause: HoldfastError) -> None:
        """End the acquisition, from another thread or task."""
        if self.stopped is None:
            self.stopped = cause
        self.wake.set()
        request = self.request
        if request is not None:
            request.abort()

    def prepare(self) -> None:
        """Check the options, and make the request."""
        o = self.options
        _wire.check_name(self.name)
        self.waits = o.wait is None or o.wait > 0
        self.secret = new_secret()
        given = {
            "owner": o.owner or self.core.owner_in(self.invocation),
            "ttl_ms": round(o.ttl * 1000) if o.ttl is not None else 0,
            "metadata": o.metadata,
            "capacity": o.capacity,
            "permits": o.permits,
            "mode": o.mode,
        }
        self.fields = {k: v for k, v in given.items() if v}
        if self.waits:
            place = min(max(KEEP_PLACE, 3 * self.core.poll_delay), _wire.MAX_WAIT)
            self.fields["wait_ms"] = round(place * 1000)
            self.pace = Pace(self.core.poll_delay, place)
            if o.wait is not None:
                self.until = time.monotonic() + o.wait

    async def run(self) -> CoreLease:
        """Try until there is a grant, or an error that ends the acquisition."""
        self.prepare()
        self.core.enter(self)
        cancellation = self.options.cancellation
        try:
            if cancellation is not None:
                cancellation._add(self)
            return await self.loop()
        except BaseException:
            if self.unsure:
                await self.core.forget(self.name, self.secret, self.invocation)
            raise
        finally:
            if cancellation is not None:
                cancellation._remove(self)
            self.core.leave(self)

    async def loop(self) -> CoreLease:
        last: HoldfastError | None = None
        while True:
            if self.stopped is not None:
                raise self.stopped
            if self.left() <= 0:
                raise self.timed_out(last)
            try:
                return await self.send()
            except _Aborted:
                if self.stopped is not None:
                    raise self.stopped from None
                raise self.timed_out(last) from None
            except HoldfastError as error:
                if isinstance(error, Unavailable) and self.left() <= 0 and last is not None:
                    raise self.timed_out(last) from None
                pause = self.after(error)
                if pause is None:
                    raise
                last = error
            await self.rest(pause)

    def left(self) -> float:
        """Return the seconds until the end of the wait."""
        return float("inf") if self.until is None else self.until - time.monotonic()

    def timed_out(self, last: HoldfastError | None) -> HoldfastError:
        """Return the error of a wait that is over: that of the last try that had an answer."""
        if isinstance(last, LockHeld):
            last.timed_out = True
        return last or Unavailable("it did not answer in time")

    async def rest(self, pause: float) -> None:
        await self.core.io.pause(min(pause, max(self.left(), 0.0)), self.wake)
        if self.stopped is None:
            self.wake.clear()

    async def send(self) -> CoreLease:
        """Send the request once."""
        fields = {"lease": self.secret, **self.fields}
        if self.ticket:
            fields["ticket"] = self.ticket
        if self.invocation is not None and self.options.ttl is None:  # its remaining time has become shorter
            fields["ttl_ms"] = round(self.invocation.ttl() * 1000)
        sent = _clock.now()
        self.tries += 1
        was, self.unsure = self.unsure, True  # until there is an answer
        try:
            body = await self.core.send("acquire", self.name, fields, min(self.core.timeout, max(self.left(), 0.001)), self.keep_request)
        except (LockHeld, LeaseLost, Refused):
            self.unsure = was
            raise
        finally:
            self.request = None
        grant = _wire.grant(body, self.name, self.secret)
        lease = self.core.keep(self.name, self.secret, self.options, sent, grant, self.invocation)
        self.unsure = False
        return lease

    def keep_request(self, request: Request) -> None:
        self.request = request
        if self.stopped is not None:
            request.abort()

    def after(self, error: HoldfastError) -> float | None:
        """Return the pause before another try, in seconds; None if there is none."""
        core = self.core
        if isinstance(error, LockHeld):
            self.failures = 0
            error.holders = self.named(error.holders)
            self.unsure = self.unsure or error.position > 0
            self.ticket = error._ticket
            if not self.waits:
                return None
            if self.options.on_wait is not None:
                self.options.on_wait(error)
            if error.position == 0:  # the queue is full
                return min(core.backoff(self.tries - 1), error.retry_after + _clock.chance(0.05))
            return self.pace.next(error)
        if isinstance(error, Unavailable):
            if not self.may_fail():
                return None
            if self.options.on_unavailable is not None:
                self.options.on_unavailable(error)
            return core.backoff(self.failures - 1, error.retry_after)
        if isinstance(error, LeaseLost):  # the lease was granted, and ended before its answer arrived
            self.secret, self.ticket, self.unsure = new_secret(), 0, False
            return core.backoff(self.failures - 1) if self.may_fail() else None
        if isinstance(error, Refused) and self.waits and (error.code == "lock_full" or (error.code == "capacity_mismatch" and not self.options.mode)):
            self.failures = 0  # they pass when others release the lock
            return core.backoff(self.tries - 1)
        return None

    def named(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """Add the owners that an earlier answer named: the answer to a poll names none of the holders of a semaphore."""
        out = []
        for h in holders:
            if not h.owner and self.owners.get(h.fence):
                h = Holder(self.owners[h.fence], h.fence, h.expires_at, h.remaining)
            out.append(h)
        self.owners = {h.fence: h.owner for h in out}
        return tuple(out)

    def may_fail(self) -> bool:
        """Count a try that led to nothing, and report whether another may follow. A wait is limited by its time only."""
        self.failures += 1
        return self.waits or self.failures <= self.core.retries
