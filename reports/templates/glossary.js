// Explanations of words: shown near the word, closed by Escape. Without this script they show at the bottom.
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
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const word of document.querySelectorAll(".term")) word.classList.add("closed");
  });
})();
