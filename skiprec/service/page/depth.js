// What a request cost: the strip of blocks that ran, and the time of each part.
import { element } from "./dom.js";

const PARTS = ["policy", "blocks", "head"];
const MOST_IN_A_LINE = 32;

// "1 to 4, 7", counted from 1.
export function asRanges(kept) {
  const ranges = [];
  for (const block of kept) {
    const last = ranges.at(-1);
    if (last && last[1] === block - 1) last[1] = block;
    else ranges.push([block, block]);
  }
  return ranges.map(([a, b]) => (a === b ? `${a + 1}` : `${a + 1} to ${b + 1}`)).join(", ");
}

export function strip(kept, numBlocks) {
  const ran = new Set(kept);
  const text = kept.length ? `: ${asRanges(kept)}` : "";
  const cells = Array.from({ length: numBlocks }, (_, block) =>
    element("i", { class: ran.has(block) ? "ran" : null }),
  );
  const label = `${kept.length} of ${numBlocks} blocks ran${text}`;
  const style = `grid-template-columns: repeat(${Math.min(numBlocks, MOST_IN_A_LINE)}, minmax(0, 1.5rem))`;
  return element("div", { class: "strip", role: "img", "aria-label": label, style }, ...cells);
}

function asMs(ms) {
  return `${ms < 1 ? ms.toFixed(3) : ms.toFixed(2)} ms`;
}

function sumOf(ms) {
  return PARTS.reduce((sum, part) => sum + ms[part], 0);
}

function bar(ms, longest) {
  const bars = PARTS.map((part) =>
    // Shares that sum to less than 1 would not fill the bar.
    element("i", { class: part, style: `flex: ${1e6 * ms[part]}`, title: `${part} ${asMs(ms[part])}` }),
  );
  const width = `width: ${(100 * sumOf(ms)) / longest}%`;
  return element("div", { class: "time-bar", style: width }, ...bars);
}

function row(name, ms, longest) {
  const parts = PARTS.map((part) => `${part} ${asMs(ms[part])}`).join(", ");
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    element("td", {}, bar(ms, longest), element("span", { class: "unseen" }, parts)),
    element("td", { class: "length" }, asMs(sumOf(ms))),
  );
}

// A table with two bars: this request, and the same with all blocks.
export function times(own, all) {
  const longest = Math.max(sumOf(own), sumOf(all));
  const legend = PARTS.map((part) => element("span", {}, element("i", { class: part }), part));
  return element(
    "div",
    {},
    element(
      "table",
      { class: "times" },
      element("caption", { class: "unseen" }, "Time of each part"),
      element("tbody", {}, row("this share", own, longest), row("all blocks", all, longest)),
    ),
    element("p", { class: "legend quiet" }, ...legend),
    element("p", {}, `${(sumOf(all) / sumOf(own)).toFixed(1)} times as fast as all blocks.`),
  );
}
