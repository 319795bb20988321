// Replay: pick a group, see each response once per method, its tokens coloured by that method's credit.

const kinds = report.methods.map((label, i) => ({
  key: "advantage", label, read: i === 0 ? (m) => m.advantage : (m) => m.signals[label], centre: 0, ranges: new Map(),
}));
const view = { group: 0, scale: "own", shown: new Set(report.methods) };
const everyResponse = everyMember();

// The range of a method's colours: to its own 99th percentile, or to the largest one of all methods.
function rangeFor(kind) {
  const own = rangeOf(kind, everyResponse, "page");
  if (view.scale === "own") return own;
  const spreads = kinds.map((k) => rangeOf(k, everyResponse, "page")).filter((r) => !r.flat).map((r) => r.spread);
  return { ...own, spread: spreads.length ? Math.max(...spreads) : 1 };
}

function showScale() {
  colouring = kinds[0];
  drawLegend(rangeFor(kinds[0]));
  byId("legend").querySelector(".name").textContent = "credit";
  if (view.scale === "own") {
    const ends = byId("legend").querySelectorAll(".scale > span:not(.ramp)");
    ends[0].textContent = "− the method's own scale";
    ends[1].textContent = "+";
  }
}

function creditRow(member, kind) {
  colouring = kind;
  const range = rangeFor(kind);
  // The card calls the reference's credit "advantage".
  const row = tokenRow(member, range, `response ${member.member}, credit of ${kind.label}`, () => { byId("card").querySelectorAll("th")[1].textContent = report.methods[0]; });
  const scale = range.flat && view.scale === "own" ? "no credit" : `± ${formatNumber(range.spread)}`;
  const label = make("div", { class: "method" }, make("b", { text: kind.label }), make("small", { text: scale }));
  return make("div", { class: "credit", "data-method": kind.label }, label, row);
}

function responseNode(member) {
  const head = responseHead(member);
  const rows = kinds.filter((kind) => view.shown.has(kind.label)).map((kind) => creditRow(member, kind));
  return make("article", { class: isRight(member) ? "response yes" : "response no" }, head, ...rows);
}

function refreshGroup() {
  hideCard();
  const list = byId("groups"), group = report.groups[view.group];
  [...list.children].forEach((node, i) => node.setAttribute("aria-selected", String(i === view.group)));
  list.setAttribute("aria-activedescendant", `group-${view.group}`);
  const entry = byId(`group-${view.group}`);
  const top = entry.getBoundingClientRect().top - list.getBoundingClientRect().top + list.scrollTop; // whatever is positioned
  list.scrollTop = clamp(list.scrollTop, top + entry.offsetHeight - list.clientHeight, top);
  const prompt = make("div", { class: "prompt" });
  for (const place of group.media) {
    const uri = report.media[place];
    if (uri === null) {
      prompt.append(make("p", { class: "notice", text: "image missing" }));
      continue;
    }
    const picture = make("img", { src: uri, alt: `image of ${group.id}` });
    picture.addEventListener("load", () => picture.classList.toggle("small", Math.max(picture.naturalWidth, picture.naturalHeight) <= 128));
    prompt.append(picture);
  }
  prompt.append(
    make("p", { class: "question", text: group.question }),
    make("p", { class: "answer" }, "answer ", make("b", { text: group.answer === null ? "–" : group.answer })),
    make("p", { class: "hint", text: `${group.id} · step ${group.step}` }),
  );
  showScale();
  byId("group").replaceChildren(prompt, make("div", { class: "responses" }, ...group.members.map(responseNode)));
}

function buildReplay() {
  const list = byId("groups");
  report.groups.forEach((group, i) => {
    const rewards = group.members.map((member) => formatNumber(member.reward)).join(" ");
    list.append(make(
      "div",
      { class: "entry", role: "option", id: `group-${i}`, onclick: () => { view.group = i; refreshGroup(); } },
      make("span", { class: "q", text: titleOf(group), title: group.question || group.id }),
      make("span", { class: "row" }, make("span", { text: `rewards ${rewards}` }), make("span", { text: `step ${group.step}` })),
    ));
  });
  const go = (i) => { view.group = clamp(i, 0, report.groups.length - 1); refreshGroup(); };
  const shown = byId("shown");
  for (const label of report.methods) {
    const box = make("input", { type: "checkbox", checked: true, value: label });
    box.addEventListener("change", () => { view.shown[box.checked ? "add" : "delete"](label); refreshGroup(); });
    shown.append(make("label", {}, box, label));
  }
  byId("scale").addEventListener("change", (event) => { view.scale = event.target.value; refreshGroup(); });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowUp: -1, ArrowDown: 1, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move) { event.preventDefault(); go(view.group + move); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") go(view.group + 1);
    else if (event.key === "k") go(view.group - 1);
    else if (event.key === "Escape") hideCard();
  });
  document.addEventListener("scroll", () => {
    const moved = Math.abs(window.scrollY - Number(byId("card").dataset.scroll)) > 24;
    if (moved && !document.querySelector(".tokens:focus")) hideCard();
  }, { passive: true });
  refreshGroup();
}

if (report.groups.length) buildReplay();
document.documentElement.dataset.ready = "true";
