(() => {
  'use strict';
  const everyMs = 5000;
  const button = document.getElementById('pause');
  const note = document.getElementById('note');
  let paused = false;
  const say = (text) => { if (note.textContent !== text) note.textContent = text; };
  const isSelected = (part) => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && selection.containsNode(part, true);
  };
  // Only what changed is touched: nothing flickers, and focus, scroll position and open parts stay as they are.
  const renew = (old, now) => {
    if (old.isEqualNode(now)) return;
    if (old.nodeName !== now.nodeName || old.childNodes.length !== now.childNodes.length) {
      old.replaceWith(now);
      return;
    }
    if (old.nodeType === Node.TEXT_NODE) {
      old.data = now.data;
      return;
    }
    for (const { name, value } of now.attributes) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
    const fresh = [...now.childNodes];
    [...old.childNodes].forEach((child, index) => renew(child, fresh[index]));
  };
  async function refresh() {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: 'no-store', signal: AbortSignal.timeout(everyMs) });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
      for (const part of document.querySelectorAll('[data-live]')) {
        const now = fresh.getElementById(part.id);
        // Not what someone is about to copy.
        if (now !== null && !isSelected(part)) renew(part, now);
      }
      document.title = fresh.title;
      say('');
    } catch {
      say('The service does not answer: what is shown here is from before.');
    }
  }
  button.hidden = false;
  button.addEventListener('click', () => {
    paused = !paused;
    button.textContent = paused ? 'Go on refreshing' : 'Pause refreshing';
    refresh();
  });
  document.addEventListener('visibilitychange', refresh);
  setInterval(refresh, everyMs);
})();
