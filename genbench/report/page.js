"use strict";
const RAW = document.getElementById("data").textContent;
/* Control characters, and marks that reorder or hide text, are shown as escapes, like in the tables. */
const UNPRINTABLE = /[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu, SHORT_ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const escapeCode = (c, n = c.codePointAt(0)) => n < 256 ? "\\x" + n.toString(16).padStart(2, "0") : n < 65536 ? "\\u" + n.toString(16).padStart(4, "0") : "\\U" + n.toString(16).padStart(8, "0");
const escapeControl = text => text.replace(UNPRINTABLE, c => SHORT_ESCAPES[c] || escapeCode(c));
const DATA = JSON.parse(RAW, /\\[bfnrt]|\\u00[01]/.test(RAW) || RAW.search(UNPRINTABLE) >= 0 ? (key, value) => typeof value === "string" ? escapeControl(value) : value : undefined);
const all = (query, from = document) => [...from.querySelectorAll(query)];
const form = document.querySelector(".filters"), dialog = document.querySelector("dialog"), tip = document.getElementById("tip");

/* Children are elements or text, so text from records never becomes markup. */
function element(name, attributes = {}, ...children) {
  const space = SVG.has(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const node = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const SVG = new Set(["svg", "g", "line", "path", "text", "circle", "rect", "clipPath", "defs"]);

/* ---- state: filters and sorting are stored in the URL, so that a view can be shared as a link ---- */
const state = new URLSearchParams(location.hash.slice(1));

function restoreState() {
  const models = new Set(DATA.boards.flatMap(board => board.rows.map(row => row.model).filter(Boolean)));
  form.model.append(...[...models].sort().map(model => element("option", { value: model }, model)));
  for (const name of ["suite", "data", "model", "q"]) form[name].value = state.get(name) || "";
  for (const [key, value] of state) if (key.startsWith("sort.")) {
    const [column, direction] = value.split(",");
    const board = document.getElementById(key.slice(5));
    const button = board && all("thead button", board).find(b => b.dataset.sort === column);
    if (button) sortRows(board, button, direction);
  }
}

function saveState() {
  for (const name of ["suite", "data", "model", "q"]) form[name].value ? state.set(name, form[name].value) : state.delete(name);
  history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
}

function applyFilters() {
  const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const board of all(".board")) {
    const boardMatches = (!form.suite.value || board.dataset.suite === form.suite.value) && (!form.data.value || board.dataset.data === form.data.value);
    const visible = new Set();
    for (const row of all("tbody tr", board)) {
      const text = (row.dataset.text + " " + board.dataset.data).toLowerCase();
      row.hidden = !boardMatches || (form.model.value && row.dataset.model !== form.model.value) || !words.every(word => text.includes(word));
      if (!row.hidden) visible.add(row.dataset.name);
    }
    for (const figure of all(".gallery figure", board)) figure.hidden = !visible.has(figure.dataset.name);
    for (const gallery of all(".gallery", board)) gallery.hidden = !all("figure:not([hidden])", gallery).length;
    board.hidden = !visible.size;
    shown += visible.size;
    redraw(board);
  }
  for (const suite of all(".suite")) suite.hidden = !all(".board:not([hidden])", suite).length;
  form.querySelector("output").value = shown + (shown === 1 ? " row" : " rows");
  document.getElementById("no-match").hidden = shown > 0 || !DATA.boards.length;
  saveState();
}

function sortRows(board, button, direction) {
  const by = button.dataset.sort, head = button.closest("th"), body = board.querySelector("tbody");
  const bestFirst = button.dataset.better === "higher" ? "descending" : "ascending";
  const current = head.getAttribute("aria-sort");
  direction = direction || (current ? (current === "ascending" ? "descending" : "ascending") : bestFirst);
  const sign = direction === "ascending" ? 1 : -1;
  const value = row => by === "rank" ? +row.dataset.row : by === "name" ? row.dataset.name.toLowerCase() : row.children[+by + 2].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // rows without a value are last in both directions
    return sign * (by === "name" ? x.localeCompare(y) : x - y) || a.dataset.row - b.dataset.row;
  };
  body.append(...all("tr", body).sort(compare));
  for (const other of all("thead th", board)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const isDefault = by === "rank" && direction === "ascending";
  isDefault ? state.delete("sort." + board.id) : state.set("sort." + board.id, by + "," + direction);
  saveState();
}

/* ---- charts ---- */
const drawnBoards = new WeakSet();
const nearViewport = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { drawnBoards.add(entry.target); nearViewport.unobserve(entry.target); drawCharts(entry.target); }
}, { rootMargin: "600px" });

/* Draw the charts of a board again, or for the first time once it is near the viewport. */
function redraw(board) { drawnBoards.has(board) ? drawCharts(board) : nearViewport.observe(board); }

function drawCharts(board) {
  const table = DATA.boards[board.dataset.board];
  const visible = new Set(all("tbody tr:not([hidden])", board).map(row => +row.dataset.row));
  const rows = table.rows.map((row, index) => ({ ...row, index })).filter(row => visible.has(row.index)).slice(0, 40);
  const charts = [intervalsChart(table, rows), scatterChart(board, table, rows), learningChart(rows)];
  board.querySelector(".charts").replaceChildren(...charts.filter(Boolean));
}

function ticks(low, high, log, count = 6) {
  if (log) {
    const decades = Math.log10(high) - Math.log10(low), result = [], steps = decades > 2 ? [1] : decades > 1 ? [1, 3] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += Math.max(1, Math.floor(decades / 8)))
      for (const step of steps) { const tick = step * 10 ** power; if (tick >= low && tick <= high) result.push(tick); }
    if (result.length > 1) return result;
  }
  const rough = high / count - low / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= rough);
  const result = [], first = Math.ceil(low / step);
  for (let i = 0; i <= 2 * count && (first + i) * step <= high; i++) result.push((first + i) * step);  // ends even if first is so large that first + 1 === first
  return result;
}

function shortNumber(x, unit) {
  if (unit === "bytes") for (const [size, name] of [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]]) if (Math.abs(x) >= size) return +(x / size).toPrecision(3) + name;
  for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(x) >= size) return +(x / size).toPrecision(3) + name;
  return String(+x.toPrecision(4));
}

/* Not Math.min(...values): a call cannot take thousands of arguments. */
const minimum = values => values.reduce((a, b) => Math.min(a, b)), maximum = values => values.reduce((a, b) => Math.max(a, b));

/* Return the scale `at`, from values to pixels `from` to `to`, and its ticks. */
function axis(values, from, to, log) {
  let low = minimum(values), high = maximum(values);
  if (log) { const room = Math.max(high ** 0.06 / low ** 0.06, 1.05); low /= room; high *= room; }
  else { const room = high * 0.06 - low * 0.06 || Math.abs(high) * 0.05 || 1; low -= room; high += room; }
  [low, high] = [Math.max(low, log ? Number.MIN_VALUE : -Number.MAX_VALUE), Math.min(high, Number.MAX_VALUE)];
  const transform = log ? Math.log : x => x / 2;  // halved, because the difference of two of the largest floats overflows
  const at = x => from + (to - from) * ((transform(x) - transform(low)) / (transform(high) - transform(low)));
  return { at, ticks: ticks(low, high, log) };
}

function chartFrame(width, height, x, y, xUnit, yUnit, xLabel) {
  const [left, top, right, bottom] = [52, 8, width - 10, height - 34];
  const root = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": xLabel });
  for (const t of x.ticks) root.append(element("line", { class: "grid", x1: x.at(t), x2: x.at(t), y1: top, y2: bottom }),
    element("text", { x: x.at(t), y: bottom + 14, "text-anchor": "middle" }, shortNumber(t, xUnit)));
  if (y) for (const t of y.ticks) root.append(element("line", { class: "grid", x1: left, x2: right, y1: y.at(t), y2: y.at(t) }),
    element("text", { x: left - 6, y: y.at(t) + 4, "text-anchor": "end" }, shortNumber(t, yUnit)));
  root.append(element("text", { x: right, y: height - 4, "text-anchor": "end" }, xLabel));
  return root;
}

const chartFigure = (title, svg) => element("figure", { class: "chart" }, element("figcaption", {}, ...title), svg);
const interval = cell => cell.half_width !== null ? [cell.mean - cell.half_width, cell.mean + cell.half_width] : cell.p20 !== null ? [cell.p20, cell.p80] : [cell.mean, cell.mean];
const cellText = cell => `${cell.mean_text} ${cell.interval_text}`.trim();

function mark(row, column, text, ...children) {
  return element("g", { class: `mark c${row.color_index % 8}${row.published ? " published" : ""}`, "data-row": row.index, "data-column": column, "data-tip": text }, ...children);
}

function symbol(kind, x, y, r = 4.5) {
  if (kind === "bound") return element("path", { d: `M${x - r},${y - r}h${2 * r}l${-r},${1.8 * r}z`, style: "fill:var(--c)" });
  if (kind === "estimate") return element("rect", { x: x - r + .5, y: y - r + .5, width: 2 * r - 1, height: 2 * r - 1 });
  return element("circle", { cx: x, cy: y, r });
}

/* The ranking measurement: a tick per seed, a bar for the interval. */
function intervalsChart(table, rows) {
  if (!table.columns.length) return null;
  const shown = new Map(rows.map(row => [row.index, row]));
  const lineLabel = line => line.row.label + (line.column.measurement === table.columns[0].measurement ? "" : ", " + line.column.label);
  const lines = table.marks.filter(([index]) => shown.has(index)).map(([index, c]) => ({ row: shown.get(index), c, column: table.columns[c], cell: shown.get(index).cells[c] }));
  if (!lines.length) return null;
  const width = 380, height = 46 + 21 * Math.max(lines.length, 4), longest = Math.max(...lines.map(line => lineLabel(line).length));
  const left = Math.min(150, 14 + 6.3 * longest), cut = text => text.length > 23 ? text.slice(0, 22) + "…" : text;
  const seedValues = lines.flatMap(line => line.cell.seeds.map(seed => seed[1]).filter(v => v !== null));
  const x = axis([...lines.flatMap(line => interval(line.cell)), ...seedValues], left, width - 12, false);
  const svg = chartFrame(width, height, x, null, table.columns[0].unit, "", table.columns[0].axis_title);
  lines.forEach(({ row, c, column, cell }, i) => {
    const y = 20 + 21 * i, [low, high] = interval(cell).map(x.at);
    svg.append(mark(row, c, `${row.label}\n${column.title} ${cellText(cell)}\n${row.published || "n = " + cell.n}${row.failures ? ", " + row.failures : ""}`,
      element("rect", { class: "hit", x: 0, y: y - 10, width, height: 21, style: "fill:transparent;stroke:none" }),
      element("line", { class: "bar", x1: low, x2: high, y1: y, y2: y }),
      ...cell.seeds.filter(seed => seed[1] !== null).map(seed => element("line", { class: "tick", x1: x.at(seed[1]), x2: x.at(seed[1]), y1: y - 5, y2: y + 5 })),
      symbol(column.kind, x.at(cell.mean), y)), element("text", { class: "label", x: left - 10, y: y + 4, "text-anchor": "end" }, cut(lineLabel({ row, column }))));
  });
  return chartFigure([table.columns[0].axis_title], svg);
}

/* One column against another, as chosen on its axes. */
function scatterChart(board, table, rows) {
  if (table.columns.length < 2) return null;
  board.axes = board.axes || [...table.axes];
  const chosen = board.axes, [cx, cy] = chosen.map(c => table.columns[c]);
  const points = rows.filter(row => chosen.every(c => row.cells[c] && row.cells[c].mean !== null && !row.cells[c].n_invalid));
  const values = c => points.flatMap(row => [row.cells[c].mean, ...interval(row.cells[c])]);
  const log = c => { const v = values(c); return minimum(v) > 0 && (maximum(v) / minimum(v) > 8 || table.columns[c].unit.endsWith("/s")); };
  const axisMenu = i => {
    const select = element("select", { "aria-label": i ? "vertical axis" : "horizontal axis" }, ...table.columns.map((column, c) => element("option", { value: c, ...(c === chosen[i] ? { selected: "" } : {}) }, column.title)));
    select.addEventListener("change", () => { chosen[i] = +select.value; drawCharts(board); });
    return select;
  };
  const title = [axisMenu(1), "against", axisMenu(0)];
  if (!points.length) return chartFigure(title, element("p", { class: "quiet" }, "No row has values in both columns."));
  const width = 380, height = 250, x = axis(values(chosen[0]), 52, width - 20, log(chosen[0])), y = axis(values(chosen[1]), height - 34, 8, log(chosen[1]));
  const svg = chartFrame(width, height, x, y, cx.unit, cy.unit, cx.title);
  for (const row of points) {
    const [a, b] = chosen.map(c => row.cells[c]), [px, py] = [x.at(a.mean), y.at(b.mean)], [al, ah] = interval(a).map(x.at), [bl, bh] = interval(b).map(y.at);
    svg.append(mark(row, chosen[1], `${row.label}\n${cy.title} ${cellText(b)}\n${cx.title} ${cellText(a)}`,
      element("line", { class: "bar", x1: al, x2: ah, y1: py, y2: py }), element("line", { class: "bar", x1: px, x2: px, y1: bl, y2: bh }), symbol(cy.kind, px, py)));
  }
  svg.append(...pointLabels(points.map(row => ({ text: row.label, xy: [x.at(row.cells[chosen[0]].mean), y.at(row.cells[chosen[1]].mean)] })), 52, width));
  return chartFigure(title, svg);
}

/* Names next to their points, where they cover no other name and no point; if there is no space, only the tooltip has the name. */
function pointLabels(points, left, right) {
  const taken = points.map(({ xy: [x, y] }) => [x - 4, y - 4, x + 4, y + 4]), result = [];
  for (const { text, xy: [px, py] } of points) {
    for (const [side, dy] of [[1, -6], [-1, -6], [1, 14], [-1, 14]]) {
      const x = px + 8 * side, far = x + 6.3 * text.length * side, y = py + dy, box = [Math.min(x, far), y - 9, Math.max(x, far), y + 2];
      if (box[0] < left || box[2] > right || taken.some(other => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      result.push(element("text", { class: "label", x, y, "text-anchor": side > 0 ? "start" : "end" }, text));
      break;
    }
  }
  return result;
}

/* Validation scores by step, or training losses if there are none. */
function learningChart(rows) {
  const valid = rows.some(row => row.curve.some(point => point[1] !== null)), which = valid ? 1 : 2;
  const curves = rows.map(row => ({ row, points: row.curve.filter(point => point[which] !== null) })).filter(curve => curve.points.length);
  if (!curves.length) return null;
  const values = curves.flatMap(curve => curve.points.map(point => point[which])).sort((a, b) => a - b);
  const top = values[Math.floor(0.92 * (values.length - 1))];
  const width = 380, height = 250, x = axis([0, ...curves.flatMap(curve => curve.points.map(point => point[0]))], 52, width - 14, false);
  const y = axis([values[0], top], height - 34, 8, false);
  const svg = chartFrame(width, height, x, y, "", "", "step"), clip = "clip" + Math.random().toString(36).slice(2);
  svg.append(element("defs", {}, element("clipPath", { id: clip }, element("rect", { x: 52, y: 8, width: width - 62, height: height - 42 }))));
  const group = element("g", { "clip-path": `url(#${clip})` });
  for (const { row, points } of curves) {
    const last = points[points.length - 1];
    const path = points.map((point, i) => `${i ? "L" : "M"}${x.at(point[0]).toFixed(1)},${y.at(point[which]).toFixed(1)}`).join("");
    group.append(mark(row, 0, `${row.name}\n${shortNumber(last[which], "")} at step ${last[0]}${row.failures ? "\n" + row.failures : ""}`, element("path", { d: path })));
  }
  svg.append(group);
  return chartFigure([valid ? "validation NLL (nats) by step" : "training loss by step", element("small", { class: "quiet" }, "first seed")], svg);
}

/* ---- details of a cell ---- */
function definitionList(pairs) {
  return element("dl", {}, ...pairs.filter(pair => pair[1] !== null && pair[1] !== undefined && pair[1] !== "").flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
}

function tableOf(heads, rows) {
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads.map(head => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map(row => element("tr", {}, ...row.map(value => element("td", {}, value === null || value === undefined ? "" : String(value))))))));
}

function showDetails(board, index, c) {
  const table = DATA.boards[board], row = table.rows[index], column = table.columns[c], cell = row.cells[c];
  const seeds = cell ? cell.seeds : [], indices = new Set(seeds.map(seed => seed[6])), ids = new Map(row.runs);
  for (const [, , last] of row.runs) if (!cell || DATA.executions[last].status !== "ok") indices.add(last);
  const executions = [...indices].map(i => DATA.executions[i]);
  const distinct = key => [...new Set(executions.map(execution => execution[key]))].filter(value => value !== null);
  const commit = execution => (execution.commit || "unknown").slice(0, 12) + (execution.dirty ? " with uncommitted changes" : "");
  const rank = cell && (cell.rank ? `rank ${cell.rank}` : cell.unranked_reason && `not ranked: ${cell.unranked_reason}`);
  const counts = [...new Set(seeds.map(seed => seed[3]))].filter(n => n !== null).sort((a, b) => a - b);
  const measuredOn = counts.length ? counts.map(n => n.toLocaleString("en")).join(" or ") + (column.unit.endsWith("/s") ? " repetitions" : " points or samples per seed") : "";
  const failed = row.runs.filter(run => DATA.executions[run[2]].status !== "ok");
  const paper = row.published && definitionList([["source", row.published], ["kind", column.kind], ["rank", "never ranked: a result from a paper, under its own protocol"]]);
  document.getElementById("details").replaceChildren(...[
    element("h3", { id: "details-title" }, `${row.label}, ${column.title} on ${table.data}`),
    element("p", { class: "value" }, cell ? (cellText(cell) || "no value") + " " + column.unit_label : row.failures || row.later_failures || "not measured"),
    ...paper ? [paper] : [
    definitionList([["seeds", cell && cell.n], ["measured on", measuredOn], ["standard error of the test set", cell && cell.stderr !== null ? shortNumber(cell.stderr, column.unit) : ""], ["rank", rank], ["kind", column.kind], ["failures", row.failures], ["later failures", row.later_failures], ["verdicts", row.verdicts], ["model", row.model], ["weights", row.weights], ["settings", row.settings]]),
    seeds.length ? element("h4", {}, "values by seed") : null,
    seeds.length ? tableOf(["seed", "value", "verdict", "± s.e.", "n", "metric", "run", "execution"], seeds.map(([seed, value, stderr, n, verdict, impl, i]) => [seed, value === null ? "none" : +value.toPrecision(7), verdict, stderr === null ? "" : shortNumber(stderr, ""), n, DATA.impls[impl], ids.get(seed), DATA.executions[i].execution])) : null,
    failed.length ? element("h4", {}, "failed runs") : null,
    failed.length ? tableOf(["seed", "status", "attempts", "run", "error"], failed.map(([seed, id, last]) => { const e = DATA.executions[last]; return [seed, e.status, e.attempts, id, e.error]; })) : null,
    element("h4", {}, "command"), ...(distinct("command").length ? distinct("command").map(command => element("pre", {}, command)) : [element("p", { class: "quiet" }, "not recorded")]),
    element("h4", {}, "code"), definitionList([...new Set(executions.map(commit))].map(text => ["commit", text])),
    definitionList([["seconds", executions.map(e => e.seconds === null || e.seconds === undefined ? "?" : e.seconds.toFixed(1)).join(", ")], ["attempts", executions.map(e => e.attempts).join(", ")]]),
    ...distinct("environment").flatMap(i => [element("h4", {}, "environment"), definitionList(Object.entries(DATA.environments[i]))])],
  ].filter(Boolean));
  dialog.showModal();
  dialog.scrollTop = 0;
}

/* ---- events ---- */
document.addEventListener("click", event => {
  const board = event.target.closest(".board"), head = event.target.closest("[data-sort]"), cell = event.target.closest(".cell, .mark"), image = event.target.closest(".gallery img");
  if (event.target === dialog) dialog.close();
  else if (head) sortRows(board, head);
  else if (cell) showDetails(board.dataset.board, +(cell.dataset.row ?? cell.closest("tr").dataset.row), +cell.dataset.column);
  else if (image) {
    document.getElementById("details").replaceChildren(element("h3", { id: "details-title" }, image.alt), element("img", { src: image.src, alt: image.alt }));
    dialog.showModal();
  }
});
document.addEventListener("pointermove", event => {
  const target = event.target.closest && event.target.closest(".mark, tbody tr[data-row]"), board = target && target.closest(".board");
  highlight(board, target && target.dataset.row);
  tip.hidden = !target || !target.dataset.tip;
  if (tip.hidden) return;
  tip.textContent = target.dataset.tip;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
});

/* Highlight a row in the table and in all charts of its board. */
let highlighted = [];
function highlight(board, row) {
  for (const old of highlighted) old.classList.remove("lit", "fade");
  highlighted = board ? [...all(`[data-row="${row}"]`, board), ...all(".charts svg", board)] : [];
  for (const node of highlighted) node.classList.add(node.tagName === "svg" ? "fade" : "lit");
}

form.addEventListener("input", applyFilters);
form.addEventListener("submit", event => event.preventDefault());
restoreState();
applyFilters();
