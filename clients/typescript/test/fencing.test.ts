import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FencingGuard } from "../src/fencing.js";

const condition = "(attribute_not_exists(#holdfast_fence) OR #holdfast_fence <= :holdfast_fence)";

describe("FencingGuard", () => {
  test("guards writes of documents", () => {
    const guard = new FencingGuard(5);
    assert.deepEqual(guard.put({ TableName: "t", Item: { id: "a" } }), {
      TableName: "t",
      Item: { id: "a", fence: 5 },
      ConditionExpression: condition,
      ExpressionAttributeNames: { "#holdfast_fence": "fence" },
      ExpressionAttributeValues: { ":holdfast_fence": 5 },
      ReturnValuesOnConditionCheckFailure: "ALL_OLD",
    });
    const input = { UpdateExpression: "SET a = :a", ConditionExpression: "b = :b", ExpressionAttributeValues: { ":a": 1, ":b": 2 } };
    const update = guard.update(input);
    assert.equal(update.UpdateExpression, "SET #holdfast_fence = :holdfast_fence, a = :a");
    assert.equal(update.ConditionExpression, `${condition} AND (b = :b)`);
    assert.deepEqual(update.ExpressionAttributeValues, { ":a": 1, ":b": 2, ":holdfast_fence": 5 });
    assert.equal(input.UpdateExpression, "SET a = :a", "the caller's input stays as it is");
    assert.equal(guard.delete({ TableName: "t" } as { TableName: string; ConditionExpression?: string }).ConditionExpression, condition);
  });

  test("finds the SET clause of an update", () => {
    const guard = new FencingGuard(5);
    const update = (UpdateExpression?: string) => guard.update(UpdateExpression === undefined ? {} : { UpdateExpression }).UpdateExpression;
    const set = "#holdfast_fence = :holdfast_fence";
    assert.equal(update(), `SET ${set}`);
    assert.equal(update("REMOVE x"), `REMOVE x SET ${set}`);
    assert.equal(update("REMOVE x set y = :y"), `REMOVE x set ${set}, y = :y`);
    assert.equal(update("REMOVE offset"), `REMOVE offset SET ${set}`);
  });

  test("guards writes with typed values, and in another attribute", () => {
    const guard = new FencingGuard(5, { typed: true, attribute: "token" });
    assert.deepEqual(guard.put({ Item: { id: { S: "a" } } }).Item, { id: { S: "a" }, token: { N: "5" } });
    assert.deepEqual(guard.condition().values, { ":holdfast_fence": { N: "5" } });
    assert.throws(() => new FencingGuard(0), TypeError);
  });

  test("knows a write that a newer holder has made stale", () => {
    const guard = new FencingGuard(5);
    const failed = (fence: unknown) => ({ name: "ConditionalCheckFailedException", Item: { fence } });
    for (const [error, stale] of [
      [failed({ N: "6" }), true],
      [failed(6), true],
      [failed({ N: "5" }), false],
      [failed({ S: "6" }), false],
      [failed(undefined), false],
      [{ name: "ConditionalCheckFailedException" }, false],
      [{ name: "ThrottlingException", Item: { fence: { N: "6" } } }, false],
      [undefined, false],
      [
        { name: "TransactionCanceledException", CancellationReasons: [{ Code: "None" }, { Code: "ConditionalCheckFailed", Item: { fence: { N: "6" } } }] },
        true,
      ],
      [{ name: "TransactionCanceledException", CancellationReasons: [{ Code: "TransactionConflict", Item: { fence: { N: "6" } } }] }, false],
    ] as const) {
      assert.equal(guard.isStale(error), stale, JSON.stringify(error));
    }
  });
});
