// Keeps the page's live part as it is now, and has its buttons work without leaving the page.
"use strict";

(() => {
  const connection = document.getElementById("connection");
  const message = document.getElementById("message");
  const form = document.getElementById("actions");
  const waiting = new Map();
  let events = null;
  let isPressed = false;

  function say(isLive) {
    connection.textContent = isLive
      ? "Live."
      : "Not live: the connection is lost. It is tried again.";
    connection.className = isLive ? "" : "bad";
  }

  // Whoever selects text or presses a button is not to lose it.
  function isBusy(element) {
    const selection = document.getSelection();
    const isSelected = selection && !selection.isCollapsed && element.contains(selection.anchorNode);
    return isPressed || isSelected;
  }

  function replace(element, html) {
    const focused = document.activeElement;
    const isInside = element.contains(focused);
    const value = isInside ? focused.value : null;
    const id = isInside ? focused.id : "";
    element.innerHTML = html;
    if (!isInside) {
      return;
    }
    const same = [...element.querySelectorAll("button")].find((one) => value && one.value === value);
    const next = same || (id && document.getElementById(id)) || document.getElementById("now");
    next.focus({ preventScroll: true });
  }

  function flush() {
    for (const [id, html] of waiting) {
      const element = document.getElementById(id);
      if (!isBusy(element)) {
        waiting.delete(id);
        replace(element, html);
      }
    }
  }

  function open() {
    events = new EventSource("/page/events");
    events.addEventListener("open", () => say(true));
    for (const id of ["status", "live"]) {
      events.addEventListener(id, (event) => {
        waiting.set(id, event.data);
        flush();
      });
    }
    const own = events;
    events.addEventListener("error", () => {
      say(false);
      // After an answer other than 200 browsers do not try again.
      if (own.readyState === EventSource.CLOSED && own === events) {
        events = null;
        setTimeout(look, 5000);
      }
    });
  }

  // A tab that nobody sees takes no connection.
  function look() {
    if (document.hidden && events) {
      events.close();
      events = null;
    } else if (!document.hidden && !events) {
      open();
    }
  }

  function show(nodes) {
    message.replaceChildren(...nodes);
  }

  function fail(text) {
    const line = document.createElement("p");
    line.className = "message bad";
    line.setAttribute("role", "alert");
    line.textContent = text;
    show([line]);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form, event.submitter));
    fetch("/actions", { method: "POST", body })
      .then((answer) => answer.text())
      .then((text) => {
        const page = new DOMParser().parseFromString(text, "text/html");
        show(page.getElementById("message").childNodes);
      })
      .catch(() => fail("The proxy did not answer: reload the page to see whether it was done."));
  });

  document.addEventListener("pointerdown", () => { isPressed = true; });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => {
      isPressed = false;
      // The click comes after this.
      setTimeout(flush, 0);
    });
  }
  document.addEventListener("selectionchange", flush);
  document.addEventListener("visibilitychange", look);
  connection.textContent = "";
  look();
})();
