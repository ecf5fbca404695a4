"""The IO of Client: threads that block."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from ._lease import CoreLease
from .transport import Request, Response, Transport

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits only for a Threads, which blocks, to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a coroutine of a Client was suspended")


class _Lock:
    """A threading.Lock for `async with`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class Threads:
    """Blocks, and works in the background in daemon threads: one for each lease that is renewed, and one that watches the leases' deadlines."""

    def reset(self) -> None:
        self._watched: set[CoreLease] = set()
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None

    def flag(self) -> threading.Event:
        return threading.Event()

    def lock(self) -> _Lock:
        return _Lock()

    async def send(self, transport: Transport, request: Request) -> Response:
        try:
            return transport.send(request)
        except Exception:
            request.check()  # the failure of a request that was given up is that
            raise

    async def pause(self, seconds: float, flag: threading.Event | None) -> None:
        (flag or threading.Event()).wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    async def join(self, work: threading.Thread, within: float | None = None) -> None:
        if work is not threading.current_thread():
            work.join(within)

    async def each(self, jobs: list[Coroutine[Any, Any, None]], most: int) -> None:
        pool: Any = None
        if len(jobs) > 1:
            with suppress(RuntimeError):  # the interpreter ends, and it is too late to import this
                from concurrent.futures import ThreadPoolExecutor  # it imports logging

                pool = ThreadPoolExecutor(min(len(jobs), most), "holdfast-close")
        waiting = []
        for job in jobs:
            try:
                if pool is not None:
                    waiting.append(pool.submit(run, job))
                    continue
            except RuntimeError:  # the interpreter ends, and starts no threads
                pass
            run(job)
        for done in waiting:
            done.result()
        if pool is not None:
            pool.shutdown()

    def start(self, what: str, job: Coroutine[Any, Any, None], *, last: bool = False) -> threading.Thread:
        thread = threading.Thread(target=run, args=(job,), name=f"holdfast: {what}", daemon=not last)
        thread.start()
        return thread

    def watch(self, lease: CoreLease) -> None:
        with self._changed:
            self._watched.add(lease)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="holdfast: deadlines", daemon=True)
                self._watcher.start()
            self._changed.notify()

    def unwatch(self, lease: CoreLease) -> None:
        with self._changed:
            self._watched.discard(lease)
            self._changed.notify()

    def report(self, error: BaseException) -> None:
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread())))

    def _check(self, lease: CoreLease) -> float:
        """Check a lease's deadline. Whatever its on_lost raises, even SystemExit, the other leases are watched."""
        try:
            return lease._watch()
        except BaseException as error:
            self.report(error)
            return 0.0

    def _watch(self) -> None:
        """End leases whose time is over, until there are none to watch."""
        while True:
            with self._changed:
                if not self._watched:
                    self._watcher = None
                    return
                leases = list(self._watched)
            next_check = min(self._check(lease) for lease in leases)
            with self._changed:
                if self._watched and self._watched.issubset(leases):  # else one has come meanwhile
                    self._changed.wait(max(next_check, 0.001))
