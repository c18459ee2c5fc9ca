"use strict";
// Elements from data; text always as text, so nothing that a run holds can become markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children) if (child !== null) element.append(child);
  return element;
}
const $ = (id) => document.getElementById(id);
const stored = (id) => JSON.parse($(id).textContent);
let report = null;
let group = null;

function start() {
  report = stored("data");
  if ($("runs")) { sorting(); filtering(); opening(); }
  // The table can be used before the chart library, which is far larger, is read.
  addEventListener("load", () => setTimeout(() => {
    document.head.append(make("script", {}, $("plotly").textContent));
    ready();
  }));
}

function sorting() {
  const heads = [...document.querySelectorAll("#runs th[aria-sort]")];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const falling = head.ariaSort === "ascending" ||
      (head.ariaSort !== "descending" && head.classList.contains("right"));
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    sort(place, falling, head.classList.contains("right"));
  }));
}

// What has no figure stands last, whichever way the others are sorted.
function sort(place, falling, numbers) {
  const body = $("runs").tBodies[0];
  closeAll();
  const value = (row) => row.cells[place + 1].dataset.value;
  const rows = [...body.rows];
  const order = new Map(rows.map((row, i) => [row, i]));
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
    const found = numbers ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true });
    return (falling ? -found : found) || order.get(a) - order.get(b);
  });
  body.append(...rows);
}

function filtering() {
  const selects = [...document.querySelectorAll("[data-filter]")];
  const apply = () => {
    let shown = 0;
    closeAll();
    for (const row of $("runs").tBodies[0].rows) {
      row.hidden = selects.some((s) => s.value !== "" && row.dataset[s.dataset.filter] !== s.value);
      shown += !row.hidden;
    }
    $("count").textContent = `${shown} of ${$("runs").tBodies[0].rows.length} runs`;
  };
  selects.forEach((select) => select.addEventListener("change", apply));
  apply();
}

function closeAll() {
  document.querySelectorAll("#runs tr.more").forEach((row) => row.remove());
  document.querySelectorAll("#runs .open").forEach((button) => toggleMark(button, false));
}

function toggleMark(button, open) {
  button.setAttribute("aria-expanded", String(open));
  button.textContent = open ? "−" : "+";
}

function opening() {
  $("runs").tBodies[0].addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (!button) return;
    const row = button.closest("tr");
    if (button.getAttribute("aria-expanded") === "true") {
      row.nextElementSibling.remove();
      toggleMark(button, false);
      return;
    }
    const sections = report.details[row.dataset.run].map(([title, pairs]) => make("div", {},
      make("h4", {}, title),
      make("dl", {}, ...pairs.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]))));
    const cell = make("td", { colspan: row.cells.length }, make("div", { class: "details" }, ...sections));
    row.after(make("tr", { class: "more" }, cell));
    toggleMark(button, true);
  });
}

const SECTIONS = [
  ["suites", "Benchmarks"], ["pareto", "Time"], ["anatomy", "TTFT"], ["needle", "Needles"],
  ["tokens", "Tokens"], ["versus", "Who beats whom"], ["layers", "Layers"],
];

function ready() {
  if (!report.groups.length) { document.querySelector(".pick").hidden = true; return; }
  fill($("suites"), report.suites);
  $("side-by-side").hidden = false;
  $("group").addEventListener("change", () => choose(Number($("group").value)));
  choose(Number($("group").value) || 0);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    fill($("suites"), report.suites);
    choose(Number($("group").value));
  });
}

function choose(number) {
  group = report.groups[number];
  $("group-title").textContent = group.title;
  $("group-note").hidden = !group.note;
  $("group-note").textContent = group.note || "";
  $("group-heading").textContent = group.heading.join("; ");
  for (const row of document.querySelectorAll("#runs tr[data-run]")) {
    row.classList.toggle("now", group.runs.includes(row.dataset.run));
  }
  for (const name of ["pareto", "anatomy", "needle", "versus", "layers"]) fill($(name), group[name]);
  explorer($("tokens"), group, number);
  contents();
}

function contents() {
  const links = SECTIONS.filter(([id]) => !$(id).hidden)
    .map(([id, title]) => make("li", {}, make("a", { href: `#${id}` }, title)));
  $("toc").replaceChildren($("toc").firstElementChild, ...links);
}
