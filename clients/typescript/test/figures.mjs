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
  const bundle = (suffix, options) => {
    const outfile = `${base}${suffix}.min.mjs`;
    buildSync({
      entryPoints: [`${base}.js`],
      outfile,
      bundle: true,
      minify: true,
      platform: "node",
      target: "node20",
      format: "esm",
      logLevel: "error",
      ...options,
    });
    return outfile;
  };
  files.set(name, bundle("", {}));
  if (name === "client, signer") files.set(`${name}; with esbuild's --main-fields=module,main`, bundle("-es", { mainFields: ["module", "main"] }));
}
// The time and the CPU time of the import alone: that of Node.js is the same for all.
const load = (file) => {
  const program = `const [t, cpu] = [process.hrtime.bigint(), process.cpuUsage()];
    await import(${JSON.stringify(file)});
    const used = process.cpuUsage(cpu);
    console.log(JSON.stringify({ wall: Number(process.hrtime.bigint() - t) / 1e6, cpu: (used.user + used.system) / 1e3 }));`;
  return JSON.parse(execFileSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8" }));
};
const times = new Map([...files.keys()].map((name) => [name, []]));
for (let n = 0; n < runs; n++) {
  for (const [name, file] of files) times.get(name).push(load(file));
}
const middle = (list) => [...list].sort((a, b) => a - b)[list.length >> 1].toFixed(1);
const base = times.get("no client");
for (const [name, file] of files) {
  const code = readFileSync(file);
  const added = (kind) => middle(times.get(name).map((time, n) => time[kind] - base[n][kind])); // of the same round
  console.log(
    `${name}: ${code.length} bytes minified, ${gzipSync(code).length} with gzip; its import adds ${added("cpu")} ms of CPU, ${added("wall")} ms (medians of ${runs} rounds)`,
  );
}
