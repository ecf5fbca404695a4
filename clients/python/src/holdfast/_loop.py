"""The IO of AsyncClient: tasks of an event loop, and threads that send requests."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ._errors import _Aborted
from ._lease import CoreLease
from .transport import Request, Response, Transport


class Flag:
    """An asyncio.Event whose wait has a time limit.

    asyncio.wait_for ignores a cancellation that arrives in the same turn of the loop as the end of what it waits for, before Python 3.12.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: set[asyncio.Future[None]] = set()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for waiter in self._waiters:
            _wake(waiter)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until the flag is set, for up to seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        if self._is_set:
            waiter.set_result(None)
        timer = None if seconds is None else loop.call_later(seconds, _wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Loop:
    """Awaits, and works in the background in tasks.

    Requests are sent by threads, since botocore and http.client block: at most `threads` acquires and reads at a time, and as many renewals and
    releases, which do not queue behind them. A task that is cancelled, or whose time is over, does not wait for its thread.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def reset(self) -> None:
        self._requests = ThreadPoolExecutor(self._threads, "holdfast-request")
        self._upkeep = ThreadPoolExecutor(self._threads, "holdfast-upkeep")
        self._timers: dict[CoreLease, asyncio.TimerHandle] = {}

    def flag(self) -> Flag:
        return Flag()

    def lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def send(self, transport: Transport, request: Request) -> Response:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Response] = loop.create_future()

        def settle(response: Response | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            elif response is not None:
                done.set_result(response)

        def send() -> None:
            response, failure = None, None
            try:
                request.check()
                response = transport.send(request)
            except BaseException as error:
                failure = error
            with suppress(RuntimeError):  # the loop is closed: nobody waits for the answer
                loop.call_soon_threadsafe(settle, response, failure)

        request.give_up = lambda: settle(None, _Aborted())
        late = loop.call_later(request.timeout, settle, None, TimeoutError())
        pool = self._requests if request.op in ("acquire", "status") else self._upkeep
        pool.submit(send)
        try:
            return await done
        except BaseException:
            request.give_up = None
            if request.op != "release":  # a release goes on, so that others get the lock sooner
                request.abort()
            raise
        finally:
            late.cancel()

    async def pause(self, seconds: float, flag: Flag | None) -> None:
        await (flag or Flag()).wait(max(seconds, 0.0))

    async def join(self, work: asyncio.Task[None], within: float | None = None) -> None:
        if work is not asyncio.current_task():
            await asyncio.wait([work], timeout=within)

    async def each(self, jobs: list[Coroutine[Any, Any, None]], most: int) -> None:
        slots = asyncio.Semaphore(most)

        async def one(job: Coroutine[Any, Any, None]) -> None:
            async with slots:
                await job

        await asyncio.gather(*(one(job) for job in jobs))

    def start(self, what: str, job: Coroutine[Any, Any, None], *, last: bool = False) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(job, name=f"holdfast: {what}")

    def report(self, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "a callback of a lease raised an exception", "exception": error})

    def watch(self, lease: CoreLease) -> None:
        loop = asyncio.get_running_loop()

        def check() -> None:
            self._timers.pop(lease, None)
            left = lease._watch()
            if left > 0 and lease._cause is None:
                self._timers[lease] = loop.call_later(left, check)

        check()

    def unwatch(self, lease: CoreLease) -> None:
        timer = self._timers.pop(lease, None)
        if timer is not None:
            timer.cancel()
