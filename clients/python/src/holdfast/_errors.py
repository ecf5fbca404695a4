"""The errors of this package."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Holder:
    """A live lease of a lock, as others see it."""

    owner: str  # the holder's name for itself
    fence: int  # the fencing token of its lease
    expires_at: datetime | None  # by the coordinator's clock
    remaining: float  # seconds until then, when the coordinator answered
    permits: int = 1  # of the lock's capacity; in a LockHeld always 1
    acquired_at: datetime | None = None  # in a Status
    renewed_at: datetime | None = None  # in a Status
    metadata: dict[str, Any] | None = None  # in a Status
    principal: str = ""  # in a Status: the caller's ARN, as API Gateway's authorizer gave it


@dataclass(frozen=True)
class Freeze:
    """A time in which nobody is granted the locks below a prefix, as an operator has set it."""

    prefix: str  # "*" for all locks
    until: datetime | None  # by the coordinator's clock
    since: datetime | None
    reason: str
    by: str  # the operator's ARN; empty if API Gateway did not authenticate the request


@dataclass(frozen=True)
class Limit:
    """A limit that an operator has set for the locks below a prefix."""

    limit: str  # its name in the API: capacity, max_ttl_ms, max_hold_ms, max_queue, max_per_principal or rate
    value: int
    period: float  # seconds; of a rate: in any such period the lock is granted `value` times at most
    prefix: str  # of the rule that sets it; "*" for all locks
    field: str  # the field of the request that is more than the limit; empty if it is none
    detail: str  # what is wrong and what to do


class HoldfastError(Exception):
    """The base of all errors of this package.

    `op` is the operation that failed: acquire, renew, release, force_release or status; empty if it was none. `lock` is the lock's name.
    """

    op: str = ""
    lock: str = ""

    def _of(self, op: str, lock: str) -> HoldfastError:
        """Say which operation failed, unless the error says so already."""
        if not self.op:
            self.op, self.lock = op, lock
        return self

    def _text(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        if not self.op:
            return self._text()
        name = self.lock if self.lock.isprintable() else repr(self.lock)
        return f"{self.op.replace('_', '-')} of {name} failed: {self._text()}"


class LockHeld(HoldfastError):
    """Others hold the lock, and the time to wait is over.

    If the queue is full, or a limit keeps the request out of it, only `retry_after` and `limit` are known.
    """

    def __init__(
        self,
        holders: tuple[Holder, ...] = (),
        retry_after: float = 0.0,
        position: int = 0,
        waiting: int = 0,
        limit: Limit | None = None,
        frozen: Freeze | None = None,
    ) -> None:
        super().__init__()
        self.holders = holders
        self.retry_after = retry_after  # seconds until the first of the leases expires, unless it is renewed; or a hint
        self.position = position  # the caller's place in the queue, from 1; 0 if it is not in the queue
        self.waiting = waiting  # the number of waiters
        self.limit = limit  # the limit that keeps the request out, or the lock from being granted
        self.frozen = frozen
        self.timed_out = False  # the wait's own time is over
        self._ticket = 0  # for the next poll

    def _text(self) -> str:
        if self.limit is not None:
            return f"the lock is held: {self.limit.detail}"
        if not self.holders:
            return "the lock is held"
        h = self.holders[0]
        until = f" until {h.expires_at:%Y-%m-%dT%H:%M:%SZ}" if h.expires_at else ""
        return f"the lock is held by {h.owner!r}{until}"


class LockFrozen(LockHeld):
    """An operator has frozen the lock, and the time to wait ended before the freeze. `frozen` says until when, and why."""

    def _text(self) -> str:
        f = self.frozen
        if f is None:
            return "the lock is frozen"
        until = f" until {f.until:%Y-%m-%dT%H:%M:%SZ}" if f.until else ""
        by = f" by {f.by}" if f.by else ""
        return f"the lock is frozen{until}{by}: {f.reason}"


class LeaseLost(HoldfastError):
    """The lease has ended: it expired, was forced out, or was not proved to be held in time. Another may hold the lock now: stop.

    `limit` is the limit that ended it, if one did.
    """

    def __init__(self, why: str = "the lease is over", limit: Limit | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.limit = limit

    def _text(self) -> str:
        return f"the lease is lost: {self.why}"


class LeaseReleased(HoldfastError):
    """The lease was released by this process."""

    def _text(self) -> str:
        return "the lease was released"


class Unavailable(HoldfastError):
    """Every try of a request failed, because the coordinator could not be reached or could not use its store.

    It is not known whether the request took effect. A later request may succeed.
    """

    def __init__(self, why: str, retry_after: float = 0.0, throttled: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.retry_after = retry_after  # seconds, as the answer says; 0 if it does not
        self.throttled = throttled  # too many requests arrive at once

    def _text(self) -> str:
        return f"the coordinator is unavailable: {self.why}"


class Refused(HoldfastError):
    """The same request will fail again: it is not valid or not allowed, or the client or the coordinator is not set up right.

    The client does not repeat it. The text says what to change.
    """

    def __init__(self, detail: str, *, code: str = "", status: int = 0, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail  # what is wrong and what to change
        self.code = code  # of the coordinator's answer (docs/openapi.yaml); empty if the answer was another's
        self.status = status  # the HTTP status; 0 if there was no answer
        self.field = field  # the field of the request that is wrong; empty if it is none

    def _text(self) -> str:
        if not self.status:
            return f"the request is refused: {self.detail}"
        return f"the request is refused ({f'{self.status} {self.code}'.strip()}): {self.detail}"


class LimitExceeded(Refused):
    """A limit of the lock's prefix does not allow the request, and never will. `limit` says which one."""

    def __init__(self, limit: Limit, status: int) -> None:
        super().__init__(limit.detail, code="limit_exceeded", status=status, field=limit.field)
        self.args = (limit, status)
        self.limit = limit


class ClientClosed(HoldfastError):
    """The client was closed."""

    def _text(self) -> str:
        return "the client is closed"


class AcquireCancelled(HoldfastError):
    """A Cancellation ended the acquire. Its place in the queue is left, and a grant that was on its way is released."""

    def _text(self) -> str:
        return "it was cancelled"


class CloseError(HoldfastError):
    """`close` failed to release some leases. Those expire by themselves."""

    def __init__(self, left: int, total: int, errors: list[HoldfastError]) -> None:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        what = f"{left} of {total} leases were not released, and expire by themselves: " if left else ""
        super().__init__()
        self._what = f"close: {what}{errors[0]}{more}"
        self.left = left  # the number of leases that may still be held
        self.total = total
        self.args = (left, total, errors)
        self.errors = errors  # one for each lease that was not released, or had been lost

    def _text(self) -> str:
        return self._what


class _Aborted(Exception):
    """The try of a request was given up: the acquire was cancelled, or the client closed."""
