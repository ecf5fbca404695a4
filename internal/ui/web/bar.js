// The remaining life of leases: bars and texts that one timer keeps, without a new layout.

import { h, span, write } from './dom.js';
import { now } from './store.js';

const bars = new Set();

// lifeBar returns an element with a bar and a text; its life(hold) says whose: {from, until} in ms.
export function lifeBar() {
  const fill = h('span', { class: 'fill' });
  const text = h('span', { class: 'left' });
  const e = h('span', { class: 'life' }, h('span', { class: 'track', 'aria-hidden': 'true' }, fill), text);
  e.life = (hold) => {
    e.hold = hold;
    e.hidden = !hold;
    if (hold) {
      bars.add(e);
      draw(e);
    } else bars.delete(e);
  };
  function draw() {
    const left = e.hold.until - now(), whole = Math.max(e.hold.until - e.hold.from, 1);
    fill.style.transform = `scaleX(${Math.max(0, Math.min(1, left / whole)).toFixed(3)})`;
    e.classList.toggle('late', left < whole / 4);
    write(text, left > 0 ? span(left) : 'expired');
  }
  e.draw = draw;
  return e;
}

// sinceText returns an element that says how long ago something was.
export function sinceText(at) {
  const e = h('span', { class: 'since' });
  e.at = at;
  e.draw = () => write(e, e.at ? span(now() - e.at) : '');
  bars.add(e);
  e.draw();
  return e;
}

// untilText returns an element that says in how long something is.
export function untilText(at) {
  const e = h('span', { class: 'since' });
  e.draw = () => write(e, at > now() ? `in ${span(at - now())}` : 'over');
  bars.add(e);
  e.draw();
  return e;
}

export function tick() {
  for (const e of bars) {
    if (e.isConnected) e.draw();
    else if (e.seen) bars.delete(e);
    e.seen = e.isConnected;
  }
}
