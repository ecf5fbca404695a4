"""The client for threads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from ._core import Core
from ._errors import Holder, HoldfastError, LeaseLost
from ._lease import CoreLease
from ._options import AcquireOptions, Invocation, Seconds
from ._threads import Threads, run
from ._wire import Status
from .transport import HTTPTransport, Transport

if TYPE_CHECKING:
    from types import TracebackType

    from botocore.credentials import Credentials
    from typing_extensions import Self, Unpack

R = TypeVar("R")

_current: ContextVar[CoreLease | None] = ContextVar("holdfast_lease", default=None)


class Lease(CoreLease):
    """A lock that this process holds, and that a Client renews in the background. It is safe for use by several threads.

    It belongs to the process that acquired it: in a child of a fork it is not held. To hand it over, pass on its `secret` (see Client.adopt).
    """

    def renew(self, metadata: dict[str, Any] | None = None) -> None:
        """Renew the lease: it then expires one TTL after the request. The client does this in the background, unless manual_renew is set.

        With metadata, replace what others see. It raises LeaseLost if the lease has ended, and Unavailable if the coordinator did not answer; the
        lease is then held until `deadline` as before.
        """
        run(self._core.renew(self, metadata))

    def release(self) -> None:
        """Release the lock. A second call has the result of the first.

        It raises LeaseLost if the lease had been lost before, and Unavailable if the coordinator did not answer; the lease then expires by itself.

        Before min_hold has passed, the lock stays held: release makes sure that the lease lasts until then, and a thread of the client releases it.
        If the client is closed or the process ends first, the lease expires by itself instead.
        """
        run(self._core.release(self))

    def downgrade(self) -> None:
        """Make a reader's lease of a writer's: other readers are granted the lock now."""
        run(self._core.downgrade(self))

    def wait_lost(self, timeout: float | None = None) -> bool:
        """Wait until the lease has ended, for up to timeout seconds. Return whether it has."""
        self._over.wait(timeout)
        return not self.held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _leave(functools.partial(run, self._core.release(self, self._core.timeout * 2)), error)


def _leave(release: Callable[[], None], error: BaseException | None) -> None:
    """Release a lease at the end of a scope. The body's own error comes before a failure of the release, which is its context then."""
    try:
        release()
    except HoldfastError as failed:
        if error is None:
            raise
        give_context(error, failed)


def give_context(error: BaseException, failed: HoldfastError) -> None:
    """Make a loss that the release tells of the context of the body's own error."""
    if isinstance(failed, LeaseLost) and not isinstance(error, HoldfastError):
        error.__context__ = error.__context__ or failed


class Client:
    """Acquires locks of a Holdfast coordinator. It is safe for use by several threads.

    endpoint is the coordinator's URL without the /v1/locks part of its routes; None means that of the environment variable HOLDFAST_ENDPOINT. For
    credentials and region see HTTPTransport. transport carries the requests in place of HTTP (see holdfast.invoke).

    owner is the name that others see while this client holds a lock; empty means HOST/PID, and under `exclusive` in a Lambda function
    FUNCTION/REQUEST-ID. request_timeout limits one try of a request. retries is how many times a request without an answer is sent again; an acquire
    that waits ignores it. retry_delay is the longest pause between two tries, and between two polls of the first waiter in a queue; None means 1 s,
    and 2 s for polls. Times are in seconds.

    Close a client at the end, or use it in a with statement: that releases what it still holds.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        region: str | None = None,
        credentials: Credentials | None = None,
        transport: Transport | None = None,
        owner: str = "",
        request_timeout: Seconds = 5.0,
        retries: int = 3,
        retry_delay: Seconds | None = None,
    ) -> None:
        self._core = Core(
            Threads(),
            make_transport(endpoint, region, credentials, transport),
            owner=owner,
            request_timeout=request_timeout,
            retries=retries,
            retry_delay=retry_delay,
            lease_class=Lease,
        )

    def acquire(self, name: str, **options: Unpack[AcquireOptions]) -> Lease:
        """Acquire a lock. While others hold it, wait in the lock's queue.

        It raises LockHeld if others still held the lock when the wait was over, Unavailable if the coordinator did not answer until then, and
        Refused if no retry can help. A grant whose answer was lost is released in the background.
        """
        lease = run(self._core.acquire(name, options))
        assert isinstance(lease, Lease)
        return lease

    def try_acquire(self, name: str, **options: Unpack[AcquireOptions]) -> Lease:
        """Acquire a lock if it is free now, and raise LockHeld otherwise. It is acquire with wait=0."""
        options["wait"] = 0
        return self.acquire(name, **options)

    @contextmanager
    def lock(self, name: str, **options: Unpack[AcquireOptions]) -> Iterator[Lease]:
        """Acquire a lock, as `acquire` does, for the body of a with statement:

            with client.lock("report:daily", ttl=30, wait=60) as lease:
                write_report(lease.fence)

        The lock is released when the body ends. If the lease is lost, the body is not interrupted: ask `lease.held` or `lease.check()` between
        steps, or give on_lost. The end of the body then raises LeaseLost, unless it raised an error itself.
        """
        with self.acquire(name, **options) as lease, _Current(lease):
            yield lease

    def exclusive(self, name: str | Callable[[Any], str], **options: Unpack[AcquireOptions]) -> Callable[[Callable[[Any, Any], R]], Callable[[Any, Any], R]]:
        """Make a Lambda handler run only while it holds a lock:

            @client.exclusive(lambda event: "order:" + event["id"])
            def handler(event, context): ...

        name is the lock's, or a function that returns it for an event. If others hold the lock, the handler does not run, and LockHeld is raised, so
        that the invoker, such as a queue, tries again. Waiting is billed, so it does not wait unless `wait` is given. `current_lease` returns the
        lease in the handler.

        Without `ttl` the lease lasts until the end of the invocation and about a second longer, and is not renewed: no thread runs in the background,
        and if the function is killed, the lock is free soon after. A release that fails does not fail the invocation: its work is done, and
        the lease expires. If the lease was lost meanwhile, LeaseLost is raised.
        """
        options.setdefault("wait", 0)

        def decorate(handler: Callable[[Any, Any], R]) -> Callable[[Any, Any], R]:
            @functools.wraps(handler)
            def exclusive(event: Any, context: Any) -> R:
                invocation = Invocation(context) if hasattr(context, "get_remaining_time_in_millis") else None
                lease = run(self._core.acquire(name if isinstance(name, str) else name(event), options, invocation))
                try:
                    with _Current(lease):
                        result = handler(event, context)
                except BaseException as error:
                    _leave(lambda: self._after(lease, invocation), error)
                    raise
                self._after(lease, invocation)
                return result

            return exclusive

        return decorate

    def _after(self, lease: CoreLease, invocation: Invocation | None) -> None:
        """Release the lease of a handler that has ended."""
        most = self._core.timeout * 2
        try:
            run(self._core.release(lease, most if invocation is None else invocation.budget(most), background=invocation is None))
        except LeaseLost:
            raise
        except HoldfastError:
            pass

    def adopt(self, name: str, secret: str, **options: Unpack[AcquireOptions]) -> Lease:
        """Make a Lease of one that another process acquired and handed over by its secret. It is renewed at once, and in the background from then on.

        It uses only the options ttl, heartbeat, manual_renew, metadata, on_renewal and on_lost. It raises LeaseLost if the lease has ended.
        """
        lease = run(self._core.adopt(name, secret, options))
        assert isinstance(lease, Lease)
        return lease

    def release(self, name: str, secret: str) -> None:
        """Release a lease by its secret, where there is no Lease of it. It raises LeaseLost if the lease ended otherwise."""
        run(self._core.release_by_secret(name, secret))

    def status(self, name: str) -> Status:
        """Read a lock. A lock that was never acquired is a free lock."""
        return run(self._core.status(name))

    def force_release(self, name: str, reason: str, fence: int = 0) -> tuple[Holder, ...]:
        """End leases without their holders' consent: all of them, or the one with the fencing token `fence`. Return those that were ended.

        It is for an operator who knows that the holder is dead. reason is 1 to 512 bytes. It raises Refused, with the code lock_changed, if no live
        lease has the fencing token.
        """
        return run(self._core.force_release(name, reason, fence))

    def close(self) -> None:
        """End acquires in progress with ClientClosed, release every lease, and wait until nothing of the client runs in the background.

        It continues after a failed release, and raises CloseError at the end. `status` works afterwards.
        """
        run(self._core.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Current:
    """Makes a lease the current one for the body of a with statement."""

    def __init__(self, lease: CoreLease) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        self._token = _current.set(self._lease)

    def __exit__(self, *_: object) -> None:
        with suppress(ValueError):  # the body was entered in another context
            _current.reset(self._token)


def current_lease() -> CoreLease | None:
    """Return the lease of the `lock` or `exclusive` in which this code runs, or None."""
    return _current.get()


def make_transport(endpoint: str | None, region: str | None, credentials: Credentials | None, transport: Transport | None) -> Transport:
    """Return the transport that a client's arguments ask for."""
    if transport is None:
        return HTTPTransport(endpoint or os.environ.get("HOLDFAST_ENDPOINT", ""), region=region, credentials=credentials)
    if endpoint is not None or region is not None or credentials is not None:
        raise ValueError("transport is given, and so is an argument of HTTP's (endpoint, region, credentials); give one or the other")
    return transport
