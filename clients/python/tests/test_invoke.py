"""InvokeTransport, with a server in the place of Lambda that passes invocations on to a real coordinator."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from botocore.session import Session
from conftest import Serve, reply

from holdfast import Client, LeaseLost, LockHeld, Refused, Unavailable
from holdfast.invoke import InvokeTransport

Answer = Callable[[Any, str, dict[str, Any]], None]


def connect(serve: Serve, answer: Answer, **functions: Any) -> Client:
    def invoked(handler: Any, body: bytes) -> None:
        assert handler.headers["Authorization"].startswith("AWS4-HMAC-SHA256")
        function = unquote(handler.path.split("/")[3])
        answer(handler, function, json.loads(body))

    session = Session()
    session.set_credentials("AKIDEXAMPLE", "secret")
    functions = functions or {op: f"holdfast-{op}" for op in ("acquire", "renew", "release", "force_release", "status")}
    transport = InvokeTransport(region="eu-west-1", session=session, endpoint_url=serve(invoked), **functions)
    return Client(transport=transport, retries=1, retry_delay=0.01)


def coordinator(endpoint: str) -> Answer:
    def answer(handler: Any, function: str, fields: dict[str, Any]) -> None:
        op, name = function.removeprefix("holdfast-").replace("_", "-"), fields.pop("name")
        url = f"{endpoint}/v1/locks/{quote(name, safe='')}"
        if op == "status":
            assert fields == {"op": "status"}
            request = urllib.request.Request(url)
        else:
            request = urllib.request.Request(f"{url}/{op}", json.dumps(fields).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as response:
                reply(handler, 200, response.read())
        except urllib.error.HTTPError as error:
            problem = error.read().decode()
            error.close()
            reply(handler, 200, json.dumps({"errorType": "Problem", "errorMessage": problem}).encode(), X_Amz_Function_Error="Unhandled")

    return answer


def test_operations(serve: Serve, endpoint: str, lock: str) -> None:
    with connect(serve, coordinator(endpoint)) as client:
        lease = client.acquire(f"{lock}:x", metadata={"a": 1})
        lease.renew()
        with pytest.raises(LockHeld) as caught:
            client.try_acquire(f"{lock}:x")
        assert caught.value.holders[0].fence == lease.fence
        assert client.status(f"{lock}:x").holders[0].metadata == {"a": 1}
        client.force_release(f"{lock}:x", "test", lease.fence)
        with pytest.raises(LeaseLost):
            lease.renew()


def test_function_that_is_not_named(serve: Serve, endpoint: str, lock: str) -> None:
    with connect(serve, coordinator(endpoint), acquire="holdfast-acquire", release="holdfast-release") as client:
        with client.lock(lock):
            pass
        with pytest.raises(Refused, match="no function is named for status"):
            client.status(lock)


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "says", "times"),
    [
        (429, {"X_Amzn_ErrorType": "TooManyRequestsException"}, {"message": "Rate exceeded"}, Unavailable, "throttles", 2),
        (403, {"X_Amzn_ErrorType": "AccessDeniedException"}, {"message": "no"}, Refused, "allow lambda:InvokeFunction", 1),
        (404, {"X_Amzn_ErrorType": "ResourceNotFoundException"}, {"message": "no"}, Refused, "there is no such function", 1),
        (409, {"X_Amzn_ErrorType": "ResourceConflictException"}, {"message": "updating"}, Unavailable, "updating", 2),
        (500, {"X_Amzn_ErrorType": "ServiceException"}, {"message": "x"}, Unavailable, "ServiceException", 2),
        (400, {"X_Amzn_ErrorType": "Other"}, {"message": "x"}, Refused, "check the function's name", 1),
        (200, {"X_Amz_Function_Error": "Unhandled"}, {"errorType": "Runtime.ImportModuleError", "errorMessage": "x"}, Refused, "does not start", 1),
        (200, {"X_Amz_Function_Error": "Unhandled"}, {"errorType": "Sandbox.Timedout", "errorMessage": "timed out"}, Unavailable, "timed out", 2),
        (200, {"X_Amz_Function_Error": "Unhandled"}, [1], Unavailable, "failed", 2),
        (200, {}, "text", Refused, "no coordinator", 1),
    ],
)
def test_failures(serve: Serve, status: int, headers: dict[str, str], body: Any, kind: type[Exception], says: str, times: int, lock: str) -> None:
    asked: list[str] = []

    def answer(handler: Any, function: str, fields: dict[str, Any]) -> None:
        asked.append(function)
        reply(handler, status, json.dumps(body).encode(), **headers)

    with connect(serve, answer) as client:
        with pytest.raises(kind, match=says):
            client.status(lock)
        assert len(asked) == times


def test_arguments() -> None:
    with pytest.raises(ValueError, match="no function is named"):
        InvokeTransport()


def test_the_child_of_a_fork_has_connections_of_its_own(serve: Serve, endpoint: str, lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(serve, coordinator(endpoint)) as client:
        transport: Any = client._core.transport
        client.status(lock)
        parents = transport._lambda
        monkeypatch.setattr(os, "getpid", lambda: -1)
        closed: list[None] = []
        monkeypatch.setattr(parents, "close", lambda: closed.append(None))
        transport.close()
        assert closed == []
        client.status(lock)
        childs = transport._lambda
        assert childs is not parents
        client.status(lock)
        assert transport._lambda is childs
        monkeypatch.undo()
        parents.close()
