// A video's time axis under a response: the frames of the prompt, what was asked for, what should have been, what came.

function clock(seconds) {
  return `${Number(seconds.toFixed(2))} s`;
}

// A frame with its moment.
function timed(picture, seconds) {
  return make("figure", { class: "frame" }, picture, make("figcaption", { text: clock(seconds) }));
}

function timeline(group, member) {
  const windows = member.windows || [], known = (times) => (times || []).filter((t) => t !== null);
  const seen = known(group.times), given = (member.inserted || []).flatMap((one) => known(one.times));
  if (!seen.length && !windows.length && !given.length) return null;
  const ends = [...seen, ...given, ...windows.map((w) => w.end)];
  const length = Math.max(group.duration || 0, ...ends) || 1;
  const at = (seconds) => `${(100 * clamp(seconds / length, 0, 1)).toFixed(2)}%`;
  const words = [];

  const row = (name, ...marks) => make("div", { class: "track" }, make("span", { class: "name", text: name }), make("div", { class: "axis" }, ...marks));
  const ticks = (times, kind) => times.map((seconds) => {
    const tick = make("i", { class: `moment ${kind}`, title: clock(seconds) });
    tick.style.left = at(seconds);
    return tick;
  });
  const bar = (window) => {
    const node = make("i", { class: `window ${window.name}${window.status && window.status !== "ok" ? " refused" : ""}` });
    node.style.left = at(window.start);
    node.style.width = `calc(${at(window.end)} - ${at(window.start)})`;
    return node;
  };
  const said = (window) => [
    `${Number(window.start.toFixed(2))}–${clock(window.end)}`,
    window.rate ? `${formatNumber(window.rate)} frames/s` : null,
    window.status ? window.status.replaceAll("_", " ") : null,
    window.at >= 0 ? `tokens ${window.at}–${window.at + window.count - 1}` : null,
  ].filter(Boolean).join(" · ");

  const rows = [];
  if (seen.length) rows.push(row("prompt", ...ticks(seen, "seen")));
  for (const window of windows) {
    rows.push(row(window.name, bar(window)));
    rows[rows.length - 1].append(make("span", { class: "said", text: said(window) }));
    words.push(`${window.name}: ${said(window)}`);
  }
  if (given.length) rows.push(row("inserted", ...ticks(given, "given")));
  const scale = make("div", { class: "track scale", "aria-hidden": "true" }, make("span", { class: "name" }), make("div", { class: "axis" }, make("span", { text: "0 s" }), make("span", { text: clock(length) })));
  const label = `video of ${clock(length)}; ${seen.length} frames of the prompt shown; ${words.join("; ") || "no window"}; ${given.length} inserted frames shown`;
  return make("div", { class: "timeline", role: "img", "aria-label": label }, ...rows, scale);
}
