import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { accessibility, browser, demo, row, to } from './world.mjs';

let b, d, page;
before(async () => {
  [b, d] = await Promise.all([browser(), demo()]);
  page = await b.open(d.link);
  await row(page, 'deploy:prod:eu').waitFor();
});
after(async () => {
  assert.deepEqual(page.faults, [], 'errors in the page');
  await b.stop();
  d.stop();
});

const lock = async (name) => {
  await to(page, '/lock/' + encodeURIComponent(name));
  await page.locator('h1', { hasText: name }).waitFor();
};

test('a lock has its holder, times, fence, principal, metadata, set and queue', async () => {
  await lock('deploy:prod:eu');
  const card = page.locator('.card');
  await card.locator('dt', { hasText: 'Set' }).waitFor(); // from the history
  const text = await card.textContent();
  for (const part of ['ci/run-8121', 'assumed-role/deployer/run-8121', 'Acquired', 'Renewed', 'Expires', '"commit": "9f31c0e"', 'quota:crm-api']) assert.ok(text.includes(part), part);
  assert.match(text, /Fence\d{16}/);
  const link = card.locator('pre a');
  assert.deepEqual([await link.getAttribute('href'), await link.getAttribute('rel'), await link.count()], ['https://ci.example/runs/8121', 'noopener noreferrer', 1]);
  assert.match(await page.locator('main > .facts').textContent(), /Times inUTC/);
  assert.match(await page.locator('main > .facts').textContent(), /^StateheldQueue3 waiters/);
  assert.equal(await page.locator('main a[href="#/lock/quota%3Acrm-api"]').count(), 2, 'the other lock of the set is a link in the card and the table');
});

test('the queue has positions, waiters, and how long they have waited', async () => {
  await lock('deploy:prod:eu');
  const rows = page.locator('[aria-label="Queue"] tbody tr');
  await rows.nth(2).waitFor();
  const texts = await rows.allTextContents();
  assert.equal(texts.length, 3);
  assert.match(texts[0], /^112 min.*ci\/run-8127.*assumed-role\/deployer\/run-8127/);
  assert.match(texts[1], /^29 min.*ci\/run-8128 \(task of a state machine\)/);
});

test('a semaphore has all its holders and its limits', async () => {
  await lock('quota:crm-api');
  await page.locator('.card').nth(3).waitFor();
  assert.match(await page.locator('main > .facts').textContent(), /1 of 5 are free.*2 waiters/);
  assert.match(await page.locator('main').textContent(), /quota: limits: capacity 5, TTL up to 5 min, up to 100 waiters, up to 30 grants in 1 min/);
});

test('a frozen lock says why, by whom and until when', async () => {
  await lock('migrate:orders');
  await page.locator('.notice.frozen').waitFor();
  assert.match(await page.locator('.notice.frozen').textContent(), /^Frozen until 20.* \(in \d+ h.*\) by the rule for migrate:\. .*Reason: year-end close; ask #releasesSet at 20.* by arn:.*alice$/);
});

test('the history is a table and a picture, of an hour or longer', async () => {
  await lock('deploy:prod:eu');
  await page.locator('svg').waitFor();
  assert.equal(await page.locator('[aria-label="History"] tbody tr').count(), 5);
  assert.equal(await page.locator('.lease').count(), 5);
  assert.equal(await page.locator('.lease .wait').count(), 4);
  const rows = await page.locator('[aria-label="History"] tbody tr').allTextContents();
  assert.match(rows[0], /still held/);
  assert.match(rows[1], /force-released by arn.*alice: runner was terminated/);
  assert.match(rows[3], /8 min.*expired/);
  assert.match(await page.locator('svg').getAttribute('aria-label'), /5 leases/);
  const bars = await page.locator('.lease .hold').evaluateAll((l) => l.map((e) => [Number(e.getAttribute('x')), Number(e.getAttribute('width'))]));
  for (let i = 1; i < bars.length; i++) assert.ok(bars[i][0] >= bars[i - 1][0] + bars[i - 1][1] - 1, 'a mutex has one lane, without overlaps: ' + bars);
  await page.locator('button', { hasText: '24 hours' }).click();
  await page.locator('[aria-label="History"] tbody tr').nth(5).waitFor();
  assert.equal(await page.locator('button[aria-pressed="true"]').textContent(), '24 hours');
});

test('a lock without a history says how to keep one, or that nobody held it', async () => {
  await lock('never:held');
  await page.locator('text=Nobody held the lock in this time.').waitFor();
});

test('force-release names the holder, wants a reason, sends the fence, and says what happened', async () => {
  await lock('deploy:prod:eu');
  await page.locator('.card button').click();
  const dialog = page.locator('dialog');
  assert.match(await dialog.textContent(), /ends the lease of ci\/run-8121, held since 20.*fence \d{16}/);
  assert.match(await dialog.textContent(), /Only this lease is ended\. If it is over by then, nothing is changed.*Next in the queue: ci\/run-8127, then 2 others\./);
  assert.deepEqual(await accessibility(page), []);
  await page.waitForFunction(() => document.activeElement.id === 'reason');
  await dialog.locator('button', { hasText: 'End this lease' }).click();
  assert.match(await dialog.locator('.outcome').textContent(), /Give a reason/);
  await dialog.locator('#reason').fill('ü'.repeat(300));
  await dialog.locator('button', { hasText: 'End this lease' }).click();
  assert.match(await dialog.locator('.outcome').textContent(), /600 bytes; at most 512/);
  await dialog.locator('#reason').fill('runner is gone');
  const sent = page.waitForRequest(/force-release/);
  await dialog.locator('button', { hasText: 'End this lease' }).click();
  const body = (await sent).postDataJSON();
  assert.equal(body.reason, 'runner is gone');
  assert.ok(String(body.fence).length === 16);
  await dialog.locator('.outcome', { hasText: /The lease of ci\/run-8121 with fence \d+ has ended\. The lock is now held by ci\/run-8127 with fence \d+\./ }).waitFor();
  assert.ok(!(await dialog.locator('#reason').isVisible()), 'what has been done cannot be edited');
  await page.locator('.card h3', { hasText: 'ci/run-8127' }).waitFor(); // the next waiter
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  assert.ok(await page.locator('h1', { hasText: 'deploy:prod:eu' }).isVisible(), 'Escape closes the dialog only');
});

test('a lease that has ended in the meantime is not another one', async () => {
  await lock('report:daily');
  await page.locator('.card button').click();
  await d.tell('change report:daily');
  await page.locator('dialog #reason').fill('stuck');
  await page.locator('dialog button', { hasText: 'End this lease' }).click();
  await page.locator('.outcome.bad', { hasText: 'Nothing was changed: the lease that you saw has ended' }).waitFor();
  await page.locator('dialog button', { hasText: 'Close' }).click();
  await page.locator('.card h3', { hasText: 'next-holder' }).waitFor();
});

test('a force-release without an answer says that its outcome is not known', async () => {
  await lock('deploy:prod:us');
  await page.locator('.card button').click();
  await d.tell('fail 0 unavailable the coordinator did not answer in time');
  await page.locator('dialog #reason').fill('stuck');
  await page.locator('dialog button', { hasText: 'End this lease' }).click();
  await page.locator('.outcome.bad', { hasText: 'It is not known whether the lease has ended: the coordinator did not answer in time' }).waitFor();
  await d.tell('work');
  await page.locator('dialog button', { hasText: 'End this lease' }).click();
  await page.locator('.outcome', { hasText: /has ended\. The lock is now/ }).waitFor();
  await page.keyboard.press('Escape');
  await page.locator('text=Nobody holds the lock.').waitFor();
});

test('a screen reader is told of a new holder', async () => {
  await lock('deploy:staging');
  await page.locator('.card').waitFor();
  await d.tell('change deploy:staging');
  await page.locator('#said', { hasText: 'deploy:staging is now held by next-holder' }).waitFor({ state: 'attached' });
});

test('a lock that cannot be read says why', async () => {
  await d.tell('fail 403 forbidden not allowed to read it');
  await lock('deploy:staging:other');
  await page.locator('.problem', { hasText: 'The lock cannot be read: not allowed to read it' }).waitFor();
  await page.locator('text=The history cannot be read: not allowed to read it').waitFor();
  await d.tell('work');
});

test('the rules page has freezes, limits and histories', async () => {
  await page.locator('#nav-rules').click();
  await page.locator('.card').nth(2).waitFor();
  const text = await page.locator('main').textContent();
  assert.match(text, /\* \(all locks\)Historykept for 90 d by arn:.*alice since 20/);
  assert.match(text, /migrate:frozenFreezeuntil 20.*year-end close/);
  assert.match(text, /quota:Limitscapacity 5/);
  assert.equal(await page.locator('#nav-rules').getAttribute('aria-current'), 'page');
});

test('axe finds nothing on any page, in both colour schemes, on a desktop and on a phone', async () => {
  for (const viewport of [{ width: 1100, height: 760 }, { width: 390, height: 844 }]) {
    for (const colorScheme of ['light', 'dark']) {
      const p = await b.open(d.link, { viewport, colorScheme });
      await row(p, 'deploy:prod:eu').waitFor();
      for (const path of ['/', '/rules', '/lock/deploy%3Aprod%3Aeu', '/lock/migrate%3Aorders', '/lock/never%3Aheld']) {
        await to(p, path);
        await p.waitForTimeout(400);
        assert.deepEqual(await accessibility(p), [], `${path} ${colorScheme} ${viewport.width}`);
        const wide = await p.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(wide[0] <= wide[1], `${path} is ${wide[0]} px wide in a window of ${wide[1]}`);
      }
      await p.keyboard.press('?');
      assert.deepEqual(await accessibility(p), [], `help ${colorScheme}`);
      assert.deepEqual(p.faults, []);
      await p.context().close();
    }
  }
});
