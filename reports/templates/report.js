// The gallery: rows of the embedded table, filtered, ordered and shown as tiles. Names reach the page as text only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const form = document.getElementById("filters");
  const tiles = document.getElementById("tiles");
  const more = document.getElementById("more");
  const dialog = document.getElementById("one");
  const PAGE = 60;
  let rows = [];
  let shown = 0;
  let opened = -1;
  let opener = null; // the image of the first screen that was opened

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const valueOf = (attribute, label) => attribute.of_class[label];
  const isWrong = (row) => data.label[row] !== data.predicted[row];
  const differs = (attribute, row) => valueOf(attribute, data.label[row]) !== valueOf(attribute, data.predicted[row]);
  const percent = (thousandths) => (thousandths / 10).toFixed(1) + "\u00a0%";

  // The options of "Show". Where there are attributes, one can select by which of them is wrong.
  const kinds = [["wrong", isWrong], ["right", (row) => !isWrong(row)], ["all", () => true]];
  data.attributes.forEach((one) => {
    kinds.push([one.name + " wrong", (row) => differs(one, row)]);
    kinds.push(["only " + one.name + " wrong",
      (row) => data.attributes.every((other) => differs(other, row) === (other === one))]);
  });
  // What a group is depends on the data.
  const byGroup = "by " + data.group_name;
  const orders = {
    "most confident first": (a, b) => data.confidence[b] - data.confidence[a],
    "least confident first": (a, b) => data.confidence[a] - data.confidence[b],
    "least probable true class first": (a, b) => data.own[a] - data.own[b],
    [byGroup]: (a, b) => data.group[a] - data.group[b] || data.picture[a] - data.picture[b],
  };

  const fill = (select, pairs) => select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
  const occurring = (column) => [...new Set(column)].sort((a, b) => a - b);
  const classOptions = (column) => [["", "any"], ...occurring(column).map((one) => [one, data.classes[one]])];
  fill(form.kind, kinds.map(([name]) => [name, name]));
  fill(form.label, classOptions(data.label));
  fill(form.predicted, classOptions(data.predicted));
  fill(form.fold, [["", "any"], ...data.folds.map((name, index) => [index, name])]);
  fill(form.order, Object.keys(orders).map((name) => [name, name]));
  // Each attribute has one select for its true value and one for its predicted value.
  const attributeSelects = data.attributes.flatMap((one, index) => ["true", "predicted"].map((side) => {
    const select = make("select", { name: side + "-" + index });
    fill(select, [["", "any"], ...one.values.map((value, code) => [code, value])]);
    document.getElementById("attribute-filters").append(make("label", {}, side + " " + one.name + " ", select));
    return { one, column: side === "true" ? data.label : data.predicted, select };
  }));

  const chosen = (select) => (select.value === "" ? -1 : Number(select.value));
  const matches = () => {
    const kind = new Map(kinds).get(form.kind.value);
    const [label, predicted, fold] = [form.label, form.predicted, form.fold].map(chosen);
    const wanted = attributeSelects.map(({ one, column, select }) => ({ one, column, value: chosen(select) })).filter((each) => each.value >= 0);
    const text = form.group.value.trim().toLowerCase();
    // The whole name of a group selects that group only, even if it is part of other names.
    const whole = data.groups.findIndex((name) => name.toLowerCase() === text);
    const inGroups = data.groups.map((name, index) => (whole >= 0 ? index === whole : name.toLowerCase().includes(text)));
    return data.label.map((_, row) => row).filter((row) => kind(row)
      && (label < 0 || data.label[row] === label) && (predicted < 0 || data.predicted[row] === predicted)
      && (fold < 0 || data.fold[row] === fold) && inGroups[data.group[row]]
      && wanted.every(({ one, column, value }) => valueOf(one, column[row]) === value));
  };

  const linkOf = (row) => {
    const { root, below } = data.links;
    if (root === null) return null;
    const name = below === null ? data.pictures[data.picture[row]] : below[data.picture[row]];
    return name === null ? null : "file://" + (root + "/" + name).split("/").map(encodeURIComponent).join("/");
  };
  const image = (row) => {
    const thumbnail = data.thumbnails[data.picture[row]];
    const name = data.pictures[data.picture[row]];
    return thumbnail
      ? make("img", { src: "data:image/jpeg;base64," + thumbnail, alt: name })
      : make("span", { className: "none", textContent: linkOf(row) ? "no thumbnail" : "no image" });
  };
  // The image; where there are maps, beside it the image in grey below a map for each of the two classes.
  const seen = (row) => {
    const maps = data.explained?.maps[row];
    const thumbnail = data.thumbnails[data.picture[row]];
    if (!maps || !thumbnail) return [image(row)];
    const map = (png, what, label) => make("figure", {},
      make("span", {}, make("img", { src: "data:image/jpeg;base64," + thumbnail, alt: "" }),
        ...(png ? [make("img", { className: "map", src: "data:image/png;base64," + png, alt: "where the model looked for " + data.classes[label] })] : [])),
      make("figcaption", {}, make("b", { textContent: what }), " " + data.classes[label] + (png ? "" : ": nothing raised its score")));
    return [
      make("div", { className: "explained" },
        make("figure", {}, make("span", {}, image(row)), make("figcaption", {}, make("b", { textContent: "the image" }))),
        map(maps[0], "predicted", data.predicted[row]), map(maps[1], "true", data.label[row])),
      make("p", { className: "soft", textContent: data.explained.hint + " " + data.explained.method }),
    ];
  };
  const tile = (row) => {
    const button = make("button", { type: "button", className: isWrong(row) ? "wrong" : "", tabIndex: -1 }, image(row));
    const caption = isWrong(row)
      ? data.classes[data.label[row]] + " → " + data.classes[data.predicted[row]] + ", " + percent(data.confidence[row])
      : "right: " + data.classes[data.label[row]] + ", " + percent(data.confidence[row]);
    button.append(make("span", { textContent: caption }));
    button.dataset.row = row;
    return button;
  };

  const showMore = () => {
    const next = rows.slice(shown, shown + PAGE);
    tiles.append(...next.map(tile));
    shown += next.length;
    more.hidden = shown >= rows.length;
    document.getElementById("found").textContent = `${rows.length.toLocaleString("en")} of ${data.label.length.toLocaleString("en")} rows, ${shown.toLocaleString("en")} shown`;
    if (shown === next.length && tiles.firstChild) tiles.firstChild.tabIndex = 0;
  };
  const update = () => {
    rows = matches().sort(orders[form.order.value]);
    shown = 0;
    tiles.replaceChildren();
    showMore();
  };

  const focusTile = (index) => {
    while (index >= shown && shown < rows.length) showMore();
    const target = tiles.children[Math.max(0, Math.min(index, shown - 1))];
    if (!target) return;
    for (const one of tiles.querySelectorAll("[tabindex='0']")) one.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
  };
  const columns = () => getComputedStyle(tiles).gridTemplateColumns.split(" ").length;

  const onlyGroup = (row) => {
    form.reset();
    form.kind.value = "all";
    form.order.value = byGroup;
    form.group.value = data.groups[data.group[row]];
    opened = 0;
    opener = null;
    dialog.close();
    update();
    focusTile(0);
  };
  const open = (index) => {
    if (index < 0 || index >= rows.length) return;
    while (index >= shown) showMore();
    opened = index;
    const row = rows[index];
    const name = data.pictures[data.picture[row]];
    const facts = [
      ["image", name], [data.group_name, data.groups[data.group[row]]], ["fold", data.folds[data.fold[row]]],
      ["true", `${data.classes[data.label[row]]}, ${percent(data.own[row])}`],
      ["predicted", `${data.classes[data.predicted[row]]}, ${percent(data.confidence[row])}`],
      ...data.attributes.filter((one) => differs(one, row)).map((one) => [one.name,
        `${one.values[valueOf(one, data.label[row])]} taken for ${one.values[valueOf(one, data.predicted[row])]}`]),
    ];
    const table = make("table", {}, ...facts.map(([key, value]) => make("tr", {}, make("td", { textContent: key }), make("td", { textContent: value }))));
    const buttons = make("p", {}, make("button", { type: "button", textContent: "All of this " + data.group_name, onclick: () => onlyGroup(row) }), " ",
      make("button", { type: "button", textContent: "Close", onclick: () => dialog.close() }), " ");
    const link = linkOf(row);
    if (link) buttons.append(make("a", { href: link, textContent: "open the file", target: "_blank", rel: "noopener" }));
    dialog.replaceChildren(...seen(row), table, buttons);
    if (!dialog.open) dialog.showModal();
    // The element that had the focus was replaced, so arrow keys would reach nothing.
    dialog.focus();
    dialog.scrollTop = 0;
  };

  tiles.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open([...tiles.children].indexOf(button));
  });
  tiles.addEventListener("keydown", (event) => {
    const here = [...tiles.children].indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns(), Home: -here, End: rows.length - 1 - here }[event.key];
    if (here < 0 || step === undefined) return;
    event.preventDefault();
    focusTile(here + step);
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) open(opened + step);
  });
  dialog.addEventListener("close", () => {
    if (opener) opener.focus();
    else focusTile(opened);
    opener = null;
  });
  // An image of the first screen opens as in the gallery, and closing it leads back.
  for (const button of document.querySelectorAll(".worst-tiles button")) {
    button.addEventListener("click", () => {
      form.reset();
      update();
      opener = button;
      open(rows.indexOf(Number(button.dataset.row)));
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || dialog.open || event.target.matches("input, select")) return;
    event.preventDefault();
    form.group.focus();
  });

  document.getElementById("confusion-tables").addEventListener("click", (event) => {
    const cell = event.target.closest("button[data-true]");
    if (!cell) return;
    const { which, predicted } = cell.dataset;
    form.reset();
    form.kind.value = "all";
    (which === "-1" ? form.label : form["true-" + which]).value = cell.dataset.true;
    (which === "-1" ? form.predicted : form["predicted-" + which]).value = predicted;
    update();
    document.getElementById("gallery").scrollIntoView();
    focusTile(0);
  });
  // A matrix is one stop for Tab; arrows move within it.
  for (const matrix of document.querySelectorAll(".confusion")) {
    const cells = [...matrix.querySelectorAll("button")];
    cells.slice(1).forEach((one) => { one.tabIndex = -1; });
    const place = (one) => [one.closest("tr").rowIndex, one.parentNode.cellIndex];
    matrix.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [0, 0];
      if (!down && !right) return;
      event.preventDefault();
      const [row, column] = place(document.activeElement);
      const ahead = cells.filter((one) => {
        const [r, c] = place(one);
        return down ? c === column && (r - row) * down > 0 : r === row && (c - column) * right > 0;
      });
      const next = down + right > 0 ? ahead[0] : ahead.at(-1);
      if (!next) return;
      for (const one of cells) one.tabIndex = one === next ? 0 : -1;
      next.focus();
    });
  }
  document.getElementById("as-shares").addEventListener("change", (event) => {
    document.getElementById("confusion-tables").classList.toggle("shares", event.target.checked);
  });

  more.addEventListener("click", () => { const first = shown; showMore(); focusTile(first); });
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("clear").addEventListener("click", () => { form.reset(); update(); });
  form.hidden = false;
  document.getElementById("keys").hidden = false;
  update();
})();
