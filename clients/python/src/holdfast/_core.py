"""What the clients do, once for threads and asyncio.

The functions here are coroutines. Whatever waits goes through an IO: that of AsyncClient awaits, and that of Client blocks its thread and never
suspends, so that Client runs a coroutine to its end with one send (see _threads.run).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import Any, Protocol, TypeVar

from . import _clock, _wire
from ._acquire import Acquisition
from ._errors import ClientClosed, CloseError, Holder, HoldfastError, LeaseLost, LeaseReleased, Refused, Unavailable, _Aborted
from ._lease import CoreLease, proved_until
from ._options import AcquireOptions, Invocation, Options, Seconds, check_owner, seconds
from .transport import Request, Response, Transport, encode

LAST_RELEASE = 5.0  # the time limit of a release in the background, in seconds
MAX_RETRY_AFTER = 5.0  # the longest pause before a retry that an answer can ask for, in seconds
CLOSERS = 32  # how many releases `close` makes at a time

T = TypeVar("T")


@contextmanager
def operation(op: str, lock: str) -> Iterator[None]:
    """Have the errors of the body say which operation failed."""
    try:
        yield
    except HoldfastError as error:
        error._of(op, lock)
        raise


class IO(Protocol):
    """How a client waits, sends and works in the background."""

    def flag(self) -> Any: ...
    def lock(self) -> Any: ...
    async def send(self, transport: Transport, request: Request) -> Response: ...
    async def pause(self, seconds: float, flag: Any) -> None: ...
    async def join(self, work: Any, within: float | None = None) -> None: ...
    async def each(self, jobs: list[Coroutine[Any, Any, None]], most: int) -> None: ...
    def start(self, what: str, job: Coroutine[Any, Any, None], *, last: bool = False) -> Any: ...
    def watch(self, lease: CoreLease) -> None: ...
    def unwatch(self, lease: CoreLease) -> None: ...
    def report(self, error: BaseException) -> None: ...
    def reset(self) -> None: ...


# The clients of this process, which begin anew in the child of a fork.
_cores: weakref.WeakSet[Core] = weakref.WeakSet()


def _after_fork() -> None:
    for core in list(_cores):
        core.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Core:
    """The state of a client, and its operations."""

    def __init__(
        self,
        io: IO,
        transport: Transport,
        *,
        owner: str = "",
        request_timeout: Seconds = 5.0,
        retries: int = 3,
        retry_delay: Seconds | None = None,
        lease_class: type[CoreLease],
    ) -> None:
        self.io, self.transport, self.owner, self.retries, self.lease_class = io, transport, owner, retries, lease_class
        self.timeout = seconds("request_timeout", request_timeout)
        delay = None if retry_delay is None else seconds("retry_delay", retry_delay)
        if self.timeout <= 0:
            raise ValueError(f"request_timeout is {self.timeout:g} s; give a time above 0")
        if retries < 0:
            raise ValueError(f"retries is {retries}; give 0 for none, or how many")
        if delay is not None and delay <= 0:
            raise ValueError(f"retry_delay is {delay:g} s; give a time above 0, or None for 1 s")
        check_owner(owner)
        self.retry_delay = delay or 1.0
        self.poll_delay = delay or 2.0
        self.closed = False
        self.reset()
        _cores.add(self)

    def reset(self) -> None:
        """Forget what runs; also in the child of a fork, where nothing of it does."""
        self.leases: set[CoreLease] = set()  # those that have not ended
        self.acquisitions: set[Acquisition] = set()  # in progress
        self.work: set[Any] = set()  # what runs in the background
        self.later: list[Any] = []  # set when the client closes: flags of releases that wait for a minimum hold
        self.mutex = threading.RLock()
        self.io.reset()

    def owner_in(self, invocation: Invocation | None) -> str:
        """Return the owner of a lock that is acquired in an invocation, or outside of one."""
        if self.owner:
            return self.owner
        return invocation.owner() if invocation is not None else f"{socket.gethostname()}/{os.getpid()}"

    def backoff(self, n: int, after: float = 0.0) -> float:
        """Return the pause before another try, after n others, in seconds.

        It is a tenth of the retry delay, doubled for each try up to the retry delay, at random from the upper half of that range. It is at least
        `after`, which the answer asked for, but not for that reason longer than MAX_RETRY_AFTER.
        """
        d = min(self.retry_delay, self.retry_delay / 10 * float(2 ** min(n, 4)))
        return max(d / 2 + _clock.chance(d / 2), min(after, MAX_RETRY_AFTER))

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call an on_lost or on_renewal. Its error is reported, and the client's work goes on: other leases depend on it."""
        try:
            function(*args)
        except Exception as error:
            self.io.report(error)

    # Requests

    async def send(self, op: str, name: str, fields: dict[str, Any] | None, timeout: float, started: Callable[[Request], None] | None = None) -> dict[str, Any]:
        """Make one try of a request. It raises an error of this package, or _Aborted."""
        request = Request(op, name, None if fields is None else encode(fields), timeout)
        if started is not None:
            started(request)
        try:
            response = await self.io.send(self.transport, request)
        except (HoldfastError, _Aborted):
            raise
        except Exception as error:
            raise Unavailable(_what(error)) from error
        body = response.body
        if response.status != 200 and fields is not None and fields.get("lease"):
            body = body.replace(fields["lease"].encode(), b"(the lease's secret)")  # a proxy's answer may repeat the request
        return _wire.answer(response.status, body, response.retry_after)

    async def retry(self, attempt: Callable[[float], Coroutine[Any, Any, T]], within: float | None = None, flag: Any = None) -> T:
        """Send a request again while it has no answer, up to `retries` times and for up to `within` seconds.

        attempt gets the time limit of one try. The pauses end early if flag is set.
        """
        until = None if within is None else time.monotonic() + within
        n = 0
        while True:
            left = self.timeout if until is None else min(self.timeout, until - time.monotonic())
            try:
                return await attempt(max(left, 0.001))
            except Unavailable as error:
                pause = self.backoff(n, error.retry_after)
                late = until is not None and time.monotonic() + pause >= until
                if n >= self.retries or late or (flag is not None and flag.is_set()):
                    raise
            await self.io.pause(pause, flag)
            n += 1

    # Acquisitions

    async def acquire(self, name: str, given: AcquireOptions, invocation: Invocation | None = None) -> CoreLease:
        """Acquire a lock: see Client.acquire."""
        with operation("acquire", name):
            try:
                return await Acquisition(self, name, Options.of(given), invocation, wake=self.io.flag()).run()
            except HoldfastError as error:
                if self.closed and not isinstance(error, ClientClosed):
                    raise ClientClosed from error
                raise

    def enter(self, a: Acquisition) -> None:
        with self.mutex:
            if self.closed:
                raise ClientClosed()
            self.acquisitions.add(a)

    def leave(self, a: Acquisition) -> None:
        with self.mutex:
            self.acquisitions.discard(a)

    def wake_next(self, name: str) -> None:
        """Wake this client's first waiter for a lock that it has released: the release may have granted the lock to it."""
        with self.mutex:
            first = min((a for a in self.acquisitions if a.name == name and a.waits and a.ticket > 0), key=lambda a: a.ticket, default=None)
        if first is not None:
            first.wake.set()

    def keep(self, name: str, secret: str, options: Options, sent: _clock.Reading, grant: _wire.Grant, invocation: Invocation | None) -> CoreLease:
        """Make a lease of a grant, and start its renewals."""
        lease = self.lease_class(self, name, secret, options, sent, grant)
        if lease._deadline.left() <= 0:
            raise LeaseLost("its answer took longer than its life")
        with self.mutex:
            if self.closed:
                raise ClientClosed()
            self.leases.add(lease)
        if invocation is not None and options.ttl is None:  # nothing runs in the background, and the lease outlives the invocation
            return lease
        self.io.watch(lease)
        if not options.manual_renew:
            lease._renewing = self.background(f"renew {name}", self.keep_renewing(lease))
        return lease

    def background(self, what: str, job: Coroutine[Any, Any, None], last: bool = False) -> Any:
        """Run a job in the background. `last` says that the process does not end before it."""

        async def run() -> None:
            try:
                await job
            finally:
                with self.mutex:
                    self.work.discard(handle[0])

        handle: list[Any] = [None]
        with self.mutex:
            handle[0] = self.io.start(what, run(), last=last)
            self.work.add(handle[0])
        return handle[0]

    async def forget(self, name: str, secret: str, invocation: Invocation | None) -> None:
        """Release a lease that nobody uses: in the background, so that whoever gives up is not kept.

        In a Lambda invocation, where nothing runs in the background after the handler, it is done at once.
        """
        if invocation is not None:
            await self.release_quietly(name, secret, invocation.budget(LAST_RELEASE))
        else:
            self.background(f"release {name}", self.release_quietly(name, secret, LAST_RELEASE), last=True)

    async def release_quietly(self, name: str, secret: str, within: float) -> None:
        """Release a lease as far as the coordinator can be reached. Otherwise it expires by itself."""
        with suppress(HoldfastError, _Aborted):
            await self.release_secret(name, secret, within)

    # Leases

    async def renew(
        self, lease: CoreLease, metadata: dict[str, Any] | None = None, within: float | None = None, failed: Callable[[HoldfastError], None] | None = None
    ) -> None:
        """Renew a lease. It calls failed, if there is one, for each try that fails."""
        lease.check()

        def started(request: Request) -> None:
            """Let the end of the lease abort the request."""
            with lease._mutex:
                lease._renewal = request
                over = lease._cause is not None
            if over:
                request.abort()

        async def attempt(timeout: float) -> tuple[_clock.Reading, _wire.Grant]:
            try:
                return await self.send_renewal(lease, lease._ttl, metadata, timeout, started)
            except HoldfastError as error:
                if failed is not None:
                    failed(error)
                raise

        try:
            sent, grant = await self.retry(attempt, within, lease._over)
        except LeaseLost as error:
            lease._end(lease._loss(error))
            raise
        except _Aborted:
            raise copy(lease.error or LeaseReleased()) from None
        except HoldfastError as error:
            lease._renew_error = error
            error._of("renew", lease.name)
            raise
        finally:
            lease._renewal = None
        lease._renew_error = None
        with lease._mutex:
            if lease._cause is None and lease._deadline.left() > 0:
                proved = proved_until(sent, grant)
                if proved.monotonic > lease._deadline.monotonic:  # answers may arrive out of order
                    lease._deadline, lease._hold = proved, grant.hold
                return
        raise copy(lease.error) or lease._loss(LeaseLost("it expired before the answer to a renewal arrived"))

    async def send_renewal(
        self, lease: CoreLease, ttl: float, metadata: dict[str, Any] | None, timeout: float, started: Callable[[Request], None] | None = None
    ) -> tuple[_clock.Reading, _wire.Grant]:
        """Make one try of a renewal. The first result is the time before it."""
        fields: dict[str, Any] = {"lease": lease._secret, "ttl_ms": round(ttl * 1000)}
        if metadata is not None:
            fields["metadata"] = metadata
        sent = _clock.now()
        grant = _wire.grant(await self.send("renew", lease.name, fields, timeout, started), lease.name, lease._secret)
        if grant.fence > lease._fence:  # the lock forgot the lease, and a late copy of its acquire got the lock again; others may have held it between
            raise LeaseLost("it had ended, and the lock was granted to it again")
        if grant.fence < lease._fence:
            raise _wire.not_coordinator(200, "an answer with a lower fencing token than this lease's")
        return sent, grant

    async def keep_renewing(self, lease: CoreLease) -> None:
        """Renew a lease at every heartbeat, and more often after a failure, until it ends.

        If the grant's answer was slow, less of the lease's life is left, and the first renewal is sooner.
        """
        beat, ttl = lease._heartbeat, lease._ttl
        pause = min(beat, lease._deadline.left() * beat / ttl)
        failing = False

        def report(error: HoldfastError | None) -> None:
            nonlocal failing
            if failing == (error is not None) or lease._cause is not None or isinstance(error, LeaseLost):
                return
            failing = error is not None
            if lease._on_renewal is not None:
                self.call(lease._on_renewal, error, lease.deadline)

        while True:
            await self.io.pause(pause, lease._over)
            if lease._cause is not None:
                return
            within = max(min(beat, lease._deadline.left() / 2), ttl / 12)  # a try that hangs leaves time for others
            try:
                await self.renew(lease, None, within, report)
                report(None)
                pause = beat
            except Exception as error:
                if not isinstance(error, HoldfastError):  # a fault of this package or of an answer; the next renewal may succeed
                    lease._renew_error = Unavailable(_what(error))
                    report(lease._renew_error)
                pause = min(beat, ttl / 12)

    async def release(self, lease: CoreLease, within: float | None = None, again: Callable[[Unavailable], bool] | None = None, background: bool = True) -> None:
        """Release a lease the first time that it is called. Later calls have the result of the first.

        `_releasing` is taken only after the lease and its renewals have ended: on_lost and on_renewal may release the lease, too.
        """
        error = lease.error
        if lease._pid != os.getpid():  # the parent holds it
            raise LeaseLost(error.why if isinstance(error, LeaseLost) else "")._of("release", lease.name)
        if isinstance(error, LeaseLost):
            lease._end(error)
        lease._end(LeaseReleased())
        until = None if within is None else time.monotonic() + within
        try:
            if lease._renewing is not None:
                await self.io.join(lease._renewing, within)
        except BaseException:
            await self.release_interrupted(lease)
            raise
        async with lease._releasing:
            if lease._result is None:
                await self.release_once(lease, None if until is None else max(until - time.monotonic(), 0.0), again, background)
            elif lease._result[0] is not None:
                raise copy(lease._result[0])

    async def release_once(self, lease: CoreLease, within: float | None, again: Callable[[Unavailable], bool] | None, background: bool) -> None:
        try:
            await self.release_first(lease, within, again, background)
        except HoldfastError as error:
            error._of("release", lease.name)
            lease._result = (error,)
            raise
        except BaseException:  # cancelled, or interrupted
            await self.release_interrupted(lease)
            raise
        lease._result = (None,)

    async def release_interrupted(self, lease: CoreLease) -> None:
        """Release a lease in the background. If it was to stay held for longer, or was lost, it expires by itself."""
        if lease._result is None:
            lease._result = (None,)
            if isinstance(lease._cause, LeaseReleased) and lease._rest() <= 0 and not self.closed:
                await self.forget(lease.name, lease._secret, None)

    async def release_first(self, lease: CoreLease, within: float | None, again: Callable[[Unavailable], bool] | None, background: bool) -> None:
        was = lease._cause if isinstance(lease._cause, LeaseLost) else None
        rest = lease._rest()
        if was is None and rest > 0:
            await self.release_later(lease, rest, within, background)
            return
        try:
            await self.release_secret(lease.name, lease._secret, within, again)
        except (Unavailable, Refused):
            if was is None:
                raise
        if was is not None:  # the request was sent so that others get the lock sooner
            raise LeaseLost(was.why)

    async def release_later(self, lease: CoreLease, rest: float, within: float | None, background: bool) -> None:
        """Keep the lock held for rest seconds, and then release it in the background."""
        if lease._deadline.left() < rest:
            ttl = max(rest + 0.001, _wire.MIN_TTL)
            await self.retry(lambda timeout: self.send_renewal(lease, ttl, None, timeout), within)  # an error: it is not certain that the lock stays held
        if background and not self.closed:
            self.background(f"release {lease.name} later", self.after_min_hold(lease, rest))

    async def after_min_hold(self, lease: CoreLease, rest: float) -> None:
        flag = self.io.flag()
        with self.mutex:
            if self.closed:
                return
            self.later.append(flag)
        await self.io.pause(rest, flag)
        if not flag.is_set():  # else the client was closed, and the lease expires by itself
            await self.release_quietly(lease.name, lease._secret, LAST_RELEASE)

    async def release_secret(self, name: str, secret: str, within: float | None = None, again: Callable[[Unavailable], bool] | None = None) -> None:
        """Release a lease by its secret. After an error it tries again for as long as again, if there is one, returns True."""
        n = 0

        async def attempt(timeout: float) -> dict[str, Any]:
            nonlocal n
            n += 1
            return await self.send("release", name, {"lease": secret}, timeout)

        while True:
            try:
                _wire.check_lock(await self.retry(attempt, within), name)
                break
            except LeaseLost:
                if n > 1:
                    return  # an earlier try released it
                raise
            except Unavailable as error:
                if again is None or not again(error):
                    raise
        self.wake_next(name)

    async def adopt(self, name: str, secret: str, given: AcquireOptions) -> CoreLease:
        """Make a lease of one that another process acquired: see Client.adopt."""
        fields: dict[str, Any] = {"lease": secret}
        sent = _clock.now()

        async def attempt(timeout: float) -> dict[str, Any]:
            nonlocal sent
            sent = _clock.now()
            return await self.send("renew", name, fields, timeout)

        with operation("renew", name):
            _wire.check_name(name)
            _wire.check_secret(secret)
            options = Options.of(given)
            options.min_hold = 0.0
            if options.ttl is not None:
                fields["ttl_ms"] = round(options.ttl * 1000)
            if options.metadata is not None:
                fields["metadata"] = options.metadata
            if self.closed:
                raise ClientClosed()
            body = await self.retry(attempt)
            return self.keep(name, secret, options, sent, _wire.grant(body, name, secret), None)

    async def downgrade(self, lease: CoreLease) -> None:
        with operation("release", lease.name):
            lease.check()
            fields = {"lease": lease._secret, "mode": "read"}
            _wire.check_lock(await self.retry(lambda timeout: self.send("release", lease.name, fields, timeout)), lease.name)
        self.wake_next(lease.name)

    # Locks

    async def status(self, name: str) -> _wire.Status:
        with operation("status", name):
            _wire.check_name(name)
            return _wire.status(await self.retry(lambda timeout: self.send("status", name, None, timeout)), name)

    async def force_release(self, name: str, reason: str, fence: int) -> tuple[Holder, ...]:
        with operation("force_release", name):
            _wire.check_name(name)
            fields: dict[str, Any] = {"reason": reason, **({"fence": fence} if fence else {})}
            body = await self.retry(lambda timeout: self.send("force-release", name, fields, timeout))
            _wire.check_lock(body, name)
            return _wire.holders(body, "released")

    async def release_by_secret(self, name: str, secret: str) -> None:
        with operation("release", name):
            _wire.check_name(name)
            _wire.check_secret(secret)
            await self.release_secret(name, secret)

    # The end

    async def close(self) -> None:
        """End the acquisitions, release all leases, and wait for what runs in the background."""
        with self.mutex:
            self.closed = True
            waiting, later, self.later = list(self.acquisitions), self.later, []
            held = sorted(self.leases, key=lambda lease: lease._fence)  # the oldest grant first
        for a in waiting:
            a.stop(ClientClosed())
        for flag in later:
            flag.set()
        closing = Closing(self)
        await self.io.each([closing.release(lease) for lease in held], CLOSERS)
        while True:
            with self.mutex:
                running = self.work.pop() if self.work else None
                busy = bool(self.acquisitions)
            if running is not None:
                await self.io.join(running)
            elif busy:
                await self.io.pause(0.005, self.io.flag())
            else:
                break
        self.transport.close()
        if closing.errors:
            raise CloseError(closing.left, len(held), closing.errors)


class Closing:
    """The state of one close. It gives up when all tries of a release had no answer and no other release had one meanwhile."""

    def __init__(self, core: Core) -> None:
        self.core, self.answers, self.away, self.left = core, 0, False, 0
        self.errors: list[HoldfastError] = []

    async def release(self, lease: CoreLease) -> None:
        if lease._result is not None:
            return
        if self.away:
            lease._end(LeaseReleased())
            self.note(Unavailable("the coordinator did not answer the releases before")._of("release", lease.name))
            return
        before = self.answers

        def again(error: Unavailable) -> bool:
            nonlocal before
            progress, before = self.answers > before, self.answers
            return error.throttled and progress

        start = self.answers
        try:
            await self.core.release(lease, again=again, background=False)
        except Unavailable as error:
            self.away = self.away or self.answers == start
            self.note(error)
            return
        except HoldfastError as error:
            self.note(error)
        self.answers += 1

    def note(self, error: HoldfastError) -> None:
        self.errors.append(error)
        if not isinstance(error, LeaseLost):
            self.left += 1


def _what(error: BaseException) -> str:
    """Return the text of an exception of a transport, whose own may be empty."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
