// Return what overlaps, is cut or is too small to read in a page, by the boxes of its texts and figures.
() => {
  // Cells of matrices and thumbnails may touch. A word's explanation is over the page on purpose.
  const EXEMPT = [
    ".confusion td", ".tiny", "#tiles", ".pairs img", ".worst-tiles img", ".term > span",
    ".hidden", "dialog", "script", "style", "option", "select",
  ].join(", ");
  const SMALLEST = 7; // pixels of a line of text in a figure
  const faults = [];
  const visible = (node) => node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const name = (text) => JSON.stringify(text.trim().replace(/\s+/g, " ").slice(0, 50));
  const width = (box) => box.right - box.left;
  const height = (box) => box.bottom - box.top;
  const isEmpty = (box) => width(box) < 1 || height(box) < 1;
  const meets = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const beyond = (box, edge) => box.left < edge.left - 1 || box.right > edge.right + 1
    || box.top < edge.top - 1 || box.bottom > edge.bottom + 1;
  const shrunk = (box, share) => ({
    left: box.left + 1, right: box.right - 1,
    top: box.top + height(box) * share, bottom: box.bottom - height(box) * share,
  });

  // What of a box is seen, and whether the rest can be reached by scrolling.
  const seenOf = (rect, node) => {
    const box = { left: rect.left, right: rect.right, top: rect.top, bottom: rect.bottom };
    let scrolls = false;
    for (let up = node; up && up !== document.documentElement; up = up.parentElement) {
      const overflow = getComputedStyle(up).overflowX;
      if (up instanceof SVGElement || overflow === "visible") continue;
      scrolls ||= overflow === "auto" || overflow === "scroll";
      const edge = up.getBoundingClientRect();
      box.left = Math.max(box.left, edge.left);
      box.right = Math.min(box.right, edge.right);
      box.top = Math.max(box.top, edge.top);
      box.bottom = Math.min(box.bottom, edge.bottom);
    }
    return [box, scrolls];
  };

  const boxes = [];
  const check = (rect, text, parent, figure) => {
    const what = name(text);
    const [seen, scrolls] = seenOf(rect, parent);
    if (isEmpty(rect) || isEmpty(seen)) return;
    const isCut = width(seen) < width(rect) - 2 || height(seen) < height(rect) * 0.6;
    if (!scrolls && isCut) faults.push(`cut: ${what}`);
    if (!scrolls && (rect.right > innerWidth + 1 || rect.left < -1)) faults.push(`beyond the page: ${what}`);
    if (figure && beyond(rect, figure.getBoundingClientRect())) faults.push(`cut by its figure: ${what}`);
    if (figure && height(rect) < SMALLEST) faults.push(`too small: ${what}`);
    // Boxes of letters have room above and below.
    boxes.push({ ...shrunk(seen, 0.25), what, node: parent });
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode;
    const parent = text.parentElement;
    if (!text.data.trim() || parent.closest(EXEMPT) || !visible(parent)) continue;
    const figure = parent.closest("svg");
    const range = document.createRange();
    range.selectNodeContents(text);
    const rects = figure ? [parent.closest("text").getBoundingClientRect()] : range.getClientRects();
    for (const rect of rects) check(rect, text.data, parent, figure);
  }
  for (const node of document.querySelectorAll("img, svg, .strip")) {
    if (node.closest(EXEMPT) || !visible(node) || node.matches(".axis")) continue;
    const [seen] = seenOf(node.getBoundingClientRect(), node.parentElement);
    if (!isEmpty(seen)) boxes.push({ ...shrunk(seen, 0), what: `<${node.tagName} ${node.className}>`, node });
  }
  boxes.sort((a, b) => a.top - b.top);
  boxes.forEach((one, index) => {
    for (let next = index + 1; next < boxes.length && boxes[next].top < one.bottom; next++) {
      const two = boxes[next];
      const isPart = one.node !== two.node && (one.node.contains(two.node) || two.node.contains(one.node));
      if (!isPart && meets(one, two)) faults.push(`overlap: ${one.what} and ${two.what}`);
    }
  });
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`the page is ${wide} px wide`);
  return [...new Set(faults)];
}
