// The locks that the page knows, the coordinator's clock, and the rows of the list.

export const store = {
  locks: new Map(), // by name, as the server sends them
  state: { listed: 0, failure: null, truncated: 0, every: 0 },
  rules: [], // of the last reading
  where: '', prefix: '',
  ready: false, // a list has come
  down: null, // why the stream is down
};

let clock = Date.now() - performance.now();

// now is the coordinator's clock. The browser's clock may be wrong; only how fast it runs is used.
export const now = () => performance.now() + clock;

// take applies a message of the stream.
export function take(m) {
  clock = m.now - performance.now();
  if (m.reset) store.locks.clear();
  for (const l of m.locks) store.locks.set(l.name, l);
  for (const name of m.gone) store.locks.delete(name);
  store.state = { listed: m.listed, failure: m.failure, truncated: m.truncated, every: m.every };
  store.where = m.where || '';
  store.prefix = m.prefix || '';
  store.ready = store.ready || m.listed > 0;
  store.down = null;
}

export const free = (l) => l.count === 0 && l.waiting === 0;

// frozenBy returns the freeze that keeps a name back for longest, of those in force; null if none does.
export function frozenBy(name) {
  let last = null;
  for (const r of store.rules) {
    const f = r.freeze;
    if (!f || !covers(r.prefix, name) || Date.parse(f.until) <= now()) continue;
    if (!last || Date.parse(f.until) > Date.parse(last.until)) last = f;
  }
  return last;
}

export const covers = (prefix, name) => prefix === '*' || name.startsWith(prefix);

// select returns the locks to show, in order of their names.
export function select(search, withFree, waited) {
  const text = search.toLowerCase();
  const list = [];
  for (const l of store.locks.values()) {
    if ((!withFree && free(l)) || (waited && l.waiting === 0)) continue;
    if (text && !l.name.toLowerCase().includes(text) && !l.holders.some((x) => x.owner.toLowerCase().includes(text))) continue;
    list.push(l);
  }
  return list.sort((a, b) => (a.name < b.name ? -1 : 1));
}

export const orders = {
  name: null,
  since: (l) => l.holders[0]?.since ?? Infinity,
  waiting: (l) => -l.waiting,
  until: (l) => l.holders[0]?.until ?? Infinity,
};

// flat returns a row for each lock, in an order.
export function flat(list, order) {
  const by = orders[order];
  if (by) list = list.slice().sort((a, b) => by(a) - by(b));
  return list.map((l, i) => ({ key: 'l ' + l.name, lock: l, label: l.name, level: 1, place: i + 1, of: list.length }));
}

// tree returns the visible rows of the tree of names, in which ":" separates the levels. isOpen says of a group's prefix whether it is open.
export function tree(list, isOpen) {
  const root = { groups: new Map(), locks: [] };
  for (const l of list) {
    let node = root;
    for (let from = 0; ;) {
      const at = l.name.indexOf(':', from);
      if (at < 0 || at === l.name.length - 1) break;
      const part = l.name.slice(from, at + 1);
      let child = node.groups.get(part);
      if (!child) node.groups.set(part, (child = { prefix: l.name.slice(0, at + 1), groups: new Map(), locks: [], held: 0, waiting: 0, count: 0 }));
      child.count++;
      if (l.count) child.held++;
      child.waiting += l.waiting;
      node = child;
      from = at + 1;
    }
    node.locks.push(l);
  }
  const rows = [];
  walk(root, '', 1, rows, isOpen);
  return rows;
}

function walk(node, above, level, rows, isOpen) {
  const items = [...node.groups.values(), ...node.locks];
  items.sort((a, b) => ((a.prefix ?? a.name) < (b.prefix ?? b.name) ? -1 : 1));
  items.forEach((item, i) => {
    const at = { level, place: i + 1, of: items.length };
    if (item.name !== undefined) {
      rows.push({ key: 'l ' + item.name, lock: item, label: item.name.slice(above.length), ...at });
      return;
    }
    if (item.count === 1) { // a prefix of one lock is no group
      let node = item;
      while (node.locks.length === 0) [node] = node.groups.values();
      rows.push({ key: 'l ' + node.locks[0].name, lock: node.locks[0], label: node.locks[0].name.slice(above.length), ...at });
      return;
    }
    while (item.locks.length === 0 && item.groups.size === 1) [item] = item.groups.values(); // a:b: in one row, if a: has nothing else
    const open = isOpen(item.prefix);
    rows.push({ key: 'g ' + item.prefix, group: item, label: item.prefix.slice(above.length), open, ...at });
    if (open) walk(item, item.prefix, level + 1, rows, isOpen);
  });
}
