// Samples: pick a step and a group, see all its responses beside the picture.

const view = { step: 0, group: 0, filter: "all", scale: "page" };
let visible = [];

const allRewards = everyMember().map((member) => member.reward).filter((reward) => reward !== null);
const middleReward = (allRewards.reduce((a, b) => Math.min(a, b), Infinity) + allRewards.reduce((a, b) => Math.max(a, b), -Infinity)) / 2;
const oneReward = allRewards.every((reward) => reward === allRewards[0]);

// Right: the part that the run evaluates by is above 1/2; without such a part, the reward is above the middle of all.
function isRight(member) {
  if (report.right_part !== null && report.right_part in member.parts) return member.parts[report.right_part] > 0.5;
  return oneReward ? member.reward > 0 : member.reward > middleReward;
}

function kindOf(group) {
  const right = group.members.filter(isRight).length;
  return right === 0 ? "wrong" : right === group.members.length ? "right" : "mixed";
}

function passes(group, filter) {
  if (filter === "all") return true;
  return filter === "truncated" ? group.members.some((m) => m.truncated) : kindOf(group) === filter;
}

function refreshStep() {
  const step = report.samples[view.step];
  byId("step").value = String(view.step);
  byId("step-back").disabled = view.step === 0;
  byId("step-on").disabled = view.step === report.samples.length - 1;
  for (const option of byId("filter").options) {
    const count = step.groups.filter((group) => passes(group, option.value)).length;
    option.textContent = `${option.dataset.label} (${count})`;
  }
  visible = step.groups.filter((group) => passes(group, view.filter));
  view.group = clamp(view.group, 0, Math.max(0, visible.length - 1));
  const list = byId("groups");
  list.replaceChildren(...visible.map((group, i) => {
    const right = group.members.filter(isRight).length;
    const dots = make("span", { class: "dots", "aria-hidden": "true" }, ...group.members.map((m) => make("i", { class: isRight(m) ? "yes" : "no" })));
    return make(
      "div",
      { class: "entry", role: "option", id: `group-${i}`, onclick: () => { view.group = i; refreshGroup(); } },
      make("span", { class: "q", text: group.question || group.id }),
      make("span", { class: "row" }, dots, make("span", { text: `${right}/${group.members.length} right` })),
    );
  }));
  if (!visible.length) list.append(make("p", { class: "empty", text: "No such group at this step." }));
  refreshGroup();
}

function refreshGroup() {
  hideCard();
  const list = byId("groups"), root = byId("group");
  [...list.querySelectorAll(".entry")].forEach((node, i) => node.setAttribute("aria-selected", String(i === view.group)));
  const group = visible[view.group];
  if (!group) {
    list.removeAttribute("aria-activedescendant");
    root.replaceChildren();
    drawLegend(rangeOf(colouring, everyMember(), "page"));
    return;
  }
  list.setAttribute("aria-activedescendant", `group-${view.group}`);
  const entry = byId(`group-${view.group}`);
  list.scrollTop = clamp(list.scrollTop, entry.offsetTop + entry.offsetHeight - list.clientHeight, entry.offsetTop);
  list.scrollLeft = clamp(list.scrollLeft, entry.offsetLeft + entry.offsetWidth - list.clientWidth, entry.offsetLeft);
  const range = view.scale === "group" ? rangeOf(colouring, group.members, `${report.samples[view.step].step}/${visible.indexOf(group)}/${view.filter}`) : rangeOf(colouring, everyMember(), "page");
  drawLegend(range);
  const prompt = make("div", { class: "prompt" });
  for (const place of group.media) {
    const uri = report.media[place];
    if (uri === null) {
      prompt.append(make("p", { class: "notice", text: "image missing" }));
      continue;
    }
    const picture = make("img", { src: uri, alt: `image of ${group.id}`, loading: "lazy" });
    picture.addEventListener("load", () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= 128));
    prompt.append(picture);
  }
  prompt.append(
    make("p", { class: "question", text: group.question }),
    make("p", { class: "answer" }, "answer ", make("b", { text: group.answer === null ? "–" : group.answer })),
    make("p", { class: "hint", text: `${group.id} · step ${report.samples[view.step].step}` }),
  );
  if (group.size > group.members.length) prompt.append(make("p", { class: "notice", text: `${group.members.length} of ${group.size} responses fit onto the page` }));
  root.replaceChildren(prompt, make("div", { class: "responses" }, ...group.members.map((member) => responseCard(member, range))));
}

function responseCard(member, range) {
  const right = isRight(member);
  const head = make(
    "header",
    {},
    make("span", { class: right ? "badge yes" : "badge no", text: right ? "✓ right" : "✗ wrong" }),
    make("span", { class: "reward" }, "reward ", make("b", { text: formatNumber(member.reward) })),
    ...Object.entries(member.parts).map(([name, value]) => make("span", { class: "part", text: `${name} ${formatNumber(value)}` })),
    make("span", { class: "part", text: `${member.pieces.length} tokens` }),
    make("span", { class: "part", text: `advantage ${spanOf(member)}` }),
    member.truncated ? make("span", { class: "badge cut", text: "✂ cut off" }) : null,
    make("span", { class: "number", text: `#${member.member}` }),
  );
  const body = make("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": `response ${member.member}, ${right ? "right" : "wrong"}` }, ...tokenNodes(member, range));
  if (!member.pieces.length) body.append(make("span", { class: "mark", text: "empty response" }));
  const at = (event) => event.target.closest(".token");
  const select = (node) => {
    hideCard();
    node.classList.add("current");
    showCard(node, member, Number(node.dataset.i));
  };
  body.addEventListener("pointerover", (event) => { const node = at(event); if (node) select(node); });
  body.addEventListener("click", (event) => { const node = at(event); if (node) select(node); });
  body.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideCard(); });
  body.addEventListener("blur", hideCard);
  walkTokens(body, select);
  const text = member.text === undefined ? null : make("details", {}, make("summary", { text: "decoded text" }), make("pre", { text: member.text }));
  const verdicts = (member.verdicts || []).map(verdictNode);
  const inserted = (member.inserted || []).map(insertedNode);
  return make("article", { class: right ? "response yes" : "response no" }, head, body, ...inserted, ...verdicts, text);
}

// Media in the middle of a response: where they stand, and some of their frames.
function insertedNode(one) {
  const pictures = one.media.filter((place) => report.media[place] !== null).map((place) => make("img", { src: report.media[place], alt: "inserted frame", loading: "lazy" }));
  return make("div", { class: "inserted" }, make("span", { class: "part", text: `inserted: tokens ${one.at}–${one.at + one.count - 1}` }), ...pictures);
}

// What a verifier says of the response: its status, then a line per flagged string with where it was found.
function verdictNode(verdict) {
  const status = verdict.reason ? `${verdict.status}: ${verdict.reason}` : verdict.status;
  const lines = verdict.spans.map((span) => {
    const place = span.tokens.map(([start, end]) => `tokens ${start}–${end - 1}`).join(", ") || span.fate;
    return make("li", {}, make("q", { text: span.text }), ` ${place}${span.rung ? ` (${span.rung})` : ""}`);
  });
  return make(
    "div",
    { class: "verdict" },
    make("span", { class: "part", text: `${verdict.verifier}: ${status}` }),
    lines.length ? make("ul", {}, ...lines) : null,
    verdict.detail ? make("details", {}, make("summary", { text: "what it said" }), make("pre", { text: verdict.detail })) : null,
  );
}

function spanOf(member) {
  const values = member.pieces.map((_, i) => (valueAt(member.mask, i) ? valueAt(member.advantage, i) : null)).filter((v) => v !== null);
  if (!values.length) return "–";
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  return low === high ? formatNumber(low) : `${formatNumber(low)} … ${formatNumber(high)}`;
}

function buildSamples() {
  collectColourings();
  const steps = byId("step"), colours = byId("colour");
  report.samples.forEach((step, i) => steps.append(make("option", { value: i, text: String(step.step) })));
  colourings.forEach((kind, i) => colours.append(make("option", { value: i, text: kind.label })));
  for (const option of byId("filter").options) option.dataset.label = option.textContent;
  const goStep = (i) => { view.step = clamp(i, 0, report.samples.length - 1); refreshStep(); };
  const goGroup = (i) => { view.group = clamp(i, 0, Math.max(0, visible.length - 1)); refreshGroup(); };
  const goColour = (i) => { colouring = colourings[i]; colours.value = String(i); refreshGroup(); };
  steps.addEventListener("change", () => goStep(Number(steps.value)));
  byId("step-back").addEventListener("click", () => goStep(view.step - 1));
  byId("step-on").addEventListener("click", () => goStep(view.step + 1));
  byId("filter").addEventListener("change", (event) => { view.filter = event.target.value; view.group = 0; refreshStep(); });
  byId("scale").addEventListener("change", (event) => { view.scale = event.target.value; refreshGroup(); });
  colours.addEventListener("change", () => goColour(Number(colours.value)));
  byId("spaces").addEventListener("change", (event) => byId("group").classList.toggle("plain-spaces", !event.target.checked));
  byId("groups").addEventListener("keydown", (event) => {
    const move = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) { event.preventDefault(); goGroup(view.group + move); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "[") goStep(view.step - 1);
    else if (event.key === "]") goStep(view.step + 1);
    else if (event.key === "j") goGroup(view.group + 1);
    else if (event.key === "k") goGroup(view.group - 1);
    else if (event.key === "c") goColour((colourings.indexOf(colouring) + 1) % colourings.length);
    else if (event.key === "Escape") hideCard();
  });
  document.addEventListener("scroll", () => {
    // A scroll by a few pixels is the layout settling; the keyboard's own scrolling keeps its card.
    const moved = Math.abs(window.scrollY - Number(byId("card").dataset.scroll)) > 24;
    if (moved && !document.querySelector(".tokens:focus")) hideCard();
  }, { passive: true });
  // Open where there is something to see: the first step's first mixed group.
  const mixed = report.samples[0].groups.findIndex((group) => kindOf(group) === "mixed");
  view.group = Math.max(0, mixed);
  refreshStep();
}
