"use strict";
// What all parts of the page use. Every text from the run goes through textContent: nothing is parsed as HTML.

const report = JSON.parse(document.getElementById("report-data").textContent);

const byId = (id) => document.getElementById(id);

// Characters that turn the direction of the text around them are written by their number.
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => text.replace(TURNS, (c) => "⟨U+" + c.codePointAt(0).toString(16).toUpperCase() + "⟩");

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") node.className = value;
    else if (key === "text") node.textContent = plain(String(value));
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "text") node.textContent = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

// Sorted finite numbers -> the value below which `share` of them lie.
function quantile(sorted, share) {
  return sorted.length ? sorted[clamp(Math.round(share * (sorted.length - 1)), 0, sorted.length - 1)] : 0;
}

// What scrolls can be scrolled by keyboard: it takes the focus where, and only where, not all of it fits.
function markScrolling() {
  for (const node of document.querySelectorAll(".scroll, pre, .tokens")) {
    const style = getComputedStyle(node);
    const cut = (way, more) => ["auto", "scroll"].includes(way) && more > 1;
    const needed = cut(style.overflowX, node.scrollWidth - node.clientWidth) || cut(style.overflowY, node.scrollHeight - node.clientHeight);
    if (needed && !node.hasAttribute("tabindex")) {
      const heading = node.closest("section, article, .example, details")?.querySelector("h1, h2, h3, summary");
      node.tabIndex = 0;
      node.dataset.scrolls = "true";
      if (!node.ariaLabel) {
        node.setAttribute("role", "region");
        node.ariaLabel = node.querySelector("caption")?.textContent || heading?.textContent || "scrolls";
      }
    } else if (!needed && node.dataset.scrolls) {
      node.removeAttribute("tabindex");
      delete node.dataset.scrolls;
    }
  }
}
addEventListener("load", () => {
  markScrolling();
  new ResizeObserver(markScrolling).observe(document.body);
});
