// The list of groups: all steps or one, searched, filtered, sorted. Only entries in sight are in the document.

const ROW = 76; // pixels of an entry, as in page.css
const everyGroup = report.samples.flatMap((step, place) => step.groups.map((group) => Object.assign(group, { step: step.step, place })));
for (const group of everyGroup) {
  group.right = group.members.filter(isRight).length;
  group.credit = group.members.reduce((most, member) => Math.max(most, ...creditOf(member).map(Math.abs)), 0);
  group.reward = group.members.reduce((sum, m) => sum + (m.reward ?? 0), 0) / Math.max(1, group.members.length);
  group.length = group.members.reduce((sum, m) => sum + m.pieces.length, 0) / Math.max(1, group.members.length);
}
const highCredit = quantile(everyGroup.map((group) => group.credit).sort((a, b) => a - b), 0.9);

function kindOf(group) {
  return group.right === 0 ? "wrong" : group.right === group.members.length ? "right" : "mixed";
}

const FILTERS = {
  all: () => true,
  truncated: (group) => group.members.some((m) => m.truncated),
  flagged: (group) => group.members.some((m) => (m.verdicts || []).some((v) => v.spans.length)),
  credit: (group) => group.credit > 0 && group.credit >= highCredit,
  heat: (group) => group.members.some((m) => heatOf(group, m)),
};

function passes(group, filter) {
  return FILTERS[filter] ? FILTERS[filter](group) : kindOf(group) === filter;
}

const SORTS = {
  step: null,
  credit: (a, b) => b.credit - a.credit,
  "reward-high": (a, b) => b.reward - a.reward,
  "reward-low": (a, b) => a.reward - b.reward,
  length: (a, b) => b.length - a.length,
};

// The text that the search looks through, made when it is first needed.
function textOf(group) {
  if (group.text === undefined) {
    group.text = [group.id, group.question, group.answer, ...group.members.map((m) => m.text ?? m.pieces.join(""))].join("\n").toLowerCase();
  }
  return group.text;
}

function chosenGroups(view) {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = everyGroup.filter(
    (group) => (view.step < 0 || group.place === view.step) && passes(group, view.filter) && words.every((word) => textOf(group).includes(word)),
  );
  if (SORTS[view.sort]) found.sort(SORTS[view.sort]);
  return found;
}

class GroupList {
  constructor(root, choose) {
    this.root = root;
    this.choose = choose;
    this.groups = [];
    this.selected = 0;
    this.field = make("div", { class: "field", role: "presentation" });
    root.replaceChildren(this.field);
    root.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  show(groups, selected) {
    this.groups = groups;
    this.field.style.height = `${groups.length * ROW}px`;
    this.select(selected);
  }

  select(i) {
    this.selected = i;
    const top = i * ROW;
    this.root.scrollTop = clamp(this.root.scrollTop, top + ROW - this.root.clientHeight, top);
    if (this.groups.length) this.root.setAttribute("aria-activedescendant", `group-${i}`);
    else this.root.removeAttribute("aria-activedescendant");
    this.draw();
  }

  draw() {
    if (!this.groups.length) {
      this.field.replaceChildren(make("p", { class: "empty", text: "No such group here." }));
      this.field.style.height = "auto";
      return;
    }
    const first = Math.max(0, Math.floor(this.root.scrollTop / ROW) - 4);
    const last = Math.min(this.groups.length, Math.ceil((this.root.scrollTop + this.root.clientHeight) / ROW) + 4);
    const nodes = [];
    for (let i = first; i < last; i++) nodes.push(this.entry(i));
    this.field.replaceChildren(...nodes);
  }

  entry(i) {
    const group = this.groups[i];
    const dots = make("span", { class: "dots", "aria-hidden": "true" }, ...group.members.slice(0, 8).map((m) => make("i", { class: isRight(m) ? "yes" : "no" })));
    const node = make(
      "div",
      {
        class: "entry", role: "option", id: `group-${i}`, "aria-selected": String(i === this.selected),
        "aria-setsize": this.groups.length, "aria-posinset": i + 1, onclick: () => this.choose(i),
      },
      make("span", { class: "q", text: titleOf(group), title: group.question || group.id }),
      make("span", { class: "row" }, dots, make("span", { text: `${group.right}/${group.members.length} right, step ${group.step}` })),
    );
    node.style.top = `${i * ROW}px`;
    return node;
  }
}
