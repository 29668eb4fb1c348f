"use strict";
// Tables: sorted, filtered and paged here, since some have thousands of rows.

const PAGE = 25;
const MOST_CHOICES = 40;
const minus = (text) => text.replace("-", "−");

function formatNumber(x) {
  if (x === null) return "–";
  const size = Math.abs(x);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return minus(x.toExponential(2));
  return minus(x.toFixed(size >= 100 ? 1 : 3));
}

function formatCount(x) {
  return x === null ? "–" : Math.abs(x) >= 1e15 ? String(x) : x.toLocaleString("en");
}

function formatP(x) {
  return x === null ? "–" : x < 0.001 ? "<0.001" : x.toFixed(3);
}

function cellText(column, i) {
  const x = column.values[i];
  if (column.kind === "text") return x;
  if (column.kind === "count") return formatCount(x);
  if (column.kind === "p") return formatP(x);
  return formatNumber(x);
}

function fillCell(cell, column, i) {
  cell.textContent = cellText(column, i);
  if (column.kind !== "text") cell.className = "n";
  else if (column.values[i].length > 22) cell.className = "long";
  if (column.kind === "interval" && column.values[i] !== null && column.low[i] !== null) {
    const small = document.createElement("small");
    small.textContent = ` (${formatNumber(column.low[i])}, ${formatNumber(column.high[i])})`;
    cell.append(small);
  }
}

// Layers "0", "10", "final" sort as numbers first; what is missing goes last either way.
function compare(a, b, sign) {
  const none = (x) => x === null || x === "";
  if (none(a) || none(b)) return Number(none(a)) - Number(none(b));
  const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return sign * order;
}

function csv(table, order) {
  const quote = (x) => (x === null ? "" : /[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : String(x));
  const head = [], parts = [];
  for (const column of table.columns) {
    head.push(column.label);
    parts.push(column.values);
    if (column.kind === "interval") {
      head.push(`${column.label} low`, `${column.label} high`);
      parts.push(column.low, column.high);
    }
  }
  return [head, ...order.map((i) => parts.map((values) => values[i]))].map((row) => row.map(quote).join(",")).join("\n");
}

function drawTable(element, table) {
  const state = { page: 0, sort: null, sign: 1, search: "", chosen: new Map() };
  const tools = document.createElement("div");
  tools.className = "tools";
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  const pager = document.createElement("div");
  pager.className = "pager";
  const html = document.createElement("table");
  const head = html.createTHead().insertRow();
  const body = html.createTBody();
  scroll.append(html);

  function rows() {
    const found = [];
    const needle = state.search.toLowerCase();
    for (let i = 0; i < table.rows; i++) {
      let kept = true;
      for (const [column, value] of state.chosen) kept = kept && column.values[i] === value;
      if (kept && needle) kept = table.columns.some((c) => c.kind === "text" && c.values[i].toLowerCase().includes(needle));
      if (kept) found.push(i);
    }
    if (state.sort) {
      const { values } = state.sort;
      found.sort((a, b) => compare(values[a], values[b], state.sign) || a - b);
    }
    return found;
  }

  function draw() {
    const order = rows();
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    body.replaceChildren();
    for (const i of order.slice(state.page * PAGE, (state.page + 1) * PAGE)) {
      const row = body.insertRow();
      for (const column of table.columns) fillCell(row.insertCell(), column, i);
    }
    [...head.cells].forEach((cell, i) => {
      const sorted = table.columns[i] === state.sort;
      cell.setAttribute("aria-sort", sorted ? (state.sign > 0 ? "ascending" : "descending") : "none");
    });
    pager.replaceChildren();
    const words = document.createElement("span");
    words.textContent = `${order.length.toLocaleString("en")} rows` + (pages > 1 ? `, page ${state.page + 1} of ${pages}` : "");
    pager.append(words);
    if (pages > 1) {
      for (const [sign, step] of [["‹", -1], ["›", 1]]) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = sign;
        button.setAttribute("aria-label", step < 0 ? "Page before" : "Next page");
        button.disabled = state.page + step < 0 || state.page + step >= pages;
        button.addEventListener("click", () => { state.page += step; draw(); });
        pager.append(button);
      }
    }
  }

  for (const column of table.columns) {
    const cell = document.createElement("th");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.label;
    button.addEventListener("click", () => {
      const again = state.sort === column;
      state.sign = again ? -state.sign : column.kind === "text" || column.kind === "p" ? 1 : -1;
      state.sort = column;
      state.page = 0;
      draw();
    });
    cell.append(button);
    cell.scope = "col";
    head.append(cell);
    if (column.kind !== "text" || table.rows <= 8) continue;
    const choices = [...new Set(column.values)];
    if (choices.length < 2 || choices.length > MOST_CHOICES) continue;
    const select = document.createElement("select");
    select.setAttribute("aria-label", column.label);
    select.append(new Option(`${column.label}: all`, ""));
    choices.forEach((choice, i) => select.append(new Option(choice || "(none)", String(i))));
    select.addEventListener("change", () => {
      if (select.value === "") state.chosen.delete(column);
      else state.chosen.set(column, choices[Number(select.value)]);
      state.page = 0;
      draw();
    });
    tools.append(select);
  }
  if (table.rows > 8) {
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "Search";
    search.setAttribute("aria-label", "Search this table");
    search.addEventListener("input", () => { state.search = search.value; state.page = 0; draw(); });
    tools.append(search);
  }
  const save = document.createElement("button");
  save.type = "button";
  save.textContent = "CSV";
  save.title = "Save the rows shown";
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table, rows())], { type: "text/csv" }));
    link.download = `${table.title.toLowerCase().replaceAll(" ", "_")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  tools.append(save);
  element.append(tools, scroll, pager);
  draw();
}
