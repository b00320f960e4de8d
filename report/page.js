"use strict";
// What the page does: the heat map's panel, downloads, colours, and when each plot is drawn. Text is set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- the heat map: each cell is a button; arrows move between them, so that the whole map is one stop of the Tab key ---

function pairs(rows) {
  const list = element("dl");
  for (const [name, value] of rows) list.append(element("dt", name), element("dd", value));
  return list;
}

function showCell(row, column) {
  const cell = data.cells[row][column], panel = document.getElementById("panel");
  const settings = cell.config.length ? [element("h4", "Configuration"), pairs(cell.config)] : [];
  panel.replaceChildren(element("h3", `${cell.family} against ${cell.subject}`), element("p", cell.verdict), pairs(cell.facts), ...settings);
  for (const button of document.querySelectorAll("#heat-map button")) button.setAttribute("aria-pressed", String(button.dataset.row === String(row) && button.dataset.column === String(column)));
}

function prepareHeatMap() {
  const body = document.querySelector("#heat-map tbody");
  if (!body) return;
  const grid = [...body.rows].map((row, r) => [...row.cells].slice(1).map((cell, c) => {
    const button = element("button", cell.textContent);
    button.type = "button";
    button.tabIndex = -1;
    button.dataset.row = r;
    button.dataset.column = c;
    button.setAttribute("aria-label", cell.dataset.words);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => { focusCell(r, c); showCell(r, c); });
    cell.replaceChildren(button);
    return button;
  }));
  const start = body.querySelector("td.confirmed button") ?? grid[0][0]; // the first from the top that was confirmed
  let current = start;
  function focusCell(row, column) {
    const next = grid[row]?.[column];
    if (!next) return;
    current.tabIndex = -1;
    next.tabIndex = 0;
    current = next;
    next.focus();
  }
  current.tabIndex = 0;
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  body.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    focusCell(Number(current.dataset.row) + step[0], Number(current.dataset.column) + step[1]);
  });
  showCell(Number(start.dataset.row), Number(start.dataset.column));
}

// --- downloads: base64 of gzip in the page, inflated to the very bytes that were packed ---

async function unpack(name) {
  const packed = [...document.querySelectorAll("script[data-file]")].find((script) => script.dataset.file === name);
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
}

async function download(name) {
  const link = element("a");
  link.href = URL.createObjectURL(await unpack(name));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- plots: one after the other, so that the page answers while they are drawn ---

const choices = data.subjects.flatMap((subject) => subject.parallel.map((group) => [subject, group]));

function drawChart(host) {
  const select = document.getElementById("parallel-choice");
  if (host.dataset.chart === "parallel") {
    if (choices.length) charts.parallel(host, data, palette(), choices[select.selectedIndex]);
  } else {
    charts[host.dataset.chart](host, data, palette());
  }
}

async function drawAll() {
  for (const host of document.querySelectorAll("[data-chart]")) {
    await new Promise((resolve) => setTimeout(resolve));
    drawChart(host);
  }
}

function prepareParallel() {
  const select = document.getElementById("parallel-choice");
  choices.forEach(([subject, group]) => select.append(element("option", `${subject.label}, ${group.title} (${group.trials.length} trials)`)));
  select.addEventListener("change", () => drawChart(document.querySelector('[data-chart="parallel"]')));
  if (!choices.length) select.closest(".scripted").replaceChildren(element("p", "Too few trials were measured for parallel coordinates.", "note"));
}

// --- colours: those of the system, until the reader chooses ---

function prepareTheme() {
  const button = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
    drawAll();
  });
  system.addEventListener("change", () => { show(); drawAll(); });
  show();
}

document.documentElement.classList.add("scripts");
for (const button of document.querySelectorAll("[data-download]")) button.addEventListener("click", () => download(button.dataset.download));
document.getElementById("print").addEventListener("click", () => print());
prepareTheme();
prepareHeatMap();
prepareParallel();
drawAll().then(() => { document.documentElement.dataset.drawn = "true"; });
