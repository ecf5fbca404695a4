// Writes the screenshots of docs/ui.md into a folder: node shots.mjs FOLDER.
import { join } from 'node:path';
import { browser, demo, row, to } from './world.mjs';

const folder = process.argv[2];
const [b, d] = await Promise.all([browser(), demo()]);
const shoot = async (name, options, act = async () => {}) => {
  const page = await b.open(d.link, options);
  await row(page, 'deploy:').waitFor();
  await act(page);
  await page.waitForTimeout(1200); // until bars have moved to their place
  await page.screenshot({ path: join(folder, name + '.png') });
  await page.context().close();
};
const lock = async (page) => {
  await to(page, '/lock/deploy%3Aprod%3Aeu');
  await page.locator('svg').waitFor();
};
const desktop = { viewport: { width: 1000, height: 620 } }, phone = { viewport: { width: 390, height: 700 } };
await shoot('light', { ...desktop, colorScheme: 'light' });
await shoot('dark', { ...desktop, colorScheme: 'dark' });
await shoot('phone', { ...phone, colorScheme: 'light' });
await shoot('lock', { viewport: { width: 1000, height: 980 }, colorScheme: 'light' }, lock);
await shoot('force-release', { ...desktop, colorScheme: 'dark' }, async (page) => {
  await lock(page);
  await page.locator('.card button').click();
  await page.locator('dialog #reason').fill('run 8121: its runner was terminated at 02:10');
});
await b.stop();
