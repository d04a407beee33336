// Keeps the page up to date: fetches it again and replaces <main>, without losing what is open, focused or scrolled.
"use strict";
(() => {
  const every = Number(document.getElementById("live").dataset.seconds) * 1000;
  const patience = 60_000; // milliseconds; reading all replays of a large table takes some seconds
  const main = document.getElementById("main");
  const state = document.getElementById("state");
  const pause = document.getElementById("pause");
  const focusable = "a, button, summary, [tabindex]";
  let updated = new Date();
  let timer = 0;

  function say(text, stale) {
    state.textContent = text;
    state.classList.toggle("stale", stale);
  }

  // The place of the focused element: the nearest ancestor with an id, and which of its elements it is.
  function findFocus() {
    const holder = document.activeElement?.closest("main [id]");
    if (!holder) return null;
    return [holder.id, [holder, ...holder.querySelectorAll(focusable)].indexOf(document.activeElement)];
  }

  function replace(fresh) {
    const open = [...main.querySelectorAll("details[open][id]")].map((each) => each.id);
    const offsets = [...main.querySelectorAll(".wide")].map((each) => each.scrollLeft);
    const focus = findFocus();
    const top = scrollY;
    main.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    main.querySelectorAll(".wide").forEach((each, number) => { each.scrollLeft = offsets[number] ?? 0; });
    if (focus) {
      const holder = document.getElementById(focus[0]);
      const elements = holder ? [holder, ...holder.querySelectorAll(focusable)] : [];
      elements[focus[1]]?.focus({ preventScroll: true });
    }
    scrollTo({ top, behavior: "instant" });
  }

  async function update() {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(patience) });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(fresh.querySelector(".verdict")?.textContent ?? `HTTP ${answer.status}`);
      replace(fresh.getElementById("main"));
      document.title = fresh.title;
      updated = new Date();
      say(`Updated at ${updated.toLocaleTimeString()}.`, false);
    } catch (error) {
      say(`Not updated since ${updated.toLocaleTimeString()}: ${error.message}`, true);
    }
  }

  // Not while text is selected, which would be lost, nor while nobody looks.
  async function tick() {
    if (!document.hidden && getSelection().isCollapsed) await update();
    schedule();
  }

  function schedule() {
    clearTimeout(timer);
    if (pause.getAttribute("aria-pressed") === "false") timer = setTimeout(tick, every);
  }

  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") === "false";
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) schedule();
    else tick();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && Date.now() - updated > every) tick();
  });
  pause.hidden = false;
  schedule();
})();
