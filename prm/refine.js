// Traces: search and filter.
const traces = [...document.querySelectorAll(".trace")];
const words = traces.map((trace) => trace.textContent.toLowerCase());

function showTraces() {
  const wanted = byId("find").value.trim().toLowerCase(), which = byId("which").value;
  const [kind, name] = which.split(/:(.*)/s);
  let count = 0;
  traces.forEach((trace, i) => {
    const fits = which === "all" || (name === undefined ? trace.dataset.cut === kind : trace.dataset[kind] === name);
    trace.hidden = !fits || !words[i].includes(wanted);
    count += trace.hidden ? 0 : 1;
  });
  byId("shown").value = count ? `${count} shown` : "No such trace";
}

if (byId("find")) {
  byId("find").addEventListener("input", showTraces);
  byId("which").addEventListener("change", showTraces);
}
document.documentElement.dataset.ready = "true";
