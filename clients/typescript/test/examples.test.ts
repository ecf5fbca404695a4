// The snippets of README.md, which run here.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { DynamoDBDocumentClient, UpdateCommand } from "@aws-sdk/lib-dynamodb";
import { Client, exclusive, LeaseLostError, LockHeldError, leaseOf, lockMiddleware } from "@holdfast-lock/client";
import { FencingGuard } from "@holdfast-lock/client/fencing";
import { InvokeTransport } from "@holdfast-lock/client/invoke";
import { sigV4 } from "@holdfast-lock/client/sigv4";
import middy from "@middy/core";
import type { Context } from "aws-lambda";
import { coordinatorURL } from "./world.js";

const source = new URL("../../", import.meta.url);
process.env["HOLDFAST_ENDPOINT"] = await coordinatorURL();

const client = new Client({ endpoint: process.env.HOLDFAST_ENDPOINT ?? "http://127.0.0.1:7420" });

const written: number[] = [];
async function writeReport(fence: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  written.push(fence);
}

interface Order {
  id: string;
}
const ship = async (_order: Order, _fence: number): Promise<string> => "shipped";
const context = () => ({ getRemainingTimeInMillis: () => 30_000, awsRequestId: "r1", functionName: "ship", callbackWaitsForEmptyEventLoop: false }) as Context;

describe("README.md", () => {
  test("its snippets are in this file", () => {
    const trimmed = (text: string) =>
      text
        .split("\n")
        .map((line) => line.trim())
        .filter((line) => line !== "")
        .join("\n");
    const code = trimmed(readFileSync(new URL("test/examples.test.ts", source), "utf8"));
    let snippets = 0;
    for (const page of readdirSync(source).filter((name) => name.endsWith(".md"))) {
      for (const [, snippet = ""] of readFileSync(new URL(page, source), "utf8").matchAll(/```ts\n(.*?)```/gs)) {
        // Imports are sorted with those of the test.
        const lines = trimmed(snippet).split("\n");
        const imports = lines.filter((line) => line.startsWith("import "));
        const rest = lines.filter((line) => !line.startsWith("import ")).join("\n");
        for (const line of imports) {
          const [, names = "", from = ""] = /^import \{? ?(.*?) ?\}? from "(.*)";$/.exec(line) ?? [];
          const own = new RegExp(`import (?:type )?\\{?([^}]*)\\}? from "${from}"`).exec(code)?.[1] ?? "";
          for (const name of names.split(", ")) assert.ok(own.includes(name), `${page}: the test does not have: ${line}`);
        }
        assert.ok(code.includes(rest), `${page}: the test does not have:\n${rest}`);
        snippets++;
      }
    }
    assert.ok(snippets >= 10, `${snippets} snippets`);
  });

  test("scoped use", async () => {
    await client.withLock("report:daily", async (lease) => {
      await writeReport(lease.fence, lease.signal);
    });
    {
      await using lease = await client.acquire("report:daily", { ttlMs: 30_000, waitMs: 60_000 });
      await writeReport(lease.fence, lease.signal);
    }
    assert.equal(written.length, 2);
    assert.equal((await client.status("report:daily")).locked, false);
  });

  test("a held lock", async () => {
    const other = await client.acquire("report:daily", { owner: "nightly" });
    const logged: string[] = [];
    const console = { log: (text: string) => logged.push(text) };
    try {
      await using lease = await client.tryAcquire("report:daily");
      await writeReport(lease.fence, lease.signal);
    } catch (error) {
      if (!(error instanceof LockHeldError)) throw error;
      console.log(`held by ${error.holders[0]?.owner} for up to ${error.retryAfterMs} ms more`);
    }
    assert.match(logged[0] ?? "", /^held by nightly for up to \d+ ms more$/);
    await other.release();
  });

  test("a lease that is lost", async () => {
    const steps: string[] = [];
    const lease = await client.acquire("report:daily", { ttlMs: 300 });
    lease.signal.addEventListener("abort", () => {
      if (lease.signal.reason instanceof LeaseLostError) steps.push("stop");
    });
    await client.forceRelease("report:daily", "the holder is dead", { fence: lease.fence });
    while (lease.held) await setTimeout(5);
    assert.deepEqual(steps, ["stop"]);
  });

  test("in AWS", async () => {
    const client = new Client({
      endpoint: "https://abc123.execute-api.eu-west-1.amazonaws.com", // the stack's output Endpoint
      signer: sigV4(), // the function's credentials; or sigV4({ credentials: fromNodeProviderChain() })
    });
    await client.close();
  });

  test("a Lambda handler", async () => {
    const handler = exclusive(
      client,
      (order: Order) => `order:${order.id}`,
      async (order, _context, lease) => {
        return ship(order, lease.fence);
      },
    );
    assert.equal(await handler({ id: "1" }, context()), "shipped");
  });

  test("Middy", async () => {
    const handler = middy<Order, string>()
      .use(lockMiddleware(client, (order: Order) => `order:${order.id}`))
      .handler(async (order, context) => ship(order, leaseOf(context)?.fence ?? 0));
    assert.equal(await handler({ id: "2" }, context()), "shipped");
    assert.equal((await client.status("order:2")).locked, false);
    const held = await client.acquire("order:3");
    await assert.rejects(async () => handler({ id: "3" }, context()), { name: "LockHeldError" });
    await held.release();
    const failing = middy<Order, string>()
      .use(lockMiddleware(client, "order:4"))
      .handler(() => Promise.reject(new Error("mine")));
    await assert.rejects(async () => failing({ id: "4" }, context()), { message: "mine" });
    assert.equal((await client.status("order:4")).locked, false);
  });

  test("direct invocation", async () => {
    const client = new Client({
      transport: new InvokeTransport({
        functions: { acquire: "holdfast-acquire", renew: "holdfast-renew", release: "holdfast-release" },
        lambda: { region: "eu-west-1" },
      }),
    });
    await client.close();
  });

  test("fencing", async () => {
    // DynamoDB, whose item has the token of a newer holder.
    const server = createServer((request, answer) => {
      request.resume();
      const body = {
        __type: "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        message: "The conditional request failed",
        Item: { fence: { N: "9007199254740991" } },
      };
      answer.writeHead(400, { "content-type": "application/x-amz-json-1.0" }).end(JSON.stringify(body));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const credentials = { accessKeyId: "a", secretAccessKey: "b" };
    const documents = DynamoDBDocumentClient.from(new DynamoDBClient({ endpoint, region: "eu-west-1", credentials }));
    const stopped: string[] = [];
    const stop = () => stopped.push("stopped");
    const update = { TableName: "reports", Key: { id: "daily" }, UpdateExpression: "SET body = :body", ExpressionAttributeValues: { ":body": "x" } };
    const lease = await client.acquire("report:daily");

    const guard = new FencingGuard(lease.fence);
    try {
      await documents.send(new UpdateCommand(guard.update(update)));
    } catch (error) {
      if (!guard.isStale(error)) throw error;
      stop(); // a newer holder has written this item
    }

    assert.deepEqual(stopped, ["stopped"]);
    await lease.release();
    documents.destroy();
    server.close();
  });

  test("coming from dynamodb-lock-client", async () => {
    const client = new Client({ endpoint: process.env.HOLDFAST_ENDPOINT ?? "http://127.0.0.1:7420", owner: "me" });

    // FailOpen({ leaseDurationMs: 10_000, heartbeatPeriodMs: 3_000, owner: "me", … }).acquireLock("spock", callback)
    const lock = await client.acquire("spock", { ttlMs: 10_000, heartbeatMs: 3_000, waitMs: 20_000 });
    lock.signal.addEventListener("abort", () => {}); // lock.on("error", …)
    await writeReport(lock.fence, lock.signal); // lock.fencingToken
    await lock.release(); // lock.release(callback)
    assert.equal((await client.status("spock")).locked, false);
  });

  test("coming from @deliveryhero/dynamodb-lock", async () => {
    const client = new Client({ endpoint: process.env.HOLDFAST_ENDPOINT ?? "http://127.0.0.1:7420" });

    // lockClient.lock("reports", "daily", { leaseDurationInMs: 20_000, prolongEveryMs: 5_000 })
    const lock = await client.acquire("reports:daily", { ttlMs: 20_000, heartbeatMs: 5_000 });
    await lock.release(); // lockClient.releaseLock(lock)
    await client.close(); // lockClient.releaseAllLocks()
    assert.equal((await client.status("reports:daily")).locked, false);
  });
});
