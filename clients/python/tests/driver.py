"""The driver of the Python client, for the behaviour suite of the clients: see clients/suite/README.md.

python driver.py [--sync]: the commands use AsyncClient, or Client with a thread for each command.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
import threading
import time
import traceback
from typing import Any

import holdfast
from holdfast import AsyncClient, AsyncLease, Cancellation, Client, HoldfastError, Lease, LeaseLost, LockHeld, Status


class BodyFailed(Exception):
    """The error that the body of a scope raises."""


class Unsupported(Exception):
    """The driver cannot do what the command asks for."""


_out = threading.Lock()


def write(line: dict[str, Any]) -> None:
    with _out:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


KINDS: list[tuple[str, type[BaseException]]] = [
    ("held", holdfast.LockHeld), ("frozen", holdfast.LockFrozen), ("limit", holdfast.LimitExceeded), ("lost", holdfast.LeaseLost),
    ("unavailable", holdfast.Unavailable), ("refused", holdfast.Refused), ("closed", holdfast.ClientClosed),
    ("cancelled", asyncio.CancelledError), ("cancelled", holdfast.AcquireCancelled), ("body", BodyFailed), ("unsupported", Unsupported),
]  # fmt: skip


def describe(error: BaseException, do: str = "") -> dict[str, Any]:
    kinds = [name for name, kind in KINDS if isinstance(error, kind)]
    out: dict[str, Any] = {"text": str(error), "kinds": kinds}
    if isinstance(error, HoldfastError) and error.op:
        kinds.append(error.op)
    elif isinstance(error, asyncio.CancelledError):
        kinds.append(do)
    elif not kinds:
        traceback.print_exception(type(error), error, error.__traceback__)
    if isinstance(error, LockHeld):
        out |= {"holders": holders(error.holders), "position": error.position, "retry_after_ms": error.retry_after * 1000}
        if error.limit is not None:
            kinds.append("limit")
        if error.timed_out:
            kinds.append("timeout")
    if isinstance(error, holdfast.Refused):
        out |= {"field": error.field, "code": error.code}
    return out


def holders(list_: tuple[holdfast.Holder, ...]) -> list[dict[str, Any]]:
    return [{"owner": h.owner, "fence": h.fence, "metadata": h.metadata} for h in list_]


def seconds(command: dict[str, Any], name: str) -> float | None:
    return command[name] / 1000 if name in command else None


def client_options(c: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {"endpoint": c["endpoint"], "owner": c.get("owner", ""), "retry_delay": seconds(c, "retry_delay_ms")}
    if "request_timeout_ms" in c:
        out["request_timeout"] = seconds(c, "request_timeout_ms")
    if "retries" in c:
        out["retries"] = c["retries"]
    return out


def options(c: dict[str, Any]) -> Any:
    """Return the options of a command that acquires a lock."""
    out: dict[str, Any] = {name: c[name] for name in ("manual_renew", "metadata", "capacity", "permits", "mode") if name in c}
    for name in ("ttl", "wait", "heartbeat", "min_hold"):
        if f"{name}_ms" in c:
            out[name] = seconds(c, f"{name}_ms")
    if c.get("try"):
        out["wait"] = 0
    out["on_wait"] = lambda held: write({"event": "waiting", "id": c["id"], "position": held.position, "holders": holders(held.holders)})
    out["on_lost"] = lambda error: write({"event": "lost", "lease": c["lease"], "error": describe(error)})
    return out


def granted(lease: Lease | AsyncLease) -> dict[str, Any]:
    return {"fence": lease.fence, "waited_ms": lease.waited * 1000, "deadline_ms": lease.deadline * 1000}


def state(lease: Lease | AsyncLease) -> dict[str, Any]:
    held = lease.held
    return {"held": held, "remaining_ms": lease.remaining * 1000, "deadline_ms": lease.deadline * 1000, "fence": lease.fence}


def status(s: Status) -> dict[str, Any]:
    return {"locked": s.locked, "holders": holders(s.holders), "waiting": s.waiting}


def shift_clock(step: float) -> None:
    """Shift the wall clock, as far as Python code sees it."""
    real, real_ns, real_datetime = time.time, time.time_ns, datetime.datetime

    class Shifted(real_datetime):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real_datetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return real_datetime.fromtimestamp(time.time(), datetime.timezone.utc).replace(tzinfo=None)

    time.time = lambda: real() + step
    time.time_ns = lambda: real_ns() + int(step * 1e9)
    datetime.datetime = Shifted  # type: ignore[misc]


class AsyncDriver:
    def __init__(self) -> None:
        self.clients: dict[str, AsyncClient] = {}
        self.leases: dict[str, AsyncLease] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.leave: dict[str, asyncio.Event] = {}

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, "")

        threading.Thread(target=read, daemon=True).start()
        while line := await lines.get():
            c = json.loads(line)
            self.tasks[c["id"]] = loop.create_task(self.answer(c))

    async def answer(self, c: dict[str, Any]) -> None:
        try:
            write({"id": c["id"], "ok": await self.do(c) or {}})
        except BaseException as error:
            write({"id": c["id"], "error": describe(error, c["do"])})

    async def do(self, c: dict[str, Any]) -> dict[str, Any] | None:
        do = c["do"]
        if do == "open":
            self.clients[c["client"]] = AsyncClient(**client_options(c))
        elif do == "acquire":
            self.leases[c["lease"]] = lease = await self.clients[c["client"]].acquire(c["lock"], **options(c))
            return granted(lease)
        elif do == "adopt":
            self.leases[c["lease"]] = lease = await self.clients[c["client"]].adopt(c["lock"], c["secret"], **options(c))
            return granted(lease)
        elif do == "scoped":
            await self.scoped(c)
        elif do == "leave":
            self.leave[c["lease"]].set()
        elif do == "cancel":
            self.tasks[c["target"]].cancel()
        elif do == "renew":
            await self.leases[c["lease"]].renew(c.get("metadata"))
            return granted(self.leases[c["lease"]])
        elif do == "release":
            await self.leases[c["lease"]].release()
        elif do == "state":
            return state(self.leases[c["lease"]])
        elif do == "secret":
            return {"secret": self.leases[c["lease"]].secret}
        elif do == "status":
            return status(await self.clients[c["client"]].status(c["lock"]))
        elif do == "force_release":
            await self.clients[c["client"]].force_release(c["lock"], c["reason"], c.get("fence", 0))
        elif do == "clock":
            shift_clock(c["step_ms"] / 1000)
        elif do == "close":
            await self.clients[c["client"]].close()
        else:
            raise Unsupported(f"there is no command {do!r}")
        return None

    async def scoped(self, c: dict[str, Any]) -> None:
        leave = self.leave[c["lease"]] = asyncio.Event()
        async with self.clients[c["client"]].lock(c["lock"], **options(c)) as lease:
            self.leases[c["lease"]] = lease
            write({"event": "entered", "lease": c["lease"], "fence": lease.fence})
            if c["body"] == "raise":
                raise BodyFailed("body failed")
            if c["body"] == "wait":
                await leave.wait()


class SyncDriver:
    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self.leases: dict[str, Lease] = {}
        self.cancellations: dict[int, Cancellation] = {}
        self.leave: dict[str, threading.Event] = {}

    def main(self) -> None:
        for line in sys.stdin:
            c = json.loads(line)
            if c["do"] == "cancel":
                self.cancellations[c["target"]].cancel()
                write({"id": c["id"], "ok": {}})
                continue
            self.cancellations[c["id"]] = Cancellation()
            threading.Thread(target=self.answer, args=(c,), daemon=True).start()

    def answer(self, c: dict[str, Any]) -> None:
        try:
            write({"id": c["id"], "ok": self.do(c) or {}})
        except BaseException as error:
            write({"id": c["id"], "error": describe(error, c["do"])})

    def do(self, c: dict[str, Any]) -> dict[str, Any] | None:
        do = c["do"]
        if do == "open":
            self.clients[c["client"]] = Client(**client_options(c))
        elif do == "acquire":
            acquired = self.clients[c["client"]].acquire(c["lock"], cancellation=self.cancellations[c["id"]], **options(c))
            self.leases[c["lease"]] = acquired
            return granted(acquired)
        elif do == "adopt":
            self.leases[c["lease"]] = lease = self.clients[c["client"]].adopt(c["lock"], c["secret"], **options(c))
            return granted(lease)
        elif do == "scoped":
            self.scoped(c)
        elif do == "leave":
            self.leave[c["lease"]].set()
        elif do == "renew":
            self.leases[c["lease"]].renew(c.get("metadata"))
            return granted(self.leases[c["lease"]])
        elif do == "release":
            self.leases[c["lease"]].release()
        elif do == "state":
            return state(self.leases[c["lease"]])
        elif do == "secret":
            return {"secret": self.leases[c["lease"]].secret}
        elif do == "status":
            return status(self.clients[c["client"]].status(c["lock"]))
        elif do == "force_release":
            self.clients[c["client"]].force_release(c["lock"], c["reason"], c.get("fence", 0))
        elif do == "clock":
            shift_clock(c["step_ms"] / 1000)
        elif do == "close":
            self.clients[c["client"]].close()
        else:
            raise Unsupported(f"there is no command {do!r}")
        return None

    def scoped(self, c: dict[str, Any]) -> None:
        """A body that waits is woken by on_lost, and asks whether it still holds the lock, as the documentation says."""
        leave = self.leave[c["lease"]] = threading.Event()
        given = options(c)
        report = given["on_lost"]

        def lost(error: LeaseLost) -> None:
            report(error)
            leave.set()

        given["on_lost"] = lost
        with self.clients[c["client"]].lock(c["lock"], **given) as lease:
            self.leases[c["lease"]] = lease
            write({"event": "entered", "lease": c["lease"], "fence": lease.fence})
            if c["body"] == "raise":
                raise BodyFailed("body failed")
            if c["body"] == "wait":
                leave.wait()
                lease.check()


if __name__ == "__main__":
    if "--sync" in sys.argv:
        SyncDriver().main()
    else:
        asyncio.run(AsyncDriver().main())
