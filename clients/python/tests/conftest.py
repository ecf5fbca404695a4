"""A coordinator for the tests: the real one, in memory, which `make clients-test` builds as .bin/run."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from holdfast import Client

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The URL of a coordinator."""
    command = os.environ.get("HOLDFAST_RUN", str(ROOT / ".bin" / "run"))
    with subprocess.Popen([command, "--listen", "127.0.0.1:0", "--min-ttl", "100ms"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://[0-9.:]+", process.stdout.readline())
        assert found, "the coordinator does not print its URL"
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield found[0]
        process.terminate()


@pytest.fixture
def client(endpoint: str) -> Iterator[Client]:
    """A client, which is closed at the end of the test, and then leaves no thread."""
    before = set(threading.enumerate())
    with Client(endpoint, owner="tester", retry_delay=0.05) as c:
        yield c
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("holdfast:")]
    for thread in left:
        thread.join(30)
    assert [t.name for t in left if t.is_alive()] == []


@pytest.fixture
def lock(request: pytest.FixtureRequest) -> str:
    """A lock's name that no other test uses."""
    return re.sub(r"[^A-Za-z0-9]", "-", request.node.name)[:200]


@pytest.fixture
def table(lock: str) -> Iterator[Any]:
    """A table of DynamoDB Local, with the key id, as boto3 has it."""
    url = os.environ.get("HOLDFAST_DYNAMODB_ENDPOINT")
    assert url, "HOLDFAST_DYNAMODB_ENDPOINT is not set; run make clients-python"
    dynamodb: Any = boto3.resource("dynamodb", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="s")
    made = dynamodb.create_table(
        TableName=f"{lock}-{time.time_ns()}",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    yield made
    made.delete()
    dynamodb.meta.client.close()


Serve = Callable[[Callable[[BaseHTTPRequestHandler, bytes], Any]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts an HTTP server, and returns its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[BaseHTTPRequestHandler, bytes], Any]) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_GET = do_POST = do_CONNECT = do  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """Answer a request."""
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
