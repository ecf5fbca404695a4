import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { browser, demo, row } from './world.mjs';

const locks = 10_000;
let b, d;
before(async () => {
  [b, d] = await Promise.all([browser(), demo()]);
  await d.tell(`locks ${locks}`);
});
after(async () => {
  await b.stop();
  d.stop();
});

// The figures are printed; what is asserted are counts and bytes, which do not depend on the machine.
test('10,000 locks: bytes, rows in the document, time to the first paint and of an update', async () => {
  const page = await b.open('about:blank');
  await page.goto(d.link);
  await page.locator('#count', { hasText: '10,000 locks' }).waitFor();
  const measures = (name) => page.evaluate((n) => performance.getEntriesByName(n).map((e) => [e.startTime, e.duration])[0], name);
  const bytes = await page.evaluate(() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].filter((e) => !e.name.includes('/api/'))
    .reduce((n, e) => n + e.encodedBodySize, 0));
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime);
  const [at, took] = await measures('holdfast-first');
  assert.ok(bytes > 10_000 && bytes < 80_000, `${bytes} bytes of files`);
  await page.locator('button', { hasText: 'Open all' }).click();
  const rows = () => page.locator('.row').count();
  assert.ok((await rows()) < 60, `${await rows()} rows are in the document`);
  const updates = [];
  for (let i = 0; i < 5; i++) {
    await page.evaluate(() => performance.clearMeasures('holdfast-update'));
    await d.tell('renew 1000');
    await page.waitForFunction(() => performance.getEntriesByName('holdfast-update').length > 0);
    updates.push((await measures('holdfast-update'))[1]);
  }
  const typing = await page.evaluate(() => {
    const search = document.getElementById('search'), start = performance.now();
    search.value = '0777';
    search.dispatchEvent(new Event('input'));
    return performance.now() - start;
  });
  await row(page, 'bulk:17:02:00777').waitFor();
  await page.locator('#search').fill('');
  await page.locator('#rows').focus();
  await page.keyboard.press('End');
  await row(page, 'report:daily').waitFor();
  assert.ok((await rows()) < 60, `${await rows()} rows are in the document at the end of the list`);
  const ms = (n) => `${n.toFixed(0)} ms`;
  console.log(`${locks} locks: ${(bytes / 1000).toFixed(1)} kB of files; first paint after ${ms(paint)}; list shown after ${ms(at + took)}, of which ${ms(took)} in the page; ` +
    `update of 1,000 locks ${updates.map(ms).join(', ')}; a search ${ms(typing)}`);
});
