// The page: routes, the header, keys. See store.js for the data and server.js for the connection.

import { h, write, span, say } from './dom.js';
import { takeToken, Live, get } from './server.js';
import { store, take, now } from './store.js';
import { tick } from './bar.js';
import { listPage } from './list.js';
import { lockPage } from './lock.js';
import { rulesPage } from './rules.js';

const id = (name) => document.getElementById(name);
const main = id('main'), banner = id('banner'), age = id('age');
const rulesEvery = 30_000, perSecond = 1000; // ms
let page = null;

takeToken();

const live = new Live((m) => {
  const first = !store.ready, wasDown = store.down;
  const began = performance.now();
  take(m);
  if (wasDown) say('The connection is back.');
  page?.update();
  header();
  if (first && store.ready) measure('holdfast-first', began);
  else if (m.locks.length || m.gone.length) measure('holdfast-update', began);
}, (e) => {
  store.down = e;
  say('The connection is lost.');
  page?.update();
  header();
});

// measure keeps how long a message took to show, for the browser's own tools.
function measure(name, start) {
  performance.clearMeasures(name);
  performance.measure(name, { start, end: performance.now() });
}

function show() {
  page?.leave();
  let path = location.hash.slice(1) || '/', name = null;
  try {
    if (path.startsWith('/lock/')) name = decodeURIComponent(path.slice(6));
  } catch { path = '/'; }
  if (name !== null) page = lockPage(main, name);
  else if (path === '/rules') { page = rulesPage(main); readRules(); }
  else page = listPage(main, live);
  current('nav-locks', path !== '/rules');
  current('nav-rules', path === '/rules');
  document.title = `${page.title ?? 'Locks'} · Holdfast`;
  header();
}

function current(link, is) {
  if (is) id(link).setAttribute('aria-current', 'page');
  else id(link).removeAttribute('aria-current');
}

// header says where the data come from, how old they are, and what is wrong.
function header() {
  write(id('where'), store.where + (store.prefix ? ` · ${store.prefix}…` : ''));
  const old = store.state.listed ? Math.max(0, now() - store.state.listed) : 0;
  const late = store.down || store.state.failure || (store.state.listed && old > 3 * store.state.every + 5000);
  write(age, !store.state.listed ? (store.down ? 'no data' : 'connecting…') : old < 1500 ? 'up to date' : `data ${span(old)} old`);
  age.classList.toggle('late', Boolean(late));
  write(banner, trouble());
  banner.hidden = banner.textContent === '';
}

function trouble() {
  const f = store.down ?? store.state.failure;
  if (!f) return '';
  const stale = store.state.listed ? ' What is shown was true a while ago.' : '';
  switch (f.code) {
    case 'wrong_token': return 'This page may not ask for locks: ' + f.detail + '.';
    case 'no_server': return 'No connection: ' + f.detail + '.' + stale;
    case 'wrong_host': case 'wrong_origin': return f.detail + '.';
  }
  const allowed = f.status === 401 || f.status === 403 ? ' The list takes execute-api:Invoke on GET /v1/locks. Without it, a single lock can be opened: enter its whole name in the search.' : '';
  return `The locks cannot be listed: ${f.detail ?? f.message}.${allowed}${stale}`;
}

async function readRules() {
  if (document.hidden) return;
  try {
    store.rules = (await get('rules')).rules;
    store.rulesFailed = null;
  } catch (e) {
    store.rulesFailed = e.detail ?? e.message;
  }
  page?.update();
}

const themes = { system: 'Theme: system', light: 'Theme: light', dark: 'Theme: dark' };
function theme(next) {
  document.documentElement.dataset.theme = next;
  localStorage.setItem('holdfast-theme', next);
  write(id('theme'), themes[next]);
}
theme(localStorage.getItem('holdfast-theme') in themes ? localStorage.getItem('holdfast-theme') : 'system');
id('theme').addEventListener('click', () => {
  const names = Object.keys(themes);
  theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});

const keys = [['/', 'search'], ['↑ ↓', 'move in the list'], ['→ ←', 'open and close a prefix'], ['Enter', 'show the lock'], ['Esc', 'back to the list; in the search: clear it'], ['?', 'this help']];
const words = [['prefix', 'the beginning of names; : separates the levels of a name'], ['holder', 'a caller with a lease of the lock'], ['lease', 'lasts until its expiry, unless it is renewed; the bar is what remains since the last renewal'],
  ['fence', 'the number of the grant, which only grows; a resource that refuses lower ones is safe from old holders'], ['waiting', 'callers in the queue; they are granted the lock in their order'],
  ['frozen', 'an operator keeps all locks of a prefix from being granted until a time'],
  ['force-release', 'an operator ends a lease whose holder is dead; it is on the page of the lock']];
function help() {
  if (document.querySelector('dialog[open]')) return;
  const list = (items) => h('dl', { class: 'facts' }, ...items.map(([k, t]) => h('div', {}, h('dt', {}, k), h('dd', {}, t))));
  const close = h('button', { type: 'button', onclick: () => dialog.close() }, 'Close');
  const dialog = h('dialog', { 'aria-labelledby': 'help-title' }, h('h2', { id: 'help-title' }, 'Keys'), list(keys), h('h2', {}, 'Words'), list(words), h('p', { class: 'buttons' }, close));
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}
id('help').addEventListener('click', help);

addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.altKey || e.metaKey || document.querySelector('dialog[open]')) return;
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName);
  if (e.key === 'Escape') {
    const search = id('search');
    if (e.target === search && search.value) {
      search.value = '';
      search.dispatchEvent(new Event('input'));
    } else if (e.target === search) page.focus?.();
    else if (location.hash.length > 2) { location.hash = '#/'; setTimeout(() => page.focus?.()); }
    e.preventDefault();
  } else if (e.key === '/' && !typing) {
    if (!id('search')) location.hash = '#/';
    setTimeout(() => id('search')?.focus());
    e.preventDefault();
  } else if (e.key === '?' && !typing) help();
});

document.querySelector('.skip').addEventListener('click', (e) => { // a fragment of its own would be taken for a route
  e.preventDefault();
  main.focus();
});
addEventListener('hashchange', () => {
  if (location.hash.includes('token=')) { takeToken(); live.restart(); }
  show();
  if (document.activeElement === document.body) (page.focus ?? (() => main.focus()))();
});
setInterval(() => { tick(); header(); }, perSecond);
setInterval(readRules, rulesEvery);
show();
live.restart();
readRules();
