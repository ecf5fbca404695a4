import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";
import { Client } from "../src/index.js";
import { InvokeTransport } from "../src/invoke.js";
import { coordinatorURL, failure } from "./world.js";

/** Lambda's API, whose functions are the coordinator's. */
class Lambda {
  /** If set, the answer to each invocation: status, headers and body. */
  answer: [number, Record<string, string>, string] | undefined;
  invocations = 0;
  url = "";
  close: () => void = () => undefined;

  static async open(): Promise<Lambda> {
    const lambda = new Lambda();
    const coordinator = await coordinatorURL();
    const server = createServer(async (message, answer) => {
      lambda.invocations++;
      const parts: Buffer[] = [];
      for await (const part of message) parts.push(part as Buffer);
      if (lambda.answer) {
        answer.writeHead(lambda.answer[0], lambda.answer[1]).end(lambda.answer[2]);
        return;
      }
      const name = /^\/2015-03-31\/functions\/holdfast-([a-z-]+)\/invocations$/.exec(message.url ?? "")?.[1];
      const { name: lock, op, ...fields } = JSON.parse(Buffer.concat(parts).toString()) as { name?: string; op?: string };
      const get = op === "list" ? `/v1/locks?${new URLSearchParams(fields as Record<string, string>)}` : `/v1/locks/${lock}`;
      const made =
        name === "status"
          ? await fetch(coordinator + get)
          : await fetch(`${coordinator}/v1/locks/${lock}/${name}`, {
              method: "POST",
              headers: { "content-type": "application/json" },
              body: JSON.stringify(fields),
            });
      const body = await made.text();
      if (made.status === 200) answer.writeHead(200).end(body);
      else answer.writeHead(200, { "x-amz-function-error": "Unhandled" }).end(JSON.stringify({ errorType: "LockHeld", errorMessage: body }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    lambda.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    lambda.close = () => {
      server.close();
      server.closeAllConnections();
    };
    return lambda;
  }

  client(
    functions = {
      acquire: "holdfast-acquire",
      renew: "holdfast-renew",
      release: "holdfast-release",
      forceRelease: "holdfast-force-release",
      status: "holdfast-status",
    },
  ): Client {
    const lambda = { endpoint: this.url, region: "eu-west-1", credentials: { accessKeyId: "a", secretAccessKey: "b" } };
    return new Client({ transport: new InvokeTransport({ functions, lambda }), retryDelayMs: 1, retries: 2 });
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

describe("InvokeTransport", () => {
  test("serves every operation", async () => {
    using lambda = await Lambda.open();
    const client = lambda.client();
    const lease = await client.acquire("invoke:a", { metadata: { x: 1 } });
    await lease.renew();
    await assert.rejects(client.tryAcquire("invoke:a"), { name: "LockHeldError" });
    assert.equal((await client.status("invoke:a")).holders[0]?.fence, lease.fence);
    for await (const status of client.list("invoke:")) assert.equal(status.lock, "invoke:a");
    await lease.release();
    await client.acquire("invoke:b");
    assert.equal((await client.forceRelease("invoke:b", "test")).length, 1);
    await client.close().catch(() => undefined);
  });

  test("does not retry what lasts, and says what to do", async () => {
    using lambda = await Lambda.open();
    const refusals: [number, string, RegExp][] = [
      [403, "AccessDeniedException", /lambda:InvokeFunction/],
      [404, "ResourceNotFoundException", /check InvokeConfig.functions/],
      [403, "ExpiredTokenException", /renew them/],
      [403, "UnrecognizedClientException", /AWS_ACCESS_KEY_ID/],
      [403, "InvalidSignatureException", /clock/],
      [502, "KMSDisabledException", /deploy the stack/],
      [403, "SomethingNewException", /check InvokeConfig.functions/],
    ];
    for (const [status, code, message] of refusals) {
      lambda.answer = [status, { "x-amzn-errortype": code }, '{"Message":"no"}'];
      lambda.invocations = 0;
      await assert.rejects(lambda.client().tryAcquire("a"), { name: "RefusedError", message });
      assert.equal(lambda.invocations, 1, code);
    }
    lambda.answer = [200, { "x-amz-function-error": "Unhandled" }, '{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"fork/exec"}'];
    await assert.rejects(lambda.client().status("a"), { name: "RefusedError", message: /does not start/ });
  });

  test("retries what may pass", async () => {
    using lambda = await Lambda.open();
    const failures: [number, Record<string, string>, string][] = [
      [500, { "x-amzn-errortype": "ServiceException" }, '{"Message":"no"}'],
      [429, { "x-amzn-errortype": "TooManyRequestsException" }, '{"Message":"no"}'],
      [409, { "x-amzn-errortype": "ResourceConflictException" }, '{"Message":"no"}'],
      [200, { "x-amz-function-error": "Unhandled" }, '{"errorMessage":"Task timed out"}'],
    ];
    for (const answer of failures) {
      lambda.answer = answer;
      lambda.invocations = 0;
      await assert.rejects(lambda.client().status("a"), { name: "UnavailableError" });
      assert.equal(lambda.invocations, 3, JSON.stringify(answer));
    }
  });

  test("refuses operations whose function is not named", async () => {
    using lambda = await Lambda.open();
    assert.match(String(await failure(lambda.client({ acquire: "x" } as never).status("a"))), /no function is named for status/);
    assert.throws(() => new InvokeTransport({ functions: {} }), { name: "TypeError" });
  });
});
