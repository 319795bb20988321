// Tokens: what can colour them, how strongly, and the card with the numbers of one of them.

// A packed stream is a list, or one value that holds for every token.
const valueAt = (stream, i) => (Array.isArray(stream) ? stream[i] : stream);

const colourings = [];
let colouring = null;

const pageMembers = (report.groups || report.samples.flatMap((step) => step.groups)).flatMap((group) => group.members);

function everyMember() {
  return pageMembers;
}

function collectColourings() {
  const weights = new Set(), signals = new Set();
  let logprobs = false;
  for (const member of everyMember()) {
    Object.keys(member.weights).forEach((name) => weights.add(name));
    Object.keys(member.signals).forEach((name) => signals.add(name));
    logprobs = logprobs || (Array.isArray(member.logprob) ? member.logprob.some((v) => v !== null) : member.logprob !== null);
  }
  const add = (key, label, read, centre) => colourings.push({ key, label, read, centre, ranges: new Map() });
  add("advantage", "advantage", (m) => m.advantage, 0);
  for (const name of weights) add(`weight:${name}`, `weight of ${name}`, (m) => m.weights[name], 1);
  if (signals.delete("segment")) add("segment", "segment", (m) => m.signals.segment, null);
  for (const name of signals) add(`signal:${name}`, `signal ${name}`, (m) => m.signals[name], null);
  if (logprobs) add("logprob", "log-prob", (m) => m.logprob, null);
  colouring = colourings[0];
}

// The range that the colours span: around the centre for signed quantities, else from the 1st to the 99th percentile.
function rangeOf(kind, members, key) {
  if (kind.ranges.has(key)) return kind.ranges.get(key);
  const values = [];
  for (const member of members) {
    const stream = kind.read(member);
    if (stream === undefined) continue;
    member.pieces.forEach((_, i) => {
      const value = valueAt(stream, i);
      if (value !== null && value !== undefined && valueAt(member.mask, i)) values.push(value);
    });
  }
  const sorted = Float64Array.from(values).sort(); // by number, and several times as fast as a list
  let range;
  const low = quantile(sorted, 0.01), high = quantile(sorted, 0.99);
  if (kind.centre !== null || (low < 0 && high > 0)) {
    const centre = kind.centre === null ? 0 : kind.centre;
    const spread = quantile(sorted.map((v) => Math.abs(v - centre)).sort(), 0.99);
    range = { signed: true, centre, spread: spread || 1, flat: !spread, count: values.length };
  } else {
    range = { signed: false, low, high: high > low ? high : low + 1, flat: high === low, count: values.length };
  }
  kind.ranges.set(key, range);
  return range;
}

// Roles of tokens have a colour each, not a strength.
const SEGMENTS = ["less", "more", "amount", "up"];

// A value -> [colour name, strength 0..1], or null for no colour.
function shade(kind, range, value) {
  if (value === null || value === undefined) return null;
  if (kind.key === "segment") return value > 0 ? [SEGMENTS[(value - 1) % SEGMENTS.length], 0.5] : null;
  if (range.signed) {
    const away = (value - range.centre) / range.spread;
    if (away === 0) return null;
    const names = kind.centre === 1 ? ["more", "less"] : ["up", "down"];
    return [names[away > 0 ? 0 : 1], clamp(Math.abs(away), 0, 1)];
  }
  let strength = clamp((value - range.low) / (range.high - range.low), 0, 1);
  if (kind.key === "logprob") strength = 1 - strength; // strong = unlikely
  return strength > 0 ? ["amount", strength] : null;
}

function paint(node, kind, range, value) {
  const colour = shade(kind, range, value);
  node.style.backgroundColor = colour ? `rgb(var(--${colour[0]}) / calc(var(--tint) * ${(0.1 + 0.9 * colour[1]).toFixed(3)}))` : "";
}

function drawLegend(range) {
  const root = byId("legend");
  const outside = [make("span", { class: "token outside", text: "token" }), make("span", { class: "words", text: "not sampled by the policy, carries no credit" })];
  if (colouring.key === "segment") {
    const found = new Set(everyMember().flatMap((member) => { const values = member.signals.segment; return Array.isArray(values) ? values : [values]; }));
    const parts = [...found].filter((value) => value > 0).sort((a, b) => a - b).flatMap((value) => {
      const cell = make("span", { class: "token", text: `segment ${value}` });
      paint(cell, colouring, range, value);
      return [cell];
    });
    root.replaceChildren(make("span", { class: "name", text: colouring.label }), ...parts, make("span", { class: "words", text: "what a token is part of, such as 1: up to and in a retrieval call, 2: after it" }), ...outside);
    return;
  }
  const ramp = make("span", { class: "ramp", "aria-hidden": "true" });
  const cells = 21;
  const low = range.signed ? range.centre - range.spread : range.low;
  const high = range.signed ? range.centre + range.spread : range.high;
  for (let i = 0; i < cells; i++) {
    const cell = make("i");
    paint(cell, colouring, range, low + (high - low) * i / (cells - 1));
    ramp.append(cell);
  }
  const words = {
    advantage: "orange: pushed down · no colour: 0 · blue: pushed up",
    logprob: "strong: the policy found the token unlikely",
  }[colouring.key] || (colouring.centre === 1 ? "amber: credit enlarged · no colour: factor 1 · purple: credit reduced" : range.signed ? "orange: below 0 · blue: above 0" : "strong: large");
  const middle = range.signed ? [make("span", { class: "mid", text: formatNumber(range.centre) })] : [];
  root.replaceChildren(
    make("span", { class: "name", text: colouring.label }),
    make("span", { class: "scale" }, make("span", { text: formatNumber(low) }), ramp, make("span", { text: formatNumber(high) })),
    make("span", { class: "words", text: range.flat ? `${words} (one value only)` : words }),
    ...outside,
  );
}

// The visible form of a token's text: spaces as a raised dot, line ends and tabs as arrows, controls by code point.
const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;

function showPiece(node, piece) {
  if (piece === "") {
    node.append(make("span", { class: "mark", text: "∅" }));
    return;
  }
  let text = "";
  const flush = () => { if (text) node.append(text); text = ""; };
  const mark = (shown, after) => { flush(); node.append(make("span", { class: "mark", text: shown })); if (after) node.append(after); };
  for (const character of piece) {
    if (character === "\n") mark("↵", make("br"));
    else if (character === "\t") mark("→", "\t");
    else if (character === " ") { flush(); node.append(make("span", { class: "space", text: " " })); }
    else if (CONTROL.test(character)) mark("U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0"));
    else text += character;
  }
  flush();
}

function tokenNodes(member, range) {
  const stream = colouring.read(member), flags = flagsOf(member);
  const given = new Set((member.inserted || []).flatMap((one) => Array.from({ length: one.count }, (_, i) => one.at + i)));
  return member.pieces.map((piece, i) => {
    const inside = valueAt(member.mask, i);
    const node = make("span", { class: `token${inside ? "" : " outside"}${flags.has(i) ? " flagged" : ""}${given.has(i) ? " given" : ""}`, "data-i": i });
    showPiece(node, piece);
    if (inside && stream !== undefined) paint(node, colouring, range, valueAt(stream, i));
    return node;
  });
}

function showCard(node, member, i) {
  const card = byId("card");
  const logprob = valueAt(member.logprob, i);
  const rows = [
    ["token", `${i + 1} of ${member.pieces.length}, id ${member.ids[i]}`],
    ["advantage", formatNumber(valueAt(member.advantage, i))],
    ["log-prob", logprob === null ? "–" : `${formatNumber(logprob)}  (p ${formatNumber(Math.exp(logprob))})`],
    ...Object.entries(member.weights).map(([name, stream]) => [`× ${name}`, formatNumber(valueAt(stream, i))]),
    ...Object.entries(member.signals).map(([name, stream]) => [name, formatNumber(valueAt(stream, i))]),
  ];
  if (!valueAt(member.mask, i)) rows.push(["mask", "not sampled by the policy"]);
  for (const flag of flagsOf(member).get(i) || []) rows.push(["flagged", flag]);
  card.replaceChildren(
    make("code", { text: JSON.stringify(member.pieces[i]) }),
    make("table", {}, make("tbody", {}, ...rows.map(([label, value]) => make("tr", {}, make("th", { text: label }), make("td", { text: value }))))),
  );
  card.hidden = false;
  card.dataset.scroll = String(window.scrollY);
  const box = node.getClientRects()[0] || node.getBoundingClientRect();
  const wide = window.innerWidth > 700;
  card.style.left = wide ? `${clamp(box.left, 8, window.innerWidth - card.offsetWidth - 8)}px` : "";
  const below = box.bottom + 6 + card.offsetHeight < window.innerHeight;
  card.style.top = wide ? `${below ? box.bottom + 6 : Math.max(8, box.top - card.offsetHeight - 6)}px` : "";
}

function hideCard() {
  byId("card").hidden = true;
  document.querySelectorAll(".token.current").forEach((node) => node.classList.remove("current"));
}

/* Arrow keys go from token to token of a row; `select` shows one. */
function walkTokens(row, select) {
  row.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const nodes = row.querySelectorAll(".token");
    if (!move || !nodes.length) return;
    event.preventDefault();
    const current = row.querySelector(".token.current");
    const next = current ? clamp(Number(current.dataset.i) + move, 0, nodes.length - 1) : move > 0 ? 0 : nodes.length - 1;
    nodes[next].scrollIntoView({ block: "nearest" });
    select(nodes[next]);
  });
}
