"""Measure what overlaps or is cut in a page: boxes of texts and figures, found by a script."""

from __future__ import annotations

from typing import Any

__all__ = ["SCRIPT", "faults"]

# Cells of matrices and thumbnails may touch. A word's explanation is over the page on purpose.
SCRIPT = """
() => {
  const EXEMPT = ".confusion td, .tiny td, #tiles, .pairs img, .worst-tiles img, .term > span, .hidden, dialog, script, style, option, select";
  const visible = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const shrunk = (rect, x, y) => ({ left: rect.left + x, right: rect.right - x, top: rect.top + rect.height * y, bottom: rect.bottom - rect.height * y });
  const meets = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const isEmpty = (a) => a.right - a.left < 1 || a.bottom - a.top < 1;
  // What of a box is seen: elements that scroll hide the rest, which is reached by scrolling.
  const clipped = (rect, node) => {
    const box = { left: rect.left, right: rect.right, top: rect.top, bottom: rect.bottom };
    for (let up = node; up && up !== document.documentElement; up = up.parentElement) {
      const style = getComputedStyle(up);
      if (up instanceof SVGElement || style.overflowX === "visible") continue;
      const edge = up.getBoundingClientRect();
      box.left = Math.max(box.left, edge.left);
      box.right = Math.min(box.right, edge.right);
      box.top = Math.max(box.top, edge.top);
      box.bottom = Math.min(box.bottom, edge.bottom);
    }
    return box;
  };
  const faults = [];
  const name = (text) => JSON.stringify(text.trim().replace(/\\s+/g, " ").slice(0, 50));
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    const parent = text.parentElement;
    if (!text.data.trim() || parent.closest(EXEMPT) || !visible(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const figure = parent.closest("svg");
    const rects = figure ? [parent.closest("text").getBoundingClientRect()] : [...range.getClientRects()];
    for (const rect of rects) {
      if (rect.width < 1 || rect.height < 1) continue;
      const seen = clipped(rect, parent);
      if (isEmpty(seen)) continue;
      const moves = (up) => ["auto", "scroll"].includes(getComputedStyle(up).overflowX);
      let scrolls = false;
      for (let up = parent; up; up = up.parentElement) scrolls ||= !(up instanceof SVGElement) && moves(up);
      if (!scrolls && (seen.right - seen.left < rect.width - 2 || seen.bottom - seen.top < rect.height * 0.6)) faults.push(`cut: ${name(text.data)}`);
      if (figure) {
        const edge = figure.getBoundingClientRect();
        if (rect.left < edge.left - 1 || rect.right > edge.right + 1 || rect.top < edge.top - 1 || rect.bottom > edge.bottom + 1) faults.push(`cut by its figure: ${name(text.data)}`);
      }
      if (!scrolls && (rect.right > innerWidth + 1 || rect.left < -1)) faults.push(`beyond the page: ${name(text.data)}`);
      if (figure && rect.height < 7) faults.push(`too small to read (${rect.height.toFixed(1)} px): ${name(text.data)}`);
      // Boxes of letters have room above and below.
      boxes.push({ ...shrunk({ ...seen, height: seen.bottom - seen.top }, 1, 0.25), what: name(text.data), node: parent, figure });
    }
  }
  for (const node of document.querySelectorAll("img, svg, dialog[open]")) {
    if (node.closest(EXEMPT) || !visible(node)) continue;
    const seen = clipped(node.getBoundingClientRect(), node.parentElement);
    if (!isEmpty(seen)) boxes.push({ ...shrunk({ ...seen, height: 0 }, 1, 0), what: `<${node.tagName}>`, node, figure: node.tagName === "svg" ? node : null });
  }
  boxes.sort((a, b) => a.top - b.top);
  boxes.forEach((one, index) => {
    for (let other = index + 1; other < boxes.length && boxes[other].top < one.bottom; other++) {
      const two = boxes[other];
      const nested = one.node !== two.node && (one.node.contains(two.node) || two.node.contains(one.node));
      if (!nested && meets(one, two)) faults.push(`overlap: ${one.what} and ${two.what}`);
    }
  });
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  return [...new Set(faults)];
}
"""


def faults(page: Any) -> list[str]:
    """Return what overlaps, is cut or is too small to read in an open page.

    Parameters
    ----------
    page
        A page of playwright.
    """
    found: list[str] = page.evaluate(SCRIPT)
    return found
