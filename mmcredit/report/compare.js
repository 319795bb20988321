// Several runs: one chart per metric, one line per method with the range of its seeds, the same colour everywhere.

function buildComparison() {
  const root = byId("charts");
  const key = make("div", { class: "grid-charts" }), rest = make("div", { class: "grid-charts" });
  const accuracy = report.shown.map((item) => ({
    name: item.label,
    colour: item.arm,
    points: item.accuracy.map((p) => [p.step, p.accuracy]),
    whiskers: item.accuracy.filter((p) => p.low !== null && p.high !== null),
  }));
  if (accuracy.some((s) => s.points.length)) key.append(makeChart({ title: "Held-out accuracy", series: accuracy }));
  for (const metric of report.metrics) {
    const series = report.shown.map((item) => {
      const values = item.series[metric] || [];
      return { name: item.label, colour: item.arm, band: item.bands[metric], points: values.map((value, i) => [item.steps[i], value]), smoothed: true };
    });
    if (!series.some((s) => s.points.some((p) => p[1] !== null))) continue;
    const known = KEY_CHARTS.find((spec) => spec.names && spec.names.some((pattern) => pattern.test(metric)));
    (known ? key : rest).append(makeChart({ title: metric, series }));
  }
  root.append(key);
  if (rest.children.length) {
    root.append(make("details", { id: "more-curves", ontoggle: drawVisible }, make("summary", { text: `All other metrics (${rest.children.length})` }), rest));
  }
  bindControls(root);
}

function drawScatter() {
  const box = byId("scatter"), kind = byId("cost-kind").value;
  const points = report.points.filter((p) => p[kind] !== null && p.after !== null);
  if (!points.length) { box.replaceChildren(make("p", { class: "empty", text: "No run states this cost." })); return; }
  const width = box.clientWidth || 640, height = 260, margin = { left: 52, right: 16, top: 12, bottom: 30 };
  const span = (values) => {
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
    return [low - pad, high + pad];
  };
  const [left, right] = span(points.map((p) => p[kind])), [low, high] = span(points.flatMap((p) => [p.after, p.low ?? p.after, p.high ?? p.after]));
  const x = (v) => margin.left + (v - left) / (right - left) * (width - margin.left - margin.right);
  const y = (v) => margin.top + (1 - (v - low) / (high - low)) * (height - margin.top - margin.bottom);
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.setAttribute("aria-label", "Accuracy against cost. " + points.map((p) => `${p.run}, ${p.arm}: ${formatNumber(p.after)} for ${formatNumber(p[kind])} ${kind}`).join("; "));
  for (const tick of niceTicks(low, high, 5)) {
    svg.append(draw("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(tick), y2: y(tick) }));
    svg.append(draw("text", { class: "tick", x: margin.left - 6, y: y(tick) + 3.5, "text-anchor": "end", text: `${Number((100 * tick).toPrecision(4))} %` }));
  }
  for (const tick of niceTicks(left, right, Math.max(2, Math.floor(width / 120)))) {
    svg.append(draw("text", { class: "tick", x: x(tick), y: height - 8, "text-anchor": "middle", text: tickLabel(tick) }));
  }
  for (const p of points) {
    const colour = `line c${report.arms.indexOf(p.arm) % LINE_CLASSES}`;
    if (p.low !== null && p.high !== null) svg.append(draw("path", { class: `${colour} whisker`, d: `M${x(p[kind])} ${y(p.low)}V${y(p.high)}` }));
    const dot = draw("circle", { class: `${colour} dot`, cx: x(p[kind]), cy: y(p.after), r: 5 });
    dot.append(draw("title", { text: `${p.run} · ${p.arm} · ${p.task}: ${formatNumber(100 * p.after)} %` }));
    svg.append(dot);
  }
  box.replaceChildren(svg);
}

buildComparison();
byId("cost-kind").addEventListener("change", drawScatter);
new ResizeObserver(drawScatter).observe(byId("scatter"));
drawScatter();
document.documentElement.dataset.ready = "true";
