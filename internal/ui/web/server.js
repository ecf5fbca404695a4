// What the page asks of its server: the token, requests, and the live stream.

const key = 'holdfast-token';

// takeToken moves the token from the link's fragment into this origin's storage, so that reloads and other tabs have it and the address bar does not.
export function takeToken() {
  const m = /[#&]token=([A-Za-z0-9]+)/.exec(location.hash);
  if (m) {
    localStorage.setItem(key, m[1]);
    history.replaceState(null, '', location.pathname + '#/');
  }
}

const headers = () => ({ 'X-Holdfast-Token': localStorage.getItem(key) || '' });

// A Failed is an answer that is no success: status, code, and detail, which says what to do.
export class Failed extends Error {
  constructor(f) {
    super(f.detail);
    Object.assign(this, f);
  }
}

async function answer(response) {
  let body;
  try {
    body = await response.json();
  } catch {
    body = { status: response.status, code: 'unavailable', detail: `the page's server answered ${response.status}` };
  }
  if (!response.ok) throw new Failed(body);
  return body;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new Failed({ status: 0, code: 'no_server', detail: 'the process that serves this page does not answer; start it again, and open the link that it prints' });
  }
}

export async function get(path, query = {}, signal) {
  const q = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== undefined && v !== ''));
  return answer(await reach(`api/${path}?${q}`, { headers: headers(), signal }));
}

export async function post(path, body) {
  return answer(await reach(`api/${path}`, { method: 'POST', headers: { ...headers(), 'Content-Type': 'application/json' }, body: JSON.stringify(body) }));
}

const silence = 25_000; // ms without a message, of which there is one each 10 s

// A Live keeps the stream open: it calls onMessage for each message, and onDown when the stream ends. It connects anew by itself, also after the
// tab has slept.
export class Live {
  constructor(onMessage, onDown) {
    Object.assign(this, { onMessage, onDown, all: false, tries: 0, heard: 0 });
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden && performance.now() - this.heard > silence) this.restart();
    });
    setInterval(() => {
      if (this.heard && performance.now() - this.heard > silence) this.restart();
    }, 5000);
    addEventListener('online', () => this.restart());
  }

  restart() {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.heard = performance.now();
    this.run();
  }

  async run() {
    const abort = (this.abort = new AbortController());
    try {
      const response = await reach('api/live' + (this.all ? '?all=true' : ''), { headers: headers(), signal: abort.signal });
      if (!response.ok) await answer(response);
      await this.read(response.body.getReader(), abort.signal);
      throw new Failed({ status: 0, code: 'no_server', detail: 'the connection to the process that serves this page has ended; the page tries again' });
    } catch (e) {
      if (abort.signal.aborted) return;
      this.onDown(e);
      this.timer = setTimeout(() => this.restart(), Math.min(1000 * 2 ** this.tries++, 10_000));
    }
  }

  async read(reader, signal) {
    const decoder = new TextDecoder();
    let parts = [];
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      const text = decoder.decode(value, { stream: true });
      const ends = text.split('\n\n');
      for (let i = 0; i < ends.length; i++) {
        parts.push(ends[i]);
        if (i === ends.length - 1) break;
        const line = parts.join('');
        parts = [];
        this.heard = performance.now();
        this.tries = 0;
        if (line.startsWith('data: ')) this.onMessage(JSON.parse(line.slice(6)));
      }
      if (parts.length === 1 && parts[0] === '') parts = [];
    }
  }
}
