// Several runs: one chart per metric, one line per run, the same colour everywhere.

function buildComparison() {
  const root = byId("charts");
  const key = make("div", { class: "grid-charts" }), rest = make("div", { class: "grid-charts" });
  const accuracy = report.runs.map((run) => ({
    name: run.label,
    points: run.accuracy.map((p) => [p.step, p.accuracy]),
    whiskers: run.accuracy.filter((p) => p.low !== null && p.high !== null),
  }));
  if (accuracy.some((s) => s.points.length)) key.append(makeChart({ title: "Held-out accuracy", series: accuracy }));
  for (const metric of report.metrics) {
    const series = report.runs.map((run) => {
      const values = run.series[metric] || [];
      return { name: run.label, points: values.map((value, i) => [run.steps[i], value]), smoothed: true };
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

buildComparison();
document.documentElement.dataset.ready = "true";
