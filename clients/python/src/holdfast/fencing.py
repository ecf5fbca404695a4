"""Adds a lease's fencing token to writes to DynamoDB.

The table then refuses the writes of a holder that was paused, lost its lock meanwhile, and does not know it yet:

    guard = Guard(lease.fence)
    try:
        table.update_item(**guard.update(Key={"id": "daily"}, UpdateExpression="SET body = :b", ExpressionAttributeValues={":b": text}))
    except ClientError as error:
        if guard.stale(error):
            ...  # a newer holder has written: stop
        raise

An item keeps the highest token of its writes, and a write with a lower token fails. This protects an item only if all its writers use a Guard
with tokens of the same lock. docs/fencing.md shows the same for SQL and S3.
"""

from __future__ import annotations

import re
from typing import Any

_NAME, _VALUE = "#holdfast_fence", ":holdfast_fence"  # unlikely to be a caller's too
_SET = re.compile(r"(^|[\s,)])SET\s", re.IGNORECASE)  # attribute names cannot be keywords in an update expression


class Guard:
    """Lets a write succeed only if no write with a higher fencing token has succeeded on the item.

    fence is that of the lease under which the write is made. attribute is the attribute of the item that has the token. Values are as boto3's Table
    takes them; for botocore's and boto3's client, which take {"N": "7"}, set typed.
    """

    def __init__(self, fence: int, attribute: str = "fence", *, typed: bool = False) -> None:
        if isinstance(fence, bool) or not isinstance(fence, int) or fence < 1:
            raise ValueError(f"fence is {fence!r}; give the fencing token of a lease, lease.fence")
        self.fence, self.attribute, self.typed = fence, attribute, typed

    def put(self, **write: Any) -> dict[str, Any]:
        """Return the arguments of a put_item, or of a Put in a transaction, with the token in the item and the condition."""
        write["Item"] = {**write["Item"], self.attribute: self._value()}
        return self._guarded(write)

    def update(self, **write: Any) -> dict[str, Any]:
        """Return the arguments of an update_item, or of an Update in a transaction, with the token in a SET and the condition."""
        if "AttributeUpdates" in write:
            raise ValueError("AttributeUpdates is the legacy way, which takes no condition; give an UpdateExpression")
        write["UpdateExpression"] = _with_set(write.get("UpdateExpression") or "")
        return self._guarded(write)

    def delete(self, **write: Any) -> dict[str, Any]:
        """Return the arguments of a delete_item, or of a Delete in a transaction, with the condition.

        The token is deleted with the item, so that an older holder can create the item again. Where that matters, mark the item as deleted with
        `update` instead.
        """
        return self._guarded(write)

    def stale(self, error: BaseException) -> bool:
        """Report whether a write failed because a write with a higher token has succeeded on the item: there is a newer holder, and this one must stop.

        It is False for other failures, such as that of the write's own condition.
        """
        response = getattr(error, "response", None)
        if not isinstance(response, dict):
            return False
        code = response.get("Error", {}).get("Code")
        if code == "ConditionalCheckFailedException":
            return self._newer(response.get("Item"))
        reasons = response.get("CancellationReasons") or []
        return code == "TransactionCanceledException" and any(r.get("Code") == "ConditionalCheckFailed" and self._newer(r.get("Item")) for r in reasons)

    def _value(self) -> Any:
        return {"N": str(self.fence)} if self.typed else self.fence

    def _guarded(self, write: dict[str, Any]) -> dict[str, Any]:
        """Combine the condition with the write's own, and make DynamoDB return the item when a condition fails, which `stale` needs."""
        own = write.get("ConditionExpression")
        if own is not None and not isinstance(own, str):
            raise ValueError("ConditionExpression is an object; give a string, to which the condition can be added")
        condition = f"(attribute_not_exists({_NAME}) OR {_NAME} <= {_VALUE})"
        write["ConditionExpression"] = f"{condition} AND ({own})" if own else condition
        write["ExpressionAttributeNames"] = {**write.get("ExpressionAttributeNames", {}), _NAME: self.attribute}
        write["ExpressionAttributeValues"] = {**write.get("ExpressionAttributeValues", {}), _VALUE: self._value()}
        write["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        return write

    def _newer(self, item: Any) -> bool:
        value = item.get(self.attribute) if isinstance(item, dict) else None
        if isinstance(value, dict):  # the form of botocore, in which also boto3's Table reports the item of a failure
            value = value.get("N")
        try:
            return value is not None and int(value) > self.fence
        except (TypeError, ValueError):
            return False


def _with_set(update: str) -> str:
    """Add the token to the SET clause of an update expression, or add a SET clause."""
    assignment = f"{_NAME} = {_VALUE}"
    found = _SET.search(update)
    if found:
        return f"{update[: found.end()]}{assignment}, {update[found.end() :]}"
    return f"{update} SET {assignment}".strip()
