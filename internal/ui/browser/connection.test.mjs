import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { browser, coordinator, demo, row, to } from './world.mjs';

let b;
before(async () => { b = await browser(); });
after(() => b.stop());

test('the token leaves the address bar, lasts for reloads and other tabs, and without it there are no data', async () => {
  const d = await demo();
  const page = await b.open(d.link);
  await row(page, 'deploy:').waitFor();
  assert.ok(!page.url().includes('token'), page.url());
  await page.reload();
  await row(page, 'deploy:').waitFor();
  const tab = await page.context().newPage();
  await tab.goto(d.origin);
  await row(tab, 'deploy:').waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  const stranger = await b.open(d.origin);
  await stranger.locator('#banner', { hasText: 'This page may not ask for locks: the token is missing or belongs to a process that has ended; open the link' }).waitFor();
  assert.equal(await stranger.locator('.row').count(), 0);
  await stranger.evaluate((link) => { location.href = link; }, d.link); // pasted into the open tab
  await row(stranger, 'deploy:').waitFor();
  d.stop();
});

test('another page can neither read nor change anything, and the policy keeps out foreign code', async () => {
  const d = await demo(), other = await demo();
  const page = await b.open(other.link);
  await row(page, 'deploy:').waitFor();
  const token = new URL(d.link).hash.slice('#token='.length);
  const asked = await page.evaluate(async ({ origin, token }) => {
    const tries = {};
    for (const [name, path, init] of [
      ['read', '/api/rules', { headers: { 'X-Holdfast-Token': token } }],
      ['change', '/api/force-release', { method: 'POST', mode: 'no-cors', body: '{}' }],
    ]) tries[name] = await fetch(origin + path, init).then((r) => `${r.type} ${r.status}`, () => 'refused');
    try { document.body.innerHTML = '<b>x</b>'; tries.markup = 'taken'; } catch { tries.markup = 'refused'; }
    return tries;
  }, { origin: d.origin, token });
  assert.deepEqual(asked, { read: 'refused', change: 'refused', markup: 'refused' });
  d.stop();
  other.stop();
});

test('a tab that was cut off says so, and catches up', async () => {
  const d = await demo();
  const page = await b.open(d.link);
  await row(page, 'deploy:staging').waitFor();
  await page.clock.install();
  await page.reload();
  await row(page, 'deploy:staging').waitFor();
  await page.context().setOffline(true); // which ends no stream, and lets none begin
  await page.clock.fastForward(40_000); // as a tab that slept: the stream was silent for too long
  await page.locator('#banner', { hasText: 'No connection' }).waitFor();
  await d.tell('change deploy:staging');
  const other = await b.open(d.link); // for which the list goes on, so that the end is no news when the first tab is back
  await row(other, 'report:daily').waitFor();
  await d.tell('end report:daily');
  await row(other, 'report:daily').waitFor({ state: 'detached' });
  await page.context().setOffline(false);
  await row(page, 'deploy:staging').locator('.owner', { hasText: 'next-holder' }).waitFor();
  await row(page, 'report:daily').waitFor({ state: 'detached' });
  await page.locator('#banner').waitFor({ state: 'hidden' });
  d.stop();
  await page.locator('#banner', { hasText: 'the process that serves this page' }).waitFor();
  assert.ok(await row(page, 'deploy:staging').isVisible(), 'what is known stays');
});

test('with the coordinator of make run: events arrive at once, waiters are counted, and a force-release lets the next one go', async () => {
  const c = await coordinator();
  const lease = 'my-secret-lease-000', ask = (body, n) => c.ask('/v1/locks/deploy:prod/acquire', { lease: lease + n, ttl_ms: 60_000, ...body });
  const page = await b.open(c.link);
  await page.locator('#empty', { hasText: 'No lock is held' }).waitFor();
  assert.equal((await c.ask('/v1/rules/*', { history: { keep_ms: 3_600_000 } }, 'PUT')).status, 200);
  assert.equal((await ask({ owner: 'first', metadata: { run: 1 } }, 1)).status, 200);
  await row(page, 'deploy:prod').locator('.owner', { hasText: 'first' }).waitFor();
  assert.equal((await ask({ owner: 'second', wait_ms: 60_000 }, 2)).code, 'lock_held');
  await row(page, 'deploy:prod').locator('.waiting', { hasText: '1 wait' }).waitFor();
  await row(page, 'deploy:prod').click();
  await page.locator('.card h3', { hasText: 'first' }).waitFor();
  await page.locator('.card button').click();
  await page.locator('dialog #reason').fill('gone');
  await page.locator('dialog button', { hasText: 'End this lease' }).click();
  await page.locator('.outcome', { hasText: 'The lease of first with fence' }).waitFor();
  await page.locator('dialog button', { hasText: 'Close' }).click();
  await page.locator('.card h3', { hasText: 'second' }).waitFor();
  await to(page, '/');
  await page.locator('#free').check();
  assert.equal((await c.ask('/v1/locks/other/acquire', { lease: lease + 3, owner: 'third' })).status, 200);
  await row(page, 'other').locator('.owner', { hasText: 'third' }).waitFor();
  assert.equal((await c.ask('/v1/locks/other/release', { lease: lease + 3 })).status, 200);
  await row(page, 'other').locator('.owner', { hasText: 'free' }).waitFor();
  await page.locator('#free').uncheck();
  await row(page, 'other').waitFor({ state: 'detached' });
  assert.deepEqual(page.faults, []);
  c.stop();
});
