// The list of locks: a tree by prefix or a flat list, of which only the rows in view are in the document.

import { h, write, who, stamp, ms, say, plural, printable } from './dom.js';
import { store, now, select, flat, tree, frozenBy, covers } from './store.js';
import { lifeBar, sinceText, untilText } from './bar.js';

const maxFreezes = 3; // that are named above the list

const view = { search: '', mode: 'tree', order: 'name', free: false, waited: false, open: new Map(), active: null, top: 0 };

// listPage makes the page. live is the stream, which a tab that shows free locks asks for more.
export function listPage(root, live) {
  const search = h('input', { type: 'search', id: 'search', placeholder: 'Name or holder', autocomplete: 'off', spellcheck: 'false', 'aria-keyshortcuts': '/' });
  const mode = choice('View', { tree: 'Tree by prefix', flat: 'Flat list' }, view.mode);
  const order = choice('Order', { name: 'by name', since: 'held longest first', waiting: 'most waiters first', until: 'expiry soonest first' }, view.order);
  const withFree = h('input', { type: 'checkbox', id: 'free' });
  const waited = h('input', { type: 'checkbox', id: 'waited' });
  const freezes = h('div');
  const count = h('p', { class: 'count', id: 'count' });
  const expand = h('button', { type: 'button', onclick: () => openAll(true) }, 'Open all');
  const collapse = h('button', { type: 'button', onclick: () => openAll(false) }, 'Close all');
  const spacer = h('div', { class: 'spacer', role: 'presentation' });
  const scroller = h('div', { class: 'rows', id: 'rows', role: 'tree', tabindex: '0', 'aria-label': 'Locks' }, spacer);
  const empty = h('p', { class: 'quiet', id: 'empty', hidden: true });
  let rows = [];
  const shown = new Map(); // by key: the rows in the document
  search.value = view.search;
  withFree.checked = view.free;
  waited.checked = view.waited;
  root.replaceChildren(
    h('h1', { class: 'unseen' }, 'Locks'),
    h('form', { class: 'tools', role: 'search', onsubmit: (e) => { e.preventDefault(); submit(); } },
      h('label', { class: 'grow' }, h('span', {}, 'Search'), search), mode.label, order.label,
      h('label', { class: 'check' }, waited, 'only with waiters'), h('label', { class: 'check' }, withFree, 'free locks too'), expand, collapse),
    freezes,
    h('div', { class: 'heads', 'aria-hidden': 'true' }, ...['Lock', 'Held by', 'Held for', 'Expires in', 'Waiting'].map((t) => h('span', {}, t))),
    scroller, empty, count);

  const height = () => parseFloat(getComputedStyle(scroller).getPropertyValue('--row')) || 36;
  const isOpen = (prefix) => view.open.get(prefix) ?? (view.search !== '' || store.locks.size <= 200);

  function openAll(open) {
    view.open.clear();
    const groups = new Set();
    for (const name of store.locks.keys()) for (let at = name.indexOf(':'); at >= 0; at = name.indexOf(':', at + 1)) groups.add(name.slice(0, at + 1));
    for (const g of groups) view.open.set(g, open);
    update();
  }

  function submit() {
    const hits = rows.filter((r) => r.lock);
    if (hits.length === 1) visit(hits[0]);
    else if (hits.length === 0 && view.search) location.hash = '#/lock/' + encodeURIComponent(view.search);
    else scroller.focus();
  }

  // update makes the rows anew after a change of the data or of what is shown.
  function update() {
    const list = select(view.search, view.free, view.waited);
    rows = view.mode === 'tree' ? tree(list, isOpen) : flat(list, view.order);
    const held = list.filter((l) => l.count).length, waiting = list.reduce((n, l) => n + l.waiting, 0);
    const cut = store.state.truncated ? ` Only the first ${store.state.truncated.toLocaleString('en')} locks are listed; holdfast ui PREFIX shows those below a prefix.` : '';
    write(count, `${plural(list.length, 'lock', 'locks')}: ${held.toLocaleString('en')} held, ${plural(waiting, 'waiter', 'waiters')}.${cut}`);
    expand.disabled = collapse.disabled = view.mode !== 'tree';
    showFreezes();
    empty.hidden = rows.length > 0;
    scroller.hidden = rows.length === 0;
    write(empty, nothing());
    if (!rows.some((r) => r.key === view.active)) view.active = rows[0]?.key ?? null;
    draw();
  }

  // showFreezes names the freezes in force, since nobody who waits for one may be in the list.
  let frozen = '';
  function showFreezes() {
    const list = store.rules.filter((r) => r.freeze && ms(r.freeze.until) > now()), key = JSON.stringify(list);
    if (key === frozen) return;
    frozen = key;
    freezes.replaceChildren(...list.slice(0, maxFreezes).map((r) => h('p', { class: 'notice frozen' }, h('strong', {}, 'Frozen: '), h('code', {}, r.prefix === '*' ? 'all locks' : r.prefix + '…'),
      ` until ${stamp(ms(r.freeze.until))} (`, untilText(ms(r.freeze.until)), `): ${printable(r.freeze.reason)}`)),
    list.length > maxFreezes ? h('p', {}, h('a', { href: '#/rules' }, `and ${plural(list.length - maxFreezes, 'other freeze', 'other freezes')}`)) : '');
  }

  function nothing() {
    if (!store.ready) return store.state.failure || store.down ? 'There are no data yet.' : 'Reading the list of locks…';
    if (view.search) return `No lock that is listed has “${printable(view.search)}” in its name or its holder's. Enter opens the lock of this name, if it is a whole name.`;
    if (view.waited) return 'Nobody waits for a lock that is listed.';
    return 'No lock is held' + (store.prefix ? ` whose name begins with ${store.prefix}.` : '.');
  }

  // draw puts the rows in view into the document, and takes the others out.
  function draw() {
    const px = height(), first = Math.max(0, Math.floor(scroller.scrollTop / px) - 5);
    const last = Math.min(rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / px) + 5);
    spacer.style.height = rows.length * px + 'px';
    const wanted = new Map();
    for (let i = first; i < last; i++) wanted.set(rows[i].key, i);
    const at = rows.findIndex((r) => r.key === view.active);
    if (at >= 0) wanted.set(view.active, at); // also out of view: aria-activedescendant names it
    for (const [key, e] of shown) if (!wanted.has(key)) { e.remove(); shown.delete(key); }
    let before = null;
    for (const [key, i] of [...wanted].sort((a, b) => a[1] - b[1])) {
      let e = shown.get(key);
      if (!e) {
        e = makeRow(rows[i]);
        shown.set(key, e);
      }
      if ((before ? before.nextSibling : spacer.firstChild) !== e) spacer.insertBefore(e, before ? before.nextSibling : spacer.firstChild);
      before = e;
      e.style.transform = `translateY(${i * px}px)`;
      e.fill(rows[i]);
      e.classList.toggle('active', key === view.active);
      if (key === view.active) scroller.setAttribute('aria-activedescendant', e.id);
    }
    if (view.active === null) scroller.removeAttribute('aria-activedescendant');
  }

  function makeRow(r) {
    const e = r.group ? groupRow() : lockRow();
    e.addEventListener('click', (event) => {
      view.active = e.row.key;
      scroller.focus({ preventScroll: true });
      if (e.row.lock && (event.ctrlKey || event.metaKey)) window.open(target(e.row));
      else visit(e.row);
    });
    return e;
  }

  const target = (r) => '#/lock/' + encodeURIComponent(r.lock.name);

  function visit(r) {
    if (r.lock) location.hash = target(r);
    else toggle(r, !r.open);
  }

  function toggle(r, open) {
    view.open.set(r.group.prefix, open);
    view.active = r.key;
    update();
  }

  function move(i) {
    if (i < 0 || i >= rows.length) return;
    view.active = rows[i].key;
    const px = height(), top = i * px;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + px > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + px - scroller.clientHeight;
    draw();
  }

  // keys are those of the tree pattern of WAI-ARIA.
  function keys(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const i = rows.findIndex((r) => r.key === view.active), r = rows[i];
    if (!r) return;
    const page = Math.max(1, Math.floor(scroller.clientHeight / height()) - 1);
    const parent = () => { for (let j = i - 1; j >= 0; j--) if (rows[j].level < r.level) return j; return i; };
    const act = {
      ArrowDown: () => move(i + 1), ArrowUp: () => move(i - 1), Home: () => move(0), End: () => move(rows.length - 1),
      PageDown: () => move(Math.min(i + page, rows.length - 1)), PageUp: () => move(Math.max(i - page, 0)),
      ArrowRight: () => { if (r.group) r.open ? move(i + 1) : toggle(r, true); },
      ArrowLeft: () => { r.group && r.open ? toggle(r, false) : move(parent()); },
      Enter: () => visit(r), ' ': () => visit(r),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  }

  scroller.addEventListener('keydown', keys);
  scroller.addEventListener('scroll', () => { view.top = scroller.scrollTop; draw(); }, { passive: true });
  search.addEventListener('input', () => {
    view.search = search.value.trim();
    scroller.scrollTop = 0;
    update();
    say(count.textContent);
  });
  mode.select.addEventListener('change', () => {
    view.mode = mode.select.value;
    if (view.mode === 'tree') order.select.value = view.order = 'name';
    update();
  });
  order.select.addEventListener('change', () => { // a tree is in the order of names
    view.order = order.select.value;
    if (view.order !== 'name') mode.select.value = view.mode = 'flat';
    update();
  });
  waited.addEventListener('change', () => { view.waited = waited.checked; update(); });
  withFree.addEventListener('change', () => { view.free = withFree.checked; live.all = view.free; live.restart(); update(); });
  const resized = new ResizeObserver(draw);
  resized.observe(scroller);
  update();
  scroller.scrollTop = view.top;
  draw();
  return { update, leave: () => resized.disconnect(), focus: () => scroller.focus({ preventScroll: true }) };
}

function choice(name, options, value) {
  const select = h('select', { id: name.toLowerCase() }, ...Object.entries(options).map(([v, t]) => h('option', { value: v, selected: v === value }, t)));
  return { select, label: h('label', {}, h('span', {}, name), select) };
}

let rowNumber = 0;

const rowElement = (...cells) => h('div', { class: 'row', role: 'treeitem', id: 'row' + rowNumber++ }, ...cells);

function place(e, r) {
  e.row = r;
  e.dataset.name = r.lock?.name ?? r.group.prefix;
  e.setAttribute('aria-level', r.level);
  e.setAttribute('aria-posinset', r.place);
  e.setAttribute('aria-setsize', r.of);
  e.setAttribute('aria-selected', 'false');
  e.style.setProperty('--level', r.level);
}

const unseen = (text) => h('span', { class: 'unseen' }, text);

// A name shows its last part, and tells a screen reader all of it.
const nameElement = () => h('span', { class: 'name' }, unseen(''), h('span', {}));

function fullName(e, name, label) {
  e.title = name;
  write(e.firstChild, name.slice(0, name.length - label.length));
  write(e.lastChild, label);
}

function groupRow() {
  const label = nameElement(), counts = h('span', { class: 'counts' }), waiting = h('span', { class: 'waiting' }), frozen = h('span', { class: 'badge frozen' }, 'frozen'), sign = h('span', { 'aria-hidden': 'true' });
  const e = rowElement(h('span', {}, sign, label), counts, frozen, waiting);
  e.classList.add('group');
  e.fill = (r) => {
    place(e, r);
    e.setAttribute('aria-expanded', r.open);
    write(sign, r.open ? '▾ ' : '▸ ');
    fullName(label, r.group.prefix, r.label);
    write(counts, `${r.group.held.toLocaleString('en')} held`);
    write(waiting, r.group.waiting ? `${r.group.waiting.toLocaleString('en')} wait` : '');
    frozen.hidden = !store.rules.some((x) => x.freeze && covers(x.prefix, r.group.prefix) && Date.parse(x.freeze.until) > now());
  };
  return e;
}

function lockRow() {
  const label = nameElement(), owner = h('span', { class: 'owner' }), since = sinceText(0), bar = lifeBar(), waiting = h('span', { class: 'waiting' });
  const frozen = h('span', { class: 'badge frozen' }, 'frozen');
  const e = rowElement(h('span', { class: 'cell' }, label, frozen), h('span', {}, unseen('held by '), owner), h('span', {}, unseen('for '), since), h('span', {}, bar, unseen(' left')), waiting);
  e.fill = (r) => {
    const l = r.lock, first = l.holders[0];
    place(e, r);
    fullName(label, l.name, r.label);
    write(owner, ownerText(l));
    since.at = first?.since ?? 0;
    since.draw();
    bar.life(first ? soonest(l) : null);
    write(waiting, l.waiting ? `${l.waiting} wait` : '');
    frozen.hidden = !frozenBy(l.name);
  };
  return e;
}

const soonest = (l) => l.holders.reduce((a, b) => (b.until < a.until ? b : a));

function ownerText(l) {
  if (!l.count) return 'free';
  const more = l.count - 1, permits = l.capacity > 1 ? ` · ${l.capacity - l.free} of ${l.capacity} permits` : '';
  return who(l.holders[0].owner) + (more ? ` and ${more} more` : '') + permits;
}
