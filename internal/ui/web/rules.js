// The page of the rules by prefix: freezes, limits and histories.

import { h, span, stamp, ms, printable, plural } from './dom.js';
import { store, now } from './store.js';

// limitTexts says each limit in a few words.
export function limitTexts(l) {
  const upTo = (n, one) => `up to ${plural(n, one, one + 's')}`;
  const list = [];
  if (l.capacity) list.push(`capacity ${l.capacity}`);
  if (l.max_ttl_ms) list.push(`TTL up to ${span(l.max_ttl_ms)}`);
  if (l.max_hold_ms) list.push(`held for up to ${span(l.max_hold_ms)}`);
  if (l.max_queue) list.push(upTo(l.max_queue, 'waiter'));
  if (l.max_per_principal) list.push(upTo(l.max_per_principal, 'permit') + ' of a principal');
  if (l.rate?.grants) list.push(`${upTo(l.rate.grants, 'grant')} in ${span(l.rate.period_ms)}`);
  return list;
}

export function rulesPage(root) {
  const body = h('div');
  root.replaceChildren(h('h1', {}, 'Rules by prefix'),
    h('p', { class: 'quiet' }, 'What operators have set for all locks whose names begin with a prefix. To change a rule, use the commands ', h('code', {}, 'holdfast freeze'), ', ', h('code', {}, 'unfreeze'), ', ', h('code', {}, 'limit'), ' and ', h('code', {}, 'keep-history'), ' in a shell.'), body);
  let drawn = null;
  function update() {
    const text = JSON.stringify([store.rules, store.rulesFailed, store.rules.map((r) => r.freeze && ms(r.freeze.until) > now())]);
    if (text === drawn) return;
    drawn = text;
    if (store.rulesFailed) body.replaceChildren(h('p', { class: 'problem' }, `The rules cannot be read: ${store.rulesFailed}`));
    else if (store.rules.length === 0) body.replaceChildren(h('p', { class: 'quiet' }, 'There are no rules.'));
    else body.replaceChildren(...store.rules.map(card));
  }
  update();
  return { update, leave: () => {}, title: 'Rules' };
}

function card(r) {
  const items = [];
  const add = (name, text, part) => items.push(h('div', {}, h('dt', {}, name), h('dd', {}, text, part.by ? h('span', { class: 'quiet' }, ` by ${printable(part.by)}`) : null,
    part.since ? h('span', { class: 'quiet' }, ` since ${stamp(ms(part.since))}`) : null)));
  if (r.freeze) add('Freeze', `${ms(r.freeze.until) > now() ? 'until' : 'ended'} ${stamp(ms(r.freeze.until))}. Reason: ${printable(r.freeze.reason)}. Set`, r.freeze);
  if (r.limits) add('Limits', limitTexts(r.limits).join(', '), r.limits);
  if (r.history) add('History', `kept for ${span(r.history.keep_ms)}`, r.history);
  if (r.unknown?.length) add('Unknown', `a newer version has set ${r.unknown.map(printable).join(', ')}; this coordinator does not go by it`, {});
  const frozen = r.freeze && ms(r.freeze.until) > now();
  return h('section', { class: 'card', 'aria-label': `Rule ${r.prefix}` },
    h('div', { class: 'cardhead' }, h('h2', {}, r.prefix === '*' ? '* (all locks)' : r.prefix), frozen ? h('span', { class: 'badge frozen' }, 'frozen') : null), h('dl', { class: 'facts' }, ...items));
}
