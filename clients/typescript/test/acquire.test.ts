import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  type AcquireOptions,
  Client,
  ClosedError,
  CloseError,
  LimitError,
  LockFrozenError,
  LockHeldError,
  RefusedError,
  UnavailableError,
} from "../src/index.js";
import { Pace } from "../src/pace.js";
import { deferred, Front, failure, granted, problem, Scripted } from "./world.js";

const held = (more: object = {}) =>
  problem(409, "lock_held", {
    holders: [{ owner: "me", fence: 5, expires_at: "2026-01-01T00:00:00.000Z", remaining_ms: 60_000 }],
    retry_after_ms: 60_000,
    ...more,
  });

describe("acquire", () => {
  test("repeats a request whose answer was lost with the same secret, and holds one lease", async () => {
    await using front = await Front.open();
    const client = front.client();
    front.script = async (_, forward) => {
      const reply = await forward();
      return front.seen.length <= 2 ? "cut" : reply;
    };
    const lease = await client.acquire("acquire:cut");
    assert.equal(front.count("acquire"), 3);
    assert.equal(new Set(front.seen.map((seen) => seen.fields["lease"])).size, 1);
    assert.equal((await client.status("acquire:cut")).fence, lease.fence);
  });

  test("tryAcquire repeats a request as often as retries says, and then releases what may have been granted", async () => {
    await using front = await Front.open();
    const client = front.client({ retries: 2 });
    front.script = async (seen, forward) => {
      const reply = await forward();
      return seen.operation === "acquire" ? { status: 503, body: '{"message":"Service Unavailable"}' } : reply;
    };
    const failed = await failure(client.tryAcquire("acquire:503", { ttlMs: 60_000 }));
    assert.ok(failed instanceof UnavailableError);
    assert.equal(failed.message, "acquire acquire:503: the coordinator is unavailable: 503 Service Unavailable: Service Unavailable");
    assert.equal(front.count("acquire"), 3);
    await client.close();
    assert.equal((await client.status("acquire:503")).locked, false);
  });

  test("says who holds the lock, with one request", async () => {
    await using front = await Front.open();
    const client = front.client({ owner: "first" });
    const lease = await client.acquire("acquire:held");
    const error = await failure(client.tryAcquire("acquire:held"));
    assert.ok(error instanceof LockHeldError);
    assert.equal(error.operation, "acquire");
    assert.equal(error.lock, "acquire:held");
    assert.deepEqual(
      error.holders.map(({ owner, fence }) => [owner, fence]),
      [["first", lease.fence]],
    );
    assert.equal(error.timedOut, false);
    assert.match(error.message, /^acquire acquire:held: the lock is held by "first" until 20/);
    assert.equal(front.count("acquire"), 2);
  });

  test("waits in the queue, in order, and gives its place up when its time is over", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lease = await client.acquire("acquire:queue");
    const order: number[] = [];
    const positions: number[][] = [[], [], []];
    const waits = [];
    for (const n of [0, 1, 2]) {
      const options: AcquireOptions = { onWait: (now) => positions[n]?.push(now.position), ...(n === 1 && { waitMs: 300 }) };
      waits.push(
        client.acquire("acquire:queue", options).then(
          async (next) => {
            order.push(n);
            await next.release();
          },
          (error: unknown) => {
            assert.ok(error instanceof LockHeldError);
            assert.equal(error.timedOut, true);
            assert.equal(error.position, 2);
            order.push(n);
          },
        ),
      );
      while ((await client.status("acquire:queue")).waiting <= n) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await waits[1];
    while ((await client.status("acquire:queue")).waiting !== 2) await new Promise((resolve) => setTimeout(resolve, 5));
    await lease.release();
    await Promise.all(waits);
    assert.deepEqual(order, [1, 0, 2]);
    assert.deepEqual(
      positions.map((list) => list[0]),
      [1, 2, 3],
    );
  });

  test("a status names the waiters, and everybody sees the trace context", async () => {
    await using front = await Front.open();
    const client = front.client();
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    await client.acquire("acquire:status", { traceparent });
    const waits = deferred<void>();
    const controller = new AbortController();
    const wait = client.acquire("acquire:status", { owner: "second", signal: controller.signal, onWait: () => waits.resolve() });
    const rejected = assert.rejects(wait);
    await waits.promise;
    const status = await client.status("acquire:status", { waiters: 5 });
    assert.equal(status.holders[0]?.traceparent, traceparent);
    assert.deepEqual(
      status.queue.map(({ position, owner, permits, task }) => [position, owner, permits, task]),
      [[1, "second", 1, false]],
    );
    assert.ok(status.queue[0]?.joinedAt instanceof Date);
    assert.deepEqual((await client.status("acquire:status")).queue, []);
    controller.abort();
    await rejected;
  });

  test("leaves the queue when its signal ends, and rejects with the signal's reason", async () => {
    await using front = await Front.open();
    const client = front.client();
    await client.acquire("acquire:cancel");
    const reason = new Error("enough");
    const controller = new AbortController();
    const wait = client.acquire("acquire:cancel", { signal: controller.signal, onWait: () => controller.abort(reason) });
    await assert.rejects(wait, (error) => error === reason);
    while ((await client.status("acquire:cancel")).waiting > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    const ended = AbortSignal.abort(reason);
    await assert.rejects(client.acquire("acquire:cancel", { signal: ended }), (error) => error === reason);
  });

  test("releases a grant that was on its way when its signal ended", async () => {
    await using front = await Front.open();
    const client = front.client();
    const controller = new AbortController();
    front.script = async (seen, forward) => {
      const reply = await forward();
      if (seen.operation === "acquire") {
        controller.abort();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return reply;
    };
    await assert.rejects(client.acquire("acquire:late", { ttlMs: 60_000, signal: controller.signal }), { name: "AbortError" });
    await client.close();
    assert.equal((await client.status("acquire:late")).locked, false);
    assert.equal(front.count("release"), 1);
  });

  test("releases a grant whose answer came with the end of its signal", async () => {
    using w = new Scripted();
    const controller = new AbortController();
    w.answer = (r) => {
      if (r.operation === "acquire") queueMicrotask(() => controller.abort());
      return granted(r);
    };
    await assert.rejects(w.client.acquire("a", { signal: controller.signal }), { name: "AbortError" });
    await w.pass(10);
    assert.equal(w.count("release"), 1);
  });

  test("its waiter asks at once when the same client releases the lock", async () => {
    await using front = await Front.open();
    const client = front.client({ retryDelayMs: 600_000 });
    const lease = await client.acquire("acquire:wake");
    const waits = deferred<void>();
    let polls = 0;
    const wait = client.acquire("acquire:wake", {
      onWait: () => {
        if (++polls === 1) waits.resolve();
      },
    });
    await waits.promise;
    await lease.release(); // the first pause would be more than nine seconds
    assert.ok((await wait).waitedMs > 0);
    assert.equal(polls, 1);
  });

  test("of two waiters a release wakes the first in the queue", async () => {
    await using front = await Front.open();
    const client = front.client({ retryDelayMs: 600_000 });
    const lease = await client.acquire("acquire:order");
    const waits = [];
    const polls = [0, 0];
    for (const n of [0, 1] as const) {
      const joined = deferred<void>();
      const onWait = () => {
        polls[n] = (polls[n] as number) + 1;
        joined.resolve();
      };
      waits.push(client.acquire("acquire:order", { onWait }));
      await joined.promise;
    }
    await lease.release();
    const next = await waits[0];
    assert.deepEqual(polls, [1, 1]);
    await next?.release();
    await waits[1];
  });

  test("sends the ticket of the last answer, and says how long the place is kept", async () => {
    using w = new Scripted();
    w.answer = (r) => (w.sent.length < 3 ? held({ position: 1, ticket: 9, waiting: 1 }) : granted(r));
    const acquiring = w.client.acquire("a");
    await w.pass(1000);
    await acquiring;
    assert.deepEqual(
      w.sent.map((r) => r.fields["ticket"]),
      [undefined, 9, 9],
    );
    assert.deepEqual(
      w.sent.map((r) => r.fields["wait_ms"]),
      [20_000, 20_000, 20_000],
    );
    assert.ok(w.sent.every((r) => r.fields["ttl_ms"] === undefined));
  });

  test("a lease that ended before its answer arrived is followed by one with a new secret", async () => {
    using w = new Scripted();
    w.answer = (r) => (w.sent.length === 1 ? problem(410, "lease_lost") : granted(r));
    const acquiring = w.client.acquire("a");
    await w.pass(500);
    await acquiring;
    assert.notEqual(w.sent[0]?.fields["lease"], w.sent[1]?.fields["lease"]);
  });

  test("retries without end while it waits, and at most for its time", async () => {
    using w = new Scripted({ retries: 1, retryDelayMs: 100 });
    w.answer = () => problem(503, "throttled");
    const failures: unknown[] = [];
    const acquiring = w.client.acquire("a", { waitMs: 5000, onUnavailable: (error) => failures.push(error) }).catch((error: unknown) => error);
    await w.pass(5100);
    const error = await acquiring;
    assert.ok(error instanceof UnavailableError && error.timedOut);
    assert.ok(failures.length > 40, `${failures.length} failures`);
  });

  test("asks after the time that an answer names, but within five seconds", async () => {
    using w = new Scripted();
    w.answer = (r) =>
      w.sent.length === 1
        ? problem(503, "throttled", { retry_after_ms: 3000 })
        : w.sent.length === 2
          ? problem(503, "throttled", { retry_after_ms: 1e9 })
          : granted(r);
    const acquiring = w.client.acquire("a");
    await w.pass(2990);
    assert.equal(w.sent.length, 1);
    await w.pass(20);
    assert.equal(w.sent.length, 2);
    await w.pass(4980);
    assert.equal(w.sent.length, 2);
    await w.pass(20);
    await acquiring;
  });

  test("waits for a full queue, a full lock and another capacity, but for no other refusal", async () => {
    using w = new Scripted();
    const answers = [
      problem(429, "queue_full", { retry_after_ms: 100 }),
      problem(429, "lock_full", { retry_after_ms: 100 }),
      problem(409, "capacity_mismatch"),
    ];
    w.answer = (r) => answers.shift() ?? granted(r);
    const acquiring = w.client.acquire("a");
    await w.pass(5000);
    assert.ok((await acquiring).held);
    w.answer = () => problem(409, "capacity_mismatch");
    await assert.rejects(w.client.acquire("a", { mode: "read" }), { name: "RefusedError", code: "capacity_mismatch" });
    w.answer = () => problem(500, "misconfigured");
    await assert.rejects(w.client.acquire("a"), { name: "RefusedError", code: "misconfigured", status: 500 });
  });

  test("says what a freeze and a limit do not allow", async () => {
    using w = new Scripted();
    w.answer = () =>
      problem(409, "frozen", {
        retry_after_ms: 5,
        freeze: { prefix: "a", until: "2026-01-01T00:00:00.000Z", reason: "audit", by: "arn:x", since: "2026-01-01T00:00:00.000Z" },
      });
    const frozen = await failure(w.client.tryAcquire("a"));
    assert.ok(frozen instanceof LockFrozenError && frozen instanceof LockHeldError);
    assert.equal(frozen.message, "acquire a: the lock is frozen until 2026-01-01T00:00:00.000Z by arn:x: audit");
    w.answer = () => problem(409, "limit_exceeded", { limit: "max_ttl_ms", value: 5, prefix: "a", field: "ttl_ms" });
    const limit = await failure(w.client.acquire("a"));
    assert.ok(limit instanceof LimitError && limit instanceof RefusedError);
    assert.deepEqual([limit.limit.name, limit.limit.value, limit.field], ["max_ttl_ms", 5, "ttl_ms"]);
    w.answer = () => problem(409, "limit_exceeded", { limit: "rate", value: 1, period_ms: 1000, prefix: "a", retry_after_ms: 700 });
    const rate = await failure(w.client.tryAcquire("a"));
    assert.ok(rate instanceof LockHeldError);
    assert.match(rate.message, /each lock below a is granted once in 1000 ms at most, and the next grant is possible in 700 ms/);
  });

  test("names the holders of a semaphore that an earlier answer named", async () => {
    using w = new Scripted();
    const holder = (owner: string) => ({
      holders: [{ owner, fence: 5, expires_at: "2026-01-01T00:00:00.000Z", remaining_ms: 60_000 }],
      position: 1,
      ticket: 1,
    });
    w.answer = () => held(holder(w.sent.length === 1 ? "me" : ""));
    const owners: unknown[] = [];
    const acquiring = w.client.acquire("a", { waitMs: 1000, onWait: (now) => owners.push(now.holders[0]?.owner) });
    const failed = assert.rejects(acquiring, { name: "LockHeldError", timedOut: true });
    await w.pass(1000);
    await failed;
    assert.ok(owners.length > 1);
    assert.deepEqual([...new Set(owners)], ["me"]);
  });

  test("refuses what is wrong before any request, and names the field", async () => {
    using w = new Scripted();
    const wrong: [AcquireOptions, string][] = [
      [{ ttlMs: 0 }, "ttlMs"],
      [{ ttlMs: 1.5 }, "ttlMs"],
      [{ ttlMs: "5" as never }, "ttlMs"],
      [{ heartbeatMs: 1000, ttlMs: 1000 }, "heartbeatMs"],
      [{ waitMs: -1 }, "waitMs"],
      [{ minHoldMs: Number.NaN }, "minHoldMs"],
      [{ capacity: 101 }, "capacity"],
      [{ permits: 3, capacity: 2 }, "permits"],
      [{ mode: "rw" as never }, "mode"],
      [{ mode: "read", permits: 1 }, "mode"],
      [{ owner: "a\nb" }, "owner"],
      [{ owner: "é".repeat(129) }, "owner"],
      [{ metadata: [] }, "metadata"],
      [{ metadata: { x: "x".repeat(2048) } }, "metadata"],
      [{ metadata: { x: 1n } }, "metadata"],
      [{ invocation: {} as never }, "invocation"],
    ];
    for (const [options, field] of wrong) await assert.rejects(w.client.acquire("a", options), { name: "RefusedError", field, operation: "acquire" });
    for (const name of ["", "a/b", "..", "a".repeat(256), "é", 5 as never, undefined as never]) {
      await assert.rejects(w.client.acquire(name), { name: "RefusedError", field: "name" });
      await assert.rejects(w.client.status(name), { name: "RefusedError", field: "name", operation: "status" });
    }
    assert.equal(w.sent.length, 0);
  });
});

describe("close", () => {
  test("releases all leases, ends the waits, and refuses what comes after", async () => {
    await using front = await Front.open();
    const client = front.client();
    const leases = [await client.acquire("close:a"), await client.acquire("close:b")];
    const waits = deferred<void>();
    const wait = client.acquire("close:a", { onWait: () => waits.resolve() });
    const rejected = assert.rejects(wait, ClosedError);
    await waits.promise;
    await client.close();
    await rejected;
    await assert.rejects(client.acquire("close:c"), ClosedError);
    for (const lease of leases) assert.equal(lease.held, false);
    for (const name of ["close:a", "close:b"]) {
      const status = await client.status(name);
      assert.deepEqual([status.locked, status.waiting], [false, 0]);
    }
  });

  test("gives up when the coordinator does not answer, and says how many leases are left", async () => {
    using w = new Scripted({ retries: 0 });
    const warnings: Error[] = [];
    process.on("warning", (warning) => warnings.push(warning));
    for (let n = 0; n < 40; n++) await w.client.acquire(`a${n}`);
    w.answer = () => Promise.reject(new Error("connection refused"));
    const error = await failure(w.client.close());
    assert.ok(error instanceof CloseError);
    assert.deepEqual([error.left, error.total, error.errors.length, w.count("release")], [40, 40, 40, 32]);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(
      warnings.filter(({ name }) => name.startsWith("MaxListeners")),
      [],
    );
  });

  test("ends with its signal", async () => {
    using w = new Scripted();
    await w.client.acquire("a");
    w.answer = () => new Promise(() => undefined);
    const controller = new AbortController();
    const closing = w.client.close({ signal: controller.signal });
    controller.abort();
    await assert.rejects(closing, { name: "AbortError" });
  });

  test("answers without valid times do not end a wait, or keep their words", async () => {
    using w = new Scripted();
    const answers = [
      problem(409, "lock_held", { holders: [{ owner: "other", fence: 1 }], position: 1, waiting: 1, retry_after_ms: 100 }),
      problem(409, "lock_held", { holders: [{ owner: "other", fence: 1, expires_at: "soon" }], position: 1, waiting: 1, retry_after_ms: 100 }),
      problem(409, "frozen", { freeze: { prefix: "a", until: "later", reason: "release" }, position: 1, waiting: 1, retry_after_ms: 100 }),
      problem(409, "lock_held", { freeze: {}, holders: [null], position: 1, waiting: 1, retry_after_ms: 100 }),
    ];
    w.answer = (r) => answers.shift() ?? granted(r);
    const seen: string[] = [];
    const acquiring = w.client.acquire("a", { onWait: (held) => seen.push(held.detail) });
    await w.pass(10_000);
    assert.equal((await acquiring).held, true);
    assert.deepEqual(seen, ['the lock is held by "other"', 'the lock is held by "other"', "the lock is frozen: release", "the lock is frozen: "]);
  });

  test("leaves the queue when a callback throws", async () => {
    using w = new Scripted();
    w.answer = (r) => (r.operation === "acquire" ? problem(409, "lock_held", { position: 1, waiting: 1, retry_after_ms: 100 }) : granted(r));
    const mine = new Error("mine");
    const onWait = () => {
      throw mine;
    };
    assert.equal(await failure(w.client.acquire("a", { onWait })), mine);
    assert.equal(w.count("release"), 1);
  });

  test("an answer that a transport garbles may be a place in the queue, which is left", async () => {
    using w = new Scripted();
    w.answer = (r) => (r.operation === "acquire" ? { status: 409, body: undefined as unknown as string } : granted(r));
    assert.ok((await failure(w.client.acquire("a"))) instanceof TypeError);
    assert.equal(w.count("release"), 1);
  });

  test("a process that holds a lease may end", async () => {
    const client = new Client({ transport: { send: async (r) => granted(r, 600_000) } });
    const timeouts = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
    const before = timeouts();
    await client.acquire("a", { ttlMs: 600_000 });
    assert.equal(timeouts(), before);
  });
});

describe("pace", () => {
  const pauses = (pace: Pace, position: number, most: number): number[] => {
    const list = [];
    for (let now = 0; ; ) {
      const pause = pace.next(now, new LockHeldError({ position, retryAfterMs: 3_600_000 }));
      now += pause;
      if (now > most) return list;
      list.push(pause);
    }
  };

  test("in a queue that stands, the first polls at most eight times in ten seconds, and others less often", () => {
    for (let n = 0; n < 1000; n++) {
      const first = pauses(new Pace(2000, 20_000), 1, 10_000);
      assert.ok(first.length >= 6 && first.length <= 8, String(first));
      assert.ok((first[0] as number) <= 2000 / 64);
      for (const [position, most] of [
        [2, 5],
        [10, 4],
        [100, 3],
        [500, 3],
      ] as const) {
        const list = pauses(new Pace(2000, 20_000), position, 10_000);
        assert.ok(list.length >= 1 && list.length <= most, `at ${position}: ${list}`);
        assert.ok(list.every((pause) => pause <= 5000));
      }
    }
  });

  test("a queue that moves is followed", () => {
    for (const [per, least, most] of [
      [10, 10, 32],
      [400, 25, 450],
      [60_000, 1600, 2000],
    ] as const) {
      const pace = new Pace(2000, 20_000);
      const length = 20;
      let [now, polls, pause] = [0, 0, 0];
      for (;;) {
        const position = length - Math.floor(now / per);
        if (position < 1) break;
        pause = pace.next(now, new LockHeldError({ position, retryAfterMs: 3_600_000 }));
        now += pause;
        polls++;
      }
      assert.ok(pause >= least && pause <= most, `${per}: the last pause is ${pause}`);
      assert.ok(polls >= 5, `${per}: ${polls} polls`);
    }
  });
});
