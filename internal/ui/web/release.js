// The dialog that force-releases a lease.

import { h, who, write, stamp, ms, printable, plural } from './dom.js';
import { post } from './server.js';

const maxReason = 512; // bytes

// explained says what a failure means for who force-releases.
function explained(e) {
  if (e.code === 'lock_changed') return 'Nothing was changed: the lease that you saw has ended in the meantime, and another may hold the lock now. The page behind this shows who; decide anew.';
  if (e.code === 'unavailable' || e.code === 'no_server') return `It is not known whether the lease has ended: ${e.detail}. Look at the holders; the same request may be sent again, since it ends this lease only.`;
  return `Nothing was changed: ${e.detail ?? e.message}`;
}

// next says who is granted the lock next.
function next(status) {
  const [first] = status.queue ?? [], rest = status.waiting - 1;
  if (status.freeze || !status.waiting) return status.freeze ? 'Nobody is granted the lock before its freeze ends.' : 'Nobody waits for the lock.';
  return `Next in the queue: ${first ? who(first.owner) : plural(status.waiting, 'waiter', 'waiters')}${first && rest > 0 ? `, then ${plural(rest, 'other', 'others')}` : ''}.`;
}

// after says who holds the lock now.
function after(status) {
  if (!status) return '';
  const list = status.holders.map((x) => `${who(x.owner)} with fence ${x.fence}`).join(', ');
  return list ? ` The lock is now held by ${list}.` : ` The lock is now free; ${status.waiting ? plural(status.waiting, 'waiter waits', 'waiters wait') : 'nobody waits'}.`;
}

// forceRelease asks for a reason and ends the lease of a holder, as the page shows it in the status. read reads the status anew, after each attempt.
export function forceRelease(name, holder, status, read) {
  const reason = h('textarea', { id: 'reason', required: true, rows: '3', maxlength: maxReason, 'aria-describedby': 'reason-note' });
  const note = h('p', { id: 'reason-note', class: 'quiet' }, 'It is kept in the history, and published in the event of the release, with the principal of the credentials with which holdfast ui runs.');
  const outcome = h('p', { class: 'outcome', role: 'status', tabindex: '-1' });
  const send = h('button', { type: 'submit', class: 'danger' }, 'End this lease');
  const cancel = h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel');
  const form = h('form', { method: 'dialog' },
    h('h2', { id: 'release-title' }, `Force-release ${name}`),
    h('p', {}, 'This ends the lease of ', h('strong', {}, who(holder.owner)), `, held since ${stamp(ms(holder.acquired_at))}, fence `, h('code', {}, String(holder.fence)), '.'),
    holder.principal ? h('p', {}, `Principal: ${printable(holder.principal)}`) : null,
    h('p', { class: 'only' }, `Only this lease is ended. If it is over by then, nothing is changed, whoever holds the lock, and the page says so. ${next(status)}`),
    h('p', { class: 'notice' }, 'If the holder is alive, it works on until its next renewal, beside the next holder. Make sure that it has ended, or that the resource compares fencing tokens.'),
    h('label', { for: 'reason' }, 'Reason'), reason, note, outcome, h('p', { class: 'buttons' }, cancel, send));
  const dialog = h('dialog', { 'aria-labelledby': 'release-title' }, form);
  form.noValidate = true;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const text = reason.value.trim();
    const size = new TextEncoder().encode(text).length;
    if (!text || size > maxReason) {
      write(outcome, text ? `The reason has ${size} bytes; at most ${maxReason} are allowed.` : 'Give a reason, for those who read of it later.');
      outcome.classList.add('bad');
      reason.setAttribute('aria-invalid', 'true');
      reason.focus();
      return;
    }
    reason.removeAttribute('aria-invalid');
    send.disabled = true;
    write(outcome, 'Sending…');
    outcome.classList.remove('bad');
    try {
      const { released } = await post('force-release', { name, reason: text, fence: holder.fence });
      write(outcome, released.length ? `The lease of ${who(released[0].owner)} with fence ${released[0].fence} has ended.` : 'The lease had been force-released before; nothing was changed now.');
      const ended = outcome.textContent;
      form.classList.add('done');
      write(cancel, 'Close');
      send.hidden = reason.disabled = true;
      cancel.focus();
      write(outcome, ended + after(await read()));
    } catch (e) {
      write(outcome, explained(e));
      outcome.classList.add('bad');
      if (e.code === 'lock_changed') { send.hidden = true; write(cancel, 'Close'); cancel.focus(); } else send.disabled = false;
      read();
    }
  });
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  reason.focus();
}
