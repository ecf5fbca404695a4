// The leases of a lock from its history, and a picture of them over time.

import { h, s, who, printable, span, stamp, clockTime, ms } from './dom.js';

// tenures returns the leases that entries and present holders tell of, oldest first: {from, until, owner, fence, waited, ended, set}.
export function tenures(entries, holders) {
  const leases = new Map();
  for (const e of entries) {
    const t = leases.get(e.fence) ?? { fence: e.fence, owner: e.owner, from: ms(e.acquired_at), waited: e.waited_ms ?? 0, set: e.set, until: null, ended: '' };
    if (e.kind !== 'acquired') {
      t.until = ms(e.at);
      t.kind = e.kind;
      t.ended = ending(e);
    }
    leases.set(e.fence, t);
  }
  for (const x of holders) {
    if (!leases.has(x.fence)) leases.set(x.fence, { fence: x.fence, owner: x.owner, from: ms(x.acquired_at), waited: 0, until: null, ended: '' });
    leases.get(x.fence).held = true;
  }
  for (const t of leases.values()) {
    if (t.until === null) t.ended = t.held ? 'still held' : 'over; the end is not recorded yet';
  }
  return [...leases.values()].sort((a, b) => a.from - b.from);
}

function ending(e) {
  const extra = e.unclaimed ? ', never claimed' : e.kind === 'released' && e.cause && e.cause !== 'release' ? ` (${printable(e.cause)})` : '';
  if (e.kind === 'force-released') return 'force-released' + (e.by ? ` by ${printable(e.by)}` : '') + (e.reason ? `: ${printable(e.reason)}` : '');
  return e.kind + extra;
}

const lane = 30, top = 6; // px

// timeline draws leases between two times: a bar for each lease, and a thin one before it for its wait. Leases at the same time are one below the other.
export function timeline(list, from, to, width) {
  width = Math.max(width || 0, 280);
  const x = (t) => Math.max(0, Math.min(width, ((t - from) / (to - from)) * width));
  const ends = []; // of the lanes, in time
  const shapes = [];
  for (const t of list) {
    const begin = t.from - t.waited, end = t.until ?? (t.held ? to : t.from);
    let n = ends.findIndex((e) => e <= t.from);
    if (n < 0) n = ends.length;
    ends[n] = end;
    const y = top + n * lane, w = Math.max(x(end) - x(t.from), 3);
    const g = s('g', { class: 'lease ' + (t.held ? 'held' : t.kind ?? 'unknown') }, s('title', {}, `${who(t.owner)}, ${stamp(t.from)}, ${span(end - t.from)}, ${t.ended}${t.waited ? `, after waiting ${span(t.waited)}` : ''}`));
    if (t.waited && x(t.from) > x(begin)) g.append(s('rect', { class: 'wait', x: x(begin), y: y + 18, width: x(t.from) - x(begin), height: 4 }));
    g.append(s('rect', { class: 'hold', x: x(t.from), y, width: w, height: 18, rx: 2 }));
    const label = who(t.owner);
    if (w > 7.5 * label.length + 8) g.append(s('text', { x: x(t.from) + 5, y: y + 13 }, label));
    shapes.push(g);
  }
  const bottom = top + Math.max(ends.length, 1) * lane;
  const ticks = [];
  const steps = width < 500 ? 3 : 6;
  for (let i = 0; i <= steps; i++) {
    const t = from + ((to - from) * i) / steps;
    ticks.push(s('line', { class: 'tick', x1: x(t), x2: x(t), y1: 0, y2: bottom }),
      s('text', { class: 'time', x: x(t), y: bottom + 13, 'text-anchor': i === 0 ? 'start' : i === steps ? 'end' : 'middle' }, to - from > 2 * 86400e3 ? stamp(t).slice(5, 16) : clockTime(t)));
  }
  return s('svg', { width, height: bottom + 18, viewBox: `0 0 ${width} ${bottom + 18}`, role: 'img', 'aria-label': `Who held the lock from ${stamp(from)} to ${stamp(to)}: ${list.length} leases, which the table below lists` }, ...ticks, ...shapes);
}

// legend says what the colours of the picture mean.
export function legend() {
  const item = (kind, text) => h('span', {}, h('span', { class: 'key ' + kind, 'aria-hidden': 'true' }), text);
  return h('p', { class: 'legend quiet' }, item('held', 'still held'), item('released', 'released'), item('expired', 'expired'), item('forced', 'force-released'), item('wait', 'the wait of the holder before its bar'));
}
