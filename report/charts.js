"use strict";
// The plots of the page, drawn by Plotly from the numbers that report/payload.py computed. A function a plot.
// Every name and word passes through inert(): Plotly reads <b>, <a href> and the like in its labels as markup.

const SYMBOLS = ["circle", "square", "triangle-up", "triangle-down", "cross"];
const GLYPHS = ["●", "■", "▲", "▼", "✚"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const MARKS = {
  unattacked: { symbol: "cross-thin-open", size: 11, glyph: "+", words: "not attacked" },
  paper: { symbol: "x-thin-open", size: 9, glyph: "×", words: "paper's attack" },
  cheapest_break: { symbol: "diamond-open", size: 13, glyph: "◇", words: "cheapest confirmed break" },
  searched: { symbol: "star-open", size: 12, glyph: "☆", words: "weak spot, in search" },
  weak_spot: { symbol: "star", size: 14, glyph: "★", words: "weak spot, confirmed (95 % interval)" },
};
const PREFIXES = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];
const NARROW = 480; // pixels of a plot below which its labels are shortened

function inert(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function clipped(text, most) {
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}

function scaled(value) {
  let power = 0;
  while (power < PREFIXES.length - 1 && value >= 999.5) { value /= 1000; power += 1; }
  return `${value >= 9.95 ? Math.round(value) : Math.round(10 * value) / 10} ${PREFIXES[power]}`.trim();
}

// The page's colours, resolved for the theme that is shown: custom properties are not resolved by themselves.
function palette() {
  const probe = document.createElement("span");
  document.body.append(probe);
  const read = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
  const colours = { ink: read("ink"), muted: read("muted"), line: read("line"), page: read("page"), shade: read("shade") };
  colours.series = [0, 1, 2, 3, 4, 5].map((index) => read(`series-${index}`));
  colours.font = getComputedStyle(document.body).fontFamily;
  probe.remove();
  return colours;
}

function layoutOf(colours, changes) {
  const axis = { color: colours.muted, gridcolor: colours.line, zeroline: false, linecolor: colours.line, fixedrange: true, automargin: true };
  return {
    font: { family: colours.font, size: 12, color: colours.ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 48, r: 14, t: 10, b: 44 }, height: 290, showlegend: false, hovermode: "closest", dragmode: false,
    hoverlabel: { bgcolor: colours.page, bordercolor: colours.muted, font: { color: colours.ink, size: 12 }, align: "left" },
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    yaxis: { ...axis, ...changes.yaxis },
  };
}

function draw(place, traces, layout) {
  return Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true, doubleClick: false, showTips: false });
}

const HARM = { range: [-0.05, 1.07], tickvals: [0, 0.25, 0.5, 0.75, 1], title: { text: "harm", standoff: 6 } };

function thresholdLine(data, colours) {
  return { type: "line", xref: "paper", x0: 0, x1: 1, y0: data.threshold, y1: data.threshold, line: { color: colours.ink, width: 1, dash: "dash" } };
}

function thresholdWords(data, colours) {
  return { xref: "paper", x: 1, xanchor: "right", y: data.threshold, yanchor: "bottom", text: `threshold ${data.threshold.toFixed(2)}`, showarrow: false, font: { size: 11, color: colours.muted } };
}

// Where a family stands among the named ones, or -1.
function rank(data, trial) {
  return data.named.indexOf(trial.attack);
}

function trialWords(trial) {
  const settings = trial.config.map(([knob, value]) => `${inert(clipped(knob, 30))}: ${inert(clipped(value, 40))}`);
  const shown = settings.slice(0, 14).concat(settings.length > 14 ? [`and ${settings.length - 14} more`] : []);
  return `<b>${inert(trial.attack)}</b> · ${inert(clipped(trial.id, 40))}<br>${inert(trial.status)}<br>${shown.join("<br>")}`;
}

// All measurements, a trace for each named family and one for the others, filled where feasible.
function dots(data, subject, colours, across) {
  const traces = [];
  for (let named = -1; named < data.named.length; named += 1) {
    for (const feasible of [0, 1]) {
      const x = [], y = [], words = [];
      subject.points.trial.forEach((number, index) => {
        const trial = subject.trials[number];
        if (rank(data, trial) !== named || subject.points.feasible[index] !== feasible) return;
        x.push(across(index));
        y.push(subject.points.harm[index]);
        words.push(`harm ${subject.points.harm[index].toFixed(2)}, utility ${subject.points.utility[index].toFixed(2)}, ${scaled(subject.points.flops[index])}FLOP<br>${trialWords(trial)}`);
      });
      if (!x.length) continue;
      const colour = named < 0 ? colours.muted : colours.series[named];
      const symbol = (named < 0 ? "circle" : SYMBOLS[named]) + (feasible ? "" : "-open");
      traces.push({ type: "scatter", mode: "markers", x, y, hovertext: words, hoverinfo: "text", marker: { symbol, color: colour, size: named < 0 ? 4 : 7, opacity: named < 0 ? 0.55 : 0.75, line: { width: feasible ? 0 : 1, color: colour } } });
    }
  }
  return traces;
}

// The course of each trial as a thin line.
function courses(data, subject, colours, across) {
  const lines = new Map();
  subject.points.trial.forEach((number, index) => {
    const named = rank(data, subject.trials[number]);
    if (!lines.has(named)) lines.set(named, { x: [], y: [], last: number });
    const line = lines.get(named);
    if (line.last !== number) { line.x.push(null); line.y.push(null); line.last = number; }
    line.x.push(across(index));
    line.y.push(subject.points.harm[index]);
  });
  return [...lines].map(([named, line]) => ({ type: "scatter", mode: "lines", x: line.x, y: line.y, hoverinfo: "skip", opacity: 0.28, line: { width: 1, color: named < 0 ? colours.muted : colours.series[named] } }));
}

// What the report talks about, over the trials.
function marks(subject, colours, across) {
  return subject.marks.map((mark) => {
    const sign = MARKS[mark.kind];
    const trace = { type: "scatter", mode: "markers", x: [across(mark)], y: [mark.harm[0]], cliponaxis: false, hoverinfo: "text", hovertext: [`${sign.words}: harm ${mark.harm[0].toFixed(2)}, utility ${mark.utility[0].toFixed(2)}`], marker: { symbol: sign.symbol, size: sign.size, color: colours.ink, line: { color: colours.ink, width: 1.6 } } };
    if (mark.kind === "weak_spot") trace.error_y = { type: "data", symmetric: false, array: [mark.harm[2] - mark.harm[0]], arrayminus: [mark.harm[0] - mark.harm[1]], color: colours.ink, thickness: 2, width: 0 };
    return trace;
  });
}

// A panel for each subject that has something to show; returns [subject, place].
function panels(host, subjects) {
  if (!host.firstChild) {
    const grid = document.createElement("div");
    grid.className = "panels";
    for (const subject of subjects) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const place = document.createElement("div");
      caption.textContent = subject.label;
      place.className = "place";
      figure.append(caption, place);
      grid.append(figure);
    }
    host.append(grid);
  }
  return [...host.querySelectorAll(".place")].map((place, index) => [subjects[index], place]);
}

function describe(place, words) {
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", words);
}

function legend(host, data, subjects, colours) {
  host.querySelector(".legend")?.remove();
  const list = document.createElement("ul");
  list.className = "legend";
  const add = (glyph, colour, words) => {
    const item = document.createElement("li"), sign = document.createElement("span"), text = document.createElement("span");
    sign.textContent = glyph; sign.className = "glyph"; sign.style.color = colour; sign.setAttribute("aria-hidden", "true");
    text.textContent = words;
    item.append(sign, text);
    list.append(item);
  };
  data.named.forEach((family, index) => add(GLYPHS[index], colours.series[index], family));
  if (subjects.some((subject) => subject.trials.some((trial) => rank(data, trial) < 0))) add("•", colours.muted, "other families");
  add("○", colours.muted, "hollow: not feasible");
  for (const [kind, sign] of Object.entries(MARKS)) {
    if (subjects.some((subject) => subject.marks.some((mark) => mark.kind === kind))) add(sign.glyph, colours.ink, sign.words);
  }
  host.prepend(list);
}

// Subjects with something to draw. What the safeguards are read against is left out where nothing was searched on it; a safeguard
// whose every trial failed stays, with what was confirmed of it.
function searched(data) {
  return data.subjects.filter((subject) => subject.points.trial.length || (!subject.reference && subject.marks.length));
}

function nothingMeasured(subject, colours) {
  if (subject.points.trial.length) return [];
  return [{ xref: "paper", yref: "paper", x: 0.5, y: 0.75, text: "no trials were measured", showarrow: false, font: { size: 12, color: colours.muted } }];
}

function drawnNote(subject) {
  return subject.trials.length < subject.count ? ` ${subject.trials.length} of ${subject.count} trials are drawn.` : "";
}

const charts = {
  // Harm against the attacker's operations, which lie on a logarithmic axis with a place of its own for nothing.
  cost(host, data, colours) {
    const subjects = searched(data);
    const spent = subjects.flatMap((subject) => [...subject.points.flops, ...subject.marks.map((mark) => mark.flops)]).filter((flops) => flops > 0);
    const low = spent.length ? spent.reduce((a, b) => Math.min(a, b)) : 1, high = spent.length ? spent.reduce((a, b) => Math.max(a, b)) : 10;
    const first = Math.floor(Math.log10(low)), last = Math.max(Math.ceil(Math.log10(high)), first + 1);
    const zero = 10 ** (first - (last - first) * 0.14), stride = Math.max(1, Math.ceil((last - first) / 4));
    const powers = [];
    for (let power = first; power <= last; power += stride) powers.push(10 ** power);
    for (const [subject, place] of panels(host, subjects)) {
      const at = (flops) => (flops > 0 ? flops : zero);
      const traces = [...courses(data, subject, colours, (i) => at(subject.points.flops[i])), ...dots(data, subject, colours, (i) => at(subject.points.flops[i])), ...marks(subject, colours, (mark) => at(mark.flops))];
      draw(place, traces, layoutOf(colours, {
        xaxis: { type: "log", range: [Math.log10(zero) - 0.25, Math.log10(high) + 0.25], tickvals: [zero, ...powers], ticktext: ["0", ...powers.map(scaled)], title: { text: "attacker's cost in FLOP", standoff: 6 } },
        yaxis: HARM, shapes: [thresholdLine(data, colours)], annotations: [thresholdWords(data, colours), ...nothingMeasured(subject, colours)],
      }));
      describe(place, `${subject.label}: harm against the attacker's cost, ${subject.points.trial.length} measurements.${drawnNote(subject)} The numbers are in the tables below.`);
    }
    legend(host, data, subjects, colours);
  },

  // Harm against utility: the feasible region, within it the part that breaks, and the frontier of what was confirmed.
  utility(host, data, colours) {
    const subjects = searched(data);
    const right = 1.04 * subjects.flatMap((subject) => [...subject.points.utility, ...subject.marks.map((mark) => mark.utility[2])]).reduce((a, b) => Math.max(a, b), 1);
    for (const [subject, place] of panels(host, subjects)) {
      const front = subject.frontier;
      const line = { type: "scatter", mode: "lines+markers", x: front.map((f) => f.utility[0]), y: front.map((f) => f.harm[0]), hoverinfo: "text", hovertext: front.map((f) => `frontier: ${inert(f.attack)}<br>harm ${f.harm[0].toFixed(2)}, utility ${f.utility[0].toFixed(2)}<br>${inert(f.cost)}`), line: { color: colours.ink, width: 1.5, dash: "dot" }, marker: { symbol: "hexagon-open", size: 9, color: colours.ink } };
      const region = (y0, opacity) => ({ type: "rect", layer: "below", x0: data.floor, x1: right, y0, y1: 1.07, fillcolor: colours.shade, opacity, line: { width: 0 } });
      draw(place, [...dots(data, subject, colours, (i) => subject.points.utility[i]), ...(front.length ? [line] : []), ...marks(subject, colours, (mark) => mark.utility[0])], layoutOf(colours, {
        xaxis: { range: [-0.03, right], title: { text: "utility", standoff: 6 } }, yaxis: HARM,
        shapes: [region(-0.05, 0.18), region(data.threshold, 0.22), thresholdLine(data, colours)], annotations: nothingMeasured(subject, colours),
      }));
      describe(place, `${subject.label}: harm against utility, feasible from ${data.floor.toFixed(2)}, ${front.length} confirmed attacks on the frontier.${drawnNote(subject)} The numbers are in the tables below.`);
    }
    legend(host, data, subjects, colours);
    const item = document.createElement("li");
    item.textContent = "⬡┈⬡ frontier: confirmed, and beaten by no other in harm, cost and utility at once";
    host.querySelector(".legend").append(item);
  },

  // Every confirmed attack as a row: seeds, mean, interval, and what the search had seen.
  seeds(host, data, colours) {
    const [place] = panels(host, [{ label: "" }]).map((pair) => pair[1]);
    const rows = data.subjects.flatMap((subject) => subject.findings.map((finding) => ({ subject, finding })));
    if (!rows.length) { host.textContent = "No attack was confirmed."; return; }
    const narrow = host.clientWidth < NARROW, most = narrow ? 22 : 60;
    const names = rows.map(({ subject, finding }, index) => ({ at: rows.length - index, text: inert(clipped(`${subject.label}: ${finding.attack}`, most)) }));
    const at = (index) => names[index].at;
    const words = ({ subject, finding }) => `<b>${inert(subject.label)}: ${inert(finding.attack)}</b><br>harm ${finding.harm[0].toFixed(2)} [${finding.harm[1].toFixed(2)}, ${finding.harm[2].toFixed(2)}], utility ${finding.utility[0].toFixed(2)}<br>${inert(finding.cost)}`;
    const x = [], y = [];
    rows.forEach(({ finding }, index) => finding.seeds.forEach((harm) => { x.push(harm); y.push(at(index)); }));
    const order = rows.map((_, index) => at(index)), hovertext = rows.map(words);
    draw(place, [
      { type: "scatter", mode: "markers", x: rows.map(({ finding }) => finding.harm[0]), y: order, hoverinfo: "text", hovertext, error_x: { type: "data", symmetric: false, array: rows.map(({ finding }) => finding.harm[2] - finding.harm[0]), arrayminus: rows.map(({ finding }) => finding.harm[0] - finding.harm[1]), color: colours.series[0], thickness: 2, width: 0 }, marker: { symbol: "diamond", size: 9, color: colours.series[0] } },
      { type: "scatter", mode: "markers", x: rows.map(({ finding }) => finding.searched), y: order, hoverinfo: "text", hovertext: rows.map(({ finding }) => `in search: ${finding.searched.toFixed(2)}`), marker: { symbol: "circle-open", size: 10, color: colours.muted, line: { width: 1.5 } } },
      { type: "scatter", mode: "markers", x, y, hoverinfo: "x", marker: { symbol: "circle", size: 6, color: colours.series[1], line: { width: 1, color: colours.page } } },
    ], layoutOf(colours, {
      height: 70 + 26 * rows.length, margin: { l: 10, r: 14, t: 10, b: 44 },
      xaxis: { range: [-0.04, 1.04], title: { text: "harm", standoff: 6 } },
      yaxis: { tickvals: order, ticktext: names.map((name) => name.text), range: [0.4, rows.length + 0.6], showgrid: false },
      shapes: [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: data.threshold, x1: data.threshold, line: { color: colours.ink, width: 1, dash: "dash" } }],
    }));
    describe(place, `${rows.length} confirmed attacks with the harm on each fresh seed. The numbers are in the tables below.`);
  },

  // The best feasible harm so far, a line a subject.
  search(host, data, colours) {
    const [place] = panels(host, [{ label: "" }]).map((pair) => pair[1]);
    const subjects = data.subjects.filter((subject) => subject.best.length);
    const traces = subjects.map((subject, index) => {
      const colour = colours.series[index % 6], last = subject.best.length - 1;
      return { type: "scatter", mode: "lines+markers", x: subject.best.map((_, n) => n + 1), y: subject.best, line: { shape: "hv", color: colour, dash: DASHES[index % DASHES.length], width: 2 }, marker: { symbol: SYMBOLS[index % SYMBOLS.length], color: colour, size: subject.best.map((_, n) => (n === last ? 9 : 0.01)) }, hoverinfo: "text", hovertext: subject.best.map((best, n) => `${inert(subject.label)}, after ${n + 1} trials: ${best === null ? "nothing feasible" : best.toFixed(2)}`) };
    });
    draw(place, traces, layoutOf(colours, { height: 300, xaxis: { title: { text: "trial", standoff: 6 }, rangemode: "tozero" }, yaxis: { ...HARM, title: { text: "best feasible harm so far", standoff: 6 } }, shapes: [thresholdLine(data, colours)], annotations: [thresholdWords(data, colours)] }));
    describe(place, `Best feasible harm so far: ${subjects.map((subject) => `${subject.label} ends at ${subject.best.at(-1) === null ? "nothing feasible" : subject.best.at(-1).toFixed(2)} after ${subject.count} trials`).join("; ")}.`);
    host.querySelector(".legend")?.remove();
    const list = document.createElement("ul");
    list.className = "legend";
    subjects.forEach((subject, index) => {
      const item = document.createElement("li"), sign = document.createElement("span");
      sign.textContent = GLYPHS[index % GLYPHS.length]; sign.className = "glyph"; sign.style.color = colours.series[index % 6];
      item.append(sign, document.createTextNode(subject.label));
      list.append(item);
    });
    host.prepend(list);
  },

  // Permutation importance of the attacker's choices, a dot a shuffle.
  knobs(host, data, colours) {
    const subjects = data.subjects.filter((subject) => subject.knobs.length);
    for (const [subject, place] of panels(host, subjects)) {
      const knobs = [...subject.knobs].reverse(), x = [], y = [];
      knobs.forEach((knob, index) => knob.losses.forEach((loss) => { x.push(loss); y.push(index); }));
      const means = knobs.map((knob) => knob.losses.reduce((a, b) => a + b, 0) / knob.losses.length);
      draw(place, [
        { type: "scatter", mode: "markers", x, y, hoverinfo: "x", marker: { symbol: "circle-open", size: 6, color: colours.series[0] } },
        { type: "scatter", mode: "markers", x: means, y: knobs.map((_, index) => index), hoverinfo: "text", hovertext: knobs.map((knob, index) => `${inert(knob.name)}: ${means[index].toFixed(3)}, in ${knob.trials} trials`), marker: { symbol: "diamond", size: 9, color: colours.series[1] } },
      ], layoutOf(colours, { height: 60 + 24 * knobs.length, margin: { l: 10, r: 14, t: 10, b: 44 }, xaxis: { title: { text: "explained share of harm lost", standoff: 6 }, nticks: 5 }, yaxis: { tickvals: knobs.map((_, index) => index), ticktext: knobs.map((knob) => inert(clipped(knob.name, 24))) } }));
      describe(place, `${subject.label}: what matters most is ${subject.knobs.slice(0, 3).map((knob) => knob.name).join(", ")}.`);
    }
  },

  // Trials as lines over their settings, those that pass the threshold in front.
  parallel(host, data, colours, choice) {
    const [place] = panels(host, [{ label: "" }]).map((pair) => pair[1]);
    const [subject, group] = choice;
    const names = [...group.axes.map((axis) => axis.name), "feasible harm"];
    const classes = [
      { words: "no feasible rung", colour: colours.muted, dash: "dot", width: 0.8, opacity: 0.45, holds: (best) => best === null },
      { words: "below the threshold", colour: colours.series[0], dash: "solid", width: 1, opacity: 0.5, holds: (best) => best !== null && best < data.threshold },
      { words: "past the threshold", colour: colours.series[1], dash: "solid", width: 1.8, opacity: 0.9, holds: (best) => best !== null && best >= data.threshold },
    ];
    const traces = classes.map((kind) => {
      const x = [], y = [], hovertext = [];
      group.trials.forEach((number, index) => {
        const trial = subject.trials[number];
        if (!kind.holds(trial.best)) return;
        group.axes.forEach((axis, place) => { if (axis.places[index] !== null) { x.push(place); y.push(axis.places[index]); hovertext.push(trialWords(trial)); } });
        x.push(group.axes.length, null); y.push(trial.best ?? 0, null); hovertext.push(trialWords(trial), "");
      });
      return { type: "scatter", mode: "lines+markers", x, y, hovertext, hoverinfo: "text", opacity: kind.opacity, line: { color: kind.colour, width: kind.width, dash: kind.dash }, marker: { size: 3, color: kind.colour } };
    });
    const narrow = host.clientWidth < NARROW;
    const ends = (axis, end) => inert(clipped(axis.ends[end], narrow ? 7 : 14));
    const notes = [...group.axes, { ends: ["0", "1"] }].flatMap((axis, index) => [[0, -0.04, "top"], [1, 1.04, "bottom"]].map(([end, y, yanchor]) => ({ x: index, y, yanchor, text: ends(axis, end), showarrow: false, font: { size: narrow ? 9 : 11, color: colours.muted } })));
    draw(place, traces, layoutOf(colours, { height: 360, margin: { l: narrow ? 34 : 70, r: 24, t: 24, b: 90 }, xaxis: { tickvals: names.map((_, index) => index), ticktext: names.map((text) => inert(clipped(text, 20))), tickangle: narrow ? -60 : -25, range: [-0.3, names.length - 0.7], gridcolor: colours.muted }, yaxis: { range: [-0.15, 1.15], visible: false }, annotations: notes }));
    describe(place, `${subject.label}, ${group.title}: ${group.trials.length} trials over ${group.axes.map((axis) => axis.name).join(", ")}.`);
    host.querySelector(".legend")?.remove();
    const list = document.createElement("ul");
    list.className = "legend";
    classes.forEach((kind, index) => {
      const item = document.createElement("li"), sign = document.createElement("span");
      sign.textContent = ["┈", "─", "━"][index]; sign.className = "glyph"; sign.style.color = kind.colour;
      item.append(sign, document.createTextNode(kind.words));
      list.append(item);
    });
    host.prepend(list);
  },
};
