// One response: right or wrong, its numbers, its tokens, what verifiers flagged in it.

const allRewards = everyMember().map((member) => member.reward).filter((reward) => reward !== null);
const middleReward = (allRewards.reduce((a, b) => Math.min(a, b), Infinity) + allRewards.reduce((a, b) => Math.max(a, b), -Infinity)) / 2;
const oneReward = allRewards.every((reward) => reward === allRewards[0]);

// Right: the part that the run evaluates by is above 1/2; without such a part, the reward is above the middle of all.
function isRight(member) {
  if (report.right_part !== null && report.right_part in member.parts) return member.parts[report.right_part] > 0.5;
  return oneReward ? member.reward > 0 : member.reward > middleReward;
}

function responseHead(member, ...more) {
  const right = isRight(member);
  return make(
    "header",
    {},
    make("span", { class: right ? "badge yes" : "badge no", text: right ? "✓ right" : "✗ wrong" }),
    make("span", { class: "reward" }, "reward ", make("b", { text: formatNumber(member.reward) })),
    ...Object.entries(member.parts).map(([name, value]) => make("span", { class: "part", text: `${name} ${formatNumber(value)}` })),
    make("span", { class: "part", text: `${member.pieces.length} tokens` }),
    ...more,
    member.truncated ? make("span", { class: "badge cut", text: "✂ cut off" }) : null,
    make("span", { class: "number", text: `#${member.member}` }),
  );
}

// The tokens of a response; `select(node, i)` is called for the one that the pointer or the arrow keys are at.
function tokenRow(member, range, label, select) {
  const body = make("div", { class: "tokens", tabindex: 0, role: "group", "aria-label": label }, ...tokenNodes(member, range));
  if (!member.pieces.length) body.append(make("span", { class: "mark", text: "empty response" }));
  const chosen = (node) => {
    hideCard();
    node.classList.add("current");
    showCard(node, member, Number(node.dataset.i));
    if (select) select(Number(node.dataset.i));
  };
  for (const kind of ["pointerover", "click"]) {
    body.addEventListener(kind, (event) => {
      const node = event.target.closest(".token");
      if (node) chosen(node);
    });
  }
  body.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideCard(); });
  body.addEventListener("blur", hideCard);
  walkTokens(body, chosen);
  return body;
}

// Token -> what verifiers flagged there.
function flagsOf(member) {
  const found = new Map();
  for (const verdict of member.verdicts || []) {
    for (const span of verdict.spans) {
      for (const [start, end] of span.tokens) {
        for (let i = start; i < end; i++) found.set(i, [...(found.get(i) || []), `${verdict.verifier}: ${span.text}`]);
      }
    }
  }
  return found;
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
    { class: verdict.spans.length ? "finding flagged" : "finding" },
    make("span", { class: "part", text: `${verdict.verifier}: ${status}` }),
    lines.length ? make("ul", {}, ...lines) : null,
    verdict.detail ? make("details", {}, make("summary", { text: "what it said" }), make("pre", { text: verdict.detail })) : null,
  );
}

// In a list, what all questions begin with says nothing: it is left out, up to a word's beginning.
const sharedStart = (() => {
  const questions = (report.groups || report.samples.flatMap((step) => step.groups)).map((group) => group.question || "");
  const [low, high] = questions.reduce(([a, b], q) => [q < a ? q : a, q > b ? q : b], [questions[0] || "", questions[0] || ""]);
  let length = 0;
  while (length < low.length && low[length] === high[length]) length += 1;
  length = low === high ? 0 : low.lastIndexOf(" ", length - 1) + 1;
  return length >= 24 ? length : 0;
})();

function titleOf(group) {
  const question = group.question || group.id;
  return sharedStart ? `… ${question.slice(sharedStart)}` : question;
}

function creditOf(member) {
  return member.pieces.map((_, i) => (valueAt(member.mask, i) ? valueAt(member.advantage, i) : null)).filter((v) => v !== null);
}

function spanOf(member) {
  const values = creditOf(member);
  if (!values.length) return "–";
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  return low === high ? formatNumber(low) : `${formatNumber(low)} … ${formatNumber(high)}`;
}
