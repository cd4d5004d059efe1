// What all pages share. Explanations of words show near the word and are closed by Escape (without this script
// they show at the bottom), and tables that scroll can be reached by Tab.
"use strict";
(() => {
  const ROOM = 8;
  const place = (word) => {
    const note = word.lastElementChild;
    word.classList.remove("closed");
    Object.assign(note.style, { right: "auto", bottom: "auto", left: "0", top: "0", width: "max-content" });
    const width = Math.min(note.offsetWidth, innerWidth - 2 * ROOM);
    const at = word.getBoundingClientRect();
    const left = Math.max(ROOM, Math.min(at.left, innerWidth - width - ROOM));
    const below = at.bottom + ROOM + note.offsetHeight < innerHeight;
    note.style.width = width + "px";
    note.style.left = left + "px";
    note.style.top = (below ? at.bottom + ROOM / 2 : Math.max(ROOM, at.top - note.offsetHeight - ROOM / 2)) + "px";
  };
  for (const word of document.querySelectorAll(".term")) {
    word.addEventListener("mouseenter", () => place(word));
    word.addEventListener("focus", () => place(word));
  }
  const reach = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  reach();
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const word of document.querySelectorAll(".term")) word.classList.add("closed");
  });
})();
