import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Client } from "../src/index.js";
import { type SigV4Config, sigV4 } from "../src/sigv4.js";
import { Front, failure } from "./world.js";

interface Vectors {
  endpoint: string;
  region: string;
  access_key_id: string;
  secret_access_key: string;
  at: string;
  requests: { operation: string; lock: string; method: string; path: string; query: string; body: string; session_token: string; authorization: string }[];
}

// TestSignaturesOfOtherClients of the Go client compares the file with the AWS SDK for Go.
const vectors = JSON.parse(readFileSync(new URL("../../../testdata/signatures.json", import.meta.url), "utf8")) as Vectors;

describe("sigV4", () => {
  for (const v of vectors.requests) {
    test(`signs ${v.operation} of ${v.lock || "all locks"} as the AWS SDK for Go does`, async () => {
      const credentials = {
        accessKeyId: vectors.access_key_id,
        secretAccessKey: vectors.secret_access_key,
        ...(v.session_token && { sessionToken: v.session_token }),
      };
      const endpoint = new URL(vectors.endpoint);
      const headers: Record<string, string> = { host: endpoint.host, accept: "application/json", ...(v.body && { "content-type": "application/json" }) };
      const query = Object.fromEntries(new URLSearchParams(v.query));
      const signer = sigV4({ credentials, at: new Date(vectors.at) });
      const signed = await signer.sign({ method: v.method, endpoint, path: v.path, query, headers, body: v.body || undefined });
      assert.equal(signed["authorization"], v.authorization);
      assert.equal(signed["x-amz-security-token"], v.session_token || undefined);
    });
  }

  test("signs what the client sends, with the credentials of the environment", async () => {
    await using front = await Front.open();
    process.env["AWS_ACCESS_KEY_ID"] = "AKID";
    process.env["AWS_SECRET_ACCESS_KEY"] = "s";
    process.env["AWS_SESSION_TOKEN"] = "t";
    try {
      const client = front.client({ signer: sigV4({ region: "eu-west-1" }) });
      const lease = await client.acquire("sign:a+b");
      await client.status("sign:a+b");
      await lease.release();
    } finally {
      delete process.env["AWS_ACCESS_KEY_ID"];
      delete process.env["AWS_SECRET_ACCESS_KEY"];
      delete process.env["AWS_SESSION_TOKEN"];
    }
    assert.equal(front.seen.length, 3);
    for (const { operation, path, headers, fields } of front.seen) {
      const date = String(headers["x-amz-date"]);
      const at = new Date(date.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, "$1-$2-$3T$4:$5:$6Z"));
      const endpoint = new URL(front.url);
      const sent: Record<string, string> = { host: String(headers.host), accept: "application/json" };
      if (operation !== "status") sent["content-type"] = "application/json";
      const method = operation === "status" ? "GET" : "POST";
      const body = operation === "status" ? undefined : JSON.stringify(fields);
      const again = sigV4({ region: "eu-west-1", credentials: { accessKeyId: "AKID", secretAccessKey: "s", sessionToken: "t" }, at });
      assert.equal(headers["x-amz-security-token"], "t");
      assert.equal(headers.authorization, (await again.sign({ method, endpoint, path, query: {}, headers: sent, body }))["authorization"]);
    }
  });

  test("refuses a region that is missing or not the endpoint's", () => {
    const make = (endpoint: string, config: SigV4Config) => new Client({ endpoint, signer: sigV4(config) });
    assert.throws(() => make("http://127.0.0.1:7420", {}), { name: "TypeError", message: /region of sigV4 is missing/ });
    assert.throws(() => make(vectors.endpoint, { region: "eu-central-1" }), { name: "TypeError", message: /but the endpoint is in "eu-west-1"/ });
    make(vectors.endpoint, {});
    make("https://vpce-1-2.execute-api.eu-west-1.vpce.amazonaws.com", {});
  });

  test("missing credentials are a refusal, those that cannot be fetched now are not", async () => {
    await using front = await Front.open();
    const attempt = async (credentials?: () => Promise<never>) => {
      const client = front.client({ retries: 1, retryDelayMs: 1, signer: sigV4({ region: "eu-west-1", ...(credentials && { credentials }) }) });
      return failure(client.status("a"));
    };
    const missing = await attempt();
    assert.match(String(missing), /RefusedError: .*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set: set/);
    assert.match(String(await attempt(() => Promise.reject(new Error("no profile")))), /RefusedError: .*no profile/);
    assert.match(String(await attempt(() => Promise.reject(Object.assign(new Error("away"), { code: "ECONNREFUSED" })))), /UnavailableError: .*away/);
    assert.equal(front.seen.length, 0);
  });

  test("credentials that hang end with the request's time", async () => {
    await using front = await Front.open();
    const client = front.client({ retries: 0, requestTimeoutMs: 50, signer: sigV4({ region: "eu-west-1", credentials: () => new Promise(() => undefined) }) });
    await assert.rejects(client.status("a"), { name: "UnavailableError" });
  });
});
