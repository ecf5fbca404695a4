"""The check of Schemathesis that knows what the OpenAPI document cannot say: which fields of a request go together, and limits in bytes."""

import datetime
import json
import urllib.parse

import schemathesis

OUTCOMES = {409, 410, 429}  # the lock is held, the lease is over, the queue is full: answers to a valid request


def size(text):
    return len(text.encode("utf-8", "surrogatepass"))


def depth(value):
    if isinstance(value, dict):
        return 1 + max([depth(v) for v in value.values()], default=0)
    if isinstance(value, list):
        return 1 + max([depth(v) for v in value], default=0)
    return 0


def lone_surrogate(value):
    text = json.dumps(value, ensure_ascii=False)
    return any("\ud800" <= c <= "\udfff" for c in text)


def printable(text):
    return any(c.isprintable() and not c.isspace() for c in text)


def reasons_of_freeze(freeze):
    if not isinstance(freeze, dict):
        return
    if size(freeze.get("reason", "")) > 512:
        yield "a text is too long in bytes"
    try:
        until = datetime.datetime.fromisoformat(freeze.get("until", ""))
    except ValueError:
        yield "until is no time"
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    if until.tzinfo is None or not now < until <= now + datetime.timedelta(days=366):
        yield "until is over, or too far away"


def reasons_of_set(scope, body):
    """Why the locks of a set must be refused by a scope, or nothing."""
    wants = [lock if isinstance(lock, dict) else {"name": lock} for lock in body["locks"]]
    names = [want.get("name", "") for want in wants]
    if len(set(names)) < len(names):
        yield "a lock is in the set twice"
    if any(want.get("permits", 1) > want.get("capacity", 1) for want in wants):
        yield "permits are more than the capacity"
    for name in names:
        if not (name.startswith(scope[:-1]) if scope.endswith("*") else name == scope):
            yield "the scope does not include a lock"
    if "tickets" in body and len(body["tickets"]) != len(names):
        yield "tickets for other locks"
    if "tickets" in body and "wait_ms" not in body:
        yield "tickets without wait_ms"


def reasons(body):
    """Why a body that matches its schema must be refused all the same, or nothing."""
    capacity = body.get("capacity", 100)  # without it, a limit may set one: see cross_field_rules
    if body.get("permits", 1) > capacity:
        yield "permits are more than the capacity"
    if "mode" in body and ("capacity" in body or "permits" in body):
        yield "mode with capacity or permits"
    if "wait_ms" in body and "lease" not in body:
        yield "wait_ms without lease"
    if "wait_ms" in body and body["wait_ms"] > 900_000 and "notify" not in body:
        yield "wait_ms above 15 minutes without notify"
    for field in ("ticket", "notify"):
        if field in body and "wait_ms" not in body:
            yield field + " without wait_ms"
    if "notify" in body or "execution" in body:
        yield "this coordinator sends no notifications, and knows no executions"
    if size(body.get("owner", "")) > 256 or size(body.get("reason", "")) > 512:
        yield "a text is too long in bytes"
    yield from reasons_of_freeze(body.get("freeze"))
    metadata = body.get("metadata", {})
    if size(json.dumps(metadata)) > 2048 or depth(metadata) > 8:
        yield "metadata is too large or too deep"
    if lone_surrogate(body):
        yield "half of a surrogate pair"
    if size(json.dumps(body)) > 16 * 1024:
        yield "the body is too large"


@schemathesis.check
def cross_field_rules(ctx, response, case):
    """A valid request is carried out or finds the lock taken; one that breaks a rule between its fields is refused."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    status = response.status_code
    body = case.body if isinstance(case.body, dict) else {}
    why = list(reasons(body))
    if isinstance(body.get("locks"), list):
        scope = urllib.parse.unquote(str((case.path_parameters or {}).get("scope", "")))
        why += reasons_of_set(scope, body)
    freeze = body.get("freeze") if isinstance(body.get("freeze"), dict) else {}
    blank = not printable(body.get("reason", "x")) or not printable(freeze.get("reason", "x"))
    if case.operation.label == "GET /v1/locks" and (case.query or {}).get("cursor"):
        assert status in (200, 400), f"{status} for a page"
        return
    query = case.query or {}
    if case.operation.label == "GET /v1/history/{name}" and (query.get("cursor") or "from" in query or "to" in query):
        assert status in (200, 400), f"{status} for a history"  # to must be later than from, and second 60 is no time of Go's
        return
    if why and status not in (400, 413, 422):
        raise AssertionError(f"{status}, though {why[0]}")
    if blank and status == 400:
        return
    if "capacity" not in body and body.get("permits", 1) > 1 and status == 400:
        return  # the capacity is 1, unless a limit sets another
    if not why and status != 200 and status not in OUTCOMES:
        raise AssertionError(f"{status} for a valid request: {response.text[:300]}")
