// The driver by which the behaviour suite of all clients (clients/suite) uses this client: commands on standard input, answers and events on
// standard output, a JSON object a line.
import { createInterface } from "node:readline";
import {
  type AcquireOptions,
  Client,
  ClosedError,
  HoldfastError,
  type Lease,
  LeaseLostError,
  LeaseReleasedError,
  LimitError,
  LockFrozenError,
  LockHeldError,
  RefusedError,
  UnavailableError,
} from "../src/index.js";

// biome-ignore lint/suspicious/noExplicitAny: the suite's commands
type Command = Record<string, any> & { id: number; do: string };

class BodyError extends Error {}

const clients = new Map<string, Client>();
const leases = new Map<string, Lease>();
const leaving = new Map<string, () => void>();
const running = new Map<number, AbortController>();

const write = (object: object) => process.stdout.write(`${JSON.stringify(object)}\n`);

/** Absent members are left out, since the client's options do not take undefined. */
function present<T extends object>(object: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined && value !== null)) as never;
}

function get<T>(map: Map<string, T>, name: string): T {
  const value = map.get(name);
  if (!value) throw new Error(`there is no ${name}`);
  return value;
}

function optionsOf(c: Command, signal: AbortSignal): AcquireOptions {
  return {
    ...present({
      ttlMs: c["ttl_ms"],
      waitMs: c["wait_ms"],
      heartbeatMs: c["heartbeat_ms"],
      manualRenew: c["manual_renew"],
      minHoldMs: c["min_hold_ms"],
      metadata: c["metadata"],
      capacity: c["capacity"] || undefined,
      permits: c["permits"] || undefined,
      mode: c["mode"] || undefined,
      owner: c["owner"],
    }),
    signal,
    onWait: (held) => write({ event: "waiting", id: c.id, position: held.position, holders: holdersOf(held) }),
  };
}

function holdersOf(held: LockHeldError): object[] {
  return held.holders.map((h) => ({ owner: h.owner, fence: h.fence }));
}

/** Remembers a lease, and reports its loss. */
function keep(c: Command, lease: Lease): object {
  const name = String(c["lease"]);
  leases.set(name, lease);
  const { signal } = lease;
  signal.addEventListener("abort", () => {
    if (!(signal.reason instanceof LeaseReleasedError)) write({ event: "lost", lease: name, error: describe(signal.reason) });
  });
  return { fence: lease.fence, waited_ms: lease.waitedMs, deadline_ms: lease.deadlineMs };
}

const actions: Record<string, (c: Command, signal: AbortSignal) => Promise<object | undefined>> = {
  async open(c) {
    const config = present({ requestTimeoutMs: c["request_timeout_ms"], retries: c["retries"], retryDelayMs: c["retry_delay_ms"], owner: c["owner"] });
    clients.set(c["client"], new Client({ endpoint: c["endpoint"], ...config }));
    return undefined;
  },
  async acquire(c, signal) {
    const client = get(clients, c["client"]);
    const options = optionsOf(c, signal);
    return keep(c, await (c["try"] ? client.tryAcquire(c["lock"], options) : client.acquire(c["lock"], options)));
  },
  async cancel(c) {
    running.get(c["target"])?.abort();
    return undefined;
  },
  async renew(c, signal) {
    const lease = get(leases, c["lease"]);
    await lease.renew({ ...present({ ttlMs: c["ttl_ms"], metadata: c["metadata"] }), signal });
    return { deadline_ms: lease.deadlineMs };
  },
  async release(c, signal) {
    await get(leases, c["lease"]).release({ signal });
    return undefined;
  },
  async state(c) {
    const lease = get(leases, c["lease"]);
    return { held: lease.held, remaining_ms: lease.remainingMs, deadline_ms: lease.deadlineMs, fence: lease.fence };
  },
  async scoped(c, signal) {
    await using lease = await get(clients, c["client"]).acquire(c["lock"], optionsOf(c, signal));
    keep(c, lease);
    write({ event: "entered", lease: c["lease"], fence: lease.fence });
    if (c["body"] === "raise") throw new BodyError("body failed");
    if (c["body"] === "wait") {
      const lost = lease.signal;
      await new Promise<void>((resolve, reject) => {
        leaving.set(c["lease"], resolve);
        lost.addEventListener("abort", () => reject(lost.reason));
        if (lost.aborted) reject(lost.reason);
      });
    }
    return undefined;
  },
  async leave(c) {
    get(leaving, c["lease"])();
    return undefined;
  },
  async secret(c) {
    return { secret: get(leases, c["lease"]).secret };
  },
  async adopt(c, signal) {
    const { ttlMs, heartbeatMs, manualRenew, metadata } = optionsOf(c, signal);
    const options = present({ ttlMs, heartbeatMs, manualRenew, metadata, signal });
    return keep(c, await get(clients, c["client"]).adopt(c["lock"], c["secret"], options));
  },
  async status(c, signal) {
    const s = await get(clients, c["client"]).status(c["lock"], { signal });
    const holders = s.holders.map((h) => ({ owner: h.owner, fence: h.fence, metadata: h.metadata }));
    return { locked: s.locked, holders, waiting: s.waiting };
  },
  async force_release(c, signal) {
    await get(clients, c["client"]).forceRelease(c["lock"], c["reason"] || "suite", { ...(c["fence"] && { fence: c["fence"] }), signal });
    return undefined;
  },
  async clock(c) {
    const now = Date.now;
    Date.now = () => now() + c["step_ms"];
    return undefined;
  },
  async close(c) {
    await get(clients, c["client"]).close();
    return undefined;
  },
};

/** An operation that its signal ended rejects with the signal's reason, which does not name the operation: the command does. */
const operations: Record<string, string> = {
  acquire: "acquire",
  scoped: "acquire",
  adopt: "renew",
  renew: "renew",
  release: "release",
  status: "status",
  force_release: "force_release",
};

function describe(error: unknown, command = ""): object {
  // What `await using` throws if both the block and the release failed.
  if (error instanceof Error && error.name === "SuppressedError") return describe((error as Error & { suppressed: unknown }).suppressed, command);
  const kinds: string[] = [];
  if (error instanceof HoldfastError && error.operation) kinds.push(error.operation.replace("-", "_"));
  if (error instanceof LockHeldError) {
    kinds.push("held");
    if (error.limit) kinds.push("limit");
  }
  if (error instanceof LockFrozenError) kinds.push("frozen");
  if (error instanceof LimitError || (error instanceof LeaseLostError && error.limit)) kinds.push("limit");
  if (error instanceof LeaseLostError) kinds.push("lost");
  if (error instanceof UnavailableError) kinds.push("unavailable");
  if (error instanceof RefusedError) kinds.push("refused");
  if (error instanceof ClosedError) kinds.push("closed");
  if (error instanceof BodyError) kinds.push("body");
  if (error instanceof Error && error.name === "AbortError") kinds.push("cancelled", ...(operations[command] ? [operations[command]] : []));
  if (error instanceof HoldfastError && error.timedOut) kinds.push("timeout");
  const held = error instanceof LockHeldError ? { holders: holdersOf(error), position: error.position, retry_after_ms: error.retryAfterMs } : {};
  const refused = error instanceof RefusedError ? { field: error.field, code: error.code } : {};
  return { kinds, text: String(error), ...held, ...refused };
}

async function answer(c: Command): Promise<void> {
  const controller = new AbortController();
  running.set(c.id, controller);
  try {
    const action = actions[c.do];
    write(
      action
        ? { id: c.id, ok: (await action(c, controller.signal)) ?? {} }
        : { id: c.id, error: { kinds: ["unsupported"], text: `there is no command ${c.do}` } },
    );
  } catch (error) {
    if (!(error instanceof HoldfastError) && (error as Error).name !== "AbortError") process.stderr.write(`${(error as Error).stack}\n`);
    write({ id: c.id, error: describe(error, c.do) });
  } finally {
    running.delete(c.id);
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  if (line.trim()) void answer(JSON.parse(line) as Command);
});
lines.on("close", () => process.exit(0));
