import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { exclusive, type Invocation, LeaseLostError, leaseOf, lockMiddleware } from "../src/index.js";
import { budget, ttlOf } from "../src/invocation.js";
import { Front, failure, granted, Scripted } from "./world.js";

/** An invocation that ends after `ms` milliseconds of a test's time. */
function invocation(ms: number, now: () => number = () => performance.now()): Invocation {
  const end = now() + ms;
  return { getRemainingTimeInMillis: () => end - now(), awsRequestId: "request-1", functionName: "report" };
}

interface Order {
  id: string;
}

describe("exclusive", () => {
  test("runs the handler under a lease of the invocation, and releases it", async () => {
    await using front = await Front.open();
    const client = front.client();
    const context = invocation(30_000);
    const handler = exclusive(
      client,
      (order: Order) => `order:${order.id}`,
      async (order, _context, lease) => {
        assert.equal(leaseOf(context), lease);
        assert.ok(lease.remainingMs <= 30_000, "it ends with the invocation");
        const { holders } = await client.status(`order:${order.id}`);
        assert.equal(holders[0]?.owner, "report/request-1");
        return order.id;
      },
    );
    assert.equal(await handler({ id: "7" }, context), "7");
    const ttl = Number(front.seen[0]?.fields["ttl_ms"]);
    assert.ok(ttl > 30_900 && ttl <= 31_060, `the TTL is ${ttl}`);
    assert.equal(front.seen[0]?.fields["wait_ms"], undefined);
    assert.equal((await client.status("order:7")).locked, false);
  });

  test("fails the invocation if others hold the lock, without running the handler or waiting", async () => {
    await using front = await Front.open();
    const client = front.client();
    await client.acquire("order:8");
    const handler = exclusive(client, "order:8", () => assert.fail("it runs"));
    const error = await failure(handler({}, invocation(30_000)));
    assert.equal((error as Error).name, "LockHeldError");
    assert.equal(front.count("acquire"), 2);
    const waiting = exclusive(client, "order:8", () => 1, { waitMs: 100 });
    await assert.rejects(waiting({}, invocation(30_000)), { name: "LockHeldError", timedOut: true });
  });

  test("without a context of Lambda's the lease has the default TTL, is renewed, and is released", async () => {
    for (const context of [undefined, null, {}]) {
      using w = new Scripted();
      const handler = exclusive(w.client, "a", async (_event, given: Invocation, lease) => {
        assert.equal(given, context);
        assert.equal(leaseOf(given), context ? lease : undefined);
        await w.pass(3500);
        return lease.held;
      });
      assert.equal(await handler({}, context as Invocation), true);
      assert.equal(w.sent[0]?.fields["ttl_ms"], undefined);
      assert.equal(w.count("renew"), 3);
      assert.equal(w.count("release"), 1);
    }
  });

  test("passes the handler's error on, and releases the lock", async () => {
    await using front = await Front.open();
    const client = front.client();
    const handler = exclusive(client, "order:9", () => Promise.reject(new Error("mine")));
    await assert.rejects(handler({}, invocation(30_000)), { message: "mine" });
    assert.equal((await client.status("order:9")).locked, false);
  });

  test("a failed release is not the invocation's, but a lost lease is", async () => {
    await using front = await Front.open();
    const client = front.client({ retries: 0 });
    front.script = async (seen, forward) => (seen.operation === "release" ? "cut" : forward());
    assert.equal(await exclusive(client, "order:10", () => 1, { ttlMs: 300 })({}, invocation(30_000)), 1);
    front.script = (_, forward) => forward();
    const lost = exclusive(client, "order:11", async () => {
      await client.forceRelease("order:11", "test");
      await assert.rejects(leaseOf(context)?.renew() ?? Promise.resolve(), LeaseLostError);
    });
    const context = invocation(30_000);
    await assert.rejects(lost({}, context), LeaseLostError);
  });

  test("does not renew the lease, which ends with the invocation", async () => {
    using w = new Scripted();
    const context = invocation(5000, () => w.now.monotonic);
    w.answer = (r) => granted(r, Number(r.fields["ttl_ms"] ?? 1));
    const lease = await w.client.tryAcquire("a", { invocation: context });
    assert.equal(w.sent[0]?.fields["ttl_ms"], 6010);
    await w.pass(4990);
    assert.equal(lease.held, true);
    await w.pass(10);
    assert.match(String(lease.signal.reason), /its invocation is over/);
    assert.equal(w.count("renew"), 0);
  });

  test("with a TTL the lease is renewed, and ends with the invocation", async () => {
    using w = new Scripted();
    const lease = await w.client.tryAcquire("a", { invocation: invocation(10_000, () => w.now.monotonic), ttlMs: 3000 });
    await w.pass(9990);
    assert.equal(w.count("renew"), 9);
    assert.equal(lease.held, true);
    await w.pass(10);
    assert.match(String(lease.signal.reason), /its invocation is over/);
  });

  test("a grant that is given up is released before the handler ends", async () => {
    await using front = await Front.open();
    const client = front.client({ retries: 0 });
    front.script = async (seen, forward) => {
      const reply = await forward();
      return seen.operation === "acquire" ? "cut" : reply;
    };
    await assert.rejects(exclusive(client, "order:12", () => 1)({}, invocation(30_000)), { name: "UnavailableError" });
    assert.equal(front.count("release"), 1);
  });

  test("a release leaves the runtime time to report", () => {
    assert.equal(budget(undefined, 5000), 5000);
    assert.ok(Math.abs(budget(invocation(3000), 5000) - 2500) < 50);
    assert.ok(Math.abs(budget(invocation(600), 5000) - 300) < 50);
    assert.equal(budget(invocation(-5), 5000), 0);
    assert.equal(ttlOf(invocation(-5000)), 1000);
  });
});

describe("lockMiddleware", () => {
  test("holds the lock around the handler", async () => {
    await using front = await Front.open();
    const client = front.client();
    const middleware = lockMiddleware(client, (order: Order) => `middy:${order.id}`);
    const request = { event: { id: "1" }, context: invocation(30_000), internal: {} };
    await middleware.before(request);
    assert.equal(leaseOf(request.context)?.held, true);
    await assert.rejects(middleware.before({ event: { id: "1" }, context: invocation(30_000), internal: {} }), { name: "LockHeldError" });
    await middleware.after(request);
    assert.equal((await client.status("middy:1")).locked, false);
    await middleware.before(request);
    await middleware.onError(request);
    const local = { event: { id: "1" }, context: {}, internal: {} };
    await middleware.before(local);
    await middleware.after(local);
    await middleware.onError(request); // of a middleware's failure before the lock was acquired
    assert.equal((await client.status("middy:1")).locked, false);
  });
});
