"""The client for asyncio."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ._client import _current, give_context, make_transport
from ._core import Core
from ._errors import Holder, HoldfastError, LeaseLost
from ._lease import CoreLease
from ._loop import Loop
from ._options import AcquireOptions, Seconds
from ._wire import Status
from .transport import Transport

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from botocore.credentials import Credentials
    from typing_extensions import Self, Unpack


class AsyncLease(CoreLease):
    """A lock that this process holds, and that an AsyncClient renews in a task. Use it on the client's event loop."""

    async def renew(self, metadata: dict[str, Any] | None = None) -> None:
        """Renew the lease: see Lease.renew."""
        await self._core.renew(self, metadata)

    async def release(self) -> None:
        """Release the lock: see Lease.release. If the task is cancelled meanwhile, the release goes on in the background."""
        await self._core.release(self)

    async def downgrade(self) -> None:
        """Make a reader's lease of a writer's: other readers are granted the lock now."""
        await self._core.downgrade(self)

    async def wait_lost(self) -> None:
        """Wait until the lease has ended."""
        await self._over.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._core.release(self, self._core.timeout * 2)
        except HoldfastError as failed:
            if error is None:
                raise
            give_context(error, failed)


class _Scope:
    """The `async with client.lock(...)`. It cancels the task that runs the body when the lease is lost, and makes LeaseLost of that."""

    def __init__(self, client: AsyncClient, name: str, options: AcquireOptions) -> None:
        self._client, self._name, self._options = client, name, options
        self._lost: LeaseLost | None = None
        self._inside = False

    async def __aenter__(self) -> AsyncLease:
        self._lease = await self._client.acquire(self._name, **self._options)
        self._task = asyncio.current_task()
        self._requests = 0  # to cancel the task, from others
        if sys.version_info >= (3, 11) and self._task is not None:
            self._requests = self._task.cancelling()
        self._token: Token[CoreLease | None] = _current.set(self._lease)
        self._inside = True
        self._lease._on_loss(self._interrupt)
        return self._lease

    def _interrupt(self, cause: LeaseLost) -> None:
        if self._inside and self._task is not None:
            self._lost = cause
            self._task.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._inside = False
        with suppress(ValueError):  # the body was entered in another context
            _current.reset(self._token)
        interrupted = self._lost is not None and await self._absorb(error)
        try:
            await self._client._core.release(self._lease, self._client._core.timeout * 2)
        except HoldfastError as failed:
            if error is None or (interrupted and isinstance(error, asyncio.CancelledError)):
                raise failed from None
            give_context(error, failed)

    async def _absorb(self, error: BaseException | None) -> bool:
        """Take the cancellation of the task back. Return whether the task goes on: nobody else has cancelled it, too."""
        alone = True
        if sys.version_info >= (3, 11) and self._task is not None:
            alone = self._task.uncancel() <= self._requests
        if not isinstance(error, asyncio.CancelledError):  # the body ended by itself: the cancellation may still be on its way
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not alone:
                    raise
        return alone


class AsyncClient:
    """Client for asyncio: the same arguments and methods, to await. Use one client on one event loop.

    Cancel a task to end its acquire: its place in the queue is left, and a grant that was on its way is released. Leases are renewed by tasks of
    the event loop, so code that blocks the loop for longer than a lease's TTL loses it. threads is how many acquires and status requests, and how
    many renewals and releases, are sent at a time; more queue.
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
        threads: int = 16,
    ) -> None:
        self._core = Core(
            Loop(threads),
            make_transport(endpoint, region, credentials, transport),
            owner=owner,
            request_timeout=request_timeout,
            retries=retries,
            retry_delay=retry_delay,
            lease_class=AsyncLease,
        )

    async def acquire(self, name: str, **options: Unpack[AcquireOptions]) -> AsyncLease:
        """Acquire a lock: see Client.acquire."""
        lease = await self._core.acquire(name, options)
        assert isinstance(lease, AsyncLease)
        return lease

    async def try_acquire(self, name: str, **options: Unpack[AcquireOptions]) -> AsyncLease:
        """Acquire a lock if it is free now, and raise LockHeld otherwise."""
        options["wait"] = 0
        return await self.acquire(name, **options)

    def lock(self, name: str, **options: Unpack[AcquireOptions]) -> _Scope:
        """Acquire a lock, as `acquire` does, for the body of an async with statement:

            async with client.lock("report:daily", ttl=30, wait=60) as lease:
                await write_report(lease.fence)

        The lock is released when the body ends. If the lease is lost, the body is cancelled, and LeaseLost is raised.
        """
        return _Scope(self, name, options)

    async def adopt(self, name: str, secret: str, **options: Unpack[AcquireOptions]) -> AsyncLease:
        """Make an AsyncLease of one that another process acquired: see Client.adopt."""
        lease = await self._core.adopt(name, secret, options)
        assert isinstance(lease, AsyncLease)
        return lease

    async def release(self, name: str, secret: str) -> None:
        """Release a lease by its secret: see Client.release."""
        await self._core.release_by_secret(name, secret)

    async def status(self, name: str) -> Status:
        """Read a lock. A lock that was never acquired is a free lock."""
        return await self._core.status(name)

    async def force_release(self, name: str, reason: str, fence: int = 0) -> tuple[Holder, ...]:
        """End leases without their holders' consent: see Client.force_release."""
        return await self._core.force_release(name, reason, fence)

    async def close(self) -> None:
        """End acquires in progress, release every lease, and wait for what runs in the background: see Client.close."""
        await self._core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
