// Says what the client adds to a function: the bytes of its bundle, and the time that Node.js takes to load it, beside the same function without it.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { buildSync } from "esbuild";

const runs = Number(process.argv[2] ?? 31);
const dir = fileURLToPath(new URL("../.bin/figures/", import.meta.url));
mkdirSync(dir, { recursive: true });
const variants = {
  "no client": `export const handler = async (event) => event.id;`,
  "no client, node:https": `import { request } from "node:https"; export const handler = async (event) => request && event.id;`,
  client: `import { Client, exclusive } from "@holdfast-lock/client";
    const client = new Client({ endpoint: "http://127.0.0.1:7420" });
    export const handler = exclusive(client, (event) => event.id, async (event) => event.id);`,
  "client, signer": `import { Client, exclusive } from "@holdfast-lock/client";
    import { sigV4 } from "@holdfast-lock/client/sigv4";
    const client = new Client({ endpoint: "https://a.execute-api.eu-west-1.amazonaws.com", signer: sigV4() });
    export const handler = exclusive(client, (event) => event.id, async (event) => event.id);`,
};
const files = new Map();
for (const [name, source] of Object.entries(variants)) {
  const base = `${dir}${name.replaceAll(/\W+/g, "-")}`;
  writeFileSync(`${base}.js`, source);
  buildSync({
    entryPoints: [`${base}.js`],
    outfile: `${base}.min.mjs`,
    bundle: true,
    minify: true,
    platform: "node",
    target: "node20",
    format: "esm",
    logLevel: "error",
  });
  files.set(name, `${base}.min.mjs`);
}
const load = (file) =>
  Number(
    execFileSync(process.execPath, [
      "--input-type=module",
      "-e",
      `const t = process.hrtime.bigint(); await import(${JSON.stringify(file)}); console.log(Number(process.hrtime.bigint() - t) / 1e6);`,
    ]),
  );
const times = new Map([...files.keys()].map((name) => [name, []]));
for (let n = 0; n < runs; n++) {
  for (const [name, file] of files) times.get(name).push(load(file));
}
const middle = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const base = times.get("no client");
for (const [name, file] of files) {
  const code = readFileSync(file);
  const own = times.get(name);
  const added = own.map((time, n) => time - base[n]); // of the same round
  console.log(
    `${name}: ${code.length} bytes minified, ${gzipSync(code).length} with gzip; loaded in ${middle(own).toFixed(1)} ms, ${middle(added).toFixed(1)} ms more than without (median of ${runs})`,
  );
}
