// Samples: pick a step and a group, see all its responses beside the picture.

const view = { step: 0, group: 0, filter: "all", scale: "page", sort: "step", search: "" };
let visible = [];
let list = null;

function refreshStep() {
  const last = report.samples.length - 1;
  byId("step").value = String(view.step);
  byId("step-back").disabled = view.step === 0;
  byId("step-on").disabled = view.step === last;
  const here = everyGroup.filter((group) => view.step < 0 || group.place === view.step);
  for (const option of byId("filter").options) {
    const count = here.filter((group) => passes(group, option.value)).length;
    option.textContent = `${option.dataset.label} (${count})`;
    option.hidden = !count && ["flagged", "heat"].includes(option.value);
  }
  visible = chosenGroups(view);
  view.group = clamp(view.group, 0, Math.max(0, visible.length - 1));
  byId("shown-count").textContent = `${visible.length} of ${everyGroup.length} groups`;
  list.show(visible, view.group);
  refreshGroup();
}

function refreshGroup() {
  hideCard();
  const root = byId("group"), group = visible[view.group];
  list.select(view.group);
  if (!group) {
    root.replaceChildren();
    drawLegend(rangeOf(colouring, everyMember(), "page"));
    return;
  }
  const own = view.scale === "group";
  const range = own ? rangeOf(colouring, group.members, `${group.place}/${report.samples[group.place].groups.indexOf(group)}`) : rangeOf(colouring, everyMember(), "page");
  drawLegend(range);
  root.replaceChildren(promptNode(group), make("div", { class: "responses" }, ...group.members.map((member) => responseCard(group, member, range))));
}

function promptNode(group) {
  const prompt = make("div", { class: "prompt" });
  const mapped = group.members.some((member) => heatOf(group, member));
  group.media.forEach((place, i) => {
    const uri = report.media[place];
    if (uri === null) {
      prompt.append(make("p", { class: "notice", text: "image missing" }));
      return;
    }
    const picture = make("img", { src: uri, alt: `image of ${group.id}`, loading: "lazy" });
    picture.addEventListener("load", () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= 128));
    const shown = i === 0 && mapped ? heatPicture(picture) : picture;
    const seconds = (group.times || [])[i];
    prompt.append(seconds === null || seconds === undefined ? shown : timed(shown, seconds));
  });
  if (mapped) prompt.append(make("p", { class: "hint", id: "heat-words", text: "Point at a token of a response with a heat map." }));
  prompt.append(
    make("p", { class: "question", text: group.question }),
    make("p", { class: "answer" }, "answer ", make("b", { text: group.answer === null ? "–" : group.answer })),
    make("p", { class: "hint", text: `${group.id} · step ${group.step}` }),
  );
  if (group.prompt) prompt.append(make("details", {}, make("summary", { text: "prompt as the model read it" }), make("pre", { class: "read", text: group.prompt })));
  if (group.size > group.members.length) prompt.append(make("p", { class: "notice", text: `${group.members.length} of ${group.size} responses fit onto the page` }));
  return prompt;
}

function responseCard(group, member, range) {
  const right = isRight(member), map = heatOf(group, member);
  const head = responseHead(member, make("span", { class: "part", text: `advantage ${spanOf(member)}` }), map ? make("span", { class: "badge map", text: "▦ heat map" }) : null);
  const body = tokenRow(member, range, `response ${member.member}, ${right ? "right" : "wrong"}`, (i) => { clearHeat(); showHeat(map, i); });
  const text = member.text === undefined ? null : make("details", {}, make("summary", { text: "decoded text" }), make("pre", { text: member.text }));
  const verdicts = (member.verdicts || []).map(verdictNode);
  const inserted = (member.inserted || []).map(insertedNode);
  return make("article", { class: right ? "response yes" : "response no" }, head, body, timeline(group, member), ...inserted, ...verdicts, text);
}

// Media in the middle of a response: where they stand, and some of their frames.
function insertedNode(one) {
  const pictures = one.media.map((place, i) => {
    if (report.media[place] === null) return null;
    const seconds = (one.times || [])[i], picture = make("img", { src: report.media[place], alt: "inserted frame", loading: "lazy" });
    return seconds === null || seconds === undefined ? picture : timed(picture, seconds);
  });
  return make("div", { class: "inserted" }, make("span", { class: "part", text: `inserted: tokens ${one.at}–${one.at + one.count - 1}` }), ...pictures);
}

// Open where there is most to see: the newest step with credit, there the mixed group with the largest credit.
function mostTelling() {
  const last = report.samples.length - 1;
  for (let step = last; step >= 0; step--) {
    const groups = report.samples[step].groups;
    if (!groups.some((group) => group.credit > 0)) continue;
    const score = (group) => (kindOf(group) === "mixed" ? 1e9 : 0) + group.credit;
    return [step, groups.reduce((best, group, i) => (score(group) > score(groups[best]) ? i : best), 0)];
  }
  return [last, 0];
}

function buildSamples() {
  collectColourings();
  list = new GroupList(byId("groups"), (i) => { view.group = i; refreshGroup(); });
  const steps = byId("step"), colours = byId("colour");
  steps.append(make("option", { value: -1, text: "all" }));
  report.samples.forEach((step, i) => steps.append(make("option", { value: i, text: String(step.step) })));
  colourings.forEach((kind, i) => colours.append(make("option", { value: i, text: kind.label })));
  for (const option of byId("filter").options) option.dataset.label = option.textContent;
  const restart = () => { view.group = 0; refreshStep(); };
  const goStep = (i) => { view.step = clamp(i, -1, report.samples.length - 1); restart(); };
  const goGroup = (i) => { view.group = clamp(i, 0, Math.max(0, visible.length - 1)); refreshGroup(); };
  const goColour = (i) => { colouring = colourings[i]; colours.value = String(i); refreshGroup(); };
  steps.addEventListener("change", () => goStep(Number(steps.value)));
  byId("step-back").addEventListener("click", () => goStep(Math.max(0, view.step - 1)));
  byId("step-on").addEventListener("click", () => goStep(view.step + 1));
  byId("filter").addEventListener("change", (event) => { view.filter = event.target.value; restart(); });
  byId("sort").addEventListener("change", (event) => { view.sort = event.target.value; restart(); });
  byId("search").addEventListener("input", (event) => { view.search = event.target.value; restart(); });
  byId("scale").addEventListener("change", (event) => { view.scale = event.target.value; refreshGroup(); });
  colours.addEventListener("change", () => goColour(Number(colours.value)));
  byId("spaces").addEventListener("change", (event) => byId("group").classList.toggle("plain-spaces", !event.target.checked));
  byId("groups").addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(byId("groups").clientHeight / ROW) - 1);
    const to = {
      ArrowUp: view.group - 1, ArrowDown: view.group + 1, ArrowLeft: view.group - 1, ArrowRight: view.group + 1,
      PageUp: view.group - page, PageDown: view.group + page, Home: 0, End: visible.length - 1,
    }[event.key];
    if (to !== undefined) { event.preventDefault(); goGroup(to); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "[") goStep(Math.max(0, view.step - 1));
    else if (event.key === "]") goStep(view.step + 1);
    else if (event.key === "j") goGroup(view.group + 1);
    else if (event.key === "k") goGroup(view.group - 1);
    else if (event.key === "c") goColour((colourings.indexOf(colouring) + 1) % colourings.length);
    else if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
    else if (event.key === "Escape") hideCard();
  });
  document.addEventListener("scroll", () => {
    // A scroll by a few pixels is the layout settling; the keyboard's own scrolling keeps its card.
    const moved = Math.abs(window.scrollY - Number(byId("card").dataset.scroll)) > 24;
    if (moved && !document.querySelector(".tokens:focus")) hideCard();
  }, { passive: true });
  [view.step, view.group] = mostTelling();
  refreshStep();
}
