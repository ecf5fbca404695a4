"""Client, with a real coordinator. The behaviour suite (clients/suite) has the faults; here is what is Python's own."""

from __future__ import annotations

import contextvars
import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import holdfast
from holdfast import Client, HoldfastError, HTTPTransport, LeaseLost, LeaseReleased, LockHeld, Refused, Request, Response, Transport, Unavailable, current_lease


class Context:
    """Lambda's context object."""

    def __init__(self, milliseconds: int = 10_000) -> None:
        self.deadline = time.monotonic() + milliseconds / 1000
        self.aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self.deadline - time.monotonic()) * 1000), 0)


class Recorder:
    """A transport that records requests, and does something before each."""

    def __init__(self, endpoint: str) -> None:
        self.inner = holdfast.HTTPTransport(endpoint)
        self.requests: list[Request] = []
        self.before: Any = lambda request: None

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        self.before(request)
        return self.inner.send(request)

    def close(self) -> None:
        self.inner.close()

    def ops(self) -> list[str]:
        return [r.op for r in self.requests]


def holdfast_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("holdfast:")]


def threads_end() -> None:
    """Wait until no thread of a client runs: that which watched deadlines is told to end, and ends by itself."""
    deadline = time.monotonic() + 30
    while holdfast_threads():
        assert time.monotonic() < deadline, holdfast_threads()
        time.sleep(0.01)


class TestLock:
    def test_scope(self, client: Client, lock: str) -> None:
        with client.lock(lock, ttl=timedelta(seconds=30), metadata={"a": 1}) as lease:
            assert current_lease() is lease
            assert lease.held
            assert lease.error is None
            assert 0 < lease.remaining < 30
            assert abs(lease.deadline - time.monotonic() - lease.remaining) < 1
            seen = client.status(lock)
            assert seen.locked
            assert seen.holders[0].fence == lease.fence == seen.fence
            assert seen.holders[0].metadata == {"a": 1}
            assert repr(lease) == f"<Lease {lock} fence={lease.fence} held>"
            assert lease.secret not in repr(lease)
        assert current_lease() is None
        assert not client.status(lock).locked
        assert isinstance(lease.error, LeaseReleased)
        with pytest.raises(LeaseReleased):
            lease.check()
        with pytest.raises(LeaseReleased):
            lease.renew()

    def test_acquire_as_a_scope(self, client: Client, lock: str) -> None:
        with client.acquire(lock):
            assert client.status(lock).locked
        assert not client.status(lock).locked

    def test_a_scope_that_ends_in_another_context(self, client: Client, lock: str) -> None:
        scope = client.lock(lock)
        contextvars.copy_context().run(scope.__enter__)
        contextvars.copy_context().run(scope.__exit__, None, None, None)
        assert not client.status(lock).locked

    def test_error_of_the_body_comes_before_a_loss(self, client: Client, lock: str) -> None:
        with pytest.raises(KeyError) as caught, client.lock(lock):
            client.force_release(lock, "test")
            raise KeyError("of the body")
        assert isinstance(caught.value.__context__, LeaseLost)

    def test_loss_is_raised_at_the_end(self, client: Client, lock: str) -> None:
        with pytest.raises(LeaseLost), client.lock(lock, ttl=0.3) as lease:
            client.force_release(lock, "test")
            assert lease.wait_lost(30)
        assert isinstance(lease.error, LeaseLost)
        assert lease.error.op == "renew"

    def test_on_lost_can_release(self, client: Client, lock: str) -> None:
        told: list[LeaseLost] = []
        done = threading.Event()

        def lost(error: LeaseLost) -> None:
            told.append(error)
            with pytest.raises(LeaseLost):
                lease.release()  # in the thread of the renewals
            done.set()

        lease = client.acquire(lock, ttl=0.3, on_lost=lost)
        client.force_release(lock, "test")
        assert done.wait(30)
        assert len(told) == 1

    def test_on_renewal_releases_while_the_scope_ends(self, endpoint: str, lock: str) -> None:
        transport = Recorder(endpoint)
        failing, ended = threading.Event(), threading.Event()

        def before(request: Request) -> None:
            if request.op == "renew":
                raise OSError("no network")

        def report(error: HoldfastError | None, deadline: float) -> None:
            failing.set()
            assert lease.wait_lost(30)  # until the scope releases it
            lease.release()  # in the thread of the renewals, which the scope's end waits for
            ended.set()

        transport.before = before
        with Client(transport=transport, retries=0) as client:
            lease = client.acquire(lock, ttl=30, heartbeat=0.05, on_renewal=report)

            def scope() -> None:
                with lease:
                    assert failing.wait(30)

            thread = threading.Thread(target=scope, daemon=True)
            thread.start()
            assert ended.wait(30)
            thread.join(30)
            assert not thread.is_alive()
            assert transport.ops().count("release") == 1
            assert not client.status(lock).locked

    def test_on_lost_releases_when_a_release_finds_the_lease_lost(self, client: Client, lock: str) -> None:
        told: list[LeaseLost] = []

        def lost(error: LeaseLost) -> None:
            told.append(error)
            with pytest.raises(LeaseLost):
                lease.release()

        lease = client.acquire(lock, ttl=0.2, manual_renew=True, on_lost=lost)
        client._core.io.unwatch(lease)  # so that the release is the first to see it
        time.sleep(max(lease.deadline - time.monotonic(), 0) + 0.001)
        failed: list[HoldfastError] = []

        def release() -> None:
            try:
                lease.release()
            except LeaseLost as error:
                failed.append(error)

        thread = threading.Thread(target=release, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert (len(told), len(failed)) == (1, 1)

    def test_interrupted_wait_leaves_the_queue(self, client: Client, endpoint: str, lock: str) -> None:
        def interrupt(held: LockHeld) -> None:
            raise KeyboardInterrupt

        with client.lock(lock):
            with pytest.raises(KeyboardInterrupt), Client(endpoint, owner="other") as other:
                other.acquire(lock, on_wait=interrupt)
            deadline = time.monotonic() + 30
            while client.status(lock).waiting:
                assert time.monotonic() < deadline
        assert not client.status(lock).locked

    def test_held(self, client: Client, lock: str) -> None:
        with client.lock(lock) as lease:
            with pytest.raises(LockHeld) as caught:
                client.try_acquire(lock)
            error = caught.value
            assert (error.op, error.lock, error.timed_out) == ("acquire", lock, False)
            assert error.holders[0].fence == lease.fence
            assert error.holders[0].expires_at is not None
            assert 0 < error.retry_after <= 60.25
            assert "tester" in str(error)
            with pytest.raises(LockHeld) as caught:
                client.acquire(lock, wait=timedelta(milliseconds=200))
            assert caught.value.timed_out
            assert caught.value.position == 1

    def test_renewals_are_reported(self, endpoint: str, lock: str) -> None:
        reports: list[HoldfastError | None] = []
        enough = threading.Event()
        transport = Recorder(endpoint)
        failures = [0]

        def before(request: Request) -> None:
            if request.op == "renew" and failures[0] < 3:
                failures[0] += 1
                raise OSError("no network")

        def report(error: HoldfastError | None, deadline: float) -> None:
            reports.append(error)
            assert deadline > time.monotonic()
            if error is None:
                enough.set()

        transport.before = before
        with Client(transport=transport, retries=0) as client, client.lock(lock, ttl=2, on_renewal=report) as lease:
            assert enough.wait(30)
            assert lease.held
        assert isinstance(reports[0], Unavailable)
        assert reports[1:2] == [None]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_renewals_go_on_after_an_exception(self, endpoint: str, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither a callback that raises nor a fault of the client ends the renewals: the exception is reported."""
        raised: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
        transport = Recorder(endpoint)
        enough = threading.Event()
        read = holdfast._wire.grant
        told: list[HoldfastError | None] = []

        def grant(*args: Any) -> Any:
            renewals = transport.ops().count("renew")
            if renewals == 2:
                raise TypeError("a fault")
            if renewals == 5:
                enough.set()
            return read(*args)

        def before(request: Request) -> None:
            if transport.ops() == ["acquire", "renew"]:
                raise OSError("no network")

        def report(error: HoldfastError | None, deadline: float) -> None:
            told.append(error)
            raise KeyError("of the callback")

        monkeypatch.setattr(holdfast._wire, "grant", grant)
        transport.before = before
        with Client(transport=transport, retries=0) as client, client.lock(lock, ttl=10, heartbeat=0.05, on_renewal=report) as lease:
            assert enough.wait(30)
            assert lease.held
        assert [type(error) for error in told] == [Unavailable, type(None)]
        assert [type(error) for error in raised] == [KeyError, KeyError]

    @pytest.mark.parametrize("kind", [KeyError, SystemExit])
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_on_lost_that_raises_keeps_the_other_leases_watched(self, client: Client, lock: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
        raised: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))

        def lost(error: LeaseLost) -> None:
            raise kind("of the callback")

        first = client.acquire(f"{lock}-1", ttl=0.2, manual_renew=True, on_lost=lost)
        told = threading.Event()
        client.acquire(f"{lock}-2", ttl=1, manual_renew=True, on_lost=lambda error: told.set())
        assert first.wait_lost(30)
        assert told.wait(30)
        assert [type(error) for error in raised] == [kind]

    @pytest.mark.parametrize(("step", "kind"), [(1, LeaseLost), (-1, Refused)])
    def test_renewal_with_another_fence(self, client: Client, lock: str, monkeypatch: pytest.MonkeyPatch, step: int, kind: type[HoldfastError]) -> None:
        """A higher token says that the lease had ended between. No coordinator answers with a lower one."""
        told: list[LeaseLost] = []
        with client.lock(lock):
            pass
        lease = client.acquire(lock, manual_renew=True, on_lost=told.append)
        read = holdfast._wire.grant
        monkeypatch.setattr(holdfast._wire, "grant", lambda *args: replace(read(*args), fence=lease.fence + step))
        with pytest.raises(kind):
            lease.renew()
        assert lease.held == (kind is Refused)
        assert len(told) == (kind is LeaseLost)

    def test_release_by_secret_and_downgrade(self, client: Client, lock: str) -> None:
        writer = client.acquire(lock, mode="write")
        writer.downgrade()
        reader = client.try_acquire(lock, mode="read")
        client.release(lock, reader.secret)
        with pytest.raises(LeaseLost):
            reader.renew()
        assert len(client.status(lock).holders) == 1

    def test_minimum_hold_renews_a_short_lease(self, client: Client, lock: str) -> None:
        lease = client.acquire(lock, ttl=0.2, min_hold=1.5, manual_renew=True)
        lease.release()
        assert client.status(lock).holders[0].remaining > 0.5

    def test_an_interrupted_release_keeps_the_minimum_hold(self, endpoint: str, lock: str) -> None:
        transport = Recorder(endpoint)

        def before(request: Request) -> None:
            if request.op == "renew":
                raise KeyboardInterrupt

        with Client(transport=transport) as client:
            lease = client.acquire(lock, ttl=10, min_hold=60, manual_renew=True)
            transport.before = before
            with pytest.raises(KeyboardInterrupt):
                lease.release()
            threads_end()
            assert transport.ops() == ["acquire", "renew"]
            assert client.status(lock).locked
            lease.release()  # it has the result of the first

    def test_close_reports_what_was_not_released(self, endpoint: str) -> None:
        transport = Recorder(endpoint)
        client = Client(transport=transport, retries=0)
        leases = [client.acquire(f"close-{n}") for n in range(40)]

        def before(request: Request) -> None:
            raise OSError("no network")

        transport.before = before
        with pytest.raises(holdfast.CloseError) as caught:
            client.close()
        assert (caught.value.left, caught.value.total, len(caught.value.errors)) == (40, 40, 40)
        assert not any(lease.held for lease in leases)
        threads_end()
        with pytest.raises(holdfast.ClientClosed):
            client.acquire("close-0")

    def test_a_close_that_cannot_reach_the_coordinator_gives_up(self, endpoint: str) -> None:
        transport = Recorder(endpoint)
        client = Client(transport=transport, retries=0)
        for n in range(100):
            client.acquire(f"give-up-{n}", manual_renew=True)
        transport.before = lambda request: (_ for _ in ()).throw(OSError("no network"))
        with pytest.raises(holdfast.CloseError):
            client.close()
        assert transport.ops().count("release") < 70  # 32 at a time

    def test_cancellation_before_the_acquire(self, client: Client, lock: str) -> None:
        cancellation = holdfast.Cancellation()
        cancellation.cancel()
        with pytest.raises(holdfast.AcquireCancelled):
            client.acquire(lock, cancellation=cancellation)
        assert not client.status(lock).locked


@pytest.mark.parametrize(("leases", "imports"), [(1, "atexit"), (3, "atexit"), (3, "atexit, concurrent.futures.thread")])
def test_close_at_the_end_of_the_interpreter(client: Client, endpoint: str, lock: str, leases: int, imports: str) -> None:
    """atexit runs close when no thread can be started any more."""
    script = f"""
import {imports}, holdfast
client = holdfast.Client({endpoint!r})
atexit.register(client.close)
for n in range({leases}):
    client.acquire({lock!r} + str(n), manual_renew=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(client.status(f"{lock}{n}").locked for n in range(leases))


class TestExclusive:
    def test_lease_of_an_invocation(self, endpoint: str, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "worker")
        transport = Recorder(endpoint)
        client = Client(transport=transport)
        seen: list[Any] = []

        @client.exclusive(lambda event: f"{lock}:{event['id']}")
        def handler(event: Any, context: Any) -> str:
            """Say what it does."""
            lease = current_lease()
            assert lease is not None
            seen.append((client.status(lease.name).holders[0], lease, holdfast_threads()))
            return "result"

        context = Context(10_000)
        assert handler.__doc__ == "Say what it does."
        assert handler({"id": 7}, context) == "result"
        holder, lease, threads = seen[0]
        assert lease.name == f"{lock}:7"
        assert holder.owner == "worker/request-1"
        assert context.deadline < lease.deadline < context.deadline + 2  # it is proved until the end of the invocation
        assert threads == []
        threads_end()
        assert transport.ops() == ["acquire", "status", "release"]
        assert not client.status(lease.name).locked

    def test_held(self, client: Client, lock: str) -> None:
        ran: list[int] = []

        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> None:
            ran.append(1)

        with client.lock(lock):
            with pytest.raises(LockHeld) as caught:
                handler({}, Context())
            assert type(caught.value).__name__ == "LockHeld"  # Lambda's errorType
            assert client.status(lock).waiting == 0
        assert ran == []
        handler({}, Context())
        assert ran == [1]

    def test_error_of_the_handler(self, client: Client, lock: str) -> None:
        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> None:
            raise KeyError("of the handler")

        with pytest.raises(KeyError):
            handler({}, Context())
        assert not client.status(lock).locked

    def test_lost(self, client: Client, lock: str) -> None:
        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> None:
            client.force_release(lock, "test")

        with pytest.raises(LeaseLost):
            handler({}, Context())

    def test_release_that_fails_does_not_fail_the_invocation(self, endpoint: str, lock: str) -> None:
        transport = Recorder(endpoint)

        def before(request: Request) -> None:
            if request.op == "release":
                raise OSError("no network")

        transport.before = before
        client = Client(transport=transport, retry_delay=60)

        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> str:
            return "result"

        assert handler({}, Context(2000)) == "result"
        assert transport.ops() == ["acquire", "release"]  # a pause would be longer than the invocation
        threads_end()

    def test_a_grant_that_may_have_been_is_released_at_once(self, endpoint: str, lock: str) -> None:
        transport = Recorder(endpoint)

        def before(request: Request) -> None:
            if request.op == "acquire":
                transport.inner.send(request)
                raise OSError("the answer is lost")

        transport.before = before
        client = Client(transport=transport, retries=0)

        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> None: ...

        with pytest.raises(Unavailable):
            handler({}, Context())
        assert transport.ops() == ["acquire", "release"]
        threads_end()
        assert not client.status(lock).locked

    def test_ttl_given(self, client: Client, lock: str) -> None:
        @client.exclusive(lock, ttl=0.4)
        def handler(event: Any, context: Any) -> None:
            lease = current_lease()
            assert lease is not None
            first = lease.deadline
            deadline = time.monotonic() + 30
            while lease.deadline == first:
                assert time.monotonic() < deadline, "it was not renewed"

        handler({}, Context())
        threads_end()

    def test_ttl_given_is_of_the_invocation_too(self, endpoint: str, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The owner is the invocation, and a grant that may have been is released before the handler's end, in no thread."""
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "worker")
        transport = Recorder(endpoint)
        releases: list[str] = []

        def before(request: Request) -> None:
            if request.op == "acquire":
                assert json.loads(request.body or b"")["owner"] == "worker/request-1"
                transport.inner.send(request)
                raise OSError("the answer is lost")
            releases.append(threading.current_thread().name)

        transport.before = before
        client = Client(transport=transport, retries=0)

        @client.exclusive(lock, ttl=30)
        def handler(event: Any, context: Any) -> None: ...

        with pytest.raises(Unavailable):
            handler({}, Context())
        assert releases == [threading.current_thread().name]
        assert not client.status(lock).locked

    def test_minimum_hold_has_the_budget_of_the_invocation(self, endpoint: str, lock: str) -> None:
        transport = Recorder(endpoint)

        def before(request: Request) -> None:
            if request.op == "renew":
                raise OSError("no network")

        transport.before = before
        client = Client(transport=transport, retries=3, retry_delay=60)

        @client.exclusive(lock, ttl=10, min_hold=60, manual_renew=True)
        def handler(event: Any, context: Any) -> str:
            return "result"

        assert handler({}, Context(2000)) == "result"
        assert transport.ops() == ["acquire", "renew"]  # a pause would be longer than the invocation

    def test_without_lambda(self, client: Client, lock: str) -> None:
        @client.exclusive(lock)
        def handler(event: Any, context: Any) -> int:
            return len(client.status(lock).holders)

        assert handler({}, None) == 1
        assert not client.status(lock).locked


def _child(client: Client, lease: holdfast.Lease, name: str, out: Any) -> None:
    error = lease.error
    try:
        lease.release()
        released = "released"
    except LeaseLost as lost:
        released = str(lost)
    with client.lock(name + "-child", ttl=0.4) as own:
        out.put((lease.held, str(error), released, own.held, client.status(name).locked))


class TestFork:
    def test_a_child_does_not_hold_the_lease(self, client: Client, lock: str) -> None:
        context = multiprocessing.get_context("fork")
        with client.lock(lock, ttl=30) as lease:
            out = context.Queue()
            child = context.Process(target=_child, args=(client, lease, lock, out))
            child.start()
            held, error, released, own, locked = out.get(timeout=60)
            child.join(60)
            assert child.exitcode == 0
            assert (held, own, locked) == (False, True, True)
            assert "forked" in error
            assert "forked" in released
            assert lease.held
            lease.renew()


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "field", "says"),
        [
            ({"ttl": "30"}, "ttl", "a number of seconds"),
            ({"ttl": 0}, "ttl", "None for 60 s"),
            ({"ttl": float("nan")}, "ttl", "a number"),
            ({"ttl": True}, "ttl", "a number"),
            ({"ttl": timedelta(days=8)}, "ttl", "604800"),
            ({"ttl": 10, "heartbeat": 10}, "heartbeat", "less than the TTL"),
            ({"wait": -1}, "wait", "0 to ask once"),
            ({"min_hold": -1}, "min_hold", "0 for none"),
            ({"capacity": 101}, "capacity", "1 to 100"),
            ({"permits": 3, "capacity": 2}, "permits", "which is 2"),
            ({"mode": "rw"}, "mode", "'read' or 'write'"),
            ({"mode": "read", "permits": 1}, "mode", "one or the other"),
            ({"owner": "x" * 257}, "owner", "257 bytes"),
            ({"owner": "a\nb"}, "owner", "control character"),
            ({"metadata": [1]}, "metadata", "give a dict"),
            ({"metadata": {"a": object()}}, "metadata", "cannot be encoded"),
            ({"metadata": {"a": float("nan")}}, "metadata", "cannot be encoded"),
            ({"metadata": {"a": "x" * 2048}}, "metadata", "at most 2048"),
        ],
    )
    def test_options(self, client: Client, options: Any, field: str, says: str) -> None:
        with pytest.raises(Refused) as caught:
            client.acquire("a", **options)
        assert caught.value.field == field
        assert says in str(caught.value)
        assert caught.value.op == "acquire"

    def test_unknown_option(self, client: Client) -> None:
        with pytest.raises(TypeError, match="timeout"):
            client.acquire("a", timeout=3)  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"endpoint": ""}, "HOLDFAST_ENDPOINT"),
            ({"endpoint": "127.0.0.1:7420"}, "without a scheme"),
            ({"endpoint": "ftp://x"}, "give a URL like"),
            ({"endpoint": "http://x:99999"}, "give a URL like"),
            ({"endpoint": "http://u:p@x"}, "user name"),
            ({"endpoint": "http://x/v1/locks/"}, "only up to"),
            ({"endpoint": "http://x?a=b"}, "only up to"),
            ({"endpoint": "http://abc.execute-api.eu-west-1.amazonaws.com"}, "https only"),
            ({"endpoint": "https://abc.execute-api.eu-west-1.amazonaws.com", "region": "us-east-1"}, "leave region out"),
            ({"endpoint": "http://x", "request_timeout": 0}, "request_timeout"),
            ({"endpoint": "http://x", "retries": -1}, "retries"),
            ({"endpoint": "http://x", "retry_delay": 0}, "retry_delay"),
            ({"endpoint": "http://x", "transport": 1}, "one or the other"),
        ],
    )
    def test_client(self, arguments: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOLDFAST_ENDPOINT", raising=False)
        with pytest.raises(ValueError, match=says):
            Client(**arguments)

    def test_endpoint_of_the_environment(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOLDFAST_ENDPOINT", endpoint + "/")
        with Client() as client:
            assert not client.status("environment").locked
        transport: Transport = holdfast.HTTPTransport(endpoint)
        with Client(transport=transport) as client:
            assert not client.status("environment").locked


class TestErrors:
    @pytest.mark.parametrize(
        "error",
        [
            LockHeld((holdfast.Holder("me", 7, None, 1.5),), 2.0, 1, 3),
            holdfast.LockFrozen(frozen=holdfast.Freeze("a", None, None, "why", "")),
            LeaseLost("its time ran out"),
            LeaseReleased(),
            Unavailable("503", 1.0, True),
            Refused("wrong", code="invalid_request", status=400, field="ttl_ms"),
            holdfast.LimitExceeded(holdfast.Limit("capacity", 3, 0, "a", "capacity", "too much"), 409),
            holdfast.ClientClosed(),
            holdfast.AcquireCancelled(),
            holdfast.CloseError(1, 2, [Unavailable("503")]),
        ],
    )
    def test_copies_and_pickles(self, error: HoldfastError) -> None:
        error._of("acquire", "a")
        for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert str(again) == str(error)
            assert again.__dict__.keys() == error.__dict__.keys()
            assert (again.op, again.lock) == ("acquire", "a")

    def test_names(self) -> None:
        for text, name in {
            "deploy:prod": "deploy:prod",
            "feature/x y": "feature=2Fx=20y",
            "a+b=c": "a=2Bb=3Dc",
            "refs/heads/größe": "refs=2Fheads=2Fgr=C3=B6=C3=9Fe",
            ".": "=2E",
            "..": "=2E=2E",
            "=41": "=3D41",
        }.items():
            assert holdfast.escape_name(text) == name
            assert holdfast.unescape_name(name) == text
        for wrong in ("", "/" * 86):
            with pytest.raises(Refused):
                holdfast.escape_name(wrong)
        for wrong in ("", "a=", "a=4", "a=4g", "a=2f", "=41", "a+b", "a/b", ".", "ä", "a=FF"):
            with pytest.raises(Refused):
                holdfast.unescape_name(wrong)


def test_a_release_during_a_poll_wakes_the_waiter(endpoint: str, lock: str) -> None:
    """The release comes between the answer to a poll and the waiter's rest, which would last for minutes."""
    answered, released = threading.Event(), threading.Event()

    class Late(HTTPTransport):
        def send(self, request: Request) -> Response:
            response = super().send(request)
            if request.body and b'"ticket"' in request.body and not released.is_set():
                answered.set()
                assert released.wait(30)
            return response

    with Client(transport=Late(endpoint), retry_delay=200.0) as client:
        lease = client.acquire(lock, ttl=600.0)
        waiter = threading.Thread(target=lambda: client.acquire(lock, ttl=600.0).release())
        waiter.start()
        assert answered.wait(30)
        lease.release()
        released.set()
        waiter.join(20)
        assert not waiter.is_alive()
