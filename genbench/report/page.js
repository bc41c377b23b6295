"use strict";
const RAW = document.getElementById("data").textContent;
/* Control characters, and marks that reorder or hide text, are spelled out, as the tables above have them. */
const ODD = /[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu, SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const code = (c, n = c.codePointAt(0)) => n < 256 ? "\\x" + n.toString(16).padStart(2, "0") : n < 65536 ? "\\u" + n.toString(16).padStart(4, "0") : "\\U" + n.toString(16).padStart(8, "0");
const spelled = text => text.replace(ODD, c => SHORT[c] || code(c));
const DATA = JSON.parse(RAW, /\\[bfnrt]|\\u00[01]/.test(RAW) || RAW.search(ODD) >= 0 ? (key, value) => typeof value === "string" ? spelled(value) : value : undefined);
const all = (query, from = document) => [...from.querySelectorAll(query)];
const form = document.querySelector(".filters"), dialog = document.querySelector("dialog"), tip = document.getElementById("tip");

/* Elements from text only: what records say never becomes markup. */
function element(name, attributes = {}, ...children) {
  const space = SVG.has(name) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}
const SVG = new Set(["svg", "g", "line", "path", "text", "circle", "rect", "clipPath", "defs"]);

/* ---- state: filters and sorting live in the address, so that a view can be linked ---- */
const state = new URLSearchParams(location.hash.slice(1));

function restore() {
  const models = new Set(DATA.boards.flatMap(board => board.rows.map(row => row.model).filter(Boolean)));
  form.model.append(...[...models].sort().map(model => element("option", { value: model }, model)));
  for (const name of ["suite", "data", "model", "q"]) form[name].value = state.get(name) || "";
  for (const [key, value] of state) if (key.startsWith("sort.")) {
    const [column, direction] = value.split(",");
    const board = document.getElementById(key.slice(5));
    const button = board && all("thead button", board).find(b => b.dataset.sort === column);
    if (button) sort(board, button, direction);
  }
}

function remember() {
  for (const name of ["suite", "data", "model", "q"]) form[name].value ? state.set(name, form[name].value) : state.delete(name);
  history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
}

function filter() {
  const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const board of all(".board")) {
    const here = (!form.suite.value || board.dataset.suite === form.suite.value) && (!form.data.value || board.dataset.data === form.data.value);
    const visible = new Set();
    for (const row of all("tbody tr", board)) {
      const text = (row.dataset.text + " " + board.dataset.data).toLowerCase();
      row.hidden = !here || (form.model.value && row.dataset.model !== form.model.value) || !words.every(word => text.includes(word));
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
  document.getElementById("nothing").hidden = shown > 0 || !DATA.boards.length;
  remember();
}

function sort(board, button, direction) {
  const by = button.dataset.sort, head = button.closest("th"), body = board.querySelector("tbody");
  const natural = button.dataset.better === "higher" ? "descending" : "ascending";
  const now = head.getAttribute("aria-sort");
  direction = direction || (now ? (now === "ascending" ? "descending" : "ascending") : natural);
  const sign = direction === "ascending" ? 1 : -1;
  const value = row => by === "rank" ? +row.dataset.row : by === "name" ? row.dataset.name.toLowerCase() : row.children[+by + 2].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // rows without a value come last, either way
    return sign * (by === "name" ? x.localeCompare(y) : x - y) || a.dataset.row - b.dataset.row;
  };
  body.append(...all("tr", body).sort(compare));
  for (const other of all("thead th", board)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const usual = by === "rank" && direction === "ascending";
  usual ? state.delete("sort." + board.id) : state.set("sort." + board.id, by + "," + direction);
  remember();
}

/* ---- charts ---- */
const drawn = new WeakSet();
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { drawn.add(entry.target); seen.unobserve(entry.target); draw(entry.target); }
}, { rootMargin: "600px" });

function redraw(board) { drawn.has(board) ? draw(board) : seen.observe(board); }

function draw(board) {
  const table = DATA.boards[board.dataset.board];
  const visible = new Set(all("tbody tr:not([hidden])", board).map(row => +row.dataset.row));
  const rows = table.rows.map((row, at) => ({ ...row, at })).filter(row => visible.has(row.at)).slice(0, 40);
  const charts = [intervals(table, rows), scatter(board, table, rows), learning(table, rows)];
  board.querySelector(".charts").replaceChildren(...charts.filter(Boolean));
}

function ticks(low, high, log, count = 6) {
  if (log) {
    const decades = Math.log10(high) - Math.log10(low), found = [], steps = decades > 2 ? [1] : decades > 1 ? [1, 3] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += Math.max(1, Math.floor(decades / 8)))
      for (const step of steps) { const tick = step * 10 ** power; if (tick >= low && tick <= high) found.push(tick); }
    if (found.length > 1) return found;
  }
  const rough = high / count - low / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= rough);
  const found = [], first = Math.ceil(low / step);
  for (let i = 0; i <= 2 * count && (first + i) * step <= high; i++) found.push((first + i) * step);  // counts up where first + 1 is first
  return found;
}

function short(x, unit) {
  if (unit === "bytes") for (const [size, name] of [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]]) if (Math.abs(x) >= size) return +(x / size).toPrecision(3) + name;
  for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(x) >= size) return +(x / size).toPrecision(3) + name;
  return String(+x.toPrecision(4));
}

/* Not Math.min(...values): thousands of rows are more arguments than a call may have. */
const least = values => values.reduce((a, b) => Math.min(a, b)), most = values => values.reduce((a, b) => Math.max(a, b));

function axis(values, from, to, log) {
  let low = least(values), high = most(values);
  if (log) { const room = Math.max(high ** 0.06 / low ** 0.06, 1.05); low /= room; high *= room; }
  else { const room = high * 0.06 - low * 0.06 || Math.abs(high) * 0.05 || 1; low -= room; high += room; }
  [low, high] = [Math.max(low, log ? Number.MIN_VALUE : -Number.MAX_VALUE), Math.min(high, Number.MAX_VALUE)];
  const warp = log ? Math.log : x => x / 2;  // halves, whose difference is finite
  const at = x => from + (to - from) * ((warp(x) - warp(low)) / (warp(high) - warp(low)));
  return { at, ticks: ticks(low, high, log) };
}

function frame(width, height, x, y, xUnit, yUnit, xLabel) {
  const [left, top, right, bottom] = [52, 8, width - 10, height - 34];
  const root = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": xLabel });
  for (const t of x.ticks) root.append(element("line", { class: "grid", x1: x.at(t), x2: x.at(t), y1: top, y2: bottom }),
    element("text", { x: x.at(t), y: bottom + 14, "text-anchor": "middle" }, short(t, xUnit)));
  if (y) for (const t of y.ticks) root.append(element("line", { class: "grid", x1: left, x2: right, y1: y.at(t), y2: y.at(t) }),
    element("text", { x: left - 6, y: y.at(t) + 4, "text-anchor": "end" }, short(t, yUnit)));
  root.append(element("text", { x: right, y: height - 4, "text-anchor": "end" }, xLabel));
  return root;
}

const chart = (title, svg) => element("figure", { class: "chart" }, element("figcaption", {}, ...title), svg);
const spread = cell => cell.half !== null ? [cell.mean - cell.half, cell.mean + cell.half] : cell.p20 !== null ? [cell.p20, cell.p80] : [cell.mean, cell.mean];
const told = cell => `${cell.mean_text} ${cell.interval_text}`.trim();
const named = column => column.heading + (column.shown_unit ? ", " + column.shown_unit : "");

function mark(row, column, text, ...children) {
  return element("g", { class: `mark c${row.hue % 8}${row.published ? " published" : ""}`, "data-row": row.at, "data-column": column, "data-tip": text }, ...children);
}

function symbol(kind, x, y, r = 4.5) {
  if (kind === "bound") return element("path", { d: `M${x - r},${y - r}h${2 * r}l${-r},${1.8 * r}z`, style: "fill:var(--c)" });
  if (kind === "estimate") return element("rect", { x: x - r + .5, y: y - r + .5, width: 2 * r - 1, height: 2 * r - 1 });
  return element("circle", { cx: x, cy: y, r });
}

function intervals(table, rows) {
  if (!table.columns.length) return null;
  const shown = new Map(rows.map(row => [row.at, row]));
  const label = line => line.row.label + (line.column.measurement === table.columns[0].measurement ? "" : ", " + line.column.measurement.replaceAll("_", " "));
  const lines = table.axis.filter(([at]) => shown.has(at)).map(([at, c]) => ({ row: shown.get(at), c, column: table.columns[c], cell: shown.get(at).cells[c] }));
  if (!lines.length) return null;
  const width = 380, height = 46 + 21 * Math.max(lines.length, 4), longest = Math.max(...lines.map(line => label(line).length));
  const left = Math.min(150, 14 + 6.3 * longest), name = text => text.length > 23 ? text.slice(0, 22) + "…" : text;
  const singles = lines.flatMap(line => line.cell.seeds.map(seed => seed[1]).filter(v => v !== null));
  const x = axis([...lines.flatMap(line => spread(line.cell)), ...singles], left, width - 12, false);
  const svg = frame(width, height, x, null, table.columns[0].unit, "", named(table.columns[0]));
  lines.forEach(({ row, c, column, cell }, i) => {
    const y = 20 + 21 * i, [low, high] = spread(cell).map(x.at);
    svg.append(mark(row, c, `${row.label}\n${column.heading} ${told(cell)}\n${row.published || "n = " + cell.n}${row.failures ? ", " + row.failures : ""}`,
      element("rect", { class: "hit", x: 0, y: y - 10, width, height: 21, style: "fill:transparent;stroke:none" }),
      element("line", { class: "bar", x1: low, x2: high, y1: y, y2: y }),
      ...cell.seeds.filter(seed => seed[1] !== null).map(seed => element("line", { class: "tick", x1: x.at(seed[1]), x2: x.at(seed[1]), y1: y - 5, y2: y + 5 })),
      symbol(column.kind, x.at(cell.mean), y)), element("text", { class: "label", x: left - 10, y: y + 4, "text-anchor": "end" }, name(label({ row, column }))));
  });
  return chart([named(table.columns[0])], svg);
}

function scatter(board, table, rows) {
  if (table.columns.length < 2) return null;
  board.axes = board.axes || [...table.against];
  const chosen = board.axes, [cx, cy] = chosen.map(at => table.columns[at]);
  const points = rows.filter(row => chosen.every(c => row.cells[c] && row.cells[c].mean !== null && !row.cells[c].invalid));
  const values = c => points.flatMap(row => [row.cells[c].mean, ...spread(row.cells[c])]);
  const log = c => { const v = values(c); return least(v) > 0 && (most(v) / least(v) > 8 || table.columns[c].unit.endsWith("/s")); };
  const pick = i => {
    const select = element("select", { "aria-label": i ? "vertical axis" : "horizontal axis" }, ...table.columns.map((column, c) => element("option", { value: c, ...(c === chosen[i] ? { selected: "" } : {}) }, column.heading)));
    select.addEventListener("change", () => { chosen[i] = +select.value; draw(board); });
    return select;
  };
  const title = [pick(1), "against", pick(0)];
  if (!points.length) return chart(title, element("p", { class: "quiet" }, "No row has both."));
  const width = 380, height = 250, x = axis(values(chosen[0]), 52, width - 20, log(chosen[0])), y = axis(values(chosen[1]), height - 34, 8, log(chosen[1]));
  const svg = frame(width, height, x, y, cx.unit, cy.unit, named(cx));
  for (const row of points) {
    const [a, b] = chosen.map(c => row.cells[c]), [px, py] = [x.at(a.mean), y.at(b.mean)], [al, ah] = spread(a).map(x.at), [bl, bh] = spread(b).map(y.at);
    svg.append(mark(row, chosen[1], `${row.label}\n${cy.heading} ${told(b)}\n${cx.heading} ${told(a)}`,
      element("line", { class: "bar", x1: al, x2: ah, y1: py, y2: py }), element("line", { class: "bar", x1: px, x2: px, y1: bl, y2: bh }), symbol(cy.kind, px, py)));
  }
  svg.append(...labels(points.map(row => ({ text: row.label, at: [x.at(row.cells[chosen[0]].mean), y.at(row.cells[chosen[1]].mean)] })), 52, width));
  return chart(title, svg);
}

/* Names beside their points, where they cover no other name and no point; where there is no room, the tip says the name. */
function labels(points, left, right) {
  const taken = points.map(({ at: [x, y] }) => [x - 4, y - 4, x + 4, y + 4]), found = [];
  for (const { text, at: [px, py] } of points) {
    for (const [side, dy] of [[1, -6], [-1, -6], [1, 14], [-1, 14]]) {
      const x = px + 8 * side, far = x + 6.3 * text.length * side, y = py + dy, box = [Math.min(x, far), y - 9, Math.max(x, far), y + 2];
      if (box[0] < left || box[2] > right || taken.some(other => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      found.push(element("text", { class: "label", x, y, "text-anchor": side > 0 ? "start" : "end" }, text));
      break;
    }
  }
  return found;
}

function learning(table, rows) {
  const valid = rows.some(row => row.curve.some(point => point[1] !== null)), which = valid ? 1 : 2;
  const curves = rows.map(row => ({ row, points: row.curve.filter(point => point[which] !== null) })).filter(curve => curve.points.length);
  if (!curves.length) return null;
  const values = curves.flatMap(curve => curve.points.map(point => point[which])).sort((a, b) => a - b);
  const top = values[Math.floor(0.92 * (values.length - 1))];
  const width = 380, height = 250, x = axis([0, ...curves.flatMap(curve => curve.points.map(point => point[0]))], 52, width - 14, false);
  const y = axis([values[0], top], height - 34, 8, false);
  const svg = frame(width, height, x, y, "", "", "step"), clip = "clip" + Math.random().toString(36).slice(2);
  svg.append(element("defs", {}, element("clipPath", { id: clip }, element("rect", { x: 52, y: 8, width: width - 62, height: height - 42 }))));
  const group = element("g", { "clip-path": `url(#${clip})` });
  for (const { row, points } of curves) {
    const last = points[points.length - 1];
    const path = points.map((point, i) => `${i ? "L" : "M"}${x.at(point[0]).toFixed(1)},${y.at(point[which]).toFixed(1)}`).join("");
    group.append(mark(row, 0, `${row.name}\n${short(last[which], "")} at step ${last[0]}${row.failures ? "\n" + row.failures : ""}`, element("path", { d: path })));
  }
  svg.append(group);
  return chart([valid ? "validation, nats, by step" : "training loss by step", element("small", { class: "quiet" }, "first seed")], svg);
}

/* ---- what is behind a cell ---- */
function list(pairs) {
  return element("dl", {}, ...pairs.filter(pair => pair[1] !== null && pair[1] !== undefined && pair[1] !== "").flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
}

function grid(heads, rows) {
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads.map(head => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map(row => element("tr", {}, ...row.map(value => element("td", {}, value === null || value === undefined ? "" : String(value))))))));
}

function behind(board, at, c) {
  const table = DATA.boards[board], row = table.rows[at], column = table.columns[c], cell = row.cells[c];
  const seeds = cell ? cell.seeds : [], numbers = new Set(seeds.map(seed => seed[6])), ids = new Map(row.runs);
  for (const [, , last] of row.runs) if (!cell || DATA.executions[last].status !== "ok") numbers.add(last);
  const executions = [...numbers].map(i => DATA.executions[i]);
  const distinct = key => [...new Set(executions.map(execution => execution[key]))].filter(value => value !== null);
  const commit = execution => (execution.commit || "unknown").slice(0, 12) + (execution.dirty ? " with uncommitted changes" : "");
  const rank = cell && (cell.rank ? `rank ${cell.rank}` : cell.unranked && `not ranked: ${cell.unranked}`);
  const counts = [...new Set(seeds.map(seed => seed[3]))].filter(n => n !== null).sort((a, b) => a - b);
  const taken = counts.length ? counts.map(n => n.toLocaleString("en")).join(" or ") + (column.unit.endsWith("/s") ? " repetitions" : " points or samples of each seed") : "";
  const failed = row.runs.filter(run => DATA.executions[run[2]].status !== "ok");
  const paper = row.published && list([["source", row.published], ["kind", column.kind], ["rank", "never ranked: what a paper reports, under its own protocol"]]);
  document.getElementById("behind").replaceChildren(...[
    element("h3", { id: "behind-title" }, `${row.label}, ${column.heading} on ${table.data}`),
    element("p", { class: "value" }, cell ? (told(cell) || "no value") + " " + column.shown_unit : row.failures || row.later || "not measured"),
    ...paper ? [paper] : [
    list([["seeds", cell && cell.n], ["taken from", taken], ["standard error of the test set", cell && cell.stderr !== null ? short(cell.stderr, column.unit) : ""], ["rank", rank], ["kind", column.kind], ["failures", row.failures], ["later failures", row.later], ["verdicts", row.verdicts], ["model", row.model], ["weights", row.weights], ["settings", row.settings]]),
    seeds.length ? element("h4", {}, "single values") : null,
    seeds.length ? grid(["seed", "value", "verdict", "± s.e.", "from", "by", "run", "execution"], seeds.map(([seed, value, stderr, n, verdict, impl, i]) => [seed, value === null ? "none" : +value.toPrecision(7), verdict, stderr === null ? "" : short(stderr, ""), n, DATA.impls[impl], ids.get(seed), DATA.executions[i].execution])) : null,
    failed.length ? element("h4", {}, "runs that did not end well") : null,
    failed.length ? grid(["seed", "status", "tries", "run", "error"], failed.map(([seed, id, last]) => { const e = DATA.executions[last]; return [seed, e.status, e.attempts, id, e.error]; })) : null,
    element("h4", {}, "command"), ...(distinct("command").length ? distinct("command").map(command => element("pre", {}, command)) : [element("p", { class: "quiet" }, "not recorded")]),
    element("h4", {}, "code"), list([...new Set(executions.map(commit))].map(text => ["commit", text])),
    list([["seconds", executions.map(e => e.seconds === null || e.seconds === undefined ? "?" : e.seconds.toFixed(1)).join(", ")], ["attempts", executions.map(e => e.attempts).join(", ")]]),
    ...distinct("environment").flatMap(i => [element("h4", {}, "environment"), list(Object.entries(DATA.environments[i]))])],
  ].filter(Boolean));
  dialog.showModal();
  dialog.scrollTop = 0;
}

/* ---- events ---- */
document.addEventListener("click", event => {
  const board = event.target.closest(".board"), head = event.target.closest("[data-sort]"), cell = event.target.closest(".cell, .mark"), image = event.target.closest(".gallery img");
  if (event.target === dialog) dialog.close();
  else if (head) sort(board, head);
  else if (cell) behind(board.dataset.board, +(cell.dataset.row ?? cell.closest("tr").dataset.row), +cell.dataset.column);
  else if (image) {
    document.getElementById("behind").replaceChildren(element("h3", { id: "behind-title" }, image.alt), element("img", { src: image.src, alt: image.alt }));
    dialog.showModal();
  }
});
document.addEventListener("pointermove", event => {
  const target = event.target.closest && event.target.closest(".mark, tbody tr[data-row]"), board = target && target.closest(".board");
  light(board, target && target.dataset.row);
  tip.hidden = !target || !target.dataset.tip;
  if (tip.hidden) return;
  tip.textContent = target.dataset.tip;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
});

let lit = [];
function light(board, row) {
  for (const old of lit) old.classList.remove("lit", "fade");
  lit = board ? [...all(`[data-row="${row}"]`, board), ...all(".charts svg", board)] : [];
  for (const now of lit) now.classList.add(now.tagName === "svg" ? "fade" : "lit");
}

form.addEventListener("input", filter);
form.addEventListener("submit", event => event.preventDefault());
restore();
filter();
