// What `page_looks.py` asks of a page. Put into it by the browser's debugger, not part of it.
globalThis.looks = {
  // What a person can act on, as the page shows it now; the walk by Tab must come to all of it.
  reachable() {
    const all = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']");
    const shown = (e) => !e.disabled && e.tabIndex >= 0 && e.checkVisibility({ visibilityProperty: true });
    return [...all].filter((e) => shown(e) && !(e.type === "radio" && !e.checked));
  },

  // Text whose contrast with what lies behind it is below WCAG 2.2 AA (1.4.3): 4.5, large text 3. Grounds and opacity are
  // put together from the outermost in; text over an image or a pattern is not judged.
  faint() {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const known = new Map();
    const rgba = (colour) => {
      if (!known.has(colour)) {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        known.set(colour, [r, g, b, a / 255]);
      }
      return known.get(colour);
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
    const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    // Element -> [what lies behind its text, opacity, whether a picture or a pattern is part of it].
    const grounds = new Map();
    const groundOf = (e) => {
      if (!e) return [[255, 255, 255], 1, false];
      if (!grounds.has(e)) {
        const style = getComputedStyle(e), [behind, opacity, picture] = groundOf(e.parentElement);
        const own = over(rgba(style.backgroundColor), behind);
        grounds.set(e, [own, opacity * Number(style.opacity), picture || style.backgroundImage !== "none"]);
      }
      return grounds.get(e);
    };
    const bad = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const words = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
      if (!words || e.closest("script, style, [aria-hidden=true], option, :disabled")) continue;
      if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const [behind, opacity, picture] = groundOf(e), style = getComputedStyle(e);
      const [r, g, b, a] = rgba(e.closest("svg") ? style.fill : style.color);
      const [high, low] = [light(over([r, g, b, a * opacity], behind)), light(behind)].sort((x, y) => y - x);
      const ratio = (high + 0.05) / (low + 0.05), size = Number.parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (picture || ratio >= (large ? 3 : 4.5)) continue;
      const place = `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""}`;
      if (!bad.has(place)) bad.set(place, `${place} ${ratio.toFixed(2)} ${JSON.stringify(words.slice(0, 30))}`);
    }
    return [...bad.values()];
  },

  // Controls and pictures without a name, and what scrolls but not by keyboard.
  unnamed() {
    const bad = [];
    const say = (e, what) => bad.push(`${what}: ${e.outerHTML.slice(0, 90)}`);
    const labelled = (e) => e.closest("[aria-label], [aria-labelledby], [aria-hidden=true]");
    for (const e of document.querySelectorAll("img:not([alt])")) say(e, "image without alt");
    for (const e of document.querySelectorAll("svg")) if (!labelled(e)) say(e, "drawing without a label");
    for (const e of document.querySelectorAll("input, select, button, textarea, [tabindex='0']")) {
      const named = e.labels?.length || e.ariaLabel || e.getAttribute("aria-labelledby") || e.title;
      if (!named && !(e.tagName === "BUTTON" && e.textContent.trim())) say(e, "control without a name");
    }
    for (const e of document.querySelectorAll("body *")) {
      const style = getComputedStyle(e);
      const scrolls = (way, more) => ["auto", "scroll"].includes(way) && more > 1;
      const across = scrolls(style.overflowX, e.scrollWidth - e.clientWidth);
      if (!across && !scrolls(style.overflowY, e.scrollHeight - e.clientHeight)) continue;
      const inside = "a[href], button, input, select, summary, [tabindex='0']";
      if (e.tabIndex < 0 && !e.querySelector(inside)) say(e, "scrolls, and not by keyboard");
    }
    return [...new Set(bad)];
  },

  // Where the focus is: its place among `toReach`, whether one sees it, what it is on.
  focus() {
    const e = document.activeElement, style = getComputedStyle(e);
    const marked = style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) > 0;
    return [globalThis.toReach.indexOf(e), marked, e.outerHTML.slice(0, 90)];
  },
};
