"""AsyncClient, with a real coordinator: what is asyncio's own."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from holdfast import AsyncClient, AsyncLease, Client, HTTPTransport, LeaseLost, LockHeld, Request, Response, current_lease
from holdfast._loop import Loop


def run(job: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(job, 60))


async def until(ok: Any) -> None:
    while not ok():
        await asyncio.sleep(0.005)


def test_scope(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint, owner="tester", retry_delay=0.05) as client:
            async with client.lock(lock, metadata={"a": 1}) as lease:
                assert isinstance(lease, AsyncLease)
                assert current_lease() is lease
                assert (await client.status(lock)).holders[0].fence == lease.fence
                with pytest.raises(LockHeld):
                    await client.try_acquire(lock)
            assert not (await client.status(lock)).locked
            lease = await client.adopt(lock, (await client.acquire(lock, manual_renew=True)).secret)
            await lease.renew({"b": 2})
            assert (await client.status(lock)).holders[0].metadata == {"b": 2}
            await client.release(lock, lease.secret)
            await client.force_release(lock, "test")

    run(main())


def test_acquire_as_a_scope(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            async with await client.acquire(lock) as lease:
                assert lease.held
                assert (await client.status(lock)).locked
            assert not (await client.status(lock)).locked
            with pytest.raises(LeaseLost):
                async with await client.acquire(lock):
                    await client.force_release(lock, "test")
            with pytest.raises(KeyError) as caught:
                async with await client.acquire(lock):
                    await client.force_release(lock, "test")
                    raise KeyError("of the body")
            assert isinstance(caught.value.__context__, LeaseLost)

    run(main())


def test_a_pause_that_ends_is_cancelled_nevertheless() -> None:
    """A cancellation counts in the turn of the loop, too, in which the flag of the pause is set."""

    async def main() -> None:
        io = Loop(1)
        flag = io.flag()
        task = asyncio.create_task(io.pause(3600, flag))
        for _ in range(3):
            await asyncio.sleep(0)  # until it pauses
        flag.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await io.pause(3600, flag)  # it is set
        flag.clear()
        await io.pause(0.001, flag)
        assert not flag.is_set()

    run(main())


def test_the_body_is_interrupted(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            inside = asyncio.Event()

            async def body() -> None:
                async with client.lock(lock, ttl=0.3):
                    inside.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(body())
            await inside.wait()
            await client.force_release(lock, "test")
            with pytest.raises(LeaseLost):
                await task
            assert not task.cancelled()

    run(main())


def test_cancelled_body(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            inside = asyncio.Event()

            async def body() -> None:
                async with client.lock(lock):
                    inside.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(body())
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert not (await client.status(lock)).locked

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout needs Python 3.11")
def test_timeout_around_the_body(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):  # type: ignore[attr-defined, unused-ignore]
                    async with client.lock(lock):
                        await asyncio.sleep(60)
            assert not (await client.status(lock)).locked

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task counts its cancellations from Python 3.11 on")
def test_cancelled_and_lost(endpoint: str, lock: str) -> None:
    """A task that others cancel, too, stays cancelled."""

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            inside = asyncio.Event()

            async def body() -> None:
                async with client.lock(lock, ttl=0.3, on_lost=lambda error: task.cancel()):
                    inside.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(body())
            await inside.wait()
            await client.force_release(lock, "test")
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_error_of_the_body(endpoint: str, lock: str) -> None:
    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(KeyError):
                async with client.lock(lock):
                    raise KeyError("of the body")
            assert not (await client.status(lock)).locked

    run(main())


def test_loss_while_the_body_ends(endpoint: str, lock: str) -> None:
    """The interruption of a body that has ended does not reach what follows."""

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(LeaseLost):
                async with client.lock(lock, ttl=0.3) as lease:
                    await client.force_release(lock, "test")
                    with pytest.raises(LeaseLost):
                        await lease.renew()
            await asyncio.sleep(0)

    run(main())


def test_a_loop_that_was_blocked(endpoint: str, lock: str) -> None:
    """A lease whose time is over is not held, before any timer has run."""

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            lease = await client.acquire(lock, ttl=0.2, manual_renew=True)
            time.sleep(max(lease.deadline - time.monotonic(), 0) + 0.001)
            assert not lease.held
            assert lease.remaining == 0
            with pytest.raises(LeaseLost, match="ran out"):
                lease.check()
            with pytest.raises(LeaseLost):
                await lease.renew()
            with pytest.raises(LeaseLost):  # although the coordinator counts on it a little longer
                await lease.release()

    run(main())


class Stuck:
    """A transport whose requests wait for an event that never comes, until they are given up."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ended = threading.Semaphore(0)
        self.closed = False

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        if self.closed:
            raise OSError("it is closed")
        over = threading.Event()
        request.on_abort(over.set)
        over.wait()
        self.ended.release()
        raise OSError("it was given up")

    def close(self) -> None:
        self.closed = True
        for request in list(self.requests):
            request.abort()


class Grants(Stuck):
    """A Stuck whose acquires are granted."""

    def send(self, request: Request) -> Response:
        if request.op != "acquire":
            return super().send(request)
        self.requests.append(request)
        grant = {"lock": request.lock, "lease": json.loads(request.body or b"")["lease"], "fence": 7, "ttl_ms": 60_000, "remaining_ms": 60_000}
        return Response(200, json.dumps(grant).encode())


def test_the_loop_is_not_blocked(lock: str) -> None:
    """While a request waits for its answer, the loop runs; a task that is cancelled does not wait, and its thread ends."""

    async def main() -> None:
        transport = Stuck()
        client = AsyncClient(transport=transport, retries=0, request_timeout=3600)
        tasks = [asyncio.create_task(client.try_acquire(f"{lock}-{n}")) for n in range(40)]
        await until(lambda: len(transport.requests) == 16)  # the others queue
        try:
            for task in reversed(tasks):  # those that queue first, or a thread that becomes free would take one of them
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(r, asyncio.CancelledError) for r in results)
            for _ in range(16):
                assert await asyncio.to_thread(transport.ended.acquire, timeout=60)
            acquires = [r for r in transport.requests if r.op == "acquire"]
            assert len(acquires) == 16  # those that queued were not sent
            await until(lambda: any(r.op == "release" for r in transport.requests))
        finally:
            transport.close()

    run(main())


def test_time_out_of_a_request(lock: str) -> None:
    async def main() -> None:
        transport = Stuck()
        client = AsyncClient(transport=transport, retries=1, request_timeout=0.05, retry_delay=0.01)
        with pytest.raises(Exception, match="did not answer in time"):
            await client.status(lock)
        assert len(transport.requests) == 2

    run(main())


def test_a_program_that_ends_releases_what_it_waited_for(endpoint: str, lock: str) -> None:
    """asyncio.run cancels what still runs: the place in the queue is left nevertheless."""
    with Client(endpoint, owner="holder") as holder, holder.lock(lock):

        async def main() -> None:
            client = AsyncClient(transport=transport)
            waiting = asyncio.Event()
            task = asyncio.create_task(client.acquire(lock, on_wait=lambda held: waiting.set()))
            await waiting.wait()
            del task

        transport = HTTPTransport(endpoint)
        asyncio.run(main())
        done = threading.Event()
        while holder.status(lock).waiting and not done.wait(0.02):
            pass
        transport.close()


def test_a_release_that_is_cancelled(lock: str) -> None:
    """It goes on in the background; but before min_hold has passed, the lease is left to expire."""

    async def main() -> None:
        transport = Grants()
        client = AsyncClient(transport=transport, request_timeout=3600)
        for options, ops in ({}, ["acquire", "release", "release"]), ({"min_hold": 600}, ["acquire", "renew"]):
            before = len(transport.requests)
            lease = await client.acquire(lock, manual_renew=True, **options)  # type: ignore[arg-type]
            release = asyncio.create_task(lease.release())
            await until(lambda: len(transport.requests) == before + 2)  # noqa: B023
            release.cancel()
            with pytest.raises(asyncio.CancelledError):
                await release
            await until(lambda: len(transport.requests) >= before + len(ops))  # noqa: B023
            await asyncio.sleep(0)
            assert [r.op for r in transport.requests[before:]] == ops
        transport.close()

    run(main())


def test_callbacks_that_raise(endpoint: str, lock: str) -> None:
    """Their exceptions reach the loop's handler, and the other lease's on_lost is called."""

    async def main() -> None:
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context["exception"]))
        told = asyncio.Event()

        def lost(error: LeaseLost) -> None:
            raise KeyError("of the callback")

        async with AsyncClient(endpoint) as client:
            first = await client.acquire(f"{lock}-1", ttl=0.2, manual_renew=True, on_lost=lost)
            await client.acquire(f"{lock}-2", ttl=1, manual_renew=True, on_lost=lambda error: told.set())
            await first.wait_lost()
            await told.wait()
            third = await client.acquire(f"{lock}-3", ttl=30, on_lost=lost)
            await client.force_release(f"{lock}-3", "test")
            with pytest.raises(LeaseLost):  # not the KeyError
                await third.renew()
        assert [type(error) for error in raised] == [KeyError, KeyError]

    run(main())


def test_no_tasks_are_left(endpoint: str, lock: str) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        async with AsyncClient(endpoint, retry_delay=0.05) as client:
            leases = [await client.acquire(f"{lock}-{n}") for n in range(5)]
            with pytest.raises(LockHeld):
                await client.acquire(f"{lock}-0", wait=0.2)
        assert not any(lease.held for lease in leases)
        assert asyncio.all_tasks() == before

    run(main())


def test_a_scope_that_ends_in_another_context(endpoint: str, lock: str) -> None:
    """Frameworks run the two halves of a generator in different tasks; the lock is released nevertheless."""

    async def main() -> None:
        async with AsyncClient(endpoint) as client:
            scope = client.lock(lock)
            await asyncio.create_task(scope.__aenter__())
            await asyncio.create_task(scope.__aexit__(None, None, None))
            assert not (await client.status(lock)).locked

    run(main())
