"""How requests reach a coordinator: HTTPTransport, and the interface of others (see holdfast.invoke)."""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from ._errors import Refused, _Aborted
from ._wire import ROUTES

if TYPE_CHECKING:
    from botocore.credentials import Credentials

MAX_ANSWER = 8 << 20  # bytes; the largest answer of a coordinator is below 6 MB


@dataclass
class Request:
    """A request to a coordinator, which a transport sends once."""

    op: str  # "acquire", "renew", "release", "force-release" or "status"
    lock: str
    body: bytes | None = field(repr=False)  # a JSON object with the operation's fields; None for status. It may have a lease's secret
    timeout: float  # seconds that the try may take
    _mutex: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _aborted: bool = field(default=False, repr=False)
    _hook: Callable[[], None] | None = field(default=None, repr=False)
    give_up: Callable[[], None] | None = field(default=None, repr=False)  # the client's own: nobody waits for the answer any more

    def on_abort(self, hook: Callable[[], None] | None) -> None:
        """Have hook called when the try is given up, by another thread, so that `send` can end early."""
        with self._mutex:
            self._hook = hook
        if hook is not None:
            self.check()

    def check(self) -> None:
        """Raise an error of this package's own if the try has been given up."""
        with self._mutex:
            if self._aborted:
                raise _Aborted

    def abort(self) -> None:
        """Give the try up."""
        with self._mutex:
            self._aborted, hook, self._hook = True, self._hook, None
        for call in (hook, self.give_up):
            if call is not None:
                call()


@dataclass(frozen=True)
class Response:
    """An answer to a request."""

    status: int  # the HTTP status; 200 for a success
    body: bytes  # the operation's answer in JSON, or a problem (RFC 9457) if the status is not 200
    retry_after: float = 0.0  # seconds, as an answer that is not the coordinator's says


class Transport(Protocol):
    """Carries requests to a coordinator. It is called by several threads at once."""

    def send(self, request: Request) -> Response:
        """Send a request once, within request.timeout.

        An exception means that there is no answer and that it is not known whether the request took effect: the client sends it again,
        unless the exception is a Refused.
        """

    def close(self) -> None:
        """Close the connections that are not in use."""


class HTTPTransport:
    """The coordinator's HTTP API, with signed requests (SigV4, service execute-api) if there are credentials.

    It keeps connections open for later requests, follows no redirect, and uses new connections after one has failed.

    endpoint is the coordinator's URL without the /v1/locks part of its routes, such as https://ID.execute-api.REGION.amazonaws.com.
    credentials are botocore's, from `botocore.session.Session().get_credentials()` or boto3's `Session().get_credentials()`; None means those of
    botocore's default chain for an API Gateway endpoint, and unsigned requests for any other, which only a local coordinator accepts. region is
    needed for signing where the endpoint's host name does not have it. ssl_context replaces the default one.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        region: str | None = None,
        credentials: Credentials | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        url = _check_endpoint(endpoint)
        gateway = _gateway_region(url.hostname or "")
        if gateway and url.scheme == "http":
            raise ValueError(f"endpoint is {endpoint!r}; API Gateway is reached over https only")
        if gateway and region and region != gateway:
            raise ValueError(f"region is {region!r}, but the endpoint is in {gateway!r}; leave region out")
        if credentials is not None and not gateway and not region:
            raise ValueError("region is missing; requests are signed for a region")
        self._scheme, self._host, self._port = url.scheme, url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        self._netloc = url.netloc
        self._base = url.path.rstrip("/")
        self._region = region or gateway
        self._credentials = credentials
        self._signs = credentials is not None or bool(gateway)
        self._context = ssl_context
        self._reached = False  # the coordinator has answered at least once
        self._reset()

    def _reset(self) -> None:
        """Forget all connections; also in the child of a fork, where they are the parent's."""
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connections that are not in use."""
        if os.getpid() != self._pid:
            self._reset()
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def __del__(self) -> None:
        for _, connection in self.__dict__.get("_idle", ()):  # of a client that nobody closed
            connection.close()

    def send(self, request: Request) -> Response:
        """Send a request once."""
        deadline = time.monotonic() + request.timeout
        method, suffix = ROUTES[request.op]
        path = f"{self._base}/v1/locks/{quote(request.lock, safe=':@=')}{suffix}"
        headers = {"Accept": "application/json", "Host": self._netloc}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if self._signs:
            headers = self._sign(method, path, headers, request.body)
        connection = self._connection()
        try:
            request.on_abort(lambda: _shut(connection))
            if connection.sock is None:
                self._open(connection, deadline)
                request.check()  # the hook could end no connection that was not there
            status, response_headers, body = self._exchange(connection, method, path, headers, request.body, deadline)
            request.on_abort(None)
        except BaseException as error:
            connection.close()
            self.close()  # other connections may be as dead as this one
            raise self._judge(error) from error
        self._reached = True
        if status // 100 == 3 and response_headers.get("Location"):
            connection.close()
            raise Refused(_redirected(self._host, response_headers["Location"]), status=status)
        if response_headers.get("Connection", "").lower() == "close":
            connection.close()
        else:
            with self._lock:
                self._idle.append((time.monotonic(), connection))
        after = response_headers.get("Retry-After", "")
        return Response(status, body, float(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0.0)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: bytes | None, deadline: float
    ) -> tuple[int, Any, bytes]:
        connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        connection.request(method, path, body=body, headers=headers)
        connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock = connection.sock  # the connection forgets it when the answer closes it
        response = connection.getresponse()
        text = bytearray()
        while len(text) <= MAX_ANSWER and not response.isclosed():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer did not arrive in time")
            sock.settimeout(left)
            part = response.read1(65536)
            if not part:
                break
            text += part
        if response.length:  # read1 does not report a body that was cut off
            raise http.client.IncompleteRead(bytes(text), response.length)
        response.close()  # else the connection cannot be used again
        return response.status, response.headers, bytes(text)

    # How long a connection is kept for a later request. API Gateway closes one after some 10 minutes, and load balancers after one.
    _IDLE = 30.0  # seconds

    def _connection(self) -> http.client.HTTPConnection:
        if os.getpid() != self._pid:
            self._reset()
        while True:
            with self._lock:
                if not self._idle:
                    break
                since, connection = self._idle.pop()
            if time.monotonic() - since < self._IDLE and _alive(connection):
                return connection
            connection.close()
        return self._new_connection()

    def _new_connection(self) -> http.client.HTTPConnection:
        if self._scheme == "http":  # no proxy: it could read the requests
            return http.client.HTTPConnection(self._host, self._port)
        from urllib.request import getproxies, proxy_bypass

        if self._context is None:
            self._context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
        proxy = getproxies().get("https", "")
        if not proxy or proxy_bypass(self._host):
            return http.client.HTTPSConnection(self._host, self._port, context=self._context)
        via = _check_proxy(proxy)
        connection = http.client.HTTPSConnection(via.hostname, via.port or 80, context=self._context)
        headers = {}
        if via.username is not None:
            user = f"{unquote(via.username)}:{unquote(via.password or '')}"
            headers["Proxy-Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        connection.set_tunnel(self._host, self._port, headers)
        return connection

    @staticmethod
    def _open(connection: http.client.HTTPConnection, deadline: float) -> None:
        """Connect, and shake hands with TLS, until a deadline."""

        def create(address: tuple[str, int], *_: Any) -> socket.socket:
            return _dial(address[0], address[1], deadline)

        connection._create_connection = create  # type: ignore[attr-defined]  # the standard one has a time limit for each address, and none for the name
        connection.connect()

    def _judge(self, error: BaseException) -> BaseException:
        """Return a Refused for a failure that no retry corrects, unless the coordinator has answered before, and else the error."""
        fix = "" if self._reached else _lasting(error, self._host)
        return Refused(f"{error}: {fix}", code="misconfigured") if fix else error

    def _sign(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> dict[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        if self._credentials is None:
            self._credentials = default_credentials()
        to_sign = AWSRequest(method=method, url=f"{self._scheme}://{self._netloc}{path}", data=body or b"", headers=headers)
        SigV4Auth(self._credentials.get_frozen_credentials(), "execute-api", self._region).add_auth(to_sign)
        return dict(to_sign.headers.items())


def default_credentials() -> Credentials:
    """Return the credentials of botocore's default chain. It raises Refused if there are none.

    Those of the environment, in which Lambda passes a function's, are read directly: botocore's session takes some 100 ms to import.
    """
    from botocore.credentials import Credentials

    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return Credentials(key, secret, os.environ.get("AWS_SESSION_TOKEN"))
    from botocore.session import Session

    found = Session().get_credentials()
    if found is None:
        raise Refused("there are no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give credentials")
    return found


def _check_proxy(proxy: str) -> Any:
    """Return the URL of the proxy for https. It raises Refused if it cannot be used."""
    try:
        via = urlsplit(proxy if "://" in proxy else "http://" + proxy)
        valid = via.scheme == "http" and bool(via.hostname) and via.port != 0
    except ValueError:
        valid = False
    if not valid:  # the URL is not shown, since it may have a password
        raise Refused("the proxy that HTTPS_PROXY names cannot be used; give an http URL like http://USER:PASSWORD@proxy.example.com:3128, or set NO_PROXY")
    return via


def _dial(host: str, port: int, deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers, until a deadline. What remains of the time is the time limit of the socket."""

    def left() -> float:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError(f"no connection to {host} in time")
        return seconds

    error: OSError | None = None
    addresses = _resolve(host, port, left())
    for i, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left() / (len(addresses) - i))  # an address that does not answer leaves time for the others
            sock.connect(address)
            sock.settimeout(left())
            return sock
        except OSError as failed:
            sock.close()
            error = failed
    raise error or OSError(f"{host} has no address")


def _resolve(host: str, port: int, timeout: float) -> list[Any]:
    """Look a host's addresses up. getaddrinfo has no time limit: a thread waits for it, and is left to itself after the time."""
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # it is raised below
            found.append(error)

    thread = threading.Thread(target=look_up, name=f"holdfast: address of {host}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter ends, and starts no threads any more
        look_up()
    else:
        thread.join(timeout)
    if not found:
        raise TimeoutError(f"the address of {host} was not found in time: check the resolver")
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def _shut(connection: http.client.HTTPConnection) -> None:
    """Wake the thread that waits for a connection's answer."""
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):  # it is closed
            sock.shutdown(socket.SHUT_RDWR)


def _alive(connection: http.client.HTTPConnection) -> bool:
    """Report whether an idle connection can be used: the server has not closed it, or written to it unasked."""
    if connection.sock is None:
        return False
    try:
        readable, _, _ = select.select([connection.sock], [], [], 0)
    except (OSError, ValueError):  # ValueError: more files are open than select can name
        return False
    return not readable


def _lasting(error: BaseException, host: str) -> str:
    """Return what to do about a failed connection that will fail again; empty if the failure may pass."""
    if isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
        return f"there is no host {host}: check the endpoint"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "check the endpoint's host, this machine's clock, and, if the certificate is a private authority's, SSL_CERT_FILE or AWS_CA_BUNDLE"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "this port does not speak TLS: check the endpoint's port, and whether it begins with http://"
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, http.client.RemoteDisconnected):
        return "this port does not speak HTTP: check the endpoint's port, and whether it begins with https://"
    return ""


def _redirected(host: str, to: str) -> str:
    """Name only the host of the target: the rest of the URL may contain a secret."""
    url = urlsplit(to)
    target = f"{url.scheme}://{url.netloc}" if url.netloc else "another place"
    return (
        f"{host} redirects to {target}, and redirects are not followed, since the request may hold a secret; if that is the right host, name it as the endpoint"
    )


def _check_endpoint(endpoint: str) -> Any:
    if not endpoint:
        raise ValueError("endpoint is empty; give the coordinator's URL, or set HOLDFAST_ENDPOINT")
    if "://" not in endpoint:
        raise ValueError(f"endpoint is {endpoint!r}, without a scheme; give a URL, such as https://{endpoint}")
    try:
        url = urlsplit(endpoint)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"endpoint is {endpoint!r}; give a URL like https://ID.execute-api.REGION.amazonaws.com or http://127.0.0.1:7420")
    if url.username is not None or url.password is not None:
        raise ValueError("endpoint has a user name or password in it; requests are signed with credentials instead")
    if url.query or url.fragment or url.path.rstrip("/").endswith("/v1/locks"):
        raise ValueError(f"endpoint is {endpoint!r}; give the URL only up to where /v1/locks begins")
    return url


def _gateway_region(host: str) -> str:
    """Return the region in the host name of an API Gateway endpoint; empty for any other host."""
    parts = host.split(".")
    if "execute-api" not in parts:
        return ""
    i = parts.index("execute-api")
    return parts[i + 1] if i >= 1 and i + 2 < len(parts) and "amazonaws" in parts[i + 2 :] else ""


def encode(fields: dict[str, Any]) -> bytes:
    """Encode a request's fields."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
