// The leaderboard: tables that sort and filter, and two runs side by side. Names reach the page as text only.
"use strict";
(() => {
  // A phone shows two cards in a row, a wide screen seven.
  const FIRST_CARDS = innerWidth < 600 ? 6 : 14;
  const MORE_CARDS = 56;
  const boards = JSON.parse(document.getElementById("leaderboard-data").textContent);

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const grid = (className, header, rows) => {
    const line = (cells, tag) => make("tr", {}, ...cells.map((cell) => make(cell === "" ? "td" : tag, { textContent: cell })));
    const table = make("table", { className }, make("thead", {}, line(header, "th")), make("tbody", {}, ...rows.map((row) => line(row, "td"))));
    return make("div", { className: "scroll", tabIndex: 0 }, table);
  };
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

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
      const button = make("button", { type: "button", className: "sorter", title: "Sort" });
      button.setAttribute("aria-label", `Sort by ${header.dataset.title}`);
      button.addEventListener("click", () => sorted(table, header, column));
      // The axis of a strip stays below the title.
      if (header.classList.contains("axis")) header.firstElementChild.after(button);
      else header.append(button);
    });
  }
  for (const form of document.querySelectorAll("form.finder")) {
    const table = form.parentElement.querySelector("table.board");
    const rows = [...table.tBodies[0].rows];
    const update = () => {
      const words = form.words.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.cells[0].textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      const shown = rows.filter((row) => !row.hidden).length;
      form.count.textContent = words.length ? `${shown} of ${count(rows.length, "run")}` : count(rows.length, "run");
      table.classList.toggle("few", !form.all.checked);
    };
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    update();
  }

  const number = (value) => (value === null ? "-" : value.toFixed(4));
  const signed = (value) => (value === null || value < 0 ? "" : "+") + number(value);
  const interval = ([value, low, high], write) => `${write(value)} [${write(low)}, ${write(high)}]`;
  const strip = ([value, low, high], scale, label, { line = null, side = "" } = {}) => {
    const place = (one) => 100 * Math.min(Math.max((one - scale.low) / (scale.high - scale.low), 0), 1);
    const part = (className, left, right = left) => {
      const node = make("i", { className });
      node.style.left = `${left}%`;
      if (right > left) node.style.width = `${right - left}%`;
      return node;
    };
    const parts = scale.ticks.map((tick) => part("tick", place(tick)));
    if (line !== null) parts.push(part("line", place(line)));
    if (low !== null && high !== null) parts.push(part("band", place(low), place(high)));
    if (value !== null) parts.push(part("dot", place(value)));
    const node = make("span", { className: `strip ${side}` }, make("span", {}, ...parts));
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", label);
    return node;
  };
  // As in reports/strips.py: more named ticks do not fit below a narrow strip; 0 is one of them.
  const MOST_TICKS = 3;
  const axis = (scale, isSigned) => {
    const step = Math.max(Math.ceil(scale.ticks.length / MOST_TICKS), 1);
    const start = Math.max(scale.ticks.indexOf(0), 0) % step;
    const ticks = scale.ticks.filter((_, index) => index % step === start).map((tick) => {
      const node = make("b", { textContent: (isSigned && tick > 0 ? "+" : "") + Number(tick.toPrecision(6)) });
      node.style.left = `${(100 * (tick - scale.low)) / (scale.high - scale.low)}%`;
      return node;
    });
    const node = make("span", { className: "strip axis" }, make("span", {}, ...ticks));
    node.setAttribute("aria-hidden", "true");
    return node;
  };
  const ladder = (rows, scale, options) => {
    const rung = (...cells) => make("span", { className: "rung" }, ...cells);
    const rungs = rows.map(([name, values, side]) => {
      const text = interval(values, options.write);
      return rung(
        make("span", { className: "name", textContent: name }),
        strip(values, scale, `${name}: ${text}`, { line: options.line, side }),
        make("span", { className: "value", textContent: text }),
      );
    });
    return make("div", { className: "ladder" }, ...rungs, rung(make("span"), axis(scale, options.line !== null), make("span")));
  };

  // Clear differences are in colour, except those of runs whose score is too high.
  const sideOf = (board, [, low, high], runs) => {
    if (runs.some((run) => run.is_marked) || low === null || high === null || (low <= 0 && high >= 0)) return "";
    return (low > 0) === board.greater_is_better ? "better" : "worse";
  };
  const differenceOf = (board, first, second) => {
    if (board.differences) {
      const [low, high] = [Math.min(first, second), Math.max(first, second)];
      const [value, from, to] = board.differences[low][high - low - 1];
      const minus = (one) => (one === null ? null : -one);
      const values = first === low ? [value, from, to] : [minus(value), minus(to), minus(from)];
      return [["first minus second", values, sideOf(board, values, [board.runs[first], board.runs[second]])]];
    }
    return [first, second].map((index) => board.runs[index]).filter((run) => run.difference)
      .map((run) => [`${run.name} minus the best`, run.difference, sideOf(board, run.difference, [run])]);
  };
  const scoresOf = (board, first, second) => {
    const rows = [first, second].map((index) => [board.runs[index].name, board.runs[index].headline, ""]);
    const lower = board.greater_is_better ? [] : ["lower is better"];
    const notes = [...lower, ...(board.scales.score.is_cut ? ["scale does not start at 0"] : [])];
    const about = (words, several) => make("p", { className: "soft", textContent: words + (several.length ? ` (${several.join("; ")})` : "") });
    const differences = differenceOf(board, first, second);
    return [
      about("Scores", notes),
      ladder(rows, board.scales.score, { write: number, line: null }),
      about("Paired difference; clear if its interval does not contain 0", lower),
      ladder(differences, board.scales.difference, { write: signed, line: 0 }),
    ];
  };
  const folded = (title, ...nodes) => make("details", {}, make("summary", { textContent: title }), ...nodes);
  const settingsOf = (board, first, second) => {
    const [one, other] = [first, second].map((index) => board.runs[index]);
    if (one.kind !== other.kind) {
      const about = [["how it was made", one.about || "(not recorded)", other.about || "(not recorded)"]];
      return [grid("settings", ["", one.name, other.name], about)];
    }
    const text = (run, key) => run.settings[key] ?? "(not recorded)";
    const keys = Object.keys({ ...one.settings, ...other.settings });
    const rows = keys.filter((key) => text(one, key) !== text(other, key)).map((key) => [key, text(one, key), text(other, key)]);
    const equal = [
      ...keys.filter((key) => text(one, key) === text(other, key)).map((key) => [key, text(one, key)]),
      ...Object.entries(board.equal_settings[one.kind] ?? {}),
    ];
    const nodes = [rows.length
      ? grid("settings", ["setting", one.name, other.name], rows)
      : make("p", { textContent: "No recorded setting differs." })];
    if (equal.length) nodes.push(folded(count(equal.length, "equal setting"), grid("settings", ["setting", "both"], equal)));
    return nodes;
  };

  // Classes are written in few letters; the data say which letters are digits, and how many each class has.
  const classesOf = (pictures, text) => {
    const width = pictures.num_digits;
    const found = [];
    for (let start = 0; start < text.length; start += width) {
      let value = 0;
      for (const letter of text.slice(start, start + width)) value = value * pictures.digits.length + pictures.digits.indexOf(letter);
      found.push(value);
    }
    return found;
  };
  const card = (pictures, row, names, label, predicted) => {
    const lines = predicted.map((one, place) => make("span", { className: one[row] === label[row] ? "right" : "wrong",
      textContent: `${names[place]}: ${pictures.classes[one[row]]}` }));
    const source = pictures.thumbnails[row];
    const image = source
      ? [make("img", { src: `data:image/jpeg;base64,${source}`, alt: pictures.image_ids[row], title: pictures.image_ids[row] })]
      : [];
    return make("div", { className: "card" }, ...image, make("span", { className: "name", textContent: pictures.image_ids[row] }),
      make("span", { textContent: `true: ${pictures.classes[label[row]]}` }), ...lines);
  };
  const cards = (rows, draw) => {
    const place = make("div", { className: "cards" });
    const button = make("button", { type: "button" });
    const add = (number) => {
      const next = place.childElementCount;
      place.append(...rows.slice(next, next + number).map(draw));
      const left = rows.length - place.childElementCount;
      button.textContent = `${Math.min(left, MORE_CARDS).toLocaleString("en")} more`;
      button.hidden = !left;
    };
    button.addEventListener("click", () => add(MORE_CARDS));
    add(FIRST_CARDS);
    return [place, button];
  };
  const changedImages = (pictures, first, second, wanted) => {
    const label = classesOf(pictures, pictures.true);
    const both = [first, second].map((index) => classesOf(pictures, pictures.predicted[index]));
    const [one, other] = both;
    const kinds = [[], [], []];
    label.forEach((true_, row) => {
      if (one[row] === other[row]) return;
      if (one[row] === true_) kinds[0].push(row);
      else if (other[row] === true_) kinds[1].push(row);
      else kinds[2].push(row);
    });
    const total = kinds.map((rows) => rows.length.toLocaleString("en"));
    const nodes = [make("p", { textContent: `Of ${count(pictures.num_images, "image")}, ${total[0]} are right only in the first run and ${total[1]} only in the second; ${total[2]} are wrong in both, as different classes.` })];
    const byClass = new Map();
    kinds.forEach((rows, kind) => {
      for (const row of rows) {
        if (!byClass.has(label[row])) byClass.set(label[row], [0, 0, 0]);
        byClass.get(label[row])[kind] += 1;
      }
    });
    if (!byClass.size) return nodes;
    const lines = [...byClass].sort((a, b) => a[0] - b[0]).map(([index, counts]) => [pictures.classes[index], ...counts]);
    nodes.push(folded("Changes by true class", grid("changed", ["true class", "right only in first", "right only in second", "wrong in both"], lines)));
    const titles = ["Right only in the first run", "Right only in the second run", "Wrong in both, as different classes"];
    kinds.forEach((rows, kind) => {
      const shown = rows.filter((row) => wanted < 0 || label[row] === wanted);
      if (!shown.length) return;
      // Images that can be seen come first.
      shown.sort((a, b) => (b in pictures.thumbnails) - (a in pictures.thumbnails) || a - b);
      const draw = (row) => card(pictures, row, ["first", "second"], label, both);
      nodes.push(make("h4", { textContent: `${titles[kind]} (${shown.length.toLocaleString("en")})` }), ...cards(shown, draw));
    });
    if (pictures.note) nodes.push(make("p", { className: "soft", textContent: pictures.note }));
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
      const present = [...new Set(classesOf(board.pictures, board.pictures.true))].sort((a, b) => a - b);
      fill(form.label, [[-1, "any"], ...present.map((label) => [label, board.pictures.classes[label]])]);
    }
    const update = () => {
      const [first, second] = [Number(form.first.value), Number(form.second.value)];
      const nodes = first === second
        ? [make("p", { textContent: "This is the same run twice." })]
        : [...scoresOf(board, first, second), ...settingsOf(board, first, second)];
      if (board.pictures && first !== second) nodes.push(...changedImages(board.pictures, first, second, Number(form.label.value)));
      place.querySelector(".result").replaceChildren(...nodes);
    };
    form.addEventListener("input", update);
    form.addEventListener("submit", (event) => event.preventDefault());
    place.hidden = false;
    update();
  });
})();
