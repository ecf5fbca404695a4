"""How a lock is acquired: the options, and the Lambda invocation in which they are used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from . import _wire
from ._errors import HoldfastError, LeaseLost, LockHeld, Unavailable
from ._wire import invalid
from .transport import encode

if TYPE_CHECKING:
    from ._acquire import Cancellation

# The divisor of the margin that is subtracted from a lease's life, for the difference in rate between this clock and the coordinator's:
# twice the 500 ppm by which NTP may slew a clock.
RATE_MARGIN = 1000

Seconds = float | timedelta


class AcquireOptions(TypedDict, total=False):
    """The options of acquire, all by keyword. Times are in seconds, or timedeltas."""

    ttl: Seconds | None
    """From a grant or renewal to the lease's expiry: from 1 s to the maximum of the deployment, 24 h by default. None: 60 s, or less where a limit says
    so; under `exclusive` in a Lambda invocation, the rest of the invocation and about a second, without renewals."""
    wait: Seconds | None
    """For how long to wait while others hold the lock; 0 asks once, and does not join the queue. None: as long as it takes."""
    heartbeat: Seconds | None
    """The interval between renewals in the background, less than the TTL. None: a third of the TTL."""
    manual_renew: bool
    """Nothing is renewed in the background: call `renew`."""
    min_hold: Seconds
    """The least time for which the lock stays held after the grant, even if the lease is released sooner. See `release`."""
    owner: str
    """The name that others see, at most 256 bytes. Empty: that of the client."""
    metadata: dict[str, Any] | None
    """Shown to others while the lock is held: at most 2,048 bytes as a JSON object."""
    capacity: int
    """With permits, makes the lock a semaphore: the lease takes `permits` of `capacity`, from 1 to 100. All holders must give the same capacity."""
    permits: int
    mode: str
    """"read" or "write", instead of capacity and permits: readers share the lock, and a writer has it alone."""
    on_wait: Callable[[LockHeld], object] | None
    """Called before each pause of a wait, with the holders and the place in the queue."""
    on_unavailable: Callable[[Unavailable], object] | None
    """Called before an acquire is retried because the last try had no answer."""
    on_renewal: Callable[[HoldfastError | None, float], object] | None
    """Called with an error when renewals in the background begin to fail, and with None when they succeed again; the second argument is the
    time.monotonic() until which the lease is proved to be held nevertheless."""
    on_lost: Callable[[LeaseLost], object] | None
    """Called once when the lease is lost, and not when it is released: by a thread of the client's, or with AsyncClient by the event loop."""
    cancellation: Cancellation | None
    """Ends the acquire from another thread."""


@dataclass
class Options:
    """The AcquireOptions of one acquire, with times in seconds."""

    ttl: float | None = None
    wait: float | None = None
    heartbeat: float | None = None
    manual_renew: bool = False
    min_hold: float = 0.0
    owner: str = ""
    metadata: dict[str, Any] | None = None
    capacity: int = 0
    permits: int = 0
    mode: str = ""
    on_wait: Callable[[LockHeld], object] | None = None
    on_unavailable: Callable[[Unavailable], object] | None = None
    on_renewal: Callable[[HoldfastError | None, float], object] | None = None
    on_lost: Callable[[LeaseLost], object] | None = None
    cancellation: Cancellation | None = None

    @staticmethod
    def of(given: AcquireOptions) -> Options:
        """Return the options as an acquire needs them. It raises Refused, which names the one that is wrong and says how to correct it."""
        fields: dict[str, Any] = dict(given)
        for name in ("ttl", "wait", "heartbeat", "min_hold"):
            if fields.get(name) is not None:
                fields[name] = seconds(name, fields[name])
        options = Options(**fields)
        options.check()
        return options

    def check(self) -> None:
        """Raise Refused if an option is wrong."""
        ttl = _wire.DEFAULT_TTL if self.ttl is None else self.ttl
        if not 0.001 <= ttl <= _wire.MAX_TTL:  # the coordinator checks the minimum
            raise invalid("ttl", f"ttl is {ttl:g} s; give {_wire.MIN_TTL:g} to {_wire.MAX_TTL:g} s, or None for {_wire.DEFAULT_TTL:g} s")
        if self.heartbeat is not None and not 0 < self.heartbeat < ttl:
            raise invalid("heartbeat", f"heartbeat is {self.heartbeat:g} s; give less than the TTL, which is {ttl:g} s, or None for a third of it")
        if self.wait is not None and self.wait < 0:
            raise invalid("wait", f"wait is {self.wait:g} s; give a time above 0, 0 to ask once, or None for as long as it takes")
        if not 0 <= self.min_hold <= _wire.MAX_TTL:
            raise invalid("min_hold", f"min_hold is {self.min_hold:g} s; give a time up to {_wire.MAX_TTL:g} s, or 0 for none")
        if not 0 <= self.capacity <= _wire.MAX_CAPACITY:
            raise invalid("capacity", f"capacity is {self.capacity}; give 1 to {_wire.MAX_CAPACITY}, or 0 for 1")
        if self.mode not in ("", "read", "write"):
            raise invalid("mode", f"mode is {self.mode!r}; give 'read' or 'write', or leave it out")
        if self.mode and (self.capacity or self.permits):
            raise invalid("mode", "mode is there with capacity or permits; give one or the other")
        if not 0 <= self.permits <= (self.capacity or _wire.MAX_CAPACITY):
            raise invalid("permits", f"permits is {self.permits}; give 1 to the capacity, which is {max(self.capacity, 1)}, or 0 for 1")
        check_owner(self.owner)
        check_metadata(self.metadata)


def seconds(name: str, value: Seconds) -> float:
    """Return a time in seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise invalid(name, f"{name} is {value!r}; give a number of seconds, or a timedelta")
    return float(value)


def check_owner(owner: str) -> None:
    """Raise Refused unless owner can be shown to others."""
    if len(owner.encode()) > _wire.MAX_OWNER:
        raise invalid("owner", f"owner is {len(owner.encode())} bytes long; at most {_wire.MAX_OWNER} are allowed")
    if any(c < " " or c == "\x7f" for c in owner):
        raise invalid("owner", f"owner is {owner!r}, which has a control character; leave it out")


def check_metadata(metadata: dict[str, Any] | None) -> None:
    """Raise Refused unless metadata can be sent."""
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise invalid("metadata", f"metadata is {type(metadata).__name__}; give a dict")
    try:
        size = len(encode(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid("metadata", f"metadata cannot be encoded: {error}") from None
    if size > _wire.MAX_METADATA:
        raise invalid("metadata", f"metadata is {size} bytes of JSON; at most {_wire.MAX_METADATA} are allowed")


@dataclass(frozen=True)
class Invocation:
    """An invocation of a Lambda function."""

    context: Any  # Lambda's context object

    def left(self) -> float:
        """Return the seconds until the invocation's deadline."""
        return float(self.context.get_remaining_time_in_millis()) / 1000

    def ttl(self) -> float:
        """Return the TTL of a lease that is proved until the invocation's end, and outlives it by some two seconds at most."""
        left = self.left()
        return min(max(left + 1 + 2 * left / RATE_MARGIN, _wire.MIN_TTL), _wire.MAX_TTL)

    def owner(self) -> str:
        """Return FUNCTION/REQUEST-ID."""
        return f"{os.environ.get('AWS_LAMBDA_FUNCTION_NAME', '')}/{getattr(self.context, 'aws_request_id', '')}"

    def budget(self, most: float) -> float:
        """Return the time limit of a release after the handler's work: the runtime needs half a second to report the outcome."""
        left = self.left()
        return max(min(most, left - min(left / 2, 0.5)), 0.0)
