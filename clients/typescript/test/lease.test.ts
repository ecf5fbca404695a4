import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inspect } from "node:util";
import { LeaseLostError, LeaseReleasedError, UnavailableError } from "../src/index.js";
import { deferred, Front, failure, granted, problem, Scripted } from "./world.js";

describe("lease", () => {
  test("its deadline counts from before the request, less a thousandth", async () => {
    using w = new Scripted();
    const reply = deferred<void>();
    w.answer = async (r) => {
      await reply.promise;
      return granted(r, 3000);
    };
    const before = w.now.monotonic;
    const acquiring = w.client.acquire("a");
    await w.pass(500);
    reply.resolve();
    const lease = await acquiring;
    assert.equal(lease.deadlineMs, before + 3000 - 3);
    assert.equal(lease.remainingMs, 3000 - 3 - 500);
  });

  test("a grant that arrives when its time is over is not a lease", async () => {
    using w = new Scripted();
    const secrets = new Set<unknown>();
    w.answer = (r) => {
      secrets.add(r.fields["lease"]);
      if (secrets.size === 1) w.now.monotonic += 3000;
      return granted(r, 3000);
    };
    const acquiring = w.client.acquire("a");
    await w.pass(1000);
    assert.equal((await acquiring).held, true);
    assert.equal(secrets.size, 2);
  });

  test("is lost at its deadline if no renewal has an answer, with the reason", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a");
    const losses: unknown[] = [];
    lease.signal.addEventListener("abort", () => losses.push(lease.signal.reason));
    w.answer = () => problem(503, "store_unavailable");
    await w.pass(2990);
    assert.equal(lease.held, true);
    await w.pass(10);
    assert.equal(losses.length, 1);
    assert.ok(losses[0] instanceof LeaseLostError);
    assert.match(losses[0].message, /^renew a: the lease is lost: it was not renewed in time: the coordinator is unavailable: 503 store_unavailable/);
    assert.equal(lease.held, false);
    assert.equal(lease.remainingMs, 0);
    assert.throws(() => lease.throwIfEnded(), LeaseLostError);
    await assert.rejects(lease.renew(), LeaseLostError);
  });

  test("that is renewed by hand ends its signal at the deadline, without a look at it", async () => {
    using w = new Scripted();
    const { signal } = await w.client.acquire("a", { manualRenew: true });
    await w.pass(2990);
    assert.equal(signal.aborted, false);
    await w.pass(10);
    assert.ok(signal.reason instanceof LeaseLostError);
  });

  test("is over at the first look after the process stood still", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a");
    const { signal } = lease;
    w.now.monotonic += 3000; // no timer runs
    assert.equal(signal.aborted, false);
    assert.equal(lease.held, false);
    assert.ok(signal.reason instanceof LeaseLostError);
  });

  test("is over after the machine was suspended, which the monotonic clock does not count", async () => {
    using w = new Scripted();
    const { signal } = await w.client.acquire("a", { manualRenew: true });
    w.now.uptime += 3020;
    await w.pass(1000); // the longest time between two checks
    assert.ok(signal.reason instanceof LeaseLostError);
  });

  test("a renewal whose answer comes after the deadline does not revive it", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { manualRenew: true });
    w.answer = (r) => {
      w.now.monotonic += 3500;
      return granted(r, 3000);
    };
    await assert.rejects(lease.renew(), LeaseLostError);
    assert.equal(lease.held, false);
  });

  test("does not move its deadline back when answers arrive out of order", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { manualRenew: true });
    const replies = [deferred<void>(), deferred<void>()] as const;
    let n = 0;
    w.answer = async (r) => {
      await replies[n++ as 0 | 1]?.promise;
      return granted(r, 3000);
    };
    const first = lease.renew();
    await w.pass(1000);
    const second = lease.renew();
    replies[1].resolve();
    await second;
    const { deadlineMs } = lease;
    replies[0].resolve();
    await first;
    assert.equal(lease.deadlineMs, deadlineMs);
  });

  test("is renewed at each third of its TTL, sooner after a slow grant, and not after its release", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { ttlMs: 3000 });
    await w.pass(30_500);
    assert.equal(w.count("renew"), 30);
    assert.equal(lease.held, true);
    await lease.release();
    await w.pass(10_000);
    assert.equal(w.count("renew"), 30);
    w.answer = (r) => {
      w.now.monotonic += 1500;
      w.now.uptime += 1500;
      return granted(r, 3000);
    };
    await w.client.acquire("a", { ttlMs: 3000 });
    w.answer = (r) => granted(r, 3000);
    await w.pass(510);
    assert.equal(w.count("renew"), 31);
  });

  test("its renewals report when they begin to fail and when they succeed again", async () => {
    using w = new Scripted({ retries: 0 });
    const reports: unknown[] = [];
    const lease = await w.client.acquire("a", { onRenewal: (error) => reports.push(error) });
    w.answer = () => problem(503, "throttled");
    await w.pass(1800);
    w.answer = (r) => granted(r, 3000);
    await w.pass(1000);
    assert.equal(reports.length, 2);
    assert.ok(reports[0] instanceof UnavailableError);
    assert.equal(reports[1], undefined);
    assert.equal(lease.held, true);
  });

  test("a renewal that hangs leaves time for others", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a");
    w.answer = (r, signal) =>
      w.count("renew") === 1 ? new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))) : granted(r, 3000);
    await w.pass(10_000);
    assert.equal(lease.held, true);
    assert.ok(w.count("renew") > 5);
  });

  test("is lost when the coordinator says so", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a");
    w.answer = () => problem(410, "lease_lost", { limit: "max_hold_ms", value: 5, prefix: "a" });
    await w.pass(1010);
    assert.ok(lease.signal.reason instanceof LeaseLostError);
    assert.equal(lease.signal.reason.limit?.name, "max_hold_ms");
  });

  test("is lost when a renewal's answer has a higher fence: the lock was granted again", async () => {
    using w = new Scripted();
    const [first, second] = [await w.client.acquire("a", { manualRenew: true }), await w.client.acquire("a")];
    w.answer = (r) => granted(r, 3000, { fence: 8 });
    await assert.rejects(first.renew(), LeaseLostError);
    assert.ok(first.signal.reason instanceof LeaseLostError);
    await w.pass(1010);
    assert.ok(second.signal.reason instanceof LeaseLostError);
  });

  test("takes no answer with a lower fence for a renewal", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { manualRenew: true });
    await w.pass(1000);
    const { deadlineMs } = lease;
    w.answer = (r) => granted(r, 3000, { fence: 6 });
    await assert.rejects(lease.renew(), { name: "RefusedError", message: /there is no coordinator at this URL/ });
    assert.equal(lease.held, true);
    assert.equal(lease.deadlineMs, deadlineMs);
  });

  test("is lost at its deadline although a signal with a reason that is no error ended its last renewal", async () => {
    for (const reason of [null, "mine", Object.create(null)]) {
      using w = new Scripted();
      const lease = await w.client.acquire("a", { manualRenew: true });
      w.answer = () => new Promise(() => undefined);
      const controller = new AbortController();
      const renewing = failure(lease.renew({ signal: controller.signal }));
      controller.abort(reason);
      assert.equal(await renewing, reason);
      await w.pass(3000);
      assert.ok(lease.signal.reason instanceof LeaseLostError);
    }
  });

  test("whose time a limit ends says so", async () => {
    using w = new Scripted();
    const at = (ms: number) => new Date(1e12 + ms).toISOString();
    w.answer = (r) => granted(r, 3000, { acquired_at: at(0), expires_at: at(3000), ends_at: at(3000) });
    const lease = await w.client.acquire("a", { manualRenew: true });
    await w.pass(3000);
    assert.match(String(lease.signal.reason), /a limit for locks below its prefix ended it 3000 ms after its grant/);
  });

  test("a second release has the result of the first, and the signal ends before the request", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("lease:twice");
    front.script = (_, forward) => {
      assert.ok(lease.signal.reason instanceof LeaseReleasedError);
      return forward();
    };
    await Promise.all([lease.release(), lease.release()]);
    assert.equal(front.count("release"), 1);
    assert.equal((await client.status("lease:twice")).locked, false);
  });

  test("the release of a lost lease is sent nevertheless, and says that it was lost", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("lease:forced");
    await client.forceRelease("lease:forced", "test", { fence: lease.fence });
    await assert.rejects(lease.renew(), LeaseLostError);
    await assert.rejects(lease.release(), LeaseLostError);
    assert.equal(front.count("release"), 1);
  });

  test("a release that finds the lease gone succeeds if an earlier try had no answer", async () => {
    using w = new Scripted();
    const [first, second] = [await w.client.acquire("a"), await w.client.acquire("b")];
    const answers = [problem(410, "lease_lost"), problem(503, "throttled"), problem(410, "lease_lost")];
    w.answer = (r) => answers.shift() ?? granted(r);
    await assert.rejects(first.release(), LeaseLostError);
    const releasing = second.release();
    await w.pass(200);
    await releasing;
    assert.equal(answers.length, 0);
  });

  test("a release that is given up is sent once more in the background", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("lease:given-up", { ttlMs: 60_000 });
    const controller = new AbortController();
    front.script = (seen, forward) => {
      if (seen.operation !== "release" || front.count("release") > 1) return forward();
      controller.abort();
      return new Promise(() => undefined);
    };
    await assert.rejects(lease.release({ signal: controller.signal }), { name: "AbortError" });
    await client.close();
    assert.equal((await client.status("lease:given-up")).locked, false);
  });

  test("stays held for its minimum, and is released then", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { ttlMs: 3000, minHoldMs: 10_000, manualRenew: true });
    await w.pass(1000);
    await lease.release();
    assert.equal(lease.held, false);
    assert.equal(w.sent.at(-1)?.operation, "renew");
    assert.equal(w.sent.at(-1)?.fields["ttl_ms"], 9001);
    await w.pass(8990);
    assert.equal(w.count("release"), 0);
    await w.pass(20);
    assert.equal(w.count("release"), 1);
  });

  for (const end of ["the signal", "the time limit"]) {
    test(`stays held for its minimum if ${end} ends the renewal at its release`, async () => {
      using w = new Scripted();
      const controller = new AbortController();
      w.answer = (r, signal) =>
        r.operation === "renew" ? new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))) : granted(r, 3000);
      const options = { ttlMs: 3000, minHoldMs: 60_000, manualRenew: true };
      let releasing: Promise<unknown>;
      if (end === "the signal") {
        const lease = await w.client.acquire("a", options);
        releasing = failure(lease.release({ signal: controller.signal }));
        await w.pass(100);
        controller.abort();
        assert.equal(((await releasing) as Error).name, "AbortError");
      } else {
        releasing = failure(w.client.withLock("a", options, () => undefined));
        await w.pass(10_100);
        assert.ok((await releasing) instanceof UnavailableError);
      }
      await w.pass(1000);
      assert.ok(w.count("renew") > 0);
      assert.equal(w.count("release"), 0);
    });
  }

  test("stays held for its minimum after the client was closed", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a", { ttlMs: 30_000, minHoldMs: 10_000, manualRenew: true });
    await lease.release();
    await w.client.close();
    await w.pass(20_000);
    assert.equal(w.count("release"), 0);
  });

  test("does not print its secret", async () => {
    using w = new Scripted();
    const lease = await w.client.acquire("a");
    for (const text of [String(lease), inspect(lease, { depth: 9, showHidden: true }), JSON.stringify({ lease })]) {
      assert.ok(!text.includes(lease.secret), text);
      assert.match(text, /7/);
    }
  });

  test("is adopted by its secret, and ends for both", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("lease:adopted", { ttlMs: 60_000, manualRenew: true });
    const other = await client.adopt("lease:adopted", lease.secret);
    assert.equal(other.fence, lease.fence);
    await other.release();
    await assert.rejects(lease.renew(), LeaseLostError);
    await assert.rejects(client.adopt("lease:adopted", lease.secret), LeaseLostError);
    await assert.rejects(client.adopt("lease:adopted", "short"), { name: "RefusedError", field: "lease" });
  });

  test("of a writer becomes a reader's", async () => {
    await using front = await Front.open();
    const client = front.client();
    const writer = await client.acquire("lease:mode", { mode: "write" });
    await assert.rejects(client.tryAcquire("lease:mode", { mode: "read" }), { name: "LockHeldError" });
    await writer.downgrade();
    const reader = await client.tryAcquire("lease:mode", { mode: "read" });
    assert.ok(reader.held && writer.held);
  });

  test("metadata and TTL are changed by a renewal", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("lease:metadata", { metadata: { step: 1 }, ttlMs: 60_000 });
    await lease.renew({ metadata: { step: 2 }, ttlMs: 120_000 });
    assert.deepEqual((await client.status("lease:metadata")).holders[0]?.metadata, { step: 2 });
    assert.ok(lease.remainingMs > 60_000);
  });
});

describe("withLock and await using", () => {
  test("return the result and release the lock", async () => {
    await using front = await Front.open();
    const client = front.client();
    assert.equal(await client.withLock("with:result", async (lease) => lease.held && 42), 42);
    assert.equal((await client.status("with:result")).locked, false);
  });

  test("pass an error of the work on, and release the lock", async () => {
    await using front = await Front.open();
    const client = front.client();
    const failure = new Error("mine");
    await assert.rejects(
      client.withLock("with:error", { ttlMs: 60_000 }, () => {
        throw failure;
      }),
      (error) => error === failure,
    );
    const block = async () => {
      await using lease = await client.acquire("with:error", { ttlMs: 60_000 });
      assert.ok(lease.held);
      throw failure;
    };
    await assert.rejects(block(), (error) => error === failure);
    assert.equal((await client.status("with:error")).locked, false);
    assert.equal(front.count("release"), 2);
  });

  test("reject if the lease was lost, although the work succeeded", async () => {
    await using front = await Front.open();
    const client = front.client();
    const work = async () => {
      await client.forceRelease("with:lost", "test");
    };
    await assert.rejects(
      client.withLock("with:lost", { ttlMs: 300 }, async (lease) => {
        await work();
        await new Promise<void>((resolve) => lease.signal.addEventListener("abort", () => resolve()));
      }),
      LeaseLostError,
    );
  });

  test("the work's error wins over that of the release", async () => {
    await using front = await Front.open();
    const client = front.client({ retries: 0 });
    front.script = async (seen, forward) => (seen.operation === "release" ? "cut" : forward());
    await assert.rejects(
      client.withLock("with:both", { ttlMs: 300 }, () => {
        throw new Error("mine");
      }),
      { message: "mine" },
    );
    await assert.rejects(
      client.withLock("with:cut", { ttlMs: 300 }, () => 1),
      UnavailableError,
    );
  });
});
