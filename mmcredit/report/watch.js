// A page served by `mmcredit watch`: asks whether the run has written more, and then loads itself again in place.

const KEPT = "mmcredit-watch";

function keepPlace() {
  const kept = { scroll: window.scrollY };
  if (typeof view !== "undefined" && report.samples.length) {
    const group = visible[view.group];
    const newest = view.step === report.samples.length - 1;
    kept.view = { ...view, step: newest ? null : view.step, id: group ? group.id : null };
    kept.colour = colouring.key;
  }
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
}

function takePlace() {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
  sessionStorage.removeItem(KEPT);
  if (!kept) return;
  if (kept.view && report.samples.length) {
    const { id, step, ...rest } = kept.view;
    Object.assign(view, rest, { step: step === null ? report.samples.length - 1 : step });
    for (const [name, value] of [["filter", view.filter], ["sort", view.sort], ["search", view.search], ["scale", view.scale]]) byId(name).value = value;
    const kind = colourings.findIndex((k) => k.key === kept.colour);
    if (kind >= 0) { colouring = colourings[kind]; byId("colour").value = String(kind); }
    const place = chosenGroups(view).findIndex((group) => group.id === id);
    view.group = step === null ? 0 : Math.max(0, place);
    refreshStep();
  }
  window.scrollTo({ top: kept.scroll, behavior: "instant" });
}

async function ask() {
  const said = byId("watching");
  try {
    const answer = await fetch("/state", { cache: "no-store" });
    const { state } = await answer.json();
    said.textContent = "live";
    // Not under the hands of somebody who types or reads a token.
    const busy = /^(INPUT|SELECT)$/.test(document.activeElement.tagName) || !byId("card").hidden;
    if (state !== report.watch.state && !busy) {
      keepPlace();
      location.reload();
      return;
    }
  } catch {
    said.textContent = "the server has stopped";
  }
  setTimeout(ask, report.watch.seconds * 1000);
}

takePlace();
document.querySelector("nav").append(make("span", { id: "watching", class: "hint", role: "status", text: "live" }));
setTimeout(ask, report.watch.seconds * 1000);
