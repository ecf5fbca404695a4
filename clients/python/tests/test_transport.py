"""HTTPTransport: signatures, connections, and failures."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import json
import random
import socket
import string
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.credentials import Credentials
from conftest import ROOT, Serve, reply

import holdfast
from holdfast import Client, HoldfastError, HTTPTransport, Refused, Request, Unavailable
from holdfast import _wire as wire
from holdfast import transport as transport_module
from holdfast._acquire import Acquisition
from holdfast._errors import _Aborted
from holdfast._options import Options

LOCK = "a"
KEYS = Credentials("AKIDEXAMPLE", "secret", "session-token")


def send(transport: HTTPTransport, op: str = "status", lock: str = LOCK, body: bytes | None = None) -> Any:
    return transport.send(Request(op, lock, body, 30.0))


def signature(method: str, path: str, headers: Any, body: bytes) -> str:
    """Compute the signature of a request as AWS describes it, from what arrived."""
    algorithm, _, rest = headers["Authorization"].partition(" ")
    assert algorithm == "AWS4-HMAC-SHA256"
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    key_id, scope = fields["Credential"].split("/", 1)
    assert key_id == "AKIDEXAMPLE"
    date, region, service, _ = scope.split("/")
    assert (region, service) == ("eu-west-1", "execute-api")
    signed = fields["SignedHeaders"].split(";")
    assert {"host", "x-amz-date", "x-amz-security-token"} <= set(signed)
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),  # what is encoded already is encoded once more
            "",
            *(f"{name}:{headers[name].strip()}" for name in signed),
            "",
            ";".join(signed),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    to_sign = "\n".join([algorithm, headers["X-Amz-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4secret"
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    assert hmac.new(key, to_sign.encode(), "sha256").hexdigest() == fields["Signature"]
    return str(fields["Signature"])


def test_signatures(serve: Serve) -> None:
    """Requests are signed as a gateway checks it, whatever the name has, and the name is one segment of the path."""
    paths: list[str] = []

    def answer(handler: Any, body: bytes) -> None:
        signature(handler.command, handler.path, handler.headers, body)
        paths.append(handler.path)
        reply(handler, 200, b"{}")

    transport = HTTPTransport(serve(answer), region="eu-west-1", credentials=KEYS)
    for lock, path in {"deploy:prod": "deploy:prod", "a+b=c@d._-": "a%2Bb=c@d._-", "...": "..."}.items():
        assert send(transport, "acquire", lock, b'{"owner":"\xc3\xa9"}').status == 200
        assert send(transport, "status", lock).status == 200
        assert paths[-2:] == [f"/v1/locks/{path}/acquire", f"/v1/locks/{path}"]
    transport.close()


def test_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signatures are those of the AWS SDK for Go."""
    import botocore.auth

    vectors = json.loads((ROOT / "clients" / "testdata" / "signatures.json").read_text())
    at = vectors["at"].replace("-", "").replace(":", "")

    class Then:
        def strftime(self, form: str) -> str:
            return str(at)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: Then())
    checked = 0
    for v in vectors["requests"]:
        if v["operation"] not in wire.ROUTES:  # a list, which this client does not read
            continue
        checked += 1
        method, suffix = wire.ROUTES[v["operation"]]
        path = f"/v1/locks/{quote(v['lock'], safe=':@=')}{suffix}"
        assert (method, path) == (v["method"], v["path"])
        keys = Credentials(vectors["access_key_id"], vectors["secret_access_key"], v["session_token"] or None)
        headers = {"Accept": "application/json", "Host": urlsplit(vectors["endpoint"]).netloc}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        got = HTTPTransport(vectors["endpoint"], credentials=keys)._sign(method, path, headers, v["body"].encode() or None)
        assert got["Authorization"] == v["authorization"], v
    assert checked == 5


def test_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    found = holdfast.transport.default_credentials()
    assert (found.access_key, found.secret_key, found.token) == ("AKIDEXAMPLE", "secret", "token")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(Refused, match="no AWS credentials"):
        Client("https://abc.execute-api.eu-west-1.amazonaws.com").status(LOCK)


def test_a_connection_is_used_again(serve: Serve) -> None:
    seen: set[Any] = set()

    def answer(handler: Any, body: bytes) -> None:
        seen.add(handler.client_address)
        reply(handler, 200, b'{"a":"b"}')

    transport = HTTPTransport(serve(answer))
    for _ in range(5):
        assert send(transport).body == b'{"a":"b"}'
    assert len(seen) == 1
    transport.close()
    send(transport)
    assert len(seen) == 2
    transport.close()


def test_a_connection_that_the_server_closed_is_not_used(serve: Serve) -> None:
    closed = threading.Event()

    def answer(handler: Any, body: bytes) -> None:
        reply(handler, 200, b"{}")
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)  # without saying so
        handler.close_connection = True
        closed.set()

    transport = HTTPTransport(serve(answer))
    for _ in range(3):
        assert send(transport).status == 200
        assert closed.wait(30)
        closed.clear()
        for _, idle in transport._idle:  # until the end of the connection has arrived
            assert idle.sock.recv(1, socket.MSG_PEEK) == b""
    transport.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_is_cut_off(serve: Serve, chunked: bool) -> None:
    def answer(handler: Any, body: bytes) -> None:
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'32\r\n{"a":' if chunked else b'{"a":')
        handler.close_connection = True

    with pytest.raises(Unavailable, match="IncompleteRead"):
        Client(serve(answer), retries=0).status(LOCK)


def test_failures_that_last_are_refused() -> None:
    with pytest.raises(Refused, match="there is no host"):
        Client("http://holdfast.invalid").status(LOCK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="Connection refused"):
            Client(f"http://127.0.0.1:{free.getsockname()[1]}", retries=0).status(LOCK)


def test_no_tls_and_no_http(serve: Serve) -> None:
    url = serve(lambda handler, body: reply(handler, 200, b"{}"))
    with pytest.raises(Refused, match="does not speak TLS"):
        Client(url.replace("http://", "https://")).status(LOCK)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def banner() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                connection.recv(4096)

        threading.Thread(target=banner, daemon=True).start()
        with pytest.raises(Refused, match="does not speak HTTP"):
            Client(f"http://127.0.0.1:{server.getsockname()[1]}").status(LOCK)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_proxy_is_used_for_tls_only(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(handler: Any, body: bytes) -> None:
        asked.append(f"{handler.command} {handler.path}")
        reply(handler, 502, b"")
        handler.close_connection = True

    proxy = serve(answer)
    direct = serve(lambda handler, body: reply(handler, 200, b'{"lock":"a"}'))
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(Unavailable, match="Tunnel connection failed"):
        Client("https://holdfast.example.com", retries=0).status(LOCK)
    assert asked == ["CONNECT holdfast.example.com:443"]
    with Client(direct) as client:
        assert client.status(LOCK).lock == LOCK
    assert len(asked) == 1
    gc.collect()  # Python 3.10 leaves the socket of a tunnel that was refused open until then


def test_a_proxy_gets_its_user_and_password(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    def answer(handler: Any, body: bytes) -> None:
        got.append(handler.headers.get("Proxy-Authorization", ""))
        reply(handler, 407, b"")
        handler.close_connection = True

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", serve(answer).replace("http://", "http://me:p%40ss@"))
    with pytest.raises(Unavailable, match="Tunnel connection failed: 407"):
        Client("https://holdfast.example.com", retries=0).status(LOCK)
    assert got == ["Basic " + base64.b64encode(b"me:p@ss").decode()]
    gc.collect()  # as above


@pytest.mark.parametrize("proxy", ["https://me:p4ss@proxy.example.com", "socks5://me:p4ss@proxy.example.com", "http://me:p4ss@:1"])
def test_a_proxy_that_cannot_be_used_is_refused(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(Refused, match="HTTPS_PROXY") as caught:
        Client("https://holdfast.example.com").status(LOCK)
    assert "p4ss" not in str(caught.value)


def test_one_time_limit_for_all_addresses_of_a_host(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    port = urlsplit(serve(lambda handler, body: reply(handler, 200, b'{"lock":"a"}'))).port
    with socket.socket() as unused, socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        unused.bind(("127.0.0.1", 0))
        targets = [full.getsockname(), unused.getsockname(), ("127.0.0.1", port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", target) for target in targets]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        limits: list[float] = []
        connect = socket.socket.connect

        def note(sock: socket.socket, address: Any) -> None:
            limits.append(sock.gettimeout() or 0)
            connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", note)
        assert HTTPTransport(f"http://host.example.com:{port}").send(Request("status", LOCK, None, 6.0)).status == 200
    assert len(limits) == 3
    assert limits[0] <= 2.0
    assert sum(limits) <= 3 * 6.0


def test_a_resolver_that_does_not_answer_uses_no_more_than_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    with pytest.raises(TimeoutError, match="check the resolver"):
        HTTPTransport("http://host.example.com").send(Request("status", LOCK, None, 0.05))
    answered.set()


def test_a_try_that_is_given_up_while_it_connects_sends_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    transport = HTTPTransport(serve(lambda handler, body: asked.append(handler.path)))
    request = Request("release", LOCK, b"{}", 30.0)
    dial = transport_module._dial

    def slow(host: str, port: int, deadline: float) -> socket.socket:
        sock = dial(host, port, deadline)
        request.abort()
        return sock

    monkeypatch.setattr(transport_module, "_dial", slow)
    with pytest.raises(_Aborted):
        transport.send(request)
    assert asked == []


def test_signing_counts_to_the_time_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    transport = HTTPTransport(serve(lambda handler, body: asked.append(handler.path)), credentials=KEYS, region="eu-west-1")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    sign = transport._sign

    def slow(*args: Any) -> dict[str, str]:
        nonlocal now
        now += 31
        return sign(*args)

    monkeypatch.setattr(transport, "_sign", slow)
    with pytest.raises(TimeoutError):
        send(transport)
    assert asked == []


def test_no_repr_has_the_secret(serve: Serve) -> None:
    secret = "secret-secret-secret"
    answer = {"lock": LOCK, "lease": secret, "fence": 1, "ttl_ms": 1000}
    acquisition = Acquisition(Client(serve(lambda handler, body: None))._core, LOCK, Options(), secret=secret)
    request = Request("acquire", LOCK, json.dumps(answer).encode(), 1.0)
    acquisition.request = request
    for value in (request, acquisition, wire.grant(answer, LOCK, secret)):
        assert LOCK in repr(value)
        assert secret not in repr(value)


def test_no_answer_breaks_the_client(serve: Serve) -> None:
    """Whatever a server answers, the error is one of this package, and no lease comes of it."""
    source = random.Random(7)
    values: list[Any] = [None, True, 0, -1, 1e308, "", "x", [], [1], {}, {"a": 1}, 2**70, 10**400, "2026-01-01T00:00:00Z", "2026-01-01", "9999"]
    members = ["lock", "lease", "fence", "ttl_ms", "remaining_ms", "waited_ms", "code", "status", "detail", "holders", "retry_after_ms", "position"]
    members += ["ticket", "freeze", "limit", "period_ms", "value", "prefix", "field", "message", "ends_at", "expires_at", "acquired_at"]
    codes = ["lock_held", "frozen", "lease_lost", "queue_full", "limit_exceeded", "throttled", "internal", "capacity_mismatch", "new_code"]
    answers: list[tuple[int, bytes]] = []
    for _ in range(400):
        fields = {m: source.choice(values) for m in source.sample(members, source.randrange(len(members)))}
        if source.random() < 0.7:
            fields["code"] = source.choice(codes)
        text = json.dumps(fields).encode()
        if source.random() < 0.2:
            text = bytes(source.choice(string.printable.encode()) for _ in range(source.randrange(20)))
        answers.append((source.choice([200, 201, 400, 403, 404, 409, 410, 429, 500, 503]), text))
    for status in (200, 409, 500):
        answers.append((status, b'{"a":' * 100_000))
        answers.append((status, b"[" * 100_000))
    huge = {"lock": LOCK, "lease": "secret-secret-secret", "fence": 1, "ttl_ms": 10**400, "remaining_ms": 10**400, "waited_ms": -(10**400)}
    zones = {"ttl_ms": 1, "ends_at": "2026-01-01", "expires_at": "2026-01-01T00:00:00Z", "acquired_at": "2026-01-01"}
    wire.grant(wire.answer(200, json.dumps(huge | zones).encode(), 0.0), LOCK, "secret-secret-secret")
    assert wire.grant(huge, LOCK, "secret-secret-secret").ttl > 1e15
    for status, text in answers:
        with pytest.raises(HoldfastError) as caught:
            wire.grant(wire.answer(status, text, 0.0), LOCK, "secret-secret-secret")
        assert str(caught.value)
