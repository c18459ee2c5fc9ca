"use strict";
// Behind text; a method keeps the colour that it has in the charts.
let item = null;
let chosen = [];

function explorer(section, of, number) {
  const place = $("explorer");
  place.replaceChildren();
  if (!of.items.length) {
    place.append(make("p", { class: "note" }, "The page holds no more texts: name this dataset's folder alone (FOLDERS=) to see its items."));
    return;
  }
  const some = of.items.length < of.available;
  const items = make("select", { id: "item" }, ...of.items.map((id, i) => make("option", { value: i }, id)));
  const step = (by) => () => {
    items.selectedIndex = Math.min(Math.max(items.selectedIndex + by, 0), of.items.length - 1);
    open();
  };
  const open = () => showItem(stored(`item-${number}-${items.value}`));
  items.addEventListener("change", open);
  place.append(
    make("p", { class: "note" }, `${some ? `The first ${of.items.length}` : `All ${of.items.length}`} of ${of.available} items` +
      `${some ? " (the page holds no more texts)" : ""}. Tokens that a method recomputed are coloured and underlined.` +
      `${of.missing ? ` No texts here: ${of.missing}.` : ""}`),
    make("div", { class: "explore" }, make("label", {}, "Item", items),
      make("button", { type: "button", class: "plain", onclick: step(-1) }, "← previous"),
      make("button", { type: "button", class: "plain", onclick: step(1) }, "next →")),
    make("div", { id: "item-shown" }));
  chosen = [];
  open();
}

function showItem(found) {
  item = found;
  const labels = item.runs.map((run) => run.label);
  chosen = chosen.filter((label) => labels.includes(label));
  if (!chosen.length) {
    chosen = first().map((run) => run.label);
  }
  const boxes = item.runs.map((run) => make("label", {}, make("input", {
    type: "checkbox", value: run.label, checked: chosen.includes(run.label), onchange: (event) => {
      chosen = event.target.checked ? [...chosen, run.label] : chosen.filter((label) => label !== run.label);
      panes();
    },
  }), ` ${run.label}`));
  const asked = item.question === null ? [] : [make("p", { class: "question" }, make("b", {}, "Question"), item.question)];
  $("item-shown").replaceChildren(...asked,
    make("fieldset", { class: "which" }, make("legend", {}, "Methods side by side"), ...boxes),
    make("div", { id: "panes", class: "panes" }), answers());
  panes();
}

// The last two methods at the middle rate: the first ones are controls.
function first() {
  const rates = [...new Set(item.runs.map((run) => run.rate).filter((rate) => rate !== null && rate > 0 && rate < 1))].sort((a, b) => a - b);
  const own = item.runs.filter((run) => run.rate === rates[Math.floor((rates.length - 1) / 2)] && run.rate !== null && !run.label.endsWith("*"));
  return own.length ? own.slice(-2) : item.runs.slice(0, 2);
}

// One byte for each document position: 1 where it was recomputed.
function bits(run) {
  const bytes = Uint8Array.from(atob(run.selected), (c) => c.charCodeAt(0));
  return Array.from({ length: item.documents }, (_, i) => (bytes[i >> 3] >> (i & 7)) & 1);
}

function panes() {
  const runs = item.runs.filter((run) => chosen.includes(run.label));
  $("panes").replaceChildren(...runs.map(pane));
  runs.forEach((run, i) => strip($("panes").children[i].querySelector("canvas"), bits(run), paint(run)));
  const texts = [...$("panes").querySelectorAll(".text")];
  texts.forEach((text) => text.addEventListener("scroll", () => texts.forEach((other) => {
    if (other !== text && Math.abs(other.scrollTop - text.scrollTop) > 1 && text.matches(":hover, :focus")) other.scrollTop = text.scrollTop;
  })));
}

function paint(run) {
  const named = group.colours[group.runs.indexOf(run.run)];
  return ALONG[named] ? theme("--muted") : named;
}

function pane(run) {
  const on = bits(run);
  const documents = on.reduce((a, b) => a + b, 0);
  const head = make("header", {}, make("b", {}, run.label),
    make("span", {}, `${documents} of ${item.documents} document tokens (${Math.round(100 * documents / item.documents)}%)`));
  const text = make("div", { class: "text", tabindex: "0", role: "group", "aria-label": `Tokens of ${run.label}; arrow keys go from token to token` });
  text.style.setProperty("--mark", `${paint(run)}33`);
  text.style.setProperty("--mark-line", paint(run));
  if (item.tokens) text.append(...segments(on));
  else text.append(make("p", { class: "empty" }, "Only the places of the recomputed tokens are known: see the strip above."));
  pointing(text);
  return make("section", { class: "pane", "aria-label": run.label, "data-label": run.label }, head,
    make("canvas", { role: "img", "aria-label": "Where in the documents the recomputed tokens lie" }), text);
}

function segments(on) {
  const first = item.spans[0][1];
  const last = item.spans.length - 1;
  return item.spans.map(([from, to], place) => {
    const document_ = place > 0 && place < last;
    const count = document_ ? on.slice(from - first, to - first).reduce((a, b) => a + b, 0) : 0;
    const title = place === 0 ? "instruction" : place === last ? "question (always computed)"
      : `chunk ${place} · ${count} of ${to - from} recomputed`;
    const tokens = item.tokens.slice(from, to).map((text, i) => make("span", {
      class: document_ && on[from + i - first] ? "t on" : "t", "data-at": from + i,
    }, text));
    return make("div", { class: place === 0 ? "chunk prefix" : place === last ? "chunk question-chunk" : "chunk" },
      make("i", {}, title), make("span", {}, ...tokens));
  });
}

function pointing(text) {
  let here = null;
  const point = (token) => {
    if (here) here.classList.remove("here");
    here = token;
    $("tip").hidden = !token;
    if (!token) return;
    token.classList.add("here");
    const box = token.getBoundingClientRect();
    $("tip").textContent = told(Number(token.dataset.at), token);
    $("tip").style.left = `${Math.min(Math.max(box.left, 8), innerWidth - $("tip").offsetWidth - 8)}px`;
    const above = box.top - $("tip").offsetHeight - 6;
    $("tip").style.top = `${above > 0 ? above : box.bottom + 6}px`;
  };
  text.addEventListener("mouseover", (event) => point(event.target.closest(".t")));
  text.addEventListener("mouseleave", () => point(null));
  text.addEventListener("blur", () => point(null));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") point(null);
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const all = [...text.querySelectorAll(".t")];
    const next = all[Math.min(Math.max((here ? all.indexOf(here) : -1) + by, 0), all.length - 1)];
    next.scrollIntoView({ block: "nearest" });
    point(next);
  });
}

function told(at, token) {
  const units = { surprisal: "nats", sinks: "" };
  const known = Object.entries(item.scores).map(([name, values]) => `${name} ${values[at].toFixed(3)} ${units[name.split(" ")[0]]}`.trim());
  return [`token ${at}${token.classList.contains("on") ? ", recomputed" : ""}`, ...known].join("\n");
}

// Where in the documents the recomputed tokens lie, chunk boundaries on the lower edge.
function strip(canvas, on, colourOf) {
  const wide = Math.max(canvas.clientWidth, 50) * devicePixelRatio;
  canvas.width = wide;
  canvas.height = 22 * devicePixelRatio;
  const context = canvas.getContext("2d");
  context.fillStyle = colourOf;
  const unit = wide / on.length;
  on.forEach((bit, i) => { if (bit) context.fillRect(i * unit, 0, Math.max(unit, 1), canvas.height); });
  if (!item.spans) return;
  context.fillStyle = theme("--ink");
  for (const [from] of item.spans.slice(1, -1)) {
    context.fillRect((from - item.spans[0][1]) * unit, canvas.height * 0.7, Math.max(1, devicePixelRatio), canvas.height * 0.3);
  }
}

function answers() {
  const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const row = (name, score, kl, ...answer) => make("tr", {}, make("td", {}, name), make("td", {}, score), make("td", {}, kl),
    make("td", {}, ...answer));
  const changed = { same: (text) => text, added: (text) => make("ins", {}, text), gone: (text) => make("del", {}, text) };
  const first = row("full prefill", number(item.full_score, 1), "0", item.full === null ? "not kept: run it with REUSE=no" : item.full);
  const rest = item.runs.map((run) => row(run.label, number(run.score, 1), number(run.kl_mean, 3),
    ...(run.changes ? run.changes.map(([kind, text]) => changed[kind](text)) : [run.prediction])));
  const head = ["answer of", "score", "KL", "answer; what differs from the full prefill's is marked"];
  return make("div", { class: "scroll", style: "margin-top:14px", tabindex: "0", role: "region", "aria-label": "Answers" },
    make("table", { class: "answers", style: "margin:0" },
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", {}, text)))),
      make("tbody", {}, first, ...rest)),
    make("p", { class: "note", style: "padding:8px" }, `References: ${item.answers.length ? item.answers.join(" · ") : "none"}`));
}
