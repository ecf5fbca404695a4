"""Guard, with DynamoDB Local: a paused holder's write is refused, in every form."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from holdfast.fencing import Guard, _with_set

OLD, NEW = 1795510300181679, 1795510300181680


def refused(guard: Guard, write: Any) -> None:
    with pytest.raises(ClientError) as caught:
        write()
    assert guard.stale(caught.value)


def test_table(table: Any) -> None:
    old, new = Guard(OLD), Guard(NEW)
    table.put_item(**old.put(Item={"id": "a", "body": "old"}))
    table.update_item(**new.update(Key={"id": "a"}, UpdateExpression="SET body = :b REMOVE x", ExpressionAttributeValues={":b": "new"}))
    refused(old, lambda: table.put_item(**old.put(Item={"id": "a", "body": "late"})))
    refused(old, lambda: table.update_item(**old.update(Key={"id": "a"}, UpdateExpression="REMOVE body")))
    refused(old, lambda: table.update_item(**old.update(Key={"id": "a"})))
    refused(old, lambda: table.delete_item(**old.delete(Key={"id": "a"})))
    assert table.get_item(Key={"id": "a"})["Item"] == {"id": "a", "body": "new", "fence": NEW}
    table.delete_item(**new.delete(Key={"id": "a"}, ConditionExpression="body = :b", ExpressionAttributeValues={":b": "new"}))


def test_own_condition_is_no_staleness(table: Any) -> None:
    guard = Guard(NEW, "token")
    table.put_item(**guard.put(Item={"id": "b", "body": "x"}))
    with pytest.raises(ClientError) as caught:
        table.put_item(**guard.put(Item={"id": "b"}, ConditionExpression="attribute_not_exists(id) OR body = :y", ExpressionAttributeValues={":y": "y"}))
    assert not guard.stale(caught.value)
    assert not guard.stale(ValueError())


def test_client_and_transactions(table: Any) -> None:
    client, name = table.meta.client, table.name
    import botocore.session

    low: Any = botocore.session.Session().create_client(
        "dynamodb", endpoint_url=client.meta.endpoint_url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="s"
    )
    old, new = Guard(OLD, typed=True), Guard(NEW, typed=True)
    low.transact_write_items(TransactItems=[{"Put": new.put(TableName=name, Item={"id": {"S": "c"}})}])
    refused(
        old,
        lambda: low.transact_write_items(
            TransactItems=[
                {"Put": old.put(TableName=name, Item={"id": {"S": "d"}})},
                {
                    "Update": old.update(
                        TableName=name, Key={"id": {"S": "c"}}, UpdateExpression="set body = :b", ExpressionAttributeValues={":b": {"S": "late"}}
                    )
                },
            ]
        ),
    )
    low.close()


def test_expressions() -> None:
    token = "#holdfast_fence = :holdfast_fence"
    assert _with_set("") == f"SET {token}"
    assert _with_set("SET a = :a") == f"SET {token}, a = :a"
    assert _with_set("REMOVE offset SET a = :a") == f"REMOVE offset SET {token}, a = :a"
    assert _with_set("REMOVE offset") == f"REMOVE offset SET {token}"
    assert _with_set("ADD n :one set a=:a") == f"ADD n :one set {token}, a=:a"


@pytest.mark.parametrize("fence", [0, -1, True, "7", None])
def test_arguments(fence: Any) -> None:
    with pytest.raises(ValueError, match="fence is"):
        Guard(fence)
    with pytest.raises(ValueError, match="legacy"):
        Guard(1).update(AttributeUpdates={})
