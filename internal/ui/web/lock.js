// The page of one lock: its holders, queue, rules and history.

import { h, write, who, printable, span, stamp, zone, ms, say, plural } from './dom.js';
import { get } from './server.js';
import { store, now, covers } from './store.js';
import { lifeBar, sinceText, untilText } from './bar.js';
import { timeline, tenures, legend } from './timeline.js';
import { limitTexts } from './rules.js';
import { forceRelease } from './release.js';

const ranges = { '1 hour': 3600e3, '24 hours': 86400e3, '7 days': 7 * 86400e3 };
const rereadEvery = 5000; // ms; a renewal is seen after this at the latest
const pages = 5; // of 100 entries, that are read of a range at once

export function lockPage(root, name) {
  const abort = new AbortController();
  const facts = h('dl', { class: 'facts' }), holders = h('div'), queue = h('div'), freeze = h('div'), rules = h('div'), problem = h('div', { class: 'problem', hidden: true });
  const picture = h('div', { class: 'picture' }), table = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'History' }), note = h('p', { class: 'quiet' });
  const more = h('button', { type: 'button', hidden: true, onclick: () => readHistory(true) }, 'Show older entries');
  const picks = Object.entries(ranges).map(([label, length]) => h('button', { type: 'button', 'aria-pressed': 'false', onclick: () => pick(length) }, label));
  let status = null, shown = '', shownQueue = '', fences = null, history = null, range = ranges['1 hour'], last = undefined;
  root.replaceChildren(
    h('p', {}, h('a', { href: '#/' }, '← All locks')),
    h('h1', { class: 'lockname' }, name),
    problem, freeze, facts,
    h('h2', {}, 'Holders'), holders,
    h('h2', {}, 'Queue'), queue,
    h('h2', {}, 'Rules'), rules,
    h('h2', {}, 'History'),
    h('p', { class: 'tools', role: 'group', 'aria-label': 'Range of the history' }, ...picks), picture, note, table, more);

  async function readStatus() {
    try {
      const answer = await get('lock', { name }, abort.signal);
      problem.hidden = true;
      status = answer.status;
      show();
      return status;
    } catch (e) {
      if (e.name === 'AbortError') return;
      problem.hidden = false;
      write(problem, `The lock cannot be read: ${e.detail ?? e.message}`);
    }
  }

  // show draws the status; what has not changed stays as it is, with the reader's selection and focus.
  function show() {
    const list = status.holders;
    const wait = status.waiting ? `${plural(status.waiting, 'waiter', 'waiters')}` : 'nobody waits';
    const next = status.next_grant_at ? stamp(ms(status.next_grant_at)) + ' at the earliest, by its rate' : null;
    facts.replaceChildren(...[
      ['State', (status.locked ? 'held' : 'free') + (status.freeze ? ', and frozen' : '')], ['Permits', status.capacity > 1 ? `${status.available} of ${status.capacity} are free` : null],
      ['Queue', wait], ['Next grant', next], ['Highest fence', status.fence ? String(status.fence) : 'never granted: is the name right?'], ['Times in', zone()],
    ].filter(([, v]) => v).map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, v))));
    showFreeze(status.freeze);
    showQueue(status.queue ?? [], status.waiting);
    const key = JSON.stringify(list);
    if (key !== shown) {
      shown = key;
      showHolders(list);
    }
    const seen = list.map((x) => x.fence).join();
    if (fences !== null && fences !== seen) {
      say(list.length ? `${name} is now held by ${list.map((x) => who(x.owner)).join(', ')}` : `${name} is now free`);
      if (history) showHistory(); // no lease is shown as held that is not
      setTimeout(readHistory, 1500); // an entry is there a second or so after its change
    }
    fences = seen;
  }

  function showFreeze(f) {
    freeze.replaceChildren(...(f ? [h('p', { class: 'notice frozen' }, h('strong', {}, 'Frozen'), ` until ${stamp(ms(f.until))} (`, untilText(ms(f.until)), ') by the rule for ', h('code', {}, f.prefix),
      '. Until then nobody is granted the lock; who holds it keeps it. ', h('br'), `Reason: ${printable(f.reason)}`, h('br'), `Set at ${stamp(ms(f.since))}${f.by ? ` by ${printable(f.by)}` : ''}`)] : []));
  }

  // showQueue draws the first waiters; the coordinator of an older version names none.
  function showQueue(list, waiting) {
    const key = JSON.stringify([list, waiting, status.capacity > 1]);
    if (key === shownQueue) return;
    shownQueue = key;
    if (list.length === 0) {
      queue.replaceChildren(h('p', { class: 'quiet' }, waiting ? `${plural(waiting, 'waiter', 'waiters')}; who they are is not known.` : 'Nobody waits.'));
      return;
    }
    const permits = status.capacity > 1;
    const heads = ['Position', 'Waited', 'Waiter', permits ? 'Permits' : null, 'Since'].filter(Boolean);
    queue.replaceChildren(h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Queue' }, h('table', {},
      h('thead', {}, h('tr', {}, ...heads.map((t) => h('th', { scope: 'col' }, t)))),
      h('tbody', {}, ...list.map((w) => h('tr', {}, h('td', {}, String(w.position)), h('td', {}, w.joined_at ? sinceText(ms(w.joined_at)) : 'not known'),
        h('td', {}, who(w.owner), w.task ? h('span', { class: 'quiet' }, ' (task of a state machine)') : null, w.set ? h('span', { class: 'quiet' }, ' with ', ...lockLinks(w.set, name)) : null,
          w.principal ? h('div', { class: 'quiet' }, printable(w.principal)) : null),
        permits ? h('td', {}, String(w.permits)) : null, h('td', {}, w.joined_at ? stamp(ms(w.joined_at)) : '–')))))),
      waiting > list.length ? h('p', { class: 'quiet' }, `and ${waiting - list.length} more`) : '');
  }

  function showHolders(list) {
    const focused = holders.contains(document.activeElement) && document.activeElement.dataset.fence;
    holders.replaceChildren(...(list.length ? list.map(card) : [h('p', { class: 'quiet' }, 'Nobody holds the lock.')]));
    if (focused) holders.querySelector(`[data-fence="${CSS.escape(focused)}"]`)?.focus();
  }

  function card(x) {
    const bar = lifeBar();
    bar.life({ from: ms(x.renewed_at), until: ms(x.expires_at) });
    const fact = (k, ...v) => h('div', {}, h('dt', {}, k), h('dd', {}, ...v));
    const set = history?.sets.get(x.fence);
    return h('section', { class: 'card', 'aria-label': `Holder ${who(x.owner)}` },
      h('div', { class: 'cardhead' }, h('h3', {}, who(x.owner)), bar,
        h('button', { type: 'button', class: 'danger', 'data-fence': x.fence, onclick: () => forceRelease(name, x, status, readStatus) }, 'Force-release…')),
      h('dl', { class: 'facts' },
        fact('Fence', h('code', {}, String(x.fence))), x.principal ? fact('Principal', printable(x.principal)) : null,
        status.capacity > 1 ? fact('Permits', String(x.permits)) : null,
        fact('Held for', sinceText(ms(x.acquired_at))), fact('Acquired', stamp(ms(x.acquired_at))), fact('Renewed', ms(x.renewed_at) > ms(x.acquired_at) ? stamp(ms(x.renewed_at)) : 'not yet'), fact('Expires, unless renewed', stamp(ms(x.expires_at))),
        set ? fact('Set', ...lockLinks(set, name)) : null,
        x.metadata ? fact('Metadata', h('pre', { tabindex: '0' }, ...withLinks(printableLines(x.metadata)))) : null));
  }

  function showRules() {
    const mine = store.rules.filter((r) => covers(r.prefix, name));
    const items = mine.flatMap((r) => {
      const list = [];
      if (r.limits) list.push([r.prefix, `limits: ${limitTexts(r.limits).join(', ')}`, r.limits]);
      if (r.freeze) list.push([r.prefix, `freeze until ${stamp(ms(r.freeze.until))}: ${printable(r.freeze.reason)}`, r.freeze]);
      if (r.history) list.push([r.prefix, `history kept for ${span(r.history.keep_ms)}`, r.history]);
      return list;
    });
    rules.replaceChildren(items.length ? h('ul', {}, ...items.map(([p, text, by]) => h('li', {}, h('code', {}, p), ` ${text}`, by.by ? ` (by ${printable(by.by)})` : '')))
      : h('p', { class: 'quiet' }, store.rulesFailed ? `The rules cannot be read: ${store.rulesFailed}` : 'No rule covers this lock.'));
  }

  function pick(length) {
    range = length;
    readHistory();
  }

  // readHistory reads the entries of the range, or further ones with older.
  async function readHistory(older = false) {
    picks.forEach((b, i) => b.setAttribute('aria-pressed', String(Object.values(ranges)[i] === range)));
    const reading = (last = {});
    try {
      let cursor = older === true ? history?.next : undefined;
      const entries = older === true && history ? history.entries.slice() : [], from = Math.floor(now() - range);
      let page;
      for (let n = 0; n < pages; n++) {
        page = await get('history', { name, from, cursor }, abort.signal);
        entries.push(...page.entries);
        cursor = page.next_cursor;
        if (!cursor) break;
      }
      if (reading !== last) return;
      history = { entries, from, next: cursor, keeping: page.keeping, sets: new Map(entries.filter((e) => e.set).map((e) => [e.fence, e.set])) };
      showHistory();
      shown = '';
      if (status) show();
    } catch (e) {
      if (e.name === 'AbortError') return;
      write(note, `The history cannot be read: ${e.detail ?? e.message}`);
    }
  }

  function showHistory() {
    const list = tenures(history.entries, status?.holders ?? []);
    more.hidden = !history.next;
    picture.replaceChildren(...(list.length ? [timeline(list, history.from, now(), picture.clientWidth), legend()] : []));
    if (list.length === 0) {
      write(note, history.keeping ? 'Nobody held the lock in this time.'
        : `No history is kept of this lock. To keep it: holdfast keep-history '${name.includes(':') ? name.slice(0, name.indexOf(':') + 1) : name}' --for 90d`);
      table.replaceChildren();
      table.hidden = true;
      return;
    }
    write(note, history.keeping ? '' : 'No history is kept of this lock any more, or it was never kept: only what is known is shown.');
    table.hidden = false;
    const heads = ['From', 'Until', 'Held', 'Held by', 'Waited', 'Ended', 'Fence'];
    table.replaceChildren(h('table', {}, h('thead', {}, h('tr', {}, ...heads.map((t) => h('th', { scope: 'col' }, t)))), h('tbody', {}, ...list.slice().reverse().map((t) =>
      h('tr', {}, h('td', {}, stamp(t.from)), h('td', {}, t.until ? stamp(t.until) : '–'), h('td', {}, t.until ? span(t.until - t.from) : t.held ? sinceText(t.from) : '–'),
        h('td', {}, h('span', { class: 'owner' }, who(t.owner)), t.set ? h('span', { class: 'quiet' }, ' with ', ...lockLinks(t.set, name)) : null),
        h('td', {}, t.waited ? span(t.waited) : '–'), h('td', {}, t.ended), h('td', {}, h('code', {}, String(t.fence))))))));
  }

  let width = 0;
  const resized = new ResizeObserver(() => {
    if (picture.clientWidth !== width && history) showHistory();
    width = picture.clientWidth;
  });
  resized.observe(picture);
  const timer = setInterval(readStatus, rereadEvery);
  readStatus().then(() => readHistory());
  showRules();
  let line = store.locks.get(name);
  return {
    update: () => {
      const l = store.locks.get(name);
      if (l !== line) readStatus();
      line = l;
      showRules();
    },
    leave: () => { abort.abort(); clearInterval(timer); resized.disconnect(); },
    title: name,
  };
}

function lockLinks(names, but) {
  return names.filter((n) => n !== but).flatMap((n, i) => [i ? ', ' : '', h('a', { href: '#/lock/' + encodeURIComponent(n) }, n)]);
}

// withLinks makes a link of each text that is an address of the web.
function withLinks(json) {
  return json.split(/(?<=")(https?:\/\/[^"\\\s]+)(?=")/).map((part, i) => (i % 2 ? h('a', { href: part, target: '_blank', rel: 'noopener noreferrer' }, part) : part));
}

const printableLines = (metadata) => JSON.stringify(metadata, null, 2).split('\n').map(printable).join('\n');
