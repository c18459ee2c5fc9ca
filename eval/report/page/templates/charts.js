"use strict";
const ALONG = { ink: "--ink", muted: "--muted" };
const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (style) => (ALONG[style.colour] ? theme(ALONG[style.colour]) : style.colour);

const watching = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watching.unobserve(entry.target);
    draw(entry.target, entry.target.chart);
  }
}, { rootMargin: "300px" });

// A section's charts, those of one rate at a time; each is drawn when it comes into sight.
function fill(section, charts) {
  clear(section);
  section.hidden = !charts.length;
  const rates = [...new Set(charts.map((chart) => chart.rate).filter((rate) => rate !== ""))];
  const wide = charts.some((chart) => chart.scale === "verdict" && chart.columns.length > 5);
  const small = charts.some((chart) => chart.scale === "score");
  const place = make("div", { class: `charts${small ? " small" : ""}${wide ? " wide" : ""}` });
  const notes = [...new Set(charts.map((chart) => chart.note).filter((note) => note !== ""))];
  section.append(...notes.map((note) => make("p", { class: "note" }, note)));
  const show = (rate) => {
    clear(place);
    place.append(...charts.filter((chart) => [rate, ""].includes(chart.rate)).map((chart) => (chart.scale === "verdict" ? matrix : figure)(chart)));
    place.querySelectorAll(".plot").forEach((plot) => watching.observe(plot));
  };
  const middle = rates[Math.floor((rates.length - 1) / 2)] || "";
  if (rates.length > 1) {
    const select = make("select", { onchange: (event) => show(event.target.value) },
      ...rates.map((rate) => make("option", { selected: rate === middle }, rate)));
    section.append(make("label", { class: "pick rate" }, "Rate", select));
  }
  section.append(place);
  show(middle);
}

// Everything but a section's heading.
function clear(place) {
  place.querySelectorAll(".plot").forEach((plot) => { watching.unobserve(plot); Plotly.purge(plot); });
  place.querySelectorAll(":scope > :not(h2, h3)").forEach((child) => child.remove());
}

function figure(chart) {
  const plot = make("div", { class: "plot", role: "img", "aria-label": `${chart.title}; its figures are in the table below` });
  plot.chart = chart;
  plot.style.height = `${tall(chart)}px`;
  return make("figure", { id: `chart-${chart.name}` }, make("h4", {}, chart.title), plot, caption(chart));
}

function caption(chart) {
  const table = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures" });
  const shown = make("details", { ontoggle: () => {
    if (!table.firstChild) table.append(grid(chart.rows));
  } }, make("summary", {}, "Figures"), table);
  const links = make("div", { class: "links" },
    ...["png", "csv"].map((kind) => make("a", { href: `figures/${chart.file}.${kind}` }, kind.toUpperCase())));
  const leftOut = chart.left_out ? [make("p", { class: "note" }, chart.left_out)] : [];
  return make("figcaption", {}, ...leftOut, links, shown);
}

function grid([head, ...rows]) {
  const cell = (tag, value) => make(tag, {}, value === null ? "" : String(value));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head.map((v) => cell("th", v)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((v) => cell("td", v))))));
}

function tall(chart) {
  if (chart.kind === "lines") return 400;
  if (chart.kind === "grid") return 110 + 34 * Math.max(chart.lines.length, 3);
  const bars = chart.stacked ? 1 : chart.parts.length * 0.5;
  return 130 + Math.max(26, 24 * bars) * Math.max(chart.categories.length, 3);
}

function draw(plot, chart) {
  const [traces, layout] = { lines, bars, grid: heat }[chart.kind](chart);
  const axis = { gridcolor: theme("--line"), zerolinecolor: theme("--line"), linecolor: theme("--line"), automargin: true };
  const whole = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: theme("--ink") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: tall(chart),
    margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "closest",
    legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, xanchor: "left", font: { size: 12 } },
    hoverlabel: { bgcolor: theme("--ink"), font: { color: theme("--paper") } },
    ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  Plotly.newPlot(plot, traces, whole, {
    responsive: true, displaylogo: false, displayModeBar: innerWidth > 640 ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  });
}

// The library reads markup in its texts: names of runs must stay text.
const plainText = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function lines(chart) {
  const traces = [];
  const all = chart.lines.flatMap((line) => line.x);
  const wide = [Math.min(...all, ...chart.lines.flatMap((l) => l.limits.filter((x) => x !== null))), Math.max(...all)];
  const named = chart.lines.map((line) => line.label);
  for (const [label, style, height] of chart.guides) {
    traces.push({ type: "scatter", mode: "lines", name: label, legendgroup: label, showlegend: !named.includes(label), x: wide, y: [height, height], hoverinfo: "name+y",
      line: { color: colour(style), dash: style.dash, width: 1.2 } });
  }
  const ends = (values, found) => found.length ? {
    type: "data", symmetric: false, thickness: 1, width: 3,
    array: values.map((v, i) => (found[i] ? found[i][1] - v : 0)),
    arrayminus: values.map((v, i) => (found[i] ? v - found[i][0] : 0)),
  } : undefined;
  for (const line of chart.lines) {
    const paint = colour(line.style);
    traces.push({
      type: "scatter", mode: line.x.length > 40 ? "lines" : "lines+markers",
      name: plainText(line.label), legendgroup: line.label, x: line.x, y: line.y, error_x: ends(line.x, line.x_ci), error_y: ends(line.y, line.y_ci),
      text: (line.labels.length ? line.labels : line.x.map(() => line.label)).map(plainText),
      hovertemplate: "%{text}<br>%{x:.5~g} · %{y:.4~g}<extra></extra>",
      line: { color: paint, dash: line.style.dash, width: 1.8 }, marker: { color: paint, symbol: line.style.symbol, size: line.x.length > 12 ? 5 : 8, line: { width: 1.5, color: paint } },
    });
  }
  const limits = chart.lines.flatMap((line) => line.limits.map((x, i) => [x, line.y[i], line.labels[i], colour(line.style)]))
    .filter(([x]) => x !== null);
  if (limits.length) {
    traces.push({ type: "scatter", mode: "markers", name: "FLOP limit", x: limits.map((l) => l[0]), y: limits.map((l) => l[1]),
      text: limits.map((l) => `${plainText(l[2])}: by arithmetic alone`), hovertemplate: "%{text}<br>%{x:.5~g} ms<extra></extra>",
      marker: { symbol: "line-ns-open", size: 11, color: limits.map((l) => l[3]), line: { width: 2 } } });
  }
  return [traces, {
    xaxis: { title: { text: chart.x_label }, rangemode: chart.x_label === "layer" ? "normal" : "tozero" },
    yaxis: { title: { text: chart.y_label }, type: chart.log_y ? "log" : "linear" },
  }];
}

const PATTERNS = { solid: "", dash: "/", dot: ".", dashdot: "x" };

function bars(chart) {
  const shown = chart.parts.map((part) => ({
    type: "bar", orientation: "h", name: plainText(part.label), y: chart.categories.map(plainText), x: part.values,
    marker: { color: colour(part.style), pattern: { shape: PATTERNS[part.style.dash], fillmode: "overlay", fgcolor: theme("--panel"), solidity: 0.35, size: 7 } },
    hovertemplate: `%{y}<br>${plainText(part.label)}: %{x:.4~g}<extra></extra>`,
  }));
  const guide = chart.guide === null ? [] : [{
    type: "line", x0: chart.guide, x1: chart.guide, yref: "paper", y0: 0, y1: 1, line: { color: theme("--ink"), dash: "dash", width: 1.2 },
  }];
  return [shown, {
    legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0, xanchor: "left", traceorder: "normal" },
    barmode: chart.stacked ? "stack" : "group", bargap: 0.28, shapes: guide,
    xaxis: { title: { text: chart.value_label }, rangemode: "tozero" },
    yaxis: { autorange: "reversed", type: "category" },
  }];
}

function heat(chart) {
  return [[{
    type: "heatmap", x: chart.columns, y: chart.lines, z: chart.values, zmin: 0, zmax: 1, colorscale: "Cividis",
    xgap: 2, ygap: 2, text: chart.texts, texttemplate: chart.columns.length > 12 ? undefined : "%{text}",
    hovertext: chart.details, hoverinfo: "text", showscale: false, hoverongaps: false,
  }], {
    xaxis: { title: { text: chart.x_label }, type: "category", showgrid: false },
    yaxis: { type: "category", autorange: "reversed", showgrid: false, title: { text: chart.y_label } },
  }];
}

const LETTERS = { "-1": "W", 0: "~", 1: "B" };
const VERDICTS = { "-1": "worse", 0: "tie", 1: "better" };

// A table rather than a picture: every cell can be read.
function matrix(chart) {
  const rows = chart.lines.map((name, i) => make("tr", {}, make("th", { scope: "row" }, name),
    ...chart.values[i].map((value, j) => {
      if (value === null) return make("td", { class: "self" });
      const [middle, ends] = chart.texts[i][j].split("\n");
      return make("td", { class: VERDICTS[value], title: chart.details[i][j] },
        make("b", {}, LETTERS[value]), middle, make("small", {}, ends));
    })));
  const head = make("tr", {}, make("td", { class: "self" }), ...chart.columns.map((name) => make("th", { scope: "col" }, `− ${name}`)));
  const body = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": chart.title },
    make("table", { class: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  return make("figure", { id: `chart-${chart.name}` }, make("h4", {}, chart.title), body, caption(chart));
}
