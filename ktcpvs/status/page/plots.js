// Plots of the last two minutes, each with its own axis from 0 to a round number above its highest value.

import { element, setAttribute, setText } from "./dom.js";
import { NOTHING } from "./format.js";

export const PERIOD = 120; // seconds that the plots show
const GAP = 12; // seconds without a sample after which the line is interrupted
const HEIGHT = 100;
const SVG = "http://www.w3.org/2000/svg";

// The next of 1, 2, 5, 10, 20, ... times `unit`.
function round(value, unit) {
  let size = unit;
  while (size * 10 <= value) size *= 10;
  return [1, 2, 5, 10].map((factor) => factor * size).find((top) => top >= value) || size * 10;
}

// The end of an axis of sizes: round in KiB, MiB, ...
function roundBytes(value) {
  let unit = 1;
  while (value > unit * 500 && unit < 2 ** 40) unit *= 1024;
  return unit === 1 ? round(value, 100) : round(value, unit);
}

export const AXES = {
  rate: (value) => round(value, 1),
  count: (value) => round(value, 2),
  duration: (value) => round(value, 0.001),
  bytes: roundBytes,
};

function svgElement(name, properties) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
  return made;
}

// One plot. lines: [name of the sample's field, label] of each; axis: one of AXES; write: a value as text; mark: a value
// of the axis as text.
export class Plot {
  constructor(label, lines, axis, write, mark = write) {
    this.label = label;
    this.lines = lines;
    this.axis = axis;
    this.write = write;
    this.mark = mark;
    this.svg = svgElement("svg", { viewBox: `0 0 ${PERIOD} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    for (const share of [0, 0.5, 1]) {
      this.svg.append(svgElement("line", { x1: 0, x2: PERIOD, y1: share * HEIGHT, y2: share * HEIGHT, class: "grid" }));
    }
    this.paths = lines.map((_, place) => svgElement("path", { class: `line-${place + 1}` }));
    this.svg.append(...this.paths);
    this.values = lines.map(([, name], place) => element("b", { class: `value-${place + 1}` }));
    const values = element("span", { class: "values" });
    lines.forEach(([, name], place) => values.append(element("span", {}, name ? `${name} ` : "", this.values[place])));
    this.marks = [element("span"), element("span"), element("span", {}, "0")];
    this.element = element("figure", {}, element("figcaption", {}, element("span", {}, label), values),
      element("div", { class: "plot" }, element("div", { class: "marks", "aria-hidden": "true" }, ...this.marks), this.svg),
      element("div", { class: "times", "aria-hidden": "true" }, element("span", {}, `${PERIOD / 60} min ago`), element("span", {}, "now")));
  }

  // samples: objects with `time` in seconds, the oldest first.
  draw(samples, now) {
    const values = samples.flatMap((sample) => this.lines.map(([name]) => sample[name])).filter((value) => value !== null);
    const highest = Math.max(0, ...values);
    const top = this.axis(highest);
    setText(this.marks[0], this.mark(top));
    setText(this.marks[1], this.mark(top / 2));
    const told = [];
    this.lines.forEach(([name, label], place) => {
      setAttribute(this.paths[place], "d", path(samples, name, now, top));
      const value = samples.length ? samples[samples.length - 1][name] : null;
      const last = value === null ? NOTHING : this.write(value);
      setText(this.values[place], last);
      told.push(`${label ? `${label} ` : ""}${last} now`);
    });
    setAttribute(this.svg, "aria-label", `${this.label}: ${told.join(", ")}, at most ${this.write(highest)} in ${PERIOD / 60} minutes`);
  }
}

function path(samples, name, now, top) {
  let text = "";
  let before = -Infinity;
  for (const sample of samples) {
    const value = sample[name];
    if (value === null) {
      before = -Infinity;
      continue;
    }
    const x = (PERIOD - (now - sample.time)).toFixed(1);
    const y = (HEIGHT * (1 - value / top)).toFixed(1);
    // A sample between two gaps is drawn as a dot: a line to itself, with a round end.
    text += sample.time - before > GAP ? `M${x} ${y}L${x} ${y}` : `L${x} ${y}`;
    before = sample.time;
  }
  return text;
}
