"""A client of Holdfast, a serverless lock coordinator for AWS.

    from holdfast import Client

    client = Client("http://127.0.0.1:7420")
    with client.lock("report:daily", ttl=30) as lease:
        write_report(lease.fence)

AsyncClient is the same for asyncio. See https://github.com/holdfast-lock/holdfast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._acquire import Cancellation
from ._client import Client, Lease, current_lease
from ._errors import (
    AcquireCancelled,
    ClientClosed,
    CloseError,
    Freeze,
    Holder,
    HoldfastError,
    LeaseLost,
    LeaseReleased,
    Limit,
    LimitExceeded,
    LockFrozen,
    LockHeld,
    Refused,
    Unavailable,
)
from ._options import AcquireOptions
from ._wire import Status, escape_name, unescape_name
from .transport import HTTPTransport, Request, Response, Transport

if TYPE_CHECKING:
    from ._aio import AsyncClient, AsyncLease

__all__ = [
    "AcquireCancelled",
    "AcquireOptions",
    "AsyncClient",
    "AsyncLease",
    "Cancellation",
    "Client",
    "ClientClosed",
    "CloseError",
    "Freeze",
    "HTTPTransport",
    "Holder",
    "HoldfastError",
    "Lease",
    "LeaseLost",
    "LeaseReleased",
    "Limit",
    "LimitExceeded",
    "LockFrozen",
    "LockHeld",
    "Refused",
    "Request",
    "Response",
    "Status",
    "Transport",
    "Unavailable",
    "current_lease",
    "escape_name",
    "unescape_name",
]


def __getattr__(name: str) -> Any:
    """Import asyncio only for those who use it: it takes a third of this package's time to import."""
    if name in ("AsyncClient", "AsyncLease"):
        from . import _aio

        return getattr(_aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
