import { html, number, svg, uniqueId } from "./dom.js";
import { concise } from "./tokens.js";
import { verdict } from "./verdict.js";

const HEIGHT = 220;
const EDGE = { left: 8, right: 8, top: 10, bottom: 30 };
const LABELS = 6;
const ROW = 19;
const NARROW = 480;

/**
 * The neuron's projection onto the vocabulary, the selected channel's over it, tails named. While the
 * solver climbs, the channel is the point where it is.
 */
export function histogramView(store) {
  const figure = html("figure", { class: "rotate-figure rotate-histogram" });
  const redraw = ({ shown, selected, climb, info }) => {
    const width = Math.max(figure.clientWidth, 280);
    if (!shown) return figure.replaceChildren();
    const channel = shown.channels[selected];
    const over = climb ?? (channel && { ...channel, look: verdict(channel, shown, info.significant), label: `channel ${selected + 1}` });
    return figure.replaceChildren(...draw(shown, over, width));
  };
  store.watch((state, before) => {
    if (state.shown !== before.shown || state.selected !== before.selected || state.climb !== before.climb) redraw(state);
  });
  let width = 0;
  new ResizeObserver(() => {
    if (figure.clientWidth === width) return;
    width = figure.clientWidth;
    redraw(store.state);
  }).observe(figure);
  return figure;
}

/** Drawn to the figure's own width, so that letters keep their size on a phone. */
function draw(neuron, over, width) {
  const all = over ? [neuron.histogram, over.histogram] : [neuron.histogram];
  const [low, high] = range(all);
  const most = Math.log1p(Math.max(...all.flatMap((h) => h.counts)));
  const x = (z) => EDGE.left + ((z - low) / (high - low)) * (width - EDGE.left - EDGE.right);
  const y = (count) => HEIGHT - EDGE.bottom - (Math.log1p(count) / most) * (HEIGHT - EDGE.top - EDGE.bottom);

  const [positive, negative] = named(neuron, over, width < NARROW ? 4 : LABELS);
  const description =
    `Histogram of z-scores over the vocabulary. Excess kurtosis of the neuron ${number(neuron.kurtosis, 1)}` +
    (over ? `, of ${over.label} ${number(over.kurtosis, 1)}. ` : ". ") +
    `Highest tokens of ${over ? over.label : "the neuron"}: ${list(positive)}. Lowest: ${list(negative)}.`;
  const hatch = uniqueId("hatch");
  const chart = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": description },
    hatching(hatch),
    ...axis(low, high, x, width),
    svg("path", { class: "rotate-bars", d: area(neuron.histogram, x, y) }),
    over && svg("path", { class: `rotate-outline rotate-${over.look}`, d: area(over.histogram, x, y), fill: over.look === "untested" && `url(#${hatch})` }),
    ...names(positive, x, width, +1),
    ...names(negative, x, width, -1),
  );
  const caption = html(
    "figcaption",
    {},
    html("span", { class: "rotate-key rotate-key-neuron" }, `neuron, kurtosis ${number(neuron.kurtosis, 1)}`),
    over && html("span", { class: `rotate-key rotate-look rotate-${over.look}` }, `${over.label}, kurtosis ${number(over.kurtosis, 1)}`),
    html("span", { class: "rotate-muted" }, "tokens by z-score, counts on a log scale"),
    html("span", { class: "rotate-side" }, sideInWords(neuron)),
  );
  return [chart, caption];
}

/** From five to five, so that the axis stands still while a tail grows. */
function range(histograms) {
  const low = Math.min(-5, ...histograms.map((h) => h.from));
  const high = Math.max(5, ...histograms.map((h) => h.from + h.step * h.counts.length));
  return [5 * Math.floor(low / 5) - 0.5, 5 * Math.ceil(high / 5) + 0.5];
}

/** What the neuron does with its own furthest tokens, by the side that they are on. */
export function sideInWords({ kind, positive, negative }) {
  const [up, down] = [positive[0]?.[1] ?? 0, -(negative[0]?.[1] ?? 0)];
  const words = (up >= down ? positive : negative).slice(0, 3).map(([token]) => concise(token)).join(" ");
  if (!words) return "";
  if (kind === "out") return `Active, it writes ${up >= down ? "towards" : "against"} ${words}.`;
  return `Its furthest tokens, ${words}, are on its ${up >= down ? "positive" : "negative"} side.`;
}

/** The tokens to name: the channel's on its heavy side, or the neuron's on both. */
function named(neuron, over, most) {
  if (!over) return [neuron.positive.slice(0, most), neuron.negative.slice(0, most)];
  const side = (sign) => over.top.filter(([, z]) => sign * z > 0).slice(0, most);
  return [side(+1), side(-1)];
}

const list = (tokens) => tokens.map(([token, z]) => `${concise(token)} ${number(z, 1)}`).join(", ") || "none";

/** A filled outline of the bins. */
function area({ from, step, counts }, x, y) {
  const points = [`M${x(from)},${y(0)}`];
  counts.forEach((count, i) => {
    points.push(`V${y(count).toFixed(1)}`, `H${x(from + (i + 1) * step).toFixed(1)}`);
  });
  return `${points.join("")}V${y(0)}Z`;
}

function hatching(id) {
  const line = svg("line", { class: "rotate-hatch", x1: 0, y1: 0, x2: 0, y2: 7 });
  return svg("pattern", { id, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, line);
}

function axis(low, high, x, width) {
  const step = [1, 2, 5, 10, 20, 50].find((s) => (high - low) / s <= width / 45) ?? 100;
  const base = HEIGHT - EDGE.bottom;
  const marks = [svg("line", { class: "rotate-axis", x1: EDGE.left, x2: width - EDGE.right, y1: base, y2: base })];
  for (let z = Math.ceil(low / step) * step; z <= high; z += step) {
    marks.push(svg("text", { class: "rotate-tick", x: x(z), y: base + 18 }, number(z, 0)));
  }
  return marks;
}

/** Names above the tail, the outermost lowest, each with a line down to its place on the axis. */
function names(tokens, x, width, sign) {
  const base = HEIGHT - EDGE.bottom;
  return tokens.flatMap(([token, z], i) => {
    const top = base - 14 - ROW * i;
    const anchor = sign > 0 ? Math.min(x(z) + 4, width - 4) : Math.max(x(z) - 4, 4);
    return [
      svg("line", { class: "rotate-leader", x1: x(z), x2: x(z), y1: base, y2: top + 2 }),
      svg("text", { class: "rotate-name", x: anchor, y: top, "text-anchor": sign > 0 ? "end" : "start" }, shorten(concise(token))),
    ];
  });
}

const shorten = (text) => (text.length > 16 ? `${text.slice(0, 15)}…` : text);
