// The driver of @deliveryhero/dynamodb-lock. bench/driver/main.go documents the protocol.
"use strict";
const readline = require("node:readline");
const { CreateTableCommand, DynamoDBClient } = require("@aws-sdk/client-dynamodb");
const { DynamoDBDocument } = require("@aws-sdk/lib-dynamodb");
const { dynamoDBLockClientFactory } = require("@deliveryhero/dynamodb-lock");

const settings = JSON.parse(process.env.PEER);
const group = "race";
const now = () => Number(process.hrtime.bigint());
const write = (entry) => process.stdout.write(JSON.stringify(entry) + "\n");

class Slot {
  constructor(number) {
    this.number = number;
    this.name = `${settings.name}/${number}`;
    this.count = 0;
    this.db = new DynamoDBClient({ region: "us-east-1", endpoint: settings.endpoint, credentials: { accessKeyId: "test", secretAccessKey: "test" } });
    this.client = dynamoDBLockClientFactory(DynamoDBDocument.from(this.db), { tableName: settings.table });
    // Renewals keep their ratio to the lease: 5 s to 20 s. A waiter that polls trusts the stored times.
    this.options = settings.lease_ms ? { leaseDurationInMs: settings.lease_ms, prolongEveryMs: settings.lease_ms / 4 } : {};
    if (settings.poll_ms) Object.assign(this.options, { trustLocalTime: true, waitDurationInMs: settings.poll_ms });
  }

  async setup() {
    await this.db.send(new CreateTableCommand({
      TableName: settings.table, BillingMode: "PAY_PER_REQUEST",
      AttributeDefinitions: [{ AttributeName: "lockId", AttributeType: "S" }, { AttributeName: "lockGroup", AttributeType: "S" }],
      KeySchema: [{ AttributeName: "lockId", KeyType: "HASH" }, { AttributeName: "lockGroup", KeyType: "RANGE" }],
    }));
  }

  // The library has no limit for a wait but a number of tries, so there is none.
  async acquire(name) {
    const lock = await this.client.lock(group, name, this.options);
    this.count++;
    this.lock = lock;
    this.sure = now();
    this.belief = { t: "belief", client: this.name, lock: name, lease: `${this.name}/${this.count}`, fence: 0, from: this.sure };
    if (settings.watch) this.watch(lock);
  }

  async release() {
    const lock = this.lock;
    this.end(now());
    this.lock = undefined;
    await this.client.releaseLock(lock);
  }

  held(lock = this.lock) {
    if (!lock || lock !== this.lock) return false;
    if (lock.isAcquired) {
      this.sure = now();
      return true;
    }
    if (this.belief) {
      write({ t: "lost", client: this.number, at: now() });
      this.end(this.sure);
    }
    return false;
  }

  end(at) {
    if (!this.belief) return;
    this.belief.until = Math.max(at, this.belief.from + 1);
    write(this.belief);
    this.belief = undefined;
  }

  watch(lock) {
    if (this.held(lock)) setTimeout(() => this.watch(lock), 10);
  }

  async command(id, [name, ...args]) {
    const answer = { id, ok: true, began: now() };
    try {
      if (name === "held") answer.ok = this.held();
      else await this[name](...args);
    } catch (e) {
      answer.ok = false;
      answer.error = `${e.name}: ${e.message}`;
    }
    answer.ended = now();
    write(answer);
  }
}

// The library does not handle a renewal that fails in one of its timers. That ends a Node.js process unless it has such a handler.
process.on("unhandledRejection", (e) => process.stderr.write(`unhandled rejection: ${e.name}\n`));

const slots = Array.from({ length: settings.clients }, (_, n) => new Slot(n));
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [id, n, ...command] = line.split(" ");
  if (id === "exit") process.exit(0);
  slots[Number(n)].command(id, command);
}).on("close", () => process.exit(0));
