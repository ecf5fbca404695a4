// Packs the client, installs the tarball in an empty project, type-checks and runs a program there against a coordinator, and says how long each took.
// Without a URL as argument it starts a coordinator.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { coordinatorURL } from "../.bin/test/world.js";

const own = fileURLToPath(new URL("..", import.meta.url));
const project = mkdtempSync(join(tmpdir(), "holdfast-packed-"));
const run = (cwd, program, ...args) => execFileSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
const seconds = (since) => ((performance.now() - since) / 1000).toFixed(1);
let problem;
try {
  const url = process.argv[2] ?? (await coordinatorURL());
  const packed = JSON.parse(run(own, "npm", "pack", "--json", "--ignore-scripts", "--pack-destination", project));
  const { filename, size, unpackedSize, entryCount } = Array.isArray(packed) ? packed[0] : Object.values(packed)[0];
  writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module", private: true }));
  writeFileSync(
    join(project, "use.ts"),
    `import { Client, exclusive, LockHeldError } from "@holdfast-lock/client";
import { FencingGuard } from "@holdfast-lock/client/fencing";
import { sigV4 } from "@holdfast-lock/client/sigv4";
const client = new Client({ endpoint: ${JSON.stringify(url)}, signer: sigV4({ region: "eu-west-1", credentials: { accessKeyId: "a", secretAccessKey: "b" } }) });
export const handler = exclusive(client, (event: { id: string }) => event.id, (_event, _context, lease) => new FencingGuard(lease.fence).fence);
const lease = await client.acquire("packed:lock");
const held: unknown = await client.tryAcquire("packed:lock").catch((error: unknown) => error);
if (!lease.held || !(held instanceof LockHeldError)) throw new Error("the lock is not held");
await client.close();
`,
  );
  const start = performance.now();
  run(project, "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", join(project, filename));
  const installed = seconds(start);
  const modules = run(project, "npm", "ls", "--all", "--parseable").trim().split("\n").length - 1;
  const types = join(own, "node_modules", "@types");
  const options = ["--strict", "--exactOptionalPropertyTypes", "--module", "nodenext", "--target", "es2022", "--typeRoots", types, "--types", "node"];
  run(project, process.execPath, join(own, "node_modules", "typescript", "bin", "tsc"), ...options, "use.ts");
  const compiled = seconds(start);
  run(project, process.execPath, "use.js");
  console.log(
    `packed: ${size} bytes, ${unpackedSize} unpacked, ${entryCount} files; with its dependencies ${modules} packages; installed after ${installed} s, compiled after ${compiled} s, ` +
      `a lock held and released after ${seconds(start)} s`,
  );
  const version = JSON.parse(readFileSync(join(project, "node_modules/@holdfast-lock/client/package.json"), "utf8")).version;
  if (!filename.includes(version) || statSync(join(project, filename)).size !== size) throw new Error(`${filename} is not what was packed`);
} catch (error) {
  problem = error;
} finally {
  rmSync(project, { recursive: true });
}
if (problem) console.error(problem.stdout ?? "", problem);
process.exit(problem ? 1 : 0);
