import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Client, type ClientConfig, escapeName, RefusedError, UnavailableError, unescapeName } from "../src/index.js";
import { Front, failure, type Reply } from "./world.js";

describe("configuration", () => {
  const wrong: [string, ClientConfig, RegExp][] = [
    ["nothing", {}, /^ClientConfig.endpoint is empty; give/],
    ["no scheme", { endpoint: "127.0.0.1:7420" }, /without a scheme; give a URL: http:\/\/127.0.0.1:7420$/],
    ["no scheme, elsewhere", { endpoint: "abc.example" }, /give a URL: https:\/\/abc.example$/],
    ["another scheme", { endpoint: "ftp://a" }, /give a URL like https/],
    ["a route", { endpoint: "https://a.example/v1/locks" }, /only up to where \/v1\/locks begins/],
    ["a query", { endpoint: "https://a.example/?x=1" }, /only up to where \/v1\/locks begins/],
    ["a password", { endpoint: "https://a:b@a.example" }, /user name or password/],
    ["API Gateway without TLS", { endpoint: "http://x.execute-api.eu-west-1.amazonaws.com" }, /https only/],
    ["API Gateway without a signer", { endpoint: "https://x.execute-api.eu-west-1.amazonaws.com" }, /signer is missing/],
    ["a transport and an endpoint", { endpoint: "http://a", transport: { send: async () => ({ status: 200, body: "" }) } }, /one or the other/],
    ["no time", { endpoint: "http://a", requestTimeoutMs: 0 }, /requestTimeoutMs is 0; give/],
    ["no number", { endpoint: "http://a", retries: Number.NaN }, /retries is NaN; give/],
    ["an owner with a line break", { endpoint: "http://a", owner: "a\u2028" }, /owner has the character U\+2028/],
    ["half of a character", { endpoint: "http://a", owner: "\ud800" }, /surrogate/],
  ];
  for (const [what, config, message] of wrong) test(what, () => assert.throws(() => new Client(config), { name: "TypeError", message }));
});

describe("http", () => {
  const answer =
    (status: number, body: string, headers: Record<string, string> = {}) =>
    async (): Promise<Reply> => ({ status, body, headers });

  test("sends names in the path as they are, with + encoded, below the endpoint's path", async () => {
    await using front = await Front.open();
    const client = new Client({ endpoint: `${front.url}/stage/` });
    front.script = answer(200, "{}");
    await assert.rejects(client.tryAcquire("a:b+c=d@e"), RefusedError);
    assert.equal(front.seen[0]?.path, "/stage/v1/locks/a:b%2Bc=d@e/acquire");
    assert.equal(front.seen[0]?.headers["content-type"], "application/json");
  });

  test("is not deceived by what is no coordinator's answer", async () => {
    await using front = await Front.open();
    const client = front.client();
    const lies: [string, (reply: Reply) => Reply][] = [
      ["a page", () => ({ status: 200, body: "<html>" })],
      ["a list", () => ({ status: 200, body: "[]" })],
      ["nothing", () => ({ status: 200, body: "{}" })],
      ["another lock", (reply) => ({ ...reply, body: reply.body.replaceAll("http:lies", "other") })],
      ["another secret", (reply) => ({ ...reply, body: reply.body.replace(/"lease":"..../, '"lease":"AAAA') })],
      ["no fence", (reply) => ({ ...reply, body: reply.body.replace(/"fence":\d+/, '"fence":"7"') })],
      ["no time", (reply) => ({ ...reply, body: reply.body.replace(/"remaining_ms":\d+/, '"remaining_ms":null') })],
      ["a page with 404", () => ({ status: 404, body: "<html>" })],
      ["no such method", () => ({ status: 501, body: "<html>" })],
    ];
    for (const [n, [what, lie]] of lies.entries()) {
      front.script = async (seen, forward) => (seen.operation === "acquire" ? lie(await forward()) : forward());
      const error = await failure(client.acquire(`http:lies:${n}`, { ttlMs: 60_000 }));
      assert.ok(error instanceof RefusedError, what);
      assert.match(error.message, /there is no coordinator at this URL/, what);
    }
    assert.equal(front.count("acquire"), lies.length);
    front.script = answer(200, '{"lock":"other"}');
    await assert.rejects(client.status("http:lies"), { name: "RefusedError", operation: "status" });
    await assert.rejects(client.forceRelease("http:lies", "r"), { name: "RefusedError", operation: "force-release" });
    await assert.rejects(client.release("http:lies", "0123456789abcdef"), { name: "RefusedError", operation: "release" });
    await assert.rejects(client.list("a").next(), { name: "RefusedError", operation: "list" });
  });

  test("an answer whose message is no text is that of another server", async () => {
    await using front = await Front.open();
    front.script = async () => ({ status: 404, body: '{"message": {"toString": 1, "valueOf": 1}}' });
    await assert.rejects(front.client().status("a"), { name: "RefusedError", status: 404 });
  });

  test("an answer that was cut off is asked for again", async () => {
    await using front = await Front.open();
    const client = front.client();
    front.script = async (_, forward) => {
      const reply = await forward();
      return front.seen.length === 1 ? { ...reply, body: reply.body.slice(0, 30) } : reply;
    };
    assert.ok((await client.acquire("http:cut")).held);
  });

  test("does not follow redirects, and names only the host", async () => {
    await using front = await Front.open();
    const client = front.client();
    front.script = answer(307, "", { location: "https://other.example/secret" });
    const error = await failure(client.acquire("http:redirect"));
    assert.ok(error instanceof RefusedError);
    assert.match(error.message, /redirects to https:\/\/other.example, and redirects are not followed/);
    assert.doesNotMatch(error.message, /secret"/);
    assert.equal(front.seen.length, 1);
  });

  test("says what to do about a gateway's refusals, and does not repeat the request", async () => {
    await using front = await Front.open();
    const client = front.client();
    for (const [message, fix] of [
      ["Signature expired: x", "clock"],
      ["The security token included in the request is expired", "renew them"],
      ["Forbidden", "execute-api:Invoke"],
      ["Missing Authentication Token", "sign the requests"],
      ["The request signature we calculated", "secret key"],
    ] as const) {
      front.script = answer(403, JSON.stringify({ message }));
      await assert.rejects(client.acquire("http:403"), { name: "RefusedError", status: 403, message: new RegExp(fix) });
    }
    assert.equal(front.seen.length, 5);
  });

  test("a secret that an answer repeats is not in the error", async () => {
    await using front = await Front.open();
    const client = front.client();
    front.script = async (seen) => ({ status: 403, body: JSON.stringify({ message: `no ${seen.fields["lease"]}` }) });
    const error = await failure(client.tryAcquire("http:secret"));
    assert.match(String(error), /no \(the lease's secret\)/);
  });

  test("a throttled request waits as Retry-After says", async () => {
    await using front = await Front.open();
    const client = front.client();
    const times: number[] = [];
    front.script = async (_, forward) => {
      times.push(performance.now());
      return times.length === 1 ? { status: 429, body: '{"message":"Too Many Requests"}', headers: { "retry-after": "1" } } : forward();
    };
    await client.tryAcquire("http:429");
    assert.ok((times[1] ?? 0) - (times[0] ?? 0) >= 990);
  });

  test("a request that has no answer in time is sent again on another connection", async () => {
    await using front = await Front.open();
    const client = front.client({ requestTimeoutMs: 300 });
    front.script = (_, forward) => (front.seen.length === 1 ? new Promise(() => undefined) : forward());
    const lease = await client.tryAcquire("http:silent");
    await lease.release();
    assert.equal(front.count("acquire"), 2);
    front.script = () => new Promise(() => undefined);
    const error = await failure(front.client({ requestTimeoutMs: 50, retries: 0 }).status("http:silent"));
    assert.ok(error instanceof UnavailableError);
    assert.match(error.message, /did not answer within 50 ms/);
  });

  test("a host that does not exist is a refusal, a refused connection is not", async () => {
    const none = new Client({ endpoint: "http://nothing.invalid", retryDelayMs: 1, retries: 1 });
    const error = await failure(none.status("a"));
    assert.ok(error instanceof RefusedError || /EAI_AGAIN/.test(String(error)), String(error));
    await assert.rejects(new Client({ endpoint: "http://127.0.0.1:1", retryDelayMs: 1, retries: 1 }).status("a"), {
      name: "UnavailableError",
      message: /ECONNREFUSED/,
    });
  });

  test("an endpoint with the wrong protocol is a refusal", async () => {
    await using front = await Front.open();
    const client = new Client({ endpoint: front.url.replace("http:", "https:"), retries: 0 });
    await assert.rejects(client.status("a"), { name: "RefusedError", message: /does not speak TLS/ });
  });

  test("lists pages of locks", async () => {
    await using front = await Front.open();
    const client = front.client();
    for (let n = 0; n < 120; n++) await client.acquire(`list:${n}`);
    const names = new Set<string>();
    for await (const status of client.list("list:")) names.add(status.lock);
    assert.equal(names.size, 120);
    assert.equal(front.count("status"), 2);
  });
});

describe("names", () => {
  test("are made of any text, and back", () => {
    for (const [text, name] of [
      ["feature/x y", "feature=2Fx=20y"],
      ["a=b", "a=3Db"],
      ["é", "=C3=A9"],
      ["..", "=2E=2E"],
      ["a:b@c-d_e.f", "a:b@c-d_e.f"],
    ] as const) {
      assert.equal(escapeName(text), name);
      assert.equal(unescapeName(name), text);
    }
    for (const text of ["", "\ud800", "é".repeat(43)]) assert.throws(() => escapeName(text), { name: "RefusedError", field: "name" });
    for (const name of ["", "a=2f", "a=4", "a=41", "a+b"]) assert.throws(() => unescapeName(name), { name: "RefusedError", field: "name" });
  });
});
