// Heat maps: for a token, how much its log-prob falls when a cell of the first image is hidden.

const heatMaps = (report.heat && report.heat.maps) || {};
const heatOf = (group, member) => heatMaps[`${group.step}/${member.member}/${group.id}`];

// A picture with a canvas over it.
function heatPicture(picture) {
  const canvas = make("canvas", { class: "heat", "aria-hidden": "true" });
  return make("div", { class: "picture" }, picture, canvas);
}

function showHeat(map, i) {
  const canvas = document.querySelector(".picture .heat");
  if (!canvas || !map) return;
  const values = map.values[i];
  const most = values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  canvas.width = map.columns * 16;
  canvas.height = map.rows * 16;
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colours = { up: style.getPropertyValue("--up").trim(), down: style.getPropertyValue("--down").trim() };
  values.forEach((value, cell) => {
    const strength = most > 0 ? Math.abs(value) / most : 0;
    context.fillStyle = `rgb(${colours[value > 0 ? "up" : "down"]} / ${(0.8 * strength).toFixed(3)})`;
    context.fillRect((cell % map.columns) * 16, Math.floor(cell / map.columns) * 16, 16, 16);
  });
  const words = byId("heat-words");
  if (words) words.textContent = `Blue: the token's log-prob falls when the cell is hidden, by up to ${formatNumber(Math.max(0, ...values))}; orange: it rises, by up to ${formatNumber(Math.max(0, ...values.map((v) => -v)))}.`;
}

function clearHeat() {
  const canvas = document.querySelector(".picture .heat");
  if (canvas) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}
