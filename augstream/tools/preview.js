"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const grid = $("grid"), chosen = $("chosen"), narrow = matchMedia("(max-width: 900px)");

/** An element with a text, a class and children. */
function make(tag, text, className, ...children) {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (className) node.className = className;
  node.append(...children);
  return node;
}
const short = (value) => typeof value !== "number" ? value : Number.isInteger(value) ? value : Number(value.toPrecision(4));

// Samples

function picture(entry, side) {
  const image = make("img");
  image.src = "data:image/jpeg;base64," + data.pictures[entry.pictures[side]];
  image.alt = `${entry.key} ${side ? "augmented" : "on disk"}, ${entry.sizes[side]}`;
  return image;
}

function show() {
  const wanted = { key: $("key").value, shard: $("shard").value, epoch: $("epoch").value };
  const fits = data.entries.filter((entry) => entry.key.includes(wanted.key)
    && ["shard", "epoch"].every((name) => wanted[name] === "all" || wanted[name] === String(entry[name])));
  grid.replaceChildren(...fits.map((entry) => {
    const card = make("button", null, "card", make("div", null, "pair", picture(entry, 0), picture(entry, 1)),
      make("div", `${entry.key} · ${entry.shard} · epoch ${entry.epoch}`, "name"));
    card.type = "button";
    card.tabIndex = -1;
    card.entry = entry;
    card.addEventListener("click", () => choose(card));
    return card;
  }));
  $("hint").textContent = fits.length
    ? `${fits.length} of ${data.entries.length} shown. Arrow keys, Home and End go from one to the next.`
    : "No sample fits. Choose another shard or epoch, or empty the key.";
  chosen.hidden = !fits.length;
  if (fits.length) choose(grid.firstChild);
}

function choose(card) {
  for (const other of grid.querySelectorAll(".card")) {
    other.setAttribute("aria-pressed", String(other === card));
    other.tabIndex = other === card ? 0 : -1;
  }
  const entry = card.entry, pair = make("div", null, "pair");
  [0, 1].forEach((side) => pair.append(make("figure", null, "", picture(entry, side),
    make("figcaption", side ? "augmented" : "on disk"))));
  const labels = [entry.sizes.join(" → "), ...Object.entries(entry.labels).map(([name, value]) => `${name}: ${value}`)].join(" · ");
  chosen.replaceChildren(make("h2", entry.key), make("code", entry.address), pair, make("p", labels, "name"),
    make("ol", null, "", ...entry.steps.map(step)));
  chosen.scrollTop = 0;
  place(card);
}

/** The details stand beside the grid, or on a narrow screen below the sample that they are about. */
function place(card) {
  if (narrow.matches) card.after(chosen);
  else if (chosen.parentNode !== $("samples")) $("samples").append(chosen);
}
narrow.addEventListener("change", () => place(grid.querySelector('[aria-pressed="true"]') || grid));

function step(made) {
  const ran = made.applied.length > 0, always = made.p === 1;
  const open = made.gate < made.p, gate = `drew ${made.gate.toFixed(3)} ${open ? "<" : "≥"} ${made.p}`;
  const verdict = made.error ? "failed" : always ? "always" : open && !ran ? `${gate}, nothing ran` : gate;
  const item = make("li", null, made.error ? "failed" : ran ? "" : "off",
    make("div", null, "", make("span", made.name), make("span", verdict, "gate")));
  if (made.error) item.append(make("div", made.error, "inner"));
  for (const record of made.applied) {
    if (record.name !== made.name) item.append(make("div", record.name, "inner"));
    const params = Object.entries(record.params);
    if (params.length) item.append(make("dl", null, "", ...params.flatMap(([name, value]) => [make("dt", name), make("dd", text(value))])));
  }
  return item;
}

function text(value) {
  if (Array.isArray(value)) return value.some(Array.isArray) ? value.map((row) => text(row)).join(" / ") : value.map(text).join(", ");
  if (value !== null && typeof value === "object") return Object.entries(value).map(([name, item]) => `${name} ${text(item)}`).join(", ");
  return String(short(value));
}

grid.addEventListener("keydown", (event) => {
  const cards = [...grid.querySelectorAll(".card")], at = cards.indexOf(document.activeElement);
  if (at < 0) return;
  const first = cards[0].getBoundingClientRect().top;
  const columns = Math.max(1, cards.filter((card) => Math.abs(card.getBoundingClientRect().top - first) < 2).length);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: cards.length - 1 }[event.key];
  if (to === undefined || !cards[to]) return;
  event.preventDefault();
  choose(cards[to]);
  cards[to].focus();
});

for (const name of ["shard", "epoch"]) {
  const values = [...new Set(data.entries.map((entry) => String(entry[name])))];
  for (const value of ["all", ...values]) $(name).append(new Option(value, value));
  $(name).addEventListener("change", show);
}
$("key").addEventListener("input", show);

// The two views

const tabs = [$("to-samples"), $("to-statistics")];
function view(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  $("hint").hidden = tab !== tabs[0];
  document.body.dataset.view = tab.getAttribute("aria-controls");
}
for (const tab of tabs) {
  tab.addEventListener("click", () => view(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const other = tabs[1 - tabs.indexOf(tab)];
    view(other);
    other.focus();
  });
}

// Statistics

for (const gate of data.gates) {
  const fill = make("i"), mark = make("b"), track = make("div", null, "track", fill, mark);
  fill.style.width = `${100 * gate.rate}%`;
  mark.style.left = `calc(${100 * gate.p}% - 1px)`;
  mark.title = `p = ${gate.p}`;
  const found = `${Math.round(100 * gate.rate)} % (p ${gate.p})`;
  $("rates").append(make("div", null, "rate", make("span", gate.name), track, make("span", found)));
}

const SVG = "http://www.w3.org/2000/svg";
function chart(histogram) {
  const svg = document.createElementNS(SVG, "svg"), most = Math.max(...histogram.series.flatMap((series) => series.counts));
  const bins = histogram.series[0].counts.length, thin = 9 / histogram.series.length;
  svg.setAttribute("viewBox", `0 0 ${bins * 10} 60`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", histogram.series.map((series) => `${histogram.name} ${series.label}: mean ${short(series.mean)}`).join("; "));
  histogram.series.forEach((series, number) => series.counts.forEach((count, bin) => {
    const bar = document.createElementNS(SVG, "rect"), height = (58 * count) / most;
    bar.setAttribute("class", series.label === "before" ? "before" : "after");
    for (const [name, value] of [["x", bin * 10 + number * thin], ["y", 60 - height], ["width", thin], ["height", height]]) bar.setAttribute(name, value);
    svg.append(bar);
  }));
  const figure = make("figure", null, "chart", make("figcaption", histogram.name), svg,
    make("div", null, "axis", make("span", short(histogram.low)), make("span", short(histogram.high))));
  const key = make("div", null, "key");
  for (const series of histogram.series) {
    const colour = series.label ? [make("i", null, series.label), `${series.label}: `] : [];
    key.append(make("span", null, "", ...colour, `mean ${short(series.mean)}`));
  }
  figure.append(key);
  return figure;
}
$("measures").append(...data.measures.map(chart));
$("drawn").append(...data.drawn.map(chart));
if (!data.drawn.length) $("drawn").append(make("p", "No number was drawn more than once.", "hint"));
$("about").textContent = data.about;
show();
