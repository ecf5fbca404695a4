"""A transport that invokes the coordinator's Lambda functions directly, without its HTTP API.

    from holdfast import Client
    from holdfast.invoke import InvokeTransport

    transport = InvokeTransport(acquire="holdfast-acquire", renew="holdfast-renew", release="holdfast-release")
    client = Client(transport=transport)

It serves callers in a VPC that reaches Lambda only, and saves the price of the HTTP API. A caller needs permission for lambda:InvokeFunction on the
functions, or on aliases of them that are limited to some lock names: see docs/iam.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ._errors import Refused
from .transport import Request, Response

if TYPE_CHECKING:
    from botocore.session import Session

_CREDENTIALS = "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the profile"
_DEPLOYMENT = "the function cannot run as it is deployed; look at it in Lambda, and deploy the stack again"
_EXPIRED = "the credentials have expired; renew them (with single sign-on: aws sso login)"

# What to do about Lambda's errors that no retry corrects.
_FIXES = {
    "AccessDeniedException": "allow lambda:InvokeFunction on this function for the role",
    "ResourceNotFoundException": "there is no such function in this region and account: check its name and the region",
    "ExpiredTokenException": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "IncompleteSignatureException": _CREDENTIALS,
    "InvalidSignatureException": "check the secret key, and this machine's clock",
    "SignatureDoesNotMatch": "check the secret key, and this machine's clock",
    "RequestExpired": "set this machine's clock right",
    "InvalidParameterValueException": "check the function's name",
    "ValidationException": "check the function's name",
    "InvalidRuntimeException": _DEPLOYMENT,
    "InvalidZipFileException": _DEPLOYMENT,
    "InvalidSecurityGroupIDException": _DEPLOYMENT,
    "InvalidSubnetIDException": _DEPLOYMENT,
    "KMSAccessDeniedException": _DEPLOYMENT,
    "KMSDisabledException": _DEPLOYMENT,
    "KMSInvalidStateException": _DEPLOYMENT,
    "KMSNotFoundException": _DEPLOYMENT,
    "EC2AccessDeniedException": _DEPLOYMENT,
}

# Lambda's error types for a function that cannot start as it is deployed.
_INIT_ERRORS = {"Runtime.InvalidEntrypoint", "Runtime.ImportModuleError", "Runtime.HandlerNotFound"}


class InvokeTransport:
    """Invokes the coordinator's functions, which are named as the stack's outputs list them: by name or ARN, or that of an alias.

    The operations of a function that is not named are refused. session is a botocore session, such as boto3's Session()._session; None makes one.
    endpoint_url replaces the region's endpoint of Lambda. request_timeout limits one invocation, in seconds; give a Client the same.
    """

    def __init__(
        self,
        *,
        acquire: str = "",
        renew: str = "",
        release: str = "",
        force_release: str = "",
        status: str = "",
        region: str | None = None,
        session: Session | None = None,
        endpoint_url: str | None = None,
        request_timeout: float = 5.0,
    ) -> None:
        from botocore.config import Config

        self._functions = {"acquire": acquire, "renew": renew, "release": release, "force-release": force_release, "status": status}
        if not any(self._functions.values()):
            raise ValueError("no function is named; name the coordinator's functions, such as acquire='holdfast-acquire'")
        if session is None:
            from botocore.session import Session as NewSession

            session = NewSession()
        # The client retries by itself, with the same secret.
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=request_timeout, read_timeout=request_timeout, max_pool_connections=32, tcp_keepalive=True
        )
        self._new: Callable[[], Any] = partial(session.create_client, "lambda", region_name=region, endpoint_url=endpoint_url, config=config)
        self._lambda: Any = self._new()
        self._pid = os.getpid()

    def close(self) -> None:
        """Close the connections to Lambda that are not in use."""
        if self._pid == os.getpid():
            self._lambda.close()

    def send(self, request: Request) -> Response:
        """Invoke the function of an operation once."""
        from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

        function = self._functions[request.op]
        if not function:
            raise Refused(f"no function is named for {request.op}; name one in InvokeTransport")
        fields: dict[str, Any] = {} if request.body is None else json.loads(request.body)
        fields["name"] = request.lock
        if request.op == "status":
            fields["op"] = "status"  # the function serves lists, too
        if self._pid != os.getpid():  # in the child of a fork, the connections are the parent's
            self._lambda, self._pid = self._new(), os.getpid()
        try:
            out = self._lambda.invoke(FunctionName=function, Payload=json.dumps(fields).encode())
            payload: bytes = out["Payload"].read()
        except ClientError as error:
            return _failed(function, error.response)
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise Refused(f"{function}: {error}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        if "FunctionError" not in out:
            return Response(200, payload)
        return _function_error(function, payload)


def _failed(function: str, response: Any) -> Response:
    """Return the answer for an invocation that Lambda refused, or raise the error."""
    error, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code, message = error.get("Code", ""), error.get("Message", "")
    if status == 429:
        return Response(429, json.dumps({"message": f"Lambda throttles {function}"}).encode())
    if code in _FIXES:
        raise Refused(f"{function}: {code}: {message}: {_FIXES[code]}")
    if status // 100 != 4 or status in (408, 409):  # Lambda answers 409 while the function is being deployed
        raise OSError(f"{function}: {status} {code}: {message}")
    raise Refused(f"{function}: {code}: {message}: check the function's name and the endpoint of Lambda")


def _function_error(function: str, payload: bytes) -> Response:
    """Return the problem that a function failed with, or raise an error if it did not fail by itself."""
    failed = _object(payload)
    kind, message = str(failed.get("errorType", "")), str(failed.get("errorMessage", ""))
    problem = _object(message.encode())
    if isinstance(problem.get("code"), str) and isinstance(problem.get("status"), int):
        return Response(problem["status"], message.encode())
    if kind in _INIT_ERRORS:
        raise Refused(f"{function} does not start: {kind}: {message}; look at its log, and deploy the stack again")
    raise OSError(f"{function} failed: {kind} {message}")  # it timed out or crashed, and may have written before


def _object(text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
