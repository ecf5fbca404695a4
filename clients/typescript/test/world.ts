import { type ChildProcess, spawn } from "node:child_process";
import { createServer, type IncomingMessage, request, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { mock } from "node:test";
import { setImmediate } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Client } from "../src/client.js";
import type { Reading } from "../src/clock.js";
import type { ClientConfig } from "../src/options.js";
import type { Transport, TransportRequest, TransportResponse } from "../src/transport.js";

let coordinator: Promise<{ url: string; process: ChildProcess }> | undefined;

/** The URL of a coordinator in memory, `holdfast dev`, one for each test file. */
export async function coordinatorURL(): Promise<string> {
  coordinator ??= start();
  return (await coordinator).url;
}

async function start(): Promise<{ url: string; process: ChildProcess }> {
  const program = process.env["HOLDFAST"] ?? fileURLToPath(new URL("../../../../.bin/holdfast", import.meta.url));
  const child = spawn(program, ["dev", "--listen", "127.0.0.1:0", "--min-ttl", "100ms"], { stdio: ["ignore", "pipe", "ignore"] });
  process.once("exit", () => child.kill());
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(new Error(`${error.message}: build the coordinator first: go build -o .bin/holdfast ./cmd/holdfast`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const url = /^holdfast dev: (\S+)/.exec(line)?.[1];
      if (!url) return;
      child.unref();
      (child.stdout as unknown as { unref(): void }).unref();
      resolve({ url, process: child });
    });
  });
}

/** A request as the front saw it. */
export interface Seen {
  operation: string;
  path: string;
  headers: IncomingMessage["headers"];
  fields: Record<string, unknown>;
}

export interface Reply {
  status: number;
  body: string;
  headers?: Record<string, string>;
}

/** What the front does with a request: answer, or cut the connection without an answer. */
export type Script = (seen: Seen, forward: () => Promise<Reply>) => Promise<Reply | "cut">;

/** An HTTP server before the coordinator that may harm requests. */
export class Front {
  readonly seen: Seen[] = [];
  script: Script = (_, forward) => forward();
  url = "";
  readonly #server: Server;
  readonly #clients: Client[] = [];

  private constructor(private readonly to: string) {
    this.#server = createServer((message, answer) => {
      void (async () => {
        const parts: Buffer[] = [];
        for await (const part of message) parts.push(part as Buffer);
        const body = Buffer.concat(parts).toString();
        const path = message.url ?? "";
        const operation = message.method === "GET" ? "status" : (path.split("/").pop() ?? "");
        const seen = { operation, path, headers: message.headers, fields: body ? JSON.parse(body) : {} };
        this.seen.push(seen);
        const reply = await this.script(seen, () => this.#forward(message, path, body));
        if (reply === "cut") message.socket.destroy();
        else answer.writeHead(reply.status, reply.headers).end(reply.body);
      })();
    });
  }

  static async open(to?: string): Promise<Front> {
    const front = new Front(to ?? (await coordinatorURL()));
    await new Promise<void>((resolve) => front.#server.listen(0, "127.0.0.1", resolve));
    front.url = `http://127.0.0.1:${(front.#server.address() as AddressInfo).port}`;
    return front;
  }

  #forward(message: IncomingMessage, path: string, body: string): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const headers = { ...message.headers, host: new URL(this.to).host };
      const onward = request(this.to + path, { method: message.method ?? "GET", headers }, (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (part: string) => {
          text += part;
        });
        answer.on("end", () => resolve({ status: answer.statusCode ?? 0, body: text, headers: { "content-type": "application/json" } }));
      });
      onward.on("error", reject);
      onward.end(body);
    });
  }

  /** A client whose pauses are short. */
  client(config: Partial<ClientConfig> = {}): Client {
    const client = new Client({ endpoint: this.url, retryDelayMs: 40, ...config });
    this.#clients.push(client);
    return client;
  }

  count(operation: string): number {
    return this.seen.filter((seen) => seen.operation === operation).length;
  }

  async close(): Promise<void> {
    this.script = (_, forward) => forward();
    for (const client of this.#clients) await client.close().catch(() => undefined);
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Answers like a coordinator whose lock is free. */
export function granted(r: TransportRequest, ttl = 3000, more: object = {}): TransportResponse {
  const now = new Date().toISOString();
  const body = {
    lock: r.lock,
    lease: r.fields["lease"],
    fence: 7,
    owner: r.fields["owner"],
    acquired_at: now,
    renewed_at: now,
    expires_at: now,
    released_at: now,
    ttl_ms: ttl,
    remaining_ms: ttl,
    capacity: 1,
    permits: 1,
    ...more,
  };
  return { status: 200, body: JSON.stringify(body) };
}

/** A problem as a coordinator answers it. */
export function problem(status: number, code: string, more: object = {}): TransportResponse {
  return { status, body: JSON.stringify({ type: "", title: "", status, detail: "why", code, request_id: "r", ...more }) };
}

/** A client over a transport that a test scripts, with clocks that a test moves. Timers follow the monotonic clock. */
export class Scripted {
  readonly sent: TransportRequest[] = [];
  answer: (r: TransportRequest, signal: AbortSignal) => TransportResponse | Promise<TransportResponse> = (r) => granted(r);
  readonly now: Reading = { monotonic: 1e6, uptime: 2e6 };
  readonly client: Client;

  constructor(config: Partial<ClientConfig> = {}) {
    mock.timers.enable({ apis: ["setTimeout"] });
    const transport: Transport = {
      send: async (r, signal) => {
        this.sent.push(r);
        return this.answer(r, signal);
      },
    };
    this.client = new Client({ transport, clock: () => ({ ...this.now }), ...config });
  }

  /** Lets time pass on both clocks. */
  async pass(ms: number): Promise<void> {
    for (let rest = ms; rest > 0; rest -= 10) {
      const step = Math.min(rest, 10);
      this.now.monotonic += step;
      this.now.uptime += step;
      mock.timers.tick(step);
      await setImmediate();
    }
  }

  count(operation: string): number {
    return this.sent.filter((r) => r.operation === operation).length;
  }

  [Symbol.dispose](): void {
    mock.timers.reset();
  }
}

/** A promise with its functions. */
export function deferred<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => undefined;
  const promise = new Promise<T>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

/** The error with which a promise rejects. */
export async function failure(promise: Promise<unknown>): Promise<unknown> {
  const value = await promise.then(
    (result) => ({ result }),
    (error: unknown) => ({ error }),
  );
  if ("error" in value) return value.error;
  throw new Error(`there is no failure, but ${String(value.result)}`);
}
