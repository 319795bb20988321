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
