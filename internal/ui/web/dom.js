// Helpers for elements, texts and times. Texts of holders go into text nodes and attributes only, never into markup.

// h makes an element: h('p', {class: 'x', onclick: f}, 'text', child, null).
export function h(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  set(e, attributes);
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

// s makes an SVG element.
export function s(tag, attributes = {}, ...children) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
  set(e, attributes);
  e.append(...children);
  return e;
}

function set(e, attributes) {
  for (const [k, v] of Object.entries(attributes)) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? '' : String(v));
  }
}

// write sets an element's text, without a change of the document if it is the same.
export function write(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

// printable shows control characters and those that change the direction of text as their code.
export function printable(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0'));
}

export function who(owner) {
  return owner ? printable(owner) : '(unnamed holder)';
}

// span formats a number of milliseconds: 850 ms, 12 s, 3 min 5 s, 2 h 10 min, 3 d 4 h.
export function span(ms) {
  if (ms < 0) ms = 0;
  if (ms > 0 && ms < 1000) return Math.round(ms) + ' ms';
  const s = Math.floor(ms / 1000);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min' + (s % 60 ? ` ${s % 60} s` : '');
  if (s < 86400) return Math.floor(s / 3600) + ' h' + (s % 3600 >= 60 ? ` ${Math.floor((s % 3600) / 60)} min` : '');
  return Math.floor(s / 86400) + ' d' + (s % 86400 >= 3600 ? ` ${Math.floor((s % 86400) / 3600)} h` : '');
}

const two = (n) => String(n).padStart(2, '0');

// stamp formats a time in the browser's zone: 2026-11-26 02:14:05.
export function stamp(ms) {
  const t = new Date(ms);
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
}

export function clockTime(ms) {
  const t = new Date(ms);
  return `${two(t.getHours())}:${two(t.getMinutes())}`;
}

// zone names the time zone of all times: the browser's.
export function zone() {
  const east = -new Date().getTimezoneOffset(), size = Math.abs(east);
  return east === 0 ? 'UTC' : `UTC${east < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

export const ms = (text) => (text ? Date.parse(text) : 0);

let saying;
// say lets a screen reader read a text, once nothing else was said for a moment.
export function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => write(document.getElementById('said'), text), 700);
}

export function plural(n, one, many) {
  return `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
}
