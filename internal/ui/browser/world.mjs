// What the browser tests share: a page over made-up locks (scripts/uidemo) or over a local coordinator (scripts/run), and a browser.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..', '..');
const axe = readFileSync(join(here, 'node_modules', 'axe-core', 'axe.min.js'), 'utf8');

export const limit = 10_000; // ms of any wait

const children = [];

// start runs a program of the folder .bin and returns its lines and a way to end it.
function start(name, ...args) {
  const child = spawn(join(root, '.bin', name), args, { stdio: ['pipe', 'pipe', 'ignore'] });
  children.push(child);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => {
    const timer = setTimeout(() => child.kill(), limit);
    const { value, done } = await lines.next();
    clearTimeout(timer);
    if (done) throw new Error(`${name} ended or printed nothing for ${limit} ms`);
    return value;
  };
  return { child, next, stop: () => child.kill() };
}

// demo starts a page over made-up locks. tell sends it a command, which is carried out when tell returns.
export async function demo() {
  const p = start('uidemo');
  const link = await p.next();
  const tell = async (command) => {
    p.child.stdin.write(command + '\n');
    const answer = await p.next();
    if (answer !== 'ok') throw new Error(answer);
  };
  return { link, tell, stop: p.stop, origin: new URL(link).origin };
}

// coordinator starts a local coordinator, and returns the page's link and a way to send requests to it.
export async function coordinator() {
  const p = start('run', '--listen', '127.0.0.1:0');
  let url, link;
  while (!link) {
    const line = await p.next();
    url ??= /http:\/\/127\.0\.0\.1:\d+/.exec(line)?.[0];
    link = /http:\/\/127\.0\.0\.1:\d+\/#token=\w+/.exec(line)?.[0];
  }
  const ask = async (path, body, method = 'POST') => {
    const response = await fetch(url + path, { method, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    return { status: response.status, ...(await response.json()) };
  };
  return { link, ask, stop: p.stop, origin: new URL(link).origin };
}

// browser starts the Chromium of this machine. Errors of a page are collected in its list faults.
export async function browser() {
  const candidates = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].filter(Boolean);
  const executablePath = candidates.find((path) => existsSync(path));
  if (!executablePath) throw new Error(`no browser is at ${candidates.join(', ')}; install Debian's package chromium, or set CHROMIUM to the path of one`);
  const b = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  const open = async (link, options = {}) => {
    const context = await b.newContext({ viewport: { width: 1100, height: 760 }, ...options });
    context.setDefaultTimeout(limit);
    const page = await context.newPage();
    page.faults = [];
    page.on('pageerror', (e) => page.faults.push(String(e)));
    page.on('console', (m) => { if (m.type() === 'error' && !/Failed to load resource/.test(m.text())) page.faults.push(m.text()); });
    await page.goto(link);
    return page;
  };
  return { open, stop: () => { // also the programs of tests that failed
    for (const child of children) child.kill();
    return b.close();
  } };
}

// accessibility returns the findings of axe, one line each. The script goes past the page's policy, as a debugger does.
export async function accessibility(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  return violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target} ${n.failureSummary}`));
}

export const row = (page, name) => page.locator(`.row[data-name="${name}"]`);
export const to = (page, hash) => page.evaluate((h) => { location.hash = h; }, hash);
