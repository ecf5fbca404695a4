/**
 * Adds a lease's fencing token to writes to DynamoDB, so that the table refuses the writes of a holder that was paused, lost its lock meanwhile, and
 * does not know it yet.
 *
 *     const guard = new FencingGuard(lease.fence);
 *     try {
 *       await documents.send(new UpdateCommand(guard.update({ TableName, Key, ... })));
 *     } catch (error) {
 *       if (guard.isStale(error)) ... // a newer holder has written: stop
 *     }
 *
 * An item keeps the highest token of its writes, and a write with a lower token fails. This protects an item only if all its writers use a guard with
 * tokens of the same lock. docs/fencing.md shows the same for SQL and S3.
 *
 * @packageDocumentation
 */

const nameAlias = "#holdfast_fence";
const valueAlias = ":holdfast_fence";
const expression = `(attribute_not_exists(${nameAlias}) OR ${nameAlias} <= ${valueAlias})`;

/** Configures a {@link FencingGuard}. */
export interface FencingConfig {
  /** The attribute of the item that has the token. By default "fence". */
  attribute?: string;
  /** Inputs are those of `@aws-sdk/client-dynamodb`, with values like {N: "7"}, and not those of `@aws-sdk/lib-dynamodb`, with values of JavaScript. */
  typed?: boolean;
}

/** What a guard changes in an input of a write. */
interface Write {
  ConditionExpression?: string | undefined;
  ExpressionAttributeNames?: Record<string, string> | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: values of both kinds of inputs
  ExpressionAttributeValues?: Record<string, any> | undefined;
  ReturnValuesOnConditionCheckFailure?: "ALL_OLD" | "NONE" | undefined;
}

/** Lets a write succeed only if no write with a higher fencing token has succeeded on the item. Its methods return a new input. */
export class FencingGuard {
  readonly #attribute: string;
  readonly #typed: boolean;

  constructor(
    readonly fence: number,
    config: FencingConfig = {},
  ) {
    if (!Number.isSafeInteger(fence) || fence < 1) throw new TypeError(`the fencing token is ${fence}; give lease.fence`);
    this.#attribute = config.attribute || "fence";
    this.#typed = config.typed ?? false;
  }

  #value(): unknown {
    return this.#typed ? { N: String(this.fence) } : this.fence;
  }

  /**
   * The condition and its placeholders, for callers that build expressions themselves. The write must also set the attribute to the token.
   */
  condition(): { expression: string; names: Record<string, string>; values: Record<string, unknown> } {
    return { expression, names: { [nameAlias]: this.#attribute }, values: { [valueAlias]: this.#value() } };
  }

  /** Combines the condition with the write's own, and makes DynamoDB return the item when a condition fails, which isStale needs. */
  #guarded<T extends Write>(input: T): T {
    const { names, values } = this.condition();
    return {
      ...input,
      ConditionExpression: input.ConditionExpression ? `${expression} AND (${input.ConditionExpression})` : expression,
      ExpressionAttributeNames: { ...input.ExpressionAttributeNames, ...names },
      ExpressionAttributeValues: { ...input.ExpressionAttributeValues, ...values },
      ReturnValuesOnConditionCheckFailure: "ALL_OLD",
    };
  }

  /** Guards a put, also one of a transaction: it adds the token to the item and the condition to the write's own. */
  // biome-ignore lint/suspicious/noExplicitAny: items of both kinds of inputs
  put<T extends Write & { Item?: Record<string, any> | undefined }>(input: T): T {
    return this.#guarded({ ...input, Item: { ...input.Item, [this.#attribute]: this.#value() } });
  }

  /** Guards an update, also one of a transaction: it adds the token to the update expression and the condition to the write's own. */
  update<T extends Write & { UpdateExpression?: string | undefined }>(input: T): T {
    const set = `${nameAlias} = ${valueAlias}`;
    const own = input.UpdateExpression ?? "";
    const at = /(^|[\s,)])SET\s/i.exec(own); // an expression has one SET clause at most
    const end = at ? at.index + at[0].length : 0;
    const UpdateExpression = at ? `${own.slice(0, end)}${set}, ${own.slice(end)}` : `${own} SET ${set}`.trim();
    return this.#guarded({ ...input, UpdateExpression });
  }

  /**
   * Guards a deletion, also one of a transaction. The token is deleted with the item, so that an older holder can create the item again. Where that
   * matters, mark the item as deleted with an update instead.
   */
  delete<T extends Write>(input: T): T {
    return this.#guarded(input);
  }

  /**
   * Whether a write failed because a write with a higher token has succeeded on the item. Then there is a newer holder, and this one must stop. False
   * for other failures, such as that of the write's own condition.
   */
  isStale(error: unknown): boolean {
    const { name, Item, CancellationReasons } = Object(error) as { name?: unknown; Item?: unknown; CancellationReasons?: { Code?: string; Item?: unknown }[] };
    if (name === "ConditionalCheckFailedException") return this.#newer(Item);
    if (name !== "TransactionCanceledException") return false;
    return (CancellationReasons ?? []).some((reason) => reason.Code === "ConditionalCheckFailed" && this.#newer(reason.Item));
  }

  #newer(item: unknown): boolean {
    const value = (Object(item) as Record<string, unknown>)[this.#attribute];
    const fence = Number(typeof value === "object" && value !== null ? (value as { N?: unknown }).N : value);
    return fence > this.fence; // false if it is no number
  }
}
