// Curves: small charts, one reading line through all of them, raw values behind a smoothed line.

const KEY_CHARTS = [
  { title: "Reward", names: [/^reward\/mean$/, /^reward\/part\//], label: (name) => name.slice(7).replace("part/", "") },
  { title: "Held-out accuracy", evaluations: true },
  { title: "Groups without signal", names: [/^group\/zero_signal$/] },
  { title: "Response length (tokens)", names: [/^response\/length_mean$/] },
  { title: "Entropy (nats)", names: [/^policy\/entropy$/] },
  { title: "Gradient norm", names: [/^policy\/grad_norm$/] },
  { title: "Largest ratio", names: [/^policy\/ratio_max$/] },
  { title: "Clipped tokens (share)", names: [/^policy\/clip_(high|low)_fraction$/], label: (name) => (name.includes("high") ? "at the upper bound" : "at the lower bound") },
  { title: "Mismatch of sampler and trainer (KL)", names: [/^mismatch\/kl$/] },
  { title: "Tokens with credit (share)", names: [/^credit\/nonzero_fraction$/] },
  { title: "Seconds per step, by stage", names: [/^cost\/.*_seconds$/], label: (name) => name.slice(5, -8).replace(/^step$/, "whole step") },
  { title: "Tokens per second", names: [/^cost\/tokens_per_second$/] },
];
const LINE_CLASSES = 8;
const charts = [];
let smoothing = 0.6;
let readStep = null;

function smooth(values) {
  // Exponential mean with bias correction; a null is skipped and stays a gap.
  let mean = 0, weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    mean = smoothing * mean + (1 - smoothing) * value;
    weight = smoothing * weight + (1 - smoothing);
    return mean / weight;
  });
}

function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 2.5, 5, 10].find((m) => m * unit >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function tickLabel(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential().replace("e+", "e") : String(value);
}

const TICK_WIDTH = 6.4; // pixels of a character of a tick label at most

function bandPath(band, x, y) {
  if (!band.length) return "";
  const there = band.map(([step, , high]) => `${x(step).toFixed(1)} ${y(high).toFixed(1)}`);
  const back = [...band].reverse().map(([step, low]) => `${x(step).toFixed(1)} ${y(low).toFixed(1)}`);
  return `M${there.join("L")}L${back.join("L")}Z`;
}

function pathOf(points, x, y) {
  let path = "", open = false;
  for (const [step, value] of points) {
    if (value === null) { open = false; continue; }
    path += (open ? "L" : "M") + x(step).toFixed(1) + " " + y(value).toFixed(1);
    open = true;
  }
  return path;
}

function seriesOf(spec) {
  if (spec.series) return spec.series;
  if (spec.evaluations) {
    return report.evaluations.map((set) => ({
      name: report.evaluations.some((o) => o !== set && o.name === set.name) ? `${set.name} (${set.mode})` : set.name,
      points: set.points.map((p) => [p.step, p.accuracy]),
      whiskers: set.points.filter((p) => p.low !== null && p.high !== null),
    }));
  }
  return spec.members.map((name) => ({
    name,
    points: report.curves.steps.map((step, i) => [step, report.curves.series[name][i]]),
    smoothed: true,
  }));
}

function makeChart(spec) {
  const series = seriesOf(spec);
  const plot = make("div", { class: "plot", tabindex: 0, role: "img", "aria-label": describe(spec.title, series) });
  const legend = make("div", { class: "series" });
  const meaning = spec.members && spec.members.length === 1 ? report.curves.meaning[spec.members[0]] : null;
  const title = make("h3", { text: spec.title, title: meaning ? meaning.join("\n\n") : "" });
  const box = make("figure", { class: "chart" }, title, legend, plot);
  const chart = { spec, series, plot, legend, box, drawn: 0 };
  plot.addEventListener("pointermove", (event) => {
    if (!chart.x) return;
    const at = event.clientX - plot.getBoundingClientRect().left;
    setReading(nearestStep(chart, chart.x.invert(at)));
  });
  plot.addEventListener("pointerleave", () => setReading(null));
  plot.addEventListener("blur", () => setReading(null));
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const steps = chart.steps;
    const at = readStep === null ? (move > 0 ? -1 : steps.length) : steps.indexOf(nearestStep(chart, readStep));
    setReading(steps[clamp(at + move, 0, steps.length - 1)]);
  });
  charts.push(chart);
  return box;
}

function describe(title, series) {
  const parts = series.map((s) => {
    const known = s.points.filter((p) => p[1] !== null);
    if (!known.length) return `${s.name}: no value`;
    const [first, last] = [known[0], known[known.length - 1]];
    return `${s.name}: ${formatNumber(first[1])} at step ${first[0]}, ${formatNumber(last[1])} at step ${last[0]}`;
  });
  return `${title}. ${parts.join("; ")}`;
}

function nearestStep(chart, step) {
  let best = null;
  for (const s of chart.steps) if (best === null || Math.abs(s - step) < Math.abs(best - step)) best = s;
  return best;
}

function drawChart(chart) {
  const width = chart.plot.clientWidth, height = 168;
  if (!width) return;
  chart.drawn = width;
  const margin = { left: 46, right: 10, top: 8, bottom: 22 }; // left grows with the labels
  const lines = chart.series.map((s) => ({ ...s, line: s.points }));
  for (const s of lines) if (s.smoothed) {
    const values = smooth(s.points.map((p) => p[1]));
    s.line = s.points.map((p, i) => [p[0], values[i]]);
  }
  chart.lines = lines;
  chart.steps = [...new Set(lines.flatMap((s) => s.points.map((p) => p[0])))].sort((a, b) => a - b);
  const values = lines.flatMap((s) => s.points.map((p) => p[1]).concat((s.whiskers || []).flatMap((p) => [p.low, p.high]), (s.band || []).flatMap((p) => [p[1], p[2]]))).filter((v) => v !== null);
  let low = Math.min(...values), high = Math.max(...values);
  if (low >= 0 && low < 0.35 * high) low = 0;
  if (low === 0 && high === 0) high = 1;
  if (low === high) { low -= Math.abs(low) * 0.1 || 0.5; high += Math.abs(high) * 0.1 || 0.5; }
  const pad = (high - low) * 0.05;
  if (low !== 0) low -= pad;
  high += pad;
  const all = report.curves.steps.concat(report.evaluations.flatMap((set) => set.points.map((p) => p.step)));
  let first = Math.min(...all), last = Math.max(...all);
  if (first === last) { first -= 1; last += 1; }
  const ticks = niceTicks(low, high, 4);
  margin.left = Math.max(margin.left, 12 + TICK_WIDTH * Math.max(...ticks.map((tick) => tickLabel(tick).length)));
  const inner = width - margin.left - margin.right, tall = height - margin.top - margin.bottom;
  const x = (step) => margin.left + (step - first) / (last - first) * inner;
  x.invert = (px) => first + (px - margin.left) / inner * (last - first);
  const y = (value) => margin.top + (1 - (value - low) / (high - low)) * tall;
  chart.x = x;
  chart.y = y;
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  for (const tick of ticks) {
    svg.append(draw("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { class: "tick", x: margin.left - 6, y: y(tick) + 3.5, "text-anchor": "end", text: tickLabel(tick) }));
  }
  for (const tick of niceTicks(first, last, Math.max(2, Math.floor(inner / 70)))) {
    if (tick !== Math.round(tick)) continue;
    svg.append(draw("text", { class: "tick", x: x(tick), y: height - 6, "text-anchor": "middle", text: String(tick) }));
  }
  lines.forEach((s, i) => {
    const colour = `line c${(s.colour ?? i) % LINE_CLASSES}`;
    if (s.band) svg.append(draw("path", { class: `band c${(s.colour ?? i) % LINE_CLASSES}`, d: bandPath(s.band, x, y) }));
    if (s.smoothed && smoothing > 0) svg.append(draw("path", { class: colour + " raw", d: pathOf(s.points, x, y) }));
    for (const p of s.whiskers || []) {
      svg.append(draw("path", { class: colour + " whisker", d: `M${x(p.step)} ${y(p.low)}V${y(p.high)}M${x(p.step) - 4} ${y(p.low)}h8M${x(p.step) - 4} ${y(p.high)}h8` }));
    }
    svg.append(draw("path", { class: colour, d: pathOf(s.line, x, y) }));
    // Evaluations are dots; so is a value between two gaps, which has no line.
    const alone = (p, k) => [s.line[k - 1], s.line[k + 1]].every((q) => !q || q[1] === null);
    for (const p of s.line.filter((p, k) => p[1] !== null && (!s.smoothed || alone(p, k)))) svg.append(draw("circle", { class: colour + " dot", cx: x(p[0]), cy: y(p[1]), r: 3 }));
  });
  chart.reading = draw("g", { class: "reading" });
  svg.append(chart.reading);
  chart.plot.replaceChildren(svg);
  showReading(chart);
}

function setReading(step) {
  readStep = step;
  for (const chart of charts) if (chart.drawn) showReading(chart);
}

function showReading(chart) {
  const step = readStep === null ? null : nearestStep(chart, readStep);
  chart.reading.replaceChildren();
  if (step !== null) {
    const at = chart.x(step);
    chart.reading.append(draw("line", { class: "cross", x1: at, x2: at, y1: 8, y2: 146 }));
  }
  chart.legend.replaceChildren(...chart.lines.map((s, i) => {
    const known = s.points.filter((p) => p[1] !== null);
    const index = step === null ? -1 : s.points.findIndex((p) => p[0] === step);
    const shown = step === null ? known[known.length - 1] : s.points[index];
    let text = shown ? formatNumber(shown[1]) : "–";
    if (index >= 0 && s.smoothed && smoothing > 0 && s.line[index][1] !== null) text += ` (smooth ${formatNumber(s.line[index][1])})`;
    if (index >= 0 && s.line[index][1] !== null) {
      chart.reading.append(draw("circle", { class: `line c${(s.colour ?? i) % LINE_CLASSES} dot`, cx: chart.x(step), cy: chart.y(s.line[index][1]), r: 3.5 }));
    }
    const label = chart.spec.label ? chart.spec.label(s.name) : s.name === chart.spec.title ? "value" : s.name;
    const meaning = report.curves.meaning[s.name];
    return make("span", { class: `item c${(s.colour ?? i) % LINE_CLASSES}`, title: meaning ? `${s.name}: ${meaning.join("\n\n")}` : s.name }, make("i"), `${label} `, make("b", { text }));
  }), make("span", { class: "at", text: step === null ? "last" : `step ${step}` }));
}

function buildCurves() {
  const root = byId("charts");
  const names = Object.keys(report.curves.series).filter((name) => report.curves.series[name].some((v) => v !== null));
  const used = new Set();
  const key = make("div", { class: "grid-charts" });
  for (const spec of KEY_CHARTS) {
    if (spec.evaluations) {
      if (report.evaluations.length) key.append(makeChart(spec));
      continue;
    }
    const members = names.filter((name) => spec.names.some((pattern) => pattern.test(name)));
    if (!members.length) continue;
    members.forEach((name) => used.add(name));
    for (let i = 0; i < members.length; i += LINE_CLASSES) {
      key.append(makeChart({ ...spec, title: i ? `${spec.title} (more)` : spec.title, members: members.slice(i, i + LINE_CLASSES) }));
    }
  }
  const rest = names.filter((name) => !used.has(name));
  const empty = Object.keys(report.curves.series).filter((name) => !names.includes(name));
  if (!key.children.length && !rest.length) {
    root.append(make("p", { class: "empty", text: "No step is written yet." }));
    return;
  }
  root.append(key);
  if (rest.length) {
    const more = make("div", { class: "grid-charts" }, ...rest.map((name) => makeChart({ title: name, members: [name] })));
    const details = make("details", { id: "more-curves", ontoggle: drawVisible }, make("summary", { text: `All other metrics (${rest.length})` }), more);
    root.append(details);
  }
  if (empty.length) root.append(make("p", { class: "hint", text: `Never finite: ${empty.join(", ")}` }));
  bindControls(root);
}

function bindControls(root) {
  if (report.curves.steps.length < 20) { // too few points to smooth
    smoothing = 0;
    byId("smoothing").value = "0";
    byId("smoothing-value").textContent = "0.00";
  }
  byId("smoothing").addEventListener("input", (event) => {
    smoothing = Number(event.target.value);
    byId("smoothing-value").textContent = smoothing.toFixed(2);
    charts.forEach((chart) => chart.drawn && drawChart(chart));
  });
  byId("curve-filter").addEventListener("input", (event) => {
    const word = event.target.value.trim().toLowerCase();
    for (const chart of charts) {
      const text = [chart.spec.title, ...chart.series.map((s) => s.name)].join(" ").toLowerCase();
      chart.box.hidden = !text.includes(word);
    }
    const more = byId("more-curves");
    if (more && word) more.open = true;
    drawVisible();
  });
  new ResizeObserver(drawVisible).observe(root);
  drawVisible();
}

function drawVisible() {
  for (const chart of charts) if (chart.plot.clientWidth && chart.plot.clientWidth !== chart.drawn) drawChart(chart);
}
