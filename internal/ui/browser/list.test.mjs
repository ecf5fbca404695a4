import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { browser, demo, row, to } from './world.mjs';

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

test('the tree shows prefixes with counts, and holders, life and waiters of locks', async () => {
  assert.match(await row(page, 'deploy:').textContent(), /deploy:3 held.*3 wait$/);
  const lock = await row(page, 'deploy:prod:eu').textContent();
  assert.match(lock, /^deploy:prod:eu/);
  assert.equal(await row(page, 'deploy:prod:eu').locator('.name > :last-child').textContent(), 'eu');
  assert.match(lock, /ci\/run-8121/);
  assert.match(lock, /1[2-9] min/);
  assert.match(lock, /\d+ s|expired/);
  assert.match(lock, /3 wait/);
  assert.match(await row(page, 'quota:crm-api').textContent(), /worker-1 and 3 more · 4 of 5 permits/);
  assert.match(await page.locator('#count').textContent(), /13 locks: 13 held, 6 waiters/);
  assert.equal(await row(page, 'deploy:').getAttribute('aria-level'), '1');
  assert.equal(await row(page, 'deploy:prod:eu').getAttribute('aria-level'), '3');
});

test('a frozen lock has a badge', async () => {
  await row(page, 'migrate:orders').locator('.frozen').waitFor();
  assert.ok(!(await row(page, 'deploy:staging').locator('.frozen').isVisible()));
});

test('freezes in force are named above the list, whether or not a lock of theirs is listed', async () => {
  const notice = page.locator('main .notice.frozen');
  assert.match(await notice.textContent(), /^Frozen: migrate:… until 20.* \(in \d+ h.*\): year-end close; ask #releases$/);
});

test('only the locks with waiters can be shown', async () => {
  await page.locator('#waited').check();
  await page.locator('#count', { hasText: '3 locks: 3 held, 6 waiters' }).waitFor();
  assert.equal(await row(page, 'report:daily').count(), 0);
  await row(page, 'deploy:prod:eu').waitFor();
  await page.locator('#waited').uncheck();
  await row(page, 'report:daily').waitFor();
});

test('bars shrink by the timer alone, and their width is no layout', async () => {
  const bar = row(page, 'report:daily').locator('.fill');
  const scale = async () => Number(/scaleX\(([\d.]+)\)/.exec(await bar.getAttribute('style'))[1]);
  const first = await scale();
  const text = await row(page, 'report:daily').locator('.left').textContent();
  await page.waitForFunction((t) => document.querySelector('.row[data-name="report:daily"] .left').textContent !== t, text);
  assert.ok((await scale()) <= first && first < 1, `${first}`);
});

test('a prefix closes and opens by a click', async () => {
  await row(page, 'deploy:').click();
  assert.equal(await row(page, 'deploy:').getAttribute('aria-expanded'), 'false');
  assert.equal(await row(page, 'deploy:prod:eu').count(), 0);
  await row(page, 'deploy:').click();
  await row(page, 'deploy:prod:eu').waitFor();
});

test('keys: the tree pattern, / and Escape and ?', async () => {
  await page.locator('#rows').focus();
  const active = () => page.evaluate(() => document.getElementById(document.getElementById('rows').getAttribute('aria-activedescendant')).dataset.name);
  await page.keyboard.press('Home');
  assert.equal(await active(), 'customer:');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await row(page, 'customer:').getAttribute('aria-expanded'), 'false');
  await page.keyboard.press('ArrowDown');
  assert.equal(await active(), 'deploy:');
  await page.keyboard.press('ArrowRight');
  assert.equal(await active(), 'deploy:prod:');
  await page.keyboard.press('ArrowRight');
  assert.equal(await active(), 'deploy:prod:eu');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await active(), 'deploy:prod:');
  await page.keyboard.press('End');
  assert.equal(await active(), 'report:daily');
  await page.keyboard.press('Enter');
  await page.locator('h1', { hasText: 'report:daily' }).waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#rows').waitFor();
  await page.waitForFunction(() => document.activeElement.id === 'rows');
  assert.equal(await active(), 'report:daily');
  await page.keyboard.press('/');
  await page.waitForFunction(() => document.activeElement.id === 'search');
  await page.keyboard.type('orders');
  assert.match(await page.locator('#count').textContent(), /^1 lock:/);
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('#search').inputValue(), '');
  await page.keyboard.press('Escape');
  await page.keyboard.press('?');
  await page.locator('dialog h2', { hasText: 'Keys' }).waitFor();
  await page.keyboard.press('Escape');
  await page.locator('dialog').waitFor({ state: 'detached' });
  assert.ok(await page.locator('#rows').isVisible(), 'Escape closes the help and does not leave the page');
  await page.locator('button', { hasText: 'Open all' }).click();
});


test('search by holder, and Enter', async () => {
  await page.locator('#search').fill('ALICE@');
  await row(page, 'migrate:orders').waitFor();
  assert.match(await page.locator('#count').textContent(), /^1 lock:/);
  await page.locator('#search').press('Enter');
  await page.locator('h1', { hasText: 'migrate:orders' }).waitFor();
  await page.goBack();
  assert.equal(await page.locator('#search').inputValue(), 'ALICE@', 'the search is kept');
  await page.locator('#search').fill('no-such-lock');
  assert.match(await page.locator('#empty').textContent(), /No lock that is listed has “no-such-lock”/);
  await page.locator('#search').press('Enter');
  await page.locator('h1', { hasText: 'no-such-lock' }).waitFor();
  await page.locator('text=Nobody holds the lock.').waitFor();
  await to(page, '/');
  await page.locator('#search').fill('');
});

test('the flat list has an order', async () => {
  assert.equal(await page.locator('#view').inputValue(), 'tree');
  await page.locator('#order').selectOption('until'); // a tree has one order only
  assert.equal(await page.locator('#view').inputValue(), 'flat');
  await page.locator('#order').selectOption('name');
  const first = () => page.locator('.row').first().getAttribute('data-name');
  assert.match(await first(), /^customer:/);
  await page.locator('#order').selectOption('since');
  assert.match(await first(), /^report:daily/);
  await page.locator('#order').selectOption('waiting');
  assert.match(await first(), /^deploy:prod:eu/);
  await page.locator('#view').selectOption('tree');
});

test('texts of holders stay texts', async () => {
  const r = row(page, 'hostile:texts');
  assert.match(await r.locator('.owner').textContent(), /^<script>document.title="owned"<\/script>\\u202e\\u0007$/);
  await r.click();
  await page.locator('h1', { hasText: 'hostile:texts' }).waitFor();
  await page.locator('pre').waitFor();
  assert.match(await page.locator('pre').textContent(), /<\/pre><script>alert\(1\)<\/script>/);
  assert.equal(await page.locator('main script, main img, main b').count(), 0);
  assert.notEqual(await page.title(), 'owned');
  await to(page, '/');
});

test('a change arrives by itself', async () => {
  await d.tell('change deploy:staging');
  await row(page, 'deploy:staging').locator('.owner', { hasText: 'next-holder' }).waitFor();
});

test('the page says what is wrong and how old its data are', async () => {
  await d.tell('fail 403 forbidden not allowed to call execute-api:Invoke on this route');
  await page.locator('#banner', { hasText: 'The locks cannot be listed: not allowed to call execute-api:Invoke' }).waitFor();
  assert.match(await page.locator('#banner').textContent(), /GET \/v1\/locks.*enter its whole name in the search.*What is shown was true a while ago/);
  await page.locator('#age.late', { hasText: /data [1-9]\d* s old/ }).waitFor();
  assert.ok(await row(page, 'report:daily').isVisible(), 'what is known stays');
  await d.tell('work');
  await page.locator('#banner').waitFor({ state: 'hidden' });
  await page.locator('#age:not(.late)').waitFor();
});

test('the theme is kept, and follows the system by default', async () => {
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await background();
  await page.emulateMedia({ colorScheme: 'dark' });
  const dark = await background();
  assert.notEqual(dark, light);
  await page.locator('#theme').click();
  assert.equal(await background(), light, 'Theme: light');
  await page.locator('#theme').click();
  await page.emulateMedia({ colorScheme: 'light' });
  await page.reload();
  await row(page, 'deploy:').waitFor();
  assert.equal(await background(), dark, 'Theme: dark, after a reload');
  await page.locator('#theme').click();
});
