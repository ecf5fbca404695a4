"""The coordinator's API: names, requests, answers and problems, as docs/openapi.yaml describes them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from ._errors import Freeze, Holder, HoldfastError, LeaseLost, Limit, LimitExceeded, LockFrozen, LockHeld, Refused, Unavailable

MAX_TTL = 7 * 24 * 3600.0  # seconds; the longest that a deployment may allow
MIN_TTL = 1.0
DEFAULT_TTL = 60.0
MAX_WAIT = 15 * 60.0  # for how long a place in the queue may be kept after a poll
MAX_CAPACITY = 100
MAX_METADATA = 2048  # bytes of JSON
MAX_OWNER = 256  # bytes

_NAME = re.compile(r"[A-Za-z0-9._:@+=-]+", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)


def check_name(name: str) -> None:
    """Raise Refused unless name is a lock's name."""
    if not isinstance(name, str):
        raise invalid("name", f"the name is {type(name).__name__}; give a str")
    if not name:
        raise invalid("name", "the name is empty; give 1 to 255 of A-Z a-z 0-9 . _ : @ + = -")
    if len(name) > 255:
        raise invalid("name", f"the name is {len(name)} characters long; at most 255 are allowed")
    if name in (".", ".."):
        raise invalid("name", f"the name is {name!r}, which URLs cannot carry; add another character (holdfast.escape_name makes a name of any text)")
    if not _NAME.fullmatch(name):
        raise invalid(
            "name",
            f"the name is {name!r}; only A-Z a-z 0-9 . _ : @ + = - are allowed, with : for hierarchy (holdfast.escape_name makes a name of any text)",
        )


def check_secret(secret: str) -> None:
    """Raise Refused unless secret is a lease's. The text does not have it."""
    if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
        raise invalid("lease", "the lease's secret is not one; it must be 16 to 128 of A-Z a-z 0-9 _ -")


def escape_name(text: str) -> str:
    """Return a lock's name for any text that is not empty, such as a path.

    It keeps A-Z a-z 0-9 . _ : @ - and writes every other byte of UTF-8 as = and two hexadecimal digits: "feature/x y" becomes
    "feature=2Fx=20y". Different texts have different names. It raises Refused if the name would be longer than 255 characters.
    """
    if not text:
        raise invalid("name", "there is no lock name for an empty text; give at least one character")
    only_dots = text in (".", "..")
    name = "".join(chr(b) if not only_dots and re.fullmatch(rb"[A-Za-z0-9._:@-]", bytes([b])) else f"={b:02X}" for b in text.encode())
    check_name(name)
    return name


def unescape_name(name: str) -> str:
    """Return the text of a name that escape_name returned. It raises Refused for any other name."""
    data = re.sub(rb"=([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), name.encode())
    try:
        text = data.decode()
        if escape_name(text) == name:
            return text
    except (UnicodeDecodeError, Refused):
        pass
    raise invalid("name", f"the name {name!r} is not as escape_name writes it")


def invalid(field: str, detail: str) -> Refused:
    """Return the error of a request that the client does not send."""
    return Refused(detail, code="invalid_request", field=field)


# The routes of the operations: HTTP method, and the path after the lock's name.
ROUTES = {
    "acquire": ("POST", "/acquire"),
    "renew": ("POST", "/renew"),
    "release": ("POST", "/release"),
    "force-release": ("POST", "/force-release"),
    "status": ("GET", ""),
}


@dataclass(frozen=True)
class Grant:
    """The answer to acquire and renew."""

    lock: str
    lease: str = field(repr=False)  # the secret
    fence: int
    ttl: float  # seconds
    remaining: float  # seconds
    waited: float  # seconds from joining the queue to the grant
    hold: float  # seconds from the grant on, if the lease's end is that of a limit of the time held; else 0


@dataclass(frozen=True)
class Status:
    """The state of a lock, as all callers may see it."""

    lock: str
    locked: bool  # at least one lease is live
    capacity: int
    available: int  # permits that are free
    fence: int  # the highest fencing token ever granted; 0 if there was no grant
    holders: tuple[Holder, ...]
    waiting: int  # the number of waiters in the queue
    frozen: Freeze | None
    next_grant: datetime | None  # when a rate of the lock's prefix allows the next grant, if that is later than `at`
    at: datetime | None  # when the coordinator answered, by its clock


def grant(body: dict[str, Any], lock: str, secret: str) -> Grant:
    """Read the answer to acquire and renew. It raises Refused if it is not a lease of this lock with this secret."""
    g = Grant(
        lock=_text(body, "lock"),
        lease=_text(body, "lease"),
        fence=_int(body, "fence"),
        ttl=_int(body, "ttl_ms") / 1000,
        remaining=_int(body, "remaining_ms") / 1000,
        waited=_int(body, "waited_ms") / 1000,
        hold=_hold(body),
    )
    if g.lock != lock or g.lease != secret or g.fence < 1 or g.ttl <= 0:
        raise not_coordinator(200, "an answer that is not a lease of this lock")
    return g


def _hold(body: dict[str, Any]) -> float:
    ends, expires, acquired = _time(body, "ends_at"), _time(body, "expires_at"), _time(body, "acquired_at")
    if ends is None or expires is None or acquired is None or expires < ends:
        return 0.0
    return (ends - acquired).total_seconds()


def status(body: dict[str, Any], lock: str) -> Status:
    """Read the answer to a status request."""
    check_lock(body, lock)
    return Status(
        lock=lock,
        locked=body.get("locked") is True,
        capacity=_int(body, "capacity"),
        available=_int(body, "available"),
        fence=_int(body, "fence"),
        holders=holders(body, "holders"),
        waiting=_int(body, "waiting"),
        frozen=_freeze(body),
        next_grant=_time(body, "next_grant_at"),
        at=_time(body, "server_time"),
    )


def check_lock(body: dict[str, Any], lock: str) -> None:
    """Raise Refused if an answer is about another lock than the request."""
    if _text(body, "lock") != lock:
        raise not_coordinator(200, "an answer that is not about this lock")


def holders(body: dict[str, Any], member: str) -> tuple[Holder, ...]:
    """Read a list of live leases."""
    listed = body.get(member)
    return tuple(_holder(h) for h in listed if isinstance(h, dict)) if isinstance(listed, list) else ()


def _holder(h: dict[str, Any]) -> Holder:
    metadata = h.get("metadata")
    return Holder(
        owner=_text(h, "owner"),
        fence=_int(h, "fence"),
        expires_at=_time(h, "expires_at"),
        remaining=_int(h, "remaining_ms") / 1000,
        permits=_int(h, "permits") or 1,
        acquired_at=_time(h, "acquired_at"),
        renewed_at=_time(h, "renewed_at"),
        metadata=metadata if isinstance(metadata, dict) else None,
        principal=_text(h, "principal"),
    )


# Limits of the numbers of an answer, far above those of a coordinator's: a queue has 500 places, and a lease lasts for 367 days at most. The
# answer may be another server's.
_MAX_POSITION = 10_000
_MAX_INT = 2**63 - 1  # of the coordinator's; some larger ones cannot be made floats
_MAX_AFTER = 400 * 24 * 3600.0

# The codes of problems that may pass, and those that the client knows otherwise. A code of a newer version is judged by its status.
_OUTAGES = {"throttled", "store_unavailable", "internal"}
_LASTING = {
    "invalid_request", "not_found", "method_not_allowed", "rule_changed", "too_many_rules", "capacity_mismatch", "more_permits", "lock_changed",
    "payload_too_large", "notify_refused", "lock_full", "misconfigured",
}  # fmt: skip


def problem(status: int, body: dict[str, Any]) -> HoldfastError:
    """Return the error for a problem that the coordinator answered."""
    code, after = _text(body, "code"), min(max(_int(body, "retry_after_ms"), 0) / 1000, _MAX_AFTER)
    limit = _limit(body)
    if code in ("lock_held", "frozen"):
        freeze = _freeze(body)
        kind = LockFrozen if code == "frozen" or freeze else LockHeld
        held = kind(holders(body, "holders"), after, _position(body, "position"), _position(body, "waiting"), limit, freeze)
        held._ticket = _int(body, "ticket")
        return held
    if code == "lease_lost":
        return LeaseLost(limit.detail, limit) if limit else LeaseLost("the coordinator says that it expired, was released or was forced out")
    if code == "queue_full" or (code == "limit_exceeded" and after):
        return LockHeld(retry_after=after, limit=limit)
    if code == "limit_exceeded" and limit is not None:
        return LimitExceeded(limit, status)
    if code in _OUTAGES or (code not in _LASTING and (status >= 500 or status == 429)):
        request = f" (request {_text(body, 'request_id')})" if _text(body, "request_id") else ""
        return Unavailable(f"{status} {code}: {_text(body, 'detail')}{request}", after, code == "throttled" or status == 429)
    return Refused(_text(body, "detail"), code=code, status=status, field=_text(body, "field"))


def _limit(body: dict[str, Any]) -> Limit | None:
    name = _text(body, "limit")
    if not name and _text(body, "code") != "limit_exceeded":
        return None
    period, value, prefix = _int(body, "period_ms") / 1000, _int(body, "value"), _text(body, "prefix")
    detail = _text(body, "detail")
    if name == "rate":
        below = "" if prefix == "*" else f" below {prefix}"
        times = "once" if value == 1 else f"{value} times"
        detail = f"each lock{below} is granted {times} in {period:g} s at most, and the next grant is possible in {_int(body, 'retry_after_ms') / 1000:g} s"
    return Limit(name, value, period, prefix, _text(body, "field"), detail)


def _freeze(body: dict[str, Any]) -> Freeze | None:
    f = body.get("freeze")
    if not isinstance(f, dict):
        return None
    return Freeze(_text(f, "prefix"), _time(f, "until"), _time(f, "since"), _text(f, "reason"), _text(f, "by"))


def _position(body: dict[str, Any], member: str) -> int:
    return min(max(_int(body, member), 0), _MAX_POSITION)


def not_coordinator(status: int, what: str) -> Refused:
    """Return the error for an answer of a server that is no coordinator."""
    return Refused(f"there is no coordinator at this URL ({what}); check the endpoint, which ends where /v1/locks begins", status=status)


def answer(status: int, body: bytes, retry_after: float) -> dict[str, Any]:
    """Read an answer. It raises the error of a problem, or of an answer that is not the coordinator's."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
        if status == 200 and (not body.strip() or body.lstrip()[:1] == b"{"):  # cut off: it may be complete the next time
            raise Unavailable("its answer cannot be read") from None
    if status == 200:
        if not isinstance(parsed, dict):
            raise not_coordinator(200, "an answer that is not a JSON object")
        return parsed
    if isinstance(parsed, dict) and _text(parsed, "code"):
        raise problem(status, parsed)
    message = _text(parsed, "message") or _text(parsed, "Message") if isinstance(parsed, dict) else ""
    raise gateway(status, message[:200], retry_after)


def gateway(status: int, message: str, retry_after: float) -> HoldfastError:
    """Return the error for an answer that is not the coordinator's, but API Gateway's, Lambda's, a proxy's or another server's.

    Nothing of the answer is repeated but the message in the form of AWS's services: it may contain the request.
    """
    text = f"{status}: {message}" if message else f"{status}"
    if status == 429:
        return Unavailable(text, retry_after, True)
    if status in (408, 425) or (status >= 500 and status not in (501, 505)):
        return Unavailable(text, retry_after)
    if status in (401, 403):
        return Refused(f"{message}: {_forbidden(message)}" if message else _forbidden(message), status=status)
    if status == 400:
        advice = "this is not a coordinator's answer: check the endpoint, and whether it begins with https://"
        return Refused(f"{message}: {advice}" if message else advice, status=status)
    return not_coordinator(status, text)


def _forbidden(message: str) -> str:
    m = message.lower()
    if "signature expired" in m or "signature not yet current" in m or "not yet valid" in m:
        return "set this machine's clock right"
    if "token" in m and "expired" in m:
        return "the credentials have expired; renew them (with single sign-on: aws sso login)"
    if "token" in m and "invalid" in m:
        return "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the argument credentials"
    if "missing authentication token" in m:
        return "sign the requests (the arguments region and credentials), and check the endpoint, which ends where /v1/locks begins"
    if "signature" in m or "credential" in m:
        return "check the secret key and the region, and that nothing on the way changes the request"
    return "sign with credentials that may call execute-api:Invoke on this route (the arguments region and credentials)"


_T = TypeVar("_T")


def _member(body: dict[str, Any], name: str, kind: type[_T]) -> _T | None:
    value = body.get(name)
    return value if isinstance(value, kind) else None


def _text(body: dict[str, Any], name: str) -> str:
    return _member(body, name, str) or ""


def _int(body: dict[str, Any], name: str) -> int:
    value = _member(body, name, int)
    return 0 if value is None or isinstance(value, bool) else min(max(value, -_MAX_INT), _MAX_INT)


def _time(body: dict[str, Any], name: str) -> datetime | None:
    text = _text(body, name)
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None  # one without a zone cannot be compared with others
