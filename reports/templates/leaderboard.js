// The leaderboard: tables that sort, and two runs side by side. Names reach the page as text only.
"use strict";
(() => {
  const MOST = 200;
  const boards = JSON.parse(document.getElementById("leaderboard-data").textContent);

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const grid = (className, header, rows) => {
    const line = (cells, tag) => make("tr", {}, ...cells.map((cell) => make(tag, { textContent: cell })));
    const table = make("table", { className }, make("thead", {}, line(header, "th")), make("tbody", {}, ...rows.map((row) => line(row, "td"))));
    return make("div", { className: "scroll" }, table);
  };
  const sorted = (table, header, column) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    const valueOf = (row) => row.cells[column].dataset.value;
    const order = header.dataset.sort === "number"
      ? (a, b) => Number(valueOf(a)) - Number(valueOf(b))
      : (a, b) => valueOf(a).localeCompare(valueOf(b), "en", { numeric: true });
    const rows = [...table.tBodies[0].rows];
    const known = rows.filter((row) => valueOf(row) !== "").sort((a, b) => (down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...known, ...rows.filter((row) => valueOf(row) === ""));
    for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  for (const table of document.querySelectorAll("table.board")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = make("button", { type: "button", textContent: header.textContent });
      button.addEventListener("click", () => sorted(table, header, column));
      header.replaceChildren(button);
    });
  }

  const signed = (value) => (value === null ? "-" : (value < 0 ? "" : "+") + value.toFixed(4));
  const interval = (one) => `${signed(one.value)} [${signed(one.low)}, ${signed(one.high)}]`;
  const negated = (one) => {
    const minus = (value) => (value === null ? null : -value);
    return { value: minus(one.value), low: minus(one.high), high: minus(one.low) };
  };
  const differenceLines = (board, first, second) => {
    if (first === second) return ["This is the same run twice."];
    if (board.differences) {
      const [low, high] = [Math.min(first, second), Math.max(first, second)];
      const one = board.differences[low][high - low - 1];
      return [`First minus second: ${interval(first === low ? one : negated(one))} (paired).`];
    }
    return [first, second].map((index) => board.runs[index]).map((run) => (
      run.difference ? `${run.name} minus the best (${board.best}): ${interval(run.difference)} (paired).` : `${run.name} is the best.`));
  };
  const settingsOf = (board, first, second) => {
    const [one, other] = [first, second].map((index) => board.runs[index]);
    if (one.kind !== other.kind) return grid("settings", ["", "how it was made"], [["first", one.about], ["second", other.about]]);
    const text = (run, key) => run.settings[key] ?? "(not recorded)";
    const keys = Object.keys({ ...one.settings, ...other.settings }).filter((key) => text(one, key) !== text(other, key));
    if (!keys.length) return make("p", { textContent: "No recorded setting differs." });
    return grid("settings", ["setting", "first", "second"], keys.map((key) => [key, text(one, key), text(other, key)]));
  };
  const changedImages = ({ classes, image_ids: ids, true: label, predicted }, first, second, wanted) => {
    const [one, other] = [predicted[first], predicted[second]];
    const changed = label.map((_, row) => row).filter((row) => (one[row] === label[row]) !== (other[row] === label[row]));
    const byClass = new Map();
    for (const row of changed) {
      const counts = byClass.get(label[row]) ?? [0, 0];
      counts[one[row] === label[row] ? 0 : 1] += 1;
      byClass.set(label[row], counts);
    }
    const total = [0, 1].map((side) => [...byClass.values()].reduce((sum, counts) => sum + counts[side], 0));
    const rows = [...byClass].sort((a, b) => a[0] - b[0]).map(([index, counts]) => [classes[index], ...counts]);
    const shown = changed.filter((row) => wanted < 0 || label[row] === wanted);
    const list = shown.slice(0, MOST).map((row) => [ids[row], classes[label[row]], classes[one[row]], classes[other[row]]]);
    const count = (number) => number.toLocaleString("en");
    const nodes = [make("p", { textContent: `Of ${count(ids.length)} images, ${count(total[0])} are right only in the first run and ${count(total[1])} only in the second.` })];
    if (!changed.length) return nodes;
    nodes.push(grid("changed", ["true class", "right in first only", "right in second only"], rows));
    const which = shown.length > MOST ? `the first ${MOST} of ${count(shown.length)}` : `all ${count(shown.length)}`;
    nodes.push(make("h4", { textContent: `Images that changed (${which})` }));
    nodes.push(grid("changed pictures", ["image", "true", "first predicts", "second predicts"], list));
    return nodes;
  };

  boards.forEach((board, index) => {
    const place = document.querySelector(`#board-${index} .pair-of-runs`);
    if (!place) return;
    const form = place.querySelector("form");
    const fill = (select, pairs) => select.replaceChildren(...pairs.map(([value, textContent]) => make("option", { value, textContent })));
    for (const select of [form.first, form.second]) fill(select, board.runs.map((run, number) => [number, run.name]));
    form.second.value = "1";
    form.querySelector(".of-pictures").hidden = !board.pictures;
    if (board.pictures) {
      const present = [...new Set(board.pictures.true)].sort((a, b) => a - b);
      fill(form.label, [[-1, "any"], ...present.map((label) => [label, board.pictures.classes[label]])]);
    }
    const update = () => {
      const [first, second] = [Number(form.first.value), Number(form.second.value)];
      const lines = differenceLines(board, first, second).map((textContent) => make("p", { textContent }));
      const images = board.pictures && first !== second ? changedImages(board.pictures, first, second, Number(form.label.value)) : [];
      const names = make("p", { textContent: `First: ${board.runs[first].name}. Second: ${board.runs[second].name}.` });
      place.querySelector(".result").replaceChildren(names, ...lines, settingsOf(board, first, second), ...images);
    };
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    place.hidden = false;
    update();
  });
})();
