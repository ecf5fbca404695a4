"""What Lease and AsyncLease share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

from . import _clock
from ._errors import HoldfastError, LeaseLost, LeaseReleased
from ._options import RATE_MARGIN, Options

if TYPE_CHECKING:
    from ._core import Core
    from ._wire import Grant
    from .transport import Request

# The longest time between two checks of a lease's clocks, in seconds: timers run on the monotonic clock, which may have stood still.
WATCH_EVERY = 1.0


class CoreLease:
    """A lock that this process holds: what Lease and AsyncLease share. It is safe for use by several threads."""

    def __init__(self, core: Core, name: str, secret: str, options: Options, sent: _clock.Reading, grant: Grant) -> None:
        self._core = core
        self._name, self._secret, self._fence, self._ttl, self._waited = name, secret, grant.fence, grant.ttl, grant.waited
        beat = options.heartbeat or grant.ttl / 3
        self._heartbeat = beat if beat < grant.ttl else grant.ttl / 3  # an adopted lease may have a shorter TTL
        self._min_hold = options.min_hold
        self._on_renewal, self._on_lost = options.on_renewal, options.on_lost
        self._acquired = _clock.now()
        self._deadline, self._hold = proved_until(sent, grant), grant.hold
        self._mutex = threading.Lock()
        self._cause: LeaseLost | LeaseReleased | None = None  # why the lease has ended
        self._renew_error: HoldfastError | None = None  # of the last renewal; None if it succeeded
        self._over = core.io.flag()  # set when the lease has ended
        self._releasing = core.io.lock()
        self._renewing: Any = None  # the background work of its renewals
        self._renewal: Request | None = None  # the one in progress
        self._interrupts: list[Callable[[LeaseLost], object]] = []
        self._result: tuple[HoldfastError | None] | None = None  # of the first release
        self._pid = os.getpid()

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._name

    @property
    def fence(self) -> int:
        """The fencing token of the grant. It is higher than that of every earlier grant of the lock, and below 2**53."""
        return self._fence

    @property
    def waited(self) -> float:
        """For how many seconds the lease's place was in the queue before the grant, by the coordinator's clock."""
        return self._waited

    @property
    def secret(self) -> str:
        """The secret by which the coordinator knows the lease. Whoever has it can renew and release the lease: keep it out of logs."""
        return self._secret

    @property
    def deadline(self) -> float:
        """The time.monotonic() until which the lease is proved to be held, unless it is renewed."""
        return self._deadline.monotonic

    @property
    def remaining(self) -> float:
        """For how many seconds the lease is still proved to be held, unless it is renewed. It is 0 after the lease has ended."""
        return max(self._deadline.left(), 0.0) if self.held else 0.0

    @property
    def held(self) -> bool:
        """Whether the lease is proved to be held, now. It reads the clock, so it is right even immediately after the process was paused."""
        return self.error is None

    @property
    def error(self) -> LeaseLost | LeaseReleased | None:
        """Why the lease has ended; None while it is held."""
        if self._cause is not None:
            return self._cause
        if self._pid != os.getpid():
            return self._loss(LeaseLost("it belongs to the process that forked this one"))
        return self._ran_out() if self._deadline.left() <= 0 else None

    def check(self) -> None:
        """Raise LeaseLost if the lease is not proved to be held, or another error if it was released."""
        error = self.error
        if error is not None:
            raise copy(error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} fence={self._fence} {'held' if self.held else 'over'}>"

    def _loss(self, error: LeaseLost) -> LeaseLost:
        error._of("renew", self._name)
        return error

    def _ran_out(self) -> LeaseLost:
        if self._hold:
            return self._loss(LeaseLost(f"a limit for locks below its prefix ended it {self._hold:g} s after its grant; acquire the lock again"))
        if self._renew_error is not None:
            return self._loss(LeaseLost(f"not renewed in time: {self._renew_error._text()}"))
        return self._loss(LeaseLost("its time ran out"))

    def _rest(self) -> float:
        """Return for how many seconds the lock has to stay held, by min_hold."""
        return self._min_hold - self._acquired.passed()

    def _end(self, cause: LeaseLost | LeaseReleased) -> None:
        """End the lease. From now on the client considers it lost or released. The first cause counts."""
        with self._mutex:
            if self._cause is not None:
                return
            self._cause = cause
            interrupts, self._interrupts = self._interrupts, []
            renewal = self._renewal
        self._core.io.unwatch(self)
        self._core.leases.discard(self)
        self._over.set()
        if renewal is not None:
            renewal.abort()
        if isinstance(cause, LeaseReleased):
            return
        for interrupt in interrupts:
            self._core.call(interrupt, cause)
        if self._on_lost is not None:
            self._core.call(self._on_lost, cause)

    def _watch(self) -> float:
        """End the lease if its time is over. Return the seconds until the next check."""
        left = self._deadline.left()
        if left <= 0:
            self._end(self._ran_out())
        return min(left, WATCH_EVERY)

    def _on_loss(self, interrupt: Callable[[LeaseLost], object]) -> None:
        """Have interrupt called when the lease is lost, or now if it has been."""
        with self._mutex:
            if self._cause is None:
                self._interrupts.append(interrupt)
                return
            cause = self._cause
        if isinstance(cause, LeaseLost):
            interrupt(cause)


def proved_until(sent: _clock.Reading, grant: Grant) -> _clock.Reading:
    """Return the time until which an answer proves the lease, for a request that was sent at sent."""
    return sent + (grant.remaining - grant.remaining / RATE_MARGIN)
